use std::path::PathBuf;

use jiff::Timestamp;

use super::*;
use crate::gateway::price::Explanation;
use crate::gateway::record::{Outcome, UsageSource};
use crate::money::Money;

/// A folder of its own, removed with this value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("wopr-journal-{}", Uuid::new_v4())))
    }

    fn open(&self) -> Journal {
        Journal::open(&self.0, Sync::Soon).unwrap()
    }

    fn segment(&self) -> PathBuf {
        let mut segments: Vec<PathBuf> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "journal"))
            .collect();
        segments.sort();
        segments.pop().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn call(number: u128) -> CallRecord {
    let at = Timestamp::constant(1_800_000_000, 0);
    CallRecord {
        id: Uuid::from_u128(number),
        tenant_id: Uuid::from_u128(1 << 80),
        bot_id: None,
        key_id: Uuid::from_u128(2 << 80),
        capability: "chat-completions".to_owned(),
        model_asked: "m".to_owned(),
        model_served: None,
        provider: None,
        machine: None,
        byok: false,
        attempts: 0,
        streamed: false,
        outcome: Outcome::Interrupted,
        input_units: 0,
        cached_units: 0,
        output_units: 0,
        usage_source: UsageSource::None,
        explanation: Explanation::default(),
        cost_nanos: Money::ZERO,
        charge_nanos: Money::from_nanos(7),
        reserved_nanos: Money::ZERO,
        started_at: at,
        first_byte_ms: None,
        ended_at: at,
    }
}

fn ended(journal: &Journal, from: u64) -> Vec<u128> {
    let (calls, _) = journal.read_ended(from, usize::MAX).unwrap();
    calls.into_iter().map(|call| call.id.as_u128()).collect()
}

#[test]
fn what_was_written_is_there_after_a_restart_and_so_is_the_holder() {
    let folder = Folder::new();
    let journal = folder.open();
    let holder = journal.holder();
    journal.append(&Line::Ended(call(1))).unwrap();
    let (_, cursor) = journal.read_ended(0, 1).unwrap();
    journal.settle(cursor).unwrap();
    journal.append(&Line::Ended(call(2))).unwrap();
    drop(journal);
    let journal = folder.open();
    assert_eq!(journal.holder(), holder);
    assert_eq!(ended(&journal, journal.cursor()), [2]);
    assert_eq!(ended(&journal, 0), [1, 2]);
}

#[test]
fn a_call_that_was_open_is_ended_as_it_was_last_known() {
    let folder = Folder::new();
    let journal = folder.open();
    let known = CallRecord { charge_nanos: Money::from_nanos(99), ..call(2) };
    for line in [
        Line::Begun(call(1)),
        Line::Begun(call(2)),
        Line::Begun(call(3)),
        Line::Progress(known.clone()),
        Line::Ended(call(1)),
    ] {
        journal.append(&line).unwrap();
    }
    drop(journal);
    let journal = folder.open();
    let (calls, _) = journal.read_ended(0, usize::MAX).unwrap();
    let mut calls: Vec<(u128, i64)> =
        calls.iter().map(|call| (call.id.as_u128(), call.charge_nanos.as_nanos())).collect();
    calls.sort_unstable();
    assert_eq!(calls, [(1, 7), (2, 99), (3, 7)]);
    drop(journal);
    assert_eq!(ended(&folder.open(), 0).len(), 3, "nothing is ended twice");
}

#[test]
fn two_processes_cannot_have_one_journal() {
    let folder = Folder::new();
    let _journal = folder.open();
    assert!(matches!(Journal::open(&folder.0, Sync::Soon), Err(JournalError::InUse(_))));
}

#[test]
fn cut_off_at_any_byte_it_has_every_whole_line_and_goes_on() {
    let folder = Folder::new();
    let journal = folder.open();
    let first = journal.append(&Line::Ended(call(1))).unwrap();
    let second = journal.append(&Line::Ended(call(2))).unwrap();
    drop(journal);
    let (path, bytes) = (folder.segment(), fs::read(folder.segment()).unwrap());
    for length in 0..=bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        let journal = folder.open();
        let whole: Vec<u128> =
            [(first, 1), (second, 2)].into_iter().filter(|(end, _)| *end <= length as u64).map(|(_, id)| id).collect();
        assert_eq!(ended(&journal, 0), whole, "cut at {length}");
        journal.append(&Line::Ended(call(3))).unwrap();
        assert_eq!(ended(&journal, 0).last(), Some(&3), "cut at {length}");
    }
}

#[test]
fn damage_that_hides_charges_is_refused() {
    let folder = Folder::new();
    let journal = folder.open();
    let first = usize::try_from(journal.append(&Line::Ended(call(1))).unwrap()).unwrap();
    journal.append(&Line::Ended(call(2))).unwrap();
    drop(journal);
    let (path, bytes) = (folder.segment(), fs::read(folder.segment()).unwrap());
    for place in 0..first {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x20;
        fs::write(&path, &damaged).unwrap();
        let refused = Journal::open(&folder.0, Sync::Soon);
        assert!(matches!(refused, Err(JournalError::Damaged { offset: 0, .. })), "byte {place}");
    }
}

#[test]
fn a_cursor_that_was_not_written_well_begins_anew() {
    let folder = Folder::new();
    let journal = folder.open();
    journal.append(&Line::Ended(call(1))).unwrap();
    journal.append(&Line::Ended(call(2))).unwrap();
    drop(journal);
    for text in ["3", "", "x", "18446744073709551615"] {
        fs::write(folder.0.join("cursor"), text).unwrap();
        let journal = folder.open();
        assert_eq!(ended(&journal, journal.cursor()), [1, 2], "{text:?}");
    }
}

#[test]
fn segments_go_when_they_are_settled_and_no_call_in_them_is_open() {
    let folder = Folder::new();
    let journal = folder.open();
    let long = CallRecord { model_asked: "m".repeat(LINE_BYTES / 2), ..call(1) };
    journal.append(&Line::Begun(call(7))).unwrap();
    for _ in 0..40 {
        journal.append(&Line::Ended(long.clone())).unwrap();
    }
    let segments = || {
        fs::read_dir(&folder.0)
            .unwrap()
            .filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "journal"))
            .count()
    };
    assert!(segments() > 2, "{}", segments());
    let (calls, end) = journal.read_ended(0, usize::MAX).unwrap();
    assert_eq!((calls.len(), end), (40, journal.position()));
    journal.settle(end).unwrap();
    let open = segments();
    assert!(open > 2, "a call is open in the first");
    journal.append(&Line::Ended(call(7))).unwrap();
    journal.settle(journal.position()).unwrap();
    assert_eq!(segments(), 1);
    drop(journal);
    let journal = folder.open();
    assert_eq!(journal.cursor(), journal.position());
    journal.append(&Line::Ended(call(8))).unwrap();
    assert_eq!(ended(&journal, journal.cursor()), [8]);
}

#[test]
fn a_line_that_is_too_long_is_refused_and_nothing_is_written() {
    let folder = Folder::new();
    let journal = folder.open();
    let before = journal.position();
    let long = CallRecord { model_asked: "m".repeat(LINE_BYTES), ..call(1) };
    assert!(matches!(journal.append(&Line::Ended(long)), Err(JournalError::Line)));
    assert_eq!(journal.position(), before);
}

#[tokio::test]
async fn a_charge_is_waited_for_until_the_disk_has_it() {
    let folder = Folder::new();
    let journal = Journal::open(&folder.0, Sync::BeforeAnswer).unwrap();
    let position = journal.append(&Line::Ended(call(1))).unwrap();
    journal.settled_on_disk(position).await.unwrap();
    assert!(journal.shared.log.durable.borrow().position >= position);
}
