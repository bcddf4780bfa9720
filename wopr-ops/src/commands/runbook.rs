//! `runbook`: what is known about running WOPR, checked and shown.

use std::process::ExitCode;

use serde::Serialize;

use crate::{
    cli::{RunbookCommand, VerifyArgs},
    engine,
    failure::{Exit, Failure},
    paths::Paths,
    runbook::{self, Runbook, Severity, lint, render::markdown, report::Report, verify::World},
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
fn read() -> anyhow::Result<Runbook> {
    let wrong = |why: String| {
        Failure::new(Exit::Check, "runbook.toml is wrong")
            .why(why)
            .fix("put it right; `cargo wopr runbook lint` reads it")
    };
    let runbook = runbook::parse(runbook::TEXT).map_err(|error| wrong(format!("{error:#}")))?;
    let problems = lint::problems(runbook::TEXT, &runbook)?;
    if problems.is_empty() { Ok(runbook) } else { Err(wrong(problems.join("\n  because: ")).into()) }
}

async fn verify(ui: &Ui, paths: &Paths, args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let runbook = read()?;
    let world = World { paths, engine: engine::require().await?, http: super::http_client()?, ports: args.ports };
    let report = world.verify(&runbook).await;
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
        let guards = if check.gotchas.is_empty() { String::new() } else { format!(" ({})", check.gotchas.join(", ")) };
        let took = std::time::Duration::from_millis(check.took_ms);
        match (check.passed, check.severity) {
            (true, _) => ui.done(format!("{}{guards}: {}", check.id, check.detail), took),
            (false, Severity::Critical) => ui.failed(format!("{}{guards}: {}", check.id, check.detail), took),
            (false, Severity::Warning) => ui.warn(format!("{}{guards}: {}", check.id, check.detail)),
        }
    }
    ui.heading("Not checked here");
    for it in &report.not_checked {
        ui.note(format!("{} {} — {}", it.id, it.hazard, it.reason));
    }
    let red: Vec<&str> = report.checks.iter().filter(|check| !check.passed).map(|check| check.id.as_str()).collect();
    ui.heading(if red.is_empty() { "all green".to_owned() } else { format!("red: {}", red.join(", ")) });
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
