//! The object store as a program; what it does is in the library.
//!
//! It speaks plain HTTP, and on another port TLS, for clients that speak nothing else. The certificate is made at each start,
//! by nobody whom a client could trust. `wopr-objects health` asks a running server.

use std::future::IntoFuture as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use clap::{Parser, Subcommand};
use tokio::net::TcpListener;
use wopr_local::{probe, process, secret};
use wopr_objects::HEALTH;

/// Where the server listens unless told otherwise.
const PORT: u16 = 9000;
/// How long requests over TLS may take to end once the server stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// S3's rule, which directory names of ours keep to.
const BUCKET_NAME_LENGTHS: std::ops::RangeInclusive<usize> = 3..=63;

/// Keeps objects as files and speaks S3.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Address to listen on.
    #[arg(long, env = "HOST", default_value = "0.0.0.0")]
    host: IpAddr,
    /// Port to listen on.
    #[arg(long, env = "PORT", default_value_t = PORT, global = true)]
    port: u16,
    /// Port to listen on for TLS; there is none without it.
    #[arg(long, env = "OBJECTS_TLS_PORT")]
    tls_port: Option<u16>,
    /// Where buckets lie.
    #[arg(long, env = "OBJECTS_DATA_DIR", default_value = "/data")]
    data_dir: PathBuf,
    /// Buckets that are made if they are missing, separated by commas.
    #[arg(long, env = "OBJECTS_BUCKETS", value_delimiter = ',')]
    bucket: Vec<String>,
    /// The key's name.
    #[arg(long, env = "OBJECTS_ACCESS_KEY")]
    access_key: Option<String>,
    /// File with it.
    #[arg(long, env = "OBJECTS_ACCESS_KEY_FILE")]
    access_key_file: Option<PathBuf>,
    /// The key.
    #[arg(long, env = "OBJECTS_SECRET_KEY", hide_env_values = true)]
    secret_key: Option<String>,
    /// File with it.
    #[arg(long, env = "OBJECTS_SECRET_KEY_FILE")]
    secret_key_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Exits 0 when the server on this machine is well, else 1.
    Health,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    process::start_logging();
    let args = Args::parse();
    if let Some(Command::Health) = args.command {
        return Ok(process::health(probe::http(args.port, HEALTH)));
    }
    let signals = process::StopSignals::install()?;
    let access = secret::resolve("the access key", args.access_key, args.access_key_file.as_deref())?;
    let access = access.context("no access key: set OBJECTS_ACCESS_KEY or OBJECTS_ACCESS_KEY_FILE")?;
    let key = secret::resolve("the secret key", args.secret_key, args.secret_key_file.as_deref())?;
    let key = key.context("no secret key: set OBJECTS_SECRET_KEY or OBJECTS_SECRET_KEY_FILE")?;
    for bucket in &args.bucket {
        make(&args.data_dir, bucket)?;
    }
    let app = wopr_objects::router(&args.data_dir, &access, key)?;
    let address = SocketAddr::new(args.host, args.port);
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let handle = Handle::new();
    let tls = match args.tls_port {
        Some(port) => Some(tls(SocketAddr::new(args.host, port), &handle).await?),
        None => None,
    };
    process::announce("object store", &format!("http://{}", listener.local_addr()?))?;
    if let Some((address, _)) = &tls {
        process::announce("object store", &format!("https://{address}"))?;
    }
    let service = app.clone().into_make_service();
    let tls = async {
        match tls {
            Some((_, server)) => server.serve(service).await,
            None => Ok(()),
        }
    };
    let stop = async move {
        signals.wait().await;
        handle.graceful_shutdown(Some(STOP_PATIENCE));
    };
    tokio::try_join!(axum::serve(listener, app).with_graceful_shutdown(stop).into_future(), tls)?;
    Ok(ExitCode::SUCCESS)
}

/// A server for TLS at that address, with a certificate of its own making, and the address it listens on.
async fn tls(
    address: SocketAddr,
    handle: &Handle<SocketAddr>,
) -> anyhow::Result<(SocketAddr, axum_server::Server<SocketAddr, RustlsAcceptor>)> {
    // Whoever installed one before chose as well.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let certified =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).context("no certificate can be made")?;
    let (certificate, key) = (certified.cert.der().to_vec(), certified.signing_key.serialize_der());
    let config = RustlsConfig::from_der(vec![certificate], key).await.context("the certificate made is refused")?;
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?.into_std()?;
    Ok((listener.local_addr()?, axum_server::from_tcp_rustls(listener, config)?.handle(handle.clone())))
}

fn make(data: &Path, bucket: &str) -> anyhow::Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let named = BUCKET_NAME_LENGTHS.contains(&bucket.len()) && bucket.bytes().all(plain) && !bucket.starts_with('-');
    anyhow::ensure!(named, "{bucket:?} is no name for a bucket: 3 to 63 lower-case letters, digits and hyphens");
    let path = data.join(bucket);
    std::fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))
}
