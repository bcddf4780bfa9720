use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::config::origin_of;
use crate::error::ApiError;
use crate::state::AppState;

/// Refuses writes that a browser sends with our cookie from somebody else's page.
///
/// Requests without cookies cannot act for anyone and are let through, and so are those with a bearer token, which
/// no browser adds by itself.
pub(super) async fn check(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if reads {
        return next.run(request).await;
    }
    let headers = request.headers();
    let path = request.uri().path();
    let verdict = if headers.contains_key(header::COOKIE) && !headers.contains_key(header::AUTHORIZATION) {
        require_trusted(headers, &state.config.trusted_origins)
    } else if path.starts_with("/api/auth/sign-in") || path.starts_with("/api/auth/sign-up") {
        refuse_cross_site_login(headers, &state.config.trusted_origins)
    } else {
        Ok(())
    };
    match verdict {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn require_trusted(headers: &HeaderMap, trusted: &[String]) -> Result<(), ApiError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let origin = text(header::ORIGIN).or_else(|| text(header::REFERER).and_then(|referer| origin_of(&referer)));
    let Some(origin) = origin.filter(|origin| origin != "null") else {
        let message = "Missing or null Origin";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "MISSING_OR_NULL_ORIGIN", message));
    };
    if trusted.contains(&origin) {
        return Ok(());
    }
    Err(ApiError::new(StatusCode::FORBIDDEN, "INVALID_ORIGIN", "Invalid origin"))
}

/// A form on another site could sign its visitor in to the attacker's account.
fn refuse_cross_site_login(headers: &HeaderMap, trusted: &[String]) -> Result<(), ApiError> {
    let has = |name: &str, wanted: &str| headers.get(name).is_some_and(|value| value == wanted);
    let from_browser = headers.keys().any(|name| name.as_str().starts_with("sec-fetch-"));
    if !from_browser {
        return Ok(());
    }
    if has("sec-fetch-site", "cross-site") && has("sec-fetch-mode", "navigate") {
        let code = "CROSSSITE_NAVIGATION_LOGIN_BLOCKED_THIS_REQUEST_APPEARS_TO_BE_A_CSRF_ATTACK";
        let message = "Cross-site navigation login blocked. This request appears to be a CSRF attack.";
        return Err(ApiError::new(StatusCode::FORBIDDEN, code, message));
    }
    require_trusted(headers, trusted)
}
