//! What the program says on its standard output: one line of JSON, success or not.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::database::TableManifest;
use crate::error::BackupError;
use crate::manifest::{RawPath, Skipped, Totals};

/// The line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The program's version.
    pub version: String,
    /// The repository's name.
    pub repository: String,
    /// How long it took.
    pub elapsed_ms: u64,
    /// The most memory that the process had, in bytes, where the system tells.
    pub peak_memory_bytes: Option<u64>,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Done {
        /// What was done.
        #[serde(flatten)]
        result: Done,
    },
    /// It was not.
    Failed {
        /// The exit code.
        exit_code: u8,
        /// What went wrong, beginning with the object that is to blame.
        error: String,
    },
}

/// What was done, by command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Done {
    /// `init`
    Init(InitReport),
    /// `save`
    Save(SaveReport),
    /// `list`
    List(ListReport),
    /// `restore`
    Restore(RestoreReport),
    /// `verify`
    Verify(VerifyReport),
    /// `forget`
    Forget(ForgetReport),
    /// `rekey`
    Rekey(RekeyReport),
    /// `escrow`
    Escrow(EscrowReport),
    /// `dump-database`
    DumpDatabase(DumpReport),
    /// `restore-database`
    RestoreDatabase(RestoreDatabaseReport),
    /// `set-up-bucket`
    SetUpBucket(BucketReport),
}

/// `set-up-bucket`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketReport {
    /// The bucket.
    pub bucket: String,
    /// How long what was overwritten or removed can be had again, in days.
    pub undo_days: u32,
    /// What keeps strangers out.
    pub public_access: PublicAccess,
}

/// What keeps strangers out of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublicAccess {
    /// Nothing in it can be made public.
    Blocked,
    /// It is private; the service cannot keep what is in it from being made public.
    Private,
}

/// `init`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitReport {
    /// False where it was there.
    pub created: bool,
    /// The id of the key that opens it.
    pub key: String,
}

/// `save`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveReport {
    /// The snapshot's id.
    pub snapshot: String,
    /// When reading began.
    pub taken_at: Timestamp,
    /// Its kind.
    pub kind: String,
    /// The snapshot that it was compared with.
    pub parent: Option<String>,
    /// The id of the key that opened the repository.
    pub key: String,
    /// What it holds.
    pub totals: Totals,
    /// Files that were not read, because nothing about them had changed.
    pub unchanged_files: u64,
    /// Bytes that were written to the store.
    pub stored_bytes: u64,
    /// Objects that were written to the store.
    pub stored_objects: u64,
    /// Files that were written to while they were read.
    pub changed_while_read: Vec<RawPath>,
    /// What was found and not saved.
    pub skipped: Vec<Skipped>,
}

/// A snapshot, as `list` tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotView {
    /// Its id.
    pub id: String,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// Its kind.
    pub kind: String,
    /// It has a manifest; one that has none does not count.
    pub complete: bool,
    /// Bytes in its files.
    pub size_bytes: Option<u64>,
    /// Bytes that it added to the store.
    pub stored_bytes: Option<u64>,
}

/// `list`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListReport {
    /// The newest first.
    pub snapshots: Vec<SnapshotView>,
}

/// `restore`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// The snapshot's id.
    pub snapshot: String,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// What was restored, and compared.
    pub totals: Totals,
    /// Bytes that were read from the store.
    pub read_bytes: u64,
}

/// `verify`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Objects that were read to their end and compared with their names.
    pub objects: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// The snapshots whose every file was unpacked and compared with its manifest.
    pub snapshots: Vec<String>,
    /// Files that were compared.
    pub files: u64,
    /// Snapshots that have no manifest.
    pub without_manifest: Vec<String>,
}

/// `forget`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetReport {
    /// Nothing was removed; this is what would have been.
    pub dry_run: bool,
    /// Ids of the snapshots that were removed.
    pub removed: Vec<String>,
    /// Ids of those that stay.
    pub kept: Vec<String>,
    /// Bytes that the store has fewer.
    pub freed_bytes: u64,
}

/// `rekey`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RekeyReport {
    /// The key that opens the repository.
    pub key: String,
    /// It was not there before.
    pub added: bool,
    /// The keys that opened it before.
    pub removed: Vec<String>,
}

/// `escrow`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EscrowReport {
    /// The ids of the keys in the file that was written.
    pub keys: Vec<String>,
}

/// `dump-database`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpReport {
    /// The set's id.
    pub snapshot: String,
    /// The instant that all groups are of.
    pub taken_at: Timestamp,
    /// The server's version.
    pub postgres: String,
    /// Bytes of each group's dump.
    pub groups: std::collections::BTreeMap<String, u64>,
    /// Tables and their rows.
    pub tables: Vec<TableManifest>,
    /// Bytes that were written to the store.
    pub stored_bytes: u64,
}

/// `restore-database`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreDatabaseReport {
    /// The set's id.
    pub snapshot: String,
    /// The instant that it is of.
    pub taken_at: Timestamp,
    /// The groups that were restored.
    pub groups: Vec<String>,
    /// The tables whose rows were counted and hashed again.
    pub tables: u64,
}

impl Outcome {
    /// What a result says.
    pub fn of(result: &Result<Done, BackupError>) -> Self {
        match result {
            Ok(done) => Self::Done { result: done.clone() },
            Err(error) => Self::Failed { exit_code: error.exit_code() as u8, error: error.chain() },
        }
    }
}
