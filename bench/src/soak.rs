//! Memory over a long time at a steady rate, and while the database is away.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::SoakArgs;
use crate::load::{self, Load, Outcome, Tally};
use crate::process::{helper, memory_kib};
use crate::world::{Serving, World};

const TENANTS: usize = 64;
const CONNECTIONS: usize = 32;
const MINUTE: Duration = Duration::from_mins(1);
/// What may be there more in the end than in the beginning.
const GROWTH_KIB: u64 = 20 << 10;

/// A way to the database that can be closed.
struct Relay {
    address: SocketAddr,
    open: watch::Sender<bool>,
}

impl Relay {
    async fn to(database: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (open, mut is_open) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if !*is_open.borrow_and_update() {
                    continue;
                }
                let mut is_open = is_open.clone();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(database).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = is_open.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Ok(Self { address, open })
    }

    fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }
}

struct Soak<'a> {
    serving: &'a Serving,
    rate: u32,
    answered: Tally,
}

impl Soak<'_> {
    /// A minute of calls, every eleventh of them a stream; answers with the process's own memory afterwards, in KiB, and what
    /// came of the calls.
    async fn minute(&mut self, is_refused: bool) -> anyhow::Result<(u64, Outcome)> {
        let plain = Load {
            connections: CONNECTIONS,
            length: MINUTE,
            rate: Some(self.rate),
            stream: false,
            one_key: false,
            is_refused,
        };
        let streams = Load { rate: Some((self.rate / 10).max(1)), stream: true, ..plain };
        let target = &self.serving.target;
        let (mut all, streamed) = tokio::try_join!(load::run(target, plain), load::run(target, streams))?;
        all.tally.add(streamed.tally);
        all.refused += streamed.refused;
        self.answered.add(all.tally);
        let pid = self.serving.child.id().context("the gateway has ended by itself")?;
        Ok((memory_kib(pid)?.1, all))
    }

    #[expect(clippy::print_stdout, reason = "a benchmark reports by printing")]
    async fn minutes(&mut self, what: &str, count: u64, is_refused: bool) -> anyhow::Result<Vec<u64>> {
        let mut kib = Vec::new();
        for minute in 1..=count {
            let (own, outcome) = self.minute(is_refused).await?;
            let (calls, refused) = (outcome.tally.calls, outcome.refused);
            println!("{what}, minute {minute}: {own} KiB, {calls} calls answered, {refused} refused");
            kib.push(own);
        }
        Ok(kib)
    }
}

pub(crate) async fn run(args: SoakArgs) -> anyhow::Result<()> {
    let mut world = World::new(&args.database).await?;
    let relay = Relay::to(world.server().await?).await?;
    world.go_through(relay.address)?;
    let outcome = soak(&world, &relay, &args).await;
    relay.set_open(true);
    let ended = world.end().await;
    outcome?;
    ended
}

#[expect(clippy::print_stdout, reason = "a benchmark reports by printing")]
async fn soak(world: &World, relay: &Relay, args: &SoakArgs) -> anyhow::Result<()> {
    let (_upstream_process, port) = helper(&["upstream"]).await?;
    let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let serving = world.serve(&args.program, "soon", upstream, TENANTS).await?;
    let mut soak = Soak { serving: &serving, rate: u32::try_from(args.rate)?, answered: Tally::default() };
    let warm = soak.minutes("warming up", 1, false).await?;
    let steady = soak.minutes("steady", args.minutes, false).await?;
    relay.set_open(false);
    let away = soak.minutes("the database is away", args.away, true).await?;
    relay.set_open(true);
    let again = soak.minutes("it is back", 1, true).await?;
    let (last, back) = soak.minute(false).await?;
    ensure!(back.tally.calls > 0, "nothing is answered since the database is back");
    let answered = soak.answered;
    world.settle(serving, answered).await?;
    let most = |kib: &[u64]| kib.iter().copied().max().unwrap_or(0);
    let grown = [
        ("in the steady part", most(&steady).saturating_sub(most(&warm))),
        ("while the database was away", most(&away).max(most(&again)).max(last).saturating_sub(most(&steady))),
    ];
    for (when, kib) in grown {
        println!("{when}: {kib} KiB more than before");
    }
    println!("{} calls are in the ledger once, at their usage by the price; nothing is set aside", answered.calls);
    for (when, kib) in grown {
        ensure!(kib < GROWTH_KIB, "{kib} KiB more {when}, and {GROWTH_KIB} are too many");
    }
    Ok(())
}
