//! GPU nodes: what they report themselves, and what operators do with them.

mod node;
mod views;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wopr_core::gpu::{NewEnrolment, NewProvision};

use self::views::{GpuNodeView, ProvisionedView, RegionView, SizeView};
use crate::error::ApiError;
use crate::extract::{Json, Path, PlatformAdmin, Query, origin};
use crate::state::AppState;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .merge(node::router())
        .routes(routes!(list, create))
        .routes(routes!(regions))
        .routes(routes!(sizes))
        .routes(routes!(get, destroy))
        .routes(routes!(reboot))
        .routes(routes!(readmit))
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Done {
    success: bool,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Said {
    success: bool,
    message: String,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Nodes {
    success: bool,
    nodes: Vec<GpuNodeView>,
    count: usize,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct OneNode {
    success: bool,
    node: GpuNodeView,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Made {
    success: bool,
    node: ProvisionedView,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Regions {
    success: bool,
    regions: Vec<RegionView>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Sizes {
    success: bool,
    sizes: Vec<SizeView>,
}

/// What makes a node. Without a host, a machine is made for it.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct NodeInput {
    name: Option<String>,
    region: Option<String>,
    size: Option<String>,
    /// Where a machine that exists is reached: it is enrolled instead of made, and its secret is answered once.
    host: Option<String>,
    /// The services that a machine that exists has, of `llama`, `chatterbox`, `whisper` and `qwen`; all of them unless
    /// given.
    #[schema(value_type = Option<Vec<String>>)]
    services: Option<Vec<wopr_core::protocol::gpu::GpuService>>,
}

/// Every GPU node.
#[utoipa::path(get, path = "/api/admin/gpu", tag = "gpu", responses((status = 200, body = Nodes)),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"])))]
async fn list(State(state): State<AppState>, _admin: PlatformAdmin) -> Result<Json<Nodes>, ApiError> {
    let nodes: Vec<GpuNodeView> = state.gpu.list().await?.iter().map(GpuNodeView::from).collect();
    Ok(Json(Nodes { success: true, count: nodes.len(), nodes }))
}

/// Has a machine made, or enrols one that exists. What is made is made in the background.
#[utoipa::path(post, path = "/api/admin/gpu", tag = "gpu", request_body = NodeInput,
    responses(
        (status = 201, body = Made),
        (status = 400, description = "A value breaks a rule"),
        (status = 409, description = "The name is taken"),
        (status = 503, description = "What is needed for it is not configured"),
    ),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"])))]
async fn create(
    State(state): State<AppState>,
    PlatformAdmin(caller): PlatformAdmin,
    parts: Parts,
    Json(input): Json<NodeInput>,
) -> Result<(StatusCode, Json<Made>), ApiError> {
    let origin = origin(&parts, Some(&caller));
    let node = if let Some(host) = input.host {
        let new =
            NewEnrolment { name: input.name, host, region: input.region, size: input.size, services: input.services };
        let enrolled = state.gpu.enrol(&origin, new).await?;
        ProvisionedView::new(&enrolled.node, Some(enrolled.secret.expose_secret().to_owned()))
    } else {
        if input.services.is_some() {
            return Err(ApiError::bad_request("services: only together with host").code("VALIDATION_ERROR"));
        }
        let new = NewProvision { name: input.name, region: input.region, size: input.size };
        ProvisionedView::new(&state.gpu.provision(&origin, new).await?, None)
    };
    Ok((StatusCode::CREATED, Json(Made { success: true, node })))
}

/// The provider's regions that have machines with cards.
#[utoipa::path(get, path = "/api/admin/gpu/regions", tag = "gpu",
    responses((status = 200, body = Regions), (status = 503, description = "No provider is configured, or it is away")),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"])))]
async fn regions(State(state): State<AppState>, _admin: PlatformAdmin) -> Result<Json<Regions>, ApiError> {
    let regions = state.gpu.regions().await?.into_iter().map(RegionView::from).collect();
    Ok(Json(Regions { success: true, regions }))
}

/// The provider's machines with cards.
#[utoipa::path(get, path = "/api/admin/gpu/sizes", tag = "gpu",
    responses((status = 200, body = Sizes), (status = 503, description = "No provider is configured, or it is away")),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"])))]
async fn sizes(State(state): State<AppState>, _admin: PlatformAdmin) -> Result<Json<Sizes>, ApiError> {
    let sizes = state.gpu.sizes().await?.into_iter().map(SizeView::from).collect();
    Ok(Json(Sizes { success: true, sizes }))
}

/// One node.
#[utoipa::path(get, path = "/api/admin/gpu/{nodeId}", tag = "gpu", params(("nodeId" = String, Path,)),
    responses((status = 200, body = OneNode), (status = 404, description = "No such node")),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"])))]
async fn get(
    State(state): State<AppState>,
    _admin: PlatformAdmin,
    Path(id): Path<String>,
) -> Result<Json<OneNode>, ApiError> {
    let node = GpuNodeView::from(&state.gpu.get(&id).await?);
    Ok(Json(OneNode { success: true, node }))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
struct DestroyQuery {
    /// Also a node that is being made or set up.
    #[serde(default)]
    force: bool,
}

/// Removes a node, and its machine if it was made here; that goes on in the background.
#[utoipa::path(delete, path = "/api/admin/gpu/{nodeId}", tag = "gpu",
    params(("nodeId" = String, Path,), DestroyQuery),
    responses(
        (status = 200, body = Done),
        (status = 404, description = "No such node"),
        (status = 409, description = "It is being made or set up"),
    ),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"])))]
async fn destroy(
    State(state): State<AppState>,
    PlatformAdmin(caller): PlatformAdmin,
    parts: Parts,
    Path(id): Path<String>,
    Query(query): Query<DestroyQuery>,
) -> Result<Json<Done>, ApiError> {
    state.gpu.destroy(&origin(&parts, Some(&caller)), &id, query.force).await?;
    Ok(Json(Done { success: true }))
}

/// Reboots a node's machine.
#[utoipa::path(post, path = "/api/admin/gpu/{nodeId}/reboot", tag = "gpu", params(("nodeId" = String, Path,)),
    responses(
        (status = 200, body = Said),
        (status = 400, description = "It has no machine at the provider"),
        (status = 404, description = "No such node"),
    ),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"])))]
async fn reboot(
    State(state): State<AppState>,
    PlatformAdmin(caller): PlatformAdmin,
    parts: Parts,
    Path(id): Path<String>,
) -> Result<Json<Said>, ApiError> {
    state.gpu.reboot(&origin(&parts, Some(&caller)), &id).await?;
    Ok(Json(Said { success: true, message: format!("Reboot initiated for GPU node {id}") }))
}

/// Takes a node back that was given up.
#[utoipa::path(post, path = "/api/admin/gpu/{nodeId}/readmit", tag = "gpu", params(("nodeId" = String, Path,)),
    responses(
        (status = 200, body = OneNode),
        (status = 404, description = "No such node"),
        (status = 409, description = "It was not given up"),
    ),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"])))]
async fn readmit(
    State(state): State<AppState>,
    PlatformAdmin(caller): PlatformAdmin,
    parts: Parts,
    Path(id): Path<String>,
) -> Result<Json<OneNode>, ApiError> {
    let node = state.gpu.readmit(&origin(&parts, Some(&caller)), &id).await?;
    Ok(Json(OneNode { success: true, node: GpuNodeView::from(&node) }))
}
