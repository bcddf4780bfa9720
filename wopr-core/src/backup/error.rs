use crate::billing::BillingError;
use crate::db::DbError;
use crate::fleet::{FleetError, HostError};
use crate::ids::{BotId, DatabaseSetId, SnapshotId};
use crate::money::Money;
use crate::protocol::backup::{Failure, FailureKind};

use super::retention::Tier;

/// Why something about backups was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// No object store is configured.
    #[error("backups are switched off: no object store is configured")]
    Off,
    /// No such bot, or not this tenant's.
    #[error("bot {0} does not exist")]
    NoBot(BotId),
    /// No such snapshot, or not this bot's.
    #[error("snapshot {0} does not exist")]
    NoSnapshot(SnapshotId),
    /// A value breaks a rule.
    #[error("{field}: {rule}")]
    Invalid {
        /// The field, as clients write it.
        field: &'static str,
        /// The rule.
        rule: &'static str,
    },
    /// The snapshot cannot be restored: it was not finished, or is gone.
    #[error("snapshot {0} cannot be restored: it is not complete, or was removed")]
    NotReady(SnapshotId),
    /// Only snapshots made on demand are removed by hand.
    #[error("snapshot {0} was not made on demand; it goes when its time has come")]
    NotOnDemand(SnapshotId),
    /// Nothing is kept for whoever pays for nothing.
    #[error("credit is needed to make a snapshot")]
    NoCredit {
        /// What there is.
        balance: Money,
    },
    /// The tenant has as many as it may.
    #[error("the tenant has {current} of {max} snapshots")]
    Quota {
        /// How many there are.
        current: u32,
        /// How many there may be.
        max: u32,
        /// Of which tier.
        tier: Tier,
    },
    /// The bot is being restored already.
    #[error("bot {0} is being restored already")]
    RestoreUnderWay(BotId),
    /// Something else is being done with the bot's backups.
    #[error("the backups of bot {0} are being worked on")]
    Busy(BotId),
    /// No such complete copy of the database.
    #[error("there is no complete set {0}")]
    NoSet(DatabaseSetId),
    /// There is no such complete copy of the database's files.
    #[error("there is no copy {0} of the database's files")]
    NoBase(String),
    /// Something else is being done with the database's backups.
    #[error("the backups of the database are being worked on")]
    DatabaseBusy,
    /// A job did not do what it was asked.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The fleet refused, or could not answer.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// Billing could not answer.
    #[error(transparent)]
    Billing(#[from] BillingError),
    /// The database could not answer; nothing was changed.
    #[error("storage of backups failed")]
    Storage(#[from] DbError),
}

/// Why a job did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// There is nobody to run it.
    #[error("no object store is configured")]
    Off,
    /// It said so itself.
    #[error("{}", .0.detail)]
    Failed(Failure),
    /// There is no such volume: the bot has never run, or its data is gone.
    #[error("there is no volume {0}")]
    NoVolume(String),
    /// It ended without a word.
    #[error("the job ended with exit code {exit_code}: {last_words}")]
    Died {
        /// How it ended.
        exit_code: i64,
        /// The end of what it wrote for people.
        last_words: String,
    },
    /// The container engine did not do what was asked.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl JobError {
    /// Whether the same may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Failed(failure) => {
                matches!(failure.kind, FailureKind::StoreAway | FailureKind::NoSpace | FailureKind::Locked)
            }
            // What an engine refuses here is a container of ours, in which nothing is anybody's choice.
            Self::Died { .. } | Self::Host(_) => true,
            Self::NoVolume(_) | Self::Off => false,
        }
    }
}
