//! What is counted while calls go by. A call touches atomics alone, at places that are known before it begins.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::GatewayError;
use super::model::Capability;
use super::providers::FailureKind;
use super::record::{CallRecord, Outcome};
use super::service::Gateway;
use crate::money::Money;
use crate::protocol::gpu::GpuService;

/// Upper bounds of the buckets of times to the first byte, in milliseconds; what is longer is in none of them.
pub const FIRST_BYTE_BOUNDS_MS: [u64; 11] = [25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000];
/// Minutes that are looked back over at most.
const MINUTES: usize = 60;
/// Nobody answered.
const NOBODY: &str = "none";
/// Somebody whose name was not known at the start.
const OTHER: &str = "other";

/// How a call ended, as far as it says who is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEnd {
    /// The whole answer was there.
    Ok,
    /// The caller left before its end.
    ClientLeft,
    /// The provider refused the request.
    ClientError,
    /// No provider answered, or the answer broke off.
    UpstreamError,
    /// The provider took too long.
    Timeout,
}

impl CallEnd {
    const ALL: [Self; 5] = [Self::Ok, Self::ClientLeft, Self::ClientError, Self::UpstreamError, Self::Timeout];

    /// The public word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ClientLeft => "client_left",
            Self::ClientError => "client_error",
            Self::UpstreamError => "upstream_error",
            Self::Timeout => "timeout",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Ok => 0,
            Self::ClientLeft => 1,
            Self::ClientError => 2,
            Self::UpstreamError => 3,
            Self::Timeout => 4,
        }
    }

    const fn is_our_fault(self) -> bool {
        matches!(self, Self::UpstreamError | Self::Timeout)
    }

    /// What a call that was not answered was ended by.
    pub(super) const fn of_error(error: &GatewayError) -> Self {
        match error {
            GatewayError::ProviderTimedOut => Self::Timeout,
            GatewayError::ProviderRefused { .. } | GatewayError::Request(_) | GatewayError::TenantKey(_) => {
                Self::ClientError
            }
            _ => Self::UpstreamError,
        }
    }

    /// `blame` is for calls that no provider answered, or whose answer broke off.
    pub(super) const fn of(outcome: Outcome, blame: Self) -> Self {
        match outcome {
            Outcome::Completed => Self::Ok,
            Outcome::ClientLeft => Self::ClientLeft,
            Outcome::ProviderFailed | Outcome::Interrupted => blame,
        }
    }
}

const REASONS: [&str; 15] = [
    "missing_api_key",
    "invalid_api_key",
    "account_suspended",
    "account_banned",
    "rate_limited",
    "circuit_open",
    "invalid_request",
    "unknown_model",
    "spending_cap",
    "insufficient_credit",
    "unaccountable",
    "storage",
    "internal",
    "idempotency",
    "tenant_key",
];

/// The position of an error in [`REASONS`], and whether it is our fault.
const fn reason(error: &GatewayError) -> (usize, bool) {
    match error {
        GatewayError::MissingKey | GatewayError::MalformedKey => (0, false),
        GatewayError::InvalidKey => (1, false),
        GatewayError::AccountSuspended => (2, false),
        GatewayError::AccountBanned => (3, false),
        GatewayError::RateLimited { .. } => (4, false),
        GatewayError::CircuitOpen { .. } => (5, false),
        GatewayError::Request(_) | GatewayError::PriceNotFound(_) => (6, false),
        GatewayError::UnknownModel { .. } => (7, false),
        GatewayError::SpendingCap(_) => (8, false),
        GatewayError::InsufficientCredit { .. } => (9, false),
        GatewayError::Unaccountable(_) => (10, true),
        GatewayError::Storage(_) => (11, true),
        GatewayError::Idempotency(_) => (13, false),
        GatewayError::TenantKey(_) => (14, false),
        GatewayError::NoProvider { .. }
        | GatewayError::ProviderFailed
        | GatewayError::ProviderTimedOut
        | GatewayError::ProviderRefused { .. }
        | GatewayError::Overflow(_)
        | GatewayError::Vault(_)
        | GatewayError::Billing(_) => (12, true),
    }
}

/// Times to the first byte, each in the first bucket whose bound it keeps.
#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; FIRST_BYTE_BOUNDS_MS.len()],
    count: AtomicU64,
    sum_ms: AtomicU64,
}

impl Histogram {
    fn observe(&self, millis: u64) {
        if let Some(bucket) = FIRST_BYTE_BOUNDS_MS.iter().position(|bound| millis <= *bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_ms.fetch_add(millis, Ordering::Relaxed);
    }
}

/// What is counted of one provider.
#[derive(Debug, Default)]
struct Lane {
    calls: [[AtomicU64; CallEnd::ALL.len()]; Capability::ALL.len()],
    cost_nanos: [AtomicU64; Capability::ALL.len()],
    charge_nanos: [AtomicU64; Capability::ALL.len()],
    read_tokens: AtomicU64,
    written_tokens: AtomicU64,
    failures: [AtomicU64; FailureKind::ALL.len()],
    first_byte: Histogram,
}

/// Calls of one minute.
#[derive(Debug, Default)]
struct Minute {
    /// One more than the minute since the start that this is: 0 is none.
    number: AtomicU64,
    calls: [AtomicU64; Capability::ALL.len()],
    errors: [AtomicU64; Capability::ALL.len()],
}

/// Calls and errors of one stretch of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErrorRate {
    /// Calls that ended, and those that we could not let in.
    pub requests: u64,
    /// Of these, the ones that no provider answered whole, and those that we could not let in.
    pub errors: u64,
}

impl ErrorRate {
    /// Errors of a million requests; nothing of none.
    pub fn per_million(self) -> u64 {
        (self.errors.saturating_mul(1_000_000)).checked_div(self.requests).unwrap_or(0)
    }

    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.errors += other.errors;
    }
}

/// Errors of the minutes that just passed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorWindow {
    /// Of each capability that was called.
    pub by_capability: Vec<(Capability, ErrorRate)>,
    /// Of all together.
    pub all: ErrorRate,
}

/// Counters of one process, from its start on.
#[derive(Debug)]
pub(super) struct Metrics {
    began: Instant,
    lanes: Vec<(String, Lane)>,
    refusals: [AtomicU64; REASONS.len()],
    circuits_opened: AtomicU64,
    in_flight: AtomicI64,
    minutes: Vec<Minute>,
    /// Held by whoever begins a minute.
    turning: Mutex<()>,
    /// Milliseconds after `began` since when something is not settled; 0 when nothing is.
    unsettled_since: AtomicU64,
}

/// Where a provider is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LaneId(usize);

impl LaneId {
    /// Where calls are counted that nobody answered.
    pub(super) const NOBODY: Self = Self(0);
}

impl Metrics {
    /// Counts these providers and our own machines by their services; whoever else comes is counted together.
    pub(super) fn new<'p>(hosted: impl IntoIterator<Item = &'p str>) -> Self {
        let mut names = vec![NOBODY.to_owned(), OTHER.to_owned()];
        names.extend(GpuService::ALL.iter().map(|service| format!("gpu-{service}")));
        for name in hosted {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        Self {
            began: Instant::now(),
            lanes: names.into_iter().map(|name| (name, Lane::default())).collect(),
            refusals: Default::default(),
            circuits_opened: AtomicU64::new(0),
            in_flight: AtomicI64::new(0),
            // One more than is looked back over: the minute that has just begun.
            minutes: (0..=MINUTES).map(|_| Minute::default()).collect(),
            turning: Mutex::default(),
            unsettled_since: AtomicU64::new(0),
        }
    }

    /// Where a provider is counted.
    pub(super) fn lane(&self, provider: &str) -> LaneId {
        LaneId(self.lanes.iter().position(|(name, _)| name == provider).unwrap_or(1))
    }

    fn lane_of(&self, LaneId(index): LaneId) -> &Lane {
        &self.lanes[index.min(self.lanes.len() - 1)].1
    }

    pub(super) fn begun(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// A call that was let in is over.
    pub(super) fn ended(&self, lane: LaneId, capability: Capability, end: CallEnd, call: &CallRecord) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let (lane, kind) = (self.lane_of(lane), capability.index());
        lane.calls[kind][end.index()].fetch_add(1, Ordering::Relaxed);
        let add = |counter: &AtomicU64, value: i64| {
            counter.fetch_add(u64::try_from(value).unwrap_or_default(), Ordering::Relaxed);
        };
        add(&lane.cost_nanos[kind], call.cost_nanos.as_nanos());
        add(&lane.charge_nanos[kind], call.charge_nanos.as_nanos());
        if capability.is_counted_in_tokens() {
            add(&lane.read_tokens, call.input_units);
            add(&lane.written_tokens, call.output_units);
        }
        if let Some(millis) = call.first_byte_ms {
            lane.first_byte.observe(millis.into());
        }
        if end != CallEnd::ClientError {
            self.note(capability, end.is_our_fault(), Instant::now());
        }
    }

    /// A call is over whose end could not be written down.
    pub(super) fn lost(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// A call was not let in.
    pub(super) fn refused(&self, capability: Option<Capability>, error: &GatewayError) {
        let (reason, our_fault) = reason(error);
        self.refusals[reason].fetch_add(1, Ordering::Relaxed);
        if let (Some(capability), true) = (capability, our_fault) {
            self.note(capability, true, Instant::now());
        }
    }

    /// A provider that was asked did not answer.
    pub(super) fn failed(&self, lane: LaneId, kind: FailureKind, opened: bool) {
        let kind = FailureKind::ALL.iter().position(|other| *other == kind).unwrap_or_default();
        self.lane_of(lane).failures[kind].fetch_add(1, Ordering::Relaxed);
        self.circuits_opened.fetch_add(opened.into(), Ordering::Relaxed);
    }

    fn minute_of(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began).as_secs() / 60
    }

    fn note(&self, capability: Capability, error: bool, at: Instant) {
        let number = self.minute_of(at);
        let place = usize::try_from(number % self.minutes.len() as u64).unwrap_or_default();
        let minute = &self.minutes[place];
        if minute.number.load(Ordering::Acquire) <= number {
            let turning = self.turning.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody counts here meanwhile: whoever would waits for the minute to have begun.
            if minute.number.load(Ordering::Acquire) <= number {
                for counter in minute.calls.iter().chain(&minute.errors) {
                    counter.store(0, Ordering::Relaxed);
                }
                minute.number.store(number + 1, Ordering::Release);
            }
            drop(turning);
        }
        minute.calls[capability.index()].fetch_add(1, Ordering::Relaxed);
        minute.errors[capability.index()].fetch_add(error.into(), Ordering::Relaxed);
    }

    /// The last `minutes` whole ones and the one that has begun.
    fn window(&self, minutes: u64, at: Instant) -> ErrorWindow {
        let now = self.minute_of(at);
        let mut rates = [ErrorRate::default(); Capability::ALL.len()];
        for minute in &self.minutes {
            let Some(number) = minute.number.load(Ordering::Acquire).checked_sub(1) else { continue };
            if number <= now && number + minutes >= now {
                for (rate, (calls, errors)) in rates.iter_mut().zip(minute.calls.iter().zip(&minute.errors)) {
                    let (requests, errors) = (calls.load(Ordering::Relaxed), errors.load(Ordering::Relaxed));
                    rate.add(ErrorRate { requests, errors });
                }
            }
        }
        let mut window = ErrorWindow::default();
        for (capability, rate) in Capability::ALL.into_iter().zip(rates).filter(|(_, rate)| rate.requests > 0) {
            window.all.add(rate);
            window.by_capability.push((capability, rate));
        }
        window
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// A charge was written to the journal.
    pub(super) fn unsettled(&self) {
        if self.unsettled_since.load(Ordering::Relaxed) == 0 {
            let now = self.millis();
            // Whoever was first is right.
            let (Ok(_) | Err(_)) = self.unsettled_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// All that had been written at `began` is settled; `all`, if that is all there is.
    pub(super) fn settled(&self, began: Instant, all: bool) {
        let since = u64::try_from(began.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX).max(1);
        self.unsettled_since.store(if all { 0 } else { since }, Ordering::Relaxed);
    }

    fn unsettled_for(&self) -> Duration {
        match self.unsettled_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.millis().saturating_sub(since)),
        }
    }
}

/// Calls of one kind that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallCount {
    /// What was asked for.
    pub capability: Capability,
    /// Who answered: a provider, `gpu-<service>`, `none` or `other`.
    pub provider: String,
    /// How they ended.
    pub end: CallEnd,
    /// How many.
    pub calls: u64,
}

/// What is counted of one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderCounts {
    /// A provider, `gpu-<service>`, `none` or `other`.
    pub provider: String,
    /// Tokens that were read.
    pub read_tokens: u64,
    /// Tokens that were written.
    pub written_tokens: u64,
    /// What its calls cost us and what was charged for them, in nano-dollars.
    pub money: Vec<(Capability, u64, u64)>,
    /// How often it was asked and did not answer.
    pub failures: Vec<(FailureKind, u64)>,
    /// Answers that had begun so soon: as many as there are bounds in [`FIRST_BYTE_BOUNDS_MS`], each with those before.
    pub first_byte: Vec<u64>,
    /// Answers that had begun at all.
    pub first_bytes: u64,
    /// The sum of the times until then, in milliseconds.
    pub first_byte_sum_ms: u64,
}

/// What a process has counted since its start, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayMetrics {
    /// Calls that ended.
    pub calls: Vec<CallCount>,
    /// Everybody who was asked.
    pub providers: Vec<ProviderCounts>,
    /// Calls that were not let in, by the reason; every reason is there.
    pub refusals: Vec<(&'static str, u64)>,
    /// How often a provider's circuit opened.
    pub circuits_opened: u64,
    /// Calls in progress.
    pub in_flight: i64,
    /// Errors of the last five minutes.
    pub last_five_minutes: ErrorWindow,
    /// Errors of the last hour.
    pub last_hour: ErrorWindow,
    /// Bytes of the journal that are not settled.
    pub unsettled_bytes: u64,
    /// How long the oldest charge has been waiting to be settled.
    pub unsettled_for: Duration,
    /// Calls that the database refused and that wait for somebody to look at them.
    pub set_aside: u64,
    /// Credit that this process has leased and that no call has reserved.
    pub leased_free: Money,
    /// When the database was last heard of.
    pub heard_ago: Duration,
    /// Whether calls are let in.
    pub accepting: bool,
}

impl Gateway {
    /// What this process has counted, and how it stands. Reads memory alone.
    pub fn metrics(&self) -> GatewayMetrics {
        let metrics = &self.inner.metrics;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut calls = Vec::new();
        let mut providers = Vec::new();
        for (name, lane) in &metrics.lanes {
            for capability in Capability::ALL {
                for end in CallEnd::ALL {
                    let count = load(&lane.calls[capability.index()][end.index()]);
                    if count > 0 {
                        calls.push(CallCount { capability, provider: name.clone(), end, calls: count });
                    }
                }
            }
            let money = Capability::ALL.into_iter().map(|capability| {
                let kind = capability.index();
                (capability, load(&lane.cost_nanos[kind]), load(&lane.charge_nanos[kind]))
            });
            let mut sum = 0;
            let first_byte = lane.first_byte.buckets.iter().map(|bucket| {
                sum += load(bucket);
                sum
            });
            providers.push(ProviderCounts {
                provider: name.clone(),
                read_tokens: load(&lane.read_tokens),
                written_tokens: load(&lane.written_tokens),
                money: money.filter(|(_, cost, charge)| *cost > 0 || *charge > 0).collect(),
                failures: FailureKind::ALL.into_iter().zip(lane.failures.iter().map(load)).collect(),
                first_byte: first_byte.collect(),
                first_bytes: load(&lane.first_byte.count),
                first_byte_sum_ms: load(&lane.first_byte.sum_ms),
            });
        }
        let now = Instant::now();
        let journal = &self.inner.journal;
        if journal.cursor() >= journal.ended_position() {
            metrics.settled(now, true);
        }
        let unsettled_for = metrics.unsettled_for();
        GatewayMetrics {
            calls,
            providers,
            refusals: REASONS.into_iter().zip(metrics.refusals.iter().map(load)).collect(),
            circuits_opened: load(&metrics.circuits_opened),
            in_flight: metrics.in_flight.load(Ordering::Relaxed),
            last_five_minutes: metrics.window(5, now),
            last_hour: metrics.window(MINUTES as u64, now),
            unsettled_bytes: self.unsettled_bytes(),
            unsettled_for,
            set_aside: self.inner.journal.set_aside_count(),
            leased_free: self.inner.credit.free(),
            heard_ago: self.inner.heard_ago(),
            accepting: self.accepts(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_its_minutes_and_forgets_those_before() {
        let metrics = Metrics::new(["p"]);
        let at = |minutes: u64| metrics.began + Duration::from_secs(minutes * 60 + 1);
        let (chat, tts) = (Capability::ChatCompletions, Capability::Tts);
        metrics.note(chat, true, at(0));
        metrics.note(chat, false, at(3));
        metrics.note(tts, true, at(3));
        let all = metrics.window(5, at(5));
        assert_eq!(all.all, ErrorRate { requests: 3, errors: 2 });
        assert_eq!(all.by_capability[0], (chat, ErrorRate { requests: 2, errors: 1 }));
        assert_eq!(metrics.window(5, at(6)).all, ErrorRate { requests: 2, errors: 1 });
        assert_eq!(metrics.window(60, at(60)).all.requests, 3);
        // An hour and a minute later its place is another minute's.
        metrics.note(chat, false, at(61));
        assert_eq!(metrics.window(60, at(61)).all, ErrorRate { requests: 3, errors: 1 });
        assert_eq!(metrics.window(5, at(200)).all.per_million(), 0);
        assert_eq!(ErrorRate { requests: 3, errors: 1 }.per_million(), 333_333);
    }

    #[test]
    fn whoever_is_not_known_is_counted_with_the_others() {
        let metrics = Metrics::new(["p", "p", "gpu-llama"]);
        assert_eq!(metrics.lane("none"), LaneId::NOBODY);
        assert_eq!(metrics.lane("x"), metrics.lane("other"));
        assert_ne!(metrics.lane("p"), metrics.lane("other"));
        let names: Vec<&str> = metrics.lanes.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.iter().filter(|name| **name == "gpu-llama" || **name == "p").count(), 2, "{names:?}");
    }

    #[test]
    fn lag_begins_with_the_first_charge_that_waits() {
        let metrics = Metrics::new([]);
        assert_eq!(metrics.unsettled_for(), Duration::ZERO);
        metrics.unsettled();
        let first = metrics.unsettled_since.load(Ordering::Relaxed);
        metrics.unsettled();
        assert_eq!(metrics.unsettled_since.load(Ordering::Relaxed), first);
        metrics.settled(metrics.began + Duration::from_millis(500), false);
        assert_eq!(metrics.unsettled_since.load(Ordering::Relaxed), 500);
        metrics.settled(Instant::now(), true);
        assert_eq!(metrics.unsettled_for(), Duration::ZERO);
    }

    #[test]
    fn what_takes_longer_than_every_bound_is_counted_and_in_no_bucket() {
        let histogram = Histogram::default();
        for millis in [1, 25, 26, 60_000, 60_001] {
            histogram.observe(millis);
        }
        let in_buckets: u64 = histogram.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum();
        assert_eq!((in_buckets, histogram.count.load(Ordering::Relaxed)), (4, 5));
        assert_eq!(histogram.buckets[0].load(Ordering::Relaxed), 2);
    }
}
