use diesel_async::AsyncPgConnection;
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret as _, SecretString};

use super::Auth;
use crate::audit::{self, Actor, AuditEntry, Origin, Resource};
use crate::auth::model::is_plain;
use crate::auth::repository::keys::KeyRepository;
use crate::auth::{ApiKey, AuthError, KeyHolder, NewApiKey, Scope, random};
use crate::db::DbError;
use crate::ids::{ApiKeyId, BotId, TenantId};

/// Letters and digits of a key, after `wopr_<scope>_`: 190 bits.
const KEY_CHARS: usize = 32;
/// How many of them are shown to recognise a key by.
const SHOWN_CHARS: usize = 4;
const MAX_LABEL_CHARS: usize = 128;
/// What a key for models begins with, so that it is recognised where it does not belong.
const SERVICE_KEY_BEGIN: &str = "wopr_sk_";
/// Letters and digits of a key for models: 256 bits.
const SERVICE_KEY_CHARS: usize = 43;

/// Whether a text has the form of a key for models, its checksum included. A key that was mistyped or made up is refused
/// without asking anybody.
pub fn is_service_key(text: &str) -> bool {
    let parts = text.strip_prefix(SERVICE_KEY_BEGIN).and_then(|rest| rest.split_once('_'));
    parts.is_some_and(|(secret, check)| {
        secret.len() == SERVICE_KEY_CHARS
            && secret.bytes().all(|byte| byte.is_ascii_alphanumeric())
            && text.strip_suffix(check).and_then(|rest| rest.strip_suffix('_')).map(checksum).as_deref() == Some(check)
    })
}

/// Six hexadecimal digits of SHA-256.
fn checksum(text: &str) -> String {
    hex::encode(&random::digest(text)[..3])
}

impl Auth {
    /// A key's last use is written when the time written before is at least this old.
    pub const LAST_USED_STEP: SignedDuration = SignedDuration::from_mins(5);

    /// Who presents this key: a configured operator token, or a stored key that is neither revoked nor expired.
    ///
    /// # Errors
    /// [`AuthError::Storage`].
    pub async fn find_api_key(&self, plaintext: &str) -> Result<Option<KeyHolder>, AuthError> {
        if let Some(holder) = self.operators.find(plaintext) {
            return Ok(Some(holder));
        }
        let now = self.clock.now();
        let mut conn = self.db.connection().await?;
        let mut keys = KeyRepository::new(&mut conn);
        let Some(key) = keys.find_valid(&random::digest(plaintext), now).await? else { return Ok(None) };
        let step_ago = now - Self::LAST_USED_STEP;
        if key.last_used_at.is_none_or(|used_at| used_at <= step_ago) {
            keys.touch(key.id, now, step_ago).await?;
        }
        Ok(Some(KeyHolder::new(key.id, Actor::ApiKey(key.id), key.tenant_id, key.bot_id, key.scope)))
    }

    /// Makes a key for a tenant, or one bound to none. The caller has checked that `origin` may.
    ///
    /// # Errors
    /// [`AuthError::InvalidLabel`].
    pub async fn create_api_key(
        &self,
        origin: &Origin,
        tenant_id: Option<TenantId>,
        scope: Scope,
        label: &str,
        expires_at: Option<Timestamp>,
    ) -> Result<NewApiKey, AuthError> {
        if label.trim().is_empty() || !is_plain(label, MAX_LABEL_CHARS) {
            return Err(AuthError::InvalidLabel);
        }
        let now = self.clock.now();
        let new = new_key(now, tenant_id, scope, label, None, expires_at);
        self.db
            .transaction(async |conn| {
                KeyRepository::new(conn).insert(&new.key, &random::digest_of(&new.plaintext)).await?;
                let resource = Resource::new("api_key", new.key.id);
                let entry = AuditEntry::success(origin, tenant_id, "api_key.create", resource)
                    .with("scope", scope.as_str())
                    .with("prefix", new.key.prefix.as_str());
                audit::record_in(conn, now, &entry).await?;
                Ok(new)
            })
            .await
    }

    /// A tenant's keys, or those bound to none; newest first, revoked ones included.
    ///
    /// # Errors
    /// [`AuthError::Storage`].
    pub async fn list_api_keys(&self, tenant_id: Option<TenantId>) -> Result<Vec<ApiKey>, AuthError> {
        let mut conn = self.db.connection().await?;
        Ok(KeyRepository::new(&mut conn).list(tenant_id).await?)
    }

    /// Revokes one of a tenant's keys, at once. Doing so again changes nothing.
    ///
    /// # Errors
    /// [`AuthError::KeyNotFound`], also for another tenant's key.
    pub async fn revoke_api_key(
        &self,
        origin: &Origin,
        tenant_id: Option<TenantId>,
        id: ApiKeyId,
    ) -> Result<ApiKey, AuthError> {
        let now = self.clock.now();
        self.db
            .transaction(async |conn| {
                let key = KeyRepository::new(conn).revoke(now, tenant_id, id).await?;
                let key = key.ok_or(AuthError::KeyNotFound(id))?;
                let entry = AuditEntry::success(origin, tenant_id, "api_key.revoke", Resource::new("api_key", id));
                audit::record_in(conn, now, &entry).await?;
                Ok(key)
            })
            .await
    }

    /// Makes a key in the caller's transaction, for a bot or a person. The caller records why.
    ///
    /// # Errors
    /// [`DbError`].
    pub(crate) async fn issue_key_in(
        conn: &mut AsyncPgConnection,
        at: Timestamp,
        tenant_id: Option<TenantId>,
        scope: Scope,
        label: &str,
        bot_id: Option<BotId>,
    ) -> Result<(ApiKeyId, SecretString), DbError> {
        let new = new_key(at, tenant_id, scope, label, bot_id, None);
        KeyRepository::new(conn).insert(&new.key, &random::digest_of(&new.plaintext)).await?;
        Ok((new.key.id, new.plaintext))
    }

    /// Ends in the caller's transaction every key that was made for a bot, from then on.
    ///
    /// # Errors
    /// [`DbError`].
    pub(crate) async fn expire_bot_keys_in(
        conn: &mut AsyncPgConnection,
        until: Timestamp,
        bot_id: BotId,
    ) -> Result<(), DbError> {
        KeyRepository::new(conn).expire_of_bot(until, bot_id).await
    }

    /// Revokes in the caller's transaction every key that was made for a bot.
    ///
    /// # Errors
    /// [`DbError`].
    pub(crate) async fn revoke_bot_keys_in(
        conn: &mut AsyncPgConnection,
        at: Timestamp,
        bot_id: BotId,
    ) -> Result<(), DbError> {
        KeyRepository::new(conn).revoke_of_bot(at, bot_id).await
    }
}

fn new_key(
    at: Timestamp,
    tenant_id: Option<TenantId>,
    scope: Scope,
    label: &str,
    bot_id: Option<BotId>,
    expires_at: Option<Timestamp>,
) -> NewApiKey {
    let (begin, length) = match scope {
        Scope::Inference => (SERVICE_KEY_BEGIN.to_owned(), SERVICE_KEY_CHARS),
        Scope::Read | Scope::Write | Scope::Admin => (format!("wopr_{scope}_"), KEY_CHARS),
    };
    let mut plaintext = format!("{begin}{}", random::letters_and_digits(length).expose_secret());
    let prefix = plaintext[..begin.len() + SHOWN_CHARS].to_owned();
    if scope == Scope::Inference {
        plaintext = format!("{plaintext}_{}", checksum(&plaintext));
    }
    let key = ApiKey {
        id: ApiKeyId::new(at),
        tenant_id,
        bot_id,
        scope,
        label: label.to_owned(),
        prefix,
        created_at: at,
        expires_at,
        last_used_at: None,
        revoked_at: None,
    };
    NewApiKey { key, plaintext: plaintext.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_for_models_is_recognised_and_a_wrong_one_is_refused_by_its_form() {
        let at = Timestamp::constant(1_800_000_000, 0);
        let new = new_key(at, Some(TenantId::new(at)), Scope::Inference, "bot", None, None);
        let key = new.plaintext.expose_secret();
        assert!(is_service_key(key), "{}", key.len());
        assert!(key.starts_with(&new.key.prefix) && new.key.prefix.len() == SERVICE_KEY_BEGIN.len() + SHOWN_CHARS);
        let mut swapped: Vec<char> = key.chars().collect();
        swapped.swap(9, 10);
        let swapped: String = swapped.into_iter().collect();
        let longer = format!("{key}0");
        for wrong in [swapped.as_str(), &longer, &key[..key.len() - 1], &key[1..], "", "wopr_sk_", "wopr_sk__"] {
            assert!(wrong == key || !is_service_key(wrong), "{wrong}");
        }
        let other = new_key(at, None, Scope::Read, "person", None, None);
        assert!(!is_service_key(other.plaintext.expose_secret()));
    }
}
