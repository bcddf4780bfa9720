//! `drill tenant`: a bot is destroyed with all its bytes, and restored from the object store alone.
//!
//! A customer of the drill's own gets a bot with bytes that nobody can guess, and a snapshot of it. Then the bot's container
//! and its volumes are removed behind the platform's back, as a dying disk does. An operator restores the snapshot by its
//! path, as the runbook says; afterwards the bot runs and has every byte it had.

use std::{collections::HashMap, time::Instant};

use anyhow::Context;
use bollard::{
    Docker,
    query_parameters::{ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptions},
};
use tokio::sync::Mutex;

use super::{
    stage::Stage,
    tenant_data::{BYTES, customer_with_bot, files, give_bytes},
};
use crate::{
    cli::DrillArgs,
    commands::{up::require_root, wait_until},
    exec::{observe::name_of, sites::inside},
    failure::{Exit, Failure},
    operator::LIMIT,
    paths::Paths,
    plan::{machines::VPS, platform::Ports},
    ui::Ui,
};

/// Names a bot, on what is its.
const BOT_LABEL: &str = "wopr.bot-id";

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &DrillArgs) -> anyhow::Result<()> {
    require_root()?;
    let _lock = crate::commands::lock(paths)?;
    rehearse(ui, paths, args.ports).await
}

/// The drill, on the two machines that are up.
pub(crate) async fn rehearse(ui: &Ui, paths: &Paths, ports: Ports) -> anyhow::Result<()> {
    let stage = Stage::new(paths, ports).await?;
    let (vps, operator) = (inside(paths, VPS).await?, stage.operator()?);

    let task = ui.start(format!("a customer gets a bot with {BYTES} bytes of its own"));
    let arrive = async {
        let customer = customer_with_bot(stage.customer("tenant-drill")?).await?;
        let container = name_of(&customer.container(&vps).await?);
        give_bytes(&vps, &container, "drill").await?;
        let had = files(&vps, &container).await?;
        anyhow::Ok((customer, container, had))
    };
    let (customer, container, had) = task.ends(arrive.await, |(_, container, _)| container.clone())?;

    let task = ui.start("a snapshot of the bot, which goes on running");
    let snapshot = async {
        let bytes = customer.snapshot().await?;
        anyhow::ensure!(bytes >= BYTES as u64, "the snapshot has {bytes} bytes");
        anyhow::Ok(bytes)
    };
    task.ends(snapshot.await, |bytes| format!("{bytes} bytes"))?;

    let task = ui.start("the bot is destroyed with all its bytes");
    task.ends(destroy(&vps, customer.bot(), &container).await, |()| String::new())?;

    let task = ui.start("an operator restores it by its path");
    let since = Instant::now();
    let restored = async {
        let path = operator.restore(&container).await?;
        let downtime = operator.wait_for(customer.tenant()).await?;
        customer.bot_runs().await?;
        let has = files(&vps, &name_of(&customer.container(&vps).await?)).await?;
        anyhow::ensure!(has == had, "the volume had {had:?} and has {has:?}");
        anyhow::Ok(format!("{path}: {} files as they were, {downtime} ms from old to new", has.len()))
    };
    let restored = restored.await.map_err(|error| {
        anyhow::Error::from(
            Failure::new(Exit::Check, format!("the bot of {} is not what it was", customer.email()))
                .why(format!("{error:#}")),
        )
    });
    task.ends(restored, Clone::clone)?;
    ui.done("the bot has its bytes back; the objective is ten minutes", since.elapsed());
    Ok(())
}

/// Removes the bot's container and each of its volumes. The platform makes new ones meanwhile, and may be at that when one is
/// to be removed: then it is removed again.
async fn destroy(engine: &Docker, bot: &str, container: &str) -> anyhow::Result<()> {
    let filters = HashMap::from([("label", vec![format!("{BOT_LABEL}={bot}")])]);
    let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
    let volumes = engine.list_volumes(Some(options)).await.context("the engine does not list its volumes")?;
    let volumes: Vec<String> = volumes.volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect();
    anyhow::ensure!(!volumes.is_empty(), "the bot {bot} has no volume");
    let left = Mutex::new(volumes);
    let all_gone = wait_until(LIMIT, || async {
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        is_busy(engine.remove_container(container, Some(options)).await)?;
        let volumes = left.lock().await.clone();
        for volume in volumes {
            if !is_busy(engine.remove_volume(&volume, None::<RemoveVolumeOptions>).await)? {
                left.lock().await.retain(|other| *other != volume);
            }
        }
        Ok(left.lock().await.is_empty().then_some(()))
    });
    all_gone.await?.context("its volumes stay in use")
}

/// Whether something is not removed because somebody is at work with it; what is not there is removed.
fn is_busy(result: Result<(), bollard::errors::Error>) -> anyhow::Result<bool> {
    match result {
        Ok(()) | Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 409, .. }) => Ok(true),
        Err(error) => Err(error).context("the engine does not remove it"),
    }
}
