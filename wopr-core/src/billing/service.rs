//! The handle: one method per use case.

mod admin;
mod charges;
mod holds;
mod leases;
mod reads;
mod standings;

pub use self::admin::{AdminCredit, AdminOperation};
pub use self::charges::DayCharge;
pub use self::leases::Spent;
use self::standings::Cause;

use std::collections::HashSet;

use diesel_async::AsyncPgConnection;
use jiff::{SignedDuration, Timestamp};

use super::error::BillingError;
use super::ledger::{Account, Balance, Posted, Transfer, TransferKind};
use super::pricing::{RUNTIME_PER_DAY, SIGNUP_GRANT};
use super::repository::{LedgerRepository, StandingRepository};
use super::signup::email_digest;
use crate::audit::{Actor, Origin};
use crate::clock::SharedClock;
use crate::db::Db;
use crate::ids::TenantId;
use crate::money::Money;

/// What an operator may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BillingConfig {
    /// Credit for a verified new customer; nothing turns it off.
    pub signup_grant: Money,
    /// Whether aliases of one mailbox (`name+anything@`, dots at Gmail) count as one address for the signup grant.
    pub fold_email_aliases: bool,
    /// How long a hold lives unless it is extended.
    pub hold_lifetime: SignedDuration,
}

impl Default for BillingConfig {
    /// 5 dollars, aliases folded, ten minutes.
    fn default() -> Self {
        Self { signup_grant: SIGNUP_GRANT, fold_email_aliases: true, hold_lifetime: SignedDuration::from_mins(10) }
    }
}

/// Prepaid credit. Cheap to clone.
#[derive(Clone)]
pub struct Billing {
    db: Db,
    clock: SharedClock,
    config: BillingConfig,
}

impl std::fmt::Debug for Billing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Billing").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Billing {
    /// Billing on `db`, at the time of `clock`.
    pub fn new(db: Db, clock: SharedClock, config: BillingConfig) -> Self {
        Self { db, clock, config }
    }

    /// Makes a tenant, for a host with customers of its own; one that exists stays as it is. A user who signed up
    /// has one already. `name` has 1 to 256 characters.
    ///
    /// # Errors
    /// [`BillingError::Storage`], also for a name that is too short or too long.
    pub async fn open_account(&self, tenant: TenantId, name: &str) -> Result<(), BillingError> {
        let mut conn = self.db.connection().await?;
        Ok(LedgerRepository::new(&mut conn).insert_tenant(self.clock.now(), tenant, name).await?)
    }

    /// What the tenant has. A tenant nothing was ever posted for has nothing.
    ///
    /// # Errors
    /// [`BillingError::Storage`].
    pub async fn balance(&self, tenant: TenantId) -> Result<Balance, BillingError> {
        let mut conn = self.db.connection().await?;
        Ok(LedgerRepository::new(&mut conn).balance(tenant).await?)
    }

    /// Those of the reference keys under which something is in the ledger.
    ///
    /// # Errors
    /// [`BillingError::Storage`].
    pub async fn find_posted(&self, keys: &[&str]) -> Result<HashSet<String>, BillingError> {
        let mut conn = self.db.connection().await?;
        Ok(LedgerRepository::new(&mut conn).find_by_keys(keys).await?.into_keys().collect())
    }

    /// Posts all of `transfers` or none, each at most once by its reference key, and answers for each, in order, what
    /// the ledger now holds.
    ///
    /// # Errors
    /// [`BillingError::InsufficientCredit`] when an ordinary debit is not covered, [`BillingError::KeyConflict`] when
    /// a key stands for something else, [`BillingError::InvalidTransfer`], [`BillingError::TenantNotFound`],
    /// [`BillingError::Storage`].
    pub async fn post(&self, transfers: &[Transfer]) -> Result<Vec<Posted>, BillingError> {
        let at = self.clock.now();
        // One statement is atomic by itself. A repeated key needs a second look, but it changes nothing either.
        let single_debit = matches!(transfers, [transfer] if transfer.credit.tenant().is_none());
        if single_debit {
            let mut conn = self.db.connection().await?;
            return self.post_in(&mut conn, at, transfers).await;
        }
        self.db.transaction(async |conn| self.post_in(conn, at, transfers).await).await
    }

    /// As [`Billing::post`], in the caller's transaction. A wallet that becomes positive loses the limits that lack of
    /// credit imposed on its tenant.
    ///
    /// An error leaves the transaction unusable: return it, so that all is rolled back.
    pub(crate) async fn post_in(
        &self,
        conn: &mut AsyncPgConnection,
        at: Timestamp,
        transfers: &[Transfer],
    ) -> Result<Vec<Posted>, BillingError> {
        transfers.iter().try_for_each(Transfer::check)?;
        let posted = LedgerRepository::new(conn).post(at, transfers).await?;
        let mut credited: Vec<TenantId> =
            posted.iter().filter(|posted| posted.fresh).filter_map(|posted| posted.credit.tenant()).collect();
        credited.sort_unstable();
        credited.dedup();
        if !credited.is_empty() {
            for tenant in StandingRepository::new(conn).list_refilled(&credited).await? {
                let origin = Origin::system("ledger");
                self.transition_in(conn, at, tenant, Cause::of(&origin), |standing| Ok(standing.refill())).await?;
            }
        }
        Ok(posted)
    }

    /// Gives a verified new customer the configured credit; what was given before is not given again.
    ///
    /// # Errors
    /// [`BillingError::TenantNotFound`], [`BillingError::Storage`].
    pub async fn grant_signup(&self, tenant: TenantId, verified_email: &str) -> Result<(), BillingError> {
        let at = self.clock.now();
        self.db.transaction(async |conn| self.grant_signup_in(conn, at, tenant, verified_email).await).await
    }

    /// Refuses to create or start a bot for a tenant that is not allowed to, or cannot pay its first day.
    ///
    /// # Errors
    /// [`BillingError::InsufficientCredit`], [`BillingError::AccountSuspended`], [`BillingError::AccountBanned`],
    /// [`BillingError::Storage`].
    pub async fn require_runtime_credit(&self, tenant: TenantId) -> Result<(), BillingError> {
        let mut conn = self.db.connection().await?;
        self.require_runtime_credit_in(&mut conn, tenant).await
    }

    /// Gives a verified new customer the configured credit: once for the tenant, and once for the address. The address
    /// becomes the one that mails about credit go to.
    pub(crate) async fn grant_signup_in(
        &self,
        conn: &mut AsyncPgConnection,
        at: Timestamp,
        tenant: TenantId,
        verified_email: &str,
    ) -> Result<(), BillingError> {
        let mut ledger = LedgerRepository::new(conn);
        ledger.save_contact(at, tenant, verified_email).await?;
        if !self.config.signup_grant.is_positive() {
            return Ok(());
        }
        let digest = email_digest(verified_email, self.config.fold_email_aliases);
        if !ledger.claim_signup_grant(at, tenant, &digest).await? {
            return Ok(());
        }
        let grant = Transfer::to_wallet(
            format!("signup:{tenant}"),
            TransferKind::SignupGrant,
            tenant,
            self.config.signup_grant,
            Actor::System("signup"),
        )
        .described("Welcome credit");
        self.post_in(conn, at, &[grant]).await?;
        Ok(())
    }

    /// As [`Billing::require_runtime_credit`], in the caller's transaction.
    pub(crate) async fn require_runtime_credit_in(
        &self,
        conn: &mut AsyncPgConnection,
        tenant: TenantId,
    ) -> Result<(), BillingError> {
        StandingRepository::new(conn).get(tenant).await?.standing.require_usable()?;
        let available = LedgerRepository::new(conn).balance(tenant).await?.available;
        if available < RUNTIME_PER_DAY {
            return Err(BillingError::InsufficientCredit { available, required: RUNTIME_PER_DAY });
        }
        Ok(())
    }
}

/// The sum of what `transfers` take out of the tenant's wallet.
fn total_debit(transfers: &[Transfer], tenant: TenantId) -> Result<Money, BillingError> {
    let mut total = Money::ZERO;
    for transfer in transfers.iter().filter(|transfer| transfer.debit == Account::Wallet(tenant)) {
        total = total.try_add(transfer.amount)?;
    }
    Ok(total)
}
