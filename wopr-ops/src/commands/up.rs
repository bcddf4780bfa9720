//! `up`: from nothing, or from whatever is there, to a stack that sells a running bot.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt, path::Path, time::Instant};

use anyhow::Context;
use bollard::Docker;

use super::images::{NAMES, References};
use crate::{
    cli::UpArgs,
    engine,
    exec::{apply::apply, observe::observe},
    failure::{Exit, Failure},
    happy_path,
    images::{Image, prune},
    paths::{Paths, is_root},
    plan::{
        flat::{self, Images, Inputs, Ports},
        spec::{Service, Stack},
        steps::{Plan, plan},
    },
    ports,
    secrets::{Handover, Secrets, hand_over},
    ui::Ui,
};

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &UpArgs) -> anyhow::Result<()> {
    let since = Instant::now();
    require_root()?;
    let _lock = super::lock(paths)?;
    ui.heading("Docker engine");
    let engine = engine::ensure(ui, paths).await?;

    ui.heading("Images");
    let wanted = wanted_images(&args.only)?;
    let wanted = |name: &str| wanted.contains(&name);
    let images = super::images::ensure(ui, paths, &engine, args.profile, wanted).await?;
    bring(ui, paths, &engine, &images, args).await?;
    if !args.dry_run {
        ui.done("the stack is up", since.elapsed());
    }
    Ok(())
}

pub(crate) fn require_root() -> anyhow::Result<()> {
    if is_root() {
        return Ok(());
    }
    Err(Failure::new(Exit::Environment, "the stack cannot be brought up from this account")
        .why("secret files are given to the users of the containers, which only root may do")
        .fix("run the same command as root")
        .into())
}

/// From images to a stack that is up and, unless told otherwise, proven.
pub(crate) async fn bring(
    ui: &Ui,
    paths: &Paths,
    engine: &Docker,
    images: &References,
    args: &UpArgs,
) -> anyhow::Result<()> {
    ui.heading("Stack");
    let directory = paths.data.join("secrets");
    refuse_lost_secrets(engine, &directory).await?;
    let (secrets, created) = Secrets::load_or_create(&directory)?;
    if !created.is_empty() {
        ui.note(format!("made {} secrets in {}", created.len(), directory.display()));
    }
    let handovers = flat::handovers(|name| secrets.get(name))?;
    let directory = paths.data.join("run");
    let stack = desired(images, args, &handovers, &directory)?;
    let observed = observe(engine, &stack).await?;
    let plan = plan(&stack, &observed);
    if args.dry_run {
        ui.line(plan.to_string().trim_end());
        return Ok(());
    }
    ports_free(engine, &stack, &plan).await?;
    for service in &stack.services {
        if let Some(files) = handovers.get(service.name) {
            hand_over(&directory.join(service.name), files, flat::uid(service.name))?;
        }
    }
    let http = super::http_client()?;
    apply(ui, engine, &http, &stack, &plan).await?;
    // Images that were replaced could not go while the containers of before still used them.
    let current: Vec<Image> = images.values().cloned().collect();
    prune(engine, &current).await?;
    if plan.is_unchanged() {
        ui.note("nothing had to be changed");
    }
    if args.only.is_empty() && !args.no_prove {
        ui.heading("Happy path");
        let secret = secrets.get("STRIPE_WEBHOOK_SECRET")?;
        happy_path::walk(ui, engine, &http, args.ports.api_port, secret).await?;
    }
    addresses(ui, args.ports, &stack);
    Ok(())
}

/// New secrets would lock everybody out of data that older ones protect.
async fn refuse_lost_secrets(engine: &Docker, directory: &Path) -> anyhow::Result<()> {
    let volume = flat::POSTGRES_VOLUME;
    if !Secrets::are_missing(directory) || engine.inspect_volume(volume).await.is_err() {
        return Ok(());
    }
    Err(Failure::new(Exit::Environment, "the secrets of the existing data are not here")
        .why(format!("volume {volume} exists, and {} holds no secrets", directory.display()))
        .fix("put the directory back (or WOPR_DATA_DIR to where it is); or `cargo wopr down --volumes` to start empty")
        .into())
}

/// The images that the services given to `--only`, and what they need, run.
fn wanted_images(only: &[String]) -> anyhow::Result<Vec<&'static str>> {
    if only.is_empty() {
        return Ok(NAMES.to_vec());
    }
    let mut wanted = Vec::new();
    for name in only {
        wanted.extend(match name.as_str() {
            flat::POSTGRES => &["postgres"][..],
            flat::STRIPE => &["stripe"],
            flat::MAIL => &["mail"],
            flat::MIGRATE => &["postgres", "api"],
            flat::API => &["postgres", "stripe", "mail", "api", "bot"],
            _ => {
                return Err(Failure::new(Exit::Failed, format!("there is no service {name}"))
                    .fix(format!("the services are {}", flat::SERVICES.join(", ")))
                    .into());
            }
        });
    }
    Ok(wanted)
}

fn desired(
    images: &References,
    args: &UpArgs,
    handovers: &BTreeMap<&'static str, Handover>,
    directory: &Path,
) -> anyhow::Result<Stack> {
    // An image that was not asked for belongs to a service that is left out below.
    let reference = |name: &str| images.get(name).map(|image| image.reference.clone()).unwrap_or_default();
    let images = Images {
        postgres: reference("postgres"),
        api: reference("api"),
        stripe: reference("stripe"),
        mail: reference("mail"),
    };
    let group =
        fs::metadata(engine::SOCKET).with_context(|| format!("{} cannot be handed to the API", engine::SOCKET))?.gid();
    let stack = flat::stack(&Inputs {
        images: &images,
        ports: args.ports,
        socket: (engine::SOCKET, group),
        handovers,
        handover_directory: directory.to_str().context("the data directory's path is not text")?,
    });
    if args.only.is_empty() {
        return Ok(stack);
    }
    stack.only(&args.only).map_err(|name| anyhow::anyhow!("there is no service {name}"))
}

/// Refuses to begin while somebody else holds a port that a new container wants.
async fn ports_free(engine: &Docker, stack: &Stack, plan: &Plan) -> anyhow::Result<()> {
    let created = plan.created();
    let ours = |service: &&Service| created.contains(service.name);
    for service in stack.services.iter().filter(ours) {
        for (port, _) in &service.ports {
            if ports::is_free(*port) || published_by(engine, *port).await?.as_deref() == Some(service.name) {
                continue;
            }
            return Err(taken(*port, service.name, published_by(engine, *port).await?).into());
        }
    }
    Ok(())
}

fn taken(port: u16, service: &str, container: Option<String>) -> Failure {
    let holder = match (container, ports::owner(Path::new("/proc"), port)) {
        (Some(name), _) => format!("the container {name} publishes it"),
        (None, Some(owner)) => format!("process {} holds it: {}", owner.pid, owner.command),
        (None, None) => "a process that this account cannot see holds it".to_owned(),
    };
    let flag = match service {
        flat::STRIPE => "--stripe-port",
        flat::MAIL => "--mail-port",
        _ => "--api-port",
    };
    Failure::new(Exit::PortTaken, format!("port {port} of this machine, which {service} needs, is taken"))
        .why(holder)
        .fix(format!("stop it, or choose another port with {flag} PORT"))
}

/// The running container that publishes a port of this machine.
async fn published_by(engine: &Docker, port: u16) -> anyhow::Result<Option<String>> {
    let running = engine
        .list_containers(None::<bollard::query_parameters::ListContainersOptions>)
        .await
        .context("the engine does not list its containers")?;
    let publishes = |summary: &&bollard::models::ContainerSummary| {
        summary.ports.iter().flatten().any(|published| published.public_port == Some(port))
    };
    Ok(running.iter().find(publishes).map(crate::exec::observe::name_of))
}

fn addresses(ui: &Ui, ports: Ports, stack: &Stack) {
    let shown = [
        (flat::API, format!("API              http://localhost:{}", ports.api_port)),
        (flat::STRIPE, format!("Stripe stand-in  http://localhost:{}", ports.stripe_port)),
        (flat::MAIL, format!("mail             http://localhost:{}", ports.mail_port)),
    ];
    ui.heading("Addresses");
    for (name, line) in shown {
        if stack.services.iter().any(|service| service.name == name) {
            ui.note(line);
        }
    }
}
