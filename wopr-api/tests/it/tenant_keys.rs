//! Tenants' own keys: kept, looked at, used, forgotten.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use wopr_core::auth::Scope;
use wopr_core::gateway::KeyedProvider;

use crate::app::{As, TestApp};
use crate::gateway::{CHATS, World};

const KEY: &str = "sk-own-0123456789abcdef";

fn setting(answer: &Value, capability: &str) -> Value {
    let all = answer.as_array().unwrap();
    all.iter().find(|setting| setting["capability"] == capability).unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_kept_and_shown_by_nothing_but_its_end() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let who = As::User(&ann);
    assert_eq!(app.query(who, "capabilities.listKeys", &json!(null)).await.data(), json!({ "keys": [] }));
    let stored = json!({ "provider": "openai", "apiKey": KEY, "label": "of the firm" });
    let stored = app.mutate(who, "capabilities.storeKey", &stored).await.data();
    assert_eq!((&stored["ok"], &stored["provider"]), (&json!(true), &json!("openai")));
    let again = json!({ "provider": "openai", "apiKey": KEY });
    let again = app.call(who, Method::PUT, "/api/tenant-keys/openai", Some(&again)).await;
    assert_eq!(again.json()["id"], stored["id"], "it takes the place of the one before");
    let listed = app.call(who, Method::GET, "/api/tenant-keys", None).await.json();
    let kept = &listed["keys"][0];
    assert_eq!((&kept["id"], &kept["label"]), (&stored["id"], &json!("")));
    assert_eq!(&kept["tenant_id"], &json!(ann.tenant().to_string()));
    assert!(kept["created_at"].as_i64().unwrap() > 0);
    let got = app.query(who, "capabilities.getKey", &json!({ "provider": "openai" })).await.data();
    assert_eq!(&got, kept);
    let settings = app.query(who, "capabilities.listCapabilitySettings", &json!(null)).await.data();
    assert_eq!(
        setting(&settings, "text-gen"),
        json!({ "capability": "text-gen", "mode": "hosted", "provider": "openai", "maskedKey": "...cdef",
                "keyStatus": "unchecked" })
    );
    assert_eq!(setting(&settings, "transcription")["mode"], "hosted");
    for answer in [&listed, &got, &settings] {
        assert!(!answer.to_string().contains("0123456789"), "{answer}");
    }
    let deleted = app.call(who, Method::DELETE, "/api/tenant-keys/openai", None).await.json();
    assert_eq!(deleted, json!({ "ok": true, "provider": "openai" }));
    let gone = app.mutate(who, "capabilities.deleteKey", &json!({ "provider": "openai" })).await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
    assert_eq!(app.call(who, Method::GET, "/api/tenant-keys/openai", None).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_key_is_refused_and_so_is_whoever_only_looks() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let who = As::User(&ann);
    let unknown = json!({ "provider": "discord", "apiKey": KEY });
    let unknown = app.call(who, Method::PUT, "/api/tenant-keys/discord", Some(&unknown)).await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST);
    assert_eq!(unknown.json()["validProviders"], json!(["openai", "anthropic", "google"]));
    for wrong in [
        json!({ "provider": "openai", "apiKey": "" }),
        json!({ "provider": "openai", "apiKey": "a b" }),
        json!({ "provider": "openai", "apiKey": KEY, "label": "l".repeat(101) }),
        json!({ "provider": "nobody", "apiKey": KEY }),
        json!({ "provider": "openai" }),
    ] {
        let refused = app.mutate(who, "capabilities.storeKey", &wrong).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{wrong}");
        assert!(!String::from_utf8_lossy(&refused.body).contains(KEY));
    }
    let other = json!({ "provider": "google", "apiKey": KEY });
    let other = app.call(who, Method::PUT, "/api/tenant-keys/openai", Some(&other)).await;
    assert_eq!(other.status, StatusCode::BAD_REQUEST, "the path names another provider");
    for (setting, expected) in [
        (json!({ "capability": "transcription", "mode": "byok" }), StatusCode::BAD_REQUEST),
        (json!({ "capability": "image-gen", "mode": "hosted" }), StatusCode::OK),
        (json!({ "capability": "poems", "mode": "hosted" }), StatusCode::BAD_REQUEST),
        (json!({ "capability": "text-gen", "mode": "byok" }), StatusCode::BAD_REQUEST),
        (json!({ "capability": "text-gen", "mode": "free" }), StatusCode::BAD_REQUEST),
        (json!({ "capability": "text-gen", "mode": "byok", "key": KEY }), StatusCode::OK),
    ] {
        let answer = app.mutate(who, "capabilities.updateCapabilitySettings", &setting).await;
        assert_eq!(answer.status, expected, "{setting}");
    }
    let test = |key: &str| json!({ "provider": "openai", "key": key });
    let tested = app.mutate(who, "capabilities.testKey", &test(KEY)).await.data();
    assert_eq!(tested, json!({ "valid": true }));
    let tested = app.mutate(who, "capabilities.testKey", &test("bad")).await.data();
    assert_eq!(tested, json!({ "valid": false, "error": "Invalid API key" }));
    let tested = app.mutate(who, "capabilities.testKey", &test("poor")).await.data();
    assert_eq!(tested, json!({ "valid": false, "error": "Provider returned status 402" }));

    let looks = app.key(Some(ann.tenant()), Scope::Read).await;
    for (name, input) in [
        ("capabilities.storeKey", json!({ "provider": "openai", "apiKey": KEY })),
        ("capabilities.deleteKey", json!({ "provider": "openai" })),
        ("capabilities.updateCapabilitySettings", json!({ "capability": "text-gen", "mode": "hosted" })),
        ("billing.setInferenceMode", json!({ "mode": "hosted" })),
    ] {
        assert_eq!(app.mutate(As::Key(&looks), name, &input).await.status, StatusCode::FORBIDDEN, "{name}");
    }
    let bob = app.user("bob").await;
    let none = app.query(As::User(&bob), "capabilities.listKeys", &json!(null)).await.data();
    assert_eq!(none, json!({ "keys": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_key_of_its_own_a_tenant_without_credit_is_answered_in_every_protocol() {
    let world = World::new(0).await;
    let (app, who) = (&world.app, As::User(&world.user));
    let refused = world.chat(CHATS[0].0, json!({})).await;
    assert_eq!(refused.status, StatusCode::PAYMENT_REQUIRED);
    for (provider, key) in [("openai", KEY), ("anthropic", "bad-of-anthropic"), ("google", "busy-of-google")] {
        app.mutate(who, "capabilities.storeKey", &json!({ "provider": provider, "apiKey": key })).await.data();
    }
    assert_eq!(app.query(who, "billing.inferenceMode", &json!(null)).await.data(), json!({ "mode": "hosted" }));
    let own = json!({ "mode": "byok" });
    assert_eq!(app.mutate(who, "billing.setInferenceMode", &own).await.data(), own);
    assert_eq!(app.query(who, "billing.inferenceMode", &json!(null)).await.data(), own);
    let heard = async {
        while world.chat(CHATS[0].0, json!({})).await.status != StatusCode::OK {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), heard).await.unwrap();
    for (path, name) in CHATS {
        let answer = world.chat(path, json!({ "model": "gpt-4o" })).await;
        assert_eq!(answer.status, StatusCode::OK, "{name}: {:?}", String::from_utf8_lossy(&answer.body));
        let refused = world.chat(path, json!({ "model": "claude-x" })).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{name}");
        let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("your own key") && !message.contains("bad-of"), "{message}");
        let busy = world.chat(path, json!({ "model": "gemini-x" })).await;
        assert_eq!((busy.status, busy.header("retry-after")), (StatusCode::TOO_MANY_REQUESTS, "7"), "{name}");
    }
    assert!(world.app.models.calls().is_empty());
    assert!(app.keyed_models.shown().contains(&(KeyedProvider::OpenAi, KEY.to_owned())));
    let balance = app.state.billing.balance(world.tenant()).await.unwrap();
    assert_eq!(balance.balance.as_nanos(), 0);
}
