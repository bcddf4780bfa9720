//! The SDK at its public API, on a real PostgreSQL.

mod auth;
mod db;
mod notify;
