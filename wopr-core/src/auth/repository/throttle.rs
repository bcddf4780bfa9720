use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Integer, Text, Timestamptz};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;

use crate::db::DbError;
use crate::db::schema::auth::{sign_in_attempts, throttle_counters};

#[derive(QueryableByName)]
struct Window {
    #[diesel(sql_type = BigInt)]
    hits: i64,
    #[diesel(sql_type = Timestamptz)]
    window_ends_at: jiff_diesel::Timestamp,
}

#[derive(QueryableByName)]
struct Attempts {
    #[diesel(sql_type = Integer)]
    attempts: i32,
}

pub(in crate::auth) struct ThrottleRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> ThrottleRepository<'c> {
    pub(in crate::auth) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// Counts one in the current window, or in a new one that ends at `ends_at`. Answers the count and the window's end.
    pub(in crate::auth) async fn hit(
        &mut self,
        scope: &str,
        key: &str,
        at: Timestamp,
        ends_at: Timestamp,
    ) -> Result<(u64, Timestamp), DbError> {
        let window: Window = diesel::sql_query(
            "INSERT INTO throttle_counters AS counter (scope, key, hits, window_ends_at) VALUES ($1, $2, 1, $4)
             ON CONFLICT (scope, key) DO UPDATE SET
                 hits = CASE WHEN counter.window_ends_at > $3 THEN counter.hits + 1 ELSE 1 END,
                 window_ends_at = CASE WHEN counter.window_ends_at > $3 THEN counter.window_ends_at ELSE $4 END
             RETURNING hits, window_ends_at",
        )
        .bind::<Text, _>(scope)
        .bind::<Text, _>(key)
        .bind::<Timestamptz, _>(at.to_diesel())
        .bind::<Timestamptz, _>(ends_at.to_diesel())
        .get_result(self.conn)
        .await?;
        let hits = u64::try_from(window.hits).map_err(|error| DbError::inconsistent("throttle_counters", error))?;
        Ok((hits, window.window_ends_at.to_jiff()))
    }

    /// Forgets windows that are over.
    pub(in crate::auth) async fn purge(&mut self, at: Timestamp) -> Result<usize, DbError> {
        let over = throttle_counters::table.filter(throttle_counters::window_ends_at.le(at.to_diesel()));
        Ok(diesel::delete(over).execute(self.conn).await?)
    }

    /// Begins a sign-in to an account: counts it as failed beforehand, unless the account is closed for now (`None`).
    /// Attempts of before `forgotten_before` no longer count.
    pub(in crate::auth) async fn begin_sign_in(
        &mut self,
        account_hash: &[u8; 32],
        at: Timestamp,
        forgotten_before: Timestamp,
    ) -> Result<Option<u32>, DbError> {
        let row: Option<Attempts> = diesel::sql_query(
            "INSERT INTO sign_in_attempts AS known (account_hash, attempts, last_attempt_at, blocked_until)
             VALUES ($1, 1, $2, $2)
             ON CONFLICT (account_hash) DO UPDATE SET
                 attempts = CASE WHEN known.last_attempt_at < $3 THEN 1 ELSE least(known.attempts, 1000000) + 1 END,
                 last_attempt_at = $2
                 WHERE known.blocked_until <= $2
             RETURNING attempts",
        )
        .bind::<Binary, _>(account_hash.as_slice())
        .bind::<Timestamptz, _>(at.to_diesel())
        .bind::<Timestamptz, _>(forgotten_before.to_diesel())
        .get_result(self.conn)
        .await
        .optional()?;
        row.map(|row| u32::try_from(row.attempts).map_err(|error| DbError::inconsistent("sign_in_attempts", error)))
            .transpose()
    }

    /// Closes an account to sign-ins for a while.
    pub(in crate::auth) async fn block_sign_in(
        &mut self,
        account_hash: &[u8; 32],
        until: Timestamp,
    ) -> Result<(), DbError> {
        diesel::update(sign_in_attempts::table.find(account_hash.as_slice()))
            .set(sign_in_attempts::blocked_until.eq(until.to_diesel()))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// Until when an account is closed to sign-ins.
    pub(in crate::auth) async fn blocked_until(
        &mut self,
        account_hash: &[u8; 32],
    ) -> Result<Option<Timestamp>, DbError> {
        let row: Option<jiff_diesel::Timestamp> = sign_in_attempts::table
            .find(account_hash.as_slice())
            .select(sign_in_attempts::blocked_until)
            .first(self.conn)
            .await
            .optional()?;
        Ok(row.map(jiff_diesel::Timestamp::to_jiff))
    }

    /// Forgets an account's attempts: one has succeeded.
    pub(in crate::auth) async fn forget_sign_ins(&mut self, account_hash: &[u8; 32]) -> Result<(), DbError> {
        diesel::delete(sign_in_attempts::table.find(account_hash.as_slice())).execute(self.conn).await?;
        Ok(())
    }

    /// Forgets attempts that no longer count.
    pub(in crate::auth) async fn purge_sign_ins(&mut self, forgotten_before: Timestamp) -> Result<usize, DbError> {
        let old = sign_in_attempts::table.filter(sign_in_attempts::last_attempt_at.lt(forgotten_before.to_diesel()));
        Ok(diesel::delete(old).execute(self.conn).await?)
    }
}
