//! Doing what was planned, on the engine. Nothing here decides anything.

pub(crate) mod apply;
pub(crate) mod card;
pub(crate) mod disk;
pub(crate) mod frozen;
pub(crate) mod observe;
pub(crate) mod ready;
pub(crate) mod remove;
pub(crate) mod sites;
pub(crate) mod transfer;
