//! The door before a service: its health is open to all, everything else only to the platform.
//!
//! Requests and answers are passed on as they come, part by part, so that a stream stays one. When the client leaves, the
//! connection to the service is closed, which ends the work there.

use std::error::Error as _;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    RETRY_AFTER, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wopr_core::protocol::gpu::{GpuService, ServiceState};

use crate::health::Condition;
use crate::http::{Lost, causes};
use crate::metrics;
use crate::probe::service::STAND_IN_HEADER;
use crate::traffic::Traffic;
use crate::watch::{Board, Uptime};

/// Headers that speak of one connection only: RFC 9110, 7.6.1, and the older names that are still sent.
const HOP_BY_HOP: [HeaderName; 10] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    HeaderName::from_static("trailers"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The door before one service.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) service: GpuService,
    /// Whether this node runs it.
    pub(crate) expected: bool,
    pub(crate) upstream: Url,
    pub(crate) client: reqwest::Client,
    pub(crate) token: TokenDigest,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) board: watch::Sender<Board>,
    pub(crate) uptime: Uptime,
    pub(crate) body_limit_bytes: usize,
    pub(crate) draining: CancellationToken,
}

/// What a caller must bear, hashed: comparing two hashes tells nothing about the length either.
#[derive(Clone)]
pub(crate) struct TokenDigest([u8; 32]);

impl std::fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenDigest")
    }
}

impl TokenDigest {
    pub(crate) fn of(token: &SecretString) -> Self {
        Self(Sha256::digest(token.expose_secret().as_bytes()).into())
    }

    fn is_borne_in(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else { return false };
        let Some((scheme, token)) = value.as_bytes().split_at_checked("Bearer ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(self.0.ct_eq(Sha256::digest(token).as_slice()))
    }
}

/// The routes of a door.
pub(crate) fn router(door: Arc<Door>) -> Router {
    Router::new().route("/health", get(health)).fallback(forward).with_state(door)
}

async fn health(State(door): State<Arc<Door>>) -> Response {
    let known = door.board.borrow().get(&door.service).cloned().unwrap_or_else(Condition::absent);
    let draining = door.draining.is_cancelled();
    let works = known.state.answers() && !draining;
    let report = known.report(door.service, door.uptime.now());
    let mut body = json!(report);
    let word = match (draining, works) {
        (true, _) => "draining",
        (_, true) => "ok",
        _ => "unavailable",
    };
    body["status"] = Value::from(word);
    let status = if works { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = (status, Json(body)).into_response();
    if known.stand_in {
        response.headers_mut().insert(STAND_IN_HEADER, HeaderValue::from_static("true"));
    }
    response
}

/// Why a request was not passed on, or got no answer.
#[derive(Debug)]
enum Denied {
    Unauthorized,
    Method,
    Absent,
    Draining,
    Overloaded,
    TooLarge(usize),
    Unreachable(GpuService, ServiceState),
    Late(GpuService),
}

impl Denied {
    const fn word(&self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Method => "method",
            Self::Absent => "absent",
            Self::Draining => "draining",
            Self::Overloaded => "overloaded",
            Self::TooLarge(_) => "too_large",
            Self::Unreachable(..) => "unreachable",
            Self::Late(_) => "late",
        }
    }

    /// In the form in which OpenAI tells errors.
    fn response(&self) -> Response {
        let (status, kind, code, message) = match self {
            Self::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                "invalid_request_error",
                "invalid_api_key",
                "this service is open to the platform only".to_owned(),
            ),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "invalid_request_error",
                "method_not_allowed",
                "this is no tunnel".to_owned(),
            ),
            Self::Absent => (
                StatusCode::SERVICE_UNAVAILABLE,
                "server_error",
                "service_absent",
                "this node does not run the service".to_owned(),
            ),
            Self::Draining => {
                (StatusCode::SERVICE_UNAVAILABLE, "server_error", "draining", "this node is stopping".to_owned())
            }
            Self::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "server_error",
                "overloaded",
                "too many requests are in progress".to_owned(),
            ),
            Self::TooLarge(limit) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "invalid_request_error",
                "request_too_large",
                format!("the request is larger than {limit} bytes"),
            ),
            Self::Unreachable(service, state) => (
                StatusCode::BAD_GATEWAY,
                "server_error",
                "service_unreachable",
                format!("{service} is not reached; it was {state}"),
            ),
            Self::Late(service) => (
                StatusCode::GATEWAY_TIMEOUT,
                "server_error",
                "service_timeout",
                format!("{service} sent nothing for too long"),
            ),
        };
        let error = json!({ "error": { "message": message, "type": kind, "param": null, "code": code } });
        let mut response = (status, Json(error)).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
            }
            _ => {}
        }
        response
    }
}

async fn forward(State(door): State<Arc<Door>>, request: Request) -> Response {
    match door.pass(request).await {
        Ok(response) => {
            let class = match response.status().as_u16() / 100 {
                1 | 2 => "ok",
                3 => "redirect",
                4 => "client_error",
                _ => "server_error",
            };
            metrics::request(door.service, class);
            response
        }
        Err(denied) => {
            metrics::request(door.service, denied.word());
            denied.response()
        }
    }
}

impl Door {
    async fn pass(&self, request: Request) -> Result<Response, Denied> {
        if !self.token.is_borne_in(request.headers()) {
            return Err(Denied::Unauthorized);
        }
        if request.method() == Method::CONNECT {
            return Err(Denied::Method);
        }
        if !self.expected {
            return Err(Denied::Absent);
        }
        if self.draining.is_cancelled() {
            return Err(Denied::Draining);
        }
        let passage = self.traffic.enter().ok_or(Denied::Overloaded)?;
        let answer = self.client.execute(self.onwards(request)?).await.map_err(|error| self.explain(error))?;
        passage.part();
        let (mut parts, body) = axum::http::Response::from(answer).into_parts();
        strip(&mut parts.headers);
        parts.version = Version::default();
        parts.extensions.clear();
        // The passage lasts as long as the answer: it goes with the body, however that ends.
        let body = body.map_frame(move |frame| {
            passage.part();
            frame
        });
        Ok(Response::from_parts(parts, Body::new(body)))
    }

    /// The request as the service gets it: no credential, nothing about the connection it came on.
    fn onwards(&self, request: Request) -> Result<reqwest::Request, Denied> {
        let (mut parts, body) = request.into_parts();
        let mut url = self.upstream.clone();
        url.set_path(parts.uri.path());
        url.set_query(parts.uri.query());
        let length = parts.headers.get(CONTENT_LENGTH).cloned();
        let said: Option<usize> = length.as_ref().and_then(|value| value.to_str().ok()?.parse().ok());
        if said.is_some_and(|said| said > self.body_limit_bytes) {
            return Err(Denied::TooLarge(self.body_limit_bytes));
        }
        strip(&mut parts.headers);
        for header in [AUTHORIZATION, HOST, EXPECT] {
            parts.headers.remove(header);
        }
        let mut onwards = reqwest::Request::new(parts.method, url);
        *onwards.headers_mut() = parts.headers;
        if !axum::body::HttpBody::is_end_stream(&body) {
            // A stream has no length of its own; the header that came keeps it out of chunks.
            let body = Limited::new(body, self.body_limit_bytes).into_data_stream();
            *onwards.body_mut() = Some(reqwest::Body::wrap_stream(body));
        }
        Ok(onwards)
    }

    fn explain(&self, error: reqwest::Error) -> Denied {
        let mut cause = error.source();
        while let Some(inner) = cause {
            if inner.is::<LengthLimitError>() {
                return Denied::TooLarge(self.body_limit_bytes);
            }
            cause = inner.source();
        }
        let connecting = error.is_connect();
        let lost = Lost::of(&error);
        if lost == Lost::Late && !connecting {
            return Denied::Late(self.service);
        }
        tracing::warn!(service = %self.service, "{} is not reached: {}", self.service, causes(error));
        self.traffic.lost.notify_one();
        let state = self.board.borrow().get(&self.service).map_or(ServiceState::Absent, |known| known.state);
        Denied::Unreachable(self.service, state)
    }
}

/// Removes what speaks of one connection only, also what `connection` names.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        // A client may not have these removed by naming them.
        .filter(|name| *name != CONTENT_LENGTH)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bearer_is_right_and_nothing_else() {
        let token = TokenDigest::of(&"token".into());
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            token.is_borne_in(&headers)
        };
        assert!(with(&["Bearer token"]) && with(&["bearer token"]));
        for wrong in ["Bearer tokenx", "Bearer toke", "Bearer ", "token", "Basic token", "Bearer  token", ""] {
            assert!(!with(&[wrong]), "{wrong}");
        }
        assert!(!with(&[]) && !with(&["Bearer token", "Bearer token"]));
        assert!(!format!("{token:?}").contains("token"));
    }

    #[test]
    fn what_speaks_of_the_connection_is_removed() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Private, content-length"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic x"),
            ("te", "trailers"),
            ("content-length", "3"),
            ("content-type", "text/plain"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "content-type"]);
    }
}
