//! Whatever is sent, nothing fails with 500: it is refused, or it is done.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use wopr_api::routes::list;
use wopr_core::auth::Scope;

use crate::app::{As, TestApp};
use crate::payments::STRIPE;

/// Keys that inputs have, whatever the procedure.
const KEYS: [&str; 28] = [
    "id",
    "tenant",
    "tenantId",
    "limit",
    "offset",
    "from",
    "to",
    "type",
    "name",
    "image",
    "description",
    "env",
    "priceId",
    "successUrl",
    "cancelUrl",
    "returnUrl",
    "action",
    "tail",
    "label",
    "scope",
    "email",
    "password",
    "currentPassword",
    "newPassword",
    "tier",
    "startDate",
    "reason",
    "keyId",
];

fn hostile_values() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e308),
        json!(0.5),
        json!(""),
        json!("\u{0}"),
        json!("a\u{0}b"),
        json!("'; DROP TABLE users; --"),
        json!("../../etc/passwd"),
        json!("\u{202e}\u{fffd}💥"),
        json!("x".repeat(20_000)),
        json!("0190c6a7-b5e7-7c0a-9d3c-2b1a00112233"),
        json!("0190c6a7b5e77c0a9d3c2b1a00112233"),
        json!("http://localhost:3000/dashboard"),
        json!([]),
        json!([[[[]]]]),
        json!({"a": {"b": null}}),
    ]
}

/// Each value as the whole input, and for all keys at once.
fn wholes() -> Vec<Value> {
    let all = |value: &Value| KEYS.iter().map(|key| ((*key).to_owned(), value.clone())).collect();
    hostile_values().into_iter().flat_map(|value| [Value::Object(all(&value)), value]).collect()
}

/// One bad key among plausible neighbours, so that the check of one does not hide that of the next.
fn singles() -> Vec<Value> {
    let plausible = json!({
        "id": "0190c6a7-b5e7-7c0a-9d3c-2b1a00112233", "name": "bot", "image": "wopr-network/wopr:latest",
        "description": "", "priceId": "price_25", "successUrl": "http://localhost:3000/", "limit": 1,
        "cancelUrl": "http://localhost:3000/", "returnUrl": "http://localhost:3000/", "action": "start",
        "label": "x", "scope": "read", "email": "ann@example.com", "password": "Testpass1",
    });
    let values = [json!("a\u{0}b"), json!(i64::MAX), json!({"a": "\u{0}"})];
    let single = |key: &str, value: Value| {
        let mut input = plausible.clone();
        input[key] = value;
        input
    };
    KEYS.iter().flat_map(|key| values.clone().map(|value| single(key, value))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_input_of_a_procedure_is_answered_with_500() {
    let app = TestApp::start_with(&STRIPE).await.with_many_clients();
    let (user, operator) = (app.user("ann").await, app.key(None, Scope::Admin).await);
    let (wholes, singles) = (wholes(), singles());
    for entry in list().iter().filter(|entry| matches!(entry.method.as_str(), "query" | "mutation")) {
        let as_user = wholes.iter().chain(&singles).map(|input| (As::User(&user), input));
        for (who, input) in as_user.chain(wholes.iter().map(|input| (As::Key(&operator), input))) {
            let answer = match entry.method.as_str() {
                // A longer one is no request target any more.
                "query" if input.to_string().len() > 60_000 => continue,
                "query" => app.query(who, &entry.path, input).await,
                _ => app.mutate(who, &entry.path, input).await,
            };
            let status = answer.status;
            assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{entry} {who:?} {:.200}", input.to_string());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_body_or_path_of_a_route_is_answered_with_500() {
    let app = TestApp::start_with(&STRIPE).await.with_many_clients();
    let user = app.user("ann").await;
    let segments = ["0190c6a7-b5e7-7c0a-9d3c-2b1a00112233", "x", "%00", "%FF", "..%2F..", "%F0%9F%92%A5"];
    let queries = ["", "?tail=-1&limit=99999999999999999999&removeVolumes=maybe", "?%00=%FF&tenant=%00&token=%00"];
    let bodies: Vec<Value> = wholes().into_iter().chain(singles()).collect();
    for entry in list().iter().filter(|entry| !matches!(entry.method.as_str(), "query" | "mutation")) {
        let method = Method::from_bytes(entry.method.as_bytes()).unwrap();
        let variable = entry.path.contains('{');
        for segment in segments.iter().take(if variable { segments.len() } else { 1 }) {
            for query in queries {
                let path = format!("{}{query}", fill(&entry.path, segment));
                let answer = app.call(As::User(&user), method.clone(), &path, None).await;
                assert_ne!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{method} {path}");
            }
        }
        if method == Method::GET {
            continue;
        }
        let path = fill(&entry.path, "0190c6a7-b5e7-7c0a-9d3c-2b1a00112233");
        for body in &bodies {
            let answer = app.call(As::User(&user), method.clone(), &path, Some(body)).await;
            assert_ne!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{entry} {:.200}", body.to_string());
        }
    }
}

/// Puts a value into every variable part of a path.
fn fill(path: &str, value: &str) -> String {
    let part = |part: &str| if part.starts_with('{') { value.to_owned() } else { part.to_owned() };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_make_no_sense_are_survived() {
    let app = TestApp::start().await;
    let long = "x".repeat(16_000);
    let values: [&[u8]; 7] = [b"", b"\xff\xfe", b"\"", b";=;=;", b"null", long.as_bytes(), b"%00%FF"];
    let names = [
        "authorization",
        "cookie",
        "origin",
        "referer",
        "x-forwarded-for",
        "x-request-id",
        "x-tenant-id",
        "content-type",
        "content-length",
        "trpc-accept",
        "accept-encoding",
        "user-agent",
        "stripe-signature",
    ];
    let mut sent = 0_u32;
    for name in names {
        for value in values {
            for (method, path) in
                [(Method::GET, "/trpc/settings.ping"), (Method::POST, "/trpc/no.such"), (Method::GET, "/health")]
            {
                let mut request = Request::builder().method(method.clone()).uri(path).header(name, value);
                // Walked as what a trusted proxy sent; each with a counter of its own.
                sent += 1;
                if name != "x-forwarded-for" {
                    request = request.header("x-forwarded-for", format!("198.18.{}.{}", sent / 256, sent % 256));
                }
                let answer = app.send_from("10.0.0.9".parse().unwrap(), request.body(Body::empty()).unwrap()).await;
                assert!(!answer.status.is_server_error(), "{method} {path} {name}: {value:?} {}", answer.status);
                assert_eq!(answer.header("x-content-type-options"), "nosniff");
            }
        }
    }
}
