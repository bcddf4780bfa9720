//! The server at its router, on a real PostgreSQL.

mod app;
mod auth;
mod billing;
mod callers;
mod config;
mod faults;
mod fleet;
mod health;
mod hostile;
mod limits;
mod matrix;
mod payments;
mod pipeline;
mod process;
mod routes;
mod trpc;
mod workers;
