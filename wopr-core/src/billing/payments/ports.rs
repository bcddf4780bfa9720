//! What is needed of a payment provider, in our own words.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::ids::{CheckoutId, TenantId};

/// The longest a call to the provider may take.
pub const PROVIDER_TIMEOUT: Duration = Duration::from_secs(10);

/// Names an intent, so that the provider carries it out once however often it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The longest key: the provider takes no more, see <https://docs.stripe.com/api/idempotent_requests>.
    pub const MAX_LENGTH: usize = 255;

    /// The `generation`-th customer that is made for a tenant.
    pub fn customer(tenant: TenantId, generation: i32) -> Self {
        match generation {
            0 => Self(format!("customer:{tenant}")),
            later => Self(format!("customer:{tenant}:{later}")),
        }
    }

    /// A checkout that was stored.
    pub fn checkout(checkout: CheckoutId) -> Self {
        Self(format!("checkout:{checkout}"))
    }

    /// A refund, by the operation that asked for it; `None` when that name is empty or too long.
    pub fn refund(operation: &str) -> Option<Self> {
        let key = format!("refund:{operation}");
        (!operation.is_empty() && key.len() <= Self::MAX_LENGTH).then_some(Self(key))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why the provider did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// It knows no such object.
    #[error("the payment provider knows no such object")]
    NotFound,
    /// It refused the request; asking again changes nothing.
    #[error("the payment provider refused the request: {message}")]
    Refused {
        /// Its machine-readable reason, such as `card_declined`.
        code: Option<String>,
        /// What it says about it.
        message: String,
    },
    /// It does not accept our credentials.
    #[error("the payment provider does not accept the secret key")]
    Unauthorized,
    /// It could not be reached, did not answer in time, is busy or broken. Whether it acted is unknown; the same
    /// idempotency key finds out.
    #[error("the payment provider cannot be reached: {0}")]
    Unavailable(String),
    /// Its answer could not be understood.
    #[error("the payment provider's answer was not understood: {0}")]
    Protocol(String),
}

impl ProviderError {
    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Protocol(_) | Self::Unauthorized => true,
            Self::NotFound | Self::Refused { .. } => false,
        }
    }
}

/// A customer to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCustomer {
    /// Whom it stands for.
    pub tenant_id: TenantId,
    /// Where the provider may write to.
    pub email: Option<String>,
}

/// One of the provider's customers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    /// The provider's id.
    pub id: String,
    /// Where the provider writes to.
    pub email: Option<String>,
}

/// A hosted page to be made, on which one pack is paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCheckout {
    /// Our id of it.
    pub checkout_id: CheckoutId,
    /// Who gets the credit.
    pub tenant_id: TenantId,
    /// The provider's customer, who pays.
    pub customer_id: String,
    /// The provider's id of the price.
    pub price_id: String,
    /// Where the payer goes after paying.
    pub success_url: String,
    /// Where the payer goes without paying.
    pub cancel_url: String,
}

/// A hosted page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckoutPage {
    /// The provider's id of the session, `cs_…`.
    pub session_id: String,
    /// Where to pay.
    pub url: String,
}

/// What a checkout session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckoutMode {
    /// One payment.
    Payment,
    /// Saving a payment method, or a subscription.
    Other,
}

/// Whether a checkout session's money has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckoutPayment {
    /// It has.
    Paid,
    /// It has not, or not yet: delayed methods complete unpaid.
    Unpaid,
    /// Nothing had to be paid.
    NotRequired,
}

/// A checkout session as the provider tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckoutSession {
    /// `cs_…`.
    pub id: String,
    /// What it is for.
    pub mode: CheckoutMode,
    /// Whether its money has arrived.
    pub payment: CheckoutPayment,
    /// All that was paid, taxes included, in the currency's smallest unit.
    pub amount_total: i64,
    /// The taxes in it.
    pub amount_tax: i64,
    /// ISO 4217 in lower case.
    pub currency: String,
    /// Our reference, given at its creation.
    pub client_reference_id: Option<String>,
    /// The provider's customer; a payer without an account has none.
    pub customer_id: Option<String>,
    /// What the payer typed.
    pub customer_email: Option<String>,
    /// `pi_…`, once there is one.
    pub payment_intent_id: Option<String>,
    /// `metadata.wopr_tenant`.
    pub tenant: Option<String>,
    /// `metadata.wopr_purchase_type`.
    pub purchase_type: Option<String>,
    /// `metadata.wopr_checkout`.
    pub checkout: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A payment as the provider tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentIntent {
    /// `pi_…`.
    pub id: String,
    /// What was received, in the currency's smallest unit.
    pub amount_received: i64,
    /// ISO 4217 in lower case.
    pub currency: String,
    /// The provider's customer.
    pub customer_id: Option<String>,
    /// `metadata.wopr_tenant`: only a payment that no checkout announces carries it.
    pub tenant: Option<String>,
    /// `metadata.wopr_checkout_tenant`: a payment that its checkout session announces.
    pub checkout_tenant: Option<String>,
    /// Whether the money has arrived.
    pub succeeded: bool,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A charge as the provider tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// `ch_…`.
    pub id: String,
    /// The payment it belongs to.
    pub payment_intent_id: Option<String>,
    /// In the currency's smallest unit.
    pub amount: i64,
    /// ISO 4217 in lower case.
    pub currency: String,
}

/// A refund as the provider tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refund {
    /// `re_…`.
    pub id: String,
    /// The payment it gives back.
    pub payment_intent_id: Option<String>,
    /// The charge it gives back.
    pub charge_id: Option<String>,
    /// In the currency's smallest unit.
    pub amount: i64,
    /// ISO 4217 in lower case.
    pub currency: String,
    /// Whether it failed or was taken back: nothing is given back.
    pub failed: bool,
    /// When it was made.
    pub created_at: Timestamp,
}

/// How far a dispute is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisputeState {
    /// An inquiry or a prevented dispute: no money has moved.
    Inquiry,
    /// The money was withdrawn until it is decided.
    Open,
    /// Decided for us: the money came back.
    Won,
    /// Decided against us.
    Lost,
}

/// A dispute as the provider tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispute {
    /// `dp_…` or `du_…`.
    pub id: String,
    /// The disputed payment.
    pub payment_intent_id: Option<String>,
    /// The disputed charge.
    pub charge_id: Option<String>,
    /// In the currency's smallest unit.
    pub amount: i64,
    /// ISO 4217 in lower case.
    pub currency: String,
    /// How far it is.
    pub state: DisputeState,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A saved payment method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentMethod {
    /// `pm_…`.
    pub id: String,
    /// Whose it is.
    pub customer_id: Option<String>,
    /// A card's brand, or the kind of the method.
    pub brand: String,
    /// A card's last four digits.
    pub last4: Option<String>,
    /// A card's last valid month, 1–12.
    pub expiry_month: Option<i64>,
    /// A card's last valid year.
    pub expiry_year: Option<i64>,
    /// When it was saved.
    pub created_at: Timestamp,
}

/// An invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoice {
    /// `in_…`.
    pub id: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// In the currency's smallest unit.
    pub amount_due: i64,
    /// Such as `paid`.
    pub status: Option<String>,
    /// Its PDF.
    pub download_url: Option<String>,
}

/// Why the provider's balance moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BalanceKind {
    /// A customer paid.
    Payment,
    /// A refund.
    Refund,
    /// A refund that failed: the money came back.
    RefundFailure,
    /// A dispute withdrew money, or gave it back.
    Dispute,
    /// Money went to or came from our bank.
    Payout,
    /// A fee that is not part of a payment.
    Fee,
    /// Something else.
    Other,
}

/// One movement of the provider's balance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalanceTransaction {
    /// `txn_…`.
    pub id: String,
    /// Why.
    pub kind: BalanceKind,
    /// Signed, before the fee, in the currency's smallest unit.
    pub amount: i64,
    /// What the provider keeps of it.
    pub fee: i64,
    /// `amount − fee`.
    pub net: i64,
    /// ISO 4217 in lower case.
    pub currency: String,
    /// The charge, refund, dispute or payout.
    pub source_id: Option<String>,
    /// When.
    pub created_at: Timestamp,
}

/// A part of a long list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderPage<T> {
    /// In the provider's order, newest first.
    pub items: Vec<T>,
    /// Whether there are more after the last.
    pub has_more: bool,
}

/// A payment provider. Every method ends within [`PROVIDER_TIMEOUT`].
///
/// What moves money or makes something that lasts takes an [`IdempotencyKey`]. The rest may be asked for again without harm,
/// and a key would do some: an address that is changed back within a day would stay as it was. Changing an address and
/// removing a payment method twice leaves what once leaves; a set-up or a portal page that nobody continues with ends by
/// itself.
#[async_trait]
pub trait PaymentProvider: Send + Sync + 'static {
    /// Makes a customer, once per key.
    async fn create_customer(&self, key: &IdempotencyKey, new: &NewCustomer) -> Result<Customer, ProviderError>;
    /// Reads a customer; one that was deleted is not found.
    async fn find_customer(&self, id: &str) -> Result<Option<Customer>, ProviderError>;
    /// Changes where the provider writes to.
    async fn update_customer_email(&self, id: &str, email: &str) -> Result<Customer, ProviderError>;
    /// The customer's chosen payment method.
    async fn default_payment_method(&self, customer_id: &str) -> Result<Option<String>, ProviderError>;
    /// Makes a hosted page on which one pack is paid, once per key.
    async fn create_checkout(&self, key: &IdempotencyKey, new: &NewCheckout) -> Result<CheckoutPage, ProviderError>;
    /// Reads a checkout session.
    async fn get_checkout(&self, id: &str) -> Result<CheckoutSession, ProviderError>;
    /// The checkout session that a payment belongs to.
    async fn find_checkout_of_payment(&self, payment: &str) -> Result<Option<CheckoutSession>, ProviderError>;
    /// Reads a payment.
    async fn get_payment(&self, id: &str) -> Result<PaymentIntent, ProviderError>;
    /// Reads a charge.
    async fn get_charge(&self, id: &str) -> Result<Charge, ProviderError>;
    /// Reads a refund.
    async fn get_refund(&self, id: &str) -> Result<Refund, ProviderError>;
    /// The newest hundred refunds of a charge.
    async fn list_refunds(&self, charge_id: &str) -> Result<Vec<Refund>, ProviderError>;
    /// Reads a dispute.
    async fn get_dispute(&self, id: &str) -> Result<Dispute, ProviderError>;
    /// Gives money of a payment back, once per key: `amount` in its currency's smallest unit, or all that is left.
    async fn refund(&self, key: &IdempotencyKey, payment: &str, amount: Option<i64>) -> Result<Refund, ProviderError>;
    /// Begins saving a payment method; answers the secret that the browser continues with.
    async fn create_setup_intent(&self, customer_id: &str, tenant: TenantId) -> Result<String, ProviderError>;
    /// The newest hundred payment methods of a customer.
    async fn list_payment_methods(&self, customer_id: &str) -> Result<Vec<PaymentMethod>, ProviderError>;
    /// Reads a payment method.
    async fn find_payment_method(&self, id: &str) -> Result<Option<PaymentMethod>, ProviderError>;
    /// Removes a payment method from its customer.
    async fn detach_payment_method(&self, id: &str) -> Result<(), ProviderError>;
    /// Makes a page on which a customer manages what is saved, and answers its address.
    async fn create_portal_session(&self, customer_id: &str, return_url: &str) -> Result<String, ProviderError>;
    /// The newest `limit` invoices of a customer, 100 at most.
    async fn list_invoices(&self, customer_id: &str, limit: u8) -> Result<Vec<Invoice>, ProviderError>;
    /// What moved the provider's balance from `since` up to but not at `until`, newest first, after the one named
    /// `after`; 100 at most.
    async fn list_balance_transactions(
        &self,
        since: Timestamp,
        until: Timestamp,
        after: Option<&str>,
    ) -> Result<ProviderPage<BalanceTransaction>, ProviderError>;
}
