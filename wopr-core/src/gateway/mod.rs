//! Calls to models: whoever calls is known, what a call may cost is set aside before it, and what it did cost is
//! written down before its answer ends.
//!
//! - A process **leases** credit in slices ([`Billing::lease`](crate::billing::Billing::lease)) and lets calls in from
//!   memory, each against the most that it can cost. Calls at once cannot spend more than there is.
//! - A call's beginning, progress and end are lines of a **journal** on this machine's disk ([`Journal`]). The end is there
//!   before the answer's last byte is sent.
//! - The journal is **settled** in groups: ledger, leases, rows of calls and sums of hours in one transaction, each call
//!   once by its id. While the database is away the journal grows, memory does not, and after a few seconds nobody is let in.
//! - Answers pass as they are where client and provider speak alike, and are translated where they do not ([`wire`]).
//!
//! [`Gateway`] is the handle; [`Gateway::run`] is what must go on beside it in each process.

mod answers_repository;
mod book;
mod book_repository;
mod call;
mod callers;
mod catalogue;
mod credit;
mod error;
mod journal;
mod limits;
mod metrics;
mod model;
mod once;
mod ports;
mod price;
mod providers;
mod question;
mod record;
mod repository;
mod service;
mod settle;
mod spending;
mod tenant_keys;
mod tenant_keys_repository;
mod to_its_end;
mod usage;
mod usage_repository;
pub mod wire;

pub use self::book::{BookPage, BookQuery, BookRow, Offer};
pub use self::call::{Answer, Body, Events};
pub use self::callers::Caller;
pub use self::catalogue::Model;
pub use self::error::GatewayError;
pub use self::journal::{Journal, JournalError, Sync};
pub use self::limits::{CapReached, MonthSpend, RateLimits, SpendingLimit};
pub use self::metrics::{
    CallCount, CallEnd, ErrorRate, ErrorWindow, FIRST_BYTE_BOUNDS_MS, GatewayMetrics, ProviderCounts,
};
pub use self::model::{Capability, Dialect, TokenUsage, Usage};
pub use self::once::{IdempotencyError, IdempotencyKey};
pub use self::ports::{AnswerBody, CallBody, ModelProvider, OwnBackends, ProviderAnswer, ProviderCall, ProviderError};
pub use self::price::{ExplainedPart, Explanation, Price, Side, Unit};
pub use self::providers::{FailureKind, ProviderHealth};
pub use self::question::Question;
pub use self::record::{CallRecord, Line, Outcome, UsageSource};
pub use self::service::{Gateway, GatewayConfig, GatewayParts};
pub use self::tenant_keys::{KeyedParts, KeyedProvider, KeyedProviders, KeyedUse, TenantKey, TenantKeyError};
pub use self::usage::{CallsQuery, PastCall, UsageQuery, UsageStep, UsageSums, UsageWindow};
