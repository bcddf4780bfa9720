//! What a poll of a node means, and what is done about it. Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::model::{GpuNode, InvalidTransition, NodeStatus, ServiceHealth};
use crate::protocol::gpu::{GpuService, ServiceState, Stage};

/// The patience of the watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchdogPolicy {
    /// The pause between two polls of a node.
    pub interval: SignedDuration,
    /// The same for a node that was given up.
    pub failed_interval: SignedDuration,
    /// After so many polls in a row without any answer the node is rebooted.
    pub reboot_threshold: i32,
    /// How long after a reboot the node is given up.
    pub failed_after: SignedDuration,
    /// How long after a reboot was asked for the node may still answer from before it.
    pub reboot_settle: SignedDuration,
    /// A node that was rebooted so often within 24 hours is given up instead.
    pub reboots_per_day: i64,
    /// How long a service may be down before somebody is told.
    pub tell_after: SignedDuration,
}

impl Default for WatchdogPolicy {
    /// Every 30 s, five minutes when given up; reboot after two polls, three times a day at most, ten minutes to come
    /// back; a word about a single service after five minutes.
    fn default() -> Self {
        Self {
            interval: SignedDuration::from_secs(30),
            failed_interval: SignedDuration::from_mins(5),
            reboot_threshold: 2,
            failed_after: SignedDuration::from_mins(10),
            reboot_settle: SignedDuration::from_mins(2),
            reboots_per_day: 3,
            tell_after: SignedDuration::from_mins(5),
        }
    }
}

/// What each service answered: how long it took in milliseconds, or why it is down.
pub(super) type Answers = BTreeMap<GpuService, Result<u32, String>>;

/// What a poll leads to, besides what it changes of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// Every service answers for the first time: it serves from now on.
    Ready,
    /// Nothing answers any more.
    Degraded,
    /// It is to be rebooted.
    Reboot,
    /// It cannot be rebooted: we have no machine of it.
    NoReboot,
    /// It serves again.
    Recovered {
        /// What it was until now.
        from: NodeStatus,
    },
    /// It is given up, for this reason.
    GivenUp(String),
    /// One service of a node that serves is down for long.
    ServiceDown(GpuService),
    /// A service about which somebody was told is back.
    ServiceBack(GpuService),
}

/// Whether the node is to be polled at all.
pub(super) fn is_polled(node: &GpuNode) -> bool {
    node.host.is_some()
        && match node.status {
            NodeStatus::Active | NodeStatus::Degraded | NodeStatus::Failed => true,
            NodeStatus::Bootstrapping => node.stage >= Stage::StartingServices,
            NodeStatus::Provisioning | NodeStatus::Destroying => false,
        }
}

/// When it is to be polled next; nothing if it was never polled.
pub(super) fn next_poll(node: &GpuNode, policy: &WatchdogPolicy) -> Option<Timestamp> {
    let pause = if node.status == NodeStatus::Failed { policy.failed_interval } else { policy.interval };
    node.last_health_at.map(|at| at.checked_add(pause).unwrap_or(Timestamp::MAX))
}

/// Whether the node has said since its last poll that a service answers which did not answer then.
pub(super) fn claims_better(node: &GpuNode) -> bool {
    let (Some(polled_at), Some((said_at, heartbeat))) = (node.last_health_at, &node.heartbeat) else { return false };
    let answers = |state| matches!(state, ServiceState::Ready | ServiceState::Busy);
    *said_at > polled_at
        && heartbeat.services.iter().any(|report| answers(report.state) && is_down(node, report.service))
}

/// Whether a service answers that did not answer the last poll.
pub(super) fn is_better(node: &GpuNode, answers: &Answers) -> bool {
    answers.iter().any(|(service, answer)| answer.is_ok() && is_down(node, *service))
}

fn is_down(node: &GpuNode, service: GpuService) -> bool {
    node.services.get(&service).is_some_and(|health| health.expected && health.ok == Some(false))
}

/// Applies a poll to a node. `reboots` is how often it was rebooted in the last 24 hours.
///
/// # Errors
/// [`InvalidTransition`] never happens to a node that [`is_polled`].
pub(super) fn judge(
    node: &mut GpuNode,
    answers: &Answers,
    reboots: i64,
    now: Timestamp,
    policy: &WatchdogPolicy,
) -> Result<Vec<Finding>, InvalidTransition> {
    let mut findings = Vec::new();
    for (service, health) in &mut node.services {
        let ok = answers.get(service).is_some_and(Result::is_ok);
        health.ok = Some(ok);
        health.checked_at = Some(now);
        health.latency_ms = answers.get(service).and_then(|answer| answer.as_ref().ok().copied());
        if ok {
            health.last_ok_at = Some(now);
            health.down_since = None;
            if health.told_at.take().is_some() {
                findings.push(Finding::ServiceBack(*service));
            }
        } else {
            health.down_since = health.down_since.or(Some(now));
        }
    }
    node.last_health_at = Some(now);
    let answering = |health: &ServiceHealth| health.expected && health.ok == Some(true);
    let any = node.services.values().any(answering);
    let all = node.services.values().all(|health| !health.expected || health.ok == Some(true));
    if any {
        node.last_ok_at = Some(now);
    }
    match node.status {
        NodeStatus::Active | NodeStatus::Degraded if any => {
            recover(node, now, policy, &mut findings)?;
        }
        NodeStatus::Active | NodeStatus::Degraded => count(node, reboots, now, policy, &mut findings)?,
        NodeStatus::Bootstrapping if all => {
            node.reach(Stage::Done, now);
            node.enter(NodeStatus::Active)?;
            node.last_error = None;
            forget(node);
            findings.push(Finding::Ready);
        }
        // One that was given up while it was being set up comes back when all of it is there.
        NodeStatus::Failed if any && (all || node.stage == Stage::Done) => {
            node.reach(Stage::Done, now);
            node.enter(NodeStatus::Active)?;
            node.last_error = None;
            forget(node);
            count_services_anew(node, now);
            findings.push(Finding::Recovered { from: NodeStatus::Failed });
        }
        NodeStatus::Bootstrapping | NodeStatus::Failed | NodeStatus::Provisioning | NodeStatus::Destroying => {}
    }
    tell(node, now, policy, &mut findings);
    Ok(findings)
}

fn forget(node: &mut GpuNode) {
    node.all_down_polls = 0;
    node.reboot_at = None;
}

/// What is down when a node comes back is down from now on: until now it was the node that was spoken of.
fn count_services_anew(node: &mut GpuNode, now: Timestamp) {
    for health in node.services.values_mut().filter(|health| health.down_since.is_some()) {
        health.down_since = Some(now);
    }
}

/// Something answers.
fn recover(
    node: &mut GpuNode,
    now: Timestamp,
    policy: &WatchdogPolicy,
    findings: &mut Vec<Finding>,
) -> Result<(), InvalidTransition> {
    // A machine that was just told to reboot still answers for a moment; that is not its coming back.
    let settled = node.reboot_at.is_none_or(|at| now.duration_since(at) >= policy.reboot_settle);
    if settled || node.all_down_polls > 0 {
        forget(node);
    }
    if node.status == NodeStatus::Degraded {
        node.enter(NodeStatus::Active)?;
        node.last_error = None;
        forget(node);
        count_services_anew(node, now);
        findings.push(Finding::Recovered { from: NodeStatus::Degraded });
    }
    Ok(())
}

/// Nothing answers.
fn count(
    node: &mut GpuNode,
    reboots: i64,
    now: Timestamp,
    policy: &WatchdogPolicy,
    findings: &mut Vec<Finding>,
) -> Result<(), InvalidTransition> {
    node.all_down_polls = node.all_down_polls.saturating_add(1);
    let reached = node.all_down_polls >= policy.reboot_threshold;
    if reached && node.status == NodeStatus::Active {
        node.enter(NodeStatus::Degraded)?;
        node.last_error = Some("no service answers".to_owned());
        findings.push(Finding::Degraded);
    }
    match node.reboot_at {
        Some(at) if now.duration_since(at) < policy.failed_after => {}
        Some(_) if node.is_local() => {}
        Some(at) => give_up(node, format!("no service answers {} after the last reboot", minutes(now, at)), findings)?,
        None if !reached => {}
        None if node.machine_id.is_none() => {
            node.reboot_at = Some(now);
            findings.push(Finding::NoReboot);
        }
        None if reboots >= policy.reboots_per_day && !node.is_local() => {
            give_up(node, format!("it was rebooted {reboots} times within a day"), findings)?;
        }
        None => {
            node.reboot_at = Some(now);
            findings.push(Finding::Reboot);
        }
    }
    Ok(())
}

fn give_up(node: &mut GpuNode, reason: String, findings: &mut Vec<Finding>) -> Result<(), InvalidTransition> {
    node.fail(&reason)?;
    forget(node);
    findings.push(Finding::GivenUp(reason));
    Ok(())
}

fn minutes(now: Timestamp, since: Timestamp) -> String {
    format!("{} minutes", now.duration_since(since).as_mins())
}

/// Of a node that serves, says which of its services have been down for long.
fn tell(node: &mut GpuNode, now: Timestamp, policy: &WatchdogPolicy, findings: &mut Vec<Finding>) {
    if node.status != NodeStatus::Active {
        return;
    }
    for (service, health) in &mut node.services {
        let long = health.down_since.is_some_and(|since| now.duration_since(since) >= policy.tell_after);
        // With everything down it is the node that is spoken of.
        if health.expected && long && health.told_at.is_none() && node.all_down_polls == 0 {
            health.told_at = Some(now);
            findings.push(Finding::ServiceDown(*service));
        }
    }
}

/// How long a node may stay at a stage, and in its set-up altogether.
pub(super) const SETUP_LIMIT: SignedDuration = SignedDuration::from_hours(2);

/// How long a node may stay at a stage; a stage's name is the last step that was finished.
const fn stage_limit(stage: Stage) -> SignedDuration {
    match stage {
        Stage::WaitingActive => SignedDuration::from_mins(5),
        Stage::WaitingAgent | Stage::InstallingDrivers => SignedDuration::from_mins(15),
        Stage::InstallingDocker => SignedDuration::from_mins(60),
        Stage::DownloadingModels => SignedDuration::from_mins(20),
        // The first two outlast a bad half hour of the provider.
        Stage::Pending | Stage::Creating | Stage::StartingServices | Stage::Registering | Stage::Done => {
            SignedDuration::from_mins(30)
        }
    }
}

/// Why a node that is being set up is given up now, if it is.
pub(super) fn overdue(node: &GpuNode, now: Timestamp) -> Option<String> {
    let being_set_up = matches!(node.status, NodeStatus::Provisioning | NodeStatus::Bootstrapping);
    if !being_set_up || node.is_local() {
        return None;
    }
    let limit = stage_limit(node.stage);
    let stage = node.stage;
    if now.duration_since(node.stage_since) >= limit {
        return Some(format!("its set-up stayed at {stage} for {} minutes", limit.as_mins()));
    }
    let altogether = now.duration_since(node.setup_since) >= SETUP_LIMIT;
    altogether.then(|| format!("its set-up took {} minutes and got to {stage}", SETUP_LIMIT.as_mins()))
}
