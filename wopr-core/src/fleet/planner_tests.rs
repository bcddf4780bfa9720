use proptest::prelude::*;

use super::*;

const HASH: &str = "wanted";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn container(state: ContainerState) -> ObservedContainer {
    ObservedContainer {
        id: "c1".to_owned(),
        state,
        health: None,
        spec_hash: Some(HASH.to_owned()),
        exit_code: 0,
        error: None,
        started_at: None,
        created_at: None,
    }
}

fn observed(container: Option<ObservedContainer>) -> Observed {
    Observed { container, has_image: true, has_volumes: true, has_any_volume: true, has_network: true }
}

fn wanted() -> Desired {
    Desired {
        state: DesiredState::Running,
        spec_hash: Some(HASH.to_owned()),
        restart_policy: RestartPolicy::UnlessStopped,
        restart: false,
        keyed_container: Some("c1".to_owned()),
    }
}

#[test]
fn the_account_goes_before_the_owner() {
    let now = at(100);
    let hold = |end: Option<i64>| Permission::Hold { destroy_after: end.map(at) };
    let table = [
        (DesiredState::Running, Permission::Run, Aim::Run),
        (DesiredState::Running, hold(None), Aim::Rest),
        (DesiredState::Running, hold(Some(101)), Aim::Rest),
        (DesiredState::Running, hold(Some(100)), Aim::Vanish),
        (DesiredState::Stopped, Permission::Run, Aim::Rest),
        (DesiredState::Stopped, hold(Some(99)), Aim::Vanish),
        (DesiredState::Destroyed, Permission::Run, Aim::Vanish),
        (DesiredState::Destroyed, hold(None), Aim::Vanish),
    ];
    for (desired, permission, wanted) in table {
        assert_eq!(aim(desired, permission, now), wanted, "{desired:?} {permission:?}");
    }
}

#[test]
fn a_new_bot_is_made_in_order() {
    let nothing = Observed::default();
    let unknown = Desired { spec_hash: None, keyed_container: None, ..wanted() };
    assert_eq!(plan(&unknown, Aim::Run, &nothing), [Step::ResolveImage]);
    let steps = plan(&Desired { keyed_container: None, ..wanted() }, Aim::Run, &nothing);
    let order = [
        Step::PullImage,
        Step::EnsureNetwork,
        Step::EnsureVolumes,
        Step::CreateContainer,
        Step::InstallKey,
        Step::Start,
    ];
    assert_eq!(steps, order);
}

#[test]
fn a_running_bot_needs_nothing_and_each_deviation_its_step() {
    use ContainerState::{Created, Dead, Exited, Paused, Restarting, Running};
    let plan_for = |container, desired: &Desired| plan(desired, Aim::Run, &observed(Some(container)));
    assert_eq!(plan_for(container(Running), &wanted()), []);
    assert_eq!(plan_for(container(Created), &wanted()), [Step::Start]);
    assert_eq!(plan_for(container(Exited), &wanted()), [Step::Start]);
    assert_eq!(plan_for(container(Paused), &wanted()), [Step::Resume]);
    assert_eq!(plan_for(container(Restarting), &wanted()), [Step::Await]);
    let unkeyed = Desired { keyed_container: None, ..wanted() };
    assert_eq!(plan_for(container(Created), &unkeyed), [Step::InstallKey, Step::Start]);
    let restart = Desired { restart: true, ..wanted() };
    assert_eq!(plan_for(container(Running), &restart), [Step::Restart]);
    let once = Desired { restart_policy: RestartPolicy::No, ..wanted() };
    assert_eq!(plan_for(container(Exited), &once), []);
    assert_eq!(plan_for(container(Exited), &Desired { restart: true, ..once }), [Step::Start]);
    let make = [Step::RemoveContainer, Step::CreateContainer, Step::InstallKey, Step::Start];
    assert_eq!(plan_for(container(Dead), &wanted()), make);
    let outdated = ObservedContainer { spec_hash: Some("before".to_owned()), ..container(Running) };
    let steps = plan_for(outdated, &wanted());
    assert_eq!(steps[..2], [Step::Stop, Step::RemoveContainer]);
    let starting = ObservedContainer { health: Some(ContainerHealth::Starting), ..container(Running) };
    assert_eq!(plan_for(starting.clone(), &wanted()), [Step::Await]);
    assert_eq!(judge(Aim::Run, &observed(Some(starting))), Verdict::Unsettled);
    let unwell = ObservedContainer { health: Some(ContainerHealth::Unhealthy), ..container(Running) };
    assert!(matches!(judge(Aim::Run, &observed(Some(unwell))), Verdict::Failing(_)));
}

#[test]
fn a_resting_bot_is_stopped_and_leaves_no_debris() {
    use ContainerState::{Created, Dead, Exited, Paused, Restarting, Running};
    let plan_for = |state| plan(&wanted(), Aim::Rest, &observed(Some(container(state))));
    for alive in [Running, Paused, Restarting] {
        assert_eq!(plan_for(alive), [Step::Stop], "{alive:?}");
    }
    for at_rest in [Created, Exited] {
        assert_eq!(plan_for(at_rest), [], "{at_rest:?}");
    }
    assert_eq!(plan_for(Dead), [Step::RemoveContainer]);
}

/// What a step does to an engine where everything works.
fn apply(step: Step, seen: &mut Observed, desired: &mut Desired) {
    let set = |seen: &mut Observed, state| {
        if let Some(container) = &mut seen.container {
            container.state = state;
            container.health = None;
        }
    };
    match step {
        Step::ResolveImage => desired.spec_hash = Some(HASH.to_owned()),
        Step::PullImage => seen.has_image = true,
        Step::EnsureNetwork => seen.has_network = true,
        Step::EnsureVolumes => (seen.has_volumes, seen.has_any_volume) = (true, true),
        Step::CreateContainer => {
            seen.container = Some(ObservedContainer { id: "c2".to_owned(), ..container(ContainerState::Created) });
        }
        Step::InstallKey => desired.keyed_container = seen.container.as_ref().map(|container| container.id.clone()),
        Step::Start | Step::Restart => {
            desired.restart = false;
            set(seen, ContainerState::Running);
        }
        Step::Resume | Step::Await => set(seen, ContainerState::Running),
        Step::Stop => set(seen, ContainerState::Exited),
        Step::RemoveContainer => seen.container = None,
        Step::RemoveVolumes => (seen.has_volumes, seen.has_any_volume) = (false, false),
        Step::RemoveNetwork => seen.has_network = false,
    }
}

fn any_container() -> impl Strategy<Value = ObservedContainer> {
    let health = prop_oneof![Just(None), Just(Some(ContainerHealth::Starting)), Just(Some(ContainerHealth::Healthy)),];
    (proptest::sample::select(ContainerState::ALL.to_vec()), health, any::<bool>(), 0_i64..2).prop_map(
        |(state, health, current, exit_code)| ObservedContainer {
            health: health.filter(|_| state == ContainerState::Running),
            spec_hash: Some(if current { HASH } else { "before" }.to_owned()),
            exit_code,
            ..container(state)
        },
    )
}

fn any_observed() -> impl Strategy<Value = Observed> {
    (proptest::option::of(any_container()), any::<[bool; 4]>()).prop_map(|(container, [image, all, some, network])| {
        Observed { container, has_image: image, has_volumes: all, has_any_volume: all || some, has_network: network }
    })
}

fn any_desired() -> impl Strategy<Value = Desired> {
    let policies =
        vec![RestartPolicy::No, RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::UnlessStopped];
    (any::<[bool; 3]>(), proptest::sample::select(policies)).prop_map(|([known, restart, keyed], restart_policy)| {
        Desired {
            spec_hash: known.then(|| HASH.to_owned()),
            keyed_container: keyed.then(|| "c1".to_owned()),
            restart,
            restart_policy,
            ..wanted()
        }
    })
}

proptest! {
    /// From whatever there is, the plans lead to the aim within a few rounds, and what may not run does not.
    #[test]
    fn every_start_ends_at_the_aim(
        mut desired in any_desired(),
        mut seen in any_observed(),
        aim in proptest::sample::select(vec![Aim::Run, Aim::Rest, Aim::Vanish]),
    ) {
        let mut rounds = 0;
        loop {
            let steps = plan(&desired, aim, &seen);
            if steps.is_empty() {
                break;
            }
            rounds += 1;
            prop_assert!(rounds <= 4, "{steps:?} again and again");
            for step in steps {
                apply(step, &mut seen, &mut desired);
            }
        }
        let alive = seen.container.as_ref().is_some_and(|container| container.state.is_alive());
        match (aim, judge(aim, &seen)) {
            (Aim::Run, Verdict::Settled(Phase::Running)) => prop_assert!(alive),
            // A process that ended is left alone where its restart policy says so.
            (Aim::Run, Verdict::Settled(Phase::Stopped) | Verdict::Failing(_)) => {
                let code = seen.container.as_ref().map_or(0, |container| container.exit_code);
                prop_assert!(!alive && !desired.restart_policy.restarts_after(code));
            }
            (Aim::Rest, Verdict::Settled(Phase::Stopped)) => prop_assert!(!alive),
            (Aim::Vanish, Verdict::Settled(Phase::Destroyed)) => prop_assert!(seen.container.is_none()),
            (aim, verdict) => prop_assert!(false, "{aim:?} ended in {verdict:?} with {seen:?}"),
        }
    }
}
