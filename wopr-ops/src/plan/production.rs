//! The inference services as production runs them, which a machine with a graphics card does, too: what
//! `deploy/gpu/compose.yml` says, in its words and with its variables. Where there are several cards, each service sees all of
//! them, not one as it does there.

use std::path::{Path, PathBuf};

use super::spec::{Mount, Ready, Service};

/// Where a machine lays out the driver that it was given, in the directories `dev`, `lib64` and `bin`.
pub(crate) const CARD: &str = "/run/nvidia";
/// Where images made for CUDA look for a driver that comes from outside.
pub(crate) const DRIVER: &str = "/usr/local/nvidia";
/// What the engine calls the runtime that gives a container the cards of this machine.
pub(crate) const RUNTIME: &str = "nvidia";
/// What that runtime is told: all cards, for computing and for looking at them.
pub(crate) const RUNTIME_SETTINGS: [(&str, &str); 2] =
    [("NVIDIA_VISIBLE_DEVICES", "all"), ("NVIDIA_DRIVER_CAPABILITIES", "compute,utility")];

/// Where models and voices are, on this machine and in machines.
const MODELS: &str = "${MODELS_PATH:-/opt/models}";
const VOICES: &str = "${CHATTERBOX_VOICES_PATH:-/opt/voices}";
/// Where every machine has them.
const MACHINE_MODELS: &str = "/opt/models";
const MACHINE_VOICES: &str = "/opt/voices";
/// Where every container has the models.
const CONTAINER_MODELS: &str = "/models";

const LLAMA_IMAGE: &str = "${LLAMA_IMAGE:-ghcr.io/ggml-org/llama.cpp:server-cuda}";
const CHATTERBOX_IMAGE: &str = "${CHATTERBOX_IMAGE:-travisvn/chatterbox-tts-api:gpu}";
const WHISPER_IMAGE: &str = "${WHISPER_IMAGE:-fedirz/faster-whisper-server:0.6.0-rc.3-cuda}";
const WHISPER_MODEL: &str = "${WHISPER_MODEL:-Systran/faster-whisper-small}";
const LLAMA_MODEL: &str = "${LLAMA_MODEL_FILE:?the name of the text model's file}";
const EMBEDDINGS_MODEL: &str = "${EMBEDDINGS_MODEL_FILE:?the name of the embedding model's file}";
/// The models where nothing is said: what production is set up with, which has to name them.
const NAMED: [(&str, &str); 2] = [
    ("LLAMA_MODEL_FILE", "Meta-Llama-3.1-8B-Instruct-Q8_0.gguf"),
    ("EMBEDDINGS_MODEL_FILE", "qwen2-0_5b-instruct-q8_0.gguf"),
];

const LLAMA: [&str; 15] = [
    "--host",
    "0.0.0.0",
    "--port",
    "8080",
    "--model",
    "/models/${LLAMA_MODEL_FILE:?the name of the text model's file}",
    "--ctx-size",
    "${LLAMA_CTX_SIZE:-4096}",
    "--n-gpu-layers",
    "${LLAMA_GPU_LAYERS:--1}",
    "--parallel",
    "${LLAMA_PARALLEL:-4}",
    "--cont-batching",
    "--flash-attn",
    "${LLAMA_FLASH_ATTN:-auto}",
];
const EMBEDDINGS: [&str; 13] = [
    "--host",
    "0.0.0.0",
    "--port",
    "8080",
    "--model",
    "/models/${EMBEDDINGS_MODEL_FILE:?the name of the embedding model's file}",
    "--ctx-size",
    "${EMBEDDINGS_CTX_SIZE:-8192}",
    "--n-gpu-layers",
    "${EMBEDDINGS_GPU_LAYERS:--1}",
    "--embedding",
    "--pooling",
    "${EMBEDDINGS_POOLING:-mean}",
];
const CHATTERBOX_SETTINGS: [(&str, &str); 3] = [("PORT", "5123"), ("DEVICE", "cuda"), ("CHATTERBOX_DEVICE", "cuda")];
const WHISPER_SETTINGS: [(&str, &str); 2] = [("WHISPER__MODEL", WHISPER_MODEL), ("WHISPER__INFERENCE_DEVICE", "cuda")];

/// One of the four services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Llama,
    Chatterbox,
    Whisper,
    Embeddings,
}

/// Production's services, as this machine would run them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Production {
    /// The directory of models on this machine.
    models: PathBuf,
    /// That of voices, where there is one.
    voices: Option<PathBuf>,
    /// The files of the two models.
    files: [String; 2],
    images: [(Part, String); 4],
    commands: [(Part, Vec<String>); 2],
    whisper: Vec<(&'static str, String)>,
}

impl Production {
    /// What the variables of production's file say. `variable` looks one up; an empty one is as good as none.
    pub(crate) fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        let of = |text: &str| resolved(text, &variable);
        let all = |texts: &[&str]| texts.iter().map(|text| of(text)).collect();
        let voices = absolute(PathBuf::from(of(VOICES)));
        let llama = of(LLAMA_IMAGE);
        Self {
            models: absolute(of(MODELS).into()),
            voices: voices.is_dir().then_some(voices),
            files: [LLAMA_MODEL, EMBEDDINGS_MODEL].map(of),
            images: [
                (Part::Llama, llama.clone()),
                (Part::Chatterbox, of(CHATTERBOX_IMAGE)),
                (Part::Whisper, of(WHISPER_IMAGE)),
                (Part::Embeddings, llama),
            ],
            commands: [(Part::Llama, all(&LLAMA)), (Part::Embeddings, all(&EMBEDDINGS))],
            whisper: WHISPER_SETTINGS.iter().map(|(name, value)| (*name, of(value))).collect(),
        }
    }

    /// Model files that are missing or empty.
    pub(crate) fn lacking(&self) -> Vec<PathBuf> {
        let files = self.files.iter().map(|name| self.models.join(name));
        files.filter(|file| !file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)).collect()
    }

    /// Where the models are.
    pub(crate) fn models(&self) -> &Path {
        &self.models
    }

    /// The images, by their names in a registry.
    pub(crate) fn images(&self) -> impl Iterator<Item = &str> {
        self.images.iter().map(|(_, image)| image.as_str())
    }

    /// The same with images called otherwise.
    #[must_use]
    pub(crate) fn with_images(mut self, name: impl Fn(&str) -> String) -> Self {
        for (_, image) in &mut self.images {
            *image = name(image);
        }
        self
    }

    /// Gives the machine the card, the models and the voices.
    pub(crate) fn equip(&self, machine: &mut Service) {
        machine.card = true;
        machine.set(RUNTIME_SETTINGS.map(|(name, value)| (name, value.to_owned())));
        machine.mounts.push(read_only(self.models.display(), MACHINE_MODELS));
        machine.mounts.extend(self.voices.iter().map(|voices| read_only(voices.display(), MACHINE_VOICES)));
    }

    /// Makes a service on that machine production's own.
    pub(crate) fn replace(&self, part: Part, service: &mut Service) {
        let image = self.images.iter().find(|(of, _)| *of == part);
        service.image = image.map(|(_, image)| image.clone()).unwrap_or_default();
        let command = self.commands.iter().find(|(of, _)| *of == part);
        service.command = command.map(|(_, command)| command.clone()).unwrap_or_default();
        service.pulled = true;
        service.user = String::new();
        service.memory_bytes = 0;
        // It may read for minutes, or fetch a model first: the daemon tells when it is ready.
        service.ready = Ready::Started;
        service.mounts = Vec::new();
        hand_on(service);
        match part {
            Part::Llama | Part::Embeddings => service.mounts.push(read_only(MACHINE_MODELS, CONTAINER_MODELS)),
            Part::Chatterbox => {
                service.set(CHATTERBOX_SETTINGS.map(|(name, value)| (name, value.to_owned())));
                service.mounts.push(Mount::Volume { name: "wopr-gpu-chatterbox-cache", target: "/cache" });
                if self.voices.is_some() {
                    service.mounts.push(read_only(MACHINE_VOICES, "/app/voices"));
                }
            }
            Part::Whisper => {
                service.set(self.whisper.clone());
                let target = "/root/.cache/huggingface";
                service.mounts.push(Mount::Volume { name: "wopr-gpu-whisper-cache", target });
            }
        }
    }

    /// Shows the daemon the card and the models, and has it refuse to enrol without them.
    pub(crate) fn show(&self, daemon: &mut Service) {
        hand_on(daemon);
        daemon.mounts.push(read_only(MACHINE_MODELS, CONTAINER_MODELS));
        let files: Vec<String> = self.files.iter().map(|file| format!("{CONTAINER_MODELS}/{file}")).collect();
        daemon.set([
            ("REQUIRE_GPU", "true".to_owned()),
            ("MODEL_FILES", files.join(",")),
            ("LD_LIBRARY_PATH", format!("{DRIVER}/lib64")),
        ]);
    }
}

/// The engine takes no other paths.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// Hands the card on that the machine was given.
fn hand_on(service: &mut Service) {
    service.card = true;
    let of = |part: &str| read_only(format!("{CARD}/{part}"), &format!("{DRIVER}/{part}"));
    service.mounts.extend([of("lib64"), of("bin")]);
}

fn read_only(source: impl ToString, target: &str) -> Mount {
    Mount::Bind { source: source.to_string(), target: target.to_owned(), read_only: true }
}

/// A text of production's file with its variables replaced, as `docker compose` does it:
/// <https://docs.docker.com/reference/compose-file/interpolation/>
fn resolved(text: &str, variable: &impl Fn(&str) -> Option<String>) -> String {
    let Some((before, rest)) = text.split_once("${") else { return text.to_owned() };
    let Some((inside, after)) = rest.split_once('}') else { return text.to_owned() };
    let (name, otherwise) = inside.split_once(':').unwrap_or((inside, ""));
    let ours = NAMED.iter().find(|(named, _)| *named == name).map(|(_, value)| *value);
    let otherwise = otherwise.strip_prefix('-').or(ours).unwrap_or_default();
    let value = variable(name).filter(|value| !value.is_empty()).unwrap_or_else(|| otherwise.to_owned());
    format!("{before}{value}{}", resolved(after, variable))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = include_str!("../../../deploy/gpu/compose.yml");

    /// The lines of one service of production's file.
    fn service(name: &str) -> Vec<&'static str> {
        let lines = FILE.lines().skip_while(|line| *line != format!("  {name}:")).skip(1);
        lines.take_while(|line| !line.starts_with("  ") || line.starts_with("   ")).map(str::trim).collect()
    }

    #[test]
    fn it_is_what_productions_file_says() {
        let list = |items: &[&str]| -> Vec<String> { items.iter().map(|item| format!("- {item}")).collect() };
        for (name, image, command) in [
            ("llama-cpp", LLAMA_IMAGE, &LLAMA[..]),
            ("qwen-embeddings", LLAMA_IMAGE, &EMBEDDINGS),
            ("chatterbox", CHATTERBOX_IMAGE, &[]),
            ("whisper", WHISPER_IMAGE, &[]),
        ] {
            let lines = service(name);
            assert!(lines.contains(&format!("image: {image}").as_str()), "{name}: {lines:?}");
            let told: Vec<String> = lines
                .iter()
                .skip_while(|line| **line != "command:")
                .skip(1)
                .take_while(|line| line.starts_with("- "))
                .map(|line| line.replace('"', ""))
                .collect();
            assert_eq!(told, list(command), "{name}");
        }
        let settings = |name: &str| -> Vec<(String, String)> {
            let lines = service(name).into_iter().skip_while(|line| *line != "environment:").skip(1);
            let pairs = lines.filter(|line| !line.starts_with('#')).map_while(|line| line.split_once(": "));
            pairs.map(|(name, value)| (name.to_owned(), value.replace('"', ""))).collect()
        };
        let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(settings("chatterbox"), owned(&CHATTERBOX_SETTINGS));
        assert_eq!(settings("whisper"), owned(&WHISPER_SETTINGS));
        for mounted in [format!("- {MODELS}:/models:ro"), format!("- {VOICES}:/app/voices:ro")] {
            assert!(FILE.contains(&mounted), "{mounted}");
        }
    }

    #[test]
    fn every_variable_of_the_services_is_known() {
        let names = |text: &str| -> Vec<String> {
            text.split("${").skip(1).filter_map(|rest| rest.split([':', '}']).next()).map(str::to_owned).collect()
        };
        let parts = ["llama-cpp", "qwen-embeddings", "chatterbox", "whisper"];
        let known = std::cell::RefCell::new(Vec::new());
        Production::new(|name| {
            known.borrow_mut().push(name.to_owned());
            None
        });
        for name in parts.iter().flat_map(|part| names(&service(part).join("\n"))) {
            assert!(known.borrow().contains(&name), "{name} is not read");
        }
    }

    #[test]
    fn what_is_said_counts_and_what_is_empty_does_not() {
        let said = Production::new(|name| match name {
            "LLAMA_IMAGE" => Some("registry.example/llama:1".to_owned()),
            "LLAMA_GPU_LAYERS" => Some("20".to_owned()),
            "MODELS_PATH" => Some("/srv/models".to_owned()),
            "EMBEDDINGS_POOLING" => Some(String::new()),
            _ => None,
        });
        let images: Vec<&str> = said.images().collect();
        assert_eq!(images[0], "registry.example/llama:1");
        assert_eq!(images[3], images[0]);
        assert!(Production::new(|name| (name == "MODELS_PATH").then(|| "models".to_owned())).models.is_absolute());
        assert_eq!(images[1], "travisvn/chatterbox-tts-api:gpu");
        let [(_, llama), (_, embeddings)] = &said.commands;
        assert_eq!(llama[5], "/models/Meta-Llama-3.1-8B-Instruct-Q8_0.gguf");
        assert_eq!(llama[9], "20");
        assert_eq!(embeddings[12], "mean");
        assert_eq!(embeddings[9], "-1");
        assert_eq!(
            said.lacking(),
            NAMED.map(|(_, file)| Path::new("/srv/models").join(file)),
            "there is nothing in a directory that is not there"
        );
    }
}
