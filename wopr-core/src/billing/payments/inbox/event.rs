//! What a webhook says. Pure: it reads only the fields that matter, so that a new version of the provider's objects
//! cannot make paid events unreadable.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::billing::payments::error::PaymentsError;
use crate::billing::payments::ports::{
    CheckoutMode, CheckoutPayment, CheckoutSession, Dispute, DisputeState, PaymentIntent, Refund,
};

/// The longest id, kind or reference that is kept: the provider's are below 100 characters.
const MAX_NAME: usize = 255;

/// The outside of an event: enough to keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Envelope {
    /// `evt_…`.
    pub(super) id: String,
    /// Such as `checkout.session.completed`.
    pub(super) kind: String,
    /// When it occurred.
    pub(super) occurred_at: Timestamp,
    /// What it is about: the payment where one is named, otherwise the object.
    pub(super) object_id: String,
}

/// What an event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// A checkout's money has arrived.
    CheckoutPaid(CheckoutSession),
    /// A checkout ended without money.
    CheckoutEnded { session_id: String, expired: bool },
    /// A payment that no checkout announces has arrived.
    PaymentSucceeded(PaymentIntent),
    /// A refund was made, or its state changed.
    Refund(Refund),
    /// Something of a charge was refunded; `refunds` names what, if it was told.
    ChargeRefunded { charge_id: String, refunds: Vec<Refund> },
    /// A dispute was opened, decided or otherwise changed.
    Dispute(Dispute),
    /// A customer was deleted at the provider.
    CustomerDeleted { customer_id: String },
    /// Nothing for us; why.
    Ignored(&'static str),
}

#[derive(Deserialize)]
struct RawEnvelope {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    created: i64,
    data: RawData,
}

#[derive(Deserialize)]
struct RawData {
    object: Value,
}

/// An id, or the object that has it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Reference {
    Id(String),
    Object { id: String },
}

impl Reference {
    fn into_id(self) -> String {
        match self {
            Self::Id(id) | Self::Object { id } => id,
        }
    }
}

/// Strings, says the provider; a value that is none must not make a paid event unreadable.
type Metadata = Option<BTreeMap<String, Value>>;

fn entry(metadata: &Metadata, key: &str) -> Option<String> {
    metadata.as_ref()?.get(key)?.as_str().filter(|value| !value.is_empty()).map(str::to_owned)
}

#[derive(Deserialize)]
struct RawSession {
    id: String,
    mode: Option<String>,
    payment_status: Option<String>,
    amount_total: Option<i64>,
    currency: Option<String>,
    client_reference_id: Option<String>,
    customer: Option<Reference>,
    customer_email: Option<String>,
    customer_details: Option<RawPayer>,
    payment_intent: Option<Reference>,
    metadata: Metadata,
    total_details: Option<RawTotals>,
    created: Option<i64>,
}

#[derive(Deserialize)]
struct RawPayer {
    email: Option<String>,
}

#[derive(Deserialize)]
struct RawTotals {
    amount_tax: Option<i64>,
}

#[derive(Deserialize)]
struct RawIntent {
    id: String,
    amount: Option<i64>,
    amount_received: Option<i64>,
    currency: Option<String>,
    customer: Option<Reference>,
    status: Option<String>,
    metadata: Metadata,
    created: Option<i64>,
}

#[derive(Deserialize)]
struct RawCharge {
    id: String,
    payment_intent: Option<Reference>,
    refunds: Option<RawRefunds>,
}

#[derive(Deserialize)]
struct RawRefunds {
    #[serde(default)]
    data: Vec<RawRefund>,
    #[serde(default)]
    has_more: bool,
}

#[derive(Deserialize)]
struct RawRefund {
    id: String,
    amount: i64,
    currency: Option<String>,
    payment_intent: Option<Reference>,
    charge: Option<Reference>,
    status: Option<String>,
    created: Option<i64>,
}

#[derive(Deserialize)]
struct RawDispute {
    id: String,
    amount: i64,
    currency: Option<String>,
    payment_intent: Option<Reference>,
    charge: Option<Reference>,
    status: String,
    created: Option<i64>,
}

/// Reads the outside of an event.
///
/// # Errors
/// [`PaymentsError::MalformedEvent`].
pub(super) fn envelope(payload: &Value) -> Result<Envelope, PaymentsError> {
    let raw = RawEnvelope::deserialize(payload).map_err(|_| PaymentsError::MalformedEvent)?;
    let text = |name: &str| raw.data.object.get(name).and_then(reference_text);
    let object_id = text("payment_intent").or_else(|| text("charge")).or_else(|| text("id"));
    // Some objects, such as the balance, have no id: an event about them has no order to keep.
    let object_id = object_id.filter(|id| !id.is_empty()).unwrap_or_else(|| raw.id.clone());
    let names = [&raw.id, &raw.kind, &object_id];
    if names.iter().any(|name| name.is_empty() || name.len() > MAX_NAME || name.contains('\0')) {
        return Err(PaymentsError::MalformedEvent);
    }
    let occurred_at = Timestamp::from_second(raw.created).map_err(|_| PaymentsError::MalformedEvent)?;
    Ok(Envelope { id: raw.id, kind: raw.kind, occurred_at, object_id })
}

fn reference_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("id").and_then(Value::as_str)).map(str::to_owned)
}

/// Reads what an event says.
///
/// # Errors
/// [`PaymentsError::MalformedEvent`] when an event that matters lacks what it must have.
pub(super) fn read(payload: &Value) -> Result<Event, PaymentsError> {
    let outside = envelope(payload)?;
    let object = payload.pointer("/data/object").ok_or(PaymentsError::MalformedEvent)?;
    let at = outside.occurred_at;
    Ok(match outside.kind.as_str() {
        "checkout.session.completed" | "checkout.session.async_payment_succeeded" => {
            let session = session(parse(object)?, at);
            match (session.mode, session.payment) {
                (CheckoutMode::Other, _) => Event::Ignored("not a payment"),
                (CheckoutMode::Payment, CheckoutPayment::Unpaid) => Event::Ignored("not paid yet"),
                (CheckoutMode::Payment, CheckoutPayment::NotRequired) => Event::Ignored("nothing had to be paid"),
                (CheckoutMode::Payment, CheckoutPayment::Paid) if session.amount_total <= 0 => {
                    Event::Ignored("nothing was paid")
                }
                (CheckoutMode::Payment, CheckoutPayment::Paid) => Event::CheckoutPaid(session),
            }
        }
        "checkout.session.async_payment_failed" => {
            Event::CheckoutEnded { session_id: parse::<RawSession>(object)?.id, expired: false }
        }
        "checkout.session.expired" => {
            Event::CheckoutEnded { session_id: parse::<RawSession>(object)?.id, expired: true }
        }
        "payment_intent.succeeded" => {
            let intent = intent(parse(object)?, at);
            match (&intent.tenant, &intent.checkout_tenant) {
                _ if intent.amount_received <= 0 => Event::Ignored("nothing was paid"),
                (_, Some(_)) => Event::Ignored("its checkout announces it"),
                (None, None) => Event::Ignored("not a payment for credit"),
                (Some(_), None) => Event::PaymentSucceeded(intent),
            }
        }
        "charge.refunded" => {
            let charge: RawCharge = parse(object)?;
            let payment = charge.payment_intent.map(Reference::into_id);
            let told = charge.refunds.filter(|refunds| !refunds.has_more).map(|refunds| refunds.data);
            let refunds = told.unwrap_or_default().into_iter().map(|raw| {
                let mut refund = refund(raw, at);
                refund.payment_intent_id = refund.payment_intent_id.or_else(|| payment.clone());
                refund.charge_id.get_or_insert_with(|| charge.id.clone());
                refund
            });
            Event::ChargeRefunded { refunds: refunds.collect(), charge_id: charge.id }
        }
        "refund.created" | "refund.updated" | "refund.failed" | "charge.refund.updated" => {
            Event::Refund(refund(parse(object)?, at))
        }
        "charge.dispute.created"
        | "charge.dispute.updated"
        | "charge.dispute.closed"
        | "charge.dispute.funds_withdrawn"
        | "charge.dispute.funds_reinstated" => {
            let dispute = dispute(parse(object)?, at);
            match dispute.state {
                DisputeState::Inquiry => Event::Ignored("no money has moved"),
                DisputeState::Open | DisputeState::Won | DisputeState::Lost => Event::Dispute(dispute),
            }
        }
        "customer.deleted" => Event::CustomerDeleted { customer_id: parse::<Identified>(object)?.id },
        _ => Event::Ignored("not a kind that matters"),
    })
}

#[derive(Deserialize)]
struct Identified {
    id: String,
}

fn parse<'a, T: Deserialize<'a>>(object: &'a Value) -> Result<T, PaymentsError> {
    T::deserialize(object).map_err(|_| PaymentsError::MalformedEvent)
}

/// Reads a checkout session as the provider writes it.
pub(crate) fn read_session(object: &Value) -> Result<CheckoutSession, PaymentsError> {
    Ok(session(parse(object)?, Timestamp::UNIX_EPOCH))
}

/// Reads a payment as the provider writes it.
pub(crate) fn read_intent(object: &Value) -> Result<PaymentIntent, PaymentsError> {
    Ok(intent(parse(object)?, Timestamp::UNIX_EPOCH))
}

/// Reads a refund as the provider writes it.
pub(crate) fn read_refund(object: &Value) -> Result<Refund, PaymentsError> {
    Ok(refund(parse(object)?, Timestamp::UNIX_EPOCH))
}

/// Reads a dispute as the provider writes it.
pub(crate) fn read_dispute(object: &Value) -> Result<Dispute, PaymentsError> {
    Ok(dispute(parse(object)?, Timestamp::UNIX_EPOCH))
}

fn time(seconds: Option<i64>, otherwise: Timestamp) -> Timestamp {
    seconds.and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or(otherwise)
}

fn session(raw: RawSession, at: Timestamp) -> CheckoutSession {
    CheckoutSession {
        mode: match raw.mode.as_deref() {
            Some("payment") => CheckoutMode::Payment,
            _ => CheckoutMode::Other,
        },
        payment: match raw.payment_status.as_deref() {
            Some("paid") => CheckoutPayment::Paid,
            Some("no_payment_required") => CheckoutPayment::NotRequired,
            _ => CheckoutPayment::Unpaid,
        },
        amount_total: raw.amount_total.unwrap_or(0),
        amount_tax: raw.total_details.and_then(|totals| totals.amount_tax).unwrap_or(0),
        currency: raw.currency.unwrap_or_default().to_ascii_lowercase(),
        client_reference_id: raw.client_reference_id.filter(|reference| !reference.is_empty()),
        customer_id: raw.customer.map(Reference::into_id),
        customer_email: raw.customer_details.and_then(|payer| payer.email).or(raw.customer_email),
        payment_intent_id: raw.payment_intent.map(Reference::into_id),
        tenant: entry(&raw.metadata, "wopr_tenant"),
        purchase_type: entry(&raw.metadata, "wopr_purchase_type"),
        checkout: entry(&raw.metadata, "wopr_checkout"),
        created_at: time(raw.created, at),
        id: raw.id,
    }
}

fn intent(raw: RawIntent, at: Timestamp) -> PaymentIntent {
    PaymentIntent {
        amount_received: raw.amount_received.or(raw.amount).unwrap_or(0),
        currency: raw.currency.unwrap_or_default().to_ascii_lowercase(),
        customer_id: raw.customer.map(Reference::into_id),
        tenant: entry(&raw.metadata, "wopr_tenant"),
        checkout_tenant: entry(&raw.metadata, "wopr_checkout_tenant"),
        succeeded: raw.status.as_deref() == Some("succeeded"),
        created_at: time(raw.created, at),
        id: raw.id,
    }
}

fn refund(raw: RawRefund, at: Timestamp) -> Refund {
    Refund {
        payment_intent_id: raw.payment_intent.map(Reference::into_id),
        charge_id: raw.charge.map(Reference::into_id),
        amount: raw.amount,
        currency: raw.currency.unwrap_or_default().to_ascii_lowercase(),
        failed: matches!(raw.status.as_deref(), Some("failed" | "canceled")),
        created_at: time(raw.created, at),
        id: raw.id,
    }
}

fn dispute(raw: RawDispute, at: Timestamp) -> Dispute {
    Dispute {
        payment_intent_id: raw.payment_intent.map(Reference::into_id),
        charge_id: raw.charge.map(Reference::into_id),
        amount: raw.amount,
        currency: raw.currency.unwrap_or_default().to_ascii_lowercase(),
        state: match raw.status.as_str() {
            "won" => DisputeState::Won,
            "lost" => DisputeState::Lost,
            "needs_response" | "under_review" => DisputeState::Open,
            _ => DisputeState::Inquiry,
        },
        created_at: time(raw.created, at),
        id: raw.id,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(kind: &str, object: &Value) -> Value {
        json!({ "id": "evt_1", "type": kind, "created": 1_800_000_000, "data": { "object": object } })
    }

    fn paid_session(changes: &[(&str, Value)]) -> Value {
        let mut session = json!({
            "id": "cs_test_1", "mode": "payment", "payment_status": "paid", "amount_total": 3000, "currency": "usd",
            "client_reference_id": "t", "customer": null, "payment_intent": "pi_1",
            "metadata": { "wopr_tenant": "t", "wopr_purchase_type": "credits" },
        });
        for (name, value) in changes {
            session[*name] = value.clone();
        }
        session
    }

    #[test]
    fn a_checkout_counts_only_when_it_is_a_payment_and_paid() {
        let table = [
            (paid_session(&[]), true),
            (paid_session(&[("customer", json!("cus_1"))]), true),
            (paid_session(&[("customer", json!({ "id": "cus_1" }))]), true),
            (paid_session(&[("payment_intent", json!(null))]), true),
            (paid_session(&[("metadata", json!(null))]), true),
            (paid_session(&[("metadata", json!({ "wopr_tenant": null }))]), true),
            (paid_session(&[("mode", json!("subscription"))]), false),
            (paid_session(&[("mode", json!("setup"))]), false),
            (paid_session(&[("payment_status", json!("unpaid"))]), false),
            (paid_session(&[("payment_status", json!("no_payment_required"))]), false),
            (paid_session(&[("amount_total", json!(0))]), false),
            (paid_session(&[("amount_total", json!(null))]), false),
        ];
        for kind in ["checkout.session.completed", "checkout.session.async_payment_succeeded"] {
            for (object, counts) in &table {
                let read = read(&event(kind, object)).unwrap();
                assert_eq!(matches!(read, Event::CheckoutPaid(_)), *counts, "{object}");
            }
        }
    }

    #[test]
    fn a_payment_that_its_checkout_announces_does_not_count_twice() {
        let intent = |metadata: Value| json!({ "id": "pi_1", "amount": 500, "amount_received": 500, "currency": "usd", "metadata": metadata });
        let table = [
            (json!({ "wopr_tenant": "t" }), true),
            (json!({ "wopr_checkout_tenant": "t" }), false),
            (json!({ "wopr_tenant": "t", "wopr_checkout_tenant": "t" }), false),
            (json!({ "wopr_tenant": "" }), false),
            (json!({}), false),
        ];
        for (metadata, counts) in table {
            let read = read(&event("payment_intent.succeeded", &intent(metadata.clone()))).unwrap();
            assert_eq!(matches!(read, Event::PaymentSucceeded(_)), counts, "{metadata}");
        }
    }

    #[test]
    fn refunds_told_with_a_charge_know_their_payment() {
        let charge = json!({ "id": "ch_1", "payment_intent": "pi_1", "amount_refunded": 500,
            "refunds": { "has_more": false, "data": [{ "id": "re_1", "amount": 500, "currency": "usd" }] } });
        let Event::ChargeRefunded { charge_id, refunds } = read(&event("charge.refunded", &charge)).unwrap() else {
            panic!("not a refund");
        };
        assert_eq!((charge_id.as_str(), refunds.len()), ("ch_1", 1));
        assert_eq!(refunds[0].payment_intent_id.as_deref(), Some("pi_1"));
        assert_eq!(refunds[0].charge_id.as_deref(), Some("ch_1"));
    }

    #[test]
    fn an_inquiry_moves_no_money() {
        for (status, counts) in [
            ("warning_needs_response", false),
            ("warning_closed", false),
            ("prevented", false),
            ("needs_response", true),
            ("under_review", true),
            ("won", true),
            ("lost", true),
        ] {
            let dispute =
                json!({ "id": "dp_1", "amount": 5, "currency": "usd", "payment_intent": "pi_1", "status": status });
            let read = read(&event("charge.dispute.created", &dispute)).unwrap();
            assert_eq!(matches!(read, Event::Dispute(_)), counts, "{status}");
        }
    }

    #[test]
    fn events_that_do_not_matter_are_kept_and_ignored() {
        assert!(matches!(
            read(&event("radar.early_fraud_warning.created", &json!({ "id": "issfr_1" }))),
            Ok(Event::Ignored(_))
        ));
    }

    #[test]
    fn what_is_no_event_is_refused() {
        let table = [
            json!(null),
            json!([]),
            json!({}),
            json!({ "id": "evt_1", "type": "x", "created": 0 }),
            json!({ "id": 1, "type": "x", "created": 0, "data": { "object": { "id": "x" } } }),
            json!({ "id": "", "type": "x", "created": 0, "data": { "object": { "id": "x" } } }),
            json!({ "id": "evt\u{0}", "type": "x", "created": 0, "data": { "object": { "id": "x" } } }),
            json!({ "id": "evt_1", "type": "x", "created": i64::MAX, "data": { "object": { "id": "x" } } }),
            json!({ "id": "evt_1", "type": "x", "created": 0, "data": { "object": { "id": "i".repeat(256) } } }),
            json!({ "id": "e".repeat(256), "type": "x", "created": 0, "data": { "object": { "id": "x" } } }),
        ];
        for payload in table {
            assert!(matches!(envelope(&payload), Err(PaymentsError::MalformedEvent)), "{payload}");
        }
        let balance = envelope(&event("balance.available", &json!({ "object": "balance" }))).unwrap();
        assert_eq!(balance.object_id, "evt_1");
        let incomplete = event("refund.created", &json!({ "id": "re_1" }));
        assert!(matches!(read(&incomplete), Err(PaymentsError::MalformedEvent)));
    }
}
