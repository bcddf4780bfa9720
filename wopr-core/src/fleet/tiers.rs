//! What a bot may use and what it costs: pure tables.

use crate::money::Money;

/// What a bot costs for each day on which it is to run: five dollars a month of thirty days, rounded to a cent.
pub const RUNTIME_PER_DAY: Money = Money::from_cents(17);

/// One processor's worth of Docker's CPU quota, in microseconds per period of 100 milliseconds.
const CPU_QUOTA_PER_PROCESSOR: i64 = 100_000;

/// How much memory, processor time and how many processes a bot has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ResourceTier {
    /// 2 GB, two processors, 512 processes; part of the price.
    #[default]
    Standard,
    /// 4 GB, four processors, 1024 processes.
    Pro,
    /// 8 GB, six processors, 2048 processes.
    Power,
    /// 16 GB, eight processors, 4096 processes.
    Beast,
}

impl ResourceTier {
    /// Every tier, cheapest first.
    pub const ALL: [Self; 4] = [Self::Standard, Self::Pro, Self::Power, Self::Beast];

    /// Its name on the wire and in storage.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Pro => "pro",
            Self::Power => "power",
            Self::Beast => "beast",
        }
    }

    /// Its name for people.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Standard => "Standard",
            Self::Pro => "Pro",
            Self::Power => "Power",
            Self::Beast => "Beast",
        }
    }

    /// Memory in mebibytes.
    pub const fn memory_mib(self) -> i64 {
        match self {
            Self::Standard => 2048,
            Self::Pro => 4096,
            Self::Power => 8192,
            Self::Beast => 16384,
        }
    }

    /// Processors.
    pub const fn processors(self) -> i64 {
        match self {
            Self::Standard => 2,
            Self::Pro => 4,
            Self::Power => 6,
            Self::Beast => 8,
        }
    }

    /// Docker's CPU quota, in microseconds per period of 100 milliseconds.
    pub const fn cpu_quota_micros(self) -> i64 {
        self.processors() * CPU_QUOTA_PER_PROCESSOR
    }

    /// The most processes at a time.
    pub const fn pids(self) -> i64 {
        match self {
            Self::Standard => 512,
            Self::Pro => 1024,
            Self::Power => 2048,
            Self::Beast => 4096,
        }
    }

    /// What it costs a day on top of [`RUNTIME_PER_DAY`].
    pub const fn per_day(self) -> Money {
        Money::from_cents(match self {
            Self::Standard => 0,
            Self::Pro => 10,
            Self::Power => 27,
            Self::Beast => 50,
        })
    }

    /// The tier of that name.
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.key() == key)
    }
}

/// How large a bot's volume may grow. It is billed and reported; the engine does not enforce it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum StorageTier {
    /// 5 GB; part of the price.
    #[default]
    Standard,
    /// 20 GB.
    Plus,
    /// 50 GB.
    Pro,
    /// 100 GB.
    Max,
}

impl StorageTier {
    /// Every tier, cheapest first.
    pub const ALL: [Self; 4] = [Self::Standard, Self::Plus, Self::Pro, Self::Max];

    /// Its name on the wire and in storage.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Plus => "plus",
            Self::Pro => "pro",
            Self::Max => "max",
        }
    }

    /// The size in gigabytes.
    pub const fn limit_gb(self) -> i64 {
        match self {
            Self::Standard => 5,
            Self::Plus => 20,
            Self::Pro => 50,
            Self::Max => 100,
        }
    }

    /// What it costs a day on top of [`RUNTIME_PER_DAY`].
    pub const fn per_day(self) -> Money {
        Money::from_cents(match self {
            Self::Standard => 0,
            Self::Plus => 3,
            Self::Pro => 8,
            Self::Max => 15,
        })
    }

    /// The tier of that name.
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.key() == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_price_list() {
        let resources: Vec<_> = ResourceTier::ALL
            .map(|tier| (tier.key(), tier.memory_mib(), tier.cpu_quota_micros(), tier.pids(), tier.per_day()))
            .into();
        let cents = Money::from_cents;
        assert_eq!(
            resources,
            [
                ("standard", 2048, 200_000, 512, cents(0)),
                ("pro", 4096, 400_000, 1024, cents(10)),
                ("power", 8192, 600_000, 2048, cents(27)),
                ("beast", 16384, 800_000, 4096, cents(50)),
            ]
        );
        let storage = StorageTier::ALL.map(|tier| (tier.key(), tier.limit_gb(), tier.per_day()));
        assert_eq!(
            storage,
            [("standard", 5, cents(0)), ("plus", 20, cents(3)), ("pro", 50, cents(8)), ("max", 100, cents(15))]
        );
        assert!(ResourceTier::ALL.into_iter().all(|tier| ResourceTier::from_key(tier.key()) == Some(tier)));
        assert!(StorageTier::ALL.into_iter().all(|tier| StorageTier::from_key(tier.key()) == Some(tier)));
        assert_eq!(ResourceTier::from_key("free"), None);
    }
}
