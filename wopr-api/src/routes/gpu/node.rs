//! What GPU nodes say of themselves. Their own credentials count here, and no session and no API key.

use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::ExposeSecret as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wopr_core::gpu::{Gpu, NodeCredential};
use wopr_core::protocol::gpu::{Heartbeat, Stage, StageReport};

use crate::error::ApiError;
use crate::extract::{Credential, Json, read_body};
use crate::state::AppState;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(register)).routes(routes!(heartbeat)).routes(routes!(bootstrap))
}

/// The answer to a report that was taken.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Taken {
    success: bool,
}

const TAKEN: Json<Taken> = Json(Taken { success: true });

fn unauthorized() -> ApiError {
    ApiError::unauthorized("Unauthorized")
}

/// The bearer of a request to a server where nodes have something to prove.
fn bearer(gpu: &Gpu, headers: &HeaderMap) -> Result<String, ApiError> {
    if !gpu.has_secret() {
        tracing::warn!("a GPU node reports, but GPU_NODE_SECRET is not set");
        return Err(unauthorized());
    }
    match Credential::of(headers) {
        Some(Credential::Bearer(bearer)) => Ok(bearer),
        Some(Credential::Session { .. } | Credential::Unusable) | None => Err(unauthorized()),
    }
}

/// The node that a body says it comes from.
fn node_id(body: Option<&Value>) -> Option<&str> {
    body?.get("nodeId")?.as_str()
}

fn invalid_json() -> ApiError {
    ApiError::bad_request("Invalid JSON body").code("INVALID_JSON")
}

fn message<T: DeserializeOwned>(body: Option<Value>) -> Result<T, ApiError> {
    let body = body.ok_or_else(invalid_json)?;
    if node_id(Some(&body)).is_none() {
        return Err(ApiError::bad_request("Missing required field: nodeId").code("MISSING_NODE_ID"));
    }
    serde_path_to_error::deserialize(body)
        .map_err(|error| ApiError::bad_request(format!("Invalid field: {}", error.path())).code("VALIDATION_ERROR"))
}

/// The stage of a report, from the query.
fn reported_stage(parts: &Parts) -> Result<Stage, ApiError> {
    let query = parts.uri.query().unwrap_or_default().as_bytes();
    let pairs: Vec<(String, String)> = serde_urlencoded::from_bytes(query).unwrap_or_default();
    let stage = pairs.iter().find(|(name, _)| name == "stage").and_then(|(_, stage)| stage.parse().ok());
    stage.filter(|stage| Stage::REPORTED.contains(stage)).ok_or_else(|| {
        let valid: Vec<&str> = Stage::REPORTED.iter().map(|stage| stage.as_str()).collect();
        ApiError::bad_request(format!("Invalid or missing stage. Must be one of: {}", valid.join(", ")))
            .code("INVALID_STAGE")
    })
}

/// Takes a node's report that a stage of its set-up is finished, or with `ok: false` that it failed. The bearer is the
/// node's own secret, or the shared one.
#[utoipa::path(
    post, path = "/internal/gpu/register", tag = "gpu",
    params(("stage" = String, Query, description = "`installing_drivers` … `done`")),
    request_body(content = String, content_type = "application/json", description = "`{nodeId, ok?, message?, host?}`"),
    responses(
        (status = 200, body = Taken),
        (status = 400, description = "No such stage, or no such body"),
        (status = 401, description = "No or a wrong credential, or none is configured"),
        (status = 404, description = "No such node"),
        (status = 409, description = "The node was given up, or is being removed"),
    ),
    security(("gpuNode" = []))
)]
async fn register(State(state): State<AppState>, parts: Parts, body: Body) -> Result<Json<Taken>, ApiError> {
    let bearer = bearer(&state.gpu, &parts.headers)?;
    let body = read_body(&parts.extensions, body).await?;
    let body: Option<Value> = serde_json::from_slice(&body).ok();
    let credential = state.gpu.authenticate(&bearer, node_id(body.as_ref())).ok_or_else(unauthorized)?;
    let reported = reported_stage(&parts)?;
    let report: StageReport = message(body)?;
    state.gpu.report(credential, reported, &report).await?;
    Ok(TAKEN)
}

/// Takes a node's word that it lives, and how it is. The bearer is the node's own secret.
#[utoipa::path(
    post, path = "/internal/gpu/heartbeat", tag = "gpu",
    request_body(content = String, content_type = "application/json"),
    responses(
        (status = 200, body = Taken),
        (status = 400, description = "No such body"),
        (status = 401, description = "Not this node's own credential"),
        (status = 404, description = "No such node"),
    ),
    security(("gpuNode" = []))
)]
async fn heartbeat(State(state): State<AppState>, parts: Parts, body: Body) -> Result<Json<Taken>, ApiError> {
    let bearer = bearer(&state.gpu, &parts.headers)?;
    let body = read_body(&parts.extensions, body).await?;
    let body: Option<Value> = serde_json::from_slice(&body).ok();
    let credential = match state.gpu.authenticate(&bearer, node_id(body.as_ref())) {
        Some(own @ NodeCredential::Own { .. }) => own,
        Some(NodeCredential::Shared) | None => return Err(unauthorized()),
    };
    let said: Heartbeat = message(body)?;
    state.gpu.heartbeat(credential, said).await?;
    Ok(TAKEN)
}

/// What a machine needs from then on.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct BirthView {
    success: bool,
    /// Its own secret.
    node_secret: String,
    /// A Docker configuration for the registry that has our images, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    docker_config: Option<String>,
}

/// Gives a new machine its own secret for the token that it was born with. That works until it has used the secret.
#[utoipa::path(
    post, path = "/internal/gpu/bootstrap", tag = "gpu",
    request_body(content = String, content_type = "application/json", description = "`{nodeId}`"),
    responses((status = 200, body = BirthView), (status = 401, description = "The token proves nothing, or no more")),
    security(("gpuNode" = []))
)]
async fn bootstrap(State(state): State<AppState>, parts: Parts, body: Body) -> Result<Response, ApiError> {
    let bearer = bearer(&state.gpu, &parts.headers)?;
    let body = read_body(&parts.extensions, body).await?;
    let body: Option<Value> = serde_json::from_slice(&body).ok();
    let id = node_id(body.as_ref()).ok_or_else(unauthorized)?;
    let birth = state.gpu.be_born(&bearer, id).await?.ok_or_else(unauthorized)?;
    let docker_config = birth.registry.map(|(server, username, password)| {
        let login = BASE64.encode(format!("{username}:{}", password.expose_secret()));
        BASE64.encode(json!({ "auths": { server: { "auth": login } } }).to_string())
    });
    let node_secret = birth.secret.expose_secret().to_owned();
    let view = Json(BirthView { success: true, node_secret, docker_config });
    Ok((StatusCode::OK, [(header::CACHE_CONTROL, "no-store")], view).into_response())
}
