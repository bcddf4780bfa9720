use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use wopr_core::auth::{ApiKey, Scope};
use wopr_core::ids::{ApiKeyId, TenantId};

use super::views::time;
use crate::error::{ApiError, Issue};
use crate::extract::{AdminCaller, Caller, Json, Path, Query, origin};
use crate::state::AppState;

/// A key without its secret.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyView {
    id: String,
    label: String,
    scope: &'static str,
    /// The first characters of the secret.
    prefix: String,
    tenant_id: Option<String>,
    bot_id: Option<String>,
    created_at: String,
    expires_at: Option<String>,
    last_used_at: Option<String>,
    revoked_at: Option<String>,
}

impl From<&ApiKey> for KeyView {
    fn from(key: &ApiKey) -> Self {
        Self {
            id: key.id.to_string(),
            label: key.label.clone(),
            scope: key.scope.as_str(),
            prefix: key.prefix.clone(),
            tenant_id: key.tenant_id.map(|id| id.to_string()),
            bot_id: key.bot_id.map(|id| id.to_string()),
            created_at: time(key.created_at),
            expires_at: key.expires_at.map(time),
            last_used_at: key.last_used_at.map(time),
            revoked_at: key.revoked_at.map(time),
        }
    }
}

/// A key that was just made; `key` is shown this once.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct NewKeyView {
    key: String,
    #[serde(flatten)]
    view: KeyView,
}

/// The keys of a tenant.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct KeysView {
    keys: Vec<KeyView>,
}

/// Whose keys are meant; only platform administrators name a tenant that is not their own.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Whose {
    tenant_id: Option<TenantId>,
}

/// The tenant whose keys are meant. A platform administrator who names none means the keys that are bound to none.
fn whose(caller: &Caller, asked: Option<TenantId>) -> Result<Option<TenantId>, ApiError> {
    if asked.is_none() && caller.tenant_id.is_none() && caller.platform_admin {
        return Ok(None);
    }
    caller.tenant_or_asked(asked).map(Some)
}

/// `GET /api/keys`: newest first, revoked ones included.
#[utoipa::path(
    get, path = "/api/keys", params(("tenantId" = Option<String>, Query)), responses((status = OK, body = KeysView)),
    security(("bearer" = ["admin"]), ("session" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    AdminCaller(caller): AdminCaller,
    Query(query): Query<Whose>,
) -> Result<Json<KeysView>, ApiError> {
    let keys = state.auth.list_api_keys(whose(&caller, query.tenant_id)?).await?;
    Ok(Json(KeysView { keys: keys.iter().map(KeyView::from).collect() }))
}

/// A key that is wanted.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewKey {
    /// What it is for; 1 to 128 characters.
    label: String,
    /// `read`, `write` or `admin`.
    scope: String,
    /// From when on it lets nobody in; never unless given.
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
    /// The tenant it is for, named by platform administrators only.
    #[schema(value_type = Option<String>)]
    tenant_id: Option<TenantId>,
}

/// `POST /api/keys`: makes a key and shows it, this once.
#[utoipa::path(
    post, path = "/api/keys", request_body = NewKey, responses((status = CREATED, body = NewKeyView)),
    security(("bearer" = ["admin"]), ("session" = []))
)]
pub(super) async fn create(
    State(state): State<AppState>,
    AdminCaller(caller): AdminCaller,
    parts: Parts,
    Json(new): Json<NewKey>,
) -> Result<(StatusCode, Json<NewKeyView>), ApiError> {
    let scope: Scope = new.scope.parse().map_err(|_| invalid("scope", "must be read, write or admin"))?;
    if new.expires_at.is_some_and(|at| at <= state.clock.now()) {
        return Err(invalid("expiresAt", "must be in the future"));
    }
    let tenant = whose(&caller, new.tenant_id)?;
    let origin = origin(&parts, Some(&caller));
    let made = state.auth.create_api_key(&origin, tenant, scope, &new.label, new.expires_at).await?;
    let view = NewKeyView { key: made.plaintext.expose_secret().to_owned(), view: (&made.key).into() };
    Ok((StatusCode::CREATED, Json(view)))
}

fn invalid(field: &'static str, message: &'static str) -> ApiError {
    ApiError::invalid_input(vec![Issue::field(field, message)])
}

/// `DELETE /api/keys/{id}`: the key lets nobody in from now on. Doing so again changes nothing.
#[utoipa::path(
    delete, path = "/api/keys/{id}", params(("tenantId" = Option<String>, Query)),
    responses((status = OK, body = KeyView)), security(("bearer" = ["admin"]), ("session" = []))
)]
pub(super) async fn revoke(
    State(state): State<AppState>,
    AdminCaller(caller): AdminCaller,
    Path(id): Path<ApiKeyId>,
    Query(query): Query<Whose>,
    parts: Parts,
) -> Result<Json<KeyView>, ApiError> {
    let origin = origin(&parts, Some(&caller));
    let key = state.auth.revoke_api_key(&origin, whose(&caller, query.tenant_id)?, id).await?;
    Ok(Json(KeyView::from(&key)))
}
