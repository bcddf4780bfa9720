use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wopr_core::clock::SharedClock;
use wopr_core::db::{Db, DbError};

use crate::config::Config;
use crate::error::ApiError;
use crate::extract::{Caller, Credential};

/// Everything a handler can reach. Made once, in `main` or in a test; cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// The database, for readiness only: handlers go through services.
    pub db: Db,
    /// The time.
    pub clock: SharedClock,
    /// The configuration.
    pub config: Arc<Config>,
    /// Whether traffic may be served.
    pub readiness: Arc<Readiness>,
}

impl AppState {
    /// Who a credential belongs to; `None` when it proves nothing.
    #[expect(clippy::unused_async, reason = "sessions and keys are looked up in the database")]
    pub(crate) async fn authenticate(&self, credential: &Credential) -> Result<Option<Caller>, ApiError> {
        match credential {
            Credential::Bearer(_) | Credential::Session { .. } | Credential::Unusable => Ok(None),
        }
    }
}

/// Whether this process may be sent traffic.
#[derive(Debug, Default)]
pub struct Readiness {
    draining: AtomicBool,
    servable: AtomicBool,
}

/// Why it may not.
#[derive(Debug)]
pub enum NotReady {
    /// It is shutting down.
    Draining,
    /// The database's schema is older than this build.
    SchemaBehind(Vec<String>),
    /// The database cannot be asked.
    Database(DbError),
}

impl Readiness {
    /// From now on the process answers that it is going away.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Asks the database.
    ///
    /// # Errors
    /// Says what is missing.
    pub async fn check(&self, state: &AppState) -> Result<(), NotReady> {
        if self.draining.load(Ordering::Acquire) {
            return Err(NotReady::Draining);
        }
        let result = match state.db.schema_state().await {
            Ok(schema) if schema.is_servable() => Ok(()),
            Ok(schema) => Err(NotReady::SchemaBehind(schema.pending)),
            Err(error) => Err(NotReady::Database(error)),
        };
        // A database that is away says nothing about its schema: what is known stays known.
        if !matches!(result, Err(NotReady::Database(_))) {
            self.servable.store(result.is_ok(), Ordering::Release);
        }
        result
    }

    /// The same for every request, from memory when the last answer was good.
    pub(crate) async fn require(&self, state: &AppState) -> Result<(), NotReady> {
        if self.servable.load(Ordering::Acquire) {
            return Ok(());
        }
        self.check(state).await
    }
}
