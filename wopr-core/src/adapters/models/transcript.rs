//! Recordings as they are sent on, and transcripts as they come back.

use std::fmt::Write as _;

use bytes::Bytes;
use memchr::memmem;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::exchange::not_offered;
use crate::gateway::wire::{TranscriptionFacts, nanos, read_transcription};
use crate::gateway::{CallBody, ProviderError};

/// The format that says how long the recording is.
const VERBOSE: &str = "verbose_json";

/// Reads the form of a call.
pub(super) async fn form_of(body: &CallBody) -> Result<TranscriptionFacts, ProviderError> {
    match body {
        CallBody::Form { content_type, bytes } => {
            read_transcription(content_type, bytes).await.map_err(|error| not_offered(&error.to_string()))
        }
        CallBody::Json(_) => Err(not_offered("a transcript is asked for with a form")),
    }
}

/// The media type of the recording, if the client said one that can be said on.
pub(super) fn media_type(facts: &TranscriptionFacts) -> &str {
    let plain = |text: &&str| text.len() <= 100 && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    facts.file_type.as_deref().filter(plain).unwrap_or("application/octet-stream")
}

/// The form for a provider that takes it as OpenAI does, asking for a transcript that says how long the recording is.
pub(super) fn form_for(model: &str, facts: &TranscriptionFacts) -> Result<(String, Bytes), ProviderError> {
    let mut texts = vec![("model", model), ("response_format", VERBOSE)];
    texts.extend(facts.language.as_deref().map(|language| ("language", language)));
    for (name, text) in &facts.others {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_-[]".contains(&byte);
        if name.is_empty() || !name.bytes().all(known) {
            return Err(not_offered("a part of the form has a name that is not offered"));
        }
        texts.push((name, text));
    }
    let taken = |boundary: &String| {
        let inside = |bytes: &[u8]| memmem::find(bytes, boundary.as_bytes()).is_some();
        inside(&facts.file) || texts.iter().any(|(_, text)| inside(text.as_bytes()))
    };
    let mut number = 0_u64;
    let mut boundary = format!("wopr-form-{number}-end");
    while taken(&boundary) {
        number += 1;
        boundary = format!("wopr-form-{number}-end");
    }
    let mut form = Vec::with_capacity(facts.file.len() + 2048);
    for (name, text) in texts {
        let head = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
        form.extend_from_slice(head.as_bytes());
        form.extend_from_slice(text.as_bytes());
        form.extend_from_slice(b"\r\n");
    }
    // Some tell the format of a recording by its name alone.
    let end = facts.file_name.as_deref().and_then(|name| name.rsplit_once('.')).map_or("bin", |(_, end)| end);
    let end = if end.len() <= 8 && end.bytes().all(|byte| byte.is_ascii_alphanumeric()) { end } else { "bin" };
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"recording.{end}\"\r\nContent-Type: {}\r\n\r\n",
        media_type(facts)
    );
    form.extend_from_slice(head.as_bytes());
    form.extend_from_slice(&facts.file);
    form.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    Ok((format!("multipart/form-data; boundary={boundary}"), form.into()))
}

/// A transcript as OpenAI's `verbose_json` has it, as far as it is read.
#[derive(Debug, Deserialize)]
struct Verbose<'a> {
    text: String,
    #[serde(borrow, default)]
    duration: Option<&'a RawValue>,
    #[serde(borrow, default)]
    segments: Option<Vec<Segment<'a>>>,
}

/// A part of a transcript.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Segment<'a> {
    #[serde(borrow)]
    pub(super) start: &'a RawValue,
    #[serde(borrow)]
    pub(super) end: &'a RawValue,
    pub(super) text: String,
}

/// A number of seconds in whole milliseconds, begun ones counted. Some write it as a text.
pub(super) fn millis(seconds: &RawValue) -> Option<u64> {
    const NANOS_PER_MILLI: u64 = 1_000_000;
    let nanos = u64::try_from(nanos(seconds.get().trim_matches('"'))?).ok()?;
    Some(nanos.div_ceil(NANOS_PER_MILLI))
}

/// A transcript in the format the client asked for, and how long the recording is. `whole` is in `verbose_json`.
pub(super) fn reduced(whole: Bytes, format: &str) -> Result<(&'static str, Bytes, Option<u64>), ProviderError> {
    let broken = |_| ProviderError::Broken("it is no transcript".to_owned());
    let verbose: Verbose<'_> = serde_json::from_slice(&whole).map_err(broken)?;
    let segments = verbose.segments.unwrap_or_default();
    let end = segments.iter().filter_map(|segment| millis(segment.end)).max();
    let heard = verbose.duration.and_then(millis).or(end);
    let (content_type, body) = match format {
        "text" => ("text/plain; charset=utf-8", Bytes::from(verbose.text.trim().to_owned() + "\n")),
        "srt" => ("text/plain; charset=utf-8", captions(&segments, "", ',')?),
        "vtt" => ("text/vtt; charset=utf-8", captions(&segments, "WEBVTT\n\n", '.')?),
        VERBOSE => ("application/json", whole),
        _ => ("application/json", Bytes::from(json!({ "text": verbose.text }).to_string())),
    };
    Ok((content_type, body, heard))
}

fn captions(segments: &[Segment<'_>], head: &str, point: char) -> Result<Bytes, ProviderError> {
    let numbered = head.is_empty();
    let mut text = head.to_owned();
    let no_time = || ProviderError::Broken("its times make no sense".to_owned());
    for (segment, number) in segments.iter().zip(1_u64..) {
        let (start, end) = (millis(segment.start).ok_or_else(no_time)?, millis(segment.end).ok_or_else(no_time)?);
        let number = if numbered { format!("{number}\n") } else { String::new() };
        let said = segment.text.trim();
        // Writing to a text does not fail.
        let _ = write!(text, "{number}{} --> {}\n{said}\n\n", clock(start, point), clock(end, point));
    }
    Ok(text.into())
}

fn clock(millis: u64, point: char) -> String {
    let (seconds, millis) = (millis / 1000, millis % 1000);
    format!("{:02}:{:02}:{:02}{point}{millis:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] = br#"{"task":"transcribe","language":"english","duration":3661.2341,"text":" Hello there. Bye.",
        "segments":[{"id":0,"start":0.0,"end":2.5,"text":" Hello there."},{"id":1,"start":3600,"end":3661.2341,"text":" Bye."}]}"#;

    #[test]
    fn a_transcript_is_reduced_to_what_was_asked_for() {
        let as_text = |format: &str| {
            let (content_type, body, heard) = reduced(Bytes::from_static(WHOLE), format).unwrap();
            assert_eq!(heard, Some(3_661_235));
            (content_type, String::from_utf8(body.to_vec()).unwrap())
        };
        assert_eq!(as_text("json"), ("application/json", r#"{"text":" Hello there. Bye."}"#.to_owned()));
        assert_eq!(as_text("text"), ("text/plain; charset=utf-8", "Hello there. Bye.\n".to_owned()));
        assert_eq!(as_text("verbose_json").1.as_bytes(), WHOLE);
        let srt = "1\n00:00:00,000 --> 00:00:02,500\nHello there.\n\n2\n01:00:00,000 --> 01:01:01,235\nBye.\n\n";
        assert_eq!(as_text("srt"), ("text/plain; charset=utf-8", srt.to_owned()));
        let vtt = "WEBVTT\n\n00:00:00.000 --> 00:00:02.500\nHello there.\n\n01:00:00.000 --> 01:01:01.235\nBye.\n\n";
        assert_eq!(as_text("vtt"), ("text/vtt; charset=utf-8", vtt.to_owned()));
    }

    #[test]
    fn the_length_of_a_recording_is_found_or_not() {
        let heard =
            |whole: &'static str| reduced(Bytes::from_static(whole.as_bytes()), "json").map(|(_, _, heard)| heard);
        let table = [
            (r#"{"text":"","duration":1e-9}"#, Some(1)),
            (r#"{"text":"","duration":"8.4700"}"#, Some(8470)),
            (r#"{"text":"","duration":null,"segments":[{"start":0,"end":1.5,"text":""}]}"#, Some(1500)),
            (r#"{"text":"","duration":-1}"#, None),
            (r#"{"text":""}"#, None),
        ];
        for (whole, expected) in table {
            assert_eq!(heard(whole), Ok(expected), "{whole}");
        }
        assert!(heard("{}").is_err() && heard("[]").is_err());
        let timeless = Bytes::from_static(br#"{"text":"","segments":[{"start":"x","end":1,"text":""}]}"#);
        assert!(reduced(timeless, "srt").is_err());
    }
}
