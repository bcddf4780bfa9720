//! Money that moves: charges, refunds, and the balance transactions behind them. Amounts are cents.

use serde_json::{Value, json};

use super::cards::Card;
use super::engine::{Tx, new_id, number, text};
use super::error::ApiError;
use super::form::Params;
use super::store::Kind;
use super::{list, payment_methods};

/// Stripe's standard price for cards, 2.9 % and 30 cents: <https://stripe.com/pricing>.
fn card_fee(amount: i64) -> i64 {
    amount.saturating_mul(29).saturating_add(500) / 1000 + 30
}

/// What Stripe keeps for a dispute, won or lost: <https://stripe.com/pricing>.
pub(super) const DISPUTE_FEE: i64 = 1500;

/// Days until charged money is available for payout.
const PAYOUT_DAYS: i64 = 2;

/// Why money moves on the account's balance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Movement<'a> {
    pub(super) kind: &'a str,
    pub(super) category: &'a str,
    pub(super) amount: i64,
    pub(super) fee: i64,
    pub(super) currency: &'a str,
    pub(super) source: &'a str,
    pub(super) description: &'a str,
}

/// Books a movement and returns it.
pub(super) fn book(tx: &mut Tx<'_>, movement: Movement<'_>) -> Value {
    let Movement { kind, category, amount, fee, currency, source, description } = movement;
    let fees = match fee {
        0 => json!([]),
        fee => json!([{
            "amount": fee, "application": null, "currency": currency, "type": "stripe_fee",
            "description": if kind == "charge" { "Stripe processing fees" } else { "Dispute fee" },
        }]),
    };
    let booked = json!({
        "id": new_id("txn"),
        "object": "balance_transaction",
        "amount": amount,
        "available_on": tx.now + PAYOUT_DAYS * 86_400,
        "balance_type": "payments",
        "created": tx.now,
        "currency": currency,
        "description": description,
        "exchange_rate": null,
        "fee": fee,
        "fee_details": fees,
        "net": amount - fee,
        "reporting_category": category,
        "source": source,
        "status": "pending",
        "type": kind,
    });
    tx.save(Kind::BalanceTransaction, &booked);
    booked
}

/// Whether money came in, or is still under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    Now,
    Later,
}

/// Makes a charge for an intent. A failed one says why in `failure`: code, decline code, message.
pub(super) fn charge(
    tx: &mut Tx<'_>,
    intent: &Value,
    method: &Value,
    card: Card,
    outcome: Result<Settled, (&str, &str, &str)>,
) -> Value {
    let amount = number(intent, "amount");
    let succeeded = outcome == Ok(Settled::Now);
    let failure = outcome.err();
    let mut card_details = method["card"].clone();
    card_details["amount_authorized"] = json!(amount);
    card_details["last4"] = json!(card.last4());
    let mut charge = json!({
        "id": new_id("ch"),
        "object": "charge",
        "amount": amount,
        "amount_captured": if succeeded { amount } else { 0 },
        "amount_refunded": 0,
        "application": null,
        "application_fee": null,
        "application_fee_amount": null,
        "balance_transaction": null,
        "billing_details": method["billing_details"],
        "calculated_statement_descriptor": "WOPR",
        "captured": failure.is_none(),
        "created": tx.now,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": false,
        "failure_balance_transaction": null,
        "failure_code": failure.map(|failure| failure.0),
        "failure_message": failure.map(|failure| failure.2),
        "fraud_details": {},
        "livemode": false,
        "metadata": intent["metadata"],
        "on_behalf_of": null,
        "outcome": {
            "advice_code": null, "network_advice_code": null, "network_decline_code": null,
            "network_status": if failure.is_none() { "approved_by_network" } else { "declined_by_network" },
            "reason": failure.map(|failure| failure.1),
            "risk_level": "normal", "risk_score": 20,
            "seller_message": if failure.is_none() { "Payment complete." } else { "The bank declined the payment." },
            "type": if failure.is_none() { "authorized" } else { "issuer_declined" },
        },
        "paid": failure.is_none(),
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": { "card": card_details, "type": "card" },
        "presentment_details": null,
        "receipt_email": intent["receipt_email"],
        "receipt_number": null,
        "receipt_url": null,
        "refunded": false,
        "review": null,
        "shipping": null,
        "source": null,
        "source_transfer": null,
        "statement_descriptor": null,
        "statement_descriptor_suffix": null,
        "status": match outcome { Ok(Settled::Now) => "succeeded", Ok(Settled::Later) => "pending", Err(_) => "failed" },
        "transfer_data": null,
        "transfer_group": null,
    });
    match outcome {
        Ok(Settled::Now) => take_money(tx, &mut charge),
        Ok(Settled::Later) => {
            tx.save(Kind::Charge, &charge);
            tx.emit("charge.pending", &charge, None);
        }
        Err(_) => {
            tx.save(Kind::Charge, &charge);
            tx.emit("charge.failed", &charge, None);
        }
    }
    charge
}

/// Books the money of a charge that went through.
pub(super) fn take_money(tx: &mut Tx<'_>, charge: &mut Value) {
    let amount = number(charge, "amount");
    let booked = book(
        tx,
        Movement {
            kind: "charge",
            category: "charge",
            amount,
            fee: card_fee(amount),
            currency: text(charge, "currency"),
            source: text(charge, "id"),
            description: "Payment",
        },
    );
    charge["balance_transaction"] = booked["id"].clone();
    charge["amount_captured"] = json!(amount);
    charge["status"] = json!("succeeded");
    tx.save(Kind::Charge, charge);
    tx.emit("charge.succeeded", charge, None);
}

pub(super) fn list_charges(tx: &Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&[list::PARAMS, &["customer", "payment_intent", "created"]].concat())?;
    let (customer, intent) = (params.filled("customer")?, params.filled("payment_intent")?);
    list::page(tx, Kind::Charge, "/v1/charges", params, |charge| {
        customer.is_none_or(|id| charge["customer"] == id) && intent.is_none_or(|id| charge["payment_intent"] == id)
    })
}

pub(super) fn update_charge(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&["description", "metadata", "receipt_email"])?;
    let mut charge = tx.load(Kind::Charge, "charge", id)?;
    for field in ["description", "receipt_email"] {
        if let Some(value) = params.text(field)? {
            charge[field] = json!(value);
        }
    }
    charge["metadata"] = params.metadata(charge.get("metadata"))?;
    tx.save(Kind::Charge, &charge);
    tx.emit("charge.updated", &charge, None);
    Ok(charge)
}

pub(super) fn create_refund(tx: &mut Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&["amount", "charge", "payment_intent", "reason", "metadata", "currency"])?;
    let reason = params.choice("reason", &["duplicate", "fraudulent", "requested_by_customer"])?;
    let charge_id = match (params.filled("charge")?, params.filled("payment_intent")?) {
        (Some(charge), None) => charge.to_owned(),
        (None, Some(intent)) => {
            let found = tx.get(Kind::PaymentIntent, intent);
            let found = found.ok_or_else(|| ApiError::no_such("payment_intent", intent, "payment_intent"))?;
            let latest = found["latest_charge"].as_str().map(str::to_owned);
            latest.ok_or_else(|| {
                ApiError::invalid("This PaymentIntent does not have a successful charge to refund.")
                    .param("payment_intent")
            })?
        }
        _ => return Err(ApiError::invalid("Must provide exactly one of: charge, payment_intent.")),
    };
    let metadata = params.metadata(None)?;
    refund(tx, &charge_id, params.integer("amount")?, reason, metadata)
}

/// Gives back all or part of a charge.
pub(super) fn refund(
    tx: &mut Tx<'_>,
    charge_id: &str,
    amount: Option<i64>,
    reason: Option<&str>,
    metadata: Value,
) -> Result<Value, ApiError> {
    let mut charge = tx.get(Kind::Charge, charge_id).ok_or_else(|| ApiError::no_such("charge", charge_id, "charge"))?;
    if charge["status"] != "succeeded" {
        return Err(ApiError::invalid(format!("Charge {charge_id} has not succeeded.")).param("charge"));
    }
    if charge["disputed"] == true {
        return Err(ApiError::invalid(format!("Charge {charge_id} has been charged back; cannot issue a refund."))
            .code("charge_disputed"));
    }
    if charge["refunded"] == true {
        return Err(
            ApiError::invalid(format!("Charge {charge_id} has already been refunded.")).code("charge_already_refunded")
        );
    }
    let left = number(&charge, "amount") - number(&charge, "amount_refunded");
    let amount = amount.unwrap_or(left);
    if amount <= 0 {
        return Err(ApiError::invalid("Invalid positive integer").code("parameter_invalid_integer").param("amount"));
    }
    if amount > left {
        return Err(ApiError::invalid(format!(
            "Refund amount ({amount}) is greater than unrefunded amount on charge ({left})"
        ))
        .param("amount"));
    }
    let id = new_id("re");
    let currency = text(&charge, "currency").to_owned();
    let booked = book(
        tx,
        Movement {
            kind: "refund",
            category: "refund",
            amount: -amount,
            fee: 0,
            currency: &currency,
            source: &id,
            description: "REFUND FOR PAYMENT",
        },
    );
    let refund = json!({
        "id": id,
        "object": "refund",
        "amount": amount,
        "balance_transaction": booked["id"],
        "charge": charge_id,
        "created": tx.now,
        "currency": currency,
        "destination_details": { "card": { "reference_status": "pending", "reference_type": "acquirer_reference_number", "type": "refund" }, "type": "card" },
        "metadata": metadata,
        "payment_intent": charge["payment_intent"],
        "reason": reason,
        "receipt_number": null,
        "source_transfer_reversal": null,
        "status": "succeeded",
        "transfer_reversal": null,
    });
    tx.save(Kind::Refund, &refund);
    let before = number(&charge, "amount_refunded");
    let previous = json!({ "amount_refunded": before, "refunded": false });
    charge["amount_refunded"] = json!(before + amount);
    charge["refunded"] = json!(amount == left);
    tx.save(Kind::Charge, &charge);
    tx.emit("refund.created", &refund, None);
    tx.emit("charge.refunded", &charge, Some(previous));
    Ok(refund)
}

pub(super) fn list_refunds(tx: &Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&[list::PARAMS, &["charge", "payment_intent", "created"]].concat())?;
    let (charge, intent) = (params.filled("charge")?, params.filled("payment_intent")?);
    list::page(tx, Kind::Refund, "/v1/refunds", params, |refund| {
        charge.is_none_or(|id| refund["charge"] == id) && intent.is_none_or(|id| refund["payment_intent"] == id)
    })
}

pub(super) fn update_refund(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&["metadata"])?;
    let mut refund = tx.load(Kind::Refund, "refund", id)?;
    refund["metadata"] = params.metadata(refund.get("metadata"))?;
    tx.save(Kind::Refund, &refund);
    tx.emit("refund.updated", &refund, None);
    Ok(refund)
}

/// A balance transaction as it stands today: pending money becomes available with time.
pub(super) fn aged(tx: &Tx<'_>, mut booked: Value) -> Value {
    if number(&booked, "available_on") <= tx.now {
        booked["status"] = json!("available");
    }
    booked
}

pub(super) fn list_balance_transactions(tx: &Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&[list::PARAMS, &["created", "type", "source", "currency", "payout"]].concat())?;
    let (kind, source) = (params.filled("type")?, params.filled("source")?);
    let currency = params.filled("currency")?;
    // There are no payouts, so none has transactions.
    let payout = params.filled("payout")?;
    let mut page = list::page(tx, Kind::BalanceTransaction, "/v1/balance_transactions", params, |booked| {
        payout.is_none()
            && kind.is_none_or(|kind| booked["type"] == kind)
            && source.is_none_or(|id| booked["source"] == id)
            && currency.is_none_or(|currency| booked["currency"] == currency)
    })?;
    if let Some(data) = page["data"].as_array_mut() {
        for booked in data {
            *booked = aged(tx, booked.take());
        }
    }
    Ok(page)
}

/// `GET /v1/balance`: the sum of all balance transactions, by whether they are available yet.
pub(super) fn balance(tx: &Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&[])?;
    let (mut available, mut pending) = (0, 0);
    for booked in tx.store.rows(Kind::BalanceTransaction) {
        let sum = if number(booked, "available_on") <= tx.now { &mut available } else { &mut pending };
        *sum += number(booked, "net");
    }
    let amount = |cents: i64| json!([{ "amount": cents, "currency": "usd", "source_types": { "card": cents } }]);
    Ok(json!({ "object": "balance", "available": amount(available), "pending": amount(pending), "livemode": false }))
}

/// Only cards can be charged, so every stored method has one.
pub(super) fn card_behind(tx: &Tx<'_>, method: &Value) -> Result<Card, ApiError> {
    payment_methods::card_of(tx, text(method, "id"))
}
