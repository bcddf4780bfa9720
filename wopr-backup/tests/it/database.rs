//! A database's groups, as of one instant, into another database.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use secrecy::SecretString;
use tokio_postgres::NoTls;
use wopr_backup::database::Groups;
use wopr_backup::keys::Keys;
use wopr_backup::store::StoreSettings;
use wopr_backup::{BackupError, Backups, ExitCode, VerifyRequest};
use wopr_core::protocol::backup::{FailureKind, Message, Order, RingKey, Sensitive, Store, Work};

use crate::support::{Call, Deed, RING, SECRET, Scratch, Site, Wayward, backups, handle, lock, plant, request};

/// The server that tests may make databases on; without one the tests of this file say so and do nothing.
const VARIABLE: &str = "WOPR_TEST_DATABASE_URL";

struct Server(String);

struct Database {
    server: String,
    name: String,
}

fn server() -> Option<Server> {
    let found = std::env::var(VARIABLE).ok().map(Server);
    if found.is_none() {
        eprintln!("{VARIABLE} is not set: skipped");
    }
    found
}

fn run(url: &str, statements: &[&str]) -> Vec<String> {
    handle().block_on(async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        let mut found = Vec::new();
        for statement in statements {
            for message in client.simple_query(statement).await.unwrap() {
                if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                    found.push(row.get(0).unwrap_or_default().to_owned());
                }
            }
        }
        found
    })
}

impl Server {
    fn database(&self) -> Database {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("wopr_backup_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run(&self.0, &[&format!("CREATE DATABASE {name}")]);
        Database { server: self.0.clone(), name }
    }
}

impl Database {
    fn url(&self) -> String {
        let (before, _) = self.server.rsplit_once('/').unwrap();
        format!("{before}/{}", self.name)
    }

    fn secret(&self) -> SecretString {
        self.url().into()
    }

    fn run(&self, statements: &[&str]) -> Vec<String> {
        run(&self.url(), statements)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        run(&self.server, &[&format!("DROP DATABASE {} WITH (FORCE)", self.name)]);
    }
}

const MADE: [&str; 6] = [
    "CREATE TABLE account (id bigserial PRIMARY KEY, name text NOT NULL, at timestamptz DEFAULT now())",
    "CREATE SCHEMA \"Odd one\"",
    "CREATE TABLE \"Odd one\".\"a table\" (id int PRIMARY KEY, of bigint REFERENCES account, bytes bytea, part real)",
    "INSERT INTO account (name) SELECT 'name ' || n FROM generate_series(1, 5000) n",
    "INSERT INTO \"Odd one\".\"a table\" SELECT n, n, decode(md5(n::text), 'hex'), n / 3.0 FROM generate_series(1, 900) n",
    "CREATE TABLE log (line text)",
];

fn groups(log: &str) -> Groups {
    Groups::parse(&format!(
        r#"{{"groups":{{"auth":["public.account"],"auth-more":["\"Odd one\".\"a table\""],"log":["{log}"]}}}}"#
    ))
    .unwrap()
}

#[test]
fn a_set_restores_into_an_empty_database_row_by_row() {
    let Some(server) = server() else { return };
    let (source, target) = (server.database(), server.database());
    source.run(&MADE);
    let site = Site::new();
    plant(&site.tree(), 30);
    site.save();
    let dumped = site.backups.dump_database(&source.secret(), &groups("public.log")).unwrap();
    assert_eq!(dumped.groups.keys().collect::<Vec<_>>(), ["auth", "auth-more", "log", "schema"]);
    let rows: Vec<_> = dumped.tables.iter().map(|table| (table.table.as_str(), table.rows)).collect();
    assert_eq!(rows, [("public.account", 5000), ("\"Odd one\".\"a table\"", 900), ("public.log", 0)]);
    // What comes later is in no group.
    source.run(&["DELETE FROM \"Odd one\".\"a table\" WHERE id > 10", "INSERT INTO log VALUES ('later')"]);
    let verified = site.backups.verify(&VerifyRequest { snapshot: None, all: true }).unwrap();
    assert_eq!(verified.snapshots.len(), 2);
    let restored = site.backups.restore_database(&target.secret(), Some(&dumped.snapshot), None).unwrap();
    assert_eq!((restored.tables, restored.taken_at), (3, dumped.taken_at));
    let counted = target.run(&[
        "SELECT count(*) FROM \"Odd one\".\"a table\"",
        "INSERT INTO account (name) VALUES ('next') RETURNING id",
        "SELECT count(*) FROM pg_constraint WHERE contype = 'f'",
    ]);
    assert_eq!(counted, ["900", "5001", "1"]);
    let again = site.backups.restore_database(&target.secret(), Some(&dumped.snapshot), None).unwrap_err();
    assert_eq!(again.exit_code(), ExitCode::Usage, "{again}");
    // A set is nothing that a directory's snapshot is compared with.
    assert!(site.backups.save(&request(&site.tree())).unwrap().parent.is_some());
}

#[test]
fn an_order_of_the_platforms_makes_a_set_in_a_new_repository_and_says_no_secret() {
    let Some(server) = server() else { return };
    let (source, target) = (server.database(), server.database());
    source.run(&MADE);
    let scratch = Scratch::new();
    let store = scratch.path("store").to_str().unwrap().to_owned();
    let order = |url: Option<String>| Order {
        store: Store::Directory { path: store.clone() },
        repository: "platform".to_owned(),
        keys: vec![RingKey { id: "first".to_owned(), secret: Sensitive(SECRET.to_owned()) }],
        database_url: url.map(Sensitive),
        work: Work::DumpDatabase { groups: groups("public.log").groups },
    };
    let carry_out = |order: &Order| {
        let mut said = Vec::new();
        let mut input = std::io::Cursor::new(serde_json::to_string(order).unwrap() + "\n");
        let _exit = wopr_backup::job::run(&mut input, &mut said, &handle());
        let said = String::from_utf8(said).unwrap();
        assert!(!said.contains(SECRET) && !said.contains(&source.url()), "{said}");
        serde_json::from_str::<Message>(&said).unwrap()
    };
    let Message::Failed(failure) = carry_out(&order(None)) else { panic!("it needs a database") };
    assert_eq!(failure.kind, FailureKind::BadOrder);
    let Message::Done(report) = carry_out(&order(Some(source.url()))) else { panic!("it is a good order") };
    assert_eq!(report.entries, 3);
    assert!(report.bytes > 5000 && report.stored_bytes > 0, "{report:?}");
    let open = StoreSettings::Directory(scratch.path("store")).open().unwrap();
    let platform = Backups::new(open, "platform", Keys::parse(RING).unwrap(), lock(), handle()).unwrap();
    let restored = platform.restore_database(&target.secret(), report.snapshot.as_deref(), None).unwrap();
    assert_eq!(restored.tables, 3);
}

#[test]
fn one_group_brings_its_rows_and_the_others_tables() {
    let Some(server) = server() else { return };
    let (source, target) = (server.database(), server.database());
    source.run(&MADE);
    let site = Site::new();
    site.backups.dump_database(&source.secret(), &groups("public.log")).unwrap();
    let unknown = BTreeSet::from(["billing".to_owned()]);
    let error = site.backups.restore_database(&target.secret(), None, Some(&unknown)).unwrap_err();
    assert!(matches!(&error, BackupError::Usage(said) if said.contains("billing")), "{error}");
    let auth = BTreeSet::from(["auth".to_owned()]);
    assert_eq!(site.backups.restore_database(&target.secret(), None, Some(&auth)).unwrap().tables, 1);
    let counted = target.run(&["SELECT count(*) FROM account", "SELECT count(*) FROM \"Odd one\".\"a table\""]);
    assert_eq!(counted, ["5000", "0"]);
}

#[test]
fn a_table_in_no_group_and_a_group_with_no_table_are_errors_that_name_it() {
    let Some(server) = server() else { return };
    let source = server.database();
    source.run(&MADE);
    let site = Site::new();
    let missing = site.backups.dump_database(&source.secret(), &groups("public.diary")).unwrap_err();
    assert!(missing.chain().contains("log: public.diary"), "{missing}");
    source.run(&["CREATE TABLE forgotten ()"]);
    let forgotten = site.backups.dump_database(&source.secret(), &groups("public.log")).unwrap_err();
    assert!(forgotten.chain().starts_with("public.forgotten"), "{forgotten}");
    let nowhere = format!("{}x", source.url()).into();
    let away = site.backups.dump_database(&nowhere, &groups("public.log")).unwrap_err();
    for error in [missing, forgotten, away] {
        assert_eq!(error.exit_code(), ExitCode::Database, "{error}");
        assert!(!error.chain().contains("postgres:"), "{}", error.chain());
    }
    assert_eq!(site.backups.list().unwrap().snapshots, []);
}

#[test]
fn a_dump_that_fails_leaves_no_set() {
    let Some(server) = server() else { return };
    let source = server.database();
    source.run(&MADE);
    let site = Site::new();
    // The store goes away while `pg_dump` writes.
    let away =
        Wayward::new(
            &site.store,
            |_, call, object| {
                if call == Call::Put && object.contains("/data/") { Deed::Away } else { Deed::Obey }
            },
        );
    let error = backups(away, RING).dump_database(&source.secret(), &groups("public.log")).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::StoreAway, "{}", error.chain());
    site.expire_locks();
    // `pg_dump` reads large objects and statistics as this role may not: it is refused a table that the survey could read.
    source.run(&["CREATE SEQUENCE hidden OWNED BY account.name"]);
    let role = format!("{}_role", source.name);
    source.run(&[
        &format!("CREATE ROLE {role} LOGIN PASSWORD 'known to this test'"),
        &format!("GRANT USAGE ON SCHEMA public, \"Odd one\" TO {role}"),
        &format!("GRANT SELECT ON ALL TABLES IN SCHEMA public, \"Odd one\" TO {role}"),
    ]);
    let (scheme, rest) = source.server.split_once("://").unwrap();
    let address = rest.rsplit_once('@').unwrap().1.split('/').next().unwrap();
    let url: SecretString = format!("{scheme}://{role}:known%20to%20this%20test@{address}/{}", source.name).into();
    let refused = site.backups.dump_database(&url, &groups("public.log")).unwrap_err();
    source.run(&[&format!("DROP OWNED BY {role}"), &format!("DROP ROLE {role}")]);
    assert_eq!(refused.exit_code(), ExitCode::Database, "{}", refused.chain());
    assert!(refused.chain().starts_with("pg_dump of "), "{}", refused.chain());
    assert_eq!(site.backups.list().unwrap().snapshots, []);
}

#[test]
fn a_partition_goes_with_the_whole() {
    let Some(server) = server() else { return };
    let (source, target) = (server.database(), server.database());
    source.run(&[
        "CREATE TABLE request (at date NOT NULL, what text) PARTITION BY RANGE (at)",
        "CREATE TABLE request_1 PARTITION OF request FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
        "CREATE SCHEMA parts",
        "CREATE TABLE parts.\"request 2\" PARTITION OF request FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')",
        "INSERT INTO request VALUES ('2026-01-03', 'one'), ('2026-02-03', 'two')",
    ]);
    let site = Site::new();
    let groups = Groups::parse(r#"{"groups": {"billing": ["public.request"]}}"#).unwrap();
    let dumped = site.backups.dump_database(&source.secret(), &groups).unwrap();
    let tables: BTreeSet<_> = dumped.tables.iter().map(|table| (table.table.as_str(), table.rows)).collect();
    assert_eq!(tables, BTreeSet::from([("parts.\"request 2\"", 1), ("public.request", 0), ("public.request_1", 1)]));
    assert_eq!(site.backups.restore_database(&target.secret(), None, None).unwrap().tables, 3);
    assert_eq!(target.run(&["SELECT what FROM request ORDER BY 1"]), ["one", "two"]);
}
