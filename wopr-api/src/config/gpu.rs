use wopr_core::adapters::cloud::DIGITALOCEAN;
use wopr_core::gpu::cloud_init::{ModelFile, PlatformUrl, RegistryAccount, Setup};
use wopr_core::gpu::{InvalidGpuInput, MasterSecrets, ProvisionConfig, Slug};

use super::read::{Reader, origin_of};
use super::{CloudConfig, GpuSettings};

/// Without these no machine can be set up.
const NEEDED: [&str; 7] = [
    "GPU_NODE_SECRET",
    "GPU_AGENT_IMAGE",
    "GPU_LLAMA_MODEL_URL",
    "GPU_LLAMA_MODEL_SHA256",
    "GPU_EMBEDDINGS_MODEL_URL",
    "GPU_EMBEDDINGS_MODEL_SHA256",
    "GPU_PLATFORM_NETWORKS",
];

impl Reader {
    pub(super) fn gpu(&mut self, base_url: &str, production: bool) -> GpuSettings {
        let secrets = self.list("GPU_NODE_SECRET");
        let masters = MasterSecrets::new(self.strong("GPU_NODE_SECRET", secrets));
        let api_base = self.url("DO_API_BASE", production);
        if production && origin_of(&api_base) != origin_of(DIGITALOCEAN) {
            self.wrong(format!("DO_API_BASE is {api_base:?}; in production it must be {DIGITALOCEAN}"));
        }
        let cloud = self.text("DO_API_TOKEN").map(|token| CloudConfig { token: token.into(), api_base });
        let platform_url = match self.text("PLATFORM_URL") {
            Some(_) => self.url("PLATFORM_URL", production),
            None => base_url.to_owned(),
        };
        let region = self.checked("DO_GPU_DEFAULT_REGION", Slug::region);
        let size = self.checked("DO_GPU_DEFAULT_SIZE", Slug::size);
        let image = self.checked("DO_GPU_IMAGE", |text| Slug::new("image", text, 100));
        let agent_image = self.checked("GPU_AGENT_IMAGE", str::parse);
        let llama_model = self.model("GPU_LLAMA_MODEL_URL", "GPU_LLAMA_MODEL_SHA256");
        let embeddings_model = self.model("GPU_EMBEDDINGS_MODEL_URL", "GPU_EMBEDDINGS_MODEL_SHA256");
        let whisper_model = self.checked("GPU_WHISPER_MODEL", str::parse);
        let mut networks = Vec::new();
        for network in self.list("GPU_PLATFORM_NETWORKS") {
            networks.extend(self.valid("GPU_PLATFORM_NETWORKS", network.parse()));
        }
        let ssh_key = self.checked("DO_SSH_KEY_ID", |text| Slug::new("sshKey", text, 100));
        let missing: Vec<&'static str> = NEEDED.into_iter().filter(|name| self.text(name).is_none()).collect();
        // A URL that no machine could be given is a matter for whoever wants machines.
        let said = origin_of(&platform_url).is_none();
        let platform_url: Result<PlatformUrl, InvalidGpuInput> = platform_url.parse();
        if let (Err(error), true) = (&platform_url, missing.is_empty() && !said) {
            self.wrong(format!("PLATFORM_URL: it must be {}", error.rule));
        }
        let registry = self.text("REGISTRY_USERNAME").zip(self.text("REGISTRY_PASSWORD"));
        let setup = || {
            Some(Setup {
                platform_url: platform_url.ok()?,
                agent_image: agent_image?,
                llama_model: llama_model?,
                embeddings_model: embeddings_model?,
                whisper_model: whisper_model?,
                platform_networks: networks,
                registry: registry.map(|(username, password)| RegistryAccount {
                    server: self.text("REGISTRY_SERVER").unwrap_or_default(),
                    username,
                    password: password.into(),
                }),
            })
        };
        let config = || {
            Some(ProvisionConfig {
                default_region: region?,
                default_size: size?,
                image: image?,
                ssh_key: ssh_key.map(|key| key.as_str().to_owned()),
                setup: setup()?,
            })
        };
        // What is there and wrong was said above, and keeps the server from starting.
        let provisioning = if missing.is_empty() { config().ok_or(missing) } else { Err(missing) };
        GpuSettings { masters, cloud, provisioning }
    }

    fn valid<T>(&mut self, name: &str, read: Result<T, InvalidGpuInput>) -> Option<T> {
        read.map_err(|error| self.wrong(format!("{name}: it must be {}", error.rule))).ok()
    }

    fn checked<T>(&mut self, name: &str, read: impl FnOnce(&str) -> Result<T, InvalidGpuInput>) -> Option<T> {
        let text = self.text(name)?;
        self.valid(name, read(&text))
    }

    fn model(&mut self, url: &str, sha256: &str) -> Option<ModelFile> {
        match (self.text(url), self.text(sha256)) {
            (Some(address), Some(sum)) => {
                let name = format!("{url} with {sha256}");
                self.valid(&name, ModelFile::new(&address, &sum))
            }
            (None, None) => None,
            _ => {
                self.wrong(format!("{url} and {sha256} go together; one is missing"));
                None
            }
        }
    }
}
