use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;

use super::Mail;
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
