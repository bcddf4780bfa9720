//! The Rust client, which decodes strictly, against the stand-in.

use std::collections::HashMap;

use stripe::{Client, ClientBuilder, IdempotencyKey, RequestStrategy, StripeError, StripeRequest as _};
use stripe_billing::billing_portal_session::CreateBillingPortalSession;
use stripe_billing::invoice::ListInvoice;
use stripe_checkout::CheckoutSessionMode;
use stripe_checkout::checkout_session::{
    CreateCheckoutSession, CreateCheckoutSessionInvoiceCreation, CreateCheckoutSessionLineItems,
    CreateCheckoutSessionPaymentIntentData, ListCheckoutSession, RetrieveCheckoutSession,
};
use stripe_core::balance_transaction::ListBalanceTransaction;
use stripe_core::charge::ListCharge;
use stripe_core::customer::{CreateCustomer, DeleteCustomer, RetrieveCustomer, RetrieveCustomerReturned};
use stripe_core::payment_intent::{CreatePaymentIntent, CreatePaymentIntentOffSession};
use stripe_core::refund::CreateRefund;
use stripe_core::setup_intent::CreateSetupIntent;
use stripe_payment::payment_method::{AttachPaymentMethod, DetachPaymentMethod, ListPaymentMethod};
use stripe_types::Currency;
use wopr_local::stripe::Payment;

use crate::support::{KEY, http, plain_standin};

fn client(base: &str) -> Client {
    // Installs the TLS provider the client looks for.
    let _http = http();
    ClientBuilder::new(KEY).url(base).build().unwrap()
}

#[tokio::test]
async fn a_customer_buys_and_saves_a_card_and_is_charged_and_refunded() {
    let (standin, _) = plain_standin().await;
    let client = client(standin.base_url());
    let key = || RequestStrategy::Idempotent(IdempotencyKey::new("customer:tenant-1").unwrap());
    let create = || {
        CreateCustomer::new()
            .email("a@example.com")
            .metadata(HashMap::from([("wopr_tenant".into(), "tenant-1".into())]))
    };
    let customer = create().customize().request_strategy(key()).send(&client).await.unwrap();
    let again = create().customize().request_strategy(key()).send(&client).await.unwrap();
    assert_eq!(customer.id, again.id);

    let session = CreateCheckoutSession::new()
        .mode(CheckoutSessionMode::Payment)
        .customer(customer.id.to_string())
        .client_reference_id("tenant-1")
        .success_url("http://shop.example/")
        .line_items(vec![CreateCheckoutSessionLineItems {
            price: Some("price_wopr_credits_50".into()),
            quantity: Some(1),
            ..CreateCheckoutSessionLineItems::new()
        }])
        .payment_intent_data(CreateCheckoutSessionPaymentIntentData {
            metadata: Some(HashMap::from([("wopr_checkout".into(), "tenant-1".into())])),
            ..CreateCheckoutSessionPaymentIntentData::new()
        })
        .invoice_creation(CreateCheckoutSessionInvoiceCreation::new(true))
        .send(&client)
        .await
        .unwrap();
    standin.control().pay(session.id.as_str(), Payment::default()).await.unwrap();
    let paid = RetrieveCheckoutSession::new(session.id.clone())
        .expand(vec!["payment_intent.latest_charge".into(), "line_items".into(), "customer".into(), "invoice".into()])
        .send(&client)
        .await
        .unwrap();
    assert_eq!(paid.amount_total, Some(5000));
    assert_eq!(paid.line_items.unwrap().data[0].amount_total, 5000);
    let intent = paid.payment_intent.unwrap().into_object().unwrap();
    assert_eq!((intent.amount_received, intent.metadata["wopr_checkout"].as_str()), (5000, "tenant-1"));
    assert!(intent.latest_charge.unwrap().into_object().unwrap().paid);
    assert_eq!(ListCheckoutSession::new().send(&client).await.unwrap().data.len(), 1);
    let invoices = ListInvoice::new().customer(customer.id.to_string()).send(&client).await.unwrap();
    assert_eq!(invoices.data[0].amount_paid, 5000);

    let setup = CreateSetupIntent::new().customer(customer.id.to_string()).send(&client).await.unwrap();
    assert!(setup.client_secret.unwrap().starts_with(setup.id.as_str()));
    let card = AttachPaymentMethod::new("pm_card_visa").customer(customer.id.to_string()).send(&client).await.unwrap();
    let cards = ListPaymentMethod::new().customer(customer.id.to_string()).send(&client).await.unwrap();
    assert_eq!(cards.data[0].card.as_ref().unwrap().last4, "4242");

    let charged = CreatePaymentIntent::new(2000, Currency::USD)
        .customer(customer.id.to_string())
        .payment_method(card.id.to_string())
        .off_session(CreatePaymentIntentOffSession::Bool(true))
        .confirm(true)
        .send(&client)
        .await
        .unwrap();
    let refund = CreateRefund::new().payment_intent(charged.id.to_string()).amount(500).send(&client).await.unwrap();
    assert_eq!(refund.amount, 500);
    let rows = ListBalanceTransaction::new().expand(vec!["data.source".into()]).send(&client).await.unwrap();
    assert_eq!(rows.data.iter().map(|row| row.amount).sum::<i64>(), 5000 + 2000 - 500);
    assert_eq!(ListCharge::new().expand(vec!["data.refunds".into()]).send(&client).await.unwrap().data.len(), 2);

    let portal = CreateBillingPortalSession::new().customer(customer.id.to_string()).return_url("http://shop.example/");
    let portal = portal.send(&client).await.unwrap();
    let page = http().get(&portal.url).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("visa ending 4242"), "{page}");

    DetachPaymentMethod::new(card.id.clone()).send(&client).await.unwrap();
    DeleteCustomer::new(customer.id.clone()).send(&client).await.unwrap();
    let gone = RetrieveCustomer::new(customer.id.clone()).send(&client).await.unwrap();
    assert!(matches!(gone, RetrieveCustomerReturned::DeletedCustomer(_)));
}

#[tokio::test]
async fn refusals_are_decoded_too() {
    let (standin, _) = plain_standin().await;
    let client = client(standin.base_url());
    let declined = CreatePaymentIntent::new(2000, Currency::USD)
        .payment_method("pm_card_chargeDeclined")
        .confirm(true)
        .send(&client)
        .await
        .unwrap_err();
    let StripeError::Stripe(error, 402) = declined else { panic!("{declined:?}") };
    assert_eq!(error.decline_code.as_deref(), Some("generic_decline"));
    assert!(error.payment_intent.is_some());
    let missing = RetrieveCustomer::new("cus_none").send(&client).await.unwrap_err();
    assert!(matches!(missing, StripeError::Stripe(_, 404)), "{missing:?}");
}
