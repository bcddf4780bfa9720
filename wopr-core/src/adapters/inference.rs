//! Health of services on GPU nodes over HTTP.

use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;

use super::http::{NoHttpClient, client};
use crate::gpu::{Host, ProbeError, ServiceProbe};
use crate::protocol::gpu::GpuService;

/// How long a service may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks `GET /health` on the port of each service.
#[derive(Debug, Clone)]
pub struct HttpProbe {
    client: reqwest::Client,
}

impl HttpProbe {
    /// A probe that waits five seconds at most.
    ///
    /// # Errors
    /// [`NoHttpClient`].
    pub fn new() -> Result<Self, NoHttpClient> {
        Self::within(TIMEOUT)
    }

    /// A probe that waits so long at most.
    ///
    /// # Errors
    /// [`NoHttpClient`].
    pub fn within(timeout: Duration) -> Result<Self, NoHttpClient> {
        Ok(Self { client: client(timeout)? })
    }

    /// Asks one URL: 2xx is well, everything else is not.
    ///
    /// # Errors
    /// [`ProbeError`].
    pub async fn ask(&self, url: &str, token: Option<&SecretString>) -> Result<Duration, ProbeError> {
        let mut request = self.client.get(url);
        if let Some(token) = token {
            request = request.bearer_auth(token.expose_secret());
        }
        let began = Instant::now();
        match request.send().await {
            Ok(answer) if answer.status().is_success() => Ok(began.elapsed()),
            Ok(answer) => Err(ProbeError::Status(answer.status().as_u16())),
            Err(error) if error.is_timeout() => Err(ProbeError::TimedOut),
            Err(_) => Err(ProbeError::Unreachable),
        }
    }
}

#[async_trait]
impl ServiceProbe for HttpProbe {
    async fn probe(
        &self,
        host: &Host,
        service: GpuService,
        token: Option<&SecretString>,
    ) -> Result<Duration, ProbeError> {
        self.ask(&format!("http://{}:{}/health", host.in_url(), service.port()), token).await
    }
}
