//! Which schedules are run, and how a failure names its own.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::stream::{self, StreamExt as _};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const SCHEDULES: usize = 8;
/// How many run at once: most of their time they wait, and a kill among schedules that share a processor comes at points
/// that an idle one hides.
const AT_ONCE: usize = 8;
/// Beyond this a schedule hangs.
const LONGEST: Duration = Duration::from_mins(3);

/// Runs schedules until one fails.
pub(crate) async fn run(name: &str, schedule: impl AsyncFn(u64) -> Result<()>) {
    let seeds = seeds();
    let count = seeds.len();
    let schedule = &schedule;
    let mut outcomes = stream::iter(seeds)
        .map(|seed| async move {
            let run = tokio::time::timeout(LONGEST, schedule(seed)).await;
            (seed, run.context("it hangs").and_then(|outcome| outcome))
        })
        .buffer_unordered(AT_ONCE);
    let mut passed = 0;
    while let Some((seed, outcome)) = outcomes.next().await {
        if let Err(error) = outcome {
            panic!(
                "{name}: {error:#}\n{passed} of {count} schedules had passed; run it again with WOPR_CRASH_SEED={seed}"
            );
        }
        passed += 1;
    }
    eprintln!("{name}: {count} schedules");
}

fn seeds() -> Vec<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|error| panic!("{name} is {text:?}: {error}")))
    };
    if let Some(seed) = number("WOPR_CRASH_SEED") {
        return vec![seed];
    }
    let count = number("WOPR_CRASH_SCHEDULES").map_or(SCHEDULES, |count| usize::try_from(count).unwrap_or(usize::MAX));
    let mut random = rand::rng();
    (0..count).map(|_| random.random()).collect()
}

/// What is random in one schedule.
pub(crate) fn random(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}
