//! `bench`: what things take, measured in one run beside what cannot be avoided.

pub(crate) mod backup;
pub(crate) mod gateway;
pub(crate) mod up;
