//! What follows from a payment: credit, and its way back.
//!
//! Facts are stored under a lock on their payment; then every transfer that follows from all that is known is posted,
//! each once by its key. So it does not matter which fact comes first.

mod facts;
mod mails;
pub(super) mod repository;

use diesel_async::AsyncPgConnection;
use jiff::Timestamp;

pub(super) use self::facts::{DisputeFact, DisputeOutcome, PaymentFact, RefundFact};
pub use self::facts::{UnmatchedPayment, UnmatchedReason};
use self::repository::FactsRepository;
use super::Payments;
use super::checkout::repository::CheckoutRepository;
use super::customers::repository::CustomerRepository;
use super::error::PaymentsError;
use super::ports::{CheckoutSession, PaymentIntent};
use super::pricing::Credit;
use crate::audit::{self, AuditEntry, Origin, Resource};
use crate::billing::TransferKind;
use crate::billing::repository::LedgerRepository;
use crate::ids::{CheckoutId, TenantId, UnmatchedPaymentId};
use crate::money::Money;
use crate::notify;

/// The only currency that is credited without a person.
const CURRENCY: &str = "usd";
/// The longest description, reference or address that is kept of what the provider tells.
const MAX_TEXT: usize = 255;

/// What a fact did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Applied {
    /// Whose money it is about.
    pub(super) tenant: Option<TenantId>,
    /// What was credited for a purchase just now.
    pub(super) credited: Money,
}

/// Money that arrived.
struct Arrival {
    reference: String,
    payment_intent_id: Option<String>,
    customer_id: Option<String>,
    email: Option<String>,
    paid_cents: i64,
    tax_cents: i64,
    currency: String,
    paid_at: Timestamp,
    /// What it is worth, if that is known otherwise than by the amount.
    credit_cents: Option<i64>,
    /// Whether it was made for something else than credit.
    other_purpose: bool,
    tenant: Option<TenantId>,
}

impl Arrival {
    /// What facts about this payment are locked by.
    fn lock_name(&self) -> &str {
        self.payment_intent_id.as_deref().unwrap_or(&self.reference)
    }
}

impl Payments {
    /// A checkout's money has arrived.
    pub(super) async fn checkout_paid_in(
        &self,
        conn: &mut AsyncPgConnection,
        at: Timestamp,
        origin: &Origin,
        session: &CheckoutSession,
    ) -> Result<Applied, PaymentsError> {
        let ours = session.checkout.as_deref().and_then(|id| id.parse::<CheckoutId>().ok());
        let checkout = CheckoutRepository::new(conn).find(&session.id, ours).await?;
        if let Some(checkout) = checkout {
            CheckoutRepository::new(conn).mark_paid(at, checkout.id).await?;
        }
        let named = [session.client_reference_id.as_deref(), session.tenant.as_deref()];
        let row = checkout.map(|checkout| checkout.tenant_id);
        let tenant = resolve_tenant(conn, row, &named, session.customer_id.as_deref()).await?;
        let by_amount = self.config.prices.find_by_charge(session.amount_total - session.amount_tax);
        let arrival = Arrival {
            reference: session.id.clone(),
            payment_intent_id: session.payment_intent_id.clone(),
            customer_id: session.customer_id.clone(),
            email: session.customer_email.clone(),
            paid_cents: session.amount_total,
            tax_cents: session.amount_tax,
            currency: session.currency.clone(),
            paid_at: session.created_at,
            credit_cents: match checkout {
                Some(checkout) => Some(checkout.credit_cents),
                None => by_amount.map(|pack| pack.credit_cents),
            },
            other_purpose: session.purchase_type.as_deref().is_some_and(|purpose| purpose != "credits"),
            tenant,
        };
        self.arrived_in(conn, at, origin, arrival).await
    }

    /// A payment that no checkout announces has arrived.
    pub(super) async fn payment_succeeded_in(
        &self,
        conn: &mut AsyncPgConnection,
        at: Timestamp,
        origin: &Origin,
        intent: &PaymentIntent,
    ) -> Result<Applied, PaymentsError> {
        let tenant = resolve_tenant(conn, None, &[intent.tenant.as_deref()], intent.customer_id.as_deref()).await?;
        let arrival = Arrival {
            reference: intent.id.clone(),
            payment_intent_id: Some(intent.id.clone()),
            customer_id: intent.customer_id.clone(),
            email: None,
            paid_cents: intent.amount_received,
            tax_cents: 0,
            currency: intent.currency.clone(),
            paid_at: intent.created_at,
            credit_cents: None,
            other_purpose: false,
            tenant,
        };
        self.arrived_in(conn, at, origin, arrival).await
    }

    async fn arrived_in(
        &self,
        conn: &mut AsyncPgConnection,
        at: Timestamp,
        origin: &Origin,
        arrival: Arrival,
    ) -> Result<Applied, PaymentsError> {
        FactsRepository::new(conn).lock(arrival.lock_name()).await?;
        let reason = match arrival.tenant {
            _ if arrival.currency != CURRENCY => Some(UnmatchedReason::Currency),
            _ if arrival.other_purpose => Some(UnmatchedReason::Purpose),
            None => Some(UnmatchedReason::NoTenant),
            Some(_) => None,
        };
        let tenant = match (arrival.tenant, reason) {
            (Some(tenant), None) => tenant,
            (tenant, reason) => {
                let reason = reason.unwrap_or(UnmatchedReason::NoTenant);
                self.keep_unmatched_in(conn, at, arrival, reason).await?;
                return Ok(Applied { tenant, credited: Money::ZERO });
            }
        };
        if let Some(customer_id) = &arrival.customer_id
            && !CustomerRepository::new(conn).link(at, tenant, customer_id).await?
        {
            // The money is the tenant's all the same; only the mapping stays as it was.
            tracing::warn!(tenant.id = %tenant, "a payment came from a customer that is not the tenant's");
        }
        let credit = Credit::of(arrival.paid_cents, arrival.tax_cents, arrival.credit_cents)?;
        let payment = PaymentFact {
            reference: arrival.reference,
            payment_intent_id: arrival.payment_intent_id,
            tenant_id: tenant,
            paid_cents: arrival.paid_cents,
            tax_cents: arrival.tax_cents,
            credit,
            paid_at: arrival.paid_at,
        };
        self.credit_in(conn, at, origin, &payment, arrival.email.as_deref()).await
    }

    /// Stores a payment, posts all that follows from it, and queues its receipt.
    async fn credit_in(
        &self,
        conn: &mut AsyncPgConnection,
        at: Timestamp,
        origin: &Origin,
        payment: &PaymentFact,
        email: Option<&str>,
    ) -> Result<Applied, PaymentsError> {
        let tenant = payment.tenant_id;
        let mut facts = FactsRepository::new(conn);
        facts.insert_payment(at, payment).await?;
        facts.close_unmatched(at, &payment.reference, tenant).await?;
        let name = payment.payment_intent_id.as_deref().unwrap_or(&payment.reference);
        let applied = self.settle_in(conn, at, origin, name).await?;
        if applied.credited.is_positive() {
            let resource = Resource::new("payment", &payment.reference);
            let entry = AuditEntry::success(origin, Some(tenant), "billing.credit_purchase", resource)
                .with("paid_cents", payment.paid_cents)
                .with("credited_cents", applied.credited.as_cents_rounded());
            audit::record_in(conn, at, &entry).await?;
            let known = CustomerRepository::new(conn).find(tenant).await?.and_then(|stored| stored.email);
            let contact = LedgerRepository::new(conn).find_contact(tenant).await?;
            if let Some(recipient) = known.or(contact).as_deref().or(email) {
                notify::enqueue_in(conn, at, &mails::receipt(recipient, payment)).await?;
            }
        }
        Ok(applied)
    }

    /// Stores that money of a payment was given back, and posts what follows.
    pub(super) async fn refunded_in(
        &self,
        conn: &mut AsyncPgConnection,
        at: Timestamp,
        origin: &Origin,
        refund: &RefundFact,
    ) -> Result<Applied, PaymentsError> {
        let mut facts = FactsRepository::new(conn);
        facts.lock(&refund.payment_intent_id).await?;
        facts.save_refund(at, refund).await?;
        self.settle_in(conn, at, origin, &refund.payment_intent_id).await
    }

    /// Stores that a payment is disputed, or how that ended, and posts what follows.
    pub(super) async fn disputed_in(
        &self,
        conn: &mut AsyncPgConnection,
        at: Timestamp,
        origin: &Origin,
        dispute: &DisputeFact,
    ) -> Result<Applied, PaymentsError> {
        let mut facts = FactsRepository::new(conn);
        facts.lock(&dispute.payment_intent_id).await?;
        facts.save_dispute(at, dispute).await?;
        self.settle_in(conn, at, origin, &dispute.payment_intent_id).await
    }

    /// Posts every transfer that follows from what is known of a payment. Nothing is known of it: nothing follows yet.
    async fn settle_in(
        &self,
        conn: &mut AsyncPgConnection,
        at: Timestamp,
        origin: &Origin,
        name: &str,
    ) -> Result<Applied, PaymentsError> {
        let mut facts = FactsRepository::new(conn);
        let Some(payment) = facts.find_payment(name).await? else { return Ok(Applied::default()) };
        let tenant = payment.tenant_id;
        let (refunds, disputes) = match &payment.payment_intent_id {
            Some(intent) => (facts.list_refunds(intent).await?, facts.list_disputes(intent).await?),
            None => (Vec::new(), Vec::new()),
        };
        let wanted = facts::transfers(&payment, &refunds, &disputes, &origin.actor)?;
        let posted = self.billing.post_in(conn, at, &wanted).await?;
        let mut credited = Money::ZERO;
        let own = [payment.reference.clone(), format!("{}:bonus", payment.reference)];
        for fresh in posted.iter().filter(|posted| posted.fresh && own.contains(&posted.reference_key)) {
            credited = credited.try_add(fresh.amount)?;
        }
        let fresh = |kind| posted.iter().any(|posted| posted.fresh && posted.kind == kind);
        // Only what is new moves the standing: an operator's decision since then is not undone by a repetition.
        let undecided = FactsRepository::new(conn).has_open_dispute(tenant).await?;
        if fresh(TransferKind::Dispute) && undecided {
            self.billing.suspend_for_dispute_in(conn, at, tenant, origin).await?;
        } else if fresh(TransferKind::DisputeReversal) && !undecided {
            self.billing.settle_dispute_in(conn, at, tenant, origin).await?;
        }
        Ok(Applied { tenant: Some(tenant), credited })
    }

    async fn keep_unmatched_in(
        &self,
        conn: &mut AsyncPgConnection,
        at: Timestamp,
        arrival: Arrival,
        reason: UnmatchedReason,
    ) -> Result<(), PaymentsError> {
        let mut facts = FactsRepository::new(conn);
        if facts.find_payment(arrival.lock_name()).await?.is_some() {
            return Ok(());
        }
        let unmatched = UnmatchedPayment {
            id: UnmatchedPaymentId::new(at),
            reference: arrival.reference,
            payment_intent_id: arrival.payment_intent_id,
            customer_id: arrival.customer_id,
            email: arrival.email.filter(|email| email.len() <= MAX_TEXT),
            paid_cents: arrival.paid_cents,
            tax_cents: arrival.tax_cents,
            currency: arrival.currency,
            reason,
            paid_at: arrival.paid_at,
            assigned_to: None,
        };
        if facts.insert_unmatched(at, &unmatched).await? {
            tracing::error!(
                payment.id = %unmatched.id, payment.reference = unmatched.reference, reason = reason.as_str(),
                "a payment of {} {} cannot be credited without a person", unmatched.paid_cents, unmatched.currency
            );
            if let Some(operator) = &self.config.operator_email {
                notify::enqueue_in(conn, at, &mails::unmatched(operator, &unmatched)).await?;
            }
        }
        Ok(())
    }

    /// The payments that wait for a person, oldest first, 200 at most.
    ///
    /// # Errors
    /// [`PaymentsError::Storage`].
    pub async fn unmatched(&self) -> Result<Vec<UnmatchedPayment>, PaymentsError> {
        let mut conn = self.db.connection().await?;
        Ok(FactsRepository::new(&mut conn).list_unmatched().await?)
    }

    /// Gives a payment that waits to a tenant, which gets what was paid, or `credit` where that is given; it must be
    /// given for a payment that is not in US dollars. Repeating it changes nothing. Answers what was credited.
    ///
    /// # Errors
    /// [`PaymentsError::UnmatchedPaymentNotFound`], [`PaymentsError::AlreadyAssigned`],
    /// [`PaymentsError::TenantNotFound`], [`PaymentsError::CreditRequired`], [`PaymentsError::AmountOutOfRange`],
    /// [`PaymentsError::Billing`], [`PaymentsError::Storage`].
    pub async fn assign_unmatched(
        &self,
        origin: &Origin,
        id: UnmatchedPaymentId,
        tenant: TenantId,
        credit: Option<Money>,
    ) -> Result<Money, PaymentsError> {
        let at = self.clock.now();
        self.db
            .transaction(async |conn| {
                let mut facts = FactsRepository::new(conn);
                let missing = PaymentsError::UnmatchedPaymentNotFound;
                let seen = facts.find_unmatched(id).await?.ok_or(missing(id))?;
                facts.lock(seen.payment_intent_id.as_deref().unwrap_or(&seen.reference)).await?;
                let unmatched = facts.find_unmatched(id).await?.ok_or(missing(id))?;
                if let Some(before) = unmatched.assigned_to {
                    return if before == tenant { Ok(Money::ZERO) } else { Err(PaymentsError::AlreadyAssigned(id)) };
                }
                if !facts.tenant_exists(tenant).await? {
                    return Err(PaymentsError::TenantNotFound);
                }
                let credit = match credit {
                    Some(credit) if !credit.is_positive() => return Err(PaymentsError::AmountOutOfRange),
                    Some(purchase) => Credit { purchase, bonus: Money::ZERO },
                    None if unmatched.currency != CURRENCY => return Err(PaymentsError::CreditRequired),
                    None => Credit::of(unmatched.paid_cents, unmatched.tax_cents, None)?,
                };
                let payment = PaymentFact {
                    reference: unmatched.reference,
                    payment_intent_id: unmatched.payment_intent_id,
                    tenant_id: tenant,
                    paid_cents: unmatched.paid_cents,
                    tax_cents: unmatched.tax_cents,
                    credit,
                    paid_at: unmatched.paid_at,
                };
                let applied = self.credit_in(conn, at, origin, &payment, unmatched.email.as_deref()).await?;
                let entry = AuditEntry::success(
                    origin,
                    Some(tenant),
                    "billing.assign_payment",
                    Resource::new("unmatched_payment", id),
                );
                audit::record_in(conn, at, &entry).await?;
                Ok(applied.credited)
            })
            .await
    }
}

/// The first of these that is a tenant of ours: the checkout we stored, what the payment names, whose customer paid.
async fn resolve_tenant(
    conn: &mut AsyncPgConnection,
    stored: Option<TenantId>,
    named: &[Option<&str>],
    customer_id: Option<&str>,
) -> Result<Option<TenantId>, PaymentsError> {
    if stored.is_some() {
        return Ok(stored);
    }
    for tenant in named.iter().flatten().filter_map(|name| name.parse::<TenantId>().ok()) {
        if FactsRepository::new(conn).tenant_exists(tenant).await? {
            return Ok(Some(tenant));
        }
    }
    match customer_id {
        Some(customer_id) => Ok(CustomerRepository::new(conn).find_tenant(customer_id).await?),
        None => Ok(None),
    }
}
