//! An SMTP server that delivers nothing and keeps everything, and a page that shows it.
//!
//! SMTP: `EHLO`, `HELO`, `MAIL`, `RCPT`, `DATA`, `RSET`, `NOOP`, `QUIT`, with `SIZE`, `8BITMIME`, `SMTPUTF8` and `PIPELINING`. No
//! encryption and no login: both are refused by name.
//!
//! | Request | Answer |
//! |---|---|
//! | `GET /` , `GET /mails/{id}` | pages for people; a mail's HTML is shown in a sandbox, without scripts or remote content |
//! | `GET /api/mails[?to=]` | `{"mails":[{id, from, to, subject, received_at, size_bytes}]}`, newest first |
//! | `GET /api/mails/{id}` | the same with `headers`, decoded `text` and `html`, `attachments` |
//! | `GET /api/mails/{id}/raw` | the message as it came |
//! | `DELETE /api/mails` | forgets all: `{"deleted": 3}` |
//! | `GET /health` | `{"status":"ok"}` |
//!
//! The oldest mails are forgotten when there are too many, or when they are too large together. With a data directory a mail is
//! on the disk before it is accepted.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

mod mailbox;
mod mime;
mod smtp;
mod web;

pub use mailbox::{Mail, MailboxError};
pub use mime::{Attachment, Parsed};

use crate::clock::Clock;
use crate::process;
use mailbox::Mailbox;

/// How a mail catcher runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where mail is taken; port 0 takes a free one.
    pub smtp: SocketAddr,
    /// Where it is shown; port 0 takes a free one.
    pub http: SocketAddr,
    /// Where mails are kept over restarts; `None` keeps them in memory only.
    pub data_dir: Option<PathBuf>,
    /// How many mails are kept.
    pub mails_max: usize,
    /// How large they may be together.
    pub bytes_max: usize,
    /// How large one may be.
    pub mail_bytes_max: usize,
}

impl Config {
    /// In memory, on free loopback ports.
    pub fn for_tests() -> Self {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            smtp: free,
            http: free,
            data_dir: None,
            mails_max: 1000,
            bytes_max: 64 * 1024 * 1024,
            mail_bytes_max: 10 * 1024 * 1024,
        }
    }
}

/// Why a mail catcher did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken, or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address wanted.
        address: SocketAddr,
        /// The system's word.
        source: std::io::Error,
    },
    /// The mails kept could not be read.
    #[error(transparent)]
    Mailbox(#[from] MailboxError),
}

/// A running mail catcher. Dropping it stops it without waiting.
pub struct MailCatcher {
    smtp: SocketAddr,
    http: SocketAddr,
    mailbox: Arc<Mailbox>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl fmt::Debug for MailCatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailCatcher").field("smtp", &self.smtp).field("http", &self.http).finish_non_exhaustive()
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let error = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(error)?;
    let bound = listener.local_addr().map_err(error)?;
    Ok((listener, bound))
}

impl MailCatcher {
    /// Reads kept mails and listens.
    ///
    /// # Errors
    /// [`StartError`]; nothing is served then.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let mailbox = Arc::new(Mailbox::open(&config, clock)?);
        let (smtp_listener, smtp) = listen(config.smtp).await?;
        let (http_listener, http) = listen(config.http).await?;
        let (stop, stopped) = watch::channel(false);
        let taking =
            tokio::spawn(smtp::serve(smtp_listener, Arc::clone(&mailbox), config.mail_bytes_max, stopped.clone()));
        let showing = tokio::spawn(web::serve(http_listener, Arc::clone(&mailbox), stopped));
        tracing::info!("mail catcher takes mail on {smtp} and shows it on http://{http}");
        Ok(Self { smtp, http, mailbox, stop, tasks: vec![taking, showing] })
    }

    /// Where mail is taken.
    pub fn smtp_address(&self) -> SocketAddr {
        self.smtp
    }

    /// Where it is shown.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// All mails kept, newest first.
    pub fn mails(&self) -> Vec<Arc<Mail>> {
        self.mailbox.list(None)
    }

    /// Stops listening.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        process::finish(std::mem::take(&mut self.tasks)).await;
    }
}

impl Drop for MailCatcher {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}
