//! An inference service that does as it is told, in the shapes of the four real ones.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use wopr_core::protocol::gpu::GpuService;

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    StandIn,
    Loading,
    /// Its health check answers 500.
    Unwell,
    /// Nothing is answered.
    Mute,
    /// Health is good, work is never done.
    Late,
    /// Health is good, answers are nonsense.
    Wrong,
    /// All slots in use, work is never done.
    Full,
    /// All slots in use, work is turned away.
    TurnsAway,
}

/// A request to `/seen`, as the service got it.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

struct Shared {
    service: GpuService,
    mood: watch::Sender<Mood>,
    /// Tiny requests and others that came, by path.
    asked: watch::Sender<usize>,
    got: mpsc::UnboundedSender<Got>,
    /// Parts of the answer of `/stream`, given by the test.
    parts: tokio::sync::Mutex<mpsc::UnboundedReceiver<&'static str>>,
    /// Parts of a request to `/listen`, as they came.
    heard: mpsc::UnboundedSender<Bytes>,
    /// A request to `/stream` or `/never` has begun, or was given up.
    begun: watch::Sender<usize>,
    given_up: watch::Sender<usize>,
}

pub(crate) struct FakeService {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
    pub(crate) got: mpsc::UnboundedReceiver<Got>,
    pub(crate) parts: mpsc::UnboundedSender<&'static str>,
    pub(crate) heard: mpsc::UnboundedReceiver<Bytes>,
}

impl FakeService {
    pub(crate) async fn start(service: GpuService) -> Self {
        let (got_in, got) = mpsc::unbounded_channel();
        let (parts, parts_out) = mpsc::unbounded_channel();
        let (heard_in, heard) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            service,
            mood: watch::Sender::new(Mood::Well),
            asked: watch::Sender::new(0),
            got: got_in,
            parts: tokio::sync::Mutex::new(parts_out),
            heard: heard_in,
            begun: watch::Sender::new(0),
            given_up: watch::Sender::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Some(serve(listener, &shared));
        Self { address, shared, server, got, parts, heard }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn be(&self, mood: Mood) {
        self.shared.mood.send_replace(mood);
    }

    /// Tiny requests so far.
    pub(crate) fn asked(&self) -> watch::Receiver<usize> {
        self.shared.asked.subscribe()
    }

    pub(crate) fn begun(&self) -> watch::Receiver<usize> {
        self.shared.begun.subscribe()
    }

    pub(crate) fn given_up(&self) -> watch::Receiver<usize> {
        self.shared.given_up.subscribe()
    }

    /// Ends it as a kill does: connections break, and nobody listens any more.
    pub(crate) async fn kill(&mut self) {
        let server = self.server.take().unwrap();
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
    }

    /// Starts it again, on the same port.
    pub(crate) async fn revive(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.server = Some(serve(listener, &self.shared));
    }
}

impl Drop for FakeService {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

/// Connections are tasks of this one, so that they end with it.
fn serve(listener: TcpListener, shared: &Arc<Shared>) -> JoinHandle<()> {
    let app = Router::new()
        .route("/health", get(health))
        .route("/slots", get(slots))
        .route("/v1/chat/completions", post(work))
        .route("/v1/embeddings", post(work))
        .route("/v1/audio/speech", post(work))
        .route("/v1/audio/transcriptions", post(work))
        .route("/seen", any(seen))
        .route("/stream", any(stream))
        .route("/listen", post(listen))
        .route("/never", any(never))
        .with_state(Arc::clone(shared));
    tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let service = hyper_util::service::TowerToHyperService::new(app.clone());
            let io = hyper_util::rt::TokioIo::new(socket);
            connections.spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    })
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let mood = *shared.mood.borrow();
    match mood {
        Mood::Loading if shared.service == GpuService::Chatterbox => {
            Json(json!({ "status": "initializing", "model_loaded": false })).into_response()
        }
        Mood::Loading => {
            let error = json!({ "error": { "code": 503, "message": "Loading model", "type": "unavailable_error" } });
            (StatusCode::SERVICE_UNAVAILABLE, Json(error)).into_response()
        }
        Mood::Unwell => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Mood::Mute => std::future::pending().await,
        Mood::StandIn => ([("x-wopr-stand-in", "canned answers")], "ok").into_response(),
        _ => Json(json!({ "status": "ok" })).into_response(),
    }
}

async fn slots(State(shared): State<Arc<Shared>>) -> Response {
    if !matches!(shared.service, GpuService::Llama | GpuService::Qwen) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let full = matches!(*shared.mood.borrow(), Mood::Full | Mood::TurnsAway);
    Json(json!([{ "id": 0, "is_processing": true }, { "id": 1, "is_processing": full }])).into_response()
}

async fn work(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let mood = *shared.mood.borrow();
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    shared.asked.send_modify(|asked| *asked += 1);
    match mood {
        Mood::Mute | Mood::Late | Mood::Full => std::future::pending().await,
        Mood::TurnsAway => StatusCode::TOO_MANY_REQUESTS.into_response(),
        Mood::Wrong => Json(json!({ "choices": [], "data": [{ "embedding": [0, 0] }] })).into_response(),
        _ => answer(shared.service, &path, &body),
    }
}

fn answer(service: GpuService, path: &str, body: &Bytes) -> Response {
    let json = || serde_json::from_slice::<Value>(body).unwrap();
    match (service, path) {
        (GpuService::Llama, "/v1/chat/completions") => {
            assert!(json()["messages"][0]["content"].is_string());
            let message = json!({ "role": "assistant", "content": "Yes" });
            Json(json!({ "choices": [{ "index": 0, "message": message }] })).into_response()
        }
        (GpuService::Qwen, "/v1/embeddings") => {
            assert!(json()["input"].is_string());
            Json(json!({ "data": [{ "index": 0, "embedding": [0.6, -0.8, 0.0] }] })).into_response()
        }
        (GpuService::Chatterbox, "/v1/audio/speech") => {
            assert!(json()["input"].is_string());
            // 16-bit mono at 8 kHz, two samples.
            let mut wav = b"RIFF\x28\x00\x00\x00WAVEfmt \x10\x00\x00\x00".to_vec();
            wav.extend(
                b"\x01\x00\x01\x00\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00data\x04\x00\x00\x00\x01\x00\x02\x00",
            );
            wav.into_response()
        }
        (GpuService::Whisper, "/v1/audio/transcriptions") => {
            let holds = |part: &[u8]| body.windows(part.len()).any(|window| window == part);
            assert!(holds(b"name=\"file\"") && holds(b"RIFF") && holds(b"name=\"model\""), "not a form with sound");
            Json(json!({ "text": "beep" })).into_response()
        }
        (service, path) => panic!("{service} was asked {path}"),
    }
}

async fn seen(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    let got = Got { method: parts.method.to_string(), uri: parts.uri.to_string(), headers: parts.headers, body };
    shared.got.send(got).unwrap();
    let headers = [("x-answer", "yes"), ("connection", "x-hop"), ("x-hop", "1"), ("keep-alive", "timeout=5")];
    (StatusCode::IM_A_TEAPOT, headers, "short and stout").into_response()
}

/// Counts a request that is dropped before its end.
struct GivenUp {
    shared: Arc<Shared>,
    ended: bool,
}

impl GivenUp {
    fn begin(shared: &Arc<Shared>) -> Self {
        shared.begun.send_modify(|begun| *begun += 1);
        Self { shared: Arc::clone(shared), ended: false }
    }
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.given_up.send_modify(|given_up| *given_up += 1);
        }
    }
}

/// Sends each part when the test gives it; an empty one is the end.
async fn stream(State(shared): State<Arc<Shared>>) -> Response {
    let guard = GivenUp::begin(&shared);
    let parts = futures_util::stream::unfold((shared, guard), |(shared, mut guard)| async move {
        let part = shared.parts.lock().await.recv().await.unwrap();
        if part.is_empty() {
            guard.ended = true;
            drop(guard);
            return None;
        }
        Some((Ok::<_, std::io::Error>(Bytes::from_static(part.as_bytes())), (shared, guard)))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(parts)).into_response()
}

/// Tells the test each part of the request as it comes.
async fn listen(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let mut body = request.into_body();
    let mut count = 0;
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            count += data.len();
            shared.heard.send(data).unwrap();
        }
    }
    count.to_string().into_response()
}

async fn never(State(shared): State<Arc<Shared>>) -> Response {
    let _guard = GivenUp::begin(&shared);
    std::future::pending().await
}
