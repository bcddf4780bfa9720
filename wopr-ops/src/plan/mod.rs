//! Deciding what to do: what is wanted and what was seen become a list of steps. Nothing here touches the world.

pub(crate) mod archive;
pub(crate) mod disk;
pub(crate) mod inference;
pub(crate) mod machines;
pub(crate) mod platform;
pub(crate) mod production;
pub(crate) mod removal;
pub(crate) mod scratch;
pub(crate) mod spec;
pub(crate) mod steps;

#[cfg(test)]
mod tests;
