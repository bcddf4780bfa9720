//! Answers as providers write them, as far as they are read.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::decimal::dollars;
use super::json::{Text, count};
use crate::gateway::model::TokenUsage;

/// Usage as OpenAI and all who speak like it write it; `cost` is OpenRouter's, in dollars:
/// <https://openrouter.ai/docs/use-cases/usage-accounting>.
pub(super) fn chat_usage(usage: &RawValue) -> Option<TokenUsage> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow)]
        prompt_tokens: Option<&'a RawValue>,
        #[serde(borrow)]
        completion_tokens: Option<&'a RawValue>,
        #[serde(borrow)]
        total_tokens: Option<&'a RawValue>,
        #[serde(borrow)]
        prompt_tokens_details: Option<&'a RawValue>,
        #[serde(borrow)]
        cost: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Details<'a> {
        #[serde(borrow)]
        cached_tokens: Option<&'a RawValue>,
    }
    let fields: Fields<'_> = serde_json::from_str(usage.get()).ok()?;
    let total = count(fields.total_tokens);
    let (input, output) = match (count(fields.prompt_tokens), count(fields.completion_tokens)) {
        (Some(input), Some(output)) => (input, output),
        (Some(input), None) => (input, total.unwrap_or(input).saturating_sub(input)),
        (None, Some(output)) => (total?.saturating_sub(output), output),
        (None, None) => return None,
    };
    let details =
        fields.prompt_tokens_details.and_then(|details| serde_json::from_str::<Details<'_>>(details.get()).ok());
    let cached_input = details.and_then(|details| count(details.cached_tokens)).unwrap_or(0).min(input);
    // Nobody pays us for asking: a cost below nothing is no cost that was said.
    let cost = fields.cost.and_then(|cost| dollars(cost.get())).filter(|cost| !cost.is_negative());
    Some(TokenUsage { input, cached_input, output, cost })
}

/// Usage as Anthropic says it, in parts; later parts replace what they say again.
#[derive(Debug, Default)]
pub(super) struct MessagesTokens {
    pub(super) input: Option<u64>,
    pub(super) cache_creation: Option<u64>,
    pub(super) cache_read: Option<u64>,
    pub(super) output: Option<u64>,
    /// Whether the last word on it was said.
    pub(super) complete: bool,
}

impl MessagesTokens {
    pub(super) fn read(&mut self, usage: &RawValue) {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(borrow)]
            input_tokens: Option<&'a RawValue>,
            #[serde(borrow)]
            cache_creation_input_tokens: Option<&'a RawValue>,
            #[serde(borrow)]
            cache_read_input_tokens: Option<&'a RawValue>,
            #[serde(borrow)]
            output_tokens: Option<&'a RawValue>,
        }
        let Ok(fields) = serde_json::from_str::<Fields<'_>>(usage.get()) else { return };
        self.input = count(fields.input_tokens).or(self.input);
        self.cache_creation = count(fields.cache_creation_input_tokens).or(self.cache_creation);
        self.cache_read = count(fields.cache_read_input_tokens).or(self.cache_read);
        self.output = count(fields.output_tokens).or(self.output);
    }

    /// Anthropic's `input_tokens` are those that have nothing to do with a cache:
    /// <https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching#tracking-cache-performance>.
    pub(super) fn usage(&self, counted: u64) -> Option<TokenUsage> {
        if self.input.is_none() && self.output.is_none() {
            return None;
        }
        let cached_input = self.cache_read.unwrap_or(0);
        let parts = [self.input.unwrap_or(0), self.cache_creation.unwrap_or(0)];
        let input = parts.into_iter().fold(cached_input, u64::saturating_add);
        let said = self.output.unwrap_or(0);
        let output = if self.complete { said } else { said.max(counted) };
        Some(TokenUsage { input, cached_input, output, cost: None })
    }
}

/// A chunk of an OpenAI stream, or a whole answer.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Chunk<'a> {
    #[serde(borrow)]
    pub(super) id: Text<'a>,
    #[serde(borrow)]
    pub(super) choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow)]
    pub(super) usage: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) error: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Choice<'a> {
    #[serde(borrow)]
    pub(super) index: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) delta: Option<Said<'a>>,
    #[serde(borrow)]
    pub(super) message: Option<Said<'a>>,
    #[serde(borrow)]
    pub(super) text: Text<'a>,
    #[serde(borrow)]
    pub(super) finish_reason: Option<Text<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Said<'a> {
    #[serde(borrow)]
    pub(super) content: Text<'a>,
    #[serde(borrow)]
    pub(super) refusal: Text<'a>,
    #[serde(borrow)]
    pub(super) reasoning: Text<'a>,
    #[serde(borrow)]
    pub(super) reasoning_content: Text<'a>,
    #[serde(borrow)]
    pub(super) tool_calls: Option<Vec<ToolCall<'a>>>,
    #[serde(borrow)]
    pub(super) function_call: Option<Function<'a>>,
}

impl Said<'_> {
    pub(super) fn each(&self, mut written: impl FnMut(&str)) {
        // Some say the same thoughts under both names.
        let thoughts = if self.reasoning.is_empty() { &self.reasoning_content } else { &self.reasoning };
        for text in [thoughts, &self.content, &self.refusal] {
            written(text);
        }
        let tools = self.tool_calls.iter().flatten().filter_map(|call| call.function.as_ref());
        for function in tools.chain(&self.function_call) {
            written(&function.name);
            written(&function.arguments);
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ToolCall<'a> {
    #[serde(borrow)]
    pub(super) index: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) id: Text<'a>,
    #[serde(borrow)]
    pub(super) function: Option<Function<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Function<'a> {
    #[serde(borrow)]
    pub(super) name: Text<'a>,
    #[serde(borrow)]
    pub(super) arguments: Text<'a>,
}

/// An event of an Anthropic stream.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct MessageEvent<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow)]
    pub(super) index: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) message: Option<Message<'a>>,
    #[serde(borrow)]
    pub(super) content_block: Option<Block<'a>>,
    #[serde(borrow)]
    pub(super) delta: Option<MessageDelta<'a>>,
    #[serde(borrow)]
    pub(super) usage: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    pub(super) id: Text<'a>,
    #[serde(borrow)]
    pub(super) stop_reason: Text<'a>,
    #[serde(borrow)]
    pub(super) usage: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) content: Option<Vec<Block<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Block<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow)]
    pub(super) id: Text<'a>,
    #[serde(borrow)]
    pub(super) text: Text<'a>,
    #[serde(borrow)]
    pub(super) thinking: Text<'a>,
    #[serde(borrow)]
    pub(super) name: Text<'a>,
    #[serde(borrow)]
    pub(super) input: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct MessageDelta<'a> {
    #[serde(borrow)]
    pub(super) text: Text<'a>,
    #[serde(borrow)]
    pub(super) partial_json: Text<'a>,
    #[serde(borrow)]
    pub(super) thinking: Text<'a>,
    #[serde(borrow)]
    pub(super) stop_reason: Text<'a>,
}
