use axum::body::Body;
use axum::http::{Method, StatusCode};
use wopr_api::routes::list;
use wopr_core::auth::Scope;

use crate::app::{As, TestApp};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_taken_encoded_decoded_and_only_with_its_signature() {
    let app = TestApp::start().await;
    let user = app.user("ann").await;
    let status = async |cookie: &str| {
        let cookie = format!("better-auth.session_token={cookie}");
        let headers = [("cookie", cookie.as_str())];
        app.request(Method::GET, "/trpc/settings.ping", &headers, Body::empty()).await.status
    };
    let encoded: String =
        percent_encoding::utf8_percent_encode(&user.cookie, percent_encoding::NON_ALPHANUMERIC).to_string();
    assert_eq!(status(&user.cookie).await, StatusCode::OK);
    assert_eq!(status(&encoded).await, StatusCode::OK);

    let (token, signature) = user.cookie.rsplit_once('.').unwrap();
    let stranger = app.user("bob").await;
    let (_, other_signature) = stranger.cookie.rsplit_once('.').unwrap();
    for forged in [token, &format!("{token}.{other_signature}"), &format!("x{token}.{signature}"), "a.b", "%", ""] {
        assert_eq!(status(forged).await, StatusCode::UNAUTHORIZED, "{forged}");
    }
    let bearer = app.query(As::Key(token), "settings.ping", &serde_json::json!({})).await;
    assert_eq!(bearer.status, StatusCode::UNAUTHORIZED, "a session token is no bearer");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tenant_header_cannot_choose_a_tenant() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let key = app.key(Some(ann.tenant()), Scope::Read).await;
    let operator = app.key(None, Scope::Admin).await;
    let ping = async |who: &str, tenant: &str| {
        let cookie = format!("better-auth.session_token={}", ann.cookie);
        let bearer = format!("Bearer {who}");
        let credential = if who.is_empty() { ("cookie", cookie.as_str()) } else { ("authorization", bearer.as_str()) };
        let headers = [credential, ("x-tenant-id", tenant)];
        app.request(Method::GET, "/trpc/settings.ping", &headers, Body::empty()).await
    };
    let (own, other) = (ann.tenant().to_string(), bob.tenant().to_string());
    for who in ["", key.as_str()] {
        assert_eq!(ping(who, &own).await.data()["tenantId"], own);
        for tenant in [other.as_str(), "*", "not-an-id", &own.to_uppercase()] {
            let refused = ping(who, tenant).await;
            assert_eq!(refused.status, StatusCode::FORBIDDEN, "{tenant}");
            assert_eq!(refused.json()["error"]["message"], "Not authorized for this tenant");
        }
    }
    assert_eq!(ping(&operator, &other).await.status, StatusCode::OK, "an operator may name any");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_bearer_is_not_saved_by_a_good_cookie() {
    let app = TestApp::start().await;
    let user = app.user("ann").await;
    let cookie = format!("better-auth.session_token={}", user.cookie);
    let headers = [("cookie", cookie.as_str()), ("authorization", "Bearer wopr_admin_nope")];
    let answer = app.request(Method::GET, "/trpc/settings.ping", &headers, Body::empty()).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_tokens_have_their_scope_and_tenant() {
    let (platform, tenant_token) = ("operator-token-of-the-platform", "a-token-of-that-one-tenant");
    let tenant = "0190c6a7b5e77c0a9d3c2b1a00112233";
    let app = TestApp::start_with(&[
        ("FLEET_API_TOKEN", platform),
        (&format!("FLEET_TOKEN_{tenant}"), &format!("write:{tenant_token}")),
    ])
    .await;
    let ping = async |key: &str| app.query(As::Key(key), "settings.ping", &serde_json::json!({})).await;
    assert_eq!(ping(platform).await.data()["tenantId"], serde_json::Value::Null);
    assert_eq!(ping(tenant_token).await.data()["tenantId"], tenant);
    assert_eq!(ping("neither").await.status, StatusCode::UNAUTHORIZED);
}

/// Nothing that needs somebody answers nobody, whatever is asked; taken from the routes themselves.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_needs_a_caller_refuses_nobody_and_forgers() {
    let app = TestApp::start().await.with_many_clients();
    for entry in list().iter().filter(|entry| entry.access != "public") {
        for who in [As::Nobody, As::Key("wopr_admin_00000000000000000000000000000000")] {
            let answer = match entry.method.as_str() {
                "query" => app.query(who, &entry.path, &serde_json::json!({})).await,
                "mutation" => app.mutate(who, &entry.path, &serde_json::json!({})).await,
                method => {
                    let path = entry.path.replace(['{', '}'], "x");
                    let method = Method::from_bytes(method.as_bytes()).unwrap();
                    let body = (method != Method::GET).then(|| serde_json::json!({}));
                    app.call(who, method, &path, body.as_ref()).await
                }
            };
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{entry} {who:?} {:?}", answer.json());
        }
    }
}
