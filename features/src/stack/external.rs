//! A stack that somebody else started.

use anyhow::{Context as _, Result};

use super::Stack;
use crate::database::Database;
use crate::docker::Engine;

/// The API of the running stack, when there is to be one.
pub(super) fn target() -> Option<String> {
    variable("WOPR_TARGET_URL").map(|url| url.trim_end_matches('/').to_owned())
}

pub(super) fn unavailable_tags() -> Vec<(&'static str, &'static str)> {
    let mut tags = vec![
        ("clock", "the clock of a running stack cannot be put forward"),
        ("docker-away", "the Docker of a running stack cannot be cut off"),
    ];
    let optional = [("mail", "WOPR_TARGET_MAIL_URL"), ("operator", "WOPR_TARGET_ADMIN_TOKEN")];
    tags.extend(optional.into_iter().filter(|(_, name)| variable(name).is_none()));
    tags
}

pub(super) async fn connect(api: String) -> Result<Stack> {
    let required = |name: &str| variable(name).with_context(|| format!("WOPR_TARGET_URL is set, {name} is not"));
    let trimmed = |url: String| url.trim_end_matches('/').to_owned();
    let docker = Engine::connect().await?;
    Ok(Stack {
        api,
        stripe: trimmed(required("WOPR_TARGET_STRIPE_URL")?),
        stripe_key: required("WOPR_TARGET_STRIPE_KEY")?,
        stripe_control_key: variable("WOPR_TARGET_STRIPE_CONTROL_KEY"),
        webhook_secret: required("WOPR_TARGET_WEBHOOK_SECRET")?,
        mail: variable("WOPR_TARGET_MAIL_URL").map(trimmed),
        database: Database::Container(docker.clone(), required("WOPR_TARGET_DATABASE_CONTAINER")?),
        admin_token: variable("WOPR_TARGET_ADMIN_TOKEN"),
        docker,
        own: None,
    })
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
