//! Secrets of others, kept so that the database alone does not tell them.
//!
//! AES-256-GCM under a key that HKDF-SHA256 derives from a root for each purpose and owner. What is sealed is bound to a
//! place, and opens nowhere else. The newest root seals, all of them open, so that a root can be replaced.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use secrecy::{ExposeSecret as _, SecretString, zeroize::Zeroizing};
use serde::{Deserialize, Serialize};

/// The format that is written.
const VERSION: u8 = 2;

/// Why nothing was sealed or opened. No secret is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// There is no root, or an empty one.
    #[error("a vault needs at least one root, and none may be empty")]
    NoRoot,
    /// None of the roots sealed it.
    #[error("it was sealed with the root {0}, which is not known here")]
    UnknownRoot(String),
    /// It was changed, or belongs elsewhere.
    #[error("what was sealed has been changed, or belongs elsewhere")]
    Broken,
    /// The operating system gives no random bytes, or refuses to work.
    #[error("cryptography is not to be had")]
    Unavailable,
}

/// Where a sealed secret belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// What secrets of this kind are for, such as `tenant-key`.
    pub purpose: &'a str,
    /// Whose it is.
    pub owner: &'a str,
    /// Which of theirs it is.
    pub name: &'a str,
}

/// A secret that was sealed; fit for a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    v: u8,
    /// Which root sealed it.
    kid: String,
    nonce: String,
    ct: String,
}

/// Seals and opens. Cheap to clone.
#[derive(Clone)]
pub struct Vault {
    /// Newest first, each with its name.
    roots: std::sync::Arc<[(String, SecretString)]>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("roots", &self.roots.len()).finish_non_exhaustive()
    }
}

impl Vault {
    /// A vault with these roots, newest first.
    ///
    /// # Errors
    /// [`VaultError::NoRoot`].
    pub fn new(roots: impl IntoIterator<Item = SecretString>) -> Result<Self, VaultError> {
        let roots: Vec<_> = roots.into_iter().map(|root| (name_of(&root), root)).collect();
        let empty = |(_, root): &(String, SecretString)| root.expose_secret().is_empty();
        if roots.is_empty() || roots.iter().any(empty) {
            Err(VaultError::NoRoot)
        } else {
            Ok(Self { roots: roots.into() })
        }
    }

    /// Seals a secret for its place, with the newest root.
    ///
    /// # Errors
    /// [`VaultError::Unavailable`].
    pub fn seal(&self, place: Place<'_>, secret: &SecretString) -> Result<Sealed, VaultError> {
        let (kid, root) = self.roots.first().ok_or(VaultError::NoRoot)?;
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut bytes = Zeroizing::new(secret.expose_secret().as_bytes().to_vec());
        let tag = key(root, place)?
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), binding(place), &mut bytes)
            .map_err(|_| VaultError::Unavailable)?;
        let ct = format!("{}{}", hex::encode(&*bytes), hex::encode(tag));
        Ok(Sealed { v: VERSION, kid: kid.clone(), nonce: hex::encode(nonce), ct })
    }

    /// What was sealed for that place.
    ///
    /// # Errors
    /// [`VaultError::UnknownRoot`], [`VaultError::Broken`].
    pub fn open(&self, place: Place<'_>, sealed: &Sealed) -> Result<SecretString, VaultError> {
        let (_, root) = self
            .roots
            .iter()
            .find(|(kid, _)| *kid == sealed.kid)
            .ok_or_else(|| VaultError::UnknownRoot(sealed.kid.clone()))?;
        let nonce = hex::decode(&sealed.nonce).ok().and_then(|nonce| nonce.try_into().ok());
        let (Some(nonce), Ok(ct), VERSION) = (nonce, hex::decode(&sealed.ct), sealed.v) else {
            return Err(VaultError::Broken);
        };
        let mut bytes = Zeroizing::new(ct);
        let opened = key(root, place)?
            .open_in_place(Nonce::assume_unique_for_key(nonce), binding(place), &mut bytes)
            .map_err(|_| VaultError::Broken)?;
        std::str::from_utf8(opened).map(SecretString::from).map_err(|_| VaultError::Broken)
    }

    /// Whether an older root sealed it.
    pub fn is_outdated(&self, sealed: &Sealed) -> bool {
        self.roots.first().is_none_or(|(kid, _)| *kid != sealed.kid)
    }
}

/// The same bytes for the same root and words. Each word is preceded by its length, so that no two lists are the same.
fn derived(root: &SecretString, words: &[&str]) -> Result<Zeroizing<[u8; 32]>, VaultError> {
    let lengths: Vec<String> = words.iter().map(|word| format!("{}:", word.len())).collect();
    let info: Vec<&[u8]> =
        lengths.iter().zip(words).flat_map(|(length, word)| [length.as_bytes(), word.as_bytes()]).collect();
    let root = Salt::new(HKDF_SHA256, b"wopr vault").extract(root.expose_secret().as_bytes());
    let mut bytes = Zeroizing::new([0; 32]);
    let made = root.expand(&info, HKDF_SHA256).and_then(|made| made.fill(&mut *bytes));
    made.map(|()| bytes).map_err(|_| VaultError::Unavailable)
}

/// Tells nothing about the root but which it is.
fn name_of(root: &SecretString) -> String {
    derived(root, &["name"]).map(|bytes| hex::encode(&bytes[..6])).unwrap_or_default()
}

fn key(root: &SecretString, Place { purpose, owner, .. }: Place<'_>) -> Result<LessSafeKey, VaultError> {
    let bytes = derived(root, &["key", purpose, owner])?;
    UnboundKey::new(&AES_256_GCM, &*bytes).map(LessSafeKey::new).map_err(|_| VaultError::Unavailable)
}

fn binding(Place { purpose, owner, name }: Place<'_>) -> Aad<String> {
    Aad::from(format!("{}:{purpose}{}:{owner}{name}", purpose.len(), owner.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> = Place { purpose: "tenant-key", owner: "t", name: "openai" };

    fn vault(roots: &[&str]) -> Vault {
        Vault::new(roots.iter().map(|&root| SecretString::from(root))).unwrap()
    }

    fn secret() -> SecretString {
        "sk-ä".into()
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_alone() {
        let vault = vault(&["root"]);
        let sealed = vault.seal(PLACE, &secret()).unwrap();
        assert_eq!(vault.open(PLACE, &sealed).unwrap().expose_secret(), "sk-ä");
        for other in [
            Place { purpose: "other", ..PLACE },
            Place { owner: "u", ..PLACE },
            Place { name: "google", ..PLACE },
            Place { purpose: "tenant-keyt", owner: "", ..PLACE },
            Place { owner: "topenai", name: "", ..PLACE },
        ] {
            assert_eq!(vault.open(other, &sealed).unwrap_err(), VaultError::Broken, "{other:?}");
        }
        let text = serde_json::to_string(&sealed).unwrap();
        assert_eq!(serde_json::from_str::<Sealed>(&text).unwrap(), sealed);
        assert!(!text.contains(&hex::encode("sk-")), "{text}");
        assert!(!format!("{vault:?}").contains("root\""));
    }

    #[test]
    fn nothing_is_sealed_twice_alike_and_every_changed_byte_is_noticed() {
        let vault = vault(&["root"]);
        let sealed = vault.seal(PLACE, &secret()).unwrap();
        assert_ne!(vault.seal(PLACE, &secret()).unwrap().ct, sealed.ct);
        let flipped = |text: &str, at: usize| {
            let mut bytes = hex::decode(text).unwrap();
            bytes[at] ^= 1;
            hex::encode(bytes)
        };
        for at in 0..sealed.ct.len() / 2 {
            let changed = Sealed { ct: flipped(&sealed.ct, at), ..sealed.clone() };
            assert_eq!(vault.open(PLACE, &changed).unwrap_err(), VaultError::Broken);
        }
        for at in 0..NONCE_LEN {
            let changed = Sealed { nonce: flipped(&sealed.nonce, at), ..sealed.clone() };
            assert_eq!(vault.open(PLACE, &changed).unwrap_err(), VaultError::Broken);
        }
        for broken in [
            Sealed { ct: String::new(), ..sealed.clone() },
            Sealed { ct: "zz".to_owned(), ..sealed.clone() },
            Sealed { nonce: "00".to_owned(), ..sealed.clone() },
            Sealed { v: 3, ..sealed },
        ] {
            assert_eq!(vault.open(PLACE, &broken).unwrap_err(), VaultError::Broken);
        }
    }

    #[test]
    fn a_root_is_replaced_and_what_it_sealed_opens_until_it_is_gone() {
        let old = vault(&["one"]).seal(PLACE, &secret()).unwrap();
        let both = vault(&["two", "one"]);
        assert!(both.is_outdated(&old));
        assert_eq!(both.open(PLACE, &old).unwrap().expose_secret(), "sk-ä");
        let new = both.seal(PLACE, &secret()).unwrap();
        assert!(!both.is_outdated(&new));
        assert_eq!(vault(&["two"]).open(PLACE, &new).unwrap().expose_secret(), "sk-ä");
        assert!(matches!(vault(&["two"]).open(PLACE, &old), Err(VaultError::UnknownRoot(_))));
        assert_eq!(Vault::new([]).unwrap_err(), VaultError::NoRoot);
        assert_eq!(Vault::new(["".into()]).unwrap_err(), VaultError::NoRoot);
    }
}
