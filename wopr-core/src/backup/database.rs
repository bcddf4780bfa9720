//! The platform's own database: copied every night and on demand, read back, and let go of.

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use super::error::{BackupError, JobError};
use super::groups;
use super::model::{DatabaseSet, DatabaseStatus, SnapshotKind, SnapshotState};
use super::retention;
use super::saving::RETRY_MINUTES;
use super::service::{Backups, Repository};
use super::sets_repository::SetRepository;
use crate::audit::{self, AuditEntry, Origin, Resource};
use crate::ids::DatabaseSetId;
use crate::protocol::backup::{Report, Work};

impl Backups {
    /// Wants a copy of the platform's database. It is made as soon as possible.
    ///
    /// # Errors
    /// [`BackupError::Off`], [`BackupError::Storage`].
    pub async fn want_database(&self, origin: &Origin) -> Result<DatabaseSet, BackupError> {
        self.runner()?;
        let set = self.new_set(SnapshotKind::OnDemand, SnapshotState::Wanted, origin);
        self.inner
            .db
            .transaction(async |conn| {
                SetRepository::new(conn).insert(&set).await?;
                let entry = AuditEntry::success(origin, None, "database.backup", Resource::new("database_set", set.id));
                audit::record_in(conn, set.started_at, &entry).await?;
                Ok::<_, BackupError>(())
            })
            .await?;
        self.inner.wake_database.notify_one();
        Ok(set)
    }

    pub(super) fn new_set(&self, kind: SnapshotKind, state: SnapshotState, origin: &Origin) -> DatabaseSet {
        let now = self.now();
        DatabaseSet {
            id: DatabaseSetId::new(now),
            kind,
            requested_by: origin.actor.to_string(),
            state,
            engine_snapshot: None,
            size_bytes: None,
            added_bytes: None,
            error: None,
            started_at: now,
            finished_at: None,
            verified_at: None,
            restored_at: None,
            deleted_at: None,
        }
    }

    /// Complete copies of the platform's database, the newest first.
    ///
    /// # Errors
    /// [`BackupError::Storage`].
    pub async fn list_database_sets(&self) -> Result<Vec<DatabaseSet>, BackupError> {
        let mut conn = self.inner.db.connection().await?;
        Ok(SetRepository::new(&mut conn).list(&[SnapshotState::Ready]).await?)
    }

    /// Notes that a set was restored into another database, which had every row then: somebody has seen that.
    ///
    /// # Errors
    /// [`BackupError::NoSet`] for one that is not complete.
    pub async fn note_database_restored(&self, origin: &Origin, id: DatabaseSetId) -> Result<(), BackupError> {
        let now = self.now();
        self.inner
            .db
            .transaction(async |conn| {
                let mut sets = SetRepository::new(conn);
                if !sets.save_restored(id, now).await? {
                    return Err(BackupError::NoSet(id));
                }
                let resource = Resource::new("database_set", id);
                let entry = AuditEntry::success(origin, None, "database.restore_proven", resource);
                audit::record_in(conn, now, &entry).await?;
                Ok(())
            })
            .await
    }

    /// How it stands with the copies of the platform's database; nothing where backups are off.
    ///
    /// # Errors
    /// [`BackupError::Storage`].
    pub async fn database_status(&self) -> Result<Option<DatabaseStatus>, BackupError> {
        if !self.is_on() {
            return Ok(None);
        }
        let mut conn = self.inner.db.connection().await?;
        let mut sets = SetRepository::new(&mut conn);
        let totals = sets.totals().await?;
        let attempt = sets.find_last_attempt().await?;
        Ok(Some(DatabaseStatus {
            since: totals.first_at.unwrap_or(self.inner.began_at),
            total: u32::try_from(totals.count).unwrap_or(u32::MAX),
            last_attempt_at: attempt.as_ref().map(|attempt| attempt.started_at),
            last_error: attempt.and_then(|attempt| attempt.error),
            last_success: sets.find_last_success().await?,
            last_proven_at: totals.proven_at,
            archive: self.archive_status().await?,
        }))
    }

    /// Makes the copy of the platform's database that somebody wants, or that of the night if there is none yet; answers
    /// how many were tried.
    ///
    /// # Errors
    /// [`BackupError::Storage`]; a copy that fails is a row.
    pub async fn save_database_due(&self) -> Result<usize, BackupError> {
        let mut tried = 0;
        // Whoever is asked twice makes two: each has an answer of its own.
        while self.is_on() && self.find_due().await?.is_some() {
            let saved = Box::pin(self.alone(Repository::Platform, async {
                // Somebody else may have made it meanwhile.
                match self.find_due().await? {
                    Some(set) => self.save_set(set).await.map(Some),
                    None => Ok(None),
                }
            }));
            match saved.await {
                Ok(Some(_)) => tried += 1,
                Ok(None) => {}
                Err(BackupError::DatabaseBusy) => {
                    tracing::info!("somebody else works with the database's backups");
                    break;
                }
                Err(error @ BackupError::Storage(_)) => return Err(error),
                Err(error) => {
                    tried += 1;
                    tracing::error!("the database was not backed up: {error}");
                }
            }
        }
        Ok(tried)
    }

    async fn find_due(&self) -> Result<Option<DatabaseSet>, BackupError> {
        let mut conn = self.inner.db.connection().await?;
        let mut sets = SetRepository::new(&mut conn);
        if let Some(wanted) = sets.find_wanted().await? {
            return Ok(Some(wanted));
        }
        let failed_at = sets.find_last_attempt().await?.filter(|last| last.state == SnapshotState::Failed);
        let failed_at = failed_at.map(|last| last.started_at);
        let last_night = sets.last_night().await?.map(|at| self.night_of(at));
        let now = self.now();
        let is_due = is_night_due(failed_at, last_night, self.night_of(now), now);
        let new = || self.new_set(SnapshotKind::Nightly, SnapshotState::Creating, &Origin::system("backup"));
        Ok(is_due.then(new))
    }

    async fn save_set(&self, mut set: DatabaseSet) -> Result<DatabaseSet, BackupError> {
        let known = set.state == SnapshotState::Wanted;
        (set.state, set.started_at) = (SnapshotState::Creating, self.now());
        let tables = {
            let mut conn = self.inner.db.connection().await?;
            let mut sets = SetRepository::new(&mut conn);
            if known {
                sets.save(&set).await?;
            } else {
                sets.insert(&set).await?;
            }
            sets.list_tables().await?
        };
        let work = Work::DumpDatabase { groups: groups::grouped(&tables) };
        let outcome = self.run_on_database(&work).await.and_then(|report| match report.snapshot {
            Some(_) => Ok(report),
            None => Err(JobError::Died { exit_code: 0, last_words: "it names no snapshot".to_owned() }),
        });
        set.finished_at = Some(self.now());
        match &outcome {
            Ok(report) => {
                set.state = SnapshotState::Ready;
                set.engine_snapshot.clone_from(&report.snapshot);
                set.size_bytes = Some(report.bytes);
                set.added_bytes = Some(u64::try_from(report.stored_bytes).unwrap_or(0));
            }
            Err(error) => {
                set.state = SnapshotState::Failed;
                set.error = Some(error.to_string());
            }
        }
        let mut conn = self.inner.db.connection().await?;
        SetRepository::new(&mut conn).save(&set).await?;
        outcome?;
        Ok(set)
    }

    pub(super) async fn run_on_database(&self, work: &Work) -> Result<Report, JobError> {
        let Ok(runner) = self.runner() else { return Err(JobError::Off) };
        self.bounded(async { runner.begin_on_platform(work).await?.finish().await }).await
    }

    /// Reads every byte of the newest set if none has had that for too long; answers whether it was read.
    pub(super) async fn verify_database_due(&self) -> Result<bool, BackupError> {
        let Some(status) = self.database_status().await? else { return Ok(false) };
        let since = status.last_proven_at.unwrap_or(status.since);
        let is_due = self.now().duration_since(since) > self.inner.config.verify_every;
        let Some(set) = status.last_success.filter(|_| is_due) else { return Ok(false) };
        let Some(snapshot) = set.engine_snapshot else { return Ok(false) };
        let read = Box::pin(self.alone(Repository::Platform, async {
            self.run_on_database(&Work::Verify { snapshot }).await?;
            let mut conn = self.inner.db.connection().await?;
            SetRepository::new(&mut conn).save_verified(set.id, self.now()).await?;
            Ok(())
        }));
        match read.await {
            Ok(()) => Ok(true),
            Err(BackupError::DatabaseBusy) => Ok(false),
            Err(BackupError::Job(error)) => {
                tracing::error!("the database's set {} cannot be read back: {error}", set.id);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Lets go of sets whose time is over, and answers how many those were.
    pub(super) async fn tidy_database(&self) -> Result<usize, BackupError> {
        if self.sets_to_go().await?.1.is_empty() {
            return Ok(0);
        }
        Box::pin(self.alone(Repository::Platform, async {
            let (stay, go) = self.sets_to_go().await?;
            // First nobody can have them any more, then they are removed: whoever is killed in between has it done again.
            self.save_all(&go, SnapshotState::Deleting).await?;
            let snapshots = stay.into_iter().filter_map(|set| set.engine_snapshot).collect();
            self.run_on_database(&Work::Keep { snapshots }).await?;
            self.save_all(&go, SnapshotState::Deleted).await?;
            Ok(go.len())
        }))
        .await
    }

    /// What stays and what goes; nothing goes if nothing would stay.
    async fn sets_to_go(&self) -> Result<(Vec<DatabaseSet>, Vec<DatabaseSet>), BackupError> {
        let mut conn = self.inner.db.connection().await?;
        let all = SetRepository::new(&mut conn).list(&[SnapshotState::Ready, SnapshotState::Deleting]).await?;
        let ready = all.iter().filter(|set| set.state == SnapshotState::Ready);
        let aged: Vec<_> = ready.map(|set| (set.id, set.kind, set.started_at)).collect();
        let kept = retention::keep_sets(&aged, self.now());
        let (stay, go): (Vec<_>, Vec<_>) = all.into_iter().partition(|set| kept.contains(&set.id));
        Ok(if stay.is_empty() { (stay, Vec::new()) } else { (stay, go) })
    }

    async fn save_all(&self, sets: &[DatabaseSet], state: SnapshotState) -> Result<(), BackupError> {
        let now = self.now();
        for set in sets {
            let deleted_at = set.deleted_at.or(Some(now));
            let mut conn = self.inner.db.connection().await?;
            SetRepository::new(&mut conn).save(&DatabaseSet { state, deleted_at, ..set.clone() }).await?;
        }
        Ok(())
    }
}

/// Whether the set of the night is to be made: there is none, and the last attempt did not fail just now.
pub(super) fn is_night_due(
    failed_at: Option<Timestamp>,
    last_night: Option<Date>,
    night: Date,
    now: Timestamp,
) -> bool {
    let pauses = failed_at.is_some_and(|at| now.duration_since(at) < SignedDuration::from_mins(RETRY_MINUTES));
    !pauses && last_night.is_none_or(|last| last < night)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_night_has_one_set_and_a_failure_a_pause() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (night, before): (Date, Date) = ("2026-11-21".parse().unwrap(), "2026-11-20".parse().unwrap());
        let now = at("2026-11-21T12:00:00Z");
        let table = [
            (None, None, true),
            (None, Some(before), true),
            (None, Some(night), false),
            (Some("2026-11-21T11:55:00Z"), Some(before), false),
            (Some("2026-11-21T11:50:00Z"), Some(before), true),
            (Some("2026-11-21T11:55:00Z"), None, false),
        ];
        for (number, (failed_at, last_night, due)) in table.into_iter().enumerate() {
            assert_eq!(is_night_due(failed_at.map(at), last_night, night, now), due, "case {number}");
        }
    }
}
