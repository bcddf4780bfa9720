//! The engines there are: this machine's, and those of the machines that run on it.

use std::{net::Ipv4Addr, path::Path};

use anyhow::Context;
use bollard::{Docker, query_parameters::InspectContainerOptions};

use super::observe::{all_of_ours, container, name_of};
use crate::{
    engine,
    failure::{Exit, Failure},
    paths::Paths,
    plan::{
        machines::{self, MACHINES, NETWORK, Position},
        spec::State,
    },
};

/// An engine.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// The machine's name; `None` for this machine itself.
    pub(crate) machine: Option<&'static str>,
    /// Its engine.
    pub(crate) engine: Docker,
}

/// This machine's engine, and those of all machines that run and answer.
pub(crate) async fn sites(paths: &Paths, engine: Docker) -> anyhow::Result<Vec<Site>> {
    let mut sites = vec![Site { machine: None, engine: engine.clone() }];
    for name in MACHINES {
        if container(&engine, name).await?.is_some_and(|machine| machine.state == State::Running)
            && let Ok(inner) = engine::at(&machines::socket(&paths.machines(), name)).await
        {
            sites.push(Site { machine: Some(name), engine: inner });
        }
    }
    Ok(sites)
}

/// Finds a container of ours by its name, or by the name without what all of them begin with.
///
/// # Errors
/// If no container, or more than one, is called so.
pub(crate) async fn find(paths: &Paths, engine: Docker, wanted: &str) -> anyhow::Result<(Site, String)> {
    let mut all = Vec::new();
    for site in sites(paths, engine).await? {
        all.extend(all_of_ours(&site.engine).await?.iter().map(|summary| (site.clone(), name_of(summary))));
    }
    let names: Vec<String> = all.iter().map(|(_, name)| name.clone()).collect();
    match meant(&names, wanted).as_slice() {
        [name] => all.iter().find(|(_, candidate)| candidate == *name).cloned().context("the container has gone"),
        [] => Err(Failure::new(Exit::Failed, format!("there is no container {wanted} of ours"))
            .why(if names.is_empty() { "there are none".to_owned() } else { format!("there are {}", names.join(", ")) })
            .into()),
        several => Err(Failure::new(Exit::Failed, format!("{wanted} may be one of several containers"))
            .why(format!("there are {}", several.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")))
            .into()),
    }
}

/// The containers that somebody may mean: the one of exactly that name, else those it is the end of.
fn meant<'n>(names: &'n [String], wanted: &str) -> Vec<&'n String> {
    let exact: Vec<&String> = names.iter().filter(|name| *name == wanted).collect();
    if !exact.is_empty() {
        return exact;
    }
    let end = format!("-{wanted}");
    names.iter().filter(|name| name.ends_with(&end)).collect()
}

/// Connects to the engine of a machine that runs.
pub(crate) async fn inside(paths: &Paths, machine: &str) -> anyhow::Result<Docker> {
    let socket = machines::socket(&paths.machines(), machine);
    engine::at(&socket).await.with_context(|| format!("the engine of {machine} does not answer"))
}

/// Where a running machine is on the bridge.
pub(crate) async fn position(engine: &Docker, machine: &str) -> anyhow::Result<Position> {
    let found = engine.inspect_container(machine, None::<InspectContainerOptions>).await;
    let found = found.with_context(|| format!("the engine does not tell about {machine}"))?;
    let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    let on_bridge = networks.get(NETWORK).with_context(|| format!("{machine} is not on {NETWORK}"))?;
    let parsed = |text: &Option<String>| text.as_deref().unwrap_or_default().parse::<Ipv4Addr>();
    let address = parsed(&on_bridge.ip_address).with_context(|| format!("{machine} has no address on {NETWORK}"))?;
    let gateway = parsed(&on_bridge.gateway).with_context(|| format!("{NETWORK} has no gateway"))?;
    Ok(Position { address, gateway })
}

/// The group that may use a socket of this machine.
pub(crate) fn group_of(socket: &Path) -> anyhow::Result<u32> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(socket);
    Ok(metadata.with_context(|| format!("{} cannot be handed to the API", socket.display()))?.gid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_found_by_the_end_of_its_name() {
        let names = ["wopr-vps", "wopr-gpu", "wopr-vps-platform-api", "wopr-vps-mail", "wopr-mail"].map(str::to_owned);
        let cases: [(&str, &[&str]); 6] = [
            ("wopr-vps", &["wopr-vps"]),
            ("vps", &["wopr-vps"]),
            ("api", &["wopr-vps-platform-api"]),
            ("platform-api", &["wopr-vps-platform-api"]),
            ("mail", &["wopr-vps-mail", "wopr-mail"]),
            ("absent", &[]),
        ];
        for (wanted, expected) in cases {
            assert_eq!(meant(&names, wanted), expected.iter().collect::<Vec<_>>(), "{wanted}");
        }
    }
}
