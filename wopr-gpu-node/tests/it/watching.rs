//! Each state of a service, brought about over a real socket.

use wopr_core::protocol::gpu::{GpuService, ServiceState};

use crate::services::Mood;
use crate::support::{Bench, find};

#[tokio::test]
async fn every_service_is_ready_only_after_a_right_answer_to_a_tiny_request() {
    let bench = Bench::new().await;
    let agent = bench.start().await;
    for service in GpuService::ALL {
        let report = bench.platform.until_state(*service, ServiceState::Ready).await;
        assert!(*bench.service(*service).asked().borrow() > 0, "{service} was not asked anything");
        assert!(report.last_success_age_s.is_some() && report.latency_ms.is_some() && !report.stand_in);
    }
    agent.drain().await;
}

#[tokio::test]
async fn a_service_goes_through_all_its_states() {
    let mut bench = Bench::new().await;
    bench.set("LLAMA_DEADLINE", "200ms");
    bench.set("CHATTERBOX_DEADLINE", "200ms");
    bench.set("PROBE_TIMEOUT", "300ms");
    let agent = bench.start().await;
    for service in [GpuService::Llama, GpuService::Chatterbox] {
        let ways = [
            (Mood::Well, ServiceState::Ready),
            (Mood::Loading, ServiceState::Loading),
            (Mood::Well, ServiceState::Ready),
            (Mood::Late, ServiceState::Wedged),
            (Mood::Well, ServiceState::Ready),
            (Mood::Wrong, ServiceState::Wedged),
            (Mood::Well, ServiceState::Ready),
            (Mood::Unwell, ServiceState::Wedged),
            (Mood::Well, ServiceState::Ready),
            (Mood::Mute, ServiceState::Wedged),
            (Mood::Well, ServiceState::Ready),
            (Mood::TurnsAway, ServiceState::Busy),
            (Mood::Well, ServiceState::Ready),
        ];
        for (mood, state) in ways {
            bench.service(service).be(mood);
            let report = bench.platform.until_state(service, state).await;
            assert!(state.answers() || report.detail.is_some(), "{service}: {state} without a reason");
        }
        bench.services.get_mut(&service).unwrap().kill().await;
        let dead = bench.platform.until_state(service, ServiceState::Dead).await;
        assert!(dead.last_success_age_s.is_some(), "it did work once");
        bench.services.get_mut(&service).unwrap().revive().await;
        bench.platform.until_state(service, ServiceState::Ready).await;
    }
    agent.drain().await;
}

#[tokio::test]
async fn what_never_worked_is_starting_or_absent_and_not_dead() {
    let mut bench = Bench::new().await;
    bench.services.get_mut(&GpuService::Llama).unwrap().kill().await;
    bench.set("WHISPER_URL", "http://whisper.invalid:8000");
    bench.set("EXPECTED_SERVICES", "llama,whisper,qwen");
    let agent = bench.start().await;
    for (service, state, detail) in [
        (GpuService::Llama, ServiceState::Starting, "nobody listens yet"),
        (GpuService::Whisper, ServiceState::Absent, "its name has no address"),
        (GpuService::Chatterbox, ServiceState::Absent, "this node does not run it"),
        (GpuService::Qwen, ServiceState::Ready, ""),
    ] {
        bench
            .platform
            .until(detail, |seen| {
                let last = seen.heartbeats.last().into_iter().flat_map(|last| &last.services);
                let mut same = last.filter(|report| report.service == service && report.state == state);
                same.any(|report| report.detail.as_deref().unwrap_or_default() == detail)
            })
            .await;
    }
    assert_eq!(*bench.service(GpuService::Chatterbox).asked().borrow(), 0, "it is none of ours");
    agent.drain().await;
}

#[tokio::test]
async fn all_slots_in_use_is_busy_and_for_too_long_is_wedged() {
    let mut bench = Bench::new().await;
    bench.set("LLAMA_DEADLINE", "200ms");
    bench.set("BUSY_PATIENCE", "1s");
    let agent = bench.start().await;
    bench.platform.until_state(GpuService::Llama, ServiceState::Ready).await;
    bench.service(GpuService::Llama).be(Mood::Full);
    bench.platform.until_state(GpuService::Llama, ServiceState::Busy).await;
    let wedged = bench.platform.until_state(GpuService::Llama, ServiceState::Wedged).await;
    assert!(wedged.detail.unwrap().contains("not answered within 200 ms"));
    assert!(wedged.last_success_age_s >= Some(1));
    agent.drain().await;
}

#[tokio::test]
async fn a_stand_in_is_called_one() {
    let bench = Bench::new().await;
    bench.service(GpuService::Whisper).be(Mood::StandIn);
    let agent = bench.start().await;
    let report = bench.platform.until_state(GpuService::Whisper, ServiceState::Ready).await;
    assert!(report.stand_in);
    assert!(!bench.platform.until_state(GpuService::Llama, ServiceState::Ready).await.stand_in);
    agent.drain().await;
}

#[tokio::test]
async fn a_service_that_works_is_asked_now_and_then() {
    let bench = Bench::new().await;
    let agent = bench.start().await;
    let asked = bench.service(GpuService::Qwen).asked();
    find(asked, "three tiny requests", |asked| (*asked >= 3).then_some(())).await;
    agent.drain().await;
}
