//! How long to wait before trying again.

use std::time::Duration;

/// Waits that double up to a cap, each shortened by chance by up to a half so that nodes do not come in step.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    tries: u32,
}

impl Backoff {
    pub(crate) const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, tries: 0 }
    }

    /// The next wait.
    pub(crate) fn next(&mut self) -> Duration {
        let full = full_wait(self.base, self.cap, self.tries);
        self.tries = self.tries.saturating_add(1);
        shortened(full, rand::random())
    }

    /// A wait at the cap: nothing changes soon.
    pub(crate) fn longest(&self) -> Duration {
        shortened(self.cap, rand::random())
    }
}

fn full_wait(base: Duration, cap: Duration, tries: u32) -> Duration {
    base.saturating_mul(2_u32.saturating_pow(tries)).min(cap)
}

fn shortened(full: Duration, chance: u32) -> Duration {
    let half = full / 2;
    let nanos = half.as_nanos().saturating_mul(chance.into()) / u128::from(u32::MAX);
    half + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_never_overflow() {
        let (base, cap) = (Duration::from_secs(1), Duration::from_mins(1));
        let waits: Vec<_> = (0..9).map(|tries| full_wait(base, cap, tries).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(full_wait(base, cap, u32::MAX), cap);
        assert_eq!(shortened(cap, 0), Duration::from_secs(30));
        assert_eq!(shortened(cap, u32::MAX), cap);
        let mut backoff = Backoff::new(base, cap);
        for full in [1, 2, 4, 8, 16, 32, 60, 60] {
            let wait = backoff.next();
            assert!(wait >= Duration::from_millis(full * 500) && wait <= Duration::from_secs(full), "{full} {wait:?}");
        }
        assert!(backoff.longest() >= cap / 2 && backoff.longest() <= cap);
    }
}
