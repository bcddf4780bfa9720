//! What the engine says, in our words.

use std::collections::HashMap;

use bollard::container::LogOutput;
use bollard::models::{
    ContainerInspectResponse, ContainerStatsResponse, ContainerSummary, EventMessage, HealthStatusEnum, Network, Volume,
};
use jiff::Timestamp;

use crate::fleet::container::{BOT_LABEL, SPEC_LABEL, TENANT_LABEL};
use crate::fleet::{
    ContainerHealth, ContainerState, ContainerStats, HostError, Labelled, ObservedContainer, RawLogLine,
};
use crate::ids::BotId;

/// A container as it is. A state that is not known is an error rather than a guess.
pub(super) fn container(found: ContainerInspectResponse) -> Result<ObservedContainer, HostError> {
    let state = found.state.unwrap_or_default();
    let word = state.status.map(|status| status.to_string()).unwrap_or_default();
    let health = state.health.unwrap_or_default();
    let last_check = health.log.unwrap_or_default().pop().and_then(|check| check.output);
    let unhealthy = health.status == Some(HealthStatusEnum::UNHEALTHY);
    let engine_error = state.error.filter(|error| !error.is_empty());
    Ok(ObservedContainer {
        id: found.id.unwrap_or_default(),
        state: ContainerState::from_word(&word)
            .ok_or_else(|| HostError::Refused(format!("it reports the unknown container state {word:?}")))?,
        health: match health.status {
            Some(HealthStatusEnum::STARTING) => Some(ContainerHealth::Starting),
            Some(HealthStatusEnum::HEALTHY) => Some(ContainerHealth::Healthy),
            Some(HealthStatusEnum::UNHEALTHY) => Some(ContainerHealth::Unhealthy),
            Some(HealthStatusEnum::NONE | HealthStatusEnum::EMPTY) | None => None,
        },
        spec_hash: found.config.and_then(|config| config.labels).and_then(|labels| labels.get(SPEC_LABEL).cloned()),
        exit_code: state.exit_code.unwrap_or_default(),
        error: engine_error.or(last_check.filter(|_| unhealthy)).map(|text| text.trim().to_owned()),
        started_at: state.started_at.as_deref().and_then(time),
        created_at: found.created.as_ref().and_then(|created| time(&created.to_string())),
    })
}

/// A time as the engine writes it; year 1 means never.
fn time(text: &str) -> Option<Timestamp> {
    let at: Timestamp = text.parse().ok()?;
    let at = Timestamp::from_microsecond(at.as_microsecond()).ok()?;
    (at > Timestamp::UNIX_EPOCH).then_some(at)
}

/// Frames to lines. The engine cuts a long line into several frames; the time stands only before the first.
pub(super) fn log_lines(frames: Vec<LogOutput>) -> Vec<RawLogLine> {
    let mut lines = Vec::new();
    let mut open: [Option<Vec<u8>>; 2] = [None, None];
    for frame in frames {
        let (stream, message) = match frame {
            LogOutput::StdErr { message } => (1, message),
            LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
                (0, message)
            }
        };
        for piece in message.split_inclusive(|byte| *byte == b'\n') {
            let mut line = open.get_mut(stream).and_then(Option::take).unwrap_or_default();
            line.extend_from_slice(piece);
            if line.ends_with(b"\n") {
                lines.push(log_line(&line, stream == 1));
            } else if let Some(slot) = open.get_mut(stream) {
                *slot = Some(line);
            }
        }
    }
    let rest = open.into_iter().enumerate();
    lines.extend(rest.filter_map(|(stream, line)| line.map(|line| log_line(&line, stream == 1))));
    lines
}

fn log_line(line: &[u8], is_stderr: bool) -> RawLogLine {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches(['\n', '\r']);
    match text.split_once(' ').map(|(at, rest)| (at.parse().ok(), rest)) {
        Some((Some(at), rest)) => RawLogLine { at: Some(at), is_stderr, text: rest.to_owned() },
        _ => RawLogLine {
            at: text.parse().ok(),
            is_stderr,
            text: if text.parse::<Timestamp>().is_ok() { String::new() } else { text.to_owned() },
        },
    }
}

/// What the container uses; nothing when it does not run, which the engine shows as a reading without memory.
pub(super) fn stats(reading: &ContainerStatsResponse) -> Option<ContainerStats> {
    let memory = reading.memory_stats.as_ref()?;
    let (usage, limit) = (memory.usage?, memory.limit?);
    let details = memory.stats.as_ref();
    let detail = |name: &str| details.and_then(|details| details.get(name)).copied();
    // cgroup v1 and v2 have different names for the page cache that can be given back.
    let cache = detail("total_inactive_file").or_else(|| detail("inactive_file")).unwrap_or_default();
    let (now, before) = (reading.cpu_stats.as_ref()?, reading.precpu_stats.as_ref());
    let total =
        |stats: &bollard::models::ContainerCpuStats| stats.cpu_usage.as_ref().and_then(|usage| usage.total_usage);
    let used = total(now)?.saturating_sub(before.and_then(total).unwrap_or_default());
    let passed = now
        .system_cpu_usage
        .unwrap_or_default()
        .saturating_sub(before.and_then(|stats| stats.system_cpu_usage).unwrap_or_default());
    let processors = u64::from(now.online_cpus.unwrap_or(1).max(1));
    let share = u128::from(used) * u128::from(processors) * 10_000 / u128::from(passed.max(1));
    Some(ContainerStats {
        cpu_basis_points: u64::try_from(share).unwrap_or(u64::MAX),
        memory_bytes: usage.saturating_sub(cache),
        memory_limit_bytes: limit,
    })
}

fn labelled(name: String, labels: &HashMap<String, String>) -> Labelled {
    Labelled {
        name,
        bot_id: labels.get(BOT_LABEL).and_then(|id| id.parse().ok()),
        tenant_id: labels.get(TENANT_LABEL).and_then(|id| id.parse().ok()),
    }
}

pub(super) fn listed_container(found: ContainerSummary) -> Option<Labelled> {
    let name = found.names?.into_iter().next()?;
    Some(labelled(name.trim_start_matches('/').to_owned(), &found.labels.unwrap_or_default()))
}

pub(super) fn listed_volume(found: Volume) -> Labelled {
    labelled(found.name, &found.labels)
}

pub(super) fn listed_network(found: Network) -> Option<Labelled> {
    Some(labelled(found.name?, &found.labels.unwrap_or_default()))
}

/// The bot that an event is about.
pub(super) fn event_bot(event: EventMessage) -> Option<BotId> {
    event.actor?.attributes?.get(BOT_LABEL)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(text: &str) -> LogOutput {
        LogOutput::StdOut { message: text.to_owned().into() }
    }

    #[test]
    fn a_line_cut_into_frames_is_one_line_and_streams_do_not_mix() {
        let frames = vec![
            out("2027-01-15T08:00:00.000000001Z one"),
            LogOutput::StdErr { message: "2027-01-15T08:00:01Z oops\n".into() },
            out(" more\n2027-01-15T08:00:02Z two\n"),
            out("no time\n"),
            out("2027-01-15T08:00:03Z \n"),
            out("2027-01-15T08:00:04Z cut"),
        ];
        let lines = log_lines(frames);
        let texts: Vec<_> = lines.iter().map(|line| (line.text.as_str(), line.is_stderr, line.at.is_some())).collect();
        let wanted = [
            ("oops", true, true),
            ("one more", false, true),
            ("two", false, true),
            ("no time", false, false),
            ("", false, true),
            ("cut", false, true),
        ];
        assert_eq!(texts, wanted);
    }

    #[test]
    fn the_engine_s_never_is_no_time() {
        assert_eq!(time("0001-01-01T00:00:00Z"), None);
        assert_eq!(time("2027-01-15T08:00:00.123456789Z").map(|at| at.as_microsecond()), Some(1_800_000_000_123_456));
    }
}
