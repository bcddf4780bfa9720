//! GPU nodes on a real PostgreSQL, with a provider and services in memory.

use std::sync::Arc;
use std::time::Duration;

use diesel::sql_types::{BigInt, Text};
use diesel_async::RunQueryDsl as _;
use jiff::SignedDuration;
use secrecy::ExposeSecret as _;
use tokio::sync::Semaphore;
use wopr_core::audit::Origin;
use wopr_core::gpu::cloud_init::{ModelFile, Setup};
use wopr_core::gpu::{
    CloudError, Gpu, GpuConfig, GpuError, GpuNode, MasterSecrets, NewEnrolment, NewProvision, NodeCredential,
    NodeStatus, ProvisionConfig, Slug, WatchdogPolicy,
};
use wopr_core::protocol::gpu::{
    GpuMode, GpuService, Heartbeat, ServiceReport, ServiceState, Stage, StageReport, inference_token, node_secret,
};
use wopr_core::testing::{FixedClock, MemoryCloud, MemoryProbe, TestDb};

const MASTER: &str = "0123456789abcdef0123456789abcdef-gpu";
const SHA: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const ALL: &[GpuService] = GpuService::ALL;

struct Farm {
    test: TestDb,
    clock: FixedClock,
    cloud: MemoryCloud,
    probe: MemoryProbe,
    gpu: Gpu,
}

#[derive(diesel::QueryableByName)]
struct Word {
    #[diesel(sql_type = Text)]
    value: String,
}

#[derive(diesel::QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

fn config() -> GpuConfig {
    let setup = Setup {
        platform_url: "https://api.example".parse().unwrap(),
        agent_image: format!("ghcr.io/wopr-network/wopr-gpu-node@sha256:{SHA}").parse().unwrap(),
        llama_model: ModelFile::new("https://models.example/llama.gguf", SHA).unwrap(),
        embeddings_model: ModelFile::new("https://models.example/qwen.gguf", SHA).unwrap(),
        whisper_model: "Systran/faster-whisper-small".parse().unwrap(),
        platform_networks: vec!["203.0.113.7".parse().unwrap()],
        registry: None,
    };
    GpuConfig {
        masters: MasterSecrets::new([MASTER.into()]),
        operator_email: Some("operator@example.com".to_owned()),
        watchdog: WatchdogPolicy::default(),
        provisioning: Ok(ProvisionConfig {
            default_region: Slug::region("nyc1").unwrap(),
            default_size: Slug::size("gpu-h100x1-80gb").unwrap(),
            image: Slug::new("image", "gpu-h100x1-base", 100).unwrap(),
            ssh_key: None,
            setup,
        }),
    }
}

impl Farm {
    async fn open() -> Self {
        let (clock, cloud, probe) = (FixedClock::default(), MemoryCloud::default(), MemoryProbe::default());
        let test = TestDb::create().await;
        let gpu = Gpu::new(
            test.db.clone(),
            Arc::new(clock.clone()),
            Some(Arc::new(cloud.clone())),
            Arc::new(probe.clone()),
            config(),
        );
        Self { test, clock, cloud, probe, gpu }
    }

    /// The same platform after a restart: everything that was in memory is gone.
    fn restart(&mut self) {
        self.gpu = self.process(config(), true);
    }

    fn process(&self, config: GpuConfig, with_cloud: bool) -> Gpu {
        let (clock, probe) = (Arc::new(self.clock.clone()), Arc::new(self.probe.clone()));
        let cloud = with_cloud.then(|| Arc::new(self.cloud.clone()) as Arc<dyn wopr_core::gpu::CloudProvider>);
        Gpu::new(self.test.db.clone(), clock, cloud, probe, config)
    }

    fn wait(&self, seconds: i64) {
        self.clock.advance(SignedDuration::from_secs(seconds));
    }

    async fn enrol(&self, name: &str, region: &str) -> GpuNode {
        let new = NewEnrolment {
            name: Some(name.to_owned()),
            host: format!("{name}.example"),
            region: Some(region.to_owned()),
            size: None,
            services: None,
        };
        self.gpu.enrol(&origin(), new).await.unwrap().node
    }

    async fn wanted(&self, name: &str) -> GpuNode {
        let new = NewProvision { name: Some(name.to_owned()), ..NewProvision::default() };
        self.gpu.provision(&origin(), new).await.unwrap()
    }

    async fn report(&self, name: &str, stage: Stage) -> Result<(), GpuError> {
        self.gpu.report(NodeCredential::Own { key: 0 }, stage, &report(name)).await
    }

    /// An enrolled node that serves everything.
    async fn serving(&self, name: &str, region: &str) -> GpuNode {
        self.enrol(name, region).await;
        self.probe.set_up(&format!("{name}.example"), ALL);
        self.report(name, Stage::Done).await.unwrap();
        let node = self.node(name).await;
        assert_eq!((node.status, node.stage), (NodeStatus::Active, Stage::Done));
        node
    }

    /// A node with a machine of ours that serves everything.
    async fn rented(&self, name: &str) -> GpuNode {
        self.wanted(name).await;
        self.provision().await;
        self.cloud.boot_all();
        self.wait(5);
        self.provision().await;
        let host = self.node(name).await.host.unwrap();
        self.probe.set_up(host.as_str(), ALL);
        self.report(name, Stage::Done).await.unwrap();
        let node = self.node(name).await;
        assert_eq!(node.status, NodeStatus::Active);
        node
    }

    /// Lets the job do everything that is due now.
    async fn provision(&self) {
        for _ in 0..10 {
            let done = self.gpu.provision_due().await.unwrap();
            if done.advanced + done.removed + done.given_up == 0 {
                return;
            }
        }
        panic!("the job does not come to rest");
    }

    /// A round of the watchdog, `seconds` later.
    async fn poll(&self, seconds: i64) -> usize {
        self.wait(seconds);
        self.gpu.watch().await.unwrap().polled
    }

    async fn node(&self, name: &str) -> GpuNode {
        self.gpu.get(name).await.unwrap()
    }

    async fn status(&self, name: &str) -> NodeStatus {
        self.node(name).await.status
    }

    async fn words(&self, query: &str) -> Vec<String> {
        let mut conn = self.test.db.connection().await.unwrap();
        let rows: Vec<Word> = diesel::sql_query(query).load(&mut conn).await.unwrap();
        rows.into_iter().map(|row| row.value).collect()
    }

    async fn audited(&self) -> Vec<String> {
        self.words("SELECT action AS value FROM audit_log ORDER BY at, id").await
    }

    async fn mails(&self) -> Vec<String> {
        self.words("SELECT template AS value FROM mail_outbox ORDER BY created_at, id").await
    }

    /// Runs a statement that the database has to refuse, and answers the constraint.
    async fn refused(&self, statement: &str) -> String {
        let mut conn = self.test.db.connection().await.unwrap();
        let error = diesel::sql_query(statement).execute(&mut conn).await.unwrap_err();
        let diesel::result::Error::DatabaseError(_, info) = error else { panic!("{error}") };
        info.constraint_name().unwrap_or_default().to_owned()
    }
}

fn origin() -> Origin {
    Origin::system("test")
}

fn report(name: &str) -> StageReport {
    StageReport { node_id: name.to_owned(), ok: None, message: None, host: None }
}

fn heartbeat(name: &str) -> Heartbeat {
    Heartbeat {
        node_id: name.to_owned(),
        agent_version: "0.1.0".to_owned(),
        services: Vec::new(),
        gpu: GpuMode::Cpu { reason: "no card".to_owned() },
        boot_id: "boot-1".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolled_node_serves_when_its_services_answer_and_not_when_it_says_so() {
    let farm = Farm::open().await;
    let new = NewEnrolment {
        name: Some("voice".to_owned()),
        host: "voice.example".to_owned(),
        region: None,
        size: Some("rtx-3070".to_owned()),
        services: Some(vec![GpuService::Chatterbox, GpuService::Whisper]),
    };
    let enrolled = farm.gpu.enrol(&origin(), new.clone()).await.unwrap();
    assert_eq!(enrolled.secret.expose_secret(), node_secret(&MASTER.into(), "voice").expose_secret());
    let node = farm.node("voice").await;
    assert_eq!(node, enrolled.node);
    assert_eq!((node.status, node.stage, node.is_local()), (NodeStatus::Bootstrapping, Stage::WaitingAgent, true));
    assert!(matches!(farm.gpu.enrol(&origin(), new).await, Err(GpuError::NameTaken(_))));
    let shouting = NewProvision { name: Some("VOICE".to_owned()), ..NewProvision::default() };
    assert!(matches!(farm.gpu.provision(&origin(), shouting).await, Err(GpuError::NameTaken(_))));

    assert_eq!(farm.poll(30).await, 0, "nothing listens there yet");
    farm.report("voice", Stage::Done).await.unwrap();
    let node = farm.node("voice").await;
    assert_eq!((node.status, node.stage), (NodeStatus::Bootstrapping, Stage::StartingServices));
    farm.probe.set_up("voice.example", &[GpuService::Whisper]);
    assert_eq!(farm.poll(30).await, 1);
    assert_eq!(farm.status("voice").await, NodeStatus::Bootstrapping);

    farm.probe.take_asked();
    farm.probe.set_up("voice.example", &[GpuService::Whisper, GpuService::Chatterbox]);
    assert_eq!(farm.poll(30).await, 1);
    let node = farm.node("voice").await;
    assert_eq!((node.status, node.stage), (NodeStatus::Active, Stage::Done));
    assert!(!node.is_partial(), "it is not judged by what it should not have");
    let token = inference_token(&node_secret(&MASTER.into(), "voice")).expose_secret().to_owned();
    let asked = farm.probe.take_asked();
    assert_eq!(asked.len(), 4);
    assert!(asked.iter().all(|(host, _, shown)| host == "voice.example" && shown.as_ref() == Some(&token)));

    let backends = farm.gpu.backends(GpuService::Whisper).await.unwrap();
    assert_eq!(backends[0].base_url, "http://voice.example:8082");
    assert_eq!(backends[0].token.as_ref().unwrap().expose_secret(), token);
    assert!(farm.gpu.backends(GpuService::Llama).await.unwrap().is_empty());
    assert_eq!(farm.audited().await, ["gpu.enrol", "gpu.activate"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn set_up_moves_forward_only() {
    let farm = Farm::open().await;
    farm.enrol("one", "fra1").await;
    for stage in [Stage::InstallingDrivers, Stage::DownloadingModels, Stage::DownloadingModels] {
        farm.report("one", stage).await.unwrap();
        farm.wait(60);
    }
    let since = farm.node("one").await.stage_since;
    farm.report("one", Stage::InstallingDocker).await.unwrap();
    let node = farm.node("one").await;
    assert_eq!((node.stage, node.stage_since), (Stage::DownloadingModels, since));
    let back = "UPDATE gpu_nodes SET provision_stage = 'installing_drivers'";
    assert_eq!(farm.refused(back).await, "gpu_nodes_stage");
    assert_eq!(farm.refused("UPDATE gpu_nodes SET status = 'degraded'").await, "gpu_nodes_transition");
    assert_eq!(farm.refused("UPDATE gpu_nodes SET status = 'provisioning'").await, "gpu_nodes_transition");
    let claims = farm.refused("UPDATE gpu_nodes SET status = 'active'").await;
    assert!(claims.starts_with("gpu_nodes_check"), "{claims}: a node at downloading_models does not serve");
    let nameless = farm.refused("UPDATE gpu_nodes SET status = 'failed'").await;
    assert!(nameless.starts_with("gpu_nodes_check"), "{nameless}: it has to say why");

    let failed = StageReport { ok: Some(false), message: Some("no space\nleft".to_owned()), ..report("one") };
    farm.gpu.report(NodeCredential::Shared, Stage::DownloadingModels, &failed).await.unwrap();
    let node = farm.node("one").await;
    assert_eq!(node.status, NodeStatus::Failed);
    assert_eq!(node.last_error.as_deref(), Some("downloading_models: no space left"));
    assert!(matches!(farm.report("one", Stage::Done).await, Err(GpuError::WrongStatus { .. })));
    assert!(matches!(farm.report("two", Stage::Done).await, Err(GpuError::NotFound(id)) if id == "two"));
    assert_eq!(farm.mails().await, ["gpu_node_failed"]);

    farm.report("one", Stage::DownloadingModels).await.unwrap();
    assert_eq!(farm.status("one").await, NodeStatus::Failed);
    let node = farm.gpu.readmit(&origin(), "one").await.unwrap();
    assert_eq!((node.status, node.stage), (NodeStatus::Bootstrapping, Stage::DownloadingModels));
    assert!(matches!(farm.gpu.readmit(&origin(), "one").await, Err(GpuError::WrongStatus { .. })));
    farm.probe.set_up("one.example", ALL);
    farm.report("one", Stage::Done).await.unwrap();
    assert_eq!(farm.status("one").await, NodeStatus::Active);
    // A machine that is set up says so again after a restart, and fails a step of it, without any harm.
    farm.report("one", Stage::InstallingDrivers).await.unwrap();
    farm.gpu.report(NodeCredential::Shared, Stage::InstallingDocker, &failed).await.unwrap();
    assert_eq!(farm.status("one").await, NodeStatus::Active);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_given_up_is_believed_when_its_services_answer() {
    let farm = Farm::open().await;
    farm.enrol("one", "fra1").await;
    let slow = StageReport { ok: Some(false), message: Some("llama is loading".to_owned()), ..report("one") };
    farm.gpu.report(NodeCredential::Own { key: 0 }, Stage::Done, &slow).await.unwrap();
    assert_eq!(farm.status("one").await, NodeStatus::Failed);
    farm.probe.set_up("one.example", &[GpuService::Llama]);
    assert!(matches!(farm.report("one", Stage::Done).await, Err(GpuError::WrongStatus { .. })));
    farm.probe.set_up("one.example", ALL);
    farm.report("one", Stage::Done).await.unwrap();
    assert_eq!(farm.status("one").await, NodeStatus::Active);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_node_itself_can_say_that_it_moved() {
    let farm = Farm::open().await;
    farm.enrol("one", "local").await;
    let moved = StageReport { host: Some("10.0.0.9".to_owned()), ..report("one") };
    farm.gpu.report(NodeCredential::Shared, Stage::InstallingDrivers, &moved).await.unwrap();
    assert_eq!(farm.node("one").await.host.unwrap().as_str(), "one.example");
    farm.gpu.report(NodeCredential::Own { key: 0 }, Stage::InstallingDrivers, &moved).await.unwrap();
    assert_eq!(farm.node("one").await.host.unwrap().as_str(), "10.0.0.9");
    let nonsense = StageReport { host: Some("http://10.0.0.9/".to_owned()), ..report("one") };
    let refused = farm.gpu.report(NodeCredential::Own { key: 0 }, Stage::InstallingDrivers, &nonsense).await;
    assert!(matches!(refused, Err(GpuError::Invalid(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_is_kept_and_a_hostile_one_is_refused() {
    let farm = Farm::open().await;
    farm.enrol("one", "local").await;
    let own = NodeCredential::Own { key: 0 };
    farm.gpu.heartbeat(own, heartbeat("one")).await.unwrap();
    let node = farm.node("one").await;
    assert_eq!(node.heartbeat, Some((wopr_core::clock::Clock::now(&farm.clock), heartbeat("one"))));
    assert!(node.identified_at.is_some());
    let bad = [
        Heartbeat { boot_id: "a\0b".to_owned(), ..heartbeat("one") },
        Heartbeat { agent_version: "x".repeat(2000), ..heartbeat("one") },
        Heartbeat { gpu: GpuMode::Cpu { reason: "\0".to_owned() }, ..heartbeat("one") },
    ];
    for bad in bad {
        assert!(matches!(farm.gpu.heartbeat(own, bad).await, Err(GpuError::Invalid(_))));
    }
    assert!(matches!(farm.gpu.heartbeat(own, heartbeat("two")).await, Err(GpuError::NotFound(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ladder_is_climbed_once_across_restarts() {
    let mut farm = Farm::open().await;
    let node = farm.rented("one").await;
    let host = node.host.unwrap();
    farm.probe.set_up(host.as_str(), &[]);
    assert_eq!(farm.poll(10).await, 0, "not yet");
    assert_eq!(farm.poll(20).await, 1);
    farm.restart();
    assert_eq!((farm.status("one").await, farm.cloud.reboots().len()), (NodeStatus::Active, 0));
    assert_eq!(farm.poll(30).await, 1);
    let machine = node.machine_id.unwrap();
    assert_eq!((farm.status("one").await, farm.cloud.reboots()), (NodeStatus::Degraded, vec![machine.clone()]));
    for _ in 0..19 {
        farm.restart();
        farm.poll(30).await;
    }
    assert_eq!((farm.status("one").await, farm.cloud.reboots().len()), (NodeStatus::Degraded, 1));
    farm.poll(30).await;
    assert_eq!((farm.status("one").await, farm.cloud.reboots().len()), (NodeStatus::Failed, 1));
    assert_eq!(farm.mails().await, ["gpu_node_degraded", "gpu_node_failed"]);

    // Given up, it is looked at now and then, and comes back by itself.
    assert_eq!(farm.poll(30).await, 0);
    farm.probe.set_up(host.as_str(), &[GpuService::Qwen]);
    assert_eq!(farm.poll(270).await, 1);
    let node = farm.node("one").await;
    assert_eq!((node.status, node.is_partial(), node.last_error), (NodeStatus::Active, true, None));
    let mut tail = farm.audited().await.split_off(2);
    // The first two are of one instant, which has no order.
    tail[..2].sort_unstable();
    assert_eq!(tail, ["gpu.degrade", "gpu.reboot", "gpu.fail", "gpu.recover"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_degraded_node_that_answers_is_active_after_a_restart() {
    let mut farm = Farm::open().await;
    farm.serving("one", "local").await;
    farm.probe.set_up("one.example", &[]);
    farm.poll(30).await;
    farm.poll(30).await;
    assert_eq!(farm.status("one").await, NodeStatus::Degraded);
    assert!(farm.gpu.backends(GpuService::Llama).await.unwrap().is_empty());
    farm.restart();
    farm.probe.set_up("one.example", ALL);
    farm.poll(30).await;
    let node = farm.node("one").await;
    assert_eq!((node.status, node.all_down_polls, node.reboot_at), (NodeStatus::Active, 0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_a_desk_that_is_off_for_a_week_is_never_given_up() {
    let farm = Farm::open().await;
    farm.serving("desk", "local").await;
    farm.serving("rack", "fra1").await;
    farm.probe.set_up("desk.example", &[]);
    farm.probe.set_up("rack.example", &[]);
    for _ in 0..40 {
        farm.poll(30).await;
    }
    assert_eq!(farm.status("desk").await, NodeStatus::Degraded);
    assert_eq!(farm.status("rack").await, NodeStatus::Failed, "without a machine there is no reboot, but an end");
    assert_eq!(farm.cloud.reboots(), Vec::<String>::new());
    for _ in 0..7 {
        assert_eq!(farm.poll(24 * 3600).await, 2);
    }
    assert_eq!(farm.status("desk").await, NodeStatus::Degraded);
    farm.probe.set_up("desk.example", ALL);
    farm.probe.set_up("rack.example", ALL);
    farm.poll(300).await;
    assert_eq!((farm.status("desk").await, farm.status("rack").await), (NodeStatus::Active, NodeStatus::Active));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_that_a_crash_cut_off_is_asked_for_once() {
    let mut farm = Farm::open().await;
    let host = farm.rented("one").await.host.unwrap();
    farm.probe.set_up(host.as_str(), &[]);
    farm.poll(30).await;
    // The provider is away when the reboot is due: it stays written down.
    farm.cloud.set_away(true);
    farm.poll(30).await;
    assert_eq!((farm.status("one").await, farm.cloud.reboots().len()), (NodeStatus::Degraded, 0));
    farm.restart();
    farm.cloud.set_away(false);
    farm.poll(5).await;
    assert_eq!(farm.cloud.reboots().len(), 1);
    farm.poll(5).await;
    farm.poll(30).await;
    assert_eq!(farm.cloud.reboots().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_that_is_not_needed_any_more_is_dropped() {
    let farm = Farm::open().await;
    let host = farm.rented("one").await.host.unwrap();
    farm.probe.set_up(host.as_str(), &[]);
    farm.cloud.set_away(true);
    farm.poll(30).await;
    farm.poll(30).await;
    farm.probe.set_up(host.as_str(), ALL);
    farm.cloud.set_away(false);
    farm.poll(30).await;
    assert_eq!((farm.status("one").await, farm.cloud.reboots().len()), (NodeStatus::Active, 0));
    assert_eq!(farm.words("SELECT state AS value FROM gpu_reboots").await, ["dropped"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn reboots_are_counted_by_the_day() {
    let farm = Farm::open().await;
    let host = farm.rented("one").await.host.unwrap();
    let outage = async || {
        farm.probe.set_up(host.as_str(), &[]);
        farm.poll(30).await;
        farm.poll(30).await;
        let status = farm.status("one").await;
        farm.probe.set_up(host.as_str(), ALL);
        farm.poll(300).await;
        status
    };
    for _ in 0..3 {
        assert_eq!(outage().await, NodeStatus::Degraded);
    }
    assert_eq!(outage().await, NodeStatus::Failed, "the fourth time it is given up");
    assert_eq!((farm.cloud.reboots().len(), farm.status("one").await), (3, NodeStatus::Active));
    farm.poll(24 * 3600).await;
    assert_eq!(outage().await, NodeStatus::Degraded);
    assert_eq!(farm.cloud.reboots().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_reboot_is_done_at_once_or_refused_at_once() {
    let farm = Farm::open().await;
    farm.rented("one").await;
    farm.serving("bare", "fra1").await;
    farm.gpu.reboot(&origin(), "one").await.unwrap();
    assert_eq!(farm.cloud.reboots().len(), 1);
    assert!(matches!(farm.gpu.reboot(&origin(), "bare").await, Err(GpuError::NoMachine(_))));
    assert!(matches!(farm.gpu.reboot(&origin(), "none").await, Err(GpuError::NotFound(_))));
    farm.cloud.set_away(true);
    assert!(matches!(farm.gpu.reboot(&origin(), "one").await, Err(GpuError::Cloud(CloudError::Unavailable(_)))));
    farm.cloud.set_away(false);
    farm.poll(120).await;
    assert_eq!(farm.cloud.reboots().len(), 1, "what was refused is not done behind the operator's back");
    let without = farm.process(config(), false);
    assert!(matches!(without.reboot(&origin(), "one").await, Err(GpuError::NoProvider)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_outage_is_told_once_and_reboots_nothing() {
    let farm = Farm::open().await;
    let host = farm.rented("one").await.host.unwrap();
    farm.probe.set_up(host.as_str(), &[GpuService::Llama, GpuService::Whisper, GpuService::Qwen]);
    for _ in 0..30 {
        farm.poll(30).await;
    }
    let node = farm.node("one").await;
    assert_eq!((node.status, node.missing_services()), (NodeStatus::Active, vec![GpuService::Chatterbox]));
    assert_eq!(farm.mails().await, ["gpu_service_down"]);
    assert_eq!(farm.cloud.reboots().len(), 0);
    assert!(node.last_ok_at > Some(node.created_at) && node.last_ok_at == node.last_health_at);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_watchdogs_count_a_poll_once() {
    let farm = Farm::open().await;
    farm.serving("one", "local").await;
    farm.probe.set_up("one.example", &[]);
    let other = farm.process(config(), true);
    let gate = Arc::new(Semaphore::new(0));
    farm.probe.take_asked();
    farm.probe.hold_at(Arc::clone(&gate));
    farm.wait(30);
    let (one, two) = (farm.gpu.clone(), other.clone());
    let (one, two) = (tokio::spawn(async move { one.watch().await }), tokio::spawn(async move { two.watch().await }));
    // Both ask before either is answered.
    let mut asked = 0;
    while asked < 8 {
        asked += farm.probe.take_asked().len();
        tokio::task::yield_now().await;
    }
    let again = farm.gpu.watch().await.unwrap();
    assert!(again.already_running && again.polled == 0, "a process does not start a second round");
    gate.add_permits(1000);
    let polled = one.await.unwrap().unwrap().polled + two.await.unwrap().unwrap().polled;
    assert_eq!((polled, farm.node("one").await.all_down_polls), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_says_it_is_back_is_asked_at_once_and_not_believed() {
    let farm = Farm::open().await;
    farm.serving("one", "local").await;
    let says = async |state: ServiceState| {
        let report = |service: &GpuService| ServiceReport {
            service: *service,
            state,
            last_success_age_s: None,
            latency_ms: None,
            detail: None,
            stand_in: false,
        };
        let said = Heartbeat { services: GpuService::ALL.iter().map(report).collect(), ..heartbeat("one") };
        farm.gpu.heartbeat(NodeCredential::Own { key: 0 }, said).await.unwrap();
    };
    says(ServiceState::Ready).await;
    assert_eq!(farm.poll(5).await, 0, "what answered the last poll is asked in its time");

    farm.probe.set_up("one.example", &[]);
    assert_eq!(farm.poll(25).await, 1);
    farm.probe.take_asked();
    assert_eq!(farm.poll(5).await, 0, "it has said nothing since then");
    says(ServiceState::Loading).await;
    assert_eq!(farm.poll(5).await, 0);
    assert!(farm.probe.take_asked().is_empty());
    says(ServiceState::Ready).await;
    assert_eq!(farm.poll(5).await, 0);
    assert_eq!(farm.probe.take_asked().len(), 4);
    assert_eq!(farm.node("one").await.all_down_polls, 1, "no patience is used up before its time");
    assert_eq!(farm.poll(15).await, 1);
    assert_eq!(farm.status("one").await, NodeStatus::Degraded);

    farm.wait(2);
    farm.probe.set_up("one.example", ALL);
    says(ServiceState::Ready).await;
    assert_eq!(farm.poll(3).await, 1);
    let node = farm.node("one").await;
    assert_eq!((node.status, node.all_down_polls), (NodeStatus::Active, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_watches_without_a_provider_and_without_a_secret() {
    let farm = Farm::open().await;
    farm.serving("one", "fra1").await;
    let bare = GpuConfig { masters: MasterSecrets::default(), operator_email: None, ..config() };
    let bare = farm.process(GpuConfig { provisioning: Err(vec!["GPU_AGENT_IMAGE"]), ..bare }, false);
    farm.probe.take_asked();
    farm.wait(30);
    assert_eq!(bare.watch().await.unwrap().polled, 1);
    assert!(farm.probe.take_asked().iter().all(|(_, _, token)| token.is_none()));
    assert_eq!(bare.provision_due().await.unwrap().advanced, 0);
    assert!(matches!(bare.provision(&origin(), NewProvision::default()).await, Err(GpuError::NoProvider)));
    assert!(matches!(bare.regions().await, Err(GpuError::NoProvider)));
    assert!(!bare.has_secret() && bare.authenticate(MASTER, Some("one")).is_none());
    let new = NewEnrolment { name: None, host: "x".to_owned(), region: None, size: None, services: None };
    assert!(matches!(bare.enrol(&origin(), new).await, Err(GpuError::NoSecret)));
    let some = GpuConfig { provisioning: Err(vec!["GPU_AGENT_IMAGE"]), ..config() };
    let some = farm.process(some, true);
    let refused = some.provision(&origin(), NewProvision::default()).await.unwrap_err();
    assert_eq!(refused.to_string(), "machines cannot be provisioned without GPU_AGENT_IMAGE");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_made_step_by_step() {
    let farm = Farm::open().await;
    let node = farm.wanted("one").await;
    assert_eq!((node.status, node.stage), (NodeStatus::Provisioning, Stage::Pending));
    farm.provision().await;
    let node = farm.node("one").await;
    let machine = node.machine_id.clone().unwrap();
    assert_eq!((node.stage, node.monthly_cost_cents), (Stage::WaitingActive, Some(247_680)));
    assert_eq!(farm.cloud.machine_names(), ["wopr-one"]);
    let user_data = farm.cloud.user_data(&machine).unwrap();
    assert!(user_data.contains("NODE_ID='one'") && user_data.contains("PLATFORM_URL='https://api.example'"));
    let secret = node_secret(&MASTER.into(), "one").expose_secret().to_owned();
    assert!(!user_data.contains(&secret) && !user_data.contains(MASTER), "no lasting secret is in there");

    farm.wait(5);
    farm.provision().await;
    assert_eq!(farm.node("one").await.stage, Stage::WaitingActive);
    farm.cloud.boot_all();
    farm.wait(5);
    farm.provision().await;
    let node = farm.node("one").await;
    assert_eq!((node.status, node.stage), (NodeStatus::Bootstrapping, Stage::WaitingAgent));
    assert!(node.host.is_some() && node.next_attempt_at.is_none());

    let birth = user_data.split("Authorization: Bearer ").nth(1).unwrap().lines().next().unwrap();
    assert!(farm.gpu.be_born("nonsense", "one").await.unwrap().is_none());
    assert!(farm.gpu.be_born(birth, "two").await.unwrap().is_none());
    assert_eq!(farm.gpu.be_born(birth, "one").await.unwrap().unwrap().secret.expose_secret(), secret);
    assert!(farm.gpu.be_born(birth, "one").await.unwrap().is_some(), "the first answer may have been lost");
    assert_eq!(farm.gpu.authenticate(&secret, Some("one")), Some(NodeCredential::Own { key: 0 }));
    farm.report("one", Stage::InstallingDrivers).await.unwrap();
    assert!(farm.gpu.be_born(birth, "one").await.unwrap().is_none(), "it has its secret");
    assert_eq!(farm.audited().await, ["gpu.provision", "gpu.identify", "gpu.identify"]);
}

/// What can go wrong at one call of the provider.
#[derive(Debug, Clone, Copy)]
enum Mishap {
    Away,
    AnswerLost,
    Busy,
}

impl Mishap {
    fn strike(self, cloud: &MemoryCloud) {
        match self {
            Self::Away => cloud.fail_next(CloudError::Unavailable("on purpose".to_owned())),
            Self::AnswerLost => cloud.lose_next_answer(),
            Self::Busy => cloud.fail_next(CloudError::RateLimited { retry_after: Some(Duration::from_secs(30)) }),
        }
    }
}

/// Goes on until the machine has its address, and checks that it is the only one there is.
async fn one_machine_in_the_end(farm: &Farm, story: &str) {
    let mut rounds = 0;
    while farm.status("one").await != NodeStatus::Bootstrapping {
        rounds += 1;
        assert!(rounds < 200, "{story}: {:?}", farm.node("one").await);
        farm.wait(5);
        farm.gpu.provision_due().await.unwrap();
        if rounds == 3 {
            farm.cloud.show_all();
        }
        farm.cloud.boot_all();
    }
    let node = farm.node("one").await;
    assert_eq!(farm.cloud.machine_ids(), [node.machine_id.unwrap()], "{story}");
    assert_eq!(node.last_error, None, "{story}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_at_whichever_call_there_is_one_machine_in_the_end_and_the_row_knows_it() {
    for mishap in [Mishap::Away, Mishap::AnswerLost, Mishap::Busy] {
        // The calls are: look for the tag, order, look at the machine, look again.
        for call in 0..4 {
            for hidden in [false, true] {
                let farm = Farm::open().await;
                farm.wanted("one").await;
                if hidden {
                    farm.cloud.hide_new();
                }
                for _ in 0..call {
                    farm.cloud.answer_next();
                }
                mishap.strike(&farm.cloud);
                farm.gpu.provision_due().await.unwrap();
                let story = format!("{mishap:?} at call {call}, new machines hidden: {hidden}");
                one_machine_in_the_end(&farm, &story).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_when_it_has_ordered_leaves_one_machine() {
    for hidden in [false, true] {
        let mut farm = Farm::open().await;
        farm.wanted("one").await;
        if hidden {
            farm.cloud.hide_new();
        }
        farm.cloud.answer_next();
        farm.cloud.hang_at_next_answer();
        let gpu = farm.gpu.clone();
        let job = tokio::spawn(async move { gpu.provision_due().await });
        while farm.cloud.machine_ids().is_empty() {
            assert!(!job.is_finished(), "it ended without an order");
            tokio::task::yield_now().await;
        }
        job.abort();
        assert!(job.await.unwrap_err().is_cancelled(), "it ended before it was killed");
        farm.restart();
        one_machine_in_the_end(&farm, &format!("killed, new machines hidden: {hidden}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_without_an_answer_is_waited_for_before_it_is_repeated() {
    let farm = Farm::open().await;
    farm.wanted("one").await;
    farm.cloud.hide_new();
    lose_the_order(&farm).await;
    assert_eq!(farm.cloud.machine_ids().len(), 1);
    let node = farm.node("one").await;
    assert!(node.machine_id.is_none() && node.create_attempted_at.is_some());
    for _ in 0..5 {
        farm.wait(15);
        farm.gpu.provision_due().await.unwrap();
        assert_eq!(farm.cloud.machine_ids().len(), 1, "a second one is not ordered while the first may show up");
    }
    farm.cloud.show_all();
    farm.wait(15);
    farm.provision().await;
    assert_eq!(farm.node("one").await.machine_id, farm.cloud.machine_ids().pop());
}

/// Runs the job once so that the order is taken and its answer lost; the look before it is answered.
async fn lose_the_order(farm: &Farm) {
    farm.cloud.answer_next();
    farm.cloud.lose_next_answer();
    farm.gpu.provision_due().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_at_once_order_one_machine() {
    let farm = Farm::open().await;
    farm.wanted("one").await;
    let jobs: Vec<_> = (0..8)
        .map(|_| {
            let gpu = farm.process(config(), true);
            tokio::spawn(async move { gpu.provision_due().await.unwrap() })
        })
        .collect();
    for job in jobs {
        job.await.unwrap();
    }
    assert_eq!(farm.cloud.machine_ids().len(), 1);
    farm.cloud.boot_all();
    farm.wait(5);
    farm.provision().await;
    assert_eq!(farm.status("one").await, NodeStatus::Bootstrapping);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_order_ends_it_and_taking_it_back_begins_anew() {
    let farm = Farm::open().await;
    let odd = NewProvision { name: Some("one".to_owned()), size: Some("gpu-none".to_owned()), region: None };
    farm.gpu.provision(&origin(), odd).await.unwrap();
    farm.provision().await;
    let node = farm.node("one").await;
    assert_eq!((node.status, node.machine_id, node.create_attempted_at), (NodeStatus::Failed, None, None));
    assert!(node.last_error.unwrap().contains("invalid size"));
    assert_eq!(farm.mails().await, ["gpu_node_failed"]);
    let node = farm.gpu.readmit(&origin(), "one").await.unwrap();
    assert_eq!((node.status, node.stage), (NodeStatus::Provisioning, Stage::Pending));
    farm.provision().await;
    assert_eq!(farm.status("one").await, NodeStatus::Failed);
    farm.gpu.destroy(&origin(), "one", false).await.unwrap();
    assert!(matches!(farm.gpu.get("one").await, Err(GpuError::NotFound(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_comes_up_too_late_is_taken_all_the_same() {
    let farm = Farm::open().await;
    farm.wanted("one").await;
    farm.provision().await;
    farm.wait(300);
    farm.provision().await;
    let node = farm.node("one").await;
    assert_eq!(node.status, NodeStatus::Failed);
    assert_eq!(node.last_error.as_deref(), Some("its set-up stayed at waiting_active for 5 minutes"));
    assert!(node.machine_id.is_some(), "the machine that costs money is not forgotten");
    farm.cloud.boot_all();
    farm.wait(300);
    farm.provision().await;
    let node = farm.node("one").await;
    assert_eq!((node.status, node.stage, node.last_error), (NodeStatus::Bootstrapping, Stage::WaitingAgent, None));
    // It says nothing for too long: that ends too, and a late word does not fall on deaf ears.
    farm.wait(15 * 60);
    farm.provision().await;
    assert_eq!(farm.status("one").await, NodeStatus::Failed);
    farm.report("one", Stage::DownloadingModels).await.unwrap();
    let node = farm.node("one").await;
    assert_eq!((node.status, node.stage), (NodeStatus::Failed, Stage::DownloadingModels));
    farm.probe.set_up(node.host.unwrap().as_str(), ALL);
    farm.report("one", Stage::Done).await.unwrap();
    assert_eq!(farm.status("one").await, NodeStatus::Active);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_reports_before_its_address_is_known_loses_nothing() {
    let farm = Farm::open().await;
    farm.wanted("one").await;
    farm.provision().await;
    farm.report("one", Stage::InstallingDocker).await.unwrap();
    let node = farm.node("one").await;
    assert_eq!((node.status, node.stage, node.host), (NodeStatus::Bootstrapping, Stage::InstallingDocker, None));
    farm.cloud.boot_all();
    farm.wait(5);
    farm.provision().await;
    let node = farm.node("one").await;
    assert_eq!((node.stage, node.host.is_some()), (Stage::InstallingDocker, true), "the stage did not go back");
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_node_removes_its_machine_first() {
    let farm = Farm::open().await;
    farm.rented("one").await;
    farm.wanted("two").await;
    assert!(matches!(farm.gpu.destroy(&origin(), "two", false).await, Err(GpuError::WrongStatus { .. })));
    assert!(matches!(farm.gpu.destroy(&origin(), "three", false).await, Err(GpuError::NotFound(_))));
    let without = farm.process(config(), false);
    assert!(matches!(without.destroy(&origin(), "one", false).await, Err(GpuError::NoProvider)));

    farm.cloud.set_away(true);
    farm.gpu.destroy(&origin(), "one", false).await.unwrap();
    for _ in 0..5 {
        farm.gpu.provision_due().await.unwrap();
        farm.wait(600);
    }
    assert_eq!(farm.status("one").await, NodeStatus::Destroying);
    assert_eq!(farm.poll(30).await, 0, "what is being removed is not polled");
    assert!(matches!(farm.report("one", Stage::Done).await, Err(GpuError::WrongStatus { .. })));
    assert_eq!(farm.refused("UPDATE gpu_nodes SET droplet_id = NULL WHERE id = 'one'").await, "gpu_nodes_droplet");
    farm.cloud.set_away(false);
    for _ in 0..3 {
        farm.wait(600);
        farm.gpu.provision_due().await.unwrap();
    }
    assert!(matches!(farm.gpu.get("one").await, Err(GpuError::NotFound(_))));
    let audited = farm.audited().await;
    assert!(audited.contains(&"gpu.destroy".to_owned()) && audited.contains(&"gpu.destroyed".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_node_whose_order_was_lost_finds_the_machine() {
    let farm = Farm::open().await;
    farm.wanted("one").await;
    farm.cloud.hide_new();
    lose_the_order(&farm).await;
    assert_eq!(farm.cloud.machine_ids().len(), 1);
    farm.gpu.destroy(&origin(), "one", true).await.unwrap();
    farm.gpu.provision_due().await.unwrap();
    assert_eq!(farm.status("one").await, NodeStatus::Destroying, "it may still show up");
    farm.cloud.show_all();
    for _ in 0..30 {
        farm.wait(5);
        farm.gpu.provision_due().await.unwrap();
    }
    assert_eq!(farm.cloud.machine_ids(), Vec::<String>::new());
    assert!(matches!(farm.gpu.get("one").await, Err(GpuError::NotFound(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_vanishes_is_said() {
    let farm = Farm::open().await;
    farm.wanted("one").await;
    farm.provision().await;
    let machine = farm.node("one").await.machine_id.unwrap();
    farm.cloud.vanish(&machine);
    farm.wait(5);
    farm.provision().await;
    let node = farm.node("one").await;
    assert_eq!(node.status, NodeStatus::Failed);
    assert_eq!(node.last_error.as_deref(), Some("its machine is gone at the provider"));
    farm.gpu.destroy(&origin(), "one", false).await.unwrap();
    farm.provision().await;
    assert!(matches!(farm.gpu.get("one").await, Err(GpuError::NotFound(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_books_of_a_node_are_gone_with_it() {
    let farm = Farm::open().await;
    farm.serving("one", "local").await;
    farm.gpu.destroy(&origin(), "one", false).await.unwrap();
    let left = "SELECT (SELECT count(*) FROM gpu_services) + (SELECT count(*) FROM gpu_progress) AS value";
    let mut conn = farm.test.db.connection().await.unwrap();
    let left: Number = diesel::sql_query(left).get_result(&mut conn).await.unwrap();
    assert_eq!(left.value, 0);
    assert!(farm.gpu.list().await.unwrap().is_empty());
}
