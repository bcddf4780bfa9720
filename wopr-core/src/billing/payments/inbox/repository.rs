use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text, Timestamptz};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::{SignedDuration, Timestamp};
use jiff_diesel::ToDiesel as _;
use uuid::Uuid;

use super::DeadEvent;
use super::event::Envelope;
use crate::db::DbError;
use crate::db::schema::payments::{webhook_events, webhook_penalties};
use crate::ids::WebhookId;

/// An event that this worker may process until its lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) id: WebhookId,
    pub(super) event_id: String,
    pub(super) kind: String,
    pub(super) payload: String,
    /// This attempt included.
    pub(super) attempts: i32,
}

/// How an event ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Processed,
    Ignored,
}

#[derive(QueryableByName)]
struct ClaimedRow {
    #[diesel(sql_type = diesel::sql_types::Uuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    event_id: String,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    payload: String,
    #[diesel(sql_type = diesel::sql_types::Integer)]
    attempts: i32,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = webhook_events, check_for_backend(diesel::pg::Pg))]
struct DeadRow {
    id: Uuid,
    event_id: String,
    kind: String,
    attempts: i32,
    last_error: Option<String>,
    received_at: jiff_diesel::Timestamp,
    finished_at: Option<jiff_diesel::Timestamp>,
}

impl TryFrom<DeadRow> for DeadEvent {
    type Error = DbError;

    fn try_from(row: DeadRow) -> Result<Self, DbError> {
        let id = WebhookId::from_uuid(row.id);
        let timeless = || DbError::inconsistent("webhook_events", format!("{id} was given up at no time"));
        let given_up_at = row.finished_at.ok_or_else(timeless)?;
        Ok(Self {
            id,
            event_id: row.event_id,
            kind: row.kind,
            attempts: row.attempts,
            last_error: row.last_error,
            received_at: row.received_at.to_jiff(),
            given_up_at: given_up_at.to_jiff(),
        })
    }
}

pub(super) struct InboxRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> InboxRepository<'c> {
    pub(super) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// Keeps an event; `None` if it is known.
    pub(super) async fn insert(
        &mut self,
        at: Timestamp,
        source: &str,
        envelope: &Envelope,
        payload: &str,
    ) -> Result<Option<WebhookId>, DbError> {
        let id: Option<Uuid> = diesel::insert_into(webhook_events::table)
            .values((
                webhook_events::id.eq(WebhookId::new(at).as_uuid()),
                webhook_events::source.eq(source),
                webhook_events::event_id.eq(&envelope.id),
                webhook_events::kind.eq(&envelope.kind),
                webhook_events::object_id.eq(&envelope.object_id),
                webhook_events::occurred_at.eq(envelope.occurred_at.to_diesel()),
                webhook_events::payload.eq(payload),
                webhook_events::state.eq("received"),
                webhook_events::next_attempt_at.eq(at.to_diesel()),
                webhook_events::received_at.eq(at.to_diesel()),
            ))
            .on_conflict((webhook_events::source, webhook_events::event_id))
            .do_nothing()
            .returning(webhook_events::id)
            .get_result(self.conn)
            .await
            .optional()?;
        Ok(id.map(WebhookId::from_uuid))
    }

    /// Takes the next due event, or that one if `only` is given, and keeps others away until the lease ends. Of the
    /// events about one object only the earliest is due.
    pub(super) async fn claim(
        &mut self,
        at: Timestamp,
        lease: SignedDuration,
        only: Option<WebhookId>,
    ) -> Result<Option<Claimed>, DbError> {
        let until = at.saturating_add(lease).unwrap_or(Timestamp::MAX);
        let row: Option<ClaimedRow> = diesel::sql_query(
            "UPDATE webhook_events SET attempts = attempts + 1, next_attempt_at = $2 WHERE id = (
                 SELECT id FROM webhook_events due
                 WHERE state = 'received' AND next_attempt_at <= $1 AND ($3 = '' OR id::text = $3)
                   AND NOT EXISTS (SELECT FROM webhook_events earlier
                       WHERE earlier.object_id = due.object_id AND earlier.state = 'received'
                         AND (earlier.occurred_at, earlier.id) < (due.occurred_at, due.id))
                 ORDER BY next_attempt_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
             RETURNING id, event_id, kind, payload, attempts",
        )
        .bind::<Timestamptz, _>(at.to_diesel())
        .bind::<Timestamptz, _>(until.to_diesel())
        .bind::<Text, _>(only.map(|id| id.as_uuid().hyphenated().to_string()).unwrap_or_default())
        .get_result(self.conn)
        .await
        .optional()?;
        Ok(row.map(|row| Claimed {
            id: WebhookId::from_uuid(row.id),
            event_id: row.event_id,
            kind: row.kind,
            payload: row.payload,
            attempts: row.attempts,
        }))
    }

    /// Ends an event; `false` if somebody else has.
    pub(super) async fn finish(&mut self, at: Timestamp, id: WebhookId, end: End) -> Result<bool, DbError> {
        let state = match end {
            End::Processed => "processed",
            End::Ignored => "ignored",
        };
        let finished = diesel::update(webhook_events::table.find(id.as_uuid()))
            .filter(webhook_events::state.eq("received"))
            .set((
                webhook_events::state.eq(state),
                webhook_events::finished_at.eq(at.to_diesel()),
                webhook_events::last_error.eq(None::<String>),
            ))
            .execute(self.conn)
            .await?;
        Ok(finished == 1)
    }

    /// Notes a failure: tried again at `again`, or given up when that is `None`.
    pub(super) async fn fail(
        &mut self,
        at: Timestamp,
        id: WebhookId,
        again: Option<Timestamp>,
        error: &str,
    ) -> Result<(), DbError> {
        let received = webhook_events::table.find(id.as_uuid()).filter(webhook_events::state.eq("received"));
        let note = webhook_events::last_error.eq(error);
        if let Some(again) = again {
            let set = (note, webhook_events::next_attempt_at.eq(again.to_diesel()));
            diesel::update(received).set(set).execute(self.conn).await?;
        } else {
            let end = (webhook_events::state.eq("dead"), webhook_events::finished_at.eq(at.to_diesel()));
            diesel::update(received).set((note, end)).execute(self.conn).await?;
        }
        Ok(())
    }

    /// The events that were given up, newest first, 200 at most.
    pub(super) async fn list_dead(&mut self) -> Result<Vec<DeadEvent>, DbError> {
        let rows: Vec<DeadRow> = webhook_events::table
            .filter(webhook_events::state.eq("dead"))
            .order((webhook_events::finished_at.desc(), webhook_events::id))
            .limit(200)
            .select(DeadRow::as_select())
            .load(self.conn)
            .await?;
        rows.into_iter().map(DeadEvent::try_from).collect()
    }

    /// Makes an event that was given up due again; `false` if it was not given up.
    pub(super) async fn revive(&mut self, at: Timestamp, id: WebhookId) -> Result<bool, DbError> {
        let revived = diesel::update(webhook_events::table.find(id.as_uuid()).filter(webhook_events::state.eq("dead")))
            .set((
                webhook_events::state.eq("received"),
                webhook_events::attempts.eq(0),
                webhook_events::finished_at.eq(None::<jiff_diesel::Timestamp>),
                webhook_events::next_attempt_at.eq(at.to_diesel()),
            ))
            .execute(self.conn)
            .await?;
        Ok(revived == 1)
    }

    /// Counts a forged webhook. Answers until when its sender was already blocked; such a one is not counted again.
    pub(super) async fn penalise(
        &mut self,
        at: Timestamp,
        source: &str,
        sender: &str,
    ) -> Result<Option<Timestamp>, DbError> {
        // The n-th blocks for 2ⁿ seconds, 15 minutes at most: one statement, so that parallel forgeries all count.
        let counted = diesel::sql_query(
            "INSERT INTO webhook_penalties AS p (client_address, source, failures, blocked_until)
             VALUES ($1, $2, 1, $3::timestamptz + interval '2 seconds')
             ON CONFLICT (client_address, source) DO UPDATE SET
                 failures = least(p.failures + 1, 1000),
                 blocked_until = $3::timestamptz + least(interval '1 second' * (2 ^ least(p.failures + 1, 10)), interval '15 minutes')
             WHERE p.blocked_until <= $3",
        )
        .bind::<Text, _>(sender)
        .bind::<Text, _>(source)
        .bind::<Timestamptz, _>(at.to_diesel())
        .execute(self.conn)
        .await?;
        if counted == 1 {
            return Ok(None);
        }
        let until: Option<jiff_diesel::Timestamp> = webhook_penalties::table
            .find((sender, source))
            .select(webhook_penalties::blocked_until)
            .first(self.conn)
            .await
            .optional()?;
        Ok(until.map(jiff_diesel::Timestamp::to_jiff))
    }

    pub(super) async fn forgive(&mut self, source: &str, sender: &str) -> Result<(), DbError> {
        diesel::delete(webhook_penalties::table.find((sender, source))).execute(self.conn).await?;
        Ok(())
    }

    /// Forgets penalties that ended before `ended`, and events that were dealt with before `finished`.
    pub(super) async fn purge(&mut self, ended: Timestamp, finished: Timestamp) -> Result<usize, DbError> {
        let penalties = diesel::delete(webhook_penalties::table)
            .filter(webhook_penalties::blocked_until.lt(ended.to_diesel()))
            .execute(self.conn)
            .await?;
        let events = diesel::delete(webhook_events::table)
            .filter(webhook_events::state.eq_any(["processed", "ignored"]))
            .filter(webhook_events::finished_at.lt(finished.to_diesel()))
            .execute(self.conn)
            .await?;
        Ok(penalties + events)
    }

    /// How many events wait, and how many were given up.
    pub(super) async fn backlog(&mut self) -> Result<(i64, i64), DbError> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = BigInt)]
            waiting: i64,
            #[diesel(sql_type = BigInt)]
            dead: i64,
        }
        let row: Row = diesel::sql_query(
            "SELECT count(*) FILTER (WHERE state = 'received') AS waiting, count(*) FILTER (WHERE state = 'dead') AS dead
             FROM webhook_events WHERE state IN ('received', 'dead')",
        )
        .get_result(self.conn)
        .await?;
        Ok((row.waiting, row.dead))
    }
}
