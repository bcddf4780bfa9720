//! One run at a time on a repository.
//!
//! A lock is an object that is created if it is not there: of two that try, a store lets one succeed. Locks are numbered;
//! the highest number holds. One that has not been renewed in time is taken over by creating the next number, again only
//! once. So nothing but conditional creation is needed of a store, which a directory has too (it has no conditional update).
//!
//! The owner renews its lock and checks that no higher one is there. An owner that was held up for half of the expiry gives
//! up by itself: nothing more is written, and the run fails. Whoever takes over waits for the whole expiry. The other half
//! is what two machines' clocks may differ by.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use object_store::PutPayload;
use serde::{Deserialize, Serialize};

use crate::clock::now;
use crate::error::BackupError;
use crate::store::Objects;

/// Where the locks of a repository are; restic does not look there.
const LOCKS: &str = "wopr-locks";

/// Who takes a lock, and how.
#[derive(Debug, Clone)]
pub struct LockSettings {
    /// The name that others are told.
    pub owner: String,
    /// After how long without renewal others may take over.
    pub expiry: Duration,
    /// How long to wait for somebody else's.
    pub wait: Duration,
}

/// What a lock object says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LockDocument {
    owner: String,
    command: String,
    since: Timestamp,
    renewed_at: Timestamp,
    expires_at: Timestamp,
}

/// A lock that is held until it is dropped; another thread renews it.
#[derive(Debug)]
pub struct Lock {
    number: u64,
    renewal: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Lock {
    /// Takes the repository's lock.
    ///
    /// # Errors
    /// [`BackupError::Locked`] where somebody else has it for longer than is waited.
    pub fn take(objects: &Arc<Objects>, command: &str, settings: &LockSettings) -> Result<Self, BackupError> {
        let began = Instant::now();
        loop {
            match try_take(objects, command, settings) {
                Ok(held) => return Ok(Self::renewed(Arc::clone(objects), held, settings.expiry)),
                Err(BackupError::Locked { .. }) if began.elapsed() < settings.wait => {
                    std::thread::sleep(Duration::from_millis(200).min(settings.wait));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Tries to create the lock again: a store that lets this succeed would let two hold it.
    ///
    /// # Errors
    /// [`BackupError::Usage`] where it does; as every command.
    pub(crate) fn prove(&self, objects: &Objects) -> Result<(), BackupError> {
        let path = objects.path(&name(self.number));
        // What is there: a store that writes over it leaves a lock that can be read.
        let held = objects.get(&path)?;
        if objects.create(&path, held)? {
            return Err(BackupError::Usage(format!(
                "{path}: the store created it though it was there: it does not know If-None-Match, and two could work on a \
                 repository at a time"
            )));
        }
        Ok(())
    }

    fn renewed(objects: Arc<Objects>, held: Held, expiry: Duration) -> Self {
        let (stop, stopped) = channel();
        let number = held.number;
        let thread = std::thread::spawn(move || held.keep(&objects, expiry, &stopped));
        Self { number, renewal: Some((stop, thread)) }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.renewal.take() {
            drop(stop);
            // A renewal that panicked has nothing left to release.
            let _ = thread.join();
        }
    }
}

struct Held {
    number: u64,
    document: LockDocument,
    renewed: Instant,
}

/// The highest lock, and the numbers of all.
fn present(objects: &Objects) -> Result<Vec<u64>, BackupError> {
    let mut numbers: Vec<u64> =
        objects.list(LOCKS)?.iter().filter_map(|object| object.location.filename()?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn name(number: u64) -> String {
    format!("{LOCKS}/{number:08}")
}

fn try_take(objects: &Objects, command: &str, settings: &LockSettings) -> Result<Held, BackupError> {
    let numbers = present(objects)?;
    let began = Instant::now();
    let at = now();
    if let Some(highest) = numbers.last() {
        let path = objects.path(&name(*highest));
        match objects.get(&path) {
            Ok(content) => {
                let held: LockDocument = serde_json::from_slice(&content)
                    .map_err(|error| BackupError::Corrupt { object: path.to_string(), reason: error.to_string() })?;
                if held.expires_at > at {
                    return Err(BackupError::Locked {
                        object: path.to_string(),
                        owner: held.owner,
                        command: held.command,
                        since: held.since,
                        until: held.expires_at,
                    });
                }
                tracing::warn!(
                    "the lock of {} ({}) expired at {}: taken over",
                    held.owner,
                    held.command,
                    held.expires_at
                );
            }
            // It was released between the two questions; its number is free again.
            Err(BackupError::Missing(_)) => return try_take(objects, command, settings),
            Err(error) => return Err(error),
        }
    }
    let document = LockDocument {
        owner: settings.owner.clone(),
        command: command.to_owned(),
        since: at,
        renewed_at: at,
        expires_at: expiry(at, settings.expiry),
    };
    let number = numbers.last().map_or(1, |highest| highest + 1);
    let path = objects.path(&name(number));
    if !objects.create(&path, content(&document)?)? {
        return try_take(objects, command, settings); // somebody was faster: say who
    }
    // Whoever was taken over is gone; its lock would only be read again.
    for number in numbers {
        objects.delete(&objects.path(&name(number)))?;
    }
    Ok(Held { number, document, renewed: began })
}

fn expiry(at: Timestamp, after: Duration) -> Timestamp {
    SignedDuration::try_from(after).ok().and_then(|after| at.checked_add(after).ok()).unwrap_or(Timestamp::MAX)
}

fn content(document: &LockDocument) -> Result<Bytes, BackupError> {
    let content = serde_json::to_vec(document).map_err(|error| BackupError::Engine(error.to_string()))?;
    Ok(content.into())
}

impl Held {
    fn keep(mut self, objects: &Objects, expiry: Duration, stopped: &Receiver<()>) {
        let path = objects.path(&name(self.number));
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(expiry / 8) {
            if let Err(error) = self.renew(objects, expiry) {
                objects.fail(error);
                return; // it is not ours to release
            }
        }
        if self.held_up(expiry) {
            return;
        }
        if let Err(error) = objects.delete(&path) {
            tracing::warn!("the lock stays until it expires: {}", error.chain());
        }
    }

    /// Whether so much time has passed since the last renewal that somebody else may soon take over.
    fn held_up(&self, expiry: Duration) -> bool {
        let by_date = now().duration_since(self.document.renewed_at);
        self.renewed.elapsed() > expiry / 2
            || by_date > SignedDuration::try_from(expiry / 2).unwrap_or(SignedDuration::MAX)
    }

    fn renew(&mut self, objects: &Objects, expiry_after: Duration) -> Result<(), BackupError> {
        let path = objects.path(&name(self.number));
        let lost = || BackupError::LockLost(path.to_string());
        if self.held_up(expiry_after) {
            return Err(lost());
        }
        let began = Instant::now();
        let at = now();
        let renewed = present(objects).and_then(|numbers| {
            if numbers.last() != Some(&self.number) {
                return Err(lost());
            }
            let document =
                LockDocument { renewed_at: at, expires_at: expiry(at, expiry_after), ..self.document.clone() };
            objects.put(&path, PutPayload::from(content(&document)?))?;
            Ok(document)
        });
        match renewed {
            Ok(document) => {
                // Had it been held up while it was written, somebody else could have come and gone.
                if self.held_up(expiry_after) {
                    return Err(lost());
                }
                self.document = document;
                self.renewed = began;
                Ok(())
            }
            Err(error @ BackupError::LockLost(_)) => Err(error),
            Err(error) => {
                tracing::warn!("the lock could not be renewed: {}", error.chain());
                Ok(()) // the next try is soon; `held_up` says when it is too late
            }
        }
    }
}
