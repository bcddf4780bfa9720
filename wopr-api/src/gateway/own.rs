//! Our own machines as providers of models.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use wopr_core::adapters::models::{OpenAiCompatible, Patience};
use wopr_core::db::DbError;
use wopr_core::gateway::{Capability, ModelProvider, OwnBackends};
use wopr_core::gpu::{Gpu, GpuError};
use wopr_core::protocol::gpu::GpuService;

/// Services of GPU nodes that are well, asked as OpenAI would be.
pub(crate) struct OwnMachines {
    gpu: Gpu,
    /// Connections are kept for as long as a service stays where it is.
    known: Mutex<HashMap<String, Known>>,
}

struct Known {
    base_url: String,
    token: Option<SecretString>,
    provider: Arc<dyn ModelProvider>,
}

impl OwnMachines {
    pub(crate) fn new(gpu: Gpu) -> Self {
        Self { gpu, known: Mutex::default() }
    }
}

fn capabilities(service: GpuService) -> &'static [Capability] {
    match service {
        GpuService::Llama => &[Capability::ChatCompletions, Capability::TextCompletions],
        GpuService::Chatterbox => &[Capability::Tts],
        GpuService::Whisper => &[Capability::Transcription],
        GpuService::Qwen => &[Capability::Embeddings],
    }
}

#[async_trait]
impl OwnBackends for OwnMachines {
    async fn list(&self) -> Result<Vec<(String, Arc<dyn ModelProvider>)>, DbError> {
        let mut listed = Vec::new();
        let mut current = HashMap::new();
        for service in GpuService::ALL.iter().copied() {
            let backends = match self.gpu.backends(service).await {
                Ok(backends) => backends,
                Err(GpuError::Storage(error)) => return Err(error),
                Err(error) => {
                    tracing::error!("the machines for {service} are not known: {error}");
                    continue;
                }
            };
            for backend in backends {
                let name = format!("{}/{service}", backend.node_id);
                let same = |known: &Known| {
                    known.base_url == backend.base_url
                        && known.token.as_ref().map(ExposeSecret::expose_secret)
                            == backend.token.as_ref().map(ExposeSecret::expose_secret)
                };
                let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&name).filter(same);
                let known = if let Some(known) = known {
                    known
                } else {
                    let (base_url, token) = (backend.base_url, backend.token);
                    let capabilities = capabilities(service).iter().copied();
                    let patience = Patience::default();
                    match OpenAiCompatible::new(&name, &base_url, token.clone(), capabilities, patience) {
                        Ok(provider) => Known { base_url, token, provider: Arc::new(provider) },
                        Err(error) => {
                            tracing::error!("{name} cannot be asked: {error}");
                            continue;
                        }
                    }
                };
                listed.push((format!("gpu-{service}"), Arc::clone(&known.provider)));
                current.insert(name, known);
            }
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = current;
        Ok(listed)
    }
}
