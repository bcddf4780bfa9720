//! The one place that asks for the time: a program that runs once has no clock to be injected into.

use jiff::Timestamp;

#[expect(clippy::disallowed_methods, reason = "this is the clock of a one-shot program")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}
