//! Bots over both wires.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use wopr_core::audit::Actor;
use wopr_core::auth::Scope;
use wopr_core::billing::{Transfer, TransferKind};
use wopr_core::ids::TenantId;
use wopr_core::money::Money;

use crate::app::{As, TestApp};

async fn pay(app: &TestApp, tenant: TenantId, cents: i32) {
    let key = format!("cs_{tenant}_{cents}");
    let (amount, actor) = (Money::from_cents(cents), Actor::Webhook("stripe"));
    app.state.billing.post(&[Transfer::to_wallet(key, TransferKind::Purchase, tenant, amount, actor)]).await.unwrap();
}

fn test_bot() -> Value {
    json!({ "name": "test-bot", "image": "wopr-network/wopr:latest", "description": "mine" })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_creates_watches_and_controls_a_bot() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let tenant = ann.signed_in.tenant_id;
    let refused = app.mutate(As::User(&ann), "fleet.createInstance", &test_bot()).await;
    assert_eq!(refused.status, StatusCode::PAYMENT_REQUIRED);
    let details = refused.json()["error"]["data"]["details"].clone();
    assert_eq!((&details["balance"], &details["required"]), (&json!(0), &json!(17)));
    pay(&app, tenant, 3000).await;
    let made = app.mutate(As::User(&ann), "fleet.createInstance", &test_bot()).await.data();
    assert_eq!((&made["name"], &made["status"]), (&json!("test-bot"), &json!("provisioning")));
    assert_eq!((&made["tenantId"], &made["image"]), (&json!(tenant), &json!("ghcr.io/wopr-network/wopr:latest")));
    let input = json!({ "id": made["id"] });
    app.state.fleet.advance().await.unwrap();
    let bot = app.query(As::User(&ann), "fleet.getInstance", &input).await.data();
    assert_eq!(
        (&bot["status"], &bot["state"], &bot["health"]),
        (&json!("running"), &json!("running"), &json!("healthy"))
    );
    assert_eq!(bot["stats"]["cpuPercent"], json!(12.5));
    let listed = app.query(As::User(&ann), "fleet.listInstances", &json!({})).await.data();
    assert_eq!(listed["bots"][0]["id"], made["id"]);
    let logs = app.query(As::User(&ann), "fleet.getInstanceLogs", &json!({ "id": made["id"], "tail": 1 })).await.data();
    assert_eq!(logs["logs"], json!(["idle"]));
    let health = app.query(As::User(&ann), "fleet.getInstanceHealth", &input).await.data();
    assert_eq!(health["health"], json!("healthy"));
    for (action, status) in [("stop", "stopped"), ("start", "running"), ("restart", "running")] {
        let control = json!({ "id": made["id"], "action": action });
        let done = app.mutate(As::User(&ann), "fleet.controlInstance", &control).await.data();
        assert_eq!(done, json!({ "ok": true }), "{action}");
        app.state.fleet.advance().await.unwrap();
        assert_eq!(app.query(As::User(&ann), "fleet.getInstance", &input).await.data()["status"], json!(status));
    }
    let control = json!({ "id": made["id"], "action": "destroy" });
    app.mutate(As::User(&ann), "fleet.controlInstance", &control).await.data();
    app.state.fleet.advance().await.unwrap();
    assert_eq!(app.query(As::User(&ann), "fleet.getInstance", &input).await.status, StatusCode::NOT_FOUND);
    assert_eq!(app.containers.counts(), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_finds_nothing_on_either_wire() {
    let app = TestApp::start().await;
    let (ann, eve) = (app.user("ann").await, app.user("eve").await);
    pay(&app, ann.signed_in.tenant_id, 3000).await;
    pay(&app, eve.signed_in.tenant_id, 3000).await;
    let made = app.mutate(As::User(&ann), "fleet.createInstance", &test_bot()).await.data();
    let id = made["id"].as_str().unwrap();
    let key = app.key(Some(eve.signed_in.tenant_id), Scope::Admin).await;
    let requests = [
        (Method::GET, format!("/fleet/bots/{id}"), None),
        (Method::PATCH, format!("/fleet/bots/{id}"), Some(json!({ "description": "hers" }))),
        (Method::DELETE, format!("/fleet/bots/{id}"), None),
        (Method::POST, format!("/fleet/bots/{id}/start"), None),
        (Method::POST, format!("/fleet/bots/{id}/stop"), None),
        (Method::POST, format!("/fleet/bots/{id}/restart"), None),
        (Method::GET, format!("/fleet/bots/{id}/health"), None),
        (Method::GET, format!("/fleet/bots/{id}/metrics"), None),
        (Method::GET, format!("/fleet/bots/{id}/logs"), None),
    ];
    for (method, path, body) in requests {
        for who in [As::Key(&key), As::User(&eve)] {
            let answer = app.call(who, method.clone(), &path, body.as_ref()).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}");
        }
    }
    for name in ["getInstance", "getInstanceHealth", "getInstanceLogs", "getInstanceMetrics"] {
        let answer = app.query(As::User(&eve), &format!("fleet.{name}"), &json!({ "id": id })).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{name}");
    }
    let control = json!({ "id": id, "action": "destroy" });
    assert_eq!(app.mutate(As::User(&eve), "fleet.controlInstance", &control).await.status, StatusCode::NOT_FOUND);
    let foreign = json!({ "name": "x", "image": "wopr-network/wopr", "tenantId": ann.signed_in.tenant_id });
    let answer = app.call(As::Key(&key), Method::POST, "/fleet/bots", Some(&foreign)).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_wire_has_its_exact_bodies() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let tenant = ann.signed_in.tenant_id;
    let key = app.key(Some(tenant), Scope::Write).await;
    let who = || As::Key(&key);
    let poor = app.call(who(), Method::POST, "/fleet/bots", Some(&test_bot())).await;
    let wanted =
        json!({ "error": "insufficient_credits", "balance": 0, "required": 17, "buyUrl": "/dashboard/credits" });
    assert_eq!((poor.status, poor.json()), (StatusCode::PAYMENT_REQUIRED, wanted));
    pay(&app, tenant, 3000).await;
    let made = app.call(who(), Method::POST, "/fleet/bots", Some(&test_bot())).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let path = format!("/fleet/bots/{}", made.json()["id"].as_str().unwrap());
    app.state.fleet.advance().await.unwrap();
    assert_eq!(app.call(who(), Method::GET, &path, None).await.json()["state"], json!("running"));
    let logs = app.call(who(), Method::GET, &format!("{path}/logs?tail=0"), None).await.json();
    let line = json!([{ "id": "log-0", "timestamp": null, "level": "warn", "source": "container", "message": "idle" }]);
    assert_eq!(logs, line);
    let stopped = app.call(who(), Method::POST, &format!("{path}/stop"), None).await;
    assert_eq!(stopped.json(), json!({ "ok": true }));
    let nothing = app.call(who(), Method::PATCH, &path, Some(&json!({}))).await;
    assert_eq!(nothing.status, StatusCode::BAD_REQUEST);
    let image = json!({ "name": "other", "image": "docker.io/library/nginx" });
    let refused = app.call(who(), Method::POST, "/fleet/bots", Some(&image)).await;
    assert_eq!((refused.status, &refused.json()["error"]), (StatusCode::BAD_REQUEST, &json!("Validation failed")));
    let invalid = app.call(who(), Method::GET, "/fleet/bots/not-an-id", None).await;
    assert_eq!(invalid.status, StatusCode::BAD_REQUEST);
    assert_eq!(app.call(who(), Method::DELETE, &path, None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(app.call(who(), Method::GET, &path, None).await.status, StatusCode::NOT_FOUND);
    let reader = app.key(Some(tenant), Scope::Read).await;
    let answer = app.call(As::Key(&reader), Method::POST, "/fleet/bots", Some(&test_bot())).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(app.get("/fleet/bots").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_to_be_proved_first_where_that_is_configured() {
    let app = TestApp::start_with(&[("REQUIRE_VERIFIED_EMAIL", "true")]).await;
    let ann = app.user("ann").await;
    pay(&app, ann.signed_in.tenant_id, 3000).await;
    let refused = app.mutate(As::User(&ann), "fleet.createInstance", &test_bot()).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["message"]),
        (StatusCode::FORBIDDEN, &json!("Email verification required"))
    );
    let refused = app.call(As::User(&ann), Method::POST, "/fleet/bots", Some(&test_bot())).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    app.db.execute("UPDATE users SET email_verified_at = created_at").await;
    let made = app.mutate(As::User(&ann), "fleet.createInstance", &test_bot()).await;
    assert_eq!(made.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_answered_when_it_is_decided() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    pay(&app, ann.signed_in.tenant_id, 3000).await;
    let made = app.mutate(As::User(&ann), "fleet.createInstance", &test_bot()).await.data();
    app.state.fleet.advance().await.unwrap();
    let path = format!("/fleet/bots/{}", made["id"].as_str().unwrap());
    let status = async || app.call(As::User(&ann), Method::GET, &format!("{path}/image-status"), None).await.json();
    let old = status().await;
    assert_eq!((&old["updateAvailable"], &old["currentDigest"]), (&json!(false), &old["availableDigest"]));
    assert_eq!((&old["releaseChannel"], &old["updatePolicy"]), (&json!("stable"), &json!("manual")));

    let update = async || {
        let path = format!("{path}/update");
        let answer = std::pin::pin!(app.call(As::User(&ann), Method::POST, &path, None));
        let workers = std::pin::pin!(async {
            loop {
                app.state.fleet.advance().await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        match futures_util::future::select(answer, workers).await {
            futures_util::future::Either::Left((answer, _)) => answer,
            futures_util::future::Either::Right(_) => unreachable!(),
        }
    };
    app.containers.release_images();
    let new = status().await;
    assert_eq!((&new["updateAvailable"], &new["currentDigest"]), (&json!(true), &old["currentDigest"]));
    let done = update().await;
    let expected = json!({
        "botId": made["id"], "success": true, "rolledBack": false,
        "previousImage": made["image"], "newImage": made["image"],
        "previousDigest": old["currentDigest"], "newDigest": new["availableDigest"],
    });
    assert_eq!((done.status, done.json()), (StatusCode::OK, expected));

    app.containers.release_images();
    app.containers.break_image(status().await["availableDigest"].as_str().unwrap());
    let failed = update().await;
    let body = failed.json();
    assert_eq!((failed.status, &body["rolledBack"]), (StatusCode::INTERNAL_SERVER_ERROR, &json!(true)), "{body}");
    assert_eq!((&body["success"], &body["newDigest"]), (&json!(false), &new["availableDigest"]));
    assert!(body["error"].as_str().unwrap().contains("exit code 1"), "{body}");
}
