use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use wopr_core::auth::AuthError;

use super::body::Body;
use super::caller::{From, User};
use super::links::Field;
use super::views::{Status, UserView};
use super::{cookies, links};
use crate::error::ApiError;
use crate::extract::{Json, Path, Query};
use crate::state::AppState;

/// The same whether or not the address is known.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Requested {
    status: bool,
    message: &'static str,
}

/// `POST /api/auth/request-password-reset`: sends a link, if anybody has signed up with the address.
#[utoipa::path(post, path = "/api/auth/request-password-reset", responses((status = OK, body = Requested)), security(()))]
pub(super) async fn request_password_reset(
    State(state): State<AppState>,
    From(origin): From,
    mut body: Body,
) -> Result<Json<Requested>, ApiError> {
    let email = body.email("email");
    let redirect = body.optional_text("redirectTo");
    body.finish()?;
    let email = email.ok_or(AuthError::InvalidEmail)?;
    links::check(&state.config, Field::Redirect, redirect.as_deref())?;
    state.auth.request_password_reset(&origin, &email, redirect.as_deref()).await?;
    state.wakers.mail.notify_one();
    let message = "If this email exists in our system, check your email for the reset link";
    Ok(Json(Requested { status: true, message }))
}

/// Where the link in the mail leads in the end.
#[derive(Debug, Deserialize)]
pub(super) struct Callback {
    #[serde(rename = "callbackURL")]
    callback_url: Option<String>,
}

/// `GET /api/auth/reset-password/{token}`: the link in the mail; passes a usable token on to the page that asks for
/// the new password.
#[utoipa::path(get, path = "/api/auth/reset-password/{token}", responses((status = FOUND)), security(()))]
pub(super) async fn follow_reset_link(
    State(state): State<AppState>,
    Path(token): Path<String>,
    Query(query): Query<Callback>,
) -> Result<(StatusCode, HeaderMap), ApiError> {
    links::check(&state.config, Field::Callback, query.callback_url.as_deref())?;
    let callback = query.callback_url.map_or_else(
        || format!("{}/api/auth/error", state.config.base_url),
        |callback| links::absolute(&state.config, &callback),
    );
    let usable = state.auth.is_reset_token_usable(&token).await?;
    let (name, value) = if usable { ("token", token.as_str()) } else { ("error", "INVALID_TOKEN") };
    redirect(&links::with_parameter(&callback, name, value))
}

pub(super) fn redirect(url: &str) -> Result<(StatusCode, HeaderMap), ApiError> {
    let location = HeaderValue::from_str(url).map_err(ApiError::internal)?;
    Ok((StatusCode::FOUND, HeaderMap::from_iter([(header::LOCATION, location)])))
}

/// The token may come in the query too.
#[derive(Debug, Deserialize)]
pub(super) struct ResetToken {
    token: Option<String>,
}

/// `POST /api/auth/reset-password`: sets a new password and ends all of the user's sessions.
#[utoipa::path(post, path = "/api/auth/reset-password", responses((status = OK, body = Status)), security(()))]
pub(super) async fn reset_password(
    State(state): State<AppState>,
    From(origin): From,
    Query(query): Query<ResetToken>,
    mut body: Body,
) -> Result<Json<Status>, ApiError> {
    let password = body.secret("newPassword");
    let token = body.optional_text("token").or(query.token);
    body.finish()?;
    let token = token.ok_or(AuthError::InvalidToken)?;
    let password = state.auth.password_policy().check(password)?;
    state.auth.reset_password(&origin, &token, &password).await?;
    Ok(Json(Status::DONE))
}

/// The password was changed; `token` is that of the new session, if there is one.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Changed {
    token: Option<String>,
    user: UserView,
}

/// `POST /api/auth/change-password`: ends the user's other sessions, and with `revokeOtherSessions` replaces this one.
#[utoipa::path(post, path = "/api/auth/change-password", responses((status = OK, body = Changed)), security(("session" = [])))]
pub(super) async fn change_password(
    State(state): State<AppState>,
    user: User,
    mut body: Body,
) -> Result<(HeaderMap, Json<Changed>), ApiError> {
    let current = body.secret("currentPassword");
    let new = body.secret("newPassword");
    let rotate = body.flag("revokeOtherSessions", false);
    body.finish()?;
    let new = state.auth.password_policy().check(new)?;
    let started = state.auth.change_password(&user.origin, &user.signed_in, &current, &new, rotate).await?;
    let mut headers = HeaderMap::new();
    if let Some(started) = &started {
        cookies::begin(&mut headers, &state.config, &state.session_keys, &started.token, &started.signed_in.session)?;
    }
    let token = started.map(|started| started.token.expose_secret().to_owned());
    Ok((headers, Json(Changed { token, user: (&user.signed_in.user).into() })))
}

/// `POST /api/auth/verify-password`
#[utoipa::path(post, path = "/api/auth/verify-password", responses((status = OK, body = Status)), security(("session" = [])))]
pub(super) async fn verify_password(
    State(state): State<AppState>,
    user: User,
    mut body: Body,
) -> Result<Json<Status>, ApiError> {
    let password = body.secret("password");
    body.finish()?;
    state.auth.verify_password(&user.signed_in, &password).await?;
    Ok(Json(Status::DONE))
}
