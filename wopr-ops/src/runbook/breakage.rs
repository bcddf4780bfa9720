//! Hazards that are brought about on purpose, and what puts them right again.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Component, Path},
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::{Machine, Where, planned::Planned};
use crate::{
    cli::FaultKind,
    plan::{machines::SHARED, platform::MIB, spec::Mount},
    secrets::fingerprint_of,
};

/// Below a machine's directory, and in the container: what is mounted and then taken away.
pub(crate) const GONE: &str = "gone";

/// How a hazard is brought about.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Breakage {
    /// A container is made with another value of a setting.
    Setting { service: String, name: String, value: String },
    /// A container is made with another value of a flag; with none, if there is none here.
    Argument { service: String, flag: String, value: Option<String> },
    /// A container is made with another limit of its memory.
    Memory { service: String, mib: i64 },
    /// A container is made with a mount of a directory of its machine, which then goes.
    Mount { service: String },
    /// A container is made with another file: of what it is handed, `from` becomes `to`.
    Handed { service: String, file: String, from: String, to: String },
    /// What lies ready for a container that runs is edited: `from` becomes `to`, in place or as another file of that name.
    Edited { service: String, file: String, from: String, to: String, in_place: bool },
    /// A container is not there.
    Removed { service: String },
    /// A container is not there, nor is its image on its machine.
    ImageGone { service: String },
    /// What `fault` does.
    Fault { fault: FaultKind, machine: Machine },
    /// A copy of the checkout has these files.
    Repository { files: BTreeMap<String, String> },
    /// The data directory is a temporary one.
    DataDirectory {},
}

impl fmt::Display for Breakage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting { service, name, value } => write!(f, "{service} is made with {name}={value}"),
            Self::Argument { service, flag, value: Some(value) } => write!(f, "{service} is made with {flag} {value}"),
            Self::Argument { service, flag, value: None } => write!(f, "{service} is made with {flag} and no value"),
            Self::Memory { service, mib } => write!(f, "{service} may use {mib} MiB"),
            Self::Mount { service } => write!(f, "{service} mounts a directory that goes"),
            // What is in a file may be a secret.
            Self::Handed { service, file, .. } => write!(f, "{service} is made with another {file}"),
            Self::Edited { service, file, in_place: true, .. } => write!(f, "{file} of {service} is edited"),
            Self::Edited { service, file, in_place: false, .. } => {
                write!(f, "{file} of {service} becomes another file")
            }
            Self::Removed { service } => write!(f, "{service} is removed"),
            Self::ImageGone { service } => write!(f, "{service} and its image are removed"),
            Self::Fault { fault, machine } => write!(f, "fault {} {}", fault.name(), machine.name()),
            Self::Repository { files } => {
                let files: Vec<&str> = files.keys().map(String::as_str).collect();
                write!(f, "a copy of the checkout has {}", files.join(", "))
            }
            Self::DataDirectory {} => write!(f, "the data directory is a temporary one"),
        }
    }
}

/// What puts a hazard right again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Fix {
    /// Whatever is not as planned is made anew.
    #[serde(rename = "cargo wopr start")]
    Start,
    #[serde(rename = "cargo wopr fault mend vps")]
    MendVps,
    #[serde(rename = "cargo wopr fault mend gpu")]
    MendGpu,
    /// What was put there is taken away.
    #[serde(rename = "take it away again")]
    TakeAway,
}

impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "`cargo wopr start`",
            Self::MendVps => "`cargo wopr fault mend vps`",
            Self::MendGpu => "`cargo wopr fault mend gpu`",
            Self::TakeAway => "taking it away again",
        })
    }
}

impl Breakage {
    /// Whether this fix is one for it.
    pub(crate) fn is_mended_by(&self, fix: Fix) -> bool {
        match self {
            Self::Fault { fault: FaultKind::Kill, .. } => fix == Fix::Start,
            Self::Fault { machine: Machine::Vps, .. } => fix == Fix::MendVps,
            Self::Fault { machine: Machine::Gpu, .. } => fix == Fix::MendGpu,
            Self::Repository { .. } | Self::DataDirectory {} => fix == Fix::TakeAway,
            _ => fix == Fix::Start,
        }
    }

    /// Has a plan say what is wrong with a container that is made wrongly; answers with where it runs, and its name. `None` if
    /// no container is.
    ///
    /// # Errors
    /// If there is nothing in the plan that could be so wrong.
    pub(crate) fn alter(&self, planned: &mut Planned) -> anyhow::Result<Option<(Where, &'static str)>> {
        let Some(name) = self.service() else {
            self.can_be()?;
            return Ok(None);
        };
        let mut fingerprint = None;
        if let Self::Handed { file, from, to, .. } | Self::Edited { file, from, to, .. } = self {
            let files = planned.handovers.get_mut(name).with_context(|| format!("{name} is handed no files"))?;
            let text = files.get_mut(file).with_context(|| format!("{name} is not handed {file}"))?;
            let changed = replaced(text, from, to).with_context(|| format!("{file} of {name} cannot be so"))?;
            ensure!(changed != *text, "{file} of {name} would be as it is planned");
            *text = changed;
            fingerprint = Some(fingerprint_of(files));
        }
        let (place, service) = planned.service_mut(name).with_context(|| format!("there is no container {name}"))?;
        let is_machine = service.machine.is_some();
        let of_services = matches!(self, Self::Memory { .. } | Self::Mount { .. } | Self::ImageGone { .. });
        ensure!(!(is_machine && of_services), "{name} is a machine");
        let before = service.aspects();
        match self {
            Self::Setting { name, value, .. } => {
                service.env.insert(name.clone(), value.clone());
            }
            Self::Argument { flag, value, .. } => argument(&mut service.command, flag, value.as_deref())?,
            Self::Memory { mib, .. } => service.memory_bytes = mib * MIB,
            Self::Mount { .. } => {
                let (source, target) = (format!("{SHARED}/{GONE}"), format!("/{GONE}"));
                service.mounts.push(Mount::Bind { source, target, read_only: true });
            }
            Self::Handed { .. } => service.secrets = fingerprint,
            _ => return Ok(None),
        }
        ensure!(service.aspects() != before, "{name} would be as it is planned");
        Ok(Some((place, service.name)))
    }

    /// Whether what is no container's can be done as it is written.
    fn can_be(&self) -> anyhow::Result<()> {
        match self {
            Self::Fault { fault: FaultKind::Mend, .. } => bail!("`fault mend` breaks nothing"),
            Self::Repository { files } => {
                ensure!(!files.is_empty(), "no file is added");
                let inside = |file: &str| Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
                let outside: Vec<&str> = files.keys().map(String::as_str).filter(|file| !inside(file)).collect();
                ensure!(outside.is_empty(), "not inside the checkout: {}", outside.join(", "));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The container that is made wrongly, edited for, or not there.
    fn service(&self) -> Option<&str> {
        match self {
            Self::Setting { service, .. }
            | Self::Argument { service, .. }
            | Self::Memory { service, .. }
            | Self::Mount { service }
            | Self::Handed { service, .. }
            | Self::Edited { service, .. }
            | Self::Removed { service }
            | Self::ImageGone { service } => Some(service),
            Self::Fault { .. } | Self::Repository { .. } | Self::DataDirectory {} => None,
        }
    }
}

/// The text with a part of it replaced, once.
pub(crate) fn replaced(text: &str, from: &str, to: &str) -> anyhow::Result<String> {
    ensure!(text.contains(from), "there is no `{from}` in it");
    Ok(text.replacen(from, to, 1))
}

fn argument(command: &mut Vec<String>, flag: &str, value: Option<&str>) -> anyhow::Result<()> {
    let at = command.iter().position(|word| word == flag).with_context(|| format!("there is no flag {flag}"))?;
    ensure!(at + 1 < command.len(), "{flag} has no value");
    command.splice(at + 1..at + 2, value.map(str::to_owned));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::platform::{Ports, VPS};

    #[test]
    fn what_would_change_nothing_is_refused() {
        let alter = |breakage: Breakage| breakage.alter(&mut Planned::anywhere(Ports::default()).unwrap());
        let setting = |service: &str, value: &str| {
            alter(Breakage::Setting {
                service: service.to_owned(),
                name: "COOKIE_DOMAIN".to_owned(),
                value: value.to_owned(),
            })
        };
        assert_eq!(setting(VPS.api, "example.com").unwrap(), Some((Where::Vps, VPS.api)));
        setting(VPS.api, "localhost").unwrap_err();
        setting("wopr-nobody", "example.com").unwrap_err();
        let handed = |file: &str, from: &str| {
            let text = |text: &str| text.to_owned();
            alter(Breakage::Handed { service: text(VPS.api), file: text(file), from: text(from), to: String::new() })
        };
        assert_eq!(handed("STRIPE_WEBHOOK_SECRET", "whsec_").unwrap(), Some((Where::Vps, VPS.api)));
        handed("STRIPE_WEBHOOK_SECRET", "absent").unwrap_err();
        handed("ABSENT", "whsec_").unwrap_err();
    }

    #[test]
    fn a_flag_gets_another_value_or_none() {
        let command = || ["--ctx-size", "4096", "--port", "8080"].map(str::to_owned).to_vec();
        let cases =
            [(Some("1"), vec!["--ctx-size", "1", "--port", "8080"]), (None, vec!["--ctx-size", "--port", "8080"])];
        for (value, expected) in cases {
            let mut changed = command();
            argument(&mut changed, "--ctx-size", value).unwrap();
            assert_eq!(changed, expected);
        }
        argument(&mut command(), "--model", None).unwrap_err();
        argument(&mut command(), "8080", None).unwrap_err();
    }
}
