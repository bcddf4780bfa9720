//! What every program here does around its work.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;

/// How long tasks may take to stop. Container engines kill after ten seconds.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Logs to standard error, as `RUST_LOG` says, by default from `info` up.
pub fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
}

/// Writes `<what> listens on <url>` to standard output, for whoever started the program and waits for it.
///
/// # Errors
/// When standard output is gone.
pub fn announce(what: &str, url: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what} listens on {url}")?;
    out.flush()
}

/// What a program's health check ends with; says why when it is unwell.
pub fn health(asked: std::io::Result<()>) -> ExitCode {
    match asked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("unhealthy: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The signals that end a program. Made before the program says that it listens, so that none is missed.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// From now on SIGTERM and SIGINT no longer kill the process.
    ///
    /// # Errors
    /// When signal handlers cannot be installed.
    pub fn install() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the first of them.
    pub async fn wait(mut self) {
        self.next().await;
    }

    /// Waits for the next of them; may be given up and called again without missing one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Waits for tasks that were told to stop, and cuts off those that take too long: a request may have been delayed on purpose.
pub(crate) async fn finish(tasks: Vec<JoinHandle<()>>) {
    for mut task in tasks {
        match tokio::time::timeout(STOP_PATIENCE, &mut task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!("a task failed: {error}"),
            Err(_elapsed) => {
                tracing::warn!("a task did not stop in time and was cut off");
                task.abort();
            }
        }
    }
}
