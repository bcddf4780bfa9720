//! What is asked, read as far as it must be known.

use bytes::Bytes;

use super::error::GatewayError;
use super::model::{Capability, Dialect, TokenUsage, Usage};
use super::ports::CallBody;
use super::wire::{
    self, ChatFacts, EmbeddingFacts, ImageFacts, SpeechFacts, TokenCounter, TranscriptionFacts, WireError,
};

/// Sound is never stored in fewer bytes for a second: 32 kbit/s is where speech begins to be hard to follow.
const AUDIO_BYTES_PER_SECOND: u64 = 4_000;

/// A call as a client makes it.
#[derive(Debug, Clone)]
pub struct Question {
    /// What is asked for.
    pub capability: Capability,
    /// How the body is written, and the answer is wanted.
    pub dialect: Dialect,
    /// The whole body.
    pub body: Bytes,
    /// Its type; only forms need it.
    pub content_type: Option<String>,
}

/// What is known of a question.
#[derive(Debug, Clone)]
pub(super) enum Facts {
    Text(ChatFacts),
    Embeddings(EmbeddingFacts),
    Speech(SpeechFacts),
    Image(ImageFacts),
    Transcription(TranscriptionFacts),
}

/// The bound of an answer that the client set none for.
#[derive(Debug, Clone, Copy)]
pub(super) struct MostOutput {
    pub(super) tokens: u64,
    /// It is set only where a wire needs one: whoever pays the provider for themselves needs no bound of ours.
    pub(super) only_where_needed: bool,
}

impl MostOutput {
    fn when_absent(self, dialect: Dialect) -> Option<u64> {
        (!self.only_where_needed || dialect == Dialect::Anthropic).then_some(self.tokens)
    }
}

impl Facts {
    pub(super) async fn read(question: &Question) -> Result<Self, GatewayError> {
        let body = &question.body;
        Ok(match question.capability {
            Capability::ChatCompletions => Self::Text(wire::read_chat(question.dialect, body)?),
            Capability::TextCompletions => Self::Text(wire::read_completion(body)?),
            Capability::Embeddings => Self::Embeddings(wire::read_embeddings(body)?),
            Capability::Tts => Self::Speech(wire::read_speech(body)?),
            Capability::ImageGeneration => Self::Image(wire::read_image(body)?),
            Capability::Transcription => {
                let content_type = question.content_type.as_deref().unwrap_or_default();
                Self::Transcription(wire::read_transcription(content_type, body).await?)
            }
        })
    }

    pub(super) fn model(&self) -> &str {
        match self {
            Self::Text(facts) => &facts.model,
            Self::Embeddings(facts) => &facts.model,
            Self::Speech(facts) => &facts.model,
            Self::Image(facts) => &facts.model,
            Self::Transcription(facts) => &facts.model,
        }
    }

    pub(super) fn stream(&self) -> bool {
        matches!(self, Self::Text(facts) if facts.stream)
    }

    /// The most that a call can use. `most_output` bounds an answer that the client set no bound for.
    pub(super) fn most(&self, most_output: u64) -> Usage {
        match self {
            Self::Text(facts) => Usage::Tokens(TokenUsage {
                input: facts.estimated_input,
                output: facts.max_output_tokens.unwrap_or(most_output).saturating_mul(facts.answers.max(1)),
                ..TokenUsage::default()
            }),
            Self::Embeddings(facts) => {
                Usage::Tokens(TokenUsage { input: facts.estimated_input, ..TokenUsage::default() })
            }
            Self::Speech(facts) => Usage::Characters(facts.characters),
            Self::Image(facts) => Usage::Images(facts.images),
            Self::Transcription(facts) => {
                Usage::AudioMillis((facts.file.len() as u64).saturating_mul(1_000) / AUDIO_BYTES_PER_SECOND + 1_000)
            }
        }
    }

    /// What was used for certain once there is an answer; nothing if only the answer says.
    pub(super) fn given(&self) -> Option<Usage> {
        match self {
            Self::Speech(facts) => Some(Usage::Characters(facts.characters)),
            Self::Image(facts) => Some(Usage::Images(facts.images)),
            Self::Text(_) | Self::Embeddings(_) | Self::Transcription(_) => None,
        }
    }

    /// The tokens of the question, counted because nobody said them.
    pub(super) fn counted_input(&self, body: &[u8]) -> u64 {
        let mut counter = TokenCounter::default();
        counter.push(&String::from_utf8_lossy(body));
        match self {
            Self::Text(facts) => counter.tokens().min(facts.estimated_input),
            Self::Embeddings(facts) => counter.tokens().min(facts.estimated_input),
            Self::Speech(_) | Self::Image(_) | Self::Transcription(_) => 0,
        }
    }

    /// The question as a provider gets it. A client that sets a bound has its own.
    pub(super) fn body_for(
        &self,
        question: &Question,
        dialect: Dialect,
        model: &str,
        most_output: MostOutput,
    ) -> Result<CallBody, WireError> {
        let body = &question.body;
        Ok(match self {
            Self::Text(facts) if question.dialect == dialect => {
                let ask_usage = dialect == Dialect::OpenAi;
                CallBody::Json(wire::prepare(body, facts, model, ask_usage, most_output.when_absent(dialect)))
            }
            Self::Text(_) => {
                CallBody::Json(wire::translate_request(question.dialect, dialect, body, model, most_output.tokens)?)
            }
            Self::Embeddings(EmbeddingFacts { places, .. })
            | Self::Speech(SpeechFacts { places, .. })
            | Self::Image(ImageFacts { places, .. }) => CallBody::Json(wire::with_model(body, places, model)),
            Self::Transcription(_) => {
                CallBody::Form { content_type: question.content_type.clone().unwrap_or_default(), bytes: body.clone() }
            }
        })
    }
}
