//! What a new machine runs when it first starts. Pure.
//!
//! The script and the definition of the services are files of this repository and the same for every machine; only the
//! settings beside them differ. Every value in those is checked when it is made, so that none can mean anything to a
//! shell, to YAML or to Compose.

use std::str::FromStr;

use secrecy::{ExposeSecret as _, SecretString};

use super::model::{GpuNodeId, InvalidGpuInput};

/// The script that sets the machine up.
pub const SETUP_SCRIPT: &str = include_str!("../../../deploy/gpu/setup.sh");
/// The services.
pub const COMPOSE_FILE: &str = include_str!("../../../deploy/gpu/compose.yml");

/// Runs the script at every start of the machine.
const UNIT: &str = "\
[Unit]
Description=Set up this GPU node
After=network-online.target docker.service
Wants=network-online.target

[Service]
Type=oneshot
ExecStart=/bin/sh /opt/wopr-gpu/setup.sh
Restart=on-failure
RestartSec=60

[Install]
WantedBy=multi-user.target
";

/// What the card is looked for from: any small image.
const CHECK_IMAGE: &str = "ubuntu:24.04";

/// What machines are set up with. Nothing in it can mean anything to a shell.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where machines report to.
    pub platform_url: PlatformUrl,
    /// The daemon's image, by digest.
    pub agent_image: AgentImage,
    /// The text model.
    pub llama_model: ModelFile,
    /// The embedding model.
    pub embeddings_model: ModelFile,
    /// The speech model, by its name at Hugging Face.
    pub whisper_model: ModelName,
    /// From where the services may be used.
    pub platform_networks: Vec<Network>,
    /// How to pull images, if they are not public.
    pub registry: Option<RegistryAccount>,
}

/// An account at the registry that has our images.
#[derive(Debug, Clone)]
pub struct RegistryAccount {
    /// The registry's host.
    pub server: String,
    /// The account.
    pub username: String,
    /// Its password or token.
    pub password: SecretString,
}

/// Characters that every value may have: none of them means anything between single quotes, or without.
fn plain(text: &str, extra: &[u8]) -> bool {
    !text.is_empty()
        && text.len() <= 2000
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || extra.contains(&byte))
}

macro_rules! checked {
    ($($(#[$meta:meta])* $name:ident, $field:literal, $rule:literal, $read:expr;)+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidGpuInput;

            fn from_str(text: &str) -> Result<Self, InvalidGpuInput> {
                let read: fn(&str) -> Option<String> = $read;
                read(text).map(Self).ok_or(InvalidGpuInput { field: $field, rule: $rule })
            }
        }
    )+};
}

checked! {
    /// Where machines report to, without a slash at the end.
    PlatformUrl, "platformUrl", "an http or https URL of letters, digits and ./:-", |text| {
        let text = text.trim_end_matches('/');
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
        (plain(rest, b"./:-") && !rest.starts_with(['/', ':', '.', '-'])).then(|| text.to_owned())
    };
    /// An image by digest.
    AgentImage, "agentImage", "an image by digest: name@sha256:…", |text| {
        let (name, digest) = text.split_once("@sha256:")?;
        let valid = plain(name, b"./:_-") && is_sha256(digest);
        valid.then(|| text.to_owned())
    };
    /// The name of a model at Hugging Face.
    ModelName, "whisperModel", "an owner and a name of letters, digits and ._-", |text| {
        let (owner, name) = text.split_once('/')?;
        (plain(owner, b"._-") && plain(name, b"._-")).then(|| text.to_owned())
    };
    /// A network that may use the services, such as `203.0.113.7/32`.
    Network, "platformNetworks", "IPv4 networks such as 203.0.113.7/32", |text| {
        let (address, bits) = text.split_once('/').unwrap_or((text, "32"));
        let valid = address.parse::<std::net::Ipv4Addr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| bits <= 32);
        valid.then(|| format!("{address}/{bits}"))
    };
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A model that is one file: where it is, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    url: String,
    sha256: String,
}

impl ModelFile {
    /// The file at this URL, whose content has this SHA-256.
    ///
    /// # Errors
    /// [`InvalidGpuInput`].
    pub fn new(url: &str, sha256: &str) -> Result<Self, InvalidGpuInput> {
        let invalid = |rule| InvalidGpuInput { field: "model", rule };
        let rest = url.strip_prefix("https://").ok_or(invalid("an https URL"))?;
        if !plain(rest, b"./:_-")
            || rest.rsplit('/').next().is_none_or(|file| file.strip_suffix(".gguf").is_none_or(str::is_empty))
        {
            return Err(invalid("an https URL of letters, digits and ./:_- that ends in the name of a .gguf file"));
        }
        let sha256 = sha256.to_ascii_lowercase();
        if !is_sha256(&sha256) {
            return Err(invalid("a SHA-256 of 64 hexadecimal digits"));
        }
        Ok(Self { url: url.to_owned(), sha256 })
    }

    fn file_name(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or_default()
    }
}

/// The user data of one machine. Of secrets it holds only the token that the machine exchanges for its own: it is worth
/// nothing once that was used.
pub fn render(setup: &Setup, id: &GpuNodeId, token: &SecretString) -> SecretString {
    let birth = format!("Authorization: Bearer {}\n", token.expose_secret());
    let settings = settings(setup, id);
    let files = [
        ("/etc/wopr-gpu/settings", "0644", settings.as_str()),
        ("/etc/wopr-gpu/birth", "0600", birth.as_str()),
        ("/opt/wopr-gpu/compose.yml", "0644", COMPOSE_FILE),
        ("/opt/wopr-gpu/setup.sh", "0755", SETUP_SCRIPT),
        ("/etc/systemd/system/wopr-gpu-setup.service", "0644", UNIT),
    ];
    let mut text = String::from("#cloud-config\npackages:\n  - ca-certificates\n  - curl\n  - gnupg\nwrite_files:\n");
    for (path, mode, content) in files {
        text += &["  - path: ", path, "\n    permissions: \"", mode, "\"\n    content: |\n"].concat();
        for line in content.lines() {
            text += if line.is_empty() { "" } else { "      " };
            text += line;
            text.push('\n');
        }
    }
    text += "runcmd:\n  - [systemctl, enable, --now, --no-block, wopr-gpu-setup.service]\n";
    text.into()
}

/// Names and values, for the script and for Compose alike.
fn settings(setup: &Setup, id: &GpuNodeId) -> String {
    let networks: Vec<&str> = setup.platform_networks.iter().map(Network::as_str).collect();
    let values = [
        ("NODE_ID", id.as_str()),
        ("PLATFORM_URL", setup.platform_url.as_str()),
        ("PLATFORM_NETWORKS", &networks.join(" ")),
        ("GPU_NODE_IMAGE", setup.agent_image.as_str()),
        ("CHECK_IMAGE", CHECK_IMAGE),
        ("LLAMA_MODEL_FILE", setup.llama_model.file_name()),
        ("LLAMA_MODEL_URL", &setup.llama_model.url),
        ("LLAMA_MODEL_SHA256", &setup.llama_model.sha256),
        ("EMBEDDINGS_MODEL_FILE", setup.embeddings_model.file_name()),
        ("EMBEDDINGS_MODEL_URL", &setup.embeddings_model.url),
        ("EMBEDDINGS_MODEL_SHA256", &setup.embeddings_model.sha256),
        ("WHISPER_MODEL", setup.whisper_model.as_str()),
    ];
    values.iter().map(|(name, value)| [*name, "='", *value, "'\n"].concat()).collect()
}

#[cfg(test)]
#[path = "cloud_init_tests.rs"]
mod tests;
