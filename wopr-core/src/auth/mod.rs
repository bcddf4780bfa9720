//! Users, sessions and API keys: who is calling, and for which tenant.
//!
//! - One address is one user, however many sign up with it at once; the user's personal tenant is made with it.
//! - Of every secret that this crate hands out (session tokens, links sent by mail, API keys) only a digest is stored.
//! - A link sent by mail works once. Confirming the address, its grant and its mail are one transaction.
//! - A new password ends the sessions that the old one began.
//! - Guessing is slowed down per account and counted per client, in PostgreSQL, so that replicas share the counts.

mod credentials;
mod error;
mod keyring;
mod keys;
mod model;
mod operator;
mod password;
mod random;
mod repository;
mod service;
mod throttle;

pub use self::credentials::{Email, NewPassword, PasswordPolicy};
pub use self::error::AuthError;
pub use self::keyring::{EmptyKeyRing, KeyRing};
pub use self::keys::{ApiKey, KeyHolder, NewApiKey, Scope, UnknownScope};
pub use self::model::{Account, ImageChange, Refreshed, Session, SignUp, SignedIn, Started, User};
pub use self::operator::OperatorToken;
pub use self::service::{AdminGrant, Auth, AuthConfig, is_service_key};
pub use self::throttle::{Decision, Limit, Throttle};
