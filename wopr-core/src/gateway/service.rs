//! The handle: calls, and the work that goes on beside them.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::call::{self, Answer, InFlight, SetAside};
use super::callers::{Caller, Callers};
use super::catalogue::{Candidate, Catalogue, Model, Served};
use super::credit::Credit;
use super::error::GatewayError;
use super::journal::Journal;
use super::limits::{Class, MonthSpend, RateLimits, SpendingLimit, TooMany, Windows};
use super::metrics::{CallEnd, Metrics};
use super::model::Capability;
use super::ports::{ModelProvider, OwnBackends, ProviderCall, ProviderError};
use super::price::{Explanation, Price, PriceBook};
use super::providers::{FailureKind, ProviderHealth, Providers};
use super::question::{Facts, MostOutput, Question};
use super::record::{CallRecord, Line, Outcome, UsageSource};
use super::repository::{self, GatewayRepository, News};
use super::settle::{Doubt, Settler};
use super::spending::{Spending, month_of};
use super::tenant_keys::{KeyedParts, KeyedProvider};
use super::to_its_end::ToItsEnd;
use crate::audit::{self, AuditEntry, Origin, Resource};
use crate::auth::Auth;
use crate::billing::Billing;
use crate::clock::SharedClock;
use crate::db::{Db, DbError};
use crate::ids::{BotId, CallId, TenantId};
use crate::money::Money;

/// No more providers are asked for one call.
const ATTEMPTS: usize = 3;
/// Calls in progress on one service of one of our machines.
const OWN_SLOTS: usize = 4;
/// A call waits so long for one of our machines before somebody else is asked.
const OWN_WAIT: Duration = Duration::from_secs(5);
/// How often offers, prices and machines are read again.
const REFRESH: Duration = Duration::from_secs(2);
/// How often leases are renewed while they are in use.
const RENEW: Duration = Duration::from_mins(1);
/// Leases that could not be renewed for so long may be taken for lost ([`Billing::LEASE_LIFETIME`]).
const LEASES_DOUBTED: Duration = Duration::from_mins(5);
/// How often the beat goes.
const BEAT: Duration = Duration::from_secs(1);
/// So many calls at once are settled less often: one that is settled costs less, the more there are with it.
const BUSY: usize = 16;
/// Rows of calls are kept so long.
const KEPT: SignedDuration = SignedDuration::from_hours(90 * 24);

/// What an operator may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Added to the cost of what has no sell price, in hundredths of a per cent.
    pub margin_bps: u32,
    /// How many calls are let in.
    pub rates: RateLimits,
    /// The most tokens of an answer that the client set no bound for; a model with a smaller bound has its own.
    pub default_max_output: u32,
    /// Calls are let in for so long after the database was last heard of.
    pub outage: Duration,
}

impl Default for GatewayConfig {
    /// 30 % margin, the default rates, 4096 tokens, five seconds.
    fn default() -> Self {
        Self {
            margin_bps: 3_000,
            rates: RateLimits::default(),
            default_max_output: 4_096,
            outage: Duration::from_secs(5),
        }
    }
}

/// Calls to models. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) clock: SharedClock,
    pub(super) journal: Journal,
    pub(super) spending: Spending,
    pub(super) db: Db,
    pub(super) billing: Billing,
    callers: Callers,
    pub(super) credit: Credit,
    config: GatewayConfig,
    hosted: Vec<Arc<dyn ModelProvider>>,
    own: Option<Arc<dyn OwnBackends>>,
    slots: RwLock<HashMap<String, Arc<Semaphore>>>,
    catalogue: RwLock<Arc<Catalogue>>,
    pub(super) stale: Notify,
    rates: Windows<(TenantId, Class)>,
    bursts: Windows<uuid::Uuid>,
    pub(super) metrics: Metrics,
    pub(super) providers: Providers,
    pub(super) keyed: Option<KeyedParts>,
    /// Whether what a process before this one spent is settled.
    ready: AtomicBool,
    /// Whether it has begun to hear other processes, who may need what is leased here.
    hears: AtomicBool,
    /// Whether what is offered has been read.
    offers: AtomicBool,
    began: Instant,
    /// Milliseconds after `began` when the database was last heard of.
    heard_at: AtomicU64,
    doubt: Doubt,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

/// What a gateway is made of.
#[derive(Clone)]
pub struct GatewayParts {
    /// Storage.
    pub db: Db,
    /// The time.
    pub clock: SharedClock,
    /// Whose key it is.
    pub auth: Auth,
    /// Who pays.
    pub billing: Billing,
    /// Where charges are written first.
    pub journal: Journal,
    /// Providers by their names.
    pub hosted: Vec<Arc<dyn ModelProvider>>,
    /// Our own machines.
    pub own: Option<Arc<dyn OwnBackends>>,
    /// Tenants' own keys; without it they can keep none.
    pub keyed: Option<KeyedParts>,
    /// What the operator chose.
    pub config: GatewayConfig,
}

impl Gateway {
    /// A gateway that lets nobody in until [`Gateway::run`] has heard of the database.
    pub fn new(parts: GatewayParts) -> Self {
        let GatewayParts { db, clock, auth, billing, journal, hosted, own, keyed, config } = parts;
        let keyed_lanes = keyed.iter().flat_map(|_| KeyedProvider::ALL).map(|provider| -> &str { provider.as_str() });
        let lanes = hosted.iter().map(|provider| provider.name()).chain(keyed_lanes);
        let metrics = Metrics::new(lanes);
        let inner = Inner {
            callers: Callers::new(auth, billing.clone(), db.clone(), keyed.clone()),
            credit: Credit::new(billing.clone(), db.clone(), journal.holder()),
            spending: Spending::new(db.clone()),
            ready: AtomicBool::new(false),
            hears: AtomicBool::new(false),
            offers: AtomicBool::new(false),
            rates: Windows::new(Duration::from_mins(1)),
            bursts: Windows::new(config.rates.bot_window),
            metrics,
            providers: Providers::default(),
            slots: RwLock::default(),
            catalogue: RwLock::default(),
            stale: Notify::new(),
            began: Instant::now(),
            heard_at: AtomicU64::new(0),
            doubt: Doubt::default(),
            db,
            clock,
            billing,
            journal,
            hosted,
            own,
            keyed,
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Whose key it is.
    ///
    /// # Errors
    /// [`GatewayError::InvalidKey`], [`GatewayError::AccountSuspended`], [`GatewayError::AccountBanned`],
    /// [`GatewayError::Unaccountable`], [`GatewayError::Storage`].
    pub async fn authenticate(&self, key: &str) -> Result<Arc<Caller>, GatewayError> {
        let found = async {
            // Nobody waits for a database that is known to be away.
            self.inner.require_heard()?;
            self.inner.in_time(self.inner.callers.get(key)).await
        };
        found.await.inspect_err(|error| self.inner.metrics.refused(None, error))
    }

    /// Counts a call that is refused before anything of it is known, and hands the refusal back.
    pub fn refuse(&self, error: GatewayError) -> GatewayError {
        self.inner.metrics.refused(None, &error);
        error
    }

    /// Answers a question, and charges for it.
    ///
    /// # Errors
    /// [`GatewayError`]; nobody was charged then, but for an answer that broke off in the middle.
    pub async fn call(&self, caller: &Caller, question: Question) -> Result<Answer, GatewayError> {
        let facts = self.let_in(caller, &question).await?;
        self.make(caller, question, facts).await
    }

    /// What is checked of a call whether or not it is made: nobody may ask more often than is allowed.
    pub(super) async fn let_in(&self, caller: &Caller, question: &Question) -> Result<Facts, GatewayError> {
        let inner = &self.inner;
        let read = async {
            inner.require_accountable()?;
            inner.require_seldom(caller, question.capability)?;
            Facts::read(question).await
        };
        read.await.inspect_err(|error| inner.metrics.refused(Some(question.capability), error))
    }

    /// Makes a call that was let in, and charges for it.
    pub(super) async fn make(&self, caller: &Caller, question: Question, facts: Facts) -> Result<Answer, GatewayError> {
        let capability = question.capability;
        let admitted = self.inner.in_time(self.admit(caller, question, facts)).await;
        let (call, candidates) = admitted.inspect_err(|error| self.inner.metrics.refused(Some(capability), error))?;
        if call.facts().stream() {
            let (call, content_type, body) = self.answered(call, candidates).await?;
            let call_id = call.call_id();
            let body = call::Body::Events(call::events(call, body));
            return Ok(Answer { call_id, content_type, body, replayed: false });
        }
        // The caller may leave, the question is asked and the answer is read to its end: whoever serves it wants to be paid.
        let gateway = self.clone();
        let asked = async move {
            let (call, content_type, body) = gateway.answered(call, candidates).await?;
            call::whole(call, content_type, body).await
        };
        ToItsEnd::new(asked).await
    }

    /// The beginning of an answer; a call that nobody answers has ended.
    async fn answered(
        &self,
        mut call: InFlight,
        candidates: Vec<Candidate>,
    ) -> Result<(InFlight, String, super::ports::AnswerBody), GatewayError> {
        match self.ask(&mut call, candidates).await {
            Ok((content_type, body)) => Ok((call, content_type, body)),
            Err(error) => {
                call.blame(CallEnd::of_error(&error));
                call.end(Outcome::ProviderFailed)?;
                Err(error)
            }
        }
    }

    /// Everything that is checked before anybody is asked; what the call may cost is set aside, and it is written down that
    /// it began.
    async fn admit(
        &self,
        caller: &Caller,
        question: Question,
        facts: Facts,
    ) -> Result<(InFlight, Vec<Candidate>), GatewayError> {
        let inner = &self.inner;
        let (capability, tenant) = (question.capability, caller.tenant_id);
        let most = facts.most(u64::from(inner.config.default_max_output));
        let own_keys = caller.own_keys.as_ref().filter(|keys| keys.serve(capability));
        let candidates = if let Some(keys) = own_keys {
            vec![keys.candidate(inner, capability, facts.model())?]
        } else {
            let mut candidates = inner.catalogue().candidates(capability, facts.model(), &most);
            candidates.truncate(ATTEMPTS);
            candidates
        };
        let Some(first) = candidates.first() else {
            return Err(GatewayError::UnknownModel { model: facts.model().to_owned(), capability });
        };
        // Whoever of them answers, it is covered.
        let mut estimate = Money::ZERO;
        for candidate in &candidates {
            estimate = estimate.max(candidate.quote.most(&facts.most(inner.most_output(candidate)))?);
        }
        let at = inner.clock.now();
        // What the tenant pays elsewhere is neither limited nor set aside here.
        let set_aside = if own_keys.is_some() {
            None
        } else {
            let pending = inner.spending.admit(at, tenant, capability, estimate).await?;
            Some(SetAside { pending, credit: inner.credit.reserve(tenant, estimate).await? })
        };
        let mut record = CallRecord {
            id: CallId::new(at).as_uuid(),
            tenant_id: tenant.as_uuid(),
            bot_id: caller.bot_id.map(BotId::as_uuid),
            key_id: caller.key_id.as_uuid(),
            capability: capability.as_str().to_owned(),
            model_asked: facts.model().to_owned(),
            model_served: None,
            provider: None,
            machine: None,
            byok: own_keys.is_some(),
            // If this process ends before it hears of an answer, one was asked.
            attempts: 1,
            streamed: facts.stream(),
            outcome: Outcome::Interrupted,
            input_units: 0,
            cached_units: 0,
            output_units: 0,
            usage_source: UsageSource::None,
            explanation: Explanation::default(),
            cost_nanos: Money::ZERO,
            charge_nanos: Money::ZERO,
            reserved_nanos: estimate,
            started_at: at,
            first_byte_ms: None,
            ended_at: at,
        };
        inner.journal.append(&Line::Begun(&record))?;
        record.attempts = 0;
        let quote = Arc::clone(&first.quote);
        Ok((InFlight::new(Arc::clone(inner), question, facts, record, set_aside, quote), candidates))
    }

    /// Asks one after the other until somebody answers. Nobody is asked twice, and nobody after a first byte.
    async fn ask(
        &self,
        call: &mut InFlight,
        candidates: Vec<Candidate>,
    ) -> Result<(String, super::ports::AnswerBody), GatewayError> {
        let inner = &self.inner;
        let mut failure = GatewayError::NoProvider { retry_after: None };
        for candidate in candidates {
            let Some(dialect) = candidate.dialect(call.question().dialect) else { continue };
            if !candidate.state.allows(Instant::now()) {
                continue;
            }
            let Ok(slot) = inner.slot(&candidate).await else { continue };
            let model = &candidate.model.provider_model;
            let most_output = MostOutput { tokens: inner.most_output(&candidate), only_where_needed: call.is_byok() };
            let body = call.facts().body_for(call.question(), dialect, model, most_output)?;
            let asked = ProviderCall {
                capability: call.question().capability,
                dialect,
                model: model.clone(),
                stream: call.facts().stream(),
                body,
            };
            call.asked();
            match candidate.provider.call(asked).await {
                Ok(answer) => {
                    candidate.state.succeeded(inner.clock.now());
                    call.answered_by(&candidate, dialect, answer.usage, slot);
                    return Ok((answer.content_type, answer.body));
                }
                Err(ProviderError::Refused { status, message }) => {
                    candidate.state.succeeded(inner.clock.now());
                    return Err(GatewayError::ProviderRefused { status, message });
                }
                Err(error) => {
                    if let Some(refused) = call.own_key_refused(&candidate, &error) {
                        return Err(refused.into());
                    }
                    if let Some(kind) = FailureKind::of(&error) {
                        let opened = candidate.state.failed(kind, inner.clock.now(), Instant::now());
                        inner.metrics.failed(candidate.lane, kind, opened);
                    }
                    failure = failure_of(candidate.provider.name(), &error);
                }
            }
        }
        Err(failure)
    }

    /// Everything that can be asked for, and by whom it is served first.
    pub fn models(&self) -> Vec<Arc<Model>> {
        self.inner.catalogue().list()
    }

    /// Whether calls are let in at present.
    pub fn accepts(&self) -> bool {
        self.inner.require_accountable().is_ok()
    }

    /// How everybody is doing who can be asked, as this process sees it.
    pub fn providers(&self) -> Vec<ProviderHealth> {
        self.inner.providers.health(Instant::now())
    }

    /// How far the settlement is behind the journal, in bytes.
    pub fn unsettled_bytes(&self) -> u64 {
        self.inner.journal.position().saturating_sub(self.inner.journal.cursor())
    }

    /// The prices that hold now.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn prices(&self) -> Result<Vec<Price>, GatewayError> {
        let mut conn = self.inner.db.connection().await?;
        Ok(GatewayRepository::new(&mut conn).list_prices(self.inner.clock.now()).await?)
    }

    /// What a tenant allows itself.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn spending_limits(&self, tenant: TenantId) -> Result<Vec<SpendingLimit>, GatewayError> {
        let mut conn = self.inner.db.connection().await?;
        let limits = GatewayRepository::new(&mut conn).list_limits(tenant).await?;
        Ok(limits.into_iter().filter(|limit| limit.alert_cents.is_some() || limit.hard_cap_cents.is_some()).collect())
    }

    /// Replaces what a tenant allows itself; every process knows within seconds.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn set_spending_limits(
        &self,
        origin: &Origin,
        tenant: TenantId,
        limits: &[SpendingLimit],
    ) -> Result<(), GatewayError> {
        let at = self.inner.clock.now();
        self.inner
            .db
            .transaction(async |conn| {
                GatewayRepository::new(conn).save_limits(at, tenant, limits).await?;
                let entry =
                    AuditEntry::success(origin, Some(tenant), "gateway.limits", Resource::new("tenant", tenant));
                Ok::<_, GatewayError>(audit::record_in(conn, at, &entry).await?)
            })
            .await?;
        self.inner.spending.forget(tenant).await;
        Ok(())
    }

    /// What a tenant has spent in this calendar month (UTC), as far as it is settled.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn month_spend(&self, tenant: TenantId) -> Result<MonthSpend, GatewayError> {
        let mut conn = self.inner.db.connection().await?;
        let month = month_of(self.inner.clock.now());
        Ok(GatewayRepository::new(&mut conn).spend_since(tenant, month).await?)
    }

    /// Makes room for the calls of the next days, and forgets those of long ago. For a periodic task.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn maintain(&self) -> Result<(), GatewayError> {
        let now = self.inner.clock.now();
        let day = |at: Timestamp| at.to_zoned(jiff::tz::TimeZone::UTC).date();
        let mut conn = self.inner.db.connection().await?;
        let mut repository = GatewayRepository::new(&mut conn);
        // Of this day some calls may be in the rest already: its part is made the day before.
        for ahead in 1..=3 {
            repository.ensure_day(day(now + SignedDuration::from_hours(24 * ahead))).await?;
        }
        repository.drop_days_before(day(now - KEPT)).await?;
        Ok(())
    }

    /// Everything that goes on beside the calls, in each process, until `stop` is there. Then all that is written down is
    /// settled, and all that is leased is given back.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let work = async { tokio::join!(self.settle_always(), self.beat(), self.listen()) };
        tokio::select! {
            () = stop => {}
            _ = work => {}
        }
        if let Err(error) = self.close().await {
            tracing::error!("the gateway could not be closed well; the next start does what is left: {error}");
        }
    }

    /// Settles all that is written down.
    ///
    /// # Errors
    /// [`GatewayError::Storage`], [`GatewayError::Unaccountable`].
    pub async fn settle(&self) -> Result<(), GatewayError> {
        self.settle_all().await.map(drop)
    }

    /// As [`Gateway::settle`]; answers how many calls it settled.
    async fn settle_all(&self) -> Result<usize, GatewayError> {
        let (mut settled, mut began) = (0, Instant::now());
        loop {
            match self.settle_group().await? {
                0 => {
                    let journal = &self.inner.journal;
                    self.inner.metrics.settled(began, journal.cursor() >= journal.ended_position());
                    return Ok(settled);
                }
                calls => (settled, began) = (settled + calls, Instant::now()),
            }
        }
    }

    async fn close(&self) -> Result<(), GatewayError> {
        self.settle().await?;
        Ok(self.inner.credit.give_back_all().await?)
    }

    async fn settle_group(&self) -> Result<usize, GatewayError> {
        let inner = &self.inner;
        let settler = Settler {
            db: inner.db.clone(),
            clock: inner.clock.clone(),
            billing: inner.billing.clone(),
            journal: inner.journal.clone(),
            doubt: Arc::clone(&inner.doubt),
        };
        let calls = settler.settle_group().await?;
        inner.heard();
        for call in &calls {
            if let Some(capability) = Capability::from_word(&call.capability) {
                let tenant = TenantId::from_uuid(call.tenant_id);
                if inner.ready.load(Ordering::Acquire) {
                    inner.spending.settled(tenant, capability, call.charge_nanos).await;
                } else {
                    // A process before this one let it in: here, nothing is pending for it.
                    inner.spending.forget(tenant).await;
                }
            }
        }
        Ok(calls.len())
    }

    async fn settle_always(&self) {
        const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
        const BUSY_PAUSE: Duration = Duration::from_millis(200);
        const LONGEST_PAUSE: Duration = Duration::from_secs(1);
        let mut written = self.inner.journal.watch();
        // What a process before this one leased and did not spend is given back once all it spent is settled.
        let mut released = false;
        let mut pause = SHORTEST_PAUSE;
        loop {
            written.mark_unchanged();
            let settled = async {
                let calls = self.settle_all().await?;
                if !released {
                    self.inner.billing.release_leases_of(self.inner.journal.holder()).await?;
                    self.release_lost().await?;
                    released = true;
                    self.inner.ready();
                }
                Ok::<_, GatewayError>(calls)
            };
            pause = match settled.await {
                Ok(calls) => {
                    // The sender lives as long as the journal.
                    if written.changed().await.is_err() {
                        return;
                    }
                    if calls < BUSY { SHORTEST_PAUSE } else { BUSY_PAUSE }
                }
                Err(error) => {
                    tracing::warn!("charges are not settled yet: {error}");
                    (pause * 2).min(LONGEST_PAUSE)
                }
            };
            // Together is cheaper than one by one.
            tokio::time::sleep(pause).await;
        }
    }

    async fn beat(&self) {
        let inner = &self.inner;
        let (mut refreshed, mut renewed): (Option<Instant>, Instant) = (None, Instant::now());
        loop {
            let stale = inner.stale.notified();
            let worked = async {
                if refreshed.is_none_or(|at| at.elapsed() >= REFRESH) {
                    inner.refresh().await?;
                    refreshed = Some(Instant::now());
                }
                inner.credit.give_back_idle().await?;
                // After so long others may have given back what is leased here: nothing is spent from it any more.
                if renewed.elapsed() >= LEASES_DOUBTED {
                    inner.credit.give_back_all().await?;
                }
                if renewed.elapsed() >= RENEW {
                    inner.billing.renew_leases_of(inner.journal.holder()).await?;
                    renewed = Instant::now();
                    inner.callers.forget_old(renewed);
                    inner.rates.forget_old(renewed);
                    inner.bursts.forget_old(renewed);
                }
                Ok::<_, GatewayError>(())
            };
            match worked.await {
                Ok(()) => inner.heard(),
                Err(error) => tracing::warn!("the gateway does not hear of the database: {error}"),
            }
            tokio::select! {
                () = tokio::time::sleep(BEAT) => {}
                () = stale => refreshed = None,
            }
        }
    }

    /// Hears what other processes change.
    async fn listen(&self) {
        loop {
            if let Err(error) = self.listen_once().await {
                tracing::warn!("the gateway cannot hear what other processes change: {error}");
            }
            tokio::time::sleep(BEAT).await;
        }
    }

    async fn listen_once(&self) -> Result<(), GatewayError> {
        let inner = &self.inner;
        let mut conn = inner.db.connect_alone().await?;
        let schema = inner.db.config().schema.clone();
        let mut news = std::pin::pin!(repository::listen(&mut conn, &schema).await?);
        // What was said before could not be heard: that callers have changed, and that others need what is free here.
        inner.callers.forget_all();
        inner.credit.give_back_unasked().await?;
        inner.hears.store(true, Ordering::Release);
        while let Some(news) = news.next().await {
            match news {
                News::Key(tenant) | News::Standing(tenant) => inner.callers.forget(tenant),
                News::Limits(tenant) => inner.spending.forget(tenant).await,
                News::Recall(tenant, by) => inner.credit.give_back(tenant, by).await?,
                News::GivenBack(tenant) => inner.credit.given_back(tenant),
            }
        }
        Err(DbError::Unavailable("the connection ended".to_owned()).into())
    }
}

impl Inner {
    pub(super) fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(&self.catalogue.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn most_output(&self, candidate: &Candidate) -> u64 {
        let default = self.config.default_max_output;
        u64::from(candidate.model.max_output_tokens.map_or(default, |most| most.min(default)))
    }

    fn heard(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_at.fetch_max(now, Ordering::Release);
    }

    /// How long ago the database was heard of.
    pub(super) fn heard_ago(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.heard_at.load(Ordering::Acquire)))
    }

    /// From now on calls are let in.
    fn ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Neither the bot nor its tenant calls too often.
    fn require_seldom(&self, caller: &Caller, capability: Capability) -> Result<(), GatewayError> {
        let (now, rates) = (Instant::now(), &self.config.rates);
        let who = caller.bot_id.map_or_else(|| caller.key_id.as_uuid(), BotId::as_uuid);
        self.bursts
            .trip(who, rates.bot_burst, rates.bot_pause, now)
            .map_err(|TooMany { retry_after }| GatewayError::CircuitOpen { retry_after })?;
        let (class, limit) = rates.per_minute(capability);
        self.rates
            .take((caller.tenant_id, class), limit, now)
            .map_err(|TooMany { retry_after }| GatewayError::RateLimited { limit, retry_after })
    }

    /// What cannot be written down is not let in.
    fn require_accountable(&self) -> Result<(), GatewayError> {
        let away = |what: &str| GatewayError::Unaccountable(what.into());
        if !self.ready.load(Ordering::Acquire) {
            return Err(away("what a process before this one spent is not settled yet"));
        }
        if !self.hears.load(Ordering::Acquire) {
            return Err(away("what other processes need cannot be heard yet"));
        }
        if !self.journal.is_writable() {
            return Err(away("the journal's disk has failed"));
        }
        // Otherwise no model would exist.
        if !self.offers.load(Ordering::Acquire) {
            return Err(away("what is offered is not known yet"));
        }
        self.require_heard()
    }

    /// Whoever waits for a database that has just gone away waits no longer than it takes to be sure of that.
    pub(super) async fn in_time<T>(
        &self,
        asked: impl Future<Output = Result<T, GatewayError>>,
    ) -> Result<T, GatewayError> {
        tokio::time::timeout(self.config.outage, asked)
            .await
            .unwrap_or_else(|_| Err(GatewayError::Unaccountable("the database does not answer in time".into())))
    }

    /// The database was there not long ago.
    fn require_heard(&self) -> Result<(), GatewayError> {
        if self.heard_ago() > self.config.outage {
            return Err(GatewayError::Unaccountable("the database has not been heard of for too long".into()));
        }
        Ok(())
    }

    /// A place at one of our machines; anybody else has room.
    async fn slot(&self, candidate: &Candidate) -> Result<Option<OwnedSemaphorePermit>, GatewayError> {
        if !candidate.own {
            return Ok(None);
        }
        let name = candidate.provider.name();
        let known = self.slots.read().unwrap_or_else(PoisonError::into_inner).get(name).map(Arc::clone);
        let slots = known.unwrap_or_else(|| {
            let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(name.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(OWN_SLOTS))))
        });
        match tokio::time::timeout(OWN_WAIT, slots.acquire_owned()).await {
            Ok(Ok(slot)) => Ok(Some(slot)),
            _ => Err(GatewayError::NoProvider { retry_after: Some(OWN_WAIT) }),
        }
    }

    async fn refresh(&self) -> Result<(), GatewayError> {
        let (models, prices) = {
            let mut conn = self.db.connection().await?;
            let mut repository = GatewayRepository::new(&mut conn);
            (repository.list_models().await?, repository.list_prices(self.clock.now()).await?)
        };
        let mut providers: HashMap<String, Vec<Served>> = HashMap::new();
        let mut names = HashSet::new();
        let mut serve = |offered_as: &str, provider: &Arc<dyn ModelProvider>, own| {
            names.insert(provider.name().to_owned());
            providers.entry(offered_as.to_owned()).or_default().push(Served {
                state: self.providers.state(provider.name(), offered_as, own),
                lane: self.metrics.lane(offered_as),
                provider: Arc::clone(provider),
            });
        };
        for provider in &self.hosted {
            serve(provider.name(), provider, false);
        }
        if let Some(own) = &self.own {
            for (offered_as, provider) in own.list().await? {
                serve(&offered_as, &provider, true);
            }
        }
        self.providers.keep(&names);
        let book = PriceBook::new(prices);
        let catalogue = Catalogue::new(models, &providers, &book, self.config.margin_bps);
        *self.catalogue.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalogue);
        self.offers.store(true, Ordering::Release);
        Ok(())
    }
}

fn failure_of(provider: &str, error: &ProviderError) -> GatewayError {
    if let ProviderError::Account(_) = error {
        tracing::error!(provider, "{error}: calls cannot be served by {provider} until that is put right");
    } else {
        tracing::warn!(provider, "{provider} did not answer: {error}");
    }
    match error {
        ProviderError::Busy { retry_after } => GatewayError::NoProvider { retry_after: *retry_after },
        ProviderError::TimedOut => GatewayError::ProviderTimedOut,
        ProviderError::Unreachable(_)
        | ProviderError::Failed(_)
        | ProviderError::Account(_)
        | ProviderError::Refused { .. }
        | ProviderError::Broken(_) => GatewayError::ProviderFailed,
    }
}
