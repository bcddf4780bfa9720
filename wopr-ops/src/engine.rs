//! The Docker engine: found where one answers, installed and started where none does.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context;
use bollard::Docker;
use tokio::process::Command;

use crate::{
    apt,
    failure::{Exit, Failure},
    paths::{Paths, is_root},
    ui::Ui,
};

/// The socket an engine on this machine listens on unless `DOCKER_HOST` names another.
pub(crate) const SOCKET: &str = "/var/run/docker.sock";
/// How long a started engine may take to answer: 90 s and more were seen on a full data directory.
const START_LIMIT: Duration = Duration::from_mins(3);

/// How long it may take until a started engine is to be seen among the processes.
const START_GRACE: Duration = Duration::from_secs(2);

/// Answers with a connected engine; installs and starts one on this machine if need be.
pub(crate) async fn ensure(ui: &Ui, paths: &Paths) -> anyhow::Result<Docker> {
    if let Ok(engine) = connect().await {
        let version = engine.version().await.context("the engine does not tell its version")?;
        ui.note(format!(
            "Docker engine {} answers (API {})",
            version.version.unwrap_or_default(),
            version.api_version.unwrap_or_default()
        ));
        return Ok(engine);
    }
    if let Some(host) = std::env::var_os("DOCKER_HOST") {
        return Err(Failure::new(Exit::Engine, "no Docker engine answers")
            .why(format!("DOCKER_HOST is {}, and nothing there speaks Docker", host.display()))
            .fix("start that engine, or unset DOCKER_HOST to use one on this machine")
            .into());
    }
    if !is_root() {
        return Err(Failure::new(Exit::Environment, "no Docker engine answers, and this account cannot start one")
            .why(format!("{SOCKET} does not answer, and installing or starting an engine needs root"))
            .fix("run the same command as root, or start an engine that this account may use")
            .into());
    }
    install(ui).await?;
    start(ui, paths).await
}

/// Connects to the engine that runs, without starting one.
pub(crate) async fn connect() -> anyhow::Result<Docker> {
    let engine = Docker::connect_with_defaults().context("the engine's address is not usable")?;
    let engine = tokio::time::timeout(Duration::from_secs(10), engine.negotiate_version())
        .await
        .context("the engine does not answer within 10 s")?
        .context("no Docker engine answers")?;
    // An image build or a stop may take longer than the default of two minutes.
    Ok(engine.with_timeout(Duration::from_mins(10)))
}

/// Connects to the engine behind a socket.
pub(crate) async fn at(socket: &Path) -> anyhow::Result<Docker> {
    let path = socket.to_str().context("the socket's path is not text")?;
    let engine = Docker::connect_with_unix(path, 600, bollard::API_DEFAULT_VERSION)
        .with_context(|| format!("{path} is no socket"))?;
    tokio::time::timeout(Duration::from_secs(10), engine.negotiate_version())
        .await
        .with_context(|| format!("the engine at {path} does not answer within 10 s"))?
        .with_context(|| format!("no engine answers at {path}"))
}

/// Like [`connect`], with an explanation for commands that never start an engine.
pub(crate) async fn require() -> anyhow::Result<Docker> {
    connect().await.map_err(|error| {
        Failure::new(Exit::Engine, "no Docker engine answers")
            .why(format!("{error:#}"))
            .fix("`cargo wopr engine` starts one")
            .into()
    })
}

async fn install(ui: &Ui) -> anyhow::Result<()> {
    let needed = [("dockerd", "docker.io"), ("iptables", "iptables"), ("setsid", "util-linux")];
    let missing: Vec<&str> =
        needed.iter().filter(|(program, _)| find_program(program).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    apt::install(ui, &missing).await
}

async fn start(ui: &Ui, paths: &Paths) -> anyhow::Result<Docker> {
    // Installing the package starts the service where a service manager runs.
    if let Ok(engine) = connect().await {
        ui.note("the Docker engine answers");
        return Ok(engine);
    }
    let log = paths.data.join("dockerd.log");
    let task = ui.start("starting the Docker engine");
    let started =
        if Path::new("/run/systemd/system").is_dir() { by_service_manager().await } else { detached(&log).await };
    let engine = match started {
        Ok(()) => answering(&log).await,
        Err(error) => Err(error),
    };
    task.ends(engine, |_| format!("it answers at {SOCKET}"))
}

async fn by_service_manager() -> anyhow::Result<()> {
    let status = Command::new("systemctl").args(["start", "docker"]).status().await?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(Exit::Engine, "the Docker engine could not be started")
        .why(format!("`systemctl start docker` ended with {status}"))
        .fix("`journalctl -u docker` says more")
        .into())
}

/// Starts `dockerd` in a session of its own, so that it outlives this command and its terminal.
async fn detached(log: &Path) -> anyhow::Result<()> {
    clear_stale_pid_files()?;
    let dockerd = find_program("dockerd").context("dockerd is not installed")?;
    let output = fs::File::create(log).with_context(|| format!("{} cannot be written", log.display()))?;
    let status = Command::new("setsid")
        .arg("--fork")
        .arg(dockerd)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .await
        .context("setsid could not be run")?;
    anyhow::ensure!(status.success(), "setsid ended with {status}");
    Ok(())
}

/// A killed engine leaves pid files behind; once another process has such a number, no engine starts any more.
fn clear_stale_pid_files() -> anyhow::Result<()> {
    let files = [("/var/run/docker.pid", "dockerd"), ("/var/run/docker/containerd/containerd.pid", "containerd")];
    for (file, program) in files {
        let Ok(content) = fs::read_to_string(file) else { continue };
        let status = fs::read_to_string(format!("/proc/{}/status", content.trim())).unwrap_or_default();
        if !runs(&status, program) {
            fs::remove_file(file).with_context(|| format!("the stale {file} cannot be removed"))?;
        }
    }
    Ok(())
}

/// Whether a `/proc/<pid>/status` is that of the program, and not what is left of it until its parent looks.
fn runs(status: &str, program: &str) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    field("Name:") == program && !field("State:").starts_with(['Z', 'X'])
}

/// Whether any process is an engine.
fn engine_process_exists() -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .map(|process| process.path().join("status"))
        .any(|status| fs::read_to_string(status).is_ok_and(|status| runs(&status, "dockerd")))
}

async fn answering(log: &Path) -> anyhow::Result<Docker> {
    let since = Instant::now();
    loop {
        let problem = match connect().await {
            Ok(engine) => return Ok(engine),
            Err(error) => error,
        };
        // A moment passes between `setsid` and the engine being a process of its own.
        let ended = since.elapsed() > START_GRACE && !engine_process_exists();
        if ended || since.elapsed() > START_LIMIT {
            let what = if ended { "it ended" } else { "it runs, but does not answer" };
            return Err(Failure::new(Exit::Engine, "the Docker engine could not be started")
                .why(format!("{what} after {} s: {problem:#}\n{}", since.elapsed().as_secs(), tail(log, 15)))
                .fix(format!("see {}", log.display()))
                .into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The last lines of a file; empty if it cannot be read.
fn tail(file: &Path, lines: usize) -> String {
    last_lines(&fs::read_to_string(file).unwrap_or_default(), lines)
}

/// The last lines of a text, indented to stand below a message.
pub(crate) fn last_lines(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    format!("    {}", all[all.len().saturating_sub(lines)..].join("\n    "))
}

/// The program's path, looked up in `PATH` and where system programs lie.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|directory| directory.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_stale_when_its_process_is_another_or_dead() {
        let cases = [
            ("Name:\tdockerd\nState:\tS (sleeping)\n", true),
            ("Name:\tdockerd\nState:\tZ (zombie)\n", false),
            ("Name:\tbash\nState:\tS (sleeping)\n", false),
            ("", false),
        ];
        for (status, expected) in cases {
            assert_eq!(runs(status, "dockerd"), expected, "{status}");
        }
    }

    #[test]
    fn the_last_lines_are_indented() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "    b\n    c");
        assert_eq!(last_lines("", 2), "    ");
    }
}
