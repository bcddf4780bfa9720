use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::fleet::container::container_name;
use crate::ids::{BaseBackupId, BotId, DatabaseSetId, RestoreId, SnapshotId, TenantId};

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_meta])* $variant,)+ }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The word on the wire and in storage.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The value of that word.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == word)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Why a snapshot was made.
    SnapshotKind {
        /// Every night.
        Nightly = "nightly",
        /// Every few hours.
        Hot = "hot",
        /// Somebody wanted it.
        OnDemand = "on-demand",
        /// Before a restore, of what was there.
        PreRestore = "pre-restore",
        /// Before the bot is given another image.
        PreUpdate = "pre-update",
    }
}

words! {
    /// How far a snapshot has got.
    SnapshotState {
        /// Asked for.
        Wanted = "wanted",
        /// Under way.
        Creating = "creating",
        /// Complete, and in the repository.
        Ready = "ready",
        /// Given up; there is nothing of it.
        Failed = "failed",
        /// To be removed: nobody can have it any more, and its bytes are still there.
        Deleting = "deleting",
        /// Removed.
        Deleted = "deleted",
    }
}

words! {
    /// How far a restore has got.
    RestorePhase {
        /// What is there is copied.
        Saving = "saving",
        /// The new volume is filled and compared.
        Filling = "filling",
        /// The bot has the new volume and is coming up.
        Switching = "switching",
        /// It came up.
        Done = "done",
        /// It was given up.
        Failed = "failed",
    }
}

/// A copy of a bot's data, or an attempt at one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Whose data.
    pub bot_id: BotId,
    /// Whose bot.
    pub tenant_id: TenantId,
    /// Why it was made.
    pub kind: SnapshotKind,
    /// What whoever wanted it calls it.
    pub name: Option<String>,
    /// Who wanted it, as `kind:name`.
    pub requested_by: String,
    /// How far it has got.
    pub state: SnapshotState,
    /// What the repository calls it.
    pub engine_snapshot: Option<String>,
    /// Bytes of its files.
    pub size_bytes: Option<u64>,
    /// Bytes that it added to the store.
    pub added_bytes: Option<u64>,
    /// Why it was given up.
    pub error: Option<String>,
    /// When the attempt began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When it goes.
    pub expires_at: Option<Timestamp>,
    /// When every byte of it was last read back.
    pub verified_at: Option<Timestamp>,
    /// When it was removed.
    pub deleted_at: Option<Timestamp>,
}

impl Snapshot {
    /// Where runbooks say it is; see [`snapshot_path`].
    pub fn path(&self) -> String {
        snapshot_path(self.kind, self.bot_id, self.tenant_id, self.id, self.started_at)
    }
}

/// The name of a snapshot among those of all bots: `nightly/NODE/CONTAINER/CONTAINER_DATE` and the like. It names what is in
/// the bot's repository; there is no object of that name.
pub fn snapshot_path(kind: SnapshotKind, bot: BotId, tenant: TenantId, id: SnapshotId, at: Timestamp) -> String {
    let container = container_name(bot);
    let date = at.to_zoned(TimeZone::UTC).date().strftime("%Y%m%d");
    match kind {
        SnapshotKind::Nightly => format!("nightly/{NODE}/{container}/{container}_{date}"),
        SnapshotKind::Hot => format!("latest/{container}/latest"),
        SnapshotKind::OnDemand => format!("on-demand/{tenant}/{id}"),
        SnapshotKind::PreRestore => {
            format!("pre-restore/{container}/{container}_pre_restore_{}", at.as_millisecond())
        }
        SnapshotKind::PreUpdate => {
            format!("pre-update/{container}/{container}_pre_update_{}", at.as_millisecond())
        }
    }
}

/// A copy of the platform's database, all of one instant, or an attempt at one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseSet {
    /// Its id.
    pub id: DatabaseSetId,
    /// Why it was made: nightly, or on demand.
    pub kind: SnapshotKind,
    /// Who wanted it, as `kind:name`.
    pub requested_by: String,
    /// How far it has got.
    pub state: SnapshotState,
    /// What the platform's repository calls it.
    pub engine_snapshot: Option<String>,
    /// Bytes of the dumps.
    pub size_bytes: Option<u64>,
    /// Bytes that it added to the store.
    pub added_bytes: Option<u64>,
    /// Why it was given up.
    pub error: Option<String>,
    /// When the attempt began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When every byte of it was last read back.
    pub verified_at: Option<Timestamp>,
    /// When it was last restored into another database, which had every row then.
    pub restored_at: Option<Timestamp>,
    /// When it was removed.
    pub deleted_at: Option<Timestamp>,
}

impl DatabaseSet {
    /// Where runbooks say it is: `platform/DATE/ID`. It names what is in the platform's repository; there is no object of
    /// that name.
    pub fn path(&self) -> String {
        let date = self.started_at.to_zoned(TimeZone::UTC).date().strftime("%Y%m%d");
        format!("{PLATFORM}/{date}/{}", self.id)
    }
}

/// Which database it is, and which of its lines of history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// The system identifier: a database that was made anew has another.
    pub cluster: i64,
    /// The timeline: a database that was brought to an instant begins another.
    pub timeline: i32,
}

/// A copy of the database's files, or an attempt at one. The archived log brings it to any later instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackup {
    /// Its id.
    pub id: BaseBackupId,
    /// What it is a copy of.
    pub history: History,
    /// How far it has got: being made, complete, given up, or removed by the archive.
    pub state: SnapshotState,
    /// What the archive calls it.
    pub label: Option<String>,
    /// Bytes of the database's files.
    pub size_bytes: Option<u64>,
    /// Bytes that it added to the store.
    pub added_bytes: Option<u64>,
    /// Why it was given up.
    pub error: Option<String>,
    /// When the attempt began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When every byte of the archive, this copy's included, was last read back.
    pub verified_at: Option<Timestamp>,
    /// What was not as it was then.
    pub verify_error: Option<String>,
    /// When it was last brought to an instant in another database, which was then what it had been.
    pub restored_at: Option<Timestamp>,
}

impl BaseBackup {
    /// Where runbooks say it is: `platform/base/LABEL`; nothing until there is one.
    pub fn path(&self) -> Option<String> {
        self.label.as_ref().map(|label| format!("{PLATFORM}/base/{label}"))
    }
}

/// The name of the platform's own repository, and of the database among what is backed up.
pub const PLATFORM: &str = "platform";

/// Why an attempt was given up that nobody saw the end of; it may have come to a good one.
pub(super) const INTERRUPTED: &str = "it was interrupted";

/// The name of the one engine that bots run on.
pub const NODE: &str = "local";

/// A restore to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRestore {
    /// Which snapshot; of which bot is its own to say.
    pub snapshot: SnapshotId,
    /// Why, for people.
    pub reason: Option<String>,
}

/// An attempt at giving a bot the data of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// Its id.
    pub id: RestoreId,
    /// The bot.
    pub bot_id: BotId,
    /// Whose bot.
    pub tenant_id: TenantId,
    /// What is restored.
    pub snapshot_id: SnapshotId,
    /// What the bot had before; nothing if there was nothing to copy.
    pub safety_id: Option<SnapshotId>,
    /// Who wanted it, as `kind:name`.
    pub requested_by: String,
    /// Why, for people.
    pub reason: Option<String>,
    /// How far it has got.
    pub phase: RestorePhase,
    /// The number of the volume that is filled.
    pub volume: u32,
    /// The number of the volume before, for as long as that is kept.
    pub old_volume: Option<u32>,
    /// What went wrong last.
    pub error: Option<String>,
    /// How often its present step failed in a row.
    pub attempts: u32,
    /// When to go on.
    pub next_attempt_at: Option<Timestamp>,
    /// When it was wanted.
    pub created_at: Timestamp,
    /// When the bot was given the new volume.
    pub switched_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// Bots whose data was gone, and what is done about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lost {
    /// Snapshots in the store, and sets, that the database did not know.
    pub found: usize,
    /// Restores that are under way now.
    pub restores: Vec<Restore>,
    /// Bots that have no complete snapshot.
    pub without_snapshot: Vec<BotId>,
    /// Bots that were not looked at to the end, and why.
    pub failed: Vec<(BotId, String)>,
}

/// How it stands with a bot's backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStatus {
    /// The bot.
    pub bot_id: BotId,
    /// Whose bot.
    pub tenant_id: TenantId,
    /// When the bot was made.
    pub bot_created_at: Timestamp,
    /// How many snapshots were made, removed ones included.
    pub total: u32,
    /// When the last attempt began.
    pub last_attempt_at: Option<Timestamp>,
    /// Why it failed, if it did.
    pub last_error: Option<String>,
    /// The last snapshot that was finished.
    pub last_success: Option<Snapshot>,
    /// When a snapshot was last read back to its last byte, or restored.
    pub last_proven_at: Option<Timestamp>,
}

/// How it stands with the copies of the platform's database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseStatus {
    /// Since when copies are made: when the first attempt began, or this process.
    pub since: Timestamp,
    /// How many were made, removed ones included.
    pub total: u32,
    /// When the last attempt began.
    pub last_attempt_at: Option<Timestamp>,
    /// Why it failed, if it did.
    pub last_error: Option<String>,
    /// The last one that was finished.
    pub last_success: Option<DatabaseSet>,
    /// When one was last read back to its last byte, or restored.
    pub last_proven_at: Option<Timestamp>,
    /// The archive of its log, where there is one.
    pub archive: Option<ArchiveStatus>,
}

impl DatabaseStatus {
    /// When the last one was finished.
    pub fn last_success_at(&self) -> Option<Timestamp> {
        self.last_success.as_ref().and_then(|set| set.finished_at)
    }

    /// Whether something is wrong: the last attempt failed, or the last copy is older than a day.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        is_stale(self.last_error.as_deref(), self.last_success_at().unwrap_or(self.since), now)
            || self.archive.as_ref().is_some_and(|archive| archive.is_stale(now))
    }
}

/// How it stands with the archive of the database's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveStatus {
    /// Since when the database's files are copied: when the first attempt began, or this process.
    pub since: Timestamp,
    /// When the last attempt at a copy of the files began.
    pub last_attempt_at: Option<Timestamp>,
    /// Why it failed, if it did.
    pub last_error: Option<String>,
    /// The last copy that was finished.
    pub last_success: Option<BaseBackup>,
    /// When the archive was last read back to its last byte, or a copy brought to an instant.
    pub last_proven_at: Option<Timestamp>,
    /// When the archive last took a piece of the log.
    pub logged_at: Option<Timestamp>,
    /// When it last did not take one.
    pub log_refused_at: Option<Timestamp>,
    /// Since when the database has counted both.
    pub log_counted_since: Option<Timestamp>,
    /// When all of it was last read back.
    pub verified_at: Option<Timestamp>,
    /// What was not as it was then.
    pub verify_error: Option<String>,
}

impl ArchiveStatus {
    /// When the last copy of the files was finished.
    pub fn last_success_at(&self) -> Option<Timestamp> {
        self.last_success.as_ref().and_then(|base| base.finished_at)
    }

    /// Whether the last piece of the log was refused, and none was taken for longer than that may be.
    pub fn is_log_stuck(&self, now: Timestamp) -> bool {
        let since = self.logged_at.or(self.log_counted_since).unwrap_or(self.since);
        self.log_refused_at > self.logged_at
            && now.duration_since(since) > jiff::SignedDuration::from_mins(STUCK_MINUTES)
    }

    /// Whether something is wrong: the last copy of the files failed or is too old, the log is stuck, or what was read back
    /// was not as it was.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.last_success_at().unwrap_or(self.since));
        self.last_error.is_some()
            || age > jiff::SignedDuration::from_hours(BASE_STALE_HOURS)
            || self.is_log_stuck(now)
            || self.verify_error.is_some()
    }
}

/// How old the last copy of the database's files may be, in hours: a day, and as long as a copy in full takes.
const BASE_STALE_HOURS: i64 = 26;
/// How long the log may be refused, in minutes.
const STUCK_MINUTES: i64 = 15;

/// How old the last copy may be, in hours.
const STALE_HOURS: i64 = 24;

fn is_stale(last_error: Option<&str>, since: Timestamp, now: Timestamp) -> bool {
    last_error.is_some() || now.duration_since(since) > jiff::SignedDuration::from_hours(STALE_HOURS)
}

impl BackupStatus {
    /// Whether something is wrong: the last attempt failed, or the last snapshot is older than a day. A bot that is younger
    /// than that may be without one.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        let since = self.last_success.as_ref().and_then(|snapshot| snapshot.finished_at).unwrap_or(self.bot_created_at);
        is_stale(self.last_error.as_deref(), since, now)
    }
}
