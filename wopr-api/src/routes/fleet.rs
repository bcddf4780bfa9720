//! Bots over tRPC and REST.

mod images;
mod views;

use std::collections::BTreeMap;

use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wopr_core::audit::Origin;
use wopr_core::billing::ResourceTier;
use wopr_core::fleet::tiers::Limits;
use wopr_core::fleet::{Bot, BotChange, Discovery, FleetError, InvalidSetting, NewBot};
use wopr_core::ids::{BotId, TenantId};

use self::views::{BotHealth, BotMetrics, BotProfile, BotStatus, LogEntry};
use crate::error::{ApiError, Issue};
use crate::extract::{Caller, Json, Path, Principal, Query, ReadCaller, WriteCaller};
use crate::state::AppState;
use crate::trpc::{Access, Context, NoInput, Procedures};

/// Lines of a log answered unless told otherwise.
const DEFAULT_TAIL: u32 = 100;
/// The most lines of a log answered at once.
const MAX_TAIL: u32 = 10_000;
/// Bots whose statistics are asked for at the same time.
const PARALLEL_STATS: usize = 8;

pub(crate) fn procedures(p: &mut Procedures) {
    p.query("fleet.listInstances", Access::Tenant, list_instances);
    p.query("fleet.getInstance", Access::Tenant, get_instance);
    p.mutation("fleet.createInstance", Access::Tenant, create_instance);
    p.mutation("fleet.controlInstance", Access::Tenant, control_instance);
    p.mutation("fleet.rotateServiceKey", Access::Tenant, rotate_key);
    p.query("fleet.getInstanceHealth", Access::Tenant, get_instance_health);
    p.query("fleet.getInstanceLogs", Access::Tenant, get_instance_logs);
    p.query("fleet.getInstanceMetrics", Access::Tenant, get_instance_metrics);
    p.query("fleet.listResourceTiers", Access::Tenant, list_resource_tiers);
}

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, change, destroy))
        .routes(routes!(start))
        .routes(routes!(stop))
        .routes(routes!(restart))
        .routes(routes!(rest_rotate_key))
        .merge(images::router())
        .routes(routes!(health))
        .routes(routes!(metrics))
        .routes(routes!(logs))
}

/// A caller that may change things, and where the request came from.
struct Writer {
    caller: Caller,
    origin: Origin,
}

impl FromRequestParts<AppState> for Writer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let WriteCaller(caller) = WriteCaller::from_request_parts(parts, state).await?;
        let origin = crate::extract::origin(parts, Some(&caller));
        Ok(Self { caller, origin })
    }
}

/// What makes a bot. The tenant comes from the credential.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct BotInput {
    id: Option<String>,
    name: String,
    #[serde(default)]
    description: String,
    image: String,
    #[serde(default)]
    env: BTreeMap<String, String>,
    restart_policy: Option<String>,
    release_channel: Option<String>,
    update_policy: Option<String>,
    discovery: Option<DiscoveryInput>,
    /// Accepted if it is the caller's own; an operator bound to no tenant names one with it.
    tenant_id: Option<TenantText>,
}

/// A tenant as callers write it; what is none of ours is nobody's.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
struct TenantText(String);

#[derive(Debug, Deserialize, utoipa::ToSchema)]
struct DiscoveryInput {
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default)]
    topics: Vec<String>,
}

const fn yes() -> bool {
    true
}

impl DiscoveryInput {
    fn read(self) -> Result<Discovery, ApiError> {
        Discovery::new(self.enabled, self.topics).map_err(invalid)
    }
}

fn invalid(error: InvalidSetting) -> ApiError {
    FleetError::from(error).into()
}

fn word<T: std::str::FromStr<Err = InvalidSetting>>(text: Option<String>) -> Result<Option<T>, ApiError> {
    text.map(|text| text.parse().map_err(invalid)).transpose()
}

impl BotInput {
    fn read(self, caller: &Caller) -> Result<NewBot, ApiError> {
        let id = self.id.map(|id| id.parse()).transpose();
        let id = id.map_err(|_| ApiError::invalid_input(vec![Issue::field("id", "not a UUID")]))?;
        let defaults = NewBot::new(self.name, self.image);
        Ok(NewBot {
            id,
            description: self.description,
            env: self.env,
            restart_policy: word(self.restart_policy)?.unwrap_or(defaults.restart_policy),
            release_channel: word(self.release_channel)?.unwrap_or(defaults.release_channel),
            update_policy: word(self.update_policy)?.unwrap_or(defaults.update_policy),
            discovery: self.discovery.map(DiscoveryInput::read).transpose()?,
            created_by: match &caller.principal {
                Principal::User(signed_in) => Some(signed_in.user.id),
                Principal::Key(_) => None,
            },
            ..defaults
        })
    }
}

/// What changes a bot.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct BotPatch {
    name: Option<String>,
    description: Option<String>,
    image: Option<String>,
    env: Option<BTreeMap<String, String>>,
    restart_policy: Option<String>,
    release_channel: Option<String>,
    update_policy: Option<String>,
    discovery: Option<DiscoveryInput>,
}

impl BotPatch {
    fn read(self) -> Result<BotChange, ApiError> {
        Ok(BotChange {
            name: self.name,
            description: self.description,
            image: self.image,
            env: self.env,
            restart_policy: word(self.restart_policy)?,
            release_channel: word(self.release_channel)?,
            update_policy: word(self.update_policy)?,
            discovery: self.discovery.map(DiscoveryInput::read).transpose()?.map(Some),
        })
    }
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct BotList {
    bots: Vec<BotStatus>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Done {
    ok: bool,
}

const DONE: Done = Done { ok: true };

async fn statuses(state: &AppState, bots: Vec<Bot>) -> BotList {
    let fleet = &state.fleet;
    let views = futures_util::stream::iter(bots).map(|bot| async move {
        let usage = fleet.stats_of(&bot).await;
        BotStatus::new(&bot, fleet.host_name(&bot.name, bot.id), usage)
    });
    BotList { bots: views.buffered(PARALLEL_STATS).collect().await }
}

async fn status(state: &AppState, bot: &Bot) -> BotStatus {
    let host_name = state.fleet.host_name(&bot.name, bot.id);
    BotStatus::new(bot, host_name, state.fleet.stats_of(bot).await)
}

#[derive(Debug, Deserialize)]
struct One {
    id: String,
}

/// An id that is none is refused before anything is asked.
fn bot_id(text: &str) -> Result<BotId, ApiError> {
    text.parse().map_err(|_| ApiError::bad_request("Invalid bot ID"))
}

/// `fleet.listInstances`
async fn list_instances(cx: Context, _input: NoInput) -> Result<BotList, ApiError> {
    let tenant = cx.tenant(None)?;
    let bots = cx.state.fleet.list(Some(tenant)).await?;
    Ok(statuses(&cx.state, bots).await)
}

/// `fleet.getInstance`
async fn get_instance(cx: Context, input: One) -> Result<BotStatus, ApiError> {
    let bot = cx.state.fleet.get(cx.tenant(None)?, bot_id(&input.id)?).await?;
    Ok(status(&cx.state, &bot).await)
}

/// `REQUIRE_VERIFIED_EMAIL`: a person proves an address before a bot is made; keys were given by somebody who may.
fn require_verified_email(state: &AppState, caller: &Caller) -> Result<(), ApiError> {
    match &caller.principal {
        Principal::User(person) if state.config.require_verified_email && person.user.email_verified_at.is_none() => {
            Err(ApiError::forbidden("Email verification required").code("EMAIL_NOT_VERIFIED"))
        }
        _ => Ok(()),
    }
}

/// `fleet.createInstance`
async fn create_instance(cx: Context, input: BotInput) -> Result<BotProfile, ApiError> {
    let tenant = cx.tenant(None)?;
    require_verified_email(&cx.state, cx.caller()?)?;
    let bot = cx.state.fleet.create(&cx.origin, tenant, input.read(cx.caller()?)?).await?;
    Ok(BotProfile::from(&bot))
}

#[derive(Debug, Deserialize)]
struct Control {
    id: String,
    action: Action,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Start,
    Stop,
    Restart,
    Destroy,
}

/// `fleet.controlInstance`
async fn control_instance(cx: Context, input: Control) -> Result<Done, ApiError> {
    let (tenant, id) = (cx.tenant(None)?, bot_id(&input.id)?);
    act(&cx.state, &cx.origin, tenant, id, input.action).await
}

async fn act(state: &AppState, origin: &Origin, tenant: TenantId, id: BotId, action: Action) -> Result<Done, ApiError> {
    let fleet = &state.fleet;
    match action {
        Action::Start => fleet.start(origin, tenant, id).await.map(drop)?,
        Action::Stop => fleet.stop(origin, tenant, id).await.map(drop)?,
        Action::Restart => fleet.restart(origin, tenant, id).await.map(drop)?,
        Action::Destroy => fleet.destroy(origin, tenant, id).await?,
    }
    Ok(DONE)
}

/// A bot is given another service key.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct Rotated {
    ok: bool,
    /// Until when the key before is good.
    previous_key_valid_until: String,
}

async fn rotate(state: &AppState, origin: &Origin, tenant: TenantId, id: BotId) -> Result<Rotated, ApiError> {
    let until = state.fleet.rotate_key(origin, tenant, id).await?;
    Ok(Rotated { ok: true, previous_key_valid_until: format!("{until:.3}") })
}

/// `fleet.rotateServiceKey`
async fn rotate_key(cx: Context, input: One) -> Result<Rotated, ApiError> {
    rotate(&cx.state, &cx.origin, cx.tenant(None)?, bot_id(&input.id)?).await
}

/// `POST /fleet/bots/{id}/rotate-key`
#[utoipa::path(post, path = "/fleet/bots/{id}/rotate-key", params(("id" = String, Path,)),
    responses((status = OK, body = Rotated), (status = NOT_FOUND, description = "No such bot")),
    security(("bearer" = ["write"]), ("session" = [])))]
async fn rest_rotate_key(
    State(state): State<AppState>,
    Writer { caller, origin }: Writer,
    Path(id): Path<String>,
) -> Result<Json<Rotated>, ApiError> {
    let id = bot_id(&id)?;
    let tenant = tenant_for(&state, &caller, id).await?;
    rotate(&state, &origin, tenant, id).await.map(Json)
}

/// `fleet.getInstanceHealth`
async fn get_instance_health(cx: Context, input: One) -> Result<BotHealth, ApiError> {
    let bot = cx.state.fleet.get(cx.tenant(None)?, bot_id(&input.id)?).await?;
    Ok(BotHealth::from(status(&cx.state, &bot).await))
}

#[derive(Debug, Serialize)]
struct LogLines {
    logs: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct LogInput {
    id: String,
    tail: Option<u32>,
}

/// `fleet.getInstanceLogs`
async fn get_instance_logs(cx: Context, input: LogInput) -> Result<LogLines, ApiError> {
    let tail = input.tail.unwrap_or(DEFAULT_TAIL);
    if !(1..=MAX_TAIL).contains(&tail) {
        let message = format!("a number from 1 to {MAX_TAIL}");
        return Err(ApiError::invalid_input(vec![Issue::field("tail", message)]));
    }
    let lines = cx.state.fleet.logs(cx.tenant(None)?, bot_id(&input.id)?, tail).await?;
    let lines = lines.into_iter().filter(|line| !line.message.trim().is_empty());
    let text = lines.map(|line| match line.at {
        Some(at) => format!("{at} [{}] {}", line.level.as_str().to_ascii_uppercase(), line.message),
        None => line.message,
    });
    Ok(LogLines { logs: text.collect() })
}

/// `fleet.getInstanceMetrics`
async fn get_instance_metrics(cx: Context, input: One) -> Result<BotMetrics, ApiError> {
    let bot = cx.state.fleet.get(cx.tenant(None)?, bot_id(&input.id)?).await?;
    Ok(BotMetrics::from(status(&cx.state, &bot).await))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TierView {
    key: &'static str,
    label: &'static str,
    memory_limit_mb: i64,
    cpu_quota: i64,
    daily_cost: i64,
    description: String,
}

/// `fleet.listResourceTiers`
async fn list_resource_tiers(_cx: Context, _input: NoInput) -> Result<Vec<TierView>, ApiError> {
    let tiers = ResourceTier::ALL.iter().map(|tier| {
        let limits = Limits::of(*tier);
        TierView {
            key: tier.as_str(),
            label: limits.label,
            memory_limit_mb: limits.memory_mib,
            cpu_quota: limits.cpu_quota_micros(),
            daily_cost: tier.per_day().as_cents_rounded(),
            description: format!("{} GB of memory, {} processors", limits.memory_mib / 1024, limits.processors),
        }
    });
    Ok(tiers.collect())
}

/// The tenant a REST caller means with a bot: its own, or for an operator bound to none, the bot's.
async fn tenant_for(state: &AppState, caller: &Caller, id: BotId) -> Result<TenantId, ApiError> {
    match caller.tenant_id {
        Some(tenant) => Ok(tenant),
        None if caller.platform_admin => Ok(state.fleet.tenant_of(id).await?),
        None => caller.tenant(),
    }
}

/// `GET /fleet/bots`
#[utoipa::path(get, path = "/fleet/bots", responses((status = OK, body = BotList)),
    security(("bearer" = ["read"]), ("session" = [])))]
async fn list(State(state): State<AppState>, ReadCaller(caller): ReadCaller) -> Result<Json<BotList>, ApiError> {
    let tenant = match caller.tenant_id {
        None if caller.platform_admin => None,
        _ => Some(caller.tenant()?),
    };
    let bots = state.fleet.list(tenant).await?;
    Ok(Json(statuses(&state, bots).await))
}

/// `POST /fleet/bots`
#[utoipa::path(post, path = "/fleet/bots", request_body = BotInput,
    responses((status = CREATED, body = BotProfile), (status = PAYMENT_REQUIRED, description = "Credit is short")),
    security(("bearer" = ["write"]), ("session" = [])))]
async fn create(
    State(state): State<AppState>,
    Writer { caller, origin }: Writer,
    Json(input): Json<BotInput>,
) -> Result<(StatusCode, Json<BotProfile>), ApiError> {
    let asked = input.tenant_id.as_ref().map(|text| text.0.parse());
    let asked = asked.transpose().map_err(|_| ApiError::forbidden("Access denied"))?;
    let tenant = caller.tenant_or_asked(asked)?;
    require_verified_email(&state, &caller)?;
    let bot = state.fleet.create(&origin, tenant, input.read(&caller)?).await?;
    Ok((StatusCode::CREATED, Json(BotProfile::from(&bot))))
}

/// `GET /fleet/bots/{id}`
#[utoipa::path(get, path = "/fleet/bots/{id}", params(("id" = String, Path,)),
    responses((status = OK, body = BotStatus), (status = NOT_FOUND, description = "No such bot")),
    security(("bearer" = ["read"]), ("session" = [])))]
async fn get(
    State(state): State<AppState>,
    ReadCaller(caller): ReadCaller,
    Path(id): Path<String>,
) -> Result<Json<BotStatus>, ApiError> {
    let id = bot_id(&id)?;
    let bot = state.fleet.get(tenant_for(&state, &caller, id).await?, id).await?;
    Ok(Json(status(&state, &bot).await))
}

/// `PATCH /fleet/bots/{id}`
#[utoipa::path(patch, path = "/fleet/bots/{id}", params(("id" = String, Path,)), request_body = BotPatch,
    responses((status = OK, body = BotProfile), (status = NOT_FOUND, description = "No such bot")),
    security(("bearer" = ["write"]), ("session" = [])))]
async fn change(
    State(state): State<AppState>,
    Writer { caller, origin }: Writer,
    Path(id): Path<String>,
    Json(patch): Json<BotPatch>,
) -> Result<Json<BotProfile>, ApiError> {
    let id = bot_id(&id)?;
    let tenant = tenant_for(&state, &caller, id).await?;
    let bot = state.fleet.update(&origin, tenant, id, patch.read()?).await?;
    Ok(Json(BotProfile::from(&bot)))
}

/// `DELETE /fleet/bots/{id}`: the bot with its data, whatever `removeVolumes` says.
#[utoipa::path(delete, path = "/fleet/bots/{id}", params(("id" = String, Path,)),
    responses((status = NO_CONTENT, description = "It goes"), (status = NOT_FOUND, description = "No such bot")),
    security(("bearer" = ["write"]), ("session" = [])))]
async fn destroy(
    State(state): State<AppState>,
    Writer { caller, origin }: Writer,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let id = bot_id(&id)?;
    act(&state, &origin, tenant_for(&state, &caller, id).await?, id, Action::Destroy).await?;
    Ok(StatusCode::NO_CONTENT)
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident, $path:literal, $action:expr;)+) => {$(
        $(#[$doc])*
        #[utoipa::path(post, path = $path, params(("id" = String, Path,)),
            responses((status = OK, body = Done), (status = NOT_FOUND, description = "No such bot")),
            security(("bearer" = ["write"]), ("session" = [])))]
        async fn $name(
            State(state): State<AppState>,
            Writer { caller, origin }: Writer,
            Path(id): Path<String>,
        ) -> Result<Json<Done>, ApiError> {
            let id = bot_id(&id)?;
            let tenant = tenant_for(&state, &caller, id).await?;
            act(&state, &origin, tenant, id, $action).await.map(Json)
        }
    )+};
}

actions! {
    /// `POST /fleet/bots/{id}/start`
    start, "/fleet/bots/{id}/start", Action::Start;
    /// `POST /fleet/bots/{id}/stop`
    stop, "/fleet/bots/{id}/stop", Action::Stop;
    /// `POST /fleet/bots/{id}/restart`
    restart, "/fleet/bots/{id}/restart", Action::Restart;
}

/// `GET /fleet/bots/{id}/health`
#[utoipa::path(get, path = "/fleet/bots/{id}/health", params(("id" = String, Path,)),
    responses((status = OK, body = BotHealth), (status = NOT_FOUND, description = "No such bot")),
    security(("bearer" = ["read"]), ("session" = [])))]
async fn health(
    State(state): State<AppState>,
    ReadCaller(caller): ReadCaller,
    Path(id): Path<String>,
) -> Result<Json<BotHealth>, ApiError> {
    let id = bot_id(&id)?;
    let bot = state.fleet.get(tenant_for(&state, &caller, id).await?, id).await?;
    Ok(Json(BotHealth::from(status(&state, &bot).await)))
}

/// `GET /fleet/bots/{id}/metrics`
#[utoipa::path(get, path = "/fleet/bots/{id}/metrics", params(("id" = String, Path,)),
    responses((status = OK, body = BotMetrics), (status = NOT_FOUND, description = "No such bot")),
    security(("bearer" = ["read"]), ("session" = [])))]
async fn metrics(
    State(state): State<AppState>,
    ReadCaller(caller): ReadCaller,
    Path(id): Path<String>,
) -> Result<Json<BotMetrics>, ApiError> {
    let id = bot_id(&id)?;
    let bot = state.fleet.get(tenant_for(&state, &caller, id).await?, id).await?;
    Ok(Json(BotMetrics::from(status(&state, &bot).await)))
}

#[derive(Debug, Deserialize)]
struct Tail {
    tail: Option<String>,
}

/// `GET /fleet/bots/{id}/logs`
#[utoipa::path(get, path = "/fleet/bots/{id}/logs", params(("id" = String, Path,), ("tail" = Option<u32>, Query,)),
    responses((status = OK, body = Vec<LogEntry>), (status = NOT_FOUND, description = "No such bot")),
    security(("bearer" = ["read"]), ("session" = [])))]
async fn logs(
    State(state): State<AppState>,
    ReadCaller(caller): ReadCaller,
    Path(id): Path<String>,
    Query(query): Query<Tail>,
) -> Result<Json<Vec<LogEntry>>, ApiError> {
    let id = bot_id(&id)?;
    // A number out of range is brought into it; what is no number counts as absent.
    let tail = query.tail.and_then(|tail| tail.parse::<i64>().ok()).map(|tail| tail.clamp(1, MAX_TAIL.into()));
    let tail = tail.and_then(|tail| u32::try_from(tail).ok()).unwrap_or(DEFAULT_TAIL);
    let lines = state.fleet.logs(tenant_for(&state, &caller, id).await?, id, tail).await?;
    Ok(Json(lines.into_iter().enumerate().map(|(number, line)| LogEntry::new(number, line)).collect()))
}
