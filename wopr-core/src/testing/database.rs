//! One PostgreSQL server for all tests, one database for each, cloned from a migrated template.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use diesel::sql_types::{BigInt, Bool, Text};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use testcontainers::core::{IntoContainerPort as _, WaitFor};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{GenericImage, ImageExt as _, ReuseDirective};
use tokio::sync::OnceCell;

use crate::db::{Db, DbConfig};

/// Use this server instead of a container: `postgres://user:password@host:port/postgres`, allowed to create databases.
const SERVER_VARIABLE: &str = "WOPR_TEST_DATABASE_URL";
/// The image that `cargo wopr images` builds.
const IMAGE: (&str, &str) = ("wopr-postgres", "15");
const CONTAINER: &str = "wopr-test-postgres";
/// Taken while databases are made: nobody may be connected to the template while it is cloned.
const TEMPLATE_LOCK: i64 = 0x7465_7374;

static NEXT: AtomicU32 = AtomicU32::new(0);
static SERVER: OnceCell<String> = OnceCell::const_new();

/// A migrated database of its own, dropped with this value.
///
/// Dropping it waits for the server, and the server for every connection that is half made. So where several share a task,
/// and one of the others may be connecting, [`TestDb::close`] it instead: otherwise the two wait for each other until the
/// server gives the connection up, a minute later.
pub struct TestDb {
    /// The handle.
    pub db: Db,
    name: String,
    server: String,
}

#[derive(diesel::QueryableByName)]
struct Exists {
    #[diesel(sql_type = Bool)]
    exists: bool,
}

#[derive(diesel::QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

impl TestDb {
    /// Makes one. Needs the multi-thread runtime.
    ///
    /// # Panics
    /// With one line saying what is missing, when there is no server to be had.
    pub async fn create() -> Self {
        let server = SERVER.get_or_init(server_url).await.clone();
        let name = format!("wopr_test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut admin = connect(&server).await;
        let template = ensure_template(&mut admin, &server).await;
        run(&mut admin, &format!("CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")).await;
        let mut config = DbConfig::new(database_url(&server, &name));
        config.max_connections = 8;
        let db = Db::new(config).unwrap_or_else(|error| panic!("the test database's URL is not usable: {error}"));
        Self { db, name, server }
    }

    /// Runs statements, to break things on purpose.
    ///
    /// # Panics
    /// When a statement fails.
    pub async fn execute(&self, statements: &str) {
        let mut conn = self.db.connection().await.unwrap_or_else(|error| panic!("no connection: {error}"));
        run(&mut conn, statements).await;
    }

    /// Ends every connection and refuses new ones, or accepts them again.
    ///
    /// # Panics
    /// When the server does not do it.
    pub async fn set_away(&self, away: bool) {
        let mut admin = connect(&self.server).await;
        run(&mut admin, &format!("ALTER DATABASE {} ALLOW_CONNECTIONS {}", self.name, !away)).await;
        if away {
            let end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname =";
            run(&mut admin, &format!("{end} '{}'", self.name)).await;
        }
    }

    /// Drops the database without keeping what else is on this task from going on.
    ///
    /// # Panics
    /// When the runtime is shutting down.
    pub async fn close(self) {
        let dropped = tokio::task::spawn_blocking(move || drop(self)).await;
        dropped.unwrap_or_else(|error| panic!("the test database was not dropped: {error}"));
    }

    /// The connection URL, for programs under test.
    pub fn url(&self) -> String {
        database_url(&self.server, &self.name)
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // The test's runtime may be going away: drop the database from a thread of our own.
        let dropper = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let mut admin = connect(&server).await;
                run(&mut admin, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
            });
        });
        if dropper.join().is_err() {
            tracing::warn!("a test database could not be dropped; the next run sweeps it");
        }
    }
}

/// Migrates the template once per set of migrations, and drops what earlier runs left.
async fn ensure_template(admin: &mut AsyncPgConnection, server: &str) -> String {
    static DONE: OnceCell<()> = OnceCell::const_new();
    let template = format!("wopr_template_{}", crate::db::fingerprint());
    DONE.get_or_init(|| async {
        diesel::sql_query("SELECT pg_advisory_lock($1)")
            .bind::<BigInt, _>(TEMPLATE_LOCK)
            .execute(admin)
            .await
            .unwrap_or_else(|error| panic!("the test server refused the template lock: {error}"));
        let made: Exists = diesel::sql_query("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1) AS exists")
            .bind::<Text, _>(&template)
            .get_result(admin)
            .await
            .unwrap_or_else(|error| panic!("the test server does not list its databases: {error}"));
        if !made.exists {
            let building = format!("{template}_building");
            run(admin, &format!("DROP DATABASE IF EXISTS {building} WITH (FORCE)")).await;
            run(admin, &format!("CREATE DATABASE {building}")).await;
            let db = Db::new(DbConfig::new(database_url(server, &building)));
            let migrated = match db {
                Ok(db) => db.migrate().await,
                Err(error) => Err(error),
            };
            migrated.unwrap_or_else(|error| panic!("the test template could not be migrated: {error}"));
            wait_until_unused(admin, &building).await;
            run(admin, &format!("ALTER DATABASE {building} RENAME TO {template}")).await;
        }
        sweep(admin).await;
        diesel::sql_query("SELECT pg_advisory_unlock($1)")
            .bind::<BigInt, _>(TEMPLATE_LOCK)
            .execute(admin)
            .await
            .unwrap_or_else(|error| panic!("the test server kept the template lock: {error}"));
    })
    .await;
    template
}

/// The migrator's connection ends shortly after it is dropped; a template must have none.
async fn wait_until_unused(admin: &mut AsyncPgConnection, database: &str) {
    for _ in 0..500 {
        let used: Exists =
            diesel::sql_query("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = $1) AS exists")
                .bind::<Text, _>(database)
                .get_result(admin)
                .await
                .unwrap_or_else(|error| panic!("the test server does not list its connections: {error}"));
        if !used.exists {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{database} is still connected to five seconds after its migration");
}

/// Drops the databases of processes that are gone: a killed test run cannot drop its own.
async fn sweep(admin: &mut AsyncPgConnection) {
    let names: Vec<Name> =
        diesel::sql_query("SELECT datname::text AS name FROM pg_database WHERE datname LIKE 'wopr\\_test\\_%'")
            .load(admin)
            .await
            .unwrap_or_else(|error| panic!("the test server does not list its databases: {error}"));
    for Name { name } in names {
        let process = name.split('_').nth(2).and_then(|process| process.parse::<u32>().ok());
        let alive = process.is_some_and(|process| std::path::Path::new(&format!("/proc/{process}")).exists());
        if !alive {
            run(admin, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        }
    }
}

async fn server_url() -> String {
    if let Ok(url) = std::env::var(SERVER_VARIABLE) {
        return url;
    }
    start_container().await.unwrap_or_else(|error| {
        panic!("no PostgreSQL for tests: {error}; run `cargo wopr images` once, or set {SERVER_VARIABLE}")
    })
}

/// Starts the shared container, or finds it running. Several test binaries may do so at once: a file lock orders them.
async fn start_container() -> Result<String, Box<dyn std::error::Error>> {
    let lock = std::fs::File::create(std::env::temp_dir().join("wopr-test-postgres.lock"))?;
    lock.lock()?;
    let settings = ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=500"];
    let command = settings.iter().flat_map(|setting| ["-c", setting]).map(str::to_owned);
    let container = GenericImage::new(IMAGE.0, IMAGE.1)
        .with_exposed_port(5432.tcp())
        .with_wait_for(WaitFor::message_on_stderr("database system is ready to accept connections"))
        .with_container_name(CONTAINER)
        .with_label("wopr.test", "postgres")
        .with_env_var("POSTGRES_HOST_AUTH_METHOD", "trust")
        .with_env_var("POSTGRES_PASSWORD", "postgres")
        .with_cmd(command)
        .with_reuse(ReuseDirective::Always)
        .start()
        .await?;
    let port = container.get_host_port_ipv4(5432).await?;
    let url = format!("postgres://postgres:postgres@127.0.0.1:{port}/postgres?sslmode=disable");
    // A reused container is not waited for, and a fresh one restarts once while it initialises.
    for _ in 0..600 {
        if AsyncPgConnection::establish(&url).await.is_ok() {
            return Ok(url);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("{CONTAINER} does not accept connections").into())
}

fn database_url(server: &str, database: &str) -> String {
    let (base, query) = server.split_once('?').map_or((server, ""), |(base, query)| (base, query));
    let host = base.rsplit_once('/').map_or(base, |(host, _)| host);
    let query = if query.is_empty() { "sslmode=disable" } else { query };
    format!("{host}/{database}?{query}")
}

async fn connect(url: &str) -> AsyncPgConnection {
    AsyncPgConnection::establish(url).await.unwrap_or_else(|error| panic!("the test server went away: {error}"))
}

async fn run(conn: &mut AsyncPgConnection, statement: &str) {
    conn.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
}
