//! Connections: plain with `sslmode=disable`, otherwise over rustls against the public roots.

use std::sync::Arc;

use diesel::result::{ConnectionError, ConnectionResult};
use diesel_async::AsyncPgConnection;
use secrecy::ExposeSecret as _;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{DbConfig, DbError};

/// How long a connection may take to be established.
const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// What every connection is made from.
pub(super) fn parameters(config: &DbConfig) -> Result<tokio_postgres::Config, DbError> {
    if !is_plain_name(&config.schema) {
        return Err(DbError::Config(format!("{:?} is not a usable schema name", config.schema)));
    }
    // The parser's message may quote the URL, and with it the password: only say what kind of thing is wrong.
    let mut parameters: tokio_postgres::Config = config
        .url
        .expose_secret()
        .parse()
        .map_err(|_| DbError::Config("it is not a PostgreSQL connection URL".to_owned()))?;
    parameters.connect_timeout(CONNECT_TIMEOUT).application_name("wopr").options(format!(
        "-c search_path={},public -c timezone=UTC -c statement_timeout={} -c idle_in_transaction_session_timeout=30000",
        config.schema,
        config.statement_timeout.as_millis(),
    ));
    Ok(parameters)
}

pub(super) async fn connect(parameters: tokio_postgres::Config) -> ConnectionResult<AsyncPgConnection> {
    let failed = |error: tokio_postgres::Error| ConnectionError::BadConnection(error_chain(&error));
    if parameters.get_ssl_mode() == SslMode::Disable {
        let (client, connection) = parameters.connect(tokio_postgres::NoTls).await.map_err(failed)?;
        return AsyncPgConnection::try_from_client_and_connection(client, connection).await;
    }
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ConnectionError::BadConnection(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (client, connection) = parameters.connect(MakeRustlsConnect::new(tls)).await.map_err(failed)?;
    AsyncPgConnection::try_from_client_and_connection(client, connection).await
}

/// Whether that is a connection URL with a user, a database and one host.
pub fn names_one_database(url: &secrecy::SecretString) -> bool {
    let parsed = url.expose_secret().parse::<tokio_postgres::Config>();
    parsed.is_ok_and(|url| url.get_user().is_some() && url.get_dbname().is_some() && url.get_hosts().len() == 1)
}

fn is_plain_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && name.len() <= 63
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
