//! What snapshots made on demand cost.

use std::collections::{BTreeMap, HashSet};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use super::error::BackupError;
use super::repository::BackupRepository;
use super::service::Backups;
use crate::audit::Actor;
use crate::billing::{BillingError, Transfer, TransferKind};
use crate::ids::TenantId;
use crate::money::{Money, MoneyOverflow};

/// A gibibyte for a month.
pub const PER_GIB_MONTH: Money = Money::from_cents(5);
const GIB: i64 = 1 << 30;
/// How many days back is charged what could not be charged then.
const DAYS_BACK: i64 = 31;

/// What a run of [`Backups::charge_storage`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Metered {
    /// Days of tenants that are in the ledger now and were not.
    pub charged: usize,
    /// Tenants whose credit does not cover a day. It is asked for again.
    pub short: usize,
}

/// The bytes of a snapshot, and how long there are any.
pub(super) struct Stored {
    pub(super) tenant: TenantId,
    pub(super) bytes: u64,
    pub(super) from: Timestamp,
    pub(super) to: Option<Timestamp>,
}

impl Backups {
    /// Charges for snapshots made on demand: each day's part of [`PER_GIB_MONTH`] for what a tenant had at the end of the day
    /// (UTC), once under `snapshots:{date}:{tenant}`, oldest first. What the credit does not cover is charged when it does,
    /// within a month; nothing is removed for it.
    ///
    /// # Errors
    /// [`BackupError::Storage`], [`BackupError::Billing`].
    pub async fn charge_storage(&self) -> Result<Metered, BackupError> {
        let today = self.now().to_zoned(TimeZone::UTC).date();
        let first = today.saturating_sub(DAYS_BACK.days());
        let stored = {
            let mut conn = self.inner.db.connection().await?;
            BackupRepository::new(&mut conn).list_stored_on_demand(midnight(first)).await?
        };
        let mut due: BTreeMap<TenantId, Vec<Transfer>> = BTreeMap::new();
        for date in first.series(1.day()).take_while(|date| *date < today) {
            for (tenant, bytes) in at_the_end_of(date, &stored) {
                let cost = cost_of_day(bytes, date).map_err(BillingError::from)?;
                if cost.is_positive() {
                    due.entry(tenant).or_default().push(transfer(date, tenant, bytes, cost));
                }
            }
        }
        let known = self.posted(due.values().flatten()).await?;
        let mut metered = Metered::default();
        for transfers in due.into_values() {
            for transfer in transfers.into_iter().filter(|transfer| !known.contains(&transfer.reference_key)) {
                match self.inner.billing.post(&[transfer]).await {
                    Ok(_) => metered.charged += 1,
                    Err(BillingError::InsufficientCredit { .. }) => {
                        metered.short += 1;
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(metered)
    }

    async fn posted(&self, transfers: impl Iterator<Item = &Transfer>) -> Result<HashSet<String>, BackupError> {
        let keys: Vec<&str> = transfers.map(|transfer| transfer.reference_key.as_str()).collect();
        Ok(self.inner.billing.find_posted(&keys).await?)
    }
}

fn transfer(date: Date, tenant: TenantId, bytes: u64, cost: Money) -> Transfer {
    let key = format!("snapshots:{date}:{tenant}");
    Transfer::from_wallet(key, TransferKind::StorageUpgrade, tenant, cost, Actor::System("charges"))
        .described(format!("{date}, {} MiB of snapshots made on demand", bytes >> 20))
}

fn midnight(date: Date) -> Timestamp {
    date.to_zoned(TimeZone::UTC).map_or(Timestamp::MIN, |zoned| zoned.timestamp())
}

fn at_the_end_of(date: Date, stored: &[Stored]) -> BTreeMap<TenantId, u64> {
    let end = midnight(date.saturating_add(1.day()));
    let mut bytes = BTreeMap::new();
    for one in stored.iter().filter(|one| one.from < end && one.to.is_none_or(|to| to >= end)) {
        let sum: &mut u64 = bytes.entry(one.tenant).or_default();
        *sum = sum.saturating_add(one.bytes);
    }
    bytes
}

fn cost_of_day(bytes: u64, date: Date) -> Result<Money, MoneyOverflow> {
    let bytes = i64::try_from(bytes).map_err(|_| MoneyOverflow)?;
    PER_GIB_MONTH.try_scale(bytes, GIB * i64::from(date.days_in_month()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_months_days_cost_a_month() {
        for (year, month) in [(2026, 2), (2028, 2), (2026, 4), (2026, 12)] {
            let first = Date::constant(year, month, 1);
            for (gib, cents) in [(1_u64, 5), (7, 35), (20_000, 100_000)] {
                let bytes = gib << 30;
                let mut month = Money::ZERO;
                for date in first.series(1.day()).take_while(|date| *date <= first.last_of_month()) {
                    month = month.try_add(cost_of_day(bytes, date).unwrap()).unwrap();
                }
                let off = month.try_sub(Money::from_cents(cents)).unwrap().as_nanos().abs();
                assert!(off <= 16, "{first}, {gib} GiB: off by {off} nano-dollars");
            }
        }
        assert_eq!(cost_of_day(0, Date::constant(2026, 1, 1)), Ok(Money::ZERO));
        assert_eq!(cost_of_day(u64::MAX, Date::constant(2026, 1, 1)), Err(MoneyOverflow));
    }

    #[test]
    fn what_is_there_at_the_end_of_a_day_counts_for_it() {
        let tenant = TenantId::new(Timestamp::UNIX_EPOCH);
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let stored = |from: &str, to: Option<&str>, bytes| Stored { tenant, bytes, from: at(from), to: to.map(at) };
        let all = [
            stored("2026-03-01T23:59:59Z", None, 1),
            stored("2026-03-02T00:00:00Z", Some("2026-03-03T00:00:00Z"), 10),
            stored("2026-03-02T08:00:00Z", Some("2026-03-02T23:59:59Z"), 100),
        ];
        let of = |day| at_the_end_of(Date::constant(2026, 3, day), &all).get(&tenant).copied().unwrap_or(0);
        assert_eq!((of(1), of(2), of(3)), (1, 11, 1));
        assert!(at_the_end_of(Date::constant(2026, 2, 28), &all).is_empty());
    }
}
