use jiff::Timestamp;

use super::Billing;
use crate::audit::Actor;
use crate::billing::error::BillingError;
use crate::billing::hold::Hold;
use crate::billing::repository::{HoldRepository, StandingRepository};
use crate::db::DbError;
use crate::ids::{HoldId, TenantId};
use crate::money::Money;

impl Billing {
    /// Sets `amount` aside for the work that `reference_key` names; the same work and amount again answers the same
    /// hold, whatever has become of it.
    ///
    /// # Errors
    /// [`BillingError::InsufficientCredit`], [`BillingError::AccountSuspended`], [`BillingError::AccountBanned`],
    /// [`BillingError::KeyConflict`] when the key stands for other work, [`BillingError::InvalidTransfer`] for an
    /// amount that is not positive or a key that is empty or longer than 240 bytes, [`BillingError::TenantNotFound`],
    /// [`BillingError::Storage`].
    pub async fn open_hold(&self, tenant: TenantId, reference_key: &str, amount: Money) -> Result<Hold, BillingError> {
        // The capture's key is a prefix longer and has to fit too.
        if !amount.is_positive() || reference_key.is_empty() || reference_key.len() > 240 {
            return Err(BillingError::InvalidTransfer {
                reference_key: reference_key.to_owned(),
                why: "a hold needs a positive amount and a key of 1 to 240 bytes",
            });
        }
        let at = self.clock.now();
        let hold = Hold {
            id: HoldId::new(at),
            tenant_id: tenant,
            reference_key: reference_key.to_owned(),
            held: amount,
            opened_at: at,
            expires_at: self.hold_expiry(at),
            state: crate::billing::hold::HoldState::Open,
        };
        self.db
            .transaction(async |conn| {
                StandingRepository::new(conn).get(tenant).await?.standing.require_usable()?;
                HoldRepository::new(conn).open(hold).await
            })
            .await
    }

    /// Ends a hold at what the work really cost and posts it as `usage:{reference_key}`. Repeating it is a no-op.
    ///
    /// # Errors
    /// [`BillingError::HoldNotFound`], [`BillingError::ExceedsHold`], [`BillingError::Transition`] if it ended another
    /// way or the amount is negative, [`BillingError::Storage`].
    pub async fn settle(&self, tenant: TenantId, id: HoldId, actual: Money) -> Result<Hold, BillingError> {
        self.end_hold(tenant, id, |hold, at| hold.settle(actual, at)).await
    }

    /// As [`Billing::settle`], also above the hold: the customer has had the work, so the rest is posted as
    /// `overrun:{reference_key}` and may overdraw the wallet.
    ///
    /// # Errors
    /// As [`Billing::settle`], without [`BillingError::ExceedsHold`].
    pub async fn settle_with_overrun(&self, tenant: TenantId, id: HoldId, cost: Money) -> Result<Hold, BillingError> {
        self.end_hold(tenant, id, |hold, at| hold.settle_with_overrun(cost, at)).await
    }

    /// Releases a hold whose work was not done. Repeating it is a no-op.
    ///
    /// # Errors
    /// [`BillingError::HoldNotFound`], [`BillingError::Transition`] if settled, [`BillingError::Storage`].
    pub async fn void(&self, tenant: TenantId, id: HoldId) -> Result<Hold, BillingError> {
        self.end_hold(tenant, id, Hold::void).await
    }

    /// Keeps the hold of work still in progress for another lifetime from now.
    ///
    /// # Errors
    /// [`BillingError::HoldNotFound`], [`BillingError::Transition`] if ended, [`BillingError::Storage`].
    pub async fn extend_hold(&self, tenant: TenantId, id: HoldId) -> Result<Hold, BillingError> {
        self.end_hold(tenant, id, |hold, at| hold.extend(self.hold_expiry(at))).await
    }

    /// Releases the holds that nobody ended in time, and answers how many. For a periodic task.
    ///
    /// # Errors
    /// [`BillingError::Storage`].
    pub async fn expire_holds(&self) -> Result<usize, BillingError> {
        let at = self.clock.now();
        let mut expired = 0;
        loop {
            let batch = self
                .db
                .transaction(async |conn| HoldRepository::new(conn).expire_due(at).await)
                .await
                .map_err(|error: DbError| BillingError::from(error))?;
            if batch == 0 {
                return Ok(expired);
            }
            expired += batch;
        }
    }

    async fn end_hold(
        &self,
        tenant: TenantId,
        id: HoldId,
        event: impl FnOnce(Hold, Timestamp) -> Result<Hold, BillingError> + Send,
    ) -> Result<Hold, BillingError> {
        let at = self.clock.now();
        self.db
            .transaction(async |conn| {
                let mut holds = HoldRepository::new(conn);
                let found = holds.find_for_update(tenant, id).await?.ok_or(BillingError::HoldNotFound(id))?;
                let hold = event(found.clone(), at)?;
                if hold != found {
                    holds.save(&hold).await?;
                    self.post_in(conn, at, &hold.transfers(&Actor::System("holds"))).await?;
                }
                Ok(hold)
            })
            .await
    }

    fn hold_expiry(&self, at: Timestamp) -> Timestamp {
        at.saturating_add(self.config.hold_lifetime).unwrap_or(Timestamp::MAX)
    }
}
