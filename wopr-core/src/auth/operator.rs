use secrecy::SecretString;
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use uuid::Builder;

use super::random::{digest, digest_of};
use super::{KeyHolder, Scope};
use crate::audit::Actor;
use crate::ids::{ApiKeyId, TenantId};

/// A token that is configured instead of stored: what operators have before there is anybody to make keys for.
#[derive(Debug, Clone)]
pub struct OperatorToken {
    /// Names it in the audit log, such as `FLEET_API_TOKEN_ADMIN`.
    pub name: String,
    /// The token.
    pub token: SecretString,
    /// What it may do.
    pub scope: Scope,
    /// The tenant it is bound to; `None` is bound to none.
    pub tenant_id: Option<TenantId>,
}

/// The configured tokens, as digests.
pub(super) struct OperatorTokens(Vec<([u8; 32], KeyHolder)>);

impl OperatorTokens {
    pub(super) fn new(tokens: Vec<OperatorToken>) -> Self {
        Self(tokens.into_iter().map(|token| (digest_of(&token.token), holder(token))).collect())
    }

    /// The holder of the token. Looks at all of them, so that the time taken tells nothing.
    pub(super) fn find(&self, plaintext: &str) -> Option<KeyHolder> {
        let given = digest(plaintext);
        let mut place = u64::MAX;
        for (index, (known, _)) in (0_u64..).zip(&self.0) {
            let same: Choice = known.ct_eq(&given);
            place.conditional_assign(&index, same);
        }
        self.0.get(usize::try_from(place).ok()?).map(|(_, holder)| holder.clone())
    }
}

fn holder(token: OperatorToken) -> KeyHolder {
    let name = digest(&token.name);
    let mut id = [0; 16];
    id.copy_from_slice(&name[..16]);
    // A "custom" UUID (version 8): the same for a name on every replica, and never one of a stored key.
    let id = ApiKeyId::from_uuid(Builder::from_custom_bytes(id).into_uuid());
    KeyHolder::new(id, Actor::Operator(token.name), token.tenant_id, None, token.scope)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> OperatorTokens {
        let token = |name: &str, token: &str, scope| OperatorToken {
            name: name.to_owned(),
            token: token.into(),
            scope,
            tenant_id: None,
        };
        OperatorTokens::new(vec![
            token("READ", "wopr_read_aaaaaaaaaaaaaaaa", Scope::Read),
            token("ADMIN", "wopr_admin_bbbbbbbbbbbbbbbb", Scope::Admin),
        ])
    }

    #[test]
    fn a_configured_token_is_found_and_no_other() {
        let tokens = tokens();
        let admin = tokens.find("wopr_admin_bbbbbbbbbbbbbbbb").unwrap();
        assert!(admin.platform_admin);
        assert_eq!(admin.actor, Actor::Operator("ADMIN".to_owned()));
        let read = tokens.find("wopr_read_aaaaaaaaaaaaaaaa").unwrap();
        assert!(!read.platform_admin && read.scope == Scope::Read && read.id != admin.id);
        assert_eq!(tokens.find("wopr_admin_bbbbbbbbbbbbbbbc"), None);
        assert_eq!(tokens.find(""), None);
        assert_eq!(OperatorTokens::new(vec![]).find(""), None);
    }

    #[test]
    fn its_id_is_the_same_after_a_restart() {
        let token = "wopr_read_aaaaaaaaaaaaaaaa";
        assert_eq!(tokens().find(token), tokens().find(token));
    }
}
