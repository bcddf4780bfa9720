//! What nodes prove themselves with.

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::model::GpuNodeId;
use crate::protocol::gpu::{inference_token, node_secret};

/// The master secrets of GPU nodes, newest first. All of them are accepted; new nodes get theirs from the newest.
#[derive(Clone, Default)]
pub struct MasterSecrets(Vec<SecretString>);

/// What a bearer proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeCredential {
    /// The secret that all nodes may know: it says nothing about which node reports.
    Shared,
    /// The node's own secret.
    Own {
        /// Which of the master secrets it was made from, counted from the newest.
        key: usize,
    },
}

impl std::fmt::Debug for MasterSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MasterSecrets").field("keys", &self.0.len()).finish_non_exhaustive()
    }
}

impl MasterSecrets {
    /// These secrets, newest first; empty ones are left out.
    pub fn new(secrets: impl IntoIterator<Item = SecretString>) -> Self {
        Self(secrets.into_iter().filter(|secret| !secret.expose_secret().is_empty()).collect())
    }

    /// Whether there is none, so that no node can prove anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the bearer is one of the master secrets themselves.
    pub fn is_shared(&self, bearer: &str) -> bool {
        // Every secret is compared, so the time does not tell which one matched.
        self.0.iter().fold(false, |found, secret| equal(bearer, secret) | found)
    }

    /// Which master secret the bearer, as this node's own, was made from.
    pub fn own_key(&self, bearer: &str, node: &GpuNodeId) -> Option<usize> {
        self.find(bearer, |master| node_secret(master, node.as_str()))
    }

    /// Which master secret the bearer, as the token that a machine was born with, was made from.
    pub(super) fn bootstrap_key(&self, bearer: &str, tag: &str) -> Option<usize> {
        self.find(bearer, |master| bootstrap_token(master, tag))
    }

    fn find(&self, bearer: &str, derive: impl Fn(&SecretString) -> SecretString) -> Option<usize> {
        let matches = self.0.iter().enumerate().map(|(index, master)| (index, equal(bearer, &derive(master))));
        matches.fold(None, |found, (index, matched)| if matched { found.or(Some(index)) } else { found })
    }

    /// A node's own secret, made from the newest.
    pub(super) fn newest_for(&self, node: &GpuNodeId) -> Option<(SecretString, String)> {
        self.0.first().map(|master| (node_secret(master, node.as_str()), fingerprint(master)))
    }

    /// The token that a machine is born with.
    pub(super) fn bootstrap_token(&self, tag: &str) -> Option<SecretString> {
        self.0.first().map(|master| bootstrap_token(master, tag))
    }

    /// What stands for a master secret where it is not to be seen.
    pub(super) fn fingerprint(&self, key: usize) -> Option<String> {
        self.0.get(key).map(fingerprint)
    }

    /// What the node's proxy wants to see, by the master secret that the node was given its own from.
    pub(super) fn inference_token(&self, node: &GpuNodeId, fingerprint_of_node: Option<&str>) -> Option<SecretString> {
        let known = self.0.iter().find(|master| fingerprint_of_node == Some(fingerprint(master).as_str()));
        known.or(self.0.first()).map(|master| inference_token(&node_secret(master, node.as_str())))
    }
}

/// Compares digests, so that neither the place of the first difference nor the length shows in the time.
fn equal(bearer: &str, secret: &SecretString) -> bool {
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    digest(bearer).ct_eq(&digest(secret.expose_secret())).into()
}

/// Only good for being exchanged for the node's own secret, and only until the node has used that.
fn bootstrap_token(master: &SecretString, tag: &str) -> SecretString {
    hex::encode(mac(master, "wopr.gpu.bootstrap.v1", tag)).into()
}

fn fingerprint(master: &SecretString) -> String {
    hex::encode(&mac(master, "wopr.gpu.fingerprint.v1", "")[..8])
}

fn mac(key: &SecretString, label: &str, subject: &str) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    let mac = Hmac::<Sha256>::new_from_slice(key.expose_secret().as_bytes()).expect("HMAC takes keys of every length");
    mac.chain_update(label).chain_update([0]).chain_update(subject).finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masters(secrets: &[&str]) -> MasterSecrets {
        MasterSecrets::new(secrets.iter().map(|&secret| secret.into()))
    }

    #[test]
    fn one_node_cannot_speak_for_another_and_older_masters_still_count() {
        let (one, two): (GpuNodeId, GpuNodeId) = ("one".parse().unwrap(), "two".parse().unwrap());
        let before = masters(&["old"]);
        let secret = before.newest_for(&one).unwrap().0;
        let ring = masters(&["new", "old", ""]);
        assert_eq!(ring.own_key(secret.expose_secret(), &one), Some(1));
        assert_eq!(ring.own_key(secret.expose_secret(), &two), None);
        assert_eq!(masters(&["new"]).own_key(secret.expose_secret(), &one), None);
        assert!(!ring.is_shared(secret.expose_secret()));
        assert!(ring.is_shared("old") && ring.is_shared("new"));
        assert!(!ring.is_shared("") && !ring.is_shared("newer") && !ring.is_shared("ol"));
        assert!(masters(&[""]).is_empty() && !masters(&[]).is_shared(""));
    }

    #[test]
    fn requests_bear_what_the_node_was_given_whatever_is_newest_now() {
        let node: GpuNodeId = "one".parse().unwrap();
        let fingerprint = masters(&["old"]).newest_for(&node).unwrap().1;
        let ring = masters(&["new", "old"]);
        let token = |fingerprint: Option<&str>| {
            ring.inference_token(&node, fingerprint).map(|token| token.expose_secret().to_owned())
        };
        let of = |master: &str| inference_token(&node_secret(&master.into(), "one")).expose_secret().to_owned();
        assert_eq!(token(Some(&fingerprint)), Some(of("old")));
        assert_eq!(token(None), Some(of("new")));
        assert_eq!(token(Some("forgotten")), Some(of("new")));
    }

    #[test]
    fn the_token_of_birth_is_of_no_other_use() {
        let ring = masters(&["new", "old"]);
        let token = ring.bootstrap_token("tag-1").unwrap();
        assert_eq!(ring.bootstrap_key(token.expose_secret(), "tag-1"), Some(0));
        assert_eq!(ring.bootstrap_key(token.expose_secret(), "tag-2"), None);
        assert!(!ring.is_shared(token.expose_secret()));
        assert_eq!(ring.own_key(token.expose_secret(), &"tag-1".parse().unwrap()), None);
        assert!(!format!("{ring:?}{token:?}").contains(token.expose_secret()));
    }
}
