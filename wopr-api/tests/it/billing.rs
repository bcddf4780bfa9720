use axum::body::Body;
use axum::http::{Method, StatusCode};
use jiff::SignedDuration;
use serde_json::{Value, json};
use wopr_core::audit::Actor;
use wopr_core::auth::Scope;
use wopr_core::billing::{FundingSource, Transfer, TransferKind};
use wopr_core::ids::TenantId;
use wopr_core::money::Money;

use crate::app::{As, TestApp};

impl TestApp {
    async fn buy(&self, tenant: TenantId, key: &str, cents: i32) {
        let amount = Money::from_cents(cents);
        let purchase = Transfer::to_wallet(key, TransferKind::Purchase, tenant, amount, Actor::Webhook("stripe"))
            .funded_by(FundingSource::Stripe);
        self.state.billing.post(&[purchase]).await.unwrap();
    }

    async fn consume(&self, tenant: TenantId, key: &str, cents: i32) {
        let amount = Money::from_cents(cents);
        let usage = Transfer::from_wallet(key, TransferKind::AdapterUsage, tenant, amount, Actor::System("test"));
        self.state.billing.post(&[usage]).await.unwrap();
    }

    /// Posts to the administrators' routes.
    async fn administer(
        &self,
        key: &str,
        tenant: TenantId,
        what: &str,
        idempotency: &str,
        body: &Value,
    ) -> (u16, Value) {
        let bearer = format!("Bearer {key}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", idempotency),
        ];
        let path = format!("/api/admin/credits/{tenant}/{what}");
        let answer = self.request(Method::POST, &path, &headers, Body::from(body.to_string())).await;
        (answer.status.as_u16(), answer.json())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_balance_has_exactly_the_contracts_shape() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let path = "/trpc/billing.creditsBalance?input=%7B%7D";
    let answer = app.call(As::User(&ann), Method::GET, path, None).await;
    let empty = json!({"tenant": ann.tenant(), "balance_cents": 0, "daily_burn_cents": 0, "runway_days": null});
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({"result": {"data": empty}})));
    let nobody = app.call(As::Nobody, Method::GET, path, None).await;
    assert_eq!(nobody.status, StatusCode::UNAUTHORIZED);
    assert_eq!(nobody.json()["error"]["message"], "Authentication required");

    app.buy(ann.tenant(), "cs_1", 3_000).await;
    app.consume(ann.tenant(), "usage:1", 70).await;
    let data = app.query(As::User(&ann), "billing.creditsBalance", &json!({"tenant": ann.tenant()})).await.data();
    let expected = json!({"tenant": ann.tenant(), "balance_cents": 2_930, "daily_burn_cents": 10, "runway_days": 293});
    assert_eq!(data, expected);
    let foreign = app.query(As::User(&bob), "billing.creditsBalance", &json!({"tenant": ann.tenant()})).await;
    assert_eq!(foreign.status, StatusCode::FORBIDDEN);
    assert_eq!(foreign.json()["error"]["message"], "Access denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_is_the_tenants_own_filtered_and_counted() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    app.buy(ann.tenant(), "cs_1", 3_000).await;
    app.buy(bob.tenant(), "cs_2", 1_000).await;
    app.clock.advance(SignedDuration::from_secs(60));
    app.consume(ann.tenant(), "usage:1", 70).await;
    let history = async |input: Value| app.query(As::User(&ann), "billing.creditsHistory", &input).await;
    let all = history(json!({})).await.data();
    insta::assert_json_snapshot!(all, { ".entries[].id" => "[id]", ".entries[].tenantId" => "[tenant]" });
    assert!(all["entries"].as_array().unwrap().iter().all(|entry| entry["tenantId"] == json!(ann.tenant())));
    let page = history(json!({"limit": 1, "offset": 1})).await.data();
    assert_eq!((page["entries"][0]["referenceId"].clone(), page["total"].clone()), (json!("cs_1"), json!(2)));
    let bought = history(json!({"type": "purchase"})).await.data();
    assert_eq!((bought["entries"].as_array().unwrap().len(), bought["total"].clone()), (1, json!(1)));
    let later = history(json!({"from": 1_800_000_001_000_i64})).await.data();
    assert_eq!(later["entries"][0]["referenceId"], "usage:1");
    assert_eq!(history(json!({"type": "grant"})).await.data(), json!({"entries": [], "total": 0}));
    for wrong in [json!({"type": "gift"}), json!({"limit": 0}), json!({"offset": -1}), json!({"from": i64::MAX})] {
        assert_eq!(history(wrong.clone()).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_change_credit_once_for_each_operation_id() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let operator = app.key(None, Scope::Admin).await;
    let input = |cents: i64, id: &str| json!({"tenantId": ann.tenant(), "amount_cents": cents, "reason": "goodwill", "operation_id": id});
    let granted = app.mutate(As::Key(&operator), "admin.creditsGrant", &input(500, "op-1")).await.data();
    assert_eq!(granted["type"], "admin_grant");
    assert_eq!(
        (granted["amount"].clone(), granted["balanceAfter"].clone()),
        (json!(5_000_000_000_i64), json!(5_000_000_000_i64))
    );
    let again = app.mutate(As::Key(&operator), "admin.creditsGrant", &input(500, "op-1")).await.data();
    assert_eq!(again, granted);
    let reused = app.mutate(As::Key(&operator), "admin.creditsGrant", &input(501, "op-1")).await;
    assert_eq!(reused.status, StatusCode::CONFLICT);
    let refunded = app.mutate(As::Key(&operator), "admin.creditsRefund", &input(200, "op-2")).await.data();
    assert_eq!((refunded["type"].clone(), refunded["amount"].clone()), (json!("refund"), json!(-2_000_000_000_i64)));
    let too_much = app.mutate(As::Key(&operator), "admin.creditsRefund", &input(301, "op-3")).await;
    assert_eq!(too_much.status, StatusCode::BAD_REQUEST);
    for (name, cents) in [("admin.creditsGrant", 0), ("admin.creditsGrant", -5), ("admin.creditsCorrection", 0)] {
        let answer = app.mutate(As::Key(&operator), name, &input(cents, "op-4")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{name} {cents}");
    }
    let corrected = app.mutate(As::Key(&operator), "admin.creditsCorrection", &input(-300, "op-5")).await.data();
    assert_eq!((corrected["type"].clone(), corrected["balanceAfter"].clone()), (json!("admin_adjust"), json!(0)));
    let balance =
        app.query(As::Key(&operator), "admin.creditsBalance", &json!({"tenantId": ann.tenant()})).await.data();
    assert_eq!(balance, json!({"tenant": ann.tenant(), "balance_cents": 0}));
    let entries = app.query(As::Key(&operator), "admin.creditsTransactions", &json!({"tenantId": ann.tenant()})).await;
    assert_eq!(entries.data()["total"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_platform_administrators_touch_credit_and_standing() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let own_admin = app.key(Some(ann.tenant()), Scope::Admin).await;
    let change = json!({"tenantId": ann.tenant(), "amount_cents": 500, "reason": "please", "notifyByEmail": false,
        "tosReference": "1", "confirmName": format!("BAN {}", ann.tenant())});
    for name in [
        "admin.creditsGrant",
        "admin.creditsRefund",
        "admin.creditsCorrection",
        "admin.suspendTenant",
        "admin.reactivateTenant",
        "admin.banTenant",
    ] {
        for who in [As::User(&ann), As::Key(&own_admin)] {
            let refused = app.mutate(who, name, &change).await;
            assert_eq!(refused.status, StatusCode::FORBIDDEN, "{name}");
        }
        assert_eq!(app.mutate(As::Nobody, name, &change).await.status, StatusCode::UNAUTHORIZED, "{name}");
    }
    for name in ["admin.creditsBalance", "admin.creditsTransactions", "admin.tenantStatus"] {
        assert_eq!(app.query(As::User(&ann), name, &change).await.status, StatusCode::FORBIDDEN, "{name}");
    }
    let rest = app.administer(&own_admin, ann.tenant(), "grant", "x", &change).await;
    assert_eq!(rest.0, 403, "{}", rest.1);
    assert_eq!(app.state.billing.balance(ann.tenant()).await.unwrap().balance, Money::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn credit_over_rest_takes_the_idempotency_key() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let operator = app.key(None, Scope::Admin).await;
    let body = json!({"amount_cents": 500, "reason": "goodwill"});
    let first = app.administer(&operator, ann.tenant(), "grant", "op-1", &body).await;
    assert_eq!((first.0, first.1["amount"].clone()), (201, json!(5_000_000_000_i64)));
    assert_eq!(app.administer(&operator, ann.tenant(), "grant", "op-1", &body).await, first);
    let refund = json!({"amount_cents": 501, "reason": "returned"});
    let (status, problem) = app.administer(&operator, ann.tenant(), "refund", "op-2", &refund).await;
    assert_eq!((status, problem["current_balance"].clone()), (400, json!(500)));
    let correction = json!({"amount_cents": -100, "reason": "typo"});
    assert_eq!(app.administer(&operator, ann.tenant(), "correction", "op-3", &correction).await.0, 201);
    let nobody = TenantId::from_uuid(uuid::Uuid::from_u128(1 << 100));
    assert_eq!(app.administer(&operator, nobody, "grant", "op-4", &body).await.0, 404);
    for list in ["transactions", "adjustments"] {
        let path = format!("/api/admin/credits/{}/{list}?limit=1", ann.tenant());
        let answer = app.call(As::Key(&operator), Method::GET, &path, None).await.json();
        assert_eq!((answer["entries"].as_array().unwrap().len(), answer["total"].clone()), (1, json!(2)));
    }
    let path = format!("/api/admin/credits/{}/balance", ann.tenant());
    let balance = app.call(As::Key(&operator), Method::GET, &path, None).await.json();
    assert_eq!(balance, json!({"tenant": ann.tenant(), "balance_cents": 400}));
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_suspend_reactivate_and_ban() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let operator = app.key(None, Scope::Admin).await;
    let tenant = json!({"tenantId": ann.tenant()});
    let status = async || app.query(As::Key(&operator), "admin.tenantStatus", &tenant).await.data();
    assert_eq!(
        (status().await["status"].clone(), status().await["statusReason"].clone()),
        (json!("active"), json!(null))
    );
    let suspend = json!({"tenantId": ann.tenant(), "reason": "spam", "notifyByEmail": true});
    let suspended = app.mutate(As::Key(&operator), "admin.suspendTenant", &suspend).await.data();
    assert_eq!(suspended, json!({"tenantId": ann.tenant(), "status": "suspended", "reason": "spam"}));
    assert_eq!(status().await["statusReason"], "admin");
    let back = app.mutate(As::Key(&operator), "admin.reactivateTenant", &tenant).await.data();
    assert_eq!(back["status"], "active");
    let ban = |confirm: &str| json!({"tenantId": ann.tenant(), "reason": "fraud", "tosReference": "4.2", "confirmName": confirm});
    let unconfirmed = app.mutate(As::Key(&operator), "admin.banTenant", &ban("BAN")).await;
    assert_eq!(unconfirmed.status, StatusCode::BAD_REQUEST);
    let banned = app.mutate(As::Key(&operator), "admin.banTenant", &ban(&format!("BAN {}", ann.tenant()))).await.data();
    assert_eq!((banned["status"].clone(), banned["refundedCents"].clone()), (json!("banned"), json!(0)));
    let refused = app.mutate(As::Key(&operator), "admin.reactivateTenant", &tenant).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(status().await["dataDeleteAfter"].is_i64());
    let no_reason = json!({"tenantId": ann.tenant(), "reason": " "});
    assert_eq!(app.mutate(As::Key(&operator), "admin.suspendTenant", &no_reason).await.status, StatusCode::BAD_REQUEST);
}
