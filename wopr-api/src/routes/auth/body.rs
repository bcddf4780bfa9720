use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use secrecy::SecretString;
use serde_json::{Map, Value};
use wopr_core::auth::Email;

use crate::error::ApiError;
use crate::extract::read_body;

/// The fields of a JSON or form body. What is wrong with them is collected, so that an answer names all of it.
pub(super) struct Body {
    fields: Map<String, Value>,
    issues: Vec<String>,
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let essence = essence.to_ascii_lowercase();
        let (parts, body) = request.into_parts();
        let body = read_body(&parts.extensions, body).await?;
        Self::parse(&essence, &body)
    }
}

impl Body {
    fn parse(content_type: &str, body: &[u8]) -> Result<Self, ApiError> {
        let fields = match content_type {
            // `sign-out` and its like are called without any body.
            _ if body.is_empty() => Map::new(),
            "application/json" => match serde_json::from_slice(body) {
                Ok(Value::Object(fields)) => fields,
                Ok(other) => return Err(validation(&format!("[body] {}", expected("object", Some(&other))))),
                Err(_) => return Err(validation("[body] Invalid JSON")),
            },
            "application/x-www-form-urlencoded" => {
                let pairs: Vec<(String, String)> =
                    serde_urlencoded::from_bytes(body).map_err(|_| validation("[body] Invalid form"))?;
                pairs.into_iter().map(|(name, value)| (name, Value::String(value))).collect()
            }
            _ => {
                let message = "The request body must be application/json or application/x-www-form-urlencoded";
                return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", message));
            }
        };
        Ok(Self { fields, issues: Vec::new() })
    }

    /// Whether the field was sent at all.
    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// Whether the field was sent as `null`.
    pub(super) fn is_null(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(Value::is_null)
    }

    /// A text that must be there; empty after an issue, which [`Body::finish`] answers.
    pub(super) fn text(&mut self, name: &str) -> String {
        match self.fields.get(name) {
            Some(Value::String(text)) => text.clone(),
            other => {
                self.issues.push(format!("[body.{name}] {}", expected("string", other)));
                String::new()
            }
        }
    }

    /// A text that may be left out, or sent as `null`.
    pub(super) fn optional_text(&mut self, name: &str) -> Option<String> {
        match self.fields.get(name) {
            None | Some(Value::Null) => None,
            Some(_) => Some(self.text(name)),
        }
    }

    /// A secret that must be there.
    pub(super) fn secret(&mut self, name: &str) -> SecretString {
        self.text(name).into()
    }

    /// A switch that may be left out. Forms send it as text.
    pub(super) fn flag(&mut self, name: &str, default: bool) -> bool {
        match self.fields.get(name) {
            None | Some(Value::Null) => default,
            Some(Value::Bool(value)) => *value,
            Some(Value::String(text)) if text == "true" => true,
            Some(Value::String(text)) if text == "false" => false,
            other => {
                self.issues.push(format!("[body.{name}] {}", expected("boolean", other)));
                default
            }
        }
    }

    /// A mail address that must be there.
    pub(super) fn email(&mut self, name: &str) -> Option<Email> {
        let sent = self.fields.get(name).is_some_and(Value::is_string);
        let email = Email::parse(&self.text(name)).ok();
        if sent && email.is_none() {
            self.issues.push(format!("[body.{name}] Invalid email address"));
        }
        email
    }

    /// Answers everything that was wrong.
    ///
    /// # Errors
    /// 400 `VALIDATION_ERROR`.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        if self.issues.is_empty() { Ok(()) } else { Err(validation(&self.issues.join("; "))) }
    }
}

fn validation(message: &str) -> ApiError {
    ApiError::bad_request(message.to_owned()).code("VALIDATION_ERROR")
}

fn expected(wanted: &str, sent: Option<&Value>) -> String {
    let received = match sent {
        None => "undefined",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "boolean",
        Some(Value::Number(_)) => "number",
        Some(Value::String(_)) => "string",
        Some(Value::Array(_)) => "array",
        Some(Value::Object(_)) => "object",
    };
    format!("Invalid input: expected {wanted}, received {received}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = "application/json";
    const FORM: &str = "application/x-www-form-urlencoded";

    #[test]
    fn json_and_forms_say_the_same() {
        let json = br#"{"email":"A@example.com","password":"p w","rememberMe":false}"#;
        for (kind, body) in [(JSON, &json[..]), (FORM, b"email=A%40example.com&password=p+w&rememberMe=false")] {
            let mut body = Body::parse(kind, body).unwrap();
            assert_eq!(body.email("email").unwrap().as_str(), "a@example.com");
            assert_eq!(body.text("password"), "p w");
            assert!(!body.flag("rememberMe", true));
            assert_eq!(body.optional_text("image"), None);
            body.finish().unwrap();
        }
    }

    #[test]
    fn everything_that_is_wrong_is_named() {
        let mut body = Body::parse(JSON, br#"{"email":"x","name":1,"rememberMe":"maybe","image":null}"#).unwrap();
        body.email("email");
        body.text("name");
        body.text("password");
        body.flag("rememberMe", true);
        assert_eq!(body.optional_text("image"), None);
        let error = body.finish().unwrap_err();
        assert_eq!(error.stable_code(), "VALIDATION_ERROR");
        let want = "[body.email] Invalid email address; \
                    [body.name] Invalid input: expected string, received number; \
                    [body.password] Invalid input: expected string, received undefined; \
                    [body.rememberMe] Invalid input: expected boolean, received string";
        assert_eq!(error.message(), want);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let refused = |kind: &str, body: &[u8]| Body::parse(kind, body).err().map(|error| error.stable_code());
        assert_eq!(refused(JSON, b"[1]"), Some("VALIDATION_ERROR"));
        assert_eq!(refused(JSON, b"{"), Some("VALIDATION_ERROR"));
        assert_eq!(refused(JSON, b"\xff"), Some("VALIDATION_ERROR"));
        assert_eq!(refused("text/plain", b"{}"), Some("UNSUPPORTED_MEDIA_TYPE"));
        assert_eq!(refused("", b"{}"), Some("UNSUPPORTED_MEDIA_TYPE"));
        assert_eq!(refused("", b""), None);
    }
}
