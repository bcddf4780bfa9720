//! The server under test: its own database, a clock that stands still, no adapters.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;
use wopr_api::config::{Config, Sources};
use wopr_api::{AppState, app};
use wopr_core::clock::SharedClock;
use wopr_core::testing::{FixedClock, TestDb};

/// The page that is allowed to call.
pub(crate) const ORIGIN: &str = "http://localhost:3000";

pub(crate) struct TestApp {
    pub(crate) db: TestDb,
    #[expect(dead_code, reason = "moved by the tests of the domains")]
    pub(crate) clock: FixedClock,
    pub(crate) state: AppState,
    router: Router,
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
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// A header's text; empty when it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
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
        let clock = FixedClock::default();
        let mut environment = environment();
        environment.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let config = Config::load(&Sources { environment, ..Sources::default() }).unwrap();
        let shared: SharedClock = Arc::new(clock.clone());
        let state = AppState::assemble(Arc::new(config), db.db.clone(), shared).unwrap();
        let router = app(state.clone());
        Self { db, clock, state, router }
    }

    /// Sends a request as it is, from a client at 192.0.2.1.
    pub(crate) async fn send(&self, mut request: Request<Body>) -> Answer {
        let peer: SocketAddr = "192.0.2.1:40000".parse().unwrap();
        if request.extensions().get::<ConnectInfo<SocketAddr>>().is_none() {
            request.extensions_mut().insert(ConnectInfo(peer));
        }
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
        self.send(request.body(body).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, &[], Body::empty()).await
    }

    /// Posts JSON as a page of ours does.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let headers = [(header::CONTENT_TYPE.as_str(), "application/json"), ("origin", ORIGIN)];
        self.request(Method::POST, path, &headers, Body::from(body.to_string())).await
    }
}
