//! Calls to models: what they cost, however they end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use diesel_async::SimpleAsyncConnection as _;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use uuid::Uuid;
use wopr_core::audit::{Actor, Origin};
use wopr_core::auth::{Auth, AuthConfig, Scope};
use wopr_core::billing::{Billing, BillingConfig, Spent, Transfer, TransferKind};
use wopr_core::gateway::{
    Answer, Body, CallBody, Caller, Capability, Dialect, Gateway, GatewayConfig, GatewayError, GatewayParts,
    IdempotencyError, IdempotencyKey, Journal, KeyedParts, KeyedProvider, KeyedUse, Model, Price, ProviderCall,
    ProviderError, Question, RateLimits, Side, SpendingLimit, Sync, TenantKeyError, Unit,
};
use wopr_core::ids::{LeaseHolder, TenantId};
use wopr_core::money::Money;
use wopr_core::testing::{FixedClock, MemoryKeyed, MemoryModels, ModelFault, TestDb};
use wopr_core::vault::Vault;

/// One token read and one token written, with the margin: 1 000 and 2 000 nano-dollars, and 30 %.
const READ: i64 = 1_300;
const WRITTEN: i64 = 2_600;

/// A platform: a database, prices, a tenant with credit and a key, a provider.
struct World {
    test: TestDb,
    clock: Arc<FixedClock>,
    auth: Auth,
    billing: Billing,
    folder: PathBuf,
    tenant: TenantId,
    key: String,
    models: Arc<MemoryModels>,
    spare: Arc<MemoryModels>,
    keyed: Arc<MemoryKeyed>,
}

/// A gateway at work.
struct Running {
    gateway: Gateway,
    stop: Option<oneshot::Sender<()>>,
    work: JoinHandle<()>,
}

impl Running {
    /// Ends it well.
    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.work.await.unwrap();
    }

    /// Ends it in the middle of everything: nothing is settled and nothing given back any more.
    async fn kill(self) {
        self.work.abort();
        drop(self.work.await);
    }
}

fn origin() -> Origin {
    Origin::system("test")
}

impl World {
    async fn new(cents: i32) -> Self {
        let test = TestDb::create().await;
        let clock = Arc::new(FixedClock::at(Timestamp::constant(1_800_000_000, 0)));
        let billing = Billing::new(test.db.clone(), clock.clone(), BillingConfig::default());
        let config = AuthConfig::new("http://localhost", "http://localhost");
        let auth = Auth::new(test.db.clone(), clock.clone(), billing.clone(), config);
        let tenant = TenantId::from_uuid(Uuid::new_v4());
        billing.open_account(tenant, "T").await.unwrap();
        let credit = Transfer::to_wallet(
            "paid",
            TransferKind::Purchase,
            tenant,
            Money::from_cents(cents),
            Actor::System("test"),
        );
        if cents > 0 {
            billing.post(&[credit]).await.unwrap();
        }
        let key = auth.create_api_key(&origin(), Some(tenant), Scope::Inference, "bot", None).await.unwrap();
        let folder = std::env::temp_dir().join(format!("wopr-gateway-{}", Uuid::new_v4()));
        let (models, spare) = (Arc::new(MemoryModels::new("memory")), Arc::new(MemoryModels::new("spare")));
        let key = key.plaintext.expose_secret().to_owned();
        let keyed = Arc::new(MemoryKeyed::default());
        Self { test, clock, auth, billing, folder, tenant, key, models, spare, keyed }
    }

    fn gateway(&self, folder: &Path, config: GatewayConfig) -> Gateway {
        let keyed = KeyedParts { vault: vault(&["root"]), providers: self.keyed.clone() };
        self.gateway_with(folder, config, keyed)
    }

    fn gateway_with(&self, folder: &Path, config: GatewayConfig, keyed: KeyedParts) -> Gateway {
        Gateway::new(GatewayParts {
            db: self.test.db.clone(),
            clock: self.clock.clone(),
            auth: self.auth.clone(),
            billing: self.billing.clone(),
            journal: Journal::open(folder, Sync::Soon).unwrap(),
            hosted: vec![self.models.clone(), self.spare.clone()],
            own: None,
            keyed: Some(keyed),
            config,
        })
    }

    async fn start_at(&self, folder: &Path, config: GatewayConfig) -> Running {
        let gateway = self.gateway(folder, config);
        for (provider, priority, unit_price) in [("memory", 1, 1_000), ("spare", 2, 1_000)] {
            let model = |id: &str, capability| Model {
                id: id.to_owned(),
                capability,
                provider: provider.to_owned(),
                provider_model: format!("{provider}-model"),
                max_output_tokens: Some(100),
                priority,
            };
            for capability in [Capability::ChatCompletions, Capability::Embeddings] {
                gateway.save_model(&origin(), &model("m", capability)).await.unwrap();
            }
            let price = |capability, unit| Price {
                id: Uuid::new_v4(),
                capability,
                provider: provider.to_owned(),
                model: "*".to_owned(),
                unit,
                side: Side::Cost,
                nanos: 0,
            };
            let million = unit_price * 1_000_000;
            for (capability, unit, nanos) in [
                (Capability::ChatCompletions, Unit::MillionInputTokens, million),
                (Capability::ChatCompletions, Unit::MillionOutputTokens, 2 * million),
                (Capability::Embeddings, Unit::MillionInputTokens, million),
            ] {
                let known = gateway.prices().await.unwrap();
                if !known.iter().any(|known| {
                    (known.provider.as_str(), known.unit, known.capability) == (provider, unit, capability)
                }) {
                    gateway.set_price(&origin(), &price(capability, unit), Some(nanos)).await.unwrap();
                }
            }
        }
        let (stop, stopped) = oneshot::channel::<()>();
        let running = gateway.clone();
        let work = tokio::spawn(async move { running.run(async { drop(stopped.await) }).await });
        until(async || gateway.accepts()).await;
        Running { gateway, stop: Some(stop), work }
    }

    async fn start(&self) -> Running {
        self.start_at(&self.folder, unlimited()).await
    }

    async fn caller(&self, gateway: &Gateway) -> Arc<Caller> {
        gateway.authenticate(&self.key).await.unwrap()
    }

    async fn balance(&self) -> i64 {
        self.billing.balance(self.tenant).await.unwrap().balance.as_nanos()
    }

    async fn held(&self) -> i64 {
        self.billing.balance(self.tenant).await.unwrap().held.as_nanos()
    }

    /// Nothing is held, the projections fit the rows, and what was charged is what the provider served.
    async fn settle_up(&self, began_with: Money) {
        let report = self.billing.verify_books().await.unwrap();
        assert!(report.differences.is_empty() && report.residue == Money::ZERO, "{report:?}");
        assert_eq!(self.held().await, 0, "nothing is set aside any more");
        assert_eq!(began_with.as_nanos() - self.balance().await, self.served(), "charged and served");
    }

    fn served(&self) -> i64 {
        let served = self.models.served().into_iter().chain(self.spare.served());
        served.map(|usage| price(usage.input, usage.output)).sum()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for folder in [self.folder.clone(), self.folder.with_extension("two")] {
            drop(std::fs::remove_dir_all(folder));
        }
    }
}

fn price(read: u64, written: u64) -> i64 {
    i64::try_from(read).unwrap() * READ + i64::try_from(written).unwrap() * WRITTEN
}

fn vault(roots: &[&str]) -> Vault {
    Vault::new(roots.iter().map(|&root| root.into())).unwrap()
}

fn unlimited() -> GatewayConfig {
    let rates = RateLimits { text_per_minute: 1_000_000, bot_burst: 1_000_000, ..RateLimits::default() };
    GatewayConfig { rates, ..GatewayConfig::default() }
}

/// Waits for a condition, and fails after a minute without it.
async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let limit = tokio::time::timeout(Duration::from_mins(1), async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    limit.await.unwrap();
}

fn chat(text: &str, more: serde_json::Value) -> Question {
    let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": text }] });
    for (name, value) in more.as_object().unwrap() {
        body[name.as_str()] = value.clone();
    }
    let body = body.to_string().into();
    Question { capability: Capability::ChatCompletions, dialect: Dialect::OpenAi, body, content_type: None }
}

fn whole(answer: Answer) -> serde_json::Value {
    let Body::Whole(bytes) = answer.body else { panic!("not whole: {answer:?}") };
    serde_json::from_slice(&bytes).unwrap()
}

async fn streamed(answer: Answer) -> String {
    let Body::Events(events) = answer.body else { panic!("not streamed: {answer:?}") };
    let parts: Vec<_> = events.collect().await;
    String::from_utf8(parts.concat()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_costs_what_the_price_book_says_streamed_or_not() {
    let world = World::new(100).await;
    let running = world.start().await;
    let caller = world.caller(&running.gateway).await;
    let answer = running.gateway.call(&caller, chat("how are you", json!({ "max_tokens": 5 }))).await.unwrap();
    assert_eq!(whole(answer)["usage"]["completion_tokens"], 5);
    let answer =
        running.gateway.call(&caller, chat("and you", json!({ "max_tokens": 4, "stream": true }))).await.unwrap();
    let text = streamed(answer).await;
    assert!(text.ends_with("data: [DONE]\n\n") && !text.contains("\"usage\""), "{text}");
    let body = json!({ "model": "m", "input": ["a b", "c"] }).to_string().into();
    let vectors = Question { capability: Capability::Embeddings, dialect: Dialect::OpenAi, body, content_type: None };
    whole(running.gateway.call(&caller, vectors).await.unwrap());
    let spent = price(3, 5) + price(2, 4) + price(3, 0);
    until(async || world.balance().await == 1_000_000_000 - spent).await;
    assert!(world.held().await > 0, "a slice is leased while calls come");
    let month = running.gateway.month_spend(world.tenant).await.unwrap();
    assert_eq!(month.of(None).as_nanos(), spent);
    assert_eq!(month.of(Some(Capability::Embeddings)).as_nanos(), price(3, 0));
    running.stop().await;
    world.settle_up(Money::from_cents(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_calls_at_once_on_credit_for_fifty_never_overdraw() {
    let world = World::new(1).await;
    let running = world.start().await;
    let caller = world.caller(&running.gateway).await;
    // Each may cost at most 76 tokens written and what is read at worst: about a fiftieth of a cent.
    let question = chat("hi", json!({ "max_tokens": 76 }));
    let calls = (0..500).map(|_| {
        let (gateway, caller, question) = (running.gateway.clone(), Arc::clone(&caller), question.clone());
        tokio::spawn(async move { gateway.call(&caller, question).await })
    });
    let (mut answered, mut refused) = (0, 0);
    for call in calls.collect::<Vec<_>>() {
        match call.await.unwrap() {
            Ok(_) => answered += 1,
            Err(GatewayError::InsufficientCredit { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(answered > 0 && refused > 0, "{answered} {refused}");
    running.stop().await;
    assert!(world.balance().await >= 0);
    world.settle_up(Money::from_cents(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_it_settled_everything_is_charged_once_after_the_next_start() {
    let world = World::new(100).await;
    let running = world.start().await;
    let caller = world.caller(&running.gateway).await;
    whole(running.gateway.call(&caller, chat("a b", json!({ "max_tokens": 3 }))).await.unwrap());
    until(async || running.gateway.unsettled_bytes() == 0).await;
    let settled = world.balance().await;
    world.test.set_away(true).await;
    for _ in 0..20 {
        whole(running.gateway.call(&caller, chat("a b", json!({ "max_tokens": 3 }))).await.unwrap());
    }
    running.kill().await;
    world.test.set_away(false).await;
    assert_eq!(world.balance().await, settled, "nothing was settled without the database");
    for _ in 0..2 {
        let running = world.start().await;
        running.stop().await;
        world.settle_up(Money::from_cents(100)).await;
        // As if what was settled had not been noted.
        std::fs::remove_file(world.folder.join("cursor")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_a_stream_pays_for_what_was_produced() {
    let world = World::new(100).await;
    let running = world.start().await;
    let caller = world.caller(&running.gateway).await;
    world.models.fail_next(ModelFault::HangAfter(3));
    let answer = running.gateway.call(&caller, chat("a b c", json!({ "stream": true }))).await.unwrap();
    let Body::Events(mut events) = answer.body else { panic!("not streamed") };
    for _ in 0..3 {
        assert!(events.next().await.is_some());
    }
    drop(events);
    running.stop().await;
    let spent = 1_000_000_000 - world.balance().await;
    // Three words were seen; what was read is counted, for the provider said nothing.
    assert!((3 * WRITTEN..60 * WRITTEN).contains(&spent), "{spent}");
    assert_eq!(world.held().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_before_the_answer_pays_for_it_whole() {
    let world = World::new(100).await;
    let running = world.start().await;
    let caller = world.caller(&running.gateway).await;
    let release = Arc::new(Notify::new());
    world.models.fail_next(ModelFault::WaitFor(release.clone()));
    let gateway = running.gateway.clone();
    let asking = tokio::spawn(async move { gateway.call(&caller, chat("a b c", json!({}))).await });
    let asked = async {
        while world.models.calls().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), asked).await.unwrap();
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    release.notify_one();
    let settled = async {
        while world.balance().await == 1_000_000_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), settled).await.unwrap();
    running.stop().await;
    assert_eq!(1_000_000_000 - world.balance().await, 3 * READ + 8 * WRITTEN);
    world.settle_up(Money::from_cents(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_before_the_call_is_let_in_leaves_nothing_set_aside() {
    let world = World::new(100).await;
    let running = world.start().await;
    let caller = world.caller(&running.gateway).await;
    let limit = SpendingLimit { capability: None, alert_cents: None, hard_cap_cents: Some(12) };
    running.gateway.set_spending_limits(&origin(), world.tenant, &[limit]).await.unwrap();
    assert!(running.gateway.call(&caller, chat("hi", json!({}))).await.is_ok());
    // Most of the limit, and more than is leased: it waits for the wallet, which somebody else has locked.
    let question = chat("hi", json!({ "max_tokens": 30_000 }));
    let mut other = world.test.db.connection().await.unwrap();
    let lock = format!("BEGIN; SELECT FROM wallets WHERE tenant_id = '{}' FOR UPDATE", world.tenant.as_uuid());
    other.batch_execute(&lock).await.unwrap();
    let (gateway, who, asked) = (running.gateway.clone(), caller.clone(), question.clone());
    let asking = tokio::spawn(async move { gateway.call(&who, asked).await });
    until(async || {
        let waiting = diesel::sql_query(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        );
        diesel_async::RunQueryDsl::execute(waiting, &mut other).await.unwrap() > 0
    })
    .await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    other.batch_execute("COMMIT").await.unwrap();
    drop(other);
    assert_eq!(world.models.calls().len(), 1);
    let next = running.gateway.call(&caller, question).await;
    assert!(next.is_ok(), "{next:?}");
    running.stop().await;
    world.settle_up(Money::from_cents(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_off_ends_with_an_error_and_is_charged_for_what_came() {
    let world = World::new(100).await;
    let running = world.start().await;
    let caller = world.caller(&running.gateway).await;
    world.models.fail_next(ModelFault::CutAfter(2));
    let answer = running.gateway.call(&caller, chat("a", json!({ "stream": true }))).await.unwrap();
    let text = streamed(answer).await;
    assert!(text.contains("\"error\""), "{text}");
    running.stop().await;
    let spent = 1_000_000_000 - world.balance().await;
    assert!(spent >= 2 * WRITTEN, "{spent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_is_asked_before_the_first_byte_and_nobody_pays_twice() {
    let world = World::new(100).await;
    let running = world.start().await;
    let caller = world.caller(&running.gateway).await;
    for error in [
        ProviderError::Failed(500),
        ProviderError::Unreachable("x".to_owned()),
        ProviderError::TimedOut,
        ProviderError::Account(402),
        ProviderError::Busy { retry_after: None },
    ] {
        world.models.fail_next(ModelFault::Refuse(error));
        whole(running.gateway.call(&caller, chat("a", json!({}))).await.unwrap());
    }
    assert_eq!(world.spare.served().len(), 5);
    let refusal = ProviderError::Refused { status: 422, message: "no".to_owned() };
    // The circuit of the first is open after five failures: the second refuses.
    world.spare.fail_next(ModelFault::Refuse(refusal));
    let refused = running.gateway.call(&caller, chat("a", json!({}))).await.unwrap_err();
    assert!(matches!(refused, GatewayError::ProviderRefused { status: 422, .. }), "{refused}");
    running.stop().await;
    world.settle_up(Money::from_cents(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_answered_nobody_pays() {
    let world = World::new(100).await;
    let running = world.start().await;
    let caller = world.caller(&running.gateway).await;
    for models in [&world.models, &world.spare] {
        models.fail_next(ModelFault::Refuse(ProviderError::Failed(503)));
    }
    let failed = running.gateway.call(&caller, chat("a", json!({}))).await.unwrap_err();
    assert!(matches!(failed, GatewayError::ProviderFailed), "{failed}");
    let unknown = chat("a", json!({ "model": "nothing" }));
    let unknown = running.gateway.call(&caller, unknown).await.unwrap_err();
    assert!(matches!(unknown, GatewayError::UnknownModel { .. }), "{unknown}");
    running.stop().await;
    assert_eq!(world.balance().await, 1_000_000_000);
    assert_eq!(world.held().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_usage_is_counted_and_a_zero_is_a_zero() {
    let world = World::new(100).await;
    let running = world.start().await;
    let caller = world.caller(&running.gateway).await;
    world.models.fail_next(ModelFault::HideUsage);
    streamed(running.gateway.call(&caller, chat("a b", json!({ "stream": true }))).await.unwrap()).await;
    until(async || world.balance().await < 1_000_000_000).await;
    let counted = 1_000_000_000 - world.balance().await;
    assert!(counted >= 8 * WRITTEN, "{counted}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_let_in_before_it_is_known_what_is_offered() {
    let world = World::new(100).await;
    world.start().await.stop().await;
    let mut other = world.test.db.connection().await.unwrap();
    other.batch_execute("BEGIN; LOCK TABLE models IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let gateway = world.gateway(&world.folder, unlimited());
    let running = gateway.clone();
    let work = tokio::spawn(async move { running.run(std::future::pending()).await });
    let caller = world.caller(&gateway).await;
    // It is all that is missing: everything else is asked about before it.
    until(async || match gateway.call(&caller, chat("hi", json!({}))).await {
        Err(GatewayError::Unaccountable(why)) => why.to_string().contains("offered"),
        other => panic!("{other:?}"),
    })
    .await;
    assert!(!gateway.accepts());
    other.batch_execute("COMMIT").await.unwrap();
    until(async || gateway.accepts()).await;
    assert!(gateway.call(&caller, chat("hi", json!({}))).await.is_ok());
    work.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_database_nobody_is_let_in_and_what_was_answered_is_charged_later() {
    let world = World::new(100).await;
    let config = GatewayConfig { outage: Duration::from_millis(300), ..unlimited() };
    let running = world.start_at(&world.folder, config).await;
    let caller = world.caller(&running.gateway).await;
    // On a machine that is busy, so short an outage is one at any time.
    until(async || running.gateway.call(&caller, chat("a", json!({}))).await.is_ok()).await;
    world.test.set_away(true).await;
    until(async || {
        let refused = running.gateway.call(&caller, chat("a", json!({}))).await;
        matches!(refused, Err(GatewayError::Unaccountable(_)))
    })
    .await;
    world.test.set_away(false).await;
    until(async || running.gateway.call(&caller, chat("a", json!({}))).await.is_ok()).await;
    running.stop().await;
    world.settle_up(Money::from_cents(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_what_a_tenant_has() {
    let world = World::new(1).await;
    let one = world.start().await;
    let two = world.start_at(&world.folder.with_extension("two"), unlimited()).await;
    let caller = world.caller(&one.gateway).await;
    // Most of the credit is leased to one of them: the other gets it all the same.
    let question = |tokens: i32| chat("hi", json!({ "max_tokens": tokens }));
    whole(one.gateway.call(&caller, question(8)).await.unwrap());
    for _ in 0..20 {
        whole(two.gateway.call(&caller, question(2_500)).await.unwrap());
        whole(one.gateway.call(&caller, question(2_500)).await.unwrap());
    }
    one.stop().await;
    two.stop().await;
    world.settle_up(Money::from_cents(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_and_a_suspended_tenant_are_turned_away_at_once() {
    let world = World::new(100).await;
    let running = world.start().await;
    assert!(running.gateway.authenticate(&world.key).await.is_ok());
    world.billing.suspend_tenant(&origin(), world.tenant, "because", false).await.unwrap();
    until(async || matches!(running.gateway.authenticate(&world.key).await, Err(GatewayError::AccountSuspended))).await;
    let other = World::new(100).await;
    let running_other = other.start().await;
    assert!(running_other.gateway.authenticate(&other.key).await.is_ok());
    let id = other.auth.list_api_keys(Some(other.tenant)).await.unwrap()[0].id;
    other.auth.revoke_api_key(&origin(), Some(other.tenant), id).await.unwrap();
    until(async || matches!(running_other.gateway.authenticate(&other.key).await, Err(GatewayError::InvalidKey))).await;
    // A key for anything else does not call models.
    let write = other.auth.create_api_key(&origin(), Some(other.tenant), Scope::Admin, "p", None).await.unwrap();
    let refused = running_other.gateway.authenticate(write.plaintext.expose_secret()).await;
    assert!(matches!(refused, Err(GatewayError::InvalidKey)));
    running.stop().await;
    running_other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_allows_itself_is_not_passed() {
    let world = World::new(100).await;
    let running = world.start().await;
    let caller = world.caller(&running.gateway).await;
    let cap = |cents| SpendingLimit { capability: None, alert_cents: None, hard_cap_cents: Some(cents) };
    running.gateway.set_spending_limits(&origin(), world.tenant, &[cap(1)]).await.unwrap();
    let question = chat("hi", json!({ "max_tokens": 1_000 }));
    // A cent is 3846 tokens: three such calls could pass it, whatever they cost in the end.
    let at_once = futures_util::future::join_all((0..5).map(|_| running.gateway.call(&caller, question.clone()))).await;
    let refused = at_once.iter().filter(|call| matches!(call, Err(GatewayError::SpendingCap(_)))).count();
    assert!(at_once.iter().any(Result::is_ok), "{at_once:?}");
    let one_more = chat("hi", json!({ "max_tokens": 4_000 }));
    let refusal = running.gateway.call(&caller, one_more.clone()).await;
    assert!(matches!(refusal, Err(GatewayError::SpendingCap(_))), "{refusal:?} after {refused}");
    running.gateway.set_spending_limits(&origin(), world.tenant, &[cap(3)]).await.unwrap();
    assert!(running.gateway.call(&caller, one_more).await.is_ok());
    running.stop().await;
    world.settle_up(Money::from_cents(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sixty_first_call_of_a_minute_waits_and_so_does_a_bot_gone_wild() {
    let world = World::new(100).await;
    let running = world.start_at(&world.folder, GatewayConfig::default()).await;
    let caller = world.caller(&running.gateway).await;
    for call in 0..60 {
        assert!(running.gateway.call(&caller, chat("a", json!({}))).await.is_ok(), "{call}");
    }
    let refused = running.gateway.call(&caller, chat("a", json!({}))).await.unwrap_err();
    assert!(matches!(refused, GatewayError::RateLimited { limit: 60, .. }), "{refused}");
    for _ in 0..40 {
        drop(running.gateway.call(&caller, chat("a", json!({}))).await);
    }
    let refused = running.gateway.call(&caller, chat("a", json!({}))).await.unwrap_err();
    assert!(matches!(refused, GatewayError::CircuitOpen { .. }), "{refused}");
    running.stop().await;
    world.settle_up(Money::from_cents(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_day_have_a_part_of_their_own_and_go_after_ninety_days() {
    let world = World::new(100).await;
    let running = world.start().await;
    running.gateway.maintain().await.unwrap();
    running.gateway.maintain().await.unwrap();
    world.clock.advance(jiff::SignedDuration::from_hours(24));
    let caller = world.caller(&running.gateway).await;
    whole(running.gateway.call(&caller, chat("a", json!({}))).await.unwrap());
    running.stop().await;
    world.test.execute("DO $$ BEGIN ASSERT (SELECT count(*) FROM gateway_requests_20270116) = 1; END $$").await;
    world.clock.advance(jiff::SignedDuration::from_hours(24 * 92));
    let running = world.start().await;
    running.gateway.maintain().await.unwrap();
    world.test.execute("DO $$ BEGIN ASSERT (SELECT count(*) FROM gateway_requests) = 0; END $$").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_that_is_gone_had_leased_goes_back_and_what_it_spent_is_settled_once() {
    let world = World::new(100).await;
    let holder = LeaseHolder::from_uuid(Uuid::new_v4());
    let (need, wish) = (Money::from_cents(2), Money::from_cents(20));
    let leased = world.billing.lease(world.tenant, holder, need, wish).await.unwrap();
    assert_eq!((leased, world.held().await), (wish, wish.as_nanos()));
    let spent = Spent {
        tenant: world.tenant,
        reference: "req_1".to_owned(),
        amount: Money::from_cents(3),
        description: "a call".to_owned(),
    };
    for fresh in [true, false] {
        let posted = world.billing.settle_spent(holder, std::slice::from_ref(&spent)).await.unwrap();
        assert_eq!(posted[0].fresh, fresh);
        assert_eq!(world.held().await, Money::from_cents(17).as_nanos());
    }
    world.clock.advance(Billing::LEASE_LIFETIME - jiff::SignedDuration::from_secs(1));
    assert_eq!(world.billing.release_lost_leases().await.unwrap(), 0, "it may only be slow");
    world.clock.advance(jiff::SignedDuration::from_secs(1));
    assert_eq!(world.billing.release_lost_leases().await.unwrap(), 1);
    assert_eq!(world.held().await, 0);
    // It comes back after all: what it spent is charged, with nothing left to take it from.
    let late = Spent { reference: "req_2".to_owned(), ..spent };
    world.billing.settle_spent(holder, &[late]).await.unwrap();
    assert_eq!((world.balance().await, world.held().await), (Money::from_cents(94).as_nanos(), 0));
    let report = world.billing.verify_books().await.unwrap();
    assert!(report.differences.is_empty() && report.residue == Money::ZERO, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_database_refuses_is_set_aside_and_those_beside_it_are_settled() {
    let world = World::new(100).await;
    let running = world.start().await;
    let caller = world.caller(&running.gateway).await;
    world
        .test
        .execute("ALTER TABLE gateway_requests ADD CONSTRAINT no_threes CHECK (input_units <> 3) NOT VALID")
        .await;
    for text in ["a", "a b c", "a b"] {
        whole(running.gateway.call(&caller, chat(text, json!({ "max_tokens": 1 }))).await.unwrap());
    }
    until(async || running.gateway.unsettled_bytes() == 0).await;
    let refused = std::fs::read_to_string(world.folder.join("refused.jsonl")).unwrap();
    assert_eq!(refused.lines().count(), 1, "{refused}");
    let refused: serde_json::Value = serde_json::from_str(&refused).unwrap();
    assert_eq!(refused["input_units"], 3);
    assert_eq!(1_000_000_000 - world.balance().await, price(1, 1) + price(2, 1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_for_no_reason_of_its_own_is_tried_again_and_not_set_aside() {
    let world = World::new(100).await;
    let running = world.start().await;
    let caller = world.caller(&running.gateway).await;
    // What a statement is answered when somebody ends its connection, as a server that goes down does.
    world
        .test
        .execute(
            "CREATE FUNCTION going_down() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE 'going down' USING ERRCODE = 'admin_shutdown'; END $$",
        )
        .await;
    let trigger = "CREATE TRIGGER going_down BEFORE INSERT ON gateway_requests FOR EACH ROW";
    world.test.execute(&format!("{trigger} EXECUTE FUNCTION going_down()")).await;
    for text in ["a", "a b c"] {
        whole(running.gateway.call(&caller, chat(text, json!({ "max_tokens": 1 }))).await.unwrap());
    }
    for _ in 0..5 {
        assert!(matches!(running.gateway.settle().await, Err(GatewayError::Storage(_))));
        world.clock.advance(jiff::SignedDuration::from_secs(10));
    }
    let refused = world.folder.join("refused.jsonl");
    assert!(!refused.exists());
    world.test.execute("DROP TRIGGER going_down ON gateway_requests").await;
    until(async || running.gateway.unsettled_bytes() == 0).await;
    assert!(!refused.exists());
    assert_eq!(1_000_000_000 - world.balance().await, price(1, 1) + price(3, 1));

    // One that stays so holds up those after it for a minute and no longer.
    let only = "WHEN (NEW.input_units = 2)";
    world.test.execute(&format!("{trigger} {only} EXECUTE FUNCTION going_down()")).await;
    for text in ["a b", "a"] {
        whole(running.gateway.call(&caller, chat(text, json!({ "max_tokens": 1 }))).await.unwrap());
    }
    assert!(running.gateway.settle().await.is_err());
    world.clock.advance(jiff::SignedDuration::from_mins(1));
    until(async || running.gateway.unsettled_bytes() == 0).await;
    assert_eq!(std::fs::read_to_string(refused).unwrap().lines().count(), 1);
    assert_eq!(1_000_000_000 - world.balance().await, price(1, 1) + price(3, 1) + price(1, 1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_schema_that_is_behind_nothing_is_set_aside() {
    let world = World::new(100).await;
    let running = world.start().await;
    let caller = world.caller(&running.gateway).await;
    world.test.execute("ALTER TABLE gateway_requests RENAME TO requests_to_come").await;
    world.test.execute("CREATE TABLE taken AS SELECT * FROM __diesel_schema_migrations").await;
    world.test.execute("DELETE FROM __diesel_schema_migrations WHERE version = (SELECT max(version) FROM taken)").await;
    whole(running.gateway.call(&caller, chat("a b", json!({ "max_tokens": 1 }))).await.unwrap());
    for _ in 0..3 {
        assert!(running.gateway.settle().await.is_err());
        world.clock.advance(jiff::SignedDuration::from_mins(10));
    }
    world.test.execute("ALTER TABLE requests_to_come RENAME TO gateway_requests").await;
    world.test.execute("INSERT INTO __diesel_schema_migrations SELECT * FROM taken ON CONFLICT DO NOTHING").await;
    until(async || running.gateway.unsettled_bytes() == 0).await;
    assert!(!world.folder.join("refused.jsonl").exists());
    assert_eq!(1_000_000_000 - world.balance().await, price(2, 1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_to_be_made_once_is_made_by_one_and_answered_to_whoever_comes_back() {
    let world = World::new(100).await;
    let running = world.start().await;
    let caller = world.caller(&running.gateway).await;
    let key = IdempotencyKey::new("k").unwrap();
    let again = async || running.gateway.call_once(&caller, chat("a b c", json!({})), &key).await;
    let release = Arc::new(Notify::new());
    world.models.fail_next(ModelFault::WaitFor(release.clone()));
    let (gateway, first) = (running.gateway.clone(), (Arc::clone(&caller), key.clone()));
    let asking = tokio::spawn(async move { gateway.call_once(&first.0, chat("a b c", json!({})), &first.1).await });
    until(async || !world.models.calls().is_empty()).await;
    assert!(matches!(again().await, Err(GatewayError::Idempotency(IdempotencyError::InProgress))));
    let other = running.gateway.call_once(&caller, chat("else", json!({})), &key).await;
    assert!(matches!(other, Err(GatewayError::Idempotency(IdempotencyError::OtherRequest))));
    // Whoever asked leaves, and comes back for the answer.
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    release.notify_one();
    until(async || again().await.is_ok_and(|answer| answer.replayed)).await;
    assert_eq!(world.models.calls().len(), 1);
    running.stop().await;
    assert_eq!(1_000_000_000 - world.balance().await, 3 * READ + 8 * WRITTEN);
    world.settle_up(Money::from_cents(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_progress_when_a_process_ended_can_be_made_again_and_what_is_kept_is_bounded() {
    let world = World::new(100).await;
    let running = world.start().await;
    let caller = world.caller(&running.gateway).await;
    let key = IdempotencyKey::new("k").unwrap();
    let once = async |gateway: &Gateway| gateway.call_once(&caller, chat("a", json!({})), &key).await;
    assert!(!once(&running.gateway).await.unwrap().replayed);
    world.test.execute("UPDATE gateway_answers SET body = NULL").await;
    assert!(matches!(once(&running.gateway).await, Err(GatewayError::Idempotency(IdempotencyError::AnswerTooLong))));
    world.test.execute("UPDATE gateway_answers SET call_id = NULL, content_type = NULL").await;
    assert!(matches!(once(&running.gateway).await, Err(GatewayError::Idempotency(IdempotencyError::InProgress))));
    running.stop().await;
    let running = world.start().await;
    assert!(!once(&running.gateway).await.unwrap().replayed, "the process that made it is gone");
    assert!(once(&running.gateway).await.unwrap().replayed);
    assert_eq!(running.gateway.forget_answers().await.unwrap(), 0);
    world.test.execute("UPDATE gateway_answers SET body = convert_to(repeat('x', 64 * 1024 * 1024 + 1), 'UTF8')").await;
    assert_eq!(running.gateway.forget_answers().await.unwrap(), 1, "of a tenant no more is kept");
    assert!(!once(&running.gateway).await.unwrap().replayed);
    running.stop().await;
    world.settle_up(Money::from_cents(100)).await;
}

impl World {
    async fn keep(&self, gateway: &Gateway, provider: KeyedProvider, key: &str) {
        gateway.keep_tenant_key(&origin(), self.tenant, provider, &key.into(), "").await.unwrap();
    }

    async fn with_own_keys(&self, gateway: &Gateway, uses: &[(KeyedUse, bool)]) {
        gateway.set_keyed_uses(&origin(), self.tenant, uses).await.unwrap();
        let own = uses.iter().filter(|(_, own)| *own).count();
        assert_eq!(gateway.keyed_uses(self.tenant).await.unwrap().len(), own);
    }

    /// The keys that were shown once a call answers as it should.
    async fn asked_with(&self, gateway: &Gateway, model: &str, expected: &str) {
        until(async || {
            let caller = self.caller(gateway).await;
            let answer = gateway.call(&caller, chat("a b", json!({ "model": model }))).await;
            answer.is_ok() && self.keyed.shown().last().is_some_and(|(_, key)| key == expected)
        })
        .await;
    }
}

const OWN: [(KeyedUse, bool); 1] = [(KeyedUse::TextGen, true)];

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_a_tenants_own_key_needs_no_credit_and_is_charged_nothing() {
    let world = World::new(0).await;
    let running = world.start().await;
    let gateway = &running.gateway;
    let refused = gateway.call(&*world.caller(gateway).await, chat("a", json!({}))).await;
    assert!(matches!(refused, Err(GatewayError::InsufficientCredit { .. })), "{refused:?}");
    world.keep(gateway, KeyedProvider::OpenAi, "sk-own-key-of-a-tenant").await;
    world.with_own_keys(gateway, &OWN).await;
    world.asked_with(gateway, "openai/gpt-4o", "sk-own-key-of-a-tenant").await;
    let caller = world.caller(gateway).await;
    let events = gateway.call(&caller, chat("a b", json!({ "model": "gpt-4o", "stream": true }))).await;
    assert!(streamed(events.unwrap()).await.contains("[DONE]"));
    let asked = world.keyed.models(KeyedProvider::OpenAi).calls();
    assert!(asked.iter().all(|call| call.model == "gpt-4o"), "{asked:?}");
    assert!(world.models.calls().is_empty() && world.spare.calls().is_empty());
    // No bound of ours is put in: some models refuse the old name of it, and the tenant pays for what it asks for.
    let bounded = |call: &ProviderCall| matches!(&call.body, CallBody::Json(body) if body.windows(10).any(|w| w == b"max_tokens"));
    assert!(!asked.iter().any(bounded), "{asked:?}");
    // Vectors are still ours to answer, and cost.
    let vectors = Question { capability: Capability::Embeddings, ..chat("a", json!({ "input": "a" })) };
    let refused = gateway.call(&caller, vectors).await;
    assert!(matches!(refused, Err(GatewayError::InsufficientCredit { .. })), "{refused:?}");
    running.stop().await;
    assert_eq!(world.balance().await, 0);
    world
        .test
        .execute(
            "DO $$ BEGIN ASSERT (SELECT bool_and(byok AND charge_nanos = 0 AND cost_nanos = 0 AND output_units > 0
                 AND provider = 'openai') FROM gateway_requests WHERE outcome = 'completed'); END $$",
        )
        .await;
    world.settle_up(Money::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_is_asked_when_a_tenants_own_key_does_not_serve() {
    let world = World::new(100).await;
    let running = world.start().await;
    let gateway = &running.gateway;
    world.keep(gateway, KeyedProvider::OpenAi, "good").await;
    world.with_own_keys(gateway, &OWN).await;
    // The model that we offer ourselves is its key's to answer as well.
    world.asked_with(gateway, "m", "good").await;
    for (key, status) in [("bad", 401), ("poor", 402), ("busy", 429)] {
        world.keep(gateway, KeyedProvider::OpenAi, key).await;
        until(async || {
            let caller = world.caller(gateway).await;
            let refused = gateway.call(&caller, chat("a", json!({}))).await;
            matches!(refused, Err(GatewayError::TenantKey(TenantKeyError::Refused { status: said, .. })) if said == status)
        })
        .await;
    }
    let caller = world.caller(gateway).await;
    let no_key = gateway.call(&caller, chat("a", json!({ "model": "claude-x" }))).await;
    assert!(matches!(no_key, Err(GatewayError::TenantKey(TenantKeyError::Missing { .. }))), "{no_key:?}");
    // How it does with this tenant's key is nobody else's concern.
    assert!(!gateway.providers().iter().any(|provider| provider.name == "openai"), "{:?}", gateway.providers());
    gateway.drop_tenant_key(&origin(), world.tenant, KeyedProvider::OpenAi).await.unwrap();
    until(async || {
        let caller = world.caller(gateway).await;
        let gone = gateway.call(&caller, chat("a", json!({}))).await;
        matches!(gone, Err(GatewayError::TenantKey(TenantKeyError::Missing { .. })))
    })
    .await;
    assert!(world.models.calls().is_empty() && world.spare.calls().is_empty());
    world.with_own_keys(gateway, &[(KeyedUse::TextGen, false)]).await;
    until(async || gateway.call(&*world.caller(gateway).await, chat("a", json!({}))).await.is_ok()).await;
    assert!(!world.models.calls().is_empty());
    running.stop().await;
    assert_eq!(world.held().await, 0);
}

/// Callers are remembered for ten seconds: what is known sooner was announced.
#[tokio::test(flavor = "multi_thread")]
async fn another_key_and_another_mode_are_known_at_once() {
    let world = World::new(100).await;
    let running = world.start().await;
    let gateway = &running.gateway;
    world.keep(gateway, KeyedProvider::OpenAi, "one").await;
    world.with_own_keys(gateway, &OWN).await;
    world.asked_with(gateway, "m", "one").await;
    for key in ["two", "three"] {
        world.keep(gateway, KeyedProvider::OpenAi, key).await;
        tokio::time::timeout(Duration::from_secs(7), world.asked_with(gateway, "m", key)).await.unwrap();
    }
    world.with_own_keys(gateway, &[(KeyedUse::TextGen, false)]).await;
    let ours = until(async || {
        drop(gateway.call(&*world.caller(gateway).await, chat("a", json!({}))).await.unwrap());
        !world.models.calls().is_empty()
    });
    tokio::time::timeout(Duration::from_secs(7), ours).await.unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_key_is_sealed_and_a_newer_root_seals_it_anew() {
    let world = World::new(0).await;
    let running = world.start().await;
    let gateway = &running.gateway;
    let other = TenantId::from_uuid(Uuid::new_v4());
    let nothing = gateway.set_keyed_uses(&origin(), world.tenant, &OWN).await;
    assert!(matches!(nothing, Err(GatewayError::TenantKey(TenantKeyError::NoneServes(_)))), "{nothing:?}");
    for wrong in ["", "a b", "ä", &"k".repeat(513)] {
        let refused = gateway.keep_tenant_key(&origin(), world.tenant, KeyedProvider::Google, &wrong.into(), "").await;
        assert!(matches!(refused, Err(GatewayError::TenantKey(TenantKeyError::InvalidKey))), "{refused:?}");
    }
    world.keep(gateway, KeyedProvider::Google, "AIza-the-first-key").await;
    world.keep(gateway, KeyedProvider::Google, "AIza-a-second-key-0815").await;
    let kept = gateway.tenant_keys(world.tenant).await.unwrap();
    assert_eq!((kept.len(), kept[0].hint.as_str()), (1, "0815"));
    assert!(gateway.tenant_keys(other).await.unwrap().is_empty());
    let told = "DO $$ BEGIN ASSERT (SELECT bool_and(k::text NOT LIKE '%AIza%' AND k::text NOT LIKE '%41497a61%')
                FROM tenant_api_keys k) AND (SELECT bool_and(a::text NOT LIKE '%AIza%') FROM audit_log a); END $$";
    world.test.execute(told).await;
    assert_eq!(gateway.reseal_tenant_keys().await.unwrap(), 0);
    running.stop().await;
    let with = |roots: &[&str]| {
        let parts = KeyedParts { vault: vault(roots), providers: world.keyed.clone() };
        world.gateway_with(&world.folder.with_extension("two"), unlimited(), parts)
    };
    assert_eq!(with(&["newer", "root"]).reseal_tenant_keys().await.unwrap(), 1);
    assert_eq!(with(&["newer"]).reseal_tenant_keys().await.unwrap(), 0, "the older root is needed no more");
    assert!(matches!(with(&["newest"]).reseal_tenant_keys().await, Err(GatewayError::Vault(_))));
}
