use super::{AdminGrant, Auth, record};
use crate::audit::{Actor, Origin};
use crate::auth::model::Purpose;
use crate::auth::repository::tokens::TokenRepository;
use crate::auth::repository::users::UserRepository;
use crate::auth::{AuthError, SignedIn, User, random};
use crate::notify;

impl Auth {
    /// Queues another verification mail; earlier links stop working. A verified user gets none.
    ///
    /// # Errors
    /// [`AuthError::Storage`].
    pub async fn resend_verification(&self, origin: &Origin, caller: &SignedIn) -> Result<(), AuthError> {
        let now = self.clock.now();
        self.db
            .transaction(async |conn| {
                let user = UserRepository::new(conn).find(caller.user.id).await?;
                let user = user.ok_or(AuthError::UserNotFound(caller.user.id))?;
                if user.email_verified_at.is_some() {
                    return Ok(());
                }
                self.send_verification_in(conn, now, &user).await?;
                Ok(record(conn, now, origin, &user, "user.resend_verification").await?)
            })
            .await
    }

    /// Takes the token of a verification mail: the address is verified, the signup grant booked and the welcome mail
    /// queued, or none of it. The token works once.
    ///
    /// # Errors
    /// [`AuthError::InvalidToken`].
    pub async fn verify_email(&self, origin: &Origin, token: &str) -> Result<User, AuthError> {
        let now = self.clock.now();
        self.db
            .transaction(async |conn| {
                let consumed =
                    TokenRepository::new(conn).consume(now, Purpose::VerifyEmail, &random::digest(token)).await?;
                let (user_id, email) = consumed.ok_or(AuthError::InvalidToken)?;
                let verified = UserRepository::new(conn).mark_verified(now, user_id, &email).await?;
                let user = verified.ok_or(AuthError::InvalidToken)?;
                let origin = Origin { actor: Actor::User(user.id), ..origin.clone() };
                if self.config.platform_admin_grant == AdminGrant::WhenVerified {
                    self.grant_configured_admin_in(conn, now, &user).await?;
                }
                self.billing.grant_signup_in(conn, now, user.personal_tenant(), user.email.as_str()).await?;
                let welcome = notify::templates::welcome(user.id, user.email.as_str(), &self.config.ui_url);
                notify::enqueue_in(conn, now, &welcome).await?;
                record(conn, now, &origin, &user, "user.verify_email").await?;
                Ok(user)
            })
            .await
    }
}
