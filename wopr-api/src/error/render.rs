//! The shapes of errors, one per surface.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::ApiError;

/// Which shape a path's errors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Surface {
    /// `/trpc/*`: the tRPC v11 envelope.
    Trpc,
    /// `/api/auth/*`: `{code, message}`, and nothing at all for unknown paths.
    Auth,
    /// REST whose error shape is fixed: `{error, …}`.
    Contract,
    /// Machine to machine, and the operator's machines: `{success: false, error}`.
    Internal,
    /// Everything else: RFC 9457.
    Problem,
}

impl Surface {
    pub(crate) fn of(path: &str) -> Self {
        let under =
            |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if under("/trpc") {
            Self::Trpc
        } else if under("/api/auth") {
            Self::Auth
        } else if under("/internal") || under("/api/admin/gpu") {
            Self::Internal
        } else if ["/fleet", "/api/billing", "/api/bots", "/api/instances", "/api/tenant-keys", "/auth"]
            .into_iter()
            .any(under)
        {
            Self::Contract
        } else {
            Self::Problem
        }
    }

    /// Writes the error. `request_id` is shown where the cause is not.
    pub(crate) fn render(self, error: &ApiError, request_id: Option<&str>) -> Response {
        let mut response = match self {
            Self::Trpc => json_response(trpc_status(error), &trpc_envelope(error, None, request_id)),
            Self::Auth => auth(error, request_id),
            Self::Contract => json_response(error.status, &contract(error, request_id)),
            Self::Internal => {
                let mut body = json!({ "success": false, "error": error.message });
                if let Value::Object(body) = &mut body {
                    for (key, value) in error.details.iter().flat_map(|details| details.iter()) {
                        body.entry(key).or_insert_with(|| value.clone());
                    }
                }
                add_request_id(&mut body, "requestId", error, request_id);
                json_response(error.status, &body)
            }
            Self::Problem => problem(error, request_id),
        };
        if let Some(seconds) = error.retry_after_seconds {
            let value = HeaderValue::from(seconds);
            if self == Self::Auth {
                response.headers_mut().insert(HeaderName::from_static("x-retry-after"), value.clone());
            }
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        if self == Self::Trpc {
            response.headers_mut().insert(header::VARY, HeaderValue::from_static("trpc-accept"));
        }
        response
    }
}

/// RFC 9457 `application/problem+json`.
pub(crate) fn problem(error: &ApiError, request_id: Option<&str>) -> Response {
    let title = error.status.canonical_reason().unwrap_or("Error");
    let mut body = json!({
        "type": "about:blank",
        "title": title,
        "status": error.status.as_u16(),
        "detail": error.message,
        "code": error.code,
    });
    if let Value::Object(body) = &mut body {
        for (key, value) in error.details.iter().flat_map(|details| details.iter()) {
            body.entry(key).or_insert_with(|| value.clone());
        }
    }
    add_request_id(&mut body, "requestId", error, request_id);
    let mut response = json_response(error.status, &body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

fn auth(error: &ApiError, request_id: Option<&str>) -> Response {
    if matches!(error.code, super::render::ROUTE_NOT_FOUND | super::render::METHOD_NOT_ALLOWED) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    let mut body = if error.status == StatusCode::TOO_MANY_REQUESTS {
        json!({ "message": error.message })
    } else {
        json!({ "code": error.code, "message": error.message })
    };
    add_request_id(&mut body, "requestId", error, request_id);
    json_response(error.status, &body)
}

fn contract(error: &ApiError, request_id: Option<&str>) -> Value {
    if error.status == StatusCode::INTERNAL_SERVER_ERROR {
        let mut body = json!({ "error": "Internal server error", "message": error.message });
        add_request_id(&mut body, "requestId", error, request_id);
        return body;
    }
    if let Some(body) = &error.contract_body {
        return Value::clone(body);
    }
    let mut body = Map::from_iter([("error".to_owned(), Value::from(error.message.as_ref()))]);
    for (key, value) in error.details.iter().flat_map(|details| details.iter()) {
        body.entry(key).or_insert_with(|| value.clone());
    }
    Value::Object(body)
}

fn add_request_id(body: &mut Value, key: &str, error: &ApiError, request_id: Option<&str>) {
    if let (Value::Object(body), Some(id), true) = (body, request_id, error.status.is_server_error()) {
        body.insert(key.to_owned(), id.into());
    }
}

/// No such path.
pub(crate) const ROUTE_NOT_FOUND: &str = "ROUTE_NOT_FOUND";
/// The path exists, but not for this method.
pub(crate) const METHOD_NOT_ALLOWED: &str = "METHOD_NOT_ALLOWED";

/// tRPC calls a time-out 408 whoever was slow.
fn trpc_status(error: &ApiError) -> StatusCode {
    if error.code == "TIMEOUT" { StatusCode::REQUEST_TIMEOUT } else { error.status }
}

/// `{"error": {message, code, data}}`, as tRPC v11 without a transformer writes it.
pub(crate) fn trpc_envelope(error: &ApiError, path: Option<&str>, request_id: Option<&str>) -> Value {
    let status = trpc_status(error);
    let (name, number) = trpc_code(status);
    let mut data = Map::from_iter([
        ("code".to_owned(), Value::from(name)),
        ("httpStatus".to_owned(), Value::from(status.as_u16())),
    ]);
    if let Some(path) = path {
        data.insert("path".to_owned(), path.into());
    }
    let mut details = error.details.as_deref().cloned().unwrap_or_default();
    let issues = details.remove("issues");
    if error.code != name && issues.is_none() {
        details.insert("code".to_owned(), error.code.into());
    }
    if let (Some(id), true) = (request_id, status.is_server_error()) {
        details.insert("requestId".to_owned(), id.into());
    }
    if !details.is_empty() {
        data.insert("details".to_owned(), Value::Object(details));
    }
    // Clients parse the message of a validation error: it is the array of issues as text.
    let message = issues.map_or_else(|| error.message.to_string(), |issues| issues.to_string());
    json!({ "error": { "message": message, "code": number, "data": data } })
}

/// tRPC's name and JSON-RPC number of a status.
fn trpc_code(status: StatusCode) -> (&'static str, i32) {
    match status.as_u16() {
        401 => ("UNAUTHORIZED", -32001),
        402 => ("PAYMENT_REQUIRED", -32002),
        403 => ("FORBIDDEN", -32003),
        404 => ("NOT_FOUND", -32004),
        405 => ("METHOD_NOT_SUPPORTED", -32005),
        408 => ("TIMEOUT", -32008),
        409 => ("CONFLICT", -32009),
        412 => ("PRECONDITION_FAILED", -32012),
        413 => ("PAYLOAD_TOO_LARGE", -32013),
        415 => ("UNSUPPORTED_MEDIA_TYPE", -32015),
        422 => ("UNPROCESSABLE_CONTENT", -32022),
        428 => ("PRECONDITION_REQUIRED", -32028),
        429 => ("TOO_MANY_REQUESTS", -32029),
        499 => ("CLIENT_CLOSED_REQUEST", -32099),
        501 => ("NOT_IMPLEMENTED", -32603),
        502 => ("BAD_GATEWAY", -32603),
        503 => ("SERVICE_UNAVAILABLE", -32603),
        504 => ("GATEWAY_TIMEOUT", -32603),
        400..=499 => ("BAD_REQUEST", -32600),
        _ => ("INTERNAL_SERVER_ERROR", -32603),
    }
}

pub(crate) fn json_response(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_the_shape_of_its_surface() {
        let table = [
            ("/trpc/a.b", Surface::Trpc),
            ("/trpc", Surface::Trpc),
            ("/trpcx", Surface::Problem),
            ("/api/auth/sign-in/email", Surface::Auth),
            ("/api/authx", Surface::Problem),
            ("/fleet/bots", Surface::Contract),
            ("/api/billing/webhook", Surface::Contract),
            ("/api/bots/x/snapshots", Surface::Contract),
            ("/internal/nodes", Surface::Internal),
            ("/api/admin/gpu/gpu-1", Surface::Internal),
            ("/api/admin/gpux", Surface::Problem),
            ("/health", Surface::Problem),
        ];
        for (path, surface) in table {
            assert_eq!(Surface::of(path), surface, "{path}");
        }
    }

    #[test]
    fn the_cause_never_reaches_the_envelope() {
        let error = ApiError::internal(std::io::Error::other("password=hunter2"));
        for surface in [Surface::Trpc, Surface::Auth, Surface::Contract, Surface::Internal, Surface::Problem] {
            let response = surface.render(&error, Some("req-1"));
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        }
        let text = trpc_envelope(&error, Some("a.b"), Some("req-1")).to_string();
        assert!(!text.contains("hunter2") && text.contains("req-1"), "{text}");
        let text = contract(&error, Some("req-1")).to_string();
        assert!(!text.contains("hunter2") && text.contains("req-1"), "{text}");
    }
}
