//! Events signed as Stripe signs them.

use anyhow::Context;
use hmac::{Hmac, KeyInit, Mac};
use rand::RngCore;
use serde_json::json;
use sha2::Sha256;

use crate::{
    clock::unix_seconds,
    failure::{Exit, Failure},
};

/// A paid checkout session that Stripe tells about.
#[derive(Debug, Clone)]
pub(crate) struct CheckoutCompleted {
    /// `evt_…`
    pub(crate) event_id: String,
    /// `cs_test_…`
    pub(crate) session_id: String,
    tenant: String,
    amount_cents: i64,
    customer: Option<String>,
    created: i64,
}

impl CheckoutCompleted {
    /// A session nobody has heard of before; `amount_cents` in US cents.
    pub(crate) fn new(tenant: &str, amount_cents: i64, customer: Option<String>) -> Self {
        Self {
            event_id: format!("evt_{}", random_hex()),
            session_id: format!("cs_test_{}", random_hex()),
            tenant: tenant.to_owned(),
            amount_cents,
            customer,
            created: unix_seconds(),
        }
    }

    /// The event's body.
    pub(crate) fn body(&self) -> String {
        json!({
            "id": self.event_id,
            "object": "event",
            "api_version": "2026-09-30.endive",
            "created": self.created,
            "livemode": false,
            "pending_webhooks": 1,
            "request": { "id": null, "idempotency_key": null },
            "type": "checkout.session.completed",
            "data": { "object": {
                "id": self.session_id,
                "object": "checkout.session",
                "amount_subtotal": self.amount_cents,
                "amount_total": self.amount_cents,
                "automatic_tax": { "enabled": false, "liability": null, "provider": null, "status": null },
                "client_reference_id": self.tenant,
                "created": self.created,
                "currency": "usd",
                "custom_fields": [],
                "custom_text": {
                    "after_submit": null, "shipping_address": null, "submit": null, "terms_of_service_acceptance": null,
                },
                "customer": self.customer,
                "expires_at": self.created + 86_400,
                "livemode": false,
                "metadata": { "wopr_tenant": self.tenant },
                "mode": "payment",
                "payment_intent": null,
                "payment_method_types": ["card"],
                "payment_status": "paid",
                "shipping_options": [],
                "status": "complete",
            } },
        })
        .to_string()
    }
}

fn random_hex() -> String {
    let mut bytes = [0; 12];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

/// The `Stripe-Signature` header of a body: <https://docs.stripe.com/webhooks/signature>.
pub(crate) fn signature(secret: &str, timestamp: i64, body: &str) -> anyhow::Result<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).context("the webhook secret is no key")?;
    mac.update(format!("{timestamp}.{body}").as_bytes());
    Ok(format!("t={timestamp},v1={}", hex::encode(mac.finalize().into_bytes())))
}

/// Sends the event to the API, signed now; answers with what the API said.
pub(crate) async fn deliver(
    http: &reqwest::Client,
    api_port: u16,
    event: &CheckoutCompleted,
    secret: &str,
) -> anyhow::Result<String> {
    let url = format!("http://localhost:{api_port}/api/billing/webhook");
    let body = event.body();
    let request = http
        .post(&url)
        .header("content-type", "application/json; charset=utf-8")
        .header("stripe-signature", signature(secret, unix_seconds(), &body)?)
        .body(body);
    let response = request.send().await.with_context(|| format!("{url} does not answer"))?;
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    if status == reqwest::StatusCode::OK {
        return Ok(text);
    }
    Err(Failure::new(Exit::Failed, format!("the API refused {}", event.event_id))
        .why(format!("{status}: {text}"))
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_stripe_would_make() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac whsec_test
        let expected = "t=1700000000,v1=35495024f4ef3f94e5a93e22221544c4b75e9a42300cd965ab81cb85cd994e91";
        assert_eq!(signature("whsec_test", 1_700_000_000, "{}").unwrap(), expected);
    }

    #[test]
    fn an_event_names_its_tenant_twice_and_a_customer_only_if_there_is_one() {
        let event = |customer: Option<&str>| -> serde_json::Value {
            let event = CheckoutCompleted::new("t1", 3000, customer.map(str::to_owned));
            serde_json::from_str(&event.body()).unwrap()
        };
        let session = &event(None)["data"]["object"];
        assert_eq!(session["client_reference_id"], "t1");
        assert_eq!(session["metadata"]["wopr_tenant"], "t1");
        assert_eq!(session["amount_total"], 3000);
        assert!(session["customer"].is_null());
        assert_eq!(event(Some("cus_1"))["data"]["object"]["customer"], "cus_1");
    }
}
