//! Which path is which operation.

use serde_json::Value;

use super::engine::Tx;
use super::error::ApiError;
use super::form::Params;
use super::store::Kind;
use super::{
    catalog, checkout, customers, disputes, endpoints, expand, invoices, list, money, payment_intents, payment_methods,
    setup_intents,
};

/// Runs the operation behind `method path` and expands its answer. `path` starts behind `/v1`.
pub(super) fn run(tx: &mut Tx<'_>, method: &str, path: &str, params: &Params) -> Result<Value, ApiError> {
    let segments: Vec<&str> = path.trim_start_matches('/').trim_end_matches('/').split('/').collect();
    let found = match segments.as_slice() {
        ["customers" | "billing_portal", ..] => customers(tx, method, &segments, params),
        ["payment_intents" | "setup_intents" | "payment_methods", ..] => payments(tx, method, &segments, params),
        ["checkout", ..] => sessions(tx, method, &segments, params),
        ["prices" | "products", ..] => goods(tx, method, &segments, params),
        _ => books(tx, method, &segments, params),
    };
    let mut object = found.unwrap_or_else(|| Err(ApiError::unknown_url(method, &format!("/v1{path}"))))?;
    expand::apply(tx, &mut object, params)?;
    Ok(object)
}

/// `None`: no such route.
type Found = Option<Result<Value, ApiError>>;

fn show(tx: &Tx<'_>, kind: Kind, object: &str, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&[])?;
    tx.load(kind, object, id)
}

fn customers(tx: &mut Tx<'_>, method: &str, path: &[&str], p: &Params) -> Found {
    Some(match (method, path) {
        ("POST", ["customers"]) => customers::create(tx, p),
        ("GET", ["customers"]) => customers::index(tx, p),
        ("GET", ["customers", id]) => customers::retrieve(tx, id, p),
        ("POST", ["customers", id]) => customers::update(tx, id, p),
        ("DELETE", ["customers", id]) => customers::delete(tx, id, p),
        ("GET", ["customers", id, "payment_methods"]) => payment_methods::index(tx, Some(id), p),
        ("GET", ["customers", id, "payment_methods", method_id]) => {
            customers::require(tx, id, "customer").and_then(|_| {
                let method = payment_methods::retrieve(tx, method_id, p)?;
                if method["customer"] == *id {
                    Ok(method)
                } else {
                    Err(ApiError::not_found("PaymentMethod", method_id))
                }
            })
        }
        ("POST", ["billing_portal", "sessions"]) => customers::create_portal(tx, p),
        _ => return None,
    })
}

fn payments(tx: &mut Tx<'_>, method: &str, path: &[&str], p: &Params) -> Found {
    Some(match (method, path) {
        ("POST", ["payment_intents"]) => payment_intents::create(tx, p),
        ("GET", ["payment_intents"]) => payment_intents::index(tx, p),
        ("GET", ["payment_intents", id]) => show(tx, Kind::PaymentIntent, "payment_intent", id, p),
        ("POST", ["payment_intents", id]) => payment_intents::update(tx, id, p),
        ("POST", ["payment_intents", id, "confirm"]) => payment_intents::confirm(tx, id, p),
        ("POST", ["payment_intents", id, "cancel"]) => payment_intents::cancel(tx, id, p),
        ("POST", ["setup_intents"]) => setup_intents::create(tx, p),
        ("GET", ["setup_intents"]) => setup_intents::index(tx, p),
        ("GET", ["setup_intents", id]) => show(tx, Kind::SetupIntent, "setup_intent", id, p),
        ("POST", ["setup_intents", id, "confirm"]) => setup_intents::confirm(tx, id, p),
        ("POST", ["setup_intents", id, "cancel"]) => setup_intents::cancel(tx, id, p),
        ("POST", ["payment_methods"]) => payment_methods::create(tx, p),
        ("GET", ["payment_methods"]) => payment_methods::index(tx, None, p),
        ("GET", ["payment_methods", id]) => payment_methods::retrieve(tx, id, p),
        ("POST", ["payment_methods", id]) => payment_methods::update(tx, id, p),
        ("POST", ["payment_methods", id, "attach"]) => payment_methods::attach(tx, id, p),
        ("POST", ["payment_methods", id, "detach"]) => payment_methods::detach(tx, id, p),
        _ => return None,
    })
}

fn sessions(tx: &mut Tx<'_>, method: &str, path: &[&str], p: &Params) -> Found {
    let ["checkout", "sessions", rest @ ..] = path else { return None };
    Some(match (method, rest) {
        ("POST", []) => checkout::create(tx, p),
        ("GET", []) => checkout::index(tx, p),
        ("GET", [id]) => show(tx, Kind::Session, "checkout.session", id, p),
        ("POST", [id]) => checkout::update(tx, id, p),
        ("POST", [id, "expire"]) => checkout::expire(tx, id, p),
        ("GET", [id, "line_items"]) => checkout::items(tx, id, p),
        _ => return None,
    })
}

fn goods(tx: &mut Tx<'_>, method: &str, path: &[&str], p: &Params) -> Found {
    Some(match (method, path) {
        ("POST", ["prices"]) => catalog::create_price(tx, p),
        ("GET", ["prices"]) => catalog::list_prices(tx, p),
        ("GET", ["prices", id]) => show(tx, Kind::Price, "price", id, p),
        ("POST", ["prices", id]) => catalog::update_price(tx, id, p),
        ("POST", ["products"]) => catalog::create_product(tx, p),
        ("GET", ["products"]) => catalog::list_products(tx, p),
        ("GET", ["products", id]) => show(tx, Kind::Product, "product", id, p),
        _ => return None,
    })
}

fn books(tx: &mut Tx<'_>, method: &str, path: &[&str], p: &Params) -> Found {
    Some(match (method, path) {
        ("GET", ["charges"]) => money::list_charges(tx, p),
        ("GET", ["charges", id]) => show(tx, Kind::Charge, "charge", id, p),
        ("POST", ["charges", id]) => money::update_charge(tx, id, p),
        ("POST", ["refunds"]) => money::create_refund(tx, p),
        ("GET", ["refunds"]) => money::list_refunds(tx, p),
        ("GET", ["refunds", id]) => show(tx, Kind::Refund, "refund", id, p),
        ("POST", ["refunds", id]) => money::update_refund(tx, id, p),
        ("GET", ["disputes"]) => disputes::index(tx, p),
        ("GET", ["disputes", id]) => show(tx, Kind::Dispute, "dispute", id, p),
        ("POST", ["disputes", id]) => disputes::update(tx, id, p),
        ("POST", ["disputes", id, "close"]) => disputes::close(tx, id, p),
        ("GET", ["balance"]) => money::balance(tx, p),
        ("GET", ["balance_transactions"]) => money::list_balance_transactions(tx, p),
        ("GET", ["balance_transactions", id]) => {
            show(tx, Kind::BalanceTransaction, "balance transaction", id, p).map(|booked| money::aged(tx, booked))
        }
        ("GET", ["invoices"]) => invoices::index(tx, p),
        ("GET", ["invoices", id]) => show(tx, Kind::Invoice, "invoice", id, p),
        ("GET", ["events"]) => events(tx, p),
        ("GET", ["events", id]) => show(tx, Kind::Event, "event", id, p),
        ("POST", ["webhook_endpoints"]) => endpoints::create(tx, p),
        ("GET", ["webhook_endpoints"]) => endpoints::index(tx, p),
        ("GET", ["webhook_endpoints", id]) => show(tx, Kind::WebhookEndpoint, "webhook endpoint", id, p),
        ("POST", ["webhook_endpoints", id]) => endpoints::update(tx, id, p),
        ("DELETE", ["webhook_endpoints", id]) => endpoints::delete(tx, id, p),
        _ => return None,
    })
}

fn events(tx: &Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&[list::PARAMS, &["type", "types", "created", "delivery_success"]].concat())?;
    let one = params.filled("type")?;
    let types = params.texts("types")?;
    let delivered = params.boolean("delivery_success")?;
    list::page(tx, Kind::Event, "/v1/events", params, |event| {
        one.is_none_or(|one| matches_type(event, one))
            && (types.is_empty() || types.iter().any(|name| matches_type(event, name)))
            && delivered.is_none_or(|delivered| (event["pending_webhooks"] == 0) == delivered)
    })
}

/// `charge.*` names a group.
fn matches_type(event: &Value, wanted: &str) -> bool {
    let name = super::engine::text(event, "type");
    wanted.strip_suffix('*').map_or(name == wanted, |prefix| name.starts_with(prefix))
}
