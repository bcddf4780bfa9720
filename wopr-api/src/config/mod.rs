//! Configuration: flag over environment over file over default, typed, and refused as a whole when any of it is wrong.

mod backup;
mod gateway;
mod gpu;
mod keys;
mod proxy;
mod read;
mod source;

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;
use secrecy::SecretString;
use wopr_core::adapters::models::KeyedAddresses;
use wopr_core::auth::OperatorToken;
use wopr_core::backup::retention::Tier;
use wopr_core::fleet::NetworkRange;
use wopr_core::gateway::{GatewayConfig, Sync};
use wopr_core::gpu::{MasterSecrets, ProvisionConfig};

pub use self::keys::{KEYS, Key};
pub use self::read::origin_of;
pub use self::source::{ConfigErrors, Layer, Setting, Sources};

/// Stripe's own API.
pub const STRIPE_API_BASE: &str = "https://api.stripe.com/";

/// Where the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// On somebody's machine: plain HTTP and stand-ins are fine.
    Development,
    /// For customers.
    Production,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// How to reach Stripe.
#[derive(Debug, Clone)]
pub struct StripeConfig {
    /// `sk_…`.
    pub secret_key: SecretString,
    /// `whsec_…`, newest first; all are accepted.
    pub webhook_secrets: Vec<SecretString>,
    /// The API's base URL.
    pub api_base: String,
}

/// How to pull images.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// The registry's host.
    pub server: String,
    /// The account.
    pub username: String,
    /// Its password or token.
    pub password: SecretString,
}

/// How to send mail.
#[derive(Debug, Clone)]
pub struct MailConfig {
    /// `smtp://user:password@host:port` or `smtps://…`.
    pub smtp_url: SecretString,
    /// The sender's address.
    pub from: String,
}

/// GPU nodes, and the cloud provider that has their machines.
#[derive(Debug, Clone)]
pub struct GpuSettings {
    /// What nodes prove themselves with.
    pub masters: MasterSecrets,
    /// The cloud provider's account; `None` switches it off.
    pub cloud: Option<CloudConfig>,
    /// How machines are made, or the names of the keys that are missing for it.
    pub provisioning: Result<ProvisionConfig, Vec<&'static str>>,
}

/// How to reach the cloud provider.
#[derive(Debug, Clone)]
pub struct CloudConfig {
    /// Its token.
    pub token: SecretString,
    /// The API's base URL.
    pub api_base: String,
}

/// Calls to models.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// Margin, limits, bounds.
    pub config: GatewayConfig,
    /// Where charges are written first: a folder on a disk that survives a restart, for this process alone.
    pub journal: PathBuf,
    /// When a charge counts as written.
    pub sync: Sync,
    /// Where bots reach this API, without a trailing slash; `None` tells them nothing.
    pub url_for_bots: Option<String>,
    /// Who is asked with tenants' own keys.
    pub tenants: KeyedAddresses,
    /// OpenRouter; `None` switches it off, as with all of these.
    pub openrouter: Option<ModelAccount>,
    /// Anthropic.
    pub anthropic: Option<ModelAccount>,
    /// Gemini.
    pub gemini: Option<ModelAccount>,
    /// Deepgram.
    pub deepgram: Option<ModelAccount>,
    /// ElevenLabs.
    pub elevenlabs: Option<ModelAccount>,
    /// Replicate.
    pub replicate: Option<ModelAccount>,
}

/// An account at a provider of models.
#[derive(Debug, Clone)]
pub struct ModelAccount {
    /// Its key.
    pub key: SecretString,
    /// The API's base URL.
    pub base_url: String,
}

/// Where backups are kept.
#[derive(Debug, Clone)]
pub struct BackupSettings {
    /// The object store, without the bucket.
    pub endpoint: String,
    /// Its region.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// The name of the key.
    pub access_key: String,
    /// The key.
    pub secret_key: SecretString,
    /// What passwords of repositories are derived from, with their names, the newest first.
    pub keys: Vec<(String, SecretString)>,
    /// The image that jobs are run from.
    pub image: String,
    /// The network on which jobs reach the store and the database; `None` is the engine's default.
    pub network: Option<String>,
    /// The database's URL as jobs reach it; `None` is [`Config::database_url`].
    pub database_url: Option<SecretString>,
    /// The container of the database, in which pgBackRest archives its log; `None` is no archive.
    pub database_container: Option<String>,
    /// What every tenant may keep.
    pub tier: Tier,
    /// The hour (UTC) from which on a night's snapshots are made.
    pub nightly_hour: i8,
}

/// The reverse proxy through which bots are reached from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxySettings {
    /// What bots' names are below.
    pub domain: String,
    /// Its container on the bots' engine.
    pub container: String,
}

/// Everything the server is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the process runs.
    pub environment: Environment,
    /// The port to listen on; 0 for any that is free.
    pub port: u16,
    /// How many may sign up from one client's address in an hour.
    pub sign_ups_per_hour: u32,
    /// How long a request may take altogether, in seconds; its body a third of that.
    pub request_timeout_seconds: u32,
    /// A `tracing` filter, such as `info` or `info,wopr_core=debug`.
    pub log_level: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// The PostgreSQL URL.
    pub database_url: SecretString,
    /// The PostgreSQL schema to live in.
    pub database_schema: String,
    /// Connections kept open.
    pub database_max_connections: u32,
    /// How long open requests may take to end after a stop signal, in seconds.
    pub shutdown_grace_seconds: u32,
    /// Keys for the platform's own use.
    pub platform_secrets: Vec<SecretString>,
    /// Keys that sign sessions, newest first.
    pub auth_secrets: Vec<SecretString>,
    /// The API's public base URL, without a trailing slash.
    pub base_url: String,
    /// Browser origins that may read answers with credentials.
    pub ui_origins: Vec<String>,
    /// [`Self::ui_origins`] and the origin of [`Self::base_url`]: pages that may write.
    pub trusted_origins: Vec<String>,
    /// Where mails and redirects lead, without a trailing slash.
    pub ui_url: String,
    /// The session cookie's domain; `None` keeps it to the host.
    pub cookie_domain: Option<String>,
    /// Proxies whose `X-Forwarded-For` entries are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Credentials given by the operator.
    pub operator_tokens: Vec<OperatorToken>,
    /// Images that bots may run, as prefixes.
    pub image_allowlist: Vec<String>,
    /// Where the addresses of tenants' networks come from.
    pub tenant_networks: NetworkRange,
    /// How long a bot's service key is good after it was given another one, in seconds.
    pub key_overlap_seconds: u32,
    /// Whether bots run what the engine has, and a registry is asked only for what it lacks.
    pub own_images_first: bool,
    /// How to pull images, if they are not public.
    pub registry: Option<RegistryConfig>,
    /// The Docker engine; `None` for the default socket.
    pub docker_host: Option<String>,
    /// What bots are reached through from outside; `None` keeps them to their networks.
    pub proxy: Option<ProxySettings>,
    /// GPU nodes.
    pub gpu: GpuSettings,
    /// Calls to models.
    pub gateway: GatewaySettings,
    /// Backups; `None` switches them off.
    pub backup: Option<BackupSettings>,
    /// Payments; `None` switches them off.
    pub stripe: Option<StripeConfig>,
    /// Stripe price ids by the dollars of their pack.
    pub credit_prices: BTreeMap<u32, String>,
    /// Mail; `None` leaves it queued.
    pub mail: Option<MailConfig>,
    /// Whether a bot needs a verified address.
    pub require_verified_email: bool,
    /// Who becomes platform administrator on sign-up.
    pub platform_admin_email: Option<String>,
    settings: Vec<Setting>,
}

impl Config {
    /// Reads every layer.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        read::read(sources)
    }

    /// Each key with its value, secrets hidden, and the layer it came from.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// Whether the public URL is HTTPS, which makes cookies `Secure`.
    pub fn is_https(&self) -> bool {
        self.base_url.starts_with("https://")
    }
}
