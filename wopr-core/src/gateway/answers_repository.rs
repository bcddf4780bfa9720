//! The SQL of answers that are kept. Row structs stay inside.

use bytes::Bytes;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;
use uuid::Uuid;

use crate::db::DbError;
use crate::db::schema::gateway::gateway_answers;
use crate::ids::{CallId, LeaseHolder, TenantId};

/// Somebody who wants to make a call that is to be made once.
pub(super) struct Claim {
    pub(super) tenant: TenantId,
    pub(super) key_hash: [u8; 32],
    pub(super) body_hash: [u8; 32],
    pub(super) holder: LeaseHolder,
    pub(super) attempt: Uuid,
}

/// What became of a claim.
pub(super) enum Claimed {
    /// The call is to be made.
    Ours,
    /// It is being made.
    InProgress,
    /// The key is that of another request.
    OtherRequest,
    /// It was made.
    Answered {
        call_id: CallId,
        content_type: String,
        /// Nothing if it was too long to be kept.
        body: Option<Bytes>,
    },
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = SqlUuid)]
    attempt: Uuid,
    #[diesel(sql_type = Binary)]
    body_hash: Vec<u8>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    call_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<Text>)]
    content_type: Option<String>,
    #[diesel(sql_type = Nullable<Binary>)]
    body: Option<Vec<u8>>,
}

pub(super) struct AnswersRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> AnswersRepository<'c> {
    pub(super) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// Claims a call until then, unless somebody else has claimed or made it. What has expired is not there any more.
    pub(super) async fn claim(&mut self, at: Timestamp, until: Timestamp, claim: &Claim) -> Result<Claimed, DbError> {
        let row: Row = diesel::sql_query(
            "INSERT INTO gateway_answers AS kept (tenant_id, key_hash, body_hash, holder, attempt, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (tenant_id, key_hash) DO UPDATE SET
                 body_hash = CASE WHEN kept.expires_at <= $6 THEN excluded.body_hash ELSE kept.body_hash END,
                 holder = CASE WHEN kept.expires_at <= $6 THEN excluded.holder ELSE kept.holder END,
                 attempt = CASE WHEN kept.expires_at <= $6 THEN excluded.attempt ELSE kept.attempt END,
                 call_id = CASE WHEN kept.expires_at > $6 THEN kept.call_id END,
                 content_type = CASE WHEN kept.expires_at > $6 THEN kept.content_type END,
                 body = CASE WHEN kept.expires_at > $6 THEN kept.body END,
                 created_at = CASE WHEN kept.expires_at <= $6 THEN excluded.created_at ELSE kept.created_at END,
                 expires_at = CASE WHEN kept.expires_at <= $6 THEN excluded.expires_at ELSE kept.expires_at END
             RETURNING attempt, body_hash, call_id, content_type, body",
        )
        .bind::<SqlUuid, _>(claim.tenant.as_uuid())
        .bind::<Binary, _>(&claim.key_hash[..])
        .bind::<Binary, _>(&claim.body_hash[..])
        .bind::<SqlUuid, _>(claim.holder.as_uuid())
        .bind::<SqlUuid, _>(claim.attempt)
        .bind::<Timestamptz, _>(at.to_diesel())
        .bind::<Timestamptz, _>(until.to_diesel())
        .get_result(self.conn)
        .await?;
        if row.attempt == claim.attempt {
            return Ok(Claimed::Ours);
        }
        if row.body_hash != claim.body_hash {
            return Ok(Claimed::OtherRequest);
        }
        Ok(match (row.call_id, row.content_type) {
            (Some(call_id), Some(content_type)) => {
                Claimed::Answered { call_id: CallId::from_uuid(call_id), content_type, body: row.body.map(Bytes::from) }
            }
            _ => Claimed::InProgress,
        })
    }

    /// Keeps an answer until then. A claim that somebody else has taken over keeps nothing.
    pub(super) async fn keep(
        &mut self,
        until: Timestamp,
        claim: &Claim,
        call_id: CallId,
        content_type: &str,
        body: Option<&[u8]>,
    ) -> Result<(), DbError> {
        diesel::update(gateway_answers::table.find((claim.tenant.as_uuid(), &claim.key_hash[..])))
            .filter(gateway_answers::attempt.eq(claim.attempt))
            .set((
                gateway_answers::call_id.eq(call_id.as_uuid()),
                gateway_answers::content_type.eq(content_type),
                gateway_answers::body.eq(body),
                gateway_answers::expires_at.eq(until.to_diesel()),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Lets the call be made again.
    pub(super) async fn release(&mut self, claim: &Claim) -> Result<(), DbError> {
        diesel::delete(gateway_answers::table.find((claim.tenant.as_uuid(), &claim.key_hash[..])))
            .filter(gateway_answers::attempt.eq(claim.attempt))
            .filter(gateway_answers::call_id.is_null())
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Lets calls be made again that this process is said to be making.
    pub(super) async fn release_of(&mut self, holder: LeaseHolder) -> Result<(), DbError> {
        diesel::delete(gateway_answers::table)
            .filter(gateway_answers::holder.eq(holder.as_uuid()))
            .filter(gateway_answers::call_id.is_null())
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Removes what has expired, and of each tenant the oldest answers beyond so many bytes.
    pub(super) async fn forget(&mut self, at: Timestamp, tenant_bytes: i64) -> Result<usize, DbError> {
        let expired = diesel::delete(gateway_answers::table)
            .filter(gateway_answers::expires_at.le(at.to_diesel()))
            .execute(self.conn)
            .await?;
        let beyond = diesel::sql_query(
            "DELETE FROM gateway_answers WHERE (tenant_id, key_hash) IN (
                 SELECT tenant_id, key_hash FROM (
                     SELECT tenant_id, key_hash, sum(octet_length(body)) OVER (
                         PARTITION BY tenant_id ORDER BY created_at DESC, key_hash) AS bytes
                     FROM gateway_answers WHERE body IS NOT NULL) sized
                 WHERE bytes > $1)",
        )
        .bind::<BigInt, _>(tenant_bytes)
        .execute(self.conn)
        .await?;
        Ok(expired + beyond)
    }
}
