//! What the server says about itself to machines and operators.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use wopr_core::auth::Scope;
use wopr_core::gateway::ProviderError;
use wopr_core::testing::ModelFault;

use crate::app::{As, TestApp};
use crate::gateway::{CHATS, World};

/// The value of a sample, as it is written.
fn sample<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_calls_did_is_counted() {
    let world = World::new(100).await;
    let (app, chat) = (&world.app, CHATS[0].0);
    for _ in 0..3 {
        assert_eq!(world.chat(chat, json!({})).await.status, StatusCode::OK);
    }
    assert_eq!(world.chat(chat, json!({ "stream": true })).await.status, StatusCode::OK);
    app.models.fail_next(ModelFault::Refuse(ProviderError::TimedOut));
    assert_eq!(world.chat(chat, json!({})).await.status, StatusCode::GATEWAY_TIMEOUT);
    app.models.fail_next(ModelFault::Refuse(ProviderError::Refused { status: 400, message: "no".to_owned() }));
    assert_eq!(world.chat(chat, json!({})).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(world.chat(chat, json!({ "model": "x" })).await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.send(chat, None, "{}").await.status, StatusCode::UNAUTHORIZED);
    app.state.gateway.settle().await.unwrap();

    let key = app.key(None, Scope::Read).await;
    let answer = app.call(As::Key(&key), Method::GET, "/metrics", None).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = String::from_utf8(answer.body).unwrap();
    let calls = |provider: &str, outcome: &str| {
        let labels = format!("capability=\"chat-completions\",provider=\"{provider}\",outcome=\"{outcome}\"");
        sample(&text, &format!("wopr_gateway_requests_total{{{labels}}}")).map(str::to_owned)
    };
    assert_eq!(calls("openrouter", "ok").as_deref(), Some("4"), "{text}");
    assert_eq!(calls("none", "timeout").as_deref(), Some("1"));
    assert_eq!(calls("none", "client_error").as_deref(), Some("1"));
    for (name, value) in [
        ("wopr_gateway_refusals_total{reason=\"unknown_model\"}", "1"),
        ("wopr_gateway_refusals_total{reason=\"missing_api_key\"}", "1"),
        ("wopr_gateway_refusals_total{reason=\"rate_limited\"}", "0"),
        ("wopr_gateway_provider_failures_total{provider=\"openrouter\",reason=\"timed_out\"}", "1"),
        ("wopr_gateway_tokens_total{direction=\"output\",provider=\"openrouter\"}", "16"),
        ("wopr_gateway_charge_usd_total{capability=\"chat-completions\",provider=\"openrouter\"}", "0.00006"),
        ("wopr_gateway_time_to_first_byte_seconds_count{provider=\"openrouter\"}", "4"),
        ("wopr_gateway_time_to_first_byte_seconds_bucket{provider=\"openrouter\",le=\"+Inf\"}", "4"),
        ("wopr_gateway_in_flight", "0"),
        ("wopr_gateway_accepting", "1"),
        ("wopr_gateway_unsettled_bytes", "0"),
        ("wopr_gateway_settlement_lag_seconds", "0"),
        ("wopr_meter_dlq_depth", "0"),
        // One of five: the client's own mistake is none of ours.
        ("wopr_gateway_error_ratio{window=\"5m\"}", "0.2"),
        ("wopr_gateway_error_ratio{window=\"60m\"}", "0.2"),
        ("wopr_gateway_provider_asked{provider=\"openrouter\",name=\"openrouter\"}", "1"),
    ] {
        assert_eq!(sample(&text, name), Some(value), "{name}\n{text}");
    }
    assert!(!text.contains(&world.tenant().to_string()), "a tenant is no label");

    let admin = app.key(None, Scope::Admin).await;
    let health = app.call(As::Key(&admin), Method::GET, "/admin/health", None).await.json();
    let errors = json!({
        "totalRequests": 5, "totalErrors": 1, "errorRate": 0.2,
        "byCapability": { "chat-completions": { "requests": 5, "errors": 1, "errorRate": 0.2 } },
    });
    assert_eq!(health["gateway"], json!({ "last5m": errors, "last60m": errors }));
    assert_eq!((&health["fleet"], &health["payment"]), (&json!({ "activeBots": 0 }), &Value::Null));
    assert_eq!(
        (&health["billing"], &health["timestamp"]),
        (&json!({ "creditsConsumed24h": 0 }), &json!(1_800_000_000_000_i64))
    );
    let firing: Vec<&Value> =
        health["alerts"].as_array().unwrap().iter().filter(|alert| alert["firing"] == json!(true)).collect();
    assert!(firing.is_empty(), "five calls are too few to say: {firing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_for_the_platforms_own_credentials_also_without_a_database() {
    let token = "0123456789abcdef0123456789abcdef-metrics";
    let app = TestApp::start_with(&[("FLEET_API_TOKEN_READ", token)]).await;
    let ann = app.user("ann").await;
    let tenants = app.key(Some(ann.tenant()), Scope::Admin).await;
    for (who, status) in [
        (As::Nobody, StatusCode::UNAUTHORIZED),
        (As::Key("nonsense"), StatusCode::UNAUTHORIZED),
        (As::User(&ann), StatusCode::FORBIDDEN),
        (As::Key(&tenants), StatusCode::FORBIDDEN),
        (As::Key(token), StatusCode::OK),
    ] {
        assert_eq!(app.call(who, Method::GET, "/metrics", None).await.status, status, "{who:?}");
    }
    // Whoever cannot be refused by the database is not asked about there.
    app.db.execute("DROP TABLE api_keys CASCADE").await;
    assert_eq!(app.call(As::Key(token), Method::GET, "/metrics", None).await.status, StatusCode::OK);
    let unknown = app.call(As::Key(&tenants), Method::GET, "/metrics", None).await;
    assert_eq!(unknown.status, StatusCode::SERVICE_UNAVAILABLE);
}
