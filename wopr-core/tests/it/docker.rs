//! One bot's whole life on the real engine: made, hardened, changed, unpaid, paid, destroyed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerInspectResponse, RestartPolicyNameEnum, VolumeCreateRequest};
use bollard::query_parameters::{
    DownloadFromContainerOptions, InspectContainerOptions, InspectNetworkOptions, RemoveContainerOptions,
    RemoveImageOptions, RemoveVolumeOptions, TagImageOptions,
};
use futures_util::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use sha2::Digest as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wopr_core::adapters::docker::DockerHost;
use wopr_core::audit::{Actor, Origin};
use wopr_core::billing::{Billing, BillingConfig, Transfer, TransferKind};
use wopr_core::clock::{Clock, SystemClock};
use wopr_core::fleet::container::{container_name, data_volume_name, network_name, run_volume_name};
use wopr_core::fleet::{Bot, BotChange, ContainerHost, Fleet, FleetConfig, HostError, ImageReference, NewBot, Phase};
use wopr_core::ids::{BotId, TenantId};
use wopr_core::money::Money;
use wopr_core::testing::TestDb;

pub(crate) const IMAGE: &str = "ghcr.io/wopr-network/wopr:latest";
const PORT: u16 = 7437;

/// The machine's clock, and the days the test has skipped: the engine tells the real time, so this one must go on too.
#[derive(Clone, Default)]
struct SkippingClock(Arc<AtomicI64>);

impl Clock for SkippingClock {
    fn now(&self) -> Timestamp {
        SystemClock.now() + SignedDuration::from_hours(24 * self.0.load(Ordering::SeqCst))
    }
}

/// Leaves nothing on the engine, however the test ends.
pub(crate) struct Leftovers {
    pub(crate) bot: BotId,
    pub(crate) tenant: TenantId,
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        let (bot, tenant) = (self.bot, self.tenant);
        // The test's runtime may be going away: clean from a thread of our own. What is gone already is no failure.
        let cleaner = std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async {
                let Ok(docker) = Docker::connect_with_unix_defaults() else { return };
                let options = RemoveContainerOptions { force: true, ..RemoveContainerOptions::default() };
                drop(docker.remove_container(&container_name(bot), Some(options)).await);
                for volume in [data_volume_name(bot, 0), run_volume_name(bot)] {
                    drop(docker.remove_volume(&volume, None::<RemoveVolumeOptions>).await);
                }
                drop(docker.remove_network(&network_name(tenant)).await);
            });
        });
        drop(cleaner.join());
    }
}

pub(crate) struct Yard {
    _test: TestDb,
    clock: SkippingClock,
    billing: Billing,
    pub(crate) fleet: Fleet,
    docker: Docker,
}

impl Yard {
    async fn open() -> Self {
        let host = DockerHost::new(None, None).unwrap().with_label("wopr.test", "docker");
        Self::with(host, FleetConfig::default()).await
    }

    pub(crate) async fn with(host: DockerHost, config: FleetConfig) -> Self {
        let docker = Docker::connect_with_unix_defaults().unwrap();
        let has_image = docker.inspect_image(IMAGE).await.is_ok();
        assert!(has_image, "no {IMAGE} on the Docker engine: run `cargo wopr images` once");
        let (test, clock) = (TestDb::create().await, SkippingClock::default());
        let billing = Billing::new(test.db.clone(), Arc::new(clock.clone()), BillingConfig::default());
        let fleet = Fleet::new(test.db.clone(), Arc::new(clock.clone()), billing.clone(), Arc::new(host), config);
        Self { _test: test, clock, billing, fleet, docker }
    }

    pub(crate) async fn tenant(&self) -> TenantId {
        let tenant = TenantId::new(self.clock.now());
        self.billing.open_account(tenant, "Ann").await.unwrap();
        tenant
    }

    pub(crate) async fn pay(&self, tenant: TenantId, cents: i32, key: &str) {
        let (key, amount) = (format!("cs_{tenant}_{key}"), Money::from_cents(cents));
        let transfer = Transfer::to_wallet(key, TransferKind::Purchase, tenant, amount, Actor::Webhook("stripe"));
        self.billing.post(&[transfer]).await.unwrap();
    }

    /// Works on what is due until the bot is in `phase` and nothing more is to be done.
    pub(crate) async fn until(&self, tenant: TenantId, id: BotId, phase: Phase) -> Bot {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(40);
        loop {
            self.fleet.advance().await.unwrap();
            let bot = self.fleet.get(tenant, id).await.unwrap();
            if bot.phase == phase && bot.next_attempt_at.is_none() {
                return bot;
            }
            assert!(tokio::time::Instant::now() < deadline, "not {phase:?} in time: {bot:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn inspect(&self, id: BotId) -> ContainerInspectResponse {
        self.docker.inspect_container(&container_name(id), None::<InspectContainerOptions>).await.unwrap()
    }

    pub(crate) async fn host_name_inside(&self, id: BotId) -> String {
        self.inspect(id).await.config.unwrap().hostname.unwrap()
    }

    /// What the engine still has of the bot and its tenant.
    async fn remains(&self, tenant: TenantId, id: BotId) -> Vec<String> {
        let mut remains = Vec::new();
        if self.docker.inspect_container(&container_name(id), None::<InspectContainerOptions>).await.is_ok() {
            remains.push(container_name(id));
        }
        for volume in [data_volume_name(id, 0), run_volume_name(id)] {
            if self.docker.inspect_volume(&volume).await.is_ok() {
                remains.push(volume);
            }
        }
        if self.docker.inspect_network(&network_name(tenant), None::<InspectNetworkOptions>).await.is_ok() {
            remains.push(network_name(tenant));
        }
        remains
    }

    /// Works on what is due until the engine has nothing of the bot and its tenant.
    pub(crate) async fn until_gone(&self, tenant: TenantId, id: BotId) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(40);
        loop {
            self.fleet.advance().await.unwrap();
            let remains = self.remains(tenant, id).await;
            if remains.is_empty() {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "still there: {remains:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The key file: who may read it, and what is in it.
    async fn key_file(&self, id: BotId) -> (u32, u64, String) {
        let options = DownloadFromContainerOptions { path: "/run/wopr/service-key".to_owned() };
        let mut stream = Box::pin(self.docker.download_from_container(&container_name(id), Some(options)));
        let mut packed = Vec::new();
        while let Some(part) = stream.next().await {
            packed.extend_from_slice(&part.unwrap());
        }
        let mut archive = tar::Archive::new(packed.as_slice());
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        let (mode, uid) = (entry.header().mode().unwrap() & 0o7777, entry.header().uid().unwrap());
        let mut key = String::new();
        std::io::Read::read_to_string(&mut entry, &mut key).unwrap();
        (mode, uid, key)
    }

    /// Asks the bot at its own address, with the key it was given, and answers the status line and the body.
    async fn ask(&self, tenant: TenantId, id: BotId, method: &str, path: &str, body: &str) -> String {
        let networks = self.inspect(id).await.network_settings.unwrap().networks.unwrap();
        assert_eq!(networks.keys().collect::<Vec<_>>(), [&network_name(tenant)]);
        let address = networks[&network_name(tenant)].ip_address.clone().unwrap();
        let (_, _, key) = self.key_file(id).await;
        let mut stream = tokio::net::TcpStream::connect((address.as_str(), PORT)).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
        answer
    }
}

fn assert_hardened(container: &ContainerInspectResponse, tenant: TenantId, id: BotId) {
    let host = container.host_config.clone().unwrap();
    assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
    // Engines differ in whether they write the prefix.
    let added: Vec<_> = host.cap_add.unwrap().iter().map(|cap| cap.trim_start_matches("CAP_").to_owned()).collect();
    assert_eq!(added, ["NET_BIND_SERVICE"]);
    assert_eq!(host.readonly_rootfs, Some(true));
    assert_eq!(host.privileged, Some(false));
    assert_eq!(host.security_opt, Some(vec!["no-new-privileges".to_owned()]));
    assert_eq!((host.memory, host.memory_swap), (Some(2 << 30), Some(2 << 30)));
    assert_eq!((host.cpu_period, host.cpu_quota), (Some(100_000), Some(200_000)));
    assert_eq!(host.pids_limit, Some(512));
    assert_eq!(host.init, Some(true));
    assert_eq!(host.network_mode, Some(network_name(tenant)));
    assert_eq!(host.restart_policy.unwrap().name, Some(RestartPolicyNameEnum::UNLESS_STOPPED));
    assert!(host.binds.unwrap_or_default().is_empty(), "nothing of the machine is mounted");
    assert!(host.port_bindings.unwrap_or_default().is_empty(), "nothing is published on the machine");
    let tmpfs = host.tmpfs.unwrap();
    assert!(["/tmp", "/var/tmp"].iter().all(|path| tmpfs[*path].contains("noexec")), "{tmpfs:?}");
    let mounts = container.mounts.clone().unwrap();
    let mounted: HashMap<_, _> =
        mounts.iter().map(|m| (m.destination.clone().unwrap(), m.name.clone().unwrap())).collect();
    let volumes = [("/data", data_volume_name(id, 0)), ("/run/wopr", run_volume_name(id))];
    assert_eq!(mounted, volumes.map(|(path, name)| (path.to_owned(), name)).into());
    let labels = container.config.clone().unwrap().labels.unwrap();
    assert_eq!((labels["wopr.managed"].as_str(), labels["wopr.bot-id"].as_str()), ("true", id.to_string().as_str()));
}

/// A registry that nobody answers at, and what the engine has under a name of it.
struct SilentRegistry {
    docker: Docker,
    port: tokio::net::TcpListener,
    image: ImageReference,
}

impl SilentRegistry {
    async fn open() -> Self {
        let docker = Docker::connect_with_unix_defaults().unwrap();
        let port = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let repository = format!("{}/wopr/own", port.local_addr().unwrap());
        let options = TagImageOptions { repo: Some(repository.clone()), tag: Some("1".to_owned()) };
        let tagged = docker.tag_image(IMAGE, Some(options)).await;
        assert!(tagged.is_ok(), "no {IMAGE} on the Docker engine: run `cargo wopr images` once");
        Self { docker, port, image: format!("{repository}:1").parse().unwrap() }
    }

    async fn close(self) {
        let options = RemoveImageOptions { noprune: true, ..RemoveImageOptions::default() };
        self.docker.remove_image(&self.image.to_string(), Some(options), None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_is_not_asked_for_what_the_engine_has_if_that_comes_first() {
    let registry = SilentRegistry::open().await;
    let own = registry.docker.inspect_image(IMAGE).await.unwrap().id.unwrap();
    let host = DockerHost::new(None, None).unwrap();
    let asked = tokio::select! {
        biased;
        asked = registry.port.accept() => asked.is_ok(),
        _ = host.resolve_image(&registry.image) => false,
    };
    assert!(asked, "a registry is asked, unless told otherwise");
    let resolved = host.with_own_images_first().resolve_image(&registry.image).await.unwrap();
    assert_eq!(resolved.as_str(), own);
    registry.close().await;
}

/// A registry with one list of images, and what it was asked for.
async fn speaking_registry(manifest: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
    const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = asked.clone();
    let answer = move |uri: axum::http::Uri| {
        let seen = seen.clone();
        async move {
            seen.lock().unwrap().push(uri.path().to_owned());
            let body = if uri.path().contains("/manifests/") { manifest } else { "{}" };
            ([("content-type", LIST)], body)
        }
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_tells_what_a_name_means_and_nothing_is_fetched() {
    let manifest =
        r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":[]}"#;
    let (address, asked) = speaking_registry(manifest).await;
    let host = DockerHost::new(None, None).unwrap();
    let image = format!("{address}/wopr/own:1").parse().unwrap();
    let found = host.look_up_image(&image).await.unwrap();
    let digest = hex::encode(sha2::Sha256::digest(manifest.as_bytes()));
    assert_eq!(found.as_str(), format!("{address}/wopr/own@sha256:{digest}"));
    let asked = asked.lock().unwrap().clone();
    assert!(asked.iter().all(|path| path.starts_with("/v2/") && !path.contains("/blobs/")), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_registry_tells_the_engine_does() {
    let registry = SilentRegistry::open().await;
    let own = registry.docker.inspect_image(IMAGE).await.unwrap().id.unwrap();
    let SilentRegistry { docker, port, image } = registry;
    // Nobody listens there any more.
    drop(port);
    let host = DockerHost::new(None, None).unwrap();
    assert_eq!(host.look_up_image(&image).await.unwrap().as_str(), own);
    let options = RemoveImageOptions { noprune: true, ..RemoveImageOptions::default() };
    docker.remove_image(&image.to_string(), Some(options), None).await.unwrap();
    let gone = host.look_up_image(&image).await.unwrap_err();
    assert!(matches!(gone, HostError::ImageUnavailable { .. }), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bots_life_on_a_real_engine() {
    let yard = Yard::open().await;
    let tenant = yard.tenant().await;
    yard.pay(tenant, 30, "first").await;
    let bot = yard.fleet.create(&Origin::system("test"), tenant, NewBot::new("test-bot", IMAGE)).await.unwrap();
    let id = bot.id;
    let _leftovers = Leftovers { bot: id, tenant };

    // Made, healthy, and confined.
    yard.until(tenant, id, Phase::Running).await;
    let first = yard.inspect(id).await;
    assert_hardened(&first, tenant, id);
    let (mode, uid, first_key) = yard.key_file(id).await;
    assert_eq!((mode, uid), (0o400, 1000), "the key is for the image's user alone");
    yard.ask(tenant, id, "POST", "/message", r#"{"text":"remember the reef"}"#).await;

    // Another environment is another container, with the same data and a new key.
    let env = Some(HashMap::from([("GREETING".to_owned(), "hello".to_owned())]).into_iter().collect());
    let change = BotChange { env, ..BotChange::default() };
    yard.fleet.update(&Origin::system("test"), tenant, id, change).await.unwrap();
    yard.until(tenant, id, Phase::Running).await;
    let second = yard.inspect(id).await;
    assert_ne!(second.id, first.id);
    assert!(second.config.clone().unwrap().env.unwrap().contains(&"GREETING=hello".to_owned()));
    assert_hardened(&second, tenant, id);
    assert_ne!(yard.key_file(id).await.2, first_key);
    assert!(yard.ask(tenant, id, "GET", "/messages", "").await.contains("remember the reef"));

    // Unpaid, it stops; its container and its data stay.
    for day in 0.. {
        assert!(day < 8, "a bot nobody pays for is still running");
        yard.fleet.charge_due_days().await.unwrap();
        yard.billing.advance_standing().await.unwrap();
        if yard.billing.standing(tenant).await.unwrap().require_usable().is_err() {
            break;
        }
        yard.clock.0.fetch_add(1, Ordering::SeqCst);
    }
    yard.fleet.reconcile().await.unwrap();
    let stopped = yard.until(tenant, id, Phase::Stopped).await;
    assert!(stopped.suspended_at.is_some());
    assert_eq!(yard.inspect(id).await.state.unwrap().running, Some(false));
    assert_eq!(yard.remains(tenant, id).await.len(), 4);

    // Paid again, it goes on where it was.
    yard.pay(tenant, 500, "second").await;
    yard.fleet.reconcile().await.unwrap();
    yard.until(tenant, id, Phase::Running).await;
    assert!(yard.ask(tenant, id, "GET", "/messages", "").await.contains("remember the reef"));

    // Destroyed, nothing is left.
    yard.fleet.destroy(&Origin::system("test"), tenant, id).await.unwrap();
    yard.until_gone(tenant, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_that_lost_their_labels_are_removed_with_the_bot() {
    let docker = Docker::connect_with_unix_defaults().unwrap();
    let host = DockerHost::new(None, None).unwrap();
    let (bot, tenant) = (BotId::new(SystemClock.now()), TenantId::new(SystemClock.now()));
    let _leftovers = Leftovers { bot, tenant };
    host.ensure_volumes(bot, tenant, 2).await.unwrap();
    let unlabelled = VolumeCreateRequest { name: Some(data_volume_name(bot, 0)), ..VolumeCreateRequest::default() };
    docker.create_volume(unlabelled).await.unwrap();
    assert!(host.observe(bot, tenant, None, 2).await.unwrap().has_volumes);
    host.remove_volumes(bot, 2).await.unwrap();
    for name in [data_volume_name(bot, 0), data_volume_name(bot, 2), run_volume_name(bot)] {
        assert!(docker.inspect_volume(&name).await.is_err(), "{name} is there");
    }
}
