//! The archive of the database's log: the database's files are copied into it every night.

use jiff::{SignedDuration, Timestamp};

use super::base_repository::BaseRepository;
use super::database::is_night_due;
use super::error::{BackupError, JobError};
use super::model::{ArchiveStatus, BaseBackup, History, SnapshotState};
use super::ports::Archived;
use super::service::{Backups, Repository};
use crate::audit::{self, AuditEntry, Origin, Resource};
use crate::ids::BaseBackupId;

/// How soon an archive is read again that was not as it was.
const READ_DAMAGED_EVERY: SignedDuration = SignedDuration::from_hours(24);
/// How long is known that an attempt failed.
const KEEP_FAILED: SignedDuration = SignedDuration::from_hours(30 * 24);

impl Backups {
    /// Copies the database's files if that of the night is missing; answers whether it was tried.
    ///
    /// # Errors
    /// [`BackupError::Storage`]; a copy that fails is a row.
    pub async fn save_base_due(&self) -> Result<bool, BackupError> {
        if self.inner.archive.is_none() || !self.is_base_due().await? {
            return Ok(false);
        }
        let saved = Box::pin(self.alone(Repository::Platform, async {
            // Somebody else may have made it meanwhile.
            if !self.is_base_due().await? {
                return Ok(false);
            }
            self.save_base().await.map(|()| true)
        }));
        let saved = saved.await;
        // A set that was wanted meanwhile was told to wait.
        self.inner.wake_database.notify_one();
        match saved {
            Err(BackupError::DatabaseBusy) => {
                tracing::info!("somebody else works with the database's backups");
                Ok(false)
            }
            Err(error @ BackupError::Storage(_)) => Err(error),
            Err(error) => {
                tracing::error!("the database's files were not copied: {error}");
                Ok(true)
            }
            Ok(tried) => Ok(tried),
        }
    }

    async fn is_base_due(&self) -> Result<bool, BackupError> {
        let (all, history) = (self.list_bases().await?, self.history().await?);
        let failed_at = all.first().filter(|last| last.state == SnapshotState::Failed).map(|last| last.started_at);
        let last_night = newest(&all, history).map(|base| self.night_of(base.started_at));
        let now = self.now();
        Ok(is_night_due(failed_at, last_night, self.night_of(now), now))
    }

    /// Which database it is.
    async fn history(&self) -> Result<History, BackupError> {
        let mut conn = self.inner.db.connection().await?;
        Ok(BaseRepository::new(&mut conn).find_history().await?)
    }

    async fn list_bases(&self) -> Result<Vec<BaseBackup>, BackupError> {
        let mut conn = self.inner.db.connection().await?;
        Ok(BaseRepository::new(&mut conn).list().await?)
    }

    async fn save_row(&self, base: &BaseBackup) -> Result<(), BackupError> {
        let mut conn = self.inner.db.connection().await?;
        Ok(BaseRepository::new(&mut conn).save(base).await?)
    }

    async fn save_base(&self) -> Result<(), BackupError> {
        let Some(archive) = &self.inner.archive else { return Err(JobError::Off.into()) };
        let mut attempt = self.new_base(self.history().await?);
        self.save_row(&attempt).await?;
        let before = self.list_bases().await?;
        let is_damaged = last_read(&before).is_some_and(|base| base.verify_error.is_some());
        let copied = self.bounded(async {
            archive.copy(is_damaged).await?;
            archive.list().await
        });
        let outcome = copied.await.and_then(|all| Ok((made(&attempt, &before, &all)?.clone(), all)));
        match &outcome {
            Ok((copy, _)) => attempt = BaseBackup { started_at: attempt.started_at, ..ready(attempt, copy) },
            Err(error) => {
                attempt.state = SnapshotState::Failed;
                attempt.error = Some(error.to_string());
                attempt.finished_at = Some(self.now());
            }
        }
        self.save_row(&attempt).await?;
        let long_ago = self.now().checked_sub(KEEP_FAILED).unwrap_or(Timestamp::MIN);
        {
            let mut conn = self.inner.db.connection().await?;
            BaseRepository::new(&mut conn).delete_failed(long_ago).await?;
        }
        self.take_over(&outcome?.1).await
    }

    fn new_base(&self, history: History) -> BaseBackup {
        let now = self.now();
        BaseBackup {
            id: BaseBackupId::new(now),
            history,
            state: SnapshotState::Creating,
            label: None,
            size_bytes: None,
            added_bytes: None,
            error: None,
            started_at: now,
            finished_at: None,
            verified_at: None,
            verify_error: None,
            restored_at: None,
        }
    }

    /// Makes known what the archive has and what it has no longer: it lets go of copies by itself, and a database that was
    /// restored is older than its archive.
    async fn take_over(&self, all: &[Archived]) -> Result<(), BackupError> {
        let rows = self.list_bases().await?;
        for row in rows.iter().filter(|row| row.state == SnapshotState::Ready) {
            if !all.iter().any(|copy| row.label.as_ref() == Some(&copy.label)) {
                self.save_row(&BaseBackup { state: SnapshotState::Deleted, ..row.clone() }).await?;
            }
        }
        for copy in all {
            if !rows.iter().any(|row| row.label.as_ref() == Some(&copy.label)) {
                self.save_row(&ready(self.new_base(copy.history), copy)).await?;
            }
        }
        Ok(())
    }

    /// How it stands with the archive; nothing where there is none.
    pub(super) async fn archive_status(&self) -> Result<Option<ArchiveStatus>, BackupError> {
        if self.inner.archive.is_none() {
            return Ok(None);
        }
        let (all, history) = (self.list_bases().await?, self.history().await?);
        let archiver = {
            let mut conn = self.inner.db.connection().await?;
            BaseRepository::new(&mut conn).find_archived().await?
        };
        let (attempt, read) = (all.first(), last_read(&all));
        let proven = |base: &BaseBackup| base.verified_at.filter(|_| base.verify_error.is_none()).max(base.restored_at);
        Ok(Some(ArchiveStatus {
            since: all.last().map_or(self.inner.began_at, |first| first.started_at),
            last_attempt_at: attempt.map(|attempt| attempt.started_at),
            last_error: attempt.and_then(|attempt| attempt.error.clone()),
            last_success: newest(&all, history).cloned(),
            last_proven_at: all.iter().filter_map(proven).max(),
            logged_at: archiver.archived_at,
            log_refused_at: archiver.refused_at,
            log_counted_since: archiver.since,
            verified_at: read.and_then(|base| base.verified_at),
            verify_error: read.and_then(|base| base.verify_error.clone()),
        }))
    }

    /// Reads every byte of the archive if that has not been done for too long, nor anything restored from it; answers whether
    /// it was read.
    pub(super) async fn verify_archive_due(&self) -> Result<bool, BackupError> {
        let Some(status) = self.archive_status().await? else { return Ok(false) };
        let since = status.last_proven_at.max(status.verified_at).unwrap_or(status.since);
        let pause = if status.verify_error.is_some() { READ_DAMAGED_EVERY } else { self.inner.config.verify_every };
        let is_due = self.now().duration_since(since) > pause;
        let (Some(archive), Some(base)) = (&self.inner.archive, status.last_success.filter(|_| is_due)) else {
            return Ok(false);
        };
        let read = Box::pin(self.alone(Repository::Platform, async {
            let wrong = self.bounded(archive.verify()).await?;
            let mut conn = self.inner.db.connection().await?;
            BaseRepository::new(&mut conn).save_verified(base.id, self.now(), wrong.as_deref()).await?;
            Ok(wrong)
        }));
        match read.await {
            Ok(None) => Ok(true),
            Ok(Some(wrong)) => {
                tracing::error!("the archive of the database's log is not what it was: {wrong}");
                Ok(true)
            }
            Err(BackupError::DatabaseBusy) => Ok(false),
            Err(BackupError::Job(error)) => {
                tracing::error!("the archive of the database's log cannot be read back: {error}");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Notes that a copy of the database's files was brought to an instant in another database, which was then what it had
    /// been: somebody has seen that.
    ///
    /// # Errors
    /// [`BackupError::NoBase`] for a path of none that is complete.
    pub async fn note_base_restored(&self, origin: &Origin, path: &str) -> Result<(), BackupError> {
        let all = self.list_bases().await?;
        let found = all.iter().find(|base| base.path().is_some_and(|of| of == path));
        let id = found.ok_or_else(|| BackupError::NoBase(path.to_owned()))?.id;
        let now = self.now();
        self.inner
            .db
            .transaction(async |conn| {
                if !BaseRepository::new(conn).save_restored(id, now).await? {
                    return Err(BackupError::NoBase(path.to_owned()));
                }
                let entry =
                    AuditEntry::success(origin, None, "database.restore_proven", Resource::new("base_backup", id));
                audit::record_in(conn, now, &entry).await?;
                Ok(())
            })
            .await
    }
}

/// The newest copy that its own log brings to a later instant.
fn newest(all: &[BaseBackup], history: History) -> Option<&BaseBackup> {
    all.iter().find(|base| base.state == SnapshotState::Ready && base.history == history)
}

/// The copy that was there when the archive was last read back.
fn last_read(all: &[BaseBackup]) -> Option<&BaseBackup> {
    all.iter().filter(|base| base.verified_at.is_some()).max_by_key(|base| base.verified_at)
}

/// The copy that an attempt has made.
fn made<'a>(attempt: &BaseBackup, before: &[BaseBackup], all: &'a [Archived]) -> Result<&'a Archived, JobError> {
    let is_known = |copy: &Archived| before.iter().any(|base| base.label.as_ref() == Some(&copy.label));
    let wrong = |what: &str| JobError::Died { exit_code: 0, last_words: what.to_owned() };
    match all.iter().find(|copy| !is_known(copy)) {
        Some(copy) if copy.history.cluster == attempt.history.cluster => Ok(copy),
        Some(_) => Err(wrong("what was copied is another database than the platform's")),
        None => Err(wrong("the archive has no new copy")),
    }
}

fn ready(base: BaseBackup, copy: &Archived) -> BaseBackup {
    BaseBackup {
        history: copy.history,
        state: SnapshotState::Ready,
        label: Some(copy.label.clone()),
        size_bytes: Some(copy.size_bytes),
        added_bytes: Some(copy.added_bytes),
        started_at: copy.started_at,
        finished_at: Some(copy.finished_at),
        ..base
    }
}
