//! From what is wanted and what was seen to what has to be done.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
};

use serde::Serialize;

use super::{
    disk::shown,
    spec::{Container, Observed, Service, Stack, State},
};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Create the stack's network.
    CreateNetwork(String),
    /// Create a named volume.
    CreateVolume(String),
    /// Make a machine a disk of its own.
    CreateDisk { machine: &'static str, file: PathBuf, bytes: u64 },
    /// Stop and remove a container.
    Remove { service: &'static str, why: String },
    /// Create a container.
    Create { service: &'static str, why: String },
    /// Start a container that exists.
    Start { service: &'static str, why: String },
    /// Wait until a service is ready.
    Await { service: &'static str },
    /// Leave a service as it is, having made sure that it is ready.
    Keep { service: &'static str },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateNetwork(name) => write!(f, "create network {name}"),
            Self::CreateVolume(name) => write!(f, "create volume {name}"),
            Self::CreateDisk { machine, bytes, .. } => write!(f, "create a disk of {} for {machine}", shown(*bytes)),
            Self::Remove { service, why } => write!(f, "remove {service}: {why}"),
            Self::Create { service, why } => write!(f, "create {service}: {why}"),
            Self::Start { service, why } => write!(f, "start {service}: {why}"),
            Self::Await { service } => write!(f, "wait until {service} is ready"),
            Self::Keep { service } => write!(f, "keep {service}: unchanged"),
        }
    }
}

/// What has to be done: first the resources, then the services, each after those it needs, which are on earlier levels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Disks, networks and volumes.
    pub(crate) resources: Vec<Step>,
    /// Per level, the steps of each service. A service waits for those it needs, not for its whole level.
    pub(crate) levels: Vec<Vec<Vec<Step>>>,
}

/// One step, as `--json` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Row {
    /// The machine it is done on; `null` for this one.
    machine: Option<&'static str>,
    /// Steps of one level go side by side; 0 is disks, networks and volumes.
    level: usize,
    /// `create-disk`, `create-network`, `create-volume`, `remove`, `create`, `start`, `await` or `keep`.
    action: &'static str,
    /// The network, volume or service; of a disk, its machine.
    name: String,
    /// Why it is done, where that is not plain.
    why: Option<String>,
}

impl Step {
    /// The service it is about, if it is about one.
    pub(crate) fn service(&self) -> Option<&'static str> {
        match self {
            Self::CreateNetwork(_) | Self::CreateVolume(_) | Self::CreateDisk { .. } => None,
            Self::Remove { service, .. }
            | Self::Create { service, .. }
            | Self::Start { service, .. }
            | Self::Await { service }
            | Self::Keep { service } => Some(service),
        }
    }

    fn row(&self, machine: Option<&'static str>, level: usize) -> Row {
        let (action, name, why) = match self {
            Self::CreateNetwork(name) => ("create-network", name.as_str(), None),
            Self::CreateVolume(name) => ("create-volume", name.as_str(), None),
            Self::CreateDisk { machine, .. } => ("create-disk", *machine, None),
            Self::Remove { service, why } => ("remove", *service, Some(why)),
            Self::Create { service, why } => ("create", *service, Some(why)),
            Self::Start { service, why } => ("start", *service, Some(why)),
            Self::Await { service } => ("await", *service, None),
            Self::Keep { service } => ("keep", *service, None),
        };
        Row { machine, level, action, name: name.to_owned(), why: why.cloned() }
    }
}

impl Plan {
    /// All steps, as `--json` shows them.
    pub(crate) fn rows(&self, machine: Option<&'static str>) -> Vec<Row> {
        let resources = self.resources.iter().map(|step| step.row(machine, 0));
        let services = (1..)
            .zip(&self.levels)
            .flat_map(|(level, services)| services.iter().flatten().map(move |step| step.row(machine, level)));
        resources.chain(services).collect()
    }

    /// The plan with these disks made before all else.
    #[must_use]
    pub(crate) fn with_disks(mut self, disks: Vec<Step>) -> Self {
        self.resources.splice(0..0, disks);
        self
    }

    /// Whether everything is as it should be.
    pub(crate) fn is_unchanged(&self) -> bool {
        self.resources.is_empty() && self.steps().all(|step| matches!(step, Step::Keep { .. }))
    }

    /// All steps of services.
    pub(crate) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.levels.iter().flatten().flatten()
    }

    /// Services whose container is created, so that their ports must be free.
    pub(crate) fn created(&self) -> BTreeSet<&'static str> {
        self.steps()
            .filter_map(|step| if let Step::Create { service, .. } = step { Some(*service) } else { None })
            .collect()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.resources {
            writeln!(f, "{step}")?;
        }
        for (number, level) in self.levels.iter().enumerate() {
            writeln!(f, "level {}:", number + 1)?;
            for step in level.iter().flatten() {
                writeln!(f, "  {step}")?;
            }
        }
        Ok(())
    }
}

/// Plans the way from what was seen to what is wanted.
pub(crate) fn plan(stack: &Stack, observed: &Observed) -> Plan {
    let new_network = !observed.networks.contains(stack.network.name);
    let new_volumes: Vec<&str> = stack.volumes().into_iter().filter(|name| !observed.volumes.contains(*name)).collect();
    let mut resources = Vec::new();
    if new_network {
        resources.push(Step::CreateNetwork(stack.network.name.to_owned()));
    }
    resources.extend(new_volumes.iter().map(|name| Step::CreateVolume((*name).to_owned())));

    let mut touched = BTreeSet::new();
    let mut levels = Vec::new();
    for level in in_order(&stack.services) {
        let mut of_level = Vec::new();
        for service in level {
            let seen = observed.containers.get(service.name);
            // Not only while the network is being made: whoever is interrupted then finds it there, and them elsewhere.
            let moves = |container: &Container| new_network || container.network != stack.network.name;
            let steps = if seen.is_some_and(moves) {
                recreate(service, "its network is new".to_owned())
            } else if service.is_work() {
                work(service, seen, dependency_of_work(service, &touched))
            } else {
                server(service, seen)
            };
            if steps.iter().any(|step| !matches!(step, Step::Keep { .. })) {
                touched.insert(service.name);
            }
            of_level.push(steps);
        }
        levels.push(of_level);
    }
    Plan { resources, levels }
}

fn server(service: &Service, seen: Option<&Container>) -> Vec<Step> {
    let name = service.name;
    let Some(container) = seen else {
        return create(service, "it does not exist");
    };
    if let Some(why) = difference(service, container) {
        return recreate(service, why);
    }
    let why = match container.state {
        State::Running => return vec![Step::Keep { service: name }],
        State::Created => "it was never started".to_owned(),
        State::Exited(0) => "it was stopped".to_owned(),
        State::Exited(code) => format!("it had ended with {code}"),
        State::Other => return recreate(service, "it neither runs nor has ended".to_owned()),
    };
    vec![Step::Start { service: name, why }, Step::Await { service: name }]
}

fn work(service: &Service, seen: Option<&Container>, dependency: Option<&'static str>) -> Vec<Step> {
    let Some(container) = seen else {
        return create(service, "it has not run yet");
    };
    if let Some(why) = difference(service, container) {
        return recreate(service, why);
    }
    match (container.state, dependency) {
        (State::Exited(0), None) => vec![Step::Keep { service: service.name }],
        (State::Exited(0), Some(dependency)) => recreate(service, format!("{dependency} was started anew")),
        (State::Exited(code), _) => recreate(service, format!("it had ended with {code}")),
        _ => recreate(service, "it did not finish".to_owned()),
    }
}

/// What the work depends on and was touched: the work may have to be done again.
fn dependency_of_work(service: &Service, touched: &BTreeSet<&'static str>) -> Option<&'static str> {
    service.after.iter().copied().find(|name| touched.contains(name))
}

fn create(service: &Service, why: &str) -> Vec<Step> {
    vec![
        Step::Create { service: service.name, why: why.to_owned() },
        Step::Start { service: service.name, why: "it is new".to_owned() },
        Step::Await { service: service.name },
    ]
}

fn recreate(service: &Service, why: String) -> Vec<Step> {
    let mut steps = vec![Step::Remove { service: service.name, why: why.clone() }];
    steps.extend(create(service, &why));
    steps
}

/// In which aspects the container is not what is wanted; `None` if in none.
pub(crate) fn difference(service: &Service, container: &Container) -> Option<String> {
    if container.aspects.is_empty() {
        return Some("it was not created by this command".to_owned());
    }
    let wanted = service.aspects();
    let changed: Vec<String> = wanted
        .iter()
        .filter(|(name, value)| container.aspects.get(*name) != Some(value))
        .map(|(name, _)| name.clone())
        .collect();
    match (changed.as_slice(), container.aspects.get("image")) {
        ([], _) => None,
        ([only], Some(before)) if only == "image" => {
            Some(format!("its image changed from {before} to {}", service.image))
        }
        _ => Some(format!("changed: {}", changed.join(", "))),
    }
}

/// Services grouped so that each comes after everything it needs.
fn in_order(services: &[Service]) -> Vec<Vec<&Service>> {
    let names: BTreeSet<&str> = services.iter().map(|service| service.name).collect();
    let mut waiting: BTreeMap<&str, &Service> = services.iter().map(|service| (service.name, service)).collect();
    let mut levels = Vec::new();
    while !waiting.is_empty() {
        let free =
            |service: &&&Service| service.after.iter().all(|name| !waiting.contains_key(name) || !names.contains(name));
        let level: Vec<&Service> = waiting.values().filter(free).copied().collect();
        assert!(!level.is_empty(), "services wait for each other: {:?}", waiting.keys());
        for service in &level {
            waiting.remove(service.name);
        }
        levels.push(level);
    }
    levels
}

/// The images of a stack, each once: first those whose services have the longest chain of others waiting for them.
pub(crate) fn images_in_order(stack: &Stack) -> Vec<&str> {
    let mut waiting: BTreeMap<&str, usize> = BTreeMap::new();
    for level in in_order(&stack.services).iter().rev() {
        for service in level {
            let own = waiting.get(service.name).copied().unwrap_or_default();
            for name in &service.after {
                let longest = waiting.entry(name).or_default();
                *longest = (*longest).max(own + 1);
            }
        }
    }
    let mut services: Vec<&Service> = stack.services.iter().collect();
    services.sort_by_key(|service| std::cmp::Reverse(waiting.get(service.name).copied().unwrap_or_default()));
    let mut seen = BTreeSet::new();
    services.into_iter().flat_map(Service::images).map(String::as_str).filter(|image| seen.insert(*image)).collect()
}
