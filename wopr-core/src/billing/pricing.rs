//! What a day of things costs. Pure.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use super::ledger::{TransferKind, closed_set};
use crate::money::{Money, MoneyOverflow};

/// A running bot, a day: 5 dollars a month over 30 days, rounded. Also the credit needed to create or start one.
pub const RUNTIME_PER_DAY: Money = Money::from_cents(17);
/// A verified new customer's credit.
pub const SIGNUP_GRANT: Money = Money::from_cents(500);

closed_set! {
    /// A part of what a bot costs a day.
    ChargeKind {
        /// That it runs.
        Runtime = "runtime",
        /// Larger resources.
        Resource = "resource",
        /// Larger storage.
        Storage = "storage",
        /// Add-ons.
        Addon = "addon",
    }
}

impl ChargeKind {
    /// What it is in the ledger.
    pub const fn transfer_kind(self) -> TransferKind {
        match self {
            Self::Runtime => TransferKind::BotRuntime,
            Self::Resource => TransferKind::ResourceUpgrade,
            Self::Storage => TransferKind::StorageUpgrade,
            Self::Addon => TransferKind::Addon,
        }
    }
}

closed_set! {
    /// How much processor and memory a bot has.
    ResourceTier {
        /// Included.
        Standard = "standard",
        /// 10 cents a day.
        Pro = "pro",
        /// 27 cents a day.
        Power = "power",
        /// 50 cents a day.
        Beast = "beast",
    }
}

impl ResourceTier {
    /// On top of [`RUNTIME_PER_DAY`].
    pub const fn per_day(self) -> Money {
        Money::from_cents(match self {
            Self::Standard => 0,
            Self::Pro => 10,
            Self::Power => 27,
            Self::Beast => 50,
        })
    }
}

closed_set! {
    /// How much storage a bot has.
    StorageTier {
        /// 5 GB, included.
        Standard = "standard",
        /// 20 GB.
        Plus = "plus",
        /// 50 GB.
        Pro = "pro",
        /// 100 GB.
        Max = "max",
    }
}

impl StorageTier {
    /// On top of [`RUNTIME_PER_DAY`].
    pub const fn per_day(self) -> Money {
        Money::from_cents(match self {
            Self::Standard => 0,
            Self::Plus => 3,
            Self::Pro => 8,
            Self::Max => 15,
        })
    }
}

/// What of `per_day` is due for `date` (UTC) of something that exists since `created_at`: every started hour of the
/// first day, all of a later day, nothing before. Half a nano-dollar is rounded away from zero.
///
/// # Errors
/// [`MoneyOverflow`] beyond the range of [`Money`].
pub fn prorate_first_day(per_day: Money, created_at: Timestamp, date: Date) -> Result<Money, MoneyOverflow> {
    let created = created_at.to_zoned(TimeZone::UTC);
    if created.date() > date {
        return Ok(Money::ZERO);
    }
    if created.date() < date {
        return Ok(per_day);
    }
    per_day.try_scale(24 - i64::from(created.hour()), 24)
}

/// What a day costs at present: the average of what was consumed in seven days.
///
/// # Errors
/// [`MoneyOverflow`] never in practice: the average of a sum that fits.
pub fn daily_burn(consumed_in_seven_days: Money) -> Result<Money, MoneyOverflow> {
    consumed_in_seven_days.try_scale(1, 7)
}

/// For how many whole days `available` lasts at `daily_burn`; `None` when nothing is consumed.
pub fn runway_days(available: Money, daily_burn: Money) -> Option<i64> {
    daily_burn.is_positive().then(|| available.max(Money::ZERO).as_nanos() / daily_burn.as_nanos())
}

/// The seven days that [`daily_burn`] looks at.
pub(super) fn burn_window(at: Timestamp) -> Timestamp {
    at.saturating_sub((7 * 24).hours()).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_day_costs_its_started_hours() {
        let table = [
            ("2027-01-15T00:00:00Z", 17_000_000 * 10),
            ("2027-01-15T00:59:59Z", 17_000_000 * 10),
            ("2027-01-15T01:00:00Z", 162_916_667),
            ("2027-01-15T12:00:00Z", 85_000_000),
            ("2027-01-15T23:59:59Z", 7_083_333),
            ("2027-01-14T23:59:59Z", 170_000_000),
            ("2027-01-16T00:00:00Z", 0),
        ];
        for (created, nanos) in table {
            let due = prorate_first_day(RUNTIME_PER_DAY, created.parse().unwrap(), date(2027, 1, 15)).unwrap();
            assert_eq!(due.as_nanos(), nanos, "{created}");
        }
    }

    #[test]
    fn runway_is_unknown_without_consumption_and_zero_in_debt() {
        let table = [(1_000, 0, None), (1_000, 300, Some(3)), (-5, 300, Some(0)), (0, 1, Some(0))];
        for (available, burn, days) in table {
            assert_eq!(runway_days(Money::from_cents(available), Money::from_cents(burn)), days);
        }
        assert_eq!(daily_burn(Money::from_cents(70)).unwrap(), Money::from_cents(10));
    }

    proptest! {
        #[test]
        fn the_first_day_never_costs_more_than_a_day_and_never_nothing(nanos in 24i64..1_000_000_000_000, second in 0i64..86_400) {
            let per_day = Money::from_nanos(nanos);
            let created = Timestamp::from_second(1_800_000_000 / 86_400 * 86_400 + second).unwrap();
            let day = created.to_zoned(TimeZone::UTC).date();
            let due = prorate_first_day(per_day, created, day).unwrap();
            prop_assert!(due.is_positive() && due <= per_day);
        }
    }
}
