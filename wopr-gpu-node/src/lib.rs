//! The daemon on a GPU machine.
//!
//! It tells the platform how far the machine's set-up is ([`enrol`]), sends heartbeats ([`agent`]), looks at the four
//! services ([`health`] is what it makes of it) and at the cards ([`probe`]), and stands before the services' ports: what
//! they are is open to all, what they do only to the platform.
//!
//! Nothing here depends on the date, so a clock that is set does no harm; nothing waits for a driver, so one that hangs for
//! ever delays no heartbeat; and every call of somebody else has an end.

pub mod agent;
mod backoff;
pub mod client;
pub mod config;
pub mod enrol;
pub mod health;
mod http;
pub mod metrics;
pub mod probe;
mod progress;
mod proxy;
mod status;
pub mod systemd;
mod traffic;
mod watch;
