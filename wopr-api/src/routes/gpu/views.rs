use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use wopr_core::gpu::{CloudRegion, CloudSize, GpuNode, ServiceHealth};

fn seconds(at: Timestamp) -> i64 {
    at.as_second()
}

const fn word(ok: bool) -> &'static str {
    if ok { "ok" } else { "down" }
}

/// One service of a node.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceView {
    /// Whether the node is judged by it.
    expected: bool,
    /// `ok` or `down`; nothing before the first poll.
    state: Option<&'static str>,
    latency_ms: Option<u32>,
    checked_at: Option<i64>,
    last_ok_at: Option<i64>,
}

impl From<&ServiceHealth> for ServiceView {
    fn from(health: &ServiceHealth) -> Self {
        Self {
            expected: health.expected,
            state: health.ok.map(word),
            latency_ms: health.latency_ms,
            checked_at: health.checked_at.map(seconds),
            last_ok_at: health.last_ok_at.map(seconds),
        }
    }
}

/// A GPU node. Times are seconds since 1970.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct GpuNodeView {
    id: String,
    droplet_id: Option<String>,
    host: Option<String>,
    region: String,
    size: String,
    status: &'static str,
    provision_stage: &'static str,
    /// `ok` or `down` by service; nothing before the first poll.
    service_health: Option<BTreeMap<&'static str, &'static str>>,
    monthly_cost_cents: Option<i64>,
    /// When it was last polled, answered or not.
    last_health_at: Option<i64>,
    last_error: Option<String>,
    created_at: i64,
    updated_at: i64,
    /// When any service that it should have last answered.
    last_ok_at: Option<i64>,
    /// When its daemon last said something, and what.
    last_heartbeat_at: Option<i64>,
    agent_version: Option<String>,
    #[schema(value_type = Option<Object>)]
    gpu: Option<Value>,
    /// Whether it serves, but not everything it should.
    partial_outage: bool,
    services: BTreeMap<&'static str, ServiceView>,
}

impl From<&GpuNode> for GpuNodeView {
    fn from(node: &GpuNode) -> Self {
        let polled = node.services.iter().filter_map(|(service, health)| Some((service.as_str(), word(health.ok?))));
        let polled: BTreeMap<_, _> = polled.collect();
        let heartbeat = node.heartbeat.as_ref();
        Self {
            id: node.id.to_string(),
            droplet_id: node.machine_id.clone(),
            host: node.host.as_ref().map(ToString::to_string),
            region: node.region.to_string(),
            size: node.size.to_string(),
            status: node.status.as_str(),
            provision_stage: node.stage.as_str(),
            service_health: (!polled.is_empty()).then_some(polled),
            monthly_cost_cents: node.monthly_cost_cents,
            last_health_at: node.last_health_at.map(seconds),
            last_error: node.last_error.clone(),
            created_at: seconds(node.created_at),
            updated_at: seconds(node.updated_at),
            last_ok_at: node.last_ok_at.map(seconds),
            last_heartbeat_at: heartbeat.map(|(at, _)| seconds(*at)),
            agent_version: heartbeat.map(|(_, said)| said.agent_version.clone()),
            gpu: heartbeat.and_then(|(_, said)| serde_json::to_value(&said.gpu).ok()),
            partial_outage: node.is_partial(),
            services: node.services.iter().map(|(service, health)| (service.as_str(), health.into())).collect(),
        }
    }
}

/// A node that is being made, or was enrolled.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProvisionedView {
    node_id: String,
    host: Option<String>,
    droplet_id: Option<String>,
    region: String,
    size: String,
    monthly_cost_cents: Option<i64>,
    status: &'static str,
    provision_stage: &'static str,
    /// The secret of a machine that was enrolled; shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    node_secret: Option<String>,
}

impl ProvisionedView {
    pub(super) fn new(node: &GpuNode, node_secret: Option<String>) -> Self {
        Self {
            node_id: node.id.to_string(),
            host: node.host.as_ref().map(ToString::to_string),
            droplet_id: node.machine_id.clone(),
            region: node.region.to_string(),
            size: node.size.to_string(),
            monthly_cost_cents: node.monthly_cost_cents,
            status: node.status.as_str(),
            provision_stage: node.stage.as_str(),
            node_secret,
        }
    }
}

/// A place where machines can be made.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct RegionView {
    slug: String,
    name: String,
    available: bool,
    sizes: Vec<String>,
}

impl From<CloudRegion> for RegionView {
    fn from(region: CloudRegion) -> Self {
        Self { slug: region.slug, name: region.name, available: region.available, sizes: region.sizes }
    }
}

/// A kind of machine.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct SizeView {
    slug: String,
    /// MiB.
    memory: i64,
    vcpus: i64,
    /// GiB.
    disk: i64,
    /// Dollars.
    #[schema(value_type = f64)]
    price_monthly: serde_json::Number,
    available: bool,
    regions: Vec<String>,
    description: String,
}

impl From<CloudSize> for SizeView {
    fn from(size: CloudSize) -> Self {
        Self {
            slug: size.slug,
            memory: size.memory_mib,
            vcpus: size.processors,
            disk: size.disk_gib,
            price_monthly: dollars(size.monthly_cost_cents),
            available: size.available,
            regions: size.regions,
            description: size.description,
        }
    }
}

/// Cents as a number of dollars, by way of its text.
fn dollars(cents: i64) -> serde_json::Number {
    let text = format!("{}.{:02}", cents / 100, cents % 100);
    text.parse().unwrap_or_else(|_| serde_json::Number::from(cents / 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cents_are_shown_as_dollars() {
        for (cents, expected) in [(0, "0.0"), (600, "6.0"), (247_680, "2476.8"), (1_005, "10.05")] {
            assert_eq!(dollars(cents).to_string(), expected);
        }
    }
}
