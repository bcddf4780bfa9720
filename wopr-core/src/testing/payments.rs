//! A payment provider in memory: it keeps what it was told, carries out each idempotency key once, and can be told to
//! be away or to fall silent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;

use crate::billing::payments::{
    BalanceKind, BalanceTransaction, Charge, CheckoutMode, CheckoutPage, CheckoutPayment, CheckoutSession, Customer,
    Dispute, DisputeState, IdempotencyKey, Invoice, NewCheckout, NewCustomer, PaymentIntent, PaymentMethod,
    PaymentProvider, ProviderError, ProviderPage, Refund,
};
use crate::clock::SharedClock;
use crate::ids::TenantId;

/// How many entries a page of balance transactions holds: few, so that tests turn pages.
const PAGE: usize = 3;

#[derive(Default)]
struct State {
    away: bool,
    silent: bool,
    next: u64,
    /// By idempotency key: what was asked for, and the id of what was made.
    done: BTreeMap<String, (String, String)>,
    customers: BTreeMap<String, Customer>,
    defaults: BTreeMap<String, String>,
    sessions: BTreeMap<String, CheckoutSession>,
    payments: BTreeMap<String, PaymentIntent>,
    charges: BTreeMap<String, Charge>,
    refunds: BTreeMap<String, Refund>,
    disputes: BTreeMap<String, Dispute>,
    methods: BTreeMap<String, PaymentMethod>,
    balance: Vec<BalanceTransaction>,
}

impl State {
    fn id(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}_memory{}", self.next)
    }

    /// What was made under this key, if anything was.
    fn made(&self, key: &IdempotencyKey, request: &impl std::fmt::Debug) -> Result<Option<String>, ProviderError> {
        match self.done.get(key.as_str()) {
            Some((asked, _)) if *asked != format!("{request:?}") => Err(ProviderError::Refused {
                code: None,
                message: "this idempotency key was used for another request".to_owned(),
            }),
            Some((_, id)) => Ok(Some(id.clone())),
            None => Ok(None),
        }
    }

    fn note_made(&mut self, key: &IdempotencyKey, request: &impl std::fmt::Debug, id: &str) {
        self.done.insert(key.to_string(), (format!("{request:?}"), id.to_owned()));
    }

    fn moved(&mut self, at: Timestamp, kind: BalanceKind, amount: i64, fee: i64, source: &str) {
        let id = self.id("txn");
        self.balance.push(BalanceTransaction {
            id,
            kind,
            amount,
            fee,
            net: amount - fee,
            currency: "usd".to_owned(),
            source_id: Some(source.to_owned()),
            created_at: at,
        });
    }
}

/// A payment provider in memory. Clones share its state.
#[derive(Clone)]
pub struct MemoryPayments {
    clock: SharedClock,
    prices: Arc<BTreeMap<String, i64>>,
    state: Arc<Mutex<State>>,
}

impl MemoryPayments {
    /// A provider that sells these prices, in cents.
    pub fn new(clock: SharedClock, prices: impl IntoIterator<Item = (String, i64)>) -> Self {
        Self { clock, prices: Arc::new(prices.into_iter().collect()), state: Arc::default() }
    }

    /// Fails every call from now on, or no longer.
    pub fn set_away(&self, away: bool) {
        self.lock().away = away;
    }

    /// From now on carries out what it is asked for and never answers, or answers again. Whoever waits then is cut off as
    /// by a crash.
    pub fn set_silent(&self, silent: bool) {
        self.lock().silent = silent;
    }

    /// How many checkout sessions there are.
    pub fn session_count(&self) -> usize {
        self.lock().sessions.len()
    }

    /// The checkout session made last.
    pub fn newest_session(&self) -> Option<String> {
        let state = self.lock();
        state.sessions.values().max_by_key(|session| session.created_at).map(|session| session.id.clone())
    }

    /// The payer pays the page of a session; its session as it then is, or `None` if there is no such session.
    pub fn pay(&self, session_id: &str) -> Option<CheckoutSession> {
        let now = self.clock.now();
        let mut state = self.lock();
        let (payment_id, charge_id) = (state.id("pi"), state.id("ch"));
        let session = state.sessions.get_mut(session_id)?;
        session.payment = CheckoutPayment::Paid;
        session.payment_intent_id = Some(payment_id.clone());
        let session = session.clone();
        state.payments.insert(
            payment_id.clone(),
            PaymentIntent {
                id: payment_id.clone(),
                amount_received: session.amount_total,
                currency: session.currency.clone(),
                customer_id: session.customer_id.clone(),
                tenant: None,
                checkout_tenant: session.tenant.clone(),
                succeeded: true,
                created_at: now,
            },
        );
        state.charges.insert(
            charge_id.clone(),
            Charge {
                id: charge_id.clone(),
                payment_intent_id: Some(payment_id),
                amount: session.amount_total,
                currency: session.currency.clone(),
            },
        );
        let fee = session.amount_total * 29 / 1000 + 30;
        state.moved(now, BalanceKind::Payment, session.amount_total, fee, &charge_id);
        Some(session)
    }

    /// The card holder disputes a payment.
    pub fn dispute(&self, payment: &str) -> Option<Dispute> {
        let now = self.clock.now();
        let mut state = self.lock();
        let amount = state.payments.get(payment)?.amount_received;
        let charge_id = charge_of(&state, payment)?;
        let dispute = Dispute {
            id: state.id("dp"),
            payment_intent_id: Some(payment.to_owned()),
            charge_id: Some(charge_id),
            amount,
            currency: "usd".to_owned(),
            state: DisputeState::Open,
            created_at: now,
        };
        state.disputes.insert(dispute.id.clone(), dispute.clone());
        state.moved(now, BalanceKind::Dispute, -amount, 1_500, &dispute.id);
        Some(dispute)
    }

    /// A payment method that the customer saves.
    pub fn save_method(&self, customer_id: &str) -> PaymentMethod {
        let now = self.clock.now();
        let mut state = self.lock();
        let method = PaymentMethod {
            id: state.id("pm"),
            customer_id: Some(customer_id.to_owned()),
            brand: "visa".to_owned(),
            last4: Some("4242".to_owned()),
            expiry_month: Some(12),
            expiry_year: Some(2034),
            created_at: now,
        };
        state.methods.insert(method.id.clone(), method.clone());
        method
    }

    /// How many customers there are.
    pub fn customer_count(&self) -> usize {
        self.lock().customers.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, State>, ProviderError> {
        let state = self.lock();
        if state.away { Err(ProviderError::Unavailable("on purpose".to_owned())) } else { Ok(state) }
    }

    fn make_checkout(&self, key: &IdempotencyKey, new: &NewCheckout) -> Result<String, ProviderError> {
        let now = self.clock.now();
        let mut state = self.open()?;
        if let Some(id) = state.made(key, new)? {
            return Ok(id);
        }
        let Some(&amount_total) = self.prices.get(&new.price_id) else {
            return Err(ProviderError::Refused { code: None, message: "no such price".to_owned() });
        };
        let id = state.id("cs_test");
        let session = CheckoutSession {
            id: id.clone(),
            mode: CheckoutMode::Payment,
            payment: CheckoutPayment::Unpaid,
            amount_total,
            amount_tax: 0,
            currency: "usd".to_owned(),
            client_reference_id: Some(new.tenant_id.to_string()),
            customer_id: Some(new.customer_id.clone()),
            customer_email: None,
            payment_intent_id: None,
            tenant: Some(new.tenant_id.to_string()),
            purchase_type: Some("credits".to_owned()),
            checkout: Some(new.checkout_id.to_string()),
            created_at: now,
        };
        state.note_made(key, new, &id);
        state.sessions.insert(id.clone(), session);
        Ok(id)
    }

    async fn answer<T>(&self, answer: T) -> Result<T, ProviderError> {
        let silent = self.lock().silent;
        if silent { std::future::pending().await } else { Ok(answer) }
    }
}

fn charge_of(state: &State, payment: &str) -> Option<String> {
    let of_payment = |charge: &&Charge| charge.payment_intent_id.as_deref() == Some(payment);
    state.charges.values().find(of_payment).map(|charge| charge.id.clone())
}

fn get<T: Clone>(map: &BTreeMap<String, T>, id: &str) -> Result<T, ProviderError> {
    map.get(id).cloned().ok_or(ProviderError::NotFound)
}

#[async_trait]
impl PaymentProvider for MemoryPayments {
    async fn create_customer(&self, key: &IdempotencyKey, new: &NewCustomer) -> Result<Customer, ProviderError> {
        let customer = {
            let mut state = self.open()?;
            if let Some(id) = state.made(key, new)? {
                get(&state.customers, &id)?
            } else {
                let customer = Customer { id: state.id("cus"), email: new.email.clone() };
                state.note_made(key, new, &customer.id);
                state.customers.insert(customer.id.clone(), customer.clone());
                customer
            }
        };
        self.answer(customer).await
    }

    async fn find_customer(&self, id: &str) -> Result<Option<Customer>, ProviderError> {
        Ok(self.open()?.customers.get(id).cloned())
    }

    async fn update_customer_email(&self, id: &str, email: &str) -> Result<Customer, ProviderError> {
        let mut state = self.open()?;
        let customer = state.customers.get_mut(id).ok_or(ProviderError::NotFound)?;
        customer.email = Some(email.to_owned());
        Ok(customer.clone())
    }

    async fn default_payment_method(&self, customer_id: &str) -> Result<Option<String>, ProviderError> {
        Ok(self.open()?.defaults.get(customer_id).cloned())
    }

    async fn create_checkout(&self, key: &IdempotencyKey, new: &NewCheckout) -> Result<CheckoutPage, ProviderError> {
        let session_id = self.make_checkout(key, new)?;
        let url = format!("https://checkout.example/{session_id}");
        self.answer(CheckoutPage { session_id, url }).await
    }

    async fn get_checkout(&self, id: &str) -> Result<CheckoutSession, ProviderError> {
        get(&self.open()?.sessions, id)
    }

    async fn find_checkout_of_payment(&self, payment: &str) -> Result<Option<CheckoutSession>, ProviderError> {
        let state = self.open()?;
        let mut sessions = state.sessions.values();
        Ok(sessions.find(|session| session.payment_intent_id.as_deref() == Some(payment)).cloned())
    }

    async fn get_payment(&self, id: &str) -> Result<PaymentIntent, ProviderError> {
        get(&self.open()?.payments, id)
    }

    async fn get_charge(&self, id: &str) -> Result<Charge, ProviderError> {
        get(&self.open()?.charges, id)
    }

    async fn get_refund(&self, id: &str) -> Result<Refund, ProviderError> {
        get(&self.open()?.refunds, id)
    }

    async fn list_refunds(&self, charge_id: &str) -> Result<Vec<Refund>, ProviderError> {
        let state = self.open()?;
        let of_charge = |refund: &&Refund| refund.charge_id.as_deref() == Some(charge_id);
        Ok(state.refunds.values().filter(of_charge).cloned().collect())
    }

    async fn get_dispute(&self, id: &str) -> Result<Dispute, ProviderError> {
        get(&self.open()?.disputes, id)
    }

    async fn refund(&self, key: &IdempotencyKey, payment: &str, amount: Option<i64>) -> Result<Refund, ProviderError> {
        let now = self.clock.now();
        let mut state = self.open()?;
        if let Some(id) = state.made(key, &(payment, amount))? {
            return get(&state.refunds, &id);
        }
        let paid = get(&state.payments, payment)?.amount_received;
        let of_payment = |refund: &&Refund| refund.payment_intent_id.as_deref() == Some(payment);
        let back: i64 = state.refunds.values().filter(of_payment).map(|refund| refund.amount).sum();
        let request = (payment, amount);
        let amount = amount.unwrap_or(paid - back);
        if amount <= 0 || amount > paid - back {
            return Err(ProviderError::Refused { code: None, message: "more than is left".to_owned() });
        }
        let refund = Refund {
            id: state.id("re"),
            payment_intent_id: Some(payment.to_owned()),
            charge_id: charge_of(&state, payment),
            amount,
            currency: "usd".to_owned(),
            failed: false,
            created_at: now,
        };
        state.note_made(key, &request, &refund.id);
        state.refunds.insert(refund.id.clone(), refund.clone());
        state.moved(now, BalanceKind::Refund, -amount, 0, &refund.id);
        Ok(refund)
    }

    async fn create_setup_intent(&self, customer_id: &str, _tenant: TenantId) -> Result<String, ProviderError> {
        let mut state = self.open()?;
        get(&state.customers, customer_id)?;
        Ok(format!("{}_secret", state.id("seti")))
    }

    async fn list_payment_methods(&self, customer_id: &str) -> Result<Vec<PaymentMethod>, ProviderError> {
        let state = self.open()?;
        let own = |method: &&PaymentMethod| method.customer_id.as_deref() == Some(customer_id);
        Ok(state.methods.values().filter(own).cloned().collect())
    }

    async fn find_payment_method(&self, id: &str) -> Result<Option<PaymentMethod>, ProviderError> {
        Ok(self.open()?.methods.get(id).cloned())
    }

    async fn detach_payment_method(&self, id: &str) -> Result<(), ProviderError> {
        let mut state = self.open()?;
        state.methods.get_mut(id).ok_or(ProviderError::NotFound)?.customer_id = None;
        Ok(())
    }

    async fn create_portal_session(&self, customer_id: &str, return_url: &str) -> Result<String, ProviderError> {
        let state = self.open()?;
        get(&state.customers, customer_id)?;
        Ok(format!("https://portal.example/{customer_id}?return={return_url}"))
    }

    async fn list_invoices(&self, _customer_id: &str, _limit: u8) -> Result<Vec<Invoice>, ProviderError> {
        drop(self.open()?);
        Ok(Vec::new())
    }

    async fn list_balance_transactions(
        &self,
        since: Timestamp,
        until: Timestamp,
        after: Option<&str>,
    ) -> Result<ProviderPage<BalanceTransaction>, ProviderError> {
        let state = self.open()?;
        let newest_first =
            state.balance.iter().rev().filter(|moved| moved.created_at >= since && moved.created_at < until);
        let mut left: Vec<BalanceTransaction> = newest_first.cloned().collect();
        if let Some(after) = after {
            let position = left.iter().position(|moved| moved.id == after).ok_or(ProviderError::NotFound)?;
            left.drain(..=position);
        }
        let has_more = left.len() > PAGE;
        left.truncate(PAGE);
        Ok(ProviderPage { items: left, has_more })
    }
}
