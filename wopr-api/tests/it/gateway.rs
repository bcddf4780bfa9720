//! `/v1` through the router: keys, shapes of errors, answers in three protocols.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use wopr_core::audit::{Actor, Origin};
use wopr_core::auth::Scope;
use wopr_core::billing::{Transfer, TransferKind};
use wopr_core::gateway::{Capability, Model, Price, ProviderError, Side, SpendingLimit, Unit};
use wopr_core::ids::TenantId;
use wopr_core::money::Money;
use wopr_core::testing::ModelFault;

use crate::app::{Answer, TestApp, TestUser};

pub(crate) const CHATS: [(&str, &str); 3] = [
    ("/v1/chat/completions", "native"),
    ("/v1/openai/v1/chat/completions", "openai"),
    ("/v1/anthropic/v1/messages", "anthropic"),
];

/// A server whose gateway is at work, and a customer with credit and a key.
pub(crate) struct World {
    pub(crate) app: TestApp,
    pub(crate) user: TestUser,
    pub(crate) key: String,
}

impl World {
    pub(crate) async fn new(cents: i32) -> Self {
        let app = TestApp::start().await;
        let (gateway, user) = (app.state.gateway.clone(), app.user("customer").await);
        let origin = Origin::system("test");
        let unit_price = |unit| Price {
            id: uuid::Uuid::new_v4(),
            capability: Capability::ChatCompletions,
            provider: "openrouter".to_owned(),
            model: "*".to_owned(),
            unit,
            side: Side::Sell,
            nanos: 0,
        };
        for (unit, nanos) in [(Unit::MillionInputTokens, 1_000_000_000), (Unit::MillionOutputTokens, 3_000_000_000)] {
            gateway.set_price(&origin, &unit_price(unit), Some(nanos)).await.unwrap();
        }
        let model = Model {
            id: "m".to_owned(),
            capability: Capability::ChatCompletions,
            provider: "openrouter".to_owned(),
            provider_model: "vendor/m".to_owned(),
            max_output_tokens: Some(100),
            priority: 1,
        };
        gateway.save_model(&origin, &model).await.unwrap();
        let running = gateway.clone();
        tokio::spawn(async move { running.run(std::future::pending()).await });
        let key = app.key(Some(user.tenant()), Scope::Inference).await;
        let world = Self { app, user, key };
        world.pay(cents).await;
        let ready = async {
            while !world.app.state.gateway.accepts() || !world.offers("m") {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), ready).await.unwrap();
        world
    }

    pub(crate) fn offers(&self, id: &str) -> bool {
        self.app.state.gateway.models().iter().any(|model| model.id == id)
    }

    pub(crate) fn tenant(&self) -> TenantId {
        self.user.tenant()
    }

    async fn pay(&self, cents: i32) {
        if cents > 0 {
            let (amount, actor) = (Money::from_cents(cents), Actor::System("test"));
            let paid = Transfer::to_wallet("paid", TransferKind::Purchase, self.tenant(), amount, actor);
            self.app.state.billing.post(&[paid]).await.unwrap();
        }
    }

    pub(crate) async fn raw(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.app.request(method, path, headers, Body::from(body.to_owned())).await
    }

    pub(crate) async fn send(&self, path: &str, key: Option<&str>, body: &str) -> Answer {
        let anthropic = path.starts_with("/v1/anthropic");
        let headers: Vec<(&str, String)> = match key {
            Some(key) if anthropic => vec![("x-api-key", key.to_owned())],
            Some(key) => vec![("authorization", format!("Bearer {key}"))],
            None => Vec::new(),
        };
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.raw(Method::POST, path, &headers, body).await
    }

    pub(crate) async fn chat(&self, path: &str, more: Value) -> Answer {
        let mut body = json!({ "model": "m", "max_tokens": 4, "messages": [{ "role": "user", "content": "a b c" }] });
        for (name, value) in more.as_object().unwrap() {
            body[name.as_str()] = value.clone();
        }
        self.send(path, Some(&self.key), &body.to_string()).await
    }
}

/// The type and code, or for Anthropic the type alone.
fn error_of(answer: &Answer) -> (u16, String, String) {
    let body = answer.json();
    let word = |name: &str| body["error"][name].as_str().unwrap_or_default().to_owned();
    assert!(!word("message").is_empty(), "{body}");
    (answer.status.as_u16(), word("type"), word("code"))
}

fn owned((status, kind, code): (u16, &str, &str)) -> (u16, String, String) {
    (status, kind.to_owned(), code.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_protocol_answers_in_its_own_shape_and_charges_the_same() {
    let world = World::new(100).await;
    let (before, charge) = (1_000_000_000, 3 * 1_000 + 4 * 3_000);
    for (path, name) in CHATS {
        let answer = world.chat(path, json!({})).await;
        assert_eq!(answer.status, StatusCode::OK, "{name}: {:?}", String::from_utf8_lossy(&answer.body));
        assert!(answer.header("x-request-id").starts_with("req_"), "{name}");
        let body = answer.json();
        if name == "anthropic" {
            assert_eq!(body["type"], "message");
            assert_eq!(body["usage"]["output_tokens"], 4);
            assert_eq!(body["model"], "m");
        } else {
            assert_eq!(body["choices"][0]["message"]["role"], "assistant");
            assert_eq!(body["usage"]["prompt_tokens"], 3);
        }
    }
    for (path, name) in CHATS {
        let answer = world.chat(path, json!({ "stream": true })).await;
        assert_eq!(answer.header("content-type"), "text/event-stream");
        let text = String::from_utf8(answer.body.clone()).unwrap();
        let end = if name == "anthropic" { "event: message_stop" } else { "data: [DONE]" };
        assert!(text.contains(end), "{name}: {text}");
    }
    world.app.state.gateway.settle().await.unwrap();
    let balance = world.app.state.billing.balance(world.tenant()).await.unwrap().balance;
    assert_eq!(before - balance.as_nanos(), 6 * charge);
    // What the provider was asked has its own name of the model.
    let asked = world.app.models.calls();
    assert!(asked.iter().all(|call| call.model == "vendor/m"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_missing_malformed_or_of_another_kind_is_told_so() {
    let world = World::new(100).await;
    let other = world.app.key(Some(world.tenant()), Scope::Admin).await;
    for (path, name) in CHATS {
        let kind = match name {
            "native" | "anthropic" => "authentication_error",
            _ => "invalid_request_error",
        };
        let code = |code: &'static str| if name == "anthropic" { "" } else { code };
        let absent = error_of(&world.send(path, None, "{}").await);
        assert_eq!(absent, owned((401, kind, code("missing_api_key"))), "{name}");
        let unknown = error_of(&world.send(path, Some("wopr_sk_nonsense"), "{}").await);
        assert_eq!(unknown, owned((401, kind, code("invalid_api_key"))), "{name}");
        let answer = world.send(path, Some(&other), "{}").await;
        assert_eq!(error_of(&answer), owned((401, kind, code("invalid_api_key"))), "{name}");
        assert!(!String::from_utf8_lossy(&answer.body).contains(&other));
    }
    let basic = world.raw(Method::POST, CHATS[0].0, &[("authorization", "Basic eA==")], "{}").await;
    assert_eq!(error_of(&basic), owned((401, "authentication_error", "invalid_auth_format")));
    // A key for models opens nothing else.
    let key = world.key.as_str();
    let fleet = world.raw(Method::GET, "/fleet/bots", &[("authorization", &format!("Bearer {key}"))], "").await;
    assert_eq!(fleet.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_cannot_pay_is_told_what_is_missing_and_where_to_pay() {
    let world = World::new(0).await;
    for (path, name) in CHATS {
        let answer = world.chat(path, json!({})).await;
        let code = if name == "anthropic" { "" } else { "credits_exhausted" };
        assert_eq!(error_of(&answer), owned((402, "billing_error", code)), "{name}");
        let error = &answer.json()["error"];
        assert_eq!((&error["needsCredits"], &error["requiredCents"]), (&json!(true), &json!(1)), "{name}");
        assert!(error["topUpUrl"].as_str().unwrap().ends_with("/dashboard/credits"));
    }
    world.pay(100).await;
    assert_eq!(world.chat(CHATS[0].0, json!({})).await.status, StatusCode::OK);
    let cap = SpendingLimit { capability: None, alert_cents: None, hard_cap_cents: Some(0) };
    world.app.state.gateway.set_spending_limits(&Origin::system("test"), world.tenant(), &[cap]).await.unwrap();
    let answer = world.chat(CHATS[1].0, json!({})).await;
    assert_eq!(error_of(&answer), owned((402, "billing_error", "spending_cap_exceeded")));
    assert_eq!(answer.json()["error"]["cap_cents"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_with_the_field_that_does_not() {
    let world = World::new(100).await;
    let native = CHATS[0].0;
    let table: [(&str, u16, &str, Value); 6] = [
        ("", 400, "parse_error", Value::Null),
        ("{\"model\":", 400, "parse_error", Value::Null),
        ("[]", 400, "invalid_request", Value::Null),
        ("{}", 400, "missing_field", json!("model")),
        ("{\"model\":\"m\"}", 400, "missing_field", json!("messages")),
        (
            "{\"model\":\"nothing\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
            404,
            "model_not_found",
            json!("model"),
        ),
    ];
    for (body, status, code, param) in table {
        let answer = world.send(native, Some(&world.key), body).await;
        assert_eq!(error_of(&answer), owned((status, "invalid_request_error", code)), "{body}");
        assert_eq!(answer.json()["error"]["param"], param, "{body}");
    }
    let long = format!("{{\"model\":\"m\",\"messages\":\"{}\"}}", "x".repeat(11 << 20));
    let answer = world.send(native, Some(&world.key), &long).await;
    assert_eq!(error_of(&answer), owned((413, "invalid_request_error", "request_too_large")));
    let get = world.raw(Method::GET, native, &[], "").await;
    assert_eq!(get.status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(world.app.models.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_fails_is_not_named_and_its_account_is_our_problem() {
    let world = World::new(100).await;
    let table: [(ProviderError, [u16; 3], &str); 5] = [
        (ProviderError::Failed(500), [502, 502, 502], "upstream_error"),
        (ProviderError::Account(402), [502, 502, 502], "upstream_error"),
        (ProviderError::TimedOut, [504, 504, 504], "upstream_timeout"),
        (ProviderError::Busy { retry_after: None }, [503, 503, 529], "no_provider_available"),
        (ProviderError::Refused { status: 422, message: "too long".to_owned() }, [422, 422, 422], "provider_error"),
    ];
    for (error, statuses, code) in table {
        for ((path, name), status) in CHATS.into_iter().zip(statuses) {
            world.app.models.fail_next(ModelFault::Refuse(error.clone()));
            // So that its circuit stays closed.
            let answer = world.chat(path, json!({})).await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert_eq!(answer.status.as_u16(), status, "{name} {error:?}: {text}");
            assert!(name == "anthropic" || text.contains(code), "{name}: {text}");
            assert!(!text.contains("openrouter") && !text.contains("vendor/"), "{name}: {text}");
            assert_eq!(world.chat(path, json!({})).await.status, StatusCode::OK);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_for_whoever_has_a_key() {
    let world = World::new(0).await;
    let bearer = format!("Bearer {}", world.key);
    for path in ["/v1/models", "/v1/openai/v1/models", "/v1/anthropic/v1/models"] {
        assert_eq!(world.raw(Method::GET, path, &[], "").await.status, StatusCode::UNAUTHORIZED, "{path}");
        let list = world.raw(Method::GET, path, &[("authorization", &bearer)], "").await.json();
        assert!(list["data"].as_array().unwrap().iter().any(|model| model["id"] == "m"), "{path}: {list}");
        let one = world.raw(Method::GET, &format!("{path}/m"), &[("authorization", &bearer)], "").await;
        assert_eq!(one.json()["id"], "m", "{path}");
        let none = world.raw(Method::GET, &format!("{path}/a/b"), &[("authorization", &bearer)], "").await;
        assert_eq!(none.status, StatusCode::NOT_FOUND, "{path}");
    }
    let health = world.raw(Method::GET, "/gateway/health", &[], "").await;
    assert_eq!((health.status, &health.json()["status"]), (StatusCode::OK, &json!("healthy")));
    assert_eq!(health.json()["backends"], json!([{ "name": "openrouter", "status": "unknown" }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sixty_first_call_of_a_minute_is_told_when_to_come_back() {
    let world = World::new(100).await;
    for _ in 0..60 {
        assert_eq!(world.chat(CHATS[0].0, json!({})).await.status, StatusCode::OK);
    }
    let refused = world.chat(CHATS[1].0, json!({})).await;
    assert_eq!(error_of(&refused), owned((429, "rate_limit_error", "rate_limit_exceeded")));
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
}

impl World {
    async fn chat_once(&self, path: &str, key: &str, more: Value) -> Answer {
        let mut body = json!({ "model": "m", "max_tokens": 4, "messages": [{ "role": "user", "content": "a b c" }] });
        for (name, value) in more.as_object().unwrap() {
            body[name.as_str()] = value.clone();
        }
        let bearer = format!("Bearer {}", self.key);
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", key)];
        self.raw(Method::POST, path, &headers, &body.to_string()).await
    }

    async fn spent(&self) -> i64 {
        self.app.state.gateway.settle().await.unwrap();
        1_000_000_000 - self.app.state.billing.balance(self.tenant()).await.unwrap().balance.as_nanos()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_a_key_is_made_and_charged_once() {
    let world = World::new(100).await;
    let charge = 3 * 1_000 + 4 * 3_000;
    for (index, (path, name)) in CHATS.into_iter().enumerate() {
        let key = format!("retry-{name}");
        let first = world.chat_once(path, &key, json!({})).await;
        assert_eq!((first.status, first.header("idempotent-replayed")), (StatusCode::OK, ""), "{name}");
        let again = world.chat_once(path, &key, json!({})).await;
        assert_eq!((again.status, &again.body), (StatusCode::OK, &first.body), "{name}");
        assert_eq!(again.header("content-type"), first.header("content-type"));
        assert_eq!(again.header("x-request-id"), first.header("x-request-id"), "it is the same call");
        assert_eq!(again.header("idempotent-replayed"), "true");
        assert_eq!(world.app.models.calls().len(), index + 1, "{name}");
        // The same key for something else, in the protocol's own words.
        let other = world.chat_once(path, &key, json!({ "temperature": 1 })).await;
        let (kind, code) = match name {
            "anthropic" => ("invalid_request_error", ""),
            _ => ("idempotency_error", "idempotency_key_reused"),
        };
        assert_eq!(error_of(&other), owned((422, kind, code)), "{name}");
    }
    assert_eq!(world.spent().await, 3 * charge);
    // Another tenant's key of the same text is another key.
    let other = world.app.user("other").await;
    let paid =
        Transfer::to_wallet("p2", TransferKind::Purchase, other.tenant(), Money::from_cents(5), Actor::System("test"));
    world.app.state.billing.post(&[paid]).await.unwrap();
    let stranger = world.app.key(Some(other.tenant()), Scope::Inference).await;
    let headers = [("authorization", format!("Bearer {stranger}")), ("idempotency-key", "retry-native".to_owned())];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "their own" }] }).to_string();
    let theirs = world.raw(Method::POST, CHATS[0].0, &headers, &body).await;
    assert_eq!((theirs.status, theirs.header("idempotent-replayed")), (StatusCode::OK, ""));

    // A day later it is a call of its own, also before what was kept has been removed.
    world.app.clock.advance(jiff::SignedDuration::from_hours(24));
    let later = world.chat_once(CHATS[0].0, "retry-native", json!({ "temperature": 1 })).await;
    assert_eq!((later.status, later.header("idempotent-replayed")), (StatusCode::OK, ""));
    assert_eq!(world.app.state.gateway.forget_answers().await.unwrap(), 3, "what is newer stays");
    assert_eq!(world.chat_once(CHATS[0].0, "retry-native", json!({ "temperature": 1 })).await.body, later.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_failed_is_made_again_with_its_key_and_a_stream_each_time() {
    let world = World::new(100).await;
    let path = CHATS[0].0;
    for fault in [ProviderError::Failed(500), ProviderError::Refused { status: 400, message: "no".to_owned() }] {
        world.app.models.fail_next(ModelFault::Refuse(fault));
        assert!(!world.chat_once(path, "k", json!({})).await.status.is_success());
    }
    let made = world.chat_once(path, "k", json!({})).await;
    assert_eq!((made.status, made.header("idempotent-replayed")), (StatusCode::OK, ""));
    assert_eq!(world.chat_once(path, "k", json!({})).await.header("idempotent-replayed"), "true");
    for _ in 0..2 {
        let streamed = world.chat_once(path, "s", json!({ "stream": true })).await;
        assert_eq!((streamed.status, streamed.header("idempotent-replayed")), (StatusCode::OK, ""));
    }
    assert_eq!(world.spent().await, 3 * (3 * 1_000 + 4 * 3_000));
    for bad in ["", "a b", &"k".repeat(256)] {
        let refused = error_of(&world.chat_once(path, bad, json!({})).await);
        assert_eq!(refused, owned((400, "invalid_request_error", "invalid_idempotency_key")), "{bad}");
    }
}
