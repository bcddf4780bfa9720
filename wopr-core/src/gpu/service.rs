use std::collections::BTreeMap;
use std::sync::Arc;

use diesel_async::AsyncPgConnection;
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::sync::{Mutex, Notify};

use super::alerts;
use super::cloud_init::{self, Setup};
use super::credentials::{MasterSecrets, NodeCredential};
use super::error::GpuError;
use super::model::{
    GpuBackend, GpuNode, GpuNodeId, Host, LOCAL_REGION, NewEnrolment, NewProvision, NodeSource, NodeStatus,
    RebootReason, ServiceHealth, Slug,
};
use super::ports::{CloudProvider, CloudRegion, CloudSize, ServiceProbe};
use super::repository::{NAME_INDEX, NAME_KEY, NodeRepository, RebootOutcome};
use super::watchdog::{Finding, WatchdogPolicy};
use crate::audit::{self, AuditEntry, Origin, Resource};
use crate::clock::SharedClock;
use crate::db::{Db, DbError};
use crate::notify;
use crate::protocol::gpu::{GpuService, Stage};

/// How sizes with a card begin.
const GPU_SIZE_PREFIX: &str = "gpu-";

/// How GPU nodes are kept.
#[derive(Debug, Clone)]
pub struct GpuConfig {
    /// What nodes prove themselves with. Without any, none can enrol.
    pub masters: MasterSecrets,
    /// Who is told when a node is in trouble.
    pub operator_email: Option<String>,
    /// The patience of the watchdog.
    pub watchdog: WatchdogPolicy,
    /// How machines are made, or the names of the settings that are missing for it.
    pub provisioning: Result<ProvisionConfig, Vec<&'static str>>,
}

/// How machines are made.
#[derive(Debug, Clone)]
pub struct ProvisionConfig {
    /// Where, unless asked otherwise.
    pub default_region: Slug,
    /// What, unless asked otherwise.
    pub default_size: Slug,
    /// From which image.
    pub image: Slug,
    /// The key that may sign in.
    pub ssh_key: Option<String>,
    /// What they are set up with.
    pub setup: Setup,
}

/// A node that was enrolled, with what it proves itself with.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// The node.
    pub node: GpuNode,
    /// Its own secret; shown this once.
    pub secret: SecretString,
}

/// The GPU nodes. Cheap to clone.
#[derive(Clone)]
pub struct Gpu {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    clock: SharedClock,
    cloud: Option<Arc<dyn CloudProvider>>,
    probe: Arc<dyn ServiceProbe>,
    config: GpuConfig,
    wake: Arc<Notify>,
    polling: Mutex<()>,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Gpu {
    /// The domain on this database. Without a provider no machine can be made, rebooted or removed.
    pub fn new(
        db: Db,
        clock: SharedClock,
        cloud: Option<Arc<dyn CloudProvider>>,
        probe: Arc<dyn ServiceProbe>,
        config: GpuConfig,
    ) -> Self {
        let (wake, polling) = (Arc::default(), Mutex::default());
        Self { inner: Arc::new(Inner { db, clock, cloud, probe, config, wake, polling }) }
    }

    /// Notified whenever a machine is to be made or removed: whoever runs [`Gpu::provision_due`] waits for it.
    pub fn waker(&self) -> Arc<Notify> {
        Arc::clone(&self.inner.wake)
    }

    pub(super) fn db(&self) -> &Db {
        &self.inner.db
    }

    pub(super) fn clock(&self) -> &SharedClock {
        &self.inner.clock
    }

    pub(super) fn cloud(&self) -> Option<&Arc<dyn CloudProvider>> {
        self.inner.cloud.as_ref()
    }

    pub(super) fn probe(&self) -> &Arc<dyn ServiceProbe> {
        &self.inner.probe
    }

    pub(super) fn config(&self) -> &GpuConfig {
        &self.inner.config
    }

    /// Held by whoever polls all nodes.
    pub(super) fn polling(&self) -> &Mutex<()> {
        &self.inner.polling
    }

    /// Takes a machine that exists. It begins where a machine of ours has just got its address.
    ///
    /// # Errors
    /// [`GpuError::NoSecret`], [`GpuError::Invalid`], [`GpuError::NameTaken`].
    pub async fn enrol(&self, origin: &Origin, new: NewEnrolment) -> Result<Enrolled, GpuError> {
        let now = self.clock().now();
        let id = named(new.name)?;
        let (secret, key) = self.config().masters.newest_for(&id).ok_or(GpuError::NoSecret)?;
        let expected = new.services.unwrap_or_else(|| GpuService::ALL.to_vec());
        if expected.is_empty() {
            let rule = "at least one service, or absent for all of them";
            return Err(super::InvalidGpuInput { field: "services", rule }.into());
        }
        let host: Host = new.host.parse()?;
        let region = Slug::region(new.region.as_deref().unwrap_or(LOCAL_REGION))?;
        let size = Slug::size(new.size.as_deref().unwrap_or("unknown"))?;
        let mut node = blank(id, NodeSource::Host, region, size, &expected, now);
        (node.status, node.stage) = (NodeStatus::Bootstrapping, Stage::WaitingAgent);
        node.host = Some(host);
        node.master_key = Some(key);
        let host = new.host;
        self.insert(origin, &node, now, "gpu.enrol", ("host", host)).await?;
        Ok(Enrolled { node, secret })
    }

    /// Wants a machine. The answer comes at once; the job makes it.
    ///
    /// # Errors
    /// [`GpuError::NoProvider`], [`GpuError::NoSecret`], [`GpuError::ProvisioningOff`], [`GpuError::Invalid`],
    /// [`GpuError::NameTaken`].
    pub async fn provision(&self, origin: &Origin, new: NewProvision) -> Result<GpuNode, GpuError> {
        if self.cloud().is_none() {
            return Err(GpuError::NoProvider);
        }
        let config =
            self.config().provisioning.as_ref().map_err(|missing| GpuError::ProvisioningOff(missing.clone()))?;
        let now = self.clock().now();
        let id = named(new.name)?;
        let region = new.region.map(|text| Slug::region(&text)).transpose()?;
        let size = new.size.map(|text| Slug::size(&text)).transpose()?;
        let region = region.unwrap_or_else(|| config.default_region.clone());
        let size = size.unwrap_or_else(|| config.default_size.clone());
        let mut node = blank(id, NodeSource::Provider, region, size, GpuService::ALL, now);
        (node.status, node.stage) = (NodeStatus::Provisioning, Stage::Pending);
        node.next_attempt_at = Some(now);
        let key = self.config().masters.newest_for(&node.id).ok_or(GpuError::NoSecret)?.1;
        node.master_key = Some(key);
        // What cannot be rendered is refused before there is a row.
        let token = self.config().masters.bootstrap_token(&node.provision_tag).ok_or(GpuError::NoSecret)?;
        cloud_init::render(&config.setup, &node.id, &token);
        let size = node.size.to_string();
        self.insert(origin, &node, now, "gpu.provision", ("size", size)).await?;
        self.inner.wake.notify_one();
        Ok(node)
    }

    async fn insert(
        &self,
        origin: &Origin,
        node: &GpuNode,
        now: Timestamp,
        action: &'static str,
        detail: (&'static str, String),
    ) -> Result<(), GpuError> {
        self.db()
            .transaction(async |conn| {
                NodeRepository::new(conn).insert(node).await.map_err(|error| name_taken(error, node))?;
                let entry = AuditEntry::success(origin, None, action, Resource::new("gpu_node", &node.id))
                    .with("category", "config")
                    .with("region", node.region.as_str())
                    .with(detail.0, detail.1.clone());
                audit::record_in(conn, now, &entry).await?;
                Ok(())
            })
            .await
    }

    /// Every node, oldest first.
    ///
    /// # Errors
    /// [`GpuError::Storage`].
    pub async fn list(&self) -> Result<Vec<GpuNode>, GpuError> {
        let mut conn = self.db().connection().await?;
        Ok(NodeRepository::new(&mut conn).list().await?)
    }

    /// One node.
    ///
    /// # Errors
    /// [`GpuError::NotFound`].
    pub async fn get(&self, id: &str) -> Result<GpuNode, GpuError> {
        let known = known(id)?;
        let mut conn = self.db().connection().await?;
        NodeRepository::new(&mut conn).find(&known).await?.ok_or_else(|| GpuError::NotFound(id.to_owned()))
    }

    /// Nodes that serve and whose service answered the last poll, quickest first.
    ///
    /// # Errors
    /// [`GpuError::Storage`].
    pub async fn backends(&self, service: GpuService) -> Result<Vec<GpuBackend>, GpuError> {
        let mut backends: Vec<GpuBackend> =
            self.list().await?.iter().filter_map(|node| self.backend(node, service)).collect();
        backends.sort_by_key(|backend| backend.latency_ms.unwrap_or(u32::MAX));
        Ok(backends)
    }

    fn backend(&self, node: &GpuNode, service: GpuService) -> Option<GpuBackend> {
        let health = node.services.get(&service)?;
        let serves = node.status == NodeStatus::Active && health.expected && health.ok == Some(true);
        let host = node.host.as_ref().filter(|_| serves)?;
        Some(GpuBackend {
            node_id: node.id.clone(),
            base_url: format!("http://{}:{}", host.in_url(), service.port()),
            token: self.config().masters.inference_token(&node.id, node.master_key.as_deref()),
            latency_ms: health.latency_ms,
        })
    }

    /// Whether nodes have anything to prove themselves with.
    pub fn has_secret(&self) -> bool {
        !self.config().masters.is_empty()
    }

    /// What a bearer proves about somebody who says to be this node; nothing, if it proves nothing.
    pub fn authenticate(&self, bearer: &str, id: Option<&str>) -> Option<NodeCredential> {
        let masters = &self.config().masters;
        let id: Option<GpuNodeId> = id.and_then(|id| id.parse().ok());
        let own = id.and_then(|id| masters.own_key(bearer, &id));
        match own {
            Some(key) => Some(NodeCredential::Own { key }),
            None => masters.is_shared(bearer).then_some(NodeCredential::Shared),
        }
    }

    /// Removes a node, and its machine if it is ours. One that is being made or set up only with `force`.
    ///
    /// # Errors
    /// [`GpuError::NotFound`], [`GpuError::WrongStatus`]; [`GpuError::NoProvider`] when its machine could not be
    /// removed.
    pub async fn destroy(&self, origin: &Origin, id: &str, force: bool) -> Result<(), GpuError> {
        let now = self.clock().now();
        let id = known(id)?;
        self.db()
            .transaction(async |conn| {
                let mut node = find_in(conn, &id).await?;
                let young = matches!(node.status, NodeStatus::Provisioning | NodeStatus::Bootstrapping);
                if young && !force {
                    return Err(GpuError::WrongStatus { id: id.clone(), status: node.status });
                }
                let has_machine = node.machine_id.is_some() || node.create_attempted_at.is_some();
                if has_machine && self.cloud().is_none() {
                    return Err(GpuError::NoProvider);
                }
                let entry = AuditEntry::success(origin, None, "gpu.destroy", Resource::new("gpu_node", &id))
                    .with("category", "config")
                    .with("status", node.status.as_str())
                    .with("dropletId", node.machine_id.clone());
                audit::record_in(conn, now, &entry).await?;
                if has_machine {
                    node.enter(NodeStatus::Destroying)?;
                    node.next_attempt_at = Some(now);
                    node.attempts = 0;
                    node.updated_at = now;
                    NodeRepository::new(conn).save(&node).await?;
                } else {
                    NodeRepository::new(conn).delete(&id).await?;
                }
                Ok(())
            })
            .await?;
        tracing::info!(node.id = %id, "GPU node {id} is being removed");
        self.inner.wake.notify_one();
        Ok(())
    }

    /// Reboots a node's machine.
    ///
    /// # Errors
    /// [`GpuError::NotFound`], [`GpuError::NoMachine`], [`GpuError::NoProvider`], [`GpuError::WrongStatus`] while it is
    /// being removed; [`GpuError::Cloud`], and then it is not rebooted later either.
    pub async fn reboot(&self, origin: &Origin, id: &str) -> Result<(), GpuError> {
        let now = self.clock().now();
        let id = known(id)?;
        let (reboot, machine) = self
            .db()
            .transaction(async |conn| {
                let mut node = find_in(conn, &id).await?;
                let machine = node.machine_id.clone().ok_or_else(|| GpuError::NoMachine(id.clone()))?;
                if node.status == NodeStatus::Destroying {
                    return Err(GpuError::WrongStatus { id: id.clone(), status: node.status });
                }
                if self.cloud().is_none() {
                    return Err(GpuError::NoProvider);
                }
                node.reboot_at = Some(now);
                node.updated_at = now;
                let mut nodes = NodeRepository::new(conn);
                nodes.save(&node).await?;
                let reboot = nodes.add_reboot(&id, RebootReason::Operator, now).await?;
                let entry = AuditEntry::success(origin, None, "gpu.reboot", Resource::new("gpu_node", &id))
                    .with("category", "config")
                    .with("reason", RebootReason::Operator.as_str());
                audit::record_in(conn, now, &entry).await?;
                Ok((reboot, machine))
            })
            .await?;
        let cloud = self.cloud().ok_or(GpuError::NoProvider)?;
        let answer = cloud.reboot_machine(&machine).await;
        let outcome = if answer.is_ok() { RebootOutcome::Asked } else { RebootOutcome::Refused };
        self.db()
            .transaction(async |conn| {
                let mut node = find_in(conn, &id).await?;
                let mut nodes = NodeRepository::new(conn);
                nodes.decide_reboot(reboot, outcome, self.clock().now()).await?;
                if outcome == RebootOutcome::Refused && node.reboot_at == Some(now) {
                    node.reboot_at = None;
                    nodes.save(&node).await?;
                }
                Ok::<_, GpuError>(())
            })
            .await?;
        Ok(answer?)
    }

    /// Takes a node back that was given up: its set-up goes on where it was, with its deadlines anew.
    ///
    /// # Errors
    /// [`GpuError::NotFound`], [`GpuError::WrongStatus`] for one that was not given up.
    pub async fn readmit(&self, origin: &Origin, id: &str) -> Result<GpuNode, GpuError> {
        let now = self.clock().now();
        let id = known(id)?;
        let node = self
            .db()
            .transaction(async |conn| {
                let mut node = find_in(conn, &id).await?;
                if node.status != NodeStatus::Failed {
                    return Err(GpuError::WrongStatus { id: id.clone(), status: node.status });
                }
                take_back(&mut node, now)?;
                NodeRepository::new(conn).save(&node).await?;
                let entry = AuditEntry::success(origin, None, "gpu.readmit", Resource::new("gpu_node", &id))
                    .with("category", "config");
                audit::record_in(conn, now, &entry).await?;
                Ok(node)
            })
            .await?;
        self.inner.wake.notify_one();
        Ok(node)
    }

    /// The provider's regions that have machines with cards.
    ///
    /// # Errors
    /// [`GpuError::NoProvider`], [`GpuError::Cloud`].
    pub async fn regions(&self) -> Result<Vec<CloudRegion>, GpuError> {
        let mut regions = self.cloud().ok_or(GpuError::NoProvider)?.list_regions().await?;
        regions.retain(|region| region.available && region.sizes.iter().any(|size| size.starts_with(GPU_SIZE_PREFIX)));
        Ok(regions)
    }

    /// The provider's machines with cards.
    ///
    /// # Errors
    /// [`GpuError::NoProvider`], [`GpuError::Cloud`].
    pub async fn sizes(&self) -> Result<Vec<CloudSize>, GpuError> {
        let mut sizes = self.cloud().ok_or(GpuError::NoProvider)?.list_sizes().await?;
        sizes.retain(|size| size.available && size.slug.starts_with(GPU_SIZE_PREFIX));
        Ok(sizes)
    }

    /// Writes what was found into the audit log, and to the operator.
    pub(super) async fn announce_in(
        &self,
        conn: &mut AsyncPgConnection,
        origin: &Origin,
        node: &GpuNode,
        finding: &Finding,
        now: Timestamp,
    ) -> Result<(), DbError> {
        if let Some(action) = alerts::action(finding) {
            let mut entry = AuditEntry::success(origin, None, action, Resource::new("gpu_node", &node.id));
            if let Finding::GivenUp(reason) = finding {
                entry = entry.with("reason", reason.as_str());
            }
            audit::record_in(conn, now, &entry).await?;
        }
        let operator = self.config().operator_email.as_deref();
        if let Some(mail) = operator.and_then(|operator| alerts::mail(operator, node, finding, now)) {
            notify::enqueue_in(conn, now, &mail).await?;
        }
        Ok(())
    }
}

/// A node as it is when its row is made.
fn blank(
    id: GpuNodeId,
    source: NodeSource,
    region: Slug,
    size: Slug,
    expected: &[GpuService],
    now: Timestamp,
) -> GpuNode {
    let health = |service: &GpuService| {
        (*service, ServiceHealth { expected: expected.contains(service), ..ServiceHealth::default() })
    };
    let services: BTreeMap<_, _> = GpuService::ALL.iter().map(health).collect();
    GpuNode {
        provision_tag: format!("wopr-gpu:{id}:{}", &uuid::Uuid::new_v4().simple().to_string()[..12]),
        id,
        source,
        machine_id: None,
        host: None,
        region,
        size,
        status: NodeStatus::Provisioning,
        stage: Stage::Pending,
        stage_since: now,
        setup_since: now,
        monthly_cost_cents: (source == NodeSource::Host).then_some(0),
        last_error: None,
        services,
        last_health_at: None,
        last_ok_at: None,
        heartbeat: None,
        master_key: None,
        identified_at: None,
        all_down_polls: 0,
        reboot_at: None,
        create_attempted_at: None,
        attempts: 0,
        next_attempt_at: None,
        created_at: now,
        updated_at: now,
    }
}

fn named(name: Option<String>) -> Result<GpuNodeId, GpuError> {
    Ok(match name {
        Some(name) => name.parse()?,
        None => GpuNodeId::random(),
    })
}

/// The id, if it can be one of ours at all.
pub(super) fn known(id: &str) -> Result<GpuNodeId, GpuError> {
    id.parse().map_err(|_| GpuError::NotFound(id.chars().take(64).collect()))
}

pub(super) async fn find_in(conn: &mut AsyncPgConnection, id: &GpuNodeId) -> Result<GpuNode, GpuError> {
    let found = NodeRepository::new(conn).find_for_update(id).await?;
    found.ok_or_else(|| GpuError::NotFound(id.to_string()))
}

fn name_taken(error: DbError, node: &GpuNode) -> GpuError {
    match error.violated_constraint() {
        Some(NAME_INDEX | NAME_KEY) => GpuError::NameTaken(node.id.clone()),
        _ => error.into(),
    }
}

/// Puts a node that was given up back to where its set-up can go on.
fn take_back(node: &mut GpuNode, now: Timestamp) -> Result<(), GpuError> {
    let (status, stage) = match (&node.host, &node.machine_id) {
        // What it had reached, it has to show again.
        (Some(_), _) => (NodeStatus::Bootstrapping, node.stage.clamp(Stage::WaitingAgent, Stage::StartingServices)),
        (None, _) if node.stage > Stage::WaitingActive => (NodeStatus::Bootstrapping, node.stage),
        (None, Some(_)) => (NodeStatus::Provisioning, Stage::WaitingActive),
        (None, None) => (NodeStatus::Provisioning, Stage::Pending),
    };
    node.enter(status)?;
    (node.stage, node.stage_since, node.setup_since) = (stage, now, now);
    (node.last_error, node.all_down_polls, node.reboot_at, node.attempts) = (None, 0, None, 0);
    node.next_attempt_at = (node.source == NodeSource::Provider && node.host.is_none()).then_some(now);
    node.last_health_at = None;
    node.updated_at = now;
    Ok(())
}
