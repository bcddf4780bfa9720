//! Customers.

use serde_json::{Value, json};

use super::engine::{Tx, new_id, random, text};
use super::error::ApiError;
use super::form::Params;
use super::list;
use super::store::Kind;

const FIELDS: &[&str] = &[
    "address",
    "balance",
    "description",
    "email",
    "invoice_settings",
    "metadata",
    "name",
    "payment_method",
    "phone",
    "preferred_locales",
    "shipping",
    "tax_exempt",
];

/// Finds a customer named by a parameter; a deleted one no longer counts.
pub(super) fn require(tx: &Tx<'_>, id: &str, param: &str) -> Result<Value, ApiError> {
    let found = tx.get(Kind::Customer, id).filter(|customer| customer["deleted"] != true);
    found.ok_or_else(|| ApiError::no_such("customer", id, param))
}

pub(super) fn create(tx: &mut Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(FIELDS)?;
    let mut customer = blank(tx, None);
    apply(tx, &mut customer, params)?;
    tx.save(Kind::Customer, &customer);
    tx.emit("customer.created", &customer, None);
    if let Some(method) = params.filled("payment_method")? {
        let id = text(&customer, "id").to_owned();
        super::payment_methods::attach_to(tx, method, &id)?;
    }
    Ok(customer)
}

/// A customer as the hosted page makes it.
pub(super) fn create_from_checkout(tx: &mut Tx<'_>, email: Option<&str>) -> Value {
    let customer = blank(tx, email);
    tx.save(Kind::Customer, &customer);
    tx.emit("customer.created", &customer, None);
    customer
}

fn blank(tx: &Tx<'_>, email: Option<&str>) -> Value {
    json!({
        "id": format!("cus_{}", random(14)),
        "object": "customer",
        "address": null,
        "balance": 0,
        "created": tx.now,
        "currency": null,
        "default_source": null,
        "delinquent": false,
        "description": null,
        "discount": null,
        "email": email,
        "invoice_prefix": random(8).to_uppercase(),
        "invoice_settings": {
            "custom_fields": null, "default_payment_method": null, "footer": null, "rendering_options": null,
        },
        "livemode": false,
        "metadata": {},
        "name": null,
        "next_invoice_sequence": 1,
        "phone": null,
        "preferred_locales": [],
        "shipping": null,
        "tax_exempt": "none",
        "test_clock": null,
    })
}

fn apply(tx: &Tx<'_>, customer: &mut Value, params: &Params) -> Result<(), ApiError> {
    for field in ["description", "email", "name", "phone"] {
        if let Some(value) = params.text(field)? {
            customer[field] = if value.is_empty() { Value::Null } else { json!(value) };
        }
    }
    if let Some(email) = params.filled("email")?
        && !email.contains('@')
    {
        return Err(ApiError::invalid(format!("Invalid email address: {email}")).code("email_invalid").param("email"));
    }
    if let Some(exempt) = params.choice("tax_exempt", &["none", "exempt", "reverse"])? {
        customer["tax_exempt"] = json!(exempt);
    }
    if let Some(balance) = params.integer("balance")? {
        customer["balance"] = json!(balance);
    }
    for field in ["address", "shipping"] {
        if params.has(field) {
            customer[field] = params.child(field)?.map_or(Value::Null, |group| group.to_json());
        }
    }
    if params.has("preferred_locales") {
        customer["preferred_locales"] = json!(params.texts("preferred_locales")?);
    }
    if let Some(settings) = params.child("invoice_settings")? {
        settings.only(&["default_payment_method", "footer"])?;
        if let Some(footer) = settings.text("footer")? {
            customer["invoice_settings"]["footer"] = if footer.is_empty() { Value::Null } else { json!(footer) };
        }
        if let Some(method) = settings.text("default_payment_method")? {
            let param = "invoice_settings[default_payment_method]";
            customer["invoice_settings"]["default_payment_method"] = if method.is_empty() {
                Value::Null
            } else {
                let known = tx.get(Kind::PaymentMethod, method);
                let owned = known.filter(|known| known["customer"] == customer["id"]);
                if owned.is_none() {
                    return Err(ApiError::no_such("PaymentMethod", method, param));
                }
                json!(method)
            };
        }
    }
    customer["metadata"] = params.metadata(customer.get("metadata"))?;
    Ok(())
}

pub(super) fn retrieve(tx: &Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&[])?;
    let customer = tx.load(Kind::Customer, "customer", id)?;
    if customer["deleted"] == true { Ok(deleted(id)) } else { Ok(customer) }
}

pub(super) fn update(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&FIELDS.iter().copied().filter(|name| *name != "payment_method").collect::<Vec<_>>())?;
    let before = tx.load(Kind::Customer, "customer", id)?;
    if before["deleted"] == true {
        return Err(ApiError::not_found("customer", id));
    }
    let mut customer = before.clone();
    apply(tx, &mut customer, params)?;
    if customer != before {
        tx.save(Kind::Customer, &customer);
        tx.emit("customer.updated", &customer, Some(changed(&before, &customer)));
    }
    Ok(customer)
}

/// The old values of the fields that differ.
pub(super) fn changed(before: &Value, after: &Value) -> Value {
    let fields = before.as_object().into_iter().flatten();
    Value::Object(
        fields.filter(|(name, value)| after[name.as_str()] != **value).map(|(n, v)| (n.clone(), v.clone())).collect(),
    )
}

pub(super) fn delete(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&[])?;
    let mut customer = tx.load(Kind::Customer, "customer", id)?;
    if customer["deleted"] == true {
        return Err(ApiError::not_found("customer", id));
    }
    let mut methods = Vec::new();
    for method in tx.store.rows(Kind::PaymentMethod) {
        if method["customer"] == id {
            methods.push(text(method, "id").to_owned());
        }
    }
    for method in methods {
        super::payment_methods::detach_now(tx, &method)?;
    }
    tx.emit("customer.deleted", &customer, None);
    customer["deleted"] = json!(true);
    tx.save(Kind::Customer, &customer);
    Ok(deleted(id))
}

fn deleted(id: &str) -> Value {
    json!({ "id": id, "object": "customer", "deleted": true })
}

pub(super) fn index(tx: &Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&[list::PARAMS, &["email", "created"]].concat())?;
    let email = params.filled("email")?;
    list::page(tx, Kind::Customer, "/v1/customers", params, |customer| {
        customer["deleted"] != true && email.is_none_or(|email| customer["email"] == email)
    })
}

pub(super) fn create_portal(tx: &mut Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&["customer", "return_url", "configuration", "locale"])?;
    let customer = params.required("customer")?;
    require(tx, customer, "customer")?;
    let id = new_id("bps");
    let session = json!({
        "id": id,
        "object": "billing_portal.session",
        "configuration": params.filled("configuration")?.unwrap_or("bpc_standin_default"),
        "created": tx.now,
        "customer": customer,
        "customer_account": null,
        "flow": null,
        "livemode": false,
        "locale": params.filled("locale")?,
        "on_behalf_of": null,
        "return_url": params.filled("return_url")?,
        "url": format!("{}/p/session/{}", tx.engine.public_url, id),
    });
    tx.save(Kind::PortalSession, &session);
    tx.emit("billing_portal.session.created", &session, None);
    Ok(session)
}
