//! What the stand-in is started with.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where signed events are sent.
#[derive(Clone)]
pub struct EndpointConfig {
    /// Full address, such as `http://127.0.0.1:3100/api/billing/webhook`.
    pub url: String,
    /// The signing secret, the whole `whsec_…` text.
    pub secret: String,
    /// Event types to send; empty or `*` sends all.
    pub enabled_events: Vec<String>,
}

impl EndpointConfig {
    /// An endpoint that is sent every event.
    pub fn all_events(url: impl Into<String>, secret: impl Into<String>) -> Self {
        Self { url: url.into(), secret: secret.into(), enabled_events: Vec::new() }
    }
}

impl fmt::Debug for EndpointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointConfig")
            .field("url", &self.url)
            .field("enabled_events", &self.enabled_events)
            .finish_non_exhaustive()
    }
}

/// A credit pack, seeded as a price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreditPack {
    /// Price id, such as `price_wopr_credits_25`.
    pub price_id: String,
    /// What it costs, in US cents.
    pub amount_cents: i64,
}

impl CreditPack {
    /// The five packs of 5, 10, 25, 50 and 100 dollars, as `price_wopr_credits_5` and so on.
    pub fn standard() -> Vec<Self> {
        [5, 10, 25, 50, 100]
            .map(|dollars| Self { price_id: format!("price_wopr_credits_{dollars}"), amount_cents: dollars * 100 })
            .into()
    }
}

/// How the stand-in runs. `Debug` shows no secret.
#[derive(Clone)]
pub struct Config {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where a browser reaches the hosted pages, without a slash at the end; `None` is the address listened on.
    pub public_url: Option<String>,
    /// Where the journal is kept; `None` keeps everything in memory.
    pub data_dir: Option<PathBuf>,
    /// Accepted secret keys, such as `sk_test_…`. At least one.
    pub api_keys: Vec<String>,
    /// Where events are sent, besides endpoints made through the API.
    pub webhook_endpoints: Vec<EndpointConfig>,
    /// Prices that exist from the start.
    pub credit_packs: Vec<CreditPack>,
    /// Opens `/_control/…` to whoever sends it as bearer token; `None` opens it to loopback addresses only.
    pub control_key: Option<String>,
    /// Wait before the first retry of a delivery; doubled each time.
    pub retry_first: Duration,
    /// Longest wait between retries.
    pub retry_max: Duration,
    /// How long an endpoint may take to answer.
    pub delivery_timeout: Duration,
    /// After how long a payment by a slow method settles by itself; `None` leaves it to the control interface.
    pub settle_after: Option<Duration>,
}

impl Config {
    /// In memory, on a free loopback port, with the standard packs and no endpoint.
    pub fn for_tests(api_key: impl Into<String>) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            public_url: None,
            data_dir: None,
            api_keys: vec![api_key.into()],
            webhook_endpoints: Vec::new(),
            credit_packs: CreditPack::standard(),
            control_key: None,
            retry_first: Duration::from_secs(1),
            retry_max: Duration::from_mins(1),
            delivery_timeout: Duration::from_secs(10),
            settle_after: None,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("public_url", &self.public_url)
            .field("data_dir", &self.data_dir)
            .field("webhook_endpoints", &self.webhook_endpoints)
            .field("credit_packs", &self.credit_packs)
            .field("retry_first", &self.retry_first)
            .field("retry_max", &self.retry_max)
            .field("delivery_timeout", &self.delivery_timeout)
            .field("settle_after", &self.settle_after)
            .finish_non_exhaustive()
    }
}
