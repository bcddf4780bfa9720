//! What is kept, and for how long.

use std::collections::BTreeSet;

use jiff::civil::ISOWeekDate;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::model::SnapshotKind;
use crate::ids::{DatabaseSetId, SnapshotId};

/// How much is kept for a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    /// Three nights, a week at most.
    Free,
    /// Seven nights and four weeks.
    Starter,
    /// As long, and more on demand.
    Pro,
    /// As long, and up to a year on demand.
    Enterprise,
}

impl Tier {
    /// Every tier.
    pub const ALL: [Self; 4] = [Self::Free, Self::Starter, Self::Pro, Self::Enterprise];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Starter => "starter",
            Self::Pro => "pro",
            Self::Enterprise => "enterprise",
        }
    }

    /// The tier of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == word)
    }

    /// How many nights are kept.
    pub const fn nights(self) -> usize {
        match self {
            Self::Free => 3,
            Self::Starter | Self::Pro | Self::Enterprise => 7,
        }
    }

    /// Of how many weeks before that the last night is kept.
    pub const fn weeks(self) -> usize {
        match self {
            Self::Free => 0,
            Self::Starter | Self::Pro | Self::Enterprise => 4,
        }
    }

    /// How many snapshots made on demand there may be; `None` is as many as wanted.
    pub const fn on_demand(self) -> Option<u32> {
        match self {
            Self::Free => Some(1),
            Self::Starter => Some(5),
            Self::Pro => Some(20),
            Self::Enterprise => None,
        }
    }

    /// For how many days anything is kept.
    pub const fn days(self) -> i64 {
        match self {
            Self::Free => 7,
            Self::Starter => 30,
            Self::Pro => 90,
            Self::Enterprise => 365,
        }
    }

    /// When a snapshot made on demand goes.
    pub fn expiry(self, made_at: Timestamp) -> Timestamp {
        made_at.checked_add(days(self.days())).unwrap_or(Timestamp::MAX)
    }
}

/// For how many days what was there before a restore is kept.
pub const PRE_RESTORE_DAYS: i64 = 30;

fn days(count: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * count)
}

/// A snapshot, as far as its age matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aged {
    /// Its id.
    pub id: SnapshotId,
    /// Why it was made.
    pub kind: SnapshotKind,
    /// When.
    pub at: Timestamp,
    /// When it goes, if that was said when it was made.
    pub expires_at: Option<Timestamp>,
}

/// Which of a bot's complete snapshots stay.
///
/// Of nightly ones the newest of each of the last nights, then the newest of each ISO week before; of hot ones the newest;
/// those made on demand until they expire; those from before a restore or an update for [`PRE_RESTORE_DAYS`]. Nothing is older than the
/// tier allows, but for the newest of all: that always stays.
pub fn keep(tier: Tier, snapshots: &[Aged], now: Timestamp) -> BTreeSet<SnapshotId> {
    let mut newest_first = snapshots.to_vec();
    newest_first.sort_by_key(|snapshot| std::cmp::Reverse((snapshot.at, snapshot.id)));
    let young = |snapshot: &Aged, limit: i64| now.duration_since(snapshot.at) <= days(limit);
    let mut kept: BTreeSet<SnapshotId> = newest_first.first().map(|newest| newest.id).into_iter().collect();
    let of = |kind: SnapshotKind| newest_first.iter().filter(move |snapshot| snapshot.kind == kind);

    let nightly = of(SnapshotKind::Nightly).filter(|snapshot| young(snapshot, tier.days()));
    kept.extend(nights_and_weeks(nightly.map(|one| (one.id, one.at)), tier.nights(), tier.weeks()));
    kept.extend(of(SnapshotKind::Hot).take(1).filter(|snapshot| young(snapshot, tier.days())).map(|one| one.id));
    let expires = |snapshot: &Aged| snapshot.expires_at.unwrap_or_else(|| tier.expiry(snapshot.at));
    kept.extend(of(SnapshotKind::OnDemand).filter(|snapshot| now < expires(snapshot)).map(|one| one.id));
    let before = of(SnapshotKind::PreRestore).chain(of(SnapshotKind::PreUpdate));
    kept.extend(before.filter(|one| young(one, PRE_RESTORE_DAYS)).map(|one| one.id));
    kept
}

/// Of how many nights the database's set is kept, and of how many weeks before that the last night's.
pub const SET_NIGHTS: usize = 30;
/// As [`SET_NIGHTS`].
pub const SET_WEEKS: usize = 12;
/// For how many days a set that somebody wanted is kept.
pub const SET_ON_DEMAND_DAYS: i64 = 30;

/// Which of the database's complete sets stay: of nightly ones the newest of each of the last nights, then the newest of
/// each ISO week before; others for [`SET_ON_DEMAND_DAYS`]; and the newest of all, always.
pub fn keep_sets(sets: &[(DatabaseSetId, SnapshotKind, Timestamp)], now: Timestamp) -> BTreeSet<DatabaseSetId> {
    let mut newest_first = sets.to_vec();
    newest_first.sort_by_key(|(id, _, at)| std::cmp::Reverse((*at, *id)));
    let mut kept: BTreeSet<DatabaseSetId> = newest_first.first().map(|newest| newest.0).into_iter().collect();
    let (nightly, others): (Vec<_>, Vec<_>) =
        newest_first.into_iter().partition(|(_, kind, _)| *kind == SnapshotKind::Nightly);
    kept.extend(nights_and_weeks(nightly.into_iter().map(|(id, _, at)| (id, at)), SET_NIGHTS, SET_WEEKS));
    let young = others.into_iter().filter(|(_, _, at)| now.duration_since(*at) <= days(SET_ON_DEMAND_DAYS));
    kept.extend(young.map(|(id, _, _)| id));
    kept
}

/// The newest of each of so many nights, then the newest of each of so many weeks; they come the newest first.
fn nights_and_weeks<I>(newest_first: impl Iterator<Item = (I, Timestamp)>, nights: usize, weeks: usize) -> Vec<I> {
    let (mut seen_nights, mut seen_weeks) = (BTreeSet::new(), BTreeSet::new());
    let mut kept = Vec::new();
    for (id, at) in newest_first {
        let date = at.to_zoned(TimeZone::UTC).date();
        if seen_nights.contains(&date) {
            continue;
        }
        if seen_nights.len() < nights {
            seen_nights.insert(date);
            kept.push(id);
        } else if seen_weeks.len() < weeks && seen_weeks.insert(week(date.iso_week_date())) {
            kept.push(id);
        }
    }
    kept
}

fn week(date: ISOWeekDate) -> (i16, i8) {
    (date.year(), date.week())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn snapshot(kind: SnapshotKind, made_at: &str) -> Aged {
        let made_at = at(made_at);
        Aged { id: SnapshotId::new(made_at), kind, at: made_at, expires_at: None }
    }

    /// One each night at three, the newest on 2026-11-21, for so many nights.
    fn nights(count: i64) -> Vec<Aged> {
        let newest = at("2026-11-21T03:00:00Z");
        let made = |ago: i64| newest.checked_sub(days(ago)).unwrap();
        (0..count)
            .map(|ago| Aged {
                id: SnapshotId::new(made(ago)),
                kind: SnapshotKind::Nightly,
                at: made(ago),
                expires_at: None,
            })
            .collect()
    }

    fn dates(tier: Tier, snapshots: &[Aged], now: &str) -> Vec<String> {
        let kept = keep(tier, snapshots, at(now));
        let date = |snapshot: &Aged| snapshot.at.to_zoned(TimeZone::UTC).date().to_string();
        snapshots.iter().filter(|snapshot| kept.contains(&snapshot.id)).map(date).collect()
    }

    #[test]
    fn a_tier_keeps_so_many_nights_and_weeks() {
        let now = "2026-11-21T12:00:00Z";
        assert_eq!(dates(Tier::Free, &nights(60), now), ["2026-11-21", "2026-11-20", "2026-11-19"]);
        let week = ["2026-11-21", "2026-11-20", "2026-11-19", "2026-11-18", "2026-11-17", "2026-11-16", "2026-11-15"];
        // The Saturday is in the week of the Sunday that is among the nights; then three Sundays, and 30 days are over.
        let weeks = ["2026-11-14", "2026-11-08", "2026-11-01", "2026-10-25"];
        let expected: Vec<_> = week.into_iter().chain(weeks).collect();
        assert_eq!(dates(Tier::Starter, &nights(60), now), expected);
        assert_eq!(dates(Tier::Enterprise, &nights(400), now), expected);
    }

    #[test]
    fn the_year_of_a_week_is_that_of_its_thursday() {
        // 2026-12-31 is a Thursday, so 2027-01-03, a Sunday, is in the same week.
        let all = ["2027-01-20T03:00:00Z", "2027-01-03T03:00:00Z", "2026-12-31T03:00:00Z", "2026-12-27T03:00:00Z"];
        let mut snapshots: Vec<_> = all.iter().map(|made| snapshot(SnapshotKind::Nightly, made)).collect();
        let recent = (14..20).map(|day| snapshot(SnapshotKind::Nightly, &format!("2027-01-{day}T03:00:00Z")));
        snapshots.extend(recent);
        let kept = keep(Tier::Pro, &snapshots, at("2027-01-20T12:00:00Z"));
        let kept: Vec<_> = snapshots[1..4].iter().map(|snapshot| kept.contains(&snapshot.id)).collect();
        assert_eq!(kept, [true, false, true]);
    }

    #[test]
    fn two_in_one_night_count_once() {
        let mut snapshots = nights(3);
        snapshots.push(snapshot(SnapshotKind::Nightly, "2026-11-21T02:00:00Z"));
        let kept = keep(Tier::Free, &snapshots, at("2026-11-21T12:00:00Z"));
        assert_eq!(kept, snapshots[..3].iter().map(|snapshot| snapshot.id).collect());
    }

    #[test]
    fn each_kind_has_its_own_time() {
        use SnapshotKind::{Hot, Nightly, OnDemand, PreRestore, PreUpdate};
        let table = [
            (Nightly, "2026-11-20T03:00:00Z", true),
            (Hot, "2026-11-21T00:00:00Z", true),
            (Hot, "2026-11-20T18:00:00Z", false),
            (OnDemand, "2026-11-14T12:00:01Z", true),
            (OnDemand, "2026-11-14T12:00:00Z", false),
            (PreRestore, "2026-10-22T12:00:00Z", true),
            (PreRestore, "2026-10-22T11:59:59Z", false),
            (PreUpdate, "2026-10-22T12:00:00Z", true),
            (PreUpdate, "2026-10-22T11:59:59Z", false),
        ];
        let snapshots: Vec<_> = table.iter().map(|(kind, made, _)| snapshot(*kind, made)).collect();
        let kept = keep(Tier::Free, &snapshots, at("2026-11-21T12:00:00Z"));
        for (snapshot, (kind, made, stays)) in snapshots.iter().zip(table) {
            assert_eq!(kept.contains(&snapshot.id), stays, "{kind} of {made}");
        }
        let expiring = Aged { expires_at: Some(at("2026-12-01T00:00:00Z")), ..snapshots[4] };
        let newer = snapshot(Nightly, "2026-11-21T03:00:00Z");
        assert!(keep(Tier::Free, &[newer, expiring], at("2026-11-21T12:00:00Z")).contains(&expiring.id));
        assert!(!keep(Tier::Free, &[newer, expiring], at("2026-12-01T00:00:00Z")).contains(&expiring.id));
    }

    #[test]
    fn the_database_keeps_thirty_nights_and_twelve_weeks() {
        use SnapshotKind::{Nightly, OnDemand};
        let newest = at("2026-11-22T03:00:00Z"); // a Sunday
        let set = |kind, ago: i64, hours: i64| {
            let made_at =
                newest.checked_sub(days(ago)).unwrap().checked_add(SignedDuration::from_hours(hours)).unwrap();
            (DatabaseSetId::new(made_at), kind, made_at)
        };
        let nightly: Vec<_> = (0..200).map(|ago| set(Nightly, ago, 0)).collect();
        let now = at("2026-11-22T12:00:00Z");
        let ages = |sets: &[(DatabaseSetId, SnapshotKind, Timestamp)], now| {
            let kept = keep_sets(sets, now);
            (0_i64..).zip(sets).filter(|(_, set)| kept.contains(&set.0)).map(|(ago, _)| ago).collect::<Vec<_>>()
        };
        // After thirty nights the newest left is of a Friday; then each Sunday's.
        let weeks = std::iter::once(30).chain((0..11).map(|week| 35 + 7 * week));
        assert_eq!(ages(&nightly, now), (0..30).chain(weeks).collect::<Vec<_>>());
        let wanted = [set(OnDemand, 0, 1), set(OnDemand, 29, 10), set(OnDemand, 30, 8)];
        assert_eq!(ages(&wanted, now), [0, 1]);
        let much_later = at("2027-11-22T12:00:00Z");
        assert_eq!(ages(&wanted, much_later), [0], "the newest stays");
    }

    fn any_snapshots() -> impl Strategy<Value = Vec<Aged>> {
        let kind = prop::sample::select(vec![
            SnapshotKind::Nightly,
            SnapshotKind::Hot,
            SnapshotKind::OnDemand,
            SnapshotKind::PreRestore,
            SnapshotKind::PreUpdate,
        ]);
        prop::collection::vec((kind, 0_i64..50_000), 1..80).prop_map(|all| {
            let newest = at("2026-11-21T03:00:00Z");
            let made = |(kind, minutes)| {
                let made_at = newest.checked_sub(SignedDuration::from_mins(minutes * 12)).unwrap();
                Aged { id: SnapshotId::new(made_at), kind, at: made_at, expires_at: None }
            };
            all.into_iter().map(made).collect()
        })
    }

    proptest! {
        #[test]
        fn the_newest_always_stays_and_nothing_else_outlives_its_time(
            snapshots in any_snapshots(), tier in prop::sample::select(Tier::ALL.to_vec()), later in 0_i64..1_000,
        ) {
            let now = at("2026-11-21T03:00:00Z").checked_add(days(later)).unwrap();
            let kept = keep(tier, &snapshots, now);
            let newest = snapshots.iter().max_by_key(|snapshot| (snapshot.at, snapshot.id)).unwrap();
            prop_assert!(kept.contains(&newest.id));
            for snapshot in snapshots.iter().filter(|snapshot| kept.contains(&snapshot.id) && snapshot.id != newest.id) {
                let is_before = matches!(snapshot.kind, SnapshotKind::PreRestore | SnapshotKind::PreUpdate);
                let limit = if is_before { PRE_RESTORE_DAYS } else { tier.days() };
                prop_assert!(now.duration_since(snapshot.at) <= days(limit));
            }
        }

        #[test]
        fn doing_it_twice_changes_nothing(
            snapshots in any_snapshots(), tier in prop::sample::select(Tier::ALL.to_vec()),
        ) {
            let now = at("2026-11-21T12:00:00Z");
            let kept = keep(tier, &snapshots, now);
            let left: Vec<_> = snapshots.into_iter().filter(|snapshot| kept.contains(&snapshot.id)).collect();
            prop_assert_eq!(keep(tier, &left, now), kept);
        }
    }
}
