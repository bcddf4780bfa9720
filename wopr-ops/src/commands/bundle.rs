//! `bundle`: everything a machine without any network needs, in one file.
//!
//! A tar archive: `bundle.json`, which names the images; the images as files; and this program. `up --bundle` takes the
//! images from it, so that nothing is compiled, downloaded or built.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufReader, Read, Write},
    path::Path,
};

use anyhow::Context;
use bollard::Docker;
use serde::{Deserialize, Serialize};

use super::images::{NAMES, Programs, References, TOPOLOGY_NAMES};
use crate::{
    cli::BundleArgs,
    engine,
    exec::transfer,
    failure::{Exit, Failure},
    images::Image,
    paths::Paths,
    ui::Ui,
};

/// The first entry of a bundle.
const INDEX: &str = "bundle.json";
/// Directory of the images.
const IMAGES: &str = "images";
/// This program.
const PROGRAM: &str = "wopr-ops";
/// Raised when an older program could not read a newer bundle.
const FORMAT: u32 = 1;

/// What a bundle holds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    format: u32,
    /// By name.
    images: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    reference: String,
    name: String,
}

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &BundleArgs) -> anyhow::Result<()> {
    let _lock = super::lock(paths)?;
    let engine = engine::ensure(ui, paths).await?;
    let images = super::images::ensure(ui, paths, &engine, Programs::Compile(args.profile), |_| true).await?;
    pack(ui, paths, &engine, images, &args.file).await
}

/// Writes a bundle of these images and of this program.
pub(crate) async fn pack(
    ui: &Ui,
    paths: &Paths,
    engine: &Docker,
    images: References,
    file: &Path,
) -> anyhow::Result<()> {
    let archives = paths.archives();
    for image in images.values() {
        transfer::saved(engine, &archives, image).await?;
    }
    let task = ui.start(format!("writing {}", file.display()));
    let file = file.to_owned();
    let written = tokio::task::spawn_blocking(move || write(&file, &archives, &images)).await?;
    task.ends(written, |bytes| format!("{} MB", bytes.div_ceil(1_000_000))).map(drop)
}

/// Takes the program out of a bundle.
///
/// # Errors
/// If there is none in it.
pub(crate) fn unpack_program(file: &Path, target: &Path) -> anyhow::Result<()> {
    program_in(file, |entry| {
        entry.unpack(target).map(drop).with_context(|| format!("{} cannot be written", target.display()))
    })
}

/// Does something with the program of a bundle.
fn program_in<T>(
    file: &Path,
    work: impl FnOnce(&mut tar::Entry<'_, BufReader<fs::File>>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let input = fs::File::open(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let mut tar = tar::Archive::new(BufReader::with_capacity(1 << 20, input));
    for entry in tar.entries()? {
        let mut entry = entry.with_context(|| format!("{} is no bundle", file.display()))?;
        if entry.path()?.as_ref() == Path::new(PROGRAM) {
            return work(&mut entry);
        }
    }
    anyhow::bail!("{} holds no {PROGRAM}", file.display())
}

fn write(file: &Path, archives: &Path, images: &References) -> anyhow::Result<u64> {
    let entry = |image: &Image| Entry { reference: image.reference.clone(), name: image.name.clone() };
    let index = Index {
        format: FORMAT,
        images: images.iter().map(|(name, image)| ((*name).to_owned(), entry(image))).collect(),
    };
    // Half a bundle never carries the name of a whole one.
    let draft = file.with_extension("draft");
    let output = fs::File::create(&draft).with_context(|| format!("{} cannot be written", draft.display()))?;
    let mut tar = tar::Builder::new(std::io::BufWriter::with_capacity(1 << 20, output));
    let text = serde_json::to_vec_pretty(&index)?;
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, INDEX, text.as_slice())?;
    tar.append_path_with_name(std::env::current_exe()?, PROGRAM)?;
    for image in images.values() {
        let name = transfer::file_name(&image.reference);
        tar.append_path_with_name(archives.join(&name), Path::new(IMAGES).join(&name))?;
    }
    let mut output = tar.into_inner()?;
    output.flush()?;
    output.get_ref().sync_all()?;
    fs::rename(&draft, file).with_context(|| format!("{} cannot be written", file.display()))?;
    Ok(fs::metadata(file)?.len())
}

/// Unpacks the images that are not here yet; answers with all of them.
pub(crate) async fn open(ui: &Ui, paths: &Paths, file: &Path) -> anyhow::Result<References> {
    let task = ui.start(format!("reading {}", file.display()));
    let (file, archives) = (file.to_owned(), paths.archives());
    let read =
        tokio::task::spawn_blocking(move || anyhow::Ok((read(&file, &archives)?, is_of_this_program(&file)?))).await?;
    let (images, is_own) = task.ends(read, |(images, _)| format!("{} images", images.len()))?;
    remember(paths, &images)?;
    if !is_own {
        ui.warn("another program wrote this bundle; if a service refuses its settings, use the one inside: `tar -xf FILE wopr-ops`");
    }
    Ok(images)
}

/// Below the data directory: what the last bundle's images are called. Only the machines have them, so that the engine here cannot
/// be asked.
const UNPACKED: &str = "bundled.json";

fn remember(paths: &Paths, images: &References) -> anyhow::Result<()> {
    let names: BTreeMap<_, _> = images.iter().map(|(name, image)| (*name, &image.reference)).collect();
    let (file, draft) = (paths.data.join(UNPACKED), paths.data.join("bundled.draft"));
    let mut output = fs::File::create(&draft).with_context(|| format!("{} cannot be written", draft.display()))?;
    output.write_all(&serde_json::to_vec_pretty(&names)?)?;
    // Half a list never carries the name of a whole one, not even after a power cut.
    output.sync_all()?;
    fs::rename(&draft, &file).with_context(|| format!("{} cannot be written", file.display()))
}

/// References of the last bundle's images by name, as far as their archives are here.
///
/// # Errors
/// If it cannot be read which those are.
pub(crate) fn unpacked(paths: &Paths) -> anyhow::Result<BTreeMap<String, String>> {
    let file = paths.data.join(UNPACKED);
    let text = match fs::read_to_string(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        text => text.with_context(|| format!("{} cannot be read", file.display()))?,
    };
    let mut names: BTreeMap<String, String> =
        serde_json::from_str(&text).with_context(|| format!("{} is no list of images", file.display()))?;
    names.retain(|_, reference| paths.archives().join(transfer::file_name(reference)).is_file());
    Ok(names)
}

/// Whether the bundle's program is the one that runs.
fn is_of_this_program(file: &Path) -> anyhow::Result<bool> {
    let mut own = fs::File::open(std::env::current_exe()?)?;
    program_in(file, |entry| {
        if entry.size() != own.metadata()?.len() {
            return Ok(false);
        }
        let (mut theirs, mut ours) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        loop {
            let read = entry.read(&mut theirs)?;
            own.read_exact(&mut ours[..read])?;
            if read == 0 || theirs[..read] != ours[..read] {
                return Ok(read == 0);
            }
        }
    })
}

fn read(file: &Path, archives: &Path) -> anyhow::Result<References> {
    let damaged = |why: String| {
        Failure::new(Exit::Image, format!("{} is no bundle this program can read", file.display()))
            .why(why)
            .fix("`cargo wopr bundle FILE` writes one")
    };
    let input = fs::File::open(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let mut tar = tar::Archive::new(BufReader::with_capacity(1 << 20, input));
    let mut entries = tar.entries()?;
    let mut index = None;
    if let Some(mut first) = entries.next().transpose()?
        && first.path()?.as_ref() == Path::new(INDEX)
    {
        let mut text = String::new();
        first.read_to_string(&mut text)?;
        index = Some(serde_json::from_str::<Index>(&text).map_err(|error| damaged(error.to_string()))?);
    }
    let index = index.ok_or_else(|| damaged(format!("it does not begin with {INDEX}")))?;
    if index.format != FORMAT {
        return Err(damaged(format!("it has format {}, and this program reads format {FORMAT}", index.format)).into());
    }
    let mut images = References::new();
    for name in NAMES.into_iter().chain(TOPOLOGY_NAMES) {
        let entry = index.images.get(name).ok_or_else(|| damaged(format!("it has no image {name}")))?;
        images.insert(name, Image { reference: entry.reference.clone(), name: entry.name.clone() });
    }
    fs::create_dir_all(archives).with_context(|| format!("{} could not be created", archives.display()))?;
    for entry in entries {
        let mut entry = entry.map_err(|error| damaged(error.to_string()))?;
        let path = entry.path()?.into_owned();
        let Ok(name) = path.strip_prefix(IMAGES) else { continue };
        let wanted = images.values().any(|image| Path::new(&transfer::file_name(&image.reference)) == name);
        let target = archives.join(name);
        let here = fs::metadata(&target).is_ok_and(|metadata| metadata.len() == entry.size());
        if wanted && !here {
            let draft = target.with_extension("draft");
            let mut output = fs::File::create(&draft).with_context(|| format!("{}", draft.display()))?;
            let copied = std::io::copy(&mut entry, &mut output).map_err(|error| damaged(error.to_string()))?;
            if copied != entry.size() {
                return Err(damaged(format!("{} breaks off", path.display())).into());
            }
            fs::rename(&draft, &target).with_context(|| format!("{}", target.display()))?;
        }
    }
    if let Some(image) = images.values().find(|image| !archives.join(transfer::file_name(&image.reference)).is_file()) {
        return Err(damaged(format!("the image {} is not in it", image.reference)).into());
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let directory = std::env::temp_dir().join(format!("wopr-bundle-{name}-{}", std::process::id()));
        let _absent = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join("archives")).unwrap();
        directory
    }

    fn images(archives: &Path) -> References {
        let all = NAMES.into_iter().chain(TOPOLOGY_NAMES);
        all.map(|name| {
            let image = Image { reference: format!("example/{name}:aa"), name: format!("example/{name}:local") };
            fs::write(archives.join(transfer::file_name(&image.reference)), name.repeat(3000)).unwrap();
            (name, image)
        })
        .collect()
    }

    #[test]
    fn what_is_bundled_comes_out_again() {
        let directory = scratch("whole");
        let (archives, elsewhere, file) =
            (directory.join("archives"), directory.join("elsewhere"), directory.join("all.tar"));
        let images = images(&archives);
        write(&file, &archives, &images).unwrap();
        assert_eq!(read(&file, &elsewhere).unwrap(), images);
        let program = directory.join("program");
        unpack_program(&file, &program).unwrap();
        assert_eq!(fs::read(&program).unwrap(), fs::read(std::env::current_exe().unwrap()).unwrap());
        assert!(is_of_this_program(&file).unwrap());
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&program).unwrap().permissions());
        assert_eq!(mode & 0o100, 0o100, "it can be run");
        for image in images.values() {
            let name = transfer::file_name(&image.reference);
            assert_eq!(fs::read(archives.join(&name)).unwrap(), fs::read(elsewhere.join(&name)).unwrap());
        }
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn the_bundle_of_another_program_is_known_from_its_own() {
        let directory = scratch("other");
        let file = directory.join("other.tar");
        let mut other = fs::read(std::env::current_exe().unwrap()).unwrap();
        let last = other.len() - 1;
        other[last] ^= 1;
        let mut tar = tar::Builder::new(fs::File::create(&file).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(other.len() as u64);
        tar.append_data(&mut header, PROGRAM, other.as_slice()).unwrap();
        tar.into_inner().unwrap();
        assert!(!is_of_this_program(&file).unwrap());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_bundle_cut_anywhere_is_refused_and_leaves_no_half_image() {
        let directory = scratch("cut");
        let (archives, file) = (directory.join("archives"), directory.join("all.tar"));
        let images = images(&archives);
        write(&file, &archives, &images).unwrap();
        let whole = fs::read(&file).unwrap();
        // The end of a tar archive is padding: what comes before it is what counts.
        for cut in (0..whole.len() - 20_000).step_by(whole.len() / 40) {
            let elsewhere = directory.join(format!("cut-{cut}"));
            fs::write(&file, &whole[..cut]).unwrap();
            assert!(read(&file, &elsewhere).is_err(), "{cut} of {} bytes", whole.len());
            for image in images.values() {
                let name = transfer::file_name(&image.reference);
                if let Ok(content) = fs::read(elsewhere.join(&name)) {
                    assert_eq!(content, fs::read(archives.join(&name)).unwrap(), "{cut}");
                }
            }
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
