//! Bots as clients see them.

use std::collections::BTreeMap;

use serde::Serialize;
use wopr_core::fleet::{Bot, ContainerState, ContainerStats, LogLine};

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub(super) struct DiscoveryView {
    enabled: bool,
    topics: Vec<String>,
}

/// A bot's description.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BotProfile {
    id: String,
    tenant_id: String,
    name: String,
    description: String,
    image: String,
    env: BTreeMap<String, String>,
    restart_policy: &'static str,
    release_channel: &'static str,
    update_policy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    discovery: Option<DiscoveryView>,
    status: &'static str,
    state: &'static str,
}

impl From<&Bot> for BotProfile {
    fn from(bot: &Bot) -> Self {
        let discovery = bot.spec.discovery.as_ref();
        Self {
            id: bot.id.to_string(),
            tenant_id: bot.tenant_id.to_string(),
            name: bot.name.to_string(),
            description: bot.description.clone(),
            image: bot.spec.image.to_string(),
            env: bot.spec.env.variables().clone(),
            restart_policy: bot.spec.restart_policy.as_str(),
            release_channel: bot.release_channel.as_str(),
            update_policy: bot.update_policy.as_str(),
            discovery: discovery.map(|d| DiscoveryView { enabled: d.enabled(), topics: d.topics().to_vec() }),
            status: bot.phase.status(),
            state: bot.state_word(),
        }
    }
}

/// What a bot uses.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatsView {
    cpu_percent: f64,
    memory_usage_mb: f64,
    memory_limit_mb: f64,
    memory_percent: f64,
}

/// Hundredths as a number with two decimals.
#[expect(
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    reason = "the wire has numbers with decimals; not money"
)]
fn hundredths(value: u128) -> f64 {
    value as f64 / 100.0
}

impl From<ContainerStats> for StatsView {
    fn from(stats: ContainerStats) -> Self {
        let (used, limit) = (u128::from(stats.memory_bytes), u128::from(stats.memory_limit_bytes));
        let mebibytes = |bytes: u128| hundredths(bytes * 100 / (1024 * 1024));
        Self {
            cpu_percent: hundredths(stats.cpu_basis_points.into()),
            memory_usage_mb: mebibytes(used),
            memory_limit_mb: mebibytes(limit),
            memory_percent: hundredths((used * 10_000).checked_div(limit).unwrap_or(0)),
        }
    }
}

/// A bot as it is.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BotStatus {
    id: String,
    name: String,
    description: String,
    image: String,
    /// How far it has got: `provisioning`, `running`, `stopping`, `stopped`, `destroying`, `error`.
    status: &'static str,
    /// The engine's word.
    state: &'static str,
    health: Option<&'static str>,
    container_id: Option<String>,
    image_digest: Option<String>,
    /// When its process began, while it runs.
    uptime: Option<String>,
    started_at: Option<String>,
    created_at: String,
    updated_at: String,
    /// Where it is reached from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    /// Why it is not as wanted.
    last_error: Option<String>,
    suspended_at: Option<String>,
    destroy_after: Option<String>,
    stats: Option<StatsView>,
}

impl BotStatus {
    pub(super) fn new(bot: &Bot, hostname: Option<String>, stats: Option<ContainerStats>) -> Self {
        let started_at = bot.seen.started_at.map(|at| at.to_string());
        let runs = bot.seen.container_state == Some(ContainerState::Running);
        Self {
            id: bot.id.to_string(),
            name: bot.name.to_string(),
            description: bot.description.clone(),
            image: bot.spec.image.to_string(),
            status: bot.phase.status(),
            state: bot.state_word(),
            health: bot.seen.health.map(wopr_core::fleet::ContainerHealth::as_str),
            container_id: bot.seen.container_id.clone(),
            image_digest: bot.spec.digest.as_ref().map(|digest| digest.digest().to_owned()),
            uptime: started_at.clone().filter(|_| runs),
            started_at,
            created_at: bot.seen.created_at.unwrap_or(bot.created_at).to_string(),
            updated_at: bot.updated_at.to_string(),
            hostname,
            last_error: bot.last_error.clone(),
            suspended_at: bot.suspended_at.map(|at| at.to_string()),
            destroy_after: bot.destroy_after.map(|at| at.to_string()),
            stats: stats.map(StatsView::from),
        }
    }
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub(super) struct BotHealth {
    id: String,
    status: &'static str,
    state: &'static str,
    health: Option<&'static str>,
    uptime: Option<String>,
    stats: Option<StatsView>,
}

impl From<BotStatus> for BotHealth {
    fn from(bot: BotStatus) -> Self {
        let BotStatus { id, status, state, health, uptime, stats, .. } = bot;
        Self { id, status, state, health, uptime, stats }
    }
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub(super) struct BotMetrics {
    id: String,
    stats: Option<StatsView>,
}

impl From<BotStatus> for BotMetrics {
    fn from(bot: BotStatus) -> Self {
        Self { id: bot.id, stats: bot.stats }
    }
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub(super) struct LogEntry {
    id: String,
    timestamp: Option<String>,
    level: &'static str,
    source: &'static str,
    message: String,
}

impl LogEntry {
    pub(super) fn new(number: usize, line: LogLine) -> Self {
        Self {
            id: format!("log-{number}"),
            timestamp: line.at.map(|at| at.to_string()),
            level: line.level.as_str(),
            source: "container",
            message: line.message,
        }
    }
}
