//! Advisory leases: of several processes one does a thing, and PostgreSQL takes the lease back from one that dies.

use diesel::sql_types::{Bool, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::sync::Mutex;

use super::{Db, DbError};

/// Leases held by this process, all on one connection outside the pool. When it breaks, all of them are gone.
///
/// A lease keeps two processes from doing the same work at the same time; it is not what makes the work correct. A
/// process that lost its connection learns of it with the next lease only, so what runs under a lease has to bear
/// being run twice.
pub struct Leases {
    db: Db,
    connection: Mutex<Option<AsyncPgConnection>>,
}

#[derive(diesel::QueryableByName)]
struct Answer {
    #[diesel(sql_type = Bool)]
    answer: bool,
}

impl Leases {
    /// No leases yet; nothing is connected until the first is wanted.
    pub fn new(db: Db) -> Self {
        Self { db, connection: Mutex::new(None) }
    }

    /// Takes the lease of that name unless another process has it. Each lease taken has to be [released](Self::release).
    ///
    /// # Errors
    /// [`DbError::Unavailable`] when the database is away.
    pub async fn try_acquire(&self, name: &str) -> Result<bool, DbError> {
        self.ask("SELECT pg_try_advisory_lock(hashtextextended($1, 0)) AS answer", name).await
    }

    /// Gives the lease back.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] when the database is away, and with it the lease.
    pub async fn release(&self, name: &str) -> Result<(), DbError> {
        self.ask("SELECT pg_advisory_unlock(hashtextextended($1, 0)) AS answer", name).await.map(drop)
    }

    async fn ask(&self, statement: &str, name: &str) -> Result<bool, DbError> {
        let mut slot = self.connection.lock().await;
        // Taken out while in use: a future that is dropped half-way leaves no connection with an answer on its way.
        let mut conn = match slot.take() {
            Some(conn) => conn,
            None => self.db.connect_alone().await?,
        };
        let name = format!("{}:{name}", self.db.config().schema);
        let answer: Answer = diesel::sql_query(statement).bind::<Text, _>(name).get_result(&mut conn).await?;
        *slot = Some(conn);
        Ok(answer.answer)
    }
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leases").field("db", &self.db).finish_non_exhaustive()
    }
}
