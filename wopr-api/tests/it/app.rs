//! The server under test: its own database, a clock that stands still, an outside world that is made up.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tower::ServiceExt as _;
use wopr_api::config::{Config, Sources};
use wopr_api::{Adapters, AppState, app};
use wopr_core::audit::Origin;
use wopr_core::auth::{Email, Scope, SignUp, SignedIn};
use wopr_core::backup::{BackupRunner, LogArchive};
use wopr_core::billing::payments::PaymentProvider;
use wopr_core::clock::SharedClock;
use wopr_core::gateway::{Journal, Sync};
use wopr_core::gpu::CloudProvider;
use wopr_core::ids::TenantId;
use wopr_core::testing::{
    FixedClock, MemoryArchive, MemoryBackups, MemoryCloud, MemoryHost, MemoryKeyed, MemoryMailer, MemoryModels,
    MemoryPayments, MemoryProbe, TestDb,
};

/// The page that is allowed to call.
pub(crate) const ORIGIN: &str = "http://localhost:3000";
/// Where requests come from unless a test says otherwise.
const CLIENT: &str = "192.0.2.1";

pub(crate) struct TestApp {
    pub(crate) db: TestDb,
    pub(crate) clock: FixedClock,
    pub(crate) mailer: Arc<MemoryMailer>,
    pub(crate) containers: Arc<MemoryHost>,
    /// Takes payments where a test configures Stripe.
    pub(crate) provider: MemoryPayments,
    /// Rents machines where a test configures it.
    pub(crate) cloud: MemoryCloud,
    /// Services of GPU nodes.
    pub(crate) probe: MemoryProbe,
    /// A provider of models, in place of OpenRouter.
    pub(crate) models: Arc<MemoryModels>,
    /// Answers calls with tenants' own keys.
    pub(crate) keyed_models: Arc<MemoryKeyed>,
    pub(crate) state: AppState,
    router: Router,
    folder: PathBuf,
    /// Counts up when each request comes from a client of its own.
    clients: Option<AtomicU32>,
}

/// Somebody who is signed in.
#[derive(Debug, Clone)]
pub(crate) struct TestUser {
    pub(crate) signed_in: SignedIn,
    /// The value of the session cookie, not percent-encoded.
    pub(crate) cookie: String,
}

impl TestUser {
    pub(crate) fn tenant(&self) -> TenantId {
        self.signed_in.tenant_id
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// Who sends a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum As<'a> {
    Nobody,
    User(&'a TestUser),
    Key(&'a str),
}

/// An answer with its body read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {:?}", self.status, String::from_utf8_lossy(&self.body)))
    }

    /// A header's text; empty when it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// `result.data` of a procedure that answered.
    pub(crate) fn data(&self) -> Value {
        let body = self.json();
        assert_eq!(self.status, StatusCode::OK, "{body}");
        body["result"]["data"].clone()
    }
}

/// The environment that every test starts from.
pub(crate) fn environment() -> BTreeMap<String, String> {
    let pairs = [
        ("DATABASE_URL", "postgres://localhost/unused"),
        ("PLATFORM_SECRET", "0123456789abcdef0123456789abcdef-platform"),
        ("BETTER_AUTH_SECRET", "0123456789abcdef0123456789abcdef-sessions"),
        ("BETTER_AUTH_URL", "http://localhost:3100"),
        ("UI_ORIGIN", ORIGIN),
        ("TRUSTED_PROXY_IPS", "10.0.0.0/8"),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

impl TestApp {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With some variables of the environment changed.
    pub(crate) async fn start_with(changes: &[(&str, &str)]) -> Self {
        let db = TestDb::create().await;
        let (clock, mailer) = (FixedClock::default(), Arc::new(MemoryMailer::default()));
        let mut environment = environment();
        environment.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let config = Config::load(&Sources { environment, ..Sources::default() }).unwrap();
        let shared: SharedClock = Arc::new(clock.clone());
        let containers = Arc::new(MemoryHost::default());
        let prices = [5, 10, 25, 50, 100].map(|dollars| (format!("price_{dollars}"), dollars * 100));
        let provider = MemoryPayments::new(Arc::clone(&shared), prices);
        let (cloud, probe) = (MemoryCloud::default(), MemoryProbe::default());
        let models = Arc::new(MemoryModels::new("openrouter"));
        let keyed_models = Arc::new(MemoryKeyed::default());
        let folder = std::env::temp_dir().join(format!("wopr-api-test-{}", uuid::Uuid::new_v4()));
        let archives = config.backup.as_ref().is_some_and(|backup| backup.database_container.is_some());
        let archive = MemoryArchive::of(&db.db, Arc::clone(&shared)).await.unwrap();
        let adapters = Adapters {
            containers: containers.clone(),
            mailer: Some(mailer.clone()),
            payments: config.stripe.is_some().then(|| Arc::new(provider.clone()) as Arc<dyn PaymentProvider>),
            cloud: config.gpu.cloud.is_some().then(|| Arc::new(cloud.clone()) as Arc<dyn CloudProvider>),
            inference: Arc::new(probe.clone()),
            models: vec![models.clone()],
            keyed_models: keyed_models.clone(),
            journal: Journal::open(&folder, Sync::Soon).unwrap(),
            backups: config
                .backup
                .is_some()
                .then(|| Arc::new(MemoryBackups::new(containers.clone())) as Arc<dyn BackupRunner>),
            archive: archives.then(|| Arc::new(archive) as Arc<dyn LogArchive>),
        };
        let state = AppState::assemble(Arc::new(config), db.db.clone(), shared, adapters).unwrap();
        let router = app(state.clone());
        Self {
            db,
            clock,
            mailer,
            containers,
            provider,
            cloud,
            probe,
            models,
            keyed_models,
            state,
            router,
            clients: None,
            folder,
        }
    }

    /// From now on each request comes from a client of its own, so that no limit is met.
    pub(crate) fn with_many_clients(mut self) -> Self {
        self.clients = Some(AtomicU32::new(u32::from(Ipv4Addr::new(198, 18, 0, 0))));
        self
    }

    /// Somebody signs up as `<name>@example.com`.
    pub(crate) async fn user(&self, name: &str) -> TestUser {
        let password = self.state.auth.password_policy().check("Testpass1".to_owned().into()).unwrap();
        let email = Email::parse(&format!("{name}@example.com")).unwrap();
        let sign_up = SignUp { email, name: name.to_owned(), image: None, password, remember: true };
        let started = self.state.auth.sign_up(&Origin::system("test"), sign_up).await.unwrap();
        let cookie = self.state.session_keys.seal(started.token.expose_secret());
        TestUser { signed_in: started.signed_in, cookie }
    }

    /// An API key; of the platform itself when it is bound to no tenant.
    pub(crate) async fn key(&self, tenant: Option<TenantId>, scope: Scope) -> String {
        let origin = Origin::system("test");
        let made = self.state.auth.create_api_key(&origin, tenant, scope, "test", None).await.unwrap();
        made.plaintext.expose_secret().to_owned()
    }

    /// Sends a request as it is.
    pub(crate) async fn send_from(&self, client: IpAddr, mut request: Request<Body>) -> Answer {
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new(client, 40_000)));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Sends a request with these headers and this body.
    pub(crate) async fn request(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Body) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let client = match &self.clients {
            Some(clients) => IpAddr::V4(Ipv4Addr::from(clients.fetch_add(1, Ordering::Relaxed))),
            None => CLIENT.parse().unwrap(),
        };
        self.send_from(client, request.body(body).unwrap()).await
    }

    /// Sends a request as a page of ours or a program does.
    pub(crate) async fn call(&self, who: As<'_>, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let credential = match who {
            As::Nobody => None,
            As::User(user) => {
                let value = utf8_percent_encode(&user.cookie, NON_ALPHANUMERIC);
                Some(("cookie", format!("better-auth.session_token={value}")))
            }
            As::Key(key) => Some(("authorization", format!("Bearer {key}"))),
        };
        let mut headers = vec![("origin", ORIGIN)];
        headers.extend(credential.as_ref().map(|(name, value)| (*name, value.as_str())));
        if body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        self.request(method, path, &headers, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(As::Nobody, Method::GET, path, None).await
    }

    /// Calls a procedure that reads.
    pub(crate) async fn query(&self, who: As<'_>, name: &str, input: &Value) -> Answer {
        let input = utf8_percent_encode(&input.to_string(), NON_ALPHANUMERIC).to_string();
        self.call(who, Method::GET, &format!("/trpc/{name}?input={input}"), None).await
    }

    /// Calls a procedure that changes something.
    pub(crate) async fn mutate(&self, who: As<'_>, name: &str, input: &Value) -> Answer {
        self.call(who, Method::POST, &format!("/trpc/{name}"), Some(input)).await
    }
}
