//! Programs of ours, started and killed.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use features::http::{Client, Request};
use features::wait;
use rand::Rng as _;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

/// A program, its surroundings, and the process that runs it now.
pub(crate) struct Program {
    path: PathBuf,
    variables: Vec<(String, String)>,
    process: Option<Child>,
}

impl Program {
    /// One that was built together with this test.
    ///
    /// # Errors
    /// When it was not.
    pub(crate) fn built(name: &str, variables: &[(&str, String)]) -> Result<Self> {
        let test = std::env::current_exe()?;
        let directory = test.parent().and_then(|deps| deps.parent()).context("no target directory")?;
        let path = directory.join(name);
        ensure!(
            path.is_file(),
            "{name} is not built: run `cargo build --workspace --bins`, or test the whole workspace"
        );
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Ok(Self { path, variables, process: None })
    }

    /// Starts it; it need not have come to serving yet.
    pub(crate) fn start(&mut self) -> Result<()> {
        let process = Command::new(&self.path)
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
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
}

/// A loopback port that nobody has, outside the range that outgoing connections take theirs from.
pub(crate) async fn free_port() -> Result<u16> {
    for _ in 0..100 {
        let port = rand::rng().random_range(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).await.is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no port is free")
}

/// Waits until it answers there.
pub(crate) async fn serves(client: &Client, url: &str) -> Result<()> {
    wait::until(url, async || client.send(Request::get(url)).await?.expect_status(200).map(drop)).await
}
