//! The Stripe stand-in as a program.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use wopr_local::clock::SystemClock;
use wopr_local::stripe::{Config, CreditPack, EndpointConfig, StripeStandin};
use wopr_local::{process, secret};

/// A double of Stripe for local stacks and tests.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Address to listen on.
    #[arg(long, env = "STRIPE_STANDIN_LISTEN", default_value = "127.0.0.1:12111")]
    listen: SocketAddr,
    /// Where a browser reaches the hosted pages; by default the address listened on.
    #[arg(long, env = "STRIPE_STANDIN_PUBLIC_URL")]
    public_url: Option<String>,
    /// Where the journal is kept; without it nothing outlives the process.
    #[arg(long, env = "STRIPE_STANDIN_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Accepted secret keys, separated by commas.
    #[arg(long, env = "STRIPE_SECRET_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// File with the accepted secret keys.
    #[arg(long, env = "STRIPE_SECRET_KEY_FILE")]
    api_key_file: Option<PathBuf>,
    /// Where events are sent; may be given several times, or separated by commas.
    #[arg(long, env = "STRIPE_STANDIN_WEBHOOK_URL", value_delimiter = ',')]
    webhook_url: Vec<String>,
    /// The secret events are signed with, the whole `whsec_…` text.
    #[arg(long, env = "STRIPE_WEBHOOK_SECRET", hide_env_values = true)]
    webhook_secret: Option<String>,
    /// File with that secret.
    #[arg(long, env = "STRIPE_WEBHOOK_SECRET_FILE")]
    webhook_secret_file: Option<PathBuf>,
    /// Opens the control interface to whoever sends this; without it, to loopback addresses only.
    #[arg(long, env = "STRIPE_STANDIN_CONTROL_KEY", hide_env_values = true)]
    control_key: Option<String>,
    /// File with that key.
    #[arg(long, env = "STRIPE_STANDIN_CONTROL_KEY_FILE")]
    control_key_file: Option<PathBuf>,
    /// Price id of the 5 dollar pack.
    #[arg(long, env = "STRIPE_CREDIT_PRICE_5", default_value = "price_wopr_credits_5")]
    price_5: String,
    /// Price id of the 10 dollar pack.
    #[arg(long, env = "STRIPE_CREDIT_PRICE_10", default_value = "price_wopr_credits_10")]
    price_10: String,
    /// Price id of the 25 dollar pack.
    #[arg(long, env = "STRIPE_CREDIT_PRICE_25", default_value = "price_wopr_credits_25")]
    price_25: String,
    /// Price id of the 50 dollar pack.
    #[arg(long, env = "STRIPE_CREDIT_PRICE_50", default_value = "price_wopr_credits_50")]
    price_50: String,
    /// Price id of the 100 dollar pack.
    #[arg(long, env = "STRIPE_CREDIT_PRICE_100", default_value = "price_wopr_credits_100")]
    price_100: String,
    /// Seconds until a payment made with "Pay later" arrives; 0 leaves it to the control interface.
    #[arg(long, env = "STRIPE_STANDIN_SETTLE_AFTER_S", default_value_t = 10)]
    settle_after_s: u64,
    /// Milliseconds before the first retry of a delivery; doubled each time.
    #[arg(long, env = "STRIPE_STANDIN_RETRY_FIRST_MS", default_value_t = 1000)]
    retry_first_ms: u64,
    /// Longest wait between retries, in milliseconds.
    #[arg(long, env = "STRIPE_STANDIN_RETRY_MAX_MS", default_value_t = 60_000)]
    retry_max_ms: u64,
}

impl Args {
    fn config(self) -> anyhow::Result<Config> {
        let keys = secret::resolve("the API key", self.api_key, self.api_key_file.as_deref())?
            .context("no API key: give --api-key, STRIPE_SECRET_KEY or STRIPE_SECRET_KEY_FILE")?;
        let webhook_secret =
            secret::resolve("the webhook secret", self.webhook_secret, self.webhook_secret_file.as_deref())?;
        let control_key = secret::resolve("the control key", self.control_key, self.control_key_file.as_deref())?;
        let urls: Vec<String> = self.webhook_url.into_iter().filter(|url| !url.trim().is_empty()).collect();
        let webhook_endpoints = match webhook_secret {
            Some(secret) => urls.into_iter().map(|url| EndpointConfig::all_events(url, secret.clone())).collect(),
            None if urls.is_empty() => Vec::new(),
            None => {
                bail!("a webhook address without a secret: give STRIPE_WEBHOOK_SECRET or STRIPE_WEBHOOK_SECRET_FILE")
            }
        };
        let prices = [self.price_5, self.price_10, self.price_25, self.price_50, self.price_100];
        let credit_packs = prices
            .into_iter()
            .zip([500, 1000, 2500, 5000, 10_000])
            .map(|(price_id, amount_cents)| CreditPack { price_id, amount_cents })
            .collect();
        Ok(Config {
            listen: self.listen,
            public_url: self.public_url.filter(|url| !url.is_empty()),
            data_dir: self.data_dir,
            api_keys: keys.split(',').map(|key| key.trim().to_owned()).collect(),
            webhook_endpoints,
            credit_packs,
            control_key,
            retry_first: Duration::from_millis(self.retry_first_ms),
            retry_max: Duration::from_millis(self.retry_max_ms),
            delivery_timeout: Duration::from_secs(10),
            settle_after: (self.settle_after_s > 0).then(|| Duration::from_secs(self.settle_after_s)),
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    process::start_logging();
    let signals = process::StopSignals::install()?;
    let standin = StripeStandin::start(Args::parse().config()?, Arc::new(SystemClock)).await?;
    process::announce("stripe stand-in", standin.base_url())?;
    signals.wait().await;
    standin.shutdown().await;
    Ok(())
}
