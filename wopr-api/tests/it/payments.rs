use axum::body::Body;
use axum::http::{Method, StatusCode};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use wopr_core::auth::Scope;
use wopr_core::clock::Clock as _;

use super::app::{Answer, As, TestApp};

const SECRET: &str = "whsec_router";
const WEBHOOK: &str = "/api/billing/webhook";
/// Sells one pack.
pub(crate) const STRIPE: [(&str, &str); 3] = [
    ("STRIPE_SECRET_KEY", "sk_test_router"),
    ("STRIPE_WEBHOOK_SECRET", SECRET),
    ("STRIPE_CREDIT_PRICE_25", "price_25"),
];

fn sign(app: &TestApp, age_seconds: i64, body: &[u8]) -> String {
    let seconds = app.clock.now().as_second() - age_seconds;
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body);
    format!("t={seconds},v1={}", hex::encode(mac.finalize().into_bytes()))
}

async fn deliver(app: &TestApp, signature: &str, body: &[u8]) -> Answer {
    let headers = [("stripe-signature", signature), ("content-type", "application/json")];
    app.request(Method::POST, WEBHOOK, &headers, Body::from(body.to_vec())).await
}

fn completed(id: &str, tenant: &str, cents: i64) -> Vec<u8> {
    json!({ "id": format!("evt_{id}"), "type": "checkout.session.completed", "created": 1_800_000_000, "data": { "object": {
        "id": id, "mode": "payment", "payment_status": "paid", "amount_total": cents, "currency": "usd", "customer": null,
        "client_reference_id": tenant, "payment_intent": format!("pi_{id}"), "metadata": { "wopr_tenant": tenant },
    } } })
    .to_string()
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_from_the_packs_to_the_balance() {
    let app = TestApp::start_with(&STRIPE).await;
    let user = app.user("ann").await;
    let tenant = user.tenant().to_string();
    let packs = app.query(As::Nobody, "billing.creditOptions", &json!({})).await.data();
    let pack =
        json!({ "priceId": "price_25", "label": "$25", "amountCents": 2500, "creditCents": 2550, "bonusPercent": 2 });
    assert_eq!(packs, json!([pack]));
    let page = "http://localhost:3000/dashboard";
    let order = json!({ "priceId": "price_25", "successUrl": page, "cancelUrl": page });
    let checkout = app.mutate(As::User(&user), "billing.creditsCheckout", &order).await.data();
    let session = checkout["sessionId"].as_str().unwrap();
    assert!(session.starts_with("cs_test_") && checkout["url"].is_string());
    let body = completed(session, &tenant, 2_500);
    let first = deliver(&app, &sign(&app, 0, &body), &body).await;
    assert_eq!(first.status, StatusCode::OK);
    let kind = "checkout.session.completed";
    assert_eq!(first.json(), json!({ "handled": true, "event_type": kind, "tenant": tenant, "credited": 2550 }));
    let again = deliver(&app, &sign(&app, 0, &body), &body).await.json();
    assert_eq!(again, json!({ "handled": true, "event_type": kind, "duplicate": true }));
    let balance = app.query(As::User(&user), "billing.creditsBalance", &json!({})).await.data();
    assert_eq!(balance["balance_cents"], json!(2550));
    let elsewhere = json!({ "priceId": "price_25", "successUrl": "https://evil.example/", "cancelUrl": page });
    let refused = app.mutate(As::User(&user), "billing.creditsCheckout", &elsewhere).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let stranger = app.user("bob").await;
    let foreign = json!({ "tenant": tenant, "priceId": "price_25", "successUrl": page, "cancelUrl": page });
    let refused = app.mutate(As::User(&stranger), "billing.creditsCheckout", &foreign).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_signed_now_by_the_provider_credits_nothing() {
    let app = TestApp::start_with(&STRIPE).await;
    let user = app.user("ann").await;
    let body = completed("cs_1", &user.tenant().to_string(), 3_000);
    let missing = app.request(Method::POST, WEBHOOK, &[], Body::from(body.clone())).await;
    assert_eq!(missing.status, StatusCode::BAD_REQUEST);
    let forged = deliver(&app, "t=1800000000,v1=00", &body).await;
    assert_eq!(forged.status, StatusCode::BAD_REQUEST);
    for age_seconds in [301, -301] {
        let refused = deliver(&app, &sign(&app, age_seconds, &body), &body).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "the sender is blocked for two seconds");
        assert!(!refused.header("retry-after").is_empty());
    }
    let malformed = deliver(&app, &sign(&app, 0, b"{"), b"{").await;
    assert_eq!(malformed.status, StatusCode::BAD_REQUEST);
    let huge = vec![b' '; 1024 * 1024 + 1];
    assert_eq!(deliver(&app, &sign(&app, 0, &huge), &huge).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let balance = app.query(As::User(&user), "billing.creditsBalance", &json!({})).await.data();
    assert_eq!(balance["balance_cents"], json!(0));
    let genuine = deliver(&app, &sign(&app, 300, &body), &body).await;
    assert_eq!((genuine.status, &genuine.json()["credited"]), (StatusCode::OK, &json!(3_000)));

    let app = app.with_many_clients();
    let another = completed("cs_2", &user.tenant().to_string(), 100);
    for age_seconds in [301, -301] {
        let stale = deliver(&app, &sign(&app, age_seconds, &another), &another).await;
        assert_eq!(stale.status, StatusCode::BAD_REQUEST, "from a sender that did nothing else wrong");
    }
    let balance = app.query(As::User(&user), "billing.creditsBalance", &json!({})).await.data();
    assert_eq!(balance["balance_cents"], json!(3_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_without_a_database_is_to_be_sent_again_and_is_held_against_nobody() {
    let app = TestApp::start_with(&STRIPE).await;
    let user = app.user("ann").await;
    let body = completed("cs_1", &user.tenant().to_string(), 3_000);
    // The server knows that its schema fits: what is asked for next gets as far as the webhook itself.
    assert_eq!(app.get("/health/ready").await.status, StatusCode::OK);
    app.db.set_away(true).await;
    let genuine = deliver(&app, &sign(&app, 0, &body), &body).await;
    assert_eq!(genuine.status, StatusCode::SERVICE_UNAVAILABLE);
    let forged = deliver(&app, "t=1800000000,v1=00", &body).await;
    assert_eq!(forged.status, StatusCode::SERVICE_UNAVAILABLE);
    app.db.set_away(false).await;

    // A sender that something is held against would get 429 for this.
    let forged = deliver(&app, "t=1800000000,v1=00", &body).await;
    assert_eq!(forged.status, StatusCode::BAD_REQUEST);
    let again = deliver(&app, &sign(&app, 0, &body), &body).await;
    let kind = "checkout.session.completed";
    let credited = json!({ "handled": true, "event_type": kind, "tenant": user.tenant(), "credited": 3000 });
    assert_eq!((again.status, again.json()), (StatusCode::OK, credited));
    let balance = app.query(As::User(&user), "billing.creditsBalance", &json!({})).await.data();
    assert_eq!(balance["balance_cents"], json!(3_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_a_webhook_that_was_given_up_and_has_it_done_again() {
    let app = TestApp::start_with(&STRIPE).await;
    let user = app.user("ann").await;
    let operator = app.key(None, Scope::Admin).await;
    let dead = async || app.query(As::Key(&operator), "admin.deadWebhooks", &json!({})).await.data();
    assert_eq!(dead().await, json!([]));
    // A refund of no amount: it makes no sense now, and will once the cause is gone.
    let object = json!({ "id": "re_1" });
    let event = json!({ "id": "evt_1", "type": "refund.created", "created": 1, "data": { "object": object } });
    let body = event.to_string().into_bytes();
    let kept = deliver(&app, &sign(&app, 0, &body), &body).await;
    assert_eq!((kept.status, &kept.json()["handled"]), (StatusCode::OK, &json!(false)));
    let found = dead().await;
    let id = found[0]["id"].as_str().unwrap().to_owned();
    let now = app.clock.now().as_millisecond();
    let expected = json!([{
        "id": id, "eventId": "evt_1", "eventType": "refund.created", "attempts": 1,
        "lastError": "the webhook's body is not an event", "receivedAt": now, "givenUpAt": now,
    }]);
    assert_eq!(found, expected);

    for (who, status) in [(As::User(&user), StatusCode::FORBIDDEN), (As::Nobody, StatusCode::UNAUTHORIZED)] {
        assert_eq!(app.query(who, "admin.deadWebhooks", &json!({})).await.status, status);
        assert_eq!(app.mutate(who, "admin.retryWebhook", &json!({ "id": id })).await.status, status);
    }
    let now_sensible = r#"UPDATE webhook_events
        SET payload = replace(payload, '"re_1"', '"re_1","amount":500,"currency":"usd","payment_intent":"pi_1"')"#;
    app.db.execute(now_sensible).await;
    let retried = app.mutate(As::Key(&operator), "admin.retryWebhook", &json!({ "id": id })).await.data();
    assert_eq!((retried, dead().await), (json!({ "retried": true }), json!([])));
    assert_eq!(app.state.payments.process_webhooks().await.unwrap(), 1);
    assert_eq!(app.state.payments.webhook_backlog().await.unwrap(), (0, 0));
    let again = app.mutate(As::Key(&operator), "admin.retryWebhook", &json!({ "id": id })).await;
    assert_eq!(again.status, StatusCode::NOT_FOUND, "it is not given up any more");
    let audit =
        "DO $$ BEGIN ASSERT (SELECT count(*) FROM audit_log WHERE action = 'billing.retry_webhook') = 1; END $$";
    app.db.execute(audit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_stripe_nothing_is_on_sale_and_everything_says_so() {
    let app = TestApp::start().await;
    let user = app.user("ann").await;
    assert_eq!(app.query(As::Nobody, "billing.creditOptions", &json!({})).await.data(), json!([]));
    let input: Value = json!({ "returnUrl": "http://localhost:3000/" });
    let portal = app.mutate(As::User(&user), "billing.portalSession", &input).await;
    assert_eq!(portal.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(deliver(&app, "t=1,v1=00", b"{}").await.status, StatusCode::SERVICE_UNAVAILABLE);
}
