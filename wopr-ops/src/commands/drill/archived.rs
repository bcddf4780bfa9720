//! The archive of the platform's log, as its database tells of it.

use std::time::{Duration, Instant};

use bollard::Docker;

use crate::{
    commands::up::recovering::{answer, wake_archiving},
    plan::{archive::TIMEOUT_SECONDS, platform::VPS},
};

/// How long what is written may take to be in the archive.
const LIMIT: Duration = Duration::from_secs(3 * TIMEOUT_SECONDS as u64);
const PACE: Duration = Duration::from_millis(500);

/// Waits until all that is written by now is in the archive, as it is within a minute without anybody's doing; answers with
/// how long that took.
pub(super) async fn until_archived(engine: &Docker) -> anyhow::Result<Duration> {
    // Whatever was cut off from its power before.
    wake_archiving(engine, VPS.postgres).await?;
    until_in_archive(engine, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())").await
}

/// As [`until_archived`], at once: the piece of the log that is being written ends where it is.
pub(super) async fn archive_now(engine: &Docker) -> anyhow::Result<Duration> {
    until_in_archive(engine, "SELECT pg_walfile_name(pg_switch_wal())").await
}

/// As [`archive_now`], with a piece that ends because it is full: within a record whose rest is in the next.
pub(super) async fn archive_full(engine: &Docker) -> anyhow::Result<Duration> {
    let piece = answer(engine, VPS.postgres, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())").await?;
    let fill =
        "SELECT count(pg_logical_emit_message(false, 'drill', repeat('x', 1000000))) FROM generate_series(1, 20)";
    answer(engine, VPS.postgres, fill).await?;
    until_in_archive(engine, &format!("SELECT '{piece}'")).await
}

/// `piece` answers with the name of one.
async fn until_in_archive(engine: &Docker, piece: &str) -> anyhow::Result<Duration> {
    let since = Instant::now();
    let piece = answer(engine, VPS.postgres, piece).await?;
    // Names of the same line of history are in the order of time.
    let query = format!("SELECT coalesce(last_archived_wal >= '{piece}', false) FROM pg_stat_archiver");
    while answer(engine, VPS.postgres, &query).await? != "t" {
        anyhow::ensure!(since.elapsed() < LIMIT, "{piece} is not in the archive after {} s", LIMIT.as_secs());
        tokio::time::sleep(PACE).await;
    }
    Ok(since.elapsed())
}
