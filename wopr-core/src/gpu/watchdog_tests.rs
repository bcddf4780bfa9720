use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::model::{GpuNode, GpuNodeId, NodeSource, NodeStatus, ServiceHealth, Slug};
use super::watchdog::{Answers, Finding, WatchdogPolicy, is_polled, judge, next_poll, overdue};
use crate::protocol::gpu::{GpuService, Stage};

const START: Timestamp = Timestamp::constant(1_800_000_000, 0);

fn node(status: NodeStatus) -> GpuNode {
    let stage = match status {
        NodeStatus::Provisioning => Stage::Creating,
        NodeStatus::Bootstrapping => Stage::StartingServices,
        _ => Stage::Done,
    };
    let health = ServiceHealth { expected: true, ..ServiceHealth::default() };
    GpuNode {
        id: GpuNodeId::random(),
        source: NodeSource::Provider,
        provision_tag: "tag".to_owned(),
        machine_id: Some("7".to_owned()),
        host: Some("10.0.0.7".parse().unwrap()),
        region: Slug::region("nyc1").unwrap(),
        size: Slug::size("gpu-h100x1-80gb").unwrap(),
        status,
        stage,
        stage_since: START,
        setup_since: START,
        monthly_cost_cents: None,
        last_error: None,
        services: GpuService::ALL.iter().map(|service| (*service, health.clone())).collect(),
        last_health_at: None,
        last_ok_at: None,
        heartbeat: None,
        master_key: None,
        identified_at: None,
        all_down_polls: 0,
        reboot_at: None,
        create_attempted_at: None,
        attempts: 0,
        next_attempt_at: None,
        created_at: START,
        updated_at: START,
    }
}

fn answers(up: &[GpuService]) -> Answers {
    let answer = |service: &GpuService| if up.contains(service) { Ok(5) } else { Err("down".to_owned()) };
    GpuService::ALL.iter().map(|service| (*service, answer(service))).collect()
}

struct Story {
    node: GpuNode,
    seconds: i64,
    reboots: i64,
    policy: WatchdogPolicy,
}

impl Story {
    fn of(node: GpuNode) -> Self {
        Self { node, seconds: 0, reboots: 0, policy: WatchdogPolicy::default() }
    }

    fn now(&self) -> Timestamp {
        START + SignedDuration::from_secs(self.seconds)
    }

    /// A poll `pause` seconds later.
    fn poll(&mut self, pause: i64, up: &[GpuService]) -> Vec<Finding> {
        self.seconds += pause;
        let now = self.now();
        judge(&mut self.node, &answers(up), self.reboots, now, &self.policy).unwrap()
    }
}

const ALL: &[GpuService] = GpuService::ALL;
const NONE: &[GpuService] = &[];

#[test]
fn a_node_is_rebooted_at_exactly_the_second_poll_without_an_answer_and_given_up_ten_minutes_later() {
    let mut story = Story::of(node(NodeStatus::Active));
    assert_eq!(story.poll(30, ALL), []);
    assert_eq!(story.poll(30, NONE), []);
    assert_eq!((story.node.status, story.node.all_down_polls), (NodeStatus::Active, 1));
    assert_eq!(story.poll(30, NONE), [Finding::Degraded, Finding::Reboot]);
    let rebooted_at = story.now();
    assert_eq!((story.node.status, story.node.reboot_at), (NodeStatus::Degraded, Some(rebooted_at)));
    for _ in 0..19 {
        assert_eq!(story.poll(30, NONE), [], "no second reboot at {} s", story.seconds);
    }
    assert_eq!(story.now().duration_since(rebooted_at), SignedDuration::from_secs(570));
    assert_eq!(story.poll(29, NONE), []);
    let reason = "no service answers 10 minutes after the last reboot";
    assert_eq!(story.poll(1, NONE), [Finding::GivenUp(reason.to_owned())]);
    assert_eq!((story.node.status, story.node.last_error.as_deref()), (NodeStatus::Failed, Some(reason)));
    assert_eq!((story.node.all_down_polls, story.node.reboot_at), (0, None));
    assert_eq!(story.poll(300, NONE), []);
    assert_eq!(story.node.status, NodeStatus::Failed);
    assert_eq!(story.poll(300, &[GpuService::Qwen]), [Finding::Recovered { from: NodeStatus::Failed }]);
    assert_eq!((story.node.status, story.node.last_error.as_deref()), (NodeStatus::Active, None));
}

#[test]
fn one_answer_begins_the_count_anew() {
    let mut story = Story::of(node(NodeStatus::Active));
    assert_eq!(story.poll(30, NONE), []);
    assert_eq!(story.poll(30, &[GpuService::Whisper]), []);
    assert_eq!(story.node.all_down_polls, 0);
    assert_eq!(story.poll(30, NONE), []);
    assert_eq!(story.poll(30, NONE), [Finding::Degraded, Finding::Reboot]);
    assert_eq!(story.poll(30, &[GpuService::Llama]), [Finding::Recovered { from: NodeStatus::Degraded }]);
    assert_eq!((story.node.all_down_polls, story.node.reboot_at), (0, None));
}

#[test]
fn a_degraded_node_that_answers_is_active_again_whatever_its_counters_say() {
    let mut story = Story::of(node(NodeStatus::Degraded));
    assert_eq!(story.poll(30, &[GpuService::Llama]), [Finding::Recovered { from: NodeStatus::Degraded }]);
    assert_eq!(story.node.status, NodeStatus::Active);
}

#[test]
fn a_partial_failure_reboots_nothing_and_is_told_once() {
    let mut story = Story::of(node(NodeStatus::Active));
    let most = [GpuService::Llama, GpuService::Chatterbox, GpuService::Whisper];
    for _ in 0..10 {
        assert_eq!(story.poll(30, &most), []);
    }
    assert!(story.node.is_partial());
    assert_eq!(story.poll(30, &most), [Finding::ServiceDown(GpuService::Qwen)]);
    for _ in 0..30 {
        assert_eq!(story.poll(30, &most), []);
    }
    assert_eq!(story.node.status, NodeStatus::Active);
    assert_eq!(story.poll(30, ALL), [Finding::ServiceBack(GpuService::Qwen)]);
    assert!(!story.node.is_partial());
}

#[test]
fn a_node_is_judged_only_by_what_it_should_have() {
    let mut voice = node(NodeStatus::Active);
    for (service, health) in &mut voice.services {
        health.expected = matches!(service, GpuService::Chatterbox | GpuService::Whisper);
    }
    let mut story = Story::of(voice);
    for _ in 0..30 {
        assert_eq!(story.poll(30, &[GpuService::Chatterbox, GpuService::Whisper]), []);
    }
    assert!(!story.node.is_partial());
    // What it should not have does not keep it alive either.
    assert_eq!(story.poll(30, &[GpuService::Llama, GpuService::Qwen]), []);
    assert_eq!(story.poll(30, &[GpuService::Llama, GpuService::Qwen]), [Finding::Degraded, Finding::Reboot]);
}

#[test]
fn a_node_without_a_machine_is_not_rebooted_and_one_on_a_desk_is_never_given_up() {
    let mut bare = node(NodeStatus::Active);
    bare.machine_id = None;
    let mut story = Story::of(bare.clone());
    assert_eq!(story.poll(30, NONE), []);
    assert_eq!(story.poll(30, NONE), [Finding::Degraded, Finding::NoReboot]);
    assert!(matches!(story.poll(600, NONE)[..], [Finding::GivenUp(_)]));

    bare.region = Slug::region("local").unwrap();
    let mut story = Story::of(bare);
    assert_eq!(story.poll(30, NONE), []);
    assert_eq!(story.poll(30, NONE), [Finding::Degraded, Finding::NoReboot]);
    for _ in 0..1000 {
        assert_eq!(story.poll(30, NONE), []);
        assert!(is_polled(&story.node) && story.node.status == NodeStatus::Degraded);
    }
    assert_eq!(story.poll(30, ALL), [Finding::Recovered { from: NodeStatus::Degraded }]);
}

#[test]
fn after_three_reboots_in_a_day_it_is_given_up_instead() {
    let mut story = Story::of(node(NodeStatus::Active));
    story.reboots = 3;
    assert_eq!(story.poll(30, NONE), []);
    let findings = story.poll(30, NONE);
    assert_eq!(findings, [Finding::Degraded, Finding::GivenUp("it was rebooted 3 times within a day".to_owned())]);
    assert_eq!(story.node.status, NodeStatus::Failed);
}

#[test]
fn a_machine_that_somebody_reboots_is_not_rebooted_again_meanwhile() {
    let mut story = Story::of(node(NodeStatus::Active));
    story.node.reboot_at = Some(START);
    assert_eq!(story.poll(5, ALL), []);
    assert_eq!(story.node.reboot_at, Some(START), "it has not even gone down yet");
    assert_eq!(story.poll(30, NONE), []);
    assert_eq!(story.poll(30, NONE), [Finding::Degraded]);
    assert_eq!(story.poll(30, NONE), []);
    assert_eq!(story.poll(30, ALL), [Finding::Recovered { from: NodeStatus::Degraded }]);
    assert_eq!(story.node.reboot_at, None);
}

#[test]
fn a_node_that_is_being_set_up_serves_when_all_of_it_answers() {
    let mut story = Story::of(node(NodeStatus::Bootstrapping));
    assert_eq!(story.poll(30, &[GpuService::Llama]), []);
    assert_eq!((story.node.status, story.node.stage), (NodeStatus::Bootstrapping, Stage::StartingServices));
    assert_eq!(story.poll(30, ALL), [Finding::Ready]);
    assert_eq!((story.node.status, story.node.stage), (NodeStatus::Active, Stage::Done));

    let mut given_up = node(NodeStatus::Failed);
    given_up.stage = Stage::DownloadingModels;
    let mut story = Story::of(given_up);
    assert_eq!(story.poll(300, &[GpuService::Llama]), []);
    assert_eq!(story.poll(300, ALL), [Finding::Recovered { from: NodeStatus::Failed }]);
    assert_eq!(story.node.stage, Stage::Done);
}

#[test]
fn only_what_can_answer_is_polled() {
    let table = [
        (NodeStatus::Provisioning, false),
        (NodeStatus::Bootstrapping, true),
        (NodeStatus::Active, true),
        (NodeStatus::Degraded, true),
        (NodeStatus::Failed, true),
        (NodeStatus::Destroying, false),
    ];
    for (status, polled) in table {
        let mut node = node(status);
        assert_eq!(is_polled(&node), polled, "{status:?}");
        node.host = None;
        assert!(!is_polled(&node), "{status:?} without a host");
    }
    let mut early = node(NodeStatus::Bootstrapping);
    early.stage = Stage::DownloadingModels;
    assert!(!is_polled(&early));
}

#[test]
fn a_poll_is_due_after_the_pause_and_at_once_when_there_was_none() {
    let policy = WatchdogPolicy::default();
    let mut node = node(NodeStatus::Active);
    assert_eq!(next_poll(&node, &policy), None);
    node.last_health_at = Some(START);
    assert_eq!(next_poll(&node, &policy), Some(START + SignedDuration::from_secs(30)));
    node.status = NodeStatus::Failed;
    assert_eq!(next_poll(&node, &policy), Some(START + SignedDuration::from_mins(5)));
}

#[test]
fn every_stage_has_a_deadline_that_is_named_and_a_desk_has_none() {
    let limits: BTreeMap<&str, i64> = Stage::ALL
        .iter()
        .filter(|stage| **stage != Stage::Done)
        .map(|stage| {
            let early = *stage <= Stage::WaitingActive;
            let mut node = node(if early { NodeStatus::Provisioning } else { NodeStatus::Bootstrapping });
            node.stage = *stage;
            let at = |minutes: i64| START + SignedDuration::from_mins(minutes);
            let minutes = (1..=120).find(|minutes| overdue(&node, at(*minutes)).is_some()).unwrap();
            assert!(overdue(&node, at(minutes)).unwrap().contains(stage.as_str()));
            node.region = Slug::region("local").unwrap();
            assert_eq!(overdue(&node, at(100_000)), None);
            (stage.as_str(), minutes)
        })
        .collect();
    let expected = [
        ("creating", 30),
        ("downloading_models", 20),
        ("installing_docker", 60),
        ("installing_drivers", 15),
        ("pending", 30),
        ("registering", 30),
        ("starting_services", 30),
        ("waiting_active", 5),
        ("waiting_agent", 15),
    ];
    assert_eq!(limits, BTreeMap::from(expected));

    let mut slow = node(NodeStatus::Bootstrapping);
    slow.stage_since = START + SignedDuration::from_mins(115);
    let reason = overdue(&slow, START + SignedDuration::from_hours(2)).unwrap();
    assert_eq!(reason, "its set-up took 120 minutes and got to starting_services");
    assert_eq!(overdue(&node(NodeStatus::Active), START + SignedDuration::from_hours(9)), None);
}
