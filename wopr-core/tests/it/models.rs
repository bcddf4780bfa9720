//! Providers of models: one contract, kept by each client against a double of its provider on a loopback port.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use wopr_core::adapters::models::{
    Anthropic, Deepgram, ElevenLabs, KeyedAddresses, KeyedModels, OpenAiCompatible, Patience, Replicate,
};
use wopr_core::gateway::wire::read_transcription;
use wopr_core::gateway::{
    CallBody, Capability, Dialect, KeyedProvider, KeyedProviders as _, ModelProvider, ProviderAnswer, ProviderCall,
    ProviderError, Usage,
};

const KEY: &str = "secret-of-ours";
const SOON: Duration = Duration::from_millis(250);

/// What the double does with a request.
#[derive(Clone)]
enum Deed {
    Answer(u16, &'static [(&'static str, &'static str)], Bytes),
    /// Nothing, for ever.
    Nothing,
    /// The beginning of an answer, and then nothing.
    Stall(Bytes),
    /// The beginning of an answer, and then the connection is gone.
    Cut(Bytes),
}

struct Seen {
    line: String,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Clone, Default)]
struct Double {
    deeds: Arc<Mutex<VecDeque<Deed>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Double {
    async fn serve(&self) -> String {
        let router = Router::new().fallback(act).with_state(self.clone());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    fn will(&self, deeds: impl IntoIterator<Item = Deed>) {
        self.deeds.lock().unwrap().extend(deeds);
    }

    /// The only request since this was asked last.
    fn only(&self) -> Seen {
        let mut seen = std::mem::take(&mut *self.seen.lock().unwrap());
        assert_eq!(seen.len(), 1);
        seen.pop().unwrap()
    }

    fn lines(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap()).into_iter().map(|seen| seen.line).collect()
    }
}

async fn act(State(double): State<Double>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let line = format!("{} {}", head.method, head.uri);
    double.seen.lock().unwrap().push(Seen { line, headers: head.headers, body });
    let deed = double.deeds.lock().unwrap().pop_front();
    let begun = |first: Bytes| stream::iter([Ok::<_, std::io::Error>(first)]);
    match deed {
        Some(Deed::Answer(status, headers, body)) => {
            let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
            for (name, value) in headers {
                response.headers_mut().insert(*name, value.parse().unwrap());
            }
            response
        }
        Some(Deed::Nothing) => std::future::pending().await,
        Some(Deed::Stall(first)) => Body::from_stream(begun(first).chain(stream::pending())).into_response(),
        Some(Deed::Cut(first)) => {
            // What was written is sent when there is nothing more for the moment.
            let cut = stream::once(async {
                tokio::task::yield_now().await;
                Err(std::io::Error::other("cut"))
            });
            Body::from_stream(begun(first).chain(cut)).into_response()
        }
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

fn patience() -> Patience {
    Patience {
        first_byte: SOON,
        first_sound: SOON,
        whole: SOON,
        idle: SOON,
        poll: Duration::from_millis(5),
        ..Patience::default()
    }
}

fn json_call(capability: Capability, dialect: Dialect, model: &str, stream: bool, body: &Value) -> ProviderCall {
    let body = CallBody::Json(body.to_string().into());
    ProviderCall { capability, dialect, model: model.to_owned(), stream, body }
}

fn form_call(format: &str, language: Option<&str>) -> ProviderCall {
    let mut form = String::new();
    let mut texts = vec![("model", "asked"), ("response_format", format), ("prompt", "names: Ann")];
    texts.extend(language.map(|language| ("language", language)));
    for (name, text) in texts {
        write!(form, "--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n").unwrap();
    }
    form += "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"my \u{e9}.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF wopr-form-0-end\r\n--b--\r\n";
    let body = CallBody::Form { content_type: "multipart/form-data; boundary=b".to_owned(), bytes: form.into() };
    let (capability, dialect) = (Capability::Transcription, Dialect::OpenAi);
    ProviderCall { capability, dialect, model: "served".to_owned(), stream: false, body }
}

fn chat(stream: bool) -> ProviderCall {
    let body = json!({ "model": "served", "messages": [{ "role": "user", "content": "hi" }], "stream": stream });
    json_call(Capability::ChatCompletions, Dialect::OpenAi, "served", stream, &body)
}

fn message() -> ProviderCall {
    let body = json!({ "model": "served", "max_tokens": 5, "messages": [{ "role": "user", "content": "hi" }] });
    json_call(Capability::ChatCompletions, Dialect::Anthropic, "served", true, &body)
}

fn speech(more: &[(&str, &str)]) -> ProviderCall {
    let mut body = json!({ "model": "asked", "input": "Grüße" });
    for (name, value) in more {
        body[*name] = json!(value);
    }
    json_call(Capability::Tts, Dialect::OpenAi, "served", false, &body)
}

fn picture(model: &str, more: &[(&str, Value)]) -> ProviderCall {
    let mut body = json!({ "model": "asked", "prompt": "a cat" });
    for (name, value) in more {
        body[*name] = value.clone();
    }
    json_call(Capability::ImageGeneration, Dialect::OpenAi, model, false, &body)
}

fn well(body: &Value) -> Deed {
    Deed::Answer(200, &[("content-type", "application/json")], body.to_string().into())
}

async fn whole(answer: ProviderAnswer) -> Result<Bytes, ProviderError> {
    let chunks: Vec<Bytes> = answer.body.try_collect().await?;
    Ok(chunks.concat().into())
}

/// Asks, and reads the answer to its end.
async fn ask(provider: &dyn ModelProvider, call: &ProviderCall) -> Result<(Option<Usage>, Bytes), ProviderError> {
    let answer = provider.call(call.clone()).await?;
    let usage = answer.usage;
    Ok((usage, whole(answer).await?))
}

/// A status, headers and a body, and what they mean.
type Case<'a> = (u16, &'a [(&'static str, &'static str)], &'a [u8], ProviderError);

/// What every provider does when its service does not do well.
async fn contract(provider: &dyn ModelProvider, double: &Double, call: &ProviderCall) {
    let refuses = br#"{"error":{"message":"max_tokens is too large"}}"#.as_slice();
    let leaks = br#"{"error":{"message":"see https://billing.example for account 7"}}"#.as_slice();
    let refusal_of = |status, message: &str| ProviderError::Refused { status, message: message.to_owned() };
    let wait = |seconds: Option<u64>| ProviderError::Busy { retry_after: seconds.map(Duration::from_secs) };
    let moved = [("location", "/elsewhere")].as_slice();
    let table: [Case; 16] = [
        (400, &[], refuses, refusal_of(400, "max_tokens is too large")),
        (400, &[], leaks, refusal_of(400, "")),
        (404, &[], b"<html>", refusal_of(404, "")),
        (413, &[], b"", refusal_of(413, "")),
        (422, &[], refuses, refusal_of(422, "max_tokens is too large")),
        (401, &[], leaks, ProviderError::Account(401)),
        (402, &[], leaks, ProviderError::Account(402)),
        (403, &[], leaks, ProviderError::Account(403)),
        (429, &[], b"", wait(None)),
        (429, &[("retry-after", "7")], b"", wait(Some(7))),
        (500, &[], leaks, ProviderError::Failed(500)),
        (502, &[], b"", ProviderError::Failed(502)),
        (503, &[("retry-after", "7")], b"", ProviderError::Failed(503)),
        (529, &[], leaks, ProviderError::Failed(529)),
        (307, moved, b"", ProviderError::Broken("it has status 307".to_owned())),
        (304, &[], b"", ProviderError::Broken("it has status 304".to_owned())),
    ];
    double.lines();
    for (status, headers, body, expected) in table {
        double.will([Deed::Answer(status, headers.to_vec().leak(), Bytes::from_static(body))]);
        assert_eq!(ask(provider, call).await, Err(expected), "{status}");
        // Nobody is asked again, and nobody is followed.
        let asked = double.lines();
        assert!(asked.len() == 1 && !asked[0].contains("elsewhere"), "{asked:?}");
    }
    let endless = Deed::Cut(vec![b'x'; 200_000].into());
    for (deed, expected) in
        [(Deed::Nothing, "took too long"), (Deed::Stall("{".into()), "took too long"), (endless, "broken")]
    {
        double.will([deed]);
        let failed = ask(provider, call).await.unwrap_err();
        assert!(failed.to_string().contains(expected), "{failed:?}");
        assert!(!format!("{failed:?}").contains(KEY), "{failed:?}");
    }
    double.will([Deed::Answer(200, &[], Bytes::new())]);
    assert!(matches!(ask(provider, call).await, Err(ProviderError::Broken(_))));
    double.lines();
}

/// Nobody listens at the address of these.
async fn nobody(provider: &dyn ModelProvider, call: &ProviderCall) {
    let failed = ask(provider, call).await.unwrap_err();
    assert!(matches!(&failed, ProviderError::Unreachable(_)), "{failed:?}");
    assert!(!format!("{failed:?}").contains(KEY), "{failed:?}");
}

async fn closed() -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn header<'a>(seen: &'a Seen, name: &str) -> &'a str {
    seen.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

fn body(seen: &Seen) -> Value {
    serde_json::from_slice(&seen.body).unwrap()
}

#[tokio::test]
async fn a_provider_like_openai_keeps_the_contract() {
    let double = Double::default();
    let address = double.serve().await;
    let new =
        |address: &str| OpenAiCompatible::new("acme", address, Some(KEY.into()), Capability::ALL, patience()).unwrap();
    let provider = new(&address).with_header("x-title", "WOPR").unwrap();
    assert_eq!((provider.name(), provider.dialects(Capability::Tts)), ("acme", [Dialect::OpenAi].as_slice()));

    let events = "data: {\"choices\":[]}\n\ndata: [DONE]\n\n";
    double.will([Deed::Answer(200, &[("content-type", "text/event-stream")], events.into())]);
    let call = chat(true);
    let answer = provider.call(call.clone()).await.unwrap();
    assert_eq!((answer.content_type.as_str(), answer.usage), ("text/event-stream", None));
    assert_eq!(whole(answer).await.unwrap(), events);
    let seen = double.only();
    assert_eq!(seen.line, "POST /v1/chat/completions");
    assert_eq!((header(&seen, "authorization"), header(&seen, "x-title")), ("Bearer secret-of-ours", "WOPR"));
    assert_eq!((header(&seen, "content-type"), header(&seen, "accept")), ("application/json", "text/event-stream"));
    let CallBody::Json(sent) = &call.body else { panic!("JSON") };
    assert_eq!(&seen.body, sent);

    let texts = json!({ "model": "m", "input": "x", "prompt": "x" });
    for (capability, path, usage) in [
        (Capability::TextCompletions, "/v1/completions", None),
        (Capability::Embeddings, "/v1/embeddings", None),
        (Capability::Tts, "/v1/audio/speech", Some(Usage::Characters(1))),
        (Capability::ImageGeneration, "/v1/images/generations", Some(Usage::Images(1))),
    ] {
        double.will([well(&json!({ "it": "is" }))]);
        let call = json_call(capability, Dialect::OpenAi, "m", false, &texts);
        assert_eq!(ask(&provider, &call).await, Ok((usage, r#"{"it":"is"}"#.into())));
        assert_eq!(double.only().line, format!("POST {path}"));
    }
    let gemini = new(&format!("{address}/v1beta/openai/")).without_version();
    double.will([well(&json!({}))]);
    ask(&gemini, &chat(false)).await.unwrap();
    assert_eq!(double.only().line, "POST /v1beta/openai/chat/completions");
    let own = OpenAiCompatible::new("own", &address, None, [Capability::Tts], patience()).unwrap();
    assert!(own.dialects(Capability::Embeddings).is_empty());
    double.will([well(&json!({}))]);
    ask(&own, &speech(&[])).await.unwrap();
    assert_eq!(header(&double.only(), "authorization"), "");

    for call in [chat(true), chat(false), speech(&[]), picture("m", &[]), form_call("json", None)] {
        contract(&provider, &double, &call).await;
    }
    nobody(&new(&closed().await), &chat(true)).await;
}

#[tokio::test]
async fn a_recording_is_sent_on_and_its_length_is_known() {
    let double = Double::default();
    let provider =
        OpenAiCompatible::new("own", &double.serve().await, Some(KEY.into()), [Capability::Transcription], patience())
            .unwrap();
    let heard = json!({ "text": " Hi.", "duration": 2.0005, "segments": [{ "start": 0, "end": 2.0, "text": " Hi." }] });
    let table = [
        ("json", "application/json", r#"{"text":" Hi."}"#.to_owned()),
        ("text", "text/plain; charset=utf-8", "Hi.\n".to_owned()),
        ("verbose_json", "application/json", heard.to_string()),
        ("vtt", "text/vtt; charset=utf-8", "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nHi.\n\n".to_owned()),
    ];
    for (format, content_type, expected) in table {
        double.will([well(&heard)]);
        let answer = provider.call(form_call(format, Some("en"))).await.unwrap();
        assert_eq!((answer.usage, answer.content_type.as_str()), (Some(Usage::AudioMillis(2001)), content_type));
        assert_eq!(whole(answer).await.unwrap(), expected);
        let seen = double.only();
        assert_eq!(seen.line, "POST /v1/audio/transcriptions");
        let form = read_transcription(header(&seen, "content-type"), &seen.body).await.unwrap();
        assert_eq!(
            (form.model.as_str(), form.format, form.language.as_deref()),
            ("served", "verbose_json", Some("en"))
        );
        assert_eq!(
            (form.file.as_ref(), form.file_name.as_deref()),
            (b"RIFF wopr-form-0-end".as_slice(), Some("recording.wav"))
        );
        assert_eq!(form.others, [("prompt".to_owned(), "names: Ann".to_owned())]);
    }
}

#[tokio::test]
async fn anthropic_keeps_the_contract() {
    let double = Double::default();
    let new = |address: &str| Anthropic::new(KEY.into(), Some(address), patience()).unwrap();
    let provider = new(&double.serve().await);
    assert_eq!(provider.dialects(Capability::ChatCompletions), [Dialect::Anthropic]);
    assert!(provider.dialects(Capability::Embeddings).is_empty());
    double.will([well(&json!({ "type": "message" }))]);
    assert_eq!(ask(&provider, &message()).await, Ok((None, r#"{"type":"message"}"#.into())));
    let seen = double.only();
    assert_eq!(seen.line, "POST /v1/messages");
    assert_eq!((header(&seen, "x-api-key"), header(&seen, "anthropic-version")), (KEY, "2023-06-01"));
    assert_eq!(header(&seen, "authorization"), "");
    assert!(matches!(ask(&provider, &chat(true)).await, Err(ProviderError::Refused { status: 400, .. })));
    contract(&provider, &double, &message()).await;
    nobody(&new(&closed().await), &message()).await;
}

#[tokio::test]
async fn deepgram_keeps_the_contract() {
    let double = Double::default();
    let new = |address: &str| Deepgram::new(KEY.into(), Some(address), patience()).unwrap();
    let provider = new(&double.serve().await);
    let heard = json!({
        "metadata": { "request_id": "r", "duration": 25.933_313, "channels": 1 },
        "results": {
            "channels": [{ "detected_language": "en", "alternatives": [{
                "transcript": "Yeah. As much as", "confidence": 0.99,
                "words": [{ "word": "yeah", "start": 0.08, "end": 0.32, "confidence": 0.99, "punctuated_word": "Yeah." }],
            }] }],
            "utterances": [{ "start": 0.08, "end": 4.1, "transcript": "Yeah. As much as", "channel": 0, "words": [] }],
        },
    });
    double.will([well(&heard)]);
    let answered = ask(&provider, &form_call("json", None)).await;
    assert_eq!(answered, Ok((Some(Usage::AudioMillis(25_934)), r#"{"text":"Yeah. As much as"}"#.into())));
    let seen = double.only();
    assert_eq!(seen.line, "POST /v1/listen?model=served&smart_format=true&utterances=true&detect_language=true");
    assert_eq!((header(&seen, "authorization"), header(&seen, "content-type")), ("Token secret-of-ours", "audio/wav"));
    assert_eq!(seen.body, "RIFF wopr-form-0-end");

    double.will([well(&heard), well(&heard)]);
    let (_, verbose) = ask(&provider, &form_call("verbose_json", Some("pt-BR"))).await.unwrap();
    assert!(double.only().line.ends_with("&language=pt-BR"));
    let expected = json!({
        "task": "transcribe", "language": "en", "duration": 25.933_313, "text": "Yeah. As much as",
        "segments": [{ "id": 0, "start": 0.08, "end": 4.1, "text": "Yeah. As much as" }],
        "words": [{ "word": "yeah", "start": 0.08, "end": 0.32 }],
    });
    assert_eq!(serde_json::from_slice::<Value>(&verbose).unwrap(), expected);
    let (_, srt) = ask(&provider, &form_call("srt", None)).await.unwrap();
    assert_eq!(srt, "1\n00:00:00,080 --> 00:00:04,100\nYeah. As much as\n\n");
    contract(&provider, &double, &form_call("json", None)).await;
    nobody(&new(&closed().await), &form_call("json", None)).await;
}

#[tokio::test]
async fn elevenlabs_keeps_the_contract() {
    let double = Double::default();
    let new = |address: &str| ElevenLabs::new(KEY.into(), Some(address), patience()).unwrap();
    let provider = new(&double.serve().await);
    double.will([Deed::Answer(200, &[("content-type", "audio/mpeg")], "sound".into())]);
    let answer = provider.call(speech(&[("voice", "a-B_9"), ("response_format", "opus")])).await.unwrap();
    assert_eq!((answer.content_type.as_str(), answer.usage), ("audio/mpeg", Some(Usage::Characters(5))));
    assert_eq!(whole(answer).await.unwrap(), "sound");
    let seen = double.only();
    assert_eq!(seen.line, "POST /v1/text-to-speech/a%2DB%5F9?output_format=opus_48000_128");
    assert_eq!((header(&seen, "xi-api-key"), header(&seen, "authorization")), (KEY, ""));
    let spoken = json!({ "text": "Grüße", "model_id": "served", "voice_settings": { "stability": 0.5, "similarity_boost": 0.75 } });
    assert_eq!(body(&seen), spoken);
    double.will([well(&json!({}))]);
    ask(&provider, &speech(&[])).await.unwrap();
    assert_eq!(double.only().line, "POST /v1/text-to-speech/21m00Tcm4TlvDq8ikWAM?output_format=mp3_44100_128");
    let refused = ask(&provider, &speech(&[("response_format", "flac")])).await;
    assert!(matches!(refused, Err(ProviderError::Refused { status: 400, .. })), "{refused:?}");
    assert!(double.lines().is_empty());
    contract(&provider, &double, &speech(&[])).await;
    nobody(&new(&closed().await), &speech(&[])).await;
}

#[tokio::test]
async fn replicate_keeps_the_contract() {
    let double = Double::default();
    let address = double.serve().await;
    let new = |address: &str, patience| Replicate::new(KEY.into(), Some(address), patience).unwrap();
    let provider = new(&address, Patience { whole: Duration::from_secs(20), ..patience() });
    let is = |status: &str, output: Value| {
        well(&json!({ "id": "p1", "status": status, "output": output, "created_at": "2026-01-02T03:04:05.6Z" }))
    };
    let urls = json!(["https://replicate.delivery/a.png", "https://replicate.delivery/b.png"]);

    double.will([is("starting", Value::Null), is("processing", Value::Null), is("succeeded", urls)]);
    let (usage, made) =
        ask(&provider, &picture("acme/sd.xl", &[("n", json!(2)), ("size", json!("1792x1024"))])).await.unwrap();
    assert_eq!(usage, Some(Usage::Images(2)));
    let expected = json!({ "created": 1_767_323_045, "data": [{ "url": "https://replicate.delivery/a.png" }, { "url": "https://replicate.delivery/b.png" }] });
    assert_eq!(serde_json::from_slice::<Value>(&made).unwrap(), expected);
    {
        let seen = double.seen.lock().unwrap();
        let order = json!({ "input": { "prompt": "a cat", "num_outputs": 2, "width": 1792, "height": 1024 } });
        assert_eq!(body(&seen[0]), order);
        assert_eq!((header(&seen[0], "authorization"), header(&seen[0], "prefer")), ("Bearer secret-of-ours", "wait"));
    }
    let look = "GET /v1/predictions/p1";
    assert_eq!(double.lines(), ["POST /v1/models/acme/sd.xl/predictions", look, look]);

    // The picture itself is fetched without our key, from Replicate alone.
    let version = "0123456789abcdef".repeat(4);
    let inline = picture(&version, &[("response_format", json!("b64_json"))]);
    double.will([is("succeeded", json!(format!("{address}/files/a.png"))), Deed::Answer(200, &[], "png".into())]);
    let (_, made) = ask(&provider, &inline).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&made).unwrap()["data"], json!([{ "b64_json": "cG5n" }]));
    {
        let seen = double.seen.lock().unwrap();
        assert_eq!((seen[0].line.as_str(), &body(&seen[0])["version"]), ("POST /v1/predictions", &json!(version)));
        assert_eq!((seen[1].line.as_str(), header(&seen[1], "authorization")), ("GET /files/a.png", ""));
    }
    double.lines();
    for elsewhere in [
        "http://169.254.169.254/x",
        "https://evil.example/replicate.delivery",
        "https://xreplicate.delivery/x",
        "file:///etc/passwd",
    ] {
        double.will([is("succeeded", json!([elsewhere]))]);
        assert!(matches!(ask(&provider, &inline).await, Err(ProviderError::Broken(_))), "{elsewhere}");
    }
    let failed = |error: &str| well(&json!({ "id": "p1", "status": "failed", "error": error }));
    double.will([
        failed("NSFW content detected"),
        failed("CUDA out of memory"),
        is("canceled", Value::Null),
        is("succeeded", json!([])),
    ]);
    assert!(matches!(ask(&provider, &inline).await, Err(ProviderError::Refused { status: 400, .. })));
    for _ in 0..3 {
        assert!(matches!(ask(&provider, &inline).await, Err(ProviderError::Broken(_))));
    }
    double.lines();
    for model in ["../x", "a/b/c", "sdxl", "a/..", "/x"] {
        assert!(matches!(ask(&provider, &picture(model, &[])).await, Err(ProviderError::Refused { .. })), "{model}");
    }
    assert!(double.lines().is_empty());

    let hasty = new(&address, patience());
    contract(&hasty, &double, &picture("acme/sdxl", &[])).await;
    nobody(&new(&closed().await, patience()), &picture("acme/sdxl", &[])).await;

    // What nobody waits for any more is cancelled.
    double.will([is("starting", Value::Null), Deed::Nothing]);
    assert_eq!(ask(&hasty, &picture("acme/sdxl", &[])).await, Err(ProviderError::TimedOut));
    let cancelled = async {
        while !double.seen.lock().unwrap().iter().any(|seen| seen.line == "POST /v1/predictions/p1/cancel") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), cancelled).await.unwrap();
}

#[tokio::test]
async fn tenants_keys_are_shown_where_their_providers_look_for_them_and_nobody_elses() {
    let doubles = [Double::default(), Double::default(), Double::default()];
    let addresses = KeyedAddresses {
        openai: doubles[0].serve().await,
        anthropic: doubles[1].serve().await,
        google: format!("{}/v1beta/openai/", doubles[2].serve().await),
    };
    let keyed = KeyedModels::new(&addresses, Patience::default()).unwrap();
    let expected = [
        (KeyedProvider::OpenAi, "authorization", "Bearer one", "/v1/models", "/v1/chat/completions"),
        (KeyedProvider::Anthropic, "x-api-key", "one", "/v1/models", "/v1/messages"),
        (
            KeyedProvider::Google,
            "authorization",
            "Bearer one",
            "/v1beta/openai/models",
            "/v1beta/openai/chat/completions",
        ),
    ];
    for (double, (provider, header, value, list, chat)) in doubles.iter().zip(expected) {
        let key = "one".into();
        double.will([Deed::Answer(200, &[], Bytes::from_static(b"{}"))]);
        keyed.check(provider, &key).await.unwrap();
        let seen = double.only();
        assert_eq!((seen.line, seen.headers[header].to_str().unwrap()), (format!("GET {list}"), value));
        assert!(seen.headers.contains_key("anthropic-version") == (provider == KeyedProvider::Anthropic));
        for status in [401, 402, 403] {
            double.will([Deed::Answer(status, &[], Bytes::new())]);
            assert_eq!(keyed.check(provider, &key).await, Err(ProviderError::Account(status)));
            double.only();
        }
        double.will([Deed::Answer(
            400,
            &[],
            Bytes::from_static(b"[{\"error\":{\"message\":\"API key not valid.\"}}]"),
        )]);
        assert_eq!(keyed.check(provider, &key).await, Err(ProviderError::Account(401)));
        double.only();
        // Each key goes with its own calls, also where they are asked at once.
        let calls = ["one", "two"].map(|key| {
            let asked = keyed.with_key(provider, &key.into()).unwrap();
            assert!(keyed.serves(provider, Capability::ChatCompletions));
            double.will([Deed::Answer(200, &[], Bytes::from_static(b"{}"))]);
            async move {
                let dialect = asked.dialects(Capability::ChatCompletions)[0];
                let (body, model) = (CallBody::Json(key.into()), "m".to_owned());
                let call =
                    ProviderCall { capability: Capability::ChatCompletions, dialect, model, stream: false, body };
                asked.call(call).await.map(drop)
            }
        });
        assert!(futures_util::future::join_all(calls).await.into_iter().all(|answer| answer.is_ok()));
        for seen in std::mem::take(&mut *double.seen.lock().unwrap()) {
            let key = String::from_utf8(seen.body.to_vec()).unwrap();
            assert_eq!(seen.line, format!("POST {chat}"));
            assert_eq!(seen.headers[header].to_str().unwrap(), value.replace("one", &key));
        }
        assert!(keyed.with_key(provider, &"in two\r\nlines".into()).is_err());
    }
    assert!(!keyed.serves(KeyedProvider::Anthropic, Capability::Embeddings));
}
