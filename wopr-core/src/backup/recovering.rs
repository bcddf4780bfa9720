//! After the loss of a machine: a restored database learns what the store has, and every bot gets its data back.

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use serde::Deserialize;

use super::error::{BackupError, JobError};
use super::model::{DatabaseSet, INTERRUPTED, Lost, NewRestore, Restore, Snapshot, SnapshotKind, SnapshotState};
use super::repository::BackupRepository;
use super::service::{Backups, Repository};
use super::sets_repository::SetRepository;
use crate::audit::{self, AuditEntry, Origin, Resource};
use crate::fleet::{Bot, DesiredState};
use crate::ids::{SnapshotId, TenantId};
use crate::protocol::backup::{FailureKind, Listed, Report, Work};

/// Bots whose repositories are looked through at a time.
const PARALLEL: usize = 4;

/// Of what is kept with a snapshot, what its row is made of again.
#[derive(Deserialize)]
struct Description {
    snapshot: SnapshotId,
    kind: String,
    at: Timestamp,
    bot: DescribedBot,
}

#[derive(Deserialize)]
struct DescribedBot {
    tenant: TenantId,
}

enum Found {
    Nothing,
    Restoring(Box<Restore>),
    NoSnapshot,
}

/// What was learned from a bot's repository.
#[derive(Default)]
struct Learned {
    adopted: usize,
    /// Snapshots of which nobody can tell what they are.
    unclear: Vec<String>,
}

impl Backups {
    /// Wants every bot restored from its newest snapshot whose data volume is gone. A bot that is being restored from that
    /// already is left to it.
    ///
    /// The database may be older than the store: what it does not know of there is made known before, and what is not there
    /// any more is forgotten, so that the newest is the newest there is and nothing is tidied away unseen. A bot that cannot
    /// be looked at does not stop the others.
    ///
    /// # Errors
    /// [`BackupError::Off`]; [`BackupError::Job`] when the engine or the store does not tell of the platform's own repository;
    /// [`BackupError::Busy`] and [`BackupError::DatabaseBusy`] while somebody works with backups: whoever asks again goes on;
    /// [`BackupError::Storage`].
    pub async fn restore_lost(&self, origin: &Origin) -> Result<Lost, BackupError> {
        self.runner()?;
        let mut lost =
            Lost { found: self.alone(Repository::Platform, self.adopt_sets(origin)).await?, ..Lost::default() };
        let bots = self.inner.fleet.list(None).await?.into_iter().filter(|bot| bot.desired != DesiredState::Destroyed);
        let looks = stream::iter(bots).map(async |bot| {
            let look = async {
                let learned = self.adopt(origin, &bot).await?;
                Ok((learned, self.recover(origin, &bot).await?))
            };
            (bot.id, self.alone(Repository::Bot(bot.id), look).await)
        });
        // Each to its end: one that is dropped keeps its lease.
        for (bot, outcome) in looks.buffer_unordered(PARALLEL).collect::<Vec<_>>().await {
            match outcome {
                Ok((learned, found)) => {
                    lost.found += learned.adopted;
                    lost.failed.extend(learned.unclear.into_iter().map(|reason| (bot, reason)));
                    match found {
                        Found::Nothing => {}
                        Found::Restoring(restore) => lost.restores.push(*restore),
                        Found::NoSnapshot => lost.without_snapshot.push(bot),
                    }
                }
                Err(error @ (BackupError::Busy(_) | BackupError::Storage(_))) => return Err(error),
                Err(error) => lost.failed.push((bot, error.to_string())),
            }
        }
        Ok(lost)
    }

    async fn recover(&self, origin: &Origin, bot: &Bot) -> Result<Found, BackupError> {
        if self.runner()?.has_volume(bot.id, bot.spec.volume).await? {
            return Ok(Found::Nothing);
        }
        let ready = self.list_ready(bot.id).await?;
        let restores = self.list_restores(bot.tenant_id, u32::MAX).await?;
        let under_way = restores.into_iter().find(|other| other.bot_id == bot.id && other.finished_at.is_none());
        let snapshot = match under_way {
            None => match ready.first() {
                Some(newest) => newest.id,
                // It was wanted, and had not been made yet.
                None if bot.seen.container_id.is_none() => return Ok(Found::Nothing),
                None => return Ok(Found::NoSnapshot),
            },
            Some(mut restore) => {
                let is_later = |snapshot: &&Snapshot| {
                    snapshot.started_at > restore.created_at && snapshot.kind != SnapshotKind::PreRestore
                };
                let later = ready.iter().find(is_later).map(|snapshot| snapshot.id);
                // What it had filled was lost, and it would not fill it again.
                if later.is_none() && restore.volume != bot.spec.volume {
                    return Ok(Found::Restoring(Box::new(restore)));
                }
                self.give_up(&mut restore, "the machine was lost".to_owned()).await?;
                let mut conn = self.inner.db.connection().await?;
                BackupRepository::new(&mut conn).save_restore(&restore).await?;
                later.unwrap_or(restore.snapshot_id)
            }
        };
        let reason = Some("its volume is gone".to_owned());
        Ok(Found::Restoring(Box::new(self.restore(origin, NewRestore { snapshot, reason }).await?)))
    }

    /// Makes known what the bot's repository has and the database does not know of, and forgets what it has not.
    async fn adopt(&self, origin: &Origin, bot: &Bot) -> Result<Learned, BackupError> {
        let rows = {
            let mut conn = self.inner.db.connection().await?;
            BackupRepository::new(&mut conn).list_of(bot.id, SnapshotState::ALL).await?
        };
        let known: Vec<String> = rows.iter().filter_map(|row| row.engine_snapshot.clone()).collect();
        let (unknown, missing) =
            compare(self.run(bot, bot.spec.volume, Work::List { known: known.clone() }).await, known)?;
        let mut learned = Learned::default();
        for row in rows.iter().filter(|row| is_missing(row.state, row.engine_snapshot.as_ref(), &missing)) {
            let gone = Snapshot { state: SnapshotState::Deleted, deleted_at: Some(self.now()), ..row.clone() };
            let mut conn = self.inner.db.connection().await?;
            BackupRepository::new(&mut conn).save(&gone).await?;
        }
        for listed in unknown {
            let name = &listed.snapshot;
            let described = serde_json::from_str(listed.description.as_deref().unwrap_or_default());
            let description: Description = match described {
                Ok(description) => description,
                Err(error) => {
                    learned.unclear.push(format!("what was kept with snapshot {name} cannot be read: {error}"));
                    continue;
                }
            };
            let kind = SnapshotKind::from_word(&description.kind);
            let (Some(kind), true) = (kind, description.bot.tenant == bot.tenant_id) else {
                learned.unclear.push(format!("snapshot {name} is not of its tenant, or of no kind that is known"));
                continue;
            };
            let row = rows.iter().find(|row| row.id == description.snapshot);
            let is_open = |row: &Snapshot| {
                matches!(row.state, SnapshotState::Wanted | SnapshotState::Creating)
                    || row.error.as_deref() == Some(INTERRUPTED)
            };
            // An attempt whose end was seen, and was bad, left nothing good.
            if row.is_some_and(|row| !is_open(row)) {
                continue;
            }
            let new = Snapshot {
                id: description.snapshot,
                ..self.new_snapshot(bot.id, bot.tenant_id, kind, SnapshotState::Creating, origin)
            };
            let snapshot = Snapshot {
                state: SnapshotState::Ready,
                error: None,
                engine_snapshot: Some(listed.snapshot),
                size_bytes: Some(listed.bytes),
                added_bytes: Some(listed.stored_bytes),
                started_at: description.at,
                finished_at: Some(listed.taken_at),
                ..row.unwrap_or(&new).clone()
            };
            self.inner
                .db
                .transaction(async |conn| {
                    let mut backups = BackupRepository::new(conn);
                    if row.is_none() {
                        backups.insert(&new).await?;
                    }
                    backups.save(&snapshot).await?;
                    let resource = Resource::new("snapshot", snapshot.id);
                    let entry = AuditEntry::success(origin, Some(bot.tenant_id), "snapshot.adopt", resource);
                    audit::record_in(conn, self.now(), &entry).await?;
                    Ok::<_, BackupError>(())
                })
                .await?;
            learned.adopted += 1;
        }
        Ok(learned)
    }

    /// The same for the platform's repository, which does not tell what a set was made for.
    async fn adopt_sets(&self, origin: &Origin) -> Result<usize, BackupError> {
        let rows = {
            let mut conn = self.inner.db.connection().await?;
            SetRepository::new(&mut conn).list(SnapshotState::ALL).await?
        };
        let known: Vec<String> = rows.iter().filter_map(|row| row.engine_snapshot.clone()).collect();
        let (unknown, missing) = compare(self.run_on_database(&Work::List { known: known.clone() }).await, known)?;
        for row in rows.iter().filter(|row| is_missing(row.state, row.engine_snapshot.as_ref(), &missing)) {
            let gone = DatabaseSet { state: SnapshotState::Deleted, deleted_at: Some(self.now()), ..row.clone() };
            let mut conn = self.inner.db.connection().await?;
            SetRepository::new(&mut conn).save(&gone).await?;
        }
        for listed in &unknown {
            let new = self.new_set(SnapshotKind::OnDemand, SnapshotState::Creating, origin);
            let set = DatabaseSet {
                state: SnapshotState::Ready,
                engine_snapshot: Some(listed.snapshot.clone()),
                size_bytes: Some(listed.bytes),
                added_bytes: Some(listed.stored_bytes),
                started_at: listed.taken_at,
                finished_at: Some(listed.taken_at),
                ..new.clone()
            };
            self.inner
                .db
                .transaction(async |conn| {
                    let mut sets = SetRepository::new(conn);
                    sets.insert(&new).await?;
                    sets.save(&set).await?;
                    let resource = Resource::new("database_set", set.id);
                    let entry = AuditEntry::success(origin, None, "database.adopt", resource);
                    audit::record_in(conn, self.now(), &entry).await?;
                    Ok::<_, BackupError>(())
                })
                .await?;
        }
        Ok(unknown.len())
    }
}

/// What a repository has of which nobody knew, and what it has not that was known. A bot that was never saved has none.
fn compare(outcome: Result<Report, JobError>, known: Vec<String>) -> Result<(Vec<Listed>, Vec<String>), BackupError> {
    match outcome {
        Ok(report) => Ok((report.listed, report.missing)),
        Err(JobError::Failed(failure)) if failure.kind == FailureKind::NoSnapshot => Ok((Vec::new(), known)),
        Err(error) => Err(error.into()),
    }
}

fn is_missing(state: SnapshotState, name: Option<&String>, missing: &[String]) -> bool {
    matches!(state, SnapshotState::Ready | SnapshotState::Deleting) && name.is_some_and(|name| missing.contains(name))
}
