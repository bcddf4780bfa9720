//! A small bot with the contract of the real bot image, for stacks that cannot pull that.
//!
//! | Request | Answer |
//! |---|---|
//! | `GET /health` | `{"status":"ok"}` while the process runs |
//! | `GET /ready` | 200 once the volume can be written, else 503 |
//! | `GET /healthz` | a snapshot: uptime, messages, checks; 503 when a check fails |
//! | `GET /` | name and version |
//! | `POST /message` `{"text": …}` | a reply; the exchange is on the volume before it is sent |
//! | `GET /messages` | the last exchanges and the count of all |
//! | `POST /ask` `{"question": …, "model": …}` | a model's answer, through the gateway at `WOPR_GATEWAY_URL` |
//!
//! The last three, and every path not listed, need a bearer token: the one in `$WOPR_HOME/daemon-token`, made on the first start,
//! or the service key the platform puts into `WOPR_SERVICE_KEY_FILE`. That file is read on each request, so a rotated key
//! holds at once; the key is never taken from the environment.

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::Clock;

mod ask;
mod health;
mod log;
mod server;
mod volume;

pub use ask::{AskError, ask};
pub use health::probe;
pub use log::start as start_logging;
pub use server::Bot;
pub use volume::VolumeError;

/// Where the bot listens unless told otherwise.
pub const PORT: u16 = 7437;

/// How a bot runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address to listen on; port 0 takes a free one.
    pub listen: std::net::SocketAddr,
    /// The volume, `/data` in a container.
    pub home: PathBuf,
    /// File with the key the platform uses; it may appear later, or never.
    pub service_key_file: PathBuf,
    /// Where models are asked, as `http://host/v1`; without it no question is answered.
    pub gateway_url: Option<String>,
}

/// Why a bot did not start.
#[derive(Debug, thiserror::Error)]
pub enum BotError {
    /// The volume cannot be used.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// There is no client for the gateway.
    #[error(transparent)]
    Client(#[from] crate::http::NoClient),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address wanted.
        address: std::net::SocketAddr,
        /// The system's word.
        source: std::io::Error,
    },
}

/// Opens the volume and listens.
///
/// # Errors
/// [`BotError`]; nothing is served then.
pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Bot, BotError> {
    Bot::start(config, clock).await
}
