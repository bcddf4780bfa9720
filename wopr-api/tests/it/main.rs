//! The server at its router, on a real PostgreSQL.

mod app;
mod health;
mod pipeline;
mod routes;
mod trpc;
mod workers;
