//! A container engine in memory: it keeps state, and can be told to go wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Notify;

use crate::fleet::container::{ContainerSpec, container_name, data_volume_name, network_name, run_volume_name};
use crate::fleet::{
    ContainerHealth, ContainerHost, ContainerState, ContainerStats, HostError, ImageDigest, ImageReference, Inventory,
    Labelled, Observed, ObservedContainer, RawLogLine, Subnet,
};
use crate::ids::{BotId, TenantId};

/// How an engine goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It answers with this, and does nothing.
    Fail(HostError),
    /// It never answers, and does nothing.
    Hang,
    /// It does what was asked and never answers.
    HangAfter,
}

/// A container engine in memory.
#[derive(Default)]
pub struct MemoryHost {
    state: Mutex<State>,
    hung: Arc<Notify>,
}

#[derive(Default)]
struct State {
    containers: BTreeMap<BotId, Container>,
    volumes: BTreeMap<String, (BotId, Option<TenantId>, Vec<u8>)>,
    networks: BTreeMap<String, (TenantId, Subnet)>,
    proxied: BTreeSet<TenantId>,
    closed: BTreeSet<TenantId>,
    others_subnets: Vec<Subnet>,
    services: Vec<String>,
    spoiled: Vec<String>,
    wrecked: Vec<String>,
    images: Vec<ImageDigest>,
    made: u64,
    calls: Vec<&'static str>,
    faults: BTreeMap<usize, Fault>,
    away: bool,
    releases: u64,
    broken_images: Vec<String>,
    broken_volumes: Vec<(BotId, u32)>,
    key: BTreeMap<BotId, String>,
}

#[derive(Clone)]
struct Container {
    id: String,
    spec: ContainerSpec,
    state: ContainerState,
    exit_code: i64,
}

impl std::fmt::Debug for MemoryHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryHost").field("calls", &self.lock().calls.len()).finish_non_exhaustive()
    }
}

impl MemoryHost {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the engine refuse to put the reverse proxy on the tenant's network.
    pub fn close_network(&self, tenant: TenantId) {
        self.lock().closed.insert(tenant);
    }

    /// The tenants on whose networks the reverse proxy is.
    pub fn proxied(&self) -> BTreeSet<TenantId> {
        self.lock().proxied.clone()
    }

    /// Makes every image's name mean another image.
    pub fn release_images(&self) {
        self.lock().releases += 1;
    }

    /// The calls so far, by name.
    pub fn calls(&self) -> Vec<&'static str> {
        self.lock().calls.clone()
    }

    /// Makes the call of that number, counted from zero, go wrong.
    pub fn fault(&self, call: usize, fault: Fault) {
        self.lock().faults.insert(call, fault);
    }

    /// Makes every call fail as if nobody were there, or ends that.
    pub fn set_away(&self, away: bool) {
        self.lock().away = away;
    }

    /// Containers of images with this in their name end with exit code 1.
    pub fn break_image(&self, part: &str) {
        self.lock().broken_images.push(part.to_owned());
    }

    /// The bot's container ends with exit code 1 when it has this volume.
    pub fn refuse_volume(&self, bot: BotId, volume: u32) {
        self.lock().broken_volumes.push((bot, volume));
    }

    /// Loses a bot's container, as after an engine's accident.
    pub fn lose_container(&self, bot: BotId) {
        self.lock().containers.remove(&bot);
    }

    /// Makes the engine refuse to start a bot's present container, whenever it is asked.
    pub fn spoil_container(&self, bot: BotId) {
        let mut state = self.lock();
        let id = state.containers.get(&bot).map(|container| container.id.clone());
        state.spoiled.extend(id);
    }

    /// Makes the process of a bot's present container end with exit code 1, now and whenever it is started.
    pub fn wreck_container(&self, bot: BotId) {
        let mut state = self.lock();
        let Some(container) = state.containers.get_mut(&bot) else { return };
        (container.state, container.exit_code) = (ContainerState::Exited, 1);
        let id = container.id.clone();
        state.wrecked.push(id);
    }

    /// Gives addresses to a network of somebody else's.
    pub fn take_subnet(&self, subnet: Subnet) {
        self.lock().others_subnets.push(subnet);
    }

    /// Runs something of the installation that is no bot and carries the label of all that is managed.
    pub fn run_service(&self, name: &str) {
        self.lock().services.push(name.to_owned());
    }

    /// The addresses of a tenant's network; nothing if it has none.
    pub fn subnet_of(&self, tenant: TenantId) -> Option<Subnet> {
        self.lock().networks.get(&network_name(tenant)).map(|(_, subnet)| *subnet)
    }

    /// Lets a bot's process end.
    pub fn end(&self, bot: BotId, exit_code: i64) {
        if let Some(container) = self.lock().containers.get_mut(&bot) {
            (container.state, container.exit_code) = (ContainerState::Exited, exit_code);
        }
    }

    /// Waits until a call hangs.
    pub async fn hung(&self) {
        self.hung.notified().await;
    }

    /// The state of a bot's container.
    pub fn state_of(&self, bot: BotId) -> Option<ContainerState> {
        self.lock().containers.get(&bot).map(|container| container.state)
    }

    /// What a bot's container was made from.
    pub fn spec_of(&self, bot: BotId) -> Option<ContainerSpec> {
        self.lock().containers.get(&bot).map(|container| container.spec.clone())
    }

    /// The key a bot was given last.
    pub fn key_of(&self, bot: BotId) -> Option<String> {
        self.lock().key.get(&bot).cloned()
    }

    /// Writes into a bot's volume.
    pub fn write_data(&self, bot: BotId, data: &[u8]) {
        let mut state = self.lock();
        let name = current_data(&state, bot);
        if let Some((_, _, content)) = state.volumes.get_mut(&name) {
            content.extend_from_slice(data);
        }
    }

    /// What is in a bot's volume; nothing if there is no volume.
    pub fn read_data(&self, bot: BotId) -> Option<Vec<u8>> {
        let state = self.lock();
        state.volumes.get(&current_data(&state, bot)).map(|(_, _, content)| content.clone())
    }

    /// What is in the volume of that name; nothing if there is none.
    pub(super) fn read_volume(&self, name: &str) -> Option<Vec<u8>> {
        self.lock().volumes.get(name).map(|(_, _, content)| content.clone())
    }

    /// Puts this into the volume of that name, which is made if there is none.
    pub(super) fn fill_volume(&self, name: &str, bot: BotId, tenant: TenantId, content: Vec<u8>) {
        self.lock().volumes.insert(name.to_owned(), (bot, Some(tenant), content));
    }

    /// Loses a bot's volumes, as after a disk's accident.
    pub fn lose_volumes(&self, bot: BotId) {
        self.lock().volumes.retain(|_, (owner, _, _)| *owner != bot);
    }

    /// How many containers, volumes and networks there are.
    pub fn counts(&self) -> (usize, usize, usize) {
        let state = self.lock();
        (state.containers.len(), state.volumes.len(), state.networks.len())
    }

    async fn call<T>(
        &self,
        name: &'static str,
        work: impl FnOnce(&mut State) -> Result<T, HostError> + Send,
    ) -> Result<T, HostError> {
        let result = {
            let mut state = self.lock();
            let number = state.calls.len();
            state.calls.push(name);
            let fault = state.faults.remove(&number);
            match fault {
                _ if state.away => Some(Err(HostError::Unreachable("told to be away".to_owned()))),
                Some(Fault::Fail(error)) => Some(Err(error)),
                Some(Fault::Hang) => None,
                // What it answers is never heard.
                Some(Fault::HangAfter) => work(&mut state).ok().and(None),
                None => Some(work(&mut state)),
            }
        };
        if let Some(result) = result {
            // A real engine is never quicker than one turn of the scheduler.
            tokio::task::yield_now().await;
            return result;
        }
        self.hung.notify_one();
        std::future::pending().await
    }
}

/// The name of the data volume that the bot's container has.
fn current_data(state: &State, bot: BotId) -> String {
    data_volume_name(bot, state.containers.get(&bot).map_or(0, |container| container.spec.volume))
}

fn container(state: &mut State, bot: BotId) -> Result<&mut Container, HostError> {
    state.containers.get_mut(&bot).ok_or_else(|| HostError::NotFound(container_name(bot)))
}

/// What an image's name means, in its latest release.
fn meaning(state: &State, image: &ImageReference) -> Result<ImageDigest, HostError> {
    use sha2::Digest as _;
    let release = format!("{image} {}", state.releases);
    let digest = format!("{}@sha256:{}", image.name(), hex::encode(sha2::Sha256::digest(release.as_bytes())));
    digest.parse().map_err(|_| HostError::Refused("no digest".to_owned()))
}

fn begin(state: &mut State, bot: BotId) -> Result<(), HostError> {
    let broken = state.broken_images.clone();
    let networks: Vec<String> = state.networks.keys().cloned().collect();
    let (spoiled, wrecked) = (state.spoiled.clone(), state.wrecked.clone());
    let broken_volumes = state.broken_volumes.clone();
    let container = container(state, bot)?;
    if spoiled.contains(&container.id) {
        return Err(HostError::Refused(format!("task {}: already exists", container.id)));
    }
    if !networks.contains(&network_name(container.spec.tenant_id)) {
        return Err(HostError::NotFound(network_name(container.spec.tenant_id)));
    }
    let breaks = broken.iter().any(|part| container.spec.image.as_str().contains(part.as_str()))
        || wrecked.contains(&container.id)
        || broken_volumes.contains(&(bot, container.spec.volume));
    (container.state, container.exit_code) =
        if breaks { (ContainerState::Exited, 1) } else { (ContainerState::Running, 0) };
    Ok(())
}

#[async_trait]
impl ContainerHost for MemoryHost {
    async fn resolve_image(&self, image: &ImageReference) -> Result<ImageDigest, HostError> {
        self.call("resolve_image", |state| {
            let digest = meaning(state, image)?;
            state.images.push(digest.clone());
            Ok(digest)
        })
        .await
    }

    async fn look_up_image(&self, image: &ImageReference) -> Result<ImageDigest, HostError> {
        self.call("look_up_image", |state| meaning(state, image)).await
    }

    async fn pull_image(&self, image: &ImageDigest) -> Result<(), HostError> {
        self.call("pull_image", |state| {
            state.images.push(image.clone());
            Ok(())
        })
        .await
    }

    async fn observe(
        &self,
        bot: BotId,
        tenant: TenantId,
        image: Option<&ImageDigest>,
        volume: u32,
    ) -> Result<Observed, HostError> {
        self.call("observe", |state| {
            let has = |name: &str| state.volumes.contains_key(name);
            let (data, run) = (has(&data_volume_name(bot, volume)), has(&run_volume_name(bot)));
            let seen = state.containers.get(&bot).map(|container| ObservedContainer {
                id: container.id.clone(),
                state: container.state,
                health: (container.state == ContainerState::Running).then_some(ContainerHealth::Healthy),
                spec_hash: Some(container.spec.hash()),
                exit_code: container.exit_code,
                error: None,
                started_at: None,
                created_at: None,
            });
            Ok(Observed {
                container: seen,
                has_image: image.is_some_and(|image| state.images.contains(image)),
                has_volumes: data && run,
                has_any_volume: data || run,
                has_network: state.networks.contains_key(&network_name(tenant)),
            })
        })
        .await
    }

    async fn ensure_network(&self, tenant: TenantId, subnet: Subnet) -> Result<(), HostError> {
        self.call("ensure_network", |state| {
            let name = network_name(tenant);
            if state.networks.contains_key(&name) {
                return Ok(());
            }
            let mut taken = state.networks.values().map(|(_, subnet)| subnet).chain(&state.others_subnets);
            if taken.any(|taken| *taken == subnet) {
                return Err(HostError::SubnetTaken(subnet.to_string()));
            }
            state.networks.insert(name, (tenant, subnet));
            Ok(())
        })
        .await
    }

    async fn ensure_volumes(&self, bot: BotId, tenant: TenantId, volume: u32) -> Result<(), HostError> {
        self.call("ensure_volumes", |state| {
            for name in [data_volume_name(bot, volume), run_volume_name(bot)] {
                state.volumes.entry(name).or_insert_with(|| (bot, Some(tenant), Vec::new()));
            }
            Ok(())
        })
        .await
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<String, HostError> {
        self.call("create_container", |state| {
            if let Some(existing) = state.containers.get(&spec.bot_id) {
                let same = existing.spec == *spec;
                return if same { Ok(existing.id.clone()) } else { Err(HostError::Refused("name taken".to_owned())) };
            }
            if !state.images.contains(&spec.image) {
                return Err(HostError::NotFound(spec.image.to_string()));
            }
            state.made += 1;
            let id = format!("{:064x}", state.made);
            let made = Container { id: id.clone(), spec: spec.clone(), state: ContainerState::Created, exit_code: 0 };
            state.containers.insert(spec.bot_id, made);
            Ok(id)
        })
        .await
    }

    async fn install_key(&self, bot: BotId, key: &SecretString) -> Result<(), HostError> {
        self.call("install_key", |state| {
            container(state, bot)?;
            state.key.insert(bot, key.expose_secret().to_owned());
            Ok(())
        })
        .await
    }

    async fn start_container(&self, bot: BotId) -> Result<(), HostError> {
        self.call("start_container", |state| begin(state, bot)).await
    }

    async fn stop_container(&self, bot: BotId) -> Result<(), HostError> {
        self.call("stop_container", |state| {
            if let Some(container) = state.containers.get_mut(&bot) {
                container.state = ContainerState::Exited;
            }
            Ok(())
        })
        .await
    }

    async fn restart_container(&self, bot: BotId) -> Result<(), HostError> {
        self.call("restart_container", |state| begin(state, bot)).await
    }

    async fn pause_container(&self, bot: BotId) -> Result<bool, HostError> {
        self.call("pause_container", |state| {
            let alive = state.containers.get_mut(&bot).filter(|container| container.state.is_alive());
            let still = alive.filter(|container| container.state != ContainerState::Restarting);
            Ok(still.map(|container| container.state = ContainerState::Paused).is_some())
        })
        .await
    }

    async fn resume_container(&self, bot: BotId) -> Result<bool, HostError> {
        self.call("resume_container", |state| {
            let paused = state.containers.get(&bot).is_some_and(|container| container.state == ContainerState::Paused);
            if paused { begin(state, bot).map(|()| true) } else { Ok(false) }
        })
        .await
    }

    async fn remove_container(&self, bot: BotId) -> Result<(), HostError> {
        self.call("remove_container", |state| {
            state.containers.remove(&bot);
            Ok(())
        })
        .await
    }

    async fn remove_volumes(&self, bot: BotId, _volume: u32) -> Result<(), HostError> {
        self.call("remove_volumes", |state| {
            state.volumes.retain(|_, (owner, _, _)| *owner != bot);
            Ok(())
        })
        .await
    }

    async fn remove_data_volume(&self, bot: BotId, volume: u32) -> Result<(), HostError> {
        self.call("remove_data_volume", |state| {
            state.volumes.remove(&data_volume_name(bot, volume));
            Ok(())
        })
        .await
    }

    async fn remove_network_if_unused(&self, tenant: TenantId) -> Result<bool, HostError> {
        self.call("remove_network_if_unused", |state| {
            let used = state.containers.values().any(|container| container.spec.tenant_id == tenant);
            if !used {
                state.networks.remove(&network_name(tenant));
                state.proxied.remove(&tenant);
            }
            Ok(!used)
        })
        .await
    }

    async fn connect_proxy(&self, tenants: &BTreeSet<TenantId>) -> Result<BTreeMap<TenantId, HostError>, HostError> {
        self.call("connect_proxy", |state| {
            let has_network = |tenant: &TenantId| state.networks.contains_key(&network_name(*tenant));
            let (refused, joined): (Vec<_>, Vec<_>) =
                tenants.iter().copied().filter(has_network).partition(|tenant| state.closed.contains(tenant));
            state.proxied.extend(joined);
            Ok(refused
                .into_iter()
                .map(|tenant| (tenant, HostError::Refused("no address is left".to_owned())))
                .collect())
        })
        .await
    }

    async fn logs(&self, bot: BotId, tail: u32) -> Result<Vec<RawLogLine>, HostError> {
        self.call("logs", |state| {
            container(state, bot)?;
            let line = |text: &str| RawLogLine { at: None, is_stderr: false, text: text.to_owned() };
            let lines = ["[INFO] ready", "[WARN] idle"].map(line).to_vec();
            let skipped = lines.len().saturating_sub(usize::try_from(tail).unwrap_or(usize::MAX));
            Ok(lines.into_iter().skip(skipped).collect())
        })
        .await
    }

    async fn stats(&self, bot: BotId) -> Result<Option<ContainerStats>, HostError> {
        self.call("stats", |state| {
            let runs = state.containers.get(&bot).is_some_and(|container| container.state == ContainerState::Running);
            let (memory_bytes, memory_limit_bytes) = (64 * 1024 * 1024, 2048 * 1024 * 1024);
            Ok(runs.then_some(ContainerStats { cpu_basis_points: 1_250, memory_bytes, memory_limit_bytes }))
        })
        .await
    }

    async fn inventory(&self) -> Result<Inventory, HostError> {
        self.call("inventory", |state| {
            let containers = state.containers.values().map(|container| Labelled {
                name: container_name(container.spec.bot_id),
                bot_id: Some(container.spec.bot_id),
                tenant_id: Some(container.spec.tenant_id),
            });
            let services =
                state.services.iter().map(|name| Labelled { name: name.clone(), bot_id: None, tenant_id: None });
            let containers = containers.chain(services);
            let volumes = state.volumes.iter().map(|(name, (bot, tenant, _))| Labelled {
                name: name.clone(),
                bot_id: Some(*bot),
                tenant_id: *tenant,
            });
            let networks = state.networks.iter().map(|(name, (tenant, _))| Labelled {
                name: name.clone(),
                bot_id: None,
                tenant_id: Some(*tenant),
            });
            Ok(Inventory { containers: containers.collect(), volumes: volumes.collect(), networks: networks.collect() })
        })
        .await
    }

    async fn events(&self) -> Result<BoxStream<'static, BotId>, HostError> {
        self.call("events", |_| Ok(stream::empty().boxed())).await
    }
}
