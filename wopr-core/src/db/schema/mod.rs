//! The tables, as the migrations leave them, one file per domain. A test compares them with `information_schema`.

pub(crate) mod auth;
pub(crate) mod backup;
pub(crate) mod billing;
pub(crate) mod fleet;
pub(crate) mod foundation;
pub(crate) mod gateway;
pub(crate) mod gpu;
pub(crate) mod payments;
