//! Every route, called by somebody it is not for.
//!
//! The routes come from the server itself; what each must answer is written here. A route without an expectation
//! fails the test, so nobody can add one without saying what a stranger gets.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use wopr_api::routes::{Entry, list};
use wopr_core::auth::Scope;

use crate::app::{Answer, As, TestApp, TestUser};

/// What belongs to the victim.
struct Victim {
    user: TestUser,
}

/// What a stranger who knows the victim's ids must get.
enum Expect {
    /// It concerns no tenant, or only the caller's own, and takes no id that could name another's.
    NothingToReach,
    /// Called with this input, it answers with this status.
    Refused(Value, StatusCode),
}

fn expectation(entry: &Entry, victim: &Victim) -> Option<Expect> {
    use Expect::{NothingToReach, Refused};
    let name = format!("{} {}", entry.method, entry.path);
    let tenant = json!({ "tenant": victim.user.tenant() });
    Some(match name.as_str() {
        "GET /health" | "GET /health/ready" | "GET /openapi.json" | "query settings.health" => NothingToReach,
        "query settings.ping" => NothingToReach,
        "query billing.creditsBalance" | "query billing.creditsHistory" => Refused(tenant, StatusCode::FORBIDDEN),
        _ => return None,
    })
}

async fn call(app: &TestApp, who: As<'_>, entry: &Entry, input: &Value) -> Answer {
    match entry.method.as_str() {
        "query" => app.query(who, &entry.path, input).await,
        "mutation" => app.mutate(who, &entry.path, input).await,
        method => {
            let mut path = entry.path.clone();
            for (key, value) in input.as_object().into_iter().flatten() {
                path = path.replace(&format!("{{{key}}}"), value.as_str().unwrap_or_default());
            }
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let body = (method != Method::GET).then_some(input);
            app.call(who, method, &path, body).await
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_reaches_nothing_of_anybody_else() {
    let app = TestApp::start().await.with_many_clients();
    let victim = Victim { user: app.user("victim").await };
    let stranger = app.user("stranger").await;
    let stranger_key = app.key(Some(stranger.tenant()), Scope::Admin).await;
    let mut missing = Vec::new();
    for entry in list() {
        match expectation(&entry, &victim) {
            None => missing.push(entry.to_string()),
            Some(Expect::NothingToReach) => {}
            Some(Expect::Refused(input, status)) => {
                for who in [As::User(&stranger), As::Key(&stranger_key)] {
                    let answer = call(&app, who, &entry, &input).await;
                    assert_eq!(answer.status, status, "{entry} {who:?} {}", String::from_utf8_lossy(&answer.body));
                }
            }
        }
    }
    assert!(missing.is_empty(), "nobody says what a stranger gets from\n{}", missing.join("\n"));
}

/// A credential below what a REST route declares is refused with the scope that it takes.
#[tokio::test(flavor = "multi_thread")]
async fn every_route_demands_the_scope_it_declares() {
    let app = TestApp::start().await.with_many_clients();
    let user = app.user("ann").await;
    let keys = [app.key(Some(user.tenant()), Scope::Read).await, app.key(Some(user.tenant()), Scope::Write).await];
    for entry in list() {
        let Some(required) = entry.access.split("bearer:").nth(1).map(|text| text.split(' ').next().unwrap()) else {
            continue;
        };
        let required: Scope = required.parse().unwrap();
        for (key, provided) in keys.iter().zip([Scope::Read, Scope::Write]) {
            let answer = call(&app, As::Key(key), &entry, &json!({"id": "0190c6a7-b5e7-7c0a-9d3c-2b1a00112233"})).await;
            if provided.includes(required) {
                assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{entry} {provided}");
                continue;
            }
            let expected = json!({
                "error": "Insufficient scope", "required": required.as_str(), "provided": provided.as_str(),
            });
            assert_eq!((answer.status, answer.json()), (StatusCode::FORBIDDEN, expected), "{entry}");
        }
    }
}

/// What is served is what is listed: a route registered past the description would be in neither test.
#[test]
fn routes_are_registered_with_their_description() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/routes");
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name == "mod.rs" || path.is_dir() {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for past in [".route(", ".route_service(", ".nest_service(", ".fallback("] {
            assert!(!text.contains(past), "{name} uses {past}: use .routes(routes!(…))");
        }
    }
}
