use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use jiff::Timestamp;
use jiff_diesel::ToDiesel as _;

use super::{AuditEntry, Outcome};
use crate::db::DbError;
use crate::db::schema::foundation::audit_log;
use crate::ids::AuditId;

/// Writes one entry in the caller's transaction.
pub(crate) async fn record_in(conn: &mut AsyncPgConnection, at: Timestamp, entry: &AuditEntry) -> Result<(), DbError> {
    let outcome = match entry.outcome {
        Outcome::Success => "success",
        Outcome::Failure => "failure",
    };
    diesel::insert_into(audit_log::table)
        .values((
            audit_log::id.eq(AuditId::new(at).as_uuid()),
            audit_log::at.eq(at.to_diesel()),
            audit_log::tenant_id.eq(entry.tenant_id.map(crate::ids::TenantId::as_uuid)),
            audit_log::actor_kind.eq(entry.origin.actor.kind()),
            audit_log::actor.eq(entry.origin.actor.name()),
            audit_log::action.eq(entry.action),
            audit_log::resource_kind.eq(entry.resource.kind),
            audit_log::resource.eq(&entry.resource.id),
            audit_log::outcome.eq(outcome),
            audit_log::client_address.eq(entry.origin.client_address.map(|address| address.to_string())),
            audit_log::user_agent.eq(&entry.origin.user_agent),
            audit_log::request_id.eq(&entry.origin.request_id),
            audit_log::details.eq(serde_json::Value::Object(entry.details.clone())),
        ))
        .execute(conn)
        .await?;
    Ok(())
}
