use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::extract::{ClientAddress, client_address};
use crate::state::AppState;

/// The request's id: what the client sent as `X-Request-Id` if it is usable, else one of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub Arc<str>);

impl RequestId {
    /// Takes ids that cannot forge a log line; anything else is replaced.
    fn of(headers: &HeaderMap) -> Self {
        let usable = |text: &&str| {
            (8..=128).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        };
        let sent = headers.get("x-request-id").and_then(|value| value.to_str().ok()).filter(usable);
        Self(sent.map_or_else(|| uuid::Uuid::new_v4().simple().to_string().into(), Into::into))
    }
}

/// Gives the request its id and client address, a span, and one line in the log.
pub(super) async fn observe(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let client = client_address(peer, request.headers(), &state.config.trusted_proxies);
    request.extensions_mut().insert(ClientAddress(client));
    request.extensions_mut().insert(id.clone());

    let method = request.method().clone();
    // The route rather than the path: paths may carry one-time tokens.
    let route = request.extensions().get::<MatchedPath>().map_or("(none)", MatchedPath::as_str).to_owned();
    let client = client.map_or_else(|| "unknown".to_owned(), |client| client.to_string());
    let span = tracing::info_span!("request", request_id = %id.0, %method, route, client, procedures = Empty);
    let started = std::time::Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    span.in_scope(|| tracing::info!(status, duration_ms, "{method} {route} answered {status}"));
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_ids_are_taken_over() {
        let of = |text: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", HeaderValue::from_bytes(text).unwrap());
            RequestId::of(&headers).0.to_string()
        };
        assert_eq!(of(b"abc-DEF_123.4"), "abc-DEF_123.4");
        for text in [&b"short"[..], b"has blank in it", b"\"quoted-text\"", &[b'a'; 129], "umläut-text".as_bytes()] {
            assert_ne!(of(text).as_bytes(), text);
            assert_eq!(of(text).len(), 32);
        }
    }
}
