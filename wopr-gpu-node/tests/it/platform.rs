//! A platform that does as it is told: takes, refuses, or never answers.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wopr_core::protocol::gpu::{
    Accepted, GpuService, HEARTBEAT_PATH, Heartbeat, REGISTER_PATH, ServiceReport, ServiceState, Stage, StageReport,
};

use crate::support::find;

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Take,
    Refuse(u16),
    Hang,
}

#[derive(Debug)]
pub(crate) struct Seen {
    /// What becomes of the next reports; afterwards they are taken.
    pub(crate) report_fates: VecDeque<Fate>,
    pub(crate) heartbeat_fate: Fate,
    /// All that came, taken or not.
    pub(crate) reports_tried: usize,
    pub(crate) heartbeats_tried: usize,
    pub(crate) reports: Vec<(Stage, StageReport)>,
    pub(crate) heartbeats: Vec<Heartbeat>,
}

impl Seen {
    /// The stages whose work is done, in the order in which they were reported.
    pub(crate) fn stages(&self) -> Vec<Stage> {
        self.reports.iter().filter(|(_, report)| !report.failed()).map(|(stage, _)| *stage).collect()
    }
}

pub(crate) struct FakePlatform {
    address: std::net::SocketAddr,
    seen: watch::Sender<Seen>,
    server: JoinHandle<()>,
}

struct Shared {
    seen: watch::Sender<Seen>,
    secret: String,
}

impl FakePlatform {
    pub(crate) async fn start(secret: &str) -> Self {
        let seen = watch::Sender::new(Seen {
            report_fates: VecDeque::new(),
            heartbeat_fate: Fate::Take,
            reports_tried: 0,
            heartbeats_tried: 0,
            reports: Vec::new(),
            heartbeats: Vec::new(),
        });
        let shared = Arc::new(Shared { seen: seen.clone(), secret: secret.to_owned() });
        let app = Router::new()
            .route(REGISTER_PATH, post(register))
            .route(HEARTBEAT_PATH, post(heartbeat))
            .with_state(shared);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, seen, server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Seen)) {
        self.seen.send_modify(change);
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.borrow())
    }

    pub(crate) async fn find<T>(&self, what: &str, look: impl FnMut(&Seen) -> Option<T>) -> T {
        find(self.seen.subscribe(), what, look).await
    }

    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut(&Seen) -> bool) {
        self.find(what, |seen| holds(seen).then_some(())).await;
    }

    /// Waits for a heartbeat, from now on, that says this of a service.
    pub(crate) async fn until_state(&self, service: GpuService, state: ServiceState) -> ServiceReport {
        let before = self.look(|seen| seen.heartbeats.len());
        self.find(&format!("{service} is {state}"), |seen| {
            let reports = seen.heartbeats[before..].iter().flat_map(|heartbeat| &heartbeat.services);
            reports.clone().find(|report| report.service == service && report.state == state).cloned()
        })
        .await
    }
}

impl Drop for FakePlatform {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn met(fate: Fate) -> Result<(), Response> {
    match fate {
        Fate::Take => Ok(()),
        Fate::Refuse(status) => {
            let status = StatusCode::from_u16(status).unwrap();
            Err((status, Json(json!({ "success": false, "error": "told to" }))).into_response())
        }
        Fate::Hang => std::future::pending().await,
    }
}

fn authorized(shared: &Shared, headers: &HeaderMap) -> Result<(), StatusCode> {
    let expected = format!("Bearer {}", shared.secret);
    if headers.get(header::AUTHORIZATION).is_some_and(|value| value.as_bytes() == expected.as_bytes()) {
        Ok(())
    } else {
        Err(StatusCode::UNAUTHORIZED)
    }
}

#[derive(Deserialize)]
struct StageQuery {
    stage: Stage,
}

async fn register(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<StageQuery>,
    headers: HeaderMap,
    Json(report): Json<StageReport>,
) -> Result<Json<Accepted>, Response> {
    let mut fate = Fate::Take;
    shared.seen.send_modify(|seen| {
        seen.reports_tried += 1;
        fate = seen.report_fates.pop_front().unwrap_or(Fate::Take);
    });
    authorized(&shared, &headers).map_err(axum::response::IntoResponse::into_response)?;
    met(fate).await?;
    shared.seen.send_modify(|seen| seen.reports.push((query.stage, report)));
    Ok(Json(Accepted::YES))
}

async fn heartbeat(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Json(heartbeat): Json<Heartbeat>,
) -> Result<Json<Accepted>, Response> {
    let mut fate = Fate::Take;
    shared.seen.send_modify(|seen| {
        seen.heartbeats_tried += 1;
        fate = seen.heartbeat_fate;
    });
    authorized(&shared, &headers).map_err(axum::response::IntoResponse::into_response)?;
    met(fate).await?;
    shared.seen.send_modify(|seen| seen.heartbeats.push(heartbeat));
    Ok(Json(Accepted::YES))
}
