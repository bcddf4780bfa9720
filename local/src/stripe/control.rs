//! Playing the outside world: buyers, banks and bad networks. The same operations over HTTP are in `control_http`.

use std::sync::{Arc, PoisonError};

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::checkout::Payer;
use super::delivery::{self, Attempt, Signature};
use super::engine::{Engine, Origin, number, text};
use super::error::ApiError;
use super::faults::Fault;
use super::store::Kind;
use super::{cards, checkout, disputes, endpoints, money, payment_intents, payment_methods};

/// How an event is sent again on purpose. Each sending is tried once, whatever the endpoint answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Redelivery {
    /// How many times, 1 to 1000.
    pub times: u32,
    /// Seconds to wait first.
    pub delay_s: u32,
    /// Added to the time in the signature: -301 is a signature too old for a receiver that tolerates 300 seconds.
    pub timestamp_offset_s: i64,
    /// How it is signed.
    pub signature: Signature,
}

impl Default for Redelivery {
    fn default() -> Self {
        Self { times: 1, delay_s: 0, timestamp_offset_s: 0, signature: Signature::Valid }
    }
}

/// The order in which held deliveries are let go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseOrder {
    /// As they came about.
    Created,
    /// The last first.
    Reversed,
    /// Mixed; the same seed gives the same order.
    Shuffled {
        /// Where the mixing starts.
        seed: u64,
    },
    /// These events, in this order. Others stay held, and holding stays on.
    Events(Vec<String>),
}

/// The buyer's side of a payment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Payment {
    /// Test card number; absent is the card that always works.
    pub card: Option<String>,
    /// The buyer's address, when the session does not know it.
    pub email: Option<String>,
    /// The buyer's name.
    pub name: Option<String>,
    /// By a slow method: the session completes unpaid, and the money comes with [`Control::settle`].
    pub later: bool,
}

/// Handle for tests and for the control interface.
#[derive(Debug, Clone)]
pub struct Control {
    engine: Arc<Engine>,
}

impl Control {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    /// Pays for an open session; answers it as it is then.
    ///
    /// # Errors
    /// A declined card (402), an unknown card number (402), a session that is unknown (404) or not open (400).
    pub async fn pay(&self, session: &str, payment: Payment) -> Result<Value, ApiError> {
        let session = session.to_owned();
        let run = self.engine.run(Origin::default(), move |tx| {
            let number = payment.card.as_deref().unwrap_or("4242424242424242");
            let card = cards::by_number(number).ok_or_else(payment_methods::unknown_number)?;
            let payer = Payer { card, email: payment.email, name: payment.name, later: payment.later };
            checkout::pay(tx, &session, &payer)
        });
        run.await
    }

    /// A buyer whose card is declined, and who gives up for now: the session stays open.
    ///
    /// # Errors
    /// A session that is unknown (404) or not open (400).
    pub async fn decline(&self, session: &str) -> Result<Value, ApiError> {
        let card = Some("4000000000000002".to_owned());
        match self.pay(session, Payment { card, ..Payment::default() }).await {
            Err(error) if error.status == 402 => self.object(Kind::Session, "checkout.session", session).await,
            other => other,
        }
    }

    /// Lets a session expire now instead of at its `expires_at`.
    ///
    /// # Errors
    /// A session that is unknown (404) or not open (400).
    pub async fn abandon(&self, session: &str) -> Result<Value, ApiError> {
        let session = session.to_owned();
        let params = super::form::Params::default();
        self.engine.run(Origin::default(), move |tx| checkout::expire(tx, &session, &params)).await
    }

    /// Ends a payment made with [`Payment::later`]: the money arrives, or does not.
    ///
    /// # Errors
    /// A session that is unknown (404) or has no payment under way (400).
    pub async fn settle(&self, session: &str, arrived: bool) -> Result<Value, ApiError> {
        let session = session.to_owned();
        self.engine.run(Origin::default(), move |tx| checkout::settle(tx, &session, arrived)).await
    }

    /// Gives back `amount` cents of a charge, or what is left of it.
    ///
    /// # Errors
    /// As `POST /v1/refunds`.
    pub async fn refund(&self, charge: &str, amount: Option<i64>) -> Result<Value, ApiError> {
        let charge = charge.to_owned();
        self.engine.run(Origin::default(), move |tx| money::refund(tx, &charge, amount, None, json!({}))).await
    }

    /// The holder disputes a charge, or `amount` cents of it.
    ///
    /// # Errors
    /// An unknown charge (404), one that cannot be disputed, or an unknown reason (400).
    pub async fn dispute(&self, charge: &str, reason: &str, amount: Option<i64>) -> Result<Value, ApiError> {
        let (charge, reason) = (charge.to_owned(), reason.to_owned());
        self.engine.run(Origin::default(), move |tx| disputes::open(tx, &charge, &reason, amount)).await
    }

    /// The bank decides a dispute.
    ///
    /// # Errors
    /// An unknown dispute (404) or a closed one (400).
    pub async fn decide_dispute(&self, dispute: &str, won: bool) -> Result<Value, ApiError> {
        let dispute = dispute.to_owned();
        self.engine.run(Origin::default(), move |tx| disputes::decide(tx, &dispute, won)).await
    }

    /// The holder answers a request for authentication.
    ///
    /// # Errors
    /// An unknown payment intent (404) or one that does not wait for an answer (400).
    pub async fn authenticate(&self, intent: &str, agreed: bool) -> Result<Value, ApiError> {
        let intent = intent.to_owned();
        self.engine.run(Origin::default(), move |tx| payment_intents::authenticate(tx, &intent, agreed)).await
    }

    /// Sends an event again to every endpoint that wants it. Answers the ids of the deliveries.
    ///
    /// # Errors
    /// An unknown event (404), or a number of times outside 1 to 1000 (400).
    pub async fn redeliver(&self, event: &str, how: Redelivery) -> Result<Vec<String>, ApiError> {
        let event = event.to_owned();
        let run = self.engine.run(Origin::default(), move |tx| {
            if !(1..=1000).contains(&how.times) {
                return Err(ApiError::invalid("times must be between 1 and 1000"));
            }
            let found = tx.load(Kind::Event, "event", &event)?;
            let attempt = Attempt {
                delay_ms: i64::from(how.delay_s) * 1000,
                timestamp_offset_s: how.timestamp_offset_s,
                signature: how.signature,
                once: true,
            };
            let mut ids = Vec::new();
            for endpoint in endpoints::wanting(tx, text(&found, "type")) {
                for _ in 0..how.times {
                    ids.push(delivery::enqueue(tx, &event, &endpoint, attempt));
                }
            }
            Ok(ids)
        });
        run.await
    }

    /// Holds new deliveries back until they are released. Those already queued go on.
    ///
    /// # Errors
    /// When the state cannot be saved (500).
    pub async fn hold_deliveries(&self) -> Result<(), ApiError> {
        let run = self.engine.run(Origin::default(), |tx| {
            delivery::hold(tx, true);
            Ok(())
        });
        run.await
    }

    /// Lets held deliveries go in the given order and ends the holding, except for [`ReleaseOrder::Events`]. Answers their
    /// ids in the order of sending; each endpoint is sent one after the other.
    ///
    /// # Errors
    /// When an event named is not held (400).
    pub async fn release_deliveries(&self, order: ReleaseOrder) -> Result<Vec<String>, ApiError> {
        let run = self.engine.run(Origin::default(), move |tx| {
            let mut held: Vec<(String, String, i64)> = Vec::new();
            for row in tx.store.rows(Kind::Delivery).filter(|row| row["state"] == "held") {
                held.push((text(row, "id").to_owned(), text(row, "event").to_owned(), number(row, "place")));
            }
            held.sort_by_key(|(_, _, place)| *place);
            match &order {
                ReleaseOrder::Created => {}
                ReleaseOrder::Reversed => held.reverse(),
                ReleaseOrder::Shuffled { seed } => held.shuffle(&mut rand::rngs::StdRng::seed_from_u64(*seed)),
                ReleaseOrder::Events(events) => {
                    let all = std::mem::take(&mut held);
                    for event in events {
                        let before = held.len();
                        held.extend(all.iter().filter(|(_, of, _)| of == event).cloned());
                        if held.len() == before {
                            return Err(ApiError::invalid(format!("no delivery of {event} is held")));
                        }
                    }
                }
            }
            let ids: Vec<String> = held.into_iter().map(|(id, ..)| id).collect();
            if !matches!(order, ReleaseOrder::Events(_)) {
                delivery::hold(tx, false);
            }
            delivery::release(tx, &ids)?;
            Ok(ids)
        });
        run.await
    }

    /// The deliveries of an event, or all, oldest first: `state` is `pending`, `held`, `delivered`, `refused` (sent once on
    /// purpose, not answered 2xx) or `dropped` (its endpoint is gone).
    ///
    /// # Errors
    /// When the state cannot be read (500).
    pub async fn deliveries(&self, event: Option<&str>) -> Result<Value, ApiError> {
        let event = event.map(str::to_owned);
        self.engine.run(Origin::default(), move |tx| Ok(delivery::list(tx, event.as_deref()))).await
    }

    /// Makes API requests fail or wait.
    ///
    /// # Errors
    /// A fault that makes no sense (400).
    pub fn add_fault(&self, fault: Fault) -> Result<(), ApiError> {
        if let Some(problem) = fault.problem() {
            return Err(ApiError::invalid(problem));
        }
        self.engine.faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
        Ok(())
    }

    /// The faults still to come.
    pub fn faults(&self) -> Vec<Fault> {
        self.engine.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.engine.faults.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn object(&self, kind: Kind, name: &'static str, id: &str) -> Result<Value, ApiError> {
        let id = id.to_owned();
        self.engine.run(Origin::default(), move |tx| tx.load(kind, name, &id)).await
    }
}
