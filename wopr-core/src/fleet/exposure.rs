//! Bots' names outside: what a reverse proxy is told of them.
//!
//! A bot is reached at a name of its own below the platform's domain. The name has a hash of the bot's id in it: tenants may
//! call their bots alike, and nobody may get the name that somebody else's bot had, to which others may still send. Who may
//! ask what is the bot's own affair, which has its own credentials; the platform's cookies do not get there.

use std::collections::{BTreeSet, HashSet};

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};

use super::container::{BOT_PORT, container_name};
use super::error::FleetError;
use super::repository::BotRepository;
use super::service::Fleet;
use super::settings::BotName;
use crate::ids::BotId;

/// The longest part of a host name.
const LABEL: usize = 63;
/// Bytes of the hash in it.
const HASH: usize = 8;

/// A reverse proxy in front of bots.
#[async_trait]
pub trait ReverseProxy: Send + Sync + 'static {
    /// Makes these the routes to bots, all at once; whatever else it serves stays as it is. Answers whether there was anything
    /// to change.
    async fn set_routes(&self, routes: &[Route]) -> Result<bool, ProxyError>;
}

/// Where requests for a host name go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The host name.
    pub host: String,
    /// The container and its port, as `name:port`; nothing while the bot does not run.
    pub upstream: Option<String>,
}

/// Why a reverse proxy did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Nobody answers.
    #[error("the reverse proxy cannot be reached: {0}")]
    Unreachable(String),
    /// It understood and refused, or is not set up for bots.
    #[error("the reverse proxy refused: {0}")]
    Refused(String),
}

/// The part of a bot's host name that is its own.
pub fn host_label(name: &BotName, bot: BotId) -> String {
    let hash = hex::encode(&Sha256::digest(bot.to_string().as_bytes())[..HASH]);
    let name = name.to_host_name();
    let readable = name.get(..LABEL - 1 - hash.len()).unwrap_or(&name).trim_end_matches('-');
    format!("{readable}-{hash}")
}

impl Fleet {
    /// The name under which a bot is reached from outside, where the platform has a domain for that.
    pub fn host_name(&self, name: &BotName, bot: BotId) -> Option<String> {
        self.config().domain.as_ref().map(|domain| format!("{}.{domain}", host_label(name, bot)))
    }

    /// Tells the proxy which bots there are, and puts it on their networks. Answers whether it was told anything new.
    ///
    /// # Errors
    /// [`FleetError::Storage`]; [`FleetError::Host`] and [`FleetError::Proxy`] when one of the two does not do its part,
    /// while the other still does.
    pub async fn publish(&self, proxy: &dyn ReverseProxy) -> Result<bool, FleetError> {
        let bots = {
            let mut conn = self.db().connection().await?;
            BotRepository::new(&mut conn).list_present().await?
        };
        let tenants: BTreeSet<_> = bots.iter().filter(|bot| bot.runs).map(|bot| bot.tenant_id).collect();
        let connected = self.bounded(self.config().deadlines.stop, self.host().connect_proxy(&tenants)).await;
        let (mut routes, mut taken) = (Vec::new(), HashSet::new());
        for bot in &bots {
            let Some(host) = self.host_name(&bot.name, bot.id) else { continue };
            // The older bot is the one whose name others know.
            if taken.insert(host.clone()) {
                let upstream = bot.runs.then(|| format!("{}:{BOT_PORT}", container_name(bot.id)));
                routes.push(Route { host, upstream });
            }
        }
        let changed = proxy.set_routes(&routes).await?;
        connected?;
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bot(number: u128) -> BotId {
        uuid::Uuid::from_u128(number).to_string().parse().unwrap()
    }

    #[test]
    fn a_label_is_the_name_and_a_hash_of_the_id() {
        let label = |name: &str, number| host_label(&name.parse().unwrap(), bot(number));
        assert_eq!(label("My_Bot", 1), "my-bot-7ac1b8d7010bb6cd");
        assert_ne!(label("My_Bot", 1), label("My_Bot", 2));
        assert_eq!(label("a_".repeat(31).as_str(), 1).len(), 62);
    }

    proptest! {
        #[test]
        fn every_name_gives_a_label_of_the_dns(name in "[A-Za-z0-9][A-Za-z0-9_-]{0,62}", number: u128) {
            let label = host_label(&name.parse().unwrap(), bot(number));
            prop_assert!(label.len() <= LABEL);
            prop_assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            prop_assert!(!label.starts_with('-') && !label.ends_with('-'));
        }
    }
}
