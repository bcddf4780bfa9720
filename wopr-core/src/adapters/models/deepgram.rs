//! Deepgram. <https://developers.deepgram.com/reference/speech-to-text/listen-pre-recorded>

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::CONTENT_TYPE;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::exchange::{Exchange, NoModelProvider, Patience, made};
use super::transcript::{Segment, form_of, media_type, millis, reduced};
use crate::gateway::{Capability, Dialect, ModelProvider, ProviderAnswer, ProviderCall, ProviderError, Usage};

const ADDRESS: &str = "https://api.deepgram.com";

/// Deepgram's transcripts.
#[derive(Debug, Clone)]
pub struct Deepgram {
    exchange: Exchange,
}

impl Deepgram {
    /// The account of that key, at Deepgram's own address if no other is given.
    ///
    /// # Errors
    /// [`NoModelProvider`].
    pub fn new(key: SecretString, address: Option<&str>, patience: Patience) -> Result<Self, NoModelProvider> {
        let exchange = Exchange::new("deepgram", address.unwrap_or(ADDRESS), patience)?;
        Ok(Self { exchange: exchange.with_key("authorization", "Token ", key)? })
    }
}

#[derive(Deserialize)]
struct Heard<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow)]
    results: Results<'a>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    duration: &'a RawValue,
}

#[derive(Deserialize)]
struct Results<'a> {
    #[serde(borrow)]
    channels: Vec<Channel<'a>>,
    #[serde(borrow, default)]
    utterances: Vec<Utterance<'a>>,
}

#[derive(Deserialize)]
struct Channel<'a> {
    #[serde(borrow)]
    alternatives: Vec<Alternative<'a>>,
    detected_language: Option<String>,
}

#[derive(Deserialize)]
struct Alternative<'a> {
    transcript: String,
    #[serde(borrow, default)]
    words: Vec<Word<'a>>,
}

#[derive(Deserialize, Serialize)]
struct Word<'a> {
    word: String,
    #[serde(borrow)]
    start: &'a RawValue,
    #[serde(borrow)]
    end: &'a RawValue,
}

#[derive(Deserialize)]
struct Utterance<'a> {
    #[serde(borrow)]
    start: &'a RawValue,
    #[serde(borrow)]
    end: &'a RawValue,
    transcript: String,
}

/// A transcript as OpenAI's `verbose_json` has it.
#[derive(Serialize)]
struct Verbose<'a> {
    task: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<String>,
    duration: &'a RawValue,
    text: String,
    segments: Vec<Numbered<'a>>,
    words: Vec<Word<'a>>,
}

#[derive(Serialize)]
struct Numbered<'a> {
    id: usize,
    #[serde(flatten)]
    segment: Segment<'a>,
}

fn verbose(heard: &[u8], language: Option<String>) -> Result<(Bytes, u64), ProviderError> {
    let broken = || ProviderError::Broken("it is no transcript".to_owned());
    let heard: Heard<'_> = serde_json::from_slice(heard).map_err(|_| broken())?;
    let duration = heard.metadata.duration;
    let channel = heard.results.channels.into_iter().next().ok_or_else(broken)?;
    let best = channel.alternatives.into_iter().next().ok_or_else(broken)?;
    let segments = heard.results.utterances.into_iter().enumerate();
    let verbose = Verbose {
        task: "transcribe",
        language: channel.detected_language.or(language),
        duration,
        text: best.transcript,
        segments: segments
            .map(|(id, part)| Numbered {
                id,
                segment: Segment { start: part.start, end: part.end, text: part.transcript },
            })
            .collect(),
        words: best.words,
    };
    let millis = millis(duration).ok_or_else(broken)?;
    Ok((serde_json::to_vec(&verbose).map_err(|_| broken())?.into(), millis))
}

#[async_trait]
impl ModelProvider for Deepgram {
    fn name(&self) -> &str {
        self.exchange.name()
    }

    fn dialects(&self, capability: Capability) -> &[Dialect] {
        if capability == Capability::Transcription { &[Dialect::OpenAi] } else { &[] }
    }

    async fn call(&self, call: ProviderCall) -> Result<ProviderAnswer, ProviderError> {
        let facts = form_of(&call.body).await?;
        let mut query = vec![("model", call.model.as_str()), ("smart_format", "true"), ("utterances", "true")];
        query.push(match &facts.language {
            Some(language) => ("language", language),
            None => ("detect_language", "true"),
        });
        let deadline = self.exchange.deadline(call.capability, false);
        let request = self.exchange.post("/v1/listen").query(&query).header(CONTENT_TYPE, media_type(&facts));
        let response = self.exchange.ask(request.body(facts.file.clone()), deadline).await?;
        let heard = self.exchange.read(response, deadline).await?;
        let (whole, millis) = verbose(&heard, facts.language)?;
        let (content_type, body, _) = reduced(whole, facts.format)?;
        Ok(made(content_type, body, Some(Usage::AudioMillis(millis))))
    }
}
