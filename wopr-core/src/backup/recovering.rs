//! After the loss of a machine: a restored database learns what the store has, and every bot gets its data back.

use futures_util::{TryStreamExt as _, stream};
use jiff::Timestamp;
use serde::Deserialize;

use super::error::{BackupError, JobError};
use super::model::{DatabaseSet, INTERRUPTED, Lost, NewRestore, Restore, Snapshot, SnapshotKind, SnapshotState};
use super::repository::BackupRepository;
use super::saving::has_data;
use super::service::{Backups, Repository};
use super::sets_repository::SetRepository;
use crate::audit::{self, AuditEntry, Origin, Resource};
use crate::fleet::Bot;
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

impl Backups {
    /// Wants every bot restored from its newest snapshot whose data volume is gone. A bot that is being restored
    /// already is left to that.
    ///
    /// The database may be older than the store: what it does not know of there is made known before, so that the newest
    /// is the newest there is, and nothing is tidied away unseen.
    ///
    /// # Errors
    /// [`BackupError::Off`], [`BackupError::Job`] when the engine or the store does not tell, [`BackupError::Busy`] while
    /// somebody works with backups, [`BackupError::Storage`].
    pub async fn restore_lost(&self, origin: &Origin) -> Result<Lost, BackupError> {
        self.runner()?;
        let mut lost =
            Lost { found: self.alone(Repository::Platform, self.adopt_sets(origin)).await?, ..Lost::default() };
        let bots = self.inner.fleet.list(None).await?.into_iter().filter(has_data).map(Ok);
        let recovered = stream::iter(bots).map_ok(|bot| async move {
            let adopted = self.alone(Repository::Bot(bot.id), self.adopt(origin, &bot)).await?;
            Ok::<_, BackupError>((bot.id, adopted, self.recover(origin, &bot).await?))
        });
        let recovered: Vec<_> = recovered.try_buffer_unordered(PARALLEL).try_collect().await?;
        for (bot, adopted, found) in recovered {
            lost.found += adopted;
            match found {
                Found::Nothing => {}
                Found::Restoring(restore) => lost.restores.push(*restore),
                Found::NoSnapshot => lost.without_snapshot.push(bot),
            }
        }
        Ok(lost)
    }

    async fn recover(&self, origin: &Origin, bot: &Bot) -> Result<Found, BackupError> {
        if self.runner()?.has_volume(bot.id, bot.spec.volume).await? {
            return Ok(Found::Nothing);
        }
        let Some(newest) = self.list_ready(bot.id).await?.into_iter().next() else { return Ok(Found::NoSnapshot) };
        let reason = Some("its volume is gone".to_owned());
        match self.restore(origin, NewRestore { snapshot: newest.id, reason }).await {
            Ok(restore) => Ok(Found::Restoring(Box::new(restore))),
            Err(BackupError::RestoreUnderWay(_)) => {
                let all = self.list_restores(bot.tenant_id, u32::MAX).await?;
                let under_way = all.into_iter().find(|other| other.bot_id == bot.id && other.finished_at.is_none());
                Ok(under_way.map_or(Found::Nothing, |restore| Found::Restoring(Box::new(restore))))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes known what the bot's repository has and the database does not know of; answers how many snapshots.
    async fn adopt(&self, origin: &Origin, bot: &Bot) -> Result<usize, BackupError> {
        let rows = {
            let mut conn = self.inner.db.connection().await?;
            BackupRepository::new(&mut conn).list_of(bot.id, SnapshotState::ALL).await?
        };
        let known = rows.iter().filter_map(|row| row.engine_snapshot.clone()).collect();
        let unknown = listed(self.run(bot, bot.spec.volume, Work::List { known }).await)?;
        let mut adopted = 0;
        for listed in unknown {
            let name = &listed.snapshot;
            let described = serde_json::from_str(listed.description.as_deref().unwrap_or_default());
            let description: Description = match described {
                Ok(description) => description,
                Err(error) => {
                    tracing::error!(bot.id = %bot.id, "what was kept with snapshot {name} cannot be read: {error}");
                    continue;
                }
            };
            let kind = SnapshotKind::from_word(&description.kind);
            let (Some(kind), true) = (kind, description.bot.tenant == bot.tenant_id) else {
                tracing::error!(bot.id = %bot.id, "snapshot {name} is not of this tenant, or of no kind that is known");
                continue;
            };
            let row = rows.iter().find(|row| row.id == description.snapshot);
            // An attempt whose end was seen, and was bad, left nothing good.
            if row.is_some_and(|row| row.error.as_deref() != Some(INTERRUPTED)) {
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
            adopted += 1;
        }
        Ok(adopted)
    }

    /// The same for the platform's repository, which does not tell what a set was made for.
    async fn adopt_sets(&self, origin: &Origin) -> Result<usize, BackupError> {
        let rows = {
            let mut conn = self.inner.db.connection().await?;
            SetRepository::new(&mut conn).list(SnapshotState::ALL).await?
        };
        let known = rows.into_iter().filter_map(|row| row.engine_snapshot).collect();
        let unknown = listed(self.run_on_database(&Work::List { known }).await)?;
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

/// A bot that was never saved has no repository.
fn listed(outcome: Result<Report, JobError>) -> Result<Vec<Listed>, BackupError> {
    match outcome {
        Ok(report) => Ok(report.listed),
        Err(JobError::Failed(failure)) if failure.kind == FailureKind::NoSnapshot => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}
