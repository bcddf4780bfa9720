//! The provider's customer of a tenant, and what hangs on it: portal, saved payment methods, invoices.

pub(super) mod repository;

use self::repository::CustomerRepository;
use super::Payments;
use super::error::PaymentsError;
use super::ports::{IdempotencyKey, Invoice, NewCustomer, PaymentMethod};
use super::purchases::repository::FactsRepository;
use crate::audit::{self, AuditEntry, Origin, Resource};
use crate::ids::TenantId;

/// How many invoices are shown.
const INVOICES_SHOWN: u8 = 24;
/// The longest e-mail address, see RFC 5321 §4.5.3.1.
const MAX_EMAIL: usize = 254;

/// A saved payment method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedPaymentMethod {
    /// The method.
    pub method: PaymentMethod,
    /// Whether it is charged unless another is chosen.
    pub is_default: bool,
}

/// What a tenant sees of its billing account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BillingInfo {
    /// Where receipts and invoices go.
    pub email: Option<String>,
    /// The saved payment methods.
    pub payment_methods: Vec<SavedPaymentMethod>,
    /// The newest 24, newest first.
    pub invoices: Vec<Invoice>,
}

impl Payments {
    /// The provider's customer of the tenant, made if there is none.
    pub(super) async fn ensure_customer(&self, tenant: TenantId, email: Option<&str>) -> Result<String, PaymentsError> {
        let provider = self.provider()?;
        let now = self.clock.now();
        let mut conn = self.db.connection().await?;
        let mut customers = CustomerRepository::new(&mut conn);
        customers.ensure(now, tenant, email).await.map_err(|error| match error.violated_constraint() {
            Some("billing_customers_tenant_id_fkey") => PaymentsError::TenantNotFound,
            _ => error.into(),
        })?;
        let stored = customers.find(tenant).await?.ok_or(PaymentsError::TenantNotFound)?;
        drop(conn);
        if let Some(customer_id) = stored.customer_id {
            return Ok(customer_id);
        }
        let key = IdempotencyKey::customer(tenant, stored.generation);
        let made = provider.create_customer(&key, &NewCustomer { tenant_id: tenant, email: stored.email }).await?;
        let mut conn = self.db.connection().await?;
        let mut customers = CustomerRepository::new(&mut conn);
        if customers.link(self.clock.now(), tenant, &made.id).await? {
            return Ok(made.id);
        }
        // A webhook linked another one meanwhile: that one counts.
        let stored = customers.find(tenant).await?.and_then(|stored| stored.customer_id);
        stored.ok_or(PaymentsError::NoBillingAccount)
    }

    async fn customer(&self, tenant: TenantId) -> Result<Option<String>, PaymentsError> {
        let mut conn = self.db.connection().await?;
        Ok(CustomerRepository::new(&mut conn).find(tenant).await?.and_then(|stored| stored.customer_id))
    }

    /// Makes a page on which the tenant manages what is saved, and answers its address.
    ///
    /// # Errors
    /// [`PaymentsError::NoBillingAccount`], [`PaymentsError::RedirectNotAllowed`], [`PaymentsError::Disabled`],
    /// [`PaymentsError::Provider`], [`PaymentsError::Storage`].
    pub async fn portal(&self, tenant: TenantId, return_url: &str) -> Result<String, PaymentsError> {
        let provider = self.provider()?;
        self.config.redirects.check(return_url)?;
        let customer = self.customer(tenant).await?.ok_or(PaymentsError::NoBillingAccount)?;
        Ok(provider.create_portal_session(&customer, return_url).await?)
    }

    /// Begins saving a payment method, and answers the secret that the browser continues with. Makes the tenant's
    /// customer if there is none.
    ///
    /// # Errors
    /// [`PaymentsError::TenantNotFound`], [`PaymentsError::Disabled`], [`PaymentsError::Provider`],
    /// [`PaymentsError::Storage`].
    pub async fn setup_intent(&self, tenant: TenantId, email: Option<&str>) -> Result<String, PaymentsError> {
        let customer = self.ensure_customer(tenant, email).await?;
        Ok(self.provider()?.create_setup_intent(&customer, tenant).await?)
    }

    /// What is known of the tenant's billing account; an empty one if it has none.
    ///
    /// # Errors
    /// [`PaymentsError::Disabled`], [`PaymentsError::Provider`], [`PaymentsError::Storage`].
    pub async fn billing_info(&self, tenant: TenantId) -> Result<BillingInfo, PaymentsError> {
        let provider = self.provider()?;
        let mut conn = self.db.connection().await?;
        let stored = CustomerRepository::new(&mut conn).find(tenant).await?;
        drop(conn);
        let Some(stored) = stored else { return Ok(BillingInfo::default()) };
        let Some(customer_id) = stored.customer_id else {
            return Ok(BillingInfo { email: stored.email, ..BillingInfo::default() });
        };
        let Some(customer) = provider.find_customer(&customer_id).await? else {
            return Ok(BillingInfo { email: stored.email, ..BillingInfo::default() });
        };
        Ok(BillingInfo {
            email: customer.email.or(stored.email),
            payment_methods: self.payment_methods(&customer_id).await?,
            invoices: provider.list_invoices(&customer_id, INVOICES_SHOWN).await?,
        })
    }

    async fn payment_methods(&self, customer_id: &str) -> Result<Vec<SavedPaymentMethod>, PaymentsError> {
        let provider = self.provider()?;
        let methods = provider.list_payment_methods(customer_id).await?;
        let chosen = provider.default_payment_method(customer_id).await?;
        let newest = methods.iter().max_by_key(|method| method.created_at).map(|method| method.id.clone());
        let default = chosen.filter(|id| methods.iter().any(|method| method.id == *id)).or(newest);
        Ok(methods
            .into_iter()
            .map(|method| SavedPaymentMethod { is_default: default.as_ref() == Some(&method.id), method })
            .collect())
    }

    /// Changes where the provider's receipts and invoices go.
    ///
    /// # Errors
    /// [`PaymentsError::NoBillingAccount`], [`PaymentsError::InvalidEmail`], [`PaymentsError::Disabled`],
    /// [`PaymentsError::Provider`], [`PaymentsError::Storage`].
    pub async fn update_billing_email(
        &self,
        origin: &Origin,
        tenant: TenantId,
        email: &str,
    ) -> Result<String, PaymentsError> {
        let provider = self.provider()?;
        let email = email.trim();
        if !is_plausible_email(email) {
            return Err(PaymentsError::InvalidEmail);
        }
        let customer = self.customer(tenant).await?.ok_or(PaymentsError::NoBillingAccount)?;
        provider.update_customer_email(&customer, email).await?;
        let now = self.clock.now();
        self.db
            .transaction(async |conn| {
                CustomerRepository::new(conn).save_email(now, tenant, email).await?;
                let resource = Resource::new("billing_account", &customer);
                let entry = AuditEntry::success(origin, Some(tenant), "billing.update_email", resource);
                audit::record_in(conn, now, &entry).await?;
                Ok::<_, PaymentsError>(())
            })
            .await?;
        Ok(email.to_owned())
    }

    /// Removes a saved payment method. The last one stays while the tenant owes money or a payment is disputed.
    ///
    /// # Errors
    /// [`PaymentsError::PaymentMethodNotOwned`], [`PaymentsError::LastPaymentMethod`], [`PaymentsError::Disabled`],
    /// [`PaymentsError::Provider`], [`PaymentsError::Billing`], [`PaymentsError::Storage`].
    pub async fn remove_payment_method(
        &self,
        origin: &Origin,
        tenant: TenantId,
        id: &str,
    ) -> Result<(), PaymentsError> {
        let provider = self.provider()?;
        let name = id.strip_prefix("pm_").unwrap_or_default();
        let plausible = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let customer = self.customer(tenant).await?.filter(|_| plausible);
        let customer = customer.ok_or(PaymentsError::PaymentMethodNotOwned)?;
        let method = provider.find_payment_method(id).await?;
        if method.is_none_or(|method| method.customer_id.as_deref() != Some(customer.as_str())) {
            return Err(PaymentsError::PaymentMethodNotOwned);
        }
        if provider.list_payment_methods(&customer).await?.len() <= 1 {
            let owes = self.billing.balance(tenant).await?.balance.is_negative();
            let mut conn = self.db.connection().await?;
            if owes || FactsRepository::new(&mut conn).has_open_dispute(tenant).await? {
                return Err(PaymentsError::LastPaymentMethod);
            }
        }
        provider.detach_payment_method(id).await?;
        let now = self.clock.now();
        let mut conn = self.db.connection().await?;
        let resource = Resource::new("payment_method", id);
        let entry = AuditEntry::success(origin, Some(tenant), "billing.remove_payment_method", resource);
        Ok(audit::record_in(&mut conn, now, &entry).await?)
    }

    /// Removes every saved payment method of a tenant, for one that is banned; answers how many.
    ///
    /// # Errors
    /// [`PaymentsError::Disabled`], [`PaymentsError::Provider`], [`PaymentsError::Storage`].
    pub async fn remove_all_payment_methods(&self, origin: &Origin, tenant: TenantId) -> Result<usize, PaymentsError> {
        let provider = self.provider()?;
        let Some(customer) = self.customer(tenant).await? else { return Ok(0) };
        let mut removed = 0;
        loop {
            // Always the first page: what is behind it moves up.
            let methods = provider.list_payment_methods(&customer).await?;
            if methods.is_empty() {
                break;
            }
            for method in methods {
                provider.detach_payment_method(&method.id).await?;
                removed += 1;
            }
        }
        let mut conn = self.db.connection().await?;
        let resource = Resource::new("billing_account", &customer);
        let entry = AuditEntry::success(origin, Some(tenant), "billing.remove_all_payment_methods", resource)
            .with("removed", removed);
        audit::record_in(&mut conn, self.clock.now(), &entry).await?;
        Ok(removed)
    }
}

fn is_plausible_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let clean = text.len() <= MAX_EMAIL && !text.chars().any(|c| c.is_whitespace() || c.is_control());
    clean && !local.is_empty() && domain.contains('.') && !domain.starts_with('.') && !domain.ends_with('.')
}
