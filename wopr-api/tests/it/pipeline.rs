use axum::body::Body;
use axum::http::{Method, StatusCode};

use crate::app::{ORIGIN, TestApp};

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_carries_its_id_and_the_security_headers() {
    let app = TestApp::start().await;
    for path in ["/health", "/no/such/path", "/trpc/no.such", "/api/auth/no-such"] {
        let answer = app.request(Method::GET, path, &[("x-request-id", "client-chosen-1")], Body::empty()).await;
        assert_eq!(answer.header("x-request-id"), "client-chosen-1", "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("strict-transport-security"), "max-age=15552000; includeSubDomains", "{path}");
    }
    let own = app.request(Method::GET, "/health", &[("x-request-id", "x\ty")], Body::empty()).await;
    assert_eq!(own.header("x-request-id").len(), 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_surface_says_not_found_in_its_own_shape() {
    let app = TestApp::start().await;
    let problem = app.get("/no/such/path").await;
    assert_eq!(problem.status, StatusCode::NOT_FOUND);
    assert_eq!(problem.header("content-type"), "application/problem+json");
    assert_eq!(problem.json()["code"], "ROUTE_NOT_FOUND");
    let auth = app.get("/api/auth/no-such").await;
    assert_eq!((auth.status, auth.body.len()), (StatusCode::NOT_FOUND, 0));
    let fleet = app.get("/fleet/no-such").await;
    assert_eq!(fleet.json(), serde_json::json!({"error": "Not found"}));
    let method = app.request(Method::DELETE, "/health", &[], Body::empty()).await;
    assert_eq!((method.status, method.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET,HEAD"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_configured_pages_may_read() {
    let app = TestApp::start().await;
    let preflight = [("origin", ORIGIN), ("access-control-request-method", "POST")];
    let answer = app.request(Method::OPTIONS, "/trpc/a.b", &preflight, Body::empty()).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::NO_CONTENT, 0));
    assert_eq!(answer.header("access-control-allow-origin"), ORIGIN);
    assert!(answer.header("access-control-allow-headers").contains("trpc-accept"));
    let stranger = app.request(Method::GET, "/health", &[("origin", "http://evil.example")], Body::empty()).await;
    assert_eq!(stranger.header("access-control-allow-origin"), "");
    assert!(stranger.headers.get_all("vary").iter().any(|value| value == "Origin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_only_writes_from_a_trusted_page() {
    let app = TestApp::start().await;
    let send = async |headers: &[(&str, &str)]| {
        let mut all = vec![("cookie", "better-auth.session_token=a.b"), ("content-type", "application/json")];
        all.extend(headers);
        app.request(Method::POST, "/trpc/no.such", &all, Body::empty()).await
    };
    assert_eq!(send(&[("origin", ORIGIN)]).await.status, StatusCode::NOT_FOUND);
    assert_eq!(send(&[("origin", "http://localhost:3100")]).await.status, StatusCode::NOT_FOUND);
    assert_eq!(send(&[("referer", "http://localhost:3000/page?x=1")]).await.status, StatusCode::NOT_FOUND);
    assert_eq!(send(&[("authorization", "Bearer x")]).await.status, StatusCode::NOT_FOUND);
    for headers in [
        &[][..],
        &[("origin", "null")],
        &[("origin", "http://localhost:3000.evil.example")],
        &[("origin", "http://evil.example"), ("referer", "http://localhost:3000/")],
        &[("referer", "http://evil.example/http://localhost:3000")],
    ] {
        let answer = send(headers).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{headers:?}");
        assert_eq!(answer.json()["error"]["code"], -32003, "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_answers_are_compressed_for_whoever_asks() {
    let app = TestApp::start().await;
    let plain = app.get("/openapi.json").await;
    let packed = app.request(Method::GET, "/openapi.json", &[("accept-encoding", "gzip")], Body::empty()).await;
    assert_eq!((plain.header("content-encoding"), packed.header("content-encoding")), ("", "gzip"));
    assert!(packed.body.len() < plain.body.len());
}
