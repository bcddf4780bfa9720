//! Payment methods: cards, made from test numbers or test tokens.

use serde_json::{Value, json};

use super::cards::{self, Card, Outcome};
use super::engine::{Tx, new_id, text};
use super::error::ApiError;
use super::form::Params;
use super::store::Kind;
use super::{customers, list};

/// An address with nothing in it.
pub(super) fn billing_details(email: Option<&str>, name: Option<&str>) -> Value {
    json!({
        "address": { "city": null, "country": null, "line1": null, "line2": null, "postal_code": null, "state": null },
        "email": email,
        "name": name,
        "phone": null,
        "tax_id": null,
    })
}

/// Makes an unattached payment method from a card.
pub(super) fn from_card(tx: &mut Tx<'_>, card: Card, exp: (i64, i64), details: Value, metadata: Value) -> Value {
    let method = json!({
        "id": new_id("pm"),
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": details,
        "card": card.details(exp.0, exp.1),
        "created": tx.now,
        "customer": null,
        "customer_account": null,
        "livemode": false,
        "metadata": metadata,
        "radar_options": {},
        "type": "card",
    });
    tx.save(Kind::PaymentMethod, &method);
    tx.store.put(Kind::Card, text(&method, "id"), Some(json!({ "number": card.number() })));
    method
}

/// The card behind a stored payment method.
pub(super) fn card_of(tx: &Tx<'_>, method_id: &str) -> Result<Card, ApiError> {
    let row = tx.get(Kind::Card, method_id);
    let card = row.as_ref().and_then(|row| cards::by_number(text(row, "number")));
    card.ok_or_else(|| ApiError::no_such("PaymentMethod", method_id, "payment_method"))
}

/// A stored payment method, or a fresh one when `id` is a test token such as `pm_card_visa`.
pub(super) fn resolve(tx: &mut Tx<'_>, id: &str) -> Result<Value, ApiError> {
    if let Some(found) = tx.get(Kind::PaymentMethod, id) {
        return Ok(found);
    }
    let card = cards::by_token(id).ok_or_else(|| ApiError::no_such("PaymentMethod", id, "payment_method"))?;
    let expiry = (12, expiry_year(tx));
    Ok(from_card(tx, card, expiry, billing_details(None, None), json!({})))
}

/// The year of test cards whose expiry nobody gave: three from now.
pub(super) fn expiry_year(tx: &Tx<'_>) -> i64 {
    i64::from(tx.engine.clock.now().to_zoned(jiff::tz::TimeZone::UTC).year()) + 3
}

pub(super) fn create(tx: &mut Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&["type", "card", "billing_details", "metadata"])?;
    if params.choice("type", &["card"])?.is_none() {
        return Err(ApiError::missing("type"));
    }
    let given = params.child("card")?.ok_or_else(|| ApiError::missing("card"))?;
    given.only(&["number", "token", "exp_month", "exp_year", "cvc"])?;
    let (card, expiry) = if let Some(token) = given.filled("token")? {
        (cards::by_token(token).ok_or_else(|| ApiError::no_such("token", token, "card[token]"))?, (12, expiry_year(tx)))
    } else {
        let number = given.required("number")?;
        let month = given.integer("exp_month")?.ok_or_else(|| ApiError::missing("card[exp_month]"))?;
        let year = given.integer("exp_year")?.ok_or_else(|| ApiError::missing("card[exp_year]"))?;
        let card = cards::by_number(number).ok_or_else(unknown_number)?;
        (card, (month, year))
    };
    let mut details = billing_details(None, None);
    if let Some(group) = params.child("billing_details")? {
        group.only(&["address", "email", "name", "phone", "tax_id"])?;
        if let (Some(known), Some(sent)) = (details.as_object_mut(), group.to_json().as_object()) {
            known.extend(sent.clone());
        }
    }
    let metadata = params.metadata(None)?;
    Ok(from_card(tx, card, expiry, details, metadata))
}

/// What Stripe says to a number that is no test card.
pub(super) fn unknown_number() -> ApiError {
    let mut error = ApiError::card("incorrect_number", "incorrect_number", "Your card number is incorrect.");
    error.keeps_effects = false;
    error.param("number")
}

pub(super) fn retrieve(tx: &Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&[])?;
    tx.load(Kind::PaymentMethod, "PaymentMethod", id)
}

pub(super) fn update(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&["metadata"])?;
    let mut method = tx.load(Kind::PaymentMethod, "PaymentMethod", id)?;
    method["metadata"] = params.metadata(method.get("metadata"))?;
    tx.save(Kind::PaymentMethod, &method);
    tx.emit("payment_method.updated", &method, None);
    Ok(method)
}

/// `GET /v1/payment_methods?customer=` and `GET /v1/customers/{id}/payment_methods`.
pub(super) fn index(tx: &Tx<'_>, customer: Option<&str>, params: &Params) -> Result<Value, ApiError> {
    params.only(&[list::PARAMS, &["customer", "type", "allow_redisplay"]].concat())?;
    let url =
        customer.map_or_else(|| "/v1/payment_methods".to_owned(), |id| format!("/v1/customers/{id}/payment_methods"));
    let owner = match customer {
        Some(id) => id,
        None => params.required("customer")?,
    };
    customers::require(tx, owner, "customer")?;
    let wanted = params.filled("type")?;
    let redisplay = params.filled("allow_redisplay")?;
    list::page(tx, Kind::PaymentMethod, &url, params, |method| {
        method["customer"] == owner
            && wanted.is_none_or(|wanted| method["type"] == wanted)
            && redisplay.is_none_or(|wanted| method["allow_redisplay"] == wanted)
    })
}

pub(super) fn attach(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&["customer"])?;
    let customer = params.required("customer")?.to_owned();
    attach_to(tx, id, &customer)
}

/// Saves a payment method to a customer.
pub(super) fn attach_to(tx: &mut Tx<'_>, id: &str, customer: &str) -> Result<Value, ApiError> {
    customers::require(tx, customer, "customer")?;
    let mut method = resolve(tx, id)?;
    if method["customer"] == customer {
        return Ok(method);
    }
    if method["customer"].is_string() {
        return Err(ApiError::invalid("The payment method you provided has already been attached to a customer."));
    }
    let card = card_of(tx, text(&method, "id"))?;
    if let (true, Outcome::Declines(code, decline_code, message)) = (card.refuses_attach, card.outcome) {
        let mut error = ApiError::card(code, decline_code, message);
        error.keeps_effects = false;
        return Err(error);
    }
    method["customer"] = json!(customer);
    tx.save(Kind::PaymentMethod, &method);
    tx.emit("payment_method.attached", &method, None);
    Ok(method)
}

pub(super) fn detach(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&[])?;
    let method = tx.load(Kind::PaymentMethod, "PaymentMethod", id)?;
    if !method["customer"].is_string() {
        return Err(ApiError::invalid(
            "The payment method you provided is not attached to a customer so detachment is impossible.",
        ));
    }
    detach_now(tx, id)
}

/// Takes a payment method from its customer, also as the default.
pub(super) fn detach_now(tx: &mut Tx<'_>, id: &str) -> Result<Value, ApiError> {
    let mut method = tx.load(Kind::PaymentMethod, "PaymentMethod", id)?;
    let owner = text(&method, "customer").to_owned();
    method["customer"] = Value::Null;
    tx.save(Kind::PaymentMethod, &method);
    if let Some(mut customer) = tx.get(Kind::Customer, &owner)
        && customer["invoice_settings"]["default_payment_method"] == id
    {
        customer["invoice_settings"]["default_payment_method"] = Value::Null;
        tx.save(Kind::Customer, &customer);
    }
    tx.emit("payment_method.detached", &method, Some(json!({ "customer": owner })));
    Ok(method)
}
