use secrecy::SecretString;

use super::{Auth, record};
use crate::audit::{self, Actor, AuditEntry, Origin, Resource};
use crate::auth::model::{check_image, check_name};
use crate::auth::repository::sessions::{SessionRepository, Which};
use crate::auth::repository::users::UserRepository;
use crate::auth::{Account, AuthError, ImageChange, Refreshed, Session, SignedIn, User, random};

impl Auth {
    /// Who presents this session token, if it is valid.
    ///
    /// # Errors
    /// [`AuthError::Storage`].
    pub async fn find_session(&self, token: &str) -> Result<Option<SignedIn>, AuthError> {
        let now = self.clock.now();
        let mut conn = self.db.connection().await?;
        Ok(SessionRepository::new(&mut conn).find(&random::digest(token), now).await?)
    }

    /// As [`Auth::find_session`], and extends a remembered session that has six days or less left to seven again.
    ///
    /// # Errors
    /// [`AuthError::Storage`].
    pub async fn refresh_session(&self, token: &str) -> Result<Option<Refreshed>, AuthError> {
        let now = self.clock.now();
        let mut conn = self.db.connection().await?;
        let mut sessions = SessionRepository::new(&mut conn);
        let Some(mut signed_in) = sessions.find(&random::digest(token), now).await? else { return Ok(None) };
        let end = signed_in.session.extended_end(now);
        if let Some(expires_at) = end {
            sessions.extend(signed_in.session.id, now, expires_at).await?;
            signed_in.session.expires_at = expires_at;
            signed_in.session.updated_at = now;
        }
        Ok(Some(Refreshed { signed_in, extended: end.is_some() }))
    }

    /// Ends the session of this token. Without one nothing happens.
    ///
    /// # Errors
    /// [`AuthError::Storage`].
    pub async fn sign_out(&self, origin: &Origin, token: &str) -> Result<(), AuthError> {
        let now = self.clock.now();
        self.db
            .transaction(async |conn| {
                let ended = SessionRepository::new(conn).delete_by_token(&random::digest(token)).await?;
                let Some((session, user)) = ended else { return Ok(()) };
                let origin = Origin { actor: Actor::User(user), ..origin.clone() };
                let resource = Resource::new("session", session);
                let entry = AuditEntry::success(&origin, Some(user.into()), "user.sign_out", resource);
                Ok(audit::record_in(conn, now, &entry).await?)
            })
            .await
    }

    /// The user's valid sessions, newest first.
    ///
    /// # Errors
    /// [`AuthError::Storage`].
    pub async fn list_sessions(&self, caller: &SignedIn) -> Result<Vec<Session>, AuthError> {
        let now = self.clock.now();
        let mut conn = self.db.connection().await?;
        Ok(SessionRepository::new(&mut conn).list(caller.user.id, now).await?)
    }

    /// Ends one of the user's own sessions, named by its id or by its token. One that is not theirs is left alone.
    ///
    /// # Errors
    /// [`AuthError::Storage`].
    pub async fn revoke_session(&self, origin: &Origin, caller: &SignedIn, name: &str) -> Result<(), AuthError> {
        let which = Which::One { id: name.parse().ok(), token_hash: random::digest(name) };
        self.revoke(origin, caller, which).await
    }

    /// Ends all of the user's sessions but the one that asks.
    ///
    /// # Errors
    /// [`AuthError::Storage`].
    pub async fn revoke_other_sessions(&self, origin: &Origin, caller: &SignedIn) -> Result<(), AuthError> {
        self.revoke(origin, caller, Which::AllBut(caller.session.id)).await
    }

    /// Ends all of the user's sessions, the one that asks included.
    ///
    /// # Errors
    /// [`AuthError::Storage`].
    pub async fn revoke_sessions(&self, origin: &Origin, caller: &SignedIn) -> Result<(), AuthError> {
        self.revoke(origin, caller, Which::All).await
    }

    async fn revoke(&self, origin: &Origin, caller: &SignedIn, which: Which) -> Result<(), AuthError> {
        let now = self.clock.now();
        self.db
            .transaction(async |conn| {
                let ended = SessionRepository::new(conn).delete(caller.user.id, &which).await?;
                let resource = Resource::new("user", caller.user.id);
                let entry = AuditEntry::success(origin, Some(caller.tenant_id), "session.revoke", resource)
                    .with("ended", ended);
                if ended == 0 { Ok(()) } else { Ok(audit::record_in(conn, now, &entry).await?) }
            })
            .await
    }

    /// Changes the user's name or image, whichever is given.
    ///
    /// # Errors
    /// [`AuthError::InvalidName`], [`AuthError::InvalidImage`].
    pub async fn update_user(
        &self,
        origin: &Origin,
        caller: &SignedIn,
        name: Option<&str>,
        image: ImageChange<'_>,
    ) -> Result<User, AuthError> {
        name.map_or(Ok(()), check_name)?;
        check_image(image.column().flatten())?;
        let now = self.clock.now();
        self.db
            .transaction(async |conn| {
                let user = UserRepository::new(conn).update(now, caller.user.id, name, image).await?;
                let user = user.ok_or(AuthError::UserNotFound(caller.user.id))?;
                record(conn, now, origin, &user, "user.update").await?;
                Ok(user)
            })
            .await
    }

    /// The ways the user signs in.
    ///
    /// # Errors
    /// [`AuthError::Storage`].
    pub async fn list_accounts(&self, caller: &SignedIn) -> Result<Vec<Account>, AuthError> {
        let mut conn = self.db.connection().await?;
        Ok(UserRepository::new(&mut conn).list_accounts(caller.user.id).await?)
    }

    /// Checks the signed-in user's password.
    ///
    /// # Errors
    /// [`AuthError::WrongPassword`]; [`AuthError::TooManyAttempts`].
    pub async fn verify_password(&self, caller: &SignedIn, password: &SecretString) -> Result<(), AuthError> {
        self.check_password(caller, password).await.map(drop)
    }
}
