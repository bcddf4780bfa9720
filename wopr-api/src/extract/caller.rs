use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use wopr_core::audit::Actor;
use wopr_core::auth::{KeyHolder, Scope, SignedIn};
use wopr_core::ids::TenantId;

use super::Credential;
use crate::error::ApiError;
use crate::state::AppState;

/// Who a credential belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// A signed-in person, with the session.
    User(Box<SignedIn>),
    /// The holder of an API key or of an operator token.
    Key(Box<KeyHolder>),
}

impl From<SignedIn> for Caller {
    /// A person manages their own tenant.
    fn from(signed_in: SignedIn) -> Self {
        let (tenant_id, platform_admin) = (Some(signed_in.tenant_id), signed_in.platform_admin);
        Self { principal: Principal::User(Box::new(signed_in)), tenant_id, scope: Scope::Admin, platform_admin }
    }
}

impl From<KeyHolder> for Caller {
    fn from(holder: KeyHolder) -> Self {
        let (tenant_id, scope, platform_admin) = (holder.tenant_id, holder.scope, holder.platform_admin);
        Self { principal: Principal::Key(Box::new(holder)), tenant_id, scope, platform_admin }
    }
}

/// Who calls, as far as the credential proves it. As an extractor: anyone we know, else 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose credential it is.
    pub principal: Principal,
    /// The tenant the credential acts for; `None` for an operator's, which is bound to none.
    pub tenant_id: Option<TenantId>,
    /// What it may do there.
    pub scope: Scope,
    /// Whether it may manage the platform.
    pub platform_admin: bool,
}

impl Caller {
    /// Who sent the request; `None` when it carries no credential or one that proves nothing.
    ///
    /// # Errors
    /// 403 when `x-tenant-id` names another tenant than the credential's; 503 when the store is away.
    pub(crate) async fn find(state: &AppState, headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let Some(credential) = Credential::of(headers) else { return Ok(None) };
        let Some(caller) = state.authenticate(&credential).await? else { return Ok(None) };
        caller.check_tenant_header(headers)?;
        Ok(Some(caller))
    }

    /// The tenant the caller acts for.
    ///
    /// # Errors
    /// 400 when the credential is bound to none.
    pub fn tenant(&self) -> Result<TenantId, ApiError> {
        self.tenant_id.ok_or_else(|| ApiError::bad_request("Tenant context required"))
    }

    /// The caller's tenant, or the one it asks for: its own, or any for a platform administrator bound to none.
    ///
    /// # Errors
    /// 403 for somebody else's; 400 when there is none at all.
    pub fn tenant_or_asked(&self, asked: Option<TenantId>) -> Result<TenantId, ApiError> {
        match (self.tenant_id, asked) {
            (Some(own), None) => Ok(own),
            (Some(own), Some(asked)) if own == asked => Ok(own),
            (None, Some(asked)) if self.platform_admin => Ok(asked),
            (_, Some(_)) => Err(ApiError::forbidden("Access denied")),
            (None, None) => Err(ApiError::bad_request("Tenant context required")),
        }
    }

    /// The person, when one is signed in.
    ///
    /// # Errors
    /// 403 for the holder of a key.
    pub fn signed_in(&self) -> Result<&SignedIn, ApiError> {
        match &self.principal {
            Principal::User(signed_in) => Ok(signed_in),
            Principal::Key(_) => Err(ApiError::forbidden("This needs a signed-in user, not a key")),
        }
    }

    /// Lets callers of at least `required` through.
    ///
    /// # Errors
    /// 403 with what was required and what was provided.
    pub fn require(&self, required: Scope) -> Result<(), ApiError> {
        if self.scope.includes(required) {
            return Ok(());
        }
        Err(ApiError::forbidden("Insufficient scope")
            .code("INSUFFICIENT_SCOPE")
            .detail("required", required.as_str())
            .detail("provided", self.scope.as_str()))
    }

    /// Who acts, for the audit log.
    pub fn actor(&self) -> Actor {
        match &self.principal {
            Principal::User(signed_in) => Actor::User(signed_in.user.id),
            Principal::Key(holder) => holder.actor.clone(),
        }
    }

    /// The tenant comes from the credential; a header that says otherwise is refused rather than ignored.
    fn check_tenant_header(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(value) = headers.get("x-tenant-id") else { return Ok(()) };
        let asked = value.to_str().ok().and_then(|text| text.parse::<TenantId>().ok());
        match (self.tenant_id, asked) {
            (Some(own), Some(asked)) if own == asked => Ok(()),
            (None, Some(_)) if self.platform_admin => Ok(()),
            _ => Err(ApiError::forbidden("Not authorized for this tenant")),
        }
    }
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let caller = Self::find(state, &parts.headers).await?;
        caller.ok_or_else(|| match Credential::of(&parts.headers) {
            Some(Credential::Bearer(_)) => ApiError::unauthorized("Invalid or expired token"),
            Some(Credential::Session { .. } | Credential::Unusable) | None => {
                ApiError::unauthorized("Authentication required")
            }
        })
    }
}

macro_rules! scoped {
    ($($(#[$meta:meta])* $name:ident => $scope:expr;)+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name(pub Caller);

        impl FromRequestParts<AppState> for $name {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
                let caller = Caller::from_request_parts(parts, state).await?;
                caller.require($scope)?;
                Ok(Self(caller))
            }
        }
    )+};
}

scoped! {
    /// A caller that may look.
    ReadCaller => Scope::Read;
    /// A caller that may change things.
    WriteCaller => Scope::Write;
    /// A caller that may manage its tenant.
    AdminCaller => Scope::Admin;
}

/// A caller that may manage the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformAdmin(pub Caller);

impl FromRequestParts<AppState> for PlatformAdmin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, state).await?;
        caller.require(Scope::Admin)?;
        if caller.platform_admin {
            return Ok(Self(caller));
        }
        Err(ApiError::new(StatusCode::FORBIDDEN, "PLATFORM_ADMIN_REQUIRED", "Platform admin role required"))
    }
}
