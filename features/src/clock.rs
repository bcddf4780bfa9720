//! A clock that runs, and can be put forward.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

/// Runs at the pace of the machine from a fixed moment on, plus every [`TravelClock::advance`]. Clones share the time.
///
/// It runs, unlike a fixed clock, because the platform waits by it before it tries again.
#[derive(Debug, Clone)]
pub struct TravelClock(Arc<Inner>);

struct Inner {
    started: Instant,
    shown_at_start: Mutex<Timestamp>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TravelClock").finish_non_exhaustive()
    }
}

impl TravelClock {
    /// 2027-01-15 08:00 UTC: far from midnight, so that no date changes by itself within a scenario.
    pub fn start() -> Self {
        let shown_at_start = Mutex::new(Timestamp::constant(1_800_000_000, 0));
        Self(Arc::new(Inner { started: Instant::now(), shown_at_start }))
    }

    /// The time it shows.
    pub fn now(&self) -> Timestamp {
        // Whole microseconds, as PostgreSQL keeps them.
        let micros = i64::try_from(self.0.started.elapsed().as_micros()).unwrap_or(i64::MAX);
        let elapsed = SignedDuration::from_micros(micros);
        *self.0.shown_at_start.lock().unwrap_or_else(PoisonError::into_inner) + elapsed
    }

    /// Puts it forward.
    pub fn advance(&self, step: SignedDuration) {
        *self.0.shown_at_start.lock().unwrap_or_else(PoisonError::into_inner) += step;
    }
}

impl wopr_core::clock::Clock for TravelClock {
    fn now(&self) -> Timestamp {
        Self::now(self)
    }
}
