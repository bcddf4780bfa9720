//! The real outside, one cargo feature each.

#[cfg(feature = "cloud")]
pub mod cloud;
#[cfg(feature = "docker")]
pub mod docker;
#[cfg(any(feature = "cloud", feature = "inference", feature = "models"))]
pub mod http;
#[cfg(feature = "inference")]
pub mod inference;
#[cfg(feature = "models")]
pub mod models;
#[cfg(feature = "smtp")]
pub mod smtp;
#[cfg(feature = "stripe")]
pub mod stripe;
