//! What is known about running WOPR, as data: services, ports, secrets, hazards, and the checks that keep them away.
//!
//! `runbook.toml` is compiled in. It is parsed strictly, and [`lint`] compares it with what the code does, both ways.

pub(crate) mod breakage;
pub(crate) mod demonstrate;
pub(crate) mod lint;
pub(crate) mod planned;
pub(crate) mod pure;
pub(crate) mod render;
pub(crate) mod report;
pub(crate) mod world;

use std::collections::BTreeMap;

use breakage::{Breakage, Fix};
use serde::Deserialize;

use crate::plan::{
    machines::{GPU, VPS},
    platform::Ports,
};

/// The runbook of this checkout.
pub(crate) const TEXT: &str = include_str!("../../../runbook.toml");

/// The version of the format that this program reads.
const SCHEMA_VERSION: u32 = 1;

/// The whole runbook.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Runbook {
    /// About this file.
    pub(crate) meta: Meta,
    /// What is never given up, by name.
    pub(crate) constraints: BTreeMap<String, Constraint>,
    /// Every container that is planned.
    pub(crate) services: Vec<ServiceEntry>,
    /// Every port of this machine.
    pub(crate) ports: Vec<PortEntry>,
    /// Every secret.
    pub(crate) secrets: Vec<SecretEntry>,
    /// What went wrong once, and how it is kept from happening again.
    pub(crate) gotchas: Vec<Gotcha>,
    /// What `check` looks at.
    pub(crate) checks: Vec<Check>,
    /// What has to be true before customers come.
    pub(crate) checklist: Vec<ChecklistEntry>,
}

/// About the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Meta {
    /// [`SCHEMA_VERSION`].
    pub(crate) schema_version: u32,
    /// The product.
    pub(crate) project: String,
    /// Who keeps it.
    pub(crate) owner: String,
}

/// A constraint.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Constraint {
    /// What it demands.
    pub(crate) text: String,
    /// The check that guards it.
    pub(crate) check: Option<String>,
    /// Why no check here can.
    pub(crate) manual: Option<String>,
    /// How bad it is when it does not hold.
    pub(crate) severity: Severity,
}

/// A container.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceEntry {
    /// The container's name.
    pub(crate) id: String,
    /// Where it runs.
    pub(crate) machine: Where,
    /// The image, by its name in `cargo wopr images --only`.
    pub(crate) image: String,
    /// What it is for.
    pub(crate) purpose: String,
}

/// A port of this machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PortEntry {
    /// The port.
    pub(crate) name: Port,
    /// What answers there.
    pub(crate) service: String,
    /// Its number unless told otherwise.
    pub(crate) number: u16,
    /// Who reaches it.
    pub(crate) exposure: Exposure,
}

/// Who reaches a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Exposure {
    /// This machine alone.
    Loopback,
}

/// A secret.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretEntry {
    /// The name the programs know it under.
    pub(crate) name: String,
    /// What it protects.
    pub(crate) purpose: String,
    /// The containers that are handed it.
    pub(crate) services: Vec<String>,
    /// Whether `cargo wopr up` makes it; otherwise it is put together from others.
    pub(crate) generated: bool,
    /// Characters it has at least.
    pub(crate) min_length: usize,
}

/// A hazard.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gotcha {
    /// `R` and a number.
    pub(crate) id: String,
    /// What goes wrong.
    pub(crate) hazard: String,
    /// What keeps it from going wrong.
    pub(crate) handling: String,
    /// The check that would notice.
    pub(crate) check: Option<String>,
    /// Why no check here can.
    pub(crate) manual: Option<String>,
    /// How `verify` brings it about, so that the check notices.
    #[serde(rename = "break")]
    pub(crate) broken: Option<Breakage>,
    /// A part of what the check says then.
    pub(crate) red: Option<String>,
    /// What puts that right again.
    pub(crate) fix: Option<Fix>,
    /// Where it can happen.
    pub(crate) applies_to: Vec<Environment>,
}

/// Where something can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Environment {
    /// The two machines on this one.
    Local,
    /// Real machines.
    Production,
}

impl Environment {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Production => "production",
        }
    }
}

/// Something that has to be true before customers come.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChecklistEntry {
    /// A short name.
    pub(crate) id: String,
    /// What has to be true.
    pub(crate) text: String,
    /// The check that says whether it is.
    pub(crate) check: Option<String>,
    /// How a person finds out.
    pub(crate) manual: Option<String>,
}

/// What a failed check means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Severity {
    /// `check` is red.
    Critical,
    /// `check` says so and stays green.
    Warning,
}

impl Severity {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
        }
    }
}

/// Something that `check` looks at.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "RawCheck")]
pub(crate) struct Check {
    /// A short name.
    pub(crate) id: String,
    /// What is looked at, and what is expected.
    pub(crate) probe: Probe,
    /// How long it may take.
    pub(crate) timeout_s: u64,
    /// What its failure means.
    pub(crate) severity: Severity,
}

/// A check as it is written: parameters depend on the kind.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCheck {
    id: String,
    kind: String,
    params: Option<toml::Table>,
    expect: Option<toml::Table>,
    timeout_s: u64,
    severity: Severity,
}

impl TryFrom<RawCheck> for Check {
    type Error = String;

    fn try_from(raw: RawCheck) -> Result<Self, String> {
        let mut table = toml::Table::from_iter([("kind".to_owned(), toml::Value::String(raw.kind))]);
        let parts = [("params", raw.params), ("expect", raw.expect)];
        table.extend(parts.into_iter().filter_map(|(name, part)| Some((name.to_owned(), toml::Value::Table(part?)))));
        let probe = Probe::deserialize(table).map_err(|error| format!("check {}: {}", raw.id, error.message()))?;
        Ok(Self { id: raw.id, probe, timeout_s: raw.timeout_s, severity: raw.severity })
    }
}

/// What is looked at, and what is expected.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Probe {
    /// A page, through a port of this machine.
    Http { params: HttpParams, expect: HttpExpect },
    /// A port of this machine that something listens on.
    Tcp { params: PortParams },
    /// All containers that are planned somewhere.
    Containers { params: WhereParams, expect: ContainersExpect },
    /// The images of a machine's containers are those of this machine's engine.
    Images { params: MachineParams },
    /// A machine's engine answers.
    Engine { params: MachineParams },
    /// A name resolves inside a container; `address_of` names the machine whose address it has to be.
    Dns { params: DnsParams },
    /// Files of this machine.
    Files { params: FilesParams },
    /// What lies ready for the services of a machine is what the plan hands over.
    Handover { params: MachineParams },
    /// The release's schema and the database's are the same.
    Schema {},
    /// The database answers its own client.
    Database {},
    /// An event that is signed is taken; one that is signed with a part of the secret is not.
    Webhook {},
    /// The inference machine is active, and all its services are well.
    Node {},
    /// What all services may use together, as planned and as they run, and what the machine has.
    Memory {},
    /// What is free where a machine's engine keeps everything.
    Disk { params: MachineParams, expect: DiskExpect },
    /// What is tracked in the repository.
    Repository { params: RepositoryParams },
    /// What the plan says, and what runs.
    Plan { params: PlanParams },
}

impl Probe {
    /// The name of its kind in the file.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Tcp { .. } => "tcp",
            Self::Containers { .. } => "containers",
            Self::Images { .. } => "images",
            Self::Engine { .. } => "engine",
            Self::Dns { .. } => "dns",
            Self::Files { .. } => "files",
            Self::Handover { .. } => "handover",
            Self::Schema {} => "schema",
            Self::Database {} => "database",
            Self::Webhook {} => "webhook",
            Self::Node {} => "node",
            Self::Memory {} => "memory",
            Self::Disk { .. } => "disk",
            Self::Repository { .. } => "repository",
            Self::Plan { .. } => "plan",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpParams {
    pub(crate) port: Port,
    pub(crate) path: String,
    /// The `Host` header, if it is not the address.
    pub(crate) host: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpExpect {
    pub(crate) status: u16,
    /// A body of so many bytes at least: an empty one means that nothing matched.
    #[serde(default)]
    pub(crate) min_bytes: usize,
    /// A part of the body.
    pub(crate) contains: Option<String>,
    /// The body names this port's address on this machine.
    pub(crate) names_port: Option<Port>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PortParams {
    pub(crate) port: Port,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WhereParams {
    pub(crate) machine: Where,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MachineParams {
    pub(crate) machine: Machine,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskExpect {
    /// So much has to be free.
    pub(crate) free_mib: u64,
}

/// What is expected of containers; what is left out is not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a line of the file")]
pub(crate) struct ContainersExpect {
    /// It runs and is not unwell; work has ended with 0.
    #[serde(default)]
    pub(crate) running: bool,
    /// A server comes back by itself.
    #[serde(default)]
    pub(crate) restarts: bool,
    /// Its configuration is that of the plan.
    #[serde(default)]
    pub(crate) as_planned: bool,
    /// What it mounts exists on its engine's machine.
    #[serde(default)]
    pub(crate) binds_exist: bool,
    /// It is not privileged.
    #[serde(default)]
    pub(crate) unprivileged: bool,
    /// Variables that it must not have.
    #[serde(default)]
    pub(crate) env_absent: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DnsParams {
    pub(crate) container: String,
    pub(crate) name: String,
    pub(crate) address_of: Option<Machine>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FilesParams {
    pub(crate) what: Files,
}

/// Files of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Files {
    /// All are there, and only their owner may read them.
    Secrets,
    /// It survives a fresh clone and a restart: it lies outside the checkout and outside temporary directories.
    DataDirectory,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RepositoryParams {
    pub(crate) rule: RepositoryRule,
}

/// A rule about what is tracked in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RepositoryRule {
    /// Nothing of Kubernetes.
    NoKubernetes,
    /// Nothing of Fly.io.
    NoFly,
    /// No file of settings with secrets, and nothing that looks like a key.
    NoSecrets,
    /// No shell inside YAML.
    NoShellInYaml,
    /// Migrations are in order, can be undone, and destroy nothing.
    Migrations,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlanParams {
    pub(crate) rule: PlanRule,
}

/// A rule about what is planned and what runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PlanRule {
    /// Directories in settings are absolute.
    AbsolutePaths,
    /// The address and the cookie's domain follow from the port.
    Addresses,
    /// No setting is empty.
    NothingBlank,
    /// Every image is named by its content.
    ImagesByContent,
    /// The API comes after the migration.
    MigrationsFirst,
    /// The proxy speaks plain HTTP, and its last route takes every name.
    Proxy,
    /// Every flag of the inference services that takes a value has one; nothing asks for a graphics card.
    Inference,
    /// Inference and bots are on different machines.
    Apart,
}

/// A machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Machine {
    /// The platform's.
    Vps,
    /// That of the inference services.
    Gpu,
}

impl Machine {
    /// Its container's name.
    pub(crate) fn container(self) -> &'static str {
        match self {
            Self::Vps => VPS,
            Self::Gpu => GPU,
        }
    }

    /// Its name in the file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vps => "vps",
            Self::Gpu => "gpu",
        }
    }

    /// The place of what runs on it.
    pub(crate) fn place(self) -> Where {
        match self {
            Self::Vps => Where::Vps,
            Self::Gpu => Where::Gpu,
        }
    }
}

/// Where a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Where {
    /// On this machine's engine: the machines themselves.
    Here,
    /// On the platform's machine.
    Vps,
    /// On that of the inference services.
    Gpu,
}

impl Where {
    /// For people.
    pub(crate) fn shown(self) -> &'static str {
        self.machine().map_or("this machine", Machine::container)
    }

    /// Its name in the file.
    pub(crate) fn name(self) -> &'static str {
        self.machine().map_or("here", Machine::name)
    }

    /// The machine; `None` if it is this one.
    pub(crate) fn machine(self) -> Option<Machine> {
        match self {
            Self::Here => None,
            Self::Vps => Some(Machine::Vps),
            Self::Gpu => Some(Machine::Gpu),
        }
    }
}

/// A port of this machine, by name: its number may be another than the usual one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Port {
    Http,
    Api,
    Stripe,
    Mail,
    Llama,
    Chatterbox,
    Whisper,
    Embeddings,
}

impl Port {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::Http,
        Self::Api,
        Self::Stripe,
        Self::Mail,
        Self::Llama,
        Self::Chatterbox,
        Self::Whisper,
        Self::Embeddings,
    ];

    /// Its number.
    pub(crate) fn of(self, ports: Ports) -> u16 {
        match self {
            Self::Http => ports.http_port,
            Self::Api => ports.api_port,
            Self::Stripe => ports.stripe_port,
            Self::Mail => ports.mail_port,
            Self::Llama => ports.llama_port,
            Self::Chatterbox => ports.chatterbox_port,
            Self::Whisper => ports.whisper_port,
            Self::Embeddings => ports.embeddings_port,
        }
    }

    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Api => "api",
            Self::Stripe => "stripe",
            Self::Mail => "mail",
            Self::Llama => "llama",
            Self::Chatterbox => "chatterbox",
            Self::Whisper => "whisper",
            Self::Embeddings => "embeddings",
        }
    }
}

/// Reads a runbook.
///
/// # Errors
/// If a key is unknown or missing, a value is of the wrong kind, or the format is another.
pub(crate) fn parse(text: &str) -> anyhow::Result<Runbook> {
    let runbook: Runbook = toml::from_str(text)?;
    let version = runbook.meta.schema_version;
    anyhow::ensure!(version == SCHEMA_VERSION, "it has format {version}, and this program reads {SCHEMA_VERSION}");
    Ok(runbook)
}

#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;

/// Compares a schema in `wopr-ops/schemas` with that of the type it describes, and an answer of that type with the schema.
#[cfg(test)]
pub(crate) fn assert_schema_fits(name: &str, schema: &schemars::Schema, answer: &impl serde::Serialize) {
    let text = serde_json::to_string_pretty(schema).unwrap();
    let path = format!("wopr-ops/schemas/{name}.schema.json");
    assert_file(&path, &format!("{text}\n"));
    let answer = serde_json::to_value(answer).unwrap();
    assert!(
        !matches!(&answer, serde_json::Value::Array(items) if items.is_empty()),
        "{path}: nothing would fit anything"
    );
    assert_eq!(schema::misfits(schema.as_value(), &answer), Vec::<String>::new(), "{path}");
}

/// Compares a file of the repository with what it should be; with `WOPR_UPDATE_FILES`, writes it.
#[cfg(test)]
fn assert_file(path: &str, text: &str) {
    let file = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("WOPR_UPDATE_FILES").is_some() {
        std::fs::write(&file, text).unwrap();
    }
    let present = std::fs::read_to_string(&file).unwrap();
    assert_eq!(present, text, "{path}: WOPR_UPDATE_FILES=1 writes it anew");
}
