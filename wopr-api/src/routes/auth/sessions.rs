use axum::extract::State;
use axum::http::{HeaderMap, header};
use secrecy::ExposeSecret as _;
use serde::Deserialize;

use super::body::Body;
use super::caller::{Token, User};
use super::cookies;
use super::views::{SessionAndUser, SessionView, Status};
use crate::error::ApiError;
use crate::extract::{Json, Query, SESSION_COOKIE};
use crate::state::AppState;

/// How a session is asked for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GetSession {
    /// Leaves the session's end where it is.
    disable_refresh: Option<String>,
}

/// `GET /api/auth/get-session`: the session and its user, or `null`. Using a session extends it.
#[utoipa::path(get, path = "/api/auth/get-session", responses((status = OK, body = SessionAndUser)), security(()))]
pub(super) async fn get_session(
    State(state): State<AppState>,
    Token(token): Token,
    Query(query): Query<GetSession>,
    sent: HeaderMap,
) -> Result<(HeaderMap, Json<Option<SessionAndUser>>), ApiError> {
    let mut headers = HeaderMap::new();
    let mut found = None;
    if let Some(token) = &token {
        let secret = token.expose_secret();
        found = if query.disable_refresh.as_deref() == Some("true") {
            state.auth.find_session(secret).await?
        } else if let Some(refreshed) = state.auth.refresh_session(secret).await? {
            if refreshed.extended {
                let session = &refreshed.signed_in.session;
                cookies::begin(&mut headers, &state.config, &state.session_keys, token, session)?;
            }
            Some(refreshed.signed_in)
        } else {
            None
        };
    }
    let offered = sent
        .get_all(header::COOKIE)
        .iter()
        .any(|value| value.to_str().is_ok_and(|cookies| cookies.contains(SESSION_COOKIE)));
    if found.is_none() && offered {
        cookies::end(&mut headers, &state.config)?;
    }
    let view = found.zip(token).map(|(signed_in, token)| SessionAndUser {
        session: SessionView::new(&signed_in.session, token.expose_secret()),
        user: (&signed_in.user).into(),
    });
    Ok((headers, Json(view)))
}

/// `GET /api/auth/list-sessions`
#[utoipa::path(get, path = "/api/auth/list-sessions", responses((status = OK, body = Vec<SessionView>)), security(("session" = [])))]
pub(super) async fn list_sessions(
    State(state): State<AppState>,
    user: User,
) -> Result<Json<Vec<SessionView>>, ApiError> {
    let sessions = state.auth.list_sessions(&user.signed_in).await?;
    let views = sessions.iter().map(|session| {
        let own = session.id == user.signed_in.session.id;
        let id = session.id.to_string();
        SessionView::new(session, if own { user.token.expose_secret() } else { &id })
    });
    Ok(Json(views.collect()))
}

/// `POST /api/auth/revoke-session`: ends the session whose `token` was listed.
#[utoipa::path(post, path = "/api/auth/revoke-session", responses((status = OK, body = Status)), security(("session" = [])))]
pub(super) async fn revoke_session(
    State(state): State<AppState>,
    user: User,
    mut body: Body,
) -> Result<Json<Status>, ApiError> {
    let name = body.text("token");
    body.finish()?;
    state.auth.revoke_session(&user.origin, &user.signed_in, &name).await?;
    Ok(Json(Status::DONE))
}

/// `POST /api/auth/revoke-sessions`: ends all of the user's sessions.
#[utoipa::path(post, path = "/api/auth/revoke-sessions", responses((status = OK, body = Status)), security(("session" = [])))]
pub(super) async fn revoke_sessions(State(state): State<AppState>, user: User) -> Result<Json<Status>, ApiError> {
    state.auth.revoke_sessions(&user.origin, &user.signed_in).await?;
    Ok(Json(Status::DONE))
}

/// `POST /api/auth/revoke-other-sessions`: ends all of the user's sessions but this one.
#[utoipa::path(post, path = "/api/auth/revoke-other-sessions", responses((status = OK, body = Status)), security(("session" = [])))]
pub(super) async fn revoke_other_sessions(State(state): State<AppState>, user: User) -> Result<Json<Status>, ApiError> {
    state.auth.revoke_other_sessions(&user.origin, &user.signed_in).await?;
    Ok(Json(Status::DONE))
}
