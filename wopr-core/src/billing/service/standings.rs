use diesel_async::AsyncPgConnection;
use jiff::Timestamp;

use super::Billing;
use crate::audit::{self, AuditEntry, Origin, Resource};
use crate::billing::error::BillingError;
use crate::billing::mails;
use crate::billing::repository::{LedgerRepository, StandingRepository};
use crate::billing::standing::{Standing, StandingRecord, SuspensionReason};
use crate::ids::TenantId;
use crate::notify;

impl Billing {
    /// Whether the tenant may use the platform. A tenant that was never limited is active.
    ///
    /// # Errors
    /// [`BillingError::Storage`].
    pub async fn standing(&self, tenant: TenantId) -> Result<Standing, BillingError> {
        Ok(self.standing_record(tenant).await?.standing)
    }

    /// As [`Billing::standing`], with when and by whom it was changed.
    ///
    /// # Errors
    /// [`BillingError::Storage`].
    pub async fn standing_record(&self, tenant: TenantId) -> Result<StandingRecord, BillingError> {
        let mut conn = self.db.connection().await?;
        Ok(StandingRepository::new(&mut conn).get(tenant).await?)
    }

    /// Stops a tenant until an operator reactivates it, and mails it the reason if `tell`.
    ///
    /// # Errors
    /// [`BillingError::Transition`] if banned or destroyed, [`BillingError::TenantNotFound`],
    /// [`BillingError::Storage`].
    pub async fn suspend_tenant(
        &self,
        origin: &Origin,
        tenant: TenantId,
        reason: &str,
        tell: bool,
    ) -> Result<Standing, BillingError> {
        let at = self.clock.now();
        let cause = Cause { origin, note: Some(reason), tell };
        self.db
            .transaction(async |conn| {
                let suspend = |standing: Standing| standing.suspend(SuspensionReason::Admin);
                self.transition_in(conn, at, tenant, cause, suspend).await
            })
            .await
    }

    /// Lets a suspended tenant in again, whatever it was suspended for, and tells it if `tell`.
    ///
    /// # Errors
    /// As [`Billing::suspend_tenant`].
    pub async fn reactivate_tenant(
        &self,
        origin: &Origin,
        tenant: TenantId,
        tell: bool,
    ) -> Result<Standing, BillingError> {
        let at = self.clock.now();
        let cause = Cause { origin, note: None, tell };
        self.db.transaction(async |conn| self.transition_in(conn, at, tenant, cause, Standing::reactivate).await).await
    }

    /// Bans a tenant for good; its credit stays on the books. `confirmation` has to be `BAN {tenant}`.
    ///
    /// # Errors
    /// [`BillingError::NotConfirmed`], [`BillingError::Transition`] if destroyed, [`BillingError::TenantNotFound`],
    /// [`BillingError::Storage`].
    pub async fn ban_tenant(
        &self,
        origin: &Origin,
        tenant: TenantId,
        reason: &str,
        confirmation: &str,
    ) -> Result<Standing, BillingError> {
        if confirmation != format!("BAN {tenant}") {
            return Err(BillingError::NotConfirmed);
        }
        let at = self.clock.now();
        let cause = Cause { origin, note: Some(reason), tell: true };
        self.db
            .transaction(async |conn| self.transition_in(conn, at, tenant, cause, |standing| standing.ban(at)).await)
            .await
    }

    /// Moves on what time alone moves: grace that is over, retention that has ended. Answers how many tenants moved.
    /// For a periodic task.
    ///
    /// # Errors
    /// [`BillingError::Storage`]; tenants moved before it stay moved.
    pub async fn advance_standing(&self) -> Result<usize, BillingError> {
        let at = self.clock.now();
        let mut moved = 0;
        loop {
            let mut conn = self.db.connection().await?;
            let due = StandingRepository::new(&mut conn).list_due(at).await?;
            drop(conn);
            if due.is_empty() {
                return Ok(moved);
            }
            for tenant in due {
                let origin = Origin::system("standing");
                self.db
                    .transaction(async |conn| {
                        self.transition_in(conn, at, tenant, Cause::of(&origin), |standing| Ok(standing.pass_time(at)))
                            .await
                    })
                    .await?;
                moved += 1;
            }
        }
    }

    /// Stops a tenant whose payment is disputed; bans and operators' suspensions stay as they are.
    ///
    /// # Errors
    /// [`BillingError::TenantNotFound`], [`BillingError::Storage`].
    pub async fn suspend_for_dispute(&self, origin: &Origin, tenant: TenantId) -> Result<Standing, BillingError> {
        let at = self.clock.now();
        self.db.transaction(async |conn| self.suspend_for_dispute_in(conn, at, tenant, origin).await).await
    }

    /// Lifts the suspension that a dispute imposed, and no other: the dispute was won.
    ///
    /// # Errors
    /// As [`Billing::suspend_for_dispute`].
    pub async fn settle_dispute(&self, origin: &Origin, tenant: TenantId) -> Result<Standing, BillingError> {
        let at = self.clock.now();
        self.db.transaction(async |conn| self.settle_dispute_in(conn, at, tenant, origin).await).await
    }

    /// As [`Billing::suspend_for_dispute`], in the caller's transaction.
    pub(crate) async fn suspend_for_dispute_in(
        &self,
        conn: &mut AsyncPgConnection,
        at: Timestamp,
        tenant: TenantId,
        origin: &Origin,
    ) -> Result<Standing, BillingError> {
        self.transition_in(conn, at, tenant, Cause::of(origin), |standing| {
            Ok(standing.suspend(SuspensionReason::Dispute).unwrap_or(standing))
        })
        .await
    }

    /// As [`Billing::settle_dispute`], in the caller's transaction.
    pub(crate) async fn settle_dispute_in(
        &self,
        conn: &mut AsyncPgConnection,
        at: Timestamp,
        tenant: TenantId,
        origin: &Origin,
    ) -> Result<Standing, BillingError> {
        self.transition_in(conn, at, tenant, Cause::of(origin), |standing| Ok(standing.settle_dispute())).await
    }

    /// Locks the standing, lets `event` decide, and writes the transition with its history, audit entry and mail. An
    /// event that changes nothing leaves no trace.
    pub(super) async fn transition_in(
        &self,
        conn: &mut AsyncPgConnection,
        at: Timestamp,
        tenant: TenantId,
        cause: Cause<'_>,
        event: impl FnOnce(Standing) -> Result<Standing, BillingError> + Send,
    ) -> Result<Standing, BillingError> {
        let Cause { origin, note, tell } = cause;
        let mut standings = StandingRepository::new(conn);
        let from = standings.lock(at, tenant).await.map_err(|error| match error.violated_constraint() {
            Some("account_standings_tenant_id_fkey") => BillingError::TenantNotFound(tenant),
            _ => error.into(),
        })?;
        let from = from.standing;
        let to = event(from)?;
        if to == from {
            return Ok(to);
        }
        standings.save(at, tenant, (from, to), &origin.actor, note).await?;
        let mut entry = AuditEntry::success(origin, Some(tenant), action(to), Resource::new("tenant", tenant))
            .with("from", from.name())
            .with("to", to.name());
        if let Some(note) = note {
            entry = entry.with("reason", note);
        }
        audit::record_in(conn, at, &entry).await?;
        if let Some(recipient) = LedgerRepository::new(conn).find_contact(tenant).await?
            && let Some(mail) =
                mails::standing_changed(&recipient, &mails::Change { tenant, from, to, at, note, asked: tell })
        {
            notify::enqueue_in(conn, at, &mail).await?;
        }
        tracing::info!(tenant.id = %tenant, "tenant {tenant} went from {} to {}", from.name(), to.name());
        Ok(to)
    }
}

/// What a transition comes from.
#[derive(Clone, Copy)]
pub(super) struct Cause<'c> {
    origin: &'c Origin,
    /// What an operator gave as the reason.
    note: Option<&'c str>,
    /// Whether the tenant is to be told about what it is not always told.
    tell: bool,
}

impl<'c> Cause<'c> {
    /// Nothing more to say than who.
    pub(super) const fn of(origin: &'c Origin) -> Self {
        Self { origin, note: None, tell: false }
    }
}

fn action(to: Standing) -> &'static str {
    match to {
        Standing::Active => "tenant.reactivate",
        Standing::Grace { .. } => "tenant.grace",
        Standing::Suspended { .. } => "tenant.suspend",
        Standing::Banned { .. } => "tenant.ban",
        Standing::Destroying => "tenant.destroy",
    }
}
