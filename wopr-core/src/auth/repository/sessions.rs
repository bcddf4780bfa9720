use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;
use uuid::Uuid;

use super::users::UserRow;
use crate::auth::{Session, SignedIn, User};
use crate::db::DbError;
use crate::db::schema::auth::{platform_admins, sessions, users};
use crate::ids::{SessionId, UserId};

#[derive(Queryable, Selectable)]
#[diesel(table_name = sessions, check_for_backend(diesel::pg::Pg))]
struct SessionRow {
    id: Uuid,
    user_id: Uuid,
    remembered: bool,
    expires_at: jiff_diesel::Timestamp,
    created_at: jiff_diesel::Timestamp,
    updated_at: jiff_diesel::Timestamp,
    client_address: Option<String>,
    user_agent: Option<String>,
}

impl From<SessionRow> for Session {
    fn from(row: SessionRow) -> Self {
        Self {
            id: SessionId::from_uuid(row.id),
            user_id: UserId::from_uuid(row.user_id),
            remembered: row.remembered,
            expires_at: row.expires_at.to_jiff(),
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
            client_address: row.client_address,
            user_agent: row.user_agent,
        }
    }
}

/// Which of a user's sessions to end.
pub(in crate::auth) enum Which {
    /// All of them.
    All,
    /// All but this one.
    AllBut(SessionId),
    /// This one, by its id or by the digest of its token.
    One { id: Option<SessionId>, token_hash: [u8; 32] },
}

pub(in crate::auth) struct SessionRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> SessionRepository<'c> {
    pub(in crate::auth) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    pub(in crate::auth) async fn insert(&mut self, session: &Session, token_hash: &[u8; 32]) -> Result<(), DbError> {
        diesel::insert_into(sessions::table)
            .values((
                sessions::id.eq(session.id.as_uuid()),
                sessions::user_id.eq(session.user_id.as_uuid()),
                sessions::token_hash.eq(token_hash.as_slice()),
                sessions::remembered.eq(session.remembered),
                sessions::expires_at.eq(session.expires_at.to_diesel()),
                sessions::created_at.eq(session.created_at.to_diesel()),
                sessions::updated_at.eq(session.updated_at.to_diesel()),
                sessions::client_address.eq(&session.client_address),
                sessions::user_agent.eq(&session.user_agent),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// The session that the token belongs to, if it is valid at `at`.
    pub(in crate::auth) async fn find(
        &mut self,
        token_hash: &[u8; 32],
        at: Timestamp,
    ) -> Result<Option<SignedIn>, DbError> {
        let row: Option<(SessionRow, UserRow, Option<Uuid>)> = sessions::table
            .inner_join(users::table.left_join(platform_admins::table))
            .filter(sessions::token_hash.eq(token_hash.as_slice()))
            .filter(sessions::expires_at.gt(at.to_diesel()))
            .select((SessionRow::as_select(), UserRow::as_select(), platform_admins::user_id.nullable()))
            .first(self.conn)
            .await
            .optional()?;
        let Some((session, user, admin)) = row else { return Ok(None) };
        let user = User::try_from(user)?;
        let tenant_id = user.personal_tenant();
        Ok(Some(SignedIn { user, session: session.into(), tenant_id, platform_admin: admin.is_some() }))
    }

    /// Moves the end of a session that is still there.
    pub(in crate::auth) async fn extend(
        &mut self,
        id: SessionId,
        at: Timestamp,
        expires_at: Timestamp,
    ) -> Result<(), DbError> {
        diesel::update(sessions::table.find(id.as_uuid()))
            .set((sessions::expires_at.eq(expires_at.to_diesel()), sessions::updated_at.eq(at.to_diesel())))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// A user's valid sessions, newest first.
    pub(in crate::auth) async fn list(&mut self, user: UserId, at: Timestamp) -> Result<Vec<Session>, DbError> {
        let rows: Vec<SessionRow> = sessions::table
            .filter(sessions::user_id.eq(user.as_uuid()))
            .filter(sessions::expires_at.gt(at.to_diesel()))
            .order((sessions::created_at.desc(), sessions::id.desc()))
            .select(SessionRow::as_select())
            .load(self.conn)
            .await?;
        Ok(rows.into_iter().map(Session::from).collect())
    }

    /// Ends sessions of a user. Answers how many.
    pub(in crate::auth) async fn delete(&mut self, user: UserId, which: &Which) -> Result<usize, DbError> {
        let of_user = diesel::delete(sessions::table).filter(sessions::user_id.eq(user.as_uuid()));
        let ended = match which {
            Which::All => of_user.execute(self.conn).await?,
            Which::AllBut(id) => of_user.filter(sessions::id.ne(id.as_uuid())).execute(self.conn).await?,
            Which::One { id, token_hash } => {
                let by_token = sessions::token_hash.eq(token_hash.as_slice());
                let by_id = sessions::id.nullable().eq(id.map(SessionId::as_uuid));
                of_user.filter(by_token.nullable().or(by_id)).execute(self.conn).await?
            }
        };
        Ok(ended)
    }

    /// Ends the session of this token, whosever it is. Answers which it was.
    pub(in crate::auth) async fn delete_by_token(
        &mut self,
        token_hash: &[u8; 32],
    ) -> Result<Option<(SessionId, UserId)>, DbError> {
        let row: Option<(Uuid, Uuid)> =
            diesel::delete(sessions::table.filter(sessions::token_hash.eq(token_hash.as_slice())))
                .returning((sessions::id, sessions::user_id))
                .get_result(self.conn)
                .await
                .optional()?;
        Ok(row.map(|(id, user)| (SessionId::from_uuid(id), UserId::from_uuid(user))))
    }

    /// Forgets sessions that have expired.
    pub(in crate::auth) async fn purge(&mut self, at: Timestamp) -> Result<usize, DbError> {
        let expired = sessions::table.filter(sessions::expires_at.le(at.to_diesel()));
        Ok(diesel::delete(expired).execute(self.conn).await?)
    }
}
