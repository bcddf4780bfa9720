//! PostgreSQL: the pool, transactions, embedded migrations and errors.
//!
//! Everything lives in one PostgreSQL schema ([`DEFAULT_SCHEMA`] unless told otherwise), so that a host application
//! can share its database. The schema is put on each connection's `search_path`; SQL names tables without it.

mod error;
mod lease;
mod migrate;
pub(crate) mod schema;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use diesel_async::pooled_connection::bb8::{Pool, PooledConnection};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, PoolableConnection as _, RecyclingMethod,
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use futures_util::FutureExt as _;

pub use self::error::DbError;
pub use self::lease::Leases;
pub use self::migrate::SchemaState;
#[cfg(feature = "testing")]
pub(crate) use self::migrate::fingerprint;
pub use self::tls::names_one_database;

/// The PostgreSQL schema used unless told otherwise.
pub const DEFAULT_SCHEMA: &str = "wopr";

/// How to reach the database.
#[derive(Clone)]
pub struct DbConfig {
    /// `postgres://user:password@host:port/database[?sslmode=require]`.
    pub url: secrecy::SecretString,
    /// The PostgreSQL schema to live in; letters, digits and `_`.
    pub schema: String,
    /// The most connections kept open.
    pub max_connections: u32,
    /// How long a use case waits for a connection before it fails.
    pub acquire_timeout: Duration,
    /// How long one statement may run.
    pub statement_timeout: Duration,
}

impl DbConfig {
    /// Ten connections in [`DEFAULT_SCHEMA`], five seconds to get one, five seconds a statement.
    pub fn new(url: impl Into<secrecy::SecretString>) -> Self {
        Self {
            url: url.into(),
            schema: DEFAULT_SCHEMA.to_owned(),
            max_connections: 10,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(5),
        }
    }
}

/// A handle on the database. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    pool: Pool<AsyncPgConnection>,
    config: Arc<DbConfig>,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").field("schema", &self.config.schema).field("state", &self.pool.state()).finish()
    }
}

impl Db {
    /// Makes the pool. Nothing is connected until first use, so a database that is away is not an error here.
    ///
    /// # Errors
    /// [`DbError::Config`] when the URL or the schema name cannot be used.
    pub fn new(config: DbConfig) -> Result<Self, DbError> {
        let parameters = tls::parameters(&config)?;
        let mut manager = ManagerConfig::default();
        manager.custom_setup = Box::new(move |_url| tls::connect(parameters.clone()).boxed());
        // The driver knows when the server has closed a connection; asking it `SELECT 1` each time is a round trip more.
        manager.recycling_method = RecyclingMethod::CustomFunction(Box::new(|connection: &mut AsyncPgConnection| {
            let broken = connection.is_broken();
            async move { if broken { Err(diesel::result::Error::BrokenTransactionManager) } else { Ok(()) } }.boxed()
        }));
        let manager = AsyncDieselConnectionManager::new_with_config(String::new(), manager);
        let pool = Pool::builder()
            .max_size(config.max_connections)
            .connection_timeout(config.acquire_timeout)
            .build_unchecked(manager);
        Ok(Self { pool, config: Arc::new(config) })
    }

    /// A connection outside of any transaction.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] when none could be had in time.
    pub async fn connection(&self) -> Result<PooledConnection<'_, AsyncPgConnection>, DbError> {
        self.pool.get().await.map_err(|error| DbError::Unavailable(error.to_string()))
    }

    /// Runs `work` in one transaction: committed when it answers `Ok`, rolled back otherwise.
    ///
    /// # Errors
    /// What `work` answers; [`DbError`] when the transaction could not begin or commit.
    pub async fn transaction<'a, R, E, F>(&self, work: F) -> Result<R, E>
    where
        for<'r> F: AsyncFnOnce(&'r mut AsyncPgConnection) -> Result<R, E>
            + SendAsyncFn<&'r mut AsyncPgConnection, Result<R, E>, Future: Send>
            + Send
            + 'a,
        R: Send + 'a,
        E: From<DbError> + Send + 'a,
    {
        let mut connection = self.connection().await?;
        let conn: &mut AsyncPgConnection = &mut connection;
        conn.transaction(async |conn: &mut AsyncPgConnection| work(conn).await.map_err(TransactionError::Work))
            .await
            .map_err(|error| match error {
                TransactionError::Work(error) => error,
                TransactionError::Database(error) => DbError::from(error).into(),
            })
    }

    /// A connection outside of the pool, for what lives as long as the connection.
    pub(crate) async fn connect_alone(&self) -> Result<AsyncPgConnection, DbError> {
        tls::connect(tls::parameters(&self.config)?).await.map_err(|error| DbError::Unavailable(error.to_string()))
    }

    pub(crate) fn config(&self) -> &DbConfig {
        &self.config
    }
}

enum TransactionError<E> {
    Work(E),
    Database(diesel::result::Error),
}

impl<E> From<diesel::result::Error> for TransactionError<E> {
    fn from(error: diesel::result::Error) -> Self {
        Self::Database(error)
    }
}

/// Demands that the future of an async closure is `Send`, which the language cannot yet say of `AsyncFnOnce`.
pub trait SendAsyncFn<Input, Output>: FnOnce(Input) -> <Self as SendAsyncFn<Input, Output>>::Future {
    /// The closure's future.
    type Future: Future<Output = Output>;
}

impl<F, Input, Output, Fut> SendAsyncFn<Input, Output> for F
where
    F: FnOnce(Input) -> Fut,
    Fut: Future<Output = Output>,
{
    type Future = Fut;
}
