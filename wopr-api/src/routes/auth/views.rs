//! What the wire shows of users and sessions: all keys always there, times in ISO 8601 with milliseconds.

use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use serde::Serialize;
use wopr_core::auth::{Account, Session, Started, User};

pub(super) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// A user.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UserView {
    id: String,
    name: String,
    email: String,
    email_verified: bool,
    image: Option<String>,
    created_at: String,
    updated_at: String,
    two_factor_enabled: bool,
}

impl From<&User> for UserView {
    fn from(user: &User) -> Self {
        Self {
            id: user.id.to_string(),
            name: user.name.clone(),
            email: user.email.to_string(),
            email_verified: user.email_verified_at.is_some(),
            image: user.image.clone(),
            created_at: time(user.created_at),
            updated_at: time(user.updated_at),
            two_factor_enabled: false,
        }
    }
}

/// A session. `token` is what lets its own browser in; for any other session it is the id, which lets nobody in.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SessionView {
    id: String,
    token: String,
    user_id: String,
    expires_at: String,
    created_at: String,
    updated_at: String,
    ip_address: Option<String>,
    user_agent: Option<String>,
}

impl SessionView {
    pub(super) fn new(session: &Session, token: &str) -> Self {
        Self {
            id: session.id.to_string(),
            token: token.to_owned(),
            user_id: session.user_id.to_string(),
            expires_at: time(session.expires_at),
            created_at: time(session.created_at),
            updated_at: time(session.updated_at),
            ip_address: session.client_address.clone(),
            user_agent: session.user_agent.clone(),
        }
    }
}

/// A session and its user.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct SessionAndUser {
    pub(super) session: SessionView,
    pub(super) user: UserView,
}

/// A session that has begun.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct StartedView {
    token: String,
    user: UserView,
}

impl From<&Started> for StartedView {
    fn from(started: &Started) -> Self {
        Self { token: started.token.expose_secret().to_owned(), user: (&started.signed_in.user).into() }
    }
}

/// A way to sign in.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AccountView {
    id: String,
    account_id: String,
    provider_id: String,
    user_id: String,
    created_at: String,
    updated_at: String,
    scopes: Vec<String>,
}

impl From<&Account> for AccountView {
    fn from(account: &Account) -> Self {
        Self {
            id: account.id.to_string(),
            account_id: account.account_id.clone(),
            provider_id: account.provider.clone(),
            user_id: account.user_id.to_string(),
            created_at: time(account.created_at),
            updated_at: time(account.updated_at),
            scopes: Vec::new(),
        }
    }
}

/// `{"status": true}`
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Status {
    status: bool,
}

impl Status {
    pub(super) const DONE: Self = Self { status: true };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_even_when_they_are_none() {
        assert_eq!(time(Timestamp::constant(1_800_000_000, 0)), "2027-01-15T08:00:00.000Z");
        assert_eq!(time(Timestamp::constant(1_800_000_000, 123_456_789)), "2027-01-15T08:00:00.123Z");
    }
}
