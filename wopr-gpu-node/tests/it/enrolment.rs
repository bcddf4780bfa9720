//! From a machine that has just started to one that the platform counts on.

use std::time::Duration;

use wopr_core::protocol::gpu::{GpuService, ServiceState, Stage};
use wopr_gpu_node::probe::fake::FakeGpu;

use crate::platform::{Fate, Seen};
use crate::services::Mood;
use crate::support::{Bench, PATIENCE};

#[tokio::test]
async fn stages_come_in_order_and_done_waits_for_every_service() {
    let mut bench = Bench::new().await;
    bench.set("NODE_HOST", "10.0.0.9");
    bench.service(GpuService::Llama).be(Mood::Loading);
    let agent = bench.start().await;
    bench.platform.until("registering", |seen| seen.stages().last() == Some(&Stage::Registering)).await;
    for service in [GpuService::Chatterbox, GpuService::Whisper, GpuService::Qwen] {
        bench.platform.until_state(service, ServiceState::Ready).await;
    }
    bench.platform.until_state(GpuService::Llama, ServiceState::Loading).await;
    assert_eq!(bench.platform.look(Seen::stages), Stage::REPORTED[..5], "done before llama was");
    bench.service(GpuService::Llama).be(Mood::Well);
    bench.platform.until("done", |seen| seen.stages() == Stage::REPORTED).await;
    bench.platform.look(|seen| {
        assert!(seen.reports.iter().all(|(_, report)| report.host.as_deref() == Some("10.0.0.9")));
        assert!(seen.reports.iter().all(|(_, report)| report.ok.is_none() && report.message.is_none()));
    });
    agent.drain().await;
}

#[tokio::test]
async fn a_report_is_sent_until_it_is_taken_whatever_the_platform_does() {
    let bench = Bench::new().await;
    let fates = [
        Fate::Refuse(503),
        Fate::Hang,
        Fate::Refuse(500),
        Fate::Refuse(401),
        Fate::Refuse(404),
        Fate::Refuse(429),
        Fate::Refuse(409),
    ];
    bench.platform.change(|seen| seen.report_fates = fates.into());
    let agent = bench.start().await;
    bench.platform.until("done", |seen| seen.stages().last() == Some(&Stage::Done)).await;
    bench.platform.look(|seen| {
        assert_eq!(seen.stages(), Stage::REPORTED, "each stage once, in order");
        assert_eq!(seen.reports_tried, Stage::REPORTED.len() + fates.len());
    });
    agent.drain().await;
}

#[tokio::test]
async fn a_stage_that_takes_too_long_is_reported_with_its_reason_and_goes_on_when_it_can() {
    let mut bench = Bench::new().await;
    bench.set("REQUIRE_GPU", "true");
    bench.set("STAGE_PATIENCE", "1ms");
    let model = bench.folder.path().join("llama.gguf");
    bench.set("MODEL_FILES", model.to_str().unwrap());
    let (gpu, control) = FakeGpu::new();
    control.fail("no such library");
    let agent = bench.start_with(gpu).await;
    // The reason may be another before, and each is told.
    let fails = async |stage: Stage, reason: &str| {
        let is_told = |seen: &Seen| {
            let mut failures = seen.reports.iter().filter(|(of, report)| *of == stage && report.failed());
            failures.any(|(_, report)| report.message.as_deref() == Some(reason))
        };
        bench.platform.until("a failure", is_told).await;
    };
    fails(Stage::InstallingDrivers, "no card: no such library").await;
    control.show(vec![FakeGpu::card(0)]);
    fails(Stage::DownloadingModels, &format!("missing or empty: {}", model.display())).await;
    std::fs::write(&model, "").unwrap();
    assert_eq!(bench.platform.look(Seen::stages), Stage::REPORTED[..2], "an empty file is none");
    std::fs::write(&model, "gguf").unwrap();
    bench.platform.until("done", |seen| seen.stages() == Stage::REPORTED).await;
    agent.drain().await;
}

/// Waits until the daemon has written down that the platform took a stage.
async fn kept(bench: &Bench, stage: Stage) {
    let file = &bench.environment["STATE_FILE"];
    let written = tokio::time::timeout(PATIENCE, async {
        while !std::fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("\"{stage}\""))) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    written.await.unwrap_or_else(|_| panic!("{stage} was not written down"));
}

#[tokio::test]
async fn a_restart_goes_on_and_never_back() {
    let bench = Bench::new().await;
    bench.service(GpuService::Whisper).be(Mood::Loading);
    let agent = bench.start().await;
    kept(&bench, Stage::Registering).await;
    agent.drain().await;
    bench.platform.change(|seen| seen.reports.clear());
    bench.service(GpuService::Whisper).be(Mood::Well);
    let agent = bench.start().await;
    bench.platform.until("done", |seen| seen.stages().last() == Some(&Stage::Done)).await;
    assert_eq!(bench.platform.look(Seen::stages), [Stage::Registering, Stage::Done]);
    kept(&bench, Stage::Done).await;
    agent.drain().await;
    // Once done, a restart says only that, and only once the services answer again.
    bench.platform.change(|seen| seen.reports.clear());
    bench.service(GpuService::Whisper).be(Mood::Loading);
    let agent = bench.start().await;
    bench.platform.until_state(GpuService::Whisper, ServiceState::Loading).await;
    assert_eq!(bench.platform.look(Seen::stages), []);
    bench.service(GpuService::Whisper).be(Mood::Well);
    bench.platform.until("done", |seen| seen.stages() == [Stage::Done]).await;
    agent.drain().await;
}

#[tokio::test]
async fn a_platform_that_forgot_the_node_gets_every_stage_again() {
    let bench = Bench::new().await;
    let agent = bench.start().await;
    bench.platform.until("done", |seen| seen.stages() == Stage::REPORTED).await;
    bench.platform.change(|seen| {
        seen.reports.clear();
        seen.heartbeat_fate = Fate::Refuse(404);
        seen.heartbeats_tried = 0;
    });
    bench.platform.until("heartbeats to one who does not know us", |seen| seen.heartbeats_tried >= 2).await;
    bench.platform.change(|seen| seen.heartbeat_fate = Fate::Take);
    bench.platform.until("every stage again", |seen| seen.stages() == Stage::REPORTED).await;
    agent.drain().await;
}
