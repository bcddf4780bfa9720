use std::collections::BTreeMap;

use diesel_async::AsyncPgConnection;
use jiff::{SignedDuration, Timestamp};

use super::Billing;
use crate::audit::Actor;
use crate::billing::error::BillingError;
use crate::billing::ledger::{Posted, Transfer, TransferKind};
use crate::billing::repository::{LeaseRepository, LedgerRepository, StandingRepository};
use crate::ids::{LeaseHolder, TenantId};
use crate::money::Money;

/// How many leases one transaction releases.
const RELEASE_BATCH: i64 = 200;

/// Something that leased credit was spent for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spent {
    /// Whose credit.
    pub tenant: TenantId,
    /// Names the work: the same work is posted once, as `usage:{reference}`.
    pub reference: String,
    /// More than nothing.
    pub amount: Money,
    /// For people.
    pub description: String,
}

impl Billing {
    /// A lease that nobody renewed or spent from for this long belongs to a process that is gone.
    pub const LEASE_LIFETIME: SignedDuration = SignedDuration::from_mins(10);

    /// Sets credit aside for `holder` to spend in many parts: `wish`, but no more than a quarter of what is available, and
    /// at least `need`. Answers how much was added to what the holder has already.
    ///
    /// # Errors
    /// [`BillingError::InsufficientCredit`] when less than `need` is available, [`BillingError::AccountSuspended`],
    /// [`BillingError::AccountBanned`], [`BillingError::Storage`].
    pub async fn lease(
        &self,
        tenant: TenantId,
        holder: LeaseHolder,
        need: Money,
        wish: Money,
    ) -> Result<Money, BillingError> {
        let at = self.clock.now();
        self.db
            .transaction(async |conn| {
                StandingRepository::new(conn).get(tenant).await?.standing.require_usable()?;
                let available = LedgerRepository::new(conn).lock_balance(tenant).await?.available;
                if available < need {
                    return Err(BillingError::InsufficientCredit { available, required: need });
                }
                // Others may want some of it as well: what is there is not taken at once.
                let share = Money::from_nanos(available.as_nanos() / 4);
                let granted = wish.min(share).max(need);
                if granted.is_positive() {
                    LeaseRepository::new(conn).grant(at, tenant, holder, granted).await?;
                }
                Ok(granted)
            })
            .await
    }

    /// Gives back what the holder will not spend. What is not in the lease any more cannot be given back.
    ///
    /// # Errors
    /// [`BillingError::Storage`].
    pub async fn return_leased(
        &self,
        tenant: TenantId,
        holder: LeaseHolder,
        amount: Money,
    ) -> Result<(), BillingError> {
        let at = self.clock.now();
        self.db
            .transaction(async |conn| {
                LedgerRepository::new(conn).lock_balance(tenant).await?;
                Ok(LeaseRepository::new(conn).take(at, holder, &[(tenant, amount)]).await?)
            })
            .await
    }

    /// Says that `holder` is still there.
    ///
    /// # Errors
    /// [`BillingError::Storage`].
    pub async fn renew_leases_of(&self, holder: LeaseHolder) -> Result<(), BillingError> {
        let mut conn = self.db.connection().await?;
        Ok(LeaseRepository::new(&mut conn).renew(self.clock.now(), holder).await?)
    }

    /// Gives back all that `holder` has: it has settled what it spent and begins anew. Answers how many leases that were.
    ///
    /// # Errors
    /// [`BillingError::Storage`].
    pub async fn release_leases_of(&self, holder: LeaseHolder) -> Result<usize, BillingError> {
        self.release(Some(holder), Timestamp::MAX).await
    }

    /// Gives back what processes have that are gone: [`Billing::LEASE_LIFETIME`] without a word. What they spent is
    /// settled when they come back, and may overdraw. For a periodic task; answers how many leases that were.
    ///
    /// # Errors
    /// [`BillingError::Storage`].
    pub async fn release_lost_leases(&self) -> Result<usize, BillingError> {
        self.release(None, self.clock.now() - Self::LEASE_LIFETIME).await
    }

    /// Posts what was spent, each part once by its reference, and takes it out of the holder's leases: in the caller's
    /// transaction. Answers for each, in order, what the ledger now holds.
    ///
    /// # Errors
    /// [`BillingError::KeyConflict`], [`BillingError::InvalidTransfer`], [`BillingError::TenantNotFound`],
    /// [`BillingError::Storage`].
    pub(crate) async fn settle_spent_in(
        &self,
        conn: &mut AsyncPgConnection,
        at: Timestamp,
        holder: LeaseHolder,
        spent: &[Spent],
    ) -> Result<Vec<Posted>, BillingError> {
        let transfers: Vec<Transfer> = spent
            .iter()
            .map(|part| {
                let (key, actor) = (format!("usage:{}", part.reference), Actor::System("gateway"));
                Transfer::from_wallet(key, TransferKind::AdapterUsage, part.tenant, part.amount, actor)
                    .described(part.description.as_str())
                    .spent_from(holder)
            })
            .collect();
        let posted = self.post_in(conn, at, &transfers).await?;
        let mut fresh: BTreeMap<TenantId, Money> = BTreeMap::new();
        for posted in posted.iter().filter(|posted| posted.fresh) {
            let Some(tenant) = posted.debit.tenant() else { continue };
            let sum = fresh.entry(tenant).or_default();
            *sum = sum.try_add(posted.amount)?;
        }
        if !fresh.is_empty() {
            LeaseRepository::new(conn).take(at, holder, &fresh.into_iter().collect::<Vec<_>>()).await?;
        }
        Ok(posted)
    }

    /// As `settle_spent_in`, in a transaction of its own.
    ///
    /// # Errors
    /// [`BillingError::KeyConflict`], [`BillingError::InvalidTransfer`], [`BillingError::TenantNotFound`],
    /// [`BillingError::Storage`].
    pub async fn settle_spent(&self, holder: LeaseHolder, spent: &[Spent]) -> Result<Vec<Posted>, BillingError> {
        let at = self.clock.now();
        self.db.transaction(async |conn| self.settle_spent_in(conn, at, holder, spent).await).await
    }

    async fn release(&self, holder: Option<LeaseHolder>, before: Timestamp) -> Result<usize, BillingError> {
        let at = self.clock.now();
        let mut released = 0;
        loop {
            let batch = self
                .db
                .transaction(async |conn| {
                    let mut leases = LeaseRepository::new(conn);
                    let tenants = leases.lock_leased(holder, before, RELEASE_BATCH).await?;
                    if tenants.is_empty() {
                        return Ok(None);
                    }
                    Ok::<_, BillingError>(Some(leases.release(at, holder, before, &tenants).await?))
                })
                .await?;
            match batch {
                None => return Ok(released),
                Some(batch) => released += batch,
            }
        }
    }
}
