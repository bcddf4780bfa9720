//! Products and their prices. One-time prices only.

use serde_json::{Value, json};

use super::config::CreditPack;
use super::engine::{Tx, new_id, random, text};
use super::error::ApiError;
use super::form::Params;
use super::store::Kind;
use super::{list, payment_intents};

/// The product all credit packs belong to.
const PACK_PRODUCT: &str = "prod_wopr_credits";

/// Makes sure the configured packs exist with their configured amounts.
pub(super) fn seed(tx: &mut Tx<'_>, packs: &[CreditPack]) -> Result<(), ApiError> {
    if packs.is_empty() {
        return Ok(());
    }
    if tx.get(Kind::Product, PACK_PRODUCT).is_none() {
        let product = product(tx, PACK_PRODUCT, "WOPR credits", None, json!({}));
        tx.save(Kind::Product, &product);
    }
    for pack in packs {
        if let Some(existing) = tx.get(Kind::Price, &pack.price_id) {
            // A price never changes at Stripe either: another amount needs another id.
            if existing["unit_amount"] != pack.amount_cents {
                return Err(ApiError::invalid(format!(
                    "price {} exists with {} cents; it cannot become {}",
                    pack.price_id, existing["unit_amount"], pack.amount_cents
                )));
            }
            continue;
        }
        payment_intents::check_amount(pack.amount_cents, "usd", "unit_amount")?;
        let nickname = format!("${} credit pack", pack.amount_cents / 100);
        let price = price(tx, &pack.price_id, PACK_PRODUCT, pack.amount_cents, "usd", Some(&nickname), json!({}));
        tx.save(Kind::Price, &price);
    }
    Ok(())
}

fn product(tx: &Tx<'_>, id: &str, name: &str, description: Option<&str>, metadata: Value) -> Value {
    json!({
        "id": id,
        "object": "product",
        "active": true,
        "created": tx.now,
        "default_price": null,
        "description": description,
        "images": [],
        "livemode": false,
        "marketing_features": [],
        "metadata": metadata,
        "name": name,
        "package_dimensions": null,
        "shippable": null,
        "statement_descriptor": null,
        "tax_code": null,
        "type": "service",
        "unit_label": null,
        "updated": tx.now,
        "url": null,
    })
}

fn price(
    tx: &Tx<'_>,
    id: &str,
    product: &str,
    amount: i64,
    currency: &str,
    nickname: Option<&str>,
    metadata: Value,
) -> Value {
    json!({
        "id": id,
        "object": "price",
        "active": true,
        "billing_scheme": "per_unit",
        "created": tx.now,
        "currency": currency,
        "custom_unit_amount": null,
        "livemode": false,
        "lookup_key": null,
        "metadata": metadata,
        "nickname": nickname,
        "product": product,
        "recurring": null,
        "tax_behavior": "unspecified",
        "tiers_mode": null,
        "transform_quantity": null,
        "type": "one_time",
        "unit_amount": amount,
        "unit_amount_decimal": amount.to_string(),
    })
}

pub(super) fn create_product(tx: &mut Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&["id", "name", "description", "metadata"])?;
    let id = params.filled("id")?.map_or_else(|| format!("prod_{}", random(14)), str::to_owned);
    if tx.get(Kind::Product, &id).is_some() {
        return Err(ApiError::invalid("Product already exists.").code("resource_already_exists").param("id"));
    }
    let metadata = params.metadata(None)?;
    let product = product(tx, &id, params.required("name")?, params.filled("description")?, metadata);
    tx.save(Kind::Product, &product);
    tx.emit("product.created", &product, None);
    Ok(product)
}

pub(super) fn create_price(tx: &mut Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&["currency", "unit_amount", "product", "product_data", "nickname", "metadata"])?;
    let currency = params.required("currency")?.to_lowercase();
    let amount = params.integer("unit_amount")?.ok_or_else(|| ApiError::missing("unit_amount"))?;
    let metadata = params.metadata(None)?;
    let price = new_price(tx, params, amount, &currency, params.filled("nickname")?, metadata)?;
    tx.emit("price.created", &price, None);
    Ok(price)
}

/// A price for `product` or `product_data`, stored.
fn new_price(
    tx: &mut Tx<'_>,
    params: &Params,
    amount: i64,
    currency: &str,
    nickname: Option<&str>,
    metadata: Value,
) -> Result<Value, ApiError> {
    payment_intents::check_amount(amount, currency, "unit_amount")?;
    let owner = match (params.filled("product")?, params.child("product_data")?) {
        (Some(id), None) => {
            tx.get(Kind::Product, id).ok_or_else(|| ApiError::no_such("product", id, "product"))?;
            id.to_owned()
        }
        (None, Some(data)) => {
            data.only(&["name", "description", "metadata"])?;
            let id = format!("prod_{}", random(14));
            let made = product(tx, &id, data.required("name")?, data.filled("description")?, data.metadata(None)?);
            tx.save(Kind::Product, &made);
            id
        }
        _ => return Err(ApiError::invalid("Must provide exactly one of: product, product_data.")),
    };
    let made = price(tx, &new_id("price"), &owner, amount, currency, nickname, metadata);
    tx.save(Kind::Price, &made);
    Ok(made)
}

/// The price of a line item: `price`, or one made from `price_data`.
pub(super) fn for_line_item(tx: &mut Tx<'_>, item: &Params) -> Result<Value, ApiError> {
    match (item.filled("price")?, item.child("price_data")?) {
        (Some(id), None) => {
            let price =
                tx.get(Kind::Price, id).ok_or_else(|| ApiError::no_such("price", id, "line_items[0][price]"))?;
            if price["active"] != true {
                return Err(ApiError::invalid("The price specified is inactive.").param("line_items[0][price]"));
            }
            Ok(price)
        }
        (None, Some(data)) => {
            data.only(&["currency", "unit_amount", "product", "product_data"])?;
            let currency = data.required("currency")?.to_lowercase();
            let amount = data.integer("unit_amount")?.ok_or_else(|| ApiError::missing("unit_amount"))?;
            let mut price = new_price(tx, &data, amount, &currency, None, json!({}))?;
            price["active"] = json!(false);
            tx.save(Kind::Price, &price);
            Ok(price)
        }
        _ => Err(ApiError::invalid("Each line item needs exactly one of: price, price_data.").param("line_items")),
    }
}

pub(super) fn update_price(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&["active", "nickname", "metadata"])?;
    let mut price = tx.load(Kind::Price, "price", id)?;
    if let Some(active) = params.boolean("active")? {
        price["active"] = json!(active);
    }
    if let Some(nickname) = params.text("nickname")? {
        price["nickname"] = json!(nickname);
    }
    price["metadata"] = params.metadata(price.get("metadata"))?;
    tx.save(Kind::Price, &price);
    tx.emit("price.updated", &price, None);
    Ok(price)
}

pub(super) fn list_prices(tx: &Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&[list::PARAMS, &["active", "product", "currency", "type", "created"]].concat())?;
    let (active, product) = (params.boolean("active")?, params.filled("product")?);
    let (currency, kind) = (params.filled("currency")?, params.filled("type")?);
    list::page(tx, Kind::Price, "/v1/prices", params, |price| {
        active.is_none_or(|active| price["active"] == active)
            && product.is_none_or(|id| price["product"] == id)
            && currency.is_none_or(|currency| price["currency"] == currency)
            && kind.is_none_or(|kind| price["type"] == kind)
    })
}

pub(super) fn list_products(tx: &Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&[list::PARAMS, &["active", "created"]].concat())?;
    let active = params.boolean("active")?;
    list::page(tx, Kind::Product, "/v1/products", params, |product| {
        active.is_none_or(|active| product["active"] == active)
    })
}

/// What a line of a bill says: the product's name.
pub(super) fn describe(tx: &Tx<'_>, price: &Value) -> String {
    let product = tx.get(Kind::Product, text(price, "product"));
    let name = product.as_ref().map(|product| text(product, "name")).unwrap_or_default();
    match price["nickname"].as_str() {
        Some(nickname) if !nickname.is_empty() => nickname.to_owned(),
        _ => name.to_owned(),
    }
}
