use jiff::{SignedDuration, Timestamp};

use super::repository::throttle::ThrottleRepository;
use crate::clock::SharedClock;
use crate::db::{Db, DbError};

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// How many times in one window.
    pub max: u32,
    /// How long a window lasts; it begins with its first request.
    pub window: SignedDuration,
}

/// What a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may go on.
    pub allowed: bool,
    /// How many are allowed in the window.
    pub limit: u32,
    /// How many more are.
    pub remaining: u32,
    /// When the next window may begin.
    pub resets_at: Timestamp,
}

/// Counts requests in fixed windows. The counts are in PostgreSQL, one statement each, so that all replicas share them.
#[derive(Clone)]
pub struct Throttle {
    db: Db,
    clock: SharedClock,
}

impl Throttle {
    /// Counts in this database.
    pub fn new(db: Db, clock: SharedClock) -> Self {
        Self { db, clock }
    }

    /// Counts one request of `key` (a client, an account) under `scope` (what is limited), and says whether it is one
    /// too many. Requests that are refused are counted too.
    ///
    /// # Errors
    /// [`DbError`] when it could not be counted: the caller decides what that means.
    pub async fn hit(&self, scope: &str, key: &str, limit: Limit) -> Result<Decision, DbError> {
        let now = self.clock.now();
        let mut conn = self.db.connection().await?;
        let (hits, resets_at) = ThrottleRepository::new(&mut conn).hit(scope, key, now, now + limit.window).await?;
        Ok(decide(hits, resets_at, limit))
    }

    /// Forgets windows that are over. Periodic; takes no arguments. Answers how many went.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn purge(&self) -> Result<usize, DbError> {
        let now = self.clock.now();
        let mut conn = self.db.connection().await?;
        ThrottleRepository::new(&mut conn).purge(now).await
    }
}

fn decide(hits: u64, resets_at: Timestamp, limit: Limit) -> Decision {
    let max = u64::from(limit.max);
    let remaining = u32::try_from(max.saturating_sub(hits)).unwrap_or(limit.max);
    Decision { allowed: hits <= max, limit: limit.max, remaining, resets_at }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_allowed_request_is_the_one_that_reaches_the_limit() {
        let limit = Limit { max: 3, window: SignedDuration::from_mins(1) };
        let resets_at = Timestamp::constant(1_800_000_060, 0);
        let answers: Vec<_> = [1, 2, 3, 4, u64::MAX]
            .map(|hits| decide(hits, resets_at, limit))
            .map(|decision| (decision.allowed, decision.remaining))
            .into();
        assert_eq!(answers, [(true, 2), (true, 1), (true, 0), (false, 0), (false, 0)]);
    }
}
