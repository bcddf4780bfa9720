//! Which snapshots are kept. Pure: no store, no clock.

use std::collections::HashSet;

use jiff::civil::ISOWeekDate;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// What is kept of one kind of snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepRules {
    /// The newest so many.
    pub daily: u32,
    /// Of the others the newest of each ISO week (UTC), for so many weeks that have one.
    pub weekly: u32,
    /// Nothing older than so many days; none is no limit.
    pub max_age_days: Option<u32>,
}

/// What the rules look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate<Id> {
    /// Which snapshot.
    pub id: Id,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// Its kind is the one that the rules are for.
    pub ruled: bool,
    /// It has a manifest.
    pub complete: bool,
}

/// Which of the snapshots the rules remove.
///
/// Of those of the rules' kind that count, the newest `daily` are kept; of the rest, the newest of each ISO week, for
/// `weekly` weeks. Of these, what is older than `max_age_days` goes all the same. A snapshot without a manifest goes
/// whatever its age, since nothing can be restored from it. The newest snapshot that counts, of any kind, always stays.
pub fn to_remove<Id: Clone + Ord + std::hash::Hash>(
    candidates: &[Candidate<Id>],
    rules: KeepRules,
    now: Timestamp,
) -> Vec<Id> {
    let mut newest_first: Vec<&Candidate<Id>> = candidates.iter().collect();
    newest_first.sort_by(|one, other| (other.taken_at, &other.id).cmp(&(one.taken_at, &one.id)));
    let last_good = newest_first.iter().find(|candidate| candidate.complete).map(|candidate| &candidate.id);

    let mut weeks = HashSet::new();
    let mut remove = Vec::new();
    let good = newest_first.iter().filter(|candidate| candidate.ruled && candidate.complete);
    for (position, candidate) in good.enumerate() {
        let daily = u32::try_from(position).is_ok_and(|position| position < rules.daily);
        let weekly = !daily && weeks.len() < rules.weekly as usize && weeks.insert(week_of(candidate.taken_at));
        let old = rules.max_age_days.is_some_and(|days| now.duration_since(candidate.taken_at) > days_long(days));
        if (!(daily || weekly) || old) && Some(&candidate.id) != last_good {
            remove.push(candidate.id.clone());
        }
    }
    remove.extend(newest_first.iter().filter(|one| one.ruled && !one.complete).map(|one| one.id.clone()));
    remove
}

fn days_long(days: u32) -> SignedDuration {
    SignedDuration::from_hours(24 * i64::from(days))
}

/// The ISO week: its year is that of its Thursday.
fn week_of(at: Timestamp) -> (i16, i8) {
    let week: ISOWeekDate = at.to_zoned(TimeZone::UTC).date().iso_week_date();
    (week.year(), week.week())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn nightly(days: &[&str]) -> Vec<Candidate<String>> {
        days.iter()
            .map(|day| Candidate {
                id: (*day).to_owned(),
                taken_at: at(&format!("{day}T03:00:00Z")),
                ruled: true,
                complete: true,
            })
            .collect()
    }

    #[test]
    fn the_newest_are_kept_and_then_one_of_each_week() {
        // 2026-01-01 is a Thursday: the week of 2025-12-29 belongs to 2026.
        let found = nightly(&[
            "2026-01-14",
            "2026-01-13",
            "2026-01-04",
            "2026-01-01",
            "2025-12-29",
            "2025-12-28",
            "2025-12-20",
        ]);
        let rules = KeepRules { daily: 2, weekly: 2, max_age_days: None };
        let removed = to_remove(&found, rules, at("2026-01-14T12:00:00Z"));
        assert_eq!(removed, ["2026-01-01", "2025-12-29", "2025-12-20"]);
    }

    #[test]
    fn age_goes_before_number_but_not_before_the_last_good_one() {
        let mut found = nightly(&["2026-01-03", "2026-01-02"]);
        let rules = KeepRules { daily: 7, weekly: 4, max_age_days: Some(7) };
        assert_eq!(to_remove(&found, rules, at("2026-01-09T12:00:00Z")), ["2026-01-02"]);
        assert_eq!(to_remove(&found, rules, at("2027-01-09T12:00:00Z")), ["2026-01-02"]);
        found[0].complete = false;
        assert_eq!(to_remove(&found, rules, at("2027-01-09T12:00:00Z")), ["2026-01-03"]);
        found[0] = Candidate { complete: true, ruled: false, ..found[0].clone() };
        assert_eq!(to_remove(&found, rules, at("2027-01-09T12:00:00Z")), ["2026-01-02"]);
    }

    prop_compose! {
        fn candidates()(
            drawn in prop::collection::vec((0_i64..400 * 24, any::<bool>(), prop::bool::weighted(0.9)), 0..60),
        ) -> Vec<Candidate<usize>> {
            drawn
                .into_iter()
                .enumerate()
                .map(|(id, (hours, ruled, complete))| Candidate {
                    id,
                    taken_at: at("2026-01-01T00:00:00Z") + SignedDuration::from_hours(hours),
                    ruled,
                    complete,
                })
                .collect()
        }
    }

    proptest! {
        #[test]
        fn what_the_rules_promise(found in candidates(), daily in 0_u32..10, weekly in 0_u32..6, age in prop::option::of(0_u32..300)) {
            let now = at("2026-01-01T00:00:00Z") + SignedDuration::from_hours(400 * 24);
            let rules = KeepRules { daily, weekly, max_age_days: age };
            let removed: HashSet<usize> = to_remove(&found, rules, now).into_iter().collect();
            let newest = found.iter().filter(|one| one.complete).max_by_key(|one| (one.taken_at, one.id));
            let good: Vec<_> = found.iter().filter(|one| one.ruled && one.complete).collect();
            let old = |one: &Candidate<usize>| age.is_some_and(|days| now.duration_since(one.taken_at) > days_long(days));
            for one in &found {
                let is_newest = newest.is_some_and(|newest| newest.id == one.id);
                if is_newest || !one.ruled {
                    prop_assert!(!removed.contains(&one.id));
                } else if !one.complete || old(one) {
                    prop_assert!(removed.contains(&one.id));
                }
            }
            // Without an age limit: exactly `daily` and one for each of the first `weekly` weeks that are left.
            if age.is_none() && newest.is_none_or(|newest| newest.ruled) {
                let kept: Vec<_> = good.iter().filter(|one| !removed.contains(&one.id)).collect();
                let mut sorted = good.clone();
                sorted.sort_by_key(|one| std::cmp::Reverse((one.taken_at, one.id)));
                let rest: HashSet<_> = sorted.iter().skip(daily as usize).map(|one| week_of(one.taken_at)).collect();
                let expected = good.len().min(daily as usize) + rest.len().min(weekly as usize);
                let spared = usize::from(daily == 0 && weekly == 0 && !good.is_empty());
                prop_assert_eq!(kept.len(), expected + spared);
            }
            // Doing it twice does nothing more.
            let left: Vec<_> = found.iter().filter(|one| !removed.contains(&one.id)).cloned().collect();
            prop_assert_eq!(to_remove(&left, rules, now), Vec::<usize>::new());
        }
    }
}
