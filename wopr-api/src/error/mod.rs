//! One error for every surface; each surface has its own shape, and all of them are written in `render`.
//!
//! A domain's error becomes an [`ApiError`] in `error/<domain>.rs`, by one `match` without a wildcard: a new variant
//! has to choose its status and its stable code.

mod auth;
mod backup;
mod billing;
mod db;
mod fleet;
mod gateway;
mod gpu;
mod payments;
pub(crate) mod render;

use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

/// What is said instead of the cause when the cause is none of the caller's business.
pub const INTERNAL_MESSAGE: &str = "An unexpected error occurred while processing your request";

/// Why a request was not answered as asked.
///
/// As a response it carries itself along; the outermost layer then writes it in the shape of the surface.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    // Boxed: every handler returns a `Result` with this type, and most errors have neither.
    details: Option<Box<Map<String, Value>>>,
    contract_body: Option<Box<Value>>,
    retry_after_seconds: Option<u64>,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl ApiError {
    /// An error with a stable upper-case `code` and one sentence for people.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            details: None,
            contract_body: None,
            retry_after_seconds: None,
            cause: None,
        }
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    /// 401: nobody we know.
    pub fn unauthorized(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
    }

    /// 403: known, but not allowed.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "FORBIDDEN", message)
    }

    /// 404: absent, or somebody else's: the two look the same.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    /// 409: it contradicts what is there.
    pub fn conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, "CONFLICT", message)
    }

    /// 503: a part we depend on is away; trying again later may help.
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", message).retry_after(5)
    }

    /// 500: a bug or a broken promise. The cause is logged once and never sent.
    pub fn internal(cause: impl Error + Send + Sync + 'static) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_SERVER_ERROR", INTERNAL_MESSAGE).because(cause)
    }

    /// 400 with one issue per thing that is wrong with the input.
    pub fn invalid_input(issues: Vec<Issue>) -> Self {
        let mut fields: Map<String, Value> = Map::new();
        let mut form = Vec::new();
        for issue in &issues {
            match issue.path.first() {
                Some(Value::String(field)) => {
                    let messages = fields.entry(field.clone()).or_insert_with(|| Value::Array(Vec::new()));
                    if let Value::Array(messages) = messages {
                        messages.push(issue.message.clone().into());
                    }
                }
                _ => form.push(Value::String(issue.message.clone())),
            }
        }
        let summary = issues.first().map_or_else(|| "Validation failed".to_owned(), Issue::summary);
        Self::new(StatusCode::BAD_REQUEST, "VALIDATION_ERROR", summary)
            .detail("issues", Value::Array(issues.into_iter().map(Value::from).collect()))
            .contract_body(serde_json::json!({
                "error": "Validation failed",
                "details": { "formErrors": form, "fieldErrors": fields },
            }))
    }

    /// Adds a machine-readable detail.
    #[must_use]
    pub fn detail(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.details.get_or_insert_default().insert(key.to_owned(), value.into());
        self
    }

    /// The exact body for REST surfaces whose contract fixes it; elsewhere the surface's own shape is used.
    #[must_use]
    pub fn contract_body(mut self, body: Value) -> Self {
        self.contract_body = Some(Box::new(body));
        self
    }

    /// Says when trying again makes sense, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// Replaces the code, keeping status and message.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// Remembers what to log.
    #[must_use]
    pub fn because(mut self, cause: impl Error + Send + Sync + 'static) -> Self {
        self.cause = Some(Arc::new(cause));
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The stable code.
    pub fn stable_code(&self) -> &'static str {
        self.code
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Logs the cause, if there is one. Called once, where the response is written.
    pub(crate) fn log(&self) {
        let Some(cause) = &self.cause else { return };
        let chain = chain(cause.as_ref());
        if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error.code = self.code, "a request failed: {chain}");
        } else {
            tracing::warn!(error.code = self.code, "a request was refused: {chain}");
        }
    }
}

/// An error and everything below it, outermost first.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

/// One thing that is wrong with an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// What kind of wrong, such as `invalid_type`.
    pub code: &'static str,
    /// Where: field names and array indices from the outside in.
    pub path: Vec<Value>,
    /// What is wrong, as a sentence.
    pub message: String,
}

impl Issue {
    /// A field that has the right type and a value we do not accept.
    pub fn field(name: &str, message: impl Into<String>) -> Self {
        Self { code: "custom", path: vec![name.into()], message: message.into() }
    }

    fn summary(&self) -> String {
        let path: Vec<String> = self
            .path
            .iter()
            .map(|segment| segment.as_str().map_or_else(|| segment.to_string(), ToOwned::to_owned))
            .collect();
        if path.is_empty() { self.message.clone() } else { format!("{}: {}", path.join("."), self.message) }
    }
}

impl From<Issue> for Value {
    fn from(issue: Issue) -> Self {
        serde_json::json!({ "code": issue.code, "path": issue.path, "message": issue.message })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = render::problem(&self, None);
        response.extensions_mut().insert(self);
        response
    }
}
