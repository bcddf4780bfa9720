//! Money in integer nano-dollars, with the few operations that cannot lose any.

use std::fmt;

/// Nano-dollars in one US dollar.
pub const NANOS_PER_USD: i64 = 1_000_000_000;
/// Nano-dollars in one US cent.
pub const NANOS_PER_CENT: i64 = 10_000_000;

/// An amount of US dollars in nano-dollars: ±9.2 billion dollars, exactly.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Money(i64);

/// An operation whose result does not fit into [`Money`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an amount of money is out of range")]
pub struct MoneyOverflow;

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest amount that can be written.
    pub const MAX: Self = Self(i64::MAX);

    /// From nano-dollars.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// In nano-dollars.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// From whole cents.
    ///
    /// # Errors
    /// [`MoneyOverflow`] beyond ±9.2 billion dollars.
    pub fn try_from_cents(cents: i64) -> Result<Self, MoneyOverflow> {
        cents.checked_mul(NANOS_PER_CENT).map(Self).ok_or(MoneyOverflow)
    }

    /// From a constant number of cents.
    ///
    /// # Panics
    /// At compile time, when used for a constant that does not fit.
    pub const fn from_cents(cents: i32) -> Self {
        Self(cents as i64 * NANOS_PER_CENT)
    }

    /// Whole cents, half a cent away from zero: for display and API answers.
    pub const fn as_cents_rounded(self) -> i64 {
        let (whole, rest) = (self.0 / NANOS_PER_CENT, self.0 % NANOS_PER_CENT);
        if rest >= NANOS_PER_CENT / 2 {
            whole + 1
        } else if rest <= -NANOS_PER_CENT / 2 {
            whole - 1
        } else {
            whole
        }
    }

    /// Whole cents towards minus infinity: for amounts asked of a payment processor.
    pub const fn as_cents_floor(self) -> i64 {
        self.0.div_euclid(NANOS_PER_CENT)
    }

    /// The sum.
    ///
    /// # Errors
    /// [`MoneyOverflow`] when it does not fit.
    pub fn try_add(self, other: Self) -> Result<Self, MoneyOverflow> {
        self.0.checked_add(other.0).map(Self).ok_or(MoneyOverflow)
    }

    /// The difference.
    ///
    /// # Errors
    /// [`MoneyOverflow`] when it does not fit.
    pub fn try_sub(self, other: Self) -> Result<Self, MoneyOverflow> {
        self.0.checked_sub(other.0).map(Self).ok_or(MoneyOverflow)
    }

    /// `self × numerator ÷ denominator`, half a nano-dollar away from zero.
    ///
    /// # Errors
    /// [`MoneyOverflow`] when the result does not fit or `denominator` is zero.
    pub fn try_scale(self, numerator: i64, denominator: i64) -> Result<Self, MoneyOverflow> {
        if denominator == 0 {
            return Err(MoneyOverflow);
        }
        let product = i128::from(self.0) * i128::from(numerator);
        let denominator = i128::from(denominator);
        let half = denominator.abs() / 2;
        let negative = (product < 0) != (denominator < 0);
        let magnitude = (product.abs() + half) / denominator.abs();
        let signed = if negative { -magnitude } else { magnitude };
        i64::try_from(signed).map(Self).map_err(|_| MoneyOverflow)
    }

    /// Whether this is more than nothing.
    pub const fn is_positive(self) -> bool {
        self.0 > 0
    }

    /// Whether this is less than nothing.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nanos = self.0.unsigned_abs();
        let (dollars, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        let fraction = format!("{rest:09}");
        let fraction = fraction.trim_end_matches('0');
        write!(f, "{sign}${dollars}.{fraction:0<2}")
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cents_round_half_away_from_zero_and_floor_for_the_processor() {
        let table = [
            (0, 0, 0),
            (4_999_999, 0, 0),
            (5_000_000, 1, 0),
            (-5_000_000, -1, -1),
            (-4_999_999, 0, -1),
            (29_999_999, 3, 2),
        ];
        for (nanos, rounded, floored) in table {
            let money = Money::from_nanos(nanos);
            assert_eq!((money.as_cents_rounded(), money.as_cents_floor()), (rounded, floored), "{nanos}");
        }
    }

    #[test]
    fn reads_as_dollars_with_every_nano() {
        assert_eq!(Money::from_cents(17).to_string(), "$0.17");
        assert_eq!(Money::from_cents(3000).to_string(), "$30.00");
        assert_eq!(Money::from_nanos(-1).to_string(), "-$0.000000001");
        assert_eq!(Money::from_nanos(i64::MIN).to_string(), "-$9223372036.854775808");
    }

    proptest! {
        #[test]
        fn arithmetic_is_exact_or_refused(a: i64, b: i64) {
            let sum = Money::from_nanos(a).try_add(Money::from_nanos(b));
            prop_assert_eq!(sum.ok().map(Money::as_nanos), a.checked_add(b));
            let difference = Money::from_nanos(a).try_sub(Money::from_nanos(b));
            prop_assert_eq!(difference.ok().map(Money::as_nanos), a.checked_sub(b));
        }

        #[test]
        fn scaling_is_off_by_half_a_nano_at_most(nanos in -1_000_000_000_000i64..1_000_000_000_000, numerator in 1i64..100_000, denominator in 1i64..100_000) {
            let scaled = i128::from(Money::from_nanos(nanos).try_scale(numerator, denominator).unwrap().as_nanos());
            let exact = i128::from(nanos) * i128::from(numerator);
            let error = (scaled * i128::from(denominator) - exact).abs();
            prop_assert!(error * 2 <= i128::from(denominator));
        }
    }
}
