//! Webhooks, in two phases: what is signed is kept before it is answered; what is kept is processed until it is done.
//!
//! The first attempt is made at once, so that a customer who has just paid sees the credit; whatever goes wrong in it
//! is left to [`Payments::process_webhooks`].

#[cfg_attr(not(feature = "stripe"), expect(dead_code, reason = "the adapter reads objects with it too"))]
pub(crate) mod event;
mod repository;
mod signature;

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use self::event::Event;
use self::repository::{Claimed, End, InboxRepository};
pub use self::signature::TOLERANCE_SECONDS;
use super::Payments;
use super::checkout::repository::CheckoutRepository;
use super::customers::repository::CustomerRepository;
use super::error::PaymentsError;
use super::ports::{Dispute, DisputeState, PROVIDER_TIMEOUT, Refund};
use super::purchases::{Applied, DisputeFact, DisputeOutcome, RefundFact};
use crate::audit::{self, Actor, AuditEntry, Origin, Resource};
use crate::db::DbError;
use crate::ids::{TenantId, WebhookId};
use crate::money::Money;
use crate::notify::{self, Mail};

/// Where the events come from.
const SOURCE: &str = "stripe";
/// How long a worker may take for one event before another may try: 30 seconds. An event asks the provider twice at
/// most as a rule, which ends within two [`PROVIDER_TIMEOUT`]s; the third is for the transaction. Who takes longer does
/// no harm, as whoever finishes second posts nothing; and after a crash a customer waits no longer than this.
const LEASE: SignedDuration = SignedDuration::from_secs(3 * PROVIDER_TIMEOUT.as_secs().cast_signed());
/// After so many attempts, which take about three days, an event is given up until a person looks at it.
const MAX_ATTEMPTS: i32 = 25;
/// The longest pause between two attempts.
const MAX_PAUSE: SignedDuration = SignedDuration::from_hours(6);
/// How long events are kept after they were dealt with: the provider redelivers for three days.
const EVENT_RETENTION: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How long after its end a penalty is remembered.
const PENALTY_MEMORY: SignedDuration = SignedDuration::from_hours(24);
/// The longest note about a failure that is kept.
const MAX_NOTE: usize = 1_000;

/// What became of a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Whether it meant something to us and that was done. What was only kept is done later.
    pub handled: bool,
    /// Its kind, such as `checkout.session.completed`.
    pub event_type: String,
    /// Whose money it is about, if that is known.
    pub tenant: Option<TenantId>,
    /// What was credited for a purchase just now; `None` if the event is not about a purchase.
    pub credited: Option<Money>,
    /// Whether the same event was received before.
    pub duplicate: bool,
}

/// An event that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadEvent {
    /// Our id of it.
    pub id: WebhookId,
    /// The provider's.
    pub event_id: String,
    /// Its kind.
    pub kind: String,
    /// How often it was tried.
    pub attempts: i32,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// When it arrived.
    pub received_at: Timestamp,
    /// When it was given up.
    pub given_up_at: Timestamp,
}

/// What processing an event did.
struct Processed {
    end: End,
    applied: Applied,
    purchase: bool,
}

impl Payments {
    /// Takes a webhook: `signature` is the `stripe-signature` header, `body` the bytes as they arrived.
    ///
    /// # Errors
    /// [`PaymentsError::BadSignature`] for a forgery, [`PaymentsError::SenderBlocked`] for one of several from the same
    /// address; a valid signature is never blocked. [`PaymentsError::MalformedEvent`] for what is signed but no event.
    /// [`PaymentsError::Disabled`], [`PaymentsError::Storage`]: the provider will send it again.
    pub async fn receive_webhook(
        &self,
        client_address: Option<IpAddr>,
        signature: &str,
        body: &[u8],
    ) -> Result<Received, PaymentsError> {
        self.provider()?;
        let now = self.clock.now();
        let sender = client_address.map_or_else(|| "unknown".to_owned(), |address| address.to_canonical().to_string());
        if !signature::is_valid(&self.config.webhook_secrets, signature, body, now) {
            let mut conn = self.db.connection().await?;
            return Err(match InboxRepository::new(&mut conn).penalise(now, SOURCE, &sender).await? {
                Some(until) => PaymentsError::SenderBlocked { retry_after: until.duration_since(now) },
                None => PaymentsError::BadSignature,
            });
        }
        let text = std::str::from_utf8(body).map_err(|_| PaymentsError::MalformedEvent)?;
        let payload: Value = serde_json::from_str(text).map_err(|_| PaymentsError::MalformedEvent)?;
        let envelope = event::envelope(&payload)?;
        let kept = self
            .db
            .transaction(async |conn| {
                let mut inbox = InboxRepository::new(conn);
                inbox.forgive(SOURCE, &sender).await?;
                inbox.insert(now, SOURCE, &envelope, text).await
            })
            .await?;
        let event_type = envelope.kind;
        let Some(id) = kept else {
            return Ok(Received { handled: true, event_type, tenant: None, credited: None, duplicate: true });
        };
        // It is safe now: from here on nothing may keep it from being answered.
        match self.process_one(Some(id)).await {
            Ok(Some(done)) => Ok(Received {
                handled: done.end == End::Processed,
                event_type,
                tenant: done.applied.tenant,
                credited: done.purchase.then_some(done.applied.credited),
                duplicate: false,
            }),
            Ok(None) => Ok(Received { handled: false, event_type, tenant: None, credited: None, duplicate: false }),
            Err(error) => {
                tracing::warn!(
                    webhook.id = %id, error = &error as &dyn std::error::Error,
                    "the first attempt at a webhook failed, and the worker could not be told"
                );
                Ok(Received { handled: false, event_type, tenant: None, credited: None, duplicate: false })
            }
        }
    }

    /// Processes every event that is due; answers how many were. For a periodic task.
    ///
    /// # Errors
    /// [`PaymentsError::Storage`]. An event that fails is not an error here: it is tried again later.
    pub async fn process_webhooks(&self) -> Result<usize, PaymentsError> {
        let mut processed = 0;
        if self.provider().is_err() {
            return Ok(processed);
        }
        while self.process_one(None).await?.is_some() {
            processed += 1;
        }
        Ok(processed)
    }

    /// The events that were given up, newest first, 200 at most.
    ///
    /// # Errors
    /// [`PaymentsError::Storage`].
    pub async fn dead_webhooks(&self) -> Result<Vec<DeadEvent>, PaymentsError> {
        let mut conn = self.db.connection().await?;
        Ok(InboxRepository::new(&mut conn).list_dead().await?)
    }

    /// Makes an event that was given up due again, with all its attempts; [`Payments::process_webhooks`] takes it up.
    ///
    /// # Errors
    /// [`PaymentsError::DeadWebhookNotFound`] when no such event was given up, [`PaymentsError::Storage`].
    pub async fn retry_webhook(&self, origin: &Origin, id: WebhookId) -> Result<(), PaymentsError> {
        let now = self.clock.now();
        self.db
            .transaction(async |conn| {
                if !InboxRepository::new(conn).revive(now, id).await? {
                    return Err(PaymentsError::DeadWebhookNotFound(id));
                }
                let entry = AuditEntry::success(origin, None, "billing.retry_webhook", Resource::new("webhook", id));
                audit::record_in(conn, now, &entry).await?;
                Ok(())
            })
            .await
    }

    /// How many events wait to be processed, and how many were given up.
    ///
    /// # Errors
    /// [`PaymentsError::Storage`].
    pub async fn webhook_backlog(&self) -> Result<(i64, i64), PaymentsError> {
        let mut conn = self.db.connection().await?;
        Ok(InboxRepository::new(&mut conn).backlog().await?)
    }

    /// Forgets events that were dealt with a month ago and penalties that ended yesterday; answers how many. For a
    /// periodic task.
    ///
    /// # Errors
    /// [`PaymentsError::Storage`].
    pub async fn purge_webhooks(&self) -> Result<usize, PaymentsError> {
        let now = self.clock.now();
        let before = |age| now.saturating_sub(age).unwrap_or(Timestamp::MIN);
        let mut conn = self.db.connection().await?;
        Ok(InboxRepository::new(&mut conn).purge(before(PENALTY_MEMORY), before(EVENT_RETENTION)).await?)
    }

    /// Claims an event and processes it; `None` if none is due. A failure is noted with the event, and is no error.
    async fn process_one(&self, only: Option<WebhookId>) -> Result<Option<Processed>, PaymentsError> {
        let mut conn = self.db.connection().await?;
        let claimed = InboxRepository::new(&mut conn).claim(self.clock.now(), LEASE, only).await?;
        drop(conn);
        let Some(claimed) = claimed else { return Ok(None) };
        match self.process(&claimed).await {
            Ok(processed) => Ok(Some(processed)),
            Err(error) => {
                self.note_failure(&claimed, &error).await?;
                // The loop of the worker goes on with the next event.
                Ok(Some(Processed { end: End::Ignored, applied: Applied::default(), purchase: false }))
            }
        }
    }

    async fn note_failure(&self, claimed: &Claimed, error: &PaymentsError) -> Result<(), PaymentsError> {
        let now = self.clock.now();
        let note = chain(error);
        let hopeless = matches!(error, PaymentsError::MalformedEvent) || claimed.attempts >= MAX_ATTEMPTS;
        let again = (!hopeless).then(|| now.saturating_add(pause(claimed.attempts)).unwrap_or(Timestamp::MAX));
        if again.is_some() {
            tracing::warn!(webhook.id = %claimed.id, webhook.kind = claimed.kind, "a webhook failed: {note}");
        } else {
            tracing::error!(webhook.id = %claimed.id, webhook.kind = claimed.kind, "a webhook was given up: {note}");
        }
        self.db
            .transaction(async |conn| {
                InboxRepository::new(conn).fail(now, claimed.id, again, &note).await?;
                if let (None, Some(operator)) = (again, &self.config.operator_email) {
                    notify::enqueue_in(conn, now, &given_up(operator, claimed)).await?;
                }
                Ok::<_, DbError>(())
            })
            .await?;
        Ok(())
    }

    /// Asks the provider for what an event leaves out, then does all of it in one transaction.
    async fn process(&self, claimed: &Claimed) -> Result<Processed, PaymentsError> {
        let payload: Value = serde_json::from_str(&claimed.payload).map_err(|_| PaymentsError::MalformedEvent)?;
        let event = event::read(&payload)?;
        let refunds = match &event {
            Event::Refund(refund) => self.refund_facts(vec![refund.clone()]).await?,
            Event::ChargeRefunded { charge_id, refunds } => {
                let told =
                    if refunds.is_empty() { self.provider()?.list_refunds(charge_id).await? } else { refunds.clone() };
                self.refund_facts(told).await?
            }
            _ => Vec::new(),
        };
        let dispute = match &event {
            Event::Dispute(dispute) => self.dispute_fact(dispute).await?,
            _ => None,
        };
        let now = self.clock.now();
        let origin = Origin {
            actor: Actor::Webhook(SOURCE),
            client_address: None,
            user_agent: None,
            request_id: Some(claimed.event_id.clone()),
        };
        self.db
            .transaction(async |conn| {
                let mut end = End::Processed;
                let mut purchase = false;
                let applied = match &event {
                    Event::CheckoutPaid(session) => {
                        purchase = true;
                        self.checkout_paid_in(conn, now, &origin, session).await?
                    }
                    Event::PaymentSucceeded(intent) => {
                        purchase = true;
                        self.payment_succeeded_in(conn, now, &origin, intent).await?
                    }
                    Event::CheckoutEnded { session_id, expired } => {
                        CheckoutRepository::new(conn).mark_ended(now, session_id, *expired).await?;
                        Applied::default()
                    }
                    Event::Refund(_) | Event::ChargeRefunded { .. } => {
                        let mut applied = Applied::default();
                        for refund in &refunds {
                            let this = self.refunded_in(conn, now, &origin, refund).await?;
                            applied.tenant = this.tenant.or(applied.tenant);
                        }
                        applied
                    }
                    Event::Dispute(_) => match &dispute {
                        Some(dispute) => self.disputed_in(conn, now, &origin, dispute).await?,
                        None => Applied::default(),
                    },
                    Event::CustomerDeleted { customer_id } => {
                        let tenant = CustomerRepository::new(conn).unlink(now, customer_id).await?;
                        Applied { tenant, credited: Money::ZERO }
                    }
                    Event::Ignored(why) => {
                        tracing::debug!(webhook.id = %claimed.id, "a webhook means nothing to us: {why}");
                        end = End::Ignored;
                        Applied::default()
                    }
                };
                // Whoever finishes second has posted nothing: every transfer and mail has its key.
                InboxRepository::new(conn).finish(now, claimed.id, end).await?;
                Ok(Processed { end, applied, purchase })
            })
            .await
    }

    /// Refunds with the payments they belong to; one that belongs to none is not of a payment for credit.
    pub(super) async fn refund_facts(&self, refunds: Vec<Refund>) -> Result<Vec<RefundFact>, PaymentsError> {
        let mut facts = Vec::new();
        for refund in refunds {
            if refund.amount <= 0 {
                continue;
            }
            let payment = self.payment_of(refund.payment_intent_id, refund.charge_id.as_deref()).await?;
            facts.extend(payment.map(|payment_intent_id| RefundFact {
                id: refund.id,
                payment_intent_id,
                amount_cents: refund.amount,
                failed: refund.failed,
                created_at: refund.created_at,
            }));
        }
        // Locks are taken in this order by everybody.
        facts.sort_by(|a, b| (&a.payment_intent_id, &a.id).cmp(&(&b.payment_intent_id, &b.id)));
        Ok(facts)
    }

    /// A dispute with the payment it is about, unless no money has moved.
    pub(super) async fn dispute_fact(&self, dispute: &Dispute) -> Result<Option<DisputeFact>, PaymentsError> {
        let outcome = match dispute.state {
            DisputeState::Inquiry => return Ok(None),
            DisputeState::Open => DisputeOutcome::Open,
            DisputeState::Won => DisputeOutcome::Won,
            DisputeState::Lost => DisputeOutcome::Lost,
        };
        if dispute.amount <= 0 {
            return Ok(None);
        }
        let payment = self.payment_of(dispute.payment_intent_id.clone(), dispute.charge_id.as_deref()).await?;
        Ok(payment.map(|payment_intent_id| DisputeFact {
            id: dispute.id.clone(),
            payment_intent_id,
            amount_cents: dispute.amount,
            outcome,
            created_at: dispute.created_at,
        }))
    }

    async fn payment_of(
        &self,
        payment: Option<String>,
        charge_id: Option<&str>,
    ) -> Result<Option<String>, PaymentsError> {
        match (payment, charge_id) {
            (Some(payment), _) => Ok(Some(payment)),
            (None, Some(charge)) => Ok(self.provider()?.get_charge(charge).await?.payment_intent_id),
            (None, None) => Ok(None),
        }
    }
}

/// 2ⁿ seconds, with the longest pause as the limit.
fn pause(attempts: i32) -> SignedDuration {
    let seconds = 1_i64.checked_shl(attempts.clamp(0, 40).unsigned_abs()).unwrap_or(i64::MAX);
    SignedDuration::from_secs(seconds).min(MAX_PAUSE)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text.chars().filter(|c| *c != '\0').take(MAX_NOTE).collect()
}

fn given_up(recipient: &str, claimed: &Claimed) -> Mail {
    let text = format!(
        "A webhook could not be processed and was given up.\n\nWebhook: {}\nEvent: {}\nKind: {}\nAttempts: {}\n\n\
         `admin.deadWebhooks` says why; `admin.retryWebhook` makes it due again when the cause is gone.",
        claimed.id, claimed.event_id, claimed.kind, claimed.attempts
    );
    Mail {
        dedupe_key: format!("webhook-given-up:{}:{}", claimed.id, claimed.attempts),
        template: "webhook-given-up",
        recipient: recipient.to_owned(),
        subject: "A payment webhook was given up".to_owned(),
        html_body: format!("<pre>{}</pre>", text.replace('&', "&amp;").replace('<', "&lt;")),
        text_body: text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attempts_take_about_three_days() {
        let total: SignedDuration = (1..MAX_ATTEMPTS).map(pause).sum();
        assert!((60..=80).contains(&total.as_hours()), "{total:#}");
        assert_eq!(pause(1), SignedDuration::from_secs(2));
        assert_eq!(pause(i32::MAX), MAX_PAUSE);
        assert_eq!(pause(-1), SignedDuration::from_secs(1));
    }
}
