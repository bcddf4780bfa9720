//! What handlers ask of a request: the caller, and typed bodies, queries and paths with our errors.

mod body;
mod caller;
mod client;
mod credential;

use axum::http::request::Parts;
use wopr_core::audit::{Actor, Origin};

pub(crate) use self::body::read_body;
pub use self::body::{Json, Path, Query, RawBody};
pub use self::caller::{AdminCaller, Caller, PlatformAdmin, Principal, ReadCaller, WriteCaller};
pub use self::client::ClientAddress;
pub(crate) use self::client::client_address;
pub use self::credential::Credential;
pub(crate) use self::credential::SESSION_COOKIE;
use crate::pipeline::RequestId;

/// Where a request came from, for the audit log.
pub fn origin(parts: &Parts, caller: Option<&Caller>) -> Origin {
    Origin {
        actor: caller.map_or(Actor::System("anonymous"), Caller::actor),
        client_address: parts.extensions.get::<ClientAddress>().and_then(|address| address.0),
        user_agent: parts
            .headers
            .get(axum::http::header::USER_AGENT)
            .and_then(|value| value.to_str().ok())
            .map(|text| text.chars().take(256).collect()),
        request_id: parts.extensions.get::<RequestId>().map(|id| id.0.to_string()),
    }
}
