use std::time::Duration;

use super::settings::InvalidSetting;
use crate::billing::BillingError;
use crate::db::DbError;
use crate::ids::BotId;

/// Why a fleet operation was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// No such bot, or not this tenant's.
    #[error("bot {0} does not exist")]
    NotFound(BotId),
    /// A value breaks a rule.
    #[error(transparent)]
    Invalid(#[from] InvalidSetting),
    /// The text is no image reference.
    #[error("image: not a usable image reference")]
    InvalidImage,
    /// The image is none of those that may be run.
    #[error("image: {0} is not on the list of images that may be run")]
    ImageNotAllowed(String),
    /// The tenant has a bot of that name.
    #[error("a bot named {0} exists already")]
    NameTaken(String),
    /// There is, or was, a bot with the id that the caller chose.
    #[error("the id {0} is taken")]
    IdTaken(BotId),
    /// A change that changes nothing.
    #[error("no fields to update")]
    NothingToChange,
    /// Somebody else is acting on the bot.
    #[error("bot {0} is being worked on")]
    Busy(BotId),
    /// What should have stood still did not: somebody else woke, ended or started the container.
    #[error("the container of bot {0} did not stand still")]
    NotStill(BotId),
    /// Billing refused, or could not answer.
    #[error(transparent)]
    Billing(#[from] BillingError),
    /// The container engine did not do what was asked.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The database could not answer; nothing was changed.
    #[error("fleet storage failed")]
    Storage(#[from] DbError),
}

/// Why a container engine did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nobody answers.
    #[error("the container engine cannot be reached")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("the container engine did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The thing is not there.
    #[error("{0} does not exist on the container engine")]
    NotFound(String),
    /// The registry has no such image, or does not give it to us.
    #[error("image {image} cannot be had: {reason}")]
    ImageUnavailable {
        /// The image.
        image: String,
        /// What the registry said.
        reason: String,
    },
    /// The disk is full.
    #[error("the container engine has no space left")]
    NoSpace(String),
    /// Somebody else on the engine has the addresses.
    #[error("the addresses of the tenant's network are taken on the container engine")]
    SubnetTaken(String),
    /// It holds the container for stopped, and its process goes on; once the machine has ended that, it starts again.
    #[error("the container engine has lost sight of the container's process: {0}")]
    LostSight(String),
    /// The engine understood and refused.
    #[error("the container engine refused: {0}")]
    Refused(String),
}

impl HostError {
    /// Whether the same step may succeed later without anybody changing the bot.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_)
            | Self::TimedOut(_)
            | Self::NoSpace(_)
            | Self::NotFound(_)
            | Self::SubnetTaken(_)
            | Self::LostSight(_) => true,
            Self::ImageUnavailable { .. } | Self::Refused(_) => false,
        }
    }
}
