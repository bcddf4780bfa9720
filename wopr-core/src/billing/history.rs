//! What an account statement and a check of the books consist of.

use jiff::Timestamp;

use super::ledger::{FundingSource, TransferKind};
use crate::ids::{HoldId, TenantId, TransferId, UserId};
use crate::money::Money;

/// The longest page of a history.
pub const MAX_PAGE: u32 = 250;

/// A transfer as one tenant sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The transfer's id.
    pub id: TransferId,
    /// Whose wallet it moved.
    pub tenant_id: TenantId,
    /// Negative when it left the wallet.
    pub amount: Money,
    /// The wallet's balance right after it.
    pub balance_after: Money,
    /// Why.
    pub kind: TransferKind,
    /// Its cause.
    pub reference_key: String,
    /// For people.
    pub description: Option<String>,
    /// How a purchase was paid.
    pub funding_source: Option<FundingSource>,
    /// The member who caused a debit.
    pub attributed_user_id: Option<UserId>,
    /// When.
    pub occurred_at: Timestamp,
}

/// Which entries of a history, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Only these kinds; all when empty.
    pub kinds: Vec<TransferKind>,
    /// Not before this.
    pub from: Option<Timestamp>,
    /// Before this.
    pub to: Option<Timestamp>,
    /// How many, 1 to [`MAX_PAGE`]; a value outside is brought inside.
    pub limit: u32,
    /// How many to pass over.
    pub offset: u32,
}

impl Default for HistoryQuery {
    /// The newest fifty.
    fn default() -> Self {
        Self { kinds: Vec::new(), from: None, to: None, limit: 50, offset: 0 }
    }
}

/// A page of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Newest first.
    pub entries: Vec<Entry>,
    /// How many entries the query has on all pages.
    pub total: u64,
}

/// What a tenant has, and how long it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outlook {
    /// What it has.
    pub balance: super::Balance,
    /// What it consumed a day, over the last seven.
    pub daily_burn: Money,
    /// For how many whole days the available credit lasts; `None` when nothing is consumed.
    pub runway_days: Option<i64>,
}

/// A wallet that is not what its rows say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletDifference {
    /// Whose.
    pub tenant_id: TenantId,
    /// The balance in the projection.
    pub balance: Money,
    /// The sum of the transfers.
    pub posted: Money,
    /// What the projection says is held.
    pub held: Money,
    /// The sum of the open holds.
    pub open_holds: Money,
}

/// What a check of all books found. At most 100 of each kind of finding are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BooksReport {
    /// How many wallets were compared.
    pub wallets: u64,
    /// All wallets and all platform accounts together: zero, as every transfer has two sides.
    pub residue: Money,
    /// Wallets that differ.
    pub differences: Vec<WalletDifference>,
    /// Settled holds whose transfers do not add up to what was settled.
    pub wrong_captures: Vec<HoldId>,
}

impl BooksReport {
    /// Whether nothing was found.
    pub fn is_balanced(&self) -> bool {
        self.residue == Money::ZERO && self.differences.is_empty() && self.wrong_captures.is_empty()
    }
}
