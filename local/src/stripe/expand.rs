//! `expand[]`: ids replaced by the objects they name.

use serde_json::{Value, json};

use super::engine::{Tx, text};
use super::error::ApiError;
use super::form::Params;
use super::store::Kind;
use super::{checkout, money};

/// Deepest path Stripe follows: <https://docs.stripe.com/api/expanding_objects>.
const MAX_DEPTH: usize = 4;

/// Replaces what the request's `expand[]` names within `object`.
pub(super) fn apply(tx: &Tx<'_>, object: &mut Value, params: &Params) -> Result<(), ApiError> {
    for path in params.texts("expand")? {
        let segments: Vec<&str> = path.split('.').collect();
        if segments.len() > MAX_DEPTH {
            return Err(ApiError::invalid(format!(
                "You cannot expand more than {MAX_DEPTH} levels of a property: {path}"
            ))
            .param("expand"));
        }
        along(tx, object, &segments, &path)?;
    }
    Ok(())
}

fn along(tx: &Tx<'_>, object: &mut Value, path: &[&str], whole: &str) -> Result<(), ApiError> {
    let Some((field, rest)) = path.split_first() else { return Ok(()) };
    if let Value::Array(items) = object {
        return items.iter_mut().try_for_each(|item| along(tx, item, path, whole));
    }
    if *field == "data" && object["object"] == "list" {
        return along(tx, &mut object["data"], rest, whole);
    }
    if let Some(list) = included(tx, object, field)? {
        object[*field] = list;
    }
    let refused = || ApiError::invalid(format!("This property cannot be expanded ({whole}).")).param("expand");
    let Some(value) = object.get_mut(*field) else { return Err(refused()) };
    if let Some(found) = value.as_str().map(|id| (kind_of(id), id)) {
        let (Some(kind), id) = found else { return Err(refused()) };
        let named = tx.get(kind, id).ok_or_else(refused)?;
        *value = if kind == Kind::BalanceTransaction { money::aged(tx, named) } else { named };
    } else if value.is_number() || value.is_boolean() {
        return Err(refused());
    }
    if value.is_null() { Ok(()) } else { along(tx, value, rest, whole) }
}

/// Lists that are left out unless asked for.
fn included(tx: &Tx<'_>, object: &Value, field: &str) -> Result<Option<Value>, ApiError> {
    let id = text(object, "id");
    match (text(object, "object"), field) {
        ("checkout.session", "line_items") => checkout::items(tx, id, &Params::default()).map(Some),
        ("charge", "refunds") => {
            let refunds: Vec<&Value> =
                tx.store.rows(Kind::Refund).rev().filter(|refund| refund["charge"] == id).collect();
            Ok(Some(json!({
                "object": "list", "data": refunds, "has_more": false, "url": format!("/v1/charges/{id}/refunds"),
            })))
        }
        _ => Ok(None),
    }
}

fn kind_of(id: &str) -> Option<Kind> {
    let (prefix, _) = id.split_once('_')?;
    Some(match prefix {
        "cus" => Kind::Customer,
        "pi" => Kind::PaymentIntent,
        "ch" => Kind::Charge,
        "pm" => Kind::PaymentMethod,
        "txn" => Kind::BalanceTransaction,
        "re" => Kind::Refund,
        "du" => Kind::Dispute,
        "seti" => Kind::SetupIntent,
        "prod" => Kind::Product,
        "price" => Kind::Price,
        "in" => Kind::Invoice,
        _ => return None,
    })
}
