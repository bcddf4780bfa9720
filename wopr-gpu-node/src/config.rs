//! What the operator says: a file, the environment over it, and secrets from files of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use wopr_core::protocol::gpu::{GpuService, node_secret};

/// One setting: its name in the environment, and in lower case in the file.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The environment's name.
    pub name: &'static str,
    /// What it is when nobody says.
    pub default: Option<&'static str>,
    /// Never shown; may also come from the file that `<NAME>_FILE` names.
    pub secret: bool,
    /// What it is for.
    pub help: &'static str,
}

const fn key(name: &'static str, default: Option<&'static str>, help: &'static str) -> Key {
    Key { name, default, secret: false, help }
}

const fn secret(name: &'static str, help: &'static str) -> Key {
    Key { name, default: None, secret: true, help }
}

/// Every setting there is.
pub const KEYS: [Key; 47] = [
    key("NODE_ID", None, "the node's name at the platform: letters, digits, `_` and `-`"),
    key("PLATFORM_URL", None, "where the platform is, such as https://api.example"),
    secret("GPU_NODE_SECRET", "this node's own secret"),
    secret("GPU_SHARED_SECRET", "the secret that all nodes' secrets come from; give it only instead of the node's own"),
    key("NODE_HOST", None, "where the platform reaches this node, if the node knows: an address or a name"),
    key("EXPECTED_SERVICES", Some("llama,chatterbox,whisper,qwen"), "the services this node runs"),
    key("REQUIRE_GPU", Some("false"), "whether a machine without a card is a failure"),
    key("MODEL_FILES", None, "files that must be there, and not empty, before the services can start"),
    key("STATE_FILE", Some("/var/lib/wopr-gpu-node/state.json"), "where the progress of the enrolment is kept"),
    key("LLAMA_URL", Some("http://llama-cpp:8080"), "where the service is"),
    key("CHATTERBOX_URL", Some("http://chatterbox:5123"), "where the service is"),
    key("WHISPER_URL", Some("http://whisper:8000"), "where the service is"),
    key("QWEN_URL", Some("http://qwen-embeddings:8080"), "where the service is"),
    key("LLAMA_PORT", Some("8080"), "the port it is offered on; 0 takes a free one"),
    key("CHATTERBOX_PORT", Some("8081"), "the port it is offered on; 0 takes a free one"),
    key("WHISPER_PORT", Some("8082"), "the port it is offered on; 0 takes a free one"),
    key("QWEN_PORT", Some("8083"), "the port it is offered on; 0 takes a free one"),
    key("LLAMA_MODEL", Some("llama-3.1-8b"), "the model named in a tiny request"),
    key("CHATTERBOX_MODEL", Some("tts-1"), "the model named in a tiny request"),
    key("WHISPER_MODEL", Some("Systran/faster-whisper-small"), "the model named in a tiny request"),
    key("QWEN_MODEL", Some("qwen2-0.5b"), "the model named in a tiny request"),
    key("LLAMA_DEADLINE", Some("30s"), "how long a tiny request may take"),
    key("CHATTERBOX_DEADLINE", Some("60s"), "how long a tiny request may take"),
    key("WHISPER_DEADLINE", Some("60s"), "how long a tiny request may take"),
    key("QWEN_DEADLINE", Some("15s"), "how long a tiny request may take"),
    key("LLAMA_SLOTS", Some("4"), "requests it works on at once, where it does not say so itself"),
    key("CHATTERBOX_SLOTS", Some("1"), "requests it works on at once, where it does not say so itself"),
    key("WHISPER_SLOTS", Some("1"), "requests it works on at once, where it does not say so itself"),
    key("QWEN_SLOTS", Some("4"), "requests it works on at once, where it does not say so itself"),
    key("LISTEN_HOST", Some("0.0.0.0"), "the address listened on"),
    key("STATUS_PORT", Some("9464"), "the port of /health and /metrics; 0 takes a free one"),
    key("HEARTBEAT_INTERVAL", Some("10s"), "between two heartbeats"),
    key("PLATFORM_TIMEOUT", Some("5s"), "how long the platform may take to answer"),
    key("RETRY_WAIT", Some("1s"), "the first wait before a stage is reported again; it doubles"),
    key("RETRY_WAIT_MAX", Some("60s"), "the longest wait before a stage is reported again"),
    key("PROBE_INTERVAL", Some("5s"), "between two looks at a service"),
    key("PROBE_TIMEOUT", Some("5s"), "how long a service's health check may take"),
    key("PROOF_INTERVAL", Some("60s"), "between two tiny requests to a service that answers them"),
    key("BUSY_PATIENCE", Some("5m"), "how long a service may be full and prove nothing"),
    key("STAGE_PATIENCE", Some("30m"), "how long a stage may take before it is reported as failed"),
    key("BODY_LIMIT_BYTES", Some("33554432"), "the largest request that is passed on"),
    key("REQUESTS_MAX", Some("64"), "requests passed on at once to one service"),
    key("CONNECT_TIMEOUT", Some("3s"), "how long a service may take to accept a connection"),
    key("IDLE_TIMEOUT", Some("5m"), "how long a service may send nothing while it answers"),
    key("DRAIN_TIMEOUT", Some("25s"), "how long requests in progress may hold up a stop"),
    key("LOG_LEVEL", Some("info"), "which log lines are written, such as `info` or `wopr_gpu_node=debug`"),
    key("LOG_FORMAT", Some("text"), "`text` or `json`"),
];

/// Everything that is wrong, one sentence each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigErrors(pub Vec<String>);

/// The layers, as they were found.
#[derive(Debug, Default)]
pub struct Sources {
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// The configuration file and its path.
    pub file: Option<(PathBuf, String)>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// What is said about one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSettings {
    /// Where it is.
    pub upstream: Url,
    /// Where it is offered.
    pub listen: SocketAddr,
    /// Whether this node runs it.
    pub expected: bool,
    /// The model named in a tiny request.
    pub model: String,
    /// How long a tiny request may take.
    pub deadline: Duration,
    /// Requests it works on at once, where it does not say so itself.
    pub slots: u32,
}

/// The settings, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node's name at the platform.
    pub node_id: String,
    /// Where the platform is, without a slash at the end.
    pub platform_url: String,
    /// This node's own secret.
    pub secret: SecretString,
    /// Where the platform reaches this node.
    pub host: Option<String>,
    /// The services, all four.
    pub services: BTreeMap<GpuService, ServiceSettings>,
    /// Whether a machine without a card is a failure.
    pub require_gpu: bool,
    /// Files that must be there before the services can start.
    pub model_files: Vec<PathBuf>,
    /// Where the progress of the enrolment is kept.
    pub state_file: PathBuf,
    /// Where `/health` and `/metrics` are.
    pub status_listen: SocketAddr,
    /// Between two heartbeats.
    pub heartbeat_interval: Duration,
    /// How long the platform may take to answer.
    pub platform_timeout: Duration,
    /// The first wait before a stage is reported again; it doubles.
    pub retry_wait: Duration,
    /// The longest.
    pub retry_wait_max: Duration,
    /// Between two looks at a service.
    pub probe_interval: Duration,
    /// How long a service's health check may take.
    pub probe_timeout: Duration,
    /// Between two tiny requests to a service that answers them.
    pub proof_interval: Duration,
    /// How long a service may be full and prove nothing.
    pub busy_patience: Duration,
    /// How long a stage may take before it is reported as failed.
    pub stage_patience: Duration,
    /// The largest request that is passed on.
    pub body_limit_bytes: usize,
    /// Requests passed on at once to one service.
    pub requests_max: usize,
    /// How long a service may take to accept a connection.
    pub connect_timeout: Duration,
    /// How long a service may send nothing while it answers.
    pub idle_timeout: Duration,
    /// How long requests in progress may hold up a stop.
    pub drain_timeout: Duration,
    /// Which log lines are written.
    pub log_level: String,
    /// How they look.
    pub log_format: LogFormat,
    shown: Vec<(&'static str, Option<String>)>,
}

impl Settings {
    /// Puts the layers on top of each other and checks what comes out. An empty value is an unset one.
    ///
    /// # Errors
    /// Everything that is wrong at once.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        let mut values = Values::merge(sources);
        let settings = values.settings();
        match settings {
            Some(settings) if values.errors.is_empty() => Ok(settings),
            _ => Err(ConfigErrors(values.errors)),
        }
    }

    /// Each setting as it came out, a secret as `***`.
    pub fn shown(&self) -> &[(&'static str, Option<String>)] {
        &self.shown
    }
}

#[derive(Debug, Default)]
struct Values {
    values: BTreeMap<&'static str, String>,
    errors: Vec<String>,
}

impl Values {
    fn merge(sources: &Sources) -> Self {
        let mut merged = Self::default();
        for key in &KEYS {
            if let Some(default) = key.default {
                merged.values.insert(key.name, default.to_owned());
            }
        }
        if let Some((path, text)) = &sources.file {
            merged.merge_file(&path.display().to_string(), text);
        }
        for key in &KEYS {
            let given = |name: &str| {
                sources.environment.get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
            };
            let file_name = format!("{}_FILE", key.name);
            match (given(key.name), given(&file_name).filter(|_| key.secret)) {
                (Some(_), Some(_)) => {
                    merged.errors.push(format!("{} and {file_name} are both set; keep one", key.name));
                }
                (Some(value), None) => {
                    merged.values.insert(key.name, value);
                }
                (None, Some(path)) => merged.read_secret(key.name, &file_name, &path),
                (None, None) => {}
            }
        }
        merged
    }

    fn read_secret(&mut self, key: &'static str, name: &str, path: &str) {
        match std::fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() => self.errors.push(format!("{name}: {path} is empty")),
            Ok(text) => {
                self.values.insert(key, text.trim().to_owned());
            }
            Err(error) => self.errors.push(format!("{name}: {path} cannot be read: {error}")),
        }
    }

    fn merge_file(&mut self, path: &str, text: &str) {
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                // The parser quotes the offending line, which may hold a secret.
                let error: toml::de::Error = error;
                self.errors.push(format!("{path} is not TOML: {}", error.message()));
                return;
            }
        };
        for (name, value) in table {
            let upper = name.to_ascii_uppercase();
            let secret_of = upper.strip_suffix("_FILE").and_then(|base| KEYS.iter().find(|key| key.name == base));
            let Some(text) = scalar(&value) else {
                self.errors.push(format!("{path}: {name} is neither a text, a number, a boolean nor a list of texts"));
                continue;
            };
            match (KEYS.iter().find(|key| key.name == upper), secret_of) {
                _ if name != name.to_ascii_lowercase() => self.errors.push(unknown(path, &name)),
                _ if text.is_empty() => {}
                (Some(key), _) => {
                    self.values.insert(key.name, text);
                }
                (None, Some(key)) if key.secret => self.read_secret(key.name, &name, &text),
                _ => self.errors.push(unknown(path, &name)),
            }
        }
    }

    fn settings(&mut self) -> Option<Settings> {
        let node_id = self.required("NODE_ID").filter(|id| {
            let valid = id.len() <= 63 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
            self.check(valid, "NODE_ID", "has other characters than letters, digits, `_` and `-`, or more than 63")
        });
        let platform_url = self.origin("PLATFORM_URL");
        let secret = self.secret(node_id.as_deref().unwrap_or_default());
        let services = self.services();
        let host: Option<IpAddr> = self.parsed("LISTEN_HOST", "an IP address");
        let status_port: Option<u16> = self.parsed("STATUS_PORT", "a port");
        let shown = KEYS.iter().map(|key| {
            let value = self.values.get(key.name);
            (key.name, value.map(|value| if key.secret { "***".to_owned() } else { value.clone() }))
        });
        let shown = shown.collect();
        let log_format = match self.values.get("LOG_FORMAT").map(String::as_str) {
            Some("text") => Some(LogFormat::Text),
            Some("json") => Some(LogFormat::Json),
            _ => self.wrong("LOG_FORMAT", "is neither `text` nor `json`"),
        };
        let heartbeat_interval = self.duration("HEARTBEAT_INTERVAL");
        let platform_timeout = self.duration("PLATFORM_TIMEOUT");
        let (retry_wait, retry_wait_max) = (self.duration("RETRY_WAIT"), self.duration("RETRY_WAIT_MAX"));
        let (probe_interval, probe_timeout) = (self.duration("PROBE_INTERVAL"), self.duration("PROBE_TIMEOUT"));
        let (proof_interval, busy_patience) = (self.duration("PROOF_INTERVAL"), self.duration("BUSY_PATIENCE"));
        let (stage_patience, drain_timeout) = (self.duration("STAGE_PATIENCE"), self.duration("DRAIN_TIMEOUT"));
        let (connect_timeout, idle_timeout) = (self.duration("CONNECT_TIMEOUT"), self.duration("IDLE_TIMEOUT"));
        let require_gpu = self.parsed("REQUIRE_GPU", "`true` or `false`");
        let body_limit_bytes = self.parsed("BODY_LIMIT_BYTES", "a number of bytes");
        let requests_max: Option<u16> = self.parsed("REQUESTS_MAX", "a number up to 65535");
        let requests_max = requests_max.filter(|max| self.check(*max > 0, "REQUESTS_MAX", "must be at least 1"));
        Some(Settings {
            node_id: node_id?,
            platform_url: platform_url?.as_str().trim_end_matches('/').to_owned(),
            secret: secret?,
            host: self.values.get("NODE_HOST").cloned(),
            services: services?,
            require_gpu: require_gpu?,
            model_files: self.list("MODEL_FILES").into_iter().map(PathBuf::from).collect(),
            state_file: PathBuf::from(self.values.get("STATE_FILE")?),
            status_listen: SocketAddr::new(host?, status_port?),
            heartbeat_interval: heartbeat_interval?,
            platform_timeout: platform_timeout?,
            retry_wait: retry_wait?,
            retry_wait_max: retry_wait_max?,
            probe_interval: probe_interval?,
            probe_timeout: probe_timeout?,
            proof_interval: proof_interval?,
            busy_patience: busy_patience?,
            stage_patience: stage_patience?,
            body_limit_bytes: body_limit_bytes?,
            requests_max: requests_max?.into(),
            connect_timeout: connect_timeout?,
            idle_timeout: idle_timeout?,
            drain_timeout: drain_timeout?,
            log_level: self.values.get("LOG_LEVEL")?.clone(),
            log_format: log_format?,
            shown,
        })
    }

    fn secret(&mut self, node_id: &str) -> Option<SecretString> {
        let own = self.values.get("GPU_NODE_SECRET").cloned().map(SecretString::from);
        let shared = self.values.get("GPU_SHARED_SECRET").cloned().map(SecretString::from);
        let secret = match (own, shared) {
            (Some(_), Some(_)) => {
                self.wrong("GPU_NODE_SECRET", "and GPU_SHARED_SECRET are both set; keep the node's own")
            }
            (Some(own), None) => Some(own),
            (None, Some(shared)) => Some(node_secret(&shared, node_id)),
            (None, None) => {
                self.wrong("GPU_NODE_SECRET", "is not set, and neither is GPU_NODE_SECRET_FILE or GPU_SHARED_SECRET")
            }
        };
        let printable =
            secret.as_ref().is_none_or(|secret| secret.expose_secret().bytes().all(|b| b.is_ascii_graphic()));
        if printable { secret } else { self.wrong("GPU_NODE_SECRET", "has characters that no header may have") }
    }

    fn services(&mut self) -> Option<BTreeMap<GpuService, ServiceSettings>> {
        // Said to be wrong elsewhere.
        let host: IpAddr = self.values.get("LISTEN_HOST")?.parse().ok()?;
        let mut expected = BTreeSet::new();
        for word in self.list("EXPECTED_SERVICES") {
            match word.parse::<GpuService>() {
                Ok(service) => {
                    expected.insert(service);
                }
                Err(error) => self.errors.push(format!("EXPECTED_SERVICES: {word} is {error}")),
            }
        }
        let mut services = BTreeMap::new();
        for service in GpuService::ALL {
            if let Some(settings) = self.service(*service, host, expected.contains(service)) {
                services.insert(*service, settings);
            }
        }
        Some(services)
    }

    fn service(&mut self, service: GpuService, host: IpAddr, expected: bool) -> Option<ServiceSettings> {
        let [url, port, model, deadline, slots] = service_keys(service);
        let upstream = self.origin(url);
        let port: Option<u16> = self.parsed(port, "a port");
        let deadline = self.duration(deadline);
        let given: Option<u32> = self.parsed(slots, "a number");
        let slots = given.filter(|given| self.check(*given > 0, slots, "must be at least 1"));
        Some(ServiceSettings {
            upstream: upstream?,
            listen: SocketAddr::new(host, port?),
            expected,
            model: self.values.get(model)?.clone(),
            deadline: deadline?,
            slots: slots?,
        })
    }

    fn required(&mut self, name: &'static str) -> Option<String> {
        let value = self.values.get(name).cloned();
        value.or_else(|| self.wrong(name, "is not set"))
    }

    fn origin(&mut self, name: &'static str) -> Option<Url> {
        let text = self.required(name)?;
        let valid = Url::parse(&text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.host().is_some()
                && url.path().trim_end_matches('/').is_empty()
                && url.query().is_none()
                && url.fragment().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        });
        valid
            .or_else(|| self.wrong(name, "is not http:// or https:// with a host, a port if need be, and nothing more"))
    }

    fn parsed<T: FromStr>(&mut self, name: &'static str, what: &str) -> Option<T> {
        let parsed = self.values.get(name)?.parse().ok();
        parsed.or_else(|| self.wrong(name, &format!("is not {what}")))
    }

    /// A positive time with its unit.
    fn duration(&mut self, name: &'static str) -> Option<Duration> {
        let parsed: Option<SignedDuration> = self.values.get(name)?.parse().ok();
        let positive = parsed.and_then(|time| Duration::try_from(time).ok()).filter(|time| !time.is_zero());
        positive.or_else(|| self.wrong(name, "is not a time with its unit, such as 500ms, 10s or 5m"))
    }

    fn list(&self, name: &str) -> Vec<String> {
        let text = self.values.get(name).map(String::as_str).unwrap_or_default();
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    fn check(&mut self, holds: bool, name: &str, what: &str) -> bool {
        if !holds {
            self.errors.push(format!("{name} {what}"));
        }
        holds
    }

    fn wrong<T>(&mut self, name: &str, what: &str) -> Option<T> {
        self.errors.push(format!("{name} {what}"));
        None
    }
}

/// Address, port, model, deadline, slots.
const fn service_keys(service: GpuService) -> [&'static str; 5] {
    match service {
        GpuService::Llama => ["LLAMA_URL", "LLAMA_PORT", "LLAMA_MODEL", "LLAMA_DEADLINE", "LLAMA_SLOTS"],
        GpuService::Chatterbox => {
            ["CHATTERBOX_URL", "CHATTERBOX_PORT", "CHATTERBOX_MODEL", "CHATTERBOX_DEADLINE", "CHATTERBOX_SLOTS"]
        }
        GpuService::Whisper => ["WHISPER_URL", "WHISPER_PORT", "WHISPER_MODEL", "WHISPER_DEADLINE", "WHISPER_SLOTS"],
        GpuService::Qwen => ["QWEN_URL", "QWEN_PORT", "QWEN_MODEL", "QWEN_DEADLINE", "QWEN_SLOTS"],
    }
}

fn unknown(path: &str, name: &str) -> String {
    let near = KEYS
        .iter()
        .map(|key| key.name.to_ascii_lowercase())
        .map(|known| (strsim::damerau_levenshtein(&known, &name.to_ascii_lowercase()), known))
        .min()
        .filter(|(distance, _)| *distance <= 3);
    match near {
        Some((_, near)) => format!("{path}: unknown key {name}; did you mean {near}?"),
        None => format!("{path}: unknown key {name}"),
    }
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.trim().to_owned()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            items.map(|items| items.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Reads the file, if one is named, and takes the environment as given.
///
/// # Errors
/// When the file cannot be read.
pub fn read_sources(file: Option<&Path>, environment: BTreeMap<String, String>) -> Result<Sources, ConfigErrors> {
    let file = match file {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| ConfigErrors(vec![format!("{} cannot be read: {error}", path.display())]))?;
            Some((path.to_owned(), text))
        }
        None => None,
    };
    Ok(Sources { environment, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Sources {
        let environment = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Sources { environment, file: None }
    }

    const LEAST: [(&str, &str); 3] = [
        ("NODE_ID", "gpu-1"),
        ("PLATFORM_URL", "https://api.wopr-test.example/"),
        ("GPU_NODE_SECRET", "0123456789abcdef"),
    ];

    fn with(more: &[(&str, &str)]) -> Sources {
        environment(&[&LEAST[..], more].concat())
    }

    fn errors(sources: &Sources) -> String {
        Settings::load(sources).unwrap_err().to_string()
    }

    #[test]
    fn three_settings_are_enough() {
        let settings = Settings::load(&environment(&LEAST)).unwrap();
        assert_eq!(settings.platform_url, "https://api.wopr-test.example");
        assert_eq!(settings.heartbeat_interval, Duration::from_secs(wopr_core::protocol::gpu::HEARTBEAT_SECONDS));
        for service in GpuService::ALL {
            let of = &settings.services[service];
            assert_eq!((of.listen.port(), of.expected), (service.port(), true), "{service}");
        }
        assert_eq!(settings.services[&GpuService::Chatterbox].upstream.as_str(), "http://chatterbox:5123/");
    }

    #[test]
    fn a_secret_comes_from_a_file_or_is_derived_and_is_never_shown() {
        let folder = std::env::temp_dir().join(format!("wopr-gpu-node-config-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("secret");
        std::fs::write(&file, "from-a-file\n").unwrap();
        let path = file.to_str().unwrap();
        let base = &LEAST[..2];
        let own = Settings::load(&environment(&[base, &[("GPU_NODE_SECRET_FILE", path)]].concat())).unwrap();
        assert_eq!(own.secret.expose_secret(), "from-a-file");
        let shared = Settings::load(&environment(&[base, &[("GPU_SHARED_SECRET_FILE", path)]].concat())).unwrap();
        let expected = node_secret(&"from-a-file".into(), "gpu-1");
        assert_eq!(shared.secret.expose_secret(), expected.expose_secret());
        for settings in [&own, &shared] {
            let said = format!("{settings:?} {:?}", settings.shown());
            assert!(!said.contains("from-a-file") && !said.contains(expected.expose_secret()), "{said}");
        }
        let both = errors(&with(&[("GPU_NODE_SECRET_FILE", path)]));
        assert!(both.contains("GPU_NODE_SECRET and GPU_NODE_SECRET_FILE are both set"), "{both}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_environment_wins_over_the_file_and_an_unknown_key_is_refused() {
        let file = |text: &str| Sources { file: Some(("node.toml".into(), text.to_owned())), ..environment(&LEAST) };
        let mut sources =
            file("node_id = \"other\"\nexpected_services = [\"whisper\", \"chatterbox\"]\nllama_port = 0");
        let settings = Settings::load(&sources).unwrap();
        assert_eq!(settings.node_id, "gpu-1");
        let expected: Vec<_> = settings.services.iter().filter(|(_, of)| of.expected).map(|(name, _)| *name).collect();
        assert_eq!(expected, [GpuService::Chatterbox, GpuService::Whisper]);
        assert_eq!(settings.services[&GpuService::Llama].listen.port(), 0);
        sources.environment.remove("NODE_ID");
        assert_eq!(Settings::load(&sources).unwrap().node_id, "other");
        assert_eq!(errors(&file("node_idd = 1")), "node.toml: unknown key node_idd; did you mean node_id?");
        assert!(errors(&file("NODE_ID = \"x\"")).contains("unknown key NODE_ID"));
        assert!(errors(&file("[services]\nx = 1")).contains("services is neither a text"));
        assert_eq!(errors(&file("gpu_node_secret = \"hidden")).matches("hidden").count(), 0);
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let said = errors(&environment(&[
            ("NODE_ID", "a b"),
            ("PLATFORM_URL", "ftp://api"),
            ("EXPECTED_SERVICES", "llama,sdxl"),
            ("HEARTBEAT_INTERVAL", "10"),
            ("REQUIRE_GPU", "maybe"),
            ("LOG_FORMAT", "xml"),
            ("WHISPER_SLOTS", "0"),
            ("REQUESTS_MAX", "0"),
        ]));
        for part in [
            "NODE_ID has other",
            "PLATFORM_URL is not",
            "GPU_NODE_SECRET is not set",
            "sdxl is not a known service",
            "HEARTBEAT_INTERVAL is not a time",
            "REQUIRE_GPU is not",
            "LOG_FORMAT is neither",
            "WHISPER_SLOTS must be",
            "REQUESTS_MAX must be",
        ] {
            assert!(said.contains(part), "{part} is missing in: {said}");
        }
        for url in ["http://a/b", "http://u:p@a", "http://a?x=1", "a:80", ""] {
            assert!(Settings::load(&with(&[("LLAMA_URL", url)])).is_err() != url.is_empty(), "{url}");
        }
        assert!(errors(&with(&[("GPU_SHARED_SECRET", "x")])).contains("both set"));
        assert!(errors(&environment(&[LEAST[0], LEAST[1], ("GPU_NODE_SECRET", "a\u{e9}b")])).contains("no header"));
    }

    #[test]
    fn every_setting_is_documented() {
        let readme = include_str!("../README.md");
        for key in &KEYS {
            let row = readme.lines().find(|line| line.starts_with(&format!("| `{}` |", key.name)));
            let row = row.unwrap_or_else(|| panic!("README.md has no row for {}", key.name));
            let default = key.default.map_or_else(|| "–".to_owned(), |default| format!("`{default}`"));
            assert!(row.contains(&format!("| {default} |")), "{row}: the default is {default}");
        }
        let rows = readme.lines().filter(|line| line.starts_with("| `") && line.contains("` |")).count();
        assert!(rows >= KEYS.len(), "{rows}");
    }
}
