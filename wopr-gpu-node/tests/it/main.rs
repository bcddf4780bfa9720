//! The daemon between a platform and services, all over real sockets.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic as the test may")]

mod enrolment;
mod heartbeats;
mod platform;
mod process;
mod proxy;
mod services;
mod support;
mod watching;
