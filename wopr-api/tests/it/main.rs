//! The server at its router, on a real PostgreSQL.

mod app;
mod auth;
mod billing;
mod callers;
mod config;
mod fleet;
mod health;
mod limits;
mod pipeline;
mod routes;
mod trpc;
mod workers;
