//! HTTP clients that trust the built-in roots, so that no certificate bundle needs to be installed.

use std::sync::Arc;
use std::time::Duration;

/// No client could be made.
#[derive(Debug, thiserror::Error)]
pub enum NoClient {
    /// Of these settings.
    #[error("the HTTP client cannot be built")]
    Http(#[from] reqwest::Error),
    /// Of these TLS settings.
    #[error("the TLS settings are unusable")]
    Tls(#[from] rustls::Error),
}

/// A client that gives up after `timeout`, follows no redirect and asks no proxy.
pub(crate) fn client(timeout: Duration) -> Result<reqwest::Client, NoClient> {
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(timeout)
        .build()?;
    Ok(client)
}
