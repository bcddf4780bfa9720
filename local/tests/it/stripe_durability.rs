//! Restarts, kills, and damaged files.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use wopr_local::clock::SystemClock;
use wopr_local::stripe::{Config, CreditPack, JournalError, Payment, StartError, StripeStandin};

use crate::support::{Api, KEY, Program, Receiver, SECRET, TempDir};

fn program(directory: &Path, webhook: &str) -> (Program, Api) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wopr-stripe-standin"));
    command
        .args(["--listen", "127.0.0.1:0", "--retry-first-ms", "20"])
        .env("STRIPE_SECRET_KEY", KEY)
        .env("STRIPE_WEBHOOK_SECRET", SECRET)
        .env("STRIPE_STANDIN_DATA_DIR", directory)
        .env("STRIPE_STANDIN_WEBHOOK_URL", webhook);
    let program = Program::start(&mut command, "listens on");
    let base = program.announced.split_whitespace().last().unwrap().to_owned();
    (program, Api::new(&base))
}

const LISTS: &[&str] =
    &["customers", "checkout/sessions", "payment_intents", "charges", "balance_transactions", "refunds", "prices"];

async fn everything(api: &Api) -> Vec<Value> {
    let mut all = Vec::new();
    for list in LISTS {
        all.push(api.get(&format!("/v1/{list}?limit=100")).await.1);
    }
    all
}

#[tokio::test]
async fn a_kill_loses_nothing_that_was_answered() {
    let directory = TempDir::new();
    let receiver = Receiver::start().await;
    let (running, api) = program(directory.path(), &receiver.url);
    let session = api.session(&[]).await;
    let path = format!("/checkout/sessions/{}/pay", session["id"].as_str().unwrap());
    let (status, paid) = api.control(&path, serde_json::json!({})).await;
    assert_eq!(status, 200, "{paid}");
    let intent = paid["payment_intent"].as_str().unwrap();
    let (_, refund, _) =
        api.post_with_key("/v1/refunds", &[("payment_intent", intent), ("amount", "5")], Some("k")).await;
    let before = everything(&api).await;
    running.kill();

    let (running, mut api) = program(directory.path(), &receiver.url);
    let mut after = everything(&api).await;
    assert_eq!(after, before);
    let (_, again, replayed) =
        api.post_with_key("/v1/refunds", &[("payment_intent", intent), ("amount", "5")], Some("k")).await;
    assert_eq!((&again, replayed), (&refund, true));

    // Killed while it works: whatever was answered is there, whatever was not is there whole or not at all.
    let base = api.base.clone();
    let worker = tokio::spawn(async move {
        let api = Api::new(&base);
        let mut answered = Vec::new();
        loop {
            let name = answered.len().to_string();
            let request = api.http.post(format!("{base}/v1/customers")).bearer_auth(KEY).form(&[("name", &name)]);
            let Ok(answer) = request.send().await else { return answered };
            let Ok(customer) = answer.json::<Value>().await else { return answered };
            answered.push(customer["id"].as_str().unwrap().to_owned());
        }
    });
    crate::support::until("some customers", async || {
        (api.get("/v1/customers?limit=100").await.1["data"].as_array().unwrap().len() >= 20).then_some(())
    })
    .await;
    running.kill();
    let answered = worker.await.unwrap();
    let (running, fresh) = program(directory.path(), &receiver.url);
    api = fresh;
    for id in &answered {
        assert_eq!(api.get(&format!("/v1/customers/{id}")).await.0, 200);
    }
    after = everything(&api).await;
    assert_eq!(after[1..], before[1..]);
    running.kill();
}

#[tokio::test]
async fn events_that_could_not_be_delivered_are_delivered_after_a_restart() {
    let directory = TempDir::new();
    let (running, api) = program(directory.path(), "http://127.0.0.1:9/nobody-listens");
    api.make("/v1/customers", &[("name", "before")]).await;
    running.kill();
    let receiver = Receiver::start().await;
    let (running, _) = program(directory.path(), &receiver.url);
    let arrived = receiver.wait_for("customer.created", 1).await;
    assert_eq!(arrived[0].event()["data"]["object"]["name"], "before");
    running.kill();
}

fn config(directory: &Path) -> Config {
    Config { data_dir: Some(directory.to_owned()), ..Config::for_tests(KEY) }
}

async fn start(directory: &Path) -> Result<StripeStandin, StartError> {
    StripeStandin::start(config(directory), Arc::new(SystemClock)).await
}

#[tokio::test]
async fn a_torn_last_line_is_cut_off_and_any_other_damage_refused() {
    let directory = TempDir::new();
    let standin = start(directory.path()).await.unwrap();
    let api = Api::new(standin.base_url());
    let session = api.session(&[]).await;
    standin.control().pay(session["id"].as_str().unwrap(), Payment::default()).await.unwrap();
    let second = start(directory.path()).await;
    assert!(matches!(second, Err(StartError::Journal(JournalError::InUse { .. }))), "{second:?}");
    standin.shutdown().await;

    let journal = directory.path().join("stripe.journal");
    let whole = fs::read(&journal).unwrap();
    // The last transaction is cut in the middle: it was never answered, so it never happened.
    let last_line = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    fs::write(&journal, &whole[..usize::midpoint(last_line, whole.len())]).unwrap();
    let standin = start(directory.path()).await.unwrap();
    let api = Api::new(standin.base_url());
    let (_, found) = api.get(&format!("/v1/checkout/sessions/{}", session["id"].as_str().unwrap())).await;
    assert_eq!(found["status"], "open");
    api.make("/v1/customers", &[("name", "after the cut")]).await;
    standin.shutdown().await;
    start(directory.path()).await.unwrap().shutdown().await;

    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let mut missing_line = lines.clone();
    missing_line.remove(2);
    let mut garbled = lines.clone();
    garbled[1] = b"{\"n\":1,\"writes\":[{\"kind\":\"unicorn\",\"id\":\"x\",\"value\":{}}]}\n";
    let mut other_format = lines.clone();
    other_format[0] = b"{\"format\":\"something/9\"}\n";
    for (broken, line) in [(missing_line, 3), (garbled, 2), (other_format, 1)] {
        fs::write(&journal, broken.concat()).unwrap();
        match start(directory.path()).await {
            Err(StartError::Journal(JournalError::Damaged { line: found, .. })) => assert_eq!(found, line),
            other => panic!("line {line}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_price_does_not_change_behind_its_id_and_bad_configurations_are_refused() {
    let directory = TempDir::new();
    start(directory.path()).await.unwrap().shutdown().await;
    let mut dearer = config(directory.path());
    dearer.credit_packs = vec![CreditPack { price_id: "price_wopr_credits_5".into(), amount_cents: 600 }];
    let refused = StripeStandin::start(dearer, Arc::new(SystemClock)).await;
    assert!(matches!(refused, Err(StartError::Packs(_))), "{refused:?}");

    for breakage in [
        (|c: &mut Config| c.api_keys.clear()) as fn(&mut Config),
        |c| c.api_keys = vec![String::new()],
        |c| c.control_key = Some(String::new()),
        |c| c.webhook_endpoints = vec![wopr_local::stripe::EndpointConfig::all_events("http://a.example/", "")],
    ] {
        let mut broken = Config::for_tests(KEY);
        breakage(&mut broken);
        let refused = StripeStandin::start(broken, Arc::new(SystemClock)).await;
        assert!(matches!(refused, Err(StartError::Config(_))), "{refused:?}");
    }
    assert!(!format!("{:?}", config(directory.path())).contains(KEY), "a configuration shows no key");
}

#[tokio::test]
async fn with_a_control_key_only_its_bearer_controls() {
    let mut config = Config::for_tests(KEY);
    config.control_key = Some("control-key".into());
    let standin = StripeStandin::start(config, Arc::new(SystemClock)).await.unwrap();
    let api = Api::new(standin.base_url());
    let url = format!("{}/_control/faults", api.base);
    let statuses = [None, Some(KEY), Some("control-key")].map(|key| {
        let request = api.http.get(&url);
        let request = match key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        async move { request.send().await.unwrap().status().as_u16() }
    });
    let mut found = Vec::new();
    for status in statuses {
        found.push(status.await);
    }
    assert_eq!(found, [403, 403, 200]);
}
