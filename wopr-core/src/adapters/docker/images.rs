//! Fetching images.

use bollard::auth::DockerCredentials;
use bollard::errors::Error;
use bollard::models::ImageInspect;
use bollard::query_parameters::CreateImageOptions;
use futures_util::StreamExt as _;
use secrecy::ExposeSecret as _;

use super::{DockerHost, failed, optional};
use crate::fleet::{HostError, ImageDigest, ImageReference};

/// The engine reads logins in the URL-safe alphabet and the client writes the standard one: some passwords would be
/// refused.
pub(super) fn url_safe_login(mut request: bollard::BollardRequest) -> bollard::BollardRequest {
    for name in ["x-registry-auth", "x-registry-config"] {
        if let Some(value) = request.headers_mut().get_mut(name)
            && let Ok(text) = value.to_str()
            && let Ok(safe) = text.replace('+', "-").replace('/', "_").parse()
        {
            *value = safe;
        }
    }
    request
}

/// Fetches the image and answers its digest; if it cannot be fetched, or if the engine's own images come first, takes what
/// the engine has under that name.
pub(super) async fn resolve(host: &DockerHost, image: &ImageReference) -> Result<ImageDigest, HostError> {
    if host.own_images_first
        && let Some(own) = optional(host.docker.inspect_image(&image.to_string()).await)?
    {
        return digest(image, own);
    }
    let pulled = pull(host, &image.name(), image.tag().unwrap_or("latest"), image.registry()).await;
    let local = optional(host.docker.inspect_image(&image.to_string()).await)?;
    let Some(local) = local else {
        return Err(pulled.err().unwrap_or_else(|| HostError::NotFound(image.to_string())));
    };
    if let Err(error) = pulled {
        tracing::warn!("{image} cannot be fetched, the engine's own copy is used: {error} ({error:?})");
    }
    digest(image, local)
}

/// What the registry says that the name means; where none can be asked, or the engine's own images come first, what the engine
/// has under it.
pub(super) async fn look_up(host: &DockerHost, image: &ImageReference) -> Result<ImageDigest, HostError> {
    let own = optional(host.docker.inspect_image(&image.to_string()).await)?;
    if host.own_images_first
        && let Some(own) = own
    {
        return digest(image, own);
    }
    let asked = host.docker.inspect_registry_image(&image.to_string(), login(host, image.registry())).await;
    match (asked.map_err(|error| unavailable(&image.to_string(), error)), own) {
        (Ok(found), _) => {
            let digest = found.descriptor.digest.map(|digest| format!("{}@{digest}", image.name()));
            let digest = digest.and_then(|digest| digest.parse().ok());
            digest.ok_or_else(|| HostError::Refused(format!("the registry has no digest for {image}")))
        }
        (Err(error), Some(own)) => {
            tracing::warn!("no registry tells what {image} is, the engine's own copy counts: {error} ({error:?})");
            digest(image, own)
        }
        (Err(error), None) => Err(error),
    }
}

/// What names exactly this image: its digest in its repository, or, if it was made on the engine, its id there.
fn digest(image: &ImageReference, local: ImageInspect) -> Result<ImageDigest, HostError> {
    let repository = format!("{}@", image.name());
    let digests = local.repo_digests.unwrap_or_default();
    let found = digests.into_iter().find(|digest| digest.starts_with(&repository)).or(local.id);
    let found = found.and_then(|digest| digest.parse().ok());
    found.ok_or_else(|| HostError::Refused(format!("the engine has no digest for {image}")))
}

/// Fetches exactly this image, unless it is one that only the engine had.
pub(super) async fn pull_exactly(host: &DockerHost, image: &ImageDigest) -> Result<(), HostError> {
    let Some((name, digest)) = image.as_str().split_once('@') else {
        let reason = "it was made on the engine and is gone from there".to_owned();
        return Err(HostError::ImageUnavailable { image: image.to_string(), reason });
    };
    let registry = name.split('/').next().unwrap_or(name);
    pull(host, name, digest, registry).await
}

async fn pull(host: &DockerHost, name: &str, tag: &str, registry: &str) -> Result<(), HostError> {
    let options = CreateImageOptions {
        from_image: Some(name.to_owned()),
        tag: Some(tag.to_owned()),
        ..CreateImageOptions::default()
    };
    let mut progress = Box::pin(host.docker.create_image(Some(options), None, login(host, registry)));
    // The engine answers 200 and tells of failures later: the stream has to be read to its end.
    while let Some(part) = progress.next().await {
        part.map_err(|error| unavailable(&format!("{name}:{tag}"), error))?;
    }
    Ok(())
}

/// How the engine is to log in to a registry, if it is the one there is a login for.
fn login(host: &DockerHost, registry: &str) -> Option<DockerCredentials> {
    host.login.as_ref().filter(|login| login.server == registry).map(|login| DockerCredentials {
        username: Some(login.username.clone()),
        password: Some(login.password.expose_secret().to_owned()),
        serveraddress: Some(login.server.clone()),
        ..DockerCredentials::default()
    })
}

fn unavailable(image: &str, error: Error) -> HostError {
    match failed(error) {
        HostError::Refused(reason) | HostError::NotFound(reason) => {
            HostError::ImageUnavailable { image: image.to_owned(), reason }
        }
        other => other,
    }
}
