//! Checkout sessions in `payment` mode: making them, and what happens on their hosted page.

use serde_json::{Value, json};

use super::cards::{Card, Outcome};
use super::engine::{Tx, number, random, text};
use super::error::ApiError;
use super::form::Params;
use super::money::{self, Settled};
use super::payment_intents::{self, Holder, NewIntent};
use super::store::Kind;
use super::{catalog, customers, invoices, list, payment_methods};

/// Open this long unless told otherwise: <https://docs.stripe.com/api/checkout/sessions/create#create_checkout_session-expires_at>.
const OPEN_SECONDS: i64 = 86_400;
const OPEN_SECONDS_MIN: i64 = 1_800;

const FIELDS: &[&str] = &[
    "mode",
    "line_items",
    "success_url",
    "cancel_url",
    "client_reference_id",
    "metadata",
    "payment_intent_data",
    "customer",
    "customer_creation",
    "customer_email",
    "expires_at",
    "payment_method_types",
    "invoice_creation",
    "automatic_tax",
    "billing_address_collection",
    "locale",
    "submit_type",
    "ui_mode",
    "allow_promotion_codes",
];

pub(super) fn create(tx: &mut Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(FIELDS)?;
    match params.choice("mode", &["payment", "setup", "subscription"])? {
        Some("payment") => {}
        Some(_) => return Err(ApiError::invalid("The stand-in plays mode=payment only").param("mode")),
        None => return Err(ApiError::missing("mode")),
    }
    params.choice("ui_mode", &["hosted", "hosted_page"])?;
    refuse_switched_on(params)?;
    let success_url = page_url(params, "success_url")?.ok_or_else(|| ApiError::missing("success_url"))?;
    let cancel_url = page_url(params, "cancel_url")?;
    let (customer, creation) = customer(tx, params)?;
    let expires_at = expires_at(tx, params)?;
    let types = params.texts("payment_method_types")?;
    if types.iter().any(|name| name != "card") {
        return Err(
            ApiError::invalid("The stand-in accepts the payment method type card only").param("payment_method_types")
        );
    }
    let id = format!("cs_test_a1{}", random(56));
    let items = line_items(tx, &id, params)?;
    let (total, currency) = sum(&items)?;
    payment_intents::check_amount(total, &currency, "line_items")?;
    let intent_data = intent_data(params)?;
    let invoice = invoice_wanted(params)?;
    let session = json!({
        "id": id,
        "object": "checkout.session",
        "adaptive_pricing": { "enabled": false },
        "after_expiration": null,
        "allow_promotion_codes": null,
        "amount_subtotal": total,
        "amount_total": total,
        "automatic_tax": { "enabled": false, "liability": null, "provider": null, "status": null },
        "billing_address_collection": params.choice("billing_address_collection", &["auto", "required"])?,
        "cancel_url": cancel_url,
        "client_reference_id": params.filled("client_reference_id")?,
        "client_secret": null,
        "collected_information": null,
        "consent": null,
        "consent_collection": null,
        "created": tx.now,
        "currency": currency,
        "currency_conversion": null,
        "custom_fields": [],
        "custom_text": { "after_submit": null, "shipping_address": null, "submit": null, "terms_of_service_acceptance": null },
        "customer": customer,
        "customer_account": null,
        "customer_creation": if customer.is_some() { None } else { Some(creation.unwrap_or("if_required")) },
        "customer_details": null,
        "customer_email": params.filled("customer_email")?,
        "discounts": [],
        "expires_at": expires_at,
        "invoice": null,
        "invoice_creation": { "enabled": invoice, "invoice_data": {
            "account_tax_ids": null, "custom_fields": null, "description": null, "footer": null, "issuer": null,
            "metadata": {}, "rendering_options": null,
        } },
        "livemode": false,
        "locale": params.filled("locale")?,
        "metadata": params.metadata(None)?,
        "mode": "payment",
        "origin_context": null,
        "payment_intent": null,
        "payment_link": null,
        "payment_method_collection": "if_required",
        "payment_method_configuration_details": null,
        "payment_method_options": { "card": { "request_three_d_secure": "automatic" } },
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "permissions": null,
        "phone_number_collection": { "enabled": false },
        "recovered_from": null,
        "saved_payment_method_options": null,
        "setup_intent": null,
        "shipping_address_collection": null,
        "shipping_cost": null,
        "shipping_options": [],
        "status": "open",
        "submit_type": params.choice("submit_type", &["auto", "book", "donate", "pay"])?,
        "subscription": null,
        "success_url": success_url,
        "total_details": { "amount_discount": 0, "amount_shipping": 0, "amount_tax": 0 },
        "ui_mode": "hosted_page",
        "url": format!("{}/c/pay/{id}", tx.engine.public_url),
        "wallet_options": null,
    });
    tx.save(Kind::Session, &session);
    tx.store.put(Kind::LineItems, &id, Some(json!({ "items": items, "intent": intent_data })));
    Ok(session)
}

/// The customer named, and whether to make one.
fn customer<'p>(tx: &Tx<'_>, params: &'p Params) -> Result<(Option<&'p str>, Option<&'p str>), ApiError> {
    let customer = params.filled("customer")?;
    if let Some(customer) = customer {
        customers::require(tx, customer, "customer")?;
        for other in ["customer_creation", "customer_email"] {
            if params.has(other) {
                let message = format!("You may only specify one of these parameters: customer, {other}.");
                return Err(ApiError::invalid(message).param(other));
            }
        }
    }
    Ok((customer, params.choice("customer_creation", &["always", "if_required"])?))
}

fn expires_at(tx: &Tx<'_>, params: &Params) -> Result<i64, ApiError> {
    let at = params.integer("expires_at")?.unwrap_or(tx.now + OPEN_SECONDS);
    if (tx.now + OPEN_SECONDS_MIN..=tx.now + OPEN_SECONDS).contains(&at) {
        return Ok(at);
    }
    let message = "The `expires_at` timestamp must be between 30 minutes and 24 hours from now.";
    Err(ApiError::invalid(message).param("expires_at"))
}

/// Features the stand-in does not have may be sent, as long as they are switched off.
fn refuse_switched_on(params: &Params) -> Result<(), ApiError> {
    let taxed = params.child("automatic_tax")?.map_or(Ok(None), |group| group.boolean("enabled"))?;
    for (name, on) in [("automatic_tax", taxed), ("allow_promotion_codes", params.boolean("allow_promotion_codes")?)] {
        if on == Some(true) {
            return Err(ApiError::invalid(format!("The stand-in has no {name}")).param(name));
        }
    }
    Ok(())
}

fn page_url(params: &Params, name: &str) -> Result<Option<String>, ApiError> {
    let Some(url) = params.filled(name)? else { return Ok(None) };
    // The placeholder's braces are no part of an address.
    match reqwest::Url::parse(&url.replace("{CHECKOUT_SESSION_ID}", "cs")) {
        Ok(parsed) if ["http", "https"].contains(&parsed.scheme()) => Ok(Some(url.to_owned())),
        _ => Err(ApiError::invalid("Not a valid URL").code("url_invalid").param(name)),
    }
}

fn invoice_wanted(params: &Params) -> Result<bool, ApiError> {
    let Some(group) = params.child("invoice_creation")? else { return Ok(false) };
    group.only(&["enabled"])?;
    Ok(group.boolean("enabled")?.unwrap_or(false))
}

fn intent_data(params: &Params) -> Result<Value, ApiError> {
    let Some(data) = params.child("payment_intent_data")? else { return Ok(json!({ "metadata": {} })) };
    data.only(&["metadata", "setup_future_usage", "description", "receipt_email", "capture_method"])?;
    data.choice("capture_method", &["automatic", "automatic_async"])?;
    Ok(json!({
        "metadata": data.metadata(None)?,
        "setup_future_usage": data.choice("setup_future_usage", &["on_session", "off_session"])?,
        "description": data.filled("description")?,
        "receipt_email": data.filled("receipt_email")?,
    }))
}

fn line_items(tx: &mut Tx<'_>, session: &str, params: &Params) -> Result<Vec<Value>, ApiError> {
    let given = params.children("line_items")?;
    if given.is_empty() {
        return Err(ApiError::missing("line_items"));
    }
    let mut items = Vec::new();
    for (index, item) in given.iter().enumerate() {
        item.only(&["price", "price_data", "quantity"])?;
        let quantity =
            item.integer("quantity")?.ok_or_else(|| ApiError::missing(&format!("line_items[{index}][quantity]")))?;
        if !(1..=999_999).contains(&quantity) {
            return Err(ApiError::invalid("Quantity must be between 1 and 999999").param("line_items"));
        }
        let price = catalog::for_line_item(tx, item)?;
        let total = number(&price, "unit_amount").saturating_mul(quantity);
        items.push(json!({
            "id": format!("li_{}{index}", session.get(session.len() - 23..).unwrap_or(session)),
            "object": "item",
            "adjustable_quantity": null,
            "amount_discount": 0,
            "amount_subtotal": total,
            "amount_tax": 0,
            "amount_total": total,
            "currency": price["currency"],
            "description": catalog::describe(tx, &price),
            "metadata": {},
            "price": price,
            "quantity": quantity,
        }));
    }
    Ok(items)
}

fn sum(items: &[Value]) -> Result<(i64, String), ApiError> {
    let currency = items.first().map(|item| text(item, "currency")).unwrap_or_default().to_owned();
    if items.iter().any(|item| item["currency"] != currency.as_str()) {
        return Err(ApiError::invalid("All line items must have the same currency").param("line_items"));
    }
    let total = items.iter().fold(0_i64, |sum, item| sum.saturating_add(number(item, "amount_total")));
    Ok((total, currency))
}

/// `GET /v1/checkout/sessions/{id}/line_items`
pub(super) fn items(tx: &Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(list::PARAMS)?;
    tx.load(Kind::Session, "checkout.session", id)?;
    let row = tx.load(Kind::LineItems, "checkout.session", id)?;
    let items = row["items"].as_array().into_iter().flatten();
    list::cut(items, &format!("/v1/checkout/sessions/{id}/line_items"), params)
}

pub(super) fn index(tx: &Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&[list::PARAMS, &["customer", "payment_intent", "status", "created"]].concat())?;
    let (customer, intent) = (params.filled("customer")?, params.filled("payment_intent")?);
    let status = params.choice("status", &["open", "complete", "expired"])?;
    list::page(tx, Kind::Session, "/v1/checkout/sessions", params, |session| {
        customer.is_none_or(|id| session["customer"] == id)
            && intent.is_none_or(|id| session["payment_intent"] == id)
            && status.is_none_or(|status| session["status"] == status)
    })
}

pub(super) fn update(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&["metadata"])?;
    let mut session = tx.load(Kind::Session, "checkout.session", id)?;
    session["metadata"] = params.metadata(session.get("metadata"))?;
    tx.save(Kind::Session, &session);
    Ok(session)
}

pub(super) fn expire(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&[])?;
    let session = tx.load(Kind::Session, "checkout.session", id)?;
    if session["status"] != "open" {
        return Err(ApiError::invalid(format!(
            "Only Checkout Sessions with a status in [\"open\"] can be expired. This Checkout Session has a status of {}",
            text(&session, "status")
        )));
    }
    Ok(expire_now(tx, session))
}

fn expire_now(tx: &mut Tx<'_>, mut session: Value) -> Value {
    session["status"] = json!("expired");
    session["url"] = Value::Null;
    tx.save(Kind::Session, &session);
    tx.emit("checkout.session.expired", &session, None);
    session
}

/// Who pays, and with what.
#[derive(Debug)]
pub(super) struct Payer {
    pub(super) card: Card,
    pub(super) email: Option<String>,
    pub(super) name: Option<String>,
    /// By a method that completes the session now and brings the money later.
    pub(super) later: bool,
}

/// What the buyer does on the page. A decline leaves the session open and is returned as the error.
pub(super) fn pay(tx: &mut Tx<'_>, id: &str, payer: &Payer) -> Result<Value, ApiError> {
    let mut session = tx.load(Kind::Session, "checkout.session", id)?;
    if session["status"] != "open" || number(&session, "expires_at") <= tx.now {
        return Err(ApiError::invalid(format!(
            "This Checkout Session is no longer open: {}.",
            text(&session, "status")
        )));
    }
    let (total, currency) = (number(&session, "amount_total"), text(&session, "currency").to_owned());
    let details = tx.load(Kind::LineItems, "checkout.session", id)?["intent"].clone();
    let email = buyer_email(tx, &session, payer);
    let billing = payment_methods::billing_details(Some(&email), payer.name.as_deref());
    let expiry = (12, payment_methods::expiry_year(tx));
    let method = payment_methods::from_card(tx, payer.card, expiry, billing, json!({}));
    let customer = buyer(tx, &session, payer.card, &email);

    // A declined attempt leaves its intent behind for the next one.
    let known = session["payment_intent"].as_str().and_then(|id| tx.get(Kind::PaymentIntent, id));
    let mut intent = known.unwrap_or_else(|| {
        payment_intents::open(
            tx,
            NewIntent {
                amount: total,
                currency: &currency,
                customer: None,
                metadata: details["metadata"].clone(),
                description: details["description"].as_str(),
                receipt_email: details["receipt_email"].as_str(),
                setup_future_usage: details["setup_future_usage"].as_str(),
            },
        )
    });
    intent["customer"] = json!(customer);
    session["payment_intent"] = intent["id"].clone();
    tx.save(Kind::Session, &session);

    if payer.later && !matches!(payer.card.outcome, Outcome::Declines(..)) {
        start_slow_payment(tx, &mut intent, &method, payer.card);
        let due = tx.engine.config.settle_after.map(|wait| tx.now.saturating_add_unsigned(wait.as_secs()));
        tx.store.put(Kind::Settlement, id, Some(json!({ "session": id, "due": due })));
    } else {
        payment_intents::attempt(tx, &mut intent, &method, Holder::Agreed)?;
        session["payment_status"] = json!("paid");
    }
    session["status"] = json!("complete");
    session["url"] = Value::Null;
    session["customer"] = json!(customer);
    session["customer_details"] = json!({
        "address": method["billing_details"]["address"], "business_name": null, "email": email, "individual_name": null,
        "name": payer.name, "phone": null, "tax_exempt": "none", "tax_ids": [],
    });
    if session["invoice_creation"]["enabled"] == true {
        session["invoice"] = invoices::for_session(tx, &session)["id"].clone();
    }
    tx.save(Kind::Session, &session);
    tx.emit("checkout.session.completed", &session, None);
    Ok(session)
}

fn buyer_email(tx: &Tx<'_>, session: &Value, payer: &Payer) -> String {
    let customer = session["customer"].as_str().and_then(|id| tx.get(Kind::Customer, id));
    let known = session["customer_email"].as_str().or_else(|| customer.as_ref().and_then(|c| c["email"].as_str()));
    known.or(payer.email.as_deref()).unwrap_or("buyer@example.com").to_owned()
}

/// The customer the payment belongs to. Without one, payment mode makes one only when told to, or when an invoice needs it.
fn buyer(tx: &mut Tx<'_>, session: &Value, card: Card, email: &str) -> Option<String> {
    if let Some(id) = session["customer"].as_str() {
        return Some(id.to_owned());
    }
    let wanted = session["customer_creation"] == "always" || session["invoice_creation"]["enabled"] == true;
    if !wanted || matches!(card.outcome, Outcome::Declines(..)) {
        return None;
    }
    let made = customers::create_from_checkout(tx, Some(email));
    Some(text(&made, "id").to_owned())
}

fn start_slow_payment(tx: &mut Tx<'_>, intent: &mut Value, method: &Value, card: Card) {
    let charge = money::charge(tx, intent, method, card, Ok(Settled::Later));
    intent["status"] = json!("processing");
    intent["payment_method"] = method["id"].clone();
    intent["latest_charge"] = charge["id"].clone();
    tx.save(Kind::PaymentIntent, intent);
    tx.emit("payment_intent.processing", intent, None);
}

/// The end of a payment by a slow method.
pub(super) fn settle(tx: &mut Tx<'_>, id: &str, arrived: bool) -> Result<Value, ApiError> {
    let mut session = tx.load(Kind::Session, "checkout.session", id)?;
    if tx.get(Kind::Settlement, id).is_none() {
        return Err(ApiError::invalid("This Checkout Session has no payment under way."));
    }
    tx.store.put(Kind::Settlement, id, None);
    let intent_id = text(&session, "payment_intent").to_owned();
    let mut intent = tx.load(Kind::PaymentIntent, "payment_intent", &intent_id)?;
    let method = tx.load(Kind::PaymentMethod, "PaymentMethod", text(&intent, "payment_method"))?;
    let mut charge = tx.load(Kind::Charge, "charge", text(&intent, "latest_charge"))?;
    if arrived {
        money::take_money(tx, &mut charge);
        payment_intents::succeed(tx, &mut intent, &method, &charge)?;
        session["payment_status"] = json!("paid");
        if let Some(invoice) = session["invoice"].as_str() {
            invoices::settle(tx, invoice);
        }
        tx.save(Kind::Session, &session);
        tx.emit("checkout.session.async_payment_succeeded", &session, None);
    } else {
        charge["status"] = json!("failed");
        charge["paid"] = json!(false);
        charge["failure_code"] = json!("debit_not_authorized");
        tx.save(Kind::Charge, &charge);
        tx.emit("charge.failed", &charge, None);
        let error = ApiError::card("debit_not_authorized", "debit_not_authorized", "The debit was returned.");
        let kept = payment_intents::fail(tx, &mut intent, &method, Some(&charge), error);
        tracing::debug!("a slow payment failed on purpose: {kept}");
        tx.emit("checkout.session.async_payment_failed", &session, None);
    }
    Ok(session)
}

/// What time alone brings: sessions expire, slow payments arrive.
pub(super) fn sweep(tx: &mut Tx<'_>) {
    let now = tx.now;
    let expired = |session: &&Value| session["status"] == "open" && number(session, "expires_at") <= now;
    let over: Vec<Value> = tx.store.rows(Kind::Session).filter(expired).cloned().collect();
    for session in over {
        expire_now(tx, session);
    }
    let due = |row: &&Value| row["due"].as_i64().is_some_and(|due| due <= now);
    let due: Vec<String> =
        tx.store.rows(Kind::Settlement).filter(due).map(|row| text(row, "session").to_owned()).collect();
    for session in due {
        if let Err(error) = settle(tx, &session, true) {
            tracing::error!("a slow payment could not be settled: {error}");
        }
    }
}
