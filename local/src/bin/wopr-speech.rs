//! The speech server as a program; `wopr-speech health` asks a running one.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use wopr_local::speech::{Config, PORT, Speech};
use wopr_local::{probe, process, secret};

/// Speaks texts with the wire of the real speech server and the voice of espeak-ng.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Address to listen on.
    #[arg(long, env = "HOST", default_value = "0.0.0.0")]
    host: IpAddr,
    /// Port to listen on.
    #[arg(long, env = "PORT", default_value_t = PORT, global = true)]
    port: u16,
    /// The synthesiser.
    #[arg(long, env = "SPEECH_SYNTHESISER", default_value = "/usr/bin/espeak-ng")]
    synthesiser: PathBuf,
    /// How long one text may take, in seconds.
    #[arg(long, env = "SPEECH_TIMEOUT_S", default_value_t = 30)]
    timeout_s: u64,
    /// How many texts are spoken at once.
    #[arg(long, env = "SPEECH_AT_ONCE", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    at_once: u16,
    /// Opens the control interface, by which failures are switched, to whoever sends this.
    #[arg(long, env = "SPEECH_CONTROL_KEY", hide_env_values = true)]
    control_key: Option<String>,
    /// File with that key.
    #[arg(long, env = "SPEECH_CONTROL_KEY_FILE")]
    control_key_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Exits 0 when the server on this machine is well, else 1.
    Health,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    process::start_logging();
    let args = Args::parse();
    if let Some(Command::Health) = args.command {
        return Ok(process::health(probe::http(args.port, "/health")));
    }
    let signals = process::StopSignals::install()?;
    let listen = SocketAddr::new(args.host, args.port);
    let config = Config {
        listen,
        synthesiser: args.synthesiser,
        patience: Duration::from_secs(args.timeout_s),
        at_once: args.at_once.into(),
        control_key: secret::resolve("the control key", args.control_key, args.control_key_file.as_deref())?,
    };
    let speech = Speech::start(config).await.with_context(|| format!("cannot listen on {listen}"))?;
    process::announce("speech server", &format!("http://{}", speech.address()))?;
    speech.serve(signals.wait()).await?;
    Ok(ExitCode::SUCCESS)
}
