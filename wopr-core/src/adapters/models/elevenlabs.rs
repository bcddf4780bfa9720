//! ElevenLabs. <https://elevenlabs.io/docs/api-reference/text-to-speech/convert>

use async_trait::async_trait;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::CONTENT_TYPE;
use secrecy::SecretString;
use serde_json::json;

use super::exchange::{Exchange, NoModelProvider, Patience, not_offered};
use crate::gateway::wire::read_speech;
use crate::gateway::{
    CallBody, Capability, Dialect, ModelProvider, ProviderAnswer, ProviderCall, ProviderError, Usage,
};

const ADDRESS: &str = "https://api.elevenlabs.io";
/// One of the voices that every account has.
const VOICE: &str = "21m00Tcm4TlvDq8ikWAM";
/// OpenAI's formats and ElevenLabs'.
const FORMATS: [(&str, &str); 3] = [("mp3", "mp3_44100_128"), ("opus", "opus_48000_128"), ("pcm", "pcm_24000")];

/// ElevenLabs' speech.
#[derive(Debug, Clone)]
pub struct ElevenLabs {
    exchange: Exchange,
}

impl ElevenLabs {
    /// The account of that key, at ElevenLabs' own address if no other is given.
    ///
    /// # Errors
    /// [`NoModelProvider`].
    pub fn new(key: SecretString, address: Option<&str>, patience: Patience) -> Result<Self, NoModelProvider> {
        let exchange = Exchange::new("elevenlabs", address.unwrap_or(ADDRESS), patience)?;
        Ok(Self { exchange: exchange.with_key("xi-api-key", "", key)? })
    }
}

#[async_trait]
impl ModelProvider for ElevenLabs {
    fn name(&self) -> &str {
        self.exchange.name()
    }

    fn dialects(&self, capability: Capability) -> &[Dialect] {
        if capability == Capability::Tts { &[Dialect::OpenAi] } else { &[] }
    }

    async fn call(&self, call: ProviderCall) -> Result<ProviderAnswer, ProviderError> {
        let (CallBody::Json(body), Capability::Tts) = (&call.body, call.capability) else {
            return Err(not_offered("only speech is offered"));
        };
        let facts = read_speech(body).map_err(|error| not_offered(&error.to_string()))?;
        let wanted = facts.format.unwrap_or("mp3");
        let format = FORMATS.iter().find(|(known, _)| *known == wanted).map(|(_, format)| *format);
        let format =
            format.ok_or_else(|| not_offered("response_format must be one of mp3, opus, pcm for this model"))?;
        let voice = utf8_percent_encode(facts.voice.as_deref().unwrap_or(VOICE), NON_ALPHANUMERIC);
        let spoken = json!({
            "text": facts.input,
            "model_id": call.model,
            "voice_settings": { "stability": 0.5, "similarity_boost": 0.75 },
        });
        let deadline = self.exchange.deadline(call.capability, call.stream);
        let request = self.exchange.post(&format!("/v1/text-to-speech/{voice}")).query(&[("output_format", format)]);
        let request = request.header(CONTENT_TYPE, "application/json").body(spoken.to_string());
        let response = self.exchange.ask(request, deadline).await?;
        self.exchange.pass(response, deadline, Some(Usage::Characters(facts.characters))).await
    }
}
