//! What every request passes, from the outside in: request id, span and access log; the rest of its body; security headers; CORS;
//! compression; the shape of errors; panics; readiness; time-out; origin of writes; rate limits; then the routes.

mod cors;
mod headers;
pub(crate) mod limits;
mod observe;
mod origin_check;
pub(crate) mod unread;

use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;

pub use self::observe::RequestId;
use crate::error::ApiError;
use crate::error::render::{METHOD_NOT_ALLOWED, ROUTE_NOT_FOUND, Surface};
use crate::state::{AppState, NotReady};

/// Puts the pipeline around routes, such as a host application's own.
pub fn around(router: Router<AppState>, state: &AppState) -> Router<AppState> {
    router
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, ROUTE_NOT_FOUND, "Not found"))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, METHOD_NOT_ALLOWED, "Method not allowed")
        })
        // The last layer is the outermost.
        .layer(from_fn_with_state(state.clone(), limits::limit))
        .layer(from_fn_with_state(state.clone(), origin_check::check))
        .layer(from_fn_with_state(state.clone(), time_out))
        .layer(from_fn_with_state(state.clone(), require_ready))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(shape_errors))
        .layer(CompressionLayer::new())
        .layer(from_fn_with_state(state.clone(), cors::cors))
        .layer(from_fn(headers::secure))
        .layer(from_fn(unread::read_on))
        .layer(from_fn_with_state(state.clone(), observe::observe))
}

/// How long this request's body may take to arrive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyTimeout(pub(crate) Duration);

async fn time_out(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let allowed = Duration::from_secs(state.config.request_timeout_seconds.into());
    request.extensions_mut().insert(BodyTimeout(allowed / 3));
    tokio::time::timeout(allowed, next.run(request)).await.unwrap_or_else(|_| {
        let message = "The request took too long and was given up";
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "TIMEOUT", message).into_response()
    })
}

/// Keeps traffic away from a database that this build does not fit. Health checks say why.
async fn require_ready(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if path == "/health" || path.starts_with("/health/") {
        return next.run(request).await;
    }
    match state.readiness.require(&state).await {
        // A request that got in before the listener closed is still answered.
        Ok(()) | Err(NotReady::Draining) => next.run(request).await,
        Err(NotReady::SchemaBehind(pending)) => {
            let message = "The database schema is behind this release; run `wopr-api migrate`";
            ApiError::unavailable(message).code("SCHEMA_BEHIND").detail("pending", pending).into_response()
        }
        Err(NotReady::Database(error)) => ApiError::from(error).into_response(),
    }
}

fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "something that is no text".to_owned());
    ApiError::internal(Panicked(text)).into_response()
}

/// A handler panicked.
#[derive(Debug, thiserror::Error)]
#[error("a handler panicked: {0}")]
struct Panicked(String);

/// Writes an error in the shape of its surface and logs its cause.
async fn shape_errors(request: Request, next: Next) -> Response {
    let surface = Surface::of(request.uri().path());
    let request_id = request.extensions().get::<RequestId>().cloned();
    let mut response = next.run(request).await;
    let Some(error) = response.extensions_mut().remove::<ApiError>() else { return response };
    error.log();
    let mut shaped = surface.render(&error, request_id.as_ref().map(|id| id.0.as_ref()));
    // What the pipeline added, such as the limit's state or `Allow`, stays.
    for (name, value) in response.headers() {
        if !shaped.headers().contains_key(name) && name != axum::http::header::CONTENT_LENGTH {
            shaped.headers_mut().append(name, value.clone());
        }
    }
    shaped
}
