//! The platform: database, API and what they talk to, on one engine, with the bots beside them.
//!
//! Two topologies have it. In the flat one it is all there is, on this machine's engine; in the other it is what the
//! machine `wopr-vps` runs, where a proxy, the dashboard's place and an object store come with it.

use std::{collections::BTreeMap, net::Ipv4Addr};

use serde_json::json;

use super::{
    archive::{self, Target},
    machines::{Position, SHARED},
    scratch,
    spec::{Mount, Network, Ready, SECRETS, Service, Stack, Subnet},
};
use crate::{
    images::recipes::{
        CADDY_UID, OBJECTS_HEALTH, POSTGRES_UID, SERVICE_UID, UI_API_VARIABLE, UI_HEALTH, UI_MAIL_VARIABLE, UI_PORT,
        UI_STRIPE_VARIABLE,
    },
    secrets::{Handover, fingerprint_of},
};

/// What the platform's services are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Names {
    /// Value of the stack's label.
    pub(crate) stack: &'static str,
    /// The network of its services.
    pub(crate) network: Network,
    /// The database.
    pub(crate) postgres: &'static str,
    /// The double of Stripe.
    pub(crate) stripe: &'static str,
    /// The mail catcher.
    pub(crate) mail: &'static str,
    /// The one-shot that brings the schema up to date.
    pub(crate) migrate: &'static str,
    /// The API server.
    pub(crate) api: &'static str,
    /// The dashboard's place.
    pub(crate) ui: &'static str,
    /// The object store.
    pub(crate) objects: &'static str,
    /// The reverse proxy.
    pub(crate) caddy: &'static str,
}

/// All on this machine's engine.
pub(crate) const FLAT: Names = Names {
    stack: "flat",
    network: Network { name: "wopr-flat", subnet: None },
    postgres: "wopr-postgres",
    stripe: "wopr-stripe",
    mail: "wopr-mail",
    migrate: "wopr-api-migrate",
    api: "wopr-api",
    ui: "wopr-ui",
    objects: "wopr-objects",
    caddy: "wopr-caddy",
};

/// On the machine `wopr-vps`.
pub(crate) const VPS: Names = Names {
    stack: "vps",
    // Before those of tenants in the alphabet: the engine gives the proxy's published port to the first of its networks.
    network: Network {
        name: "wopr-services",
        // Below those of tenants, and none of those that an engine chooses for a bridge.
        subnet: Some(Subnet { whole: "10.191.0.0/24", given: "10.191.0.128/25" }),
    },
    postgres: "wopr-vps-postgres",
    stripe: "wopr-vps-stripe",
    mail: "wopr-vps-mail",
    migrate: "wopr-vps-platform-api-migrate",
    api: "wopr-vps-platform-api",
    ui: "wopr-vps-platform-ui",
    objects: "wopr-vps-objects",
    caddy: "wopr-vps-caddy",
};

/// Role and database: of the same name, so that the schema of that name comes first on the search path.
pub(crate) const DATABASE: &str = "wopr";

/// The volume with the database's files.
pub(crate) const POSTGRES_VOLUME: &str = "wopr-postgres-data";

/// Ports inside the containers; the machine `wopr-vps` publishes the same ones.
pub(crate) const STRIPE_PORT: u16 = 3110;
const SMTP_PORT: u16 = 1025;
pub(crate) const MAIL_WEB_PORT: u16 = 3120;
pub(crate) const API_PORT: u16 = 3100;
pub(crate) const HTTP_PORT: u16 = 80;
pub(super) const OBJECTS_PORT: u16 = 9000;
/// Where the object store speaks TLS.
pub(super) const OBJECTS_TLS_PORT: u16 = 9443;
/// Where backups are kept in the object store.
pub(crate) const BUCKET: &str = "wopr-backups";
/// The proxy's own address, which the engine gives to nobody else: its word, and this machine's, is believed on who asks.
const CADDY_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 191, 0, 2);
/// The proxy listens above 1024, where no privilege is needed.
const CADDY_PORT: u16 = 8080;
/// Where each bot listens.
const BOT_PORT: u16 = 7437;
/// What bots' names are below.
pub(crate) const DOMAIN: &str = "localhost";
/// Where it takes another configuration: nobody but itself reaches that.
const CADDY_ADMIN: &str = "unix//run/caddy/admin.sock";

/// Below a machine's directory: data that does not go with the machine.
pub(crate) const ELSEWHERE: &str = "elsewhere";

pub(crate) const MIB: i64 = 1024 * 1024;
/// Seconds a service gets to end by itself.
pub(crate) const STOP_SECONDS: i32 = 10;

/// Ports of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub(crate) struct Ports {
    /// Port of the API on this machine.
    #[arg(long, default_value_t = API_PORT, value_name = "PORT")]
    pub(crate) api_port: u16,
    /// Port of the Stripe stand-in on this machine.
    #[arg(long, default_value_t = STRIPE_PORT, value_name = "PORT")]
    pub(crate) stripe_port: u16,
    /// Port of the mail catcher's page on this machine.
    #[arg(long, default_value_t = MAIL_WEB_PORT, value_name = "PORT")]
    pub(crate) mail_port: u16,
    /// Port of the reverse proxy on this machine; two machines only.
    #[arg(long, default_value_t = HTTP_PORT, value_name = "PORT")]
    pub(crate) http_port: u16,
    /// Port of text generation on this machine; two machines only.
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    pub(crate) llama_port: u16,
    /// Port of text-to-speech on this machine; two machines only.
    #[arg(long, default_value_t = 8081, value_name = "PORT")]
    pub(crate) chatterbox_port: u16,
    /// Port of speech-to-text on this machine; two machines only.
    #[arg(long, default_value_t = 8082, value_name = "PORT")]
    pub(crate) whisper_port: u16,
    /// Port of embeddings on this machine; two machines only.
    #[arg(long, default_value_t = 8083, value_name = "PORT")]
    pub(crate) embeddings_port: u16,
}

impl Ports {
    /// As they are told on the command line.
    pub(crate) fn flags(self) -> Vec<String> {
        let Self {
            api_port,
            stripe_port,
            mail_port,
            http_port,
            llama_port,
            chatterbox_port,
            whisper_port,
            embeddings_port,
        } = self;
        let flags = [
            ("api", api_port),
            ("stripe", stripe_port),
            ("mail", mail_port),
            ("http", http_port),
            ("llama", llama_port),
            ("chatterbox", chatterbox_port),
            ("whisper", whisper_port),
            ("embeddings", embeddings_port),
        ];
        flags.map(|(name, port)| format!("--{name}-port={port}")).to_vec()
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            api_port: API_PORT,
            stripe_port: STRIPE_PORT,
            mail_port: MAIL_WEB_PORT,
            http_port: HTTP_PORT,
            llama_port: 8080,
            chatterbox_port: 8081,
            whisper_port: 8082,
            embeddings_port: 8083,
        }
    }
}

impl Ports {
    /// The flag that moves a port.
    pub(crate) fn flag(self, port: u16) -> &'static str {
        let flags = [
            (self.api_port, "--api-port"),
            (self.stripe_port, "--stripe-port"),
            (self.mail_port, "--mail-port"),
            (self.http_port, "--http-port"),
            (self.llama_port, "--llama-port"),
            (self.chatterbox_port, "--chatterbox-port"),
            (self.whisper_port, "--whisper-port"),
            (self.embeddings_port, "--embeddings-port"),
        ];
        flags.iter().find(|(of, _)| *of == port).map_or("another", |(_, flag)| flag)
    }
}

/// References of images, by the names of `images --only`.
pub(crate) type Images = BTreeMap<&'static str, String>;

/// Where the platform runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On this machine's engine.
    Here,
    /// On the engine of a machine that is there.
    Machine(Position),
}

/// What the platform is made from.
#[derive(Debug, Clone)]
pub(crate) struct Inputs<'a> {
    /// Images to run.
    pub(crate) images: &'a Images,
    /// Where it runs.
    pub(crate) place: Place,
    /// Ports on this machine, as customers and operators use them.
    pub(crate) ports: Ports,
    /// The engine's socket on its machine, and the group that may use it.
    pub(crate) socket: (&'a str, u32),
    /// Files by service.
    pub(crate) handovers: &'a BTreeMap<&'static str, Handover>,
    /// Directory of the engine's machine with one directory of files per service.
    pub(crate) handover_directory: &'a str,
}

impl Inputs<'_> {
    fn names(&self) -> &'static Names {
        names(self.place)
    }

    /// The port of the engine's machine that a container port is published on.
    fn published(&self, here: u16, inside: u16) -> Vec<(u16, u16)> {
        vec![(if self.place == Place::Here { here } else { inside }, inside)]
    }
}

/// What services are called there.
pub(crate) fn names(place: Place) -> &'static Names {
    if place == Place::Here { &FLAT } else { &VPS }
}

/// The user a service runs as, who must be able to read its files.
pub(crate) fn uid(service: &str) -> u32 {
    match service {
        _ if [FLAT.postgres, VPS.postgres, REPLAY].contains(&service) => POSTGRES_UID,
        _ if [FLAT.caddy, VPS.caddy].contains(&service) => CADDY_UID,
        _ => SERVICE_UID,
    }
}

/// The files of each service: secrets, under the names of their variables, and configuration. `secret` looks one up.
///
/// # Errors
/// Those of `secret`.
pub(crate) fn handovers<'s>(
    place: Place,
    secret: impl Fn(&str) -> anyhow::Result<&'s str>,
) -> anyhow::Result<BTreeMap<&'static str, Handover>> {
    let names = names(place);
    let files = |wanted: &[&str]| -> anyhow::Result<Handover> {
        wanted.iter().map(|name| Ok(((*name).to_owned(), secret(name)?.to_owned()))).collect()
    };
    let url = format!("postgres://{DATABASE}:{}@{}:5432/{DATABASE}", secret("POSTGRES_PASSWORD")?, names.postgres);
    let mut api = files(&[
        "BETTER_AUTH_SECRET",
        "FLEET_API_TOKEN_ADMIN",
        "PLATFORM_SECRET",
        "STRIPE_SECRET_KEY",
        "STRIPE_WEBHOOK_SECRET",
    ])?;
    api.insert("DATABASE_URL".to_owned(), url);
    let mut postgres = files(&["POSTGRES_PASSWORD"])?;
    if place != Place::Here {
        postgres.extend(archive::files(&secret)?);
    }
    let mut all = BTreeMap::from([
        (names.postgres, postgres),
        (names.stripe, files(&["STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "STRIPE_STANDIN_CONTROL_KEY"])?),
    ]);
    if let Place::Machine(position) = place {
        api.extend(files(&["BACKUP_ENCRYPTION_KEY", "GPU_NODE_SECRET"])?);
        api.insert("DO_SPACES_ACCESS_KEY".to_owned(), secret("OBJECTS_ACCESS_KEY")?.to_owned());
        api.insert("DO_SPACES_SECRET_KEY".to_owned(), secret("OBJECTS_SECRET_KEY")?.to_owned());
        all.insert(names.objects, files(&["OBJECTS_ACCESS_KEY", "OBJECTS_SECRET_KEY"])?);
        all.insert(names.caddy, Handover::from([(CADDY_CONFIG.to_owned(), format!("{:#}", caddy_config(position)))]));
    }
    all.insert(names.migrate, api.clone());
    all.insert(names.api, api);
    Ok(all)
}

/// The proxy's configuration file.
const CADDY_TMPFS: &str = "uid=1000,gid=1000,mode=700";
const CADDY_CONFIG: &str = "caddy.json";

/// Local names to the dashboard, the API and the bots, which have the first part of theirs on networks that the proxy is on. The last
/// route takes every other name, so that a machine reached by its address shows something.
///
/// What this machine says of whom it speaks for is believed, so that those who prove the stack from here can be many.
fn caddy_config(position: Position) -> serde_json::Value {
    let here = [position.gateway];
    let to = |address: String| json!([{ "handler": "reverse_proxy", "upstreams": [{ "dial": address }], "trusted_proxies": here }]);
    let route = |id: &str, hosts: &[&str], address: String| {
        let matching = if hosts.is_empty() { json!([]) } else { json!([{ "host": hosts }]) };
        json!({ "@id": id, "match": matching, "handle": to(address), "terminal": true })
    };
    // Only what ends as bots' names do: the other containers here have names, too.
    let is_bot = json!([{
        "host": [format!("*.{DOMAIN}")],
        "header_regexp": { "Host": { "name": "bot", "pattern": r"^([a-z0-9-]+-[0-9a-f]{16})\." } },
    }]);
    let to_bot = to(format!("{{http.regexp.bot.1}}:{BOT_PORT}"));
    let no_bot = json!([{ "handler": "static_response", "status_code": 503, "body": "There is no such bot, or it does not run.\n" }]);
    let (api, ui) = (format!("{}:{API_PORT}", VPS.api), format!("{}:{UI_PORT}", VPS.ui));
    json!({
        "admin": { "listen": CADDY_ADMIN },
        "apps": { "http": { "servers": { "local": {
            "@id": "local",
            "listen": [format!(":{CADDY_PORT}")],
            "automatic_https": { "disable": true },
            "routes": [
                route("api", &["api.localhost"], api),
                route("ui", &["localhost", "app.localhost"], ui.clone()),
                { "@id": "bots", "match": is_bot, "handle": to_bot, "terminal": true },
                route("rest", &[], ui),
            ],
            "errors": { "routes": [{ "match": is_bot, "handle": no_bot }] },
        } } } },
    })
}

/// The whole platform.
pub(crate) fn stack(inputs: &Inputs<'_>) -> Stack {
    let names = inputs.names();
    let mut services = vec![postgres(inputs), stripe(inputs), mail(inputs), migrate(inputs), api(inputs)];
    let (publish, host) = match inputs.place {
        Place::Here => (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST),
        Place::Machine(position) => {
            services.extend([ui(inputs), objects(inputs), caddy(inputs)]);
            (Ipv4Addr::UNSPECIFIED, position.address)
        }
    };
    Stack { name: names.stack, network: names.network, publish, host, services }
}

/// The one-shot that fills the database of a machine that was lost, from the store's newest set.
pub(crate) const RESTORE: &str = "wopr-vps-restore";
/// The one-shot that fills it from the archive of its log instead.
pub(crate) const REPLAY: &str = "wopr-vps-replay";
/// The one-shot that wants every bot restored that the machine had.
pub(crate) const RECOVER: &str = "wopr-vps-recover";

/// What a lost database is made again from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The newest set.
    Set,
    /// The archive of its log.
    Log(Target),
}

impl Source {
    /// The one-shot that reads it.
    pub(crate) const fn reader(self) -> &'static str {
        match self {
            Self::Set => RESTORE,
            Self::Log(_) => REPLAY,
        }
    }
}

/// The files of the services of [`recovery`].
///
/// # Errors
/// Those of `secret`.
pub(crate) fn recovery_handovers<'s>(
    place: Place,
    secret: impl Fn(&str) -> anyhow::Result<&'s str>,
) -> anyhow::Result<BTreeMap<&'static str, Handover>> {
    let restore = scratch::restore_files(&secret, names(place).postgres)?;
    let replay = archive::files(&secret)?;
    let mut all = handovers(place, secret)?;
    all.extend([(RESTORE, restore), (REPLAY, replay)]);
    Ok(all)
}

/// How far the database is of a machine that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It is to be filled.
    Empty,
    /// It has been filled, and may have to read its log.
    Filled,
    /// It is the platform's.
    Whole,
}

/// The platform of a machine that was lost: two one-shots run before the API. The first, which restores the database, is left
/// out once it has ended well.
pub(crate) fn recovery(inputs: &Inputs<'_>, source: Source, progress: Progress) -> Stack {
    let names = inputs.names();
    let mut stack = stack(inputs);
    let mut recover = api(inputs);
    recover.name = RECOVER;
    recover.command = vec!["recover".to_owned()];
    recover.ports.clear();
    recover.after = vec![names.migrate, names.objects];
    recover.ready = Ready::Finished;
    for service in &mut stack.services {
        if service.name == names.api {
            service.after.push(RECOVER);
        }
        let waits = match source {
            Source::Set => names.migrate,
            Source::Log(_) => names.postgres,
        };
        if service.name == waits && progress == Progress::Empty {
            service.after.push(source.reader());
        }
        if service.name == names.postgres && matches!(source, Source::Log(_)) && progress != Progress::Whole {
            archive::holding(service);
            service.after.push(names.objects);
        }
    }
    stack.services.push(recover);
    if progress == Progress::Empty {
        stack.services.push(match source {
            Source::Set => {
                let mut restore = scratch::restore(base(inputs, RESTORE, "backup"));
                restore.command = vec!["restore-database".to_owned()];
                restore.after = vec![names.postgres, names.objects];
                restore
            }
            Source::Log(target) => {
                let mut replay = archive::restore(base(inputs, REPLAY, "postgres"), POSTGRES_VOLUME, target);
                replay.after = vec![names.objects];
                replay
            }
        });
    }
    stack
}

fn ui(inputs: &Inputs<'_>) -> Service {
    let mut service = base(inputs, inputs.names().ui, "ui");
    service.set([
        (UI_API_VARIABLE, format!("http://localhost:{}", inputs.ports.api_port)),
        (UI_MAIL_VARIABLE, format!("http://localhost:{}", inputs.ports.mail_port)),
        (UI_STRIPE_VARIABLE, format!("http://localhost:{}", inputs.ports.stripe_port)),
    ]);
    service.ready = Ready::Probe(UI_HEALTH.to_vec());
    service.shown_by = Some(inputs.names().caddy);
    service
}

fn objects(inputs: &Inputs<'_>) -> Service {
    let mut service = base(inputs, inputs.names().objects, "objects");
    service.set([("OBJECTS_BUCKETS", BUCKET.to_owned()), ("OBJECTS_TLS_PORT", OBJECTS_TLS_PORT.to_string())]);
    service.mounts.push(elsewhere(inputs, "objects", "wopr-objects-data"));
    service.ready = Ready::Probe(OBJECTS_HEALTH.to_vec());
    service
}

/// The data of what is no part of the machine in production. There it is in somebody else's hands; here it is beside the
/// machine, so that it does not go with it.
fn elsewhere(inputs: &Inputs<'_>, name: &str, volume: &'static str) -> Mount {
    let target = "/data";
    match inputs.place {
        Place::Here => Mount::Volume { name: volume, target },
        Place::Machine(_) => {
            Mount::Bind { source: format!("{SHARED}/{ELSEWHERE}/{name}"), target: target.to_owned(), read_only: false }
        }
    }
}

fn caddy(inputs: &Inputs<'_>) -> Service {
    let names = inputs.names();
    let mut service = base(inputs, names.caddy, "caddy");
    service.address = Some(CADDY_ADDRESS);
    service.command = ["run", "--config"].map(str::to_owned).to_vec();
    service.command.push(format!("{SECRETS}/{CADDY_CONFIG}"));
    service.mounts.extend(["/data", "/run/caddy"].map(|target| Mount::Tmpfs { target, options: CADDY_TMPFS }));
    service.ports = vec![(HTTP_PORT, CADDY_PORT)];
    service.after = vec![names.ui, names.api];
    service.ready = Ready::Http(vec![(CADDY_PORT, "/")]);
    service
}

fn postgres(inputs: &Inputs<'_>) -> Service {
    let mut service = database(base(inputs, inputs.names().postgres, "postgres"), POSTGRES_VOLUME);
    // Which asks the database whenever it is asked.
    service.shown_by = Some(inputs.names().api);
    if inputs.place != Place::Here {
        archive::writing(&mut service);
    }
    service
}

/// A PostgreSQL with its files on that volume.
pub(super) fn database(mut service: Service, volume: &'static str) -> Service {
    service.set([("POSTGRES_USER", DATABASE.to_owned()), ("POSTGRES_DB", DATABASE.to_owned())]);
    service.mounts.extend([
        Mount::Volume { name: volume, target: "/var/lib/postgresql/data" },
        Mount::Tmpfs { target: "/run/postgresql", options: "uid=999,gid=999,mode=2775" },
    ]);
    service.memory_bytes = 512 * MIB;
    let probe = ["pg_isready", "-q", "-h", "127.0.0.1", "-p", "5432", "-U", DATABASE, "-d", DATABASE];
    service.ready = Ready::Probe(probe.to_vec());
    service
}

fn stripe(inputs: &Inputs<'_>) -> Service {
    let mut service = base(inputs, inputs.names().stripe, "stripe");
    service.set([
        ("STRIPE_STANDIN_LISTEN", format!("0.0.0.0:{STRIPE_PORT}")),
        ("STRIPE_STANDIN_PUBLIC_URL", format!("http://localhost:{}", inputs.ports.stripe_port)),
        ("STRIPE_STANDIN_DATA_DIR", "/data".to_owned()),
        ("STRIPE_STANDIN_WEBHOOK_URL", format!("http://{}:{API_PORT}/api/billing/webhook", inputs.names().api)),
    ]);
    service.mounts.push(elsewhere(inputs, "stripe", "wopr-stripe-data"));
    service.ports = inputs.published(inputs.ports.stripe_port, STRIPE_PORT);
    service.ready = Ready::Http(vec![(STRIPE_PORT, "/health")]);
    service
}

fn mail(inputs: &Inputs<'_>) -> Service {
    let mut service = base(inputs, inputs.names().mail, "mail");
    service.set([
        ("MAIL_CATCHER_SMTP", format!("0.0.0.0:{SMTP_PORT}")),
        ("MAIL_CATCHER_HTTP", format!("0.0.0.0:{MAIL_WEB_PORT}")),
        ("MAIL_CATCHER_DATA_DIR", "/data".to_owned()),
    ]);
    service.mounts.push(elsewhere(inputs, "mail", "wopr-mail-data"));
    service.ports = inputs.published(inputs.ports.mail_port, MAIL_WEB_PORT);
    service.ready = Ready::Http(vec![(MAIL_WEB_PORT, "/health")]);
    service
}

fn migrate(inputs: &Inputs<'_>) -> Service {
    let mut service = base(inputs, inputs.names().migrate, "api");
    // No schema is newer than the API that follows.
    service.asks_for = asked_for(inputs);
    service.command = vec!["migrate".to_owned()];
    service.set(api_settings(inputs));
    service.after = vec![inputs.names().postgres];
    service.ready = Ready::Finished;
    service
}

fn api(inputs: &Inputs<'_>) -> Service {
    let (socket, group) = inputs.socket;
    let mut service = base(inputs, inputs.names().api, "api");
    service.asks_for = asked_for(inputs);
    service.command = vec!["serve".to_owned()];
    service.set(api_settings(inputs));
    service.groups = vec![group.to_string()];
    service.mounts.push(Mount::Bind {
        source: socket.to_owned(),
        target: "/var/run/docker.sock".to_owned(),
        read_only: false,
    });
    // Charges that are not settled yet.
    service.mounts.push(Mount::Volume { name: "wopr-api-data", target: "/data" });
    service.ports = inputs.published(inputs.ports.api_port, API_PORT);
    service.memory_bytes = 512 * MIB;
    service.after = vec![inputs.names().migrate, inputs.names().stripe, inputs.names().mail];
    if inputs.place != Place::Here {
        service.after.push(inputs.names().objects);
    }
    service.ready = Ready::Http(vec![(API_PORT, "/health/ready")]);
    service
}

/// What the API has its engine run.
fn asked_for(inputs: &Inputs<'_>) -> Vec<String> {
    let names: &[&str] = if inputs.place == Place::Here { &["bot"] } else { &["bot", "backup"] };
    names.iter().filter_map(|name| inputs.images.get(name)).cloned().collect()
}

fn api_settings(inputs: &Inputs<'_>) -> Vec<(&'static str, String)> {
    let text = |(name, value): (&'static str, &str)| (name, value.to_owned());
    let mut settings: Vec<(&'static str, String)> = [
        ("WOPR_ENVIRONMENT", "development"),
        ("LOG_LEVEL", "info"),
        ("UI_ORIGIN", "http://localhost:3000"),
        ("COOKIE_DOMAIN", "localhost"),
        ("MAIL_FROM", "noreply@wopr.test"),
        ("GATEWAY_JOURNAL_DIR", "/data/gateway"),
        // The engine is given the images that are built here; nothing else is reachable from a machine without network.
        ("FLEET_IMAGE_PULL", "missing"),
        ("STRIPE_CREDIT_PRICE_5", "price_wopr_credits_5"),
        ("STRIPE_CREDIT_PRICE_10", "price_wopr_credits_10"),
        ("STRIPE_CREDIT_PRICE_25", "price_wopr_credits_25"),
        ("STRIPE_CREDIT_PRICE_50", "price_wopr_credits_50"),
        ("STRIPE_CREDIT_PRICE_100", "price_wopr_credits_100"),
    ]
    .map(text)
    .into();
    if let Place::Machine(position) = inputs.place {
        settings.extend([
            ("TRUSTED_PROXY_IPS", format!("{CADDY_ADDRESS},{}", position.gateway)),
            ("S3_BUCKET", BUCKET.to_owned()),
            ("DO_SPACES_ENDPOINT", format!("http://{}:{OBJECTS_PORT}", inputs.names().objects)),
            ("BACKUP_IMAGE", inputs.images.get("backup").cloned().unwrap_or_default()),
            ("BACKUP_NETWORK", inputs.names().network.name.to_owned()),
            ("BACKUP_DATABASE_CONTAINER", inputs.names().postgres.to_owned()),
            ("BOT_DOMAIN", DOMAIN.to_owned()),
            ("PROXY_CONTAINER", inputs.names().caddy.to_owned()),
        ]);
    }
    let seen_by_bots = if inputs.place == Place::Here { inputs.ports.api_port } else { API_PORT };
    settings.extend([
        ("GATEWAY_URL", format!("http://host.docker.internal:{seen_by_bots}")),
        ("PORT", API_PORT.to_string()),
        ("BETTER_AUTH_URL", format!("http://localhost:{}", inputs.ports.api_port)),
        ("STRIPE_API_BASE", format!("http://{}:{STRIPE_PORT}", inputs.names().stripe)),
        // Whoever tries the stack out comes from one address.
        ("SIGN_UPS_PER_HOUR", "1000".to_owned()),
        ("SMTP_URL", format!("smtp://{}:{SMTP_PORT}", inputs.names().mail)),
    ]);
    settings
}

fn base(inputs: &Inputs<'_>, name: &'static str, image: &str) -> Service {
    let image = inputs.images.get(image).cloned().unwrap_or_default();
    service(name, image, inputs.handovers.get(name), inputs.handover_directory, uid(name))
}

/// What all services have in common: an ordinary user, no capability, a read-only root.
pub(super) fn service(
    name: &'static str,
    image: String,
    handover: Option<&Handover>,
    handover_directory: &str,
    uid: u32,
) -> Service {
    // What they write is kept in files, where colour is noise.
    let mut env = BTreeMap::from([("NO_COLOR".to_owned(), "1".to_owned())]);
    let mut mounts = vec![Mount::Tmpfs { target: "/tmp", options: "mode=1777,size=64m" }];
    if let Some(files) = handover {
        // A file with an extension is configuration, which the command names.
        let secrets = files.keys().filter(|file| !file.contains('.'));
        env.extend(secrets.map(|file| (format!("{file}_FILE"), format!("{SECRETS}/{file}"))));
        mounts.push(Mount::Bind {
            source: format!("{handover_directory}/{name}"),
            target: SECRETS.to_owned(),
            read_only: true,
        });
    }
    Service {
        name,
        image,
        asks_for: Vec::new(),
        command: Vec::new(),
        env,
        secrets: handover.map(fingerprint_of),
        user: format!("{uid}:{uid}"),
        groups: Vec::new(),
        ports: Vec::new(),
        mounts,
        memory_bytes: 128 * MIB,
        after: Vec::new(),
        ready: Ready::Finished,
        shown_by: None,
        stop_seconds: STOP_SECONDS,
        pulled: false,
        card: false,
        machine: None,
        aliases: Vec::new(),
        address: None,
    }
}
