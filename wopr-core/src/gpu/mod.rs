//! GPU nodes: inference capacity that the whole platform shares. No tenant runs on them.
//!
//! - A node is a row before it is a machine. A machine that exists is [enrolled](Gpu::enrol) by its host; one that does
//!   not is [wanted](Gpu::provision), and a job makes it, finding what a crash left by a tag of the row's own.
//! - A node reports how far its set-up has got, and only forward. It serves when the platform's own poll has had an
//!   answer from every service it should have, not when it says so.
//! - [`Gpu::watch`] polls the nodes and judges what they answer ([`WatchdogPolicy`]): counters, reboots and deadlines
//!   are rows, so a restart changes nothing of them. A node that was given up is looked at now and then and comes back
//!   by itself; nothing but its removal is final.
//! - Nodes prove themselves with a secret of their own, which both sides compute ([`MasterSecrets`]); the shared one is
//!   good for reporting stages and for nothing else.
//!
//! [`Gpu`] is the handle; [`CloudProvider`] and [`ServiceProbe`] are what it needs from outside. Without a provider
//! everything works but making, rebooting and removing machines.

mod alerts;
pub mod cloud_init;
mod credentials;
mod error;
mod model;
mod ports;
mod provision;
mod reports;
mod repository;
mod service;
mod watch;
mod watchdog;
#[cfg(test)]
mod watchdog_tests;

pub use self::credentials::{MasterSecrets, NodeCredential};
pub use self::error::{CloudError, GpuError, ProbeError};
pub use self::model::{
    GpuBackend, GpuNode, GpuNodeId, Host, InvalidGpuInput, InvalidTransition, LOCAL_REGION, NewEnrolment, NewProvision,
    NodeSource, NodeStatus, RebootReason, ServiceHealth, Slug,
};
pub use self::ports::{CloudProvider, CloudRegion, CloudSize, Machine, MachineState, NewMachine, ServiceProbe};
pub use self::provision::Provisioned;
pub use self::reports::Birth;
pub use self::service::{Enrolled, Gpu, GpuConfig, ProvisionConfig};
pub use self::watch::Watched;
pub use self::watchdog::WatchdogPolicy;
