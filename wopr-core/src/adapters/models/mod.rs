//! Providers of models over HTTP.
//!
//! Each has a client of its own, which follows no redirect and keeps connections open. A credential travels in a header and
//! is in no error and no log.

mod anthropic;
mod deepgram;
mod elevenlabs;
mod exchange;
mod keyed;
mod openai;
mod replicate;
mod transcript;

pub use self::anthropic::Anthropic;
pub use self::deepgram::Deepgram;
pub use self::elevenlabs::ElevenLabs;
pub use self::exchange::{NoModelProvider, Patience};
pub use self::keyed::{KeyedAddresses, KeyedModels};
pub use self::openai::OpenAiCompatible;
pub use self::replicate::Replicate;
