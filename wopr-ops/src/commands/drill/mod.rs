//! `drill`: rehearsals of what must not cost anything.

pub(crate) mod database;
pub(crate) mod offline;
pub(crate) mod power_cut;
pub(crate) mod server_loss;
pub(crate) mod tenant;
mod tenant_data;
