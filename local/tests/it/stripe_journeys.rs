//! Paying, declining, refunding, disputing: what the objects say, and what the books say.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use wopr_local::clock::ManualClock;
use wopr_local::stripe::{Fault, Payment};

use crate::support::{Api, KEY, http, plain_standin, standin, until};

/// Path, form, and the status and code that must come back.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, &'a str);

async fn saved_card(api: &Api) -> (String, String) {
    let customer = api.make("/v1/customers", &[("email", "a@example.com")]).await;
    let id = customer["id"].as_str().unwrap().to_owned();
    let method = api.make("/v1/payment_methods/pm_card_visa/attach", &[("customer", &id)]).await;
    (id, method["id"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_person_pays_on_the_page_and_the_session_has_no_customer() {
    let (standin, api) = plain_standin().await;
    let session = api.session(&[("payment_intent_data[metadata][k]", "v")]).await;
    let (id, url) = (session["id"].as_str().unwrap(), session["url"].as_str().unwrap());
    assert_eq!(session["customer_creation"], "if_required");
    let page = api.http.get(url).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("$25.00") && page.contains("$25 credit pack"), "{page}");

    let refused = api.http.post(url).form(&[("action", "decline")]).send().await.unwrap();
    assert_eq!(refused.status(), 402);
    assert!(refused.text().await.unwrap().contains("Your card was declined."));

    let left = api.http.post(url).form(&[("action", "cancel")]).send().await.unwrap();
    assert_eq!(left.headers()["location"], "http://shop.example/cart");

    let paid = api.http.post(url).form(&[("action", "pay"), ("card", "4242 4242 4242 4242")]).send().await.unwrap();
    assert_eq!(
        (paid.status().as_u16(), paid.headers()["location"].to_str().unwrap()),
        (303, format!("http://shop.example/done?s={id}").as_str())
    );
    assert_eq!(api.http.get(url).send().await.unwrap().status(), 410);

    let (_, session) =
        api.get(&format!("/v1/checkout/sessions/{id}?expand[]=payment_intent.latest_charge&expand[]=line_items")).await;
    assert_eq!((&session["status"], &session["payment_status"]), (&json!("complete"), &json!("paid")));
    assert_eq!(session["customer"], Value::Null);
    assert_eq!(session["payment_intent"]["metadata"], json!({ "k": "v" }));
    assert_eq!(session["payment_intent"]["latest_charge"]["amount_captured"], 2500);
    assert_eq!(session["line_items"]["data"][0]["price"]["id"], "price_wopr_credits_25");
    // The declined attempt and the paid one are charges of one intent.
    let (_, charges) =
        api.get(&format!("/v1/charges?payment_intent={}", session["payment_intent"]["id"].as_str().unwrap())).await;
    let statuses: Vec<&Value> = charges["data"].as_array().unwrap().iter().map(|charge| &charge["status"]).collect();
    assert_eq!(statuses, ["succeeded", "failed"]);
    standin.shutdown().await;
}

#[tokio::test]
async fn a_customer_is_made_only_when_asked_for() {
    let (standin, api) = plain_standin().await;
    let session = api.session(&[("customer_creation", "always")]).await;
    let payment = Payment { email: Some("b@example.com".into()), ..Payment::default() };
    let paid = standin.control().pay(session["id"].as_str().unwrap(), payment).await.unwrap();
    let (_, customer) = api.get(&format!("/v1/customers/{}", paid["customer"].as_str().unwrap())).await;
    assert_eq!(customer["email"], "b@example.com");

    let (known, _) = saved_card(&api).await;
    let (status, body) = api
        .post(
            "/v1/checkout/sessions",
            &[
                ("mode", "payment"),
                ("customer", &known),
                ("customer_creation", "always"),
                ("success_url", "http://a.example/"),
            ],
        )
        .await;
    assert_eq!((status, body["error"]["param"].as_str()), (400, Some("customer_creation")));
}

#[tokio::test]
async fn a_slow_payment_completes_unpaid_and_is_paid_or_fails_later() {
    let (standin, api) = plain_standin().await;
    for (arrives, status, event) in
        [(true, "paid", "async_payment_succeeded"), (false, "unpaid", "async_payment_failed")]
    {
        let session = api.session(&[]).await;
        let id = session["id"].as_str().unwrap();
        let done = standin.control().pay(id, Payment { later: true, ..Payment::default() }).await.unwrap();
        assert_eq!((&done["status"], &done["payment_status"]), (&json!("complete"), &json!("unpaid")));
        let settled = standin.control().settle(id, arrives).await.unwrap();
        assert_eq!(settled["payment_status"], status);
        let (_, events) = api.get(&format!("/v1/events?type=checkout.session.{event}")).await;
        assert_eq!(events["data"][0]["data"]["object"]["id"], id);
        assert_eq!(standin.control().settle(id, true).await.unwrap_err().status, 400, "only once");
    }
    let (_, rows) = api.get("/v1/balance_transactions").await;
    assert_eq!(rows["data"].as_array().unwrap().len(), 1, "only money that arrived is booked");
}

#[tokio::test]
async fn the_balance_is_the_sum_of_what_moved() {
    let (standin, api) = plain_standin().await;
    let (customer, method) = saved_card(&api).await;
    let pay = |amount: &'static str| {
        let form = [
            ("amount", amount),
            ("currency", "usd"),
            ("customer", &customer),
            ("payment_method", &method),
            ("off_session", "true"),
            ("confirm", "true"),
        ];
        let form: Vec<(String, String)> = form.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        let api = &api;
        async move {
            let form: Vec<(&str, &str)> = form.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            api.make("/v1/payment_intents", &form).await["latest_charge"].as_str().unwrap().to_owned()
        }
    };
    let (first, second, third) = (pay("1000").await, pay("2000").await, pay("5000").await);
    api.make("/v1/refunds", &[("charge", &first), ("amount", "300")]).await;
    let (status, body) = api.post("/v1/refunds", &[("charge", &first), ("amount", "701")]).await;
    assert_eq!((status, body["error"]["param"].as_str()), (400, Some("amount")));

    let won = standin.control().dispute(&second, "fraudulent", None).await.unwrap();
    let (status, body) = api.post("/v1/refunds", &[("charge", &second)]).await;
    assert_eq!((status, body["error"]["code"].as_str()), (400, Some("charge_disputed")));
    let sent =
        api.make(&format!("/v1/disputes/{}", won["id"].as_str().unwrap()), &[("evidence[receipt]", "file_1")]).await;
    assert_eq!(sent["status"], "under_review");
    standin.control().decide_dispute(won["id"].as_str().unwrap(), true).await.unwrap();
    let lost = standin.control().dispute(&third, "product_not_received", None).await.unwrap();
    let closed = api.make(&format!("/v1/disputes/{}/close", lost["id"].as_str().unwrap()), &[]).await;
    assert_eq!(closed["status"], "lost");

    // Fees: 2.9 % and 30 cents of each charge, 15 dollars for each dispute.
    let fees = (29 + 30) + (58 + 30) + (145 + 30) + 1500 + 1500;
    let expected = 1000 - 300 + 2000 - fees;
    let (_, balance) = api.get("/v1/balance").await;
    assert_eq!((&balance["pending"][0]["amount"], &balance["available"][0]["amount"]), (&json!(expected), &json!(0)));

    let (mut cursor, mut net, mut seen) = (String::new(), 0, Vec::new());
    loop {
        let (_, page) = api.get(&format!("/v1/balance_transactions?limit=2{cursor}")).await;
        for row in page["data"].as_array().unwrap() {
            net += row["net"].as_i64().unwrap();
            assert_eq!(row["net"], row["amount"].as_i64().unwrap() - row["fee"].as_i64().unwrap());
            seen.push(row["id"].as_str().unwrap().to_owned());
        }
        if page["has_more"] == false {
            break;
        }
        cursor = format!("&starting_after={}", seen.last().unwrap());
    }
    assert_eq!((net, seen.len()), (expected, 7));
    let (_, back) = api.get(&format!("/v1/balance_transactions?limit=3&ending_before={}", seen[3])).await;
    let ids: Vec<&str> = back["data"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!((ids, &back["has_more"]), (seen[..3].iter().map(String::as_str).collect(), &json!(false)));
}

#[tokio::test]
async fn a_declined_card_is_an_answer_and_its_attempt_is_kept() {
    let (_standin, api) = plain_standin().await;
    let form = [
        ("amount", "700"),
        ("currency", "usd"),
        ("payment_method", "pm_card_chargeDeclinedInsufficientFunds"),
        ("confirm", "true"),
    ];
    let (status, body, _) = api.post_with_key("/v1/payment_intents", &form, Some("attempt-1")).await;
    let error = &body["error"];
    assert_eq!(status, 402);
    assert_eq!(
        (&error["type"], &error["code"], &error["decline_code"]),
        (&json!("card_error"), &json!("card_declined"), &json!("insufficient_funds"))
    );
    let intent = error["payment_intent"]["id"].as_str().unwrap();
    let (_, kept) = api.get(&format!("/v1/payment_intents/{intent}")).await;
    assert_eq!(
        (&kept["status"], &kept["last_payment_error"]["code"]),
        (&json!("requires_payment_method"), &json!("card_declined"))
    );
    // The retry of a declined request is the same answer, not a second attempt.
    let (status, again, replayed) = api.post_with_key("/v1/payment_intents", &form, Some("attempt-1")).await;
    assert_eq!((status, again, replayed), (402, body.clone(), true));
    let (_, charges) = api.get("/v1/charges").await;
    assert_eq!(charges["data"].as_array().unwrap().len(), 1);
    let (_, paid) =
        api.post(&format!("/v1/payment_intents/{intent}/confirm"), &[("payment_method", "pm_card_visa")]).await;
    assert_eq!(paid["status"], "succeeded");
    let (status, refused) = api.post(&format!("/v1/payment_intents/{intent}/cancel"), &[]).await;
    assert_eq!((status, refused["error"]["code"].as_str()), (400, Some("payment_intent_unexpected_state")));
}

#[tokio::test]
async fn a_card_that_needs_its_holder_fails_off_session_and_waits_on_session() {
    let (standin, api) = plain_standin().await;
    let customer = api.make("/v1/customers", &[]).await;
    let customer = customer["id"].as_str().unwrap();
    let method = api.make("/v1/payment_methods/pm_card_authenticationRequired/attach", &[("customer", customer)]).await;
    let form = [
        ("amount", "700"),
        ("currency", "usd"),
        ("customer", customer),
        ("payment_method", method["id"].as_str().unwrap()),
        ("confirm", "true"),
    ];
    let (status, body) = api.post("/v1/payment_intents", &[form.as_slice(), &[("off_session", "true")]].concat()).await;
    assert_eq!((status, body["error"]["code"].as_str()), (402, Some("authentication_required")));
    let waiting = api.make("/v1/payment_intents", &form).await;
    assert_eq!(waiting["status"], "requires_action");
    let paid = standin.control().authenticate(waiting["id"].as_str().unwrap(), true).await.unwrap();
    assert_eq!(paid["status"], "succeeded");
}

#[tokio::test]
async fn idempotency_keys_hold_for_a_day_and_for_one_request_only() {
    let clock = Arc::new(ManualClock::new("2026-03-01T00:00:00Z".parse::<Timestamp>().unwrap()));
    let (_standin, api) = standin(None, clock.clone()).await;
    let (_, first, replayed) = api.post_with_key("/v1/customers", &[("name", "a")], Some("k")).await;
    assert!(!replayed);
    let (status, again, replayed) = api.post_with_key("/v1/customers", &[("name", "a")], Some("k")).await;
    assert_eq!((status, &again, replayed), (200, &first, true));
    let (status, other, _) = api.post_with_key("/v1/customers", &[("name", "b")], Some("k")).await;
    assert_eq!((status, other["error"]["type"].as_str()), (400, Some("idempotency_error")));
    let (status, other, _) = api.post_with_key("/v1/setup_intents", &[("name", "a")], Some("k")).await;
    assert_eq!((status, other["error"]["type"].as_str()), (400, Some("idempotency_error")));
    // A request that was refused before anything happened may be corrected under its key.
    assert_eq!(api.post_with_key("/v1/customers", &[("nam", "a")], Some("k2")).await.0, 400);
    assert_eq!(api.post_with_key("/v1/customers", &[("name", "a")], Some("k2")).await.0, 200);
    clock.advance(SignedDuration::from_hours(24));
    let (_, later, replayed) = api.post_with_key("/v1/customers", &[("name", "a")], Some("k")).await;
    assert!(!replayed && later["id"] != first["id"]);
}

#[tokio::test]
async fn a_lost_answer_is_found_again_under_its_key() {
    let (standin, api) = plain_standin().await;
    let (_, method) = saved_card(&api).await;
    let customer = api.get("/v1/customers").await.1["data"][0]["id"].as_str().unwrap().to_owned();
    let form = [
        ("amount", "700"),
        ("currency", "usd"),
        ("customer", &customer),
        ("payment_method", &method),
        ("confirm", "true"),
    ];
    standin.control().add_fault(Fault::refuse(500, 1).on_path("/v1/payment_intents").after_the_work()).unwrap();
    assert_eq!(api.post_with_key("/v1/payment_intents", &form, Some("k")).await.0, 500);
    let (status, paid, replayed) = api.post_with_key("/v1/payment_intents", &form, Some("k")).await;
    assert_eq!((status, &paid["status"], replayed), (200, &json!("succeeded"), true));
    assert_eq!(api.get("/v1/charges").await.1["data"].as_array().unwrap().len(), 1);

    let (status, faults) = api.control("/faults", json!({ "status": 429, "times": 2, "path": "/v1/customers" })).await;
    assert_eq!((status, faults["faults"].as_array().unwrap().len()), (200, 1));
    let (status, refused) = api.get("/v1/customers").await;
    assert_eq!((status, refused["error"]["code"].as_str()), (429, Some("rate_limit")));
    assert_eq!(api.get("/v1/charges").await.0, 200);
    assert_eq!(api.get("/v1/customers").await.0, 429);
    assert_eq!(api.get("/v1/customers").await.0, 200);
}

#[tokio::test]
async fn what_is_wrong_is_refused_in_stripes_words() {
    let (_standin, api) = plain_standin().await;
    let base = &api.base;
    for request in [
        http().get(format!("{base}/v1/customers")),
        http().get(format!("{base}/v1/customers")).bearer_auth("sk_test_x"),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 401);
        assert_eq!(answer.json::<Value>().await.unwrap()["error"]["type"], "invalid_request_error");
    }
    let basic =
        http().get(format!("{base}/v1/customers")).basic_auth(KEY, Some("")).header("stripe-version", "2024-06-20");
    let answer = basic.send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["stripe-version"].to_str().unwrap()), (200, "2024-06-20"));
    assert!(answer.headers()["request-id"].to_str().unwrap().starts_with("req_"));
    let json = http().post(format!("{base}/v1/customers")).bearer_auth(KEY).json(&json!({})).send().await.unwrap();
    assert_eq!(json.status(), 400);

    let cases: [Case<'_>; 9] = [
        ("/v1/customers", &[("email", "no address")], 400, "email_invalid"),
        ("/v1/payment_intents", &[("amount", "49"), ("currency", "usd")], 400, "amount_too_small"),
        ("/v1/payment_intents", &[("amount", "1.5"), ("currency", "usd")], 400, "parameter_invalid_integer"),
        ("/v1/payment_intents", &[("currency", "usd")], 400, "parameter_missing"),
        (
            "/v1/payment_intents",
            &[("amount", "500"), ("currency", "usd"), ("customer", "cus_x")],
            400,
            "resource_missing",
        ),
        ("/v1/payment_intents/pi_x/confirm", &[], 404, "resource_missing"),
        ("/v1/refunds", &[("charge", "ch_x")], 400, "resource_missing"),
        ("/v1/billing_portal/sessions", &[("customer", "cus_x")], 400, "resource_missing"),
        ("/v1/setup_intents", &[("surprise", "1")], 400, "parameter_unknown"),
    ];
    for (path, form, status, code) in cases {
        let (got, body) = api.post(path, form).await;
        assert_eq!((got, body["error"]["code"].as_str()), (status, Some(code)), "{path} {form:?}");
    }
    assert_eq!(api.get("/v1/no/such/thing").await.0, 404);
    assert_eq!(api.get("/v1/customers?limit=101").await.0, 400);
    assert_eq!(api.get("/v1/customers?expand[]=data.email").await.0, 200, "no customers, nothing to expand");
    assert_eq!(api.get("/nothing").await.1["error"]["type"], "invalid_request_error");
    let evil = http().post(format!("{base}/_control/faults")).body("{\"status\":500}").send().await.unwrap();
    assert_eq!(evil.status(), 400, "a web page cannot send this without asking first");
}

#[tokio::test]
async fn sessions_expire_when_their_time_has_come() {
    let clock = Arc::new(ManualClock::new("2026-03-01T00:00:00Z".parse::<Timestamp>().unwrap()));
    let (standin, api) = standin(None, clock.clone()).await;
    let session = api.session(&[]).await;
    let id = session["id"].as_str().unwrap();
    clock.advance(SignedDuration::from_hours(24));
    assert_eq!(standin.control().pay(id, Payment::default()).await.unwrap_err().status, 400);
    let expired = until("the session to expire", async || {
        let (_, session) = api.get(&format!("/v1/checkout/sessions/{id}")).await;
        (session["status"] == "expired").then_some(session)
    });
    assert_eq!(expired.await["url"], Value::Null);
    let (_, events) = api.get("/v1/events?type=checkout.session.expired").await;
    assert_eq!(events["data"].as_array().unwrap().len(), 1);
    let (_, created) = api.get("/v1/checkout/sessions?created[gte]=1772323200&created[lt]=1772323201").await;
    assert_eq!(created["data"].as_array().unwrap().len(), 1);
    let (_, created) = api.get("/v1/checkout/sessions?created[gt]=1772323200").await;
    assert_eq!(created["data"].as_array().unwrap().len(), 0);
}
