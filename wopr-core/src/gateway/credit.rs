//! Admission by credit, from memory: slices of wallets are leased to this process, and each call reserves what it may cost
//! at most before it is let in.
//!
//! For each tenant: what is leased = what is free + what is reserved + what is spent and not settled yet. Only what is free
//! is reserved, so that calls at once cannot spend more than the wallet had.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify};

use super::repository;
use super::to_its_end::ToItsEnd;
use crate::billing::{Billing, BillingError};
use crate::db::{Db, DbError};
use crate::ids::{LeaseHolder, TenantId};
use crate::money::Money;

/// The first slice of a tenant, unless a call needs more.
const FIRST_SLICE: Money = Money::from_cents(5);
/// No slice is larger, unless a call needs more.
const LARGEST_SLICE: Money = Money::from_cents(500);
/// A tenant that needs another slice this soon gets one twice as large.
const SOON: Duration = Duration::from_secs(1);
/// What is free is given back when the tenant has not called for so long.
const IDLE: Duration = Duration::from_secs(5);
/// How long the wallet may take to answer.
const LEASE: Duration = Duration::from_secs(10);
/// How long others may take to give back what they have free; whoever asks soon after that was in vain is refused at once.
const RECALL: Duration = Duration::from_secs(3);

/// The slices of all tenants.
pub(super) struct Credit {
    wallets: Wallets,
    slices: RwLock<HashMap<TenantId, Arc<Slice>>>,
    began: Instant,
}

/// Where slices are leased from, and for whom.
#[derive(Clone)]
struct Wallets {
    billing: Billing,
    db: Db,
    holder: LeaseHolder,
}

/// What one tenant has leased to this process.
struct Slice {
    tenant: TenantId,
    free: AtomicI64,
    /// Milliseconds since the process began.
    used_at: AtomicU64,
    refill: Mutex<Refill>,
    given_back: Notify,
}

#[derive(Default)]
struct Refill {
    last: Option<(Instant, Money)>,
    /// When others were last waited for in vain.
    in_vain: Option<Instant>,
}

/// Credit for one call. Dropped without being spent, all of it is free again.
pub(super) struct Reservation {
    slice: Arc<Slice>,
    amount: Money,
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Reservation").field(&self.amount).finish()
    }
}

impl Slice {
    fn try_reserve(&self, amount: i64) -> bool {
        self.free
            .try_update(Ordering::AcqRel, Ordering::Acquire, |free| (free >= amount).then(|| free - amount))
            .is_ok()
    }
}

impl Reservation {
    /// Frees what was not spent. What was spent beyond it is taken from what is free, as far as that goes.
    pub(super) fn spend(mut self, charge: Money) {
        let rest = self.amount.as_nanos().saturating_sub(charge.as_nanos());
        if rest < 0 {
            let (Ok(before) | Err(before)) = self
                .slice
                .free
                .try_update(Ordering::AcqRel, Ordering::Acquire, |free| Some(free.saturating_add(rest).max(0)));
            if before < -rest {
                let beyond = Money::from_nanos(-rest - before);
                tracing::warn!(tenant.id = %self.slice.tenant, "a call cost {beyond} more than was set aside for it");
            }
            self.amount = Money::ZERO;
        } else {
            self.amount = Money::from_nanos(rest);
        }
        // The rest is freed by the drop.
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.amount.is_positive() {
            self.slice.free.fetch_add(self.amount.as_nanos(), Ordering::AcqRel);
        }
    }
}

impl Wallets {
    /// `false` if nothing was free.
    async fn give_back(self, slice: Arc<Slice>) -> Result<bool, BillingError> {
        let mut taken = Taken { slice: &slice, nanos: slice.free.swap(0, Ordering::AcqRel) };
        if taken.nanos == 0 {
            return Ok(false);
        }
        let amount = Money::from_nanos(taken.nanos);
        let returned = self.billing.return_leased(slice.tenant, self.holder, amount).await;
        if returned.is_ok() {
            taken.nanos = 0;
        }
        returned.map(|()| true)
    }

    /// Leases more, and reserves `amount` of it.
    async fn refill(self, slice: Arc<Slice>, amount: Money) -> Result<Reservation, BillingError> {
        // One at a time: the others may find what this one brings.
        let mut refill = slice.refill.lock().await;
        let mut recalled_at = None;
        loop {
            if slice.try_reserve(amount.as_nanos()) {
                break;
            }
            // Everything that is free goes into this call, and the rest is leased.
            let had = Money::from_nanos(slice.free.swap(0, Ordering::AcqRel));
            let need = amount.try_sub(had)?;
            let wish = match refill.last {
                Some((at, size)) if at.elapsed() < SOON => {
                    Money::from_nanos(size.as_nanos().saturating_mul(2)).min(LARGEST_SLICE)
                }
                _ => FIRST_SLICE,
            };
            let returned = slice.given_back.notified();
            let leased = self.billing.lease(slice.tenant, self.holder, need, wish);
            // A server that is gone without a word must not keep the tenant's other calls waiting for ever.
            let leased = tokio::time::timeout(LEASE, leased).await;
            let granted = match leased
                .unwrap_or_else(|_| Err(DbError::Unavailable("the wallet does not answer".to_owned()).into()))
            {
                Ok(granted) => granted,
                Err(error) => {
                    slice.free.fetch_add(had.as_nanos(), Ordering::AcqRel);
                    if !matches!(error, BillingError::InsufficientCredit { .. }) {
                        return Err(error);
                    }
                    if refill.in_vain.is_some_and(|at| at.elapsed() < RECALL) {
                        return Err(error);
                    }
                    // Another process may have some, and is asked for what it has free.
                    if recalled_at.is_none() && !repository::recall(&self.db, slice.tenant, self.holder).await? {
                        return Err(error);
                    }
                    let waited = recalled_at.get_or_insert_with(Instant::now).elapsed();
                    if tokio::time::timeout(RECALL.saturating_sub(waited), returned).await.is_err() {
                        refill.in_vain = Some(Instant::now());
                        return Err(error);
                    }
                    continue;
                }
            };
            refill.last = Some((Instant::now(), wish));
            let rest = granted.try_sub(need)?;
            slice.free.fetch_add(rest.as_nanos(), Ordering::AcqRel);
            break;
        }
        drop(refill);
        Ok(Reservation { slice, amount })
    }
}

impl Credit {
    pub(super) fn new(billing: Billing, db: Db, holder: LeaseHolder) -> Self {
        Self { wallets: Wallets { billing, db, holder }, slices: RwLock::default(), began: Instant::now() }
    }

    fn slice(&self, tenant: TenantId) -> Arc<Slice> {
        let slices = self.slices.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(slice) = slices.get(&tenant) {
            return Arc::clone(slice);
        }
        drop(slices);
        let mut slices = self.slices.write().unwrap_or_else(PoisonError::into_inner);
        let slice = slices.entry(tenant).or_insert_with(|| {
            Arc::new(Slice {
                tenant,
                free: AtomicI64::new(0),
                used_at: AtomicU64::new(0),
                refill: Mutex::default(),
                given_back: Notify::new(),
            })
        });
        Arc::clone(slice)
    }

    fn now_millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Sets `amount` aside for a call: from memory if there is enough, else with another slice of the wallet.
    ///
    /// # Errors
    /// [`BillingError::InsufficientCredit`], [`BillingError::AccountSuspended`], [`BillingError::AccountBanned`],
    /// [`BillingError::Storage`].
    pub(super) async fn reserve(&self, tenant: TenantId, amount: Money) -> Result<Reservation, BillingError> {
        let slice = self.slice(tenant);
        slice.used_at.store(self.now_millis(), Ordering::Relaxed);
        if slice.try_reserve(amount.as_nanos()) {
            return Ok(Reservation { slice, amount });
        }
        // Whoever leaves meanwhile leaves no slice behind that nobody knows of.
        ToItsEnd::new(self.wallets.clone().refill(slice, amount)).await
    }

    /// What is leased here and reserved by no call.
    pub(super) fn free(&self) -> Money {
        let slices = self.slices.read().unwrap_or_else(PoisonError::into_inner);
        let free = slices.values().map(|slice| slice.free.load(Ordering::Relaxed)).fold(0, i64::saturating_add);
        Money::from_nanos(free)
    }

    /// Another process gave back what a tenant had there.
    pub(super) fn given_back(&self, tenant: TenantId) {
        self.slice(tenant).given_back.notify_waiters();
    }

    /// Gives back what a tenant has free here, because another process needs it.
    ///
    /// # Errors
    /// [`BillingError::Storage`].
    pub(super) async fn give_back(&self, tenant: TenantId, needed_by: LeaseHolder) -> Result<(), BillingError> {
        if needed_by != self.wallets.holder {
            self.give_back_and_say_so(&self.slice(tenant)).await?;
        }
        Ok(())
    }

    /// Gives back what is free, as if every tenant's were needed elsewhere.
    ///
    /// # Errors
    /// [`BillingError::Storage`].
    pub(super) async fn give_back_unasked(&self) -> Result<(), BillingError> {
        for slice in self.unused_since(u64::MAX) {
            self.give_back_and_say_so(&slice).await?;
        }
        Ok(())
    }

    async fn give_back_and_say_so(&self, slice: &Arc<Slice>) -> Result<(), BillingError> {
        let Wallets { db, holder, .. } = &self.wallets;
        if self.give_back_free(slice).await? {
            repository::announce_given_back(db, slice.tenant, *holder).await?;
        }
        Ok(())
    }

    fn unused_since(&self, before: u64) -> Vec<Arc<Slice>> {
        let slices = self.slices.read().unwrap_or_else(PoisonError::into_inner);
        slices.values().filter(|slice| slice.used_at.load(Ordering::Relaxed) <= before).map(Arc::clone).collect()
    }

    /// Gives back what tenants have free that have not called for a while. For a periodic task.
    ///
    /// # Errors
    /// [`BillingError::Storage`].
    pub(super) async fn give_back_idle(&self) -> Result<(), BillingError> {
        let before = self.now_millis().saturating_sub(u64::try_from(IDLE.as_millis()).unwrap_or(u64::MAX));
        self.give_back_unused_since(before).await
    }

    /// Gives back all that is free.
    ///
    /// # Errors
    /// [`BillingError::Storage`].
    pub(super) async fn give_back_all(&self) -> Result<(), BillingError> {
        self.give_back_unused_since(u64::MAX).await
    }

    async fn give_back_unused_since(&self, before: u64) -> Result<(), BillingError> {
        for slice in self.unused_since(before) {
            self.give_back_free(&slice).await?;
        }
        // A slice that nobody has in hand and that has nothing is made anew when it is needed.
        let mut slices = self.slices.write().unwrap_or_else(PoisonError::into_inner);
        slices.retain(|_, slice| {
            Arc::strong_count(slice) > 1
                || slice.free.load(Ordering::Acquire) != 0
                || slice.used_at.load(Ordering::Relaxed) > before
        });
        Ok(())
    }

    /// `false` if nothing was free.
    async fn give_back_free(&self, slice: &Arc<Slice>) -> Result<bool, BillingError> {
        // Whether it has arrived is not known of what is cut off: it is not.
        ToItsEnd::new(self.wallets.clone().give_back(Arc::clone(slice))).await
    }
}

/// What is on its way back to the wallet. It is free again if it does not arrive.
struct Taken<'s> {
    slice: &'s Slice,
    nanos: i64,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.slice.free.fetch_add(self.nanos, Ordering::AcqRel);
    }
}
