//! Invoices: only those a paid checkout session asks for.

use serde_json::{Value, json};

use super::engine::{Tx, new_id, number, text};
use super::error::ApiError;
use super::form::Params;
use super::list;
use super::store::Kind;

/// The invoice of a session that was just completed.
pub(super) fn for_session(tx: &mut Tx<'_>, session: &Value) -> Value {
    let id = new_id("in");
    let (total, paid) = (number(session, "amount_total"), session["payment_status"] == "paid");
    let currency = &session["currency"];
    let count = tx.store.rows(Kind::Invoice).count() + 1;
    let items = tx.get(Kind::LineItems, text(session, "id")).unwrap_or_default();
    let lines: Vec<Value> = items["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| {
            json!({
                "id": new_id("il"), "object": "line_item", "amount": item["amount_total"], "currency": currency,
                "description": item["description"], "discount_amounts": [], "discountable": true, "discounts": [],
                "invoice": id, "livemode": false, "metadata": {}, "parent": null,
                "period": { "start": tx.now, "end": tx.now }, "pretax_credit_amounts": [],
                "pricing": { "price_details": { "price": item["price"]["id"], "product": item["price"]["product"] },
                             "type": "price_details", "unit_amount_decimal": item["price"]["unit_amount_decimal"] },
                "quantity": item["quantity"], "subscription": null, "subtotal": item["amount_subtotal"], "taxes": [],
            })
        })
        .collect();
    let page = format!("{}/i/{id}", tx.engine.public_url);
    let invoice = json!({
        "id": id,
        "object": "invoice",
        "account_country": "US",
        "account_name": "WOPR",
        "amount_due": total,
        "amount_overpaid": 0,
        "amount_paid": if paid { total } else { 0 },
        "amount_remaining": if paid { 0 } else { total },
        "amount_shipping": 0,
        "attempt_count": 1,
        "attempted": true,
        "auto_advance": false,
        "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null, "provider": null, "status": null },
        "billing_reason": "manual",
        "collection_method": "charge_automatically",
        "created": tx.now,
        "currency": currency,
        "customer": session["customer"],
        "customer_email": session["customer_details"]["email"],
        "default_tax_rates": [],
        "discounts": [],
        "due_date": null,
        "ending_balance": 0,
        "hosted_invoice_url": page,
        "invoice_pdf": page,
        "issuer": { "type": "self" },
        "lines": { "object": "list", "data": lines, "has_more": false, "url": format!("/v1/invoices/{id}/lines") },
        "livemode": false,
        "metadata": {},
        "number": format!("WOPR-{count:04}"),
        "parent": null,
        "payment_settings": { "default_mandate": null, "payment_method_options": null, "payment_method_types": null },
        "period_end": tx.now,
        "period_start": tx.now,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "starting_balance": 0,
        "status": if paid { "paid" } else { "open" },
        "status_transitions": {
            "finalized_at": tx.now, "marked_uncollectible_at": null, "paid_at": if paid { Some(tx.now) } else { None }, "voided_at": null,
        },
        "subtotal": total,
        "total": total,
        "total_discount_amounts": [],
        "total_taxes": [],
    });
    tx.save(Kind::Invoice, &invoice);
    if paid {
        tx.emit("invoice.paid", &invoice, None);
    }
    invoice
}

/// Marks the invoice of a session as paid once the money of a slow payment has arrived.
pub(super) fn settle(tx: &mut Tx<'_>, id: &str) {
    let Some(mut invoice) = tx.get(Kind::Invoice, id) else { return };
    invoice["status"] = json!("paid");
    invoice["amount_paid"] = invoice["amount_due"].clone();
    invoice["amount_remaining"] = json!(0);
    invoice["status_transitions"]["paid_at"] = json!(tx.now);
    tx.save(Kind::Invoice, &invoice);
    tx.emit("invoice.paid", &invoice, None);
}

pub(super) fn index(tx: &Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&[list::PARAMS, &["customer", "status", "collection_method", "created"]].concat())?;
    let (customer, status) = (params.filled("customer")?, params.filled("status")?);
    let collection = params.filled("collection_method")?;
    list::page(tx, Kind::Invoice, "/v1/invoices", params, |invoice| {
        customer.is_none_or(|id| invoice["customer"] == id)
            && status.is_none_or(|status| invoice["status"] == status)
            && collection.is_none_or(|method| invoice["collection_method"] == method)
    })
}
