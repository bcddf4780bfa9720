use jiff::Timestamp;
use serde::Serialize;
use wopr_core::ids::{TenantId, UserId};

use super::health::SERVICE;
use crate::error::ApiError;
use crate::extract::Principal;
use crate::trpc::{Access, Context, NoInput, Procedures};

pub(crate) fn procedures(p: &mut Procedures) {
    p.query("settings.health", Access::Public, health);
    p.query("settings.ping", Access::User, ping);
}

#[derive(Debug, Serialize)]
struct Health {
    status: &'static str,
    service: &'static str,
}

/// `settings.health`
async fn health(_cx: Context, _input: NoInput) -> Result<Health, ApiError> {
    Ok(Health { status: "ok", service: SERVICE })
}

/// Who the server takes the caller for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ping {
    ok: bool,
    /// `null` for a key that is bound to none.
    tenant_id: Option<TenantId>,
    /// `null` for a key.
    user_id: Option<UserId>,
    timestamp: Timestamp,
}

/// `settings.ping`
async fn ping(cx: Context, _input: NoInput) -> Result<Ping, ApiError> {
    let caller = cx.caller()?;
    let user_id = match &caller.principal {
        Principal::User(signed_in) => Some(signed_in.user.id),
        Principal::Key(_) => None,
    };
    Ok(Ping { ok: true, tenant_id: caller.tenant_id, user_id, timestamp: cx.state.clock.now() })
}
