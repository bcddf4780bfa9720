//! Secrets from the operating system's random numbers, and the digests that are stored of them.

use rand::TryRngCore as _;
use rand::distr::{Alphanumeric, SampleString as _};
use rand::rngs::OsRng;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

/// `length` letters and digits; 5.95 bits each.
///
/// # Panics
/// When the operating system has no random numbers: there is no safe way on.
pub(super) fn letters_and_digits(length: usize) -> SecretString {
    Alphanumeric.sample_string(&mut OsRng.unwrap_err(), length).into()
}

/// Hexadecimal text of `bytes` random bytes.
///
/// # Panics
/// As [`letters_and_digits`].
pub(super) fn hexadecimal<const BYTES: usize>() -> SecretString {
    use rand::RngCore as _;
    let mut bytes = [0; BYTES];
    OsRng.unwrap_err().fill_bytes(&mut bytes);
    hex::encode(bytes).into()
}

/// SHA-256, what is stored of a secret. The secrets are long and random, so a fast hash without salt is enough.
pub(super) fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// [`digest`] of a secret that is wrapped.
pub(super) fn digest_of(secret: &SecretString) -> [u8; 32] {
    digest(secret.expose_secret())
}
