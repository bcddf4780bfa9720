use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Arg, ArgMatches, Command};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wopr_api::config::{Config, ConfigErrors, GatewaySettings, KEYS, ModelAccount, Sources};
use wopr_api::{Adapters, AppState, app};
use wopr_core::adapters::cloud::DigitalOcean;
use wopr_core::adapters::docker::{DockerHost, DockerJobs, JobSettings, PgBackRest, RegistryLogin};
use wopr_core::adapters::inference::HttpProbe;
use wopr_core::adapters::models::{
    Anthropic, Deepgram, ElevenLabs, KeyedModels, OpenAiCompatible, Patience, Replicate,
};
use wopr_core::adapters::smtp::{SmtpConfig, SmtpMailer};
use wopr_core::adapters::stripe::StripeProvider;
use wopr_core::audit::Origin;
use wopr_core::backup::{BackupError, BackupRunner, LogArchive};
use wopr_core::billing::payments::PaymentProvider;
use wopr_core::clock::SystemClock;
use wopr_core::db::{Db, DbConfig};
use wopr_core::gateway::{Capability, Journal, ModelProvider};
use wopr_core::gpu::CloudProvider;
use wopr_core::ids::{BotId, RestoreId, SnapshotId, TenantId};
use wopr_core::notify::Mailer;
use wopr_core::protocol::backup::{RingKey, Sensitive, Store};

/// How long somebody who is no more may keep others from backups, and a little.
const LEASES_END: Duration = Duration::from_secs(90);

/// The exit code of a configuration that is wrong.
const BAD_CONFIGURATION: u8 = 2;

pub(crate) fn run() -> ExitCode {
    let matches = command().get_matches();
    let result = match matches.subcommand_name() {
        Some("openapi") => openapi(),
        Some("routes") => {
            routes();
            Ok(())
        }
        name => with_config(&matches, name.unwrap_or("serve")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wopr-api: {error:#}");
            if error.is::<ConfigErrors>() { ExitCode::from(BAD_CONFIGURATION) } else { ExitCode::FAILURE }
        }
    }
}

fn command() -> Command {
    let flags = KEYS.iter().filter_map(|key| {
        let flag = key.flag?;
        Some(
            Arg::new(key.name).long(flag).value_name("VALUE").global(true).help(format!("{} [{}]", key.help, key.name)),
        )
    });
    Command::new("wopr-api")
        .version(env!("CARGO_PKG_VERSION"))
        .about("The WOPR server. Every flag can also be given in the environment or in the configuration file.")
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .global(true)
                .value_parser(clap::value_parser!(PathBuf))
                .help("a TOML file with the keys in lower case"),
        )
        .args(flags)
        .subcommand(Command::new("serve").about("Serve requests (the default)"))
        .subcommand(Command::new("migrate").about("Bring the database's schema up to date"))
        .subcommand(
            Command::new("recover").about(
                "After the loss of the bots' machine, before serving: want every bot restored whose volume is gone",
            ),
        )
        .subcommand(Command::new("check-config").about("Print each key, its value and where it came from"))
        .subcommand(Command::new("openapi").about("Print the OpenAPI description"))
        .subcommand(Command::new("routes").about("Print every route and procedure with who may call it"))
}

fn with_config(matches: &ArgMatches, name: &str) -> anyhow::Result<()> {
    let config = Config::load(&sources(matches)?)?;
    if name == "check-config" {
        check_config(&config);
        return Ok(());
    }
    wopr_api::telemetry::install(&config)?;
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is installed already"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        match name {
            "migrate" => migrate(&config).await,
            "recover" => recover(config).await,
            _ => serve(config).await,
        }
    })
}

fn sources(matches: &ArgMatches) -> anyhow::Result<Sources> {
    let mut flags = BTreeMap::new();
    for key in &KEYS {
        if let Some(value) = key.flag.and_then(|_| matches.get_one::<String>(key.name)) {
            flags.insert(key.name.to_owned(), value.clone());
        }
    }
    let file = match matches.get_one::<PathBuf>("config") {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| ConfigErrors(vec![format!("{} cannot be read: {error}", path.display())]))?;
            Some((path.clone(), text))
        }
        None => None,
    };
    // A variable that is not UTF-8 cannot be one of ours, whose values are all text.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Ok(Sources { flags, environment: environment.collect(), file })
}

#[expect(clippy::print_stdout, reason = "this is what the subcommand is for")]
fn check_config(config: &Config) {
    for setting in config.settings() {
        println!("{} = {}  # {}", setting.name, setting.shown.as_deref().unwrap_or("-"), setting.layer);
    }
}

#[expect(clippy::print_stdout, reason = "this is what the subcommand is for")]
fn openapi() -> anyhow::Result<()> {
    println!("{}", wopr_api::routes::rest().1.to_pretty_json()?);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is what the subcommand is for")]
fn routes() {
    for route in wopr_api::routes::list() {
        println!("{route}");
    }
}

fn database(config: &Config) -> anyhow::Result<Db> {
    let mut db = DbConfig::new(config.database_url.clone());
    db.schema.clone_from(&config.database_schema);
    db.max_connections = config.database_max_connections;
    Ok(Db::new(db)?)
}

/// The real outside, as far as it is configured.
fn adapters(config: &Config) -> anyhow::Result<Adapters> {
    let mailer = if let Some(mail) = &config.mail {
        let smtp = SmtpConfig { url: mail.smtp_url.clone(), from: mail.from.clone(), reply_to: None };
        Some(Arc::new(SmtpMailer::new(&smtp)?) as Arc<dyn Mailer>)
    } else {
        tracing::warn!("SMTP_URL is not set: mails stay queued");
        None
    };
    let login = config.registry.as_ref().map(|registry| RegistryLogin {
        server: registry.server.clone(),
        username: registry.username.clone(),
        password: registry.password.clone(),
    });
    let mut containers = DockerHost::new(config.docker_host.as_deref(), login)?;
    if config.own_images_first {
        containers = containers.with_own_images_first();
    }
    if let Some(proxy) = &config.proxy {
        containers = containers.with_proxy(&proxy.container);
    } else {
        tracing::info!("BOT_DOMAIN is not set: bots are not reached from outside");
    }
    let containers = Arc::new(containers);
    let payments = if let Some(stripe) = &config.stripe {
        let provider = StripeProvider::new(&stripe.secret_key, Some(&stripe.api_base))?;
        Some(Arc::new(provider) as Arc<dyn PaymentProvider>)
    } else {
        tracing::warn!("STRIPE_SECRET_KEY is not set: nothing can be bought");
        None
    };
    let cloud = if let Some(cloud) = &config.gpu.cloud {
        let account = DigitalOcean::new(&cloud.token, Some(&cloud.api_base))?;
        Some(Arc::new(account) as Arc<dyn CloudProvider>)
    } else {
        tracing::info!("DO_API_TOKEN is not set: no machine is made, rebooted or removed");
        None
    };
    let inference = Arc::new(HttpProbe::new()?);
    let models = models(&config.gateway)?;
    let keyed_models = Arc::new(KeyedModels::new(&config.gateway.tenants, Patience::default())?);
    let journal = Journal::open(&config.gateway.journal, config.gateway.sync)?;
    let backups = backup_jobs(config)?;
    let archive = archive(config)?;
    Ok(Adapters { containers, mailer, payments, cloud, inference, models, keyed_models, journal, backups, archive })
}

/// The archive of the database's log, if the database is in a container that has one.
fn archive(config: &Config) -> anyhow::Result<Option<Arc<dyn LogArchive>>> {
    let Some(backup) = &config.backup else { return Ok(None) };
    let Some(container) = backup.database_container.clone() else {
        tracing::info!(
            "BACKUP_DATABASE_CONTAINER is not set: the database comes back as of a night, not of any instant"
        );
        return Ok(None);
    };
    let host = DockerHost::new(config.docker_host.as_deref(), None)?;
    Ok(Some(Arc::new(PgBackRest::new(host, container, Arc::new(SystemClock)))))
}

/// Backup jobs on the bots' engine, if there is somewhere to keep backups.
fn backup_jobs(config: &Config) -> anyhow::Result<Option<Arc<dyn BackupRunner>>> {
    let Some(backup) = &config.backup else {
        tracing::warn!("S3_BUCKET is not set: nothing is backed up");
        return Ok(None);
    };
    let sensitive = |secret: &SecretString| Sensitive(secret.expose_secret().to_owned());
    let ring_key = |(id, secret): &(String, SecretString)| RingKey { id: id.clone(), secret: sensitive(secret) };
    let settings = JobSettings {
        image: backup.image.clone(),
        network: backup.network.clone(),
        store: Store::S3 {
            endpoint: backup.endpoint.clone(),
            region: backup.region.clone(),
            bucket: backup.bucket.clone(),
            access_key: backup.access_key.clone(),
            secret_key: sensitive(&backup.secret_key),
        },
        keys: backup.keys.iter().map(ring_key).collect(),
        database_url: sensitive(backup.database_url.as_ref().unwrap_or(&config.database_url)),
    };
    let host = DockerHost::new(config.docker_host.as_deref(), None)?;
    Ok(Some(Arc::new(DockerJobs::new(host, settings))))
}

/// The providers of models that there is an account at.
fn models(settings: &GatewaySettings) -> anyhow::Result<Vec<Arc<dyn ModelProvider>>> {
    let patience = Patience::default();
    let text = [Capability::ChatCompletions, Capability::TextCompletions, Capability::Embeddings];
    let mut models: Vec<Arc<dyn ModelProvider>> = Vec::new();
    if let Some(ModelAccount { key, base_url }) = settings.openrouter.clone() {
        models.push(Arc::new(OpenAiCompatible::new("openrouter", &base_url, Some(key), text, patience)?));
    }
    if let Some(ModelAccount { key, base_url }) = settings.gemini.clone() {
        let gemini = OpenAiCompatible::new("gemini", &base_url, Some(key), text, patience)?;
        models.push(Arc::new(gemini.without_version()));
    }
    if let Some(ModelAccount { key, base_url }) = settings.anthropic.clone() {
        models.push(Arc::new(Anthropic::new(key, Some(&base_url), patience)?));
    }
    if let Some(ModelAccount { key, base_url }) = settings.deepgram.clone() {
        models.push(Arc::new(Deepgram::new(key, Some(&base_url), patience)?));
    }
    if let Some(ModelAccount { key, base_url }) = settings.elevenlabs.clone() {
        models.push(Arc::new(ElevenLabs::new(key, Some(&base_url), patience)?));
    }
    if let Some(ModelAccount { key, base_url }) = settings.replicate.clone() {
        models.push(Arc::new(Replicate::new(key, Some(&base_url), patience)?));
    }
    Ok(models)
}

async fn migrate(config: &Config) -> anyhow::Result<()> {
    let applied = database(config)?.migrate().await?;
    match applied.as_slice() {
        [] => tracing::info!("the schema is up to date"),
        applied => tracing::info!(count = applied.len(), "applied {}", applied.join(", ")),
    }
    Ok(())
}

/// What `recover` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Recovery {
    /// Snapshots and sets in the store that the database did not know.
    found: usize,
    /// Restores that the server will carry out.
    restoring: Vec<Restoring>,
    /// Bots whose data is lost.
    without_snapshot: Vec<BotId>,
    /// Bots that were not looked at to the end.
    failed: Vec<Unclear>,
}

#[derive(Serialize)]
struct Unclear {
    bot: BotId,
    reason: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Restoring {
    id: RestoreId,
    bot: BotId,
    tenant: TenantId,
    snapshot: SnapshotId,
}

/// The server does the rest: it goes on with every restore that it finds.
#[expect(clippy::print_stdout, reason = "this is what the subcommand is for")]
async fn recover(config: Config) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let (db, clock) = (database(&config)?, Arc::new(SystemClock));
    let state = AppState::assemble(Arc::clone(&config), db, clock, adapters(&config)?)?;
    let since = Instant::now();
    let lost = loop {
        match state.backups.restore_lost(&Origin::system("recover")).await {
            // Whoever made the set that the database was restored from had a lease at that, and it is in the set.
            Err(BackupError::Busy(_) | BackupError::DatabaseBusy) if since.elapsed() < LEASES_END => {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            outcome => break outcome?,
        }
    };
    for bot in &lost.without_snapshot {
        tracing::error!(bot.id = %bot, "the data of bot {bot} is gone, and there is no snapshot of it");
    }
    let restoring = lost.restores.into_iter().map(|restore| Restoring {
        id: restore.id,
        bot: restore.bot_id,
        tenant: restore.tenant_id,
        snapshot: restore.snapshot_id,
    });
    let failed = lost.failed.into_iter().map(|(bot, reason)| {
        tracing::error!(bot.id = %bot, "bot {bot}: {reason}");
        Unclear { bot, reason }
    });
    let said = Recovery {
        found: lost.found,
        failed: failed.collect(),
        restoring: restoring.collect(),
        without_snapshot: lost.without_snapshot,
    };
    println!("{}", serde_json::to_string(&said)?);
    Ok(())
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let (db, clock) = (database(&config)?, Arc::new(SystemClock));
    let state = AppState::assemble(Arc::clone(&config), db, clock, adapters(&config)?)?;
    let listener = listen(config.port).await?;
    let port = listener.local_addr()?.port();
    tracing::info!(port, "listening on port {port}");
    let stop = CancellationToken::new();
    let service = app(state.clone()).into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, service).with_graceful_shutdown(stop.clone().cancelled_owned());
    let mut server = tokio::spawn(server.into_future());
    let mut workers = state.workers().start(&state, &stop);
    // It ends after the server: answers in progress are charged first, and then settled.
    let (all_answered, gateway) = (CancellationToken::new(), state.gateway.clone());
    let end = all_answered.clone().cancelled_owned();
    let mut gateway = tokio::spawn(async move { gateway.run(end).await });

    tokio::select! {
        ended = &mut server => return ended.context("the server ended")?.context("the server ended"),
        signal = stop_signal() => tracing::info!("stopping on {}", signal?),
    }
    state.readiness.drain();
    stop.cancel();
    let grace = Duration::from_secs(config.shutdown_grace_seconds.into());
    let ended = tokio::time::timeout(grace, async {
        let outcome = (&mut server).await;
        all_answered.cancel();
        drop((&mut gateway).await);
        while workers.join_next().await.is_some() {}
        outcome
    });
    if let Ok(outcome) = ended.await {
        outcome.context("the server ended")?.context("the server ended")?;
    } else {
        tracing::warn!("work was still going on after {} s and is cut off", grace.as_secs());
        server.abort();
    }
    Ok(())
}

/// IPv6 and IPv4 where the machine has both, else IPv4.
async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(error).context(format!("port {port}")),
        Err(_) => TcpListener::bind(("0.0.0.0", port)).await.with_context(|| format!("port {port}")),
    }
}

async fn stop_signal() -> anyhow::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}
