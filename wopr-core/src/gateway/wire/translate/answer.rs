//! Answers that were not streamed.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::shapes::{Chunk, Message, MessagesTokens, chat_usage};
use super::{anthropic_reason, openai_reason, prefixed, written};
use crate::gateway::model::{Dialect, TokenUsage};

/// A provider's answer is not what its dialect says it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the provider's answer makes no sense")]
pub struct BrokenAnswer;

/// An answer as the client gets it: in its dialect, with its name of the model. `created` is in seconds of Unix time, for
/// OpenAI's clients.
///
/// # Errors
/// [`BrokenAnswer`].
pub fn translate_answer(
    provider: Dialect,
    client: Dialect,
    body: &Bytes,
    model_asked: &str,
    created: i64,
) -> Result<Bytes, BrokenAnswer> {
    match (provider, client) {
        (Dialect::OpenAi, Dialect::Anthropic) => to_anthropic(body, model_asked),
        (Dialect::Anthropic, Dialect::OpenAi) => to_openai(body, model_asked, created),
        (Dialect::OpenAi, Dialect::OpenAi) | (Dialect::Anthropic, Dialect::Anthropic) => Ok(body.clone()),
    }
}

#[derive(Serialize)]
struct AnthropicAnswer<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    role: &'static str,
    model: &'a str,
    content: Vec<Block<'a>>,
    stop_reason: &'static str,
    stop_sequence: Option<&'a str>,
    usage: Value,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block<'a> {
    Text { text: &'a str },
    ToolUse { id: &'a str, name: &'a str, input: Input },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Input {
    Object(Box<RawValue>),
    Nothing {},
}

/// Anthropic counts what came from a cache apart.
pub(super) fn anthropic_usage(usage: TokenUsage) -> Value {
    json!({
        "input_tokens": usage.input.saturating_sub(usage.cached_input),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_input,
        "output_tokens": usage.output,
    })
}

pub(super) fn openai_usage(usage: TokenUsage) -> Value {
    json!({
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input.saturating_add(usage.output),
        "prompt_tokens_details": { "cached_tokens": usage.cached_input },
    })
}

fn to_anthropic(body: &Bytes, model: &str) -> Result<Bytes, BrokenAnswer> {
    let answer: Chunk<'_> = serde_json::from_slice(body).map_err(|_| BrokenAnswer)?;
    let choice = answer.choices.unwrap_or_default().into_iter().next().ok_or(BrokenAnswer)?;
    let said = choice.message.ok_or(BrokenAnswer)?;
    let texts = [&*said.content, &*said.refusal].into_iter().filter(|text| !text.is_empty());
    let mut content: Vec<Block<'_>> = texts.map(|text| Block::Text { text }).collect();
    let mut tools = false;
    for call in said.tool_calls.iter().flatten() {
        let function = call.function.as_ref().ok_or(BrokenAnswer)?;
        tools = true;
        content.push(Block::ToolUse { id: &call.id, name: &function.name, input: input(&function.arguments) });
    }
    let reason = choice.finish_reason.unwrap_or_default();
    Ok(written(&AnthropicAnswer {
        id: prefixed("msg_", &answer.id),
        kind: "message",
        role: "assistant",
        model,
        content,
        stop_reason: anthropic_reason(&reason, tools),
        stop_sequence: None,
        usage: anthropic_usage(answer.usage.and_then(chat_usage).unwrap_or_default()),
    }))
}

/// A model may write arguments that are no object, which there is no way to say: they become none.
fn input(arguments: &str) -> Input {
    let object = RawValue::from_string(arguments.to_owned()).ok().filter(|input| input.get().starts_with('{'));
    object.map_or(Input::Nothing {}, Input::Object)
}

fn to_openai(body: &Bytes, model: &str, created: i64) -> Result<Bytes, BrokenAnswer> {
    let answer: Message<'_> = serde_json::from_slice(body).map_err(|_| BrokenAnswer)?;
    let (mut text, mut tool_calls) = (None, Vec::new());
    for block in answer.content.as_ref().ok_or(BrokenAnswer)? {
        match &*block.kind {
            "text" => text.get_or_insert_with(String::new).push_str(&block.text),
            "tool_use" => tool_calls.push(json!({
                "id": &*block.id,
                "type": "function",
                "function": { "name": &*block.name, "arguments": block.input.map_or("{}", RawValue::get) },
            })),
            // Thoughts are not said to those who did not ask for them.
            _ => {}
        }
    }
    let mut tokens = MessagesTokens::default();
    if let Some(usage) = answer.usage {
        tokens.read(usage);
        tokens.complete = true;
    }
    let mut message = json!({ "role": "assistant", "content": text, "refusal": null });
    if !tool_calls.is_empty() {
        message["tool_calls"] = Value::Array(tool_calls);
    }
    Ok(written(&json!({
        "id": prefixed("chatcmpl-", &answer.id),
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{
            "index": 0, "message": message, "logprobs": null, "finish_reason": openai_reason(&answer.stop_reason),
        }],
        "usage": openai_usage(tokens.usage(0).unwrap_or_default()),
    })))
}
