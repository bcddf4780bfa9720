//! What a rehearsal is held on.

use bollard::Docker;

use crate::{
    clock::unix_seconds, commands::http_client, engine, happy_path::Customer, operator::Operator, paths::Paths,
    plan::platform::Ports, secrets::Secrets,
};

/// The two machines that are up, and who comes to them.
pub(super) struct Stage {
    pub(super) engine: Docker,
    pub(super) http: reqwest::Client,
    pub(super) secrets: Secrets,
    pub(super) ports: Ports,
}

impl Stage {
    pub(super) async fn new(paths: &Paths, ports: Ports) -> anyhow::Result<Self> {
        let secrets = Secrets::existing(&paths.data.join("secrets"))?;
        Ok(Self { engine: engine::require().await?, http: http_client()?, secrets, ports })
    }

    pub(super) fn operator(&self) -> anyhow::Result<Operator<'_>> {
        let token = self.secrets.get("FLEET_API_TOKEN_ADMIN")?;
        Ok(Operator { http: &self.http, port: self.ports.api_port, token })
    }

    /// Somebody who has not been there before.
    pub(super) fn customer(&self, name: &str) -> anyhow::Result<Customer<'_>> {
        let name = format!("{name}-{}", unix_seconds());
        Ok(Customer::new(&self.http, self.ports.api_port, self.webhook_secret()?, &name))
    }

    pub(super) fn webhook_secret(&self) -> anyhow::Result<&str> {
        self.secrets.get("STRIPE_WEBHOOK_SECRET")
    }
}
