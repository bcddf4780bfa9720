use axum::http::StatusCode;
use serde_json::json;

use crate::app::TestApp;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_its_schema_is_ready() {
    let app = TestApp::start().await;
    let health = app.get("/health").await;
    assert_eq!((health.status, health.json()), (StatusCode::OK, json!({"status":"ok","service":"wopr-platform"})));
    let ready = app.get("/health/ready").await;
    assert_eq!((ready.status, ready.json()), (StatusCode::OK, json!({"status":"ready","service":"wopr-platform"})));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_schema_is_behind_serves_nothing_but_its_health() {
    let app = TestApp::start().await;
    app.db.db.revert_all().await.unwrap();
    let ready = app.get("/health/ready").await;
    assert_eq!((ready.status, ready.json()["code"].as_str()), (StatusCode::SERVICE_UNAVAILABLE, Some("SCHEMA_BEHIND")));
    assert_eq!(app.get("/health").await.status, StatusCode::OK);
    let refused = app.get("/trpc/settings.health").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.json()["error"]["data"]["details"]["code"], "SCHEMA_BEHIND");
    assert_eq!(app.get("/openapi.json").await.status, StatusCode::SERVICE_UNAVAILABLE);

    app.db.db.migrate().await.unwrap();
    assert_eq!(app.get("/trpc/settings.health").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_server_says_so_and_finishes_what_it_got() {
    let app = TestApp::start().await;
    app.state.readiness.drain();
    let ready = app.get("/health/ready").await;
    assert_eq!((ready.status, ready.json()["code"].as_str()), (StatusCode::SERVICE_UNAVAILABLE, Some("DRAINING")));
    assert_eq!(app.get("/trpc/settings.health").await.status, StatusCode::OK);
}
