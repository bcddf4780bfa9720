use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{Error, PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
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
    /// Verified for users that do not exist, so that the answer takes as long.
    dummy: Arc<str>,
}

impl Hasher {
    pub(super) fn new(parallel: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(parallel.max(1))), dummy: DUMMY_HASH.into() }
    }

    /// The hash of a new password, in PHC form.
    pub(super) async fn hash(&self, password: &NewPassword) -> Result<String, AuthError> {
        let password = password.0.clone();
        self.run(move |argon2| {
            let hash = argon2.hash_password(password.expose_secret().as_bytes());
            hash.map(|hash| hash.to_string()).map_err(|error| AuthError::Hashing(error.to_string()))
        })
        .await
    }

    /// Whether the password is the hashed one. Without a hash the answer is no, after the same work.
    pub(super) async fn verify(&self, password: &SecretString, hash: Option<&str>) -> Result<bool, AuthError> {
        let (password, known) = (password.clone(), hash.is_some());
        let hash: Arc<str> = hash.map_or_else(|| self.dummy.clone(), Arc::from);
        self.run(move |argon2| {
            let hash = PasswordHash::new(&hash)
                .map_err(|error| DbError::inconsistent("accounts", format!("password_hash: {error}")))?;
            match argon2.verify_password(password.expose_secret().as_bytes(), &hash) {
                Ok(()) => Ok(known),
                Err(Error::PasswordInvalid) => Ok(false),
                Err(error) => Err(AuthError::Hashing(error.to_string())),
            }
        })
        .await
    }

    async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(Argon2<'static>) -> Result<R, AuthError> + Send + 'static,
    ) -> Result<R, AuthError> {
        let failed = |error: &dyn std::fmt::Display| AuthError::Hashing(error.to_string());
        let slot = self.slots.clone().acquire_owned().await.map_err(|error| failed(&error))?;
        let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| failed(&error))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let work = tokio::task::spawn_blocking(move || {
            let result = work(argon2);
            drop(slot);
            result
        });
        work.await.map_err(|error| failed(&error))?
    }
}

/// Random salt, random digest: the hash of no password that anybody knows.
const DUMMY_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$ysfq6m6PBs3ytyItvJcmzA$rt/aQghYMxXBXi1Pzxpqm2NMwWYUttvO2Ana/rkds7g";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::PasswordPolicy;

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
