//! Making snapshots, reading them back, and letting go of them.

use std::collections::{BTreeSet, HashMap};

use futures_util::StreamExt as _;
use futures_util::stream;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::error::{BackupError, JobError};
use super::model::{Snapshot, SnapshotKind, SnapshotState};
use super::ports::Job;
use super::repository::BackupRepository;
use super::retention::{self, Aged};
use super::service::{Backups, Repository};
use crate::audit::Origin;
use crate::fleet::{Bot, BotSpec, DesiredState};
use crate::ids::{BotId, TenantId};
use crate::protocol::backup::{Report, Work};

/// Jobs at a time: each reads a disk and keeps a processor busy.
const PARALLEL: usize = 2;
/// Wanted snapshots taken from the list at a time.
const BATCH: i64 = 16;
/// How soon after a failure a bot's turn comes again, in minutes.
pub(super) const RETRY_MINUTES: i64 = 10;

/// How old a copy from before an update may be for another attempt at that update.
const FRESH_BEFORE_UPDATE: SignedDuration = SignedDuration::from_mins(10);

/// What a run of [`Backups::tidy`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tidied {
    /// Snapshots removed, and sets of the database.
    pub removed: usize,
    /// Repositories that could not be tidied up; another attempt follows.
    pub failed: usize,
}

/// What is known of a bot when it is decided whether its turn has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Past {
    last_attempt: Option<(Timestamp, bool)>,
    last_success: Option<Timestamp>,
    last_night: Option<Date>,
}

impl Backups {
    /// Makes the snapshots that somebody wants and those whose time has come, and answers how many were tried.
    ///
    /// # Errors
    /// [`BackupError::Storage`]; a bot that cannot be copied does not stop the others: its failure is a row.
    pub async fn save_due(&self) -> Result<usize, BackupError> {
        if !self.is_on() {
            return Ok(0);
        }
        let mut due = {
            let mut conn = self.inner.db.connection().await?;
            BackupRepository::new(&mut conn).list_wanted(BATCH).await?
        };
        let wanted: BTreeSet<BotId> = due.iter().map(|snapshot| snapshot.bot_id).collect();
        let pasts = self.pasts(None).await?;
        for bot in self.inner.fleet.list(None).await?.iter().filter(|bot| !wanted.contains(&bot.id) && has_data(bot)) {
            due.extend(self.due_of(bot.id, bot.tenant_id, &pasts));
        }
        let saved = stream::iter(due).map(|snapshot| async {
            let (bot, id, kind) = (snapshot.bot_id, snapshot.id, snapshot.kind);
            match self.alone(Repository::Bot(bot), Box::pin(self.save_if_due(snapshot))).await {
                Ok(is_due) => is_due,
                Err(BackupError::Busy(_)) => {
                    tracing::info!(bot.id = %bot, "somebody else works with its backups");
                    false
                }
                Err(error) => {
                    tracing::error!(bot.id = %bot, snapshot.id = %id, "a {kind} snapshot of bot {bot} failed: {error}");
                    true
                }
            }
        });
        Ok(saved.buffer_unordered(PARALLEL).filter(|tried| std::future::ready(*tried)).count().await)
    }

    /// Copies a bot before it is given another image, unless that was done minutes ago. Where backups are off, or the bot has no
    /// data, nothing is copied.
    ///
    /// # Errors
    /// [`BackupError::Fleet`] for a bot that is not the tenant's; [`BackupError::Busy`]; [`BackupError::Job`] if it is not
    /// copied: the image had better stay then.
    pub async fn save_before_update(&self, origin: &Origin, tenant: TenantId, bot: BotId) -> Result<(), BackupError> {
        let bot = self.inner.fleet.get(tenant, bot).await?;
        if !self.is_on() || !has_data(&bot) {
            return Ok(());
        }
        let saved = self.alone(Repository::Bot(bot.id), async {
            let is_fresh = |snapshot: &Snapshot| {
                snapshot.kind == SnapshotKind::PreUpdate
                    && self.now().duration_since(snapshot.started_at) < FRESH_BEFORE_UPDATE
            };
            if self.list_ready(bot.id).await?.iter().any(is_fresh) {
                return Ok(());
            }
            // Meanwhile it may have been given another volume.
            if !self.has_volume(&self.bot(bot.id).await?).await? {
                return Ok(());
            }
            let (kind, state) = (SnapshotKind::PreUpdate, SnapshotState::Creating);
            self.save(self.new_snapshot(bot.id, tenant, kind, state, origin)).await.map(drop)
        });
        Box::pin(saved).await
    }

    /// Whether the bot's volume is there: what is not cannot be lost, and an attempt to copy it would be a failure.
    pub(super) async fn has_volume(&self, bot: &Bot) -> Result<bool, BackupError> {
        let is_there = self.runner()?.has_volume(bot.id, bot.spec.volume).await?;
        if !is_there {
            tracing::warn!(bot.id = %bot.id, "the volume of bot {} is not there: nothing is copied", bot.id);
        }
        Ok(is_there)
    }

    /// Another process may have had its turn before this one had the bot's backups to itself.
    async fn save_if_due(&self, snapshot: Snapshot) -> Result<bool, BackupError> {
        let (bot, tenant) = (snapshot.bot_id, snapshot.tenant_id);
        let due = if snapshot.state == SnapshotState::Wanted {
            self.find(snapshot.id).await?.filter(|now| now.state == SnapshotState::Wanted)
        } else {
            self.due_of(bot, tenant, &self.pasts(Some(bot)).await?)
        };
        match due {
            Some(due) if snapshot.state == SnapshotState::Wanted || !self.is_returning(bot).await? => {
                self.save(due).await.map(|_| true)
            }
            _ => Ok(false),
        }
    }

    /// Whether there is nothing to copy yet: the bot's volume was lost, and is on its way back.
    async fn is_returning(&self, bot: BotId) -> Result<bool, BackupError> {
        let is_restored = {
            let mut conn = self.inner.db.connection().await?;
            BackupRepository::new(&mut conn).is_returning(bot).await?
        };
        Ok(is_restored && !self.has_volume(&self.bot(bot).await?).await?)
    }

    fn due_of(&self, bot: BotId, tenant: TenantId, pasts: &HashMap<BotId, Past>) -> Option<Snapshot> {
        let now = self.now();
        let kind = kind_due(pasts.get(&bot).copied(), self.night_of(now), self.inner.config.hot_every, now)?;
        Some(self.new_snapshot(bot, tenant, kind, SnapshotState::Creating, &Origin::system("backup")))
    }

    /// The night that is to have snapshots by now.
    pub(super) fn night_of(&self, now: Timestamp) -> Date {
        let hours = i64::from(self.inner.config.nightly_hour);
        let shifted = now.checked_sub(SignedDuration::from_hours(hours)).unwrap_or(now);
        shifted.to_zoned(TimeZone::UTC).date()
    }

    /// Of one bot or of all.
    async fn pasts(&self, bot: Option<BotId>) -> Result<HashMap<BotId, Past>, BackupError> {
        let mut conn = self.inner.db.connection().await?;
        let mut backups = BackupRepository::new(&mut conn);
        let (attempts, successes) = (backups.list_last_attempts(bot).await?, backups.list_last_successes(bot).await?);
        let nights = backups.list_last_nights(bot).await?;
        let mut pasts: HashMap<BotId, Past> = HashMap::new();
        let none = Past { last_attempt: None, last_success: None, last_night: None };
        for attempt in attempts {
            let failed = attempt.state == SnapshotState::Failed;
            pasts.entry(attempt.bot_id).or_insert(none).last_attempt = Some((attempt.started_at, failed));
        }
        for success in successes {
            pasts.entry(success.bot_id).or_insert(none).last_success = Some(success.started_at);
        }
        for (bot, at) in nights {
            pasts.entry(bot).or_insert(none).last_night = Some(self.night_of(at));
        }
        Ok(pasts)
    }

    /// Copies a bot's volume; whoever calls has the bot's backups to himself.
    pub(super) async fn save(&self, mut snapshot: Snapshot) -> Result<Snapshot, BackupError> {
        let known = snapshot.state == SnapshotState::Wanted;
        (snapshot.state, snapshot.started_at) = (SnapshotState::Creating, self.now());
        {
            let mut conn = self.inner.db.connection().await?;
            let mut backups = BackupRepository::new(&mut conn);
            if known { backups.save(&snapshot).await? } else { backups.insert(&snapshot).await? }
        }
        let outcome = self.copy(&snapshot).await;
        snapshot.finished_at = Some(self.now());
        match &outcome {
            Ok(report) => {
                snapshot.state = SnapshotState::Ready;
                snapshot.engine_snapshot.clone_from(&report.snapshot);
                snapshot.size_bytes = Some(report.bytes);
                snapshot.added_bytes = Some(u64::try_from(report.stored_bytes).unwrap_or(0));
            }
            Err(error) => {
                snapshot.state = SnapshotState::Failed;
                snapshot.error = Some(error.to_string());
            }
        }
        let mut conn = self.inner.db.connection().await?;
        BackupRepository::new(&mut conn).save(&snapshot).await?;
        outcome.map(|_| snapshot)
    }

    async fn copy(&self, snapshot: &Snapshot) -> Result<Report, BackupError> {
        let bot = self.bot(snapshot.bot_id).await?;
        let work = Work::Save { description: describe(&bot, snapshot) };
        let job = Job { bot_id: bot.id, tenant_id: bot.tenant_id, volume: bot.spec.volume, work };
        let mut running = self.bounded(self.runner()?.begin(&job)).await?;
        self.bounded(running.ready()).await?;
        self.inner.fleet.while_still(bot.id, self.bounded(running.copy())).await??;
        let report = self.bounded(running.finish()).await?;
        if report.snapshot.is_none() {
            return Err(JobError::Died { exit_code: 0, last_words: "it names no snapshot".to_owned() }.into());
        }
        Ok(report)
    }

    /// Runs a job to its end.
    pub(super) async fn run(&self, bot: &Bot, volume: u32, work: Work) -> Result<Report, JobError> {
        let job = Job { bot_id: bot.id, tenant_id: bot.tenant_id, volume, work };
        let Ok(runner) = self.runner() else { return Err(JobError::Off) };
        self.bounded(async { runner.begin(&job).await?.finish().await }).await
    }

    pub(super) async fn bounded<T>(&self, work: impl Future<Output = Result<T, JobError>>) -> Result<T, JobError> {
        let deadline = self.inner.config.deadline;
        let late = |_| Err(JobError::Host(crate::fleet::HostError::TimedOut(deadline)));
        tokio::time::timeout(deadline, work).await.unwrap_or_else(late)
    }

    /// Reads every byte of the newest snapshot of each bot, of the newest set of the database, and of the archive of its log,
    /// that has not had that for too long; answers how many were read.
    ///
    /// # Errors
    /// [`BackupError::Storage`]; a snapshot that is not as it was is told of, and the next one is made anew.
    pub async fn verify_due(&self) -> Result<usize, BackupError> {
        if !self.is_on() {
            return Ok(0);
        }
        let now = self.now();
        let due = self.statuses().await?.into_iter().filter_map(|status| {
            let since = status.last_proven_at.unwrap_or(status.bot_created_at);
            let is_due = now.duration_since(since) > self.inner.config.verify_every;
            status.last_success.filter(|_| is_due)
        });
        let mut read = 0;
        for snapshot in due {
            match self.verify(&snapshot).await {
                Ok(_) => read += 1,
                Err(BackupError::Busy(_)) => {}
                Err(error) => {
                    let (id, bot) = (snapshot.id, snapshot.bot_id);
                    tracing::error!(bot.id = %bot, snapshot.id = %id, "snapshot {id} cannot be read back: {error}");
                }
            }
        }
        Ok(read + usize::from(self.verify_database_due().await?) + usize::from(self.verify_archive_due().await?))
    }

    /// Reads every byte of a snapshot and compares it with what was saved.
    ///
    /// # Errors
    /// [`BackupError::Job`] when it is not as it was; [`BackupError::Busy`].
    pub async fn verify(&self, snapshot: &Snapshot) -> Result<Report, BackupError> {
        self.runner()?;
        let bot = self.bot(snapshot.bot_id).await?;
        self.alone(Repository::Bot(bot.id), async {
            let name = snapshot.engine_snapshot.clone().ok_or(BackupError::NotReady(snapshot.id))?;
            let report = self.run(&bot, bot.spec.volume, Work::Verify { snapshot: name }).await?;
            let mut conn = self.inner.db.connection().await?;
            BackupRepository::new(&mut conn).save_verified(snapshot.id, self.now()).await?;
            Ok(report)
        })
        .await
    }

    /// Lets go of what nobody has to keep: snapshots beyond their time, and volumes from before restores.
    ///
    /// # Errors
    /// [`BackupError::Storage`].
    pub async fn tidy(&self) -> Result<Tidied, BackupError> {
        let mut tidied = Tidied::default();
        if !self.is_on() {
            return Ok(tidied);
        }
        let bots = {
            let mut conn = self.inner.db.connection().await?;
            BackupRepository::new(&mut conn).list_bots_with_bytes().await?
        };
        for id in bots {
            match self.alone(Repository::Bot(id), self.tidy_bot(id)).await {
                Ok(removed) => tidied.removed += removed,
                Err(BackupError::Busy(_)) => {}
                Err(error) => {
                    tidied.failed += 1;
                    tracing::error!(bot.id = %id, "the snapshots of bot {id} cannot be tidied up: {error}");
                }
            }
        }
        match self.tidy_database().await {
            Ok(removed) => tidied.removed += removed,
            Err(BackupError::DatabaseBusy) => {}
            Err(error) => {
                tidied.failed += 1;
                tracing::error!("the sets of the database cannot be tidied up: {error}");
            }
        }
        self.remove_old_volumes().await?;
        Ok(tidied)
    }

    /// Lets go of a bot's snapshots whose time is over, and answers how many those were.
    async fn tidy_bot(&self, id: BotId) -> Result<usize, BackupError> {
        let now = self.now();
        let states = [SnapshotState::Ready, SnapshotState::Deleting];
        let (all, restoring) = {
            let mut conn = self.inner.db.connection().await?;
            let mut backups = BackupRepository::new(&mut conn);
            (backups.list_of(id, &states).await?, backups.list_being_restored(id).await?)
        };
        let ready = all.iter().filter(|snapshot| snapshot.state == SnapshotState::Ready);
        let aged = |snapshot: &Snapshot| Aged {
            id: snapshot.id,
            kind: snapshot.kind,
            at: snapshot.started_at,
            expires_at: snapshot.expires_at,
        };
        let mut kept = retention::keep(self.inner.config.tier, &ready.map(aged).collect::<Vec<_>>(), now);
        kept.extend(restoring);
        let (stay, go): (Vec<Snapshot>, Vec<Snapshot>) =
            all.into_iter().partition(|snapshot| kept.contains(&snapshot.id));
        // Without one that stays there is nothing to tell the job to keep: the last one goes with its bot's repository.
        if go.is_empty() || stay.is_empty() {
            return Ok(0);
        }
        // First nobody can have them any more, then they are removed: whoever is killed in between has it done again.
        for snapshot in &go {
            let deleted_at = snapshot.deleted_at.or(Some(now));
            let going = Snapshot { state: SnapshotState::Deleting, deleted_at, ..snapshot.clone() };
            let mut conn = self.inner.db.connection().await?;
            BackupRepository::new(&mut conn).save(&going).await?;
        }
        let snapshots = stay.iter().filter_map(|snapshot| snapshot.engine_snapshot.clone()).collect();
        let bot = self.bot(id).await?;
        self.run(&bot, bot.spec.volume, Work::Keep { snapshots }).await?;
        for snapshot in &go {
            let deleted_at = snapshot.deleted_at.or(Some(now));
            let gone = Snapshot { state: SnapshotState::Deleted, deleted_at, ..snapshot.clone() };
            let mut conn = self.inner.db.connection().await?;
            BackupRepository::new(&mut conn).save(&gone).await?;
        }
        Ok(go.len())
    }
}

/// Whether a bot has had a volume by now and still is to have it.
pub(super) fn has_data(bot: &Bot) -> bool {
    bot.desired != DesiredState::Destroyed && bot.seen.container_id.is_some()
}

/// Which snapshot of a bot is due: that of the night, or one because the last is old. After a failure there is a pause.
fn kind_due(past: Option<Past>, night: Date, hot_every: SignedDuration, now: Timestamp) -> Option<SnapshotKind> {
    let Some(past) = past else { return Some(SnapshotKind::Nightly) };
    if let Some((at, true)) = past.last_attempt
        && now.duration_since(at) < SignedDuration::from_mins(RETRY_MINUTES)
    {
        return None;
    }
    if past.last_night.is_none_or(|last| last < night) {
        return Some(SnapshotKind::Nightly);
    }
    let old = |at: Timestamp| now.duration_since(at) >= hot_every;
    past.last_success.is_none_or(old).then_some(SnapshotKind::Hot)
}

/// What is kept beside a bot's files, so that it can be made again where nothing else is left of it.
fn describe(bot: &Bot, snapshot: &Snapshot) -> String {
    let spec = |spec: &BotSpec| {
        serde_json::json!({
            "image": spec.image.to_string(),
            "digest": spec.digest.as_ref().map(ToString::to_string),
            // Their values are in the database's own backup: they may be secrets, and are not the volume's.
            "env": spec.env.variables().keys().collect::<Vec<_>>(),
            "restartPolicy": spec.restart_policy.as_str(),
        })
    };
    serde_json::json!({
        "snapshot": snapshot.id,
        "kind": snapshot.kind.as_str(),
        "at": snapshot.started_at.to_string(),
        "bot": {
            "id": bot.id,
            "tenant": bot.tenant_id,
            "name": bot.name.as_str(),
            "description": bot.description,
            "resourceTier": bot.resource_tier.as_str(),
            "storageTier": bot.storage_tier.as_str(),
            "spec": spec(&bot.spec),
        },
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_snapshot_is_due_in_the_night_and_when_the_last_is_old() {
        let hot = SignedDuration::from_hours(6);
        let (night, before): (Date, Date) = ("2026-11-21".parse().unwrap(), "2026-11-20".parse().unwrap());
        let now = at("2026-11-21T12:00:00Z");
        let past = |attempt: &str, failed, success: Option<&str>, last_night: Option<Date>| {
            Some(Past { last_attempt: Some((at(attempt), failed)), last_success: success.map(at), last_night })
        };
        let (early, late) = ("2026-11-21T03:00:00Z", "2026-11-21T11:55:00Z");
        let table = [
            (None, Some(SnapshotKind::Nightly)),
            (past(early, false, Some(early), None), Some(SnapshotKind::Nightly)),
            (past(early, false, Some(early), Some(before)), Some(SnapshotKind::Nightly)),
            (past(early, false, Some(early), Some(night)), Some(SnapshotKind::Hot)),
            (past(late, false, Some(late), Some(night)), None),
            // What has just failed waits, what failed a while ago is tried again.
            (past(late, true, Some(early), Some(before)), None),
            (past("2026-11-21T11:50:00Z", true, Some(early), Some(before)), Some(SnapshotKind::Nightly)),
            (past(early, true, None, None), Some(SnapshotKind::Nightly)),
        ];
        for (number, (past, due)) in table.into_iter().enumerate() {
            assert_eq!(kind_due(past, night, hot, now), due, "case {number}");
        }
    }
}
