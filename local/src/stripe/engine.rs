//! One transaction at a time over the state, with what every handler needs: the time, ids, events.

use std::sync::{Arc, Mutex, PoisonError};

use rand::Rng as _;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::config::Config;
use super::error::ApiError;
use super::faults::Fault;
use super::store::{Kind, Store};
use crate::clock::Clock;

/// The API version objects are rendered in, and the default of `Stripe-Version`.
pub(super) const API_VERSION: &str = "2026-09-30.endive";

/// The state and everything around it.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) config: Config,
    pub(super) clock: Arc<dyn Clock>,
    /// Where the hosted pages are reached.
    pub(super) public_url: String,
    pub(super) faults: Mutex<Vec<Fault>>,
    /// Wakes the delivery workers.
    pub(super) wake: Notify,
    store: Mutex<Store>,
}

impl Engine {
    pub(super) fn new(config: Config, clock: Arc<dyn Clock>, store: Store, public_url: String) -> Self {
        Self { config, clock, public_url, faults: Mutex::default(), wake: Notify::new(), store: Mutex::new(store) }
    }

    /// Runs `work` as one transaction. It lasts when `work` succeeds, or fails in a way that keeps its effects.
    pub(super) fn transact<T>(
        &self,
        origin: Origin,
        work: impl FnOnce(&mut Tx<'_>) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        // A panic in a handler may have left changes that were never committed.
        let mut store = self.store.lock().unwrap_or_else(|poisoned| {
            let mut store = PoisonError::into_inner(poisoned);
            store.roll_back();
            self.store.clear_poison();
            store
        });
        let now = self.clock.now().as_second();
        let mut tx = Tx { store: &mut store, engine: self, now, origin };
        let outcome = work(&mut tx);
        match &outcome {
            Err(error) if !error.keeps_effects => store.roll_back(),
            _ => store.commit().map_err(|error| {
                tracing::error!(error = &error as &dyn std::error::Error, "the state could not be saved: {error}");
                ApiError::server(500, "the stand-in could not save its state")
            })?,
        }
        drop(store);
        self.wake.notify_waiters();
        outcome
    }

    /// Like [`Engine::transact`], away from the threads that serve connections: committing waits for the disk.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        origin: Origin,
        work: impl FnOnce(&mut Tx<'_>) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let engine = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || engine.transact(origin, work)).await;
        done.unwrap_or_else(|error| {
            tracing::error!("a request handler panicked: {error}");
            Err(ApiError::server(500, "the stand-in failed to handle this request"))
        })
    }
}

/// Who started a transaction; events repeat it.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    pub(super) request_id: Option<String>,
    pub(super) idempotency_key: Option<String>,
}

/// A running transaction.
pub(super) struct Tx<'e> {
    pub(super) store: &'e mut Store,
    pub(super) engine: &'e Engine,
    /// Seconds since 1970.
    pub(super) now: i64,
    origin: Origin,
}

/// `length` random letters and digits.
pub(super) fn random(length: usize) -> String {
    rand::rng().sample_iter(rand::distr::Alphanumeric).take(length).map(char::from).collect()
}

/// An id in Stripe's shape: `pi_` and 24 letters and digits.
pub(super) fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", random(24))
}

impl Tx<'_> {
    pub(super) fn get(&self, kind: Kind, id: &str) -> Option<Value> {
        self.store.get(kind, id).cloned()
    }

    /// The object behind an id in the path.
    pub(super) fn load(&self, kind: Kind, object: &str, id: &str) -> Result<Value, ApiError> {
        self.get(kind, id).ok_or_else(|| ApiError::not_found(object, id))
    }

    /// Stores an object under its own `id`.
    pub(super) fn save(&mut self, kind: Kind, object: &Value) {
        let id = text(object, "id").to_owned();
        self.store.put(kind, &id, Some(object.clone()));
    }

    /// Records an event about `object` as it is now, and a delivery of it to every endpoint that wants it.
    pub(super) fn emit(&mut self, name: &str, object: &Value, previous: Option<Value>) {
        let id = new_id("evt");
        let mut data = json!({ "object": object });
        if let Some(previous) = previous {
            data["previous_attributes"] = previous;
        }
        let endpoints = super::endpoints::wanting(self, name);
        let event = json!({
            "id": id,
            "object": "event",
            "api_version": API_VERSION,
            "created": self.now,
            "data": data,
            "livemode": false,
            "pending_webhooks": endpoints.len(),
            "request": { "id": self.origin.request_id, "idempotency_key": self.origin.idempotency_key },
            "type": name,
        });
        self.save(Kind::Event, &event);
        for endpoint in endpoints {
            super::delivery::enqueue(self, &id, &endpoint, super::delivery::Attempt::default());
        }
    }
}

/// A text field, or `""`.
pub(super) fn text<'v>(object: &'v Value, field: &str) -> &'v str {
    object[field].as_str().unwrap_or_default()
}

/// An integer field, or 0.
pub(super) fn number(object: &Value, field: &str) -> i64 {
    object[field].as_i64().unwrap_or_default()
}
