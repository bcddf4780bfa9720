//! Requests for providers that speak as the client does: changed in as few places as possible, every other byte kept.

use std::ops::Range;

use bytes::Bytes;

use super::request::{ChatFacts, Places};

/// The body as the provider gets it: with its name of the model, asking for the usage of a stream if `ask_usage`, and with
/// a bound of the answer where the client set none. The same bytes if nothing has to change.
///
/// # Panics
/// If `facts` were not read from this body.
pub fn prepare(
    body: &Bytes,
    facts: &ChatFacts,
    provider_model: &str,
    ask_usage: bool,
    max_output_when_absent: Option<u64>,
) -> Bytes {
    let places = &facts.places;
    let mut edits = model_edit(body, places, provider_model);
    let first = places.first..places.first;
    if ask_usage && facts.stream && !facts.wants_usage {
        let options = places.stream_options.clone();
        match (options, places.include_usage.clone()) {
            (_, Some(include)) => edits.push((include, "true".to_owned())),
            (Some(options), None) if body.get(options.start) == Some(&b'{') => {
                let inside = options.start + 1;
                let rest = body.get(inside..options.end).unwrap_or_default();
                let comma = if rest.trim_ascii_start().first() == Some(&b'}') { "" } else { "," };
                edits.push((inside..inside, format!("\"include_usage\":true{comma}")));
            }
            (Some(null), None) => edits.push((null, "{\"include_usage\":true}".to_owned())),
            (None, None) => edits.push((first.clone(), "\"stream_options\":{\"include_usage\":true},".to_owned())),
        }
    }
    if let (None, Some(most)) = (facts.max_output_tokens, max_output_when_absent) {
        match places.null_max_tokens.clone() {
            Some(null) => edits.push((null, most.to_string())),
            None => edits.push((first, format!("\"max_tokens\":{most},"))),
        }
    }
    edited(body, places, edits)
}

/// The body with the provider's name of the model. The same bytes if it has it already.
///
/// # Panics
/// If `places` are not those of this body.
pub fn with_model(body: &Bytes, places: &Places, provider_model: &str) -> Bytes {
    edited(body, places, model_edit(body, places, provider_model))
}

fn model_edit(body: &Bytes, places: &Places, provider_model: &str) -> Vec<(Range<usize>, String)> {
    let name = serde_json::Value::from(provider_model).to_string();
    if body.get(places.model.clone()) == Some(name.as_bytes()) { vec![] } else { vec![(places.model.clone(), name)] }
}

fn edited(body: &Bytes, places: &Places, mut edits: Vec<(Range<usize>, String)>) -> Bytes {
    assert_eq!(body.len(), places.body_len, "these are the places of another body");
    if edits.is_empty() {
        return body.clone();
    }
    edits.sort_by_key(|(place, _)| place.start);
    let more: usize = edits.iter().map(|(_, text)| text.len()).sum();
    let mut new = Vec::with_capacity(body.len() + more);
    let mut kept = 0;
    for (place, text) in edits {
        new.extend_from_slice(&body[kept..place.start]);
        new.extend_from_slice(text.as_bytes());
        kept = place.end;
    }
    new.extend_from_slice(&body[kept..]);
    new.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::request::{read_chat, read_completion, read_embeddings};
    use super::*;
    use crate::gateway::model::Dialect;

    fn prepared(body: &str, model: &str, ask_usage: bool, most: Option<u64>) -> String {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let facts = read_chat(Dialect::OpenAi, &body).unwrap();
        String::from_utf8(prepare(&body, &facts, model, ask_usage, most).to_vec()).unwrap()
    }

    #[test]
    fn only_what_must_change_is_changed() {
        // Body, our name of the model, whether usage is asked for, bound, and what it becomes.
        let table = [
            (r#"{"model":"a","messages":[{}]}"#, "a", true, None, r#"{"model":"a","messages":[{}]}"#),
            (
                r#" { "x" : 1.50, "model" : "a", "messages":[ {"é":"\u00e9"} ]} "#,
                "b/\"c",
                false,
                None,
                r#" { "x" : 1.50, "model" : "b/\"c", "messages":[ {"é":"\u00e9"} ]} "#,
            ),
            (
                r#"{"model":"a","messages":[{}]}"#,
                "a",
                false,
                Some(7),
                r#"{"max_tokens":7,"model":"a","messages":[{}]}"#,
            ),
            (
                r#"{"model":"a","messages":[{}],"max_tokens":null}"#,
                "a",
                false,
                Some(7),
                r#"{"model":"a","messages":[{}],"max_tokens":7}"#,
            ),
            (
                r#"{"model":"a","messages":[{}],"max_tokens":9}"#,
                "a",
                false,
                Some(7),
                r#"{"model":"a","messages":[{}],"max_tokens":9}"#,
            ),
            (
                r#"{"model":"a","messages":[{}],"max_completion_tokens":9}"#,
                "a",
                false,
                Some(7),
                r#"{"model":"a","messages":[{}],"max_completion_tokens":9}"#,
            ),
            (
                r#"{"stream":true,"model":"a","messages":[{}]}"#,
                "b",
                true,
                Some(7),
                r#"{"stream_options":{"include_usage":true},"max_tokens":7,"stream":true,"model":"b","messages":[{}]}"#,
            ),
            (
                r#"{"stream":true,"model":"a","messages":[{}],"stream_options":null}"#,
                "a",
                true,
                None,
                r#"{"stream":true,"model":"a","messages":[{}],"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"stream":true,"model":"a","messages":[{}],"stream_options":{ }}"#,
                "a",
                true,
                None,
                r#"{"stream":true,"model":"a","messages":[{}],"stream_options":{"include_usage":true }}"#,
            ),
            (
                r#"{"stream":true,"model":"a","messages":[{}],"stream_options":{"x":1}}"#,
                "a",
                true,
                None,
                r#"{"stream":true,"model":"a","messages":[{}],"stream_options":{"include_usage":true,"x":1}}"#,
            ),
            (
                r#"{"stream":true,"stream_options":{"x":1,"include_usage": false },"model":"a","messages":[{}]}"#,
                "bb",
                true,
                None,
                r#"{"stream":true,"stream_options":{"x":1,"include_usage": true },"model":"bb","messages":[{}]}"#,
            ),
            (
                r#"{"stream":true,"stream_options":{"include_usage":true},"model":"a","messages":[{}]}"#,
                "a",
                true,
                None,
                r#"{"stream":true,"stream_options":{"include_usage":true},"model":"a","messages":[{}]}"#,
            ),
            (
                r#"{"stream":true,"model":"a","messages":[{}]}"#,
                "a",
                false,
                None,
                r#"{"stream":true,"model":"a","messages":[{}]}"#,
            ),
        ];
        for (body, model, ask_usage, most, expected) in table {
            assert_eq!(prepared(body, model, ask_usage, most), expected);
            let again = read_chat(Dialect::OpenAi, expected.as_bytes()).unwrap();
            assert_eq!((again.model.as_str(), again.wants_usage), (model, (ask_usage && again.stream)));
        }
    }

    #[test]
    fn the_same_bytes_are_not_copied() {
        let body = Bytes::from_static(br#"{"model":"a","messages":[{}],"prompt":"x","input":"x","max_tokens":1}"#);
        let facts = read_chat(Dialect::Anthropic, &body).unwrap();
        assert_eq!(prepare(&body, &facts, "a", true, Some(1)).as_ptr(), body.as_ptr());
        let facts = read_embeddings(&body).unwrap();
        assert_eq!(with_model(&body, &facts.places, "a").as_ptr(), body.as_ptr());
        let renamed = with_model(&body, &facts.places, "text/b");
        assert_eq!(read_completion(&renamed).unwrap().model, "text/b");
    }

    #[test]
    #[should_panic(expected = "the places of another body")]
    fn the_places_of_another_body_are_a_mistake() {
        let facts = read_embeddings(br#"{"model":"a","input":"x"}"#).unwrap();
        let _ = with_model(&Bytes::from_static(b"{}"), &facts.places, "a");
    }

    proptest! {
        #[test]
        fn every_other_field_keeps_its_bytes(
            before in "(\"[a-c]{1,3}\" *: *(1|\\[ 2 , 3\\]|\"\\\\\\\\n\"|null) *, *)?",
            after in "( *, *\"[d-f]{1,3}\":(0\\.10|\\{\"y\" : 1\\}|\"é\"))?",
            model in "\\PC{1,20}",
        ) {
            let body = format!("{{{before}\"stream\":true,\"model\":\"old\",\"messages\":[{{\"role\":\"user\"}}]{after}}}");
            let expected = body.replace("\"old\"", &serde_json::Value::from(model.as_str()).to_string());
            prop_assume!(!model.trim().is_empty());
            let new = prepared(&body, &model, true, Some(3));
            let added = "\"stream_options\":{\"include_usage\":true},\"max_tokens\":3,";
            prop_assert_eq!(new, expected.replacen('{', &format!("{{{added}"), 1));
        }
    }
}
