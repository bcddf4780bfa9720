//! What a bot may use: pure tables. What that costs is billing's: [`crate::billing::pricing`].

use crate::billing::{ResourceTier, StorageTier};

/// One processor's worth of Docker's CPU quota, in microseconds per period of 100 milliseconds.
const CPU_QUOTA_PER_PROCESSOR: i64 = 100_000;

/// The limits of a resource tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Its name for people.
    pub label: &'static str,
    /// Memory in mebibytes.
    pub memory_mib: i64,
    /// Processors.
    pub processors: i64,
    /// The most processes at a time.
    pub pids: i64,
}

impl Limits {
    /// The limits of `tier`.
    pub const fn of(tier: ResourceTier) -> Self {
        let (label, memory_mib, processors, pids) = match tier {
            ResourceTier::Standard => ("Standard", 2048, 2, 512),
            ResourceTier::Pro => ("Pro", 4096, 4, 1024),
            ResourceTier::Power => ("Power", 8192, 6, 2048),
            ResourceTier::Beast => ("Beast", 16384, 8, 4096),
        };
        Self { label, memory_mib, processors, pids }
    }

    /// Docker's CPU quota, in microseconds per period of 100 milliseconds.
    pub const fn cpu_quota_micros(self) -> i64 {
        self.processors * CPU_QUOTA_PER_PROCESSOR
    }

    /// Memory in bytes.
    pub const fn memory_bytes(self) -> i64 {
        self.memory_mib * 1024 * 1024
    }
}

/// How large a volume may grow, in gigabytes. It is billed and reported; the engine does not enforce it.
pub const fn storage_limit_gb(tier: StorageTier) -> i64 {
    match tier {
        StorageTier::Standard => 5,
        StorageTier::Plus => 20,
        StorageTier::Pro => 50,
        StorageTier::Max => 100,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_each_tier() {
        let limits: Vec<_> = ResourceTier::ALL.iter().map(|tier| Limits::of(*tier)).collect();
        let numbers: Vec<_> = limits.iter().map(|l| (l.memory_mib, l.cpu_quota_micros(), l.pids)).collect();
        let wanted = [(2048, 200_000, 512), (4096, 400_000, 1024), (8192, 600_000, 2048), (16384, 800_000, 4096)];
        assert_eq!(numbers, wanted);
        let storage: Vec<_> = StorageTier::ALL.iter().map(|tier| storage_limit_gb(*tier)).collect();
        assert_eq!(storage, [5, 20, 50, 100]);
    }
}
