//! What the fleet needs from outside.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use secrecy::SecretString;

use super::container::ContainerSpec;
use super::error::HostError;
use super::image::{ImageDigest, ImageReference};
use super::network::Subnet;
use crate::ids::{BotId, TenantId};

/// A container engine that runs bots.
///
/// Every operation is idempotent: making what exists and removing what does not are successes. Names come from
/// [`super::container`], so an implementation never invents any.
#[async_trait]
pub trait ContainerHost: Send + Sync + 'static {
    /// Finds out what `image` means now: fetches it if a registry has it, and otherwise takes what the engine has under
    /// that name.
    async fn resolve_image(&self, image: &ImageReference) -> Result<ImageDigest, HostError>;

    /// Finds out what `image` means now, from a registry if one has it and else from the engine, and fetches nothing.
    async fn look_up_image(&self, image: &ImageReference) -> Result<ImageDigest, HostError>;

    /// Makes the engine have exactly this image.
    async fn pull_image(&self, image: &ImageDigest) -> Result<(), HostError>;

    /// What there is of a bot. `image` is the one it is to run, if that is known, and `volume` the one it is to have.
    async fn observe(
        &self,
        bot: BotId,
        tenant: TenantId,
        image: Option<&ImageDigest>,
        volume: u32,
    ) -> Result<Observed, HostError>;

    /// Makes the tenant's network, with these addresses unless it is there already.
    async fn ensure_network(&self, tenant: TenantId, subnet: Subnet) -> Result<(), HostError>;

    /// Makes the bot's volumes, with the data volume of that number.
    async fn ensure_volumes(&self, bot: BotId, tenant: TenantId, volume: u32) -> Result<(), HostError>;

    /// Makes the container, without starting it, and answers its id. One of that name and description is taken as it is.
    async fn create_container(&self, spec: &ContainerSpec) -> Result<String, HostError>;

    /// Puts the key where only the bot's user can read it.
    async fn install_key(&self, bot: BotId, key: &SecretString) -> Result<(), HostError>;

    /// Starts the container.
    async fn start_container(&self, bot: BotId) -> Result<(), HostError>;

    /// Stops the container: politely, then by force.
    async fn stop_container(&self, bot: BotId) -> Result<(), HostError>;

    /// Stops and starts the container.
    async fn restart_container(&self, bot: BotId) -> Result<(), HostError>;

    /// Freezes the container's processes, and answers whether they stand still now: nothing that ends does.
    async fn pause_container(&self, bot: BotId) -> Result<bool, HostError>;

    /// Lets a paused container go on, and answers whether it was one: others may have woken or ended it.
    async fn resume_container(&self, bot: BotId) -> Result<bool, HostError>;

    /// Removes the container, but no volume.
    async fn remove_container(&self, bot: BotId) -> Result<(), HostError>;

    /// Removes the bot's volumes with everything in them: data volumes up to that number, and whatever else is its.
    async fn remove_volumes(&self, bot: BotId, volume: u32) -> Result<(), HostError>;

    /// Removes one of the bot's data volumes with everything in it.
    async fn remove_data_volume(&self, bot: BotId, volume: u32) -> Result<(), HostError>;

    /// Removes the tenant's network unless a container is on it besides the reverse proxy, and answers whether it is gone.
    async fn remove_network_if_unused(&self, tenant: TenantId) -> Result<bool, HostError>;

    /// Puts the reverse proxy on the networks of these tenants, as far as they have one, so that it reaches their bots. Answers with
    /// what went wrong at those on which it is not.
    async fn connect_proxy(&self, tenants: &BTreeSet<TenantId>) -> Result<BTreeMap<TenantId, HostError>, HostError>;

    /// The last `tail` lines the bot wrote, oldest first, each with the time the engine read it.
    async fn logs(&self, bot: BotId, tail: u32) -> Result<Vec<RawLogLine>, HostError>;

    /// What the bot uses now; nothing unless it runs.
    async fn stats(&self, bot: BotId) -> Result<Option<ContainerStats>, HostError>;

    /// Everything on the engine that carries our labels.
    async fn inventory(&self) -> Result<Inventory, HostError>;

    /// The bots whose containers change, as it happens. The stream ends when the engine goes away.
    async fn events(&self) -> Result<BoxStream<'static, BotId>, HostError>;
}

/// What there is of a bot on an engine.
#[expect(clippy::struct_excessive_bools, reason = "each says of one thing whether it is there, in any combination")]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Its container.
    pub container: Option<ObservedContainer>,
    /// Whether the engine has the image it is to run.
    pub has_image: bool,
    /// Whether its key's volume and the data volume it is to have exist.
    pub has_volumes: bool,
    /// Whether one of these exists.
    pub has_any_volume: bool,
    /// Whether its tenant's network exists, and is the one its container was made for.
    pub has_network: bool,
}

/// A container as its engine describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedContainer {
    /// The engine's id.
    pub id: String,
    /// Its state.
    pub state: ContainerState,
    /// Its health; nothing if it has no health check.
    pub health: Option<ContainerHealth>,
    /// The fingerprint it was made with.
    pub spec_hash: Option<String>,
    /// How its process ended, if it has.
    pub exit_code: i64,
    /// What the engine said when it could not start it, or the last failed health check.
    pub error: Option<String>,
    /// When its process began.
    pub started_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
}

/// The engine's word for a container's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Its process runs.
    Running,
    /// Its process is frozen.
    Paused,
    /// Its process ended and the engine is about to start it again.
    Restarting,
    /// It is going away.
    Removing,
    /// Its process ended.
    Exited,
    /// The engine could not clean it up.
    Dead,
}

impl ContainerState {
    /// Every state.
    pub const ALL: [Self; 7] =
        [Self::Created, Self::Running, Self::Paused, Self::Restarting, Self::Removing, Self::Exited, Self::Dead];

    /// The engine's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// The state of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether a process may be running.
    pub const fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }
}

/// What a container's health check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContainerHealth {
    /// Not known yet.
    Starting,
    /// Well.
    Healthy,
    /// Not well.
    Unhealthy,
}

impl ContainerHealth {
    /// The engine's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// The health of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Starting, Self::Healthy, Self::Unhealthy].into_iter().find(|health| health.as_str() == word)
    }
}

/// One line of a bot's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawLogLine {
    /// When the engine read it.
    pub at: Option<Timestamp>,
    /// Whether it came on standard error.
    pub is_stderr: bool,
    /// The line, without its end.
    pub text: String,
}

/// What a bot uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerStats {
    /// Hundredths of a percent of one processor: 15 000 is one and a half processors.
    pub cpu_basis_points: u64,
    /// Memory in use, in bytes, without the page cache.
    pub memory_bytes: u64,
    /// The most memory it may use, in bytes.
    pub memory_limit_bytes: u64,
}

/// Everything on an engine that carries our labels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// Containers.
    pub containers: Vec<Labelled>,
    /// Volumes.
    pub volumes: Vec<Labelled>,
    /// Networks.
    pub networks: Vec<Labelled>,
}

/// A thing with labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// Its name.
    pub name: String,
    /// The bot it says it belongs to.
    pub bot_id: Option<BotId>,
    /// The tenant it says it belongs to.
    pub tenant_id: Option<TenantId>,
}
