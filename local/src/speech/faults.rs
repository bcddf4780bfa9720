//! What is played wrongly on purpose, for tests of those who watch.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest answer may be held back.
const DELAY_MS_MAX: u64 = 600_000;

/// Faults; all off by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// The health check answers 503.
    pub unhealthy: bool,
    /// Speech answers with this status, from 400 to 599.
    pub status: Option<u16>,
    /// Every answer but that of the control interface comes this much later.
    pub delay_ms: u64,
}

impl Faults {
    /// Why these cannot be played.
    pub(super) fn refused(&self) -> Option<String> {
        if self.status.is_some_and(|status| !(400..=599).contains(&status)) {
            return Some("status must be from 400 to 599".to_owned());
        }
        (self.delay_ms > DELAY_MS_MAX).then(|| format!("delay_ms must be at most {DELAY_MS_MAX}"))
    }

    pub(super) fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }
}
