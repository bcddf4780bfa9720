//! What the journeys share: a browserless HTTP client, a receiver of events, directories, and started programs.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use wopr_local::clock::{Clock, SystemClock};
use wopr_local::stripe::{Config, EndpointConfig, StripeStandin};

pub(crate) const KEY: &str = "sk_test_standin";
pub(crate) const SECRET: &str = "whsec_local_standin";

pub(crate) fn http() -> reqwest::Client {
    // Already installed when another test was first.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

/// A client of the API.
pub(crate) struct Api {
    pub(crate) base: String,
    pub(crate) http: reqwest::Client,
}

impl Api {
    pub(crate) fn new(base: &str) -> Self {
        Self { base: base.to_owned(), http: http() }
    }

    /// Sends a form; answers status and body.
    pub(crate) async fn post(&self, path: &str, form: &[(&str, &str)]) -> (u16, Value) {
        let (status, body, _) = self.post_with_key(path, form, None).await;
        (status, body)
    }

    /// Also answers whether the answer was a replay.
    pub(crate) async fn post_with_key(
        &self,
        path: &str,
        form: &[(&str, &str)],
        key: Option<&str>,
    ) -> (u16, Value, bool) {
        let mut request = self.http.post(format!("{}{path}", self.base)).bearer_auth(KEY).form(form);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await.unwrap();
        let replayed = answer.headers().get("idempotent-replayed").is_some_and(|value| value == "true");
        (answer.status().as_u16(), answer.json().await.unwrap(), replayed)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.http.get(format!("{}{path}", self.base)).bearer_auth(KEY).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub(crate) async fn control(&self, path: &str, body: Value) -> (u16, Value) {
        let answer = self.http.post(format!("{}/_control{path}", self.base)).json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Posts and expects success.
    pub(crate) async fn make(&self, path: &str, form: &[(&str, &str)]) -> Value {
        let (status, body) = self.post(path, form).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// A session for a price of 25 dollars.
    pub(crate) async fn session(&self, more: &[(&str, &str)]) -> Value {
        let form = [
            ("mode", "payment"),
            ("line_items[0][price]", "price_wopr_credits_25"),
            ("line_items[0][quantity]", "1"),
            ("success_url", "http://shop.example/done?s={CHECKOUT_SESSION_ID}"),
            ("cancel_url", "http://shop.example/cart"),
            ("client_reference_id", "tenant-1"),
            ("metadata[wopr_tenant]", "tenant-1"),
        ];
        self.make("/v1/checkout/sessions", &[form.as_slice(), more].concat()).await
    }
}

/// An in-process stand-in that sends its events to `receiver`.
pub(crate) async fn standin(receiver: Option<&Receiver>, clock: Arc<dyn Clock>) -> (StripeStandin, Api) {
    let mut config = Config::for_tests(KEY);
    config.retry_first = Duration::from_millis(20);
    config.webhook_endpoints = receiver.iter().map(|r| EndpointConfig::all_events(&r.url, SECRET)).collect();
    let standin = StripeStandin::start(config, clock).await.unwrap();
    let api = Api::new(standin.base_url());
    (standin, api)
}

pub(crate) async fn plain_standin() -> (StripeStandin, Api) {
    standin(None, Arc::new(SystemClock)).await
}

/// Waits until `probe` answers something, at most fifteen seconds.
pub(crate) async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One event as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) body: String,
    pub(crate) signature: Option<String>,
}

impl Arrival {
    pub(crate) fn event(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn kind(&self) -> String {
        self.event()["type"].as_str().unwrap().to_owned()
    }
}

#[derive(Debug, Default)]
struct Inbox {
    arrivals: Vec<Arrival>,
    /// Statuses of the next answers; 200 when there are none left.
    answers: Vec<u16>,
}

/// A shop's webhook.
#[derive(Debug, Clone)]
pub(crate) struct Receiver {
    pub(crate) url: String,
    inbox: Arc<Mutex<Inbox>>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let inbox = Arc::new(Mutex::new(Inbox::default()));
        let app = Router::new().route("/webhook", post(receive)).with_state(Arc::clone(&inbox));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/webhook", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, inbox }
    }

    /// The next requests are answered so, in this order.
    pub(crate) fn answer_next(&self, statuses: &[u16]) {
        self.inbox.lock().unwrap().answers = statuses.iter().rev().copied().collect();
    }

    pub(crate) fn arrivals(&self, kind: &str) -> Vec<Arrival> {
        self.inbox.lock().unwrap().arrivals.iter().filter(|arrival| arrival.kind() == kind).cloned().collect()
    }

    pub(crate) fn kinds(&self) -> Vec<String> {
        self.inbox.lock().unwrap().arrivals.iter().map(Arrival::kind).collect()
    }

    pub(crate) async fn wait_for(&self, kind: &str, count: usize) -> Vec<Arrival> {
        until(&format!("{count} {kind}"), async || {
            let found = self.arrivals(kind);
            (found.len() >= count).then_some(found)
        })
        .await
    }
}

async fn receive(State(inbox): State<Arc<Mutex<Inbox>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let signature = headers.get("stripe-signature").map(|value| value.to_str().unwrap().to_owned());
    let mut inbox = inbox.lock().unwrap();
    inbox.arrivals.push(Arrival { body: String::from_utf8(body.to_vec()).unwrap(), signature });
    StatusCode::from_u16(inbox.answers.pop().unwrap_or(200)).unwrap()
}

/// A directory that is gone afterwards.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        let name = format!("wopr-local-{}", hex::encode(rand::random::<[u8; 8]>()));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} was not removed: {error}", self.0.display());
        }
    }
}

/// A started program, killed when dropped.
pub(crate) struct Program {
    child: Child,
    /// The line it announced itself with.
    pub(crate) announced: String,
}

impl Program {
    /// Starts `command` and waits for the first line of its output that contains `word`.
    pub(crate) fn start(command: &mut Command, word: &str) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let announced = lines.map(Result::unwrap).find(|line| line.contains(word)).unwrap();
        Self { child, announced }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end; answers the exit code.
    pub(crate) async fn ended(mut self) -> Option<i32> {
        until("the program to end", async || self.child.try_wait().unwrap()).await.code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Already ended in most tests, and then there is nothing to kill.
        let _killed = self.child.kill();
        let _waited = self.child.wait();
    }
}
