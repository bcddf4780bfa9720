//! Reports as Stripe sends them, signed by hand: for what a well-behaved Stripe never sends.

use anyhow::Result;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::Sha256;

/// A fresh id of Stripe's shape.
pub fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::new_v4().simple())
}

/// The `Stripe-Signature` header: HMAC-SHA256 over `{t}.{body}`, the key being the whole text of the secret.
///
/// # Errors
/// Never, for a key of any length.
pub fn sign(secret: &str, at: Timestamp, body: &str) -> Result<String> {
    let at = at.as_second();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())?;
    mac.update(format!("{at}.{body}").as_bytes());
    Ok(format!("t={at},v1={}", hex::encode(mac.finalize().into_bytes())))
}

/// What is reported about a checkout.
#[derive(Debug, Clone)]
pub struct CheckoutReport {
    /// The checkout session.
    pub session_id: String,
    /// Who pays, in `client_reference_id` and in `metadata.wopr_tenant`; nobody when [`None`].
    pub tenant: Option<String>,
    /// How much, in US cents.
    pub amount_cents: i64,
    /// Stripe's customer, when there is one.
    pub customer: Option<String>,
    /// Whether the money has come.
    pub paid: bool,
}

impl CheckoutReport {
    /// A paid checkout that nobody has reported before.
    pub fn new(tenant: Option<&str>, amount_cents: i64) -> Self {
        Self {
            session_id: new_id("cs_test"),
            tenant: tenant.map(str::to_owned),
            amount_cents,
            customer: None,
            paid: true,
        }
    }

    /// The event, under a fresh id.
    pub fn event(&self, kind: &str, at: Timestamp) -> Value {
        let mut metadata = json!({});
        if let Some(tenant) = &self.tenant {
            metadata = json!({ "wopr_tenant": tenant });
        }
        let session = json!({
            "id": self.session_id,
            "object": "checkout.session",
            "amount_subtotal": self.amount_cents,
            "amount_total": self.amount_cents,
            "automatic_tax": { "enabled": false, "liability": null, "provider": null, "status": null },
            "client_reference_id": self.tenant,
            "created": at.as_second() - 60,
            "currency": "usd",
            "custom_fields": [],
            "custom_text": { "after_submit": null, "shipping_address": null, "submit": null, "terms_of_service_acceptance": null },
            "customer": self.customer,
            "customer_creation": "if_required",
            "customer_details": { "address": null, "email": "buyer@example.com", "name": null, "phone": null, "tax_exempt": "none", "tax_ids": [] },
            "expires_at": at.as_second() + 86_340,
            "livemode": false,
            "metadata": metadata,
            "mode": "payment",
            "payment_intent": new_id("pi"),
            "payment_method_types": ["card"],
            "payment_status": if self.paid { "paid" } else { "unpaid" },
            "shipping_options": [],
            "status": "complete",
            "success_url": "http://localhost:3000/dashboard",
            "cancel_url": "http://localhost:3000/dashboard",
            "total_details": { "amount_discount": 0, "amount_shipping": 0, "amount_tax": 0 },
            "url": null,
        });
        json!({
            "id": new_id("evt"),
            "object": "event",
            "api_version": "2026-09-30.endive",
            "created": at.as_second(),
            "data": { "object": session },
            "livemode": false,
            "pending_webhooks": 1,
            "request": { "id": null, "idempotency_key": null },
            "type": kind,
        })
    }
}
