//! A Docker engine as a [`ContainerHost`], over its socket or TCP.

mod archive;
mod containers;
mod images;
mod jobs;
mod networks;
mod reading;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_trait::async_trait;
use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{EventMessage, VolumeCreateRequest};
use bollard::query_parameters::{
    EventsOptions, InspectContainerOptions, ListContainersOptions, ListNetworksOptions, ListVolumesOptions,
    LogsOptions, RemoveContainerOptions, RemoveVolumeOptions, RestartContainerOptions, StartContainerOptions,
    StatsOptions, StopContainerOptions,
};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use secrecy::SecretString;

pub use self::archive::PgBackRest;
pub use self::jobs::{DockerJobs, JobSettings};
use crate::fleet::container::{
    BOT_LABEL, ContainerSpec, MANAGED_LABEL, MANAGED_NETWORK_LABEL, TENANT_LABEL, container_name, data_volume_name,
    network_name, run_volume_name, volume_labels,
};
use crate::fleet::{
    ContainerHost, ContainerStats, HostError, ImageDigest, ImageReference, Inventory, Labelled, Observed, RawLogLine,
    Subnet,
};
use crate::ids::{BotId, TenantId};

/// How long a bot may take to end by itself, in seconds.
const STOP_PATIENCE_SECONDS: i32 = 10;
/// How long the client waits for any answer, in seconds; the fleet's own deadlines are shorter except for images.
const CLIENT_TIMEOUT_SECONDS: u64 = 600;

/// A login at one registry.
#[derive(Debug, Clone)]
pub struct RegistryLogin {
    /// The registry's host, such as `ghcr.io`.
    pub server: String,
    /// The name.
    pub username: String,
    /// The password or token.
    pub password: SecretString,
}

/// A Docker engine.
pub struct DockerHost {
    docker: Docker,
    login: Option<RegistryLogin>,
    labels: BTreeMap<String, String>,
    own_images_first: bool,
    proxy: Option<String>,
}

impl std::fmt::Debug for DockerHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DockerHost").field("login", &self.login).finish_non_exhaustive()
    }
}

impl DockerHost {
    /// The engine at `address` (`unix:///…`, `tcp://…`, or a path), or the one at the usual socket. Nothing is connected
    /// until first use, so an engine that does not answer is not an error here.
    ///
    /// # Errors
    /// [`HostError::Refused`] for an address that is none, and for a socket that does not exist.
    pub fn new(address: Option<&str>, login: Option<RegistryLogin>) -> Result<Self, HostError> {
        let version = bollard::API_DEFAULT_VERSION;
        let docker = match address {
            None => Docker::connect_with_unix("/var/run/docker.sock", CLIENT_TIMEOUT_SECONDS, version),
            Some(address) if address.starts_with("tcp://") || address.starts_with("http://") => {
                Docker::connect_with_http(address, CLIENT_TIMEOUT_SECONDS, version)
            }
            Some(address) => Docker::connect_with_unix(address, CLIENT_TIMEOUT_SECONDS, version),
        };
        let docker = docker.map_err(|error| HostError::Refused(error.to_string()))?;
        let docker = docker.with_request_modifier(images::url_safe_login);
        Ok(Self { docker, login, labels: BTreeMap::new(), own_images_first: false, proxy: None })
    }

    /// Puts one more label on everything made from now on, so that it can be told from what others make.
    #[must_use]
    pub fn with_label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Takes an image that the engine has as it is there, and asks a registry only for one that it lacks. Otherwise a
    /// registry is asked each time what a tag means now, and what the engine has is taken when that fails.
    #[must_use]
    pub fn with_own_images_first(mut self) -> Self {
        self.own_images_first = true;
        self
    }

    /// Takes the container of that name for the reverse proxy, which is on tenants' networks and keeps none of them.
    #[must_use]
    pub fn with_proxy(mut self, container: &str) -> Self {
        self.proxy = Some(container.to_owned());
        self
    }

    /// The names of all volumes of a bot.
    async fn volumes_of(&self, bot: BotId) -> Result<Vec<String>, HostError> {
        let label = format!("{BOT_LABEL}={bot}");
        let options = ListVolumesOptions { filters: Some(HashMap::from([("label".to_owned(), vec![label])])) };
        let volumes = self.docker.list_volumes(Some(options)).await.map_err(failed)?.volumes.unwrap_or_default();
        Ok(volumes.into_iter().map(|volume| volume.name).collect())
    }

    /// The labels of a thing, with those that everything gets.
    fn labelled(&self, own: BTreeMap<String, String>) -> HashMap<String, String> {
        self.labels.clone().into_iter().chain(own).collect()
    }
}

/// Whether that is what the engine says of a container whose process ended a moment ago, before it has heard of it.
fn has_just_ended(message: &str) -> bool {
    ["not running", "cannot pause a stopped container", "cannot resume a stopped container"]
        .iter()
        .any(|words| message.contains(words))
}

/// Tells of a process that an engine lost sight of when it was killed. Later engines than 20.10 end it when they are to start
/// the container.
fn unless_lost(result: Result<(), Error>) -> Result<Result<(), Error>, HostError> {
    match result {
        Err(Error::DockerResponseServerError { message, .. }) if message.contains("id already in use") => {
            Err(HostError::LostSight(message))
        }
        other => Ok(other),
    }
}

/// Whether a container was removed by an engine that was killed in the midst of it: it is known still, and its files are not
/// there. All that can be done with it is to remove it.
fn is_torn(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 500, message } if message.contains("no such file or directory"))
}

/// Makes what exists a success.
fn unless_conflict(result: Result<(), Error>) -> Result<(), HostError> {
    match result {
        Err(Error::DockerResponseServerError { status_code: 304 | 409, .. }) => Ok(()),
        other => other.map_err(failed),
    }
}

/// Makes what is gone a success.
fn unless_absent(result: Result<(), Error>) -> Result<(), HostError> {
    match result {
        Err(Error::DockerResponseServerError { status_code: 304 | 404, .. }) => Ok(()),
        other => other.map_err(failed),
    }
}

/// Makes what is absent `None`.
fn optional<T>(result: Result<T, Error>) -> Result<Option<T>, HostError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// The longest part of an engine's message that is passed on, in characters.
const LONGEST_MESSAGE: usize = 300;

/// What an engine's answer means.
fn failed(error: Error) -> HostError {
    let shorten = |text: String| text.chars().take(LONGEST_MESSAGE).collect::<String>();
    match error {
        Error::DockerResponseServerError { message, .. } | Error::DockerStreamError { error: message }
            if message.contains("no space left on device") =>
        {
            HostError::NoSpace(shorten(message))
        }
        Error::DockerResponseServerError { status_code: 404, message } => HostError::NotFound(shorten(message)),
        Error::DockerResponseServerError { message, .. } | Error::DockerStreamError { error: message } => {
            HostError::Refused(shorten(message))
        }
        Error::RequestTimeoutError => HostError::TimedOut(std::time::Duration::from_secs(CLIENT_TIMEOUT_SECONDS)),
        // Whatever else the client reports happened on the way to the engine, or to its answer.
        other => HostError::Unreachable(shorten(other.to_string())),
    }
}

fn with_label(label: &str) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{label}=true")])])
}

fn labelled(name: String, labels: &HashMap<String, String>) -> Labelled {
    Labelled {
        name,
        bot_id: labels.get(BOT_LABEL).and_then(|id| id.parse().ok()),
        tenant_id: labels.get(TENANT_LABEL).and_then(|id| id.parse().ok()),
    }
}

#[async_trait]
impl ContainerHost for DockerHost {
    async fn resolve_image(&self, image: &ImageReference) -> Result<ImageDigest, HostError> {
        images::resolve(self, image).await
    }

    async fn look_up_image(&self, image: &ImageReference) -> Result<ImageDigest, HostError> {
        images::look_up(self, image).await
    }

    async fn pull_image(&self, image: &ImageDigest) -> Result<(), HostError> {
        images::pull_exactly(self, image).await
    }

    async fn observe(
        &self,
        bot: BotId,
        tenant: TenantId,
        image: Option<&ImageDigest>,
        volume: u32,
    ) -> Result<Observed, HostError> {
        let name = container_name(bot);
        let container = self.docker.inspect_container(&name, None::<InspectContainerOptions>).await;
        let data = optional(self.docker.inspect_volume(&data_volume_name(bot, volume)).await)?.is_some();
        let run = optional(self.docker.inspect_volume(&run_volume_name(bot)).await)?.is_some();
        let networks = networks::list(self, tenant).await?;
        let has_image = match image {
            Some(image) => optional(self.docker.inspect_image(image.as_str()).await)?.is_some(),
            None => false,
        };
        let torn = container.as_ref().is_err_and(is_torn);
        let container = if torn { None } else { optional(container)? };
        let joined = container.as_ref().and_then(|container| reading::network_id(container, &network_name(tenant)));
        Ok(Observed {
            container: match container {
                None if torn => Some(reading::torn(name)),
                container => container.map(reading::container).transpose()?,
            },
            has_image,
            has_volumes: data && run,
            has_any_volume: data || run,
            // A container stays with the network it was first started in, and cannot start in another of that name. One
            // that never was started needs a name that only one network has.
            has_network: joined.map_or(networks.len() == 1, |joined| networks.contains(&joined)),
        })
    }

    async fn ensure_network(&self, tenant: TenantId, subnet: Subnet) -> Result<(), HostError> {
        networks::ensure(self, tenant, subnet).await
    }

    async fn ensure_volumes(&self, bot: BotId, tenant: TenantId, volume: u32) -> Result<(), HostError> {
        for name in [data_volume_name(bot, volume), run_volume_name(bot)] {
            let labels = Some(self.labelled(volume_labels(bot, tenant)));
            let request = VolumeCreateRequest { name: Some(name), labels, ..VolumeCreateRequest::default() };
            self.docker.create_volume(request).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<String, HostError> {
        containers::create(self, spec).await
    }

    async fn install_key(&self, bot: BotId, key: &SecretString) -> Result<(), HostError> {
        containers::install_key(self, bot, key).await
    }

    async fn start_container(&self, bot: BotId) -> Result<(), HostError> {
        let started = self.docker.start_container(&container_name(bot), None::<StartContainerOptions>).await;
        unless_conflict(unless_lost(started)?)
    }

    async fn stop_container(&self, bot: BotId) -> Result<(), HostError> {
        let options = StopContainerOptions { signal: None, t: Some(STOP_PATIENCE_SECONDS) };
        unless_absent(self.docker.stop_container(&container_name(bot), Some(options)).await)
    }

    async fn restart_container(&self, bot: BotId) -> Result<(), HostError> {
        let options = RestartContainerOptions { signal: None, t: Some(STOP_PATIENCE_SECONDS) };
        unless_lost(self.docker.restart_container(&container_name(bot), Some(options)).await)?.map_err(failed)
    }

    async fn pause_container(&self, bot: BotId) -> Result<bool, HostError> {
        match self.docker.pause_container(&container_name(bot)).await {
            Ok(()) => Ok(true),
            // Whoever paused it was killed before it woke it.
            Err(Error::DockerResponseServerError { message, .. }) if message.contains("already paused") => Ok(true),
            // There is none, or it does not run.
            Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(false),
            Err(Error::DockerResponseServerError { message, .. }) if has_just_ended(&message) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    async fn resume_container(&self, bot: BotId) -> Result<bool, HostError> {
        match self.docker.unpause_container(&container_name(bot)).await {
            Ok(()) => Ok(true),
            Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(false),
            Err(Error::DockerResponseServerError { message, .. })
                if message.contains("is not paused") || has_just_ended(&message) =>
            {
                Ok(false)
            }
            Err(error) => Err(failed(error)),
        }
    }

    async fn remove_container(&self, bot: BotId) -> Result<(), HostError> {
        let options = RemoveContainerOptions { v: false, force: true, link: false };
        match self.docker.remove_container(&container_name(bot), Some(options)).await {
            // Its removal is under way already: the next look tells.
            Err(Error::DockerResponseServerError { status_code: 409, .. }) => Ok(()),
            other => unless_absent(other),
        }
    }

    async fn remove_volumes(&self, bot: BotId, volume: u32) -> Result<(), HostError> {
        // An engine that was killed while it made one may have lost its labels, so that the names are asked for, too.
        let mut names: BTreeSet<String> = self.volumes_of(bot).await?.into_iter().collect();
        names.extend((0..=volume).map(|number| data_volume_name(bot, number)));
        // What is looked for goes last, so that whoever is interrupted is known to be not done.
        let last = [data_volume_name(bot, volume), run_volume_name(bot)];
        for name in names.iter().filter(|name| !last.contains(name)).chain(&last) {
            unless_absent(self.docker.remove_volume(name, None::<RemoveVolumeOptions>).await)?;
        }
        Ok(())
    }

    async fn remove_data_volume(&self, bot: BotId, volume: u32) -> Result<(), HostError> {
        let name = data_volume_name(bot, volume);
        unless_absent(self.docker.remove_volume(&name, None::<RemoveVolumeOptions>).await)
    }

    async fn remove_network_if_unused(&self, tenant: TenantId) -> Result<bool, HostError> {
        networks::remove_if_unused(self, tenant).await
    }

    async fn connect_proxy(&self, tenants: &BTreeSet<TenantId>) -> Result<BTreeMap<TenantId, HostError>, HostError> {
        match &self.proxy {
            Some(proxy) if !tenants.is_empty() => networks::connect(self, proxy, tenants).await,
            _ => Ok(BTreeMap::new()),
        }
    }

    async fn logs(&self, bot: BotId, tail: u32) -> Result<Vec<RawLogLine>, HostError> {
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            timestamps: true,
            tail: tail.to_string(),
            ..LogsOptions::default()
        };
        let mut stream = Box::pin(self.docker.logs(&container_name(bot), Some(options)));
        let mut lines = reading::Lines::default();
        while let Some(part) = stream.next().await {
            lines.push(part.map_err(failed)?);
        }
        Ok(lines.finish())
    }

    async fn stats(&self, bot: BotId) -> Result<Option<ContainerStats>, HostError> {
        let options = StatsOptions { stream: false, one_shot: false };
        let mut stream = Box::pin(self.docker.stats(&container_name(bot), Some(options)));
        match stream.next().await {
            Some(Ok(answer)) => Ok(reading::stats(&answer)),
            Some(Err(Error::DockerResponseServerError { status_code: 404, .. })) | None => Ok(None),
            Some(Err(error)) => Err(failed(error)),
        }
    }

    async fn inventory(&self) -> Result<Inventory, HostError> {
        let mut inventory = Inventory::default();
        let filters = Some(with_label(MANAGED_LABEL));
        let options = ListContainersOptions { all: true, filters, ..ListContainersOptions::default() };
        for container in self.docker.list_containers(Some(options)).await.map_err(failed)? {
            let name = container.names.unwrap_or_default().into_iter().next().unwrap_or_default();
            let labels = container.labels.unwrap_or_default();
            inventory.containers.push(labelled(name.trim_start_matches('/').to_owned(), &labels));
        }
        let options = ListVolumesOptions { filters: Some(with_label(MANAGED_LABEL)) };
        let volumes = self.docker.list_volumes(Some(options)).await.map_err(failed)?;
        let volumes = volumes.volumes.unwrap_or_default();
        inventory.volumes = volumes.into_iter().map(|volume| labelled(volume.name, &volume.labels)).collect();
        let options = ListNetworksOptions { filters: Some(with_label(MANAGED_NETWORK_LABEL)) };
        for network in self.docker.list_networks(Some(options)).await.map_err(failed)? {
            let labels = network.labels.unwrap_or_default();
            inventory.networks.push(labelled(network.name.unwrap_or_default(), &labels));
        }
        Ok(inventory)
    }

    async fn events(&self) -> Result<BoxStream<'static, BotId>, HostError> {
        self.docker.ping().await.map_err(failed)?;
        // What health checks do inside is no change; what they find is.
        let kinds = ["start", "die", "pause", "unpause", "destroy", "oom", "health_status"];
        let filters = HashMap::from([
            ("type".to_owned(), vec!["container".to_owned()]),
            ("label".to_owned(), vec![format!("{MANAGED_LABEL}=true")]),
            ("event".to_owned(), kinds.map(str::to_owned).to_vec()),
        ]);
        let options = EventsOptions { since: None, until: None, filters: Some(filters) };
        let docker = self.docker.clone();
        let bot = |message: EventMessage| message.actor?.attributes?.get(BOT_LABEL)?.parse().ok();
        let stream = docker.events(Some(options));
        let bots = stream.take_while(|event| std::future::ready(event.is_ok()));
        Ok(bots.filter_map(move |event| std::future::ready(event.ok().and_then(bot))).boxed())
    }
}
