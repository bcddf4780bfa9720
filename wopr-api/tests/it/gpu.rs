//! GPU nodes: what they report themselves, and what operators do with them.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::SignedDuration;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use wopr_core::auth::Scope;
use wopr_core::protocol::gpu::{GpuService, HEARTBEAT_PATH, REGISTER_PATH, node_secret};

use crate::app::{Answer, As, TestApp};

const MASTER: &str = "0123456789abcdef0123456789abcdef-gpunodes";
const SHA: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const NODES: &str = "/api/admin/gpu";

/// Nodes can enrol.
const ENROLLING: [(&str, &str); 1] = [("GPU_NODE_SECRET", MASTER)];

/// Machines can be made.
fn providing() -> Vec<(&'static str, String)> {
    [
        ("GPU_NODE_SECRET", MASTER),
        ("DO_API_TOKEN", "dop_v1_0123456789"),
        ("GPU_AGENT_IMAGE", "ghcr.io/wopr-network/wopr-gpu-node@sha256:SHA"),
        ("GPU_LLAMA_MODEL_URL", "https://models.example/llama.gguf"),
        ("GPU_LLAMA_MODEL_SHA256", SHA),
        ("GPU_EMBEDDINGS_MODEL_URL", "https://models.example/qwen.gguf"),
        ("GPU_EMBEDDINGS_MODEL_SHA256", SHA),
        ("GPU_PLATFORM_NETWORKS", "203.0.113.7/32"),
        ("REGISTRY_USERNAME", "wopr"),
        ("REGISTRY_PASSWORD", "ghp_0123456789"),
    ]
    .map(|(name, value)| (name, value.replace("SHA", SHA)))
    .into()
}

struct Site {
    app: TestApp,
    operator: String,
}

impl Site {
    async fn open(changes: &[(&str, &str)]) -> Self {
        let app = TestApp::start_with(changes).await.with_many_clients();
        let operator = app.key(None, Scope::Admin).await;
        Self { app, operator }
    }

    async fn with_provider() -> Self {
        let changes = providing();
        let changes: Vec<(&str, &str)> = changes.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Self::open(&changes).await
    }

    async fn operate(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        self.app.call(As::Key(&self.operator), method, path, body).await
    }

    async fn enrol(&self, name: &str) -> Value {
        let body = json!({ "name": name, "host": format!("{name}.example") });
        let answer = self.operate(Method::POST, NODES, Some(&body)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.json());
        answer.json()["node"].clone()
    }

    async fn node(&self, name: &str) -> Value {
        let answer = self.operate(Method::GET, &format!("{NODES}/{name}"), None).await;
        assert_eq!(answer.status, StatusCode::OK);
        answer.json()["node"].clone()
    }

    async fn say(&self, path: &str, bearer: Option<&str>, body: &str) -> Answer {
        let credential = bearer.map(|bearer| format!("bearer {bearer}"));
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(credential.as_deref().map(|credential| ("authorization", credential)));
        self.app.request(Method::POST, path, &headers, Body::from(body.to_owned())).await
    }

    async fn register(&self, bearer: Option<&str>, stage: &str, body: &Value) -> Answer {
        self.say(&format!("{REGISTER_PATH}?stage={stage}"), bearer, &body.to_string()).await
    }
}

fn own(name: &str) -> String {
    node_secret(&MASTER.into(), name).expose_secret().to_owned()
}

#[track_caller]
fn refused(answer: &Answer, status: StatusCode, error: &str) {
    let mut body = answer.json();
    if status.is_server_error() {
        body.as_object_mut().unwrap().remove("requestId").expect("failures of ours can be found in the log");
    }
    assert_eq!((answer.status, body), (status, json!({ "success": false, "error": error })));
}

#[tokio::test(flavor = "multi_thread")]
async fn register_case_1_without_a_secret_nobody_can_register() {
    let site = Site::open(&[]).await;
    let answer = site.register(Some(MASTER), "done", &json!({ "nodeId": "one" })).await;
    refused(&answer, StatusCode::UNAUTHORIZED, "Unauthorized");
    let answer = site.operate(Method::POST, NODES, Some(&json!({ "host": "10.0.0.7" }))).await;
    refused(&answer, StatusCode::SERVICE_UNAVAILABLE, "GPU_NODE_SECRET is not configured");
}

#[tokio::test(flavor = "multi_thread")]
async fn register_cases_2_and_3_no_credential_and_a_wrong_one() {
    let site = Site::open(&ENROLLING).await;
    site.enrol("one").await;
    let (longer, other) = (format!("{MASTER}x"), own("two"));
    let body = json!({ "nodeId": "one" });
    for bearer in [None, Some(""), Some("x"), Some(&MASTER[1..]), Some(&longer), Some(&other)] {
        for (stage, body) in [("done", body.clone()), ("nonsense", json!([]))] {
            let answer = site.register(bearer, stage, &body).await;
            refused(&answer, StatusCode::UNAUTHORIZED, "Unauthorized");
        }
    }
    // One node cannot report for another, and people and programs cannot report at all.
    refused(
        &site.register(Some(&own("one")), "done", &json!({ "nodeId": "two" })).await,
        StatusCode::UNAUTHORIZED,
        "Unauthorized",
    );
    let user = site.app.user("ann").await;
    let path = format!("{REGISTER_PATH}?stage=done");
    for who in [As::User(&user), As::Key(&site.operator)] {
        let answer = site.app.call(who, Method::POST, &path, Some(&body)).await;
        refused(&answer, StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    assert_eq!(site.node("one").await["provisionStage"], "waiting_agent");
}

#[tokio::test(flavor = "multi_thread")]
async fn register_cases_4_to_7_what_is_said_must_make_sense() {
    let site = Site::open(&ENROLLING).await;
    let stages = "Invalid or missing stage. Must be one of: installing_drivers, installing_docker, \
                  downloading_models, starting_services, registering, done";
    let one = json!({ "nodeId": "one" });
    for stage in ["", "ready", "pending", "creating", "waiting_agent", "DONE", "done%00"] {
        refused(&site.register(Some(MASTER), stage, &one).await, StatusCode::BAD_REQUEST, stages);
    }
    refused(&site.say(REGISTER_PATH, Some(MASTER), &one.to_string()).await, StatusCode::BAD_REQUEST, stages);
    let done = format!("{REGISTER_PATH}?stage=done");
    // The stage is looked at first.
    refused(&site.say(REGISTER_PATH, Some(MASTER), "{").await, StatusCode::BAD_REQUEST, stages);
    for body in ["", "{", "nodeId=one"] {
        refused(&site.say(&done, Some(MASTER), body).await, StatusCode::BAD_REQUEST, "Invalid JSON body");
    }
    for body in ["[]", "null", "1", "{}", r#"{"nodeId":1}"#, r#"{"nodeId":null}"#] {
        let message = "Missing required field: nodeId";
        refused(&site.say(&done, Some(MASTER), body).await, StatusCode::BAD_REQUEST, message);
    }
    refused(&site.register(Some(MASTER), "done", &one).await, StatusCode::NOT_FOUND, "GPU node not found: one");
    let odd = site.register(Some(MASTER), "done", &json!({ "nodeId": "a\u{0}b" })).await;
    assert_eq!(odd.status, StatusCode::NOT_FOUND);
    let odd = site.register(Some(MASTER), "done", &json!({ "nodeId": "one", "ok": "yes" })).await;
    refused(&odd, StatusCode::BAD_REQUEST, "Invalid field: ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn register_case_8_and_done_is_what_the_platform_sees() {
    let site = Site::open(&ENROLLING).await;
    let made = site.enrol("one").await;
    assert_eq!(made["nodeSecret"], json!(own("one")), "shown this once");
    assert_eq!((&made["status"], &made["provisionStage"]), (&json!("bootstrapping"), &json!("waiting_agent")));
    let body = json!({ "nodeId": "one" });
    for (bearer, stage) in [(MASTER.to_owned(), "installing_drivers"), (own("one"), "installing_docker")] {
        let answer = site.register(Some(&bearer), stage, &body).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({ "success": true })));
        assert_eq!(site.node("one").await["provisionStage"], stage);
    }
    let answer = site.register(Some(MASTER), "installing_drivers", &body).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(site.node("one").await["provisionStage"], "installing_docker", "it does not go back");

    let answer = site.register(Some(MASTER), "done", &body).await;
    assert_eq!(answer.status, StatusCode::OK, "it is taken");
    let node = site.node("one").await;
    assert_eq!((&node["status"], &node["provisionStage"]), (&json!("bootstrapping"), &json!("starting_services")));
    assert_eq!(
        node["serviceHealth"],
        json!({ "llama": "down", "chatterbox": "down", "whisper": "down", "qwen": "down" })
    );

    site.app.probe.set_up("one.example", GpuService::ALL);
    assert_eq!(site.register(Some(MASTER), "done", &body).await.status, StatusCode::OK);
    let node = site.node("one").await;
    assert_eq!((&node["status"], &node["provisionStage"]), (&json!("active"), &json!("done")));
    assert_eq!(node["serviceHealth"], json!({ "llama": "ok", "chatterbox": "ok", "whisper": "ok", "qwen": "ok" }));

    let failed = json!({ "nodeId": "two", "ok": false, "message": "no card" });
    site.enrol("two").await;
    assert_eq!(site.register(Some(&own("two")), "installing_drivers", &failed).await.status, StatusCode::OK);
    let node = site.node("two").await;
    assert_eq!((&node["status"], &node["lastError"]), (&json!("failed"), &json!("installing_drivers: no card")));
    let answer = site.register(Some(MASTER), "done", &json!({ "nodeId": "two" })).await;
    refused(&answer, StatusCode::CONFLICT, "GPU node two is failed");
    let answer = site.operate(Method::POST, &format!("{NODES}/two/readmit"), None).await;
    assert_eq!((answer.status, &answer.json()["node"]["status"]), (StatusCode::OK, &json!("bootstrapping")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_needs_the_nodes_own_credential() {
    let site = Site::open(&ENROLLING).await;
    site.enrol("one").await;
    let beat = json!({
        "nodeId": "one", "agentVersion": "0.1.0", "bootId": "boot-1",
        "services": [{ "service": "llama", "state": "ready", "standIn": true }],
        "gpu": { "mode": "unresponsive", "forS": 4 },
    });
    let say = async |bearer: Option<&str>, body: &Value| site.say(HEARTBEAT_PATH, bearer, &body.to_string()).await;
    let other = own("two");
    for bearer in [None, Some(MASTER), Some(other.as_str()), Some("x")] {
        refused(&say(bearer, &beat).await, StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let answer = say(Some(&own("one")), &beat).await;
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({ "success": true })));
    let node = site.node("one").await;
    assert_eq!((&node["agentVersion"], &node["gpu"]["mode"]), (&json!("0.1.0"), &json!("unresponsive")));
    assert!(node["lastHeartbeatAt"].is_i64());

    let mut stranger = beat.clone();
    stranger["nodeId"] = json!("two");
    refused(&say(Some(&other), &stranger).await, StatusCode::NOT_FOUND, "GPU node not found: two");
    for (field, value) in [
        ("bootId", json!("a\u{0}b")),
        ("bootId", json!(1)),
        ("agentVersion", json!("x".repeat(5000))),
        ("services", json!([{ "service": "nonsense", "state": "ready" }])),
        ("services", json!(vec![json!({ "service": "llama", "state": "ready" }); 100])),
        ("gpu", json!({ "mode": "amd" })),
        ("gpu", json!({ "mode": "cpu", "reason": "\u{0}" })),
        ("gpu", Value::Null),
    ] {
        let mut bad = beat.clone();
        bad[field] = value;
        let answer = say(Some(&own("one")), &bad).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{field}: {}", answer.json());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_routes_have_the_shapes_of_the_contract() {
    let site = Site::open(&ENROLLING).await;
    site.enrol("local-gpu-node-001").await;
    let answer = site.operate(Method::GET, NODES, None).await.json();
    assert_eq!((&answer["success"], &answer["count"]), (&json!(true), &json!(1)));
    let created = answer["nodes"][0]["createdAt"].clone();
    let mut contract = answer["nodes"][0].as_object().unwrap().clone();
    let ours = ["lastOkAt", "lastHeartbeatAt", "agentVersion", "gpu", "partialOutage", "services"];
    contract.retain(|name, _| !ours.contains(&name.as_str()));
    assert_eq!(
        Value::Object(contract),
        json!({
            "id": "local-gpu-node-001", "dropletId": null, "host": "local-gpu-node-001.example", "region": "local",
            "size": "unknown", "status": "bootstrapping", "provisionStage": "waiting_agent", "serviceHealth": null,
            "monthlyCostCents": 0, "lastHealthAt": null, "lastError": null, "createdAt": created, "updatedAt": created,
        })
    );
    let one = format!("{NODES}/local-gpu-node-001");
    refused(
        &site.operate(Method::GET, &format!("{NODES}/none"), None).await,
        StatusCode::NOT_FOUND,
        "GPU node not found: none",
    );
    refused(
        &site.operate(Method::DELETE, &format!("{NODES}/none"), None).await,
        StatusCode::NOT_FOUND,
        "GPU node not found: none",
    );
    let reboot = |node: &str| format!("{NODES}/{node}/reboot");
    refused(
        &site.operate(Method::POST, &reboot("none"), None).await,
        StatusCode::NOT_FOUND,
        "GPU node not found: none",
    );
    let none = "Node has no droplet assigned";
    refused(&site.operate(Method::POST, &reboot("local-gpu-node-001"), None).await, StatusCode::BAD_REQUEST, none);
    let young = "GPU node local-gpu-node-001 is bootstrapping";
    refused(&site.operate(Method::DELETE, &one, None).await, StatusCode::CONFLICT, young);
    let again = json!({ "name": "LOCAL-gpu-node-001", "host": "10.0.0.7" });
    assert_eq!(site.operate(Method::POST, NODES, Some(&again)).await.status, StatusCode::CONFLICT);
    let off = "DO_API_TOKEN is not configured";
    for path in ["regions", "sizes"] {
        let answer = site.operate(Method::GET, &format!("{NODES}/{path}"), None).await;
        refused(&answer, StatusCode::SERVICE_UNAVAILABLE, off);
    }
    refused(&site.operate(Method::POST, NODES, Some(&json!({}))).await, StatusCode::SERVICE_UNAVAILABLE, off);
    let gone = site.operate(Method::DELETE, &format!("{one}?force=true"), None).await;
    assert_eq!((gone.status, gone.json()), (StatusCode::OK, json!({ "success": true })));
    assert_eq!(site.operate(Method::GET, &one, None).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_in_is_checked() {
    let site = Site::with_provider().await;
    for (field, value) in [
        ("name", json!("")),
        ("name", json!("-a")),
        ("name", json!("a_b")),
        ("name", json!("a".repeat(64))),
        ("name", json!("$(reboot)")),
        ("name", json!(1)),
        ("region", json!("")),
        ("region", json!("x".repeat(21))),
        ("region", json!("nyc1; reboot")),
        ("size", json!("x".repeat(51))),
        ("size", json!("a\u{0}b")),
        ("host", json!("")),
        ("host", json!("10.0.0.7:8080")),
        ("host", json!("http://10.0.0.7")),
        ("host", json!("a/../b")),
        ("services", json!(["llama"])),
        ("services", json!(["sdxl"])),
    ] {
        let answer = site.operate(Method::POST, NODES, Some(&json!({ field: value }))).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{field} {value}: {}", answer.json());
        assert_eq!(answer.json()["success"], false);
    }
    let none = json!({ "host": "10.0.0.7", "services": [] });
    assert_eq!(site.operate(Method::POST, NODES, Some(&none)).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(site.operate(Method::GET, NODES, None).await.json()["count"], 0, "nothing was made of it");
    for odd in ["%00", "%FF", "..%2F..", "a%20b", &"x".repeat(500)] {
        for (method, tail) in
            [(Method::GET, ""), (Method::DELETE, ""), (Method::POST, "/reboot"), (Method::POST, "/readmit")]
        {
            let answer = site.operate(method.clone(), &format!("{NODES}/{odd}{tail}"), None).await;
            assert!(answer.status.is_client_error(), "{method} {odd}: {}", answer.status);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_made_in_the_background_and_brings_itself_up() {
    let site = Site::with_provider().await;
    let answer = site.operate(Method::POST, NODES, Some(&json!({ "name": "gpu-one" }))).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(
        answer.json(),
        json!({ "success": true, "node": {
            "nodeId": "gpu-one", "host": null, "dropletId": null, "region": "nyc1", "size": "gpu-h100x1-80gb",
            "monthlyCostCents": null, "status": "provisioning", "provisionStage": "pending",
        } })
    );
    let provision = async || {
        for _ in 0..3 {
            site.app.state.gpu.provision_due().await.unwrap();
        }
    };
    provision().await;
    let node = site.node("gpu-one").await;
    assert_eq!((&node["provisionStage"], &node["monthlyCostCents"]), (&json!("waiting_active"), &json!(247_680)));
    let droplet = node["dropletId"].as_str().unwrap().to_owned();
    site.app.cloud.boot_all();
    site.app.clock.advance(SignedDuration::from_secs(5));
    provision().await;
    let host = site.node("gpu-one").await["host"].as_str().unwrap().to_owned();

    // The machine exchanges what it was born with.
    let user_data = site.app.cloud.user_data(&droplet).unwrap();
    let birth = user_data.split("Authorization: Bearer ").nth(1).unwrap().lines().next().unwrap();
    let path = "/internal/gpu/bootstrap";
    let body = json!({ "nodeId": "gpu-one" }).to_string();
    for (bearer, body) in [(Some("x"), &body), (None, &body), (Some(MASTER), &body), (Some(birth), &"{}".to_owned())] {
        refused(&site.say(path, bearer, body).await, StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let born = site.say(path, Some(birth), &body).await;
    assert_eq!((born.status, born.header("cache-control")), (StatusCode::OK, "no-store"));
    assert_eq!(born.json()["nodeSecret"], json!(own("gpu-one")));
    let login = BASE64.decode(born.json()["dockerConfig"].as_str().unwrap()).unwrap();
    let login: Value = serde_json::from_slice(&login).unwrap();
    let auth = BASE64.encode("wopr:ghp_0123456789");
    assert_eq!(login, json!({ "auths": { "ghcr.io": { "auth": auth } } }), "and for no other registry");

    site.app.probe.set_up(&host, GpuService::ALL);
    let body = json!({ "nodeId": "gpu-one" });
    assert_eq!(site.register(Some(&own("gpu-one")), "done", &body).await.status, StatusCode::OK);
    assert_eq!(site.node("gpu-one").await["status"], "active");
    refused(&site.say(path, Some(birth), &body.to_string()).await, StatusCode::UNAUTHORIZED, "Unauthorized");

    let answer = site.operate(Method::POST, &format!("{NODES}/gpu-one/reboot"), None).await;
    assert_eq!((answer.status, &answer.json()["success"]), (StatusCode::OK, &json!(true)));
    assert_eq!(site.app.cloud.reboots(), [droplet]);
    let gone = site.operate(Method::DELETE, &format!("{NODES}/gpu-one"), None).await;
    assert_eq!((gone.status, gone.json()), (StatusCode::OK, json!({ "success": true })));
    for _ in 0..3 {
        site.app.state.gpu.provision_due().await.unwrap();
        site.app.clock.advance(SignedDuration::from_secs(5));
    }
    assert!(site.app.cloud.machine_ids().is_empty());
    assert_eq!(site.operate(Method::GET, NODES, None).await.json()["count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_and_sizes_are_those_with_cards() {
    let site = Site::with_provider().await;
    let regions = site.operate(Method::GET, &format!("{NODES}/regions"), None).await.json();
    assert_eq!(
        regions,
        json!({ "success": true, "regions": [
            { "slug": "nyc1", "name": "New York 1", "available": true, "sizes": ["s-1vcpu-1gb", "gpu-h100x1-80gb"] },
        ] })
    );
    let sizes = site.operate(Method::GET, &format!("{NODES}/sizes"), None).await.json();
    assert_eq!(
        sizes,
        json!({ "success": true, "sizes": [{
            "slug": "gpu-h100x1-80gb", "memory": 245_760, "vcpus": 20, "disk": 720, "price_monthly": 2476.8,
            "available": true, "regions": ["nyc1"], "description": "Test",
        }] })
    );
    site.app.cloud.set_away(true);
    let answer = site.operate(Method::GET, &format!("{NODES}/sizes"), None).await;
    assert_eq!((answer.status, &answer.json()["success"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_platform_administrators_get_there() {
    let site = Site::open(&ENROLLING).await;
    let ann = site.app.user("ann").await;
    let key = site.app.key(Some(ann.tenant()), Scope::Admin).await;
    let reader = site.app.key(None, Scope::Read).await;
    for (who, status) in [
        (As::Nobody, StatusCode::UNAUTHORIZED),
        (As::User(&ann), StatusCode::FORBIDDEN),
        (As::Key(&key), StatusCode::FORBIDDEN),
        (As::Key(&reader), StatusCode::FORBIDDEN),
        (As::Key(MASTER), StatusCode::UNAUTHORIZED),
    ] {
        let answer = site.app.call(who, Method::GET, NODES, None).await;
        assert_eq!((answer.status, &answer.json()["success"]), (status, &json!(false)), "{who:?}");
    }
}
