//! The real outside, one cargo feature each.

#[cfg(feature = "smtp")]
pub mod smtp;
#[cfg(feature = "stripe")]
pub mod stripe;
