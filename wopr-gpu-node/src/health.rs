//! How a service is: a pure function of how it was, what was just seen of it, and the time.
//!
//! A health check alone makes nothing ready: only a tiny real request whose answer is right does, and only another one
//! brings a wedged service back. Times are read from a clock that only runs forward, so the machine's date may jump.

use std::time::Duration;

use wopr_core::protocol::gpu::{GpuService, ServiceReport, ServiceState};

/// Failed looks in a row until a service that worked counts as wedged: one may be lost.
const MISSES_MAX: u32 = 2;

/// What the health check said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The service's name has no address: there is no such container.
    NoName,
    /// Nobody listens.
    Refused,
    /// No answer in time, or none that is HTTP.
    Silent,
    /// The model is being loaded.
    Loading,
    /// An answer with this status, which is no good one.
    Unwell(u16),
    /// A good answer.
    Well(Load),
}

/// Whether a request would have to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// A slot is free.
    Free,
    /// All slots are in use.
    Full,
}

/// What became of a tiny real request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// The right answer, after this long.
    Right(Duration),
    /// An answer that is not right, and why.
    Wrong(String),
    /// No answer within this long.
    Late(Duration),
    /// The service said that it has no slot free.
    TurnedAway,
}

/// What was seen at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The latest health check.
    pub answer: Answer,
    /// A tiny request that has just ended.
    pub proof: Option<Proof>,
    /// Whether the service is sending an answer to somebody right now.
    pub flowing: bool,
    /// What it says it stands in for, if it says that it is a stand-in.
    pub stand_in: bool,
    /// How long the health check took.
    pub latency: Duration,
}

/// What is known of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// How it is.
    pub state: ServiceState,
    /// Since when.
    pub since: Duration,
    /// When it last answered a tiny request well.
    pub last_success: Option<Duration>,
    /// How long the last probe took.
    pub latency: Option<Duration>,
    /// What is wrong.
    pub detail: Option<String>,
    /// Whether it is a stand-in.
    pub stand_in: bool,
    /// Failed looks in a row.
    pub misses: u32,
    /// Whether it has answered a tiny request well since it was last started.
    pub proven: bool,
}

impl Condition {
    /// A service that this node does not run.
    pub fn absent() -> Self {
        Self {
            state: ServiceState::Absent,
            since: Duration::ZERO,
            last_success: None,
            latency: None,
            detail: Some("this node does not run it".to_owned()),
            stand_in: false,
            misses: 0,
            proven: false,
        }
    }

    /// A service that was not looked at yet.
    pub fn unseen(now: Duration) -> Self {
        Self {
            state: ServiceState::Starting,
            since: now,
            detail: Some("not looked at yet".to_owned()),
            ..Self::absent()
        }
    }

    /// As it is told to the platform at `now`.
    pub fn report(&self, service: GpuService, now: Duration) -> ServiceReport {
        ServiceReport {
            service,
            state: self.state,
            last_success_age_s: self.last_success.map(|at| now.saturating_sub(at).as_secs()),
            latency_ms: self.latency.map(|latency| u32::try_from(latency.as_millis()).unwrap_or(u32::MAX)),
            detail: self.detail.clone(),
            stand_in: self.stand_in,
        }
    }

    /// What is known after `seen` at `now`; a full service may prove nothing for `busy_patience`.
    #[must_use]
    pub fn next(&self, seen: &Observation, now: Duration, busy_patience: Duration) -> Self {
        let (state, detail) = self.judge(seen, now, busy_patience);
        let answered = matches!(seen.answer, Answer::Well(_) | Answer::Loading | Answer::Unwell(_));
        let missed = matches!(seen.answer, Answer::Silent | Answer::Unwell(_));
        let right = match seen.proof {
            Some(Proof::Right(took)) => Some(took),
            _ => None,
        };
        Self {
            state,
            since: if state == self.state { self.since } else { now },
            last_success: if right.is_some() { Some(now) } else { self.last_success },
            latency: right.or(answered.then_some(seen.latency)).or(self.latency),
            detail,
            stand_in: if answered { seen.stand_in } else { self.stand_in },
            misses: if missed { self.misses.saturating_add(1) } else { 0 },
            proven: right.is_some() && matches!(seen.answer, Answer::Well(_))
                || self.proven && !matches!(state, ServiceState::Absent | ServiceState::Dead | ServiceState::Loading),
        }
    }

    /// Whether it has ever worked.
    fn lived(&self) -> bool {
        self.last_success.is_some()
    }

    fn judge(&self, seen: &Observation, now: Duration, patience: Duration) -> (ServiceState, Option<String>) {
        let said = |text: &str| Some(text.to_owned());
        match &seen.answer {
            Answer::NoName if self.lived() => (ServiceState::Dead, said("its name has no address any more")),
            Answer::NoName => (ServiceState::Absent, said("its name has no address")),
            Answer::Refused if self.lived() => (ServiceState::Dead, said("nobody listens")),
            Answer::Refused => (ServiceState::Starting, said("nobody listens yet")),
            Answer::Loading => (ServiceState::Loading, said("its model is being loaded")),
            Answer::Silent => self.missed(seen, "its health check is not answered".to_owned()),
            Answer::Unwell(status) => self.missed(seen, format!("its health check answers {status}")),
            Answer::Well(load) => match &seen.proof {
                Some(Proof::Right(_)) => (working(*load), None),
                Some(Proof::Wrong(why)) => (ServiceState::Wedged, said(why)),
                Some(Proof::Late(_) | Proof::TurnedAway) if self.may_be_full(seen, *load, now, patience) => {
                    (ServiceState::Busy, said("all its slots are in use"))
                }
                Some(Proof::Late(after)) => {
                    let text = format!("a tiny request was not answered within {} ms", after.as_millis());
                    (ServiceState::Wedged, Some(text))
                }
                Some(Proof::TurnedAway) => (ServiceState::Wedged, said("a tiny request was turned away")),
                None if self.state.answers() && (self.proven || *load == Load::Full) => (working(*load), None),
                None if self.state == ServiceState::Wedged => (ServiceState::Wedged, self.detail.clone()),
                None => (ServiceState::Starting, said("it has not answered a tiny request yet")),
            },
        }
    }

    /// A look that failed at a service that still takes connections.
    fn missed(&self, seen: &Observation, why: String) -> (ServiceState, Option<String>) {
        match self.state {
            ServiceState::Ready | ServiceState::Busy if seen.flowing => (ServiceState::Busy, Some(why)),
            ServiceState::Ready | ServiceState::Busy if self.misses.saturating_add(1) < MISSES_MAX => {
                (self.state, Some(why))
            }
            ServiceState::Absent | ServiceState::Starting | ServiceState::Loading if !self.lived() => {
                (ServiceState::Starting, Some(why))
            }
            _ => (ServiceState::Wedged, Some(why)),
        }
    }

    /// Whether a request that was not answered is explained by others being answered.
    fn may_be_full(&self, seen: &Observation, load: Load, now: Duration, patience: Duration) -> bool {
        let full = load == Load::Full || matches!(seen.proof, Some(Proof::TurnedAway));
        let busy_since = if self.state == ServiceState::Busy { self.since } else { now };
        let proven_at = self.last_success.filter(|_| self.proven).unwrap_or(busy_since);
        let lately = now.saturating_sub(proven_at) <= patience;
        self.state != ServiceState::Wedged && (seen.flowing || full && lately)
    }
}

const fn working(load: Load) -> ServiceState {
    match load {
        Load::Free => ServiceState::Ready,
        Load::Full => ServiceState::Busy,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use ServiceState::{Absent, Busy, Dead, Loading, Ready, Starting, Wedged};

    const PATIENCE: Duration = Duration::from_mins(5);

    fn at(state: ServiceState, last_success: Option<u64>) -> Condition {
        Condition {
            state,
            since: Duration::from_secs(90),
            last_success: last_success.map(Duration::from_secs),
            proven: last_success.is_some() && state != Dead,
            ..Condition::absent()
        }
    }

    fn see(answer: Answer, proof: Option<Proof>) -> Observation {
        Observation { answer, proof, flowing: false, stand_in: false, latency: Duration::from_millis(3) }
    }

    fn right() -> Proof {
        Proof::Right(Duration::from_millis(40))
    }

    fn late() -> Proof {
        Proof::Late(Duration::from_secs(30))
    }

    fn wrong() -> Proof {
        Proof::Wrong("an empty answer".to_owned())
    }

    #[test]
    fn each_state_follows_from_what_was_and_what_is_seen() {
        let (free, full) = (Answer::Well(Load::Free), Answer::Well(Load::Full));
        let table = [
            // Before it ever worked.
            (Starting, None, see(Answer::NoName, None), Absent),
            (Absent, None, see(Answer::Refused, None), Starting),
            (Starting, None, see(Answer::Silent, None), Starting),
            (Starting, None, see(Answer::Unwell(500), None), Starting),
            (Starting, None, see(Answer::Loading, None), Loading),
            (Loading, None, see(free.clone(), None), Starting),
            (Starting, None, see(free.clone(), Some(right())), Ready),
            (Starting, None, see(full.clone(), Some(right())), Busy),
            (Starting, None, see(free.clone(), Some(wrong())), Wedged),
            (Starting, None, see(free.clone(), Some(late())), Wedged),
            (Starting, None, see(full.clone(), Some(late())), Busy),
            // While it works.
            (Ready, Some(80), see(free.clone(), None), Ready),
            (Ready, Some(80), see(full.clone(), None), Busy),
            (Busy, Some(80), see(free.clone(), None), Ready),
            (Ready, Some(80), see(free.clone(), Some(late())), Wedged),
            (Ready, Some(80), see(free.clone(), Some(wrong())), Wedged),
            (Busy, Some(80), see(full.clone(), Some(late())), Busy),
            (Busy, Some(80), see(full.clone(), Some(Proof::TurnedAway)), Busy),
            (Ready, Some(80), see(free.clone(), Some(Proof::TurnedAway)), Busy),
            (Ready, Some(80), see(Answer::Silent, None), Ready),
            // When it stops.
            (Ready, Some(80), see(Answer::Refused, None), Dead),
            (Busy, Some(80), see(Answer::NoName, None), Dead),
            (Wedged, Some(80), see(Answer::Refused, None), Dead),
            (Dead, Some(80), see(Answer::Loading, None), Loading),
            (Dead, Some(80), see(free.clone(), None), Starting),
            (Dead, Some(80), see(free.clone(), Some(right())), Ready),
            // Wedged until it proves otherwise.
            (Wedged, Some(80), see(free.clone(), None), Wedged),
            (Wedged, None, see(full.clone(), None), Wedged),
            (Wedged, Some(80), see(Answer::Silent, None), Wedged),
            (Wedged, Some(80), see(full.clone(), Some(late())), Wedged),
            (Wedged, Some(80), see(free.clone(), Some(right())), Ready),
            // Full from the start: nothing was proven, so a free slot alone makes nothing ready.
            (Busy, None, see(full, None), Busy),
            (Busy, None, see(free, None), Starting),
        ];
        for (was, last_success, seen, expected) in table {
            let next = at(was, last_success).next(&seen, Duration::from_secs(100), PATIENCE);
            assert_eq!(next.state, expected, "{was} {seen:?}");
            assert!(next.state.answers() || next.detail.is_some(), "{was} {seen:?}: no reason");
            let since = if was == expected { 90 } else { 100 };
            assert_eq!(next.since, Duration::from_secs(since), "{was} {seen:?}");
        }
    }

    #[test]
    fn one_lost_look_is_forgiven_and_two_are_not() {
        let silent = see(Answer::Silent, None);
        let once = at(Ready, Some(80)).next(&silent, Duration::from_secs(100), PATIENCE);
        let twice = once.next(&silent, Duration::from_secs(105), PATIENCE);
        assert_eq!((once.state, twice.state), (Ready, Wedged));
        let flowing = Observation { flowing: true, ..silent };
        assert_eq!(once.next(&flowing, Duration::from_secs(105), PATIENCE).state, Busy);
        let well = once.next(&see(Answer::Well(Load::Free), None), Duration::from_secs(105), PATIENCE);
        assert_eq!((well.state, well.misses), (Ready, 0));
    }

    #[test]
    fn being_full_explains_silence_only_so_long() {
        let full = see(Answer::Well(Load::Full), Some(late()));
        let busy = at(Busy, Some(80));
        assert_eq!(busy.next(&full, Duration::from_secs(380), PATIENCE).state, Busy);
        assert_eq!(busy.next(&full, Duration::from_secs(381), PATIENCE).state, Wedged);
        let flowing = Observation { flowing: true, ..full.clone() };
        assert_eq!(busy.next(&flowing, Duration::from_mins(150), PATIENCE).state, Busy);
        // Never proven: counted from when it was first seen full.
        let unproven = at(Busy, None);
        assert_eq!(unproven.next(&full, Duration::from_secs(390), PATIENCE).state, Busy);
        assert_eq!(unproven.next(&full, Duration::from_secs(391), PATIENCE).state, Wedged);
    }

    #[test]
    fn the_report_says_how_old_the_last_success_is() {
        let ready =
            at(Starting, None).next(&see(Answer::Well(Load::Free), Some(right())), Duration::from_secs(100), PATIENCE);
        let report = ready.report(GpuService::Llama, Duration::from_secs(107));
        assert_eq!((report.last_success_age_s, report.latency_ms, report.stand_in), (Some(7), Some(40), false));
        // A clock that was set back is no reason to fail.
        assert_eq!(ready.report(GpuService::Llama, Duration::ZERO).last_success_age_s, Some(0));
    }

    fn answers() -> impl Strategy<Value = Answer> {
        prop_oneof![
            Just(Answer::NoName),
            Just(Answer::Refused),
            Just(Answer::Silent),
            Just(Answer::Loading),
            (400_u16..600).prop_map(Answer::Unwell),
            Just(Answer::Well(Load::Free)),
            Just(Answer::Well(Load::Full)),
        ]
    }

    fn proofs() -> impl Strategy<Value = Option<Proof>> {
        prop_oneof![
            Just(None),
            Just(Some(right())),
            Just(Some(wrong())),
            Just(Some(late())),
            Just(Some(Proof::TurnedAway))
        ]
    }

    fn observations() -> impl Strategy<Value = Observation> {
        let parts = (answers(), proofs(), any::<bool>(), any::<bool>());
        parts.prop_map(|(answer, proof, flowing, stand_in)| Observation {
            answer,
            proof,
            flowing,
            stand_in,
            latency: Duration::from_millis(1),
        })
    }

    proptest! {
        #[test]
        fn no_history_claims_more_than_was_seen(
            history in prop::collection::vec((observations(), 0_u64..100_000), 1..60),
        ) {
            let mut known = Condition::unseen(Duration::ZERO);
            for (seen, now) in history {
                let now = Duration::from_secs(now); // in any order: also backwards
                let next = known.next(&seen, now, PATIENCE);
                let right = matches!(seen.proof, Some(Proof::Right(_)));
                let well = matches!(seen.answer, Answer::Well(_));
                prop_assert!(next.state != Ready || next.proven, "ready without a proof");
                prop_assert!(known.state != Wedged || !next.state.answers() || well && right, "unwedged by itself");
                prop_assert!(!matches!(seen.answer, Answer::Refused | Answer::NoName | Answer::Loading)
                    || !next.state.answers(), "answers while {:?}", seen.answer);
                prop_assert!(next.state != Dead || next.last_success.is_some(), "dead, and never lived");
                prop_assert!(right == (next.last_success != known.last_success) || next.last_success == Some(now));
                prop_assert!(next.state == known.state || next.since == now);
                prop_assert!(next.state.answers() || next.detail.is_some(), "no reason");
                known = next;
            }
        }
    }
}
