//! Between the platform and a backup job, a container that lives for one order.
//!
//! The job reads one [`Order`] as a line of JSON from its standard input and writes [`Message`]s, a line each, to its
//! standard output; what it writes to standard error is for people. Nothing secret is in its arguments, its environment
//! or its description. The volume is mounted at [`VOLUME_PATH`].
//!
//! A save has three parts, and between them the job says [`Message::Ready`] and waits for the line [`GO`]. While the bot
//! runs, everything is copied; what changed meanwhile is copied when the bot stands still, so that it stands still for that
//! only; and once it is known that it did, the copy becomes a snapshot. Without the last word there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Where a job finds the volume.
pub const VOLUME_PATH: &str = "/data";
/// What a save waits for after [`Message::Ready`].
pub const GO: &str = "go";

/// Text that is not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sensitive(pub String);

impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sensitive(…)")
    }
}

/// What a job is to do, and with what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Order {
    /// Where objects are kept.
    pub store: Store,
    /// The repository's place in the store, such as `bots/0190c6a7-b5e7-7c0a-9d3c-2b1a00112233`.
    pub repository: String,
    /// What its password is derived from, the newest first.
    pub keys: Vec<RingKey>,
    /// The database's address as the job reaches it, for work on a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_url: Option<Sensitive>,
    /// What to do.
    pub work: Work,
}

/// An object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, tag = "kind")]
pub enum Store {
    /// One that speaks S3.
    #[serde(rename_all = "camelCase")]
    S3 {
        /// Its address, without the bucket.
        endpoint: String,
        /// Its region.
        region: String,
        /// The bucket.
        bucket: String,
        /// The name of the key.
        access_key: String,
        /// The key.
        secret_key: Sensitive,
    },
    /// A directory.
    Directory {
        /// Its path, as the job sees it.
        path: String,
    },
}

/// A secret that passwords of repositories are derived from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingKey {
    /// Its name.
    pub id: String,
    /// The secret.
    pub secret: Sensitive,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, tag = "kind")]
pub enum Work {
    /// Copies the volume into the repository.
    Save {
        /// What belongs to the files and is kept with them: a JSON document.
        description: String,
    },
    /// Fills the volume, which is empty, and compares every file with what was saved.
    Restore {
        /// Which snapshot.
        snapshot: String,
    },
    /// Reads every byte of a snapshot and compares it with what was saved.
    Verify {
        /// Which snapshot.
        snapshot: String,
    },
    /// Removes every snapshot but these, and what only those needed.
    Keep {
        /// The snapshots that stay; at least one.
        snapshots: Vec<String>,
    },
    /// Tells of every complete snapshot but these, and which of these are not there.
    List {
        /// Snapshots that are known.
        known: Vec<String>,
    },
    /// Copies a database into the repository, as of one instant.
    #[serde(rename_all = "camelCase")]
    DumpDatabase {
        /// Its tables by group, with their schemas, quoted where they must be: each table in one group.
        groups: BTreeMap<String, BTreeSet<String>>,
    },
}

impl Work {
    /// The word for it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Save { .. } => "save",
            Self::Restore { .. } => "restore",
            Self::Verify { .. } => "verify",
            Self::Keep { .. } => "keep",
            Self::List { .. } => "list",
            Self::DumpDatabase { .. } => "dump-database",
        }
    }
}

/// What a job says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Message {
    /// A part of a save is done.
    Ready,
    /// All is done.
    Done(Report),
    /// It could not be done.
    Failed(Failure),
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// The snapshot that was made.
    pub snapshot: Option<String>,
    /// Files, directories and links; of a database, tables.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes that the store has more than before; negative if it has fewer.
    pub stored_bytes: i64,
    /// What was asked for by [`Work::List`], the newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listed: Vec<Listed>,
    /// Snapshots known to whoever asked for [`Work::List`] that are not there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// A complete snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listed {
    /// What the repository calls it.
    pub snapshot: String,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// Bytes of all files, or of all dumps.
    pub bytes: u64,
    /// Bytes that it added to the store.
    pub stored_bytes: u64,
    /// What was given to [`Work::Save`]; a copy of a database has none, nor has one of which it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Why it was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind.
    pub kind: FailureKind,
    /// What happened, for people; names the object if one is to blame.
    pub detail: String,
}

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The order makes no sense.
    BadOrder,
    /// No key opens the repository.
    WrongKey,
    /// An object, or a restored file, is not what was saved.
    Damaged,
    /// The store cannot be reached, or fails.
    StoreAway,
    /// A disk is full.
    NoSpace,
    /// Another job works on the repository.
    Locked,
    /// There is no such snapshot.
    NoSnapshot,
    /// Anything else.
    Other,
}
