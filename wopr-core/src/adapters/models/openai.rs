//! Everybody who is asked as OpenAI is: OpenRouter, Gemini and Kimi at such an address of theirs, and the services of our own
//! GPU nodes.
//!
//! <https://platform.openai.com/docs/api-reference>

use async_trait::async_trait;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use secrecy::SecretString;

use super::exchange::{Exchange, NoModelProvider, Patience, made, not_offered};
use super::transcript::{form_for, form_of, reduced};
use crate::gateway::wire::{WireError, read_image, read_speech};
use crate::gateway::{
    CallBody, Capability, Dialect, ModelProvider, ProviderAnswer, ProviderCall, ProviderError, Usage,
};

/// A provider that is asked as OpenAI is.
#[derive(Debug, Clone)]
pub struct OpenAiCompatible {
    exchange: Exchange,
    capabilities: Vec<Capability>,
    version: &'static str,
}

impl OpenAiCompatible {
    /// A provider at `address`, which is followed by `/v1/chat/completions` and so on; it has `capabilities`, and is shown
    /// `key` as a bearer.
    ///
    /// # Errors
    /// [`NoModelProvider`].
    pub fn new(
        name: &str,
        address: &str,
        key: Option<SecretString>,
        capabilities: impl IntoIterator<Item = Capability>,
        patience: Patience,
    ) -> Result<Self, NoModelProvider> {
        let exchange = Exchange::new(name, address, patience)?;
        let exchange = match key {
            Some(key) => exchange.with_key("authorization", "Bearer ", key)?,
            None => exchange,
        };
        Ok(Self::with_exchange(exchange, capabilities))
    }

    /// The account of the key that the exchange has.
    pub(super) fn with_exchange(exchange: Exchange, capabilities: impl IntoIterator<Item = Capability>) -> Self {
        Self { exchange, capabilities: capabilities.into_iter().collect(), version: "/v1" }
    }

    /// The same, where the address is followed by `/chat/completions` and so on.
    #[must_use]
    pub fn without_version(mut self) -> Self {
        self.version = "";
        self
    }

    /// The same, with a header that every request has.
    ///
    /// # Errors
    /// [`NoModelProvider::Header`].
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self, NoModelProvider> {
        self.exchange = self.exchange.with_header(name, value)?;
        Ok(self)
    }

    async fn transcribe(&self, path: &str, call: &ProviderCall) -> Result<ProviderAnswer, ProviderError> {
        let facts = form_of(&call.body).await?;
        let (content_type, form) = form_for(&call.model, &facts)?;
        let deadline = self.exchange.deadline(call.capability, false);
        let request = self.exchange.post(path).header(CONTENT_TYPE, content_type).body(form);
        let response = self.exchange.ask(request, deadline).await?;
        let (content_type, body, heard) = reduced(self.exchange.read(response, deadline).await?, facts.format)?;
        Ok(made(content_type, body, heard.map(Usage::AudioMillis)))
    }
}

#[async_trait]
impl ModelProvider for OpenAiCompatible {
    fn name(&self) -> &str {
        self.exchange.name()
    }

    fn dialects(&self, capability: Capability) -> &[Dialect] {
        if self.capabilities.contains(&capability) { &[Dialect::OpenAi] } else { &[] }
    }

    async fn call(&self, call: ProviderCall) -> Result<ProviderAnswer, ProviderError> {
        let unreadable = |error: WireError| not_offered(&error.to_string());
        let path = match call.capability {
            Capability::ChatCompletions => "/chat/completions",
            Capability::TextCompletions => "/completions",
            Capability::Embeddings => "/embeddings",
            Capability::Transcription => "/audio/transcriptions",
            Capability::Tts => "/audio/speech",
            Capability::ImageGeneration => "/images/generations",
        };
        let path = format!("{}{path}", self.version);
        let body = match (&call.body, call.capability) {
            (_, Capability::Transcription) => return self.transcribe(&path, &call).await,
            (CallBody::Json(body), _) => body.clone(),
            (CallBody::Form { .. }, _) => return Err(not_offered("this is asked for with JSON")),
        };
        let usage = match call.capability {
            Capability::Tts => Some(Usage::Characters(read_speech(&body).map_err(unreadable)?.characters)),
            Capability::ImageGeneration => Some(Usage::Images(read_image(&body).map_err(unreadable)?.images)),
            Capability::ChatCompletions
            | Capability::TextCompletions
            | Capability::Embeddings
            | Capability::Transcription => None,
        };
        let deadline = self.exchange.deadline(call.capability, call.stream);
        let accepted = if call.stream { "text/event-stream" } else { "*/*" };
        let request =
            self.exchange.post(&path).header(CONTENT_TYPE, "application/json").header(ACCEPT, accepted).body(body);
        let response = self.exchange.ask(request, deadline).await?;
        self.exchange.pass(response, deadline, usage).await
    }
}
