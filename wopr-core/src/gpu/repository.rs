use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel;
use uuid::Uuid;

use super::model::{GpuNode, GpuNodeId, Host, NodeSource, NodeStatus, RebootReason, ServiceHealth, Slug};
use crate::db::DbError;
use crate::db::schema::gpu::{gpu_nodes, gpu_progress, gpu_reboots, gpu_services};
use crate::ids::RebootId;
use crate::protocol::gpu::{GpuService, Heartbeat};

/// The index that keeps names unique.
pub(super) const NAME_INDEX: &str = "gpu_nodes_name";
/// The primary key, which sees the same name first.
pub(super) const NAME_KEY: &str = "gpu_nodes_pkey";

type Time = jiff_diesel::Timestamp;

#[derive(Queryable, Selectable)]
#[diesel(table_name = gpu_nodes, check_for_backend(diesel::pg::Pg))]
struct NodeRow {
    id: String,
    source: String,
    provision_tag: String,
    droplet_id: Option<String>,
    host: Option<String>,
    region: String,
    size: String,
    status: String,
    provision_stage: String,
    stage_since: Time,
    setup_since: Time,
    monthly_cost_cents: Option<i64>,
    last_error: Option<String>,
    created_at: Time,
    updated_at: Time,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = gpu_progress, check_for_backend(diesel::pg::Pg))]
struct ProgressRow {
    last_health_at: Option<Time>,
    last_ok_at: Option<Time>,
    last_heartbeat_at: Option<Time>,
    heartbeat: Option<serde_json::Value>,
    master_key: Option<String>,
    identified_at: Option<Time>,
    all_down_polls: i32,
    reboot_at: Option<Time>,
    create_attempted_at: Option<Time>,
    attempts: i32,
    next_attempt_at: Option<Time>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = gpu_services, check_for_backend(diesel::pg::Pg))]
struct ServiceRow {
    service: String,
    expected: bool,
    state: Option<String>,
    latency_ms: Option<i32>,
    checked_at: Option<Time>,
    last_ok_at: Option<Time>,
    down_since: Option<Time>,
    told_at: Option<Time>,
}

/// A reboot that was written down and not yet asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DueReboot {
    pub(super) id: RebootId,
    pub(super) node_id: GpuNodeId,
    pub(super) reason: RebootReason,
    pub(super) requested_at: Timestamp,
}

/// What became of a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RebootOutcome {
    /// The provider took the order.
    Asked,
    /// The provider refused.
    Refused,
    /// It was not needed, or not possible, any more.
    Dropped,
}

impl RebootOutcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }
}

fn inconsistent(detail: impl ToString) -> DbError {
    DbError::inconsistent("gpu_nodes", detail)
}

fn time(value: Option<Time>) -> Option<Timestamp> {
    value.map(Time::to_jiff)
}

fn stored(value: Option<Timestamp>) -> Option<Time> {
    value.map(ToDiesel::to_diesel)
}

fn read_service(row: ServiceRow) -> Result<(GpuService, ServiceHealth), DbError> {
    let service = row.service.parse().map_err(inconsistent)?;
    let ok = match row.state.as_deref() {
        None => None,
        Some("ok") => Some(true),
        Some("down") => Some(false),
        Some(other) => return Err(DbError::inconsistent("gpu_services", other)),
    };
    let health = ServiceHealth {
        expected: row.expected,
        ok,
        latency_ms: row.latency_ms.map(u32::try_from).transpose().map_err(inconsistent)?,
        checked_at: time(row.checked_at),
        last_ok_at: time(row.last_ok_at),
        down_since: time(row.down_since),
        told_at: time(row.told_at),
    };
    Ok((service, health))
}

fn assemble(
    node: NodeRow,
    progress: ProgressRow,
    services: BTreeMap<GpuService, ServiceHealth>,
) -> Result<GpuNode, DbError> {
    let unknown = |word: &str| inconsistent(format!("unknown word {word}"));
    if services.len() != GpuService::ALL.len() {
        return Err(inconsistent("it lacks a service"));
    }
    let heartbeat = match (progress.last_heartbeat_at, progress.heartbeat) {
        (Some(at), Some(value)) => {
            let heartbeat: Heartbeat = serde_json::from_value(value).map_err(inconsistent)?;
            Some((at.to_jiff(), heartbeat))
        }
        _ => None,
    };
    Ok(GpuNode {
        id: node.id.parse().map_err(inconsistent)?,
        source: NodeSource::from_word(&node.source).ok_or_else(|| unknown(&node.source))?,
        provision_tag: node.provision_tag,
        machine_id: node.droplet_id,
        host: node.host.map(|host| host.parse()).transpose().map_err(inconsistent)?,
        region: Slug::region(&node.region).map_err(inconsistent)?,
        size: Slug::size(&node.size).map_err(inconsistent)?,
        status: NodeStatus::from_word(&node.status).ok_or_else(|| unknown(&node.status))?,
        stage: node.provision_stage.parse().map_err(inconsistent)?,
        stage_since: node.stage_since.to_jiff(),
        setup_since: node.setup_since.to_jiff(),
        monthly_cost_cents: node.monthly_cost_cents,
        last_error: node.last_error,
        services,
        last_health_at: time(progress.last_health_at),
        last_ok_at: time(progress.last_ok_at),
        heartbeat,
        master_key: progress.master_key,
        identified_at: time(progress.identified_at),
        all_down_polls: progress.all_down_polls,
        reboot_at: time(progress.reboot_at),
        create_attempted_at: time(progress.create_attempted_at),
        attempts: progress.attempts,
        next_attempt_at: time(progress.next_attempt_at),
        created_at: node.created_at.to_jiff(),
        updated_at: node.updated_at.to_jiff(),
    })
}

pub(super) struct NodeRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> NodeRepository<'c> {
    pub(super) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    pub(super) async fn insert(&mut self, node: &GpuNode) -> Result<(), DbError> {
        diesel::insert_into(gpu_nodes::table)
            .values((
                gpu_nodes::id.eq(node.id.as_str()),
                gpu_nodes::source.eq(node.source.as_str()),
                gpu_nodes::provision_tag.eq(&node.provision_tag),
                gpu_nodes::host.eq(node.host.as_ref().map(Host::as_str)),
                gpu_nodes::region.eq(node.region.as_str()),
                gpu_nodes::size.eq(node.size.as_str()),
                gpu_nodes::status.eq(node.status.as_str()),
                gpu_nodes::provision_stage.eq(node.stage.as_str()),
                gpu_nodes::stage_since.eq(node.stage_since.to_diesel()),
                gpu_nodes::setup_since.eq(node.setup_since.to_diesel()),
                gpu_nodes::monthly_cost_cents.eq(node.monthly_cost_cents),
                gpu_nodes::created_at.eq(node.created_at.to_diesel()),
                gpu_nodes::updated_at.eq(node.updated_at.to_diesel()),
            ))
            .execute(self.conn)
            .await?;
        diesel::insert_into(gpu_progress::table)
            .values((
                gpu_progress::node_id.eq(node.id.as_str()),
                gpu_progress::master_key.eq(&node.master_key),
                gpu_progress::next_attempt_at.eq(stored(node.next_attempt_at)),
            ))
            .execute(self.conn)
            .await?;
        let services: Vec<_> = node
            .services
            .iter()
            .map(|(service, health)| {
                (
                    gpu_services::node_id.eq(node.id.as_str()),
                    gpu_services::service.eq(service.as_str()),
                    gpu_services::expected.eq(health.expected),
                )
            })
            .collect();
        diesel::insert_into(gpu_services::table).values(services).execute(self.conn).await?;
        Ok(())
    }

    /// Every node, oldest first.
    pub(super) async fn list(&mut self) -> Result<Vec<GpuNode>, DbError> {
        self.load(None).await
    }

    pub(super) async fn find(&mut self, id: &GpuNodeId) -> Result<Option<GpuNode>, DbError> {
        Ok(self.load(Some(id)).await?.pop())
    }

    /// One statement, so that a node that is removed meanwhile is there with all of its services or not at all.
    async fn load(&mut self, only: Option<&GpuNodeId>) -> Result<Vec<GpuNode>, DbError> {
        let mut query = gpu_nodes::table
            .inner_join(gpu_progress::table)
            .inner_join(gpu_services::table)
            .order((gpu_nodes::created_at, gpu_nodes::id))
            .select((NodeRow::as_select(), ProgressRow::as_select(), ServiceRow::as_select()))
            .into_boxed();
        if let Some(id) = only {
            query = query.filter(gpu_nodes::id.eq(id.as_str().to_owned()));
        }
        let rows: Vec<(NodeRow, ProgressRow, ServiceRow)> = query.load(self.conn).await?;
        let mut nodes = Vec::new();
        let mut services = BTreeMap::new();
        let mut rows = rows.into_iter().peekable();
        while let Some((node, progress, service)) = rows.next() {
            services.extend([read_service(service)?]);
            if rows.peek().is_none_or(|(next, ..)| next.id != node.id) {
                nodes.push(assemble(node, progress, std::mem::take(&mut services))?);
            }
        }
        Ok(nodes)
    }

    /// As [`Self::find`], and locks it until the transaction ends.
    pub(super) async fn find_for_update(&mut self, id: &GpuNodeId) -> Result<Option<GpuNode>, DbError> {
        let locked: Option<String> =
            gpu_nodes::table.find(id.as_str()).select(gpu_nodes::id).for_update().first(self.conn).await.optional()?;
        if locked.is_none() {
            return Ok(None);
        }
        self.find(id).await
    }

    /// Writes everything of a node that can change. It must have been locked when it was read.
    pub(super) async fn save(&mut self, node: &GpuNode) -> Result<(), DbError> {
        diesel::update(gpu_nodes::table.find(node.id.as_str()))
            .set((
                gpu_nodes::droplet_id.eq(&node.machine_id),
                gpu_nodes::host.eq(node.host.as_ref().map(Host::as_str)),
                gpu_nodes::status.eq(node.status.as_str()),
                gpu_nodes::provision_stage.eq(node.stage.as_str()),
                gpu_nodes::stage_since.eq(node.stage_since.to_diesel()),
                gpu_nodes::setup_since.eq(node.setup_since.to_diesel()),
                gpu_nodes::monthly_cost_cents.eq(node.monthly_cost_cents),
                gpu_nodes::last_error.eq(&node.last_error),
                gpu_nodes::updated_at.eq(node.updated_at.to_diesel()),
            ))
            .execute(self.conn)
            .await?;
        let heartbeat = node.heartbeat.as_ref();
        let said = heartbeat.map(|(_, said)| serde_json::to_value(said)).transpose().map_err(inconsistent)?;
        diesel::update(gpu_progress::table.find(node.id.as_str()))
            .set((
                gpu_progress::last_health_at.eq(stored(node.last_health_at)),
                gpu_progress::last_ok_at.eq(stored(node.last_ok_at)),
                gpu_progress::last_heartbeat_at.eq(stored(heartbeat.map(|(at, _)| *at))),
                gpu_progress::heartbeat.eq(said),
                gpu_progress::master_key.eq(&node.master_key),
                gpu_progress::identified_at.eq(stored(node.identified_at)),
                gpu_progress::all_down_polls.eq(node.all_down_polls),
                gpu_progress::reboot_at.eq(stored(node.reboot_at)),
                gpu_progress::create_attempted_at.eq(stored(node.create_attempted_at)),
                gpu_progress::attempts.eq(node.attempts),
                gpu_progress::next_attempt_at.eq(stored(node.next_attempt_at)),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Writes how a node's services are.
    pub(super) async fn save_services(&mut self, node: &GpuNode) -> Result<(), DbError> {
        for (service, health) in &node.services {
            let state = health.ok.map(|ok| if ok { "ok" } else { "down" });
            let latency = health.latency_ms.map(|latency| i32::try_from(latency).unwrap_or(i32::MAX));
            diesel::update(gpu_services::table.find((node.id.as_str(), service.as_str())))
                .set((
                    gpu_services::state.eq(state),
                    gpu_services::latency_ms.eq(latency),
                    gpu_services::checked_at.eq(stored(health.checked_at)),
                    gpu_services::last_ok_at.eq(stored(health.last_ok_at)),
                    gpu_services::down_since.eq(stored(health.down_since)),
                    gpu_services::told_at.eq(stored(health.told_at)),
                ))
                .execute(self.conn)
                .await?;
        }
        Ok(())
    }

    pub(super) async fn delete(&mut self, id: &GpuNodeId) -> Result<(), DbError> {
        diesel::delete(gpu_nodes::table.find(id.as_str())).execute(self.conn).await?;
        Ok(())
    }

    /// Writes down that a node is to be rebooted.
    pub(super) async fn add_reboot(
        &mut self,
        id: &GpuNodeId,
        reason: RebootReason,
        now: Timestamp,
    ) -> Result<RebootId, DbError> {
        let reboot = RebootId::new(now);
        diesel::insert_into(gpu_reboots::table)
            .values((
                gpu_reboots::id.eq(reboot.as_uuid()),
                gpu_reboots::node_id.eq(id.as_str()),
                gpu_reboots::reason.eq(reason.as_str()),
                gpu_reboots::state.eq("due"),
                gpu_reboots::requested_at.eq(now.to_diesel()),
            ))
            .execute(self.conn)
            .await?;
        Ok(reboot)
    }

    /// The reboots that nobody has asked the provider for yet, oldest first.
    pub(super) async fn list_due_reboots(&mut self) -> Result<Vec<DueReboot>, DbError> {
        let rows: Vec<(Uuid, String, String, Time)> = gpu_reboots::table
            .filter(gpu_reboots::state.eq("due"))
            .order((gpu_reboots::requested_at, gpu_reboots::id))
            .select((gpu_reboots::id, gpu_reboots::node_id, gpu_reboots::reason, gpu_reboots::requested_at))
            .load(self.conn)
            .await?;
        let read = |(id, node_id, reason, requested_at): (Uuid, String, String, Time)| {
            let reason =
                RebootReason::from_word(&reason).ok_or_else(|| DbError::inconsistent("gpu_reboots", &reason))?;
            let node_id = node_id.parse().map_err(inconsistent)?;
            Ok(DueReboot { id: RebootId::from_uuid(id), node_id, reason, requested_at: requested_at.to_jiff() })
        };
        rows.into_iter().map(read).collect()
    }

    /// Records what became of a reboot, unless that is recorded.
    pub(super) async fn decide_reboot(
        &mut self,
        id: RebootId,
        outcome: RebootOutcome,
        now: Timestamp,
    ) -> Result<(), DbError> {
        diesel::update(gpu_reboots::table.find(id.as_uuid()).filter(gpu_reboots::state.eq("due")))
            .set((gpu_reboots::state.eq(outcome.as_str()), gpu_reboots::decided_at.eq(Some(now.to_diesel()))))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// How often a node was rebooted since then, or is about to be.
    pub(super) async fn count_reboots(&mut self, id: &GpuNodeId, since: Timestamp) -> Result<i64, DbError> {
        let count = gpu_reboots::table
            .filter(gpu_reboots::node_id.eq(id.as_str()))
            .filter(gpu_reboots::state.eq_any(["due", "asked"]))
            .filter(gpu_reboots::requested_at.gt(since.to_diesel()))
            .count()
            .get_result(self.conn)
            .await?;
        Ok(count)
    }
}
