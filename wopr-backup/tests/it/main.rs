//! The engine from outside: through the library against stores that fail, and through the program that is killed.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic as the test may")]

mod database;
mod faults;
mod keys;
mod killed;
mod locks;
mod s3;
mod saves;
mod support;
