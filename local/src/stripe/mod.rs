//! A double of the part of Stripe that is used: the same paths, objects, errors and events, kept in a journal.
//!
//! Official clients work against it unmodified once they are told its address. Nothing that is sent is silently ignored:
//! a parameter the stand-in does not know is refused as Stripe refuses unknown ones, and features it does not play (other
//! checkout modes than `payment`, other methods than cards, tax, promotion codes, manual capture) are refused by name.
//!
//! # What is played
//!
//! `/v1/` customers, products, prices, checkout sessions, payment intents, setup intents, payment methods, billing portal
//! sessions, charges, refunds, disputes, balance, balance transactions, invoices of paid sessions, events, webhook
//! endpoints. Cursor lists, `created` filters, `expand[]` up to four levels, metadata rules, test cards and tokens,
//! `Idempotency-Key` for 24 hours, `Request-Id` and `Stripe-Version` headers.
//!
//! - `GET /c/pay/{session}` is the hosted page; a person pays, is declined, pays later, or cancels.
//! - `GET /p/session/{portal session}` shows saved cards and invoices.
//! - `GET /health` answers `{"status":"ok"}`.
//!
//! Checkout in payment mode makes a customer only for `customer_creation=always`, or when an invoice needs one; otherwise the
//! completed session has `customer: null`, as with Stripe.
//!
//! # Money
//!
//! Every charge, refund and dispute books a balance transaction: charges cost 2.9 % and 30 cents, a dispute costs 15 dollars,
//! and a won dispute brings the amount back without the fee. Money is pending for two days.
//!
//! # Events
//!
//! Signed with the whole `whsec_…` text, sent to each endpoint one at a time, repeated with growing waits until the endpoint
//! answers 2xx, also after a restart. A new signature is made for each attempt.
//!
//! # Control interface
//!
//! `POST` with a JSON body and `content-type: application/json`; the control key as bearer token, or, where none is
//! configured, from a loopback address. In a test the same operations are methods of [`Control`].
//!
//! | Path below `/_control` | Body |
//! |---|---|
//! | `/checkout/sessions/{id}/pay` | [`Payment`]: `card`, `email`, `name`, `later` |
//! | `/checkout/sessions/{id}/decline`, `…/abandon` | none: a declined card; expiry now |
//! | `/checkout/sessions/{id}/settle` | `arrived`: end of a payment made with `later` |
//! | `/charges/{id}/refund`, `…/dispute` | `amount`; `amount`, `reason` |
//! | `/disputes/{id}/win`, `…/lose` | none |
//! | `/payment_intents/{id}/authenticate` | `agreed` |
//! | `/events/{id}/redeliver` | [`Redelivery`]: `times`, `delay_s`, `timestamp_offset_s`, `signature` |
//! | `/deliveries/hold` | none |
//! | `/deliveries/release` | `order`: `"created"`, `"reversed"`, `{"shuffled":{"seed":1}}`, `{"events":["evt_…"]}` |
//! | `GET /deliveries?event=` | |
//! | `/faults` (also `GET`, `DELETE`) | [`Fault`]: `method`, `path`, `status`, `after`, `delay_ms`, `times` |
//!
//! # Durability
//!
//! With a data directory every request that changes something is one line of a journal, synced before it is answered. A kill
//! at any moment loses nothing that was answered. Faults are the exception: they end with the process.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::{any, get};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

mod api;
mod cards;
mod catalog;
mod checkout;
mod config;
mod control;
mod control_http;
mod customers;
mod delivery;
mod disputes;
mod endpoints;
mod engine;
mod error;
mod expand;
mod faults;
mod form;
mod invoices;
mod journal;
mod list;
mod money;
pub(crate) mod pages;
mod payment_intents;
mod payment_methods;
mod routes;
mod setup_intents;
mod store;

pub use config::{Config, CreditPack, EndpointConfig};
pub use control::{Control, Payment, Redelivery, ReleaseOrder};
pub use delivery::Signature;
pub use error::ApiError;
pub use faults::Fault;
pub use journal::JournalError;

use crate::clock::Clock;
use crate::process;
use engine::{Engine, Origin};

/// Why the stand-in did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration makes no sense.
    #[error("configuration: {0}")]
    Config(&'static str),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address wanted.
        address: SocketAddr,
        /// The system's word.
        source: std::io::Error,
    },
    /// The state could not be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The configured packs contradict the stored ones.
    #[error("credit packs: {0}")]
    Packs(ApiError),
    /// There is no client for deliveries.
    #[error(transparent)]
    Client(#[from] crate::http::NoClient),
}

/// A running stand-in. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct StripeStandin {
    address: SocketAddr,
    base_url: String,
    control: Control,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl StripeStandin {
    /// Reads the state back, listens, and serves until [`StripeStandin::shutdown`].
    ///
    /// # Errors
    /// [`StartError`]: nothing is served then.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        if config.api_keys.is_empty() || config.api_keys.iter().any(|key| key.trim().is_empty()) {
            return Err(StartError::Config("at least one API key is needed, and none may be empty"));
        }
        if config.webhook_endpoints.iter().any(|endpoint| endpoint.secret.is_empty()) {
            return Err(StartError::Config("a webhook endpoint without a secret could be forged"));
        }
        if config.control_key.as_ref().is_some_and(String::is_empty) {
            return Err(StartError::Config("an empty control key would open the control interface to everybody"));
        }
        let client = crate::http::client(config.delivery_timeout)?;
        let store = store::Store::open(config.data_dir.as_deref())?;
        let listen_error = |source| StartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let base_url = format!("http://{address}");
        let public_url = config.public_url.clone().unwrap_or_else(|| base_url.clone()).trim_end_matches('/').to_owned();

        let packs = config.credit_packs.clone();
        let engine = Arc::new(Engine::new(config, clock, store, public_url));
        let seeded = engine.run(Origin::default(), move |tx| {
            endpoints::seed(tx);
            catalog::seed(tx, &packs)
        });
        seeded.await.map_err(StartError::Packs)?;

        let (stop, stopped) = watch::channel(false);
        let app = router(&engine);
        let deliveries = tokio::spawn(delivery::run(Arc::clone(&engine), client, stopped.clone()));
        let serving = tokio::spawn(async move {
            let mut stopped = stopped;
            let service = app.into_make_service_with_connect_info::<SocketAddr>();
            let until = async move {
                // An error means the handle is gone, which is also a reason to stop.
                let _stopped = stopped.changed().await;
            };
            if let Err(error) = axum::serve(listener, service).with_graceful_shutdown(until).await {
                tracing::error!("serving failed: {error}");
            }
        });
        tracing::info!("Stripe stand-in listens on {address}");
        Ok(Self { address, base_url, control: Control::new(engine), stop, tasks: vec![deliveries, serving] })
    }

    /// Where the API is: `http://127.0.0.1:12345`, without `/v1`.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The address listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Buyers, banks and bad networks.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Stops: requests in progress are answered, deliveries in progress are repeated on the next start.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        process::finish(std::mem::take(&mut self.tasks)).await;
    }
}

impl Drop for StripeStandin {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

fn router(engine: &Arc<Engine>) -> Router {
    Router::new()
        .route("/v1/{*path}", any(api::handle))
        .route("/c/pay/{id}", get(pages::show_checkout).post(pages::submit_checkout))
        .route("/p/session/{id}", get(pages::show_portal).post(pages::submit_portal))
        .route("/health", get(async || axum::Json(json!({ "status": "ok" }))))
        .fallback(api::not_found)
        .with_state(Arc::clone(engine))
        .merge(control_http::router(engine))
}
