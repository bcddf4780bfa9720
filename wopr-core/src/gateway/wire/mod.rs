//! How calls and answers are written: read, changed as little as needed, and translated. Nothing here waits or connects.

mod decimal;
mod error;
mod filter;
mod json;
mod meter;
mod prepare;
#[cfg(test)]
mod recordings;
mod request;
mod shapes;
mod sse;
mod tokens;
mod translate;

#[cfg(feature = "models")]
pub(crate) use self::decimal::nanos;
pub use self::error::WireError;
pub use self::filter::UsageFilter;
pub use self::meter::{StreamMeter, counted_tokens_of_answer, usage_of_answer};
pub use self::prepare::{prepare, with_model};
pub use self::request::{
    ANSWERS_MAX, ChatFacts, EMBEDDING_INPUTS_MAX, EmbeddingFacts, FORM_BYTES_MAX, ImageFacts, Needs, PROMPTS_MAX,
    Places, SpeechFacts, TEXT_CHARS_MAX, TranscriptionFacts, read_chat, read_completion, read_embeddings, read_image,
    read_speech, read_transcription,
};
pub use self::sse::{EVENT_BYTES_MAX, SseEvent, SseParser, TooLong};
pub use self::tokens::{TokenCounter, estimate_input};
pub use self::translate::{
    BrokenAnswer, StreamTranslator, stream_end_at_bound, stream_error, translate_answer, translate_request,
};
