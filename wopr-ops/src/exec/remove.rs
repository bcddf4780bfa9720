//! Removing what is ours.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    io::ErrorKind,
    path::Path,
};

use anyhow::Context;
use bollard::{
    Docker,
    query_parameters::{
        ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder,
        PruneNetworksOptionsBuilder, RemoveVolumeOptionsBuilder,
    },
};
use futures_util::future::try_join_all;

use super::{
    apply::{remove_container, stop_container},
    disk, frozen,
    observe::name_of,
};
use crate::plan::{
    machines::MACHINES,
    platform::ELSEWHERE,
    removal::Scope,
    spec::{STACK_LABEL, Stack},
};

/// All containers of the scope: ids by name.
pub(crate) async fn containers_of(engine: &Docker, scope: Scope) -> anyhow::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for label in scope.filters() {
        let filters = HashMap::from([("label", vec![*label])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        for summary in engine.list_containers(Some(options)).await.context("the engine does not list its containers")? {
            let name = name_of(&summary);
            if scope.covers(&summary.labels.unwrap_or_default()) {
                found.insert(name, summary.id.unwrap_or_default());
            }
        }
    }
    Ok(found)
}

/// Removes all containers of the scope, the API first, so that it does not bring bots back; answers with their names.
///
/// Kindly, they end by themselves first; otherwise at once, which is for those whose data goes, too.
pub(crate) async fn containers(engine: &Docker, scope: Scope, kindly: bool) -> anyhow::Result<Vec<String>> {
    let found = containers_of(engine, scope).await?;
    if let Some(id) = found.get(crate::plan::platform::FLAT.api) {
        end(engine, id, kindly).await?;
    }
    try_join_all(found.values().map(|id| end(engine, id, kindly))).await?;
    Ok(found.into_keys().collect())
}

async fn end(engine: &Docker, id: &str, kindly: bool) -> anyhow::Result<()> {
    frozen::end_killed(engine, id).await?;
    if kindly {
        // What is paused in it is let go by its own engine.
        stop_container(engine, id).await?;
    }
    frozen::ended(engine, id, remove_container(engine, id, false)).await
}

/// The names of all networks of the scope.
pub(crate) async fn networks_of(engine: &Docker, scope: Scope) -> anyhow::Result<Vec<String>> {
    let mut found = BTreeSet::new();
    for label in scope.filters() {
        let filters = HashMap::from([("label", vec![*label])]);
        let options = ListNetworksOptionsBuilder::default().filters(&filters).build();
        let networks = engine.list_networks(Some(options)).await.context("the engine does not list its networks")?;
        let ours =
            networks.into_iter().filter(|network| scope.covers(network.labels.as_ref().unwrap_or(&HashMap::new())));
        found.extend(ours.filter_map(|network| network.name));
    }
    Ok(found.into_iter().collect())
}

/// Removes all networks of the scope; answers with their names.
pub(crate) async fn networks(engine: &Docker, scope: Scope) -> anyhow::Result<Vec<String>> {
    let found = networks_of(engine, scope).await?;
    for name in &found {
        match engine.remove_network(name).await {
            Ok(()) | Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("network {name} could not be removed"));
            }
        }
    }
    Ok(found)
}

/// Removes the networks that the stack was on before: nothing of it is left there.
pub(crate) async fn unused_networks(engine: &Docker, stack: &Stack) -> anyhow::Result<()> {
    let filters = HashMap::from([("label", vec![format!("{STACK_LABEL}={}", stack.name)])]);
    let options = PruneNetworksOptionsBuilder::default().filters(&filters).build();
    engine.prune_networks(Some(options)).await.context("networks that nothing uses any more could not be removed")?;
    Ok(())
}

/// The names of all volumes of the scope.
pub(crate) async fn volumes_of(engine: &Docker, scope: Scope) -> anyhow::Result<Vec<String>> {
    let mut found = BTreeSet::new();
    for label in scope.filters() {
        let filters = HashMap::from([("label", vec![*label])]);
        let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
        let volumes = engine.list_volumes(Some(options)).await.context("the engine does not list its volumes")?;
        let ours = volumes.volumes.into_iter().flatten().filter(|volume| scope.covers(&volume.labels));
        found.extend(ours.map(|volume| volume.name));
    }
    Ok(found.into_iter().collect())
}

/// Removes all volumes of the scope, with everything in them; answers with their names.
pub(crate) async fn volumes(engine: &Docker, scope: Scope) -> anyhow::Result<Vec<String>> {
    let found = volumes_of(engine, scope).await?;
    for name in &found {
        volume(engine, name).await?;
    }
    Ok(found)
}

/// Removes everything the stack keeps: its volumes, and below the machines' directories their disks and what does not go
/// with a machine. Answers with the volumes' names.
pub(crate) async fn data(engine: &Docker, machines: &Path) -> anyhow::Result<Vec<String>> {
    let removed = volumes(engine, Scope::Stack).await?;
    disk::remove_all(machines)?;
    for machine in MACHINES {
        let elsewhere = machines.join(machine).join(ELSEWHERE);
        match fs::remove_dir_all(&elsewhere) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("{} could not be removed", elsewhere.display()));
            }
            _ => {}
        }
    }
    Ok(removed)
}

/// Removes a volume with everything in it, if it is there.
pub(crate) async fn volume(engine: &Docker, name: &str) -> anyhow::Result<()> {
    let options = RemoveVolumeOptionsBuilder::default().force(true).build();
    match engine.remove_volume(name, Some(options)).await {
        Ok(()) | Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("volume {name} could not be removed")),
    }
}
