//! From the engine's answers to ours.

use bollard::container::LogOutput;
use bollard::models::{ContainerInspectResponse, ContainerStatsResponse};
use jiff::Timestamp;

use crate::fleet::container::SPEC_LABEL;
use crate::fleet::{ContainerHealth, ContainerState, ContainerStats, HostError, ObservedContainer, RawLogLine};

/// How much of a failed health check's output is kept, in characters.
const LONGEST_DETAIL: usize = 200;

pub(super) fn container(answer: ContainerInspectResponse) -> Result<ObservedContainer, HostError> {
    let unclear = |what: &str| HostError::Refused(format!("its description of a container has no {what}"));
    let id = answer.id.ok_or_else(|| unclear("id"))?;
    let state = answer.state.ok_or_else(|| unclear("state"))?;
    let word = state.status.map(|status| status.to_string()).unwrap_or_default();
    let health = state.health;
    let last_check = health.as_ref().and_then(|health| health.log.as_ref()?.last()?.output.clone());
    let health = health.and_then(|health| health.status).and_then(|s| ContainerHealth::from_word(s.as_ref()));
    let detail = state.error.filter(|error| !error.is_empty());
    let detail = detail.or_else(|| last_check.filter(|_| health == Some(ContainerHealth::Unhealthy)));
    let detail = detail.map(|text| text.trim().chars().take(LONGEST_DETAIL).collect::<String>());
    Ok(ObservedContainer {
        id,
        state: ContainerState::from_word(&word).ok_or_else(|| unclear("known state"))?,
        health,
        spec_hash: answer.config.and_then(|c| c.labels).and_then(|labels| labels.get(SPEC_LABEL).cloned()),
        exit_code: state.exit_code.unwrap_or(0),
        error: detail.filter(|text| !text.is_empty()),
        started_at: state.started_at.as_deref().and_then(instant),
        // The date is text or a date, by the client's features; written as JSON it is the same text.
        created_at: serde_json::to_value(answer.created).ok().and_then(|at| instant(at.as_str()?)),
    })
}

/// What is left of a container that an engine has removed by halves.
pub(super) fn torn(name: String) -> ObservedContainer {
    ObservedContainer {
        id: name,
        state: ContainerState::Dead,
        health: None,
        spec_hash: None,
        exit_code: 0,
        error: None,
        started_at: None,
        created_at: None,
    }
}

/// The network of that name which the container was started in last; nothing if it never was.
pub(super) fn network_id(answer: &ContainerInspectResponse, name: &str) -> Option<String> {
    let networks = answer.network_settings.as_ref()?.networks.as_ref()?;
    networks.get(name)?.network_id.clone().filter(|id| !id.is_empty())
}

/// The engine writes year 1 for never.
fn instant(text: &str) -> Option<Timestamp> {
    let at: Timestamp = text.parse().ok()?;
    let micros = Timestamp::from_microsecond(at.as_microsecond()).ok()?;
    (micros > Timestamp::UNIX_EPOCH).then_some(micros)
}

pub(super) fn stats(answer: &ContainerStatsResponse) -> Option<ContainerStats> {
    let (now, before) = (answer.cpu_stats.as_ref()?, answer.precpu_stats.as_ref()?);
    let used =
        |stats: &bollard::models::ContainerCpuStats| stats.cpu_usage.as_ref().and_then(|usage| usage.total_usage);
    let system = now.system_cpu_usage?.saturating_sub(before.system_cpu_usage.unwrap_or(0));
    let own = used(now)?.saturating_sub(used(before).unwrap_or(0));
    let processors = u128::from(now.online_cpus.unwrap_or(1).max(1));
    let share = if system == 0 { 0 } else { u128::from(own) * processors * 10_000 / u128::from(system) };
    let memory = answer.memory_stats.as_ref()?;
    let cache = memory.stats.as_ref().and_then(|stats| {
        // Control groups version 2 and 1 name it differently.
        stats.get("inactive_file").or_else(|| stats.get("total_inactive_file")).copied()
    });
    Some(ContainerStats {
        cpu_basis_points: u64::try_from(share).unwrap_or(u64::MAX),
        memory_bytes: memory.usage?.saturating_sub(cache.unwrap_or(0)),
        memory_limit_bytes: memory.limit?,
    })
}

/// Puts lines together that arrive in parts, each output's own.
#[derive(Default)]
pub(super) struct Lines {
    done: Vec<RawLogLine>,
    open: [Vec<u8>; 2],
}

impl Lines {
    pub(super) fn push(&mut self, part: LogOutput) {
        let (is_stderr, bytes) = match part {
            LogOutput::StdErr { message } => (true, message),
            LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
                (false, message)
            }
        };
        let open = &mut self.open[usize::from(is_stderr)];
        open.extend_from_slice(&bytes);
        while let Some(end) = open.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = open.drain(..=end).collect();
            self.done.push(line_of(&line, is_stderr));
        }
    }

    pub(super) fn finish(mut self) -> Vec<RawLogLine> {
        for (is_stderr, rest) in [(false, &self.open[0]), (true, &self.open[1])] {
            if !rest.is_empty() {
                self.done.push(line_of(rest, is_stderr));
            }
        }
        self.done
    }
}

fn line_of(bytes: &[u8], is_stderr: bool) -> RawLogLine {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches(['\r', '\n']);
    let (at, text) = match text.split_once(' ') {
        Some((first, rest)) if instant(first).is_some() => (instant(first), rest),
        // An empty line is its time and nothing else.
        _ if instant(text).is_some() => (instant(text), ""),
        _ => (None, text),
    };
    RawLogLine { at, is_stderr, text: text.to_owned() }
}
