//! Transfers: what may move between which accounts.

use jiff::Timestamp;
use uuid::Uuid;

use super::BillingError;
use crate::audit::Actor;
use crate::ids::{HoldId, LeaseHolder, TenantId, TransferId, UserId};
use crate::money::Money;

/// The longest reference key.
const MAX_KEY_LENGTH: usize = 255;
/// The longest description.
const MAX_DESCRIPTION_LENGTH: usize = 1000;

macro_rules! closed_set {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every member.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stored and public word.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// The member of that word.
            pub fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($text => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}
pub(super) use closed_set;

closed_set! {
    /// An account of the platform itself. It has no balance row: its balance is the sum of its transfers.
    PlatformAccount {
        /// Money at Stripe, on its way to the bank.
        StripeClearing = "stripe_clearing",
        /// Money at the crypto processor.
        PayramClearing = "payram_clearing",
        /// Earned by metered usage.
        RevenueUsage = "revenue_usage",
        /// Earned by running bots.
        RevenueRuntime = "revenue_runtime",
        /// Earned by add-ons.
        RevenueAddon = "revenue_addon",
        /// Given away: sign-up grants, bonuses, promotions.
        PromoExpense = "promo_expense",
        /// Given back to the community.
        DividendExpense = "dividend_expense",
        /// Paid for referrals.
        AffiliateExpense = "affiliate_expense",
        /// Returned to buyers.
        Refunds = "refunds",
        /// Taken back by card holders.
        Chargebacks = "chargebacks",
        /// Kept by Stripe.
        StripeFees = "stripe_fees",
        /// Corrections by operators.
        WriteOff = "write_off",
    }
}

impl PlatformAccount {
    const fn number(self) -> u128 {
        match self {
            Self::StripeClearing => 0x01,
            Self::PayramClearing => 0x02,
            Self::RevenueUsage => 0x03,
            Self::RevenueRuntime => 0x04,
            Self::RevenueAddon => 0x05,
            Self::PromoExpense => 0x06,
            Self::DividendExpense => 0x07,
            Self::AffiliateExpense => 0x08,
            Self::Refunds => 0x09,
            Self::Chargebacks => 0x0a,
            Self::StripeFees => 0x0b,
            Self::WriteOff => 0x0c,
        }
    }
}

/// One side of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Account {
    /// A tenant's prepaid credit.
    Wallet(TenantId),
    /// One of the platform's own accounts.
    Platform(PlatformAccount),
}

impl Account {
    pub(super) const fn as_uuid(self) -> Uuid {
        match self {
            Self::Wallet(tenant) => tenant.as_uuid(),
            Self::Platform(account) => Uuid::from_u128(account.number()),
        }
    }

    /// `None` for a reserved id that names no account.
    pub(super) fn from_uuid(uuid: Uuid) -> Option<Self> {
        if uuid.as_u128() > 0xff {
            return Some(Self::Wallet(TenantId::from_uuid(uuid)));
        }
        PlatformAccount::ALL
            .iter()
            .find(|account| account.number() == uuid.as_u128())
            .map(|account| Self::Platform(*account))
    }

    /// The tenant, if this is a wallet.
    pub const fn tenant(self) -> Option<TenantId> {
        match self {
            Self::Wallet(tenant) => Some(tenant),
            Self::Platform(_) => None,
        }
    }
}

closed_set! {
    /// Why money moved.
    TransferKind {
        /// Credit for a new, verified customer.
        SignupGrant = "signup_grant",
        /// Credit that was paid for.
        Purchase = "purchase",
        /// Credit on top of a purchase.
        PurchaseBonus = "purchase_bonus",
        /// A promotion.
        Promo = "promo",
        /// A referral.
        Referral = "referral",
        /// To a referred customer.
        AffiliateBonus = "affiliate_bonus",
        /// To the referrer.
        AffiliateMatch = "affiliate_match",
        /// A share of the community's dividend.
        CommunityDividend = "community_dividend",
        /// Given by an operator.
        AdminGrant = "admin_grant",
        /// Corrected by an operator, either way. May overdraw.
        AdminAdjust = "admin_adjust",
        /// A dispute that was won.
        DisputeReversal = "dispute_reversal",
        /// A bot's day.
        BotRuntime = "bot_runtime",
        /// A bot's larger resources for a day.
        ResourceUpgrade = "resource_upgrade",
        /// A bot's larger storage for a day.
        StorageUpgrade = "storage_upgrade",
        /// An add-on for a day.
        Addon = "addon",
        /// Metered usage.
        AdapterUsage = "adapter_usage",
        /// What metered usage cost beyond its hold. May overdraw.
        UsageOverrun = "usage_overrun",
        /// Money returned to the buyer. May overdraw.
        Refund = "refund",
        /// The bonus of a purchase that was returned. May overdraw.
        BonusReversal = "bonus_reversal",
        /// Money taken back by the card holder. May overdraw.
        Dispute = "dispute",
        /// A debt that will not be paid.
        WriteOff = "write_off",
        /// A processor's fee, between accounts of the platform.
        ProcessorFee = "processor_fee",
    }
}

impl TransferKind {
    /// The platform's account on the other side of a wallet, unless the transfer names another.
    pub const fn counterpart(self) -> PlatformAccount {
        match self {
            Self::SignupGrant | Self::PurchaseBonus | Self::Promo | Self::AdminGrant | Self::BonusReversal => {
                PlatformAccount::PromoExpense
            }
            Self::Purchase => PlatformAccount::StripeClearing,
            Self::Referral | Self::AffiliateBonus | Self::AffiliateMatch => PlatformAccount::AffiliateExpense,
            Self::CommunityDividend => PlatformAccount::DividendExpense,
            Self::AdminAdjust | Self::WriteOff => PlatformAccount::WriteOff,
            Self::Dispute | Self::DisputeReversal => PlatformAccount::Chargebacks,
            Self::BotRuntime | Self::ResourceUpgrade | Self::StorageUpgrade => PlatformAccount::RevenueRuntime,
            Self::Addon => PlatformAccount::RevenueAddon,
            Self::AdapterUsage | Self::UsageOverrun => PlatformAccount::RevenueUsage,
            Self::Refund => PlatformAccount::Refunds,
            Self::ProcessorFee => PlatformAccount::StripeFees,
        }
    }

    /// Whether it is something the customer consumed, as opposed to money given, returned or corrected.
    pub const fn is_consumption(self) -> bool {
        matches!(
            self,
            Self::BotRuntime
                | Self::ResourceUpgrade
                | Self::StorageUpgrade
                | Self::Addon
                | Self::AdapterUsage
                | Self::UsageOverrun
        )
    }
}

closed_set! {
    /// The processor a purchase was paid with.
    FundingSource {
        /// Stripe.
        Stripe = "stripe",
        /// PayRam.
        Payram = "payram",
    }
}

/// A movement of money that somebody wants: `amount` leaves `debit` and reaches `credit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Names the cause: the same cause is posted once. At most 255 bytes.
    pub reference_key: String,
    /// Why.
    pub kind: TransferKind,
    /// Where it leaves.
    pub debit: Account,
    /// Where it arrives.
    pub credit: Account,
    /// More than nothing.
    pub amount: Money,
    /// Who causes it.
    pub actor: Actor,
    /// The hold that it captures.
    pub hold: Option<HoldId>,
    /// The holder of the lease that it was spent from.
    pub lease: Option<LeaseHolder>,
    /// The transfer it takes back, in whole or in part.
    pub reverses: Option<TransferId>,
    /// How a purchase was paid.
    pub funding_source: Option<FundingSource>,
    /// The member who caused a debit.
    pub attributed_user_id: Option<UserId>,
    /// For people; at most 1000 characters.
    pub description: Option<String>,
}

impl Transfer {
    /// Between any two accounts.
    pub fn new(
        reference_key: impl Into<String>,
        kind: TransferKind,
        debit: Account,
        credit: Account,
        amount: Money,
        actor: Actor,
    ) -> Self {
        Self {
            reference_key: reference_key.into(),
            kind,
            debit,
            credit,
            amount,
            actor,
            hold: None,
            lease: None,
            reverses: None,
            funding_source: None,
            attributed_user_id: None,
            description: None,
        }
    }

    /// Into a tenant's wallet, from the kind's usual counterpart.
    pub fn to_wallet(
        reference_key: impl Into<String>,
        kind: TransferKind,
        tenant: TenantId,
        amount: Money,
        actor: Actor,
    ) -> Self {
        Self::new(reference_key, kind, Account::Platform(kind.counterpart()), Account::Wallet(tenant), amount, actor)
    }

    /// Out of a tenant's wallet, to the kind's usual counterpart.
    pub fn from_wallet(
        reference_key: impl Into<String>,
        kind: TransferKind,
        tenant: TenantId,
        amount: Money,
        actor: Actor,
    ) -> Self {
        Self::new(reference_key, kind, Account::Wallet(tenant), Account::Platform(kind.counterpart()), amount, actor)
    }

    /// With a text for people.
    #[must_use]
    pub fn described(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Paid through `source`.
    #[must_use]
    pub fn funded_by(mut self, source: FundingSource) -> Self {
        self.funding_source = Some(source);
        self
    }

    /// Taking back `transfer`.
    #[must_use]
    pub fn reversing(mut self, transfer: TransferId) -> Self {
        self.reverses = Some(transfer);
        self
    }

    /// Caused by a member of the tenant.
    #[must_use]
    pub fn attributed_to(mut self, user: UserId) -> Self {
        self.attributed_user_id = Some(user);
        self
    }

    pub(super) fn capturing(mut self, hold: HoldId) -> Self {
        self.hold = Some(hold);
        self
    }

    pub(super) fn spent_from(mut self, lease: LeaseHolder) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Refuses what the ledger can never take.
    pub(super) fn check(&self) -> Result<(), BillingError> {
        let refuse = |why| Err(BillingError::InvalidTransfer { reference_key: self.reference_key.clone(), why });
        if !self.amount.is_positive() {
            return refuse("the amount is not positive");
        }
        if self.debit == self.credit {
            return refuse("both sides are the same account");
        }
        if self.reference_key.is_empty() || self.reference_key.len() > MAX_KEY_LENGTH {
            return refuse("the reference key is empty or too long");
        }
        if self.description.as_ref().is_some_and(|text| text.chars().count() > MAX_DESCRIPTION_LENGTH) {
            return refuse("the description is too long");
        }
        if [self.debit, self.credit].iter().filter_map(|side| side.tenant()).any(|t| t.as_uuid().as_u128() <= 0xff) {
            return refuse("a reserved id is not a tenant");
        }
        Ok(())
    }
}

/// A transfer as it stands in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// Its id.
    pub id: TransferId,
    /// Its cause.
    pub reference_key: String,
    /// Why.
    pub kind: TransferKind,
    /// Where it left.
    pub debit: Account,
    /// Where it arrived.
    pub credit: Account,
    /// How much.
    pub amount: Money,
    /// When it was posted first.
    pub occurred_at: Timestamp,
    /// Whether this very call posted it; `false` for a repetition.
    pub fresh: bool,
}

impl Posted {
    /// Refuses to take `wanted` for a repetition of this when it moves something else.
    pub(super) fn answer(self, wanted: &Transfer) -> Result<Self, BillingError> {
        let same = (self.kind, self.debit, self.credit, self.amount)
            == (wanted.kind, wanted.debit, wanted.credit, wanted.amount);
        if same { Ok(self) } else { Err(BillingError::KeyConflict { reference_key: self.reference_key }) }
    }
}

/// What a tenant has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Balance {
    /// The sum of everything posted. Negative after a refund or dispute of credit already used.
    pub balance: Money,
    /// Set aside by open holds and leases.
    pub held: Money,
    /// What can be spent: `balance - held`.
    pub available: Money,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_platform_account_has_an_id_of_its_own_that_reads_back() {
        let ids: std::collections::BTreeSet<_> =
            PlatformAccount::ALL.iter().map(|account| Account::Platform(*account).as_uuid()).collect();
        assert_eq!(ids.len(), PlatformAccount::ALL.len());
        for account in PlatformAccount::ALL {
            let account = Account::Platform(*account);
            assert_eq!(Account::from_uuid(account.as_uuid()), Some(account));
        }
        assert_eq!(Account::from_uuid(Uuid::nil()), None);
        assert_eq!(Account::from_uuid(Uuid::from_u128(0x0d)), None);
        assert!(matches!(Account::from_uuid(Uuid::from_u128(0x100)), Some(Account::Wallet(_))));
    }

    #[test]
    fn words_read_back() {
        for kind in TransferKind::ALL {
            assert_eq!(TransferKind::from_word(kind.as_str()), Some(*kind));
        }
        assert_eq!(TransferKind::from_word("gift"), None);
    }

    #[test]
    fn what_the_ledger_can_never_take_is_refused_before_it_is_asked() {
        let tenant = TenantId::from_uuid(Uuid::from_u128(7 << 64));
        let good =
            Transfer::to_wallet("k", TransferKind::Purchase, tenant, Money::from_cents(1), Actor::System("test"));
        assert!(good.check().is_ok());
        let table = [
            Transfer { amount: Money::ZERO, ..good.clone() },
            Transfer { amount: Money::from_cents(-1), ..good.clone() },
            Transfer { credit: good.debit, ..good.clone() },
            Transfer { reference_key: String::new(), ..good.clone() },
            Transfer { reference_key: "k".repeat(256), ..good.clone() },
            Transfer { description: Some("d".repeat(1001)), ..good.clone() },
            Transfer { credit: Account::Wallet(TenantId::from_uuid(Uuid::from_u128(0x0e))), ..good.clone() },
        ];
        for transfer in table {
            assert!(matches!(transfer.check(), Err(BillingError::InvalidTransfer { .. })), "{transfer:?}");
        }
    }
}
