//! From a ring of secrets to the password of one repository, and the repository's key objects.
//!
//! A repository is encrypted with a random master key. Each of its key objects holds the master key, encrypted with a
//! password; the password is derived from a secret of the ring and the repository's name. Whoever has one repository's
//! password has that repository and no other; whoever has the ring has all.

use aes256ctr_poly1305aes::Aes256CtrPoly1305Aes;
use aes256ctr_poly1305aes::aead::Aead as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngCore as _;
use rustic_core::repofile::{KeyFile, MasterKey};
use rustic_core::{FileType, Id};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::BackupError;
use crate::store::Objects;

/// A secret of the ring has at least this many bytes.
pub const MINIMUM_SECRET_BYTES: usize = 32;

/// scrypt's cost is 2^10 with blocks of 8: the password is 32 bytes of a hash, which nobody can try through, so what scrypt
/// is for (short passwords of people) does not arise, and opening a repository takes 1 MiB and milliseconds.
const SCRYPT_LOG_N: u8 = 10;
const SCRYPT_R: u32 = 8;
const SCRYPT_P: u32 = 1;

/// What opens repositories: a ring of secrets, or the passwords of a single repository.
#[derive(Debug, Clone)]
pub struct Keys(Material);

#[derive(Debug, Clone)]
enum Material {
    Ring(Vec<(String, SecretString)>),
    Repository { name: String, passwords: Vec<(String, SecretString)> },
}

/// The key file: either `{"ring": [{"id", "secret"}]}` or what [`Keys::escrow`] gave.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, untagged, expecting = "neither a ring nor the keys of a repository")]
enum KeyDocument {
    Ring(RingDocument),
    Repository(Escrow),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RingDocument {
    ring: Vec<RingSecret>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RingSecret {
    id: String,
    secret: String,
}

/// All that is needed to open one repository, with this program or with restic. It is as secret as the repository.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Escrow {
    /// The repository's name: its prefix in the store.
    pub repository: String,
    /// Its passwords, the newest first.
    pub keys: Vec<EscrowKey>,
}

/// A password of a repository.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EscrowKey {
    /// The id of the ring's secret that it was derived from.
    pub id: String,
    /// What restic asks for.
    pub password: String,
}

impl Keys {
    /// Reads a key file's content; the newest key comes first in it.
    ///
    /// # Errors
    /// [`BackupError::Usage`] where it is not one, has no key, an id twice, or a secret that is too short.
    pub fn parse(content: &str) -> Result<Self, BackupError> {
        // The parser's own words would quote the secret.
        let document =
            serde_json::from_str(content).map_err(|_| usage("it is neither a ring nor the keys of a repository"))?;
        let material = match document {
            KeyDocument::Ring(document) => {
                let mut ring = Vec::with_capacity(document.ring.len());
                for RingSecret { id, secret } in document.ring {
                    let bytes = STANDARD.decode(&secret).map_err(|_| usage(&format!("key {id} is not base64")))?;
                    if bytes.len() < MINIMUM_SECRET_BYTES {
                        return Err(usage(&format!("key {id} has {} bytes, not {MINIMUM_SECRET_BYTES}", bytes.len())));
                    }
                    ring.push((id, SecretString::from(secret)));
                }
                Material::Ring(ring)
            }
            KeyDocument::Repository(escrow) => Material::Repository {
                name: escrow.repository,
                passwords: escrow.keys.into_iter().map(|key| (key.id, SecretString::from(key.password))).collect(),
            },
        };
        let (Material::Ring(keys) | Material::Repository { passwords: keys, .. }) = &material;
        if keys.is_empty() {
            return Err(usage("it has no key"));
        }
        for (position, (id, _)) in keys.iter().enumerate() {
            if id.is_empty() || keys[..position].iter().any(|(earlier, _)| earlier == id) {
                return Err(usage(&format!("the key id {id:?} is empty or there twice")));
            }
        }
        Ok(Self(material))
    }

    /// The passwords of a repository with the ids of their keys, the newest first.
    ///
    /// # Errors
    /// [`BackupError::WrongKey`] where these are the keys of another repository.
    pub fn passwords(&self, repository: &str) -> Result<Vec<(String, SecretString)>, BackupError> {
        match &self.0 {
            Material::Ring(ring) => {
                ring.iter().map(|(id, secret)| Ok((id.clone(), derive(secret, repository)?))).collect()
            }
            Material::Repository { name, passwords } if name == repository => Ok(passwords.clone()),
            Material::Repository { .. } => Err(BackupError::WrongKey(repository.to_owned())),
        }
    }

    /// What must be kept elsewhere so that this repository can be read when all else is lost.
    ///
    /// # Errors
    /// As [`Keys::passwords`].
    pub fn escrow(&self, repository: &str) -> Result<Escrow, BackupError> {
        let keys = self
            .passwords(repository)?
            .into_iter()
            .map(|(id, password)| EscrowKey { id, password: password.expose_secret().to_owned() })
            .collect();
        Ok(Escrow { repository: repository.to_owned(), keys })
    }
}

fn usage(reason: &str) -> BackupError {
    BackupError::Usage(format!("the key file: {reason}"))
}

/// HKDF-SHA256 of the secret, with the repository's name as the info; in hex, because it is typed into restic.
fn derive(secret: &SecretString, repository: &str) -> Result<SecretString, BackupError> {
    let secret = STANDARD.decode(secret.expose_secret()).map_err(|_| usage("a secret is not base64"))?;
    let mut password = [0_u8; 32];
    hkdf::Hkdf::<Sha256>::new(None, &secret)
        .expand(repository.as_bytes(), &mut password)
        .map_err(|error| BackupError::Engine(format!("a key could not be derived: {error}")))?;
    Ok(SecretString::from(hex::encode(password)))
}

/// A key object of the repository: which key of the ring it is for, if it is one of ours.
pub(crate) struct KeyObject {
    pub(crate) id: Id,
    pub(crate) key: Option<String>,
    file: KeyFile,
}

/// Reads the repository's key objects.
pub(crate) fn key_objects(objects: &Objects) -> Result<Vec<KeyObject>, BackupError> {
    let mut found = Vec::new();
    for (id, _) in objects.list_kind(FileType::Key)? {
        let bytes = objects.read(FileType::Key, &id)?;
        let file: KeyFile = serde_json::from_slice(&bytes).map_err(|error| BackupError::Corrupt {
            object: objects.path_of(FileType::Key, &id).to_string(),
            reason: error.to_string(),
        })?;
        let ours = file.hostname.as_deref() == Some(OWNER);
        found.push(KeyObject { id, key: file.username.clone().filter(|_| ours), file });
    }
    Ok(found)
}

/// Which name our key objects have in the place of a host's.
const OWNER: &str = "wopr-backup";

/// The newest password that opens one of the key objects.
pub(crate) fn unlock(
    objects: &Objects,
    found: &[KeyObject],
    passwords: &[(String, SecretString)],
) -> Result<(String, SecretString), BackupError> {
    for (id, password) in passwords {
        for object in found.iter().filter(|object| object.key.as_ref().is_none_or(|key| key == id)) {
            if object.file.key_from_password(&password.expose_secret().as_bytes()).is_ok() {
                return Ok((id.clone(), password.clone()));
            }
        }
    }
    Err(BackupError::WrongKey(objects.name().to_owned()))
}

/// Writes a key object: the master key, encrypted with a password, as restic does it.
pub(crate) fn write_key(
    objects: &Objects,
    master: &MasterKey,
    id: &str,
    password: &SecretString,
) -> Result<Id, BackupError> {
    let failed = |what: &dyn std::fmt::Display| BackupError::Engine(format!("a key could not be written: {what}"));
    let mut salt = vec![0_u8; 64];
    let mut nonce = [0_u8; 16];
    rand::rng().fill_bytes(&mut salt);
    rand::rng().fill_bytes(&mut nonce);
    let params = scrypt::Params::new(SCRYPT_LOG_N, SCRYPT_R, SCRYPT_P).map_err(|error| failed(&error))?;
    let mut derived = [0_u8; 64];
    scrypt::scrypt(password.expose_secret().as_bytes(), &salt, &params, &mut derived)
        .map_err(|error| failed(&error))?;
    let plain = serde_json::to_vec(master).map_err(|error| failed(&error))?;
    let mut data = nonce.to_vec();
    let cipher = Aes256CtrPoly1305Aes::new(aes256ctr_poly1305aes::Key::from_slice(&derived));
    data.extend(
        cipher
            .encrypt(aes256ctr_poly1305aes::Nonce::from_slice(&nonce), plain.as_slice())
            .map_err(|error| failed(&error))?,
    );
    let file = KeyFile {
        hostname: Some(OWNER.to_owned()),
        username: Some(id.to_owned()),
        created: None,
        kdf: "scrypt".to_owned(),
        n: 1 << SCRYPT_LOG_N,
        r: SCRYPT_R,
        p: SCRYPT_P,
        data,
        salt,
    };
    let content = serde_json::to_vec(&file).map_err(|error| failed(&error))?;
    let id = hex::encode(Sha256::digest(&content)).parse::<Id>().map_err(|error| failed(&error.display_log()))?;
    objects.write(FileType::Key, &id, content.into())?;
    Ok(id)
}
