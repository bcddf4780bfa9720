//! Providers that tenants have keys of their own for, in memory.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};

use super::MemoryModels;
use crate::gateway::{
    Capability, Dialect, KeyedProvider, KeyedProviders, ModelProvider, ProviderAnswer, ProviderCall, ProviderError,
};

/// Each provider answers as [`MemoryModels`] does, and takes every key but those that begin with `bad` (401), `poor` (402)
/// or `busy` (429).
pub struct MemoryKeyed {
    models: [Arc<MemoryModels>; 3],
    shown: Arc<Mutex<Vec<(KeyedProvider, String)>>>,
}

impl Default for MemoryKeyed {
    fn default() -> Self {
        let models = KeyedProvider::ALL.map(|provider| Arc::new(MemoryModels::new(provider.as_str())));
        Self { models, shown: Arc::default() }
    }
}

impl MemoryKeyed {
    /// The keys that calls were made with, in their order.
    pub fn shown(&self) -> Vec<(KeyedProvider, String)> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One of the providers.
    pub fn models(&self, provider: KeyedProvider) -> Arc<MemoryModels> {
        let place = KeyedProvider::ALL.iter().position(|other| *other == provider).unwrap_or_default();
        Arc::clone(&self.models[place])
    }
}

fn taken(key: &SecretString) -> Result<(), ProviderError> {
    match key.expose_secret() {
        key if key.starts_with("bad") => Err(ProviderError::Account(401)),
        key if key.starts_with("poor") => Err(ProviderError::Account(402)),
        key if key.starts_with("busy") => Err(ProviderError::Busy { retry_after: Some(Duration::from_secs(7)) }),
        _ => Ok(()),
    }
}

struct WithKey {
    provider: KeyedProvider,
    models: Arc<MemoryModels>,
    shown: Arc<Mutex<Vec<(KeyedProvider, String)>>>,
    key: SecretString,
}

#[async_trait]
impl ModelProvider for WithKey {
    fn name(&self) -> &str {
        self.models.name()
    }

    fn dialects(&self, capability: Capability) -> &[Dialect] {
        self.models.dialects(capability)
    }

    async fn call(&self, call: ProviderCall) -> Result<ProviderAnswer, ProviderError> {
        let shown = (self.provider, self.key.expose_secret().to_owned());
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).push(shown);
        taken(&self.key)?;
        self.models.call(call).await
    }
}

#[async_trait]
impl KeyedProviders for MemoryKeyed {
    fn with_key(&self, provider: KeyedProvider, key: &SecretString) -> Result<Arc<dyn ModelProvider>, ProviderError> {
        let (models, shown, key) = (self.models(provider), Arc::clone(&self.shown), key.clone());
        Ok(Arc::new(WithKey { provider, models, shown, key }))
    }

    async fn check(&self, _provider: KeyedProvider, key: &SecretString) -> Result<(), ProviderError> {
        taken(key)
    }

    fn serves(&self, provider: KeyedProvider, capability: Capability) -> bool {
        !self.models(provider).dialects(capability).is_empty()
    }
}
