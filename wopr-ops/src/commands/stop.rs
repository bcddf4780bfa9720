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
    plan::{
        machines::MACHINES,
        platform::{FLAT, VPS},
    },
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

/// Stops what runs on an engine; answers whether anything did.
async fn stop(ui: &Ui, site: &Site) -> anyhow::Result<bool> {
    let running = running(site).await?;
    // The API first, so that it takes no stopped bot for a lost one; the database last, so that the others end cleanly.
    let rank = |name: &str| match name {
        _ if name == FLAT.api || name == VPS.api => 0,
        _ if name == FLAT.postgres || name == VPS.postgres || MACHINES.contains(&name) => 2,
        _ => 1,
    };
    for wave in 0..=2 {
        let names = running.iter().filter(|name| rank(name) == wave);
        let stop = async |name: &String| {
            let task = ui.start(format!("stopping {name}"));
            let stopped = site.engine.stop_container(name, None::<StopContainerOptions>).await;
            task.ends(stopped.with_context(|| format!("{name} could not be stopped")), |()| "stopped".to_owned())
        };
        try_join_all(names.map(stop)).await?;
    }
    Ok(!running.is_empty())
}
