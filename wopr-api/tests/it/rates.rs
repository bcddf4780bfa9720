//! Prices, the catalogue and those who answer, as operators see them.

use axum::http::{Method, StatusCode};
use jiff::SignedDuration;
use serde_json::{Value, json};
use wopr_core::auth::Scope;
use wopr_core::gateway::ProviderError;
use wopr_core::testing::ModelFault;

use crate::app::{As, TestApp};
use crate::gateway::{CHATS, World};

const SELL: &str = "/api/admin/rates/sell";

async fn rest(app: &TestApp, key: &str, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let answer = app.call(As::Key(key), method, path, body.as_ref()).await;
    (answer.status.as_u16(), answer.json())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_price_book_is_added_to_and_never_changed() {
    let app = TestApp::start().await.with_many_clients();
    let key = app.key(None, Scope::Admin).await;
    let second = SignedDuration::from_secs(1);
    let new = json!({
        "capability": "tts", "adapter": "elevenlabs", "unit": "million-characters", "priceUsd": 22.500_000_001,
        "displayName": "is ours to say",
    });
    let (status, made) = rest(&app, &key, Method::POST, SELL, Some(new)).await;
    assert_eq!((status, &made["price_usd"], &made["model"]), (201, &json!(22.500_000_001), &Value::Null), "{made}");
    assert_eq!(
        (&made["is_active"], &made["display_name"]),
        (&json!(true), &json!("tts elevenlabs million-characters"))
    );
    app.clock.advance(second);
    let path = |row: &Value| format!("{SELL}/{}", row["id"].as_str().unwrap());
    let (status, changed) = rest(&app, &key, Method::PUT, &path(&made), Some(json!({ "priceUsd": 30 }))).await;
    assert_eq!((status, &changed["price_usd"]), (200, &json!(30)));
    assert_ne!(changed["id"], made["id"]);
    app.clock.advance(second);
    // What does not hold any more cannot be changed, nor can a price be of something else.
    let (status, gone) = rest(&app, &key, Method::PUT, &path(&made), Some(json!({ "priceUsd": 31 }))).await;
    assert_eq!((status, &gone["code"]), (404, &json!("PRICE_NOT_FOUND")));
    for wrong in [json!({ "priceUsd": 31, "unit": "minute" }), json!({}), json!({ "priceUsd": 1, "isActive": false })] {
        assert_eq!(rest(&app, &key, Method::PUT, &path(&changed), Some(wrong.clone())).await.0, 400, "{wrong}");
    }
    let as_cost = format!("/api/admin/rates/provider/{}", changed["id"].as_str().unwrap());
    assert_eq!(rest(&app, &key, Method::DELETE, &as_cost, None).await.0, 404, "it is no cost");

    let (_, margins) = rest(&app, &key, Method::GET, "/api/admin/rates/margins?capability=tts", None).await;
    let margin = &margins["margins"][0];
    assert_eq!(margin["sellRate"]["id"], changed["id"]);
    // ElevenLabs costs 15 dollars for what is sold for 30.
    assert_eq!((&margin["bestMarginPct"], &margin["providerCosts"][0]["cost_usd"]), (&json!(50), &json!(15)));

    let (_, ended) = rest(&app, &key, Method::DELETE, &path(&changed), None).await;
    assert_eq!(ended, json!({ "success": true }));
    app.clock.advance(second);
    let listed = async |input: Value| app.query(As::Key(&key), "admin.ratesListSell", &input).await.data();
    assert_eq!(listed(json!({ "isActive": true })).await, json!({ "entries": [], "total": 0 }));
    let history = listed(json!({ "capability": "tts", "limit": 2 })).await;
    assert_eq!((&history["total"], history["entries"].as_array().unwrap().len()), (&json!(3), 2));
    assert_eq!(
        (&history["entries"][0]["price_usd"], &history["entries"][0]["is_active"]),
        (&Value::Null, &json!(false))
    );
    assert_eq!(history["entries"][1]["id"], changed["id"]);
    let (_, both) = rest(&app, &key, Method::GET, "/api/admin/rates?capability=tts&active=true", None).await;
    assert_eq!((&both["total_sell_rates"], &both["total_provider_costs"]), (&json!(0), &json!(2)), "{both}");

    app.db
        .execute(
            "DO $$ BEGIN ASSERT (SELECT count(*) FROM audit_log WHERE action = 'gateway.price' AND actor_kind = 'api_key'
                 AND details ->> 'capability' = 'tts' AND details ? 'nanos') = 3; END $$",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_price_is_refused() {
    let app = TestApp::start().await.with_many_clients();
    let key = app.key(None, Scope::Admin).await;
    let good = json!({ "capability": "embeddings", "unit": "million-input-tokens", "costUsd": 0.02 });
    let wrong = [
        ("costUsd", json!(0)),
        ("costUsd", json!(-1)),
        ("costUsd", json!(1e-10)),
        ("costUsd", json!(1_000_001)),
        ("costUsd", json!("1")),
        ("capability", json!("text-generation")),
        ("unit", json!("1K-input-tokens")),
        ("adapter", json!("")),
        ("model", json!("a b")),
    ];
    for (field, value) in wrong {
        let mut input = good.clone();
        input[field] = value.clone();
        let answer = app.mutate(As::Key(&key), "admin.ratesCreateProvider", &input).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{field} {value}");
    }
    let made = app.mutate(As::Key(&key), "admin.ratesCreateProvider", &good).await.data();
    assert_eq!((&made["cost_usd"], &made["adapter"]), (&json!(0.02), &Value::Null));
    app.clock.advance(SignedDuration::from_secs(1));
    let input = json!({ "id": made["id"], "costUsd": 0.03 });
    let changed = app.mutate(As::Key(&key), "admin.ratesUpdateProvider", &input).await.data();
    app.clock.advance(SignedDuration::from_secs(1));
    let ended = app.mutate(As::Key(&key), "admin.ratesDeleteProvider", &json!({ "id": changed["id"] })).await.data();
    assert_eq!(ended, json!({ "success": true }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_is_taken_back_cannot_be_asked_for() {
    let world = World::new(100).await;
    let key = world.app.key(None, Scope::Admin).await;
    let path = "/api/admin/gateway/models";
    let (_, before) = rest(&world.app, &key, Method::GET, path, None).await;
    let find = |models: &Value, id: &str| {
        models["models"].as_array().unwrap().iter().find(|model| model["id"] == id).cloned().unwrap()
    };
    let mut offer = find(&before, "m");
    assert_eq!((&offer["enabled"], &offer["available"]), (&json!(true), &json!(true)));
    // Nobody has a key for it.
    assert_eq!(find(&before, "nova-2")["available"], json!(false));
    offer["enabled"] = json!(false);
    let (status, after) = rest(&world.app, &key, Method::PUT, path, Some(offer.clone())).await;
    assert_eq!((status, &find(&after, "m")["enabled"]), (200, &json!(false)));
    let gone = async {
        while world.offers("m") {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), gone).await.unwrap();
    assert_eq!(world.chat(CHATS[0].0, json!({})).await.status, StatusCode::NOT_FOUND);
    for (field, value) in [("provider", json!("*")), ("id", json!("")), ("maxOutputTokens", json!(0))] {
        let mut wrong = offer.clone();
        wrong[field] = value;
        assert_eq!(rest(&world.app, &key, Method::PUT, path, Some(wrong)).await.0, 400, "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_fails_is_seen_to_fail() {
    let world = World::new(100).await;
    let key = world.app.key(None, Scope::Admin).await;
    let seen = async || world.app.query(As::Key(&key), "admin.gatewayProviders", &json!({})).await.data();
    let fresh = seen().await["providers"][0].clone();
    assert_eq!(
        (&fresh["name"], &fresh["circuit"], &fresh["lastSuccessAt"]),
        (&json!("openrouter"), &json!("closed"), &Value::Null)
    );
    assert_eq!(world.chat(CHATS[0].0, json!({})).await.status, StatusCode::OK);
    assert_eq!(seen().await["providers"][0]["lastSuccessAt"], "2027-01-15T08:00:00.000Z");
    for _ in 0..5 {
        world.app.models.fail_next(ModelFault::Refuse(ProviderError::Failed(500)));
        assert_eq!(world.chat(CHATS[0].0, json!({})).await.status, StatusCode::BAD_GATEWAY);
    }
    let failing = seen().await["providers"][0].clone();
    assert_eq!(
        (&failing["circuit"], &failing["failuresInARow"], &failing["lastFailure"]),
        (&json!("open"), &json!(5), &json!("failed"))
    );
    assert!((1..=30_000).contains(&failing["triedAgainInMs"].as_u64().unwrap()), "{failing}");
    let health = world.app.get("/gateway/health").await;
    assert_eq!((health.status.as_u16(), &health.json()["status"]), (503, &json!("unhealthy")));
    let (status, rest) = rest(&world.app, &key, Method::GET, "/api/admin/gateway/providers", None).await;
    assert_eq!((status, &rest["providers"][0]["circuit"]), (200, &json!("open")));
}
