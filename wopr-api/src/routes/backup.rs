//! Snapshots for the tenants whose bots they are, and backups for operators.

mod views;

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wopr_core::audit::Origin;
use wopr_core::backup::{BackupError, BackupStatus, NewRestore, PLATFORM, Restore, RestorePhase, Snapshot};
use wopr_core::fleet::container::container_name;
use wopr_core::ids::{BotId, RestoreId, SnapshotId, TenantId};

use self::views::{Alert, Archive, BackupView, RestoreEntry, RestoreOutcome, SnapshotView};
use crate::error::{ApiError, Issue};
use crate::extract::{Caller, Json, Path, PlatformAdmin, Query, ReadCaller, WriteCaller, origin};
use crate::state::AppState;
use crate::trpc::{Access, Context, Procedures};

/// How long a procedure waits for a restore before it answers that it goes on.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it looks.
const PACE: Duration = Duration::from_millis(200);
/// Restores listed unless told otherwise.
const DEFAULT_RESTORES: u32 = 50;

pub(crate) fn procedures(p: &mut Procedures) {
    p.query("admin.restoreListSnapshots", Access::PlatformAdmin, restore_list_snapshots);
    p.mutation("admin.restoreFromSnapshot", Access::PlatformAdmin, restore_from_snapshot);
    p.query("admin.restoreHistory", Access::PlatformAdmin, restore_history);
}

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_of_bot, create_of_bot))
        .routes(routes!(delete_of_bot))
        .routes(routes!(list_of_instance, create_of_instance))
        .routes(routes!(delete_of_instance))
        .routes(routes!(restore_instance))
        .routes(routes!(list_backups))
        .routes(routes!(stale_alerts))
        .routes(routes!(get_backup))
        .routes(routes!(list_archives, create_archive))
        .routes(routes!(note_proof))
        .routes(routes!(restore_archive))
}

fn bot_id(text: &str) -> Result<BotId, ApiError> {
    text.parse().map_err(|_| ApiError::not_found("Bot not found"))
}

fn snapshot_id(text: &str) -> Result<SnapshotId, ApiError> {
    text.parse().map_err(|_| ApiError::not_found("Snapshot not found"))
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Snapshots {
    snapshots: Vec<SnapshotView>,
}

/// A snapshot of a bot.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
struct SnapshotInput {
    /// What it is called, at most 128 characters.
    name: Option<String>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct Created {
    snapshot: SnapshotView,
    /// What keeping it costs: nothing is charged for snapshots.
    #[schema(example = "$0.00/month")]
    estimated_monthly_cost: String,
}

/// Why an instance's snapshot is made.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
struct TriggerInput {
    /// `manual`; the platform makes its own by itself.
    trigger: Option<String>,
}

async fn list_snapshots(state: &AppState, caller: &Caller, bot: &str) -> Result<Json<Snapshots>, ApiError> {
    let snapshots = state.backups.list(caller.tenant()?, bot_id(bot)?).await?;
    Ok(Json(Snapshots { snapshots: snapshots.iter().map(SnapshotView::from).collect() }))
}

async fn delete_snapshot(
    state: &AppState,
    caller: &Caller,
    origin: &Origin,
    bot: &str,
    snapshot: &str,
) -> Result<StatusCode, ApiError> {
    let (tenant, bot) = (caller.tenant()?, bot_id(bot)?);
    // Whose bot it is is told in the same words as for the other routes.
    state.fleet.get(tenant, bot).await?;
    state.backups.delete(origin, tenant, bot, snapshot_id(snapshot)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A bot's snapshots, the newest first.
#[utoipa::path(get, path = "/api/bots/{id}/snapshots", tag = "snapshots", params(("id" = String, Path,)),
    responses((status = 200, body = Snapshots), (status = 404, description = "No such bot")),
    security(("bearer" = ["read"]), ("session" = ["read"])))]
async fn list_of_bot(
    State(state): State<AppState>,
    ReadCaller(caller): ReadCaller,
    Path(id): Path<String>,
) -> Result<Json<Snapshots>, ApiError> {
    list_snapshots(&state, &caller, &id).await
}

/// Makes a snapshot of a bot as soon as possible.
#[utoipa::path(post, path = "/api/bots/{id}/snapshots", tag = "snapshots", params(("id" = String, Path,)),
    request_body = SnapshotInput,
    responses(
        (status = 201, body = Created),
        (status = 402, description = "There is no credit"),
        (status = 403, description = "There are as many as the plan has room for"),
        (status = 404, description = "No such bot"),
    ),
    security(("bearer" = ["write"]), ("session" = ["write"])))]
async fn create_of_bot(
    State(state): State<AppState>,
    WriteCaller(caller): WriteCaller,
    parts: Parts,
    Path(id): Path<String>,
    Json(input): Json<SnapshotInput>,
) -> Result<(StatusCode, Json<Created>), ApiError> {
    let origin = origin(&parts, Some(&caller));
    let snapshot = state.backups.want(&origin, caller.tenant()?, bot_id(&id)?, input.name).await?;
    let created = Created { snapshot: SnapshotView::from(&snapshot), estimated_monthly_cost: "$0.00/month".to_owned() };
    Ok((StatusCode::CREATED, Json(created)))
}

/// Deletes a snapshot that was made on demand.
#[utoipa::path(delete, path = "/api/bots/{id}/snapshots/{snapId}", tag = "snapshots",
    params(("id" = String, Path,), ("snapId" = String, Path,)),
    responses(
        (status = 204),
        (status = 403, description = "It was not made on demand"),
        (status = 404, description = "No such bot or snapshot"),
    ),
    security(("bearer" = ["write"]), ("session" = ["write"])))]
async fn delete_of_bot(
    State(state): State<AppState>,
    WriteCaller(caller): WriteCaller,
    parts: Parts,
    Path((id, snapshot)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    delete_snapshot(&state, &caller, &origin(&parts, Some(&caller)), &id, &snapshot).await
}

/// As `GET /api/bots/{id}/snapshots`.
#[utoipa::path(get, path = "/api/instances/{id}/snapshots", tag = "snapshots", params(("id" = String, Path,)),
    responses((status = 200, body = Snapshots), (status = 404, description = "No such bot")),
    security(("bearer" = ["read"]), ("session" = ["read"])))]
async fn list_of_instance(
    State(state): State<AppState>,
    ReadCaller(caller): ReadCaller,
    Path(id): Path<String>,
) -> Result<Json<Snapshots>, ApiError> {
    list_snapshots(&state, &caller, &id).await
}

/// As `POST /api/bots/{id}/snapshots`, without a name, and answers the snapshot alone.
#[utoipa::path(post, path = "/api/instances/{id}/snapshots", tag = "snapshots", params(("id" = String, Path,)),
    request_body = TriggerInput,
    responses(
        (status = 201, body = SnapshotView),
        (status = 402, description = "There is no credit"),
        (status = 403, description = "There are as many as the plan has room for, or the trigger is not manual"),
        (status = 404, description = "No such bot"),
    ),
    security(("bearer" = ["write"]), ("session" = ["write"])))]
async fn create_of_instance(
    State(state): State<AppState>,
    WriteCaller(caller): WriteCaller,
    parts: Parts,
    Path(id): Path<String>,
    Json(input): Json<TriggerInput>,
) -> Result<(StatusCode, Json<SnapshotView>), ApiError> {
    match input.trigger.as_deref() {
        None | Some("manual") => {}
        Some("scheduled" | "pre_update") => {
            return Err(ApiError::forbidden("The platform makes these by itself"));
        }
        Some(_) => {
            let issue = Issue::field("trigger", "one of manual, scheduled, pre_update");
            return Err(ApiError::invalid_input(vec![issue]));
        }
    }
    let origin = origin(&parts, Some(&caller));
    let snapshot = state.backups.want(&origin, caller.tenant()?, bot_id(&id)?, None).await?;
    Ok((StatusCode::CREATED, Json(SnapshotView::from(&snapshot))))
}

/// As `DELETE /api/bots/{id}/snapshots/{snapId}`.
#[utoipa::path(delete, path = "/api/instances/{id}/snapshots/{snapId}", tag = "snapshots",
    params(("id" = String, Path,), ("snapId" = String, Path,)),
    responses(
        (status = 204),
        (status = 403, description = "It was not made on demand"),
        (status = 404, description = "No such bot or snapshot"),
    ),
    security(("bearer" = ["write"]), ("session" = ["write"])))]
async fn delete_of_instance(
    State(state): State<AppState>,
    WriteCaller(caller): WriteCaller,
    parts: Parts,
    Path((id, snapshot)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    delete_snapshot(&state, &caller, &origin(&parts, Some(&caller)), &id, &snapshot).await
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Restoring {
    ok: bool,
    /// The snapshot.
    restored: String,
    /// The restore, which goes on in the background.
    #[serde(rename = "restoreId")]
    restore_id: String,
}

/// Gives a bot the data of one of its snapshots. That goes on in the background; what the bot has now is copied before.
#[utoipa::path(post, path = "/api/instances/{id}/snapshots/{snapId}/restore", tag = "snapshots",
    params(("id" = String, Path,), ("snapId" = String, Path,)),
    responses(
        (status = 202, body = Restoring),
        (status = 404, description = "No such bot or snapshot"),
        (status = 409, description = "The snapshot is not complete, or the bot is being restored already"),
    ),
    security(("bearer" = ["write"]), ("session" = ["write"])))]
async fn restore_instance(
    State(state): State<AppState>,
    WriteCaller(caller): WriteCaller,
    parts: Parts,
    Path((id, snapshot)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Restoring>), ApiError> {
    let (tenant, bot) = (caller.tenant()?, bot_id(&id)?);
    state.fleet.get(tenant, bot).await?;
    let snapshot = state.backups.get(tenant, bot, snapshot_id(&snapshot)?).await?;
    let origin = origin(&parts, Some(&caller));
    let restore = state.backups.restore(&origin, NewRestore { snapshot: snapshot.id, reason: None }).await?;
    let restoring = Restoring { ok: true, restored: snapshot.id.to_string(), restore_id: restore.id.to_string() };
    Ok((StatusCode::ACCEPTED, Json(restoring)))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
struct StaleQuery {
    /// Only those with which something is wrong.
    #[serde(default)]
    stale: bool,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct Backups {
    backups: Vec<BackupView>,
    total: usize,
    stale_count: usize,
}

/// How it stands with the database's backups, where there are any, and with every bot's.
async fn all_views(state: &AppState) -> Result<Vec<BackupView>, ApiError> {
    let now = state.clock.now();
    let database = state.backups.database_status().await?;
    let bots = state.backups.statuses().await?;
    let database = database.iter().map(|status| BackupView::of_database(status, now));
    Ok(database.chain(bots.iter().map(|status| BackupView::new(status, now))).collect())
}

/// How it stands with every bot's backups, and with those of the database, which is called `platform`.
#[utoipa::path(get, path = "/api/admin/backups", tag = "backups", params(StaleQuery),
    responses((status = 200, body = Backups)),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"])))]
async fn list_backups(
    State(state): State<AppState>,
    _admin: PlatformAdmin,
    Query(query): Query<StaleQuery>,
) -> Result<Json<Backups>, ApiError> {
    let all = all_views(&state).await?;
    let stale_count = all.iter().filter(|view| view.is_stale()).count();
    let backups: Vec<_> = all.into_iter().filter(|view| !query.stale || view.is_stale()).collect();
    Ok(Json(Backups { total: backups.len(), backups, stale_count }))
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Alerts {
    alerts: Vec<Alert>,
    count: usize,
}

/// Bots whose last attempt failed, or whose last snapshot is older than a day; and the database, if that is so with it.
#[utoipa::path(get, path = "/api/admin/backups/alerts/stale", tag = "backups",
    responses((status = 200, body = Alerts)),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"])))]
async fn stale_alerts(State(state): State<AppState>, _admin: PlatformAdmin) -> Result<Json<Alerts>, ApiError> {
    let all = all_views(&state).await?;
    let alerts: Vec<_> = all.into_iter().filter(BackupView::is_stale).map(Alert::from).collect();
    Ok(Json(Alerts { count: alerts.len(), alerts }))
}

/// The bot whose container that is: `wopr-bot-` and the bot's id, or the id alone.
fn bot_of_container(container: &str) -> Result<BotId, ApiError> {
    let id = container.strip_prefix("wopr-bot-").unwrap_or(container);
    id.parse().map_err(|_| ApiError::not_found("Backup not found"))
}

async fn status_of(state: &AppState, container: &str) -> Result<BackupStatus, ApiError> {
    let bot = bot_of_container(container)?;
    let statuses = state.backups.statuses().await?;
    let found = statuses.into_iter().find(|status| status.bot_id == bot);
    found.ok_or_else(|| ApiError::not_found("Backup not found"))
}

/// How it stands with one bot's backups, or with those of the database, `platform`.
#[utoipa::path(get, path = "/api/admin/backups/{containerId}", tag = "backups", params(("containerId" = String, Path,)),
    responses((status = 200, body = BackupView), (status = 404, description = "No such bot")),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"])))]
async fn get_backup(
    State(state): State<AppState>,
    _admin: PlatformAdmin,
    Path(container): Path<String>,
) -> Result<Json<BackupView>, ApiError> {
    if container == PLATFORM {
        let status = state.backups.database_status().await?.ok_or(BackupError::Off)?;
        return Ok(Json(BackupView::of_database(&status, state.clock.now())));
    }
    let status = status_of(&state, &container).await?;
    Ok(Json(BackupView::new(&status, state.clock.now())))
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct Archives {
    container_id: String,
    snapshots: Vec<Archive>,
}

/// What of a bot can be restored, the newest first; also of a bot that was destroyed. Of `platform`: the sets of the database.
#[utoipa::path(get, path = "/api/admin/backups/{containerId}/snapshots", tag = "backups",
    params(("containerId" = String, Path,)),
    responses((status = 200, body = Archives), (status = 404, description = "No such bot")),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"])))]
async fn list_archives(
    State(state): State<AppState>,
    _admin: PlatformAdmin,
    Path(container): Path<String>,
) -> Result<Json<Archives>, ApiError> {
    if container == PLATFORM {
        let sets = state.backups.list_database_sets().await?;
        return Ok(Json(Archives { container_id: container, snapshots: sets.iter().map(Archive::from).collect() }));
    }
    let bot = bot_of_container(&container)?;
    let snapshots = state.backups.list_ready(bot).await?;
    Ok(Json(Archives { container_id: container_name(bot), snapshots: snapshots.iter().map(Archive::from).collect() }))
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct SetWanted {
    ok: bool,
    container_id: String,
    /// Where it will be among `GET /api/admin/backups/platform/snapshots`.
    path: String,
}

/// The path's container must be the database: what a bot keeps is saved for its tenant.
fn require_platform(container: &str) -> Result<(), ApiError> {
    if container == PLATFORM { Ok(()) } else { Err(ApiError::not_found("Backup not found")) }
}

/// Copies the database, `platform`, as soon as possible.
#[utoipa::path(post, path = "/api/admin/backups/{containerId}/snapshots", tag = "backups",
    params(("containerId" = String, Path,)),
    responses((status = 202, body = SetWanted), (status = 404, description = "It is not the database")),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"])))]
async fn create_archive(
    State(state): State<AppState>,
    PlatformAdmin(caller): PlatformAdmin,
    parts: Parts,
    Path(container): Path<String>,
) -> Result<(StatusCode, Json<SetWanted>), ApiError> {
    require_platform(&container)?;
    let set = state.backups.want_database(&origin(&parts, Some(&caller))).await?;
    Ok((StatusCode::ACCEPTED, Json(SetWanted { ok: true, container_id: container, path: set.path() })))
}

/// What was restored.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct ProofInput {
    /// A path as `GET /api/admin/backups/platform/snapshots` lists them, or the one of `archive` in
    /// `GET /api/admin/backups/platform`.
    remote_path: String,
}

/// Notes that a set of the database was restored into another database, and that every row was there then; or that a copy
/// of its files was brought to an instant there: whoever did that says so.
#[utoipa::path(post, path = "/api/admin/backups/{containerId}/proofs", tag = "backups", request_body = ProofInput,
    params(("containerId" = String, Path,)),
    responses((status = 204), (status = 404, description = "It is not the database, or there is no such set or copy")),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"])))]
async fn note_proof(
    State(state): State<AppState>,
    PlatformAdmin(caller): PlatformAdmin,
    parts: Parts,
    Path(container): Path<String>,
    Json(input): Json<ProofInput>,
) -> Result<StatusCode, ApiError> {
    require_platform(&container)?;
    let origin = origin(&parts, Some(&caller));
    let sets = state.backups.list_database_sets().await?;
    match sets.iter().find(|set| set.path() == input.remote_path) {
        Some(set) => state.backups.note_database_restored(&origin, set.id).await?,
        None => state.backups.note_base_restored(&origin, &input.remote_path).await?,
    }
    Ok(StatusCode::NO_CONTENT)
}

/// What is restored.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct RestoreInput {
    /// A path as `GET /api/admin/backups/{containerId}/snapshots` lists them.
    remote_path: Option<String>,
    /// The machine it is restored on: there is one.
    target_node_id: Option<String>,
    /// Why, for whoever reads the history.
    reason: Option<String>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct RestoreStarted {
    ok: bool,
    message: String,
    container_id: String,
    remote_path: String,
    target_node_id: String,
    /// The restore, which goes on in the background.
    restore_id: String,
}

/// Gives a bot the data of a snapshot. That goes on in the background; `admin.restoreHistory` tells how it went.
#[utoipa::path(post, path = "/api/admin/backups/{containerId}/restore", tag = "backups", request_body = RestoreInput,
    params(("containerId" = String, Path,)),
    responses(
        (status = 202, body = RestoreStarted),
        (status = 400, description = "There is no path"),
        (status = 403, description = "The path is not this container's"),
        (status = 404, description = "No such bot or snapshot"),
        (status = 409, description = "The bot is being restored already, or it is the database"),
    ),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"])))]
async fn restore_archive(
    State(state): State<AppState>,
    PlatformAdmin(caller): PlatformAdmin,
    parts: Parts,
    Path(container): Path<String>,
    Json(input): Json<RestoreInput>,
) -> Result<(StatusCode, Json<RestoreStarted>), ApiError> {
    let path = input.remote_path.filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| ApiError::bad_request("remotePath is required").code("VALIDATION_ERROR"))?;
    if container == PLATFORM {
        let message = "The database is restored into an empty one, with wopr-backup, while the platform is stopped";
        return Err(ApiError::conflict(message).code("NOT_WHILE_RUNNING"));
    }
    let bot = bot_of_container(&container)?;
    let snapshots = state.backups.list_ready(bot).await?;
    let snapshot = find_by_path(&snapshots, bot, &path)?;
    let origin = origin(&parts, Some(&caller));
    let restore = state.backups.restore(&origin, NewRestore { snapshot: snapshot.id, reason: input.reason }).await?;
    let started = RestoreStarted {
        ok: true,
        message: format!("Restore of {} initiated", container_name(bot)),
        container_id: container_name(bot),
        remote_path: path,
        target_node_id: input.target_node_id.unwrap_or_else(|| "auto".to_owned()),
        restore_id: restore.id.to_string(),
    };
    Ok((StatusCode::ACCEPTED, Json(started)))
}

/// The snapshot of that path among one bot's.
fn find_by_path<'s>(snapshots: &'s [Snapshot], bot: BotId, path: &str) -> Result<&'s Snapshot, ApiError> {
    let found = snapshots.iter().find(|snapshot| snapshot.path() == path);
    found.ok_or_else(|| {
        if path.split('/').any(|segment| segment == container_name(bot)) {
            ApiError::not_found("Snapshot not found")
        } else {
            ApiError::forbidden("The path is not this container's")
        }
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TenantInput {
    tenant_id: TenantId,
}

#[derive(Debug, Serialize)]
struct KeyedSnapshots {
    snapshots: Vec<KeyedArchive>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyedArchive {
    key: String,
    #[serde(flatten)]
    archive: Archive,
}

async fn restore_list_snapshots(cx: Context, input: TenantInput) -> Result<KeyedSnapshots, ApiError> {
    let snapshots = cx.state.backups.list_ready_of_tenant(input.tenant_id).await?;
    let keyed = |snapshot| KeyedArchive { key: Snapshot::path(snapshot), archive: Archive::from(snapshot) };
    Ok(KeyedSnapshots { snapshots: snapshots.iter().map(keyed).collect() })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FromSnapshotInput {
    tenant_id: TenantId,
    snapshot_key: String,
    reason: Option<String>,
    confirm_restore: String,
}

async fn restore_from_snapshot(cx: Context, input: FromSnapshotInput) -> Result<RestoreOutcome, ApiError> {
    let confirmation = format!("RESTORE {}", input.tenant_id);
    if input.confirm_restore != confirmation {
        let issue = Issue::field("confirmRestore", format!("must be {confirmation}"));
        return Err(ApiError::invalid_input(vec![issue]));
    }
    let snapshots = cx.state.backups.list_ready_of_tenant(input.tenant_id).await?;
    let snapshot = snapshots.iter().find(|snapshot| snapshot.path() == input.snapshot_key);
    let snapshot = snapshot.ok_or_else(|| ApiError::not_found("Snapshot not found"))?;
    let new = NewRestore { snapshot: snapshot.id, reason: input.reason };
    let restore = cx.state.backups.restore(&cx.origin, new).await?;
    let ended = tokio::time::timeout(PATIENCE, ended(&cx.state, restore.id)).await;
    let restore = ended.map_err(|_| {
        let message = format!("Restore {} goes on; admin.restoreHistory tells how it ends", restore.id);
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "TIMEOUT", message)
    })??;
    let before = match restore.safety_id {
        Some(id) => Some(cx.state.backups.get(restore.tenant_id, restore.bot_id, id).await?.path()),
        None => None,
    };
    Ok(RestoreOutcome::new(&restore, input.snapshot_key, before))
}

/// Waits for the end of a restore.
async fn ended(state: &AppState, id: RestoreId) -> Result<Restore, ApiError> {
    loop {
        if let Some(restore) = state.backups.find_restore(id).await?
            && matches!(restore.phase, RestorePhase::Done | RestorePhase::Failed)
        {
            return Ok(restore);
        }
        tokio::time::sleep(PACE).await;
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HistoryInput {
    tenant_id: TenantId,
    limit: Option<u32>,
}

#[derive(Debug, Serialize)]
struct History {
    entries: Vec<RestoreEntry>,
}

async fn restore_history(cx: Context, input: HistoryInput) -> Result<History, ApiError> {
    let limit = input.limit.unwrap_or(DEFAULT_RESTORES);
    if !(1..=250).contains(&limit) {
        return Err(ApiError::invalid_input(vec![Issue::field("limit", "from 1 to 250")]));
    }
    let restores = cx.state.backups.list_restores(input.tenant_id, limit).await?;
    let mut entries = Vec::new();
    for restore in restores {
        let path = async |id: Option<SnapshotId>| -> Result<Option<String>, BackupError> {
            let Some(id) = id else { return Ok(None) };
            Ok(cx.state.backups.find(id).await?.map(|snapshot| snapshot.path()))
        };
        let (from, before) = (path(Some(restore.snapshot_id)).await?, path(restore.safety_id).await?);
        entries.push(RestoreEntry::new(&restore, from, before));
    }
    Ok(History { entries })
}
