//! `drill`: rehearsals of what must not cost anything.

pub(crate) mod offline;
pub(crate) mod power_cut;
