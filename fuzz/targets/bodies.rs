//! [`wopr_fuzz::bodies`] for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wopr_fuzz::bodies(bytes));
