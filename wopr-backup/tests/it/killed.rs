//! The program itself: its settings, its report, its exit codes, and what is left when it is killed.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use wopr_backup::VerifyRequest;
use wopr_backup::report::{Done, Outcome, Report};

use crate::support::{REPOSITORY, RING, Site, plant};

fn program(site: &Site, arguments: &[&str]) -> Command {
    let ring = site.scratch.path("ring.json");
    std::fs::write(&ring, RING).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_wopr-backup"));
    command
        .args(arguments)
        .env("WOPR_BACKUP_REPOSITORY", REPOSITORY)
        .env("WOPR_BACKUP_DIRECTORY", site.scratch.path("store"))
        .env("WOPR_BACKUP_KEY_FILE", ring)
        .env("WOPR_BACKUP_OWNER", "the program")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn report(output: &Output) -> Report {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn every_command_says_one_line_that_the_library_understands() {
    let site = Site::new();
    plant(&site.tree(), 9);
    let (tree, target, escrow) = (site.tree(), site.scratch.path("target"), site.scratch.path("escrow"));
    let commands: [&[&str]; 8] = [
        &["init"],
        &["save", text(&tree), "--kind", "on-demand"],
        &["list"],
        &["restore", text(&target)],
        &["verify", "--all"],
        &["forget", "--kind", "on-demand", "--daily", "1", "--weekly", "0", "--dry-run"],
        &["rekey"],
        &["escrow", "--to", text(&escrow)],
    ];
    for arguments in commands {
        let output = program(&site, arguments).output().unwrap();
        let report = report(&output);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {report:?}");
        assert_eq!(report.repository, REPOSITORY);
        let Outcome::Done { result } = report.outcome else { panic!("{arguments:?}: {report:?}") };
        let named: Value = serde_json::to_value(&result).unwrap();
        assert_eq!(named["command"], arguments[0]);
        if let Done::Save(saved) = result {
            assert_eq!((saved.totals.files, saved.kind.as_str()), (47, "on-demand"));
        }
    }
    assert_eq!(std::fs::metadata(&escrow).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn wrong_settings_are_refused_by_name() {
    let site = Site::new();
    let cases: [(&str, Option<&str>, &str); 6] = [
        ("WOPR_BACKUP_DIRECTRY", Some("/x"), "WOPR_BACKUP_DIRECTRY"),
        ("WOPR_BACKUP_S3_BUCKET", Some("both"), "WOPR_BACKUP_S3_BUCKET"),
        ("WOPR_BACKUP_LOCK_SECONDS", Some("0"), "WOPR_BACKUP_LOCK_SECONDS"),
        ("WOPR_BACKUP_REPOSITORY", Some("../else"), "../else"),
        ("WOPR_BACKUP_KEY_FILE", None, "WOPR_BACKUP_KEY_FILE"),
        ("WOPR_BACKUP_KEY_FILE", Some("/nowhere"), "/nowhere"),
    ];
    for (name, value, named) in cases {
        let mut command = program(&site, &["list"]);
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}={value:?}");
        let Outcome::Failed { exit_code, error } = report(&output).outcome else { panic!("{name}={value:?}") };
        assert!(exit_code == 2 && error.contains(named), "{name}={value:?}: {error}");
    }
}

#[test]
fn exit_codes_tell_failures_apart() {
    let site = Site::saved();
    let empty = program(&site, &["list"]).env("WOPR_BACKUP_REPOSITORY", "bots/other").output().unwrap();
    assert_eq!(empty.status.code(), Some(8));
    let other = program(&site, &["restore", text(&site.scratch.path("t")), "--snapshot", "ffff"]).output().unwrap();
    assert_eq!(other.status.code(), Some(8));
    let ring = site.scratch.path("other.json");
    std::fs::write(&ring, RING.replace("MDEy", "MDEz")).unwrap();
    let wrong = program(&site, &["list"]).env("WOPR_BACKUP_KEY_FILE", ring).output().unwrap();
    assert_eq!(wrong.status.code(), Some(3));
    assert_eq!(program(&site, &["list", "--what"]).output().unwrap().status.code(), Some(2));
    let pack = site.objects().into_iter().find(|object| site.name(object).contains("/data/")).unwrap();
    std::fs::write(&pack, "").unwrap();
    let corrupt = program(&site, &["verify"]).output().unwrap();
    assert_eq!(corrupt.status.code(), Some(4));
    let Outcome::Failed { error, .. } = report(&corrupt).outcome else { panic!() };
    assert!(error.starts_with(&site.name(&pack)), "{error}");
}

#[test]
fn killed_at_any_moment_it_leaves_the_last_good_backup_and_the_next_run_works() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let site = Site::saved();
    let mut bytes = vec![0; 2_000_000];
    let tree = site.tree();
    let mut longest = Duration::from_millis(300);
    let (mut killed, mut round) = (0, 0);
    while killed < 4 || round < 9 {
        assert!(round < 60, "the clock kills too few: {killed} of {round}");
        rand::RngCore::fill_bytes(&mut random, &mut bytes);
        std::fs::write(tree.join("large"), &bytes).unwrap();
        let good = site.scratch.path("good");
        let newest = site.restore(None, &good).unwrap().snapshot;
        let arguments: &[&str] = match round % 3 {
            0 | 1 => &["save", text(&tree)],
            _ => &["forget", "--daily", "1", "--weekly", "0"],
        };
        let began = Instant::now();
        let delay = longest.mul_f64(random.random_range(0.0..1.0));
        let mut child = program(&site, arguments).spawn().unwrap();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if began.elapsed() > delay {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        match status {
            Some(status) => {
                assert!(status.success(), "round {round}, {arguments:?}");
                longest = began.elapsed();
            }
            None => killed += 1,
        }
        site.expire_locks();
        // What was good before is good, and whatever counts now is good too.
        let everything = site.backups.verify(&VerifyRequest { snapshot: None, all: true }).unwrap();
        assert!(
            !everything.snapshots.is_empty() && everything.without_manifest.is_empty(),
            "round {round}: {everything:?}"
        );
        site.proves(Some(&newest), &good);
        std::fs::remove_dir_all(&good).unwrap();
        // The next run finds the repository as if nothing had been.
        let next = program(&site, &["save", text(&tree)]).output().unwrap();
        assert_eq!(next.status.code(), Some(0), "round {round}: {}", String::from_utf8_lossy(&next.stderr));
        site.proves(None, &tree);
        round += 1;
    }
}
