use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::{Method, StatusCode, header};
use jiff::SignedDuration;
use serde_json::{Value, json};
use wopr_core::auth::Scope;
use wopr_core::money::Money;

use crate::app::{Answer, As, ORIGIN, TestApp};

const PASSWORD: &str = "Testpass1";
const SESSION: &str = "better-auth.session_token";

/// A browser on a page of ours: it keeps cookies and says where it is.
struct Browser<'a> {
    app: &'a TestApp,
    jar: BTreeMap<String, String>,
}

impl<'a> Browser<'a> {
    fn new(app: &'a TestApp) -> Self {
        Self { app, jar: BTreeMap::new() }
    }

    /// A browser whose user has just signed up.
    async fn signed_up(app: &'a TestApp, email: &str) -> Self {
        let mut browser = Self::new(app);
        let answer = browser.sign_up(email).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        browser
    }

    async fn sign_up(&mut self, email: &str) -> Answer {
        self.post("/api/auth/sign-up/email", json!({ "name": "Ann", "email": email, "password": PASSWORD })).await
    }

    async fn sign_in(&mut self, email: &str, password: &str) -> Answer {
        self.post("/api/auth/sign-in/email", json!({ "email": email, "password": password })).await
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    async fn post(&mut self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await
    }

    async fn session(&mut self) -> Value {
        let answer = self.get("/api/auth/get-session").await;
        assert_eq!(answer.status, StatusCode::OK);
        answer.json()
    }

    async fn call(&mut self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let cookie: Vec<String> = self.jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookie = cookie.join("; ");
        let mut headers = vec![("origin", ORIGIN), ("user-agent", "test")];
        if !cookie.is_empty() {
            headers.push(("cookie", &cookie));
        }
        if body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let answer = self.app.request(method, path, &headers, body).await;
        for cookie in cookies(&answer) {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            if cookie.contains("Max-Age=0") {
                self.jar.remove(name);
            } else {
                self.jar.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }
}

fn cookies(answer: &Answer) -> Vec<String> {
    answer.headers.get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

/// Set-Cookie headers with their values blanked, of which only the shape is the same every time.
fn cookie_shapes(answer: &Answer) -> Vec<String> {
    cookies(answer)
        .into_iter()
        .map(|cookie| {
            let (name, rest) = cookie.split_once('=').unwrap();
            let (value, attributes) = rest.split_once(';').unwrap();
            format!("{name}=<{}>;{attributes}", value.len().min(1))
        })
        .collect()
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status.as_u16(), answer.json()["code"].as_str().unwrap_or_default().to_owned())
}

/// The link in the last mail of a template, without the part before the path.
async fn mailed_link(app: &TestApp, template: &str, recipient: &str) -> String {
    app.state.notifier.deliver().await.unwrap();
    let mail = app.mailer.last(template, recipient).unwrap();
    let link = mail.text_body.lines().find(|line| line.starts_with("http://localhost:3100/")).unwrap();
    link.trim_start_matches("http://localhost:3100").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_signs_in_at_once() {
    let app = TestApp::start().await;
    let mut browser = Browser::new(&app);
    let answer = browser.sign_up("TestUser@example.com").await;
    assert_eq!(answer.status, StatusCode::OK);
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    assert!(token.len() == 32 && token.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    insta::assert_json_snapshot!("sign_up", answer.json(), { ".token" => "<token>", ".user.id" => "<id>" });
    assert_eq!(
        cookie_shapes(&answer),
        ["better-auth.session_token=<1>; Max-Age=604800; Path=/; HttpOnly; SameSite=Lax"]
    );
    assert!(browser.jar[SESSION].starts_with(&format!("{token}.")));

    let session = browser.session().await;
    assert_eq!(session["session"]["token"], token, "the official client reads it");
    insta::assert_json_snapshot!("get_session", session.clone(), {
        ".session.id" => "<id>", ".session.token" => "<token>", ".session.userId" => "<id>", ".user.id" => "<id>",
    });
    let tenant = session["user"]["id"].as_str().unwrap();
    assert!(tenant.len() == 32 && tenant.bytes().all(|byte| byte.is_ascii_alphanumeric()));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_by_name() {
    let app = TestApp::start().await;
    let mut browser = Browser::new(&app);
    let mut refuse = async |body: Value| {
        let answer = browser.post("/api/auth/sign-up/email", body).await;
        assert!(cookies(&answer).is_empty());
        (answer.status.as_u16(), answer.json())
    };
    let answers = [
        refuse(json!({})).await,
        refuse(json!({ "name": "Ann", "email": "nobody", "password": PASSWORD })).await,
        refuse(json!({ "name": 1, "email": "ann@example.com", "password": PASSWORD })).await,
        refuse(json!({ "name": "Ann", "email": "ann@example.com", "password": "1234567" })).await,
        refuse(json!({ "name": "Ann", "email": "ann@example.com", "password": "x".repeat(129) })).await,
        refuse(json!({ "name": "a\u{0}b", "email": "ann@example.com", "password": PASSWORD })).await,
        refuse(json!([])).await,
        refuse(json!({
            "name": "Ann", "email": "ann@example.com", "password": PASSWORD, "callbackURL": "https://evil.example",
        }))
        .await,
    ];
    insta::assert_json_snapshot!("bad_sign_ups", answers);
    let malformed = app
        .request(
            Method::POST,
            "/api/auth/sign-in/email",
            &[("content-type", "application/json")],
            Body::from("{\"email\":"),
        )
        .await;
    assert_eq!(code(&malformed), (400, "VALIDATION_ERROR".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_signs_up_once() {
    let app = TestApp::start().await;
    Browser::signed_up(&app, "ann@example.com").await;
    let again = Browser::new(&app).sign_up("ANN@example.com").await;
    assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY);
    let want = json!({
        "code": "USER_ALREADY_EXISTS_USE_ANOTHER_EMAIL",
        "message": "User already exists. Use another email.",
    });
    assert_eq!(again.json(), want);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_needs_the_right_password_and_tells_nothing_else() {
    let app = TestApp::start().await;
    Browser::signed_up(&app, "ann@example.com").await;
    let mut browser = Browser::new(&app);
    let wrong = browser.sign_in("ann@example.com", "Testpass2").await;
    let unknown = browser.sign_in("bob@example.com", PASSWORD).await;
    assert_eq!(code(&wrong), (401, "INVALID_EMAIL_OR_PASSWORD".to_owned()));
    assert_eq!((unknown.status, unknown.json()), (wrong.status, wrong.json()));
    let address = browser.sign_in("nobody", PASSWORD).await;
    assert_eq!(code(&address), (400, "INVALID_EMAIL".to_owned()));
    assert_eq!(browser.session().await, Value::Null);

    let body = json!({ "email": "ann@example.com", "password": PASSWORD, "callbackURL": "/dashboard" });
    let answer = browser.post("/api/auth/sign-in/email", body).await;
    assert_eq!((answer.status, answer.header("location")), (StatusCode::OK, "/dashboard"));
    insta::assert_json_snapshot!("sign_in", answer.json(), { ".token" => "<token>", ".user.id" => "<id>" });
    assert_eq!(browser.session().await["user"]["email"], "ann@example.com");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sixth_sign_in_has_to_wait() {
    let app = TestApp::start().await;
    let mut browser = Browser::new(&app);
    for number in 0..5 {
        let answer = browser.sign_in(&format!("user{number}@example.com"), PASSWORD).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    let refused = browser.sign_in("ann@example.com", PASSWORD).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.json(), json!({ "message": "Too many requests. Please try again later." }));
    assert_eq!((refused.header("retry-after"), refused.header("x-retry-after")), ("900", "900"));
    app.clock.advance(SignedDuration::from_mins(15));
    assert_eq!(browser.sign_in("ann@example.com", PASSWORD).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_an_expired_and_no_cookie_are_no_session() {
    let app = TestApp::start().await;
    let mut browser = Browser::signed_up(&app, "ann@example.com").await;
    let good = browser.jar[SESSION].clone();
    let token = good.split('.').next().unwrap().to_owned();
    let flipped = if good.starts_with('A') { good.replacen('A', "B", 1) } else { format!("A{}", &good[1..]) };
    for forged in [token.as_str(), &flipped, &good[..good.len() - 6], "x.y", ""] {
        browser.jar.insert(SESSION.to_owned(), forged.to_owned());
        let answer = browser.get("/api/auth/get-session").await;
        assert_eq!((answer.status, answer.json()), (StatusCode::OK, Value::Null), "{forged}");
        assert_eq!(cookie_shapes(&answer).len(), 2, "it is taken away");
        browser.jar.insert(SESSION.to_owned(), forged.to_owned());
        let answer = browser.get("/api/auth/list-sessions").await;
        assert_eq!((answer.status, answer.body.as_slice()), (StatusCode::UNAUTHORIZED, &b""[..]), "{forged}");
    }
    let bearer = [("authorization", format!("Bearer {token}"))];
    let bearer: Vec<_> = bearer.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let answer = app.request(Method::GET, "/api/auth/get-session", &bearer, Body::empty()).await;
    assert_eq!(answer.json(), Value::Null, "a session's token is no bearer");

    browser.jar.insert(SESSION.to_owned(), good);
    assert_ne!(browser.session().await, Value::Null);
    app.clock.advance(SignedDuration::from_hours(7 * 24));
    let answer = browser.get("/api/auth/get-session").await;
    assert_eq!(answer.json(), Value::Null);
    assert!(browser.jar.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn using_a_session_extends_it_unless_it_is_not_to_be_remembered() {
    let app = TestApp::start().await;
    let mut browser = Browser::signed_up(&app, "ann@example.com").await;
    let mut forgetful = Browser::new(&app);
    let body = json!({ "email": "ann@example.com", "password": PASSWORD, "rememberMe": false });
    let answer = forgetful.post("/api/auth/sign-in/email", body).await;
    let want = [
        "better-auth.session_token=<1>; Path=/; HttpOnly; SameSite=Lax",
        "better-auth.dont_remember=<1>; Path=/; HttpOnly; SameSite=Lax",
    ];
    assert_eq!(cookie_shapes(&answer), want);
    app.clock.advance(SignedDuration::from_hours(23));
    assert!(cookies(&browser.get("/api/auth/get-session").await).is_empty());
    assert_ne!(forgetful.session().await, Value::Null);
    app.clock.advance(SignedDuration::from_hours(1));
    assert_eq!(forgetful.session().await, Value::Null);
    let kept = browser.get("/api/auth/get-session?disableRefresh=true").await;
    assert!(cookies(&kept).is_empty());
    assert_eq!(kept.json()["session"]["expiresAt"], "2027-01-22T08:00:00.000Z");
    let extended = browser.get("/api/auth/get-session").await;
    assert_eq!(extended.json()["session"]["expiresAt"], "2027-01-23T08:00:00.000Z");
    assert_eq!(cookie_shapes(&extended).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_out_ends_the_session_and_not_only_the_cookie() {
    let app = TestApp::start().await;
    let mut browser = Browser::signed_up(&app, "ann@example.com").await;
    let kept = browser.jar.clone();
    let answer = browser.post("/api/auth/sign-out", json!({})).await;
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({ "success": true })));
    let want = [
        "better-auth.session_token=<0>; Max-Age=0; Path=/; HttpOnly; SameSite=Lax",
        "better-auth.dont_remember=<0>; Max-Age=0; Path=/; HttpOnly; SameSite=Lax",
    ];
    assert_eq!(cookie_shapes(&answer), want);
    browser.jar = kept;
    assert_eq!(browser.session().await, Value::Null);
    assert_eq!(browser.call(Method::POST, "/api/auth/sign-out", None).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_without_the_others_tokens_and_revoked() {
    let app = TestApp::start().await;
    let mut ann = Browser::signed_up(&app, "ann@example.com").await;
    let (mut phone, mut tablet) = (Browser::new(&app), Browser::new(&app));
    let phone_token = phone.sign_in("ann@example.com", PASSWORD).await.json()["token"].clone();
    tablet.sign_in("ann@example.com", PASSWORD).await;
    let own = ann.session().await["session"]["token"].clone();
    let listed = ann.get("/api/auth/list-sessions").await.json();
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 3);
    assert_eq!(listed.iter().filter(|session| session["token"] == own).count(), 1);
    assert!(listed.iter().all(|session| session["token"] != phone_token));
    let phone_id = phone.session().await["session"]["id"].clone();
    let named = listed.iter().find(|session| session["id"] == phone_id).unwrap()["token"].clone();
    // What is listed revokes, but lets nobody in.
    let cookie = app.state.session_keys.seal(named.as_str().unwrap());
    let mut thief = Browser::new(&app);
    thief.jar.insert(SESSION.to_owned(), cookie);
    assert_eq!(thief.session().await, Value::Null);
    let answer = ann.post("/api/auth/revoke-session", json!({ "token": named })).await;
    assert_eq!(answer.json(), json!({ "status": true }));
    assert_eq!(phone.session().await, Value::Null);
    assert_ne!(tablet.session().await, Value::Null);
    ann.post("/api/auth/revoke-other-sessions", json!({})).await;
    assert_eq!(tablet.session().await, Value::Null);
    assert_ne!(ann.session().await, Value::Null);
    ann.post("/api/auth/revoke-sessions", json!({})).await;
    assert_eq!(ann.session().await, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_password_is_replaced_by_mail() {
    let app = TestApp::start().await;
    let mut ann = Browser::signed_up(&app, "ann@example.com").await;
    let ask = async |browser: &mut Browser<'_>, email: &str, redirect: &str| {
        let body = json!({ "email": email, "redirectTo": redirect });
        browser.post("/api/auth/request-password-reset", body).await
    };
    let mut browser = Browser::new(&app);
    let unknown = ask(&mut browser, "bob@example.com", "/reset").await;
    let known = ask(&mut browser, "ann@example.com", "/reset").await;
    assert_eq!((known.status, known.json()), (unknown.status, unknown.json()));
    let evil = ask(&mut browser, "ann@example.com", "https://evil.example/reset").await;
    assert_eq!(code(&evil), (403, "INVALID_REDIRECTURL".to_owned()));

    let link = mailed_link(&app, "password-reset", "ann@example.com").await;
    let followed = browser.get(&link).await;
    assert_eq!(followed.status, StatusCode::FOUND);
    let location = followed.header("location").to_owned();
    let token = location.strip_prefix("http://localhost:3000/reset?token=").unwrap();
    let redirected = link.split_once('?').unwrap().0.to_owned() + "?callbackURL=https%3A%2F%2Fevil.example";
    assert_eq!(code(&browser.get(&redirected).await), (403, "INVALID_CALLBACKURL".to_owned()));

    let reset = "/api/auth/reset-password";
    let short = browser.post(reset, json!({ "newPassword": "short", "token": token })).await;
    assert_eq!(code(&short), (400, "PASSWORD_TOO_SHORT".to_owned()));
    let done = browser.post(reset, json!({ "newPassword": "Testpass2", "token": token })).await;
    assert_eq!((done.status, done.json()), (StatusCode::OK, json!({ "status": true })));
    let again = browser.post(reset, json!({ "newPassword": "Testpass3", "token": token })).await;
    assert_eq!(code(&again), (400, "INVALID_TOKEN".to_owned()));
    let late = browser.get(&link).await;
    assert_eq!(late.header("location"), "http://localhost:3000/reset?error=INVALID_TOKEN");
    assert_eq!(ann.session().await, Value::Null, "all sessions have ended");
    assert_eq!(browser.sign_in("ann@example.com", PASSWORD).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(browser.sign_in("ann@example.com", "Testpass2").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_address_brings_the_grant_once() {
    let app = TestApp::start().await;
    let mut ann = Browser::signed_up(&app, "ann@example.com").await;
    let first = mailed_link(&app, "verify-email", "ann@example.com").await;
    let resend = "/api/auth/send-verification-email";
    let other = ann.post(resend, json!({ "email": "bob@example.com" })).await;
    assert_eq!(code(&other), (400, "EMAIL_MISMATCH".to_owned()));
    assert_eq!(ann.post(resend, json!({ "email": "ann@example.com" })).await.status, StatusCode::OK);
    let link = mailed_link(&app, "verify-email", "ann@example.com").await;
    let mut browser = Browser::new(&app);
    let page = "http://localhost:3000/auth/verify?status=";
    let refused = format!("{page}error&reason=invalid_or_expired");
    assert_eq!(browser.get("/auth/verify").await.header("location"), format!("{page}error&reason=missing_token"));
    assert_eq!(browser.get("/auth/verify?token=abc").await.header("location"), refused);
    assert_eq!(browser.get(&first).await.header("location"), refused, "the later link replaces it");
    assert_eq!(browser.get(&link).await.header("location"), format!("{page}success"));
    assert_eq!(browser.get(&link).await.header("location"), refused);
    let user = ann.session().await["user"].clone();
    assert_eq!(user["emailVerified"], true);
    let tenant = user["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(app.state.billing.balance(tenant).await.unwrap().balance, Money::from_cents(500));
    let done = ann.post(resend, json!({ "email": "ann@example.com" })).await;
    assert_eq!(code(&done), (400, "EMAIL_IS_ALREADY_VERIFIED".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_in_user_changes_password_name_and_image() {
    let app = TestApp::start().await;
    let mut ann = Browser::signed_up(&app, "ann@example.com").await;
    let mut phone = Browser::new(&app);
    phone.sign_in("ann@example.com", PASSWORD).await;
    let change = "/api/auth/change-password";
    let wrong = ann.post(change, json!({ "currentPassword": "x", "newPassword": "Testpass2" })).await;
    assert_eq!(code(&wrong), (400, "INVALID_PASSWORD".to_owned()));
    let before = ann.jar.clone();
    let body = json!({ "currentPassword": PASSWORD, "newPassword": "Testpass2", "revokeOtherSessions": true });
    let changed = ann.post(change, body).await;
    assert_eq!(changed.status, StatusCode::OK);
    assert_eq!(changed.json()["token"], ann.session().await["session"]["token"]);
    assert_eq!(phone.session().await, Value::Null);
    let mut old = Browser { app: &app, jar: before };
    assert_eq!(old.session().await, Value::Null);
    let check = "/api/auth/verify-password";
    assert_eq!(ann.post(check, json!({ "password": "Testpass2" })).await.json(), json!({ "status": true }));
    assert_eq!(code(&ann.post(check, json!({ "password": PASSWORD })).await), (400, "INVALID_PASSWORD".to_owned()));

    let update = "/api/auth/update-user";
    let answer = ann.post(update, json!({ "name": "Anna", "image": "https://example.com/a.png" })).await;
    assert_eq!((answer.json(), cookies(&answer).len()), (json!({ "status": true }), 1));
    let user = ann.session().await["user"].clone();
    assert_eq!((&user["name"], &user["image"]), (&json!("Anna"), &json!("https://example.com/a.png")));
    ann.post(update, json!({ "image": null })).await;
    assert_eq!(ann.session().await["user"]["image"], Value::Null);
    assert_eq!(code(&ann.post(update, json!({})).await), (400, "NO_FIELDS_TO_UPDATE".to_owned()));
    let email = ann.post(update, json!({ "email": "bob@example.com" })).await;
    assert_eq!(code(&email), (400, "EMAIL_CAN_NOT_BE_UPDATED".to_owned()));
    let accounts = ann.get("/api/auth/list-accounts").await.json();
    assert_eq!((accounts.as_array().unwrap().len(), &accounts[0]["providerId"]), (1, &json!("credential")));
    let unlinked = ann.post("/api/auth/unlink-account", json!({ "providerId": "credential" })).await;
    assert_eq!(code(&unlinked), (400, "YOU_CANT_UNLINK_YOUR_LAST_ACCOUNT".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_session_answers_401_without_a_body() {
    let app = TestApp::start().await;
    let mut nobody = Browser::new(&app);
    for path in [
        "revoke-session",
        "revoke-sessions",
        "revoke-other-sessions",
        "change-password",
        "verify-password",
        "update-user",
        "change-email",
        "unlink-account",
        "send-verification-email",
    ] {
        let answer = nobody.post(&format!("/api/auth/{path}"), json!({})).await;
        assert_eq!((answer.status, answer.body.as_slice()), (StatusCode::UNAUTHORIZED, &b""[..]), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_and_other_methods_are_404_without_a_body() {
    let app = TestApp::start().await;
    let mut browser = Browser::new(&app);
    for (method, path) in [
        (Method::GET, "/api/auth/sign-out"),
        (Method::GET, "/api/auth/sign-in/email"),
        (Method::POST, "/api/auth/get-session"),
        (Method::POST, "/api/auth/forget-password"),
        (Method::POST, "/api/auth/delete-user"),
        (Method::GET, "/api/auth/nothing"),
    ] {
        let answer = browser.call(method.clone(), path, None).await;
        assert_eq!((answer.status, answer.body.as_slice()), (StatusCode::NOT_FOUND, &b""[..]), "{method} {path}");
    }
    assert_eq!(browser.get("/api/auth/ok").await.json(), json!({ "ok": true }));
    let page = browser.get("/api/auth/error?error=%3Cscript%3EINVALID_TOKEN").await;
    let page = String::from_utf8(page.body).unwrap();
    assert!(page.contains("<code>scriptINVALID_TOKEN</code>"), "{page}");
    let social = browser.post("/api/auth/sign-in/social", json!({ "provider": "github" })).await;
    assert_eq!(code(&social), (404, "PROVIDER_NOT_FOUND".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_signs_up_too_and_other_bodies_do_not() {
    let app = TestApp::start().await;
    let send = async |kind: &str, body: &str| {
        let headers = [("content-type", kind)];
        app.request(Method::POST, "/api/auth/sign-up/email", &headers, Body::from(body.to_owned())).await
    };
    let form = "name=Ann&email=ann%40example.com&password=Testpass1";
    assert_eq!(send("text/plain", form).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let answer = send("application/x-www-form-urlencoded; charset=UTF-8", form).await;
    assert_eq!((answer.status, &answer.json()["user"]["name"]), (StatusCode::OK, &json!("Ann")));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_site_cannot_act_for_its_visitors() {
    let app = TestApp::start().await;
    let ann = Browser::signed_up(&app, "ann@example.com").await;
    let cookie = format!("{SESSION}={}", ann.jar[SESSION]);
    let send = async |path: &str, headers: &[(&str, &str)]| {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        app.request(Method::POST, path, &all, Body::from("{}")).await
    };
    let out = "/api/auth/sign-out";
    let missing = send(out, &[("cookie", &cookie)]).await;
    assert_eq!(code(&missing), (403, "MISSING_OR_NULL_ORIGIN".to_owned()));
    let evil = send(out, &[("cookie", &cookie), ("origin", "https://evil.example")]).await;
    assert_eq!(code(&evil), (403, "INVALID_ORIGIN".to_owned()));
    let forced = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("origin", "https://evil.example")];
    let (status, code) = code(&send("/api/auth/sign-in/email", &forced).await);
    assert!(status == 403 && code.starts_with("CROSSSITE_NAVIGATION_LOGIN_BLOCKED"), "{status} {code}");
    assert_eq!(send(out, &[("cookie", &cookie), ("referer", "http://localhost:3000/x")]).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_https_the_cookie_is_secure_and_for_the_domain() {
    let changes = [
        ("BETTER_AUTH_URL", "https://api.wopr.bot"),
        ("UI_ORIGIN", "https://app.wopr.bot"),
        ("COOKIE_DOMAIN", ".wopr.bot"),
    ];
    let app = TestApp::start_with(&changes).await;
    let body = json!({ "name": "Ann", "email": "ann@example.com", "password": PASSWORD });
    let answer = app.call(As::Nobody, Method::POST, "/api/auth/sign-up/email", Some(&body)).await;
    let want = "__Secure-better-auth.session_token=<1>; Max-Age=604800; Domain=.wopr.bot; Path=/; HttpOnly; Secure; \
                SameSite=Lax";
    assert_eq!(cookie_shapes(&answer), [want]);
    let cookie = cookies(&answer)[0].split(';').next().unwrap().to_owned();
    let session = app.request(Method::GET, "/api/auth/get-session", &[("cookie", &cookie)], Body::empty()).await;
    assert_eq!(session.json()["user"]["email"], "ann@example.com");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_listed_and_revoked_by_their_tenant() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let body = json!({ "label": "ci", "scope": "write", "expiresAt": "2027-01-16T08:00:00Z" });
    let made = app.call(As::User(&ann), Method::POST, "/api/keys", Some(&body)).await;
    assert_eq!(made.status, StatusCode::CREATED);
    insta::assert_json_snapshot!("new_key", made.json(), {
        ".key" => "<key>", ".id" => "<id>", ".prefix" => "<prefix>", ".tenantId" => "<tenant>",
    });
    let (key, id) = (made.json()["key"].as_str().unwrap().to_owned(), made.json()["id"].as_str().unwrap().to_owned());
    assert!(app.state.auth.find_api_key(&key).await.unwrap().is_some());
    let listed = app.call(As::User(&ann), Method::GET, "/api/keys", None).await.json();
    assert_eq!(listed["keys"][0]["id"], id.as_str());
    assert!(!listed.to_string().contains(&key));

    let path = format!("/api/keys/{id}");
    assert_eq!(app.call(As::User(&bob), Method::DELETE, &path, None).await.status, StatusCode::NOT_FOUND);
    let list = app.call(As::User(&bob), Method::GET, "/api/keys", None).await.json();
    assert_eq!(list, json!({ "keys": [] }));
    let other = format!("/api/keys?tenantId={}", ann.tenant());
    assert_eq!(app.call(As::User(&bob), Method::GET, &other, None).await.status, StatusCode::FORBIDDEN);
    assert_eq!(app.call(As::Key(&key), Method::GET, "/api/keys", None).await.status, StatusCode::FORBIDDEN, "write");
    assert_eq!(app.call(As::Nobody, Method::GET, "/api/keys", None).await.status, StatusCode::UNAUTHORIZED);
    let operator = app.key(None, Scope::Admin).await;
    let listed = app.call(As::Key(&operator), Method::GET, &other, None).await.json();
    assert_eq!(listed["keys"][0]["id"], id.as_str());
    let revoked = app.call(As::User(&ann), Method::DELETE, &path, None).await;
    assert_eq!((revoked.status, revoked.json()["revokedAt"].is_string()), (StatusCode::OK, true));
    assert!(app.state.auth.find_api_key(&key).await.unwrap().is_none());

    for wrong in [
        json!({ "label": "x", "scope": "root" }),
        json!({ "label": "", "scope": "read" }),
        json!({ "label": "x", "scope": "read", "expiresAt": "2020-01-01T00:00:00Z" }),
        json!({ "label": "x", "scope": "read", "oops": 1 }),
    ] {
        let refused = app.call(As::User(&ann), Method::POST, "/api/keys", Some(&wrong)).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}
