//! Installing what is missing on a Debian machine.

use std::process::Stdio;

use anyhow::Context;
use tokio::process::Command;

use crate::{
    engine::find_program,
    failure::{Exit, Failure},
    paths::is_root,
    ui::Ui,
};

/// Installs packages without what they merely recommend; says which first.
pub(crate) async fn install(ui: &Ui, packages: &[&str]) -> anyhow::Result<()> {
    let list = packages.join(" ");
    let by_hand = format!("install by hand: {list}");
    let Some(apt) = find_program("apt-get") else {
        return Err(Failure::new(Exit::Environment, format!("{list} is missing"))
            .why("this machine has no apt-get to install it with")
            .fix(by_hand)
            .into());
    };
    if !is_root() {
        return Err(Failure::new(Exit::Environment, format!("{list} is missing"))
            .why("installing packages needs root")
            .fix(format!("run as root: apt-get install --no-install-recommends {list}"))
            .into());
    }
    let task = ui.start(format!("apt-get install {list}"));
    let result = async {
        run(&apt, &["update"]).await?;
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend(packages);
        run(&apt, &arguments).await
    }
    .await
    .map_err(|error| {
        anyhow::Error::from(
            Failure::new(Exit::Environment, format!("{list} could not be installed"))
                .why(format!("{error:#}"))
                .fix(by_hand),
        )
    });
    task.ends(result, |()| "installed".to_owned())
}

async fn run(apt: &std::path::Path, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(apt)
        .args(["-o", "Dpkg::Lock::Timeout=120", "-o", "Acquire::Retries=3"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("{} could not be run", apt.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::bail!("apt-get {} ended with {}: {}", arguments.join(" "), output.status, error.trim())
}
