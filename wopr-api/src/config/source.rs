use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::keys::{FOREIGN_PREFIXES, KEYS, OUR_PREFIXES, TENANT_TOKEN_PREFIX};

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// The environment, by way of the file that `<NAME>_FILE` names.
    SecretFile,
    /// The configuration file.
    File,
    /// What it is when nobody says.
    Default,
    /// Nowhere: it is not set.
    Unset,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::SecretFile => "secret file",
            Self::File => "file",
            Self::Default => "default",
            Self::Unset => "unset",
        })
    }
}

/// A key as it came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key.
    pub name: String,
    /// Its value; `***` for a secret, `None` when it is not set.
    pub shown: Option<String>,
    /// Where it came from.
    pub layer: Layer,
}

/// Everything that is wrong, one sentence each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigErrors(pub Vec<String>);

/// The layers, as they were found.
#[derive(Debug, Default)]
pub struct Sources {
    /// Flags by the name of their key.
    pub flags: BTreeMap<String, String>,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// The configuration file and its path.
    pub file: Option<(PathBuf, String)>,
}

/// The raw values that won, with what was wrong on the way.
#[derive(Debug, Default)]
pub(super) struct Values {
    pub(super) values: BTreeMap<&'static str, (String, Layer)>,
    /// By the tenant's id.
    pub(super) tenant_tokens: BTreeMap<String, (String, Layer)>,
    pub(super) errors: Vec<String>,
}

/// Puts the layers on top of each other. An empty value is an unset one.
pub(super) fn merge(sources: &Sources) -> Values {
    let mut merged = Values::default();
    for key in &KEYS {
        if let Some(default) = key.default {
            merged.values.insert(key.name, (default.to_owned(), Layer::Default));
        }
    }
    if let Some((path, text)) = &sources.file {
        merge_file(&mut merged, &path.display().to_string(), text);
    }
    merge_environment(&mut merged, &sources.environment);
    for key in &KEYS {
        if let Some(value) = sources.flags.get(key.name).filter(|value| !value.trim().is_empty()) {
            merged.values.insert(key.name, (value.trim().to_owned(), Layer::Flag));
        }
    }
    merged
}

fn merge_environment(merged: &mut Values, environment: &BTreeMap<String, String>) {
    for (name, value) in environment {
        let value = value.trim();
        if value.is_empty() {
            continue;
        }
        if let Some(key) = KEYS.iter().find(|key| key.name == name) {
            merged.values.insert(key.name, (value.to_owned(), Layer::Environment));
        } else if let Some(key) = secret_file_key(name) {
            // The order of names puts NAME before NAME_FILE.
            if environment.get(key).is_some_and(|value| !value.trim().is_empty()) {
                merged.errors.push(format!("{key} and {name} are both set; keep one"));
                continue;
            }
            read_secret_file(merged, key, name, value);
        } else if let Some(tenant) = name.strip_prefix(TENANT_TOKEN_PREFIX) {
            merged.tenant_tokens.insert(tenant.to_ascii_lowercase(), (value.to_owned(), Layer::Environment));
        } else if begins(name, &OUR_PREFIXES) && !begins(name, &FOREIGN_PREFIXES) {
            merged.errors.push(unknown("environment variable", name, KEYS.iter().map(|key| key.name)));
        }
    }
}

fn begins(name: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| name.starts_with(prefix))
}

fn secret_file_key(name: &str) -> Option<&'static str> {
    let base = name.strip_suffix("_FILE")?;
    KEYS.iter().find(|key| key.is_secret() && key.name == base).map(|key| key.name)
}

fn read_secret_file(merged: &mut Values, key: &'static str, name: &str, path: &str) {
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => merged.errors.push(format!("{name}: {path} is empty")),
        Ok(text) => {
            merged.values.insert(key, (text.trim().to_owned(), Layer::SecretFile));
        }
        Err(error) => merged.errors.push(format!("{name}: {path} cannot be read: {error}")),
    }
}

fn merge_file(merged: &mut Values, path: &str, text: &str) {
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            // The parser quotes the offending line, which may hold a secret.
            let error: toml::de::Error = error;
            merged.errors.push(format!("{path} is not TOML: {}", error.message()));
            return;
        }
    };
    for (name, value) in table {
        if name == "fleet_tokens" {
            merge_tenant_tokens(merged, path, value);
            continue;
        }
        let key = KEYS.iter().find(|key| key.name.to_ascii_lowercase() == name);
        let secret_file = name.strip_suffix("_file").and_then(|_| secret_file_key(&name.to_ascii_uppercase()));
        let Some(text) = scalar(&value) else {
            merged.errors.push(format!("{path}: {name} is neither a text, a number, a boolean nor a list of texts"));
            continue;
        };
        match (key, secret_file) {
            _ if text.is_empty() => {}
            (Some(key), _) => {
                merged.values.insert(key.name, (text, Layer::File));
            }
            (None, Some(key)) => read_secret_file(merged, key, &name, &text),
            (None, None) => {
                let known: Vec<String> = KEYS.iter().map(|key| key.name.to_ascii_lowercase()).collect();
                let message = unknown("key", &name, known.iter().map(String::as_str));
                merged.errors.push(format!("{path}: {message}"));
            }
        }
    }
}

fn merge_tenant_tokens(merged: &mut Values, path: &str, value: toml::Value) {
    let toml::Value::Table(tokens) = value else {
        merged.errors.push(format!("{path}: fleet_tokens is not a table of tenant = \"scope:token\""));
        return;
    };
    for (tenant, token) in tokens {
        match token {
            toml::Value::String(token) => {
                merged.tenant_tokens.insert(tenant.to_ascii_lowercase(), (token, Layer::File));
            }
            _ => merged.errors.push(format!("{path}: fleet_tokens.{tenant} is not a text")),
        }
    }
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.trim().to_owned()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            Some(items?.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

fn unknown<'k>(what: &str, name: &str, known: impl Iterator<Item = &'k str>) -> String {
    let nearest = known.max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
    nearest.map_or_else(
        || format!("unknown {what} {name}"),
        |nearest| format!("unknown {what} {name}; did you mean {nearest}?"),
    )
}
