//! Bots as containers of a Docker engine.
//!
//! Every bot is made the same hardened way: no capability but binding low ports, no new privileges, a read-only root
//! file system, `/tmp` and `/var/tmp` in memory, the limits of its tier, its tenant's own network, a volume for its data
//! and a second one for its key.

mod describe;
mod failure;
mod observe;

use std::collections::HashMap;

use async_trait::async_trait;
use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::errors::Error;
use bollard::models::{NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptions, CreateImageOptions, EventsOptionsBuilder, InspectContainerOptions,
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveVolumeOptions, RestartContainerOptions, StatsOptionsBuilder,
    StopContainerOptions, UploadToContainerOptionsBuilder,
};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use secrecy::{ExposeSecret as _, SecretString};

use self::failure::{host_error, is_gone, is_status};
use crate::fleet::container::{
    BOT_LABEL, ContainerSpec, KEY_FILE, MANAGED_LABEL, MANAGED_NETWORK_LABEL, RUN_PATH, container_name,
    data_volume_name, network_labels, network_name, run_volume_name, volume_labels,
};
use crate::fleet::{
    ContainerHost, ContainerStats, HostError, ImageDigest, ImageReference, Inventory, Observed, RawLogLine,
};
use crate::ids::{BotId, TenantId};

/// How long a polite stop may take before the process is killed, in seconds.
const STOP_GRACE_SECONDS: i32 = 10;

/// A login at an image registry.
#[derive(Debug, Clone)]
pub struct RegistryLogin {
    /// The registry's host, such as `ghcr.io`.
    pub server: String,
    /// The account.
    pub username: String,
    /// Its password or token.
    pub password: SecretString,
}

/// A Docker engine. Cheap to clone.
#[derive(Clone)]
pub struct DockerHost {
    docker: Docker,
    login: Option<RegistryLogin>,
}

impl std::fmt::Debug for DockerHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DockerHost").field("login", &self.login).finish_non_exhaustive()
    }
}

impl DockerHost {
    /// Makes a client; nothing is connected until first use.
    ///
    /// `address` is `unix:///path` or `tcp://host:port`; nothing means the engine's usual socket.
    ///
    /// # Errors
    /// [`HostError::Refused`] when the address cannot be used.
    pub fn new(address: Option<&str>, login: Option<RegistryLogin>) -> Result<Self, HostError> {
        let docker = Docker::connect_with_host(address.unwrap_or("unix:///var/run/docker.sock"))
            .map_err(|error| HostError::Refused(format!("its address is not usable: {error}")))?
            .with_request_modifier(url_safe_login);
        Ok(Self { docker, login })
    }

    fn credentials_for(&self, registry: &str) -> Option<DockerCredentials> {
        self.login.as_ref().filter(|login| login.server == registry).map(|login| DockerCredentials {
            username: Some(login.username.clone()),
            password: Some(login.password.expose_secret().to_owned()),
            serveraddress: Some(login.server.clone()),
            ..DockerCredentials::default()
        })
    }

    async fn pull(&self, reference: &str, registry: &str) -> Result<(), Error> {
        let options = CreateImageOptions { from_image: Some(reference.to_owned()), ..CreateImageOptions::default() };
        // A failed pull shows as an error inside the stream: it has to be read to its end.
        self.docker
            .create_image(Some(options), None, self.credentials_for(registry))
            .try_for_each(|_| std::future::ready(Ok(())))
            .await
    }

    /// What the engine has under this name: the registry's digest if it knows it, else the image's own id.
    async fn local_digest(&self, image: &ImageReference) -> Result<Option<ImageDigest>, HostError> {
        let found = match self.docker.inspect_image(&image.to_string()).await {
            Ok(found) => found,
            Err(error) if is_status(&error, 404) => return Ok(None),
            Err(error) => return Err(host_error(error, &format!("image {image}"))),
        };
        let own = format!("{}@", image.name());
        let digests = found.repo_digests.unwrap_or_default();
        let text = digests.into_iter().find(|digest| digest.starts_with(&own)).or(found.id);
        Ok(text.and_then(|text| text.parse().ok()))
    }

    async fn has_volume(&self, name: &str) -> Result<bool, HostError> {
        match self.docker.inspect_volume(name).await {
            Ok(_) => Ok(true),
            Err(error) if is_status(&error, 404) => Ok(false),
            Err(error) => Err(host_error(error, &format!("volume {name}"))),
        }
    }

    async fn has_network(&self, name: &str) -> Result<bool, HostError> {
        // The engine filters by substring, so the name is compared here.
        let filters = HashMap::from([("name".to_owned(), vec![name.to_owned()])]);
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let found = self.docker.list_networks(Some(options)).await.map_err(|error| host_error(error, "networks"))?;
        Ok(found.iter().any(|network| network.name.as_deref() == Some(name)))
    }

    async fn image_user(&self, image: &ImageDigest) -> Result<Option<String>, HostError> {
        let found = self.docker.inspect_image(image.as_str()).await;
        let found = found.map_err(|error| host_error(error, &format!("image {image}")))?;
        Ok(found.config.and_then(|config| config.user))
    }
}

/// Puts the login into the alphabet that the engine reads.
///
/// The client encodes it with `+` and `/`, the engine wants `-` and `_`; some passwords fail without this.
fn url_safe_login(mut request: bollard::BollardRequest) -> bollard::BollardRequest {
    for header in ["x-registry-auth", "x-registry-config"] {
        let Some(value) = request.headers().get(header).and_then(|value| value.to_str().ok()) else { continue };
        let value = value.replace('+', "-").replace('/', "_");
        if let Ok(value) = value.parse() {
            request.headers_mut().insert(header, value);
        }
    }
    request
}

#[async_trait]
impl ContainerHost for DockerHost {
    async fn resolve_image(&self, image: &ImageReference) -> Result<ImageDigest, HostError> {
        if let Some(pinned) = image.pinned() {
            return Ok(pinned);
        }
        let pulled = self.pull(&image.to_string(), image.registry()).await;
        match (self.local_digest(image).await?, pulled) {
            (Some(digest), Ok(())) => Ok(digest),
            (Some(digest), Err(error)) => {
                tracing::info!(image = %image, %digest, "the registry did not answer for {image}, the engine's own is used: {error}");
                Ok(digest)
            }
            (None, Ok(())) => Err(HostError::NotFound(format!("image {image}"))),
            (None, Err(error)) => Err(failure::pull_error(error, &image.to_string())),
        }
    }

    async fn pull_image(&self, image: &ImageDigest) -> Result<(), HostError> {
        if !image.is_pullable() {
            return match self.docker.inspect_image(image.as_str()).await {
                Ok(_) => Ok(()),
                Err(error) => Err(host_error(error, &format!("image {image}"))),
            };
        }
        let registry = image.as_str().split('/').next().unwrap_or_default();
        self.pull(image.as_str(), registry).await.map_err(|error| failure::pull_error(error, image.as_str()))
    }

    async fn observe(&self, bot: BotId, tenant: TenantId, image: Option<&ImageDigest>) -> Result<Observed, HostError> {
        let name = container_name(bot);
        let container = match self.docker.inspect_container(&name, None::<InspectContainerOptions>).await {
            Ok(found) => Some(observe::container(found)?),
            Err(error) if is_status(&error, 404) => None,
            Err(error) => return Err(host_error(error, &name)),
        };
        let has_image = match image {
            None => false,
            Some(image) => match self.docker.inspect_image(image.as_str()).await {
                Ok(_) => true,
                Err(error) if is_status(&error, 404) => false,
                Err(error) => return Err(host_error(error, &format!("image {image}"))),
            },
        };
        let data = self.has_volume(&data_volume_name(bot)).await?;
        let run = self.has_volume(&run_volume_name(bot)).await?;
        let has_network = self.has_network(&network_name(tenant)).await?;
        Ok(Observed { container, has_image, has_volumes: data && run, has_any_volume: data || run, has_network })
    }

    async fn ensure_network(&self, tenant: TenantId) -> Result<(), HostError> {
        let name = network_name(tenant);
        if self.has_network(&name).await? {
            return Ok(());
        }
        let request = NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".to_owned()),
            labels: Some(network_labels(tenant).into_iter().collect()),
            ..NetworkCreateRequest::default()
        };
        match self.docker.create_network(request).await {
            Ok(_) => Ok(()),
            // Somebody else made it between the two calls.
            Err(error) if is_status(&error, 409) && self.has_network(&name).await? => Ok(()),
            Err(error) => Err(host_error(error, &format!("network {name}"))),
        }
    }

    async fn ensure_volumes(&self, bot: BotId, tenant: TenantId) -> Result<(), HostError> {
        for name in [data_volume_name(bot), run_volume_name(bot)] {
            let request = VolumeCreateRequest {
                name: Some(name.clone()),
                labels: Some(volume_labels(bot, tenant).into_iter().collect()),
                ..VolumeCreateRequest::default()
            };
            let made = self.docker.create_volume(request).await;
            made.map_err(|error| host_error(error, &format!("volume {name}")))?;
        }
        Ok(())
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<String, HostError> {
        let name = container_name(spec.bot_id);
        let image = self.docker.inspect_image(spec.image.as_str()).await;
        let image = image.map_err(|error| host_error(error, &format!("image {}", spec.image)))?;
        let own_check = image.config.as_ref().is_some_and(|config| config.healthcheck.is_some());
        let options = CreateContainerOptions { name: Some(name.clone()), ..CreateContainerOptions::default() };
        match self.docker.create_container(Some(options), describe::container(spec, own_check)).await {
            Ok(made) => Ok(made.id),
            Err(error) if is_status(&error, 409) => {
                let found = self.docker.inspect_container(&name, None::<InspectContainerOptions>).await;
                let found = observe::container(found.map_err(|error| host_error(error, &name))?)?;
                if found.spec_hash.as_deref() == Some(spec.hash().as_str()) {
                    Ok(found.id)
                } else {
                    Err(HostError::Refused(format!("another container is called {name}")))
                }
            }
            Err(error) => Err(host_error(error, &name)),
        }
    }

    async fn install_key(&self, bot: BotId, key: &SecretString) -> Result<(), HostError> {
        let name = container_name(bot);
        let found = self.docker.inspect_container(&name, None::<InspectContainerOptions>).await;
        let image = found.map_err(|error| host_error(error, &name))?.image.unwrap_or_default();
        let image: ImageDigest =
            image.parse().map_err(|_| HostError::Refused(format!("{name} has an unreadable image id")))?;
        let user = self.image_user(&image).await?;
        let archive = describe::key_archive(KEY_FILE, key.expose_secret().as_bytes(), user.as_deref())
            .map_err(|error| HostError::Refused(format!("the key of {name} cannot be packed: {error}")))?;
        let options = UploadToContainerOptionsBuilder::new().path(RUN_PATH).build();
        let sent = self.docker.upload_to_container(&name, Some(options), bollard::body_full(archive.into())).await;
        sent.map_err(|error| host_error(error, &name))
    }

    async fn start_container(&self, bot: BotId) -> Result<(), HostError> {
        let name = container_name(bot);
        let started =
            self.docker.start_container(&name, None::<bollard::query_parameters::StartContainerOptions>).await;
        started.map_err(|error| host_error(error, &name))
    }

    async fn stop_container(&self, bot: BotId) -> Result<(), HostError> {
        let name = container_name(bot);
        let options = StopContainerOptions { t: Some(STOP_GRACE_SECONDS), ..StopContainerOptions::default() };
        match self.docker.stop_container(&name, Some(options)).await {
            Err(error) if !is_gone(&error) => Err(host_error(error, &name)),
            _ => Ok(()),
        }
    }

    async fn restart_container(&self, bot: BotId) -> Result<(), HostError> {
        let name = container_name(bot);
        let options = RestartContainerOptions { t: Some(STOP_GRACE_SECONDS), ..RestartContainerOptions::default() };
        self.docker.restart_container(&name, Some(options)).await.map_err(|error| host_error(error, &name))
    }

    async fn resume_container(&self, bot: BotId) -> Result<(), HostError> {
        let name = container_name(bot);
        self.docker.unpause_container(&name).await.map_err(|error| host_error(error, &name))
    }

    async fn remove_container(&self, bot: BotId) -> Result<(), HostError> {
        let name = container_name(bot);
        let options = RemoveContainerOptionsBuilder::new().force(true).build();
        match self.docker.remove_container(&name, Some(options)).await {
            Err(error) if !is_gone(&error) => Err(host_error(error, &name)),
            _ => Ok(()),
        }
    }

    async fn remove_volumes(&self, bot: BotId) -> Result<(), HostError> {
        for name in [data_volume_name(bot), run_volume_name(bot)] {
            match self.docker.remove_volume(&name, None::<RemoveVolumeOptions>).await {
                Err(error) if !is_gone(&error) => return Err(host_error(error, &format!("volume {name}"))),
                _ => {}
            }
        }
        Ok(())
    }

    async fn remove_network_if_unused(&self, tenant: TenantId) -> Result<(), HostError> {
        let name = network_name(tenant);
        match self.docker.remove_network(&name).await {
            // 403 is how the engine says that a container is still on it.
            Err(error) if !is_gone(&error) && !is_status(&error, 403) => {
                Err(host_error(error, &format!("network {name}")))
            }
            _ => Ok(()),
        }
    }

    async fn logs(&self, bot: BotId, tail: u32) -> Result<Vec<RawLogLine>, HostError> {
        let name = container_name(bot);
        let options =
            LogsOptionsBuilder::new().stdout(true).stderr(true).timestamps(true).tail(&tail.to_string()).build();
        let frames: Vec<_> =
            self.docker.logs(&name, Some(options)).try_collect().await.map_err(|error| host_error(error, &name))?;
        Ok(observe::log_lines(frames))
    }

    async fn stats(&self, bot: BotId) -> Result<Option<ContainerStats>, HostError> {
        let name = container_name(bot);
        // One answer with the reading before it: the engine waits a second for the second reading.
        let options = StatsOptionsBuilder::new().stream(false).one_shot(false).build();
        match self.docker.stats(&name, Some(options)).next().await {
            None => Ok(None),
            Some(Ok(reading)) => Ok(observe::stats(&reading)),
            Some(Err(error)) if is_status(&error, 404) => Ok(None),
            Some(Err(error)) => Err(host_error(error, &name)),
        }
    }

    async fn inventory(&self) -> Result<Inventory, HostError> {
        let managed =
            HashMap::from([("label".to_owned(), vec![format!("{MANAGED_LABEL}=true"), BOT_LABEL.to_owned()])]);
        let containers = ListContainersOptionsBuilder::new().all(true).filters(&managed).build();
        let containers =
            self.docker.list_containers(Some(containers)).await.map_err(|error| host_error(error, "containers"))?;
        let volumes = ListVolumesOptionsBuilder::new().filters(&managed).build();
        let volumes = self.docker.list_volumes(Some(volumes)).await.map_err(|error| host_error(error, "volumes"))?;
        let tenants = HashMap::from([("label".to_owned(), vec![format!("{MANAGED_NETWORK_LABEL}=true")])]);
        let networks = ListNetworksOptionsBuilder::new().filters(&tenants).build();
        let networks =
            self.docker.list_networks(Some(networks)).await.map_err(|error| host_error(error, "networks"))?;
        Ok(Inventory {
            containers: containers.into_iter().filter_map(observe::listed_container).collect(),
            volumes: volumes.volumes.unwrap_or_default().into_iter().map(observe::listed_volume).collect(),
            networks: networks.into_iter().filter_map(observe::listed_network).collect(),
        })
    }

    async fn events(&self) -> Result<BoxStream<'static, BotId>, HostError> {
        let filters = HashMap::from([
            ("type".to_owned(), vec!["container".to_owned()]),
            ("label".to_owned(), vec![BOT_LABEL.to_owned()]),
        ]);
        // A stream that cannot be opened ends at once, so reachability is asked first.
        self.docker.ping().await.map_err(|error| host_error(error, "the engine"))?;
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        let events = self.docker.events(Some(options)).take_while(|event| std::future::ready(event.is_ok()));
        Ok(events.filter_map(|event| std::future::ready(event.ok().and_then(observe::event_bot))).boxed())
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    use super::*;

    #[test]
    fn a_login_never_carries_the_alphabet_the_engine_refuses() {
        // 0xfb 0xff encodes with both characters that differ between the alphabets.
        let encoded = STANDARD.encode([0xfb, 0xff, 0xfe]);
        assert!(encoded.contains('+') || encoded.contains('/'));
        let mut request = bollard::BollardRequest::new(bollard::body_full(bytes::Bytes::new()));
        request.headers_mut().insert("x-registry-auth", encoded.parse().unwrap());
        let sent = url_safe_login(request);
        let value = sent.headers()["x-registry-auth"].to_str().unwrap().to_owned();
        assert!(!value.contains('+') && !value.contains('/'));
        let decoded = URL_SAFE.decode(value).unwrap();
        assert_eq!(decoded, [0xfb, 0xff, 0xfe]);
    }
}
