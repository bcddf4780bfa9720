//! A cloud provider in memory: it keeps the machines it was asked for, and can be told to be away, to refuse, to lose
//! its answer, or to show a machine only later.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};

use crate::gpu::{CloudError, CloudProvider, CloudRegion, CloudSize, Machine, MachineState, NewMachine};

/// What a machine costs here for a month, in cents.
const MONTHLY_COST_CENTS: i64 = 247_680;

#[derive(Debug)]
struct Kept {
    machine: Machine,
    name: String,
    tags: Vec<String>,
    user_data: SecretString,
    hidden: bool,
}

/// How the next call is to fail.
#[derive(Debug, Clone)]
enum Fault {
    /// Nothing is done.
    Refuse(CloudError),
    /// It is done, and the answer is lost.
    LoseAnswer,
    /// It is done, and nothing is ever answered.
    Hang,
    /// It does not.
    None,
}

#[derive(Debug, Default)]
struct State {
    away: bool,
    faults: VecDeque<Fault>,
    hides_new: bool,
    next: u64,
    machines: BTreeMap<u64, Kept>,
    reboots: Vec<String>,
}

/// A cloud provider in memory. Clones share its state.
#[derive(Debug, Clone, Default)]
pub struct MemoryCloud(Arc<Mutex<State>>);

impl MemoryCloud {
    /// Fails every call from now on, or no longer.
    pub fn set_away(&self, away: bool) {
        self.lock().away = away;
    }

    /// Answers the next call with this error and does nothing; several calls queue up.
    pub fn fail_next(&self, error: CloudError) {
        self.lock().faults.push_back(Fault::Refuse(error));
    }

    /// Does what the next call asks for and answers with a failure, as when the connection breaks at the wrong moment.
    pub fn lose_next_answer(&self) {
        self.lock().faults.push_back(Fault::LoseAnswer);
    }

    /// Does what the next call asks for and never answers, so that whoever called can be killed at that moment.
    pub fn hang_at_next_answer(&self) {
        self.lock().faults.push_back(Fault::Hang);
    }

    /// Does the next call as it should be: what fails comes after it.
    pub fn answer_next(&self) {
        self.lock().faults.push_back(Fault::None);
    }

    /// From now on new machines are not listed until [`MemoryCloud::show_all`].
    pub fn hide_new(&self) {
        self.lock().hides_new = true;
    }

    /// Lists every machine.
    pub fn show_all(&self) {
        let mut state = self.lock();
        state.hides_new = false;
        state.machines.values_mut().for_each(|kept| kept.hidden = false);
    }

    /// Every machine runs, and has an address.
    pub fn boot_all(&self) {
        for (id, kept) in &mut self.lock().machines {
            kept.machine.state = MachineState::Active;
            let last = u8::try_from(id % 200).unwrap_or_default();
            kept.machine.public_address = Some(Ipv4Addr::new(203, 0, 113, last));
        }
    }

    /// A machine is gone without anybody having asked.
    pub fn vanish(&self, id: &str) {
        self.lock().machines.retain(|_, kept| kept.machine.id != id);
    }

    /// The ids of the machines there are.
    pub fn machine_ids(&self) -> Vec<String> {
        self.lock().machines.values().map(|kept| kept.machine.id.clone()).collect()
    }

    /// The names of the machines there are.
    pub fn machine_names(&self) -> Vec<String> {
        self.lock().machines.values().map(|kept| kept.name.clone()).collect()
    }

    /// What a machine was told to run when it first starts.
    pub fn user_data(&self, id: &str) -> Option<String> {
        let state = self.lock();
        let kept = state.machines.values().find(|kept| kept.machine.id == id)?;
        Some(kept.user_data.expose_secret().to_owned())
    }

    /// The machines that were rebooted, in order.
    pub fn reboots(&self) -> Vec<String> {
        self.lock().reboots.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something, unless a fault says otherwise.
    async fn call<T>(&self, act: impl FnOnce(&mut State) -> Result<T, CloudError>) -> Result<T, CloudError> {
        {
            let mut state = self.lock();
            if state.away {
                return Err(CloudError::Unavailable("on purpose".to_owned()));
            }
            match state.faults.pop_front() {
                None | Some(Fault::None) => return act(&mut state),
                Some(Fault::Refuse(error)) => return Err(error),
                Some(Fault::LoseAnswer) => {
                    act(&mut state)?;
                    return Err(CloudError::Unavailable("the answer was lost".to_owned()));
                }
                Some(Fault::Hang) => act(&mut state)?,
            }
        };
        std::future::pending().await
    }
}

fn find<'s>(state: &'s mut State, id: &str) -> Option<&'s mut Kept> {
    state.machines.values_mut().find(|kept| kept.machine.id == id)
}

#[async_trait]
impl CloudProvider for MemoryCloud {
    async fn create_machine(&self, new: &NewMachine) -> Result<Machine, CloudError> {
        self.call(|state| {
            if !sizes().iter().any(|size| size.slug == new.size.as_str()) {
                return Err(CloudError::Refused(
                    "You specified an invalid size for Droplet creation. (422)".to_owned(),
                ));
            }
            state.next += 1;
            let machine = Machine {
                id: (1000 + state.next).to_string(),
                state: MachineState::New,
                public_address: None,
                monthly_cost_cents: Some(MONTHLY_COST_CENTS),
            };
            let kept = Kept {
                machine: machine.clone(),
                name: new.name.clone(),
                tags: new.tags.clone(),
                user_data: new.user_data.clone(),
                hidden: state.hides_new,
            };
            state.machines.insert(state.next, kept);
            Ok(machine)
        })
        .await
    }

    async fn find_machine(&self, id: &str) -> Result<Option<Machine>, CloudError> {
        self.call(|state| Ok(find(state, id).map(|kept| kept.machine.clone()))).await
    }

    async fn list_tagged(&self, tag: &str) -> Result<Vec<Machine>, CloudError> {
        self.call(|state| {
            let tagged = |kept: &&Kept| !kept.hidden && kept.tags.iter().any(|known| known == tag);
            Ok(state.machines.values().filter(tagged).map(|kept| kept.machine.clone()).collect())
        })
        .await
    }

    async fn delete_machine(&self, id: &str) -> Result<(), CloudError> {
        self.call(|state| {
            state.machines.retain(|_, kept| kept.machine.id != id);
            Ok(())
        })
        .await
    }

    async fn reboot_machine(&self, id: &str) -> Result<(), CloudError> {
        self.call(|state| {
            let machine = find(state, id).ok_or(CloudError::NotFound)?.machine.id.clone();
            state.reboots.push(machine);
            Ok(())
        })
        .await
    }

    async fn list_regions(&self) -> Result<Vec<CloudRegion>, CloudError> {
        let region = |slug: &str, name: &str, available, sizes: &[&str]| CloudRegion {
            slug: slug.to_owned(),
            name: name.to_owned(),
            available,
            sizes: sizes.iter().map(|&size| size.to_owned()).collect(),
        };
        self.call(|_| {
            Ok(vec![
                region("nyc1", "New York 1", true, &["s-1vcpu-1gb", "gpu-h100x1-80gb"]),
                region("sfo3", "San Francisco 3", true, &["s-1vcpu-1gb"]),
                region("tor1", "Toronto 1", false, &["gpu-h100x1-80gb"]),
            ])
        })
        .await
    }

    async fn list_sizes(&self) -> Result<Vec<CloudSize>, CloudError> {
        self.call(|_| Ok(sizes())).await
    }
}

fn sizes() -> Vec<CloudSize> {
    let size = |slug: &str, memory_mib, processors, disk_gib, monthly_cost_cents, available| CloudSize {
        slug: slug.to_owned(),
        memory_mib,
        processors,
        disk_gib,
        monthly_cost_cents,
        available,
        regions: vec!["nyc1".to_owned()],
        description: "Test".to_owned(),
    };
    vec![
        size("s-1vcpu-1gb", 1_024, 1, 25, 600, true),
        size("gpu-h100x1-80gb", 245_760, 20, 720, MONTHLY_COST_CENTS, true),
        size("gpu-h100x8-640gb", 1_966_080, 160, 2_000, 1_779_648, false),
    ]
}
