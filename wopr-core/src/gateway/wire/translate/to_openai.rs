//! Conversations of Anthropic's clients for providers that speak as OpenAI does.
//!
//! <https://docs.anthropic.com/en/api/messages>, <https://platform.openai.com/docs/api-reference/chat/create>

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::error::WireError;
use super::{At, written};

const IMAGE_TYPES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    messages: Vec<Message>,
    max_tokens: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<Value>,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    /// `null` where nothing is said beside calls of tools.
    content: Option<Content>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part {
    Text { text: String },
    ImageUrl { image_url: ImageUrl },
}

#[derive(Serialize)]
struct ImageUrl {
    url: String,
}

#[derive(Serialize)]
struct Tool<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    parameters: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

impl Message {
    fn new(role: &'static str, content: Option<Content>) -> Self {
        Self { role, content, tool_calls: vec![], tool_call_id: None }
    }
}

pub(super) fn request(body: &Bytes, model: &str) -> Result<Bytes, WireError> {
    let top = At::body(body)?;
    top.only(&[
        "model",
        "messages",
        "system",
        "max_tokens",
        "stop_sequences",
        "metadata",
        "temperature",
        "top_p",
        "stream",
        "tools",
        "tool_choice",
        "thinking",
    ])?;
    top.required_text("model")?;
    top.required("messages")?;
    top.required("max_tokens")?;
    if let Some(thinking) = top.object("thinking")?
        && thinking.required_text("type")? != "disabled"
    {
        return Err(top.unsupported("thinking"));
    }
    let mut messages = Vec::new();
    if let Some(system) = texts(&top, "system", "\n\n")? {
        messages.push(Message::new("system", Some(Content::Text(system))));
    }
    for message in top.objects("messages")? {
        message.only(&["role", "content"])?;
        match message.required_text("role")?.as_str() {
            "user" => user(&message, &mut messages)?,
            "assistant" => assistant(&message, &mut messages)?,
            _ => return Err(message.invalid("role", "must be user or assistant")),
        }
    }
    let metadata = top.object("metadata")?;
    let user = match &metadata {
        Some(metadata) => {
            metadata.only(&["user_id"])?;
            metadata.text("user_id")?
        }
        None => None,
    };
    let (tool_choice, parallel_tool_calls) = tool_choice(&top)?;
    let stream = top.flag("stream")?.filter(|stream| *stream);
    Ok(written(&Request {
        model,
        messages,
        max_tokens: top.number("max_tokens")?.ok_or(WireError::missing("max_tokens"))?,
        stop: stop(&top)?,
        temperature: top.number("temperature")?,
        top_p: top.number("top_p")?,
        user,
        tools: top.objects("tools")?.iter().map(tool).collect::<Result<_, _>>()?,
        tool_choice,
        parallel_tool_calls,
        stream,
        stream_options: stream.map(|_| json!({ "include_usage": true })),
    }))
}

fn stop<'a>(top: &At<'a>) -> Result<Option<&'a RawValue>, WireError> {
    let Some(stop) = top.get("stop_sequences") else { return Ok(None) };
    match serde_json::from_str::<Vec<String>>(stop.get()) {
        Ok(sequences) => Ok((!sequences.is_empty()).then_some(stop)),
        Err(_) => Err(top.invalid("stop_sequences", "must be an array of texts")),
    }
}

/// A text, or blocks of text joined.
fn texts(at: &At<'_>, field: &str, between: &str) -> Result<Option<String>, WireError> {
    if at.get(field).is_none() || at.is_text(field) {
        return at.text(field);
    }
    let mut texts = Vec::new();
    for block in at.objects(field)? {
        match block.required_text("type")?.as_str() {
            "text" => texts.push(text_of(&block)?),
            _ => return Err(block.unsupported("type")),
        }
    }
    Ok(Some(texts.join(between)))
}

fn text_of(block: &At<'_>) -> Result<String, WireError> {
    block.only(&["type", "text", "cache_control"])?;
    block.required_text("text")
}

fn image(block: &At<'_>) -> Result<Part, WireError> {
    block.only(&["type", "source", "cache_control"])?;
    let source = block.required_object("source")?;
    let url = match source.required_text("type")?.as_str() {
        "base64" => {
            source.only(&["type", "media_type", "data"])?;
            let media_type = source.required_text("media_type")?;
            if !IMAGE_TYPES.contains(&media_type.as_str()) {
                return Err(source.invalid("media_type", "must be image/jpeg, image/png, image/gif or image/webp"));
            }
            format!("data:{media_type};base64,{}", source.required_text("data")?)
        }
        "url" => {
            source.only(&["type", "url"])?;
            let url = source.required_text("url")?;
            if !url.starts_with("https://") {
                return Err(source.invalid("url", "must begin with https://"));
            }
            url
        }
        _ => return Err(source.unsupported("type")),
    };
    Ok(Part::ImageUrl { image_url: ImageUrl { url } })
}

/// What tools answered must follow their calls at once, so it comes before everything else that is said.
fn user(message: &At<'_>, messages: &mut Vec<Message>) -> Result<(), WireError> {
    message.required("content")?;
    if message.is_text("content") {
        messages.push(Message::new("user", Some(Content::Text(message.required_text("content")?))));
        return Ok(());
    }
    let mut parts = Vec::new();
    for block in message.objects("content")? {
        match block.required_text("type")?.as_str() {
            "text" => parts.push(Part::Text { text: text_of(&block)? }),
            "image" => parts.push(image(&block)?),
            "tool_result" => messages.push(tool_result(&block, &mut parts)?),
            _ => return Err(block.unsupported("type")),
        }
    }
    let content = match parts.as_mut_slice() {
        [] => return Ok(()),
        [Part::Text { text }] => Content::Text(std::mem::take(text)),
        _ => Content::Parts(parts),
    };
    messages.push(Message::new("user", Some(content)));
    Ok(())
}

/// A tool's answer can only be text there: pictures of it are shown by the user right after, and a failure is told in words.
fn tool_result(block: &At<'_>, parts: &mut Vec<Part>) -> Result<Message, WireError> {
    block.only(&["type", "tool_use_id", "content", "is_error", "cache_control"])?;
    let mut texts = Vec::new();
    if block.is_text("content") {
        texts.extend(block.text("content")?);
    } else {
        for inner in block.objects("content")? {
            match inner.required_text("type")?.as_str() {
                "text" => texts.push(text_of(&inner)?),
                "image" => parts.push(image(&inner)?),
                _ => return Err(inner.unsupported("type")),
            }
        }
    }
    let text = texts.join("\n");
    let text = match (block.flag("is_error")?, text.as_str()) {
        (Some(true), "") => "Error".to_owned(),
        (Some(true), text) => format!("Error: {text}"),
        _ => text,
    };
    let id = block.required_text("tool_use_id")?;
    Ok(Message { tool_call_id: Some(id), ..Message::new("tool", Some(Content::Text(text))) })
}

fn assistant(message: &At<'_>, messages: &mut Vec<Message>) -> Result<(), WireError> {
    message.required("content")?;
    if message.is_text("content") {
        messages.push(Message::new("assistant", Some(Content::Text(message.required_text("content")?))));
        return Ok(());
    }
    let (mut text, mut tool_calls) = (None, Vec::new());
    for block in message.objects("content")? {
        match block.required_text("type")?.as_str() {
            "text" => text.get_or_insert_with(String::new).push_str(&text_of(&block)?),
            "tool_use" => {
                block.only(&["type", "id", "name", "input", "cache_control"])?;
                let input = block.required_object("input").and_then(|_| block.required("input"))?;
                tool_calls.push(json!({
                    "id": block.required_text("id")?,
                    "type": "function",
                    "function": { "name": block.required_text("name")?, "arguments": input.get() },
                }));
            }
            _ => return Err(block.unsupported("type")),
        }
    }
    messages.push(Message { tool_calls, ..Message::new("assistant", text.map(Content::Text)) });
    Ok(())
}

fn tool<'a>(tool: &At<'a>) -> Result<Tool<'a>, WireError> {
    if tool.text("type")?.is_some_and(|kind| kind != "custom") {
        return Err(tool.unsupported("type"));
    }
    tool.only(&["type", "name", "description", "input_schema", "cache_control", "strict"])?;
    let function = Function {
        name: tool.required_text("name")?,
        description: tool.text("description")?,
        parameters: tool.required("input_schema")?,
        strict: tool.flag("strict")?,
    };
    Ok(Tool { kind: "function", function })
}

fn tool_choice(top: &At<'_>) -> Result<(Option<Value>, Option<bool>), WireError> {
    let Some(choice) = top.object("tool_choice")? else { return Ok((None, None)) };
    choice.only(&["type", "name", "disable_parallel_tool_use"])?;
    let chosen = match choice.required_text("type")?.as_str() {
        "auto" => json!("auto"),
        "any" => json!("required"),
        "none" => json!("none"),
        "tool" => json!({ "type": "function", "function": { "name": choice.required_text("name")? } }),
        _ => return Err(choice.unsupported("type")),
    };
    let one_at_a_time = choice.flag("disable_parallel_tool_use")?.filter(|disabled| *disabled);
    Ok((Some(chosen), one_at_a_time.map(|_| false)))
}
