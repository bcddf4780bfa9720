//! The first program of a machine inside a container; `wopr-machine health` asks its engine, `wopr-machine disk` tells about
//! its disk and fills it, `wopr-machine card` about the graphics card that it was given, and `wopr-machine strays` does for an engine that something else keeps running what the machine does for its own.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use wopr_local::machine::disk::{self, DATA};
use wopr_local::machine::{self, Config, SOCKET, card};
use wopr_local::{probe, process};

/// Runs a Docker engine and keeps it running.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Directory in which a second socket, `docker.sock`, is made.
    #[arg(long, env = "WOPR_MACHINE_SOCKET_DIR")]
    socket_dir: Option<PathBuf>,
    /// Control group of the engine's containers; by default `inner` below the machine's own.
    #[arg(long, env = "WOPR_MACHINE_CGROUP_PARENT")]
    cgroup_parent: Option<String>,
    /// Handed to the daemon as they are.
    #[arg(last = true)]
    daemon_arguments: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Exits 0 when the engine answers, else 1.
    Health,
    /// The file system of the engine's data.
    #[command(subcommand)]
    Disk(Disk),
    /// Writes how many device nodes of graphics cards are handed on to the engine's containers.
    Card,
    /// Ends the processes of containers that an engine has lost sight of, for as long as it runs.
    Strays {
        /// The engine's socket.
        #[arg(long, default_value = SOCKET)]
        socket: PathBuf,
        /// Control group of the engine's containers.
        #[arg(long)]
        cgroup_parent: String,
    },
}

#[derive(Debug, Subcommand)]
enum Disk {
    /// Writes how many bytes are free, and how many there are.
    Room,
    /// Takes all that are free, if it is a disk of the machine's own; writes how many these were.
    Fill,
    /// Gives them back; writes whether there were any.
    Release,
}

impl Disk {
    fn run(self) -> io::Result<String> {
        let data = Path::new(DATA);
        Ok(match self {
            Self::Room => {
                let (free, all) = disk::room(data)?;
                format!("{free} {all}")
            }
            Self::Fill => disk::fill(data)?.to_string(),
            Self::Release => disk::release(data)?.to_string(),
        })
    }
}

/// Writes an answer.
fn told(answer: io::Result<impl Display>) -> ExitCode {
    match answer.and_then(|answer| writeln!(io::stdout(), "{answer}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    process::start_logging();
    let Args { command, socket_dir, cgroup_parent, daemon_arguments } = Args::parse();
    match command {
        Some(Command::Health) => return process::health(probe::unix(Path::new(SOCKET), "/_ping")),
        Some(Command::Disk(command)) => return told(command.run()),
        Some(Command::Card) => return told(card::laid_out()),
        Some(Command::Strays { socket, cgroup_parent }) => match machine::strays::watch(socket, cgroup_parent).await {},
        None => {}
    }
    let ended = async {
        let signals = process::StopSignals::install()?;
        machine::run(Config { socket_directory: socket_dir, cgroup_parent, daemon_arguments }, signals).await?;
        anyhow::Ok(())
    };
    match ended.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
