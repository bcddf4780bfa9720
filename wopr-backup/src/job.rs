//! One order of the platform's, carried out beside a bot's volume or the database.
//!
//! What the two say to each other is [`wopr_core::protocol::backup`]. A repository that is not there is made by its first
//! save.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use secrecy::SecretString;
use tokio::runtime::Handle;
use wopr_core::protocol::backup::{
    Failure, FailureKind, GO, Listed, Message, Order, Report, RingKey, Store, VOLUME_PATH, Work,
};

use crate::database::{Groups, KIND};
use crate::error::{BackupError, ExitCode};
use crate::keys::Keys;
use crate::lock::LockSettings;
use crate::repository::Backups;
use crate::restore::RestoreRequest;
use crate::save::SaveRequest;
use crate::store::{S3Settings, StoreSettings};
use crate::verify::VerifyRequest;

/// The kind of a snapshot of a whole volume.
const WHOLE: &str = "bot";
/// The kind of a copy of which it is not known that the bot stood still; it only spares the next one work.
const DRAFT: &str = "draft";
/// After how long a request that keeps failing is given up, and a lock that is not renewed is anybody's.
const GIVE_UP_AFTER: Duration = Duration::from_mins(1);
const LOCK_EXPIRY: Duration = Duration::from_mins(2);

/// Reads an order, carries it out and says what came of it. The answer is whether it was done.
///
/// # Errors
/// [`BackupError::Usage`] when nobody can be told.
pub fn run(input: &mut impl BufRead, output: &mut impl Write, runtime: &Handle) -> Result<(), BackupError> {
    let result = read_order(input).and_then(|order| carry_out(order, input, output, runtime));
    let message = match &result {
        Ok(report) => Message::Done(report.clone()),
        Err(error) => Message::Failed(Failure { kind: kind_of(error), detail: error.chain() }),
    };
    say(output, &message)?;
    result.map(drop)
}

fn read_order(input: &mut impl BufRead) -> Result<Order, BackupError> {
    let line = read_line(input)?;
    // What is wrong with it is told without a word of it: it holds secrets.
    serde_json::from_str(&line).map_err(|error| {
        let place = format!("line {} column {}", error.line(), error.column());
        BackupError::Usage(format!("the order is none: {:?} at {place}", error.classify()))
    })
}

fn read_line(input: &mut impl BufRead) -> Result<String, BackupError> {
    let mut line = String::new();
    match input.read_line(&mut line) {
        Ok(0) => Err(BackupError::Usage("standard input ended".to_owned())),
        Ok(_) => Ok(line),
        Err(error) => Err(BackupError::Usage(format!("standard input: {error}"))),
    }
}

fn say(output: &mut impl Write, message: &Message) -> Result<(), BackupError> {
    let said = serde_json::to_vec(message).map_err(std::io::Error::other).and_then(|mut line| {
        line.push(b'\n');
        output.write_all(&line)?;
        output.flush()
    });
    said.map_err(|error| BackupError::Usage(format!("standard output: {error}")))
}

fn carry_out(
    order: Order,
    input: &mut impl BufRead,
    output: &mut impl Write,
    runtime: &Handle,
) -> Result<Report, BackupError> {
    let backups = open(&order, runtime)?;
    match order.work {
        Work::DumpDatabase { groups } => {
            let url = order.database_url.ok_or_else(|| BackupError::Usage("the order names no database".to_owned()))?;
            dump_database(&backups, &SecretString::from(url.0), groups)
        }
        Work::Save { description } => save(&backups, description, input, output),
        Work::Restore { snapshot } => {
            let directory = PathBuf::from(VOLUME_PATH);
            let done = backups.restore(&RestoreRequest { snapshot: Some(snapshot), directory, description: None })?;
            Ok(Report { snapshot: Some(done.snapshot), ..totals(&done.totals) })
        }
        Work::Verify { snapshot } => {
            let done = backups.verify(&VerifyRequest { snapshot: Some(snapshot), all: false })?;
            Ok(Report { entries: done.files, bytes: done.bytes, ..Report::default() })
        }
        Work::List { known } => list(&backups, known),
        Work::Keep { snapshots } => {
            let freed = backups.keep(&snapshots)?.freed_bytes;
            Ok(Report { stored_bytes: -i64::try_from(freed).unwrap_or(i64::MAX), ..Report::default() })
        }
    }
}

/// Copies the volume, waits until the bot stands still, copies what has changed meanwhile, and waits until it is known that
/// the bot did.
fn save(
    backups: &Backups,
    description: String,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> Result<Report, BackupError> {
    let made = backups.init()?.created;
    tracing::info!(made, "the repository is open");
    let request = SaveRequest {
        directory: PathBuf::from(VOLUME_PATH),
        kind: DRAFT.to_owned(),
        description: Bytes::from(description),
        read_all: false,
    };
    let mut pause = || {
        say(output, &Message::Ready)?;
        if read_line(input)?.trim_end() == GO {
            return Ok(());
        }
        Err(BackupError::Usage("neither to go on nor to end was said".to_owned()))
    };
    let moving = backups.save(&request)?;
    pause()?;
    let still = backups.save(&request)?;
    pause()?;
    let snapshot = backups.promote(&still.snapshot, WHOLE)?;
    let stored = moving.stored_bytes + still.stored_bytes;
    Ok(Report {
        snapshot: Some(snapshot),
        stored_bytes: i64::try_from(stored).unwrap_or(i64::MAX),
        ..totals(&still.totals)
    })
}

/// Complete copies of the bot or the database that are none of these, and which of these are not there. A draft is no copy.
fn list(backups: &Backups, known: Vec<String>) -> Result<Report, BackupError> {
    let mut all = backups.list_described()?;
    all.retain(|(view, _)| view.complete && [WHOLE, KIND].contains(&view.kind.as_str()));
    let missing = known.iter().filter(|id| !all.iter().any(|(view, _)| view.id == **id)).cloned().collect();
    let unknown = all.into_iter().filter(|(view, _)| !known.contains(&view.id));
    let listed = unknown.map(|(view, description)| Listed {
        snapshot: view.id,
        taken_at: view.taken_at,
        bytes: view.size_bytes.unwrap_or_default(),
        stored_bytes: view.stored_bytes.unwrap_or_default(),
        description,
    });
    Ok(Report { listed: listed.collect(), missing, ..Report::default() })
}

fn dump_database(
    backups: &Backups,
    url: &SecretString,
    groups: BTreeMap<String, BTreeSet<String>>,
) -> Result<Report, BackupError> {
    let groups = Groups { groups }.checked()?;
    let made = backups.init()?.created;
    tracing::info!(made, "the repository is open");
    let done = backups.dump_database(url, &groups)?;
    Ok(Report {
        snapshot: Some(done.snapshot),
        entries: done.tables.len() as u64,
        bytes: done.groups.values().sum(),
        stored_bytes: i64::try_from(done.stored_bytes).unwrap_or(i64::MAX),
        ..Report::default()
    })
}

fn totals(totals: &crate::manifest::Totals) -> Report {
    Report { entries: totals.files + totals.directories + totals.symlinks, bytes: totals.bytes, ..Report::default() }
}

fn open(order: &Order, runtime: &Handle) -> Result<Backups, BackupError> {
    let store = match &order.store {
        Store::Directory { path } => StoreSettings::Directory(path.into()),
        Store::S3 { endpoint, region, bucket, access_key, secret_key } => StoreSettings::S3(S3Settings {
            allow_http: endpoint.starts_with("http://"),
            endpoint: Some(endpoint.clone()),
            region: region.clone(),
            bucket: bucket.clone(),
            access_key: SecretString::from(access_key.clone()),
            secret_key: SecretString::from(secret_key.0.clone()),
            path_style: true,
            give_up_after: GIVE_UP_AFTER,
        }),
    };
    let key = |key: &RingKey| serde_json::json!({ "id": key.id, "secret": key.secret.0 });
    let ring = serde_json::json!({ "ring": order.keys.iter().map(key).collect::<Vec<_>>() });
    let owner =
        nix::unistd::gethostname().map_or_else(|_| "a job".to_owned(), |name| name.to_string_lossy().into_owned());
    let lock = LockSettings { owner, expiry: LOCK_EXPIRY, wait: Duration::ZERO };
    Backups::new(store.open()?, &order.repository, Keys::parse(&ring.to_string())?, lock, runtime.clone())
}

fn kind_of(error: &BackupError) -> FailureKind {
    match error.exit_code() {
        ExitCode::Usage => FailureKind::BadOrder,
        ExitCode::WrongKey => FailureKind::WrongKey,
        ExitCode::Corrupt => FailureKind::Damaged,
        ExitCode::StoreAway => FailureKind::StoreAway,
        ExitCode::DiskFull => FailureKind::NoSpace,
        ExitCode::Locked => FailureKind::Locked,
        ExitCode::NotFound => FailureKind::NoSnapshot,
        ExitCode::Done | ExitCode::Failed | ExitCode::Database => FailureKind::Other,
    }
}
