//! For tests of this crate and of its hosts: a database per test, and a clock that stands still.

mod clock;
mod database;
mod host;
mod mailer;
mod payments;

pub use self::clock::FixedClock;
pub use self::database::TestDb;
pub use self::host::{Fault, MemoryHost};
pub use self::mailer::MemoryMailer;
pub use self::payments::MemoryPayments;
