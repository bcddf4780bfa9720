//! Looks at one service again and again, and keeps what is known of it on the board.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use wopr_core::protocol::gpu::GpuService;

use crate::health::{Answer, Condition, Load, Observation, Proof};
use crate::metrics;
use crate::probe::service::{Look, ServiceProbe};
use crate::traffic::Traffic;

/// What is known of every service. Receivers are woken when a state changes, and not by every look.
pub(crate) type Board = BTreeMap<GpuService, Condition>;

/// Time since the daemon started. Unlike the date it never jumps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Uptime(Instant);

impl Uptime {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }
}

/// The watch over one service.
#[derive(Debug)]
pub(crate) struct Watcher {
    pub(crate) probe: ServiceProbe,
    pub(crate) slots: u32,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) board: watch::Sender<Board>,
    pub(crate) uptime: Uptime,
    pub(crate) interval: Duration,
    pub(crate) proof_interval: Duration,
    pub(crate) busy_patience: Duration,
}

impl Watcher {
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // At most one tiny request at a time; it ends with this function.
        let mut proofs: JoinSet<Proof> = JoinSet::new();
        let mut asked_at: Option<Instant> = None;
        let mut load_before = Load::Free;
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => None,
                () = self.traffic.lost.notified() => None,
                Some(ended) = proofs.join_next() => match ended {
                    Ok(proof) => Some(proof),
                    // Ended by us, when the service stopped being well.
                    Err(error) if error.is_cancelled() => None,
                    Err(error) => {
                        tracing::error!("a tiny request to {} failed: {error}", self.probe.service);
                        None
                    }
                },
            };
            // Also after a tiny request that failed: whether the service lives decides what that means.
            let full = self.traffic.in_flight() >= self.slots.into();
            let mut look = self.probe.look(full).await;
            if let Answer::Well(load) = &mut look.answer {
                if proofs.is_empty() {
                    load_before = *load;
                } else {
                    // Our own request takes a slot, or waits for one: what was seen before it is what holds.
                    *load = load_before;
                }
            }
            if let Some(proof) = &ended {
                let took = if let Proof::Right(took) = proof { Some(*took) } else { None };
                metrics::proof(self.probe.service, took);
            }
            self.observe(&look, ended);
            if !matches!(look.answer, Answer::Well(_)) {
                proofs.abort_all();
                asked_at = None;
            } else if proofs.is_empty() && self.is_due(asked_at) {
                asked_at = Some(Instant::now());
                let probe = self.probe.clone();
                proofs.spawn(async move { probe.prove().await });
            }
        }
    }

    /// A service that works is asked now and then, any other at every look.
    fn is_due(&self, last: Option<Instant>) -> bool {
        let works = self.board.borrow().get(&self.probe.service).is_some_and(|known| known.state.answers());
        let wait = if works { self.proof_interval } else { self.interval };
        last.is_none_or(|at| at.elapsed() >= wait)
    }

    fn observe(&self, look: &Look, proof: Option<Proof>) {
        let service = self.probe.service;
        let now = self.uptime.now();
        let seen = Observation {
            answer: look.answer.clone(),
            proof,
            flowing: self.traffic.is_flowing(),
            stand_in: look.stand_in,
            latency: look.took,
        };
        self.board.send_if_modified(|board| {
            let known = board.entry(service).or_insert_with(|| Condition::unseen(now));
            let next = known.next(&seen, now, self.busy_patience);
            let changed = next.state != known.state;
            if changed {
                let why = next.detail.as_deref().unwrap_or("it answers");
                let (before, after) = (known.state, next.state);
                if after.answers() || !before.answers() {
                    tracing::info!(%service, state = %after, "{service} is {after}, was {before}: {why}");
                } else {
                    tracing::warn!(%service, state = %after, "{service} is {after}, was {before}: {why}");
                }
            }
            *known = next;
            changed
        });
    }
}
