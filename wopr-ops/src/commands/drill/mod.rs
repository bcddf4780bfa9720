//! `drill`: rehearsals of what must not cost anything.

pub(crate) mod database;
pub(crate) mod offline;
mod operator;
pub(crate) mod power_cut;
pub(crate) mod tenant;
mod tenant_data;
