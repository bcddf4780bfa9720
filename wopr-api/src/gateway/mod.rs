//! `/v1`: calls to models.
//!
//! A route is a line of [`ROUTES`]: metered, and then the one way that all metered calls go is its handler, or free, with
//! the reason why. There is no third kind, so that no call can be served unpaid by accident.

mod error;
mod own;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Value, json};
use wopr_core::gateway::{
    self, Answer, Caller, Capability, Dialect, GatewayError, IdempotencyError, IdempotencyKey, Question,
};

use self::error::{Refusal, refuse};
pub(crate) use self::own::OwnMachines;
use crate::pipeline::unread::{after, asks_first};
use crate::routes::Entry;
use crate::state::AppState;

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_mins(1);
/// JSON is never longer.
const JSON_BYTES: usize = 10 << 20;
/// Sound, and forms with it, are never longer.
const AUDIO_BYTES: usize = 25 << 20;
/// What models were said to be made at, by clients that want to know.
const CREATED: i64 = 1_704_067_200;

/// How a client speaks: the shape of its errors, and where its key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// `/v1`.
    Native,
    /// `/v1/openai/v1`.
    OpenAi,
    /// `/v1/anthropic/v1`.
    Anthropic,
}

impl Protocol {
    const fn dialect(self) -> Dialect {
        match self {
            Self::Native | Self::OpenAi => Dialect::OpenAi,
            Self::Anthropic => Dialect::Anthropic,
        }
    }
}

/// What a route does.
enum Kind {
    /// It asks a model, and is charged.
    Metered(Capability),
    /// It costs nobody anything.
    Free { why: &'static str, serve: fn(Protocol) -> MethodRouter<AppState> },
}

struct Route {
    path: &'static str,
    protocol: Protocol,
    kind: Kind,
}

const fn metered(path: &'static str, protocol: Protocol, capability: Capability) -> Route {
    Route { path, protocol, kind: Kind::Metered(capability) }
}

const fn free(
    path: &'static str,
    protocol: Protocol,
    why: &'static str,
    serve: fn(Protocol) -> MethodRouter<AppState>,
) -> Route {
    Route { path, protocol, kind: Kind::Free { why, serve } }
}

const A_LIST: &str = "a list of models asks none of them";
const A_SIGN: &str = "a sign of life";

static ROUTES: [Route; 21] = [
    metered("/v1/chat/completions", Protocol::Native, Capability::ChatCompletions),
    metered("/v1/completions", Protocol::Native, Capability::TextCompletions),
    metered("/v1/embeddings", Protocol::Native, Capability::Embeddings),
    metered("/v1/audio/transcriptions", Protocol::Native, Capability::Transcription),
    metered("/v1/audio/speech", Protocol::Native, Capability::Tts),
    metered("/v1/images/generations", Protocol::Native, Capability::ImageGeneration),
    metered("/v1/messages", Protocol::Anthropic, Capability::ChatCompletions),
    free("/v1/models", Protocol::Native, A_LIST, |protocol| {
        get(move |state, headers| models(protocol, state, headers))
    }),
    free("/v1/models/{*id}", Protocol::Native, A_LIST, |protocol| {
        get(move |state, headers, path| model(protocol, state, headers, path))
    }),
    metered("/v1/openai/v1/chat/completions", Protocol::OpenAi, Capability::ChatCompletions),
    metered("/v1/openai/v1/completions", Protocol::OpenAi, Capability::TextCompletions),
    metered("/v1/openai/v1/embeddings", Protocol::OpenAi, Capability::Embeddings),
    metered("/v1/openai/v1/audio/transcriptions", Protocol::OpenAi, Capability::Transcription),
    metered("/v1/openai/v1/audio/speech", Protocol::OpenAi, Capability::Tts),
    metered("/v1/openai/v1/images/generations", Protocol::OpenAi, Capability::ImageGeneration),
    free("/v1/openai/v1/models", Protocol::OpenAi, A_LIST, |protocol| {
        get(move |state, headers| models(protocol, state, headers))
    }),
    free("/v1/openai/v1/models/{*id}", Protocol::OpenAi, A_LIST, |protocol| {
        get(move |state, headers, path| model(protocol, state, headers, path))
    }),
    metered("/v1/anthropic/v1/messages", Protocol::Anthropic, Capability::ChatCompletions),
    free("/v1/anthropic/v1/models", Protocol::Anthropic, A_LIST, |protocol| {
        get(move |state, headers| models(protocol, state, headers))
    }),
    free("/v1/anthropic/v1/models/{*id}", Protocol::Anthropic, A_LIST, |protocol| {
        get(move |state, headers, path| model(protocol, state, headers, path))
    }),
    free("/gateway/health", Protocol::Native, A_SIGN, |_| get(health)),
];

/// Every route. It has a pipeline of its own: what limits other requests is not made for thousands of calls a second, and
/// answers may take minutes.
pub(crate) fn router() -> Router<AppState> {
    ROUTES.iter().fold(Router::new(), |router, route| {
        let protocol = route.protocol;
        let serve = match route.kind {
            Kind::Metered(capability) => post(move |state, request| call(protocol, capability, state, request)),
            Kind::Free { serve, .. } => serve(protocol),
        };
        let unknown = move |body: Body| async move { after(body, refuse(protocol, &Refusal::method(), None)).await };
        router.route(route.path, serve.fallback(unknown))
    })
}

/// What can be called, for the list of all routes.
pub(crate) fn entries() -> impl Iterator<Item = Entry> {
    ROUTES.iter().map(|route| {
        let (method, access) = match route.kind {
            Kind::Metered(capability) => ("POST", format!("service key, metered as {capability}")),
            Kind::Free { why: A_SIGN, .. } => ("GET", "public".to_owned()),
            Kind::Free { why, .. } => ("GET", format!("service key, free: {why}")),
        };
        Entry { method: method.to_owned(), path: route.path.to_owned(), access }
    })
}

/// The way of every metered call.
async fn call(protocol: Protocol, capability: Capability, State(state): State<AppState>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = match authenticate(protocol, &state, &parts.headers).await {
        Ok(caller) => answer(protocol, capability, &state, &caller, &parts, &mut body).await,
        Err(refusal) => {
            if asks_first(&parts.headers) {
                body = Body::empty();
            }
            Err(refusal)
        }
    };
    match answered {
        Ok(answer) => respond(answer),
        Err(refusal) => after(body, refuse(protocol, &refusal, Some(&state.config.ui_url))).await,
    }
}

async fn answer(
    protocol: Protocol,
    capability: Capability,
    state: &AppState,
    caller: &Caller,
    parts: &Parts,
    body: &mut Body,
) -> Result<Answer, Refusal> {
    let most = match capability {
        Capability::Transcription | Capability::Tts => AUDIO_BYTES,
        _ => JSON_BYTES,
    };
    let body = read(body, most).await?;
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let question = Question { capability, dialect: protocol.dialect(), body, content_type };
    let Some(key) = parts.headers.get("idempotency-key") else {
        return Ok(state.gateway.call(caller, question).await?);
    };
    let key = key.to_str().map_err(|_| IdempotencyError::InvalidKey).and_then(IdempotencyKey::new);
    let key = key.map_err(|error| state.gateway.refuse(error.into()))?;
    Ok(state.gateway.call_once(caller, question, &key).await?)
}

async fn read(body: &mut Body, most: usize) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(BODY_TIME, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::too_large(most)),
        Ok(Err(_)) => Err(Refusal::cut_off()),
        Err(_) => Err(Refusal::slow()),
    }
}

/// Whose key was presented, where the protocol has it.
async fn authenticate(protocol: Protocol, state: &AppState, headers: &HeaderMap) -> Result<Arc<Caller>, Refusal> {
    let key = presented(protocol, headers).map_err(|error| state.gateway.refuse(error))?;
    Ok(state.gateway.authenticate(key).await?)
}

fn presented(protocol: Protocol, headers: &HeaderMap) -> Result<&str, GatewayError> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default().trim());
    if protocol == Protocol::Anthropic
        && let Some(key) = text(HeaderName::from_static("x-api-key"))
    {
        return if key.is_empty() { Err(GatewayError::MissingKey) } else { Ok(key) };
    }
    let value = text(header::AUTHORIZATION).ok_or(GatewayError::MissingKey)?;
    let (scheme, key) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(GatewayError::MalformedKey);
    }
    match key.trim() {
        "" => Err(GatewayError::MissingKey),
        key => Ok(key),
    }
}

fn respond(answer: Answer) -> Response {
    let (streamed, body) = match answer.body {
        gateway::Body::Whole(bytes) => (false, Body::from(bytes)),
        gateway::Body::Events(events) => (true, Body::from_stream(events.map(Ok::<_, std::convert::Infallible>))),
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let id = HeaderValue::from_str(&answer.call_id.to_string()).ok();
    for name in ["x-request-id", "request-id"] {
        headers.extend(id.clone().map(|id| (HeaderName::from_static(name), id)));
    }
    if answer.replayed {
        headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    if streamed {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    } else if let Ok(content_type) = HeaderValue::from_str(&answer.content_type) {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    response
}

fn view(protocol: Protocol, model: &gateway::Model) -> Value {
    let own = model.provider.starts_with("gpu-");
    match protocol {
        Protocol::Native | Protocol::OpenAi => json!({
            "id": model.id,
            "object": "model",
            "created": CREATED,
            "owned_by": if own { "wopr-gpu" } else { &model.provider },
            "capability": model.capability.as_str(),
            "tier": if own { "standard" } else { "premium" },
        }),
        Protocol::Anthropic => json!({
            "id": model.id,
            "type": "model",
            "display_name": model.id,
            "created_at": "2024-01-01T00:00:00Z",
        }),
    }
}

async fn models(protocol: Protocol, State(state): State<AppState>, headers: HeaderMap) -> Response {
    if let Err(refusal) = authenticate(protocol, &state, &headers).await {
        return refuse(protocol, &refusal, None);
    }
    let data: Vec<Value> = state.gateway.models().iter().map(|model| view(protocol, model)).collect();
    let body = match protocol {
        Protocol::Native | Protocol::OpenAi => json!({ "object": "list", "data": data }),
        Protocol::Anthropic => {
            let end = |model: Option<&Value>| model.map_or(Value::Null, |model| model["id"].clone());
            json!({ "first_id": end(data.first()), "last_id": end(data.last()), "has_more": false, "data": data })
        }
    };
    crate::error::render::json_response(StatusCode::OK, &body)
}

async fn model(
    protocol: Protocol,
    State(state): State<AppState>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    if let Err(refusal) = authenticate(protocol, &state, &headers).await {
        return refuse(protocol, &refusal, None);
    }
    match state.gateway.models().iter().find(|model| model.id == id) {
        Some(model) => crate::error::render::json_response(StatusCode::OK, &view(protocol, model)),
        None => refuse(protocol, &Refusal::no_model(&id), None),
    }
}

/// `GET /gateway/health`: whether calls are let in, and how those are doing who answer them. Our own machines are told by
/// their services: which they are is nobody's business.
async fn health(State(state): State<AppState>) -> Response {
    let gateway = &state.gateway;
    // The best of those that are asked for the same.
    let mut backends: BTreeMap<String, &str> = BTreeMap::new();
    for provider in gateway.providers() {
        let word = match (provider.is_asked(), provider.answered_at) {
            (false, _) => "unhealthy",
            (true, None) => "unknown",
            (true, Some(_)) => "healthy",
        };
        let known = backends.entry(provider.offered_as).or_insert(word);
        if word == "healthy" || *known == "unhealthy" {
            *known = word;
        }
    }
    let ill = backends.values().filter(|word| **word == "unhealthy").count();
    let word = match (backends.len(), ill) {
        _ if !gateway.accepts() => "unhealthy",
        (0, _) => "unknown",
        (_, 0) => "healthy",
        (all, ill) if all == ill => "unhealthy",
        _ => "degraded",
    };
    let status = if word == "unhealthy" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let backends: Vec<Value> =
        backends.into_iter().map(|(name, status)| json!({ "name": name, "status": status })).collect();
    let body = json!({
        "status": word,
        "timestamp": state.clock.now().as_millisecond(),
        "accepting": gateway.accepts(),
        "backends": backends,
        "models": gateway.models().len(),
        "unsettledBytes": gateway.unsettled_bytes(),
    });
    crate::error::render::json_response(status, &body)
}
