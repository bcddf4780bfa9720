//! What is in a message: decoded headers, its text and HTML, and what is attached.
//!
//! Whatever a message contains, reading it ends in something that can be shown; what cannot be decoded is shown as it is.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Serialize;

/// Messages within messages are followed this deep.
const DEPTH_MAX: usize = 10;

/// A part that is neither the text nor the HTML of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attachment {
    /// The name it came with.
    pub filename: Option<String>,
    /// Such as `image/png`.
    pub content_type: String,
    /// Its decoded size.
    pub size_bytes: usize,
}

/// What is in a message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Parsed {
    /// The decoded subject, or `""`.
    pub subject: String,
    /// All header lines, unfolded and decoded, in order.
    pub headers: Vec<(String, String)>,
    /// The first plain text part.
    pub text: Option<String>,
    /// The first HTML part.
    pub html: Option<String>,
    /// The other parts.
    pub attachments: Vec<Attachment>,
}

/// Reads a message.
pub(super) fn parse(raw: &[u8]) -> Parsed {
    let (headers, body) = split(raw);
    let mut parsed = Parsed::default();
    read_part(&headers, body, 0, &mut parsed);
    parsed.subject = decode_words(header(&headers, "subject").unwrap_or_default());
    parsed.headers = headers.into_iter().map(|(name, value)| (name, decode_words(&value))).collect();
    parsed
}

type Headers = Vec<(String, String)>;

/// Headers, unfolded, and the body behind the first empty line.
fn split(raw: &[u8]) -> (Headers, &[u8]) {
    let mut headers: Headers = Vec::new();
    let mut rest = raw;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
        let (line, after) = rest.split_at(end);
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return (headers, after);
        }
        match (text.starts_with([' ', '\t']), headers.last_mut()) {
            (true, Some((_, value))) => {
                value.push(' ');
                value.push_str(text.trim());
            }
            _ => match text.split_once(':') {
                Some((name, value)) => headers.push((name.trim().to_owned(), value.trim().to_owned())),
                // No header: the body began without an empty line.
                None => return (headers, rest),
            },
        }
        rest = after;
    }
    (headers, rest)
}

fn header<'h>(headers: &'h Headers, name: &str) -> Option<&'h str> {
    headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// A parameter of a structured header: `charset` of `text/plain; charset="utf-8"`.
fn parameter(value: &str, name: &str) -> Option<String> {
    value.split(';').skip(1).find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

fn read_part(headers: &Headers, body: &[u8], depth: usize, parsed: &mut Parsed) {
    let content_type = header(headers, "content-type").unwrap_or("text/plain; charset=us-ascii");
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media.starts_with("multipart/")
        && depth < DEPTH_MAX
        && let Some(boundary) = parameter(content_type, "boundary").filter(|boundary| !boundary.is_empty())
    {
        for part in parts(body, &boundary) {
            let (headers, body) = split(part);
            read_part(&headers, body, depth + 1, parsed);
        }
        return;
    }
    let bytes = decode_body(header(headers, "content-transfer-encoding").unwrap_or_default(), body);
    let disposition = header(headers, "content-disposition").unwrap_or_default();
    let attached = disposition.trim_start().to_ascii_lowercase().starts_with("attachment");
    let charset = parameter(content_type, "charset").unwrap_or_default();
    match media.as_str() {
        "text/plain" if !attached && parsed.text.is_none() => parsed.text = Some(to_text(&charset, &bytes)),
        "text/html" if !attached && parsed.html.is_none() => parsed.html = Some(to_text(&charset, &bytes)),
        _ => {
            let filename = parameter(disposition, "filename").or_else(|| parameter(content_type, "name"));
            let filename = filename.map(|name| decode_words(&name));
            parsed.attachments.push(Attachment { filename, content_type: media, size_bytes: bytes.len() });
        }
    }
}

/// The pieces between `--boundary` lines, without the line end before each.
fn parts<'b>(body: &'b [u8], boundary: &str) -> Vec<&'b [u8]> {
    let delimiter = format!("--{boundary}");
    let mut found = Vec::new();
    let (mut start, mut at) = (None, 0);
    while at < body.len() {
        let end = body[at..].iter().position(|byte| *byte == b'\n').map_or(body.len(), |offset| at + offset + 1);
        let line = body[at..end].trim_ascii_end();
        if let Some(rest) = line.strip_prefix(delimiter.as_bytes())
            && (rest.is_empty() || rest == b"--")
        {
            if let Some(start) = start {
                let piece: &[u8] = &body[start..at];
                let piece = piece.strip_suffix(b"\n").unwrap_or(piece);
                found.push(piece.strip_suffix(b"\r").unwrap_or(piece));
            }
            if rest == b"--" {
                return found;
            }
            start = Some(end);
        }
        at = end;
    }
    // Cut off before the closing boundary: what is there is still shown.
    found.extend(start.map(|start| &body[start..]));
    found
}

/// Standard base64 that forgives missing padding.
fn base64(bytes: &[u8]) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let compact: Vec<u8> = bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    GeneralPurpose::new(&alphabet::STANDARD, config).decode(compact).ok()
}

fn decode_body(encoding: &str, body: &[u8]) -> Vec<u8> {
    match encoding.trim().to_ascii_lowercase().as_str() {
        "base64" => base64(body).unwrap_or_else(|| body.to_vec()),
        "quoted-printable" => quoted_printable(body),
        _ => body.to_vec(),
    }
}

fn hex_pair(bytes: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(bytes.get(..2)?).ok()?;
    if text.bytes().all(|byte| byte.is_ascii_hexdigit()) { u8::from_str_radix(text, 16).ok() } else { None }
}

fn quoted_printable(body: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'=' {
            decoded.push(*first);
        } else if let Some(after) = after.strip_prefix(b"\r\n").or_else(|| after.strip_prefix(b"\n")) {
            rest = after;
        } else if let Some(byte) = hex_pair(after) {
            decoded.push(byte);
            rest = &after[2..];
        } else {
            decoded.push(b'=');
        }
    }
    decoded
}

fn to_text(charset: &str, bytes: &[u8]) -> String {
    match charset.to_ascii_lowercase().as_str() {
        "iso-8859-1" | "latin1" => bytes.iter().copied().map(char::from).collect(),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// Replaces `=?utf-8?q?…?=` by what it stands for; white space between two of them disappears.
fn decode_words(value: &str) -> String {
    let mut decoded = String::new();
    let mut rest = value;
    let mut after_word = false;
    while let Some(start) = rest.find("=?") {
        let (before, word) = rest.split_at(start);
        if let Some((text, length)) = decode_word(word) {
            if !(after_word && before.trim().is_empty()) {
                decoded.push_str(before);
            }
            decoded.push_str(&text);
            rest = &word[length..];
            after_word = true;
        } else {
            decoded.push_str(before);
            decoded.push_str("=?");
            rest = &word[2..];
            after_word = false;
        }
    }
    decoded.push_str(rest);
    decoded
}

/// The text of the encoded word `value` starts with, and the word's length.
fn decode_word(value: &str) -> Option<(String, usize)> {
    let mut fields = value.strip_prefix("=?")?.splitn(3, '?');
    let (charset, encoding, rest) = (fields.next()?, fields.next()?, fields.next()?);
    let end = rest.find("?=")?;
    let encoded = rest.get(..end)?;
    if encoded.contains(' ') {
        return None;
    }
    let bytes = match encoding {
        "b" | "B" => base64(encoded.as_bytes())?,
        "q" | "Q" => quoted_printable(encoded.replace('_', " ").as_bytes()),
        _ => return None,
    };
    let length = 2 + charset.len() + 1 + encoding.len() + 1 + end + 2;
    Some((to_text(charset, &bytes), length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_multipart_message_is_taken_apart() {
        let raw = "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n =?utf-8?b?IPCfkYs=?=\r\n\
                   Content-Type: multipart/mixed; boundary=\"outer\"\r\n\r\nignored\r\n\
                   --outer\r\nContent-Type: multipart/alternative; boundary=inner\r\n\r\n\
                   --inner\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
                   caf=C3=A9 =\r\nau lait\r\n\
                   --inner\r\nContent-Type: text/html; charset=iso-8859-1\r\n\r\n<b>\u{41}</b>\r\n--inner--\r\n\
                   --outer\r\nContent-Type: image/png; name=a.png\r\nContent-Disposition: attachment; filename=\"a.png\"\r\n\
                   Content-Transfer-Encoding: base64\r\n\r\nAAEC\r\nAw==\r\n--outer--\r\n";
        let parsed = parse(raw.as_bytes());
        assert_eq!(parsed.subject, "Grüße 👋");
        assert_eq!(parsed.text.as_deref(), Some("café au lait"));
        assert_eq!(parsed.html.as_deref(), Some("<b>A</b>"));
        let attached = Attachment { filename: Some("a.png".into()), content_type: "image/png".into(), size_bytes: 4 };
        assert_eq!(parsed.attachments, [attached]);
    }

    #[test]
    fn what_cannot_be_decoded_is_kept_as_it_is() {
        for text in ["=?utf-8?x?abc?=", "=?utf-8?b?%%?=", "=?half", "100 =? 200"] {
            assert_eq!(decode_words(text), text);
        }
        assert_eq!(quoted_printable(b"1=2, =ZZ, ="), b"1=2, =ZZ, =");
    }

    proptest! {
        #[test]
        fn any_message_is_read_without_a_panic(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _parsed = parse(&raw);
        }

        #[test]
        fn any_multipart_is_read_without_a_panic(body in "(--b|--b--|\r\n|=\\?|\\?=|a|:|é){0,40}") {
            let _parsed = parse(format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{body}").as_bytes());
        }
    }
}
