//! The customer's journeys, told over HTTP and Docker only.
//!
//! The `.feature` files beside this crate's manifest say what a customer does and sees; [`steps`] turns each sentence
//! into requests. A scenario has a platform of its own: a server, a database, a Stripe stand-in and a mail catcher in
//! this process, on free loopback ports, and the machine's real Docker engine. With `WOPR_TARGET_URL` set, the same
//! sentences are told to a stack that is already running, see [`stack`].

pub mod clock;
pub mod database;
pub mod docker;
pub mod engine;
pub mod http;
pub mod mailbox;
pub mod person;
pub mod stack;
pub mod steps;
pub mod stripe;
pub mod units;
pub mod wait;
pub mod world;
