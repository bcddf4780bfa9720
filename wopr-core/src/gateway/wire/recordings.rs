//! Streams as providers publish and send them, for the tests of everything that reads them.

pub(super) const OPENAI_TEXT: &str = include_str!("recordings/openai_text.sse");
pub(super) const OPENAI_TOOLS: &str = include_str!("recordings/openai_tools.sse");
pub(super) const OPENROUTER: &str = include_str!("recordings/openrouter.sse");
pub(super) const OPENROUTER_ERROR: &str = include_str!("recordings/openrouter_error.sse");
pub(super) const ANTHROPIC_TOOLS: &str = include_str!("recordings/anthropic_tools.sse");
pub(super) const ANTHROPIC_ERROR: &str = include_str!("recordings/anthropic_error.sse");

/// A stream cut in two at every byte, then in chunks of every size up to a hundred, as it is and with other line ends.
pub(super) fn every_cut(stream: &str, mut check: impl FnMut(&[&[u8]])) {
    for text in [stream.to_owned(), stream.replace('\n', "\r\n"), stream.replace('\n', "\r")] {
        let bytes = text.as_bytes();
        for cut in 0..=bytes.len() {
            check(&[&bytes[..cut], &bytes[cut..]]);
        }
        for size in 1..=100 {
            check(&bytes.chunks(size).collect::<Vec<_>>());
        }
    }
}
