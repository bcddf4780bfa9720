//! Two at a time.

use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use wopr_backup::keys::Keys;
use wopr_backup::lock::LockSettings;
use wopr_backup::retention::KeepRules;
use wopr_backup::{BackupError, Backups, ExitCode, ForgetRequest, VerifyRequest};

use crate::support::{Call, Deed, REPOSITORY, RING, Site, Wayward, backups, handle, lock, request};

fn keep(daily: u32) -> ForgetRequest {
    let rules = KeepRules { daily, weekly: 0, max_age_days: None };
    ForgetRequest { kind: "nightly".to_owned(), rules, dry_run: false }
}

/// Holds up the first pack that is put.
fn held_up_at_a_pack(site: &Site) -> Arc<Wayward> {
    Wayward::new(
        &site.store,
        |_, call, object| {
            if call == Call::Put && object.contains("/data/") { Deed::Wait } else { Deed::Obey }
        },
    )
}

#[test]
fn a_store_on_which_two_could_hold_a_lock_is_refused() {
    let site = Site::saved();
    let careless = Wayward::new(&site.store, |_, _, _| Deed::Overwrite);
    let made = |store: Arc<dyn ObjectStore>, name| {
        Backups::new(store, name, Keys::parse(RING).unwrap(), lock(), handle()).unwrap().init()
    };
    let error = made(careless, "bots/another").unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Usage);
    assert!(error.to_string().contains("If-None-Match"), "{error}");
    assert!(made(Arc::clone(&site.store), "bots/another").unwrap().created, "nothing of it was left behind");
}

#[test]
fn whoever_comes_second_is_told_who_is_first() {
    let site = Site::saved();
    std::fs::write(site.tree().join("large"), "new").unwrap();
    let slow = held_up_at_a_pack(&site);
    let gate = slow.gate();
    let mut settings = lock();
    settings.owner = "node-7".to_owned();
    let first = Backups::new(slow, REPOSITORY, Keys::parse(RING).unwrap(), settings, handle()).unwrap();
    std::thread::scope(|scope| {
        let saving = scope.spawn(|| first.save(&request(&site.tree())));
        gate.wait_for_someone();
        let results = [
            ("save", site.backups.save(&request(&site.tree())).map(drop)),
            ("forget", site.backups.forget(&keep(1)).map(drop)),
            ("restore", site.restore(None, &site.scratch.path("target")).map(drop)),
            ("verify", site.backups.verify(&VerifyRequest::default()).map(drop)),
            ("rekey", site.backups.rekey().map(drop)),
        ];
        // Whoever only looks is not kept out.
        assert_eq!(site.backups.list().unwrap().snapshots.len(), 1);
        gate.open();
        saving.join().unwrap().unwrap();
        for (command, result) in results {
            let error = result.unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::Locked, "{command}");
            let said = error.to_string();
            assert!(said.contains("locked by node-7 (save) since 20"), "{command}: {said}");
        }
    });
    assert_eq!(site.backups.list().unwrap().snapshots.len(), 2);
    site.proves(None, &site.tree());
}

#[test]
fn those_that_wait_all_get_their_turn_and_harm_each_other_not_at_all() {
    let site = Site::saved();
    let patient = LockSettings { wait: Duration::from_mins(2), ..lock() };
    let backups =
        Backups::new(Arc::clone(&site.store), REPOSITORY, Keys::parse(RING).unwrap(), patient, handle()).unwrap();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..3)
            .flat_map(|_| {
                let save = scope.spawn(|| backups.save(&request(&site.tree())).map(drop));
                let forget = scope.spawn(|| backups.forget(&keep(2)).map(drop));
                [save, forget]
            })
            .collect();
        for run in running {
            run.join().unwrap().unwrap();
        }
    });
    let verified = site.backups.verify(&VerifyRequest { snapshot: None, all: true }).unwrap();
    assert!(verified.snapshots.len() >= 2, "{verified:?}");
    site.proves(None, &site.tree());
    let left: Vec<_> = site.objects().into_iter().filter(|object| site.name(object).contains("lock")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_lock_that_was_taken_over_is_lost_and_nothing_counts_that_came_after() {
    const EXPIRY: Duration = Duration::from_secs(6);
    let site = Site::saved();
    std::fs::write(site.tree().join("large"), "new").unwrap();
    let looks = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let slow = Wayward::new(&site.store, move |_, call, object| {
        if call == Call::List && object.contains("wopr-locks") {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        if call == Call::Put && object.contains("/data/") { Deed::Wait } else { Deed::Obey }
    });
    let gate = slow.gate();
    let settings = LockSettings { expiry: EXPIRY, ..lock() };
    let first = Backups::new(slow, REPOSITORY, Keys::parse(RING).unwrap(), settings, handle()).unwrap();
    std::thread::scope(|scope| {
        let saving = scope.spawn(|| first.save(&request(&site.tree())));
        gate.wait_for_someone();
        // Somebody else is there, with the next number.
        let directory = site.repository().join("wopr-locks");
        std::fs::copy(directory.join("00000001"), directory.join("00000002")).unwrap();
        let (seen, began) = (looks.load(std::sync::atomic::Ordering::SeqCst), std::time::Instant::now());
        // It looks eight times in an expiry; had it been looking just now, it may have seen it already.
        while looks.load(std::sync::atomic::Ordering::SeqCst) == seen && began.elapsed() < EXPIRY {
            std::thread::sleep(Duration::from_millis(10));
        }
        gate.open();
        let error = saving.join().unwrap().unwrap_err();
        assert!(matches!(&error, BackupError::LockLost(object) if object.contains("wopr-locks")), "{error}");
        assert_eq!(error.exit_code(), ExitCode::Locked);
    });
    assert_eq!(site.backups.list().unwrap().snapshots.len(), 1);
    site.expire_locks();
    site.backups.verify(&VerifyRequest { snapshot: None, all: true }).unwrap();
}

#[test]
fn a_lock_that_is_being_renewed_is_not_taken_over() {
    let site = Site::saved();
    std::fs::write(site.tree().join("large"), "new").unwrap();
    let slow = held_up_at_a_pack(&site);
    let gate = slow.gate();
    // Its first expiry comes while it is held up.
    let settings = LockSettings { expiry: Duration::from_secs(6), ..lock() };
    let first = Backups::new(slow, REPOSITORY, Keys::parse(RING).unwrap(), settings, handle()).unwrap();
    std::thread::scope(|scope| {
        let saving = scope.spawn(|| first.save(&request(&site.tree())));
        gate.wait_for_someone();
        let until = |error: BackupError| match error {
            BackupError::Locked { until, .. } => until,
            other => panic!("{other}"),
        };
        let second = backups(Arc::clone(&site.store), RING);
        let at_first = until(second.save(&request(&site.tree())).unwrap_err());
        while until(second.save(&request(&site.tree())).unwrap_err()) <= at_first {
            std::thread::sleep(Duration::from_millis(50));
        }
        gate.open();
        saving.join().unwrap().unwrap();
    });
    site.proves(None, &site.tree());
}
