//! What the operator is told.

use jiff::Timestamp;

use super::model::GpuNode;
use super::watchdog::Finding;
use crate::notify::{Mail, templates};

/// The mail about a finding; nothing for those that only belong into the log.
pub(super) fn mail(operator: &str, node: &GpuNode, finding: &Finding, now: Timestamp) -> Option<Mail> {
    let id = &node.id;
    let health: Vec<String> = node
        .services
        .iter()
        .filter(|(_, health)| health.expected)
        .map(|(service, health)| format!("{service}: {}", if health.ok == Some(true) { "ok" } else { "down" }))
        .collect();
    let health = format!("Services: {}.", health.join(", "));
    let (template, title, paragraph) = match finding {
        Finding::Degraded => {
            let then = match node.machine_id {
                Some(_) => "Its machine is being rebooted.",
                None => "It has no machine that could be rebooted from here.",
            };
            ("gpu_node_degraded", format!("GPU node {id} does not answer"), format!("No service answers. {then}"))
        }
        Finding::GivenUp(reason) => (
            "gpu_node_failed",
            format!("GPU node {id} was given up"),
            format!("The reason: {reason}. It is looked at every few minutes and serves again when it answers."),
        ),
        Finding::Recovered { .. } => {
            ("gpu_node_recovered", format!("GPU node {id} serves again"), "It answers.".to_owned())
        }
        Finding::ServiceDown(service) => (
            "gpu_service_down",
            format!("{service} on GPU node {id} is down"),
            format!("The service {service} has not answered for some minutes; the node serves the others."),
        ),
        Finding::Ready | Finding::Reboot | Finding::NoReboot | Finding::ServiceBack(_) => return None,
    };
    let mut cause = format!("{id}:{}", now.as_millisecond());
    if let Finding::ServiceDown(service) = finding {
        cause = format!("{cause}:{service}");
    }
    Some(templates::notice(template, &cause, operator, &title, &[&paragraph, &health]))
}

/// Says in the log what was found, and what is done about it.
pub(super) fn log(node: &GpuNode, finding: &Finding) {
    let id = &node.id;
    match finding {
        Finding::Ready => tracing::info!(node.id = %id, "every service of GPU node {id} answers: it serves"),
        Finding::Degraded => tracing::error!(node.id = %id, "no service of GPU node {id} answers"),
        Finding::Reboot => tracing::warn!(node.id = %id, "GPU node {id} is to be rebooted"),
        Finding::NoReboot => {
            tracing::warn!(node.id = %id, "GPU node {id} cannot be rebooted: it has no machine at the provider");
        }
        Finding::Recovered { .. } => tracing::info!(node.id = %id, "GPU node {id} serves again"),
        Finding::GivenUp(reason) => tracing::error!(node.id = %id, "GPU node {id} is given up: {reason}"),
        Finding::ServiceDown(service) => {
            tracing::error!(node.id = %id, gpu.service = %service, "{service} on GPU node {id} is down for long");
        }
        Finding::ServiceBack(service) => {
            tracing::info!(node.id = %id, gpu.service = %service, "{service} on GPU node {id} answers again");
        }
    }
}

/// The word of a finding in the audit log; nothing for those that change nothing.
pub(super) const fn action(finding: &Finding) -> Option<&'static str> {
    match finding {
        Finding::Ready => Some("gpu.activate"),
        Finding::Degraded => Some("gpu.degrade"),
        Finding::Reboot => Some("gpu.reboot"),
        Finding::Recovered { .. } => Some("gpu.recover"),
        Finding::GivenUp(_) => Some("gpu.fail"),
        Finding::NoReboot | Finding::ServiceDown(_) | Finding::ServiceBack(_) => None,
    }
}
