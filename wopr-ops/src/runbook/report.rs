//! What `runbook check --json` and `runbook verify --json` write.

use serde::Serialize;

use super::Severity;

/// Everything that was found.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Report {
    /// Whether no critical check failed.
    pub(crate) green: bool,
    /// What was looked at, in the order of the runbook.
    pub(crate) checks: Vec<Outcome>,
    /// Hazards that no check here can see.
    pub(crate) not_checked: Vec<NotChecked>,
}

/// What became of a check.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Outcome {
    /// The check.
    pub(crate) id: String,
    /// Its kind.
    pub(crate) kind: String,
    /// What its failure means.
    pub(crate) severity: Severity,
    /// Whether it holds.
    pub(crate) passed: bool,
    /// What was seen.
    pub(crate) detail: String,
    /// How long it took.
    pub(crate) took_ms: u64,
    /// The hazards that it guards against.
    pub(crate) gotchas: Vec<String>,
}

/// A hazard that was not looked at, or not brought about.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct NotChecked {
    /// The hazard's number.
    pub(crate) id: String,
    /// What goes wrong.
    pub(crate) hazard: String,
    /// Why not.
    pub(crate) reason: String,
}

/// What `verify` has shown.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Proof {
    /// Whether each check noticed, was content once its hazard was mended, and all checks were at the end.
    pub(crate) proven: bool,
    /// What was brought about, in the order of the runbook.
    pub(crate) shown: Vec<Shown>,
    /// Hazards that were not.
    pub(crate) not_shown: Vec<NotChecked>,
    /// What the checks said at the end that were not content then.
    pub(crate) red_at_the_end: Vec<Outcome>,
}

/// A hazard that was brought about.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Shown {
    /// Its number.
    pub(crate) id: String,
    /// What goes wrong.
    pub(crate) hazard: String,
    /// The check that has to notice.
    pub(crate) check: String,
    /// What was done.
    pub(crate) broken: String,
    /// What the check said then; `null` if it was content.
    pub(crate) red: Option<String>,
    /// What mends it.
    pub(crate) fix: String,
    /// What the check said once it was mended; `null` if it was not content.
    pub(crate) green: Option<String>,
    /// What did not go as it should have; `null` if nothing.
    pub(crate) problem: Option<String>,
    /// How long all of it took.
    pub(crate) took_ms: u64,
}
