use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use super::{
    archive::Target,
    inference,
    machines::{self, Position},
    platform::{self, FLAT, Images, Inputs, Place, Ports, Progress, Source, VPS},
    production::Production,
    spec::{Container, Mount, Observed, Ready, Service, Stack, State},
    steps::{Step, images_in_order, plan},
};

fn images(api: &str) -> Images {
    let image = |name: &'static str| (name, format!("wopr-{name}:aa"));
    let mut images: Images =
        ["postgres", "stripe", "mail", "ui", "objects", "backup", "caddy", "llama", "speech", "whisper"]
            .map(image)
            .into_iter()
            .chain([image("gpu-node")])
            .collect();
    images.insert("api", format!("wopr-api:{api}"));
    images
}

fn stack_at(place: Place, api: &str, ports: Ports, password: &str) -> Stack {
    let secret = |name: &str| Ok(if name == "POSTGRES_PASSWORD" { password } else { "value" });
    let handovers = platform::handovers(place, secret).unwrap();
    platform::stack(&Inputs {
        images: &images(api),
        place,
        ports,
        socket: ("/var/run/docker.sock", 999),
        handovers: &handovers,
        handover_directory: "/data/run",
    })
}

fn stack_of(api: &str, ports: Ports, password: &str) -> Stack {
    stack_at(Place::Here, api, ports, password)
}

const VPS_POSITION: Position =
    Position { address: Ipv4Addr::new(172, 18, 0, 2), gateway: Ipv4Addr::new(172, 18, 0, 1) };

/// Everything there is: both topologies.
fn all_stacks(password: &str) -> Vec<Stack> {
    let handovers = inference::handovers(password);
    vec![
        stack_of("bb", Ports::default(), password),
        stack_at(Place::Machine(VPS_POSITION), "bb", Ports::default(), password),
        inference::stack(&images("bb"), VPS_POSITION.address, &handovers, "/data/run", None),
        machines::stack("wopr-machine:aa", Ports::default(), "/data/machines".as_ref(), &["CHOWN".to_owned()], None),
    ]
}

fn stack() -> Stack {
    stack_of("bb", Ports::default(), "secret")
}

/// What the engine shows of a stack that is up.
fn up(stack: &Stack) -> Observed {
    let container = |work: bool, aspects| Container {
        aspects,
        network: stack.network.name.to_owned(),
        state: if work { State::Exited(0) } else { State::Running },
    };
    Observed {
        networks: [stack.network.name.to_owned()].into(),
        volumes: stack.volumes().into_iter().map(str::to_owned).collect(),
        containers: stack
            .services
            .iter()
            .map(|service| (service.name.to_owned(), container(service.is_work(), service.aspects())))
            .collect(),
    }
}

fn set(observed: &mut Observed, name: &str, state: State) {
    observed.containers.get_mut(name).unwrap().state = state;
}

#[test]
fn the_schema_is_that_of_the_steps() {
    let disk = Step::CreateDisk { machine: machines::VPS, file: "/data/disk.img".into(), bytes: 1 << 33 };
    let plan = plan(&stack(), &Observed::default()).with_disks(vec![disk]);
    let rows = plan.rows(Some(machines::VPS));
    crate::runbook::assert_schema_fits("up-dry-run", &schemars::schema_for!(Vec<super::steps::Row>), &rows);
}

#[test]
fn from_nothing() {
    insta::assert_snapshot!(plan(&stack(), &Observed::default()));
}

#[test]
fn a_stack_that_is_up_stays_as_it_is() {
    let plan = plan(&stack(), &up(&stack()));
    assert!(plan.is_unchanged());
    assert!(plan.created().is_empty());
    insta::assert_snapshot!(plan);
}

#[test]
fn a_stopped_stack_starts_with_its_containers() {
    let mut observed = up(&stack());
    for name in [FLAT.postgres, FLAT.stripe, FLAT.mail, FLAT.api] {
        set(&mut observed, name, State::Exited(0));
    }
    insta::assert_snapshot!(plan(&stack(), &observed));
}

#[test]
fn a_new_api_image_touches_the_migration_and_the_api_alone() {
    insta::assert_snapshot!(plan(&stack_of("ee", Ports::default(), "secret"), &up(&stack())));
}

#[test]
fn another_port_recreates_what_carries_it_in_an_address() {
    insta::assert_snapshot!(plan(
        &stack_of("bb", Ports { api_port: 3200, ..Ports::default() }, "secret"),
        &up(&stack())
    ));
}

#[test]
fn a_changed_secret_recreates_who_is_handed_it() {
    insta::assert_snapshot!(plan(&stack_of("bb", Ports::default(), "another"), &up(&stack())));
}

#[test]
fn what_an_interruption_left_is_finished() {
    let mut observed = up(&stack());
    set(&mut observed, FLAT.postgres, State::Created);
    set(&mut observed, FLAT.migrate, State::Exited(1));
    set(&mut observed, FLAT.stripe, State::Exited(137));
    set(&mut observed, FLAT.mail, State::Other);
    observed.containers.remove(FLAT.api);
    insta::assert_snapshot!(plan(&stack(), &observed));
}

#[test]
fn a_container_of_the_same_name_that_is_not_ours_is_replaced_and_the_reason_said() {
    let mut observed = up(&stack());
    observed.containers.get_mut(FLAT.mail).unwrap().aspects = BTreeMap::new();
    let why = |step: &Step| matches!(step, Step::Remove { service, why } if *service == FLAT.mail && why.contains("not created by this"));
    assert!(plan(&stack(), &observed).steps().any(why));
}

#[test]
fn containers_of_a_network_that_has_gone_are_recreated() {
    let mut observed = up(&stack());
    observed.networks.clear();
    let plan = plan(&stack(), &observed);
    assert_eq!(plan.created().len(), stack().services.len());
    assert_eq!(plan.resources, [Step::CreateNetwork("wopr-flat".to_owned())]);
}

#[test]
fn containers_that_are_still_on_another_network_are_recreated() {
    let mut observed = up(&stack());
    observed.containers.get_mut(FLAT.mail).unwrap().network = "wopr-before".to_owned();
    assert_eq!(plan(&stack(), &observed).created(), BTreeSet::from([FLAT.mail]));
}

#[test]
fn a_part_of_the_stack_brings_what_it_needs() {
    let names = |only: &[&str]| {
        let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
        stack().only(&only).services.iter().map(|service| service.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&["wopr-mail"]), [FLAT.mail]);
    assert_eq!(names(&["wopr-api-migrate"]), [FLAT.postgres, FLAT.migrate]);
    assert_eq!(names(&["wopr-api"]).len(), 5);
    assert!(names(&["wopr-vps-platform-ui"]).is_empty());
}

#[test]
fn no_secret_is_in_the_environment_or_on_the_command_line() {
    for service in all_stacks("hunter2").iter().flat_map(|stack| &stack.services) {
        let shown = format!("{:?} {:?} {:?}", service.env, service.command, service.aspects());
        assert!(!shown.contains("hunter2"), "{}", service.name);
    }
}

#[test]
fn only_volumes_memory_the_engine_socket_and_what_is_elsewhere_are_writable() {
    for service in all_stacks("secret").iter().flat_map(|stack| &stack.services) {
        assert!(service.is_work() || service.ready != Ready::Finished);
        if service.machine.is_some() {
            continue;
        }
        for mount in &service.mounts {
            if let Mount::Bind { source, read_only: false, .. } = mount {
                let expected = match service.name {
                    name if [FLAT.api, VPS.api].contains(&name) => "/var/run/docker.sock",
                    name if name == VPS.objects => "/wopr/elsewhere/objects",
                    name if name == VPS.stripe => "/wopr/elsewhere/stripe",
                    name if name == VPS.mail => "/wopr/elsewhere/mail",
                    name => panic!("{name} can write to {source}"),
                };
                assert_eq!(source, expected);
            }
        }
        assert!(!service.user.starts_with("0:"), "{}", service.name);
    }
}

#[test]
fn who_shows_that_another_is_ready_waits_for_it() {
    for stack in all_stacks("secret") {
        let after = |name: &str| stack.services.iter().find(|service| service.name == name).map(|it| it.after.clone());
        for service in &stack.services {
            // By way of the migration, in the case of the database; what is not in this stack shows nothing.
            let Some(shown_by) = service.shown_by.and_then(after) else { continue };
            let nearer = shown_by.iter().flat_map(|name| after(name).unwrap_or_default());
            assert!(shown_by.iter().copied().chain(nearer).any(|name| name == service.name), "{}", service.name);
        }
    }
    let shown =
        all_stacks("secret").iter().flat_map(|stack| &stack.services).filter(|it| it.shown_by.is_some()).count();
    assert_eq!(shown, 7);
}

#[test]
fn names_and_published_ports_are_taken_once() {
    for stack in all_stacks("secret") {
        let mut names: Vec<&str> = stack
            .services
            .iter()
            .flat_map(|service| [&service.name].into_iter().chain(&service.aliases))
            .copied()
            .collect();
        let mut ports: Vec<u16> =
            stack.services.iter().flat_map(|service| &service.ports).map(|(published, _)| *published).collect();
        let (many_names, many_ports) = (names.len(), ports.len());
        names.sort_unstable();
        names.dedup();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!((names.len(), ports.len()), (many_names, many_ports), "{}", stack.name);
    }
}

#[test]
fn a_lost_platform_has_its_database_and_knows_its_bots_before_it_serves() {
    let place = Place::Machine(VPS_POSITION);
    let secret = |name: &str| Ok(if name == "BACKUP_ENCRYPTION_KEY" { "k1:hunter2" } else { "hunter2" });
    let handovers = platform::recovery_handovers(place, secret).unwrap();
    let recovery = |source, progress| {
        let inputs = Inputs {
            images: &images("bb"),
            place,
            ports: Ports::default(),
            socket: ("/var/run/docker.sock", 999),
            handovers: &handovers,
            handover_directory: "/data/run",
        };
        platform::recovery(&inputs, source, progress)
    };
    assert!(!format!("{:?}", recovery(Source::Set, Progress::Empty).services).contains("hunter2"));
    assert!(!format!("{:?}", recovery(Source::Log(Target::default()), Progress::Empty).services).contains("hunter2"));
    let order = |stack: &Stack| {
        let levels = plan(stack, &Observed::default()).levels;
        let level = |name: &str| {
            levels.iter().position(|level| {
                level.iter().flatten().any(|step| *step == Step::Await { service: name_of(stack, name) })
            })
        };
        [VPS.postgres, platform::RESTORE, platform::REPLAY, VPS.migrate, platform::RECOVER, VPS.api].map(level)
    };
    let of_set = order(&recovery(Source::Set, Progress::Empty));
    let [Some(postgres), Some(restore), None, Some(migrate), Some(recover), Some(api)] = of_set else {
        panic!("something is not there: {of_set:?}")
    };
    assert!(postgres < restore && restore < migrate && migrate < recover && recover < api);
    let of_log = order(&recovery(Source::Log(Target::default()), Progress::Empty));
    let [Some(postgres), None, Some(replay), Some(migrate), Some(recover), Some(api)] = of_log else {
        panic!("something is not there: {of_log:?}")
    };
    assert!(replay < postgres && postgres < migrate && migrate < recover && recover < api);
    for source in [Source::Set, Source::Log(Target::default())] {
        let done = order(&recovery(source, Progress::Filled));
        let [_, None, None, Some(migrate), Some(recover), Some(api)] = done else {
            panic!("what is restored is not restored over: {done:?}")
        };
        assert!(migrate < recover && recover < api);
    }
    // Nobody follows the line of a database that has not read all.
    for progress in [Progress::Empty, Progress::Filled] {
        let reading = recovery(Source::Log(Target::default()), progress);
        let database = reading.services.iter().find(|service| service.name == VPS.postgres).unwrap();
        assert!(database.command.contains(&"archive_command=false".to_owned()), "{progress:?}: {:?}", database.command);
    }
    // What serves afterwards is what `up` would have made.
    let stack = stack_at(place, "bb", Ports::default(), "hunter2");
    for source in [Source::Set, Source::Log(Target::default())] {
        let made = recovery(source, Progress::Whole);
        for service in &stack.services {
            let same = made.services.iter().find(|other| other.name == service.name).unwrap();
            assert_eq!((&same.env, &same.command), (&service.env, &service.command), "{}", service.name);
        }
    }
}

fn name_of(stack: &Stack, name: &str) -> &'static str {
    stack.services.iter().map(|service| service.name).find(|other| *other == name).unwrap_or("nobody")
}

#[test]
fn every_service_waits_only_for_services_of_its_own_stack() {
    for stack in all_stacks("secret") {
        for service in &stack.services {
            for name in &service.after {
                assert!(stack.services.iter().any(|other| other.name == *name), "{} waits for {name}", service.name);
            }
        }
    }
}

#[test]
fn what_a_machine_publishes_here_is_what_its_services_publish_there() {
    let [_, vps, gpu, machines] = all_stacks("secret").try_into().unwrap();
    for (machine, stack) in [(machines::VPS, vps), (machines::GPU, gpu)] {
        let there: Vec<u16> = stack.services.iter().flat_map(|service| &service.ports).map(|(port, _)| *port).collect();
        let outer = machines.services.iter().find(|service| service.name == machine).unwrap();
        for (_, inside) in &outer.ports {
            assert!(there.contains(inside), "nothing on {machine} listens on {inside}");
        }
    }
}

/// Else the engine would move the proxy's published port to a tenant's network, and cut whoever is connected.
#[test]
fn the_platforms_network_comes_before_those_of_tenants() {
    assert!(platform::VPS.network.name < "wopr-tenant-");
}

/// Whatever subnet an engine chooses for the machines' bridge.
#[test]
fn nothing_inside_a_machine_has_addresses_of_the_bridge_it_is_on() {
    let [_, vps, gpu, _] = all_stacks("secret").try_into().unwrap();
    let subnets = [&vps, &gpu].map(|stack| stack.network.subnet.unwrap().whole.parse::<ipnet::Ipv4Net>().unwrap());
    // Docker's own pools, and what tenants' networks are cut from.
    for taken in ["172.16.0.0/12", "192.168.0.0/16", "10.192.0.0/10"] {
        let taken: ipnet::Ipv4Net = taken.parse().unwrap();
        for subnet in subnets {
            assert!(!taken.contains(&subnet) && !subnet.contains(&taken), "{subnet} in {taken}");
        }
    }
}

/// Bots come from the network's gateway and other containers from addresses of the engine's choice: nobody believes them.
#[test]
fn the_api_believes_the_proxy_and_this_machine_alone_about_who_asks() {
    let machine = stack_at(Place::Machine(VPS_POSITION), "bb", Ports::default(), "secret");
    let service = |name: &str| machine.services.iter().find(|service| service.name == name).unwrap();
    let proxy = service(VPS.caddy).address.unwrap();
    let believed = &service(VPS.api).env["TRUSTED_PROXY_IPS"];
    assert_eq!(*believed, format!("{proxy},{}", VPS_POSITION.gateway));
    let subnet = machine.network.subnet.unwrap();
    let contains = |network: &str| network.parse::<ipnet::Ipv4Net>().unwrap().contains(&proxy);
    assert!(contains(subnet.whole) && !contains(subnet.given), "{proxy} in {subnet:?}");
    let handovers = platform::handovers(Place::Machine(VPS_POSITION), |_| Ok("secret")).unwrap();
    let configuration = handovers[VPS.caddy].values().next().unwrap();
    let configuration: serde_json::Value = serde_json::from_str(configuration).unwrap();
    let routes = configuration["apps"]["http"]["servers"]["local"]["routes"].as_array().unwrap();
    for route in routes {
        assert_eq!(route["handle"][0]["trusted_proxies"], serde_json::json!([VPS_POSITION.gateway]), "{route}");
    }
}

#[test]
fn two_machines_from_nothing() {
    let stacks = all_stacks("secret");
    let plans: Vec<String> = stacks[1..].iter().map(|stack| plan(stack, &Observed::default()).to_string()).collect();
    insta::assert_snapshot!(plans.join("\n"));
}

#[test]
fn a_graphics_card_makes_its_machine_and_services_anew_and_nothing_else() {
    let files = inference::handovers("secret");
    let production = Production::new(|_| None);
    let here = |card| machines::stack("wopr-machine:aa", Ports::default(), "/data/machines".as_ref(), &[], card);
    let gpu = |card| inference::stack(&images("bb"), VPS_POSITION.address, &files, "/data/run", card);
    let touched = |wanted: &Stack, before: &Stack| plan(wanted, &up(before)).created().into_iter().collect::<Vec<_>>();
    assert_eq!(touched(&here(Some(&production)), &here(None)), [machines::GPU]);
    let all = [inference::CHATTERBOX, inference::LLAMA, inference::NODE, inference::EMBEDDINGS, inference::WHISPER];
    assert_eq!(touched(&gpu(Some(&production)), &gpu(None)), all);
    assert_eq!(touched(&gpu(None), &gpu(Some(&production))), all);
    assert!(touched(&gpu(Some(&production)), &gpu(Some(&production))).is_empty());
    // Nothing of production's is loaded from here.
    assert_eq!(images_in_order(&gpu(Some(&production))), ["wopr-gpu-node:aa"]);
}

#[test]
fn production_is_handed_the_card_and_its_daemon_wants_to_see_it() {
    let files = inference::handovers("secret");
    let production = Production::new(|name| (name == "LLAMA_MODEL_FILE").then(|| "own.gguf".to_owned()));
    let stack = inference::stack(&images("bb"), VPS_POSITION.address, &files, "/data/run", Some(&production));
    for service in &stack.services {
        assert!(service.card, "{}", service.name);
        assert_eq!(service.pulled, service.name != inference::NODE, "{}", service.name);
        for part in ["lib64", "bin"] {
            let (source, target) = (format!("/run/nvidia/{part}"), format!("/usr/local/nvidia/{part}"));
            assert!(service.mounts.contains(&Mount::Bind { source, target, read_only: true }), "{}", service.name);
        }
    }
    let named = |name: &str| stack.services.iter().find(|service| service.name == name).unwrap();
    assert!(named(inference::LLAMA).command.contains(&"/models/own.gguf".to_owned()));
    let daemon = named(inference::NODE);
    assert_eq!(daemon.env["REQUIRE_GPU"], "true");
    assert_eq!(daemon.env["MODEL_FILES"], "/models/own.gguf,/models/qwen2-0_5b-instruct-q8_0.gguf");
    assert!(daemon.secrets.is_some() && daemon.user == "65532:65532", "{daemon:?}");
}

#[test]
fn what_most_wait_for_is_loaded_first_and_each_image_once() {
    let machine = stack_at(Place::Machine(VPS_POSITION), "bb", Ports::default(), "secret");
    let order = images_in_order(&machine);
    let at = |name: &str| order.iter().position(|image| *image == format!("wopr-{name}")).unwrap();
    // The database, the migration, the API and the proxy wait for each other; the dashboard, only the proxy waits for.
    assert_eq!(at("postgres:aa"), 0);
    assert!(at("api:bb") < at("backup:aa") && at("backup:aa") < at("ui:aa") && at("ui:aa") < at("caddy:aa"));
    let wanted: BTreeSet<&str> = machine.services.iter().flat_map(Service::images).map(String::as_str).collect();
    assert_eq!(order.len(), wanted.len());
    assert_eq!(order.into_iter().collect::<BTreeSet<_>>(), wanted);
}
