use std::any::TypeId;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use wopr_core::audit::Origin;
use wopr_core::ids::TenantId;

use crate::error::ApiError;
use crate::extract::Caller;
use crate::state::AppState;

/// Who may call a procedure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anyone.
    Public,
    /// A signed-in user or the holder of a key.
    User,
    /// As [`Access::User`], for one tenant.
    Tenant,
    /// A platform administrator.
    PlatformAdmin,
}

impl Access {
    /// Lets the caller through or says why not.
    pub(super) fn check(self, caller: Option<&Caller>) -> Result<(), ApiError> {
        let Some(caller) = caller else {
            return if self == Self::Public { Ok(()) } else { Err(ApiError::unauthorized("Authentication required")) };
        };
        match self {
            Self::Public | Self::User => Ok(()),
            Self::Tenant => caller.tenant().map(drop),
            Self::PlatformAdmin if caller.platform_admin => Ok(()),
            Self::PlatformAdmin => Err(ApiError::forbidden("Platform admin role required")),
        }
    }

    /// The name used in listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::User => "user",
            Self::Tenant => "tenant",
            Self::PlatformAdmin => "platform admin",
        }
    }
}

/// Whether a procedure reads or changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads; called with GET.
    Query,
    /// Changes; called with POST.
    Mutation,
}

impl Kind {
    /// The name used on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Mutation => "mutation",
        }
    }
}

/// What a procedure is given besides its input.
#[derive(Clone)]
pub struct Context {
    /// The services.
    pub state: AppState,
    /// Who calls; always present unless the procedure is [`Access::Public`].
    pub caller: Option<Caller>,
    /// Where the call came from, for the audit log.
    pub origin: Origin,
}

impl Context {
    /// Who calls.
    ///
    /// # Errors
    /// 401 when nobody does, which only a [`Access::Public`] procedure can see.
    pub fn caller(&self) -> Result<&Caller, ApiError> {
        self.caller.as_ref().ok_or_else(|| ApiError::unauthorized("Authentication required"))
    }

    /// The tenant the caller acts for; an input's `asked` tenant must be the same.
    ///
    /// # Errors
    /// 400 for a caller without a tenant that names none; 403 for somebody else's.
    pub fn tenant(&self, asked: Option<TenantId>) -> Result<TenantId, ApiError> {
        self.caller()?.tenant_or_asked(asked)
    }
}

type Future = Pin<Box<dyn std::future::Future<Output = Result<Option<Value>, ApiError>> + Send>>;
type Call = dyn Fn(Context, Option<Value>) -> Future + Send + Sync;

/// One procedure.
#[derive(Clone)]
pub struct Procedure {
    /// Whether it reads or changes.
    pub kind: Kind,
    /// Who may call it.
    pub access: Access,
    call: Arc<Call>,
}

impl Procedure {
    pub(super) async fn call(&self, cx: Context, input: Option<Value>) -> Result<Option<Value>, ApiError> {
        (self.call)(cx, input).await
    }
}

/// Every procedure, by `router.name`.
#[derive(Clone, Default)]
pub struct Procedures(BTreeMap<&'static str, Procedure>);

impl Procedures {
    /// Adds a procedure that reads.
    ///
    /// # Panics
    /// When the name is taken: two handlers for one name is a bug.
    pub fn query<I, O, H, F>(&mut self, name: &'static str, access: Access, handler: H)
    where
        H: Fn(Context, I) -> F + Send + Sync + 'static,
        F: std::future::Future<Output = Result<O, ApiError>> + Send + 'static,
        I: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
    {
        self.add(name, Kind::Query, access, handler);
    }

    /// Adds a procedure that changes something.
    ///
    /// # Panics
    /// When the name is taken: two handlers for one name is a bug.
    pub fn mutation<I, O, H, F>(&mut self, name: &'static str, access: Access, handler: H)
    where
        H: Fn(Context, I) -> F + Send + Sync + 'static,
        F: std::future::Future<Output = Result<O, ApiError>> + Send + 'static,
        I: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
    {
        self.add(name, Kind::Mutation, access, handler);
    }

    /// Every name with its procedure, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Procedure)> {
        self.0.iter().map(|(name, procedure)| (*name, procedure))
    }

    pub(super) fn find(&self, name: &str) -> Option<&Procedure> {
        self.0.get(name)
    }

    fn add<I, O, H, F>(&mut self, name: &'static str, kind: Kind, access: Access, handler: H)
    where
        H: Fn(Context, I) -> F + Send + Sync + 'static,
        F: std::future::Future<Output = Result<O, ApiError>> + Send + 'static,
        I: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
    {
        let handler = Arc::new(handler);
        let call = move |cx: Context, input: Option<Value>| -> Future {
            let handler = Arc::clone(&handler);
            Box::pin(async move {
                let input = super::input::parse::<I>(input)?;
                let output = handler(cx, input).await?;
                // A procedure that answers nothing answers `undefined`, which the wire writes by leaving it out.
                if TypeId::of::<O>() == TypeId::of::<()>() {
                    return Ok(None);
                }
                serde_json::to_value(output).map(Some).map_err(ApiError::internal)
            })
        };
        let before = self.0.insert(name, Procedure { kind, access, call: Arc::new(call) });
        assert!(before.is_none(), "{name} is registered twice");
    }
}
