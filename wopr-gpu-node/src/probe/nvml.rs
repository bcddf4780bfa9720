//! NVIDIA's driver through its management library, which is loaded when the program runs.
//!
//! A machine without the library still runs the daemon. So does a statically linked build, which says so instead of giving
//! a reading: it could load a library only beside the very C library that it was linked with.

use std::collections::BTreeMap;

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::event::EventSet;
use wopr_core::protocol::gpu::GpuReading;

use super::{Cards, GpuProbe, Listener, NoGpu};

/// NVIDIA's driver.
#[derive(Debug, Default)]
pub struct NvidiaGpu {
    /// The last error of each card, by its id: a driver that is opened again does not tell old ones again.
    xids: BTreeMap<String, u32>,
}

impl GpuProbe for NvidiaGpu {
    fn watch(&mut self, listener: &Listener) -> Result<(), NoGpu> {
        if cfg!(target_feature = "crt-static") {
            return Err(NoGpu(
                "this build is static and does not load the driver's library; a dynamically linked one does".to_owned(),
            ));
        }
        let nvml = Nvml::init().map_err(|error| NoGpu(format!("the driver's library does not start: {error}")))?;
        let driver_version = nvml.sys_driver_version().map_err(lost)?;
        let events = register(&nvml);
        loop {
            let gpus = self.read(&nvml).map_err(lost)?;
            if gpus.is_empty() {
                return Err(NoGpu(format!("driver {driver_version} knows no card")));
            }
            listener.read(Cards { driver_version: driver_version.clone(), gpus });
            match &events {
                Some(events) => self.wait(events, listener).map_err(lost)?,
                None if !listener.pause() => return Ok(()),
                None => {}
            }
            if listener.is_stopped() {
                return Ok(());
            }
        }
    }
}

impl NvidiaGpu {
    fn read(&self, nvml: &Nvml) -> Result<Vec<GpuReading>, NvmlError> {
        let mut gpus = Vec::new();
        for index in 0..nvml.device_count()? {
            let device = nvml.device_by_index(index)?;
            let memory = device.memory_info()?;
            let uuid = device.uuid()?;
            gpus.push(GpuReading {
                index,
                name: device.name()?,
                memory_total_bytes: memory.total,
                memory_used_bytes: memory.used,
                temperature_celsius: optional(device.temperature(TemperatureSensor::Gpu))?.unwrap_or_default(),
                power_milliwatts: optional(device.power_usage())?.unwrap_or_default(),
                utilization_percent: optional(device.utilization_rates())?.map_or(0, |rates| rates.gpu),
                ecc_uncorrected: optional(device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile))?,
                last_xid: self.xids.get(&uuid).copied(),
                uuid,
            });
        }
        Ok(gpus)
    }

    /// Waits for an error of a card, at most until the next reading is due.
    fn wait(&mut self, events: &EventSet<'_>, listener: &Listener) -> Result<(), NvmlError> {
        let time = listener.interval();
        listener.expect_within(time);
        let waited = events.wait(u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
        listener.expect_within(std::time::Duration::ZERO);
        match waited {
            Ok(event) => {
                let uuid = event.device.uuid()?;
                match event.event_data {
                    Some(XidError::Value(xid)) => {
                        tracing::error!(gpu.uuid = uuid, gpu.xid = xid, "the driver logged error {xid} for {uuid}");
                        self.xids.insert(uuid, u32::try_from(xid).unwrap_or(u32::MAX));
                    }
                    Some(XidError::Unknown) => {
                        tracing::error!(gpu.uuid = uuid, "the driver logged an error for {uuid}");
                    }
                    None => {}
                }
                Ok(())
            }
            Err(NvmlError::Timeout) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Asks to be told of errors; nothing where the cards cannot tell.
fn register(nvml: &Nvml) -> Option<EventSet<'_>> {
    let register = || {
        let mut events = nvml.create_event_set()?;
        for index in 0..nvml.device_count()? {
            let device = nvml.device_by_index(index)?;
            events = device.register_events(EventTypes::CRITICAL_XID_ERROR, events).map_err(|error| error.error)?;
        }
        Ok::<_, NvmlError>(events)
    };
    register().inspect_err(|error| tracing::warn!("errors of the cards are not told: {error}")).ok()
}

/// What a card does not have is no error.
fn optional<T>(read: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_) | NvmlError::NoPermission) => Ok(None),
        Err(error) => Err(error),
    }
}

fn lost(error: NvmlError) -> NoGpu {
    NoGpu(format!("the driver failed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_card_lacks_is_no_error_and_a_lost_card_is() {
        assert_eq!(optional(Ok(7)).unwrap(), Some(7));
        assert_eq!(optional::<u32>(Err(NvmlError::NotSupported)).unwrap(), None);
        assert!(matches!(optional::<u32>(Err(NvmlError::GpuLost)), Err(NvmlError::GpuLost)));
    }
}
