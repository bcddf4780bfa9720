use diesel_async::SimpleAsyncConnection as _;
use jiff::SignedDuration;
use wopr_core::audit::{Actor, Origin};
use wopr_core::billing::{AdminCredit, AdminOperation, BillingError, HistoryQuery, Outlook, Transfer, TransferKind};
use wopr_core::clock::Clock as _;
use wopr_core::ids::TenantId;

use super::{Books, cents, purchase, usage};

#[tokio::test(flavor = "multi_thread")]
async fn a_history_pages_filters_and_counts_truly() {
    let books = Books::open().await;
    let (tenant, stranger) = (books.customer(1_000).await, books.customer(1_000).await);
    let start = books.clock.now();
    for n in 0..10 {
        books.clock.advance(SignedDuration::from_secs(1));
        books.billing.post(&[usage(&format!("u{n}"), tenant, 10), usage(&format!("s{n}"), stranger, 1)]).await.unwrap();
    }
    books.billing.post(&[purchase("cs_2", tenant, 50)]).await.unwrap();
    let page = HistoryQuery { limit: 3, ..HistoryQuery::default() };
    let first = books.billing.history(tenant, &page).await.unwrap();
    let seen = |history: &wopr_core::billing::History| {
        history
            .entries
            .iter()
            .map(|entry| (entry.reference_key.clone(), entry.amount, entry.balance_after))
            .collect::<Vec<_>>()
    };
    let entry = |key: &str, amount, after| (key.to_owned(), cents(amount), cents(after));
    assert_eq!(seen(&first), [entry("cs_2", 50, 950), entry("u9", -10, 900), entry("u8", -10, 910)]);
    assert_eq!(first.total, 12);
    let last = HistoryQuery { offset: 10, ..page.clone() };
    let last = books.billing.history(tenant, &last).await.unwrap();
    assert_eq!(seen(&last), [entry("u0", -10, 990), entry(&format!("cs_{tenant}"), 1_000, 1_000)]);
    let bought = HistoryQuery { kinds: vec![TransferKind::Purchase], ..page.clone() };
    let bought = books.billing.history(tenant, &bought).await.unwrap();
    let first_purchase = entry(&format!("cs_{tenant}"), 1_000, 1_000);
    assert_eq!((seen(&bought), bought.total), (vec![entry("cs_2", 50, 950), first_purchase], 2));
    let (from, to) = (start + SignedDuration::from_secs(2), start + SignedDuration::from_secs(4));
    let between = HistoryQuery { from: Some(from), to: Some(to), ..HistoryQuery::default() };
    let between = books.billing.history(tenant, &between).await.unwrap();
    assert_eq!((seen(&between), between.total), (vec![entry("u2", -10, 970), entry("u1", -10, 980)], 2));
    let beyond = HistoryQuery { offset: 100, limit: 0, ..page };
    let beyond = books.billing.history(tenant, &beyond).await.unwrap();
    assert_eq!((beyond.entries.len(), beyond.total), (0, 12));
    let nobody = books.billing.history(TenantId::new(start), &HistoryQuery::default()).await.unwrap();
    assert_eq!((nobody.entries.len(), nobody.total), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_burn_is_what_seven_days_consumed_and_nothing_else() {
    let books = Books::open().await;
    let tenant = books.customer(1_000).await;
    let outlook = books.billing.outlook(tenant).await.unwrap();
    assert_eq!((outlook.daily_burn, outlook.runway_days), (cents(0), None));
    books.billing.post(&[usage("old", tenant, 300)]).await.unwrap();
    books.clock.advance(SignedDuration::from_hours(7 * 24 + 1));
    let refund = Transfer::from_wallet("refund:re", TransferKind::Refund, tenant, cents(100), Actor::System("test"));
    books.billing.post(&[usage("new", tenant, 70), refund]).await.unwrap();
    let outlook = books.billing.outlook(tenant).await.unwrap();
    let balance = books.billing.balance(tenant).await.unwrap();
    assert_eq!(outlook, Outlook { balance, daily_burn: cents(10), runway_days: Some(53) });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_of_the_books_finds_what_was_done_behind_the_triggers() {
    let books = Books::open().await;
    let (tenant, other) = (books.customer(100).await, books.customer(100).await);
    let hold = books.billing.open_hold(tenant, "req", cents(10)).await.unwrap();
    books.billing.settle(tenant, hold.id, cents(5)).await.unwrap();
    books.billing.open_hold(other, "open", cents(7)).await.unwrap();
    let report = books.billing.verify_books().await.unwrap();
    assert!(report.is_balanced() && report.wallets == 2, "{report:?}");
    // Only the owner of the tables can do this.
    let mut conn = books.test.db.connection().await.unwrap();
    conn.batch_execute(&format!(
        "ALTER TABLE wallets DISABLE TRIGGER USER; ALTER TABLE credit_holds DISABLE TRIGGER USER;
         UPDATE wallets SET balance_nanos = balance_nanos + 1 WHERE tenant_id = '{}';
         UPDATE credit_holds SET actual_nanos = actual_nanos + 1 WHERE state = 'settled';
         UPDATE wallets SET held_nanos = 0 WHERE tenant_id = '{}'",
        tenant.as_uuid(),
        other.as_uuid()
    ))
    .await
    .unwrap();
    drop(conn);
    let report = books.billing.verify_books().await.unwrap();
    assert!(!report.is_balanced());
    assert_eq!(report.residue.as_nanos(), 1);
    assert_eq!(report.wrong_captures, [hold.id]);
    let of = |tenant| report.differences.iter().find(|found| found.tenant_id == tenant).unwrap();
    assert_eq!(report.differences.len(), 2);
    assert_eq!(of(tenant).balance.as_nanos() - of(tenant).posted.as_nanos(), 1);
    assert_eq!((of(other).held, of(other).open_holds), (cents(0), cents(7)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_change_is_done_once_and_audited_once() {
    let books = Books::open().await;
    let (origin, tenant) = (Origin::system("test"), books.customer(100).await);
    let operation = |id: Option<&str>, credit| AdminOperation {
        operation_id: id.map(str::to_owned),
        tenant_id: tenant,
        credit,
        reason: "goodwill".to_owned(),
    };
    let grant = operation(Some("op-1"), AdminCredit::Grant(cents(50)));
    let entry = books.billing.administer(&origin, &grant).await.unwrap();
    assert_eq!((entry.kind, entry.amount, entry.balance_after), (TransferKind::AdminGrant, cents(50), cents(150)));
    assert_eq!(entry.description.as_deref(), Some("goodwill"));
    assert_eq!(books.billing.administer(&origin, &grant).await.unwrap(), entry);
    let repeated = books.billing.administer(&origin, &operation(Some("op-1"), AdminCredit::Grant(cents(51)))).await;
    assert!(matches!(repeated, Err(BillingError::KeyConflict { .. })), "{repeated:?}");
    let refund = operation(Some("op-2"), AdminCredit::Refund(cents(150)));
    for _ in 0..2 {
        let entry = books.billing.administer(&origin, &refund).await.unwrap();
        assert_eq!((entry.kind, entry.amount, entry.balance_after), (TransferKind::Refund, cents(-150), cents(0)));
    }
    let refused = books.billing.administer(&origin, &operation(None, AdminCredit::Refund(cents(1)))).await;
    assert!(matches!(refused, Err(BillingError::InsufficientCredit { .. })), "{refused:?}");
    let debt = books.billing.administer(&origin, &operation(None, AdminCredit::Correction(cents(-5)))).await.unwrap();
    assert_eq!((debt.kind, debt.balance_after), (TransferKind::AdminAdjust, cents(-5)));
    let repaired =
        books.billing.administer(&origin, &operation(None, AdminCredit::Correction(cents(5)))).await.unwrap();
    assert_eq!(repaired.balance_after, cents(0));
    for nothing in [AdminCredit::Correction(cents(0)), AdminCredit::Grant(cents(-1)), AdminCredit::Refund(cents(0))] {
        let refused = books.billing.administer(&origin, &operation(None, nothing)).await;
        assert!(matches!(refused, Err(BillingError::InvalidTransfer { .. })), "{refused:?}");
    }
    assert_eq!(books.number("SELECT count(*) AS value FROM audit_log WHERE action LIKE 'credits.%'").await, 4);
    books.assert_balanced().await;
}
