//! The customer's way, walked over HTTP: signs up, pays, gets a running bot.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::Context;
use bollard::{Docker, models::ContainerSummary, query_parameters::ListContainersOptionsBuilder};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    clock::unix_seconds,
    commands::wait_until,
    exec::observe::name_of,
    failure::{Exit, Failure},
    plan::spec::MANAGED_LABEL,
    stripe::{CheckoutCompleted, deliver},
    ui::Ui,
};

/// What is paid in one event, in US cents; no credit pack has this price.
const PAID_CENTS: i64 = 3000;
/// How long a credit may take to show, and a bot to run.
const LIMIT: Duration = Duration::from_mins(1);
/// How soon a bot is asked for a second time; each further question waits a fifth longer, so that a slow one is not taken
/// for too many requests.
const PACE: Duration = Duration::from_millis(100);
const SLOWEST_PACE: Duration = Duration::from_secs(2);
/// As a bot's name would be.
const NOBODY: &str = "nobody-0123456789abcdef";
const COOKIE: &str = "better-auth.session_token";
const ORIGIN: &str = "http://localhost:3000";

/// Walks the whole way with a customer of its own; fails at the first step that does not answer as it must. Two machines have
/// models, and a proxy that bots are reached through, on `http_port`.
pub(crate) async fn walk(
    ui: &Ui,
    engine: &Docker,
    http: &reqwest::Client,
    api_port: u16,
    webhook_secret: &str,
    database: &str,
    http_port: Option<u16>,
) -> anyhow::Result<()> {
    let mut customer = Customer::new(http, api_port, webhook_secret, &format!("happy-path-{}", unix_seconds()));
    let ui = Steps { ui };
    ui.step("liveness and readiness", customer.health()).await?;
    ui.step("1 sign-up", customer.sign_up()).await?;
    ui.step("2 session cookie, encoded and decoded", customer.cookie_forms()).await?;
    ui.step("3 balance of a new customer", customer.first_balance()).await?;
    ui.step("4 checkout", customer.checkout()).await?;
    ui.step("5 signed webhooks, with and without a customer, each twice", customer.payments()).await?;
    ui.step("6 balance after payment", customer.balance_reaches(2 * PAID_CENTS)).await?;
    ui.step("7 credit_transactions in the database", customer.rows(engine, database)).await?;
    ui.step("8 create a bot", customer.create_bot()).await?;
    ui.step("9 the bot runs", customer.bot_runs()).await?;
    ui.step("  its container runs with a volume on /data", customer.container_runs(engine)).await?;
    if let Some(port) = http_port {
        ui.step("10 the bot asks a model, and pays to the nano-dollar", customer.asks(engine, database)).await?;
        ui.step("11 the bot answers to its own name", customer.bot_answers(port)).await?;
    }
    Ok(())
}

mod models;

struct Steps<'a> {
    ui: &'a Ui,
}

impl Steps<'_> {
    async fn step(&self, what: &str, work: impl Future<Output = anyhow::Result<String>>) -> anyhow::Result<()> {
        let task = self.ui.start(what);
        let result = work.await.map_err(|error| {
            anyhow::Error::new(
                Failure::new(Exit::HappyPath, format!("the happy path fails at `{}`", what.trim()))
                    .why(format!("{error:#}"))
                    .fix("`cargo wopr logs api` shows what the API has to say"),
            )
        });
        task.ends(result, Clone::clone).map(drop)
    }
}

/// A customer on the way.
#[derive(Debug, Clone)]
pub(crate) struct Customer<'a> {
    http: &'a reqwest::Client,
    api_port: u16,
    webhook_secret: &'a str,
    email: String,
    cookie: String,
    tenant: String,
    bot: String,
}

/// One movement of a customer's credit.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Movement {
    pub(crate) id: String,
    /// In nano-dollars; negative for what was spent.
    pub(crate) amount: i64,
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

impl<'a> Customer<'a> {
    /// Somebody who has not signed up yet.
    pub(crate) fn new(http: &'a reqwest::Client, api_port: u16, webhook_secret: &'a str, name: &str) -> Self {
        Self {
            http,
            api_port,
            webhook_secret,
            email: format!("{name}@example.com"),
            cookie: String::new(),
            tenant: String::new(),
            bot: String::new(),
        }
    }

    /// Whose this is.
    pub(crate) fn email(&self) -> &str {
        &self.email
    }

    /// A payment of theirs that Stripe is to tell of.
    pub(crate) fn payment(&self, cents: i64) -> CheckoutCompleted {
        CheckoutCompleted::new(&self.tenant, cents, None)
    }

    /// Tells the API of a payment.
    pub(crate) async fn pays(&self, event: &CheckoutCompleted) -> anyhow::Result<()> {
        deliver(self.http, self.api_port, event, self.webhook_secret).await.map(drop)
    }

    /// Every movement of their credit, the last one first.
    pub(crate) async fn history(&self) -> anyhow::Result<Vec<Movement>> {
        let mut all = Vec::new();
        loop {
            let input = json!({ "limit": 250, "offset": all.len() }).to_string();
            let input = percent_encoding::utf8_percent_encode(&input, percent_encoding::NON_ALPHANUMERIC);
            let path = format!("/trpc/billing.creditsHistory?input={input}");
            let body = answer(self.get(&path, Some(&self.cookie)).await?, StatusCode::OK).await?;
            let page: Vec<Movement> = serde_json::from_value(found(&body, "/result/data/entries")?.clone())?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// A new key of theirs that asks models and opens nothing else.
    pub(crate) async fn service_key(&self) -> anyhow::Result<String> {
        let input = json!({ "label": "models", "scope": "inference" });
        let body = answer(self.post("/api/keys", &input).await?, StatusCode::CREATED).await?;
        found(&body, "/key")?.as_str().map(str::to_owned).context("the key is no text")
    }

    /// Wants a snapshot of their bot and waits for it; the answer is its size in bytes.
    pub(crate) async fn snapshot(&self) -> anyhow::Result<u64> {
        let path = format!("/api/bots/{}/snapshots", self.bot);
        let made = answer(self.post(&path, &json!({ "name": "drill" })).await?, StatusCode::CREATED).await?;
        let id = found(&made, "/snapshot/id")?.clone();
        let ready = wait_until(LIMIT, || async {
            let body = answer(self.get(&path, Some(&self.cookie)).await?, StatusCode::OK).await?;
            let all = body["snapshots"].as_array().context("there is no list of snapshots")?;
            // One that failed is no longer listed.
            let ours = all.iter().find(|snapshot| snapshot["id"] == id).context("the snapshot failed")?;
            Ok((ours["state"] == "ready").then(|| ours["sizeBytes"].as_u64().unwrap_or(0)))
        });
        ready.await?.context("the snapshot is not made in time")
    }

    /// Their tenant.
    pub(crate) fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Their bot.
    pub(crate) fn bot(&self) -> &str {
        &self.bot
    }

    /// The container of their bot, which must run.
    pub(crate) async fn container(&self, engine: &Docker) -> anyhow::Result<ContainerSummary> {
        let label = format!("{MANAGED_LABEL}=true");
        let filters = HashMap::from([("label", vec![label.as_str()]), ("status", vec!["running"])]);
        let options = ListContainersOptionsBuilder::default().filters(&filters).build();
        let running = engine.list_containers(Some(options)).await.context("the engine does not list its containers")?;
        let is_the_bot = |summary: &ContainerSummary| {
            let labels = summary.labels.clone().unwrap_or_default();
            name_of(summary).contains(&self.bot) || labels.values().any(|value| *value == self.bot)
        };
        let found = running.into_iter().find(is_the_bot);
        found.with_context(|| format!("no running container belongs to {}", self.bot))
    }

    fn url(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.api_port)
    }

    async fn get(&self, path: &str, cookie: Option<&str>) -> anyhow::Result<Response> {
        let mut request = self.http.get(self.url(path)).header("origin", ORIGIN);
        if let Some(cookie) = cookie {
            request = request.header("cookie", format!("{COOKIE}={cookie}"));
        }
        request.send().await.with_context(|| format!("GET {path}"))
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Response> {
        let mut request = self.http.post(self.url(path)).header("origin", ORIGIN).json(body);
        if !self.cookie.is_empty() {
            request = request.header("cookie", format!("{COOKIE}={}", self.cookie));
        }
        request.send().await.with_context(|| format!("POST {path}"))
    }

    /// Calls a mutation and answers with `result.data`.
    async fn mutate(&self, procedure: &str, input: &Value) -> anyhow::Result<Value> {
        let body = answer(self.post(&format!("/trpc/{procedure}"), input).await?, StatusCode::OK).await?;
        found(&body, "/result/data").cloned()
    }

    async fn health(&self) -> anyhow::Result<String> {
        // It is degraded as long as a bot's last backup is too old, for instance after the stack was stopped for a day.
        for (path, words) in [("/health", ["ok", "degraded"].as_slice()), ("/health/ready", &["ready"])] {
            let body = answer(self.get(path, None).await?, StatusCode::OK).await?;
            let status = body["status"].as_str().unwrap_or_default();
            anyhow::ensure!(words.contains(&status) && body["service"] == "wopr-platform", "GET {path}: {body}");
        }
        Ok(String::new())
    }

    pub(crate) async fn sign_up(&mut self) -> anyhow::Result<String> {
        let input = json!({ "name": "Happy Path", "email": self.email, "password": "Testpass1" });
        let response = self.post("/api/auth/sign-up/email", &input).await?;
        let cookies: Vec<String> = response
            .headers()
            .get_all("set-cookie")
            .iter()
            .filter_map(|value| Some(value.to_str().ok()?.to_owned()))
            .collect();
        let body = answer(response, StatusCode::OK).await?;
        anyhow::ensure!(body["user"]["email"] == self.email.as_str(), "the answer names no such user: {body}");
        found(&body, "/user/id")?;
        self.cookie = cookies.iter().find_map(|header| token(header)).context("the answer sets no session cookie")?;
        Ok(self.email.clone())
    }

    async fn cookie_forms(&self) -> anyhow::Result<String> {
        for cookie in [self.cookie.clone(), decoded(&self.cookie)] {
            answer(self.get(BALANCE, Some(&cookie)).await?, StatusCode::OK).await?;
        }
        Ok(String::new())
    }

    pub(crate) async fn first_balance(&mut self) -> anyhow::Result<String> {
        let body = answer(self.get(BALANCE, Some(&self.cookie)).await?, StatusCode::OK).await?;
        let tenant = found(&body, "/result/data/tenant")?.as_str().context("the tenant is no text")?;
        let expected = json!({ "tenant": tenant, "balance_cents": 0, "daily_burn_cents": 0, "runway_days": null });
        anyhow::ensure!(body["result"]["data"] == expected, "expected {expected}, got {body}");
        tenant.clone_into(&mut self.tenant);
        let refused = answer(self.get(BALANCE, None).await?, StatusCode::UNAUTHORIZED).await?;
        anyhow::ensure!(refused.to_string().contains("Authentication required"), "without a session: {refused}");
        Ok(format!("0 cents; tenant {tenant}"))
    }

    async fn checkout(&self) -> anyhow::Result<String> {
        let page = "http://localhost:3000/dashboard";
        let input = json!({ "priceId": "price_wopr_credits_25", "successUrl": page, "cancelUrl": page });
        let data = self.mutate("billing.creditsCheckout", &input).await?;
        let session = found(&data, "/sessionId")?.as_str().unwrap_or_default();
        anyhow::ensure!(session.starts_with("cs_test_"), "the session id is {session}");
        let url = found(&data, "/url")?.as_str().context("the url is no text")?;
        let opened = self.http.get(url).send().await.with_context(|| format!("the page {url} does not open"))?;
        anyhow::ensure!(opened.status().is_success(), "the page {url} answers {}", opened.status());
        Ok(url.to_owned())
    }

    /// Two payments, each delivered twice; the second delivery must change nothing.
    async fn payments(&self) -> anyhow::Result<String> {
        let customer = format!("cus_{}", self.tenant.replace(|c: char| !c.is_ascii_alphanumeric(), ""));
        for customer in [Some(customer), None] {
            let event = CheckoutCompleted::new(&self.tenant, PAID_CENTS, customer);
            for _ in 0..2 {
                deliver(self.http, self.api_port, &event, self.webhook_secret).await?;
            }
        }
        Ok(format!("2 × {PAID_CENTS} cents"))
    }

    pub(crate) async fn balance(&self) -> anyhow::Result<i64> {
        let body = answer(self.get(BALANCE, Some(&self.cookie)).await?, StatusCode::OK).await?;
        found(&body, "/result/data/balance_cents")?.as_i64().context("the balance is no whole number")
    }

    pub(crate) async fn balance_reaches(&self, cents: i64) -> anyhow::Result<String> {
        let balance =
            wait_until(LIMIT, || async { Ok(Some(self.balance().await?).filter(|balance| *balance >= cents)) }).await?;
        anyhow::ensure!(balance == Some(cents), "the balance is {balance:?} cents instead of {cents}");
        Ok(format!("{cents} cents"))
    }

    async fn rows(&self, engine: &Docker, database: &str) -> anyhow::Result<String> {
        let query =
            "SELECT count(*) FROM (SELECT * FROM credit_transactions ORDER BY created_at DESC LIMIT 5) AS latest;";
        let output = sql(engine, database, query).await?;
        let count: i64 = output.trim().parse().with_context(|| format!("psql said {output}"))?;
        anyhow::ensure!(count >= 2, "{count} rows");
        Ok(format!("{count} rows"))
    }

    pub(crate) async fn create_bot(&mut self) -> anyhow::Result<String> {
        let input = json!({
            "name": "test-bot", "image": "wopr-network/wopr:latest", "description": "created by the happy path",
        });
        let data = self.mutate("fleet.createInstance", &input).await?;
        let status = found(&data, "/status")?.as_str().unwrap_or_default();
        anyhow::ensure!(["provisioning", "created", "running"].contains(&status), "the bot's status is {status}");
        anyhow::ensure!(data["name"] == "test-bot", "the bot's name is {}", data["name"]);
        found(&data, "/id")?.as_str().context("the id is no text")?.clone_into(&mut self.bot);
        Ok(self.bot.clone())
    }

    pub(crate) async fn bot_runs(&self) -> anyhow::Result<String> {
        let path = format!("/trpc/fleet.getInstance?input=%7B%22id%22%3A%22{}%22%7D", self.bot);
        let mut last = Value::Null;
        let mut pace = PACE;
        let since = Instant::now();
        while since.elapsed() < LIMIT {
            last = answer(self.get(&path, Some(&self.cookie)).await?, StatusCode::OK).await?;
            if last["result"]["data"]["status"] == "running" {
                return Ok("running".to_owned());
            }
            // An error is tried again by the platform: only time decides that it stays.
            tokio::time::sleep(pace).await;
            pace = SLOWEST_PACE.min(pace * 6 / 5);
        }
        anyhow::bail!("it does not run: {}", last["result"]["data"])
    }

    /// Its name does not have to be known to this machine: the proxy is asked for it.
    async fn bot_answers(&self, http_port: u16) -> anyhow::Result<String> {
        let path = format!("/trpc/fleet.getInstance?input=%7B%22id%22%3A%22{}%22%7D", self.bot);
        let body = answer(self.get(&path, Some(&self.cookie)).await?, StatusCode::OK).await?;
        let host = found(&body, "/result/data/hostname")?.as_str().context("the name is no text")?.to_owned();
        let ask = async |host: &str| {
            let url = format!("http://127.0.0.1:{http_port}/health");
            anyhow::Ok(self.http.get(url).header("host", host).send().await.context("the proxy does not answer")?)
        };
        let answered = wait_until(LIMIT, || async {
            let response = ask(&host).await?;
            Ok((response.status() == StatusCode::OK).then_some(response))
        });
        let response = answered.await?.with_context(|| format!("{host} does not answer"))?;
        let body = answer(response, StatusCode::OK).await?;
        anyhow::ensure!(body["status"] == "ok", "{host} answers {body}");
        let nobody = ask(&format!("{NOBODY}.{}", crate::plan::platform::DOMAIN)).await?.status();
        anyhow::ensure!(nobody == StatusCode::SERVICE_UNAVAILABLE, "a bot that is not there answers {nobody}");
        Ok(host)
    }

    async fn container_runs(&self, engine: &Docker) -> anyhow::Result<String> {
        let container = self.container(engine).await?;
        let on_data = container.mounts.iter().flatten().find(|mount| mount.destination.as_deref() == Some("/data"));
        let volume = on_data
            .filter(|mount| mount.typ.as_deref() == Some("volume"))
            .and_then(|mount| mount.name.clone())
            .context("its container has no volume on /data")?;
        Ok(format!("{} with volume {volume}", name_of(&container)))
    }
}

/// Has PostgreSQL answer a question.
async fn sql(engine: &Docker, database: &str, query: &str) -> anyhow::Result<String> {
    let command = ["psql", "-h", "/run/postgresql", "-U", crate::plan::platform::DATABASE, "-Atc", query];
    crate::exec::ready::output_of(engine, database, &command).await
}

const BALANCE: &str = "/trpc/billing.creditsBalance?input=%7B%7D";

/// The body as JSON, if the status is the one expected.
async fn answer(response: Response, expected: StatusCode) -> anyhow::Result<Value> {
    let (status, path) = (response.status(), response.url().path().to_owned());
    let text = response.text().await.with_context(|| format!("{path} breaks off"))?;
    anyhow::ensure!(status == expected, "{path} answers {status} instead of {expected}: {text}");
    serde_json::from_str(&text).with_context(|| format!("{path} answers no JSON: {text}"))
}

fn found<'v>(body: &'v Value, pointer: &str) -> anyhow::Result<&'v Value> {
    body.pointer(pointer).filter(|value| !value.is_null()).with_context(|| format!("{pointer} is missing in {body}"))
}

/// The session token of a `Set-Cookie` header, as it was sent.
fn token(header: &str) -> Option<String> {
    let value = header.strip_prefix(COOKIE)?.strip_prefix('=')?.split(';').next()?;
    (!value.is_empty()).then(|| value.to_owned())
}

/// Percent-decodes; what is no valid escape stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escape = after.get(..2).filter(|_| *first == b'%').and_then(|digits| hex::decode(digits).ok());
        if let Some(byte) = escape {
            bytes.extend(byte);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_taken_as_it_was_sent() {
        let header = "better-auth.session_token=abc.d%2Fe%3D; Max-Age=604800; Path=/; HttpOnly; SameSite=Lax";
        assert_eq!(token(header).as_deref(), Some("abc.d%2Fe%3D"));
        assert_eq!(token("better-auth.session_token=; Max-Age=0"), None);
        assert_eq!(token("better-auth.session_data=x"), None);
    }

    #[test]
    fn a_token_decodes_and_oddities_survive() {
        for (text, expected) in [("a%2Fb%3D", "a/b="), ("plain", "plain"), ("50%", "50%"), ("%zz", "%zz"), ("", "")] {
            assert_eq!(decoded(text), expected);
        }
    }
}
