use std::sync::Arc;
use std::time::Duration;

use diesel::sql_types::{Text, Uuid};
use diesel_async::RunQueryDsl;
use jiff::SignedDuration;
use wopr_core::audit::{Actor, Origin};
use wopr_core::auth::{Auth, AuthConfig};
use wopr_core::billing::{Billing, BillingConfig, BillingError, Transfer, TransferKind};
use wopr_core::clock::Clock as _;
use wopr_core::fleet::{
    Bot, BotChange, ContainerHost as _, ContainerState, Fleet, FleetConfig, FleetError, HostError, NetworkRange,
    NewBot, Phase, RestartPolicy, Update,
};
use wopr_core::ids::{BotId, TenantId};
use wopr_core::money::Money;
use wopr_core::testing::{Fault, FixedClock, MemoryHost, TestDb};

struct Yard {
    test: TestDb,
    clock: FixedClock,
    billing: Billing,
    host: Arc<MemoryHost>,
    fleet: Fleet,
}

fn origin() -> Origin {
    Origin::system("test")
}

impl Yard {
    async fn open() -> Self {
        Self::with(FleetConfig::default()).await
    }

    async fn with(config: FleetConfig) -> Self {
        let test = TestDb::create().await;
        let clock = FixedClock::default();
        let billing = Billing::new(test.db.clone(), Arc::new(clock.clone()), BillingConfig::default());
        let host = Arc::new(MemoryHost::default());
        let fleet = Fleet::new(test.db.clone(), Arc::new(clock.clone()), billing.clone(), host.clone(), config);
        Self { test, clock, billing, host, fleet }
    }

    async fn customer(&self, cents: i32) -> TenantId {
        let tenant = TenantId::new(self.clock.now());
        let mut conn = self.test.db.connection().await.unwrap();
        diesel::sql_query("INSERT INTO tenants VALUES ($1, 'personal', $2, '2027-01-01')")
            .bind::<Uuid, _>(tenant.as_uuid())
            .bind::<Text, _>("Ann")
            .execute(&mut conn)
            .await
            .unwrap();
        drop(conn);
        if cents > 0 {
            self.pay(tenant, cents, "first").await;
        }
        tenant
    }

    async fn pay(&self, tenant: TenantId, cents: i32, key: &str) {
        let key = format!("cs_{tenant}_{key}");
        let amount = Money::from_cents(cents);
        let actor = Actor::Webhook("stripe");
        let transfer = Transfer::to_wallet(key, TransferKind::Purchase, tenant, amount, actor);
        self.billing.post(&[transfer]).await.unwrap();
    }

    async fn bot(&self, tenant: TenantId) -> Bot {
        self.fleet.create(&origin(), tenant, NewBot::new("test-bot", "wopr-network/wopr:latest")).await.unwrap()
    }

    /// A bot that runs.
    async fn running(&self, tenant: TenantId) -> BotId {
        let id = self.bot(tenant).await.id;
        self.fleet.advance().await.unwrap();
        self.assert_runs(tenant, id).await;
        id
    }

    async fn assert_runs(&self, tenant: TenantId, id: BotId) {
        let bot = self.fleet.get(tenant, id).await.unwrap();
        assert_eq!((bot.phase, bot.last_error), (Phase::Running, None));
        assert_eq!(self.host.state_of(id), Some(ContainerState::Running));
    }

    /// Lets time pass and work be done until nothing is due any more.
    async fn settle(&self) {
        for _ in 0..40 {
            self.clock.advance(SignedDuration::from_secs(31));
            self.fleet.advance().await.unwrap();
        }
        assert_eq!(self.fleet.advance().await.unwrap(), 0, "something is due for ever");
    }

    async fn balance(&self, tenant: TenantId) -> Money {
        self.billing.balance(tenant).await.unwrap().balance
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_is_answered_at_once_and_runs_after_one_look() {
    let yard = Yard::open().await;
    let tenant = yard.customer(500).await;
    let bot = yard.bot(tenant).await;
    assert_eq!(
        (bot.phase.status(), bot.spec.image.to_string().as_str()),
        ("provisioning", "ghcr.io/wopr-network/wopr:latest")
    );
    yard.fleet.advance().await.unwrap();
    yard.assert_runs(tenant, bot.id).await;
    let spec = yard.host.spec_of(bot.id).unwrap();
    assert!(spec.image.is_pullable(), "a digest runs, not a tag");
    assert_eq!(spec.env["WOPR_SERVICE_KEY_FILE"], "/run/wopr/service-key");
    assert!(yard.host.key_of(bot.id).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_is_refused_without_credit_name_or_permission() {
    let yard = Yard::open().await;
    let (poor, rich) = (yard.customer(16).await, yard.customer(500).await);
    let create =
        async |tenant, name: &str, image: &str| yard.fleet.create(&origin(), tenant, NewBot::new(name, image)).await;
    let image = "wopr-network/wopr";
    let refused = create(poor, "a", image).await.unwrap_err();
    let FleetError::Billing(BillingError::InsufficientCredit { required, .. }) = refused else { panic!("{refused}") };
    assert_eq!(required, Money::from_cents(17));
    create(rich, "a", image).await.unwrap();
    assert!(matches!(create(rich, "A", image).await, Err(FleetError::NameTaken(_))));
    assert!(matches!(create(rich, "b", "docker.io/library/nginx").await, Err(FleetError::ImageNotAllowed(_))));
    assert!(matches!(create(rich, "b", "").await, Err(FleetError::InvalidImage)));
    assert!(matches!(create(rich, "b c", image).await, Err(FleetError::Invalid(_))));
    assert_eq!(yard.fleet.list(Some(rich)).await.unwrap().len(), 1);
    assert!(yard.fleet.list(Some(poor)).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_made_by_halves_is_made_anew_once() {
    let yard = Yard::open().await;
    let tenant = yard.customer(500).await;
    let id = yard.running(tenant).await;
    let made = || yard.host.calls().into_iter().filter(|call| *call == "create_container").count();
    yard.host.wreck_container(id);
    yard.fleet.reconcile().await.unwrap();
    yard.settle().await;
    yard.assert_runs(tenant, id).await;
    assert_eq!(made(), 2);
    // What is wrong with the bot itself is not mended by making more of them.
    yard.host.break_image("wopr");
    yard.host.wreck_container(id);
    yard.fleet.reconcile().await.unwrap();
    for _ in 0..40 {
        yard.clock.advance(SignedDuration::from_secs(31));
        yard.fleet.advance().await.unwrap();
    }
    assert_eq!(made(), 3);
    assert_eq!(yard.fleet.get(tenant, id).await.unwrap().phase, Phase::Error);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_made_by_halves_is_made_anew_however_long_the_engine_was_away_before() {
    let yard = Yard::open().await;
    let tenant = yard.customer(500).await;
    let id = yard.running(tenant).await;
    yard.host.wreck_container(id);
    let away = || Fault::Fail(HostError::Unreachable("gone".to_owned()));
    for _ in 0..6 {
        yard.host.fault(yard.host.calls().len(), away());
        yard.clock.advance(SignedDuration::from_secs(31));
        yard.fleet.drive(id).await.unwrap();
    }
    assert_eq!(yard.fleet.get(tenant, id).await.unwrap().attempts, 6);
    // Nor is it given up when it cannot be removed at once.
    let removal = ["observe", "start_container", "observe", "remove_container"];
    let at = yard.host.calls().len();
    yard.host.fault(at + removal.len() - 1, away());
    yard.clock.advance(SignedDuration::from_secs(31));
    yard.fleet.drive(id).await.unwrap();
    assert_eq!(yard.host.calls()[at..], removal);
    yard.settle().await;
    yard.assert_runs(tenant, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_bot_does_not_exist() {
    let yard = Yard::open().await;
    let (owner, stranger) = (yard.customer(500).await, yard.customer(500).await);
    let id = yard.running(owner).await;
    let o = origin();
    let results = [
        yard.fleet.get(stranger, id).await.map(drop),
        yard.fleet.start(&o, stranger, id).await.map(drop),
        yard.fleet.stop(&o, stranger, id).await.map(drop),
        yard.fleet.restart(&o, stranger, id).await.map(drop),
        yard.fleet.destroy(&o, stranger, id).await,
        yard.fleet.logs(stranger, id, 10).await.map(drop),
        yard.fleet.stats(stranger, id).await.map(drop),
    ];
    for result in results {
        assert!(matches!(result, Err(FleetError::NotFound(_))));
    }
    yard.assert_runs(owner, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_survives_a_new_container_and_goes_with_the_bot() {
    let yard = Yard::open().await;
    let tenant = yard.customer(500).await;
    let id = yard.running(tenant).await;
    let key = yard.host.key_of(id);
    yard.host.write_data(id, b"kept");
    yard.host.lose_container(id);
    yard.fleet.reconcile().await.unwrap();
    yard.assert_runs(tenant, id).await;
    assert_eq!(yard.host.read_data(id).unwrap(), b"kept");
    assert_ne!(yard.host.key_of(id), key, "a new container has a new key");
    yard.fleet.destroy(&origin(), tenant, id).await.unwrap();
    assert!(matches!(yard.fleet.get(tenant, id).await, Err(FleetError::NotFound(_))));
    yard.fleet.advance().await.unwrap();
    assert_eq!(yard.host.counts(), (0, 0, 0));
    // Its name is free again.
    yard.bot(tenant).await;
}

/// Whatever call goes wrong, and however, the bot runs in the end, once, with its data.
#[tokio::test(flavor = "multi_thread")]
async fn no_failure_of_any_call_leaves_a_bot_behind() {
    let full = || Fault::Fail(HostError::NoSpace("full".to_owned()));
    let away = || Fault::Fail(HostError::Unreachable("gone".to_owned()));
    let refused = || Fault::Fail(HostError::Refused("no".to_owned()));
    let mut number = 0;
    loop {
        let yard = Yard::open().await;
        let tenant = yard.customer(500).await;
        let before = number;
        for fault in [full(), away(), refused()] {
            let at = yard.host.calls().len() + number;
            yard.host.fault(at, fault);
            let name = format!("bot-{}", yard.host.calls().len());
            let bot = yard.fleet.create(&origin(), tenant, NewBot::new(name, "wopr-network/wopr")).await.unwrap();
            yard.fleet.advance().await.unwrap();
            let seen = yard.fleet.get(tenant, bot.id).await.unwrap();
            if yard.host.calls().len() > at {
                assert_eq!(seen.phase, Phase::Error, "call {number} went wrong");
                assert!(seen.last_error.is_some() && seen.next_attempt_at.is_some());
            } else {
                number = usize::MAX;
            }
            yard.settle().await;
            yard.assert_runs(tenant, bot.id).await;
            if number == usize::MAX {
                assert!(before >= 8, "a bot takes more calls than {before}");
                return;
            }
        }
        number += 1;
    }
}

/// A crash at any call, before or after it took effect: another process finishes once the lease is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_call_is_finished_by_another() {
    for fault in [Fault::Hang, Fault::HangAfter] {
        for number in 0.. {
            let yard = Yard::open().await;
            let tenant = yard.customer(500).await;
            let id = yard.bot(tenant).await.id;
            yard.host.fault(number, fault.clone());
            let crashed = tokio::select! {
                result = yard.fleet.drive(id) => { result.unwrap(); false }
                () = yard.host.hung() => true,
            };
            if !crashed {
                yard.assert_runs(tenant, id).await;
                assert!(number >= 8, "a bot takes more calls than {number}");
                break;
            }
            yard.clock.advance(SignedDuration::from_secs(16));
            yard.fleet.advance().await.unwrap();
            yard.assert_runs(tenant, id).await;
            assert_eq!(yard.host.counts(), (1, 2, 1));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_never_answers_has_a_deadline() {
    let mut config = FleetConfig::default();
    config.deadlines.call = std::time::Duration::from_millis(50);
    let yard = Yard::with(config).await;
    let tenant = yard.customer(500).await;
    let id = yard.bot(tenant).await.id;
    yard.host.fault(0, Fault::Hang);
    yard.fleet.advance().await.unwrap();
    let bot = yard.fleet.get(tenant, id).await.unwrap();
    assert_eq!(bot.phase, Phase::Error);
    assert!(bot.last_error.unwrap().contains("did not answer"));
    yard.settle().await;
    yard.assert_runs(tenant, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_away_is_told_of_and_comes_back_by_itself() {
    let yard = Yard::open().await;
    let tenant = yard.customer(500).await;
    let id = yard.running(tenant).await;
    yard.host.set_away(true);
    assert!(yard.fleet.reconcile().await.is_err());
    let bot = yard.fleet.get(tenant, id).await.unwrap();
    assert_eq!((bot.phase, bot.last_error.as_deref()), (Phase::Error, Some("the container engine cannot be reached")));
    yard.host.set_away(false);
    yard.clock.advance(SignedDuration::from_secs(5));
    yard.fleet.advance().await.unwrap();
    yard.assert_runs(tenant, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_make_one_container() {
    let yard = Yard::open().await;
    let tenant = yard.customer(500).await;
    let id = yard.bot(tenant).await.id;
    let (one, other) = tokio::join!(yard.fleet.drive(id), yard.fleet.drive(id));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(format!("{one:?}{other:?}").contains("Settled"), "{one:?} {other:?}");
    yard.assert_runs(tenant, id).await;
    let creations = yard.host.calls().iter().filter(|call| **call == "create_container").count();
    assert_eq!(creations, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_runs_what_the_name_of_the_image_means_by_now() {
    let yard = Yard::open().await;
    let tenant = yard.customer(500).await;
    let id = yard.running(tenant).await;
    assert!(!yard.fleet.image_status(tenant, id).await.unwrap().is_outdated());
    yard.host.release_images();
    let status = yard.fleet.image_status(tenant, id).await.unwrap();
    assert!(status.is_outdated(), "a new release is seen before it is run");
    let updated = yard.fleet.update_image(&origin(), tenant, id).await.unwrap();
    let (_, so_far) = yard.fleet.await_update(&updated, Duration::ZERO).await.unwrap();
    assert_eq!(so_far, Update::UnderWay(None));
    yard.fleet.advance().await.unwrap();
    let (bot, update) = yard.fleet.await_update(&updated, Duration::ZERO).await.unwrap();
    assert_eq!((update, bot.spec.digest.as_ref()), (Update::Done, Some(&status.available)));
    assert_eq!(yard.host.spec_of(id).unwrap().image, status.available);
    yard.assert_runs(tenant, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_does_not_come_up_is_rolled_back_and_told_from_others() {
    let yard = Yard::open().await;
    let tenant = yard.customer(500).await;
    let id = yard.running(tenant).await;
    let before = yard.fleet.get(tenant, id).await.unwrap();
    yard.host.release_images();
    let bad = yard.fleet.image_status(tenant, id).await.unwrap().available;
    yard.host.break_image(bad.as_str());
    let updated = yard.fleet.update_image(&origin(), tenant, id).await.unwrap();
    for _ in 0..3 {
        yard.fleet.advance().await.unwrap();
        yard.clock.advance(SignedDuration::from_mins(1));
    }
    let (bot, update) = yard.fleet.await_update(&updated, Duration::ZERO).await.unwrap();
    assert!(matches!(update, Update::RolledBack(_)), "{update:?}");
    assert_eq!((bot.spec, bot.phase), (before.spec, Phase::Running), "by its digest, whatever its name means now");

    let updated = yard.fleet.update_image(&origin(), tenant, id).await.unwrap();
    yard.fleet.stop(&origin(), tenant, id).await.unwrap();
    let (_, update) = yard.fleet.await_update(&updated, Duration::ZERO).await.unwrap();
    assert_eq!(update, Update::Superseded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_does_not_come_up_is_rolled_back() {
    let yard = Yard::open().await;
    let tenant = yard.customer(500).await;
    let id = yard.running(tenant).await;
    let before = yard.host.spec_of(id).unwrap();
    yard.host.break_image("broken");
    let change = BotChange { image: Some("wopr-network/broken:1".to_owned()), ..BotChange::default() };
    yard.fleet.update(&origin(), tenant, id, change).await.unwrap();
    yard.settle().await;
    let bot = yard.fleet.get(tenant, id).await.unwrap();
    assert_eq!((bot.phase, yard.host.spec_of(id).unwrap()), (Phase::Running, before));
    assert!(bot.last_error.unwrap().contains("rolled back"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_nobody_pays_for_stops_and_returns_with_the_money() {
    let yard = Yard::open().await;
    let tenant = yard.customer(20).await;
    // Whatever its policy says about processes that end: a suspension is not its end.
    let new = NewBot { restart_policy: RestartPolicy::No, ..NewBot::new("test-bot", "wopr-network/wopr") };
    let id = yard.fleet.create(&origin(), tenant, new).await.unwrap().id;
    yard.fleet.advance().await.unwrap();
    yard.host.write_data(id, b"kept");
    for _ in 0..5 {
        yard.fleet.charge_due_days().await.unwrap();
        yard.billing.advance_standing().await.unwrap();
        yard.fleet.reconcile().await.unwrap();
        yard.clock.advance(SignedDuration::from_hours(24));
    }
    assert_eq!(yard.host.state_of(id), Some(ContainerState::Exited), "nothing runs unpaid");
    assert!(!yard.balance(tenant).await.is_negative());
    let bot = yard.fleet.get(tenant, id).await.unwrap();
    assert!(bot.suspended_at.is_some() && bot.running_since.is_none());
    yard.pay(tenant, 500, "second").await;
    yard.fleet.reconcile().await.unwrap();
    yard.assert_runs(tenant, id).await;
    assert_eq!(yard.host.read_data(id).unwrap(), b"kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn days_are_charged_once_by_the_hour_first_and_not_while_stopped() {
    let yard = Yard::open().await;
    let tenant = yard.customer(500).await;
    let id = yard.running(tenant).await;
    // Made at 08:00: sixteen hours are left.
    let first = Money::from_cents(17).try_scale(16, 24).unwrap();
    for _ in 0..2 {
        yard.fleet.charge_due_days().await.unwrap();
        assert_eq!(yard.balance(tenant).await, Money::from_cents(500).try_sub(first).unwrap());
    }
    yard.clock.advance(SignedDuration::from_hours(48));
    yard.fleet.stop(&origin(), tenant, id).await.unwrap();
    yard.clock.advance(SignedDuration::from_hours(48));
    yard.fleet.charge_due_days().await.unwrap();
    let two_days = Money::from_cents(500 - 34).try_sub(first).unwrap();
    assert_eq!(yard.balance(tenant).await, two_days);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_installations_on_one_engine_leave_each_other_alone() {
    let (one, other) = (Yard::open().await, Yard::open().await);
    let tenant = one.customer(500).await;
    let elsewhere = Fleet::new(
        other.test.db.clone(),
        Arc::new(other.clock.clone()),
        other.billing.clone(),
        one.host.clone(),
        FleetConfig::default(),
    );
    // What both run on is nobody's orphan.
    one.host.run_service("wopr-postgres");
    // The network is made and nothing is on it yet: the moment in which a foreign sweep would take it.
    one.host.ensure_network(tenant, NetworkRange::default().nth(0)).await.unwrap();
    elsewhere.reconcile().await.unwrap();
    assert_eq!(one.host.counts(), (0, 0, 1));
    let id = one.running(tenant).await;
    let report = elsewhere.reconcile().await.unwrap();
    assert_eq!((report.orphans.len(), one.host.counts()), (3, (1, 2, 1)), "{report:?}");
    one.assert_runs(tenant, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_get_networks_apart_and_give_them_back() {
    // Four networks in all.
    let networks = NetworkRange::new([10, 9, 8, 0].into(), 26, 28).unwrap();
    let yard = Yard::with(FleetConfig { networks, ..FleetConfig::default() }).await;
    let somebody_elses = networks.nth(2);
    yard.host.take_subnet(somebody_elses);
    let mut bots = Vec::new();
    for _ in 0..3 {
        let tenant = yard.customer(500).await;
        bots.push((tenant, yard.running(tenant).await));
    }
    let mut subnets: Vec<_> = bots.iter().map(|(tenant, _)| yard.host.subnet_of(*tenant).unwrap()).collect();
    subnets.sort_by_key(ToString::to_string);
    assert_eq!(subnets, [0, 1, 3].map(|number| networks.nth(number)));

    // One more does not fit, and says so until somebody makes room.
    let late = yard.customer(500).await;
    let waiting = yard.bot(late).await.id;
    yard.fleet.advance().await.unwrap();
    let bot = yard.fleet.get(late, waiting).await.unwrap();
    assert_eq!((bot.phase, yard.host.subnet_of(late)), (Phase::Error, None));
    assert!(bot.last_error.unwrap().contains("addresses"));
    let (leaving, id) = bots[1];
    let freed = yard.host.subnet_of(leaving).unwrap();
    yard.fleet.destroy(&origin(), leaving, id).await.unwrap();
    yard.settle().await;
    yard.assert_runs(late, waiting).await;
    assert_eq!(yard.host.subnet_of(late), Some(freed));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_is_put_on_the_networks_of_tenants_with_bots() {
    let yard = Yard::with(FleetConfig { domain: Some("bots.test".to_owned()), ..FleetConfig::default() }).await;
    let (ann, bob, eve) = (yard.customer(500).await, yard.customer(500).await, yard.customer(500).await);
    let (of_ann, of_bob) = (yard.running(ann).await, yard.running(bob).await);
    let name = "test-bot".parse().unwrap();
    assert_ne!(yard.fleet.host_name(&name, of_ann), yard.fleet.host_name(&name, of_bob), "both call theirs alike");
    yard.bot(eve).await;
    assert_eq!(yard.fleet.connect_proxy().await.unwrap(), []);
    assert_eq!(yard.host.proxied(), [ann, bob].into(), "a bot that is not made yet has no network");

    // What the engine refuses for one tenant keeps no other's bot from being reached.
    yard.host.close_network(eve);
    yard.fleet.advance().await.unwrap();
    yard.fleet.destroy(&origin(), ann, of_ann).await.unwrap();
    yard.settle().await;
    assert_eq!(yard.fleet.connect_proxy().await.unwrap(), [eve]);
    assert_eq!(yard.host.proxied(), [bob].into());
    yard.host.set_away(true);
    assert!(matches!(yard.fleet.connect_proxy().await, Err(FleetError::Host(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_the_engine_never_starts_again_is_replaced_with_its_data_kept() {
    let yard = Yard::open().await;
    let tenant = yard.customer(500).await;
    let id = yard.running(tenant).await;
    yard.host.write_data(id, b"remember");
    yard.host.spoil_container(id);
    yard.host.end(id, 137);
    yard.fleet.reconcile().await.unwrap();
    let bot = yard.fleet.get(tenant, id).await.unwrap();
    assert_eq!((bot.phase, yard.host.state_of(id)), (Phase::Error, Some(ContainerState::Exited)));
    yard.settle().await;
    yard.assert_runs(tenant, id).await;
    assert_eq!(yard.host.read_data(id).unwrap(), b"remember");
}

/// It goes on, so another container would be a second process on the same volumes.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_process_the_engine_lost_sight_of_is_not_replaced() {
    let yard = Yard::open().await;
    let tenant = yard.customer(500).await;
    let id = yard.running(tenant).await;
    yard.fleet.reconcile().await.unwrap();
    let container = yard.fleet.get(tenant, id).await.unwrap().seen.container_id;
    assert!(container.is_some());
    yard.host.end(id, 137);
    for _ in 0..3 {
        // It is looked at, and then started.
        let at = yard.host.calls().len();
        yard.host.fault(at + 1, Fault::Fail(HostError::LostSight("id already in use".to_owned())));
        yard.clock.advance(SignedDuration::from_secs(31));
        yard.fleet.drive(id).await.unwrap();
        assert_eq!(yard.host.calls()[at..], ["observe", "start_container"]);
        let bot = yard.fleet.get(tenant, id).await.unwrap();
        assert_eq!((bot.phase, yard.host.state_of(id)), (Phase::Error, Some(ContainerState::Exited)));
        assert!(bot.last_error.unwrap().contains("lost sight"));
    }
    yard.settle().await;
    yard.assert_runs(tenant, id).await;
    assert_eq!(yard.fleet.get(tenant, id).await.unwrap().seen.container_id, container);
}

/// An engine that did not answer may still put in the key it was given, also after the next one.
#[tokio::test(flavor = "multi_thread")]
async fn every_key_given_to_a_container_is_good_until_the_container_is_replaced() {
    let mut config = FleetConfig::default();
    config.deadlines.call = std::time::Duration::from_millis(50);
    let yard = Yard::with(config).await;
    let urls = AuthConfig::new("http://127.0.0.1", "http://127.0.0.1");
    let auth = Auth::new(yard.test.db.clone(), Arc::new(yard.clock.clone()), yard.billing.clone(), urls);
    let is_good = async |key: &str| auth.find_api_key(key).await.unwrap().is_some();
    yard.running(yard.customer(500).await).await;
    let in_order = yard.host.calls().iter().position(|call| *call == "install_key").unwrap();
    let away = Fault::Fail(HostError::Unreachable("gone".to_owned()));
    for (fault, arrives) in [(Fault::HangAfter, true), (away, false)] {
        let tenant = yard.customer(500).await;
        let id = yard.bot(tenant).await.id;
        let at = yard.host.calls().len() + in_order;
        yard.host.fault(at, fault);
        yard.fleet.advance().await.unwrap();
        assert_eq!(yard.host.calls()[at..], ["install_key"]);
        assert_eq!(yard.fleet.get(tenant, id).await.unwrap().phase, Phase::Error);
        let unanswered = yard.host.key_of(id);
        assert_eq!(unanswered.is_some(), arrives);
        yard.settle().await;
        yard.assert_runs(tenant, id).await;
        let answered = yard.host.key_of(id).unwrap();
        assert_ne!(unanswered.as_ref(), Some(&answered));
        assert!(is_good(&answered).await);
        if let Some(key) = &unanswered {
            assert!(is_good(key).await, "the container may have either");
        }
        yard.host.lose_container(id);
        yard.fleet.reconcile().await.unwrap();
        yard.assert_runs(tenant, id).await;
        assert!(is_good(&yard.host.key_of(id).unwrap()).await);
        for key in unanswered.iter().chain([&answered]) {
            assert!(!is_good(key).await, "the container that had it is gone");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_is_given_another_key_where_it_runs_and_the_one_before_ends_later() {
    let yard = Yard::open().await;
    let tenant = yard.customer(500).await;
    let id = yard.running(tenant).await;
    let urls = AuthConfig::new("http://127.0.0.1", "http://127.0.0.1");
    let auth = Auth::new(yard.test.db.clone(), Arc::new(yard.clock.clone()), yard.billing.clone(), urls);
    let is_good = async |key: &str| auth.find_api_key(key).await.unwrap().is_some();
    let before = yard.host.key_of(id).unwrap();
    let (container, calls) = (yard.fleet.get(tenant, id).await.unwrap().seen.container_id, yard.host.calls().len());
    let stranger = yard.customer(500).await;
    let origin = Origin::system("test");
    assert!(matches!(yard.fleet.rotate_key(&origin, stranger, id).await, Err(FleetError::NotFound(_))));
    let until = yard.fleet.rotate_key(&origin, tenant, id).await.unwrap();
    assert_eq!(until, yard.clock.now() + SignedDuration::from_mins(15));
    while yard.fleet.advance().await.unwrap() > 0 {}
    let after = yard.host.key_of(id).unwrap();
    assert_ne!(before, after);
    assert!(is_good(&before).await && is_good(&after).await, "both, for a while");
    let changing: Vec<&str> =
        yard.host.calls()[calls..].iter().copied().filter(|call| !call.starts_with("observe")).collect();
    assert_eq!(changing, ["install_key"], "nothing else is touched");
    assert_eq!(yard.fleet.get(tenant, id).await.unwrap().seen.container_id, container);
    yard.assert_runs(tenant, id).await;
    yard.clock.advance(SignedDuration::from_mins(15));
    assert!(!is_good(&before).await && is_good(&after).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn charging_the_day_waits_for_a_change_and_not_the_other_way_round() {
    let yard = Yard::open().await;
    let tenant = yard.customer(500).await;
    let id = yard.running(tenant).await;
    yard.clock.advance(SignedDuration::from_hours(24));
    // What a change does: the bot's row, then its charges so far.
    let mut change = yard.test.db.connection().await.unwrap();
    let sql = |text: &str| diesel::sql_query(text.replace("$bot", &id.to_string()));
    sql("BEGIN").execute(&mut change).await.unwrap();
    sql("SELECT id FROM bots WHERE id = '$bot' FOR UPDATE").execute(&mut change).await.unwrap();
    let charging = tokio::spawn({
        let fleet = yard.fleet.clone();
        async move { fleet.charge_due_days().await }
    });
    let mut looking = yard.test.db.connection().await.unwrap();
    let waits = "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)
                 WHERE NOT granted AND datname = current_database()";
    while sql(waits).execute(&mut looking).await.unwrap() == 0 {
        assert!(!charging.is_finished(), "it has to wait for the change");
        tokio::task::yield_now().await;
    }
    let today = yard.clock.now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let charges = format!(
        "INSERT INTO bot_charges (bot_id, date, component, amount_nanos, state, created_at)
         VALUES ('$bot', '{today}', 'runtime', 1, 'due', '{today}') ON CONFLICT DO NOTHING"
    );
    sql(&charges).execute(&mut change).await.unwrap();
    sql("COMMIT").execute(&mut change).await.unwrap();
    charging.await.unwrap().unwrap();
}
