//! A provider of models in memory: it answers as OpenAI does, counts what it used, and can be told to fail.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::gateway::{
    AnswerBody, CallBody, Capability, Dialect, ModelProvider, ProviderAnswer, ProviderCall, ProviderError, TokenUsage,
};

/// What becomes of one call.
#[derive(Debug, Clone)]
pub enum ModelFault {
    /// It is answered when this is notified.
    WaitFor(Arc<Notify>),
    /// It is refused before anything is answered.
    Refuse(ProviderError),
    /// The answer breaks off after so many parts of it.
    CutAfter(usize),
    /// The answer does not say what was used.
    HideUsage,
    /// Nothing more comes after so many parts of the answer.
    HangAfter(usize),
}

#[derive(Default)]
struct State {
    faults: VecDeque<ModelFault>,
    calls: Vec<ProviderCall>,
    served: Vec<TokenUsage>,
}

/// A provider of chats and embeddings. A word is a token.
pub struct MemoryModels {
    name: String,
    state: Mutex<State>,
}

impl MemoryModels {
    /// A provider of that name.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of the next call that has no fault yet.
    pub fn fail_next(&self, fault: ModelFault) {
        self.state().faults.push_back(fault);
    }

    /// Every call it was asked.
    pub fn calls(&self) -> Vec<ProviderCall> {
        self.state().calls.clone()
    }

    /// What its answers used that it began to give.
    pub fn served(&self) -> Vec<TokenUsage> {
        self.state().served.clone()
    }
}

fn words(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.split_whitespace().count() as u64,
        Value::Array(items) => items.iter().map(words).sum(),
        Value::Object(fields) => fields.get("content").map_or(0, words),
        _ => 0,
    }
}

#[async_trait]
impl ModelProvider for MemoryModels {
    fn name(&self) -> &str {
        &self.name
    }

    fn dialects(&self, capability: Capability) -> &[Dialect] {
        match capability {
            Capability::ChatCompletions | Capability::Embeddings => &[Dialect::OpenAi],
            _ => &[],
        }
    }

    async fn call(&self, call: ProviderCall) -> Result<ProviderAnswer, ProviderError> {
        let refuse = |message: &str| ProviderError::Refused { status: 400, message: message.to_owned() };
        let fault = {
            let mut state = self.state();
            state.calls.push(call.clone());
            state.faults.pop_front()
        };
        if let Some(ModelFault::WaitFor(word)) = &fault {
            word.notified().await;
        }
        if let Some(ModelFault::Refuse(error)) = fault {
            return Err(error);
        }
        let CallBody::Json(body) = &call.body else { return Err(refuse("this provider hears nothing")) };
        let body: Value = serde_json::from_slice(body).map_err(|_| refuse("no JSON"))?;
        let input = words(&body["messages"]) + words(&body["input"]);
        let output = match call.capability {
            Capability::ChatCompletions => body["max_tokens"].as_u64().unwrap_or(8).min(8),
            _ => 0,
        };
        let usage = TokenUsage { input, output, ..TokenUsage::default() };
        self.state().served.push(usage);
        let told = json!({ "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output });
        let mut parts: Vec<Bytes> = Vec::new();
        if call.stream {
            let event = |value: Value| Bytes::from(format!("data: {value}\n\n"));
            let chunk = |delta: Value, finish: Value| {
                let choices = json!([{ "index": 0, "delta": delta, "finish_reason": finish }]);
                event(json!({ "id": "c", "object": "chat.completion.chunk", "model": call.model, "choices": choices }))
            };
            parts.extend((0..output).map(|_| chunk(json!({ "content": "word " }), Value::Null)));
            parts.push(chunk(json!({}), json!("stop")));
            if body["stream_options"]["include_usage"] == json!(true) {
                let nothing: [Value; 0] = [];
                parts.push(event(json!({
                    "id": "c", "object": "chat.completion.chunk", "model": call.model, "choices": nothing, "usage": told,
                })));
            }
            parts.push(Bytes::from_static(b"data: [DONE]\n\n"));
        } else {
            let mut answer = if call.capability == Capability::Embeddings {
                json!({ "object": "list", "data": [{ "index": 0, "embedding": [0] }] })
            } else {
                let text = "word ".repeat(usize::try_from(output).unwrap_or(0));
                let message = json!({ "role": "assistant", "content": text });
                json!({ "id": "c", "object": "chat.completion", "model": call.model,
                        "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }] })
            };
            answer["usage"] = told;
            parts.push(answer.to_string().into());
        }
        let body: AnswerBody = match fault {
            Some(ModelFault::CutAfter(whole)) => {
                parts.truncate(whole);
                let cut = stream::iter([Err(ProviderError::Broken("cut".to_owned()))]);
                stream::iter(parts.into_iter().map(Ok)).chain(cut).boxed()
            }
            Some(ModelFault::HangAfter(whole)) => {
                parts.truncate(whole);
                stream::iter(parts.into_iter().map(Ok)).chain(stream::pending()).boxed()
            }
            Some(ModelFault::HideUsage) => {
                let hidden = parts.into_iter().filter(|part| !part.windows(7).any(|window| window == b"\"usage\""));
                stream::iter(hidden.map(Ok).collect::<Vec<_>>()).boxed()
            }
            Some(ModelFault::Refuse(_) | ModelFault::WaitFor(_)) | None => {
                stream::iter(parts.into_iter().map(Ok)).boxed()
            }
        };
        let content_type = if call.stream { "text/event-stream" } else { "application/json" };
        Ok(ProviderAnswer { content_type: content_type.to_owned(), usage: None, body })
    }
}
