use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use secrecy::SecretString;

use crate::audit::Actor;
use crate::ids::{ApiKeyId, BotId, TenantId};

/// What a key may do; from `Read` on, each scope includes the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Call models, and nothing else: what a bot has.
    Inference,
    /// Look.
    Read,
    /// Look and change.
    Write,
    /// Everything, administration included.
    Admin,
}

impl Scope {
    /// `inference`, `read`, `write` or `admin`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }

    /// Whether this scope is enough where `needed` is asked for.
    pub fn includes(self, needed: Self) -> bool {
        self == needed || needed != Self::Inference && self >= needed
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not `inference`, `read`, `write` or `admin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a scope: inference, read, write or admin")]
pub struct UnknownScope;

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        match text {
            "inference" => Ok(Self::Inference),
            "read" => Ok(Self::Read),
            "write" => Ok(Self::Write),
            "admin" => Ok(Self::Admin),
            _ => Err(UnknownScope),
        }
    }
}

/// Whoever presents a valid key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHolder {
    /// The key. Operator tokens, which are configured and not stored, have an id made from their name.
    pub id: ApiKeyId,
    /// Who acts, for the audit log.
    pub actor: Actor,
    /// The tenant it is bound to; `None` is bound to none.
    pub tenant_id: Option<TenantId>,
    /// The bot it was made for, if any.
    pub bot_id: Option<BotId>,
    /// What it may do.
    pub scope: Scope,
    /// Whether it administers the platform: an admin key that is bound to no tenant.
    pub platform_admin: bool,
}

impl KeyHolder {
    pub(super) fn new(
        id: ApiKeyId,
        actor: Actor,
        tenant_id: Option<TenantId>,
        bot_id: Option<BotId>,
        scope: Scope,
    ) -> Self {
        Self { id, actor, tenant_id, bot_id, scope, platform_admin: tenant_id.is_none() && scope == Scope::Admin }
    }
}

/// A stored key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The id.
    pub id: ApiKeyId,
    /// The tenant it is bound to.
    pub tenant_id: Option<TenantId>,
    /// The bot it was made for, if any.
    pub bot_id: Option<BotId>,
    /// What it may do.
    pub scope: Scope,
    /// What its owner calls it.
    pub label: String,
    /// The first characters of the secret, to recognise it by.
    pub prefix: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it lets nobody in; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to within [`LAST_USED_STEP`](super::Auth::LAST_USED_STEP).
    pub last_used_at: Option<Timestamp>,
    /// Since when it lets nobody in any more.
    pub revoked_at: Option<Timestamp>,
}

/// A key that has just been made. Its secret is known here only.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    /// What is stored of it.
    pub key: ApiKey,
    /// What lets its holder in: `wopr_<scope>_<32 letters and digits>`, or `wopr_sk_<43 characters>_<checksum>` for models.
    pub plaintext: SecretString,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scope_includes_the_ones_before_it_but_models_are_apart() {
        for scope in [Scope::Read, Scope::Write, Scope::Admin] {
            assert!(!scope.includes(Scope::Inference) && !Scope::Inference.includes(scope), "{scope}");
        }
        assert!(Scope::Inference.includes(Scope::Inference));
        assert_eq!("inference".parse(), Ok(Scope::Inference));
        let all = [Scope::Read, Scope::Write, Scope::Admin];
        for (place, scope) in all.into_iter().enumerate() {
            assert_eq!(scope.as_str().parse(), Ok(scope));
            for (other_place, other) in all.into_iter().enumerate() {
                assert_eq!(scope.includes(other), place >= other_place, "{scope} {other}");
            }
        }
        assert_eq!("Admin".parse::<Scope>(), Err(UnknownScope));
    }

    #[test]
    fn only_an_unbound_admin_key_administers_the_platform() {
        let at = Timestamp::constant(1_800_000_000, 0);
        let holder = |tenant, scope| {
            KeyHolder::new(ApiKeyId::new(at), Actor::System("test"), tenant, None, scope).platform_admin
        };
        assert!(holder(None, Scope::Admin));
        assert!(!holder(Some(TenantId::new(at)), Scope::Admin));
        assert!(!holder(None, Scope::Write));
    }
}
