//! The step `fuzz`: libFuzzer looks for bytes that the gateway does not bear.

use std::process::Stdio;

use anyhow::Context;
use futures_util::future::try_join_all;
use tokio::process::Command;

use super::cargo_step;
use crate::{
    apt,
    engine::find_program,
    failure::{Exit, Failure},
    paths::Paths,
    ui::Ui,
};

const TARGETS: [&str; 3] = ["fuzz-events", "fuzz-translation", "fuzz-bodies"];
/// What it begins with, below the checkout.
const SEEDS: [&str; 2] = ["fuzz/seeds", "wopr-core/src/gateway/wire/recordings"];
/// How long it looks, in seconds, unless the variable says otherwise.
const SECONDS: u32 = 20;
const SECONDS_VARIABLE: &str = "WOPR_FUZZ_SECONDS";
/// The compiler's own instrumentation, as cargo-fuzz has it without a sanitizer: safe Rust has little use for one, and a stable
/// compiler has none.
const INSTRUMENTED: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";
/// Lines of a program that found something.
const SAID_LINES: usize = 25;

pub(super) async fn step(ui: &Ui, paths: &Paths) -> anyhow::Result<()> {
    let seconds = match std::env::var(SECONDS_VARIABLE) {
        Ok(text) => text.parse().with_context(|| format!("{SECONDS_VARIABLE} is {text:?}; it must be a number"))?,
        Err(_) => SECONDS,
    };
    if find_program("c++").is_none() {
        apt::install(ui, &["g++"]).await?;
    }
    // Named, so that programs which only build others are not instrumented.
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let build =
        ["build", "--locked", "--package=wopr-fuzz", "--features=libfuzzer", "--bins", "--target-dir=target/fuzz"];
    let options = [format!("--target={triple}"), "--config=profile.dev.opt-level=1".to_owned()];
    let arguments: Vec<&str> = build.into_iter().chain(options.iter().map(String::as_str)).collect();
    cargo_step(ui, paths, &arguments, &[("RUSTFLAGS", INSTRUMENTED)]).await?;
    let task = ui.start(format!("looking for {seconds} s"));
    let looked = try_join_all(TARGETS.map(|target| look(paths, &triple, target, seconds))).await;
    task.ends(looked, |runs| {
        TARGETS.iter().zip(runs).map(|(target, runs)| format!("{target} {runs}")).collect::<Vec<_>>().join(", ")
    })
    .map(drop)
}

/// Runs one of them; answers with how many inputs it tried. What was worth keeping is where the next run begins.
async fn look(paths: &Paths, triple: &str, target: &str, seconds: u32) -> anyhow::Result<String> {
    let workspace = paths.workspace()?;
    let kept = format!("target/fuzz/corpus/{target}");
    tokio::fs::create_dir_all(workspace.join(&kept)).await.with_context(|| format!("{kept} cannot be made"))?;
    let output = Command::new(workspace.join(format!("target/fuzz/{triple}/debug/{target}")))
        .arg(format!("-max_total_time={seconds}"))
        .args(["-print_final_stats=1", "-artifact_prefix=target/fuzz/", &kept])
        .args(SEEDS)
        .current_dir(workspace)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("{target} could not be run"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let lines: Vec<&str> = said.lines().collect();
        let last = lines.get(lines.len().saturating_sub(SAID_LINES)..).unwrap_or_default();
        return Err(Failure::new(Exit::Check, format!("{target} found bytes that the gateway does not bear"))
            .why(last.join("\n"))
            .fix("the file that is named there is such bytes; the program takes it as its argument")
            .into());
    }
    let runs = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    Ok(runs.with_context(|| format!("{target} does not say how much it tried"))?.trim().to_owned())
}
