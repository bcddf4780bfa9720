//! From what is wanted, allowed and seen to what is to be done: pure, so that every case can be listed.

use jiff::Timestamp;

use super::model::{DesiredState, Permission, Phase};
use super::ports::{ContainerHealth, ContainerState, Observed, ObservedContainer};
use super::settings::RestartPolicy;

/// What is wanted of one bot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// What its owner wants.
    pub state: DesiredState,
    /// The fingerprint of the container it needs; nothing while its image is not known.
    pub spec_hash: Option<String>,
    /// Whether its container ended for good when its process did.
    pub restart_policy: RestartPolicy,
    /// Whether a restart was asked for and has not been done.
    pub restart: bool,
    /// The container that has its key.
    pub keyed_container: Option<String>,
}

/// What is aimed at, once the account has had its say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// A running container.
    Run,
    /// No running container; volumes kept.
    Rest,
    /// Nothing left.
    Vanish,
}

/// The account's word goes before the owner's, except that nobody has to keep a bot.
pub fn aim(desired: DesiredState, permission: Permission, now: Timestamp) -> Aim {
    match (desired, permission) {
        (DesiredState::Destroyed, _) => Aim::Vanish,
        (_, Permission::Hold { destroy_after: Some(at) }) if at <= now => Aim::Vanish,
        (_, Permission::Hold { .. }) | (DesiredState::Stopped, Permission::Run) => Aim::Rest,
        (DesiredState::Running, Permission::Run) => Aim::Run,
    }
}

/// One thing to do. Each may be done twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Find out which image the reference means. Another plan follows.
    ResolveImage,
    /// Fetch the image.
    PullImage,
    /// Make the tenant's network.
    EnsureNetwork,
    /// Make the volumes.
    EnsureVolumes,
    /// Make the container.
    CreateContainer,
    /// Issue a key, take back older ones, and put it into the container.
    InstallKey,
    /// Start the container.
    Start,
    /// Stop and start the container.
    Restart,
    /// Let the paused container go on.
    Resume,
    /// Stop the container.
    Stop,
    /// Remove the container.
    RemoveContainer,
    /// Remove the volumes.
    RemoveVolumes,
    /// Remove the tenant's network, if this was its last bot.
    RemoveNetwork,
    /// Look again soon: the engine is at work.
    Await,
}

impl Step {
    /// The phase a bot is in while this is done.
    pub const fn phase(self, aim: Aim) -> Phase {
        match (aim, self) {
            (Aim::Vanish, _) => Phase::Destroying,
            (Aim::Rest, _) => Phase::Stopping,
            (Aim::Run, Self::ResolveImage | Self::PullImage) => Phase::Pulling,
            (
                Aim::Run,
                Self::EnsureNetwork
                | Self::EnsureVolumes
                | Self::CreateContainer
                | Self::InstallKey
                | Self::Stop
                | Self::RemoveContainer
                | Self::RemoveVolumes
                | Self::RemoveNetwork,
            ) => Phase::Creating,
            (Aim::Run, Self::Start | Self::Restart | Self::Resume | Self::Await) => Phase::Starting,
        }
    }
}

/// What to do next, in order; nothing when all is as it should be, or as near as the bot lets it be.
pub fn plan(desired: &Desired, aim: Aim, observed: &Observed) -> Vec<Step> {
    match aim {
        Aim::Run => plan_run(desired, observed),
        Aim::Rest => match &observed.container {
            Some(container) if container.state.is_alive() => vec![Step::Stop],
            // What an engine has removed by halves.
            Some(container) if container.state == ContainerState::Dead => vec![Step::RemoveContainer],
            _ => Vec::new(),
        },
        Aim::Vanish => {
            let mut steps = Vec::new();
            if let Some(container) = &observed.container {
                if container.state.is_alive() {
                    steps.push(Step::Stop);
                }
                steps.push(Step::RemoveContainer);
            }
            if observed.has_any_volume {
                steps.push(Step::RemoveVolumes);
            }
            if !steps.is_empty() {
                steps.push(Step::RemoveNetwork);
            }
            steps
        }
    }
}

fn plan_run(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let Some(spec_hash) = &desired.spec_hash else {
        return vec![Step::ResolveImage];
    };
    let usable = observed.container.as_ref().filter(|container| {
        container.spec_hash.as_ref() == Some(spec_hash)
            && !matches!(container.state, ContainerState::Dead | ContainerState::Removing)
    });
    let Some(container) = usable else {
        return make(observed);
    };
    let mut steps = Vec::new();
    if !observed.has_network {
        // A container without its network cannot be started, and a running one has lost it.
        return make(observed);
    }
    let keyed = desired.keyed_container.as_ref() == Some(&container.id);
    if !keyed {
        steps.push(Step::InstallKey);
    }
    match container.state {
        ContainerState::Created => steps.push(Step::Start),
        ContainerState::Exited if desired.restart || may_start_again(desired, container) => steps.push(Step::Start),
        ContainerState::Paused => steps.push(Step::Resume),
        ContainerState::Running if desired.restart => steps.push(Step::Restart),
        ContainerState::Running if container.health == Some(ContainerHealth::Starting) => steps.push(Step::Await),
        ContainerState::Restarting => steps.push(Step::Await),
        // What ended for good stays as it ended.
        ContainerState::Exited | ContainerState::Running | ContainerState::Dead | ContainerState::Removing => {}
    }
    steps
}

/// A process that ended stays so only if its restart policy says so and nobody asked since.
fn may_start_again(desired: &Desired, container: &ObservedContainer) -> bool {
    desired.restart_policy.restarts_after(container.exit_code)
}

/// A new container, in place of whatever has its name. What can fail without harm comes before the old one is touched.
fn make(observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    if !observed.has_image {
        steps.push(Step::PullImage);
    }
    if !observed.has_network {
        steps.push(Step::EnsureNetwork);
    }
    if !observed.has_volumes {
        steps.push(Step::EnsureVolumes);
    }
    if let Some(old) = &observed.container {
        if old.state.is_alive() {
            steps.push(Step::Stop);
        }
        steps.push(Step::RemoveContainer);
    }
    steps.extend([Step::CreateContainer, Step::InstallKey, Step::Start]);
    steps
}

/// What an observation means when there is nothing left to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As wanted.
    Settled(Phase),
    /// Not as wanted, and for the bot to change.
    Failing(String),
    /// Not yet known.
    Unsettled,
}

/// Judges an observation against what is aimed at.
pub fn judge(aim: Aim, observed: &Observed) -> Verdict {
    match (aim, &observed.container) {
        (Aim::Vanish, None) if !observed.has_any_volume => Verdict::Settled(Phase::Destroyed),
        (Aim::Rest, None) => Verdict::Settled(Phase::Stopped),
        (Aim::Rest, Some(container)) if !container.state.is_alive() => Verdict::Settled(Phase::Stopped),
        (Aim::Run, Some(container)) => match (container.state, container.health) {
            (ContainerState::Running, None | Some(ContainerHealth::Healthy)) => Verdict::Settled(Phase::Running),
            (ContainerState::Running, Some(ContainerHealth::Unhealthy)) => {
                Verdict::Failing(with_detail("the bot runs, but its health check fails", container))
            }
            (ContainerState::Restarting, _) => Verdict::Failing(with_detail(
                &format!("the bot keeps ending with exit code {}", container.exit_code),
                container,
            )),
            (ContainerState::Exited, _) if container.exit_code == 0 => Verdict::Settled(Phase::Stopped),
            (ContainerState::Exited, _) => Verdict::Failing(with_detail(
                &format!("the bot ended with exit code {}", container.exit_code),
                container,
            )),
            _ => Verdict::Unsettled,
        },
        _ => Verdict::Unsettled,
    }
}

fn with_detail(text: &str, container: &ObservedContainer) -> String {
    match &container.error {
        Some(detail) => format!("{text}: {detail}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[path = "planner_tests.rs"]
mod tests;
