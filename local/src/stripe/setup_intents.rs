//! Setup intents: saving a card for later without charging it.

use serde_json::{Value, json};

use super::cards::Outcome;
use super::engine::{Tx, new_id, random, text};
use super::error::ApiError;
use super::form::Params;
use super::store::Kind;
use super::{customers, list, payment_methods};

pub(super) fn create(tx: &mut Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&[
        "customer",
        "usage",
        "payment_method",
        "payment_method_types",
        "automatic_payment_methods",
        "confirm",
        "metadata",
        "description",
        "return_url",
    ])?;
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
    let id = new_id("seti");
    let mut intent = json!({
        "id": id,
        "object": "setup_intent",
        "application": null,
        "automatic_payment_methods": if types.is_empty() { json!({ "allow_redirects": "always", "enabled": true }) } else { Value::Null },
        "cancellation_reason": null,
        "client_secret": format!("{id}_secret_{}", random(25)),
        "created": tx.now,
        "customer": customer,
        "customer_account": null,
        "description": params.filled("description")?,
        "excluded_payment_method_types": null,
        "flow_directions": null,
        "last_setup_error": null,
        "latest_attempt": null,
        "livemode": false,
        "mandate": null,
        "metadata": params.metadata(None)?,
        "next_action": null,
        "on_behalf_of": null,
        "payment_method": null,
        "payment_method_configuration_details": null,
        "payment_method_options": { "card": { "mandate_options": null, "network": null, "request_three_d_secure": "automatic" } },
        "payment_method_types": ["card"],
        "single_use_mandate": null,
        "status": "requires_payment_method",
        "usage": params.choice("usage", &["on_session", "off_session"])?.unwrap_or("off_session"),
    });
    if let Some(method) = params.filled("payment_method")? {
        let method = payment_methods::resolve(tx, method)?;
        intent["payment_method"] = method["id"].clone();
        intent["status"] = json!("requires_confirmation");
    }
    tx.save(Kind::SetupIntent, &intent);
    tx.emit("setup_intent.created", &intent, None);
    if params.boolean("confirm")?.unwrap_or(false) {
        confirm_now(tx, &mut intent)?;
    }
    Ok(intent)
}

fn unexpected(intent: &Value, action: &str) -> ApiError {
    let status = text(intent, "status");
    ApiError::invalid(format!("You cannot {action} this SetupIntent because it has a status of {status}."))
        .code("setup_intent_unexpected_state")
        .with("setup_intent", intent.clone())
}

pub(super) fn confirm(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&["payment_method", "return_url"])?;
    let mut intent = tx.load(Kind::SetupIntent, "setup_intent", id)?;
    if !["requires_payment_method", "requires_confirmation"].contains(&text(&intent, "status")) {
        return Err(unexpected(&intent, "confirm"));
    }
    if let Some(method) = params.filled("payment_method")? {
        let method = payment_methods::resolve(tx, method)?;
        intent["payment_method"] = method["id"].clone();
    }
    confirm_now(tx, &mut intent)?;
    Ok(intent)
}

fn confirm_now(tx: &mut Tx<'_>, intent: &mut Value) -> Result<(), ApiError> {
    let Some(method_id) = intent["payment_method"].as_str().map(str::to_owned) else {
        return Err(ApiError::invalid("You cannot confirm this SetupIntent because it's missing a payment method.")
            .code("setup_intent_unexpected_state")
            .param("payment_method"));
    };
    let card = payment_methods::card_of(tx, &method_id)?;
    if let (true, Outcome::Declines(code, decline_code, message)) = (card.refuses_attach, card.outcome) {
        let error = ApiError::card(code, decline_code, message);
        intent["last_setup_error"] = error.body()["error"].clone();
        intent["status"] = json!("requires_payment_method");
        intent["payment_method"] = Value::Null;
        tx.save(Kind::SetupIntent, intent);
        tx.emit("setup_intent.setup_failed", intent, None);
        return Err(error.with("setup_intent", intent.clone()));
    }
    if let Some(customer) = intent["customer"].as_str() {
        payment_methods::attach_to(tx, &method_id, customer)?;
    }
    intent["status"] = json!("succeeded");
    intent["last_setup_error"] = Value::Null;
    tx.save(Kind::SetupIntent, intent);
    tx.emit("setup_intent.succeeded", intent, None);
    Ok(())
}

pub(super) fn cancel(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&["cancellation_reason"])?;
    let reason = params.choice("cancellation_reason", &["abandoned", "requested_by_customer", "duplicate"])?;
    let mut intent = tx.load(Kind::SetupIntent, "setup_intent", id)?;
    if ["succeeded", "canceled"].contains(&text(&intent, "status")) {
        return Err(unexpected(&intent, "cancel"));
    }
    intent["status"] = json!("canceled");
    intent["cancellation_reason"] = json!(reason);
    tx.save(Kind::SetupIntent, &intent);
    tx.emit("setup_intent.canceled", &intent, None);
    Ok(intent)
}

pub(super) fn index(tx: &Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&[list::PARAMS, &["customer", "payment_method", "created"]].concat())?;
    let (customer, method) = (params.filled("customer")?, params.filled("payment_method")?);
    list::page(tx, Kind::SetupIntent, "/v1/setup_intents", params, |intent| {
        customer.is_none_or(|id| intent["customer"] == id) && method.is_none_or(|id| intent["payment_method"] == id)
    })
}
