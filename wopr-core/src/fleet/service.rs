use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use diesel_async::AsyncPgConnection;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;

use super::charging::accrue_in;
use super::error::{FleetError, HostError};
use super::image::{ImageAllowList, ImageReference};
use super::logs::{self, LogLine};
use super::model::{Bot, BotChange, BotSpec, DesiredState, NewBot, Phase, Seen};
use super::network::NetworkRange;
use super::ports::{ContainerHost, ContainerStats};
use super::repository::BotRepository;
use super::settings::BotEnv;
use crate::audit::{self, AuditEntry, Origin, Resource};
use crate::auth::Auth;
use crate::billing::{Billing, ResourceTier, StorageTier};
use crate::clock::SharedClock;
use crate::db::{Db, DbError};
use crate::ids::{BotId, TenantId};

/// The most lines of a bot's output answered at once.
const MAX_LOG_LINES: u32 = 10_000;

/// How bots are run.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    /// Which images may be run.
    pub images: ImageAllowList,
    /// How long an executor that died keeps others from a bot. One that lives renews its lease in time.
    pub lease: SignedDuration,
    /// How long a bot's health may be unknown before that counts as a failure.
    pub start_patience: SignedDuration,
    /// How long an engine may take to answer.
    pub deadlines: Deadlines,
    /// Where the addresses of tenants' networks come from.
    pub networks: NetworkRange,
    /// Where bots reach the gateway for models, without a path; `None` tells them nothing.
    pub gateway_url: Option<String>,
    /// What bots' names outside are below; `None` gives them none.
    pub domain: Option<String>,
    /// How long the service key before is good when a bot is given another one.
    pub key_overlap: SignedDuration,
}

/// How long an engine may take to answer.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// To anything quick.
    pub call: Duration,
    /// To stopping or restarting a container, its own patience included.
    pub stop: Duration,
    /// To fetching an image.
    pub pull: Duration,
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            images: ImageAllowList::default(),
            lease: SignedDuration::from_secs(15),
            start_patience: SignedDuration::from_secs(120),
            deadlines: Deadlines {
                call: Duration::from_secs(15),
                stop: Duration::from_secs(40),
                pull: Duration::from_mins(10),
            },
            networks: NetworkRange::default(),
            gateway_url: None,
            domain: None,
            key_overlap: SignedDuration::from_mins(15),
        }
    }
}

/// The bots. Cheap to clone.
#[derive(Clone)]
pub struct Fleet {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    clock: SharedClock,
    billing: Billing,
    host: Arc<dyn ContainerHost>,
    config: FleetConfig,
    wake: Arc<Notify>,
    wake_sweep: Arc<Notify>,
    /// Names of orphans that were told of already.
    orphans: Mutex<HashSet<String>>,
    /// Tenants whose networks the proxy does not get to, as was told of already.
    unreached: Mutex<HashSet<TenantId>>,
    in_flight: Mutex<HashSet<BotId>>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Fleet {
    /// The domain on this database and this engine.
    pub fn new(
        db: Db,
        clock: SharedClock,
        billing: Billing,
        host: Arc<dyn ContainerHost>,
        config: FleetConfig,
    ) -> Self {
        let (wake, wake_sweep) = (Arc::default(), Arc::default());
        let (orphans, unreached, in_flight) = (Mutex::default(), Mutex::default(), Mutex::default());
        let inner = Inner { db, clock, billing, host, config, wake, wake_sweep, orphans, unreached, in_flight };
        Self { inner: Arc::new(inner) }
    }

    /// Notified whenever there is something to do: whoever runs [`Fleet::spawn_due`] waits for it.
    pub fn waker(&self) -> Arc<Notify> {
        Arc::clone(&self.inner.wake)
    }

    /// Notified whenever the engine may have changed unseen: whoever runs [`Fleet::reconcile`] waits for it.
    pub fn sweep_waker(&self) -> Arc<Notify> {
        Arc::clone(&self.inner.wake_sweep)
    }

    pub(super) fn db(&self) -> &Db {
        &self.inner.db
    }

    pub(super) fn clock(&self) -> &SharedClock {
        &self.inner.clock
    }

    pub(super) fn billing(&self) -> &Billing {
        &self.inner.billing
    }

    pub(super) fn host(&self) -> &Arc<dyn ContainerHost> {
        &self.inner.host
    }

    pub(super) fn config(&self) -> &FleetConfig {
        &self.inner.config
    }

    /// Those of `found` that were not among the orphans before.
    pub(super) fn new_orphans<'f>(&self, found: &'f [String]) -> Vec<&'f String> {
        let mut known = self.inner.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        let new = found.iter().filter(|name| !known.contains(*name)).collect();
        *known = found.iter().cloned().collect();
        new
    }

    /// The tenants that were not told of at the last call.
    pub(super) fn new_unreached(&self, found: &[TenantId]) -> Vec<TenantId> {
        let mut known = self.inner.unreached.lock().unwrap_or_else(PoisonError::into_inner);
        let new = found.iter().filter(|tenant| !known.contains(tenant)).copied().collect();
        *known = found.iter().copied().collect();
        new
    }

    pub(super) fn in_flight(&self) -> &Mutex<HashSet<BotId>> {
        &self.inner.in_flight
    }

    /// Makes a bot that is to run, and answers at once; the way there begins after that.
    ///
    /// # Errors
    /// [`FleetError::Invalid`], [`FleetError::InvalidImage`], [`FleetError::ImageNotAllowed`],
    /// [`FleetError::NameTaken`], [`FleetError::Billing`] without a day's credit or for a suspended account.
    pub async fn create(&self, origin: &Origin, tenant: TenantId, new: NewBot) -> Result<Bot, FleetError> {
        let now = self.clock().now();
        let name = new.name.parse()?;
        let image = self.admitted(&new.image)?;
        let bot = Bot {
            id: new.id.unwrap_or_else(|| BotId::new(now)),
            tenant_id: tenant,
            created_by: new.created_by,
            name,
            description: new.description,
            spec: BotSpec {
                digest: image.pinned(),
                image,
                env: BotEnv::new(new.env)?,
                restart_policy: new.restart_policy,
                discovery: new.discovery,
                volume: 0,
            },
            fallback: None,
            release_channel: new.release_channel,
            update_policy: new.update_policy,
            resource_tier: ResourceTier::Standard,
            storage_tier: StorageTier::Standard,
            desired: DesiredState::Running,
            generation: 1,
            restart_wanted: false,
            suspended_at: None,
            destroy_after: None,
            running_since: Some(now),
            phase: Phase::Pending,
            seen: Seen::default(),
            keyed_container: None,
            last_error: None,
            attempts: 0,
            remade: false,
            next_attempt_at: Some(now),
            created_at: now,
            updated_at: now,
        };
        self.db()
            .transaction(async |conn| {
                self.billing().require_runtime_credit_in(conn, tenant).await?;
                BotRepository::new(conn).insert(&bot).await.map_err(|error| name_taken(error, &bot))?;
                accrue_in(conn, &bot, now).await?;
                let entry = AuditEntry::success(origin, Some(tenant), "bot.create", Resource::new("bot", bot.id))
                    .with("name", bot.name.as_str())
                    .with("image", bot.spec.image.to_string());
                audit::record_in(conn, now, &entry).await?;
                Ok::<_, FleetError>(())
            })
            .await?;
        self.inner.wake.notify_one();
        Ok(bot)
    }

    /// One of the tenant's bots, as last seen.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], also for another tenant's bot.
    pub async fn get(&self, tenant: TenantId, id: BotId) -> Result<Bot, FleetError> {
        let mut conn = self.db().connection().await?;
        BotRepository::new(&mut conn).find_of(tenant, id).await?.ok_or(FleetError::NotFound(id))
    }

    /// A bot, whoever's it is and even if it is gone or going.
    ///
    /// # Errors
    /// [`FleetError::Storage`].
    pub async fn find(&self, id: BotId) -> Result<Option<Bot>, FleetError> {
        let mut conn = self.db().connection().await?;
        Ok(BotRepository::new(&mut conn).find(id).await?)
    }

    /// The tenant a bot belongs to, whoever that is: for operators, who act for any.
    ///
    /// # Errors
    /// [`FleetError::NotFound`].
    pub async fn tenant_of(&self, id: BotId) -> Result<TenantId, FleetError> {
        let mut conn = self.db().connection().await?;
        let bot = BotRepository::new(&mut conn).find(id).await?.ok_or(FleetError::NotFound(id))?;
        Ok(bot.tenant_id)
    }

    /// The tenant's bots, or everybody's, as last seen, oldest first.
    ///
    /// # Errors
    /// [`FleetError::Storage`].
    pub async fn list(&self, tenant: Option<TenantId>) -> Result<Vec<Bot>, FleetError> {
        let mut conn = self.db().connection().await?;
        Ok(BotRepository::new(&mut conn).list(tenant).await?)
    }

    /// How many bots are to run.
    ///
    /// # Errors
    /// [`FleetError::Storage`].
    pub async fn count_wanted_running(&self) -> Result<u64, FleetError> {
        let mut conn = self.db().connection().await?;
        Ok(BotRepository::new(&mut conn).count_wanted_running().await?)
    }

    /// Makes a bot run. Does nothing to one that is to run already.
    ///
    /// # Errors
    /// [`FleetError::NotFound`]; [`FleetError::Billing`] without a day's credit or for a suspended account.
    pub async fn start(&self, origin: &Origin, tenant: TenantId, id: BotId) -> Result<Bot, FleetError> {
        self.change(origin, tenant, id, "bot.start", true, |bot| {
            if bot.desired != DesiredState::Running || bot.phase != Phase::Running {
                bot.desired = DesiredState::Running;
                bot.phase = Phase::Pending;
                // A process that ended for good is started again when its owner says so.
                bot.restart_wanted = true;
            }
        })
        .await
    }

    /// Makes a bot stop; its data stays.
    ///
    /// # Errors
    /// [`FleetError::NotFound`].
    pub async fn stop(&self, origin: &Origin, tenant: TenantId, id: BotId) -> Result<Bot, FleetError> {
        self.change(origin, tenant, id, "bot.stop", false, |bot| {
            bot.desired = DesiredState::Stopped;
            bot.restart_wanted = false;
            if bot.phase != Phase::Stopped {
                bot.phase = Phase::Stopping;
            }
        })
        .await
    }

    /// Stops and starts a bot; one that is stopped is started.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub async fn restart(&self, origin: &Origin, tenant: TenantId, id: BotId) -> Result<Bot, FleetError> {
        self.change(origin, tenant, id, "bot.restart", true, |bot| {
            bot.desired = DesiredState::Running;
            bot.restart_wanted = true;
            bot.phase = Phase::Starting;
        })
        .await
    }

    /// Gives a bot another service key, without touching what runs: the file with the key is replaced in its container. The
    /// key before is good for [`FleetConfig::key_overlap`]; answers until when.
    ///
    /// # Errors
    /// [`FleetError::NotFound`].
    pub async fn rotate_key(&self, origin: &Origin, tenant: TenantId, id: BotId) -> Result<Timestamp, FleetError> {
        let now = self.clock().now();
        let until = now + self.config().key_overlap;
        self.db()
            .transaction(async |conn| {
                let found = BotRepository::new(conn).find_for_update(id).await?;
                let mut bot = found
                    .filter(|bot| bot.tenant_id == tenant && bot.desired != DesiredState::Destroyed)
                    .ok_or(FleetError::NotFound(id))?;
                Auth::expire_bot_keys_in(conn, until, id).await?;
                bot.keyed_container = None;
                save_change_in(conn, &mut bot, now).await?;
                let entry = AuditEntry::success(origin, Some(tenant), "bot.rotate_key", Resource::new("bot", id));
                Ok::<_, FleetError>(audit::record_in(conn, now, &entry).await?)
            })
            .await?;
        self.inner.wake.notify_one();
        Ok(until)
    }

    /// Removes a bot with its data. From now on it does not exist for its owner.
    ///
    /// # Errors
    /// [`FleetError::NotFound`].
    pub async fn destroy(&self, origin: &Origin, tenant: TenantId, id: BotId) -> Result<(), FleetError> {
        self.change(origin, tenant, id, "bot.destroy", false, |bot| {
            bot.desired = DesiredState::Destroyed;
            bot.restart_wanted = false;
            bot.phase = Phase::Destroying;
        })
        .await
        .map(drop)
    }

    /// Changes a bot. What needs a new container gets one; if that does not come up, what ran before runs again.
    ///
    /// # Errors
    /// As [`Fleet::create`], without the credit; [`FleetError::NothingToChange`]; [`FleetError::NotFound`].
    pub async fn update(
        &self,
        origin: &Origin,
        tenant: TenantId,
        id: BotId,
        change: BotChange,
    ) -> Result<Bot, FleetError> {
        if change.is_empty() {
            return Err(FleetError::NothingToChange);
        }
        let name = change.name.as_deref().map(str::parse).transpose()?;
        let image = change.image.as_deref().map(|image| self.admitted(image)).transpose()?;
        let env = change.env.map(BotEnv::new).transpose()?;
        self.change(origin, tenant, id, "bot.update", false, move |bot| {
            let before = bot.spec.clone();
            if let Some(image) = image {
                bot.spec.digest = image.pinned();
                bot.spec.image = image;
            }
            bot.spec.env = env.unwrap_or_else(|| before.env.clone());
            bot.spec.restart_policy = change.restart_policy.unwrap_or(before.restart_policy);
            bot.spec.discovery = change.discovery.unwrap_or_else(|| before.discovery.clone());
            bot.description = change.description.unwrap_or_else(|| bot.description.clone());
            bot.release_channel = change.release_channel.unwrap_or(bot.release_channel);
            bot.update_policy = change.update_policy.unwrap_or(bot.update_policy);
            let renamed = name.as_ref().is_some_and(|name| *name != bot.name);
            bot.name = name.unwrap_or_else(|| bot.name.clone());
            if bot.spec != before {
                // Of several changes in a row, the state before the first is the one that is known to run.
                if bot.fallback.is_none() && bot.phase == Phase::Running {
                    bot.fallback = Some(before.clone());
                }
            }
            if (bot.spec != before || renamed) && bot.desired == DesiredState::Running {
                bot.phase = Phase::Pending;
            }
        })
        .await
    }

    /// Gives a bot another data volume, which holds what it is to have; if `may_return` and it does not come up with that, it
    /// has the one before again. Does nothing to one that has it already. A bot that was destroyed is to run again.
    ///
    /// # Errors
    /// [`FleetError::NotFound`]; for a destroyed bot also [`FleetError::Billing`] without a day's credit, and
    /// [`FleetError::NameTaken`] when another of the tenant's has its name by now.
    pub async fn adopt_volume(
        &self,
        origin: &Origin,
        id: BotId,
        volume: u32,
        may_return: bool,
    ) -> Result<Bot, FleetError> {
        let now = self.clock().now();
        let bot = self
            .db()
            .transaction(async |conn| {
                let found = BotRepository::new(conn).find_for_update(id).await?;
                let mut bot = found.ok_or(FleetError::NotFound(id))?;
                if bot.spec.volume == volume {
                    return Ok(bot);
                }
                accrue_in(conn, &bot, now).await?;
                if bot.desired == DesiredState::Destroyed {
                    self.billing().require_runtime_credit_in(conn, bot.tenant_id).await?;
                    bot.desired = DesiredState::Running;
                    (bot.suspended_at, bot.destroy_after) = (None, None);
                    bot.fallback = None;
                } else if !may_return {
                    bot.fallback = None;
                } else if bot.phase == Phase::Running {
                    bot.fallback = Some(bot.spec.clone());
                }
                bot.spec.volume = volume;
                if bot.desired == DesiredState::Running {
                    bot.phase = Phase::Pending;
                }
                save_change_in(conn, &mut bot, now).await?;
                accrue_in(conn, &bot, now).await?;
                let resource = Resource::new("bot", id);
                let entry = AuditEntry::success(origin, Some(bot.tenant_id), "bot.adopt_volume", resource);
                audit::record_in(conn, now, &entry.with("volume", volume)).await?;
                Ok::<_, FleetError>(bot)
            })
            .await?;
        self.inner.wake.notify_one();
        Ok(bot)
    }

    /// Removes a data volume that the bot has no more. Does nothing if it has it still.
    ///
    /// # Errors
    /// [`FleetError::Host`].
    pub async fn remove_former_volume(&self, id: BotId, volume: u32) -> Result<(), FleetError> {
        let bot = self.find(id).await?;
        let in_use = |bot: &Bot| {
            bot.spec.volume == volume || bot.fallback.as_ref().is_some_and(|fallback| fallback.volume == volume)
        };
        if !bot.is_some_and(|bot| in_use(&bot)) {
            self.bounded(self.config().deadlines.call, self.host().remove_data_volume(id, volume)).await?;
        }
        Ok(())
    }

    /// The last lines a bot wrote, oldest first; at most 10 000. A bot without a container wrote none.
    ///
    /// # Errors
    /// [`FleetError::NotFound`]; [`FleetError::Host`] when the engine cannot be asked.
    pub async fn logs(&self, tenant: TenantId, id: BotId, tail: u32) -> Result<Vec<LogLine>, FleetError> {
        self.get(tenant, id).await?;
        let lines =
            self.bounded(self.config().deadlines.call, self.host().logs(id, tail.clamp(1, MAX_LOG_LINES))).await;
        match lines {
            Ok(lines) => Ok(lines.into_iter().map(logs::parse).collect()),
            Err(HostError::NotFound(_)) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// What a bot uses now; nothing unless it runs, or when the engine cannot be asked.
    ///
    /// # Errors
    /// [`FleetError::NotFound`].
    pub async fn stats(&self, tenant: TenantId, id: BotId) -> Result<Option<ContainerStats>, FleetError> {
        let bot = self.get(tenant, id).await?;
        Ok(self.stats_of(&bot).await)
    }

    /// As [`Fleet::stats`], of a bot that was just read.
    pub async fn stats_of(&self, bot: &Bot) -> Option<ContainerStats> {
        if !bot.seen.container_state.is_some_and(super::ports::ContainerState::is_alive) {
            return None;
        }
        match self.bounded(self.config().deadlines.call, self.host().stats(bot.id)).await {
            Ok(stats) => stats,
            Err(error) => {
                tracing::info!(bot.id = %bot.id, "the statistics of bot {} cannot be had: {error}", bot.id);
                None
            }
        }
    }

    fn admitted(&self, text: &str) -> Result<ImageReference, FleetError> {
        let image: ImageReference = text.trim().parse().map_err(|_| FleetError::InvalidImage)?;
        let admitted = self.config().images.admits(&image);
        if admitted { Ok(image) } else { Err(FleetError::ImageNotAllowed(image.to_string())) }
    }

    /// Changes what is wanted of a bot in one transaction with its reasons to charge and its record.
    pub(super) async fn change(
        &self,
        origin: &Origin,
        tenant: TenantId,
        id: BotId,
        action: &'static str,
        needs_credit: bool,
        edit: impl FnOnce(&mut Bot) + Send,
    ) -> Result<Bot, FleetError> {
        let now = self.clock().now();
        let bot = self
            .db()
            .transaction(async |conn| {
                let found = BotRepository::new(conn).find_for_update(id).await?;
                let mut bot = found
                    .filter(|bot| bot.tenant_id == tenant && bot.desired != DesiredState::Destroyed)
                    .ok_or(FleetError::NotFound(id))?;
                if needs_credit {
                    self.billing().require_runtime_credit_in(conn, tenant).await?;
                }
                accrue_in(conn, &bot, now).await?;
                let before = bot.clone();
                edit(&mut bot);
                if bot != before {
                    save_change_in(conn, &mut bot, now).await?;
                    let entry = AuditEntry::success(origin, Some(tenant), action, Resource::new("bot", id));
                    audit::record_in(conn, now, &entry).await?;
                }
                Ok::<_, FleetError>(bot)
            })
            .await?;
        self.inner.wake.notify_one();
        Ok(bot)
    }

    /// Gives an engine's answer a deadline.
    pub(super) async fn bounded<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<T, HostError>>,
    ) -> Result<T, HostError> {
        tokio::time::timeout(deadline, call).await.unwrap_or(Err(HostError::TimedOut(deadline)))
    }
}

/// Saves a bot of which something else is wanted now: a new generation, to be looked at at once.
pub(super) async fn save_change_in(
    conn: &mut AsyncPgConnection,
    bot: &mut Bot,
    now: Timestamp,
) -> Result<(), FleetError> {
    bot.generation += 1;
    bot.updated_at = now;
    bot.attempts = 0;
    bot.remade = false;
    bot.last_error = None;
    bot.next_attempt_at = Some(now);
    bot.settle_running_since(now);
    if bot.desired == DesiredState::Destroyed {
        Auth::revoke_bot_keys_in(conn, now, bot.id).await?;
    }
    let mut bots = BotRepository::new(conn);
    bots.save_wanted(bot).await.map_err(|error| name_taken(error, bot))?;
    bots.save_progress(bot).await?;
    // Keep the rule in words too: a bot that may run is charged, one that may not is not.
    debug_assert_eq!(bot.running_since.is_some(), bot.desired == DesiredState::Running && bot.suspended_at.is_none());
    Ok(())
}

fn name_taken(error: DbError, bot: &Bot) -> FleetError {
    match error.violated_constraint() {
        Some("bots_name") => FleetError::NameTaken(bot.name.to_string()),
        Some("bots_pkey") => FleetError::IdTaken(bot.id),
        _ => FleetError::Storage(error),
    }
}
