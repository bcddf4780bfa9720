use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use jiff::SignedDuration;
use serde_json::json;

use crate::app::{As, TestApp};

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_announced_enforced_and_forgotten() {
    let app = TestApp::start().await;
    let sign_in = async || app.call(As::Nobody, Method::POST, "/api/auth/sign-in/email", Some(&json!({}))).await;
    for remaining in (0..5).rev() {
        let answer = sign_in().await;
        assert_ne!(answer.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(answer.header("x-ratelimit-limit"), "5");
        assert_eq!(answer.header("x-ratelimit-remaining"), remaining.to_string());
        assert_eq!(answer.header("x-ratelimit-reset"), (1_800_000_000 + 900).to_string());
    }
    let refused = sign_in().await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.json(), json!({"message": "Too many requests. Please try again later."}));
    assert_eq!((refused.header("retry-after"), refused.header("x-retry-after")), ("900", "900"));
    app.clock.advance(SignedDuration::from_secs(900));
    assert_ne!(sign_in().await.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_sign_up_from_one_address_as_the_operator_allows() {
    let app = TestApp::start_with(&[("SIGN_UPS_PER_HOUR", "2")]).await;
    let sign_up = async || app.call(As::Nobody, Method::POST, "/api/auth/sign-up/email", Some(&json!({}))).await;
    for remaining in ["1", "0"] {
        let answer = sign_up().await;
        assert_ne!(answer.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!((answer.header("x-ratelimit-limit"), answer.header("x-ratelimit-remaining")), ("2", remaining));
    }
    assert_eq!(sign_up().await.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_counts_every_call() {
    let app = TestApp::start().await;
    let batch = |calls: usize| format!("/trpc/{}?batch=1", vec!["settings.health"; calls].join(","));
    assert_eq!(app.get(&batch(50)).await.status, StatusCode::OK);
    let second = app.get(&batch(49)).await;
    assert_eq!((second.status, second.header("x-ratelimit-remaining")), (StatusCode::OK, "1"));
    let third = app.get(&batch(3)).await;
    assert_eq!(third.status, StatusCode::MULTI_STATUS);
    let codes: Vec<_> = third.json().as_array().unwrap().iter().map(|call| call["error"]["code"].clone()).collect();
    assert_eq!(codes.iter().filter(|code| **code == json!(-32029)).count(), 2, "{codes:?}");
    assert_eq!(third.header("retry-after"), "60");

    let single = app.get("/trpc/settings.health").await;
    assert_eq!(single.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(single.json()["error"]["data"]["code"], "TOO_MANY_REQUESTS");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_apart_behind_a_trusted_proxy_and_only_there() {
    let app = TestApp::start().await;
    let send = async |peer: &str, forwarded: &str| {
        let request = Request::builder().uri("/openapi.json").header("x-forwarded-for", forwarded);
        let answer = app.send_from(peer.parse().unwrap(), request.body(Body::empty()).unwrap()).await;
        answer.header("x-ratelimit-remaining").to_owned()
    };
    assert_eq!(send("10.0.0.1", "198.51.100.1").await, "59");
    assert_eq!(send("10.0.0.1", "198.51.100.2").await, "59");
    assert_eq!(send("10.0.0.1", "203.0.113.9, 198.51.100.1").await, "58", "what the client wrote itself is not read");
    assert_eq!(send("198.51.100.7", "198.51.100.3").await, "59");
    assert_eq!(send("198.51.100.7", "198.51.100.4").await, "58", "nobody else may name a client");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_counters_sign_in_is_refused_and_the_rest_goes_on() {
    let app = TestApp::start().await;
    app.db.execute("ALTER TABLE throttle_counters RENAME TO away").await;
    let sign_in = app.call(As::Nobody, Method::POST, "/api/auth/sign-in/email", Some(&json!({}))).await;
    assert!(sign_in.status.is_server_error(), "{}", sign_in.status);
    assert_eq!(app.get("/trpc/settings.health").await.status, StatusCode::OK);
    assert_eq!(app.get("/openapi.json").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_not_limited() {
    let app = TestApp::start().await;
    for _ in 0..70 {
        let answer = app.get("/health").await;
        assert_eq!((answer.status, answer.header("x-ratelimit-limit")), (StatusCode::OK, ""));
    }
}
