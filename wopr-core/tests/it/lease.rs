use diesel_async::SimpleAsyncConnection as _;
use wopr_core::db::Leases;
use wopr_core::testing::TestDb;

/// Ends every other connection to this database, as a crash of the server or of the network would, and waits until they
/// have ended.
async fn cut_connections(test: &TestDb) {
    let mut conn = test.db.connection().await.unwrap();
    conn.batch_execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_has_a_lease_until_it_gives_it_back() {
    let test = TestDb::create().await;
    let (one, other) = (Leases::new(test.db.clone()), Leases::new(test.db.clone()));
    assert!(one.try_acquire("mail").await.unwrap());
    assert!(!other.try_acquire("mail").await.unwrap());
    assert!(other.try_acquire("fleet").await.unwrap(), "names are independent");
    one.release("mail").await.unwrap();
    assert!(other.try_acquire("mail").await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_loses_its_leases() {
    let test = TestDb::create().await;
    let (one, other) = (Leases::new(test.db.clone()), Leases::new(test.db.clone()));
    assert!(one.try_acquire("mail").await.unwrap());
    drop(one);
    // The server notices the closed socket in its own time.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while !other.try_acquire("mail").await.unwrap() {
        assert!(tokio::time::Instant::now() < deadline, "the lease was never freed");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_replaced_by_the_next_attempt() {
    let test = TestDb::create().await;
    let leases = Leases::new(test.db.clone());
    assert!(leases.try_acquire("mail").await.unwrap());
    cut_connections(&test).await;
    assert!(leases.try_acquire("mail").await.is_err(), "the caller learns that the lease was lost");
    assert!(leases.try_acquire("mail").await.unwrap());
}
