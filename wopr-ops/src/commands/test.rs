//! `test`: every check there is, the quick ones first.

mod fuzz;

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context;
use bollard::Docker;

use super::{
    conformance,
    drill::{self, server_loss::Loss},
    images::{Programs, References},
    journeys, up,
};
use crate::{
    cli::{ConformanceArgs, TestArgs, UpArgs},
    engine,
    exec::remove,
    failure::{Exit, Failure},
    images::{
        binaries::{self, Profile, cargo},
        recipes::Binary,
    },
    paths::Paths,
    plan::{machines, platform, removal::Scope},
    ui::{Ui, seconds},
};

/// The steps, in the order they are run in.
const STEPS: [&str; 17] = [
    "fmt", "engine", "build", "images", "clippy", "doc", "deny", "tests", "fuzz", "registry", "offline", "card",
    "stack", JOURNEYS, RUNBOOK, POWER_CUT, BACKUPS,
];
/// The last steps that need the stack, and others before them.
const JOURNEYS: &str = "journeys";
const RUNBOOK: &str = "runbook";
const POWER_CUT: &str = "power-cut";
const BACKUPS: &str = "backups";
const CONFORMANCE: &str = "conformance";

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &TestArgs) -> anyhow::Result<()> {
    let known = |name: &str| STEPS.contains(&name) || name == CONFORMANCE;
    if let Some(unknown) = args.only.iter().find(|name| !known(name)) {
        return Err(Failure::new(Exit::Check, format!("there is no step {unknown}"))
            .fix(format!("the steps are {}, {CONFORMANCE}", STEPS.join(", ")))
            .into());
    }
    let _lock = super::lock(paths)?;
    let mut runner = Runner { ui, args, rows: Vec::new() };
    let since = Instant::now();
    let outcome = Box::pin(steps(&mut runner, paths)).await;
    runner.report(since.elapsed());
    outcome?;
    let failed: Vec<&str> = runner.rows.iter().filter(|row| row.failed).map(|row| row.name).collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Check, format!("failed: {}", failed.join(", "))).into())
}

async fn steps(runner: &mut Runner<'_>, paths: &Paths) -> anyhow::Result<()> {
    let ui = runner.ui;
    runner.step("fmt", cargo_step(ui, paths, &["fmt", "--all", "--check"], &[])).await?;
    let engine = runner.step("engine", engine_and_sweep(ui, paths)).await?;
    // One compilation for tests and images: the programs that go into images are built along with the tests.
    let artifacts = runner.step("build", build_tests(ui, paths)).await?;
    let images = match (&engine, &artifacts) {
        (Some(engine), Some(artifacts)) => {
            let images = super::images::ensure(ui, paths, engine, Programs::Compiled(artifacts), |_| true);
            runner.step("images", images).await?
        }
        _ => None,
    };
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    runner.step("clippy", cargo_step(ui, paths, &clippy, &[])).await?;
    let doc = ["doc", "--workspace", "--no-deps", "--locked"];
    runner.step("doc", cargo_step(ui, paths, &doc, &[("RUSTDOCFLAGS", "-D warnings")])).await?;
    runner.step("deny", deny(ui, paths)).await?;
    let mut tests = vec!["test", "--workspace", "--locked"];
    if runner.args.keep_going {
        tests.push("--no-fail-fast");
    }
    // A snapshot that differs is a failure here, never a new file.
    runner.step("tests", cargo_step(ui, paths, &tests, &[("INSTA_UPDATE", "no")])).await?;
    runner.step("fuzz", fuzz::step(ui, paths)).await?;
    if let (Some(engine), Some(images)) = (&engine, &images) {
        runner.step("registry", drill::registry::rehearse(ui, paths, engine)).await?;
        runner.step("offline", drill::offline::with_images(ui, paths, engine, images.clone())).await?;
        runner.step("card", drill::card::rehearse(ui, paths, engine, images.clone())).await?;
        let before = stack_exists(engine).await?;
        runner.step("stack", stack(ui, paths, engine, images)).await?;
        let ports = platform::Ports::default();
        runner.step(JOURNEYS, journeys::tell(ui, paths, ports)).await?;
        runner.step(RUNBOOK, Box::pin(super::runbook::prove(ui, paths, ports))).await?;
        runner.step(POWER_CUT, Box::pin(drill::power_cut::rehearse(ui, paths, ports))).await?;
        let backups = async {
            drill::tenant::rehearse(ui, paths, ports).await?;
            drill::database::rehearse(ui, paths, ports).await?;
            drill::point_in_time::rehearse(ui, paths, ports).await?;
            drill::archive::rehearse(ui, paths, ports).await?;
            // Nobody's own machine is destroyed for a test.
            if before {
                return Ok(());
            }
            drill::server_loss::rehearse(ui, paths, ports, &[Loss::Log, Loss::Disturbed { kills: 2 }, Loss::Set]).await
        };
        runner.step(BACKUPS, Box::pin(backups)).await?;
        let suites = ConformanceArgs { output: runner.args.output, only: Vec::new(), api_port: 3100 };
        let binaries = artifacts.clone().unwrap_or_default();
        runner.step(CONFORMANCE, conformance::suites(ui, paths, &suites, &binaries)).await?;
        if !before {
            take_down(ui, paths, engine).await?;
        }
    }
    if let Some(engine) = &engine {
        sweep(ui, engine).await?;
    }
    Ok(())
}

struct Row {
    name: &'static str,
    took: Duration,
    failed: bool,
}

struct Runner<'a> {
    ui: &'a Ui,
    args: &'a TestArgs,
    rows: Vec<Row>,
}

impl Runner<'_> {
    /// Runs a step that was asked for; `None` if it was not, or failed and the others go on.
    async fn step<T>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<Option<T>> {
        let only: BTreeSet<&str> = self.args.only.iter().map(String::as_str).collect();
        if !only.is_empty() && !needed(&only).contains(name) {
            return Ok(None);
        }
        self.ui.heading(name);
        let since = Instant::now();
        let result = work.await;
        let took = since.elapsed();
        self.rows.push(Row { name, took, failed: result.is_err() });
        match result {
            Ok(value) => {
                self.ui.done(name, took);
                Ok(Some(value))
            }
            Err(error) if self.args.keep_going => {
                self.ui.error(&error);
                self.ui.failed(name, took);
                Ok(None)
            }
            Err(error) => {
                self.ui.failed(name, took);
                Err(error)
            }
        }
    }

    fn report(&self, took: Duration) {
        let row = |row: &Row| {
            let outcome = if row.failed { "failed" } else { "ok" };
            vec![row.name.to_owned(), outcome.to_owned(), seconds(row.took)]
        };
        let mut rows: Vec<Vec<String>> = self.rows.iter().map(row).collect();
        rows.push(vec!["all".to_owned(), String::new(), seconds(took)]);
        self.ui.heading("Summary");
        self.ui.table(&["STEP", "RESULT", "TIME"], &rows);
    }
}

/// The steps asked for, and those that prepare what they work on.
fn needed<'n>(only: &BTreeSet<&'n str>) -> BTreeSet<&'n str> {
    let mut all = only.clone();
    if [CONFORMANCE, BACKUPS, POWER_CUT, RUNBOOK, JOURNEYS].iter().any(|name| all.contains(name)) {
        all.insert("stack");
    }
    if ["card", "offline", "registry", "stack", "tests"].iter().any(|name| all.contains(name)) {
        all.insert("images");
    }
    if all.contains("images") {
        all.extend(["engine", "build"]);
    }
    all
}

/// Runs cargo in the checkout, with its output passed through.
pub(crate) async fn cargo_step(ui: &Ui, paths: &Paths, arguments: &[&str], env: &[(&str, &str)]) -> anyhow::Result<()> {
    let status = cargo()
        .args(arguments)
        .envs(env.iter().copied())
        .current_dir(paths.workspace()?)
        .stdin(Stdio::null())
        .stdout(ui.stdout())
        .kill_on_drop(true)
        .status()
        .await
        .context("cargo could not be run")?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(Exit::Check, format!("cargo {} failed", arguments.join(" "))).why(format!("{status}")).into())
}

async fn engine_and_sweep(ui: &Ui, paths: &Paths) -> anyhow::Result<Docker> {
    let engine = engine::ensure(ui, paths).await?;
    sweep(ui, &engine).await?;
    Ok(engine)
}

/// Removes what tests left behind, also those that were killed.
async fn sweep(ui: &Ui, engine: &Docker) -> anyhow::Result<()> {
    let mut swept = remove::containers(engine, Scope::Tests, false).await?;
    swept.extend(remove::networks(engine, Scope::Tests).await?);
    swept.extend(remove::volumes(engine, Scope::Tests).await?);
    if !swept.is_empty() {
        ui.note(format!("swept what tests left behind: {}", swept.join(", ")));
    }
    Ok(())
}

/// Compiles every test, and with them every program; answers with the programs by name.
async fn build_tests(ui: &Ui, paths: &Paths) -> anyhow::Result<HashMap<String, PathBuf>> {
    let mut command = cargo();
    command.current_dir(paths.workspace()?).args([
        "test",
        "--workspace",
        "--no-run",
        "--locked",
        "--message-format=json-render-diagnostics",
    ]);
    let task = ui.start("compiling the tests and the programs (minutes the first time)");
    let built = binaries::run(command, &task).await;
    let mut programs = task.ends(built, |programs| format!("{} programs", programs.len()))?;
    // Only packages with integration tests have their programs built along.
    let left: Vec<Binary> =
        super::images::all_sources().into_iter().filter(|program| !programs.contains_key(program.name)).collect();
    if !left.is_empty() {
        let built = binaries::compile(ui, paths, &left, Profile::Dev).await?;
        programs.extend(built.into_iter().map(|(name, built)| (name.to_owned(), built.executable)));
    }
    Ok(programs)
}

async fn deny(ui: &Ui, paths: &Paths) -> anyhow::Result<()> {
    if !has_cargo_deny().await {
        ui.warn("cargo-deny is not installed; it is installed now, once (minutes)");
        cargo_step(ui, paths, &["install", "--locked", "cargo-deny"], &[]).await?;
    }
    // The check itself reads nothing from the network; this puts everything in place that it reads.
    cargo_step(ui, paths, &["fetch", "--locked"], &[]).await?;
    let check = ["deny", "--offline", "check", "licenses", "bans", "sources"];
    cargo_step(ui, paths, &check, &[]).await
}

async fn has_cargo_deny() -> bool {
    let output = cargo().args(["deny", "--version"]).output().await;
    output.is_ok_and(|output| output.status.success())
}

/// Whether a stack was there before the tests: then it stays.
async fn stack_exists(engine: &Docker) -> anyhow::Result<bool> {
    let ours = crate::exec::observe::all_of_ours(engine).await?;
    let data = [platform::POSTGRES_VOLUME, machines::VPS_VOLUME].map(|volume| engine.inspect_volume(volume));
    Ok(!ours.is_empty() || futures_util::future::join_all(data).await.iter().any(Result::is_ok))
}

async fn stack(ui: &Ui, paths: &Paths, engine: &Docker, images: &References) -> anyhow::Result<()> {
    up::require_root()?;
    let args = UpArgs {
        flat: false,
        dry_run: false,
        json: false,
        bundle: None,
        disk: None,
        no_prove: false,
        profile: Profile::Dev,
        only: Vec::new(),
        ports: platform::Ports::default(),
    };
    up::bring(ui, paths, engine, images, &args).await
}

async fn take_down(ui: &Ui, paths: &Paths, engine: &Docker) -> anyhow::Result<()> {
    let task = ui.start("taking the stack down again");
    let removed = async {
        remove::containers(engine, Scope::Stack, false).await?;
        remove::networks(engine, Scope::Stack).await?;
        remove::data(engine, &paths.machines()).await
    }
    .await;
    task.ends(removed, |_| "nothing of it is left".to_owned()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_brings_what_prepares_it() {
        let of = |name: &'static str| needed(&BTreeSet::from([name])).into_iter().collect::<Vec<_>>();
        assert_eq!(of("fmt"), ["fmt"]);
        assert_eq!(of("tests"), ["build", "engine", "images", "tests"]);
        assert_eq!(of("power-cut"), ["build", "engine", "images", "power-cut", "stack"]);
        assert_eq!(of("offline"), ["build", "engine", "images", "offline"]);
        assert_eq!(of("conformance"), ["build", "conformance", "engine", "images", "stack"]);
    }

    #[test]
    fn every_prepared_step_exists() {
        for name in STEPS.iter().chain([&CONFORMANCE]) {
            for needed in needed(&BTreeSet::from([*name])) {
                assert!(STEPS.contains(&needed) || needed == CONFORMANCE, "{needed}");
            }
        }
    }
}
