//! `wopr-bot health`: asks a bot on this machine whether it is well.

use std::io;

/// Asks for `/health`.
///
/// # Errors
/// When nothing answers in time, or the answer is not 200.
pub fn probe(port: u16) -> io::Result<()> {
    crate::probe::http(port, "/health")
}
