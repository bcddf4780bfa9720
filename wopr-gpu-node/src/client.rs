//! The platform, as the node speaks to it.

use std::time::Duration;

use reqwest::{RequestBuilder, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use wopr_core::protocol::gpu::{HEARTBEAT_PATH, Heartbeat, REGISTER_PATH, Stage, StageReport};

use crate::http::{self, ClientError, Lost, causes};

/// The longest part of a refusal that is repeated in a log line.
const REFUSAL_CHARS_MAX: usize = 300;

/// Why the platform did not take a message.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// The credential is not this node's.
    #[error(
        "the platform refuses this node's credential (401): GPU_NODE_SECRET must be the node's own secret, or \
         GPU_SHARED_SECRET the one that the platform has"
    )]
    Unauthorized,
    /// There is no such node.
    #[error("the platform knows no node {0} (404): NODE_ID is wrong, or the node was removed")]
    UnknownNode(String),
    /// The message was understood and refused.
    #[error("the platform refuses the message ({status}): {message}")]
    Refused {
        /// The status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The platform cannot answer at present.
    #[error("the platform cannot answer at present ({0})")]
    Unavailable(u16),
    /// No answer in time.
    #[error("the platform did not answer in time")]
    Late,
    /// No connection, or a broken one.
    #[error("the platform is not reached: {0}")]
    Unreachable(String),
}

impl PlatformError {
    /// Whether trying again soon is pointless: somebody has to change something first.
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Unauthorized | Self::UnknownNode(_) | Self::Refused { .. } => true,
            Self::Unavailable(_) | Self::Late | Self::Unreachable(_) => false,
        }
    }

    /// A word for metrics.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::UnknownNode(_) => "unknown_node",
            Self::Refused { .. } => "refused",
            Self::Unavailable(_) => "unavailable",
            Self::Late => "late",
            Self::Unreachable(_) => "unreachable",
        }
    }
}

/// The platform. Every call is bounded in time.
#[derive(Debug, Clone)]
pub struct Platform {
    http: reqwest::Client,
    base: String,
    node_id: String,
    secret: SecretString,
    host: Option<String>,
}

impl Platform {
    /// A client of the platform at `base`.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(
        base: &str,
        node_id: &str,
        secret: SecretString,
        host: Option<String>,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let http = http::platform(timeout)?;
        Ok(Self { http, base: base.to_owned(), node_id: node_id.to_owned(), secret, host })
    }

    /// Says that the work of `stage` is done, or that it failed.
    ///
    /// # Errors
    /// When the platform did not take the report.
    pub async fn report(&self, stage: Stage, failure: Option<&str>) -> Result<(), PlatformError> {
        let report = StageReport {
            node_id: self.node_id.clone(),
            ok: failure.map(|_| false),
            message: failure.map(str::to_owned),
            host: self.host.clone(),
        };
        let url = format!("{}{REGISTER_PATH}", self.base);
        self.send(self.http.post(url).query(&[("stage", stage.as_str())]).json(&report)).await
    }

    /// Says that the node lives.
    ///
    /// # Errors
    /// When the platform did not take the heartbeat.
    pub async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<(), PlatformError> {
        self.send(self.http.post(format!("{}{HEARTBEAT_PATH}", self.base)).json(heartbeat)).await
    }

    async fn send(&self, request: RequestBuilder) -> Result<(), PlatformError> {
        let lost = |error: reqwest::Error| match Lost::of(&error) {
            Lost::Late => PlatformError::Late,
            _ => PlatformError::Unreachable(causes(error)),
        };
        let answer = request.bearer_auth(self.secret.expose_secret()).send().await.map_err(lost)?;
        let status = answer.status();
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(PlatformError::Unauthorized),
            StatusCode::NOT_FOUND => Err(PlatformError::UnknownNode(self.node_id.clone())),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(PlatformError::Unavailable(status.as_u16()))
            }
            status if status.is_client_error() => {
                let message = answer.text().await.map_err(lost)?;
                let message = message.chars().take(REFUSAL_CHARS_MAX).collect();
                Err(PlatformError::Refused { status: status.as_u16(), message })
            }
            status => Err(PlatformError::Unavailable(status.as_u16())),
        }
    }
}
