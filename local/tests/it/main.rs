//! Journeys through the programs, over their own sockets.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic as the test may")]

mod bot;
mod mail;
mod speech;
mod stripe_durability;
mod stripe_journeys;
mod stripe_rust_client;
mod stripe_webhooks;
mod support;
mod ui;
