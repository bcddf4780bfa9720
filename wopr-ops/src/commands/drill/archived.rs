//! The archive of the platform's log: as its database tells of it, and as it lies in the object store.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use bollard::Docker;

use crate::{
    commands::up::{
        log_end::PIECE_NAME,
        recovering::{answer, wake_archiving},
    },
    paths::Paths,
    plan::{
        archive::TIMEOUT_SECONDS,
        machines,
        platform::{BUCKET, ELSEWHERE, VPS},
    },
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

/// Where the archive is.
pub(super) fn archive_directory(paths: &Paths) -> PathBuf {
    paths.machines().join(machines::VPS).join(ELSEWHERE).join("objects").join(BUCKET).join("archive")
}

/// The piece of the present database's log before its last, in the archive or in a copy of it.
pub(super) fn piece_before_last(archive: &Path) -> anyhow::Result<PathBuf> {
    // Each database that was made anew has another number, the last is the present one's.
    let number = |path: &PathBuf| file_name(path).ok()?.rsplit_once('-')?.1.parse::<u32>().ok();
    let databases = entries(&archive.join("archive/platform"))?.into_iter().filter(|path| path.is_dir());
    let present = databases.max_by_key(number).context("there is no log")?;
    let mut pieces = Vec::new();
    for part in entries(&present)?.into_iter().filter(|path| path.is_dir()) {
        pieces.extend(entries(&part)?);
    }
    pieces.retain(|path| file_name(path).is_ok_and(|name| name.as_bytes().get(PIECE_NAME) == Some(&b'-')));
    pieces.sort_by_key(|path| file_name(path).unwrap_or_default());
    pieces.pop();
    pieces.pop().context("the log has no piece before its last")
}

pub(super) fn file_name(path: &Path) -> anyhow::Result<String> {
    path.file_name().and_then(|name| name.to_str()).map(str::to_owned).context("a path has a name")
}

pub(super) fn entries(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read = fs::read_dir(directory).with_context(|| format!("{} cannot be read", directory.display()))?;
    let mut paths: Vec<PathBuf> = read.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    Ok(paths)
}
