use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret as _, SecretString};

use super::{Auth, begin_session_in, record};
use crate::audit::{Actor, Origin};
use crate::auth::model::Purpose;
use crate::auth::repository::sessions::{SessionRepository, Which};
use crate::auth::repository::throttle::ThrottleRepository;
use crate::auth::repository::tokens::TokenRepository;
use crate::auth::repository::users::{Credential, UserRepository};
use crate::auth::{AuthError, Email, NewPassword, SignedIn, Started, random};
use crate::notify;

/// Letters and digits of a password reset token: 142 bits.
const RESET_TOKEN_CHARS: usize = 24;

impl Auth {
    /// Replaces the signed-in user's password and ends the user's other sessions; with `rotate` this one too, for a
    /// new one.
    ///
    /// # Errors
    /// [`AuthError::WrongPassword`]; [`AuthError::TooManyAttempts`].
    pub async fn change_password(
        &self,
        origin: &Origin,
        caller: &SignedIn,
        current: &SecretString,
        new: &NewPassword,
        rotate: bool,
    ) -> Result<Option<Started>, AuthError> {
        let credential = self.check_password(caller, current).await?;
        let password_hash = self.hasher.hash(new).await?;
        let now = self.clock.now();
        self.db
            .transaction(async |conn| {
                let mut users = UserRepository::new(conn);
                // Of two changes at once, the second one's current password is no longer that.
                if !users.set_password(now, caller.user.id, &password_hash, Some(&credential)).await? {
                    return Err(AuthError::WrongPassword);
                }
                record(conn, now, origin, &caller.user, "user.change_password").await?;
                TokenRepository::new(conn).delete(Purpose::ResetPassword, caller.user.id).await?;
                let ended = if rotate { Which::All } else { Which::AllBut(caller.session.id) };
                SessionRepository::new(conn).delete(caller.user.id, &ended).await?;
                if !rotate {
                    return Ok(None);
                }
                let remembered = caller.session.remembered;
                begin_session_in(conn, now, origin, caller.user.clone(), remembered).await.map(Some)
            })
            .await
    }

    /// The signed-in user's password, if this is it. Guesses are slowed down as at sign-in.
    pub(super) async fn check_password(
        &self,
        caller: &SignedIn,
        password: &SecretString,
    ) -> Result<Credential, AuthError> {
        let account_hash = random::digest(caller.user.email.as_str());
        self.begin_sign_in(&account_hash, self.clock.now()).await?;
        let credential = {
            let mut conn = self.db.connection().await?;
            UserRepository::new(&mut conn).find_credential_of(caller.user.id).await?
        };
        let hash = credential.as_ref().map(|credential| credential.password_hash.as_str());
        let verified = self.hasher.verify(password, hash).await?;
        let credential = credential.filter(|_| verified).ok_or(AuthError::WrongPassword)?;
        let mut conn = self.db.connection().await?;
        ThrottleRepository::new(&mut conn).forget_sign_ins(&account_hash).await?;
        Ok(credential)
    }

    /// Queues a mail with a link that lets its reader set a new password, if anybody has signed up with the address.
    /// The caller is not told whether. `redirect_to` is where the link leads in the end, checked by the caller.
    ///
    /// # Errors
    /// [`AuthError::Storage`].
    pub async fn request_password_reset(
        &self,
        origin: &Origin,
        email: &Email,
        redirect_to: Option<&str>,
    ) -> Result<(), AuthError> {
        let token = random::letters_and_digits(RESET_TOKEN_CHARS);
        let url = self.reset_url(&token, redirect_to);
        let now = self.clock.now();
        self.db
            .transaction(async |conn| {
                let Some(user) = UserRepository::new(conn).find_by_email(email).await? else { return Ok(()) };
                let id = TokenRepository::new(conn)
                    .replace(now, Purpose::ResetPassword, &user, &random::digest_of(&token))
                    .await?;
                let mail = notify::templates::password_reset(id, email.as_str(), &url);
                notify::enqueue_in(conn, now, &mail).await?;
                let origin = Origin { actor: Actor::System("password-reset"), ..origin.clone() };
                Ok(record(conn, now, &origin, &user, "user.request_password_reset").await?)
            })
            .await
    }

    /// The link in the mail: to this server, which looks at the token and passes it on.
    fn reset_url(&self, token: &SecretString, redirect_to: Option<&str>) -> SecretString {
        let own = format!("{}/auth/reset-password", self.config.ui_url);
        let callback = utf8_percent_encode(redirect_to.unwrap_or(&own), NON_ALPHANUMERIC).to_string();
        let (base, token) = (&self.config.base_url, token.expose_secret());
        format!("{base}/api/auth/reset-password/{token}?callbackURL={callback}").into()
    }

    /// Whether a password reset token can still be used.
    ///
    /// # Errors
    /// [`AuthError::Storage`].
    pub async fn is_reset_token_usable(&self, token: &str) -> Result<bool, AuthError> {
        let now = self.clock.now();
        let mut conn = self.db.connection().await?;
        let mut tokens = TokenRepository::new(&mut conn);
        Ok(tokens.is_usable(now, Purpose::ResetPassword, &random::digest(token)).await?)
    }

    /// Sets a new password with a token from a mail, and ends all of the user's sessions. The token works once.
    ///
    /// # Errors
    /// [`AuthError::InvalidToken`].
    pub async fn reset_password(&self, origin: &Origin, token: &str, new: &NewPassword) -> Result<(), AuthError> {
        // Hashing is work: not for tokens that somebody made up.
        if !self.is_reset_token_usable(token).await? {
            return Err(AuthError::InvalidToken);
        }
        let password_hash = self.hasher.hash(new).await?;
        let now = self.clock.now();
        self.db
            .transaction(async |conn| {
                let consumed =
                    TokenRepository::new(conn).consume(now, Purpose::ResetPassword, &random::digest(token)).await?;
                let (user_id, _) = consumed.ok_or(AuthError::InvalidToken)?;
                let mut users = UserRepository::new(conn);
                let user = users.find(user_id).await?.ok_or(AuthError::InvalidToken)?;
                if !users.set_password(now, user.id, &password_hash, None).await? {
                    return Err(AuthError::InvalidToken);
                }
                SessionRepository::new(conn).delete(user.id, &Which::All).await?;
                ThrottleRepository::new(conn).forget_sign_ins(&random::digest(user.email.as_str())).await?;
                let origin = Origin { actor: Actor::User(user.id), ..origin.clone() };
                Ok(record(conn, now, &origin, &user, "user.reset_password").await?)
            })
            .await
    }
}
