//! What a client did not ask for is taken out of its stream.

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::sse::{SseEvent, SseParser};

/// Takes the chunk out of an OpenAI stream that has the usage and nothing else: the provider sends it because we asked.
/// Everything else passes as it came.
#[derive(Debug, Default)]
pub struct UsageFilter {
    parser: SseParser,
    /// The end of what was taken out may still be to come.
    line_feed_is_taken: bool,
    /// An event was too long to be read.
    open: bool,
}

impl UsageFilter {
    /// Gives what may pass of a part. An event that is cut waits for its end.
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        if self.open {
            return chunk;
        }
        let held = self.parser.pending().len();
        // Whole events that say nothing of usage need not be looked at one by one.
        let whole = held == 0 && !self.line_feed_is_taken && chunk.ends_with(b"\n\n");
        if whole && memmem::find(&chunk, b"\"usage\"").is_none() {
            return chunk;
        }
        let (mut taken, mut read) = (false, 0);
        let mut passed = BytesMut::new();
        let line_feed_is_taken = &mut self.line_feed_is_taken;
        let complete = self.parser.push(&chunk, |event| {
            read += event.raw.len();
            let rest_of_taken = std::mem::take(line_feed_is_taken) && event.raw == b"\n";
            if rest_of_taken || is_usage(&event) {
                taken = true;
                *line_feed_is_taken = event.raw.ends_with(b"\r");
            } else {
                passed.extend_from_slice(event.raw);
            }
        });
        if complete.is_err() {
            self.open = true;
            passed.extend_from_slice(self.parser.pending());
            self.parser.forget();
            passed.extend_from_slice(&chunk[read.saturating_sub(held)..]);
            return passed.freeze();
        }
        if !taken && held == 0 && self.parser.pending().is_empty() { chunk } else { passed.freeze() }
    }

    /// Ends the stream, and gives what waited.
    pub fn finish(&mut self) -> Bytes {
        let mut passed = BytesMut::new();
        self.parser.finish(|event| {
            if !is_usage(&event) {
                passed.extend_from_slice(event.raw);
            }
        });
        passed.freeze()
    }
}

fn is_usage(event: &SseEvent<'_>) -> bool {
    #[derive(Deserialize)]
    struct Chunk<'a> {
        #[serde(borrow)]
        choices: &'a RawValue,
        #[serde(borrow)]
        usage: &'a RawValue,
    }
    let Some(data) = event.data else { return false };
    if memmem::find(data, b"\"usage\"").is_none() {
        return false;
    }
    let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(data) else { return false };
    let nothing_chosen = chunk.choices.get().strip_prefix('[').is_some_and(|rest| rest.trim_ascii_start() == "]");
    nothing_chosen && chunk.usage.get().starts_with('{')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::recordings::{ANTHROPIC_TOOLS, OPENAI_TEXT, OPENAI_TOOLS, OPENROUTER, every_cut};
    use super::super::sse::EVENT_BYTES_MAX;
    use super::*;

    fn filtered<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut filter = UsageFilter::default();
        let mut passed = Vec::new();
        for chunk in chunks {
            passed.extend_from_slice(&filter.push(Bytes::copy_from_slice(chunk)));
        }
        passed.extend_from_slice(&filter.finish());
        passed
    }

    #[test]
    fn a_stream_cut_at_every_byte_loses_the_usage_chunk_and_no_other_byte() {
        for stream in [OPENAI_TEXT, OPENAI_TOOLS, OPENROUTER, ANTHROPIC_TOOLS] {
            let kept: String =
                stream.split_inclusive("\n\n").filter(|event| !event.contains("\"choices\":[],")).collect();
            let taken = stream.split_inclusive("\n\n").count() - kept.split_inclusive("\n\n").count();
            assert_eq!(taken, usize::from(stream != ANTHROPIC_TOOLS));
            every_cut(stream, |chunks| {
                let passed = String::from_utf8(filtered(chunks.iter().copied())).unwrap();
                let end = ["\r\n", "\n", "\r"].into_iter().find(|end| passed.contains(end)).unwrap();
                assert_eq!(passed, kept.replace('\n', end));
            });
        }
    }

    #[test]
    fn whole_events_pass_without_being_copied() {
        let mut filter = UsageFilter::default();
        let chunk = Bytes::from_static(OPENAI_TOOLS.split_inclusive("\n\n").next().unwrap().as_bytes());
        assert_eq!(filter.push(chunk.clone()).as_ptr(), chunk.as_ptr());
        assert_eq!(filter.push(Bytes::from_static(b": waiting\n\n")), ": waiting\n\n");
    }

    #[test]
    fn usage_beside_an_answer_or_unlike_usage_passes() {
        for data in [
            r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}"#,
            r#"{"choices":[],"usage":null}"#,
            r#"{"usage":{"prompt_tokens":1}}"#,
            r#"{"choices":[],"prompt_filter_results":[]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":1}"#,
        ] {
            let event = format!("data: {data}\n\n");
            assert_eq!(filtered([event.as_bytes()]), event.as_bytes());
        }
        assert_eq!(filtered([b"data: {\"usage\": {}, \"choices\": [ ]}\n\n".as_slice()]), b"");
        assert_eq!(filtered([b"data: {\"usage\": {}, \"choices\": [ ]}".as_slice()]), b"");
    }

    #[test]
    fn what_is_too_long_passes_and_so_does_everything_after() {
        let long = [
            b"data: a\n\ndata: ".as_slice(),
            &vec![b'x'; EVENT_BYTES_MAX],
            b"\n\ndata: {\"choices\":[],\"usage\":{}}\n\n",
        ];
        let long = long.concat();
        for size in [long.len(), 300_001, 1000] {
            assert!(filtered(long.chunks(size)) == long, "chunks of {size}");
        }
    }

    proptest! {
        #[test]
        fn anything_else_passes_as_it_came(bytes in proptest::collection::vec(any::<u8>(), 0..300), size in 1_usize..50) {
            prop_assert_eq!(filtered(bytes.chunks(size)), bytes);
        }
    }
}
