use std::fmt;
use std::net::IpAddr;

use crate::ids::{ApiKeyId, TenantId, UserId};

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A signed-in person.
    User(UserId),
    /// A program with a stored API key.
    ApiKey(ApiKeyId),
    /// A holder of an operator credential, by its name.
    Operator(String),
    /// A periodic task or worker, by its name.
    System(&'static str),
    /// A verified webhook, by its source.
    Webhook(&'static str),
}

impl Actor {
    /// The stored kind.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::ApiKey(_) => "api_key",
            Self::Operator(_) => "operator",
            Self::System(_) => "system",
            Self::Webhook(_) => "webhook",
        }
    }

    /// The stored name.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::User(id) => id.to_string(),
            Self::ApiKey(id) => id.to_string(),
            Self::Operator(name) => name.clone(),
            Self::System(name) | Self::Webhook(name) => (*name).to_owned(),
        }
    }
}

impl fmt::Display for Actor {
    /// `kind:name`, such as `user:0190…`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), self.name())
    }
}

/// Where a request came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Who acts.
    pub actor: Actor,
    /// The client's address, as far as the configured proxies can be trusted.
    pub client_address: Option<IpAddr>,
    /// What the client calls itself.
    pub user_agent: Option<String>,
    /// The id that the request's log lines carry.
    pub request_id: Option<String>,
}

impl Origin {
    /// A worker of our own.
    pub fn system(name: &'static str) -> Self {
        Self { actor: Actor::System(name), client_address: None, user_agent: None, request_id: None }
    }
}

/// What was acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its kind, such as `bot`.
    pub kind: &'static str,
    /// Its id, if it has one yet.
    pub id: Option<String>,
}

impl Resource {
    /// A thing with an id.
    pub fn new(kind: &'static str, id: impl ToString) -> Self {
        Self { kind, id: Some(id.to_string()) }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Success,
    /// It was refused or failed.
    Failure,
}

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// Where the request came from.
    pub origin: Origin,
    /// Whose data it touched.
    pub tenant_id: Option<TenantId>,
    /// `domain.verb`, such as `bot.create`.
    pub action: &'static str,
    /// What was acted on.
    pub resource: Resource,
    /// How it ended.
    pub outcome: Outcome,
    /// An object with what helps to understand it; never a secret.
    pub details: serde_json::Map<String, serde_json::Value>,
}

impl AuditEntry {
    /// A success without details.
    pub fn success(origin: &Origin, tenant_id: Option<TenantId>, action: &'static str, resource: Resource) -> Self {
        Self {
            origin: origin.clone(),
            tenant_id,
            action,
            resource,
            outcome: Outcome::Success,
            details: serde_json::Map::new(),
        }
    }

    /// Adds a detail.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }
}
