//! [`wopr_fuzz::translation`] for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wopr_fuzz::translation(bytes));
