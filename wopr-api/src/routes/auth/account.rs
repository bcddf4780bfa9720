use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Html;
use serde::{Deserialize, Serialize};
use wopr_core::auth::{AuthError, ImageChange};

use super::body::Body;
use super::caller::{From, User};
use super::links::Field;
use super::passwords::redirect;
use super::views::{AccountView, Status};
use super::{cookies, links};
use crate::error::ApiError;
use crate::extract::{Json, Query};
use crate::state::AppState;

/// `POST /api/auth/update-user`: changes name or image, whichever is sent; `null` removes the image.
#[utoipa::path(post, path = "/api/auth/update-user", responses((status = OK, body = Status)), security(("session" = [])))]
pub(super) async fn update_user(
    State(state): State<AppState>,
    user: User,
    mut body: Body,
) -> Result<(HeaderMap, Json<Status>), ApiError> {
    if body.has("email") {
        return Err(ApiError::bad_request("Email can not be updated").code("EMAIL_CAN_NOT_BE_UPDATED"));
    }
    let removed = body.is_null("image");
    let (name, image) = (body.optional_text("name"), body.optional_text("image"));
    body.finish()?;
    if name.is_none() && image.is_none() && !removed {
        return Err(ApiError::bad_request("No fields to update").code("NO_FIELDS_TO_UPDATE"));
    }
    let change = match &image {
        Some(image) => ImageChange::Set(image),
        None if removed => ImageChange::Remove,
        None => ImageChange::Keep,
    };
    state.auth.update_user(&user.origin, &user.signed_in, name.as_deref(), change).await?;
    let mut headers = HeaderMap::new();
    cookies::begin(&mut headers, &state.config, &state.session_keys, &user.token, &user.signed_in.session)?;
    Ok((headers, Json(Status::DONE)))
}

/// `POST /api/auth/change-email`: addresses stay what they are.
#[utoipa::path(post, path = "/api/auth/change-email", responses((status = BAD_REQUEST)), security(("session" = [])))]
pub(super) async fn change_email(_user: User) -> Result<(), ApiError> {
    Err(ApiError::bad_request("Change email is disabled").code("CHANGE_EMAIL_IS_DISABLED"))
}

/// `GET /api/auth/list-accounts`
#[utoipa::path(get, path = "/api/auth/list-accounts", responses((status = OK, body = Vec<AccountView>)), security(("session" = [])))]
pub(super) async fn list_accounts(
    State(state): State<AppState>,
    user: User,
) -> Result<Json<Vec<AccountView>>, ApiError> {
    let accounts = state.auth.list_accounts(&user.signed_in).await?;
    Ok(Json(accounts.iter().map(AccountView::from).collect()))
}

/// `POST /api/auth/unlink-account`: a password is the only way to sign in, and the last way cannot be removed.
#[utoipa::path(post, path = "/api/auth/unlink-account", responses((status = BAD_REQUEST)), security(("session" = [])))]
pub(super) async fn unlink_account(State(state): State<AppState>, user: User, mut body: Body) -> Result<(), ApiError> {
    let provider = body.text("providerId");
    body.finish()?;
    let accounts = state.auth.list_accounts(&user.signed_in).await?;
    if !accounts.iter().any(|account| account.provider == provider) {
        return Err(ApiError::bad_request("Account not found").code("ACCOUNT_NOT_FOUND"));
    }
    let message = "You can't unlink your last account";
    Err(ApiError::bad_request(message).code("YOU_CANT_UNLINK_YOUR_LAST_ACCOUNT"))
}

/// `POST /api/auth/send-verification-email`: another mail to the signed-in user; earlier links stop working.
#[utoipa::path(post, path = "/api/auth/send-verification-email", responses((status = OK, body = Status)), security(("session" = [])))]
pub(super) async fn send_verification_email(
    State(state): State<AppState>,
    user: User,
    mut body: Body,
) -> Result<Json<Status>, ApiError> {
    let email = body.email("email");
    let callback = body.optional_text("callbackURL");
    body.finish()?;
    links::check(&state.config, Field::Callback, callback.as_deref())?;
    if email.ok_or(AuthError::InvalidEmail)? != user.signed_in.user.email {
        return Err(ApiError::bad_request("Email mismatch").code("EMAIL_MISMATCH"));
    }
    if user.signed_in.user.email_verified_at.is_some() {
        return Err(ApiError::bad_request("Email is already verified").code("EMAIL_IS_ALREADY_VERIFIED"));
    }
    state.auth.resend_verification(&user.origin, &user.signed_in).await?;
    state.wakers.mail.notify_one();
    Ok(Json(Status::DONE))
}

/// The token of the link in a verification mail.
#[derive(Debug, Deserialize)]
pub(super) struct Verification {
    token: Option<String>,
}

/// `GET /auth/verify`: the link in the verification mail. Leads to a page of the user interface that says how it went.
#[utoipa::path(get, path = "/auth/verify", responses((status = FOUND)), security(()))]
pub(super) async fn verify(
    State(state): State<AppState>,
    From(origin): From,
    Query(query): Query<Verification>,
) -> Result<(StatusCode, HeaderMap), ApiError> {
    let outcome = match query.token {
        None => "status=error&reason=missing_token",
        Some(token) => match state.auth.verify_email(&origin, &token).await {
            Ok(_) => "status=success",
            Err(AuthError::InvalidToken) => "status=error&reason=invalid_or_expired",
            Err(error) => return Err(error.into()),
        },
    };
    state.wakers.mail.notify_one();
    redirect(&format!("{}/auth/verify?{outcome}", state.config.ui_url))
}

/// The auth wire answers.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Alive {
    ok: bool,
}

/// `GET /api/auth/ok`
#[utoipa::path(get, path = "/api/auth/ok", responses((status = OK, body = Alive)), security(()))]
pub(super) async fn ok() -> Json<Alive> {
    Json(Alive { ok: true })
}

/// What went wrong, as a code.
#[derive(Debug, Deserialize)]
pub(super) struct Failure {
    error: Option<String>,
}

/// `GET /api/auth/error`: a page for people whose link did not work.
#[utoipa::path(get, path = "/api/auth/error", responses((status = OK, content_type = "text/html")), security(()))]
pub(super) async fn error(Query(query): Query<Failure>) -> Html<String> {
    // Codes have letters, digits, `_` and `-`: nothing else is shown, so that nothing can be smuggled in.
    let shown = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
    let code: String = query.error.unwrap_or_default().chars().filter(shown).take(64).collect();
    let code = if code.is_empty() { "UNKNOWN" } else { &code };
    Html(format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Error</title></head>\
         <body><h1>Something went wrong</h1><p>Error code: <code>{code}</code></p></body></html>"
    ))
}
