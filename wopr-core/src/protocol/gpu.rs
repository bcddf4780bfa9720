//! Between the API and the daemon on a GPU node.
//!
//! The node speaks first, over HTTP: it reports each [`Stage`] of its set-up to [`REGISTER_PATH`] when the work of that
//! stage is done, and from then on sends a [`Heartbeat`] to [`HEARTBEAT_PATH`] every [`HEARTBEAT_SECONDS`]. The API
//! asks the node's proxy for the health of each [`GpuService`] on the service's own port.
//!
//! Both sides compute the credentials from one master secret; nothing is stored and nothing is sent:
//!
//! | Credential | Proves | Borne by |
//! |---|---|---|
//! | [`node_secret`] | that a report comes from this node and no other | the node, towards the API |
//! | [`inference_token`] | that a caller may use this node's services | the platform, towards the node |

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Where a node reports the stages of its set-up: `POST`, query `stage`, body [`StageReport`].
pub const REGISTER_PATH: &str = "/internal/gpu/register";
/// Where a node says that it lives: `POST`, body [`Heartbeat`].
pub const HEARTBEAT_PATH: &str = "/internal/gpu/heartbeat";
/// Seconds between two heartbeats.
pub const HEARTBEAT_SECONDS: u64 = 10;

/// A word that is none of those this build knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a known {kind}")]
pub struct UnknownWord {
    /// What was expected, such as `stage`.
    pub kind: &'static str,
}

/// Writes an enum's words once: `ALL`, `as_str`, `Display`, `FromStr` and serde all read them from here.
macro_rules! words {
    ($name:ident, $kind:literal, { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $name {
            /// Every one, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                Self::ALL.iter().copied().find(|known| known.as_str() == text).ok_or(UnknownWord { kind: $kind })
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// How far a node's set-up has got. Ordered: a node only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The row exists.
    Pending,
    /// The machine is being asked for.
    Creating,
    /// The provider accepted the machine.
    WaitingActive,
    /// The machine's address is known; nothing was heard from it yet.
    WaitingAgent,
    /// Driver and container toolkit are installed.
    InstallingDrivers,
    /// The container engine is installed and uses the card.
    InstallingDocker,
    /// The model files are there.
    DownloadingModels,
    /// The services were started.
    StartingServices,
    /// The node is making itself known.
    Registering,
    /// Every service it should have answers.
    Done,
}

words!(Stage, "stage", {
    Pending = "pending",
    Creating = "creating",
    WaitingActive = "waiting_active",
    WaitingAgent = "waiting_agent",
    InstallingDrivers = "installing_drivers",
    InstallingDocker = "installing_docker",
    DownloadingModels = "downloading_models",
    StartingServices = "starting_services",
    Registering = "registering",
    Done = "done",
});

impl Stage {
    /// The stages that a machine reports itself, in order.
    pub const REPORTED: &'static [Self] = &[
        Self::InstallingDrivers,
        Self::InstallingDocker,
        Self::DownloadingModels,
        Self::StartingServices,
        Self::Registering,
        Self::Done,
    ];
}

/// One of the four services that a GPU node offers. The word is also the key of its health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GpuService {
    /// Text generation, `llama-cpp`.
    Llama,
    /// Text to speech.
    Chatterbox,
    /// Speech to text.
    Whisper,
    /// Embeddings.
    Qwen,
}

words!(GpuService, "service", {
    Llama = "llama",
    Chatterbox = "chatterbox",
    Whisper = "whisper",
    Qwen = "qwen",
});

impl GpuService {
    /// The port that the node publishes it on.
    pub const fn port(self) -> u16 {
        match self {
            Self::Llama => 8080,
            Self::Chatterbox => 8081,
            Self::Whisper => 8082,
            Self::Qwen => 8083,
        }
    }
}

/// What the node's daemon sees of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceState {
    /// The node does not run it.
    Absent,
    /// Its process has started and does not answer yet.
    Starting,
    /// It answers that its model is being loaded.
    Loading,
    /// It answers requests.
    Ready,
    /// It answers, and has no slot free.
    Busy,
    /// It takes connections and answers no request.
    Wedged,
    /// Nobody listens.
    Dead,
}

words!(ServiceState, "service state", {
    Absent = "absent",
    Starting = "starting",
    Loading = "loading",
    Ready = "ready",
    Busy = "busy",
    Wedged = "wedged",
    Dead = "dead",
});

impl ServiceState {
    /// Whether a request sent to it now would be answered, if late.
    pub const fn answers(self) -> bool {
        matches!(self, Self::Ready | Self::Busy)
    }
}

/// A service, as the node's daemon sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceReport {
    /// Which service.
    pub service: GpuService,
    /// How it is.
    pub state: ServiceState,
    /// Seconds since it last answered a request well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_age_s: Option<u64>,
    /// How long it took to answer the last probe, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u32>,
    /// What is wrong, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whether it is a stand-in that gives canned answers.
    #[serde(default)]
    pub stand_in: bool,
}

/// One card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuReading {
    /// Its number on this machine.
    pub index: u32,
    /// Its id, the same after every restart.
    pub uuid: String,
    /// Its model.
    pub name: String,
    /// Its memory, in bytes.
    pub memory_total_bytes: u64,
    /// Memory in use, in bytes.
    pub memory_used_bytes: u64,
    /// Its temperature, in degrees Celsius.
    pub temperature_celsius: u32,
    /// What it draws, in milliwatts.
    pub power_milliwatts: u32,
    /// How much of the last sample period it was busy, in percent.
    pub utilization_percent: u32,
    /// Memory errors that could not be corrected since it was started; nothing on cards that do not count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecc_uncorrected: Option<u64>,
    /// The number of the last error that the driver logged for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_xid: Option<u32>,
}

/// What a node computes with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum GpuMode {
    /// Cards, read through the driver.
    Nvidia {
        /// The driver's version.
        driver_version: String,
        /// The cards.
        gpus: Vec<GpuReading>,
    },
    /// No card: the services run on the processor.
    Cpu {
        /// Why.
        reason: String,
    },
    /// There are cards, and the driver does not answer.
    Unresponsive {
        /// Since how many seconds.
        for_s: u64,
    },
}

/// Says that a node lives and how it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    /// Which node; must be the one that the credential is of.
    pub node_id: String,
    /// The daemon's version.
    pub agent_version: String,
    /// Its services.
    pub services: Vec<ServiceReport>,
    /// Its cards.
    pub gpu: GpuMode,
    /// Differs after every start of the machine.
    pub boot_id: String,
}

/// The body of a report to [`REGISTER_PATH`]. The stage is the query's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageReport {
    /// Which node.
    pub node_id: String,
    /// `false` when the stage failed; absent means that its work is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<bool>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Where the platform reaches the node, if the node knows: an address or a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

impl StageReport {
    /// Whether the stage failed.
    pub fn failed(&self) -> bool {
        self.ok == Some(false)
    }
}

/// The answer to a report or a heartbeat that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Always `true`.
    pub success: bool,
}

impl Accepted {
    /// The only one there is.
    pub const YES: Self = Self { success: true };
}

/// What a node proves itself with: 64 hexadecimal digits, different for every node.
pub fn node_secret(master: &SecretString, node_id: &str) -> SecretString {
    derive(master, "wopr.gpu.node.v1", node_id)
}

/// What a caller of the node's inference services must bear: 64 hexadecimal digits, computed from [`node_secret`].
pub fn inference_token(node_secret: &SecretString) -> SecretString {
    derive(node_secret, "wopr.gpu.inference.v1", "")
}

/// HMAC-SHA256 over a label and a subject. The zero byte cannot occur in a label, so no two pairs give one text.
fn derive(key: &SecretString, label: &str, subject: &str) -> SecretString {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.expose_secret().as_bytes()).expect("HMAC takes keys of every length");
    mac.update(label.as_bytes());
    mac.update(&[0]);
    mac.update(subject.as_bytes());
    hex::encode(mac.finalize().into_bytes()).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_words_are_those_of_the_contract_and_in_its_order() {
        let words: Vec<_> = Stage::ALL.iter().map(|stage| stage.as_str()).collect();
        assert_eq!(
            words.join(" "),
            "pending creating waiting_active waiting_agent installing_drivers installing_docker downloading_models \
             starting_services registering done"
        );
        assert!(Stage::ALL.is_sorted() && Stage::REPORTED.is_sorted());
        assert_eq!(Stage::REPORTED, &Stage::ALL[4..]);
        for stage in Stage::ALL {
            assert_eq!(stage.as_str().parse(), Ok(*stage));
        }
        assert_eq!("ready".parse::<Stage>(), Err(UnknownWord { kind: "stage" }));
        let ports: Vec<_> = GpuService::ALL.iter().map(|service| (service.as_str(), service.port())).collect();
        assert_eq!(ports, [("llama", 8080), ("chatterbox", 8081), ("whisper", 8082), ("qwen", 8083)]);
    }

    #[test]
    fn messages_have_the_shape_of_the_wire() {
        let heartbeat = Heartbeat {
            node_id: "gpu-0a1b2c3d".to_owned(),
            agent_version: "0.1.0".to_owned(),
            services: vec![ServiceReport {
                service: GpuService::Llama,
                state: ServiceState::Ready,
                last_success_age_s: Some(3),
                latency_ms: Some(12),
                detail: None,
                stand_in: true,
            }],
            gpu: GpuMode::Nvidia {
                driver_version: "570.1".to_owned(),
                gpus: vec![GpuReading {
                    index: 0,
                    uuid: "GPU-1".to_owned(),
                    name: "H200".to_owned(),
                    memory_total_bytes: 1,
                    memory_used_bytes: 0,
                    temperature_celsius: 40,
                    power_milliwatts: 75_000,
                    utilization_percent: 0,
                    ecc_uncorrected: Some(0),
                    last_xid: None,
                }],
            },
            boot_id: "b".to_owned(),
        };
        let wire = json!({
            "nodeId": "gpu-0a1b2c3d", "agentVersion": "0.1.0", "bootId": "b",
            "services": [{ "service": "llama", "state": "ready", "lastSuccessAgeS": 3, "latencyMs": 12, "standIn": true }],
            "gpu": { "mode": "nvidia", "driverVersion": "570.1", "gpus": [{
                "index": 0, "uuid": "GPU-1", "name": "H200", "memoryTotalBytes": 1, "memoryUsedBytes": 0,
                "temperatureCelsius": 40, "powerMilliwatts": 75_000, "utilizationPercent": 0, "eccUncorrected": 0,
            }] },
        });
        assert_eq!(serde_json::to_value(&heartbeat).unwrap(), wire);
        assert_eq!(serde_json::from_value::<Heartbeat>(wire).unwrap(), heartbeat);
        let unresponsive = serde_json::to_value(GpuMode::Unresponsive { for_s: 4 }).unwrap();
        assert_eq!(unresponsive, json!({ "mode": "unresponsive", "forS": 4 }));
        assert_eq!(serde_json::to_value(Accepted::YES).unwrap(), json!({ "success": true }));

        let report: StageReport = serde_json::from_value(json!({ "nodeId": "gpu-1" })).unwrap();
        assert!(!report.failed());
        let report: StageReport = serde_json::from_value(json!({ "nodeId": "gpu-1", "ok": false })).unwrap();
        assert!(report.failed());
    }

    #[test]
    fn credentials_differ_by_node_and_by_use_and_never_change() {
        let master = SecretString::from("master");
        let secret = node_secret(&master, "gpu-1");
        // Pinned: a node and an API of different releases must agree.
        let expected = "4ae5ce41ed1600b0b012b95b579c66fabb3cd120272c936a8016c76e1f3844a5";
        assert_eq!(secret.expose_secret(), expected);
        let token = inference_token(&secret);
        assert_eq!(token.expose_secret(), "af889e7ec555841a3483006cd644fd3be4f0db978c2218c43b49dc2e62dfe3e5");
        assert_ne!(node_secret(&master, "gpu-2").expose_secret(), expected);
        assert_ne!(node_secret(&SecretString::from("other"), "gpu-1").expose_secret(), expected);
        assert!(!format!("{secret:?} {token:?}").contains(&expected[..8]));
    }
}
