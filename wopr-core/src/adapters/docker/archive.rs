//! The database's archive by [pgBackRest](https://pgbackrest.org), in the database's own container.
//!
//! There it is configured with where the archive is and how it is encrypted: what is run here names nothing but its stanza.

use async_trait::async_trait;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use futures_util::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::{DockerHost, failed};
use crate::backup::{Archived, History, JobError, LogArchive};
use crate::clock::SharedClock;
use crate::fleet::HostError;

/// What pgBackRest calls the database.
const STANZA: &str = "--stanza=platform";
/// What it is told whatever it is configured with: to speak of what is wrong on its standard error, and of nothing else.
const QUIET: [&str; 2] = ["--log-level-console=off", "--log-level-stderr=warn"];
/// How it ends when the archive is that of another database.
const OTHER_DATABASE: i64 = 28;
/// How old the last full copy is when the next one is full, which is every seventh night: until then only what has changed is
/// copied.
const FULL_EVERY: SignedDuration = SignedDuration::from_hours(7 * 24 - 12);
/// What `info` says of an archive that can be read: it has copies, or no stanza, or a stanza without any.
const READABLE: std::ops::RangeInclusive<i32> = 0..=3;
/// How much of what it says to people is kept, in bytes.
const LAST_WORDS: usize = 2_000;
/// The longest list of copies that is read, in bytes.
const MAX_OUTPUT: usize = 4 << 20;

/// pgBackRest in the container of the database.
pub struct PgBackRest {
    host: DockerHost,
    container: String,
    clock: SharedClock,
}

impl std::fmt::Debug for PgBackRest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PgBackRest").field("container", &self.container).finish_non_exhaustive()
    }
}

/// What `pgbackrest info --output=json` says, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Stanza {
    status: Status,
    #[serde(default)]
    backup: Vec<Backup>,
    #[serde(default)]
    db: Vec<Database>,
}

#[derive(Debug, Default, Deserialize)]
struct Status {
    code: i32,
    message: String,
}

/// The first and the last piece of the log that a copy needs.
#[derive(Debug, Deserialize)]
struct Pieces {
    stop: String,
}

/// A database that the stanza has been of.
#[derive(Debug, Deserialize)]
struct Database {
    id: u32,
    #[serde(rename = "system-id")]
    cluster: i64,
}

#[derive(Debug, Deserialize)]
struct DatabaseId {
    id: u32,
}

#[derive(Debug, Deserialize)]
struct Backup {
    label: String,
    #[serde(rename = "type")]
    kind: String,
    database: DatabaseId,
    archive: Pieces,
    timestamp: Span,
    info: Info,
}

/// Seconds since the epoch.
#[derive(Debug, Deserialize)]
struct Span {
    start: i64,
    stop: i64,
}

#[derive(Debug, Deserialize)]
struct Info {
    size: u64,
    repository: Stored,
}

#[derive(Debug, Deserialize)]
struct Stored {
    delta: u64,
}

impl PgBackRest {
    /// In that container of the engine.
    pub const fn new(host: DockerHost, container: String, clock: SharedClock) -> Self {
        Self { host, container, clock }
    }

    /// Runs it in the container; the answer is what it writes to its standard output.
    async fn run(&self, arguments: &[&str]) -> Result<String, JobError> {
        let docker = &self.host.docker;
        let options = CreateExecOptions {
            cmd: Some([&["pgbackrest", STANZA], &QUIET, arguments].concat()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..CreateExecOptions::default()
        };
        let exec = docker.create_exec(&self.container, options).await.map_err(failed)?.id;
        let (mut text, mut last_words) = (Vec::new(), Vec::new());
        if let StartExecResults::Attached { mut output, .. } = docker.start_exec(&exec, None).await.map_err(failed)? {
            while let Some(chunk) = output.next().await {
                match chunk.map_err(failed)? {
                    LogOutput::StdErr { message } => {
                        last_words.extend_from_slice(&message);
                        let beyond = last_words.len().saturating_sub(LAST_WORDS);
                        last_words.drain(..beyond);
                    }
                    chunk if text.len() < MAX_OUTPUT => text.extend_from_slice(chunk.as_ref()),
                    _ => return Err(HostError::Refused("pgbackrest says too much".to_owned()).into()),
                }
            }
        }
        let exit_code = docker.inspect_exec(&exec).await.map_err(failed)?.exit_code.unwrap_or(-1);
        if exit_code == 0 {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
        let last_words = String::from_utf8_lossy(&last_words).trim().to_owned();
        Err(JobError::Died { exit_code, last_words })
    }

    async fn info(&self) -> Result<Stanza, JobError> {
        parse(&self.run(&["info", "--output=json"]).await?)
    }
}

fn unclear(error: impl std::fmt::Display) -> JobError {
    HostError::Refused(format!("what pgbackrest says of its copies is not clear: {error}")).into()
}

/// What there is. Of a stanza that does not exist yet it says nothing, or that it has none.
fn parse(text: &str) -> Result<Stanza, JobError> {
    let stanzas: Vec<Stanza> = serde_json::from_str(text).map_err(unclear)?;
    let none = || Stanza { status: Status::default(), backup: Vec::new(), db: Vec::new() };
    let stanza = stanzas.into_iter().next().unwrap_or_else(none);
    // It ends well, with no copies, when the store is away or the passphrase is another one.
    if READABLE.contains(&stanza.status.code) { Ok(stanza) } else { Err(unclear(stanza.status.message)) }
}

/// The copies, the newest first.
fn archived(stanza: Stanza) -> Result<Vec<Archived>, JobError> {
    let at = |second: i64| Timestamp::from_second(second).map_err(unclear);
    let archived = |backup: Backup| {
        let database = stanza.db.iter().find(|database| database.id == backup.database.id);
        let cluster = database.ok_or_else(|| unclear(format!("{} is of no database", backup.label)))?.cluster;
        // A piece's name begins with its timeline.
        let timeline = backup.archive.stop.get(..8).unwrap_or_default();
        let timeline = i32::from_str_radix(timeline, 16).map_err(unclear)?;
        Ok(Archived {
            history: History { cluster, timeline },
            label: backup.label,
            started_at: at(backup.timestamp.start)?,
            finished_at: at(backup.timestamp.stop)?,
            size_bytes: backup.info.size,
            added_bytes: backup.info.repository.delta,
        })
    };
    stanza.backup.into_iter().rev().map(archived).collect()
}

/// Whether all that was read is what was written.
fn is_whole(said: &str) -> bool {
    said.lines().any(|line| line.trim() == "status: ok")
}

/// Whether the next copy is to be full.
fn is_full_due(stanza: &Stanza, now: Timestamp) -> bool {
    let full = stanza.backup.iter().filter(|backup| backup.kind == "full");
    let last = full.map(|backup| backup.timestamp.start).max();
    let last = last.and_then(|second| Timestamp::from_second(second).ok());
    last.is_none_or(|at| now.duration_since(at) >= FULL_EVERY)
}

#[async_trait]
impl LogArchive for PgBackRest {
    async fn copy(&self, in_full: bool) -> Result<(), JobError> {
        // It changes nothing where the archive is that of this database already.
        match self.run(&["stanza-create"]).await {
            // A database that was made anew, from a set, takes the place of the one before.
            Err(JobError::Died { exit_code: OTHER_DATABASE, .. }) => {
                tracing::info!("the archive is that of a database before this one");
                self.run(&["stanza-upgrade"]).await?;
            }
            other => drop(other?),
        }
        let in_full = in_full || is_full_due(&self.info().await?, self.clock.now());
        self.run(&["backup", if in_full { "--type=full" } else { "--type=incr" }]).await.map(drop)
    }

    async fn verify(&self) -> Result<Option<String>, JobError> {
        // It ends well whatever it finds, and says nothing of what is well unless it is to say much.
        let said = self.run(&["verify", "--output=text", "--verbose"]).await?;
        Ok((!is_whole(&said)).then(|| said.trim().chars().take(LAST_WORDS).collect()))
    }

    async fn list(&self) -> Result<Vec<Archived>, JobError> {
        archived(self.info().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = r#"[{"archive":[{"database":{"id":1,"repo-key":1},"id":"15-1","max":"000000010000000000000005",
        "min":"000000010000000000000002"}],"backup":[
        {"archive":{"start":"000000010000000000000002","stop":"000000010000000000000003"},"backrest":{"format":5,
         "version":"2.45"},"database":{"id":1,"repo-key":1},"error":false,"info":{"delta":31000000,"repository":
         {"delta":4000000,"size":4000000},"size":31000000},"label":"20261101-030000F","prior":null,"reference":null,
         "timestamp":{"start":1793502000,"stop":1793502010},"type":"full"},
        {"archive":{"start":"0000000A0000000000000004","stop":"0000000A0000000000000005"},"backrest":{"format":5,
         "version":"2.45"},"database":{"id":1,"repo-key":1},"error":false,"info":{"delta":900000,"repository":
         {"delta":100000,"size":4100000},"size":31000000},"label":"20261101-030000F_20261102-030000I","prior":
         "20261101-030000F","reference":["20261101-030000F"],"timestamp":{"start":1793588400,"stop":1793588403},
         "type":"incr"}],"cipher":"aes-256-cbc","db":[{"id":1,"repo-key":1,"system-id":7000000000000000000,
         "version":"15"}],"name":"platform","repo":[{"cipher":"aes-256-cbc","key":1,"status":{"code":0,"message":"ok"}}],
        "status":{"code":0,"lock":{"backup":{"held":false}},"message":"ok"}}]"#;

    #[test]
    fn copies_are_read_from_what_it_says() {
        let copies = archived(parse(INFO).unwrap()).unwrap();
        let read: Vec<_> =
            copies.iter().map(|copy| (copy.label.as_str(), copy.history, copy.size_bytes, copy.added_bytes)).collect();
        let history = |timeline| History { cluster: 7_000_000_000_000_000_000, timeline };
        let expected = [
            ("20261101-030000F_20261102-030000I", history(10), 31_000_000, 100_000),
            ("20261101-030000F", history(1), 31_000_000, 4_000_000),
        ];
        assert_eq!(read, expected);
        assert_eq!(copies[0].finished_at.as_second(), 1_793_588_403);
        let missing = r#"[{"backup":[],"name":"platform","status":{"code":1,"message":"missing stanza path"}}]"#;
        for none in [missing, "[]"] {
            assert!(archived(parse(none).unwrap()).unwrap().is_empty());
        }
        let away = missing.replace(r#""code":1"#, r#""code":99"#);
        for unclear in ["no stanza exists", &INFO.replace(r#""db":[{"id":1"#, r#""db":[{"id":2"#), &away] {
            let said = parse(unclear).and_then(archived);
            assert!(matches!(said, Err(JobError::Host(HostError::Refused(_)))), "{said:?}");
        }
    }

    #[test]
    fn an_archive_is_whole_only_if_it_says_so() {
        let whole = "stanza: platform\nstatus: ok\n  archiveId: 15-1, total WAL checked: 5, total valid WAL: 5\n";
        assert!(is_whole(whole));
        let damaged = "stanza: platform\nstatus: error\n  archiveId: 15-1, total WAL checked: 2, total valid WAL: 1\n    \
                       checksum invalid: 1\n";
        for other in [damaged, ""] {
            assert!(!is_whole(other), "{other}");
        }
    }

    #[test]
    fn every_seventh_night_the_copy_is_full() {
        let stanza = parse(INFO).unwrap();
        let full = Timestamp::from_second(1_793_502_000).unwrap();
        let after = |hours| full + SignedDuration::from_hours(hours);
        assert!(!is_full_due(&stanza, after(6 * 24 + 1)));
        assert!(is_full_due(&stanza, after(7 * 24 - 1)));
        assert!(is_full_due(&parse("[]").unwrap(), full));
    }
}
