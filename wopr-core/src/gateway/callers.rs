//! Who presents a key, remembered for a moment.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::error::GatewayError;
use super::tenant_keys::{KeyedParts, OwnKeys, own_keys};
use crate::auth::{Auth, Scope, is_service_key};
use crate::billing::{Billing, BillingError};
use crate::db::Db;
use crate::ids::{ApiKeyId, BotId, TenantId};

/// How long a key is good without asking again; a revocation is heard of sooner.
const KNOWN: Duration = Duration::from_secs(10);
/// How long a key is bad without asking again.
const UNKNOWN: Duration = Duration::from_secs(5);
/// More keys are not remembered.
const REMEMBERED: usize = 10_000;

/// Who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The key that was presented.
    pub key_id: ApiKeyId,
    /// Who pays.
    pub tenant_id: TenantId,
    /// The bot, if the key is one's.
    pub bot_id: Option<BotId>,
    standing: Standing,
    /// What the tenant brings along for its calls.
    pub(super) own_keys: Option<Arc<OwnKeys>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Usable,
    Suspended,
    Banned,
}

#[derive(Clone)]
struct Known {
    caller: Option<Arc<Caller>>,
    until: Instant,
}

/// Keys that were presented not long ago, by their hash.
pub(super) struct Callers {
    auth: Auth,
    billing: Billing,
    db: Db,
    keyed: Option<KeyedParts>,
    known: RwLock<HashMap<[u8; 32], Known>>,
    /// How often something was forgotten: what was asked for before that may be out of date.
    forgotten: AtomicU64,
}

impl Callers {
    pub(super) fn new(auth: Auth, billing: Billing, db: Db, keyed: Option<KeyedParts>) -> Self {
        Self { auth, billing, db, keyed, known: RwLock::default(), forgotten: AtomicU64::new(0) }
    }

    /// Whose key it is, if that somebody may call.
    pub(super) async fn get(&self, key: &str) -> Result<Arc<Caller>, GatewayError> {
        if !is_service_key(key) {
            return Err(GatewayError::InvalidKey);
        }
        let hash: [u8; 32] = Sha256::digest(key).into();
        let now = Instant::now();
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned();
        let caller = match known.filter(|known| now < known.until) {
            Some(known) => known.caller,
            None => self.ask(hash, key, now).await?,
        };
        let caller = caller.ok_or(GatewayError::InvalidKey)?;
        match caller.standing {
            Standing::Usable => Ok(caller),
            Standing::Suspended => Err(GatewayError::AccountSuspended),
            Standing::Banned => Err(GatewayError::AccountBanned),
        }
    }

    async fn ask(&self, hash: [u8; 32], key: &str, now: Instant) -> Result<Option<Arc<Caller>>, GatewayError> {
        let forgotten = self.forgotten.load(Ordering::Acquire);
        let holder = self.auth.find_api_key(key).await?.filter(|holder| holder.scope == Scope::Inference);
        let caller = match holder.and_then(|holder| Some((holder.id, holder.tenant_id?, holder.bot_id))) {
            None => None,
            Some((key_id, tenant_id, bot_id)) => {
                let standing = match self.billing.standing(tenant_id).await?.require_usable() {
                    Ok(()) => Standing::Usable,
                    Err(BillingError::AccountBanned) => Standing::Banned,
                    Err(_) => Standing::Suspended,
                };
                let own_keys = own_keys(&self.db, self.keyed.as_ref(), tenant_id).await?;
                Some(Arc::new(Caller { key_id, tenant_id, bot_id, standing, own_keys }))
            }
        };
        let until = now + if caller.is_some() { KNOWN } else { UNKNOWN };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.retain(|_, known| now < known.until);
        }
        // Checked under the lock that whoever forgets takes as well.
        if known.len() < REMEMBERED && self.forgotten.load(Ordering::Acquire) == forgotten {
            known.insert(hash, Known { caller: caller.clone(), until });
        }
        Ok(caller)
    }

    /// The tenant's keys or standing have changed.
    pub(super) fn forget(&self, tenant: TenantId) {
        let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        all.retain(|_, known| known.caller.as_ref().is_some_and(|caller| caller.tenant_id != tenant));
    }

    /// Something may have changed that was not heard of.
    pub(super) fn forget_all(&self) {
        let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        all.clear();
    }

    /// Keys that nobody has presented for a while are in memory no longer, nor what their tenants brought along.
    pub(super) fn forget_old(&self, now: Instant) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).retain(|_, known| now < known.until);
    }
}
