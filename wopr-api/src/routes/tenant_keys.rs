//! Tenants' own keys at providers of models, and what is asked with them.

use axum::extract::State;
use axum::http::request::Parts;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;
use wopr_core::auth::Scope;
use wopr_core::gateway::{KeyedProvider, KeyedUse, ProviderError, TenantKey};
use wopr_core::ids::TenantId;

use crate::error::{ApiError, Issue};
use crate::extract::{Json, Path, WriteCaller, origin};
use crate::state::AppState;
use crate::trpc::{Access, Context, NoInput, Procedures};

/// What is answered by us alone.
const HOSTED_ONLY: [&str; 2] = ["transcription", "image-gen"];

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(rest_list)).routes(routes!(rest_get, rest_put, rest_delete))
}

pub(crate) fn procedures(p: &mut Procedures) {
    p.query("capabilities.listKeys", Access::Tenant, list_keys);
    p.query("capabilities.getKey", Access::Tenant, get_key);
    p.mutation("capabilities.storeKey", Access::Tenant, store_key);
    p.mutation("capabilities.deleteKey", Access::Tenant, delete_key);
    p.mutation("capabilities.testKey", Access::Tenant, test_key);
    p.query("capabilities.listCapabilitySettings", Access::Tenant, list_settings);
    p.mutation("capabilities.updateCapabilitySettings", Access::Tenant, update_settings);
    p.query("billing.inferenceMode", Access::Tenant, inference_mode);
    p.mutation("billing.setInferenceMode", Access::Tenant, set_inference_mode);
}

/// A key that is kept; never the key itself.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct KeyMeta {
    id: Uuid,
    #[schema(value_type = String)]
    tenant_id: TenantId,
    /// openai, anthropic or google.
    provider: &'static str,
    label: String,
    /// In milliseconds since 1970.
    created_at: i64,
    updated_at: i64,
}

impl KeyMeta {
    fn new(tenant_id: TenantId, key: TenantKey) -> Self {
        Self {
            id: key.id,
            tenant_id,
            provider: key.provider.as_str(),
            label: key.label,
            created_at: key.created_at.as_millisecond(),
            updated_at: key.updated_at.as_millisecond(),
        }
    }
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Keys {
    keys: Vec<KeyMeta>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Stored {
    ok: bool,
    id: Uuid,
    provider: &'static str,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Deleted {
    ok: bool,
    provider: &'static str,
}

fn provider(word: &str) -> Result<KeyedProvider, ApiError> {
    KeyedProvider::from_word(word).ok_or_else(|| {
        let all = KeyedProvider::ALL.map(KeyedProvider::as_str);
        let message = format!("keys of your own are kept for {}", all.join(", "));
        let body = serde_json::json!({ "error": message, "validProviders": all });
        ApiError::invalid_input(vec![Issue::field("provider", message)]).contract_body(body)
    })
}

async fn list(state: &AppState, tenant: TenantId) -> Result<Keys, ApiError> {
    let keys = state.gateway.tenant_keys(tenant).await?;
    Ok(Keys { keys: keys.into_iter().map(|key| KeyMeta::new(tenant, key)).collect() })
}

async fn get(state: &AppState, tenant: TenantId, word: &str) -> Result<KeyMeta, ApiError> {
    let provider = provider(word)?;
    let keys = state.gateway.tenant_keys(tenant).await?;
    let found = keys.into_iter().find(|key| key.provider == provider);
    let found = found.ok_or_else(|| ApiError::not_found(format!("There is no key for {provider}")))?;
    Ok(KeyMeta::new(tenant, found))
}

/// `capabilities.listKeys`
async fn list_keys(cx: Context, _input: NoInput) -> Result<Keys, ApiError> {
    list(&cx.state, cx.tenant(None)?).await
}

#[derive(Debug, Deserialize)]
struct ProviderInput {
    provider: String,
}

/// `capabilities.getKey`
async fn get_key(cx: Context, input: ProviderInput) -> Result<KeyMeta, ApiError> {
    get(&cx.state, cx.tenant(None)?, &input.provider).await
}

/// A key to keep.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewKey {
    /// openai, anthropic or google.
    provider: String,
    /// 1 to 512 visible ASCII characters. It is sealed, and never shown again.
    #[schema(value_type = String)]
    api_key: SecretString,
    /// What it is called, 100 characters at most.
    label: Option<String>,
}

/// `capabilities.storeKey`
async fn store_key(cx: Context, input: NewKey) -> Result<Stored, ApiError> {
    cx.caller()?.require(Scope::Write)?;
    let (tenant, provider) = (cx.tenant(None)?, provider(&input.provider)?);
    let label = input.label.unwrap_or_default();
    let id = cx.state.gateway.keep_tenant_key(&cx.origin, tenant, provider, &input.api_key, &label).await?;
    Ok(Stored { ok: true, id, provider: provider.as_str() })
}

/// `capabilities.deleteKey`
async fn delete_key(cx: Context, input: ProviderInput) -> Result<Deleted, ApiError> {
    cx.caller()?.require(Scope::Write)?;
    let (tenant, provider) = (cx.tenant(None)?, provider(&input.provider)?);
    cx.state.gateway.drop_tenant_key(&cx.origin, tenant, provider).await?;
    Ok(Deleted { ok: true, provider: provider.as_str() })
}

#[derive(Debug, Deserialize)]
struct TestInput {
    provider: String,
    key: SecretString,
}

#[derive(Debug, Serialize)]
struct Tested {
    valid: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// `capabilities.testKey`: asks the provider.
async fn test_key(cx: Context, input: TestInput) -> Result<Tested, ApiError> {
    cx.caller()?.require(Scope::Write)?;
    let provider = provider(&input.provider)?;
    let error = match cx.state.gateway.check_tenant_key(provider, &input.key).await? {
        Ok(()) => None,
        Err(ProviderError::Account(401 | 403)) => Some("Invalid API key".to_owned()),
        Err(ProviderError::Account(status) | ProviderError::Failed(status) | ProviderError::Refused { status, .. }) => {
            Some(format!("Provider returned status {status}"))
        }
        Err(ProviderError::Busy { .. }) => Some("Provider returned status 429".to_owned()),
        Err(ProviderError::TimedOut) => Some("The provider took too long".to_owned()),
        Err(ProviderError::Unreachable(_) | ProviderError::Broken(_)) => {
            Some("The provider cannot be reached".to_owned())
        }
    };
    Ok(Tested { valid: error.is_none(), error })
}

/// Who answers, and on whose account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// We, for credit.
    Hosted,
    /// The provider, on the tenant's own account.
    Byok,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Setting {
    capability: &'static str,
    mode: Mode,
    /// Whose key is used where a model does not tell its maker.
    provider: Option<&'static str>,
    masked_key: Option<String>,
    /// A key is not looked at unless `testKey` is asked for.
    key_status: Option<&'static str>,
}

impl Setting {
    fn hosted_only(capability: &'static str) -> Self {
        Self { capability, mode: Mode::Hosted, provider: None, masked_key: None, key_status: None }
    }
}

async fn setting(state: &AppState, tenant: TenantId, keyed: KeyedUse, own: bool) -> Result<Setting, ApiError> {
    let key = state.gateway.key_for(tenant, keyed).await?;
    Ok(Setting {
        capability: keyed.as_str(),
        mode: if own { Mode::Byok } else { Mode::Hosted },
        provider: key.as_ref().map(|key| key.provider.as_str()),
        masked_key: key.as_ref().map(|key| format!("...{}", key.hint)),
        key_status: key.map(|_| "unchecked"),
    })
}

/// `capabilities.listCapabilitySettings`
async fn list_settings(cx: Context, _input: NoInput) -> Result<Vec<Setting>, ApiError> {
    let tenant = cx.tenant(None)?;
    let mut settings: Vec<Setting> = HOSTED_ONLY.map(Setting::hosted_only).into();
    let uses = cx.state.gateway.keyed_uses(tenant).await?;
    for keyed in KeyedUse::ALL {
        settings.push(setting(&cx.state, tenant, keyed, uses.contains(&keyed)).await?);
    }
    Ok(settings)
}

#[derive(Debug, Deserialize)]
struct SettingInput {
    capability: String,
    mode: Mode,
    /// Of OpenAI; another provider's is kept with `storeKey`.
    key: Option<SecretString>,
}

/// `capabilities.updateCapabilitySettings`
async fn update_settings(cx: Context, input: SettingInput) -> Result<Setting, ApiError> {
    cx.caller()?.require(Scope::Write)?;
    let tenant = cx.tenant(None)?;
    let wrong = |message: String| ApiError::invalid_input(vec![Issue::field("capability", message)]);
    let Some(keyed) = KeyedUse::from_word(&input.capability) else {
        let hosted = HOSTED_ONLY.into_iter().find(|word| *word == input.capability);
        return match (hosted, input.mode, input.key) {
            (Some(word), Mode::Hosted, None) => Ok(Setting::hosted_only(word)),
            (Some(word), ..) => Err(wrong(format!("{word} is answered by us alone"))),
            (None, ..) => {
                let known = HOSTED_ONLY.into_iter().chain(KeyedUse::ALL.map(KeyedUse::as_str)).collect::<Vec<_>>();
                Err(wrong(format!("it is one of {}", known.join(", "))))
            }
        };
    };
    if let Some(key) = &input.key {
        cx.state.gateway.keep_tenant_key(&cx.origin, tenant, KeyedProvider::OpenAi, key, "").await?;
    }
    let own = input.mode == Mode::Byok;
    cx.state.gateway.set_keyed_uses(&cx.origin, tenant, &[(keyed, own)]).await?;
    setting(&cx.state, tenant, keyed, own).await
}

#[derive(Debug, Serialize, Deserialize)]
struct InferenceMode {
    mode: Mode,
}

/// `billing.inferenceMode`: `byok` if everything is asked with the tenant's own keys that can be.
async fn inference_mode(cx: Context, _input: NoInput) -> Result<InferenceMode, ApiError> {
    let uses = cx.state.gateway.keyed_uses(cx.tenant(None)?).await?;
    let all = KeyedUse::ALL.iter().all(|keyed| uses.contains(keyed));
    Ok(InferenceMode { mode: if all { Mode::Byok } else { Mode::Hosted } })
}

/// `billing.setInferenceMode`: for everything that can be asked with the tenant's own keys.
async fn set_inference_mode(cx: Context, input: InferenceMode) -> Result<InferenceMode, ApiError> {
    cx.caller()?.require(Scope::Write)?;
    let uses = KeyedUse::ALL.map(|keyed| (keyed, input.mode == Mode::Byok));
    cx.state.gateway.set_keyed_uses(&cx.origin, cx.tenant(None)?, &uses).await?;
    Ok(input)
}

/// The keys of its own that a tenant keeps here.
#[utoipa::path(
    get, path = "/api/tenant-keys", tag = "tenant keys",
    responses((status = 200, body = Keys)),
    security(("bearer" = ["write"]), ("session" = []))
)]
async fn rest_list(State(state): State<AppState>, WriteCaller(caller): WriteCaller) -> Result<Json<Keys>, ApiError> {
    list(&state, caller.tenant()?).await.map(Json)
}

/// One of them.
#[utoipa::path(
    get, path = "/api/tenant-keys/{provider}", tag = "tenant keys", params(("provider" = String, Path)),
    responses((status = 200, body = KeyMeta), (status = 404, description = "There is none")),
    security(("bearer" = ["write"]), ("session" = []))
)]
async fn rest_get(
    State(state): State<AppState>,
    WriteCaller(caller): WriteCaller,
    Path(word): Path<String>,
) -> Result<Json<KeyMeta>, ApiError> {
    get(&state, caller.tenant()?, &word).await.map(Json)
}

/// Keeps a key, in place of the one before.
#[utoipa::path(
    put, path = "/api/tenant-keys/{provider}", tag = "tenant keys", params(("provider" = String, Path)),
    request_body = NewKey, responses((status = 200, body = Stored)),
    security(("bearer" = ["write"]), ("session" = []))
)]
async fn rest_put(
    State(state): State<AppState>,
    WriteCaller(caller): WriteCaller,
    Path(word): Path<String>,
    parts: Parts,
    Json(input): Json<NewKey>,
) -> Result<Json<Stored>, ApiError> {
    let (tenant, provider) = (caller.tenant()?, provider(&word)?);
    if input.provider != word {
        let message = format!("the path says {word}");
        return Err(ApiError::invalid_input(vec![Issue::field("provider", message)]));
    }
    let (origin, label) = (origin(&parts, Some(&caller)), input.label.unwrap_or_default());
    let id = state.gateway.keep_tenant_key(&origin, tenant, provider, &input.api_key, &label).await?;
    Ok(Json(Stored { ok: true, id, provider: provider.as_str() }))
}

/// Forgets a key.
#[utoipa::path(
    delete, path = "/api/tenant-keys/{provider}", tag = "tenant keys", params(("provider" = String, Path)),
    responses((status = 200, body = Deleted), (status = 404, description = "There is none")),
    security(("bearer" = ["write"]), ("session" = []))
)]
async fn rest_delete(
    State(state): State<AppState>,
    WriteCaller(caller): WriteCaller,
    Path(word): Path<String>,
    parts: Parts,
) -> Result<Json<Deleted>, ApiError> {
    let (tenant, provider) = (caller.tenant()?, provider(&word)?);
    state.gateway.drop_tenant_key(&origin(&parts, Some(&caller)), tenant, provider).await?;
    Ok(Json(Deleted { ok: true, provider: provider.as_str() }))
}
