//! `drill`: rehearsals of what must not cost anything.

pub(crate) mod archive;
mod archived;
pub(crate) mod card;
pub(crate) mod database;
pub(crate) mod offline;
pub(crate) mod place;
pub(crate) mod point_in_time;
pub(crate) mod power_cut;
pub(crate) mod registry;
pub(crate) mod server_loss;
mod stage;
pub(crate) mod tenant;
mod tenant_data;
mod throw_away;
