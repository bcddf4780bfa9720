//! The wall clock, read in one place.

/// Seconds since 1970, as signatures and unique names want them.
pub(crate) fn unix_seconds() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "a command line has no clock injected; this is where it reads one")]
    jiff::Timestamp::now().as_second()
}
