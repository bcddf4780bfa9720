//! The auth wire, `/api/auth/*`, as the official better-auth client speaks it; `/auth/verify`; and `/api/keys`.
//!
//! A session is the signed cookie and nothing else. Its token stands in the answers of the calls that begin it, as the
//! wire has it, but never lets anyone in by itself. What lists sessions shows the caller's own token and names the
//! others by their ids; revoking takes either.

mod account;
mod body;
mod caller;
mod cookies;
mod keys;
mod links;
mod passwords;
mod sessions;
mod sign_in;
mod views;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::state::AppState;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(sign_in::sign_up))
        .routes(routes!(sign_in::sign_in))
        .routes(routes!(sign_in::sign_in_social))
        .routes(routes!(sign_in::sign_out))
        .routes(routes!(sessions::get_session))
        .routes(routes!(sessions::list_sessions))
        .routes(routes!(sessions::revoke_session))
        .routes(routes!(sessions::revoke_sessions))
        .routes(routes!(sessions::revoke_other_sessions))
        .routes(routes!(passwords::request_password_reset))
        .routes(routes!(passwords::follow_reset_link))
        .routes(routes!(passwords::reset_password))
        .routes(routes!(passwords::change_password))
        .routes(routes!(passwords::verify_password))
        .routes(routes!(account::update_user))
        .routes(routes!(account::change_email))
        .routes(routes!(account::list_accounts))
        .routes(routes!(account::unlink_account))
        .routes(routes!(account::send_verification_email))
        .routes(routes!(account::verify))
        .routes(routes!(account::ok))
        .routes(routes!(account::error))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::revoke))
}
