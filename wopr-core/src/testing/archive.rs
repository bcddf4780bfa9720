//! The archive of a database's log, in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::backup::base_repository::BaseRepository;
use crate::backup::{Archived, History, JobError, LogArchive};
use crate::clock::SharedClock;
use crate::db::{Db, DbError};

/// How a copy or a reading goes wrong.
#[derive(Debug, Clone)]
pub enum ArchiveFault {
    /// It is not done.
    Fails(JobError),
    /// It is made, and nobody ever hears of it.
    HangAfter,
}

#[derive(Debug, Default)]
struct State {
    copies: Vec<Archived>,
    made: u64,
    faults: VecDeque<ArchiveFault>,
    is_damaged: bool,
    verified: u32,
    in_full: u32,
    is_hanging: bool,
}

/// An archive in memory. Clones share their state.
#[derive(Clone)]
pub struct MemoryArchive {
    clock: SharedClock,
    history: History,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for MemoryArchive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryArchive").field("state", &self.lock()).finish_non_exhaustive()
    }
}

impl MemoryArchive {
    /// An empty one, of that database.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn of(db: &Db, clock: SharedClock) -> Result<Self, DbError> {
        let mut conn = db.connection().await?;
        let history = BaseRepository::new(&mut conn).find_history().await?;
        Ok(Self { clock, history, state: Arc::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes wrong with the next copy, or the next reading, that nothing goes wrong with yet.
    pub fn fault(&self, fault: ArchiveFault) {
        self.lock().faults.push_back(fault);
    }

    /// Whether a copy hangs.
    pub fn is_hanging(&self) -> bool {
        self.lock().is_hanging
    }

    /// From now on not every byte is what it was.
    pub fn damage(&self) {
        self.lock().is_damaged = true;
    }

    /// The same archive, of another database.
    #[must_use]
    pub fn of_another(&self) -> Self {
        let history = History { cluster: self.history.cluster - 1, ..self.history };
        Self { history, ..self.clone() }
    }

    /// How many copies were asked for in full.
    pub fn in_full(&self) -> u32 {
        self.lock().in_full
    }

    /// How often all of it was read.
    pub fn verified(&self) -> u32 {
        self.lock().verified
    }

    /// Lets go of the oldest copy.
    pub fn expire(&self) -> Option<Archived> {
        let mut state = self.lock();
        (!state.copies.is_empty()).then(|| state.copies.remove(0))
    }
}

#[async_trait]
impl LogArchive for MemoryArchive {
    async fn copy(&self, in_full: bool) -> Result<(), JobError> {
        let now = self.clock.now();
        let fault = self.lock().faults.pop_front();
        if let Some(ArchiveFault::Fails(error)) = fault {
            return Err(error);
        }
        {
            let mut state = self.lock();
            state.made += 1;
            state.in_full += u32::from(in_full);
            let label = format!("copy-{}", state.made);
            let history = self.history;
            let copy =
                Archived { label, history, started_at: now, finished_at: now, size_bytes: 1000, added_bytes: 100 };
            state.copies.push(copy);
            state.is_hanging = fault.is_some();
        }
        match fault {
            None => Ok(()),
            Some(_) => std::future::pending().await,
        }
    }

    async fn verify(&self) -> Result<Option<String>, JobError> {
        let mut state = self.lock();
        state.verified += 1;
        if let Some(ArchiveFault::Fails(error)) = state.faults.pop_front() {
            return Err(error);
        }
        Ok(state.is_damaged.then(|| "checksum invalid: 1".to_owned()))
    }

    async fn list(&self) -> Result<Vec<Archived>, JobError> {
        Ok(self.lock().copies.iter().rev().cloned().collect())
    }
}
