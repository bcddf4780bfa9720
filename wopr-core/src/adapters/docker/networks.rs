//! Tenants' networks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use bollard::errors::Error;
use bollard::models::{
    ContainerSummary, Ipam, IpamConfig, Network, NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest,
};
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptions, ListNetworksOptions};

use super::{DockerHost, failed, unless_absent};
use crate::fleet::container::{network_labels, network_name};
use crate::fleet::{HostError, Subnet};
use crate::ids::TenantId;

/// How long a network may be on its way into the engine or out of it, before its addresses count as somebody else's.
const LONGEST_PASSAGE: Duration = Duration::from_secs(5);
const PACE: Duration = Duration::from_millis(50);

/// The ids of all networks with the name of the tenant's, the oldest first. The engine lets several have one name, and
/// then answers questions by name with an error.
pub(super) async fn list(host: &DockerHost, tenant: TenantId) -> Result<Vec<String>, HostError> {
    let name = network_name(tenant);
    // The engine's filter takes parts of names, too.
    let filters = Some(HashMap::from([("name".to_owned(), vec![name.clone()])]));
    let networks = host.docker.list_networks(Some(ListNetworksOptions { filters })).await.map_err(failed)?;
    let named = networks.into_iter().filter(|network| network.name.as_ref() == Some(&name));
    // Dates are text or dates, by the client's features; both have an order.
    let mut ages: Vec<_> = named.filter_map(|network| Some((network.created, network.id?))).collect();
    ages.sort();
    Ok(ages.into_iter().map(|(_, id)| id).collect())
}

/// Makes the tenant's network, whoever else is about to.
///
/// The engine reserves a network's addresses first and lists the network last. So addresses that are taken, and by no
/// network that is listed, are those of one that is being made or removed at this moment: which of the two is waited for.
/// An engine that was killed may keep addresses of nothing at all; after [`LONGEST_PASSAGE`] they are given up.
pub(super) async fn ensure(host: &DockerHost, tenant: TenantId, subnet: Subnet) -> Result<(), HostError> {
    let began = Instant::now();
    loop {
        if has_one(host, tenant).await? {
            return Ok(());
        }
        let Err(refusal) = create(host, tenant, subnet).await? else { return Ok(()) };
        if let Some(other) = holder(host, tenant, subnet).await? {
            return Err(HostError::SubnetTaken(format!("{refusal} ({other})")));
        }
        if began.elapsed() > LONGEST_PASSAGE {
            return Err(HostError::SubnetTaken(refusal));
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Whether the tenant has a network. Of several, which a call can leave behind whose answer nobody waited for, the newest
/// that nobody is on go: everybody who looks removes the same ones, so that one stays.
async fn has_one(host: &DockerHost, tenant: TenantId) -> Result<bool, HostError> {
    let mut left = list(host, tenant).await?;
    for id in left.clone().into_iter().rev() {
        if left.len() > 1 && remove(host, &id).await? {
            left.retain(|other| *other != id);
        }
    }
    match left.as_slice() {
        [] => Ok(false),
        [_] => Ok(true),
        several => Err(HostError::Refused(format!("{} networks of one tenant are in use", several.len()))),
    }
}

/// Makes the network; the engine's words if it says that somebody has the name or the addresses.
async fn create(host: &DockerHost, tenant: TenantId, subnet: Subnet) -> Result<Result<(), String>, HostError> {
    let config = IpamConfig { subnet: Some(subnet.to_string()), ..IpamConfig::default() };
    let request = NetworkCreateRequest {
        name: network_name(tenant),
        driver: Some("bridge".to_owned()),
        labels: Some(host.labelled(network_labels(tenant))),
        ipam: Some(Ipam { config: Some(vec![config]), ..Ipam::default() }),
        ..NetworkCreateRequest::default()
    };
    match host.docker.create_network(request).await {
        Ok(_) => Ok(Ok(())),
        Err(Error::DockerResponseServerError { status_code, message })
            if status_code == 409 || says_taken(&message) =>
        {
            Ok(Err(message))
        }
        Err(error) => Err(failed(error)),
    }
}

/// By the engine's allocator, or by its driver when the allocator knows nothing of the other network.
fn says_taken(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("pool overlaps")
        || message.contains("overlapping ipv4")
        || message.contains("conflicts with network")
}

/// The name of a network other than the tenant's that has some of these addresses.
async fn holder(host: &DockerHost, tenant: TenantId, subnet: Subnet) -> Result<Option<String>, HostError> {
    let networks = host.docker.list_networks(None::<ListNetworksOptions>).await.map_err(failed)?;
    let name = network_name(tenant);
    let others = networks.into_iter().filter(|network| network.name.as_ref() != Some(&name));
    let holds = |network: &Network| {
        let pools = network.ipam.as_ref().and_then(|ipam| ipam.config.as_deref()).unwrap_or_default();
        pools.iter().filter_map(|pool| pool.subnet.as_deref()).any(|pool| subnet.overlaps(pool))
    };
    Ok(others.into_iter().find(holds).map(|network| network.name.unwrap_or_default()))
}

/// Puts the proxy on the networks of these tenants, as far as they have one and it is not there.
pub(super) async fn connect(
    host: &DockerHost,
    proxy: &str,
    tenants: &BTreeSet<TenantId>,
) -> Result<BTreeMap<TenantId, HostError>, HostError> {
    let inspected = host.docker.inspect_container(proxy, None::<InspectContainerOptions>).await.map_err(failed)?;
    let present = inspected.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    let present: BTreeSet<String> = present.into_values().filter_map(|endpoint| endpoint.network_id).collect();
    let names: HashMap<String, TenantId> = tenants.iter().map(|tenant| (network_name(*tenant), *tenant)).collect();
    let networks = host.docker.list_networks(None::<ListNetworksOptions>).await.map_err(failed)?;
    let mut refused = BTreeMap::new();
    for network in networks {
        let (Some(name), Some(id)) = (network.name, network.id) else { continue };
        let Some(tenant) = names.get(&name).filter(|_| !present.contains(&id)) else { continue };
        let join = async || {
            let request = NetworkConnectRequest { container: proxy.to_owned(), endpoint_config: None };
            host.docker.connect_network(&id, request).await
        };
        let mut joined = join().await;
        if matches!(joined, Err(Error::DockerResponseServerError { status_code: 403, .. })) {
            // It is there already, as the engine was not aware a moment ago: what is left of it from before the engine was killed.
            part(host, &id).await;
            joined = join().await;
        }
        match joined {
            // The network has gone meanwhile.
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 404, .. }) => {}
            Err(error) => drop(refused.insert(*tenant, failed(error))),
        }
    }
    Ok(refused)
}

/// Takes the proxy from a network, if it is there. Whether it was is not told the same way by all engines; whoever needs to know sees
/// it from what comes after.
async fn part(host: &DockerHost, network: &str) {
    if let Some(proxy) = &host.proxy {
        let request = NetworkDisconnectRequest { container: proxy.clone(), force: Some(true) };
        drop(host.docker.disconnect_network(network, request).await);
    }
}

pub(super) async fn remove_if_unused(host: &DockerHost, tenant: TenantId) -> Result<bool, HostError> {
    // Stopped containers are not among those attached, but need their network when they start.
    let filters = Some(HashMap::from([("network".to_owned(), vec![network_name(tenant)])]));
    let options = ListContainersOptions { all: true, filters, ..ListContainersOptions::default() };
    let attached = host.docker.list_containers(Some(options)).await.map_err(failed)?;
    let is_proxy = |container: &ContainerSummary| {
        let mut names = container.names.iter().flatten().map(|name| name.trim_start_matches('/'));
        host.proxy.as_deref().is_some_and(|proxy| names.any(|name| name == proxy))
    };
    if !attached.iter().all(is_proxy) {
        return Ok(false);
    }
    let mut gone = true;
    for id in list(host, tenant).await? {
        gone &= remove(host, &id).await?;
    }
    Ok(gone)
}

/// Removes one network, unless a container is on it besides the proxy; answers whether it is gone.
async fn remove(host: &DockerHost, id: &str) -> Result<bool, HostError> {
    part(host, id).await;
    match host.docker.remove_network(id).await {
        // A container was attached a moment ago.
        Err(Error::DockerResponseServerError { status_code: 403 | 409, .. }) => Ok(false),
        other => unless_absent(other).map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::says_taken;

    #[test]
    fn the_engines_words_for_taken_addresses_are_known() {
        assert!(says_taken("Pool overlaps with other one on this address space"));
        assert!(says_taken(
            "cannot create network 1f (br-1f): conflicts with network 2e (br-2e): networks have overlapping IPv4"
        ));
        assert!(!says_taken("network with name wopr-tenant-1 already exists"));
    }
}
