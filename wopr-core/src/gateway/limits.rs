//! What may be asked how often, and for how much in a month. All of it is decided in memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::model::Capability;
use crate::money::Money;

/// Counters that were not touched for so long are forgotten.
const FORGET: Duration = Duration::from_mins(10);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many calls are let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimits {
    /// Chat, completions and embeddings: calls of a tenant in a minute.
    pub text_per_minute: u32,
    /// Pictures: calls of a tenant in a minute.
    pub image_per_minute: u32,
    /// Speech and transcription: calls of a tenant in a minute.
    pub audio_per_minute: u32,
    /// More calls of one bot in the window open its circuit.
    pub bot_burst: u32,
    /// The window for that.
    pub bot_window: Duration,
    /// How long a bot's circuit stays open.
    pub bot_pause: Duration,
}

impl Default for RateLimits {
    /// 60, 10 and 30 a minute; 100 in ten seconds, then five minutes of pause.
    fn default() -> Self {
        Self {
            text_per_minute: 60,
            image_per_minute: 10,
            audio_per_minute: 30,
            bot_burst: 100,
            bot_window: Duration::from_secs(10),
            bot_pause: Duration::from_mins(5),
        }
    }
}

impl RateLimits {
    /// The class a capability is counted in, and its limit.
    pub(super) const fn per_minute(&self, capability: Capability) -> (Class, u32) {
        match capability {
            Capability::ChatCompletions | Capability::TextCompletions | Capability::Embeddings => {
                (Class::Text, self.text_per_minute)
            }
            Capability::ImageGeneration => (Class::Image, self.image_per_minute),
            Capability::Transcription | Capability::Tts => (Class::Audio, self.audio_per_minute),
        }
    }
}

/// Capabilities that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Class {
    Text,
    Image,
    Audio,
}

/// Calls in a window that slides: the window before counts by the part of it that is still inside.
#[derive(Debug, Clone, Copy)]
struct Window {
    began: Instant,
    before: u32,
    current: u32,
    open_until: Option<Instant>,
}

impl Window {
    const fn new(at: Instant) -> Self {
        Self { began: at, before: 0, current: 0, open_until: None }
    }

    fn slide(&mut self, at: Instant, length: Duration) {
        let passed = at.duration_since(self.began);
        if passed >= 2 * length {
            *self = Self { open_until: self.open_until, ..Self::new(at) };
        } else if passed >= length {
            *self = Self { began: self.began + length, before: self.current, current: 0, ..*self };
        }
    }

    /// In thousandths of a call.
    fn level(&self, at: Instant, length: Duration) -> u64 {
        let passed = at.duration_since(self.began).min(length);
        let inside = length.saturating_sub(passed).as_micros();
        let before = u128::from(self.before) * 1_000 * inside / length.as_micros().max(1);
        u64::try_from(before).unwrap_or(u64::MAX).saturating_add(u64::from(self.current) * 1_000)
    }
}

/// A call that is not let in now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany {
    pub(super) retry_after: Duration,
}

/// Counters by key.
#[derive(Debug)]
pub(super) struct Windows<K> {
    windows: Mutex<HashMap<K, Window>>,
    length: Duration,
}

impl<K: Eq + Hash> Windows<K> {
    pub(super) fn new(length: Duration) -> Self {
        Self { windows: Mutex::default(), length }
    }

    /// Counts a call; refused calls are not counted.
    pub(super) fn take(&self, key: K, limit: u32, at: Instant) -> Result<(), TooMany> {
        let mut windows = lock(&self.windows);
        let window = windows.entry(key).or_insert(Window::new(at));
        window.slide(at, self.length);
        if window.level(at, self.length) + 1_000 > u64::from(limit) * 1_000 {
            return Err(TooMany { retry_after: (window.began + self.length).saturating_duration_since(at) });
        }
        window.current += 1;
        Ok(())
    }

    /// Counts a call, and once there are more than `limit` in the window lets none in for `pause`.
    pub(super) fn trip(&self, key: K, limit: u32, pause: Duration, at: Instant) -> Result<(), TooMany> {
        let mut windows = lock(&self.windows);
        let window = windows.entry(key).or_insert(Window::new(at));
        if let Some(until) = window.open_until {
            if at < until {
                return Err(TooMany { retry_after: until - at });
            }
            *window = Window::new(at);
        }
        window.slide(at, self.length);
        if window.level(at, self.length) + 1_000 > u64::from(limit) * 1_000 {
            window.open_until = Some(at + pause);
            return Err(TooMany { retry_after: pause });
        }
        window.current += 1;
        Ok(())
    }

    pub(super) fn forget_old(&self, at: Instant) {
        lock(&self.windows).retain(|_, window| {
            at.duration_since(window.began) < FORGET || window.open_until.is_some_and(|until| at < until)
        });
    }
}

/// What a tenant allows itself in a calendar month (UTC), of one capability or of all together, and from when on it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpendingLimit {
    /// `None` is all together.
    pub capability: Option<Capability>,
    /// It is told by mail when it has spent so much ([`Gateway::tell_spenders`](super::Gateway::tell_spenders)).
    pub alert_cents: Option<i64>,
    /// Calls are refused that could lead beyond it.
    pub hard_cap_cents: Option<i64>,
}

/// What was spent in a month.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MonthSpend {
    spent: HashMap<Capability, Money>,
}

impl MonthSpend {
    pub(super) fn new(spent: impl IntoIterator<Item = (Capability, Money)>) -> Self {
        Self { spent: spent.into_iter().collect() }
    }

    pub(super) fn add(&mut self, capability: Capability, charge: Money) {
        let sum = self.spent.entry(capability).or_default();
        *sum = Money::from_nanos(sum.as_nanos().saturating_add(charge.as_nanos()));
    }

    /// Of one capability, or of all.
    pub fn of(&self, capability: Option<Capability>) -> Money {
        let nanos = match capability {
            Some(capability) => self.spent.get(&capability).map_or(0, |spent| spent.as_nanos()),
            None => self.spent.values().map(|spent| spent.as_nanos()).fold(0, i64::saturating_add),
        };
        Money::from_nanos(nanos)
    }
}

/// The cap that a call would break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapReached {
    /// Of which capability; `None` is all together.
    pub capability: Option<Capability>,
    /// The cap.
    pub cap_cents: i64,
    /// Spent in this month.
    pub spent: Money,
}

/// Refuses a call that could lead beyond a cap. `pending` is what is reserved, or spent and not in `spent` yet.
pub(super) fn check_caps(
    limits: &[SpendingLimit],
    spent: &MonthSpend,
    pending: &MonthSpend,
    capability: Capability,
    estimate: Money,
) -> Result<(), CapReached> {
    for limit in limits.iter().filter(|limit| limit.capability.is_none_or(|limited| limited == capability)) {
        let Some(cap_cents) = limit.hard_cap_cents else { continue };
        let spent_so_far = spent.of(limit.capability);
        let total = [pending.of(limit.capability), estimate]
            .into_iter()
            .try_fold(spent_so_far, Money::try_add)
            .unwrap_or(Money::MAX);
        if Money::try_from_cents(cap_cents).is_ok_and(|cap| total > cap) {
            return Err(CapReached { capability: limit.capability, cap_cents, spent: spent_so_far });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_any_minute_and_no_more() {
        let (windows, start) = (Windows::new(Duration::from_mins(1)), Instant::now());
        for call in 0..60 {
            assert!(windows.take("t", 60, start).is_ok(), "{call}");
        }
        let refused = windows.take("t", 60, start + Duration::from_secs(59)).unwrap_err();
        assert_eq!(refused.retry_after, Duration::from_secs(1));
        assert!(windows.take("other", 60, start).is_ok());
        // Half a minute later half of the minute before still counts.
        let later = start + Duration::from_secs(90);
        let let_in = (0..60).filter(|_| windows.take("t", 60, later).is_ok()).count();
        assert_eq!(let_in, 30);
        assert!(windows.take("t", 60, start + Duration::from_mins(5)).is_ok());
    }

    #[test]
    fn one_call_too_many_opens_the_circuit_for_the_pause() {
        let (windows, start) = (Windows::new(Duration::from_secs(10)), Instant::now());
        let pause = Duration::from_mins(5);
        for call in 0..100 {
            assert!(windows.trip("bot", 100, pause, start).is_ok(), "{call}");
        }
        assert_eq!(windows.trip("bot", 100, pause, start).unwrap_err().retry_after, pause);
        let last_moment = start + Duration::from_secs(5 * 60 - 1);
        assert_eq!(windows.trip("bot", 100, pause, last_moment).unwrap_err().retry_after, Duration::from_secs(1));
        assert!(windows.trip("another", 100, pause, start).is_ok());
        assert!(windows.trip("bot", 100, pause, start + pause).is_ok());
    }

    #[test]
    fn a_cap_counts_what_is_spent_pending_and_asked() {
        let (chat, tts) = (Capability::ChatCompletions, Capability::Tts);
        let cents = Money::from_cents;
        let limits = [
            SpendingLimit { capability: None, alert_cents: Some(1), hard_cap_cents: Some(100) },
            SpendingLimit { capability: Some(tts), alert_cents: None, hard_cap_cents: Some(10) },
        ];
        let spent = MonthSpend::new([(chat, cents(60)), (tts, cents(5))]);
        let pending = MonthSpend::new([(chat, cents(25))]);
        assert_eq!(check_caps(&limits, &spent, &pending, chat, cents(10)), Ok(()));
        let reached = check_caps(&limits, &spent, &pending, chat, cents(11)).unwrap_err();
        assert_eq!((reached.capability, reached.cap_cents, reached.spent), (None, 100, cents(65)));
        assert_eq!(check_caps(&limits, &spent, &pending, tts, cents(6)).unwrap_err().capability, Some(tts));
        assert_eq!(check_caps(&[], &spent, &pending, chat, Money::MAX), Ok(()));
    }
}
