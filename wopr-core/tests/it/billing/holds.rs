use jiff::SignedDuration;
use wopr_core::audit::Actor;
use wopr_core::billing::{BillingError, HoldState, Transfer, TransferKind};

use super::{Books, cents, usage};

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_takes_credit_aside_and_a_settlement_takes_only_the_cost() {
    let books = Books::open().await;
    let tenant = books.customer(100).await;
    let hold = books.billing.open_hold(tenant, "req-1", cents(40)).await.unwrap();
    let balance = books.billing.balance(tenant).await.unwrap();
    assert_eq!((balance.balance, balance.held, balance.available), (cents(100), cents(40), cents(60)));
    let refused = books.billing.post(&[usage("u", tenant, 61)]).await;
    assert!(matches!(refused, Err(BillingError::InsufficientCredit { .. })), "{refused:?}");
    let refused = books.billing.open_hold(tenant, "req-2", cents(61)).await.unwrap_err();
    let BillingError::InsufficientCredit { available, required } = refused else { panic!("{refused:?}") };
    assert_eq!((available, required), (cents(60), cents(61)));
    let refused = books.billing.settle(tenant, hold.id, cents(41)).await;
    assert!(matches!(refused, Err(BillingError::ExceedsHold { .. })), "{refused:?}");
    let settled = books.billing.settle(tenant, hold.id, cents(15)).await.unwrap();
    books.clock.advance(SignedDuration::from_secs(30));
    assert_eq!(books.billing.settle(tenant, hold.id, cents(15)).await.unwrap(), settled);
    let other = books.billing.settle(tenant, hold.id, cents(16)).await;
    assert!(matches!(other, Err(BillingError::Transition(_))), "{other:?}");
    let balance = books.billing.balance(tenant).await.unwrap();
    assert_eq!((balance.balance, balance.held), (cents(85), cents(0)));
    books.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_are_idempotent_by_key_and_belong_to_their_tenant() {
    let books = Books::open().await;
    let (tenant, stranger) = (books.customer(100).await, books.customer(100).await);
    let hold = books.billing.open_hold(tenant, "req", cents(40)).await.unwrap();
    assert_eq!(books.billing.open_hold(tenant, "req", cents(40)).await.unwrap(), hold);
    for (who, amount) in [(tenant, 41), (stranger, 40)] {
        let refused = books.billing.open_hold(who, "req", cents(amount)).await;
        assert!(matches!(refused, Err(BillingError::KeyConflict { .. })), "{refused:?}");
    }
    let foreign = books.billing.settle(stranger, hold.id, cents(1)).await;
    assert!(matches!(foreign, Err(BillingError::HoldNotFound(id)) if id == hold.id), "{foreign:?}");
    let voided = books.billing.void(tenant, hold.id).await.unwrap();
    assert_eq!(books.billing.void(tenant, hold.id).await.unwrap(), voided);
    assert_eq!(books.billing.balance(tenant).await.unwrap().available, cents(100));
    assert!(books.billing.open_hold(tenant, "zero", cents(0)).await.is_err());
    books.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_holds_expire_and_extended_ones_do_not() {
    let books = Books::open().await;
    let tenant = books.customer(100).await;
    let forgotten = books.billing.open_hold(tenant, "a", cents(10)).await.unwrap();
    let running = books.billing.open_hold(tenant, "b", cents(20)).await.unwrap();
    assert_eq!(books.billing.expire_holds().await.unwrap(), 0);
    books.clock.advance(SignedDuration::from_mins(9));
    books.billing.extend_hold(tenant, running.id).await.unwrap();
    books.clock.advance(SignedDuration::from_mins(1));
    assert_eq!(books.billing.expire_holds().await.unwrap(), 1);
    assert_eq!(books.billing.balance(tenant).await.unwrap().held, cents(20));
    let late = books.billing.settle(tenant, forgotten.id, cents(1)).await;
    assert!(matches!(late, Err(BillingError::Transition(_))), "{late:?}");
    let released = books.billing.void(tenant, forgotten.id).await.unwrap();
    assert!(matches!(released.state, HoldState::Expired { .. }));
    books.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promised_capture_succeeds_after_the_money_is_gone() {
    let books = Books::open().await;
    let tenant = books.customer(100).await;
    let hold = books.billing.open_hold(tenant, "req", cents(40)).await.unwrap();
    let dispute =
        Transfer::from_wallet("dispute:dp_1:open", TransferKind::Dispute, tenant, cents(100), Actor::System("test"));
    books.billing.post(&[dispute]).await.unwrap();
    books.billing.settle_with_overrun(tenant, hold.id, cents(45)).await.unwrap();
    let balance = books.billing.balance(tenant).await.unwrap();
    assert_eq!((balance.balance, balance.held), (cents(-45), cents(0)));
    books.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_in_parallel_never_promise_more_than_there_is() {
    let books = Books::open().await;
    let tenant = books.customer(100).await;
    let callers: Vec<_> = (0..40)
        .map(|n| {
            let billing = books.billing.clone();
            tokio::spawn(async move {
                let hold = match billing.open_hold(tenant, &format!("req-{n}"), cents(10)).await {
                    Ok(hold) => hold,
                    Err(BillingError::InsufficientCredit { .. }) => return 0,
                    Err(error) => panic!("{error:?}"),
                };
                if n % 3 == 0 {
                    billing.void(tenant, hold.id).await.unwrap();
                    return 0;
                }
                // Both at once: one settles, the other hears the same.
                let (one, other) =
                    tokio::join!(billing.settle(tenant, hold.id, cents(7)), billing.settle(tenant, hold.id, cents(7)));
                assert_eq!(one.unwrap(), other.unwrap());
                7
            })
        })
        .collect();
    let mut spent = 0;
    for caller in callers {
        spent += caller.await.unwrap();
    }
    assert!(spent >= 70, "{spent}");
    let balance = books.billing.balance(tenant).await.unwrap();
    assert_eq!((balance.balance, balance.held), (cents(100 - spent), cents(0)));
    books.assert_balanced().await;
}
