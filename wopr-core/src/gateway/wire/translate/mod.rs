//! Between the two ways of writing calls and answers.
//!
//! Nothing that a caller said is left out in silence: what the other side cannot be told is refused with the field's name.
//! `cache_control` alone is passed over, for it changes the price and the speed of an answer and not the answer.

mod answer;
mod stream;
#[cfg(test)]
mod tests;
mod to_anthropic;
mod to_openai;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

pub use self::answer::{BrokenAnswer, translate_answer};
pub use self::stream::{StreamTranslator, stream_end_at_bound, stream_error};
use super::error::WireError;
use super::json::{Object, each, text};
use super::prepare::prepare;
use super::request::read_chat;
use crate::gateway::model::Dialect;

/// A conversation as the provider gets it: in its dialect, with its name of the model. A stream is asked to say its usage.
/// `max_output_when_absent` bounds an answer that the client does not bound.
///
/// # Errors
/// [`WireError`], also for what the provider's dialect cannot say.
pub fn translate_request(
    from: Dialect,
    to: Dialect,
    body: &Bytes,
    provider_model: &str,
    max_output_when_absent: u64,
) -> Result<Bytes, WireError> {
    match (from, to) {
        (Dialect::Anthropic, Dialect::OpenAi) => to_openai::request(body, provider_model),
        (Dialect::OpenAi, Dialect::Anthropic) => to_anthropic::request(body, provider_model, max_output_when_absent),
        (Dialect::OpenAi, Dialect::OpenAi) | (Dialect::Anthropic, Dialect::Anthropic) => {
            let facts = read_chat(from, body)?;
            Ok(prepare(body, &facts, provider_model, to == Dialect::OpenAi, Some(max_output_when_absent)))
        }
    }
}

/// Why Anthropic's answer ended, in OpenAI's word.
fn openai_reason(reason: &str) -> &'static str {
    match reason {
        "max_tokens" | "model_context_window_exceeded" => "length",
        "tool_use" => "tool_calls",
        "refusal" => "content_filter",
        _ => "stop",
    }
}

/// Why OpenAI's answer ended, in Anthropic's word. Some say `stop` although tools are called.
fn anthropic_reason(reason: &str, tools: bool) -> &'static str {
    match reason {
        "length" => "max_tokens",
        "tool_calls" | "function_call" => "tool_use",
        "content_filter" => "refusal",
        _ if tools => "tool_use",
        _ => "end_turn",
    }
}

/// A name for an answer, with the prefix its readers expect.
fn prefixed(prefix: &str, id: &str) -> String {
    if id.starts_with(prefix) { id.to_owned() } else { format!("{prefix}{id}") }
}

#[expect(clippy::expect_used, reason = "texts, numbers and JSON that was read can be written")]
fn written<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).expect("a value that can be written").into()
}

/// An object and where it is.
struct At<'a> {
    path: String,
    object: Object<'a>,
}

impl<'a> At<'a> {
    fn body(body: &'a [u8]) -> Result<Self, WireError> {
        let object = serde_json::from_slice(body).map_err(|error| WireError::of_body(&error))?;
        Self { path: String::new(), object }.once()
    }

    fn read(path: String, value: &'a RawValue) -> Result<Self, WireError> {
        match serde_json::from_str(value.get()) {
            Ok(object) => Self { path, object }.once(),
            Err(_) => Err(WireError::invalid(path, "must be an object")),
        }
    }

    fn once(self) -> Result<Self, WireError> {
        match self.object.doubled() {
            Some(field) => Err(WireError::invalid(self.name(field), "is given twice")),
            None => Ok(self),
        }
    }

    fn name(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    fn invalid(&self, field: &str, why: &'static str) -> WireError {
        WireError::invalid(self.name(field), why)
    }

    fn unsupported(&self, field: &str) -> WireError {
        WireError::unsupported(self.name(field))
    }

    /// Refuses every field but these, unless it says nothing.
    fn only(&self, known: &[&str]) -> Result<(), WireError> {
        let unknown = |name: &str, value: &RawValue| value.get() != "null" && !known.contains(&name);
        match self.object.0.iter().find(|(name, value)| unknown(name, value)) {
            Some((name, _)) => Err(self.unsupported(name)),
            None => Ok(()),
        }
    }

    fn get(&self, field: &str) -> Option<&'a RawValue> {
        self.object.get(field)
    }

    fn required(&self, field: &str) -> Result<&'a RawValue, WireError> {
        self.get(field).ok_or_else(|| WireError::missing(self.name(field)))
    }

    fn text(&self, field: &str) -> Result<Option<String>, WireError> {
        let read = |value| text(value).ok_or_else(|| self.invalid(field, "must be a text"));
        self.get(field).map(read).transpose()
    }

    fn required_text(&self, field: &str) -> Result<String, WireError> {
        self.text(field)?.ok_or_else(|| WireError::missing(self.name(field)))
    }

    fn flag(&self, field: &str) -> Result<Option<bool>, WireError> {
        match self.get(field).map(RawValue::get) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(self.invalid(field, "must be true or false")),
        }
    }

    fn number(&self, field: &str) -> Result<Option<&'a RawValue>, WireError> {
        match self.get(field) {
            Some(value) if !value.get().starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
                Err(self.invalid(field, "must be a number"))
            }
            number => Ok(number),
        }
    }

    fn object(&self, field: &str) -> Result<Option<At<'a>>, WireError> {
        self.get(field).map(|value| At::read(self.name(field), value)).transpose()
    }

    fn required_object(&self, field: &str) -> Result<At<'a>, WireError> {
        At::read(self.name(field), self.required(field)?)
    }

    /// The objects of an array.
    fn objects(&self, field: &str) -> Result<Vec<At<'a>>, WireError> {
        let Some(array) = self.get(field) else { return Ok(vec![]) };
        let (mut read, mut failed) = (Vec::new(), None);
        let path = self.name(field);
        let shown = each(array, |item| {
            if failed.is_none() {
                match At::read(format!("{path}.{}", read.len()), item) {
                    Ok(object) => read.push(object),
                    Err(error) => failed = Some(error),
                }
            }
        });
        match (shown, failed) {
            (Err(_), _) => Err(WireError::invalid(path, "must be an array")),
            (Ok(()), Some(error)) => Err(error),
            (Ok(()), None) => Ok(read),
        }
    }

    /// Whether a field is a text, and not an array of parts.
    fn is_text(&self, field: &str) -> bool {
        self.get(field).is_some_and(|value| value.get().starts_with('"'))
    }
}
