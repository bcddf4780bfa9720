//! The stacks that the two machines should run, made from what is there: nothing is built, made or written.

use std::{collections::BTreeMap, path::Path};

use super::Where;
use crate::{
    commands::{
        images::{NAMES, TOPOLOGY_NAMES},
        up::FILES,
    },
    engine,
    plan::{
        inference,
        machines::{self, Position, SHARED},
        platform::{self, Images, Inputs, Place, Ports},
        production::Production,
        spec::{Service, Stack},
    },
    secrets::{Handover, samples},
};

/// The stacks, and the files of their services.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    here: Stack,
    vps: Stack,
    gpu: Stack,
    /// Files by service, of both machines.
    pub(crate) handovers: BTreeMap<&'static str, Handover>,
}

/// What the plan follows from.
pub(crate) struct Given<'a, S> {
    pub(crate) images: &'a Images,
    pub(crate) ports: Ports,
    /// The directory with one directory per machine.
    pub(crate) machines: &'a Path,
    pub(crate) capabilities: &'a [String],
    /// The group that may use the engine's socket on the platform's machine.
    pub(crate) group: u32,
    /// Where the two machines are.
    pub(crate) positions: (Position, Position),
    /// What the GPU machine is equipped for, if there is a graphics card.
    pub(crate) card: Option<&'a Production>,
    /// What it runs then, if it has the images.
    pub(crate) production: Option<&'a Production>,
    /// Looks a secret up.
    pub(crate) secret: S,
}

impl Planned {
    /// Plans both machines.
    ///
    /// # Errors
    /// Those of looking a secret up.
    pub(crate) fn new<'s>(given: &Given<'_, impl Fn(&str) -> anyhow::Result<&'s str>>) -> anyhow::Result<Self> {
        let directory = format!("{SHARED}/{FILES}");
        let place = Place::Machine(given.positions.0);
        let mut handovers = platform::handovers(place, &given.secret)?;
        handovers.extend(inference::handovers((given.secret)("GPU_NODE_SECRET")?));
        let image = given.images.get("machine").cloned().unwrap_or_default();
        let vps = platform::stack(&Inputs {
            images: given.images,
            place,
            ports: given.ports,
            socket: (engine::SOCKET, given.group),
            handovers: &handovers,
            handover_directory: &directory,
        });
        let address = given.positions.1.address;
        let gpu = inference::stack(given.images, address, &handovers, &directory, given.production);
        let here = machines::stack(&image, given.ports, given.machines, given.capabilities, given.card);
        Ok(Self { here, vps, gpu, handovers })
    }

    /// As it would be on any machine: with images called what `images --only` calls them, and samples instead of secrets.
    ///
    /// # Errors
    /// None: no secret is looked up.
    pub(crate) fn anywhere(ports: Ports) -> anyhow::Result<Self> {
        let images = NAMES.into_iter().chain(TOPOLOGY_NAMES).map(|name| (name, format!("{name}:content"))).collect();
        let samples = samples();
        Self::new(&Given {
            images: &images,
            ports,
            machines: Path::new("/machines"),
            capabilities: &[],
            group: 0,
            positions: (Position::NOWHERE, Position::NOWHERE),
            card: None,
            production: None,
            secret: |name: &str| Ok(samples.get(name).map_or("value", String::as_str)),
        })
    }

    /// The stack that runs there.
    pub(crate) fn at(&self, place: Where) -> &Stack {
        match place {
            Where::Here => &self.here,
            Where::Vps => &self.vps,
            Where::Gpu => &self.gpu,
        }
    }

    /// The same, to be changed.
    pub(crate) fn at_mut(&mut self, place: Where) -> &mut Stack {
        match place {
            Where::Here => &mut self.here,
            Where::Vps => &mut self.vps,
            Where::Gpu => &mut self.gpu,
        }
    }

    /// Where a service runs.
    pub(crate) fn place_of(&self, name: &str) -> Option<Where> {
        let has = |(_, stack): &(Where, &Stack)| stack.services.iter().any(|service| service.name == name);
        self.all().into_iter().find(has).map(|(place, _)| place)
    }

    /// A service and where it runs, to be changed.
    pub(crate) fn service_mut(&mut self, name: &str) -> Option<(Where, &mut Service)> {
        let place = self.place_of(name)?;
        let service = self.at_mut(place).services.iter_mut().find(|service| service.name == name);
        service.map(|service| (place, service))
    }

    /// All stacks and where they run.
    pub(crate) fn all(&self) -> [(Where, &Stack); 3] {
        [Where::Here, Where::Vps, Where::Gpu].map(|place| (place, self.at(place)))
    }
}
