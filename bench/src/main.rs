//! How much the inference gateway adds to a call: the gateway, a bare pass-through and the upstream itself under the same
//! load, in one run, on loopback.
//!
//! The upstream and the pass-through are this same program in processes of their own, so that the system counts the
//! processor time of each. `cargo wopr bench gateway` compiles it and `wopr-api` alike, and runs it.

mod load;
mod measure;
mod pass;
mod process;
mod soak;
mod upstream;
mod world;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "wopr-bench", about = "How much the inference gateway adds to a call")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures the gateway beside a bare pass-through and the upstream itself
    Gateway(GatewayArgs),
    /// Watches the gateway's memory for a long time, and while the database is away
    Soak(SoakArgs),
    /// Answers as a provider would, until its input ends
    #[command(hide = true)]
    Upstream,
    /// Passes calls on to the upstream, until its input ends
    #[command(hide = true)]
    Pass {
        /// Where calls go
        upstream: String,
    },
}

#[derive(Args)]
pub(crate) struct GatewayArgs {
    /// The `wopr-api` that is measured
    #[arg(long)]
    program: PathBuf,
    /// A PostgreSQL server, where a database is made and dropped
    #[arg(long, env = "WOPR_TEST_DATABASE_URL", hide_env_values = true)]
    database: String,
    /// The length of one measurement; each is taken in every round
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// How often everything is measured, in turn; medians are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    rounds: u64,
    /// Connections when as much is asked as is answered
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=512))]
    connections: u64,
    /// Calls a second when times are measured
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=5000))]
    rate: u64,
    /// Something else that answers `/v1/chat/completions`, on this machine: `NAME=http://127.0.0.1:PORT[,KEY]`
    #[arg(long, value_parser = peer)]
    peer: Vec<Peer>,
}

#[derive(Args)]
pub(crate) struct SoakArgs {
    /// The `wopr-api` that is watched
    #[arg(long)]
    program: PathBuf,
    /// A PostgreSQL server, where a database is made and dropped
    #[arg(long, env = "WOPR_TEST_DATABASE_URL", hide_env_values = true)]
    database: String,
    /// How long calls are answered
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=240))]
    minutes: u64,
    /// How long the database is away then
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    away: u64,
    /// Calls a second, and a tenth of that in streams
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=5000))]
    rate: u64,
}

/// Something else that is measured.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    name: String,
    address: std::net::SocketAddr,
    key: String,
}

fn peer(text: &str) -> Result<Peer, String> {
    let (name, rest) = text.split_once('=').ok_or("it must be NAME=http://127.0.0.1:PORT[,KEY]")?;
    let (url, key) = rest.split_once(',').unwrap_or((rest, "none"));
    let authority = url.strip_prefix("http://").ok_or("its address must begin with http://")?.trim_end_matches('/');
    let address: std::net::SocketAddr = authority
        .replace("localhost", "127.0.0.1")
        .parse()
        .map_err(|_| "its address must be an IP address and a port")?;
    if !address.ip().is_loopback() {
        return Err("only this machine itself is loaded".to_owned());
    }
    Ok(Peer { name: name.to_owned(), address, key: key.to_owned() })
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Gateway(args) => measure::run(args).await,
            Command::Soak(args) => soak::run(args).await,
            Command::Upstream => upstream::serve().await,
            Command::Pass { upstream } => pass::serve(upstream).await,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::peer;

    #[test]
    fn a_peer_is_on_this_machine() {
        let known = peer("other=http://localhost:4000/,sk-1").unwrap();
        assert_eq!((known.name.as_str(), known.address.port(), known.key.as_str()), ("other", 4000, "sk-1"));
        for refused in ["other", "other=https://127.0.0.1:1", "other=http://10.0.0.1:80", "other=http://host:80"] {
            assert!(peer(refused).is_err(), "{refused}");
        }
    }
}
