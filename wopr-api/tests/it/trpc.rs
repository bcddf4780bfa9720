use axum::body::Body;
use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::app::TestApp;

fn ok() -> Value {
    json!({"result":{"data":{"status":"ok","service":"wopr-platform"}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn single_calls_and_batches_in_every_spelling() {
    let app = TestApp::start().await;
    for path in ["/trpc/settings.health", "/trpc/settings.health?input=%7B%7D", "/trpc/settings.health?input=null"] {
        let answer = app.get(path).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::OK, ok()), "{path}");
        assert_eq!(answer.header("content-type"), "application/json");
        assert!(answer.headers.get_all("vary").iter().any(|value| value == "trpc-accept"));
    }
    for path in [
        "/trpc/settings.health,settings.health?batch=1",
        "/trpc/settings.health%2Csettings.health?batch=1&input=%7B%7D",
        "/trpc/settings.health,settings.health?batch=1&input=%7B%221%22%3A%7B%7D%7D",
    ] {
        let answer = app.get(path).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!([ok(), ok()])), "{path}");
    }
    let one = app.get("/trpc/settings.health?batch=1").await;
    assert_eq!(one.json(), json!([ok()]));
    let head = app.request(Method::HEAD, "/trpc/settings.health", &[], Body::empty()).await;
    assert_eq!((head.status, head.body.len()), (StatusCode::NO_CONTENT, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_the_envelope() {
    let app = TestApp::start().await;
    let json_type = [("content-type", "application/json; charset=utf-8")];
    let answers = [
        app.get("/trpc/no.such").await,
        app.get("/trpc").await,
        app.get("/trpc/settings.health,settings.health").await,
        app.get("/trpc/settings.health?input=%7B").await,
        app.request(Method::POST, "/trpc/settings.health", &json_type, Body::empty()).await,
        app.request(Method::PUT, "/trpc/settings.health", &json_type, Body::empty()).await,
        app.request(Method::POST, "/trpc/settings.health", &[], Body::empty()).await,
        app.request(Method::POST, "/trpc/settings.health", &[("content-type", "text/plain")], Body::from("{}")).await,
        app.get("/trpc/settings.health,no.such?batch=1").await,
        app.get("/trpc/settings.health,no.such?batch=1&input=%5B%5D").await,
        app.get("/trpc/%FF").await,
    ];
    let answers: Vec<Value> =
        answers.iter().map(|answer| json!({"status": answer.status.as_u16(), "body": answer.json()})).collect();
    insta::assert_json_snapshot!(answers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_an_end() {
    let app = TestApp::start().await;
    let path = |calls: usize| format!("/trpc/{}?batch=1", vec!["settings.health"; calls].join(","));
    assert_eq!(app.get(&path(50)).await.status, StatusCode::OK);
    assert_eq!(app.get(&path(51)).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_the_limit_is_refused_in_the_envelope() {
    let app = TestApp::start().await;
    let body = Body::from(vec![b' '; 1024 * 1024 + 1]);
    let answer = app.request(Method::POST, "/trpc/a.b", &[("content-type", "application/json")], body).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer.json()["error"]["code"], -32013);
}
