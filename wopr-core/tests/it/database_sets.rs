//! Copies of the platform's own database: on a real PostgreSQL, with a repository in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;
use jiff::SignedDuration;
use wopr_core::audit::Origin;
use wopr_core::backup::groups::group_of;
use wopr_core::backup::{BackupConfig, BackupError, Backups, DatabaseStatus, JobError, SnapshotKind, SnapshotState};
use wopr_core::billing::{Billing, BillingConfig};
use wopr_core::clock::Clock as _;
use wopr_core::fleet::{Fleet, FleetConfig};
use wopr_core::ids::DatabaseSetId;
use wopr_core::protocol::backup::{Failure, FailureKind};
use wopr_core::testing::{FixedClock, JobFault, MemoryBackups, MemoryHost, TestDb};

struct Vault {
    test: TestDb,
    clock: FixedClock,
    jobs: MemoryBackups,
    backups: Backups,
}

fn origin() -> Origin {
    Origin::system("test")
}

fn store_away() -> JobFault {
    JobFault::AtEnd(JobError::Failed(Failure { kind: FailureKind::StoreAway, detail: "the store is away".to_owned() }))
}

impl Vault {
    async fn open() -> Self {
        let (test, clock) = (TestDb::create().await, FixedClock::default());
        let jobs = MemoryBackups::new(Arc::new(MemoryHost::default()));
        let backups = backups(&test, &clock, Some(&jobs));
        Self { test, clock, jobs, backups }
    }

    /// A process beside this one, or after it.
    fn another(&self) -> Backups {
        backups(&self.test, &self.clock, Some(&self.jobs))
    }

    async fn save_due(&self) -> usize {
        self.backups.save_database_due().await.unwrap()
    }

    async fn status(&self) -> DatabaseStatus {
        self.backups.database_status().await.unwrap().unwrap()
    }

    async fn is_stale(&self) -> bool {
        self.status().await.is_stale(self.clock.now())
    }

    fn pass_hours(&self, hours: i64) {
        self.clock.advance(SignedDuration::from_hours(hours));
    }

    fn pass_mins(&self, mins: i64) {
        self.clock.advance(SignedDuration::from_mins(mins));
    }
}

fn backups(test: &TestDb, clock: &FixedClock, jobs: Option<&MemoryBackups>) -> Backups {
    let (db, clock) = (test.db.clone(), Arc::new(clock.clone()));
    let billing = Billing::new(db.clone(), clock.clone(), BillingConfig::default());
    let host = Arc::new(MemoryHost::default());
    let fleet = Fleet::new(db.clone(), clock.clone(), billing.clone(), host, FleetConfig::default());
    let runner = jobs.map(|jobs| Arc::new(jobs.clone()) as _);
    Backups::new(db, clock, billing, fleet, runner, None, BackupConfig::default())
}

#[derive(diesel::QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_of_the_schema_is_in_a_group() {
    let test = TestDb::create().await;
    let mut conn = test.db.connection().await.unwrap();
    let tables: Vec<Name> = diesel::sql_query(
        "SELECT coalesce(whole.relname, c.relname)::text AS name FROM pg_class c
         LEFT JOIN pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_class whole ON whole.oid = i.inhparent
         WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'wopr'::regnamespace",
    )
    .load(&mut conn)
    .await
    .unwrap();
    assert!(tables.len() > 40, "there are {}", tables.len());
    let missing: BTreeSet<_> =
        tables.into_iter().map(|table| table.name).filter(|name| group_of(name).is_none()).collect();
    assert!(missing.is_empty(), "these are in no group: {missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_night_has_one_set_with_every_table_in_one_group() {
    let vault = Vault::open().await;
    assert_eq!(vault.save_due().await, 1);
    assert_eq!(vault.save_due().await, 0, "that night has one");
    let [set] = vault.backups.list_database_sets().await.unwrap().try_into().unwrap();
    assert_eq!((set.kind, set.state, set.error), (SnapshotKind::Nightly, SnapshotState::Ready, None));
    let sets = vault.jobs.sets();
    let groups = &sets[&set.engine_snapshot.unwrap()];
    let names: Vec<_> = groups.keys().map(String::as_str).collect();
    assert_eq!(names, ["audit", "auth", "billing", "core", "credits", "quotas", "snapshots", "tenant-keys"]);
    let count: usize = groups.values().map(BTreeSet::len).sum();
    let all: BTreeSet<_> = groups.values().flatten().collect();
    assert_eq!(all.len(), count, "each is in one");
    assert!(groups["auth"].contains("wopr.users") && groups["credits"].contains("wopr.ledger_transfers"));
    assert!(groups["billing"].contains("wopr.gateway_requests"));
    let partition = |table: &&String| table.starts_with("wopr.gateway_requests_");
    assert_eq!(groups.values().flatten().find(partition), None, "which there are is seen when it is saved");
    vault.pass_hours(24);
    assert_eq!(vault.save_due().await, 1, "the next night has another");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_seen_and_another_attempt_follows_after_a_pause() {
    let vault = Vault::open().await;
    assert_eq!(vault.save_due().await, 1);
    vault.pass_hours(24);
    vault.jobs.fault(Some(store_away()));
    assert_eq!(vault.save_due().await, 1);
    let status = vault.status().await;
    assert_eq!(status.last_error.as_deref(), Some("the store is away"));
    assert_eq!((status.total, status.last_attempt_at), (1, Some(vault.clock.now())));
    assert!(vault.is_stale().await);
    assert_eq!(vault.backups.list_database_sets().await.unwrap().len(), 1, "the one before stays");
    vault.pass_mins(9);
    assert_eq!(vault.save_due().await, 0);
    vault.pass_mins(1);
    assert_eq!(vault.save_due().await, 1);
    assert_eq!((vault.status().await.last_error, vault.is_stale().await), (None, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_whose_maker_was_killed_is_known_as_failed_and_made_again() {
    let vault = Vault::open().await;
    vault.jobs.fault(Some(JobFault::HangAfter));
    let doomed = vault.another();
    let job = tokio::spawn(async move { doomed.save_database_due().await });
    while !vault.jobs.is_hanging() {
        assert!(!job.is_finished(), "it ended without hanging");
        tokio::task::yield_now().await;
    }
    assert_eq!(vault.save_due().await, 0, "it may be alive");
    job.abort();
    assert!(job.await.unwrap_err().is_cancelled());
    vault.pass_mins(11);
    assert_eq!(vault.save_due().await, 1);
    let status = vault.status().await;
    assert_eq!((status.total, status.last_error), (1, None));
    assert_eq!(vault.backups.list_database_sets().await.unwrap().len(), 1, "what the killed one left is no set");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_make_one() {
    let vault = Vault::open().await;
    let both = [vault.backups.clone(), vault.another()]
        .map(|backups| tokio::spawn(async move { backups.save_database_due().await }));
    let mut made = 0;
    for one in both {
        made += one.await.unwrap().unwrap();
    }
    assert_eq!((made, vault.jobs.sets().len(), vault.jobs.jobs()), (1, 1, vec!["dump-database"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_has_one_now_and_each_asking_is_answered() {
    let vault = Vault::open().await;
    assert_eq!(vault.save_due().await, 1);
    let first = vault.backups.want_database(&origin()).await.unwrap();
    vault.pass_mins(1);
    let second = vault.backups.want_database(&origin()).await.unwrap();
    assert_eq!(first.state, SnapshotState::Wanted);
    assert_eq!(vault.save_due().await, 2);
    let sets = vault.backups.list_database_sets().await.unwrap();
    let on_demand: BTreeSet<_> =
        sets.iter().filter(|set| set.kind == SnapshotKind::OnDemand).map(|set| set.id).collect();
    assert_eq!(on_demand, [first.id, second.id].into());
    assert_eq!(vault.save_due().await, 0, "and the night's is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_nights_and_twelve_weeks_are_kept_and_the_store_agrees() {
    let vault = Vault::open().await;
    for _ in 0..140 {
        assert_eq!(vault.save_due().await, 1);
        vault.pass_hours(24);
    }
    vault.jobs.fault(Some(store_away()));
    assert_eq!(vault.backups.tidy().await.unwrap().failed, 1);
    assert_eq!(vault.backups.list_database_sets().await.unwrap().len(), 42, "nobody can have the others any more");
    assert_eq!(vault.backups.tidy().await.unwrap().removed, 98);
    let left = vault.backups.list_database_sets().await.unwrap();
    let names: BTreeSet<_> = left.into_iter().map(|set| set.engine_snapshot.unwrap()).collect();
    assert_eq!(vault.jobs.sets().into_keys().collect::<BTreeSet<_>>(), names);
    let jobs = vault.jobs.jobs().len();
    vault.backups.tidy().await.unwrap();
    assert_eq!(vault.jobs.jobs().len(), jobs, "nothing to do is no job");
    assert_eq!(vault.status().await.total, 140);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_without_a_set_is_stale_even_if_there_never_was_one() {
    let vault = Vault::open().await;
    assert!(!vault.is_stale().await, "it has just begun");
    vault.pass_hours(25);
    assert!(vault.is_stale().await);
    assert_eq!(vault.save_due().await, 1);
    vault.pass_hours(24);
    assert!(!vault.is_stale().await);
    vault.clock.advance(SignedDuration::from_secs(1));
    assert!(vault.is_stale().await);
    let summary = vault.backups.summary().await.unwrap().unwrap();
    assert_eq!((summary.stale, summary.tracked), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_proven_when_it_was_read_back_or_restored() {
    let vault = Vault::open().await;
    let proven = async || vault.status().await.last_proven_at;
    vault.save_due().await;
    assert_eq!((vault.backups.verify_due().await.unwrap(), proven().await), (0, None), "it is young");
    vault.pass_hours(31 * 24);
    assert_eq!(vault.backups.verify_due().await.unwrap(), 1);
    assert_eq!(proven().await, Some(vault.clock.now()));
    let before = proven().await;
    vault.pass_hours(31 * 24);
    vault.jobs.damage_sets();
    assert_eq!(vault.backups.verify_due().await.unwrap(), 0);
    assert_eq!(proven().await, before, "what is damaged is not proven");
    let [set] = vault.backups.list_database_sets().await.unwrap().try_into().unwrap();
    vault.backups.note_database_restored(&origin(), set.id).await.unwrap();
    assert_eq!(proven().await, Some(vault.clock.now()));
    let unknown = DatabaseSetId::new(vault.clock.now());
    let refused = vault.backups.note_database_restored(&origin(), unknown).await;
    assert!(matches!(refused, Err(BackupError::NoSet(id)) if id == unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_nothing_is_made_and_it_is_said() {
    let vault = Vault::open().await;
    let off = backups(&vault.test, &vault.clock, None);
    assert!(matches!(off.want_database(&origin()).await, Err(BackupError::Off)));
    assert_eq!(off.save_database_due().await.unwrap(), 0);
    assert_eq!(off.database_status().await.unwrap(), None);
}
