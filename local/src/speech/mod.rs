//! A speech server with the wire of the one that production runs (chatterbox-tts-api). The voice is that of espeak-ng: real
//! speech, without the sound of a person. Every answer says so in the header `x-wopr-stand-in`.
//!
//! | Request | Answer |
//! |---|---|
//! | `POST /v1/audio/speech`, `POST /synthesize` `{"input": …, "voice"?, "response_format"?: "wav", "speed"?}` | a WAV file |
//! | `GET /health`, `GET /` | 200 while it works; 503 without a synthesiser, or when told to fail |
//! | `GET /v1/models`, `GET /voices` | what may be asked for |
//! | `GET /_control`, `PUT /_control` | the faults that are played; only with the key of `SPEECH_CONTROL_KEY` |

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;

mod faults;
mod server;
mod synthesis;

pub use faults::Faults;

/// Where the server listens unless told otherwise.
pub const PORT: u16 = 5123;
/// On every answer: what really speaks.
pub const STAND_IN_HEADER: &str = "x-wopr-stand-in";
/// Its value.
pub const STAND_IN: &str = "espeak-ng";

/// How a speech server runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The synthesiser.
    pub synthesiser: PathBuf,
    /// How long one text may take.
    pub patience: Duration,
    /// How many texts are spoken at once; further ones wait.
    pub at_once: usize,
    /// Opens the control interface to whoever sends it; without it there is none.
    pub control_key: Option<String>,
}

/// A server that listens.
#[derive(Debug)]
pub struct Speech {
    listener: TcpListener,
    address: SocketAddr,
    router: axum::Router,
}

impl Speech {
    /// Listens.
    ///
    /// # Errors
    /// When the address is taken, or not ours.
    pub async fn start(config: Config) -> std::io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, router: server::router(config) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `until` is over.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self, until: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
        axum::serve(self.listener, self.router).with_graceful_shutdown(until).await
    }
}
