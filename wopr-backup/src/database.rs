//! A PostgreSQL database, group of tables by group, all of one instant.
//!
//! The groups come from the caller: this program knows no table. Every table of the database must be in exactly one group,
//! so that a new table that nobody has thought of is an error and not a gap. Partitions come and go: one that is not named
//! goes with the whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use jiff::Timestamp;
use rustic_core::repofile::{Metadata as NodeMetadata, Node, NodeType, SnapshotFile};
use rustic_core::{
    BackupOptions, ErrorKind, IndexedFullStatus, ReadSource, ReadSourceEntry, ReadSourceOpen, RusticError, RusticResult,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio_postgres::NoTls;
use tokio_postgres::config::Host;

use crate::clock::now;
use crate::error::BackupError;
use crate::manifest::{MANIFEST_FORMAT, MANIFEST_PATH};
use crate::report::{DumpReport, RestoreDatabaseReport};
use crate::repository::{Backups, Session};
use crate::save::new_snapshot;
use crate::store::Objects;
use crate::verify::Hashing;

/// The kind of a database set; no other snapshot has it.
pub const KIND: &str = "database";
/// Where the dumps are in a set.
const DUMPS: &str = "/database";
/// The dump of everything but rows. No group may have this name.
const SCHEMA: &str = "schema";

/// Which tables belong together.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// By name: the tables, with their schemas.
    pub groups: BTreeMap<String, BTreeSet<String>>,
}

/// What a set holds; without it a set does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetManifest {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// The repository's name.
    pub repository: String,
    /// The instant that all of it is of.
    pub taken_at: Timestamp,
    /// The server's version.
    pub postgres: String,
    /// The dumps, by group, and the one of the schema.
    pub dumps: BTreeMap<String, DumpManifest>,
    /// The tables.
    pub tables: Vec<TableManifest>,
}

/// What `pg_dump` wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DumpManifest {
    /// How much.
    pub size_bytes: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
}

/// A table at that instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableManifest {
    /// Its group.
    pub group: String,
    /// Its name, with its schema, quoted where it must be.
    pub table: String,
    /// How many rows it has.
    pub rows: i64,
    /// The sum of its rows' hashes, whatever their order.
    pub hash: String,
}

impl Groups {
    /// Reads the groups' file.
    ///
    /// # Errors
    /// [`BackupError::Usage`] where it is none, or names a group in a way that cannot be.
    pub fn parse(content: &str) -> Result<Self, BackupError> {
        let groups: Self =
            serde_json::from_str(content).map_err(|error| BackupError::Usage(format!("the groups: {error}")))?;
        groups.checked()
    }

    /// These groups, if their names can be.
    pub(crate) fn checked(self) -> Result<Self, BackupError> {
        for (name, tables) in &self.groups {
            let good = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_');
            if name.is_empty() || !good || name == SCHEMA || tables.is_empty() {
                return Err(BackupError::Usage(format!("the groups: {name:?} is no name of a group, or it is empty")));
            }
        }
        Ok(self)
    }
}

impl Backups {
    /// Dumps all groups of a database as of one instant. The dumps are streamed: no copy of them is on any disk.
    ///
    /// # Errors
    /// As every command; [`BackupError::Database`] names the group or the table.
    pub fn dump_database(&self, url: &SecretString, groups: &Groups) -> Result<DumpReport, BackupError> {
        let server = Server::connect(self.handle(), url)?;
        let exported = server.export()?;
        let tables = server.survey(groups)?;
        let session = self.session("dump-database")?;
        let source = DumpSource {
            shared: Arc::new(Shared {
                objects: Arc::clone(&session.objects),
                target: server.target.clone(),
                exported,
                state: Mutex::default(),
                settled: Condvar::new(),
            }),
            set: SetManifest {
                format: MANIFEST_FORMAT,
                repository: session.objects.name().to_owned(),
                taken_at: server.taken_at,
                postgres: server.version.clone(),
                dumps: BTreeMap::new(),
                tables,
            },
        };
        let mut options = BackupOptions::default().no_scan(true);
        options.parent_opts = options.parent_opts.force(true);
        let snapshot = new_snapshot(&session, KIND, server.taken_at)?;
        let result = session.repository.archive(&options, &source, snapshot, &[PathBuf::from(DUMPS)]);
        let snapshot = session.objects.settle("dumping", result)?;
        let dumps = source.shared.state.lock().unwrap_or_else(PoisonError::into_inner).dumps.clone();
        let expected = groups.groups.len() as u64 + 2;
        let found = snapshot.summary.as_ref().map_or(0, |summary| summary.total_files_processed);
        if found != expected {
            return Err(session.retract(&snapshot, &format!("the engine saved {found} of {expected} files")));
        }
        Ok(DumpReport {
            snapshot: snapshot.id.to_hex().as_str().to_owned(),
            taken_at: server.taken_at,
            postgres: server.version.clone(),
            groups: dumps.into_iter().map(|(name, dump)| (name, dump.size_bytes)).collect(),
            tables: source.set.tables,
            stored_bytes: session.objects.written_bytes(),
        })
    }

    /// Restores a set into a database that has no table, and counts and hashes the rows again. None is all groups; the
    /// tables of the others are made, and stay empty.
    ///
    /// # Errors
    /// As every command; [`BackupError::Differs`] names the first table that is not as it was.
    pub fn restore_database(
        &self,
        url: &SecretString,
        snapshot: Option<&str>,
        groups: Option<&BTreeSet<String>>,
    ) -> Result<RestoreDatabaseReport, BackupError> {
        let server = Server::connect(self.handle(), url)?;
        if !server.tables()?.is_empty() {
            return Err(BackupError::Usage(format!("the database {} has tables", server.target.database)));
        }
        let session = self.session("restore-database")?;
        let snapshot = session.snapshot(snapshot)?;
        let set = session.set(&snapshot)?;
        let chosen: BTreeSet<String> = match groups {
            None => set.dumps.keys().filter(|name| *name != SCHEMA).cloned().collect(),
            Some(names) => names.clone(),
        };
        if let Some(unknown) = chosen.iter().find(|name| *name == SCHEMA || !set.dumps.contains_key(*name)) {
            return Err(BackupError::Usage(format!("the set has no group {unknown:?}")));
        }
        let load = |name: &str, section| session.load(&snapshot, &set, name, section, &server.target);
        load(SCHEMA, "pre-data")?;
        for name in &chosen {
            load(name, "data")?;
        }
        load(SCHEMA, "post-data")?;
        let mut compared = 0;
        for table in set.tables.iter().filter(|table| chosen.contains(&table.group)) {
            let found = server.measure(&table.group, &table.table)?;
            if found != *table {
                return Err(BackupError::Differs {
                    path: table.table.clone(),
                    reason: format!(
                        "{} rows with hash {}, not {} with {}",
                        found.rows, found.hash, table.rows, table.hash
                    ),
                });
            }
            compared += 1;
        }
        Ok(RestoreDatabaseReport {
            snapshot: snapshot.id.to_hex().as_str().to_owned(),
            taken_at: set.taken_at,
            groups: chosen.into_iter().collect(),
            tables: compared,
        })
    }
}

impl Session<IndexedFullStatus> {
    fn set(&self, snapshot: &SnapshotFile) -> Result<SetManifest, BackupError> {
        let object = || format!("{}:{MANIFEST_PATH}", snapshot.id.to_hex().as_str());
        let content = self.document(snapshot, MANIFEST_PATH)?;
        let set: SetManifest = serde_json::from_slice(&content)
            .map_err(|error| BackupError::Corrupt { object: object(), reason: error.to_string() })?;
        if set.format != MANIFEST_FORMAT || set.repository != self.objects.name() || !set.dumps.contains_key(SCHEMA) {
            return Err(BackupError::Corrupt {
                object: object(),
                reason: "it is not a set of this repository".to_owned(),
            });
        }
        Ok(set)
    }

    fn dump_node(&self, snapshot: &SnapshotFile, name: &str) -> Result<Node, BackupError> {
        let path = dump_path(name);
        self.node(snapshot, &path)?.ok_or_else(|| BackupError::Corrupt {
            object: format!("{}:{path}", snapshot.id.to_hex().as_str()),
            reason: "the manifest names it, the snapshot does not have it".to_owned(),
        })
    }

    /// Reads every dump of the set to its end and compares it with the manifest.
    pub(crate) fn verify_set(&self, snapshot: &SnapshotFile) -> Result<u64, BackupError> {
        let set = self.set(snapshot)?;
        for (name, dump) in &set.dumps {
            let node = self.dump_node(snapshot, name)?;
            let mut hashing = Hashing::default();
            let result = self.repository.dump(&node, &mut hashing);
            self.objects.settle(&dump_path(name), result)?;
            compare_dump(name, dump, hashing)?;
        }
        Ok(set.dumps.len() as u64)
    }

    fn load(
        &self,
        snapshot: &SnapshotFile,
        set: &SetManifest,
        name: &str,
        section: &str,
        target: &Target,
    ) -> Result<(), BackupError> {
        let node = self.dump_node(snapshot, name)?;
        let what = format!("pg_restore of {name}, {section}");
        let mut child = target
            .command("pg_restore")
            .args(["--exit-on-error", "--no-owner", "--no-privileges", "--dbname", &target.database])
            .args(["--section", section])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(&what, &error))?;
        let complaints = listen(child.stderr.take());
        let mut feed = Feed { pipe: child.stdin.take(), hashing: Hashing::default() };
        let dumped = self.repository.dump(&node, &mut feed);
        drop(feed.pipe.take());
        let status = child.wait().map_err(|error| failed(&what, &error))?;
        let complaints = complaints.join().unwrap_or_default();
        self.objects.settle(&what, dumped)?;
        if !status.success() {
            return Err(failed(&what, &format!("{status}: {complaints}")));
        }
        set.dumps.get(name).map_or(Ok(()), |dump| compare_dump(name, dump, feed.hashing))
    }
}

fn compare_dump(name: &str, dump: &DumpManifest, hashing: Hashing) -> Result<(), BackupError> {
    let (size_bytes, sha256) = hashing.finish();
    if (DumpManifest { size_bytes, sha256: sha256.clone() }) != *dump {
        let reason = format!("{size_bytes} bytes with SHA-256 {sha256}, not {} with {}", dump.size_bytes, dump.sha256);
        return Err(BackupError::Differs { path: dump_path(name), reason });
    }
    Ok(())
}

/// What `pg_restore` is fed from. It stops reading when it has what it wants; the rest is read for its hash.
struct Feed {
    pipe: Option<std::process::ChildStdin>,
    hashing: Hashing,
}

impl Write for Feed {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        if let Some(pipe) = &mut self.pipe
            && let Err(error) = pipe.write_all(buffer)
        {
            if error.kind() != std::io::ErrorKind::BrokenPipe {
                return Err(error);
            }
            self.pipe = None; // its exit status says whether it was content
        }
        self.hashing.write(buffer)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn dump_path(name: &str) -> String {
    format!("{DUMPS}/{name}.dump")
}

fn failed(what: &str, reason: &dyn std::fmt::Display) -> BackupError {
    BackupError::Database { what: what.to_owned(), reason: reason.to_string() }
}

/// Reads what a program complains of, and keeps the end of it.
fn listen(pipe: Option<ChildStderr>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut said = Vec::new();
        let Some(mut pipe) = pipe else { return String::new() };
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            said.extend_from_slice(&buffer[..count]);
            let spare = said.len().saturating_sub(2000);
            said.drain(..spare);
        }
        String::from_utf8_lossy(&said).trim().replace('\n', "; ")
    })
}

/// Which database, in the words of PostgreSQL's own programs: in their environment, not in their arguments.
#[derive(Clone)]
struct Target {
    database: String,
    environment: Vec<(&'static str, SecretString)>,
}

impl Target {
    fn parse(url: &SecretString) -> Result<(Self, tokio_postgres::Config), BackupError> {
        let unclear = |reason: &str| BackupError::Usage(format!("the database's address: {reason}"));
        // The parser's own words would quote it.
        let config: tokio_postgres::Config =
            url.expose_secret().parse().map_err(|_| unclear("it cannot be understood"))?;
        let (user, database) = match (config.get_user(), config.get_dbname()) {
            (Some(user), Some(database)) => (user.to_owned(), database.to_owned()),
            _ => return Err(unclear("it needs a user and a database")),
        };
        let host = match config.get_hosts() {
            [Host::Tcp(host)] => host.clone(),
            [Host::Unix(path)] => path.display().to_string(),
            _ => return Err(unclear("it needs one host")),
        };
        let mut environment =
            vec![("PGHOST", host.into()), ("PGUSER", user.into()), ("PGDATABASE", database.clone().into())];
        if let [port] = config.get_ports() {
            environment.push(("PGPORT", port.to_string().into()));
        }
        if let Some(password) = config.get_password() {
            environment.push(("PGPASSWORD", String::from_utf8_lossy(password).into_owned().into()));
        }
        Ok((Self { database, environment }, config))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value.expose_secret())));
        command
    }
}

/// A connection whose transaction sees one instant until it is dropped.
struct Server {
    handle: tokio::runtime::Handle,
    client: tokio_postgres::Client,
    target: Target,
    version: String,
    taken_at: Timestamp,
}

impl Server {
    fn connect(handle: &tokio::runtime::Handle, url: &SecretString) -> Result<Self, BackupError> {
        let (target, config) = Target::parse(url)?;
        let what = format!("the database {}", target.database);
        let opened = handle.block_on(async {
            let (client, connection) = config.connect(NoTls).await?;
            tokio::spawn(connection);
            client
                .batch_execute(
                    "SET timezone = 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres';
                     SET extra_float_digits = 1; SET bytea_output = 'hex'; SET search_path = pg_catalog",
                )
                .await?;
            let version: String = client.query_one("SELECT current_setting('server_version')", &[]).await?.get(0);
            Ok::<_, tokio_postgres::Error>((client, version))
        });
        let (client, version) = opened.map_err(|error| failed(&what, &tell(&error)))?;
        Ok(Self { handle: handle.clone(), client, target, version, taken_at: now() })
    }

    /// Begins the transaction, and says how others can see what it sees.
    fn export(&self) -> Result<String, BackupError> {
        let exported = self.handle.block_on(async {
            self.client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            self.client.query_one("SELECT pg_export_snapshot()", &[]).await
        });
        exported.map(|row| row.get(0)).map_err(|error| failed("exporting a snapshot", &tell(&error)))
    }

    /// All tables that are not the system's or an extension's, and of each partition the whole table.
    fn tables(&self) -> Result<BTreeMap<String, Option<String>>, BackupError> {
        let rows = self.handle.block_on(self.client.query(
            "SELECT format('%I.%I', n.nspname, c.relname),
                    CASE WHEN c.relispartition THEN
                        (SELECT format('%I.%I', m.nspname, w.relname)
                         FROM pg_class w JOIN pg_namespace m ON m.oid = w.relnamespace
                         WHERE w.oid = pg_partition_root(c.oid))
                    END
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
               AND n.nspname NOT LIKE 'pg\\_temp%' AND n.nspname NOT LIKE 'pg\\_toast%'
               AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')",
            &[],
        ));
        let rows = rows.map_err(|error| failed("the list of tables", &tell(&error)))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Counts and hashes the tables, after having made sure that the groups have each of them once. A partition that no
    /// group has is in that of the whole table.
    fn survey(&self, groups: &Groups) -> Result<Vec<TableManifest>, BackupError> {
        let mut unclaimed = self.tables()?;
        let mut found = Vec::new();
        for (group, tables) in &groups.groups {
            for table in tables {
                if unclaimed.remove(table).is_none() {
                    let reason = "there is no such table, or another group has it".to_owned();
                    return Err(BackupError::Database { what: format!("{group}: {table}"), reason });
                }
                found.push(self.measure(group, table)?);
            }
        }
        for (table, whole) in unclaimed {
            let has_whole =
                |(_, tables): &(&String, &BTreeSet<String>)| whole.as_ref().is_some_and(|whole| tables.contains(whole));
            let Some((group, _)) = groups.groups.iter().find(has_whole) else {
                return Err(failed(&table, &"the table is in no group"));
            };
            found.push(self.measure(group, &table)?);
        }
        Ok(found)
    }

    /// `table` is one that the database itself has named, quoted.
    fn measure(&self, group: &str, table: &str) -> Result<TableManifest, BackupError> {
        let query = format!(
            "SELECT count(*), (coalesce(sum(('x' || left(h, 16))::bit(64)::bigint), 0))::text || ':'
                 || (coalesce(sum(('x' || right(h, 16))::bit(64)::bigint), 0))::text
             FROM (SELECT md5(t::text) AS h FROM ONLY {table} t) AS hashes"
        );
        let row = self.handle.block_on(self.client.query_one(&query, &[]));
        let row = row.map_err(|error| failed(table, &tell(&error)))?;
        Ok(TableManifest { group: group.to_owned(), table: table.to_owned(), rows: row.get(0), hash: row.get(1) })
    }
}

fn tell(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(answer) => answer.message().to_owned(),
        None => {
            std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
        }
    }
}

/// The dumps as files that the engine reads, and the manifest after them.
struct DumpSource {
    shared: Arc<Shared>,
    set: SetManifest,
}

struct Shared {
    objects: Arc<Objects>,
    target: Target,
    exported: String,
    state: Mutex<DumpState>,
    settled: Condvar,
}

#[derive(Default)]
struct DumpState {
    unsettled: usize,
    dumps: BTreeMap<String, DumpManifest>,
}

impl Shared {
    fn settle(&self, change: impl FnOnce(&mut DumpState)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        state.unsettled -= 1;
        drop(state);
        self.settled.notify_all();
    }
}

impl ReadSource for DumpSource {
    type Open = Opening;
    type Iter = Dumps;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }

    fn entries(&self) -> Dumps {
        let mut tables = BTreeMap::from([(dump_path(SCHEMA), (SCHEMA.to_owned(), Vec::new()))]);
        for table in &self.set.tables {
            let group = tables.entry(dump_path(&table.group)).or_insert_with(|| (table.group.clone(), Vec::new()));
            group.1.push(table.table.clone());
        }
        Dumps { shared: Arc::clone(&self.shared), set: Some(self.set.clone()), tables, directory: true }
    }
}

/// What the engine is given, in the order of the names.
struct Dumps {
    shared: Arc<Shared>,
    set: Option<SetManifest>,
    /// By path: the group's name and its tables.
    tables: BTreeMap<String, (String, Vec<String>)>,
    directory: bool,
}

impl Iterator for Dumps {
    type Item = RusticResult<ReadSourceEntry<Opening>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.shared.objects.failed() {
            return None;
        }
        if let Some((path, (name, tables))) = self.tables.pop_first() {
            self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).unsettled += 1;
            let pending = PendingDump { shared: Arc::clone(&self.shared), name, settled: false };
            let meta = NodeMetadata { mode: Some(0o600), links: 1, ..NodeMetadata::default() };
            return Some(Ok(entry(&path, NodeType::File, meta, Some(Opening::Dump(pending, tables)))));
        }
        // The engine looks ahead by one entry. The directory stands between the dumps and the wait for them.
        let directory = Path::new(MANIFEST_PATH).parent().and_then(Path::to_str).unwrap_or("/");
        if std::mem::replace(&mut self.directory, false) {
            let meta = NodeMetadata { mode: Some(0o700 | 1 << 31), ..NodeMetadata::default() };
            return Some(Ok(entry(directory, NodeType::Dir, meta, None)));
        }
        let mut set = self.set.take()?;
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.unsettled > 0 {
            state = self.shared.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        set.dumps = state.dumps.clone();
        drop(state);
        if self.shared.objects.failed() {
            return None;
        }
        let content = match serde_json::to_vec(&set) {
            Ok(content) => Bytes::from(content),
            Err(error) => {
                let told = RusticError::new(ErrorKind::Internal, error.to_string());
                self.shared.objects.fail(BackupError::Engine(format!("the manifest could not be written: {error}")));
                return Some(Err(told));
            }
        };
        let meta = NodeMetadata { mode: Some(0o600), size: content.len() as u64, links: 1, ..NodeMetadata::default() };
        Some(Ok(entry(MANIFEST_PATH, NodeType::File, meta, Some(Opening::Document(content)))))
    }
}

fn entry(path: &str, kind: NodeType, meta: NodeMetadata, open: Option<Opening>) -> ReadSourceEntry<Opening> {
    let path = PathBuf::from(path);
    let at = Some(now());
    let meta = NodeMetadata { mtime: at, ctime: at, uid: Some(0), gid: Some(0), ..meta };
    let node = Node::new_node(path.file_name().unwrap_or_default(), kind, meta);
    ReadSourceEntry { path, node, open }
}

enum Opening {
    Dump(PendingDump, Vec<String>),
    Document(Bytes),
}

/// A dump that the engine was told of. Dropped before its end, it is a failure.
struct PendingDump {
    shared: Arc<Shared>,
    name: String,
    settled: bool,
}

impl PendingDump {
    fn fail(&mut self, reason: &dyn std::fmt::Display) {
        if !std::mem::replace(&mut self.settled, true) {
            self.shared.objects.fail(failed(&format!("pg_dump of {}", self.name), reason));
            self.shared.settle(|_| {});
        }
    }
}

impl Drop for PendingDump {
    fn drop(&mut self) {
        self.fail(&"it was not read to its end");
    }
}

impl ReadSourceOpen for Opening {
    type Reader = DumpReader;

    fn open(self) -> RusticResult<DumpReader> {
        let (mut pending, tables) = match self {
            Self::Document(content) => return Ok(DumpReader::Document(Cursor::new(content))),
            Self::Dump(pending, tables) => (pending, tables),
        };
        let shared = Arc::clone(&pending.shared);
        let mut command = shared.target.command("pg_dump");
        // Not compressed, so that the engine sees what has not changed, and compresses the rest itself.
        command
            .args(["--format=custom", "--compress=0", "--no-password"])
            .arg(format!("--snapshot={}", shared.exported));
        if tables.is_empty() {
            command.arg("--schema-only");
        } else {
            command.args(["--data-only", "--strict-names"]);
            command.args(tables.iter().map(|table| format!("--table={table}")));
        }
        let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let started = started.and_then(|mut child| {
            let output = child.stdout.take().ok_or_else(|| std::io::Error::other("it has no output"))?;
            let complaints = listen(child.stderr.take());
            Ok((child, output, complaints))
        });
        match started {
            Ok((child, output, complaints)) => Ok(DumpReader::Dump(Box::new(Running {
                child,
                output,
                complaints: Some(complaints),
                hash: Sha256::new(),
                size: 0,
                pending: Some(pending),
            }))),
            Err(error) => {
                pending.fail(&error);
                Err(RusticError::new(ErrorKind::ExternalCommand, error.to_string()))
            }
        }
    }
}

enum DumpReader {
    Dump(Box<Running>),
    Document(Cursor<Bytes>),
}

struct Running {
    child: Child,
    output: ChildStdout,
    complaints: Option<JoinHandle<String>>,
    hash: Sha256,
    size: u64,
    pending: Option<PendingDump>,
}

impl Read for DumpReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Document(content) => content.read(buffer),
            Self::Dump(running) => running.read(buffer),
        }
    }
}

impl Read for Running {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.output.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.size += count as u64;
        if count == 0 && !buffer.is_empty() {
            self.end()?;
        }
        Ok(count)
    }
}

impl Running {
    /// The end of its output is the end of the dump only if it says that it succeeded.
    fn end(&mut self) -> std::io::Result<()> {
        let Some(mut pending) = self.pending.take() else { return Ok(()) };
        let status = self.child.wait()?;
        let complaints = self.complaints.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        if !status.success() {
            pending.fail(&format!("{status}: {complaints}"));
            return Err(std::io::Error::other(complaints));
        }
        pending.settled = true;
        let sha256 = hex::encode(std::mem::take(&mut self.hash).finalize());
        let dump = DumpManifest { size_bytes: self.size, sha256 };
        pending.shared.settle(|state| drop(state.dumps.insert(pending.name.clone(), dump)));
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.pending.is_some() {
            // It would wait for a reader for ever.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
