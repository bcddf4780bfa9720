//! HTTP clients: one for the platform, one for the services.

use std::error::Error as _;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;

/// Python's servers hang up after five idle seconds: <https://www.uvicorn.org/settings/#timeouts>. A request must not meet
/// that moment, for one with a body cannot be sent twice.
const POOL_IDLE: Duration = Duration::from_secs(3);

/// A client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The TLS library refuses its own defaults.
    #[error("no TLS")]
    Tls(#[from] rustls::Error),
    /// The HTTP library refuses its settings.
    #[error("no HTTP client")]
    Http(#[from] reqwest::Error),
}

/// For the platform. Trusts the built-in roots, so that no certificate bundle needs to be installed.
pub(crate) fn platform(timeout: Duration) -> Result<reqwest::Client, ClientError> {
    Ok(base()?.timeout(timeout).user_agent(concat!("wopr-gpu-node/", env!("CARGO_PKG_VERSION"))).build()?)
}

/// For the services on this machine: without a limit on the whole answer, which may stream for long.
pub(crate) fn services(connect: Duration, idle: Duration) -> Result<reqwest::Client, ClientError> {
    Ok(base()?.connect_timeout(connect).read_timeout(idle).pool_idle_timeout(POOL_IDLE).build()?)
}

fn base() -> Result<reqwest::ClientBuilder, ClientError> {
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().redirect(Policy::none()))
}

/// Why no answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The name has no address.
    NoName,
    /// Nobody listens.
    Refused,
    /// It took too long.
    Late,
    /// The connection broke, or what came was not HTTP.
    Broken,
}

impl Lost {
    pub(crate) fn of(error: &reqwest::Error) -> Self {
        let mut cause = error.source();
        let mut timed_out = error.is_timeout();
        while let Some(inner) = cause {
            if let Some(io) = inner.downcast_ref::<std::io::Error>() {
                match io.kind() {
                    // A container that is gone leaves an address that nobody answers for.
                    ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                        return Self::Refused;
                    }
                    ErrorKind::TimedOut => timed_out = true,
                    _ => {}
                }
            }
            // The resolver's error has no type of its own: hyper-util puts these words before it.
            if error.is_connect() && inner.to_string().starts_with("dns error") {
                return Self::NoName;
            }
            cause = inner.source();
        }
        if timed_out { Self::Late } else { Self::Broken }
    }
}

/// An error without the address, which the caller names better, and with its causes.
pub(crate) fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(url: &str, idle: Duration) -> Lost {
        let client = services(Duration::from_secs(30), idle).unwrap();
        Lost::of(&client.get(url).send().await.unwrap_err())
    }

    #[tokio::test]
    async fn the_ways_to_get_no_answer_are_told_apart() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = format!("http://{}/", listener.local_addr().unwrap());
        assert_eq!(ask(&silent, Duration::from_millis(50)).await, Lost::Late);
        drop(listener);
        let long = Duration::from_secs(30);
        assert_eq!(ask(&silent, long).await, Lost::Refused);
        // `.invalid` never resolves: RFC 6761.
        assert_eq!(ask("http://service.invalid/", long).await, Lost::NoName);
        let rude = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = rude.local_addr().unwrap();
        let hangs_up = tokio::spawn(async move { drop(rude.accept().await.unwrap()) });
        assert_eq!(ask(&format!("http://{address}/"), long).await, Lost::Broken);
        hangs_up.await.unwrap();
    }
}
