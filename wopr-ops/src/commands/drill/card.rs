//! `drill card`: the stack on a machine with a graphics card, where the runtime, the driver's library and production's images
//! are doubles, and everything between them is the real thing.
//!
//! In a place of its own an engine knows a runtime `nvidia`, which does to containers what NVIDIA's does: it gives them
//! device nodes and files of the driver. The doubles of production's images have production's names and are called as
//! production calls them. Whether a real driver computes is not shown: there is none.

use std::{
    collections::HashMap,
    fs,
    io::Read,
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use anyhow::Context;
use bollard::{
    Docker, body_full,
    query_parameters::{BuildImageOptionsBuilder, DownloadFromContainerOptionsBuilder, InspectContainerOptions},
};
use futures_util::TryStreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{
    place::{self, ENGINE_CONFIG, PROGRAM, in_scratch, text},
    stage::Stage,
};
use crate::{
    cli::{CardArgs, CardRuntimeArgs, PlaceArgs},
    commands::{
        bundle,
        images::{self, Programs, References},
        up::require_root,
    },
    engine::{self, find_program},
    exec::sites::inside as engine_of,
    images::{
        layer::context,
        recipes::{LLAMA, LLAMA_MODEL, SPEECH, WHISPER, WHISPER_COMMAND},
    },
    paths::Paths,
    plan::{
        inference,
        machines::GPU,
        platform::Ports,
        production::{DRIVER, RUNTIME},
    },
    ui::Ui,
};

/// The directory of the drill, below that of the stack.
const NAME: &str = "card";
/// The double of the driver's library, and where NVIDIA's runtime puts it.
const LIBRARY: &str = "libnvidia-ml.so.535.54.03";
const LIBRARY_PLACE: &str = "usr/lib/x86_64-linux-gnu";
/// What programs ask for; the runtime has the linker's cache written, which makes such links.
const LIBRARY_LINK: &str = "libnvidia-ml.so.1";
/// The nodes are those of `/dev/null`, which does no harm. NVIDIA's runtime makes them in one of two ways.
const MADE: &str = "/dev/nvidia0";
/// The other one: it is mounted over a file.
const MOUNTED: &str = "/dev/nvidiactl";
const HARMLESS: &str = "/dev/null";
/// Its numbers: <https://www.kernel.org/doc/Documentation/admin-guide/devices.txt>
const HARMLESS_NUMBERS: (u32, u32) = (1, 3);
/// What a real engine's would be: nothing listens there.
const NOWHERE: &str = "127.0.0.1:9/drill/llama:card";
/// The doubles of production's images.
const DOUBLES: [&str; 3] = ["drill/llama:card", "drill/chatterbox:card", "drill/whisper:card"];
/// The files of the two models.
const MODELS: [&str; 2] = ["chat.gguf", "embeddings.gguf"];

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &CardArgs) -> anyhow::Result<()> {
    require_root()?;
    let _lock = crate::commands::lock(paths)?;
    let engine = engine::ensure(ui, paths).await?;
    let images = images::ensure(ui, paths, &engine, Programs::Compile(args.profile), |_| true).await?;
    rehearse(ui, paths, &engine, images).await
}

/// The drill with these images.
pub(crate) async fn rehearse(ui: &Ui, paths: &Paths, engine: &Docker, images: References) -> anyhow::Result<()> {
    require_root()?;
    in_scratch(paths, NAME, async |scratch| {
        let file = scratch.join("all.tar");
        bundle::pack(ui, paths, engine, images, &file).await?;
        compile_library(&scratch.join(LIBRARY)).await?;
        ui.heading("Where there is a graphics card");
        let since = Instant::now();
        place::enter(ui, "card-inside", &file, scratch).await?;
        ui.done("production's services are handed the card", since.elapsed());
        Ok(())
    })
    .await
}

/// The compiler is what links Rust programs: it is there wherever this was compiled.
async fn compile_library(target: &Path) -> anyhow::Result<()> {
    let compiler = find_program("cc").context("cc is not installed")?;
    let source = target.with_extension("c");
    fs::write(&source, include_str!("nvml.c")).with_context(|| format!("{}", source.display()))?;
    let output = Command::new(compiler)
        .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
        .args([target, &source])
        // What the real one needs, too.
        .args(["-Wl,--no-as-needed", "-l:libpthread.so.0", "-l:libdl.so.2", "-l:librt.so.1"])
        .output()
        .await
        .context("cc could not be run")?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// The first process in there: an operator who finds out about the card little by little.
pub(crate) async fn inside(ui: &Ui, paths: &Paths, args: &PlaceArgs) -> anyhow::Result<()> {
    place::shut(&args.scratch).await?;
    let program = args.scratch.join(PROGRAM);
    let runtime = json!({ RUNTIME: { "path": &program, "runtimeArgs": ["drill", "card-runtime"] } });
    fs::write(Path::new(ENGINE_CONFIG).join("daemon.json"), serde_json::to_vec(&json!({ "runtimes": runtime }))?)?;
    let models = args.scratch.join("models");
    let bundle = text(&args.bundle)?;
    let told = async |arguments: &[&str], llama: &str| {
        let settings = [
            ("MODELS_PATH", text(&models)?),
            ("LLAMA_MODEL_FILE", MODELS[0]),
            ("EMBEDDINGS_MODEL_FILE", MODELS[1]),
            ("LLAMA_IMAGE", llama),
            ("CHATTERBOX_IMAGE", DOUBLES[1]),
            ("WHISPER_IMAGE", DOUBLES[2]),
        ];
        let mut command = Command::new(&program);
        command.args(arguments).envs(settings).stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
        let output = command.output().await.context("the program could not be run")?;
        let said = String::from_utf8(output.stdout)?;
        anyhow::Ok((output.status, said))
    };
    let up = async |more: &[&str], llama: &str| {
        let arguments = [&["up", "--bundle", bundle], more].concat();
        let (status, said) = told(&arguments, llama).await?;
        anyhow::ensure!(status.success(), "`{}` ended with {status}: {said}", arguments.join(" "));
        anyhow::Ok(said)
    };

    ui.note("without models");
    up(&["--no-prove"], DOUBLES[0]).await?;
    let here = engine::require().await?;
    anyhow::ensure!(runtime_of(&here).await?.as_deref() != Some(RUNTIME), "{GPU} was given the card without models");
    let gpu = engine_of(paths, GPU).await?;
    let model = file_in(&gpu, inference::LLAMA, LLAMA_MODEL).await?;
    fs::create_dir_all(&models)?;
    for name in MODELS {
        fs::write(models.join(name), &model)?;
    }
    let whisper = serde_json::to_string(&WHISPER_COMMAND)?;
    for (name, (recipe, command)) in DOUBLES.into_iter().zip([(&LLAMA, "[]"), (&SPEECH, "[]"), (&WHISPER, &whisper)]) {
        build(&gpu, name, &format!("{}:{}", recipe.repository, recipe.tag), command).await?;
    }

    ui.note("with models, and an image that cannot be had");
    up(&["--no-prove"], NOWHERE).await?;
    anyhow::ensure!(runtime_of(&here).await?.as_deref() == Some(RUNTIME), "{GPU} was not given the card");
    let gpu = engine_of(paths, GPU).await?;
    let small = image_of(&gpu, inference::LLAMA).await?;
    anyhow::ensure!(small.starts_with(LLAMA.repository), "{small} runs where production's image cannot be had");

    ui.note("with everything");
    up(&[], DOUBLES[0]).await?;
    for (service, production) in [
        (inference::LLAMA, DOUBLES[0]),
        (inference::CHATTERBOX, DOUBLES[1]),
        (inference::WHISPER, DOUBLES[2]),
        (inference::EMBEDDINGS, DOUBLES[0]),
    ] {
        let (image, production) = (image_of(&gpu, service).await?, id_of(&gpu, production).await?);
        anyhow::ensure!(image == production, "{service} runs {image}");
        file_in(&gpu, service, &format!("{DRIVER}/lib64/{LIBRARY}")).await?;
    }
    sees_the_card(paths).await?;
    let again: Vec<Value> = serde_json::from_str(&up(&["--dry-run", "--json"], DOUBLES[0]).await?)?;
    let changes: Vec<&Value> = again.iter().filter(|step| step["action"] != "keep").collect();
    anyhow::ensure!(!again.is_empty() && changes.is_empty(), "a second time something would be done: {changes:?}");
    // What else it finds is about the place, where nothing can be compiled.
    let (_, said) = told(&["doctor", "--json"], DOUBLES[0]).await?;
    let found: Value = serde_json::from_str(&said).with_context(|| format!("`doctor` said {said}"))?;
    let checks = found["findings"].as_array().into_iter().flatten();
    let checks: Vec<&Value> =
        checks.filter(|check| check["id"].as_str().is_some_and(|id| id.starts_with("check "))).collect();
    let red: Vec<&&Value> = checks.iter().filter(|check| check["level"] != "ok").collect();
    anyhow::ensure!(!checks.is_empty() && red.is_empty(), "of {} checks are red: {red:?}", checks.len());
    place::told(&program, &["down", "--volumes"]).await
}

/// What the API has been told by the daemon, which asked the driver's library.
async fn sees_the_card(paths: &Paths) -> anyhow::Result<()> {
    let stage = Stage::new(paths, Ports::default()).await?;
    let path = format!("/api/admin/gpu/{}", inference::NODE_ID);
    let (_, answer) = stage.operator()?.ask(Method::GET, &path, None).await?;
    let gpu = &answer["node"]["gpu"];
    let card = &gpu["gpus"][0];
    let seen = (gpu["mode"].as_str(), card["name"].as_str(), card["memoryTotalBytes"].as_u64());
    anyhow::ensure!(seen == (Some("nvidia"), Some("Drill 9000"), Some(24 << 30)), "{} sees {gpu}", inference::NODE);
    Ok(())
}

async fn runtime_of(engine: &Docker) -> anyhow::Result<Option<String>> {
    let machine = engine.inspect_container(GPU, None::<InspectContainerOptions>).await?;
    Ok(machine.host_config.and_then(|config| config.runtime))
}

/// What a container was told to run.
async fn image_of(engine: &Docker, container: &str) -> anyhow::Result<String> {
    let found = engine.inspect_container(container, None::<InspectContainerOptions>).await?;
    found.config.and_then(|config| config.image).with_context(|| format!("{container} has no image"))
}

async fn id_of(engine: &Docker, image: &str) -> anyhow::Result<String> {
    engine.inspect_image(image).await?.id.with_context(|| format!("{image} has no id"))
}

/// A file as a container has it.
async fn file_in(engine: &Docker, container: &str, path: &str) -> anyhow::Result<Vec<u8>> {
    let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
    let chunks: Vec<bytes::Bytes> = engine
        .download_from_container(container, Some(options))
        .try_collect()
        .await
        .with_context(|| format!("{container} has no {path}"))?;
    let archive = chunks.concat();
    let mut tar = tar::Archive::new(archive.as_slice());
    let mut entry = tar.entries()?.next().with_context(|| format!("{path} is no file"))??;
    let mut content = Vec::new();
    entry.read_to_end(&mut content)?;
    anyhow::ensure!(!content.is_empty(), "{path} of {container} is empty");
    Ok(content)
}

/// Makes the double of an image of production: what is in ours, run as root, and not one of ours by its label.
async fn build(engine: &Docker, name: &str, from: &str, command: &str) -> anyhow::Result<()> {
    let dockerfile = format!("FROM {from}\nLABEL {}=drill\nUSER 0:0\nCMD {command}\n", crate::images::IMAGE_LABEL);
    let labels = HashMap::<&str, &str>::new();
    let options = BuildImageOptionsBuilder::default().t(name).labels(&labels).rm(true).forcerm(true).build();
    let built = engine.build_image(options, None, Some(body_full(context(&dockerfile, &[])?.into())));
    let said: Vec<_> = built.try_collect().await?;
    let error = said.into_iter().find_map(|news| news.error_detail.and_then(|error| error.message));
    error.map_or(Ok(()), |error| Err(anyhow::anyhow!("{name} could not be built: {error}")))
}

/// What NVIDIA's runtime does, with doubles: gives containers that ask for cards the nodes and the library, and lets runc do
/// everything else.
///
/// # Errors
/// Those of reading and writing the container's description, and of starting runc.
pub(crate) fn runtime(args: &CardRuntimeArgs) -> anyhow::Result<()> {
    let mut words = args.arguments.iter();
    if args.arguments.iter().any(|word| word == "create")
        && let Some(bundle) = words.find(|word| *word == "--bundle").and_then(|_| words.next())
    {
        let program = std::env::current_exe()?;
        let library = program.with_file_name(LIBRARY);
        let description = PathBuf::from(bundle).join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&description)?)?;
        if give_card(&mut config, text(&library)?) {
            let root = config["root"]["path"].as_str().context("the container has no root")?;
            let link = Path::new(bundle).join(root).join(LIBRARY_PLACE).join(LIBRARY_LINK);
            fs::create_dir_all(link.parent().unwrap_or(&link))?;
            match symlink(LIBRARY, &link) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
                _ => fs::write(&description, serde_json::to_vec(&config)?)?,
            }
        }
    }
    // Only comes back if it fails.
    Err(std::process::Command::new("runc").args(&args.arguments).exec().into())
}

/// Adds the nodes and the library to a container's description, if it asks for cards.
///
/// <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md>
fn give_card(config: &mut Value, library: &str) -> bool {
    let asks = |value: &Value| value.as_str().is_some_and(|text| text == "NVIDIA_VISIBLE_DEVICES=all");
    if !config["process"]["env"].as_array().is_some_and(|env| env.iter().any(asks)) {
        return false;
    }
    let mut add = |pointer: &str, value: Value| {
        let (above, name) = pointer.rsplit_once('/').unwrap_or(("", pointer));
        if let Some(list) = config.pointer_mut(above).and_then(Value::as_object_mut)
            && let Some(list) = list.entry(name).or_insert_with(|| json!([])).as_array_mut()
        {
            list.push(value);
        }
    };
    let (major, minor) = HARMLESS_NUMBERS;
    add("/linux/devices", json!({ "path": MADE, "type": "c", "major": major, "minor": minor, "fileMode": 0o666 }));
    add(
        "/mounts",
        json!({ "destination": MOUNTED, "type": "bind", "source": HARMLESS, "options": ["rw", "nosuid", "bind"] }),
    );
    add(
        "/mounts",
        json!({
            "destination": format!("/{LIBRARY_PLACE}/{LIBRARY}"),
            "type": "bind",
            "source": library,
            "options": ["ro", "nosuid", "nodev", "bind"],
        }),
    );
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_is_given_a_card() {
        let config = |env: &str| json!({ "process": { "env": ["PATH=/bin", env] }, "linux": {}, "mounts": [] });
        let mut without = config("NVIDIA_VISIBLE_DEVICES=void");
        assert!(!give_card(&mut without, "/library"));
        assert_eq!(without, config("NVIDIA_VISIBLE_DEVICES=void"));
        let mut with = config("NVIDIA_VISIBLE_DEVICES=all");
        assert!(give_card(&mut with, "/library"));
        assert_eq!(with["linux"]["devices"][0]["path"], MADE);
        let mounted: Vec<_> = with["mounts"].as_array().unwrap().iter().map(|mount| &mount["source"]).collect();
        assert_eq!(mounted, [HARMLESS, "/library"]);
    }
}
