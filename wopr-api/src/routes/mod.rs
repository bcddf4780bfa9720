//! The routes and procedures, one file per domain.
//!
//! Each domain offers `router()` for REST and `procedures()` for tRPC; both are listed here and nowhere else.

mod auth;
mod backup;
mod billing;
mod fleet;
mod gpu;
mod health;
mod operations;
mod payments;
mod rates;
mod settings;
mod tenant_keys;
mod usage;

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use serde_json::Value;
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa_axum::router::OpenApiRouter;

use crate::state::AppState;
use crate::trpc::{Access, Procedures};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "WOPR", description = "Errors are `application/problem+json` unless a route says otherwise."),
    components()
)]
struct Description;

/// Every REST route with its description.
pub fn rest() -> (Router<AppState>, OpenApi) {
    let mut description = Description::openapi();
    let components = description.components.get_or_insert_default();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key or an operator token; its scope is read, write or admin."))
        .build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let node = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("What a GPU node proves itself with; no session and no API key is accepted."))
        .build();
    components.add_security_scheme("gpuNode", SecurityScheme::Http(node));
    let cookie = ApiKeyValue::with_description(
        crate::extract::SESSION_COOKIE,
        "A session, with the prefix __Secure- over HTTPS. It counts as scope admin of the user's own tenant.",
    );
    components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    OpenApiRouter::with_openapi(description)
        .merge(auth::router())
        .merge(backup::router())
        .merge(billing::router())
        .merge(fleet::router())
        .merge(gpu::router())
        .merge(health::router())
        .merge(operations::router())
        .merge(payments::router())
        .merge(rates::router())
        .merge(tenant_keys::router())
        .merge(usage::router())
        .split_for_parts()
}

/// Every tRPC procedure.
pub fn procedures() -> Procedures {
    let mut procedures = Procedures::default();
    backup::procedures(&mut procedures);
    billing::procedures(&mut procedures);
    fleet::procedures(&mut procedures);
    operations::procedures(&mut procedures);
    payments::procedures(&mut procedures);
    rates::procedures(&mut procedures);
    settings::procedures(&mut procedures);
    tenant_keys::procedures(&mut procedures);
    usage::procedures(&mut procedures);
    procedures
}

/// `GET /openapi.json`
pub(crate) fn description(description: OpenApi) -> Router<AppState> {
    let text: Arc<str> = description.to_json().unwrap_or_default().into();
    let serve = async move || ([(header::CONTENT_TYPE, "application/json")], text.to_string());
    Router::new().route("/openapi.json", get(serve))
}

/// A route or procedure and who may call it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// `GET`, `POST`, … or `query`, `mutation`.
    pub method: String,
    /// The path, or `router.name`.
    pub path: String,
    /// Who may call it, such as `public` or `bearer:write or session`.
    pub access: String,
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:8} {:44} {}", self.method, self.path, self.access)
    }
}

/// Everything that can be called, sorted. Taken from what is served, not from a list beside it.
pub fn list() -> Vec<Entry> {
    let (_, description) = rest();
    let mut entries = vec![Entry {
        method: "GET".to_owned(),
        path: "/openapi.json".to_owned(),
        access: Access::Public.name().to_owned(),
    }];
    for (path, item) in &description.paths.paths {
        let operations = [
            ("GET", &item.get),
            ("POST", &item.post),
            ("PUT", &item.put),
            ("PATCH", &item.patch),
            ("DELETE", &item.delete),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            let access = access(operation.security.as_deref());
            entries.push(Entry { method: method.to_owned(), path: path.clone(), access });
        }
    }
    for (name, procedure) in procedures().iter() {
        let (method, path) = (procedure.kind.name().to_owned(), name.to_owned());
        entries.push(Entry { method, path, access: procedure.access.name().to_owned() });
    }
    entries.extend(crate::gateway::entries());
    entries.extend(crate::metrics::entries());
    entries.sort();
    entries
}

/// What a route's description says about who may call it; silence is a mistake that the listing shows.
fn access(security: Option<&[SecurityRequirement]>) -> String {
    let Some(security) = security else { return "undeclared".to_owned() };
    let requirements: Vec<String> = security
        .iter()
        .filter_map(|requirement| serde_json::to_value(requirement).ok())
        .map(|requirement| {
            let schemes = requirement.as_object().into_iter().flatten();
            let schemes: Vec<String> = schemes
                .map(|(scheme, scopes)| {
                    let scopes: Vec<&str> = scopes.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                    if scopes.is_empty() { scheme.clone() } else { format!("{scheme}:{}", scopes.join("+")) }
                })
                .collect();
            if schemes.is_empty() { Access::Public.name().to_owned() } else { schemes.join(" and ") }
        })
        .collect();
    requirements.join(" or ")
}
