use diesel::sql_types::Text;
use diesel_async::{RunQueryDsl, SimpleAsyncConnection as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wopr_core::db::DbError;
use wopr_core::testing::TestDb;

#[derive(diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    value: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_database_is_servable_and_one_behind_is_not() {
    let test = TestDb::create().await;
    let state = test.db.schema_state().await.unwrap();
    assert!(state.is_servable() && state.unknown.is_empty(), "{state:?}");
    let mut conn = test.db.connection().await.unwrap();
    let newest =
        "DELETE FROM __diesel_schema_migrations WHERE version = (SELECT max(version) FROM __diesel_schema_migrations)";
    conn.batch_execute(newest).await.unwrap();
    drop(conn);
    let state = test.db.schema_state().await.unwrap();
    assert!(!state.is_servable());
    assert_eq!(state.pending.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_go_down_and_up_again() {
    let test = TestDb::create().await;
    test.db.revert_all().await.unwrap();
    let mut conn = test.db.connection().await.unwrap();
    let left: Vec<Row> = diesel::sql_query(
        "SELECT table_name::text AS value FROM information_schema.tables WHERE table_schema = 'wopr'
         UNION ALL SELECT routine_name::text FROM information_schema.routines WHERE routine_schema = 'wopr'
         UNION ALL SELECT typname::text FROM pg_type JOIN pg_namespace n ON n.oid = typnamespace
             WHERE nspname = 'wopr' AND typtype IN ('e', 'd')",
    )
    .load(&mut conn)
    .await
    .unwrap();
    let left: Vec<_> = left.into_iter().map(|row| row.value).collect();
    assert_eq!(left, ["__diesel_schema_migrations"]);
    drop(conn);
    assert!(!test.db.migrate().await.unwrap().is_empty());
    assert!(test.db.schema_state().await.unwrap().is_servable());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_migrators_one_does_it_all() {
    let test = TestDb::create().await;
    test.db.revert_all().await.unwrap();
    let (one, other) = (test.db.clone(), test.db.clone());
    let one = tokio::spawn(async move { one.migrate().await.unwrap() });
    let other = tokio::spawn(async move { other.migrate().await.unwrap() });
    let (one, other) = (one.await.unwrap(), other.await.unwrap());
    assert!(one.is_empty() != other.is_empty(), "{one:?} {other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_cannot_be_rewritten() {
    let test = TestDb::create().await;
    let mut conn = test.db.connection().await.unwrap();
    conn.batch_execute(
        "INSERT INTO audit_log (id, at, actor_kind, actor, action, resource_kind, outcome, details)
         VALUES (gen_random_uuid(), now(), 'system', 'test', 'test.run', 'test', 'success', '{}')",
    )
    .await
    .unwrap();
    for statement in ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"] {
        let error = conn.batch_execute(statement).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{statement}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_transaction_leaves_nothing() {
    let test = TestDb::create().await;
    let insert = "INSERT INTO tenants VALUES (gen_random_uuid(), 'personal', 'x', now())";
    let failed: Result<(), DbError> = test
        .db
        .transaction(async |conn| {
            conn.batch_execute(insert).await?;
            Err(DbError::inconsistent("tenants", "on purpose"))
        })
        .await;
    assert!(failed.is_err());
    let mut conn = test.db.connection().await.unwrap();
    let rows: Row =
        diesel::sql_query("SELECT count(*)::text AS value FROM tenants").get_result(&mut conn).await.unwrap();
    assert_eq!(rows.value, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_server_closed_is_not_handed_out() {
    let test = TestDb::create().await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(test.db.connection().await.unwrap());
    }
    drop(held);
    let mut conn = test.db.connection().await.unwrap();
    let kill = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    conn.batch_execute(kill).await.unwrap();
    drop(conn);
    // The server has said goodbye; hearing it is up to the driver's task.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let mut taken = Vec::new();
        let mut works = 0;
        for _ in 0..4 {
            let mut conn = test.db.connection().await.unwrap();
            works += usize::from(conn.batch_execute("SELECT 1").await.is_ok());
            taken.push(conn);
        }
        if works == 4 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "dead connections stay in the pool");
    }
}

/// The server drops no database while a connection is half made: whoever is to complete it must get round to that.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_closes_leaves_its_task_to_others() {
    let test = TestDb::create().await;
    let url = test.url();
    let (_, address) = url.split_once('@').unwrap();
    let mut connection = tokio::net::TcpStream::connect(address.split_once('/').unwrap().0).await.unwrap();
    let parameters = b"user\0postgres\0database\0postgres\0\0";
    let mut greeting = u32::try_from(parameters.len() + 8).unwrap().to_be_bytes().to_vec();
    greeting.extend(196_608_u32.to_be_bytes());
    greeting.extend(parameters);
    connection.write_all(&greeting).await.unwrap();
    // It asks for the password now.
    assert_eq!(connection.read_u8().await.unwrap(), b'R');
    let started = std::time::Instant::now();
    tokio::join!(test.close(), async move { drop(connection) });
    let took = started.elapsed();
    assert!(took < std::time::Duration::from_secs(20), "both waited for each other for {took:?}");
}
