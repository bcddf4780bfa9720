use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use wopr_core::auth::{Email, SignUp};

use super::body::Body;
use super::caller::{From, Token};
use super::links::Field;
use super::views::{StartedView, UserView};
use super::{cookies, links};
use crate::error::ApiError;
use crate::extract::Json;
use crate::state::AppState;

/// `POST /api/auth/sign-up/email`: makes a user and signs in at once.
#[utoipa::path(post, path = "/api/auth/sign-up/email", responses((status = OK, body = StartedView)), security(()))]
pub(super) async fn sign_up(
    State(state): State<AppState>,
    From(origin): From,
    mut body: Body,
) -> Result<(HeaderMap, Json<StartedView>), ApiError> {
    let name = body.text("name");
    let email = body.email("email");
    let password = body.secret("password");
    let image = body.optional_text("image");
    let callback = body.optional_text("callbackURL");
    let remember = body.flag("rememberMe", true);
    body.finish()?;
    let email = email.ok_or(wopr_core::auth::AuthError::InvalidEmail)?;
    links::check(&state.config, Field::Callback, callback.as_deref())?;
    let password = state.auth.password_policy().check(password)?;
    let started = state.auth.sign_up(&origin, SignUp { email, name, image, password, remember }).await?;
    state.wakers.mail.notify_one();
    let mut headers = HeaderMap::new();
    cookies::begin(&mut headers, &state.config, &state.session_keys, &started.token, &started.signed_in.session)?;
    Ok((headers, Json(StartedView::from(&started))))
}

/// Somebody signed in.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct SignedInView {
    redirect: bool,
    token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    user: UserView,
}

/// `POST /api/auth/sign-in/email`
#[utoipa::path(post, path = "/api/auth/sign-in/email", responses((status = OK, body = SignedInView)), security(()))]
pub(super) async fn sign_in(
    State(state): State<AppState>,
    From(origin): From,
    mut body: Body,
) -> Result<(HeaderMap, Json<SignedInView>), ApiError> {
    let email = body.text("email");
    let password = body.secret("password");
    let callback = body.optional_text("callbackURL");
    let remember = body.flag("rememberMe", true);
    body.finish()?;
    links::check(&state.config, Field::Callback, callback.as_deref())?;
    let email = Email::parse(&email)?;
    let started = state.auth.sign_in(&origin, &email, &password, remember).await?;
    let mut headers = HeaderMap::new();
    cookies::begin(&mut headers, &state.config, &state.session_keys, &started.token, &started.signed_in.session)?;
    if let Some(url) = &callback {
        headers.insert(header::LOCATION, HeaderValue::from_str(url).map_err(ApiError::internal)?);
    }
    let view = SignedInView {
        redirect: callback.is_some(),
        token: started.token.expose_secret().to_owned(),
        url: callback,
        user: (&started.signed_in.user).into(),
    };
    Ok((headers, Json(view)))
}

/// `POST /api/auth/sign-in/social`: no provider is configured.
#[utoipa::path(post, path = "/api/auth/sign-in/social", responses((status = NOT_FOUND)), security(()))]
pub(super) async fn sign_in_social(mut body: Body) -> Result<(), ApiError> {
    body.text("provider");
    body.finish()?;
    Err(ApiError::new(StatusCode::NOT_FOUND, "PROVIDER_NOT_FOUND", "Provider not found"))
}

/// Somebody signed out.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct SignedOut {
    success: bool,
}

/// `POST /api/auth/sign-out`: ends the session, if there is one, and takes its cookies away.
#[utoipa::path(post, path = "/api/auth/sign-out", responses((status = OK, body = SignedOut)), security(()))]
pub(super) async fn sign_out(
    State(state): State<AppState>,
    From(origin): From,
    Token(token): Token,
) -> Result<Response, ApiError> {
    if let Some(token) = token {
        state.auth.sign_out(&origin, token.expose_secret()).await?;
    }
    let mut headers = HeaderMap::new();
    cookies::end(&mut headers, &state.config)?;
    Ok((headers, Json(SignedOut { success: true })).into_response())
}
