//! What is counted, and how it is shown to Prometheus.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use wopr_core::protocol::gpu::{GpuMode, GpuService, ServiceState};

use crate::health::Condition;

const STATE: &str = "wopr_gpu_node_service_state";
const LAST_SUCCESS: &str = "wopr_gpu_node_service_last_success_age_seconds";
const STAND_IN: &str = "wopr_gpu_node_service_stand_in";
const PROOF: &str = "wopr_gpu_node_proof_seconds";
const PROOF_FAILURES: &str = "wopr_gpu_node_proof_failures_total";
const HEARTBEATS: &str = "wopr_gpu_node_heartbeats_total";
const REPORTS: &str = "wopr_gpu_node_stage_reports_total";
const REQUESTS: &str = "wopr_gpu_node_proxy_requests_total";
const IN_FLIGHT: &str = "wopr_gpu_node_proxy_requests_in_flight";
const GPU_MODE: &str = "wopr_gpu_node_gpu_mode";
const GPU_MEMORY_TOTAL: &str = "wopr_gpu_node_gpu_memory_total_bytes";
const GPU_MEMORY_USED: &str = "wopr_gpu_node_gpu_memory_used_bytes";
const GPU_TEMPERATURE: &str = "wopr_gpu_node_gpu_temperature_celsius";
const GPU_POWER: &str = "wopr_gpu_node_gpu_power_milliwatts";
const GPU_UTILIZATION: &str = "wopr_gpu_node_gpu_utilization_percent";
const GPU_ECC: &str = "wopr_gpu_node_gpu_ecc_uncorrected";
const GPU_XID: &str = "wopr_gpu_node_gpu_last_xid";

const PROOF_BUCKETS: [f64; 9] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// Starts counting, once in a process.
///
/// # Errors
/// When the process counts already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Full(PROOF.to_owned()), &PROOF_BUCKETS)?;
    let handle = builder.install_recorder()?;
    describe_gauge!(STATE, "1 for the state that the service is in, 0 for the others");
    describe_gauge!(LAST_SUCCESS, Unit::Seconds, "since a tiny request was answered well");
    describe_gauge!(STAND_IN, "1 when the service says that it is a stand-in");
    describe_histogram!(PROOF, Unit::Seconds, "how long a tiny request took that was answered well");
    describe_counter!(PROOF_FAILURES, "tiny requests that were not answered well");
    describe_counter!(HEARTBEATS, "heartbeats, by what became of them");
    describe_counter!(REPORTS, "stage reports, by what became of them");
    describe_counter!(REQUESTS, "requests to a service's port, by what became of them");
    describe_gauge!(IN_FLIGHT, "requests in progress");
    describe_gauge!(GPU_MODE, "1 for the mode that the node is in, 0 for the others");
    describe_gauge!(GPU_MEMORY_TOTAL, Unit::Bytes, "memory of the card");
    describe_gauge!(GPU_MEMORY_USED, Unit::Bytes, "memory of the card in use");
    describe_gauge!(GPU_TEMPERATURE, "temperature of the card");
    describe_gauge!(GPU_POWER, "what the card draws");
    describe_gauge!(GPU_UTILIZATION, "how much of the last sample period the card was busy");
    describe_gauge!(GPU_ECC, "memory errors that could not be corrected since the driver was loaded");
    describe_gauge!(GPU_XID, "number of the last error that the driver logged for the card");
    Ok(handle)
}

#[expect(clippy::cast_precision_loss, reason = "a metric is a float; 53 bits are enough for every number here")]
const fn float(number: u64) -> f64 {
    number as f64
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}

pub(crate) fn condition(service: GpuService, condition: &Condition, now: Duration) {
    for state in ServiceState::ALL {
        let labels = [("service", service.as_str()), ("state", state.as_str())];
        gauge!(STATE, &labels).set(flag(*state == condition.state));
    }
    let name = service.as_str();
    gauge!(STAND_IN, "service" => name).set(flag(condition.stand_in));
    if let Some(at) = condition.last_success {
        gauge!(LAST_SUCCESS, "service" => name).set(now.saturating_sub(at).as_secs_f64());
    }
}

pub(crate) fn proof(service: GpuService, took: Option<Duration>) {
    match took {
        Some(took) => histogram!(PROOF, "service" => service.as_str()).record(took.as_secs_f64()),
        None => counter!(PROOF_FAILURES, "service" => service.as_str()).increment(1),
    }
}

pub(crate) fn heartbeat(outcome: &'static str) {
    counter!(HEARTBEATS, "outcome" => outcome).increment(1);
}

pub(crate) fn report(outcome: &'static str) {
    counter!(REPORTS, "outcome" => outcome).increment(1);
}

pub(crate) fn request(service: GpuService, outcome: &'static str) {
    counter!(REQUESTS, "service" => service.as_str(), "outcome" => outcome).increment(1);
}

pub(crate) fn in_flight(service: GpuService, requests: u64) {
    gauge!(IN_FLIGHT, "service" => service.as_str()).set(float(requests));
}

pub(crate) fn gpu(mode: &GpuMode) {
    let word = match mode {
        GpuMode::Nvidia { .. } => "nvidia",
        GpuMode::Cpu { .. } => "cpu",
        GpuMode::Unresponsive { .. } => "unresponsive",
    };
    for known in ["nvidia", "cpu", "unresponsive"] {
        gauge!(GPU_MODE, "mode" => known).set(flag(known == word));
    }
    if let GpuMode::Nvidia { gpus, .. } = mode {
        for card in gpus {
            let set = |name: &'static str, value: u64| {
                gauge!(name, "index" => card.index.to_string(), "uuid" => card.uuid.clone()).set(float(value));
            };
            set(GPU_MEMORY_TOTAL, card.memory_total_bytes);
            set(GPU_MEMORY_USED, card.memory_used_bytes);
            set(GPU_TEMPERATURE, card.temperature_celsius.into());
            set(GPU_POWER, card.power_milliwatts.into());
            set(GPU_UTILIZATION, card.utilization_percent.into());
            if let Some(errors) = card.ecc_uncorrected {
                set(GPU_ECC, errors);
            }
            if let Some(xid) = card.last_xid {
                set(GPU_XID, xid.into());
            }
        }
    }
}
