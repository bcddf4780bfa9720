//! `runbook`: what is known about running WOPR, checked and shown.

use std::process::ExitCode;

use serde::Serialize;

use crate::{
    cli::{CheckArgs, RunbookCommand, VerifyArgs},
    engine,
    failure::{Exit, Failure},
    paths::Paths,
    plan::platform::Ports,
    runbook::{
        self, Runbook, Severity, lint,
        render::markdown,
        report::{NotChecked, Outcome, Proof, Report},
        world::World,
    },
    ui::Ui,
};

pub(crate) async fn run(ui: &Ui, paths: &Paths, command: &RunbookCommand) -> anyhow::Result<ExitCode> {
    match command {
        RunbookCommand::Lint(args) if args.json => {
            let found = Lint { problems: problems().unwrap_or_else(|error| vec![format!("{error:#}")]) };
            ui.json(&found)?;
            Ok(if found.problems.is_empty() { ExitCode::SUCCESS } else { Exit::Check.into() })
        }
        RunbookCommand::Lint(_) => {
            let runbook = read()?;
            let counts = (runbook.gotchas.len(), runbook.checks.len(), runbook.secrets.len());
            ui.note(format!("{} hazards, {} checks, {} secrets", counts.0, counts.1, counts.2));
            Ok(ExitCode::SUCCESS)
        }
        RunbookCommand::Render => {
            ui.line(markdown(&read()?).trim_end());
            Ok(ExitCode::SUCCESS)
        }
        RunbookCommand::Check(args) => check(ui, paths, args).await,
        RunbookCommand::Verify(args) => verify(ui, paths, args).await,
    }
}

/// What `lint --json` writes.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Lint {
    /// What is wrong, one sentence each; none if nothing is.
    problems: Vec<String>,
}

fn problems() -> anyhow::Result<Vec<String>> {
    lint::problems(runbook::TEXT, &runbook::parse(runbook::TEXT)?)
}

/// The runbook, which nothing is wrong with.
pub(crate) fn read() -> anyhow::Result<Runbook> {
    let wrong = |why: String| {
        Failure::new(Exit::Check, "runbook.toml is wrong")
            .why(why)
            .fix("put it right; `cargo wopr runbook lint` reads it")
    };
    let runbook = runbook::parse(runbook::TEXT).map_err(|error| wrong(format!("{error:#}")))?;
    let problems = lint::problems(runbook::TEXT, &runbook)?;
    if problems.is_empty() { Ok(runbook) } else { Err(wrong(problems.join("\n  because: ")).into()) }
}

async fn check(ui: &Ui, paths: &Paths, args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let runbook = read()?;
    let world = World { paths, engine: engine::require().await?, http: super::http_client()?, ports: args.ports };
    let report = world.every_check(&runbook).await;
    if args.json {
        ui.json(&report)?;
    } else {
        show(ui, &report);
    }
    Ok(if report.green { ExitCode::SUCCESS } else { Exit::Check.into() })
}

fn show(ui: &Ui, report: &Report) {
    ui.heading("Checks");
    for check in &report.checks {
        show_outcome(ui, check);
    }
    show_left_out(ui, "Not checked here", &report.not_checked);
    let red: Vec<&str> = report.checks.iter().filter(|check| !check.passed).map(|check| check.id.as_str()).collect();
    ui.heading(if red.is_empty() { "all green".to_owned() } else { format!("red: {}", red.join(", ")) });
}

fn show_outcome(ui: &Ui, check: &Outcome) {
    let guards = if check.gotchas.is_empty() { String::new() } else { format!(" ({})", check.gotchas.join(", ")) };
    let took = std::time::Duration::from_millis(check.took_ms);
    match (check.passed, check.severity) {
        (true, _) => ui.done(format!("{}{guards}: {}", check.id, check.detail), took),
        (false, Severity::Critical) => ui.failed(format!("{}{guards}: {}", check.id, check.detail), took),
        (false, Severity::Warning) => ui.warn(format!("{}{guards}: {}", check.id, check.detail)),
    }
}

fn show_left_out(ui: &Ui, heading: &str, left_out: &[NotChecked]) {
    if left_out.is_empty() {
        return;
    }
    ui.heading(heading);
    for it in left_out {
        ui.note(format!("{} {} — {}", it.id, it.hazard, it.reason));
    }
}

async fn verify(ui: &Ui, paths: &Paths, args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    super::up::require_root()?;
    let _lock = super::lock(paths)?;
    let proof = demonstrate(&ui.beside_json(args.json), paths, args.ports, &args.hazards).await?;
    if args.json {
        ui.json(&proof)?;
    }
    Ok(if proof.proven { ExitCode::SUCCESS } else { Exit::Check.into() })
}

/// All hazards that can be, on the two machines that are up.
///
/// # Errors
/// If one was not noticed, or not mended.
pub(crate) async fn prove(ui: &Ui, paths: &Paths, ports: Ports) -> anyhow::Result<()> {
    if demonstrate(ui, paths, ports, &[]).await?.proven {
        return Ok(());
    }
    Err(Failure::new(Exit::Check, "the runbook is not true of what runs").into())
}

/// Brings hazards about on the two machines that are up, and shows what came of each.
///
/// # Errors
/// If that cannot be begun; what a check did not notice is in the answer.
async fn demonstrate(ui: &Ui, paths: &Paths, ports: Ports, named: &[String]) -> anyhow::Result<Proof> {
    let runbook = read()?;
    let world = World { paths, engine: engine::require().await?, http: super::http_client()?, ports };
    ui.heading("Hazards, brought about and mended");
    let proof = world.demonstrate(ui, &runbook, named).await?;
    show_left_out(ui, "Not brought about here", &proof.not_shown);
    for check in &proof.red_at_the_end {
        show_outcome(ui, check);
    }
    let unproven: Vec<&str> =
        proof.shown.iter().filter(|shown| shown.problem.is_some()).map(|shown| shown.id.as_str()).collect();
    ui.heading(match (proof.proven, unproven.is_empty()) {
        (true, _) => format!("{} hazards were noticed and mended", proof.shown.len()),
        (false, true) => "the checks above are red at the end; `cargo wopr start` mends what it can".to_owned(),
        (false, false) => format!("not shown: {}; `cargo wopr start` mends what it can", unproven.join(", ")),
    });
    Ok(proof)
}

#[cfg(test)]
mod tests {
    use super::Lint;

    #[test]
    fn the_schema_is_that_of_the_type() {
        let lint = Lint { problems: vec!["gotcha R1 is missing".to_owned()] };
        crate::runbook::assert_schema_fits("runbook-lint", &schemars::schema_for!(Lint), &lint);
    }
}
