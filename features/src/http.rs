//! HTTP as a customer's browser speaks it: a cookie jar per person, redirects looked at rather than followed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::Method;
use reqwest::header::{HeaderMap, SET_COOKIE};
use serde_json::Value;

/// The page that the customer's requests come from.
pub const ORIGIN: &str = "http://localhost:3000";
/// Longer than the server's own limit, so that a hanging request is reported as what it is.
const TIMEOUT: Duration = Duration::from_secs(40);

/// Cookies by name, values as they were received.
#[derive(Debug, Clone, Default)]
pub struct Jar(BTreeMap<String, String>);

impl Jar {
    /// The value as received, percent-encoded.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Puts a value of the test's own making.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// Takes over what an answer sets and deletes.
    pub fn take_from(&mut self, headers: &HeaderMap) {
        for header in headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok()) {
            let mut parts = header.split(';').map(str::trim);
            let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else { continue };
            if parts.any(|part| part.eq_ignore_ascii_case("max-age=0")) {
                self.0.remove(name);
            } else {
                self.set(name, value);
            }
        }
    }

    fn header(&self) -> Option<String> {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Reply {
    /// What was asked, for messages.
    pub asked: String,
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as text.
    pub body: String,
}

impl Reply {
    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {self}"))
    }

    /// Passes the reply on when it has this status.
    ///
    /// # Errors
    /// When it has another one.
    pub fn expect_status(self, status: u16) -> Result<Self> {
        ensure!(self.status == status, "expected {status}, got {self}");
        Ok(self)
    }

    /// `result.data` of a tRPC answer.
    ///
    /// # Errors
    /// When the answer is an error.
    pub fn data(&self) -> Result<Value> {
        ensure!(self.status == 200, "expected data, got {self}");
        match self.json()? {
            Value::Object(mut body) => match body.remove("result") {
                Some(Value::Object(mut result)) => Ok(result.remove("data").unwrap_or_default()),
                _ => bail!("no result in {self}"),
            },
            _ => bail!("no object in {self}"),
        }
    }

    /// The message of an error in any of the platform's shapes.
    ///
    /// # Errors
    /// When there is none.
    pub fn message(&self) -> Result<String> {
        let body = self.json()?;
        let found = [&body["error"]["message"], &body["message"], &body["error"], &body["detail"]]
            .into_iter()
            .find_map(Value::as_str);
        found.map(str::to_owned).with_context(|| format!("no message in {self}"))
    }

    /// A header's value, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} → {} {}", self.asked, self.status, self.body)
    }
}

/// One request, as it is put together.
#[derive(Debug)]
pub struct Request {
    method: Method,
    url: String,
    headers: Vec<(String, String)>,
    from_our_page: bool,
    body: Vec<u8>,
}

impl Request {
    /// A request without a body.
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        Self { method, url: url.into(), headers: Vec::new(), from_our_page: true, body: Vec::new() }
    }

    /// A GET.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new(Method::GET, url)
    }

    /// A POST without a body.
    pub fn post(url: impl Into<String>) -> Self {
        Self::new(Method::POST, url)
    }

    /// A tRPC query, its input in the address.
    pub fn query(base: &str, procedure: &str, input: &Value) -> Self {
        let input =
            percent_encoding::utf8_percent_encode(&input.to_string(), percent_encoding::NON_ALPHANUMERIC).to_string();
        Self::get(format!("{base}/trpc/{procedure}?input={input}"))
    }

    /// A tRPC mutation, its input as the body.
    pub fn mutation(base: &str, procedure: &str, input: &Value) -> Self {
        Self::post(format!("{base}/trpc/{procedure}")).json(input)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Does not say that it comes from our page.
    #[must_use]
    pub fn without_origin(mut self) -> Self {
        self.from_our_page = false;
        self
    }

    /// Adds an `Authorization` header.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// Sends the cookies along.
    #[must_use]
    pub fn cookies(self, jar: &Jar) -> Self {
        match jar.header() {
            Some(cookies) => self.header("cookie", cookies),
            None => self,
        }
    }

    /// Sends JSON.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// Sends bytes.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends a form, as a page does.
    #[must_use]
    pub fn form(self, fields: &[(&str, &str)]) -> Self {
        let encode =
            |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let pairs: Vec<String> =
            fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        self.header("content-type", "application/x-www-form-urlencoded").body(pairs.join("&"))
    }
}

/// Sends requests, all from one address, as a proxy in front of the platform tells; cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    address: String,
}

impl Client {
    /// Makes one.
    ///
    /// # Errors
    /// When the TLS set-up of this process is broken.
    pub fn new() -> Result<Self> {
        // Another scenario may have installed it before: the provider is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            // As browsers do, and not every resolver: whatever ends in `.localhost` is this machine (RFC 6761).
            .resolve("api.localhost", (Ipv4Addr::LOCALHOST, 0).into())
            .timeout(TIMEOUT)
            .build()?;
        Ok(Self { http, address: some_address() })
    }

    /// The same, from an address of its own.
    #[must_use]
    pub fn from_elsewhere(&self) -> Self {
        Self { http: self.http.clone(), address: some_address() }
    }

    /// Sends one request, whatever the answer's status.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send(&self, request: Request) -> Result<Reply> {
        let asked = format!("{} {}", request.method, request.url);
        let mut sending = self.http.request(request.method, &request.url).header("x-forwarded-for", &self.address);
        if request.from_our_page {
            sending = sending.header("origin", ORIGIN);
        }
        for (name, value) in request.headers {
            sending = sending.header(name, value);
        }
        let answer = sending.body(request.body).send().await.with_context(|| format!("no answer to {asked}"))?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = answer.text().await.with_context(|| format!("the answer to {asked} broke off"))?;
        Ok(Reply { asked, status, headers, body })
    }
}

/// One that nobody else has: limits are counted by address.
fn some_address() -> String {
    let [a, b, c, ..] = *uuid::Uuid::new_v4().as_bytes();
    format!("10.{a}.{b}.{c}")
}
