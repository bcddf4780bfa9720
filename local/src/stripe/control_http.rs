//! `/_control/…`: the operations of [`Control`] over HTTP. Open to the control key, or to loopback when there is none.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;

use super::control::{Control, Payment, Redelivery, ReleaseOrder};
use super::engine::Engine;
use super::error::ApiError;
use super::faults::Fault;

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.body())).into_response()
    }
}

type Answer = Result<Json<Value>, ApiError>;

pub(super) fn router(engine: &Arc<Engine>) -> Router {
    Router::new()
        .route("/_control/checkout/sessions/{id}/{action}", post(session))
        .route("/_control/charges/{id}/{action}", post(charge))
        .route("/_control/disputes/{id}/{action}", post(dispute))
        .route("/_control/payment_intents/{id}/{action}", post(intent))
        .route("/_control/events/{id}/redeliver", post(redeliver))
        .route("/_control/deliveries", get(deliveries))
        .route("/_control/deliveries/hold", post(hold))
        .route("/_control/deliveries/release", post(release))
        .route("/_control/faults", get(list_faults).post(add_fault).delete(clear_faults))
        .with_state(Control::new(Arc::clone(engine)))
        .route_layer(middleware::from_fn_with_state(Arc::clone(engine), guard))
}

/// Who may come in. A JSON content type keeps web pages of other origins out of a browser on the same machine.
async fn guard(State(engine): State<Arc<Engine>>, request: Request, next: Next) -> Response {
    let refused = |why: &str| ApiError { status: 403, ..ApiError::unauthorized(why) }.into_response();
    if let Some(key) = &engine.config.control_key {
        let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if !bool::from(key.as_bytes().ct_eq(given.as_bytes())) {
            return refused("the control interface needs its own key as bearer token");
        }
    } else {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        if !peer.is_some_and(|peer| peer.0.ip().to_canonical().is_loopback()) {
            return refused("without a control key, the control interface is open to this machine only");
        }
    }
    next.run(request).await
}

/// The JSON body; an absent one is an empty object.
fn body<T: DeserializeOwned>(headers: &HeaderMap, bytes: &Bytes) -> Result<T, ApiError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !content_type.starts_with("application/json") {
        return Err(ApiError::invalid("send content-type: application/json"));
    }
    let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(bytes).map_err(|error| ApiError::invalid(format!("unusable body: {error}")))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settlement {
    #[serde(default = "yes")]
    arrived: bool,
}

fn yes() -> bool {
    true
}

fn unknown(action: &str) -> ApiError {
    ApiError::unknown_url("POST", action)
}

async fn session(
    State(control): State<Control>,
    Path((id, action)): Path<(String, String)>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer {
    let done = match action.as_str() {
        "pay" => control.pay(&id, body::<Payment>(&headers, &bytes)?).await,
        "settle" => control.settle(&id, body::<Settlement>(&headers, &bytes)?.arrived).await,
        "decline" => {
            body::<Nothing>(&headers, &bytes)?;
            control.decline(&id).await
        }
        "abandon" => {
            body::<Nothing>(&headers, &bytes)?;
            control.abandon(&id).await
        }
        other => Err(unknown(other)),
    };
    done.map(Json)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ChargeAction {
    amount: Option<i64>,
    reason: Option<String>,
}

async fn charge(
    State(control): State<Control>,
    Path((id, action)): Path<(String, String)>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer {
    let asked: ChargeAction = body(&headers, &bytes)?;
    let done = match action.as_str() {
        "refund" if asked.reason.is_some() => Err(ApiError::invalid("a refund made here takes no reason")),
        "refund" => control.refund(&id, asked.amount).await,
        "dispute" => control.dispute(&id, asked.reason.as_deref().unwrap_or("fraudulent"), asked.amount).await,
        other => Err(unknown(other)),
    };
    done.map(Json)
}

async fn dispute(
    State(control): State<Control>,
    Path((id, action)): Path<(String, String)>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer {
    body::<Nothing>(&headers, &bytes)?;
    let done = match action.as_str() {
        "win" => control.decide_dispute(&id, true).await,
        "lose" => control.decide_dispute(&id, false).await,
        other => Err(unknown(other)),
    };
    done.map(Json)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Authentication {
    #[serde(default = "yes")]
    agreed: bool,
}

async fn intent(
    State(control): State<Control>,
    Path((id, action)): Path<(String, String)>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer {
    match action.as_str() {
        "authenticate" => {
            let answer: Authentication = body(&headers, &bytes)?;
            control.authenticate(&id, answer.agreed).await.map(Json)
        }
        other => Err(unknown(other)),
    }
}

async fn redeliver(State(control): State<Control>, Path(id): Path<String>, headers: HeaderMap, bytes: Bytes) -> Answer {
    let how: Redelivery = body(&headers, &bytes)?;
    let ids = control.redeliver(&id, how).await?;
    Ok(Json(json!({ "deliveries": ids })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeliveryFilter {
    event: Option<String>,
}

async fn deliveries(State(control): State<Control>, Query(filter): Query<DeliveryFilter>) -> Answer {
    let rows = control.deliveries(filter.event.as_deref()).await?;
    Ok(Json(json!({ "deliveries": rows })))
}

async fn hold(State(control): State<Control>, headers: HeaderMap, bytes: Bytes) -> Answer {
    body::<Nothing>(&headers, &bytes)?;
    control.hold_deliveries().await?;
    Ok(Json(json!({ "holding": true })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    #[serde(default = "as_created")]
    order: ReleaseOrder,
}

fn as_created() -> ReleaseOrder {
    ReleaseOrder::Created
}

async fn release(State(control): State<Control>, headers: HeaderMap, bytes: Bytes) -> Answer {
    let asked: Release = body(&headers, &bytes)?;
    let ids = control.release_deliveries(asked.order).await?;
    Ok(Json(json!({ "deliveries": ids })))
}

async fn list_faults(State(control): State<Control>) -> Json<Value> {
    Json(json!({ "faults": control.faults() }))
}

async fn add_fault(State(control): State<Control>, headers: HeaderMap, bytes: Bytes) -> Answer {
    control.add_fault(body::<Fault>(&headers, &bytes)?)?;
    Ok(Json(json!({ "faults": control.faults() })))
}

async fn clear_faults(State(control): State<Control>) -> Json<Value> {
    control.clear_faults();
    Json(json!({ "faults": [] }))
}
