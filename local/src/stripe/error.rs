//! Stripe's error object, and the few ways to make one.

use serde_json::{Map, Value, json};

/// A refused request, as Stripe words it.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// Stripe's error type, such as `invalid_request_error`.
    pub kind: &'static str,
    /// A sentence for developers.
    pub message: String,
    /// Stripe's error code, such as `resource_missing`.
    pub code: Option<&'static str>,
    /// The parameter at fault.
    pub param: Option<String>,
    /// Further fields of the error object, such as `decline_code`.
    pub extra: Map<String, Value>,
    /// A declined card is an answer, not a failed request: what it wrote stays, and a retry gets the same answer.
    pub(super) keeps_effects: bool,
}

impl ApiError {
    fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, kind, message, code: None, param: None, extra: Map::new(), keeps_effects: false }
    }

    /// 400: the request makes no sense as it stands.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request_error", message)
    }

    /// 400: a required parameter is absent.
    pub(super) fn missing(param: &str) -> Self {
        Self::invalid(format!("Missing required param: {param}.")).code("parameter_missing").param(param)
    }

    /// 404 for an id in the path, as Stripe words it.
    pub(super) fn not_found(object: &str, id: &str) -> Self {
        let mut error = Self::new(404, "invalid_request_error", format!("No such {object}: '{id}'"));
        error.code = Some("resource_missing");
        error.param("id")
    }

    /// 400 for an id in a parameter.
    pub(super) fn no_such(object: &str, id: &str, param: &str) -> Self {
        Self::invalid(format!("No such {object}: '{id}'")).code("resource_missing").param(param)
    }

    /// 404 for a path nobody serves.
    pub(super) fn unknown_url(method: &str, path: &str) -> Self {
        Self::new(404, "invalid_request_error", format!("Unrecognized request URL ({method}: {path})."))
    }

    /// 401: no key, or a wrong one. The key is never repeated.
    pub(super) fn unauthorized(message: &str) -> Self {
        Self::new(401, "invalid_request_error", message)
    }

    /// 400: an idempotency key was used again for something else.
    pub(super) fn idempotency(message: impl Into<String>) -> Self {
        Self::new(400, "idempotency_error", message)
    }

    /// 402: the card said no. What the attempt wrote is kept.
    pub(super) fn card(code: &'static str, decline_code: &str, message: &str) -> Self {
        let mut error = Self::new(402, "card_error", message).code(code);
        error.extra.insert("decline_code".into(), json!(decline_code));
        error.keeps_effects = true;
        error
    }

    /// An error made on purpose, or a failure of the stand-in itself.
    pub(super) fn server(status: u16, message: impl Into<String>) -> Self {
        let kind = match status {
            400..=499 => "invalid_request_error",
            _ => "api_error",
        };
        let mut error = Self::new(status, kind, message);
        if status == 429 {
            error.code = Some("rate_limit");
        }
        error
    }

    pub(super) fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    pub(super) fn param(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    pub(super) fn with(mut self, name: &str, value: Value) -> Self {
        self.extra.insert(name.to_owned(), value);
        self
    }

    /// `{"error": {…}}`, as sent.
    pub(super) fn body(&self) -> Value {
        let mut error = self.extra.clone();
        error.insert("type".into(), json!(self.kind));
        error.insert("message".into(), json!(self.message));
        if let Some(code) = self.code {
            error.insert("code".into(), json!(code));
            error.insert(
                "doc_url".into(),
                json!(format!("https://stripe.com/docs/error-codes/{}", code.replace('_', "-"))),
            );
        }
        if let Some(param) = &self.param {
            error.insert("param".into(), json!(param));
        }
        json!({ "error": error })
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.status, self.kind, self.message)
    }
}

impl std::error::Error for ApiError {}
