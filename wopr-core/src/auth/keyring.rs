use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

/// A ring needs at least one key, and none may be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key ring needs at least one key, and none may be empty")]
pub struct EmptyKeyRing;

/// Secrets that sign values: the newest signs, all of them verify, so that a secret can be replaced without
/// invalidating what it signed.
#[derive(Clone)]
pub struct KeyRing {
    newest: SecretString,
    older: Vec<SecretString>,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRing").field("keys", &(1 + self.older.len())).finish_non_exhaustive()
    }
}

impl KeyRing {
    /// A ring of these keys, newest first.
    ///
    /// # Errors
    /// [`EmptyKeyRing`] when there is none, or one is empty.
    pub fn new(keys: impl IntoIterator<Item = SecretString>) -> Result<Self, EmptyKeyRing> {
        let mut keys = keys.into_iter();
        let newest = keys.next().ok_or(EmptyKeyRing)?;
        let older: Vec<_> = keys.collect();
        let empty = |key: &SecretString| key.expose_secret().is_empty();
        if empty(&newest) || older.iter().any(empty) { Err(EmptyKeyRing) } else { Ok(Self { newest, older }) }
    }

    /// HMAC-SHA256 of the value under the newest key, in standard base64: 44 characters.
    pub fn sign(&self, value: &str) -> String {
        BASE64.encode(mac(&self.newest, value).finalize().into_bytes())
    }

    /// Whether any key of the ring signed the value. Takes as long for a wrong signature as for a right one.
    pub fn verify(&self, value: &str, signature: &str) -> bool {
        let Ok(signature) = BASE64.decode(signature) else { return false };
        let verifies = |key| mac(key, value).verify_slice(&signature).is_ok();
        self.older.iter().fold(verifies(&self.newest), |found, key| verifies(key) | found)
    }

    /// The value with its signature: `value.signature`.
    pub fn seal(&self, value: &str) -> String {
        format!("{value}.{}", self.sign(value))
    }

    /// The value of `value.signature`, if a key of the ring signed it.
    pub fn open<'sealed>(&self, sealed: &'sealed str) -> Option<&'sealed str> {
        let (value, signature) = sealed.rsplit_once('.')?;
        self.verify(value, signature).then_some(value)
    }
}

fn mac(key: &SecretString, value: &str) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    let mac = Hmac::<Sha256>::new_from_slice(key.expose_secret().as_bytes()).expect("HMAC takes keys of every length");
    mac.chain_update(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(keys: &[&str]) -> KeyRing {
        KeyRing::new(keys.iter().map(|&key| key.into())).unwrap()
    }

    #[test]
    fn a_known_value_has_its_known_signature() {
        // RFC 4231, test case 2.
        let want = hex::decode("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843").unwrap();
        assert_eq!(ring(&["Jefe"]).sign("what do ya want for nothing?"), BASE64.encode(want));
    }

    #[test]
    fn a_ring_needs_keys() {
        assert_eq!(KeyRing::new([]).unwrap_err(), EmptyKeyRing);
        assert_eq!(KeyRing::new(["".into()]).unwrap_err(), EmptyKeyRing);
        assert_eq!(KeyRing::new(["a".into(), "".into()]).unwrap_err(), EmptyKeyRing);
    }

    #[test]
    fn its_keys_are_not_printed() {
        assert!(!format!("{:?}", ring(&["hunter2", "hunter3"])).contains("hunter"));
    }

    proptest! {
        #[test]
        fn what_any_key_of_the_ring_sealed_opens(value in "\\PC{0,40}", keys in prop::collection::vec("[ -~]{1,40}", 1..4)) {
            let all = ring(&keys.iter().map(String::as_str).collect::<Vec<_>>());
            for key in &keys {
                let sealed = ring(&[key.as_str()]).seal(&value);
                prop_assert_eq!(all.open(&sealed), Some(value.as_str()));
                prop_assert_eq!(sealed.len(), value.len() + 1 + 44);
            }
            prop_assert_eq!(all.seal(&value), ring(&[keys[0].as_str()]).seal(&value), "the newest key signs");
        }

        #[test]
        fn what_another_key_sealed_or_somebody_changed_does_not(
            value in "[!-~]{1,40}", key in "[ -~]{8,40}", other in "[ -~]{8,40}", at in any::<prop::sample::Index>(),
        ) {
            prop_assume!(key != other);
            let ring = ring(&[&key]);
            let forged = super::tests::ring(&[&other]).seal(&value);
            prop_assert_eq!(ring.open(&forged), None);
            let sealed = ring.seal(&value);
            let mut changed = sealed.clone().into_bytes();
            let at = at.index(changed.len());
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            prop_assert_eq!(ring.open(&changed), None);
            prop_assert_eq!(ring.open(&sealed[..sealed.len() - 1]), None);
            prop_assert_eq!(ring.open(&value), None);
        }

        #[test]
        fn nothing_makes_it_panic(text in "\\PC*") {
            prop_assert_eq!(ring(&["key"]).open(&text), None);
        }
    }
}
