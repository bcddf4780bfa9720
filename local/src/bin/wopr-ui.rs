//! The page that stands where the dashboard will be, as a program; `wopr-ui health` asks a running one.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio::net::TcpListener;
use wopr_local::ui::{self, Links, PORT};
use wopr_local::{probe, process};

/// Serves one page that stands where the dashboard will be.
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
    /// Where a browser reaches the API.
    #[arg(long, env = "WOPR_UI_API_URL", default_value = "http://localhost:3100")]
    api_url: String,
    /// Where a browser reaches the mails.
    #[arg(long, env = "WOPR_UI_MAIL_URL")]
    mail_url: Option<String>,
    /// Where a browser reaches the Stripe stand-in.
    #[arg(long, env = "WOPR_UI_STRIPE_URL")]
    stripe_url: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Exits 0 when the server on this machine answers, else 1.
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
    let address = SocketAddr::new(args.host, args.port);
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    process::announce("page", &format!("http://{}", listener.local_addr()?))?;
    let links = Links { api: args.api_url, mail: args.mail_url, stripe: args.stripe_url };
    ui::serve(listener, links, signals.wait()).await?;
    Ok(ExitCode::SUCCESS)
}
