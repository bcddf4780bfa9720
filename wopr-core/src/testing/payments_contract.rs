//! What every payment provider must do: the one in memory, and the real ones.

use std::collections::BTreeSet;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use crate::billing::payments::{
    BalanceKind, BalanceTransaction, CheckoutMode, CheckoutPayment, DisputeState, IdempotencyKey, NewCheckout,
    NewCustomer, PaymentProvider, ProviderError,
};
use crate::ids::{CheckoutId, TenantId};

/// Where payers are sent back to.
const PAGE: &str = "http://localhost:3000/dashboard";

/// What happens at the provider without us.
#[async_trait]
pub trait Payer: Send + Sync {
    /// Pays the page of a session.
    async fn pay(&self, session_id: &str);
    /// Disputes a charge.
    async fn dispute(&self, charge_id: &str);
    /// Saves a payment method, and answers its id.
    async fn save_method(&self, customer_id: &str) -> String;
}

/// Goes through everything that the platform does with a provider. `price_id` costs `cents`; `now` is the provider's time.
///
/// # Panics
/// Where the provider does something else.
pub async fn payment_provider_contract(
    provider: &dyn PaymentProvider,
    payer: &dyn Payer,
    price_id: &str,
    cents: i64,
    now: Timestamp,
) {
    let stage = Stage { provider, payer, price_id, cents, now, tenant: TenantId::new(now) };
    let customer_id = stage.customers().await;
    let [first, second] = stage.checkouts(&customer_id).await;
    let charge_id = stage.refunds(&first).await;
    stage.disputes(&second, &charge_id).await;
    stage.balance().await;
    stage.methods(&customer_id).await;
    stage.pages(&customer_id).await;
}

struct Stage<'a> {
    provider: &'a dyn PaymentProvider,
    payer: &'a dyn Payer,
    price_id: &'a str,
    cents: i64,
    now: Timestamp,
    tenant: TenantId,
}

fn done<T>(what: &str, answer: Result<T, ProviderError>) -> T {
    answer.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Refused for good: asking again would not help.
fn refused<T: std::fmt::Debug>(what: &str, answer: Result<T, ProviderError>) {
    match answer {
        Err(ProviderError::Refused { .. } | ProviderError::NotFound) => {}
        other => panic!("{what}: {other:?}"),
    }
}

fn unknown<T: std::fmt::Debug>(what: &str, answer: Result<T, ProviderError>) {
    assert!(matches!(answer, Err(ProviderError::NotFound)), "{what}: {answer:?}");
}

impl Stage<'_> {
    async fn customers(&self) -> String {
        let (provider, key) = (self.provider, IdempotencyKey::customer(self.tenant, 0));
        let new = NewCustomer { tenant_id: self.tenant, email: Some("ada@example.com".to_owned()) };
        let made = done("a customer", provider.create_customer(&key, &new).await);
        assert_eq!(made.email.as_deref(), Some("ada@example.com"));
        let again = done("the same customer", provider.create_customer(&key, &new).await);
        assert_eq!(again, made, "a key is carried out once");
        let other = NewCustomer { email: Some("eve@example.com".to_owned()), ..new.clone() };
        refused("another request under a used key", provider.create_customer(&key, &other).await);
        let next = provider.create_customer(&IdempotencyKey::customer(self.tenant, 1), &new).await;
        assert_ne!(done("another customer", next).id, made.id);

        assert_eq!(done("finding a customer", provider.find_customer(&made.id).await), Some(made.clone()));
        assert_eq!(done("finding nobody", provider.find_customer("cus_unknown").await), None);
        for _ in 0..2 {
            let renamed = done("an address", provider.update_customer_email(&made.id, "lovelace@example.com").await);
            assert_eq!(renamed.email.as_deref(), Some("lovelace@example.com"));
        }
        let found = done("finding a customer", provider.find_customer(&made.id).await);
        assert_eq!(found.and_then(|customer| customer.email).as_deref(), Some("lovelace@example.com"));
        unknown("the address of nobody", provider.update_customer_email("cus_unknown", "a@example.com").await);
        made.id
    }

    fn new_checkout(&self, customer_id: &str) -> NewCheckout {
        NewCheckout {
            checkout_id: CheckoutId::new(self.now),
            tenant_id: self.tenant,
            customer_id: customer_id.to_owned(),
            price_id: self.price_id.to_owned(),
            success_url: PAGE.to_owned(),
            cancel_url: PAGE.to_owned(),
        }
    }

    /// Two payments.
    async fn checkouts(&self, customer_id: &str) -> [String; 2] {
        let provider = self.provider;
        let unsold = NewCheckout { price_id: "price_unknown".to_owned(), ..self.new_checkout(customer_id) };
        let key = IdempotencyKey::checkout(unsold.checkout_id);
        refused("a price that is not sold", provider.create_checkout(&key, &unsold).await);
        unknown("an unknown session", provider.get_checkout("cs_test_unknown").await);
        unknown("an unknown payment", provider.get_payment("pi_unknown").await);
        assert_eq!(done("no session", provider.find_checkout_of_payment("pi_unknown").await), None);
        [self.checkout(customer_id).await, self.checkout(customer_id).await]
    }

    async fn checkout(&self, customer_id: &str) -> String {
        let (provider, new) = (self.provider, self.new_checkout(customer_id));
        let key = IdempotencyKey::checkout(new.checkout_id);
        let page = done("a checkout", provider.create_checkout(&key, &new).await);
        assert!(page.session_id.starts_with("cs_") && page.url.starts_with("http"), "{page:?}");
        let again = done("the same checkout", provider.create_checkout(&key, &new).await);
        assert_eq!(again, page, "a key is carried out once");
        let other = NewCheckout { cancel_url: format!("{PAGE}?cancelled"), ..new.clone() };
        refused("another request under a used key", provider.create_checkout(&key, &other).await);

        let session = done("a session", provider.get_checkout(&page.session_id).await);
        assert_eq!((session.mode, session.payment), (CheckoutMode::Payment, CheckoutPayment::Unpaid));
        let (tenant, checkout) = (Some(new.tenant_id.to_string()), Some(new.checkout_id.to_string()));
        assert_eq!((&session.client_reference_id, &session.tenant, &session.checkout), (&tenant, &tenant, &checkout));
        assert_eq!((session.customer_id.as_deref(), session.payment_intent_id), (Some(customer_id), None));
        assert_eq!((session.amount_total, session.currency.as_str()), (self.cents, "usd"));

        self.payer.pay(&page.session_id).await;
        let session = done("a paid session", provider.get_checkout(&page.session_id).await);
        assert_eq!(session.payment, CheckoutPayment::Paid);
        let Some(payment_id) = session.payment_intent_id.clone() else { panic!("paid without a payment") };
        let found = done("the session of a payment", provider.find_checkout_of_payment(&payment_id).await);
        assert_eq!(found, Some(session));
        let payment = done("a payment", provider.get_payment(&payment_id).await);
        assert!(payment.succeeded, "{payment:?}");
        assert_eq!((payment.amount_received, payment.currency.as_str()), (self.cents, "usd"));
        assert_eq!((payment.tenant, payment.checkout_tenant), (None, tenant), "the session announces it");
        payment_id
    }

    /// Gives a payment back in two parts, and answers its charge.
    async fn refunds(&self, payment: &str) -> String {
        let provider = self.provider;
        let key = |name: &str| IdempotencyKey::refund(name).unwrap_or_else(|| panic!("{name} is no key"));
        let once = key("contract-1");
        let part = done("a part", provider.refund(&once, payment, Some(300)).await);
        assert_eq!((part.amount, part.failed, part.payment_intent_id.as_deref()), (300, false, Some(payment)));
        assert_eq!(done("the same part", provider.refund(&once, payment, Some(300)).await), part);
        refused("another request under a used key", provider.refund(&once, payment, Some(301)).await);
        refused("more than is left", provider.refund(&key("contract-2"), payment, Some(self.cents)).await);
        let rest = done("the rest", provider.refund(&key("contract-3"), payment, None).await);
        assert_eq!(rest.amount, self.cents - 300);
        refused("what is gone", provider.refund(&key("contract-4"), payment, None).await);
        refused("an unknown payment", provider.refund(&key("contract-5"), "pi_unknown", None).await);

        assert_eq!(done("a refund", provider.get_refund(&part.id).await), part);
        unknown("an unknown refund", provider.get_refund("re_unknown").await);
        let Some(charge_id) = part.charge_id.clone() else { panic!("a refund of no charge") };
        let charge = done("a charge", provider.get_charge(&charge_id).await);
        assert_eq!((charge.payment_intent_id.as_deref(), charge.amount), (Some(payment), self.cents));
        unknown("an unknown charge", provider.get_charge("ch_unknown").await);
        let listed: BTreeSet<String> =
            done("refunds", provider.list_refunds(&charge_id).await).into_iter().map(|refund| refund.id).collect();
        assert_eq!(listed, BTreeSet::from([part.id, rest.id]));
        charge_id
    }

    async fn disputes(&self, payment: &str, refunded_charge: &str) {
        let charges = self.moved().await;
        let charges = charges.iter().filter(|moved| moved.kind == BalanceKind::Payment);
        let mut charges = charges.filter_map(|moved| moved.source_id.as_deref());
        let Some(charge_id) = charges.find(|id| *id != refunded_charge) else { panic!("no second charge") };
        self.payer.dispute(charge_id).await;
        let disputed = self.moved().await.into_iter().find(|moved| moved.kind == BalanceKind::Dispute);
        let Some(disputed) = disputed else { panic!("a dispute moves money") };
        assert_eq!(disputed.amount, -self.cents);
        let Some(id) = &disputed.source_id else { panic!("moved by nothing") };
        let dispute = done("a dispute", self.provider.get_dispute(id).await);
        assert_eq!((dispute.state, dispute.amount), (DisputeState::Open, self.cents));
        assert_eq!(
            (dispute.payment_intent_id.as_deref(), dispute.charge_id.as_deref()),
            (Some(payment), Some(charge_id))
        );
        unknown("an unknown dispute", self.provider.get_dispute("dp_unknown").await);
    }

    /// All movements up to now, page by page.
    async fn moved(&self) -> Vec<BalanceTransaction> {
        let hour = SignedDuration::from_hours(1);
        let mut moved: Vec<BalanceTransaction> = Vec::new();
        loop {
            let after = moved.last().map(|moved| moved.id.as_str());
            let page = self.provider.list_balance_transactions(self.now - hour, self.now + hour, after).await;
            let page = done("a page of movements", page);
            assert!(!page.has_more || !page.items.is_empty(), "more follows nothing");
            moved.extend(page.items);
            if !page.has_more {
                return moved;
            }
        }
    }

    async fn balance(&self) {
        let moved = self.moved().await;
        let mut seen = BTreeSet::new();
        for one in &moved {
            assert!(seen.insert(&one.id), "{} comes twice", one.id);
            assert_eq!((one.net, one.currency.as_str()), (one.amount - one.fee, "usd"), "{one:?}");
        }
        assert!(moved.is_sorted_by(|newer, older| newer.created_at >= older.created_at), "newest first: {moved:?}");
        let mut amounts: Vec<(BalanceKind, i64)> = moved.iter().map(|moved| (moved.kind, moved.amount)).collect();
        amounts.sort_by_key(|(_, amount)| *amount);
        let expected = [
            (BalanceKind::Refund, 300 - self.cents),
            (BalanceKind::Refund, -300),
            (BalanceKind::Payment, self.cents),
            (BalanceKind::Payment, self.cents),
        ];
        let disputes = amounts.extract_if(.., |(kind, _)| *kind == BalanceKind::Dispute).count();
        assert_eq!((amounts.as_slice(), disputes), (expected.as_slice(), 1));

        let hour = SignedDuration::from_hours(1);
        for (since, until) in [(self.now + hour, self.now + hour * 2), (self.now - hour * 2, self.now - hour)] {
            let page = done("a period", self.provider.list_balance_transactions(since, until, None).await);
            assert!(page.items.is_empty() && !page.has_more, "{page:?}");
        }
    }

    async fn methods(&self, customer_id: &str) {
        let provider = self.provider;
        let none = done("no methods", provider.list_payment_methods(customer_id).await);
        assert!(none.is_empty(), "{none:?}");
        assert_eq!(done("no default", provider.default_payment_method(customer_id).await), None);
        let (kept, removed) = (self.payer.save_method(customer_id).await, self.payer.save_method(customer_id).await);
        let listed = done("methods", provider.list_payment_methods(customer_id).await);
        let ids: BTreeSet<&String> = listed.iter().map(|method| &method.id).collect();
        assert_eq!(ids, BTreeSet::from([&kept, &removed]));
        for method in listed {
            let described = (method.brand.as_str(), method.last4.as_deref(), method.customer_id.as_deref());
            assert_eq!(described, ("visa", Some("4242"), Some(customer_id)));
            assert!(method.expiry_month.is_some() && method.expiry_year.is_some(), "{method:?}");
            assert_eq!(done("a method", provider.find_payment_method(&method.id).await), Some(method));
        }
        done("removing", provider.detach_payment_method(&removed).await);
        let left = done("methods", provider.list_payment_methods(customer_id).await);
        assert_eq!(left.into_iter().map(|method| method.id).collect::<Vec<_>>(), [kept]);
        let gone = done("a removed method", provider.find_payment_method(&removed).await);
        assert_eq!(gone.and_then(|method| method.customer_id), None);
        assert_eq!(done("an unknown method", provider.find_payment_method("pm_unknown").await), None);
        unknown("removing nothing", provider.detach_payment_method("pm_unknown").await);
    }

    async fn pages(&self, customer_id: &str) {
        let provider = self.provider;
        let secret = done("a set-up", provider.create_setup_intent(customer_id, self.tenant).await);
        let another = done("another set-up", provider.create_setup_intent(customer_id, self.tenant).await);
        assert!(secret.contains("_secret") && secret != another, "each is continued on its own");
        refused("a set-up for nobody", provider.create_setup_intent("cus_unknown", self.tenant).await);
        let portal = done("a portal", provider.create_portal_session(customer_id, PAGE).await);
        assert!(portal.starts_with("http"), "{portal}");
        refused("a portal for nobody", provider.create_portal_session("cus_unknown", PAGE).await);
        assert!(done("invoices", provider.list_invoices(customer_id, 1).await).len() <= 1);
    }
}
