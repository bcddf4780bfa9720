use serde::de::{Deserialize, DeserializeOwned, Deserializer, IgnoredAny};
use serde_json::Value;

use crate::error::{ApiError, Issue};

/// The input of a procedure that takes none: whatever is sent is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoInput;

impl<'de> Deserialize<'de> for NoInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// Reads an input; an absent one reads like `null`, which an object schema refuses and an optional one accepts.
pub(super) fn parse<I: DeserializeOwned>(input: Option<Value>) -> Result<I, ApiError> {
    serde_path_to_error::deserialize(input.unwrap_or(Value::Null)).map_err(|error| invalid(&error))
}

/// Turns serde's words into an issue with the path to the offending key.
pub(crate) fn invalid(error: &serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    use serde_path_to_error::Segment;
    let mut path: Vec<Value> = error
        .path()
        .iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(Value::from(*index)),
            Segment::Map { key } => Some(Value::from(key.as_str())),
            Segment::Enum { variant } => Some(Value::from(variant.as_str())),
            Segment::Unknown => None,
        })
        .collect();
    let text = without_position(&error.inner().to_string());
    let quoted = || text.split('`').nth(1).map(str::to_owned);
    let (code, message) = if text.starts_with("missing field") {
        path.extend(quoted().map(Value::from));
        ("invalid_type", "Required".to_owned())
    } else if text.starts_with("unknown field") {
        ("unrecognized_keys", text)
    } else if text.starts_with("invalid type") {
        ("invalid_type", text)
    } else if text.starts_with("unknown variant") {
        ("invalid_enum_value", text)
    } else {
        ("custom", text)
    };
    ApiError::invalid_input(vec![Issue { code, path, message }])
}

/// Cuts serde's ` at line 1 column 7`, which says nothing about a value that came as a query parameter.
fn without_position(text: &str) -> String {
    match text.rfind(" at line ") {
        Some(at) if text[at..].contains(" column ") => text[..at].to_owned(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Example {
        price_id: String,
        #[serde(default)]
        counts: Vec<u8>,
    }

    fn issues(input: Option<Value>) -> Value {
        let error = parse::<Example>(input).unwrap_err();
        let envelope = crate::error::render::trpc_envelope(&error, Some("a.b"), None);
        serde_json::from_str(envelope["error"]["message"].as_str().unwrap()).unwrap()
    }

    #[test]
    fn an_issue_names_the_key_and_what_is_wrong_with_it() {
        assert_eq!(issues(Some(json!({}))), json!([{"code":"invalid_type","path":["priceId"],"message":"Required"}]));
        let nested = issues(Some(json!({"priceId": "x", "counts": [1, "two"]})));
        assert_eq!(nested[0]["path"], json!(["counts", 1]));
        assert_eq!(issues(None)[0]["code"], "invalid_type");
    }

    #[test]
    fn unknown_keys_are_dropped_and_no_input_takes_anything() {
        let read: Example = parse(Some(json!({"priceId": "x", "extra": true}))).unwrap();
        assert_eq!(read, Example { price_id: "x".to_owned(), counts: Vec::new() });
        for input in [None, Some(json!({})), Some(json!([1, {"a": 2}])), Some(json!("x"))] {
            assert_eq!(parse::<NoInput>(input).unwrap(), NoInput);
        }
        assert_eq!(parse::<Option<Example>>(None).unwrap(), None);
    }
}
