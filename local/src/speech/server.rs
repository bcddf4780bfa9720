//! The wire.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::synthesis::{Order, SynthesisError, speak};
use super::{Config, Faults, STAND_IN, STAND_IN_HEADER};

/// The real server's limit.
const TEXT_CHARS_MAX: usize = 3000;
/// As much of a request as is read.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// The model's name on the wire.
const MODEL: &str = "chatterbox-tts-1";
/// Names on the wire and the synthesiser's voice for each.
const VOICES: [(&str, &str); 7] = [
    ("default", "en-us"),
    ("alloy", "en-us"),
    ("echo", "en-us+m3"),
    ("fable", "en-gb"),
    ("onyx", "en-us+m7"),
    ("nova", "en-us+f3"),
    ("shimmer", "en-gb+f4"),
];

struct Shared {
    config: Config,
    faults: Mutex<Faults>,
    turns: Semaphore,
}

impl Shared {
    fn faults(&self) -> Faults {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(super) fn router(config: Config) -> Router {
    let control = config.control_key.is_some();
    let turns = Semaphore::new(config.at_once);
    let shared = Arc::new(Shared { config, faults: Mutex::default(), turns });
    let mut router = Router::new()
        .route("/v1/audio/speech", post(speech))
        .route("/synthesize", post(speech))
        .route("/health", get(health))
        .route("/", get(health))
        .route("/v1/models", get(models))
        .route("/voices", get(voices))
        .layer(from_fn_with_state(Arc::clone(&shared), delayed));
    if control {
        router = router.route("/_control", get(show_faults).put(set_faults));
    }
    router.layer(from_fn(marked)).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(shared)
}

/// Whoever reads an answer can tell what spoke.
async fn marked(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(STAND_IN_HEADER, HeaderValue::from_static(STAND_IN));
    response
}

async fn delayed(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    sleep(shared.faults().delay()).await;
    next.run(request).await
}

fn failure(status: StatusCode, kind: &str, message: &str) -> Response {
    (status, Json(json!({ "error": { "message": message, "type": kind } }))).into_response()
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let here = tokio::fs::metadata(&shared.config.synthesiser).await.is_ok();
    let well = here && !shared.faults().unhealthy;
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if well { "healthy" } else { "unhealthy" };
    (status, Json(json!({ "status": word, "model_loaded": here, "device": "cpu" }))).into_response()
}

async fn models() -> Json<Value> {
    Json(json!({ "object": "list", "data": [{ "id": MODEL, "object": "model", "owned_by": STAND_IN }] }))
}

async fn voices() -> Json<Value> {
    let voices: Vec<Value> =
        VOICES.iter().map(|(name, voice)| json!({ "name": name, "espeak_voice": voice })).collect();
    Json(json!({ "count": voices.len(), "voices": voices }))
}

/// As clients of the real server and of OpenAI's send it; fields that change the real model's sound are taken and do nothing.
#[derive(Debug, Deserialize)]
struct Wanted {
    input: String,
    voice: Option<String>,
    response_format: Option<String>,
    speed: Option<serde_json::Number>,
}

async fn speech(State(shared): State<Arc<Shared>>, body: Result<Json<Wanted>, JsonRejection>) -> Response {
    if let Some(status) = shared.faults().status {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        return failure(status, "fault", "this failure was asked for");
    }
    let order = match body {
        Ok(Json(wanted)) => order(wanted),
        Err(rejection) => return failure(rejection.status(), "invalid_request_error", &rejection.body_text()),
    };
    let order = match order {
        Ok(order) => order,
        Err(why) => return failure(StatusCode::BAD_REQUEST, "invalid_request_error", &why),
    };
    let Ok(_turn) = shared.turns.acquire().await else {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the server is stopping");
    };
    match speak(&shared.config.synthesiser, &order, shared.config.patience).await {
        Ok(sound) => ([(header::CONTENT_TYPE, "audio/wav")], Bytes::from(sound)).into_response(),
        Err(error) => {
            tracing::error!("a text of {} bytes was not spoken: {error}", order.text.len());
            let status = match error {
                SynthesisError::TooLong(_) => StatusCode::GATEWAY_TIMEOUT,
                SynthesisError::Run(_) | SynthesisError::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            };
            failure(status, "generation_error", &error.to_string())
        }
    }
}

fn order(wanted: Wanted) -> Result<Order, String> {
    if wanted.input.trim().is_empty() {
        return Err("input must not be empty".to_owned());
    }
    let length = wanted.input.chars().count();
    if length > TEXT_CHARS_MAX {
        return Err(format!("input has {length} characters; {TEXT_CHARS_MAX} are allowed"));
    }
    if let Some(format) = wanted.response_format.filter(|format| format != "wav") {
        return Err(format!("response_format {format} is not offered; wav is"));
    }
    let name = wanted.voice.as_deref().unwrap_or("default");
    let voice = VOICES.iter().find(|(known, _)| *known == name).map(|(_, voice)| *voice);
    let voice = voice.ok_or_else(|| format!("there is no voice {name:?}; GET /voices names them"))?;
    let speed_percent = match wanted.speed {
        None => 100,
        Some(speed) => percent(&speed).ok_or("speed must be from 0.25 to 4")?,
    };
    Ok(Order { text: wanted.input, voice, speed_percent })
}

/// A decimal number from 0.25 to 4 in hundredths; further digits are cut off.
fn percent(speed: &serde_json::Number) -> Option<u32> {
    let text = speed.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let whole: u32 = whole.parse().ok()?;
    let digits: u32 = format!("{fraction:0<2}").get(..2)?.parse().ok()?;
    let percent = whole.checked_mul(100)?.checked_add(digits)?;
    (25..=400).contains(&percent).then_some(percent)
}

/// Whether the request carries the control key.
fn allowed(shared: &Shared, headers: &HeaderMap) -> bool {
    let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let sent = sent.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    shared.config.control_key.as_ref().is_some_and(|key| key.as_bytes().ct_eq(sent.as_bytes()).into())
}

fn denied() -> Response {
    failure(StatusCode::UNAUTHORIZED, "invalid_request_error", "the control key is wrong")
}

async fn show_faults(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if allowed(&shared, &headers) { Json(shared.faults()).into_response() } else { denied() }
}

async fn set_faults(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Result<Json<Faults>, JsonRejection>,
) -> Response {
    if !allowed(&shared, &headers) {
        return denied();
    }
    let faults = match body {
        Ok(Json(faults)) => faults,
        Err(rejection) => return failure(rejection.status(), "invalid_request_error", &rejection.body_text()),
    };
    if let Some(why) = faults.refused() {
        return failure(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request_error", &why);
    }
    tracing::info!("playing {faults:?}");
    *shared.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults.clone();
    Json(faults).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_read_as_decimal() {
        let cases =
            [("1", Some(100)), ("1.0", Some(100)), ("0.25", Some(25)), ("4.0", Some(400)), ("1.257", Some(125))];
        let bad = [("0.2", None), ("4.01", None), ("-1", None), ("0", None), ("1e9", None), ("99999999999", None)];
        for (text, expected) in cases.into_iter().chain(bad) {
            assert_eq!(percent(&serde_json::from_str(text).unwrap()), expected, "{text}");
        }
    }
}
