//! What is written down of a call.

use std::borrow::Borrow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::price::Explanation;
use crate::money::Money;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The whole answer was there.
    Completed,
    /// The caller left before its end; what was produced until then is charged.
    ClientLeft,
    /// No provider answered, or the answer broke off; what was produced until then is charged.
    ProviderFailed,
    /// This process ended in the middle; what was known of it then is charged.
    Interrupted,
}

impl Outcome {
    /// The stored and public word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientLeft => "client-left",
            Self::ProviderFailed => "provider-failed",
            Self::Interrupted => "interrupted",
        }
    }

    /// The outcome of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        let all = [Self::Completed, Self::ClientLeft, Self::ProviderFailed, Self::Interrupted];
        all.into_iter().find(|outcome| outcome.as_str() == word)
    }
}

/// Where the quantities come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UsageSource {
    /// The provider said them, or they follow from what was asked.
    Reported,
    /// Counted from what passed, because the provider said nothing.
    Estimated,
    /// Nothing was used.
    None,
}

impl UsageSource {
    /// The stored and public word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Estimated => "estimated",
            Self::None => "none",
        }
    }
}

/// One call, from its admission to its charge. It is a line of the journal and, later, a row; the names are the row's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    /// The call.
    pub id: Uuid,
    /// Who pays.
    pub tenant_id: Uuid,
    /// The bot that called, if it was one.
    pub bot_id: Option<Uuid>,
    /// The key it called with.
    pub key_id: Uuid,
    /// What was asked for.
    pub capability: String,
    /// The model that was asked for.
    pub model_asked: String,
    /// The provider's name of the model that answered.
    pub model_served: Option<String>,
    /// Who answered: the name of a provider, or `gpu-<service>` for our own machines.
    pub provider: Option<String>,
    /// Which of our own machines, if it was one.
    #[serde(default)]
    pub machine: Option<String>,
    /// Whether the tenant's own account at the provider pays for it.
    #[serde(default)]
    pub byok: bool,
    /// How many providers were asked.
    pub attempts: u8,
    /// Whether the answer came as events.
    pub streamed: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// Tokens read, characters, milliseconds or pictures.
    pub input_units: i64,
    /// Tokens read from a cache.
    pub cached_units: i64,
    /// Tokens written.
    pub output_units: i64,
    /// Where these come from.
    pub usage_source: UsageSource,
    /// How the charge came about.
    pub explanation: Explanation,
    /// What it cost us.
    pub cost_nanos: Money,
    /// What is charged.
    pub charge_nanos: Money,
    /// What was set aside for it.
    pub reserved_nanos: Money,
    /// When it was let in.
    pub started_at: Timestamp,
    /// How long until the first part of the answer was there.
    pub first_byte_ms: Option<u32>,
    /// When it ended.
    pub ended_at: Timestamp,
}

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line<C = CallRecord> {
    /// A provider is about to be asked.
    Begun(C),
    /// What is known of a call in progress: what it is charged if nothing follows.
    Progress(C),
    /// It ended, and is to be charged.
    Ended(C),
}

impl<C: Borrow<CallRecord>> Line<C> {
    /// The call.
    pub fn call(&self) -> &CallRecord {
        match self {
            Self::Begun(call) | Self::Progress(call) | Self::Ended(call) => call.borrow(),
        }
    }
}
