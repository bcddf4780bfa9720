//! For tests of this crate and of its hosts: a database per test, and a clock that stands still.

mod clock;
mod database;
mod mailer;

pub use self::clock::FixedClock;
pub use self::database::TestDb;
pub use self::mailer::MemoryMailer;
