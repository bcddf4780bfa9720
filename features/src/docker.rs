//! Docker as seen from beside the platform, and a cable to it that can be cut.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use bollard::Docker;
use bollard::exec::StartExecResults;
use bollard::models::{ContainerInspectResponse, ExecConfig};
use bollard::query_parameters::{
    DownloadFromContainerOptionsBuilder, ListContainersOptionsBuilder, ListNetworksOptionsBuilder,
    ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptionsBuilder,
    UploadToContainerOptionsBuilder,
};
use futures_util::TryStreamExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

/// How long an engine may take to answer.
const TIMEOUT_SECONDS: u64 = 60;

/// An engine.
#[derive(Debug, Clone)]
pub struct Engine(Docker);

impl Engine {
    /// The one that `DOCKER_HOST` names, else the machine's own.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connect() -> Result<Self> {
        let docker = Docker::connect_with_defaults().context("DOCKER_HOST")?;
        let docker = docker.negotiate_version().await.context("the journeys need a Docker engine")?;
        Ok(Self(docker))
    }

    /// The one behind this socket.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn at(socket: &Path) -> Result<Self> {
        let address = socket.to_str().context("a socket's path is text")?;
        let docker = Docker::connect_with_unix(address, TIMEOUT_SECONDS, bollard::API_DEFAULT_VERSION)?;
        let docker = docker.negotiate_version().await.with_context(|| format!("no engine answers at {address}"))?;
        Ok(Self(docker))
    }

    /// The client itself.
    pub fn client(&self) -> &Docker {
        &self.0
    }

    /// Whether it has an image under this name.
    pub async fn has_image(&self, name: &str) -> bool {
        self.0.inspect_image(name).await.is_ok()
    }

    /// What it says of a container, or nothing.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn find(&self, container: &str) -> Result<Option<ContainerInspectResponse>> {
        match self.0.inspect_container(container, None).await {
            Ok(found) => Ok(Some(found)),
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("inspecting {container}")),
        }
    }

    /// Writes a small file into a container.
    ///
    /// # Errors
    /// When its directory does not exist.
    pub async fn write(&self, container: &str, path: &str, text: &str) -> Result<()> {
        let (directory, name) = split(path)?;
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, text.as_bytes())?;
        let options = UploadToContainerOptionsBuilder::new().path(directory).build();
        let body = bollard::body_full(archive.into_inner()?.into());
        self.0.upload_to_container(container, Some(options), body).await.with_context(|| format!("writing {path}"))
    }

    /// Reads a small file out of a container, running or not.
    ///
    /// # Errors
    /// When there is none.
    pub async fn read(&self, container: &str, path: &str) -> Result<String> {
        let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
        let chunks: Vec<bytes::Bytes> = self
            .0
            .download_from_container(container, Some(options))
            .try_collect()
            .await
            .with_context(|| format!("reading {path}"))?;
        let archive = chunks.concat();
        let mut archive = tar::Archive::new(archive.as_slice());
        let mut file = archive.entries()?.next().with_context(|| format!("no {path}"))??;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut file, &mut text)?;
        Ok(text)
    }

    /// What a command in a running container writes.
    ///
    /// # Errors
    /// When it fails, with all it says.
    pub async fn output(&self, container: &str, command: &[&str]) -> Result<String> {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        let config = ExecConfig {
            cmd: Some(command),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..ExecConfig::default()
        };
        let id = self.0.create_exec(container, config).await.with_context(|| container.to_owned())?.id;
        let StartExecResults::Attached { output, .. } = self.0.start_exec(&id, None).await? else {
            bail!("a command in {container} does not show what it writes");
        };
        let said = output.try_fold(String::new(), async |said, part| Ok(said + &part.to_string())).await?;
        let code = self.0.inspect_exec(&id).await?.exit_code;
        ensure!(code == Some(0), "a command in {container} ended with {code:?}: {said}");
        Ok(said)
    }

    /// Whether anything has this label, `key=value`: a container, a volume or a network.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn has(&self, label: &str) -> Result<bool> {
        let labelled = self.labelled(label).await?;
        Ok(!(labelled.containers.is_empty() && labelled.volumes.is_empty() && labelled.networks.is_empty()))
    }

    /// Removes a container, running or not; its named volumes stay.
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn remove(&self, container: &str) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::new().force(true).build();
        match self.0.remove_container(container, Some(options)).await {
            Ok(()) | Err(bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("removing {container}")),
        }
    }

    /// Removes every container, volume and network with this label, `key=value`.
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn sweep(&self, label: &str) -> Result<()> {
        let labelled = self.labelled(label).await?;
        for container in &labelled.containers {
            self.remove(container).await?;
        }
        for volume in &labelled.volumes {
            let options = RemoveVolumeOptionsBuilder::new().force(true).build();
            self.0.remove_volume(volume, Some(options)).await.with_context(|| volume.clone())?;
        }
        for network in &labelled.networks {
            self.0.remove_network(network).await.with_context(|| network.clone())?;
        }
        Ok(())
    }

    async fn labelled(&self, label: &str) -> Result<Labelled> {
        let filters = HashMap::from([("label".to_owned(), vec![label.to_owned()])]);
        let containers = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let volumes = ListVolumesOptionsBuilder::new().filters(&filters).build();
        let networks = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let containers = self.0.list_containers(Some(containers)).await?;
        let volumes = self.0.list_volumes(Some(volumes)).await?.volumes.unwrap_or_default();
        let networks = self.0.list_networks(Some(networks)).await?;
        Ok(Labelled {
            containers: containers.into_iter().filter_map(|found| found.id).collect(),
            volumes: volumes.into_iter().map(|found| found.name).collect(),
            networks: networks.into_iter().filter_map(|found| found.id).collect(),
        })
    }
}

/// What has a label: ids, and names of volumes.
struct Labelled {
    containers: Vec<String>,
    volumes: Vec<String>,
    networks: Vec<String>,
}

/// The name of the volume that a container has at `path`.
///
/// # Errors
/// When nothing, or something else than a named volume, is mounted there.
pub fn volume_at(container: &ContainerInspectResponse, path: &str) -> Result<String> {
    let mounts = container.mounts.as_deref().unwrap_or_default();
    let mount = mounts.iter().find(|mount| mount.destination.as_deref() == Some(path));
    let mount = mount.with_context(|| format!("nothing is mounted at {path}: {mounts:?}"))?;
    match (mount.typ.as_deref(), &mount.name) {
        (Some("volume"), Some(name)) if !name.is_empty() => Ok(name.clone()),
        _ => bail!("no named volume at {path}: {mount:?}"),
    }
}

/// Whether the container runs.
pub fn is_running(container: &ContainerInspectResponse) -> bool {
    container.state.as_ref().and_then(|state| state.running).unwrap_or(false)
}

fn split(path: &str) -> Result<(&str, &str)> {
    path.rsplit_once('/').with_context(|| format!("{path} is not absolute"))
}

/// A socket of our own in front of Docker's: while it is cut, Docker is away for whoever uses it.
#[derive(Debug)]
pub struct Cable {
    path: PathBuf,
    engine: PathBuf,
    carrying: Option<JoinHandle<()>>,
}

impl Cable {
    /// Plugs one in at `path`, which must not exist.
    ///
    /// # Errors
    /// When the engine is not at a Unix socket, or the path is taken.
    pub fn plug_in(path: PathBuf) -> Result<Self> {
        let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
        let engine = host.strip_prefix("unix://").with_context(|| format!("{host} is not a Unix socket"))?;
        let mut cable = Self { path, engine: engine.into(), carrying: None };
        cable.restore()?;
        Ok(cable)
    }

    /// Where the platform finds Docker.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends what is under way, and refuses what comes.
    pub fn cut(&mut self) {
        if let Some(carrying) = self.carrying.take() {
            carrying.abort();
        }
        // Missing is what is wanted.
        let _ = std::fs::remove_file(&self.path);
    }

    /// Carries again.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn restore(&mut self) -> Result<()> {
        self.cut();
        let listener = UnixListener::bind(&self.path).with_context(|| self.path.display().to_string())?;
        let engine = self.engine.clone();
        self.carrying = Some(tokio::spawn(async move {
            // Dropped together with this task: whatever is under way ends when the cable is cut.
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let engine = engine.clone();
                connections.spawn(async move {
                    let mut far = UnixStream::connect(engine).await?;
                    tokio::io::copy_bidirectional(&mut near, &mut far).await
                });
                while connections.try_join_next().is_some() {}
            }
        }));
        Ok(())
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.cut();
    }
}
