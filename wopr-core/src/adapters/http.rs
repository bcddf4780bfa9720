//! HTTP clients that trust the public roots and follow no redirect.

use std::sync::Arc;
#[cfg(any(feature = "cloud", feature = "inference"))]
use std::time::Duration;

/// No client could be made.
#[derive(Debug, thiserror::Error)]
#[error("no HTTP client could be made")]
pub struct NoHttpClient(#[source] pub(super) Box<dyn std::error::Error + Send + Sync>);

/// A client that gives up after `timeout`. It goes straight to where it is sent: what it carries is for nobody else, so
/// it follows no redirect and asks no proxy.
#[cfg(any(feature = "cloud", feature = "inference"))]
pub(super) fn client(timeout: Duration) -> Result<reqwest::Client, NoHttpClient> {
    builder(&[])?.timeout(timeout).build().map_err(|error| NoHttpClient(Box::new(error)))
}

/// The beginning of such a client. `protocols` are those that may be agreed on under TLS, HTTP/1.1 if none is named.
pub(super) fn builder(protocols: &[&str]) -> Result<reqwest::ClientBuilder, NoHttpClient> {
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| NoHttpClient(Box::new(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(reqwest::Client::builder().tls_backend_preconfigured(tls).redirect(reqwest::redirect::Policy::none()).no_proxy())
}
