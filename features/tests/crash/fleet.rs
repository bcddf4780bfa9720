//! The engine is killed, hangs and is full while bots are made, stopped and destroyed, and some of them are not paid for.
//!
//! Afterwards every bot is as its owner wants it and as its owner's account allows, its bytes are there, and nothing is
//! on the engine that belongs to no bot. The engine is a real one, and the schedule's own: see [`features::engine`].
//!
//! The engine is looked after as on any machine of ours: an engine that is killed while it starts a container loses sight
//! of its process, which no call to the engine ends; `wopr-machine` does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bollard::models::{ContainerCreateBody, HostConfig, Ipam, IpamConfig, NetworkCreateRequest};
use bollard::query_parameters::{
    BuildImageOptionsBuilder, CreateContainerOptions, InspectContainerOptions, ListContainersOptionsBuilder,
    ListNetworksOptions, ListVolumesOptions, LogsOptionsBuilder, StartContainerOptions,
};
use features::docker::Engine;
use features::engine::{Order, OwnEngine};
use features::http::{Client, Request};
use features::person::Person;
use features::stack::Stack;
use futures_util::TryStreamExt as _;
use jiff::SignedDuration;
use jiff::tz::TimeZone;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use wopr_core::adapters::docker::DockerHost;
use wopr_core::clock::{Clock as _, SystemClock};
use wopr_core::fleet::container::container_name;
use wopr_core::fleet::{ContainerHost as _, ContainerState, HostError, NetworkRange};
use wopr_core::ids::{BotId, TenantId};

use super::books::Books;
use super::program;
use super::schedule::{self, Course};

const IMAGE: &str = "ghcr.io/wopr-network/wopr:latest";
const RECIPE: &str = include_str!("../../../local/images/wopr-bot/Dockerfile");
/// The engine's disk. The image takes a quarter of it.
const DISK_MIB: u32 = 192;
const NOTE: &str = "/data/note";
/// Things done in one schedule.
const ACTIONS: usize = 40;
/// Longer than the fleet waits for an engine.
const HANG: Duration = Duration::from_secs(17);

#[tokio::test(flavor = "multi_thread")]
async fn bots_survive_their_engine() {
    if let Some(missing) = OwnEngine::missing() {
        eprintln!("bots_survive_their_engine: not run, because {missing}");
        return;
    }
    schedule::run_some("fleet", 2, 2, async |seed, course| {
        let mut stage = course.watched(Stage::set(seed, course.clone())).await?;
        let played = Box::pin(course.watched(stage.play())).await.with_context(|| format!("while {}", stage.doing));
        course.enter("the end");
        stage.clear(played).await
    })
    .await;
}

/// An engine that is killed after it has started a container and before it has noted so.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_engine_lost_sight_of_ends() {
    if let Some(missing) = OwnEngine::missing() {
        eprintln!("what_an_engine_lost_sight_of_ends: not run, because {missing}");
        return;
    }
    let mut engine = OwnEngine::start(DISK_MIB, &program::path("wopr-machine").unwrap()).await.unwrap();
    let docker = engine.ready().await.unwrap();
    build_image(&docker).await.unwrap();
    let mut ids = Vec::new();
    for name in ["kept", "removed", "known"] {
        let host_config = HostConfig { network_mode: Some("none".to_owned()), ..HostConfig::default() };
        let body = ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            host_config: Some(host_config),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptions { name: Some(name.to_owned()), ..CreateContainerOptions::default() };
        ids.push(docker.client().create_container(Some(options), body).await.unwrap().id);
    }
    let alive = |engine: &OwnEngine| engine.with_processes().unwrap().into_iter().collect::<BTreeSet<_>>();
    engine.order(Order::Note).await.unwrap();
    for id in &ids[..2] {
        docker.client().start_container(id, None::<StartContainerOptions>).await.unwrap();
    }
    assert_eq!(alive(&engine), ids[..2].iter().cloned().collect());
    engine.order(Order::KillAll).await.unwrap();
    engine.order(Order::Forget).await.unwrap();
    assert_eq!(alive(&engine), ids[..2].iter().cloned().collect(), "they go on");
    engine.order(Order::Start).await.unwrap();
    let docker = engine.ready().await.unwrap();
    docker.remove("removed").await.unwrap();
    docker.client().start_container("known", None::<StartContainerOptions>).await.unwrap();
    let only_known = async || {
        let alive = engine.with_processes()?;
        ensure!(alive == ids[2..], "{alive:?} have processes, not only {:?}", ids[2]);
        Ok(())
    };
    features::wait::until("only what the engine knows", only_known).await.unwrap();
    // And the engine has it back.
    docker.client().start_container("kept", None::<StartContainerOptions>).await.unwrap();
    let both: BTreeSet<String> = [0, 2].map(|index| ids[index].clone()).into();
    features::wait::throughout("what runs stays", async || {
        ensure!(alive(&engine) == both, "{:?}", alive(&engine));
        Ok(())
    })
    .await
    .unwrap();
    engine.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_engine_removed_by_halves_can_be_removed() {
    if let Some(missing) = OwnEngine::missing() {
        eprintln!("what_an_engine_removed_by_halves_can_be_removed: not run, because {missing}");
        return;
    }
    let mut engine = OwnEngine::start(DISK_MIB, &program::path("wopr-machine").unwrap()).await.unwrap();
    let docker = engine.ready().await.unwrap();
    build_image(&docker).await.unwrap();
    let now = SystemClock.now();
    let (bot, tenant) = (BotId::new(now), TenantId::new(now));
    let host_config = HostConfig { network_mode: Some("none".to_owned()), ..HostConfig::default() };
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptions { name: Some(container_name(bot)), ..CreateContainerOptions::default() };
    docker.client().create_container(Some(options), body).await.unwrap();
    for order in [Order::KillAll, Order::Tear, Order::Start] {
        engine.order(order).await.unwrap();
    }
    engine.ready().await.unwrap();
    let host = DockerHost::new(engine.socket().to_str(), None).unwrap();
    let seen = host.observe(bot, tenant, None, 0).await.unwrap().container.unwrap();
    assert_eq!(seen.state, ContainerState::Dead);
    host.remove_container(bot).await.unwrap();
    assert_eq!(host.observe(bot, tenant, None, 0).await.unwrap().container, None);
    engine.end().await.unwrap();
}

/// An engine's own address pools are used up after some thirty networks.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_has_networks_for_many_tenants() {
    if let Some(missing) = OwnEngine::missing() {
        eprintln!("an_engine_has_networks_for_many_tenants: not run, because {missing}");
        return;
    }
    let engine = OwnEngine::start(64, &program::path("wopr-machine").unwrap()).await.unwrap();
    let (docker, address) = (engine.ready().await.unwrap(), engine.socket().display().to_string());
    // Two servers of one platform.
    let [host, replica] = [(); 2].map(|()| DockerHost::new(Some(&address), None).unwrap());
    let range = NetworkRange::default();
    let now = wopr_core::clock::SystemClock.now();
    let tenants: Vec<TenantId> = (0..80).map(|_| TenantId::new(now)).collect();
    for (number, tenant) in (0..).zip(&tenants) {
        // Two bots of one tenant at the same time make one network.
        let subnet = range.nth(number);
        let (one, other) = tokio::join!(host.ensure_network(*tenant, subnet), replica.ensure_network(*tenant, subnet));
        assert_eq!((one, other), (Ok(()), Ok(())), "the network of tenant {number}");
    }
    let own = || async {
        let networks = docker.client().list_networks(None::<ListNetworksOptions>).await.unwrap();
        networks.into_iter().filter(|network| network.driver.as_deref() == Some("bridge")).count()
    };
    assert_eq!(own().await, tenants.len());
    let networks = docker.client().list_networks(None::<ListNetworksOptions>).await.unwrap();
    let of_seventh = |labels: &HashMap<String, String>| labels.get("wopr.tenant-id") == Some(&tenants[7].to_string());
    let seventh = networks.into_iter().find(|network| network.labels.as_ref().is_some_and(of_seventh));
    let name = seventh.and_then(|network| network.name).unwrap();
    // Addresses that somebody has are said to be taken, and nothing is made.
    let stranger = TenantId::new(now);
    let taken = host.ensure_network(stranger, range.nth(7)).await;
    assert!(matches!(taken, Err(HostError::SubnetTaken(_))), "{taken:?}");
    // A call whose answer nobody waited for can leave a second network of the name. Whoever looks, the older one stays.
    let ids = async || {
        let options = ListNetworksOptions { filters: Some(HashMap::from([("name".to_owned(), vec![name.clone()])])) };
        let networks = docker.client().list_networks(Some(options)).await.unwrap();
        networks.into_iter().filter_map(|network| network.id).collect::<Vec<_>>()
    };
    let before = ids().await;
    let config = IpamConfig { subnet: Some(range.nth(500).to_string()), ..IpamConfig::default() };
    let second = NetworkCreateRequest {
        name: name.clone(),
        driver: Some("bridge".to_owned()),
        ipam: Some(Ipam { config: Some(vec![config]), ..Ipam::default() }),
        ..NetworkCreateRequest::default()
    };
    docker.client().create_network(second).await.unwrap();
    assert_eq!((before.len(), ids().await.len()), (1, 2));
    let (one, other) =
        tokio::join!(host.ensure_network(tenants[7], range.nth(7)), replica.ensure_network(tenants[7], range.nth(7)));
    assert_eq!((one, other), (Ok(()), Ok(())));
    assert_eq!(ids().await, before);
    for tenant in &tenants {
        assert_eq!(host.remove_network_if_unused(*tenant).await, Ok(true));
    }
    assert_eq!(own().await, 0);
    engine.end().await.unwrap();
}

/// What an owner was told that is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Running,
    Stopped,
    Destroyed,
}

struct Bot {
    owner: usize,
    wanted: Wanted,
    /// What was written into its volume; such a bot is never destroyed.
    note: Option<String>,
}

/// What is the matter with the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    Dead,
    Frozen,
    Full,
    /// Started on a full disk: containers that it could not read are running, and it does not know of them.
    Blind,
}

struct Stage {
    course: Course,
    random: StdRng,
    /// What is being done, for whoever reads a failure.
    doing: String,
    engine: OwnEngine,
    stack: Stack,
    client: Client,
    /// The first is never short of credit, the second runs out of it for good, the third until somebody pays.
    people: Vec<Person>,
    bots: BTreeMap<String, Bot>,
    trouble: Trouble,
    books: Books,
}

const RICH: usize = 0;
const POOR: usize = 1;
const LATE: usize = 2;

impl Stage {
    async fn set(seed: u64, course: Course) -> Result<Self> {
        course.enter("an engine");
        let engine = OwnEngine::start(DISK_MIB, &program::path("wopr-machine")?).await?;
        build_image(&engine.ready().await?).await?;
        course.enter("a platform");
        let stack = Stack::start_on(&engine.socket()).await?;
        let client = Client::new()?;
        let mut people = Vec::new();
        for name in ["Rich", "Poor", "Late"] {
            let email = format!("{}@example.com", name.to_lowercase());
            let mut person = Person::new(&client, &stack.api, name, email);
            person.sign_up().await?.expect_status(200)?;
            people.push(person);
        }
        let books = Books::open(stack.database.url()?).await?;
        Ok(Self {
            course,
            random: schedule::random(seed),
            doing: "setting the stage".to_owned(),
            engine,
            stack,
            client,
            people,
            bots: BTreeMap::new(),
            trouble: Trouble::None,
            books,
        })
    }

    async fn clear(mut self, played: Result<()>) -> Result<()> {
        let played = match played {
            // Before anything is put back in order.
            Err(error) => Err(error.context(self.engine.last_words())),
            Ok(()) => Ok(()),
        };
        // A frozen engine would be waited for.
        let thawed = self.calm().await;
        let stopped = self.stack.stop().await;
        let ended = self.engine.end().await;
        played.and(thawed).and(stopped).and(ended)
    }

    async fn play(&mut self) -> Result<()> {
        self.grant(RICH, 10_000).await?;
        // Two bots for two days each, and a bit.
        self.grant(POOR, 70).await?;
        self.grant(LATE, 70).await?;
        self.course.enter("the bots that are kept");
        self.keep_bots().await?;
        let days = [ACTIONS / 8, ACTIONS / 4, 3 * ACTIONS / 8, ACTIONS / 2, 5 * ACTIONS / 8, 3 * ACTIONS / 4];
        let hang_at = self.random.random_range(0..3 * ACTIONS);
        for action in 0..ACTIONS {
            self.course.enter("an action");
            if days.contains(&action) {
                "letting a day pass".clone_into(&mut self.doing);
                self.stack.advance(SignedDuration::from_hours(24))?;
            }
            if action == 7 * ACTIONS / 8 {
                "paying late".clone_into(&mut self.doing);
                self.grant(LATE, 5_000).await?;
            }
            if action == hang_at {
                self.hang().await?;
            }
            if self.random.random_bool(0.45) {
                self.change_trouble().await?;
            } else {
                self.act().await?;
            }
            self.pause(400).await;
        }
        self.course.enter("the engine in order");
        "putting the engine in order".clone_into(&mut self.doing);
        self.calm().await?;
        self.engine.ready().await?;
        self.course.enter("an account suspended");
        self.stop_paying(POOR).await?;
        self.course.enter("every bot as wanted");
        self.all_as_wanted().await?;
        self.course.enter("what bots remember");
        self.nothing_lost().await
    }

    /// Somewhere within the next milliseconds: this is where a trouble's point in time comes from.
    async fn pause(&mut self, longest_ms: u64) {
        let micros = self.random.random_range(0..longest_ms * 1000);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }

    // What people do

    async fn operate(&self, procedure: &str, input: &Value) -> Result<Value> {
        let token = self.stack.admin_token.as_deref().context("no operator's token")?;
        self.client.send(Request::mutation(&self.stack.api, procedure, input).bearer(token)).await?.data()
    }

    async fn grant(&self, who: usize, cents: i64) -> Result<()> {
        let tenant = self.people[who].tenant()?;
        let input = json!({ "tenantId": tenant, "amount_cents": cents, "reason": "for the crash test" });
        self.operate("admin.creditsGrant", &input).await.map(drop)
    }

    async fn is_suspended(&self, who: usize) -> Result<bool> {
        let token = self.stack.admin_token.as_deref().context("no operator's token")?;
        let input = json!({ "tenantId": self.people[who].tenant()? });
        let request = Request::query(&self.stack.api, "admin.tenantStatus", &input).bearer(token);
        let status = self.client.send(request).await?.data()?;
        Ok(status["status"] == "suspended")
    }

    /// Makes a bot for somebody; nothing if they cannot pay for it.
    async fn create(&mut self, who: usize) -> Result<Option<String>> {
        let name = format!("bot-{}", self.bots.len());
        let input = json!({ "name": name, "image": IMAGE, "description": "made by the crash test" });
        let reply = self.people[who].mutate("fleet.createInstance", &input).await?;
        if matches!(reply.status, 402 | 403) && who != RICH {
            return Ok(None);
        }
        let id = reply.data()?["id"].as_str().context("a bot has an id")?.to_owned();
        self.bots.insert(id.clone(), Bot { owner: who, wanted: Wanted::Running, note: None });
        Ok(Some(id))
    }

    async fn control(&mut self, id: &str, action: &str, wanted: Wanted) -> Result<()> {
        let bot = self.bots.get_mut(id).context("a bot of ours")?;
        let input = json!({ "id": id, "action": action });
        let reply = self.people[bot.owner].mutate("fleet.controlInstance", &input).await?;
        if wanted == Wanted::Running && matches!(reply.status, 402 | 403) && bot.owner != RICH {
            return Ok(());
        }
        reply.data()?;
        bot.wanted = wanted;
        Ok(())
    }

    /// Everybody gets a bot, and the bot something to remember.
    async fn keep_bots(&mut self) -> Result<()> {
        "making the bots that are kept".clone_into(&mut self.doing);
        for who in [RICH, RICH, POOR, LATE] {
            self.create(who).await?.context("everybody can pay")?;
        }
        let ids: Vec<String> = self.bots.keys().cloned().collect();
        let engine = self.engine.ready().await?;
        for id in ids {
            let mut container = String::new();
            let look = async || {
                container = self.running_container(&id).await?;
                Ok(())
            };
            self.course.until("a running bot", look).await?;
            let note = format!("remember {id}");
            engine.write(&container, NOTE, &note).await?;
            self.bots.get_mut(&id).context("a bot of ours")?.note = Some(note);
        }
        Ok(())
    }

    async fn running_container(&self, id: &str) -> Result<String> {
        let mut owner = self.people[self.bots[id].owner].clone();
        let bot = owner.query("fleet.getInstance", &json!({ "id": id })).await?.data()?;
        ensure!(bot["status"] == "running", "{bot}");
        bot["containerId"].as_str().map(str::to_owned).context("it has no container")
    }

    async fn act(&mut self) -> Result<()> {
        let of = |wanted: &[Wanted], may_be_kept: bool, bots: &BTreeMap<String, Bot>| -> Vec<String> {
            let fits = |bot: &Bot| wanted.contains(&bot.wanted) && (may_be_kept || bot.note.is_none());
            bots.iter().filter(|(_, bot)| fits(bot)).map(|(id, _)| id.clone()).collect()
        };
        let (running, stopped) = (of(&[Wanted::Running], true, &self.bots), of(&[Wanted::Stopped], true, &self.bots));
        let passing = of(&[Wanted::Running, Wanted::Stopped], false, &self.bots);
        let choice = self.random.random_range(0..10);
        let chosen = match choice {
            0..4 => None,
            4 | 5 | 7 => running.choose(&mut self.random).cloned(),
            6 => stopped.choose(&mut self.random).cloned(),
            _ => passing.choose(&mut self.random).cloned(),
        };
        self.doing = format!("doing {choice} with {chosen:?} while the engine is {:?}", self.trouble);
        match (choice, chosen) {
            (0..4, _) if passing.len() < 8 => {
                // Two at a time, so that they meet where a tenant's bots share something.
                for _ in 0..2 {
                    let who = *[RICH, RICH, POOR, LATE].choose(&mut self.random).context("somebody")?;
                    self.create(who).await?;
                }
                Ok(())
            }
            (4 | 5, Some(id)) => self.control(&id, "stop", Wanted::Stopped).await,
            (6, Some(id)) => self.control(&id, "start", Wanted::Running).await,
            (7, Some(id)) => self.control(&id, "restart", Wanted::Running).await,
            (8.., Some(id)) => self.control(&id, "destroy", Wanted::Destroyed).await,
            _ => Ok(()),
        }
    }

    /// Lets days pass until the account is suspended: how many that takes is the schedule's to say.
    async fn stop_paying(&mut self, who: usize) -> Result<()> {
        "waiting for an account to be suspended".clone_into(&mut self.doing);
        if self.is_suspended(who).await? {
            return Ok(());
        }
        // One bot that has hardly run before lives on its credit for five days, and three more in grace.
        for _ in 0..14 {
            self.course.until("the day's charges", async || self.day_is_charged().await).await?;
            // A session lives for a week, and more may have passed.
            for person in &mut self.people {
                person.sign_in().await?.expect_status(200)?;
            }
            if self.is_suspended(who).await? {
                return Ok(());
            }
            // Bots that rest cost nothing, and nobody starts one without credit for its day. A day that was still to be paid
            // may take that credit first: then there is another try a day later.
            let bots = || self.bots.iter().filter(|(_, bot)| bot.owner == who);
            if !bots().any(|(_, bot)| bot.wanted == Wanted::Running) {
                let resting = bots().find(|(_, bot)| bot.wanted == Wanted::Stopped).map(|(id, _)| id.clone());
                self.grant(who, 17).await?;
                self.control(&resting.context("a bot that is kept")?, "start", Wanted::Running).await?;
            }
            self.stack.advance(SignedDuration::from_hours(24))?;
        }
        bail!("two weeks later {} is not suspended", self.people[who].name)
    }

    /// Whether all that the day brings has happened: every bot that is to run has its charges, those that credit covers are
    /// made, whoever could not pay is no longer in good standing, and whose grace is over is suspended.
    async fn day_is_charged(&self) -> Result<()> {
        let now = self.stack.now();
        let today = now.to_zoned(TimeZone::UTC).date();
        let open = [
            format!(
                "SELECT count(*) FROM bots b WHERE running_since IS NOT NULL
                    AND NOT EXISTS (SELECT FROM bot_charges c WHERE c.bot_id = b.id AND c.date = '{today}')"
            ),
            "SELECT count(*) FROM bot_charges c JOIN bots b ON b.id = c.bot_id JOIN wallets w USING (tenant_id)
             WHERE c.state = 'due' AND w.balance_nanos >= 1000000000"
                .to_owned(),
            "SELECT count(*) FROM bot_charges c JOIN bots b ON b.id = c.bot_id
             WHERE c.state = 'due' AND NOT EXISTS (
                 SELECT FROM account_standings s WHERE s.tenant_id = b.tenant_id AND s.state <> 'active')"
                .to_owned(),
            format!("SELECT count(*) FROM account_standings WHERE state = 'grace' AND grace_until <= '{now}'"),
        ];
        for (what, rows) in ["without charges", "not paid", "not tried", "not suspended"].into_iter().zip(open) {
            let number = self.books.number(&rows).await?;
            ensure!(number == 0, "on {today}, {number} are {what}");
        }
        Ok(())
    }

    // What happens to the engine

    async fn change_trouble(&mut self) -> Result<()> {
        self.doing = format!("changing what is the matter with an engine that is {:?}", self.trouble);
        let trouble = match self.trouble {
            Trouble::None => match self.random.random_range(0..8) {
                0..2 => (Order::Kill, Trouble::Dead),
                2..4 => (Order::KillAll, Trouble::Dead),
                4..6 => (Order::Freeze, Trouble::Frozen),
                // One that has not come up yet reads its containers on a full disk.
                _ if Engine::at(&self.engine.socket()).await.is_err() => (Order::Fill, Trouble::Blind),
                _ => (Order::Fill, Trouble::Full),
            },
            // Sometimes it dies of it.
            Trouble::Frozen if self.random.random_bool(0.3) => (Order::KillAll, Trouble::Dead),
            Trouble::Full if self.random.random_bool(0.3) => {
                self.engine.order(Order::KillAll).await?;
                self.pause(200).await;
                (Order::Start, Trouble::Blind)
            }
            _ => return self.calm().await,
        };
        self.engine.order(trouble.0).await?;
        self.trouble = trouble.1;
        Ok(())
    }

    /// Whatever is the matter ends, but nobody waits for the engine to notice.
    async fn calm(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.trouble, Trouble::None) {
            Trouble::None => Ok(()),
            Trouble::Dead => self.engine.order(Order::Start).await,
            Trouble::Frozen => self.engine.order(Order::Thaw).await,
            Trouble::Full => self.engine.order(Order::Free).await,
            Trouble::Blind => {
                self.engine.order(Order::Free).await?;
                self.engine.order(Order::KillAll).await?;
                self.engine.order(Order::Start).await
            }
        }
    }

    /// Hangs for longer than anybody waits.
    async fn hang(&mut self) -> Result<()> {
        self.calm().await?;
        self.engine.order(Order::Freeze).await?;
        self.trouble = Trouble::Frozen;
        self.act().await?;
        self.course.enter("hanging");
        "hanging".clone_into(&mut self.doing);
        tokio::time::sleep(HANG).await;
        self.calm().await
    }

    // What must be true in the end

    /// Whether it is to run, once its account has had its say.
    fn is_to_run(bot: &Bot, suspended: &[bool]) -> bool {
        bot.wanted == Wanted::Running && !suspended[bot.owner]
    }

    async fn all_as_wanted(&mut self) -> Result<()> {
        "waiting for every bot to be as wanted".clone_into(&mut self.doing);
        let mut suspended = Vec::new();
        for who in 0..self.people.len() {
            suspended.push(self.is_suspended(who).await?);
        }
        ensure!(suspended == [false, true, false], "who is suspended: {suspended:?}");
        let engine = self.engine.ready().await?;
        let agreed = async || {
            self.rows_agree(&suspended).await?;
            self.engine_agrees(&engine, &suspended).await
        };
        let Err(error) = self.course.until("every bot as wanted", agreed).await else { return Ok(()) };
        Err(error.context(last_words(&engine).await?))
    }

    /// What the platform says of the bots.
    async fn rows_agree(&self, suspended: &[bool]) -> Result<()> {
        let rows = self
            .books
            .rows(
                "SELECT b.id, p.phase, b.desired_state, p.next_attempt_at, p.last_error
                 FROM bots b JOIN bot_progress p ON p.bot_id = b.id",
            )
            .await?;
        ensure!(rows.len() == self.bots.len(), "{} bots were made, {} are known", self.bots.len(), rows.len());
        for row in rows {
            let id = row[0].clone().unwrap_or_default();
            let bot = self.bots.get(&id).with_context(|| format!("nobody made {row:?}"))?;
            let phase = match (bot.wanted, Self::is_to_run(bot, suspended)) {
                (Wanted::Destroyed, _) => "destroyed",
                (_, true) => "running",
                (_, false) => "stopped",
            };
            let settled = row[3].is_none() && row[4].is_none();
            // Another attempt alone is no progress.
            ensure!(
                row[1].as_deref() == Some(phase) && settled,
                "{id} is to be {phase}, and is {:?}: {:?}",
                row[1],
                row[4]
            );
        }
        Ok(())
    }

    /// What is on the engine.
    async fn engine_agrees(&self, engine: &Engine, suspended: &[bool]) -> Result<()> {
        let docker = engine.client();
        let mut running = BTreeSet::new();
        let mut alive = BTreeSet::from_iter(self.engine.with_processes()?);
        let options = ListContainersOptionsBuilder::new().all(true).build();
        for container in docker.list_containers(Some(options)).await? {
            let id = container.labels.as_ref().and_then(|labels| labels.get("wopr.bot-id")).cloned();
            let id = id.with_context(|| format!("nobody's container: {container:?}"))?;
            let bot = self.bots.get(&id).filter(|bot| bot.wanted != Wanted::Destroyed);
            let bot = bot.with_context(|| format!("a container of no bot: {container:?}"))?;
            // The engine's list keeps an old state when the disk was full at a change of it; an inspection does not.
            let found = docker
                .inspect_container(container.id.as_deref().unwrap_or_default(), None::<InspectContainerOptions>)
                .await?;
            let word = found.state.and_then(|state| state.status).map(|state| state.to_string()).unwrap_or_default();
            let is_to_run = Self::is_to_run(bot, suspended);
            let has_process = container.id.as_ref().is_some_and(|id| alive.remove(id));
            ensure!(has_process == is_to_run, "{id} has a process: {has_process}; to run: {is_to_run}");
            ensure!((word == "running") == is_to_run, "{id} is {word}; to run: {is_to_run}");
            ensure!(word == "running" || word == "exited" || word == "created", "{id} is {word}");
            ensure!(!is_to_run || running.insert(id.clone()), "{id} has two containers");
        }
        ensure!(alive.is_empty(), "processes of containers that the engine does not know: {alive:?}");
        let expected = self.bots.iter().filter(|(_, bot)| Self::is_to_run(bot, suspended)).map(|(id, _)| id.clone());
        let expected: BTreeSet<String> = expected.collect();
        ensure!(running == expected, "{running:?} run, not {expected:?}");

        let kept = || self.bots.iter().filter(|(_, bot)| bot.wanted != Wanted::Destroyed);
        let may_be: BTreeSet<String> =
            kept().flat_map(|(id, _)| ["data", "run"].map(|part| format!("wopr-bot-{id}-{part}"))).collect();
        let volumes = docker.list_volumes(None::<ListVolumesOptions>).await?.volumes.unwrap_or_default();
        let volumes: BTreeSet<String> = volumes.into_iter().map(|volume| volume.name).collect();
        let strange: Vec<_> = volumes.difference(&may_be).collect();
        ensure!(strange.is_empty(), "volumes of no bot: {strange:?}");
        let with_note = self.bots.iter().filter(|(_, bot)| bot.note.is_some()).map(|(id, _)| id);
        for id in running.iter().chain(with_note) {
            ensure!(volumes.contains(&format!("wopr-bot-{id}-data")), "{id} is without its volume");
        }

        let owners: BTreeSet<&str> = kept().filter_map(|(_, bot)| self.people[bot.owner].tenant.as_deref()).collect();
        let mut seen = BTreeSet::new();
        for network in docker.list_networks(None::<ListNetworksOptions>).await? {
            let name = network.name.unwrap_or_default();
            if name == "host" || name == "none" {
                continue;
            }
            let tenant = network.labels.unwrap_or_default().get("wopr.tenant-id").cloned().unwrap_or_default();
            ensure!(owners.contains(tenant.as_str()), "{name} is a network of {tenant:?}, who has no bot");
            ensure!(seen.insert(tenant), "{name} is there twice");
        }
        Ok(())
    }

    async fn nothing_lost(&mut self) -> Result<()> {
        "looking at what the bots remember".clone_into(&mut self.doing);
        let engine = self.engine.ready().await?;
        for (id, bot) in &self.bots {
            let container = format!("wopr-bot-{id}");
            if let Some(note) = &bot.note {
                let found = if engine.find(&container).await?.is_some() {
                    engine.read(&container, NOTE).await?
                } else {
                    // At rest, and its container was one that never started again: another way to its volume.
                    self.course.enter("a bot at rest without a container");
                    engine.read(&visitor(&engine, id).await?, NOTE).await?
                };
                ensure!(found == *note, "{id} remembers {found:?}, not {note:?}");
            }
            if engine.find(&container).await?.is_some_and(|found| features::docker::is_running(&found)) {
                // The key it was given is the one that counts.
                let key = engine.read(&container, "/run/wopr/service-key").await?;
                let request = Request::get(format!("{}/v1/models", self.stack.api)).bearer(&key);
                self.client.send(request).await?.expect_status(200)?;
            }
        }
        self.books.check().await
    }
}

/// A container that is never started, with a bot's volume.
async fn visitor(engine: &Engine, bot: &str) -> Result<String> {
    let host_config = HostConfig { binds: Some(vec![format!("wopr-bot-{bot}-data:/data")]), ..HostConfig::default() };
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    };
    Ok(engine.client().create_container(None::<CreateContainerOptions>, body).await?.id)
}

/// The bot's image, from the program built together with this test and the libraries it needs.
async fn build_image(engine: &Engine) -> Result<()> {
    let bot = program::path("wopr-bot")?;
    let listing = tokio::process::Command::new("ldd").arg(&bot).env("LC_ALL", "C").output().await.context("ldd")?;
    let listing = String::from_utf8(listing.stdout)?;
    let mut rootfs = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, owner: u64, mode: u32, content: &[u8]| -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        Ok(rootfs.append_data(&mut header, path.trim_start_matches('/'), content)?)
    };
    add("tmp/", tar::EntryType::Directory, 0, 0o1777, &[])?;
    add("data/", tar::EntryType::Directory, 1000, 0o700, &[])?;
    add("wopr-bot", tar::EntryType::Regular, 0, 0o755, &std::fs::read(&bot)?)?;
    for library in listing.split_whitespace().filter(|word| word.starts_with('/')) {
        add(library, tar::EntryType::Regular, 0, 0o755, &std::fs::read(Path::new(library))?)?;
    }
    let mut context = tar::Builder::new(Vec::new());
    for (name, content) in [("Dockerfile", RECIPE.as_bytes()), ("rootfs.tar", &rootfs.into_inner()?)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        context.append_data(&mut header, name, content)?;
    }
    let options = BuildImageOptionsBuilder::new().t(IMAGE).rm(true).forcerm(true).build();
    let body = bollard::body_full(context.into_inner()?.into());
    let output: Vec<_> = engine.client().build_image(options, None, Some(body)).try_collect().await?;
    let failed = output.into_iter().find_map(|part| part.error_detail);
    ensure!(failed.is_none(), "the bot's image could not be built: {failed:?}");
    Ok(())
}

/// What each container on the engine said last.
async fn last_words(engine: &Engine) -> Result<String> {
    let docker = engine.client();
    let options = ListContainersOptionsBuilder::new().all(true).build();
    let mut told = Vec::new();
    for container in docker.list_containers(Some(options)).await? {
        let id = container.id.unwrap_or_default();
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail("4").build();
        let words: Vec<_> = docker.logs(&id, Some(options)).try_collect().await?;
        let words: String = words.iter().map(ToString::to_string).collect();
        told.push(format!("{:?}, {:?}, said last:\n{words}", container.names, container.status));
    }
    Ok(told.join("\n"))
}
