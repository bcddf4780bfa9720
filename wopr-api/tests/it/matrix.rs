//! Every route, called by somebody it is not for.
//!
//! The routes come from the server itself; what each must answer is written here. A route without an expectation
//! fails the test, so nobody can add one without saying what a stranger gets.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use wopr_api::routes::{Entry, list};
use wopr_core::audit::{Actor, Origin};
use wopr_core::auth::Scope;
use wopr_core::billing::{Transfer, TransferKind};
use wopr_core::money::Money;

use crate::app::{Answer, As, TestApp, TestUser};

/// What belongs to the victim.
struct Victim {
    user: TestUser,
    bot: String,
    key: String,
}

impl Victim {
    async fn create(app: &TestApp) -> Self {
        let user = app.user("victim").await;
        let (amount, actor) = (Money::from_cents(3_000), Actor::Webhook("stripe"));
        let paid = Transfer::to_wallet("cs_victim".to_owned(), TransferKind::Purchase, user.tenant(), amount, actor);
        app.state.billing.post(&[paid]).await.unwrap();
        let bot = json!({ "name": "theirs", "image": "wopr-network/wopr:latest", "description": "" });
        let bot = app.mutate(As::User(&user), "fleet.createInstance", &bot).await.data();
        let origin = Origin::system("test");
        let key =
            app.state.auth.create_api_key(&origin, Some(user.tenant()), Scope::Read, "theirs", None).await.unwrap();
        Self { user, bot: bot["id"].as_str().unwrap().to_owned(), key: key.key.id.to_string() }
    }
}

/// What a stranger who knows the victim's ids must get.
enum Expect {
    /// It concerns no tenant, or only the caller's own, and takes no id that could name another's.
    NothingToReach,
    /// Called with this input, it answers with this status.
    Refused(Value, StatusCode),
    /// Called with this input, it may answer what it likes; the victim does not notice.
    Unnoticed(Value),
}

fn expectation(entry: &Entry, victim: &Victim) -> Option<Expect> {
    use Expect::{NothingToReach, Refused, Unnoticed};
    let (forbidden, absent) = (StatusCode::FORBIDDEN, StatusCode::NOT_FOUND);
    let tenant = victim.user.tenant();
    let bot = json!({ "id": victim.bot });
    let name = format!("{} {}", entry.method, entry.path);
    Some(match name.as_str() {
        "GET /health" | "GET /health/ready" | "GET /openapi.json" | "query settings.health" | "query settings.ping" => {
            NothingToReach
        }
        "query billing.creditsBalance" | "query billing.creditsHistory" => {
            Refused(json!({ "tenant": tenant }), forbidden)
        }
        name if name.contains(" admin.") => Refused(json!({ "tenantId": tenant }), forbidden),
        name if name.contains(" /api/admin/") => Refused(json!({ "tenant_id": tenant }), forbidden),
        "DELETE /api/keys/{id}" => Refused(json!({ "id": victim.key }), absent),
        "GET /api/keys" | "POST /api/keys" => NothingToReach,
        "POST /api/auth/revoke-session" => Unnoticed(json!({ "token": victim.user.signed_in.session.id })),
        // The rest of the auth wire acts on the session that calls, or on a secret that only the owner was sent.
        name if name.contains(" /api/auth/") => NothingToReach,
        "GET /auth/verify" => NothingToReach,
        "query fleet.listInstances" | "query fleet.listResourceTiers" | "GET /fleet/bots" => NothingToReach,
        "mutation fleet.createInstance" => Unnoticed(json!({ "name": "mine", "tenantId": tenant })),
        "POST /fleet/bots" => {
            Refused(json!({ "name": "mine", "image": "wopr-network/wopr:latest", "tenantId": tenant }), forbidden)
        }
        "mutation fleet.controlInstance" => Refused(json!({ "id": victim.bot, "action": "destroy" }), absent),
        name if name.contains(" fleet.getInstance") => Refused(bot, absent),
        "PATCH /fleet/bots/{id}" => Refused(json!({ "id": victim.bot, "description": "mine" }), absent),
        name if name.contains(" /fleet/bots/{id}") => Refused(bot, absent),
        _ => return None,
    })
}

/// Calls it; of the input, what stands in the path goes there and the rest is the body.
async fn call(app: &TestApp, who: As<'_>, entry: &Entry, input: &Value) -> Answer {
    match entry.method.as_str() {
        "query" => app.query(who, &entry.path, input).await,
        "mutation" => app.mutate(who, &entry.path, input).await,
        method => {
            let (mut path, mut body) = (entry.path.clone(), serde_json::Map::new());
            for (key, value) in input.as_object().into_iter().flatten() {
                let place = format!("{{{key}}}");
                if path.contains(&place) {
                    path = path.replace(&place, value.as_str().unwrap_or_default());
                } else {
                    body.insert(key.clone(), value.clone());
                }
            }
            let (method, body) = (Method::from_bytes(method.as_bytes()).unwrap(), Value::Object(body));
            app.call(who, method.clone(), &path, (method != Method::GET).then_some(&body)).await
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_reaches_nothing_of_anybody_else() {
    let app = TestApp::start().await.with_many_clients();
    let victim = Victim::create(&app).await;
    let stranger = app.user("stranger").await;
    let stranger_key = app.key(Some(stranger.tenant()), Scope::Admin).await;
    let state = async || {
        let ping = app.query(As::User(&victim.user), "settings.ping", &json!({})).await.data();
        let balance = app.query(As::User(&victim.user), "billing.creditsBalance", &json!({})).await.data();
        let bots = app.query(As::User(&victim.user), "fleet.listInstances", &json!({})).await.data();
        (ping, balance, bots)
    };
    let before = state().await;
    let mut missing = Vec::new();
    for entry in list() {
        let (input, wanted) = match expectation(&entry, &victim) {
            None => {
                missing.push(entry.to_string());
                continue;
            }
            Some(Expect::NothingToReach) => continue,
            Some(Expect::Refused(input, status)) => (input, Some(status)),
            Some(Expect::Unnoticed(input)) => (input, None),
        };
        for who in [As::User(&stranger), As::Key(&stranger_key)] {
            let answer = call(&app, who, &entry, &input).await;
            let text = String::from_utf8_lossy(&answer.body);
            assert!(wanted.is_none_or(|wanted| wanted == answer.status), "{entry} {who:?} {} {text}", answer.status);
        }
    }
    assert!(missing.is_empty(), "nobody says what a stranger gets from\n{}", missing.join("\n"));
    assert_eq!(state().await, before, "the victim noticed");
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
