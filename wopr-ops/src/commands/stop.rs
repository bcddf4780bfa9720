//! `stop`: containers end, data and containers stay.

use anyhow::Context;
use bollard::{
    models::{ContainerSummary, ContainerSummaryStateEnum},
    query_parameters::StopContainerOptions,
};
use futures_util::future::try_join_all;

use crate::{
    cli::StopArgs,
    engine,
    exec::{
        observe::{all_of_ours, name_of},
        sites::{Site, sites},
    },
    paths::Paths,
    plan::platform::{FLAT, Names, VPS},
    ui::Ui,
};

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &StopArgs) -> anyhow::Result<()> {
    if args.dry_run {
        return show(ui, paths).await;
    }
    let _lock = super::lock(paths)?;
    stop_all(ui, paths).await
}

/// Says what runs and would be stopped.
async fn show(ui: &Ui, paths: &Paths) -> anyhow::Result<()> {
    let mut any = false;
    for site in sites(paths, engine::require().await?).await? {
        for name in running(&site).await? {
            ui.note(format!("would stop {name}"));
            any = true;
        }
    }
    if !any {
        ui.note("nothing of ours runs");
    }
    Ok(())
}

/// The containers of ours that run on an engine.
async fn running(site: &Site) -> anyhow::Result<Vec<String>> {
    let ours = all_of_ours(&site.engine).await?;
    let runs = |summary: &&ContainerSummary| summary.state == Some(ContainerSummaryStateEnum::RUNNING);
    Ok(ours.iter().filter(runs).map(name_of).collect())
}

/// Stops everything, what is inside a machine before the machine.
pub(crate) async fn stop_all(ui: &Ui, paths: &Paths) -> anyhow::Result<()> {
    let mut sites = sites(paths, engine::require().await?).await?;
    sites.reverse();
    let mut any = false;
    for site in &sites {
        any |= stop(ui, site).await?;
    }
    if !any {
        ui.note("nothing of ours runs");
    }
    Ok(())
}

/// What is stopped together; each when those before it have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wave {
    /// It would take a stopped bot for a lost one.
    Api,
    /// What needs none of the others to end.
    Others,
    /// The others write to it until they have ended.
    Database,
    /// Where the end of the database's log goes: without it the database would not end by itself.
    Store,
}

impl Wave {
    const ALL: [Self; 4] = [Self::Api, Self::Others, Self::Database, Self::Store];

    fn of(name: &str) -> Self {
        let is = |of: fn(&Names) -> &'static str| [&FLAT, &VPS].into_iter().any(|names| of(names) == name);
        if is(|names| names.api) {
            Self::Api
        } else if is(|names| names.postgres) {
            Self::Database
        } else if is(|names| names.objects) {
            Self::Store
        } else {
            Self::Others
        }
    }
}

/// Stops what runs on an engine; answers whether anything did.
async fn stop(ui: &Ui, site: &Site) -> anyhow::Result<bool> {
    let running = running(site).await?;
    for wave in Wave::ALL {
        let names = running.iter().filter(|name| Wave::of(name) == wave);
        let stop = async |name: &String| {
            let task = ui.start(format!("stopping {name}"));
            let stopped = site.engine.stop_container(name, None::<StopContainerOptions>).await;
            task.ends(stopped.with_context(|| format!("{name} could not be stopped")), |()| "stopped".to_owned())
        };
        try_join_all(names.map(stop)).await?;
    }
    Ok(!running.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_outlives_the_database_and_that_all_others() {
        let order = |name: &str| Wave::ALL.iter().position(|wave| *wave == Wave::of(name)).unwrap();
        for names in [&FLAT, &VPS] {
            let others = [names.stripe, names.mail, names.ui, names.caddy, "wopr-bot-1"].map(order);
            assert!(others.iter().all(|other| order(names.api) < *other && *other < order(names.postgres)));
            assert!(order(names.postgres) < order(names.objects));
        }
    }
}
