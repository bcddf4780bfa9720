//! What happened since the process began.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::record::{CallRecord, Outcome};

/// Upper bounds of the buckets of times to the first byte, in milliseconds; what is longer has a bucket of its own.
pub const FIRST_BYTE_BUCKETS_MS: [u32; 8] = [50, 100, 250, 500, 1_000, 2_500, 10_000, 60_000];

/// Calls of one kind that ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kind {
    /// What was asked for.
    pub capability: String,
    /// Who answered; empty if nobody did.
    pub provider: String,
    /// How it ended.
    pub outcome: &'static str,
}

/// Sums of calls of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// Calls.
    pub calls: u64,
    /// What they cost, in nano-dollars.
    pub cost_nanos: i64,
    /// What was charged, in nano-dollars.
    pub charge_nanos: i64,
    /// Calls by the time to their first byte, each bucket alone; the last is beyond all bounds.
    pub first_byte: [u64; FIRST_BYTE_BUCKETS_MS.len() + 1],
    /// The sum of these times, in milliseconds.
    pub first_byte_ms: u64,
}

/// Counters.
#[derive(Debug, Default)]
pub struct Counts {
    pub(super) ready: AtomicBool,
    refused: AtomicU64,
    kinds: Mutex<HashMap<Kind, Sums>>,
}

impl Counts {
    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ended(&self, call: &CallRecord) {
        let kind = Kind {
            capability: call.capability.clone(),
            provider: call.provider.clone().unwrap_or_default(),
            outcome: match call.outcome {
                Outcome::Completed => "completed",
                Outcome::ClientLeft => "client-left",
                Outcome::ProviderFailed => "provider-failed",
                Outcome::Interrupted => "interrupted",
            },
        };
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = kinds.entry(kind).or_default();
        sums.calls += 1;
        sums.cost_nanos = sums.cost_nanos.saturating_add(call.cost_nanos.as_nanos());
        sums.charge_nanos = sums.charge_nanos.saturating_add(call.charge_nanos.as_nanos());
        if let Some(first_byte_ms) = call.first_byte_ms {
            let bucket = FIRST_BYTE_BUCKETS_MS.iter().position(|bound| first_byte_ms <= *bound);
            sums.first_byte[bucket.unwrap_or(FIRST_BYTE_BUCKETS_MS.len())] += 1;
            sums.first_byte_ms += u64::from(first_byte_ms);
        }
    }

    /// Calls that were not let in.
    pub fn refusals(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Calls that ended, by their kind.
    pub fn list(&self) -> Vec<(Kind, Sums)> {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.iter().map(|(kind, sums)| (kind.clone(), sums.clone())).collect()
    }

    /// Whether calls are let in at all.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}
