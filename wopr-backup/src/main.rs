//! `wopr-backup`: one command on one repository, one line of JSON, one exit code.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use wopr_backup::database::Groups;
use wopr_backup::report::{Done, EscrowReport, Outcome, Report};
use wopr_backup::retention::KeepRules;
use wopr_backup::settings::Settings;
use wopr_backup::store::StoreSettings;
use wopr_backup::{BackupError, Backups, ForgetRequest, RestoreRequest, SaveRequest, VerifyRequest};

/// Saves, verifies and restores. Settings come from WOPR_BACKUP_* variables, progress goes to standard error, and one line
/// of JSON to standard output.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Carries out one order of the platform's, which comes on standard input with all that it needs.
    Job,
    /// Makes the repository, or makes sure that it opens.
    Init,
    /// Saves a directory.
    Save {
        /// Which one.
        #[arg(default_value = "/data")]
        directory: PathBuf,
        /// What kind of snapshot it is; retention works on one kind at a time.
        #[arg(long, default_value = "nightly")]
        kind: String,
        /// A JSON document to save with it; `-` is standard input.
        #[arg(long)]
        description: Option<PathBuf>,
        /// Read every file, whether it seems changed or not.
        #[arg(long)]
        read_all: bool,
    },
    /// Lists the snapshots.
    List,
    /// Restores a snapshot into an empty directory, and compares what is there then with the manifest.
    Restore {
        /// Which directory.
        #[arg(default_value = "/data")]
        directory: PathBuf,
        /// The snapshot's id, or its beginning; else the newest that counts.
        #[arg(long)]
        snapshot: Option<String>,
        /// Where the saved description goes.
        #[arg(long)]
        description: Option<PathBuf>,
    },
    /// Reads everything to its end and compares it with the manifest.
    Verify {
        /// The snapshot's id, or its beginning; else the newest that counts.
        #[arg(long, conflicts_with = "all")]
        snapshot: Option<String>,
        /// Every snapshot.
        #[arg(long)]
        all: bool,
    },
    /// Removes snapshots that the rules do not keep, and what only they needed.
    Forget {
        /// The kind that the rules are for.
        #[arg(long, default_value = "nightly")]
        kind: String,
        /// Keep the newest so many.
        #[arg(long)]
        daily: u32,
        /// Of the others, keep the newest of each ISO week, for so many weeks.
        #[arg(long)]
        weekly: u32,
        /// Keep nothing that is older than so many days.
        #[arg(long)]
        max_age_days: Option<u32>,
        /// Only say what would be removed.
        #[arg(long)]
        dry_run: bool,
    },
    /// Makes the bucket private and versioned, with a lifecycle rule for what was overwritten or removed.
    SetUpBucket,
    /// Makes the newest key of the ring the one that opens the repository.
    Rekey,
    /// Writes what must be kept elsewhere to read this repository when all else is lost.
    Escrow {
        /// A file that is not there yet.
        #[arg(long)]
        to: PathBuf,
    },
    /// Dumps a database, group by group, as of one instant.
    DumpDatabase {
        /// A JSON document that says which tables each group has.
        #[arg(long)]
        groups: PathBuf,
    },
    /// Restores a database set into a database that has no table.
    RestoreDatabase {
        /// The set's id, or its beginning; else the newest.
        #[arg(long)]
        snapshot: Option<String>,
        /// Only the rows of these groups.
        #[arg(long)]
        group: Vec<String>,
    },
}

fn main() -> std::process::ExitCode {
    let began = Instant::now();
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_new("info,rustic_core=warn").unwrap_or_default();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    // Whoever installed one before us has the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();

    if matches!(arguments.command, Command::Job) {
        return job();
    }
    let settings = Settings::read(std::env::vars());
    let repository = settings.as_ref().map(|settings| settings.repository.clone()).unwrap_or_default();
    let result = settings.and_then(|settings| {
        let work = std::panic::AssertUnwindSafe(|| run(arguments.command, &settings));
        std::panic::catch_unwind(work)
            .unwrap_or_else(|_| Err(BackupError::Engine("the engine panicked; what it said is above".to_owned())))
    });
    if let Err(error) = &result {
        tracing::error!("{}", error.chain());
    }
    let report = Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        repository,
        elapsed_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        peak_memory_bytes: peak_memory(),
        outcome: Outcome::of(&result),
    };
    let code = result.as_ref().map_or_else(|error| error.exit_code() as u8, |_| 0);
    let told = serde_json::to_vec(&report).map_err(std::io::Error::other).and_then(|mut line| {
        line.push(b'\n');
        std::io::stdout().lock().write_all(&line)
    });
    match told {
        Ok(()) => code.into(),
        Err(error) => {
            tracing::error!("the report could not be written: {error}");
            code.max(1).into()
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, BackupError> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.map_err(|error| BackupError::Engine(format!("the runtime did not start: {error}")))
}

fn job() -> std::process::ExitCode {
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout());
    let result = runtime().and_then(|runtime| wopr_backup::job::run(&mut input, &mut output, runtime.handle()));
    if let Err(error) = &result {
        tracing::error!("{}", error.chain());
    }
    result.map_or_else(|error| error.exit_code() as u8, |()| 0).into()
}

fn run(command: Command, settings: &Settings) -> Result<Done, BackupError> {
    let runtime = runtime()?;
    let open = || {
        let (keys, lock) = (settings.keys.clone(), settings.lock.clone());
        Backups::new(settings.store.open()?, &settings.repository, keys, lock, runtime.handle().clone())
    };
    Ok(match command {
        Command::Job => return Err(BackupError::Usage("a job brings its own settings".to_owned())),
        Command::Init => Done::Init(open()?.init()?),
        Command::Save { directory, kind, description, read_all } => {
            let description = description.map_or_else(|| Ok(Bytes::from_static(b"{}")), |path| document(&path))?;
            Done::Save(open()?.save(&SaveRequest { directory, kind, description, read_all })?)
        }
        Command::List => Done::List(open()?.list()?),
        Command::Restore { directory, snapshot, description } => {
            Done::Restore(open()?.restore(&RestoreRequest { snapshot, directory, description })?)
        }
        Command::Verify { snapshot, all } => Done::Verify(open()?.verify(&VerifyRequest { snapshot, all })?),
        Command::Forget { kind, daily, weekly, max_age_days, dry_run } => {
            let rules = KeepRules { daily, weekly, max_age_days };
            Done::Forget(open()?.forget(&ForgetRequest { kind, rules, dry_run })?)
        }
        Command::SetUpBucket => match &settings.store {
            StoreSettings::S3(settings) => Done::SetUpBucket(runtime.block_on(settings.set_up())?),
            StoreSettings::Directory(_) => return Err(BackupError::Usage("a directory is no bucket".to_owned())),
        },
        Command::Rekey => Done::Rekey(open()?.rekey()?),
        Command::Escrow { to } => {
            let escrow = settings.keys.escrow(&settings.repository)?;
            write_secret(&to, &serde_json::to_vec(&escrow).map_err(|error| BackupError::Engine(error.to_string()))?)?;
            Done::Escrow(EscrowReport { keys: escrow.keys.into_iter().map(|key| key.id).collect() })
        }
        Command::DumpDatabase { groups } => {
            let groups = document(&groups)?;
            let groups = Groups::parse(&String::from_utf8_lossy(&groups))?;
            Done::DumpDatabase(open()?.dump_database(database_url(settings)?, &groups)?)
        }
        Command::RestoreDatabase { snapshot, group } => {
            let groups: BTreeSet<String> = group.into_iter().collect();
            let groups = (!groups.is_empty()).then_some(&groups);
            Done::RestoreDatabase(open()?.restore_database(database_url(settings)?, snapshot.as_deref(), groups)?)
        }
    })
}

fn database_url(settings: &Settings) -> Result<&secrecy::SecretString, BackupError> {
    let missing = || BackupError::Usage("WOPR_BACKUP_DATABASE_URL_FILE is not set".to_owned());
    settings.database_url.as_ref().ok_or_else(missing)
}

fn document(path: &Path) -> Result<Bytes, BackupError> {
    let mut content = Vec::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().lock().read_to_end(&mut content),
        _ => std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut content)),
    };
    read.map_err(|error| BackupError::Usage(format!("{}: {error}", path.display())))?;
    Ok(content.into())
}

fn write_secret(path: &Path, content: &[u8]) -> Result<(), BackupError> {
    std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .map_err(|source| BackupError::File { path: path.to_owned(), source })
}

fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}
