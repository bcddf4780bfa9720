//! What a local stack needs from the outside world, played honestly.
//!
//! - [`stripe`]: a stateful double of the part of Stripe that is used, with a hosted page a person can pay on and
//!   signed webhooks that are retried.
//! - [`mail`]: an SMTP server that keeps every mail and shows it on a page.
//! - [`bot`]: a small bot with the contract of the real bot image.
//! - [`machine`]: a machine inside a container, with a Docker engine of its own.
//! - [`models`]: models so small that an image may hold them, for real inference servers.
//! - [`speech`]: a speech server with the wire of the real one.
//! - [`ui`]: the page that stands where the dashboard will be.
//!
//! Only local stacks and tests start these. Each has a binary; the Stripe double also runs inside a test process.

#![recursion_limit = "256"] // a checkout session has many fields, and `json!` recurses per field

pub mod bot;
pub mod clock;
pub mod http;
pub mod machine;
pub mod mail;
pub mod models;
pub mod probe;
pub mod process;
pub mod secret;
pub mod speech;
pub mod stripe;
pub mod ui;
