//! What the tests share: waiting for conditions, folders, and a daemon in this process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use wopr_core::protocol::gpu::{GpuService, inference_token, node_secret};
use wopr_gpu_node::agent::Agent;
use wopr_gpu_node::config::{Settings, Sources};
use wopr_gpu_node::probe::GpuProbe;
use wopr_gpu_node::probe::fake::FakeGpu;

use crate::platform::FakePlatform;
use crate::services::FakeService;

/// How long a condition may take. Machines that test are slow at times.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
pub(crate) const NODE_ID: &str = "gpu-0a1b2c3d";
pub(crate) const MASTER: &str = "a-master-secret-for-tests";

pub(crate) fn secret() -> String {
    use secrecy::ExposeSecret as _;
    node_secret(&MASTER.into(), NODE_ID).expose_secret().to_owned()
}

pub(crate) fn token() -> String {
    use secrecy::ExposeSecret as _;
    inference_token(&secret().into()).expose_secret().to_owned()
}

pub(crate) fn http() -> reqwest::Client {
    // Already installed when another test was first.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Waits until `find` finds something in what is watched.
pub(crate) async fn find<S, T>(mut seen: watch::Receiver<S>, what: &str, mut find: impl FnMut(&S) -> Option<T>) -> T {
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = find(&seen.borrow_and_update()) {
                return found;
            }
            seen.changed().await.unwrap();
        }
    });
    found.await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain: {what}"))
}

/// A folder that is removed with its content.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("wopr-gpu-node-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A platform, four services, and what a daemon between them is told.
pub(crate) struct Bench {
    pub(crate) platform: FakePlatform,
    pub(crate) services: BTreeMap<GpuService, FakeService>,
    pub(crate) folder: TempDir,
    pub(crate) environment: BTreeMap<String, String>,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let platform = FakePlatform::start(&secret()).await;
        let folder = TempDir::new();
        let mut bench = Self { platform, services: BTreeMap::new(), folder, environment: BTreeMap::new() };
        bench.set("NODE_ID", NODE_ID);
        bench.set("PLATFORM_URL", &bench.platform.url());
        bench.set("GPU_NODE_SECRET", &secret());
        bench.set("STATE_FILE", bench.folder.path().join("state.json").to_str().unwrap());
        bench.set("LISTEN_HOST", "127.0.0.1");
        bench.set("STATUS_PORT", "0");
        for (name, time) in [
            ("HEARTBEAT_INTERVAL", "100ms"),
            ("PLATFORM_TIMEOUT", "500ms"),
            ("RETRY_WAIT", "10ms"),
            ("RETRY_WAIT_MAX", "50ms"),
            ("PROBE_INTERVAL", "50ms"),
            ("PROBE_TIMEOUT", "2s"),
            ("PROOF_INTERVAL", "100ms"),
            ("DRAIN_TIMEOUT", "20s"),
        ] {
            bench.set(name, time);
        }
        for service in GpuService::ALL {
            let fake = FakeService::start(*service).await;
            bench.set(&format!("{}_URL", service.as_str().to_uppercase()), &fake.url());
            bench.set(&format!("{}_PORT", service.as_str().to_uppercase()), "0");
            bench.services.insert(*service, fake);
        }
        bench
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn service(&self, service: GpuService) -> &FakeService {
        &self.services[&service]
    }

    pub(crate) async fn start(&self) -> Agent {
        self.start_with(FakeGpu::new().0).await
    }

    pub(crate) async fn start_with(&self, gpu: impl GpuProbe) -> Agent {
        let sources = Sources { environment: self.environment.clone(), file: None };
        Agent::start(Settings::load(&sources).unwrap(), gpu, None).await.unwrap()
    }
}
