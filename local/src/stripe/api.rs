//! `/v1/…` over HTTP: keys, idempotency, faults, and Stripe's headers around every answer.

use std::sync::{Arc, PoisonError};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::engine::{API_VERSION, Engine, Origin, Tx, number, random, text};
use super::error::ApiError;
use super::faults;
use super::form::{self, Params};
use super::routes;
use super::store::Kind;

/// Longest idempotency key: <https://docs.stripe.com/api/idempotent_requests>.
const KEY_CHARS_MAX: usize = 255;
/// Stripe forgets a key after it is at least this old; the stand-in forgets it at once then.
const KEY_SECONDS: i64 = 86_400;

/// What was answered, and whether it was answered before.
struct Answer {
    status: u16,
    body: Value,
    replayed: bool,
}

pub(super) async fn handle(
    State(engine): State<Arc<Engine>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request_id = format!("req_{}", random(14));
    let key = headers.get("idempotency-key").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let outcome = answer(&engine, &method, &uri, &headers, &body, &request_id, key.clone()).await;
    let Answer { status, body, replayed } = outcome.unwrap_or_else(|error| {
        tracing::debug!("{method} {} refused: {error}", uri.path());
        Answer { status: error.status, body: error.body(), replayed: false }
    });
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, axum::Json(body)).into_response();
    let version = headers.get("stripe-version").cloned().unwrap_or(HeaderValue::from_static(API_VERSION));
    let mut set = |name: &'static str, value: HeaderValue| {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    };
    set("stripe-version", version);
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        set("request-id", id);
    }
    if let Some(key) = key.and_then(|key| HeaderValue::from_str(&key).ok()) {
        set("idempotency-key", key);
    }
    if replayed {
        set("idempotent-replayed", HeaderValue::from_static("true"));
    }
    response
}

async fn answer(
    engine: &Arc<Engine>,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &Bytes,
    request_id: &str,
    key: Option<String>,
) -> Result<Answer, ApiError> {
    let fault = {
        let mut planned = engine.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults::take(&mut planned, method.as_str(), uri.path())
    };
    let mut late = None;
    if let Some(fault) = fault {
        tokio::time::sleep(fault.delay()).await;
        if let Some(status) = fault.status {
            let error = ApiError::server(status, "This failure was asked for through the control interface.");
            if !fault.after {
                return Err(error);
            }
            late = Some(error);
        }
    }
    authorize(engine, headers)?;
    let pairs = pairs(method, uri, headers, body)?;
    let params = Params::from_pairs(&pairs)?;
    // Reading again is harmless, so only POST remembers keys, as with Stripe.
    let key = key.filter(|_| method == Method::POST);
    if key.as_ref().is_some_and(|key| key.is_empty() || key.chars().count() > KEY_CHARS_MAX) {
        return Err(ApiError::invalid(format!("Idempotency-Key must have 1 to {KEY_CHARS_MAX} characters")));
    }
    let origin = Origin { request_id: Some(request_id.to_owned()), idempotency_key: key.clone() };
    let path = uri.path().strip_prefix("/v1").unwrap_or(uri.path()).to_owned();
    let method = method.as_str().to_owned();
    let done = engine.run(origin, move |tx| match key {
        Some(key) => once(tx, &key, &method, &path, &pairs, &params),
        None => routes::run(tx, &method, &path, &params).map(|body| Answer { status: 200, body, replayed: false }),
    });
    let answer = done.await?;
    late.map_or(Ok(answer), Err)
}

/// Runs a request whose key was not seen yet; answers one that was as it was answered then.
fn once(
    tx: &mut Tx<'_>,
    key: &str,
    method: &str,
    path: &str,
    pairs: &[(String, String)],
    params: &Params,
) -> Result<Answer, ApiError> {
    let fingerprint = fingerprint(method, path, pairs);
    let known = tx.get(Kind::Idempotency, key).filter(|known| number(known, "created") + KEY_SECONDS > tx.now);
    if let Some(known) = known {
        if text(&known, "path") != path {
            return Err(ApiError::idempotency(format!(
                "Keys for idempotent requests can only be used for the same endpoint they were first used for ('{path}' \
                 vs '{}').",
                text(&known, "path")
            )));
        }
        if text(&known, "fingerprint") != fingerprint {
            return Err(ApiError::idempotency(
                "Keys for idempotent requests can only be used with the same parameters they were first used with.",
            ));
        }
        let status = u16::try_from(number(&known, "status")).unwrap_or(500);
        return Ok(Answer { status, body: known["body"].clone(), replayed: true });
    }
    let (status, body) = match routes::run(tx, method, path, params) {
        Ok(body) => (200, body),
        // The attempt happened, so its answer stands. Requests refused before that may be corrected and sent again.
        Err(error) if error.keeps_effects => (error.status, error.body()),
        Err(error) => return Err(error),
    };
    let row = json!({
        "id": key, "path": path, "fingerprint": fingerprint, "created": tx.now, "status": status, "body": body,
    });
    tx.save(Kind::Idempotency, &row);
    Ok(Answer { status, body, replayed: false })
}

/// The same for the same parameters in any order.
fn fingerprint(method: &str, path: &str, pairs: &[(String, String)]) -> String {
    let mut sorted = pairs.to_vec();
    sorted.sort();
    let mut hash = Sha256::new();
    for part in
        [method, path].into_iter().chain(sorted.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]))
    {
        hash.update(part.len().to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex::encode(hash.finalize())
}

fn authorize(engine: &Engine, headers: &HeaderMap) -> Result<(), ApiError> {
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = match header.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key.trim().to_owned(),
        // As `curl -u sk_test_…:` sends it.
        Some((scheme, encoded)) if scheme.eq_ignore_ascii_case("basic") => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).unwrap_or_default();
            let decoded = String::from_utf8(decoded).unwrap_or_default();
            decoded.split_once(':').map_or(decoded.clone(), |(user, _)| user.to_owned())
        }
        _ => String::new(),
    };
    if given.is_empty() {
        return Err(ApiError::unauthorized(
            "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer \
             auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
        ));
    }
    let known = engine.config.api_keys.iter().any(|key| bool::from(key.as_bytes().ct_eq(given.as_bytes())));
    if known { Ok(()) } else { Err(ApiError::unauthorized("Invalid API Key provided.")) }
}

fn pairs(method: &Method, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Result<Vec<(String, String)>, ApiError> {
    let mut pairs = form::pairs(uri.query().unwrap_or_default().as_bytes())?;
    if body.is_empty() || method == Method::GET {
        return Ok(pairs);
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !content_type.starts_with("application/x-www-form-urlencoded") {
        return Err(ApiError::invalid(format!(
            "Invalid request (check that your POST content type is application/x-www-form-urlencoded, not {content_type})."
        )));
    }
    pairs.extend(form::pairs(body)?);
    Ok(pairs)
}

/// For paths outside everything served.
pub(super) async fn not_found(method: Method, uri: Uri) -> Response {
    let error = ApiError::unknown_url(method.as_str(), uri.path());
    (StatusCode::NOT_FOUND, axum::Json(error.body())).into_response()
}
