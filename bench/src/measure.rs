//! What is measured, and how it is told.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::GatewayArgs;
use crate::load::{self, Load, Outcome, Tally, Target};
use crate::process::{helper, memory_kib, processor_time};
use crate::upstream::CHUNKS;
use crate::world::{Serving, World};

/// Connections for streams, and calls at once of one tenant.
const FEWER: usize = 32;
/// Each connection has a tenant of its own, up to so many.
const TENANTS: usize = 64;
/// What runs beside the measurements comes to rest within this.
const REST: Duration = Duration::from_secs(2);

/// One target, and what was measured of it in every round.
struct Subject {
    target: Target,
    pid: Option<u32>,
    idle_kib: Option<(u64, u64)>,
    after_kib: Option<(u64, u64)>,
    answered: Tally,
    rounds: Vec<Round>,
}

/// One of the numbers of a round.
type Figure = fn(&Round) -> u64;
/// How it is written.
type Shown = fn(u64) -> String;

/// Everything in numbers of which more or less is better: per second, in nanoseconds, or in microseconds of processor time.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    per_second: u64,
    processor: u64,
    p50: u64,
    p99: u64,
    first_p50: u64,
    first_p99: u64,
    chunks_per_second: u64,
    chunks_processor: u64,
    one_per_second: u64,
}

impl Subject {
    fn new(target: Target, pid: Option<u32>) -> Self {
        Self { target, pid, idle_kib: None, after_kib: None, answered: Tally::default(), rounds: Vec::new() }
    }

    fn median(&self, of: impl Fn(&Round) -> u64) -> u64 {
        let mut values: Vec<u64> = self.rounds.iter().map(of).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or(0)
    }
}

struct Bench {
    upstream: SocketAddr,
    length: Duration,
    connections: usize,
    rate: u32,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn per_second(count: u64, took: Duration) -> u64 {
    u64::try_from(u128::from(count) * 1_000_000_000 / took.as_nanos().max(1)).unwrap_or(u64::MAX)
}

/// The sorted value that so many per cent are not above.
fn percentile(sorted: &[Duration], percent: usize) -> u64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().map_or(0, nanos)
}

impl Bench {
    /// Loads, and compares what the clients were answered with what the upstream served: nothing is lost, made up or asked
    /// twice.
    async fn load(&self, subject: &mut Subject, load: Load) -> anyhow::Result<(Outcome, u64)> {
        let before = load::served(self.upstream).await?;
        let time_before = subject.pid.map(processor_time).transpose()?;
        let outcome = load::run(&subject.target, load).await?;
        let time = subject.pid.map(processor_time).transpose()?;
        let after = load::served(self.upstream).await?;
        let served = Tally { calls: after.calls - before.calls, output: after.output - before.output };
        let name = &subject.target.name;
        // Something else need not ask our upstream.
        if served.calls > 0 {
            ensure!(served == outcome.tally, "{name}: {:?} was answered and {served:?} served", outcome.tally);
        }
        subject.answered.add(outcome.tally);
        let used = time.zip(time_before).map_or(0, |(after, before)| nanos(after.saturating_sub(before)));
        Ok((outcome, used))
    }

    async fn round(&self, subject: &mut Subject) -> anyhow::Result<Round> {
        let load = Load {
            connections: self.connections,
            length: self.length,
            rate: None,
            stream: false,
            one_key: false,
            is_refused: false,
        };
        let (busy, busy_time) = self.load(subject, load).await?;
        let (paced, _) = self.load(subject, Load { rate: Some(self.rate), ..load }).await?;
        let streams = Load { connections: FEWER, stream: true, ..load };
        let (streamed, streamed_time) = self.load(subject, streams).await?;
        let paced_streams = Load { rate: Some((self.rate / 10).max(1)), ..streams };
        let (first, _) = self.load(subject, paced_streams).await?;
        let (one, _) = self.load(subject, Load { connections: FEWER, one_key: true, ..load }).await?;
        Ok(Round {
            per_second: per_second(busy.tally.calls, busy.took),
            processor: busy_time / busy.tally.calls.max(1),
            p50: percentile(&paced.whole, 50),
            p99: percentile(&paced.whole, 99),
            first_p50: percentile(&first.first, 50),
            first_p99: percentile(&first.first, 99),
            chunks_per_second: per_second(streamed.tally.calls * CHUNKS, streamed.took),
            chunks_processor: streamed_time / (streamed.tally.calls * CHUNKS).max(1),
            one_per_second: per_second(one.tally.calls, one.took),
        })
    }

    /// Once unmeasured: connections, keys and slices of credit are there afterwards.
    async fn warm_up(&self, subject: &mut Subject) -> anyhow::Result<()> {
        let load = Load {
            connections: self.connections,
            length: Duration::from_secs(1),
            rate: None,
            stream: false,
            one_key: false,
            is_refused: false,
        };
        self.load(subject, load).await?;
        self.load(subject, Load { stream: true, ..load }).await?;
        Ok(())
    }
}

pub(crate) async fn run(args: GatewayArgs) -> anyhow::Result<()> {
    let world = World::new(&args.database).await?;
    let measured = measured(&world, &args).await;
    let ended = world.end().await;
    let (subjects, conditions) = measured?;
    ended?;
    report(&args, &subjects, &conditions);
    Ok(())
}

async fn measured(world: &World, args: &GatewayArgs) -> anyhow::Result<(Vec<Subject>, String)> {
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (upstream_process, upstream_port) = helper(&["upstream"]).await?;
    let upstream = local(upstream_port);
    let (pass_process, pass_port) = helper(&["pass", &format!("http://{upstream}")]).await?;
    let mut servings: Vec<Serving> = Vec::new();
    for sync in ["soon", "before-answer"] {
        servings.push(world.serve(&args.program, sync, upstream, TENANTS).await?);
    }
    let known = |name: &str, address, key: &str| Target { name: name.to_owned(), address, keys: vec![key.to_owned()] };
    let mut subjects = vec![
        Subject::new(known("upstream itself", upstream, "none"), upstream_process.id()),
        Subject::new(known("bare pass-through", local(pass_port), "none"), pass_process.id()),
    ];
    subjects.extend(servings.iter().map(|serving| Subject::new(serving.target.clone(), serving.child.id())));
    subjects.extend(args.peer.iter().map(|peer| Subject::new(known(&peer.name, peer.address, &peer.key), None)));
    let bench = Bench {
        upstream,
        length: Duration::from_secs(args.seconds),
        connections: usize::try_from(args.connections)?,
        rate: u32::try_from(args.rate)?,
    };
    tokio::time::sleep(REST).await;
    for subject in &mut subjects {
        subject.idle_kib = subject.pid.map(memory_kib).transpose()?;
    }
    for subject in &mut subjects {
        bench.warm_up(subject).await?;
    }
    for _ in 0..args.rounds {
        for subject in &mut subjects {
            let round = bench.round(subject).await?;
            subject.rounds.push(round);
        }
    }
    tokio::time::sleep(REST).await;
    for subject in &mut subjects {
        subject.after_kib = subject.pid.map(memory_kib).transpose()?;
    }
    for serving in servings {
        let subject = subjects.iter().find(|subject| subject.target.name == serving.target.name);
        let answered = subject.context("a gateway was not measured")?.answered;
        world.settle(serving, answered).await?;
    }
    let cores = std::thread::available_parallelism()?;
    let durable = if world.durable { "durable" } else { "NOT durable" };
    let conditions = format!("{cores} processors for everything, PostgreSQL {} ({durable})", world.version);
    Ok((subjects, conditions))
}

/// Hundredths as people write them.
fn hundredths(value: u64) -> String {
    format!("{}.{:02}", value / 100, value % 100)
}

fn ratio(value: u64, to: u64) -> String {
    value.saturating_mul(100).checked_div(to).map_or_else(|| "-".to_owned(), hundredths)
}

/// Nanoseconds, in microseconds.
fn micros(nanos: u64) -> String {
    (nanos / 1_000).to_string()
}

#[expect(clippy::print_stdout, reason = "a benchmark reports by printing")]
fn report(args: &GatewayArgs, subjects: &[Subject], conditions: &str) {
    let (Some(upstream), Some(pass)) = (subjects.first(), subjects.get(1)) else { return };
    println!(
        "{conditions}; {} rounds of {} s each, medians; ratios to the bare pass-through",
        args.rounds, args.seconds
    );
    let titles: Vec<String> = subjects.iter().map(|subject| subject.target.name.clone()).collect();
    print_row("", &titles);
    let rows: [(String, Figure, Shown); 5] = [
        (format!("calls/s, {} connections", args.connections), |round| round.per_second, |value| value.to_string()),
        ("processor time of a call, µs".to_owned(), |round| round.processor, micros),
        (format!("calls/s, one tenant, {FEWER} at once"), |round| round.one_per_second, |value| value.to_string()),
        (format!("events/s, {FEWER} streams"), |round| round.chunks_per_second, |value| value.to_string()),
        (
            "processor time of an event, µs/100".to_owned(),
            |round| round.chunks_processor,
            |value| (value / 10).to_string(),
        ),
    ];
    for (name, of, show) in rows {
        let base = pass.median(of);
        let cell = |subject: &Subject| {
            let value = subject.median(of);
            format!("{} ({})", show(value), ratio(value, base))
        };
        print_row(&name, &subjects.iter().map(cell).collect::<Vec<_>>());
    }
    // What is added is what the same load takes more than at the upstream itself.
    let rows: [(String, Figure); 4] = [
        (format!("added at {}/s, p50, µs", args.rate), |round| round.p50),
        (format!("added at {}/s, p99, µs", args.rate), |round| round.p99),
        ("added to a stream's first byte, p50, µs".to_owned(), |round| round.first_p50),
        ("added to a stream's first byte, p99, µs".to_owned(), |round| round.first_p99),
    ];
    for (name, of) in rows {
        let direct = upstream.median(of);
        let base = pass.median(of).saturating_sub(direct);
        let cell = |subject: &Subject| {
            let value = subject.median(of).saturating_sub(direct);
            format!("{} ({})", micros(value), ratio(value, base))
        };
        let mut cells: Vec<String> = subjects.iter().map(cell).collect();
        cells[0] = format!("takes {}", micros(direct));
        print_row(&name, &cells);
    }
    for (name, of) in [("memory idle, KiB (own)", 0), ("memory after all, KiB (own)", 1)] {
        let cell = |subject: &Subject| {
            let kib = if of == 0 { subject.idle_kib } else { subject.after_kib };
            kib.map_or_else(|| "-".to_owned(), |(all, own)| format!("{all} ({own})"))
        };
        print_row(name, &subjects.iter().map(cell).collect::<Vec<_>>());
    }
    for subject in subjects {
        println!("{}: {} calls, every answer whole", subject.target.name, subject.answered.calls);
    }
    println!(
        "the ledger has each of the gateways' calls once, at its usage by the price; nothing is set aside; the books agree"
    );
}

#[expect(clippy::print_stdout, reason = "a benchmark reports by printing")]
fn print_row(name: &str, cells: &[String]) {
    println!("| {name:<40} | {} |", cells.iter().map(|cell| format!("{cell:>22}")).collect::<Vec<_>>().join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_ratios() {
        let sorted: Vec<Duration> = (1..=200).map(Duration::from_nanos).collect();
        assert_eq!((percentile(&sorted, 50), percentile(&sorted, 99), percentile(&[], 50)), (100, 198, 0));
        assert_eq!((ratio(3, 4), ratio(7, 2), ratio(1, 0)), ("0.75".to_owned(), "3.50".to_owned(), "-".to_owned()));
        assert_eq!(per_second(10, Duration::from_millis(500)), 20);
    }
}
