//! Selling a pack: the intent is stored, then the hosted page is made, then its id is stored.

pub(super) mod repository;

use jiff::{SignedDuration, Timestamp};

use self::repository::CheckoutRepository;
use super::Payments;
use super::error::PaymentsError;
use super::ports::{CheckoutPage, IdempotencyKey, NewCheckout, PROVIDER_TIMEOUT};
use crate::audit::{self, AuditEntry, Origin, Resource};
use crate::ids::{CheckoutId, TenantId};

/// Who is making a checkout has noted how it ended within 30 seconds: the provider is asked once, which ends within a
/// [`PROVIDER_TIMEOUT`], and the rest is for the database. Who takes longer does no harm, as both ask under one key.
const MAKING: SignedDuration = SignedDuration::from_secs(3 * PROVIDER_TIMEOUT.as_secs().cast_signed());
/// How long the provider remembers a key, less an hour: it forgets after 24,
/// <https://docs.stripe.com/api/idempotent_requests>, and then asking again makes another page.
const KEY_MEMORY: SignedDuration = SignedDuration::from_hours(23);

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
        let wanted = NewCheckout {
            checkout_id: CheckoutId::new(now),
            tenant_id: tenant,
            customer_id,
            price_id: pack.price_id.clone(),
            success_url: request.success_url.clone(),
            cancel_url: request.cancel_url.clone(),
        };
        let checkout_id = wanted.checkout_id;
        let mut conn = self.db.connection().await?;
        CheckoutRepository::new(&mut conn).insert(now, &wanted, pack).await?;
        drop(conn);

        let page = match provider.create_checkout(&IdempotencyKey::checkout(checkout_id), &wanted).await {
            Ok(page) => page,
            Err(error) => {
                // A page that was made although we were not told is still credited: it carries the tenant itself.
                let mut conn = self.db.connection().await?;
                CheckoutRepository::new(&mut conn).mark_failed(self.clock.now(), checkout_id).await?;
                return Err(error.into());
            }
        };
        self.note_page(origin, &wanted, pack.charged_cents, &page).await?;
        Ok(page)
    }

    /// Finds out what became of the checkouts whose making was cut off, by asking for them again under the same key, and
    /// notes it; answers how many those were. Nobody was sent to their pages, which expire like any that is not paid. For
    /// a periodic task.
    ///
    /// # Errors
    /// [`PaymentsError::Storage`]; [`PaymentsError::Provider`] when it cannot say: the rest waits for the next run.
    pub async fn finish_checkouts(&self) -> Result<usize, PaymentsError> {
        let Ok(provider) = self.provider() else { return Ok(0) };
        let now = self.clock.now();
        let mut conn = self.db.connection().await?;
        let before = now.saturating_sub(MAKING).unwrap_or(Timestamp::MIN);
        let unfinished = CheckoutRepository::new(&mut conn).list_unfinished(before).await?;
        drop(conn);
        let origin = Origin::system("checkout-finisher");
        let count = unfinished.len();
        for checkout in unfinished {
            let remembered = now.duration_since(checkout.created_at) < KEY_MEMORY;
            let made = match checkout.request.filter(|_| remembered) {
                Some(request) => {
                    match provider.create_checkout(&IdempotencyKey::checkout(checkout.id), &request).await {
                        Ok(page) => Some((request, page)),
                        Err(error) if error.is_transient() => return Err(error.into()),
                        Err(error) => {
                            tracing::warn!(checkout.id = %checkout.id, "a checkout that was cut off has no page: {error}");
                            None
                        }
                    }
                }
                None => None,
            };
            if let Some((request, page)) = made {
                self.note_page(&origin, &request, checkout.charged_cents, &page).await?;
            } else {
                let mut conn = self.db.connection().await?;
                CheckoutRepository::new(&mut conn).mark_failed(self.clock.now(), checkout.id).await?;
            }
        }
        Ok(count)
    }

    async fn note_page(
        &self,
        origin: &Origin,
        request: &NewCheckout,
        charged_cents: i64,
        page: &CheckoutPage,
    ) -> Result<(), PaymentsError> {
        let now = self.clock.now();
        self.db
            .transaction(async |conn| {
                if CheckoutRepository::new(conn).mark_open(now, request.checkout_id, &page.session_id).await? {
                    let resource = Resource::new("checkout", &page.session_id);
                    let entry = AuditEntry::success(origin, Some(request.tenant_id), "billing.checkout", resource)
                        .with("price", request.price_id.as_str())
                        .with("charged_cents", charged_cents);
                    audit::record_in(conn, now, &entry).await?;
                }
                Ok(())
            })
            .await
    }
}
