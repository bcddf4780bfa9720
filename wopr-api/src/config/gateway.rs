use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use wopr_core::adapters::models::KeyedAddresses;
use wopr_core::gateway::{GatewayConfig, RateLimits, Sync};

use super::read::Reader;
use super::{GatewaySettings, ModelAccount};

impl Reader {
    pub(super) fn gateway(&mut self, production: bool) -> GatewaySettings {
        let rates = RateLimits {
            text_per_minute: self.number("GATEWAY_RATE_LIMIT_LLM", 1, 1_000_000),
            image_per_minute: self.number("GATEWAY_RATE_LIMIT_IMAGE", 1, 1_000_000),
            audio_per_minute: self.number("GATEWAY_RATE_LIMIT_AUDIO", 1, 1_000_000),
            bot_burst: self.number("GATEWAY_CIRCUIT_BREAKER_MAX", 1, 1_000_000),
            bot_window: Duration::from_millis(self.number("GATEWAY_CIRCUIT_BREAKER_WINDOW_MS", 100, 3_600_000)),
            bot_pause: Duration::from_millis(self.number("GATEWAY_CIRCUIT_BREAKER_PAUSE_MS", 100, 86_400_000)),
        };
        let config = GatewayConfig {
            margin_bps: self.number("GATEWAY_MARGIN_BPS", 0, 1_000_000),
            default_max_output: self.number("GATEWAY_MAX_OUTPUT_TOKENS", 1, 1_000_000),
            rates,
            ..GatewayConfig::default()
        };
        GatewaySettings {
            config,
            journal: PathBuf::from(self.text("GATEWAY_JOURNAL_DIR").unwrap_or_default()),
            sync: self.choice("GATEWAY_JOURNAL_SYNC", &[("before-answer", Sync::BeforeAnswer), ("soon", Sync::Soon)]),
            url_for_bots: self.text("GATEWAY_URL").map(|_| self.url("GATEWAY_URL", false)),
            tenants: KeyedAddresses {
                openai: self.url("OPENAI_API_BASE", production),
                anthropic: self.url("ANTHROPIC_API_BASE", production),
                google: self.url("GEMINI_API_BASE", production),
            },
            openrouter: self.account("OPENROUTER_API_KEY", "OPENROUTER_API_BASE", production),
            anthropic: self.account("ANTHROPIC_API_KEY", "ANTHROPIC_API_BASE", production),
            gemini: self.account("GEMINI_API_KEY", "GEMINI_API_BASE", production),
            deepgram: self.account("DEEPGRAM_API_KEY", "DEEPGRAM_API_BASE", production),
            elevenlabs: self.account("ELEVENLABS_API_KEY", "ELEVENLABS_API_BASE", production),
            replicate: self.account("REPLICATE_API_TOKEN", "REPLICATE_API_BASE", production),
        }
    }

    fn account(&mut self, key: &str, base: &str, production: bool) -> Option<ModelAccount> {
        let base_url = self.url(base, production);
        Some(ModelAccount { key: SecretString::from(self.text(key)?), base_url })
    }
}
