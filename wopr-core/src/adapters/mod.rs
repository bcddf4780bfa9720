//! The real outside, one cargo feature each.

#[cfg(feature = "smtp")]
pub mod smtp;
