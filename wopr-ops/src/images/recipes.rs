//! What the images are made of: the files below `local/images`, compiled in.

/// Packages of the PostgreSQL image.
pub(crate) const POSTGRES_PACKAGES: &str = include_str!("../../../local/images/postgres/packages.txt");
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
    /// The recipe.
    pub(crate) dockerfile: &'static str,
}

/// The API server.
pub(crate) const API: Program = Program {
    repository: "wopr-api",
    tag: "local",
    package: "wopr-api",
    binary: "wopr-api",
    uid: SERVICE_UID,
    dockerfile: include_str!("../../../local/images/wopr-api/Dockerfile"),
};
/// The double of Stripe.
pub(crate) const STRIPE: Program = Program {
    repository: "wopr-stripe-standin",
    tag: "local",
    package: "wopr-local",
    binary: "wopr-stripe-standin",
    uid: SERVICE_UID,
    dockerfile: include_str!("../../../local/images/wopr-stripe/Dockerfile"),
};
/// The mail catcher.
pub(crate) const MAIL: Program = Program {
    repository: "wopr-mail-catcher",
    tag: "local",
    package: "wopr-local",
    binary: "wopr-mail-catcher",
    uid: SERVICE_UID,
    dockerfile: include_str!("../../../local/images/wopr-mail/Dockerfile"),
};
/// The bot of a tenant, under the name customers ask for.
pub(crate) const BOT: Program = Program {
    repository: "ghcr.io/wopr-network/wopr",
    tag: "latest",
    package: "wopr-local",
    binary: "wopr-bot",
    uid: BOT_UID,
    dockerfile: include_str!("../../../local/images/wopr-bot/Dockerfile"),
};
/// Where the PostgreSQL image is tagged.
pub(crate) const POSTGRES_REPOSITORY: &str = "wopr-postgres";
/// The tag a person would use for it.
pub(crate) const POSTGRES_TAG: &str = "15";
