//! Selling a pack: the intent is stored, then the hosted page is made, then its id is stored.

pub(super) mod repository;

use self::repository::CheckoutRepository;
use super::Payments;
use super::error::PaymentsError;
use super::ports::{CheckoutPage, IdempotencyKey, NewCheckout};
use crate::audit::{self, AuditEntry, Origin, Resource};
use crate::ids::{CheckoutId, TenantId};

/// What somebody wants to buy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckoutRequest {
    /// The provider's id of a pack's price.
    pub price_id: String,
    /// Where the payer goes after paying.
    pub success_url: String,
    /// Where the payer goes without paying.
    pub cancel_url: String,
}

impl Payments {
    /// Makes a hosted page on which the tenant pays one pack. `email` is where the provider may write to, if it is to
    /// make a customer for the tenant.
    ///
    /// # Errors
    /// [`PaymentsError::UnknownPrice`], [`PaymentsError::RedirectNotAllowed`], [`PaymentsError::TenantNotFound`],
    /// [`PaymentsError::Disabled`], [`PaymentsError::Provider`], [`PaymentsError::Storage`].
    pub async fn checkout(
        &self,
        origin: &Origin,
        tenant: TenantId,
        email: Option<&str>,
        request: &CheckoutRequest,
    ) -> Result<CheckoutPage, PaymentsError> {
        let provider = self.provider()?;
        self.config.redirects.check(&request.success_url)?;
        self.config.redirects.check(&request.cancel_url)?;
        let pack = self.config.prices.find(&request.price_id).ok_or(PaymentsError::UnknownPrice)?;
        let customer_id = self.ensure_customer(tenant, email).await?;

        let now = self.clock.now();
        let checkout_id = CheckoutId::new(now);
        let mut conn = self.db.connection().await?;
        CheckoutRepository::new(&mut conn).insert(now, checkout_id, tenant, pack).await?;
        drop(conn);

        let wanted = NewCheckout {
            checkout_id,
            tenant_id: tenant,
            customer_id,
            price_id: pack.price_id.clone(),
            success_url: request.success_url.clone(),
            cancel_url: request.cancel_url.clone(),
        };
        let page = match provider.create_checkout(&IdempotencyKey::checkout(checkout_id), &wanted).await {
            Ok(page) => page,
            Err(error) => {
                // A page that was made although we were not told is still credited: it carries the tenant itself.
                let mut conn = self.db.connection().await?;
                CheckoutRepository::new(&mut conn).mark_failed(self.clock.now(), checkout_id).await?;
                return Err(error.into());
            }
        };
        let now = self.clock.now();
        self.db
            .transaction(async |conn| {
                CheckoutRepository::new(conn).mark_open(now, checkout_id, &page.session_id).await?;
                let resource = Resource::new("checkout", &page.session_id);
                let entry = AuditEntry::success(origin, Some(tenant), "billing.checkout", resource)
                    .with("price", pack.price_id.as_str())
                    .with("charged_cents", pack.charged_cents);
                audit::record_in(conn, now, &entry).await?;
                Ok::<_, PaymentsError>(())
            })
            .await?;
        Ok(page)
    }
}
