//! The vocabulary of calls.

use std::fmt;

use crate::money::Money;

/// What a call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// A conversation.
    ChatCompletions,
    /// A text that is gone on with.
    TextCompletions,
    /// Vectors of texts.
    Embeddings,
    /// Text of speech.
    Transcription,
    /// Speech of text.
    Tts,
    /// Pictures.
    ImageGeneration,
}

impl Capability {
    /// Every capability.
    pub const ALL: [Self; 6] = [
        Self::ChatCompletions,
        Self::TextCompletions,
        Self::Embeddings,
        Self::Transcription,
        Self::Tts,
        Self::ImageGeneration,
    ];

    /// Its position in [`Capability::ALL`].
    pub(super) const fn index(self) -> usize {
        match self {
            Self::ChatCompletions => 0,
            Self::TextCompletions => 1,
            Self::Embeddings => 2,
            Self::Transcription => 3,
            Self::Tts => 4,
            Self::ImageGeneration => 5,
        }
    }

    /// Whether what is used of it are tokens.
    pub const fn is_counted_in_tokens(self) -> bool {
        matches!(self, Self::ChatCompletions | Self::TextCompletions | Self::Embeddings)
    }

    /// The stored and public word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat-completions",
            Self::TextCompletions => "text-completions",
            Self::Embeddings => "embeddings",
            Self::Transcription => "transcription",
            Self::Tts => "tts",
            Self::ImageGeneration => "image-generation",
        }
    }

    /// The capability of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|capability| capability.as_str() == word)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How bodies and event streams are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// As OpenAI does: chat completions, completions, embeddings, audio, images.
    OpenAi,
    /// As Anthropic does: messages.
    Anthropic,
}

impl Dialect {
    /// The stored word.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
        }
    }
}

/// What a call used, in what it is charged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Tokens of a model.
    Tokens(TokenUsage),
    /// Characters that were spoken.
    Characters(u64),
    /// Milliseconds of sound that were heard.
    AudioMillis(u64),
    /// Pictures that were made.
    Images(u64),
}

/// Tokens of one call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenUsage {
    /// Tokens that were read, those from a cache included.
    pub input: u64,
    /// Of these, the ones read from a cache.
    pub cached_input: u64,
    /// Tokens that were written.
    pub output: u64,
    /// What the provider says the call cost us, if it does.
    pub cost: Option<Money>,
}
