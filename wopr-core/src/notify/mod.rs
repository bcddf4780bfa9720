//! Mails, queued in the transaction that causes them and sent by a worker that survives crashes.
//!
//! A domain calls `enqueue_in` beside its own statements with a key that names the cause: the same cause queues one
//! mail, however often it is handled.

mod model;
mod ports;
mod repository;
mod service;
pub(crate) mod templates;

pub use self::model::Mail;
pub use self::ports::{MailError, Mailer, OutgoingMail};
pub(crate) use self::repository::enqueue_in;
pub use self::service::{Delivered, Notifier};
