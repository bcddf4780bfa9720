//! Programs of ours, started and killed.

use std::fs::OpenOptions;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use features::http::{Client, Request};
use features::wait;
use rand::Rng as _;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

/// How much of a log is told.
const LAST_LINES: usize = 20;

/// A program, its surroundings, and the process that runs it now.
pub(crate) struct Program {
    path: PathBuf,
    variables: Vec<(String, String)>,
    /// What it writes, all of its processes one after the other.
    log: PathBuf,
    process: Option<Child>,
}

impl Program {
    /// One that was built together with this test; it writes its log into `directory`.
    ///
    /// # Errors
    /// When it was not.
    pub(crate) fn built(name: &str, directory: &Path, variables: &[(&str, String)]) -> Result<Self> {
        let path = path(name)?;
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Ok(Self { path, variables, log: directory.join(format!("{name}.log")), process: None })
    }

    /// Starts it; it need not have come to serving yet.
    pub(crate) fn start(&mut self) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| self.log.display().to_string())?;
        let process = Command::new(&self.path)
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| self.path.display().to_string())?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it, as the machine's end would.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("it does not run")?;
        ensure!(process.try_wait()?.is_none(), "{} ended by itself", self.path.display());
        process.kill().await?;
        Ok(())
    }

    /// Whether it runs, and what it wrote last.
    pub(crate) fn describe(&mut self) -> String {
        let state = match self.process.as_mut().map(Child::try_wait) {
            None => "is not started".to_owned(),
            Some(Ok(None)) => "runs".to_owned(),
            Some(Ok(Some(status))) => format!("ended: {status}"),
            Some(Err(error)) => format!("cannot be asked: {error}"),
        };
        let log = std::fs::read_to_string(&self.log).unwrap_or_else(|error| error.to_string());
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n  ");
        format!("{} {state}; its last lines:\n  {last}", self.path.display())
    }
}

/// A directory of one schedule.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn create() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("wopr-crash-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

/// Where a program of ours is that was built together with this test.
pub(crate) fn path(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let built = test.parent().and_then(|deps| deps.parent()).context("no target directory")?;
    let path = built.join(name);
    ensure!(path.is_file(), "{name} is not built: run `cargo build --workspace --bins`, or test the whole workspace");
    Ok(path)
}

/// A loopback port of its own for a program. It stays so while nobody listens on it: a schedule that is given the port of
/// another one's killed server would keep that server from starting again, and get its messages.
pub(crate) struct Port {
    pub(crate) number: u16,
    /// Of the same number. Programs under test do not use datagrams, so that nobody but another claim is in the way.
    _claim: UdpSocket,
}

impl Port {
    /// One that nobody has, outside the range that outgoing connections take theirs from.
    pub(crate) async fn claim() -> Result<Self> {
        for _ in 0..100 {
            let number = rand::rng().random_range(20_000..32_000);
            if let Ok(claim) = UdpSocket::bind(("127.0.0.1", number))
                && TcpListener::bind(("127.0.0.1", number)).await.is_ok()
            {
                return Ok(Self { number, _claim: claim });
            }
        }
        anyhow::bail!("no port is free")
    }
}

/// Waits until it answers there.
pub(crate) async fn serves(client: &Client, url: &str) -> Result<()> {
    wait::until(url, async || client.send(Request::get(url)).await?.expect_status(200).map(drop)).await
}
