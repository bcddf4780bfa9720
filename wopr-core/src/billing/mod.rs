//! Prepaid credit: every cent that moved, once, and why.
//!
//! - The [ledger](Transfer) is append-only. A transfer is one row with a debit and a credit side, so the books balance
//!   entry by entry; its reference key names its cause, and the same cause is posted once.
//! - A wallet's balance is a projection that the database maintains itself and lets nobody edit; what is spent must be
//!   covered, unless the transfer records something that has already happened outside.
//! - A [`Hold`] sets credit aside for work whose price is not known yet.
//! - A [lease](Billing::lease) hands a slice of credit to a process that spends it in many small parts, and settles them in
//!   groups ([`Billing::settle_spent`]).
//! - A tenant's [`Standing`] follows from its credit: shortage leads to grace, grace to suspension, a purchase back.
//!
//! [`Billing`] is the handle. Other domains post in their own transactions through its `…_in` methods.

mod error;
mod history;
mod hold;
mod ledger;
mod mails;
pub mod payments;
pub mod pricing;
mod repository;
mod service;
mod signup;
mod standing;

pub use self::error::{BillingError, InvalidTransition};
pub use self::history::{BooksReport, Entry, History, HistoryQuery, MAX_PAGE, Outlook, WalletDifference};
pub use self::hold::{Hold, HoldState};
pub use self::ledger::{Account, Balance, FundingSource, PlatformAccount, Posted, Transfer, TransferKind};
pub use self::pricing::{ChargeKind, ResourceTier, StorageTier};
pub use self::service::{AdminCredit, AdminOperation, Billing, BillingConfig, DayCharge, Spent};
pub use self::standing::{GRACE_PERIOD, RETENTION, Standing, StandingRecord, SuspensionReason};
