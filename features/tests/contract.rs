//! Stripe's adapter, over HTTP to the stand-in, keeps the contract of every payment provider.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use async_trait::async_trait;
use features::http::{Client, Request};
use wopr_core::adapters::stripe::StripeProvider;
use wopr_core::testing::{Payer, payment_provider_contract};
use wopr_local::clock::{Clock as _, SystemClock};
use wopr_local::stripe::{Config, Payment, StripeStandin};

const KEY: &str = "sk_test_contract";

struct StandinPayer {
    stripe: StripeStandin,
    client: Client,
}

#[async_trait]
impl Payer for StandinPayer {
    async fn pay(&self, session_id: &str) {
        self.stripe.control().pay(session_id, Payment::default()).await.unwrap();
    }

    async fn dispute(&self, charge_id: &str) {
        self.stripe.control().dispute(charge_id, "general", None).await.unwrap();
    }

    async fn save_method(&self, customer_id: &str) -> String {
        let url = format!("{}/v1/payment_methods/pm_card_visa/attach", self.stripe.base_url());
        let request = Request::post(url).bearer(KEY).form(&[("customer", customer_id)]);
        let method = self.client.send(request).await.unwrap().expect_status(200).unwrap().json().unwrap();
        method["id"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn stripe_keeps_the_contract_of_every_provider() {
    let client = Client::new().unwrap();
    let stripe = StripeStandin::start(Config::for_tests(KEY), Arc::new(SystemClock)).await.unwrap();
    let provider = StripeProvider::new(&KEY.to_owned().into(), Some(stripe.base_url())).unwrap();
    let payer = StandinPayer { stripe, client };
    let now = SystemClock.now();
    payment_provider_contract(&provider, &payer, "price_wopr_credits_25", 2_500, now).await;
    payer.stripe.shutdown().await;
}
