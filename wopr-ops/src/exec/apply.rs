//! Carrying a plan out.

use std::collections::{BTreeSet, HashMap};

use anyhow::Context;
use bollard::{
    Docker,
    models::{
        ContainerCreateBody, DeviceMapping, EndpointIpamConfig, EndpointSettings, HostConfig,
        HostConfigCgroupnsModeEnum, Ipam, IpamConfig, Mount as EngineMount, MountType, NetworkCreateRequest,
        NetworkingConfig, PortBinding, RestartPolicy, RestartPolicyNameEnum, VolumeCreateRequest,
    },
    query_parameters::{
        CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions, StopContainerOptions,
    },
};
use futures_util::future::{join_all, try_join_all};
use tokio::sync::watch;

use super::{disk, ready, transfer::Arrivals};
use crate::{
    plan::{
        production::{CARD, RUNTIME},
        spec::{CONFIG_LABEL, MANAGED_LABEL, Mount, STACK_LABEL, Service, Stack},
        steps::{Plan, Step},
    },
    ui::Ui,
};

/// Carries the plan out: resources first, then each service as soon as those it needs are ready.
pub(crate) async fn apply(
    ui: &Ui,
    engine: &Docker,
    http: &reqwest::Client,
    stack: &Stack,
    plan: &Plan,
) -> anyhow::Result<()> {
    apply_as_images_come(ui, engine, http, stack, plan, None).await
}

/// The same while images are loaded: a container is created when its image is there.
pub(crate) async fn apply_as_images_come(
    ui: &Ui,
    engine: &Docker,
    http: &reqwest::Client,
    stack: &Stack,
    plan: &Plan,
    arrivals: Option<&Arrivals>,
) -> anyhow::Result<()> {
    let steps_of = async |steps: &Vec<Step>| service_steps(ui, engine, http, stack, steps).await;
    for step in &plan.resources {
        resource(ui, engine, stack, step).await?;
        ui.note(step);
    }
    if plan.is_unchanged() {
        // Nobody has to wait for what another becomes.
        let (shown, asked): (Vec<_>, Vec<_>) = plan.levels.iter().flatten().partition(|steps| is_shown(stack, steps));
        try_join_all(asked.into_iter().map(steps_of)).await?;
        for step in shown.into_iter().flatten() {
            if let Step::Keep { service } = step {
                ui.note(format!("{service}: unchanged"));
            }
        }
        return Ok(());
    }
    let (progress, _) = watch::channel(Progress::default());
    let planned: BTreeSet<&str> = plan.steps().filter_map(Step::service).collect();
    // What has begun is ended, whatever becomes of the others: nothing stays removed that was to be made anew.
    let results = join_all(plan.levels.iter().flatten().map(async |steps| {
        let Some(name) = steps.iter().find_map(Step::service) else { return Ok(()) };
        // Whatever fails in here is told to those who wait for it.
        let done = async {
            let service = service_named(stack, name)?;
            let needed: Vec<&str> = service.after.iter().copied().filter(|name| planned.contains(name)).collect();
            let may_go_on = |now: &Progress| now.failed || needed.iter().all(|name| now.ready.contains(name));
            // Its other end is here: it is not closed while somebody waits.
            progress.subscribe().wait_for(may_go_on).await?;
            let touched = steps.iter().any(|step| matches!(step, Step::Create { .. } | Step::Start { .. }));
            if let (Some(arrivals), true) = (arrivals, touched) {
                // Before anything is removed: what runs goes on until it can be replaced.
                arrivals.wait_for(service).await?;
            }
            if progress.borrow().failed {
                return Ok(false);
            }
            steps_of(steps).await.map(|()| true)
        };
        let done = done.await;
        progress.send_modify(|now| match done {
            Ok(true) => {
                now.ready.insert(name);
            }
            Ok(false) => {}
            Err(_) => now.failed = true,
        });
        done.map(drop)
    }))
    .await;
    results.into_iter().collect()
}

/// How far a plan is.
#[derive(Debug, Default)]
struct Progress {
    /// Services that are ready.
    ready: BTreeSet<&'static str>,
    /// Nothing more is begun.
    failed: bool,
}

fn service_named<'s>(stack: &'s Stack, name: &str) -> anyhow::Result<&'s Service> {
    stack.services.iter().find(|service| service.name == name).with_context(|| format!("{name} is no service"))
}

/// Whether the service is kept, and another one of the stack shows that it is ready.
fn is_shown(stack: &Stack, steps: &[Step]) -> bool {
    let [Step::Keep { service: name }] = steps else { return false };
    let shown_by = stack.services.iter().find(|service| service.name == *name).and_then(|service| service.shown_by);
    shown_by.is_some_and(|other| stack.services.iter().any(|service| service.name == other))
}

fn labels(stack: &Stack) -> HashMap<String, String> {
    [(STACK_LABEL, stack.name), (MANAGED_LABEL, "true")].map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

async fn resource(ui: &Ui, engine: &Docker, stack: &Stack, step: &Step) -> anyhow::Result<()> {
    match step {
        Step::CreateNetwork(name) => {
            let subnet = stack.network.subnet.map(|subnet| IpamConfig {
                subnet: Some(subnet.whole.to_owned()),
                ip_range: Some(subnet.given.to_owned()),
                ..Default::default()
            });
            let request = NetworkCreateRequest {
                name: name.clone(),
                driver: Some("bridge".to_owned()),
                ipam: subnet.map(|config| Ipam { config: Some(vec![config]), ..Default::default() }),
                labels: Some(labels(stack)),
                ..Default::default()
            };
            engine.create_network(request).await.with_context(|| format!("network {name} could not be created"))?;
        }
        Step::CreateVolume(name) => {
            let request =
                VolumeCreateRequest { name: Some(name.clone()), labels: Some(labels(stack)), ..Default::default() };
            engine.create_volume(request).await.with_context(|| format!("volume {name} could not be created"))?;
        }
        Step::CreateDisk { file, bytes, .. } => disk::make(ui, file, *bytes).await?,
        other => anyhow::bail!("`{other}` is no step for a resource"),
    }
    Ok(())
}

async fn service_steps(
    ui: &Ui,
    engine: &Docker,
    http: &reqwest::Client,
    stack: &Stack,
    steps: &[Step],
) -> anyhow::Result<()> {
    let service = |name: &str| service_named(stack, name);
    let mut task = None;
    for step in steps {
        let result = match step {
            Step::Keep { service: name } => {
                let service = service(name)?;
                if !service.is_work() {
                    ready::wait(engine, http, stack, service).await?;
                }
                ui.note(format!("{name}: unchanged"));
                Ok(())
            }
            Step::Remove { service, why } => {
                task.get_or_insert_with(|| ui.start(format!("{service} ({why})")));
                remove_container(engine, service, true).await
            }
            Step::Create { service: name, why } => {
                task.get_or_insert_with(|| ui.start(format!("{name} ({why})")));
                create_container(engine, stack, service(name)?).await
            }
            Step::Start { service, why } => {
                task.get_or_insert_with(|| ui.start(format!("{service} ({why})")));
                let started = engine.start_container(service, None::<StartContainerOptions>).await;
                started.with_context(|| format!("{service} could not be started"))
            }
            Step::Await { service: name } => ready::wait(engine, http, stack, service(name)?).await,
            Step::CreateNetwork(_) | Step::CreateVolume(_) | Step::CreateDisk { .. } => {
                resource(ui, engine, stack, step).await
            }
        };
        if result.is_err() {
            if let Some(task) = task {
                task.failed();
            }
            return result;
        }
    }
    if let Some(task) = task {
        task.done("ready");
    }
    Ok(())
}

/// Stops a container, if it is there and runs.
pub(crate) async fn stop_container(engine: &Docker, name: &str) -> anyhow::Result<()> {
    // How long it gets to end by itself was settled when it was created.
    match engine.stop_container(name, None::<StopContainerOptions>).await {
        // 304: it has already stopped.
        Ok(()) | Err(bollard::errors::Error::DockerResponseServerError { status_code: 304 | 404, .. }) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("{name} could not be stopped")),
    }
}

/// Removes a container with its anonymous volumes, kindly by stopping it first; one that has gone is fine.
pub(crate) async fn remove_container(engine: &Docker, name: &str, kindly: bool) -> anyhow::Result<()> {
    if kindly {
        stop_container(engine, name).await?;
    }
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    match engine.remove_container(name, Some(options)).await {
        // 409: its removal is already under way.
        Ok(()) | Err(bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("{name} could not be removed")),
    }
}

async fn create_container(engine: &Docker, stack: &Stack, service: &Service) -> anyhow::Result<()> {
    let options = CreateContainerOptionsBuilder::default().name(service.name).build();
    let created = engine.create_container(Some(options), body(stack, service)?).await;
    created.with_context(|| format!("{} could not be created", service.name))?;
    Ok(())
}

/// The service in the engine's words. None of ours gets a capability, a writable root or a
/// way to gain privileges, but machines.
fn body(stack: &Stack, service: &Service) -> anyhow::Result<ContainerCreateBody> {
    let mut labels = labels(stack);
    labels.insert(CONFIG_LABEL.to_owned(), serde_json::to_string(&service.aspects())?);
    let bindings = service.ports.iter().map(|(host, inside)| {
        let binding = PortBinding { host_ip: Some(stack.publish.to_string()), host_port: Some(host.to_string()) };
        (format!("{inside}/tcp"), Some(vec![binding]))
    });
    let restart = if service.is_work() { RestartPolicyNameEnum::NO } else { RestartPolicyNameEnum::UNLESS_STOPPED };
    let mut host_config = HostConfig {
        port_bindings: Some(bindings.collect()),
        mounts: Some(service.mounts.iter().filter_map(mount).collect()),
        tmpfs: Some(service.mounts.iter().filter_map(tmpfs).collect()),
        network_mode: Some(stack.network.name.to_owned()),
        restart_policy: Some(RestartPolicy { name: Some(restart), maximum_retry_count: None }),
        memory: Some(service.memory_bytes),
        memory_swap: Some(service.memory_bytes),
        pids_limit: Some(512),
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        group_add: Some(service.groups.clone()),
        init: Some(false),
        ..Default::default()
    };
    if service.pulled {
        // As whoever made it meant it to be run: as root, with files of its own.
        host_config = HostConfig { pids_limit: None, readonly_rootfs: None, cap_drop: None, ..host_config };
    }
    match (service.card, &service.machine) {
        (true, Some(_)) => host_config.runtime = Some(RUNTIME.to_owned()),
        // All device nodes in that directory.
        (true, None) => host_config.devices = Some(vec![card()]),
        (false, _) => {}
    }
    if let Some(machine) = &service.machine {
        let confinement = ["seccomp=unconfined", "apparmor=unconfined"];
        host_config = HostConfig {
            memory: None,
            memory_swap: None,
            pids_limit: None,
            readonly_rootfs: Some(false),
            cap_add: Some(machine.capabilities.clone()),
            security_opt: Some(confinement.map(str::to_owned).to_vec()),
            // An engine mounts /proc for others, which the kernel allows only where nothing of it is hidden.
            masked_paths: Some(Vec::new()),
            readonly_paths: Some(Vec::new()),
            device_cgroup_rules: Some(vec!["a *:* rwm".to_owned()]),
            cgroupns_mode: Some(HostConfigCgroupnsModeEnum::HOST),
            ..host_config
        };
    }
    let ipam = service
        .address
        .map(|address| EndpointIpamConfig { ipv4_address: Some(address.to_string()), ..Default::default() });
    let endpoint = EndpointSettings {
        ipam_config: ipam,
        aliases: Some([service.name].iter().chain(&service.aliases).map(|name| (*name).to_owned()).collect()),
        ..Default::default()
    };
    Ok(ContainerCreateBody {
        image: Some(service.image.clone()),
        cmd: (!service.command.is_empty()).then(|| service.command.clone()),
        env: Some(service.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        user: (!service.user.is_empty()).then(|| service.user.clone()),
        exposed_ports: Some(service.ports.iter().map(|(_, inside)| format!("{inside}/tcp")).collect()),
        labels: Some(labels),
        stop_timeout: Some(service.stop_seconds.into()),
        host_config: Some(host_config),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some(HashMap::from([(stack.network.name.to_owned(), endpoint)])),
        }),
        ..Default::default()
    })
}

/// The card as the machine has laid it out.
fn card() -> DeviceMapping {
    DeviceMapping {
        path_on_host: Some(format!("{CARD}/dev")),
        path_in_container: Some("/dev".to_owned()),
        cgroup_permissions: Some("rwm".to_owned()),
    }
}

fn mount(mount: &Mount) -> Option<EngineMount> {
    match mount {
        Mount::Volume { name, target } => Some(EngineMount {
            typ: Some(MountType::VOLUME),
            source: Some((*name).to_owned()),
            target: Some((*target).to_owned()),
            ..Default::default()
        }),
        Mount::Bind { source, target, read_only } => Some(EngineMount {
            typ: Some(MountType::BIND),
            source: Some(source.clone()),
            target: Some(target.clone()),
            read_only: Some(*read_only),
            ..Default::default()
        }),
        Mount::Tmpfs { .. } => None,
    }
}

fn tmpfs(mount: &Mount) -> Option<(String, String)> {
    match mount {
        Mount::Tmpfs { target, options } => Some(((*target).to_owned(), (*options).to_owned())),
        Mount::Volume { .. } | Mount::Bind { .. } => None,
    }
}
