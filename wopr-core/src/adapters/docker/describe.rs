//! A bot's container in the engine's words.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType,
    NetworkingConfig, RestartPolicy as EnginePolicy, RestartPolicyNameEnum,
};

use crate::fleet::RestartPolicy;
use crate::fleet::container::{
    BOT_PORT, ContainerSpec, DATA_PATH, RUN_PATH, data_volume_name, network_name, run_volume_name,
};
use crate::fleet::tiers::Limits;

/// The options of a scratch directory in memory.
const TMPFS: &str = "rw,noexec,nosuid,size=64m";
const SECOND_NANOS: i64 = 1_000_000_000;

/// Everything about one container. An image's own health check is kept; one without gets a probe of its HTTP port.
pub(super) fn container(spec: &ContainerSpec, image_has_check: bool) -> ContainerCreateBody {
    let network = network_name(spec.tenant_id);
    ContainerCreateBody {
        image: Some(spec.image.as_str().to_owned()),
        hostname: Some(spec.host_name.clone()),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        labels: Some(spec.labels().into_iter().collect()),
        healthcheck: (!image_has_check).then(probe),
        host_config: Some(host_config(spec, &network)),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some(HashMap::from([(network, EndpointSettings::default())])),
        }),
        ..ContainerCreateBody::default()
    }
}

/// Asks the bot itself, with what its image has: one of the usual tools, or the runtime that it is written for.
fn probe() -> HealthConfig {
    let url = format!("http://127.0.0.1:{BOT_PORT}/health");
    let script = format!(
        "wget -q -O /dev/null {url} || curl -fsS -o /dev/null {url} || \
         node -e \"fetch('{url}').then(r=>process.exit(r.ok?0:1),()=>process.exit(1))\""
    );
    HealthConfig {
        test: Some(vec!["CMD-SHELL".to_owned(), script]),
        interval: Some(5 * SECOND_NANOS),
        timeout: Some(5 * SECOND_NANOS),
        retries: Some(3),
        start_period: Some(60 * SECOND_NANOS),
        ..HealthConfig::default()
    }
}

fn host_config(spec: &ContainerSpec, network: &str) -> HostConfig {
    let limits = Limits::of(spec.tier);
    HostConfig {
        mounts: Some(vec![
            volume(&data_volume_name(spec.bot_id), DATA_PATH),
            volume(&run_volume_name(spec.bot_id), RUN_PATH),
        ]),
        network_mode: Some(network.to_owned()),
        restart_policy: Some(EnginePolicy { name: Some(policy(spec.restart_policy)), maximum_retry_count: None }),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(vec!["NET_BIND_SERVICE".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        readonly_rootfs: Some(true),
        tmpfs: Some(HashMap::from(["/tmp", "/var/tmp"].map(|path| (path.to_owned(), TMPFS.to_owned())))),
        memory: Some(limits.memory_bytes()),
        // The same as `memory`: no swap on top of it.
        memory_swap: Some(limits.memory_bytes()),
        cpu_quota: Some(limits.cpu_quota_micros()),
        cpu_period: Some(100_000),
        pids_limit: Some(limits.pids),
        init: Some(true),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), "10m".to_owned()),
                ("max-file".to_owned(), "3".to_owned()),
            ])),
        }),
        ..HostConfig::default()
    }
}

fn volume(name: &str, path: &str) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(name.to_owned()),
        target: Some(path.to_owned()),
        read_only: Some(false),
        ..Mount::default()
    }
}

fn policy(policy: RestartPolicy) -> RestartPolicyNameEnum {
    match policy {
        RestartPolicy::No => RestartPolicyNameEnum::NO,
        RestartPolicy::Always => RestartPolicyNameEnum::ALWAYS,
        RestartPolicy::OnFailure => RestartPolicyNameEnum::ON_FAILURE,
        RestartPolicy::UnlessStopped => RestartPolicyNameEnum::UNLESS_STOPPED,
    }
}

/// An archive with one file that only `user` (`uid[:gid]` of the image) can read.
///
/// A user that is a name cannot be looked up from outside: the file is then readable by whoever is in the container,
/// which is the bot alone.
pub(super) fn key_archive(name: &str, contents: &[u8], user: Option<&str>) -> std::io::Result<Vec<u8>> {
    let (uid, mode) = match user.unwrap_or_default().split(':').next().unwrap_or_default() {
        "" | "root" => (0, 0o400),
        user => user.parse::<u64>().map_or((0, 0o444), |uid| (uid, 0o400)),
    };
    let mut header = tar::Header::new_ustar();
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(uid);
    header.set_size(contents.len() as u64);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, name, contents)?;
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(user: Option<&str>) -> (u64, u32) {
        let bytes = key_archive("service-key", b"secret", user).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some("service-key"));
        (entry.header().uid().unwrap(), entry.header().mode().unwrap())
    }

    #[test]
    fn the_key_is_for_the_image_s_user_alone() {
        assert_eq!(entry(Some("1000:1000")), (1000, 0o400));
        assert_eq!(entry(Some("")), (0, 0o400));
        assert_eq!(entry(None), (0, 0o400));
        assert_eq!(entry(Some("node")), (0, 0o444));
    }
}
