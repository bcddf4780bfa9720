use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use secrecy::SecretString;
use wopr_core::audit::{Actor, Origin};
use wopr_core::auth::SignedIn;

use crate::error::ApiError;
use crate::extract::{Credential, origin};
use crate::state::AppState;

/// Where the request came from, whoever sent it.
pub(super) struct From(pub(super) Origin);

impl FromRequestParts<AppState> for From {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &AppState) -> Result<Self, Self::Rejection> {
        Ok(Self(origin(parts, None)))
    }
}

/// The token of a session cookie that we signed. Whether the session still lives is another question.
pub(super) struct Token(pub(super) Option<SecretString>);

impl FromRequestParts<AppState> for Token {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Self::Rejection> {
        Ok(Self(match Credential::of(&parts.headers) {
            Some(Credential::Session { token, signature }) if state.session_keys.verify(&token, &signature) => {
                Some(token.into())
            }
            Some(Credential::Session { .. } | Credential::Bearer(_) | Credential::Unusable) | None => None,
        }))
    }
}

/// A signed-in person; anybody else is answered 401 without a body.
pub(super) struct User {
    pub(super) signed_in: SignedIn,
    /// The session's token.
    pub(super) token: SecretString,
    /// Where the request came from.
    pub(super) origin: Origin,
}

impl FromRequestParts<AppState> for User {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Response> {
        use secrecy::ExposeSecret as _;
        let Ok(Token(token)) = Token::from_request_parts(parts, state).await;
        let Some(token) = token else { return Err(StatusCode::UNAUTHORIZED.into_response()) };
        let found = state.auth.find_session(token.expose_secret()).await;
        match found.map_err(|error| ApiError::from(error).into_response())? {
            Some(signed_in) => {
                let origin = Origin { actor: Actor::User(signed_in.user.id), ..origin(parts, None) };
                Ok(Self { signed_in, token, origin })
            }
            None => Err(StatusCode::UNAUTHORIZED.into_response()),
        }
    }
}
