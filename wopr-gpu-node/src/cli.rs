use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use wopr_core::protocol::gpu::{GpuService, Stage};
use wopr_gpu_node::agent::Agent;
use wopr_gpu_node::client::Platform;
use wopr_gpu_node::config::{ConfigErrors, LogFormat, Settings, read_sources};
use wopr_gpu_node::probe::nvml::NvidiaGpu;
use wopr_gpu_node::systemd::ServiceManager;
use wopr_gpu_node::{enrol, metrics};

/// The exit code of a configuration that is wrong.
const BAD_CONFIGURATION: u8 = 2;
/// How long our own port may take to answer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// The daemon on a GPU machine. README.md lists the settings, which come from the environment and the file.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// A TOML file with the settings in lower case.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch, enrol and guard (the default).
    Run,
    /// Print each setting; secrets as ***.
    CheckConfig,
    /// Exit 0 when the daemon on this machine is well, else 1.
    Health,
    /// Tell the platform that the work of a stage is done, for the script that does it.
    Report {
        /// Which stage.
        #[arg(long, value_parser = reported)]
        stage: Stage,
        /// It failed, and why.
        #[arg(long, value_name = "MESSAGE")]
        failed: Option<String>,
        /// How often to try.
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
        tries: u32,
    },
}

fn reported(text: &str) -> Result<Stage, String> {
    let known = Stage::REPORTED.iter().copied().find(|stage| stage.as_str() == text);
    let words: Vec<_> = Stage::REPORTED.iter().map(|stage| stage.as_str()).collect();
    known.ok_or_else(|| format!("not one of {}", words.join(", ")))
}

pub(crate) fn run() -> ExitCode {
    let args = Args::parse();
    match act(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wopr-gpu-node: {error:#}");
            if error.is::<ConfigErrors>() { ExitCode::from(BAD_CONFIGURATION) } else { ExitCode::FAILURE }
        }
    }
}

fn act(args: Args) -> anyhow::Result<()> {
    // A variable that is not UTF-8 cannot be one of ours, whose values are all text.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let environment: BTreeMap<String, String> = environment.collect();
    let settings = Settings::load(&read_sources(args.config.as_deref(), environment)?)?;
    match args.command.unwrap_or(Command::Run) {
        Command::CheckConfig => {
            check_config(&settings);
            Ok(())
        }
        Command::Health => health(settings.status_listen),
        Command::Report { stage, failed, tries } => {
            log(&settings)?;
            runtime()?.block_on(async {
                let platform = Platform::new(
                    &settings.platform_url,
                    &settings.node_id,
                    settings.secret.clone(),
                    settings.host.clone(),
                    settings.platform_timeout,
                )?;
                enrol::report_once(&settings, &platform, stage, failed.as_deref(), tries).await?;
                Ok(())
            })
        }
        Command::Run => {
            log(&settings)?;
            let runtime = runtime()?;
            let ended = runtime.block_on(serve(settings));
            // A thread that hangs inside a driver is not waited for.
            runtime.shutdown_background();
            ended
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("no runtime")
}

fn log(settings: &Settings) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(&settings.log_level).context("LOG_LEVEL")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr);
    let installed = match settings.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!("log lines cannot be set up: {error}"))
}

#[expect(clippy::print_stdout, reason = "this is what the subcommand is for")]
fn check_config(settings: &Settings) {
    for (name, value) in settings.shown() {
        println!("{name} = {}", value.as_deref().unwrap_or("-"));
    }
}

/// Asks our own port, without a client library: this runs every few seconds.
fn health(listen: SocketAddr) -> anyhow::Result<()> {
    let local = if listen.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { listen.ip() };
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(local, listen.port()), HEALTH_TIMEOUT)?;
    stream.set_read_timeout(Some(HEALTH_TIMEOUT))?;
    stream.set_write_timeout(Some(HEALTH_TIMEOUT))?;
    stream.write_all(b"GET /health HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
    let mut start = [0; 12];
    stream.read_exact(&mut start)?;
    if &start[8..] != b" 200" {
        bail!("the daemon answers {}", String::from_utf8_lossy(&start));
    }
    Ok(())
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    // From here on no signal is missed.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let usec = std::env::var("WATCHDOG_USEC").ok();
    let manager = ServiceManager::new(std::env::var_os("NOTIFY_SOCKET"), usec.as_deref())?;
    let prometheus = metrics::install()?;
    let node_id = settings.node_id.clone();
    let mut agent = Agent::start(settings, NvidiaGpu::default(), Some(prometheus)).await?;
    for service in GpuService::ALL {
        tracing::info!("{service} is offered on {}", agent.address(*service));
    }
    tracing::info!("{node_id} is watched; status on {}", agent.status_address());
    manager.ready();
    let mut watchdog = manager.watchdog().map(tokio::time::interval);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            why = agent.failed() => bail!(why),
            () = next_tick(&mut watchdog) => {
                // Silence lets the service manager start us again.
                if agent.is_alive() {
                    manager.alive();
                }
            }
        }
    }
    tracing::info!("stopping");
    manager.stopping();
    agent.drain().await;
    tracing::info!("stopped");
    Ok(())
}

async fn next_tick(ticks: &mut Option<tokio::time::Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}
