use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::meter::{StreamMeter, counted_tokens_of_answer, usage_of_answer};
use super::super::recordings::{
    ANTHROPIC_ERROR, ANTHROPIC_TOOLS, OPENAI_TEXT, OPENAI_TOOLS, OPENROUTER, OPENROUTER_ERROR, every_cut,
};
use super::super::request::read_chat;
use super::*;
use crate::gateway::model::{Capability, TokenUsage};

const AT: i64 = 1_741_570_283;

fn to_openai(body: &Value) -> Result<Value, WireError> {
    let body = Bytes::from(body.to_string());
    let translated = translate_request(Dialect::Anthropic, Dialect::OpenAi, &body, "openai/gpt-4o", 99)?;
    read_chat(Dialect::OpenAi, &translated).unwrap();
    Ok(serde_json::from_slice(&translated).unwrap())
}

fn to_anthropic(body: &Value) -> Result<Value, WireError> {
    let body = Bytes::from(body.to_string());
    let translated = translate_request(Dialect::OpenAi, Dialect::Anthropic, &body, "claude-x", 99)?;
    read_chat(Dialect::Anthropic, &translated).unwrap();
    Ok(serde_json::from_slice(&translated).unwrap())
}

/// With what every conversation has, and `more`.
fn with(base: Value, more: &Value) -> Value {
    let mut whole = base;
    for (name, value) in more.as_object().unwrap() {
        whole[name] = value.clone();
    }
    whole
}

fn messages(more: &Value) -> Value {
    with(json!({ "model": "claude", "max_tokens": 10, "messages": [{ "role": "user", "content": "hi" }] }), more)
}

fn chat(more: &Value) -> Value {
    with(json!({ "model": "gpt", "messages": [{ "role": "user", "content": "hi" }] }), more)
}

#[test]
fn a_whole_conversation_of_anthropic_is_told_to_openai() {
    let body = json!({
        "model": "claude", "max_tokens": 1024, "temperature": 0.7, "top_p": 0.9, "stream": true,
        "system": [{ "type": "text", "text": "Be short.", "cache_control": { "type": "ephemeral" } }, { "type": "text", "text": "Be kind." }],
        "stop_sequences": ["END"], "metadata": { "user_id": "u-1" }, "thinking": { "type": "disabled" },
        "tools": [
            { "name": "weather", "description": "of a place", "input_schema": { "type": "object", "properties": { "b": {}, "a": {} } } },
            { "type": "custom", "name": "time", "input_schema": {} },
        ],
        "tool_choice": { "type": "any", "disable_parallel_tool_use": true },
        "messages": [
            { "role": "user", "content": [{ "type": "text", "text": "What is it like?" }] },
            { "role": "assistant", "content": [
                { "type": "text", "text": "I look. " }, { "type": "text", "text": "Wait." },
                { "type": "tool_use", "id": "t1", "name": "weather", "input": { "z": 1, "a": [1.50] } },
                { "type": "tool_use", "id": "t2", "name": "time", "input": {} },
            ] },
            { "role": "user", "content": [
                { "type": "tool_result", "tool_use_id": "t1", "content": "rain" },
                { "type": "text", "text": "And this?" },
                { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "aGk=" } },
                { "type": "tool_result", "tool_use_id": "t2", "is_error": true, "content": [
                    { "type": "text", "text": "no" }, { "type": "text", "text": "clock" },
                    { "type": "image", "source": { "type": "url", "url": "https://x.example/a.png" } },
                ] },
            ] },
            { "role": "assistant", "content": [{ "type": "tool_use", "id": "t3", "name": "time", "input": {} }] },
            { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t3", "is_error": true }] },
        ],
    });
    let expected = json!({
        "model": "openai/gpt-4o", "max_tokens": 1024, "temperature": 0.7, "top_p": 0.9, "stream": true,
        "stream_options": { "include_usage": true }, "stop": ["END"], "user": "u-1",
        "tools": [
            { "type": "function", "function": { "name": "weather", "description": "of a place", "parameters": { "type": "object", "properties": { "b": {}, "a": {} } } } },
            { "type": "function", "function": { "name": "time", "parameters": {} } },
        ],
        "tool_choice": "required", "parallel_tool_calls": false,
        "messages": [
            { "role": "system", "content": "Be short.\n\nBe kind." },
            { "role": "user", "content": "What is it like?" },
            { "role": "assistant", "content": "I look. Wait.", "tool_calls": [
                { "id": "t1", "type": "function", "function": { "name": "weather", "arguments": "{\"a\":[1.5],\"z\":1}" } },
                { "id": "t2", "type": "function", "function": { "name": "time", "arguments": "{}" } },
            ] },
            { "role": "tool", "tool_call_id": "t1", "content": "rain" },
            { "role": "tool", "tool_call_id": "t2", "content": "Error: no\nclock" },
            { "role": "user", "content": [
                { "type": "text", "text": "And this?" },
                { "type": "image_url", "image_url": { "url": "data:image/png;base64,aGk=" } },
                { "type": "image_url", "image_url": { "url": "https://x.example/a.png" } },
            ] },
            { "role": "assistant", "content": null, "tool_calls": [{ "id": "t3", "type": "function", "function": { "name": "time", "arguments": "{}" } }] },
            { "role": "tool", "tool_call_id": "t3", "content": "Error" },
        ],
    });
    assert_eq!(to_openai(&body).unwrap(), expected);
}

#[test]
fn schemas_and_arguments_keep_their_bytes() {
    let body = Bytes::from_static(
        br#"{"model":"m","max_tokens":1,"tools":[{"name":"t","input_schema":{"z": 1.50, "a":{}}}],
            "messages":[{"role":"assistant","content":[{"type":"tool_use","id":"i","name":"t","input":{"z": 1.50, "a":"\u00e9"}}]}]}"#,
    );
    let translated = translate_request(Dialect::Anthropic, Dialect::OpenAi, &body, "x", 1).unwrap();
    let text = std::str::from_utf8(&translated).unwrap();
    assert!(text.contains(r#""parameters":{"z": 1.50, "a":{}}"#), "{text}");
    assert!(text.contains(r#""arguments":"{\"z\": 1.50, \"a\":\"\\u00e9\"}""#), "{text}");
    let back = translate_request(Dialect::OpenAi, Dialect::Anthropic, &translated, "x", 1).unwrap();
    let text = std::str::from_utf8(&back).unwrap();
    assert!(text.contains(r#""input":{"z": 1.50, "a":"\u00e9"}"#), "{text}");
    assert!(text.contains(r#""input_schema":{"z": 1.50, "a":{}}"#), "{text}");
}

#[test]
fn choices_of_tools_are_translated_both_ways() {
    let table = [
        (json!({ "type": "auto" }), json!("auto")),
        (json!({ "type": "any" }), json!("required")),
        (json!({ "type": "none" }), json!("none")),
        (json!({ "type": "tool", "name": "t" }), json!({ "type": "function", "function": { "name": "t" } })),
    ];
    for (anthropic, openai) in table {
        assert_eq!(to_openai(&messages(&json!({ "tool_choice": anthropic }))).unwrap()["tool_choice"], openai);
        assert_eq!(to_anthropic(&chat(&json!({ "tool_choice": openai }))).unwrap()["tool_choice"], anthropic);
    }
    let tools = json!([{ "type": "function", "function": { "name": "t" } }]);
    let alone = to_anthropic(&chat(&json!({ "tools": tools, "parallel_tool_calls": false }))).unwrap();
    assert_eq!(alone["tool_choice"], json!({ "type": "auto", "disable_parallel_tool_use": true }));
    assert_eq!(alone["tools"], json!([{ "name": "t", "input_schema": { "type": "object", "properties": {} } }]));
    let named = json!({ "type": "function", "function": { "name": "t" } });
    let alone = to_anthropic(&chat(&json!({ "tool_choice": named, "parallel_tool_calls": false }))).unwrap();
    assert_eq!(alone["tool_choice"], json!({ "type": "tool", "name": "t", "disable_parallel_tool_use": true }));
}

#[test]
fn what_openai_cannot_be_told_is_named() {
    let said = |block: Value| json!({ "messages": [{ "role": "user", "content": [block] }] });
    let answered = |block: Value| json!({ "messages": [{ "role": "assistant", "content": [block] }] });
    let table = [
        (json!({ "top_k": 5 }), "top_k"),
        (json!({ "thinking": { "type": "enabled", "budget_tokens": 1024 } }), "thinking"),
        (json!({ "container": "c" }), "container"),
        (json!({ "mcp_servers": [] }), "mcp_servers"),
        (json!({ "metadata": { "team": "x" } }), "metadata.team"),
        (json!({ "stop_sequences": "END" }), "stop_sequences"),
        (json!({ "temperature": "hot" }), "temperature"),
        (json!({ "model": null }), "model"),
        (json!({ "max_tokens": null }), "max_tokens"),
        (json!({ "messages": null }), "messages"),
        (json!({ "messages": {} }), "messages"),
        (json!({ "messages": [7] }), "messages.0"),
        (json!({ "messages": [{ "role": "system", "content": "x" }] }), "messages.0.role"),
        (json!({ "messages": [{ "role": "user" }] }), "messages.0.content"),
        (json!({ "messages": [{ "role": "user", "content": 7 }] }), "messages.0.content"),
        (json!({ "messages": [{ "role": "user", "content": "x", "name": "y" }] }), "messages.0.name"),
        (json!({ "system": [{ "type": "image" }] }), "system.0.type"),
        (said(json!({ "type": "document", "source": {} })), "messages.0.content.0.type"),
        (said(json!({ "text": "x" })), "messages.0.content.0.type"),
        (said(json!({ "type": "text" })), "messages.0.content.0.text"),
        (said(json!({ "type": "text", "text": "x", "citations": [] })), "messages.0.content.0.citations"),
        (
            said(json!({ "type": "image", "source": { "type": "file", "file_id": "f" } })),
            "messages.0.content.0.source.type",
        ),
        (
            said(json!({ "type": "image", "source": { "type": "url", "url": "http://x" } })),
            "messages.0.content.0.source.url",
        ),
        (
            said(json!({ "type": "image", "source": { "type": "base64", "media_type": "text/html", "data": "" } })),
            "messages.0.content.0.source.media_type",
        ),
        (said(json!({ "type": "tool_result", "content": "x" })), "messages.0.content.0.tool_use_id"),
        (
            said(json!({ "type": "tool_result", "tool_use_id": "t", "content": [{ "type": "document" }] })),
            "messages.0.content.0.content.0.type",
        ),
        (answered(json!({ "type": "thinking", "thinking": "x", "signature": "y" })), "messages.0.content.0.type"),
        (answered(json!({ "type": "tool_use", "id": "t", "name": "n", "input": "x" })), "messages.0.content.0.input"),
        (json!({ "tools": [{ "type": "web_search_20250305", "name": "web_search" }] }), "tools.0.type"),
        (json!({ "tools": [{ "name": "t" }] }), "tools.0.input_schema"),
        (json!({ "tool_choice": { "type": "tool" } }), "tool_choice.name"),
        (json!({ "tool_choice": { "type": "some" } }), "tool_choice.type"),
    ];
    for (more, field) in table {
        let refused = to_openai(&messages(&more)).expect_err(field);
        assert_eq!(refused.field(), Some(field), "{more}");
    }
}

#[test]
fn a_whole_conversation_of_openai_is_told_to_anthropic() {
    let body = json!({
        "model": "gpt", "max_completion_tokens": 50, "max_tokens": null, "temperature": 1, "top_p": 0.5, "stream": true,
        "stream_options": { "include_usage": true }, "stop": "END", "user": "u-1", "n": 1, "seed": null, "logprobs": false,
        "presence_penalty": 0, "response_format": { "type": "text" },
        "messages": [
            { "role": "system", "content": "Be short." },
            { "role": "developer", "content": [{ "type": "text", "text": "Be " }, { "type": "text", "text": "kind." }] },
            { "role": "user", "content": [
                { "type": "text", "text": "What is this?" },
                { "type": "image_url", "image_url": { "url": "data:image/png;base64,aGk=", "detail": "auto" } },
                { "type": "image_url", "image_url": { "url": "https://x.example/a.png" } },
            ] },
            { "role": "assistant", "content": "", "refusal": null, "tool_calls": [
                { "id": "t1", "type": "function", "function": { "name": "a", "arguments": "{\"x\": 1}" } },
                { "id": "t2", "type": "function", "function": { "name": "b", "arguments": "" } },
            ] },
            { "role": "tool", "tool_call_id": "t1", "name": "a", "content": "one" },
            { "role": "tool", "tool_call_id": "t2", "content": [{ "type": "text", "text": "two" }] },
            { "role": "user", "content": "Well?" },
            { "role": "assistant", "content": null },
        ],
    });
    let expected = json!({
        "model": "claude-x", "max_tokens": 50, "temperature": 1, "top_p": 0.5, "stream": true,
        "system": "Be short.\n\nBe kind.", "stop_sequences": ["END"], "metadata": { "user_id": "u-1" },
        "messages": [
            { "role": "user", "content": [
                { "type": "text", "text": "What is this?" },
                { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "aGk=" } },
                { "type": "image", "source": { "type": "url", "url": "https://x.example/a.png" } },
            ] },
            { "role": "assistant", "content": [
                { "type": "tool_use", "id": "t1", "name": "a", "input": { "x": 1 } },
                { "type": "tool_use", "id": "t2", "name": "b", "input": {} },
            ] },
            { "role": "user", "content": [
                { "type": "tool_result", "tool_use_id": "t1", "content": "one" },
                { "type": "tool_result", "tool_use_id": "t2", "content": "two" },
                { "type": "text", "text": "Well?" },
            ] },
        ],
    });
    assert_eq!(to_anthropic(&body).unwrap(), expected);
    assert_eq!(to_anthropic(&chat(&json!({}))).unwrap()["max_tokens"], json!(99));
}

#[test]
fn what_anthropic_cannot_be_told_is_named() {
    let said = |part: Value| json!({ "messages": [{ "role": "user", "content": [part] }] });
    let called = |arguments: &str| json!({ "messages": [{ "role": "assistant", "tool_calls": [{ "id": "t", "type": "function", "function": { "name": "n", "arguments": arguments } }] }] });
    let table = [
        (json!({ "n": 2 }), "n"),
        (json!({ "seed": 1 }), "seed"),
        (json!({ "logprobs": true }), "logprobs"),
        (json!({ "presence_penalty": 0.5 }), "presence_penalty"),
        (json!({ "logit_bias": { "1": 1 } }), "logit_bias"),
        (json!({ "reasoning_effort": "high" }), "reasoning_effort"),
        (json!({ "functions": [] }), "functions"),
        (json!({ "response_format": { "type": "json_object" } }), "response_format"),
        (json!({ "temperature": 1.5 }), "temperature"),
        (json!({ "stop": [1] }), "stop"),
        (json!({ "max_tokens": 1.5 }), "max_tokens"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": [{ "role": "function", "content": "x" }] }), "messages.0.role"),
        (json!({ "messages": [{ "role": "user", "content": "x", "name": "y" }] }), "messages.0.name"),
        (json!({ "messages": [{ "role": "tool", "content": "x" }] }), "messages.0.tool_call_id"),
        (said(json!({ "type": "input_audio" })), "messages.0.content.0.type"),
        (
            said(json!({ "type": "image_url", "image_url": { "url": "http://x" } })),
            "messages.0.content.0.image_url.url",
        ),
        (
            said(json!({ "type": "image_url", "image_url": { "url": "https://x", "detail": "high" } })),
            "messages.0.content.0.image_url.detail",
        ),
        (called("{"), "messages.0.tool_calls.0.function.arguments"),
        (called("[1]"), "messages.0.tool_calls.0.function.arguments"),
        (json!({ "tools": [{ "type": "web_search" }] }), "tools.0.type"),
        (
            json!({ "tools": [{ "type": "function", "function": { "name": "t", "strict": true } }] }),
            "tools.0.function.strict",
        ),
        (json!({ "tool_choice": "some" }), "tool_choice"),
    ];
    for (more, field) in table {
        let refused = to_anthropic(&chat(&more)).expect_err(field);
        assert_eq!(refused.field(), Some(field), "{more}");
    }
    let twice =
        Bytes::from_static(br#"{"model":"m","max_tokens":1,"messages":[{"role":"user","role":"user","content":"x"}]}"#);
    let refused = translate_request(Dialect::Anthropic, Dialect::OpenAi, &twice, "m", 1).unwrap_err();
    assert_eq!(refused.field(), Some("messages.0.role"));
}

#[test]
fn answers_are_translated_both_ways() {
    let openai = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": AT, "model": "served", "choices": [{
            "index": 0, "finish_reason": "tool_calls", "logprobs": null,
            "message": { "role": "assistant", "content": "Well…", "refusal": null, "tool_calls": [
                { "id": "t1", "type": "function", "function": { "name": "a", "arguments": "{\"x\":1}" } },
                { "id": "t2", "type": "function", "function": { "name": "b", "arguments": "not JSON" } },
            ] },
        }],
        "usage": { "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "prompt_tokens_details": { "cached_tokens": 4 } },
    });
    let anthropic = json!({
        "id": "msg_chatcmpl-1", "type": "message", "role": "assistant", "model": "asked",
        "content": [
            { "type": "text", "text": "Well…" },
            { "type": "tool_use", "id": "t1", "name": "a", "input": { "x": 1 } },
            { "type": "tool_use", "id": "t2", "name": "b", "input": {} },
        ],
        "stop_reason": "tool_use", "stop_sequence": null,
        "usage": { "input_tokens": 6, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 5 },
    });
    let translated = |from, to, answer: &Value| {
        let body = translate_answer(from, to, &Bytes::from(answer.to_string()), "asked", AT)?;
        Ok::<Value, BrokenAnswer>(serde_json::from_slice(&body).unwrap())
    };
    assert_eq!(translated(Dialect::OpenAi, Dialect::Anthropic, &openai).unwrap(), anthropic);
    let mut back = openai.clone();
    back["id"] = json!("chatcmpl-msg_chatcmpl-1");
    back["model"] = json!("asked");
    back["choices"][0]["message"]["tool_calls"][1]["function"]["arguments"] = json!("{}");
    assert_eq!(translated(Dialect::Anthropic, Dialect::OpenAi, &anthropic).unwrap(), back);
    for same in [Dialect::OpenAi, Dialect::Anthropic] {
        assert_eq!(translated(same, same, &json!({ "any": "thing" })).unwrap(), json!({ "any": "thing" }));
    }
    for broken in [json!({}), json!([]), json!({ "error": {} }), json!({ "choices": [] }), json!({ "choices": [{}] })] {
        assert_eq!(translated(Dialect::OpenAi, Dialect::Anthropic, &broken), Err(BrokenAnswer), "{broken}");
        assert_eq!(translated(Dialect::Anthropic, Dialect::OpenAi, &broken), Err(BrokenAnswer), "{broken}");
    }
    let reasons = [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal")];
    for (openai_word, anthropic_word) in reasons {
        let answer = json!({ "choices": [{ "finish_reason": openai_word, "message": { "content": "x" } }] });
        assert_eq!(translated(Dialect::OpenAi, Dialect::Anthropic, &answer).unwrap()["stop_reason"], anthropic_word);
        let answer = json!({ "stop_reason": anthropic_word, "content": [] });
        let answer = translated(Dialect::Anthropic, Dialect::OpenAi, &answer).unwrap();
        assert_eq!(
            (&answer["choices"][0]["finish_reason"], &answer["choices"][0]["message"]["content"]),
            (&json!(openai_word), &Value::Null)
        );
    }
}

fn streamed<'a>(provider: Dialect, client: Dialect, chunks: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut translator = StreamTranslator::new(provider, client, "asked", AT, true);
    let mut out = Vec::new();
    for chunk in chunks {
        translator.push(chunk, &mut out);
    }
    translator.finish(&mut out);
    String::from_utf8(out).unwrap()
}

const OTHER: [(Dialect, &str, &str); 6] = [
    (Dialect::OpenAi, OPENAI_TEXT, include_str!("../recordings/openai_text.anthropic.sse")),
    (Dialect::OpenAi, OPENAI_TOOLS, include_str!("../recordings/openai_tools.anthropic.sse")),
    (Dialect::OpenAi, OPENROUTER, include_str!("../recordings/openrouter.anthropic.sse")),
    (Dialect::OpenAi, OPENROUTER_ERROR, include_str!("../recordings/openrouter_error.anthropic.sse")),
    (Dialect::Anthropic, ANTHROPIC_TOOLS, include_str!("../recordings/anthropic_tools.openai.sse")),
    (Dialect::Anthropic, ANTHROPIC_ERROR, include_str!("../recordings/anthropic_error.openai.sse")),
];

fn other(dialect: Dialect) -> Dialect {
    match dialect {
        Dialect::OpenAi => Dialect::Anthropic,
        Dialect::Anthropic => Dialect::OpenAi,
    }
}

fn met(dialect: Dialect, stream: &str) -> StreamMeter {
    let mut meter = StreamMeter::new(dialect);
    meter.observe(stream.as_bytes());
    meter.end();
    meter
}

#[test]
fn recorded_streams_are_written_as_the_other_dialect_has_them() {
    for (dialect, stream, expected) in OTHER {
        let translated = streamed(dialect, other(dialect), [stream.as_bytes()]);
        assert_eq!(translated, expected);
        let (before, after) = (met(dialect, stream), met(other(dialect), &translated));
        if !before.failed() {
            let free = |usage: Option<TokenUsage>| usage.map(|usage| TokenUsage { cost: None, ..usage });
            assert_eq!((free(before.usage()), before.finished()), (free(after.usage()), after.finished()));
        }
        assert_eq!(before.failed(), after.failed());
        assert_eq!(streamed(dialect, dialect, [stream.as_bytes()]), stream);
    }
}

#[test]
fn a_stream_cut_at_every_byte_is_translated_to_the_same_bytes() {
    for (dialect, stream, expected) in OTHER {
        every_cut(stream, |chunks| {
            assert_eq!(streamed(dialect, other(dialect), chunks.iter().copied()), expected);
        });
    }
}

#[test]
fn a_stream_there_and_back_says_the_same() {
    let there = streamed(Dialect::Anthropic, Dialect::OpenAi, [ANTHROPIC_TOOLS.as_bytes()]);
    let back = streamed(Dialect::OpenAi, Dialect::Anthropic, [there.as_bytes()]);
    let deltas = |stream: &str| -> Vec<Value> {
        let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
        let events = data.map(|data| serde_json::from_str::<Value>(data).unwrap());
        let kept = |event: &Value| {
            event["type"].as_str().unwrap().starts_with("content_block") && event["delta"]["partial_json"] != ""
        };
        events.filter(kept).collect()
    };
    assert_eq!(deltas(&back), deltas(ANTHROPIC_TOOLS));
}

#[test]
fn calls_of_one_place_and_calls_that_come_back() {
    let call = |place: u64, id: Value, arguments: &str| {
        let call = json!({ "index": place, "id": id, "function": { "name": "f", "arguments": arguments } });
        format!("data: {}\n\n", json!({ "choices": [{ "delta": { "tool_calls": [call] } }] }))
    };
    let translated = |calls: &[String]| {
        streamed(Dialect::OpenAi, Dialect::Anthropic, [calls.concat().as_bytes(), b"data: [DONE]\n\n"])
    };
    // Everything at one place, told apart by ids alone.
    let one = translated(&[call(0, json!("a"), "{}"), call(0, json!("b"), "{"), call(0, Value::Null, "}")]);
    let starts: Vec<_> = one.lines().filter(|line| line.contains("\"tool_use\",\"id\"")).collect();
    assert!(starts.len() == 2 && one.contains("\"stop_reason\":\"tool_use\""), "{one}");
    // A call that has ended cannot go on.
    for broken in [
        vec![call(0, json!("a"), "{"), call(1, json!("b"), "{}"), call(0, Value::Null, "}")],
        vec![call(0, Value::Null, "}")],
    ] {
        let one = translated(&broken);
        assert!(one.ends_with("\"message\":\"the model failed while it answered\"}}\n\n"), "{one}");
        assert!(!one.contains("message_stop"), "{one}");
    }
}

#[test]
fn a_stream_that_breaks_off_ends_with_an_error() {
    for (dialect, stream, expected) in OTHER {
        let events: Vec<&str> = stream.split_inclusive("\n\n").collect();
        for length in 0..events.len() {
            let translated = streamed(dialect, other(dialect), [events[..length].concat().as_bytes()]);
            let after = met(other(dialect), &translated);
            assert!(after.failed() || after.finished(), "{translated}");
            let reason = events[..length].concat();
            let said_why = reason.contains("finish_reason\":\"") || reason.contains("stop_reason\":\"");
            assert_eq!(after.failed(), !said_why || expected.contains("error"), "{translated}");
        }
    }
    let mut translator = StreamTranslator::new(Dialect::OpenAi, Dialect::Anthropic, "asked", AT, false);
    let mut out = Vec::new();
    for _ in 0..20 {
        translator.push(&vec![b'x'; 100_000], &mut out);
    }
    assert_eq!(out, stream_error(Dialect::Anthropic, "api_error", "the answer broke off"));
    assert!(translator.has_ended());
}

#[test]
fn an_answer_can_be_ended_at_its_bound() {
    let usage = TokenUsage { input: 7, cached_input: 0, output: 3, cost: None };
    for (dialect, stream, _) in OTHER {
        let client = other(dialect);
        for length in 0..4 {
            let begun = stream.split_inclusive("\n\n").take(length).collect::<String>();
            let mut translator = StreamTranslator::new(dialect, client, "asked", AT, true);
            let mut out = Vec::new();
            translator.push(begun.as_bytes(), &mut out);
            if translator.has_ended() {
                continue;
            }
            translator.end_at_bound(usage, &mut out);
            translator.push(stream.as_bytes(), &mut out);
            translator.finish(&mut out);
            let text = String::from_utf8(out).unwrap();
            let after = met(client, &text);
            assert_eq!(
                (after.usage(), after.finished(), after.failed(), after.open_block()),
                (Some(usage), true, false, None),
                "{text}"
            );
            assert!(text.contains("\"length\"") || text.contains("\"max_tokens\""), "{text}");

            // And where nothing is translated, behind what the client has.
            let mut meter = StreamMeter::new(dialect);
            meter.observe(begun.as_bytes());
            if !meter.finished() && length > 0 {
                let end = stream_end_at_bound(dialect, meter.answer_id(), "asked", AT, meter.open_block(), usage, true);
                meter.observe(&end);
                assert_eq!((meter.usage(), meter.finished(), meter.open_block()), (Some(usage), true, None));
            }
        }
    }
}

#[test]
fn errors_are_events_of_their_dialect() {
    let openai = stream_error(Dialect::OpenAi, "server_error", "a \"b\"\n\u{1}é");
    let data = std::str::from_utf8(&openai).unwrap().strip_prefix("data: ").unwrap();
    let expected =
        json!({ "error": { "message": "a \"b\"\n\u{1}é", "type": "server_error", "param": null, "code": null } });
    assert_eq!(serde_json::from_str::<Value>(data).unwrap(), expected);
    let anthropic = stream_error(Dialect::Anthropic, "overloaded_error", "x");
    assert_eq!(
        anthropic,
        b"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"x\"}}\n\n"
    );
    assert!(met(Dialect::OpenAi, std::str::from_utf8(&openai).unwrap()).failed());
}

#[test]
fn an_answer_that_begins_twice_is_broken() {
    let start = "data: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\"}}\n\n";
    let translated = streamed(Dialect::Anthropic, Dialect::OpenAi, [start.repeat(2).as_bytes()]);
    let events: Vec<&str> = translated.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(events.len(), 2, "{translated}");
    assert!(events[0].contains("assistant") && events[1].contains("\"error\""), "{translated}");
}

#[test]
fn the_same_dialect_is_prepared_and_not_translated() {
    let body = Bytes::from_static(br#"{"model":"a","messages":[{}],"stream":true,"top_k":5}"#);
    let same = translate_request(Dialect::OpenAi, Dialect::OpenAi, &body, "b", 7).unwrap();
    assert_eq!(
        same,
        r#"{"stream_options":{"include_usage":true},"max_tokens":7,"model":"b","messages":[{}],"stream":true,"top_k":5}"#
    );
    let body = Bytes::from_static(br#"{"model":"a","messages":[{}],"stream":true,"max_tokens":5}"#);
    assert_eq!(translate_request(Dialect::Anthropic, Dialect::Anthropic, &body, "a", 7).unwrap(), body);
}

/// JSON of the words that conversations are made of.
fn conversation() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("1".to_owned()),
        Just("[]".to_owned()),
        "\"(user|assistant|tool|system|text|image|image_url|tool_use|tool_result|function|auto|data:;base64,|\\PC{0,3})\"",
    ];
    let name = "(role|content|type|text|source|image_url|url|tools|tool_choice|function|name|arguments|input|id|tool_calls|tool_use_id|tool_call_id|stop|system|is_error)";
    leaf.prop_recursive(5, 40, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            proptest::collection::btree_map(name, inner, 0..5).prop_map(|fields| {
                let fields: Vec<_> = fields.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_is_said_is_translated_or_refused(messages in conversation(), tools in conversation(), noise in "\\PC{0,40}") {
        let whole = format!("{{\"model\":\"m\",\"max_tokens\":1,\"messages\":[{messages}],\"tools\":{tools}}}");
        for body in [whole, messages, noise] {
            let body = Bytes::from(body);
            for (from, to) in [(Dialect::OpenAi, Dialect::Anthropic), (Dialect::Anthropic, Dialect::OpenAi)] {
                if let Ok(translated) = translate_request(from, to, &body, "other", 1) {
                    prop_assert_eq!(&serde_json::from_slice::<Value>(&translated).unwrap()["model"], "other");
                }
                if let Ok(translated) = translate_answer(from, to, &body, "other", AT) {
                    prop_assert!(usage_of_answer(to, Capability::ChatCompletions, &translated).is_some());
                    let _ = counted_tokens_of_answer(to, &translated);
                }
            }
        }
    }

    #[test]
    fn whatever_streams_by_is_translated_to_whole_events(
        events in proptest::collection::vec((0_usize..60, prop_oneof![Just(None), "\\PC{0,10}".prop_map(Some), conversation().prop_map(Some)]), 0..12),
        size in 1_usize..60,
    ) {
        let recorded: Vec<&str> = OTHER.iter().flat_map(|(_, stream, _)| stream.split_inclusive("\n\n")).collect();
        let stream: String = events.iter().map(|(at, noise)| match noise {
            None => recorded[at % recorded.len()].to_owned(),
            Some(noise) => format!("data: {noise}\n\n"),
        }).collect();
        for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
            let translated = streamed(dialect, other(dialect), [stream.as_bytes()]);
            prop_assert_eq!(&streamed(dialect, other(dialect), stream.as_bytes().chunks(size)), &translated);
            for line in translated.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]") {
                prop_assert!(serde_json::from_str::<Value>(line).is_ok(), "{}", line);
            }
            let after = met(other(dialect), &translated);
            prop_assert!(after.finished() || after.failed());
        }
    }
}
