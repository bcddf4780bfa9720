//! Backups: what bots remember, kept where no machine of theirs can lose it, and brought back.
//!
//! - A bot's data is its volume. Each bot has a repository of its own in an object store, encrypted and without
//!   duplicates; a job in a container of its own, on the bot's engine, copies the volume into it ([`BackupRunner`]).
//! - A bot is not stopped for that. What it has is copied while it runs; then its processes stand still for as long as it
//!   takes to copy what has changed since, so that a snapshot shows one instant.
//! - A restore fills a new volume and compares every file with what was saved before the bot gets it. The volume from
//!   before is kept: a bot that does not come up with the new one has the old one again. Each step is a row, so that a
//!   crash anywhere costs a repetition.
//! - What is kept and for how long is [`retention`]; the last good snapshot of a bot is never removed.
//! - Three different times are kept apart: the last attempt, the last success, and the last time every byte of a snapshot
//!   was read back.
//! - The platform's own database has a repository too. A copy of it is all tables as of one instant, by [`groups`]; a job
//!   that is attached to the database's network makes it every night and on demand.
//! - Where the database archives its log ([`LogArchive`]), its files are copied every night besides: those with the log
//!   bring back any instant since.
//!
//! [`Backups`] is the handle; without a [`BackupRunner`] it makes none and says so.

mod archive;
pub(crate) mod base_repository;
mod database;
mod error;
pub mod groups;
mod metering;
mod model;
mod ports;
mod recovering;
mod repository;
mod restoring;
pub mod retention;
mod saving;
mod service;
mod sets_repository;

pub use self::error::{BackupError, JobError};
pub use self::metering::{Metered, PER_GIB_MONTH};
pub use self::model::{
    ArchiveStatus, BackupStatus, BaseBackup, DatabaseSet, DatabaseStatus, History, Lost, NODE, NewRestore, PLATFORM,
    Restore, RestorePhase, Snapshot, SnapshotKind, SnapshotState, snapshot_path,
};
pub use self::ports::{Archived, BackupRunner, Job, LogArchive, RunningJob};
pub use self::saving::Tidied;
pub use self::service::{BackupConfig, Backups, Summary};
