//! `fault`: breaking a machine on purpose, and mending it.

use anyhow::Context;
use bollard::{
    Docker,
    models::{ContainerUpdateBody, EndpointSettings, NetworkConnectRequest, NetworkDisconnectRequest},
    query_parameters::{InspectContainerOptions, KillContainerOptionsBuilder, StartContainerOptions},
};

use crate::{
    cli::{FaultArgs, FaultKind},
    engine,
    exec::{
        disk, frozen,
        observe::container,
        sites::{inside, position},
    },
    failure::{Exit, Failure},
    paths::Paths,
    plan::{
        disk::shown,
        machines::{GPU, NETWORK, VPS},
        spec::State,
    },
    ui::Ui,
};

/// The share of one processor that a slowed machine is left with, in billionths.
const SLOW_NANO_CPUS: i64 = 50_000_000;

/// How long a machine that is mended may take to answer.
const LIMIT: std::time::Duration = std::time::Duration::from_mins(1);

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &FaultArgs) -> anyhow::Result<()> {
    let _lock = super::lock(paths)?;
    let engine = engine::require().await?;
    let machine = match args.machine.as_str() {
        "vps" => VPS,
        _ => GPU,
    };
    if container(&engine, machine).await?.is_none() {
        return Err(Failure::new(Exit::Failed, format!("there is no machine {machine}"))
            .fix("`cargo wopr up` makes both")
            .into());
    }
    let done = inflict(paths, &engine, args.kind, machine).await?;
    ui.note(format!("{machine}: {done}"));
    Ok(())
}

/// Does it to a machine; answers with what was done.
pub(crate) async fn inflict(paths: &Paths, engine: &Docker, kind: FaultKind, machine: &str) -> anyhow::Result<String> {
    match kind {
        FaultKind::Cut => cut(engine, machine).await,
        FaultKind::Kill => kill(engine, machine).await,
        FaultKind::Freeze => freeze(engine, machine).await,
        FaultKind::Slow => slow(engine, machine, SLOW_NANO_CPUS).await,
        FaultKind::Fill => fill(paths, engine, machine).await,
        FaultKind::Mend => mend(paths, engine, machine).await,
    }
}

/// Takes the machine off the bridge: whoever calls it waits until his own patience ends.
async fn cut(engine: &Docker, machine: &str) -> anyhow::Result<String> {
    if !connected(engine, machine).await? {
        return Ok(format!("it was off {NETWORK} already"));
    }
    let request = NetworkDisconnectRequest { container: machine.to_owned(), force: Some(true) };
    engine.disconnect_network(NETWORK, request).await.with_context(|| format!("{machine} could not be cut off"))?;
    Ok(format!("cut off from {NETWORK}; `fault mend` connects it again"))
}

/// Ends everything on the machine at once, as a power cut does.
pub(crate) async fn kill(engine: &Docker, machine: &str) -> anyhow::Result<String> {
    let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
    let killed = async { Ok(engine.kill_container(machine, Some(options)).await) };
    match frozen::ended(engine, machine, killed).await? {
        Ok(()) => Ok("killed; `start` or `fault mend` starts it again".to_owned()),
        // 409: it does not run.
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 409, .. }) => {
            Ok("it did not run".to_owned())
        }
        Err(error) => Err(error).with_context(|| format!("{machine} could not be killed")),
    }
}

/// Stops every process of the machine where it stands; connections stay open and nobody answers.
async fn freeze(engine: &Docker, machine: &str) -> anyhow::Result<String> {
    engine.pause_container(machine).await.with_context(|| format!("{machine} could not be frozen"))?;
    Ok("frozen; `fault mend` lets it go on".to_owned())
}

/// Limits the machine to a share of one processor; 0 takes the limit away.
async fn slow(engine: &Docker, machine: &str, nano_cpus: i64) -> anyhow::Result<String> {
    // The engine counts in periods of 100 ms; a quota of -1 is none.
    let quota = if nano_cpus == 0 { -1 } else { nano_cpus / 10_000 };
    let update = ContainerUpdateBody { cpu_period: Some(100_000), cpu_quota: Some(quota), ..Default::default() };
    engine.update_container(machine, update).await.with_context(|| format!("{machine} could not be slowed"))?;
    Ok(format!("limited to {} % of one processor; `fault mend` takes the limit away", nano_cpus / 10_000_000))
}

/// Leaves no room on the machine's own disk.
pub(crate) async fn fill(paths: &Paths, engine: &Docker, machine: &str) -> anyhow::Result<String> {
    let taken = disk::fill(engine, &paths.machines(), machine).await?;
    Ok(format!("the last {} of its disk are taken; `fault mend` gives them back", shown(taken)))
}

/// Undoes every fault.
pub(crate) async fn mend(paths: &Paths, engine: &Docker, machine: &str) -> anyhow::Result<String> {
    let mut done = Vec::new();
    frozen::end_killed(engine, machine).await?;
    let found = engine.inspect_container(machine, None::<InspectContainerOptions>).await;
    let found = found.with_context(|| format!("the engine does not tell about {machine}"))?;
    if found.state.as_ref().and_then(|state| state.paused) == Some(true) {
        engine.unpause_container(machine).await.with_context(|| format!("{machine} could not be woken"))?;
        done.push("woken".to_owned());
    }
    if found.host_config.as_ref().and_then(|config| config.cpu_quota).is_some_and(|quota| quota > 0) {
        slow(engine, machine, 0).await?;
        done.push("unlimited".to_owned());
    }
    if !connected(engine, machine).await? {
        let endpoint = EndpointSettings { aliases: Some(vec![machine.to_owned()]), ..Default::default() };
        let request = NetworkConnectRequest { container: machine.to_owned(), endpoint_config: Some(endpoint) };
        engine.connect_network(NETWORK, request).await.with_context(|| format!("{machine} could not be connected"))?;
        done.push(format!("connected to {NETWORK}"));
    }
    if container(engine, machine).await?.is_some_and(|machine| machine.state != State::Running) {
        let started = engine.start_container(machine, None::<StartContainerOptions>).await;
        started.with_context(|| format!("{machine} could not be started"))?;
        done.push("started".to_owned());
    }
    // An engine without room may not start, and its machine is started again and again.
    if disk::size_bytes(&paths.machines(), machine)?.is_some() {
        let released = super::wait_until(LIMIT, || async { Ok(disk::release(engine, machine).await.ok()) }).await?;
        if released.with_context(|| format!("{machine} does not run"))? {
            done.push("given its room back".to_owned());
        }
    }
    let address = position(engine, machine).await?.address;
    super::wait_until(LIMIT, || async { Ok(inside(paths, machine).await.ok()) })
        .await?
        .with_context(|| format!("the engine of {machine} at {address} does not answer"))?;
    Ok(if done.is_empty() { "nothing was broken".to_owned() } else { done.join(", ") })
}

async fn connected(engine: &Docker, machine: &str) -> anyhow::Result<bool> {
    let found = engine.inspect_container(machine, None::<InspectContainerOptions>).await;
    let found = found.with_context(|| format!("the engine does not tell about {machine}"))?;
    let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    Ok(networks.contains_key(NETWORK))
}
