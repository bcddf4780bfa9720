//! New images for bots, over REST.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wopr_core::audit::Origin;
use wopr_core::fleet::{Bot, ImageDigest, ImageStatus, Update};
use wopr_core::ids::{BotId, TenantId};

use super::{Writer, bot_id, tenant_for};
use crate::error::ApiError;
use crate::extract::{Json, Path, ReadCaller};
use crate::state::AppState;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(update)).routes(routes!(image_status))
}

/// What has become of an update.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct UpdateView {
    bot_id: String,
    success: bool,
    previous_image: String,
    new_image: String,
    previous_digest: Option<String>,
    /// Nothing for a bot that is stopped: that is found out when it starts.
    new_digest: Option<String>,
    rolled_back: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn digest(bot: &Bot) -> Option<String> {
    bot.spec.digest.as_ref().map(ImageDigest::to_string)
}

impl UpdateView {
    fn of(before: &Bot, now: &Bot, update: &Update) -> (StatusCode, Self) {
        let (status, error) = match update {
            Update::Done => (StatusCode::OK, None),
            Update::UnderWay(reason) => {
                let so_far = reason.as_ref().map(|reason| format!("; so far: {reason}")).unwrap_or_default();
                (StatusCode::ACCEPTED, Some(format!("It is not over yet{so_far}")))
            }
            Update::Superseded => (StatusCode::CONFLICT, Some("Another change of the bot came in between".to_owned())),
            Update::RolledBack(reason) => (StatusCode::INTERNAL_SERVER_ERROR, Some(reason.clone())),
        };
        let view = Self {
            bot_id: before.id.to_string(),
            success: *update == Update::Done,
            previous_image: before.spec.image.to_string(),
            new_image: now.spec.image.to_string(),
            previous_digest: digest(before),
            new_digest: digest(now),
            rolled_back: matches!(update, Update::RolledBack(_)),
            error,
        };
        (status, view)
    }
}

/// `POST /fleet/bots/{id}/update`: the bot runs what its image means now, or what it ran before. It is copied first.
#[utoipa::path(post, path = "/fleet/bots/{id}/update", params(("id" = String, Path,)),
    responses((status = OK, body = UpdateView), (status = ACCEPTED, body = UpdateView, description = "It is not over yet"),
        (status = CONFLICT, body = UpdateView, description = "Another change came in between"),
        (status = INTERNAL_SERVER_ERROR, body = UpdateView, description = "It was rolled back"),
        (status = SERVICE_UNAVAILABLE, description = "It is being copied first, or cannot be"),
        (status = NOT_FOUND, description = "No such bot")),
    security(("bearer" = ["write"]), ("session" = [])))]
async fn update(
    State(state): State<AppState>,
    Writer { caller, origin }: Writer,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<UpdateView>), ApiError> {
    let id = bot_id(&id)?;
    let tenant = tenant_for(&state, &caller, id).await?;
    let before = state.fleet.get(tenant, id).await?;
    // Short enough that the answer is in time; what takes longer goes on without it.
    let patience = Duration::from_secs(state.config.request_timeout_seconds.into()) / 3;
    save_before(&state, &origin, tenant, id, patience).await?;
    let updated = state.fleet.update_image(&origin, tenant, id).await?;
    let (now, update) = state.fleet.await_update(&updated, patience).await?;
    let (status, view) = UpdateView::of(&before, &now, &update);
    Ok((status, Json(view)))
}

/// Copies the bot first. A copy that takes longer than `patience` goes on; whoever asks again has it.
async fn save_before(
    state: &AppState,
    origin: &Origin,
    tenant: TenantId,
    id: BotId,
    patience: Duration,
) -> Result<(), ApiError> {
    let (backups, origin) = (state.backups.clone(), origin.clone());
    let saving = tokio::spawn(async move { backups.save_before_update(&origin, tenant, id).await });
    match tokio::time::timeout(patience, saving).await {
        Ok(Ok(saved)) => Ok(saved?),
        Ok(Err(error)) => Err(ApiError::internal(error)),
        Err(_) => Err(ApiError::unavailable("The bot is being copied before its update; ask again in a minute")),
    }
}

/// What a bot's image is, and what its name means by now.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct ImageStatusView {
    bot_id: String,
    current_digest: Option<String>,
    available_digest: String,
    update_available: bool,
    release_channel: &'static str,
    update_policy: &'static str,
    last_checked_at: String,
}

impl From<ImageStatus> for ImageStatusView {
    fn from(status: ImageStatus) -> Self {
        Self {
            bot_id: status.bot.id.to_string(),
            current_digest: digest(&status.bot),
            available_digest: status.available.to_string(),
            update_available: status.is_outdated(),
            release_channel: status.bot.release_channel.as_str(),
            update_policy: status.bot.update_policy.as_str(),
            last_checked_at: format!("{:.3}", status.checked_at),
        }
    }
}

/// `GET /fleet/bots/{id}/image-status`
#[utoipa::path(get, path = "/fleet/bots/{id}/image-status", params(("id" = String, Path,)),
    responses((status = OK, body = ImageStatusView), (status = NOT_FOUND, description = "No such bot"),
        (status = BAD_GATEWAY, description = "Neither a registry nor the engine can tell")),
    security(("bearer" = ["read"]), ("session" = [])))]
async fn image_status(
    State(state): State<AppState>,
    ReadCaller(caller): ReadCaller,
    Path(id): Path<String>,
) -> Result<Json<ImageStatusView>, ApiError> {
    let id = bot_id(&id)?;
    let tenant = tenant_for(&state, &caller, id).await?;
    Ok(Json(state.fleet.image_status(tenant, id).await?.into()))
}
