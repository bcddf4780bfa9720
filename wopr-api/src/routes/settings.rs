use serde::Serialize;

use super::health::SERVICE;
use crate::error::ApiError;
use crate::trpc::{Access, Context, NoInput, Procedures};

pub(crate) fn procedures(p: &mut Procedures) {
    p.query("settings.health", Access::Public, health);
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
