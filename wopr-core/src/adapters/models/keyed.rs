//! Providers that are asked with tenants' own keys.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;
use secrecy::SecretString;
use tokio::time::Instant;

use super::anthropic;
use super::exchange::{Exchange, NoModelProvider, Patience};
use super::{Anthropic, OpenAiCompatible};
use crate::gateway::{Capability, KeyedProvider, KeyedProviders, ModelProvider, ProviderError};

/// How long a look at a key may take.
const CHECK: Duration = Duration::from_secs(10);
/// What OpenAI has of what the gateway passes on.
const OPENAI: [Capability; 3] = [Capability::ChatCompletions, Capability::TextCompletions, Capability::Embeddings];
/// What Google has where it is asked as OpenAI is.
const GOOGLE: [Capability; 2] = [Capability::ChatCompletions, Capability::Embeddings];

/// Where the providers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedAddresses {
    /// Followed by `/v1/…`.
    pub openai: String,
    /// Followed by `/v1/…`.
    pub anthropic: String,
    /// Followed by `/chat/completions` and so on.
    pub google: String,
}

/// The providers, each with a client whose connections all tenants share.
#[derive(Debug, Clone)]
pub struct KeyedModels {
    openai: Exchange,
    anthropic: Exchange,
    google: Exchange,
}

impl KeyedModels {
    /// The providers at these addresses.
    ///
    /// # Errors
    /// [`NoModelProvider`].
    pub fn new(addresses: &KeyedAddresses, patience: Patience) -> Result<Self, NoModelProvider> {
        let at = |provider: KeyedProvider, address: &str| Exchange::new(provider.as_str(), address, patience);
        Ok(Self {
            openai: at(KeyedProvider::OpenAi, &addresses.openai)?,
            anthropic: anthropic::versioned(at(KeyedProvider::Anthropic, &addresses.anthropic)?)?,
            google: at(KeyedProvider::Google, &addresses.google)?,
        })
    }

    fn exchange(&self, provider: KeyedProvider, key: &SecretString) -> Result<Exchange, ProviderError> {
        let (exchange, header, scheme) = match provider {
            KeyedProvider::OpenAi => (&self.openai, "authorization", "Bearer "),
            KeyedProvider::Anthropic => (&self.anthropic, anthropic::KEY_HEADER, ""),
            KeyedProvider::Google => (&self.google, "authorization", "Bearer "),
        };
        // What no header can hold, nobody has given out as a key.
        exchange.clone().with_key(header, scheme, key.clone()).map_err(|_| ProviderError::Account(401))
    }
}

#[async_trait]
impl KeyedProviders for KeyedModels {
    fn with_key(&self, provider: KeyedProvider, key: &SecretString) -> Result<Arc<dyn ModelProvider>, ProviderError> {
        let exchange = self.exchange(provider, key)?;
        Ok(match provider {
            KeyedProvider::OpenAi => Arc::new(OpenAiCompatible::with_exchange(exchange, OPENAI)),
            KeyedProvider::Anthropic => Arc::new(Anthropic::with_exchange(exchange)),
            KeyedProvider::Google => Arc::new(OpenAiCompatible::with_exchange(exchange, GOOGLE).without_version()),
        })
    }

    async fn check(&self, provider: KeyedProvider, key: &SecretString) -> Result<(), ProviderError> {
        let exchange = self.exchange(provider, key)?;
        let path = match provider {
            KeyedProvider::OpenAi | KeyedProvider::Anthropic => "/v1/models",
            KeyedProvider::Google => "/models",
        };
        exchange.ask(exchange.request(Method::GET, path), Instant::now() + CHECK).await.map(drop)
    }

    fn serves(&self, provider: KeyedProvider, capability: Capability) -> bool {
        match provider {
            KeyedProvider::OpenAi => OPENAI.contains(&capability),
            KeyedProvider::Anthropic => capability == Capability::ChatCompletions,
            KeyedProvider::Google => GOOGLE.contains(&capability),
        }
    }
}
