//! [`wopr_fuzz::events`] for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wopr_fuzz::events(bytes));
