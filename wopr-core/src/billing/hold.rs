//! Holds: credit set aside while work whose price is not known yet is in progress.

use jiff::Timestamp;

use super::error::{BillingError, InvalidTransition};
use super::ledger::{Transfer, TransferKind};
use crate::audit::Actor;
use crate::ids::{HoldId, TenantId};
use crate::money::Money;

/// Credit set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Its id.
    pub id: HoldId,
    /// Whose credit.
    pub tenant_id: TenantId,
    /// Names the work, such as a request id: the same work holds once.
    pub reference_key: String,
    /// How much is set aside.
    pub held: Money,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it is released if nobody ends it.
    pub expires_at: Timestamp,
    /// Where it is in its life.
    pub state: HoldState,
}

/// Where a hold is in its life. Every state but `Open` is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldState {
    /// Set aside.
    Open,
    /// Ended at what the work cost.
    Settled {
        /// What was taken out of the hold.
        actual: Money,
        /// What was taken beyond the hold.
        overrun: Money,
        /// When.
        at: Timestamp,
    },
    /// Released: the work was not done.
    Voided {
        /// When.
        at: Timestamp,
    },
    /// Released: nobody ended it in time.
    Expired {
        /// When.
        at: Timestamp,
    },
}

impl HoldState {
    /// The stored word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Settled { .. } => "settled",
            Self::Voided { .. } => "voided",
            Self::Expired { .. } => "expired",
        }
    }
}

impl Hold {
    /// Ends the hold at what the work really cost. Settling again at the same amount is a no-op.
    ///
    /// # Errors
    /// [`BillingError::ExceedsHold`] above [`Hold::held`]; [`BillingError::Transition`] if ended another way or the
    /// amount is negative.
    pub fn settle(self, actual: Money, at: Timestamp) -> Result<Self, BillingError> {
        let held = self.held;
        if matches!(self.state, HoldState::Open) && held < actual {
            return Err(BillingError::ExceedsHold { held, actual });
        }
        self.settle_with_overrun(actual, at)
    }

    /// Ends the hold at what the work really cost, even above the hold: the customer has had it.
    ///
    /// # Errors
    /// [`BillingError::Transition`] if ended another way or the amount is negative.
    pub fn settle_with_overrun(self, cost: Money, at: Timestamp) -> Result<Self, BillingError> {
        let actual = cost.min(self.held);
        let overrun = cost.try_sub(actual)?;
        match self.state {
            HoldState::Open if !cost.is_negative() => {
                Ok(Self { state: HoldState::Settled { actual, overrun, at }, ..self })
            }
            HoldState::Settled { actual: before, overrun: beyond, .. } if (before, beyond) == (actual, overrun) => {
                Ok(self)
            }
            state => Err(refused(state, "settle")),
        }
    }

    /// Releases the hold: the work was not done. Voiding again is a no-op, and so is voiding what expired.
    ///
    /// # Errors
    /// [`BillingError::Transition`] if settled.
    pub fn void(self, at: Timestamp) -> Result<Self, BillingError> {
        match self.state {
            HoldState::Open => Ok(Self { state: HoldState::Voided { at }, ..self }),
            HoldState::Voided { .. } | HoldState::Expired { .. } => Ok(self),
            state @ HoldState::Settled { .. } => Err(refused(state, "void")),
        }
    }

    /// Keeps an open hold until `expires_at`; never shortens it.
    ///
    /// # Errors
    /// [`BillingError::Transition`] if ended.
    pub fn extend(self, expires_at: Timestamp) -> Result<Self, BillingError> {
        match self.state {
            HoldState::Open => Ok(Self { expires_at: self.expires_at.max(expires_at), ..self }),
            state => Err(refused(state, "extend")),
        }
    }

    /// What has to be posted for the state it is in: nothing unless settled above zero.
    pub fn transfers(&self, actor: &Actor) -> Vec<Transfer> {
        let HoldState::Settled { actual, overrun, .. } = self.state else { return Vec::new() };
        let parts = [
            (TransferKind::AdapterUsage, actual, format!("usage:{}", self.reference_key)),
            (TransferKind::UsageOverrun, overrun, format!("overrun:{}", self.reference_key)),
        ];
        parts
            .into_iter()
            .filter(|(_, amount, _)| amount.is_positive())
            .map(|(kind, amount, key)| {
                Transfer::from_wallet(key, kind, self.tenant_id, amount, actor.clone()).capturing(self.id)
            })
            .collect()
    }
}

fn refused(state: HoldState, event: &'static str) -> BillingError {
    InvalidTransition { from: state.name(), event }.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const AT: Timestamp = Timestamp::constant(1_800_000_000, 0);
    const LATER: Timestamp = Timestamp::constant(1_800_000_060, 0);

    fn hold(state: HoldState) -> Hold {
        Hold {
            id: HoldId::from_uuid(Uuid::from_u128(1 << 80)),
            tenant_id: TenantId::from_uuid(Uuid::from_u128(2 << 80)),
            reference_key: "req".to_owned(),
            held: Money::from_cents(40),
            opened_at: AT,
            expires_at: LATER,
            state,
        }
    }

    fn settled(cents: i32) -> HoldState {
        HoldState::Settled { actual: Money::from_cents(cents), overrun: Money::ZERO, at: AT }
    }

    #[test]
    fn each_state_takes_what_it_may_and_refuses_the_rest() {
        type Event = fn(Hold) -> Result<Hold, BillingError>;

        let (voided, expired) = (HoldState::Voided { at: AT }, HoldState::Expired { at: AT });
        let fifteen = Money::from_cents(15);
        let settle: Event = |hold| hold.settle(Money::from_cents(15), LATER);
        let void: Event = |hold| hold.void(LATER);
        let extend: Event = |hold| hold.extend(Timestamp::constant(1_800_000_120, 0));
        let done = HoldState::Settled { actual: fifteen, overrun: Money::ZERO, at: LATER };
        let table: [(HoldState, Event, Option<HoldState>); 13] = [
            (HoldState::Open, settle, Some(done)),
            (HoldState::Open, void, Some(HoldState::Voided { at: LATER })),
            (HoldState::Open, extend, Some(HoldState::Open)),
            (settled(15), settle, Some(settled(15))),
            (settled(14), settle, None),
            (settled(15), void, None),
            (settled(15), extend, None),
            (voided, settle, None),
            (voided, void, Some(voided)),
            (voided, extend, None),
            (expired, settle, None),
            (expired, void, Some(expired)),
            (expired, extend, None),
        ];
        for (from, event, to) in table {
            assert_eq!(event(hold(from)).ok().map(|hold| hold.state), to, "from {from:?}");
        }
    }

    #[test]
    fn above_the_hold_needs_the_explicit_way() {
        let refused = hold(HoldState::Open).settle(Money::from_cents(41), AT);
        assert!(matches!(refused, Err(BillingError::ExceedsHold { .. })));
        let overrun = hold(HoldState::Open).settle_with_overrun(Money::from_cents(41), AT).unwrap();
        let posted: Vec<_> =
            overrun.transfers(&Actor::System("test")).into_iter().map(|t| (t.reference_key, t.amount)).collect();
        let expected =
            [("usage:req".to_owned(), Money::from_cents(40)), ("overrun:req".to_owned(), Money::from_cents(1))];
        assert_eq!(posted, expected);
        assert!(hold(HoldState::Open).settle(Money::from_cents(-1), AT).is_err());
        assert!(hold(HoldState::Open).settle(Money::ZERO, AT).unwrap().transfers(&Actor::System("test")).is_empty());
    }

    proptest! {
        #[test]
        fn a_settlement_posts_exactly_the_cost(held in 1i64..1_000_000_000_000, cost in 0i64..2_000_000_000_000) {
            let open = Hold { held: Money::from_nanos(held), ..hold(HoldState::Open) };
            let cost = Money::from_nanos(cost);
            prop_assert_eq!(open.clone().settle(cost, AT).is_ok(), cost <= open.held);
            let ended = open.settle_with_overrun(cost, AT).unwrap();
            let transfers = ended.transfers(&Actor::System("test"));
            let total: i64 = transfers.iter().map(|transfer| transfer.amount.as_nanos()).sum();
            prop_assert_eq!(total, cost.as_nanos());
            prop_assert!(transfers.iter().all(|transfer| transfer.check().is_ok()));
            prop_assert_eq!(ended.clone().settle_with_overrun(cost, LATER).unwrap(), ended);
        }
    }
}
