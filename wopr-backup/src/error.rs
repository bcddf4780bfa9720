//! What can go wrong, and which exit code of the program says so.

use std::path::PathBuf;

/// Why a command did not do what it was asked to do.
///
/// Where an object of the store or a file is to blame, the message begins with its name.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A setting is missing, unknown or cannot be meant.
    #[error("{0}")]
    Usage(String),
    /// There is no repository under this name.
    #[error("{0}: there is no repository here; `init` makes one")]
    NoRepository(String),
    /// There is a repository already, and it is not the ring's.
    #[error("{0}: none of its keys opens with this ring")]
    WrongKey(String),
    /// An object is there, but is not what was written.
    #[error("{object}: {reason}")]
    Corrupt {
        /// The object's path in the store, or the path of the file inside the snapshot.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An object that must be there is not.
    #[error("{0}: the object is missing")]
    Missing(String),
    /// The snapshot that was asked for is not there.
    #[error("{0}: no such snapshot")]
    NoSnapshot(String),
    /// The snapshot has no manifest, so nothing may be restored from it.
    #[error("{0}: this snapshot has no manifest, and does not count")]
    NoManifest(String),
    /// The store did not answer, or refused.
    #[error("{object}: the store failed")]
    Store {
        /// The object that was asked for.
        object: String,
        /// What the store said.
        #[source]
        source: object_store::Error,
    },
    /// The store took an object and has something else.
    #[error("{object}: {written} bytes were written, the store has {found}")]
    Truncated {
        /// The object's path in the store.
        object: String,
        /// How many bytes were sent.
        written: u64,
        /// How many bytes the store says it has.
        found: u64,
    },
    /// The disk that is written to is full.
    #[error("{}: the disk is full", .0.display())]
    DiskFull(PathBuf),
    /// A file or a directory could not be read or written.
    #[error("{}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Somebody else is at work on this repository.
    #[error("{object}: locked by {owner} ({command}) since {since}, until {until} unless it is renewed")]
    Locked {
        /// The lock's path in the store.
        object: String,
        /// The owner's name.
        owner: String,
        /// What the owner does.
        command: String,
        /// Since when.
        since: jiff::Timestamp,
        /// When others may take it over if it is not renewed.
        until: jiff::Timestamp,
    },
    /// The lock was not renewed in time, so nothing more may be written.
    #[error("{0}: the lock was lost; nothing was written after that")]
    LockLost(String),
    /// What was restored is not what the manifest says.
    #[error("{path}: {reason}")]
    Differs {
        /// The path inside the snapshot.
        path: String,
        /// In what it differs.
        reason: String,
    },
    /// `pg_dump`, `pg_restore` or the database itself failed.
    #[error("{what}: {reason}")]
    Database {
        /// The group, the table or the program.
        what: String,
        /// What it said.
        reason: String,
    },
    /// The engine failed for a reason that has no object.
    #[error("{0}")]
    Engine(String),
}

/// What the program exits with; the numbers are part of its contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// It was done.
    Done = 0,
    /// It failed for a reason that no other code names.
    Failed = 1,
    /// The arguments, settings or input are wrong; nothing was touched.
    Usage = 2,
    /// No key of the ring opens the repository.
    WrongKey = 3,
    /// An object is corrupt, truncated or missing, or a file is not what its manifest says.
    Corrupt = 4,
    /// The store did not answer, or refused.
    StoreAway = 5,
    /// The disk that is written to is full.
    DiskFull = 6,
    /// Somebody else holds the repository's lock, or took it over.
    Locked = 7,
    /// There is no such repository or snapshot.
    NotFound = 8,
    /// `pg_dump`, `pg_restore` or the database failed.
    Database = 9,
}

impl BackupError {
    /// The exit code that says so.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::Usage,
            Self::WrongKey(_) => ExitCode::WrongKey,
            Self::Corrupt { .. }
            | Self::Missing(_)
            | Self::NoManifest(_)
            | Self::Truncated { .. }
            | Self::Differs { .. } => ExitCode::Corrupt,
            Self::Store { .. } => ExitCode::StoreAway,
            Self::DiskFull(_) => ExitCode::DiskFull,
            Self::Locked { .. } | Self::LockLost(_) => ExitCode::Locked,
            Self::NoRepository(_) | Self::NoSnapshot(_) => ExitCode::NotFound,
            Self::Database { .. } => ExitCode::Database,
            Self::File { .. } | Self::Engine(_) => ExitCode::Failed,
        }
    }

    /// An error of the file system, told apart by what an operator would do about it.
    pub(crate) fn file(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::DiskFull(path),
            _ => Self::File { path, source },
        }
    }

    /// The message with all that lies under it, in one line.
    pub fn chain(&self) -> String {
        let mut message = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            message.push_str(": ");
            message.push_str(&error.to_string());
            source = error.source();
        }
        message
    }
}
