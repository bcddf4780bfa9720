//! Bots behind a real Caddy, which is told nothing of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, NetworkCreateRequest, PortBinding};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, InspectNetworkOptions, RemoveContainerOptions,
    StartContainerOptions,
};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wopr_core::adapters::docker::DockerHost;
use wopr_core::audit::Origin;
use wopr_core::fleet::container::network_name;
use wopr_core::fleet::{Bot, FleetConfig, NewBot, Phase};
use wopr_core::ids::TenantId;

use crate::docker::{IMAGE, Leftovers, Yard};

const CADDY: &str = "wopr-caddy:2.6";
/// In what a bot answers that is well.
const WELL: &str = r#""status":"ok""#;
const LIMIT: Duration = Duration::from_secs(40);
const PACE: Duration = Duration::from_millis(50);

/// A Caddy on a network of its own, which comes before tenants' in the alphabet.
struct Proxy {
    docker: Docker,
    name: String,
    config: PathBuf,
}

impl Proxy {
    async fn open() -> Self {
        let docker = Docker::connect_with_unix_defaults().unwrap();
        let has_image = docker.inspect_image(CADDY).await.is_ok();
        assert!(has_image, "no {CADDY} on the Docker engine: run `cargo wopr images --only caddy` once");
        let name = format!("wopr-caddy-test-{}", uuid::Uuid::new_v4());
        let bot = json!({ "Host": { "name": "bot", "pattern": r"^([a-z0-9-]+-[0-9a-f]{16})\." } });
        let to_bot = json!({ "handler": "reverse_proxy", "upstreams": [{ "dial": "{http.regexp.bot.1}:7437" }] });
        let route = json!({ "match": [{ "header_regexp": bot }], "handle": [to_bot] });
        let server = json!({ "listen": [":8080"], "automatic_https": { "disable": true }, "routes": [route] });
        let config = json!({ "admin": { "disabled": true }, "apps": { "http": { "servers": { "test": server } } } });
        let file = std::env::temp_dir().join(&name);
        std::fs::write(&file, config.to_string()).unwrap();
        let labels = Some(HashMap::from([("wopr.test".to_owned(), "docker".to_owned())]));
        docker.create_network(NetworkCreateRequest { name: name.clone(), labels, ..Default::default() }).await.unwrap();
        let proxy = Self { docker, name, config: file };
        proxy.start().await;
        proxy
    }

    async fn start(&self) {
        let anywhere = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: None };
        let body = ContainerCreateBody {
            image: Some(CADDY.to_owned()),
            labels: Some(HashMap::from([("wopr.test".to_owned(), "docker".to_owned())])),
            exposed_ports: Some(vec!["8080/tcp".to_owned()]),
            host_config: Some(HostConfig {
                binds: Some(vec![format!("{}:/etc/caddy/config.json", self.config.display())]),
                network_mode: Some(self.name.clone()),
                port_bindings: Some(HashMap::from([("8080/tcp".to_owned(), Some(vec![anywhere]))])),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptions { name: Some(self.name.clone()), ..CreateContainerOptions::default() };
        self.docker.create_container(Some(options), body).await.unwrap();
        self.docker.start_container(&self.name, None::<StartContainerOptions>).await.unwrap();
    }

    async fn remove(&self) {
        let options = RemoveContainerOptions { force: true, ..RemoveContainerOptions::default() };
        self.docker.remove_container(&self.name, Some(options)).await.unwrap();
    }

    async fn connection(&self) -> TcpStream {
        let inspected = self.docker.inspect_container(&self.name, None::<InspectContainerOptions>).await.unwrap();
        let ports = inspected.network_settings.unwrap().ports.unwrap();
        let port: u16 = ports["8080/tcp"].as_ref().unwrap()[0].host_port.as_ref().unwrap().parse().unwrap();
        TcpStream::connect(("127.0.0.1", port)).await.unwrap()
    }

    /// Asks on new connections until the answer has this in it.
    async fn until(&self, host: &str, part: &str) {
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            let answer = ask(&mut self.connection().await, host).await;
            if answer.as_ref().is_ok_and(|answer| answer.contains(part)) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{host} does not answer {part}: {answer:?}");
            tokio::time::sleep(PACE).await;
        }
    }

    async fn networks(&self) -> BTreeSet<String> {
        let inspected = self.docker.inspect_container(&self.name, None::<InspectContainerOptions>).await.unwrap();
        inspected.network_settings.unwrap().networks.unwrap().into_keys().collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let (name, config) = (self.name.clone(), self.config.clone());
        // The test's runtime may be going away.
        let cleaner = std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async {
                let Ok(docker) = Docker::connect_with_unix_defaults() else { return };
                let options = RemoveContainerOptions { force: true, ..RemoveContainerOptions::default() };
                drop(docker.remove_container(&name, Some(options)).await);
                drop(docker.remove_network(&name).await);
            });
            drop(std::fs::remove_file(config));
        });
        drop(cleaner.join());
    }
}

/// One request on a connection that goes on; its answer up to the end of its body.
async fn ask(connection: &mut TcpStream, host: &str) -> std::io::Result<String> {
    connection.write_all(format!("GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    while !is_whole(&answer) {
        let mut part = [0; 4096];
        let length = tokio::time::timeout(LIMIT, connection.read(&mut part)).await??;
        if length == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        answer.push_str(&String::from_utf8_lossy(&part[..length]));
    }
    Ok(answer)
}

fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

async fn running_bot(yard: &Yard, left: &mut Vec<Leftovers>, name: &str) -> (TenantId, Bot) {
    let tenant = yard.tenant().await;
    yard.pay(tenant, 500, "first").await;
    let bot = yard.fleet.create(&Origin::system("test"), tenant, NewBot::new(name, IMAGE)).await.unwrap();
    left.push(Leftovers { bot: bot.id, tenant });
    (tenant, yard.until(tenant, bot.id, Phase::Running).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_is_reached_by_its_name_for_as_long_as_it_is_there() {
    // Dropped after the proxy, which is on their networks.
    let mut left = Vec::new();
    let proxy = Proxy::open().await;
    let host = DockerHost::new(None, None).unwrap().with_label("wopr.test", "docker").with_proxy(&proxy.name);
    let yard = Yard::with(host, FleetConfig { domain: Some("bots.test".to_owned()), ..FleetConfig::default() }).await;
    let (ann, of_ann) = running_bot(&yard, &mut left, "My_Bot").await;
    let name = yard.fleet.host_name(&of_ann.name, of_ann.id).unwrap();
    assert_eq!(yard.fleet.connect_proxy().await.unwrap(), []);
    proxy.until(&name, WELL).await;

    // Whoever comes to others' bots is not disturbed when the proxy gets to another network.
    let mut connection = proxy.connection().await;
    ask(&mut connection, &name).await.unwrap();
    // Which is called like something else on the proxy's networks, and is not that.
    let (bob, of_bob) = running_bot(&yard, &mut left, &proxy.name).await;
    assert_eq!(yard.fleet.connect_proxy().await.unwrap(), []);
    proxy.until(&yard.fleet.host_name(&of_bob.name, of_bob.id).unwrap(), WELL).await;
    assert!(ask(&mut connection, &name).await.unwrap().contains(WELL));
    let inspected = proxy.docker.inspect_network(&network_name(bob), None::<InspectNetworkOptions>).await.unwrap();
    let on_it = inspected.containers.unwrap_or_default().into_values().filter_map(|container| container.name);
    assert_eq!(on_it.collect::<BTreeSet<_>>(), [format!("wopr-bot-{}", of_bob.id), proxy.name.clone()].into());
    assert_ne!(yard.host_name_inside(of_bob.id).await, proxy.name);

    // One that was made anew is on no network.
    proxy.remove().await;
    proxy.start().await;
    assert_eq!(proxy.networks().await, [proxy.name.clone()].into());
    yard.fleet.connect_proxy().await.unwrap();
    proxy.until(&name, WELL).await;

    // The proxy keeps no network of a tenant whose last bot goes, also where it is stopped.
    yard.fleet.destroy(&Origin::system("test"), ann, of_ann.id).await.unwrap();
    yard.until_gone(ann, of_ann.id).await;
    proxy.docker.stop_container(&proxy.name, None).await.unwrap();
    yard.fleet.destroy(&Origin::system("test"), bob, of_bob.id).await.unwrap();
    yard.until_gone(bob, of_bob.id).await;
    proxy.docker.start_container(&proxy.name, None::<StartContainerOptions>).await.unwrap();
    assert_eq!(proxy.networks().await, [proxy.name.clone()].into());
    proxy.until(&name, "HTTP/1.1 502").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_of_nobody_is_not_looked_for_and_a_proxy_that_is_gone_is_told() {
    let host = DockerHost::new(None, None).unwrap().with_proxy("wopr-test-no-such-proxy");
    let connect = async |tenants| wopr_core::fleet::ContainerHost::connect_proxy(&host, &tenants).await;
    assert_eq!(connect(BTreeSet::new()).await, Ok(BTreeMap::new()));
    let tenant = TenantId::new(wopr_core::clock::Clock::now(&wopr_core::clock::SystemClock));
    assert!(connect([tenant].into()).await.unwrap_err().to_string().contains("wopr-test-no-such-proxy"));
}
