//! Anthropic. <https://docs.anthropic.com/en/api/messages>

use async_trait::async_trait;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use secrecy::SecretString;

use super::exchange::{Exchange, NoModelProvider, Patience, not_offered};
use crate::gateway::{CallBody, Capability, Dialect, ModelProvider, ProviderAnswer, ProviderCall, ProviderError};

const ADDRESS: &str = "https://api.anthropic.com";
/// <https://docs.anthropic.com/en/api/versioning>
const VERSION: &str = "2023-06-01";

/// Where a key is shown.
pub(super) const KEY_HEADER: &str = "x-api-key";

/// Says with every request which version of the wire is meant.
pub(super) fn versioned(exchange: Exchange) -> Result<Exchange, NoModelProvider> {
    exchange.with_header("anthropic-version", VERSION)
}

/// Anthropic's messages.
#[derive(Debug, Clone)]
pub struct Anthropic {
    exchange: Exchange,
}

impl Anthropic {
    /// The account of that key, at Anthropic's own address if no other is given.
    ///
    /// # Errors
    /// [`NoModelProvider`].
    pub fn new(key: SecretString, address: Option<&str>, patience: Patience) -> Result<Self, NoModelProvider> {
        let exchange = Exchange::new("anthropic", address.unwrap_or(ADDRESS), patience)?;
        Ok(Self { exchange: versioned(exchange)?.with_key(KEY_HEADER, "", key)? })
    }

    /// The account of the key that the exchange has.
    pub(super) fn with_exchange(exchange: Exchange) -> Self {
        Self { exchange }
    }
}

#[async_trait]
impl ModelProvider for Anthropic {
    fn name(&self) -> &str {
        self.exchange.name()
    }

    fn dialects(&self, capability: Capability) -> &[Dialect] {
        if capability == Capability::ChatCompletions { &[Dialect::Anthropic] } else { &[] }
    }

    async fn call(&self, call: ProviderCall) -> Result<ProviderAnswer, ProviderError> {
        let (CallBody::Json(body), Capability::ChatCompletions, Dialect::Anthropic) =
            (call.body, call.capability, call.dialect)
        else {
            return Err(not_offered("only conversations are offered"));
        };
        let deadline = self.exchange.deadline(call.capability, call.stream);
        let accepted = if call.stream { "text/event-stream" } else { "application/json" };
        let request = self.exchange.post("/v1/messages").header(CONTENT_TYPE, "application/json");
        let response = self.exchange.ask(request.header(ACCEPT, accepted).body(body), deadline).await?;
        self.exchange.pass(response, deadline, None).await
    }
}
