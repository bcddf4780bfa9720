//! What every provider of models is asked and answers by.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::time::{Instant, timeout, timeout_at};

use super::super::http::{NoHttpClient, builder};
use crate::gateway::{AnswerBody, Capability, ProviderAnswer, ProviderError, Usage};

/// As much of an answer that is no success is read.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// As much of an answer that is read as a whole: hours of speech with the time of every word.
pub(super) const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What a tenant is shown of a refusal.
const MESSAGE_CHARS_MAX: usize = 300;
/// A word this long, with letters and digits, may be a key.
const KEY_CHARS_MIN: usize = 24;
/// Nobody is believed to want to be left alone for longer.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);
/// Connections that nobody uses are closed after this.
const POOL_IDLE: Duration = Duration::from_secs(90);

/// How long a provider is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the first byte of an answer of a language model that is streamed, and of vectors.
    pub first_byte: Duration,
    /// For the first byte of speech.
    pub first_sound: Duration,
    /// For the first byte of an answer that is made as a whole before it is sent: pictures, transcripts, and conversations
    /// that are not streamed.
    pub whole: Duration,
    /// Between two parts of an answer.
    pub idle: Duration,
    /// For everything together.
    pub total: Duration,
    /// Between two looks at a picture that is being made.
    pub poll: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_mins(1),
            first_sound: Duration::from_secs(30),
            whole: Duration::from_mins(5),
            idle: Duration::from_mins(1),
            total: Duration::from_mins(10),
            poll: Duration::from_secs(1),
        }
    }
}

impl Patience {
    fn first(&self, capability: Capability, stream: bool) -> Duration {
        match capability {
            Capability::ChatCompletions | Capability::TextCompletions if stream => self.first_byte,
            Capability::Embeddings => self.first_byte,
            Capability::Tts => self.first_sound,
            Capability::ChatCompletions
            | Capability::TextCompletions
            | Capability::Transcription
            | Capability::ImageGeneration => self.whole,
        }
    }
}

/// A provider of models cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum NoModelProvider {
    /// There is no client.
    #[error(transparent)]
    Client(#[from] NoHttpClient),
    /// Its address is none.
    #[error("the address of a provider of models must begin with http:// or https://")]
    Address,
    /// A header, such as that of the key, has characters that no header has.
    #[error("the header {0} of a provider of models cannot be sent")]
    Header(String),
}

/// Where a provider is, who we are there, and how long it is waited for.
#[derive(Debug, Clone)]
pub(super) struct Exchange {
    name: String,
    address: String,
    client: reqwest::Client,
    key: Option<Key>,
    headers: HeaderMap,
    pub(super) patience: Patience,
}

#[derive(Debug, Clone)]
struct Key {
    header: HeaderName,
    scheme: &'static str,
    secret: SecretString,
}

impl Key {
    fn value(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("{}{}", self.scheme, self.secret.expose_secret())).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl Exchange {
    pub(super) fn new(name: &str, address: &str, patience: Patience) -> Result<Self, NoModelProvider> {
        let url = Url::parse(address).map_err(|_| NoModelProvider::Address)?;
        if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() || url.query().is_some() {
            return Err(NoModelProvider::Address);
        }
        let client = builder(&["h2", "http/1.1"])?
            .connect_timeout(patience.connect)
            .timeout(patience.total)
            .pool_idle_timeout(POOL_IDLE)
            .build()
            .map_err(|error| NoHttpClient(Box::new(error)))?;
        let address = address.trim_end_matches('/').to_owned();
        Ok(Self { name: name.to_owned(), address, client, key: None, headers: HeaderMap::new(), patience })
    }

    /// Sends the key with every request, after `scheme`.
    pub(super) fn with_key(
        mut self,
        header: &'static str,
        scheme: &'static str,
        secret: SecretString,
    ) -> Result<Self, NoModelProvider> {
        let key = Key { header: HeaderName::from_static(header), scheme, secret };
        key.value().ok_or_else(|| NoModelProvider::Header(header.to_owned()))?;
        self.key = Some(key);
        Ok(self)
    }

    pub(super) fn with_header(mut self, name: &str, value: &str) -> Result<Self, NoModelProvider> {
        let wrong = || NoModelProvider::Header(name.to_owned());
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        self.headers.insert(header, HeaderValue::from_str(value).map_err(|_| wrong())?);
        Ok(self)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.address)).headers(self.headers.clone());
        match self.key.as_ref().and_then(|key| Some((key.header.clone(), key.value()?))) {
            Some((header, value)) => request.header(header, value),
            None => request,
        }
    }

    /// Something that the provider said lies elsewhere. Our key stays here.
    pub(super) fn elsewhere(&self, url: Url) -> RequestBuilder {
        self.client.get(url)
    }

    /// Whether it is the provider's own address that a URL leads to.
    pub(super) fn is_here(&self, url: &Url) -> bool {
        Url::parse(&self.address).is_ok_and(|here| here.origin() == url.origin())
    }

    /// Until when the first byte of an answer must be there.
    pub(super) fn deadline(&self, capability: Capability, stream: bool) -> Instant {
        Instant::now() + self.patience.first(capability, stream)
    }

    /// Asks, and gives a successful answer whose body was not read.
    pub(super) async fn ask(&self, request: RequestBuilder, deadline: Instant) -> Result<Response, ProviderError> {
        let answered = timeout_at(deadline, request.send()).await.map_err(|_| ProviderError::TimedOut)?;
        let response = answered.map_err(|error| lost(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, headers) = (response.status(), response.headers().clone());
        // Without its body, a failure is told by its status.
        let body = timeout_at(deadline, self.beginning(response)).await.unwrap_or_default();
        Err(self.failure(status, &headers, &body))
    }

    /// Passes the body of an answer on as it comes, once its first part is there.
    pub(super) async fn pass(
        &self,
        mut response: Response,
        deadline: Instant,
        usage: Option<Usage>,
    ) -> Result<ProviderAnswer, ProviderError> {
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or("application/octet-stream").to_owned();
        let first = timeout_at(deadline, response.chunk()).await.map_err(|_| ProviderError::TimedOut)?;
        let first =
            first.map_err(|error| lost(&error))?.ok_or_else(|| ProviderError::Broken("it is empty".to_owned()))?;
        let idle = self.patience.idle;
        let rest = stream::try_unfold((Some(first), response), move |(first, mut response)| async move {
            let chunk = match first {
                Some(first) => Some(first),
                None => match timeout(idle, response.chunk()).await {
                    Ok(chunk) => chunk.map_err(|error| lost(&error))?,
                    Err(_elapsed) => return Err(ProviderError::TimedOut),
                },
            };
            Ok(chunk.map(|chunk| (chunk, (None, response))))
        });
        Ok(ProviderAnswer { content_type, usage, body: Box::pin(rest) })
    }

    /// Reads the body of an answer as a whole.
    pub(super) async fn read(&self, mut response: Response, deadline: Instant) -> Result<Bytes, ProviderError> {
        let mut body = Vec::new();
        let mut until = deadline;
        while let Some(chunk) = timeout_at(until, response.chunk())
            .await
            .map_err(|_| ProviderError::TimedOut)?
            .map_err(|error| lost(&error))?
        {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(ProviderError::Broken(format!("it is longer than {ANSWER_BYTES_MAX} bytes")));
            }
            body.extend_from_slice(&chunk);
            until = Instant::now() + self.patience.idle;
        }
        Ok(body.into())
    }

    /// The beginning of the body of a failure; what broke off is its end.
    async fn beginning(&self, mut response: Response) -> Vec<u8> {
        let mut body = Vec::new();
        while let Ok(Ok(Some(chunk))) = timeout(self.patience.idle, response.chunk()).await {
            let room = ERROR_BYTES_MAX - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if body.len() == ERROR_BYTES_MAX {
                break;
            }
        }
        body
    }

    fn failure(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ProviderError {
        match status.as_u16() {
            429 => ProviderError::Busy { retry_after: retry_after(headers) },
            account @ (401..=403) => ProviderError::Account(account),
            // Google calls a key that it does not know a bad request.
            400 if memchr::memmem::find(body, b"API_KEY_INVALID").is_some()
                || memchr::memmem::find(body, b"API key not valid").is_some() =>
            {
                ProviderError::Account(401)
            }
            failed @ 500.. => ProviderError::Failed(failed),
            status @ 400.. => ProviderError::Refused { status, message: self.message(body) },
            other => ProviderError::Broken(format!("it has status {other}")),
        }
    }

    /// What is wrong with a request, in the provider's words, if a tenant may see them.
    fn message(&self, body: &[u8]) -> String {
        let said = serde_json::from_slice::<Said>(body).ok().and_then(Said::text).unwrap_or_default();
        if self.may_be_shown(&said) { said.chars().take(MESSAGE_CHARS_MAX).collect() } else { String::new() }
    }

    /// Whether a text names nobody, leads nowhere, and has nothing in it that may be a key.
    pub(super) fn may_be_shown(&self, text: &str) -> bool {
        const NAMES: [&str; 14] = [
            "openrouter",
            "openai",
            "anthropic",
            "deepgram",
            "elevenlabs",
            "replicate",
            "google",
            "gemini",
            "moonshot",
            "azure",
            "bedrock",
            "vertex",
            "account",
            "organization",
        ];
        let lower = text.to_lowercase();
        let named = lower.contains(&self.name.to_lowercase()) || NAMES.iter().any(|name| lower.contains(name));
        let leads_somewhere = ["://", "www.", "@", ".com", ".ai", ".internal"].iter().any(|mark| lower.contains(mark));
        let is_word = |char: char| char.is_ascii_alphanumeric() || char == '-' || char == '_';
        let may_be_key = |word: &str| word.len() >= KEY_CHARS_MIN || word.starts_with("sk-") || word.starts_with("sk_");
        let keys = text.split(|char| !is_word(char)).any(may_be_key);
        let address =
            text.split(|char: char| !(char.is_ascii_digit() || char == '.')).any(|word| word.matches('.').count() == 3);
        !(named || leads_somewhere || keys || address || text.chars().any(char::is_control))
    }
}

/// The shapes in which the providers say what is wrong.
#[derive(Deserialize)]
struct Said {
    error: Option<Words>,
    detail: Option<Words>,
    message: Option<String>,
    err_msg: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Object { message: String },
    Text(String),
    Other(serde::de::IgnoredAny),
}

impl Said {
    fn text(self) -> Option<String> {
        let words = |words| match words {
            Words::Object { message } => Some(message),
            Words::Text(text) => Some(text),
            Words::Other(_) => None,
        };
        self.error.and_then(words).or(self.detail.and_then(words)).or(self.message).or(self.err_msg)
    }
}

/// Why there is no answer, or no end of one. The address is left out.
pub(super) fn lost(error: &reqwest::Error) -> ProviderError {
    if error.is_connect() {
        return ProviderError::Unreachable(causes(error));
    }
    if error.is_timeout() {
        return ProviderError::TimedOut;
    }
    if error.is_request() {
        return ProviderError::Unreachable(causes(error));
    }
    ProviderError::Broken(causes(error))
}

/// What is behind an error; itself it would quote the address.
fn causes(error: &reqwest::Error) -> String {
    let mut said = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        said.push(error.to_string());
        cause = error.source();
    }
    if said.is_empty() { "no reason is known".to_owned() } else { said.join(": ") }
}

/// In seconds, or as a date, which is measured from the provider's own.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let date = |text: &str| rfc2822::parse(text).ok().map(|date| date.timestamp());
    let wait = if let Ok(seconds) = value.parse::<u64>() {
        Duration::from_secs(seconds)
    } else {
        let now: Timestamp = date(headers.get(DATE)?.to_str().ok()?)?;
        Duration::try_from(date(value)?.duration_since(now)).unwrap_or_default()
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// The answer of an adapter that made it itself.
pub(super) fn made(content_type: &str, body: Bytes, usage: Option<Usage>) -> ProviderAnswer {
    let body: AnswerBody = Box::pin(stream::iter([Ok(body)]));
    ProviderAnswer { content_type: content_type.to_owned(), usage, body }
}

/// A call that is not as its adapter was promised.
pub(super) fn not_offered(what: &str) -> ProviderError {
    ProviderError::Refused { status: 400, message: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn when_to_ask_again_is_read_in_seconds_and_as_a_date() {
        let date = "Wed, 21 Oct 2015 07:28:00 GMT";
        let table = [
            (headers(&[]), None),
            (headers(&[(RETRY_AFTER, "7")]), Some(7)),
            (headers(&[(RETRY_AFTER, "0")]), Some(0)),
            (headers(&[(RETRY_AFTER, "99999999999")]), Some(86_400)),
            (headers(&[(RETRY_AFTER, "soon")]), None),
            (headers(&[(RETRY_AFTER, "-1"), (DATE, date)]), None),
            (headers(&[(RETRY_AFTER, "Wed, 21 Oct 2015 07:28:30 GMT")]), None),
            (headers(&[(RETRY_AFTER, "Wed, 21 Oct 2015 07:28:30 GMT"), (DATE, date)]), Some(30)),
            (headers(&[(RETRY_AFTER, "Wed, 21 Oct 2015 07:27:30 GMT"), (DATE, date)]), Some(0)),
        ];
        for (headers, expected) in table {
            assert_eq!(retry_after(&headers), expected.map(Duration::from_secs), "{headers:?}");
        }
    }

    #[test]
    fn only_harmless_words_are_shown() {
        let exchange = Exchange::new("acme", "https://acme.example/api", Patience::default()).unwrap();
        let body = |message: &str| {
            exchange.message(serde_json::json!({ "error": { "message": message } }).to_string().as_bytes())
        };
        for shown in
            ["max_tokens is too large: 99999", "messages.0.content must be a text", "temperature must be from 0 to 2.0"]
        {
            assert_eq!(body(shown), shown);
        }
        for hidden in [
            "Incorrect API key provided: sk-abc",
            "see https://acme.example",
            "ACME says no",
            "host 10.0.0.12 refused",
            "token 0123456789abcdef0123456789abcdef is wrong",
            "ask help@x",
            "line\nbreak",
            "OpenAI refused",
        ] {
            assert_eq!(body(hidden), "", "{hidden}");
        }
        assert_eq!(body(&"é ".repeat(400)).chars().count(), MESSAGE_CHARS_MAX);
        let shapes = [
            r#"{"error":"no"}"#,
            r#"{"detail":{"message":"no","status":"x"}}"#,
            r#"{"detail":"no"}"#,
            r#"{"message":"no"}"#,
            r#"{"err_msg":"no","err_code":"x"}"#,
        ];
        for shape in shapes {
            assert_eq!(exchange.message(shape.as_bytes()), "no", "{shape}");
        }
        assert_eq!(exchange.message(b"<html>"), "");
        assert_eq!(exchange.message(br#"{"error":[1]}"#), "");
    }

    #[test]
    fn addresses_and_headers_are_looked_at_first() {
        for address in ["", "acme.example", "ftp://x", "data:x", "https://x?y=z"] {
            let refused = Exchange::new("acme", address, Patience::default());
            assert!(matches!(refused, Err(NoModelProvider::Address)), "{address}");
        }
        let exchange = || Exchange::new("acme", "https://acme.example", Patience::default()).unwrap();
        let refused = exchange().with_key("authorization", "Bearer ", "line\nbreak".into()).unwrap_err();
        assert_eq!(refused.to_string(), "the header authorization of a provider of models cannot be sent");
        assert!(exchange().with_header("x y", "z").is_err() && exchange().with_header("x", "\n").is_err());
        let with_key = exchange().with_key("authorization", "Bearer ", "top-secret".into()).unwrap();
        let request = with_key.post("/v1/x").build().unwrap();
        assert_eq!(request.headers()["authorization"], "Bearer top-secret");
        assert!(!format!("{with_key:?} {request:?}").contains("top-secret"));
    }
}
