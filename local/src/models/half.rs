//! Floating-point numbers from integers, exactly: no floating-point arithmetic takes part.

/// How many fraction bits the integers have: 1024 means one.
const FRACTION_BITS: u32 = 10;
/// The exponent's bias in half precision (IEEE 754 binary16).
const HALF_BIAS: u32 = 15;
/// The exponent's bias in single precision.
const SINGLE_BIAS: u32 = 127;

/// `value / 1024` as the bits of a half-precision number; exact for up to 2048 in size.
pub(super) fn bits(value: i16) -> u16 {
    let size = value.unsigned_abs();
    let Some(top) = size.checked_ilog2() else {
        return 0;
    };
    let exponent = top + HALF_BIAS - FRACTION_BITS;
    // The leading one is implied; what follows it fills ten bits. Above 2048 the lowest bits are cut off.
    let mantissa = if top <= 10 { u32::from(size) << (10 - top) } else { u32::from(size) >> (top - 10) } & 0x3ff;
    let sign = u16::from(value < 0) << 15;
    sign | u16::try_from((exponent << 10) | mantissa).unwrap_or(u16::MAX >> 1)
}

/// `value / 1024` as a single-precision number; always exact.
pub(super) fn single(value: i16) -> f32 {
    let size = u32::from(value.unsigned_abs());
    let Some(top) = size.checked_ilog2() else {
        return 0.0;
    };
    let exponent = top + SINGLE_BIAS - FRACTION_BITS;
    let mantissa = (size << (23 - top)) & 0x7f_ffff;
    let sign = u32::from(value < 0) << 31;
    f32::from_bits(sign | (exponent << 23) | mantissa)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_numbers_have_their_known_bits() {
        // One, minus two, a half, 1/1024, 1.5, zero, 16.
        let cases =
            [(1024, 0x3c00), (-2048, 0xc000), (512, 0x3800), (1, 0x1400), (1536, 0x3e00), (0, 0), (16384, 0x4c00)];
        for (value, expected) in cases {
            assert_eq!(bits(value), expected, "{value}");
        }
        for (value, expected) in [(1024, 1.0_f32), (-2048, -2.0), (1, 0.000_976_562_5), (1536, 1.5), (0, 0.0)] {
            assert_eq!(single(value).to_bits(), expected.to_bits(), "{value}");
        }
    }
}
