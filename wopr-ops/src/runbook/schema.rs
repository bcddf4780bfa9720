//! Whether an answer is what its schema says.

use serde_json::{Map, Value};

/// What of a schema says nothing about an answer.
const SAYS_NOTHING: [&str; 5] = ["$schema", "$defs", "title", "description", "format"];

/// Where an answer is not what the schema says, one sentence each. A name that the schema does not have is one, too.
///
/// # Panics
/// If the schema says something that is not understood here.
pub(crate) fn misfits(schema: &Value, answer: &Value) -> Vec<String> {
    let mut found = Vec::new();
    look(schema, schema, answer, "$", &mut found);
    found
}

fn look(root: &Value, schema: &Value, answer: &Value, path: &str, found: &mut Vec<String>) {
    for (word, said) in schema.as_object().into_iter().flatten() {
        match word.as_str() {
            "$ref" => {
                let pointer = said.as_str().unwrap().trim_start_matches('#');
                look(root, root.pointer(pointer).unwrap(), answer, path, found);
            }
            "type" => {
                let types = said.as_array().cloned().unwrap_or_else(|| vec![said.clone()]);
                if !types.iter().any(|name| is_a(name.as_str().unwrap(), answer)) {
                    found.push(format!("{path} is {answer}, not {said}"));
                }
            }
            "enum" if !said.as_array().unwrap().contains(answer) => found.push(format!("{path} is {answer}")),
            "const" if said != answer => found.push(format!("{path} is {answer}, not {said}")),
            "minimum" if answer.is_number() && answer.as_f64() < said.as_f64() => {
                found.push(format!("{path} is {answer}, below {said}"));
            }
            "maximum" if answer.is_number() && answer.as_f64() > said.as_f64() => {
                found.push(format!("{path} is {answer}, above {said}"));
            }
            "anyOf" | "oneOf" => {
                let fits = |schema: &&Value| {
                    let mut found = Vec::new();
                    look(root, schema, answer, path, &mut found);
                    found.is_empty()
                };
                let count = said.as_array().unwrap().iter().filter(fits).count();
                if count == 0 || word == "oneOf" && count > 1 {
                    found.push(format!("{path} is {answer}, which fits {count} of {said}"));
                }
            }
            "items" => {
                for (place, item) in answer.as_array().into_iter().flatten().enumerate() {
                    look(root, said, item, &format!("{path}[{place}]"), found);
                }
            }
            "properties" => properties(root, said.as_object().unwrap(), answer, path, found),
            "required" => {
                let names = said.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                let missing = names.filter(|name| answer.as_object().is_some_and(|object| !object.contains_key(*name)));
                found.extend(missing.map(|name| format!("{path}.{name} is missing")));
            }
            "enum" | "const" | "minimum" | "maximum" => {}
            word => assert!(SAYS_NOTHING.contains(&word), "nobody here knows what {word} means"),
        }
    }
}

fn properties(root: &Value, known: &Map<String, Value>, answer: &Value, path: &str, found: &mut Vec<String>) {
    for (name, value) in answer.as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match known.get(name) {
            Some(schema) => look(root, schema, value, &path, found),
            None => found.push(format!("{path} is not known")),
        }
    }
}

fn is_a(name: &str, answer: &Value) -> bool {
    match name {
        "null" => answer.is_null(),
        "boolean" => answer.is_boolean(),
        "integer" => answer.is_i64() || answer.is_u64(),
        "number" => answer.is_number(),
        "string" => answer.is_string(),
        "array" => answer.is_array(),
        "object" => answer.is_object(),
        other => panic!("nobody here knows the type {other}"),
    }
}

#[test]
fn what_does_not_fit_is_found() {
    use serde_json::json;

    let schema = json!({
        "type": "object",
        "properties": {
            "kind": { "enum": ["a", "b"] },
            "rows": { "type": "array", "items": { "$ref": "#/$defs/Row" } },
            "why": { "anyOf": [{ "type": "string" }, { "type": "null" }] },
        },
        "required": ["kind", "rows"],
        "$defs": { "Row": { "type": "object", "properties": { "ms": { "type": "integer", "minimum": 0 } }, "required": ["ms"] } },
    });
    assert!(misfits(&schema, &json!({ "kind": "a", "rows": [{ "ms": 1 }], "why": null })).is_empty());
    let cases = [
        (json!([]), "$ is [], not \"object\""),
        (json!({ "rows": [] }), "$.kind is missing"),
        (json!({ "kind": "c", "rows": [] }), "$.kind is \"c\""),
        (json!({ "kind": "a", "rows": [{}] }), "$.rows[0].ms is missing"),
        (json!({ "kind": "a", "rows": [{ "ms": -1 }] }), "$.rows[0].ms is -1, below 0"),
        (json!({ "kind": "a", "rows": [{ "ms": "1" }] }), "$.rows[0].ms is \"1\", not \"integer\""),
        (json!({ "kind": "a", "rows": [], "more": 1 }), "$.more is not known"),
    ];
    for (answer, expected) in cases {
        assert_eq!(misfits(&schema, &answer), [expected], "{answer}");
    }
    assert_eq!(misfits(&schema, &json!({ "kind": "a", "rows": [], "why": 1 })).len(), 1);
}
