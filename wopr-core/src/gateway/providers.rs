//! How those who answer are doing: a circuit for each, and what it did last. A call looks at atomics alone.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::ports::ProviderError;

/// A provider that fails so often without a success in between is not asked for a while.
const FAILURES: u32 = 5;
/// How long it is not asked; then one call tries.
const PROVIDER_PAUSE: Duration = Duration::from_secs(30);
/// An instant that has not come yet.
const NEVER: i64 = i64::MIN;

/// Why a provider did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// It could not be reached.
    Unreachable,
    /// It took too long.
    TimedOut,
    /// It had too much to do.
    Busy,
    /// It failed.
    Failed,
    /// It does not take our account.
    Account,
    /// Its answer made no sense.
    Broken,
}

impl FailureKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Unreachable, Self::TimedOut, Self::Busy, Self::Failed, Self::Account, Self::Broken];

    /// The public word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Busy => "busy",
            Self::Failed => "failed",
            Self::Account => "account",
            Self::Broken => "broken",
        }
    }

    /// What kind of failure of the provider an error is; nothing if it is the request's fault.
    pub(super) const fn of(error: &ProviderError) -> Option<Self> {
        Some(match error {
            ProviderError::Unreachable(_) => Self::Unreachable,
            ProviderError::TimedOut => Self::TimedOut,
            ProviderError::Busy { .. } => Self::Busy,
            ProviderError::Failed(_) => Self::Failed,
            ProviderError::Account(_) => Self::Account,
            ProviderError::Broken(_) => Self::Broken,
            ProviderError::Refused { .. } => return None,
        })
    }
}

/// How somebody who answers is doing, as this process sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderHealth {
    /// The name of a provider, or of a service of one of our own machines.
    pub name: String,
    /// What it is asked for: its own name, or `gpu-<service>` for our own machines.
    pub offered_as: String,
    /// Whether it is one of our own machines.
    pub own: bool,
    /// It is left alone until then, because it failed too often; one call will try it then.
    pub paused_for: Option<Duration>,
    /// How often it failed since it last answered.
    pub failures_in_a_row: u32,
    /// When it last answered.
    pub answered_at: Option<Timestamp>,
    /// When it last failed.
    pub failed_at: Option<Timestamp>,
    /// How, then.
    pub failure: Option<FailureKind>,
}

impl ProviderHealth {
    /// Whether it is asked at present.
    pub const fn is_asked(&self) -> bool {
        self.paused_for.is_none()
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct ProviderState {
    name: String,
    offered_as: String,
    own: bool,
    began: Instant,
    failures: AtomicU32,
    /// Milliseconds after `began`; 0 while its circuit is closed.
    open_until: AtomicU64,
    /// Milliseconds of Unix time.
    answered_at: AtomicI64,
    failed_at: AtomicI64,
    /// The position in [`FailureKind::ALL`].
    failure: AtomicU32,
}

impl ProviderState {
    /// Of somebody whom one tenant alone asks: it is in no list, and nobody else's calls count.
    pub(super) fn apart(name: &str) -> Self {
        Self::new(name, name, false, Instant::now())
    }

    fn new(name: &str, offered_as: &str, own: bool, began: Instant) -> Self {
        Self {
            name: name.to_owned(),
            offered_as: offered_as.to_owned(),
            own,
            began,
            failures: AtomicU32::new(0),
            open_until: AtomicU64::new(0),
            answered_at: AtomicI64::new(NEVER),
            failed_at: AtomicI64::new(NEVER),
            failure: AtomicU32::new(0),
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Whether it may be asked now. A circuit that was open lets one call through, and is open again until that ends.
    pub(super) fn allows(&self, at: Instant) -> bool {
        let until = self.open_until.load(Ordering::Acquire);
        if until == 0 {
            return true;
        }
        if self.millis(at) < until {
            return false;
        }
        let next = self.millis(at + PROVIDER_PAUSE);
        self.open_until.compare_exchange(until, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(super) fn succeeded(&self, now: Timestamp) {
        self.answered_at.store(now.as_millisecond(), Ordering::Relaxed);
        // Written only when there is something to write: everybody reads it.
        if self.failures.load(Ordering::Acquire) != 0 {
            self.failures.store(0, Ordering::Release);
            self.open_until.store(0, Ordering::Release);
        }
    }

    /// Answers whether that opened its circuit.
    pub(super) fn failed(&self, kind: FailureKind, now: Timestamp, at: Instant) -> bool {
        self.failed_at.store(now.as_millisecond(), Ordering::Relaxed);
        let kind = FailureKind::ALL.iter().position(|other| *other == kind).unwrap_or_default();
        self.failure.store(u32::try_from(kind).unwrap_or_default(), Ordering::Relaxed);
        if self.failures.fetch_add(1, Ordering::AcqRel) + 1 < FAILURES {
            return false;
        }
        let before = self.open_until.swap(self.millis(at + PROVIDER_PAUSE), Ordering::AcqRel);
        if before == 0 {
            let name = &self.name;
            tracing::warn!(provider = name, "{name} failed {FAILURES} times in a row and is left alone for a while");
        }
        before == 0
    }

    fn health(&self, at: Instant) -> ProviderHealth {
        let instant = |millis: &AtomicI64| match millis.load(Ordering::Relaxed) {
            NEVER => None,
            millis => Timestamp::from_millisecond(millis).ok(),
        };
        let left = self.open_until.load(Ordering::Acquire).saturating_sub(self.millis(at));
        let failed_at = instant(&self.failed_at);
        let kind = usize::try_from(self.failure.load(Ordering::Relaxed)).unwrap_or_default();
        ProviderHealth {
            name: self.name.clone(),
            offered_as: self.offered_as.clone(),
            own: self.own,
            paused_for: (left > 0).then(|| Duration::from_millis(left)),
            failures_in_a_row: self.failures.load(Ordering::Acquire),
            answered_at: instant(&self.answered_at),
            failed_at,
            failure: failed_at.and_then(|_| FailureKind::ALL.get(kind).copied()),
        }
    }
}

/// All that can be asked at present.
#[derive(Debug)]
pub(super) struct Providers {
    began: Instant,
    states: RwLock<HashMap<String, Arc<ProviderState>>>,
}

impl Default for Providers {
    fn default() -> Self {
        Self { began: Instant::now(), states: RwLock::default() }
    }
}

impl Providers {
    /// What is known of a provider, or the beginning of it.
    pub(super) fn state(&self, name: &str, offered_as: &str, own: bool) -> Arc<ProviderState> {
        let known = self.states.read().unwrap_or_else(PoisonError::into_inner).get(name).map(Arc::clone);
        known.unwrap_or_else(|| {
            let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
            let state = states
                .entry(name.to_owned())
                .or_insert_with(|| Arc::new(ProviderState::new(name, offered_as, own, self.began)));
            Arc::clone(state)
        })
    }

    /// Forgets machines that are not there any more.
    pub(super) fn keep(&self, names: &HashSet<String>) {
        self.states.write().unwrap_or_else(PoisonError::into_inner).retain(|name, _| names.contains(name));
    }

    /// How all of them are doing, by name.
    pub(super) fn health(&self, at: Instant) -> Vec<ProviderHealth> {
        let states = self.states.read().unwrap_or_else(PoisonError::into_inner);
        let mut health: Vec<ProviderHealth> = states.values().map(|state| state.health(at)).collect();
        health.sort_by(|a, b| a.name.cmp(&b.name));
        health
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    #[test]
    fn a_provider_that_fails_is_left_alone_and_then_tried_by_one() {
        let providers = Providers::default();
        let (p, q) = (providers.state("p", "p", false), providers.state("q", "q", false));
        let start = Instant::now();
        for failure in 1..=FAILURES {
            assert!(p.allows(start));
            assert_eq!(p.failed(FailureKind::Busy, NOW, start), failure == FAILURES);
        }
        assert!(!p.allows(start) && q.allows(start));
        let later = start + PROVIDER_PAUSE + Duration::from_millis(1);
        assert!(p.allows(later), "one tries");
        assert!(!p.allows(later), "the others wait for it");
        assert!(!p.failed(FailureKind::TimedOut, NOW, later), "it was open already");
        assert!(!p.allows(later));
        let again = later + PROVIDER_PAUSE + Duration::from_millis(1);
        assert!(p.allows(again));
        p.succeeded(NOW);
        assert!(p.allows(again) && p.allows(again));
    }

    #[test]
    fn what_it_did_last_is_known_until_it_is_gone() {
        let providers = Providers::default();
        let machine = providers.state("n1/llama", "gpu-llama", true);
        let start = Instant::now();
        let fresh = providers.health(start).remove(0);
        assert!(fresh.own && fresh.is_asked() && fresh.answered_at.is_none() && fresh.failure.is_none());
        machine.succeeded(NOW);
        machine.failed(FailureKind::Broken, NOW, start);
        let health = providers.health(start).remove(0);
        assert_eq!((health.answered_at, health.failed_at), (Some(NOW), Some(NOW)));
        assert_eq!((health.failure, health.failures_in_a_row), (Some(FailureKind::Broken), 1));
        providers.keep(&HashSet::new());
        assert!(providers.health(start).is_empty());
    }
}
