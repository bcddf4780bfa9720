//! The server is killed, its database goes away, providers fail and clients leave while models are called.
//!
//! Afterwards every call that was answered is charged once, at what the provider said it used; every other is accounted
//! for; no credit is left aside.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use features::http::{Client, Request};
use futures_util::StreamExt as _;
use rand::Rng as _;
use rand::rngs::StdRng;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use wopr_core::audit::{Actor, Origin};
use wopr_core::auth::{Auth, AuthConfig, Scope};
use wopr_core::billing::{Billing, BillingConfig, Transfer, TransferKind};
use wopr_core::clock::{Clock as _, SystemClock};
use wopr_core::ids::TenantId;
use wopr_core::money::Money;
use wopr_core::testing::TestDb;

use super::books::Books;
use super::program::{Directory, Port, Program, serves};
use super::schedule::{self, Course};

/// How many call at once.
const CALLERS: u64 = 8;
/// How often the server is killed.
const KILLS: usize = 3;
/// Fewer whole answers would show little.
const ANSWERS: usize = 30;
/// Enough for all calls of a schedule.
const CREDIT: Money = Money::from_cents(5_000);
/// What the seeded prices of the model come to with the margin, in nano-dollars for a token.
const READ: i64 = 195;
const WRITTEN: i64 = 780;

#[tokio::test(flavor = "multi_thread")]
async fn charges_survive_kills() {
    schedule::run("charges", async |seed, course| {
        let mut stage = course.watched(Stage::set(seed, course.clone())).await?;
        let outcome = course.watched(stage.play()).await;
        match outcome {
            Ok(()) => Ok(()),
            Err(error) => bail!("{error:#}\n{}", stage.api.describe()),
        }
    })
    .await;
}

/// What becomes of a call at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answer,
    Slow,
    Fail,
    Cut,
}

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Whole,
    Stream,
    /// Leaves after so many events.
    Leave(usize),
}

/// A call. Its number is what the provider says that it read, so that the row of a call tells which it was.
#[derive(Debug, Clone, Copy)]
struct Call {
    number: u64,
    wish: Wish,
    fate: Fate,
    written: u64,
}

impl Call {
    fn random(number: u64, random: &mut StdRng) -> Self {
        let written = random.random_range(1..40);
        let wish = match random.random_range(0..10) {
            0..4 => Wish::Whole,
            4..8 => Wish::Stream,
            _ => Wish::Leave(random.random_range(1..4)),
        };
        let fate = match random.random_range(0..20) {
            0 => Fate::Fail,
            1 => Fate::Cut,
            2..5 => Fate::Slow,
            _ => Fate::Answer,
        };
        Self { number, wish, fate, written }
    }

    fn price(&self) -> i64 {
        let tokens = |count| i64::try_from(count).unwrap_or(i64::MAX);
        tokens(self.number) * READ + tokens(self.written) * WRITTEN
    }
}

/// What a client saw of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// All of the answer.
    Answer,
    /// A refusal, before anything of an answer.
    Refusal,
    /// It left, or was left.
    Part,
}

/// A provider that does as each call says.
#[derive(Clone, Default)]
struct Provider {
    asked: Arc<AtomicU64>,
}

impl Provider {
    async fn serve(&self) -> Result<u16> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let router = Router::new().route("/v1/chat/completions", post(chat)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(port)
    }
}

async fn chat(State(provider): State<Provider>, Json(body): Json<Value>) -> Response {
    provider.asked.fetch_add(1, Ordering::Relaxed);
    let script = body["messages"][0]["content"].as_str().unwrap_or_default();
    let words: Vec<&str> = script.split(' ').collect();
    let [number, written, fate] = words[..] else { return StatusCode::BAD_REQUEST.into_response() };
    let (Ok(number), Ok(written)) = (number.parse::<u64>(), written.parse::<u64>()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match fate {
        "Fail" => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        "Slow" => tokio::time::sleep(Duration::from_millis(150)).await,
        _ => {}
    }
    let usage = json!({ "prompt_tokens": number, "completion_tokens": written, "total_tokens": number + written });
    let cut = fate == "Cut";
    let mut parts: Vec<Bytes> = Vec::new();
    if body["stream"] == true {
        let event = |value: Value| Bytes::from(format!("data: {value}\n\n"));
        for _ in 0..written {
            parts.push(event(json!({ "choices": [{ "index": 0, "delta": { "content": "word " } }] })));
        }
        parts.push(event(json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] })));
        parts.push(event(json!({ "choices": [], "usage": usage })));
        parts.push(Bytes::from_static(b"data: [DONE]\n\n"));
    } else {
        let message = json!({ "role": "assistant", "content": "word ".repeat(usize::try_from(written).unwrap_or(0)) });
        let answer =
            json!({ "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }], "usage": usage });
        let text = answer.to_string();
        let (one, two) = text.split_at(text.len() / 2);
        parts.extend([one, two].map(|part| Bytes::from(part.to_owned())));
    }
    if cut {
        parts.truncate(parts.len() / 2);
    }
    let body = futures_util::stream::iter(parts).then(|part| async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok::<_, std::io::Error>(part)
    });
    let broken = futures_util::stream::iter(cut.then(|| Err(std::io::Error::other("cut"))));
    Response::new(Body::from_stream(body.chain(broken)))
}

struct Stage {
    course: Course,
    random: StdRng,
    client: Client,
    api: Program,
    api_port: u16,
    key: String,
    provider: Provider,
    books: Books,
    _port: Port,
    files: Directory,
    database: TestDb,
}

impl Stage {
    async fn set(seed: u64, course: Course) -> Result<Self> {
        course.enter("a database");
        let database = TestDb::create().await;
        let books = Books::open(&database.url()).await?;
        let clock = Arc::new(SystemClock);
        let billing = Billing::new(database.db.clone(), clock.clone(), BillingConfig::default());
        let config = AuthConfig::new("http://localhost", "http://localhost");
        let auth = Auth::new(database.db.clone(), clock.clone(), billing.clone(), config);
        let tenant = TenantId::new(clock.now());
        billing.open_account(tenant, "Ada").await?;
        let credit = Transfer::to_wallet("start", TransferKind::Purchase, tenant, CREDIT, Actor::System("crash-test"));
        billing.post(&[credit]).await?;
        let key =
            auth.create_api_key(&Origin::system("crash-test"), Some(tenant), Scope::Inference, "bot", None).await?;
        let provider = Provider::default();
        let provider_port = provider.serve().await?;
        let (files, port) = (Directory::create()?, Port::claim().await?);
        let secret = |name: &str| format!("{name}-{}", uuid::Uuid::new_v4().simple());
        let api = Program::built(
            "wopr-api",
            &files.0,
            &[
                ("PORT", port.number.to_string()),
                ("LOG_LEVEL", "info".to_owned()),
                ("DATABASE_URL", database.url()),
                ("PLATFORM_SECRET", secret("platform")),
                ("BETTER_AUTH_SECRET", secret("sessions")),
                ("BETTER_AUTH_URL", format!("http://127.0.0.1:{}", port.number)),
                ("GATEWAY_JOURNAL_DIR", files.0.join("gateway").display().to_string()),
                ("GATEWAY_RATE_LIMIT_LLM", "1000000".to_owned()),
                ("GATEWAY_CIRCUIT_BREAKER_MAX", "1000000".to_owned()),
                ("OPENROUTER_API_KEY", "sk-or-of-the-crash-test".to_owned()),
                ("OPENROUTER_API_BASE", format!("http://127.0.0.1:{provider_port}")),
            ],
        )?;
        Ok(Self {
            course,
            random: schedule::random(seed),
            client: Client::new()?,
            api,
            api_port: port.number,
            key: key.plaintext.expose_secret().to_owned(),
            provider,
            books,
            _port: port,
            files,
            database,
        })
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.api_port)
    }

    async fn pause(&mut self, longest_ms: u64) {
        let micros = self.random.random_range(0..longest_ms * 1000);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }

    async fn play(&mut self) -> Result<()> {
        self.course.enter("start");
        self.api.start()?;
        serves(&self.client, &self.url("/gateway/health")).await?;
        self.course.enter("calls");
        let (seen, stop) = (Arc::new(Mutex::new(BTreeMap::new())), tokio_util::sync::CancellationToken::new());
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let random = schedule::random(self.random.random());
            callers.spawn(call_on(caller, random, self.api_port, self.key.clone(), Arc::clone(&seen), stop.clone()));
        }
        for life in 0..=KILLS {
            self.pause(1_500).await;
            if self.random.random_bool(0.4) {
                self.course.enter("the database is away");
                self.database.set_away(true).await;
                self.pause(1_500).await;
                self.database.set_away(false).await;
                self.books = Books::open(&self.database.url()).await?;
            }
            if life < KILLS {
                self.course.enter("a kill");
                self.api.kill().await?;
                self.pause(100).await;
                self.api.start()?;
                serves(&self.client, &self.url("/gateway/health")).await?;
            }
        }
        self.course.enter("a last answer");
        let answered = || {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.values().filter(|(_, seen)| *seen == Seen::Answer).count()
        };
        let wanted = ANSWERS.max(answered() + 1);
        self.course
            .until("enough answers", async || {
                ensure!(answered() >= wanted, "{} answers", answered());
                Ok(())
            })
            .await?;
        stop.cancel();
        while let Some(ended) = callers.join_next().await {
            ended?;
        }
        self.course.enter("a last kill");
        self.api.kill().await?;
        self.api.start()?;
        self.course.enter("all settled");
        serves(&self.client, &self.url("/gateway/health")).await?;
        self.all_settled().await?;
        self.course.enter("the books");
        self.books.check().await?;
        let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
        let refused = std::fs::read_to_string(self.files.0.join("gateway/refused.jsonl")).unwrap_or_default();
        ensure!(refused.is_empty(), "calls were set aside that nothing is wrong with:\n{refused}");
        self.compare(&seen).await?;
        self.course.enter("tidying up");
        Ok(())
    }

    /// Nothing in the journal is unsettled, and nothing is leased any more.
    async fn all_settled(&self) -> Result<()> {
        let settled = async || {
            let url = self.url("/gateway/health");
            let health = self.client.send(Request::get(url)).await?.expect_status(200)?.json()?;
            ensure!(health["unsettledBytes"] == 0, "{health}");
            let leased = self.books.number("SELECT coalesce(sum(left_nanos), 0)::bigint FROM credit_leases").await?;
            ensure!(leased == 0, "{leased} nano-dollars are leased");
            Ok(())
        };
        self.course.until("everything settled", settled).await
    }

    async fn compare(&self, seen: &BTreeMap<u64, (Call, Seen)>) -> Result<()> {
        let spent = self.books.number("SELECT coalesce(sum(charge_nanos), 0)::bigint FROM gateway_requests").await?;
        let balance = self.books.number("SELECT balance_nanos FROM wallets").await?;
        ensure!(balance == CREDIT.as_nanos() - spent, "{balance} is left, and calls were charged {spent}");
        let wrong = self
            .books
            .rows(
                "SELECT r.id, r.charge_nanos, t.amount_nanos FROM gateway_requests r
                 FULL JOIN (SELECT * FROM ledger_transfers WHERE kind = 'adapter_usage') t
                   ON t.reference_key = 'usage:req_' || replace(r.id::text, '-', '')
                 WHERE coalesce(r.charge_nanos, 0) <> coalesce(t.amount_nanos, 0)",
            )
            .await?;
        ensure!(wrong.is_empty(), "calls and movements differ: {wrong:?}");
        let unexplained = self
            .books
            .rows(
                "SELECT id, cost_nanos, charge_nanos, explanation FROM gateway_requests, LATERAL (
                     SELECT coalesce(sum((part->>'quantity')::numeric * (part->>'nanos')::numeric / 1000000), 0) AS cost
                     FROM jsonb_array_elements(explanation->'parts') part) told
                 WHERE charge_nanos <> round(cost * (10000 + coalesce((explanation->>'margin_bps')::numeric, 0)) / 10000)",
            )
            .await?;
        ensure!(unexplained.is_empty(), "charges that their prices do not explain: {unexplained:?}");
        let hours = self.books.number("SELECT coalesce(sum(charge_nanos), 0)::bigint FROM usage_hours").await?;
        ensure!(hours == spent, "the hours have {hours}, the calls {spent}");

        let rows = self
            .books
            .rows("SELECT input_units, charge_nanos, outcome FROM gateway_requests WHERE usage_source = 'reported'")
            .await?;
        let mut charged: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
        for row in &rows {
            let [Some(number), Some(charge), _] = &row[..] else { bail!("a row without figures: {row:?}") };
            charged.entry(number.parse()?).or_default().push(charge.parse()?);
        }
        let mut answered = 0;
        for (number, (call, seen)) in seen {
            let charges = charged.get(number).map(Vec::as_slice).unwrap_or_default();
            ensure!(charges.len() <= 1, "call {call:?} was charged more than once: {charges:?}");
            if *seen == Seen::Answer {
                answered += 1;
                ensure!(charges == [call.price()], "call {call:?} was answered and charged {charges:?}");
            }
        }
        ensure!(answered >= ANSWERS, "only {answered} calls were answered: this shows little");
        let attempts = self.books.number("SELECT coalesce(sum(attempts), 0)::bigint FROM gateway_requests").await?;
        let asked = i64::try_from(self.provider.asked.load(Ordering::Relaxed))?;
        // Between writing that a call begins and asking, each caller can be killed once.
        let unasked = i64::try_from(CALLERS)? * i64::try_from(KILLS + 1)?;
        ensure!(
            (asked..=asked + unasked).contains(&attempts),
            "the provider was asked {asked} times, {attempts} are told"
        );
        Ok(())
    }
}

/// Calls until it is told to stop, and says what it saw.
async fn call_on(
    caller: u64,
    mut random: StdRng,
    port: u16,
    key: String,
    seen: Arc<Mutex<BTreeMap<u64, (Call, Seen)>>>,
    stop: tokio_util::sync::CancellationToken,
) {
    let mut number = caller + 1;
    while !stop.is_cancelled() {
        let call = Call::random(number, &mut random);
        number += CALLERS;
        let saw = if let Ok(saw) = ask(port, &key, call).await {
            saw
        } else {
            // The server is away: nobody hammers it.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Seen::Part
        };
        seen.lock().unwrap_or_else(PoisonError::into_inner).insert(call.number, (call, saw));
    }
}

/// Sends a call on a connection of its own.
async fn ask(port: u16, key: &str, call: Call) -> Result<Seen> {
    let script = format!("{} {} {:?}", call.number, call.written, call.fate);
    let body = json!({
        "model": "openai/gpt-4o-mini",
        "max_tokens": 64,
        "stream": call.wish != Wish::Whole,
        "messages": [{ "role": "user", "content": script }],
    });
    let body = body.to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        let read = stream.read(&mut part).await?;
        answer.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&answer);
        if let Wish::Leave(after) = call.wish
            && text.matches("data: ").count() >= after
        {
            return Ok(Seen::Part);
        }
        if read == 0 {
            break;
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).context("no status")?;
    let (_, content) = text.split_once("\r\n\r\n").context("no body")?;
    Ok(match call.wish {
        _ if status != "200" => Seen::Refusal,
        Wish::Whole if serde_json::from_str::<Value>(content).is_ok() => Seen::Answer,
        // The end of the chunks says that the server ended the answer, and did not merely end.
        Wish::Stream if content.contains("data: [DONE]") && content.ends_with("0\r\n\r\n") => Seen::Answer,
        _ => Seen::Part,
    })
}
