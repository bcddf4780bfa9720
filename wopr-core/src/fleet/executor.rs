//! One bot, one executor: compares, acts, records.

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use uuid::Uuid;

use super::charging::accrue_in;
use super::container::ContainerSpec;
use super::error::{FleetError, HostError};
use super::model::{Bot, DesiredState, Permission, Phase, Seen};
use super::network::Subnet;
use super::planner::{Aim, Desired, Step, Verdict, aim, judge, plan};
use super::ports::Observed;
use super::repository::{BotRepository, NetworkRepository};
use super::service::{Fleet, save_change_in};
use crate::audit::{self, AuditEntry, Origin, Resource};
use crate::auth::{Auth, Scope};
use crate::billing::Standing;
use crate::db::DbError;
use crate::ids::{BotId, TenantId};

/// Plans made in one go before the bot is left for the next look.
const MAX_ROUNDS: usize = 12;
/// How soon a bot is looked at again whose engine is at work.
const AWAIT_PAUSE: SignedDuration = SignedDuration::from_secs(1);
/// How often is looked whether somebody has let go of a bot.
const LEASE_PACE: std::time::Duration = std::time::Duration::from_millis(50);
/// Networks tried in one go where the engine has the addresses of each.
const MAX_SUBNETS: usize = 32;
/// The longest pause after failures that pass by themselves.
const TRANSIENT_PAUSE: i64 = 5;
/// The longest pause after other failures.
const PERMANENT_PAUSE: i64 = 30;
/// After so many failures in a row, whatever they were, a bot's container is made anew, once.
const REMADE_AFTER: i32 = 3;
/// How a message begins that outlives the success of what it tells of.
pub(super) const ROLLED_BACK: &str = "the last change was rolled back: ";

/// How a look at a bot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is as wanted.
    Settled,
    /// The engine is at work; another look follows.
    Waiting,
    /// Something failed; another attempt follows.
    Failed,
    /// Somebody else is looking at it.
    Busy,
    /// There is no such bot.
    Unknown,
}

/// Why a look at a bot was given up without anything being wrong.
enum Interrupted {
    /// Something else is wanted now.
    Superseded,
    /// The lease went to somebody else.
    Lost,
}

impl Fleet {
    /// Takes a bot as far as it goes now. Safe to call at any time, by several at once, and to drop at any point.
    ///
    /// # Errors
    /// [`FleetError::Storage`], [`FleetError::Billing`]; what the engine refuses is recorded with the bot instead.
    pub async fn drive(&self, id: BotId) -> Result<Outcome, FleetError> {
        let owner = Uuid::new_v4();
        let now = self.clock().now();
        let taken = {
            let mut conn = self.db().connection().await?;
            BotRepository::new(&mut conn).lease(id, owner, now, self.lease_end(now)).await?
        };
        if !taken {
            return Ok(Outcome::Busy);
        }
        let result = self.drive_leased(id, owner).await;
        let mut conn = self.db().connection().await?;
        BotRepository::new(&mut conn).release(id, owner).await?;
        result
    }

    async fn drive_leased(&self, id: BotId, owner: Uuid) -> Result<Outcome, FleetError> {
        let mut started = false;
        for _ in 0..MAX_ROUNDS {
            let Some((bot, permission)) = self.read(id).await? else { return Ok(Outcome::Unknown) };
            let now = self.clock().now();
            let aimed = aim(bot.desired, permission, now);
            let image = bot.spec.digest.as_ref();
            let call = self.config().deadlines.call;
            let observed =
                match self.bounded(call, self.host().observe(id, bot.tenant_id, image, bot.spec.volume)).await {
                    Ok(observed) => observed,
                    Err(error) => return self.fail(&bot, owner, &error).await,
                };
            match self.note(&bot, owner, |bot| bot.seen = seen(&observed)).await? {
                Ok(()) => {}
                Err(Interrupted::Superseded) => continue,
                Err(Interrupted::Lost) => return Ok(Outcome::Busy),
            }
            let steps = plan(&self.desired(&bot), aimed, &observed);
            if steps.is_empty() || steps == [Step::Await] {
                match self.conclude(&bot, owner, aimed, &observed).await? {
                    Some(outcome) => return Ok(outcome),
                    None => continue,
                }
            }
            if started && steps.contains(&Step::Start) {
                // It was started a moment ago and has ended already.
                return self.struggle(&bot, owner, aimed, &observed).await;
            }
            started |= steps.contains(&Step::Start);
            match self.act(&bot, owner, aimed, &observed, &steps).await? {
                Ok(()) | Err(Stopped::Interrupted(Interrupted::Superseded)) => {}
                Err(Stopped::Interrupted(Interrupted::Lost)) => return Ok(Outcome::Busy),
                Err(Stopped::Host(error)) => return self.fail(&bot, owner, &error).await,
            }
        }
        // It never came to rest, for instance because its owner keeps changing it.
        let mut conn = self.db().connection().await?;
        BotRepository::new(&mut conn).make_due(id, self.clock().now()).await?;
        Ok(Outcome::Waiting)
    }

    /// Does `work` while the bot's processes, if there are any, stand still and nobody else acts on the bot. Whoever is
    /// killed at it leaves a bot that is woken with the next look at it.
    ///
    /// # Errors
    /// [`FleetError::NotStill`] when a process ran meanwhile, so that what `work` saw may not be one instant;
    /// [`FleetError::Busy`] when somebody is acting on the bot for longer than a lease lives, or the lease was lost;
    /// [`FleetError::Host`] when the engine does not pause or wake it.
    pub async fn while_still<T>(&self, id: BotId, work: impl Future<Output = T>) -> Result<T, FleetError> {
        let owner = Uuid::new_v4();
        self.wait_for_lease(id, owner).await?;
        let call = self.config().deadlines.call;
        let still = async {
            let paused = self.bounded(call, self.host().pause_container(id)).await?;
            if !paused && self.is_alive(id).await? {
                return Err(FleetError::NotStill(id));
            }
            let result = work.await;
            let moved = if paused {
                !self.bounded(call, self.host().resume_container(id)).await?
            } else {
                self.is_alive(id).await?
            };
            if moved { Err(FleetError::NotStill(id)) } else { Ok(result) }
        };
        let result = self.under_lease(id, owner, still).await;
        let mut conn = self.db().connection().await?;
        let mut bots = BotRepository::new(&mut conn);
        bots.release(id, owner).await?;
        // Whatever came in between was put off.
        bots.make_due(id, self.clock().now()).await?;
        self.waker().notify_one();
        result?.unwrap_or(Err(FleetError::Busy(id)))
    }

    /// Whether a process of the bot runs, or is about to.
    async fn is_alive(&self, id: BotId) -> Result<bool, FleetError> {
        let Some(bot) = self.find(id).await? else { return Ok(false) };
        let observing = self.host().observe(id, bot.tenant_id, bot.spec.digest.as_ref(), bot.spec.volume);
        let observed = self.bounded(self.config().deadlines.call, observing).await?;
        Ok(observed.container.is_some_and(|container| container.state.is_alive()))
    }

    async fn wait_for_lease(&self, id: BotId, owner: Uuid) -> Result<(), FleetError> {
        let began = std::time::Instant::now();
        loop {
            let now = self.clock().now();
            let mut conn = self.db().connection().await?;
            if BotRepository::new(&mut conn).lease(id, owner, now, self.lease_end(now)).await? {
                return Ok(());
            }
            drop(conn);
            if began.elapsed() > 2 * self.config().lease.unsigned_abs() {
                return Err(FleetError::Busy(id));
            }
            tokio::time::sleep(LEASE_PACE).await;
        }
    }

    /// Reads the bot and what the account allows, and records a change of the latter.
    async fn read(&self, id: BotId) -> Result<Option<(Bot, Permission)>, FleetError> {
        let found = {
            let mut conn = self.db().connection().await?;
            BotRepository::new(&mut conn).find(id).await?
        };
        let Some(bot) = found else { return Ok(None) };
        let permission = permission(self.billing().standing(bot.tenant_id).await?);
        let now = self.clock().now();
        if !needs_standing_change(&bot, permission, now) {
            return Ok(Some((bot, permission)));
        }
        let bot = self
            .db()
            .transaction(async |conn| {
                let Some(mut bot) = BotRepository::new(conn).find_for_update(id).await? else { return Ok(None) };
                if needs_standing_change(&bot, permission, now) {
                    accrue_in(conn, &bot, now).await?;
                    let action = apply_permission(&mut bot, permission, now);
                    save_change_in(conn, &mut bot, now).await?;
                    let resource = Resource::new("bot", id);
                    let entry = AuditEntry::success(&Origin::system("fleet"), Some(bot.tenant_id), action, resource);
                    audit::record_in(conn, now, &entry).await?;
                }
                Ok::<_, FleetError>(Some(bot))
            })
            .await?;
        Ok(bot.map(|bot| (bot, permission)))
    }

    /// Does `steps` in order.
    async fn act(
        &self,
        bot: &Bot,
        owner: Uuid,
        aimed: Aim,
        observed: &Observed,
        steps: &[Step],
    ) -> Result<Result<(), Stopped>, FleetError> {
        let mut container = observed.container.as_ref().map(|container| container.id.clone());
        for step in steps {
            let phase = step.phase(aimed);
            if let Err(interrupted) = self.note(bot, owner, |bot| bot.phase = phase).await? {
                return Ok(Err(Stopped::Interrupted(interrupted)));
            }
            let work = self.perform(bot, *step, &mut container);
            match self.under_lease(bot.id, owner, work).await? {
                Some(Ok(())) => {}
                Some(Err(Failure::Host(error))) => return Ok(Err(Stopped::Host(error))),
                Some(Err(Failure::Fleet(error))) => return Err(error),
                None => return Ok(Err(Stopped::Interrupted(Interrupted::Lost))),
            }
        }
        Ok(Ok(()))
    }

    /// Waits for `work` and keeps the lease alive; nothing if it was lost.
    async fn under_lease<T>(
        &self,
        id: BotId,
        owner: Uuid,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, FleetError> {
        let pace = self.config().lease.unsigned_abs() / 3;
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(Some(done)),
                () = tokio::time::sleep(pace) => {
                    let now = self.clock().now();
                    let mut conn = self.db().connection().await?;
                    let mut bots = BotRepository::new(&mut conn);
                    let kept = bots.is_leased_by(id, owner).await?
                        && bots.lease(id, owner, now, self.lease_end(now)).await?;
                    if !kept {
                        return Ok(None);
                    }
                }
            }
        }
    }

    async fn perform(&self, bot: &Bot, step: Step, container: &mut Option<String>) -> Result<(), Failure> {
        let (host, deadlines) = (self.host(), self.config().deadlines);
        let quick = deadlines.call;
        match step {
            Step::ResolveImage => {
                let digest = self.bounded(deadlines.pull, host.resolve_image(&bot.spec.image)).await?;
                let generation = bot.generation;
                self.db()
                    .transaction(async |conn| {
                        let mut bots = BotRepository::new(conn);
                        let Some(mut bot) = bots.find_for_update(bot.id).await? else { return Ok(()) };
                        if bot.generation == generation && bot.spec.digest.is_none() {
                            bot.spec.digest = Some(digest);
                            bots.save_wanted(&bot).await?;
                        }
                        Ok::<_, FleetError>(())
                    })
                    .await?;
            }
            Step::PullImage => {
                if let Some(image) = &bot.spec.digest {
                    self.bounded(deadlines.pull, host.pull_image(image)).await?;
                }
            }
            Step::EnsureNetwork => self.ensure_network(bot.tenant_id).await?,
            Step::EnsureVolumes => {
                self.bounded(quick, host.ensure_volumes(bot.id, bot.tenant_id, bot.spec.volume)).await?;
            }
            Step::CreateContainer => {
                if let Some(spec) = ContainerSpec::of(bot, self.config().gateway_url.as_deref()) {
                    *container = Some(self.bounded(quick, host.create_container(&spec)).await?);
                }
            }
            Step::InstallKey => {
                if let Some(container) = container.clone() {
                    let key = self.issue_key(bot).await?;
                    self.record(bot.id, |bot| bot.keyed_container = None).await?;
                    self.bounded(quick, host.install_key(bot.id, &key)).await?;
                    let generation = bot.generation;
                    self.record(bot.id, move |bot| {
                        // If another key was asked for since then, this one is about to end.
                        if bot.generation == generation {
                            bot.keyed_container = Some(container);
                        }
                    })
                    .await?;
                }
            }
            Step::Start => {
                let started = self.bounded(quick, host.start_container(bot.id)).await;
                self.replace_if_refused(bot, started).await?;
                self.restarted(bot).await?;
            }
            Step::Restart => {
                let restarted = self.bounded(deadlines.stop, host.restart_container(bot.id)).await;
                self.replace_if_refused(bot, restarted).await?;
                self.restarted(bot).await?;
            }
            Step::Resume => {
                self.bounded(quick, host.resume_container(bot.id)).await?;
            }
            Step::Stop => self.bounded(deadlines.stop, host.stop_container(bot.id)).await?,
            Step::RemoveContainer => self.bounded(deadlines.stop, host.remove_container(bot.id)).await?,
            Step::RemoveVolumes => self.bounded(quick, host.remove_volumes(bot.id, bot.spec.volume)).await?,
            Step::RemoveNetwork => self.remove_network_if_unused(bot.tenant_id).await?,
            Step::Await => {}
        }
        Ok(())
    }

    fn desired(&self, bot: &Bot) -> Desired {
        let spec = ContainerSpec::of(bot, self.config().gateway_url.as_deref());
        Desired {
            state: bot.desired,
            spec_hash: spec.map(|spec| spec.hash()),
            restart_policy: bot.spec.restart_policy,
            restart: bot.restart_wanted,
            keyed_container: bot.keyed_container.clone(),
        }
    }

    /// An engine that was killed may keep remains of a container, and refuses to start it ever after. One that is refused
    /// again and again is removed, so that the next attempt makes another: all that a bot keeps is in its volumes. One whose
    /// process goes on ([`HostError::LostSight`]) is not: the next container would have a second one on the same volumes.
    async fn replace_if_refused(&self, bot: &Bot, result: Result<(), HostError>) -> Result<(), HostError> {
        if matches!(result, Err(HostError::Refused(_))) && bot.attempts > 0 {
            self.bounded(self.config().deadlines.stop, self.host().remove_container(bot.id)).await?;
        }
        result
    }

    /// Makes the tenant's network, with other addresses if somebody else on the engine has those it was to have.
    async fn ensure_network(&self, tenant: TenantId) -> Result<(), FleetError> {
        let mut taken = None;
        for _ in 0..MAX_SUBNETS {
            let subnet = self.subnet_of(tenant, taken).await?;
            let made = self.bounded(self.config().deadlines.call, self.host().ensure_network(tenant, subnet)).await;
            match made {
                Err(HostError::SubnetTaken(reason)) => {
                    tracing::warn!(tenant.id = %tenant, "{subnet} is taken on the engine, another follows: {reason}");
                    taken = Some(subnet);
                }
                other => return Ok(other?),
            }
        }
        // The next attempt goes on after the last of these.
        Err(HostError::SubnetTaken(format!("{MAX_SUBNETS} in a row")).into())
    }

    /// The addresses of the tenant's network, chosen now if it has none or has those that are `taken` elsewhere.
    async fn subnet_of(&self, tenant: TenantId, taken: Option<Subnet>) -> Result<Subnet, FleetError> {
        let (range, now) = (self.config().networks, self.clock().now());
        let found = self.db().transaction(async |conn| {
            let mut networks = NetworkRepository::new(conn);
            networks.lock().await?;
            let current = networks.find(range, tenant).await?;
            let number = match current {
                Some(number) if Some(range.nth(number)) != taken => return Ok(Some(range.nth(number))),
                Some(number) => number + 1,
                None => range.start(tenant),
            };
            let free = networks.find_free(range, number % range.count()).await?;
            if let Some(subnet) = free {
                networks.save(tenant, subnet, now).await?;
            }
            Ok::<_, DbError>(free)
        });
        found.await?.ok_or_else(|| HostError::SubnetTaken("every network of the range has a tenant".to_owned()).into())
    }

    /// Removes the tenant's network if no container is on it, and gives its addresses back with the tenant's last bot.
    pub(super) async fn remove_network_if_unused(&self, tenant: TenantId) -> Result<(), FleetError> {
        let call = self.config().deadlines.call;
        if self.bounded(call, self.host().remove_network_if_unused(tenant)).await? {
            let mut conn = self.db().connection().await?;
            NetworkRepository::new(&mut conn).remove_if_unneeded(tenant).await?;
        }
        Ok(())
    }

    /// A key for a container that has none yet. Those of containers before are good for nothing any more; those of
    /// earlier attempts with this one are, because an upload that took too long may still arrive, after this one.
    async fn issue_key(&self, bot: &Bot) -> Result<SecretString, FleetError> {
        let now = self.clock().now();
        let label = format!("bot {}", bot.name);
        self.db()
            .transaction(async |conn| {
                if bot.keyed_container.is_some() {
                    Auth::revoke_bot_keys_in(conn, now, bot.id).await?;
                }
                let issued = Auth::issue_key_in(conn, now, Some(bot.tenant_id), Scope::Inference, &label, Some(bot.id));
                Ok::<_, FleetError>(issued.await?.1)
            })
            .await
    }

    async fn restarted(&self, done: &Bot) -> Result<(), FleetError> {
        let generation = done.generation;
        self.record(done.id, move |bot| {
            // A restart asked for since then is still to be done.
            if bot.generation == generation {
                bot.restart_wanted = false;
            }
        })
        .await
    }

    /// Records what is true whatever is wanted now.
    async fn record(&self, id: BotId, edit: impl FnOnce(&mut Bot) + Send) -> Result<(), FleetError> {
        self.db()
            .transaction(async |conn| {
                let mut bots = BotRepository::new(conn);
                if let Some(mut bot) = bots.find_for_update(id).await? {
                    edit(&mut bot);
                    bots.save_progress(&bot).await?;
                }
                Ok::<_, FleetError>(())
            })
            .await
    }

    /// Records progress, unless something else is wanted now or somebody else has the bot.
    async fn note(
        &self,
        read: &Bot,
        owner: Uuid,
        edit: impl FnOnce(&mut Bot) + Send,
    ) -> Result<Result<(), Interrupted>, FleetError> {
        self.db()
            .transaction(async |conn| {
                let mut bots = BotRepository::new(conn);
                let Some(mut bot) = bots.find_for_update(read.id).await? else {
                    return Ok(Err(Interrupted::Lost));
                };
                if !bots.is_leased_by(read.id, owner).await? {
                    return Ok(Err(Interrupted::Lost));
                }
                if bot.generation != read.generation {
                    return Ok(Err(Interrupted::Superseded));
                }
                let before = bot.clone();
                edit(&mut bot);
                if bot != before {
                    bots.save_progress(&bot).await?;
                    if bot.fallback != before.fallback {
                        bots.save_wanted(&bot).await?;
                    }
                }
                Ok::<_, FleetError>(Ok(()))
            })
            .await
    }

    /// Nothing is left to do but to wait: judges what was seen. Nothing if another round is due.
    async fn conclude(
        &self,
        bot: &Bot,
        owner: Uuid,
        aimed: Aim,
        observed: &Observed,
    ) -> Result<Option<Outcome>, FleetError> {
        let now = self.clock().now();
        let (outcome, noted) = match judge(aimed, observed) {
            Verdict::Failing(_) => return self.struggle(bot, owner, aimed, observed).await.map(Some),
            Verdict::Unsettled if self.is_out_of_patience(observed, now) => {
                return self.struggle(bot, owner, aimed, observed).await.map(Some);
            }
            Verdict::Settled(phase) => (
                Outcome::Settled,
                self.note(bot, owner, |bot| {
                    bot.phase = phase;
                    bot.attempts = 0;
                    bot.remade = false;
                    bot.next_attempt_at = None;
                    bot.last_error.take_if(|error| !error.starts_with(ROLLED_BACK));
                    if phase == Phase::Running {
                        bot.fallback = None;
                    }
                })
                .await?,
            ),
            Verdict::Unsettled => (
                Outcome::Waiting,
                self.note(bot, owner, |bot| {
                    bot.phase = Step::Await.phase(aimed);
                    bot.next_attempt_at = Some(later(now, AWAIT_PAUSE));
                })
                .await?,
            ),
        };
        Ok(match noted {
            Ok(()) => Some(outcome),
            Err(Interrupted::Superseded) => None,
            Err(Interrupted::Lost) => Some(Outcome::Busy),
        })
    }

    fn is_out_of_patience(&self, observed: &Observed, now: Timestamp) -> bool {
        let started = observed.container.as_ref().and_then(|container| container.started_at);
        started.is_some_and(|at| now.duration_since(at) > self.config().start_patience)
    }

    /// The bot itself does not do well.
    async fn struggle(&self, bot: &Bot, owner: Uuid, aimed: Aim, observed: &Observed) -> Result<Outcome, FleetError> {
        let reason = match judge(aimed, observed) {
            Verdict::Failing(reason) => reason,
            Verdict::Settled(_) | Verdict::Unsettled => "the bot did not come up in time".to_owned(),
        };
        // An engine that was killed may have made the container by halves, such as with an empty volume that is not its
        // user's. All that a bot keeps is in its volumes: another container is no worse.
        if bot.attempts >= REMADE_AFTER && !bot.remade && bot.fallback.is_none() && aimed == Aim::Run {
            let removed = self.bounded(self.config().deadlines.stop, self.host().remove_container(bot.id)).await;
            if let Err(error) = removed {
                return self.fail(bot, owner, &error).await;
            }
            let generation = bot.generation;
            self.record(bot.id, move |bot| bot.remade |= bot.generation == generation).await?;
        }
        self.give_way(bot, owner, reason, false).await
    }

    /// The engine did not do what was asked.
    async fn fail(&self, bot: &Bot, owner: Uuid, error: &HostError) -> Result<Outcome, FleetError> {
        tracing::warn!(bot.id = %bot.id, bot.attempts = bot.attempts, "bot {} is not as wanted: {error} ({error:?})", bot.id);
        self.give_way(bot, owner, error.to_string(), error.is_transient()).await
    }

    /// Rolls back if there is something to go back to, and otherwise leaves the bot for another attempt.
    async fn give_way(&self, bot: &Bot, owner: Uuid, reason: String, transient: bool) -> Result<Outcome, FleetError> {
        let now = self.clock().now();
        if bot.fallback.is_some() && !transient {
            self.roll_back(bot, owner, &reason, now).await?;
            return Ok(Outcome::Failed);
        }
        let longest = if transient { TRANSIENT_PAUSE } else { PERMANENT_PAUSE };
        let doubled = 1_i64 << bot.attempts.clamp(0, 6);
        let pause = SignedDuration::from_secs(doubled.min(longest));
        let noted = self
            .note(bot, owner, |bot| {
                bot.phase = Phase::Error;
                bot.last_error = Some(reason);
                bot.attempts = bot.attempts.saturating_add(1);
                bot.next_attempt_at = Some(later(now, pause));
            })
            .await?;
        Ok(match noted {
            // Something else is wanted now, and that has made the bot due already.
            Ok(()) | Err(Interrupted::Superseded) => Outcome::Failed,
            Err(Interrupted::Lost) => Outcome::Busy,
        })
    }

    async fn roll_back(&self, read: &Bot, owner: Uuid, reason: &str, now: Timestamp) -> Result<(), FleetError> {
        tracing::warn!(bot.id = %read.id, "the last change of bot {} is rolled back: {reason}", read.id);
        self.db()
            .transaction(async |conn| {
                let Some(mut bot) = BotRepository::new(conn).find_for_update(read.id).await? else { return Ok(()) };
                let current =
                    bot.generation == read.generation && BotRepository::new(conn).is_leased_by(read.id, owner).await?;
                if let (true, Some(before)) = (current, bot.fallback.take()) {
                    bot.spec = before;
                    bot.phase = Phase::Pending;
                    save_change_in(conn, &mut bot, now).await?;
                    bot.last_error = Some(format!("{ROLLED_BACK}{reason}"));
                    BotRepository::new(conn).save_progress(&bot).await?;
                    let resource = Resource::new("bot", bot.id);
                    let origin = Origin::system("fleet");
                    let entry = AuditEntry::success(&origin, Some(bot.tenant_id), "bot.roll_back", resource);
                    audit::record_in(conn, now, &entry).await?;
                }
                Ok::<_, FleetError>(())
            })
            .await
    }

    fn lease_end(&self, now: Timestamp) -> Timestamp {
        later(now, self.config().lease)
    }
}

/// Why the steps of a plan were not done to the end.
enum Stopped {
    Interrupted(Interrupted),
    Host(HostError),
}

enum Failure {
    Host(HostError),
    Fleet(FleetError),
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        Self::Host(error)
    }
}

impl From<FleetError> for Failure {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::Host(error) => Self::Host(error),
            other => Self::Fleet(other),
        }
    }
}

impl From<DbError> for Failure {
    fn from(error: DbError) -> Self {
        Self::Fleet(error.into())
    }
}

fn later(at: Timestamp, pause: SignedDuration) -> Timestamp {
    at.checked_add(pause).unwrap_or(Timestamp::MAX)
}

fn seen(observed: &Observed) -> Seen {
    let container = observed.container.as_ref();
    Seen {
        container_id: container.map(|container| container.id.clone()),
        container_state: container.map(|container| container.state),
        health: container.and_then(|container| container.health),
        started_at: container.and_then(|container| container.started_at),
        created_at: container.and_then(|container| container.created_at),
    }
}

/// What a standing means for bots.
fn permission(standing: Standing) -> Permission {
    match standing {
        Standing::Active | Standing::Grace { .. } => Permission::Run,
        Standing::Suspended { delete_after, .. } => Permission::Hold { destroy_after: delete_after },
        Standing::Banned { delete_after } => Permission::Hold { destroy_after: Some(delete_after) },
        Standing::Destroying => Permission::Hold { destroy_after: Some(Timestamp::UNIX_EPOCH) },
    }
}

fn needs_standing_change(bot: &Bot, permission: Permission, now: Timestamp) -> bool {
    if bot.desired == DesiredState::Destroyed {
        return false;
    }
    match permission {
        Permission::Run => bot.suspended_at.is_some(),
        Permission::Hold { destroy_after } => {
            bot.suspended_at.is_none()
                || bot.destroy_after != destroy_after
                || destroy_after.is_some_and(|at| at <= now)
        }
    }
}

/// Records what the account allows, and answers what that is called.
fn apply_permission(bot: &mut Bot, permission: Permission, now: Timestamp) -> &'static str {
    match permission {
        Permission::Run => {
            (bot.suspended_at, bot.destroy_after) = (None, None);
            if bot.desired == DesiredState::Running {
                bot.phase = Phase::Pending;
                // The suspension ended its process, not the bot: it starts again whatever its restart policy.
                bot.restart_wanted = true;
            }
            "bot.resume"
        }
        Permission::Hold { destroy_after: Some(at) } if at <= now => {
            bot.suspended_at = bot.suspended_at.or(Some(now));
            bot.destroy_after = Some(at);
            bot.desired = DesiredState::Destroyed;
            bot.phase = Phase::Destroying;
            "bot.expire"
        }
        Permission::Hold { destroy_after } => {
            bot.suspended_at = bot.suspended_at.or(Some(now));
            bot.destroy_after = destroy_after;
            "bot.suspend"
        }
    }
}
