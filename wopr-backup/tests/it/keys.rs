//! Keys: the wrong one, a newer one, and one that was kept elsewhere.

use std::sync::Arc;

use wopr_backup::keys::Keys;
use wopr_backup::{BackupError, Backups, ExitCode, RestoreRequest};

use crate::support::{REPOSITORY, RING, Site, assert_same, backups, handle, lock, plant, request};

const OTHER: &str = r#"{"ring":[{"id":"first","secret":"ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="}]}"#;
const NEWER: &str = r#"{"ring":[
    {"id":"second","secret":"ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="},
    {"id":"first","secret":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}]}"#;
const ONLY_NEWER: &str = r#"{"ring":[{"id":"second","secret":"ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="}]}"#;

#[test]
fn the_wrong_key_opens_nothing_and_changes_nothing() {
    let site = Site::saved();
    let objects = site.objects();
    let wrong = backups(Arc::clone(&site.store), OTHER);
    let results = [
        wrong.init().map(drop),
        wrong.save(&request(&site.tree())).map(drop),
        wrong.list().map(drop),
        wrong.rekey().map(drop),
        wrong.verify(&wopr_backup::VerifyRequest::default()).map(drop),
    ];
    for result in results {
        let error = result.unwrap_err();
        assert!(matches!(&error, BackupError::WrongKey(name) if name == REPOSITORY), "{error}");
        assert_eq!(error.exit_code(), ExitCode::WrongKey);
    }
    assert_eq!(site.objects(), objects);
    site.proves(None, &site.tree());
}

#[test]
fn the_same_ring_opens_no_other_repository() {
    let escrow = |name: &str| {
        let ring = Keys::parse(RING).unwrap();
        ring.escrow(name).unwrap().keys.remove(0).password
    };
    assert_ne!(escrow("bots/bot-1"), escrow("bots/bot-2"));
    assert_eq!(escrow("bots/bot-1"), escrow("bots/bot-1"));
    // HKDF-SHA256 without a salt, of which another program gives the same.
    assert_eq!(escrow("bots/bot-1"), "fff3fd150e9dc5704483ba6fed666d8b0f434241f06d6cf950fdc01fb1f9bbc3");
}

#[test]
fn a_newer_key_replaces_the_older_one() {
    let site = Site::saved();
    let newer = backups(Arc::clone(&site.store), NEWER);
    // The older one of the ring still opens it, and the newer one may be added at leisure.
    assert_eq!(newer.init().unwrap().key, "first");
    let only_newer = backups(Arc::clone(&site.store), ONLY_NEWER);
    assert!(matches!(only_newer.list(), Err(BackupError::WrongKey(_))));
    let done = newer.rekey().unwrap();
    assert_eq!((done.key.as_str(), done.added, done.removed), ("second", true, vec!["first".to_owned()]));
    let again = newer.rekey().unwrap();
    assert_eq!((again.added, again.removed), (false, Vec::new()));
    assert!(matches!(site.backups.list(), Err(BackupError::WrongKey(_))));
    assert_eq!(only_newer.save(&request(&site.tree())).unwrap().key, "second");
    let target = site.scratch.path("target");
    only_newer.restore(&RestoreRequest { snapshot: None, directory: target.clone(), description: None }).unwrap();
    assert_same(&site.tree(), &target);
}

#[test]
fn what_is_in_escrow_is_enough() {
    let site = Site::new();
    plant(&site.tree(), 6);
    site.save();
    let escrow = serde_json::to_string(&site.backups.keys().escrow(REPOSITORY).unwrap()).unwrap();
    assert!(!escrow.contains("MDEyMzQ1"), "the ring's secret is in it: {escrow}");
    let target = site.scratch.path("target");
    backups(Arc::clone(&site.store), &escrow)
        .restore(&RestoreRequest { snapshot: None, directory: target.clone(), description: None })
        .unwrap();
    assert_same(&site.tree(), &target);
    let keys = Keys::parse(&escrow).unwrap();
    let other = Backups::new(Arc::clone(&site.store), "bots/bot-2", keys, lock(), handle()).unwrap();
    assert!(matches!(other.init(), Err(BackupError::WrongKey(_))));
}

#[test]
fn what_is_no_key_file_is_refused_without_being_quoted() {
    let short = r#"{"ring":[{"id":"a","secret":"c2hvcnQ="}]}"#;
    let twice = RING.replace("}]}", r#"},{"id":"first","secret":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}]}"#);
    let more = RING.replace("]}", r#"],"more":1}"#);
    for wrong in ["", "{}", r#"{"ring":[]}"#, short, &twice, &more, r#"{"ring":[{"id":"a","secret":"no base64!"}]}"#] {
        let error = Keys::parse(wrong).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Usage);
        assert!(!error.to_string().contains("base64!") && !error.to_string().contains("c2hv"), "{error}");
    }
    let secret = format!("{:?}", Keys::parse(RING).unwrap());
    assert!(!secret.contains("MDEy"), "{secret}");
}
