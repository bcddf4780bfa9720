//! The daemon: enrols, sends heartbeats, watches, guards the doors, and drains when it is told to stop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::serve::ListenerExt as _;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use wopr_core::protocol::gpu::{GpuService, Heartbeat, ServiceReport, ServiceState, Stage, inference_token};

use crate::client::{Platform, PlatformError};
use crate::config::Settings;
use crate::enrol::{self, Surroundings};
use crate::health::Condition;
use crate::http::ClientError;
use crate::metrics;
use crate::probe::service::ServiceProbe;
use crate::probe::{GpuProbe, Monitor};
use crate::proxy::{self, Door, TokenDigest};
use crate::status;
use crate::traffic::Traffic;
use crate::watch::{Board, Uptime, Watcher};

/// The least time between two heartbeats, however often a state changes.
const HEARTBEAT_GAP: Duration = Duration::from_millis(500);
/// Where Linux keeps an id that differs after every start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken, or may not be used.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The operating system gives no thread.
    #[error("no thread for the cards")]
    Thread(#[source] std::io::Error),
    /// No HTTP client.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// What the parts of the daemon share.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) settings: Settings,
    pub(crate) platform: Platform,
    pub(crate) board: watch::Sender<Board>,
    pub(crate) monitor: Monitor,
    pub(crate) uptime: Uptime,
    /// The last stage that the platform took.
    pub(crate) stage: watch::Sender<Option<Stage>>,
    /// The platform knows the node again, after it did not.
    pub(crate) forgotten: Notify,
    pub(crate) draining: CancellationToken,
    boot_id: String,
    /// When the heartbeats were last seen to go on, in milliseconds of uptime.
    pulse_ms: AtomicU64,
}

impl Node {
    /// What a stage still waits for.
    pub(crate) fn check(&self, stage: Stage) -> Result<(), String> {
        let missing_files = match stage {
            Stage::DownloadingModels => {
                self.settings.model_files.iter().filter(|path| is_missing(path)).cloned().collect()
            }
            _ => Vec::new(),
        };
        let (gpu, require_gpu) = (self.monitor.mode(), self.settings.require_gpu);
        let expected: Board = {
            let board = self.board.borrow();
            let expected = board.iter().filter(|(service, _)| self.settings.services[service].expected);
            expected.map(|(service, known)| (*service, known.clone())).collect()
        };
        enrol::check(stage, &Surroundings { gpu: &gpu, require_gpu, missing_files, board: &expected })
    }

    /// Everything that the platform is told.
    pub(crate) fn heartbeat(&self) -> Heartbeat {
        let now = self.uptime.now();
        let reports: Vec<ServiceReport> =
            self.board.borrow().iter().map(|(service, known)| known.report(*service, now)).collect();
        let gpu = self.monitor.mode();
        metrics::gpu(&gpu);
        Heartbeat {
            node_id: self.settings.node_id.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            services: reports,
            gpu,
            boot_id: self.boot_id.clone(),
        }
    }

    /// Whether the heartbeats go on.
    pub(crate) fn is_alive(&self) -> bool {
        let pulse = Duration::from_millis(self.pulse_ms.load(Ordering::Relaxed));
        let patience = (self.settings.heartbeat_interval + self.settings.platform_timeout).saturating_mul(3);
        self.uptime.now().saturating_sub(pulse) <= patience
    }

    fn beat(&self) {
        let now = u64::try_from(self.uptime.now().as_millis()).unwrap_or(u64::MAX);
        self.pulse_ms.store(now, Ordering::Relaxed);
    }
}

fn is_missing(path: &Path) -> bool {
    !std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)
}

/// The daemon, at work. Dropping it ends everything at once.
#[derive(Debug)]
pub struct Agent {
    node: Arc<Node>,
    doors: BTreeMap<GpuService, SocketAddr>,
    status: SocketAddr,
    /// Ends the watching, the enrolment and the heartbeats.
    stop: CancellationToken,
    servers: JoinSet<std::io::Result<()>>,
    workers: JoinSet<()>,
    heartbeats: JoinHandle<()>,
}

impl Agent {
    /// Listens, and starts all of the work.
    ///
    /// # Errors
    /// When a port cannot be listened on, or the machine gives no thread.
    pub async fn start(
        settings: Settings,
        gpu: impl GpuProbe,
        prometheus: Option<PrometheusHandle>,
    ) -> Result<Self, StartError> {
        let uptime = Uptime::start();
        let now = uptime.now();
        let board = settings
            .services
            .iter()
            .map(|(service, of)| (*service, if of.expected { Condition::unseen(now) } else { Condition::absent() }));
        let board = watch::Sender::new(board.collect::<Board>());
        let platform = Platform::new(
            &settings.platform_url,
            &settings.node_id,
            settings.secret.clone(),
            settings.host.clone(),
            settings.platform_timeout,
        )?;
        let node = Arc::new(Node {
            platform,
            board,
            monitor: Monitor::start(gpu, settings.heartbeat_interval).map_err(StartError::Thread)?,
            uptime,
            stage: watch::Sender::new(None),
            forgotten: Notify::new(),
            draining: CancellationToken::new(),
            boot_id: boot_id(),
            pulse_ms: AtomicU64::new(0),
            settings,
        });
        let stop = CancellationToken::new();
        let (mut servers, mut workers) = (JoinSet::new(), JoinSet::new());
        let mut doors = BTreeMap::new();
        let token = TokenDigest::of(&inference_token(&node.settings.secret));
        let client = crate::http::services(node.settings.connect_timeout, node.settings.idle_timeout)?;
        for (service, of) in &node.settings.services {
            let traffic = Traffic::new(*service, node.settings.requests_max);
            let door = Door {
                service: *service,
                expected: of.expected,
                upstream: of.upstream.clone(),
                client: client.clone(),
                token: token.clone(),
                traffic: Arc::clone(&traffic),
                board: node.board.clone(),
                uptime,
                body_limit_bytes: node.settings.body_limit_bytes,
                draining: node.draining.clone(),
            };
            let (listener, address) = listen(of.listen).await?;
            doors.insert(*service, address);
            // Parts of a stream are small, and none of them may wait for the next.
            let listener = listener.tap_io(|stream| {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!("a connection keeps its delay: {error}");
                }
            });
            let server = axum::serve(listener, proxy::router(Arc::new(door)));
            servers.spawn(server.with_graceful_shutdown(node.draining.clone().cancelled_owned()).into_future());
            if of.expected {
                let watcher = Watcher {
                    probe: ServiceProbe {
                        service: *service,
                        upstream: of.upstream.clone(),
                        model: of.model.clone(),
                        client: client.clone(),
                        timeout: node.settings.probe_timeout,
                        deadline: of.deadline,
                    },
                    slots: of.slots,
                    traffic,
                    board: node.board.clone(),
                    uptime,
                    interval: node.settings.probe_interval,
                    proof_interval: node.settings.proof_interval,
                    busy_patience: node.settings.busy_patience,
                };
                workers.spawn(watcher.run(stop.clone()));
            }
        }
        let (listener, status) = listen(node.settings.status_listen).await?;
        let server = axum::serve(listener, status::router(Arc::clone(&node), prometheus));
        servers.spawn(server.with_graceful_shutdown(stop.clone().cancelled_owned()).into_future());
        workers.spawn(enrol::run(Arc::clone(&node), stop.clone()));
        let heartbeats = tokio::spawn(heartbeats(Arc::clone(&node), stop.clone()));
        Ok(Self { node, doors, status, stop, servers, workers, heartbeats })
    }

    /// Where a service is offered.
    pub fn address(&self, service: GpuService) -> SocketAddr {
        self.doors[&service]
    }

    /// Where `/health` and `/metrics` are.
    pub const fn status_address(&self) -> SocketAddr {
        self.status
    }

    /// Whether the heartbeats go on.
    pub fn is_alive(&self) -> bool {
        self.node.is_alive()
    }

    /// Waits for a part that ends though it should not.
    pub async fn failed(&mut self) -> String {
        tokio::select! {
            Some(ended) = self.servers.join_next() => format!("a listener ended: {ended:?}"),
            Some(ended) = self.workers.join_next() => format!("a worker ended: {ended:?}"),
            ended = &mut self.heartbeats => format!("the heartbeats ended: {ended:?}"),
        }
    }

    /// Lets no request in any more, says goodbye to the platform, and waits for the requests in progress, but not for ever.
    pub async fn drain(mut self) {
        self.node.draining.cancel();
        self.stop.cancel();
        let ended = tokio::time::timeout(self.node.settings.drain_timeout, async {
            if let Err(error) = (&mut self.heartbeats).await {
                tracing::error!("the heartbeats failed: {error}");
            }
            while let Some(ended) = self.servers.join_next().await {
                match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::error!("a listener failed: {error}"),
                    Err(error) => tracing::error!("a listener failed: {error}"),
                }
            }
            while let Some(ended) = self.workers.join_next().await {
                if let Err(error) = ended {
                    tracing::error!("a worker failed: {error}");
                }
            }
        });
        if ended.await.is_err() {
            tracing::warn!("requests in progress were cut off");
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
        self.heartbeats.abort();
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn boot_id() -> String {
    match std::fs::read_to_string(BOOT_ID) {
        Ok(id) => id.trim().to_owned(),
        Err(error) => {
            tracing::warn!("{BOOT_ID} cannot be read, so this start counts as one of the machine: {error}");
            format!("start-{:016x}", rand::random::<u64>())
        }
    }
}

/// Sends heartbeats: at their interval, at once when a state changes, and a last one when the node stops.
async fn heartbeats(node: Arc<Node>, stop: CancellationToken) {
    // Bounded: a driver that hangs is overdue by then.
    node.monitor.first().await;
    let mut changes = node.board.subscribe();
    let mut ticks = tokio::time::interval(node.settings.heartbeat_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut log = OutcomeLog::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
            told = changes.changed() => {
                if told.is_err() {
                    return;
                }
            }
        }
        let sent = node.platform.heartbeat(&node.heartbeat()).await;
        node.beat();
        metrics::heartbeat(sent.as_ref().map_or_else(PlatformError::word, |()| "taken"));
        if log.note(&sent) {
            node.forgotten.notify_one();
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(HEARTBEAT_GAP) => {}
        }
    }
    let mut last = node.heartbeat();
    for report in &mut last.services {
        report.state = ServiceState::Absent;
        report.detail = Some("the node is stopping".to_owned());
    }
    if let Err(error) = node.platform.heartbeat(&last).await {
        tracing::warn!("the platform does not know that this node stops: {error}");
    }
}

/// Says what became of heartbeats once for each new outcome, so that a long outage is two lines and not thousands.
#[derive(Debug, Default)]
struct OutcomeLog {
    last: Option<&'static str>,
}

impl OutcomeLog {
    /// Whether the platform knows the node again, after it did not.
    fn note(&mut self, sent: &Result<(), PlatformError>) -> bool {
        let word = sent.as_ref().map_or_else(PlatformError::word, |()| "taken");
        let before = self.last.replace(word);
        match sent {
            _ if before == Some(word) => {}
            Ok(()) => tracing::info!("the platform takes heartbeats"),
            Err(error) => tracing::warn!("a heartbeat was not taken: {error}"),
        }
        sent.is_ok() && before == Some("unknown_node")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_that_was_unknown_and_is_known_again_enrols_again() {
        let mut log = OutcomeLog::default();
        let unknown = || Err(PlatformError::UnknownNode("gpu-1".to_owned()));
        let outcomes = [Ok(()), Err(PlatformError::Late), Ok(()), unknown(), unknown(), Ok(()), Ok(())];
        let again: Vec<_> = outcomes.iter().map(|sent| log.note(sent)).collect();
        assert_eq!(again, [false, false, false, false, false, true, false]);
    }

    #[test]
    fn the_machine_has_an_id_of_its_start() {
        assert!(boot_id().len() >= 16 && boot_id() == boot_id());
    }
}
