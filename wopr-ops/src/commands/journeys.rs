//! The features, told to the two machines from outside: through the proxy, as customers come.

use anyhow::Context;

use super::{stack_secrets, test::cargo_step};
use crate::{
    paths::Paths,
    plan::{
        machines,
        platform::{Ports, VPS},
    },
    ui::Ui,
};

/// Tells every feature that a running stack can be told.
///
/// # Errors
/// What did not go as a feature says, or that there is no stack.
pub(crate) async fn tell(ui: &Ui, paths: &Paths, ports: Ports) -> anyhow::Result<()> {
    let secrets = stack_secrets(paths)?;
    let socket = machines::socket(&paths.machines(), machines::VPS);
    let engine = format!("unix://{}", socket.to_str().context("the data directory's path is not text")?);
    let (api, stripe, mail) = (
        format!("http://api.localhost:{}", ports.http_port),
        format!("http://localhost:{}", ports.stripe_port),
        format!("http://localhost:{}", ports.mail_port),
    );
    let env = [
        ("WOPR_TARGET_URL", api.as_str()),
        ("WOPR_TARGET_STRIPE_URL", &stripe),
        ("WOPR_TARGET_STRIPE_KEY", secrets.get("STRIPE_SECRET_KEY")?),
        ("WOPR_TARGET_STRIPE_CONTROL_KEY", secrets.get("STRIPE_STANDIN_CONTROL_KEY")?),
        ("WOPR_TARGET_WEBHOOK_SECRET", secrets.get("STRIPE_WEBHOOK_SECRET")?),
        ("WOPR_TARGET_MAIL_URL", &mail),
        ("WOPR_TARGET_ADMIN_TOKEN", secrets.get("FLEET_API_TOKEN_ADMIN")?),
        ("WOPR_TARGET_DATABASE_CONTAINER", VPS.postgres),
        ("DOCKER_HOST", &engine),
    ];
    // The whole workspace, as it was built: one package alone would be compiled again.
    cargo_step(ui, paths, &["test", "--workspace", "--locked", "--test", "journeys"], &env).await
}
