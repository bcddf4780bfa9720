//! The way from a machine that has just started to one that the platform counts on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use wopr_core::protocol::gpu::{GpuMode, Stage};

use crate::agent::Node;
use crate::backoff::Backoff;
use crate::client::{Platform, PlatformError};
use crate::config::Settings;
use crate::metrics;
use crate::progress::Progress;
use crate::watch::Board;

/// How often what a stage waits for is looked at.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// What a stage's work depends on.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) gpu: &'a GpuMode,
    pub(crate) require_gpu: bool,
    pub(crate) missing_files: Vec<PathBuf>,
    pub(crate) board: &'a Board,
}

/// Whether the work of a stage is done, or what it still waits for.
pub(crate) fn check(stage: Stage, around: &Surroundings<'_>) -> Result<(), String> {
    match stage {
        Stage::InstallingDrivers => match around.gpu {
            GpuMode::Cpu { reason } if around.require_gpu => Err(format!("no card: {reason}")),
            GpuMode::Nvidia { .. } | GpuMode::Cpu { .. } => Ok(()),
            GpuMode::Unresponsive { .. } => Err("the driver does not answer".to_owned()),
        },
        Stage::DownloadingModels if !around.missing_files.is_empty() => {
            let missing: Vec<_> = around.missing_files.iter().map(|path| path.display().to_string()).collect();
            Err(format!("missing or empty: {}", missing.join(", ")))
        }
        Stage::Done => {
            let waiting: Vec<_> = around
                .board
                .iter()
                .filter(|(_, known)| !known.state.answers())
                .map(|(service, known)| {
                    format!("{service} is {}: {}", known.state, known.detail.as_deref().unwrap_or("no reason known"))
                })
                .collect();
            if waiting.is_empty() { Ok(()) } else { Err(waiting.join("; ")) }
        }
        // The daemon runs, so the machine does; the services are looked at from the start.
        _ => Ok(()),
    }
}

/// The stages still to be reported. The last one that was taken is reported once more: to the platform that is nothing
/// new, unless it has lost the node meanwhile.
pub(crate) fn remaining(taken: Option<Stage>) -> &'static [Stage] {
    let from = taken.and_then(|taken| Stage::REPORTED.iter().position(|stage| *stage == taken)).unwrap_or(0);
    &Stage::REPORTED[from..]
}

/// Reports every stage when its work is done, until the last is taken; again from the start when the platform has
/// forgotten the node.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let work = async {
        let progress = Progress::new(&node.settings.state_file, &node.settings.node_id);
        let mut taken = progress.load();
        let mut complained = false;
        loop {
            for stage in remaining(taken) {
                wait_for(&node, *stage).await;
                insist(&node, *stage, None).await;
                tracing::info!(%stage, "the platform knows that this node has done {stage}");
                node.stage.send_replace(Some(*stage));
                if let Err(error) = progress.save(*stage)
                    && !std::mem::replace(&mut complained, true)
                {
                    let path = node.settings.state_file.display();
                    tracing::warn!("a restart will report every stage again: {path} cannot be written: {error}");
                }
            }
            node.forgotten.notified().await;
            tracing::warn!("the platform had forgotten this node and knows it again: it enrols from the start");
            taken = None;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// Waits until the work of a stage is done. Once that takes too long the platform is told why, again for each new reason.
async fn wait_for(node: &Node, stage: Stage) {
    let started = Instant::now();
    let mut told = None;
    let mut ticks = tokio::time::interval(CHECK_EVERY);
    loop {
        ticks.tick().await;
        let Err(why) = node.check(stage) else { return };
        if started.elapsed() >= node.settings.stage_patience && told.as_ref() != Some(&why) {
            tracing::error!(%stage, "{stage} is not done: {why}");
            insist(node, stage, Some(&why)).await;
            told = Some(why);
        }
    }
}

/// Sends a report until it is taken.
async fn insist(node: &Node, stage: Stage, failure: Option<&str>) {
    let mut backoff = backoff(&node.settings);
    while let Err(error) = report(&node.platform, stage, failure).await {
        let wait = if error.is_final() { backoff.longest() } else { backoff.next() };
        tracing::warn!(%stage, "{stage} is not reported: {error}; again in {} ms", wait.as_millis());
        tokio::time::sleep(wait).await;
    }
}

fn backoff(settings: &Settings) -> Backoff {
    Backoff::new(settings.retry_wait, settings.retry_wait_max)
}

/// Sends a report up to `tries` times, for a script that does the work of a stage. A refusal is not repeated.
///
/// # Errors
/// What became of the last try.
pub async fn report_once(
    settings: &Settings,
    platform: &Platform,
    stage: Stage,
    failure: Option<&str>,
    tries: u32,
) -> Result<(), PlatformError> {
    let mut backoff = backoff(settings);
    for _ in 1..tries {
        match report(platform, stage, failure).await {
            Err(error) if !error.is_final() => {
                let wait = backoff.next();
                tracing::warn!(%stage, "{stage} is not reported: {error}; again in {} ms", wait.as_millis());
                tokio::time::sleep(wait).await;
            }
            ended => return ended,
        }
    }
    report(platform, stage, failure).await
}

async fn report(platform: &Platform, stage: Stage, failure: Option<&str>) -> Result<(), PlatformError> {
    let ended = platform.report(stage, failure).await;
    metrics::report(ended.as_ref().map_or_else(PlatformError::word, |()| "taken"));
    ended
}

#[cfg(test)]
mod tests {
    use wopr_core::protocol::gpu::{GpuService, ServiceState};

    use super::*;
    use crate::health::Condition;

    #[test]
    fn a_stage_waits_for_what_it_is_about_and_says_for_what() {
        let board = |llama, whisper| {
            let known = |state| Condition { state, detail: Some("why".to_owned()), ..Condition::absent() };
            Board::from([(GpuService::Llama, known(llama)), (GpuService::Whisper, known(whisper))])
        };
        let (ready, loading) =
            (board(ServiceState::Ready, ServiceState::Busy), { board(ServiceState::Loading, ServiceState::Wedged) });
        let cards = GpuMode::Nvidia { driver_version: "1".to_owned(), gpus: Vec::new() };
        let none = GpuMode::Cpu { reason: "no library".to_owned() };
        let silent = GpuMode::Unresponsive { for_s: 9 };
        let around = |gpu, require_gpu, files: &[&str], board| Surroundings {
            gpu,
            require_gpu,
            missing_files: files.iter().map(PathBuf::from).collect(),
            board,
        };
        let table = [
            (Stage::InstallingDrivers, around(&cards, true, &[], &ready), Ok(())),
            (Stage::InstallingDrivers, around(&none, false, &[], &ready), Ok(())),
            (Stage::InstallingDrivers, around(&none, true, &[], &ready), Err("no card: no library")),
            (Stage::InstallingDrivers, around(&silent, false, &[], &ready), Err("the driver does not answer")),
            (Stage::InstallingDocker, around(&silent, true, &["a"], &loading), Ok(())),
            (Stage::DownloadingModels, around(&cards, true, &[], &loading), Ok(())),
            (Stage::DownloadingModels, around(&cards, true, &["a", "b"], &ready), Err("missing or empty: a, b")),
            (Stage::StartingServices, around(&cards, true, &[], &loading), Ok(())),
            (Stage::Registering, around(&cards, true, &[], &loading), Ok(())),
            (Stage::Done, around(&cards, true, &[], &ready), Ok(())),
            (Stage::Done, around(&cards, true, &[], &loading), Err("llama is loading: why; whisper is wedged: why")),
        ];
        for (stage, around, expected) in table {
            assert_eq!(check(stage, &around), expected.map_err(str::to_owned), "{stage} {around:?}");
        }
    }

    #[test]
    fn a_restart_goes_on_where_it_was_and_never_back() {
        assert_eq!(remaining(None), Stage::REPORTED);
        assert_eq!(remaining(Some(Stage::Done)), [Stage::Done]);
        for taken in Stage::REPORTED {
            let rest = remaining(Some(*taken));
            assert!(rest[0] == *taken && rest.is_sorted() && rest.last() == Some(&Stage::Done));
        }
    }
}
