//! Bots behind a real Caddy.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::HeaderMap;
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, PortBinding};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, RemoveContainerOptions, StartContainerOptions,
};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use wopr_core::adapters::caddy::Caddy;
use wopr_core::adapters::docker::DockerHost;
use wopr_core::audit::Origin;
use wopr_core::fleet::container::network_name;
use wopr_core::fleet::{FleetConfig, NewBot, Phase, ProxyError, ReverseProxy as _, Route};

use crate::docker::{IMAGE, Leftovers, Yard};

const CADDY: &str = "wopr-caddy:2.6";
const LIMIT: Duration = Duration::from_secs(40);
const PACE: Duration = Duration::from_millis(50);

/// A Caddy that serves somebody else's name, and bots.
struct Proxy {
    docker: Docker,
    name: String,
    folder: PathBuf,
    port: u16,
    http: reqwest::Client,
}

impl Proxy {
    async fn open() -> Self {
        // Another test may have done so.
        drop(rustls::crypto::ring::default_provider().install_default());
        let docker = Docker::connect_with_unix_defaults().unwrap();
        let has_image = docker.inspect_image(CADDY).await.is_ok();
        assert!(has_image, "no {CADDY} on the Docker engine: run `cargo wopr images --only caddy` once");
        let name = format!("wopr-test-caddy-{}", uuid::Uuid::new_v4());
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(folder.join("run")).unwrap();
        let bots = json!({ "match": [{ "host": ["*.bots.test"] }], "terminal": true, "handle": [
            { "@id": "bots", "handler": "subroute", "routes": [] },
            { "handler": "static_response", "status_code": 404 },
        ]});
        let other = json!({ "@id": "other", "handle": [{ "handler": "static_response", "body": "somebody else's" }] });
        let server = json!({ "listen": [":8080"], "automatic_https": { "disable": true }, "routes": [bots, other] });
        let admin = json!({ "listen": "unix//run/caddy/admin.sock", "origins": ["localhost"] });
        let config = json!({ "admin": admin, "apps": { "http": { "servers": { "test": server } } } });
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let bind = |from: &str, to: &str| format!("{}:{to}", folder.join(from).display());
        let anywhere = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: None };
        let body = ContainerCreateBody {
            image: Some(CADDY.to_owned()),
            // Whoever this test is: the folder is its.
            user: Some("0:0".to_owned()),
            labels: Some(HashMap::from([("wopr.test".to_owned(), "docker".to_owned())])),
            exposed_ports: Some(vec!["8080/tcp".to_owned()]),
            host_config: Some(HostConfig {
                binds: Some(vec![bind("run", "/run/caddy"), bind("config.json", "/etc/caddy/config.json")]),
                port_bindings: Some(HashMap::from([("8080/tcp".to_owned(), Some(vec![anywhere]))])),
                extra_hosts: Some(vec!["host.docker.internal:host-gateway".to_owned()]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptions { name: Some(name.clone()), ..CreateContainerOptions::default() };
        docker.create_container(Some(options), body).await.unwrap();
        docker.start_container(&name, None::<StartContainerOptions>).await.unwrap();
        let inspected = docker.inspect_container(&name, None::<InspectContainerOptions>).await.unwrap();
        let ports = inspected.network_settings.unwrap().ports.unwrap();
        let port = ports["8080/tcp"].as_ref().unwrap()[0].host_port.as_ref().unwrap().parse().unwrap();
        let proxy = Self { docker, name, folder, port, http: reqwest::Client::new() };
        let up = proxy.until("other.test", StatusCode::OK).await;
        assert_eq!(up, "somebody else's");
        proxy
    }

    fn caddy(&self) -> Caddy {
        Caddy::new(&self.folder.join("run/admin.sock")).unwrap()
    }

    fn ask(&self, host: &str) -> RequestBuilder {
        self.http.get(format!("http://127.0.0.1:{}/health", self.port)).header("host", host)
    }

    /// Asks until the answer has that status; its body.
    async fn until(&self, host: &str, status: StatusCode) -> String {
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            let answer = self.ask(host).send().await;
            match answer {
                Ok(answer) if answer.status() == status => return answer.text().await.unwrap(),
                other => assert!(tokio::time::Instant::now() < deadline, "{host} does not answer {status}: {other:?}"),
            }
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
        let (name, folder) = (self.name.clone(), self.folder.clone());
        // The test's runtime may be going away.
        let cleaner = std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async {
                let Ok(docker) = Docker::connect_with_unix_defaults() else { return };
                let options = RemoveContainerOptions { force: true, ..RemoveContainerOptions::default() };
                drop(docker.remove_container(&name, Some(options)).await);
            });
            drop(std::fs::remove_dir_all(folder));
        });
        drop(cleaner.join());
    }
}

/// A server that says what it was sent, and its cookies in two ways.
async fn echo() -> (u16, Arc<Mutex<Vec<HeaderMap>>>) {
    let seen: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let sink = Arc::clone(&seen);
    let answer = move |headers: HeaderMap| async move {
        sink.lock().unwrap().push(headers);
        ([("set-cookie", "a=1; Domain=.bots.test; Path=/")], "from a bot")
    };
    let listener = tokio::net::TcpListener::bind(("0.0.0.0", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    (port, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_are_replaced_as_a_whole_and_no_cookie_of_ours_reaches_a_bot() {
    let (proxy, (port, seen)) = (Proxy::open().await, echo().await);
    let caddy = proxy.caddy();
    let to = |host: &str, upstream: Option<String>| Route { host: host.to_owned(), upstream };
    let upstream = format!("host.docker.internal:{port}");
    let routes = [to("one.bots.test", Some(upstream.clone())), to("two.bots.test", None)];
    assert_eq!(caddy.set_routes(&routes).await, Ok(true));
    assert_eq!(caddy.set_routes(&routes).await, Ok(false), "nothing is new");

    let cookies = "x=1; better-auth.session_token=t.s; __Secure-better-auth.session_token=u; y=2";
    let answer = proxy.ask("one.bots.test").header("cookie", cookies).header("authorization", "Bearer b").send().await;
    let answer = answer.unwrap();
    assert_eq!(answer.headers()["set-cookie"], "a=1; Path=/");
    assert_eq!(answer.text().await.unwrap(), "from a bot");
    let sent = seen.lock().unwrap().pop().unwrap();
    assert_eq!((&sent["cookie"], &sent["host"]), (&"x=1; y=2".parse().unwrap(), &"one.bots.test".parse().unwrap()));
    assert_eq!(sent["authorization"], "Bearer b", "who may ask is the bot's affair");
    for (host, status) in [("two.bots.test", 503), ("three.bots.test", 404), ("other.test", 200)] {
        assert_eq!(proxy.ask(host).send().await.unwrap().status(), status, "{host}");
    }

    assert_eq!(caddy.set_routes(&[to("three.bots.test", Some(upstream))]).await, Ok(true));
    for (host, status) in [("one.bots.test", 404), ("three.bots.test", 200), ("other.test", 200)] {
        assert_eq!(proxy.ask(host).send().await.unwrap().status(), status, "{host}");
    }

    // One that has no place for bots says so, and serves what it served.
    let client = reqwest::Client::builder().unix_socket(proxy.folder.join("run/admin.sock")).build().unwrap();
    let removed = client.delete("http://localhost/id/bots").send().await.unwrap();
    assert_eq!(removed.status(), StatusCode::OK);
    assert!(matches!(caddy.set_routes(&routes).await, Err(ProxyError::Refused(_))));
    assert_eq!(proxy.ask("other.test").send().await.unwrap().status(), 200);

    let nobody = Caddy::new(&proxy.folder.join("run/nobody.sock")).unwrap();
    assert!(matches!(nobody.set_routes(&routes).await, Err(ProxyError::Unreachable(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_is_reached_by_its_name_for_as_long_as_it_is_there() {
    let proxy = Proxy::open().await;
    let host = DockerHost::new(None, None).unwrap().with_label("wopr.test", "docker").with_proxy(&proxy.name);
    let config = FleetConfig { domain: Some("bots.test".to_owned()), ..FleetConfig::default() };
    let yard = Yard::with(host, config).await;
    let tenant = yard.tenant().await;
    yard.pay(tenant, 500, "first").await;
    let bot = yard.fleet.create(&Origin::system("test"), tenant, NewBot::new("My_Bot", IMAGE)).await.unwrap();
    let _leftovers = Leftovers { bot: bot.id, tenant };
    let name = yard.fleet.host_name(&bot.name, bot.id).unwrap();
    let caddy = proxy.caddy();

    assert!(yard.fleet.publish(&caddy).await.unwrap());
    proxy.until(&name, StatusCode::SERVICE_UNAVAILABLE).await;
    yard.until(tenant, bot.id, Phase::Running).await;
    assert!(yard.fleet.publish(&caddy).await.unwrap());
    assert!(!yard.fleet.publish(&caddy).await.unwrap());
    let answer: Value = serde_json::from_str(&proxy.until(&name, StatusCode::OK).await).unwrap();
    assert_eq!(answer["status"], "ok");

    // A proxy that was made anew is on no network, and has no routes.
    let options = bollard::models::NetworkDisconnectRequest { container: proxy.name.clone(), force: Some(true) };
    proxy.docker.disconnect_network(&network_name(tenant), options).await.unwrap();
    assert!(!proxy.networks().await.contains(&network_name(tenant)));
    yard.fleet.publish(&caddy).await.unwrap();
    proxy.until(&name, StatusCode::OK).await;

    // The proxy keeps no network of a tenant whose last bot goes.
    yard.fleet.destroy(&Origin::system("test"), tenant, bot.id).await.unwrap();
    yard.until_gone(tenant, bot.id).await;
    assert!(!proxy.networks().await.contains(&network_name(tenant)));
    assert!(yard.fleet.publish(&caddy).await.unwrap());
    proxy.until(&name, StatusCode::NOT_FOUND).await;
}
