//! The server at its router, on a real PostgreSQL.

mod app;
mod callers;
mod config;
mod health;
mod limits;
mod pipeline;
mod routes;
mod trpc;
mod workers;
