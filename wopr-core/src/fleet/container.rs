//! What a bot's container is made of: one builder and one naming rule for every engine.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::exposure::host_label;
use super::image::ImageDigest;
use super::model::Bot;
use super::settings::{Discovery, RestartPolicy};
use crate::billing::ResourceTier;
use crate::ids::{BotId, TenantId};

/// Marks containers and volumes of bots.
pub const MANAGED_LABEL: &str = "wopr.managed";
/// Marks networks of tenants.
pub const MANAGED_NETWORK_LABEL: &str = "wopr.managed-network";
/// Names the bot.
pub const BOT_LABEL: &str = "wopr.bot-id";
/// Names the tenant.
pub const TENANT_LABEL: &str = "wopr.tenant-id";
/// The fingerprint of everything that needs a new container when it changes.
pub const SPEC_LABEL: &str = "wopr.spec-hash";

/// Where a bot keeps its data: its volume is mounted here.
pub const DATA_PATH: &str = "/data";
/// Where a bot finds what the platform gives it: a second volume, mounted here.
pub const RUN_PATH: &str = "/run/wopr";
/// The file with the bot's key, in [`RUN_PATH`].
pub const KEY_FILE: &str = "service-key";
/// The port on which every bot answers `GET /health`.
pub const BOT_PORT: u16 = 7437;

/// The name under which a container reaches its own machine, where models are asked through that.
pub const HOST_GATEWAY: &str = "host.docker.internal";

/// The topic every bot joins unless it looks for no peers.
const DEFAULT_TOPIC: &str = "wopr-service";
/// Goes up when the way containers are made changes, so that existing ones are made anew.
const SPEC_VERSION: u32 = 1;

/// The name of a bot's container: it depends on the id alone, so a bot can be renamed, and two can never collide.
pub fn container_name(bot: BotId) -> String {
    format!("wopr-bot-{bot}")
}

/// The name of the volume with a bot's data. The first has no number; each restore makes the next one.
pub fn data_volume_name(bot: BotId, volume: u32) -> String {
    match volume {
        0 => format!("wopr-bot-{bot}-data"),
        number => format!("wopr-bot-{bot}-data-{number}"),
    }
}

/// The name of the small volume with a bot's key.
pub fn run_volume_name(bot: BotId) -> String {
    format!("wopr-bot-{bot}-run")
}

/// The name of a tenant's network: a hash of the id, so that no two tenants share one, whatever their ids look like.
pub fn network_name(tenant: TenantId) -> String {
    let digest = Sha256::digest(tenant.to_string().as_bytes());
    format!("wopr-tenant-{}", hex::encode(&digest[..16]))
}

/// Everything an engine needs to make one bot's container.
///
/// Hardening is not part of it, because it is the same for all: every capability dropped but binding low ports, no new
/// privileges, a read-only root file system, `/tmp` and `/var/tmp` of 64 MB in memory, and the tier's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// The bot.
    pub bot_id: BotId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Exactly one image.
    pub image: ImageDigest,
    /// The host name, inside and on the tenant's network: [`host_label`].
    pub host_name: String,
    /// The environment, the platform's variables included.
    pub env: BTreeMap<String, String>,
    /// What the engine does when the process ends.
    pub restart_policy: RestartPolicy,
    /// Memory, processors, processes.
    pub tier: ResourceTier,
    /// Which of the bot's data volumes.
    pub volume: u32,
    /// Whether [`HOST_GATEWAY`] leads to the machine that the container runs on.
    pub reaches_host: bool,
}

impl ContainerSpec {
    /// What `bot` needs, once its image is known. `gateway` is where it reaches models.
    pub fn of(bot: &Bot, gateway: Option<&str>) -> Option<Self> {
        let image = bot.spec.digest.clone()?;
        let mut env = bot.spec.env.variables().clone();
        match &bot.spec.discovery {
            Some(discovery) if !discovery.enabled() => {
                env.remove("WOPR_DISCOVERY_TOPICS");
            }
            discovery => {
                let own = discovery.iter().flat_map(Discovery::topics).map(String::as_str);
                let topics: Vec<&str> = std::iter::once(DEFAULT_TOPIC).chain(own).collect();
                env.insert("WOPR_DISCOVERY_TOPICS".to_owned(), topics.join(","));
            }
        }
        env.insert("WOPR_HOME".to_owned(), DATA_PATH.to_owned());
        env.insert("WOPR_SERVICE_KEY_FILE".to_owned(), format!("{RUN_PATH}/{KEY_FILE}"));
        if let Some(gateway) = gateway {
            // What the usual clients read by themselves.
            env.insert("WOPR_GATEWAY_URL".to_owned(), format!("{gateway}/v1"));
            env.insert("OPENAI_BASE_URL".to_owned(), format!("{gateway}/v1/openai/v1"));
            env.insert("ANTHROPIC_BASE_URL".to_owned(), format!("{gateway}/v1/anthropic"));
        }
        Some(Self {
            bot_id: bot.id,
            tenant_id: bot.tenant_id,
            image,
            host_name: host_label(&bot.name, bot.id),
            env,
            restart_policy: bot.spec.restart_policy,
            tier: bot.resource_tier,
            volume: bot.spec.volume,
            reaches_host: gateway.is_some_and(|gateway| gateway.contains(HOST_GATEWAY)),
        })
    }

    /// The fingerprint of this description. Each part is written with its length, so no two descriptions share one.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        let mut add = |part: &str| {
            hasher.update(part.len().to_be_bytes());
            hasher.update(part.as_bytes());
        };
        add(&SPEC_VERSION.to_string());
        add(&self.bot_id.to_string());
        add(&self.tenant_id.to_string());
        add(self.image.as_str());
        add(&self.host_name);
        add(self.restart_policy.as_str());
        add(self.tier.as_str());
        add(&self.volume.to_string());
        for (name, value) in &self.env {
            add(name);
            add(value);
        }
        hex::encode(&hasher.finalize()[..16])
    }

    /// The labels of the container.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = volume_labels(self.bot_id, self.tenant_id);
        labels.insert(SPEC_LABEL.to_owned(), self.hash());
        labels
    }
}

/// The labels of a bot's volumes.
pub fn volume_labels(bot: BotId, tenant: TenantId) -> BTreeMap<String, String> {
    BTreeMap::from([
        (MANAGED_LABEL.to_owned(), "true".to_owned()),
        (BOT_LABEL.to_owned(), bot.to_string()),
        (TENANT_LABEL.to_owned(), tenant.to_string()),
    ])
}

/// The labels of a tenant's network.
pub fn network_labels(tenant: TenantId) -> BTreeMap<String, String> {
    BTreeMap::from([
        (MANAGED_NETWORK_LABEL.to_owned(), "true".to_owned()),
        (TENANT_LABEL.to_owned(), tenant.to_string()),
        ("wopr.network-type".to_owned(), "tenant".to_owned()),
    ])
}
