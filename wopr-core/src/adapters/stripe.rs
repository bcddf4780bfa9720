//! Stripe as a payment provider.
//!
//! Requests go through `async-stripe`'s client. Answers are read with our own eyes: the generated types refuse an
//! object for any field that Stripe adds or leaves out, and say nothing about which.

use std::sync::{Mutex, PoisonError};

use ::stripe::{Client, ClientBuilder, StripeError};
use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use stripe_client_core::{
    CustomizedStripeRequest, IdempotencyKey as StripeKey, RequestBuilder, RequestStrategy, StripeClient,
    StripeClientErr, StripeMethod,
};

use crate::billing::payments::inbox::event;
use crate::billing::payments::{
    BalanceKind, BalanceTransaction, Charge, CheckoutPage, CheckoutSession, Customer, Dispute, IdempotencyKey, Invoice,
    NewCheckout, NewCustomer, PROVIDER_TIMEOUT, PaymentIntent, PaymentMethod, PaymentProvider, PaymentsError,
    ProviderError, ProviderPage, Refund,
};
use crate::ids::TenantId;

/// How many entries of a list are asked for: the most Stripe gives, <https://docs.stripe.com/api/pagination>.
const PAGE: i64 = 100;
/// Stripe's ids are shorter and hold nothing else; they become part of a path.
const MAX_ID: usize = 255;

/// The key or the address cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the Stripe configuration cannot be used")]
pub struct InvalidStripeConfig;

/// A Stripe account.
#[derive(Clone)]
pub struct StripeProvider {
    client: Client,
}

impl std::fmt::Debug for StripeProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StripeProvider").finish_non_exhaustive()
    }
}

impl StripeProvider {
    /// The account of `secret_key`, at Stripe or at `base_url`.
    ///
    /// # Errors
    /// [`InvalidStripeConfig`] when the key is empty or cannot be sent, or the address is none.
    pub fn new(secret_key: &SecretString, base_url: Option<&str>) -> Result<Self, InvalidStripeConfig> {
        let key = secret_key.expose_secret();
        if key.is_empty() {
            return Err(InvalidStripeConfig);
        }
        let mut builder = ClientBuilder::new(key).timeout(PROVIDER_TIMEOUT);
        if let Some(base_url) = base_url {
            builder = builder.url(format!("{}/", base_url.trim_end_matches('/')));
        }
        // The client's error may quote the key.
        Ok(Self { client: builder.build().map_err(|_| InvalidStripeConfig)? })
    }

    async fn get(&self, path: String, query: Value) -> Result<Value, ProviderError> {
        let request = RequestBuilder::new(StripeMethod::Get, path);
        let request = if query.is_null() { request } else { request.query(&query) };
        self.send(request, None).await
    }

    async fn post(&self, path: &str, form: &Value, key: Option<&IdempotencyKey>) -> Result<Value, ProviderError> {
        self.send(RequestBuilder::new(StripeMethod::Post, path).form(form), key).await
    }

    async fn send(&self, request: RequestBuilder, key: Option<&IdempotencyKey>) -> Result<Value, ProviderError> {
        let listener = Listener { client: &self.client, heard: Mutex::default() };
        let mut request = request.customize::<()>();
        if let Some(key) = key {
            let key = StripeKey::new(key.as_str()).map_err(|error| ProviderError::Protocol(error.to_string()))?;
            request = request.request_strategy(RequestStrategy::Idempotent(key));
        }
        // Always fails, for an object is not `()`; what was heard before tells whether it was an answer.
        let failure = request.send(&listener).await.err();
        match listener.heard.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(answer) => serde_json::from_slice(&answer)
                .map_err(|error| ProviderError::Protocol(format!("not JSON at column {}", error.column()))),
            None => Err(failure.map_or_else(|| ProviderError::Protocol("no answer".to_owned()), |error| error.0)),
        }
    }
}

/// Passes requests on, and keeps the bytes of a successful answer.
struct Listener<'a> {
    client: &'a Client,
    heard: Mutex<Option<Bytes>>,
}

/// A failure in our words.
struct Failure(ProviderError);

impl StripeClientErr for Failure {
    fn deserialize_err(message: impl std::fmt::Display) -> Self {
        Self(ProviderError::Protocol(message.to_string()))
    }
}

impl StripeClient for Listener<'_> {
    type Err = Failure;

    async fn execute(&self, request: CustomizedStripeRequest) -> Result<Bytes, Failure> {
        let answer = self.client.execute(request).await.map_err(|error| Failure(failure(error)))?;
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer.clone());
        Ok(answer)
    }
}

fn failure(error: StripeError) -> ProviderError {
    match error {
        StripeError::Stripe(_, 401 | 403) => ProviderError::Unauthorized,
        StripeError::Stripe(_, 404) => ProviderError::NotFound,
        // A key that is still being worked on answers 409.
        StripeError::Stripe(_, status @ (409 | 424 | 429 | 500..)) => {
            ProviderError::Unavailable(format!("it answered {status}"))
        }
        StripeError::Stripe(error, _) => {
            let code = error.code.as_ref().map(ToString::to_string);
            if code.as_deref() == Some("resource_missing") {
                return ProviderError::NotFound;
            }
            ProviderError::Refused { code, message: error.message.unwrap_or_default() }
        }
        StripeError::JSONDeserialize(message) => ProviderError::Protocol(message),
        StripeError::ClientError(message) | StripeError::ConfigError(message) => ProviderError::Unavailable(message),
        StripeError::Timeout => ProviderError::Unavailable("it did not answer in time".to_owned()),
    }
}

/// An id as part of a path.
fn segment(id: &str) -> Result<&str, ProviderError> {
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if plain && !id.is_empty() && id.len() <= MAX_ID { Ok(id) } else { Err(ProviderError::NotFound) }
}

fn missing(what: &str) -> ProviderError {
    ProviderError::Protocol(format!("{what} is missing"))
}

fn text(object: &Value, pointer: &str) -> Option<String> {
    let value = object.pointer(pointer)?;
    value.as_str().or_else(|| value.get("id")?.as_str()).map(str::to_owned)
}

fn required(object: &Value, name: &str) -> Result<String, ProviderError> {
    text(object, &format!("/{name}")).ok_or_else(|| missing(name))
}

fn number(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer)?.as_i64()
}

fn created(object: &Value) -> Result<Timestamp, ProviderError> {
    let seconds = number(object, "/created").ok_or_else(|| missing("created"))?;
    Timestamp::from_second(seconds).map_err(|_| missing("created"))
}

fn entries(list: &Value) -> Result<&Vec<Value>, ProviderError> {
    list.get("data").and_then(Value::as_array).ok_or_else(|| missing("data"))
}

fn understood<T>(read: Result<T, PaymentsError>) -> Result<T, ProviderError> {
    read.map_err(|_| ProviderError::Protocol("an object lacks what it must have".to_owned()))
}

fn found<T>(answer: Result<T, ProviderError>) -> Result<Option<T>, ProviderError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(ProviderError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn customer(object: &Value) -> Result<Customer, ProviderError> {
    Ok(Customer { id: required(object, "id")?, email: text(object, "/email") })
}

fn payment_method(object: &Value) -> Result<PaymentMethod, ProviderError> {
    let kind = required(object, "type")?;
    Ok(PaymentMethod {
        id: required(object, "id")?,
        customer_id: text(object, "/customer"),
        brand: text(object, "/card/brand").unwrap_or(kind),
        last4: text(object, "/card/last4"),
        expiry_month: number(object, "/card/exp_month"),
        expiry_year: number(object, "/card/exp_year"),
        created_at: created(object)?,
    })
}

fn balance_transaction(object: &Value) -> Result<BalanceTransaction, ProviderError> {
    let source_id = text(object, "/source");
    let category = text(object, "/reporting_category").unwrap_or_default();
    let disputed = source_id.as_deref().is_some_and(|id| id.starts_with("dp_") || id.starts_with("du_"));
    let kind = match required(object, "type")?.as_str() {
        "charge" | "payment" => BalanceKind::Payment,
        "refund" | "payment_refund" => BalanceKind::Refund,
        "refund_failure" | "payment_failure_refund" => BalanceKind::RefundFailure,
        "adjustment" if disputed || category.starts_with("dispute") => BalanceKind::Dispute,
        "payout" | "payout_cancel" | "payout_failure" => BalanceKind::Payout,
        "stripe_fee" | "stripe_fx_fee" | "tax_fee" => BalanceKind::Fee,
        _ => BalanceKind::Other,
    };
    let amount = |name: &str| number(object, &format!("/{name}")).ok_or_else(|| missing(name));
    Ok(BalanceTransaction {
        id: required(object, "id")?,
        kind,
        amount: amount("amount")?,
        fee: amount("fee")?,
        net: amount("net")?,
        currency: required(object, "currency")?.to_ascii_lowercase(),
        source_id,
        created_at: created(object)?,
    })
}

#[async_trait]
impl PaymentProvider for StripeProvider {
    async fn create_customer(&self, key: &IdempotencyKey, new: &NewCustomer) -> Result<Customer, ProviderError> {
        let mut form = json!({ "metadata": { "wopr_tenant": new.tenant_id } });
        if let Some(email) = &new.email {
            form["email"] = json!(email);
        }
        customer(&self.post("/customers", &form, Some(key)).await?)
    }

    async fn find_customer(&self, id: &str) -> Result<Option<Customer>, ProviderError> {
        let object = found(self.get(format!("/customers/{}", segment(id)?), Value::Null).await)?;
        let alive = object.filter(|object| object.get("deleted").and_then(Value::as_bool) != Some(true));
        alive.as_ref().map(customer).transpose()
    }

    async fn update_customer_email(&self, id: &str, email: &str) -> Result<Customer, ProviderError> {
        customer(&self.post(&format!("/customers/{}", segment(id)?), &json!({ "email": email }), None).await?)
    }

    async fn default_payment_method(&self, customer_id: &str) -> Result<Option<String>, ProviderError> {
        let object = found(self.get(format!("/customers/{}", segment(customer_id)?), Value::Null).await)?;
        Ok(object.and_then(|object| text(&object, "/invoice_settings/default_payment_method")))
    }

    async fn create_checkout(&self, key: &IdempotencyKey, new: &NewCheckout) -> Result<CheckoutPage, ProviderError> {
        let form = json!({
            "mode": "payment",
            "customer": new.customer_id,
            "client_reference_id": new.tenant_id,
            "line_items": [{ "price": new.price_id, "quantity": 1 }],
            "success_url": new.success_url,
            "cancel_url": new.cancel_url,
            "metadata": {
                "wopr_tenant": new.tenant_id, "wopr_purchase_type": "credits", "wopr_checkout": new.checkout_id,
            },
            // Another key than a payment without a checkout has: the session announces this one.
            "payment_intent_data": { "metadata": { "wopr_checkout_tenant": new.tenant_id } },
        });
        let session = self.post("/checkout/sessions", &form, Some(key)).await?;
        Ok(CheckoutPage { session_id: required(&session, "id")?, url: required(&session, "url")? })
    }

    async fn get_checkout(&self, id: &str) -> Result<CheckoutSession, ProviderError> {
        let session = self.get(format!("/checkout/sessions/{}", segment(id)?), Value::Null).await?;
        understood(event::read_session(&session))
    }

    async fn find_checkout_of_payment(&self, payment: &str) -> Result<Option<CheckoutSession>, ProviderError> {
        let query = json!({ "payment_intent": payment, "limit": 1 });
        let list = self.get("/checkout/sessions".to_owned(), query).await?;
        entries(&list)?.first().map(|session| understood(event::read_session(session))).transpose()
    }

    async fn get_payment(&self, id: &str) -> Result<PaymentIntent, ProviderError> {
        let intent = self.get(format!("/payment_intents/{}", segment(id)?), Value::Null).await?;
        understood(event::read_intent(&intent))
    }

    async fn get_charge(&self, id: &str) -> Result<Charge, ProviderError> {
        let charge = self.get(format!("/charges/{}", segment(id)?), Value::Null).await?;
        Ok(Charge {
            id: required(&charge, "id")?,
            payment_intent_id: text(&charge, "/payment_intent"),
            amount: number(&charge, "/amount").ok_or_else(|| missing("amount"))?,
            currency: required(&charge, "currency")?.to_ascii_lowercase(),
        })
    }

    async fn get_refund(&self, id: &str) -> Result<Refund, ProviderError> {
        let refund = self.get(format!("/refunds/{}", segment(id)?), Value::Null).await?;
        understood(event::read_refund(&refund))
    }

    async fn list_refunds(&self, charge_id: &str) -> Result<Vec<Refund>, ProviderError> {
        let list = self.get("/refunds".to_owned(), json!({ "charge": charge_id, "limit": PAGE })).await?;
        entries(&list)?.iter().map(|refund| understood(event::read_refund(refund))).collect()
    }

    async fn get_dispute(&self, id: &str) -> Result<Dispute, ProviderError> {
        let dispute = self.get(format!("/disputes/{}", segment(id)?), Value::Null).await?;
        understood(event::read_dispute(&dispute))
    }

    async fn refund(&self, key: &IdempotencyKey, payment: &str, amount: Option<i64>) -> Result<Refund, ProviderError> {
        let mut form = json!({ "payment_intent": payment });
        if let Some(amount) = amount {
            form["amount"] = json!(amount);
        }
        understood(event::read_refund(&self.post("/refunds", &form, Some(key)).await?))
    }

    async fn create_setup_intent(&self, customer_id: &str, tenant: TenantId) -> Result<String, ProviderError> {
        // No fixed kinds of payment method: the dashboard decides.
        let form = json!({
            "customer": customer_id, "usage": "off_session", "metadata": { "wopr_tenant": tenant },
        });
        required(&self.post("/setup_intents", &form, None).await?, "client_secret")
    }

    async fn list_payment_methods(&self, customer_id: &str) -> Result<Vec<PaymentMethod>, ProviderError> {
        let query = json!({ "customer": customer_id, "limit": PAGE });
        entries(&self.get("/payment_methods".to_owned(), query).await?)?.iter().map(payment_method).collect()
    }

    async fn find_payment_method(&self, id: &str) -> Result<Option<PaymentMethod>, ProviderError> {
        let object = found(self.get(format!("/payment_methods/{}", segment(id)?), Value::Null).await)?;
        object.as_ref().map(payment_method).transpose()
    }

    async fn detach_payment_method(&self, id: &str) -> Result<(), ProviderError> {
        // Without a form: an empty one is sent as a parameter without a name, which is refused.
        let path = format!("/payment_methods/{}/detach", segment(id)?);
        self.send(RequestBuilder::new(StripeMethod::Post, path), None).await?;
        Ok(())
    }

    async fn create_portal_session(&self, customer_id: &str, return_url: &str) -> Result<String, ProviderError> {
        let form = json!({ "customer": customer_id, "return_url": return_url });
        required(&self.post("/billing_portal/sessions", &form, None).await?, "url")
    }

    async fn list_invoices(&self, customer_id: &str, limit: u8) -> Result<Vec<Invoice>, ProviderError> {
        let query = json!({ "customer": customer_id, "limit": i64::from(limit).clamp(1, PAGE) });
        let list = self.get("/invoices".to_owned(), query).await?;
        let read = |invoice: &Value| {
            Ok(Invoice {
                id: required(invoice, "id")?,
                created_at: created(invoice)?,
                amount_due: number(invoice, "/amount_due").unwrap_or(0),
                status: text(invoice, "/status"),
                download_url: text(invoice, "/invoice_pdf"),
            })
        };
        entries(&list)?.iter().map(read).collect()
    }

    async fn list_balance_transactions(
        &self,
        since: Timestamp,
        until: Timestamp,
        after: Option<&str>,
    ) -> Result<ProviderPage<BalanceTransaction>, ProviderError> {
        let mut query = json!({
            "created": { "gte": since.as_second(), "lt": until.as_second() }, "limit": PAGE,
        });
        if let Some(after) = after {
            query["starting_after"] = json!(after);
        }
        let list = self.get("/balance_transactions".to_owned(), query).await?;
        let items: Result<Vec<_>, _> = entries(&list)?.iter().map(balance_transaction).collect();
        Ok(ProviderPage { items: items?, has_more: list.get("has_more").and_then(Value::as_bool).unwrap_or(false) })
    }
}
