//! Looking at what the engine has of a stack.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context;
use bollard::{
    Docker,
    models::{ContainerStateStatusEnum, ContainerSummary},
    query_parameters::{
        InspectContainerOptions, ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder,
    },
};

use futures_util::future::try_join_all;

use crate::plan::spec::{CONFIG_LABEL, Container, Observed, STACK_LABEL, Stack, State};

/// What exists of the stack, by name or by label.
pub(crate) async fn observe(engine: &Docker, stack: &Stack) -> anyhow::Result<Observed> {
    let mut observed = Observed::default();
    let networks = engine.list_networks(Some(ListNetworksOptionsBuilder::default().build())).await;
    let networks = networks.context("the engine does not list its networks")?;
    observed.networks = networks.into_iter().filter_map(|network| network.name).collect();
    let volumes = engine.list_volumes(Some(ListVolumesOptionsBuilder::default().build())).await;
    let volumes = volumes.context("the engine does not list its volumes")?.volumes.unwrap_or_default();
    observed.volumes = volumes.into_iter().map(|volume| volume.name).collect();
    let each = stack.services.iter().map(async |service| {
        anyhow::Ok(container(engine, service.name).await?.map(|container| (service.name.to_owned(), container)))
    });
    observed.containers = try_join_all(each).await?.into_iter().flatten().collect();
    Ok(observed)
}

/// One container by name.
pub(crate) async fn container(engine: &Docker, name: &str) -> anyhow::Result<Option<Container>> {
    let found = match engine.inspect_container(name, None::<InspectContainerOptions>).await {
        Ok(found) => found,
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("the engine does not tell about {name}"));
        }
    };
    let network = found.host_config.and_then(|config| config.network_mode).unwrap_or_default();
    let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
    let state = found.state.unwrap_or_default();
    let state = match state.status {
        Some(ContainerStateStatusEnum::RUNNING) => State::Running,
        Some(ContainerStateStatusEnum::CREATED) => State::Created,
        Some(ContainerStateStatusEnum::EXITED) => State::Exited(state.exit_code.unwrap_or(-1)),
        _ => State::Other,
    };
    Ok(Some(Container { aspects: aspects(&labels), network, state }))
}

/// The aspects a container was created from; empty if it does not say.
fn aspects(labels: &HashMap<String, String>) -> BTreeMap<String, String> {
    labels.get(CONFIG_LABEL).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Every container of ours: the stack's services and the bots.
pub(crate) async fn all_of_ours(engine: &Docker) -> anyhow::Result<Vec<ContainerSummary>> {
    let scope = crate::plan::removal::Scope::Stack;
    let mut all: BTreeMap<String, ContainerSummary> = BTreeMap::new();
    for label in scope.filters() {
        let filters = HashMap::from([("label", vec![*label])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let found = engine.list_containers(Some(options)).await.context("the engine does not list its containers")?;
        let ours = found.into_iter().filter(|summary| scope.covers(summary.labels.as_ref().unwrap_or(&HashMap::new())));
        all.extend(ours.filter_map(|summary| Some((summary.id.clone()?, summary))));
    }
    Ok(all.into_values().collect())
}

/// A container's name without the slash the engine puts before it.
pub(crate) fn name_of(summary: &ContainerSummary) -> String {
    let first = summary.names.as_ref().and_then(|names| names.first());
    first.map_or_else(|| summary.id.clone().unwrap_or_default(), |name| name.trim_start_matches('/').to_owned())
}

/// Whether the container belongs to a stack; otherwise it is a tenant's bot.
pub(crate) fn is_service(summary: &ContainerSummary) -> bool {
    summary.labels.as_ref().is_some_and(|labels| labels.contains_key(STACK_LABEL))
}
