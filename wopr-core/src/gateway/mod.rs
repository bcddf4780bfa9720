//! Calls to models: whoever calls is known, what a call may cost is set aside before it, and what it did cost is
//! written down before its answer ends.

mod model;
mod ports;
pub mod wire;

pub use self::model::{Capability, Dialect, TokenUsage, Usage};
pub use self::ports::{AnswerBody, CallBody, ModelProvider, ProviderAnswer, ProviderCall, ProviderError};
