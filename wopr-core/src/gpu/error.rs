use std::time::Duration;

use super::model::{GpuNodeId, InvalidGpuInput, InvalidTransition, NodeStatus};
use crate::db::DbError;

/// Why something about GPU nodes was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// No such node.
    #[error("GPU node not found: {0}")]
    NotFound(String),
    /// A value breaks a rule.
    #[error(transparent)]
    Invalid(#[from] InvalidGpuInput),
    /// There is a node of that name, in whatever case.
    #[error("a GPU node named {0} exists already")]
    NameTaken(GpuNodeId),
    /// Nodes have nothing to prove themselves with: there is no master secret.
    #[error("no secret for GPU nodes is configured")]
    NoSecret,
    /// Machines cannot be made: these settings are missing.
    #[error("machines cannot be provisioned without {}", .0.join(", "))]
    ProvisioningOff(Vec<&'static str>),
    /// No provider is configured.
    #[error("no cloud provider is configured")]
    NoProvider,
    /// The node has no machine at the provider.
    #[error("GPU node {0} has no machine at the provider")]
    NoMachine(GpuNodeId),
    /// Not while the node is like that.
    #[error("GPU node {id} is {}", .status.as_str())]
    WrongStatus {
        /// The node.
        id: GpuNodeId,
        /// How it is.
        status: NodeStatus,
    },
    /// The node may not go there.
    #[error(transparent)]
    Transition(#[from] InvalidTransition),
    /// The provider did not do what was asked.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// The database could not answer; nothing was changed.
    #[error("storage of GPU nodes failed")]
    Storage(#[from] DbError),
}

/// Why a cloud provider did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudError {
    /// It cannot be reached, or fails itself. Whether it did what was asked is not known.
    #[error("the cloud provider cannot be reached: {0}")]
    Unavailable(String),
    /// Too many requests; nothing was done.
    #[error("the cloud provider wants fewer requests")]
    RateLimited {
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The token is not accepted; nothing was done.
    #[error("the cloud provider does not accept the token")]
    Unauthorized,
    /// There is no such thing.
    #[error("the cloud provider has no such machine")]
    NotFound,
    /// It understood and refused; nothing was done.
    #[error("the cloud provider refused: {0}")]
    Refused(String),
    /// It answered something that is no answer. Whether it did what was asked is not known.
    #[error("the cloud provider's answer makes no sense: {0}")]
    Protocol(String),
}

impl CloudError {
    /// Whether nothing was done for certain, so that doing it again cannot do it twice.
    pub fn nothing_done(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Protocol(_) => false,
            Self::RateLimited { .. } | Self::Unauthorized | Self::NotFound | Self::Refused(_) => true,
        }
    }

    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            // A token is replaced by restarting with another one; what waits for it goes on by itself.
            Self::Unavailable(_) | Self::RateLimited { .. } | Self::Protocol(_) | Self::Unauthorized => true,
            Self::NotFound | Self::Refused(_) => false,
        }
    }
}

/// Why a service is not counted as answering.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Nobody took the connection.
    #[error("it cannot be reached")]
    Unreachable,
    /// It did not answer in time.
    #[error("it did not answer in time")]
    TimedOut,
    /// It answered something else than 2xx.
    #[error("it answered {0}")]
    Status(u16),
}
