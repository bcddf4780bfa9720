//! Server-sent events, read as they arrive.
//!
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>

use memchr::{memchr, memchr2};

/// The longest event that is read: its lines, their ends included.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// Room for the parts of an event that is kept from one event to the next.
const KEPT_BYTES_MAX: usize = 64 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// An event is longer than [`EVENT_BYTES_MAX`]: nothing after its beginning can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {EVENT_BYTES_MAX} bytes")]
pub struct TooLong;

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// Its name, empty if it has none.
    pub name: &'a [u8],
    /// Its lines of data, joined by line feeds. Without data it is a comment, or the rest of a line end that came late.
    pub data: Option<&'a [u8]>,
    /// Every byte since the event before, up to the end of the empty line that ends this one.
    pub raw: &'a [u8],
}

/// Finds events in bytes that are cut anywhere.
///
/// An event that lies in one chunk is read where it is; only one that is cut is copied. The same bytes give the same
/// events with data however they are cut, and the [`SseEvent::raw`] of all events together are the bytes that came.
#[derive(Debug, Default)]
pub struct SseParser {
    /// The beginning of an event whose end is not there yet.
    held: Vec<u8>,
    /// Data of several lines, joined.
    joined: Vec<u8>,
    begun: bool,
    line: Line,
    too_long: bool,
}

/// How far the line is that is being read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Line {
    #[default]
    Empty,
    Begun,
    /// The one before ended with a carriage return, to which a line feed may belong.
    Returned,
}

impl SseParser {
    /// Reads on, and shows every event that is complete.
    ///
    /// # Errors
    /// [`TooLong`], from then on always.
    pub fn push(&mut self, chunk: &[u8], mut on_event: impl FnMut(SseEvent<'_>)) -> Result<(), TooLong> {
        if self.too_long {
            return Err(TooLong);
        }
        let mut rest = chunk;
        if self.held.is_empty() && self.line == Line::Returned && !rest.is_empty() {
            self.line = Line::Empty;
            if rest[0] == b'\n' {
                on_event(SseEvent { name: b"", data: None, raw: &rest[..1] });
                rest = &rest[1..];
            }
        }
        while let Some(end) = self.end_of_event(rest) {
            let (event, after) = rest.split_at(end);
            rest = after;
            if self.held.len() + event.len() > EVENT_BYTES_MAX {
                return self.give_up();
            }
            let first = !std::mem::replace(&mut self.begun, true);
            if self.held.is_empty() {
                on_event(read_event(event, first, &mut self.joined));
            } else {
                self.held.extend_from_slice(event);
                on_event(read_event(&self.held, first, &mut self.joined));
                empty(&mut self.held);
            }
            empty(&mut self.joined);
        }
        if self.held.len() + rest.len() > EVENT_BYTES_MAX {
            return self.give_up();
        }
        self.held.extend_from_slice(rest);
        Ok(())
    }

    /// Ends the stream: what is left is shown as an event, as if the empty line that should end it were there.
    pub fn finish(&mut self, mut on_event: impl FnMut(SseEvent<'_>)) {
        if !self.held.is_empty() && !self.too_long {
            let first = !std::mem::replace(&mut self.begun, true);
            on_event(read_event(&self.held, first, &mut self.joined));
        }
        *self = Self { begun: true, too_long: self.too_long, ..Self::default() };
    }

    /// Bytes of an event whose end is not there yet; after [`TooLong`], those that came before the chunk that made it so.
    pub fn pending(&self) -> &[u8] {
        &self.held
    }

    /// Forgets the beginning of an event.
    pub fn forget(&mut self) {
        self.held = Vec::new();
    }

    fn give_up(&mut self) -> Result<(), TooLong> {
        self.too_long = true;
        Err(TooLong)
    }

    /// Where the event ends that `bytes` go on with.
    fn end_of_event(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.line == Line::Returned {
                self.line = Line::Empty;
                if bytes[at] == b'\n' {
                    at += 1;
                    continue;
                }
            }
            let Some(length) = memchr2(b'\n', b'\r', &bytes[at..]) else {
                self.line = Line::Begun;
                return None;
            };
            let ends = length == 0 && self.line == Line::Empty;
            at += length + 1;
            self.line = if bytes[at - 1] == b'\r' { Line::Returned } else { Line::Empty };
            if ends {
                if self.line == Line::Returned && bytes.get(at) == Some(&b'\n') {
                    self.line = Line::Empty;
                    at += 1;
                }
                return Some(at);
            }
        }
        None
    }
}

/// Makes room for the next, and gives back what only a large one needed.
fn empty(bytes: &mut Vec<u8>) {
    bytes.clear();
    bytes.shrink_to(KEPT_BYTES_MAX);
}

fn read_event<'a>(raw: &'a [u8], first: bool, joined: &'a mut Vec<u8>) -> SseEvent<'a> {
    let mut rest = if first { raw.strip_prefix(BYTE_ORDER_MARK).unwrap_or(raw) } else { raw };
    let mut name: &[u8] = b"";
    let mut data: Option<&[u8]> = None;
    let mut lines = 0_usize;
    while let Some(end) = memchr2(b'\n', b'\r', rest).or_else(|| (!rest.is_empty()).then_some(rest.len())) {
        let line = &rest[..end];
        // The line feed after a carriage return begins an empty line, which says nothing here.
        rest = rest.get(end + 1..).unwrap_or_default();
        if line.is_empty() {
            continue;
        }
        let (field, value) = match memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if lines == 1 {
                    joined.clear();
                    joined.extend_from_slice(data.unwrap_or_default());
                }
                if lines > 0 {
                    joined.push(b'\n');
                    joined.extend_from_slice(value);
                }
                lines += 1;
                data = Some(value);
            }
            b"event" => name = value,
            _ => {}
        }
    }
    if lines > 1 {
        data = Some(joined);
    }
    SseEvent { name, data, raw }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Seen = (String, Vec<u8>);

    /// The events with data, and all bytes that were shown.
    fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Seen>, Vec<u8>) {
        let (mut parser, mut seen, mut raw) = (SseParser::default(), Vec::new(), Vec::new());
        let mut on_event = |event: SseEvent<'_>| {
            raw.extend_from_slice(event.raw);
            if let Some(data) = event.data {
                seen.push((String::from_utf8_lossy(event.name).into_owned(), data.to_vec()));
            }
        };
        for chunk in chunks {
            parser.push(chunk, &mut on_event).unwrap();
        }
        parser.finish(on_event);
        (seen, raw)
    }

    #[test]
    fn fields_lines_and_comments_are_read_as_the_standard_says() {
        let table: [(&str, &[(&str, &str)]); 14] = [
            ("data: one\n\n", &[("", "one")]),
            ("data:one\n\ndata:  two\n\n", &[("", "one"), ("", " two")]),
            ("data: one\r\n\r\ndata: two\r\n\r\n", &[("", "one"), ("", "two")]),
            ("data: one\r\rdata: two\r\r", &[("", "one"), ("", "two")]),
            ("data: one\r\n\ndata: two\n\r\n", &[("", "one"), ("", "two")]),
            ("data: a\ndata: b\ndata\ndata: c\n\n", &[("", "a\nb\n\nc")]),
            ("event: ping\ndata: {}\n\n", &[("ping", "{}")]),
            ("data: {}\nevent: late\n\n", &[("late", "{}")]),
            (": OPENROUTER PROCESSING\n\ndata: x\n\n", &[("", "x")]),
            ("id: 4\nretry: 10\nother: x\ndata: x\n\n", &[("", "x")]),
            ("\u{feff}data: x\n\n\u{feff}data: y\n\n", &[("", "x")]),
            ("\n\n\r\n\ndata: x\n\n\n", &[("", "x")]),
            ("data:\n\ndata: {\"a\": \"b: c\"}\n\n", &[("", ""), ("", "{\"a\": \"b: c\"}")]),
            ("data: [DONE]", &[("", "[DONE]")]),
        ];
        for (text, expected) in table {
            let expected: Vec<Seen> =
                expected.iter().map(|(name, data)| ((*name).to_owned(), data.as_bytes().to_vec())).collect();
            assert_eq!(read([text.as_bytes()]), (expected, text.as_bytes().to_vec()), "{text:?}");
        }
    }

    #[test]
    fn an_event_cut_anywhere_is_the_same_event() {
        let text =
            "event: a\r\ndata: é€😀\r\n\r\n: c\n\ndata: 1\ndata: 2\n\ndata: x\r\rdata: [DONE]\r\n\r\n".as_bytes();
        let whole = read([text]);
        assert_eq!(whole.0.len(), 4);
        for cut in 0..=text.len() {
            assert_eq!(read([&text[..cut], &text[cut..]]), whole, "cut at {cut}");
        }
        for size in 1..=text.len() {
            assert_eq!(read(text.chunks(size)), whole, "chunks of {size}");
        }
    }

    #[test]
    fn an_event_may_be_so_long_and_no_longer() {
        let fill = vec![b'x'; EVENT_BYTES_MAX - "data: \n\n".len()];
        let long = [b"data: ", fill.as_slice(), b"\n\n"].concat();
        let longer = [b"data: x", fill.as_slice(), b"\n\n"].concat();
        for size in [long.len() + 1, 70_000, 1000] {
            assert_eq!(read(long.chunks(size)).0.len(), 1);
            let mut parser = SseParser::default();
            let failed = longer.chunks(size).find_map(|chunk| parser.push(chunk, |_| panic!("an event")).err());
            assert_eq!(failed, Some(TooLong));
            assert_eq!(parser.push(b"data: x\n\n", |_| panic!("an event")), Err(TooLong));
            let before = longer.len().div_ceil(size) * size - size;
            assert_eq!(parser.pending().len(), before);
            parser.finish(|_| panic!("an event"));
            assert!(parser.pending().is_empty());
        }
    }

    #[test]
    fn room_for_a_long_event_is_given_back() {
        let long = [b"data: ".as_slice(), &vec![b'x'; 500_000], b"\ndata: y\n\n"].concat();
        let mut parser = SseParser::default();
        for chunk in long.chunks(999) {
            parser.push(chunk, |event| assert_eq!(event.data.map(<[u8]>::len), Some(500_002))).unwrap();
        }
        assert!(parser.held.capacity() <= KEPT_BYTES_MAX && parser.joined.capacity() <= KEPT_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn any_bytes_cut_anyhow_give_the_same_events_and_all_bytes(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b' '), Just(b'd'), any::<u8>()], 0..200),
            lines in proptest::collection::vec(
                prop_oneof![Just("data: x"), Just("event: y"), Just("\n"), Just("\r\n"), Just("\r"), Just("\n\n")], 0..40),
            sizes in proptest::collection::vec(1_usize..20, 1..20),
        ) {
            for text in [bytes, lines.concat().into_bytes()] {
                let whole = read([text.as_slice()]);
                prop_assert_eq!(&whole.1, &text);
                let (mut rest, mut chunks) = (text.as_slice(), Vec::new());
                for size in sizes.iter().cycle() {
                    if rest.is_empty() {
                        break;
                    }
                    let (chunk, after) = rest.split_at((*size).min(rest.len()));
                    chunks.push(chunk);
                    rest = after;
                }
                prop_assert_eq!(read(chunks), whole);
            }
        }
    }
}
