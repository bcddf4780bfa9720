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
//! | [`backup`] | what bots remember, kept apart from their machines and brought back byte by byte |
//! | [`gateway`] | calls to models: nobody's call unpaid, nobody's credit overdrawn |
//! | [`gpu`] | GPU nodes: enrolled or made, watched, rebooted, and never forgotten |
//! | [`notify`] | mails, queued in the transaction that causes them |
//! | [`audit`] | what was done by whom, written in the transaction of what it records |
//!
//! Shared vocabulary without I/O: [`ids`], [`money`], [`clock`], and [`protocol`], what other machines are told. Storage: [`db`]. The real outside, one cargo feature
//! each: [`adapters`].
//!
//! # Embedding it
//!
//! 1. Make a [`Db`](db::Db) with a PostgreSQL schema of its own ([`DbConfig::schema`](db::DbConfig)); it leaves the
//!    host's tables alone. Call [`Db::migrate`](db::Db::migrate) before serving: several processes may do so at once.
//! 2. Make the handles that are wanted. [`Billing`](billing::Billing) needs the database and a clock,
//!    [`Fleet`](fleet::Fleet) also billing and a container engine, such as `adapters::docker::DockerHost`. All are cheap
//!    to clone and safe to share, and nothing is connected before its first use.
//! 3. Give every customer a tenant: [`Auth::sign_up`](auth::Auth::sign_up), or
//!    [`Billing::open_account`](billing::Billing::open_account) in a host with customers of its own. The handles take
//!    the tenant they act for; that the caller may act for it is the host's promise.
//! 4. Run the periodic work: methods without arguments, made to be repeated. Bots need
//!    [`Fleet::spawn_due`](fleet::Fleet::spawn_due) (woken by [`Fleet::waker`](fleet::Fleet::waker)),
//!    [`Fleet::reconcile`](fleet::Fleet::reconcile) and [`Fleet::charge_due_days`](fleet::Fleet::charge_due_days);
//!    credit needs [`Billing::advance_standing`](billing::Billing::advance_standing) and
//!    [`Billing::expire_holds`](billing::Billing::expire_holds). Of several processes one does each with
//!    [`Leases`](db::Leases).
//!
//! `examples/embed.rs` is such a host in full: another axum service with a balance and bots.
//!
//! # Features
//!
//! `postgres` brings the domains and their storage; without it only the vocabulary and [`protocol`] are left. `cloud`,
//! `docker`, `inference`, `models`, `stripe` and `smtp` bring the adapters; all of these are on by default. `testing` brings fakes
//! of the ports, a clock that stands still, and a database for each test.

#[cfg(feature = "postgres")]
pub mod adapters;
#[cfg(feature = "postgres")]
pub mod audit;
#[cfg(feature = "postgres")]
pub mod auth;
#[cfg(feature = "postgres")]
pub mod backup;
#[cfg(feature = "postgres")]
pub mod billing;
pub mod clock;
#[cfg(feature = "postgres")]
pub mod db;
#[cfg(feature = "postgres")]
pub mod fleet;
#[cfg(feature = "postgres")]
pub mod gateway;
#[cfg(feature = "postgres")]
pub mod gpu;
pub mod ids;
pub mod money;
#[cfg(feature = "postgres")]
pub mod notify;
pub mod protocol;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "postgres")]
pub mod vault;
