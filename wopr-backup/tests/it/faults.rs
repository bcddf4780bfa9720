//! A table of faults. Each ends in an error that names what is to blame, and the last good backup outlives it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use wopr_backup::{BackupError, Depth, ExitCode, VerifyRequest, compare};

use crate::support::{Call, Deed, RING, Site, Wayward, backups, plant, request};

const NEWEST: VerifyRequest = VerifyRequest { snapshot: None, all: false };

/// What is done to an object.
type Harm = fn(&Path, &mut StdRng);

fn flip(path: &Path, random: &mut StdRng) {
    let mut content = std::fs::read(path).unwrap();
    let at = random.random_range(0..content.len());
    content[at] ^= 1 << random.random_range(0..8);
    std::fs::write(path, content).unwrap();
}

fn truncate(path: &Path, _: &mut StdRng) {
    let content = std::fs::read(path).unwrap();
    std::fs::write(path, &content[..content.len() / 2]).unwrap();
}

fn remove(path: &Path, _: &mut StdRng) {
    std::fs::remove_file(path).unwrap();
}

#[test]
fn no_object_can_be_harmed_unnoticed() {
    let site = Site::saved();
    let objects = site.objects();
    let kinds = ["config", "keys/", "snapshots/", "index/", "data/"];
    for kind in kinds {
        assert!(objects.iter().any(|object| site.name(object).contains(kind)), "there is no {kind} among {objects:?}");
    }
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let harms: [(&str, Harm); 3] = [("one bit flipped", flip), ("cut in half", truncate), ("gone", remove)];
    let target = site.scratch.path("target");
    for object in &objects {
        let name = site.name(object);
        let whole = std::fs::read(object).unwrap();
        for (harm, harmed) in harms {
            harmed(object, &mut random);
            let verified = site.backups.verify(&NEWEST);
            let restored = site.restore(None, &target).unwrap_err();
            let saved = site.backups.save(&request(&site.tree()));
            let verified = match verified {
                Err(error) => Some(error),
                // Nobody can know that there was one.
                Ok(report) if harm == "gone" && name.contains("/snapshots/") => {
                    assert_eq!(report.snapshots, Vec::<String>::new());
                    None
                }
                Ok(report) => panic!("{name}, {harm}: {report:?}"),
            };
            for error in verified.iter().chain([&restored]) {
                let (said, code) = (error.chain(), error.exit_code());
                let expected = match (harm, name.as_str()) {
                    ("gone", name) if name.contains("/keys/") => (ExitCode::WrongKey, "bots/bot-1"),
                    ("gone", name) if name.ends_with("/config") => (ExitCode::NotFound, "bots/bot-1"),
                    ("gone", name) if name.contains("/snapshots/") => (ExitCode::NotFound, "latest"),
                    // What it named is missed by the snapshot.
                    ("gone", name) if name.contains("/index/") => (ExitCode::Corrupt, "/snapshots/"),
                    (_, name) => (ExitCode::Corrupt, name),
                };
                assert_eq!((code, said.contains(expected.1)), (expected.0, true), "{name}, {harm}: {said}");
            }
            assert!(!target.exists() || std::fs::read_dir(&target).unwrap().next().is_none(), "{name}, {harm}");
            // Whatever a run did meanwhile, what was there is good once the object is.
            std::fs::write(object, &whole).unwrap();
            if let Ok(saved) = saved {
                assert!(name.contains("/data/") || name.contains("/snapshots/"), "{name}, {harm}: {saved:?}");
            }
            site.backups.verify(&VerifyRequest { snapshot: None, all: true }).unwrap();
        }
    }
    site.proves(None, &site.tree());
}

#[test]
fn a_store_that_goes_away_at_any_call_harms_nothing() {
    let site = Site::saved();
    let first = site.backups.list().unwrap().snapshots.remove(0).id;
    let before = site.scratch.path("before");
    site.restore(None, &before).unwrap();
    std::fs::write(site.tree().join("large"), "no longer").unwrap();
    let mut failures = 0;
    let baseline = site.remember();
    for reachable in 0.. {
        site.return_to(&baseline);
        let away = Wayward::new(&site.store, move |call, _, _| if call < reachable { Deed::Obey } else { Deed::Away });
        let result = backups(away, RING).save(&request(&site.tree()));
        site.expire_locks();
        let listed = site.backups.list().unwrap().snapshots;
        assert!(listed.iter().all(|snapshot| snapshot.complete), "{listed:?}");
        assert!(listed.iter().any(|snapshot| snapshot.id == first), "{listed:?}");
        site.backups.verify(&VerifyRequest { snapshot: None, all: true }).unwrap();
        if let Err(error) = result {
            failures += 1;
            let named = error.chain();
            assert_eq!(error.exit_code(), ExitCode::StoreAway, "after {reachable} calls: {named}");
            assert!(named.starts_with("bots/bot-1/") && named.contains("nobody answers"), "{named}");
        } else {
            break; // at most the lock could not be released, which its expiry does
        }
    }
    assert!(failures > 10, "only {failures} calls could fail");
    site.proves(Some(&first), &before);
    site.proves(None, &site.tree());
}

#[test]
fn a_store_that_goes_away_while_it_is_cleared_up_harms_nothing() {
    let site = Site::saved();
    let rules = wopr_backup::retention::KeepRules { daily: 1, weekly: 0, max_age_days: None };
    let forget = wopr_backup::ForgetRequest { kind: "nightly".to_owned(), rules, dry_run: false };
    std::fs::write(site.tree().join("large"), "less").unwrap();
    site.save();
    let baseline = site.remember();
    for reachable in 0.. {
        site.return_to(&baseline);
        let away = Wayward::new(&site.store, move |call, _, _| if call < reachable { Deed::Obey } else { Deed::Away });
        let result = backups(away, RING).forget(&forget);
        site.expire_locks();
        site.backups.verify(&VerifyRequest { snapshot: None, all: true }).unwrap();
        if result.is_ok() {
            break;
        }
    }
    site.proves(None, &site.tree());
}

#[test]
fn an_upload_that_is_cut_short_is_noticed_and_taken_back() {
    let site = Site::saved();
    let first = site.backups.list().unwrap().snapshots.remove(0).id;
    std::fs::write(site.tree().join("large"), "something else").unwrap();
    for kind in ["/data/", "/index/", "/snapshots/"] {
        let objects = site.objects();
        let cutting = Wayward::new(&site.store, move |_, call, object| {
            if call == Call::Put && object.contains(kind) { Deed::Halve } else { Deed::Obey }
        });
        let error = backups(cutting, RING).save(&request(&site.tree())).unwrap_err();
        assert!(matches!(&error, BackupError::Truncated { object, .. } if object.contains(kind)), "{kind}: {error}");
        let left: Vec<PathBuf> = site.objects().into_iter().filter(|object| !objects.contains(object)).collect();
        assert!(left.iter().all(|object| !site.name(object).contains(kind)), "{kind}: {left:?}");
        assert_eq!(site.backups.verify(&NEWEST).unwrap().snapshots, std::slice::from_ref(&first));
    }
    site.save();
    site.proves(None, &site.tree());
}

#[test]
fn a_snapshot_without_a_manifest_does_not_count() {
    let site = Site::saved();
    let password = site.backups.keys().escrow(site.backups.name()).unwrap().keys.remove(0).password;
    let saved = Command::new("restic")
        .args(["--no-cache", "--repo"])
        .arg(site.repository())
        .args(["backup", "--quiet"])
        .arg(site.tree())
        .env("RESTIC_PASSWORD", password)
        .output();
    let Ok(saved) = saved else {
        eprintln!("restic is not installed: skipped");
        return;
    };
    assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
    let listed = site.backups.list().unwrap().snapshots;
    let complete: Vec<_> = listed.iter().map(|snapshot| snapshot.complete).collect();
    assert_eq!(complete, [false, true]);
    let error = site.restore(Some(&listed[0].id), &site.scratch.path("target")).unwrap_err();
    assert!(matches!(&error, BackupError::NoManifest(id) if *id == listed[0].id), "{error}");
    let verified = site.backups.verify(&NEWEST).unwrap();
    assert_eq!(
        (verified.snapshots, verified.without_manifest),
        (vec![listed[1].id.clone()], vec![listed[0].id.clone()])
    );
    site.proves(None, &site.tree()); // the newest that counts
}

#[test]
fn a_directory_that_differs_from_its_manifest_is_told_by_the_path() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 7] = [
        ("large", |root| {
            let path = root.join("large");
            let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
            let mut content = std::fs::read(&path).unwrap();
            content[1_234_567] ^= 4;
            std::fs::write(&path, content).unwrap();
            std::fs::File::open(&path).unwrap().set_modified(modified).unwrap();
        }),
        ("text", |root| std::fs::set_permissions(root.join("text"), std::fs::Permissions::from_mode(0o600)).unwrap()),
        ("deep/9.json", |root| std::fs::remove_file(root.join("deep/9.json")).unwrap()),
        ("deep/more", |root| std::fs::write(root.join("deep/more"), "").unwrap()),
        ("link", |root| {
            std::fs::remove_file(root.join("link")).unwrap();
            std::os::unix::fs::symlink("large", root.join("link")).unwrap();
        }),
        ("empty", |root| std::fs::write(root.join("empty"), "no").unwrap()),
        ("large", |root| {
            std::fs::File::open(root.join("large")).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        }),
    ];
    let site = Site::saved();
    let manifest = site.backups.manifest(None).unwrap();
    for (path, change) in changes {
        let target = site.scratch.path("target");
        site.restore(None, &target).unwrap();
        compare(&manifest, &target, Depth::Content).unwrap();
        change(&target);
        // A directory's own time tells of some changes too; which is found first does not matter.
        let error = compare(&manifest, &target, Depth::Content).unwrap_err();
        let parent = Path::new(path).parent().unwrap().display().to_string();
        assert!(
            matches!(&error, BackupError::Differs { path: told, .. } if *told == path || *told == parent),
            "{path}: {error}"
        );
        assert_eq!(error.exit_code(), ExitCode::Corrupt);
        std::fs::remove_dir_all(&target).unwrap();
    }
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let site = Site::new();
    plant(&site.tree(), 8);
    site.save();
    let small = site.scratch.path("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&small).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("a small file system cannot be mounted here: skipped");
        return;
    }
    let target = small.join("target");
    let error = site.restore(None, &target);
    let left = std::fs::read_dir(&target).map(Iterator::count);
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
    let error = error.unwrap_err();
    assert!(matches!(&error, BackupError::DiskFull(path) if path.starts_with(&target)), "{error}");
    assert_eq!((error.exit_code(), left.unwrap()), (ExitCode::DiskFull, 0));
    site.proves(None, &site.tree());
}

#[test]
fn a_full_store_is_told_and_harms_nothing() {
    let site = Site::saved();
    let small = site.scratch.path("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "none"]).arg(&small).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("a small file system cannot be mounted here: skipped");
        return;
    }
    let store = wopr_backup::store::StoreSettings::Directory(small.clone()).open().unwrap();
    let full = backups(Arc::clone(&store), RING);
    let result = full.init().and_then(|_| full.save(&request(&site.tree())));
    let listed = full.list();
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::DiskFull, "{}", error.chain());
    assert_eq!(listed.unwrap().snapshots, []);
}
