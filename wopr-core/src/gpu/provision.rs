//! Making and removing machines: a job that takes no arguments and finishes what a crash left.
//!
//! Before the provider is asked for a machine, that it will be asked is written down. Whatever happens then, the next
//! attempt first looks for a machine with the row's own tag, and makes another only when the first cannot exist.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::alerts;
use super::cloud_init;
use super::error::{CloudError, GpuError};
use super::model::{GpuNode, GpuNodeId, Host, NodeSource, NodeStatus};
use super::ports::{CloudProvider, Machine, MachineState, NewMachine};
use super::repository::NodeRepository;
use super::service::{Gpu, find_in};
use super::watchdog::{self, Finding};
use crate::audit::{self, AuditEntry, Origin, Resource};
use crate::protocol::gpu::Stage;

/// On every machine of ours, beside the one of its row.
const COMMON_TAG: &str = "wopr-gpu-node";
/// Between two looks at a machine that is being made or removed.
const PACE: SignedDuration = SignedDuration::from_secs(5);
/// The longest pause after the provider failed us.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(2);
/// The longest pause that the provider may ask for.
const LONGEST_RETRY_AFTER: SignedDuration = SignedDuration::from_mins(15);
/// Between two looks for the machine of a node that was given up before it had one.
const SLOW_PACE: SignedDuration = SignedDuration::from_mins(5);
/// A machine that was ordered without an answer shows up within this time, or was never ordered.
const SETTLES_WITHIN: SignedDuration = SignedDuration::from_mins(2);

/// What one round of the job did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Provisioned {
    /// Nodes that were looked after.
    pub advanced: usize,
    /// Nodes whose provider failed; they are tried again.
    pub delayed: usize,
    /// Nodes that were given up, because they took too long or the provider refused.
    pub given_up: usize,
    /// Nodes that are gone.
    pub removed: usize,
}

/// What became of one step.
enum Step {
    /// Look again after this pause; nothing: it is done.
    Next(Option<SignedDuration>),
    /// The node has no machine any more.
    Gone,
}

/// Why a step was not done.
enum Failed {
    Cloud(CloudError),
    /// Nothing will change by itself.
    Hopeless(String),
    Gpu(GpuError),
}

impl From<CloudError> for Failed {
    fn from(error: CloudError) -> Self {
        Self::Cloud(error)
    }
}

impl From<GpuError> for Failed {
    fn from(error: GpuError) -> Self {
        Self::Gpu(error)
    }
}

impl Gpu {
    /// Brings every machine that is being made or removed a step further, and gives up nodes whose set-up takes too
    /// long. Periodic; takes no arguments. Several processes may run it: a machine is ordered by one.
    ///
    /// # Errors
    /// [`GpuError::Storage`]. What the provider does wrong is recorded with the node and tried again.
    pub async fn provision_due(&self) -> Result<Provisioned, GpuError> {
        let mut done = Provisioned { given_up: self.give_up_overdue().await?, ..Provisioned::default() };
        let now = self.clock().now();
        let due = |node: &GpuNode| node.next_attempt_at.is_some_and(|at| at <= now) && has_work(node);
        let nodes: Vec<GpuNode> = self.list().await?.into_iter().filter(due).collect();
        for node in nodes {
            let step = match self.cloud() {
                Some(cloud) => self.advance(cloud, &node).await,
                None => Err(Failed::Cloud(CloudError::Unavailable("none is configured".to_owned()))),
            };
            match step {
                Ok(Step::Next(pause)) => {
                    done.advanced += 1;
                    self.settle(&node, pause).await?;
                }
                Ok(Step::Gone) => {
                    done.removed += 1;
                    self.forget(&node.id).await?;
                }
                Err(Failed::Cloud(error)) if error.is_transient() || node.status == NodeStatus::Destroying => {
                    done.delayed += 1;
                    self.delay(&node, &error).await?;
                }
                Err(Failed::Cloud(error)) => {
                    done.given_up += 1;
                    self.give_up(&node.id, &error.to_string()).await?;
                }
                Err(Failed::Hopeless(reason)) => {
                    done.given_up += 1;
                    self.give_up(&node.id, &reason).await?;
                }
                Err(Failed::Gpu(error)) => return Err(error),
            }
        }
        Ok(done)
    }

    async fn advance(&self, cloud: &Arc<dyn CloudProvider>, node: &GpuNode) -> Result<Step, Failed> {
        match (node.status, &node.machine_id) {
            (NodeStatus::Destroying, _) => self.remove(cloud, node).await,
            (_, Some(machine)) => self.await_machine(cloud, node, machine).await,
            (_, None) => self.order(cloud, node).await,
        }
    }

    /// Finds the node's machine, or orders it.
    async fn order(&self, cloud: &Arc<dyn CloudProvider>, node: &GpuNode) -> Result<Step, Failed> {
        let mut machines = cloud.list_tagged(&node.provision_tag).await?.into_iter();
        if let Some(machine) = machines.next() {
            for extra in machines {
                tracing::warn!(node.id = %node.id, "GPU node {} has a second machine, which is removed", node.id);
                cloud.delete_machine(&extra.id).await?;
            }
            self.adopt(&node.id, &machine).await?;
            return Ok(Step::Next(Some(SignedDuration::ZERO)));
        }
        let now = self.clock().now();
        let may_show_up = node.create_attempted_at.is_some_and(|at| now.duration_since(at) < SETTLES_WITHIN);
        match node.status {
            NodeStatus::Provisioning if may_show_up => return Ok(Step::Next(Some(PACE))),
            NodeStatus::Provisioning => {}
            // It reported itself, so it exists: its machine has to show up.
            _ => return Ok(Step::Next(Some(slow_if_failed(node)))),
        }
        let new = self.new_machine(node)?;
        if !self.claim(node, now).await? {
            return Ok(Step::Next(Some(PACE)));
        }
        match cloud.create_machine(&new).await {
            Ok(machine) => {
                self.adopt(&node.id, &machine).await?;
                Ok(Step::Next(Some(PACE)))
            }
            Err(error) => {
                if error.nothing_done() {
                    self.change(&node.id, |node, _| node.create_attempted_at = None).await?;
                }
                Err(error.into())
            }
        }
    }

    fn new_machine(&self, node: &GpuNode) -> Result<NewMachine, Failed> {
        let missing = |missing: &Vec<&str>| Failed::Hopeless(format!("{} is not configured", missing.join(", ")));
        let config = self.config().provisioning.as_ref().map_err(missing)?;
        let token = self.config().masters.bootstrap_token(&node.provision_tag);
        let token = token.ok_or_else(|| Failed::Gpu(GpuError::NoSecret))?;
        Ok(NewMachine {
            name: format!("wopr-{}", node.id),
            region: node.region.clone(),
            size: node.size.clone(),
            image: config.image.clone(),
            ssh_key: config.ssh_key.clone(),
            tags: vec![node.provision_tag.clone(), COMMON_TAG.to_owned()],
            user_data: cloud_init::render(&config.setup, &node.id, &token),
        })
    }

    /// Writes down that a machine is about to be ordered, unless somebody else has since the node was read.
    async fn claim(&self, read: &GpuNode, now: Timestamp) -> Result<bool, GpuError> {
        self.db()
            .transaction(async |conn| {
                let mut nodes = NodeRepository::new(conn);
                let Some(mut node) = nodes.find_for_update(&read.id).await? else { return Ok(false) };
                let free = node.status == NodeStatus::Provisioning
                    && node.machine_id.is_none()
                    && node.create_attempted_at == read.create_attempted_at;
                if free {
                    node.reach(Stage::Creating, now);
                    node.create_attempted_at = Some(now);
                    node.updated_at = now;
                    nodes.save(&node).await?;
                }
                Ok::<_, GpuError>(free)
            })
            .await
    }

    /// Stores a machine with its node, whatever has become of the node meanwhile.
    async fn adopt(&self, id: &GpuNodeId, machine: &Machine) -> Result<(), GpuError> {
        tracing::info!(node.id = %id, machine.id = machine.id, "the machine of GPU node {id} is {}", machine.id);
        self.change(id, |node, now| {
            node.machine_id = node.machine_id.clone().or_else(|| Some(machine.id.clone()));
            node.monthly_cost_cents = machine.monthly_cost_cents.or(node.monthly_cost_cents);
            node.create_attempted_at = None;
            if node.status == NodeStatus::Provisioning {
                node.reach(Stage::WaitingActive, now);
            }
        })
        .await
    }

    async fn await_machine(
        &self,
        cloud: &Arc<dyn CloudProvider>,
        node: &GpuNode,
        machine: &str,
    ) -> Result<Step, Failed> {
        let Some(machine) = cloud.find_machine(machine).await? else {
            let reason = "its machine is gone at the provider".to_owned();
            return Err(Failed::Hopeless(reason));
        };
        let (MachineState::Active, Some(address)) = (machine.state, machine.public_address) else {
            return Ok(Step::Next(Some(slow_if_failed(node))));
        };
        let host: Host = address.to_string().parse().map_err(GpuError::from)?;
        let mut entered = Ok(());
        self.change(&node.id, |node, now| {
            node.host = Some(host.clone());
            node.monthly_cost_cents = machine.monthly_cost_cents.or(node.monthly_cost_cents);
            if node.status == NodeStatus::Failed {
                (node.setup_since, node.stage_since, node.last_error) = (now, now, None);
            }
            if matches!(node.status, NodeStatus::Provisioning | NodeStatus::Failed) {
                node.reach(Stage::WaitingAgent, now);
                entered = node.enter(NodeStatus::Bootstrapping);
            }
        })
        .await?;
        entered.map_err(GpuError::from)?;
        tracing::info!(node.id = %node.id, "GPU node {} has the address {host}", node.id);
        Ok(Step::Next(None))
    }

    /// Removes every machine that carries the node's tag, until there is none.
    async fn remove(&self, cloud: &Arc<dyn CloudProvider>, node: &GpuNode) -> Result<Step, Failed> {
        let mut machines = cloud.list_tagged(&node.provision_tag).await?;
        if let Some(known) = &node.machine_id
            && !machines.iter().any(|machine| machine.id == *known)
        {
            machines.extend(cloud.find_machine(known).await?);
        }
        for machine in &machines {
            cloud.delete_machine(&machine.id).await?;
        }
        let now = self.clock().now();
        let may_show_up = node.create_attempted_at.is_some_and(|at| now.duration_since(at) < SETTLES_WITHIN);
        Ok(if machines.is_empty() && !may_show_up { Step::Gone } else { Step::Next(Some(PACE)) })
    }

    /// Removes the row of a node whose machine is gone.
    async fn forget(&self, id: &GpuNodeId) -> Result<(), GpuError> {
        let now = self.clock().now();
        self.db()
            .transaction(async |conn| {
                NodeRepository::new(conn).delete(id).await?;
                let resource = Resource::new("gpu_node", id);
                let entry = AuditEntry::success(&Origin::system("gpu-provisioner"), None, "gpu.destroyed", resource);
                audit::record_in(conn, now, &entry).await?;
                Ok::<_, GpuError>(())
            })
            .await?;
        tracing::info!(node.id = %id, "GPU node {id} is gone, and its machine with it");
        Ok(())
    }

    /// The step was done; when the next one is due.
    async fn settle(&self, read: &GpuNode, pause: Option<SignedDuration>) -> Result<(), GpuError> {
        self.change(&read.id, |node, now| {
            if is_superseded(read, node) {
                return;
            }
            node.attempts = 0;
            node.next_attempt_at = pause.map(|pause| later(now, pause));
            if node.status != NodeStatus::Failed {
                node.last_error = None;
            }
        })
        .await
    }

    /// The provider failed: the step is tried again, more and more patiently.
    async fn delay(&self, read: &GpuNode, error: &CloudError) -> Result<(), GpuError> {
        tracing::warn!(node.id = %read.id, "the machine of GPU node {} has to wait: {error}", read.id);
        self.change(&read.id, |node, now| {
            if is_superseded(read, node) {
                return;
            }
            node.attempts = node.attempts.saturating_add(1);
            let doubled = PACE * 2_i32.saturating_pow(u32::try_from(node.attempts - 1).unwrap_or(0).min(10));
            let mut pause = doubled.min(LONGEST_PAUSE);
            if let CloudError::RateLimited { retry_after: Some(wanted) } = error {
                let wanted = SignedDuration::try_from(*wanted).unwrap_or(LONGEST_RETRY_AFTER);
                pause = pause.max(wanted.min(LONGEST_RETRY_AFTER));
            }
            node.last_error = Some(super::model::reason_of(&error.to_string()));
            node.next_attempt_at = Some(later(now, pause));
        })
        .await
    }

    async fn give_up_overdue(&self) -> Result<usize, GpuError> {
        let now = self.clock().now();
        let mut given_up = 0;
        for node in self.list().await? {
            if let Some(reason) = watchdog::overdue(&node, now) {
                given_up += 1;
                self.give_up(&node.id, &reason).await?;
            }
        }
        Ok(given_up)
    }

    /// Gives a node up that is being made or set up. One whose machine may exist goes on being looked for.
    async fn give_up(&self, id: &GpuNodeId, reason: &str) -> Result<(), GpuError> {
        let now = self.clock().now();
        let origin = Origin::system("gpu-provisioner");
        let finding = Finding::GivenUp(reason.to_owned());
        let node = self
            .db()
            .transaction(async |conn| {
                let mut node = find_in(conn, id).await?;
                if node.status == NodeStatus::Destroying {
                    return Ok(None);
                }
                let young = matches!(node.status, NodeStatus::Provisioning | NodeStatus::Bootstrapping);
                let may_exist = node.machine_id.is_some() || node.create_attempted_at.is_some();
                let looked_for = node.host.is_none() && may_exist;
                node.next_attempt_at = looked_for.then(|| later(now, SLOW_PACE));
                node.updated_at = now;
                if young {
                    node.fail(reason)?;
                    self.announce_in(conn, &origin, &node, &finding, now).await?;
                }
                NodeRepository::new(conn).save(&node).await?;
                Ok::<_, GpuError>(young.then_some(node))
            })
            .await?;
        if let Some(node) = node {
            alerts::log(&node, &finding);
        }
        Ok(())
    }

    /// Changes a node under its lock; one that is gone is fine.
    async fn change(
        &self,
        id: &GpuNodeId,
        change: impl FnOnce(&mut GpuNode, Timestamp) + Send,
    ) -> Result<(), GpuError> {
        let now = self.clock().now();
        self.db()
            .transaction(async move |conn| {
                let mut nodes = NodeRepository::new(conn);
                let Some(mut node) = nodes.find_for_update(id).await? else { return Ok(()) };
                change(&mut node, now);
                node.updated_at = now;
                nodes.save(&node).await?;
                Ok(())
            })
            .await
    }
}

/// Whether the provider has anything to do with how a node goes on.
fn has_work(node: &GpuNode) -> bool {
    node.source == NodeSource::Provider
        && match node.status {
            NodeStatus::Destroying | NodeStatus::Provisioning => true,
            NodeStatus::Bootstrapping | NodeStatus::Failed => node.host.is_none(),
            NodeStatus::Active | NodeStatus::Degraded => false,
        }
}

/// Whether somebody wants the node removed since the step began: when that is done is not this step's to say.
fn is_superseded(read: &GpuNode, node: &GpuNode) -> bool {
    node.status == NodeStatus::Destroying && read.status != NodeStatus::Destroying
}

fn slow_if_failed(node: &GpuNode) -> SignedDuration {
    if node.status == NodeStatus::Failed { SLOW_PACE } else { PACE }
}

fn later(at: Timestamp, pause: SignedDuration) -> Timestamp {
    at.checked_add(pause).unwrap_or(Timestamp::MAX)
}
