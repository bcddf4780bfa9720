//! What passes through the proxy, as far as the watching of the services needs to know it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use wopr_core::protocol::gpu::GpuService;

/// A service that sent a part of an answer this recently is at work.
const FLOWING_WITHIN: Duration = Duration::from_secs(10);

/// The requests to one service that are in progress.
#[derive(Debug)]
pub(crate) struct Traffic {
    service: GpuService,
    permits: Arc<Semaphore>,
    in_flight: AtomicU64,
    last_part: Mutex<Option<Instant>>,
    /// The proxy found nobody: worth a look at once.
    pub(crate) lost: Notify,
}

impl Traffic {
    pub(crate) fn new(service: GpuService, requests_max: usize) -> Arc<Self> {
        Arc::new(Self {
            service,
            permits: Arc::new(Semaphore::new(requests_max)),
            in_flight: AtomicU64::new(0),
            last_part: Mutex::new(None),
            lost: Notify::new(),
        })
    }

    /// Lets a request in, unless there are too many.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Passage> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let in_flight = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        crate::metrics::in_flight(self.service, in_flight);
        Some(Passage { traffic: Arc::clone(self), _permit: permit })
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether a part of an answer came by just now.
    pub(crate) fn is_flowing(&self) -> bool {
        let last = *self.last_part.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|at| at.elapsed() < FLOWING_WITHIN)
    }
}

/// A request in progress, until it is dropped.
#[derive(Debug)]
pub(crate) struct Passage {
    traffic: Arc<Traffic>,
    _permit: OwnedSemaphorePermit,
}

impl Passage {
    /// A part of its answer came by.
    pub(crate) fn part(&self) {
        *self.traffic.last_part.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let before = self.traffic.in_flight.fetch_sub(1, Ordering::Relaxed);
        crate::metrics::in_flight(self.traffic.service, before.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_until_they_end_and_bounded() {
        let traffic = Traffic::new(GpuService::Whisper, 2);
        let (first, second) = (traffic.enter().unwrap(), traffic.enter().unwrap());
        assert_eq!((traffic.in_flight(), traffic.enter().is_none()), (2, true));
        assert!(!traffic.is_flowing());
        first.part();
        assert!(traffic.is_flowing());
        drop((first, second));
        assert_eq!((traffic.in_flight(), traffic.enter().is_some()), (0, true));
    }
}
