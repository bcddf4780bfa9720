//! What nodes say of themselves.

use jiff::Timestamp;
use secrecy::SecretString;

use super::alerts;
use super::credentials::NodeCredential;
use super::error::GpuError;
use super::model::{GpuNode, GpuNodeId, Host, InvalidGpuInput, NodeSource, NodeStatus, reason_of};
use super::repository::NodeRepository;
use super::service::{Gpu, find_in, known};
use super::watch::Counts;
use super::watchdog::Finding;
use crate::audit::{self, AuditEntry, Origin, Resource};
use crate::protocol::gpu::{GpuMode, Heartbeat, Stage, StageReport};

/// What a machine is given in exchange for the token that it was born with.
#[derive(Debug, Clone)]
pub struct Birth {
    /// The node's own secret.
    pub secret: SecretString,
    /// How to pull images, if they are not public: server, account and password.
    pub registry: Option<(String, String, SecretString)>,
}

impl Gpu {
    /// Takes a node's report that a stage is finished, or failed. Repeating one, or reporting an earlier one, changes
    /// nothing. `done` makes the node serve if every service answers a poll that is made at once, also one that was given
    /// up; otherwise the next polls decide.
    ///
    /// # Errors
    /// [`GpuError::NotFound`]; [`GpuError::WrongStatus`] for a node that is being removed, and for the `done` of one that was
    /// given up and does not answer.
    pub async fn report(&self, credential: NodeCredential, stage: Stage, report: &StageReport) -> Result<(), GpuError> {
        let now = self.clock().now();
        let id = known(&report.node_id)?;
        // The shared secret says nothing about who reports: it cannot lead requests elsewhere.
        let may_move = matches!(credential, NodeCredential::Own { .. });
        let host: Option<Host> = report.host.as_deref().filter(|_| may_move).map(str::parse).transpose()?;
        let origin = Origin::system("gpu-node");
        let taken = self
            .db()
            .transaction(async |conn| {
                let mut node = find_in(conn, &id).await?;
                if node.status == NodeStatus::Failed && stage == Stage::Done && !report.failed() {
                    return Ok(Taken::Claims(node));
                }
                self.identify(&mut node, credential, now);
                if let (Some(host), NodeSource::Host) = (&host, node.source) {
                    node.host = Some(host.clone());
                }
                let finding = take_report(&mut node, stage, report, now)?;
                node.updated_at = now;
                NodeRepository::new(conn).save(&node).await?;
                if let Some(finding) = &finding {
                    self.announce_in(conn, &origin, &node, finding, now).await?;
                }
                Ok::<_, GpuError>(Taken::Kept(node, finding))
            })
            .await?;
        let (node, finding) = match taken {
            Taken::Kept(node, finding) => (node, finding),
            // A node that was given up is not believed; but it is looked at, and that may bring it back.
            Taken::Claims(node) => {
                self.poll(&node, Counts::Anyway).await?;
                let status = self.get(&report.node_id).await?.status;
                let back = status == NodeStatus::Active;
                return if back { Ok(()) } else { Err(GpuError::WrongStatus { id, status }) };
            }
        };
        if let Some(finding) = finding {
            alerts::log(&node, &finding);
        } else {
            tracing::info!(node.id = %id, gpu.stage = %stage, "GPU node {id} reports {stage}");
        }
        if stage == Stage::Done && node.status == NodeStatus::Bootstrapping {
            self.poll(&node, Counts::Anyway).await?;
        }
        Ok(())
    }

    /// Takes a heartbeat from a node that proved to be itself.
    ///
    /// # Errors
    /// [`GpuError::NotFound`]; [`GpuError::Invalid`] when it holds what cannot be kept.
    pub async fn heartbeat(&self, credential: NodeCredential, heartbeat: Heartbeat) -> Result<(), GpuError> {
        let now = self.clock().now();
        let id = known(&heartbeat.node_id)?;
        check_heartbeat(&heartbeat)?;
        self.db()
            .transaction(async |conn| {
                let mut node = find_in(conn, &id).await?;
                self.identify(&mut node, credential, now);
                node.heartbeat = Some((now, heartbeat.clone()));
                node.updated_at = now;
                NodeRepository::new(conn).save(&node).await?;
                Ok(())
            })
            .await
    }

    /// Gives a machine that is being set up its own secret for the token that it was born with; nothing, when the token
    /// proves nothing or the machine has used its own secret already.
    ///
    /// # Errors
    /// [`GpuError::Storage`].
    pub async fn be_born(&self, bearer: &str, id: &str) -> Result<Option<Birth>, GpuError> {
        let Ok(id) = id.parse::<GpuNodeId>() else { return Ok(None) };
        let now = self.clock().now();
        let masters = &self.config().masters;
        self.db()
            .transaction(async |conn| {
                let mut nodes = NodeRepository::new(conn);
                let Some(mut node) = nodes.find_for_update(&id).await? else { return Ok(None) };
                let young = matches!(node.status, NodeStatus::Provisioning | NodeStatus::Bootstrapping)
                    && node.source == NodeSource::Provider
                    && node.identified_at.is_none();
                let known = masters.bootstrap_key(bearer, &node.provision_tag).is_some();
                let (true, true, Some((secret, key))) = (young, known, masters.newest_for(&id)) else {
                    return Ok(None);
                };
                node.master_key = Some(key);
                nodes.save(&node).await?;
                let origin = Origin::system("gpu-node");
                let entry = AuditEntry::success(&origin, None, "gpu.identify", Resource::new("gpu_node", &id));
                audit::record_in(conn, now, &entry).await?;
                let setup = self.config().provisioning.as_ref().ok().map(|config| &config.setup);
                let registry = setup.and_then(|setup| setup.registry.clone());
                let registry = registry.map(|login| (login.server, login.username, login.password));
                Ok(Some(Birth { secret, registry }))
            })
            .await
    }

    /// Notes that the node used a secret of its own, and which.
    fn identify(&self, node: &mut GpuNode, credential: NodeCredential, now: Timestamp) {
        if let NodeCredential::Own { key } = credential {
            node.identified_at = node.identified_at.or(Some(now));
            node.master_key = self.config().masters.fingerprint(key);
        }
    }
}

/// What became of a report.
enum Taken {
    /// It is kept, and this is what it led to.
    Kept(GpuNode, Option<Finding>),
    /// A node that was given up says that it is done.
    Claims(GpuNode),
}

/// What a report of a stage means for a node.
fn take_report(
    node: &mut GpuNode,
    stage: Stage,
    report: &StageReport,
    now: Timestamp,
) -> Result<Option<Finding>, GpuError> {
    let reason = || format!("{stage}: {}", reason_of(report.message.as_deref().unwrap_or_default()));
    let wrong = || GpuError::WrongStatus { id: node.id.clone(), status: node.status };
    match (node.status, report.failed()) {
        (NodeStatus::Destroying, _) => return Err(wrong()),
        // How far it gets is worth knowing; that it serves again is for the poll to say.
        (NodeStatus::Failed, false) => {
            node.reach(stage.min(Stage::StartingServices), now);
        }
        (NodeStatus::Provisioning | NodeStatus::Bootstrapping, true) => {
            let reason = reason();
            node.fail(&reason)?;
            return Ok(Some(Finding::GivenUp(reason)));
        }
        (NodeStatus::Provisioning | NodeStatus::Bootstrapping, false) => {
            // That it is done is for the poll to say.
            node.reach(if stage == Stage::Done { Stage::StartingServices } else { stage }, now);
            node.enter(NodeStatus::Bootstrapping)?;
        }
        // A machine that was set up before says so again after a restart; whether it serves is the poll's to say.
        (NodeStatus::Active | NodeStatus::Degraded, false) => {}
        (NodeStatus::Active | NodeStatus::Degraded | NodeStatus::Failed, true) => node.last_error = Some(reason()),
    }
    Ok(None)
}

/// The most entries of a list in a heartbeat.
const MAX_ENTRIES: usize = 64;
/// The longest text in a heartbeat, in bytes.
const MAX_TEXT_BYTES: usize = 1024;

/// A heartbeat is kept as it is: it must be of bounded size, and the database has no zero bytes in texts.
fn check_heartbeat(heartbeat: &Heartbeat) -> Result<(), InvalidGpuInput> {
    let fits = |text: &str| text.len() <= MAX_TEXT_BYTES && !text.contains('\0');
    let gpu = match &heartbeat.gpu {
        GpuMode::Nvidia { driver_version, gpus } => {
            fits(driver_version)
                && gpus.len() <= MAX_ENTRIES
                && gpus.iter().all(|reading| fits(&reading.uuid) && fits(&reading.name))
        }
        GpuMode::Cpu { reason } => fits(reason),
        GpuMode::Unresponsive { .. } => true,
    };
    let services = heartbeat.services.len() <= MAX_ENTRIES
        && heartbeat.services.iter().all(|report| report.detail.as_deref().is_none_or(fits));
    if gpu && services && fits(&heartbeat.agent_version) && fits(&heartbeat.boot_id) {
        Ok(())
    } else {
        let rule = "lists of at most 64 entries, texts of at most 1024 bytes and without zero bytes";
        Err(InvalidGpuInput { field: "heartbeat", rule })
    }
}
