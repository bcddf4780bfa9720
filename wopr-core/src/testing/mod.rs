//! For tests of this crate and of its hosts: a database per test, a clock that stands still, an outside world in memory,
//! and what a port's implementations must have in common.

mod archive;
mod backups;
mod clock;
mod cloud;
mod database;
mod host;
mod keyed;
mod mailer;
mod models;
mod payments;
mod payments_contract;
mod probe;

pub use self::archive::{ArchiveFault, MemoryArchive};
pub use self::backups::{JobFault, MemoryBackups};
pub use self::clock::FixedClock;
pub use self::cloud::MemoryCloud;
pub use self::database::TestDb;
pub use self::host::{Fault, MemoryHost};
pub use self::keyed::MemoryKeyed;
pub use self::mailer::MemoryMailer;
pub use self::models::{MemoryModels, ModelFault};
pub use self::payments::MemoryPayments;
pub use self::payments_contract::{Payer, payment_provider_contract};
pub use self::probe::MemoryProbe;
