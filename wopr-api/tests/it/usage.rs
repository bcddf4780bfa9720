//! What tenants see of their calls, and what they allow themselves.

use axum::http::{Method, StatusCode};
use jiff::SignedDuration;
use serde_json::{Value, json};
use wopr_core::audit::Origin;
use wopr_core::auth::Scope;

use crate::app::{As, TestApp};
use crate::gateway::{CHATS, World};

/// What `World::chat` is charged: three tokens read, four written.
const CHARGE: i64 = 3 * 1_000 + 4 * 3_000;

async fn chat(world: &World, calls: usize) {
    for _ in 0..calls {
        assert_eq!(world.chat(CHATS[0].0, json!({})).await.status, StatusCode::OK);
    }
    world.app.state.gateway.settle().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_told_by_the_hour_and_by_the_day_and_to_nobody_else() {
    let world = World::new(100).await;
    let (app, tenant) = (&world.app, world.tenant());
    chat(&world, 3).await;
    app.clock.advance(SignedDuration::from_hours(2));
    chat(&world, 1).await;
    let who = As::User(&world.user);
    let usage = app.query(who, "billing.usage", &json!({})).await.data();
    // 2027-01-15 08:00 UTC, and two hours later.
    let (first, hour) = (1_800_000_000_000_i64, 3_600_000);
    let row = |start: i64, length: i64, calls: i64| {
        json!({
            "tenant": tenant, "capability": "chat-completions", "provider": "openrouter", "model": "m",
            "event_count": calls, "input_units": 3 * calls, "output_units": 4 * calls, "total_cost": 11_000 * calls,
            "total_charge": CHARGE * calls, "total_duration": 0, "window_start": start, "window_end": start + length,
        })
    };
    assert_eq!(usage, json!({ "tenant": tenant, "usage": [row(first + 2 * hour, hour, 1), row(first, hour, 3)] }));
    let by_day = app.query(who, "billing.usage", &json!({ "window": "day" })).await.data();
    assert_eq!(by_day["usage"], json!([row(first - 8 * hour, 24 * hour, 4)]));
    let rest = app.call(who, Method::GET, "/api/billing/usage?limit=1&provider=openrouter&model=m", None).await;
    assert_eq!(rest.json()["usage"], json!([row(first + 2 * hour, hour, 1)]));
    let since = json!({ "startDate": first + hour });
    assert_eq!(app.query(who, "billing.usage", &since).await.data()["usage"], json!([row(first + 2 * hour, hour, 1)]));
    for nothing in [json!({ "capability": "tts" }), json!({ "endDate": first }), json!({ "provider": "gemini" })] {
        assert_eq!(app.query(who, "billing.usage", &nothing).await.data()["usage"], json!([]), "{nothing}");
    }
    for wrong in [json!({ "limit": 0 }), json!({ "limit": 1_001 }), json!({ "capability": "x" })] {
        assert_eq!(app.query(who, "billing.usage", &wrong).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }

    let summary = |start: i64, calls: i64| {
        json!({
            "tenant": tenant, "period_start": start, "total_cost": 11_000 * calls, "total_charge": CHARGE * calls,
            "event_count": calls,
        })
    };
    assert_eq!(app.query(who, "billing.usageSummary", &json!({})).await.data(), summary(first + 2 * hour, 1));
    let path = format!("/api/billing/usage/summary?startDate={}", first + 1);
    assert_eq!(app.call(who, Method::GET, &path, None).await.json(), summary(first, 4));
    let key = app.key(Some(tenant), Scope::Read).await;
    assert_eq!(app.call(As::Key(&key), Method::GET, &path, None).await.status, StatusCode::FORBIDDEN);

    let month = app.query(who, "billing.hostedUsageSummary", &json!(null)).await.data();
    assert_eq!(month["periodStart"], "2027-01-01T00:00:00.000Z");
    let capability = json!({
        "capability": "chat-completions", "label": "Conversations", "units": 28, "unitLabel": "tokens", "cost": 0,
    });
    assert_eq!((&month["capabilities"], &month["amountDue"]), (&json!([capability]), &json!(0)));
    let events = app.query(who, "billing.hostedUsageEvents", &json!({})).await.data();
    assert_eq!(events.as_array().unwrap().len(), 4);
    let newest = &events[0];
    assert!(newest["id"].as_str().unwrap().starts_with("req_"));
    assert_eq!((&newest["date"], &newest["costNano"]), (&json!("2027-01-15T10:00:00.000Z"), &json!(CHARGE)));
    assert_eq!((&newest["outcome"], &newest["units"], &newest["model"]), (&json!("completed"), &json!(7), &json!("m")));
    let before = json!({ "to": "2027-01-15T09:00:00Z", "capability": "chat-completions" });
    assert_eq!(app.query(who, "billing.hostedUsageEvents", &before).await.data().as_array().unwrap().len(), 3);

    let stranger = app.user("stranger").await;
    let events = app.query(As::User(&stranger), "billing.hostedUsageEvents", &json!({})).await.data();
    assert_eq!(events, json!([]));
    let operator = app.key(None, Scope::Admin).await;
    let asked = json!({ "tenantId": tenant, "days": 1 });
    let seen = app.query(As::Key(&operator), "admin.tenantUsageByCapability", &asked).await.data();
    assert_eq!(seen["usage"], json!([row(first - 8 * hour, 24 * hour, 4)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_allows_itself_is_in_dollars_and_exact() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let who = As::User(&ann);
    let none = json!({ "global": { "alertAt": null, "hardCap": null }, "perCapability": {} });
    assert_eq!(app.query(who, "billing.spendingLimits", &json!(null)).await.data(), none);
    let wanted = json!({
        "global": { "alertAt": 5, "hardCap": 10.55 },
        "perCapability": { "tts": { "alertAt": null, "hardCap": 0 }, "embeddings": { "alertAt": 0.01, "hardCap": null } },
    });
    assert_eq!(app.mutate(who, "billing.updateSpendingLimits", &wanted).await.data(), wanted);
    assert_eq!(app.query(who, "billing.spendingLimits", &json!(null)).await.data(), wanted);
    // What is left out of the next is gone.
    let fewer = json!({ "global": { "alertAt": null, "hardCap": 7 }, "perCapability": {} });
    assert_eq!(app.mutate(who, "billing.updateSpendingLimits", &fewer).await.data(), fewer);

    let limit = |alert: Value, cap: Value| json!({ "alertAt": alert, "hardCap": cap });
    let wrong: [(Value, Value); 6] = [
        (json!({ "global": limit(json!(-1), json!(null)), "perCapability": {} }), json!(["global", "alertAt"])),
        (json!({ "global": limit(json!(1.005), json!(null)), "perCapability": {} }), json!(["global", "alertAt"])),
        (json!({ "global": limit(json!(1), json!(1e12)), "perCapability": {} }), json!(["global", "hardCap"])),
        (json!({ "global": { "alertAt": 1 }, "perCapability": {} }), json!(["global", "hardCap"])),
        (json!({ "global": limit(json!(1), json!(1)) }), json!(["perCapability"])),
        (
            json!({ "global": limit(json!(1), json!(1)), "perCapability": { "x": limit(json!(1), json!(1)) } }),
            json!(["perCapability", "x"]),
        ),
    ];
    for (input, path) in wrong {
        let answer = app.mutate(who, "billing.updateSpendingLimits", &input).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{input}");
        let issues: Value = serde_json::from_str(answer.json()["error"]["message"].as_str().unwrap()).unwrap();
        assert_eq!(issues[0]["path"], path, "{input}");
    }
    // A key that only looks cannot lift a cap.
    for (scope, status) in [(Scope::Read, StatusCode::FORBIDDEN), (Scope::Admin, StatusCode::OK)] {
        let key = app.key(Some(ann.tenant()), scope).await;
        let answer = app.mutate(As::Key(&key), "billing.updateSpendingLimits", &none).await;
        assert_eq!(answer.status, status, "{scope}");
    }
    assert_eq!(app.query(who, "billing.spendingLimits", &json!(null)).await.data(), none);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_spends_what_it_wanted_to_be_told_of_gets_one_mail_for_a_month_and_a_limit() {
    let world = World::new(100).await;
    let app = &world.app;
    let allow = async |alert: Value| {
        let input = json!({
            "global": { "alertAt": alert, "hardCap": null },
            "perCapability": { "tts": { "alertAt": 0, "hardCap": null } },
        });
        app.mutate(As::User(&world.user), "billing.updateSpendingLimits", &input).await.data();
    };
    let told = async || {
        let told = app.state.gateway.tell_spenders().await.unwrap();
        app.state.notifier.deliver().await.unwrap();
        let mails = app.mailer.delivered();
        (told, mails.into_iter().filter(|mail| mail.template == "spend-alert").collect::<Vec<_>>())
    };
    allow(json!(0.01)).await;
    // 279 tokens read and 8 written are charged 0.0303 cents, and 33 such calls 0.9999.
    let long = json!({ "max_tokens": 8, "messages": [{ "role": "user", "content": "a ".repeat(279) }] });
    for _ in 0..33 {
        assert_eq!(world.chat(CHATS[0].0, long.clone()).await.status, StatusCode::OK);
    }
    app.state.gateway.settle().await.unwrap();
    assert_eq!(told().await.0, 0);
    chat(&world, 1).await;
    assert_eq!(told().await.0, 0, "nobody is written to at an address that nobody has verified");
    let mail = app.mailer.last("verify-email", "customer@example.com").unwrap();
    let token: String =
        mail.text_body.split("token=").nth(1).unwrap().chars().take_while(|c| !c.is_whitespace()).collect();
    app.state.auth.verify_email(&Origin::system("test"), &token).await.unwrap();
    let (count, mails) = told().await;
    assert_eq!((count, mails.len()), (1, 1));
    assert_eq!(mails[0].recipient, "customer@example.com");
    assert!(
        mails[0].text_body.contains("In January 2027 you have spent $0.01 on calls to models."),
        "{}",
        mails[0].text_body
    );
    chat(&world, 1).await;
    assert_eq!(told().await.0, 0, "once a month");
    // The same again is the same limit, another amount is another one.
    allow(json!(0.01)).await;
    assert_eq!(told().await.0, 0);
    allow(json!(0)).await;
    assert_eq!((told().await.0, told().await.1.len()), (1, 2));
    app.clock.advance(SignedDuration::from_hours(24 * 31));
    assert_eq!(told().await.0, 0, "nothing was spent in the new month");
    chat(&world, 1).await;
    let (count, mails) = told().await;
    assert_eq!((count, mails.len()), (1, 3));
    assert!(mails[2].text_body.contains("February 2027"), "{}", mails[2].text_body);
}
