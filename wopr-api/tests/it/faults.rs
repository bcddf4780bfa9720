//! What goes wrong around a handler rather than in it.

use std::convert::Infallible;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Method, Request, Response, StatusCode};
use axum::routing::{get, post};
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use wopr_api::AppState;
use wopr_api::error::ApiError;
use wopr_api::extract::{Json, Path, Query};

use crate::app::TestApp;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    #[expect(dead_code, reason = "only read from the wire")]
    name: String,
    #[serde(default)]
    #[expect(dead_code, reason = "only read from the wire")]
    ports: Vec<u16>,
}

/// Routes that fail on purpose, under paths of every surface.
fn faults() -> Router<AppState> {
    let mut router = Router::new();
    for prefix in ["/trpc-like", "/fleet", "/api/auth", "/internal", "/api/other"] {
        router = router
            .route(&format!("{prefix}/panic"), get(async || -> &'static str { panic!("password=hunter2") }))
            .route(&format!("{prefix}/slow"), get(async || std::future::pending::<&'static str>().await))
            .route(
                &format!("{prefix}/cause"),
                get(async || -> ApiError { ApiError::internal(std::io::Error::other("hunter2")) }),
            )
            .route(&format!("{prefix}/json"), post(async |Json(_): Json<Input>| "ok"))
            .route(&format!("{prefix}/query"), get(async |Query(_): Query<Input>| "ok"))
            .route(&format!("{prefix}/path/{{number}}"), get(async |Path(_): Path<u8>| "ok"));
    }
    router
}

async fn start() -> (TestApp, Router) {
    let app = TestApp::start_with(&[("REQUEST_TIMEOUT_SECONDS", "1")]).await;
    let router = wopr_api::pipeline::around(faults(), &app.state).with_state(app.state.clone());
    (app, router)
}

async fn send(router: &Router, method: Method, path: &str, content_type: &str, body: Body) -> (StatusCode, Value) {
    let mut request = Request::builder().method(method).uri(path).header("x-request-id", "the-request");
    if !content_type.is_empty() {
        request = request.header("content-type", content_type);
    }
    let response: Response<Body> = router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!(parts.headers["x-request-id"], "the-request");
    assert!(!String::from_utf8_lossy(&body).contains("hunter2"), "{path} tells the cause");
    (parts.status, serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body:?}")))
}

const MESSAGE: &str = "An unexpected error occurred while processing your request";

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_and_an_inner_error_are_500_in_the_surface_s_shape() {
    let (_app, router) = start().await;
    for fault in ["panic", "cause"] {
        let get =
            async |prefix: &str| send(&router, Method::GET, &format!("{prefix}/{fault}"), "", Body::empty()).await;
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        let id = "the-request";
        let contract = json!({"error": "Internal server error", "message": MESSAGE, "requestId": id});
        assert_eq!(get("/fleet").await, (status, contract));
        let auth = json!({"code": "INTERNAL_SERVER_ERROR", "message": MESSAGE, "requestId": id});
        assert_eq!(get("/api/auth").await, (status, auth));
        let internal = json!({"success": false, "error": MESSAGE, "requestId": id});
        assert_eq!(get("/internal").await, (status, internal));
        let problem = json!({
            "type": "about:blank", "title": "Internal Server Error", "status": 500,
            "detail": MESSAGE, "code": "INTERNAL_SERVER_ERROR", "requestId": id,
        });
        assert_eq!(get("/api/other").await, (status, problem));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_takes_too_long_is_given_up() {
    let (_app, router) = start().await;
    let (status, body) = send(&router, Method::GET, "/fleet/slow", "", Body::empty()).await;
    assert_eq!(
        (status, body),
        (StatusCode::GATEWAY_TIMEOUT, json!({"error": "The request took too long and was given up"}))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_breaks_or_never_ends_is_refused() {
    let (app, router) = start().await;
    let first = || futures_util::stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b"{\"name\":")) });
    let stalled = || Body::from_stream(first().chain(futures_util::stream::pending()));
    let (status, _) = send(&router, Method::POST, "/fleet/json", "application/json", stalled()).await;
    assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
    let answer = app.request(Method::POST, "/trpc/a.b", &[("content-type", "application/json")], stalled()).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (StatusCode::REQUEST_TIMEOUT, &json!(-32008)));

    let endless = futures_util::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[b' '; 4096])));
    let (status, body) =
        send(&router, Method::POST, "/fleet/json", "application/json", Body::from_stream(endless)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(body["error"].as_str().unwrap().contains("1048576"));

    let broken = futures_util::stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("reset"))]);
    let (status, _) = send(&router, Method::POST, "/fleet/json", "application/json", Body::from_stream(broken)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_does_not_fit_says_where() {
    let (_app, router) = start().await;
    let post = async |body: &str| {
        send(&router, Method::POST, "/fleet/json", "application/json; charset=utf-8", Body::from(body.to_owned())).await
    };
    let invalid = |fields: Value, form: Value| {
        let body = json!({"error": "Validation failed", "details": {"formErrors": form, "fieldErrors": fields}});
        (StatusCode::BAD_REQUEST, body)
    };
    assert_eq!(post("{}").await, invalid(json!({"name": ["Required"]}), json!([])));
    let wrong = post(r#"{"name": 1}"#).await.1;
    assert!(wrong["details"]["fieldErrors"]["name"][0].as_str().unwrap().starts_with("invalid type"), "{wrong}");
    let nested = post(r#"{"name": "a", "ports": [1, 70000]}"#).await.1;
    assert!(nested["details"]["fieldErrors"]["ports"][0].as_str().unwrap().starts_with("invalid value"), "{nested}");
    assert_eq!(post(r#"{"name": "a", "other": 1}"#).await.0, StatusCode::BAD_REQUEST);
    for malformed in ["", "{", "{\"name\": \"a\"} x", "\u{feff}{}", "{'name': 1}", "NaN", "{\"name\": \"\\ud800\"}"] {
        let (status, body) = post(malformed).await;
        assert_eq!((status, body), (StatusCode::BAD_REQUEST, json!({"error": "Invalid JSON body"})), "{malformed}");
    }
    let deep = post(&"[".repeat(100_000)).await;
    assert_eq!(deep.0, StatusCode::BAD_REQUEST);
    for content_type in ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"] {
        let (status, _) = send(&router, Method::POST, "/fleet/json", content_type, Body::from("{}")).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{content_type}");
    }
    assert_eq!(send(&router, Method::GET, "/fleet/query?nome=a", "", Body::empty()).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(send(&router, Method::GET, "/fleet/path/300", "", Body::empty()).await.0, StatusCode::BAD_REQUEST);
}
