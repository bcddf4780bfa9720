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
    cli::BenchGatewayArgs,
    failure::{Exit, Failure},
    images::{binaries, recipes},
    paths::Paths,
    ui::Ui,
};

const BENCH: recipes::Binary = recipes::Binary { package: "wopr-bench", name: "wopr-bench" };

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &BenchGatewayArgs) -> anyhow::Result<()> {
    let api = recipes::API.source();
    let built = binaries::compile(ui, paths, &[api, BENCH], args.profile).await?;
    let executable = |name: &str| built.get(name).map(|built| &built.executable).context("a program was not compiled");
    let mut command = Command::new(executable(BENCH.name)?);
    command.arg("gateway").arg("--program").arg(executable(api.name)?);
    // In the environment, where other users of this machine do not see the password.
    command.env("WOPR_TEST_DATABASE_URL", &args.database).kill_on_drop(true).stdout(Stdio::piped());
    for (option, value) in [
        ("--seconds", args.seconds),
        ("--rounds", args.rounds),
        ("--connections", args.connections),
        ("--rate", args.rate),
    ] {
        command.args([option, &value.to_string()]);
    }
    for peer in &args.peer {
        command.args(["--peer", peer]);
    }
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
