//! What the API and the daemons on other machines say to each other: messages and credentials, no I/O.

pub mod backup;
pub mod gpu;
