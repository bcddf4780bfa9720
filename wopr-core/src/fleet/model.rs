//! A bot: what its owner wants, what the account allows, what was seen.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::image::{ImageDigest, ImageReference};
use super::settings::{BotEnv, BotName, Discovery, ReleaseChannel, RestartPolicy, UpdatePolicy};
use crate::billing::{ResourceTier, StorageTier};
use crate::ids::{BotId, TenantId, UserId};

/// A bot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bot {
    /// Its id.
    pub id: BotId,
    /// Who owns and pays for it.
    pub tenant_id: TenantId,
    /// Who made it, if that was a person.
    pub created_by: Option<UserId>,
    /// Its name.
    pub name: BotName,
    /// What its owner says about it.
    pub description: String,
    /// What runs.
    pub spec: BotSpec,
    /// What ran before the last change, until the change has proved itself.
    pub fallback: Option<BotSpec>,
    /// The releases it follows.
    pub release_channel: ReleaseChannel,
    /// When it wants new images.
    pub update_policy: UpdatePolicy,
    /// What it may use.
    pub resource_tier: ResourceTier,
    /// How large its volume may grow.
    pub storage_tier: StorageTier,
    /// What its owner wants.
    pub desired: DesiredState,
    /// Goes up with every change of what is wanted.
    pub generation: i64,
    /// Whether a restart was asked for and has not been done.
    pub restart_wanted: bool,
    /// Since when the account may not run it.
    pub suspended_at: Option<Timestamp>,
    /// When it is destroyed unless the account is paid up before.
    pub destroy_after: Option<Timestamp>,
    /// Since when it is to run and may.
    pub running_since: Option<Timestamp>,
    /// How far the way from wanted to seen has got.
    pub phase: Phase,
    /// What was last seen.
    pub seen: Seen,
    /// The container that was given its key.
    pub keyed_container: Option<String>,
    /// Why it is not yet as wanted.
    pub last_error: Option<String>,
    /// How often the way there failed in a row.
    pub attempts: i32,
    /// Whether its container was made anew since it last was as wanted.
    pub remade: bool,
    /// When it is looked at again, if there is a reason to.
    pub next_attempt_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its description or what is wanted last changed.
    pub updated_at: Timestamp,
}

/// The part of a bot that a change can be rolled back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BotSpec {
    /// The image, as asked for.
    pub image: ImageReference,
    /// What it means; nothing until the engine has found out.
    pub digest: Option<ImageDigest>,
    /// Its variables.
    pub env: BotEnv,
    /// What the engine does when the process ends.
    pub restart_policy: RestartPolicy,
    /// Whether it looks for peers.
    pub discovery: Option<Discovery>,
    /// Which of its data volumes it has: each restore makes the next one.
    pub volume: u32,
}

/// What the owner wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DesiredState {
    /// It is to run.
    Running,
    /// It is to be stopped, its data kept.
    Stopped,
    /// It is to go, with its data.
    Destroyed,
}

impl DesiredState {
    /// The stored word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Destroyed => "destroyed",
        }
    }

    /// The state of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Running, Self::Stopped, Self::Destroyed].into_iter().find(|state| state.as_str() == word)
    }
}

/// What the account allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Bots may run.
    Run,
    /// Bots are stopped and kept, at most until then.
    Hold {
        /// When they are destroyed; nothing if they are kept until somebody decides.
        destroy_after: Option<Timestamp>,
    },
}

/// How far the way from wanted to seen has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing was done yet.
    Pending,
    /// The image is being fetched.
    Pulling,
    /// Volumes, network and container are being made.
    Creating,
    /// The process starts, or its health is not known yet.
    Starting,
    /// It runs, and its health check agrees.
    Running,
    /// It is being stopped.
    Stopping,
    /// It is stopped.
    Stopped,
    /// It is being removed.
    Destroying,
    /// It is gone.
    Destroyed,
    /// The last attempt failed. Another follows by itself.
    Error,
}

impl Phase {
    const ALL: [Self; 10] = [
        Self::Pending,
        Self::Pulling,
        Self::Creating,
        Self::Starting,
        Self::Running,
        Self::Stopping,
        Self::Stopped,
        Self::Destroying,
        Self::Destroyed,
        Self::Error,
    ];

    /// The stored word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Pulling => "pulling",
            Self::Creating => "creating",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Destroying => "destroying",
            Self::Destroyed => "destroyed",
            Self::Error => "error",
        }
    }

    /// The phase of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == word)
    }

    /// The word customers see: one for everything on the way to running.
    pub const fn status(self) -> &'static str {
        match self {
            Self::Pending | Self::Pulling | Self::Creating | Self::Starting => "provisioning",
            Self::Running | Self::Stopping | Self::Stopped | Self::Destroying | Self::Destroyed | Self::Error => {
                self.as_str()
            }
        }
    }
}

/// What was last seen of a bot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// The engine's id of the container.
    pub container_id: Option<String>,
    /// The engine's word for its state.
    pub container_state: Option<super::ports::ContainerState>,
    /// Its health.
    pub health: Option<super::ports::ContainerHealth>,
    /// When its process began.
    pub started_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
}

impl Bot {
    /// Makes [`Bot::running_since`] agree with what is wanted and allowed.
    pub(super) fn settle_running_since(&mut self, now: Timestamp) {
        let runs = self.desired == DesiredState::Running && self.suspended_at.is_none();
        self.running_since = runs.then(|| self.running_since.unwrap_or(now));
    }

    /// Docker's word for the container's state; `stopped` without one, `pulling` while its image is fetched.
    pub fn state_word(&self) -> &'static str {
        match self.seen.container_state {
            Some(state) => state.as_str(),
            None if self.phase == Phase::Pulling => "pulling",
            None if self.phase == Phase::Error => "error",
            None => "stopped",
        }
    }
}

/// What is needed to make a bot. Everything but the name and the image has a default.
#[derive(Debug, Clone)]
pub struct NewBot {
    /// The id, if the caller has chosen one.
    pub id: Option<BotId>,
    /// Its name.
    pub name: String,
    /// What its owner says about it.
    pub description: String,
    /// The image.
    pub image: String,
    /// Its variables.
    pub env: BTreeMap<String, String>,
    /// What the engine does when the process ends.
    pub restart_policy: RestartPolicy,
    /// The releases it follows.
    pub release_channel: ReleaseChannel,
    /// When it wants new images.
    pub update_policy: UpdatePolicy,
    /// Whether it looks for peers.
    pub discovery: Option<Discovery>,
    /// Who makes it, if that is a person.
    pub created_by: Option<UserId>,
}

impl NewBot {
    /// With every default.
    pub fn new(name: impl Into<String>, image: impl Into<String>) -> Self {
        Self {
            id: None,
            name: name.into(),
            description: String::new(),
            image: image.into(),
            env: BTreeMap::new(),
            restart_policy: RestartPolicy::UnlessStopped,
            release_channel: ReleaseChannel::Stable,
            update_policy: UpdatePolicy::Manual,
            discovery: None,
            created_by: None,
        }
    }
}

/// A change of a bot; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct BotChange {
    /// A new name.
    pub name: Option<String>,
    /// A new description.
    pub description: Option<String>,
    /// A new image.
    pub image: Option<String>,
    /// All variables anew.
    pub env: Option<BTreeMap<String, String>>,
    /// A new restart policy.
    pub restart_policy: Option<RestartPolicy>,
    /// Another channel.
    pub release_channel: Option<ReleaseChannel>,
    /// Another policy.
    pub update_policy: Option<UpdatePolicy>,
    /// Other peers; `Some(None)` is the default again.
    pub discovery: Option<Option<Discovery>>,
}

impl BotChange {
    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.name.is_none()
            && self.description.is_none()
            && self.image.is_none()
            && self.env.is_none()
            && self.restart_policy.is_none()
            && self.release_channel.is_none()
            && self.update_policy.is_none()
            && self.discovery.is_none()
    }
}
