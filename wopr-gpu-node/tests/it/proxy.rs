//! The doors: who may pass, and that what passes is not held up.

use std::time::Duration;

use axum::body::Bytes;
use reqwest::{Method, Response};
use serde_json::Value;
use tokio::sync::mpsc;
use wopr_core::protocol::gpu::{GpuService, ServiceState};
use wopr_gpu_node::agent::Agent;

use crate::services::Mood;
use crate::support::{Bench, PATIENCE, find, http, token};

const LLAMA: GpuService = GpuService::Llama;

fn url(agent: &Agent, path: &str) -> String {
    format!("http://{}{path}", agent.address(LLAMA))
}

async fn ask(agent: &Agent, path: &str) -> Response {
    http().get(url(agent, path)).bearer_auth(token()).send().await.unwrap()
}

/// Status and code of an error in OpenAI's form.
async fn error(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    assert!(body["error"]["message"].is_string() && body["error"]["type"].is_string(), "{body}");
    (status, body["error"]["code"].as_str().unwrap().to_owned())
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

#[tokio::test]
async fn only_who_bears_the_token_passes_and_the_token_stays_here() {
    let mut bench = Bench::new().await;
    let agent = bench.start().await;
    for wrong in [None, Some("wrong".to_owned()), Some(crate::support::secret())] {
        let mut request = http().post(url(&agent, "/seen")).body("x");
        if let Some(wrong) = wrong {
            request = request.bearer_auth(wrong);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        assert_eq!(error(answer).await, (401, "invalid_api_key".to_owned()));
    }
    let request = http().request(Method::PUT, url(&agent, "/seen?a=1&b=%20")).bearer_auth(token());
    let headers = [("x-mine", "1"), ("connection", "x-private"), ("x-private", "1"), ("te", "trailers")];
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let answer = request.body("hello").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["x-answer"]), (418, &"yes".parse().unwrap()));
    assert!(!answer.headers().contains_key("x-hop") && !answer.headers().contains_key("keep-alive"));
    assert_eq!(answer.text().await.unwrap(), "short and stout");
    let llama = bench.services.get_mut(&LLAMA).unwrap();
    let got = llama.got.try_recv().unwrap();
    assert_eq!((got.method.as_str(), got.uri.as_str(), got.body.as_slice()), ("PUT", "/seen?a=1&b=%20", &b"hello"[..]));
    assert_eq!(got.headers["x-mine"], "1");
    assert_eq!(got.headers["content-length"], "5", "a body of known length stays one");
    assert_eq!(got.headers["host"], llama.address.to_string());
    for gone in ["authorization", "x-private", "te", "connection"] {
        assert!(!got.headers.contains_key(gone), "{gone} was passed on");
    }
    assert!(llama.got.try_recv().is_err(), "what was refused reached the service");
    agent.drain().await;
}

#[tokio::test]
async fn an_answer_streams_part_by_part() {
    let bench = Bench::new().await;
    let agent = bench.start().await;
    let llama = bench.service(LLAMA);
    let mut answer = ask(&agent, "/stream").await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    // Each part is read before the service is given the next, so nobody can have held it back.
    for part in ["data: 1\n\n", "data: 2\n\n", "data: [DONE]\n\n"] {
        llama.parts.send(part).unwrap();
        assert_eq!(soon(part, answer.chunk()).await.unwrap().unwrap(), part);
    }
    llama.parts.send("").unwrap();
    assert_eq!(soon("the end", answer.chunk()).await.unwrap(), None);
    assert_eq!(*llama.given_up().borrow(), 0);
    agent.drain().await;
}

#[tokio::test]
async fn a_request_streams_part_by_part() {
    let mut bench = Bench::new().await;
    let agent = bench.start().await;
    let (parts, body) = mpsc::unbounded_channel::<Bytes>();
    let body = futures_util::stream::unfold(body, |mut body| async move {
        body.recv().await.map(|part| (Ok::<_, std::io::Error>(part), body))
    });
    let request = http().post(url(&agent, "/listen")).bearer_auth(token()).body(reqwest::Body::wrap_stream(body));
    let sent = tokio::spawn(request.send());
    let llama = bench.services.get_mut(&LLAMA).unwrap();
    for part in ["one", "two", "three"] {
        parts.send(Bytes::from_static(part.as_bytes())).unwrap();
        assert_eq!(soon(part, llama.heard.recv()).await.unwrap(), part);
    }
    drop(parts);
    let answer = soon("the answer", sent).await.unwrap().unwrap();
    assert_eq!(answer.text().await.unwrap(), "11");
    agent.drain().await;
}

#[tokio::test]
async fn when_the_client_leaves_the_work_ends_too() {
    let bench = Bench::new().await;
    let agent = bench.start().await;
    let llama = bench.service(LLAMA);
    // In the middle of an answer.
    let mut answer = ask(&agent, "/stream").await;
    llama.parts.send("data: 1\n\n").unwrap();
    assert!(soon("a part", answer.chunk()).await.unwrap().is_some());
    drop(answer);
    find(llama.given_up(), "the stream is given up", |count| (*count == 1).then_some(())).await;
    // Before the answer begins.
    let waiting = tokio::spawn(http().get(url(&agent, "/never")).bearer_auth(token()).send());
    find(llama.begun(), "the request has begun", |count| (*count == 2).then_some(())).await;
    waiting.abort();
    find(llama.given_up(), "the request is given up", |count| (*count == 2).then_some(())).await;
    agent.drain().await;
}

#[tokio::test]
async fn what_cannot_be_passed_on_is_said_in_openais_form() {
    let mut bench = Bench::new().await;
    bench.set("EXPECTED_SERVICES", "llama,qwen");
    bench.set("IDLE_TIMEOUT", "300ms");
    bench.set("BODY_LIMIT_BYTES", "10");
    bench.set("REQUESTS_MAX", "1");
    let agent = bench.start().await;
    let post = |body: reqwest::Body| http().post(url(&agent, "/listen")).bearer_auth(token()).body(body).send();
    assert_eq!(error(post("eleven char".into()).await.unwrap()).await, (413, "request_too_large".to_owned()));
    let parts = ["eleven", " char"].map(|part| Ok::<_, std::io::Error>(Bytes::from_static(part.as_bytes())));
    let chunked = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
    assert_eq!(error(post(chunked).await.unwrap()).await, (413, "request_too_large".to_owned()));
    assert_eq!(post("ten chars.".into()).await.unwrap().text().await.unwrap(), "10");

    assert_eq!(error(ask(&agent, "/never").await).await, (504, "service_timeout".to_owned()));
    let absent = format!("http://{}/v1/audio/speech", agent.address(GpuService::Chatterbox));
    let answer = http().post(absent).bearer_auth(token()).send().await.unwrap();
    assert_eq!(error(answer).await, (503, "service_absent".to_owned()));

    // One request may be in progress, and one is.
    let before = *bench.service(LLAMA).begun().borrow();
    let first = tokio::spawn(http().get(url(&agent, "/never")).bearer_auth(token()).send());
    find(bench.service(LLAMA).begun(), "the first has begun", |count| (*count > before).then_some(())).await;
    let second = ask(&agent, "/seen").await;
    assert_eq!(second.headers()["retry-after"], "5");
    assert_eq!(error(second).await, (503, "overloaded".to_owned()));
    assert_eq!(error(first.await.unwrap().unwrap()).await.0, 504);

    bench.services.get_mut(&LLAMA).unwrap().kill().await;
    assert_eq!(error(ask(&agent, "/seen").await).await, (502, "service_unreachable".to_owned()));
    agent.drain().await;
}

#[tokio::test]
async fn health_is_open_to_all_and_says_the_state() {
    let bench = Bench::new().await;
    bench.service(GpuService::Qwen).be(Mood::StandIn);
    bench.service(GpuService::Whisper).be(Mood::Loading);
    let agent = bench.start().await;
    for (service, state, status, word) in [
        (LLAMA, ServiceState::Ready, 200, "ok"),
        (GpuService::Whisper, ServiceState::Loading, 503, "unavailable"),
        (GpuService::Qwen, ServiceState::Ready, 200, "ok"),
    ] {
        bench.platform.until_state(service, state).await;
        let health = format!("http://{}/health", agent.address(service));
        let answer = http().get(health).send().await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers().contains_key("x-wopr-stand-in"), service == GpuService::Qwen);
        let body: Value = answer.json().await.unwrap();
        assert_eq!((&body["state"], &body["status"]), (&Value::from(state.as_str()), &Value::from(word)));
    }
    agent.drain().await;
}

#[tokio::test]
async fn a_stop_lets_no_new_request_in_and_ends_those_that_are() {
    let bench = Bench::new().await;
    let agent = bench.start().await;
    let (address, llama) = (url(&agent, "/seen"), bench.service(LLAMA));
    let mut answer = ask(&agent, "/stream").await;
    llama.parts.send("first").unwrap();
    assert!(answer.chunk().await.unwrap().is_some());
    let stopping = tokio::spawn(agent.drain());
    bench
        .platform
        .until("the last heartbeat", |seen| {
            seen.heartbeats
                .last()
                .is_some_and(|last| last.services[0].detail.as_deref() == Some("the node is stopping"))
        })
        .await;
    soon("the door closes", async {
        while http().get(&address).bearer_auth(token()).send().await.is_ok_and(|answer| answer.status() != 503) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(!stopping.is_finished(), "a request is still in progress");
    llama.parts.send("second").unwrap();
    llama.parts.send("").unwrap();
    assert_eq!(soon("the rest", answer.text()).await.unwrap(), "second");
    soon("the stop", stopping).await.unwrap();
}
