//! The SDK at its public API, on a real PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod auth;
mod backup;
mod base_backups;
mod billing;
#[cfg(feature = "cloud")]
mod cloud;
mod database_sets;
mod db;
#[cfg(feature = "cloud")]
mod digital_ocean;
#[cfg(feature = "docker")]
mod docker;
mod fleet;
mod gateway;
mod gpu;
#[cfg(feature = "inference")]
mod inference;
mod lease;
#[cfg(feature = "models")]
mod models;
mod notify;
mod payments;
#[cfg(feature = "docker")]
mod proxy;
mod schema;
mod tidy;
