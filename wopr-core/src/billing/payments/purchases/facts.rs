//! What is known of a payment, and the transfers that follow from it. Pure.

use jiff::Timestamp;

use super::super::pricing::Credit;
use crate::audit::Actor;
use crate::billing::{Account, FundingSource, PlatformAccount, Transfer, TransferKind};
use crate::ids::{TenantId, UnmatchedPaymentId};
use crate::money::{Money, MoneyOverflow};

/// A payment that a tenant got credit for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::billing::payments) struct PaymentFact {
    /// `cs_…`, or `pi_…` of a payment without a checkout: the ledger's key.
    pub(in crate::billing::payments) reference: String,
    pub(in crate::billing::payments) payment_intent_id: Option<String>,
    pub(in crate::billing::payments) tenant_id: TenantId,
    pub(in crate::billing::payments) paid_cents: i64,
    pub(in crate::billing::payments) tax_cents: i64,
    pub(in crate::billing::payments) credit: Credit,
    pub(in crate::billing::payments) paid_at: Timestamp,
}

/// Money of a payment that was given back, or was to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::billing::payments) struct RefundFact {
    pub(in crate::billing::payments) id: String,
    pub(in crate::billing::payments) payment_intent_id: String,
    pub(in crate::billing::payments) amount_cents: i64,
    /// Final: a failed refund never succeeds.
    pub(in crate::billing::payments) failed: bool,
    pub(in crate::billing::payments) created_at: Timestamp,
}

/// How a dispute stands once money has moved. Open may become one of the others, and nothing else changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::billing::payments) enum DisputeOutcome {
    Open,
    Won,
    Lost,
}

impl DisputeOutcome {
    pub(in crate::billing::payments) const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Won => "won",
            Self::Lost => "lost",
        }
    }

    pub(in crate::billing::payments) fn from_word(word: &str) -> Option<Self> {
        [Self::Open, Self::Won, Self::Lost].into_iter().find(|outcome| outcome.as_str() == word)
    }
}

/// Money of a payment that the card holder took back, or tried to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::billing::payments) struct DisputeFact {
    pub(in crate::billing::payments) id: String,
    pub(in crate::billing::payments) payment_intent_id: String,
    pub(in crate::billing::payments) amount_cents: i64,
    pub(in crate::billing::payments) outcome: DisputeOutcome,
    pub(in crate::billing::payments) created_at: Timestamp,
}

/// Why a payment could not be credited without a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnmatchedReason {
    /// It names no tenant of ours.
    NoTenant,
    /// It is not in US dollars.
    Currency,
    /// It was made for something else than credit.
    Purpose,
}

impl UnmatchedReason {
    /// The stored and public word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoTenant => "no_tenant",
            Self::Currency => "currency",
            Self::Purpose => "purpose",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
        [Self::NoTenant, Self::Currency, Self::Purpose].into_iter().find(|reason| reason.as_str() == word)
    }
}

/// Money that arrived and waits for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnmatchedPayment {
    /// Our id of it.
    pub id: UnmatchedPaymentId,
    /// The provider's checkout session, or the payment itself.
    pub reference: String,
    /// The provider's payment.
    pub payment_intent_id: Option<String>,
    /// The provider's customer.
    pub customer_id: Option<String>,
    /// What the payer typed.
    pub email: Option<String>,
    /// In the currency's smallest unit, taxes included.
    pub paid_cents: i64,
    /// The taxes in it.
    pub tax_cents: i64,
    /// ISO 4217 in lower case.
    pub currency: String,
    /// Why it waits.
    pub reason: UnmatchedReason,
    /// When it was paid.
    pub paid_at: Timestamp,
    /// Whom it was given to.
    pub assigned_to: Option<TenantId>,
}

/// Every transfer that follows from what is known. More knowledge adds transfers and never changes one.
pub(super) fn transfers(
    payment: &PaymentFact,
    refunds: &[RefundFact],
    disputes: &[DisputeFact],
    actor: &Actor,
) -> Result<Vec<Transfer>, MoneyOverflow> {
    let wallet = Account::Wallet(payment.tenant_id);
    let clearing = Account::Platform(PlatformAccount::StripeClearing);
    let promo = Account::Platform(PlatformAccount::PromoExpense);
    let mut wanted = Vec::new();
    let mut push = |key: String, kind, debit, credit, amount: Money, text: &str| {
        if amount.is_positive() {
            wanted.push(Transfer::new(key, kind, debit, credit, amount, actor.clone()).described(text));
        }
    };
    let reference = &payment.reference;
    let Credit { purchase, bonus } = payment.credit;
    push(reference.clone(), TransferKind::Purchase, clearing, wallet, purchase, "Credit purchase");
    push(format!("{reference}:bonus"), TransferKind::PurchaseBonus, promo, wallet, bonus, "Bonus on a credit purchase");
    for refund in refunds {
        let back = payment.credit.share(refund.amount_cents, payment.paid_cents)?;
        let key = format!("refund:{}", refund.id);
        push(key.clone(), TransferKind::Refund, wallet, clearing, back.purchase, "Refund");
        push(format!("{key}:bonus"), TransferKind::BonusReversal, wallet, promo, back.bonus, "Bonus of a refund");
        if refund.failed {
            let text = "Refund that failed";
            push(format!("{key}:failed"), TransferKind::Refund, clearing, wallet, back.purchase, text);
            push(format!("{key}:failed:bonus"), TransferKind::BonusReversal, promo, wallet, back.bonus, text);
        }
    }
    for dispute in disputes {
        let taken = payment.credit.share(dispute.amount_cents, payment.paid_cents)?;
        let key = format!("dispute:{}", dispute.id);
        let text = "Disputed payment";
        push(format!("{key}:open"), TransferKind::Dispute, wallet, clearing, taken.purchase, text);
        push(format!("{key}:open:bonus"), TransferKind::BonusReversal, wallet, promo, taken.bonus, text);
        if dispute.outcome == DisputeOutcome::Won {
            let text = "Dispute that was won";
            push(format!("{key}:won"), TransferKind::DisputeReversal, clearing, wallet, taken.purchase, text);
            push(format!("{key}:won:bonus"), TransferKind::PurchaseBonus, promo, wallet, taken.bonus, text);
        }
    }
    Ok(wanted
        .into_iter()
        .map(|transfer| match transfer.kind {
            TransferKind::Purchase => transfer.funded_by(FundingSource::Stripe),
            _ => transfer,
        })
        .collect())
}
