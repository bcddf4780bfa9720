//! What was done, by whom, to what: append-only, written in the transaction of what it records.
//!
//! A domain calls `record_in` beside its own statements; if the entry cannot be written, neither is the change. The
//! database refuses to update or delete entries.

mod model;
mod repository;

pub use self::model::{Actor, AuditEntry, Origin, Outcome, Resource};
pub(crate) use self::repository::record_in;
