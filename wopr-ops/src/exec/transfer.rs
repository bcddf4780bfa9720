//! Bringing images from this machine's engine to that of another machine.
//!
//! An image is saved to a file once, under the name of its content, and loaded by every machine that lacks it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use bollard::{Docker, query_parameters::ImportImageOptionsBuilder};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future::try_join_all};
use tokio::{io::AsyncWriteExt, sync::watch};

use crate::{images::Image, plan::spec::Service, ui::Ui};

/// Images on the way to a machine.
#[derive(Debug)]
pub(crate) struct Arrivals {
    /// Those that are there; `None` once no more will come.
    there: watch::Sender<Option<BTreeSet<String>>>,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self { there: watch::Sender::new(Some(BTreeSet::new())) }
    }
}

impl Arrivals {
    /// Waits until a service's images are there.
    pub(crate) async fn wait_for(&self, service: &Service) -> anyhow::Result<()> {
        // Its other end is here: it is not closed while somebody waits.
        let mut there = self.there.subscribe();
        let has_all = |there: &BTreeSet<String>| service.images().all(|image| there.contains(image));
        let there = there.wait_for(|there| there.as_ref().is_none_or(has_all)).await?;
        ensure!(there.is_some(), "{} has to wait for images that do not come", service.name);
        Ok(())
    }

    /// No more will come: whoever waits need not.
    pub(crate) fn end(&self) {
        self.there.send_replace(None);
    }

    fn has(&self, image: &Image) {
        self.there.send_modify(|there| {
            there.get_or_insert_default().insert(image.reference.clone());
        });
    }
}

/// Loads the images that this machine's engine lacks from their archives.
pub(crate) async fn load_here(ui: &Ui, here: &Docker, archives: &Path, images: &[&Image]) -> anyhow::Result<()> {
    for image in images {
        if !exists(here, &image.reference).await? {
            let task = ui.start(format!("loading {}", image.reference));
            let loaded = read_into(here, &archives.join(file_name(&image.reference))).await;
            task.ends(loaded, |size| format!("{} MB", size.div_ceil(1_000_000)))?;
        }
    }
    Ok(())
}

/// Loads the images that a machine lacks, in this order; says of each when it is there.
pub(crate) async fn load(
    ui: &Ui,
    here: &Docker,
    machine: (&str, &Docker),
    archives: &Path,
    images: &[Image],
    arrivals: &Arrivals,
) -> anyhow::Result<()> {
    let (name, inner) = machine;
    let there = try_join_all(images.iter().map(|image| exists(inner, &image.reference))).await?;
    let (there, lacking): (Vec<_>, Vec<_>) = images.iter().zip(there).partition(|(_, there)| *there);
    for (image, _) in there {
        arrivals.has(image);
    }
    for (image, _) in lacking {
        let task = ui.start(format!("{name}: loading {}", image.reference));
        let loaded = async {
            let archive = saved(here, archives, image).await?;
            let loaded = read_into(inner, &archive).await;
            // A power cut may have left half a file under the whole one's name: the next attempt saves the image anew.
            if loaded.is_err() && exists(here, &image.reference).await? {
                fs::remove_file(&archive).with_context(|| format!("{}", archive.display()))?;
            }
            loaded
        };
        task.ends(loaded.await, |size| format!("{} MB", size.div_ceil(1_000_000)))?;
        arrivals.has(image);
    }
    Ok(())
}

async fn exists(engine: &Docker, reference: &str) -> anyhow::Result<bool> {
    match engine.inspect_image(reference).await {
        Ok(_) => Ok(true),
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("the engine does not tell about {reference}")),
    }
}

/// The image's archive, written if there is none of this content.
pub(crate) async fn saved(here: &Docker, archives: &Path, image: &Image) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(archives).with_context(|| format!("{} could not be created", archives.display()))?;
    let file = archives.join(file_name(&image.reference));
    if file.is_file() {
        return Ok(file);
    }
    // Two machines may want the same image at once, each writing a draft of its own.
    let draft = file.with_extension(format!("{:08x}", rand::random::<u32>()));
    let mut output = tokio::fs::File::create(&draft).await.with_context(|| format!("{}", draft.display()))?;
    let mut content = std::pin::pin!(here.export_images(&[&image.reference, &image.name]));
    let written = async {
        while let Some(chunk) = content.next().await {
            output.write_all(&chunk.context("the engine stopped handing the image out")?).await?;
        }
        output.flush().await?;
        anyhow::Ok(())
    };
    if let Err(error) = written.await {
        let _gone = fs::remove_file(&draft);
        return Err(error.context(format!("{} could not be saved", image.reference)));
    }
    fs::rename(&draft, &file).with_context(|| format!("{} cannot be written", file.display()))?;
    Ok(file)
}

async fn read_into(inner: &Docker, archive: &Path) -> anyhow::Result<u64> {
    let file = tokio::fs::File::open(archive).await.with_context(|| format!("{}", archive.display()))?;
    let size = file.metadata().await?.len();
    let chunks = futures_util::stream::try_unfold(file, async |mut file| {
        use tokio::io::AsyncReadExt;
        let mut chunk = bytes::BytesMut::with_capacity(1 << 20);
        let read = file.read_buf(&mut chunk).await?;
        Ok::<_, std::io::Error>((read > 0).then(|| (chunk.freeze(), file)))
    });
    let options = ImportImageOptionsBuilder::default().quiet(true).build();
    let answers = inner.import_image_stream(
        options,
        Box::pin(chunks) as std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Bytes, std::io::Error>> + Send>>,
        None,
    );
    answers
        .try_for_each(|_| async { Ok(()) })
        .await
        .with_context(|| format!("{} could not be loaded", archive.display()))?;
    Ok(size)
}

/// Removes archives of images that are not current.
pub(crate) fn prune(archives: &Path, current: &[Image]) -> anyhow::Result<()> {
    let kept: Vec<String> = current.iter().map(|image| file_name(&image.reference)).collect();
    for entry in fs::read_dir(archives).into_iter().flatten().flatten() {
        if !kept.iter().any(|name| *name == entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path()).with_context(|| format!("{}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// What the archive of an image is called.
pub(crate) fn file_name(reference: &str) -> String {
    format!("{}.tar", reference.replace(['/', ':'], "_"))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;

    use super::*;
    use crate::{
        plan::platform::{Ports, VPS},
        runbook::{Where, planned::Planned},
    };

    #[tokio::test]
    async fn a_service_waits_for_all_of_its_images_and_for_no_other() {
        let planned = Planned::anywhere(Ports::default()).unwrap();
        let services = &planned.at(Where::Vps).services;
        let service = |name| services.iter().find(|service| service.name == name).unwrap();
        let arrivals = Arrivals::default();
        let mut api = pin!(arrivals.wait_for(service(VPS.api)));
        let mut database = pin!(arrivals.wait_for(service(VPS.postgres)));
        let has = |name: &str| arrivals.has(&Image { name: name.to_owned(), reference: format!("{name}:content") });
        has("api");
        has("bot");
        assert!(poll!(api.as_mut()).is_pending() && poll!(database.as_mut()).is_pending());
        has("postgres");
        assert!(poll!(api.as_mut()).is_pending() && poll!(database.as_mut()).is_ready());
        has("backup");
        assert!(poll!(api.as_mut()).is_ready());
    }

    #[tokio::test]
    async fn nobody_waits_for_what_does_not_come() {
        let planned = Planned::anywhere(Ports::default()).unwrap();
        let arrivals = Arrivals::default();
        let mut waiting = pin!(arrivals.wait_for(&planned.at(Where::Vps).services[0]));
        assert!(poll!(waiting.as_mut()).is_pending());
        arrivals.end();
        assert!(waiting.await.is_err());
    }
}
