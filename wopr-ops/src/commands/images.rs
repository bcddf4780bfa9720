//! `images`: everything that runs, built if it has changed.

use std::{collections::HashMap, path::PathBuf};

use anyhow::Context;
use bollard::Docker;
use futures_util::future::try_join_all;
use serde::Serialize;

use crate::{
    apt,
    cli::ImagesArgs,
    engine,
    engine::find_program,
    failure::{Exit, Failure},
    images::{
        Base, CA_BUNDLE, Image, Shelf, Sources, assembled, base,
        binaries::{self, Profile},
        postgres, program, prune,
        published::{self, Login, Registry},
        recipes::{ASSEMBLIES, Assembly, BaseRecipe, Binary, MODELS, POSTGRES_BASE, PROGRAMS, Program},
    },
    paths::Paths,
    ui::Ui,
};

/// The images of the flat stack, by the name given to `--only`.
pub(crate) const NAMES: [&str; 5] = ["postgres", "api", "stripe", "mail", "bot"];
/// The images that the two-machine topology runs beside them.
pub(crate) const TOPOLOGY_NAMES: [&str; 9] =
    ["machine", "llama", "whisper", "speech", "caddy", "objects", "backup", "ui", "gpu-node"];

/// Every name there is.
fn names() -> Vec<&'static str> {
    NAMES.into_iter().chain(TOPOLOGY_NAMES).collect()
}

/// An image, as `--json` shows it.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Row<'a> {
    /// What `--only` calls it.
    image: &'a str,
    /// Its name by content, which never moves.
    reference: &'a str,
    /// Its name as a person would write it, which moves with every build.
    name: &'a str,
}

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &ImagesArgs) -> anyhow::Result<()> {
    let ui = &ui.beside_json(args.json);
    if let Some(unknown) = args.only.iter().find(|name| !names().contains(&name.as_str())) {
        return Err(Failure::new(Exit::Failed, format!("there is no image {unknown}"))
            .fix(format!("the images are {}", names().join(", ")))
            .into());
    }
    let _lock = super::lock(paths)?;
    let engine = engine::ensure(ui, paths).await?;
    if let Some(prefix) = &args.publish {
        return publish(ui, paths, &engine, prefix, &args.only).await;
    }
    let wanted = |name: &str| {
        if args.only.is_empty() { NAMES.contains(&name) } else { args.only.iter().any(|only| only == name) }
    };
    let images = ensure(ui, paths, &engine, Programs::Compile(args.profile), wanted).await?;
    if args.json {
        let rows: Vec<Row<'_>> =
            images.iter().map(|(image, built)| Row { image, reference: &built.reference, name: &built.name }).collect();
        ui.json(&rows)?;
    }
    Ok(())
}

/// Puts what packages make of the images into a registry, and notes it in the checkout.
async fn publish(ui: &Ui, paths: &Paths, engine: &Docker, prefix: &str, only: &[String]) -> anyhow::Result<()> {
    prerequisites(ui).await?;
    let registry = Registry::shipped()?;
    let login = Login::from_environment()?;
    let sources = Sources { ui, paths, engine, registry: &registry };
    let mut all = registry.published.clone();
    let wanted = |recipe: &BaseRecipe| only.is_empty() || only.iter().any(|name| name == recipe.name);
    if let Some(none) = only.iter().find(|name| !bases().any(|recipe| recipe.name == **name)) {
        let known: Vec<&str> = bases().map(|recipe| recipe.name).collect();
        return Err(Failure::new(Exit::Failed, format!("nothing of {none} is made of packages alone"))
            .fix(format!("these have a base: {}", known.join(", ")))
            .into());
    }
    let file = paths.workspace()?.join(published::FILE);
    for recipe in bases().filter(wanted) {
        let base = sources.unpacked(recipe).await?;
        let task = ui.start(format!("publishing what {} needs", recipe.name));
        let published = published::publish(engine, &recipe, base, prefix, login.as_ref()).await;
        let published =
            task.ends(published, |published| published.reference(&recipe).unwrap_or_default().to_owned())?;
        all = all.and(published);
        std::fs::write(&file, all.text()?).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    ui.note(format!("{} names them by digest; from the next build on, they are taken from there", published::FILE));
    Ok(())
}

/// What packages make of images.
fn bases() -> impl Iterator<Item = BaseRecipe> {
    std::iter::once(POSTGRES_BASE).chain(ASSEMBLIES.iter().map(|recipe| recipe.base()))
}

/// References of the images that were asked for, by name.
pub(crate) type References = std::collections::BTreeMap<&'static str, Image>;

/// Where the programs in the images come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Programs<'a> {
    /// They are compiled.
    Compile(Profile),
    /// They were compiled; paths by name.
    Compiled(&'a HashMap<String, PathBuf>),
}

/// Everything that has to be compiled for all images.
pub(crate) fn all_sources() -> Vec<Binary> {
    sources(&PROGRAMS.map(|(name, program)| (name, program)), &ASSEMBLIES)
}

/// Builds what is wanted and has changed: packages are taken while the programs compile.
pub(crate) async fn ensure(
    ui: &Ui,
    paths: &Paths,
    engine: &Docker,
    from: Programs<'_>,
    wanted: impl Fn(&str) -> bool,
) -> anyhow::Result<References> {
    prerequisites(ui).await?;
    let shelf = &Shelf::of(engine).await?;
    let bases_from = &Sources { ui, paths, engine, registry: &Registry::shipped()? };
    let programs: Vec<(&'static str, Program)> = PROGRAMS.into_iter().filter(|(name, _)| wanted(name)).collect();
    let assemblies: Vec<&'static Assembly> = ASSEMBLIES.into_iter().filter(|recipe| wanted(recipe.name)).collect();
    let database = async {
        if wanted("postgres") { Ok(Some(("postgres", postgres(shelf, bases_from).await?))) } else { anyhow::Ok(None) }
    };
    let bases = try_join_all(assemblies.iter().map(|recipe| base(shelf, bases_from, recipe)));
    let compiled = async {
        let list = sources(&programs, &assemblies);
        match from {
            _ if list.is_empty() => Ok(HashMap::new()),
            Programs::Compile(profile) => binaries::compile(ui, paths, &list, profile).await,
            Programs::Compiled(artifacts) => binaries::located(paths, &list, artifacts).await,
        }
    };
    let (database, bases, compiled) = tokio::try_join!(database, bases, compiled)?;
    let assemble = assemblies.into_iter().zip(bases).map(async |(recipe, base): (_, Option<Base>)| {
        anyhow::Ok((recipe.name, assembled(shelf, bases_from, recipe, base, &compiled).await?))
    });
    let assembled = try_join_all(assemble).await?;
    let mut images: References = database.into_iter().chain(assembled).collect();
    let build = programs.iter().map(async |(name, recipe)| {
        let built = compiled.get(recipe.binary).with_context(|| format!("{} was not compiled", recipe.binary))?;
        anyhow::Ok((*name, program(ui, shelf, paths, recipe, built).await?))
    });
    images.extend(try_join_all(build).await?);
    let current: Vec<Image> = images.values().cloned().collect();
    prune(engine, &current).await?;
    Ok(images)
}

/// What has to be compiled.
fn sources(programs: &[(&'static str, Program)], assemblies: &[&Assembly]) -> Vec<Binary> {
    let of_assemblies = assemblies.iter().flat_map(|recipe| recipe.programs).copied();
    let models = assemblies.iter().any(|recipe| !recipe.models.is_empty()).then_some(MODELS);
    let mut all: Vec<Binary> = programs.iter().map(|(_, program)| program.source()).collect();
    for binary in of_assemblies.chain(models) {
        if !all.contains(&binary) {
            all.push(binary);
        }
    }
    all
}

/// What building needs on this machine.
async fn prerequisites(ui: &Ui) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    if !std::path::Path::new(CA_BUNDLE).is_file() {
        missing.push("ca-certificates");
    }
    if find_program("dpkg-deb").is_none() {
        missing.push("dpkg");
    }
    if missing.is_empty() { Ok(()) } else { apt::install(ui, &missing).await }
}

#[cfg(test)]
mod tests {
    use super::Row;

    #[test]
    fn the_schema_is_that_of_the_rows() {
        let row = Row { image: "api", reference: "wopr-api:0a", name: "wopr-api:local" };
        crate::runbook::assert_schema_fits("images", &schemars::schema_for!(Vec<Row<'_>>), &[row]);
    }
}
