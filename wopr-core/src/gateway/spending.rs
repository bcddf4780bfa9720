//! Monthly spending limits of tenants, checked in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::error::GatewayError;
use super::limits::{MonthSpend, SpendingLimit, check_caps};
use super::model::Capability;
use super::repository::GatewayRepository;
use crate::db::Db;
use crate::ids::TenantId;
use crate::money::Money;

/// What other processes have spent is seen after so long.
const REFRESH: Duration = Duration::from_secs(5);

/// Tenants that called.
pub(super) struct Spending {
    db: Db,
    tenants: RwLock<HashMap<TenantId, Arc<TenantSpend>>>,
}

#[derive(Default)]
struct TenantSpend {
    /// Held while it is asked for and while something is settled, so that nothing is counted twice or not at all.
    loaded: tokio::sync::Mutex<Option<Loaded>>,
    /// Reserved, or spent and not settled, by this process.
    pending: Mutex<HashMap<Capability, i64>>,
}

struct Loaded {
    at: Instant,
    month: Timestamp,
    limits: Vec<SpendingLimit>,
    spent: MonthSpend,
}

impl TenantSpend {
    fn add_pending(&self, capability: Capability, nanos: i64) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = pending.entry(capability).or_default();
        *sum = sum.saturating_add(nanos);
    }

    fn pending(&self) -> MonthSpend {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        MonthSpend::new(pending.iter().map(|(capability, nanos)| (*capability, Money::from_nanos(*nanos))))
    }
}

/// What a call that was admitted may cost. Dropped before its end, it costs nothing.
pub(super) struct Pending {
    spend: Arc<TenantSpend>,
    capability: Capability,
    nanos: i64,
}

impl Pending {
    /// The call has ended: its charge is pending in place of the estimate, until it is settled.
    pub(super) fn end(mut self, charge: Money) {
        self.nanos = self.nanos.saturating_sub(charge.as_nanos());
        // The rest goes with the drop.
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.spend.add_pending(self.capability, self.nanos.saturating_neg());
    }
}

/// When the calendar month of `at` began (UTC).
pub(super) fn month_of(at: Timestamp) -> Timestamp {
    let zoned = at.to_zoned(TimeZone::UTC);
    let first = zoned.date().first_of_month();
    first.to_zoned(TimeZone::UTC).map_or(at, |zoned| zoned.timestamp())
}

impl Spending {
    pub(super) fn new(db: Db) -> Self {
        Self { db, tenants: RwLock::default() }
    }

    fn tenant(&self, tenant: TenantId) -> Arc<TenantSpend> {
        if let Some(found) = self.tenants.read().unwrap_or_else(PoisonError::into_inner).get(&tenant) {
            return Arc::clone(found);
        }
        Arc::clone(self.tenants.write().unwrap_or_else(PoisonError::into_inner).entry(tenant).or_default())
    }

    /// Refuses a call that could lead beyond a limit, and counts what it may cost as long as the answer lives.
    pub(super) async fn admit(
        &self,
        at: Timestamp,
        tenant: TenantId,
        capability: Capability,
        estimate: Money,
    ) -> Result<Pending, GatewayError> {
        let spend = self.tenant(tenant);
        let mut loaded = spend.loaded.lock().await;
        let month = month_of(at);
        if loaded.as_ref().is_none_or(|loaded| loaded.at.elapsed() >= REFRESH || loaded.month != month) {
            let mut conn = self.db.connection().await?;
            let mut repository = GatewayRepository::new(&mut conn);
            let limits = repository.list_limits(tenant).await?;
            let month_spend = if limits.iter().any(|limit| limit.hard_cap_cents.is_some()) {
                repository.spend_since(tenant, month).await?
            } else {
                MonthSpend::default()
            };
            *loaded = Some(Loaded { at: Instant::now(), month, limits, spent: month_spend });
        }
        if let Some(loaded) = loaded.as_ref() {
            check_caps(&loaded.limits, &loaded.spent, &spend.pending(), capability, estimate)
                .map_err(GatewayError::SpendingCap)?;
        }
        spend.add_pending(capability, estimate.as_nanos());
        drop(loaded);
        Ok(Pending { spend, capability, nanos: estimate.as_nanos() })
    }

    /// A charge is in the database.
    pub(super) async fn settled(&self, tenant: TenantId, capability: Capability, charge: Money) {
        let spend = self.tenant(tenant);
        let mut loaded = spend.loaded.lock().await;
        spend.add_pending(capability, -charge.as_nanos());
        if let Some(loaded) = loaded.as_mut() {
            loaded.spent.add(capability, charge);
        }
    }

    /// The tenant has other limits now.
    pub(super) async fn forget(&self, tenant: TenantId) {
        *self.tenant(tenant).loaded.lock().await = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_begins_on_its_first_day_in_utc() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(month_of(at("2026-11-30T23:59:59.999Z")), at("2026-11-01T00:00:00Z"));
        assert_eq!(month_of(at("2026-12-01T00:00:00Z")), at("2026-12-01T00:00:00Z"));
    }
}
