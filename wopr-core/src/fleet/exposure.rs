//! Bots' names outside, and what a reverse proxy needs to reach them.
//!
//! A bot's container has a name on its tenant's network that is also the first part of its host name outside. So a proxy that is
//! on that network needs to be told nothing of the bots: it asks the engine's name server for the first part of the name that it
//! is asked for.

use sha2::{Digest as _, Sha256};

use super::error::FleetError;
use super::repository::BotRepository;
use super::service::Fleet;
use super::settings::BotName;
use crate::ids::{BotId, TenantId};

/// The longest part of a host name.
const LABEL: usize = 63;
/// Bytes of the hash in it.
const HASH: usize = 8;

/// What a bot is called on its tenant's network and, before the domain, outside. A hash of its id ends it: tenants may call their
/// bots alike, or like somebody else's container, and nobody may have the name of another's bot, not even of one that is gone.
pub fn host_label(name: &BotName, bot: BotId) -> String {
    let hash = hex::encode(&Sha256::digest(bot.to_string().as_bytes())[..HASH]);
    let name = name.to_host_name();
    let readable = name.get(..LABEL - 1 - hash.len()).unwrap_or(&name).trim_end_matches('-');
    format!("{readable}-{hash}")
}

impl Fleet {
    /// The name under which a bot is reached from outside, where there is a domain for that.
    pub fn host_name(&self, name: &BotName, bot: BotId) -> Option<String> {
        self.config().domain.as_ref().map(|domain| format!("{}.{domain}", host_label(name, bot)))
    }

    /// Puts the reverse proxy on the network of each tenant that has bots, as far as there is one, and answers with the tenants whose
    /// bots it does not reach; the others' it does.
    ///
    /// # Errors
    /// [`FleetError::Storage`]; [`FleetError::Host`] when the engine does not tell what there is.
    pub async fn connect_proxy(&self) -> Result<Vec<TenantId>, FleetError> {
        let tenants = {
            let mut conn = self.db().connection().await?;
            BotRepository::new(&mut conn).list_tenants().await?
        };
        let failed = self.bounded(self.config().deadlines.stop, self.host().connect_proxy(&tenants)).await?;
        let unreached: Vec<TenantId> = failed.keys().copied().collect();
        for tenant in self.new_unreached(&unreached) {
            let error = &failed[&tenant];
            tracing::warn!(tenant.id = %tenant, "the reverse proxy does not get to the network of tenant {tenant}: {error}");
        }
        Ok(unreached)
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
