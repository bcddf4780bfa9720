//! A machine inside a container: a Docker engine of its own, kept running.
//!
//! The supervisor prepares what a boot would (a disk of its own and the files of a graphics card if it is given them, stale
//! process ids, the packet filter's flavour, a control group for the engine's containers), starts the daemon, and starts it
//! again when it dies, a limited number of times. Meanwhile it ends what the daemon has lost sight of ([`strays`]). On
//! SIGTERM it has the daemon stop its containers in order, and ends with 0.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::probe;
use crate::process::StopSignals;

pub mod card;
mod cgroup;
pub mod disk;
mod firewall;
mod restarts;
mod stale;
pub mod strays;

pub use restarts::Restarts;

/// The engine's own socket.
pub const SOCKET: &str = "/var/run/docker.sock";
/// What the second socket is called in the directory it is made in.
pub const SECOND_SOCKET: &str = "docker.sock";
/// The daemon, from the distribution's package.
const DAEMON: &str = "/usr/sbin/dockerd";
/// How long a daemon may take to answer before it counts as failed.
const START_PATIENCE: Duration = Duration::from_mins(1);
/// How often it is asked meanwhile.
const ASKED_EVERY: Duration = Duration::from_millis(100);
/// How long the daemon may take to stop its containers. Its own limit per container is 15 seconds.
const STOP_PATIENCE: Duration = Duration::from_secs(25);
/// How many lines of the daemon are kept for the reason it died.
const LINES_KEPT: usize = 5;

/// How a machine runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory for a second socket, usually mounted from outside.
    pub socket_directory: Option<PathBuf>,
    /// Control group of the engine's containers; by default `inner` below the machine's own.
    pub cgroup_parent: Option<String>,
    /// Further arguments of the daemon.
    pub daemon_arguments: Vec<String>,
}

/// Why a machine did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Something the daemon needs could not be prepared.
    #[error("{what} could not be prepared")]
    Prepare {
        /// What.
        what: String,
        /// The system's word.
        source: io::Error,
    },
    /// No flavour of the packet filter works here.
    #[error("no packet filter works here; is NET_ADMIN among the machine's capabilities? {said}")]
    NoFirewall {
        /// What each flavour said.
        said: String,
    },
    /// The daemon could not be started at all.
    #[error("{DAEMON} could not be started")]
    Start(#[source] io::Error),
    /// The daemon died too often.
    #[error("the engine failed {times} times and is given up; last it {how}: {said}")]
    GivenUp {
        /// How often.
        times: u32,
        /// How it ended the last time.
        how: String,
        /// Its last lines.
        said: String,
    },
}

/// How one life of the daemon ended.
enum Ended {
    /// We were told to stop.
    Stopped,
    /// By itself.
    Died { how: String, said: String },
}

/// Runs the engine until a signal comes.
///
/// # Errors
/// [`MachineError`]: what cannot be prepared, or an engine that keeps dying.
pub async fn run(config: Config, mut signals: StopSignals) -> Result<(), MachineError> {
    let path = firewall::choose().await?;
    if let Some(directory) = &config.socket_directory {
        let mounted = disk::mount(directory)
            .await
            .map_err(|source| MachineError::Prepare { what: "the machine's own disk".into(), source })?;
        if mounted {
            tracing::info!("{} is on a disk of the machine's own", disk::DATA);
        }
    }
    let nodes = card::lay_out().map_err(|source| MachineError::Prepare { what: "the graphics card".into(), source })?;
    if nodes > 0 {
        tracing::info!("a graphics card is laid out in {}: {nodes} device nodes", card::CARD);
    }
    let parent = match &config.cgroup_parent {
        Some(parent) => Some(parent.clone()),
        None => {
            cgroup::own_inner().map_err(|source| MachineError::Prepare { what: "the control group".into(), source })?
        }
    };
    if parent.is_none() {
        tracing::warn!("this machine's control group cannot be told: its limits do not hold for its containers");
    }
    let mut arguments = vec!["--log-level=warn".to_owned(), "--host".to_owned(), format!("unix://{SOCKET}")];
    if let Some(directory) = &config.socket_directory {
        let socket = directory.join(SECOND_SOCKET);
        arguments.extend(["--host".to_owned(), format!("unix://{}", socket.display())]);
    }
    arguments.extend(parent.iter().map(|parent| format!("--cgroup-parent={parent}")));
    arguments.extend(config.daemon_arguments.iter().cloned());
    let Some(parent) = parent else {
        return keep_running(&arguments, &path, None, &mut signals).await;
    };
    tokio::select! {
        ended = keep_running(&arguments, &path, Some(&parent), &mut signals) => ended,
        never = strays::watch(PathBuf::from(SOCKET), parent.clone()) => match never {},
    }
}

/// Starts the daemon, again and again, until a signal comes.
async fn keep_running(
    arguments: &[String],
    path: &str,
    parent: Option<&str>,
    signals: &mut StopSignals,
) -> Result<(), MachineError> {
    let mut restarts = Restarts::default();
    loop {
        if let Some(parent) = parent {
            end_left_over(parent)?;
        }
        stale::clear().map_err(|source| MachineError::Prepare { what: "a stale process id".into(), source })?;
        let since = Instant::now();
        let daemon = start(arguments, path).map_err(MachineError::Start)?;
        let (how, said) = match live(daemon, signals).await {
            Ended::Stopped => return Ok(()),
            Ended::Died { how, said } => (how, said),
        };
        let Some(delay) = restarts.after(since.elapsed()) else {
            return Err(MachineError::GivenUp { times: restarts.failures(), how, said });
        };
        tracing::error!("the engine {how} and is started again in {} s", delay.as_secs());
        tokio::select! {
            () = sleep(delay) => {}
            () = signals.next() => return Ok(()),
        }
    }
}

/// Kills the containers that a daemon which died has left behind.
///
/// A new daemon would stop them itself, but it notes them as stopped by hand then, and never starts them again.
fn end_left_over(parent: &str) -> Result<(), MachineError> {
    let killed = cgroup::kill_all(parent)
        .map_err(|source| MachineError::Prepare { what: "the containers of the engine before".to_owned(), source })?;
    if killed > 0 {
        tracing::warn!("killed {killed} processes of containers that the engine before has left behind");
    }
    Ok(())
}

fn start(arguments: &[String], path: &str) -> io::Result<Child> {
    tracing::info!("starting {DAEMON} {}", arguments.join(" "));
    Command::new(DAEMON)
        .args(arguments)
        .env("PATH", path)
        // These speak of the engine a client uses; a daemon that inherits them listens elsewhere than it is told.
        .env_remove("DOCKER_HOST")
        .env_remove("DOCKER_TLS_VERIFY")
        .env_remove("DOCKER_CERT_PATH")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// Follows a daemon until it ends or we are told to stop.
async fn live(mut daemon: Child, signals: &mut StopSignals) -> Ended {
    let since = Instant::now();
    let lines = daemon.stderr.take().map(|stderr| tokio::spawn(forward(stderr)));
    let ready = answers();
    tokio::pin!(ready);
    let mut asking = true;
    let how = loop {
        tokio::select! {
            status = daemon.wait() => break ended(status),
            answered = &mut ready, if asking => {
                asking = false;
                if !answered {
                    tracing::error!("the engine does not answer after {} s", START_PATIENCE.as_secs());
                    break format!("did not answer and {}", stop(&mut daemon).await);
                }
                tracing::info!("the engine answers after {} ms", since.elapsed().as_millis());
            }
            () = signals.next() => {
                tracing::info!("stopping the engine and its containers");
                let how = stop(&mut daemon).await;
                tracing::info!("the engine {how}");
                return Ended::Stopped;
            }
        }
    };
    Ended::Died { how, said: said(lines).await }
}

/// Whether the engine answers within its patience.
async fn answers() -> bool {
    let asking = async {
        loop {
            let asked = tokio::task::spawn_blocking(|| probe::unix(SOCKET.as_ref(), "/_ping")).await;
            if matches!(asked, Ok(Ok(()))) {
                return;
            }
            sleep(ASKED_EVERY).await;
        }
    };
    timeout(START_PATIENCE, asking).await.is_ok()
}

/// Asks the daemon to stop, and kills it when it takes too long; answers how it ended.
async fn stop(daemon: &mut Child) -> String {
    if let Some(id) = daemon.id().and_then(|id| i32::try_from(id).ok())
        && let Err(error) = kill(Pid::from_raw(id), Signal::SIGTERM)
    {
        tracing::error!("the engine could not be signalled: {error}");
    }
    match timeout(STOP_PATIENCE, daemon.wait()).await {
        Ok(status) => ended(status),
        Err(_elapsed) => {
            tracing::error!("the engine did not stop within {} s and is killed", STOP_PATIENCE.as_secs());
            match daemon.kill().await {
                Ok(()) => "was killed".to_owned(),
                Err(error) => format!("could not be killed: {error}"),
            }
        }
    }
}

fn ended(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("ended with {status}"),
        Err(error) => format!("was lost: {error}"),
    }
}

/// Hands the daemon's lines on and keeps the last ones.
async fn forward(stderr: ChildStderr) -> VecDeque<String> {
    let mut kept = VecDeque::new();
    let mut lines = BufReader::new(stderr).lines();
    loop {
        match lines.next_line().await {
            Ok(Some(line)) => {
                tracing::info!(target: "dockerd", "{line}");
                kept.push_back(line);
                if kept.len() > LINES_KEPT {
                    kept.pop_front();
                }
            }
            Ok(None) => return kept,
            Err(error) => {
                tracing::warn!("the engine's log is not readable: {error}");
                return kept;
            }
        }
    }
}

/// The daemon's last lines. What it started may hold its error output open, so they are not waited for long.
async fn said(lines: Option<JoinHandle<VecDeque<String>>>) -> String {
    let Some(lines) = lines else {
        return "it said nothing".to_owned();
    };
    match timeout(Duration::from_secs(1), lines).await {
        Ok(Ok(kept)) if !kept.is_empty() => kept.into_iter().collect::<Vec<_>>().join("\n"),
        Ok(Ok(_)) => "it said nothing".to_owned(),
        Ok(Err(_)) | Err(_) => "see its log above".to_owned(),
    }
}
