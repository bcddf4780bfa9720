//! Heartbeats go out whatever hangs.

use std::time::{Duration, Instant};

use wopr_core::protocol::gpu::{GpuMode, GpuService, ServiceState};
use wopr_gpu_node::probe::fake::FakeGpu;

use crate::platform::Fate;
use crate::services::Mood;
use crate::support::{Bench, http};

#[tokio::test]
async fn a_driver_that_hangs_for_ever_delays_no_heartbeat() {
    let bench = Bench::new().await;
    let started = Instant::now();
    let agent = bench.start_with(FakeGpu::hanging()).await;
    let first = bench.platform.find("a heartbeat", |seen| seen.heartbeats.first().cloned()).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(matches!(first.gpu, GpuMode::Unresponsive { .. }), "{:?}", first.gpu);
    let later = bench.platform.find("a longer silence", |seen| {
        seen.heartbeats.iter().find_map(|heartbeat| match heartbeat.gpu {
            GpuMode::Unresponsive { for_s } if for_s >= 3 => Some(for_s),
            _ => None,
        })
    });
    later.await;
    assert!(started.elapsed() >= Duration::from_secs(3), "it was not silent for that long");
    let drained = Instant::now();
    agent.drain().await;
    assert!(drained.elapsed() < Duration::from_secs(10), "the driver held up the stop: {:?}", drained.elapsed());
}

#[tokio::test]
async fn cards_are_told_and_none_is_a_mode() {
    let bench = Bench::new().await;
    let mut card = FakeGpu::card(1);
    card.last_xid = Some(79);
    let (gpu, control) = FakeGpu::new();
    control.show(vec![card.clone()]);
    let agent = bench.start_with(gpu).await;
    let first = bench.platform.find("a heartbeat", |seen| seen.heartbeats.first().cloned()).await;
    assert_eq!(first.gpu, GpuMode::Nvidia { driver_version: "0.0-fake".to_owned(), gpus: vec![card] });
    assert_eq!(first.node_id, crate::support::NODE_ID);
    control.fail("fell off the bus");
    let gone = GpuMode::Cpu { reason: "fell off the bus".to_owned() };
    bench.platform.until("no card", |seen| seen.heartbeats.last().is_some_and(|last| last.gpu == gone)).await;
    agent.drain().await;
}

#[tokio::test]
async fn a_state_that_changes_is_told_at_once_and_not_at_the_next_interval() {
    let mut bench = Bench::new().await;
    bench.set("HEARTBEAT_INTERVAL", "1h");
    let agent = bench.start().await;
    bench.platform.until_state(GpuService::Qwen, ServiceState::Ready).await;
    bench.service(GpuService::Qwen).be(Mood::Loading);
    bench.platform.until_state(GpuService::Qwen, ServiceState::Loading).await;
    bench.service(GpuService::Qwen).be(Mood::Well);
    let report = bench.platform.until_state(GpuService::Qwen, ServiceState::Ready).await;
    assert!(report.last_success_age_s.is_some() && report.detail.is_none());
    agent.drain().await;
}

#[tokio::test]
async fn they_survive_a_platform_that_hangs_and_one_that_refuses() {
    let bench = Bench::new().await;
    for fate in [Fate::Hang, Fate::Refuse(500), Fate::Refuse(401)] {
        bench.platform.change(|seen| (seen.heartbeat_fate, seen.heartbeats_tried) = (fate, 0));
    }
    bench.platform.change(|seen| seen.heartbeat_fate = Fate::Hang);
    let agent = bench.start().await;
    for fate in [Fate::Hang, Fate::Refuse(500), Fate::Refuse(401), Fate::Refuse(404)] {
        bench.platform.change(|seen| (seen.heartbeat_fate, seen.heartbeats_tried) = (fate, 0));
        bench.platform.until("more heartbeats", |seen| seen.heartbeats_tried >= 3).await;
        assert!(agent.is_alive());
    }
    assert_eq!(bench.platform.look(|seen| seen.heartbeats.len()), 0);
    bench.platform.change(|seen| seen.heartbeat_fate = Fate::Take);
    bench.platform.until("a heartbeat is taken", |seen| !seen.heartbeats.is_empty()).await;
    agent.drain().await;
}

#[tokio::test]
async fn a_wrong_secret_is_refused_and_the_daemon_lives_on() {
    let mut bench = Bench::new().await;
    bench.set("GPU_NODE_SECRET", "not-this-nodes-secret");
    let agent = bench.start().await;
    bench.platform.until("tries", |seen| seen.heartbeats_tried >= 2 && seen.reports_tried >= 2).await;
    bench.platform.look(|seen| assert!(seen.heartbeats.is_empty() && seen.reports.is_empty()));
    let health = http().get(format!("http://{}/health", agent.status_address())).send().await.unwrap();
    assert_eq!(health.status(), 200);
    agent.drain().await;
}

#[tokio::test]
async fn the_last_one_says_that_nothing_is_offered_any_more() {
    let bench = Bench::new().await;
    let agent = bench.start().await;
    bench.platform.until_state(GpuService::Llama, ServiceState::Ready).await;
    agent.drain().await;
    bench.platform.look(|seen| {
        let last = seen.heartbeats.last().unwrap();
        assert_eq!(last.services.len(), 4);
        for report in &last.services {
            assert_eq!((report.state, report.detail.as_deref()), (ServiceState::Absent, Some("the node is stopping")));
        }
    });
}
