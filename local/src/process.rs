//! What every program here does around its work.

use std::io::Write as _;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

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

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// When signal handlers cannot be installed.
pub async fn stopped() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
