//! How a service is looked at: its health check, its slots, and a tiny real request whose answer is checked.

use std::time::{Duration, Instant};

use reqwest::header::CONTENT_TYPE;
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde_json::{Value, json};
use wopr_core::protocol::gpu::GpuService;

use super::wav;
use crate::health::{Answer, Load, Proof};
use crate::http::{Lost, causes};

/// A service that only gives canned answers says so in this header of its health check.
pub(crate) const STAND_IN_HEADER: &str = "x-wopr-stand-in";
/// The longest answer to a tiny request that is read: seconds of sound fit.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A norm below this is that of no meaning.
const NORM_MIN: f64 = 1e-6;
const BOUNDARY: &str = "wopr-gpu-node-tiny-request";

/// A look at a service.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) answer: Answer,
    pub(crate) stand_in: bool,
    pub(crate) took: Duration,
}

/// Where a service is and what it is asked.
#[derive(Debug, Clone)]
pub(crate) struct ServiceProbe {
    pub(crate) service: GpuService,
    pub(crate) upstream: Url,
    pub(crate) model: String,
    pub(crate) client: reqwest::Client,
    /// How long a health check may take.
    pub(crate) timeout: Duration,
    /// How long a tiny request may take.
    pub(crate) deadline: Duration,
}

impl ServiceProbe {
    /// Asks for its health. `full` is what is known of its slots from elsewhere.
    pub(crate) async fn look(&self, full: bool) -> Look {
        let started = Instant::now();
        let looked = tokio::time::timeout(self.timeout, self.look_in_time(full)).await;
        let (answer, stand_in) = looked.unwrap_or((Answer::Silent, false));
        Look { answer, stand_in, took: started.elapsed() }
    }

    async fn look_in_time(&self, full: bool) -> (Answer, bool) {
        let mut asked = self.client.get(self.url("/health")).send().await;
        let not_found = asked.as_ref().is_ok_and(|response| response.status() == StatusCode::NOT_FOUND);
        if not_found && self.service == GpuService::Chatterbox {
            // Some builds of it have no health check; their first page must do.
            asked = self.client.get(self.url("/")).send().await;
        }
        let response = match asked {
            Ok(response) => response,
            Err(error) => {
                let answer = match Lost::of(&error) {
                    Lost::NoName => Answer::NoName,
                    Lost::Refused => Answer::Refused,
                    Lost::Late | Lost::Broken => Answer::Silent,
                };
                return (answer, false);
            }
        };
        let stand_in = response.headers().contains_key(STAND_IN_HEADER);
        let status = response.status();
        let Ok(body) = read(response).await else { return (Answer::Silent, stand_in) };
        let answer = match health_answer(status, &body) {
            Answer::Well(_) => Answer::Well(self.load(full).await),
            other => other,
        };
        (answer, stand_in)
    }

    /// Its own word on its slots where it has one, else `full`.
    async fn load(&self, full: bool) -> Load {
        let elsewhere = if full { Load::Full } else { Load::Free };
        if !matches!(self.service, GpuService::Llama | GpuService::Qwen) {
            return elsewhere;
        }
        if let Some(slots) = self.get("/slots").await
            && let Some(load) = load_of_slots(&slots)
        {
            return load;
        }
        match self.get("/metrics").await {
            Some(metrics) => load_of_metrics(&metrics).unwrap_or(elsewhere),
            None => elsewhere,
        }
    }

    async fn get(&self, path: &str) -> Option<Vec<u8>> {
        let response = self.client.get(self.url(path)).send().await.ok()?;
        if response.status() == StatusCode::OK { read(response).await.ok() } else { None }
    }

    /// Sends a tiny real request and checks the answer.
    pub(crate) async fn prove(&self) -> Proof {
        let started = Instant::now();
        match tokio::time::timeout(self.deadline, self.ask()).await {
            Ok(Ok(())) => Proof::Right(started.elapsed()),
            Ok(Err(proof)) => proof,
            Err(_elapsed) => Proof::Late(self.deadline),
        }
    }

    async fn ask(&self) -> Result<(), Proof> {
        let response = self.tiny_request().send().await.map_err(|error| match Lost::of(&error) {
            Lost::Late => Proof::Late(self.deadline),
            _ => Proof::Wrong(format!("a tiny request got no answer: {}", causes(error))),
        })?;
        let status = response.status();
        let body = read(response).await.map_err(Proof::Wrong)?;
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Err(Proof::TurnedAway);
        }
        if !status.is_success() {
            return Err(Proof::Wrong(format!("a tiny request was answered {}", status.as_u16())));
        }
        check(self.service, &body).map_err(|why| Proof::Wrong(format!("a tiny request was answered with {why}")))
    }

    fn tiny_request(&self) -> RequestBuilder {
        match self.service {
            GpuService::Llama => self.client.post(self.url("/v1/chat/completions")).json(&json!({
                "model": self.model, "max_tokens": 4, "temperature": 0, "stream": false,
                "messages": [{ "role": "user", "content": "Say yes." }],
            })),
            GpuService::Qwen => self.client.post(self.url("/v1/embeddings")).json(&json!({
                "model": self.model, "input": "one small sentence", "encoding_format": "float",
            })),
            GpuService::Chatterbox => self.client.post(self.url("/v1/audio/speech")).json(&json!({
                "model": self.model, "input": "Yes.", "voice": "alloy", "response_format": "wav",
            })),
            GpuService::Whisper => {
                let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
                let request = self.client.post(self.url("/v1/audio/transcriptions"));
                request.header(CONTENT_TYPE, content_type).body(transcription_form(&self.model))
            }
        }
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.upstream.clone();
        url.set_path(path);
        url
    }
}

/// Reads an answer to its end, or says why not.
async fn read(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| format!("an answer broke off: {}", causes(error)))? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(format!("an answer is longer than {ANSWER_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn health_answer(status: StatusCode, body: &[u8]) -> Answer {
    if status == StatusCode::SERVICE_UNAVAILABLE && String::from_utf8_lossy(body).to_lowercase().contains("loading") {
        return Answer::Loading;
    }
    if !status.is_success() {
        return Answer::Unwell(status.as_u16());
    }
    // Chatterbox answers 200 from the start and says inside whether its model is there.
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(fields)) if fields.get("model_loaded") == Some(&Value::Bool(false)) => Answer::Loading,
        _ => Answer::Well(Load::Free),
    }
}

/// llama.cpp lists its slots, each with `is_processing`.
fn load_of_slots(body: &[u8]) -> Option<Load> {
    let slots: Vec<Value> = serde_json::from_slice(body).ok()?;
    let in_use: Option<Vec<bool>> = slots.iter().map(|slot| slot.get("is_processing")?.as_bool()).collect();
    let in_use = in_use.filter(|in_use| !in_use.is_empty())?;
    Some(if in_use.iter().all(|used| *used) { Load::Full } else { Load::Free })
}

/// llama.cpp counts requests that wait for a slot.
fn load_of_metrics(body: &[u8]) -> Option<Load> {
    let text = std::str::from_utf8(body).ok()?;
    let deferred = text.lines().find_map(|line| line.strip_prefix("llamacpp:requests_deferred "))?;
    let deferred: f64 = deferred.trim().parse().ok()?;
    Some(if deferred > 0.0 { Load::Full } else { Load::Free })
}

fn transcription_form(model: &str) -> Vec<u8> {
    let mut form = Vec::new();
    for (name, value) in [("model", model), ("response_format", "json")] {
        let part = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        form.extend(part.as_bytes());
    }
    let part = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"tone.wav\"\r\n\
         Content-Type: audio/wav\r\n\r\n"
    );
    form.extend(part.as_bytes());
    form.extend(wav::tone());
    form.extend(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    form
}

/// Whether an answer to a tiny request is one, or what it is instead.
fn check(service: GpuService, body: &[u8]) -> Result<(), String> {
    let json = || serde_json::from_slice::<Value>(body).map_err(|_| "something that is not JSON".to_owned());
    match service {
        GpuService::Llama => {
            let answer = json()?;
            let message = &answer["choices"][0]["message"];
            // A model that thinks first may not get further within a few tokens.
            let said = ["content", "reasoning_content"].iter().filter_map(|part| message[*part].as_str());
            if said.map(str::len).sum::<usize>() > 0 { Ok(()) } else { Err("no text".to_owned()) }
        }
        GpuService::Chatterbox => wav::samples(body).map(|_| ()).map_err(str::to_owned),
        GpuService::Whisper if json()?["text"].is_string() => Ok(()),
        GpuService::Whisper => Err("no `text`".to_owned()),
        GpuService::Qwen => check_embedding(&json()?["data"][0]["embedding"]),
    }
}

#[expect(clippy::float_arithmetic, reason = "an embedding is made of floats")]
fn check_embedding(embedding: &Value) -> Result<(), String> {
    let numbers = embedding.as_array().ok_or("no embedding")?;
    if numbers.len() < 2 {
        return Err(format!("an embedding of {} dimensions", numbers.len()));
    }
    let mut square = 0.0;
    for number in numbers {
        // JSON has no NaN: a server that computed one writes null or nothing.
        let number =
            number.as_f64().filter(|number| number.is_finite()).ok_or("an embedding that is not all numbers")?;
        square += number * number;
    }
    let norm = f64::sqrt(square);
    if norm.is_finite() && norm > NORM_MIN { Ok(()) } else { Err(format!("an embedding of norm {norm}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(status: u16, body: &str) -> Answer {
        health_answer(StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    #[test]
    fn a_health_check_says_more_than_its_status() {
        let loading = r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;
        assert_eq!(ok(503, loading), Answer::Loading);
        assert_eq!(ok(503, "overloaded?"), Answer::Unwell(503));
        assert_eq!(ok(500, loading), Answer::Unwell(500));
        assert_eq!(ok(200, r#"{"status":"ok"}"#), Answer::Well(Load::Free));
        assert_eq!(ok(200, r#"{"status":"initializing","model_loaded":false}"#), Answer::Loading);
        assert_eq!(ok(200, r#"{"status":"healthy","model_loaded":true}"#), Answer::Well(Load::Free));
        assert_eq!(ok(200, ""), Answer::Well(Load::Free));
    }

    #[test]
    fn slots_and_counters_say_whether_it_is_full() {
        let slots = |body: &str| load_of_slots(body.as_bytes());
        assert_eq!(slots(r#"[{"id":0,"is_processing":true},{"id":1,"is_processing":true}]"#), Some(Load::Full));
        assert_eq!(slots(r#"[{"id":0,"is_processing":true},{"id":1,"is_processing":false}]"#), Some(Load::Free));
        assert_eq!((slots("[]"), slots("{}"), slots(r#"[{"id":0}]"#)), (None, None, None));
        let metrics = |count: &str| {
            let text = format!("# TYPE llamacpp:requests_deferred gauge\nllamacpp:requests_deferred {count}\n");
            load_of_metrics(text.as_bytes())
        };
        assert_eq!((metrics("0"), metrics("3"), metrics("x")), (Some(Load::Free), Some(Load::Full), None));
        assert_eq!(load_of_metrics(b"other 1\n"), None);
    }

    #[test]
    fn only_a_right_answer_proves_anything() {
        let chat = |message: Value| json!({ "choices": [{ "message": message }] });
        let embedding = |numbers: Value| json!({ "data": [{ "embedding": numbers }] });
        let table = [
            (GpuService::Llama, chat(json!({ "content": "Yes" })), Ok(())),
            (GpuService::Llama, chat(json!({ "content": "", "reasoning_content": "The user" })), Ok(())),
            (GpuService::Llama, chat(json!({ "content": "" })), Err("no text")),
            (GpuService::Llama, json!({ "error": "x" }), Err("no text")),
            (GpuService::Qwen, embedding(json!([0.6, -0.8])), Ok(())),
            (GpuService::Qwen, embedding(json!([0.0, 0.0])), Err("an embedding of norm 0")),
            (GpuService::Qwen, embedding(json!([0.1, null])), Err("an embedding that is not all numbers")),
            (GpuService::Qwen, embedding(json!([1e200, 1e200])), Err("an embedding of norm inf")),
            (GpuService::Qwen, embedding(json!([1])), Err("an embedding of 1 dimensions")),
            (GpuService::Qwen, json!({ "data": [] }), Err("no embedding")),
            (GpuService::Whisper, json!({ "text": "" }), Ok(())),
            (GpuService::Whisper, json!({ "text": null }), Err("no `text`")),
        ];
        for (service, answer, expected) in table {
            let checked = check(service, &serde_json::to_vec(&answer).unwrap());
            assert_eq!(checked, expected.map_err(str::to_owned), "{service} {answer}");
        }
        assert_eq!(check(GpuService::Chatterbox, &wav::tone()), Ok(()));
        assert_eq!(check(GpuService::Chatterbox, b"{}"), Err("not a WAV file".to_owned()));
        assert_eq!(check(GpuService::Llama, b"<html>"), Err("something that is not JSON".to_owned()));
    }
}
