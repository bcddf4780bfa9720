use diesel_async::SimpleAsyncConnection as _;
use wopr_core::audit::Actor;
use wopr_core::billing::{Balance, BillingError, Transfer, TransferKind};
use wopr_core::clock::Clock as _;
use wopr_core::ids::TenantId;

use super::{Books, cents, purchase, usage};

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_can_be_spent_to_the_last_cent_and_no_further() {
    let books = Books::open().await;
    let tenant = books.customer(100).await;
    books.billing.post(&[usage("u1", tenant, 99)]).await.unwrap();
    let refused = books.billing.post(&[usage("u2", tenant, 2)]).await.unwrap_err();
    let BillingError::InsufficientCredit { available, required } = refused else { panic!("{refused:?}") };
    assert_eq!((available, required), (cents(1), cents(2)));
    books.billing.post(&[usage("u2", tenant, 1)]).await.unwrap();
    assert_eq!(books.billing.balance(tenant).await.unwrap(), Balance::default());
    books.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_posts_once_and_may_not_change_its_meaning() {
    let books = Books::open().await;
    let tenant = books.customer(100).await;
    let first = books.billing.post(&[usage("u", tenant, 30)]).await.unwrap().remove(0);
    assert!(first.fresh);
    let again = books.billing.post(&[usage("u", tenant, 30)]).await.unwrap().remove(0);
    assert!(!again.fresh);
    assert_eq!((again.id, again.occurred_at), (first.id, first.occurred_at));
    let stranger = books.customer(100).await;
    let adjusted = Transfer { kind: TransferKind::AdminAdjust, ..usage("u", tenant, 30) };
    for other in [usage("u", tenant, 31), usage("u", stranger, 30), purchase("u", tenant, 30), adjusted] {
        let refused = books.billing.post(std::slice::from_ref(&other)).await;
        assert!(matches!(refused, Err(BillingError::KeyConflict { .. })), "{other:?}: {refused:?}");
    }
    assert_eq!(books.billing.balance(tenant).await.unwrap().balance, cents(70));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_posted_whole_or_not_at_all_and_answers_in_order() {
    let books = Books::open().await;
    let (rich, poor) = (books.customer(100).await, books.customer(1).await);
    let group = [usage("b", rich, 10), usage("a", poor, 2), usage("c", rich, 10)];
    let refused = books.billing.post(&group).await.unwrap_err();
    assert!(matches!(refused, BillingError::InsufficientCredit { .. }), "{refused:?}");
    assert_eq!(books.billing.balance(rich).await.unwrap().balance, cents(100));
    books.billing.post(&[usage("c", rich, 10)]).await.unwrap();
    let group = [usage("b", rich, 10), usage("a", poor, 1), usage("c", rich, 10), usage("b", rich, 10)];
    let posted = books.billing.post(&group).await.unwrap();
    let answers: Vec<_> = posted.iter().map(|posted| (posted.reference_key.as_str(), posted.fresh)).collect();
    assert_eq!(answers, [("b", true), ("a", true), ("c", false), ("b", false)]);
    assert_eq!(books.billing.balance(rich).await.unwrap().balance, cents(80));
    books.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_outside_may_overdraw_and_only_that() {
    let books = Books::open().await;
    let tenant = books.customer(10).await;
    let refund = Transfer::from_wallet("refund:re_1", TransferKind::Refund, tenant, cents(25), Actor::System("test"));
    books.billing.post(&[refund]).await.unwrap();
    assert_eq!(books.billing.balance(tenant).await.unwrap().balance, cents(-15));
    let refused = books.billing.post(&[usage("u", tenant, 1)]).await;
    assert!(matches!(refused, Err(BillingError::InsufficientCredit { .. })), "{refused:?}");
    // A credit is never refused, and what it covers can be spent beside it.
    books.billing.post(&[purchase("cs_2", tenant, 20), usage("u", tenant, 5)]).await.unwrap();
    assert_eq!(books.billing.balance(tenant).await.unwrap().balance, cents(0));
    books.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_has_nothing_and_can_be_given_nothing() {
    let books = Books::open().await;
    let nobody = TenantId::new(books.clock.now());
    assert_eq!(books.billing.balance(nobody).await.unwrap(), Balance::default());
    let refused = books.billing.post(&[purchase("cs", nobody, 1)]).await;
    assert!(matches!(refused, Err(BillingError::TenantNotFound(id)) if id == nobody), "{refused:?}");
    let zero = books.billing.post(&[purchase("cs", nobody, 0)]).await;
    assert!(matches!(zero, Err(BillingError::InvalidTransfer { .. })), "{zero:?}");
    assert_eq!(books.number("SELECT count(*) AS value FROM ledger_transfers").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_callers_with_one_key_one_posts_and_all_hear_the_same() {
    let books = Books::open().await;
    let tenant = books.tenant().await;
    let callers = (0..32).map(|_| {
        let billing = books.billing.clone();
        tokio::spawn(async move { billing.post(&[purchase("cs_once", tenant, 500)]).await.unwrap().remove(0) })
    });
    let mut answers = Vec::new();
    for caller in callers.collect::<Vec<_>>() {
        answers.push(caller.await.unwrap());
    }
    assert_eq!(answers.iter().filter(|posted| posted.fresh).count(), 1);
    assert!(answers.iter().all(|posted| posted.id == answers[0].id && posted.amount == cents(500)));
    assert_eq!(books.billing.balance(tenant).await.unwrap().balance, cents(500));
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_writers_leave_balanced_books_and_no_overdraft() {
    let books = Books::open().await;
    let tenants = [books.customer(200).await, books.customer(200).await, books.customer(200).await];
    let writers = (0..64).map(|writer: usize| {
        let billing = books.billing.clone();
        tokio::spawn(async move {
            let mut taken = [0; 3];
            for round in 0..6 {
                // Two wallets in one group, in an order that differs between writers.
                let (one, other) = (writer % 3, (writer + 1 + round % 2) % 3);
                let key = format!("u:{writer}:{round}");
                let group =
                    [usage(&format!("{key}:a"), tenants[one], 1), usage(&format!("{key}:b"), tenants[other], 1)];
                match billing.post(&group).await {
                    Ok(_) => {
                        taken[one] += 1;
                        taken[other] += 1;
                    }
                    Err(BillingError::InsufficientCredit { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            taken
        })
    });
    let mut taken = [0; 3];
    for writer in writers.collect::<Vec<_>>() {
        for (sum, part) in taken.iter_mut().zip(writer.await.unwrap()) {
            *sum += part;
        }
    }
    assert!(taken.iter().sum::<i32>() > 300, "most of the credit could be spent: {taken:?}");
    for (tenant, taken) in tenants.into_iter().zip(taken) {
        let balance = books.billing.balance(tenant).await.unwrap().balance;
        assert_eq!(balance, cents(200 - taken));
        assert!(!balance.is_negative());
    }
    books.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_itself_refuses_to_cook_the_books() {
    let books = Books::open().await;
    let tenant = books.customer(100).await;
    books.billing.open_hold(tenant, "req", cents(10)).await.unwrap();
    let uuid = tenant.as_uuid();
    let insert = |kind: &str, debit: &str, credit: &str, amount: i64| {
        format!(
            "INSERT INTO ledger_transfers (id, reference_key, kind, debit_account, credit_account, amount_nanos,
                 actor_kind, actor, occurred_at)
             VALUES (gen_random_uuid(), gen_random_uuid(), '{kind}', '{debit}', '{credit}', {amount}, 'system', 'x', now())"
        )
    };
    let (wallet, revenue) = (uuid.to_string(), "00000000-0000-0000-0000-000000000003");
    let hostile = [
        ("UPDATE ledger_transfers SET amount_nanos = 1".to_owned(), "append-only"),
        ("DELETE FROM ledger_transfers".to_owned(), "append-only"),
        ("TRUNCATE ledger_transfers CASCADE".to_owned(), "append-only"),
        (insert("purchase", revenue, &wallet, -5), "ledger_transfers_positive"),
        (insert("purchase", revenue, &wallet, 0), "ledger_transfers_positive"),
        (insert("purchase", &wallet, &wallet, 5), "ledger_transfers_two_accounts"),
        (insert("purchase", "00000000-0000-0000-0000-0000000000aa", &wallet, 5), "ledger_transfers_known_accounts"),
        (insert("gift", revenue, &wallet, 5), "ledger_transfers_kind_check"),
        (insert("purchase", revenue, "99999999-0000-0000-0000-000000000000", 5), "wallets_tenant_id_fkey"),
        (insert("adapter_usage", &wallet, revenue, 1_000_000_001), "exceeds the available credit"),
        ("UPDATE wallets SET balance_nanos = balance_nanos + 1".to_owned(), "cannot be edited"),
        ("UPDATE wallets SET held_nanos = 0".to_owned(), "cannot be edited"),
        ("DELETE FROM wallets".to_owned(), "cannot be edited"),
        ("TRUNCATE wallets".to_owned(), "cannot be edited"),
        (format!("INSERT INTO wallets VALUES ('{uuid}', 5, 0, 0, now())"), "cannot be edited"),
        ("UPDATE credit_holds SET held_nanos = 1".to_owned(), "a hold opens once"),
        ("DELETE FROM credit_holds".to_owned(), "a hold opens once"),
        (format!("DELETE FROM tenants WHERE id = '{uuid}'"), "foreign key"),
    ];
    let mut conn = books.test.db.connection().await.unwrap();
    for (statement, why) in hostile {
        let refused = conn.batch_execute(&statement).await;
        let error = format!("{:?}", refused.expect_err(&statement));
        let named = error.contains(why) || constraint(&statement, &mut conn).await.is_some_and(|name| name == why);
        assert!(named, "{statement}: {error}");
    }
    drop(conn);
    assert_eq!(books.billing.balance(tenant).await.unwrap().balance, cents(100));
    books.assert_balanced().await;
}

/// The constraint that a statement violates.
async fn constraint(statement: &str, conn: &mut diesel_async::AsyncPgConnection) -> Option<String> {
    match conn.batch_execute(statement).await {
        Err(diesel::result::Error::DatabaseError(_, info)) => info.constraint_name().map(str::to_owned),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_or_loses_its_connection_leaves_no_half() {
    let books = Books::open().await;
    let tenant = books.customer(1_000).await;
    let killer = {
        let db = books.test.db.clone();
        tokio::spawn(async move {
            let mut strikes = 0;
            for _ in 0..20 {
                let mut conn = db.connection().await.unwrap();
                let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                            WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'";
                // The connection it was given may be one that it killed before.
                strikes += u32::from(conn.batch_execute(kill).await.is_ok());
                drop(conn);
                tokio::task::yield_now().await;
            }
            strikes
        })
    };
    let callers: Vec<_> = (0..200)
        .map(|n| {
            let billing = books.billing.clone();
            tokio::spawn(async move {
                // A credit and a debit: a transaction of several statements.
                let group = [usage(&format!("a{n}"), tenant, 1), purchase(&format!("b{n}"), tenant, 1)];
                billing.post(&group).await.is_ok()
            })
        })
        .collect();
    for caller in callers.iter().step_by(3) {
        tokio::task::yield_now().await;
        caller.abort();
    }
    let mut posted = 0;
    for caller in callers {
        posted += i64::from(caller.await.unwrap_or(false));
    }
    assert!(killer.await.unwrap() > 0, "no connection was killed");
    let halves =
        "SELECT count(*) AS value FROM ledger_transfers t WHERE reference_key ~ '^[ab][0-9]+$' AND NOT EXISTS (
        SELECT FROM ledger_transfers o WHERE o.reference_key = translate(left(t.reference_key, 1), 'ab', 'ba')
            || substr(t.reference_key, 2))";
    assert_eq!(books.number(halves).await, 0);
    let groups = books.number("SELECT count(*) AS value FROM ledger_transfers WHERE reference_key ~ '^a'").await;
    assert!(groups >= posted, "what was answered is there: {groups} of {posted}");
    assert_eq!(books.billing.balance(tenant).await.unwrap().balance, cents(1_000));
    books.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signup_grant_comes_once_for_a_tenant_and_once_for_a_mailbox() {
    let books = Books::open().await;
    let (ann, again) = (books.tenant().await, books.tenant().await);
    for _ in 0..2 {
        books.billing.grant_signup(ann, "ann@gmail.com").await.unwrap();
    }
    books.billing.grant_signup(ann, "other@example.com").await.unwrap();
    books.billing.grant_signup(again, "A.N.N+2@googlemail.com").await.unwrap();
    assert_eq!(books.billing.balance(ann).await.unwrap().balance, cents(500));
    assert_eq!(books.billing.balance(again).await.unwrap().balance, cents(0));
    let racers: Vec<_> = (0..8)
        .map(|_| {
            let (billing, tenant) = (books.billing.clone(), again);
            tokio::spawn(async move { billing.grant_signup(tenant, "second@example.com").await })
        })
        .collect();
    for racer in racers {
        racer.await.unwrap().unwrap();
    }
    assert_eq!(books.billing.balance(again).await.unwrap().balance, cents(500));
    books.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_the_latest_movements_with_the_balance_after_each() {
    let books = Books::open().await;
    let tenant = books.customer(3_000).await;
    books.billing.post(&[usage("u1", tenant, 100)]).await.unwrap();
    books.clock.advance(jiff::SignedDuration::from_secs(1));
    books.billing.post(&[usage("u2", tenant, 50)]).await.unwrap();
    let query = |column: &str, row: u8| {
        format!(
            "SELECT {column}::bigint AS value FROM
                (SELECT * FROM credit_transactions ORDER BY created_at DESC LIMIT 5) t
             WHERE reference_id = '{}'",
            if row == 0 { "u2".to_owned() } else { format!("cs_{tenant}") }
        )
    };
    assert_eq!(books.number(&query("amount_credits", 0)).await, -500_000_000);
    assert_eq!(books.number(&query("balance_after_credits", 0)).await, 28_500_000_000);
    assert_eq!(books.number(&query("balance_after_credits", 1)).await, 30_000_000_000);
}
