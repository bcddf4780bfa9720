//! Cards that are not there, for tests of what the daemon does with them.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use wopr_core::protocol::gpu::GpuReading;

use super::{Cards, GpuProbe, Listener, NoGpu};

#[derive(Debug)]
enum Plan {
    Cards(Vec<GpuReading>),
    Fail(String),
    Hang,
}

#[derive(Debug)]
struct Shared {
    plan: Mutex<Plan>,
    changed: Condvar,
}

/// A driver that does as it is told, also hang.
#[derive(Debug)]
pub struct FakeGpu(Arc<Shared>);

/// Tells a [`FakeGpu`] what to do from its next call on.
#[derive(Debug, Clone)]
pub struct FakeControl(Arc<Shared>);

impl FakeGpu {
    /// A driver with one card.
    pub fn new() -> (Self, FakeControl) {
        let plan = Mutex::new(Plan::Cards(vec![Self::card(0)]));
        let shared = Arc::new(Shared { plan, changed: Condvar::new() });
        (Self(Arc::clone(&shared)), FakeControl(shared))
    }

    /// A driver whose first call never returns.
    pub fn hanging() -> Self {
        let (gpu, control) = Self::new();
        control.hang();
        gpu
    }

    /// A driver on a machine without a card.
    pub fn none() -> Self {
        let (gpu, control) = Self::new();
        control.fail("no driver on this machine");
        gpu
    }

    /// A card.
    pub fn card(index: u32) -> GpuReading {
        GpuReading {
            index,
            uuid: format!("GPU-fake-{index}"),
            name: "Fake".to_owned(),
            memory_total_bytes: 8 << 30,
            memory_used_bytes: 1 << 30,
            temperature_celsius: 40,
            power_milliwatts: 75_000,
            utilization_percent: 5,
            ecc_uncorrected: Some(0),
            last_xid: None,
        }
    }
}

impl FakeControl {
    /// From now on these cards are read.
    pub fn show(&self, cards: Vec<GpuReading>) {
        self.set(Plan::Cards(cards));
    }

    /// From now on nothing can be read.
    pub fn fail(&self, reason: &str) {
        self.set(Plan::Fail(reason.to_owned()));
    }

    /// From now on calls do not return, until something else is said.
    pub fn hang(&self) {
        self.set(Plan::Hang);
    }

    fn set(&self, plan: Plan) {
        *self.0.plan.lock().unwrap_or_else(PoisonError::into_inner) = plan;
        self.0.changed.notify_all();
    }
}

impl GpuProbe for FakeGpu {
    fn watch(&mut self, listener: &Listener) -> Result<(), NoGpu> {
        loop {
            let plan = self.0.plan.lock().unwrap_or_else(PoisonError::into_inner);
            let hangs = |plan: &mut Plan| matches!(plan, Plan::Hang);
            let plan = self.0.changed.wait_while(plan, hangs).unwrap_or_else(PoisonError::into_inner);
            let gpus = match &*plan {
                Plan::Cards(cards) => cards.clone(),
                Plan::Fail(reason) => return Err(NoGpu(reason.clone())),
                // Woken only by another plan.
                Plan::Hang => continue,
            };
            drop(plan);
            listener.read(Cards { driver_version: "0.0-fake".to_owned(), gpus });
            if !listener.pause() {
                return Ok(());
            }
        }
    }
}
