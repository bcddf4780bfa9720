//! Whether the runbook is right: with itself, and with what the code does.

use std::collections::{BTreeMap, BTreeSet};

use super::{Environment, Exposure, Port, Probe, Runbook, Where, planned::Planned, pure::may_be_said};
use crate::{plan::platform::Ports, secrets};

/// How many hazards there are; none is ever taken away.
const GOTCHAS: usize = 38;

/// Everything that is wrong, one sentence each.
///
/// # Errors
/// If the plan cannot be made.
pub(crate) fn problems(text: &str, runbook: &Runbook) -> anyhow::Result<Vec<String>> {
    let planned = Planned::anywhere(Ports::default())?;
    let mut problems = Vec::new();
    said_twice(runbook, &mut problems);
    guarded(runbook, &mut problems);
    broken(runbook, &planned, &mut problems);
    services(runbook, &planned, &mut problems);
    ports(runbook, &planned, &mut problems);
    secrets_of(runbook, &planned, &mut problems);
    probes(runbook, &planned, &mut problems);
    let table: toml::Table = toml::from_str(text)?;
    values("", &toml::Value::Table(table), &mut problems);
    Ok(problems)
}

fn said_twice(runbook: &Runbook, problems: &mut Vec<String>) {
    let ids = [
        ("check", runbook.checks.iter().map(|check| check.id.as_str()).collect::<Vec<_>>()),
        ("gotcha", runbook.gotchas.iter().map(|gotcha| gotcha.id.as_str()).collect()),
        ("service", runbook.services.iter().map(|service| service.id.as_str()).collect()),
        ("secret", runbook.secrets.iter().map(|secret| secret.name.as_str()).collect()),
        ("port", runbook.ports.iter().map(|port| port.name.name()).collect()),
        ("checklist entry", runbook.checklist.iter().map(|entry| entry.id.as_str()).collect()),
    ];
    for (kind, ids) in ids {
        let mut seen = BTreeSet::new();
        problems.extend(ids.into_iter().filter(|id| !seen.insert(*id)).map(|id| format!("{kind} {id} is there twice")));
    }
    let gotchas: BTreeSet<&str> = runbook.gotchas.iter().map(|gotcha| gotcha.id.as_str()).collect();
    let wanted: BTreeSet<String> = (1..=GOTCHAS).map(|number| format!("R{number}")).collect();
    problems
        .extend(wanted.iter().filter(|id| !gotchas.contains(id.as_str())).map(|id| format!("gotcha {id} is missing")));
    problems.extend(gotchas.iter().filter(|id| !wanted.contains(**id)).map(|id| format!("there is no hazard {id}")));
}

/// Everything that claims something names a check, or says why there is none; and every check is wanted.
fn guarded(runbook: &Runbook, problems: &mut Vec<String>) {
    let constraints = runbook.constraints.iter().map(|(id, it)| (format!("constraint {id}"), &it.check, &it.manual));
    let gotchas = runbook.gotchas.iter().map(|it| (format!("gotcha {}", it.id), &it.check, &it.manual));
    let checklist = runbook.checklist.iter().map(|it| (format!("checklist entry {}", it.id), &it.check, &it.manual));
    let mut used = BTreeSet::new();
    for (what, check, manual) in constraints.chain(gotchas).chain(checklist) {
        match (check, manual) {
            (Some(check), None) if runbook.checks.iter().any(|known| known.id == *check) => {
                used.insert(check.as_str());
            }
            (Some(check), None) => problems.push(format!("{what} names the check {check}, which there is not")),
            (None, Some(reason)) if reason.split_whitespace().count() < 3 => {
                problems.push(format!("{what} gives no reason for having no check"));
            }
            (None, Some(_)) => {}
            (None, None) => problems.push(format!("{what} names no check and does not say why")),
            (Some(_), Some(_)) => problems.push(format!("{what} names a check and says why there is none")),
        }
    }
    for gotcha in runbook.gotchas.iter().filter(|gotcha| gotcha.applies_to.is_empty()) {
        problems.push(format!("gotcha {} applies nowhere", gotcha.id));
    }
    let idle = runbook.checks.iter().filter(|check| !used.contains(check.id.as_str()));
    problems.extend(idle.map(|check| format!("nothing needs the check {}", check.id)));
    let endless = runbook.checks.iter().filter(|check| !(1..=60).contains(&check.timeout_s));
    problems.extend(endless.map(|check| format!("check {} may take {} s", check.id, check.timeout_s)));
}

/// What a check guards locally is brought about, by something that can be; and what mends it does.
fn broken(runbook: &Runbook, planned: &Planned, problems: &mut Vec<String>) {
    for gotcha in &runbook.gotchas {
        let (id, here) = (&gotcha.id, gotcha.applies_to.contains(&Environment::Local) && gotcha.check.is_some());
        let (breakage, red, fix) = match (&gotcha.broken, &gotcha.red, gotcha.fix) {
            (Some(breakage), Some(red), Some(fix)) if here => (breakage, red, fix),
            (None, None, None) if !here => continue,
            (None, None, None) => {
                problems.push(format!("gotcha {id} has a check here, and nothing brings it about"));
                continue;
            }
            (Some(_), Some(_), Some(_)) => {
                problems.push(format!("gotcha {id} is brought about, and has no check here"));
                continue;
            }
            _ => {
                problems
                    .push(format!("gotcha {id} lacks one of what breaks it, what the check says, and what mends it"));
                continue;
            }
        };
        if red.trim().is_empty() {
            problems.push(format!("gotcha {id}: whatever the check said would do"));
        }
        if !breakage.is_mended_by(fix) {
            problems.push(format!("gotcha {id} is not mended by {fix}"));
        }
        if let Err(error) = breakage.alter(&mut planned.clone()) {
            problems.push(format!("gotcha {id}: {error:#}"));
        }
    }
}

fn services(runbook: &Runbook, planned: &Planned, problems: &mut Vec<String>) {
    let mut wanted: BTreeMap<&str, (Where, &str)> = BTreeMap::new();
    for (place, stack) in planned.all() {
        for service in &stack.services {
            let image = service.image.split_once(':').map_or(service.image.as_str(), |(name, _)| name);
            wanted.insert(service.name, (place, image));
        }
    }
    for service in &runbook.services {
        match wanted.remove(service.id.as_str()) {
            None => problems.push(format!("service {} is not planned", service.id)),
            Some((place, image)) if (place, image) != (service.machine, service.image.as_str()) => {
                problems.push(format!("service {} runs the image {image} on {}", service.id, place.name()));
            }
            Some(_) => {}
        }
    }
    problems.extend(wanted.keys().map(|name| format!("service {name} is planned and not in the runbook")));
}

fn ports(runbook: &Runbook, planned: &Planned, problems: &mut Vec<String>) {
    let everywhere = !planned.at(Where::Here).publish.is_loopback();
    let open = runbook.ports.iter().filter(|entry| entry.exposure == Exposure::Loopback && everywhere);
    problems.extend(open.map(|entry| format!("port {} is reached from everywhere", entry.name.name())));
    let published: BTreeSet<u16> =
        planned.at(Where::Here).services.iter().flat_map(|machine| &machine.ports).map(|(here, _)| *here).collect();
    for port in Port::ALL {
        let number = port.of(Ports::default());
        match runbook.ports.iter().find(|entry| entry.name == port) {
            None => problems.push(format!("port {} is not in the runbook", port.name())),
            Some(entry) if entry.number != number => {
                problems.push(format!("port {} is {number}, not {}", port.name(), entry.number));
            }
            Some(entry) if !runbook.services.iter().any(|service| service.id == entry.service) => {
                problems.push(format!("port {} is of {}, which there is not", port.name(), entry.service));
            }
            Some(_) if !published.contains(&number) => {
                problems.push(format!("no machine publishes port {}", port.name()));
            }
            Some(_) => {}
        }
    }
    if published.len() != Port::ALL.len() {
        problems.push(format!("the machines publish {} ports, the runbook knows {}", published.len(), Port::ALL.len()));
    }
}

fn secrets_of(runbook: &Runbook, planned: &Planned, problems: &mut Vec<String>) {
    let made: BTreeMap<&str, usize> = secrets::inventory().collect();
    let mut handed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (service, files) in &planned.handovers {
        // A file with an extension is configuration, in which secrets may be.
        let (configuration, alone): (Vec<_>, Vec<_>) = files.iter().partition(|(name, _)| name.contains('.'));
        let within = made.keys().filter(|name| configuration.iter().any(|(_, text)| text.contains(**name)));
        for name in alone.into_iter().map(|(name, _)| name.as_str()).chain(within.copied()) {
            handed.entry(name).or_default().insert(service);
        }
    }
    for secret in &runbook.secrets {
        let name = secret.name.as_str();
        if secret.generated != made.contains_key(name) {
            let truth = if secret.generated { "is not made" } else { "is made" };
            problems.push(format!("secret {name} {truth} by `cargo wopr up`"));
        }
        if let Some(length) = made.get(name).filter(|length| secret.min_length > **length) {
            problems.push(format!("secret {name} is made {length} characters long, less than {}", secret.min_length));
        }
        let services: BTreeSet<&str> = secret.services.iter().map(String::as_str).collect();
        let truth = handed.remove(name).unwrap_or_default();
        if services != truth {
            let truth: Vec<&str> = truth.into_iter().collect();
            problems.push(format!("secret {name} is handed to: {}", truth.join(", ")));
        }
    }
    let known = |name: &str| runbook.secrets.iter().any(|secret| secret.name == name);
    problems.extend(handed.keys().map(|name| format!("secret {name} is handed over and not in the runbook")));
    problems.extend(
        made.keys().filter(|name| !known(name)).map(|name| format!("secret {name} is made and not in the runbook")),
    );
}

/// A check of something that is not there would never fail.
fn probes(runbook: &Runbook, planned: &Planned, problems: &mut Vec<String>) {
    for check in &runbook.checks {
        match &check.probe {
            Probe::Http { params, .. } if !params.path.starts_with('/') => {
                problems.push(format!("check {}: the path does not begin with /", check.id));
            }
            Probe::Http { expect, .. }
                if expect.min_bytes == 0 && expect.contains.is_none() && expect.names_port.is_none() =>
            {
                problems.push(format!("check {}: an empty answer would do", check.id));
            }
            Probe::Containers { expect, .. } => {
                let flags =
                    [expect.running, expect.restarts, expect.as_planned, expect.binds_exist, expect.unprivileged];
                if !flags.contains(&true) && expect.env_absent.is_empty() {
                    problems.push(format!("check {} expects nothing", check.id));
                }
            }
            Probe::Dns { params, .. } => {
                let mut all = planned.all().into_iter().flat_map(|(_, stack)| &stack.services);
                if !all.any(|service| service.name == params.container) {
                    problems.push(format!("check {}: there is no container {}", check.id, params.container));
                }
            }
            _ => {}
        }
    }
}

fn values(path: &str, value: &toml::Value, problems: &mut Vec<String>) {
    match value {
        toml::Value::String(text) if !may_be_said(text) => problems.push(format!("{path} looks like a secret")),
        toml::Value::Table(table) => {
            for (name, value) in table {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                values(&path, value, problems);
            }
        }
        toml::Value::Array(items) => {
            for (place, value) in items.iter().enumerate() {
                values(&format!("{path}[{place}]"), value, problems);
            }
        }
        _ => {}
    }
}

/// Whether a word of the text is what a password or a key looks like. Names of keys, and prefixes, are no secrets.
pub(crate) fn looks_secret(text: &str) -> bool {
    let word = |word: &str| {
        let prefixed = ["sk_test_", "whsec_", "pk_test_", "xoxb-"];
        let after = |prefix: &&str| word.split_once(*prefix).is_some_and(|(_, rest)| rest.len() >= 8);
        let digits = word.chars().filter(char::is_ascii_digit).count();
        let token = word.len() >= 20 && word.chars().all(|c| c.is_ascii_alphanumeric() || "+/=_-".contains(c));
        prefixed.iter().any(after) || token && digits >= 4
    };
    let lower = text.to_ascii_lowercase();
    let assigned = ["password=", "secret=", "token="].iter().any(|name| {
        lower.split_once(name).is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
    });
    assigned || text.split(|c: char| c.is_whitespace() || "`\"'(),;:<>".contains(c)).any(word)
}
