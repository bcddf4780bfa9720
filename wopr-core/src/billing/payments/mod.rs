//! Payments: how money from outside becomes credit, and leaves again.
//!
//! - Nothing paid is dropped. A verified webhook is kept before it is answered, and processed after; what fails is
//!   tried again, and what keeps failing stays visible. Money that names no tenant becomes an [`UnmatchedPayment`].
//! - Facts are stored and the ledger follows from them: however often and in whatever order a payment, its refunds and
//!   its disputes are told, the same transfers are posted, each once.
//! - No call to the provider happens inside a transaction. What is wanted is stored first, and carries the key that
//!   makes asking again harmless.
//!
//! [`Payments`] is the handle; without a [`PaymentProvider`] every use case answers [`PaymentsError::Disabled`].

mod checkout;
mod customers;
mod error;
pub(crate) mod inbox;
mod ports;
mod pricing;
mod purchases;
mod reconcile;
mod redirect;

use std::sync::Arc;

use secrecy::SecretString;

pub use self::checkout::CheckoutRequest;
pub use self::customers::{BillingInfo, SavedPaymentMethod};
pub use self::error::PaymentsError;
pub use self::inbox::{DeadEvent, Received, TOLERANCE_SECONDS};
pub use self::ports::{
    BalanceKind, BalanceTransaction, Charge, CheckoutMode, CheckoutPage, CheckoutPayment, CheckoutSession, Customer,
    Dispute, DisputeState, IdempotencyKey, Invoice, NewCheckout, NewCustomer, PROVIDER_TIMEOUT, PaymentIntent,
    PaymentMethod, PaymentProvider, ProviderError, ProviderPage, Refund,
};
pub use self::pricing::{Credit, PACKS, Pack, PriceList};
pub use self::purchases::{UnmatchedPayment, UnmatchedReason};
pub use self::reconcile::{Difference, Reconciliation};
pub use self::redirect::RedirectOrigins;
use crate::billing::Billing;
use crate::clock::SharedClock;
use crate::db::Db;

/// What an operator chooses.
#[derive(Debug, Clone, Default)]
pub struct PaymentsConfig {
    /// The secrets that webhooks may be signed with, each as the provider shows it, `whsec_` included.
    pub webhook_secrets: Vec<SecretString>,
    /// What is on sale.
    pub prices: PriceList,
    /// Where payers may be sent back to.
    pub redirects: RedirectOrigins,
    /// Who is told about money that cannot be credited without a person.
    pub operator_email: Option<String>,
}

/// Payments. Cheap to clone.
#[derive(Clone)]
pub struct Payments {
    db: Db,
    clock: SharedClock,
    billing: Billing,
    provider: Option<Arc<dyn PaymentProvider>>,
    config: Arc<PaymentsConfig>,
}

impl std::fmt::Debug for Payments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payments").field("enabled", &self.is_enabled()).finish_non_exhaustive()
    }
}

impl Payments {
    /// Payments through `provider`. Without one, or without a webhook secret, nothing can be bought: a purchase that
    /// nobody could announce would be paid and not credited.
    pub fn new(
        db: Db,
        clock: SharedClock,
        billing: Billing,
        provider: Option<Arc<dyn PaymentProvider>>,
        config: PaymentsConfig,
    ) -> Self {
        if provider.is_some() && config.webhook_secrets.is_empty() {
            tracing::error!("there is no webhook secret: payments are off");
        }
        Self { db, clock, billing, provider, config: Arc::new(config) }
    }

    /// Whether anything can be bought.
    pub fn is_enabled(&self) -> bool {
        self.provider.is_some() && !self.config.webhook_secrets.is_empty()
    }

    /// The packs on sale, cheapest first; none while payments are off.
    pub fn packs(&self) -> &[Pack] {
        if self.is_enabled() { self.config.prices.packs() } else { &[] }
    }

    fn provider(&self) -> Result<&dyn PaymentProvider, PaymentsError> {
        match &self.provider {
            Some(provider) if self.is_enabled() => Ok(provider.as_ref()),
            _ => Err(PaymentsError::Disabled),
        }
    }
}
