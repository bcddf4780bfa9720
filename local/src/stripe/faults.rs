//! Failures on purpose. They live in memory: a restart ends them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Makes the next matching API requests fail, or take long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// HTTP method; absent matches all.
    #[serde(default)]
    pub method: Option<String>,
    /// What the path starts with, such as `/v1/refunds`; absent matches all.
    #[serde(default)]
    pub path: Option<String>,
    /// Status to answer with, 400 to 599; absent only delays.
    #[serde(default)]
    pub status: Option<u16>,
    /// Does the work first, then answers with the failure: the lost answer that idempotency keys are for.
    #[serde(default)]
    pub after: bool,
    /// Milliseconds to wait before anything else, at most ten minutes.
    #[serde(default)]
    pub delay_ms: u64,
    /// How many requests it meets.
    #[serde(default = "once")]
    pub times: u32,
}

fn once() -> u32 {
    1
}

/// Longest delay a fault may ask for.
const DELAY_MAX: Duration = Duration::from_mins(10);

impl Fault {
    /// The next `times` requests are answered with `status`, without any work done.
    pub fn refuse(status: u16, times: u32) -> Self {
        Self { method: None, path: None, status: Some(status), after: false, delay_ms: 0, times }
    }

    /// Limits the fault to paths that start with `path`.
    #[must_use]
    pub fn on_path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Does the work before failing.
    #[must_use]
    pub fn after_the_work(mut self) -> Self {
        self.after = true;
        self
    }

    /// What is wrong with it, if anything.
    pub(super) fn problem(&self) -> Option<&'static str> {
        match self {
            Self { status: Some(status), .. } if !(400..=599).contains(status) => {
                Some("status must be between 400 and 599")
            }
            Self { times: 0, .. } => Some("times must be at least 1"),
            Self { status: None, after: true, .. } => Some("after needs a status"),
            Self { status: None, delay_ms: 0, .. } => Some("a fault needs a status or delay_ms"),
            _ if self.delay() > DELAY_MAX => Some("delay_ms is at most 600000"),
            _ => None,
        }
    }

    pub(super) fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }

    fn meets(&self, method: &str, path: &str) -> bool {
        self.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
            && self.path.as_deref().is_none_or(|prefix| path.starts_with(prefix))
    }
}

/// The first fault that meets a request, used up by one.
pub(super) fn take(faults: &mut Vec<Fault>, method: &str, path: &str) -> Option<Fault> {
    let index = faults.iter().position(|fault| fault.meets(method, path))?;
    let found = faults[index].clone();
    faults[index].times -= 1;
    if faults[index].times == 0 {
        faults.remove(index);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_meets_its_path_as_often_as_it_says() {
        let mut faults = vec![Fault::refuse(500, 2).on_path("/v1/refunds")];
        let met: Vec<bool> = ["/v1/refunds", "/v1/customers", "/v1/refunds/re_1", "/v1/refunds"]
            .map(|path| take(&mut faults, "POST", path).is_some())
            .into();
        assert_eq!(met, [true, false, true, false]);
    }
}
