//! Backups on a real PostgreSQL, with an engine and a repository in memory.

use std::sync::Arc;

use diesel::sql_types::{Text, Uuid};
use diesel_async::RunQueryDsl;
use jiff::SignedDuration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use wopr_core::audit::{Actor, Origin};
use wopr_core::backup::retention::Tier;
use wopr_core::backup::{
    BackupConfig, BackupError, Backups, JobError, NewRestore, Restore, RestorePhase, Snapshot, SnapshotKind,
    SnapshotState,
};
use wopr_core::billing::{Billing, BillingConfig, Transfer, TransferKind};
use wopr_core::clock::Clock as _;
use wopr_core::fleet::{ContainerState, Fleet, FleetConfig, FleetError, HostError, NewBot, Phase};
use wopr_core::ids::{BotId, SnapshotId, TenantId};
use wopr_core::money::Money;
use wopr_core::protocol::backup::{Failure, FailureKind};
use wopr_core::testing::{Fault, FixedClock, JobFault, MemoryBackups, MemoryHost, TestDb};

struct Vault {
    test: TestDb,
    clock: FixedClock,
    billing: Billing,
    host: Arc<MemoryHost>,
    fleet: Fleet,
    jobs: MemoryBackups,
    backups: Backups,
}

fn origin() -> Origin {
    Origin::system("test")
}

fn failure(kind: FailureKind) -> JobError {
    JobError::Failed(Failure { kind, detail: format!("{kind:?}, on purpose") })
}

impl Vault {
    async fn open() -> Self {
        Self::with(BackupConfig::default()).await
    }

    async fn with(config: BackupConfig) -> Self {
        let test = TestDb::create().await;
        let clock = FixedClock::default();
        let billing = Billing::new(test.db.clone(), Arc::new(clock.clone()), BillingConfig::default());
        let host = Arc::new(MemoryHost::default());
        let fleet =
            Fleet::new(test.db.clone(), Arc::new(clock.clone()), billing.clone(), host.clone(), FleetConfig::default());
        let jobs = MemoryBackups::new(host.clone());
        let runner = Some(Arc::new(jobs.clone()) as _);
        let backups = Backups::new(
            test.db.clone(),
            Arc::new(clock.clone()),
            billing.clone(),
            fleet.clone(),
            runner,
            None,
            config,
        );
        Self { test, clock, billing, host, fleet, jobs, backups }
    }

    /// A process beside this one, or after it.
    fn another(&self) -> Backups {
        let runner = Some(Arc::new(self.jobs.clone()) as _);
        let (db, clock, fleet) = (self.test.db.clone(), Arc::new(self.clock.clone()), self.fleet.clone());
        Backups::new(db, clock, self.billing.clone(), fleet, runner, None, BackupConfig::default())
    }

    async fn customer(&self, cents: i32) -> TenantId {
        let tenant = TenantId::new(self.clock.now());
        let mut conn = self.test.db.connection().await.unwrap();
        diesel::sql_query("INSERT INTO tenants VALUES ($1, 'personal', $2, '2027-01-01')")
            .bind::<Uuid, _>(tenant.as_uuid())
            .bind::<Text, _>("Ann")
            .execute(&mut conn)
            .await
            .unwrap();
        drop(conn);
        if cents > 0 {
            let (kind, actor) = (TransferKind::Purchase, Actor::Webhook("stripe"));
            let transfer = Transfer::to_wallet(format!("cs_{tenant}"), kind, tenant, Money::from_cents(cents), actor);
            self.billing.post(&[transfer]).await.unwrap();
        }
        tenant
    }

    async fn spend_all(&self, tenant: TenantId) {
        let balance = self.billing.balance(tenant).await.unwrap().balance;
        let (key, kind, actor) = (format!("spent_{tenant}"), TransferKind::BotRuntime, Actor::System("test"));
        self.billing.post(&[Transfer::from_wallet(key, kind, tenant, balance, actor)]).await.unwrap();
    }

    /// A bot that runs and remembers something.
    async fn bot(&self, tenant: TenantId, remembers: &str) -> BotId {
        let new = NewBot::new("test-bot", "wopr-network/wopr:latest");
        let id = self.fleet.create(&origin(), tenant, new).await.unwrap().id;
        self.fleet.advance().await.unwrap();
        assert_eq!(self.host.state_of(id), Some(ContainerState::Running));
        self.host.write_data(id, remembers.as_bytes());
        id
    }

    fn remembered(&self, bot: BotId) -> String {
        String::from_utf8(self.host.read_data(bot).unwrap_or_default()).unwrap()
    }

    /// The newest complete snapshot.
    async fn saved(&self, bot: BotId) -> Snapshot {
        assert_eq!(self.backups.save_due().await.unwrap(), 1);
        self.backups.list_ready(bot).await.unwrap().remove(0)
    }

    async fn restore(&self, snapshot: &Snapshot) -> Restore {
        self.backups.restore(&origin(), NewRestore { snapshot: snapshot.id, reason: None }).await.unwrap()
    }

    /// Lets everybody do his part until the restore is over.
    async fn over(&self, restore: &Restore) -> Restore {
        for _ in 0..200 {
            self.backups.advance().await.unwrap();
            self.fleet.advance().await.unwrap();
            let found = self.backups.find_restore(restore.id).await.unwrap().unwrap();
            if found.finished_at.is_some() {
                return found;
            }
            self.clock.advance(SignedDuration::from_secs(5));
        }
        panic!("it is not over: {:?}", self.backups.find_restore(restore.id).await);
    }

    /// Waits for a job to hang, in what `work` does.
    async fn until_it_hangs<T>(&self, work: &JoinHandle<T>) {
        while !self.jobs.is_hanging() {
            assert!(!work.is_finished(), "it ended without hanging");
            tokio::task::yield_now().await;
        }
    }

    fn pass(&self, hours: i64) {
        self.clock.advance(SignedDuration::from_hours(hours));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_bot_is_copied_while_it_stands_still_and_goes_on() {
    let vault = Vault::open().await;
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "forty-two").await;
    let snapshot = vault.saved(bot).await;
    assert_eq!((snapshot.kind, snapshot.size_bytes, snapshot.error.as_deref()), (SnapshotKind::Nightly, Some(9), None));
    assert_eq!(vault.jobs.saved_while_moving(), 0);
    assert_eq!(vault.host.state_of(bot), Some(ContainerState::Running), "it goes on afterwards");
    assert_eq!(vault.jobs.snapshots_of(bot), [snapshot.engine_snapshot.unwrap()]);
    vault.fleet.advance().await.unwrap();
    assert_eq!(vault.fleet.get(tenant, bot).await.unwrap().phase, Phase::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_comes_back_byte_by_byte() {
    let vault = Vault::open().await;
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "forty-two").await;
    let snapshot = vault.saved(bot).await;
    vault.host.lose_container(bot);
    vault.host.lose_volumes(bot);
    let restore = vault.restore(&snapshot).await;
    let restore = vault.over(&restore).await;
    assert_eq!((restore.phase, restore.error, restore.safety_id), (RestorePhase::Done, None, None));
    assert_eq!(vault.remembered(bot), "forty-two");
    assert_eq!(vault.host.spec_of(bot).unwrap().volume, restore.volume);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_loss_of_a_machine_every_bot_whose_volume_is_gone_comes_back() {
    let vault = Vault::open().await;
    let bot = async |remembers| {
        let tenant = vault.customer(500).await;
        (tenant, vault.bot(tenant, remembers).await)
    };
    let ((_, gone), (_, there)) = (bot("forty-two").await, bot("still here").await);
    let (tenant, destroyed) = bot("not wanted").await;
    assert_eq!(vault.backups.save_due().await.unwrap(), 3);
    vault.fleet.destroy(&origin(), tenant, destroyed).await.unwrap();
    vault.fleet.advance().await.unwrap();
    let (_, young) = bot("never saved").await;
    for bot in [gone, young] {
        vault.host.lose_container(bot);
        vault.host.lose_volumes(bot);
    }
    let lost = vault.backups.restore_lost(&origin()).await.unwrap();
    assert_eq!(lost.without_snapshot, [young]);
    let [restore] = lost.restores.try_into().unwrap();
    assert_eq!((restore.bot_id, restore.reason.as_deref()), (gone, Some("its volume is gone")));
    let again = vault.backups.restore_lost(&origin()).await.unwrap().restores;
    assert_eq!(again.iter().map(|restore| restore.id).collect::<Vec<_>>(), [restore.id], "it is under way");
    assert_eq!(vault.over(&restore).await.phase, RestorePhase::Done);
    assert_eq!((vault.remembered(gone), vault.remembered(there)), ("forty-two".to_owned(), "still here".to_owned()));
    assert!(vault.backups.restore_lost(&origin()).await.unwrap().restores.is_empty(), "it is there again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_was_is_copied_before_and_can_be_restored_too() {
    let vault = Vault::open().await;
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "one").await;
    let first = vault.saved(bot).await;
    vault.host.write_data(bot, b" two");
    let restore = vault.over(&vault.restore(&first).await).await;
    assert_eq!((restore.phase, vault.remembered(bot).as_str()), (RestorePhase::Done, "one"));
    let safety = vault.backups.get(tenant, bot, restore.safety_id.unwrap()).await.unwrap();
    assert_eq!(safety.kind, SnapshotKind::PreRestore);
    let back = vault.over(&vault.restore(&safety).await).await;
    assert_eq!((back.phase, vault.remembered(bot).as_str()), (RestorePhase::Done, "one two"));
    assert!(back.volume > restore.volume);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_bot_comes_back_with_its_data() {
    let vault = Vault::open().await;
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "forty-two").await;
    let snapshot = vault.saved(bot).await;
    vault.fleet.destroy(&origin(), tenant, bot).await.unwrap();
    vault.fleet.advance().await.unwrap();
    assert_eq!(vault.host.counts(), (0, 0, 0));
    let restore = vault.over(&vault.restore(&snapshot).await).await;
    assert_eq!((restore.phase, restore.error), (RestorePhase::Done, None));
    assert_eq!(vault.fleet.get(tenant, bot).await.unwrap().phase, Phase::Running);
    assert_eq!(vault.remembered(bot), "forty-two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_bot_stays_so_without_credit() {
    let vault = Vault::open().await;
    let tenant = vault.customer(17).await;
    let bot = vault.bot(tenant, "forty-two").await;
    vault.fleet.charge_due_days().await.unwrap();
    let snapshot = vault.saved(bot).await;
    vault.fleet.destroy(&origin(), tenant, bot).await.unwrap();
    vault.fleet.advance().await.unwrap();
    let restore = vault.over(&vault.restore(&snapshot).await).await;
    assert_eq!(restore.phase, RestorePhase::Failed);
    assert!(restore.error.as_ref().unwrap().contains("is needed and"), "{:?}", restore.error);
    assert_eq!(vault.host.counts(), (0, 0, 0), "nothing of the attempt is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_that_does_not_come_up_has_its_old_data_again() {
    let vault = Vault::open().await;
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "one").await;
    let first = vault.saved(bot).await;
    vault.host.write_data(bot, b" two");
    let restore = vault.restore(&first).await;
    vault.backups.advance().await.unwrap();
    vault.host.refuse_volume(bot, restore.volume);
    let restore = vault.over(&restore).await;
    assert_eq!(restore.phase, RestorePhase::Failed);
    assert_eq!(vault.remembered(bot), "one two");
    assert_eq!(vault.fleet.get(tenant, bot).await.unwrap().phase, Phase::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_refuses_a_job_once_is_asked_again() {
    let vault = Vault::open().await;
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "one").await;
    let first = vault.saved(bot).await;
    vault.jobs.fault(Some(JobFault::AtBegin(HostError::Refused("connection reset by peer".to_owned()).into())));
    assert_eq!(vault.over(&vault.restore(&first).await).await.phase, RestorePhase::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_before_the_switch_changes_nothing() {
    // Jobs of a restore: the copy of what there is, then the filling. An engine may refuse it a dozen times.
    let refused = JobFault::AtBegin(HostError::Refused("no image".to_owned()).into());
    let table = [
        (vec![Some(JobFault::AtEnd(failure(FailureKind::WrongKey)))], "WrongKey"),
        (vec![None, Some(JobFault::AtEnd(failure(FailureKind::Damaged)))], "Damaged"),
        (std::iter::once(None).chain(vec![Some(refused); 12]).collect(), "no image"),
    ];
    for (faults, word) in table {
        let vault = Vault::open().await;
        let tenant = vault.customer(500).await;
        let bot = vault.bot(tenant, "one").await;
        let first = vault.saved(bot).await;
        vault.host.write_data(bot, b" two");
        for fault in faults {
            vault.jobs.fault(fault);
        }
        let restore = vault.over(&vault.restore(&first).await).await;
        assert_eq!(restore.phase, RestorePhase::Failed);
        assert!(restore.error.as_ref().unwrap().contains(word), "{:?}", restore.error);
        assert_eq!(vault.remembered(bot), "one two", "{word}");
        assert_eq!(vault.host.state_of(bot), Some(ContainerState::Running), "{word}");
        assert_eq!(vault.host.spec_of(bot).unwrap().volume, 0, "{word}");
        // Whatever it was, it is over: the next attempt may be made.
        let again = vault.over(&vault.restore(&first).await).await;
        assert_eq!((again.phase, vault.remembered(bot).as_str()), (RestorePhase::Done, "one"), "{word}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_by_itself_is_waited_for() {
    let vault = Vault::open().await;
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "one").await;
    let first = vault.saved(bot).await;
    vault.host.write_data(bot, b" two");
    for kind in [FailureKind::StoreAway, FailureKind::Locked, FailureKind::NoSpace] {
        vault.jobs.fault(Some(JobFault::AtEnd(failure(kind))));
    }
    let restore = vault.over(&vault.restore(&first).await).await;
    assert_eq!((restore.phase, vault.remembered(bot).as_str()), (RestorePhase::Done, "one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_job_of_a_restore_costs_a_repetition() {
    for (crashes_at, crash) in [(0, JobFault::HangStill), (0, JobFault::HangAfter), (1, JobFault::HangAfter)] {
        let vault = Vault::open().await;
        let tenant = vault.customer(500).await;
        let bot = vault.bot(tenant, "one").await;
        let first = vault.saved(bot).await;
        vault.host.write_data(bot, b" two");
        let restore = vault.restore(&first).await;
        for _ in 0..crashes_at {
            vault.jobs.fault(None);
        }
        vault.jobs.fault(Some(crash));
        let doomed = vault.another();
        let job = tokio::spawn(async move { doomed.advance().await });
        vault.until_it_hangs(&job).await;
        job.abort();
        assert!(job.await.unwrap_err().is_cancelled());
        // Its leases on the bot and on its backups end with time.
        vault.clock.advance(SignedDuration::from_secs(90));
        let restore = vault.over(&restore).await;
        assert_eq!((restore.phase, vault.remembered(bot).as_str()), (RestorePhase::Done, "one"), "at {crashes_at}");
        vault.fleet.advance().await.unwrap();
        assert_eq!(vault.host.state_of(bot), Some(ContainerState::Running), "nobody stands still for ever");
        let safety = vault.backups.get(tenant, bot, restore.safety_id.unwrap()).await.unwrap();
        assert_eq!((safety.state, safety.size_bytes), (SnapshotState::Ready, Some(7)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_that_was_killed_is_known_as_failed_and_made_again() {
    let vault = Vault::open().await;
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "one").await;
    vault.jobs.fault(Some(JobFault::HangStill));
    let doomed = vault.another();
    let job = tokio::spawn(async move { doomed.save_due().await });
    vault.until_it_hangs(&job).await;
    assert_eq!(vault.host.state_of(bot), Some(ContainerState::Paused));
    job.abort();
    assert!(job.await.unwrap_err().is_cancelled());
    vault.clock.advance(SignedDuration::from_mins(15));
    vault.fleet.reconcile().await.unwrap();
    assert_eq!(vault.host.state_of(bot), Some(ContainerState::Running), "the next look wakes it");
    let snapshot = vault.saved(bot).await;
    assert_eq!(snapshot.state, SnapshotState::Ready);
    let [status] = vault.backups.statuses().await.unwrap().try_into().unwrap();
    assert_eq!((status.total, status.last_error), (1, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_stand_still_is_no_backup() {
    let vault = Vault::open().await;
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "one").await;
    let good = vault.saved(bot).await;
    vault.pass(25);
    let told = Arc::new(Notify::new());
    vault.jobs.fault(Some(JobFault::Until(told.clone())));
    let beside = vault.another();
    let job = tokio::spawn(async move { beside.save_due().await });
    vault.until_it_hangs(&job).await;
    vault.host.end(bot, 1);
    told.notify_one();
    job.await.unwrap().unwrap();
    let [status] = vault.backups.statuses().await.unwrap().try_into().unwrap();
    assert!(status.last_error.as_ref().unwrap().contains("did not stand still"), "{:?}", status.last_error);
    assert_eq!(status.last_success.unwrap().id, good.id);
    // The next look starts it again, and what was not known for certain is copied again.
    vault.clock.advance(SignedDuration::from_mins(15));
    vault.fleet.reconcile().await.unwrap();
    assert_ne!(vault.saved(bot).await.id, good.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_does_not_give_up_because_a_bot_did_not_stand_still() {
    let vault = Vault::open().await;
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "one").await;
    let good = vault.saved(bot).await;
    let told = Arc::new(Notify::new());
    vault.jobs.fault(Some(JobFault::Until(told.clone())));
    let restore = vault.restore(&good).await;
    let beside = vault.another();
    let job = tokio::spawn(async move { beside.advance().await });
    vault.until_it_hangs(&job).await;
    vault.host.end(bot, 1);
    told.notify_one();
    job.await.unwrap().unwrap();
    assert_eq!(vault.over(&restore).await.phase, RestorePhase::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_will_not_have_a_bot_stand_still_is_asked_again() {
    let vault = Vault::open().await;
    let bot = vault.bot(vault.customer(500).await, "one").await;
    let good = vault.saved(bot).await;
    vault.host.write_data(bot, b" two");
    let begun = vault.host.calls().len();
    let restore = vault.restore(&good).await;
    vault.host.fault(begun, Fault::Fail(HostError::Refused("cannot freeze".to_owned())));
    vault.backups.advance().await.unwrap();
    assert_eq!(vault.host.calls().get(begun), Some(&"pause_container"), "that is what was refused");
    assert_eq!(vault.over(&restore).await.phase, RestorePhase::Done);
    assert_eq!(vault.remembered(bot), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_while_it_is_read_stays_deleted() {
    let vault = Vault::open().await;
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "one").await;
    vault.backups.want(&origin(), tenant, bot, None).await.unwrap();
    let wanted = vault.saved(bot).await;
    let told = Arc::new(Notify::new());
    vault.jobs.fault(Some(JobFault::Until(told.clone())));
    let (beside, snapshot) = (vault.another(), wanted.clone());
    let job = tokio::spawn(async move { beside.verify(&snapshot).await.map(drop) });
    vault.until_it_hangs(&job).await;
    vault.backups.delete(&origin(), tenant, bot, wanted.id).await.unwrap();
    told.notify_one();
    job.await.unwrap().unwrap();
    assert!(vault.backups.list(tenant, bot).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_gone_is_no_empty_backup() {
    let vault = Vault::open().await;
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "one").await;
    let good = vault.saved(bot).await;
    vault.host.lose_volumes(bot);
    vault.pass(25);
    assert_eq!(vault.backups.save_due().await.unwrap(), 1);
    let [status] = vault.backups.statuses().await.unwrap().try_into().unwrap();
    assert!(status.last_error.as_ref().unwrap().contains("no volume"), "{:?}", status.last_error);
    assert!(status.is_stale(vault.clock.now()));
    assert_eq!(status.last_success.unwrap().id, good.id);
    vault.pass(24 * 365);
    vault.backups.tidy().await.unwrap();
    assert_eq!(vault.jobs.snapshots_of(bot), [good.engine_snapshot.unwrap()], "the last good one stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn nights_are_kept_as_the_tier_says_and_the_store_agrees() {
    let vault = Vault::open().await;
    let tenant = vault.customer(2_000).await;
    let bot = vault.bot(tenant, "one").await;
    for _ in 0..10 {
        vault.saved(bot).await;
        vault.pass(24);
        vault.backups.tidy().await.unwrap();
    }
    let left = vault.backups.list_ready(bot).await.unwrap();
    let nightly = left.iter().filter(|snapshot| snapshot.kind == SnapshotKind::Nightly).count();
    assert_eq!(nightly, Tier::Free.nights());
    let mut names: Vec<_> = left.iter().map(|snapshot| snapshot.engine_snapshot.clone().unwrap()).collect();
    names.sort();
    assert_eq!(vault.jobs.snapshots_of(bot), names);
    let jobs = vault.jobs.jobs().len();
    vault.backups.tidy().await.unwrap();
    assert_eq!(vault.jobs.jobs().len(), jobs, "nothing to do is no job");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tidying_up_that_fails_is_done_again_and_nobody_gets_what_goes() {
    let vault = Vault::open().await;
    let tenant = vault.customer(2_000).await;
    let bot = vault.bot(tenant, "one").await;
    let first = vault.saved(bot).await;
    vault.pass(24 * 8);
    vault.saved(bot).await;
    vault.jobs.fault(Some(JobFault::AtEnd(failure(FailureKind::StoreAway))));
    assert_eq!(vault.backups.tidy().await.unwrap().failed, 1);
    assert!(matches!(vault.backups.get(tenant, bot, first.id).await, Err(BackupError::NoSnapshot(_))));
    assert_eq!(vault.jobs.snapshots_of(bot).len(), 2);
    assert_eq!(vault.backups.tidy().await.unwrap().removed, 1);
    assert_eq!(vault.jobs.snapshots_of(bot).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_as_many_on_demand_as_its_tier_says_even_at_once() {
    let vault = Vault::open().await;
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "one").await;
    let want = || {
        let backups = vault.backups.clone();
        tokio::spawn(async move { backups.want(&origin(), tenant, bot, Some("mine".to_owned())).await })
    };
    let attempts = [want(), want(), want(), want()];
    let mut made = Vec::new();
    for attempt in attempts {
        match attempt.await.unwrap() {
            Ok(snapshot) => made.push(snapshot),
            Err(BackupError::Quota { current: 1, max: 1, tier: Tier::Free }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    let [wanted] = made.try_into().unwrap();
    assert_eq!(wanted.state, SnapshotState::Wanted);
    let snapshot = vault.saved(bot).await;
    assert_eq!(
        (snapshot.id, snapshot.kind, snapshot.name.as_deref()),
        (wanted.id, SnapshotKind::OnDemand, Some("mine"))
    );
    vault.backups.delete(&origin(), tenant, bot, snapshot.id).await.unwrap();
    assert!(vault.backups.list(tenant, bot).await.unwrap().is_empty());
    want().await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_allowed_is_refused() {
    let vault = Vault::open().await;
    let (rich, poor) = (vault.customer(500).await, vault.customer(17).await);
    let (of_rich, of_poor) = (vault.bot(rich, "one").await, vault.bot(poor, "two").await);
    vault.spend_all(poor).await;
    let want = async |tenant, bot, name: Option<&str>| {
        vault.backups.want(&origin(), tenant, bot, name.map(str::to_owned)).await.unwrap_err()
    };
    assert!(matches!(want(poor, of_rich, None).await, BackupError::Fleet(FleetError::NotFound(_))));
    assert!(matches!(want(poor, of_poor, None).await, BackupError::NoCredit { .. }));
    assert!(matches!(want(rich, of_rich, Some("")).await, BackupError::Invalid { field: "name", .. }));
    assert_eq!(vault.backups.save_due().await.unwrap(), 2);
    let hot = vault.backups.list_ready(of_rich).await.unwrap().remove(0);
    let delete = async |tenant, bot, id| vault.backups.delete(&origin(), tenant, bot, id).await.unwrap_err();
    assert!(matches!(delete(poor, of_poor, hot.id).await, BackupError::NoSnapshot(_)));
    assert!(matches!(delete(rich, of_rich, hot.id).await, BackupError::NotOnDemand(_)));
    let unknown = NewRestore { snapshot: SnapshotId::new(vault.clock.now()), reason: None };
    assert!(matches!(vault.backups.restore(&origin(), unknown).await, Err(BackupError::NoSnapshot(_))));
    vault.restore(&hot).await;
    let again = NewRestore { snapshot: hot.id, reason: None };
    assert!(matches!(vault.backups.restore(&origin(), again).await, Err(BackupError::RestoreUnderWay(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_copy_a_bot_once() {
    let vault = Vault::open().await;
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "one").await;
    let both = async || {
        let both = [vault.backups.clone(), vault.another()];
        let both = both.map(|backups| tokio::spawn(async move { backups.save_due().await }));
        let mut tried = 0;
        for one in both {
            tried += one.await.unwrap().unwrap();
        }
        tried
    };
    let snapshots = || vault.jobs.snapshots_of(bot).len();
    assert_eq!((both().await, snapshots()), (1, 1));
    vault.backups.want(&origin(), tenant, bot, None).await.unwrap();
    assert_eq!((both().await, snapshots()), (1, 2), "nor what somebody wants");
    vault.pass(24);
    assert_eq!((both().await, snapshots()), (1, 3));
    assert_eq!(vault.backups.list_ready(bot).await.unwrap().len(), 3, "each copy has its row");
    assert_eq!(vault.host.state_of(bot), Some(ContainerState::Running));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_proven_when_every_byte_was_read_back() {
    let vault = Vault::open().await;
    let tenant = vault.customer(20_000).await;
    let bot = vault.bot(tenant, "one").await;
    let snapshot = vault.saved(bot).await;
    assert_eq!(vault.backups.verify_due().await.unwrap(), 0, "it is young");
    vault.pass(31 * 24);
    assert_eq!(vault.backups.verify_due().await.unwrap(), 1);
    let proven = async || vault.backups.statuses().await.unwrap().remove(0).last_proven_at;
    assert_eq!(proven().await, Some(vault.clock.now()));
    let before = proven().await;
    vault.pass(31 * 24);
    vault.jobs.damage(bot);
    assert_eq!(vault.backups.verify_due().await.unwrap(), 0);
    assert_eq!(proven().await, before, "what is damaged is not proven");
    assert!(matches!(vault.backups.verify(&snapshot).await, Err(BackupError::Job(JobError::Failed(_)))));
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_on_demand_are_charged_by_the_day_once() {
    const GIB: i64 = 1 << 30;
    let vault = Vault::open().await;
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "one").await;
    vault.saved(bot).await;
    vault.pass(1);
    vault.backups.want(&origin(), tenant, bot, None).await.unwrap();
    let snapshot = vault.saved(bot).await;
    let sized = format!("UPDATE snapshots SET size_bytes = {} WHERE id = $1", 31 * GIB);
    change(&vault, &sized, snapshot.id.as_uuid()).await;
    let spent = async || 500 - vault.billing.balance(tenant).await.unwrap().balance.as_cents_rounded();
    let charge = async || {
        let metered = vault.backups.charge_storage().await.unwrap();
        (metered.charged, metered.short)
    };
    assert_eq!((charge().await, spent().await), ((0, 0), 0), "the day is not over");
    vault.pass(24);
    // January has 31 days.
    assert_eq!((charge().await, spent().await), ((1, 0), 5));
    assert_eq!((charge().await, spent().await), ((0, 0), 5));
    vault.pass(48);
    let both = tokio::join!(vault.backups.charge_storage(), vault.backups.charge_storage());
    assert!(both.0.is_ok() && both.1.is_ok());
    assert_eq!((charge().await, spent().await), ((0, 0), 15), "two at once charge once");
    vault.spend_all(tenant).await;
    vault.pass(24);
    assert_eq!(charge().await, (0, 1));
    vault.backups.delete(&origin(), tenant, bot, snapshot.id).await.unwrap();
    vault.pass(24);
    let (kind, actor) = (TransferKind::Purchase, Actor::Webhook("stripe"));
    let more = Transfer::to_wallet("more", kind, tenant, Money::from_cents(500), actor);
    vault.billing.post(&[more]).await.unwrap();
    assert_eq!((charge().await, spent().await), ((1, 0), 5), "the day before, and not the day it was deleted on");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_volume_from_before_a_restore_goes_after_a_week() {
    let vault = Vault::open().await;
    let tenant = vault.customer(2_000).await;
    let bot = vault.bot(tenant, "one").await;
    let first = vault.saved(bot).await;
    vault.over(&vault.restore(&first).await).await;
    let volumes = || vault.host.counts().1;
    vault.pass(24 * 6);
    vault.backups.tidy().await.unwrap();
    assert_eq!(volumes(), 3, "key, data, and the data from before");
    vault.pass(25);
    vault.backups.tidy().await.unwrap();
    assert_eq!((volumes(), vault.remembered(bot).as_str()), (2, "one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_without_a_fresh_snapshot_is_stale() {
    let vault = Vault::open().await;
    let tenant = vault.customer(2_000).await;
    let bot = vault.bot(tenant, "one").await;
    let stale = async || {
        let status = vault.backups.statuses().await.unwrap().remove(0);
        status.is_stale(vault.clock.now())
    };
    assert!(!stale().await, "it was made just now");
    vault.saved(bot).await;
    vault.pass(24);
    assert!(!stale().await);
    vault.clock.advance(SignedDuration::from_secs(1));
    assert!(stale().await);
    vault.jobs.fault(Some(JobFault::AtEnd(failure(FailureKind::StoreAway))));
    vault.backups.save_due().await.unwrap();
    assert!(stale().await);
    vault.clock.advance(SignedDuration::from_mins(11));
    vault.saved(bot).await;
    assert!(!stale().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn before_an_update_the_bot_is_copied_and_not_twice_in_minutes() {
    let vault = Vault::open().await;
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "one").await;
    vault.host.write_data(bot, b"forty-two");
    let before = async || vault.backups.save_before_update(&origin(), tenant, bot).await;
    vault.jobs.fault(Some(JobFault::AtEnd(failure(FailureKind::StoreAway))));
    assert!(matches!(before().await, Err(BackupError::Job(_))));
    before().await.unwrap();
    before().await.unwrap();
    let kinds = async || -> Vec<_> {
        vault.backups.list_ready(bot).await.unwrap().iter().map(|snapshot| snapshot.kind).collect()
    };
    assert_eq!(kinds().await, [SnapshotKind::PreUpdate]);
    vault.clock.advance(SignedDuration::from_mins(10));
    before().await.unwrap();
    assert_eq!(kinds().await, [SnapshotKind::PreUpdate; 2]);
    let stranger = vault.customer(500).await;
    let refused = vault.backups.save_before_update(&origin(), stranger, bot).await;
    assert!(matches!(refused, Err(BackupError::Fleet(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_nothing_is_done_and_it_is_said() {
    let vault = Vault::open().await;
    let (db, clock, fleet) = (vault.test.db.clone(), Arc::new(vault.clock.clone()), vault.fleet.clone());
    let off = Backups::new(db, clock, vault.billing.clone(), fleet, None, None, BackupConfig::default());
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "one").await;
    assert!(matches!(off.want(&origin(), tenant, bot, None).await, Err(BackupError::Off)));
    assert_eq!((off.save_due().await.unwrap(), off.advance().await.unwrap()), (0, 0));
    assert!(vault.backups.list(tenant, bot).await.unwrap().is_empty());
}

/// Makes a row what it was in a database that was restored from a set of before.
async fn change(vault: &Vault, sql: &str, id: uuid::Uuid) {
    let mut conn = vault.test.db.connection().await.unwrap();
    let query = diesel::sql_query(sql).bind::<Uuid, _>(id);
    assert_eq!(query.execute(&mut conn).await.unwrap(), 1, "{sql}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_loss_of_a_machine_bots_have_what_the_store_has_and_not_only_what_the_database_knows() {
    let vault = Vault::open().await;
    let tenant = vault.customer(3_000).await;
    let bot = vault.bot(tenant, "one").await;
    let known = vault.saved(bot).await;
    vault.host.write_data(bot, b" two");
    vault.pass(7);
    let unknown = vault.saved(bot).await;
    vault.backups.save_database_due().await.unwrap();
    change(&vault, "DELETE FROM snapshots WHERE id = $1", unknown.id.as_uuid()).await;
    let mut conn = vault.test.db.connection().await.unwrap();
    diesel::sql_query("DELETE FROM database_sets").execute(&mut conn).await.unwrap();
    drop(conn);
    let never_saved = vault.bot(vault.customer(500).await, "three").await;
    for lost in [bot, never_saved] {
        vault.host.lose_container(lost);
        vault.host.lose_volumes(lost);
    }

    let lost = vault.backups.restore_lost(&origin()).await.unwrap();
    assert_eq!((lost.found, &lost.without_snapshot), (2, &vec![never_saved]));
    let [restore] = lost.restores.try_into().unwrap();
    assert_eq!((restore.bot_id, restore.snapshot_id), (bot, unknown.id));
    let found = vault.backups.get(tenant, bot, unknown.id).await.unwrap();
    let fields = |snapshot: &Snapshot| {
        let Snapshot { kind, state, engine_snapshot, size_bytes, started_at, .. } = snapshot.clone();
        (kind, state, engine_snapshot, size_bytes, started_at)
    };
    assert_eq!(fields(&found), fields(&unknown));
    assert_eq!(vault.backups.list_database_sets().await.unwrap().len(), 1);
    // Whoever is killed says it again.
    let again = vault.backups.restore_lost(&origin()).await.unwrap();
    assert_eq!((again.found, again.restores[0].id, again.restores.len()), (0, restore.id, 1));

    assert_eq!(vault.over(&restore).await.phase, RestorePhase::Done);
    assert_eq!(vault.remembered(bot), "one two");
    vault.pass(1);
    vault.backups.tidy().await.unwrap();
    let kept = vault.jobs.snapshots_of(bot);
    let engine = |snapshot: &Snapshot| snapshot.engine_snapshot.clone().unwrap();
    assert!([&known, &unknown].iter().all(|snapshot| kept.contains(&engine(snapshot))), "{kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_is_copied_once_its_data_is_back_and_not_before() {
    let vault = Vault::open().await;
    let bot = vault.bot(vault.customer(3_000).await, "one").await;
    vault.saved(bot).await;
    vault.pass(25);
    vault.host.lose_container(bot);
    vault.host.lose_volumes(bot);
    let [restore] = vault.backups.restore_lost(&origin()).await.unwrap().restores.try_into().unwrap();
    assert_eq!(vault.backups.save_due().await.unwrap(), 0, "there is nothing to copy yet");
    vault.over(&restore).await;
    vault.saved(bot).await;
    // What does not come back is told of.
    vault.pass(25);
    vault.host.lose_container(bot);
    vault.host.lose_volumes(bot);
    vault.backups.restore_lost(&origin()).await.unwrap();
    vault.jobs.fault(Some(JobFault::AtEnd(failure(FailureKind::Damaged))));
    vault.backups.advance().await.unwrap();
    assert_eq!(vault.backups.save_due().await.unwrap(), 1);
    assert_eq!(vault.backups.list_ready(bot).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_only_wanted_when_the_set_was_made_is_found_and_what_is_gone_since_is_forgotten() {
    let vault = Vault::open().await;
    let tenant = vault.customer(3_000).await;
    let bot = vault.bot(tenant, "one").await;
    let gone = vault.saved(bot).await;
    vault.pass(25);
    let known = vault.saved(bot).await;
    vault.pass(25);
    let made = vault.saved(bot).await;
    let wanted = "UPDATE snapshots SET state = 'wanted', engine_snapshot = NULL, size_bytes = NULL, added_bytes = NULL, \
                  finished_at = NULL WHERE id = $1";
    change(&vault, wanted, made.id.as_uuid()).await;
    vault.jobs.lose_snapshot(bot, gone.engine_snapshot.as_ref().unwrap());
    let lost = vault.backups.restore_lost(&origin()).await.unwrap();
    assert_eq!((lost.found, lost.restores, lost.failed), (1, Vec::new(), Vec::new()));
    let ready: Vec<_> = vault.backups.list_ready(bot).await.unwrap().into_iter().map(|snapshot| snapshot.id).collect();
    assert_eq!(ready, [made.id, known.id]);
    // Otherwise the job would be told to keep what is not there.
    assert_eq!(vault.backups.tidy().await.unwrap().failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_under_way_when_the_set_was_made_is_not_believed() {
    for (has_switched, is_saved_since) in [(false, false), (true, false), (false, true), (true, true)] {
        let vault = Vault::open().await;
        let tenant = vault.customer(3_000).await;
        let bot = vault.bot(tenant, "one").await;
        let first = vault.saved(bot).await;
        vault.host.write_data(bot, b" two");
        vault.pass(25);
        let restore = vault.restore(&first).await;
        if has_switched {
            vault.over(&restore).await;
            let under_way = "UPDATE restores SET phase = 'switching', finished_at = NULL, next_attempt_at = created_at WHERE id = $1";
            change(&vault, under_way, restore.id.as_uuid()).await;
        }
        if is_saved_since {
            vault.pass(25);
            vault.host.write_data(bot, b" three");
            vault.saved(bot).await;
        }
        let expected = vault.remembered(bot);
        let expected = if is_saved_since { expected.as_str() } else { "one" };
        vault.host.lose_container(bot);
        vault.host.lose_volumes(bot);
        let lost = vault.backups.restore_lost(&origin()).await.unwrap();
        let [now] = lost.restores.try_into().unwrap();
        assert_eq!(now.id == restore.id, !has_switched && !is_saved_since);
        assert_eq!(vault.over(&now).await.phase, RestorePhase::Done);
        assert_eq!(vault.remembered(bot), expected, "{has_switched} {is_saved_since}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_that_cannot_be_looked_at_does_not_stop_the_others() {
    let vault = Vault::open().await;
    let bot = vault.bot(vault.customer(500).await, "one").await;
    vault.saved(bot).await;
    let other = vault.bot(vault.customer(500).await, "two").await;
    vault.saved(other).await;
    for lost in [bot, other] {
        vault.host.lose_container(lost);
        vault.host.lose_volumes(lost);
    }
    vault.jobs.fault(None);
    vault.jobs.fault(Some(JobFault::AtEnd(failure(FailureKind::Damaged))));
    let lost = vault.backups.restore_lost(&origin()).await.unwrap();
    let ([restore], [(failed, _)]) = (&lost.restores[..], &lost.failed[..]) else { panic!("{lost:?}") };
    assert_ne!(restore.bot_id, *failed);
    let again = vault.backups.restore_lost(&origin()).await.unwrap();
    assert_eq!((again.restores.len(), again.failed), (2, Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_lost_nothing_is_restored_and_what_failed_is_not_found_good() {
    let vault = Vault::open().await;
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "one").await;
    let told = Arc::new(Notify::new());
    vault.jobs.fault(Some(JobFault::Until(told.clone())));
    let beside = vault.another();
    let job = tokio::spawn(async move { beside.save_due().await });
    vault.until_it_hangs(&job).await;
    vault.host.end(bot, 1);
    told.notify_one();
    job.await.unwrap().unwrap();
    assert!(vault.jobs.snapshots_of(bot).is_empty(), "what was copied is not known to be good");
    let lost = vault.backups.restore_lost(&origin()).await.unwrap();
    assert_eq!((lost.found, lost.restores, lost.without_snapshot), (0, Vec::new(), Vec::new()));
    assert!(vault.backups.list_ready(bot).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_under_way_in_the_restored_database_is_found() {
    let vault = Vault::open().await;
    let tenant = vault.customer(500).await;
    let bot = vault.bot(tenant, "one").await;
    vault.jobs.fault(Some(JobFault::HangAfter));
    let doomed = vault.another();
    let job = tokio::spawn(async move { doomed.save_due().await });
    vault.until_it_hangs(&job).await;
    job.abort();
    assert!(job.await.unwrap_err().is_cancelled());
    vault.clock.advance(SignedDuration::from_mins(15));
    let lost = vault.backups.restore_lost(&origin()).await.unwrap();
    assert_eq!(lost.found, 1);
    let [found] = vault.backups.list_ready(bot).await.unwrap().try_into().unwrap();
    assert_eq!((found.kind, found.error), (SnapshotKind::Nightly, None));
}
