//! Replicate. <https://replicate.com/docs/reference/http>

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, RequestBuilder, Url};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::exchange::{Exchange, NoModelProvider, Patience, made, not_offered};
use crate::gateway::wire::{ImageFacts, read_image};
use crate::gateway::{
    CallBody, Capability, Dialect, ModelProvider, ProviderAnswer, ProviderCall, ProviderError, Usage,
};

const ADDRESS: &str = "https://api.replicate.com";
/// Where it keeps what its models made.
const FILES: &str = "replicate.delivery";
/// A version of a model is named by its hash.
const VERSION_CHARS: usize = 64;

/// Replicate's pictures.
#[derive(Debug, Clone)]
pub struct Replicate {
    exchange: Exchange,
}

impl Replicate {
    /// The account of that token, at Replicate's own address if no other is given.
    ///
    /// # Errors
    /// [`NoModelProvider`].
    pub fn new(token: SecretString, address: Option<&str>, patience: Patience) -> Result<Self, NoModelProvider> {
        let exchange = Exchange::new("replicate", address.unwrap_or(ADDRESS), patience)?;
        Ok(Self { exchange: exchange.with_key("authorization", "Bearer ", token)? })
    }

    /// Asks once, and waits until everything is made. Whoever stops waiting stops the making.
    async fn predict(&self, model: &str, facts: &ImageFacts, deadline: Instant) -> Result<Prediction, ProviderError> {
        let (width, height) = facts.size;
        let mut order = json!({
            "input": { "prompt": facts.prompt, "num_outputs": facts.images, "width": width, "height": height },
        });
        let path = match model.split_once('/') {
            Some((owner, name)) if is_name(owner) && is_name(name) => format!("/v1/models/{owner}/{name}/predictions"),
            None if model.len() == VERSION_CHARS && model.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                order["version"] = json!(model);
                "/v1/predictions".to_owned()
            }
            _ => return Err(not_offered("the model must be a version, or an owner and a name")),
        };
        let request = self.exchange.post(&path).header("prefer", "wait").header(CONTENT_TYPE, "application/json");
        let mut prediction = self.look(request.body(order.to_string()), deadline).await?;
        if !is_name(&prediction.id) {
            return Err(ProviderError::Broken("its id is none".to_owned()));
        }
        let running = Running { cancel: Some(self.at(Method::POST, &prediction.id, "/cancel")) };
        while matches!(prediction.status.as_str(), "starting" | "processing") {
            if Instant::now() + self.exchange.patience.poll > deadline {
                return Err(ProviderError::TimedOut);
            }
            sleep(self.exchange.patience.poll).await;
            prediction = self.look(self.at(Method::GET, &prediction.id, ""), deadline).await?;
        }
        running.ended();
        Ok(prediction)
    }

    fn at(&self, method: Method, id: &str, more: &str) -> RequestBuilder {
        self.exchange.request(method, &format!("/v1/predictions/{id}{more}"))
    }

    async fn look(&self, request: RequestBuilder, deadline: Instant) -> Result<Prediction, ProviderError> {
        let response = self.exchange.ask(request, deadline).await?;
        let body = self.exchange.read(response, deadline).await?;
        serde_json::from_slice(&body).map_err(|_| ProviderError::Broken("it is no prediction".to_owned()))
    }

    /// The picture itself, from where Replicate keeps it.
    async fn fetch(&self, url: &str, deadline: Instant) -> Result<Bytes, ProviderError> {
        let elsewhere = || ProviderError::Broken("its pictures are elsewhere".to_owned());
        let url = Url::parse(url).map_err(|_| elsewhere())?;
        let host = url.host_str().unwrap_or_default();
        let kept = url.scheme() == "https" && (host == FILES || host.ends_with(&format!(".{FILES}")));
        if !kept && !self.exchange.is_here(&url) {
            return Err(elsewhere());
        }
        let response = self.exchange.ask(self.exchange.elsewhere(url), deadline).await?;
        self.exchange.read(response, deadline).await
    }
}

/// A prediction that is being made, and is cancelled when nobody waits for it any more.
struct Running {
    cancel: Option<RequestBuilder>,
}

impl Running {
    fn ended(mut self) {
        self.cancel = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let (Some(cancel), Ok(runtime)) = (self.cancel.take(), Handle::try_current()) {
            // If it does not arrive, the prediction ends by itself.
            runtime.spawn(async move { cancel.send().await.map(drop) });
        }
    }
}

#[derive(Deserialize)]
struct Prediction {
    id: String,
    status: String,
    #[serde(default)]
    output: Value,
    #[serde(default)]
    error: Option<Value>,
    created_at: Option<Timestamp>,
}

impl Prediction {
    /// Where its pictures are.
    fn pictures(&self) -> Result<Vec<&str>, ProviderError> {
        let pictures: Option<Vec<&str>> = match &self.output {
            Value::String(one) => Some(vec![one]),
            Value::Array(several) => several.iter().map(Value::as_str).collect(),
            _ => None,
        };
        let pictures = pictures.filter(|pictures| !pictures.is_empty());
        pictures.ok_or_else(|| ProviderError::Broken("it has no pictures".to_owned()))
    }
}

fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=100).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('.')
}

#[async_trait]
impl ModelProvider for Replicate {
    fn name(&self) -> &str {
        self.exchange.name()
    }

    fn dialects(&self, capability: Capability) -> &[Dialect] {
        if capability == Capability::ImageGeneration { &[Dialect::OpenAi] } else { &[] }
    }

    async fn call(&self, call: ProviderCall) -> Result<ProviderAnswer, ProviderError> {
        let (CallBody::Json(body), Capability::ImageGeneration) = (&call.body, call.capability) else {
            return Err(not_offered("only pictures are offered"));
        };
        let facts = read_image(body).map_err(|error| not_offered(&error.to_string()))?;
        let deadline = self.exchange.deadline(call.capability, false);
        let prediction = self.predict(&call.model, &facts, deadline).await?;
        if prediction.status != "succeeded" {
            let why = prediction.error.as_ref().and_then(Value::as_str).unwrap_or_default();
            // What its filter refuses once, it refuses always.
            if why.to_lowercase().contains("nsfw") {
                return Err(not_offered("the picture was refused for what it would show"));
            }
            return Err(ProviderError::Broken(format!("the prediction is {}", prediction.status)));
        }
        let pictures = prediction.pictures()?;
        let mut data = Vec::new();
        for url in &pictures {
            data.push(if facts.inline {
                json!({ "b64_json": STANDARD.encode(self.fetch(url, deadline).await?) })
            } else {
                json!({ "url": url })
            });
        }
        let created = prediction.created_at.map_or(0, Timestamp::as_second);
        let answer = json!({ "created": created, "data": data }).to_string();
        Ok(made("application/json", answer.into(), Some(Usage::Images(pictures.len() as u64))))
    }
}
