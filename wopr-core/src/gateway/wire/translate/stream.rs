//! Answers as they are made, event by event.

use super::super::json::count;
use super::super::shapes::{Block, Chunk, MessageEvent, MessagesTokens, Said, chat_usage};
use super::super::sse::{SseEvent, SseParser};
use super::super::tokens::TokenCounter;
use super::answer::{anthropic_usage, openai_usage};
use super::{anthropic_reason, openai_reason, prefixed};
use crate::gateway::model::{Dialect, TokenUsage};

const FAILED: &str = "the model failed while it answered";
const BROKE_OFF: &str = "the answer broke off";

/// Writes the stream of a provider as its client reads it. Where the two speak alike, everything passes as it came.
///
/// OpenAI's thoughts have no counterpart that Anthropic's clients could send back, and the other way round: they are left
/// out. What goes wrong at the provider is told without its words.
#[derive(Debug)]
pub struct StreamTranslator {
    parser: SseParser,
    writer: Writer,
    ended: bool,
}

#[derive(Debug)]
enum Writer {
    Same(Dialect),
    Anthropic(ToAnthropic),
    OpenAi(ToOpenAi),
}

impl StreamTranslator {
    /// For one answer of the model that the client calls `model_asked`. OpenAI's clients are told when it was `created`, in
    /// seconds of Unix time, and its usage if they asked for it.
    pub fn new(provider: Dialect, client: Dialect, model_asked: &str, created: i64, wants_usage: bool) -> Self {
        let writer = match (provider, client) {
            (Dialect::OpenAi, Dialect::Anthropic) => Writer::Anthropic(ToAnthropic::new(model_asked)),
            (Dialect::Anthropic, Dialect::OpenAi) => Writer::OpenAi(ToOpenAi::new(model_asked, created, wants_usage)),
            (Dialect::OpenAi, Dialect::OpenAi) | (Dialect::Anthropic, Dialect::Anthropic) => Writer::Same(client),
        };
        Self { parser: SseParser::default(), writer, ended: false }
    }

    /// Reads a part of the provider's stream, and appends to `out` what the client is sent for it.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        if let Writer::Same(_) = self.writer {
            out.extend_from_slice(chunk);
            return;
        }
        let (writer, ended) = (&mut self.writer, &mut self.ended);
        if self.parser.push(chunk, |event| writer.event(&event, ended, out)).is_err() {
            self.parser.forget();
            self.fail(BROKE_OFF, out);
        }
    }

    /// Ends the stream. An answer that did not come to its end becomes an error the client can see.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let (writer, ended) = (&mut self.writer, &mut self.ended);
        self.parser.finish(|event| writer.event(&event, ended, out));
        if !self.ended {
            let complete = match &mut self.writer {
                Writer::Same(_) => return,
                Writer::Anthropic(writer) => writer.reason.is_some().then(|| writer.end(out)),
                Writer::OpenAi(writer) => writer.reason.is_some().then(|| writer.end(out)),
            };
            if complete.is_some() {
                self.ended = true;
            } else {
                self.fail(BROKE_OFF, out);
            }
        }
    }

    /// Ends the answer here, as if it had reached the bound of its length, and says that this was used. What comes later is
    /// left out. Where nothing is translated, [`stream_end_at_bound`] does it.
    pub fn end_at_bound(&mut self, usage: TokenUsage, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.ended, true) {
            match &mut self.writer {
                Writer::Same(_) => {}
                Writer::Anthropic(writer) => writer.end_at_bound(usage, out),
                Writer::OpenAi(writer) => writer.end_at_bound(usage, out),
            }
        }
    }

    /// Whether the client was told that the answer is at its end, or failed.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    fn fail(&mut self, message: &str, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.ended, true) {
            self.writer.fail(message, out);
        }
    }
}

impl Writer {
    fn event(&mut self, event: &SseEvent<'_>, ended: &mut bool, out: &mut Vec<u8>) {
        if *ended {
            return;
        }
        let done = match self {
            Self::Same(_) => Ok(false),
            Self::Anthropic(writer) => writer.event(event, out),
            Self::OpenAi(writer) => writer.event(event, out),
        };
        *ended = done.unwrap_or(true);
        if done.is_err() {
            self.fail(FAILED, out);
        }
    }

    fn fail(&self, message: &str, out: &mut Vec<u8>) {
        match self {
            Self::Same(dialect) => error_event(*dialect, "api_error", message, out),
            Self::Anthropic(_) => error_event(Dialect::Anthropic, "api_error", message, out),
            Self::OpenAi(_) => error_event(Dialect::OpenAi, "server_error", message, out),
        }
    }
}

/// The provider failed, or says what makes no sense.
#[derive(Clone, Copy)]
struct Failed;

/// An event that tells the reader of a stream that it ends here because something went wrong. `kind` is a type of error of
/// that dialect.
pub fn stream_error(dialect: Dialect, kind: &str, message: &str) -> Vec<u8> {
    let mut out = Vec::new();
    error_event(dialect, kind, message, &mut out);
    out
}

/// The end of an answer that reached the bound of its length, for a stream that passes untranslated: `id` is the answer's,
/// `open_block` the block of it that is still open.
pub fn stream_end_at_bound(
    dialect: Dialect,
    id: &str,
    model_asked: &str,
    created: i64,
    open_block: Option<u64>,
    usage: TokenUsage,
    wants_usage: bool,
) -> Vec<u8> {
    let mut out = Vec::new();
    match dialect {
        Dialect::OpenAi => {
            let mut writer = ToOpenAi::new(model_asked, created, wants_usage);
            writer.begin(id);
            writer.end_at_bound(usage, &mut out);
        }
        Dialect::Anthropic => {
            let mut writer = ToAnthropic::new(model_asked);
            writer.started = true;
            if let Some(index) = open_block {
                writer.open = Some(Open::Text);
                writer.index = index;
            }
            writer.end_at_bound(usage, &mut out);
        }
    }
    out
}

fn error_event(dialect: Dialect, kind: &str, message: &str, out: &mut Vec<u8>) {
    match dialect {
        Dialect::OpenAi => {
            out.extend_from_slice(b"data: {\"error\":{\"message\":");
            string(message, out);
            out.extend_from_slice(b",\"type\":");
            string(kind, out);
            out.extend_from_slice(b",\"param\":null,\"code\":null}}\n\n");
        }
        Dialect::Anthropic => {
            out.extend_from_slice(b"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":");
            string(kind, out);
            out.extend_from_slice(b",\"message\":");
            string(message, out);
            out.extend_from_slice(b"}}\n\n");
        }
    }
}

/// A text as JSON. What needs no escape is copied at once.
fn string(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
        out.extend_from_slice(&rest[..at]);
        let byte = rest[at];
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(number.to_string().as_bytes());
}

/// Writes Anthropic's events from OpenAI's chunks.
#[derive(Debug)]
struct ToAnthropic {
    model: String,
    started: bool,
    /// The block that is being written.
    open: Option<Open>,
    /// Of the block that is open, else of the next.
    index: u64,
    /// The highest place of a call of a tool.
    last_call: Option<u64>,
    reason: Option<String>,
    usage: Option<TokenUsage>,
    counter: TokenCounter,
}

#[derive(Debug, PartialEq, Eq)]
enum Open {
    Text,
    Call { place: u64, id: String },
}

impl ToAnthropic {
    fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            started: false,
            open: None,
            index: 0,
            last_call: None,
            reason: None,
            usage: None,
            counter: TokenCounter::default(),
        }
    }

    /// Whether the answer is at its end.
    fn event(&mut self, event: &SseEvent<'_>, out: &mut Vec<u8>) -> Result<bool, Failed> {
        let Some(data) = event.data else {
            // A comment keeps the connection alive, and so does a ping.
            if self.started && event.raw != b"\n" {
                out.extend_from_slice(b"event: ping\ndata: {\"type\":\"ping\"}\n\n");
            }
            return Ok(false);
        };
        if data == b"[DONE]" {
            if !self.started {
                return Err(Failed);
            }
            self.end(out);
            return Ok(true);
        }
        let chunk: Chunk<'_> = serde_json::from_slice(data).map_err(|_| Failed)?;
        if chunk.error.is_some() || event.name == b"error" {
            return Err(Failed);
        }
        if !self.started {
            self.start(&chunk.id, out);
        }
        for choice in chunk.choices.iter().flatten().filter(|choice| count(choice.index).unwrap_or(0) == 0) {
            if let Some(said) = &choice.delta {
                self.said(said, out)?;
            }
            if let Some(reason) = choice.finish_reason.as_ref().filter(|reason| !reason.is_empty()) {
                if &**reason == "error" {
                    return Err(Failed);
                }
                self.reason = Some(reason.to_string());
            }
        }
        self.usage = chunk.usage.and_then(chat_usage).or(self.usage);
        Ok(false)
    }

    fn start(&mut self, id: &str, out: &mut Vec<u8>) {
        self.started = true;
        out.extend_from_slice(b"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":");
        string(&prefixed("msg_", id), out);
        out.extend_from_slice(b",\"type\":\"message\",\"role\":\"assistant\",\"model\":");
        string(&self.model, out);
        out.extend_from_slice(
            b",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\
              \"usage\":{\"input_tokens\":0,\"output_tokens\":0}}}\n\n",
        );
    }

    fn said(&mut self, said: &Said<'_>, out: &mut Vec<u8>) -> Result<(), Failed> {
        for text in [&said.content, &said.refusal] {
            if !text.is_empty() {
                self.text(text, out);
            }
        }
        for call in said.tool_calls.iter().flatten() {
            let place = count(call.index).unwrap_or(0);
            let function = call.function.as_ref();
            // Some give every call the same place, and only another id.
            let goes_on = matches!(&self.open, Some(Open::Call { place: open, id })
                if *open == place && (call.id.is_empty() || *call.id == **id));
            if !goes_on {
                if call.id.is_empty() || self.last_call.is_some_and(|last| place < last) {
                    // Of a call that has ended, or never began.
                    return Err(Failed);
                }
                self.close(out);
                self.begin_block(out);
                out.extend_from_slice(b"{\"type\":\"tool_use\",\"id\":");
                string(&call.id, out);
                out.extend_from_slice(b",\"name\":");
                let name = function.map_or("", |function| &*function.name);
                string(name, out);
                out.extend_from_slice(b",\"input\":{}}}\n\n");
                self.counter.interrupt();
                self.counter.push(name);
                self.open = Some(Open::Call { place, id: call.id.to_string() });
                self.last_call = Some(place);
            }
            if let Some(function) = function.filter(|function| !function.arguments.is_empty()) {
                self.delta(b"{\"type\":\"input_json_delta\",\"partial_json\":", &function.arguments, out);
            }
        }
        Ok(())
    }

    fn text(&mut self, text: &str, out: &mut Vec<u8>) {
        if self.open != Some(Open::Text) {
            self.close(out);
            self.begin_block(out);
            out.extend_from_slice(b"{\"type\":\"text\",\"text\":\"\"}}\n\n");
            self.counter.interrupt();
            self.open = Some(Open::Text);
        }
        self.delta(b"{\"type\":\"text_delta\",\"text\":", text, out);
    }

    fn begin_block(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":");
        number(self.index, out);
        out.extend_from_slice(b",\"content_block\":");
    }

    fn delta(&mut self, head: &[u8], text: &str, out: &mut Vec<u8>) {
        self.counter.push(text);
        out.extend_from_slice(b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":");
        number(self.index, out);
        out.extend_from_slice(b",\"delta\":");
        out.extend_from_slice(head);
        string(text, out);
        out.extend_from_slice(b"}}\n\n");
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if self.open.take().is_some() {
            out.extend_from_slice(b"event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":");
            number(self.index, out);
            out.extend_from_slice(b"}\n\n");
            self.index += 1;
        }
    }

    fn end_at_bound(&mut self, usage: TokenUsage, out: &mut Vec<u8>) {
        if !self.started {
            self.start("", out);
        }
        self.reason = Some("length".to_owned());
        self.usage = Some(usage);
        self.end(out);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.close(out);
        let reason = anthropic_reason(self.reason.as_deref().unwrap_or_default(), self.last_call.is_some());
        // Of an answer whose usage is not said, only what was written can be counted.
        let counted = TokenUsage { output: self.counter.tokens(), ..TokenUsage::default() };
        let usage = anthropic_usage(self.usage.unwrap_or(counted));
        out.extend_from_slice(b"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":");
        string(reason, out);
        out.extend_from_slice(b",\"stop_sequence\":null},\"usage\":");
        out.extend_from_slice(usage.to_string().as_bytes());
        out.extend_from_slice(b"}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
    }
}

/// Writes OpenAI's chunks from Anthropic's events.
#[derive(Debug)]
struct ToOpenAi {
    model: String,
    created: i64,
    wants_usage: bool,
    /// What every chunk begins with, up to its choices.
    head: Vec<u8>,
    calls: u64,
    reason: Option<&'static str>,
    tokens: MessagesTokens,
    counter: TokenCounter,
}

impl ToOpenAi {
    fn new(model: &str, created: i64, wants_usage: bool) -> Self {
        Self {
            model: model.to_owned(),
            created,
            wants_usage,
            head: Vec::new(),
            calls: 0,
            reason: None,
            tokens: MessagesTokens::default(),
            counter: TokenCounter::default(),
        }
    }

    /// Whether the answer is at its end.
    fn event(&mut self, event: &SseEvent<'_>, out: &mut Vec<u8>) -> Result<bool, Failed> {
        let Some(data) = event.data else { return Ok(false) };
        let event: MessageEvent<'_> = serde_json::from_slice(data).map_err(|_| Failed)?;
        match &*event.kind {
            // An answer begins once.
            "message_start" if !self.head.is_empty() => return Err(Failed),
            "message_start" => {
                let message = event.message.ok_or(Failed)?;
                self.begin(&message.id);
                if let Some(usage) = message.usage {
                    self.tokens.read(usage);
                }
                self.chunk(b"{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null}", None, out);
            }
            "ping" => out.extend_from_slice(b": ping\n\n"),
            "error" => return Err(Failed),
            "message_stop" if !self.head.is_empty() => {
                self.end(out);
                return Ok(true);
            }
            _ if self.head.is_empty() => return Err(Failed),
            "content_block_start" => self.block(&event.content_block.ok_or(Failed)?, out),
            "content_block_delta" => {
                let delta = event.delta.ok_or(Failed)?;
                if !delta.text.is_empty() {
                    self.text(&delta.text, out);
                }
                if !delta.partial_json.is_empty() {
                    self.arguments(&delta.partial_json, out)?;
                }
            }
            "message_delta" => {
                if let Some(usage) = event.usage {
                    self.tokens.read(usage);
                    self.tokens.complete = true;
                }
                if let Some(delta) = event.delta.filter(|delta| !delta.stop_reason.is_empty()) {
                    let reason = openai_reason(&delta.stop_reason);
                    self.reason = Some(reason);
                    self.chunk(b"{}", Some(reason), out);
                }
            }
            _ => {}
        }
        Ok(false)
    }

    fn begin(&mut self, id: &str) {
        let head = &mut self.head;
        head.extend_from_slice(b"data: {\"id\":");
        string(&prefixed("chatcmpl-", id), head);
        head.extend_from_slice(b",\"object\":\"chat.completion.chunk\",\"created\":");
        head.extend_from_slice(self.created.to_string().as_bytes());
        head.extend_from_slice(b",\"model\":");
        string(&self.model, head);
        head.extend_from_slice(b",\"choices\":[");
    }

    fn chunk(&self, delta: &[u8], reason: Option<&str>, out: &mut Vec<u8>) {
        self.chunk_head(out);
        out.extend_from_slice(delta);
        Self::chunk_tail(reason, out);
    }

    fn chunk_head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"{\"index\":0,\"delta\":");
    }

    fn chunk_tail(reason: Option<&str>, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"logprobs\":null,\"finish_reason\":");
        match reason {
            Some(reason) => string(reason, out),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b"}]}\n\n");
    }

    fn text(&mut self, text: &str, out: &mut Vec<u8>) {
        self.counter.push(text);
        self.chunk_head(out);
        out.extend_from_slice(b"{\"content\":");
        string(text, out);
        out.push(b'}');
        Self::chunk_tail(None, out);
    }

    fn block(&mut self, block: &Block<'_>, out: &mut Vec<u8>) {
        self.counter.interrupt();
        match &*block.kind {
            "text" if !block.text.is_empty() => self.text(&block.text, out),
            "tool_use" => {
                self.counter.push(&block.name);
                self.chunk_head(out);
                out.extend_from_slice(b"{\"tool_calls\":[{\"index\":");
                number(self.calls, out);
                out.extend_from_slice(b",\"id\":");
                string(&block.id, out);
                out.extend_from_slice(b",\"type\":\"function\",\"function\":{\"name\":");
                string(&block.name, out);
                out.extend_from_slice(b",\"arguments\":\"\"}}]}");
                Self::chunk_tail(None, out);
                self.calls += 1;
            }
            _ => {}
        }
    }

    fn arguments(&mut self, part: &str, out: &mut Vec<u8>) -> Result<(), Failed> {
        let place = self.calls.checked_sub(1).ok_or(Failed)?;
        self.counter.push(part);
        self.chunk_head(out);
        out.extend_from_slice(b"{\"tool_calls\":[{\"index\":");
        number(place, out);
        out.extend_from_slice(b",\"function\":{\"arguments\":");
        string(part, out);
        out.extend_from_slice(b"}}]}");
        Self::chunk_tail(None, out);
        Ok(())
    }

    fn end_at_bound(&mut self, usage: TokenUsage, out: &mut Vec<u8>) {
        if self.head.is_empty() {
            self.begin("");
        }
        self.chunk(b"{}", Some("length"), out);
        self.done(usage, out);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        let usage = self.tokens.usage(self.counter.tokens()).unwrap_or_default();
        self.done(usage, out);
    }

    fn done(&self, usage: TokenUsage, out: &mut Vec<u8>) {
        if self.wants_usage {
            out.extend_from_slice(&self.head);
            out.extend_from_slice(b"],\"usage\":");
            out.extend_from_slice(openai_usage(usage).to_string().as_bytes());
            out.extend_from_slice(b"}\n\n");
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }
}
