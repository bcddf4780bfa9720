use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use uuid::Uuid;

use super::base_repository::BaseRepository;
use super::error::BackupError;
use super::model::{
    BackupStatus, DatabaseStatus, NewRestore, Restore, RestorePhase, Snapshot, SnapshotKind, SnapshotState,
};
use super::ports::{BackupRunner, LogArchive};
use super::repository::{BackupRepository, ONE_RESTORE};
use super::retention::Tier;
use super::sets_repository::SetRepository;
use crate::audit::{self, AuditEntry, Origin, Resource};
use crate::billing::Billing;
use crate::clock::SharedClock;
use crate::db::Db;
use crate::fleet::{Bot, Fleet};
use crate::ids::{BotId, RestoreId, SnapshotId, TenantId};
use crate::money::Money;

/// The most restores listed at once.
const MAX_RESTORES: i64 = 250;
/// How long what is known of all backups together is believed.
const SUMMARY_AGE: SignedDuration = SignedDuration::from_secs(30);

/// How backups are made.
#[derive(Debug, Clone)]
pub struct BackupConfig {
    /// The hour (UTC) from which on a night's copies are made.
    pub nightly_hour: i8,
    /// How old a bot's last snapshot is when the next hot one is made.
    pub hot_every: SignedDuration,
    /// What every tenant may keep, and for how long.
    pub tier: Tier,
    /// How long a bot's newest snapshot may be without having been read back.
    pub verify_every: SignedDuration,
    /// How long the volume from before a restore is kept.
    pub keep_old_volume: SignedDuration,
    /// How long somebody who died keeps others from a bot's backups. One who lives renews the lease in time.
    pub lease: SignedDuration,
    /// How long a job may take.
    pub deadline: Duration,
    /// How long a bot may take to come up with restored data.
    pub patience: SignedDuration,
}

impl Default for BackupConfig {
    fn default() -> Self {
        Self {
            nightly_hour: 3,
            hot_every: SignedDuration::from_hours(6),
            tier: Tier::Free,
            verify_every: SignedDuration::from_hours(30 * 24),
            keep_old_volume: SignedDuration::from_hours(7 * 24),
            lease: SignedDuration::from_secs(60),
            deadline: Duration::from_hours(2),
            patience: SignedDuration::from_mins(10),
        }
    }
}

/// How it stands with backups in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// With how much of that something is wrong: the last attempt failed, or the last copy is older than a day.
    pub stale: usize,
    /// What is looked after: bots, and the database.
    pub tracked: usize,
    /// The database.
    pub database: DatabaseStatus,
}

/// Backups of bots and of the database. Cheap to clone.
#[derive(Clone)]
pub struct Backups {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) db: Db,
    pub(super) clock: SharedClock,
    pub(super) fleet: Fleet,
    pub(super) config: BackupConfig,
    pub(super) billing: Billing,
    runner: Option<Arc<dyn BackupRunner>>,
    pub(super) archive: Option<Arc<dyn LogArchive>>,
    wake: Arc<Notify>,
    wake_save: Arc<Notify>,
    pub(super) wake_database: Arc<Notify>,
    /// When this process began to look after backups.
    pub(super) began_at: Timestamp,
    summary: tokio::sync::Mutex<Option<(Timestamp, Summary)>>,
}

impl std::fmt::Debug for Backups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backups").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Backups {
    /// The domain on this database and these bots. Without a `runner` nothing is copied, and whoever asks is told so; without
    /// an `archive` the database comes back as of a night, not of any instant.
    pub fn new(
        db: Db,
        clock: SharedClock,
        billing: Billing,
        fleet: Fleet,
        runner: Option<Arc<dyn BackupRunner>>,
        archive: Option<Arc<dyn LogArchive>>,
        config: BackupConfig,
    ) -> Self {
        let began_at = clock.now();
        Self {
            inner: Arc::new(Inner {
                db,
                clock,
                fleet,
                config,
                billing,
                runner,
                archive,
                wake: Arc::default(),
                wake_save: Arc::default(),
                wake_database: Arc::default(),
                began_at,
                summary: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Notified whenever somebody wants a snapshot: whoever runs [`Backups::save_due`] waits for it.
    pub fn save_waker(&self) -> Arc<Notify> {
        Arc::clone(&self.inner.wake_save)
    }

    /// Notified whenever somebody wants a copy of the database: whoever runs [`Backups::save_database_due`] waits for it.
    pub fn database_waker(&self) -> Arc<Notify> {
        Arc::clone(&self.inner.wake_database)
    }

    /// Notified whenever somebody wants a restore: whoever runs [`Backups::advance`] waits for it.
    pub fn waker(&self) -> Arc<Notify> {
        Arc::clone(&self.inner.wake)
    }

    /// Whether there is somewhere to keep backups.
    pub fn is_on(&self) -> bool {
        self.inner.runner.is_some()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    pub(super) fn runner(&self) -> Result<&Arc<dyn BackupRunner>, BackupError> {
        self.inner.runner.as_ref().ok_or(BackupError::Off)
    }

    /// Wants a snapshot of one of the tenant's bots. It is made as soon as possible, and kept for as long as the tier says.
    ///
    /// # Errors
    /// [`BackupError::Off`], [`BackupError::Fleet`] for a bot that is not the tenant's, [`BackupError::Invalid`],
    /// [`BackupError::NoCredit`], [`BackupError::Quota`].
    pub async fn want(
        &self,
        origin: &Origin,
        tenant: TenantId,
        bot: BotId,
        name: Option<String>,
    ) -> Result<Snapshot, BackupError> {
        self.runner()?;
        if name.as_ref().is_some_and(|name| !(1..=128).contains(&name.chars().count())) {
            return Err(BackupError::Invalid { field: "name", rule: "1 to 128 characters" });
        }
        self.inner.fleet.get(tenant, bot).await?;
        let balance = self.inner.billing.balance(tenant).await?.balance;
        if balance <= Money::ZERO {
            return Err(BackupError::NoCredit { balance });
        }
        let (now, tier) = (self.now(), self.inner.config.tier);
        let snapshot = Snapshot {
            name,
            expires_at: Some(tier.expiry(now)),
            ..self.new_snapshot(bot, tenant, SnapshotKind::OnDemand, SnapshotState::Wanted, origin)
        };
        self.inner
            .db
            .transaction(async |conn| {
                let mut backups = BackupRepository::new(conn);
                backups.lock_tenant(tenant).await?;
                let current = backups.count_on_demand(tenant).await?;
                if let Some(max) = tier.on_demand().filter(|max| current >= *max) {
                    return Err(BackupError::Quota { current, max, tier });
                }
                backups.insert(&snapshot).await?;
                let resource = Resource::new("snapshot", snapshot.id);
                let entry = AuditEntry::success(origin, Some(tenant), "snapshot.create", resource);
                audit::record_in(conn, now, &entry.with("bot", bot.to_string())).await?;
                Ok(())
            })
            .await?;
        self.inner.wake_save.notify_one();
        Ok(snapshot)
    }

    pub(super) fn new_snapshot(
        &self,
        bot_id: BotId,
        tenant_id: TenantId,
        kind: SnapshotKind,
        state: SnapshotState,
        origin: &Origin,
    ) -> Snapshot {
        let now = self.now();
        Snapshot {
            id: SnapshotId::new(now),
            bot_id,
            tenant_id,
            kind,
            name: None,
            requested_by: origin.actor.to_string(),
            state,
            engine_snapshot: None,
            size_bytes: None,
            added_bytes: None,
            error: None,
            started_at: now,
            finished_at: None,
            expires_at: None,
            verified_at: None,
            deleted_at: None,
        }
    }

    /// Snapshots of one of the tenant's bots that are there or on their way, the newest first.
    ///
    /// # Errors
    /// [`BackupError::Fleet`] for a bot that is not the tenant's.
    pub async fn list(&self, tenant: TenantId, bot: BotId) -> Result<Vec<Snapshot>, BackupError> {
        self.inner.fleet.get(tenant, bot).await?;
        let mut conn = self.inner.db.connection().await?;
        let states = [SnapshotState::Wanted, SnapshotState::Creating, SnapshotState::Ready];
        Ok(BackupRepository::new(&mut conn).list_of(bot, &states).await?)
    }

    /// Complete snapshots of a bot, whoever's it is, the newest first: for operators.
    ///
    /// # Errors
    /// [`BackupError::NoBot`].
    pub async fn list_ready(&self, bot: BotId) -> Result<Vec<Snapshot>, BackupError> {
        self.bot(bot).await?;
        let mut conn = self.inner.db.connection().await?;
        Ok(BackupRepository::new(&mut conn).list_of(bot, &[SnapshotState::Ready]).await?)
    }

    /// Complete snapshots of all of a tenant's bots, former ones included, the newest first: for operators.
    ///
    /// # Errors
    /// [`BackupError::Storage`].
    pub async fn list_ready_of_tenant(&self, tenant: TenantId) -> Result<Vec<Snapshot>, BackupError> {
        let mut conn = self.inner.db.connection().await?;
        Ok(BackupRepository::new(&mut conn).list_ready_of_tenant(tenant).await?)
    }

    /// One of the tenant's snapshots.
    ///
    /// # Errors
    /// [`BackupError::NoSnapshot`], also for another tenant's or another bot's.
    pub async fn get(&self, tenant: TenantId, bot: BotId, id: SnapshotId) -> Result<Snapshot, BackupError> {
        let mut conn = self.inner.db.connection().await?;
        let found = BackupRepository::new(&mut conn).find(id).await?;
        let found = found.filter(|snapshot| {
            snapshot.tenant_id == tenant
                && snapshot.bot_id == bot
                && !matches!(snapshot.state, SnapshotState::Deleting | SnapshotState::Deleted | SnapshotState::Failed)
        });
        found.ok_or(BackupError::NoSnapshot(id))
    }

    /// A snapshot, whoever's it is and even if it is gone: for operators.
    ///
    /// # Errors
    /// [`BackupError::Storage`].
    pub async fn find(&self, id: SnapshotId) -> Result<Option<Snapshot>, BackupError> {
        let mut conn = self.inner.db.connection().await?;
        Ok(BackupRepository::new(&mut conn).find(id).await?)
    }

    /// Removes a snapshot that was made on demand: it is gone for its owner now, and its bytes go with the next tidying up.
    ///
    /// # Errors
    /// [`BackupError::NoSnapshot`], [`BackupError::NotOnDemand`], [`BackupError::NotReady`] for one that is being made.
    pub async fn delete(
        &self,
        origin: &Origin,
        tenant: TenantId,
        bot: BotId,
        id: SnapshotId,
    ) -> Result<(), BackupError> {
        let mut snapshot = self.get(tenant, bot, id).await?;
        if snapshot.kind != SnapshotKind::OnDemand {
            return Err(BackupError::NotOnDemand(id));
        }
        if snapshot.state != SnapshotState::Ready {
            return Err(BackupError::NotReady(id));
        }
        let now = self.now();
        (snapshot.state, snapshot.deleted_at) = (SnapshotState::Deleting, Some(now));
        self.inner
            .db
            .transaction(async |conn| {
                BackupRepository::new(conn).save(&snapshot).await?;
                let resource = Resource::new("snapshot", id);
                let entry = AuditEntry::success(origin, Some(tenant), "snapshot.delete", resource);
                audit::record_in(conn, now, &entry).await?;
                Ok::<_, BackupError>(())
            })
            .await
    }

    /// Wants a bot to have the data of one of its snapshots. A bot that was destroyed comes back with it.
    ///
    /// # Errors
    /// [`BackupError::NoSnapshot`], [`BackupError::NotReady`], [`BackupError::RestoreUnderWay`], [`BackupError::Invalid`].
    pub async fn restore(&self, origin: &Origin, new: NewRestore) -> Result<Restore, BackupError> {
        self.runner()?;
        if new.reason.as_ref().is_some_and(|reason| reason.chars().count() > 1000) {
            return Err(BackupError::Invalid { field: "reason", rule: "at most 1000 characters" });
        }
        let now = self.now();
        let restore = self
            .inner
            .db
            .transaction(async |conn| {
                let mut backups = BackupRepository::new(conn);
                let found = backups.find(new.snapshot).await?.ok_or(BackupError::NoSnapshot(new.snapshot))?;
                if found.state != SnapshotState::Ready {
                    return Err(BackupError::NotReady(found.id));
                }
                let restore = Restore {
                    id: RestoreId::new(now),
                    bot_id: found.bot_id,
                    tenant_id: found.tenant_id,
                    snapshot_id: found.id,
                    safety_id: None,
                    requested_by: origin.actor.to_string(),
                    reason: new.reason,
                    phase: RestorePhase::Saving,
                    volume: backups.last_volume(found.bot_id).await? + 1,
                    old_volume: None,
                    error: None,
                    attempts: 0,
                    next_attempt_at: Some(now),
                    created_at: now,
                    switched_at: None,
                    finished_at: None,
                };
                backups.insert_restore(&restore).await.map_err(|error| match error.violated_constraint() {
                    Some(ONE_RESTORE | "restores_volume") => BackupError::RestoreUnderWay(found.bot_id),
                    _ => BackupError::Storage(error),
                })?;
                let entry = AuditEntry::success(
                    origin,
                    Some(found.tenant_id),
                    "backup.restore",
                    Resource::new("bot", found.bot_id),
                );
                let entry = entry.with("snapshot", found.id.to_string()).with("restore", restore.id.to_string());
                audit::record_in(conn, now, &entry).await?;
                Ok(restore)
            })
            .await?;
        self.inner.wake.notify_one();
        Ok(restore)
    }

    /// A restore, as far as it has got.
    ///
    /// # Errors
    /// [`BackupError::Storage`].
    pub async fn find_restore(&self, id: RestoreId) -> Result<Option<Restore>, BackupError> {
        let mut conn = self.inner.db.connection().await?;
        Ok(BackupRepository::new(&mut conn).find_restore(id).await?)
    }

    /// Attempts at restoring a tenant's bots, the newest first; at most 250.
    ///
    /// # Errors
    /// [`BackupError::Storage`].
    pub async fn list_restores(&self, tenant: TenantId, limit: u32) -> Result<Vec<Restore>, BackupError> {
        let mut conn = self.inner.db.connection().await?;
        let limit = i64::from(limit).clamp(1, MAX_RESTORES);
        Ok(BackupRepository::new(&mut conn).list_restores(tenant, limit).await?)
    }

    /// How it stands with every bot's backups, the bots' oldest first.
    ///
    /// # Errors
    /// [`BackupError::Storage`], [`BackupError::Fleet`].
    pub async fn statuses(&self) -> Result<Vec<BackupStatus>, BackupError> {
        let bots = self.inner.fleet.list(None).await?;
        let mut conn = self.inner.db.connection().await?;
        let mut backups = BackupRepository::new(&mut conn);
        let by_bot = |all: Vec<Snapshot>| -> HashMap<BotId, Snapshot> {
            all.into_iter().map(|snapshot| (snapshot.bot_id, snapshot)).collect()
        };
        let mut attempts = by_bot(backups.list_last_attempts(None).await?);
        let mut successes = by_bot(backups.list_last_successes(None).await?);
        let totals = backups.list_totals().await?;
        let totals: HashMap<_, _> = totals.into_iter().map(|(bot, count, proven)| (bot, (count, proven))).collect();
        let restored: HashMap<_, _> = backups.list_last_restores().await?.into_iter().collect();
        let status = |bot: Bot| {
            let attempt = attempts.remove(&bot.id);
            let (total, verified_at) = totals.get(&bot.id).copied().unwrap_or_default();
            BackupStatus {
                bot_id: bot.id,
                tenant_id: bot.tenant_id,
                bot_created_at: bot.created_at,
                total,
                last_attempt_at: attempt.as_ref().map(|attempt| attempt.started_at),
                last_error: attempt.and_then(|attempt| attempt.error),
                last_success: successes.remove(&bot.id),
                last_proven_at: verified_at.max(restored.get(&bot.id).copied().flatten()),
            }
        };
        Ok(bots.into_iter().map(status).collect())
    }

    /// How it stands with all backups together; nothing where they are off. It is looked at anew when what is known is older
    /// than half a minute.
    ///
    /// # Errors
    /// As [`Backups::statuses`].
    pub async fn summary(&self) -> Result<Option<Summary>, BackupError> {
        if !self.is_on() {
            return Ok(None);
        }
        let now = self.now();
        let mut known = self.inner.summary.lock().await;
        if let Some((at, summary)) = &*known
            && now.duration_since(*at).abs() < SUMMARY_AGE
        {
            return Ok(Some(summary.clone()));
        }
        let Some(database) = self.database_status().await? else { return Ok(None) };
        let statuses = self.statuses().await?;
        let stale = statuses.iter().filter(|status| status.is_stale(now)).count() + usize::from(database.is_stale(now));
        let summary = Summary { stale, tracked: statuses.len() + 1, database };
        *known = Some((now, summary.clone()));
        Ok(Some(summary))
    }

    /// A bot, whoever's it is and even if it is gone.
    pub(super) async fn bot(&self, id: BotId) -> Result<Bot, BackupError> {
        self.inner.fleet.find(id).await?.ok_or(BackupError::NoBot(id))
    }

    /// Does `work` while nobody else works with the repository.
    pub(super) async fn alone<T>(
        &self,
        repository: Repository,
        work: impl Future<Output = Result<T, BackupError>>,
    ) -> Result<T, BackupError> {
        let owner = Uuid::new_v4();
        if !self.lease(repository, owner).await? {
            return Err(repository.busy());
        }
        self.fail_interrupted(repository).await?;
        let pace = self.inner.config.lease.unsigned_abs() / 3;
        tokio::pin!(work);
        let result = loop {
            tokio::select! {
                done = &mut work => break done,
                () = tokio::time::sleep(pace) => {
                    if !self.renew(repository, owner).await? {
                        break Err(repository.busy());
                    }
                }
            }
        };
        let mut conn = self.inner.db.connection().await?;
        match repository {
            Repository::Bot(bot) => BackupRepository::new(&mut conn).release(bot, owner).await?,
            Repository::Platform => SetRepository::new(&mut conn).release(owner).await?,
        }
        result
    }

    async fn lease(&self, repository: Repository, owner: Uuid) -> Result<bool, BackupError> {
        let now = self.now();
        let until = now.checked_add(self.inner.config.lease).unwrap_or(Timestamp::MAX);
        let mut conn = self.inner.db.connection().await?;
        Ok(match repository {
            Repository::Bot(bot) => BackupRepository::new(&mut conn).lease(bot, owner, now, until).await?,
            Repository::Platform => SetRepository::new(&mut conn).lease(owner, now, until).await?,
        })
    }

    /// Answers whether the lease is still the owner's.
    async fn renew(&self, repository: Repository, owner: Uuid) -> Result<bool, BackupError> {
        let lost = {
            let mut conn = self.inner.db.connection().await?;
            match repository {
                Repository::Bot(bot) => BackupRepository::new(&mut conn).has_lost(bot, owner).await?,
                Repository::Platform => SetRepository::new(&mut conn).has_lost(owner).await?,
            }
        };
        Ok(!lost && self.lease(repository, owner).await?)
    }

    /// Gives up what nobody is working on any more: whoever calls has the lease.
    async fn fail_interrupted(&self, repository: Repository) -> Result<(), BackupError> {
        let now = self.now();
        let mut conn = self.inner.db.connection().await?;
        match repository {
            Repository::Bot(bot) => BackupRepository::new(&mut conn).fail_interrupted(bot, now).await?,
            Repository::Platform => {
                BaseRepository::new(&mut conn).fail_interrupted(now).await?
                    + SetRepository::new(&mut conn).fail_interrupted(now).await?
            }
        };
        Ok(())
    }
}

/// Whose backups are worked with; one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repository {
    Bot(BotId),
    /// The platform's own, with its database's sets.
    Platform,
}

impl Repository {
    const fn busy(self) -> BackupError {
        match self {
            Self::Bot(bot) => BackupError::Busy(bot),
            Self::Platform => BackupError::DatabaseBusy,
        }
    }
}
