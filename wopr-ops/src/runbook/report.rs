//! What `runbook verify --json` writes.

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

/// A hazard that no check here can see.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct NotChecked {
    /// The hazard's number.
    pub(crate) id: String,
    /// What goes wrong.
    pub(crate) hazard: String,
    /// Why it cannot be seen here.
    pub(crate) reason: String,
}
