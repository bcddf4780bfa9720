use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use futures_util::{StreamExt as _, stream};
use serde_json::{Map, Value, json};

use super::procedures::{Access, Context, Kind, Procedure, Procedures};
use crate::error::ApiError;
use crate::error::render::{Surface, json_response, trpc_envelope};
use crate::extract::{Caller, origin, read_body};
use crate::pipeline::limits::{self, Tally};
use crate::state::AppState;

/// The most calls in one batch.
const MAX_CALLS: usize = 50;
/// How many calls of a batch run at once; each may hold a database connection.
const CONCURRENT_CALLS: usize = 4;

pub(crate) fn router(procedures: Arc<Procedures>) -> Router<AppState> {
    Router::new()
        .route("/trpc", any(serve))
        .route("/trpc/", any(serve))
        .route("/trpc/{*path}", any(serve))
        .layer(Extension(procedures))
}

async fn serve(
    State(state): State<AppState>,
    Extension(procedures): Extension<Arc<Procedures>>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    if parts.method == Method::HEAD {
        return (StatusCode::NO_CONTENT, [(header::VARY, "trpc-accept")]).into_response();
    }
    match answer(&state, &procedures, parts, body).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

/// A request taken apart; `Err` in `inputs` is answered by every call.
struct Calls {
    paths: Vec<String>,
    batch: bool,
    inputs: Result<Map<String, Value>, ApiError>,
}

async fn answer(state: &AppState, procedures: &Procedures, parts: Parts, body: Body) -> Result<Response, ApiError> {
    let calls = read(&parts, body).await?;
    let resolved: Vec<_> = calls.paths.iter().map(|path| resolve(procedures, path, &parts.method)).collect();
    // Only names we know: the path could be anything.
    let known: Vec<&str> =
        calls.paths.iter().zip(&resolved).filter(|(_, found)| found.is_ok()).map(|(path, _)| path.as_str()).collect();
    tracing::Span::current().record("procedures", known.join(","));
    let needs_caller = resolved.iter().flatten().any(|procedure| procedure.access != Access::Public);
    let caller = if needs_caller { Caller::find(state, &parts.headers).await? } else { None };
    let cx = Context { state: state.clone(), origin: origin(&parts, caller.as_ref()), caller };
    let request_id = cx.origin.request_id.clone();
    let client = cx.origin.client_address;

    let tally = Tally::default();
    // Collected first: the futures borrow, which a stream's closure cannot say.
    let mut work = Vec::with_capacity(calls.paths.len());
    for (index, (path, procedure)) in calls.paths.iter().zip(resolved).enumerate() {
        let input = calls.inputs.as_ref().map(|inputs| inputs.get(&index.to_string()).cloned()).map_err(Clone::clone);
        work.push(call(&cx, client, path, procedure, input, &tally));
    }
    let results: Vec<_> = stream::iter(work).buffered(CONCURRENT_CALLS).collect().await;

    let mut status = None;
    let mut answers = Vec::with_capacity(results.len());
    let mut failed = None;
    for (path, result) in calls.paths.iter().zip(results) {
        let (this, answer) = match result {
            Ok(Some(data)) => (StatusCode::OK, json!({ "result": { "data": data } })),
            Ok(None) => (StatusCode::OK, json!({ "result": {} })),
            Err(error) => {
                error.log();
                let response = Surface::Trpc.render(&error, request_id.as_deref());
                let envelope = trpc_envelope(&error, Some(path), request_id.as_deref());
                let status = response.status();
                failed = Some(response);
                (status, envelope)
            }
        };
        status = match status {
            None => Some(this),
            Some(before) if before == this => Some(this),
            Some(_) => Some(StatusCode::MULTI_STATUS),
        };
        answers.push(answer);
    }
    let body = if calls.batch { Value::Array(answers) } else { answers.pop().unwrap_or(Value::Null) };
    let mut response = json_response(status.unwrap_or(StatusCode::OK), &body);
    let retry_after = failed.and_then(|response| response.headers().get(header::RETRY_AFTER).cloned());
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("trpc-accept"));
    if let Some(retry_after) = retry_after {
        headers.insert(header::RETRY_AFTER, retry_after);
    }
    tally.write(headers);
    Ok(response)
}

/// One call: counted, let through, done.
async fn call(
    cx: &Context,
    client: Option<IpAddr>,
    path: &str,
    procedure: Result<&Procedure, ApiError>,
    input: Result<Option<Value>, ApiError>,
    tally: &Tally,
) -> Result<Option<Value>, ApiError> {
    limits::count_call(&cx.state, client, path, tally).await?;
    let procedure = procedure?;
    procedure.access.check(cx.caller.as_ref())?;
    procedure.call(cx.clone(), input?).await
}

/// Finds a procedure and checks that it may be called with this method.
fn resolve<'p>(procedures: &'p Procedures, path: &str, method: &Method) -> Result<&'p Procedure, ApiError> {
    let procedure =
        procedures.find(path).ok_or_else(|| ApiError::not_found(format!("No procedure found on path \"{path}\"")))?;
    let fits = match procedure.kind {
        Kind::Query => method == Method::GET,
        Kind::Mutation => method == Method::POST,
    };
    if fits {
        return Ok(procedure);
    }
    let message = format!("Unsupported {method}-request to {} procedure at path \"{path}\"", procedure.kind.name());
    Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_SUPPORTED", message))
}

/// Takes a request apart. An `Err` here concerns the request as a whole and is answered without a list.
async fn read(parts: &Parts, body: Body) -> Result<Calls, ApiError> {
    let path = parts.uri.path().strip_prefix("/trpc").unwrap_or_default().trim_start_matches('/');
    let path = percent_encoding::percent_decode_str(path)
        .decode_utf8()
        .map_err(|_| ApiError::bad_request("The path is not valid UTF-8"))?;
    let query = parts.uri.query().unwrap_or_default();
    let query: Vec<(Cow<'_, str>, Cow<'_, str>)> =
        serde_urlencoded::from_str(query).map_err(|_| ApiError::bad_request("The query string cannot be read"))?;
    let parameter = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_ref());
    let batch = parameter("batch") == Some("1");
    let paths: Vec<String> = if batch { path.split(',').map(str::to_owned).collect() } else { vec![path.into_owned()] };
    if paths.len() > MAX_CALLS {
        return Err(ApiError::bad_request(format!("A batch may have at most {MAX_CALLS} calls")));
    }
    let raw = if parts.method == Method::GET {
        parameter("input").map(|text| text.as_bytes().to_vec())
    } else {
        require_json(&parts.headers)?;
        let body = read_body(&parts.extensions, body).await?;
        (!body.is_empty()).then(|| body.to_vec())
    };
    Ok(Calls { inputs: inputs(raw.as_deref(), batch), paths, batch })
}

/// The inputs by the position of their call.
fn inputs(raw: Option<&[u8]>, batch: bool) -> Result<Map<String, Value>, ApiError> {
    let Some(raw) = raw else { return Ok(Map::new()) };
    let value: Value = serde_json::from_slice(raw)
        .map_err(|error| ApiError::bad_request(format!("The input is not JSON: {error}")))?;
    match value {
        Value::Object(inputs) if batch => Ok(inputs),
        _ if batch => Err(ApiError::bad_request("\"input\" needs to be an object when doing a batch call")),
        value => Ok(Map::from_iter([("0".to_owned(), value)])),
    }
}

/// Only JSON is taken: a form on another site cannot send it without asking first, which guards the cookie.
fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Err(unsupported("Missing content-type header".to_owned()));
    };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let shown: String = text.chars().take(100).collect();
    Err(unsupported(format!("Unsupported content-type \"{shown}\"")))
}

fn unsupported(message: String) -> ApiError {
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", message)
}
