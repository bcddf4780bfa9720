//! Which schedules are run, how far each has come, and how a failure names its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use features::wait::PATIENCE;
use futures_util::stream::{self, StreamExt as _};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::runtime::Handle;

const SCHEDULES: usize = 8;
/// How many run at once: most of their time they wait, and a kill among schedules that share a processor comes at points
/// that an idle one hides.
const AT_ONCE: usize = 8;
/// A schedule in which nothing has moved for so long hangs. Whatever waits for something gives up before, and says more.
const STANDSTILL: Duration = Duration::from_mins(2);
/// How often a schedule looks at itself.
const BEAT: Duration = Duration::from_millis(50);

/// What one schedule has come through, for whoever has to find out where it failed.
#[derive(Clone)]
pub(crate) struct Course(Arc<Mutex<Stages>>);

struct Stages {
    ended: Vec<(&'static str, Duration)>,
    current: &'static str,
    since: Instant,
    moved: Instant,
    /// How long this test itself did not get round to this schedule: what looks as if the server hung.
    neglected: Duration,
}

impl Course {
    fn begin() -> Self {
        let now = Instant::now();
        Self(Arc::new(Mutex::new(Stages {
            ended: Vec::new(),
            current: "beginning",
            since: now,
            moved: now,
            neglected: Duration::ZERO,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Stages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is in this stage.
    pub(crate) fn enter(&self, stage: &'static str) {
        let now = Instant::now();
        let mut stages = self.lock();
        let (before, took) = (stages.current, now - stages.since);
        stages.ended.push((before, took));
        (stages.current, stages.since, stages.moved) = (stage, now, now);
    }

    /// Asks again and again until `look` says [`Ok`]. As long as it complains of something else each time, there is
    /// progress, however slow the machine is; when it complains of the same for [`PATIENCE`], that is the error.
    pub(crate) async fn until(&self, what: &str, mut look: impl AsyncFnMut() -> Result<()>) -> Result<()> {
        let (mut before, mut since) = (String::new(), Instant::now());
        loop {
            let Err(complaint) = look().await else { return Ok(()) };
            let complaint = format!("{complaint:#}");
            if complaint != before {
                (before, since) = (complaint, Instant::now());
                self.lock().moved = since;
            } else if since.elapsed() > PATIENCE {
                bail!("{what}: nothing moved for {} s: {before}", PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Does it, unless nothing moves any more.
    pub(crate) async fn watched<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let stands_still = async {
            loop {
                let before = Instant::now();
                tokio::time::sleep(BEAT).await;
                let mut stages = self.lock();
                stages.neglected += before.elapsed().saturating_sub(2 * BEAT);
                if stages.moved.elapsed() > STANDSTILL {
                    return;
                }
            }
        };
        tokio::select! {
            outcome = work => outcome,
            () = stands_still => bail!("it hangs: nothing has moved for {} s", STANDSTILL.as_secs()),
        }
    }
}

impl std::fmt::Display for Course {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stages = self.lock();
        for (stage, took) in &stages.ended {
            writeln!(f, "{:>7} ms  {stage}", took.as_millis())?;
        }
        writeln!(f, "{:>7} ms  {}, which did not end", stages.since.elapsed().as_millis(), stages.current)?;
        write!(f, "{:>7} ms of these the test did not get round to it", stages.neglected.as_millis())
    }
}

/// Runs schedules until one fails; those under way then are still run to their end, and told of too if they fail.
pub(crate) async fn run<F>(name: &str, schedule: F)
where
    F: AsyncFn(u64, Course) -> Result<()> + Send + Sync + 'static,
{
    run_some(name, SCHEDULES, AT_ONCE, schedule).await;
}

/// As [`run`], this many and so many at once, unless told otherwise.
pub(crate) async fn run_some<F>(name: &str, schedules: usize, at_once: usize, schedule: F)
where
    F: AsyncFn(u64, Course) -> Result<()> + Send + Sync + 'static,
{
    let seeds = seeds(schedules);
    let count = seeds.len();
    let at_once = number("WOPR_CRASH_AT_ONCE").map_or(at_once, |count| usize::try_from(count).unwrap_or(usize::MAX));
    let (schedule, runtime) = (Arc::new(schedule), Handle::current());
    let failed = AtomicBool::new(false);
    let mut outcomes = stream::iter(seeds)
        .take_while(|_| std::future::ready(!failed.load(Ordering::Relaxed)))
        .map(|seed| {
            let (schedule, runtime) = (Arc::clone(&schedule), runtime.clone());
            let course = Course::begin();
            let walked = course.clone();
            // Each on a thread of its own. On one task, dropping the database of a schedule kept all others waiting; and
            // the server drops none while a connection is half made, which one of those others was to complete. That lasted
            // until the server gave up on that connection, after a minute.
            let running = tokio::task::spawn_blocking(move || {
                let outcome = runtime.block_on(schedule(seed, walked.clone()));
                if outcome.is_ok() {
                    walked.enter("the end");
                }
                outcome
            });
            async move { (seed, course, running.await.context("it panicked").flatten()) }
        })
        .buffer_unordered(at_once.max(1));
    let (mut passed, mut failures) = (Vec::new(), Vec::new());
    while let Some((seed, course, outcome)) = outcomes.next().await {
        match outcome {
            Ok(()) => {
                passed.push(course);
                eprintln!("{name}: {} of {count} schedules passed, this was {seed}", passed.len());
            }
            Err(error) => {
                failed.store(true, Ordering::Relaxed);
                failures.push(format!("{name}: {error:#}\n{course}\nRun it again with WOPR_CRASH_SEED={seed}"));
            }
        }
    }
    drop(outcomes);
    eprintln!("{name}: {} of {count} schedules passed, {at_once} at once\n{}", passed.len(), summary(&passed));
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// How long each stage took, in the order in which they came.
fn summary(courses: &[Course]) -> String {
    let mut stages: Vec<(&'static str, Vec<Duration>)> = Vec::new();
    let mut note = |stage: &'static str, took: Duration| match stages.iter_mut().find(|(known, _)| *known == stage) {
        Some((_, all)) => all.push(took),
        None => stages.push((stage, vec![took])),
    };
    for course in courses {
        let course = course.lock();
        course.ended.iter().for_each(|(stage, took)| note(stage, *took));
        note("(not got round to)", course.neglected);
    }
    let line = |(stage, all): &(&str, Vec<Duration>)| {
        let (total, longest) = (all.iter().sum::<Duration>(), all.iter().max().copied().unwrap_or_default());
        let mean = total / u32::try_from(all.len()).unwrap_or(u32::MAX).max(1);
        format!("{:>7} ms on average, {:>7} ms at most  {stage}\n", mean.as_millis(), longest.as_millis())
    };
    stages.iter().map(line).collect()
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name} is {text:?}: {error}")))
}

fn seeds(schedules: usize) -> Vec<u64> {
    if let Some(seed) = number("WOPR_CRASH_SEED") {
        return vec![seed];
    }
    let count = number("WOPR_CRASH_SCHEDULES").map_or(schedules, |count| usize::try_from(count).unwrap_or(usize::MAX));
    let mut random = rand::rng();
    (0..count).map(|_| random.random()).collect()
}

/// What is random in one schedule.
pub(crate) fn random(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}
