//! Journeys through the three programs, over their own sockets.

mod bot;
mod mail;
mod stripe_durability;
mod stripe_journeys;
mod stripe_rust_client;
mod stripe_webhooks;
mod support;
