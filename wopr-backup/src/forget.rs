//! Snapshots that are no longer wanted, and what only they needed.

use rustic_core::repofile::SnapshotId;
use rustic_core::{LimitOption, PruneOptions};

use crate::clock::now;
use crate::error::BackupError;
use crate::report::ForgetReport;
use crate::repository::{Backups, time_of};
use crate::retention::{Candidate, KeepRules, to_remove};
use crate::save::check_kind;

/// What is forgotten.
#[derive(Debug, Clone)]
pub struct ForgetRequest {
    /// The kind of snapshot that the rules are for; the others stay.
    pub kind: String,
    /// What is kept of it.
    pub rules: KeepRules,
    /// Only say what would be removed.
    pub dry_run: bool,
}

impl Backups {
    /// Removes the snapshots that the rules do not keep, and then the objects that no snapshot needs. A killed run leaves at
    /// most objects that nobody needs; the next one removes them.
    ///
    /// # Errors
    /// As every command.
    pub fn forget(&self, request: &ForgetRequest) -> Result<ForgetReport, BackupError> {
        check_kind(&request.kind)?;
        let session = self.session("forget")?;
        let mut candidates = Vec::new();
        for snapshot in session.snapshots()? {
            candidates.push(Candidate {
                taken_at: time_of(&snapshot),
                ruled: snapshot.label == request.kind,
                complete: session.counts(&snapshot)?,
                id: snapshot.id,
            });
        }
        let removed = to_remove(&candidates, request.rules, now());
        let name = |id: &SnapshotId| id.to_hex().as_str().to_owned();
        let kept = candidates.iter().map(|one| one.id).filter(|id| !removed.contains(id)).map(|id| name(&id)).collect();
        let mut report = ForgetReport {
            dry_run: request.dry_run,
            removed: removed.iter().map(name).collect(),
            kept,
            freed_bytes: 0,
        };
        if request.dry_run {
            return Ok(report);
        }
        if !removed.is_empty() {
            session.objects.settle("removing snapshots", session.repository.delete_snapshots(&removed))?;
        }
        let mut options = PruneOptions::default();
        options.instant_delete = true; // the lock keeps everybody else out
        options.max_repack = LimitOption::Unlimited;
        let plan = session.objects.settle("planning", session.repository.prune_plan(&options))?;
        let before = session.stored()?;
        session.objects.settle("pruning", session.repository.prune(&options, plan))?;
        report.freed_bytes = before.saturating_sub(session.stored()?);
        Ok(report)
    }
}
