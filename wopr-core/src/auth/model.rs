use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;

use super::{AuthError, Email, NewPassword};
use crate::ids::{AccountId, SessionId, TenantId, UserId};

/// How long a remembered session lives without being used.
pub(super) const SESSION_LIFE: SignedDuration = SignedDuration::from_hours(7 * 24);
/// With no more than this left, using a remembered session extends it.
pub(super) const SESSION_EXTENDED_BELOW: SignedDuration = SignedDuration::from_hours(6 * 24);
/// How long a session lives that is not to be remembered; use does not extend it.
pub(super) const SHORT_SESSION_LIFE: SignedDuration = SignedDuration::from_hours(24);
/// How long the link in a verification mail works.
pub(super) const VERIFICATION_LIFE: SignedDuration = SignedDuration::from_hours(24);
/// How long the link in a password reset mail works.
pub(super) const RESET_LIFE: SignedDuration = SignedDuration::from_hours(1);

const MAX_NAME_CHARS: usize = 256;
const MAX_IMAGE_CHARS: usize = 2048;
/// Longer descriptions of browsers are cut: they are for people to recognise a session by.
const MAX_USER_AGENT_CHARS: usize = 512;

/// A person who can sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The id; the personal tenant has the same.
    pub id: UserId,
    /// The address, unique among users.
    pub email: Email,
    /// What the person is called; may be empty.
    pub name: String,
    /// The address of a picture.
    pub image: Option<String>,
    /// Since when the address is known to be theirs.
    pub email_verified_at: Option<Timestamp>,
    /// When the person signed up.
    pub created_at: Timestamp,
    /// When name, image, address or verification last changed.
    pub updated_at: Timestamp,
}

impl User {
    /// The tenant that every user has.
    pub fn personal_tenant(&self) -> TenantId {
        self.id.into()
    }
}

/// A signed-in browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The id: names the session without letting anyone in.
    pub id: SessionId,
    /// Whose it is.
    pub user_id: UserId,
    /// Whether its life slides on with use.
    pub remembered: bool,
    /// From when on it lets nobody in.
    pub expires_at: Timestamp,
    /// When it began.
    pub created_at: Timestamp,
    /// When it was last extended.
    pub updated_at: Timestamp,
    /// From where it was begun.
    pub client_address: Option<String>,
    /// What the browser called itself.
    pub user_agent: Option<String>,
}

impl Session {
    /// A session that begins now.
    pub(super) fn begin(user_id: UserId, remembered: bool, at: Timestamp, client: Client) -> Self {
        let life = if remembered { SESSION_LIFE } else { SHORT_SESSION_LIFE };
        Self {
            id: SessionId::new(at),
            user_id,
            remembered,
            expires_at: at + life,
            created_at: at,
            updated_at: at,
            client_address: client.address.map(|address| address.to_string()),
            user_agent: client.user_agent.map(|text| text.chars().take(MAX_USER_AGENT_CHARS).collect()),
        }
    }

    /// The end it has once it is used at `at`, if that is another than now.
    pub(super) fn extended_end(&self, at: Timestamp) -> Option<Timestamp> {
        let left = self.expires_at.duration_since(at);
        (self.remembered && left <= SESSION_EXTENDED_BELOW).then(|| at + SESSION_LIFE)
    }
}

/// What is known of the browser that begins a session.
pub(super) struct Client {
    pub(super) address: Option<IpAddr>,
    pub(super) user_agent: Option<String>,
}

/// A valid session and what is known with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedIn {
    /// Who.
    pub user: User,
    /// The session.
    pub session: Session,
    /// The user's personal tenant.
    pub tenant_id: TenantId,
    /// Whether the user administers the platform.
    pub platform_admin: bool,
}

/// A session that has just been used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refreshed {
    /// Who, and the session as it is now.
    pub signed_in: SignedIn,
    /// Whether its end has moved.
    pub extended: bool,
}

/// A session that has just begun. Its token is known here and with the client only.
#[derive(Debug, Clone)]
pub struct Started {
    /// Who, and the session.
    pub signed_in: SignedIn,
    /// What lets the client in from now on: 32 letters and digits.
    pub token: SecretString,
}

/// A way a user signs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The id.
    pub id: AccountId,
    /// Whose it is.
    pub user_id: UserId,
    /// `credential` for a password.
    pub provider: String,
    /// What the provider calls the user.
    pub account_id: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When the password was last set.
    pub updated_at: Timestamp,
}

/// Somebody who signs up.
#[derive(Debug, Clone)]
pub struct SignUp {
    /// The address.
    pub email: Email,
    /// The name; may be empty.
    pub name: String,
    /// The address of a picture.
    pub image: Option<String>,
    /// The password.
    pub password: NewPassword,
    /// Whether the session that begins with it is to be remembered.
    pub remember: bool,
}

impl SignUp {
    /// The name of the personal tenant: the user's, or what stands before the `@` of a nameless one.
    pub(super) fn tenant_name(&self) -> &str {
        if self.name.is_empty() { self.email.local_part() } else { &self.name }
    }
}

/// What is to become of a user's picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImageChange<'a> {
    /// It stays.
    #[default]
    Keep,
    /// There is none from now on.
    Remove,
    /// It is at this address from now on.
    Set(&'a str),
}

impl<'a> ImageChange<'a> {
    /// The new column value, if it changes.
    #[expect(clippy::option_option, reason = "what diesel takes: no change, NULL or a value")]
    pub(super) fn column(self) -> Option<Option<&'a str>> {
        match self {
            Self::Keep => None,
            Self::Remove => Some(None),
            Self::Set(image) => Some(Some(image)),
        }
    }
}

/// Refuses a name that is too long or has control characters.
pub(super) fn check_name(name: &str) -> Result<(), AuthError> {
    if is_plain(name, MAX_NAME_CHARS) { Ok(()) } else { Err(AuthError::InvalidName) }
}

/// Refuses an image address that is too long or has control characters.
pub(super) fn check_image(image: Option<&str>) -> Result<(), AuthError> {
    if image.is_none_or(|image| is_plain(image, MAX_IMAGE_CHARS)) { Ok(()) } else { Err(AuthError::InvalidImage) }
}

/// Whether the text has no control characters (a NUL could not even be stored) and at most `max` characters.
pub(super) fn is_plain(text: &str, max: usize) -> bool {
    !text.chars().any(char::is_control) && text.chars().count() <= max
}

/// What a secret sent by mail is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    VerifyEmail,
    ResetPassword,
}

impl Purpose {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::VerifyEmail => "verify_email",
            Self::ResetPassword => "reset_password",
        }
    }

    pub(super) fn life(self) -> SignedDuration {
        match self {
            Self::VerifyEmail => VERIFICATION_LIFE,
            Self::ResetPassword => RESET_LIFE,
        }
    }
}

/// How long an account is closed to sign-ins after this many in a row that did not succeed. The first few cost nothing,
/// so that a typing error does not; then the wait doubles, up to a minute, so that nobody can be locked out for long.
pub(super) fn sign_in_delay(attempts: u32) -> SignedDuration {
    const FREE_ATTEMPTS: u32 = 5;
    const LONGEST_SECONDS: i64 = 60;
    match attempts.checked_sub(FREE_ATTEMPTS) {
        None => SignedDuration::ZERO,
        Some(excess) => SignedDuration::from_secs(1_i64.checked_shl(excess.min(6)).unwrap_or(0).min(LONGEST_SECONDS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(remembered: bool) -> Session {
        let at = Timestamp::constant(1_800_000_000, 0);
        let client = Client { address: None, user_agent: Some("x".repeat(600)) };
        Session::begin(UserId::new(at), remembered, at, client)
    }

    #[test]
    fn a_remembered_session_is_extended_once_a_day() {
        let session = session(true);
        let (second, day) = (SignedDuration::from_secs(1), SignedDuration::from_hours(24));
        assert_eq!(session.extended_end(session.created_at + day - second), None);
        let at = session.created_at + day;
        assert_eq!(session.extended_end(at), Some(at + SESSION_LIFE));
        assert_eq!(session.user_agent.unwrap().len(), MAX_USER_AGENT_CHARS);
    }

    #[test]
    fn another_one_is_not() {
        let session = session(false);
        assert_eq!(session.expires_at.duration_since(session.created_at), SHORT_SESSION_LIFE);
        assert_eq!(session.extended_end(session.expires_at), None);
    }

    #[test]
    fn the_wait_grows_and_stays_bearable() {
        let waits: Vec<_> = [0, 1, 4, 5, 6, 8, 10, 11, 12, 1000, u32::MAX].map(|n| sign_in_delay(n).as_secs()).into();
        assert_eq!(waits, [0, 0, 0, 1, 2, 8, 32, 60, 60, 60, 60]);
    }
}
