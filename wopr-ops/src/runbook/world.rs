//! The stack that runs, looked at check by check. Nothing is changed, but for one event that is sent to the webhook.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bollard::{
    Docker,
    models::{ContainerInspectResponse, HealthStatusEnum, MountPoint, RestartPolicyNameEnum},
    query_parameters::InspectContainerOptions,
};
use futures_util::future::{join_all, try_join_all};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{
    Check, ContainersExpect, DnsParams, Files, HttpExpect, HttpParams, Machine, Port, Probe, Runbook, Severity, Where,
    planned::{Given, Planned},
    pure::{plan_rule, repository_rule},
    render::gotchas_of,
    report::{NotChecked, Outcome, Report},
};
use crate::{
    clock::unix_seconds,
    commands::{
        images::{NAMES, TOPOLOGY_NAMES},
        up::FILES,
    },
    exec::{
        card::{Card, by_digest, handed_on},
        disk,
        observe::container,
        ready::output_of,
        sites::{group_of, inside, position},
    },
    images::{self, recipes},
    paths::Paths,
    plan::{
        disk::shown,
        inference::NODE_ID,
        machines::{self, GPU, NETWORK, Position},
        platform::{DATABASE, Ports, VPS},
        spec::Service,
        steps::difference,
    },
    secrets::{self, Secrets},
    stripe::signature,
};

/// The engine's word for a path of its machine that is mounted.
const BIND: &str = "bind";

/// What is planned, and what runs.
struct Stacks {
    planned: Result<Planned, String>,
    /// Looked at when a check needs it, once for all of them.
    running: OnceCell<Result<Planned, String>>,
}

impl Stacks {
    fn planned(&self) -> anyhow::Result<&Planned> {
        self.planned.as_ref().map_err(|why| anyhow::anyhow!("what is planned is not known: {why}"))
    }

    async fn running(&self, world: &World<'_>) -> anyhow::Result<&Planned> {
        let planned = self.planned()?;
        let look = async || world.running(planned).await.map_err(|error| format!("{error:#}"));
        let running = self.running.get_or_init(look).await;
        running.as_ref().map_err(|why| anyhow::anyhow!("what runs is not known: {why}"))
    }
}

/// What checks look at.
pub(crate) struct World<'a> {
    pub(crate) paths: &'a Paths,
    /// This machine's engine.
    pub(crate) engine: Docker,
    pub(crate) http: reqwest::Client,
    pub(crate) ports: Ports,
}

impl World<'_> {
    /// Makes all checks at once.
    pub(crate) async fn every_check(&self, runbook: &Runbook) -> Report {
        let stacks = self.stacks().await;
        let checks = join_all(runbook.checks.iter().map(|check| self.outcome(runbook, check, &stacks))).await;
        let green = checks.iter().all(|check| check.passed || check.severity == Severity::Warning);
        let not_checked = runbook.gotchas.iter().filter_map(|gotcha| {
            let reason = gotcha.manual.clone()?;
            Some(NotChecked { id: gotcha.id.clone(), hazard: gotcha.hazard.clone(), reason })
        });
        Report { green, checks, not_checked: not_checked.collect() }
    }

    /// Makes one check.
    ///
    /// # Errors
    /// If the runbook has none of that name.
    pub(crate) async fn check(&self, runbook: &Runbook, id: &str) -> anyhow::Result<Outcome> {
        let check = runbook.checks.iter().find(|check| check.id == id);
        let check = check.with_context(|| format!("there is no check {id}"))?;
        Ok(self.outcome(runbook, check, &self.stacks().await).await)
    }

    async fn stacks(&self) -> Stacks {
        let planned = self.planned().await.map_err(|error| format!("{error:#}"));
        Stacks { planned, running: OnceCell::new() }
    }

    async fn outcome(&self, runbook: &Runbook, check: &Check, stacks: &Stacks) -> Outcome {
        let since = Instant::now();
        let limit = Duration::from_secs(check.timeout_s);
        let result = match tokio::time::timeout(limit, self.probe(&check.probe, stacks)).await {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("no answer within {} s", check.timeout_s)),
        };
        let (passed, detail) = match result {
            Ok(seen) => (true, seen),
            Err(error) => (false, format!("{error:#}")),
        };
        Outcome {
            id: check.id.clone(),
            kind: check.probe.kind().to_owned(),
            severity: check.severity,
            passed,
            detail,
            took_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
            gotchas: gotchas_of(runbook, &check.id),
        }
    }

    /// What was seen, if it is what is expected.
    async fn probe(&self, probe: &Probe, stacks: &Stacks) -> anyhow::Result<String> {
        match probe {
            Probe::Http { params, expect } => self.page(params, expect).await,
            Probe::Tcp { params } => {
                let port = params.port.of(self.ports);
                let connected = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
                connected.with_context(|| format!("nothing listens on port {port}"))?;
                Ok(format!("port {port} is listened on"))
            }
            Probe::Containers { params, expect } => self.containers(params.machine, expect, stacks.planned()?).await,
            Probe::Images { params } => self.images(params.machine, stacks.planned()?).await,
            Probe::Engine { params } => {
                let version = inside(self.paths, params.machine.container()).await?.version().await?;
                Ok(format!("engine {} answers", version.version.unwrap_or_default()))
            }
            Probe::Dns { params } => self.name(params).await,
            Probe::Files { params } => self.files(params.what),
            Probe::Handover { params } => self.handover(params.machine, stacks.planned()?),
            Probe::Schema {} => self.schema().await,
            Probe::Database {} => {
                self.psql("SELECT 1").await?;
                Ok("the database answers its own client".to_owned())
            }
            Probe::Webhook {} => self.webhook().await,
            Probe::Node {} => self.node().await,
            Probe::Memory {} => self.memory(stacks.planned()?, stacks.running(self).await?).await,
            Probe::Disk { params, expect } => self.disk(params.machine, expect.free_mib).await,
            Probe::Repository { params } => {
                let (rule, checkout) = (params.rule, self.paths.workspace()?.to_owned());
                tokio::task::spawn_blocking(move || repository_rule(rule, &checkout)).await?
            }
            Probe::Plan { params } => {
                let seen = plan_rule(params.rule, self.ports, stacks.planned()?)?;
                let running = stacks.running(self).await?;
                plan_rule(params.rule, self.ports, running).context("what runs is not as it is planned")?;
                Ok(seen)
            }
        }
    }

    /// The plan that `up` would carry out with the images and secrets that are there.
    pub(super) async fn planned(&self) -> anyhow::Result<Planned> {
        let names: Vec<&'static str> = NAMES.into_iter().chain(TOPOLOGY_NAMES).collect();
        let images = images::existing(self.paths, &self.engine, &names).await?;
        let images = images.into_iter().map(|(name, image)| (name, image.reference)).collect();
        let secrets = self.secrets()?;
        let machines = self.paths.machines();
        let card = Card::of(&self.engine).await?;
        let production = match (card.production(), self.engine_at(Where::Gpu).await) {
            (Some(wanted), Ok(inner)) if handed_on(&self.engine).await? => by_digest(&inner, wanted).await?,
            _ => None,
        };
        Planned::new(&Given {
            images: &images,
            ports: self.ports,
            machines: &machines,
            capabilities: &machines::own_capabilities()?,
            group: group_of(&machines::socket(&machines, machines::VPS))?,
            positions: (
                position(&self.engine, machines::VPS).await?,
                position(&self.engine, GPU).await.unwrap_or(Position::NOWHERE),
            ),
            card: card.production(),
            production: production.as_ref(),
            secret: |name: &str| secrets.get(name),
        })
    }

    /// The plan with the images, settings, arguments and limits that containers were made with, and with the files that lie ready
    /// for them. What is not there is planned no more: other checks miss it.
    async fn running(&self, planned: &Planned) -> anyhow::Result<Planned> {
        let mut running = planned.clone();
        for place in [Where::Here, Where::Vps, Where::Gpu] {
            let services = &mut running.at_mut(place).services;
            let Ok(engine) = self.engine_at(place).await else {
                services.clear();
                continue;
            };
            let found = try_join_all(services.drain(..).map(async |mut service| {
                let found = inspect(&engine, service.name).await?;
                anyhow::Ok(found.map(|found| {
                    as_it_runs(&mut service, found);
                    service
                }))
            }));
            *services = found.await?.into_iter().flatten().collect();
        }
        for (service, files) in &mut running.handovers {
            let place = planned.place_of(service).and_then(Where::machine);
            let machine = place.with_context(|| format!("{service} is on no machine"))?;
            for (file, content) in files {
                *content = read(&self.directory(machine, service).join(file))?;
            }
        }
        Ok(running)
    }

    /// Where the files lie that a service of a machine is handed, as seen from this machine.
    pub(super) fn directory(&self, machine: Machine, service: &str) -> PathBuf {
        self.paths.machines().join(machine.container()).join(FILES).join(service)
    }

    fn secrets(&self) -> anyhow::Result<Secrets> {
        Secrets::read(&self.paths.data.join("secrets"))
    }

    fn url(&self, port: Port, path: &str) -> String {
        format!("http://localhost:{}{path}", port.of(self.ports))
    }

    async fn page(&self, params: &HttpParams, expect: &HttpExpect) -> anyhow::Result<String> {
        let url = self.url(params.port, &params.path);
        let mut request = self.http.get(&url);
        if let Some(host) = &params.host {
            request = request.header("host", host);
        }
        let response = request.send().await.with_context(|| format!("{url} does not answer"))?;
        let status = response.status().as_u16();
        let body = response.text().await.with_context(|| format!("the answer of {url} breaks off"))?;
        ensure!(status == expect.status, "{url} answers {status}, not {}", expect.status);
        ensure!(body.len() >= expect.min_bytes, "{url} answers {status} with {} bytes", body.len());
        let part = expect.names_port.map(|port| self.url(port, ""));
        for part in expect.contains.iter().chain(&part) {
            ensure!(body.contains(part), "{url} answers {status}, and not a word of `{part}`");
        }
        Ok(format!("{status}, {} bytes", body.len()))
    }

    pub(super) async fn engine_at(&self, place: Where) -> anyhow::Result<Docker> {
        match place.machine() {
            None => Ok(self.engine.clone()),
            Some(machine) => inside(self.paths, machine.container()).await,
        }
    }

    async fn containers(&self, place: Where, expect: &ContainersExpect, planned: &Planned) -> anyhow::Result<String> {
        let engine = self.engine_at(place).await?;
        let root = match place.machine() {
            None => PathBuf::from("/"),
            Some(machine) => self.root_of(machine).await?,
        };
        let services = &planned.at(place).services;
        let mut problems = Vec::new();
        for service in services {
            let Some(found) = inspect(&engine, service.name).await? else {
                problems.push(format!("{} is missing", service.name));
                continue;
            };
            problems.extend(
                wrong(service, expect, &found, &root).into_iter().map(|what| format!("{} {what}", service.name)),
            );
            if expect.as_planned
                && let Some(seen) = container(&engine, service.name).await?
                && let Some(why) = difference(service, &seen)
            {
                problems.push(format!("{} is not as planned: {why}", service.name));
            }
        }
        ensure!(problems.is_empty(), "{}", problems.join("; "));
        Ok(format!("{} containers on {}", services.len(), place.shown()))
    }

    /// The root of a machine's files, seen from this machine.
    async fn root_of(&self, machine: Machine) -> anyhow::Result<PathBuf> {
        let name = machine.container();
        let found = inspect(&self.engine, name).await?.with_context(|| format!("{name} is missing"))?;
        let pid = found.state.and_then(|state| state.pid).filter(|pid| *pid > 0);
        Ok(PathBuf::from(format!("/proc/{}/root", pid.with_context(|| format!("{name} does not run"))?)))
    }

    async fn images(&self, machine: Machine, planned: &Planned) -> anyhow::Result<String> {
        let (engine, name) = (inside(self.paths, machine.container()).await?, machine.container());
        let mut problems = Vec::new();
        let services = &planned.at(machine.place()).services;
        let wanted: BTreeSet<&String> = services.iter().flat_map(Service::images).collect();
        for image in &wanted {
            // After a bundle, this machine's own engine has none of them.
            match (image_id(&engine, image).await?, image_id(&self.engine, image).await?) {
                (None, _) => problems.push(format!("{image} is not on {name}")),
                (Some(there), Some(here)) if there != here => {
                    problems.push(format!("{image} on {name} is another one than on this machine"));
                }
                _ => {}
            }
        }
        for service in services {
            match inspect(&engine, service.name).await? {
                None => problems.push(format!("{} is missing", service.name)),
                Some(found) if found.image != image_id(&engine, &service.image).await? => {
                    problems.push(format!("{} runs another image than {}", service.name, service.image));
                }
                Some(_) => {}
            }
        }
        ensure!(problems.is_empty(), "{}", problems.join("; "));
        Ok(format!("{} images, of which {} containers are made", wanted.len(), services.len()))
    }

    async fn name(&self, params: &DnsParams) -> anyhow::Result<String> {
        let (site, container) = crate::exec::sites::find(self.paths, self.engine.clone(), &params.container).await?;
        let answer = output_of(&site.engine, &container, &["getent", "hosts", &params.name]).await?;
        let found: Ipv4Addr = answer
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .parse()
            .with_context(|| format!("{} resolves to `{}` in {container}", params.name, answer.trim()))?;
        if let Some(machine) = params.address_of {
            let wanted = position(&self.engine, machine.container()).await?.address;
            ensure!(found == wanted, "{} resolves to {found}, and the machine has {wanted}", params.name);
        }
        Ok(format!("{} is {found} in {container}", params.name))
    }

    fn files(&self, what: Files) -> anyhow::Result<String> {
        let data = &self.paths.data;
        match what {
            Files::Secrets => {
                let directory = data.join("secrets");
                mode(data, 0o700)?;
                mode(&directory, 0o700)?;
                let mut count = 0;
                for (name, _) in secrets::inventory() {
                    mode(&directory.join(name), 0o600)?;
                    count += 1;
                }
                self.secrets()?;
                Ok(format!("{count} secrets, each readable by its owner alone"))
            }
            Files::DataDirectory => {
                let real = fs::canonicalize(data).with_context(|| format!("{} is not there", data.display()))?;
                ensure!(!is_temporary(&real), "{} is a temporary directory", real.display());
                // Outside a checkout there is none it could lie in.
                if let Ok(checkout) = self.paths.workspace() {
                    ensure!(!real.starts_with(checkout), "{} lies in the checkout", real.display());
                }
                Ok("outside the checkout and outside temporary directories".to_owned())
            }
        }
    }

    fn handover(&self, machine: Machine, planned: &Planned) -> anyhow::Result<String> {
        let mut count = 0;
        for service in &planned.at(machine.place()).services {
            for (name, value) in planned.handovers.get(service.name).into_iter().flatten() {
                let file = self.directory(machine, service.name).join(name);
                ensure!(read(&file)? == *value, "{} is not what the plan hands over", file.display());
                mode(&file, 0o600)?;
                count += 1;
            }
        }
        ensure!(count > 0, "no service of {} is handed a file", machine.container());
        Ok(format!("{count} files are what the plan hands over"))
    }

    async fn schema(&self) -> anyhow::Result<String> {
        let url = self.url(Port::Api, "/health/ready");
        let response = self.http.get(&url).send().await.with_context(|| format!("{url} does not answer"))?;
        let status = response.status();
        let body: Value = response.json().await.with_context(|| format!("{url} answers {status} without JSON"))?;
        ensure!(status == StatusCode::OK && body["status"] == "ready", "{url} answers {status}: {body}");
        let output = self.psql("SELECT count(*) FROM __diesel_schema_migrations").await?;
        let count: u32 = output.trim().parse().with_context(|| format!("psql said {output}"))?;
        ensure!(count > 0, "no migration was made");
        Ok(format!("the API is ready; {count} migrations were made"))
    }

    async fn psql(&self, query: &str) -> anyhow::Result<String> {
        let engine = inside(self.paths, machines::VPS).await?;
        let command = ["psql", "-h", "/run/postgresql", "-U", DATABASE, "-Atc", query];
        output_of(&engine, VPS.postgres, &command).await
    }

    async fn webhook(&self) -> anyhow::Result<String> {
        let secrets = self.secrets()?;
        let whole = secrets.get("STRIPE_WEBHOOK_SECRET")?;
        let part = whole.trim_start_matches("whsec_");
        ensure!(part != whole, "the secret does not begin with `whsec_`");
        // One id for ever: the API keeps an event once, and this kind of event moves no money.
        let body = json!({
            "id": "evt_wopr_runbook_verify", "object": "event", "api_version": "2026-09-30.endive", "created": 1,
            "livemode": false, "pending_webhooks": 0, "request": null, "type": "wopr.runbook.verify",
            "data": { "object": {} },
        })
        .to_string();
        let send = async |secret: &str| -> anyhow::Result<StatusCode> {
            let url = self.url(Port::Api, "/api/billing/webhook");
            let signed = signature(secret, unix_seconds(), &body)?;
            let request = self.http.post(url).header("stripe-signature", signed).body(body.clone());
            Ok(request.send().await.context("the webhook does not answer")?.status())
        };
        let (taken, refused) = (send(whole).await?, send(part).await?);
        ensure!(taken == StatusCode::OK, "an event signed with the whole secret is answered {taken}");
        let refusals = [StatusCode::BAD_REQUEST, StatusCode::TOO_MANY_REQUESTS];
        ensure!(refusals.contains(&refused), "an event signed without `whsec_` is answered {refused}");
        Ok(format!("signed with the whole secret: {taken}; with a part of it: {refused}"))
    }

    async fn node(&self) -> anyhow::Result<String> {
        let secrets = self.secrets()?;
        let url = self.url(Port::Api, &format!("/api/admin/gpu/{NODE_ID}"));
        let request = self.http.get(&url).bearer_auth(secrets.get("FLEET_API_TOKEN_ADMIN")?);
        let response = request.send().await.with_context(|| format!("{url} does not answer"))?;
        let status = response.status();
        ensure!(status == StatusCode::OK, "{url} answers {status}; `cargo wopr seed` enrols the machine");
        let body: Value = response.json().await.with_context(|| format!("{url} answers no JSON"))?;
        node_is_well(&body["node"])
    }

    async fn disk(&self, machine: Machine, wanted_mib: u64) -> anyhow::Result<String> {
        let (free, all) = disk::room(&self.engine, machine.container()).await?;
        let wanted = wanted_mib.saturating_mul(1024 * 1024);
        let seen = format!("{} of {} are free", shown(free), shown(all));
        ensure!(free >= wanted, "{seen}, and {} are wanted", shown(wanted));
        Ok(seen)
    }

    async fn memory(&self, planned: &Planned, running: &Planned) -> anyhow::Result<String> {
        let limits = |of: &Planned| -> i64 {
            let stacks = [Where::Vps, Where::Gpu].map(|place| of.at(place));
            stacks.iter().flat_map(|stack| &stack.services).map(|service| service.memory_bytes).sum()
        };
        let wanted = limits(planned).max(limits(running));
        let has = self.engine.info().await?.mem_total.context("the engine does not tell how much memory there is")?;
        let shown = |bytes: i64| format!("{} MiB", bytes / (1024 * 1024));
        ensure!(wanted <= has, "all services may use {}, and there are {}", shown(wanted), shown(has));
        Ok(format!("all services may use {} of {}", shown(wanted), shown(has)))
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}

/// Makes a planned service what its container is.
fn as_it_runs(service: &mut Service, found: ContainerInspectResponse) {
    let config = found.config.unwrap_or_default();
    let split = |line: &String| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    service.image = config.image.unwrap_or_default();
    service.command = config.cmd.unwrap_or_default();
    service.env = config.env.iter().flatten().filter_map(split).collect();
    service.memory_bytes = found.host_config.and_then(|host| host.memory).unwrap_or_default();
}

/// Active, all services well, and under a name that follows the machine when its address changes.
fn node_is_well(node: &Value) -> anyhow::Result<String> {
    let services = node["serviceHealth"].as_object().cloned().unwrap_or_default();
    ensure!(node["status"] == "active", "{NODE_ID} is {}", node["status"]);
    let unwell: Vec<&str> =
        services.iter().filter(|(_, state)| *state != "ok").map(|(name, _)| name.as_str()).collect();
    ensure!(!services.is_empty() && unwell.is_empty(), "not well on {NODE_ID}: {}", unwell.join(", "));
    let name = format!("{GPU}.{NETWORK}");
    let host = node["host"].as_str().unwrap_or(&name);
    ensure!(host == name, "{NODE_ID} is enrolled as {host}, not {name}");
    Ok(format!("{NODE_ID} is active; {} services are well", services.len()))
}

/// The image that an engine has under a name.
pub(super) async fn image_id(engine: &Docker, name: &str) -> anyhow::Result<Option<String>> {
    match engine.inspect_image(name).await {
        Ok(found) => Ok(found.id),
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("the engine does not tell about {name}")),
    }
}

async fn inspect(engine: &Docker, name: &str) -> anyhow::Result<Option<ContainerInspectResponse>> {
    match engine.inspect_container(name, None::<InspectContainerOptions>).await {
        Ok(found) => Ok(Some(found)),
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("the engine does not tell about {name}")),
    }
}

/// What is not as it is expected.
fn wrong(service: &Service, expect: &ContainersExpect, found: &ContainerInspectResponse, root: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    let state = found.state.clone().unwrap_or_default();
    if expect.running {
        let runs = state.running == Some(true) && state.paused != Some(true);
        let health = state.health.and_then(|health| health.status);
        match service.is_work() {
            true if state.exit_code != Some(0) || runs => wrong.push("has not ended with 0".to_owned()),
            false if !runs => wrong.push("does not run".to_owned()),
            false if health == Some(HealthStatusEnum::UNHEALTHY) => wrong.push("is not well".to_owned()),
            _ => {}
        }
    }
    let host = found.host_config.clone().unwrap_or_default();
    let restart = host.restart_policy.and_then(|policy| policy.name);
    if expect.restarts && !service.is_work() && restart != Some(RestartPolicyNameEnum::UNLESS_STOPPED) {
        wrong.push("would not come back by itself".to_owned());
    }
    if expect.unprivileged && host.privileged == Some(true) {
        wrong.push("is privileged".to_owned());
    }
    let env = found.config.iter().flat_map(|config| config.env.iter().flatten());
    let names: Vec<&str> = env.filter_map(|line| line.split_once('=').map(|(name, _)| name)).collect();
    wrong.extend(
        expect.env_absent.iter().filter(|name| names.contains(&name.as_str())).map(|name| format!("has {name}")),
    );
    if expect.binds_exist {
        let binds = found.mounts.iter().flatten().filter(|mount| mount.typ.as_deref() == Some(BIND));
        wrong.extend(binds.filter_map(|mount: &MountPoint| {
            let source = mount.source.as_deref().unwrap_or_default();
            (!there(root, source)).then(|| format!("mounts {source}, which is not there"))
        }));
    }
    wrong
}

/// Whether a path exists below a root. A machine's own links lead elsewhere when they are followed from outside.
fn there(root: &Path, path: &str) -> bool {
    let mut path = path.trim_start_matches('/').to_owned();
    if root != Path::new("/") {
        for (link, target) in recipes::MACHINE.links {
            if let Some(rest) = path.strip_prefix(link) {
                path = format!("{}{rest}", target.trim_start_matches('/'));
            }
        }
    }
    fs::symlink_metadata(root.join(path)).is_ok()
}

fn mode(path: &Path, wanted: u32) -> anyhow::Result<()> {
    let metadata = fs::symlink_metadata(path).with_context(|| format!("{} is not there", path.display()))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode != wanted {
        bail!("{} has mode {mode:o}, not {wanted:o}", path.display());
    }
    Ok(())
}

/// Whether a restart of the machine may empty the directory.
fn is_temporary(path: &Path) -> bool {
    ["/tmp", "/var/tmp", "/run", "/dev/shm"].iter().any(|directory| path.starts_with(directory))
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerConfig, ContainerState, HostConfig, RestartPolicy};

    use super::*;

    #[test]
    fn a_node_is_well_when_all_of_it_is() {
        let node = |status: &str, speech: &str, host: &str| json!({ "status": status, "host": host, "serviceHealth": { "llama": "ok", "speech": speech } });
        assert!(node_is_well(&node("active", "ok", "wopr-gpu.wopr-dev")).is_ok());
        assert!(node_is_well(&node("active", "down", "wopr-gpu.wopr-dev")).unwrap_err().to_string().contains("speech"));
        assert!(node_is_well(&node("provisioning", "ok", "wopr-gpu.wopr-dev")).is_err());
        assert!(node_is_well(&node("active", "ok", "172.18.0.3")).is_err());
        assert!(node_is_well(&json!({ "status": "active", "serviceHealth": {} })).is_err());
    }

    #[test]
    fn everything_that_is_wrong_with_a_container_is_said() {
        let planned = Planned::anywhere(Ports::default()).unwrap();
        let machine = &planned.at(Where::Here).services[0];
        let expect = ContainersExpect {
            running: true,
            restarts: true,
            as_planned: false,
            binds_exist: true,
            unprivileged: true,
            env_absent: vec!["DOCKER_HOST".to_owned()],
        };
        let bad = ContainerInspectResponse {
            state: Some(ContainerState { running: Some(false), ..Default::default() }),
            host_config: Some(HostConfig { privileged: Some(true), ..Default::default() }),
            config: Some(ContainerConfig { env: Some(vec!["DOCKER_HOST=tcp://x".to_owned()]), ..Default::default() }),
            mounts: Some(vec![MountPoint {
                typ: Some(BIND.to_owned()),
                source: Some("/not/there".to_owned()),
                ..Default::default()
            }]),
            ..Default::default()
        };
        assert_eq!(wrong(machine, &expect, &bad, Path::new("/")).len(), 5);
        let policy = RestartPolicy { name: Some(RestartPolicyNameEnum::UNLESS_STOPPED), ..Default::default() };
        let good = ContainerInspectResponse {
            state: Some(ContainerState { running: Some(true), ..Default::default() }),
            host_config: Some(HostConfig { restart_policy: Some(policy), ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(wrong(machine, &expect, &good, Path::new("/")), Vec::<String>::new());
        let migration = planned.at(Where::Vps).services.iter().find(|service| service.is_work()).unwrap();
        assert_eq!(wrong(migration, &expect, &good, Path::new("/")), ["has not ended with 0"]);
    }

    #[test]
    fn a_service_is_shown_as_its_container_was_made() {
        let planned = Planned::anywhere(Ports::default()).unwrap();
        let mut service = planned.at(Where::Gpu).services[0].clone();
        let config = ContainerConfig {
            image: Some("other:content".to_owned()),
            cmd: Some(vec!["--port".to_owned(), "1".to_owned()]),
            env: Some(vec!["A=b=c".to_owned()]),
            ..Default::default()
        };
        let host_config = Some(HostConfig { memory: Some(7), ..Default::default() });
        as_it_runs(&mut service, ContainerInspectResponse { config: Some(config), host_config, ..Default::default() });
        assert_eq!((service.image.as_str(), service.memory_bytes), ("other:content", 7));
        assert_eq!(service.command, ["--port", "1"]);
        assert_eq!(service.env, [("A".to_owned(), "b=c".to_owned())].into());
    }

    #[test]
    fn a_path_is_looked_for_inside_the_machine() {
        let root = std::env::temp_dir().join(format!("wopr-runbook-{}", std::process::id()));
        fs::create_dir_all(root.join("run")).unwrap();
        fs::write(root.join("run/docker.sock"), "").unwrap();
        assert!(there(&root, "/var/run/docker.sock"));
        assert!(!there(&root, "/proc/self"));
        assert!(there(Path::new("/"), "/proc/self"));
        fs::remove_dir_all(root).unwrap();
    }
}
