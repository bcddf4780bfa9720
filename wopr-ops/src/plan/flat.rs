//! The stack on one machine: every part a container on the same network, bots beside them on the same engine.

use std::collections::BTreeMap;

use super::spec::{Mount, Ready, SECRETS, Service, Stack};
use crate::{
    images::recipes::{POSTGRES_UID, SERVICE_UID},
    secrets::{Handover, fingerprint_of},
};

/// The database, and the name it is reached by.
pub(crate) const POSTGRES: &str = "wopr-postgres";
/// The double of Stripe.
pub(crate) const STRIPE: &str = "wopr-stripe";
/// The mail catcher.
pub(crate) const MAIL: &str = "wopr-mail";
/// The one-shot that brings the schema up to date.
pub(crate) const MIGRATE: &str = "wopr-api-migrate";
/// The API server.
pub(crate) const API: &str = "wopr-api";
/// All services, in the order they are shown in.
pub(crate) const SERVICES: [&str; 5] = [POSTGRES, STRIPE, MAIL, MIGRATE, API];

/// Role and database: of the same name, so that the schema of that name comes first on the search path.
pub(crate) const DATABASE: &str = "wopr";

/// The volume with the database's files.
pub(crate) const POSTGRES_VOLUME: &str = "wopr-postgres-data";

/// Ports inside the containers.
const STRIPE_PORT: u16 = 3110;
const SMTP_PORT: u16 = 1025;
const MAIL_WEB_PORT: u16 = 3120;
const API_PORT: u16 = 3100;

const MIB: i64 = 1024 * 1024;

/// Ports on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub(crate) struct Ports {
    /// Port of the API on this machine.
    #[arg(long, default_value_t = 3100, value_name = "PORT")]
    pub(crate) api_port: u16,
    /// Port of the Stripe stand-in on this machine.
    #[arg(long, default_value_t = 3110, value_name = "PORT")]
    pub(crate) stripe_port: u16,
    /// Port of the mail catcher's page on this machine.
    #[arg(long, default_value_t = 3120, value_name = "PORT")]
    pub(crate) mail_port: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { api_port: 3100, stripe_port: 3110, mail_port: 3120 }
    }
}

/// The images of the stack, by reference.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    pub(crate) postgres: String,
    pub(crate) api: String,
    pub(crate) stripe: String,
    pub(crate) mail: String,
}

/// What the stack is made from.
#[derive(Debug, Clone)]
pub(crate) struct Inputs<'a> {
    /// Images to run.
    pub(crate) images: &'a Images,
    /// Ports on this machine.
    pub(crate) ports: Ports,
    /// The engine's socket on this machine, and the group that may use it.
    pub(crate) socket: (&'a str, u32),
    /// Secret files by service.
    pub(crate) handovers: &'a BTreeMap<&'static str, Handover>,
    /// Directory with one directory of secret files per service.
    pub(crate) handover_directory: &'a str,
}

/// The user a service runs as, who must be able to read its secret files.
pub(crate) fn uid(service: &str) -> u32 {
    if service == POSTGRES { POSTGRES_UID } else { SERVICE_UID }
}

/// The secret files of each service. `secret` looks a secret up by name.
///
/// # Errors
/// Those of `secret`.
pub(crate) fn handovers<'s>(
    secret: impl Fn(&str) -> anyhow::Result<&'s str>,
) -> anyhow::Result<BTreeMap<&'static str, Handover>> {
    let files = |names: &[&str]| -> anyhow::Result<Handover> {
        names.iter().map(|name| Ok(((*name).to_owned(), secret(name)?.to_owned()))).collect()
    };
    let url = format!("postgres://{DATABASE}:{}@{POSTGRES}:5432/{DATABASE}", secret("POSTGRES_PASSWORD")?);
    let mut api = files(&[
        "BETTER_AUTH_SECRET",
        "FLEET_API_TOKEN_ADMIN",
        "PLATFORM_SECRET",
        "STRIPE_SECRET_KEY",
        "STRIPE_WEBHOOK_SECRET",
    ])?;
    api.insert("DATABASE_URL".to_owned(), url);
    Ok(BTreeMap::from([
        (POSTGRES, files(&["POSTGRES_PASSWORD"])?),
        (STRIPE, files(&["STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "STRIPE_STANDIN_CONTROL_KEY"])?),
        (MIGRATE, api.clone()),
        (API, api),
    ]))
}

/// The whole stack.
pub(crate) fn stack(inputs: &Inputs<'_>) -> Stack {
    Stack {
        name: "flat",
        network: "wopr-flat",
        services: vec![postgres(inputs), stripe(inputs), mail(inputs), migrate(inputs), api(inputs)],
    }
}

fn postgres(inputs: &Inputs<'_>) -> Service {
    let mut service = base(inputs, POSTGRES, &inputs.images.postgres);
    service.set([("POSTGRES_USER", DATABASE.to_owned()), ("POSTGRES_DB", DATABASE.to_owned())]);
    service.mounts.extend([
        Mount::Volume { name: POSTGRES_VOLUME, target: "/var/lib/postgresql/data" },
        Mount::Tmpfs { target: "/run/postgresql", options: "uid=999,gid=999,mode=2775" },
    ]);
    service.memory_bytes = 512 * MIB;
    let probe = ["pg_isready", "-q", "-h", "127.0.0.1", "-p", "5432", "-U", DATABASE, "-d", DATABASE];
    service.ready = Ready::Probe(probe.to_vec());
    service
}

fn stripe(inputs: &Inputs<'_>) -> Service {
    let mut service = base(inputs, STRIPE, &inputs.images.stripe);
    service.set([
        ("STRIPE_STANDIN_LISTEN", format!("0.0.0.0:{STRIPE_PORT}")),
        ("STRIPE_STANDIN_PUBLIC_URL", format!("http://localhost:{}", inputs.ports.stripe_port)),
        ("STRIPE_STANDIN_DATA_DIR", "/data".to_owned()),
        ("STRIPE_STANDIN_WEBHOOK_URL", format!("http://{API}:{API_PORT}/api/billing/webhook")),
    ]);
    service.mounts.push(Mount::Volume { name: "wopr-stripe-data", target: "/data" });
    service.ports = vec![(inputs.ports.stripe_port, STRIPE_PORT)];
    service.ready = Ready::Http { port: inputs.ports.stripe_port, path: "/health" };
    service
}

fn mail(inputs: &Inputs<'_>) -> Service {
    let mut service = base(inputs, MAIL, &inputs.images.mail);
    service.set([
        ("MAIL_CATCHER_SMTP", format!("0.0.0.0:{SMTP_PORT}")),
        ("MAIL_CATCHER_HTTP", format!("0.0.0.0:{MAIL_WEB_PORT}")),
        ("MAIL_CATCHER_DATA_DIR", "/data".to_owned()),
    ]);
    service.mounts.push(Mount::Volume { name: "wopr-mail-data", target: "/data" });
    service.ports = vec![(inputs.ports.mail_port, MAIL_WEB_PORT)];
    service.ready = Ready::Http { port: inputs.ports.mail_port, path: "/health" };
    service
}

fn migrate(inputs: &Inputs<'_>) -> Service {
    let mut service = base(inputs, MIGRATE, &inputs.images.api);
    service.command = vec!["migrate".to_owned()];
    service.set(api_settings(inputs));
    service.after = vec![POSTGRES];
    service.ready = Ready::Finished;
    service
}

fn api(inputs: &Inputs<'_>) -> Service {
    let (socket, group) = inputs.socket;
    let mut service = base(inputs, API, &inputs.images.api);
    service.command = vec!["serve".to_owned()];
    service.set(api_settings(inputs));
    service.groups = vec![group.to_string()];
    service.mounts.push(Mount::Bind {
        source: socket.to_owned(),
        target: "/var/run/docker.sock".to_owned(),
        read_only: false,
    });
    service.ports = vec![(inputs.ports.api_port, API_PORT)];
    service.memory_bytes = 512 * MIB;
    service.after = vec![MIGRATE, STRIPE, MAIL];
    service.ready = Ready::Http { port: inputs.ports.api_port, path: "/health/ready" };
    service
}

fn api_settings(inputs: &Inputs<'_>) -> Vec<(&'static str, String)> {
    let text = |(name, value): (&'static str, &str)| (name, value.to_owned());
    let mut settings: Vec<(&'static str, String)> = [
        ("WOPR_ENVIRONMENT", "development"),
        ("LOG_LEVEL", "info"),
        ("UI_ORIGIN", "http://localhost:3000"),
        ("COOKIE_DOMAIN", "localhost"),
        ("MAIL_FROM", "noreply@wopr.test"),
        ("STRIPE_CREDIT_PRICE_5", "price_wopr_credits_5"),
        ("STRIPE_CREDIT_PRICE_10", "price_wopr_credits_10"),
        ("STRIPE_CREDIT_PRICE_25", "price_wopr_credits_25"),
        ("STRIPE_CREDIT_PRICE_50", "price_wopr_credits_50"),
        ("STRIPE_CREDIT_PRICE_100", "price_wopr_credits_100"),
    ]
    .map(text)
    .into();
    settings.extend([
        ("PORT", API_PORT.to_string()),
        ("BETTER_AUTH_URL", format!("http://localhost:{}", inputs.ports.api_port)),
        ("STRIPE_API_BASE", format!("http://{STRIPE}:{STRIPE_PORT}")),
        ("SMTP_URL", format!("smtp://{MAIL}:{SMTP_PORT}")),
    ]);
    settings
}

/// What all services have in common: an ordinary user, no capability, a read-only root.
fn base(inputs: &Inputs<'_>, name: &'static str, image: &str) -> Service {
    let uid = uid(name);
    let handover = inputs.handovers.get(name);
    // What they write is kept in files, where colour is noise.
    let mut env = BTreeMap::from([("NO_COLOR".to_owned(), "1".to_owned())]);
    let mut mounts = vec![Mount::Tmpfs { target: "/tmp", options: "mode=1777,size=64m" }];
    if let Some(files) = handover {
        env.extend(files.keys().map(|file| (format!("{file}_FILE"), format!("{SECRETS}/{file}"))));
        mounts.push(Mount::Bind {
            source: format!("{}/{name}", inputs.handover_directory),
            target: SECRETS.to_owned(),
            read_only: true,
        });
    }
    Service {
        name,
        image: image.to_owned(),
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
    }
}
