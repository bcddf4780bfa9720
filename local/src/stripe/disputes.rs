//! Disputes: a holder takes the money back, and it is won again or lost.

use serde_json::{Value, json};

use super::engine::{Tx, new_id, number, text};
use super::error::ApiError;
use super::form::Params;
use super::list;
use super::money::{self, Movement};
use super::store::Kind;

/// Days to send evidence.
const EVIDENCE_DAYS: i64 = 7;

const REASONS: &[&str] = &[
    "bank_cannot_process",
    "check_returned",
    "credit_not_processed",
    "customer_initiated",
    "debit_not_authorized",
    "duplicate",
    "fraudulent",
    "general",
    "incorrect_account_details",
    "insufficient_funds",
    "noncompliant",
    "product_not_received",
    "product_unacceptable",
    "subscription_canceled",
    "unrecognized",
];

const EVIDENCE: &[&str] = &[
    "access_activity_log",
    "billing_address",
    "cancellation_policy",
    "cancellation_policy_disclosure",
    "cancellation_rebuttal",
    "customer_communication",
    "customer_email_address",
    "customer_name",
    "customer_purchase_ip",
    "customer_signature",
    "duplicate_charge_documentation",
    "duplicate_charge_explanation",
    "duplicate_charge_id",
    "product_description",
    "receipt",
    "refund_policy",
    "refund_policy_disclosure",
    "refund_refusal_explanation",
    "service_date",
    "service_documentation",
    "shipping_address",
    "shipping_carrier",
    "shipping_date",
    "shipping_documentation",
    "shipping_tracking_number",
    "uncategorized_file",
    "uncategorized_text",
];

/// Opens a dispute over a charge: the money and a fee leave the balance.
pub(super) fn open(tx: &mut Tx<'_>, charge_id: &str, reason: &str, amount: Option<i64>) -> Result<Value, ApiError> {
    if !REASONS.contains(&reason) {
        return Err(ApiError::invalid(format!("Invalid reason: must be one of {}", REASONS.join(", "))).param("reason"));
    }
    let mut charge = tx.load(Kind::Charge, "charge", charge_id)?;
    let left = number(&charge, "amount_captured") - number(&charge, "amount_refunded");
    let amount = amount.unwrap_or(left);
    if charge["status"] != "succeeded" || charge["disputed"] == true || amount < 1 || amount > left {
        return Err(ApiError::invalid(format!(
            "Charge {charge_id} cannot be disputed for {amount}: its status is {}, disputed is {}, {left} is left of it",
            text(&charge, "status"),
            charge["disputed"],
        )));
    }
    let id = new_id("du");
    let currency = text(&charge, "currency").to_owned();
    let booked = money::book(
        tx,
        Movement {
            kind: "adjustment",
            category: "dispute",
            amount: -amount,
            fee: money::DISPUTE_FEE,
            currency: &currency,
            source: &id,
            description: "Chargeback withdrawal",
        },
    );
    let mut evidence: Value = EVIDENCE.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
    evidence["enhanced_evidence"] = json!({});
    let dispute = json!({
        "id": id,
        "object": "dispute",
        "amount": amount,
        "balance_transaction": booked["id"],
        "balance_transactions": [booked],
        "charge": charge_id,
        "created": tx.now,
        "currency": currency,
        "enhanced_eligibility_types": [],
        "evidence": evidence,
        "evidence_details": {
            "due_by": tx.now + EVIDENCE_DAYS * 86_400, "enhanced_eligibility": {}, "has_evidence": false, "past_due": false,
            "submission_count": 0,
        },
        "is_charge_refundable": false,
        "livemode": false,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {
            "card": { "brand": charge["payment_method_details"]["card"]["brand"], "case_type": "chargeback", "network": charge["payment_method_details"]["card"]["brand"], "network_reason_code": "10" },
            "type": "card",
        },
        "reason": reason,
        "status": "needs_response",
    });
    charge["disputed"] = json!(true);
    tx.save(Kind::Charge, &charge);
    tx.save(Kind::Dispute, &dispute);
    tx.emit("charge.dispute.created", &dispute, None);
    tx.emit("charge.dispute.funds_withdrawn", &dispute, None);
    Ok(dispute)
}

fn open_dispute(tx: &Tx<'_>, id: &str) -> Result<Value, ApiError> {
    let dispute = tx.load(Kind::Dispute, "dispute", id)?;
    if ["won", "lost"].contains(&text(&dispute, "status")) {
        return Err(ApiError::invalid(format!("This dispute is already closed: {}.", text(&dispute, "status")))
            .code("dispute_already_closed"));
    }
    Ok(dispute)
}

pub(super) fn update(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&["evidence", "metadata", "submit"])?;
    let before = open_dispute(tx, id)?;
    let mut dispute = before.clone();
    if let Some(evidence) = params.child("evidence")? {
        evidence.only(EVIDENCE)?;
        if let (Some(known), Some(sent)) = (dispute["evidence"].as_object_mut(), evidence.to_json().as_object()) {
            known.extend(sent.clone());
        }
        dispute["evidence_details"]["has_evidence"] = json!(true);
    }
    // Evidence is sent to the bank at once unless the caller says otherwise.
    if params.has("evidence") && params.boolean("submit")?.unwrap_or(true) {
        let count = number(&dispute["evidence_details"], "submission_count");
        dispute["evidence_details"]["submission_count"] = json!(count + 1);
        dispute["status"] = json!("under_review");
    }
    dispute["metadata"] = params.metadata(dispute.get("metadata"))?;
    tx.save(Kind::Dispute, &dispute);
    tx.emit("charge.dispute.updated", &dispute, Some(super::customers::changed(&before, &dispute)));
    Ok(dispute)
}

/// `POST /v1/disputes/{id}/close`: giving up.
pub(super) fn close(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&[])?;
    decide(tx, id, false)
}

/// The bank's decision.
pub(super) fn decide(tx: &mut Tx<'_>, id: &str, won: bool) -> Result<Value, ApiError> {
    let mut dispute = open_dispute(tx, id)?;
    let previous = json!({ "status": dispute["status"] });
    dispute["status"] = json!(if won { "won" } else { "lost" });
    if won {
        let currency = text(&dispute, "currency").to_owned();
        let booked = money::book(
            tx,
            Movement {
                kind: "adjustment",
                category: "dispute_reversal",
                amount: number(&dispute, "amount"),
                fee: 0,
                currency: &currency,
                source: id,
                description: "Chargeback reversal",
            },
        );
        if let Some(list) = dispute["balance_transactions"].as_array_mut() {
            list.push(booked);
        }
    }
    tx.save(Kind::Dispute, &dispute);
    if won {
        tx.emit("charge.dispute.funds_reinstated", &dispute, None);
    }
    tx.emit("charge.dispute.closed", &dispute, Some(previous));
    Ok(dispute)
}

pub(super) fn index(tx: &Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&[list::PARAMS, &["charge", "payment_intent", "created"]].concat())?;
    let (charge, intent) = (params.filled("charge")?, params.filled("payment_intent")?);
    list::page(tx, Kind::Dispute, "/v1/disputes", params, |dispute| {
        charge.is_none_or(|id| dispute["charge"] == id) && intent.is_none_or(|id| dispute["payment_intent"] == id)
    })
}
