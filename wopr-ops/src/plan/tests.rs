use std::collections::BTreeMap;

use super::{
    flat::{self, Images, Inputs, Ports},
    spec::{Container, Mount, Observed, Ready, Stack, State},
    steps::{Step, plan},
};

fn images(api: &str) -> Images {
    Images {
        postgres: "wopr-postgres:aa".to_owned(),
        api: format!("wopr-api:{api}"),
        stripe: "wopr-stripe-standin:cc".to_owned(),
        mail: "wopr-mail-catcher:dd".to_owned(),
    }
}

fn stack_of(api: &str, ports: Ports, password: &str) -> Stack {
    let handovers = flat::handovers(|name| Ok(if name == "POSTGRES_PASSWORD" { password } else { "value" })).unwrap();
    flat::stack(&Inputs {
        images: &images(api),
        ports,
        socket: ("/var/run/docker.sock", 999),
        handovers: &handovers,
        handover_directory: "/data/run",
    })
}

const PORTS: Ports = Ports { api_port: 3100, stripe_port: 3110, mail_port: 3120 };

fn stack() -> Stack {
    stack_of("bb", PORTS, "secret")
}

/// What the engine shows of a stack that is up.
fn up(stack: &Stack) -> Observed {
    let container =
        |work: bool, aspects| Container { aspects, state: if work { State::Exited(0) } else { State::Running } };
    Observed {
        networks: [stack.network.to_owned()].into(),
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
    for name in [flat::POSTGRES, flat::STRIPE, flat::MAIL, flat::API] {
        set(&mut observed, name, State::Exited(0));
    }
    insta::assert_snapshot!(plan(&stack(), &observed));
}

#[test]
fn a_new_api_image_touches_the_migration_and_the_api_alone() {
    insta::assert_snapshot!(plan(&stack_of("ee", PORTS, "secret"), &up(&stack())));
}

#[test]
fn another_port_recreates_what_carries_it_in_an_address() {
    insta::assert_snapshot!(plan(&stack_of("bb", Ports { api_port: 3200, ..PORTS }, "secret"), &up(&stack())));
}

#[test]
fn a_changed_secret_recreates_who_is_handed_it() {
    insta::assert_snapshot!(plan(&stack_of("bb", PORTS, "another"), &up(&stack())));
}

#[test]
fn what_an_interruption_left_is_finished() {
    let mut observed = up(&stack());
    set(&mut observed, flat::POSTGRES, State::Created);
    set(&mut observed, flat::MIGRATE, State::Exited(1));
    set(&mut observed, flat::STRIPE, State::Exited(137));
    set(&mut observed, flat::MAIL, State::Other);
    observed.containers.remove(flat::API);
    insta::assert_snapshot!(plan(&stack(), &observed));
}

#[test]
fn a_container_of_the_same_name_that_is_not_ours_is_replaced_and_the_reason_said() {
    let mut observed = up(&stack());
    observed.containers.get_mut(flat::MAIL).unwrap().aspects = BTreeMap::new();
    let why = |step: &Step| matches!(step, Step::Remove { service, why } if *service == flat::MAIL && why.contains("not created by this"));
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
fn a_part_of_the_stack_brings_what_it_needs() {
    let names = |only: &[&str]| {
        let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
        stack().only(&only).map(|stack| stack.services.iter().map(|service| service.name).collect::<Vec<_>>())
    };
    assert_eq!(names(&["wopr-mail"]), Ok(vec![flat::MAIL]));
    assert_eq!(names(&["wopr-api-migrate"]), Ok(vec![flat::POSTGRES, flat::MIGRATE]));
    assert_eq!(names(&["wopr-api"]).map(|names| names.len()), Ok(5));
    assert_eq!(names(&["wopr-ui"]), Err("wopr-ui".to_owned()));
}

#[test]
fn no_secret_is_in_the_environment_or_on_the_command_line() {
    let stack = stack_of("bb", PORTS, "hunter2");
    for service in &stack.services {
        let shown = format!("{:?} {:?} {:?}", service.env, service.command, service.aspects());
        assert!(!shown.contains("hunter2"), "{}", service.name);
    }
}

#[test]
fn only_volumes_memory_and_the_engine_socket_are_writable() {
    for service in &stack().services {
        for mount in &service.mounts {
            if let Mount::Bind { source, read_only: false, .. } = mount {
                assert_eq!((service.name, source.as_str()), (flat::API, "/var/run/docker.sock"));
            }
        }
        assert!(!service.user.starts_with("0:"), "{}", service.name);
        assert!(service.is_work() || service.ready != Ready::Finished);
    }
}
