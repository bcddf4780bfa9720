//! Decimal numbers of JSON as whole numbers of their smallest part, exactly: what is money is never rounded on the way.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;

/// A JSON number that is a whole number of `10^-PLACES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decimal<const PLACES: u32>(pub(crate) i64);

/// US dollars in whole cents.
pub(crate) type Dollars = Decimal<2>;
/// US dollars in nano-dollars.
pub(crate) type NanoDollars = Decimal<9>;

impl<'de, const PLACES: u32> Deserialize<'de> for Decimal<PLACES> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Number::deserialize(deserializer)?;
        scaled(&number.to_string(), PLACES)
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("a number with at most {PLACES} decimals is needed, not {number}")))
    }
}

impl<const PLACES: u32> Serialize for Decimal<PLACES> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number: Number = text(self.0, PLACES).parse().map_err(serde::ser::Error::custom)?;
        number.serialize(serializer)
    }
}

/// Reads a JSON number, with or without an exponent, as a whole number of `10^-places`; nothing if it is none.
fn scaled(text: &str, places: u32) -> Option<i64> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or((1, mantissa), |rest| (-1, rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let shift = i32::try_from(places).ok()?.checked_add(exponent)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let power = 10_i128.checked_pow(shift.unsigned_abs());
    let value = match power {
        _ if digits == 0 => 0,
        Some(power) if shift >= 0 => digits.checked_mul(power)?,
        Some(power) if digits % power == 0 => digits / power,
        _ => return None,
    };
    i64::try_from(sign * value).ok()
}

/// `value × 10^-places` as short as it can be written.
pub(crate) fn text(value: i64, places: u32) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let width = usize::try_from(places).unwrap_or_default();
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = width + 1);
    let (whole, fraction) = digits.split_at(digits.len() - width);
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{fraction}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn numbers_are_read_exactly_or_not_at_all() {
        let table: [(Value, Option<i64>); 12] = [
            (json!(0), Some(0)),
            (json!(12), Some(1_200)),
            (json!(12.3), Some(1_230)),
            (json!(12.34), Some(1_234)),
            (json!(-0.01), Some(-1)),
            (json!(1e3), Some(100_000)),
            (json!(12.345), None),
            (json!(1e-3), None),
            (json!(1e300), None),
            (json!(u64::MAX), None),
            (json!("12"), None),
            (json!(null), None),
        ];
        for (value, cents) in table {
            let read = serde_json::from_value::<Dollars>(value.clone()).ok();
            assert_eq!(read.map(|dollars| dollars.0), cents, "{value}");
        }
        let tiny: NanoDollars = serde_json::from_value(json!(0.000_002_4)).unwrap();
        assert_eq!(tiny, Decimal(2_400));
    }

    #[test]
    fn what_is_written_is_a_number() {
        assert_eq!(serde_json::to_string(&Decimal::<2>(1_230)).unwrap(), "12.3");
        assert_eq!(serde_json::to_string(&Decimal::<2>(-5)).unwrap(), "-0.05");
        assert_eq!(serde_json::to_string(&Decimal::<2>(700)).unwrap(), "7");
        assert_eq!(text(1, 9), "0.000000001");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(nanos in -1_000_000_000_000_000_i64..1_000_000_000_000_000) {
            let written = serde_json::to_string(&Decimal::<9>(nanos)).unwrap();
            prop_assert_eq!(serde_json::from_str::<NanoDollars>(&written).unwrap(), Decimal(nanos));
        }
    }
}
