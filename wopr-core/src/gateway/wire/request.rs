//! Requests of clients, read as far as it must be known what they ask for.

use std::ops::Range;

use bytes::Bytes;
use futures_util::stream;
use multer::{Constraints, Multipart, SizeLimit};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::WireError;
use super::json::{Object, Text, each, place, text};
use super::tokens::estimate_input;
use crate::gateway::model::Dialect;

/// The most answers to one question.
pub const ANSWERS_MAX: u64 = 4;
/// The most texts in one call for vectors, as at OpenAI:
/// <https://platform.openai.com/docs/api-reference/embeddings/create>.
pub const EMBEDDING_INPUTS_MAX: u64 = 2048;
/// The most characters that are spoken or drawn.
pub const TEXT_CHARS_MAX: usize = 5_000;
/// The most prompts in one call for completions.
pub const PROMPTS_MAX: u64 = 16;
/// The most bytes of a form with a recording.
pub const FORM_BYTES_MAX: u64 = 25 * 1024 * 1024;

const NAME_BYTES_MAX: usize = 256;
const VOICE_BYTES_MAX: usize = 64;
const FORM_PARTS_MAX: usize = 32;
const FORM_TEXT_BYTES_MAX: u64 = 16 * 1024;
const SPEECH_FORMATS: [&str; 6] = ["mp3", "opus", "aac", "flac", "wav", "pcm"];
const TRANSCRIPT_FORMATS: [&str; 5] = ["json", "text", "srt", "verbose_json", "vtt"];
/// Width and height in pixels, as OpenAI's models have them.
const IMAGE_SIZES: [(u32, u32); 7] =
    [(256, 256), (512, 512), (1024, 1024), (1536, 1024), (1024, 1536), (1792, 1024), (1024, 1792)];

/// What a conversation, or a text that is to be gone on with, asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatFacts {
    /// The model, as the client calls it.
    pub model: String,
    /// Whether the answer is wanted as it is made.
    pub stream: bool,
    /// The most tokens of one answer, if the client says.
    pub max_output_tokens: Option<u64>,
    /// How many answers are made, one to four for each prompt.
    pub answers: u64,
    /// Whether the client asks for the usage of a stream.
    pub wants_usage: bool,
    /// What the model must be able to do.
    pub needs: Needs,
    /// The tokens of the request, rather more than less, as [`estimate_input`] says.
    pub estimated_input: u64,
    pub(super) places: Places,
}

/// What a conversation needs a model to be able to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Call tools.
    pub tools: bool,
    /// See pictures.
    pub images: bool,
    /// Answer in JSON.
    pub json: bool,
}

/// Where in a body something may have to be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    pub(super) body_len: usize,
    /// Right after the brace that opens the body, which has a field.
    pub(super) first: usize,
    pub(super) model: Range<usize>,
    pub(super) stream_options: Option<Range<usize>>,
    pub(super) include_usage: Option<Range<usize>>,
    /// A `max_tokens` that says `null`.
    pub(super) null_max_tokens: Option<Range<usize>>,
}

/// What a call for vectors asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingFacts {
    /// The model, as the client calls it.
    pub model: String,
    /// How many vectors.
    pub inputs: u64,
    /// The tokens of the request, rather more than less.
    pub estimated_input: u64,
    /// For [`with_model`](super::with_model).
    pub places: Places,
}

/// What a call for speech asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpeechFacts {
    /// The model, as the client calls it.
    pub model: String,
    /// What is to be spoken.
    pub input: String,
    /// Its length in characters.
    pub characters: u64,
    /// The voice: letters, digits, `-` and `_`.
    pub voice: Option<String>,
    /// The format of the sound, one of OpenAI's.
    pub format: Option<&'static str>,
    /// For [`with_model`](super::with_model).
    pub places: Places,
}

/// What a call for pictures asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// The model, as the client calls it.
    pub model: String,
    /// What they show.
    pub prompt: String,
    /// How many, one to four.
    pub images: u64,
    /// Width and height in pixels.
    pub size: (u32, u32),
    /// Whether the pictures themselves are wanted, and not where they are.
    pub inline: bool,
    /// For [`with_model`](super::with_model).
    pub places: Places,
}

/// What a call for a transcript asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TranscriptionFacts {
    /// The model, as the client calls it.
    pub model: String,
    /// The language that is spoken, such as `en` or `pt-BR`.
    pub language: Option<String>,
    /// How the transcript is wanted, one of OpenAI's formats.
    pub format: &'static str,
    /// Everything else that was said, such as `prompt`, in its order.
    pub others: Vec<(String, String)>,
    /// The recording.
    pub file: Bytes,
    /// Its name.
    pub file_name: Option<String>,
    /// Its media type, as the client says.
    pub file_type: Option<String>,
}

/// Reads a conversation.
///
/// # Errors
/// [`WireError`].
pub fn read_chat(dialect: Dialect, body: &[u8]) -> Result<ChatFacts, WireError> {
    let fields = Fields::read(body)?;
    let model = fields.model()?;
    let messages = fields.required("messages")?;
    let mut tally = Tally::default();
    each(messages, |message| tally.message(message)).map_err(|_| WireError::invalid("messages", "must be an array"))?;
    if let Some(at) = tally.strange {
        return Err(WireError::invalid(format!("messages.{at}"), "must be an object"));
    }
    if tally.messages == 0 {
        return Err(WireError::invalid("messages", "must not be empty"));
    }
    let max_output_tokens = match dialect {
        Dialect::OpenAi => fields.tokens("max_tokens")?.max(fields.tokens("max_completion_tokens")?),
        Dialect::Anthropic => {
            fields.required("max_tokens")?;
            fields.tokens("max_tokens")?
        }
    };
    let answers = match dialect {
        Dialect::OpenAi => fields.up_to("n", ANSWERS_MAX)?.unwrap_or(1),
        Dialect::Anthropic => 1,
    };
    let (wants_usage, places) = fields.places()?;
    let text_bytes = (body.len() as u64).saturating_sub(tally.image_bytes);
    Ok(ChatFacts {
        model,
        stream: fields.flag("stream")?,
        max_output_tokens,
        answers,
        wants_usage,
        needs: Needs {
            tools: fields.filled("tools") || fields.filled("functions"),
            images: tally.images > 0,
            json: fields.json(),
        },
        estimated_input: estimate_input(text_bytes, tally.messages, tally.images),
        places,
    })
}

/// Reads a text that is to be gone on with.
///
/// # Errors
/// [`WireError`].
pub fn read_completion(body: &[u8]) -> Result<ChatFacts, WireError> {
    let fields = Fields::read(body)?;
    let model = fields.model()?;
    let prompts = inputs("prompt", fields.required("prompt")?, PROMPTS_MAX)?;
    let each = fields.up_to("n", ANSWERS_MAX)?.max(fields.up_to("best_of", ANSWERS_MAX)?).unwrap_or(1);
    let (wants_usage, places) = fields.places()?;
    Ok(ChatFacts {
        model,
        stream: fields.flag("stream")?,
        max_output_tokens: fields.tokens("max_tokens")?,
        answers: each * prompts,
        wants_usage,
        needs: Needs { json: fields.json(), ..Needs::default() },
        estimated_input: estimate_input(body.len() as u64, prompts, 0),
        places,
    })
}

/// Reads a call for vectors.
///
/// # Errors
/// [`WireError`].
pub fn read_embeddings(body: &[u8]) -> Result<EmbeddingFacts, WireError> {
    let fields = Fields::read(body)?;
    let model = fields.model()?;
    let inputs = inputs("input", fields.required("input")?, EMBEDDING_INPUTS_MAX)?;
    let estimated_input = estimate_input(body.len() as u64, inputs, 0);
    Ok(EmbeddingFacts { model, inputs, estimated_input, places: fields.places()?.1 })
}

/// Reads a call for speech.
///
/// # Errors
/// [`WireError`].
pub fn read_speech(body: &[u8]) -> Result<SpeechFacts, WireError> {
    let fields = Fields::read(body)?;
    let model = fields.model()?;
    let (input, characters) = fields.bounded_text("input")?;
    let voice = fields.text("voice")?;
    let plain = |voice: &String| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=VOICE_BYTES_MAX).contains(&voice.len()) && voice.bytes().all(known)
    };
    if voice.as_ref().is_some_and(|voice| !plain(voice)) {
        return Err(WireError::invalid("voice", "must be 1 to 64 letters, digits, `-` or `_`"));
    }
    let format = fields.one_of("response_format", &SPEECH_FORMATS)?;
    Ok(SpeechFacts { model, input, characters, voice, format, places: fields.places()?.1 })
}

/// Reads a call for pictures.
///
/// # Errors
/// [`WireError`].
pub fn read_image(body: &[u8]) -> Result<ImageFacts, WireError> {
    let fields = Fields::read(body)?;
    let model = fields.model()?;
    let (prompt, _) = fields.bounded_text("prompt")?;
    let size = match fields.text("size")?.as_deref() {
        None | Some("auto") => (1024, 1024),
        Some(size) => IMAGE_SIZES
            .into_iter()
            .find(|(width, height)| format!("{width}x{height}") == size)
            .ok_or_else(|| WireError::invalid("size", format!("must be one of {}", sizes())))?,
    };
    let inline = fields.one_of("response_format", &["url", "b64_json"])? == Some("b64_json");
    let images = fields.up_to("n", ANSWERS_MAX)?.unwrap_or(1);
    Ok(ImageFacts { model, prompt, images, size, inline, places: fields.places()?.1 })
}

/// Reads a form with a recording. `content_type` is the request's, with the boundary.
///
/// # Errors
/// [`WireError`].
pub async fn read_transcription(content_type: &str, body: &Bytes) -> Result<TranscriptionFacts, WireError> {
    let broken =
        |_| WireError::invalid("body", "must be a complete form of at most 25 MiB, its texts of at most 16 KiB");
    let boundary = multer::parse_boundary(content_type)
        .map_err(|_| WireError::invalid("content-type", "must be multipart/form-data with a boundary"))?;
    let sizes =
        SizeLimit::new().whole_stream(FORM_BYTES_MAX).per_field(FORM_TEXT_BYTES_MAX).for_field("file", FORM_BYTES_MAX);
    let whole = stream::iter([Ok::<_, std::convert::Infallible>(body.clone())]);
    let mut form = Multipart::with_constraints(whole, boundary, Constraints::new().size_limit(sizes));
    let (mut file, mut texts) = (None, Vec::new());
    let mut parts = 0;
    while let Some(part) = form.next_field().await.map_err(broken)? {
        parts += 1;
        if parts > FORM_PARTS_MAX {
            return Err(WireError::invalid("body", "has too many parts"));
        }
        let name = part.name().unwrap_or_default().to_owned();
        if name == "file" {
            let (file_name, file_type) =
                (part.file_name().map(str::to_owned), part.content_type().map(ToString::to_string));
            let bytes = part.bytes().await.map_err(broken)?;
            if file.replace((file_name, file_type, bytes)).is_some() {
                return Err(WireError::invalid("file", "is given twice"));
            }
        } else {
            let text = String::from_utf8(part.bytes().await.map_err(broken)?.into());
            texts.push((name.clone(), text.map_err(|_| WireError::invalid(name, "must be text in UTF-8"))?));
        }
    }
    let (file_name, file_type, file) = file.ok_or(WireError::missing("file"))?;
    if file.is_empty() {
        return Err(WireError::invalid("file", "must not be empty"));
    }
    let model = taken(&mut texts, "model")?.ok_or(WireError::missing("model"))?;
    named(&model)?;
    let language = taken(&mut texts, "language")?.filter(|language| !language.is_empty());
    if language.as_ref().is_some_and(|language| !is_language(language)) {
        return Err(WireError::invalid("language", "must be a language code such as `en` or `pt-BR`"));
    }
    let format = match taken(&mut texts, "response_format")? {
        None => "json",
        Some(format) => TRANSCRIPT_FORMATS
            .into_iter()
            .find(|known| *known == format)
            .ok_or_else(|| WireError::invalid("response_format", one_of(&TRANSCRIPT_FORMATS)))?,
    };
    if taken(&mut texts, "stream")?.is_some_and(|stream| stream != "false") {
        return Err(WireError::unsupported("stream"));
    }
    Ok(TranscriptionFacts { model, language, format, others: texts, file, file_name, file_type })
}

/// Takes the text of that name out.
fn taken(texts: &mut Vec<(String, String)>, name: &'static str) -> Result<Option<String>, WireError> {
    let Some(at) = texts.iter().position(|(known, _)| known == name) else { return Ok(None) };
    let (_, text) = texts.remove(at);
    if texts.iter().any(|(known, _)| known == name) {
        Err(WireError::invalid(name, "is given twice"))
    } else {
        Ok(Some(text))
    }
}

fn is_language(text: &str) -> bool {
    let plain = |part: &str| (2..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 16 && text.split('-').all(plain)
}

fn named(model: &str) -> Result<(), WireError> {
    if model.trim().is_empty() || model.len() > NAME_BYTES_MAX || model.chars().any(char::is_control) {
        return Err(WireError::invalid("model", "must be the name of a model"));
    }
    Ok(())
}

fn one_of(words: &[&str]) -> String {
    format!("must be one of {}", words.join(", "))
}

fn sizes() -> String {
    IMAGE_SIZES.map(|(width, height)| format!("{width}x{height}")).join(", ")
}

/// How many texts there are: one is a text or an array of tokens, several are an array of these.
fn inputs(field: &'static str, value: &RawValue, most: u64) -> Result<u64, WireError> {
    let shape = || WireError::invalid(field, "must be a text, an array of texts, or tokens");
    if value.get().starts_with('"') {
        return Ok(1);
    }
    let (mut several, mut tokens, mut strange) = (0, 0, false);
    each(value, |item| match item.get().as_bytes().first() {
        Some(b'"' | b'[') => several += 1,
        Some(b'0'..=b'9') => tokens += 1,
        _ => strange = true,
    })
    .map_err(|_| shape())?;
    match (several, tokens) {
        _ if strange => Err(shape()),
        (0, 0) => Err(WireError::invalid(field, "must not be empty")),
        (0, _) => Ok(1),
        (several, 0) if several <= most => Ok(several),
        (_, 0) => Err(WireError::invalid(field, format!("must have at most {most} entries"))),
        _ => Err(shape()),
    }
}

/// What is counted in messages.
#[derive(Default)]
struct Tally {
    messages: u64,
    images: u64,
    image_bytes: u64,
    /// The first message that is none.
    strange: Option<u64>,
}

impl Tally {
    fn message(&mut self, message: &RawValue) {
        #[derive(Deserialize)]
        struct Message<'a> {
            #[serde(borrow, default)]
            content: Option<&'a RawValue>,
        }
        // A message must not pass as an array, which serde would read as one.
        let read = serde_json::from_str::<Message<'_>>(message.get()).ok().filter(|_| message.get().starts_with('{'));
        match read {
            Some(Message { content: Some(content) }) => self.content(content, 0),
            Some(_) => {}
            None => self.strange = self.strange.or(Some(self.messages)),
        }
        self.messages += 1;
    }

    /// Pictures may be parts of a message, or of what a tool answered in one.
    fn content(&mut self, content: &RawValue, depth: u8) {
        #[derive(Deserialize)]
        struct Part<'a> {
            #[serde(borrow, default, rename = "type")]
            kind: Text<'a>,
            #[serde(borrow, default)]
            content: Option<&'a RawValue>,
        }
        // What is no array has no parts; most are texts.
        if !content.get().starts_with('[') {
            return;
        }
        let _ = each(content, |part| {
            let Ok(read) = serde_json::from_str::<Part<'_>>(part.get()) else { return };
            match &*read.kind {
                "image_url" | "image" | "input_image" => {
                    self.images += 1;
                    self.image_bytes += part.get().len() as u64;
                }
                "tool_result" if depth == 0 => {
                    if let Some(content) = read.content {
                        self.content(content, depth + 1);
                    }
                }
                _ => {}
            }
        });
    }
}

struct Fields<'a> {
    body: &'a [u8],
    object: Object<'a>,
}

impl<'a> Fields<'a> {
    fn read(body: &'a [u8]) -> Result<Self, WireError> {
        let object: Object<'a> = serde_json::from_slice(body).map_err(|error| WireError::of_body(&error))?;
        if let Some(field) = object.doubled() {
            return Err(WireError::invalid(field.to_owned(), "is given twice"));
        }
        Ok(Self { body, object })
    }

    fn required(&self, name: &'static str) -> Result<&'a RawValue, WireError> {
        self.object.get(name).ok_or(WireError::missing(name))
    }

    fn text(&self, name: &'static str) -> Result<Option<String>, WireError> {
        let read = |value| text(value).ok_or(WireError::invalid(name, "must be a text"));
        self.object.get(name).map(read).transpose()
    }

    fn model(&self) -> Result<String, WireError> {
        let model = self.text("model")?.ok_or(WireError::missing("model"))?;
        named(&model)?;
        Ok(model)
    }

    fn bounded_text(&self, name: &'static str) -> Result<(String, u64), WireError> {
        let text = self.text(name)?.ok_or(WireError::missing(name))?;
        let chars = text.chars().count();
        if text.trim().is_empty() {
            return Err(WireError::invalid(name, "must not be empty"));
        }
        if chars > TEXT_CHARS_MAX {
            return Err(WireError::invalid(name, format!("must have at most {TEXT_CHARS_MAX} characters")));
        }
        Ok((text, chars as u64))
    }

    fn one_of(&self, name: &'static str, words: &[&'static str]) -> Result<Option<&'static str>, WireError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let known = words.iter().find(|word| **word == text);
        known.map(|word| Some(*word)).ok_or_else(|| WireError::invalid(name, one_of(words)))
    }

    fn flag(&self, name: &'static str) -> Result<bool, WireError> {
        match self.object.get(name).map(RawValue::get) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(WireError::invalid(name, "must be true or false")),
        }
    }

    fn number(&self, name: &'static str) -> Result<Option<u64>, WireError> {
        let read =
            |value: &RawValue| value.get().parse().map_err(|_| WireError::invalid(name, "must be a whole number"));
        self.object.get(name).map(read).transpose()
    }

    fn tokens(&self, name: &'static str) -> Result<Option<u64>, WireError> {
        match self.number(name)? {
            Some(0) => Err(WireError::invalid(name, "must be at least 1")),
            number => Ok(number),
        }
    }

    fn up_to(&self, name: &'static str, most: u64) -> Result<Option<u64>, WireError> {
        match self.number(name)? {
            Some(number) if !(1..=most).contains(&number) => {
                Err(WireError::invalid(name, format!("must be from 1 to {most}")))
            }
            number => Ok(number),
        }
    }

    /// Whether an array has an entry.
    fn filled(&self, name: &str) -> bool {
        let mut entries = false;
        self.object.get(name).is_some_and(|value| each(value, |_| entries = true).is_ok() && entries)
    }

    fn json(&self) -> bool {
        #[derive(Deserialize)]
        struct Format<'a> {
            #[serde(borrow, default, rename = "type")]
            kind: Text<'a>,
        }
        let format =
            self.object.get("response_format").and_then(|value| serde_json::from_str::<Format<'_>>(value.get()).ok());
        format.is_some_and(|format| format.kind.starts_with("json"))
    }

    /// Whether usage is asked for, and where to change what.
    fn places(&self) -> Result<(bool, Places), WireError> {
        let at = |name: &str| self.object.0.iter().find(|(field, _)| field == name).map(|(_, value)| *value);
        let mut places = Places {
            body_len: self.body.len(),
            first: self.body.iter().position(|byte| *byte == b'{').map_or(0, |brace| brace + 1),
            model: at("model").map(|value| place(self.body, value)).unwrap_or_default(),
            stream_options: at("stream_options").map(|value| place(self.body, value)),
            null_max_tokens: at("max_tokens")
                .filter(|value| value.get() == "null")
                .map(|value| place(self.body, value)),
            ..Places::default()
        };
        let Some(options) = self.object.get("stream_options") else { return Ok((false, places)) };
        let wrong = || WireError::invalid("stream_options", "must be an object");
        let options: Object<'_> = serde_json::from_str(options.get()).map_err(|_| wrong())?;
        if options.doubled().is_some() {
            return Err(WireError::invalid("stream_options", "has a field twice"));
        }
        let include = options.0.iter().find(|(field, _)| field == "include_usage").map(|(_, value)| *value);
        places.include_usage = include.map(|value| place(self.body, value));
        match include.map(RawValue::get) {
            None | Some("false" | "null") => Ok((false, places)),
            Some("true") => Ok((true, places)),
            Some(_) => Err(WireError::invalid("stream_options.include_usage", "must be true or false")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field_and_code<T: std::fmt::Debug>(read: Result<T, WireError>) -> (Option<String>, &'static str) {
        let error = read.unwrap_err();
        (error.field().map(str::to_owned), error.code())
    }

    #[test]
    fn a_conversation_says_what_it_needs() {
        let body = br#"{
            "model": "openai/gpt-4o", "stream": true, "stream_options": {"include_usage": true}, "n": 2,
            "max_tokens": 100, "max_completion_tokens": 300, "tools": [{"type": "function"}],
            "response_format": {"type": "json_schema", "json_schema": {}}, "unknown": {"kept": [1.0]},
            "messages": [
                {"role": "system", "content": "short"}, {"role": "assistant", "content": null},
                {"role": "user", "content": [{"type": "text", "text": "what"}, {"type": "image_url", "image_url": {"url": "data:"}}]}
            ]}"#;
        let facts = read_chat(Dialect::OpenAi, body).unwrap();
        assert_eq!((facts.model.as_str(), facts.stream, facts.wants_usage), ("openai/gpt-4o", true, true));
        assert_eq!((facts.max_output_tokens, facts.answers), (Some(300), 2));
        assert_eq!(facts.needs, Needs { tools: true, images: true, json: true });
        let picture = br#"{"type": "image_url", "image_url": {"url": "data:"}}"#.len();
        assert_eq!(facts.estimated_input, estimate_input((body.len() - picture) as u64, 3, 1));

        let plain = read_chat(
            Dialect::OpenAi,
            br#"{"model":"m","messages":[{"content":"x"}],"tools":[],"n":null,"stream":null}"#,
        );
        let plain = plain.unwrap();
        assert_eq!(
            (plain.stream, plain.answers, plain.max_output_tokens, plain.needs),
            (false, 1, None, Needs::default())
        );

        let claude = br#"{"model":"m","max_tokens":5,"n":9,"messages":[{"role":"user","content":[
            {"type":"tool_result","tool_use_id":"t","content":[{"type":"image","source":{}}]}]}]}"#;
        let claude = read_chat(Dialect::Anthropic, claude).unwrap();
        assert_eq!((claude.max_output_tokens, claude.answers, claude.needs.images), (Some(5), 1, true));
    }

    #[test]
    fn what_is_wrong_with_a_conversation_is_named() {
        let table = [
            ("", None, "parse_error"),
            ("{", None, "parse_error"),
            ("{} x", None, "parse_error"),
            ("[]", None, "invalid_request"),
            ("{}", Some("model"), "missing_field"),
            (r#"{"model":null}"#, Some("model"), "missing_field"),
            (r#"{"model":7}"#, Some("model"), "invalid_request"),
            (r#"{"model":" "}"#, Some("model"), "invalid_request"),
            (r#"{"model":"a","model":"b","messages":[{}]}"#, Some("model"), "invalid_request"),
            (r#"{"model":"a","\u006dodel":"b","messages":[{}]}"#, Some("model"), "invalid_request"),
            (r#"{"model":"m"}"#, Some("messages"), "missing_field"),
            (r#"{"model":"m","messages":[]}"#, Some("messages"), "invalid_request"),
            (r#"{"model":"m","messages":"hi"}"#, Some("messages"), "invalid_request"),
            (r#"{"model":"m","messages":[{},1]}"#, Some("messages.1"), "invalid_request"),
            (r#"{"model":"m","messages":[["x"]]}"#, Some("messages.0"), "invalid_request"),
            (r#"{"model":"m","messages":[{}],"stream":"yes"}"#, Some("stream"), "invalid_request"),
            (r#"{"model":"m","messages":[{}],"max_tokens":0}"#, Some("max_tokens"), "invalid_request"),
            (r#"{"model":"m","messages":[{}],"max_tokens":-1}"#, Some("max_tokens"), "invalid_request"),
            (
                r#"{"model":"m","messages":[{}],"max_completion_tokens":1.5}"#,
                Some("max_completion_tokens"),
                "invalid_request",
            ),
            (r#"{"model":"m","messages":[{}],"n":5}"#, Some("n"), "invalid_request"),
            (r#"{"model":"m","messages":[{}],"n":0}"#, Some("n"), "invalid_request"),
            (r#"{"model":"m","messages":[{}],"stream_options":1}"#, Some("stream_options"), "invalid_request"),
            (
                r#"{"model":"m","messages":[{}],"stream_options":{"include_usage":1}}"#,
                Some("stream_options.include_usage"),
                "invalid_request",
            ),
        ];
        for (body, field, code) in table {
            let read = read_chat(Dialect::OpenAi, body.as_bytes());
            assert_eq!(field_and_code(read), (field.map(str::to_owned), code), "{body}");
        }
        let unbounded = read_chat(Dialect::Anthropic, br#"{"model":"m","messages":[{}]}"#);
        assert_eq!(field_and_code(unbounded), (Some("max_tokens".to_owned()), "missing_field"));
    }

    #[test]
    fn prompts_and_texts_are_counted() {
        let completion = |rest: &str| read_completion(format!("{{\"model\":\"m\",{rest}}}").as_bytes());
        let answers = [
            (r#""prompt":"x""#, 1),
            (r#""prompt":["x","y"],"n":3"#, 6),
            (r#""prompt":[1,2,3],"best_of":4,"n":2"#, 4),
            (r#""prompt":[[1],[2]]"#, 2),
        ];
        for (rest, expected) in answers {
            assert_eq!(completion(rest).unwrap().answers, expected, "{rest}");
        }
        let many = format!("\"prompt\":[{}\"x\"]", "\"x\",".repeat(16));
        for wrong in
            [r#""prompt":[]"#, r#""prompt":{}"#, r#""prompt":["x",1]"#, r#""prompt":[true]"#, r#""prompt":7"#, &many]
        {
            assert_eq!(completion(wrong).unwrap_err().field(), Some("prompt"), "{wrong}");
        }
        assert_eq!(completion(r#""best_of":1"#).unwrap_err(), WireError::missing("prompt"));
        assert_eq!(completion(r#""prompt":"x","best_of":20"#).unwrap_err().field(), Some("best_of"));
        let facts = read_embeddings(br#"{"model":"m","input":["one","two","three"]}"#).unwrap();
        assert_eq!((facts.inputs, facts.estimated_input), (3, estimate_input(44, 3, 0)));
        assert_eq!(read_embeddings(br#"{"model":"m"}"#).unwrap_err(), WireError::missing("input"));
    }

    #[test]
    fn speech_and_pictures_are_bounded() {
        let speech = |rest: &str| read_speech(format!("{{\"model\":\"m\",{rest}}}").as_bytes());
        let facts = speech(r#""input":"Grüße 🌍","voice":"21m00Tcm4TlvDq8ikWAM","response_format":"opus""#).unwrap();
        assert_eq!(
            (facts.characters, facts.voice.as_deref(), facts.format),
            (7, Some("21m00Tcm4TlvDq8ikWAM"), Some("opus"))
        );
        assert!(speech(&format!("\"input\":\"{}\"", "é".repeat(5000))).is_ok());
        let long = format!("\"input\":\"{}\"", "é".repeat(5001));
        let wrong = [
            (r#""voice":"a""#, "input"),
            (r#""input":"  ""#, "input"),
            (r#""input":7"#, "input"),
            (&*long, "input"),
            (r#""input":"x","voice":"../x""#, "voice"),
            (r#""input":"x","voice":"""#, "voice"),
            (r#""input":"x","voice":{"id":"x"}"#, "voice"),
            (r#""input":"x","response_format":"midi""#, "response_format"),
        ];
        for (rest, field) in wrong {
            assert_eq!(speech(rest).unwrap_err().field(), Some(field), "{rest}");
        }
        let image = |rest: &str| read_image(format!("{{\"model\":\"m\",\"prompt\":\"a cat\"{rest}}}").as_bytes());
        let facts = image(r#","n":4,"size":"1792x1024","response_format":"b64_json""#).unwrap();
        assert_eq!((facts.images, facts.size, facts.inline), (4, (1792, 1024), true));
        let facts = image("").unwrap();
        assert_eq!((facts.images, facts.size, facts.inline, facts.prompt.as_str()), (1, (1024, 1024), false, "a cat"));
        for (rest, field) in [
            (r#","n":5"#, "n"),
            (r#","size":"9999x9999""#, "size"),
            (r#","size":1"#, "size"),
            (r#","response_format":"x""#, "response_format"),
        ] {
            assert_eq!(image(rest).unwrap_err().field(), Some(field), "{rest}");
        }
    }

    const FORM: &str = "multipart/form-data; boundary=xYz";

    fn form(parts: &[(&str, &str)]) -> Bytes {
        let part =
            |(head, text): &(&str, &str)| format!("--xYz\r\nContent-Disposition: form-data; {head}\r\n\r\n{text}\r\n");
        Bytes::from(parts.iter().map(part).collect::<String>() + "--xYz--\r\n")
    }

    #[tokio::test]
    async fn a_form_with_a_recording_is_read() {
        let file = ("name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav", "RIFF\r\n--x");
        let model = ("name=\"model\"", "whisper-1");
        let more =
            [("name=\"language\"", "pt-BR"), ("name=\"response_format\"", "verbose_json"), ("name=\"prompt\"", "é")];
        let facts = read_transcription(FORM, &form(&[model, file, more[0], more[1], more[2]])).await.unwrap();
        assert_eq!(
            (facts.model.as_str(), facts.language.as_deref(), facts.format),
            ("whisper-1", Some("pt-BR"), "verbose_json")
        );
        assert_eq!((facts.file.as_ref(), facts.file_name.as_deref()), (b"RIFF\r\n--x".as_slice(), Some("a.wav")));
        assert_eq!(
            (facts.file_type.as_deref(), facts.others),
            (Some("audio/wav"), vec![("prompt".to_owned(), "é".to_owned())])
        );

        let long = "x".repeat(17 * 1024);
        let table: [(&[(&str, &str)], &str); 10] = [
            (&[model], "file"),
            (&[file], "model"),
            (&[model, file, file], "file"),
            (&[model, model, file], "model"),
            (&[model, ("name=\"file\"; filename=\"a\"", "")], "file"),
            (&[model, file, ("name=\"language\"", "../x")], "language"),
            (&[model, file, ("name=\"response_format\"", "xml")], "response_format"),
            (&[model, file, ("name=\"stream\"", "true")], "stream"),
            (&[model, file, ("name=\"prompt\"", &long)], "body"),
            (&[model; 33], "body"),
        ];
        for (parts, field) in table {
            let read = read_transcription(FORM, &form(parts)).await;
            assert_eq!(read.unwrap_err().field(), Some(field), "{parts:?}");
        }
        let strange = form(&[model, file, ("name=\"prompt\"", "caf%")]);
        let strange: Vec<u8> = strange.iter().map(|byte| if *byte == b'%' { 0xe9 } else { *byte }).collect();
        let read = read_transcription(FORM, &strange.into()).await;
        assert_eq!(read.unwrap_err().field(), Some("prompt"), "no other text is made of it");
        let whole = form(&[model, file]);
        assert!(read_transcription("application/json", &whole).await.is_err());
        for cut in 0..whole.len() - "--\r\n".len() {
            assert!(read_transcription(FORM, &whole.slice(..cut)).await.is_err(), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(
            body in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..200),
                "\\{(\"(model|messages|stream_options|max_tokens|input|prompt|n|content)\" ?: ?(\"x\"|\\[\\{\\}\\]|null|1|\\{\\}|\\[\\[1\\]\\]),?){0,6}\\}".prop_map(String::into_bytes),
            ],
        ) {
            for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
                if let Ok(facts) = read_chat(dialect, &body) {
                    let prepared = super::super::prepare(&Bytes::from(body.clone()), &facts, "other", true, Some(1));
                    prop_assert_eq!(read_chat(dialect, &prepared).unwrap().model, "other");
                }
            }
            let _ = (read_completion(&body), read_embeddings(&body), read_speech(&body), read_image(&body));
            let form = futures_util::FutureExt::now_or_never(read_transcription(FORM, &Bytes::from(body)));
            prop_assert!(form.is_some_and(|read| read.is_err()));
        }
    }
}
