use jiff::civil::date;
use wopr_core::billing::{BillingError, ChargeKind, DayCharge, GRACE_PERIOD, Standing};
use wopr_core::clock::Clock as _;
use wopr_core::ids::BotId;

use super::{Books, cents};

#[tokio::test(flavor = "multi_thread")]
async fn a_bots_day_is_charged_once_with_all_its_components() {
    let books = Books::open().await;
    let tenant = books.customer(100).await;
    let (bot, day) = (BotId::new(books.clock.now()), date(2027, 1, 15));
    let components =
        [(ChargeKind::Runtime, cents(17)), (ChargeKind::Resource, cents(10)), (ChargeKind::Storage, cents(0))];
    for fresh in [true, false] {
        let charged = books.billing.charge_bot_day(tenant, bot, day, &components).await.unwrap();
        let DayCharge::Charged(posted) = charged else { panic!("{charged:?}") };
        assert_eq!(posted.len(), 2);
        assert!(posted.iter().all(|posted| posted.fresh == fresh));
        assert_eq!(posted[0].reference_key, format!("runtime:2027-01-15:{bot}:runtime"));
    }
    assert_eq!(books.billing.balance(tenant).await.unwrap().balance, cents(73));
    let dearer = books.billing.charge_bot_day(tenant, bot, day, &[(ChargeKind::Runtime, cents(18))]).await;
    assert!(matches!(dearer, Err(BillingError::KeyConflict { .. })), "{dearer:?}");
    let twice = [(ChargeKind::Runtime, cents(17)), (ChargeKind::Runtime, cents(17))];
    let twice = books.billing.charge_bot_day(tenant, bot, day, &twice).await;
    assert!(matches!(twice, Err(BillingError::InvalidTransfer { .. })), "{twice:?}");
    books.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shortage_takes_nothing_and_starts_the_grace_period_once() {
    let books = Books::open().await;
    let tenant = books.customer(20).await;
    let bot = BotId::new(books.clock.now());
    let components = [(ChargeKind::Runtime, cents(17)), (ChargeKind::Resource, cents(10))];
    let until = books.clock.now() + GRACE_PERIOD;
    for day in [15, 16] {
        let charge = books.billing.charge_bot_day(tenant, bot, date(2027, 1, day), &components).await.unwrap();
        let expected =
            DayCharge::Short { available: cents(20), required: cents(27), standing: Standing::Grace { until } };
        assert_eq!(charge, expected);
        books.clock.advance(jiff::SignedDuration::from_hours(24));
    }
    assert_eq!(books.billing.balance(tenant).await.unwrap().balance, cents(20));
    assert_eq!(books.number("SELECT count(*) AS value FROM account_standing_changes").await, 1);
    books.billing.require_runtime_credit(tenant).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_a_bot_needs_the_first_day() {
    let books = Books::open().await;
    let (poor, able) = (books.customer(16).await, books.customer(17).await);
    let refused = books.billing.require_runtime_credit(poor).await.unwrap_err();
    let BillingError::InsufficientCredit { available, required } = refused else { panic!("{refused:?}") };
    assert_eq!((available, required), (cents(16), cents(17)));
    books.billing.require_runtime_credit(able).await.unwrap();
}
