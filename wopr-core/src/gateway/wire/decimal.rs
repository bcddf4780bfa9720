//! Dollars written as a JSON number, read without a float.

use crate::money::Money;

/// Digits of a nano-dollar after the point.
const NANO_DIGITS: i64 = 9;
/// As many digits as [`Money`] can have.
const DIGITS_MAX: i64 = 19;

/// Dollars of a JSON number, half a nano-dollar away from zero. Nothing if it is no number, or too large.
pub(super) fn dollars(number: &str) -> Option<Money> {
    nanos(number).map(Money::from_nanos)
}

/// A JSON number in thousand-millionths, half of one away from zero. Nothing if it is no number, or too large.
pub(crate) fn nanos(number: &str) -> Option<i64> {
    let (negative, number) = number.strip_prefix('-').map_or((false, number), |rest| (true, rest));
    let (mantissa, exponent) = match number.find(['e', 'E']) {
        Some(at) => (&number[..at], exponent(&number[at + 1..])?),
        None => (number, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let digits_only = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits_only(whole) || !digits_only(fraction) {
        return None;
    }
    let digits = || whole.bytes().chain(fraction.bytes());
    let zeros = digits().take_while(|digit| *digit == b'0').count();
    if zeros == whole.len() + fraction.len() {
        return Some(0);
    }
    // So many of the digits after the zeros are whole nano-dollars.
    let whole_digits = i64::try_from(whole.len()).ok()? - i64::try_from(zeros).ok()? + exponent + NANO_DIGITS;
    if whole_digits > DIGITS_MAX {
        return None;
    }
    let Ok(kept) = usize::try_from(whole_digits) else { return Some(0) };
    let mut rest = digits().skip(zeros).chain(std::iter::repeat(b'0'));
    let mut nanos: i128 = 0;
    for digit in rest.by_ref().take(kept) {
        nanos = nanos * 10 + i128::from(digit - b'0');
    }
    if rest.next().is_some_and(|digit| digit >= b'5') {
        nanos += 1;
    }
    i64::try_from(if negative { -nanos } else { nanos }).ok()
}

/// An exponent; one that is beyond all meaning is as good as the largest that has some.
fn exponent(text: &str) -> Option<i64> {
    const MEANING: i64 = 1_000_000_000;
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let size = digits.bytes().fold(0, |size: i64, digit| (size * 10 + i64::from(digit - b'0')).min(MEANING));
    Some(if negative { -size } else { size })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_read_to_the_nano_dollar() {
        let table = [
            ("0", Some(0)),
            ("0.0", Some(0)),
            ("-0", Some(0)),
            ("1", Some(1_000_000_000)),
            ("0.00014", Some(140_000)),
            ("0.1", Some(100_000_000)),
            ("1.4e-4", Some(140_000)),
            ("1.4E-04", Some(140_000)),
            ("14e-5", Some(140_000)),
            ("0.00000014e+3", Some(140_000)),
            ("1e-9", Some(1)),
            ("5e-10", Some(1)),
            ("4.999999999999999999999999999e-10", Some(0)),
            ("-5e-10", Some(-1)),
            ("-4.9e-10", Some(0)),
            ("1e-10", Some(0)),
            ("9e-11", Some(0)),
            ("1.0000000005", Some(1_000_000_001)),
            ("1.00000000049999999", Some(1_000_000_000)),
            ("0.9999999995", Some(1_000_000_000)),
            ("9223372036.854775807", Some(i64::MAX)),
            ("9223372036.8547758075", None),
            ("-9223372036.854775808", Some(i64::MIN)),
            ("1e10", None),
            ("1e999999999999999999999999", None),
            ("1e-999999999999999999999999", Some(0)),
            ("0e999999999999999999999999", Some(0)),
            ("0.000000000000000000000000000001e30", Some(1_000_000_000)),
            ("", None),
            ("-", None),
            (".5", None),
            ("1.", None),
            ("1e", None),
            ("1e+", None),
            ("+1", None),
            ("1e1.5", None),
            ("NaN", None),
            ("\"1\"", None),
            ("null", None),
        ];
        for (number, expected) in table {
            assert_eq!(nanos(number), expected, "{number}");
        }
    }

    proptest! {
        #[test]
        fn every_amount_is_read_as_it_is_written(amount in any::<i64>(), shift in 0_u32..9) {
            let sign = if amount < 0 { "-" } else { "" };
            let (whole, rest) = (amount.unsigned_abs() / 1_000_000_000, amount.unsigned_abs() % 1_000_000_000);
            prop_assert_eq!(nanos(&format!("{sign}{whole}.{rest:09}")), Some(amount));
            let power = 10_u64.pow(shift);
            let shifted = format!("{sign}{}.{:0width$}e{}", amount.unsigned_abs() / power, amount.unsigned_abs() % power,
                i64::from(shift) - 9, width = shift.max(1) as usize);
            prop_assert_eq!(nanos(&shifted), Some(amount));
        }

        #[test]
        fn nothing_panics(text in "[-+0-9.eE]{0,40}|\\PC{0,20}") {
            let _ = dollars(&text);
        }
    }
}
