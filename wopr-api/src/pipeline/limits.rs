//! Fixed windows per client and scope, counted in PostgreSQL so that replicas share them.

use std::net::IpAddr;
use std::sync::Mutex;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use jiff::SignedDuration;
use wopr_core::auth::Limit;

use crate::config::Config;
use crate::error::{ApiError, chain};
use crate::extract::ClientAddress;
use crate::state::AppState;

/// How often what may be asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// `None` for any method.
    method: Option<Method>,
    /// The start of the path, or the name of a procedure.
    prefix: &'static str,
    max: Max,
    window_seconds: u32,
    /// Names the counter.
    scope: &'static str,
    message: &'static str,
    /// Whether to refuse when the counter cannot be read.
    fail_closed: bool,
}

/// How many requests of a client pass in a window.
#[derive(Debug, PartialEq, Eq)]
enum Max {
    Fixed(u32),
    /// [`Config::sign_ups_per_hour`].
    SignUps,
}

impl Max {
    const fn of(&self, config: &Config) -> u32 {
        match self {
            Self::Fixed(max) => *max,
            Self::SignUps => config.sign_ups_per_hour,
        }
    }
}

const TOO_MANY: &str = "Too many requests, please try again later";
const TOO_MANY_AUTH: &str = "Too many requests. Please try again later.";
const MINUTE: u32 = 60;

const fn rule(
    method: Option<Method>,
    prefix: &'static str,
    max: u32,
    window_seconds: u32,
    scope: &'static str,
) -> Rule {
    Rule { method, prefix, max: Max::Fixed(max), window_seconds, scope, message: TOO_MANY, fail_closed: false }
}

const fn auth(prefix: &'static str, max: u32, window_seconds: u32, scope: &'static str) -> Rule {
    auth_at_most(prefix, Max::Fixed(max), window_seconds, scope)
}

const fn auth_at_most(prefix: &'static str, max: Max, window_seconds: u32, scope: &'static str) -> Rule {
    let message = TOO_MANY_AUTH;
    Rule { method: Some(Method::POST), prefix, max, window_seconds, scope, message, fail_closed: true }
}

/// The first that matches counts.
static ROUTES: [Rule; 13] = [
    auth("/api/auth/sign-in", 5, 15 * MINUTE, "auth:login"),
    auth_at_most("/api/auth/sign-up", Max::SignUps, 60 * MINUTE, "auth:signup"),
    auth("/api/auth/request-password-reset", 3, 60 * MINUTE, "auth:reset"),
    auth("/api/auth/reset-password", 5, 15 * MINUTE, "auth:reset-password"),
    auth("/api/auth/change-password", 5, 15 * MINUTE, "auth:change-password"),
    auth("/api/auth/send-verification-email", 3, 60 * MINUTE, "auth:verification"),
    rule(None, "/api/auth", 100, MINUTE, "auth:default"),
    rule(Some(Method::POST), "/api/billing/setup-intent", 5, MINUTE, "api:billing-setup-intent"),
    rule(Some(Method::POST), "/api/billing/credits/checkout", 10, MINUTE, "api:billing-checkout"),
    rule(Some(Method::POST), "/api/billing/portal", 10, MINUTE, "api:billing-portal"),
    rule(Some(Method::POST), "/fleet/bots", 30, MINUTE, "fleet:create"),
    rule(Some(Method::GET), "/fleet/", 120, MINUTE, "fleet:read"),
    rule(None, "/", 60, MINUTE, "default"),
];

/// The first whose name is the procedure's counts; otherwise [`OTHER_PROCEDURES`].
static PROCEDURES: [Rule; 5] = [
    rule(None, "billing.creditsCheckout", 10, MINUTE, "trpc:billing-checkout"),
    rule(None, "billing.portalSession", 10, MINUTE, "trpc:billing-portal"),
    rule(None, "profile.changePassword", 5, 15 * MINUTE, "trpc:profile-password"),
    rule(None, "fleet.createInstance", 10, MINUTE, "trpc:fleet-create"),
    rule(None, "fleet.controlInstance", 30, MINUTE, "trpc:fleet-control"),
];
static OTHER_PROCEDURES: Rule = rule(None, "", 100, MINUTE, "trpc:default");

fn for_route(method: &Method, path: &str) -> Option<&'static Rule> {
    // Health is for probes, the webhook proves itself by its signature, and tRPC counts by procedure.
    let exempt = path == "/health"
        || path.starts_with("/health/")
        || path == "/api/billing/webhook"
        || path.starts_with("/internal/")
        || path == "/trpc"
        || path.starts_with("/trpc/");
    if exempt {
        return None;
    }
    ROUTES
        .iter()
        .find(|rule| rule.method.as_ref().is_none_or(|wanted| wanted == method) && path.starts_with(rule.prefix))
}

fn for_procedure(name: &str) -> &'static Rule {
    PROCEDURES.iter().find(|rule| rule.prefix == name).unwrap_or(&OTHER_PROCEDURES)
}

/// Where a counter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    limit: u32,
    remaining: u32,
    resets_at_seconds: i64,
}

/// The tightest counter that a request met, for the answer's headers.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Option<Standing>>);

impl Tally {
    fn meet(&self, standing: Standing) {
        let mut tightest = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if tightest.is_none_or(|before| standing.remaining < before.remaining) {
            *tightest = Some(standing);
        }
    }

    /// Writes `X-RateLimit-*`.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let tightest = *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(standing) = tightest else { return };
        headers.insert("x-ratelimit-limit", HeaderValue::from(standing.limit));
        headers.insert("x-ratelimit-remaining", HeaderValue::from(standing.remaining));
        headers.insert("x-ratelimit-reset", HeaderValue::from(standing.resets_at_seconds));
    }
}

/// Counts a REST request.
pub(super) async fn limit(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let Some(rule) = for_route(request.method(), request.uri().path()) else { return next.run(request).await };
    let client = request.extensions().get::<ClientAddress>().and_then(|address| address.0);
    let tally = Tally::default();
    let mut response = match count(&state, client, rule, &tally).await {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    tally.write(response.headers_mut());
    response
}

/// Counts one call of a procedure, whatever batch it comes in.
pub(crate) async fn count_call(
    state: &AppState,
    client: Option<IpAddr>,
    procedure: &str,
    tally: &Tally,
) -> Result<(), ApiError> {
    count(state, client, for_procedure(procedure), tally).await
}

async fn count(state: &AppState, client: Option<IpAddr>, rule: &Rule, tally: &Tally) -> Result<(), ApiError> {
    let window = SignedDuration::from_secs(rule.window_seconds.into());
    // Addresses are personal data, and counting needs none.
    let key = state.pseudonyms.sign(&counted_network(client));
    let decision = match state.throttle.hit(rule.scope, &key, Limit { max: rule.max.of(&state.config), window }).await {
        Ok(decision) => decision,
        Err(error) if rule.fail_closed => return Err(ApiError::from(error)),
        Err(error) => {
            tracing::error!(scope = rule.scope, "a request went uncounted: {}", chain(&error));
            return Ok(());
        }
    };
    tally.meet(Standing {
        limit: decision.limit,
        remaining: decision.remaining,
        resets_at_seconds: decision.resets_at.as_second(),
    });
    if decision.allowed {
        return Ok(());
    }
    let wait = decision.resets_at.duration_since(state.clock.now()).as_secs();
    let seconds = u64::try_from(wait).unwrap_or(0).max(1);
    Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_REQUESTS", rule.message).retry_after(seconds))
}

/// Who is counted: an IPv4 address, or the /64 that one IPv6 customer has.
fn counted_network(client: Option<IpAddr>) -> String {
    match client {
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
        None => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_rule_counts() {
        let scope = |method: Method, path: &str| for_route(&method, path).map(|rule| rule.scope);
        let table = [
            (Method::POST, "/api/auth/sign-in/email", Some("auth:login")),
            (Method::GET, "/api/auth/sign-in/email", Some("auth:default")),
            (Method::POST, "/api/auth/sign-up/email", Some("auth:signup")),
            (Method::GET, "/api/auth/get-session", Some("auth:default")),
            (Method::POST, "/fleet/bots/x/start", Some("fleet:create")),
            (Method::GET, "/fleet/bots", Some("fleet:read")),
            (Method::DELETE, "/fleet/bots/x", Some("default")),
            (Method::GET, "/openapi.json", Some("default")),
            (Method::GET, "/health", None),
            (Method::GET, "/health/ready", None),
            (Method::POST, "/api/billing/webhook", None),
            (Method::POST, "/trpc/billing.creditsCheckout", None),
        ];
        for (method, path, expected) in table {
            assert_eq!(scope(method.clone(), path), expected, "{method} {path}");
        }
        assert_eq!(for_procedure("billing.creditsCheckout").max, Max::Fixed(10));
        assert_eq!(for_procedure("no.such").scope, "trpc:default");
    }

    #[test]
    fn an_ipv6_customer_has_one_counter() {
        let network = |text: &str| counted_network(Some(text.parse().unwrap()));
        assert_eq!(network("2001:db8:1:2:3::4"), network("2001:db8:1:2:ffff::1"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_eq!(network("10.0.0.1"), "10.0.0.1");
    }
}
