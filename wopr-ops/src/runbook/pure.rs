//! Rules about what is planned or runs, and about what is tracked in the repository.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{PlanRule, RepositoryRule, lint::looks_secret, planned::Planned};
use crate::plan::{
    inference,
    platform::{Ports, VPS},
    spec::Service,
};

/// What was seen, if the rule holds; else why it does not.
pub(crate) fn plan_rule(rule: PlanRule, ports: Ports, planned: &Planned) -> anyhow::Result<String> {
    let services: Vec<&Service> = planned.all().into_iter().flat_map(|(_, stack)| &stack.services).collect();
    let service = |name: &str| {
        services.iter().find(|service| service.name == name).copied().with_context(|| format!("{name} is not planned"))
    };
    // Images of others bring settings of their own.
    let settings = || {
        services
            .iter()
            .filter(|service| !service.pulled)
            .flat_map(|service| service.env.iter().map(|(name, value)| (*service, name, value)))
    };
    match rule {
        PlanRule::AbsolutePaths => {
            let of_paths = |name: &str| ["_DIR", "_FILE", "_PATH"].iter().any(|end| name.ends_with(end));
            let paths: Vec<_> = settings().filter(|(_, name, _)| of_paths(name)).collect();
            for (service, name, value) in &paths {
                ensure!(value.starts_with('/'), "{name} of {} is {value}", service.name);
            }
            ensure!(!paths.is_empty(), "no setting names a path");
            Ok(format!("{} paths in settings, all absolute", paths.len()))
        }
        PlanRule::Addresses => {
            let api = service(VPS.api)?;
            let setting = |name: &str| api.env.get(name).with_context(|| format!("{} is not handed {name}", api.name));
            let expected = format!("http://localhost:{}", ports.api_port);
            let (address, domain) = (setting("BETTER_AUTH_URL")?, setting("COOKIE_DOMAIN")?);
            ensure!(*address == expected, "BETTER_AUTH_URL is {address}, and the API is at {expected}");
            ensure!(domain == "localhost", "COOKIE_DOMAIN is {domain}");
            Ok(format!("{address}, cookies for {domain}"))
        }
        PlanRule::NothingBlank => {
            let mut count = 0;
            for (service, name, value) in settings() {
                ensure!(!value.trim().is_empty() && !value.contains("${"), "{name} of {} is `{value}`", service.name);
                count += 1;
            }
            Ok(format!("{count} settings, none empty"))
        }
        PlanRule::ImagesByContent => {
            for service in &services {
                let tag = service.image.rsplit_once(':').map(|(_, tag)| tag);
                let moves = tag.is_none_or(|tag| ["", "latest", "local"].contains(&tag));
                ensure!(!moves, "{} runs {}, which may move", service.name, service.image);
            }
            Ok(format!("{} services", services.len()))
        }
        PlanRule::MigrationsFirst => {
            ensure!(service(VPS.api)?.after.contains(&VPS.migrate), "{} does not wait for {}", VPS.api, VPS.migrate);
            ensure!(service(VPS.migrate)?.is_work(), "{} is a server", VPS.migrate);
            Ok(format!("{} waits until {} has ended with 0", VPS.api, VPS.migrate))
        }
        PlanRule::Proxy => {
            let files = planned.handovers.get(VPS.caddy).context("the proxy is handed no file")?;
            proxy(files.values().next().context("the proxy is handed no configuration")?)
        }
        PlanRule::Inference => {
            for name in [inference::LLAMA, inference::CHATTERBOX, inference::WHISPER, inference::EMBEDDINGS] {
                flags(service(name)?)?;
            }
            let on = if service(inference::LLAMA)?.card { "the graphics card" } else { "the processor" };
            Ok(format!("every flag that takes a value has one; all layers on {on}"))
        }
        PlanRule::Apart => {
            let [_, (_, vps), (_, gpu)] = planned.all();
            let is_api = |service: &&Service| service.env.contains_key("STRIPE_API_BASE");
            ensure!(vps.services.iter().any(|service| is_api(&service)), "no API on {}", vps.name);
            ensure!(!gpu.services.iter().any(|service| is_api(&service)), "an API on {}", gpu.name);
            ensure!(vps.network != gpu.network, "both machines have the network {}", vps.network.name);
            Ok(format!("{} and {}", vps.network.name, gpu.network.name))
        }
    }
}

/// Plain HTTP, and a last route for every name.
fn proxy(config: &str) -> anyhow::Result<String> {
    let config: Value = serde_json::from_str(config).context("the proxy's configuration is no JSON")?;
    let servers = config.pointer("/apps/http/servers").and_then(Value::as_object).context("it has no servers")?;
    for (name, server) in servers {
        let off = server.pointer("/automatic_https/disable") == Some(&Value::Bool(true));
        ensure!(off, "server {name} would turn to HTTPS by itself");
        let routes = server["routes"].as_array().with_context(|| format!("server {name} has no routes"))?;
        let last = routes.last().with_context(|| format!("server {name} has no routes"))?;
        let every = last["match"].as_array().is_none_or(Vec::is_empty);
        ensure!(every, "the last route of server {name} does not take every name");
    }
    ensure!(!servers.is_empty(), "it has no servers");
    Ok("plain HTTP, and the last route takes every name".to_owned())
}

/// How many of a model's layers a graphics card computes.
pub(super) const LAYERS: &str = "--n-gpu-layers";
/// Flags of llama.cpp that take a value, and were given without one before.
const WITH_VALUE: [&str; 6] = ["--flash-attn", LAYERS, "--ctx-size", "--model", "--port", "--host"];

fn flags(service: &Service) -> anyhow::Result<()> {
    for (place, flag) in service.command.iter().enumerate().filter(|(_, flag)| WITH_VALUE.contains(&flag.as_str())) {
        let value = service.command.get(place + 1).filter(|value| !value.starts_with("--"));
        let value = value.with_context(|| format!("{flag} of {} has no value", service.name))?;
        let on_card = flag == LAYERS && value != "0";
        ensure!(!on_card || service.card, "{} wants {value} layers on a graphics card", service.name);
    }
    Ok(())
}

/// What was seen, if the rule holds for the checkout; else why it does not.
pub(crate) fn repository_rule(rule: RepositoryRule, checkout: &Path) -> anyhow::Result<String> {
    let tracked = tracked(checkout)?;
    let of_names = |forbidden: fn(&str) -> bool| {
        let found: Vec<&str> = tracked.iter().map(String::as_str).filter(|path| forbidden(path)).collect();
        ensure!(found.is_empty(), "{}", found.join(", "));
        Ok(format!("{} files", tracked.len()))
    };
    match rule {
        RepositoryRule::NoKubernetes => of_names(is_kubernetes),
        RepositoryRule::NoFly => of_names(|path| file_name(path) == "fly.toml"),
        RepositoryRule::NoSecrets => {
            of_names(is_env_file)?;
            for path in &tracked {
                // What is not text holds no key that a person typed.
                let Ok(text) = fs::read_to_string(checkout.join(path)) else { continue };
                let line = text.lines().position(has_live_key);
                ensure!(line.is_none(), "{path}:{} looks like a key", line.unwrap_or_default() + 1);
            }
            Ok(format!("{} files", tracked.len()))
        }
        RepositoryRule::NoShellInYaml => {
            let yaml: Vec<&String> = tracked.iter().filter(|path| is_yaml(path)).collect();
            for path in &yaml {
                let text = fs::read_to_string(checkout.join(path)).with_context(|| format!("{path} cannot be read"))?;
                ensure!(!has_shell(&text), "{path} has shell inside");
            }
            Ok(format!("{} YAML files", yaml.len()))
        }
        RepositoryRule::Migrations => migrations(checkout),
    }
}

/// What git would hand to somebody else: what is tracked, and what is new and not ignored.
pub(super) fn tracked(checkout: &Path) -> anyhow::Result<Vec<String>> {
    let output = std::process::Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(checkout)
        .output()
        .context("git could not be run")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
    let text = String::from_utf8(output.stdout).context("a file's name is not text")?;
    let files: Vec<String> = text.split_terminator('\0').map(str::to_owned).collect();
    ensure!(!files.is_empty(), "git tracks nothing in {}", checkout.display());
    Ok(files)
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_yaml(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "yml" || extension == "yaml")
}

fn is_kubernetes(path: &str) -> bool {
    let name = file_name(path).to_ascii_lowercase();
    let files = ["kustomization.yaml", "kustomization.yml", "chart.yaml", "helmfile.yaml", "skaffold.yaml"];
    files.contains(&name.as_str()) || path.split('/').any(|part| ["k8s", "k3s", "helm", ".kube"].contains(&part))
}

fn is_env_file(path: &str) -> bool {
    let name = file_name(path);
    (name == ".env" || name.starts_with(".env.")) && !name.ends_with(".example")
}

/// Keys that open something elsewhere. Keys of tests, which are everywhere in tests, open nothing.
fn has_live_key(line: &str) -> bool {
    let prefixes = ["sk_live_", "rk_live_", "ghp_", "github_pat_", "AKIA", "sk-ant-"];
    let long =
        |rest: &str| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == '-').count() >= 16;
    prefixes.iter().any(|prefix| line.match_indices(prefix).any(|(at, _)| long(&line[at + prefix.len()..])))
        || line.starts_with("-----BEGIN") && line.contains("PRIVATE KEY")
}

/// A folded or literal block that a shell would be given.
fn has_shell(yaml: &str) -> bool {
    let begins = |line: &str| {
        let line = line.trim_start().trim_start_matches("- ");
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        let block = value.trim().starts_with(['|', '>']);
        ["command", "entrypoint", "run", "script"].contains(&key) && (block || value.contains("sh -c"))
    };
    yaml.lines().any(begins)
}

fn migrations(checkout: &Path) -> anyhow::Result<String> {
    let directory = checkout.join("migrations");
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("{} cannot be read", directory.display()))? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let read = |file: &str| {
            fs::read_to_string(entry.path().join(file)).with_context(|| format!("migrations/{name}/{file}"))
        };
        let (up, down) = (read("up.sql")?, read("down.sql")?);
        ensure!(!down.trim().is_empty(), "migrations/{name} cannot be undone");
        if let Some(statement) = destructive(&up) {
            anyhow::bail!("migrations/{name} destroys data: {statement}");
        }
        let version = name.split_once('_').map(|(version, _)| version.to_owned());
        let version = version.with_context(|| format!("migrations/{name} names no version"))?;
        if let Some(other) = found.insert(version, name.clone()) {
            anyhow::bail!("migrations/{other} and migrations/{name} have the same version");
        }
    }
    ensure!(!found.is_empty(), "there are no migrations");
    Ok(format!("{} migrations, in order, each can be undone, none destroys data", found.len()))
}

/// The first line that takes something away.
fn destructive(up: &str) -> Option<&str> {
    let takes_away = |line: &&str| {
        let line = line.trim().to_ascii_uppercase();
        let alters = line.starts_with("ALTER TABLE") || line.starts_with("ALTER COLUMN");
        line.starts_with("DROP TABLE")
            || line.starts_with("TRUNCATE")
            || line.starts_with("DROP COLUMN")
            || alters && (line.contains(" DROP COLUMN ") || line.contains(" TYPE "))
    };
    up.lines().find(takes_away).map(str::trim)
}

/// Whether the runbook itself may say this.
pub(crate) fn may_be_said(value: &str) -> bool {
    !looks_secret(value) && !has_live_key(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_data_away_is_noticed() {
        let cases = [
            ("CREATE TRIGGER x BEFORE TRUNCATE ON y;", false),
            ("  truncate wallets;", true),
            ("DROP TABLE wallets;", true),
            ("ALTER TABLE wallets DROP COLUMN owner;", true),
            ("ALTER TABLE wallets ALTER COLUMN owner TYPE text;", true),
            ("ALTER TABLE wallets ADD COLUMN owner text;", false),
        ];
        for (statement, expected) in cases {
            assert_eq!(destructive(statement).is_some(), expected, "{statement}");
        }
    }

    #[test]
    fn shell_inside_yaml_is_noticed() {
        let cases = [
            ("services:\n  api:\n    command: >\n      sh start\n", true),
            ("    entrypoint: [\"sh -c\", \"x\"]\n", true),
            ("  - run: |\n      cargo test\n", true),
            ("    command: [\"serve\"]\n", false),
            ("description: >\n  a text\n", false),
        ];
        for (yaml, expected) in cases {
            assert_eq!(has_shell(yaml), expected, "{yaml}");
        }
    }

    #[test]
    fn files_that_must_not_be_tracked_are_told_from_others() {
        let cases = [
            (".env", true, false),
            ("local/.env.production", true, false),
            (".env.example", false, false),
            ("deploy/helm/values.yaml", false, true),
            ("k8s/api.yaml", false, true),
            ("src/environment.rs", false, false),
        ];
        for (path, env, kubernetes) in cases {
            assert_eq!((is_env_file(path), is_kubernetes(path)), (env, kubernetes), "{path}");
        }
    }

    #[test]
    fn a_key_is_noticed_and_its_name_is_not() {
        assert!(has_live_key(&format!("key = \"{}{}\"", "sk_live_", "a1".repeat(12))));
        assert!(has_live_key(&format!("{}{}", "AKIA", "A1".repeat(8))));
        assert!(!has_live_key("keys begin with sk_live_ or ghp_"));
    }

    #[test]
    fn a_proxy_that_turns_to_https_or_leaves_names_unanswered_is_refused() {
        let with = |disable: bool, hosts: &str| {
            format!(
                r#"{{"apps":{{"http":{{"servers":{{"s":{{"automatic_https":{{"disable":{disable}}},"routes":[{{"match":{hosts}}}]}}}}}}}}}}"#
            )
        };
        assert!(proxy(&with(true, "[]")).is_ok());
        assert!(proxy(&with(false, "[]")).is_err());
        assert!(proxy(&with(true, r#"[{"host":["localhost"]}]"#)).is_err());
    }

    #[test]
    fn every_rule_holds_for_what_is_planned() {
        let (ports, planned) = (Ports::default(), Planned::anywhere(Ports::default()).unwrap());
        let rules = [
            PlanRule::AbsolutePaths,
            PlanRule::Addresses,
            PlanRule::NothingBlank,
            PlanRule::ImagesByContent,
            PlanRule::MigrationsFirst,
            PlanRule::Proxy,
            PlanRule::Inference,
            PlanRule::Apart,
        ];
        for rule in rules {
            plan_rule(rule, ports, &planned).unwrap_or_else(|error| panic!("{rule:?}: {error:#}"));
        }
        let elsewhere = Ports { api_port: 3200, ..ports };
        assert!(plan_rule(PlanRule::Addresses, elsewhere, &planned).is_err());
    }
}
