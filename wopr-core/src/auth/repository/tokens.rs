use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;
use uuid::Uuid;

use crate::auth::User;
use crate::auth::model::Purpose;
use crate::db::DbError;
use crate::db::schema::auth::one_time_tokens;
use crate::ids::{OneTimeTokenId, UserId};

pub(in crate::auth) struct TokenRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> TokenRepository<'c> {
    pub(in crate::auth) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// Stores a token in place of the user's earlier ones for the same purpose. Answers its id.
    pub(in crate::auth) async fn replace(
        &mut self,
        at: Timestamp,
        purpose: Purpose,
        user: &User,
        token_hash: &[u8; 32],
    ) -> Result<OneTimeTokenId, DbError> {
        self.delete(purpose, user.id).await?;
        let id = OneTimeTokenId::new(at);
        diesel::insert_into(one_time_tokens::table)
            .values((
                one_time_tokens::id.eq(id.as_uuid()),
                one_time_tokens::purpose.eq(purpose.name()),
                one_time_tokens::token_hash.eq(token_hash.as_slice()),
                one_time_tokens::user_id.eq(user.id.as_uuid()),
                one_time_tokens::email.eq(user.email.as_str()),
                one_time_tokens::created_at.eq(at.to_diesel()),
                one_time_tokens::expires_at.eq((at + purpose.life()).to_diesel()),
            ))
            .execute(self.conn)
            .await?;
        Ok(id)
    }

    /// Uses a token up. Of several at once one gets it: it is one conditional statement.
    pub(in crate::auth) async fn consume(
        &mut self,
        at: Timestamp,
        purpose: Purpose,
        token_hash: &[u8; 32],
    ) -> Result<Option<(UserId, String)>, DbError> {
        let usable = one_time_tokens::table
            .filter(one_time_tokens::token_hash.eq(token_hash.as_slice()))
            .filter(one_time_tokens::purpose.eq(purpose.name()))
            .filter(one_time_tokens::consumed_at.is_null())
            .filter(one_time_tokens::expires_at.gt(at.to_diesel()));
        let row: Option<(Uuid, String)> = diesel::update(usable)
            .set(one_time_tokens::consumed_at.eq(at.to_diesel()))
            .returning((one_time_tokens::user_id, one_time_tokens::email))
            .get_result(self.conn)
            .await
            .optional()?;
        Ok(row.map(|(user, email)| (UserId::from_uuid(user), email)))
    }

    /// Whether a token could be used at `at`.
    pub(in crate::auth) async fn is_usable(
        &mut self,
        at: Timestamp,
        purpose: Purpose,
        token_hash: &[u8; 32],
    ) -> Result<bool, DbError> {
        let usable = one_time_tokens::table
            .filter(one_time_tokens::token_hash.eq(token_hash.as_slice()))
            .filter(one_time_tokens::purpose.eq(purpose.name()))
            .filter(one_time_tokens::consumed_at.is_null())
            .filter(one_time_tokens::expires_at.gt(at.to_diesel()));
        Ok(diesel::select(diesel::dsl::exists(usable)).get_result(self.conn).await?)
    }

    /// Forgets a user's unused tokens.
    pub(in crate::auth) async fn delete(&mut self, purpose: Purpose, user: UserId) -> Result<(), DbError> {
        let unused = one_time_tokens::table
            .filter(one_time_tokens::user_id.eq(user.as_uuid()))
            .filter(one_time_tokens::purpose.eq(purpose.name()))
            .filter(one_time_tokens::consumed_at.is_null());
        diesel::delete(unused).execute(self.conn).await?;
        Ok(())
    }

    /// Forgets tokens that have expired, used or not.
    pub(in crate::auth) async fn purge(&mut self, at: Timestamp) -> Result<usize, DbError> {
        let expired = one_time_tokens::table.filter(one_time_tokens::expires_at.le(at.to_diesel()));
        Ok(diesel::delete(expired).execute(self.conn).await?)
    }
}
