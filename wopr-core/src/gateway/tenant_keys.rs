//! Tenants' own accounts at providers of models. A call that is made with such a key is charged nothing, for the provider
//! charges the tenant; and nobody else is asked when the key does not serve.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use uuid::Uuid;

use super::catalogue::{Candidate, Model};
use super::error::GatewayError;
use super::model::Capability;
use super::ports::{ModelProvider, ProviderError};
use super::price::Quote;
use super::providers::ProviderState;
use super::service::{Gateway, Inner};
use super::tenant_keys_repository::TenantKeysRepository;
use crate::audit::{self, AuditEntry, Origin, Resource};
use crate::db::DbError;
use crate::ids::TenantId;
use crate::vault::{Place, Vault, VaultError};

/// What keys of tenants are sealed for.
const PURPOSE: &str = "tenant-key";
/// Keys of providers are shorter.
const LONGEST_KEY: usize = 512;
/// A label is for people.
const LONGEST_LABEL: usize = 100;
/// So many characters of a key tell people which it is.
const HINT_CHARS: usize = 4;

fn is_end_or_dash(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('-')
}

/// A provider that a tenant may have a key of its own for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyedProvider {
    /// <https://platform.openai.com>
    OpenAi,
    /// <https://console.anthropic.com>
    Anthropic,
    /// <https://aistudio.google.com>
    Google,
}

impl KeyedProvider {
    /// All of them; the first whose key is there answers for a model that says nothing of its maker.
    pub const ALL: [Self; 3] = [Self::OpenAi, Self::Anthropic, Self::Google];

    /// The public and stored word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Google => "google",
        }
    }

    /// The provider of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|provider| provider.as_str() == word)
    }

    /// Whose model that is, and what they call it: `openai/gpt-4o` and `gpt-4o` are the same.
    fn of_model(model: &str) -> (Option<Self>, &str) {
        if let Some((maker, name)) = model.split_once('/')
            && let Some(provider) = Self::from_word(maker)
        {
            return (Some(provider), name);
        }
        let of_maker = |marks: &[&str]| marks.iter().any(|mark| model.starts_with(mark));
        let series = |names: &[&str]| names.iter().any(|name| model.strip_prefix(name).is_some_and(is_end_or_dash));
        let openai = ["gpt-", "chatgpt-", "text-embedding-3-", "text-embedding-ada-"];
        let maker = if of_maker(&openai) || series(&["o1", "o3", "o4"]) {
            Some(Self::OpenAi)
        } else if of_maker(&["claude-"]) {
            Some(Self::Anthropic)
        } else if of_maker(&["gemini-", "text-embedding-0"]) {
            Some(Self::Google)
        } else {
            None
        };
        (maker, model)
    }
}

impl std::fmt::Display for KeyedProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a tenant's keys can be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyedUse {
    /// Conversations and completions of text.
    TextGen,
    /// Vectors.
    Embeddings,
}

impl KeyedUse {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::TextGen, Self::Embeddings];

    /// The public and stored word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TextGen => "text-gen",
            Self::Embeddings => "embeddings",
        }
    }

    /// The use of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|keyed| keyed.as_str() == word)
    }

    /// What calls of that kind are counted as, if a key of a tenant's can serve them.
    pub const fn of(capability: Capability) -> Option<Self> {
        match capability {
            Capability::ChatCompletions | Capability::TextCompletions => Some(Self::TextGen),
            Capability::Embeddings => Some(Self::Embeddings),
            Capability::Transcription | Capability::Tts | Capability::ImageGeneration => None,
        }
    }

    const fn capability(self) -> Capability {
        match self {
            Self::TextGen => Capability::ChatCompletions,
            Self::Embeddings => Capability::Embeddings,
        }
    }
}

/// Providers as they are asked with a tenant's own key.
#[async_trait]
pub trait KeyedProviders: Send + Sync {
    /// The provider, asked with that key.
    ///
    /// # Errors
    /// [`ProviderError::Account`] for a key that cannot be sent.
    fn with_key(&self, provider: KeyedProvider, key: &SecretString) -> Result<Arc<dyn ModelProvider>, ProviderError>;

    /// Whether the provider takes the key. Costs nothing.
    ///
    /// # Errors
    /// [`ProviderError`]; [`ProviderError::Account`] if it does not.
    async fn check(&self, provider: KeyedProvider, key: &SecretString) -> Result<(), ProviderError>;

    /// What the provider can be asked for.
    fn serves(&self, provider: KeyedProvider, capability: Capability) -> bool;
}

/// What makes tenants' own keys possible.
#[derive(Clone)]
pub struct KeyedParts {
    /// Where keys are sealed.
    pub vault: Vault,
    /// Who is asked with them.
    pub providers: Arc<dyn KeyedProviders>,
}

/// A key that a tenant keeps here. What it is stays sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantKey {
    /// The row.
    pub id: Uuid,
    /// Where it opens the tenant's account.
    pub provider: KeyedProvider,
    /// What the tenant calls it.
    pub label: String,
    /// Its last characters.
    pub hint: String,
    /// When a key for that provider was first kept.
    pub created_at: Timestamp,
    /// When this one was.
    pub updated_at: Timestamp,
}

/// Why a key is not kept or not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TenantKeyError {
    /// It is none.
    #[error("a key has 1 to {LONGEST_KEY} visible ASCII characters")]
    InvalidKey,
    /// It is too long.
    #[error("a label has at most {LONGEST_LABEL} characters and no control characters")]
    InvalidLabel,
    /// There is no such key.
    #[error("there is no key for {0}")]
    NotFound(KeyedProvider),
    /// No key of the tenant's serves this.
    #[error("no key of your own serves {0}: keep one first")]
    NoneServes(&'static str),
    /// The call is to be made with the tenant's own key, and there is none that serves it.
    #[error("calls of this kind are made with your own keys, and you keep none {whose}")]
    Missing {
        /// Of which provider.
        whose: String,
    },
    /// The provider does not take the tenant's key.
    #[error("{provider} refuses your own key with status {status}")]
    Refused {
        /// Who refuses it.
        provider: String,
        /// 401, 402, 403 or 429.
        status: u16,
        /// When to try again, if the provider says.
        retry_after: Option<std::time::Duration>,
    },
    /// Keys of tenants are not kept here.
    #[error("keys of your own cannot be used here")]
    Off,
}

/// What a caller's tenant brings along, in memory for as long as the caller is.
#[derive(Default)]
pub(super) struct OwnKeys {
    uses: Vec<KeyedUse>,
    providers: HashMap<KeyedProvider, Keyed>,
}

/// A provider with the tenant's key. How that is doing is nobody else's concern: neither is it asked less because our account
/// fails, nor is our account asked less because of it.
struct Keyed {
    provider: Arc<dyn ModelProvider>,
    state: Arc<ProviderState>,
}

impl std::fmt::Debug for OwnKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnKeys").field("uses", &self.uses).field("providers", &self.providers.keys()).finish()
    }
}

impl OwnKeys {
    /// Whether calls of that kind are made with the tenant's own keys.
    pub(super) fn serve(&self, capability: Capability) -> bool {
        KeyedUse::of(capability).is_some_and(|keyed| self.uses.contains(&keyed))
    }

    /// Who is asked for a model: nobody but its maker, with the tenant's key.
    pub(super) fn candidate(
        &self,
        inner: &Inner,
        capability: Capability,
        model: &str,
    ) -> Result<Candidate, TenantKeyError> {
        let (maker, name) = KeyedProvider::of_model(model);
        let has = |provider: KeyedProvider| {
            let found = self.providers.get(&provider)?;
            (!found.provider.dialects(capability).is_empty()).then_some((provider, found))
        };
        let found = match maker {
            Some(maker) => has(maker),
            None => KeyedProvider::ALL.into_iter().find_map(has),
        };
        let (named, Keyed { provider, state }) = found.ok_or_else(|| TenantKeyError::Missing {
            whose: maker.map_or_else(|| format!("for {capability}"), |maker| format!("for {maker}")),
        })?;
        Ok(Candidate {
            provider: Arc::clone(provider),
            state: Arc::clone(state),
            lane: inner.metrics.lane(named.as_str()),
            model: Arc::new(Model {
                id: model.to_owned(),
                capability,
                provider: named.as_str().to_owned(),
                provider_model: name.to_owned(),
                max_output_tokens: None,
                priority: 0,
            }),
            quote: Arc::new(Quote::paid_by_the_tenant()),
            own: false,
        })
    }
}

fn place(tenant: &str, provider: KeyedProvider) -> Place<'_> {
    Place { purpose: PURPOSE, owner: tenant, name: provider.as_str() }
}

impl Inner {
    fn keyed(&self) -> Result<&KeyedParts, GatewayError> {
        self.keyed.as_ref().ok_or(GatewayError::TenantKey(TenantKeyError::Off))
    }
}

/// What a tenant's calls are made with, as far as that is its own.
pub(super) async fn own_keys(
    db: &crate::db::Db,
    keyed: Option<&KeyedParts>,
    tenant: TenantId,
) -> Result<Option<Arc<OwnKeys>>, DbError> {
    let Some(keyed) = keyed else { return Ok(None) };
    let mut conn = db.connection().await?;
    let mut repository = TenantKeysRepository::new(&mut conn);
    let uses = repository.list_uses(tenant).await?;
    if uses.is_empty() {
        return Ok(None);
    }
    let owner = tenant.to_string();
    let mut own = OwnKeys { uses, providers: HashMap::new() };
    for (provider, sealed) in repository.list_sealed(tenant).await? {
        let opened = keyed.vault.open(place(&owner, provider), &sealed);
        match opened.map(|key| keyed.providers.with_key(provider, &key)) {
            Ok(Ok(asked)) => {
                let state = Arc::new(ProviderState::apart(provider.as_str()));
                own.providers.insert(provider, Keyed { provider: asked, state });
            }
            Ok(Err(error)) => {
                tracing::warn!(tenant.id = %tenant, "a tenant's key for {provider} cannot be sent: {error}");
            }
            Err(error) => {
                tracing::error!(tenant.id = %tenant, "a tenant's key for {provider} cannot be opened: {error}");
            }
        }
    }
    Ok(Some(Arc::new(own)))
}

impl Gateway {
    /// The keys that a tenant keeps here.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn tenant_keys(&self, tenant: TenantId) -> Result<Vec<TenantKey>, GatewayError> {
        let mut conn = self.inner.db.connection().await?;
        Ok(TenantKeysRepository::new(&mut conn).list(tenant).await?)
    }

    /// Keeps a tenant's key in place of the one before, and answers with its id. Every process knows within seconds.
    ///
    /// # Errors
    /// [`TenantKeyError::InvalidKey`], [`TenantKeyError::InvalidLabel`], [`TenantKeyError::Off`],
    /// [`GatewayError::Storage`].
    pub async fn keep_tenant_key(
        &self,
        origin: &Origin,
        tenant: TenantId,
        provider: KeyedProvider,
        key: &SecretString,
        label: &str,
    ) -> Result<Uuid, GatewayError> {
        let keyed = self.inner.keyed()?;
        let text = key.expose_secret();
        if !(1..=LONGEST_KEY).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TenantKeyError::InvalidKey.into());
        }
        if label.chars().count() > LONGEST_LABEL || label.chars().any(char::is_control) {
            return Err(TenantKeyError::InvalidLabel.into());
        }
        let sealed = keyed.vault.seal(place(&tenant.to_string(), provider), key)?;
        // Of a short key nothing is told.
        let hint = if text.len() >= 4 * HINT_CHARS { &text[text.len() - HINT_CHARS..] } else { "" };
        let at = self.inner.clock.now();
        self.inner
            .db
            .transaction(async |conn| {
                let id = TenantKeysRepository::new(conn).save(at, tenant, provider, label, hint, &sealed).await?;
                let entry = AuditEntry::success(
                    origin,
                    Some(tenant),
                    "tenant_key.store",
                    Resource::new("tenant_key", provider.as_str()),
                );
                audit::record_in(conn, at, &entry).await?;
                Ok(id)
            })
            .await
    }

    /// Forgets a tenant's key.
    ///
    /// # Errors
    /// [`TenantKeyError::NotFound`], [`GatewayError::Storage`].
    pub async fn drop_tenant_key(
        &self,
        origin: &Origin,
        tenant: TenantId,
        provider: KeyedProvider,
    ) -> Result<(), GatewayError> {
        let at = self.inner.clock.now();
        self.inner
            .db
            .transaction(async |conn| {
                if !TenantKeysRepository::new(conn).delete(tenant, provider).await? {
                    return Err(TenantKeyError::NotFound(provider).into());
                }
                let entry = AuditEntry::success(
                    origin,
                    Some(tenant),
                    "tenant_key.delete",
                    Resource::new("tenant_key", provider.as_str()),
                );
                Ok::<_, GatewayError>(audit::record_in(conn, at, &entry).await?)
            })
            .await
    }

    /// Whether a provider takes a key; it is not kept.
    ///
    /// # Errors
    /// [`TenantKeyError::Off`]; what the provider says is the answer.
    pub async fn check_tenant_key(
        &self,
        provider: KeyedProvider,
        key: &SecretString,
    ) -> Result<Result<(), ProviderError>, GatewayError> {
        Ok(self.inner.keyed()?.providers.check(provider, key).await)
    }

    /// What of a tenant's calls is made with its own keys.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn keyed_uses(&self, tenant: TenantId) -> Result<Vec<KeyedUse>, GatewayError> {
        let mut conn = self.inner.db.connection().await?;
        Ok(TenantKeysRepository::new(&mut conn).list_uses(tenant).await?)
    }

    /// The key that a tenant's calls of that kind would be made with, if no maker is named.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn key_for(&self, tenant: TenantId, keyed: KeyedUse) -> Result<Option<TenantKey>, GatewayError> {
        let Some(parts) = &self.inner.keyed else { return Ok(None) };
        let mut keys = self.tenant_keys(tenant).await?;
        keys.sort_by_key(|key| key.provider);
        Ok(keys.into_iter().find(|key| parts.providers.serves(key.provider, keyed.capability())))
    }

    /// Has a tenant's calls made with its own keys, or by us. Every process knows within seconds.
    ///
    /// # Errors
    /// [`TenantKeyError::NoneServes`] where no key is kept that could, [`GatewayError::Storage`].
    pub async fn set_keyed_uses(
        &self,
        origin: &Origin,
        tenant: TenantId,
        uses: &[(KeyedUse, bool)],
    ) -> Result<(), GatewayError> {
        for (keyed, own) in uses {
            if *own && self.key_for(tenant, *keyed).await?.is_none() {
                return Err(TenantKeyError::NoneServes(keyed.as_str()).into());
            }
        }
        let at = self.inner.clock.now();
        self.inner
            .db
            .transaction(async |conn| {
                for (keyed, own) in uses {
                    TenantKeysRepository::new(conn).set_use(at, tenant, *keyed, *own).await?;
                    let entry = AuditEntry::success(
                        origin,
                        Some(tenant),
                        "gateway.inference_mode",
                        Resource::new("capability", keyed.as_str()),
                    )
                    .with("mode", if *own { "byok" } else { "hosted" });
                    audit::record_in(conn, at, &entry).await?;
                }
                Ok::<_, GatewayError>(())
            })
            .await
    }

    /// Seals anew what an older root has sealed; answers how many keys that were. For a periodic task.
    ///
    /// # Errors
    /// [`GatewayError::Storage`]; [`GatewayError::Vault`] if one cannot be opened, after the others were done.
    pub async fn reseal_tenant_keys(&self) -> Result<usize, GatewayError> {
        let Some(KeyedParts { vault, .. }) = &self.inner.keyed else { return Ok(0) };
        let mut conn = self.inner.db.connection().await?;
        let mut repository = TenantKeysRepository::new(&mut conn);
        let (mut done, mut failed) = (0, None);
        for (id, tenant, provider, sealed) in repository.list_all_sealed().await? {
            if !vault.is_outdated(&sealed) {
                continue;
            }
            let owner = tenant.to_string();
            let place = place(&owner, provider);
            match vault.open(place, &sealed).and_then(|key| vault.seal(place, &key)) {
                Ok(fresh) => done += usize::from(repository.reseal(id, &sealed, &fresh).await?),
                Err(error) => {
                    tracing::error!(tenant.id = %tenant, "a tenant's key for {provider} cannot be sealed anew: {error}");
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(done), |error| Err(error.into()))
    }
}

impl From<TenantKeyError> for GatewayError {
    fn from(error: TenantKeyError) -> Self {
        Self::TenantKey(error)
    }
}

impl From<VaultError> for GatewayError {
    fn from(error: VaultError) -> Self {
        Self::Vault(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_tells_whose_it_is() {
        for (model, maker, name) in [
            ("openai/gpt-4o", Some(KeyedProvider::OpenAi), "gpt-4o"),
            ("gpt-4o", Some(KeyedProvider::OpenAi), "gpt-4o"),
            ("text-embedding-3-small", Some(KeyedProvider::OpenAi), "text-embedding-3-small"),
            ("o3-mini", Some(KeyedProvider::OpenAi), "o3-mini"),
            ("o1", Some(KeyedProvider::OpenAi), "o1"),
            ("text-embedding-004", Some(KeyedProvider::Google), "text-embedding-004"),
            ("o1zone", None, "o1zone"),
            ("anthropic/claude-x", Some(KeyedProvider::Anthropic), "claude-x"),
            ("claude-x", Some(KeyedProvider::Anthropic), "claude-x"),
            ("google/gemini-2.0", Some(KeyedProvider::Google), "gemini-2.0"),
            ("gemini-2.0", Some(KeyedProvider::Google), "gemini-2.0"),
            ("mistral/large", None, "mistral/large"),
            ("llama", None, "llama"),
        ] {
            assert_eq!(KeyedProvider::of_model(model), (maker, name), "{model}");
        }
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for provider in KeyedProvider::ALL {
            assert_eq!(KeyedProvider::from_word(provider.as_str()), Some(provider));
        }
        for keyed in KeyedUse::ALL {
            assert_eq!(KeyedUse::from_word(keyed.as_str()), Some(keyed));
            assert_eq!(KeyedUse::of(keyed.capability()), Some(keyed));
        }
        assert_eq!(KeyedUse::of(Capability::Tts), None);
    }
}
