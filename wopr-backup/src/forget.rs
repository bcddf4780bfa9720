//! Snapshots that are no longer wanted, and what only they needed.

use rustic_core::repofile::{SnapshotFile, SnapshotId};
use rustic_core::{IndexedFullStatus, LimitOption, PruneOptions};

use crate::clock::now;
use crate::error::BackupError;
use crate::report::ForgetReport;
use crate::repository::{Backups, Session, time_of};
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
        report.freed_bytes = session.remove(&removed)?;
        Ok(report)
    }

    /// Removes every snapshot but these, and then the objects that no snapshot needs.
    ///
    /// # Errors
    /// As every command; [`BackupError::NoSnapshot`] when one of these is not there or does not count, or when there is none:
    /// nothing is removed then.
    pub fn keep(&self, kept: &[String]) -> Result<ForgetReport, BackupError> {
        let session = self.session("keep")?;
        if kept.is_empty() {
            return Err(BackupError::NoSnapshot("none is to be kept".to_owned()));
        }
        let mut missing: std::collections::BTreeSet<&str> = kept.iter().map(String::as_str).collect();
        let mut removed = Vec::new();
        for snapshot in session.snapshots()? {
            let id = snapshot.id.to_hex();
            if missing.contains(id.as_str()) && session.counts(&snapshot)? {
                missing.remove(id.as_str());
            } else {
                removed.push(snapshot.id);
            }
        }
        if let Some(missing) = missing.first() {
            return Err(BackupError::NoSnapshot((*missing).to_owned()));
        }
        let freed_bytes = session.remove(&removed)?;
        let removed = removed.iter().map(|id| id.to_hex().as_str().to_owned()).collect();
        Ok(ForgetReport { dry_run: false, removed, kept: kept.to_vec(), freed_bytes })
    }

    /// Makes a snapshot one of another kind, and removes whatever else there is of the kind it had. The answer is its new id.
    /// Objects stay until something else removes what nobody needs.
    ///
    /// # Errors
    /// As every command; it is of the one kind or of the other then.
    pub fn promote(&self, snapshot: &str, kind: &str) -> Result<String, BackupError> {
        check_kind(kind)?;
        let session = self.session("promote")?;
        let former = session.snapshot(Some(snapshot))?;
        let before = session.snapshots()?;
        let mut promoted = former.clone();
        kind.clone_into(&mut promoted.label);
        promoted.original = promoted.original.or(Some(former.id));
        session.objects.settle("saving a snapshot", session.repository.save_snapshots(vec![promoted]))?;
        let is_new = |one: &SnapshotFile| !before.iter().any(|other| other.id == one.id);
        let found = session.snapshots()?.into_iter().find(is_new);
        let promoted = found.ok_or_else(|| BackupError::Engine(format!("{snapshot}: it is not there as {kind}")))?;
        let drafts: Vec<SnapshotId> =
            before.iter().filter(|other| other.label == former.label).map(|other| other.id).collect();
        session.objects.settle("removing drafts", session.repository.delete_snapshots(&drafts))?;
        Ok(promoted.id.to_hex().as_str().to_owned())
    }
}

impl Session<IndexedFullStatus> {
    /// Removes snapshots, and then the objects that no snapshot needs; the answer is how many bytes those had.
    fn remove(&self, snapshots: &[SnapshotId]) -> Result<u64, BackupError> {
        let session = self;
        if !snapshots.is_empty() {
            session.objects.settle("removing snapshots", session.repository.delete_snapshots(snapshots))?;
        }
        let mut options = PruneOptions::default();
        options.instant_delete = true; // the lock keeps everybody else out
        options.max_repack = LimitOption::Unlimited;
        let plan = session.objects.settle("planning", session.repository.prune_plan(&options))?;
        let before = session.stored()?;
        session.objects.settle("pruning", session.repository.prune(&options, plan))?;
        Ok(before.saturating_sub(session.stored()?))
    }
}
