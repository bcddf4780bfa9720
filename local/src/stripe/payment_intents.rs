//! Payment intents and the attempts to pay them.

use serde_json::{Value, json};

use super::cards::Outcome;
use super::engine::{Tx, new_id, number, random, text};
use super::error::ApiError;
use super::form::Params;
use super::money::{self, Settled};
use super::store::Kind;
use super::{customers, disputes, list, payment_methods};

/// The smallest and largest amounts in US cents: <https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts>.
const AMOUNT_MIN: i64 = 50;
const AMOUNT_MAX: i64 = 99_999_999;

/// What a new intent is made of.
#[derive(Debug, Default)]
pub(super) struct NewIntent<'a> {
    pub(super) amount: i64,
    pub(super) currency: &'a str,
    pub(super) customer: Option<&'a str>,
    pub(super) metadata: Value,
    pub(super) description: Option<&'a str>,
    pub(super) receipt_email: Option<&'a str>,
    pub(super) setup_future_usage: Option<&'a str>,
}

/// Refuses amounts and currencies that cannot be charged.
pub(super) fn check_amount(amount: i64, currency: &str, param: &str) -> Result<(), ApiError> {
    if currency.len() != 3 || !currency.chars().all(|c| c.is_ascii_lowercase()) {
        return Err(ApiError::invalid(format!("Invalid currency: {currency}.")).param("currency"));
    }
    if amount < 1 {
        return Err(ApiError::invalid("This value must be greater than or equal to 1.")
            .code("parameter_invalid_integer")
            .param(param));
    }
    if amount < AMOUNT_MIN {
        return Err(ApiError::invalid("Amount must be at least $0.50 usd").code("amount_too_small").param(param));
    }
    if amount > AMOUNT_MAX {
        return Err(ApiError::invalid("Amount must be no more than $999,999.99").code("amount_too_large").param(param));
    }
    Ok(())
}

/// Stores a new intent that waits for a payment method.
pub(super) fn open(tx: &mut Tx<'_>, new: NewIntent<'_>) -> Value {
    let id = new_id("pi");
    let intent = json!({
        "id": id,
        "object": "payment_intent",
        "amount": new.amount,
        "amount_capturable": 0,
        "amount_details": { "tip": {} },
        "amount_received": 0,
        "application": null,
        "application_fee_amount": null,
        "automatic_payment_methods": { "allow_redirects": "always", "enabled": true },
        "canceled_at": null,
        "cancellation_reason": null,
        "capture_method": "automatic_async",
        "client_secret": format!("{id}_secret_{}", random(25)),
        "confirmation_method": "automatic",
        "created": tx.now,
        "currency": new.currency,
        "customer": new.customer,
        "customer_account": null,
        "description": new.description,
        "excluded_payment_method_types": null,
        "last_payment_error": null,
        "latest_charge": null,
        "livemode": false,
        "metadata": new.metadata,
        "next_action": null,
        "on_behalf_of": null,
        "payment_method": null,
        "payment_method_configuration_details": null,
        "payment_method_options": { "card": { "installments": null, "mandate_options": null, "network": null, "request_three_d_secure": "automatic" } },
        "payment_method_types": ["card"],
        "processing": null,
        "receipt_email": new.receipt_email,
        "review": null,
        "setup_future_usage": new.setup_future_usage,
        "shipping": null,
        "source": null,
        "statement_descriptor": null,
        "statement_descriptor_suffix": null,
        "status": "requires_payment_method",
        "transfer_data": null,
        "transfer_group": null,
    });
    tx.save(Kind::PaymentIntent, &intent);
    tx.emit("payment_intent.created", &intent, None);
    intent
}

const CONFIRM_FIELDS: &[&str] =
    &["payment_method", "off_session", "return_url", "error_on_requires_action", "receipt_email", "setup_future_usage"];

pub(super) fn create(tx: &mut Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    const FIELDS: &[&str] = &[
        "amount",
        "currency",
        "customer",
        "metadata",
        "description",
        "confirm",
        "payment_method_types",
        "automatic_payment_methods",
        "capture_method",
        "confirmation_method",
        "statement_descriptor_suffix",
    ];
    params.only(&[FIELDS, CONFIRM_FIELDS].concat())?;
    let amount = params.integer("amount")?.ok_or_else(|| ApiError::missing("amount"))?;
    let currency = params.required("currency")?.to_lowercase();
    check_amount(amount, &currency, "amount")?;
    params.choice("capture_method", &["automatic", "automatic_async"])?;
    params.choice("confirmation_method", &["automatic"])?;
    let customer = params.filled("customer")?;
    if let Some(customer) = customer {
        customers::require(tx, customer, "customer")?;
    }
    let types = params.texts("payment_method_types")?;
    if types.iter().any(|name| name != "card") {
        return Err(
            ApiError::invalid("The stand-in accepts the payment method type card only").param("payment_method_types")
        );
    }
    let confirm = params.boolean("confirm")?.unwrap_or(false);
    if params.boolean("off_session")? == Some(true) && !confirm {
        return Err(ApiError::invalid("off_session can only be true when confirm is true.").param("off_session"));
    }
    let mut intent = open(
        tx,
        NewIntent {
            amount,
            currency: &currency,
            customer,
            metadata: params.metadata(None)?,
            description: params.filled("description")?,
            receipt_email: params.filled("receipt_email")?,
            setup_future_usage: params.choice("setup_future_usage", &["on_session", "off_session"])?,
        },
    );
    if let Some(capture) = params.filled("capture_method")? {
        intent["capture_method"] = json!(capture);
    }
    if let Some(suffix) = params.filled("statement_descriptor_suffix")? {
        intent["statement_descriptor_suffix"] = json!(suffix);
    }
    if !types.is_empty() {
        intent["automatic_payment_methods"] = Value::Null;
    }
    if let Some(id) = params.filled("payment_method")? {
        let method = payment_methods::resolve(tx, id)?;
        choose(&mut intent, &method)?;
    }
    tx.save(Kind::PaymentIntent, &intent);
    if confirm {
        confirm_now(tx, &mut intent, params)?;
    }
    Ok(intent)
}

/// Sets the method an intent is to be paid with. A method saved to a customer pays for that customer only.
fn choose(intent: &mut Value, method: &Value) -> Result<(), ApiError> {
    if method["customer"].is_string() && method["customer"] != intent["customer"] {
        return Err(ApiError::invalid(format!(
            "The PaymentMethod {} belongs to a different customer, or the PaymentIntent names none.",
            text(method, "id")
        ))
        .param("payment_method"));
    }
    intent["payment_method"] = method["id"].clone();
    intent["status"] = json!("requires_confirmation");
    Ok(())
}

/// What Stripe says to an action that does not fit the state.
fn unexpected(intent: &Value, action: &str) -> ApiError {
    ApiError::invalid(format!(
        "You cannot {action} this PaymentIntent because it has a status of {}.",
        text(intent, "status")
    ))
    .code("payment_intent_unexpected_state")
    .with("payment_intent", intent.clone())
}

pub(super) fn confirm(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(CONFIRM_FIELDS)?;
    let mut intent = tx.load(Kind::PaymentIntent, "payment_intent", id)?;
    let status = text(&intent, "status");
    if !["requires_payment_method", "requires_confirmation", "requires_action"].contains(&status) {
        return Err(unexpected(&intent, "confirm"));
    }
    if let Some(method) = params.filled("payment_method")? {
        let method = payment_methods::resolve(tx, method)?;
        choose(&mut intent, &method)?;
    }
    if let Some(usage) = params.choice("setup_future_usage", &["on_session", "off_session"])? {
        intent["setup_future_usage"] = json!(usage);
    }
    if let Some(email) = params.filled("receipt_email")? {
        intent["receipt_email"] = json!(email);
    }
    confirm_now(tx, &mut intent, params)?;
    Ok(intent)
}

fn confirm_now(tx: &mut Tx<'_>, intent: &mut Value, params: &Params) -> Result<(), ApiError> {
    let Some(method) = intent["payment_method"].as_str().and_then(|id| tx.get(Kind::PaymentMethod, id)) else {
        return Err(ApiError::invalid("You cannot confirm this PaymentIntent because it's missing a payment method.")
            .code("payment_intent_unexpected_state")
            .param("payment_method"));
    };
    let holder = if params.boolean("off_session")?.unwrap_or(false) {
        Holder::Absent
    } else if params.boolean("error_on_requires_action")?.unwrap_or(false) {
        Holder::MustNotBeAsked
    } else {
        Holder::Present
    };
    attempt(tx, intent, &method, holder)
}

/// Whether the card's holder can be asked to confirm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    Present,
    Absent,
    MustNotBeAsked,
    /// Was asked, and agreed.
    Agreed,
}

/// Tries to pay. A decline is written into the intent and returned as the error.
pub(super) fn attempt(tx: &mut Tx<'_>, intent: &mut Value, method: &Value, holder: Holder) -> Result<(), ApiError> {
    let card = money::card_behind(tx, method)?;
    match (card.outcome, holder) {
        (Outcome::Declines(code, decline_code, message), _) => {
            let failed = money::charge(tx, intent, method, card, Err((code, decline_code, message)));
            Err(fail(tx, intent, method, Some(&failed), ApiError::card(code, decline_code, message)))
        }
        (Outcome::NeedsAuthentication, Holder::Absent) => {
            let message = "Your card was declined. This transaction requires authentication.";
            let reason = ("authentication_required", "authentication_required", message);
            let failed = money::charge(tx, intent, method, card, Err(reason));
            Err(fail(tx, intent, method, Some(&failed), ApiError::card(reason.0, reason.1, message)))
        }
        (Outcome::NeedsAuthentication, Holder::MustNotBeAsked) => {
            let message =
                "This payment required an authentication action to complete, but `error_on_requires_action` was set.";
            let code = "authentication_required";
            Err(fail(tx, intent, method, None, ApiError::card(code, code, message)))
        }
        (Outcome::NeedsAuthentication, Holder::Present) => {
            intent["status"] = json!("requires_action");
            intent["next_action"] =
                json!({ "type": "use_stripe_sdk", "use_stripe_sdk": { "type": "three_d_secure_redirect" } });
            tx.save(Kind::PaymentIntent, intent);
            tx.emit("payment_intent.requires_action", intent, None);
            Ok(())
        }
        (Outcome::Succeeds | Outcome::Disputed | Outcome::NeedsAuthentication, _) => {
            let made = money::charge(tx, intent, method, card, Ok(Settled::Now));
            succeed(tx, intent, method, &made)?;
            if card.outcome == Outcome::Disputed {
                disputes::open(tx, text(&made, "id"), "fraudulent", None)?;
            }
            Ok(())
        }
    }
}

/// Marks an intent as paid by `charge`, and saves the method where that was asked for.
pub(super) fn succeed(tx: &mut Tx<'_>, intent: &mut Value, method: &Value, charge: &Value) -> Result<(), ApiError> {
    intent["status"] = json!("succeeded");
    intent["amount_received"] = charge["amount"].clone();
    intent["latest_charge"] = charge["id"].clone();
    intent["payment_method"] = method["id"].clone();
    intent["last_payment_error"] = Value::Null;
    intent["next_action"] = Value::Null;
    tx.save(Kind::PaymentIntent, intent);
    tx.emit("payment_intent.succeeded", intent, None);
    if intent["setup_future_usage"].is_string()
        && let Some(customer) = intent["customer"].as_str()
    {
        payment_methods::attach_to(tx, text(method, "id"), customer)?;
    }
    Ok(())
}

/// Writes a failed attempt into the intent and completes the error with what Stripe adds to it.
pub(super) fn fail(
    tx: &mut Tx<'_>,
    intent: &mut Value,
    method: &Value,
    charge: Option<&Value>,
    mut error: ApiError,
) -> ApiError {
    if let Some(charge) = charge {
        error.extra.insert("charge".into(), charge["id"].clone());
        intent["latest_charge"] = charge["id"].clone();
    }
    error.extra.insert("payment_method".into(), method.clone());
    intent["last_payment_error"] = error.body()["error"].clone();
    intent["status"] = json!("requires_payment_method");
    intent["payment_method"] = Value::Null;
    intent["next_action"] = Value::Null;
    tx.save(Kind::PaymentIntent, intent);
    tx.emit("payment_intent.payment_failed", intent, None);
    error.with("payment_intent", intent.clone())
}

/// The holder's answer to a request for authentication.
pub(super) fn authenticate(tx: &mut Tx<'_>, id: &str, agreed: bool) -> Result<Value, ApiError> {
    let mut intent = tx.load(Kind::PaymentIntent, "payment_intent", id)?;
    if intent["status"] != "requires_action" {
        return Err(unexpected(&intent, "authenticate"));
    }
    let method_id = text(&intent, "payment_method").to_owned();
    let method = tx.load(Kind::PaymentMethod, "PaymentMethod", &method_id)?;
    if agreed {
        attempt(tx, &mut intent, &method, Holder::Agreed)?;
    } else {
        let message = "We are unable to authenticate your payment method. Please choose a different payment method and try again.";
        let error = ApiError::card("payment_intent_authentication_failure", "authentication_failed", message);
        let kept = fail(tx, &mut intent, &method, None, error);
        tracing::debug!("authentication refused on purpose: {kept}");
    }
    Ok(intent)
}

pub(super) fn update(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&[
        "amount",
        "currency",
        "customer",
        "description",
        "metadata",
        "payment_method",
        "receipt_email",
        "setup_future_usage",
    ])?;
    let mut intent = tx.load(Kind::PaymentIntent, "payment_intent", id)?;
    let open = ["requires_payment_method", "requires_confirmation"].contains(&text(&intent, "status"));
    for field in ["amount", "currency", "customer", "payment_method", "setup_future_usage"] {
        if params.has(field) && !open {
            return Err(unexpected(&intent, "update"));
        }
    }
    if params.has("amount") || params.has("currency") {
        let amount = params.integer("amount")?.unwrap_or_else(|| number(&intent, "amount"));
        let currency = params.filled("currency")?.unwrap_or_else(|| text(&intent, "currency")).to_lowercase();
        check_amount(amount, &currency, "amount")?;
        intent["amount"] = json!(amount);
        intent["currency"] = json!(currency);
    }
    if let Some(customer) = params.filled("customer")? {
        customers::require(tx, customer, "customer")?;
        intent["customer"] = json!(customer);
    }
    if let Some(method) = params.filled("payment_method")? {
        let method = payment_methods::resolve(tx, method)?;
        choose(&mut intent, &method)?;
    }
    for field in ["description", "receipt_email"] {
        if let Some(value) = params.text(field)? {
            intent[field] = if value.is_empty() { Value::Null } else { json!(value) };
        }
    }
    if let Some(usage) = params.choice("setup_future_usage", &["on_session", "off_session"])? {
        intent["setup_future_usage"] = json!(usage);
    }
    intent["metadata"] = params.metadata(intent.get("metadata"))?;
    tx.save(Kind::PaymentIntent, &intent);
    Ok(intent)
}

pub(super) fn cancel(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&["cancellation_reason"])?;
    let reason =
        params.choice("cancellation_reason", &["duplicate", "fraudulent", "requested_by_customer", "abandoned"])?;
    let mut intent = tx.load(Kind::PaymentIntent, "payment_intent", id)?;
    if ["succeeded", "canceled", "processing"].contains(&text(&intent, "status")) {
        return Err(unexpected(&intent, "cancel"));
    }
    intent["status"] = json!("canceled");
    intent["canceled_at"] = json!(tx.now);
    intent["cancellation_reason"] = json!(reason);
    intent["next_action"] = Value::Null;
    tx.save(Kind::PaymentIntent, &intent);
    tx.emit("payment_intent.canceled", &intent, None);
    Ok(intent)
}

pub(super) fn index(tx: &Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&[list::PARAMS, &["customer", "created"]].concat())?;
    let customer = params.filled("customer")?;
    list::page(tx, Kind::PaymentIntent, "/v1/payment_intents", params, |intent| {
        customer.is_none_or(|id| intent["customer"] == id)
    })
}
