//! The SDK at its public API, on a real PostgreSQL.

mod billing;
mod db;
