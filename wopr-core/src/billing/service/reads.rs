use diesel_async::AsyncPgConnection;

use super::Billing;
use crate::billing::error::BillingError;
use crate::billing::history::{BooksReport, History, HistoryQuery, Outlook};
use crate::billing::pricing;
use crate::billing::repository::{LedgerRepository, StatementRepository};
use crate::ids::TenantId;

impl Billing {
    /// What moved the tenant's wallet, newest first.
    ///
    /// # Errors
    /// [`BillingError::Storage`].
    pub async fn history(&self, tenant: TenantId, query: &HistoryQuery) -> Result<History, BillingError> {
        let mut conn = self.db.connection().await?;
        Ok(StatementRepository::new(&mut conn).history(tenant, query).await?)
    }

    /// What the tenant has, what it consumes a day, and how long the one lasts at the rate of the other.
    ///
    /// # Errors
    /// [`BillingError::Storage`].
    pub async fn outlook(&self, tenant: TenantId) -> Result<Outlook, BillingError> {
        let since = pricing::burn_window(self.clock.now());
        let mut conn = self.db.connection().await?;
        let balance = LedgerRepository::new(&mut conn).balance(tenant).await?;
        let consumed = StatementRepository::new(&mut conn).consumed_since(tenant, since).await?;
        let daily_burn = pricing::daily_burn(consumed)?;
        Ok(Outlook { balance, daily_burn, runway_days: pricing::runway_days(balance.available, daily_burn) })
    }

    /// Where a tenant is written to, in the caller's transaction.
    pub(crate) async fn contact_in(
        &self,
        conn: &mut AsyncPgConnection,
        tenant: TenantId,
    ) -> Result<Option<String>, BillingError> {
        Ok(LedgerRepository::new(conn).find_contact(tenant).await?)
    }

    /// Compares every wallet with its transfers and open holds, and every settled hold with what was posted for it.
    /// Differences are logged as errors. For a periodic task; reads everything, within ten minutes.
    ///
    /// # Errors
    /// [`BillingError::Storage`].
    pub async fn verify_books(&self) -> Result<BooksReport, BillingError> {
        let report = self
            .db
            .transaction(async |conn| StatementRepository::new(conn).verify().await)
            .await
            .map_err(|error: crate::db::DbError| BillingError::from(error))?;
        if report.is_balanced() {
            tracing::info!(wallets = report.wallets, "the books balance");
        } else {
            tracing::error!(
                wallets = report.differences.len(),
                captures = report.wrong_captures.len(),
                residue_nanos = report.residue.as_nanos(),
                "the books do not balance"
            );
        }
        for difference in &report.differences {
            tracing::error!(tenant.id = %difference.tenant_id, "a wallet differs from its rows: {difference:?}");
        }
        for hold in &report.wrong_captures {
            tracing::error!(hold.id = %hold, "what was posted for {hold} is not what it was settled at");
        }
        Ok(report)
    }
}
