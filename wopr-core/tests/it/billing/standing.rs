use jiff::SignedDuration;
use jiff::civil::date;
use wopr_core::audit::Origin;
use wopr_core::billing::{BillingError, ChargeKind, GRACE_PERIOD, RETENTION, Standing, SuspensionReason};
use wopr_core::clock::Clock as _;
use wopr_core::ids::{BotId, TenantId};

use super::{Books, cents, purchase};

impl Books {
    /// A tenant whose bot could not be charged.
    async fn short_customer(&self) -> TenantId {
        let tenant = self.tenant().await;
        let bot = BotId::new(self.clock.now());
        let day = [(ChargeKind::Runtime, cents(17))];
        self.billing.charge_bot_day(tenant, bot, date(2027, 1, 15), &day).await.unwrap();
        tenant
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credit_runs_out_and_a_purchase_at_any_stage_brings_the_tenant_back() {
    let books = Books::open().await;
    let (early, late, never) =
        (books.short_customer().await, books.short_customer().await, books.short_customer().await);
    books.billing.post(&[purchase("early", early, 5)]).await.unwrap();
    assert_eq!(books.billing.standing(early).await.unwrap(), Standing::Active);
    books.clock.advance(GRACE_PERIOD - SignedDuration::from_secs(1));
    assert_eq!(books.billing.advance_standing().await.unwrap(), 0);
    books.clock.advance(SignedDuration::from_secs(1));
    assert_eq!(books.billing.advance_standing().await.unwrap(), 2);
    let end = books.clock.now() + RETENTION;
    let suspended = Standing::Suspended { reason: SuspensionReason::Credits, delete_after: Some(end) };
    assert_eq!(books.billing.standing(late).await.unwrap(), suspended);
    let refused = books.billing.open_hold(late, "req", cents(1)).await;
    assert!(matches!(refused, Err(BillingError::AccountSuspended { .. })), "{refused:?}");
    books.billing.post(&[purchase("late", late, 5)]).await.unwrap();
    assert_eq!(books.billing.standing(late).await.unwrap(), Standing::Active);
    books.clock.advance(RETENTION);
    assert_eq!(books.billing.advance_standing().await.unwrap(), 1);
    assert_eq!(books.billing.standing(never).await.unwrap(), Standing::Destroying);
    assert_eq!(books.billing.advance_standing().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_does_not_lift_what_an_operator_imposed() {
    let books = Books::open().await;
    let (origin, tenant) = (Origin::system("test"), books.short_customer().await);
    for _ in 0..2 {
        books.billing.suspend_tenant(&origin, tenant, "spam", true).await.unwrap();
    }
    books.billing.post(&[purchase("cs", tenant, 500)]).await.unwrap();
    let expected = Standing::Suspended { reason: SuspensionReason::Admin, delete_after: None };
    assert_eq!(books.billing.standing(tenant).await.unwrap(), expected);
    let refused = books.billing.require_runtime_credit(tenant).await;
    let by_operator = SuspensionReason::Admin;
    assert!(matches!(refused, Err(BillingError::AccountSuspended { reason }) if reason == by_operator), "{refused:?}");
    books.billing.reactivate_tenant(&origin, tenant, true).await.unwrap();
    books.billing.require_runtime_credit(tenant).await.unwrap();
    let audited = "SELECT count(*) AS value FROM audit_log WHERE action IN ('tenant.suspend', 'tenant.reactivate')";
    assert_eq!(books.number(audited).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_is_typed_and_final() {
    let books = Books::open().await;
    let (origin, tenant) = (Origin::system("test"), books.customer(100).await);
    let refused = books.billing.ban_tenant(&origin, tenant, "fraud", "ban them").await;
    assert!(matches!(refused, Err(BillingError::NotConfirmed)), "{refused:?}");
    books.billing.ban_tenant(&origin, tenant, "fraud", &format!("BAN {tenant}")).await.unwrap();
    let refused = books.billing.reactivate_tenant(&origin, tenant, true).await;
    assert!(matches!(refused, Err(BillingError::Transition(_))), "{refused:?}");
    assert!(matches!(books.billing.require_runtime_credit(tenant).await, Err(BillingError::AccountBanned)));
    let nobody = TenantId::new(books.clock.now());
    let refused = books.billing.suspend_tenant(&origin, nobody, "x", false).await;
    assert!(matches!(refused, Err(BillingError::TenantNotFound(id)) if id == nobody), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispute_suspends_until_it_is_won_and_a_purchase_does_not_help() {
    let books = Books::open().await;
    let (origin, tenant) = (Origin::system("test"), books.customer(100).await);
    let suspended = books.billing.suspend_for_dispute(&origin, tenant).await.unwrap();
    assert_eq!(suspended, Standing::Suspended { reason: SuspensionReason::Dispute, delete_after: None });
    books.billing.post(&[purchase("cs", tenant, 500)]).await.unwrap();
    assert_eq!(books.billing.standing(tenant).await.unwrap(), suspended);
    assert_eq!(books.billing.settle_dispute(&origin, tenant).await.unwrap(), Standing::Active);
    books.billing.ban_tenant(&origin, tenant, "fraud", &format!("BAN {tenant}")).await.unwrap();
    let banned = books.billing.suspend_for_dispute(&origin, tenant).await.unwrap();
    assert!(matches!(banned, Standing::Banned { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_customer_is_told_at_each_step() {
    let books = Books::open().await;
    let tenant = books.tenant().await;
    books.billing.grant_signup(tenant, "ann@example.com").await.unwrap();
    let day = [(ChargeKind::Runtime, cents(600))];
    let bot = BotId::new(books.clock.now());
    for _ in 0..2 {
        books.billing.charge_bot_day(tenant, bot, date(2027, 1, 15), &day).await.unwrap();
    }
    books.clock.advance(GRACE_PERIOD);
    books.billing.advance_standing().await.unwrap();
    books.billing.post(&[purchase("cs", tenant, 500)]).await.unwrap();
    let sent = |template: &str| {
        format!(
            "SELECT count(*) AS value FROM mail_outbox WHERE template = '{template}' AND recipient = 'ann@example.com'"
        )
    };
    for template in ["grace-period-start", "auto-suspended", "account-reactivated"] {
        assert_eq!(books.number(&sent(template)).await, 1, "{template}");
    }
}
