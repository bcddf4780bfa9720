//! Whether the machine of the inference services is given a graphics card, and the images that compute with it.

use std::collections::BTreeMap;

use anyhow::Context;
use bollard::Docker;

use crate::{
    exec::ready::output_of,
    images::{
        published::{Login, fetch},
        recipes::MACHINE_PROGRAM,
    },
    plan::{
        machines::GPU,
        production::{Production, RUNTIME},
    },
    ui::Ui,
};

/// What this machine has of what production's services need.
pub(crate) enum Card {
    /// The engine gives nobody a card.
    None,
    /// It does, and this is missing.
    WithoutModels(String),
    /// Everything is there.
    Complete(Box<Production>),
}

impl Card {
    /// Asks the engine, and looks for the models that the environment names.
    ///
    /// # Errors
    /// If the engine does not tell.
    pub(crate) async fn of(engine: &Docker) -> anyhow::Result<Self> {
        let info = engine.info().await.context("the engine does not tell about itself")?;
        if !info.runtimes.is_some_and(|runtimes| runtimes.contains_key(RUNTIME)) {
            return Ok(Self::None);
        }
        let production = Production::new(|name| std::env::var(name).ok());
        let lacking = production.lacking();
        if lacking.is_empty() {
            return Ok(Self::Complete(Box::new(production)));
        }
        let files: Vec<String> = lacking.iter().map(|file| file.display().to_string()).collect();
        Ok(Self::WithoutModels(files.join(" and ")))
    }

    /// What the machine is to run, if it is production's services.
    pub(crate) fn production(&self) -> Option<&Production> {
        if let Self::Complete(production) = self { Some(production) } else { None }
    }

    /// Says what computes, where that is not plain.
    pub(crate) fn say(&self, ui: &Ui) {
        match self {
            Self::None => {}
            Self::WithoutModels(files) => ui.note(format!(
                "the engine has NVIDIA's runtime, but {files} is not there: the processor computes, with small models"
            )),
            Self::Complete(production) => ui.note(format!(
                "the graphics card computes, with production's images and the models of {}",
                production.models().display()
            )),
        }
    }
}

/// Whether the GPU machine has a card for its containers, as it says itself.
pub(crate) async fn handed_on(engine: &Docker) -> anyhow::Result<bool> {
    let nodes = output_of(engine, GPU, &[MACHINE_PROGRAM, "card"]).await?;
    let nodes: usize = nodes.trim().parse().with_context(|| format!("{GPU} says of its card: {nodes}"))?;
    Ok(nodes > 0)
}

/// Production's services with the machine's images; those that it lacks it fetches. Where one cannot be had the small services
/// serve, and that is said.
pub(crate) async fn fetched(ui: &Ui, inner: &Docker, wanted: &Production) -> anyhow::Result<Option<Production>> {
    let login = Login::from_environment()?;
    for image in wanted.images() {
        if digest(inner, image).await?.is_some() {
            continue;
        }
        let task = ui.start(format!("pulling {image}"));
        if let Err(error) = task.ends(fetch(inner, image, login.as_ref()).await, |()| String::new()) {
            ui.warn(format!("the processor computes then, with small models: {error:#}"));
            return Ok(None);
        }
    }
    by_digest(inner, wanted).await
}

/// Production's services with the images that the machine has, named by their digests, if it has all of them.
pub(crate) async fn by_digest(inner: &Docker, wanted: &Production) -> anyhow::Result<Option<Production>> {
    let mut digests = BTreeMap::new();
    for image in wanted.images() {
        let Some(digest) = digest(inner, image).await? else { return Ok(None) };
        digests.insert(image.to_owned(), digest);
    }
    Ok(Some(wanted.clone().with_images(|name| digests.get(name).cloned().unwrap_or_default())))
}

/// What names exactly the image that an engine has under this name: its digest, or that of its content.
async fn digest(engine: &Docker, image: &str) -> anyhow::Result<Option<String>> {
    match engine.inspect_image(image).await {
        Ok(found) => {
            let digest = found.repo_digests.unwrap_or_default().into_iter().next();
            Ok(digest.or(found.id))
        }
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("the engine does not tell about {image}")),
    }
}
