use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::ports::{MailError, Mailer};
use super::repository::{Claimed, OutboxRepository};
use crate::clock::SharedClock;
use crate::db::{Db, DbError};
use crate::ids::MailId;

/// How many mails one step sends at most.
const BATCH: usize = 20;
/// How long a claimed mail is left to the worker that claimed it: longer than a mail server may take for one.
const LEASE: SignedDuration = SignedDuration::from_mins(5);
/// After so many attempts a mail is given up.
const MAX_ATTEMPTS: u32 = 5;
/// The wait after the first failed attempt is twice this, and doubles with each further one.
const BACK_OFF: SignedDuration = SignedDuration::from_mins(1);
const LONGEST_BACK_OFF: SignedDuration = SignedDuration::from_hours(1);
/// A mail that waited this long for a mailer says nothing any more that is worth sending.
const STALE_AFTER: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How long mails are kept that are sent or given up.
const KEPT_FOR: SignedDuration = SignedDuration::from_hours(90 * 24);

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delivered {
    /// Mails that the mail server took.
    pub sent: usize,
    /// Mails that are to be tried again.
    pub retried: usize,
    /// Mails that were given up.
    pub dead: usize,
}

/// Sends the queued mails. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    db: Db,
    clock: SharedClock,
    mailer: Option<Arc<dyn Mailer>>,
}

impl Notifier {
    /// Sends through this mailer. Without one, mails stay queued.
    pub fn new(db: Db, clock: SharedClock, mailer: Option<Arc<dyn Mailer>>) -> Self {
        Self { db, clock, mailer }
    }

    /// Sends what is due. Periodic; takes no arguments.
    ///
    /// A mail is claimed and its attempt counted before it is sent, and the outcome is written afterwards: no
    /// transaction is open while the mail server is asked. A crash between the two sends the mail again after five
    /// minutes, with the same `Message-ID`: at least once, not exactly once. Several workers share the queue.
    ///
    /// # Errors
    /// [`DbError`]; a mail that was claimed by then is tried again later.
    pub async fn deliver(&self) -> Result<Delivered, DbError> {
        let Some(mailer) = &self.mailer else { return Ok(Delivered::default()) };
        let mut delivered = Delivered::default();
        for _ in 0..BATCH {
            let Some(Claimed { id, attempt, mail }) = self.claim().await? else { break };
            let result = if attempt > MAX_ATTEMPTS {
                Err(MailError::Permanent(format!("{MAX_ATTEMPTS} attempts were begun and none was finished")))
            } else {
                mailer.send(&mail).await
            };
            let now = self.clock.now();
            let outcome = Outcome::of(result, id, attempt, now);
            outcome.count(&mut delivered);
            if let Outcome::Dead { error } = &outcome {
                tracing::error!(mail.id = %id, mail.template = mail.template, error, "gave up sending {id}");
            }
            let mut conn = self.db.connection().await?;
            OutboxRepository::new(&mut conn).record(id, attempt, now, &outcome).await?;
        }
        Ok(delivered)
    }

    async fn claim(&self) -> Result<Option<Claimed>, DbError> {
        let now = self.clock.now();
        let mut conn = self.db.connection().await?;
        OutboxRepository::new(&mut conn).claim(now, now + LEASE).await
    }

    /// Gives up mails that waited a week, and forgets those that ended 90 days ago. Periodic; takes no arguments.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn purge(&self) -> Result<usize, DbError> {
        let now = self.clock.now();
        let mut conn = self.db.connection().await?;
        let mut outbox = OutboxRepository::new(&mut conn);
        outbox.give_up(now - STALE_AFTER, "it waited a week without being sent").await?;
        outbox.purge(now - KEPT_FOR).await
    }
}

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Sent,
    Retry { at: Timestamp, error: String },
    Dead { error: String },
}

impl Outcome {
    fn of(result: Result<(), MailError>, id: MailId, attempt: u32, now: Timestamp) -> Self {
        match result {
            Ok(()) => Self::Sent,
            Err(MailError::Temporary(error)) if attempt < MAX_ATTEMPTS => {
                Self::Retry { at: now + back_off(attempt, jitter(id)), error }
            }
            Err(MailError::Temporary(error) | MailError::Permanent(error)) => Self::Dead { error },
        }
    }

    fn count(&self, delivered: &mut Delivered) {
        match self {
            Self::Sent => delivered.sent += 1,
            Self::Retry { .. } => delivered.retried += 1,
            Self::Dead { .. } => delivered.dead += 1,
        }
    }
}

/// The wait after an attempt that failed: 2, 4, 8, … minutes, an hour at most, a fifth more or less by `jitter`, which
/// is 0 to 400 thousandths.
fn back_off(attempt: u32, jitter: i32) -> SignedDuration {
    let doubled = BACK_OFF * 2_i32.saturating_pow(attempt.min(20));
    doubled.min(LONGEST_BACK_OFF) / 1000 * (800 + jitter)
}

/// A number of 0 to 400 that differs between mails, so that those which failed together are not retried together.
fn jitter(id: MailId) -> i32 {
    let byte = i32::from(id.as_uuid().into_bytes()[15]);
    byte * 400 / 255
}

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notifier").field("has_mailer", &self.mailer.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_an_hour() {
        let minutes: Vec<_> = [1, 2, 3, 4, 5, 6, 40].map(|attempt| back_off(attempt, 200).as_mins()).into();
        assert_eq!(minutes, [2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(back_off(1, 0), SignedDuration::from_secs(96));
        assert_eq!(back_off(1, 400), SignedDuration::from_secs(144));
    }

    #[test]
    fn the_jitter_stays_within_a_fifth() {
        let at = Timestamp::constant(1_800_000_000, 0);
        assert!((0..1000).all(|_| (0..=400).contains(&jitter(MailId::new(at)))));
    }

    #[test]
    fn a_refusal_is_final_and_a_fault_is_not_until_the_last_attempt() {
        let now = Timestamp::constant(1_800_000_000, 0);
        let id = MailId::new(now);
        let fault = || Err(MailError::Temporary("busy".to_owned()));
        assert!(matches!(Outcome::of(fault(), id, 1, now), Outcome::Retry { at, .. } if at > now));
        assert!(matches!(Outcome::of(fault(), id, MAX_ATTEMPTS, now), Outcome::Dead { .. }));
        assert!(matches!(
            Outcome::of(Err(MailError::Permanent("no such user".to_owned())), id, 1, now),
            Outcome::Dead { .. }
        ));
        assert_eq!(Outcome::of(Ok(()), id, 1, now), Outcome::Sent);
    }
}
