//! Whatever is sent, nothing fails with 500: it is refused, or it is done.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use jiff::SignedDuration;
use serde_json::{Value, json};
use wopr_api::routes::list;
use wopr_core::auth::Scope;

use crate::app::{As, TestApp};

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

/// Each value as the whole input, for one key, and for all keys at once.
fn inputs() -> Vec<Value> {
    let mut inputs = Vec::new();
    for value in hostile_values() {
        inputs.push(Value::Object(KEYS.iter().map(|key| ((*key).to_owned(), value.clone())).collect()));
        inputs.push(value);
    }
    // Each key alone among plausible neighbours, so that the check of one does not hide that of the next.
    let plausible = json!({
        "id": "0190c6a7-b5e7-7c0a-9d3c-2b1a00112233", "name": "bot", "image": "wopr-network/wopr:latest",
        "description": "", "priceId": "price_1", "successUrl": "http://localhost:3000/", "limit": 1,
        "cancelUrl": "http://localhost:3000/", "returnUrl": "http://localhost:3000/", "action": "start",
        "label": "x", "scope": "read",
    });
    for key in KEYS {
        for value in [json!("a\u{0}b"), json!(i64::MAX), json!(-1), json!("x".repeat(20_000)), json!({"a": "\u{0}"})] {
            let mut input = plausible.clone();
            input[key] = value;
            inputs.push(input);
        }
    }
    inputs
}

#[tokio::test(flavor = "multi_thread")]
async fn no_input_of_a_procedure_is_answered_with_500() {
    let app = TestApp::start().await;
    let (user, operator) = (app.user("ann").await, app.key(None, Scope::Admin).await);
    for entry in list().iter().filter(|entry| matches!(entry.method.as_str(), "query" | "mutation")) {
        for (number, input) in inputs().iter().enumerate() {
            // The windows of the limits are minutes long, but the tests do not wait for them.
            if number % 4 == 0 {
                app.clock.advance(SignedDuration::from_mins(1));
            }
            for who in [As::User(&user), As::Key(&operator)] {
                let answer = match entry.method.as_str() {
                    "query" if input.to_string().len() < 60_000 => app.query(who, &entry.path, input).await,
                    "query" => continue,
                    _ => app.mutate(who, &entry.path, input).await,
                };
                assert_ne!(
                    answer.status,
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "{entry} {who:?} {:.200}",
                    input.to_string()
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_body_or_path_of_a_route_is_answered_with_500() {
    let app = TestApp::start().await;
    let user = app.user("ann").await;
    let paths = ["0190c6a7-b5e7-7c0a-9d3c-2b1a00112233", "x", "%00", "%FF", "..%2F..", "%F0%9F%92%A5"];
    for entry in list().iter().filter(|entry| !matches!(entry.method.as_str(), "query" | "mutation")) {
        let method = Method::from_bytes(entry.method.as_bytes()).unwrap();
        for segment in paths {
            let mut path = String::new();
            for part in entry.path.split_inclusive('/') {
                let part = if part.starts_with('{') {
                    part.replace(part.trim_end_matches('/'), segment)
                } else {
                    part.to_owned()
                };
                path.push_str(&part);
            }
            for query in ["", "?tail=-1&limit=99999999999999999999&removeVolumes=maybe", "?%00=%FF&tenant=%00"] {
                app.clock.advance(SignedDuration::from_mins(20));
                let path = format!("{path}{query}");
                let answer = app.call(As::User(&user), method.clone(), &path, None).await;
                assert_ne!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{method} {path}");
            }
            if method == Method::GET {
                break;
            }
        }
        if method == Method::GET {
            continue;
        }
        let path = entry.path.replace(['{', '}'], "");
        for (number, input) in inputs().iter().enumerate() {
            if number % 2 == 0 {
                app.clock.advance(SignedDuration::from_hours(1));
            }
            let answer = app.call(As::User(&user), method.clone(), &path, Some(input)).await;
            assert_ne!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{entry} {:.200}", input.to_string());
        }
    }
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
    for name in names {
        for value in values {
            for (method, path) in
                [(Method::GET, "/trpc/settings.ping"), (Method::POST, "/trpc/no.such"), (Method::GET, "/health")]
            {
                let mut request = axum::http::Request::builder().method(method.clone()).uri(path);
                request = request.header(name, value);
                let answer = app.send_from("10.0.0.9".parse().unwrap(), request.body(Body::empty()).unwrap()).await;
                app.clock.advance(SignedDuration::from_secs(5));
                assert!(!answer.status.is_server_error(), "{method} {path} {name}: {value:?} {}", answer.status);
                assert_eq!(answer.header("x-content-type-options"), "nosniff");
            }
        }
    }
}
