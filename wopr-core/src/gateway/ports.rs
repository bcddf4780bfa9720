//! What the gateway needs from outside.

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;

use super::model::{Capability, Dialect, Usage};
use crate::db::DbError;

/// One call, as a provider is to be asked.
#[derive(Debug, Clone)]
pub struct ProviderCall {
    /// What is asked for.
    pub capability: Capability,
    /// How [`ProviderCall::body`] is written, and how the answer is wanted: one of [`ModelProvider::dialects`].
    pub dialect: Dialect,
    /// The provider's own name of the model. A JSON body has it already.
    pub model: String,
    /// Whether the answer comes as events, as it is made.
    pub stream: bool,
    /// What is asked.
    pub body: CallBody,
}

/// What is asked.
#[derive(Debug, Clone)]
pub enum CallBody {
    /// JSON in the call's dialect.
    Json(Bytes),
    /// `multipart/form-data` in the shape of OpenAI's audio transcription.
    Form {
        /// With its boundary.
        content_type: String,
        /// The whole body.
        bytes: Bytes,
    },
}

/// Bytes of an answer, as they arrive. Dropping it ends the call at the provider.
pub type AnswerBody = Pin<Box<dyn Stream<Item = Result<Bytes, ProviderError>> + Send>>;

/// An answer that has begun well: the provider answered with success, and nothing of the body was read by the gateway.
pub struct ProviderAnswer {
    /// Of the body.
    pub content_type: String,
    /// What was used, where the adapter knows it before the body is read. Tokens are read from the body instead.
    pub usage: Option<Usage>,
    /// In the call's dialect.
    pub body: AnswerBody,
}

impl std::fmt::Debug for ProviderAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProviderAnswer").field("content_type", &self.content_type).finish_non_exhaustive()
    }
}

/// Why a provider did not answer. Nothing in it may be shown to a tenant but the text of [`ProviderError::Refused`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// It could not be reached.
    #[error("the provider cannot be reached: {0}")]
    Unreachable(String),
    /// It did not answer, or did not go on answering, in time.
    #[error("the provider took too long")]
    TimedOut,
    /// It has too much to do.
    #[error("the provider has too many requests")]
    Busy {
        /// When it may be asked again, as it says.
        retry_after: Option<Duration>,
    },
    /// It failed (5xx).
    #[error("the provider failed with status {0}")]
    Failed(u16),
    /// It does not take our credential, or our account there has a problem (401, 402, 403).
    #[error("the provider refuses our account with status {0}")]
    Account(u16),
    /// It refused this request (other 4xx): another provider would as well.
    #[error("the provider refused the request with status {status}")]
    Refused {
        /// Its status.
        status: u16,
        /// What it says is wrong, without names, addresses and keys; empty if it says nothing that can be shown.
        message: String,
    },
    /// Its answer was cut off or makes no sense.
    #[error("the provider's answer is broken: {0}")]
    Broken(String),
}

/// Somebody who runs models.
#[async_trait]
pub trait ModelProvider: Send + Sync {
    /// The stable name, such as `openrouter`.
    fn name(&self) -> &str;

    /// How it may be asked for a capability, the most natural way first; empty if it does not have the capability.
    fn dialects(&self, capability: Capability) -> &[Dialect];

    /// Asks, and answers when the first part of a good answer is there.
    ///
    /// # Errors
    /// [`ProviderError`].
    async fn call(&self, call: ProviderCall) -> Result<ProviderAnswer, ProviderError>;
}

/// Services of our own machines that are well at present.
#[async_trait]
pub trait OwnBackends: Send + Sync {
    /// Each with the name that models are offered under, `gpu-<service>`. The provider's own name is that of the machine's
    /// service: calls on it are counted by it.
    ///
    /// # Errors
    /// [`DbError`] when they cannot be read.
    async fn list(&self) -> Result<Vec<(String, std::sync::Arc<dyn ModelProvider>)>, DbError>;
}
