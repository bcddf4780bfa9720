//! The server at its router, on a real PostgreSQL.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test may panic as the test may")]

mod app;
mod auth;
mod backup;
mod billing;
mod callers;
mod config;
mod faults;
mod fleet;
mod gateway;
mod gpu;
mod health;
mod hostile;
mod limits;
mod matrix;
mod metrics;
mod payments;
mod pipeline;
mod process;
mod rates;
mod routes;
mod tenant_keys;
mod trpc;
mod usage;
mod workers;
