//! A directory into the repository.

use std::path::PathBuf;

use bytes::Bytes;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustic_core::repofile::SnapshotFile;
use rustic_core::{BackupOptions, IndexedFull, SnapshotOptions};

use crate::error::BackupError;
use crate::manifest::{DATA_PATH, EntryKind};
use crate::report::SaveReport;
use crate::repository::{Backups, Session};
use crate::source::{DirectorySource, KnownHashes};

/// What is saved.
#[derive(Debug, Clone)]
pub struct SaveRequest {
    /// The directory.
    pub directory: PathBuf,
    /// What kind of snapshot it is, in the caller's words; retention works on one kind at a time.
    pub kind: String,
    /// A JSON document that belongs to it: what the volume's container was, and the bot's rows.
    pub description: Bytes,
    /// Read every file, whether it seems changed or not.
    pub read_all: bool,
}

impl Backups {
    /// Saves a directory. The snapshot is there when this returns without an error, and not before.
    ///
    /// # Errors
    /// As every command; nothing is there then that counts as a snapshot.
    pub fn save(&self, request: &SaveRequest) -> Result<SaveReport, BackupError> {
        check_kind(&request.kind)?;
        serde_json::from_slice::<serde::de::IgnoredAny>(&request.description)
            .map_err(|error| BackupError::Usage(format!("the description is no JSON: {error}")))?;
        let session = self.session("save")?;
        let (parent, known) = if request.read_all { (None, KnownHashes::new()) } else { session.parent()? };
        let source = DirectorySource::new(
            request.directory.clone(),
            request.description.clone(),
            session.objects.clone(),
            known,
        );
        let ledger = source.ledger();
        let snapshot = new_snapshot(&session, &request.kind, ledger.started_at())?;
        let mut options = BackupOptions::default().no_scan(true);
        options.parent_opts = match &parent {
            Some(id) => options.parent_opts.parents(vec![id.clone()]),
            None => options.parent_opts.force(true),
        };
        let result = session.repository.archive(&options, &source, snapshot, &[PathBuf::from(DATA_PATH)]);
        let snapshot = session.objects.settle("saving", result)?;
        let Some((manifest, unchanged_files)) = ledger.take_manifest() else {
            return Err(session.retract(&snapshot, "the engine saved no manifest"));
        };
        // The engine passes over what it cannot add. It must have all that the manifest names, and its two documents.
        let summary = snapshot.summary.clone().unwrap_or_default();
        let expected = (manifest.totals.files + manifest.totals.symlinks + 2, manifest.totals.directories + 1);
        // It counts the root of the tree as no directory.
        if (summary.total_files_processed, summary.total_dirs_processed.saturating_sub(1)) != expected {
            let found = (summary.total_files_processed, summary.total_dirs_processed);
            return Err(session.retract(&snapshot, &format!("the engine saved {found:?} of {expected:?} entries")));
        }
        Ok(SaveReport {
            snapshot: snapshot.id.to_hex().as_str().to_owned(),
            taken_at: manifest.started_at,
            kind: request.kind.clone(),
            parent,
            key: session.key.clone(),
            totals: manifest.totals,
            unchanged_files,
            stored_bytes: session.objects.written_bytes(),
            stored_objects: session.objects.written_objects(),
            changed_while_read: manifest.changed_while_read,
            skipped: manifest.skipped,
        })
    }
}

impl<S: IndexedFull> Session<S> {
    /// The newest snapshot that counts, with the hashes of its files. One whose manifest cannot be read is an error: what the
    /// new snapshot would share with it may be just as unreadable.
    fn parent(&self) -> Result<(Option<String>, KnownHashes), BackupError> {
        for snapshot in self.snapshots()? {
            if !self.counts(&snapshot)? || snapshot.label == crate::database::KIND {
                continue;
            }
            let mut known = KnownHashes::new();
            for entry in self.manifest(&snapshot)?.entries {
                if let EntryKind::File { size_bytes, sha256 } = entry.kind {
                    known.insert(entry.path, (size_bytes, sha256));
                }
            }
            return Ok((Some(snapshot.id.to_hex().as_str().to_owned()), known));
        }
        Ok((None, KnownHashes::new()))
    }

    /// Takes back a snapshot that is not what it should be, and says why.
    pub(crate) fn retract(&self, snapshot: &SnapshotFile, reason: &str) -> BackupError {
        let id = snapshot.id.to_hex().as_str().to_owned();
        match self.repository.delete_snapshots(&[snapshot.id]) {
            Ok(()) => BackupError::Engine(format!("{id}: {reason}; the snapshot was taken back")),
            Err(error) => {
                BackupError::Engine(format!("{id}: {reason}; and it could not be taken back: {}", error.display_log()))
            }
        }
    }
}

pub(crate) fn new_snapshot<S>(session: &Session<S>, kind: &str, at: Timestamp) -> Result<SnapshotFile, BackupError> {
    let options = SnapshotOptions::default()
        .host(session.objects.name().to_owned())
        .label(kind.to_owned())
        .time(at.to_zoned(TimeZone::UTC))
        .command("wopr-backup".to_owned());
    session.objects.settle("a snapshot", options.to_snapshot())
}

pub(crate) fn check_kind(kind: &str) -> Result<(), BackupError> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if kind.is_empty() || kind.len() > 40 || !kind.chars().all(good) {
        return Err(BackupError::Usage(format!("{kind:?} is no kind of snapshot: lower-case letters, digits and -")));
    }
    Ok(())
}
