//! The real outside, one cargo feature each.

#[cfg(feature = "docker")]
pub mod docker;
#[cfg(feature = "smtp")]
pub mod smtp;
#[cfg(feature = "stripe")]
pub mod stripe;
