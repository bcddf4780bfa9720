//! The hand-written table definitions against what the migrations really leave.

use std::collections::BTreeMap;
use std::path::Path;

use diesel::sql_types::{Bool, Text};
use diesel_async::RunQueryDsl as _;
use wopr_core::testing::TestDb;

type Columns = BTreeMap<(String, String), String>;

#[derive(diesel::QueryableByName)]
struct Column {
    #[diesel(sql_type = Text)]
    table_name: String,
    #[diesel(sql_type = Text)]
    column_name: String,
    #[diesel(sql_type = Text)]
    udt_name: String,
    #[diesel(sql_type = Bool)]
    nullable: bool,
}

/// The calls of the gateway have more columns than a declared table may; they are written as one JSON document, whose
/// names the repository has, and their parts are made as days go by.
#[tokio::test(flavor = "multi_thread")]
async fn the_declared_tables_are_the_migrated_ones() {
    let test = TestDb::create().await;
    let mut conn = test.db.connection().await.unwrap();
    let rows: Vec<Column> = diesel::sql_query(
        "SELECT table_name::text, column_name::text, udt_name::text, is_nullable = 'YES' AS nullable
         FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
         WHERE table_schema = 'wopr' AND table_type = 'BASE TABLE' AND table_name NOT LIKE '\\_\\_%'
           AND table_name NOT LIKE 'gateway\\_requests%'",
    )
    .load(&mut conn)
    .await
    .unwrap();
    let migrated: Columns = rows
        .into_iter()
        .map(|row| {
            let kind = diesel_type(&row.udt_name);
            let kind = if row.nullable { format!("Nullable<{kind}>") } else { kind };
            ((row.table_name, row.column_name), kind)
        })
        .collect();
    let declared = declared();
    assert!(!declared.is_empty());
    let only_declared: Vec<_> = declared.iter().filter(|(key, kind)| migrated.get(*key) != Some(*kind)).collect();
    let only_migrated: Vec<_> = migrated.iter().filter(|(key, kind)| declared.get(*key) != Some(*kind)).collect();
    assert!(
        only_declared.is_empty() && only_migrated.is_empty(),
        "declared only: {only_declared:#?}\nmigrated only: {only_migrated:#?}"
    );
}

fn diesel_type(udt: &str) -> String {
    if let Some(element) = udt.strip_prefix('_') {
        return format!("Array<{}>", diesel_type(element));
    }
    match udt {
        "uuid" => "Uuid",
        "text" => "Text",
        "bool" => "Bool",
        "int2" => "SmallInt",
        "int4" => "Integer",
        "int8" => "BigInt",
        "jsonb" => "Jsonb",
        "bytea" => "Bytea",
        "date" => "Date",
        "timestamptz" => "Timestamptz",
        "numeric" => "Numeric",
        other => panic!("no diesel type is known for {other}"),
    }
    .to_owned()
}

/// Reads `name -> Type` lines inside `table (key) {` blocks.
fn declared() -> Columns {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/db/schema");
    let mut columns = Columns::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let mut table = None;
        for line in text.lines().map(str::trim).filter(|line| !line.contains("joinable!")) {
            if let Some((name, _)) = line.split_once(" (").filter(|_| line.ends_with(") {")) {
                table = Some(name.to_owned());
            } else if let (Some(table), Some((column, kind))) = (&table, line.split_once(" -> ")) {
                let kind = kind.trim_end_matches(',').to_owned();
                columns.insert((table.clone(), column.to_owned()), kind);
            }
        }
    }
    columns
}
