//! The state: tables of JSON objects in memory, each change first appended to a journal and synced.
//!
//! A transaction changes the tables at once and remembers what was there; committing writes one journal line with every
//! object it touched, and anything else puts the old objects back. One line is therefore one request, whole or not at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::journal::{Journal, JournalError};

/// The tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Customer,
    Product,
    Price,
    Session,
    /// The line items of a session, by session id.
    LineItems,
    PaymentIntent,
    SetupIntent,
    PaymentMethod,
    /// How a payment method's card behaves, by payment method id.
    Card,
    PortalSession,
    Invoice,
    Charge,
    Refund,
    Dispute,
    BalanceTransaction,
    Event,
    WebhookEndpoint,
    /// Secrets of endpoints made through the API, by endpoint id.
    EndpointSecret,
    Delivery,
    Idempotency,
    /// When a payment made by a slow method will settle, by session id.
    Settlement,
    /// Switches such as "hold deliveries".
    Switch,
}

/// One object of one transaction; `None` removes it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Write {
    pub(super) kind: Kind,
    pub(super) id: String,
    pub(super) value: Option<Value>,
}

/// An object and its position in the order of creation.
type Row = (u64, Value);

#[derive(Debug, Default)]
struct Table {
    /// Position of each object in the order of creation.
    order: BTreeMap<u64, String>,
    rows: HashMap<String, Row>,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    tables: BTreeMap<Kind, Table>,
    next_position: u64,
    /// Deliveries that still want an attempt, by their place in the queue.
    queue: BTreeSet<(i64, String)>,
    journal: Option<Journal>,
    undo: Vec<(Kind, String, Option<Row>)>,
}

impl Store {
    /// Opens the journal in `directory` and replays it; without a directory nothing outlives the process.
    pub(super) fn open(directory: Option<&Path>) -> Result<Self, JournalError> {
        let mut store = Self::default();
        if let Some(directory) = directory {
            let journal = Journal::open(directory, |writes| {
                for write in writes {
                    store.set(write.kind, &write.id, write.value, None);
                }
            })?;
            store.journal = Some(journal);
        }
        Ok(store)
    }

    pub(super) fn get(&self, kind: Kind, id: &str) -> Option<&Value> {
        Some(&self.tables.get(&kind)?.rows.get(id)?.1)
    }

    /// All objects of a kind, oldest first.
    pub(super) fn rows(&self, kind: Kind) -> impl DoubleEndedIterator<Item = &Value> {
        let table = self.tables.get(&kind);
        table
            .into_iter()
            .flat_map(|table| table.order.values().filter_map(move |id| table.rows.get(id).map(|(_, value)| value)))
    }

    /// Ids of the deliveries that want an attempt, in the order they should be made.
    pub(super) fn queued(&self) -> impl Iterator<Item = &str> {
        self.queue.iter().map(|(_, id)| id.as_str())
    }

    /// Writes or removes an object within the running transaction.
    pub(super) fn put(&mut self, kind: Kind, id: &str, value: Option<Value>) {
        let before = self.tables.get(&kind).and_then(|table| table.rows.get(id)).cloned();
        self.undo.push((kind, id.to_owned(), before));
        self.set(kind, id, value, None);
    }

    /// `at` is the position a row that is put back had before.
    fn set(&mut self, kind: Kind, id: &str, value: Option<Value>, at: Option<u64>) {
        if kind == Kind::Delivery {
            if let Some(place) = self.get(kind, id).and_then(queue_key) {
                self.queue.remove(&(place, id.to_owned()));
            }
            if let Some(place) = value.as_ref().and_then(queue_key) {
                self.queue.insert((place, id.to_owned()));
            }
        }
        let next = self.next_position;
        let table = self.tables.entry(kind).or_default();
        match value {
            Some(value) => {
                let position = table.rows.get(id).map_or(at.unwrap_or(next), |(position, _)| *position);
                self.next_position = next.max(position + 1);
                table.order.insert(position, id.to_owned());
                table.rows.insert(id.to_owned(), (position, value));
            }
            None => {
                if let Some((position, _)) = table.rows.remove(id) {
                    table.order.remove(&position);
                }
            }
        }
    }

    /// Makes the transaction last. On failure it is undone.
    pub(super) fn commit(&mut self) -> Result<(), JournalError> {
        let undo = std::mem::take(&mut self.undo);
        if undo.is_empty() {
            return Ok(());
        }
        let mut seen = BTreeSet::new();
        let touched = undo.iter().filter(|(kind, id, _)| seen.insert((*kind, id.as_str())));
        let writes: Vec<Write> = touched
            .map(|(kind, id, _)| Write { kind: *kind, id: id.clone(), value: self.get(*kind, id).cloned() })
            .collect();
        let outcome = self.journal.as_mut().map_or(Ok(()), |journal| journal.append(&writes));
        if outcome.is_err() {
            self.undo = undo;
            self.roll_back();
        }
        outcome
    }

    /// Undoes everything since the last commit.
    pub(super) fn roll_back(&mut self) {
        for (kind, id, before) in std::mem::take(&mut self.undo).into_iter().rev() {
            let (position, value) = before.unzip();
            self.set(kind, &id, value, position);
        }
    }
}

/// The place in the queue of a delivery that wants an attempt.
fn queue_key(delivery: &Value) -> Option<i64> {
    (delivery["state"] == "pending").then(|| delivery["place"].as_i64().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_transaction_that_fails_leaves_nothing() {
        let mut store = Store::default();
        store.put(Kind::Customer, "a", Some(json!({ "n": 1 })));
        store.commit().unwrap();
        store.put(Kind::Customer, "a", Some(json!({ "n": 2 })));
        store.put(Kind::Customer, "b", Some(json!({ "n": 3 })));
        store.put(Kind::Delivery, "d", Some(json!({ "state": "pending", "place": 4 })));
        store.roll_back();
        assert_eq!(store.rows(Kind::Customer).collect::<Vec<_>>(), [&json!({ "n": 1 })]);
        assert_eq!(store.queued().count(), 0);
    }

    #[test]
    fn the_queue_follows_the_state_of_a_delivery() {
        let mut store = Store::default();
        for (id, place) in [("x", 2), ("y", 1)] {
            store.put(Kind::Delivery, id, Some(json!({ "state": "pending", "place": place })));
        }
        assert_eq!(store.queued().collect::<Vec<_>>(), ["y", "x"]);
        store.put(Kind::Delivery, "y", Some(json!({ "state": "delivered", "place": 1 })));
        assert_eq!(store.queued().collect::<Vec<_>>(), ["x"]);
    }
}
