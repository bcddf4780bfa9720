//! Making containers: the only place that says how they are hardened.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptions, DownloadFromContainerOptions, InspectContainerOptions, UploadToContainerOptions,
};
use futures_util::StreamExt as _;
use secrecy::{ExposeSecret as _, SecretString};

use super::{DockerHost, failed, optional};
use crate::fleet::container::{
    BOT_PORT, ContainerSpec, DATA_PATH, HOST_GATEWAY, KEY_FILE, RUN_PATH, SPEC_LABEL, container_name, data_volume_name,
    network_name, run_volume_name,
};
use crate::fleet::tiers::Limits;
use crate::fleet::{HostError, RestartPolicy as Policy};
use crate::ids::BotId;

const SECOND_NANOS: i64 = 1_000_000_000;
/// How often a bot's health is looked at, unless its image wants it more often.
const INTERVAL_NANOS: i64 = 5 * SECOND_NANOS;
/// The period Docker counts CPU quotas in, in microseconds.
const CPU_PERIOD_MICROS: i64 = 100_000;
/// How large one log file grows, and how many there are: a bot that writes a lot must not fill its machine.
const LOG_FILE_SIZE: &str = "10m";
const LOG_FILES: &str = "3";

pub(super) async fn create(host: &DockerHost, spec: &ContainerSpec) -> Result<String, HostError> {
    let name = container_name(spec.bot_id);
    let existing = host.docker.inspect_container(&name, None::<InspectContainerOptions>).await;
    if let Some(existing) = optional(existing)? {
        let hash = existing.config.and_then(|config| config.labels).and_then(|labels| labels.get(SPEC_LABEL).cloned());
        return match existing.id {
            Some(id) if hash.as_ref() == Some(&spec.hash()) => Ok(id),
            _ => Err(HostError::Refused(format!("a container named {name} exists and is not the one wanted"))),
        };
    }
    let image = host.docker.inspect_image(spec.image.as_str()).await.map_err(failed)?;
    let own_check = image.config.and_then(|config| config.healthcheck);
    let own_check = own_check.filter(|check| check.test.as_ref().is_some_and(|test| !test.is_empty()));
    let body = describe(spec, host.labelled(spec.labels()), own_check.as_ref());
    let options = CreateContainerOptions { name: Some(name), ..CreateContainerOptions::default() };
    Ok(host.docker.create_container(Some(options), body).await.map_err(failed)?.id)
}

/// Everything but the name. Capabilities, privileges, file systems and limits are the same whatever a bot asks for.
fn describe(
    spec: &ContainerSpec,
    labels: HashMap<String, String>,
    own_check: Option<&HealthConfig>,
) -> ContainerCreateBody {
    let limits = Limits::of(spec.tier);
    let tmpfs = || "rw,noexec,nosuid,nodev,size=64m".to_owned();
    let host_config = HostConfig {
        memory: Some(limits.memory_bytes()),
        // As much as memory: no swap on top.
        memory_swap: Some(limits.memory_bytes()),
        cpu_period: Some(CPU_PERIOD_MICROS),
        cpu_quota: Some(limits.cpu_quota_micros()),
        pids_limit: Some(limits.pids),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(vec!["NET_BIND_SERVICE".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        privileged: Some(false),
        readonly_rootfs: Some(true),
        init: Some(true),
        tmpfs: Some(HashMap::from([("/tmp".to_owned(), tmpfs()), ("/var/tmp".to_owned(), tmpfs())])),
        network_mode: Some(network_name(spec.tenant_id)),
        extra_hosts: spec.reaches_host.then(|| vec![format!("{HOST_GATEWAY}:host-gateway")]),
        mounts: Some(vec![
            volume(data_volume_name(spec.bot_id, spec.volume), DATA_PATH),
            volume(run_volume_name(spec.bot_id), RUN_PATH),
        ]),
        restart_policy: Some(restart_policy(spec.restart_policy)),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), LOG_FILE_SIZE.to_owned()),
                ("max-file".to_owned(), LOG_FILES.to_owned()),
            ])),
        }),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        image: Some(spec.image.to_string()),
        hostname: Some(spec.host_name.clone()),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        labels: Some(labels),
        healthcheck: Some(health_check(own_check)),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    }
}

fn volume(name: String, path: &str) -> Mount {
    Mount { typ: Some(MountType::VOLUME), source: Some(name), target: Some(path.to_owned()), ..Mount::default() }
}

/// `always` is run as `unless-stopped`: the engine's own restart must not start a bot that was stopped for a reason.
fn restart_policy(policy: Policy) -> RestartPolicy {
    let name = match policy {
        Policy::No => RestartPolicyNameEnum::NO,
        Policy::Always | Policy::UnlessStopped => RestartPolicyNameEnum::UNLESS_STOPPED,
        Policy::OnFailure => RestartPolicyNameEnum::ON_FAILURE,
    };
    RestartPolicy { name: Some(name), maximum_retry_count: None }
}

/// The image's own check where it has one, only asked at least every five seconds; otherwise a request to the bot's port, by whichever
/// of `node`, `curl` and `wget` the image has. An image with none of them is not well, and has to bring a check.
fn health_check(own: Option<&HealthConfig>) -> HealthConfig {
    let has_own = own.is_some();
    let own_interval = own.and_then(|check| check.interval).filter(|interval| *interval >= SECOND_NANOS);
    let url = format!("http://127.0.0.1:{BOT_PORT}/health");
    let probe = format!(
        "if command -v node >/dev/null 2>&1; then \
           node -e 'fetch(\"{url}\").then(r=>process.exit(r.ok?0:1),()=>process.exit(1))'; \
         elif command -v curl >/dev/null 2>&1; then curl -fsS -o /dev/null {url}; \
         else wget -q -O /dev/null {url}; fi"
    );
    HealthConfig {
        test: (!has_own).then(|| vec!["CMD-SHELL".to_owned(), probe]),
        // Engines before version 25 know no pace of their own for the start: they look for the first time after this
        // long, and that is how long a bot takes to be known as well. Each look is a process more in the bot.
        interval: Some(own_interval.map_or(INTERVAL_NANOS, |interval| interval.min(INTERVAL_NANOS))),
        timeout: (!has_own).then_some(10 * SECOND_NANOS),
        retries: (!has_own).then_some(3),
        start_period: (!has_own).then_some(15 * SECOND_NANOS),
        start_interval: None,
    }
}

/// Puts the key into the container's second volume, for its user's eyes only.
pub(super) async fn install_key(host: &DockerHost, bot: BotId, key: &SecretString) -> Result<(), HostError> {
    let name = container_name(bot);
    let inspected = host.docker.inspect_container(&name, None::<InspectContainerOptions>).await.map_err(failed)?;
    let user = inspected.config.and_then(|config| config.user).unwrap_or_default();
    let (uid, gid) = user_ids(host, &name, &user).await?;
    let content = key.expose_secret().as_bytes();
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o400);
    header.set_uid(uid);
    header.set_gid(gid);
    let mut archive = tar::Builder::new(Vec::new());
    let packed = archive.append_data(&mut header, KEY_FILE, content).and_then(|()| archive.into_inner());
    let packed = packed.map_err(|error| HostError::Refused(format!("the key could not be packed: {error}")))?;
    let options = UploadToContainerOptions { path: RUN_PATH.to_owned(), ..UploadToContainerOptions::default() };
    let body = bollard::body_full(packed.into());
    host.docker.upload_to_container(&name, Some(options), body).await.map_err(failed)
}

/// The numbers of `user`, which an image gives as `name`, `name:group`, `uid` or `uid:gid`. Names are looked up in the
/// container's own files.
async fn user_ids(host: &DockerHost, container: &str, user: &str) -> Result<(u64, u64), HostError> {
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    if name.is_empty() {
        return Ok((0, 0));
    }
    if let Ok(uid) = name.parse() {
        return Ok((uid, group.parse().unwrap_or(0)));
    }
    let passwd = read_file(host, container, "/etc/passwd").await?;
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|parts| parts[0] == name);
    let number = |index: usize| entry.as_ref().and_then(|parts| parts.get(index)?.parse().ok());
    match (number(2), number(3)) {
        (Some(uid), Some(gid)) => Ok((uid, group.parse().unwrap_or(gid))),
        _ => Err(HostError::Refused(format!("the image's user {name} is not in its /etc/passwd"))),
    }
}

async fn read_file(host: &DockerHost, container: &str, path: &str) -> Result<String, HostError> {
    let options = DownloadFromContainerOptions { path: path.to_owned() };
    let mut stream = Box::pin(host.docker.download_from_container(container, Some(options)));
    let mut packed = Vec::new();
    while let Some(part) = stream.next().await {
        packed.extend_from_slice(&part.map_err(failed)?);
    }
    let mut text = String::new();
    let mut archive = tar::Archive::new(packed.as_slice());
    let read = archive.entries().and_then(|mut entries| match entries.next() {
        Some(entry) => std::io::Read::read_to_string(&mut entry?, &mut text).map(drop),
        None => Ok(()),
    });
    read.map_err(|error| HostError::Refused(format!("{path} of the image cannot be read: {error}")))?;
    Ok(text)
}
