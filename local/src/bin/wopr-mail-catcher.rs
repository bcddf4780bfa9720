//! The mail catcher as a program.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use wopr_local::clock::SystemClock;
use wopr_local::mail::{Config, MailCatcher};
use wopr_local::process;

/// Takes mail by SMTP, delivers nothing, and shows what came.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Where mail is taken.
    #[arg(long, env = "MAIL_CATCHER_SMTP", default_value = "127.0.0.1:1025")]
    smtp: SocketAddr,
    /// Where it is shown.
    #[arg(long, env = "MAIL_CATCHER_HTTP", default_value = "127.0.0.1:8025")]
    http: SocketAddr,
    /// Where mails are kept over restarts; without it they are kept in memory only.
    #[arg(long, env = "MAIL_CATCHER_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// How many mails are kept.
    #[arg(long, env = "MAIL_CATCHER_MAILS_MAX", default_value_t = 1000)]
    mails_max: usize,
    /// How many bytes they may have together.
    #[arg(long, env = "MAIL_CATCHER_BYTES_MAX", default_value_t = 64 * 1024 * 1024)]
    bytes_max: usize,
    /// How many bytes one may have.
    #[arg(long, env = "MAIL_CATCHER_MAIL_BYTES_MAX", default_value_t = 10 * 1024 * 1024)]
    mail_bytes_max: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    process::start_logging();
    let signals = process::StopSignals::install()?;
    let Args { smtp, http, data_dir, mails_max, bytes_max, mail_bytes_max } = Args::parse();
    let config = Config { smtp, http, data_dir, mails_max, bytes_max, mail_bytes_max };
    let catcher = MailCatcher::start(config, Arc::new(SystemClock)).await?;
    process::announce("mail catcher", &format!("http://{}", catcher.http_address()))?;
    signals.wait().await;
    catcher.shutdown().await;
    Ok(())
}
