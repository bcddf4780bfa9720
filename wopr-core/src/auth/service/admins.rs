use diesel_async::AsyncPgConnection;
use jiff::Timestamp;

use super::{Auth, record};
use crate::audit::Origin;
use crate::auth::repository::users::UserRepository;
use crate::auth::{AuthError, Email, User};
use crate::db::DbError;

impl Auth {
    /// Makes whoever has signed up with the address a platform administrator. Doing so again changes nothing.
    ///
    /// # Errors
    /// [`AuthError::EmailUnknown`].
    pub async fn grant_platform_admin(&self, origin: &Origin, email: &Email) -> Result<User, AuthError> {
        let now = self.clock.now();
        self.db
            .transaction(async |conn| {
                let user = UserRepository::new(conn).find_by_email(email).await?.ok_or(AuthError::EmailUnknown)?;
                grant_in(conn, now, origin, &user).await?;
                Ok(user)
            })
            .await
    }

    /// Takes platform administration away from a user; from one who has none nothing.
    ///
    /// # Errors
    /// [`AuthError::EmailUnknown`]; [`AuthError::LastPlatformAdmin`] when nobody would be left.
    pub async fn revoke_platform_admin(&self, origin: &Origin, email: &Email) -> Result<(), AuthError> {
        let now = self.clock.now();
        self.db
            .transaction(async |conn| {
                let mut users = UserRepository::new(conn);
                let user = users.find_by_email(email).await?.ok_or(AuthError::EmailUnknown)?;
                let admins = users.platform_admins_for_update().await?;
                if !admins.contains(&user.id) {
                    return Ok(());
                }
                if admins.len() == 1 {
                    return Err(AuthError::LastPlatformAdmin);
                }
                users.remove_platform_admin(user.id).await?;
                Ok(record(conn, now, origin, &user, "platform_admin.revoke").await?)
            })
            .await
    }

    /// Makes the user a platform administrator if the configuration names the user's address.
    pub(super) async fn grant_configured_admin_in(
        &self,
        conn: &mut AsyncPgConnection,
        now: Timestamp,
        user: &User,
    ) -> Result<(), DbError> {
        if self.config.platform_admin_email.as_ref() != Some(&user.email) {
            return Ok(());
        }
        grant_in(conn, now, &Origin::system("configuration"), user).await
    }
}

async fn grant_in(conn: &mut AsyncPgConnection, now: Timestamp, origin: &Origin, user: &User) -> Result<(), DbError> {
    let granted_by = origin.actor.to_string();
    if !UserRepository::new(conn).add_platform_admin(now, user.id, &granted_by).await? {
        return Ok(());
    }
    record(conn, now, origin, user, "platform_admin.grant").await
}
