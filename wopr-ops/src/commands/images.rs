//! `images`: everything that runs, built if it has changed.

use anyhow::Context;
use bollard::Docker;
use futures_util::future::try_join_all;

use crate::{
    apt,
    cli::ImagesArgs,
    engine,
    engine::find_program,
    failure::{Exit, Failure},
    images::{
        CA_BUNDLE, Image,
        binaries::{self, Profile},
        postgres, program, prune,
        recipes::{API, BOT, MAIL, Program, STRIPE},
    },
    paths::Paths,
    ui::Ui,
};

/// What images there are, by the name given to `--only`.
pub(crate) const NAMES: [&str; 5] = ["postgres", "api", "stripe", "mail", "bot"];

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &ImagesArgs) -> anyhow::Result<()> {
    if let Some(unknown) = args.only.iter().find(|name| !NAMES.contains(&name.as_str())) {
        return Err(Failure::new(Exit::Failed, format!("there is no image {unknown}"))
            .fix(format!("the images are {}", NAMES.join(", ")))
            .into());
    }
    let _lock = super::lock(paths)?;
    let engine = engine::ensure(ui, paths).await?;
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    ensure(ui, paths, &engine, args.profile, wanted).await?;
    Ok(())
}

/// References of the images that were asked for, by name.
pub(crate) type References = std::collections::BTreeMap<&'static str, Image>;

/// Builds what is wanted and has changed: the database's image while the programs compile.
pub(crate) async fn ensure(
    ui: &Ui,
    paths: &Paths,
    engine: &Docker,
    profile: Profile,
    wanted: impl Fn(&str) -> bool,
) -> anyhow::Result<References> {
    prerequisites(ui).await?;
    let programs: Vec<(&'static str, Program)> = [("api", API), ("stripe", STRIPE), ("mail", MAIL), ("bot", BOT)]
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .collect();
    let database = async {
        if wanted("postgres") { Ok(Some(("postgres", postgres(ui, engine, paths).await?))) } else { anyhow::Ok(None) }
    };
    let compiled = async {
        let list: Vec<Program> = programs.iter().map(|(_, program)| *program).collect();
        if list.is_empty() {
            Ok(std::collections::HashMap::new())
        } else {
            binaries::compile(ui, paths, &list, profile).await
        }
    };
    let (database, compiled) = tokio::try_join!(database, compiled)?;
    finish(ui, engine, database, &programs, &compiled).await
}

/// Puts programs that were compiled into their images.
pub(crate) async fn finish(
    ui: &Ui,
    engine: &Docker,
    database: Option<(&'static str, Image)>,
    programs: &[(&'static str, Program)],
    compiled: &std::collections::HashMap<&'static str, binaries::Built>,
) -> anyhow::Result<References> {
    let mut images: References = database.into_iter().collect();
    let build = programs.iter().map(async |(name, recipe)| {
        let built = compiled.get(recipe.binary).with_context(|| format!("{} was not compiled", recipe.binary))?;
        anyhow::Ok((*name, program(ui, engine, recipe, built).await?))
    });
    images.extend(try_join_all(build).await?);
    let current: Vec<Image> = images.values().cloned().collect();
    prune(engine, &current).await?;
    Ok(images)
}

/// What building needs on this machine.
pub(crate) async fn prerequisites(ui: &Ui) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    if !std::path::Path::new(CA_BUNDLE).is_file() {
        missing.push("ca-certificates");
    }
    if find_program("dpkg-deb").is_none() {
        missing.push("dpkg");
    }
    if missing.is_empty() { Ok(()) } else { apt::install(ui, &missing).await }
}
