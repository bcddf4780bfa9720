//! When a daemon that died is started again, and when it is given up.

use std::time::Duration;

/// Who ran this long has started well: earlier failures no longer count.
const WELL: Duration = Duration::from_mins(1);
/// That many failures in a row, and it is given up.
const FAILURES_MAX: u32 = 5;

/// Counts the failures in a row.
#[derive(Debug, Default)]
pub struct Restarts {
    failures: u32,
}

impl Restarts {
    /// The daemon died after this long: how long to wait before the next start; `None` to give up.
    pub fn after(&mut self, ran: Duration) -> Option<Duration> {
        self.failures = if ran >= WELL { 1 } else { self.failures + 1 };
        (self.failures < FAILURES_MAX).then(|| Duration::from_secs(1 << (self.failures - 1)))
    }

    /// How many failures in a row there were.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end() {
        let mut restarts = Restarts::default();
        let waits: Vec<Option<u64>> =
            (0..5).map(|_| restarts.after(Duration::ZERO).map(|wait| wait.as_secs())).collect();
        assert_eq!(waits, [Some(1), Some(2), Some(4), Some(8), None]);
        assert_eq!(restarts.failures(), 5);
    }

    #[test]
    fn a_good_run_starts_the_count_again() {
        let mut restarts = Restarts::default();
        for _ in 0..4 {
            restarts.after(Duration::from_secs(1));
        }
        assert_eq!(restarts.after(WELL), Some(Duration::from_secs(1)));
        assert_eq!(restarts.after(Duration::ZERO), Some(Duration::from_secs(2)));
    }
}
