//! The SDK at its public API, on a real PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod auth;
mod billing;
mod db;
#[cfg(feature = "docker")]
mod docker;
mod fleet;
mod lease;
mod notify;
mod payments;
mod schema;
mod tidy;
