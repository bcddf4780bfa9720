//! One file per command.

pub(crate) mod bench;
pub(crate) mod bundle;
pub(crate) mod conformance;
pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod drill;
pub(crate) mod exec;
pub(crate) mod fault;
pub(crate) mod images;
pub(crate) mod journeys;
pub(crate) mod logs;
pub(crate) mod recover;
pub(crate) mod runbook;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod stripe;
pub(crate) mod test;
pub(crate) mod up;

use std::{fs::File, time::Duration};

use anyhow::Context;

use crate::{
    failure::{Exit, Failure},
    paths::Paths,
    secrets::Secrets,
};

/// Held by commands that change the stack, so that two of them do not work against each other.
pub(crate) fn lock(paths: &Paths) -> anyhow::Result<File> {
    let path = paths.data.join("lock");
    let file = File::create(&path).with_context(|| format!("{} cannot be written", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(Failure::new(Exit::Environment, "another command is at work on this stack")
                .why(format!("{} is locked", path.display()))
                .fix("wait until it has ended")
                .into())
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("{} cannot be locked", path.display()))
        }
    }
}

/// A client for the servers of the stack on this machine.
pub(crate) fn http_client() -> anyhow::Result<reqwest::Client> {
    // Done once per process; a second call finds the provider installed and changes nothing.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(Duration::from_secs(30))
        .no_proxy()
        .build()
        .context("no HTTP client could be made")
}

/// What the stack was made with.
pub(crate) fn stack_secrets(paths: &Paths) -> anyhow::Result<Secrets> {
    let directory = paths.data.join("secrets");
    if Secrets::are_missing(&directory) {
        return Err(Failure::new(Exit::Check, "there is no stack to test against")
            .fix("`cargo wopr up` brings one")
            .into());
    }
    Ok(Secrets::load_or_create(&directory)?.0)
}

/// Asks until there is an answer or the time is over.
pub(crate) async fn wait_until<T, F: Future<Output = anyhow::Result<Option<T>>>>(
    limit: Duration,
    mut ask: impl FnMut() -> F,
) -> anyhow::Result<Option<T>> {
    let since = std::time::Instant::now();
    loop {
        let answer = ask().await?;
        if answer.is_some() || since.elapsed() > limit {
            return Ok(answer);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
