use diesel::prelude::*;
use diesel::sql_types::{Integer, Text, Timestamptz};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;

use super::Mail;
use super::ports::OutgoingMail;
use super::service::Outcome;
use crate::db::DbError;
use crate::db::schema::foundation::mail_outbox;
use crate::ids::MailId;

/// Queues a mail in the caller's transaction, once per dedupe key.
pub(crate) async fn enqueue_in(conn: &mut AsyncPgConnection, at: Timestamp, mail: &Mail) -> Result<(), DbError> {
    diesel::insert_into(mail_outbox::table)
        .values((
            mail_outbox::id.eq(MailId::new(at).as_uuid()),
            mail_outbox::dedupe_key.eq(&mail.dedupe_key),
            mail_outbox::template.eq(mail.template),
            mail_outbox::recipient.eq(&mail.recipient),
            mail_outbox::subject.eq(&mail.subject),
            mail_outbox::text_body.eq(&mail.text_body),
            mail_outbox::html_body.eq(&mail.html_body),
            mail_outbox::state.eq("pending"),
            mail_outbox::next_attempt_at.eq(at.to_diesel()),
            mail_outbox::created_at.eq(at.to_diesel()),
        ))
        .on_conflict(mail_outbox::dedupe_key)
        .do_nothing()
        .execute(conn)
        .await?;
    Ok(())
}

/// A mail that this worker is to send.
pub(super) struct Claimed {
    pub(super) id: MailId,
    /// Which attempt this is; the first is 1.
    pub(super) attempt: u32,
    pub(super) mail: OutgoingMail,
}

#[derive(QueryableByName)]
struct OutboxRow {
    #[diesel(sql_type = diesel::sql_types::Uuid)]
    id: uuid::Uuid,
    #[diesel(sql_type = Integer)]
    attempts: i32,
    #[diesel(sql_type = Text)]
    template: String,
    #[diesel(sql_type = Text)]
    recipient: String,
    #[diesel(sql_type = Text)]
    subject: String,
    #[diesel(sql_type = Text)]
    text_body: String,
    #[diesel(sql_type = Text)]
    html_body: String,
}

impl TryFrom<OutboxRow> for Claimed {
    type Error = DbError;

    fn try_from(row: OutboxRow) -> Result<Self, DbError> {
        let id = MailId::from_uuid(row.id);
        Ok(Self {
            id,
            attempt: u32::try_from(row.attempts).map_err(|error| DbError::inconsistent("mail_outbox", error))?,
            mail: OutgoingMail {
                message_id: id.to_string(),
                template: row.template,
                recipient: row.recipient,
                subject: row.subject,
                text_body: row.text_body,
                html_body: row.html_body,
            },
        })
    }
}

pub(super) struct OutboxRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> OutboxRepository<'c> {
    pub(super) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// Takes the mail that has been due for longest, and counts an attempt. Nobody else takes it before `leased_until`.
    pub(super) async fn claim(&mut self, at: Timestamp, leased_until: Timestamp) -> Result<Option<Claimed>, DbError> {
        let row: Option<OutboxRow> = diesel::sql_query(
            "UPDATE mail_outbox SET attempts = attempts + 1, next_attempt_at = $2
             WHERE id = (
                 SELECT id FROM mail_outbox WHERE state = 'pending' AND next_attempt_at <= $1
                 ORDER BY next_attempt_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
             )
             RETURNING id, attempts, template, recipient, subject, text_body, html_body",
        )
        .bind::<Timestamptz, _>(at.to_diesel())
        .bind::<Timestamptz, _>(leased_until.to_diesel())
        .get_result(self.conn)
        .await
        .optional()?;
        row.map(Claimed::try_from).transpose()
    }

    /// Writes what came of an attempt, unless another worker has begun a later one since. The texts of a mail that has
    /// ended are forgotten: they may carry links that let their reader in.
    pub(super) async fn record(
        &mut self,
        id: MailId,
        attempt: u32,
        at: Timestamp,
        outcome: &Outcome,
    ) -> Result<(), DbError> {
        let attempt = i32::try_from(attempt).map_err(|error| DbError::inconsistent("mail_outbox", error))?;
        let claimed = mail_outbox::table
            .find(id.as_uuid())
            .filter(mail_outbox::state.eq("pending"))
            .filter(mail_outbox::attempts.eq(attempt));
        let forgotten = (mail_outbox::text_body.eq(""), mail_outbox::html_body.eq(""));
        match outcome {
            Outcome::Sent => {
                let sent_at = mail_outbox::sent_at.eq(at.to_diesel());
                diesel::update(claimed)
                    .set((mail_outbox::state.eq("sent"), sent_at, forgotten))
                    .execute(self.conn)
                    .await?
            }
            Outcome::Retry { at, error } => {
                let next = mail_outbox::next_attempt_at.eq(at.to_diesel());
                diesel::update(claimed).set((next, mail_outbox::last_error.eq(error))).execute(self.conn).await?
            }
            Outcome::Dead { error } => {
                let error = mail_outbox::last_error.eq(error);
                diesel::update(claimed)
                    .set((mail_outbox::state.eq("dead"), error, forgotten))
                    .execute(self.conn)
                    .await?
            }
        };
        Ok(())
    }

    /// Gives up mails that were queued before `before` and are still waiting.
    pub(super) async fn give_up(&mut self, before: Timestamp, error: &str) -> Result<usize, DbError> {
        let stale = mail_outbox::table
            .filter(mail_outbox::state.eq("pending"))
            .filter(mail_outbox::created_at.lt(before.to_diesel()));
        let given_up = diesel::update(stale)
            .set((
                mail_outbox::state.eq("dead"),
                mail_outbox::last_error.eq(error),
                mail_outbox::text_body.eq(""),
                mail_outbox::html_body.eq(""),
            ))
            .execute(self.conn)
            .await?;
        Ok(given_up)
    }

    /// Forgets mails that were queued before `before` and have ended.
    pub(super) async fn purge(&mut self, before: Timestamp) -> Result<usize, DbError> {
        let old = mail_outbox::table
            .filter(mail_outbox::state.ne("pending"))
            .filter(mail_outbox::created_at.lt(before.to_diesel()));
        Ok(diesel::delete(old).execute(self.conn).await?)
    }
}
