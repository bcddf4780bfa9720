use super::standing::SuspensionReason;
use crate::db::DbError;
use crate::ids::{HoldId, TenantId};
use crate::money::{Money, MoneyOverflow};

/// A transition that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event} is not possible while {from}")]
pub struct InvalidTransition {
    /// The state it is in.
    pub from: &'static str,
    /// What was asked.
    pub event: &'static str,
}

/// Why a billing operation was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum BillingError {
    /// The tenant's available credit does not cover it; nothing was posted.
    #[error("{required} is needed and {available} is available")]
    InsufficientCredit {
        /// What could have been spent.
        available: Money,
        /// What was asked for.
        required: Money,
    },
    /// The tenant may not use the platform at present.
    #[error("the account is suspended ({})", reason.as_str())]
    AccountSuspended {
        /// Why.
        reason: SuspensionReason,
    },
    /// The tenant may not use the platform any more.
    #[error("the account is banned")]
    AccountBanned,
    /// No such tenant.
    #[error("tenant {0} does not exist")]
    TenantNotFound(TenantId),
    /// No such hold, or not this tenant's.
    #[error("{0} does not exist")]
    HoldNotFound(HoldId),
    /// The request cost more than was set aside for it.
    #[error("{actual} exceeds the {held} on hold")]
    ExceedsHold {
        /// What was set aside.
        held: Money,
        /// What it cost.
        actual: Money,
    },
    /// The state does not allow it.
    #[error(transparent)]
    Transition(#[from] InvalidTransition),
    /// The reference key already stands for something else.
    #[error("the reference {reference_key} was used for something else")]
    KeyConflict {
        /// The key.
        reference_key: String,
    },
    /// The transfer or hold can never be taken, whatever the balance.
    #[error("{reference_key:?} cannot be posted: {why}")]
    InvalidTransfer {
        /// The key it came with.
        reference_key: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The typed confirmation is not the demanded one.
    #[error("the confirmation does not match")]
    NotConfirmed,
    /// An amount of money is out of range.
    #[error(transparent)]
    Overflow(#[from] MoneyOverflow),
    /// PostgreSQL could not answer; nothing was changed.
    #[error("billing storage failed")]
    Storage(#[from] DbError),
}
