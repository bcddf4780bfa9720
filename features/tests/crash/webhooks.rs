//! The server is killed while Stripe reports payments twice, late and in any order.
//!
//! Afterwards the books say of every payment what Stripe says of it, to the cent.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use features::http::{Client, Request};
use features::person::Person;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use wopr_core::testing::TestDb;

use super::books::Books;
use super::program::{Directory, Port, Program, serves};
use super::schedule::{self, Course};

const CUSTOMERS: usize = 2;
const KILLS: usize = 3;
const STRIPE_KEY: &str = "sk_test_crash";
const WEBHOOK_SECRET: &str = "whsec_of_the_crash_test";
const DASHBOARD: &str = "http://localhost:3000/dashboard";
/// Dollars charged, cents credited.
const PACKS: [(i64, i64); 5] = [(5, 500), (10, 1000), (25, 2550), (50, 5250), (100, 11_000)];

#[tokio::test(flavor = "multi_thread")]
async fn payments_survive_kills() {
    schedule::run("payments", async |seed, course| {
        let mut stage = course.watched(Stage::set(seed, course.clone())).await?;
        let outcome = course.watched(stage.play()).await;
        match outcome {
            Ok(()) => Ok(()),
            Err(error) => bail!("{error:#}\n{}", stage.describe().await),
        }
    })
    .await;
}

struct Stage {
    course: Course,
    random: StdRng,
    client: Client,
    api: Program,
    api_url: String,
    stripe: Program,
    stripe_url: String,
    customers: Vec<Person>,
    books: Books,
    _ports: [Port; 2],
    /// Where the programs write; removed with this.
    _files: Directory,
    /// Dropped last.
    _database: TestDb,
}

impl Stage {
    async fn set(seed: u64, course: Course) -> Result<Self> {
        course.enter("a database");
        let database = TestDb::create().await;
        let books = Books::open(&database.url()).await?;
        let client = Client::new()?;
        let (files, ports) = (Directory::create()?, [Port::claim().await?, Port::claim().await?]);
        let [api_port, stripe_port] = ports.each_ref().map(|port| port.number);
        let (api_url, stripe_url) = (format!("http://127.0.0.1:{api_port}"), format!("http://127.0.0.1:{stripe_port}"));
        let stripe = Program::built(
            "wopr-stripe-standin",
            &files.0,
            &[
                ("STRIPE_STANDIN_LISTEN", format!("127.0.0.1:{stripe_port}")),
                ("STRIPE_STANDIN_DATA_DIR", files.0.join("journal").display().to_string()),
                ("STRIPE_STANDIN_WEBHOOK_URL", format!("{api_url}/api/billing/webhook")),
                ("STRIPE_STANDIN_RETRY_FIRST_MS", "50".to_owned()),
                ("STRIPE_STANDIN_RETRY_MAX_MS", "400".to_owned()),
                ("STRIPE_SECRET_KEY", STRIPE_KEY.to_owned()),
                ("STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET.to_owned()),
                ("RUST_LOG", "warn".to_owned()),
            ],
        )?;
        let secret = |name: &str| format!("{name}-{}", uuid::Uuid::new_v4().simple());
        let price = |dollars: i64| format!("price_wopr_credits_{dollars}");
        let api = Program::built(
            "wopr-api",
            &files.0,
            &[
                ("PORT", api_port.to_string()),
                ("LOG_LEVEL", "info".to_owned()),
                ("DATABASE_URL", database.url()),
                ("PLATFORM_SECRET", secret("platform")),
                ("BETTER_AUTH_SECRET", secret("sessions")),
                ("BETTER_AUTH_URL", api_url.clone()),
                ("GATEWAY_JOURNAL_DIR", files.0.join("gateway").display().to_string()),
                ("TRUSTED_PROXY_IPS", "127.0.0.1".to_owned()),
                ("STRIPE_SECRET_KEY", STRIPE_KEY.to_owned()),
                ("STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET.to_owned()),
                ("STRIPE_API_BASE", stripe_url.clone()),
                ("STRIPE_CREDIT_PRICE_5", price(5)),
                ("STRIPE_CREDIT_PRICE_10", price(10)),
                ("STRIPE_CREDIT_PRICE_25", price(25)),
                ("STRIPE_CREDIT_PRICE_50", price(50)),
                ("STRIPE_CREDIT_PRICE_100", price(100)),
            ],
        )?;
        let random = schedule::random(seed);
        Ok(Self {
            course,
            random,
            client,
            api,
            api_url,
            stripe,
            stripe_url,
            customers: Vec::new(),
            books,
            _ports: ports,
            _files: files,
            _database: database,
        })
    }

    async fn play(&mut self) -> Result<()> {
        self.course.enter("start");
        self.stripe.start()?;
        self.api.start()?;
        serves(&self.client, &format!("{}/health", self.stripe_url)).await?;
        serves(&self.client, &format!("{}/health/ready", self.api_url)).await?;
        self.course.enter("sign-up");
        for number in 0..CUSTOMERS {
            let email = format!("customer{number}@example.com");
            let mut person = Person::new(&self.client, &self.api_url, &format!("Customer {number}"), email);
            person.sign_up().await?.expect_status(200)?;
            self.customers.push(person);
        }
        self.course.enter("purchases");
        self.control("/deliveries/hold", &json!({})).await?;
        for _ in 0..self.random.random_range(3..7) {
            let session = self.open_checkout().await?.context("nothing was killed yet, and no checkout opened")?;
            self.pay(&session).await?;
        }
        self.take_back().await?;
        self.repeat_reports().await?;
        let seed: u64 = self.random.random();
        self.control("/deliveries/release", &json!({ "order": { "shuffled": { "seed": seed } } })).await?;
        for _ in 0..KILLS {
            self.course.enter("a kill");
            self.pause(400).await;
            // A customer in the middle of it gets no answer, and tries again later.
            if let Ok(Some(session)) = self.open_checkout().await {
                self.pay(&session).await?;
            }
            self.pause(50).await;
            self.api.kill().await?;
            if self.random.random_bool(0.25) {
                self.course.enter("a kill of Stripe too");
                self.stripe.kill().await?;
                self.stripe.start()?;
                serves(&self.client, &format!("{}/health", self.stripe_url)).await?;
            }
            self.pause(100).await;
            self.api.start()?;
        }
        self.course.enter("the last start");
        serves(&self.client, &format!("{}/health/ready", self.api_url)).await?;
        // What a killed server was working on becomes another's when its time for it is over, which is waited for here.
        self.course.enter("all delivered");
        self.all_delivered().await?;
        self.course.enter("all worked through");
        self.all_worked_through().await?;
        self.course.enter("repetitions");
        self.repeat_reports().await?;
        self.course.enter("all delivered again");
        self.all_delivered().await?;
        self.course.enter("all worked through again");
        self.all_worked_through().await?;
        self.course.enter("checkouts known");
        self.all_checkouts_known().await?;
        self.course.enter("the books");
        self.compare().await?;
        self.course.enter("tidying up");
        Ok(())
    }

    /// What there is to know about a schedule that failed.
    async fn describe(&mut self) -> String {
        let found = async {
            let url = format!("{}/_control/deliveries", self.stripe_url);
            let found = self.client.send(Request::get(url)).await?.expect_status(200)?.json()?;
            let open = found["deliveries"].as_array().into_iter().flatten();
            let open: Vec<String> =
                open.filter(|row| row["state"] == "pending" || row["state"] == "held").map(Value::to_string).collect();
            anyhow::Ok(open.join("\n  "))
        };
        let deliveries = found.await.unwrap_or_else(|error| format!("not to be had: {error:#}"));
        let mut text = format!("Deliveries still to be made:\n  {deliveries}\n");
        for (what, query) in [
            (
                "Events still to be worked through",
                "SELECT event_id, kind, object_id, attempts, next_attempt_at - clock_timestamp(), last_error
                 FROM webhook_events WHERE state = 'received' ORDER BY next_attempt_at",
            ),
            (
                "In the database",
                "SELECT pid, state, wait_event_type, wait_event, clock_timestamp() - state_change, left(query, 100)
                 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
            ),
            (
                "Advisory locks",
                "SELECT pid, granted, classid, objid FROM pg_locks JOIN pg_database d ON d.oid = database
                 WHERE locktype = 'advisory' AND datname = current_database()",
            ),
            ("Connections to the server", "SELECT state, count(*) FROM pg_stat_activity GROUP BY state"),
        ] {
            let rows = match self.books.rows(query).await {
                Ok(rows) => rows.iter().map(|row| format!("{row:?}")).collect::<Vec<_>>().join("\n  "),
                Err(error) => format!("{error:#}"),
            };
            text.extend([what, ":\n  ", &rows, "\n"]);
        }
        text + &self.stripe.describe() + "\n" + &self.api.describe()
    }

    /// Somewhere within the next milliseconds: this is where the kill's point in time comes from.
    async fn pause(&mut self, longest_ms: u64) {
        let micros = self.random.random_range(0..longest_ms * 1000);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }

    async fn control(&self, path: &str, body: &Value) -> Result<Value> {
        let request = Request::post(format!("{}/_control{path}", self.stripe_url)).json(body);
        self.client.send(request).await?.expect_status(200)?.json()
    }

    /// All objects of a list of Stripe's.
    async fn list(&self, path: &str) -> Result<Vec<Value>> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let after = all.last().and_then(|last| last["id"].as_str()).map(|id| format!("&starting_after={id}"));
            let url = format!("{}/v1/{path}?limit=100{}", self.stripe_url, after.unwrap_or_default());
            let page = self.client.send(Request::get(url).bearer(STRIPE_KEY)).await?.expect_status(200)?.json()?;
            all.extend(page["data"].as_array().cloned().unwrap_or_default());
            if page["has_more"] != true {
                return Ok(all);
            }
        }
    }

    /// A checkout of somebody for some pack; nothing when the server had no answer for them.
    async fn open_checkout(&mut self) -> Result<Option<String>> {
        let (dollars, _) = *PACKS.choose(&mut self.random).context("there are packs")?;
        let who = self.random.random_range(0..self.customers.len());
        let price = format!("price_wopr_credits_{dollars}");
        let input = json!({ "priceId": price, "successUrl": DASHBOARD, "cancelUrl": DASHBOARD });
        let reply = self.customers[who].mutate("billing.creditsCheckout", &input).await?;
        if reply.status >= 500 {
            return Ok(None);
        }
        Ok(reply.data()?["sessionId"].as_str().map(str::to_owned))
    }

    async fn pay(&self, session: &str) -> Result<()> {
        self.control(&format!("/checkout/sessions/{session}/pay"), &json!({})).await?;
        Ok(())
    }

    /// Refunds some charges and disputes some others.
    async fn take_back(&mut self) -> Result<()> {
        for charge in self.list("charges").await? {
            let id = charge["id"].as_str().context("a charge has an id")?;
            match self.random.random_range(0..6) {
                0 => drop(self.control(&format!("/charges/{id}/refund"), &json!({})).await?),
                1 => {
                    let dispute = self.control(&format!("/charges/{id}/dispute"), &json!({})).await?;
                    let dispute = dispute["id"].as_str().context("a dispute has an id")?;
                    let decision = ["win", "lose"].choose(&mut self.random).context("two decisions")?;
                    self.control(&format!("/disputes/{dispute}/{decision}"), &json!({})).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Some reports come again, some of them later.
    async fn repeat_reports(&mut self) -> Result<()> {
        for event in self.list("events").await? {
            let id = event["id"].as_str().context("an event has an id")?;
            let (times, delay) = (self.random.random_range(0..3), self.random.random_range(0..2));
            if times > 0 {
                let how = json!({ "times": times, "delay_s": delay });
                self.control(&format!("/events/{id}/redeliver"), &how).await?;
            }
        }
        Ok(())
    }

    /// Waits until Stripe has got rid of every report.
    async fn all_delivered(&self) -> Result<()> {
        let delivered = async || {
            let url = format!("{}/_control/deliveries", self.stripe_url);
            let found = self.client.send(Request::get(url)).await?.expect_status(200)?.json()?;
            let rows = found["deliveries"].as_array().context("no deliveries")?;
            let open = rows.iter().filter(|row| row["state"] == "pending" || row["state"] == "held").count();
            ensure!(open == 0, "{open} of {} are still to be delivered", rows.len());
            Ok(())
        };
        self.course.until("every report delivered", delivered).await
    }

    /// Waits until the server has worked through every report.
    async fn all_worked_through(&self) -> Result<()> {
        let worked_through = async || {
            let query = "SELECT event_id, kind, attempts, last_error FROM webhook_events WHERE state = 'received'";
            let open = self.books.rows(query).await?;
            ensure!(open.is_empty(), "{open:?}");
            Ok(())
        };
        self.course.until("every report worked through", worked_through).await
    }

    /// Waits until the server knows of every checkout what became of it, also of those that it was making when it was
    /// killed.
    async fn all_checkouts_known(&self) -> Result<()> {
        let known = async || {
            let unknown =
                self.books.rows("SELECT id, created_at FROM checkout_sessions WHERE state = 'creating'").await?;
            ensure!(unknown.is_empty(), "{unknown:?}");
            Ok(())
        };
        self.course.until("every checkout known", known).await
    }

    /// The books against what Stripe says.
    async fn compare(&self) -> Result<()> {
        self.books.check().await?;
        let given_up =
            self.books.rows("SELECT event_id, kind, last_error FROM webhook_events WHERE state = 'dead'").await?;
        ensure!(given_up.is_empty(), "given up: {given_up:?}");
        let unmatched = self.books.rows("SELECT reference, reason FROM unmatched_payments").await?;
        ensure!(unmatched.is_empty(), "unmatched: {unmatched:?}");

        // Moved money, to the cent.
        let mut moved: BTreeMap<String, i64> = BTreeMap::new();
        for transaction in self.list("balance_transactions").await? {
            let kind = transaction["type"].as_str().unwrap_or_default().to_owned();
            *moved.entry(kind).or_default() += transaction["amount"].as_i64().context("an amount")?;
        }
        let at_stripe = |kind: &str| moved.get(kind).copied().unwrap_or(0);
        let charged = self.ledger_cents("'purchase'").await?;
        ensure!(charged == at_stripe("charge"), "charged: {charged} in the ledger; Stripe: {moved:?}");
        let refunded = self.ledger_cents("'refund'").await?;
        ensure!(refunded == -at_stripe("refund"), "refunded: {refunded} in the ledger; Stripe: {moved:?}");
        let disputed = self.ledger_cents("'dispute'").await? - self.ledger_cents("'dispute_reversal'").await?;
        ensure!(disputed == -at_stripe("adjustment"), "disputed: {disputed} in the ledger; Stripe: {moved:?}");

        // Each customer has what they paid for, once.
        let sessions = self.list("checkout/sessions").await?;
        let paid: Vec<&Value> = sessions.iter().filter(|session| session["payment_status"] == "paid").collect();
        let purchases = self.books.number("SELECT count(*) FROM ledger_transfers WHERE kind = 'purchase'").await?;
        ensure!(i64::try_from(paid.len())? == purchases, "{} paid checkouts, {purchases} purchases", paid.len());
        let charges = self.list("charges").await?;
        let disputes = self.list("disputes").await?;
        for customer in &self.customers {
            let tenant = customer.tenant()?;
            let mut expected_cents = 0;
            for session in paid.iter().filter(|session| session["client_reference_id"] == tenant) {
                let charge = charges.iter().find(|charge| charge["payment_intent"] == session["payment_intent"]);
                let charge = charge.with_context(|| format!("no charge for {session}"))?;
                let lost =
                    disputes.iter().any(|dispute| dispute["charge"] == charge["id"] && dispute["status"] != "won");
                if charge["refunded"] != true && !lost {
                    let pack = PACKS.iter().find(|(dollars, _)| session["amount_total"] == dollars * 100);
                    expected_cents += pack.with_context(|| format!("no pack for {session}"))?.1;
                }
            }
            let tenant = uuid::Uuid::parse_str(tenant)?;
            let query = format!("SELECT balance_nanos FROM wallets WHERE tenant_id = '{tenant}'");
            let nanos = self.books.number(&query).await?;
            ensure!(
                nanos == expected_cents * 10_000_000,
                "{tenant} has {nanos} nano-dollars, not {expected_cents} cents"
            );
        }
        Ok(())
    }

    async fn ledger_cents(&self, kinds: &str) -> Result<i64> {
        let query = format!(
            "SELECT coalesce(sum(amount_nanos) / 10000000, 0)::bigint FROM ledger_transfers WHERE kind IN ({kinds})"
        );
        self.books.number(&query).await
    }
}
