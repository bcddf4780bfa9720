//! What backups need from outside.

use async_trait::async_trait;
use jiff::Timestamp;

use super::error::JobError;
use super::model::History;
use crate::ids::{BotId, TenantId};
use crate::protocol::backup::{Report, Work};

/// A piece of work on one bot's repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Whose repository.
    pub bot_id: BotId,
    /// Whose bot.
    pub tenant_id: TenantId,
    /// The number of the data volume: the one that is read by a save, or the one that a restore fills, whatever is in it.
    pub volume: u32,
    /// What to do.
    pub work: Work,
}

/// Runs jobs beside the bots' volumes.
///
/// One job of a bot runs at a time: whoever is begun ends what was left of one before.
#[async_trait]
pub trait BackupRunner: Send + Sync + 'static {
    /// Begins a job.
    async fn begin(&self, job: &Job) -> Result<Box<dyn RunningJob>, JobError>;

    /// Whether the bot's data volume of that number is there.
    async fn has_volume(&self, bot: BotId, volume: u32) -> Result<bool, JobError>;

    /// Begins work on the platform's own repository, where its database's copies are. One at a time, as for a bot.
    async fn begin_on_platform(&self, work: &Work) -> Result<Box<dyn RunningJob>, JobError>;
}

/// A copy of the database's files that the archive has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// What the archive calls it.
    pub label: String,
    /// What it is a copy of.
    pub history: History,
    /// When copying began.
    pub started_at: Timestamp,
    /// When it ended: the log brings the copy to any instant from then on.
    pub finished_at: Timestamp,
    /// Bytes of the database's files.
    pub size_bytes: u64,
    /// Bytes that it added to the store.
    pub added_bytes: u64,
}

/// The archive of the database's log. The database itself puts the log there, piece by piece; with a copy of the
/// database's files from before, that brings back any instant since.
#[async_trait]
pub trait LogArchive: Send + Sync + 'static {
    /// Copies the database's files, what has changed since the last time or, once a week and when asked to, in full; lets go
    /// of what the archive keeps no longer.
    async fn copy(&self, in_full: bool) -> Result<(), JobError>;

    /// Reads every byte of all copies and of the log; answers with what is not as it was written, if anything.
    async fn verify(&self) -> Result<Option<String>, JobError>;

    /// All copies that can be restored, the newest first.
    async fn list(&self) -> Result<Vec<Archived>, JobError>;
}

/// A job under way. One that is dropped is left to itself, and its outcome is never known.
#[async_trait]
pub trait RunningJob: Send {
    /// Waits until a save has copied what there is and wants the bot to stand still.
    async fn ready(&mut self) -> Result<(), JobError>;

    /// Lets a save copy what has changed, while the bot stands still. It is no snapshot yet.
    async fn copy(&mut self) -> Result<(), JobError>;

    /// Lets it go on, and waits for its end: a save's copy counts from then on.
    async fn finish(self: Box<Self>) -> Result<Report, JobError>;
}
