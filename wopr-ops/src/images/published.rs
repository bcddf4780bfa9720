//! Bases of images in a registry: what Debian packages make of them, taken from there where it answers.
//!
//! `local/images/published.toml` says which there are, by digest: what comes is what was published, whoever keeps the
//! registry. A base is only taken for the very list of packages that it was made from.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use anyhow::Context;
use bollard::{
    Docker,
    auth::DockerCredentials,
    body_full,
    query_parameters::{
        BuildImageOptionsBuilder, CreateImageOptionsBuilder, PushImageOptionsBuilder, RemoveImageOptionsBuilder,
    },
};
use futures_util::{Stream, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::{
    Base, IMAGE_LABEL, PACKAGES_LABEL,
    layer::{Layer, context},
    recipes::BaseRecipe,
};

/// The list as it lies in the checkout.
pub(crate) const FILE: &str = "local/images/published.toml";
/// How long a registry may say nothing while something is asked of it.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same of an engine that fetches a large image: it is silent while it looks a layer of gigabytes through.
const LARGE_PATIENCE: Duration = Duration::from_mins(10);
/// Value of [`IMAGE_LABEL`] on bases: no image that runs is called so.
const BASE: &str = "wopr-base";
/// How long a base may take to come.
const PULL: Duration = Duration::from_mins(5);
/// What a published base is: one layer, nothing that runs.
const DOCKERFILE: &str = "FROM scratch\nADD rootfs.tar /\n";

/// The bases that are published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Published {
    /// By the name of the image.
    #[serde(default)]
    bases: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Fingerprint of the list of packages.
    packages: String,
    /// `registry/repository@sha256:…`.
    reference: String,
}

impl Published {
    /// What this program knows to be published.
    pub(crate) fn shipped() -> anyhow::Result<Self> {
        Self::parse(include_str!("../../../local/images/published.toml"))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let published: Self = toml::from_str(text).with_context(|| format!("{FILE} cannot be read"))?;
        for (name, entry) in &published.bases {
            let digest = entry.reference.split_once("@sha256:").map(|(_, digest)| digest);
            let whole =
                digest.is_some_and(|digest| digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()));
            anyhow::ensure!(whole, "{FILE}: {name} is not named by a digest: {}", entry.reference);
        }
        Ok(published)
    }

    /// The same with these in place of those of the same names.
    pub(crate) fn and(mut self, newer: Self) -> Self {
        self.bases.extend(newer.bases);
        self
    }

    /// The text of the file.
    pub(crate) fn text(&self) -> anyhow::Result<String> {
        let head = "# Bases of images that a registry has. `cargo wopr images --publish REGISTRY/PATH` writes this.\n";
        Ok(format!("{head}{}", toml::to_string(self)?))
    }

    /// Where the base is that was made from the recipe's very packages.
    pub(crate) fn reference(&self, recipe: &BaseRecipe) -> Option<&str> {
        let entry = self.bases.get(recipe.name)?;
        (entry.packages == recipe.fingerprint()).then_some(entry.reference.as_str())
    }
}

/// Who we are at a registry that does not let everybody in.
pub(crate) struct Login {
    server: String,
    user: String,
    password: String,
}

impl Login {
    /// Variable: the registry, such as `ghcr.io`. No other is shown the password.
    const SERVER: &str = "WOPR_REGISTRY";
    /// Variable: the user.
    const USER: &str = "WOPR_REGISTRY_USER";
    /// Variable: the password or token.
    const PASSWORD: &str = "WOPR_REGISTRY_PASSWORD";

    pub(crate) fn new(server: &str, user: &str, password: &str) -> Self {
        Self { server: server.to_owned(), user: user.to_owned(), password: password.to_owned() }
    }

    /// What the environment says.
    ///
    /// # Errors
    /// If it says a part of it.
    pub(crate) fn from_environment() -> anyhow::Result<Option<Self>> {
        let of = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        match (of(Self::SERVER), of(Self::USER), of(Self::PASSWORD)) {
            (Some(server), Some(user), Some(password)) => Ok(Some(Self::new(&server, &user, &password))),
            (None, None, None) => Ok(None),
            _ => anyhow::bail!("{}, {} and {} belong together", Self::SERVER, Self::USER, Self::PASSWORD),
        }
    }

    /// For that registry, if it is the one.
    fn at(&self, reference: &str) -> Option<DockerCredentials> {
        let is_ours = reference.split_once('/').is_some_and(|(server, _)| server == self.server);
        is_ours.then(|| DockerCredentials {
            username: Some(self.user.clone()),
            password: Some(self.password.clone()),
            serveraddress: Some(self.server.clone()),
            ..Default::default()
        })
    }
}

/// Where bases may be had.
pub(crate) struct Registry {
    pub(crate) published: Published,
    pub(crate) login: Option<Login>,
}

impl Registry {
    /// The one that this program knows.
    ///
    /// # Errors
    /// If something is published, and the environment says a part of a login.
    pub(crate) fn shipped() -> anyhow::Result<Self> {
        let published = Published::shipped()?;
        let login = if published.bases.is_empty() { None } else { Login::from_environment()? };
        Ok(Self { published, login })
    }

    /// Fetches a base by its digest.
    pub(crate) async fn pull(&self, engine: &Docker, reference: &str) -> anyhow::Result<Base> {
        let engine = &for_registries(engine);
        let options = CreateImageOptionsBuilder::default().from_image(reference).build();
        let login = self.login.as_ref().and_then(|login| login.at(reference));
        let pulled = drain(engine.create_image(Some(options), None, login), PATIENCE, |news| {
            news.error_detail.and_then(|error| error.message)
        });
        let in_time = tokio::time::timeout(PULL, pulled).await;
        in_time.with_context(|| format!("it was not there after {} s", PULL.as_secs()))??;
        let base = read(engine, reference).await;
        let options = RemoveImageOptionsBuilder::default().force(true).build();
        let removed = engine.remove_image(reference, Some(options), None).await;
        let base = base?;
        removed.with_context(|| format!("{reference} could not be removed"))?;
        Ok(base)
    }
}

/// Puts a base into a registry; answers with what has to be known to fetch it.
pub(crate) async fn publish(
    engine: &Docker,
    recipe: &BaseRecipe,
    base: Base,
    prefix: &str,
    login: Option<&Login>,
) -> anyhow::Result<Published> {
    let (repository, tag) = (format!("{prefix}/wopr-base-{}", recipe.name), recipe.fingerprint());
    let reference = format!("{repository}:{tag}");
    let packages = base.packages.join(" ");
    // With the label of ours, `down --volumes` finds it, should this end before it is removed.
    let labels = HashMap::from([(PACKAGES_LABEL, packages.as_str()), (IMAGE_LABEL, BASE)]);
    let options = BuildImageOptionsBuilder::default().t(&reference).labels(&labels).rm(true).forcerm(true).build();
    let body = body_full(context(DOCKERFILE, &base.layer.finish()?)?.into());
    // This machine's engine, which is silent while it writes a large layer.
    let built = engine.build_image(options, None, Some(body)).try_for_each(async |news| {
        match news.error_detail.and_then(|error| error.message) {
            Some(error) => Err(bollard::errors::Error::DockerStreamError { error }),
            None => Ok(()),
        }
    });
    built.await.with_context(|| format!("{reference} could not be built"))?;
    let pushed = push(engine, &repository, &tag, login).await;
    let options = RemoveImageOptionsBuilder::default().force(true).build();
    let removed = engine.remove_image(&reference, Some(options), None).await;
    let reference = pushed?;
    removed.with_context(|| format!("{repository}:{tag} could not be removed"))?;
    Ok(Published { bases: BTreeMap::from([(recipe.name.to_owned(), Entry { packages: tag, reference })]) })
}

/// The same engine, told of logins in the alphabet that it reads: that of URLs, which the library does not write.
fn for_registries(engine: &Docker) -> Docker {
    engine.clone().with_request_modifier(|mut request| {
        if let Some(login) = request.headers_mut().get_mut("x-registry-auth")
            && let Ok(text) = login.to_str()
            && let Ok(value) = text.replace('+', "-").replace('/', "_").parse()
        {
            *login = value;
        }
        request
    })
}

async fn push(engine: &Docker, repository: &str, tag: &str, login: Option<&Login>) -> anyhow::Result<String> {
    let engine = &for_registries(engine);
    let options = PushImageOptionsBuilder::default().tag(tag).build();
    let login = login.and_then(|login| login.at(repository));
    drain(engine.push_image(repository, Some(options), login), PATIENCE, |news| {
        news.error_detail.and_then(|error| error.message)
    })
    .await
    .with_context(|| format!("{repository}:{tag} could not be pushed"))?;
    let image = engine.inspect_image(&format!("{repository}:{tag}")).await?;
    let mut digests = image.repo_digests.unwrap_or_default().into_iter();
    digests
        .find(|digest| digest.starts_with(&format!("{repository}@")))
        .with_context(|| format!("the engine does not tell the digest of {repository}:{tag}"))
}

/// Has an engine fetch somebody else's image and keep it.
///
/// # Errors
/// If it cannot be had.
pub(crate) async fn fetch(engine: &Docker, reference: &str, login: Option<&Login>) -> anyhow::Result<()> {
    let engine = &for_registries(engine);
    let options = CreateImageOptionsBuilder::default().from_image(reference).build();
    let login = login.and_then(|login| login.at(reference));
    // Without a tag the engine would fetch all there are.
    let name = reference.rsplit('/').next().unwrap_or(reference);
    anyhow::ensure!(name.contains([':', '@']), "{reference} names neither a tag nor a digest");
    let fetched = drain(engine.create_image(Some(options), None, login), LARGE_PATIENCE, |news| {
        news.error_detail.and_then(|error| error.message)
    });
    fetched.await.with_context(|| format!("{reference} could not be fetched"))
}

/// Reads the engine's answers to their end; the first failure in them is one, and so is silence.
async fn drain<T>(
    answers: impl Stream<Item = Result<T, bollard::errors::Error>>,
    patience: Duration,
    failure: impl Fn(T) -> Option<String>,
) -> anyhow::Result<()> {
    let mut answers = std::pin::pin!(answers);
    loop {
        let next = tokio::time::timeout(patience, answers.next()).await;
        match next.with_context(|| format!("nothing was heard for {} s", patience.as_secs()))? {
            None => return Ok(()),
            Some(news) => {
                if let Some(message) = failure(news?) {
                    anyhow::bail!(message);
                }
            }
        }
    }
}

/// The layer of a base that the engine has.
async fn read(engine: &Docker, reference: &str) -> anyhow::Result<Base> {
    let labels = engine.inspect_image(reference).await?.config.and_then(|config| config.labels).unwrap_or_default();
    let packages = labels.get(PACKAGES_LABEL).with_context(|| format!("{reference} does not name its packages"))?;
    let packages = packages.split(' ').map(str::to_owned).collect();
    let mut archive = Vec::new();
    let mut content = std::pin::pin!(engine.export_image(reference));
    while let Some(chunk) = content.next().await {
        archive.extend_from_slice(&chunk.context("the engine stopped handing the image out")?);
    }
    let layer = tokio::task::spawn_blocking(move || only_layer(&archive)).await?;
    Ok(Base { layer: layer.with_context(|| format!("{reference} is no base"))?, packages })
}

/// The one layer of an image that the engine has saved.
fn only_layer(archive: &[u8]) -> anyhow::Result<Layer> {
    #[derive(Deserialize)]
    struct Manifest {
        #[serde(rename = "Layers")]
        layers: Vec<String>,
    }
    let manifest: Vec<Manifest> = serde_json::from_slice(file_of(archive, "manifest.json")?)?;
    let [Manifest { layers }] = manifest.as_slice() else { anyhow::bail!("it has {} manifests", manifest.len()) };
    let [layer] = layers.as_slice() else { anyhow::bail!("it has {} layers", layers.len()) };
    Layer::from_archive(file_of(archive, layer)?)
}

/// The content of a file of an archive.
fn file_of<'a>(archive: &'a [u8], path: &str) -> anyhow::Result<&'a [u8]> {
    let mut entries = tar::Archive::new(archive);
    for entry in entries.entries()? {
        let entry = entry?;
        if entry.path()?.to_str() == Some(path) {
            let start = usize::try_from(entry.raw_file_position())?;
            let end = start + usize::try_from(entry.size())?;
            return archive.get(start..end).with_context(|| format!("{path} breaks off"));
        }
    }
    anyhow::bail!("there is no {path}")
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            layer::{Owner, ROOT, contents},
            recipes::{ASSEMBLIES, POSTGRES_BASE},
        },
        *,
    };

    fn recipe() -> BaseRecipe {
        ASSEMBLIES[0].base()
    }

    fn entry(packages: &str, digest: &str) -> String {
        format!("[bases.{}]\npackages = \"{packages}\"\nreference = \"registry.example/x@{digest}\"\n", recipe().name)
    }

    #[test]
    fn what_is_shipped_can_be_read() {
        let shipped = Published::shipped().unwrap();
        assert_eq!(Published::parse(&shipped.text().unwrap()).unwrap(), shipped);
    }

    #[test]
    fn a_base_is_taken_for_its_own_packages_alone() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let fits = Published::parse(&entry(&recipe().fingerprint(), &digest)).unwrap();
        assert_eq!(fits.reference(&recipe()), Some(format!("registry.example/x@{digest}").as_str()));
        assert_eq!(fits.reference(&POSTGRES_BASE), None);
        let stale = Published::parse(&entry("0123456789abcdef", &digest)).unwrap();
        assert_eq!(stale.reference(&recipe()), None);
        assert_eq!(stale.clone().and(fits.clone()), fits);
        let mut other = recipe();
        other.packages = "bash";
        assert_ne!(other.fingerprint(), recipe().fingerprint());
    }

    #[test]
    fn a_login_is_shown_to_its_own_registry_alone() {
        let login = Login::new("registry.example", "user", "password");
        assert!(login.at("registry.example/a/b").is_some());
        for other in ["registry.example.org/a/b", "other.example/registry.example/a", "registry.example"] {
            assert!(login.at(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_base_without_a_digest_is_refused() {
        for digest in
            ["latest", "sha256:0a", &format!("sha256:{}", "x".repeat(64)), &format!("sha512:{}", "0a".repeat(64))]
        {
            assert!(Published::parse(&entry("00", digest)).is_err(), "{digest}");
        }
        assert!(Published::parse("[base.caddy]").is_err());
    }

    #[test]
    fn the_layer_of_a_saved_image_is_read_as_it_was_written() {
        let mut layer = Layer::new();
        let long = "usr/share/".to_owned() + &"long-name-".repeat(20);
        layer.directory("data", 0o700, Owner { uid: 7, gid: 8 }).unwrap();
        layer.file("usr/bin/a", 0o4755, ROOT, b"program").unwrap();
        layer.file(&long, 0o644, ROOT, b"far away").unwrap();
        layer.symlink("usr/bin/b", std::path::Path::new("a")).unwrap();
        layer.hard_link("usr/bin/c", "usr/bin/a").unwrap();
        let inner = layer.finish().unwrap();
        let save = |layers: &str| {
            let mut saved = Layer::new();
            saved.file("abc/layer.tar", 0o644, ROOT, &inner).unwrap();
            saved.file("manifest.json", 0o644, ROOT, format!("[{{\"Layers\":[{layers}]}}]").as_bytes()).unwrap();
            saved.finish().unwrap()
        };
        let saved = save("\"abc/layer.tar\"");
        let read = only_layer(&saved).unwrap();
        assert!(["data", "usr", "usr/bin", "usr/bin/a", &long].iter().all(|path| read.contains(path)));
        assert!(!read.contains("usr/bin/d"));
        assert_eq!(contents(&read.finish().unwrap()).unwrap(), contents(&inner).unwrap());
        assert!(only_layer(&save("")).is_err());
        assert!(only_layer(&save("\"abc/layer.tar\",\"abc/layer.tar\"")).is_err());
        assert!(only_layer(&save("\"elsewhere\"")).is_err());
        assert!(only_layer(&saved[..saved.len() / 2]).is_err());
    }

    #[tokio::test]
    async fn a_registry_that_is_not_there_is_told() {
        let engine = crate::engine::connect().await.unwrap();
        let registry = Registry { published: Published::default(), login: None };
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let reference = format!("{closed}/wopr/base@sha256:{}", "0a".repeat(32));
        let error = registry.pull(&engine, &reference).await.map(drop).unwrap_err();
        assert!(format!("{error:#}").contains("refused"), "{error:#}");
    }
}
