use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;

use super::Reconciliation;
use crate::db::DbError;
use crate::db::schema::payments::{
    payment_disputes, payment_refunds, payments, reconciliation_runs, unmatched_payments,
};

pub(super) struct ReconcileRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> ReconcileRepository<'c> {
    pub(super) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// Up to when money was looked at.
    pub(super) async fn last_end(&mut self) -> Result<Option<Timestamp>, DbError> {
        let end: Option<Option<jiff_diesel::Timestamp>> = reconciliation_runs::table
            .select(diesel::dsl::max(reconciliation_runs::period_end))
            .first(self.conn)
            .await
            .optional()?;
        Ok(end.flatten().map(jiff_diesel::Timestamp::to_jiff))
    }

    pub(super) async fn insert(&mut self, run: &Reconciliation, finished: Timestamp) -> Result<(), DbError> {
        diesel::insert_into(reconciliation_runs::table)
            .values((
                reconciliation_runs::id.eq(run.id.as_uuid()),
                reconciliation_runs::started_at.eq(run.started_at.to_diesel()),
                reconciliation_runs::finished_at.eq(finished.to_diesel()),
                reconciliation_runs::period_start.eq(run.period_start.to_diesel()),
                reconciliation_runs::period_end.eq(run.period_end.to_diesel()),
                reconciliation_runs::report.eq(run.report()),
                reconciliation_runs::clean.eq(run.is_clean()),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// What was paid for this payment, whether it was credited or waits for a person.
    pub(super) async fn paid_cents(&mut self, payment_intent: &str) -> Result<Option<i64>, DbError> {
        let credited: Option<i64> = payments::table
            .filter(payments::payment_intent_id.eq(payment_intent))
            .select(payments::paid_cents)
            .first(self.conn)
            .await
            .optional()?;
        if credited.is_some() {
            return Ok(credited);
        }
        Ok(unmatched_payments::table
            .filter(unmatched_payments::payment_intent_id.eq(payment_intent))
            .select(unmatched_payments::paid_cents)
            .first(self.conn)
            .await
            .optional()?)
    }

    pub(super) async fn refunded_cents(&mut self, refund: &str, failed: bool) -> Result<Option<i64>, DbError> {
        Ok(payment_refunds::table
            .find(refund)
            .filter(payment_refunds::failed.eq_any([true, failed]))
            .select(payment_refunds::amount_cents)
            .first(self.conn)
            .await
            .optional()?)
    }

    pub(super) async fn disputed_cents(&mut self, dispute: &str, won: bool) -> Result<Option<i64>, DbError> {
        Ok(payment_disputes::table
            .find(dispute)
            .filter(payment_disputes::state.eq_any(if won { vec!["won"] } else { vec!["open", "won", "lost"] }))
            .select(payment_disputes::amount_cents)
            .first(self.conn)
            .await
            .optional()?)
    }

    /// The payments that were credited for money paid in a period.
    pub(super) async fn list_credited(
        &mut self,
        since: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<(String, Option<String>, i64)>, DbError> {
        Ok(payments::table
            .filter(payments::paid_at.ge(since.to_diesel()).and(payments::paid_at.lt(until.to_diesel())))
            .order(payments::reference)
            .select((payments::reference, payments::payment_intent_id, payments::paid_cents))
            .load(self.conn)
            .await?)
    }
}
