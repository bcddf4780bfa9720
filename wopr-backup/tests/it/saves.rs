//! What is saved comes back, and what has not changed is not read again.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use wopr_backup::manifest::{RawPath, SkipReason};
use wopr_backup::report::SaveReport;
use wopr_backup::retention::KeepRules;
use wopr_backup::{BackupError, ForgetRequest, RestoreRequest, SaveRequest, VerifyRequest};
use wopr_core::protocol::backup::{FailureKind, Message, Order, RingKey, Sensitive, Store, Work};

use crate::support::{REPOSITORY, SECRET, Site, assert_same, handle, plant, request};

#[test]
fn a_tree_comes_back_as_it_was() {
    let site = Site::new();
    plant(&site.tree(), 3);
    let saved = site.save();
    assert_eq!((saved.totals.files, saved.totals.directories, saved.totals.symlinks), (47, 5, 2));
    assert_eq!((saved.unchanged_files, saved.parent), (0, None));
    let (target, description) = (site.scratch.path("target"), site.scratch.path("description"));
    let request = RestoreRequest { snapshot: None, directory: target.clone(), description: Some(description.clone()) };
    let restored = site.backups.restore(&request).unwrap();
    assert_eq!((restored.totals, restored.snapshot, restored.taken_at), (saved.totals, saved.snapshot, saved.taken_at));
    assert_same(&site.tree(), &target);
    assert_eq!(std::fs::read_to_string(description).unwrap(), r#"{"image":"bot@sha256:0"}"#);
    // It is not empty now, and nothing is written over.
    let again = site.backups.restore(&request).unwrap_err();
    assert!(matches!(again, BackupError::Usage(_)), "{again}");
    assert_same(&site.tree(), &target);
}

#[test]
fn only_what_changed_is_read_and_stored() {
    let site = Site::saved();
    // The first run's files are too young to be trusted by their times, so the second may read them; it stores none again.
    let second = site.save();
    assert!(second.parent.is_some() && second.stored_bytes < 40_000, "{second:?}");
    std::fs::write(site.tree().join("deep/7.json"), "other").unwrap();
    age(&site);
    let third = site.save();
    assert!(third.stored_bytes < 40_000, "{third:?}");
    age(&site);
    let fourth = site.save();
    assert_eq!(fourth.unchanged_files, fourth.totals.files);
    for report in [&second, &third, &fourth] {
        assert_eq!(report.totals.files, 47);
    }
    site.proves(Some(&fourth.snapshot), &site.tree());
    let everything = site.backups.verify(&VerifyRequest { snapshot: None, all: true }).unwrap();
    assert_eq!((everything.snapshots.len(), everything.files), (4, 4 * 47));
}

/// Waits until no file's status is so young that the next run reads it to be sure.
fn age(site: &Site) {
    let youngest = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let changed = youngest(&site.tree().join("deep/7.json"));
    while changed.elapsed().unwrap() < std::time::Duration::from_millis(2_100) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_second_change_within_the_clocks_step_is_seen() {
    let site = Site::saved();
    let path = site.tree().join("deep/3.json");
    let status = std::fs::metadata(&path).unwrap();
    let mut content = std::fs::read(&path).unwrap();
    content[5] ^= 1;
    std::fs::write(&path, &content).unwrap();
    std::fs::File::open(&path).unwrap().set_modified(status.modified().unwrap()).unwrap();
    let second = site.save();
    site.proves(Some(&second.snapshot), &site.tree());
}

#[test]
fn what_cannot_be_saved_is_said() {
    let site = Site::new();
    plant(&site.tree(), 4);
    let _socket = UnixListener::bind(site.tree().join("socket")).unwrap();
    nix::unistd::mkfifo(&site.tree().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let saved: SaveReport = site.save();
    let skipped: Vec<_> = saved.skipped.iter().map(|one| (one.path.clone(), one.reason)).collect();
    let path = |name: &str| RawPath::from(Path::new(name));
    assert_eq!(skipped, [(path("pipe"), SkipReason::Pipe), (path("socket"), SkipReason::Socket)]);
}

#[test]
fn wrong_requests_touch_nothing() {
    let site = Site::new();
    plant(&site.tree(), 5);
    let good = request(&site.tree());
    let wrong = [
        SaveRequest { kind: "Nightly".to_owned(), ..good.clone() },
        SaveRequest { kind: String::new(), ..good.clone() },
        SaveRequest { description: "no json".into(), ..good.clone() },
        SaveRequest { directory: site.tree().join("text"), ..good },
    ];
    for request in wrong {
        let error = site.backups.save(&request).unwrap_err();
        assert!(matches!(error, BackupError::Usage(_)), "{error}");
    }
    assert_eq!(site.backups.list().unwrap().snapshots, []);
}

#[test]
fn forgetting_frees_what_nobody_needs_and_keeps_the_last_good_one() {
    let site = Site::saved();
    let first = site.backups.list().unwrap().snapshots.remove(0);
    std::fs::remove_file(site.tree().join("large")).unwrap();
    let second = site.save();
    let rules = KeepRules { daily: 1, weekly: 0, max_age_days: None };
    let mut request = ForgetRequest { kind: "nightly".to_owned(), rules, dry_run: true };
    let dry = site.backups.forget(&request).unwrap();
    assert_eq!((dry.removed.clone(), dry.freed_bytes), (vec![first.id], 0));
    assert_eq!(site.backups.list().unwrap().snapshots.len(), 2);
    request.dry_run = false;
    let done = site.backups.forget(&request).unwrap();
    assert_eq!((&done.removed, &done.kept), (&dry.removed, &vec![second.snapshot.clone()]));
    assert!(done.freed_bytes > 2_000_000, "{done:?}");
    request.rules = KeepRules { daily: 0, weekly: 0, max_age_days: Some(0) };
    assert_eq!(site.backups.forget(&request).unwrap().removed, Vec::<String>::new());
    site.proves(Some(&second.snapshot), &site.tree());
}

#[test]
fn restic_reads_it_with_the_escrowed_password() {
    let restic = |arguments: &[&str], site: &Site| {
        let password = site.backups.keys().escrow(site.backups.name()).unwrap().keys.remove(0).password;
        Command::new("restic")
            .args(["--no-cache", "--repo"])
            .arg(site.repository())
            .args(arguments)
            .env("RESTIC_PASSWORD", password)
            .output()
    };
    let site = Site::saved();
    let Ok(checked) = restic(&["check", "--read-data"], &site) else {
        eprintln!("restic is not installed: skipped");
        return;
    };
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let target = site.scratch.path("by-restic");
    let restored = restic(&["restore", "latest", "--target", target.to_str().unwrap()], &site).unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    assert_same(&site.tree(), &target.join("data"));
}

#[test]
fn a_draft_becomes_a_snapshot_and_no_draft_stays() {
    let site = Site::new();
    plant(&site.tree(), 3);
    let draft = SaveRequest { kind: "draft".to_owned(), ..request(&site.tree()) };
    site.backups.save(&draft).unwrap();
    let still = site.backups.save(&draft).unwrap();
    let nightly = site.save();
    let promoted = site.backups.promote(&still.snapshot, "bot").unwrap();
    let listed = site.backups.list_described().unwrap();
    let of_kind = |kind: &str| listed.iter().filter(|(view, _)| view.kind == kind).collect::<Vec<_>>();
    assert_eq!((listed.len(), of_kind("nightly")[0].0.id.as_str()), (2, nightly.snapshot.as_str()));
    let (view, description) = of_kind("bot")[0];
    assert_eq!((view.id.as_str(), view.taken_at, view.complete), (promoted.as_str(), still.taken_at, true));
    assert_eq!(description.as_deref(), Some(r#"{"image":"bot@sha256:0"}"#));
    site.proves(Some(&promoted), &site.tree());
    let again = site.backups.promote(&still.snapshot, "bot").unwrap_err();
    assert!(matches!(again, BackupError::NoSnapshot(_)), "{again}");
}

#[test]
fn an_order_lists_whole_copies_that_are_not_known() {
    let site = Site::new();
    plant(&site.tree(), 3);
    let save = |kind: &str| {
        let request = SaveRequest { kind: kind.to_owned(), ..request(&site.tree()) };
        site.backups.save(&request).unwrap()
    };
    let (first, second) = (save("bot"), save("bot"));
    save("draft");
    let carry_out = |repository: &str, known: &[String]| {
        let order = Order {
            store: Store::Directory { path: site.scratch.path("store").to_str().unwrap().to_owned() },
            repository: repository.to_owned(),
            keys: vec![RingKey { id: "first".to_owned(), secret: Sensitive(SECRET.to_owned()) }],
            database_url: None,
            work: Work::List { known: known.to_vec() },
        };
        let mut said = Vec::new();
        let mut input = std::io::Cursor::new(serde_json::to_string(&order).unwrap() + "\n");
        let done = wopr_backup::job::run(&mut input, &mut said, &handle());
        let message: Message = serde_json::from_slice(&said).unwrap();
        assert_eq!(done.is_ok(), matches!(message, Message::Done(_)));
        message
    };
    let Message::Done(report) = carry_out(REPOSITORY, &[]) else { panic!("it is a good order") };
    let names: Vec<_> = report.listed.iter().map(|listed| listed.snapshot.as_str()).collect();
    assert_eq!(names, [&second.snapshot, &first.snapshot]);
    let described = report.listed[1].description.as_deref();
    assert_eq!((described, report.listed[1].taken_at), (Some(r#"{"image":"bot@sha256:0"}"#), first.taken_at));
    let known = [first.snapshot, second.snapshot, "0".repeat(64)];
    let Message::Done(report) = carry_out(REPOSITORY, &known) else { panic!("as before") };
    assert_eq!((report.listed, report.missing), (Vec::new(), vec!["0".repeat(64)]));
    let Message::Failed(failure) = carry_out("bots/nobody", &[]) else { panic!("there is no such repository") };
    assert_eq!(failure.kind, FailureKind::NoSnapshot);
}
