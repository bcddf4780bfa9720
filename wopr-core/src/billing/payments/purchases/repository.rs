use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;
use uuid::Uuid;

use super::facts::{DisputeFact, DisputeOutcome, PaymentFact, RefundFact, UnmatchedPayment, UnmatchedReason};
use crate::billing::payments::pricing::Credit;
use crate::db::DbError;
use crate::db::schema::foundation::tenants;
use crate::db::schema::payments::{payment_disputes, payment_refunds, payments, unmatched_payments};
use crate::ids::{TenantId, UnmatchedPaymentId};
use crate::money::Money;

#[derive(Queryable, Selectable)]
#[diesel(table_name = payments)]
struct PaymentRow {
    reference: String,
    payment_intent_id: Option<String>,
    tenant_id: Uuid,
    paid_cents: i64,
    tax_cents: i64,
    purchase_nanos: i64,
    bonus_nanos: i64,
    paid_at: jiff_diesel::Timestamp,
}

impl From<PaymentRow> for PaymentFact {
    fn from(row: PaymentRow) -> Self {
        Self {
            reference: row.reference,
            payment_intent_id: row.payment_intent_id,
            tenant_id: TenantId::from_uuid(row.tenant_id),
            paid_cents: row.paid_cents,
            tax_cents: row.tax_cents,
            credit: Credit {
                purchase: Money::from_nanos(row.purchase_nanos),
                bonus: Money::from_nanos(row.bonus_nanos),
            },
            paid_at: row.paid_at.to_jiff(),
        }
    }
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = unmatched_payments)]
struct UnmatchedRow {
    id: Uuid,
    reference: String,
    payment_intent_id: Option<String>,
    provider_customer_id: Option<String>,
    email: Option<String>,
    paid_cents: i64,
    tax_cents: i64,
    currency: String,
    reason: String,
    paid_at: jiff_diesel::Timestamp,
    tenant_id: Option<Uuid>,
}

impl TryFrom<UnmatchedRow> for UnmatchedPayment {
    type Error = DbError;

    fn try_from(row: UnmatchedRow) -> Result<Self, DbError> {
        Ok(Self {
            reason: UnmatchedReason::from_word(&row.reason)
                .ok_or_else(|| DbError::inconsistent("unmatched_payments", "unknown reason"))?,
            id: UnmatchedPaymentId::from_uuid(row.id),
            reference: row.reference,
            payment_intent_id: row.payment_intent_id,
            customer_id: row.provider_customer_id,
            email: row.email,
            paid_cents: row.paid_cents,
            tax_cents: row.tax_cents,
            currency: row.currency,
            paid_at: row.paid_at.to_jiff(),
            assigned_to: row.tenant_id.map(TenantId::from_uuid),
        })
    }
}

/// The stored facts.
pub(in crate::billing::payments) struct FactsRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> FactsRepository<'c> {
    pub(in crate::billing::payments) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// Lets nobody else store facts about this payment until the transaction ends. Facts live in three tables, and
    /// whoever comes second has to see all of them.
    pub(in crate::billing::payments) async fn lock(&mut self, payment: &str) -> Result<(), DbError> {
        diesel::sql_query("SELECT pg_advisory_xact_lock(hashtextextended('payment:' || $1, 0))")
            .bind::<Text, _>(payment)
            .execute(self.conn)
            .await?;
        Ok(())
    }

    pub(in crate::billing::payments) async fn tenant_exists(&mut self, tenant: TenantId) -> Result<bool, DbError> {
        let exists = diesel::select(diesel::dsl::exists(tenants::table.find(tenant.as_uuid())));
        Ok(exists.get_result(self.conn).await?)
    }

    /// Stores a payment unless it is known, under whatever reference.
    pub(in crate::billing::payments) async fn insert_payment(
        &mut self,
        at: Timestamp,
        payment: &PaymentFact,
    ) -> Result<(), DbError> {
        diesel::insert_into(payments::table)
            .values((
                payments::reference.eq(&payment.reference),
                payments::payment_intent_id.eq(&payment.payment_intent_id),
                payments::tenant_id.eq(payment.tenant_id.as_uuid()),
                payments::paid_cents.eq(payment.paid_cents),
                payments::tax_cents.eq(payment.tax_cents),
                payments::purchase_nanos.eq(payment.credit.purchase.as_nanos()),
                payments::bonus_nanos.eq(payment.credit.bonus.as_nanos()),
                payments::paid_at.eq(payment.paid_at.to_diesel()),
                payments::created_at.eq(at.to_diesel()),
            ))
            .on_conflict_do_nothing()
            .execute(self.conn)
            .await?;
        Ok(())
    }

    /// The payment of this reference, or of this payment intent.
    pub(in crate::billing::payments) async fn find_payment(
        &mut self,
        name: &str,
    ) -> Result<Option<PaymentFact>, DbError> {
        let row: Option<PaymentRow> = payments::table
            .filter(payments::reference.eq(name).or(payments::payment_intent_id.eq(name)))
            .select(PaymentRow::as_select())
            .first(self.conn)
            .await
            .optional()?;
        Ok(row.map(PaymentFact::from))
    }

    pub(in crate::billing::payments) async fn save_refund(
        &mut self,
        at: Timestamp,
        refund: &RefundFact,
    ) -> Result<(), DbError> {
        diesel::insert_into(payment_refunds::table)
            .values((
                payment_refunds::refund_id.eq(&refund.id),
                payment_refunds::payment_intent_id.eq(&refund.payment_intent_id),
                payment_refunds::amount_cents.eq(refund.amount_cents),
                payment_refunds::failed.eq(refund.failed),
                payment_refunds::created_at.eq(at.to_diesel()),
            ))
            .on_conflict(payment_refunds::refund_id)
            .do_nothing()
            .execute(self.conn)
            .await?;
        if refund.failed {
            diesel::update(payment_refunds::table.find(&refund.id))
                .set(payment_refunds::failed.eq(true))
                .execute(self.conn)
                .await?;
        }
        Ok(())
    }

    pub(in crate::billing::payments) async fn list_refunds(
        &mut self,
        payment_intent: &str,
    ) -> Result<Vec<RefundFact>, DbError> {
        let rows: Vec<(String, String, i64, bool, jiff_diesel::Timestamp)> = payment_refunds::table
            .filter(payment_refunds::payment_intent_id.eq(payment_intent))
            .order(payment_refunds::refund_id)
            .select((
                payment_refunds::refund_id,
                payment_refunds::payment_intent_id,
                payment_refunds::amount_cents,
                payment_refunds::failed,
                payment_refunds::created_at,
            ))
            .load(self.conn)
            .await?;
        Ok(rows
            .into_iter()
            .map(|(id, payment_intent_id, amount_cents, failed, created_at)| RefundFact {
                id,
                payment_intent_id,
                amount_cents,
                failed,
                created_at: created_at.to_jiff(),
            })
            .collect())
    }

    pub(in crate::billing::payments) async fn save_dispute(
        &mut self,
        at: Timestamp,
        dispute: &DisputeFact,
    ) -> Result<(), DbError> {
        diesel::insert_into(payment_disputes::table)
            .values((
                payment_disputes::dispute_id.eq(&dispute.id),
                payment_disputes::payment_intent_id.eq(&dispute.payment_intent_id),
                payment_disputes::amount_cents.eq(dispute.amount_cents),
                payment_disputes::state.eq(dispute.outcome.as_str()),
                payment_disputes::created_at.eq(at.to_diesel()),
            ))
            .on_conflict(payment_disputes::dispute_id)
            .do_nothing()
            .execute(self.conn)
            .await?;
        diesel::update(payment_disputes::table.find(&dispute.id).filter(payment_disputes::state.eq("open")))
            .set(payment_disputes::state.eq(dispute.outcome.as_str()))
            .execute(self.conn)
            .await?;
        Ok(())
    }

    pub(in crate::billing::payments) async fn list_disputes(
        &mut self,
        payment_intent: &str,
    ) -> Result<Vec<DisputeFact>, DbError> {
        let rows: Vec<(String, String, i64, String, jiff_diesel::Timestamp)> = payment_disputes::table
            .filter(payment_disputes::payment_intent_id.eq(payment_intent))
            .order(payment_disputes::dispute_id)
            .select((
                payment_disputes::dispute_id,
                payment_disputes::payment_intent_id,
                payment_disputes::amount_cents,
                payment_disputes::state,
                payment_disputes::created_at,
            ))
            .load(self.conn)
            .await?;
        rows.into_iter()
            .map(|(id, payment_intent_id, amount_cents, state, created_at)| {
                Ok(DisputeFact {
                    id,
                    payment_intent_id,
                    amount_cents,
                    outcome: DisputeOutcome::from_word(&state)
                        .ok_or_else(|| DbError::inconsistent("payment_disputes", "unknown state"))?,
                    created_at: created_at.to_jiff(),
                })
            })
            .collect()
    }

    /// Whether any payment of the tenant is disputed and not decided for us.
    pub(in crate::billing::payments) async fn has_open_dispute(&mut self, tenant: TenantId) -> Result<bool, DbError> {
        let open = payment_disputes::table
            .inner_join(
                payments::table.on(payments::payment_intent_id.eq(payment_disputes::payment_intent_id.nullable())),
            )
            .filter(payments::tenant_id.eq(tenant.as_uuid()))
            .filter(payment_disputes::state.ne("won"));
        Ok(diesel::select(diesel::dsl::exists(open)).get_result(self.conn).await?)
    }

    /// Stores money that waits for a person; `false` if it is known.
    pub(in crate::billing::payments) async fn insert_unmatched(
        &mut self,
        at: Timestamp,
        unmatched: &UnmatchedPayment,
    ) -> Result<bool, DbError> {
        let inserted = diesel::insert_into(unmatched_payments::table)
            .values((
                unmatched_payments::id.eq(unmatched.id.as_uuid()),
                unmatched_payments::reference.eq(&unmatched.reference),
                unmatched_payments::payment_intent_id.eq(&unmatched.payment_intent_id),
                unmatched_payments::provider_customer_id.eq(&unmatched.customer_id),
                unmatched_payments::email.eq(&unmatched.email),
                unmatched_payments::paid_cents.eq(unmatched.paid_cents),
                unmatched_payments::tax_cents.eq(unmatched.tax_cents),
                unmatched_payments::currency.eq(&unmatched.currency),
                unmatched_payments::reason.eq(unmatched.reason.as_str()),
                unmatched_payments::paid_at.eq(unmatched.paid_at.to_diesel()),
                unmatched_payments::created_at.eq(at.to_diesel()),
            ))
            .on_conflict(unmatched_payments::reference)
            .do_nothing()
            .execute(self.conn)
            .await?;
        Ok(inserted == 1)
    }

    /// The oldest that wait, 200 at most.
    pub(in crate::billing::payments) async fn list_unmatched(&mut self) -> Result<Vec<UnmatchedPayment>, DbError> {
        let rows: Vec<UnmatchedRow> = unmatched_payments::table
            .filter(unmatched_payments::tenant_id.is_null())
            .order(unmatched_payments::created_at)
            .limit(200)
            .select(UnmatchedRow::as_select())
            .load(self.conn)
            .await?;
        rows.into_iter().map(UnmatchedPayment::try_from).collect()
    }

    pub(in crate::billing::payments) async fn find_unmatched(
        &mut self,
        id: UnmatchedPaymentId,
    ) -> Result<Option<UnmatchedPayment>, DbError> {
        let row: Option<UnmatchedRow> = unmatched_payments::table
            .find(id.as_uuid())
            .select(UnmatchedRow::as_select())
            .first(self.conn)
            .await
            .optional()?;
        row.map(UnmatchedPayment::try_from).transpose()
    }

    /// Notes that a payment that waited was given to a tenant.
    pub(in crate::billing::payments) async fn close_unmatched(
        &mut self,
        at: Timestamp,
        reference: &str,
        tenant: TenantId,
    ) -> Result<(), DbError> {
        diesel::update(unmatched_payments::table)
            .filter(unmatched_payments::reference.eq(reference).and(unmatched_payments::tenant_id.is_null()))
            .set((
                unmatched_payments::tenant_id.eq(tenant.as_uuid()),
                unmatched_payments::assigned_at.eq(at.to_diesel()),
            ))
            .execute(self.conn)
            .await?;
        Ok(())
    }
}
