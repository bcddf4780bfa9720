//! The SQL of credit, holds and standings. Row structs stay inside.

mod holds;
mod leases;
mod ledger;
mod reads;
mod standings;

pub(super) use self::holds::HoldRepository;
pub(super) use self::leases::LeaseRepository;
pub(super) use self::ledger::LedgerRepository;
pub(super) use self::reads::StatementRepository;
pub(super) use self::standings::StandingRepository;

use diesel::result::{DatabaseErrorKind, Error};

use super::error::BillingError;
use crate::db::DbError;
use crate::ids::TenantId;
use crate::money::Money;

/// What the wallet triggers say when they refuse.
#[derive(serde::Deserialize)]
struct Overdrawn {
    available: i64,
    required: i64,
}

/// Turns the refusals of the wallet triggers into the domain's errors. They abort the transaction, so the figures
/// come with the refusal.
fn refusal(error: Error, tenants: impl IntoIterator<Item = TenantId>) -> BillingError {
    if let Error::DatabaseError(DatabaseErrorKind::CheckViolation, info) = &error
        && info.constraint_name() == Some("wallets_not_overdrawn")
        && let Some(Ok(figures)) = info.details().map(serde_json::from_str::<Overdrawn>)
    {
        return BillingError::InsufficientCredit {
            available: Money::from_nanos(figures.available),
            required: Money::from_nanos(figures.required),
        };
    }
    if let Error::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, info) = &error
        && matches!(info.constraint_name(), Some("wallets_tenant_id_fkey" | "credit_holds_tenant_id_fkey"))
        // `Key (tenant_id)=(0190…) is not present in table "tenants".`
        && let Some(tenant) = tenants
            .into_iter()
            .find(|tenant| info.details().is_some_and(|text| text.contains(&tenant.as_uuid().to_string())))
    {
        return BillingError::TenantNotFound(tenant);
    }
    DbError::from(error).into()
}
