use jiff::civil::Date;

use super::standings::Cause;
use super::{Billing, total_debit};
use crate::audit::{Actor, Origin};
use crate::billing::error::BillingError;
use crate::billing::ledger::{Posted, Transfer};
use crate::billing::pricing::ChargeKind;
use crate::billing::repository::LedgerRepository;
use crate::billing::standing::Standing;
use crate::ids::{BotId, TenantId};
use crate::money::Money;

/// What became of a bot's charge for a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DayCharge {
    /// All components are in the ledger, now or from an earlier call.
    Charged(Vec<Posted>),
    /// The credit does not cover them: nothing was taken, and an active tenant is now in its grace period.
    Short {
        /// What could have been spent.
        available: Money,
        /// What the components cost together.
        required: Money,
        /// Where the tenant stands.
        standing: Standing,
    },
}

impl Billing {
    /// Charges a bot's day: all components or none, each once under `runtime:{date}:{bot}:{component}`. Components of
    /// zero are left out. What a first day costs is the caller's to decide
    /// ([`prorate_first_day`](crate::billing::pricing::prorate_first_day)).
    ///
    /// # Errors
    /// [`BillingError::KeyConflict`] when the day was charged at another price, [`BillingError::InvalidTransfer`] for
    /// a component named twice or below zero, [`BillingError::TenantNotFound`], [`BillingError::Storage`].
    pub async fn charge_bot_day(
        &self,
        tenant: TenantId,
        bot: BotId,
        date: Date,
        components: &[(ChargeKind, Money)],
    ) -> Result<DayCharge, BillingError> {
        let at = self.clock.now();
        let transfers = day_transfers(tenant, bot, date, components)?;
        self.db
            .transaction(async |conn| {
                let mut ledger = LedgerRepository::new(conn);
                let available = ledger.lock_balance(tenant).await?.available;
                let keys: Vec<&str> = transfers.iter().map(|transfer| transfer.reference_key.as_str()).collect();
                let known = ledger.find_by_keys(&keys).await?;
                let missing: Vec<Transfer> =
                    transfers.iter().filter(|t| !known.contains_key(&t.reference_key)).cloned().collect();
                let required = total_debit(&missing, tenant)?;
                if required <= available || missing.is_empty() {
                    return Ok(DayCharge::Charged(self.post_in(conn, at, &transfers).await?));
                }
                let origin = Origin::system("charges");
                let standing = self
                    .transition_in(conn, at, tenant, Cause::of(&origin), |standing| Ok(standing.run_short(at)))
                    .await?;
                Ok(DayCharge::Short { available, required, standing })
            })
            .await
    }
}

fn day_transfers(
    tenant: TenantId,
    bot: BotId,
    date: Date,
    components: &[(ChargeKind, Money)],
) -> Result<Vec<Transfer>, BillingError> {
    let mut transfers: Vec<Transfer> = Vec::with_capacity(components.len());
    for (kind, amount) in components.iter().filter(|(_, amount)| *amount != Money::ZERO) {
        let key = format!("runtime:{date}:{bot}:{}", kind.as_str());
        if transfers.iter().any(|transfer| transfer.reference_key == key) {
            return Err(BillingError::InvalidTransfer { reference_key: key, why: "the component is named twice" });
        }
        let transfer = Transfer::from_wallet(key, kind.transfer_kind(), tenant, *amount, Actor::System("charges"))
            .described(format!("{date}, bot {bot}"));
        transfer.check()?;
        transfers.push(transfer);
    }
    Ok(transfers)
}
