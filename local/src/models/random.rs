//! Numbers that look random and are the same every time.

/// SplitMix64: <https://prng.di.unimi.it/splitmix64.c>.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// An integer from `-reach` to `reach`.
    pub(super) fn within(&mut self, reach: i16) -> i16 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let width = u64::from(reach.unsigned_abs()) * 2 + 1;
        let offset = i32::try_from(mixed % width).unwrap_or_default() - i32::from(reach);
        i16::try_from(offset).unwrap_or_default()
    }
}
