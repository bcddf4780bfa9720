//! What must be true of any bytes that clients and providers send to the gateway.
//!
//! Each function takes bytes and panics if something is not as it must be. libFuzzer looks for such bytes (`cargo wopr test --only
//! fuzz`); `cargo test` runs them on the seeds, on the recordings of the gateway's tests, and on bytes at random.

use bytes::Bytes;
use futures_util::FutureExt as _;
use serde_json::Value;
use wopr_core::gateway::wire::{
    ChatFacts, SseParser, StreamMeter, StreamTranslator, UsageFilter, WireError, prepare, read_chat, read_completion,
    read_embeddings, read_image, read_speech, read_transcription, translate_answer, translate_request, usage_of_answer,
    with_model,
};
use wopr_core::gateway::{Capability, Dialect};

const DIALECTS: [Dialect; 2] = [Dialect::OpenAi, Dialect::Anthropic];
/// The provider's name of a model: with what JSON has to escape.
const MODEL: &str = "the \"model\"";
/// The bound of an answer that has none.
const BOUND: u64 = 77;

/// A stream of events says the same however it is cut, and every byte of it passes.
pub fn events(stream: &[u8]) {
    assert_eq!(parsed([stream]), parsed(pieces(stream)), "events");
    assert_eq!(parsed([stream]).1, stream, "the bytes of the events");
    for dialect in DIALECTS {
        assert_eq!(metered(dialect, [stream]), metered(dialect, pieces(stream)), "the usage as {dialect:?} says it");
    }
    assert_eq!(filtered([stream]), filtered(pieces(stream)), "what passes of a stream whose usage nobody asked for");
}

/// What one side says is told to the other in words that it reads, however it is cut.
pub fn translation(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    for (from, to) in [(Dialect::OpenAi, Dialect::Anthropic), (Dialect::Anthropic, Dialect::OpenAi)] {
        let whole = translated(from, to, [bytes]);
        assert_eq!(whole, translated(from, to, pieces(bytes)), "a stream of {from:?}");
        for data in parsed([whole.as_slice()]).0.into_iter().filter_map(|(_, data)| data) {
            let reads = data == b"[DONE]" || serde_json::from_slice::<Value>(&data).is_ok();
            assert!(reads, "{to:?} cannot read {}", String::from_utf8_lossy(&data));
        }
        if let Ok(answer) = translate_answer(from, to, &body, MODEL, 1) {
            assert_eq!(json(&answer)["model"], MODEL, "an answer of {from:?}");
            let used = |dialect, body: &[u8]| {
                let usage = usage_of_answer(dialect, Capability::ChatCompletions, body);
                usage.map(|usage| (usage.input, usage.cached_input, usage.output))
            };
            let told = used(from, bytes);
            assert!(told.is_none() || told == used(to, &answer), "{told:?} is used, and {:?} told", used(to, &answer));
        }
        let (Ok(asked), Ok(request)) = (read_chat(from, bytes), translate_request(from, to, &body, MODEL, BOUND))
        else {
            continue;
        };
        let read = read_chat(to, &request).expect("a translated request is one");
        assert_eq!(
            (read.model.as_str(), read.stream, read.needs),
            (MODEL, asked.stream, asked.needs),
            "a request of {from:?}"
        );
    }
}

/// A body is refused or read, and one that was read is changed in what must be changed and in nothing else.
pub fn bodies(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    for dialect in DIALECTS {
        prepared(&body, read_chat(dialect, bytes), |body| read_chat(dialect, body));
    }
    prepared(&body, read_completion(bytes), read_completion);
    if let Ok(facts) = read_embeddings(bytes) {
        renamed(&body, &with_model(&body, &facts.places, MODEL));
    }
    if let Ok(facts) = read_speech(bytes) {
        renamed(&body, &with_model(&body, &facts.places, MODEL));
    }
    if let Ok(facts) = read_image(bytes) {
        renamed(&body, &with_model(&body, &facts.places, MODEL));
    }
    let form = read_transcription("multipart/form-data; boundary=b", &body).now_or_never();
    if let Some(Ok(facts)) = form {
        let told = facts.others.iter().map(|(name, text)| name.len() + text.len()).sum::<usize>();
        assert!(!facts.file.is_empty() && bytes.len() > facts.file.len() + told, "more is read than there is");
    }
}

/// Pieces of a size that the bytes themselves choose.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let sum = bytes.iter().fold(bytes.len(), |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    bytes.chunks(1 + sum % 61)
}

type Event = (Vec<u8>, Option<Vec<u8>>);

/// The events with data, and the bytes of all.
fn parsed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, Vec<u8>) {
    let (mut parser, mut events, mut raw) = (SseParser::default(), Vec::new(), Vec::new());
    let mut read = |event: wopr_core::gateway::wire::SseEvent<'_>| {
        if event.data.is_some() {
            events.push((event.name.to_vec(), event.data.map(<[u8]>::to_vec)));
        }
        raw.extend_from_slice(event.raw);
    };
    for piece in pieces {
        parser.push(piece, &mut read).expect("libFuzzer's inputs are shorter than the longest event");
    }
    parser.finish(&mut read);
    (events, raw)
}

fn metered<'a>(dialect: Dialect, pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut meter = StreamMeter::new(dialect);
    pieces.into_iter().for_each(|piece| meter.observe(piece));
    meter.end();
    let (usage, counted, produced) = (meter.usage(), meter.counted_tokens(), meter.produced_bytes());
    format!("{usage:?} {counted} {produced} {} {} {:?}", meter.finished(), meter.failed(), meter.open_block())
}

fn filtered<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut filter = UsageFilter::default();
    let mut passed = Vec::new();
    for piece in pieces {
        passed.extend_from_slice(&filter.push(Bytes::copy_from_slice(piece)));
    }
    passed.extend_from_slice(&filter.finish());
    passed
}

fn translated<'a>(from: Dialect, to: Dialect, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut translator, mut out) = (StreamTranslator::new(from, to, MODEL, 1, true), Vec::new());
    pieces.into_iter().for_each(|piece| translator.push(piece, &mut out));
    translator.finish(&mut out);
    assert!(translator.has_ended(), "the client waits for the end of a stream of {from:?}");
    out
}

fn prepared(body: &Bytes, facts: Result<ChatFacts, WireError>, read: impl Fn(&[u8]) -> Result<ChatFacts, WireError>) {
    let Ok(facts) = facts else { return };
    let new = prepare(body, &facts, MODEL, true, Some(BOUND));
    let again = read(&new).expect("a prepared body is one");
    let bound = facts.max_output_tokens.or(Some(BOUND));
    let same = (again.stream, again.answers, again.needs, again.max_output_tokens);
    assert_eq!(same, (facts.stream, facts.answers, facts.needs, bound));
    assert_eq!((again.model.as_str(), again.wants_usage), (MODEL, facts.wants_usage || facts.stream));
    // Nothing is left to change.
    assert_eq!(prepare(&new, &again, MODEL, true, Some(BOUND)), new);
}

/// Nothing but the model's name is another one.
fn renamed(body: &Bytes, new: &Bytes) {
    // What it says may be more than a number can hold here; it passes as it is.
    let Ok(mut old) = serde_json::from_slice::<Value>(body) else { return };
    old["model"] = MODEL.into();
    assert_eq!(json(new), old);
}

fn json(body: &Bytes) -> Value {
    serde_json::from_slice(body).expect("what is written can be read")
}
