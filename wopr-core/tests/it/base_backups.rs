//! Copies of the database's files: on a real PostgreSQL, with an archive in memory.

use std::sync::Arc;

use diesel_async::RunQueryDsl;
use jiff::SignedDuration;
use wopr_core::audit::Origin;
use wopr_core::backup::{ArchiveStatus, BackupConfig, BackupError, Backups, JobError};
use wopr_core::billing::{Billing, BillingConfig};
use wopr_core::clock::Clock as _;
use wopr_core::fleet::{Fleet, FleetConfig};
use wopr_core::testing::{ArchiveFault, FixedClock, MemoryArchive, MemoryBackups, MemoryHost, TestDb};

struct Vault {
    test: TestDb,
    clock: FixedClock,
    archive: MemoryArchive,
    backups: Backups,
}

fn backups(test: &TestDb, clock: &FixedClock, archive: &MemoryArchive) -> Backups {
    let (db, clock) = (test.db.clone(), Arc::new(clock.clone()));
    let billing = Billing::new(db.clone(), clock.clone(), BillingConfig::default());
    let host = Arc::new(MemoryHost::default());
    let fleet = Fleet::new(db.clone(), clock.clone(), billing.clone(), host.clone(), FleetConfig::default());
    let (runner, archive) = (Arc::new(MemoryBackups::new(host)), Arc::new(archive.clone()));
    Backups::new(db, clock, billing, fleet, Some(runner), Some(archive), BackupConfig::default())
}

impl Vault {
    async fn open() -> Self {
        let (test, clock) = (TestDb::create().await, FixedClock::default());
        let archive = MemoryArchive::of(&test.db, Arc::new(clock.clone())).await.unwrap();
        let backups = backups(&test, &clock, &archive);
        // So that all that may be stale is the archive.
        assert_eq!(backups.save_database_due().await.unwrap(), 1);
        Self { test, clock, archive, backups }
    }

    /// A process beside this one, or after it.
    fn another(&self) -> Backups {
        backups(&self.test, &self.clock, &self.archive)
    }

    async fn save_due(&self) -> bool {
        self.backups.save_base_due().await.unwrap()
    }

    async fn status(&self) -> ArchiveStatus {
        self.backups.database_status().await.unwrap().unwrap().archive.unwrap()
    }

    async fn is_stale(&self) -> bool {
        self.backups.database_status().await.unwrap().unwrap().is_stale(self.clock.now())
    }

    async fn last_path(&self) -> String {
        self.status().await.last_success.unwrap().path().unwrap()
    }

    fn pass_mins(&self, mins: i64) {
        self.clock.advance(SignedDuration::from_mins(mins));
    }
}

fn store_away() -> ArchiveFault {
    ArchiveFault::Fails(JobError::Died { exit_code: 49, last_words: "the store is away".to_owned() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_night_has_one_copy() {
    let vault = Vault::open().await;
    assert!(vault.save_due().await);
    assert!(!vault.save_due().await, "that night has one");
    let status = vault.status().await;
    assert_eq!((status.last_error.as_deref(), status.last_success_at()), (None, Some(vault.clock.now())));
    assert_eq!(vault.last_path().await, "platform/base/copy-1");
    vault.pass_mins(24 * 60);
    assert!(vault.save_due().await);
    assert_eq!(vault.last_path().await, "platform/base/copy-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_fails_makes_the_database_stale_until_one_is_made() {
    let vault = Vault::open().await;
    vault.archive.fault(store_away());
    assert!(vault.save_due().await);
    let status = vault.status().await;
    assert!(status.last_error.as_deref().is_some_and(|error| error.contains("the store is away")), "{status:?}");
    assert!(status.last_success.is_none() && status.last_attempt_at.is_some());
    assert!(vault.is_stale().await);
    vault.pass_mins(9);
    assert!(!vault.save_due().await, "the store is given time");
    vault.pass_mins(1);
    assert!(vault.save_due().await);
    assert!(!vault.is_stale().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_copied_is_found_by_the_next() {
    let vault = Vault::open().await;
    vault.archive.fault(ArchiveFault::HangAfter);
    let doomed = vault.another();
    let job = tokio::spawn(async move { doomed.save_base_due().await });
    while !vault.archive.is_hanging() {
        assert!(!job.is_finished(), "it ended without hanging");
        tokio::task::yield_now().await;
    }
    assert!(!vault.save_due().await, "it may be alive");
    job.abort();
    assert!(job.await.unwrap_err().is_cancelled());
    vault.pass_mins(11);
    assert!(vault.save_due().await);
    let status = vault.status().await;
    assert_eq!(status.last_error, None);
    assert_eq!(vault.last_path().await, "platform/base/copy-2");
    let origin = Origin::system("test");
    vault.backups.note_base_restored(&origin, "platform/base/copy-1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_archive_let_go_of_cannot_be_restored() {
    let vault = Vault::open().await;
    assert!(vault.save_due().await);
    let (origin, first) = (Origin::system("test"), vault.last_path().await);
    vault.backups.note_base_restored(&origin, &first).await.unwrap();
    assert_eq!(vault.status().await.last_proven_at, Some(vault.clock.now()));
    vault.pass_mins(24 * 60);
    vault.archive.expire().unwrap();
    assert!(vault.save_due().await);
    for path in [first.as_str(), "platform/base/never"] {
        let refused = vault.backups.note_base_restored(&origin, path).await;
        assert!(matches!(refused, Err(BackupError::NoBase(_))), "{path}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_before_learns_what_its_archive_has() {
    let vault = Vault::open().await;
    assert!(vault.save_due().await);
    let first = vault.last_path().await;
    let mut conn = vault.test.db.connection().await.unwrap();
    diesel::sql_query("DELETE FROM base_backups").execute(&mut conn).await.unwrap();
    drop(conn);
    assert!(vault.save_due().await);
    vault.backups.note_base_restored(&Origin::system("test"), &first).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_made_anew_or_brought_to_an_instant_is_copied_at_once() {
    let vault = Vault::open().await;
    assert!(vault.save_due().await);
    // As a set that was restored tells it, of another database; and as a log that was read, of another line of history.
    for (copies, change) in [(2, "cluster = cluster - 1"), (3, "timeline = timeline + 1")] {
        let mut conn = vault.test.db.connection().await.unwrap();
        diesel::sql_query(format!("UPDATE base_backups SET {change}")).execute(&mut conn).await.unwrap();
        drop(conn);
        assert_eq!(vault.status().await.last_success, None);
        assert!(vault.save_due().await);
        assert_eq!(vault.last_path().await, format!("platform/base/copy-{copies}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_another_database_is_none_of_the_platforms() {
    let vault = Vault::open().await;
    let astray = backups(&vault.test, &vault.clock, &vault.archive.of_another());
    assert!(astray.save_base_due().await.unwrap());
    assert!(!astray.save_base_due().await.unwrap(), "it is given time");
    let status = vault.status().await;
    assert!(status.last_error.as_deref().is_some_and(|error| error.contains("another database")), "{status:?}");
    assert!(status.last_success.is_none() && vault.is_stale().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_damaged_is_told_of_and_copied_in_full() {
    let vault = Vault::open().await;
    assert!(vault.save_due().await);
    vault.pass_mins(30 * 24 * 60 + 1);
    assert!(vault.save_due().await && vault.backups.save_database_due().await.unwrap() == 1);
    vault.backups.verify_due().await.unwrap();
    assert_eq!((vault.archive.verified(), vault.is_stale().await), (1, false));
    assert_eq!(vault.status().await.last_proven_at, Some(vault.clock.now()));

    vault.archive.fault(store_away());
    vault.pass_mins(30 * 24 * 60 + 1);
    vault.backups.verify_due().await.unwrap();
    assert_eq!(
        (vault.archive.verified(), vault.status().await.verify_error),
        (2, None),
        "a store that is away is whole"
    );

    vault.archive.damage();
    assert!(vault.save_due().await && vault.backups.save_database_due().await.unwrap() == 1);
    assert_eq!(vault.archive.in_full(), 0);
    vault.backups.verify_due().await.unwrap();
    vault.backups.verify_due().await.unwrap();
    assert_eq!(vault.archive.verified(), 3, "it is read again a day later");
    let status = vault.status().await;
    assert!(status.verify_error.as_deref().is_some_and(|error| error.contains("checksum invalid")), "{status:?}");
    assert!(status.last_proven_at < status.verified_at && vault.is_stale().await);
    vault.pass_mins(24 * 60 + 1);
    assert!(vault.save_due().await);
    assert_eq!(vault.archive.in_full(), 1);
    vault.backups.verify_due().await.unwrap();
    assert_eq!(vault.archive.verified(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_refused_for_long_is_stuck() {
    let vault = Vault::open().await;
    assert!(vault.save_due().await);
    let status = vault.status().await;
    let now = vault.clock.now();
    let ago = |mins| Some(now - SignedDuration::from_mins(mins));
    // When a piece was last taken, when one was last refused, and since when that is counted.
    let table = [
        (None, None, ago(60), false),
        (ago(60), None, ago(60), false),
        (ago(60), ago(61), ago(90), false),
        (ago(14), ago(1), ago(90), false),
        (ago(16), ago(1), ago(90), true),
        (None, ago(1), ago(14), false),
        (None, ago(1), ago(16), true),
    ];
    for (number, (logged_at, log_refused_at, log_counted_since, stuck)) in table.into_iter().enumerate() {
        let status = ArchiveStatus { logged_at, log_refused_at, log_counted_since, ..status.clone() };
        assert_eq!((status.is_log_stuck(now), status.is_stale(now)), (stuck, stuck), "case {number}");
    }
}
