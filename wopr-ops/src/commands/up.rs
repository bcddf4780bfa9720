//! `up`: from nothing, or from whatever is there, to a stack that sells a running bot.

pub(crate) mod log_end;
pub(crate) mod recovering;

use std::{
    collections::BTreeMap,
    os::unix::fs::chown,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use bollard::Docker;

use super::images::{NAMES, Programs, References, TOPOLOGY_NAMES};
use crate::{
    cli::UpArgs,
    engine,
    exec::{
        apply::{apply, apply_as_images_come, remove_container},
        card::{Card, by_digest, fetched, handed_on},
        disk, frozen,
        observe::observe,
        remove,
        sites::{group_of, inside, position},
        transfer::{self, Arrivals},
    },
    failure::{Exit, Failure},
    happy_path,
    images::{Image, prune},
    paths::{Paths, is_root, private_directory},
    plan::{
        disk::to_make,
        inference,
        machines::{self, GPU, Position, SHARED, VPS},
        platform::{self, ELSEWHERE, Images, Inputs, Place, Ports},
        production::Production,
        spec::{Mount, Observed, Service, Stack},
        steps::{Plan, Row, Step, images_in_order, plan},
    },
    secrets::{Handover, Secrets, hand_over},
    seed,
    ui::Ui,
};

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &UpArgs) -> anyhow::Result<()> {
    let since = Instant::now();
    let ui = &ui.beside_json(args.json);
    require_root()?;
    let _lock = super::lock(paths)?;
    ui.heading("Docker engine");
    let engine = engine::ensure(ui, paths).await?;

    let images = images(ui, paths, &engine, args).await?;
    bring(ui, paths, &engine, &images, args).await?;
    if !args.dry_run {
        ui.done("the stack is up", since.elapsed());
    }
    Ok(())
}

/// The images that are asked for: compiled and built, or from a bundle.
pub(crate) async fn images(ui: &Ui, paths: &Paths, engine: &Docker, args: &UpArgs) -> anyhow::Result<References> {
    ui.heading("Images");
    let wanted = wanted_images(paths, args)?;
    match &args.bundle {
        None => {
            let programs = Programs::Compile(args.profile);
            super::images::ensure(ui, paths, engine, programs, |name| wanted.contains(&name)).await
        }
        Some(file) => {
            let mut images = super::bundle::open(ui, paths, file).await?;
            images.retain(|name, _| wanted.contains(name));
            // What the machines run, they load themselves.
            let here = images.iter().filter(|(name, _)| args.flat || **name == "machine").map(|(_, image)| image);
            transfer::load_here(ui, engine, &paths.archives(), &here.collect::<Vec<_>>()).await?;
            Ok(images)
        }
    }
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

/// What bringing a stack up needs.
pub(crate) struct Work<'a> {
    ui: &'a Ui,
    paths: &'a Paths,
    /// This machine's engine.
    engine: &'a Docker,
    http: reqwest::Client,
    args: &'a UpArgs,
    images: Images,
    current: Vec<Image>,
    secrets: Secrets,
    card: Card,
}

/// From images to a stack that is up and, unless told otherwise, proven.
pub(crate) async fn bring(
    ui: &Ui,
    paths: &Paths,
    engine: &Docker,
    images: &References,
    args: &UpArgs,
) -> anyhow::Result<()> {
    let work = Work::new(ui, paths, engine, images, args).await?;
    let platform = if args.flat { work.flat().await? } else { work.two_machines().await? };
    let Some(platform) = platform else { return Ok(()) };
    if !platform.unchanged {
        // Images that were replaced could not go while the containers of before still used them.
        prune(engine, &work.current).await?;
    }
    if args.only.is_empty() && !args.no_prove {
        ui.heading("Happy path");
        let secret = work.secrets.get("STRIPE_WEBHOOK_SECRET")?;
        let names = if args.flat { &platform::FLAT } else { &platform::VPS };
        let (port, http_port) = (args.ports.api_port, (!args.flat).then_some(args.ports.http_port));
        happy_path::walk(ui, &platform.engine, &work.http, port, secret, names.postgres, http_port).await?;
    }
    addresses(ui, args);
    Ok(())
}

/// Where the platform came to be.
pub(crate) struct Platform {
    engine: Docker,
    /// Whether all of it was so already.
    unchanged: bool,
}

impl<'a> Work<'a> {
    /// Reads or makes the secrets.
    pub(crate) async fn new(
        ui: &'a Ui,
        paths: &'a Paths,
        engine: &'a Docker,
        images: &References,
        args: &'a UpArgs,
    ) -> anyhow::Result<Self> {
        let directory = paths.data.join("secrets");
        refuse_lost_secrets(engine, &directory).await?;
        let (secrets, created) = Secrets::load_or_create(&directory)?;
        if !created.is_empty() {
            ui.note(format!("made {} secrets in {}", created.len(), directory.display()));
        }
        Ok(Work {
            ui,
            paths,
            engine,
            http: super::http_client()?,
            args,
            images: images.iter().map(|(name, image)| (*name, image.reference.clone())).collect(),
            current: images.values().cloned().collect(),
            secrets,
            card: Card::of(engine).await?,
        })
    }

    /// Everything on this machine's engine.
    async fn flat(&self) -> anyhow::Result<Option<Platform>> {
        self.ui.heading("Stack");
        let handovers = platform::handovers(Place::Here, |name| self.secrets.get(name))?;
        let directory = self.paths.data.join("run");
        let stack = only(self.platform(Place::Here, engine::SOCKET, &handovers, &directory)?, &self.args.only);
        let observed = observe(self.engine, &stack).await?;
        let plan = plan(&stack, &observed);
        if self.args.dry_run {
            return self.show(vec![(None, plan)]).map(|()| None);
        }
        ports_free(self.engine, &stack, &plan, self.args.ports).await?;
        write_files(&stack, &handovers, &directory)?;
        apply(self.ui, self.engine, &self.http, &stack, &plan).await?;
        if plan.is_unchanged() {
            self.ui.note("nothing had to be changed");
        }
        Ok(Some(Platform { engine: self.engine.clone(), unchanged: plan.is_unchanged() }))
    }

    /// Two machines, each with an engine of its own.
    pub(crate) async fn two_machines(&self) -> anyhow::Result<Option<Platform>> {
        self.refuse_loss().await?;
        self.ui.heading("Machines");
        self.card.say(self.ui);
        let Some(unchanged) = self.machines().await? else { return Ok(None) };
        self.ui.heading("Services");
        let (vps, gpu) = (inside(self.paths, VPS).await?, inside(self.paths, GPU).await?);
        let (vps_stack, vps_files) = self.vps(position(self.engine, VPS).await?)?;
        let fill_gpu = async {
            let production = self.production(&gpu).await?;
            let (stack, files) = self.gpu(position(self.engine, GPU).await?, production.as_ref())?;
            anyhow::Ok((self.fill(GPU, &gpu, stack, &files).await?, production.is_some()))
        };
        let (vps_unchanged, (gpu_unchanged, has_card)) =
            tokio::try_join!(Box::pin(self.fill(VPS, &vps, vps_stack, &vps_files)), Box::pin(fill_gpu))?;
        if self.args.only.is_empty() {
            transfer::prune(&self.paths.archives(), &self.current)?;
        }
        if self.args.only.is_empty() {
            self.seed(has_card).await?;
        }
        let unchanged = unchanged && vps_unchanged && gpu_unchanged;
        if unchanged {
            self.ui.note("nothing had to be changed");
        }
        Ok(Some(Platform { engine: vps, unchanged }))
    }

    /// The machines themselves; answers whether they were so already, or nothing if the plan was only shown.
    pub(crate) async fn machines(&self) -> anyhow::Result<Option<bool>> {
        let directory = self.paths.machines();
        let image = self.images.get("machine").cloned().unwrap_or_default();
        let capabilities = machines::own_capabilities()?;
        let stack = machines::stack(&image, self.args.ports, &directory, &capabilities, self.card.production());
        if !self.args.dry_run {
            for service in &stack.services {
                frozen::end_killed(self.engine, service.name).await?;
            }
        }
        let observed = observe(self.engine, &stack).await?;
        let plan = plan(&stack, &observed).with_disks(self.disks(&stack).await?);
        if self.args.dry_run {
            return self.show_all(plan).await.map(|()| None);
        }
        ports_free(self.engine, &stack, &plan, self.args.ports).await?;
        for service in &stack.services {
            private_directory(&directory.join(service.name))?;
        }
        apply(self.ui, self.engine, &self.http, &stack, &plan).await?;
        Ok(Some(plan.is_unchanged()))
    }

    /// The disks that were asked for and are not there.
    async fn disks(&self, stack: &Stack) -> anyhow::Result<Vec<Step>> {
        let mut steps = Vec::new();
        if self.args.disk.is_none() {
            return Ok(steps);
        }
        let machines = self.paths.machines();
        for service in &stack.services {
            let there = disk::there(self.engine, &machines, stack, service.name).await?;
            if let Some(bytes) = to_make(service.name, self.args.disk, there)? {
                steps.push(Step::CreateDisk {
                    machine: service.name,
                    file: disk::file(&machines, service.name),
                    bytes,
                });
            }
        }
        Ok(steps)
    }

    /// Loads what the machines' services run into their engines.
    pub(crate) async fn load(&self) -> anyhow::Result<()> {
        let (vps, gpu) = (inside(self.paths, VPS).await?, inside(self.paths, GPU).await?);
        let (vps_stack, gpu_stack) =
            (self.vps(position(self.engine, VPS).await?)?.0, self.gpu(position(self.engine, GPU).await?, None)?.0);
        let arrivals = Arrivals::default();
        let (of_vps, of_gpu) = (self.images_of(&vps_stack)?, self.images_of(&gpu_stack)?);
        tokio::try_join!(self.load_into(VPS, &vps, &of_vps, &arrivals), self.load_into(GPU, &gpu, &of_gpu, &arrivals),)?;
        Ok(())
    }

    /// How long each server that needs no other takes from nothing to ready, alone; its container is gone afterwards.
    pub(crate) async fn each_alone(&self) -> anyhow::Result<Vec<(&'static str, Duration)>> {
        let (vps, gpu) = (inside(self.paths, VPS).await?, inside(self.paths, GPU).await?);
        let (vps_stack, vps_files) = self.vps(position(self.engine, VPS).await?)?;
        let (gpu_stack, gpu_files) = self.gpu(position(self.engine, GPU).await?, None)?;
        let mut took = Vec::new();
        for (machine, engine, stack, files) in [(VPS, &vps, vps_stack, vps_files), (GPU, &gpu, gpu_stack, gpu_files)] {
            self.prepare(machine, &stack, &files)?;
            for service in stack.services.iter().filter(|service| service.after.is_empty() && !service.is_work()) {
                let part = stack.clone().only(&[service.name.to_owned()]);
                let plan = plan(&part, &observe(engine, &part).await?);
                let since = Instant::now();
                apply(self.ui, engine, &self.http, &part, &plan).await?;
                took.push((service.name, since.elapsed()));
                remove_container(engine, service.name, true).await?;
            }
        }
        Ok(took)
    }

    /// The images of a machine's services, those first that most wait for.
    fn images_of(&self, stack: &Stack) -> anyhow::Result<Vec<Image>> {
        let known = |reference: &str| {
            let image = self.current.iter().find(|image| image.reference == reference);
            image.cloned().with_context(|| format!("{reference} was neither built nor bundled"))
        };
        images_in_order(stack).into_iter().map(known).collect()
    }

    async fn load_into(
        &self,
        machine: &str,
        engine: &Docker,
        images: &[Image],
        arrivals: &Arrivals,
    ) -> anyhow::Result<()> {
        transfer::load(self.ui, self.engine, (machine, engine), &self.paths.archives(), images, arrivals).await
    }

    /// Brings one machine's services up; answers whether nothing had to be changed.
    async fn fill(
        &self,
        machine: &str,
        engine: &Docker,
        stack: Stack,
        files: &BTreeMap<&'static str, Handover>,
    ) -> anyhow::Result<bool> {
        let stack = only(stack, &self.args.only);
        let observed = observe(engine, &stack).await?;
        let plan = plan(&stack, &observed);
        self.prepare(machine, &stack, files)?;
        let (wanted, arrivals) = (self.images_of(&stack)?, Arrivals::default());
        let loading = async {
            let loaded = self.load_into(machine, engine, &wanted, &arrivals).await;
            if loaded.is_err() {
                arrivals.end();
            }
            loaded
        };
        let applying = apply_as_images_come(self.ui, engine, &self.http, &stack, &plan, Some(&arrivals));
        let (loaded, applied) = tokio::join!(loading, applying);
        loaded?;
        applied?;
        prune(engine, &wanted).await?;
        if self.args.only.is_empty() {
            remove::unused_networks(engine, &stack).await?;
        }
        Ok(plan.is_unchanged())
    }

    /// Writes what the machine's services are handed, and makes the directories that do not go with it.
    fn prepare(&self, machine: &str, stack: &Stack, files: &BTreeMap<&'static str, Handover>) -> anyhow::Result<()> {
        write_files(stack, files, &self.files(machine))?;
        let elsewhere = Path::new(SHARED).join(ELSEWHERE);
        for service in &stack.services {
            for mount in &service.mounts {
                if let Mount::Bind { source, .. } = mount
                    && let Ok(name) = Path::new(source).strip_prefix(&elsewhere)
                {
                    let directory = self.paths.machines().join(machine).join(ELSEWHERE).join(name);
                    private_directory(&directory)?;
                    let uid = platform::uid(service.name);
                    chown(&directory, Some(uid), Some(uid))
                        .with_context(|| format!("{} cannot be given to {}", directory.display(), service.name))?;
                }
            }
        }
        Ok(())
    }

    /// Where the files of a machine's services lie, seen from this machine.
    fn files(&self, machine: &str) -> std::path::PathBuf {
        self.paths.machines().join(machine).join(FILES)
    }

    fn vps(&self, position: Position) -> anyhow::Result<(Stack, BTreeMap<&'static str, Handover>)> {
        let handovers = platform::handovers(Place::Machine(position), |name| self.secrets.get(name))?;
        Ok((self.vps_from(position, &handovers, platform::stack)?, handovers))
    }

    fn vps_from(
        &self,
        position: Position,
        handovers: &BTreeMap<&'static str, Handover>,
        stack: impl FnOnce(&Inputs<'_>) -> Stack,
    ) -> anyhow::Result<Stack> {
        let group = group_of(&machines::socket(&self.paths.machines(), VPS))?;
        Ok(stack(&Inputs {
            images: &self.images,
            place: Place::Machine(position),
            ports: self.args.ports,
            socket: (engine::SOCKET, group),
            handovers,
            handover_directory: &format!("{SHARED}/{FILES}"),
        }))
    }

    /// Enrols the GPU machine.
    async fn seed(&self, has_card: bool) -> anyhow::Result<()> {
        let token = self.secrets.get("FLEET_API_TOKEN_ADMIN")?;
        seed::gpu(self.ui, &self.http, self.args.ports.api_port, token, has_card).await
    }

    /// Production's services, if the machine has a card for them and their images can be had.
    async fn production(&self, gpu: &Docker) -> anyhow::Result<Option<Production>> {
        let Some(wanted) = self.card.production() else { return Ok(None) };
        if !handed_on(self.engine).await? {
            self.ui.warn(format!("the runtime gave {GPU} no card: the processor computes, with small models"));
            return Ok(None);
        }
        fetched(self.ui, gpu, wanted).await
    }

    fn gpu(
        &self,
        position: Position,
        production: Option<&Production>,
    ) -> anyhow::Result<(Stack, BTreeMap<&'static str, Handover>)> {
        let handovers = inference::handovers(self.secrets.get("GPU_NODE_SECRET")?);
        let directory = format!("{SHARED}/{FILES}");
        let stack = inference::stack(&self.images, position.address, &handovers, &directory, production);
        Ok((stack, handovers))
    }

    fn platform(
        &self,
        place: Place,
        socket: &str,
        handovers: &BTreeMap<&'static str, Handover>,
        directory: &Path,
    ) -> anyhow::Result<Stack> {
        Ok(platform::stack(&Inputs {
            images: &self.images,
            place,
            ports: self.args.ports,
            socket: (socket, group_of(Path::new(socket))?),
            handovers,
            handover_directory: directory.to_str().context("the data directory's path is not text")?,
        }))
    }

    /// Prints what would be done: on machines that run, from what they have; on others, from nothing.
    async fn show_all(&self, outer: Plan) -> anyhow::Result<()> {
        let mut plans = vec![(None, outer)];
        for machine in [VPS, GPU] {
            let there = inside(self.paths, machine).await.ok();
            let position = match &there {
                Some(_) => position(self.engine, machine).await?,
                None => Position::NOWHERE,
            };
            let stack = if machine == GPU {
                let wanted = self.card.production();
                let known = match (&there, wanted) {
                    (Some(gpu), Some(wanted)) => by_digest(gpu, wanted).await?,
                    _ => None,
                };
                self.gpu(position, known.as_ref().or(wanted))?.0
            } else if there.is_some() {
                self.vps(position)?.0
            } else {
                let handovers = platform::handovers(Place::Machine(position), |name| self.secrets.get(name))?;
                let group = group_of(Path::new(engine::SOCKET))?;
                platform::stack(&Inputs {
                    images: &self.images,
                    place: Place::Machine(position),
                    ports: self.args.ports,
                    socket: (engine::SOCKET, group),
                    handovers: &handovers,
                    handover_directory: FILES,
                })
            };
            let stack = only(stack, &self.args.only);
            let observed = match &there {
                Some(engine) => observe(engine, &stack).await?,
                None => Observed::default(),
            };
            plans.push((Some(machine), plan(&stack, &observed)));
        }
        self.show(plans)
    }

    /// Prints plans, by machine.
    fn show(&self, plans: Vec<(Option<&'static str>, Plan)>) -> anyhow::Result<()> {
        if self.args.json {
            let rows: Vec<Row> = plans.iter().flat_map(|(machine, plan)| plan.rows(*machine)).collect();
            return self.ui.json(&rows);
        }
        for (machine, plan) in plans {
            let indent = if let Some(machine) = machine {
                self.ui.line(format!("on {machine}:"));
                "  "
            } else {
                ""
            };
            for line in plan.to_string().lines() {
                self.ui.line(format!("{indent}{line}"));
            }
        }
        Ok(())
    }
}

/// Below a machine's directory: one directory of files per service.
pub(crate) const FILES: &str = "run";

/// Writes what the services are handed.
fn write_files(stack: &Stack, handovers: &BTreeMap<&'static str, Handover>, directory: &Path) -> anyhow::Result<()> {
    for service in &stack.services {
        if let Some(files) = handovers.get(service.name) {
            hand_over(&directory.join(service.name), files, platform::uid(service.name))?;
        }
    }
    Ok(())
}

/// The stack reduced to what was asked for, if anything was.
fn only(stack: Stack, names: &[String]) -> Stack {
    if names.is_empty() { stack } else { stack.only(names) }
}

/// New secrets would lock everybody out of data that older ones protect.
async fn refuse_lost_secrets(engine: &Docker, directory: &Path) -> anyhow::Result<()> {
    if !Secrets::are_missing(directory) {
        return Ok(());
    }
    for volume in [platform::POSTGRES_VOLUME, machines::VPS_VOLUME] {
        if engine.inspect_volume(volume).await.is_ok() {
            return Err(Failure::new(Exit::Environment, "the secrets of the existing data are not here")
                .why(format!("volume {volume} exists, and {} holds no secrets", directory.display()))
                .fix("put the directory back (or WOPR_DATA_DIR to where it is); or `cargo wopr down --volumes` to start empty")
                .into());
        }
    }
    Ok(())
}

/// The images that are needed: all, or those of the services given to `--only` and of what they need.
pub(crate) fn wanted_images(paths: &Paths, args: &UpArgs) -> anyhow::Result<Vec<&'static str>> {
    // Stacks whose services name their images by what they are called here.
    let all = || NAMES.into_iter().chain(TOPOLOGY_NAMES);
    let names: Images = all().map(|name| (name, name.to_owned())).collect();
    let place = if args.flat { Place::Here } else { Place::Machine(Position::NOWHERE) };
    let files = BTreeMap::new();
    let inputs = Inputs {
        images: &names,
        place,
        ports: args.ports,
        socket: (engine::SOCKET, 0),
        handovers: &files,
        handover_directory: FILES,
    };
    let mut stacks = vec![platform::stack(&inputs)];
    if !args.flat {
        stacks.push(inference::stack(&names, Position::NOWHERE.address, &files, FILES, None));
    }
    let known: Vec<&str> = stacks.iter().flat_map(|stack| &stack.services).map(|service| service.name).collect();
    if let Some(unknown) = args.only.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(Failure::new(Exit::Failed, format!("there is no service {unknown}"))
            .fix(format!("the services are {}", known.join(", ")))
            .into());
    }
    if !args.flat {
        stacks.push(machines::stack("machine", args.ports, &paths.machines(), &[], None));
    }
    let mut wanted = Vec::new();
    for stack in stacks {
        let stack = if stack.name == "machines" { stack } else { only(stack, &args.only) };
        wanted.extend(stack.services.iter().flat_map(Service::images).cloned());
    }
    Ok(all().filter(|name| wanted.iter().any(|image| image == name)).collect())
}

/// Refuses to begin while somebody else holds a port that a new container wants.
async fn ports_free(engine: &Docker, stack: &Stack, plan: &Plan, ports: Ports) -> anyhow::Result<()> {
    let created = plan.created();
    let ours = |service: &&Service| created.contains(service.name);
    for service in stack.services.iter().filter(ours) {
        for (port, _) in &service.ports {
            if crate::ports::is_free(*port) || published_by(engine, *port).await?.as_deref() == Some(service.name) {
                continue;
            }
            return Err(taken(*port, service.name, ports.flag(*port), published_by(engine, *port).await?).into());
        }
    }
    Ok(())
}

fn taken(port: u16, service: &str, flag: &str, container: Option<String>) -> Failure {
    let holder = match (container, crate::ports::owner(Path::new("/proc"), port)) {
        (Some(name), _) => format!("the container {name} publishes it"),
        (None, Some(owner)) => format!("process {} holds it: {}", owner.pid, owner.command),
        (None, None) => "a process that this account cannot see holds it".to_owned(),
    };
    Failure::new(Exit::PortTaken, format!("port {port} of this machine, which {service} needs, is taken"))
        .why(holder)
        .fix(format!("stop it, or choose another port with {flag} PORT"))
}

/// The running container that publishes a port of this machine.
pub(crate) async fn published_by(engine: &Docker, port: u16) -> anyhow::Result<Option<String>> {
    let running = engine
        .list_containers(None::<bollard::query_parameters::ListContainersOptions>)
        .await
        .context("the engine does not list its containers")?;
    let publishes = |summary: &&bollard::models::ContainerSummary| {
        summary.ports.iter().flatten().any(|published| published.public_port == Some(port))
    };
    Ok(running.iter().find(publishes).map(crate::exec::observe::name_of))
}

fn addresses(ui: &Ui, args: &UpArgs) {
    let ports = args.ports;
    let mut shown = vec![
        format!("API              http://localhost:{}", ports.api_port),
        format!("Stripe stand-in  http://localhost:{}", ports.stripe_port),
        format!("mail             http://localhost:{}", ports.mail_port),
    ];
    if !args.flat {
        shown.insert(0, format!("dashboard        http://localhost:{}", ports.http_port));
        shown.extend([
            format!("text generation  http://localhost:{}", ports.llama_port),
            format!("text-to-speech   http://localhost:{}", ports.chatterbox_port),
            format!("speech-to-text   http://localhost:{}", ports.whisper_port),
            format!("embeddings       http://localhost:{}", ports.embeddings_port),
        ]);
    }
    if args.only.is_empty() {
        ui.heading("Addresses");
        for line in shown {
            ui.note(line);
        }
    }
}
