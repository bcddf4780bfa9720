//! The bot's HTTP interface.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;

use super::volume::{self, Volume};
use super::{BotError, Config};
use crate::clock::Clock;

/// Longest message.
const TEXT_BYTES_MAX: usize = 32 * 1024;
/// Room for the JSON around it.
const BODY_BYTES_MAX: usize = 2 * TEXT_BYTES_MAX;
const LIST_DEFAULT: usize = 100;
/// How long a model may take.
const ANSWER_TIME: Duration = Duration::from_mins(5);

#[derive(Debug)]
struct Shared {
    volume: Mutex<Volume>,
    token: String,
    home: PathBuf,
    service_key_file: PathBuf,
    gateway_url: Option<String>,
    client: reqwest::Client,
    clock: Arc<dyn Clock>,
    started: Timestamp,
}

/// A bot that listens and can be served.
#[derive(Debug)]
pub struct Bot {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Bot {
    pub(super) async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self, BotError> {
        let (volume, token) = Volume::open(&config.home)?;
        let listen_error = |source| BotError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let messages = volume.count();
        tracing::info!("listening on {address}, {messages} messages remembered");
        let shared = Arc::new(Shared {
            volume: Mutex::new(volume),
            token,
            home: config.home,
            service_key_file: config.service_key_file,
            gateway_url: config.gateway_url,
            client: crate::http::client(ANSWER_TIME)?,
            started: clock.now(),
            clock,
        });
        if service_key(&shared).is_none() {
            tracing::warn!(
                "no service key in {}, only the daemon token opens this bot",
                shared.service_key_file.display()
            );
        }
        Ok(Self { listener, address, shared })
    }

    /// The address listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` completes, then answers what is in progress.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
        axum::serve(self.listener, router(self.shared)).with_graceful_shutdown(stop).await
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let open = Router::new()
        .route("/", get(info))
        .route("/health", get(async || Json(json!({ "status": "ok" }))))
        .route("/ready", get(ready))
        .route("/healthz", get(healthz));
    let guarded = Router::new()
        .route("/message", post(message))
        .route("/messages", get(messages))
        .route("/ask", post(ask))
        .fallback(async || problem(StatusCode::NOT_FOUND, "no such path"))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard));
    open.merge(guarded).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(shared)
}

fn problem(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({ "error": text }))).into_response()
}

/// The key in the file at this moment.
fn service_key(shared: &Shared) -> Option<String> {
    let text = std::fs::read_to_string(&shared.service_key_file).ok()?;
    Some(text.trim().to_owned()).filter(|key| !key.is_empty())
}

async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default().as_bytes();
    let is = |key: &str| bool::from(key.as_bytes().ct_eq(given));
    if is(&shared.token) || service_key(&shared).is_some_and(|key| is(&key)) {
        return next.run(request).await;
    }
    let mut refused =
        problem(StatusCode::UNAUTHORIZED, "a bearer token is needed: the daemon token or the service key");
    refused.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    refused
}

async fn info(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let uptime = shared.clock.now().duration_since(shared.started).as_secs();
    Json(json!({ "name": "wopr-bot", "version": env!("CARGO_PKG_VERSION"), "uptime_s": uptime }))
}

/// Whether the volume takes a write, away from the threads that serve connections.
async fn volume_works(shared: &Shared) -> bool {
    let home = shared.home.clone();
    match tokio::task::spawn_blocking(move || volume::probe(&home)).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::error!("the volume does not take a write: {error}");
            false
        }
        Err(error) => {
            tracing::error!("the check of the volume failed: {error}");
            false
        }
    }
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let volume = volume_works(&shared).await;
    let status = if volume { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": volume, "checks": { "startup": true, "volume": volume } }))).into_response()
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    let volume = volume_works(&shared).await;
    let status = if volume { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let count = shared.volume.lock().unwrap_or_else(PoisonError::into_inner).count();
    let uptime = shared.clock.now().duration_since(shared.started).as_secs();
    let word = if volume { "healthy" } else { "unhealthy" };
    let body = json!({ "status": word, "uptime_s": uptime, "messages": count, "checks": { "volume": volume } });
    (status, Json(body)).into_response()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    text: String,
}

async fn message(State(shared): State<Arc<Shared>>, body: Result<Json<Message>, JsonRejection>) -> Response {
    let text = match body {
        Ok(Json(message)) => message.text,
        Err(rejection) => return problem(rejection.status(), &rejection.body_text()),
    };
    if text.is_empty() || text.len() > TEXT_BYTES_MAX {
        return problem(StatusCode::UNPROCESSABLE_ENTITY, &format!("text must have 1 to {TEXT_BYTES_MAX} bytes"));
    }
    let now = shared.clock.now();
    let kept = tokio::task::spawn_blocking(move || {
        let mut volume = shared.volume.lock().unwrap_or_else(PoisonError::into_inner);
        volume.remember(now, text).map(|exchange| (exchange, volume.count()))
    });
    match kept.await {
        Ok(Ok((exchange, count))) => {
            tracing::info!("answered message {}", exchange.id);
            Json(json!({ "id": exchange.id, "reply": exchange.reply, "at": exchange.at, "count": count }))
                .into_response()
        }
        Ok(Err(error)) => {
            tracing::error!("a message was not kept: {error}");
            problem(StatusCode::INSUFFICIENT_STORAGE, "the message could not be kept, so it was not answered")
        }
        Err(error) => {
            tracing::error!("a message was not kept: {error}");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "the message could not be kept, so it was not answered")
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    question: String,
    model: String,
    #[serde(default = "default_tokens")]
    max_tokens: u32,
}

const fn default_tokens() -> u32 {
    64
}

/// Asks a model through the gateway, with the key the platform gave.
async fn ask(State(shared): State<Arc<Shared>>, body: Result<Json<Ask>, JsonRejection>) -> Response {
    let ask = match body {
        Ok(Json(ask)) => ask,
        Err(rejection) => return problem(rejection.status(), &rejection.body_text()),
    };
    let (Some(gateway), Some(key)) = (&shared.gateway_url, service_key(&shared)) else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "there is no gateway, or no key for it");
    };
    let request = json!({
        "model": ask.model,
        "max_tokens": ask.max_tokens,
        "messages": [{ "role": "user", "content": ask.question }],
    });
    let sent = shared.client.post(format!("{gateway}/chat/completions")).bearer_auth(key).json(&request).send().await;
    let answer = match sent {
        Ok(answer) => answer,
        Err(error) => {
            tracing::error!("the gateway does not answer: {error}");
            return problem(StatusCode::BAD_GATEWAY, "the gateway does not answer");
        }
    };
    let status = StatusCode::from_u16(answer.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
    match answer.json::<Value>().await {
        Ok(said) if status.is_success() => {
            let reply = said["choices"][0]["message"]["content"].clone();
            Json(json!({ "reply": reply, "usage": said["usage"], "model": said["model"] })).into_response()
        }
        Ok(refused) => (status, Json(json!({ "error": refused["error"] }))).into_response(),
        Err(error) => {
            tracing::error!("the gateway's answer makes no sense: {error}");
            problem(StatusCode::BAD_GATEWAY, "the gateway's answer makes no sense")
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    limit: Option<usize>,
}

async fn messages(State(shared): State<Arc<Shared>>, Query(listing): Query<Listing>) -> Json<Value> {
    let volume = shared.volume.lock().unwrap_or_else(PoisonError::into_inner);
    let last = volume.last(listing.limit.unwrap_or(LIST_DEFAULT));
    Json(json!({ "count": volume.count(), "messages": last }))
}
