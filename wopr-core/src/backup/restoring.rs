//! Giving a bot the data of a snapshot, one step at a time.

use jiff::{SignedDuration, Timestamp};

use super::error::BackupError;
use super::model::{Restore, RestorePhase, SnapshotKind, SnapshotState};
use super::repository::BackupRepository;
use super::service::{Backups, Repository};
use crate::audit::Origin;
use crate::fleet::{Bot, DesiredState, FleetError, Phase};
use crate::ids::RestoreId;
use crate::protocol::backup::Work;

/// Restores taken from the list at a time.
const BATCH: i64 = 16;
/// How often one step may fail for reasons that pass by themselves.
const MAX_ATTEMPTS: u32 = 12;
/// The longest pause between two attempts, in seconds.
const LONGEST_PAUSE: i64 = 60;
/// How often is looked whether a bot has come up, in seconds.
const LOOK_SECONDS: i64 = 1;

/// What a step came to.
enum Step {
    /// The next one follows at once.
    Next,
    /// It is looked at again later.
    Later,
    /// It is over.
    Over,
}

impl Backups {
    /// Goes on with every restore that is due, and answers how many those were.
    ///
    /// # Errors
    /// [`BackupError::Storage`].
    pub async fn advance(&self) -> Result<usize, BackupError> {
        if !self.is_on() {
            return Ok(0);
        }
        let due = {
            let mut conn = self.inner.db.connection().await?;
            BackupRepository::new(&mut conn).list_due_restores(self.now(), BATCH).await?
        };
        let count = due.len();
        for id in due {
            match Box::pin(self.advance_restore(id)).await {
                Ok(()) | Err(BackupError::Busy(_)) => {}
                Err(error) => tracing::error!(restore.id = %id, "restore {id} could not be gone on with: {error}"),
            }
        }
        Ok(count)
    }

    async fn advance_restore(&self, id: RestoreId) -> Result<(), BackupError> {
        let Some(restore) = self.find_restore(id).await? else { return Ok(()) };
        let work = async {
            // As it is now that nobody else goes on with it.
            let Some(mut restore) = self.find_restore(id).await? else { return Ok(()) };
            loop {
                if matches!(restore.phase, RestorePhase::Done | RestorePhase::Failed) {
                    return Ok(());
                }
                let step = match self.step(&mut restore).await {
                    Ok(step) => step,
                    Err(BackupError::Storage(error)) => return Err(error.into()),
                    Err(error) => self.stumble(&mut restore, &error).await?,
                };
                let mut conn = self.inner.db.connection().await?;
                BackupRepository::new(&mut conn).save_restore(&restore).await?;
                if !matches!(step, Step::Next) {
                    return Ok(());
                }
            }
        };
        self.alone(Repository::Bot(restore.bot_id), Box::pin(work)).await
    }

    async fn step(&self, restore: &mut Restore) -> Result<Step, BackupError> {
        let bot = self.bot(restore.bot_id).await?;
        match restore.phase {
            RestorePhase::Saving => self.save_before(restore, &bot).await?,
            RestorePhase::Filling => self.fill(restore, &bot).await?,
            RestorePhase::Switching => return self.look(restore, &bot).await,
            RestorePhase::Done | RestorePhase::Failed => return Ok(Step::Over),
        }
        restore.attempts = 0;
        restore.error = None;
        Ok(Step::Next)
    }

    /// Copies what is there. Where nothing is, nothing can be lost.
    async fn save_before(&self, restore: &mut Restore, bot: &Bot) -> Result<(), BackupError> {
        if bot.desired != DesiredState::Destroyed && self.has_volume(bot).await? {
            let origin = Origin::system("backup");
            let kind = SnapshotKind::PreRestore;
            let snapshot = self.new_snapshot(bot.id, bot.tenant_id, kind, SnapshotState::Creating, &origin);
            restore.safety_id = Some(self.save(snapshot).await?.id);
        }
        restore.phase = RestorePhase::Filling;
        Ok(())
    }

    /// Fills the new volume, has every file of it compared, and gives it to the bot.
    async fn fill(&self, restore: &mut Restore, bot: &Bot) -> Result<(), BackupError> {
        let origin = Origin::system("backup");
        if bot.spec.volume != restore.volume {
            let snapshot = {
                let mut conn = self.inner.db.connection().await?;
                BackupRepository::new(&mut conn).find(restore.snapshot_id).await?
            };
            let name = snapshot.filter(|snapshot| snapshot.state == SnapshotState::Ready);
            let name = name.and_then(|snapshot| snapshot.engine_snapshot);
            let snapshot = name.ok_or(BackupError::NotReady(restore.snapshot_id))?;
            self.run(bot, restore.volume, Work::Restore { snapshot }).await?;
            // Whatever is there was copied before; where nothing was, there is nothing to go back to.
            restore.old_volume = restore.safety_id.map(|_| bot.spec.volume);
            let mut conn = self.inner.db.connection().await?;
            BackupRepository::new(&mut conn).save_restore(restore).await?;
        }
        let may_return = restore.old_volume.is_some();
        self.inner.fleet.adopt_volume(&origin, bot.id, restore.volume, may_return).await?;
        restore.switched_at = Some(self.now());
        restore.phase = RestorePhase::Switching;
        Ok(())
    }

    /// Looks whether the bot has come up with the new volume.
    async fn look(&self, restore: &mut Restore, bot: &Bot) -> Result<Step, BackupError> {
        let now = self.now();
        let rests = bot.desired == DesiredState::Stopped || bot.suspended_at.is_some();
        let late = restore.switched_at.is_some_and(|at| now.duration_since(at) > self.inner.config.patience);
        if bot.spec.volume != restore.volume {
            let reason = bot.last_error.clone().unwrap_or_else(|| "it was given another volume".to_owned());
            restore.old_volume = None;
            self.give_up(restore, format!("the bot has what it had before: {reason}")).await?;
        } else if bot.fallback.is_none() && (bot.phase == Phase::Running || rests) {
            restore.phase = RestorePhase::Done;
            (restore.finished_at, restore.next_attempt_at, restore.error) = (Some(now), None, None);
            let took = restore.switched_at.map(|at| now.duration_since(at)).unwrap_or_default();
            tracing::info!(bot.id = %bot.id, restore.id = %restore.id, "bot {} has its data back, {took:#} after", bot.id);
        } else if late && bot.fallback.is_none() {
            let reason = bot.last_error.clone().unwrap_or_else(|| "it is not known why".to_owned());
            let error = format!("the bot has the restored data and does not come up: {reason}");
            restore.phase = RestorePhase::Failed;
            (restore.finished_at, restore.next_attempt_at, restore.error) = (Some(now), None, Some(error));
        } else {
            restore.next_attempt_at = Some(later(now, LOOK_SECONDS));
            return Ok(Step::Later);
        }
        Ok(Step::Over)
    }

    /// What has failed is tried again if it may pass by itself, and otherwise given up; the bot has what it had.
    async fn stumble(&self, restore: &mut Restore, error: &BackupError) -> Result<Step, BackupError> {
        let transient = match error {
            BackupError::Job(error) => error.is_transient(),
            // What an engine refuses here is to make a container stand still, which is nobody's choice.
            BackupError::Busy(_)
            | BackupError::Fleet(
                FleetError::Busy(_) | FleetError::Host(_) | FleetError::NotStill(_) | FleetError::Storage(_),
            ) => true,
            _ => false,
        };
        restore.attempts += 1;
        let (bot, attempts) = (restore.bot_id, restore.attempts);
        tracing::warn!(bot.id = %bot, restore.id = %restore.id, attempts, "restoring bot {bot}: {error}");
        if transient && restore.attempts < MAX_ATTEMPTS {
            let pause = (1_i64 << restore.attempts.min(6)).min(LONGEST_PAUSE);
            restore.error = Some(error.to_string());
            restore.next_attempt_at = Some(later(self.now(), pause));
            return Ok(Step::Later);
        }
        self.give_up(restore, error.to_string()).await?;
        Ok(Step::Over)
    }

    /// Ends a restore that came to nothing, and removes what it had filled.
    pub(super) async fn give_up(&self, restore: &mut Restore, error: String) -> Result<(), BackupError> {
        restore.phase = RestorePhase::Failed;
        (restore.finished_at, restore.next_attempt_at, restore.error) = (Some(self.now()), None, Some(error));
        if let Err(error) = self.inner.fleet.remove_former_volume(restore.bot_id, restore.volume).await {
            tracing::warn!(bot.id = %restore.bot_id, "volume {} could not be removed: {error}", restore.volume);
            // It is tidied up like one from before a restore.
            restore.old_volume = Some(restore.volume);
        }
        Ok(())
    }

    /// Removes the volumes from before restores that were long enough ago.
    pub(super) async fn remove_old_volumes(&self) -> Result<(), BackupError> {
        let now = self.now();
        let before = now.checked_sub(self.inner.config.keep_old_volume).unwrap_or(Timestamp::MIN);
        let ended = {
            let mut conn = self.inner.db.connection().await?;
            BackupRepository::new(&mut conn).list_with_old_volume(before).await?
        };
        for mut restore in ended {
            let Some(volume) = restore.old_volume.take() else { continue };
            if let Err(error) = self.inner.fleet.remove_former_volume(restore.bot_id, volume).await {
                tracing::warn!(bot.id = %restore.bot_id, "volume {volume} could not be removed: {error}");
                continue;
            }
            let mut conn = self.inner.db.connection().await?;
            BackupRepository::new(&mut conn).save_restore(&restore).await?;
        }
        Ok(())
    }
}

fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}
