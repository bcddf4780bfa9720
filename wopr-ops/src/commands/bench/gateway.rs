//! `bench gateway`: how much the inference gateway adds to a call.
//!
//! The load, the upstream and the bare pass-through are `wopr-bench`, a program apart: it makes tenants through `wopr-core`,
//! which this one does without.

use std::process::Stdio;

use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::{
    cli::{BenchGatewayArgs, BenchSoakArgs},
    failure::{Exit, Failure},
    images::{
        binaries::{self, Profile},
        recipes,
    },
    paths::Paths,
    ui::Ui,
};

const BENCH: recipes::Binary = recipes::Binary { package: "wopr-bench", name: "wopr-bench" };

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &BenchGatewayArgs) -> anyhow::Result<()> {
    let mut options = options(&[
        ("--seconds", args.seconds),
        ("--rounds", args.rounds),
        ("--connections", args.connections),
        ("--rate", args.rate),
    ]);
    options.extend(args.peer.iter().flat_map(|peer| ["--peer".to_owned(), peer.clone()]));
    bench(ui, paths, args.profile, &args.database, "gateway", options).await
}

/// `bench soak`: how much memory it takes over a long time.
pub(crate) async fn soak(ui: &Ui, paths: &Paths, args: &BenchSoakArgs) -> anyhow::Result<()> {
    let options = options(&[("--minutes", args.minutes), ("--away", args.away), ("--rate", args.rate)]);
    bench(ui, paths, args.profile, &args.database, "soak", options).await
}

fn options(numbers: &[(&str, u64)]) -> Vec<String> {
    numbers.iter().flat_map(|(option, value)| [(*option).to_owned(), value.to_string()]).collect()
}

async fn bench(
    ui: &Ui,
    paths: &Paths,
    profile: Profile,
    database: &str,
    what: &str,
    options: Vec<String>,
) -> anyhow::Result<()> {
    let api = recipes::API.source();
    let built = binaries::compile(ui, paths, &[api, BENCH], profile).await?;
    let executable = |name: &str| built.get(name).map(|built| &built.executable).context("a program was not compiled");
    let mut command = Command::new(executable(BENCH.name)?);
    command.arg(what).arg("--program").arg(executable(api.name)?).args(options);
    // In the environment, where other users of this machine do not see the password.
    command.env("WOPR_TEST_DATABASE_URL", database).kill_on_drop(true).stdout(Stdio::piped());
    let mut child = command.spawn().context("wopr-bench could not be run")?;
    let mut lines = BufReader::new(child.stdout.take().context("wopr-bench has no output")?).lines();
    while let Some(line) = lines.next_line().await? {
        ui.line(line);
    }
    let status = child.wait().await?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(Exit::Check, "the gateway was not measured").why(format!("wopr-bench ended with {status}")).into())
}
