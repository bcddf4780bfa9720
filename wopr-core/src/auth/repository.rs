//! The statements, by table.

pub(super) mod keys;
pub(super) mod sessions;
pub(super) mod throttle;
pub(super) mod tokens;
pub(super) mod users;
