//! The images of the stack, built on this machine: what Debian packages make of them may come from a registry.
//!
//! An image is named by its content: a fingerprint of the recipe and of the program in it is the tag it runs under and
//! a label on it. It is built when no image of that fingerprint exists, and only then.

pub(crate) mod binaries;
pub(crate) mod debian;
pub(crate) mod layer;
mod memo;
pub(crate) mod published;
pub(crate) mod recipes;

use std::{collections::HashMap, fs, path::Path};

use anyhow::Context;
use bollard::{
    Docker, body_full,
    query_parameters::{
        BuildImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptions, RemoveImageOptionsBuilder,
        TagImageOptionsBuilder,
    },
};
use futures_util::StreamExt;

use self::{
    binaries::Built,
    layer::{Layer, Owner, ROOT, context, fingerprint},
    memo::Memo,
    published::Registry,
    recipes::{
        Assembly, BaseRecipe, LAYOUT, MODELS, POSTGRES_BASE, POSTGRES_DOCKERFILE, POSTGRES_ENTRYPOINT,
        POSTGRES_REPOSITORY, POSTGRES_TAG, POSTGRES_UID, Program,
    },
};
use crate::{
    failure::{Exit, Failure},
    paths::Paths,
    ui::Ui,
};

/// On every image of ours: the repository it belongs to. Containers inherit it, so it says nothing about them.
pub(crate) const IMAGE_LABEL: &str = "wopr.image";
/// Fingerprint of the recipe: what the image adds to the program.
const RECIPE_LABEL: &str = "wopr.image.recipe";
/// Fingerprint of the program in the image.
const PROGRAM_LABEL: &str = "wopr.image.program";
/// The Debian packages an image was made from.
const PACKAGES_LABEL: &str = "wopr.image.packages";

/// An image that is ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// `repository:fingerprint`: never moves.
    pub(crate) reference: String,
    /// `repository:tag` as a person would write it; moves with every build.
    pub(crate) name: String,
}

/// What an image is made from, as fingerprints.
struct Inputs {
    repository: &'static str,
    tag: &'static str,
    recipe: String,
    program: Option<String>,
}

impl Inputs {
    fn content(&self) -> String {
        fingerprint([self.recipe.as_bytes(), self.program.as_deref().unwrap_or_default().as_bytes()])
    }

    fn reference(&self) -> String {
        format!("{}:{}", self.repository, self.content())
    }

    fn image(&self) -> Image {
        Image { reference: self.reference(), name: format!("{}:{}", self.repository, self.tag) }
    }

    fn labels(&self) -> HashMap<String, String> {
        let program = self.program.clone().unwrap_or_default();
        [(IMAGE_LABEL, self.repository.to_owned()), (RECIPE_LABEL, self.recipe.clone()), (PROGRAM_LABEL, program)]
            .map(|(name, value)| (name.to_owned(), value))
            .into()
    }
}

/// The images of ours that an engine had when it was asked.
pub(crate) struct Shelf {
    engine: Docker,
    /// Ids and labels by name.
    there: HashMap<String, (String, HashMap<String, String>)>,
}

impl Shelf {
    /// Asks the engine.
    ///
    /// # Errors
    /// If it does not tell.
    pub(crate) async fn of(engine: &Docker) -> anyhow::Result<Self> {
        let mut there = HashMap::new();
        for summary in list(engine).await? {
            let (id, labels) = (&summary.id, &summary.labels);
            there.extend(summary.repo_tags.iter().map(|tag| (tag.clone(), (id.clone(), labels.clone()))));
        }
        Ok(Self { engine: engine.clone(), there })
    }

    fn labels(&self, name: &str) -> Option<&HashMap<String, String>> {
        self.there.get(name).map(|(_, labels)| labels)
    }

    /// Whether both names are of one image.
    fn same(&self, one: &str, other: &str) -> bool {
        let id = |name: &str| self.there.get(name).map(|(id, _)| id);
        id(one).is_some() && id(one) == id(other)
    }
}

/// Where what is made of packages comes from.
pub(crate) struct Sources<'a> {
    pub(crate) ui: &'a Ui,
    pub(crate) paths: &'a Paths,
    pub(crate) engine: &'a Docker,
    pub(crate) registry: &'a Registry,
}

/// What Debian packages make of an image.
pub(crate) struct Base {
    layer: Layer,
    /// `name=version` of each.
    packages: Vec<String>,
}

impl Base {
    /// The layer as an archive.
    pub(crate) fn finish(self) -> anyhow::Result<Vec<u8>> {
        self.layer.finish()
    }
}

/// Where a base came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Registry,
    Packages,
}

impl Sources<'_> {
    /// The base by its digest where a registry that has it answers, and else from packages.
    pub(crate) async fn base(&self, recipe: &BaseRecipe) -> anyhow::Result<(Base, Origin)> {
        if let Some(reference) = self.registry.published.reference(recipe) {
            let task = self.ui.start(format!("pulling {reference}"));
            let pulled = self.registry.pull(self.engine, reference).await;
            match task.ends(pulled, |base| megabytes(base.layer.len())) {
                Ok(base) => return Ok((base, Origin::Registry)),
                Err(error) => self.ui.warn(format!("the base of {} is made of packages then: {error:#}", recipe.name)),
            }
        }
        Ok((self.unpacked(*recipe).await?, Origin::Packages))
    }

    /// The base from packages.
    pub(crate) async fn unpacked(&self, recipe: BaseRecipe) -> anyhow::Result<Base> {
        let task = self.ui.start(format!("taking what {} needs from Debian packages", recipe.name));
        let cache = self.paths.data.join("cache");
        let (told, mut news) = tokio::sync::mpsc::unbounded_channel();
        let work = tokio::task::spawn_blocking(move || {
            let mut layer = Layer::new();
            let set = debian::PackageSet::parse(recipe.packages);
            let packages = debian::unpack(recipe.suite, &set, &cache, &mut layer, &|stage| _ = told.send(stage))?;
            anyhow::Ok(Base { layer, packages })
        });
        while let Some(stage) = news.recv().await {
            task.update(stage);
        }
        task.ends(work.await?, |base| format!("{} packages, {}", base.packages.len(), megabytes(base.layer.len())))
    }
}

/// The PostgreSQL image, built if there is none of the present recipe.
pub(crate) async fn postgres(shelf: &Shelf, sources: &Sources<'_>) -> anyhow::Result<Image> {
    let parts = [LAYOUT, POSTGRES_DOCKERFILE, POSTGRES_ENTRYPOINT, POSTGRES_BASE.packages];
    let inputs = Inputs {
        repository: POSTGRES_REPOSITORY,
        tag: POSTGRES_TAG,
        recipe: fingerprint(parts.map(str::as_bytes)),
        program: None,
    };
    let Some(why) = reason_to_build(shelf, &inputs) else {
        return unchanged(sources.ui, shelf, &inputs).await;
    };
    let (base, _) = sources.base(&POSTGRES_BASE).await?;
    let task = sources.ui.start(format!("building {} ({why})", inputs.repository));
    let labels = HashMap::from([(PACKAGES_LABEL.to_owned(), base.packages.join(" "))]);
    let built = match postgres_rootfs(base.layer) {
        Ok(rootfs) => build(&shelf.engine, &inputs, POSTGRES_DOCKERFILE, &rootfs, labels).await.map(|()| rootfs.len()),
        Err(error) => Err(error),
    };
    task.ends(built, |size| format!("{} ({})", inputs.reference(), megabytes(*size)))?;
    Ok(inputs.image())
}

/// The image of a program that was built, built if there is none of it.
pub(crate) async fn program(
    ui: &Ui,
    shelf: &Shelf,
    paths: &Paths,
    program: &Program,
    built: &Built,
) -> anyhow::Result<Image> {
    let bundle = digest_of(paths, Path::new(CA_BUNDLE)).await?;
    let inputs = Inputs {
        repository: program.repository,
        tag: program.tag,
        recipe: fingerprint([LAYOUT.as_bytes(), program.dockerfile.as_bytes(), bundle.as_bytes()]),
        program: Some(digest(paths, built).await?),
    };
    let Some(why) = reason_to_build(shelf, &inputs) else {
        return unchanged(ui, shelf, &inputs).await;
    };
    let task = ui.start(format!("building {}:{} ({why})", inputs.repository, inputs.tag));
    let result = match program_rootfs(program, built) {
        Ok(rootfs) => {
            build(&shelf.engine, &inputs, program.dockerfile, &rootfs, HashMap::new()).await.map(|()| rootfs.len())
        }
        Err(error) => Err(error),
    };
    task.ends(result, |size| format!("{} ({})", inputs.reference(), megabytes(*size)))?;
    Ok(inputs.image())
}

/// What an [`Assembly`] needs beside its packages; made when the programs are compiled.
#[derive(Debug, Default)]
struct Parts {
    /// Programs, in the order of the recipe.
    programs: Vec<Built>,
    /// Models, in the order of the recipe.
    models: Vec<(&'static str, Vec<u8>)>,
}

/// What packages make of an image, if there is no image of its recipe yet.
///
/// Packages alone need no compiler, so this runs while the programs compile; [`assembled`] finishes the image.
pub(crate) async fn base(
    shelf: &Shelf,
    sources: &Sources<'_>,
    recipe: &'static Assembly,
) -> anyhow::Result<Option<Base>> {
    if same_recipe(shelf, sources.paths, recipe).await? {
        return Ok(None);
    }
    sources.base(&recipe.base()).await.map(|(base, _)| Some(base))
}

/// The image of an assembly, built if there is none of it. `base` is what [`base`] answered.
pub(crate) async fn assembled(
    shelf: &Shelf,
    sources: &Sources<'_>,
    recipe: &'static Assembly,
    base: Option<Base>,
    compiled: &HashMap<&'static str, Built>,
) -> anyhow::Result<Image> {
    let (ui, paths) = (sources.ui, sources.paths);
    let mut programs = Vec::new();
    for binary in recipe.programs {
        programs.push(digest(paths, compiled_program(compiled, binary.name)?).await?);
    }
    // The same program writes the same models: they need not be written to know whether they have changed.
    if !recipe.models.is_empty() {
        programs.push(digest(paths, compiled_program(compiled, MODELS.name)?).await?);
    }
    let inputs = Inputs {
        repository: recipe.repository,
        tag: recipe.tag,
        recipe: recipe_of(paths, recipe).await?,
        program: Some(fingerprint(programs.iter().map(String::as_bytes))),
    };
    let Some(why) = reason_to_build(shelf, &inputs) else {
        return unchanged(ui, shelf, &inputs).await;
    };
    let base = match base {
        Some(base) => base,
        None => sources.base(&recipe.base()).await?.0,
    };
    let task = ui.start(format!("building {}:{} ({why})", inputs.repository, inputs.tag));
    let labels = HashMap::from([(PACKAGES_LABEL.to_owned(), base.packages.join(" "))]);
    let parts = parts(paths, recipe, compiled).await?;
    let result = match assembly_rootfs(recipe, base.layer, &parts) {
        Ok(rootfs) => build(&shelf.engine, &inputs, recipe.dockerfile, &rootfs, labels).await.map(|()| rootfs.len()),
        Err(error) => Err(error),
    };
    task.ends(result, |size| format!("{} ({})", inputs.reference(), megabytes(*size)))?;
    Ok(inputs.image())
}

/// Whether the image that carries the recipe's tag was made from this recipe, whatever its programs.
async fn same_recipe(shelf: &Shelf, paths: &Paths, recipe: &Assembly) -> anyhow::Result<bool> {
    let wanted = recipe_of(paths, recipe).await?;
    let labels = shelf.labels(&format!("{}:{}", recipe.repository, recipe.tag));
    Ok(labels.is_some_and(|labels| labels.get(RECIPE_LABEL) == Some(&wanted)))
}

async fn recipe_of(paths: &Paths, recipe: &Assembly) -> anyhow::Result<String> {
    let bundle = digest_of(paths, Path::new(CA_BUNDLE)).await?;
    let layout = format!("{:?} {:?} {:?} {:?}", recipe.directories, recipe.links, recipe.files, recipe.models);
    let suite = recipe.suite.name().unwrap_or_default();
    let uid = recipe.uid.to_string();
    let texts = [LAYOUT, recipe.dockerfile, recipe.packages, suite, &uid, &layout];
    Ok(fingerprint(texts.map(str::as_bytes).into_iter().chain([bundle.as_bytes()])))
}

fn compiled_program<'c>(compiled: &'c HashMap<&'static str, Built>, name: &str) -> anyhow::Result<&'c Built> {
    compiled.get(name).with_context(|| format!("{name} was not compiled"))
}

/// Finds the programs of an assembly and has its models written.
async fn parts(paths: &Paths, recipe: &Assembly, compiled: &HashMap<&'static str, Built>) -> anyhow::Result<Parts> {
    let mut parts = Parts::default();
    for binary in recipe.programs {
        parts.programs.push(compiled_program(compiled, binary.name)?.clone());
    }
    for (path, kind) in recipe.models {
        let file = paths.data.join("cache").join(format!("model-{kind}"));
        let output = tokio::process::Command::new(&compiled_program(compiled, MODELS.name)?.executable)
            .arg(kind)
            .arg(&file)
            .output()
            .await;
        let output = output.with_context(|| format!("{} could not be run", MODELS.name))?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{} {kind}: {}", MODELS.name, said.trim());
        let model = fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        parts.models.push((path, model));
    }
    Ok(parts)
}

/// Fingerprint of a program and its libraries.
async fn digest(paths: &Paths, built: &Built) -> anyhow::Result<String> {
    let mut digests = Vec::new();
    for file in [&built.executable].into_iter().chain(&built.libraries) {
        digests.push(digest_of(paths, file).await?);
    }
    Ok(fingerprint(digests.iter().map(String::as_bytes)))
}

/// SHA-256 of a file, as hexadecimal digits; read again only if the file is another than when it was read last.
///
/// `sha256sum` reads 100 MB in a moment, where this program, which is never compiled for speed, takes ten seconds.
async fn digest_of(paths: &Paths, file: &Path) -> anyhow::Result<String> {
    let memo = Memo::of(paths, "digests", file)?;
    if let Some(known) = memo.known() {
        return Ok(known);
    }
    let output = tokio::process::Command::new("sha256sum").arg("--").arg(file).output().await;
    let output = output.context("sha256sum could not be run")?;
    anyhow::ensure!(output.status.success(), "sha256sum: {}", String::from_utf8_lossy(&output.stderr).trim());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let sum = text.split(' ').next().with_context(|| format!("{} cannot be read", file.display()))?.to_owned();
    memo.keep(&sum)?;
    Ok(sum)
}

/// Certificate authorities of this machine; package `ca-certificates`.
pub(crate) const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

fn bundle() -> anyhow::Result<Vec<u8>> {
    fs::read(CA_BUNDLE).with_context(|| format!("{CA_BUNDLE} cannot be read"))
}

async fn unchanged(ui: &Ui, shelf: &Shelf, inputs: &Inputs) -> anyhow::Result<Image> {
    ui.note(format!("{}:{} is unchanged", inputs.repository, inputs.tag));
    let image = inputs.image();
    // Somebody may have moved the tag to an image that was built from something else.
    if !shelf.same(&image.reference, &image.name) {
        tag(&shelf.engine, inputs).await?;
    }
    Ok(image)
}

/// The images of these names that were built last; of one that was not built here, that of the last bundle.
///
/// # Errors
/// The first that is not there.
pub(crate) async fn existing(
    paths: &Paths,
    engine: &Docker,
    names: &[&'static str],
) -> anyhow::Result<std::collections::BTreeMap<&'static str, Image>> {
    let mut found = std::collections::BTreeMap::new();
    let unpacked = crate::commands::bundle::unpacked(paths)?;
    for name in names {
        let tagged = recipes::tagged(name).with_context(|| format!("there is no image {name}"))?;
        let tags = match engine.inspect_image(&tagged).await {
            Ok(image) => image.repo_tags.unwrap_or_default(),
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Vec::new(),
            Err(error) => return Err(error).with_context(|| format!("the engine does not tell about {tagged}")),
        };
        let bundled = || unpacked.get(*name).cloned();
        let Some(reference) = tags.into_iter().find(|tag| *tag != tagged).or_else(bundled) else {
            return Err(Failure::new(Exit::Image, format!("the image {tagged} is not there"))
                .fix("`cargo wopr up` builds it")
                .into());
        };
        found.insert(*name, Image { reference, name: tagged });
    }
    Ok(found)
}

/// Why the image has to be built; `None` if one of this content is there.
fn reason_to_build(shelf: &Shelf, inputs: &Inputs) -> Option<String> {
    if shelf.labels(&inputs.reference()).is_some() {
        return None;
    }
    let previous = shelf.labels(&format!("{}:{}", inputs.repository, inputs.tag));
    Some(why_build(&inputs.labels(), previous))
}

fn why_build(wanted: &HashMap<String, String>, previous: Option<&HashMap<String, String>>) -> String {
    let Some(previous) = previous.filter(|labels| labels.contains_key(IMAGE_LABEL)) else {
        return "there is none yet".to_owned();
    };
    let changed = |label: &str| wanted.get(label) != previous.get(label);
    match (changed(RECIPE_LABEL), changed(PROGRAM_LABEL)) {
        (true, true) => "its recipe and its program have changed",
        (true, false) => "its recipe has changed",
        (false, true) => "its program has changed",
        (false, false) => "it was removed",
    }
    .to_owned()
}

async fn build(
    engine: &Docker,
    inputs: &Inputs,
    dockerfile: &str,
    rootfs: &[u8],
    more_labels: HashMap<String, String>,
) -> anyhow::Result<()> {
    let mut labels = inputs.labels();
    labels.extend(more_labels);
    let labels: HashMap<&str, &str> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let reference = inputs.reference();
    let options = BuildImageOptionsBuilder::default().t(&reference).labels(&labels).rm(true).forcerm(true).build();
    let body = body_full(context(dockerfile, rootfs)?.into());
    let mut output = std::pin::pin!(engine.build_image(options, None, Some(body)));
    let mut said = String::new();
    while let Some(item) = output.next().await {
        match item {
            Ok(info) => {
                said.push_str(info.stream.as_deref().unwrap_or_default());
                if let Some(message) = info.error_detail.and_then(|detail| detail.message) {
                    return Err(build_failure(&reference, &message, &said));
                }
            }
            Err(error) => return Err(build_failure(&reference, &error.to_string(), &said)),
        }
    }
    tag(engine, inputs).await
}

fn build_failure(reference: &str, message: &str, said: &str) -> anyhow::Error {
    let tail: Vec<&str> = said.lines().rev().take(10).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    Failure::new(Exit::Image, format!("{reference} could not be built"))
        .why(format!("{message}\n    {}", tail.join("\n    ")))
        .fix("the recipes lie in local/images")
        .into()
}

async fn tag(engine: &Docker, inputs: &Inputs) -> anyhow::Result<()> {
    let options = TagImageOptionsBuilder::default().repo(inputs.repository).tag(inputs.tag).build();
    engine
        .tag_image(&inputs.reference(), Some(options))
        .await
        .with_context(|| format!("{} could not be tagged", inputs.reference()))
}

/// Removes images of ours that a newer one has replaced and that no container uses.
pub(crate) async fn prune(engine: &Docker, current: &[Image]) -> anyhow::Result<()> {
    for summary in list(engine).await? {
        let keep = summary.repo_tags.iter().any(|tag| current.iter().any(|image| image.reference == *tag));
        let replaced = current.iter().any(|image| {
            let repository = image.reference.rsplit_once(':').map(|(repository, _)| repository);
            summary.labels.get(IMAGE_LABEL).map(String::as_str) == repository
        });
        if keep || !replaced {
            continue;
        }
        for name in names(&summary) {
            match engine.remove_image(&name, None::<RemoveImageOptions>, None).await {
                // 409: a container still runs it. 404: it went with another of its tags.
                Ok(_) | Err(bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. }) => {}
                Err(error) => return Err(error).with_context(|| format!("{name} could not be removed")),
            }
        }
    }
    Ok(())
}

/// Removes every image of ours with all its tags; answers with what was removed.
pub(crate) async fn remove_all(engine: &Docker) -> anyhow::Result<Vec<String>> {
    let mut removed = Vec::new();
    for summary in list(engine).await? {
        for name in names(&summary) {
            let options = RemoveImageOptionsBuilder::default().force(true).build();
            match engine.remove_image(&name, Some(options), None).await {
                Ok(_) => removed.push(name),
                // 404: it went with another of its tags. 409: a container that is not ours runs it, and may go on.
                Err(bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. }) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("{name} could not be removed"));
                }
            }
        }
    }
    Ok(removed)
}

/// Every name of every image of ours.
pub(crate) async fn all(engine: &Docker) -> anyhow::Result<Vec<String>> {
    Ok(list(engine).await?.iter().flat_map(names).collect())
}

async fn list(engine: &Docker) -> anyhow::Result<Vec<bollard::models::ImageSummary>> {
    let filters = HashMap::from([("label", vec![IMAGE_LABEL])]);
    let options = ListImagesOptionsBuilder::default().filters(&filters).build();
    engine.list_images(Some(options)).await.context("the engine does not list its images")
}

fn names(summary: &bollard::models::ImageSummary) -> Vec<String> {
    let tags: Vec<String> = summary.repo_tags.iter().filter(|tag| *tag != "<none>:<none>").cloned().collect();
    if tags.is_empty() { vec![summary.id.clone()] } else { tags }
}

fn program_rootfs(program: &Program, built: &Built) -> anyhow::Result<Vec<u8>> {
    let owner = Owner { uid: u64::from(program.uid), gid: u64::from(program.uid) };
    let mut layer = Layer::new();
    layer.directory("data", 0o700, owner)?;
    accounts(&mut layer, program.uid, &bundle()?)?;
    for library in &built.libraries {
        let path = library.to_str().context("a library's path is not text")?;
        layer.file(path.trim_start_matches('/'), 0o755, ROOT, &read(library)?)?;
    }
    if let Some(libc) = built.libraries.iter().find(|library| library.ends_with("libc.so.6")) {
        for library in program.loads.iter().map(|name| libc.with_file_name(name)) {
            let path = library.to_str().context("a library's path is not text")?;
            layer.file(path.trim_start_matches('/'), 0o755, ROOT, &read(&library)?)?;
        }
    }
    layer.file(program.binary, 0o755, ROOT, &read(&built.executable)?)?;
    layer.finish()
}

/// Adds what the packages of an assembly do not bring.
fn assembly_rootfs(recipe: &Assembly, mut layer: Layer, parts: &Parts) -> anyhow::Result<Vec<u8>> {
    let owner = Owner { uid: u64::from(recipe.uid), gid: u64::from(recipe.uid) };
    accounts(&mut layer, recipe.uid, &bundle()?)?;
    layer.directory("run", 0o755, ROOT)?;
    for directory in recipe.directories {
        layer.directory(directory, 0o700, owner)?;
    }
    for (path, target) in recipe.links {
        layer.symlink(path, Path::new(target))?;
    }
    for (path, content) in recipe.files {
        layer.file(path, 0o644, ROOT, content.as_bytes())?;
    }
    for (path, model) in &parts.models {
        layer.file(path, 0o644, ROOT, model)?;
    }
    for (binary, built) in recipe.programs.iter().zip(&parts.programs) {
        for library in &built.libraries {
            let path = debian::merged(library).context("a library's path is not text")?;
            // The packages' own C library is at least as new as the one of Debian 12, which programs are linked against.
            if !layer.contains(&path) {
                layer.file(&path, 0o755, ROOT, &read(library)?)?;
            }
        }
        layer.file(binary.name, 0o755, ROOT, &read(&built.executable)?)?;
    }
    layer.finish()
}

/// What every image has: a place for temporary files, names for its users, certificate authorities.
fn accounts(layer: &mut Layer, uid: u32, bundle: &[u8]) -> anyhow::Result<()> {
    layer.directory("tmp", 0o1777, ROOT)?;
    let of_ours = |line: String| if uid == 0 { String::new() } else { line };
    let passwd = format!("root:x:0:0:root:/:/\n{}", of_ours(format!("wopr:x:{uid}:{uid}:wopr:/data:/\n")));
    let group = format!("root:x:0:\n{}", of_ours(format!("wopr:x:{uid}:\n")));
    layer.file("etc/passwd", 0o644, ROOT, passwd.as_bytes())?;
    layer.file("etc/group", 0o644, ROOT, group.as_bytes())?;
    layer.file(CA_BUNDLE.trim_start_matches('/'), 0o644, ROOT, bundle)
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("{} cannot be read", file.display()))
}

/// Adds what the packages of PostgreSQL do not bring.
fn postgres_rootfs(mut layer: Layer) -> anyhow::Result<Vec<u8>> {
    let postgres = Owner { uid: POSTGRES_UID.into(), gid: POSTGRES_UID.into() };
    layer.directory("tmp", 0o1777, ROOT)?;
    layer.directory("run", 0o755, ROOT)?;
    layer.directory("run/postgresql", 0o2775, postgres)?;
    layer.directory("var/lib/postgresql", 0o755, postgres)?;
    layer.directory("var/lib/postgresql/data", 0o700, postgres)?;
    layer.directory("docker-entrypoint-initdb.d", 0o755, ROOT)?;
    if !layer.contains("var/run") {
        layer.symlink("var/run", Path::new("/run"))?;
    }
    if !layer.contains("usr/bin/sh") {
        layer.symlink("usr/bin/sh", Path::new("dash"))?;
    }
    layer.symlink("usr/lib/postgresql/current", Path::new(POSTGRES_TAG))?;
    let home = "/var/lib/postgresql";
    let passwd = format!("root:x:0:0:root:/:/bin/sh\npostgres:x:{POSTGRES_UID}:{POSTGRES_UID}::{home}:/bin/sh\n");
    layer.file("etc/passwd", 0o644, ROOT, passwd.as_bytes())?;
    layer.file("etc/group", 0o644, ROOT, format!("root:x:0:\npostgres:x:{POSTGRES_UID}:\n").as_bytes())?;
    layer.file("usr/local/bin/docker-entrypoint.sh", 0o755, ROOT, POSTGRES_ENTRYPOINT.as_bytes())?;
    layer.finish()
}

fn megabytes(bytes: usize) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(recipe: &str, program: &str) -> Inputs {
        Inputs { repository: "wopr-api", tag: "local", recipe: recipe.to_owned(), program: Some(program.to_owned()) }
    }

    #[test]
    fn a_build_says_what_has_changed() {
        let wanted = inputs("r2", "p2").labels();
        let why = |previous: Option<Inputs>| why_build(&wanted, previous.map(|inputs| inputs.labels()).as_ref());
        assert_eq!(why(None), "there is none yet");
        assert_eq!(why(Some(inputs("r2", "p1"))), "its program has changed");
        assert_eq!(why(Some(inputs("r1", "p2"))), "its recipe has changed");
        assert_eq!(why(Some(inputs("r1", "p1"))), "its recipe and its program have changed");
        assert_eq!(why(Some(inputs("r2", "p2"))), "it was removed");
        assert_eq!(why_build(&wanted, Some(&HashMap::new())), "there is none yet");
    }

    #[test]
    fn the_reference_follows_recipe_and_program() {
        assert_eq!(inputs("r", "p").reference(), inputs("r", "p").reference());
        assert_ne!(inputs("r", "p").reference(), inputs("r", "q").reference());
        assert_ne!(inputs("r", "p").reference(), inputs("s", "p").reference());
    }

    /// On the real engine: an image of the same inputs is built once, and a changed one says what has changed.
    #[tokio::test]
    async fn an_image_is_built_once_per_content() {
        let engine = crate::engine::connect().await.unwrap();
        let inputs = |program: &str| Inputs {
            repository: "wopr-ops-test",
            tag: "local",
            recipe: fingerprint([std::process::id().to_string().as_bytes()]),
            program: Some(program.to_owned()),
        };
        let dockerfile = "FROM scratch\nADD rootfs.tar /\nUSER 1000:1000\n";
        let mut layer = Layer::new();
        layer.directory("data", 0o700, Owner { uid: 1000, gid: 1000 }).unwrap();
        let rootfs = layer.finish().unwrap();
        let before = reason_to_build(&Shelf::of(&engine).await.unwrap(), &inputs("one"));
        let more = HashMap::from([(crate::plan::spec::TEST_LABEL.to_owned(), "ops".to_owned())]);
        let built = build(&engine, &inputs("one"), dockerfile, &rootfs, more).await;
        let shelf = Shelf::of(&engine).await;
        let broken = build(&engine, &inputs("three"), "FROM scratch\nADD absent /\n", &rootfs, HashMap::new()).await;
        for tag in [inputs("one").reference(), "wopr-ops-test:local".to_owned()] {
            // Another run of this test may have moved the tag, and taken it away.
            let _gone = engine.remove_image(&tag, None::<RemoveImageOptions>, None).await;
        }
        assert_eq!(before.as_deref(), Some("there is none yet"));
        built.unwrap();
        let shelf = shelf.unwrap();
        assert_eq!(reason_to_build(&shelf, &inputs("one")), None);
        assert_eq!(reason_to_build(&shelf, &inputs("two")).as_deref(), Some("its program has changed"));
        assert!(shelf.same(&inputs("one").reference(), "wopr-ops-test:local"));
        assert!(!shelf.same(&inputs("two").reference(), "wopr-ops-test:local"));
        let broken = broken.unwrap_err();
        assert_eq!(crate::failure::exit_of(&broken), Exit::Image);
    }
}
