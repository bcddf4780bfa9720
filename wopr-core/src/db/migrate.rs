use std::collections::BTreeSet;

use diesel::migration::{Migration, MigrationSource as _};
use diesel::pg::Pg;
use diesel::sql_types::{BigInt, Bool, Text};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};

use super::{Db, DbError};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../migrations");

/// The advisory lock every migrator takes: "wopr" in ASCII.
const MIGRATION_LOCK: i64 = 0x776f_7072;

/// How the database's schema compares with the one this build was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaState {
    /// Versions this build has and the database lacks.
    pub pending: Vec<String>,
    /// Versions the database has and this build does not know: a newer release was here.
    pub unknown: Vec<String>,
}

impl SchemaState {
    /// Whether this build may serve. A newer schema suits the release before it, so unknown versions do not stop it.
    pub fn is_servable(&self) -> bool {
        self.pending.is_empty()
    }
}

#[derive(diesel::QueryableByName)]
struct Version {
    #[diesel(sql_type = Text)]
    version: String,
}

#[derive(diesel::QueryableByName)]
struct Exists {
    #[diesel(sql_type = Bool)]
    exists: bool,
}

impl Db {
    /// Creates the PostgreSQL schema and applies what is pending. Of several callers at once one does it all.
    ///
    /// Needs the multi-thread runtime.
    ///
    /// # Errors
    /// [`DbError::Migration`] with the version that failed; [`DbError::Unavailable`].
    pub async fn migrate(&self) -> Result<Vec<String>, DbError> {
        let mut conn = super::tls::connect(super::tls::parameters(self.config())?)
            .await
            .map_err(|error| DbError::Unavailable(error.to_string()))?;
        conn.batch_execute("SET statement_timeout = '10min'").await?;
        lock(&mut conn).await?;
        conn.batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {}", self.config().schema)).await?;
        let mut harness = AsyncMigrationHarness::new(conn);
        let applied = harness
            .run_pending_migrations(MIGRATIONS)
            .map_err(|error| DbError::Migration(error.to_string()))?
            .iter()
            .map(ToString::to_string)
            .collect();
        // The lock goes with the connection, which ends here.
        drop(harness.into_inner());
        Ok(applied)
    }

    /// Takes back every migration, newest first. For tests and for giving a shared database back.
    ///
    /// # Errors
    /// As [`Db::migrate`].
    pub async fn revert_all(&self) -> Result<(), DbError> {
        let mut conn = super::tls::connect(super::tls::parameters(self.config())?)
            .await
            .map_err(|error| DbError::Unavailable(error.to_string()))?;
        lock(&mut conn).await?;
        let mut harness = AsyncMigrationHarness::new(conn);
        harness.revert_all_migrations(MIGRATIONS).map_err(|error| DbError::Migration(error.to_string()))?;
        Ok(())
    }

    /// Compares the database with this build.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] when the database is away.
    pub async fn schema_state(&self) -> Result<SchemaState, DbError> {
        let mut conn = self.connection().await?;
        let table = format!("{}.__diesel_schema_migrations", self.config().schema);
        let known: Exists = diesel::sql_query("SELECT to_regclass($1) IS NOT NULL AS exists")
            .bind::<Text, _>(&table)
            .get_result(&mut conn)
            .await?;
        let applied: Vec<Version> = if known.exists {
            diesel::sql_query(format!("SELECT version::text AS version FROM {table}")).load(&mut conn).await?
        } else {
            Vec::new()
        };
        let applied: BTreeSet<String> = applied.into_iter().map(|row| row.version).collect();
        let built: BTreeSet<String> = built_versions()?;
        Ok(SchemaState {
            pending: built.difference(&applied).cloned().collect(),
            unknown: applied.difference(&built).cloned().collect(),
        })
    }
}

async fn lock(conn: &mut AsyncPgConnection) -> Result<(), DbError> {
    diesel::sql_query("SELECT pg_advisory_lock($1)").bind::<BigInt, _>(MIGRATION_LOCK).execute(conn).await?;
    Ok(())
}

fn migrations() -> Result<Vec<Box<dyn Migration<Pg>>>, DbError> {
    MIGRATIONS.migrations().map_err(|error| DbError::Migration(error.to_string()))
}

fn built_versions() -> Result<BTreeSet<String>, DbError> {
    Ok(migrations()?.iter().map(|migration| migration.name().version().to_string()).collect())
}

/// A name for exactly this set of migrations, text included: it is what test databases are cloned from.
#[cfg(feature = "testing")]
pub(crate) fn fingerprint() -> String {
    use sha2::Digest as _;
    const SOURCE: &[&str] = &[include_str!(concat!(env!("OUT_DIR"), "/migrations.txt"))];
    let digest = sha2::Sha256::digest(SOURCE.concat().as_bytes());
    hex::encode(&digest[..8])
}
