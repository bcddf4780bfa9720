//! The bot as a program: `wopr-bot` runs it, `wopr-bot health` asks a running one whether it is well, `wopr-bot ask` puts a
//! question to it.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::sync::oneshot;
use wopr_local::bot::{self, Config, PORT};
use wopr_local::clock::SystemClock;
use wopr_local::process;

/// How long requests in progress may hold up a stop. Engines kill after ten seconds.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// A bot.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Address to listen on.
    #[arg(long, env = "WOPR_DAEMON_HOST", default_value = "0.0.0.0")]
    host: IpAddr,
    /// Port to listen on.
    #[arg(long, env = "WOPR_DAEMON_PORT", default_value_t = PORT, global = true)]
    port: u16,
    /// The volume.
    #[arg(long, env = "WOPR_HOME", default_value = "/data")]
    home: PathBuf,
    /// File with the key the platform uses.
    #[arg(long, env = "WOPR_SERVICE_KEY_FILE", default_value = "/run/wopr/service-key")]
    service_key_file: PathBuf,
    /// Where models are asked.
    #[arg(long, env = "WOPR_GATEWAY_URL")]
    gateway_url: Option<String>,
    /// Least level of log lines: error, warn, info, debug or trace.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    log_level: tracing::Level,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Exits 0 when the bot on this machine answers its health check, else 1.
    Health,
    /// Has the bot on this machine ask a model, and writes its answer as JSON.
    Ask {
        /// What is asked.
        question: String,
        /// Who is asked.
        #[arg(long)]
        model: String,
        /// The longest answer.
        #[arg(long, default_value_t = 64)]
        max_tokens: u32,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let clock = Arc::new(SystemClock);
    bot::start_logging(Some(args.log_level.as_str()), clock.clone());
    let done = match &args.command {
        Some(Command::Health) => Some(bot::probe(args.port).map_err(|error| anyhow::anyhow!("unhealthy: {error}"))),
        Some(Command::Ask { question, model, max_tokens }) => Some(ask(&args, question, model, *max_tokens)),
        None => None,
    };
    if let Some(done) = done {
        return match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    if std::env::var_os("WOPR_SERVICE_KEY").is_some() {
        tracing::warn!("WOPR_SERVICE_KEY is not used: the service key is read from a file, see WOPR_SERVICE_KEY_FILE");
    }
    match run(args, clock) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn ask(args: &Args, question: &str, model: &str, max_tokens: u32) -> anyhow::Result<()> {
    let answer = bot::ask(args.port, &args.home, question, model, max_tokens).await?;
    Ok(writeln!(std::io::stdout(), "{answer}")?)
}

#[tokio::main]
async fn run(args: Args, clock: Arc<SystemClock>) -> anyhow::Result<()> {
    let signals = process::StopSignals::install()?;
    let listen = SocketAddr::new(args.host, args.port);
    let config =
        Config { listen, home: args.home, service_key_file: args.service_key_file, gateway_url: args.gateway_url };
    let bot = bot::start(config, clock).await?;
    let (stop, stopping) = oneshot::channel::<()>();
    let serving = tokio::spawn(bot.serve(async move {
        // An error means that the sender is gone, which is a reason to stop as well.
        let _stopped = stopping.await;
    }));
    signals.wait().await;
    tracing::info!("stopping");
    drop(stop);
    match tokio::time::timeout(STOP_PATIENCE, serving).await {
        Ok(ended) => ended??,
        Err(_elapsed) => tracing::warn!("requests in progress were cut off"),
    }
    tracing::info!("stopped");
    Ok(())
}
