mod admins;
mod keys;
mod passwords;
mod sessions;
mod verification;

pub use self::keys::is_service_key;

use std::sync::Arc;

use diesel_async::AsyncPgConnection;
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;

use super::model::{Client, Purpose, check_image, check_name};
use super::operator::OperatorTokens;
use super::password::Hasher;
use super::repository::sessions::SessionRepository;
use super::repository::throttle::ThrottleRepository;
use super::repository::tokens::TokenRepository;
use super::repository::users::UserRepository;
use super::{AuthError, Email, OperatorToken, PasswordPolicy, Session, SignUp, SignedIn, Started, User, random};
use crate::audit::{self, Actor, AuditEntry, Origin, Resource};
use crate::billing::Billing;
use crate::clock::SharedClock;
use crate::db::{Db, DbError};
use crate::notify;

/// Letters and digits of a session's token: 190 bits.
const SESSION_TOKEN_CHARS: usize = 32;
/// Sign-ins that failed this long ago no longer slow down the next.
const FAILURES_FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_mins(15);

/// When the configured address makes its owner a platform administrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdminGrant {
    /// Once the address is known to be theirs.
    #[default]
    WhenVerified,
    /// At once: for machines that send no mail. Whoever signs up with the address first is it.
    AtSignUp,
}

/// How the domain behaves.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// Where browsers reach this server, for links in mails; without a slash at the end.
    pub base_url: String,
    /// Where browsers reach the user interface, for links in mails; without a slash at the end.
    pub ui_url: String,
    /// Which passwords are accepted.
    pub password: PasswordPolicy,
    /// How many passwords are hashed at once, each in 19 MiB.
    pub parallel_hashes: usize,
    /// Whoever has this address administers the platform.
    pub platform_admin_email: Option<Email>,
    /// When that begins.
    pub platform_admin_grant: AdminGrant,
    /// Tokens that are configured instead of stored.
    pub operator_tokens: Vec<OperatorToken>,
}

impl AuthConfig {
    /// Four hashes at once, passwords of 8 to 128 characters, no administrator and no operator tokens.
    pub fn new(base_url: impl Into<String>, ui_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            ui_url: ui_url.into(),
            password: PasswordPolicy::default(),
            parallel_hashes: 4,
            platform_admin_email: None,
            platform_admin_grant: AdminGrant::default(),
            operator_tokens: Vec::new(),
        }
    }
}

/// Who is calling. Cheap to clone.
#[derive(Clone)]
pub struct Auth {
    db: Db,
    clock: SharedClock,
    billing: Billing,
    hasher: Hasher,
    operators: Arc<OperatorTokens>,
    config: Arc<AuthConfig>,
}

impl Auth {
    /// The domain on this database; `billing` books what a verified address brings.
    pub fn new(db: Db, clock: SharedClock, billing: Billing, mut config: AuthConfig) -> Self {
        let hasher = Hasher::new(config.parallel_hashes);
        let operators = Arc::new(OperatorTokens::new(std::mem::take(&mut config.operator_tokens)));
        Self { db, clock, billing, hasher, operators, config: Arc::new(config) }
    }

    /// Which passwords are accepted.
    pub fn password_policy(&self) -> PasswordPolicy {
        self.config.password
    }

    /// Makes a user with a personal tenant, queues the mail that verifies the address, and begins a session.
    ///
    /// # Errors
    /// [`AuthError::EmailTaken`]; [`AuthError::InvalidName`], [`AuthError::InvalidImage`].
    pub async fn sign_up(&self, origin: &Origin, sign_up: SignUp) -> Result<Started, AuthError> {
        check_name(&sign_up.name)?;
        check_image(sign_up.image.as_deref())?;
        let password_hash = self.hasher.hash(&sign_up.password).await?;
        let now = self.clock.now();
        self.db
            .transaction(async |conn| {
                let user = UserRepository::new(conn).insert(now, &sign_up, &password_hash).await?;
                let user = user.ok_or(AuthError::EmailTaken)?;
                let origin = Origin { actor: Actor::User(user.id), ..origin.clone() };
                self.send_verification_in(conn, now, &user).await?;
                if self.config.platform_admin_grant == AdminGrant::AtSignUp {
                    self.grant_configured_admin_in(conn, now, &user).await?;
                }
                record(conn, now, &origin, &user, "user.sign_up").await?;
                begin_session_in(conn, now, &origin, user, sign_up.remember).await
            })
            .await
    }

    /// Begins a session for whoever knows the password. Takes as long for an unknown address as for a wrong password.
    ///
    /// # Errors
    /// [`AuthError::InvalidCredentials`]; [`AuthError::TooManyAttempts`] after several to this account that failed.
    pub async fn sign_in(
        &self,
        origin: &Origin,
        email: &Email,
        password: &SecretString,
        remember: bool,
    ) -> Result<Started, AuthError> {
        let account_hash = random::digest(email.as_str());
        self.begin_sign_in(&account_hash, self.clock.now()).await?;
        let credential = {
            let mut conn = self.db.connection().await?;
            UserRepository::new(&mut conn).find_credential(email).await?
        };
        let hash = credential.as_ref().map(|credential| credential.password_hash.as_str());
        let verified = self.hasher.verify(password, hash).await?;
        let now = self.clock.now();
        let Some(credential) = credential else { return Err(AuthError::InvalidCredentials) };
        if !verified {
            self.record_failed_sign_in(now, origin, &credential.user_id.to_string()).await?;
            return Err(AuthError::InvalidCredentials);
        }
        self.db
            .transaction(async |conn| {
                let mut users = UserRepository::new(conn);
                // The password may have been changed since: a session must not begin with one that no longer counts.
                if !users.hold_credential(&credential).await? {
                    return Err(AuthError::InvalidCredentials);
                }
                let user = users.find(credential.user_id).await?.ok_or(AuthError::InvalidCredentials)?;
                ThrottleRepository::new(conn).forget_sign_ins(&account_hash).await?;
                let origin = Origin { actor: Actor::User(user.id), ..origin.clone() };
                record(conn, now, &origin, &user, "user.sign_in").await?;
                begin_session_in(conn, now, &origin, user, remember).await
            })
            .await
    }

    /// Counts an attempt as failed before it is made, so that many at once cannot all be the first.
    async fn begin_sign_in(&self, account_hash: &[u8; 32], now: Timestamp) -> Result<(), AuthError> {
        self.db
            .transaction(async |conn| {
                let mut throttle = ThrottleRepository::new(conn);
                let counted = throttle.begin_sign_in(account_hash, now, now - FAILURES_FORGOTTEN_AFTER).await?;
                let Some(attempts) = counted else {
                    let until = throttle.blocked_until(account_hash).await?.unwrap_or(now);
                    return Err(AuthError::TooManyAttempts { retry_after: until.duration_since(now) });
                };
                let delay = super::model::sign_in_delay(attempts);
                if delay.is_positive() {
                    throttle.block_sign_in(account_hash, now + delay).await?;
                }
                Ok(())
            })
            .await
    }

    async fn record_failed_sign_in(&self, now: Timestamp, origin: &Origin, user: &str) -> Result<(), DbError> {
        let origin = Origin { actor: Actor::System("sign-in"), ..origin.clone() };
        let entry = AuditEntry {
            outcome: audit::Outcome::Failure,
            ..AuditEntry::success(&origin, None, "user.sign_in", Resource::new("user", user))
        };
        let mut conn = self.db.connection().await?;
        audit::record_in(&mut conn, now, &entry).await
    }

    /// Queues the mail with the link that verifies the user's address; earlier links stop working.
    async fn send_verification_in(
        &self,
        conn: &mut AsyncPgConnection,
        now: Timestamp,
        user: &User,
    ) -> Result<(), DbError> {
        let token = random::hexadecimal::<32>();
        let id =
            TokenRepository::new(conn).replace(now, Purpose::VerifyEmail, user, &random::digest_of(&token)).await?;
        let mail = notify::templates::verify_email(id, user.email.as_str(), &self.config.base_url, &token);
        notify::enqueue_in(conn, now, &mail).await
    }

    /// Forgets what has expired: sessions, tokens and failed sign-ins. Periodic; takes no arguments.
    ///
    /// # Errors
    /// [`AuthError::Storage`].
    pub async fn purge(&self) -> Result<usize, AuthError> {
        let now = self.clock.now();
        let mut conn = self.db.connection().await?;
        let sessions = SessionRepository::new(&mut conn).purge(now).await?;
        let tokens = TokenRepository::new(&mut conn).purge(now).await?;
        let attempts = ThrottleRepository::new(&mut conn).purge_sign_ins(now - FAILURES_FORGOTTEN_AFTER).await?;
        Ok(sessions + tokens + attempts)
    }
}

/// Begins a session in the caller's transaction.
async fn begin_session_in(
    conn: &mut AsyncPgConnection,
    now: Timestamp,
    origin: &Origin,
    user: User,
    remember: bool,
) -> Result<Started, AuthError> {
    let token = random::letters_and_digits(SESSION_TOKEN_CHARS);
    let client = Client { address: origin.client_address, user_agent: origin.user_agent.clone() };
    let session = Session::begin(user.id, remember, now, client);
    SessionRepository::new(conn).insert(&session, &random::digest_of(&token)).await?;
    let platform_admin = UserRepository::new(conn).is_platform_admin(user.id).await?;
    let tenant_id = user.personal_tenant();
    Ok(Started { signed_in: SignedIn { user, session, tenant_id, platform_admin }, token })
}

/// Writes that something was done to a user.
async fn record(
    conn: &mut AsyncPgConnection,
    now: Timestamp,
    origin: &Origin,
    user: &User,
    action: &'static str,
) -> Result<(), DbError> {
    let resource = Resource::new("user", user.id);
    audit::record_in(conn, now, &AuditEntry::success(origin, Some(user.personal_tenant()), action, resource)).await
}
