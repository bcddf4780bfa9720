//! Periodic work: methods without arguments, each under a lease, so that of several replicas one does it.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wopr_core::db::Leases;

use crate::error::chain;
use crate::state::AppState;

/// After a failure the pace doubles, up to this.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// A step that could not begin is tried again this soon, however seldom it is due: the database may have been away, or may
/// not yet have noticed that the process that has the lease was killed.
const SKIPPED_PAUSE: Duration = Duration::from_secs(5);

type StepError = Box<dyn std::error::Error + Send + Sync>;
type Step = dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), StepError>> + Send>> + Send + Sync;

/// Wakes workers before their time, because there is something to do.
#[derive(Debug, Default)]
pub struct Wakers {
    /// A mail was queued.
    pub mail: Arc<Notify>,
}

struct Task {
    name: &'static str,
    pace: Duration,
    wake: Option<Arc<Notify>>,
    /// Whether it is left in the middle when the workers stop.
    endless: bool,
    step: Box<Step>,
}

/// What is to be done again and again.
#[derive(Default)]
pub struct Workers(Vec<Task>);

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|task| task.name)).finish()
    }
}

impl Workers {
    /// Adds a step that is run `pace` after it last ended, or when `wake` says so. Where another process has its lease, it is
    /// tried again within seconds.
    pub fn add<F, T, E>(
        &mut self,
        name: &'static str,
        pace: Duration,
        wake: Option<Arc<Notify>>,
        step: impl Fn() -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<StepError> + 'static,
    {
        self.push(name, pace, wake, false, step);
    }

    /// Adds a step that goes on for as long as there is something to watch, and is begun again `pace` after that ended.
    /// It has to bear being dropped at any point.
    pub fn watch<F, T, E>(&mut self, name: &'static str, pace: Duration, step: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<StepError> + 'static,
    {
        self.push(name, pace, None, true, step);
    }

    fn push<F, T, E>(
        &mut self,
        name: &'static str,
        pace: Duration,
        wake: Option<Arc<Notify>>,
        endless: bool,
        step: impl Fn() -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<StepError> + 'static,
    {
        let step = Box::new(move || -> Pin<Box<dyn Future<Output = Result<(), StepError>> + Send>> {
            let step = step();
            Box::pin(async move { step.await.map(drop).map_err(Into::into) })
        });
        self.0.push(Task { name, pace, wake, endless, step });
    }

    /// Caps every pace, for a process whose clock runs ahead of the machine's.
    #[must_use]
    pub fn paced(mut self, longest: Duration) -> Self {
        for task in &mut self.0 {
            task.pace = task.pace.min(longest);
        }
        self
    }

    /// Starts all of them. They end when `stop` is cancelled, each after the step it is in.
    pub fn start(self, state: &AppState, stop: &CancellationToken) -> JoinSet<()> {
        let leases = Arc::new(Leases::new(state.db.clone()));
        let mut running = JoinSet::new();
        for task in self.0 {
            running.spawn(run(task, state.clone(), Arc::clone(&leases), stop.clone()));
        }
        running
    }
}

async fn run(task: Task, state: AppState, leases: Arc<Leases>, stop: CancellationToken) {
    let mut pause = Duration::ZERO;
    loop {
        let woken = async {
            match &task.wake {
                Some(wake) => wake.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = woken => {}
        }
        pause = match attempt(&task, &state, &leases, &stop).await {
            Ok(Attempt::Made) => task.pace,
            Ok(Attempt::Skipped) => task.pace.min(SKIPPED_PAUSE),
            Err(error) => {
                tracing::error!(worker = task.name, "{} failed: {}", task.name, chain(error.as_ref()));
                (pause * 2).clamp(task.pace.min(LONGEST_PAUSE), LONGEST_PAUSE.max(task.pace))
            }
        };
    }
}

enum Attempt {
    Made,
    Skipped,
}

/// One step, if this process may serve and has the lease.
async fn attempt(
    task: &Task,
    state: &AppState,
    leases: &Leases,
    stop: &CancellationToken,
) -> Result<Attempt, StepError> {
    if state.readiness.require(state).await.is_err() || !leases.try_acquire(task.name).await? {
        return Ok(Attempt::Skipped);
    }
    let work = AssertUnwindSafe((task.step)()).catch_unwind();
    let result = if task.endless {
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(Ok(())),
            result = work => result,
        }
    } else {
        work.await
    };
    leases.release(task.name).await?;
    match result {
        Ok(result) => result.map(|()| Attempt::Made),
        Err(_) => Err("it panicked".into()),
    }
}
