//! Sending events: signed, one at a time per endpoint, again and again until the endpoint answers 2xx.
//!
//! A delivery is a row. What a crash leaves unfinished is sent again on the next start, so an endpoint sees every event
//! at least once. Times in rows are milliseconds since 1970.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::task::JoinSet;

use super::engine::{Engine, Origin, Tx, new_id, number, text};
use super::error::ApiError;
use super::store::Kind;
use super::{checkout, endpoints};

/// How often the worker looks for what time alone made due.
const TICK: Duration = Duration::from_millis(50);

/// How a delivery is signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signature {
    /// As Stripe signs: the whole `whsec_…` text is the key.
    #[default]
    Valid,
    /// With another key.
    Wrong,
    /// With the secret without its `whsec_`.
    Unprefixed,
    /// No `Stripe-Signature` header at all.
    Missing,
}

/// When and how one delivery is made.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Attempt {
    pub(super) delay_ms: i64,
    pub(super) timestamp_offset_s: i64,
    pub(super) signature: Signature,
    /// Made on purpose: tried once, whatever the answer.
    pub(super) once: bool,
}

/// The header for a body: `t=…,v1=…`.
pub(super) fn sign(secret: &str, timestamp: i64, body: &str) -> String {
    let mut mac = match Hmac::<Sha256>::new_from_slice(secret.as_bytes()) {
        Ok(mac) => mac,
        Err(error) => unreachable!("HMAC takes keys of any length: {error}"),
    };
    mac.update(timestamp.to_string().as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    format!("t={timestamp},v1={}", hex::encode(mac.finalize().into_bytes()))
}

const HOLD: &str = "hold_deliveries";

/// Whether new deliveries are held back.
pub(super) fn held(tx: &Tx<'_>) -> bool {
    tx.get(Kind::Switch, HOLD).is_some_and(|switch| switch["on"] == true)
}

pub(super) fn hold(tx: &mut Tx<'_>, on: bool) {
    tx.store.put(Kind::Switch, HOLD, Some(json!({ "on": on })));
}

/// The next place at the end of the queue.
pub(super) fn next_place(tx: &mut Tx<'_>) -> i64 {
    let next = tx.get(Kind::Switch, "next_place").map_or(1, |row| number(&row, "n"));
    tx.store.put(Kind::Switch, "next_place", Some(json!({ "n": next + 1 })));
    next
}

/// Queues a delivery of `event` to `endpoint`, or lays it aside while deliveries are held.
pub(super) fn enqueue(tx: &mut Tx<'_>, event: &str, endpoint: &str, attempt: Attempt) -> String {
    let id = new_id("dlv");
    let place = next_place(tx);
    // What is sent on purpose is not held: holding is how the order of the rest is arranged.
    let state = if held(tx) && !attempt.once { "held" } else { "pending" };
    let row = json!({
        "id": id,
        "event": event,
        "endpoint": endpoint,
        "place": place,
        "state": state,
        "attempts": 0,
        "created": tx.now,
        "due_ms": tx.engine.clock.now().as_millisecond() + attempt.delay_ms,
        "timestamp_offset_s": attempt.timestamp_offset_s,
        "signature": attempt.signature,
        "once": attempt.once,
        "last_status": null,
        "last_error": null,
    });
    tx.save(Kind::Delivery, &row);
    id
}

/// One attempt, ready to send.
struct Parcel {
    delivery: String,
    endpoint: String,
    url: String,
    body: String,
    signature: Option<String>,
}

/// Runs until `stop` is cancelled.
pub(super) async fn run(engine: Arc<Engine>, client: reqwest::Client, mut stop: tokio::sync::watch::Receiver<bool>) {
    let mut sending: JoinSet<String> = JoinSet::new();
    let mut busy: HashSet<String> = HashSet::new();
    loop {
        while let Some(done) = sending.try_join_next() {
            match done {
                Ok(endpoint) => {
                    busy.remove(&endpoint);
                }
                // Which endpoint it was is lost with the panic; nothing is in flight for the others for long.
                Err(error) => {
                    tracing::error!("a delivery task failed: {error}");
                    sending.abort_all();
                    busy.clear();
                }
            }
        }
        let taken = busy.clone();
        let work = engine.run(Origin::default(), move |tx| {
            checkout::sweep(tx);
            Ok(pick(tx, &taken))
        });
        match work.await {
            Ok(parcels) => {
                for parcel in parcels {
                    busy.insert(parcel.endpoint.clone());
                    sending.spawn(deliver(Arc::clone(&engine), client.clone(), parcel));
                }
            }
            Err(error) => tracing::error!("looking for deliveries failed: {error}"),
        }
        tokio::select! {
            () = engine.wake.notified() => {}
            () = tokio::time::sleep(TICK) => {}
            Some(done) = sending.join_next() => {
                if let Ok(endpoint) = done {
                    busy.remove(&endpoint);
                } else {
                    busy.clear();
                }
            }
            _ = stop.changed() => break,
        }
    }
    // An attempt cut off here counts as not made; it is repeated on the next start.
    sending.shutdown().await;
}

/// The first due delivery of each endpoint that is not busy.
fn pick(tx: &mut Tx<'_>, busy: &HashSet<String>) -> Vec<Parcel> {
    let now = tx.engine.clock.now();
    let mut taken = busy.clone();
    let (mut parcels, mut lost) = (Vec::new(), Vec::new());
    for id in tx.store.queued() {
        let Some(row) = tx.store.get(Kind::Delivery, id) else { continue };
        if number(row, "due_ms") > now.as_millisecond() || taken.contains(text(row, "endpoint")) {
            continue;
        }
        let Some(parcel) = wrap(tx, row, now.as_second()) else {
            lost.push(id.to_owned());
            continue;
        };
        taken.insert(parcel.endpoint.clone());
        parcels.push(parcel);
    }
    for id in lost {
        if let Some(mut row) = tx.get(Kind::Delivery, &id) {
            row["state"] = json!("dropped");
            row["last_error"] = json!("the endpoint no longer exists");
            tx.save(Kind::Delivery, &row);
        }
    }
    parcels
}

fn wrap(tx: &Tx<'_>, row: &Value, now: i64) -> Option<Parcel> {
    let endpoint = tx.store.get(Kind::WebhookEndpoint, text(row, "endpoint"))?;
    let secret = endpoints::secret(tx, text(row, "endpoint"))?;
    let event = tx.store.get(Kind::Event, text(row, "event"))?;
    // Stripe sends events indented, so a receiver that verifies anything but the raw bytes fails.
    let body = serde_json::to_string_pretty(event).ok()?;
    let timestamp = now + number(row, "timestamp_offset_s");
    let how = Signature::deserialize(&row["signature"]).unwrap_or_default();
    let signature = match how {
        Signature::Valid => Some(sign(&secret, timestamp, &body)),
        Signature::Wrong => Some(sign("whsec_of_somebody_else", timestamp, &body)),
        Signature::Unprefixed => Some(sign(secret.trim_start_matches("whsec_"), timestamp, &body)),
        Signature::Missing => None,
    };
    Some(Parcel {
        delivery: text(row, "id").to_owned(),
        endpoint: text(row, "endpoint").to_owned(),
        url: text(endpoint, "url").to_owned(),
        body,
        signature,
    })
}

async fn deliver(engine: Arc<Engine>, client: reqwest::Client, parcel: Parcel) -> String {
    let Parcel { delivery, endpoint, url, body, signature } = parcel;
    let mut request = client
        .post(url)
        .header("content-type", "application/json; charset=utf-8")
        .header("user-agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)");
    if let Some(signature) = signature {
        request = request.header("stripe-signature", signature);
    }
    let outcome = match request.body(body).send().await {
        Ok(answer) => Ok(answer.status().as_u16()),
        Err(error) => Err(error.without_url().to_string()),
    };
    let recorded = engine.run(Origin::default(), move |tx| {
        record(tx, &delivery, &outcome);
        Ok(())
    });
    if let Err(error) = recorded.await {
        tracing::error!("the outcome of a delivery could not be saved, it will be repeated: {error}");
    }
    endpoint
}

fn record(tx: &mut Tx<'_>, id: &str, outcome: &Result<u16, String>) {
    let Some(mut row) = tx.get(Kind::Delivery, id) else { return };
    let attempts = number(&row, "attempts") + 1;
    let delivered = matches!(outcome, Ok(200..=299));
    row["attempts"] = json!(attempts);
    row["last_status"] = json!(outcome.as_ref().ok());
    row["last_error"] = json!(outcome.as_ref().err());
    if delivered {
        row["state"] = json!("delivered");
        row["delivered_at"] = json!(tx.now);
    } else if row["once"] == true {
        row["state"] = json!("refused");
    } else {
        let wait = backoff(tx.engine.config.retry_first, tx.engine.config.retry_max, attempts);
        let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        row["due_ms"] = json!(tx.engine.clock.now().as_millisecond().saturating_add(wait));
        tracing::info!(attempts, wait_ms = wait, "delivery {id} will be repeated");
    }
    if delivered
        && row["once"] != true
        && let Some(mut event) = tx.get(Kind::Event, text(&row, "event"))
    {
        event["pending_webhooks"] = json!((number(&event, "pending_webhooks") - 1).max(0));
        tx.save(Kind::Event, &event);
    }
    tx.save(Kind::Delivery, &row);
}

/// The wait after `attempts` failures.
fn backoff(first: Duration, max: Duration, attempts: i64) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(30);
    first.saturating_mul(1 << doublings).min(max)
}

/// The deliveries of an event, or all of them, oldest first.
pub(super) fn list(tx: &Tx<'_>, event: Option<&str>) -> Value {
    let rows = tx.store.rows(Kind::Delivery).filter(|row| event.is_none_or(|event| row["event"] == event));
    Value::Array(rows.cloned().collect())
}

/// Puts held deliveries into the queue in the given order; those not named stay held.
pub(super) fn release(tx: &mut Tx<'_>, ids: &[String]) -> Result<(), ApiError> {
    for id in ids {
        let mut row = tx.load(Kind::Delivery, "delivery", id)?;
        if row["state"] != "held" {
            return Err(ApiError::invalid(format!("delivery {id} is not held")));
        }
        row["state"] = json!("pending");
        row["place"] = json!(next_place(tx));
        row["due_ms"] = json!(tx.engine.clock.now().as_millisecond());
        tx.save(Kind::Delivery, &row);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits = [1, 2, 3, 4, 99].map(|n| backoff(Duration::from_secs(1), Duration::from_secs(5), n).as_secs());
        assert_eq!(waits, [1, 2, 4, 5, 5]);
    }

    #[test]
    fn the_signature_is_the_published_scheme() {
        // echo -n '12345.{"id":1}' | openssl dgst -sha256 -hmac whsec_test
        let header = sign("whsec_test", 12345, r#"{"id":1}"#);
        assert_eq!(header, "t=12345,v1=f7203a2ed655aba44095a747a3bdcf802f302a10223780e80f377fef857a9fb1");
    }
}
