//! What is wanted: a stack of services, and what was seen of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
};

use serde::Serialize;

use crate::images::layer::fingerprint;

/// On every container, volume and network of ours.
pub(crate) const MANAGED_LABEL: &str = "wopr.managed";
/// On every tenant's network.
pub(crate) const MANAGED_NETWORK_LABEL: &str = "wopr.managed-network";
/// Names the stack a container, volume or network belongs to.
pub(crate) const STACK_LABEL: &str = "wopr.stack";
/// Fingerprints of what a container was created from, by aspect, as JSON.
pub(crate) const CONFIG_LABEL: &str = "wopr.config";
/// On everything that tests create; `test` sweeps it, `down` leaves it alone.
pub(crate) const TEST_LABEL: &str = "wopr.test";

/// A bridge network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Its addresses, where they are not the engine's choice. Inside a machine they never are: an engine in there would choose
    /// what is free at that moment, and the bridge that the machine is on may have the same when it is made anew.
    pub(crate) subnet: Option<Subnet>,
}

/// The addresses of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnet {
    /// All of them, as `10.0.0.0/24`.
    pub(crate) whole: &'static str,
    /// Those that the engine gives to whoever asks for none.
    pub(crate) given: &'static str,
}

/// A stack: services on one network.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    /// Value of [`STACK_LABEL`].
    pub(crate) name: &'static str,
    /// The bridge network all services are on.
    pub(crate) network: Network,
    /// The address of its engine's machine that ports are published on.
    pub(crate) publish: Ipv4Addr,
    /// The address that published ports answer at, seen from here.
    pub(crate) host: Ipv4Addr,
    /// In any order; [`Service::after`] says what comes first.
    pub(crate) services: Vec<Service>,
}

impl Stack {
    /// Named volumes of all services, without repetition.
    pub(crate) fn volumes(&self) -> BTreeSet<&'static str> {
        self.services.iter().flat_map(Service::volumes).collect()
    }

    /// The stack reduced to those of its services that are named, and what they need.
    pub(crate) fn only(mut self, names: &[String]) -> Self {
        let mut kept: BTreeSet<&'static str> = BTreeSet::new();
        let all = self.services.iter().map(|service| service.name);
        let mut wanted: Vec<&'static str> = all.filter(|name| names.iter().any(|asked| asked == name)).collect();
        while let Some(name) = wanted.pop() {
            if kept.insert(name) {
                let service = self.services.iter().find(|service| service.name == name);
                wanted.extend(service.iter().flat_map(|service| &service.after));
            }
        }
        self.services.retain(|service| kept.contains(service.name));
        self
    }
}

/// One container of the stack.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    /// The container's name, and its host name on the network.
    pub(crate) name: &'static str,
    /// Further names on the network.
    pub(crate) aliases: Vec<&'static str>,
    /// Its address on the network, where others have to know it.
    pub(crate) address: Option<Ipv4Addr>,
    /// `repository:fingerprint`.
    pub(crate) image: String,
    /// Images of containers that it has its engine run.
    pub(crate) asks_for: Vec<String>,
    /// Arguments to the image's entry point.
    pub(crate) command: Vec<String>,
    /// Settings; secrets are in files.
    pub(crate) env: BTreeMap<String, String>,
    /// Fingerprint of the secret files it is handed; they are mounted at [`SECRETS`].
    pub(crate) secrets: Option<String>,
    /// `uid:gid` it runs as.
    pub(crate) user: String,
    /// Further groups: the one that may use the engine's socket.
    pub(crate) groups: Vec<String>,
    /// Published: port of the engine's machine, container port.
    pub(crate) ports: Vec<(u16, u16)>,
    /// What it can write to, and what it is given.
    pub(crate) mounts: Vec<Mount>,
    /// Memory limit in bytes; no swap beyond it.
    pub(crate) memory_bytes: i64,
    /// Services that must be ready before it starts.
    pub(crate) after: Vec<&'static str>,
    /// When it counts as ready.
    pub(crate) ready: Ready,
    /// The service that is ready only while this one is, too: where nothing had to be changed, that one alone is asked.
    pub(crate) shown_by: Option<&'static str>,
    /// Seconds it gets to end by itself.
    pub(crate) stop_seconds: i32,
    /// Whether the image is somebody else's, which the engine fetches from a registry and runs as that somebody meant it.
    pub(crate) pulled: bool,
    /// Whether it computes with the graphics card: a machine is given it by the engine's runtime, and hands it on.
    pub(crate) card: bool,
    /// Present if it is a machine with an engine of its own, and what it may then do.
    pub(crate) machine: Option<Machine>,
}

/// What a container needs to be a machine: to run an engine of its own. Nothing is privileged: every capability is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Capabilities, without `CAP_`.
    pub(crate) capabilities: Vec<String>,
}

/// Where a service finds its secrets.
pub(crate) const SECRETS: &str = "/run/secrets";

/// Something mounted into a container, whose root is read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) enum Mount {
    /// A named volume.
    Volume { name: &'static str, target: &'static str },
    /// A path of this machine, read-only unless it is a socket.
    Bind { source: String, target: String, read_only: bool },
    /// Memory; its content ends with the container. Options as in mount(8).
    Tmpfs { target: &'static str, options: &'static str },
}

/// The condition a service is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ready {
    /// A program inside the container ends with 0.
    Probe(Vec<&'static str>),
    /// A GET on each of these published container ports answers 200.
    Http(Vec<(u16, &'static str)>),
    /// The engine behind this socket answers.
    Engine(PathBuf),
    /// It runs: whoever started it knows better what to wait for.
    Started,
    /// The container itself ends with 0: it is work, not a server.
    Finished,
}

impl Service {
    /// The images of ours that have to be there before it is.
    pub(crate) fn images(&self) -> impl Iterator<Item = &String> {
        (!self.pulled).then_some(&self.image).into_iter().chain(&self.asks_for)
    }

    /// Its named volumes.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = &'static str> {
        self.mounts.iter().filter_map(|mount| if let Mount::Volume { name, .. } = mount { Some(*name) } else { None })
    }

    /// Sets variables of its environment.
    pub(crate) fn set(&mut self, settings: impl IntoIterator<Item = (&'static str, String)>) {
        self.env.extend(settings.into_iter().map(|(name, value)| (name.to_owned(), value)));
    }

    /// Fingerprints of what the container is created from, by aspect; an aspect that differs is a reason to recreate.
    pub(crate) fn aspects(&self) -> BTreeMap<String, String> {
        let of = |value: String| fingerprint([value.as_bytes()]);
        let secrets = self.secrets.clone().unwrap_or_default();
        [
            ("image", self.image.clone()),
            ("command", of(self.command.join("\0"))),
            ("settings", of(format!("{:?}", self.env))),
            ("secrets", secrets),
            ("user", of(format!("{} {:?}", self.user, self.groups))),
            ("ports", of(format!("{:?}", self.ports))),
            ("mounts", of(format!("{:?}", self.mounts))),
            ("limits", of(self.memory_bytes.to_string())),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .chain(self.address.iter().map(|address| ("address".to_owned(), address.to_string())))
        .chain(self.card.then(|| ("graphics card".to_owned(), "given".to_owned())))
        .chain(self.machine.iter().map(|machine| ("machine".to_owned(), of(machine.capabilities.join(" ")))))
        .collect()
    }

    /// Whether it is work that ends instead of a server.
    pub(crate) fn is_work(&self) -> bool {
        self.ready == Ready::Finished
    }
}

/// What the engine has of the stack.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    /// Names of networks.
    pub(crate) networks: BTreeSet<String>,
    /// Names of volumes.
    pub(crate) volumes: BTreeSet<String>,
    /// Containers by name.
    pub(crate) containers: BTreeMap<String, Container>,
}

/// A container that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    /// From [`CONFIG_LABEL`]; empty if it was not created by us.
    pub(crate) aspects: BTreeMap<String, String>,
    /// The network it was created on.
    pub(crate) network: String,
    /// What it does.
    pub(crate) state: State,
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It runs.
    Running,
    /// It was created and never started.
    Created,
    /// It ended with this code.
    Exited(i64),
    /// Anything else: paused, restarting, being removed, dead.
    Other,
}
