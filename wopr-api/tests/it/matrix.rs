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

use crate::app::{Answer, As, ORIGIN, TestApp, TestUser};
use crate::backup::STORE;
use crate::payments::STRIPE;

/// What belongs to the victim.
struct Victim {
    user: TestUser,
    bot: String,
    key: String,
    payment_method: String,
    snapshot: String,
}

impl Victim {
    async fn create(app: &TestApp) -> Self {
        let user = app.user("victim").await;
        let (amount, actor) = (Money::from_cents(3_000), Actor::Webhook("stripe"));
        let paid = Transfer::to_wallet("cs_victim".to_owned(), TransferKind::Purchase, user.tenant(), amount, actor);
        app.state.billing.post(&[paid]).await.unwrap();
        let bot = json!({ "name": "theirs", "image": "wopr-network/wopr:latest", "description": "" });
        let bot = app.mutate(As::User(&user), "fleet.createInstance", &bot).await.data();
        let bot = bot["id"].as_str().unwrap().to_owned();
        let origin = Origin::system("test");
        app.state.fleet.advance().await.unwrap();
        let snapshot = app.state.backups.want(&origin, user.tenant(), bot.parse().unwrap(), None).await.unwrap();
        app.state.backups.save_due().await.unwrap();
        let snapshot = snapshot.id.to_string();
        let key =
            app.state.auth.create_api_key(&origin, Some(user.tenant()), Scope::Read, "theirs", None).await.unwrap();
        let own = json!({ "provider": "openai", "apiKey": "sk-of-the-victim-0123" });
        app.mutate(As::User(&user), "capabilities.storeKey", &own).await.data();
        app.state.payments.setup_intent(user.tenant(), Some("victim@example.com")).await.unwrap();
        let payment_method = app.provider.save_method("cus_memory1").id;
        let victim = Self { user, bot, key: key.key.id.to_string(), payment_method, snapshot };
        let saved = app.query(As::User(&victim.user), "billing.billingInfo", &json!({})).await.data();
        assert_eq!(saved["paymentMethods"][0]["id"], json!(victim.payment_method));
        victim
    }

    /// What nobody else may read.
    fn secrets(&self) -> [&str; 5] {
        [self.user.signed_in.user.email.as_str(), &self.bot, &self.key, &self.payment_method, &self.snapshot]
    }
}

/// What a stranger who knows the victim's ids must get.
enum Expect {
    /// It concerns no tenant, or only the caller's own, and takes no id that could name another's.
    NothingToReach,
    /// Called with this input, it answers with this status, and in the same words where the id names nothing.
    Refused(Value, StatusCode),
    /// Called with this input, it may do as it likes with the caller's own; it says nothing of the victim's, and the
    /// victim does not notice.
    Unnoticed(Value),
}

fn expectation(entry: &Entry, victim: &Victim) -> Option<Expect> {
    use Expect::{NothingToReach, Refused, Unnoticed};
    let (forbidden, absent) = (StatusCode::FORBIDDEN, StatusCode::NOT_FOUND);
    let tenant = victim.user.tenant();
    let bot = json!({ "id": victim.bot });
    let name = format!("{} {}", entry.method, entry.path);
    Some(match name.as_str() {
        // Whoever has no service key is told nothing; whoever has one calls for the key's own tenant.
        _ if entry.access.starts_with("service key") => NothingToReach,
        "GET /health"
        | "GET /gateway/health"
        | "GET /health/ready"
        | "GET /openapi.json"
        | "GET /auth/verify"
        | "GET /api/keys"
        | "POST /api/keys"
        | "GET /fleet/bots"
        | "query settings.health"
        | "query settings.ping"
        | "query billing.creditOptions"
        | "query fleet.listInstances"
        | "query fleet.listResourceTiers" => NothingToReach,
        "query billing.creditsBalance" | "query billing.creditsHistory" => {
            Refused(json!({ "tenant": tenant }), forbidden)
        }
        "query billing.usage" | "query billing.usageSummary" => Refused(json!({ "tenant": tenant }), forbidden),
        "GET /api/billing/usage"
        | "GET /api/billing/usage/summary"
        | "query billing.hostedUsageSummary"
        | "query billing.hostedUsageEvents"
        | "query billing.spendingLimits"
        | "POST /api/billing/setup-intent"
        | "query billing.billingInfo"
        | "GET /api/tenant-keys"
        | "query capabilities.listKeys"
        | "query capabilities.listCapabilitySettings"
        | "query billing.inferenceMode" => Unnoticed(json!({ "tenant": tenant })),
        "mutation billing.updateSpendingLimits" => Unnoticed(json!({
            "tenant": tenant, "global": { "alertAt": 1, "hardCap": 0 }, "perCapability": {},
        })),
        "GET /api/tenant-keys/{provider}"
        | "DELETE /api/tenant-keys/{provider}"
        | "query capabilities.getKey"
        | "mutation capabilities.deleteKey" => Refused(json!({ "provider": "openai", "tenant": tenant }), absent),
        "PUT /api/tenant-keys/{provider}" | "mutation capabilities.storeKey" => {
            Unnoticed(json!({ "provider": "google", "apiKey": "a-strangers", "tenant": tenant }))
        }
        "mutation capabilities.testKey" => Unnoticed(json!({ "provider": "openai", "key": "a-strangers" })),
        "mutation capabilities.updateCapabilitySettings" => {
            Unnoticed(json!({ "capability": "text-gen", "mode": "byok", "key": null, "tenant": tenant }))
        }
        "mutation billing.setInferenceMode" => Unnoticed(json!({ "mode": "hosted", "tenant": tenant })),
        "GET /admin/health" | "GET /metrics" => Refused(json!({}), forbidden),
        "POST /api/billing/credits/checkout" | "mutation billing.creditsCheckout" => Refused(
            json!({ "tenant": tenant, "priceId": "price_25", "successUrl": ORIGIN, "cancelUrl": ORIGIN }),
            forbidden,
        ),
        "POST /api/billing/portal" | "mutation billing.portalSession" => {
            Refused(json!({ "tenant": tenant, "returnUrl": ORIGIN }), forbidden)
        }
        "DELETE /api/billing/payment-methods/{id}" | "mutation billing.removePaymentMethod" => {
            Refused(json!({ "id": victim.payment_method }), forbidden)
        }
        "mutation billing.updateBillingEmail" => {
            Unnoticed(json!({ "tenant": tenant, "email": "stranger@example.com" }))
        }
        // Anybody may call it, but only the provider can sign.
        "POST /api/billing/webhook" => Refused(
            json!({ "id": "evt_1", "type": "charge.dispute.created", "data": { "object": { "id": "dp_1" } } }),
            StatusCode::BAD_REQUEST,
        ),
        // Sessions and keys prove nothing to machines.
        name if name.contains(" /internal/") => Refused(json!({ "nodeId": "victim" }), StatusCode::UNAUTHORIZED),
        name if name.contains(" admin.") => Refused(json!({ "tenantId": tenant }), forbidden),
        name if name.contains(" /api/admin/gpu") => Refused(json!({ "nodeId": "victim" }), forbidden),
        name if name.contains(" /api/admin/backups") => {
            Refused(json!({ "containerId": format!("wopr-bot-{}", victim.bot), "remotePath": "x" }), forbidden)
        }
        name if name.contains(" /api/admin/rates/") => {
            Refused(json!({ "id": "0190c6a7-b5e7-7c0a-9d3c-2b1a00112233" }), forbidden)
        }
        name if name.contains(" /api/admin/") => Refused(json!({ "tenant_id": tenant }), forbidden),
        "DELETE /api/keys/{id}" => Refused(json!({ "id": victim.key }), absent),
        "POST /api/auth/revoke-session" => Unnoticed(json!({ "token": victim.user.signed_in.session.id })),
        // The rest of the auth wire acts on the session that calls, or on a secret that only the owner was sent.
        name if name.contains(" /api/auth/") => NothingToReach,
        "mutation fleet.createInstance" => Unnoticed(json!({ "name": "mine", "tenantId": tenant })),
        "POST /fleet/bots" => {
            Refused(json!({ "name": "mine", "image": "wopr-network/wopr:latest", "tenantId": tenant }), forbidden)
        }
        "mutation fleet.controlInstance" => Refused(json!({ "id": victim.bot, "action": "destroy" }), absent),
        "mutation fleet.rotateServiceKey" => Refused(bot, absent),
        name if name.contains(" fleet.getInstance") => Refused(bot, absent),
        name if name.contains("/{id}/snapshots") => {
            Refused(json!({ "id": victim.bot, "snapId": victim.snapshot }), absent)
        }
        "PATCH /fleet/bots/{id}" => Refused(json!({ "id": victim.bot, "description": "mine" }), absent),
        name if name.contains(" /fleet/bots/{id}") => Refused(bot, absent),
        _ => return None,
    })
}

/// An id of the same form that names nothing.
fn naming_nothing(id: &str) -> String {
    let (head, tail) = id.split_at(id.len() - 2);
    format!("{head}{}", if tail == "00" { "11" } else { "00" })
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
    let outside: Vec<_> = STRIPE.into_iter().chain(STORE).collect();
    let app = TestApp::start_with(&outside).await.with_many_clients();
    let victim = Victim::create(&app).await;
    let stranger = app.user("stranger").await;
    let stranger_key = app.key(Some(stranger.tenant()), Scope::Admin).await;
    let state = async || {
        let ping = app.query(As::User(&victim.user), "settings.ping", &json!({})).await.data();
        let balance = app.query(As::User(&victim.user), "billing.creditsBalance", &json!({})).await.data();
        let bots = app.query(As::User(&victim.user), "fleet.listInstances", &json!({})).await.data();
        let billing = app.query(As::User(&victim.user), "billing.billingInfo", &json!({})).await.data();
        let keys = app.call(As::User(&victim.user), Method::GET, "/api/keys", None).await.json();
        let snapshots = format!("/api/bots/{}/snapshots", victim.bot);
        let snapshots = app.call(As::User(&victim.user), Method::GET, &snapshots, None).await.json();
        let limits = app.query(As::User(&victim.user), "billing.spendingLimits", &json!({})).await.data();
        let own = app.query(As::User(&victim.user), "capabilities.listKeys", &json!({})).await.data();
        let settings =
            app.query(As::User(&victim.user), "capabilities.listCapabilitySettings", &json!({})).await.data();
        (ping, balance, bots, billing, keys, snapshots, limits, own, settings)
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
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            let Some(wanted) = wanted else {
                let told = victim.secrets().into_iter().find(|secret| text.contains(secret));
                assert_eq!(told, None, "{entry} {who:?} {text}");
                continue;
            };
            assert_eq!(answer.status, wanted, "{entry} {who:?} {text}");
            let Some(id) = input["id"].as_str() else { continue };
            let (mut other, nothing) = (input.clone(), naming_nothing(id));
            other["id"] = json!(nothing);
            let absent = call(&app, who, &entry, &other).await;
            let absent = (absent.status, String::from_utf8_lossy(&absent.body).replace(&nothing, id));
            assert_eq!((wanted, text), absent, "{entry} {who:?} tells what is missing from what is somebody else's");
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
    let mut keys = Vec::new();
    for scope in [Scope::Read, Scope::Write, Scope::Admin] {
        keys.push(app.key(Some(user.tenant()), scope).await);
    }
    for entry in list() {
        let Some(required) = entry.access.split("bearer:").nth(1).map(|text| text.split(' ').next().unwrap()) else {
            continue;
        };
        let operators_only = required == "platform_admin";
        let required: Scope = if operators_only { Scope::Admin } else { required.parse().unwrap() };
        let id = "0190c6a7-b5e7-7c0a-9d3c-2b1a00112233";
        for (key, provided) in keys.iter().zip([Scope::Read, Scope::Write, Scope::Admin]) {
            let answer = call(&app, As::Key(key), &entry, &json!({ "id": id, "tenant_id": id })).await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            if provided.includes(required) {
                assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{entry} {provided}");
                assert!(!text.contains("Insufficient scope"), "{entry} {provided} {text}");
                assert_eq!(text.contains("Platform admin role required"), operators_only, "{entry} {provided} {text}");
                continue;
            }
            let body = answer.json();
            let message = body.get("error").or(body.get("detail"));
            assert_eq!(
                (answer.status, message),
                (StatusCode::FORBIDDEN, Some(&json!("Insufficient scope"))),
                "{entry}"
            );
            let scopes = (&body["required"], &body["provided"]);
            assert_eq!(scopes, (&json!(required.as_str()), &json!(provided.as_str())), "{entry}");
        }
    }
}

/// Whoever has no service key is turned away from `/v1`, whatever else there is.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_service_key_opens_a_metered_route() {
    let app = TestApp::start().await.with_many_clients();
    let user = app.user("ann").await;
    let key = app.key(Some(user.tenant()), Scope::Admin).await;
    let metered: Vec<Entry> = list().into_iter().filter(|entry| entry.access.starts_with("service key")).collect();
    assert!(metered.len() >= 20, "{}", metered.len());
    for entry in metered {
        for who in [As::Nobody, As::User(&user), As::Key(&key)] {
            let answer = call(&app, who, &entry, &json!({ "id": "m", "*id": "m" })).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{entry} {who:?}");
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
