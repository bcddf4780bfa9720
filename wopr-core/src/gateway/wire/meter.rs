//! What an answer used, read from a copy of what passes.

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::count;
use super::shapes::{Chunk, Message, MessageEvent, MessagesTokens, chat_usage};
use super::sse::{SseEvent, SseParser};
use super::tokens::TokenCounter;
use crate::gateway::model::{Capability, Dialect, TokenUsage};

/// Reads the events of one streamed answer.
#[derive(Debug)]
pub struct StreamMeter {
    parser: SseParser,
    blind: bool,
    reading: Reading,
}

impl StreamMeter {
    /// For an answer written so.
    pub fn new(dialect: Dialect) -> Self {
        Self { parser: SseParser::default(), blind: false, reading: Reading::new(dialect) }
    }

    /// Reads a part of the answer.
    pub fn observe(&mut self, chunk: &[u8]) {
        let reading = &mut self.reading;
        // What is not read cannot be counted; the caller learns it from `is_blind`.
        if self.parser.push(chunk, |event| reading.event(&event)).is_err() {
            self.blind = true;
            self.parser.forget();
        }
    }

    /// Ends the answer: an event that lacks its end is read as well.
    pub fn end(&mut self) {
        let reading = &mut self.reading;
        self.parser.finish(|event| reading.event(&event));
    }

    /// What the provider said was used, the last time it said so.
    ///
    /// Anthropic says at the beginning what was read and at the end what was written; of an answer that broke off between
    /// the two, what was written is [`StreamMeter::counted_tokens`].
    pub fn usage(&self) -> Option<TokenUsage> {
        self.reading.usage()
    }

    /// Bytes of text that were written: words, thoughts, and the names and arguments of tools.
    pub fn produced_bytes(&self) -> u64 {
        self.reading.produced_bytes
    }

    /// The tokens of the text that was written, as [`TokenCounter`] counts them: for answers whose usage is not said.
    pub fn counted_tokens(&self) -> u64 {
        self.reading.counter.tokens()
    }

    /// Whether the answer came to its end: it said why it ends, or that it did.
    pub fn finished(&self) -> bool {
        self.reading.finished
    }

    /// Whether the provider said inside the stream that it failed.
    pub fn failed(&self) -> bool {
        self.reading.failed
    }

    /// Whether an event was too long to be read, and everything after its beginning passed unread.
    pub fn is_blind(&self) -> bool {
        self.blind
    }

    /// The block of an Anthropic answer that was begun and did not end.
    pub fn open_block(&self) -> Option<u64> {
        self.reading.open_block
    }

    /// The provider's name of the answer, empty before its first event.
    pub fn answer_id(&self) -> &str {
        &self.reading.id
    }
}

#[derive(Debug)]
struct Reading {
    dialect: Dialect,
    id: String,
    tokens: Option<TokenUsage>,
    messages: MessagesTokens,
    counter: TokenCounter,
    produced_bytes: u64,
    speaker: u64,
    finished: bool,
    failed: bool,
    open_block: Option<u64>,
}

impl Reading {
    fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            id: String::new(),
            tokens: None,
            messages: MessagesTokens::default(),
            counter: TokenCounter::default(),
            produced_bytes: 0,
            speaker: 0,
            finished: false,
            failed: false,
            open_block: None,
        }
    }

    fn usage(&self) -> Option<TokenUsage> {
        match self.dialect {
            Dialect::OpenAi => self.tokens,
            Dialect::Anthropic => self.messages.usage(self.counter.tokens()),
        }
    }

    fn event(&mut self, event: &SseEvent<'_>) {
        let Some(data) = event.data else { return };
        match self.dialect {
            Dialect::OpenAi if data == b"[DONE]" => self.finished = true,
            Dialect::OpenAi => {
                self.failed |= event.name == b"error";
                self.chunk(data);
            }
            Dialect::Anthropic => self.message_event(data),
        }
    }

    fn chunk(&mut self, data: &[u8]) {
        let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(data) else {
            // In no shape we know: what it says of usage counts all the same.
            if let Some(usage) = usage_field(data) {
                self.chat_usage(usage);
            }
            return;
        };
        if self.id.is_empty() {
            self.id = chunk.id.to_string();
        }
        self.failed |= chunk.error.is_some();
        for choice in chunk.choices.unwrap_or_default() {
            let speaker = count(choice.index).unwrap_or(0);
            if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
                self.finished = true;
                self.failed |= &reason == "error";
            }
            self.written(speaker, &choice.text);
            if let Some(said) = choice.delta {
                said.each(|text| self.written(speaker, text));
            }
        }
        if let Some(usage) = chunk.usage {
            self.chat_usage(usage);
        }
    }

    fn chat_usage(&mut self, usage: &RawValue) {
        if let Some(tokens) = chat_usage(usage) {
            let cost = tokens.cost.or(self.tokens.and_then(|before| before.cost));
            self.tokens = Some(TokenUsage { cost, ..tokens });
        }
    }

    fn message_event(&mut self, data: &[u8]) {
        let Ok(event) = serde_json::from_slice::<MessageEvent<'_>>(data) else { return };
        match &*event.kind {
            "message_start" => {
                let message = event.message.unwrap_or_default();
                self.id = message.id.to_string();
                if let Some(usage) = message.usage {
                    self.messages.read(usage);
                }
            }
            "content_block_start" => {
                let index = count(event.index).unwrap_or(0);
                self.open_block = Some(index);
                if let Some(block) = event.content_block {
                    self.written(index, &block.name);
                    self.written(index, &block.text);
                }
            }
            "content_block_delta" => {
                let index = count(event.index).unwrap_or(0);
                if let Some(delta) = event.delta {
                    for text in [&delta.text, &delta.partial_json, &delta.thinking] {
                        self.written(index, text);
                    }
                }
            }
            "content_block_stop" => self.open_block = None,
            "message_delta" => {
                if let Some(usage) = event.usage {
                    self.messages.read(usage);
                    self.messages.complete = true;
                }
                self.finished |= event.delta.is_some_and(|delta| !delta.stop_reason.is_empty());
            }
            "message_stop" => self.finished = true,
            "error" => self.failed = true,
            _ => {}
        }
    }

    fn written(&mut self, speaker: u64, text: &str) {
        if text.is_empty() {
            return;
        }
        if std::mem::replace(&mut self.speaker, speaker) != speaker {
            self.counter.interrupt();
        }
        self.produced_bytes += text.len() as u64;
        self.counter.push(text);
    }
}

/// What an answer that was not streamed used, if it says so.
pub fn usage_of_answer(dialect: Dialect, capability: Capability, body: &[u8]) -> Option<TokenUsage> {
    match capability {
        Capability::ChatCompletions | Capability::TextCompletions | Capability::Embeddings => {}
        Capability::Transcription | Capability::Tts | Capability::ImageGeneration => return None,
    }
    let usage = usage_field(body)?;
    match dialect {
        Dialect::OpenAi => chat_usage(usage),
        Dialect::Anthropic => {
            let mut tokens = MessagesTokens::default();
            tokens.read(usage);
            tokens.complete = true;
            tokens.usage(0)
        }
    }
}

/// The tokens of the text in an answer that was not streamed, as [`TokenCounter`] counts them: for answers that do not say
/// what was used. An answer that cannot be read has none.
pub fn counted_tokens_of_answer(dialect: Dialect, body: &[u8]) -> u64 {
    let mut reading = Reading::new(dialect);
    match dialect {
        Dialect::OpenAi => {
            let answer = serde_json::from_slice::<Chunk<'_>>(body).ok();
            for (speaker, choice) in (0..).zip(answer.and_then(|answer| answer.choices).unwrap_or_default()) {
                reading.written(speaker, &choice.text);
                if let Some(said) = choice.message {
                    said.each(|text| reading.written(speaker, text));
                }
            }
        }
        Dialect::Anthropic => {
            let answer = serde_json::from_slice::<Message<'_>>(body).ok();
            for (speaker, block) in (0..).zip(answer.and_then(|answer| answer.content).unwrap_or_default()) {
                for text in [&*block.name, &*block.text, &*block.thinking, block.input.map_or("", RawValue::get)] {
                    reading.written(speaker, text);
                }
            }
        }
    }
    reading.counter.tokens()
}

/// The field `usage` of an object, unless it is missing or `null`.
fn usage_field(body: &[u8]) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        usage: Option<&'a RawValue>,
    }
    memmem::find(body, b"\"usage\"")?;
    serde_json::from_slice::<Answer<'_>>(body).ok()?.usage
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::recordings::{
        ANTHROPIC_ERROR, ANTHROPIC_TOOLS, OPENAI_TEXT, OPENAI_TOOLS, OPENROUTER, OPENROUTER_ERROR, every_cut,
    };
    use super::*;
    use crate::money::Money;

    fn tokens(input: u64, cached_input: u64, output: u64) -> TokenUsage {
        TokenUsage { input, cached_input, output, cost: None }
    }

    /// Usage, bytes and tokens of text, whether it finished, whether it failed.
    type Met = (Option<TokenUsage>, u64, u64, bool, bool);

    fn met<'a>(dialect: Dialect, chunks: impl IntoIterator<Item = &'a [u8]>) -> Met {
        let mut meter = StreamMeter::new(dialect);
        for chunk in chunks {
            meter.observe(chunk);
        }
        meter.end();
        assert!(!meter.is_blind());
        (meter.usage(), meter.produced_bytes(), meter.counted_tokens(), meter.finished(), meter.failed())
    }

    fn expected() -> Vec<(Dialect, &'static str, Met)> {
        let priced = TokenUsage { cost: Some(Money::from_nanos(99_900)), ..tokens(14, 0, 163) };
        let words = |texts: &[&str]| texts.iter().map(|text| text.len() as u64).sum::<u64>();
        let weather =
            ["Okay, let's check the weather – \"now\" 🌦️:\n", "get_weather", r#"{"location": "San Francisco, CA"}"#];
        let calls = ["get_weather", r#"{"location":"Paris"}"#, "get_time", "{}"];
        vec![
            (
                Dialect::OpenAi,
                OPENAI_TEXT,
                (Some(tokens(1117, 1024, 9)), words(&["Grüße, \"Welt\" 🌍\n"]), 0, true, false),
            ),
            (Dialect::OpenAi, OPENAI_TOOLS, (Some(tokens(82, 0, 34)), words(&calls), 0, true, false)),
            (Dialect::OpenAi, OPENROUTER, (Some(priced), words(&["Short.你好"]), 0, true, false)),
            (Dialect::OpenAi, OPENROUTER_ERROR, (None, words(&["Half an"]), 0, true, true)),
            (Dialect::Anthropic, ANTHROPIC_TOOLS, (Some(tokens(2572, 2000, 89)), words(&weather), 0, true, false)),
            (Dialect::Anthropic, ANTHROPIC_ERROR, (Some(tokens(25, 0, 6)), 25, 0, false, true)),
        ]
    }

    #[test]
    fn recorded_streams_are_read() {
        for (dialect, stream, expected) in expected() {
            let (usage, bytes, counted, finished, failed) = met(dialect, [stream.as_bytes()]);
            assert_eq!((usage, bytes, finished, failed), (expected.0, expected.1, expected.3, expected.4), "{stream}");
            assert!(counted > 0 && counted <= bytes, "{counted} tokens in {bytes} bytes");
        }
    }

    #[test]
    fn a_stream_cut_at_every_byte_yields_the_same_usage() {
        for (dialect, stream, _) in expected() {
            let whole = met(dialect, [stream.as_bytes()]);
            every_cut(stream, |chunks| assert_eq!(met(dialect, chunks.iter().copied()), whole));
        }
    }

    #[test]
    fn the_last_word_counts_and_a_zero_is_a_zero() {
        let stream = |usages: &[&str]| {
            let chunks = usages.iter().map(|usage| format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\n"));
            met(Dialect::OpenAi, [chunks.collect::<String>().as_bytes()]).0
        };
        let cost = |nanos, usage| Some(TokenUsage { cost: Some(Money::from_nanos(nanos)), ..usage });
        let table: [(&[&str], Option<TokenUsage>); 13] = [
            (&[], None),
            (&["null"], None),
            (&["{}"], None),
            (&["[1]", "\"x\"", "7"], None),
            (&[r#"{"prompt_tokens":0,"completion_tokens":0}"#], Some(tokens(0, 0, 0))),
            (&[r#"{"prompt_tokens":5,"completion_tokens":1}"#, "null"], Some(tokens(5, 0, 1))),
            (
                &[r#"{"prompt_tokens":5,"completion_tokens":1}"#, r#"{"prompt_tokens":5,"completion_tokens":0}"#],
                Some(tokens(5, 0, 0)),
            ),
            (&[r#"{"prompt_tokens":5,"total_tokens":9}"#], Some(tokens(5, 0, 4))),
            (&[r#"{"prompt_tokens":-5,"completion_tokens":2,"total_tokens":9}"#], Some(tokens(7, 0, 2))),
            (
                &[r#"{"prompt_tokens":5,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":9}}"#],
                Some(tokens(5, 5, 1)),
            ),
            (
                &[r#"{"prompt_tokens":5,"completion_tokens":1,"prompt_tokens_details":null,"cost":1.5e-7}"#],
                cost(150, tokens(5, 0, 1)),
            ),
            (&[r#"{"prompt_tokens":5,"completion_tokens":1,"cost":-1}"#], Some(tokens(5, 0, 1))),
            (
                &[
                    r#"{"prompt_tokens":5,"completion_tokens":1,"cost":0}"#,
                    r#"{"prompt_tokens":6,"completion_tokens":1}"#,
                ],
                cost(0, tokens(6, 0, 1)),
            ),
        ];
        for (usages, expected) in table {
            assert_eq!(stream(usages), expected, "{usages:?}");
        }
    }

    #[test]
    fn odd_chunks_lose_neither_text_nor_usage() {
        let odd = concat!(
            "data: {\"choices\":[{\"index\":\"0\",\"delta\":{\"content\":[{\"type\":\"text\"}],\"tool_calls\":null}}]}\n\n",
            "data: {\"choices\":[{\"text\":\"abc\",\"finish_reason\":\"\"}],\"usage\":null}\n\n",
            "data: {\"choices\":[{\"delta\":null,\"finish_reason\":{}}],\"error\":null}\n\n",
            "data: not JSON\n\ndata: {\"choices\":7,\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n",
        );
        let (usage, bytes, _, finished, failed) = met(Dialect::OpenAi, [odd.as_bytes()]);
        assert_eq!((usage, bytes, finished, failed), (Some(tokens(3, 0, 4)), 3, false, false));
        let named = b"event: error\ndata: {\"message\":\"x\"}\n\n";
        assert!(met(Dialect::OpenAi, [named.as_slice()]).4);
    }

    #[test]
    fn a_block_is_open_until_it_ends() {
        let mut meter = StreamMeter::new(Dialect::Anthropic);
        let mut seen = Vec::new();
        for event in ANTHROPIC_TOOLS.split_inclusive("\n\n") {
            meter.observe(event.as_bytes());
            seen.push(meter.open_block());
        }
        let (text, tool) = (Some(0), Some(1));
        let blocks = [None, text, text, text, text, None, tool, tool, tool, tool, tool, None, None, None];
        assert_eq!(seen, blocks);
        assert_eq!(meter.answer_id(), "msg_014p7gG3wDgGV9EUtLvnow3U");
    }

    #[test]
    fn what_is_too_long_makes_blind_and_keeps_what_was_seen() {
        let mut meter = StreamMeter::new(Dialect::OpenAi);
        meter.observe(b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: ");
        for _ in 0..20 {
            meter.observe(&vec![b'x'; 100_000]);
        }
        assert!(meter.is_blind());
        assert_eq!(meter.usage(), Some(tokens(1, 0, 2)));
    }

    #[test]
    fn answers_say_what_they_used() {
        use Capability::{ChatCompletions, Embeddings, Transcription};
        let chat = br#"{"choices":[{"message":{"content":"say \"usage\""}}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,"cost":0.25}}"#;
        let priced = TokenUsage { cost: Some(Money::from_cents(25)), ..tokens(3, 0, 4) };
        assert_eq!(usage_of_answer(Dialect::OpenAi, ChatCompletions, chat), Some(priced));
        assert_eq!(usage_of_answer(Dialect::OpenAi, Transcription, chat), None);
        let vectors = br#"{"data":[{"embedding":[0.1,-2e-5]}],"usage":{"prompt_tokens":8,"total_tokens":8}}"#;
        assert_eq!(usage_of_answer(Dialect::OpenAi, Embeddings, vectors), Some(tokens(8, 0, 0)));
        let message = br#"{"type":"message","content":[{"type":"text","text":"four little words here"}],"usage":{"input_tokens":3,"cache_read_input_tokens":10,"output_tokens":0}}"#;
        assert_eq!(usage_of_answer(Dialect::Anthropic, ChatCompletions, message), Some(tokens(13, 10, 0)));
        for none in
            [b"".as_slice(), b"{}", b"\"usage\"", b"{\"usage\":null}", b"{\"usage\":{\"prompt_tokens\":1}", b"[]"]
        {
            assert_eq!(usage_of_answer(Dialect::OpenAi, ChatCompletions, none), None);
        }
        assert_eq!(counted_tokens_of_answer(Dialect::Anthropic, message), 4);
        assert_eq!(
            counted_tokens_of_answer(
                Dialect::OpenAi,
                br#"{"choices":[{"message":{"content":"one two"}},{"text":"three"}]}"#
            ),
            3
        );
        assert_eq!(counted_tokens_of_answer(Dialect::OpenAi, b"no answer"), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_their_end(
            parts in proptest::collection::vec(
                prop_oneof![
                    Just("data: ".to_owned()), Just("\n\n".to_owned()), Just(OPENROUTER[60..400].to_owned()),
                    Just(ANTHROPIC_TOOLS[0..300].to_owned()), "[\\[\\]{}\":,a-z0-9\n]{0,30}", "\\PC{0,10}",
                ], 0..30),
            noise in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let bytes = [parts.concat().as_bytes(), &noise].concat();
            for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
                let whole = met(dialect, [bytes.as_slice()]);
                prop_assert!(whole.1 <= bytes.len() as u64);
                prop_assert_eq!(met(dialect, bytes.chunks(7)), whole);
                let _ = usage_of_answer(dialect, Capability::ChatCompletions, &bytes);
                let _ = counted_tokens_of_answer(dialect, &bytes);
            }
        }
    }
}
