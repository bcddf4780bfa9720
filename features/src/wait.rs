//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long something that happens by itself may take: a container to start on a loaded machine, a worker to come by.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// How long a state is watched before it counts as staying: several rounds of every worker.
pub const WATCH: Duration = Duration::from_secs(2);
const PACE: Duration = Duration::from_millis(100);

/// Asks again and again until `look` says [`Ok`]; what it said last is the error when patience ends.
///
/// # Errors
/// The last thing that `look` complained of.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(error) if started.elapsed() > PATIENCE => {
                bail!("{what}: not within {} s: {error:#}", PATIENCE.as_secs());
            }
            Err(_) => tokio::time::sleep(PACE).await,
        }
    }
}

/// Looks for a while; every look must say [`Ok`].
///
/// # Errors
/// The first complaint of `look`.
pub async fn throughout(what: &str, mut look: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < WATCH {
        if let Err(error) = look().await {
            bail!("{what}: not any more after {} ms: {error:#}", started.elapsed().as_millis());
        }
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}
