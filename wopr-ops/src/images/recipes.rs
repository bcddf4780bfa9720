//! What the images are made of: the files below `local/images`, compiled in.

use super::layer::fingerprint;

/// Changed when the way layers are made changes, so that older images are rebuilt.
pub(crate) const LAYOUT: &str = "1";

/// What packages make of the PostgreSQL image.
pub(crate) const POSTGRES_BASE: BaseRecipe = BaseRecipe {
    name: "postgres",
    suite: Suite::Host,
    packages: include_str!("../../../local/images/postgres/packages.txt"),
};
/// Recipe of the PostgreSQL image.
pub(crate) const POSTGRES_DOCKERFILE: &str = include_str!("../../../local/images/postgres/Dockerfile");
/// Entry point of the PostgreSQL image.
pub(crate) const POSTGRES_ENTRYPOINT: &str = include_str!("../../../local/images/postgres/entrypoint.sh");

/// The user that PostgreSQL runs as; the number the official image uses.
pub(crate) const POSTGRES_UID: u32 = 999;
/// The user that our own servers run as.
pub(crate) const SERVICE_UID: u32 = 65532;
/// The user that bots run as.
pub(crate) const BOT_UID: u32 = 1000;

/// The user that the proxy runs as.
pub(crate) const CADDY_UID: u32 = 1000;

/// A release of Debian that packages come from. Each image is of one release: libraries are not mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    /// What this machine's own package sources offer.
    Host,
    /// Debian 13.
    Trixie,
    /// The release after it, which has llama.cpp and whisper.cpp.
    Forky,
}

impl Suite {
    /// The name in package sources; `None` where this machine's own sources are used.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::Host => None,
            Self::Trixie => Some("trixie"),
            Self::Forky => Some("forky"),
        }
    }
}

/// The release of this machine, as far as it says: programs that are compiled here need libraries of the same.
fn host_release() -> String {
    let said = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    said.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or_default().to_owned()
}

/// What of an image is made of Debian packages alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BaseRecipe {
    /// The name given to `--only`.
    pub(crate) name: &'static str,
    /// Where the packages come from.
    pub(crate) suite: Suite,
    /// The packages: text of a `packages.txt`.
    pub(crate) packages: &'static str,
}

impl BaseRecipe {
    /// Another one when other packages are asked for, or those of another processor.
    pub(crate) fn fingerprint(&self) -> String {
        let suite = self.suite.name().map_or_else(host_release, str::to_owned);
        fingerprint([LAYOUT, std::env::consts::ARCH, &suite, self.packages].map(str::as_bytes))
    }
}

/// An image made of Debian packages and of programs and files of ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Assembly {
    /// The name given to `--only`.
    pub(crate) name: &'static str,
    /// The image's repository, without a tag.
    pub(crate) repository: &'static str,
    /// The tag a person would use.
    pub(crate) tag: &'static str,
    /// Where the packages come from.
    pub(crate) suite: Suite,
    /// The packages: text of a `packages.txt`.
    pub(crate) packages: &'static str,
    /// The recipe.
    pub(crate) dockerfile: &'static str,
    /// The user it runs as.
    pub(crate) uid: u32,
    /// Programs of ours that lie below `/` in it.
    pub(crate) programs: &'static [Binary],
    /// Directories that its user owns.
    pub(crate) directories: &'static [&'static str],
    /// Symbolic links: path and target. Package scripts, which make some, never run.
    pub(crate) links: &'static [(&'static str, &'static str)],
    /// Files: path and content.
    pub(crate) files: &'static [(&'static str, &'static str)],
    /// Files that [`MODELS`] writes: path, and the kind it is asked for.
    pub(crate) models: &'static [(&'static str, &'static str)],
}

impl Assembly {
    /// What packages make of it.
    pub(crate) fn base(&self) -> BaseRecipe {
        BaseRecipe { name: self.name, suite: self.suite, packages: self.packages }
    }
}

/// A program of this workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Binary {
    /// The workspace member that builds it.
    pub(crate) package: &'static str,
    /// Its name.
    pub(crate) name: &'static str,
}

/// A program of this workspace that runs in an image of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Program {
    /// The image's repository, without a tag.
    pub(crate) repository: &'static str,
    /// The tag a person would use.
    pub(crate) tag: &'static str,
    /// The workspace member that builds it.
    pub(crate) package: &'static str,
    /// The binary, and its path below `/` in the image.
    pub(crate) binary: &'static str,
    /// The user it runs as, who owns `/data`.
    pub(crate) uid: u32,
    /// Libraries beside the C library's that what it loads at run time needs: a driver's library is built against older ones, where
    /// these were apart.
    pub(crate) loads: &'static [&'static str],
    /// The recipe.
    pub(crate) dockerfile: &'static str,
}

impl Program {
    /// What has to be compiled for it.
    pub(crate) fn source(&self) -> Binary {
        Binary { package: self.package, name: self.binary }
    }
}

/// The API server.
pub(crate) const API: Program = Program {
    repository: "wopr-api",
    tag: "local",
    package: "wopr-api",
    binary: "wopr-api",
    uid: SERVICE_UID,
    loads: &[],
    dockerfile: include_str!("../../../local/images/wopr-api/Dockerfile"),
};
/// The double of Stripe.
pub(crate) const STRIPE: Program = Program {
    repository: "wopr-stripe-standin",
    tag: "local",
    package: "wopr-local",
    binary: "wopr-stripe-standin",
    uid: SERVICE_UID,
    loads: &[],
    dockerfile: include_str!("../../../local/images/wopr-stripe/Dockerfile"),
};
/// The mail catcher.
pub(crate) const MAIL: Program = Program {
    repository: "wopr-mail-catcher",
    tag: "local",
    package: "wopr-local",
    binary: "wopr-mail-catcher",
    uid: SERVICE_UID,
    loads: &[],
    dockerfile: include_str!("../../../local/images/wopr-mail/Dockerfile"),
};
/// The bot of a tenant, under the name customers ask for.
pub(crate) const BOT: Program = Program {
    repository: "ghcr.io/wopr-network/wopr",
    tag: "latest",
    package: "wopr-local",
    binary: "wopr-bot",
    uid: BOT_UID,
    loads: &[],
    dockerfile: include_str!("../../../local/images/wopr-bot/Dockerfile"),
};
/// Where the PostgreSQL image is tagged.
pub(crate) const POSTGRES_REPOSITORY: &str = "wopr-postgres";
/// The tag a person would use for it.
pub(crate) const POSTGRES_TAG: &str = "15";

/// Asks a server on the same machine for its health; for images without a program that could.
pub(crate) const PROBE: Binary = Binary { package: "wopr-local", name: "wopr-probe" };
/// Writes the small models.
pub(crate) const MODELS: Binary = Binary { package: "wopr-local", name: "wopr-models" };

/// A machine of the local topology: a Docker engine of its own.
///
/// Runs as root with an explicit list of capabilities; [`MACHINE_DATA`] is a volume, [`MACHINE_RUN`] a tmpfs.
pub(crate) const MACHINE: Assembly = Assembly {
    name: "machine",
    repository: "wopr-machine",
    tag: "26.1",
    suite: Suite::Trixie,
    packages: include_str!("../../../local/images/wopr-machine/packages.txt"),
    dockerfile: include_str!("../../../local/images/wopr-machine/Dockerfile"),
    uid: 0,
    programs: &[Binary { package: "wopr-local", name: "wopr-machine" }],
    directories: &["root", "sys/fs/cgroup", "var/lib/docker"],
    links: &[("var/run", "/run")],
    files: &[
        // The engine gives its sockets to this group: who may use them needs no other right of root's.
        ("etc/group", "root:x:0:\ndocker:x:990:\n"),
        ("etc/nsswitch.conf", "hosts: files dns\n"),
        ("etc/os-release", "ID=debian\nVERSION_ID=13\nPRETTY_NAME=\"Debian 13, engine only\"\n"),
    ],
    models: &[],
};
/// Where a machine's engine keeps everything: a volume.
pub(crate) const MACHINE_DATA: &str = "/var/lib/docker";
/// A tmpfs: process numbers kept over a kill would name other processes.
pub(crate) const MACHINE_RUN: &str = "/run";
/// Variable: the directory, usually mounted from outside, that the engine's second socket is made in as
/// [`MACHINE_SOCKET_FILE`].
pub(crate) const MACHINE_SOCKET_DIRECTORY_VARIABLE: &str = "WOPR_MACHINE_SOCKET_DIR";
/// The name of the second socket.
pub(crate) const MACHINE_SOCKET_FILE: &str = "docker.sock";
/// The file in the same directory that, if it is there, a machine mounts over [`MACHINE_DATA`].
pub(crate) const MACHINE_DISK_FILE: &str = "disk.img";
/// The machine's own program, which tells about its disk.
pub(crate) const MACHINE_PROGRAM: &str = "/wopr-machine";

/// llama.cpp's server with a tiny model, for chat and for embeddings.
pub(crate) const LLAMA: Assembly = Assembly {
    name: "llama",
    repository: "wopr-llama",
    tag: "0.7",
    suite: Suite::Forky,
    packages: include_str!("../../../local/images/wopr-llama/packages.txt"),
    dockerfile: include_str!("../../../local/images/wopr-llama/Dockerfile"),
    uid: SERVICE_UID,
    programs: &[PROBE],
    directories: &["data"],
    links: &[],
    files: &[],
    models: &[("models/llama.gguf", "llama")],
};
/// The model in the image.
pub(crate) const LLAMA_MODEL: &str = "/models/llama.gguf";
/// Arguments for chat; answers `/health` and `/v1/chat/completions`.
pub(crate) const LLAMA_CHAT: [&str; 15] = [
    "--host",
    "0.0.0.0",
    "--port",
    "8080",
    "--model",
    LLAMA_MODEL,
    "--ctx-size",
    "4096",
    "--n-gpu-layers",
    "0",
    "--parallel",
    "2",
    "--cont-batching",
    "--flash-attn",
    "off",
];
/// Arguments for embeddings; answers `/health` and `/v1/embeddings`.
pub(crate) const LLAMA_EMBEDDINGS: [&str; 13] = [
    "--host",
    "0.0.0.0",
    "--port",
    "8080",
    "--model",
    LLAMA_MODEL,
    "--ctx-size",
    "8192",
    "--n-gpu-layers",
    "0",
    "--embedding",
    "--pooling",
    "mean",
];

/// whisper.cpp's server with a small random model. Needs a tmpfs at `/tmp`.
pub(crate) const WHISPER: Assembly = Assembly {
    name: "whisper",
    repository: "wopr-whisper",
    tag: "1.9",
    suite: Suite::Forky,
    packages: include_str!("../../../local/images/wopr-whisper/packages.txt"),
    dockerfile: include_str!("../../../local/images/wopr-whisper/Dockerfile"),
    uid: SERVICE_UID,
    programs: &[PROBE],
    directories: &["data"],
    links: &[],
    files: &[],
    models: &[("models/whisper.bin", "whisper")],
};
/// Its arguments; answers `/health` and `/v1/audio/transcriptions`. More threads than one spin while they wait for each
/// other, which takes the processor from everybody else on a small machine.
pub(crate) const WHISPER_COMMAND: [&str; 11] = [
    "--host",
    "0.0.0.0",
    "--port",
    "8000",
    "--model",
    "/models/whisper.bin",
    "--threads",
    "1",
    "--no-fallback",
    "--inference-path",
    "/v1/audio/transcriptions",
];
/// The program that exits 0 while llama or whisper answers its health check: container port and path follow.
pub(crate) const PROBE_PROGRAM: &str = "/wopr-probe";

/// The speech server: the wire of the real one, the voice of espeak-ng. Needs a tmpfs at `/tmp`.
pub(crate) const SPEECH: Assembly = Assembly {
    name: "speech",
    repository: "wopr-speech",
    tag: "local",
    suite: Suite::Trixie,
    packages: include_str!("../../../local/images/wopr-speech/packages.txt"),
    dockerfile: include_str!("../../../local/images/wopr-speech/Dockerfile"),
    uid: SERVICE_UID,
    programs: &[Binary { package: "wopr-local", name: "wopr-speech" }],
    directories: &["data"],
    links: &[],
    files: &[],
    models: &[],
};
/// The program that exits 0 while it answers; the image's health check.
pub(crate) const SPEECH_HEALTH: [&str; 2] = ["/wopr-speech", "health"];

/// The reverse proxy. Needs tmpfs at `/tmp` and `/run/caddy` (or a directory mounted there), owned by [`CADDY_UID`].
pub(crate) const CADDY: Assembly = Assembly {
    name: "caddy",
    repository: "wopr-caddy",
    tag: "2.6",
    suite: Suite::Trixie,
    packages: include_str!("../../../local/images/wopr-caddy/packages.txt"),
    dockerfile: include_str!("../../../local/images/wopr-caddy/Dockerfile"),
    uid: CADDY_UID,
    programs: &[PROBE],
    directories: &["data", "run/caddy"],
    links: &[],
    files: &[("etc/caddy/config.json", include_str!("../../../local/images/wopr-caddy/config.json"))],
    models: &[],
};

/// The object store: S3's wire, objects as files in `/data`, which is a volume.
pub(crate) const OBJECTS: Program = Program {
    repository: "wopr-objects",
    tag: "local",
    package: "wopr-objects",
    binary: "wopr-objects",
    uid: SERVICE_UID,
    loads: &[],
    dockerfile: include_str!("../../../local/images/wopr-objects/Dockerfile"),
};
/// Jobs that copy bots' volumes and the database into the object store, and bring them back. Its release of Debian has the
/// programs for dumps of the server's version.
pub(crate) const BACKUP: Assembly = Assembly {
    name: "backup",
    repository: "wopr-backup",
    tag: "local",
    suite: Suite::Host,
    packages: include_str!("../../../local/images/wopr-backup/packages.txt"),
    dockerfile: include_str!("../../../local/images/wopr-backup/Dockerfile"),
    uid: SERVICE_UID,
    programs: &[Binary { package: "wopr-backup", name: "wopr-backup" }],
    directories: &["data"],
    links: &[],
    files: &[],
    models: &[],
};
/// The program that exits 0 while it can be written to; the image's health check.
pub(crate) const OBJECTS_HEALTH: [&str; 2] = ["/wopr-objects", "health"];

/// A registry of images, which the drill of one needs. Asks for a password.
pub(crate) const REGISTRY: Assembly = Assembly {
    name: "registry",
    repository: "wopr-registry",
    tag: "2.8",
    suite: Suite::Host,
    packages: include_str!("../../../local/images/wopr-registry/packages.txt"),
    dockerfile: include_str!("../../../local/images/wopr-registry/Dockerfile"),
    uid: SERVICE_UID,
    programs: &[],
    directories: &["data"],
    links: &[],
    files: &[("etc/registry.yml", include_str!("../../../local/images/wopr-registry/registry.yml"))],
    models: &[],
};
/// The port that it listens on.
pub(crate) const REGISTRY_PORT: u16 = 5000;
/// Its file of users, in the format of htpasswd, with bcrypt.
pub(crate) const REGISTRY_USERS: &str = "/data/users";

/// The page that stands where the dashboard will be.
pub(crate) const UI: Program = Program {
    repository: "wopr-ui",
    tag: "local",
    package: "wopr-local",
    binary: "wopr-ui",
    uid: SERVICE_UID,
    loads: &[],
    dockerfile: include_str!("../../../local/images/wopr-ui/Dockerfile"),
};
/// The port that it listens on.
pub(crate) const UI_PORT: u16 = 3000;
/// Variable: where a browser reaches the API.
pub(crate) const UI_API_VARIABLE: &str = "WOPR_UI_API_URL";
/// Variable: where a browser reaches the mails.
pub(crate) const UI_MAIL_VARIABLE: &str = "WOPR_UI_MAIL_URL";
/// Variable: where a browser reaches the Stripe stand-in.
pub(crate) const UI_STRIPE_VARIABLE: &str = "WOPR_UI_STRIPE_URL";
/// The program that exits 0 while it answers; the image's health check.
pub(crate) const UI_HEALTH: [&str; 2] = ["/wopr-ui", "health"];

/// Every image that the two-machine topology runs and the flat stack does not, made from packages.
pub(crate) const ASSEMBLIES: [&Assembly; 6] = [&MACHINE, &LLAMA, &WHISPER, &SPEECH, &CADDY, &BACKUP];

/// The daemon of a GPU machine.
pub(crate) const GPU_NODE: Program = Program {
    repository: "wopr-gpu-node",
    tag: "local",
    package: "wopr-gpu-node",
    binary: "wopr-gpu-node",
    uid: SERVICE_UID,
    loads: &["libpthread.so.0", "libdl.so.2", "librt.so.1"],
    dockerfile: include_str!("../../../local/images/wopr-gpu-node/Dockerfile"),
};

/// Every program that is alone in its image, by the name of the image.
pub(crate) const PROGRAMS: [(&str, Program); 7] = [
    ("api", API),
    ("stripe", STRIPE),
    ("mail", MAIL),
    ("bot", BOT),
    ("objects", OBJECTS),
    ("ui", UI),
    ("gpu-node", GPU_NODE),
];

/// `repository:tag` of an image, by its name.
pub(crate) fn tagged(name: &str) -> Option<String> {
    let database = ("postgres", POSTGRES_REPOSITORY, POSTGRES_TAG);
    let programs = PROGRAMS.iter().map(|(name, program)| (*name, program.repository, program.tag));
    let assemblies = ASSEMBLIES.iter().map(|recipe| (recipe.name, recipe.repository, recipe.tag));
    let mut all = programs.chain(assemblies).chain([database]);
    all.find(|(known, ..)| *known == name).map(|(_, repository, tag)| format!("{repository}:{tag}"))
}
