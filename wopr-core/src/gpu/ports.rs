use std::net::Ipv4Addr;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;

use super::error::{CloudError, ProbeError};
use super::model::{Host, Slug};
use crate::protocol::gpu::GpuService;

/// A machine that is to be made.
#[derive(Clone)]
pub struct NewMachine {
    /// Its name.
    pub name: String,
    /// Where.
    pub region: Slug,
    /// What.
    pub size: Slug,
    /// From which image.
    pub image: Slug,
    /// The provider's id or fingerprint of the key that may sign in.
    pub ssh_key: Option<String>,
    /// What it is found by again. The first names this machine and no other.
    pub tags: Vec<String>,
    /// What it runs when it first starts.
    pub user_data: SecretString,
}

impl std::fmt::Debug for NewMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewMachine").field("name", &self.name).field("tags", &self.tags).finish_non_exhaustive()
    }
}

/// Where a machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineState {
    /// It is being made.
    New,
    /// It runs.
    Active,
    /// It is switched off, or put away.
    Off,
}

/// A machine at the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The provider's id.
    pub id: String,
    /// Where it stands.
    pub state: MachineState,
    /// Its public address, once it has one.
    pub public_address: Option<Ipv4Addr>,
    /// What it costs for a month.
    pub monthly_cost_cents: Option<i64>,
}

/// A place where machines can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudRegion {
    /// Its word.
    pub slug: String,
    /// Its name.
    pub name: String,
    /// Whether machines can be made there now.
    pub available: bool,
    /// The sizes it has.
    pub sizes: Vec<String>,
}

/// A kind of machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudSize {
    /// Its word.
    pub slug: String,
    /// Its memory, in MiB.
    pub memory_mib: i64,
    /// Its processors.
    pub processors: i64,
    /// Its disk, in GiB.
    pub disk_gib: i64,
    /// What it costs for a month, in cents.
    pub monthly_cost_cents: i64,
    /// Whether it can be had now.
    pub available: bool,
    /// Where.
    pub regions: Vec<String>,
    /// What it is, for people.
    pub description: String,
}

/// Rents machines.
#[async_trait]
pub trait CloudProvider: Send + Sync + 'static {
    /// Asks for a machine. The answer says that the provider took the order, not that the machine runs. Asked twice it
    /// makes two: look for the tag first.
    async fn create_machine(&self, new: &NewMachine) -> Result<Machine, CloudError>;

    /// A machine; nothing when it is gone.
    async fn find_machine(&self, id: &str) -> Result<Option<Machine>, CloudError>;

    /// The machines that carry a tag, oldest first. One that was only just ordered may be missing.
    async fn list_tagged(&self, tag: &str) -> Result<Vec<Machine>, CloudError>;

    /// Removes a machine; one that is gone is fine.
    async fn delete_machine(&self, id: &str) -> Result<(), CloudError>;

    /// Restarts a machine.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] when it is gone.
    async fn reboot_machine(&self, id: &str) -> Result<(), CloudError>;

    /// Every region.
    async fn list_regions(&self) -> Result<Vec<CloudRegion>, CloudError>;

    /// Every size.
    async fn list_sizes(&self) -> Result<Vec<CloudSize>, CloudError>;
}

/// Asks services of nodes how they are.
#[async_trait]
pub trait ServiceProbe: Send + Sync + 'static {
    /// Asks one; a service that answers well answers how long that took.
    ///
    /// # Errors
    /// Why it is down; five seconds at most.
    async fn probe(
        &self,
        host: &Host,
        service: GpuService,
        token: Option<&SecretString>,
    ) -> Result<Duration, ProbeError>;
}
