//! Whether a tenant may use the platform, and what moves it between the states.

use jiff::{SignedDuration, Timestamp};

use super::error::{BillingError, InvalidTransition};
use super::ledger::closed_set;

/// How long bots run on after credit ran out.
pub const GRACE_PERIOD: SignedDuration = SignedDuration::from_hours(3 * 24);
/// How long a suspended or banned tenant's data is kept.
pub const RETENTION: SignedDuration = SignedDuration::from_hours(30 * 24);

closed_set! {
    /// Why a tenant is suspended.
    SuspensionReason {
        /// Credit ran out and the grace period passed. The only one that a purchase lifts.
        Credits = "credits",
        /// An operator's decision.
        Admin = "admin",
        /// A payment is disputed.
        Dispute = "dispute",
    }
}

/// A standing and what is known about how it came to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StandingRecord {
    /// The standing.
    pub standing: Standing,
    /// Since when; `None` if it never changed.
    pub since: Option<Timestamp>,
    /// Who changed it last.
    pub changed_by: Option<String>,
}

/// Whether a tenant may use the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// Everything works.
    #[default]
    Active,
    /// Credit ran out; everything works until then.
    Grace {
        /// When it becomes a suspension.
        until: Timestamp,
    },
    /// Nothing works; data is kept.
    Suspended {
        /// Why.
        reason: SuspensionReason,
        /// When data is deleted; only a suspension for lack of credit ends so.
        delete_after: Option<Timestamp>,
    },
    /// For good.
    Banned {
        /// When data is deleted.
        delete_after: Timestamp,
    },
    /// Data is being, or has been, deleted.
    Destroying,
}

impl Standing {
    /// The stored and public word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Grace { .. } => "grace",
            Self::Suspended { .. } => "suspended",
            Self::Banned { .. } => "banned",
            Self::Destroying => "destroying",
        }
    }

    /// Refuses a tenant that may not use the platform.
    ///
    /// # Errors
    /// [`BillingError::AccountSuspended`], [`BillingError::AccountBanned`].
    pub fn require_usable(self) -> Result<(), BillingError> {
        match self {
            Self::Active | Self::Grace { .. } => Ok(()),
            Self::Suspended { reason, .. } => Err(BillingError::AccountSuspended { reason }),
            Self::Banned { .. } | Self::Destroying => Err(BillingError::AccountBanned),
        }
    }

    /// A charge could not be taken: an active tenant gets its grace period, which a second shortage does not renew.
    #[must_use]
    pub fn run_short(self, at: Timestamp) -> Self {
        match self {
            Self::Active => Self::Grace { until: later(at, GRACE_PERIOD) },
            other => other,
        }
    }

    /// Credit arrived and the wallet is positive: lifts what lack of credit imposed, and nothing else.
    #[must_use]
    pub fn refill(self) -> Self {
        match self {
            Self::Grace { .. } | Self::Suspended { reason: SuspensionReason::Credits, .. } => Self::Active,
            other => other,
        }
    }

    /// Time passes: grace becomes a suspension, retention ends in destruction.
    #[must_use]
    pub fn pass_time(self, at: Timestamp) -> Self {
        match self {
            Self::Grace { until } if until <= at => {
                Self::Suspended { reason: SuspensionReason::Credits, delete_after: Some(later(at, RETENTION)) }
            }
            Self::Suspended { delete_after: Some(end), .. } | Self::Banned { delete_after: end } if end <= at => {
                Self::Destroying
            }
            other => other,
        }
    }

    /// An operator or a dispute stops the tenant. Repeating it is a no-op; an operator's reason replaces another.
    ///
    /// # Errors
    /// [`BillingError::Transition`] if banned or destroyed.
    pub fn suspend(self, reason: SuspensionReason) -> Result<Self, BillingError> {
        match self {
            Self::Suspended { reason: SuspensionReason::Admin, .. } => Ok(self),
            Self::Active | Self::Grace { .. } | Self::Suspended { .. } => {
                Ok(Self::Suspended { reason, delete_after: None })
            }
            Self::Banned { .. } | Self::Destroying => Err(refused(self, "suspend")),
        }
    }

    /// An operator lets the tenant in again, whatever stopped it short of a ban.
    ///
    /// # Errors
    /// [`BillingError::Transition`] if banned or destroyed.
    pub fn reactivate(self) -> Result<Self, BillingError> {
        match self {
            Self::Active | Self::Grace { .. } | Self::Suspended { .. } => Ok(Self::Active),
            Self::Banned { .. } | Self::Destroying => Err(refused(self, "reactivate")),
        }
    }

    /// A dispute was won: lifts the suspension it imposed, and no other.
    #[must_use]
    pub fn settle_dispute(self) -> Self {
        match self {
            Self::Suspended { reason: SuspensionReason::Dispute, .. } => Self::Active,
            other => other,
        }
    }

    /// For good. Repeating it changes nothing, not even the date of deletion.
    ///
    /// # Errors
    /// [`BillingError::Transition`] if destroyed.
    pub fn ban(self, at: Timestamp) -> Result<Self, BillingError> {
        match self {
            Self::Banned { .. } => Ok(self),
            Self::Destroying => Err(refused(self, "ban")),
            Self::Active | Self::Grace { .. } | Self::Suspended { .. } => {
                Ok(Self::Banned { delete_after: later(at, RETENTION) })
            }
        }
    }
}

fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_add(by).unwrap_or(Timestamp::MAX)
}

fn refused(from: Standing, event: &'static str) -> BillingError {
    InvalidTransition { from: from.name(), event }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn suspended(reason: SuspensionReason) -> Standing {
        let delete_after = (reason == SuspensionReason::Credits).then(|| AT + RETENTION);
        Standing::Suspended { reason, delete_after }
    }

    #[test]
    fn a_purchase_lifts_only_what_lack_of_credit_imposed() {
        let grace = Standing::Grace { until: AT };
        let banned = Standing::Banned { delete_after: AT };
        let table = [
            (Standing::Active, Standing::Active),
            (grace, Standing::Active),
            (suspended(SuspensionReason::Credits), Standing::Active),
            (suspended(SuspensionReason::Admin), suspended(SuspensionReason::Admin)),
            (suspended(SuspensionReason::Dispute), suspended(SuspensionReason::Dispute)),
            (banned, banned),
            (Standing::Destroying, Standing::Destroying),
        ];
        for (from, to) in table {
            assert_eq!(from.refill(), to);
        }
    }

    #[test]
    fn shortage_leads_through_grace_and_suspension_to_destruction() {
        let grace = Standing::Active.run_short(AT);
        assert_eq!(grace, Standing::Grace { until: AT + GRACE_PERIOD });
        assert_eq!(grace.run_short(AT + SignedDuration::from_hours(24)), grace);
        let almost = AT + GRACE_PERIOD - SignedDuration::from_nanos(1);
        assert_eq!(grace.pass_time(almost), grace);
        let end = AT + GRACE_PERIOD;
        let suspension = grace.pass_time(end);
        let expected = Standing::Suspended { reason: SuspensionReason::Credits, delete_after: Some(end + RETENTION) };
        assert_eq!(suspension, expected);
        assert!(suspension.require_usable().is_err());
        assert_eq!(suspension.pass_time(end + RETENTION), Standing::Destroying);
        assert_eq!(suspended(SuspensionReason::Admin).pass_time(Timestamp::MAX), suspended(SuspensionReason::Admin));
    }

    #[test]
    fn a_ban_is_final_and_an_operators_suspension_outlives_disputes() {
        let banned = Standing::Active.ban(AT).unwrap();
        assert_eq!(banned.ban(AT + RETENTION).unwrap(), banned);
        assert!(banned.reactivate().is_err());
        assert!(banned.suspend(SuspensionReason::Admin).is_err());
        assert_eq!(banned.pass_time(AT + RETENTION), Standing::Destroying);
        let by_operator = suspended(SuspensionReason::Admin);
        assert_eq!(by_operator.suspend(SuspensionReason::Dispute).unwrap(), by_operator);
        assert_eq!(by_operator.settle_dispute(), by_operator);
        assert_eq!(suspended(SuspensionReason::Dispute).settle_dispute(), Standing::Active);
        assert_eq!(by_operator.reactivate().unwrap(), Standing::Active);
    }
}
