//! The command line.

use clap::{Args, Parser, Subcommand};

use crate::{
    clock::unix_seconds,
    images::binaries::Profile,
    plan::{disk::size, platform::Ports},
};

const EXIT_CODES: &str = "\
Exit codes: 0 done · 1 failed · 2 wrong usage · 3 this machine or account cannot do it · 4 no Docker engine ·
5 a host port is taken · 6 compiling or image building failed · 7 a part did not become ready ·
8 the happy path failed · 9 a check failed · 130 interrupted (what goes on from there is said)

NO_COLOR turns colour off. WOPR_DATA_DIR says where secrets and logs are kept (default: ~/.local/share/wopr).";

/// Runs WOPR: brings the whole business up on one machine, checks it and takes it down.
#[derive(Debug, Parser)]
#[command(name = "wopr", bin_name = "cargo wopr", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes sure that a Docker engine answers; installs and starts one if need be
    Engine(OutputArgs),
    /// Builds the images that have changed
    Images(ImagesArgs),
    /// Brings the stack up and walks the happy path on it
    Up(UpArgs),
    /// Stops the stack's containers and the bots; `up` starts them again with their data
    Stop(StopArgs),
    /// Removes everything of ours from the engine
    Down(DownArgs),
    /// Starts what was stopped or killed, with its data; builds nothing
    Start(StartArgs),
    /// Stops everything, or one service, and starts it anew
    Restart(RestartArgs),
    /// Shows what runs
    Status(StatusArgs),
    /// Shows what a service or a bot writes
    Logs(LogsArgs),
    /// Runs a program inside a container of ours
    Exec(ExecArgs),
    /// Enrols the local inference machine, if it is not, and waits until it is active
    Seed(SeedArgs),
    /// Writes everything into one file, for a machine without any network
    Bundle(BundleArgs),
    /// Measures
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Breaks a machine on purpose, or mends it
    Fault(FaultArgs),
    /// Rehearses what must not cost anything, and looks at what is left
    #[command(subcommand)]
    Drill(DrillCommand),
    /// Writes completions for a shell
    Completions(CompletionsArgs),
    /// After the loss of wopr-vps: makes it again, with all it had, from the object store and the secrets alone
    Recover(RecoverArgs),
    /// Plays Stripe
    #[command(subcommand)]
    Stripe(StripeCommand),
    /// Looks at this machine, and at the stack if there is one: what is there, what is missing, what to do about it
    Doctor(DoctorArgs),
    /// What is known about running WOPR: checked, shown, compared with what runs
    #[command(subcommand)]
    Runbook(RunbookCommand),
    /// Runs every check: formatting, lints, documentation, licences, tests, conformance
    Test(TestArgs),
    /// Runs the conformance suites: official clients against our servers
    Conformance(ConformanceArgs),
}

impl Command {
    /// What an operator does who has interrupted it.
    pub(crate) fn when_interrupted(&self) -> &'static str {
        match self {
            Self::Runbook(RunbookCommand::Verify(_)) => {
                "`cargo wopr fault mend vps`, `cargo wopr fault mend gpu` and `cargo wopr start` mend what is broken now"
            }
            _ => "the same command again goes on from here",
        }
    }

    /// What the command is called, if it is to account for what it did as JSON and has no answer of a shape of its own.
    pub(crate) fn accounts_as(&self) -> Option<&'static str> {
        let (name, json) = match self {
            Self::Engine(output) => ("engine", output.json),
            Self::Up(args) => ("up", args.json && !args.dry_run),
            Self::Stop(args) => ("stop", args.output.json),
            Self::Down(args) => ("down", args.output.json),
            Self::Start(args) => ("start", args.json && !args.dry_run),
            Self::Restart(args) => ("restart", args.output.json),
            Self::Seed(args) => ("seed", args.output.json),
            Self::Bundle(args) => ("bundle", args.output.json),
            Self::Bench(BenchCommand::Gateway(args)) => ("bench gateway", args.output.json),
            Self::Bench(BenchCommand::Soak(args)) => ("bench soak", args.output.json),
            Self::Bench(BenchCommand::Backup(args)) => ("bench backup", args.output.json),
            Self::Fault(args) => ("fault", args.output.json),
            Self::Drill(DrillCommand::Offline(args)) => ("drill offline", args.output.json),
            Self::Drill(DrillCommand::Card(args)) => ("drill card", args.output.json),
            Self::Drill(DrillCommand::Registry(args)) => ("drill registry", args.output.json),
            Self::Drill(DrillCommand::PowerCut(args)) => ("drill power-cut", args.output.json),
            Self::Drill(DrillCommand::FullDisk(args)) => ("drill full-disk", args.output.json),
            Self::Drill(DrillCommand::Tenant(args)) => ("drill tenant", args.output.json),
            Self::Drill(DrillCommand::Database(args)) => ("drill database", args.output.json),
            Self::Drill(DrillCommand::PointInTime(args)) => ("drill point-in-time", args.output.json),
            Self::Drill(DrillCommand::Archive(args)) => ("drill archive", args.output.json),
            Self::Drill(DrillCommand::ServerLoss(args)) => ("drill server-loss", args.output.json),
            Self::Recover(args) => ("recover", args.output.json),
            Self::Stripe(StripeCommand::Trigger(args)) => ("stripe trigger", args.output.json),
            Self::Stripe(StripeCommand::SecretPath(output)) => ("stripe secret-path", output.json),
            Self::Test(args) => ("test", args.output.json),
            Self::Conformance(args) => ("conformance", args.output.json),
            // These answer in a shape of their own, or hand on what others write.
            Self::Images(_)
            | Self::Status(_)
            | Self::Logs(_)
            | Self::Exec(_)
            | Self::Bench(BenchCommand::Up(_))
            | Self::Drill(
                DrillCommand::OfflineInside(_)
                | DrillCommand::CardInside(_)
                | DrillCommand::CardRuntime(_)
                | DrillCommand::ServerLossInside(_),
            )
            | Self::Completions(_)
            | Self::Doctor(_)
            | Self::Runbook(_) => return None,
        };
        json.then_some(name)
    }
}

#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct OutputArgs {
    /// Writes what was done as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Says what would be stopped and stops nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// How the programs are compiled
    #[arg(long, value_enum, default_value_t = Profile::Dev)]
    pub(crate) profile: Profile,
    /// These: postgres, api, stripe, mail, bot (the default); machine, llama, whisper, speech, caddy, objects, backup, ui
    #[arg(long, value_name = "IMAGE", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Puts what Debian packages make of the images (of all, or of those) into a registry, and names it by digest in
    /// local/images/published.toml; WOPR_REGISTRY, WOPR_REGISTRY_USER and
    /// WOPR_REGISTRY_PASSWORD say who pushes and pulls
    #[arg(long, value_name = "REGISTRY/PATH", conflicts_with_all = ["profile", "json"])]
    pub(crate) publish: Option<String>,
    /// Writes what the images are called as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct UpArgs {
    /// All parts as containers of this machine's engine, without the inference machine
    #[arg(long)]
    pub(crate) flat: bool,
    /// Prints what would be done and does nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Writes what was done, or with `--dry-run` what would be, as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Takes all images from a file that `bundle` wrote: nothing is compiled, built or downloaded
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    pub(crate) bundle: Option<std::path::PathBuf>,
    /// Gives each machine a disk of its own of this size, as 8G, which `fault fill` can fill; later ones keep it
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "flat")]
    pub(crate) disk: Option<u64>,
    /// Does not walk the happy path at the end
    #[arg(long)]
    pub(crate) no_prove: bool,
    /// How the programs are compiled
    #[arg(long, value_enum, default_value_t = Profile::Dev)]
    pub(crate) profile: Profile,
    /// Only these services, and what they need
    #[arg(long, value_name = "SERVICE", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    #[command(flatten)]
    pub(crate) ports: Ports,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// How long the two machines take, and phases of it alone
    Up(BenchArgs),
    /// How much the inference gateway adds to a call, beside a bare pass-through and the upstream itself
    ///
    /// Everything is on this machine's loopback: an upstream of our own that answers at once, a proxy made of the same
    /// libraries without keys or prices, and two gateways on a database that is made for it and dropped, one for each
    /// GATEWAY_JOURNAL_SYNC. Each answers the same load in turn, for at most rounds x seconds x 5 each. In the end the
    /// ledger must have every call once, at its usage by the price, or the measurement fails.
    Gateway(BenchGatewayArgs),
    /// How much memory the inference gateway takes over a long time, and while its database is away
    ///
    /// Calls and streams come at a steady rate, on this machine's loopback; then the database cannot be reached, and then it
    /// can be again. The measurement fails where memory has grown by 20 MiB, or the ledger has not every call once.
    Soak(BenchSoakArgs),
    /// What a backup of half a gigabyte takes, beside `tar | gzip | copy`, and restic where it is installed
    Backup(BenchBackupArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BenchBackupArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BenchSoakArgs {
    /// A PostgreSQL server, where a database is made and dropped
    #[arg(long, env = "WOPR_TEST_DATABASE_URL", hide_env_values = true)]
    pub(crate) database: String,
    /// How the programs are compiled
    #[arg(long, value_enum, default_value_t = Profile::Ship)]
    pub(crate) profile: Profile,
    /// How many minutes calls are answered
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=240))]
    pub(crate) minutes: u64,
    /// How many minutes the database is away then
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub(crate) away: u64,
    /// Calls a second, and a tenth of that in streams
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=5000))]
    pub(crate) rate: u64,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BenchGatewayArgs {
    /// A PostgreSQL server, where a database is made and dropped; times on one that is not durable say little
    #[arg(long, env = "WOPR_TEST_DATABASE_URL", hide_env_values = true)]
    pub(crate) database: String,
    /// How the programs are compiled
    #[arg(long, value_enum, default_value_t = Profile::Ship)]
    pub(crate) profile: Profile,
    /// The length of one measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub(crate) seconds: u64,
    /// How often everything is measured, in turn; medians are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    pub(crate) rounds: u64,
    /// Connections when as much is asked as is answered
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=512))]
    pub(crate) connections: u64,
    /// Calls a second when times are measured
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=5000))]
    pub(crate) rate: u64,
    /// Something else that answers /v1/chat/completions on this machine: `NAME=http://127.0.0.1:PORT[,KEY]`
    #[arg(long)]
    pub(crate) peer: Vec<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Removes the stack that is there, with its data
    #[arg(long)]
    pub(crate) destroy: bool,
    /// Writes the times as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) ports: Ports,
}

#[derive(Debug, Args)]
pub(crate) struct BundleArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The file to write
    pub(crate) file: std::path::PathBuf,
    /// How the programs are compiled
    #[arg(long, value_enum, default_value_t = Profile::Dev)]
    pub(crate) profile: Profile,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// All parts as containers of this machine's engine
    #[arg(long)]
    pub(crate) flat: bool,
    /// Prints what would be done and does nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Writes what was done, or with `--dry-run` what would be, as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) ports: Ports,
}

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    /// A service, by the end of its name; everything if there is none
    pub(crate) service: Option<String>,
    /// All parts as containers of this machine's engine
    #[arg(long)]
    pub(crate) flat: bool,
    #[command(flatten)]
    pub(crate) ports: Ports,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SeedArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Port of the API on this machine
    #[arg(long, default_value_t = 3100, value_name = "PORT")]
    pub(crate) api_port: u16,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// A container, by the end of its name
    pub(crate) service: String,
    /// Hands on what is written to this command
    #[arg(long, short = 'i')]
    pub(crate) stdin: bool,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FaultKind {
    /// Takes it off the network between the machines
    Cut,
    /// Ends everything on it at once, as a power cut does
    Kill,
    /// Stops every process where it stands
    Freeze,
    /// Leaves it 5 % of one processor
    Slow,
    /// Leaves no room on its disk, which has to be one of its own: `up --disk`
    Fill,
    /// Undoes all of these
    Mend,
}

impl FaultKind {
    /// As it is said on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Slow => "slow",
            Self::Fill => "fill",
            Self::Mend => "mend",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct FaultArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// What to do to it
    #[arg(value_enum)]
    pub(crate) kind: FaultKind,
    /// The machine
    #[arg(value_parser = ["vps", "gpu"])]
    pub(crate) machine: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DrillCommand {
    /// Brings the stack up from a bundle alone, beside what runs, where there is no network and no engine
    Offline(OfflineArgs),
    /// Brings the stack up where there is a graphics card, whose driver and production's images are doubles, beside what runs
    Card(CardArgs),
    /// Publishes the base of an image in a registry of its own and takes it from there, and not once it was tampered with
    Registry(RegistryArgs),
    /// Cuts the power of wopr-vps while payments arrive; afterwards nobody may miss a cent, a bot or a byte
    PowerCut(DrillArgs),
    /// Fills the disk of wopr-vps while payments arrive, and makes room again; nobody may miss anything then, either
    FullDisk(DrillArgs),
    /// Destroys a bot of the drill's own with all its bytes, and restores it from its backup
    Tenant(DrillArgs),
    /// Makes a set of the database and restores it into a throw-away one, which must have every row then
    Database(DrillArgs),
    /// Brings a throw-away database to an instant between two payments; it must have the first and not the second
    PointInTime(DrillArgs),
    /// Damages a copy of the archive of the database's log in every way; no database may come of it that lacks anything
    Archive(DrillArgs),
    /// Destroys wopr-vps with everything on it and has it recovered; nobody may miss anything then
    ServerLoss(ServerLossArgs),
    /// What a process of `server-loss` does that is killed
    #[command(hide = true)]
    ServerLossInside(ServerLossInsideArgs),
    /// What `offline` does in there
    #[command(hide = true)]
    OfflineInside(PlaceArgs),
    /// What `card` does in there
    #[command(hide = true)]
    CardInside(PlaceArgs),
    /// The double of NVIDIA's runtime
    #[command(hide = true)]
    CardRuntime(CardRuntimeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    /// The bundle
    pub(crate) bundle: std::path::PathBuf,
    /// A directory with room for an engine's data
    pub(crate) scratch: std::path::PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CardArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// How the programs are compiled
    #[arg(long, value_enum, default_value_t = Profile::Dev)]
    pub(crate) profile: Profile,
}

#[derive(Debug, Args)]
pub(crate) struct CardRuntimeArgs {
    /// What a runtime is told: <https://github.com/opencontainers/runtime-tools/blob/master/docs/command-line-interface.md>
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct OfflineArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// A file that `bundle` wrote; without it, one is written for the occasion
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    pub(crate) bundle: Option<std::path::PathBuf>,
    /// How the programs are compiled
    #[arg(long, value_enum, default_value_t = Profile::Dev)]
    pub(crate) profile: Profile,
}

#[derive(Debug, Args)]
pub(crate) struct RegistryArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DrillArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) ports: Ports,
}

#[derive(Debug, Args)]
pub(crate) struct ServerLossArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The database comes from its newest set instead of the archive of its log
    #[arg(long)]
    pub(crate) from_set: bool,
    /// A piece of the log is missing at first, which must be noticed; then the recovery is killed so many times
    #[arg(long, value_name = "NUMBER", conflicts_with = "from_set")]
    pub(crate) kills: Option<u32>,
    #[command(flatten)]
    pub(crate) ports: Ports,
}

#[derive(Debug, Args)]
pub(crate) struct ServerLossInsideArgs {
    #[command(flatten)]
    pub(crate) ports: Ports,
}

/// An instant that has been.
fn past(text: &str) -> Result<jiff::Timestamp, String> {
    let at: jiff::Timestamp = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    if at.as_second() > unix_seconds() { Err("it is still to come".to_owned()) } else { Ok(at) }
}

#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The instant the database is brought back to, such as 2026-11-22T10:00:00Z; without it, the end of its archived log
    #[arg(long, value_name = "TIME", value_parser = past)]
    pub(crate) to: Option<jiff::Timestamp>,
    /// The line of history the log is read along, such as 1; without it, the latest. A database that was restored from the
    /// log has begun another
    #[arg(long, value_name = "NUMBER")]
    pub(crate) timeline: Option<u32>,
    /// The database comes from its newest set instead of the archive of its log
    #[arg(long, conflicts_with_all = ["to", "timeline"])]
    pub(crate) from_set: bool,
    /// How the programs are compiled
    #[arg(long, value_enum, default_value_t = Profile::Dev)]
    pub(crate) profile: Profile,
    #[command(flatten)]
    pub(crate) ports: Ports,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// Says what would be removed and removes nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Removes data, images and secrets, too: nothing of ours is left
    #[arg(long)]
    pub(crate) volumes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// As JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// A service's name, with or without `wopr-`, or a bot's container
    pub(crate) service: String,
    /// How many lines to begin with
    #[arg(long, default_value_t = 100, value_name = "LINES")]
    pub(crate) tail: u32,
    /// Goes on as new lines come
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// One JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StripeCommand {
    /// Sends a signed event to the API, as Stripe would
    Trigger(TriggerArgs),
    /// Prints the path of the file that holds the webhook's signing secret
    SecretPath(OutputArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TriggerArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The event; `checkout.session.completed` is the one that credits a balance
    #[arg(value_parser = ["checkout.session.completed"])]
    pub(crate) event: String,
    /// The tenant who paid
    #[arg(long, value_name = "TENANT")]
    pub(crate) client_reference_id: String,
    /// What was paid, in US cents
    #[arg(long, value_name = "CENTS", value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) amount: i64,
    /// The Stripe customer, or `none`
    #[arg(long, default_value = "none", value_name = "CUSTOMER")]
    pub(crate) customer: String,
    /// Port of the API on this machine
    #[arg(long, default_value_t = 3100, value_name = "PORT")]
    pub(crate) api_port: u16,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// As JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) ports: Ports,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RunbookCommand {
    /// Compares runbook.toml with itself and with what the programs do; needs nothing that runs
    Lint(LintArgs),
    /// Makes every check on the two machines that run; exit code 9 if one fails
    Check(CheckArgs),
    /// Breaks the two machines on purpose, hazard by hazard: each check has to notice, and to be content once it is mended
    ///
    /// Data stays; servers, and wopr-gpu itself, are made anew, so that nothing answers for moments. It begins only if
    /// everything is well.
    Verify(VerifyArgs),
    /// Writes the runbook as Markdown
    Render,
}

#[derive(Debug, Args)]
pub(crate) struct LintArgs {
    /// As JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// As JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) ports: Ports,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// As JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
    /// Only these, such as R4; without any, all that can happen here
    #[arg(value_name = "HAZARD")]
    pub(crate) hazards: Vec<String>,
    #[command(flatten)]
    pub(crate) ports: Ports,
}

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Only these steps
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Goes on after a failed step
    #[arg(long)]
    pub(crate) keep_going: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConformanceArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Only these suites, by directory name
    #[arg(long, value_name = "SUITE", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Port of the API on this machine
    #[arg(long, default_value_t = 3100, value_name = "PORT")]
    pub(crate) api_port: u16,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_database_is_brought_to_an_instant_that_has_been() {
        assert_eq!(past("1970-01-01T01:00:01+01:00").unwrap().as_second(), 1);
        for wrong in ["2999-01-01T00:00:00Z", "2026-11-22", "yesterday"] {
            past(wrong).unwrap_err();
        }
    }

    #[test]
    fn a_process_of_a_drill_is_told_the_same_ports() {
        let mut ports = Ports::default();
        let all = [
            &mut ports.api_port,
            &mut ports.stripe_port,
            &mut ports.mail_port,
            &mut ports.http_port,
            &mut ports.llama_port,
            &mut ports.chatterbox_port,
            &mut ports.whisper_port,
            &mut ports.embeddings_port,
        ];
        for (port, other) in all.into_iter().zip(4000..) {
            *port = other;
        }
        let command = ["wopr-ops", "drill", "server-loss-inside"].map(str::to_owned);
        let told = Cli::try_parse_from(command.into_iter().chain(ports.flags())).unwrap().command;
        let Command::Drill(DrillCommand::ServerLossInside(args)) = told else { panic!("{told:?}") };
        assert_eq!(args.ports, ports);
    }

    /// Commands without `--json`, and why.
    const WITHOUT_JSON: [(&str, &str); 3] = [
        ("exec", "what it writes is another program's"),
        ("completions", "it writes a program for a shell"),
        ("runbook render", "it writes a page; `runbook check` answers with what is on it"),
    ];
    /// Commands that answer in a shape of their own, and its schema.
    const OWN_SHAPES: [(&str, &str); 8] = [
        ("images", "images"),
        ("status", "status"),
        ("logs", "logs"),
        ("bench up", "bench-up"),
        ("doctor", "doctor"),
        ("runbook lint", "runbook-lint"),
        ("runbook check", "runbook-check"),
        ("runbook verify", "runbook-verify"),
    ];

    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
        let mut below = command.get_subcommands().filter(|below| below.get_name() != "help" && !below.is_hide_set());
        let Some(first) = below.next() else { return found.push((path.to_owned(), command.clone())) };
        for below in [first].into_iter().chain(below) {
            leaves(below, format!("{path} {}", below.get_name()).trim(), found);
        }
    }

    #[test]
    fn every_command_answers_in_json_or_there_is_a_reason() {
        let mut all = Vec::new();
        leaves(&Cli::command(), "", &mut all);
        assert!(all.len() > 20, "{}", all.len());
        for (path, command) in all {
            let has_json = command.get_arguments().any(|argument| argument.get_long() == Some("json"));
            let has_reason = WITHOUT_JSON.iter().any(|(name, reason)| *name == path && !reason.is_empty());
            assert_ne!(has_json, has_reason, "{path}");
            if !has_json {
                continue;
            }
            let given = match path.as_str() {
                "fault" => vec!["mend", "vps"],
                "bundle" => vec!["all.tar"],
                "logs" => vec!["api"],
                "bench gateway" | "bench soak" => vec!["--database", "postgres://localhost"],
                "stripe trigger" => {
                    vec!["checkout.session.completed", "--client-reference-id", "t", "--amount", "1"]
                }
                _ => Vec::new(),
            };
            let words = ["wopr"].into_iter().chain(path.split(' ')).chain(given.iter().copied()).chain(["--json"]);
            let parsed = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{path}: {error}")).command;
            let own = OWN_SHAPES.iter().find(|(name, _)| *name == path);
            assert_eq!(parsed.accounts_as(), own.is_none().then_some(path.as_str()), "{path}");
            let schema = own.map_or("account", |(_, schema)| schema);
            let file = format!("{}/schemas/{schema}.schema.json", env!("CARGO_MANIFEST_DIR"));
            assert!(std::path::Path::new(&file).is_file(), "{file}");
        }
    }

    #[test]
    fn without_the_flag_nothing_is_accounted_for() {
        let parsed = |words: &[&str]| Cli::try_parse_from([&["wopr"], words].concat()).unwrap().command;
        assert_eq!(parsed(&["stop"]).accounts_as(), None);
        assert_eq!(parsed(&["up", "--dry-run", "--json"]).accounts_as(), None);
        assert_eq!(parsed(&["up", "--json"]).accounts_as(), Some("up"));
    }
}
