//! A GPU node: what it is, how far its set-up has got, how its services are.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::protocol::gpu::{GpuService, Heartbeat, Stage};

/// Nodes of this region are on somebody's desk: the clock never gives them up.
pub const LOCAL_REGION: &str = "local";
/// The longest reason that is kept, in characters.
const MAX_REASON_CHARS: usize = 500;

/// A value that breaks a rule, and the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct InvalidGpuInput {
    /// The field, as callers name it.
    pub field: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

const fn invalid(field: &'static str, rule: &'static str) -> InvalidGpuInput {
    InvalidGpuInput { field, rule }
}

/// A node's id: a name that is safe as a host name, a tag, and a word of a shell. Unique whatever its case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpuNodeId(String);

impl GpuNodeId {
    /// The longest, in characters: a label of a host name.
    const MAX: usize = 63;

    /// `gpu-` and eight hexadecimal digits that nobody chose.
    pub(super) fn random() -> Self {
        let random = uuid::Uuid::new_v4().simple().to_string();
        Self(format!("gpu-{}", &random[..8]))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GpuNodeId {
    type Err = InvalidGpuInput;

    fn from_str(text: &str) -> Result<Self, InvalidGpuInput> {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let valid = text.len() <= Self::MAX
            && text.bytes().all(inner)
            && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(invalid("name", "1 to 63 letters, digits and hyphens, beginning with a letter or a digit"))
        }
    }
}

impl fmt::Display for GpuNodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a node is reached: an IP address or a host name, without a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host(String);

impl Host {
    /// The address or name; an IPv6 address without brackets.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As it stands in a URL.
    pub fn in_url(&self) -> String {
        if self.0.contains(':') { format!("[{}]", self.0) } else { self.0.clone() }
    }
}

impl FromStr for Host {
    type Err = InvalidGpuInput;

    fn from_str(text: &str) -> Result<Self, InvalidGpuInput> {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let name = || {
            let last = text.rsplit('.').next().unwrap_or_default();
            // `1.2.3` and `0x7f.1` mean addresses to some resolvers, and other ones to others.
            let numeric = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
            text.len() <= 253 && text.split('.').all(label) && !numeric
        };
        let usable = match text.parse::<std::net::IpAddr>() {
            Ok(address) => !address.is_unspecified() && !address.is_multicast(),
            Err(_) => name(),
        };
        if usable { Ok(Self(text.to_owned())) } else { Err(invalid("host", "an IP address or a host name")) }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A provider's word for a region, a size or an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slug(String);

impl Slug {
    /// Letters, digits, `.`, `_` and `-`, at most `max` of them.
    ///
    /// # Errors
    /// [`InvalidGpuInput`] naming `field`.
    pub fn new(field: &'static str, text: &str, max: usize) -> Result<Self, InvalidGpuInput> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if (1..=max).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(invalid(field, "a provider's word: letters, digits, '.', '_' and '-', not too long"))
        }
    }

    /// A region, at most 20 characters.
    ///
    /// # Errors
    /// [`InvalidGpuInput`].
    pub fn region(text: &str) -> Result<Self, InvalidGpuInput> {
        Self::new("region", text, 20)
    }

    /// A size, at most 50 characters.
    ///
    /// # Errors
    /// [`InvalidGpuInput`].
    pub fn size(text: &str) -> Result<Self, InvalidGpuInput> {
        Self::new("size", text, 50)
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose machine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeSource {
    /// We had it made at the provider, and remove it there.
    Provider,
    /// It exists without us and enrolled.
    Host,
}

impl NodeSource {
    /// The stored word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Host => "host",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
        [Self::Provider, Self::Host].into_iter().find(|source| source.as_str() == word)
    }
}

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeStatus {
    /// Its machine is being made.
    Provisioning,
    /// Its machine is there and being set up.
    Bootstrapping,
    /// It serves.
    Active,
    /// Nothing that it should have answers.
    Degraded,
    /// It was given up; it is looked at now and then all the same.
    Failed,
    /// It is being removed.
    Destroying,
}

impl NodeStatus {
    /// Every one.
    pub const ALL: [Self; 6] =
        [Self::Provisioning, Self::Bootstrapping, Self::Active, Self::Degraded, Self::Failed, Self::Destroying];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Bootstrapping => "bootstrapping",
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
            Self::Destroying => "destroying",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Whether a node may go from here to there. The database refuses the rest, too.
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Provisioning => matches!(next, Self::Bootstrapping | Self::Failed | Self::Destroying),
            Self::Bootstrapping => matches!(next, Self::Active | Self::Failed | Self::Destroying),
            Self::Active => matches!(next, Self::Degraded | Self::Failed | Self::Destroying),
            Self::Degraded => matches!(next, Self::Active | Self::Failed | Self::Destroying),
            Self::Failed => {
                matches!(next, Self::Provisioning | Self::Bootstrapping | Self::Active | Self::Destroying)
            }
            Self::Destroying => false,
        }
    }
}

/// A node may not go there from where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a GPU node that is {} cannot become {}", .from.as_str(), .to.as_str())]
pub struct InvalidTransition {
    /// Where it is.
    pub from: NodeStatus,
    /// Where it may not go.
    pub to: NodeStatus,
}

/// How one service of a node is, as the platform's own poll says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceHealth {
    /// Whether the node is judged by it.
    pub expected: bool,
    /// Whether it answered the last poll; nothing before the first.
    pub ok: Option<bool>,
    /// How long that took, in milliseconds.
    pub latency_ms: Option<u32>,
    /// When it was last polled.
    pub checked_at: Option<Timestamp>,
    /// When it last answered.
    pub last_ok_at: Option<Timestamp>,
    /// Since when it does not answer; at the earliest since its node came back.
    pub down_since: Option<Timestamp>,
    /// When somebody was told of that.
    pub told_at: Option<Timestamp>,
}

/// A GPU node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuNode {
    /// Its id.
    pub id: GpuNodeId,
    /// Whose machine it is.
    pub source: NodeSource,
    /// Names its machine at the provider.
    pub provision_tag: String,
    /// The provider's id of its machine.
    pub machine_id: Option<String>,
    /// Where it is reached.
    pub host: Option<Host>,
    /// The provider's word for where it stands; [`LOCAL_REGION`] on somebody's desk.
    pub region: Slug,
    /// The provider's word for what it is.
    pub size: Slug,
    /// Where it stands.
    pub status: NodeStatus,
    /// How far its set-up has got.
    pub stage: Stage,
    /// Since when.
    pub stage_since: Timestamp,
    /// Since when it is being set up.
    pub setup_since: Timestamp,
    /// What the provider charges for a month.
    pub monthly_cost_cents: Option<i64>,
    /// Why it failed, or what was last wrong with it.
    pub last_error: Option<String>,
    /// Its four services.
    pub services: BTreeMap<GpuService, ServiceHealth>,
    /// When it was last polled, answered or not.
    pub last_health_at: Option<Timestamp>,
    /// When any service that it should have last answered.
    pub last_ok_at: Option<Timestamp>,
    /// What its daemon last said, and when.
    pub heartbeat: Option<(Timestamp, Heartbeat)>,
    /// Which master secret its own was made from.
    pub master_key: Option<String>,
    /// When it first used a secret of its own.
    pub identified_at: Option<Timestamp>,
    /// Polls in a row in which nothing that it should have answered.
    pub all_down_polls: i32,
    /// The reboot whose effect is awaited.
    pub reboot_at: Option<Timestamp>,
    /// An attempt to make its machine whose outcome is not known.
    pub create_attempted_at: Option<Timestamp>,
    /// How often the provider failed us in a row.
    pub attempts: i32,
    /// When the provider is asked again.
    pub next_attempt_at: Option<Timestamp>,
    /// When it was enrolled.
    pub created_at: Timestamp,
    /// When anything of it last changed.
    pub updated_at: Timestamp,
}

impl GpuNode {
    /// Goes to another status; to the one it has is no change.
    ///
    /// # Errors
    /// [`InvalidTransition`].
    pub fn enter(&mut self, next: NodeStatus) -> Result<(), InvalidTransition> {
        if self.status != next && !self.status.may_become(next) {
            return Err(InvalidTransition { from: self.status, to: next });
        }
        self.status = next;
        Ok(())
    }

    /// Moves its set-up forward; back is no change. Answers whether it moved.
    pub fn reach(&mut self, stage: Stage, now: Timestamp) -> bool {
        let forward = self.stage < stage;
        if forward {
            (self.stage, self.stage_since) = (stage, now);
        }
        forward
    }

    /// Gives it up, saying why.
    ///
    /// # Errors
    /// [`InvalidTransition`] when it is being removed.
    pub fn fail(&mut self, reason: &str) -> Result<(), InvalidTransition> {
        self.enter(NodeStatus::Failed)?;
        self.last_error = Some(reason_of(reason));
        Ok(())
    }

    /// Whether it is on somebody's desk.
    pub fn is_local(&self) -> bool {
        self.region.as_str() == LOCAL_REGION
    }

    /// The services it is judged by that did not answer the last poll.
    pub fn missing_services(&self) -> Vec<GpuService> {
        let missing = self.services.iter().filter(|(_, health)| health.expected && health.ok == Some(false));
        missing.map(|(service, _)| *service).collect()
    }

    /// Whether it serves, but not everything it should.
    pub fn is_partial(&self) -> bool {
        self.status == NodeStatus::Active && !self.missing_services().is_empty()
    }

    /// The services it is judged by.
    pub fn expected_services(&self) -> impl Iterator<Item = GpuService> + '_ {
        self.services.iter().filter(|(_, health)| health.expected).map(|(service, _)| *service)
    }
}

/// A reason as it is kept: one line, not endless.
pub(super) fn reason_of(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .take(MAX_REASON_CHARS)
        .collect();
    let line = line.trim();
    if line.is_empty() { "it did not say why".to_owned() } else { line.to_owned() }
}

/// Why a node is rebooted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebootReason {
    /// Nothing answered.
    Watchdog,
    /// Somebody asked for it.
    Operator,
}

impl RebootReason {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Watchdog => "watchdog",
            Self::Operator => "operator",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
        [Self::Watchdog, Self::Operator].into_iter().find(|reason| reason.as_str() == word)
    }
}

/// What is needed to take a machine that exists.
#[derive(Debug, Clone)]
pub struct NewEnrolment {
    /// Its id; one is made up unless given.
    pub name: Option<String>,
    /// Where it is reached.
    pub host: String,
    /// Where it stands; [`LOCAL_REGION`] unless given.
    pub region: Option<String>,
    /// What it is; `unknown` unless given.
    pub size: Option<String>,
    /// What it should serve; everything unless given.
    pub services: Option<Vec<GpuService>>,
}

/// What is needed to have a machine made.
#[derive(Debug, Clone, Default)]
pub struct NewProvision {
    /// Its id; one is made up unless given.
    pub name: Option<String>,
    /// Where it is to stand.
    pub region: Option<String>,
    /// What it is to be.
    pub size: Option<String>,
}

/// A node of a given service that answers: where the gateway sends requests.
#[derive(Clone)]
pub struct GpuBackend {
    /// The node.
    pub node_id: GpuNodeId,
    /// `http://host:port`.
    pub base_url: String,
    /// What the node's proxy wants to see as a bearer token.
    pub token: Option<secrecy::SecretString>,
    /// How long it took to answer the last poll, in milliseconds.
    pub latency_ms: Option<u32>,
}

impl fmt::Debug for GpuBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuBackend")
            .field("node_id", &self.node_id)
            .field("base_url", &self.base_url)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_plain_name() {
        for (text, valid) in [
            ("gpu-0a1b2c3d", true),
            ("local-gpu-node-001", true),
            ("A", true),
            ("7", true),
            ("", false),
            ("-a", false),
            ("a_b", false),
            ("a b", false),
            ("a;reboot", false),
            ("$(id)", false),
            ("a\n", false),
            ("ä", false),
        ] {
            assert_eq!(text.parse::<GpuNodeId>().is_ok(), valid, "{text:?}");
        }
        assert!("a".repeat(63).parse::<GpuNodeId>().is_ok() && "a".repeat(64).parse::<GpuNodeId>().is_err());
        let random = GpuNodeId::random();
        assert_eq!(random.as_str().len(), 12);
        assert_eq!(random.as_str().parse(), Ok(random));
    }

    #[test]
    fn a_host_is_an_address_or_a_name_and_nothing_that_a_url_could_turn_into_something_else() {
        for (text, in_url) in [
            ("10.0.0.7", Some("10.0.0.7")),
            ("2001:db8::7", Some("[2001:db8::7]")),
            ("wopr-gpu", Some("wopr-gpu")),
            ("host.docker.internal", Some("host.docker.internal")),
            ("wopr_gpu_1", Some("wopr_gpu_1")),
            ("", None),
            ("0.0.0.0", None),
            ("224.0.0.1", None),
            ("10.0.0", None),
            ("0x7f.1", None),
            ("10.0.0.7:8080", None),
            ("[::1]", None),
            ("a/b", None),
            ("a@b", None),
            ("a?b", None),
            ("a#b", None),
            ("-a", None),
            ("a..b", None),
            ("a b", None),
            ("a\r\nb", None),
        ] {
            assert_eq!(text.parse::<Host>().ok().map(|host| host.in_url()).as_deref(), in_url, "{text:?}");
        }
    }

    #[test]
    fn a_reason_is_one_line_of_bounded_length() {
        assert_eq!(reason_of("a\nb\u{0}c"), "a b c");
        assert_eq!(reason_of("\n"), "it did not say why");
        assert_eq!(reason_of(&"ä".repeat(1000)).chars().count(), 500);
    }

    #[test]
    fn nothing_is_forgotten_but_what_is_being_removed() {
        for status in NodeStatus::ALL {
            let ways_out = NodeStatus::ALL.into_iter().filter(|next| status.may_become(*next)).count();
            assert_eq!(ways_out == 0, status == NodeStatus::Destroying, "{status:?}");
            assert!(!status.may_become(status));
            assert!(status == NodeStatus::Destroying || status.may_become(NodeStatus::Destroying));
        }
    }
}
