//! Webhook endpoints: those of the configuration, and those made through the API.

use serde_json::{Value, json};

use super::engine::{Tx, new_id, random, text};
use super::error::ApiError;
use super::form::Params;
use super::list;
use super::store::Kind;

/// Ids of configured endpoints: this and their number.
const CONFIGURED: &str = "we_configured_";

/// Brings the stored endpoints in line with the configuration.
pub(super) fn seed(tx: &mut Tx<'_>) {
    let configured = tx.engine.config.webhook_endpoints.clone();
    let mut stale = Vec::new();
    for endpoint in tx.store.rows(Kind::WebhookEndpoint) {
        if text(endpoint, "id").starts_with(CONFIGURED) {
            stale.push(text(endpoint, "id").to_owned());
        }
    }
    for (number, endpoint) in configured.iter().enumerate() {
        let id = format!("{CONFIGURED}{number}");
        stale.retain(|known| *known != id);
        let events = match endpoint.enabled_events.as_slice() {
            [] => vec!["*".to_owned()],
            events => events.to_vec(),
        };
        let fresh = endpoint_object(tx, &id, &endpoint.url, &events, None, json!({}));
        let known = tx.get(Kind::WebhookEndpoint, &id);
        if known.is_none_or(|known| known["url"] != fresh["url"] || known["enabled_events"] != fresh["enabled_events"])
        {
            tx.save(Kind::WebhookEndpoint, &fresh);
        }
    }
    for id in stale {
        tx.store.put(Kind::WebhookEndpoint, &id, None);
    }
}

fn endpoint_object(
    tx: &Tx<'_>,
    id: &str,
    url: &str,
    events: &[String],
    description: Option<&str>,
    metadata: Value,
) -> Value {
    json!({
        "id": id,
        "object": "webhook_endpoint",
        "api_version": super::engine::API_VERSION,
        "application": null,
        "created": tx.now,
        "description": description,
        "enabled_events": events,
        "livemode": false,
        "metadata": metadata,
        "status": "enabled",
        "url": url,
    })
}

/// Ids of the endpoints that want events of this name.
pub(super) fn wanting(tx: &Tx<'_>, name: &str) -> Vec<String> {
    let endpoints = tx.store.rows(Kind::WebhookEndpoint).filter(|endpoint| {
        let events = endpoint["enabled_events"].as_array();
        endpoint["status"] == "enabled"
            && events.is_some_and(|events| events.iter().any(|wanted| *wanted == "*" || *wanted == name))
    });
    endpoints.map(|endpoint| text(endpoint, "id").to_owned()).collect()
}

/// The secret an endpoint's deliveries are signed with.
pub(super) fn secret(tx: &Tx<'_>, id: &str) -> Option<String> {
    if let Some(number) = id.strip_prefix(CONFIGURED) {
        let number: usize = number.parse().ok()?;
        return tx.engine.config.webhook_endpoints.get(number).map(|endpoint| endpoint.secret.clone());
    }
    let row = tx.get(Kind::EndpointSecret, id)?;
    row["secret"].as_str().map(str::to_owned)
}

fn check_url(url: &str) -> Result<(), ApiError> {
    match reqwest::Url::parse(url) {
        Ok(parsed) if ["http", "https"].contains(&parsed.scheme()) => Ok(()),
        _ => Err(ApiError::invalid("Invalid URL: an explicit http or https address is needed")
            .code("url_invalid")
            .param("url")),
    }
}

pub(super) fn create(tx: &mut Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(&["url", "enabled_events", "description", "metadata", "api_version"])?;
    if params.filled("api_version")?.is_some_and(|version| version != super::engine::API_VERSION) {
        return Err(ApiError::invalid("The stand-in renders one API version only").param("api_version"));
    }
    let url = params.required("url")?;
    check_url(url)?;
    let events = params.texts("enabled_events")?;
    if events.is_empty() {
        return Err(ApiError::missing("enabled_events"));
    }
    let (id, secret) = (new_id("we"), format!("whsec_{}", random(32)));
    let metadata = params.metadata(None)?;
    let mut endpoint = endpoint_object(tx, &id, url, &events, params.filled("description")?, metadata);
    tx.save(Kind::WebhookEndpoint, &endpoint);
    tx.store.put(Kind::EndpointSecret, &id, Some(json!({ "secret": secret })));
    // Told once, here.
    endpoint["secret"] = json!(secret);
    Ok(endpoint)
}

fn own(id: &str) -> Result<(), ApiError> {
    if id.starts_with(CONFIGURED) {
        return Err(ApiError::invalid("This endpoint comes from the stand-in's configuration; change it there."));
    }
    Ok(())
}

pub(super) fn update(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&["url", "enabled_events", "description", "metadata", "disabled"])?;
    let mut endpoint = tx.load(Kind::WebhookEndpoint, "webhook endpoint", id)?;
    own(id)?;
    if let Some(url) = params.filled("url")? {
        check_url(url)?;
        endpoint["url"] = json!(url);
    }
    if params.has("enabled_events") {
        endpoint["enabled_events"] = json!(params.texts("enabled_events")?);
    }
    if let Some(description) = params.text("description")? {
        endpoint["description"] = json!(description);
    }
    if let Some(disabled) = params.boolean("disabled")? {
        endpoint["status"] = json!(if disabled { "disabled" } else { "enabled" });
    }
    endpoint["metadata"] = params.metadata(endpoint.get("metadata"))?;
    tx.save(Kind::WebhookEndpoint, &endpoint);
    Ok(endpoint)
}

pub(super) fn delete(tx: &mut Tx<'_>, id: &str, params: &Params) -> Result<Value, ApiError> {
    params.only(&[])?;
    tx.load(Kind::WebhookEndpoint, "webhook endpoint", id)?;
    own(id)?;
    tx.store.put(Kind::WebhookEndpoint, id, None);
    tx.store.put(Kind::EndpointSecret, id, None);
    Ok(json!({ "id": id, "object": "webhook_endpoint", "deleted": true }))
}

pub(super) fn index(tx: &Tx<'_>, params: &Params) -> Result<Value, ApiError> {
    params.only(list::PARAMS)?;
    list::page(tx, Kind::WebhookEndpoint, "/v1/webhook_endpoints", params, |_| true)
}
