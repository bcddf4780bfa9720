use super::Billing;
use crate::audit::{self, AuditEntry, Origin, Resource};
use crate::billing::error::BillingError;
use crate::billing::history::Entry;
use crate::billing::ledger::{Account, PlatformAccount, Transfer, TransferKind};
use crate::billing::repository::{LedgerRepository, StatementRepository};
use crate::db::DbError;
use crate::ids::{TenantId, TransferId};
use crate::money::Money;

/// What an operator does to a tenant's credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminCredit {
    /// Gives credit.
    Grant(Money),
    /// Takes credit whose price was returned outside; not more than is available.
    Refund(Money),
    /// Puts a mistake right: more credit above zero, less below, even below an empty wallet.
    Correction(Money),
}

/// An operator's change of a tenant's credit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminOperation {
    /// Chosen by the client: the same operation twice is done once. Without one, a repetition is a second operation.
    pub operation_id: Option<String>,
    /// Whose credit.
    pub tenant_id: TenantId,
    /// What.
    pub credit: AdminCredit,
    /// Why; shown to the customer.
    pub reason: String,
}

impl Billing {
    /// Changes a tenant's credit, and writes who did it and why into the audit log.
    ///
    /// # Errors
    /// [`BillingError::InsufficientCredit`] for a refund of more than is available, [`BillingError::KeyConflict`] when
    /// the operation id stands for another change, [`BillingError::InvalidTransfer`] for nothing at all or a negative
    /// grant or refund, [`BillingError::TenantNotFound`], [`BillingError::Storage`].
    pub async fn administer(&self, origin: &Origin, operation: &AdminOperation) -> Result<Entry, BillingError> {
        let at = self.clock.now();
        let tenant = operation.tenant_id;
        let id = operation.operation_id.clone().unwrap_or_else(|| TransferId::new(at).to_string());
        let transfer = operation.transfer(&format!("admin:{id}"), origin)?;
        self.db
            .transaction(async |conn| {
                let mut ledger = LedgerRepository::new(conn);
                let available = ledger.lock_balance(tenant).await?.available;
                let known = ledger.find_by_keys(&[&transfer.reference_key]).await?;
                if let AdminCredit::Refund(required) = operation.credit
                    && known.is_empty()
                    && required > available
                {
                    return Err(BillingError::InsufficientCredit { available, required });
                }
                let posted = self.post_in(conn, at, std::slice::from_ref(&transfer)).await?;
                let posted = posted
                    .first()
                    .ok_or_else(|| DbError::inconsistent("ledger_transfers", "a posting had no answer"))?;
                if posted.fresh {
                    let resource = Resource::new("transfer", posted.id);
                    let entry = AuditEntry::success(origin, Some(tenant), operation.credit.action(), resource)
                        .with("amount_nanos", transfer.amount.as_nanos())
                        .with("kind", transfer.kind.as_str())
                        .with("operation", id.as_str())
                        .with("reason", operation.reason.as_str());
                    audit::record_in(conn, at, &entry).await?;
                }
                let found = StatementRepository::new(conn).find_entry(tenant, posted.id).await?;
                found.ok_or_else(|| {
                    DbError::inconsistent("ledger_transfers", format!("{} cannot be read back", posted.id)).into()
                })
            })
            .await
    }
}

impl AdminCredit {
    const fn action(self) -> &'static str {
        match self {
            Self::Grant(_) => "credits.grant",
            Self::Refund(_) => "credits.refund",
            Self::Correction(_) => "credits.correction",
        }
    }
}

impl AdminOperation {
    fn transfer(&self, key: &str, origin: &Origin) -> Result<Transfer, BillingError> {
        let wallet = Account::Wallet(self.tenant_id);
        let write_off = Account::Platform(PlatformAccount::WriteOff);
        let actor = origin.actor.clone();
        let transfer = match self.credit {
            AdminCredit::Grant(amount) => {
                Transfer::to_wallet(key, TransferKind::AdminGrant, self.tenant_id, amount, actor)
            }
            AdminCredit::Refund(amount) => {
                Transfer::from_wallet(key, TransferKind::Refund, self.tenant_id, amount, actor)
            }
            AdminCredit::Correction(amount) if amount.is_negative() => {
                let amount = Money::ZERO.try_sub(amount)?;
                Transfer::new(key, TransferKind::AdminAdjust, wallet, write_off, amount, actor)
            }
            AdminCredit::Correction(amount) => {
                Transfer::new(key, TransferKind::AdminAdjust, write_off, wallet, amount, actor)
            }
        };
        let transfer = transfer.described(&self.reason);
        transfer.check()?;
        Ok(transfer)
    }
}
