use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Semaphore;

use super::{AuthError, NewPassword};
use crate::db::DbError;

/// Memory for one hash: 19 MiB, with two passes and one lane, as OWASP recommends at least:
/// <https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html>
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Hashes and verifies passwords beside the threads that serve requests, only so many at once: each takes tens of
/// milliseconds and [`MEMORY_KIB`].
#[derive(Clone)]
pub(super) struct Hasher {
    slots: Arc<Semaphore>,
    /// Memory that hashes were made in, as often as there are slots: each is used again. Allocators keep such amounts for every
    /// thread that has asked for one, and a process would grow to many times what it needs.
    memories: Arc<Mutex<Vec<Vec<Block>>>>,
    /// Verified for users that do not exist, so that the answer takes as long.
    dummy: Arc<str>,
}

impl Hasher {
    pub(super) fn new(parallel: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(parallel.max(1))), memories: Arc::default(), dummy: DUMMY_HASH.into() }
    }

    /// The hash of a new password, in PHC form.
    pub(super) async fn hash(&self, password: &NewPassword) -> Result<String, AuthError> {
        let password = password.0.clone();
        self.run(move |memory| {
            let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| failed(&error))?;
            let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
            let (salt, secret) = (Salt::generate(), password.expose_secret().as_bytes());
            let output = output(&argon2, secret, &salt, Params::DEFAULT_OUTPUT_LEN, memory)?;
            let hash = PasswordHash {
                algorithm: Algorithm::Argon2id.ident(),
                version: Some(Version::V0x13.into()),
                params: ParamsString::try_from(&params).map_err(|error| failed(&error))?,
                salt: Some(salt),
                hash: Some(output),
            };
            Ok(hash.to_string())
        })
        .await
    }

    /// Whether the password is the hashed one. Without a hash the answer is no, after the same work.
    pub(super) async fn verify(&self, password: &SecretString, hash: Option<&str>) -> Result<bool, AuthError> {
        let (password, known) = (password.clone(), hash.is_some());
        let hash: Arc<str> = hash.map_or_else(|| self.dummy.clone(), Arc::from);
        self.run(move |memory| {
            let wrong = |what: &dyn Display| DbError::inconsistent("accounts", format!("password_hash: {what}"));
            let hash = PasswordHash::new(&hash).map_err(|error| wrong(&error))?;
            let (Some(salt), Some(expected)) = (&hash.salt, &hash.hash) else {
                return Err(wrong(&"it has no salt or no digest").into());
            };
            let algorithm = Algorithm::try_from(hash.algorithm.as_str()).map_err(|error| wrong(&error))?;
            let version = hash.version.map_or(Ok(Version::default()), Version::try_from);
            let params = Params::try_from(&hash).map_err(|error| wrong(&error))?;
            let argon2 = Argon2::new(algorithm, version.map_err(|error| wrong(&error))?, params);
            let output = output(&argon2, password.expose_secret().as_bytes(), salt, expected.len(), memory)?;
            // It takes as long whichever bytes differ.
            Ok(output == *expected && known)
        })
        .await
    }

    async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Vec<Block>) -> Result<R, AuthError> + Send + 'static,
    ) -> Result<R, AuthError> {
        let slot = self.slots.clone().acquire_owned().await.map_err(|error| failed(&error))?;
        let memories = self.memories.clone();
        let work = tokio::task::spawn_blocking(move || {
            let of_others = || memories.lock().unwrap_or_else(PoisonError::into_inner);
            let mut memory = of_others().pop().unwrap_or_default();
            let result = work(&mut memory);
            of_others().push(memory);
            drop(slot);
            result
        });
        work.await.map_err(|error| failed(&error))?
    }
}

fn failed(error: &dyn Display) -> AuthError {
    AuthError::Hashing(error.to_string())
}

/// The digest of a password, made in that memory.
fn output(
    argon2: &Argon2<'_>,
    password: &[u8],
    salt: &Salt,
    length: usize,
    memory: &mut Vec<Block>,
) -> Result<Output, AuthError> {
    let mut bytes = [0; Output::MAX_LENGTH];
    let bytes = bytes.get_mut(..length).ok_or_else(|| failed(&"the digest is too long"))?;
    memory.resize_with(argon2.params().block_count().max(memory.len()), Block::default);
    argon2.hash_password_into_with_memory(password, salt, bytes, memory).map_err(|error| failed(&error))?;
    Output::new(bytes).map_err(|error| failed(&error))
}

/// Random salt, random digest: the hash of no password that anybody knows.
const DUMMY_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$ysfq6m6PBs3ytyItvJcmzA$rt/aQghYMxXBXi1Pzxpqm2NMwWYUttvO2Ana/rkds7g";

#[cfg(test)]
mod tests {
    use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};

    use super::*;
    use crate::auth::PasswordPolicy;

    /// What others make of the same password is understood here, and the other way round.
    #[tokio::test]
    async fn hashes_are_those_of_the_library() {
        let (hasher, argon2) = (Hasher::new(1), Argon2::default());
        let password = PasswordPolicy::default().check("Testpass1".into()).unwrap();
        let ours = hasher.hash(&password).await.unwrap();
        argon2.verify_password(b"Testpass1", ours.as_str()).unwrap();
        argon2.verify_password(b"Testpass2", ours.as_str()).unwrap_err();
        for params in
            [Params::default(), Params::new(64, 3, 2, Some(16)).unwrap(), Params::new(64 * 1024, 1, 1, None).unwrap()]
        {
            let theirs = Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password(b"Testpass1").unwrap();
            let theirs = theirs.to_string();
            assert!(hasher.verify(&"Testpass1".into(), Some(&theirs)).await.unwrap(), "{theirs}");
            assert!(!hasher.verify(&"Testpass2".into(), Some(&theirs)).await.unwrap(), "{theirs}");
        }
        let cut = ours.rsplit_once('$').unwrap().0;
        assert!(hasher.verify(&"Testpass1".into(), Some(cut)).await.is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn there_is_as_much_memory_as_there_are_slots() {
        let hasher = Hasher::new(2);
        let many = (0..8).map(|_| async { hasher.verify(&"Testpass1".into(), None).await.unwrap() });
        assert!(!futures_util::future::join_all(many).await.contains(&true));
        let memories = hasher.memories.lock().unwrap();
        assert!((1..=2).contains(&memories.len()), "{}", memories.len());
        assert!(memories.iter().all(|memory| memory.len() == usize::try_from(MEMORY_KIB).unwrap()));
    }

    #[tokio::test]
    async fn a_password_verifies_against_its_own_hash_only() {
        let hasher = Hasher::new(1);
        let password = PasswordPolicy::default().check("Testpass1".into()).unwrap();
        let (hash, again) = (hasher.hash(&password).await.unwrap(), hasher.hash(&password).await.unwrap());
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hash, again, "salted");
        assert!(hasher.verify(&"Testpass1".into(), Some(&hash)).await.unwrap());
        assert!(!hasher.verify(&"Testpass2".into(), Some(&hash)).await.unwrap());
        assert!(!hasher.verify(&"Testpass1".into(), None).await.unwrap());
    }

    #[tokio::test]
    async fn a_broken_hash_is_an_error_and_not_a_wrong_password() {
        let broken = Hasher::new(1).verify(&"Testpass1".into(), Some("$argon2id$oops")).await;
        assert!(
            matches!(broken, Err(AuthError::Storage(DbError::Inconsistent { table: "accounts", .. }))),
            "{broken:?}"
        );
    }

    #[test]
    fn the_dummy_costs_as_much_as_a_real_hash() {
        let dummy = PasswordHash::new(DUMMY_HASH).unwrap();
        let params = Params::try_from(&dummy).unwrap();
        assert_eq!((params.m_cost(), params.t_cost(), params.p_cost()), (MEMORY_KIB, PASSES, LANES));
        assert_eq!(dummy.hash.unwrap().as_bytes().len(), 32);
    }
}
