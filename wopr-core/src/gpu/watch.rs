//! The watchdog at work: polls, and what they lead to.

use jiff::{SignedDuration, Timestamp};

use super::alerts;
use super::error::{CloudError, GpuError};
use super::model::{GpuNode, NodeStatus, RebootReason};
use super::repository::{DueReboot, NodeRepository, RebootOutcome};
use super::service::Gpu;
use super::watchdog::{self, Answers, Finding};
use crate::audit::Origin;
use crate::protocol::gpu::GpuService;

/// A reboot that could not be asked for within this time is not wanted any more.
const REBOOT_PATIENCE: SignedDuration = SignedDuration::from_mins(10);
/// A reboot that somebody asked for is left to the request that does it for so long.
const OPERATOR_PATIENCE: SignedDuration = SignedDuration::from_mins(1);
/// The span in which reboots are counted.
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// What one round of the watchdog did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watched {
    /// Nodes that were polled.
    pub polled: usize,
    /// Reboots that the provider was asked for.
    pub rebooted: usize,
    /// Whether another round was still going on, so that this one did nothing.
    pub already_running: bool,
}

/// What is made of a poll's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counts {
    /// Whatever they are, they are judged.
    Anyway,
    /// A poll before its time must not use up the patience that there is with a node: it is measured in polls.
    IfBetter,
}

impl Gpu {
    /// Polls every node that is due, judges what was answered, and asks for the reboots that follow. A node that says that a
    /// service of it answers again is asked before its time. Periodic; takes no arguments, and does nothing while an earlier
    /// round is still going on.
    ///
    /// # Errors
    /// [`GpuError::Storage`]. What one node or the provider does wrong is logged and stops nothing.
    pub async fn watch(&self) -> Result<Watched, GpuError> {
        let Ok(_alone) = self.polling().try_lock() else {
            tracing::warn!("the last round of the GPU watchdog is still going on");
            return Ok(Watched { already_running: true, ..Watched::default() });
        };
        let now = self.clock().now();
        let policy = &self.config().watchdog;
        let due = |node: &GpuNode| watchdog::next_poll(node, policy).is_none_or(|at| at <= now);
        let nodes = self.list().await?.into_iter().filter(watchdog::is_polled);
        let (due, early): (Vec<GpuNode>, Vec<GpuNode>) = nodes.partition(due);
        let early = early.iter().filter(|node| watchdog::claims_better(node)).map(|node| (node, Counts::IfBetter));
        let mut watched = Watched::default();
        let polls = due.iter().map(|node| (node, Counts::Anyway)).chain(early).map(|(node, how)| self.poll(node, how));
        for polled in futures_util::future::join_all(polls).await {
            watched.polled += usize::from(polled?);
        }
        watched.rebooted = self.finish_reboots().await?;
        Ok(watched)
    }

    /// Polls one node and applies what it answered. Answers `false` when that did not count, or somebody else polled it
    /// meanwhile.
    pub(super) async fn poll(&self, read: &GpuNode, counts: Counts) -> Result<bool, GpuError> {
        let answers = self.ask(read).await;
        if counts == Counts::IfBetter && !watchdog::is_better(read, &answers) {
            return Ok(false);
        }
        let now = self.clock().now();
        let policy = &self.config().watchdog;
        let origin = Origin::system("gpu-watchdog");
        let applied = self
            .db()
            .transaction(async |conn| {
                let mut nodes = NodeRepository::new(conn);
                let Some(mut node) = nodes.find_for_update(&read.id).await? else { return Ok(None) };
                // Two polls at once must not count twice, and an answer from another host says nothing about this one.
                let same = node.last_health_at == read.last_health_at && node.host == read.host;
                if !same || !watchdog::is_polled(&node) {
                    return Ok(None);
                }
                let since = now.checked_sub(DAY).unwrap_or(Timestamp::MIN);
                let reboots = nodes.count_reboots(&node.id, since).await?;
                let findings = watchdog::judge(&mut node, &answers, reboots, now, policy)?;
                node.updated_at = now;
                nodes.save(&node).await?;
                nodes.save_services(&node).await?;
                if findings.contains(&Finding::Reboot) {
                    nodes.add_reboot(&node.id, RebootReason::Watchdog, now).await?;
                }
                for finding in &findings {
                    self.announce_in(conn, &origin, &node, finding, now).await?;
                }
                Ok::<_, GpuError>(Some((node, findings)))
            })
            .await?;
        let Some((node, findings)) = applied else { return Ok(false) };
        for finding in &findings {
            alerts::log(&node, finding);
        }
        Ok(true)
    }

    /// Asks all four services at once.
    async fn ask(&self, node: &GpuNode) -> Answers {
        let Some(host) = &node.host else { return Answers::new() };
        let token = self.config().masters.inference_token(&node.id, node.master_key.as_deref());
        let asked = GpuService::ALL.iter().map(|service| {
            let token = token.as_ref();
            async move {
                let answer = self.probe().probe(host, *service, token).await;
                let answer = answer.map(|took| u32::try_from(took.as_millis()).unwrap_or(u32::MAX));
                if let Err(error) = &answer {
                    tracing::debug!(node.id = %node.id, gpu.service = %service, "{service} on {}: {error}", node.id);
                }
                (*service, answer.map_err(|error| error.to_string()))
            }
        });
        futures_util::future::join_all(asked).await.into_iter().collect()
    }

    /// Asks the provider for every reboot that is written down and was not asked for, also those of a process that died.
    async fn finish_reboots(&self) -> Result<usize, GpuError> {
        let mut conn = self.db().connection().await?;
        let due = NodeRepository::new(&mut conn).list_due_reboots().await?;
        drop(conn);
        let mut asked = 0;
        for reboot in due {
            let Some(outcome) = self.finish_reboot(&reboot).await? else { continue };
            asked += usize::from(outcome == RebootOutcome::Asked);
            let mut conn = self.db().connection().await?;
            NodeRepository::new(&mut conn).decide_reboot(reboot.id, outcome, self.clock().now()).await?;
        }
        Ok(asked)
    }

    /// What becomes of one; nothing yet, when it is to be tried again.
    async fn finish_reboot(&self, reboot: &DueReboot) -> Result<Option<RebootOutcome>, GpuError> {
        let age = self.clock().now().duration_since(reboot.requested_at);
        if reboot.reason == RebootReason::Operator && age < OPERATOR_PATIENCE {
            return Ok(None);
        }
        let id = &reboot.node_id;
        let mut conn = self.db().connection().await?;
        let node = NodeRepository::new(&mut conn).find(id).await?;
        drop(conn);
        let wanted = |node: &GpuNode| match reboot.reason {
            RebootReason::Watchdog => node.status == NodeStatus::Degraded,
            RebootReason::Operator => node.status != NodeStatus::Destroying,
        };
        let machine = node.filter(wanted).and_then(|node| node.machine_id);
        let Some(machine) = machine.filter(|_| age < REBOOT_PATIENCE) else {
            tracing::warn!(node.id = %id, "a reboot of GPU node {id} is not wanted any more");
            return Ok(Some(RebootOutcome::Dropped));
        };
        let Some(cloud) = self.cloud() else {
            tracing::error!(node.id = %id, "GPU node {id} cannot be rebooted: no cloud provider is configured");
            return Ok(Some(RebootOutcome::Dropped));
        };
        Ok(match cloud.reboot_machine(&machine).await {
            Ok(()) => Some(RebootOutcome::Asked),
            Err(error) => {
                tracing::error!(node.id = %id, "GPU node {id} could not be rebooted: {error}");
                let final_answer = matches!(error, CloudError::NotFound | CloudError::Refused(_));
                final_answer.then_some(RebootOutcome::Refused)
            }
        })
    }
}
