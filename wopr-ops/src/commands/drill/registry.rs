//! `drill registry`: what packages make of an image is published in a registry and taken from it, and from packages
//! again when the registry keeps something else, lacks it, or is away.

use std::{collections::HashMap, io::Read, time::Duration};

use anyhow::Context;
use bollard::{
    Docker,
    models::{ContainerCreateBody, HostConfig, PortBinding},
    query_parameters::{
        CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, RemoveImageOptions, StartContainerOptions,
        UploadToContainerOptionsBuilder,
    },
};
use futures_util::TryStreamExt;
use tokio::process::Command;

use crate::{
    commands::{http_client, wait_until},
    engine::{self, find_program},
    exec::apply::remove_container,
    images::{
        Origin, Shelf, Sources, assembled,
        layer::{Layer, Owner, contents},
        published::{Login, Published, Registry, fetch, publish},
        recipes::{CADDY, REGISTRY, REGISTRY_PORT, REGISTRY_USERS, SERVICE_UID},
    },
    paths::Paths,
    plan::spec::TEST_LABEL,
    ui::Ui,
};

/// The registry's container.
const CONTAINER: &str = "wopr-drill-registry";
/// Who publishes.
const USER: &str = "drill";
/// Where the registry keeps layers.
const BLOBS: &str = "/data/docker/registry/v2/blobs";
/// How long it may take to answer.
const READY: Duration = Duration::from_secs(30);

pub(crate) async fn run(ui: &Ui, paths: &Paths) -> anyhow::Result<()> {
    let _lock = crate::commands::lock(paths)?;
    let engine = engine::ensure(ui, paths).await?;
    rehearse(ui, paths, &engine).await
}

/// The drill, in a registry of its own, which is gone afterwards.
pub(crate) async fn rehearse(ui: &Ui, paths: &Paths, engine: &Docker) -> anyhow::Result<()> {
    // A drill that was killed left it.
    remove_container(engine, CONTAINER, false).await?;
    let done = rehearsed(ui, paths, engine).await;
    remove_container(engine, CONTAINER, false).await?;
    done
}

async fn rehearsed(ui: &Ui, paths: &Paths, engine: &Docker) -> anyhow::Result<()> {
    let nowhere = Registry { published: Published::default(), login: None };
    let sources = Sources { ui, paths, engine, registry: &nowhere };
    let image = assembled(&Shelf::of(engine).await?, &sources, &REGISTRY, None, &HashMap::new()).await?;
    let password = hex::encode(rand::random::<[u8; 16]>());
    let task = ui.start("starting a registry");
    let server = task.ends(start(engine, &image.reference, &password).await, Clone::clone)?;
    let login = || Some(Login::new(&server, USER, &password));

    let recipe = CADDY.base();
    let base = sources.unpacked(recipe).await?;
    let task = ui.start(format!("publishing the base of {}", recipe.name));
    let published = publish(engine, &recipe, base, &format!("{server}/drill"), login().as_ref()).await;
    let published = task.ends(published, |all| all.reference(&recipe).unwrap_or_default().to_owned())?;
    let known = Registry { published: published.clone(), login: login() };
    let from = |registry| Sources { registry, ..sources };

    let (pulled, origin) = from(&known).base(&recipe).await?;
    anyhow::ensure!(origin == Origin::Registry, "the base was not taken from the registry that has it");
    let reference = published.reference(&recipe).context("what was published is not known")?.to_owned();
    fetch(engine, &reference, login().as_ref()).await?;
    engine.remove_image(&reference, None::<RemoveImageOptions>, None).await.context("what was fetched is not there")?;
    let made = sources.unpacked(recipe).await?;
    let (pulled, made) = (contents(&pulled.finish()?)?, contents(&made.finish()?)?);
    let mut paths = pulled.keys().chain(made.keys());
    if let Some(path) = paths.find(|path| pulled.get(*path) != made.get(*path)) {
        let (came, was) = (pulled.get(path), made.get(path));
        anyhow::bail!("what came from the registry is not what was published: {path} is {came:?} and was {was:?}");
    }

    ui.note("from here on it cannot be had: the password is wrong, a bit of it is another, the registry is away");
    anyhow::ensure!(fetch(engine, &reference, None).await.is_err(), "a stranger was let in");
    let stranger = Registry { published, login: Some(Login::new(&server, USER, "another")) };
    refuses("lets nobody in", from(&stranger).base(&recipe).await?.1)?;
    tamper(engine).await?;
    refuses("has other bytes", from(&known).base(&recipe).await?.1)?;
    remove_container(engine, CONTAINER, false).await?;
    refuses("is away", from(&known).base(&recipe).await?.1)?;
    ui.note("a base comes from the registry that has it, and from packages where that lets nobody in, lies or is away");
    Ok(())
}

fn refuses(why: &str, origin: Origin) -> anyhow::Result<()> {
    anyhow::ensure!(origin == Origin::Packages, "a base came from a registry that {why}");
    Ok(())
}

/// Starts the registry, which knows one user; answers with its address, once it lets that user in.
async fn start(engine: &Docker, image: &str, password: &str) -> anyhow::Result<String> {
    let port = format!("{REGISTRY_PORT}/tcp");
    let binding = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(String::new()) };
    let options = CreateContainerOptionsBuilder::default().name(CONTAINER).build();
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        labels: Some(HashMap::from([(TEST_LABEL.to_owned(), "drill".to_owned())])),
        exposed_ports: Some(vec![port.clone()]),
        host_config: Some(HostConfig {
            port_bindings: Some(HashMap::from([(port.clone(), Some(vec![binding]))])),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            ..Default::default()
        }),
        ..Default::default()
    };
    engine.create_container(Some(options), body).await.context("the registry could not be made")?;
    put(engine, REGISTRY_USERS, format!("{USER}:{}\n", bcrypt(password).await?).as_bytes()).await?;
    engine.start_container(CONTAINER, None::<StartContainerOptions>).await.context("the registry does not start")?;
    let container = engine.inspect_container(CONTAINER, None).await?;
    let ports = container.network_settings.and_then(|network| network.ports).unwrap_or_default();
    let published = ports.get(&port).cloned().flatten().unwrap_or_default();
    let published = published.first().and_then(|binding| binding.host_port.clone());
    let server = format!("127.0.0.1:{}", published.context("the registry's port is not published")?);
    let http = http_client()?;
    let answers = wait_until(READY, async || {
        let answer = http.get(format!("http://{server}/v2/")).basic_auth(USER, Some(password)).send().await;
        Ok(answer.is_ok_and(|answer| answer.status().is_success()).then_some(()))
    });
    answers.await?.context("the registry lets nobody in")?;
    Ok(server)
}

/// Turns one bit of the largest layer that the registry keeps.
async fn tamper(engine: &Docker) -> anyhow::Result<()> {
    let options = DownloadFromContainerOptionsBuilder::default().path(BLOBS).build();
    let kept: Vec<bytes::Bytes> = engine.download_from_container(CONTAINER, Some(options)).try_collect().await?;
    let kept = kept.concat();
    let mut largest = (String::new(), Vec::new());
    for entry in tar::Archive::new(kept.as_slice()).entries()? {
        let mut entry = entry?;
        if entry.size() > largest.1.len() as u64 {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            largest = (entry.path()?.display().to_string(), content);
        }
    }
    let (path, mut content) = largest;
    let middle = content.len() / 2;
    *content.get_mut(middle).context("the registry keeps nothing")? ^= 1;
    let above = BLOBS.rsplit_once('/').map_or("", |(above, _)| above);
    put(engine, &format!("{above}/{path}"), &content).await
}

/// Writes a file of the registry's.
async fn put(engine: &Docker, path: &str, content: &[u8]) -> anyhow::Result<()> {
    let (directory, name) = path.rsplit_once('/').with_context(|| format!("{path} is in no directory"))?;
    let owner = Owner { uid: SERVICE_UID.into(), gid: SERVICE_UID.into() };
    let mut archive = Layer::new();
    archive.file(name, 0o600, owner, content)?;
    let options = UploadToContainerOptionsBuilder::default().path(directory).build();
    let written = engine.upload_to_container(CONTAINER, Some(options), bollard::body_full(archive.finish()?.into()));
    written.await.with_context(|| format!("{path} cannot be written"))
}

/// The password as the registry keeps it: bcrypt, by the C library's own function.
async fn bcrypt(password: &str) -> anyhow::Result<String> {
    let perl = find_program("perl").context("perl is not installed")?;
    let salt = hex::encode(rand::random::<[u8; 11]>());
    // The password goes by the environment: arguments are everybody's to read.
    let output = Command::new(perl)
        .args(["-e", "print crypt($ENV{PASSWORD}, q($2b$05$) . $ARGV[0])", &salt])
        .env("PASSWORD", password)
        .output()
        .await
        .context("perl could not be run")?;
    let hash = String::from_utf8(output.stdout)?;
    anyhow::ensure!(hash.starts_with("$2b$"), "the C library knows no bcrypt: {hash:?}");
    Ok(hash)
}
