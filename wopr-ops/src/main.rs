//! The operator's command line: brings the whole business up on one machine, checks it and takes it down.
//!
//! - [`plan`] decides: what is wanted and what was seen become steps. Pure, pinned by tests.
//! - [`exec`] carries steps out on the Docker engine.
//! - [`runbook`] is what is known about running it, as data, and the checks of that.
//! - [`images`] builds everything that runs, from this checkout and from Debian packages.
//! - [`commands`] ties them together, one file per command.

mod account;
mod apt;
mod cli;
mod clock;
mod commands;
mod engine;
mod exec;
mod failure;
mod happy_path;
mod images;
mod operator;
mod paths;
mod plan;
mod ports;
mod runbook;
mod secrets;
mod seed;
mod stripe;
mod ui;

use std::{process::ExitCode, time::Instant};

use clap::{CommandFactory, Parser};

use crate::{
    account::Account,
    cli::{BenchCommand, Cli, Command, DrillCommand, StripeCommand},
    failure::{Exit, exit_of},
    paths::Paths,
    ui::Ui,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (since, accounts_as) = (Instant::now(), cli.command.accounts_as());
    let interrupted = cli.command.when_interrupted();
    let ui = if accounts_as.is_some() { Ui::detect().keeping() } else { Ui::detect() };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            ui.error(&anyhow::Error::new(error).context("the runtime could not be started"));
            return Exit::Failed.into();
        }
    };
    let outcome = runtime.block_on(async {
        tokio::select! {
            // What a terminal interrupts are all programs in it: that those at work for this one failed is no news then.
            biased;
            Ok(()) = tokio::signal::ctrl_c() => None,
            result = run(&ui, cli.command) => Some(result),
        }
    });
    // Threads that read packages or wait for programs do not hold the end up.
    runtime.shutdown_background();
    if let Some(command) = accounts_as {
        let result = outcome.as_ref().map(|result| result.as_ref().map(drop));
        let account = Account::new(command, ui.facts(), since.elapsed(), result);
        if let Err(error) = ui.json(&account) {
            ui.error(&error);
        }
    }
    match outcome {
        Some(Ok(code)) => code,
        Some(Err(error)) => {
            ui.error(&error);
            exit_of(&error).into()
        }
        None => {
            ui.line(format!("interrupted; {interrupted}"));
            Exit::Interrupted.into()
        }
    }
}

async fn run(ui: &Ui, command: Command) -> anyhow::Result<ExitCode> {
    let paths = Paths::find()?;
    let done = match command {
        Command::Exec(args) => return commands::exec::run(&paths, &args).await,
        Command::Runbook(command) => return commands::runbook::run(ui, &paths, &command).await,
        Command::Doctor(args) => return commands::doctor::run(ui, &paths, &args).await,
        Command::Completions(args) => {
            clap_complete::generate(args.shell, &mut Cli::command(), "wopr-ops", &mut std::io::stdout());
            Ok(())
        }
        Command::Start(args) => commands::start::run(ui, &paths, &args).await,
        Command::Restart(args) => commands::start::restart(ui, &paths, &args).await,
        Command::Seed(args) => commands::start::seed(ui, &paths, &args).await,
        Command::Bench(BenchCommand::Up(args)) => commands::bench::up::run(ui, &paths, &args).await,
        Command::Bench(BenchCommand::Gateway(args)) => commands::bench::gateway::run(ui, &paths, &args).await,
        Command::Bench(BenchCommand::Backup(_)) => commands::bench::backup::run(ui, &paths).await,
        Command::Bench(BenchCommand::Soak(args)) => commands::bench::gateway::soak(ui, &paths, &args).await,
        Command::Bundle(args) => commands::bundle::run(ui, &paths, &args).await,
        Command::Fault(args) => commands::fault::run(ui, &paths, &args).await,
        Command::Drill(DrillCommand::Offline(args)) => commands::drill::offline::run(ui, &paths, &args).await,
        Command::Drill(DrillCommand::Card(args)) => commands::drill::card::run(ui, &paths, &args).await,
        Command::Drill(DrillCommand::CardInside(args)) => commands::drill::card::inside(ui, &paths, &args).await,
        Command::Drill(DrillCommand::CardRuntime(args)) => commands::drill::card::runtime(&args),
        Command::Drill(DrillCommand::Registry(_)) => commands::drill::registry::run(ui, &paths).await,
        Command::Drill(DrillCommand::PowerCut(args)) => commands::drill::power_cut::run(ui, &paths, &args).await,
        Command::Drill(DrillCommand::FullDisk(args)) => commands::drill::power_cut::full_disk(ui, &paths, &args).await,
        Command::Drill(DrillCommand::Tenant(args)) => commands::drill::tenant::run(ui, &paths, &args).await,
        Command::Drill(DrillCommand::Database(args)) => commands::drill::database::run(ui, &paths, &args).await,
        Command::Drill(DrillCommand::PointInTime(args)) => commands::drill::point_in_time::run(ui, &paths, &args).await,
        Command::Drill(DrillCommand::Archive(args)) => commands::drill::archive::run(ui, &paths, &args).await,
        Command::Drill(DrillCommand::ServerLoss(args)) => commands::drill::server_loss::run(ui, &paths, &args).await,
        Command::Drill(DrillCommand::ServerLossInside(args)) => {
            commands::drill::server_loss::inside_process(ui, &paths, args.ports).await
        }
        Command::Drill(DrillCommand::OfflineInside(args)) => commands::drill::offline::inside(ui, &args).await,
        Command::Recover(args) => commands::recover::run(ui, &paths, &args).await,
        Command::Engine(_) => engine::ensure(ui, &paths).await.map(drop),
        Command::Images(args) => commands::images::run(ui, &paths, &args).await,
        Command::Up(args) => commands::up::run(ui, &paths, &args).await,
        Command::Stop(args) => commands::stop::run(ui, &paths, &args).await,
        Command::Down(args) => commands::down::run(ui, &paths, &args).await,
        Command::Status(args) => commands::status::run(ui, &paths, &args).await,
        Command::Logs(args) => commands::logs::run(ui, &paths, &args).await,
        Command::Stripe(StripeCommand::Trigger(args)) => commands::stripe::trigger(ui, &paths, &args).await,
        Command::Stripe(StripeCommand::SecretPath(_)) => commands::stripe::secret_path(ui, &paths),
        Command::Test(args) => commands::test::run(ui, &paths, &args).await,
        Command::Conformance(args) => commands::conformance::run(ui, &paths, &args).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}
