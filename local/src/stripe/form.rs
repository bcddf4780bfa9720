//! Form-encoded bodies with nested names: `line_items[0][price_data][currency]=usd`.

use serde_json::{Map, Value, json};

use super::error::ApiError;

/// More pairs than any real request has; a guard against nonsense.
const MAX_PAIRS: usize = 1000;
/// Deeper than any parameter of the API.
const MAX_DEPTH: usize = 8;
/// Stripe: <https://docs.stripe.com/metadata#data>
const METADATA_KEYS: usize = 50;
const METADATA_KEY_CHARS: usize = 40;
const METADATA_VALUE_CHARS: usize = 500;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Text(String),
    Branch(Vec<(String, Node)>),
}

/// One level of parameters. Text stays text until a getter asks for a number or a truth value.
#[derive(Debug, Clone, Default)]
pub(super) struct Params {
    /// Where this level hangs, for messages: `line_items[0]`; empty at the top.
    path: String,
    fields: Vec<(String, Node)>,
}

/// The pairs of a query string or a form body, in the order sent.
pub(super) fn pairs(encoded: &[u8]) -> Result<Vec<(String, String)>, ApiError> {
    let pairs: Vec<(String, String)> = serde_urlencoded::from_bytes(encoded)
        .map_err(|error| ApiError::invalid(format!("the body is not form-encoded: {error}")))?;
    if pairs.len() > MAX_PAIRS {
        return Err(ApiError::invalid(format!("more than {MAX_PAIRS} parameters")));
    }
    Ok(pairs)
}

/// Splits `a[b][]` into `a`, `b` and an empty segment.
fn segments(name: &str) -> Result<Vec<&str>, ApiError> {
    let bad = || ApiError::invalid(format!("Invalid parameter name: {name}"));
    let Some((head, mut rest)) = name.split_once('[') else {
        return if name.is_empty() || name.contains(']') { Err(bad()) } else { Ok(vec![name]) };
    };
    if head.is_empty() {
        return Err(bad());
    }
    let mut found = vec![head];
    loop {
        let (segment, after) = rest.split_once(']').ok_or_else(bad)?;
        if segment.contains('[') {
            return Err(bad());
        }
        found.push(segment);
        if after.is_empty() {
            break;
        }
        rest = after.strip_prefix('[').ok_or_else(bad)?;
    }
    if found.len() > MAX_DEPTH { Err(bad()) } else { Ok(found) }
}

fn insert(fields: &mut Vec<(String, Node)>, path: &[&str], name: &str, value: String) -> Result<(), ApiError> {
    let clash = || ApiError::invalid(format!("{name} is given both as a value and as a group"));
    let Some((first, rest)) = path.split_first() else { return Err(clash()) };
    // An empty segment appends: `expand[]=a&expand[]=b`.
    let key = if first.is_empty() { fields.len().to_string() } else { (*first).to_owned() };
    let found = fields.iter_mut().find(|(existing, _)| *existing == key);
    match (found, rest.is_empty()) {
        (None, true) => fields.push((key, Node::Text(value))),
        (None, false) => {
            let mut inner = Vec::new();
            insert(&mut inner, rest, name, value)?;
            fields.push((key, Node::Branch(inner)));
        }
        (Some((_, Node::Text(existing))), true) => *existing = value,
        (Some((_, Node::Branch(inner))), false) => insert(inner, rest, name, value)?,
        (Some(_), _) => return Err(clash()),
    }
    Ok(())
}

impl Params {
    pub(super) fn from_pairs(pairs: &[(String, String)]) -> Result<Self, ApiError> {
        let mut fields = Vec::new();
        for (name, value) in pairs {
            insert(&mut fields, &segments(name)?, name, value.clone())?;
        }
        Ok(Self { path: String::new(), fields })
    }

    fn named(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}[{name}]", self.path) }
    }

    fn node(&self, name: &str) -> Option<&Node> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, node)| node)
    }

    /// Refuses every parameter not listed: nothing sent is silently ignored. `expand` is always known.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        for (key, _) in &self.fields {
            if !known.contains(&key.as_str()) && key != "expand" {
                let name = self.named(key);
                return Err(ApiError::invalid(format!("Received unknown parameter: {name}"))
                    .code("parameter_unknown")
                    .param(&name));
            }
        }
        Ok(())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.node(name).is_some()
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, ApiError> {
        match self.node(name) {
            None => Ok(None),
            Some(Node::Text(text)) => Ok(Some(text)),
            Some(Node::Branch(_)) => Err(ApiError::invalid("Invalid string").param(&self.named(name))),
        }
    }

    /// The text, where an empty one counts as absent.
    pub(super) fn filled(&self, name: &str) -> Result<Option<&str>, ApiError> {
        Ok(self.text(name)?.filter(|text| !text.is_empty()))
    }

    pub(super) fn required(&self, name: &str) -> Result<&str, ApiError> {
        self.filled(name)?.ok_or_else(|| ApiError::missing(&self.named(name)))
    }

    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.filled(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            ApiError::invalid(format!("Invalid integer: {text}"))
                .code("parameter_invalid_integer")
                .param(&self.named(name))
        })
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.filled(name)? {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(text) => Err(ApiError::invalid(format!("Invalid boolean: {text}")).param(&self.named(name))),
        }
    }

    /// One of a fixed set of words.
    pub(super) fn choice<'a>(&'a self, name: &str, allowed: &[&str]) -> Result<Option<&'a str>, ApiError> {
        let Some(text) = self.filled(name)? else { return Ok(None) };
        if allowed.contains(&text) {
            return Ok(Some(text));
        }
        Err(ApiError::invalid(format!("Invalid {name}: must be one of {}", allowed.join(", ")))
            .param(&self.named(name)))
    }

    /// The group of that name. An empty text, which is how a group is cleared, counts as absent.
    pub(super) fn child(&self, name: &str) -> Result<Option<Self>, ApiError> {
        match self.node(name) {
            None => Ok(None),
            Some(Node::Branch(fields)) => Ok(Some(Self { path: self.named(name), fields: fields.clone() })),
            Some(Node::Text(text)) if text.is_empty() => Ok(None),
            Some(Node::Text(_)) => Err(ApiError::invalid("Invalid object").param(&self.named(name))),
        }
    }

    /// The groups of a list of groups, in the order sent.
    pub(super) fn children(&self, name: &str) -> Result<Vec<Self>, ApiError> {
        let Some(list) = self.child(name)? else { return Ok(Vec::new()) };
        list.fields
            .iter()
            .map(|(key, _)| {
                let child = list.child(key)?;
                child.ok_or_else(|| ApiError::invalid("Invalid object").param(&list.named(key)))
            })
            .collect()
    }

    /// The texts of a list of texts.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<String>, ApiError> {
        match self.node(name) {
            Some(Node::Text(text)) if !text.is_empty() => Ok(vec![text.clone()]),
            _ => {
                let Some(list) = self.child(name)? else { return Ok(Vec::new()) };
                list.fields.iter().map(|(key, _)| Ok(list.required(key)?.to_owned())).collect()
            }
        }
    }

    /// `metadata` laid over `existing`: an empty value removes its key, an empty `metadata` removes all.
    pub(super) fn metadata(&self, existing: Option<&Value>) -> Result<Value, ApiError> {
        let mut merged = existing.and_then(Value::as_object).cloned().unwrap_or_default();
        let name = self.named("metadata");
        match self.node("metadata") {
            None => {}
            Some(Node::Text(text)) if text.is_empty() => merged.clear(),
            Some(Node::Text(_)) => return Err(ApiError::invalid("Invalid object").param(&name)),
            Some(Node::Branch(fields)) => {
                for (key, node) in fields {
                    let Node::Text(value) = node else {
                        return Err(ApiError::invalid("Metadata values must be strings").param(&name));
                    };
                    if value.is_empty() {
                        merged.remove(key);
                    } else if key.chars().count() > METADATA_KEY_CHARS || value.chars().count() > METADATA_VALUE_CHARS {
                        return Err(ApiError::invalid(format!(
                            "Metadata keys have at most {METADATA_KEY_CHARS} characters and values {METADATA_VALUE_CHARS}"
                        ))
                        .param(&name));
                    } else {
                        merged.insert(key.clone(), json!(value));
                    }
                }
            }
        }
        if merged.len() > METADATA_KEYS {
            return Err(ApiError::invalid(format!("Metadata has at most {METADATA_KEYS} keys")).param(&name));
        }
        Ok(Value::Object(merged))
    }

    /// Everything at this level as JSON objects of texts, for fields that are only stored.
    pub(super) fn to_json(&self) -> Value {
        fn convert(fields: &[(String, Node)]) -> Value {
            let mut map = Map::new();
            for (key, node) in fields {
                let value = match node {
                    Node::Text(text) if text.is_empty() => Value::Null,
                    Node::Text(text) => json!(text),
                    Node::Branch(inner) => convert(inner),
                };
                map.insert(key.clone(), value);
            }
            Value::Object(map)
        }
        convert(&self.fields)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Params, ApiError> {
        Params::from_pairs(&pairs(text.as_bytes())?)
    }

    #[test]
    fn nested_lists_and_maps_are_read_in_order() {
        let p = parse("line_items[0][price]=a&line_items[1][price]=b&line_items[1][quantity]=2&expand[]=x&expand[]=y")
            .unwrap();
        let items = p.children("line_items").unwrap();
        assert_eq!(items[0].text("price").unwrap(), Some("a"));
        assert_eq!(items[1].integer("quantity").unwrap(), Some(2));
        assert_eq!(p.texts("expand").unwrap(), ["x", "y"]);
    }

    #[test]
    fn metadata_keeps_numeric_keys_and_drops_emptied_ones() {
        let p = parse("metadata[7]=seven&metadata[gone]=").unwrap();
        let before = json!({ "gone": "1", "stays": "2" });
        assert_eq!(p.metadata(Some(&before)).unwrap(), json!({ "7": "seven", "stays": "2" }));
    }

    #[test]
    fn what_is_not_a_form_is_refused() {
        for bad in ["a[b=1", "a]=1", "[a]=1", "a[[b]]=1", "a=1&a[b]=2", "a[b]=1&a=2", "a[b]c=1"] {
            assert_eq!(parse(bad).map(|_| ()).unwrap_err().status, 400, "{bad}");
        }
    }

    #[test]
    fn unknown_parameters_are_named() {
        let error = parse("email=a&emial=b").unwrap().only(&["email"]).unwrap_err();
        assert_eq!((error.code, error.param.as_deref()), (Some("parameter_unknown"), Some("emial")));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_a_panic(text in "[a-z\\[\\]=&%0-9]{0,60}") {
            let _either = parse(&text);
        }
    }
}
