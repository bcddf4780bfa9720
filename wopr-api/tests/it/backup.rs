//! Snapshots and backups over the wire.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use wopr_core::audit::Actor;
use wopr_core::auth::Scope;
use wopr_core::billing::{Transfer, TransferKind};
use wopr_core::money::Money;

use crate::app::{As, TestApp, TestUser};

/// What switches backups on.
pub(crate) const STORE: [(&str, &str); 6] = [
    ("S3_BUCKET", "wopr-backups"),
    ("DO_SPACES_ENDPOINT", "http://objects:9000"),
    ("DO_SPACES_ACCESS_KEY", "access"),
    ("DO_SPACES_SECRET_KEY", "0123456789abcdef"),
    ("BACKUP_DATABASE_CONTAINER", "postgres"),
    ("BACKUP_ENCRYPTION_KEY", "k1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
];

struct World {
    app: TestApp,
    ann: TestUser,
    operator: String,
    bot: String,
}

impl World {
    async fn open() -> Self {
        let app = TestApp::start_with(&STORE).await;
        let ann = app.user("ann").await;
        let (amount, actor) = (Money::from_cents(500), Actor::Webhook("stripe"));
        let paid = Transfer::to_wallet("cs_ann".to_owned(), TransferKind::Purchase, ann.tenant(), amount, actor);
        app.state.billing.post(&[paid]).await.unwrap();
        let operator = app.key(None, Scope::Admin).await;
        let new = json!({ "name": "hers", "image": "wopr-network/wopr:latest", "description": "" });
        let bot = app.mutate(As::User(&ann), "fleet.createInstance", &new).await.data();
        let bot = bot["id"].as_str().unwrap().to_owned();
        app.state.fleet.advance().await.unwrap();
        app.containers.write_data(bot.parse().unwrap(), b"forty-two");
        Self { app, ann, operator, bot }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let answer = self.app.call(As::User(&self.ann), method, path, body.as_ref()).await;
        let body = if answer.body.is_empty() { Value::Null } else { answer.json() };
        (answer.status, body)
    }

    async fn operate(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let answer = self.app.call(As::Key(&self.operator), method, path, body.as_ref()).await;
        (answer.status, answer.json())
    }

    fn remembered(&self) -> Vec<u8> {
        self.app.containers.read_data(self.bot.parse().unwrap()).unwrap()
    }

    /// Lets everybody do his part.
    async fn work(&self) {
        for _ in 0..6 {
            self.app.state.backups.save_due().await.unwrap();
            self.app.state.backups.save_database_due().await.unwrap();
            self.app.state.backups.save_base_due().await.unwrap();
            self.app.state.backups.advance().await.unwrap();
            self.app.state.fleet.advance().await.unwrap();
            self.app.clock.advance(jiff::SignedDuration::from_secs(2));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_makes_restores_and_deletes_a_snapshot() {
    let world = World::open().await;
    let snapshots = format!("/api/bots/{}/snapshots", world.bot);
    let (status, made) = world.call(Method::POST, &snapshots, Some(json!({ "name": "mine" }))).await;
    assert_eq!((status, &made["estimatedMonthlyCost"]), (StatusCode::CREATED, &json!("$0.00/month")));
    let made = &made["snapshot"];
    assert_eq!(
        (&made["type"], &made["state"], &made["name"], &made["trigger"], &made["sizeBytes"]),
        (&json!("on-demand"), &json!("wanted"), &json!("mine"), &json!("manual"), &Value::Null)
    );
    assert_eq!(made["userId"], json!(world.ann.signed_in.user.id));
    let (status, refused) = world.call(Method::POST, &snapshots, Some(json!({}))).await;
    assert_eq!(
        (status, refused),
        (StatusCode::FORBIDDEN, json!({ "error": "snapshot_quota_exceeded", "current": 1, "max": 1, "tier": "free" }))
    );
    world.work().await;
    let (_, listed) = world.call(Method::GET, &snapshots, None).await;
    let ready = listed["snapshots"].as_array().unwrap().iter().find(|one| one["id"] == made["id"]).unwrap();
    assert_eq!((&ready["state"], &ready["sizeBytes"]), (&json!("ready"), &json!(9)));

    world.app.containers.write_data(world.bot.parse().unwrap(), b"!");
    let one = format!("/api/instances/{}/snapshots/{}", world.bot, made["id"].as_str().unwrap());
    let (status, started) = world.call(Method::POST, &format!("{one}/restore"), None).await;
    assert_eq!((status, &started["ok"], &started["restored"]), (StatusCode::ACCEPTED, &json!(true), &made["id"]));
    let (status, again) = world.call(Method::POST, &format!("{one}/restore"), None).await;
    assert_eq!((status, &again["error"]), (StatusCode::CONFLICT, &json!("The bot is being restored already")));
    world.work().await;
    assert_eq!(world.remembered(), b"forty-two");

    assert_eq!(world.call(Method::DELETE, &one, None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(world.call(Method::DELETE, &one, None).await.0, StatusCode::NOT_FOUND);
    let (_, listed) = world.call(Method::GET, &snapshots, None).await;
    let before = &listed["snapshots"][0];
    assert_eq!(before["type"], json!("pre-restore"));
    let path = format!("{snapshots}/{}", before["id"].as_str().unwrap());
    assert_eq!(world.call(Method::DELETE, &path, None).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_lists_what_there_is_and_restores_from_a_path() {
    let world = World::open().await;
    world.work().await;
    let (_, all) = world.operate(Method::GET, "/api/admin/backups", None).await;
    assert_eq!((&all["total"], &all["staleCount"]), (&json!(2), &json!(0)));
    let backup = &all["backups"][1];
    let container = format!("wopr-bot-{}", world.bot);
    assert_eq!(
        (&backup["containerId"], &backup["lastBackupSuccess"], &backup["totalBackups"], &backup["isStale"]),
        (&json!(container), &json!(true), &json!(1), &json!(false))
    );
    let one = format!("/api/admin/backups/{container}");
    assert_eq!(world.operate(Method::GET, &one, None).await.1, *backup);
    assert_eq!(world.operate(Method::GET, "/api/admin/backups/tenant_x", None).await.0, StatusCode::NOT_FOUND);
    let (_, archives) = world.operate(Method::GET, &format!("{one}/snapshots"), None).await;
    let path = archives["snapshots"][0]["path"].as_str().unwrap().to_owned();
    assert_eq!(backup["lastBackupPath"], json!(path));

    world.app.containers.lose_container(world.bot.parse().unwrap());
    world.app.containers.lose_volumes(world.bot.parse().unwrap());
    let restore = format!("{one}/restore");
    let table = [
        (json!({}), StatusCode::BAD_REQUEST),
        (json!({ "remotePath": "nightly/local/wopr-bot-other/wopr-bot-other_20270101" }), StatusCode::FORBIDDEN),
        (json!({ "remotePath": format!("nightly/../{container}/x") }), StatusCode::NOT_FOUND),
        (json!({ "remotePath": format!("nightly/local/{container}-2/x") }), StatusCode::FORBIDDEN),
    ];
    for (body, status) in table {
        assert_eq!(world.operate(Method::POST, &restore, Some(body.clone())).await.0, status, "{body}");
    }
    let body = json!({ "remotePath": path, "reason": "the disk died" });
    let (status, started) = world.operate(Method::POST, &restore, Some(body)).await;
    assert_eq!((status, &started["targetNodeId"]), (StatusCode::ACCEPTED, &json!("auto")));
    world.work().await;
    assert_eq!(world.remembered(), b"forty-two");
    let input = json!({ "tenantId": world.ann.tenant() });
    let history = world.app.query(As::Key(&world.operator), "admin.restoreHistory", &input).await.data();
    let entry = &history["entries"][0];
    assert_eq!(
        (&entry["phase"], &entry["snapshotKey"], &entry["reason"], &entry["preRestoreKey"], &entry["error"]),
        (&json!("done"), &json!(path), &json!("the disk died"), &Value::Null, &Value::Null)
    );
    assert_eq!(entry["id"], started["restoreId"]);
    let (_, backup) = world.operate(Method::GET, &one, None).await;
    assert!(backup["lastProvenAt"].is_string(), "{backup}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_over_the_procedure_answers_when_it_is_done() {
    let world = World::open().await;
    world.work().await;
    let tenant = world.ann.tenant();
    let operator = As::Key(&world.operator);
    let listed = world.app.query(operator, "admin.restoreListSnapshots", &json!({ "tenantId": tenant })).await.data();
    let key = listed["snapshots"][0]["key"].as_str().unwrap().to_owned();
    world.app.containers.write_data(world.bot.parse().unwrap(), b"!");
    let input = |confirmation: String| json!({ "tenantId": tenant, "nodeId": "local", "snapshotKey": key, "confirmRestore": confirmation });
    let refused = world.app.mutate(operator, "admin.restoreFromSnapshot", &input("RESTORE".to_owned())).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let input = input(format!("RESTORE {tenant}"));
    let call = world.app.mutate(operator, "admin.restoreFromSnapshot", &input);
    let work = async {
        loop {
            world.work().await;
            tokio::task::yield_now().await;
        }
    };
    let answer = tokio::select! {
        answer = call => answer.data(),
        () = work => unreachable!("it has no end"),
    };
    assert_eq!((&answer["success"], &answer["snapshotKey"]), (&json!(true), &json!(key)));
    assert!(answer["preRestoreKey"].as_str().unwrap().starts_with("pre-restore/wopr-bot-"), "{answer}");
    assert_eq!(world.remembered(), b"forty-two");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_when_backups_are_stale() {
    let world = World::open().await;
    world.work().await;
    let health = async || world.app.get("/health").await.json();
    let backups = &health().await["backups"];
    assert_eq!((&backups["staleCount"], &backups["totalTracked"]), (&json!(0), &json!(2)));
    let database = &backups["database"];
    assert!(database["lastAttemptAt"].is_string() && database["lastSuccessAt"].is_string(), "{database}");
    assert_eq!(database["lastProvenAt"], Value::Null);
    world.app.clock.advance(jiff::SignedDuration::from_hours(25));
    let stale = health().await;
    assert_eq!((&stale["status"], &stale["backups"]["staleCount"]), (&json!("degraded"), &json!(2)));
    let (_, alerts) = world.operate(Method::GET, "/api/admin/backups/alerts/stale", None).await;
    assert_eq!((&alerts["count"], &alerts["alerts"][0]["lastBackupSuccess"]), (&json!(2), &json!(true)));
    assert_eq!(alerts["alerts"][0]["containerId"], json!("platform"));
    let (_, shown) = world.operate(Method::GET, "/api/admin/backups?stale=true", None).await;
    assert_eq!(shown["total"], json!(2));
    world.work().await;
    world.app.clock.advance(jiff::SignedDuration::from_mins(1));
    assert_eq!(health().await["status"], json!("ok"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_copies_the_database_and_says_that_it_was_restored() {
    let world = World::open().await;
    let platform = "/api/admin/backups/platform";
    let (status, wanted) = world.operate(Method::POST, &format!("{platform}/snapshots"), None).await;
    assert_eq!((status, &wanted["containerId"]), (StatusCode::ACCEPTED, &json!("platform")));
    let path = wanted["path"].as_str().unwrap().to_owned();
    let (_, listed) = world.operate(Method::GET, &format!("{platform}/snapshots"), None).await;
    assert_eq!(listed["snapshots"], json!([]), "it is not there yet");
    world.work().await;
    let (_, listed) = world.operate(Method::GET, &format!("{platform}/snapshots"), None).await;
    let sets = listed["snapshots"].as_array().unwrap();
    let set = sets.iter().find(|set| set["path"] == json!(path)).unwrap();
    assert!(set["snapshot"].is_string(), "{set}");
    let (_, shown) = world.operate(Method::GET, platform, None).await;
    assert_eq!(
        (&shown["containerId"], &shown["lastBackupSuccess"], &shown["totalBackups"], &shown["lastProvenAt"]),
        (&json!("platform"), &json!(true), &json!(2), &Value::Null)
    );

    let proof = async |path: &str| {
        let body = json!({ "remotePath": path });
        let proofs = format!("{platform}/proofs");
        world.app.call(As::Key(&world.operator), Method::POST, &proofs, Some(&body)).await.status
    };
    assert_eq!(proof("platform/20270101/dbset_0").await, StatusCode::NOT_FOUND);
    assert_eq!(proof(&path).await, StatusCode::NO_CONTENT);
    let (_, shown) = world.operate(Method::GET, platform, None).await;
    assert!(shown["lastProvenAt"].is_string(), "{shown}");
    let metrics = world.app.call(As::Key(&world.operator), Method::GET, "/metrics", None).await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    for line in ["wopr_backup_stale 0", "wopr_backup_tracked 2"] {
        assert!(metrics.lines().any(|one| one == line), "{line}: {metrics}");
    }
    for word in ["attempt", "success", "proven"] {
        let name = format!("wopr_backup_database_last_{word}_timestamp_seconds ");
        assert!(metrics.lines().any(|line| line.starts_with(&name)), "{name}: {metrics}");
    }

    let body = json!({ "remotePath": path });
    let (status, refused) = world.operate(Method::POST, &format!("{platform}/restore"), Some(body)).await;
    assert_eq!(status, StatusCode::CONFLICT, "{refused}");
    let bot = format!("/api/admin/backups/wopr-bot-{}/snapshots", world.bot);
    assert_eq!(world.operate(Method::POST, &bot, None).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_the_archive_of_the_databases_log_and_says_that_it_was_restored() {
    let world = World::open().await;
    let platform = "/api/admin/backups/platform";
    world.work().await;
    let (_, shown) = world.operate(Method::GET, platform, None).await;
    let archive = &shown["archive"];
    assert_eq!(
        (&archive["lastBackupPath"], &archive["isLogStuck"], &archive["lastProvenAt"]),
        (&json!("platform/base/copy-1"), &json!(false), &Value::Null)
    );
    let body = json!({ "remotePath": archive["lastBackupPath"] });
    let proofs = format!("{platform}/proofs");
    let noted = world.app.call(As::Key(&world.operator), Method::POST, &proofs, Some(&body)).await;
    assert_eq!(noted.status, StatusCode::NO_CONTENT);
    let (_, shown) = world.operate(Method::GET, platform, None).await;
    assert!(shown["archive"]["lastProvenAt"].is_string(), "{shown}");
    let metrics = world.app.call(As::Key(&world.operator), Method::GET, "/metrics", None).await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    for word in ["base_attempt", "base_success", "base_proven"] {
        let name = format!("wopr_backup_database_last_{word}_timestamp_seconds ");
        assert!(metrics.lines().any(|line| line.starts_with(&name)), "{name}: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_is_copied_before_it_is_given_another_image() {
    let world = World::open().await;
    let path = format!("/fleet/bots/{}/update", world.bot);
    let workers = std::pin::pin!(async {
        loop {
            world.app.state.fleet.advance().await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    let answer = std::pin::pin!(world.call(Method::POST, &path, None));
    let futures_util::future::Either::Left(((status, body), _)) = futures_util::future::select(answer, workers).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let (_, listed) = world.call(Method::GET, &format!("/api/bots/{}/snapshots", world.bot), None).await;
    let listed = listed["snapshots"].as_array().unwrap();
    let made: Vec<_> = listed.iter().map(|one| (&one["type"], &one["trigger"], &one["state"])).collect();
    assert_eq!(made, [(&json!("pre-update"), &json!("pre_update"), &json!("ready"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_it_is_said() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let health = app.get("/health").await.json();
    assert_eq!((&health["status"], health.get("backups")), (&json!("ok"), None));
    let path = "/api/bots/0190c6a7-b5e7-7c0a-9d3c-2b1a00112233/snapshots";
    let answer = app.call(As::User(&ann), Method::POST, path, Some(&json!({}))).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.json()["error"].as_str().unwrap().contains("S3_BUCKET"), "{}", answer.json());
}
