//! Payments on a real PostgreSQL and a provider in memory.

use std::sync::Arc;

use diesel::sql_types::{BigInt, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::SignedDuration;
use serde_json::{Value, json};
use wopr_core::audit::Origin;
use wopr_core::billing::payments::{
    CheckoutRequest, CheckoutSession, IdempotencyKey, PACKS, PaymentProvider as _, Payments, PaymentsConfig,
    PaymentsError, PriceList, Received, RedirectOrigins,
};
use wopr_core::billing::{Billing, BillingConfig, Standing, SuspensionReason};
use wopr_core::clock::Clock as _;
use wopr_core::ids::TenantId;
use wopr_core::money::Money;
use wopr_core::testing::{FixedClock, MemoryPayments, Payer, TestDb, payment_provider_contract};

const SECRET: &str = "whsec_test";
const PAGE: &str = "http://localhost:3000/dashboard";

struct Shop {
    test: TestDb,
    clock: FixedClock,
    billing: Billing,
    provider: MemoryPayments,
    payments: Payments,
}

#[derive(diesel::QueryableByName)]
struct Entry {
    #[diesel(sql_type = Text)]
    reference_key: String,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = BigInt)]
    amount_nanos: i64,
}

#[derive(diesel::QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

impl Shop {
    async fn open() -> Self {
        let test = TestDb::create().await;
        let clock = FixedClock::default();
        let billing = Billing::new(test.db.clone(), Arc::new(clock.clone()), BillingConfig::default());
        let prices = PACKS.iter().map(|(charged, _)| (format!("price_{}", charged / 100), *charged));
        let provider = MemoryPayments::new(Arc::new(clock.clone()), prices);
        let config = PaymentsConfig {
            webhook_secrets: vec![SECRET.into()],
            prices: PriceList::new(|dollars| Some(format!("price_{dollars}"))),
            redirects: RedirectOrigins::new(["http://localhost:3000"]).unwrap(),
            operator_email: Some("operator@example.com".to_owned()),
        };
        let payments = Payments::new(
            test.db.clone(),
            Arc::new(clock.clone()),
            billing.clone(),
            Some(Arc::new(provider.clone())),
            config,
        );
        Self { test, clock, billing, provider, payments }
    }

    async fn tenant(&self) -> TenantId {
        let tenant = TenantId::new(self.clock.now());
        let mut conn = self.test.db.connection().await.unwrap();
        diesel::sql_query("INSERT INTO tenants VALUES ($1, 'personal', 'x', now())")
            .bind::<SqlUuid, _>(tenant.as_uuid())
            .execute(&mut conn)
            .await
            .unwrap();
        tenant
    }

    async fn deliver(&self, event: &Value) -> Result<Received, PaymentsError> {
        let body = event.to_string();
        self.payments.receive_webhook(None, &self.sign(SECRET, &body), body.as_bytes()).await
    }

    fn sign(&self, secret: &str, body: &str) -> String {
        let seconds = self.clock.now().as_second();
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(format!("{seconds}.{body}").as_bytes());
        format!("t={seconds},v1={}", hex::encode(mac.finalize().into_bytes()))
    }

    async fn balance(&self, tenant: TenantId) -> Money {
        self.billing.balance(tenant).await.unwrap().balance
    }

    async fn ledger(&self) -> Vec<(String, String, i64)> {
        let mut conn = self.test.db.connection().await.unwrap();
        let entries: Vec<Entry> =
            diesel::sql_query("SELECT reference_key, kind, amount_nanos FROM ledger_transfers ORDER BY reference_key")
                .load(&mut conn)
                .await
                .unwrap();
        entries.into_iter().map(|entry| (entry.reference_key, entry.kind, entry.amount_nanos)).collect()
    }

    async fn count(&self, query: &str) -> i64 {
        let mut conn = self.test.db.connection().await.unwrap();
        let number: Number = diesel::sql_query(query).get_result(&mut conn).await.unwrap();
        number.value
    }

    /// Buys a pack up to the payment, of which nobody was told.
    async fn pay(&self, tenant: TenantId, dollars: i64) -> CheckoutSession {
        let request = CheckoutRequest {
            price_id: format!("price_{dollars}"),
            success_url: PAGE.to_owned(),
            cancel_url: PAGE.to_owned(),
        };
        let origin = Origin::system("test");
        let page = self.payments.checkout(&origin, tenant, Some("buyer@example.com"), &request).await.unwrap();
        self.provider.pay(&page.session_id).unwrap()
    }
}

fn event(id: &str, kind: &str, object: &Value) -> Value {
    json!({ "id": id, "type": kind, "created": 1_800_000_000, "data": { "object": object } })
}

fn completed(id: &str, session: &CheckoutSession) -> Value {
    let object = json!({
        "id": session.id, "mode": "payment", "payment_status": "paid", "amount_total": session.amount_total,
        "currency": "usd", "client_reference_id": session.client_reference_id, "customer": session.customer_id,
        "payment_intent": session.payment_intent_id,
        "metadata": { "wopr_tenant": session.tenant, "wopr_checkout": session.checkout },
    });
    event(id, "checkout.session.completed", &object)
}

/// A session as somebody else made it: the provider has a payment and we have no row.
fn foreign(id: &str, tenant: Option<TenantId>, cents: i64) -> Value {
    let tenant = tenant.map(|tenant| tenant.to_string());
    json!({
        "id": id, "mode": "payment", "payment_status": "paid", "amount_total": cents, "currency": "usd",
        "client_reference_id": tenant, "customer": null, "payment_intent": format!("pi_{id}"),
        "metadata": { "wopr_tenant": tenant },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pack_credits_what_it_promises_once() {
    let shop = Shop::open().await;
    for (charged, credit) in PACKS {
        let tenant = shop.tenant().await;
        let session = shop.pay(tenant, charged / 100).await;
        let first = shop.deliver(&completed(&format!("evt_{charged}"), &session)).await.unwrap();
        let credit = Money::try_from_cents(credit).unwrap();
        assert_eq!(
            (first.handled, first.duplicate, first.tenant, first.credited),
            (true, false, Some(tenant), Some(credit))
        );
        let again = shop.deliver(&completed(&format!("evt_{charged}"), &session)).await.unwrap();
        assert!(again.duplicate);
        // Another event about the same payment, as after a delayed method.
        let other = shop.deliver(&completed(&format!("evt_{charged}_b"), &session)).await.unwrap();
        assert_eq!(other.credited, Some(Money::ZERO));
        assert_eq!(shop.balance(tenant).await, credit);
    }
    assert_eq!(
        shop.count("SELECT count(*) AS value FROM mail_outbox WHERE template = 'credit-purchase-receipt'").await,
        5
    );
    assert_eq!(shop.count("SELECT count(*) AS value FROM checkout_sessions WHERE state = 'paid'").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_without_a_customer_is_credited_one_to_one() {
    let shop = Shop::open().await;
    let tenant = shop.tenant().await;
    let done = shop.deliver(&event("evt_1", "checkout.session.completed", &foreign("cs_1", Some(tenant), 3_000))).await;
    assert_eq!(done.unwrap().credited, Some(Money::from_cents(3_000)));
    assert_eq!(shop.balance(tenant).await, Money::from_cents(3_000));
    let unpaid = json!({ "id": "cs_2", "mode": "payment", "payment_status": "unpaid", "amount_total": 500,
        "currency": "usd", "client_reference_id": tenant.to_string() });
    let done = shop.deliver(&event("evt_2", "checkout.session.completed", &unpaid)).await.unwrap();
    assert!(!done.handled);
    let mut paid = unpaid;
    paid["payment_status"] = json!("paid");
    shop.deliver(&event("evt_3", "checkout.session.async_payment_succeeded", &paid)).await.unwrap();
    assert_eq!(shop.balance(tenant).await, Money::from_cents(3_500));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_of_somebody_else_does_not_stop_the_credit() {
    let shop = Shop::open().await;
    let (one, other) = (shop.tenant().await, shop.tenant().await);
    for (id, tenant) in [("cs_1", one), ("cs_2", other)] {
        let mut session = foreign(id, Some(tenant), 700);
        session["customer"] = json!("cus_shared");
        shop.deliver(&event(id, "checkout.session.completed", &session)).await.unwrap();
        assert_eq!(shop.balance(tenant).await, Money::from_cents(700));
    }
    // What names nobody belongs to whose customer paid.
    let mut session = foreign("cs_3", None, 100);
    session["customer"] = json!("cus_shared");
    shop.deliver(&event("cs_3", "checkout.session.completed", &session)).await.unwrap();
    assert_eq!(shop.balance(one).await, Money::from_cents(800));
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_names_nobody_waits_for_a_person_and_takes_its_refund_along() {
    let shop = Shop::open().await;
    let session = foreign("cs_1", Some(TenantId::new(shop.clock.now())), 3_000);
    let done = shop.deliver(&event("evt_1", "checkout.session.completed", &session)).await.unwrap();
    assert_eq!((done.handled, done.tenant), (true, None));
    let refund = json!({ "id": "re_1", "amount": 1_000, "currency": "usd", "payment_intent": "pi_cs_1" });
    shop.deliver(&event("evt_2", "refund.created", &refund)).await.unwrap();
    assert!(shop.ledger().await.is_empty());
    let waiting = shop.payments.unmatched().await.unwrap();
    assert_eq!((waiting.len(), waiting[0].paid_cents), (1, 3_000));
    assert_eq!(
        shop.count("SELECT count(*) AS value FROM mail_outbox WHERE recipient = 'operator@example.com'").await,
        1
    );
    let (tenant, stranger) = (shop.tenant().await, shop.tenant().await);
    let origin = Origin::system("test");
    for _ in 0..2 {
        shop.payments.assign_unmatched(&origin, waiting[0].id, tenant, None).await.unwrap();
        assert_eq!(shop.balance(tenant).await, Money::from_cents(2_000));
    }
    let refused = shop.payments.assign_unmatched(&origin, waiting[0].id, stranger, None).await;
    assert!(matches!(refused, Err(PaymentsError::AlreadyAssigned(_))), "{refused:?}");
    assert!(shop.payments.unmatched().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn any_order_and_repetition_ends_in_the_same_ledger() {
    let mut expected: Option<Vec<(String, String, i64)>> = None;
    for seed in 0..12_u64 {
        let shop = Shop::open().await;
        let tenant = shop.tenant().await;
        let dispute = |status| json!({ "id": "dp_1", "amount": 2_500, "currency": "usd", "payment_intent": "pi_cs_2", "status": status });
        let refund = |id: &str, cents: i64, status: &str| {
            json!({ "id": id, "amount": cents, "currency": "usd",
            "payment_intent": "pi_cs_1", "charge": "ch_1", "status": status })
        };
        let charge = json!({ "id": "ch_1", "payment_intent": "pi_cs_1", "refunds": { "data": [refund("re_1", 700, "succeeded")] } });
        let topup = json!({ "id": "pi_9", "amount_received": 900, "currency": "usd", "metadata": { "wopr_tenant": tenant.to_string() } });
        let own = json!({ "id": "pi_cs_1", "amount_received": 2_500, "currency": "usd",
            "metadata": { "wopr_checkout_tenant": tenant.to_string() } });
        let mut events = vec![
            event("evt_1", "checkout.session.completed", &foreign("cs_1", Some(tenant), 2_500)),
            event("evt_2", "checkout.session.completed", &foreign("cs_2", Some(tenant), 2_500)),
            event("evt_3", "payment_intent.succeeded", &own),
            event("evt_4", "payment_intent.succeeded", &topup),
            event("evt_5", "refund.created", &refund("re_1", 700, "pending")),
            event("evt_6", "charge.refunded", &charge),
            event("evt_7", "refund.created", &refund("re_2", 300, "pending")),
            event("evt_8", "refund.failed", &refund("re_2", 300, "failed")),
            event("evt_9", "charge.dispute.created", &dispute("needs_response")),
            event("evt_10", "charge.dispute.closed", &dispute("won")),
        ];
        events.extend(events.clone());
        shuffle(&mut events, seed);
        for event in &events {
            shop.deliver(event).await.unwrap();
        }
        shop.payments.process_webhooks().await.unwrap();
        let ledger: Vec<_> = shop.ledger().await;
        let state = shop.billing.standing(tenant).await.unwrap();
        assert_eq!(state, Standing::Active, "seed {seed}");
        // 2550 + 2550 + 900, less 700 ÷ 2500 of 2550.
        assert_eq!(shop.balance(tenant).await, Money::from_cents(6_000 - 714), "seed {seed}");
        assert_eq!(expected.get_or_insert_with(|| ledger.clone()), &ledger, "seed {seed}");
    }
}

/// Fisher–Yates with a linear congruential generator: the same order for the same seed.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for last in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pick = usize::try_from((state >> 33) % (last as u64 + 1)).unwrap();
        items.swap(last, pick);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_dispute_keeps_the_tenant_out_and_a_full_refund_takes_the_bonus() {
    let shop = Shop::open().await;
    let tenant = shop.tenant().await;
    let session = shop.pay(tenant, 25).await;
    shop.deliver(&completed("evt_1", &session)).await.unwrap();
    assert_eq!(shop.balance(tenant).await, Money::from_cents(2_550));
    let key = IdempotencyKey::refund("operation-1").unwrap();
    let payment = session.payment_intent_id.unwrap();
    let refund = shop.provider.refund(&key, &payment, None).await.unwrap();
    // A charge that does not tell its refunds: they are asked for.
    let charge = json!({ "id": refund.charge_id, "payment_intent": payment, "amount_refunded": 2_500 });
    shop.deliver(&event("evt_2", "charge.refunded", &charge)).await.unwrap();
    assert_eq!(shop.balance(tenant).await, Money::ZERO);

    shop.deliver(&event("evt_3", "checkout.session.completed", &foreign("cs_9", Some(tenant), 1_000))).await.unwrap();
    for (id, status) in [("evt_4", "needs_response"), ("evt_5", "lost")] {
        let dispute =
            json!({ "id": "dp_1", "amount": 1_000, "currency": "usd", "payment_intent": "pi_cs_9", "status": status });
        shop.deliver(&event(id, "charge.dispute.closed", &dispute)).await.unwrap();
        assert_eq!(shop.balance(tenant).await, Money::ZERO);
        let standing = shop.billing.standing(tenant).await.unwrap();
        assert!(matches!(standing, Standing::Suspended { reason: SuspensionReason::Dispute, .. }), "{standing:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forgeries_are_penalised_and_a_valid_signature_always_passes() {
    let shop = Shop::open().await;
    let tenant = shop.tenant().await;
    let genuine = event("evt_1", "checkout.session.completed", &foreign("cs_1", Some(tenant), 500));
    let body = genuine.to_string();
    let address = Some("192.0.2.1".parse().unwrap());
    let stripped = shop.sign("test", &body);
    let forged = shop.payments.receive_webhook(address, &stripped, body.as_bytes()).await;
    assert!(matches!(forged, Err(PaymentsError::BadSignature)), "{forged:?}");
    let Err(PaymentsError::SenderBlocked { retry_after }) =
        shop.payments.receive_webhook(address, &stripped, body.as_bytes()).await
    else {
        panic!("not blocked")
    };
    assert_eq!(retry_after, SignedDuration::from_secs(2));
    shop.clock.advance(retry_after);
    let second = shop.payments.receive_webhook(address, "t=1,v1=00", body.as_bytes()).await;
    assert!(matches!(second, Err(PaymentsError::BadSignature)), "{second:?}");
    let elsewhere = shop.payments.receive_webhook(Some("192.0.2.2".parse().unwrap()), "", b"").await;
    assert!(matches!(elsewhere, Err(PaymentsError::BadSignature)), "{elsewhere:?}");
    assert!(shop.ledger().await.is_empty());
    // Blocked for four seconds now, and yet:
    let signature = shop.sign(SECRET, &body);
    let passed = shop.payments.receive_webhook(address, &signature, body.as_bytes()).await.unwrap();
    assert_eq!(passed.credited, Some(Money::from_cents(500)));
    assert_eq!(shop.count("SELECT count(*) AS value FROM webhook_penalties").await, 1);
    let nonsense = "[1]";
    let malformed = shop.payments.receive_webhook(address, &shop.sign(SECRET, nonsense), nonsense.as_bytes()).await;
    assert!(matches!(malformed, Err(PaymentsError::MalformedEvent)), "{malformed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_tried_again_and_what_keeps_failing_stays_visible() {
    let shop = Shop::open().await;
    let tenant = shop.tenant().await;
    let session = shop.pay(tenant, 10).await;
    shop.deliver(&completed("evt_1", &session)).await.unwrap();
    let key = IdempotencyKey::refund("operation-1").unwrap();
    let refund = shop.provider.refund(&key, session.payment_intent_id.as_deref().unwrap(), Some(400)).await.unwrap();
    shop.provider.set_away(true);
    let charge = json!({ "id": refund.charge_id, "amount_refunded": 400 });
    let kept = shop.deliver(&event("evt_2", "charge.refunded", &charge)).await.unwrap();
    assert!(!kept.handled);
    assert_eq!(shop.payments.process_webhooks().await.unwrap(), 0);
    shop.provider.set_away(false);
    shop.clock.advance(SignedDuration::from_secs(2));
    assert_eq!(shop.payments.process_webhooks().await.unwrap(), 1);
    assert_eq!(shop.balance(tenant).await, Money::from_cents(600));
    assert_eq!(shop.payments.webhook_backlog().await.unwrap(), (0, 0));

    shop.deliver(&event("evt_3", "refund.created", &json!({ "id": "re_x" }))).await.unwrap();
    let dead = shop.payments.dead_webhooks().await.unwrap();
    assert_eq!((dead.len(), dead[0].event_id.as_str()), (1, "evt_3"));
    assert_eq!((dead[0].received_at, dead[0].given_up_at), (shop.clock.now(), shop.clock.now()));
    let origin = Origin::system("test");
    shop.payments.retry_webhook(&origin, dead[0].id).await.unwrap();
    assert_eq!(shop.payments.webhook_backlog().await.unwrap(), (1, 0));
    let again = shop.payments.retry_webhook(&origin, dead[0].id).await;
    assert!(matches!(again, Err(PaymentsError::DeadWebhookNotFound(id)) if id == dead[0].id), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_that_a_crash_cut_off_is_found_out_about_once() {
    let shop = Shop::open().await;
    let tenant = shop.tenant().await;
    // So that the customer is there already: what is cut off is the checkout.
    shop.pay(tenant, 5).await;
    let in_state = async |state: &str| {
        shop.count(&format!("SELECT count(*) AS value FROM checkout_sessions WHERE state = '{state}'")).await
    };
    let cut_off = async |pages: usize| {
        let (payments, origin) = (shop.payments.clone(), Origin::system("test"));
        let request = CheckoutRequest {
            price_id: "price_10".to_owned(),
            success_url: PAGE.to_owned(),
            cancel_url: format!("{PAGE}?cancelled"),
        };
        let checkout = tokio::spawn(async move { payments.checkout(&origin, tenant, None, &request).await });
        while shop.provider.session_count() < pages {
            tokio::task::yield_now().await;
        }
        checkout.abort();
        assert!(checkout.await.unwrap_err().is_cancelled());
    };
    shop.provider.set_silent(true);
    cut_off(2).await;
    shop.provider.set_silent(false);
    assert_eq!(in_state("creating").await, 1);
    assert_eq!(shop.payments.finish_checkouts().await.unwrap(), 0, "whoever makes it may still be at it");
    shop.clock.advance(SignedDuration::from_secs(31));

    shop.provider.set_away(true);
    let away = shop.payments.finish_checkouts().await;
    assert!(matches!(away, Err(PaymentsError::Provider(_))), "{away:?}");
    assert_eq!(in_state("creating").await, 1);
    shop.provider.set_away(false);
    assert_eq!(shop.payments.finish_checkouts().await.unwrap(), 1);
    assert_eq!(shop.payments.finish_checkouts().await.unwrap(), 0);
    assert_eq!((shop.provider.session_count(), in_state("open").await), (2, 2), "the page that was made, not another");
    let told = "SELECT count(*) AS value FROM audit_log WHERE action = 'billing.checkout'";
    assert_eq!(shop.count(told).await, 2);

    // It ends as any other that nobody pays.
    let page = shop.provider.newest_session().unwrap();
    let expired = json!({ "id": page, "mode": "payment", "status": "expired" });
    shop.deliver(&event("evt_9", "checkout.session.expired", &expired)).await.unwrap();
    assert_eq!((in_state("open").await, in_state("expired").await), (1, 1));

    // Once the provider has forgotten the key, asking would make another page.
    shop.provider.set_silent(true);
    cut_off(3).await;
    shop.provider.set_silent(false);
    shop.clock.advance(SignedDuration::from_hours(23));
    assert_eq!(shop.payments.finish_checkouts().await.unwrap(), 1);
    assert_eq!((shop.provider.session_count(), in_state("failed").await), (3, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_whose_making_was_cut_off_can_still_buy_with_an_address() {
    let shop = Shop::open().await;
    let tenant = shop.tenant().await;
    shop.provider.set_silent(true);
    let payments = shop.payments.clone();
    let intent = tokio::spawn(async move { payments.setup_intent(tenant, None).await });
    while shop.provider.customer_count() < 1 {
        tokio::task::yield_now().await;
    }
    intent.abort();
    assert!(intent.await.unwrap_err().is_cancelled());
    shop.provider.set_silent(false);
    // Asks for a customer with an address, which is not what was asked for before.
    shop.pay(tenant, 5).await;
    let info = shop.payments.billing_info(tenant).await.unwrap();
    assert_eq!(info.email.as_deref(), Some("buyer@example.com"));
    // And without one: what is asked for is the same again.
    shop.payments.setup_intent(tenant, None).await.unwrap();
    assert_eq!(shop.provider.customer_count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_is_refused_for_foreign_addresses_unknown_prices_and_without_a_provider() {
    let shop = Shop::open().await;
    let tenant = shop.tenant().await;
    let origin = Origin::system("test");
    let request = |price: &str, url: &str| CheckoutRequest {
        price_id: price.to_owned(),
        success_url: url.to_owned(),
        cancel_url: PAGE.to_owned(),
    };
    let foreign = shop.payments.checkout(&origin, tenant, None, &request("price_5", "https://evil.example")).await;
    assert!(matches!(foreign, Err(PaymentsError::RedirectNotAllowed)), "{foreign:?}");
    let unknown = shop.payments.checkout(&origin, tenant, None, &request("price_6", PAGE)).await;
    assert!(matches!(unknown, Err(PaymentsError::UnknownPrice)), "{unknown:?}");
    let nobody = TenantId::new(shop.clock.now());
    let nobody = shop.payments.checkout(&origin, nobody, None, &request("price_5", PAGE)).await;
    assert!(matches!(nobody, Err(PaymentsError::TenantNotFound)), "{nobody:?}");
    shop.provider.set_away(true);
    let away = shop.payments.checkout(&origin, tenant, None, &request("price_5", PAGE)).await;
    assert!(matches!(away, Err(PaymentsError::Provider(_))), "{away:?}");
    shop.provider.set_away(false);
    for _ in 0..2 {
        shop.payments.checkout(&origin, tenant, None, &request("price_5", PAGE)).await.unwrap();
    }
    assert_eq!(shop.provider.customer_count(), 1);
    let clock = Arc::new(shop.clock.clone());
    let off = Payments::new(shop.test.db.clone(), clock, shop.billing.clone(), None, PaymentsConfig::default());
    let refused = off.checkout(&origin, tenant, None, &request("price_5", PAGE)).await;
    assert!(matches!(refused, Err(PaymentsError::Disabled)) && off.packs().is_empty());
    assert!(matches!(off.receive_webhook(None, "", b"").await, Err(PaymentsError::Disabled)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_payment_method_stays_while_a_payment_is_disputed() {
    let shop = Shop::open().await;
    let (tenant, stranger) = (shop.tenant().await, shop.tenant().await);
    let session = shop.pay(tenant, 5).await;
    shop.deliver(&completed("evt_1", &session)).await.unwrap();
    let method = shop.provider.save_method(session.customer_id.as_deref().unwrap());
    let origin = Origin::system("test");
    let info = shop.payments.billing_info(tenant).await.unwrap();
    assert!(info.payment_methods[0].is_default && info.email.as_deref() == Some("buyer@example.com"));
    let stolen = shop.payments.remove_payment_method(&origin, stranger, &method.id).await;
    assert!(matches!(stolen, Err(PaymentsError::PaymentMethodNotOwned)), "{stolen:?}");
    let dispute = json!({ "id": "dp_1", "amount": 500, "currency": "usd", "payment_intent": session.payment_intent_id, "status": "needs_response" });
    shop.deliver(&event("evt_2", "charge.dispute.created", &dispute)).await.unwrap();
    let last = shop.payments.remove_payment_method(&origin, tenant, &method.id).await;
    assert!(matches!(last, Err(PaymentsError::LastPaymentMethod)), "{last:?}");
    let won = json!({ "id": "dp_1", "amount": 500, "currency": "usd", "payment_intent": session.payment_intent_id, "status": "won" });
    shop.deliver(&event("evt_3", "charge.dispute.closed", &won)).await.unwrap();
    shop.payments.remove_payment_method(&origin, tenant, &method.id).await.unwrap();
    assert!(shop.payments.billing_info(tenant).await.unwrap().payment_methods.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn reconciling_explains_every_cent_and_repairs_what_no_webhook_told() {
    let shop = Shop::open().await;
    let tenant = shop.tenant().await;
    let told = shop.pay(tenant, 5).await;
    shop.deliver(&completed("evt_1", &told)).await.unwrap();
    let untold = shop.pay(tenant, 25).await;
    let key = IdempotencyKey::refund("operation-1").unwrap();
    let payment = untold.payment_intent_id.unwrap();
    shop.provider.refund(&key, &payment, Some(500)).await.unwrap();
    shop.provider.dispute(told.payment_intent_id.as_deref().unwrap()).unwrap();
    // Announced, but never paid.
    let ghost = event("evt_2", "checkout.session.completed", &foreign("cs_ghost", Some(tenant), 700));
    shop.deliver(&ghost).await.unwrap();
    shop.clock.advance(SignedDuration::from_hours(2));

    let run = shop.payments.reconcile().await.unwrap().unwrap();
    assert_eq!((run.matched, run.repaired.len()), (4, 3), "{run:?}");
    assert!(run.missing_in_ledger.is_empty() && run.differing.is_empty(), "{run:?}");
    assert_eq!(run.missing_at_provider.len(), 1);
    assert_eq!(run.missing_at_provider[0].id, "cs_ghost");
    assert_eq!(run.gross_cents, 2_500 - 500);
    // 500 − 500 disputed + 2550 − 510 + 700.
    assert_eq!(shop.balance(tenant).await, Money::from_cents(2_740));
    let again = shop.payments.reconcile().await.unwrap().unwrap();
    assert!(again.repaired.is_empty());
    assert_eq!(shop.balance(tenant).await, Money::from_cents(2_740));
    assert_eq!(shop.count("SELECT count(*) AS value FROM reconciliation_runs WHERE NOT clean").await, 2);
}

struct MemoryPayer(MemoryPayments);

#[async_trait::async_trait]
impl Payer for MemoryPayer {
    async fn pay(&self, session_id: &str) {
        self.0.pay(session_id).unwrap();
    }

    async fn dispute(&self, charge_id: &str) {
        let charge = self.0.get_charge(charge_id).await.unwrap();
        self.0.dispute(&charge.payment_intent_id.unwrap()).unwrap();
    }

    async fn save_method(&self, customer_id: &str) -> String {
        self.0.save_method(customer_id).id
    }
}

#[tokio::test]
async fn the_provider_in_memory_keeps_the_contract_of_every_provider() {
    let clock = FixedClock::default();
    let provider = MemoryPayments::new(Arc::new(clock.clone()), [("price_25".to_owned(), 2_500)]);
    let payer = MemoryPayer(provider.clone());
    payment_provider_contract(&provider, &payer, "price_25", 2_500, clock.now()).await;
}
