use wopr_core::adapters::cloud::DIGITALOCEAN;

/// One thing that can be configured.
#[derive(Debug)]
pub struct Key {
    /// Its name in the environment; in the file it is the same in lower case.
    pub name: &'static str,
    /// Its flag without the dashes; `None` for secrets, which every user of the machine could read there.
    pub flag: Option<&'static str>,
    /// What it has when nobody says.
    pub default: Option<&'static str>,
    /// What it means.
    pub help: &'static str,
}

impl Key {
    /// Whether its value is never shown.
    pub fn is_secret(&self) -> bool {
        self.flag.is_none()
    }
}

const fn plain(name: &'static str, flag: &'static str, default: Option<&'static str>, help: &'static str) -> Key {
    Key { name, flag: Some(flag), default, help }
}

/// Secrets can also be read from a file named by `<NAME>_FILE`.
const fn secret(name: &'static str, help: &'static str) -> Key {
    Key { name, flag: None, default: None, help }
}

/// Tokens of one tenant: this and the tenant's id, `<scope>:<token>`.
pub(super) const TENANT_TOKEN_PREFIX: &str = "FLEET_TOKEN_";

/// Names that begin so are ours: one that is not known is a mistake.
pub(super) const OUR_PREFIXES: [&str; 19] = [
    "BACKUP_",
    "BETTER_AUTH_",
    "COOKIE_DOMAIN",
    "DATABASE_URL",
    "DO_API_",
    "DO_GPU_",
    "DO_SPACES_",
    "DO_SSH_",
    "FLEET_",
    "GATEWAY_",
    "GPU_",
    "MAIL_FROM",
    "PLATFORM_",
    "REGISTRY_",
    "REQUIRE_VERIFIED",
    "SMTP_",
    "STRIPE_",
    "TRUSTED_PROXY",
    "WOPR_",
];

/// Settings of the tests, the operator's tool and the stand-ins, which may share the environment.
pub(super) const FOREIGN_PREFIXES: [&str; 4] = ["STRIPE_STANDIN_", "WOPR_API_URL", "WOPR_DATA_DIR", "WOPR_TEST_"];

/// Every key, in the order they are listed.
pub static KEYS: [Key; 95] = [
    plain("WOPR_ENVIRONMENT", "environment", Some("development"), "development or production"),
    plain("PORT", "port", Some("3100"), "the port to listen on; 0 for any that is free"),
    plain("LOG_LEVEL", "log-level", Some("info"), "error, warn, info, debug, trace, or a tracing filter"),
    plain("LOG_FORMAT", "log-format", Some("text"), "text or json"),
    secret("DATABASE_URL", "the PostgreSQL URL"),
    secret(
        "PLATFORM_SECRET",
        "what tenants' own keys are sealed with, newest first, separated by commas, each at least 32 characters",
    ),
    secret(
        "BETTER_AUTH_SECRET",
        "session signing keys, newest first, separated by commas, each at least 32 characters",
    ),
    plain("BETTER_AUTH_URL", "auth-url", None, "the public base URL of this API"),
    plain(
        "UI_ORIGIN",
        "ui-origin",
        Some("http://localhost:3000,http://localhost:3001"),
        "browser origins that may call the API, separated by commas",
    ),
    plain("PLATFORM_UI_URL", "ui-url", None, "where mails and redirects lead; the first UI_ORIGIN unless given"),
    plain(
        "COOKIE_DOMAIN",
        "cookie-domain",
        None,
        "domain of the session cookie; unset or localhost keeps it to the host",
    ),
    plain(
        "TRUSTED_PROXY_IPS",
        "trusted-proxy-ips",
        None,
        "addresses or CIDR networks of reverse proxies; `none` if there are none, which production has to say",
    ),
    secret("FLEET_API_TOKEN", "an operator token; its scope is admin unless it looks like wopr_<scope>_…"),
    secret("FLEET_API_TOKEN_READ", "an operator token of scope read"),
    secret("FLEET_API_TOKEN_WRITE", "an operator token of scope write"),
    secret("FLEET_API_TOKEN_ADMIN", "an operator token of scope admin"),
    plain(
        "FLEET_IMAGE_ALLOWLIST",
        "image-allowlist",
        Some("ghcr.io/wopr-network/"),
        "prefixes of images that bots may run, separated by commas",
    ),
    plain(
        "FLEET_IMAGE_PULL",
        "image-pull",
        Some("always"),
        "always asks the registry what a tag means now; missing takes an image that the engine has as it is there",
    ),
    plain(
        "FLEET_KEY_OVERLAP_SECONDS",
        "fleet-key-overlap-seconds",
        Some("900"),
        "how long a bot's service key is good after it was given another one",
    ),
    plain(
        "FLEET_NETWORK_RANGE",
        "network-range",
        Some("10.192.0.0/11"),
        "private addresses for tenants' networks; nothing else that bots' machines reach may be there",
    ),
    plain(
        "FLEET_NETWORK_PREFIX",
        "network-prefix",
        Some("26"),
        "size of one tenant's network in that range: /26 is 60 bots and a proxy",
    ),
    plain("BOT_DOMAIN", "bot-domain", None, "each bot has a name below it; a domain that is not the platform's"),
    plain(
        "PROXY_CONTAINER",
        "proxy-container",
        None,
        "the reverse proxy's container on the bots' engine, which is put on each tenant's network",
    ),
    plain("REGISTRY_SERVER", "registry-server", Some("ghcr.io"), "the registry that wants a password"),
    plain("REGISTRY_USERNAME", "registry-username", None, "its account"),
    secret("REGISTRY_PASSWORD", "its password or token"),
    plain("DOCKER_HOST", "docker-host", None, "the Docker engine; the default socket unless given"),
    secret("GPU_NODE_SECRET", "what GPU nodes' secrets are made from, newest first, separated by commas"),
    plain("PLATFORM_URL", "platform-url", None, "where other machines reach this API; BETTER_AUTH_URL unless given"),
    secret("DO_API_TOKEN", "DigitalOcean's API token; no machine is made, rebooted or removed without it"),
    plain("DO_API_BASE", "do-api-base", Some(DIGITALOCEAN), "DigitalOcean, or in development a stand-in"),
    plain("DO_SSH_KEY_ID", "do-ssh-key-id", None, "the key that may sign in to machines"),
    plain("DO_GPU_DEFAULT_REGION", "do-gpu-default-region", Some("nyc1"), "where GPU machines are made"),
    plain("DO_GPU_DEFAULT_SIZE", "do-gpu-default-size", Some("gpu-h100x1-80gb"), "which GPU machines are made"),
    plain("DO_GPU_IMAGE", "do-gpu-image", Some("gpu-h100x1-base"), "the image that GPU machines are made from"),
    plain("GPU_AGENT_IMAGE", "gpu-agent-image", None, "the image of the daemon on GPU nodes, by digest"),
    plain("GPU_LLAMA_MODEL_URL", "gpu-llama-model-url", None, "the text model's .gguf file"),
    plain("GPU_LLAMA_MODEL_SHA256", "gpu-llama-model-sha256", None, "its SHA-256"),
    plain("GPU_EMBEDDINGS_MODEL_URL", "gpu-embeddings-model-url", None, "the embedding model's .gguf file"),
    plain("GPU_EMBEDDINGS_MODEL_SHA256", "gpu-embeddings-model-sha256", None, "its SHA-256"),
    plain(
        "GPU_WHISPER_MODEL",
        "gpu-whisper-model",
        Some("Systran/faster-whisper-small"),
        "the speech model's name at Hugging Face",
    ),
    plain(
        "GPU_PLATFORM_NETWORKS",
        "gpu-platform-networks",
        None,
        "IPv4 networks from which this platform reaches GPU nodes, separated by commas",
    ),
    plain(
        "GATEWAY_URL",
        "gateway-url",
        None,
        "where bots reach this API from their networks; they are told of no models without it",
    ),
    plain(
        "GATEWAY_JOURNAL_DIR",
        "gateway-journal-dir",
        Some("data/gateway"),
        "a folder for charges that are not settled yet; of this process alone, on a disk that survives a restart",
    ),
    plain(
        "GATEWAY_JOURNAL_SYNC",
        "gateway-journal-sync",
        Some("before-answer"),
        "before-answer: a charge is on the disk before its answer ends; soon: a power cut may lose the last milliseconds",
    ),
    plain("GATEWAY_MARGIN_BPS", "gateway-margin-bps", Some("3000"), "added to costs, in hundredths of a per cent"),
    plain("GATEWAY_MAX_OUTPUT_TOKENS", "gateway-max-output-tokens", Some("4096"), "for calls that set no bound"),
    plain("GATEWAY_RATE_LIMIT_LLM", "gateway-rate-limit-llm", Some("60"), "text calls of a tenant in a minute"),
    plain("GATEWAY_RATE_LIMIT_IMAGE", "gateway-rate-limit-image", Some("10"), "picture calls of a tenant in a minute"),
    plain("GATEWAY_RATE_LIMIT_AUDIO", "gateway-rate-limit-audio", Some("30"), "sound calls of a tenant in a minute"),
    plain(
        "GATEWAY_CIRCUIT_BREAKER_MAX",
        "gateway-circuit-breaker-max",
        Some("100"),
        "more calls of a bot in the window pause it",
    ),
    plain("GATEWAY_CIRCUIT_BREAKER_WINDOW_MS", "gateway-circuit-breaker-window-ms", Some("10000"), "that window"),
    plain("GATEWAY_CIRCUIT_BREAKER_PAUSE_MS", "gateway-circuit-breaker-pause-ms", Some("300000"), "that pause"),
    secret("OPENROUTER_API_KEY", "OpenRouter's key; its models are off without it"),
    plain("OPENROUTER_API_BASE", "openrouter-api-base", Some("https://openrouter.ai/api"), "OpenRouter, or a stand-in"),
    plain(
        "OPENAI_API_BASE",
        "openai-api-base",
        Some("https://api.openai.com"),
        "OpenAI, which tenants may have keys of their own for, or a stand-in",
    ),
    secret("ANTHROPIC_API_KEY", "Anthropic's key"),
    plain("ANTHROPIC_API_BASE", "anthropic-api-base", Some("https://api.anthropic.com"), "Anthropic, or a stand-in"),
    secret("GEMINI_API_KEY", "Gemini's key"),
    plain(
        "GEMINI_API_BASE",
        "gemini-api-base",
        Some("https://generativelanguage.googleapis.com/v1beta/openai"),
        "Gemini's door for OpenAI's clients, or a stand-in",
    ),
    secret("DEEPGRAM_API_KEY", "Deepgram's key"),
    plain("DEEPGRAM_API_BASE", "deepgram-api-base", Some("https://api.deepgram.com"), "Deepgram, or a stand-in"),
    secret("ELEVENLABS_API_KEY", "ElevenLabs' key"),
    plain("ELEVENLABS_API_BASE", "elevenlabs-api-base", Some("https://api.elevenlabs.io"), "ElevenLabs, or a stand-in"),
    secret("REPLICATE_API_TOKEN", "Replicate's token"),
    plain("REPLICATE_API_BASE", "replicate-api-base", Some("https://api.replicate.com"), "Replicate, or a stand-in"),
    plain("S3_BUCKET", "s3-bucket", None, "the bucket of backups; they are off without it and its keys"),
    plain("DO_SPACES_REGION", "spaces-region", Some("nyc3"), "the region of the object store"),
    plain(
        "DO_SPACES_ENDPOINT",
        "spaces-endpoint",
        None,
        "the object store, if it is not DigitalOcean's: any that speaks S3",
    ),
    secret("DO_SPACES_ACCESS_KEY", "the name of the object store's key"),
    secret("DO_SPACES_SECRET_KEY", "the object store's key"),
    secret(
        "BACKUP_ENCRYPTION_KEY",
        "name:secret of keys for backups, newest first, separated by commas, each 32 bytes or more in base64; keep them elsewhere too",
    ),
    plain(
        "BACKUP_IMAGE",
        "backup-image",
        Some("ghcr.io/wopr-network/wopr-backup:latest"),
        "the image that backup jobs are run from, on the bots' engine",
    ),
    plain(
        "BACKUP_NETWORK",
        "backup-network",
        None,
        "the engine's network on which jobs reach the object store and the database",
    ),
    secret(
        "BACKUP_DATABASE_URL",
        "the PostgreSQL URL as jobs on that network reach it, without TLS; DATABASE_URL unless given",
    ),
    plain(
        "BACKUP_DATABASE_CONTAINER",
        "backup-database-container",
        None,
        "the database's container on the bots' engine, where pgBackRest archives its log; no point-in-time recovery without it",
    ),
    plain("BACKUP_TIER", "backup-tier", Some("free"), "what every tenant may keep: free, starter, pro or enterprise"),
    plain("BACKUP_NIGHTLY_HOUR", "backup-nightly-hour", Some("3"), "the hour (UTC) from which on nights are saved"),
    secret("STRIPE_SECRET_KEY", "Stripe's API key; payments are off without it"),
    secret("STRIPE_WEBHOOK_SECRET", "whole whsec_… values, newest first, separated by commas"),
    plain("STRIPE_API_BASE", "stripe-api-base", Some(super::STRIPE_API_BASE), "Stripe, or in development a stand-in"),
    plain("STRIPE_CREDIT_PRICE_5", "stripe-credit-price-5", None, "price id of the $5 pack"),
    plain("STRIPE_CREDIT_PRICE_10", "stripe-credit-price-10", None, "price id of the $10 pack"),
    plain("STRIPE_CREDIT_PRICE_25", "stripe-credit-price-25", None, "price id of the $25 pack"),
    plain("STRIPE_CREDIT_PRICE_50", "stripe-credit-price-50", None, "price id of the $50 pack"),
    plain("STRIPE_CREDIT_PRICE_100", "stripe-credit-price-100", None, "price id of the $100 pack"),
    secret("SMTP_URL", "smtp://user:password@host:port; mail stays queued without it"),
    plain("MAIL_FROM", "mail-from", Some("noreply@wopr.bot"), "the sender of mails"),
    plain("REQUIRE_VERIFIED_EMAIL", "require-verified-email", Some("false"), "true or false"),
    plain("PLATFORM_ADMIN_EMAIL", "platform-admin-email", None, "who becomes platform administrator on sign-up"),
    plain("DATABASE_SCHEMA", "database-schema", Some("wopr"), "the PostgreSQL schema to live in"),
    plain("DATABASE_MAX_CONNECTIONS", "database-max-connections", Some("10"), "connections kept open"),
    plain("SIGN_UPS_PER_HOUR", "sign-ups-per-hour", Some("10"), "how many may sign up from one address in an hour"),
    plain("REQUEST_TIMEOUT_SECONDS", "request-timeout-seconds", Some("30"), "how long a request may take altogether"),
    plain("SHUTDOWN_GRACE_SECONDS", "shutdown-grace-seconds", Some("25"), "how long open requests may take to end"),
];
