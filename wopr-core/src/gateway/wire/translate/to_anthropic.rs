//! Conversations of OpenAI's clients for providers that speak as Anthropic does.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::error::WireError;
use super::super::json::text;
use super::{At, written};

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    max_tokens: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    messages: Vec<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_sequences: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: Vec<Block>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text { text: String },
    Image { source: Value },
    ToolUse { id: String, name: String, input: Box<RawValue> },
    ToolResult { tool_use_id: String, content: String },
}

#[derive(Serialize)]
struct Tool<'a> {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_schema: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none", rename = "input_schema")]
    no_input: Option<Value>,
}

/// Fields that say nothing when they have one of these values.
const NEUTRAL: [(&str, &[&str]); 10] = [
    ("n", &["1"]),
    ("logprobs", &["false"]),
    ("top_logprobs", &["0"]),
    ("presence_penalty", &["0", "0.0"]),
    ("frequency_penalty", &["0", "0.0"]),
    ("logit_bias", &["{}"]),
    ("store", &["false"]),
    ("metadata", &["{}"]),
    ("service_tier", &["\"auto\"", "\"default\""]),
    ("modalities", &["[\"text\"]"]),
];
const KNOWN: [&str; 15] = [
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "stream",
    "stream_options",
    "stop",
    "user",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "safety_identifier",
];

pub(super) fn request(body: &Bytes, model: &str, max_output_when_absent: u64) -> Result<Bytes, WireError> {
    let top = At::body(body)?;
    for (name, value) in &top.object.0 {
        let neutral = NEUTRAL.iter().find(|(field, _)| **name == **field);
        let says_nothing = neutral.is_some_and(|(_, values)| values.contains(&value.get()));
        if value.get() != "null" && !says_nothing && !KNOWN.contains(&&**name) {
            return Err(top.unsupported(name));
        }
    }
    if let Some(format) = top.object("response_format")?
        && format.required_text("type")? != "text"
    {
        return Err(top.unsupported("response_format"));
    }
    top.required_text("model")?;
    top.required("messages")?;
    let (mut system, mut messages) = (Vec::new(), Vec::new());
    for message in top.objects("messages")? {
        match message.required_text("role")?.as_str() {
            "system" | "developer" => {
                message.only(&["role", "content"])?;
                system.push(texts(&message)?);
            }
            "user" => {
                message.only(&["role", "content"])?;
                said(&mut messages, "user", user(&message)?);
            }
            "assistant" => said(&mut messages, "assistant", assistant(&message)?),
            "tool" => {
                // Its name is that of the tool, which the call has already.
                message.only(&["role", "content", "tool_call_id", "name"])?;
                let tool_use_id = message.required_text("tool_call_id")?;
                let content = texts(&message)?;
                said(&mut messages, "user", vec![Block::ToolResult { tool_use_id, content }]);
            }
            _ => return Err(message.unsupported("role")),
        }
    }
    if messages.is_empty() {
        return Err(top.invalid("messages", "must say something"));
    }
    let temperature = top.number("temperature")?;
    if temperature.is_some_and(|value| value.get().parse::<f64>().is_ok_and(|value| value > 1.0)) {
        return Err(top.invalid("temperature", "must be at most 1 for this model"));
    }
    let user = match top.text("user")? {
        Some(user) => Some(user),
        None => top.text("safety_identifier")?,
    };
    let tools: Vec<Tool<'_>> = top.objects("tools")?.iter().map(tool).collect::<Result<_, _>>()?;
    Ok(written(&Request {
        model,
        max_tokens: max_tokens(&top)?.map_or_else(|| json!(max_output_when_absent), |tokens| json!(tokens)),
        system: (!system.is_empty()).then(|| system.join("\n\n")),
        messages,
        stop_sequences: stop(&top)?,
        temperature,
        top_p: top.number("top_p")?,
        metadata: user.map(|user| json!({ "user_id": user })),
        tool_choice: tool_choice(&top, !tools.is_empty())?,
        tools,
        stream: top.flag("stream")?.filter(|stream| *stream),
    }))
}

fn max_tokens(top: &At<'_>) -> Result<Option<u64>, WireError> {
    let read = |field: &str| match top.get(field) {
        None => Ok(None),
        Some(value) => value.get().parse().map(Some).map_err(|_| top.invalid(field, "must be a whole number")),
    };
    Ok(read("max_tokens")?.max(read("max_completion_tokens")?))
}

fn stop(top: &At<'_>) -> Result<Option<Value>, WireError> {
    let Some(stop) = top.get("stop") else { return Ok(None) };
    let sequences = match text(stop) {
        Some(one) => vec![one],
        None => {
            serde_json::from_str(stop.get()).map_err(|_| top.invalid("stop", "must be a text or an array of texts"))?
        }
    };
    Ok((!sequences.is_empty()).then(|| json!(sequences)))
}

/// Goes on with what the same one said before: what several tools answer belongs into one message.
fn said(messages: &mut Vec<Message>, role: &'static str, mut blocks: Vec<Block>) {
    match messages.last_mut() {
        _ if blocks.is_empty() => {}
        Some(last) if last.role == role => last.content.append(&mut blocks),
        _ => messages.push(Message { role, content: blocks }),
    }
}

/// A text, or parts of text joined.
fn texts(message: &At<'_>) -> Result<String, WireError> {
    if message.get("content").is_none() || message.is_text("content") {
        return Ok(message.text("content")?.unwrap_or_default());
    }
    let mut joined = String::new();
    for part in message.objects("content")? {
        match part.required_text("type")?.as_str() {
            "text" => joined.push_str(&part.required_text("text")?),
            _ => return Err(part.unsupported("type")),
        }
    }
    Ok(joined)
}

/// Anthropic refuses empty texts, which say nothing.
fn text_block(text: String) -> Option<Block> {
    (!text.is_empty()).then_some(Block::Text { text })
}

fn user(message: &At<'_>) -> Result<Vec<Block>, WireError> {
    message.required("content")?;
    if message.is_text("content") {
        return Ok(text_block(texts(message)?).into_iter().collect());
    }
    let mut blocks = Vec::new();
    for part in message.objects("content")? {
        match part.required_text("type")?.as_str() {
            "text" => {
                part.only(&["type", "text"])?;
                blocks.extend(text_block(part.required_text("text")?));
            }
            "image_url" => blocks.push(image(&part)?),
            _ => return Err(part.unsupported("type")),
        }
    }
    Ok(blocks)
}

fn image(part: &At<'_>) -> Result<Block, WireError> {
    part.only(&["type", "image_url"])?;
    let image = part.required_object("image_url")?;
    image.only(&["url", "detail"])?;
    if image.text("detail")?.is_some_and(|detail| detail != "auto") {
        return Err(image.unsupported("detail"));
    }
    let url = image.required_text("url")?;
    let source = match url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
        Some((media_type, data)) => json!({ "type": "base64", "media_type": media_type, "data": data }),
        None if url.starts_with("https://") => json!({ "type": "url", "url": url }),
        None => return Err(image.invalid("url", "must begin with https:// or be base64 data")),
    };
    Ok(Block::Image { source })
}

fn assistant(message: &At<'_>) -> Result<Vec<Block>, WireError> {
    // What a client sends back of an answer it got: thoughts are not said again.
    message.only(&["role", "content", "refusal", "tool_calls", "reasoning", "reasoning_content", "annotations"])?;
    let mut blocks: Vec<Block> = text_block(texts(message)?).into_iter().collect();
    blocks.extend(message.text("refusal")?.and_then(text_block));
    for call in message.objects("tool_calls")? {
        call.only(&["id", "type", "function", "index"])?;
        let function = call.required_object("function")?;
        function.only(&["name", "arguments"])?;
        let arguments = function.required_text("arguments")?;
        let arguments = if arguments.trim().is_empty() { "{}".to_owned() } else { arguments };
        let input = RawValue::from_string(arguments).ok().filter(|input| input.get().starts_with('{'));
        let input = input.ok_or_else(|| function.invalid("arguments", "must be a JSON object"))?;
        blocks.push(Block::ToolUse { id: call.required_text("id")?, name: function.required_text("name")?, input });
    }
    Ok(blocks)
}

fn tool<'a>(tool: &At<'a>) -> Result<Tool<'a>, WireError> {
    tool.only(&["type", "function"])?;
    if tool.required_text("type")? != "function" {
        return Err(tool.unsupported("type"));
    }
    let function = tool.required_object("function")?;
    function.only(&["name", "description", "parameters", "strict"])?;
    if function.flag("strict")? == Some(true) {
        return Err(function.unsupported("strict"));
    }
    let input_schema = function.get("parameters");
    let no_input = input_schema.is_none().then(|| json!({ "type": "object", "properties": {} }));
    let (name, description) = (function.required_text("name")?, function.text("description")?);
    Ok(Tool { name, description, input_schema, no_input })
}

fn tool_choice(top: &At<'_>, tools: bool) -> Result<Option<Value>, WireError> {
    let chosen = if top.is_text("tool_choice") {
        match top.text("tool_choice")?.as_deref() {
            Some("auto") => Some(json!({ "type": "auto" })),
            Some("required") => Some(json!({ "type": "any" })),
            Some("none") => return Ok(Some(json!({ "type": "none" }))),
            _ => return Err(top.unsupported("tool_choice")),
        }
    } else {
        match top.object("tool_choice")? {
            None => None,
            Some(choice) if choice.required_text("type")? == "function" => {
                let name = choice.required_object("function")?.required_text("name")?;
                Some(json!({ "type": "tool", "name": name }))
            }
            Some(choice) => return Err(choice.unsupported("type")),
        }
    };
    let one_at_a_time = top.flag("parallel_tool_calls")? == Some(false);
    let mut chosen = chosen.or_else(|| (one_at_a_time && tools).then(|| json!({ "type": "auto" })));
    if let (Some(chosen), true) = (&mut chosen, one_at_a_time) {
        chosen["disable_parallel_tool_use"] = json!(true);
    }
    Ok(chosen)
}
