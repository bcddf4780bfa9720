//! One file per command.

pub(crate) mod conformance;
pub(crate) mod down;
pub(crate) mod images;
pub(crate) mod logs;
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
