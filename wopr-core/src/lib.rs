//! The WOPR control plane as a library: everything that decides, and nothing that listens.
//!
//! A host application gives it a [`Db`](db::Db), a [`Clock`](clock::Clock) and the outside world as ports; the crate
//! reads no environment, keeps no global state and installs no subscriber.
//!
//! | Domain | Promises |
//! |---|---|
//! | [`auth`] | users, sessions, API keys: who is calling, and for which tenant |
//! | [`billing`] | prepaid credit: every cent that moved, once, and why |
//! | [`fleet`] | bots: what should run, what runs, and the way from one to the other |
//! | [`notify`] | mails, queued in the transaction that causes them |
//! | [`audit`] | what was done by whom, written in the transaction of what it records |
//!
//! Shared vocabulary without I/O: [`ids`], [`money`], [`clock`]. Storage: [`db`]. The real outside, one cargo feature
//! each: [`adapters`].

pub mod adapters;
pub mod audit;
pub mod auth;
pub mod billing;
pub mod clock;
pub mod db;
pub mod fleet;
pub mod ids;
pub mod money;
pub mod notify;
#[cfg(feature = "testing")]
pub mod testing;
