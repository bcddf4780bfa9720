//! What may import what, as `ARCHITECTURE.md` draws it.

use std::path::{Path, PathBuf};

/// A domain, and the domains whose services it may call.
const DOMAINS: &[(&str, &[&str])] = &[
    ("audit", &[]),
    ("notify", &["audit"]),
    ("billing", &["audit", "notify"]),
    ("auth", &["audit", "notify", "billing"]),
    ("gpu", &["audit", "notify"]),
    ("gateway", &["audit", "notify", "billing", "auth"]),
    ("fleet", &["audit", "notify", "billing", "auth"]),
    ("backup", &["audit", "notify", "billing", "auth", "fleet"]),
];

#[test]
fn only_repositories_speak_sql() {
    for (path, text) in sources(&crate_folder("wopr-core/src")) {
        let name = path.to_string_lossy();
        let storage = name.contains("/src/db/") || name.contains("/src/testing/");
        let repository = path.file_stem().is_some_and(|stem| stem.to_string_lossy().contains("repository"))
            || name.contains("/repository/");
        if !storage && !repository {
            // A service may name the connection it passes on; it may not build a statement.
            for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
                let statement =
                    line.contains("diesel::") || line.contains("sql_query") || line.contains("batch_execute");
                assert!(!statement, "{name}:{}: only repositories use diesel: {line}", number + 1);
            }
        }
    }
}

#[test]
fn domains_reach_only_the_domains_below_them() {
    for (domain, below) in DOMAINS {
        for (path, text) in sources(&crate_folder("wopr-core/src").join(domain)) {
            for (other, _) in DOMAINS.iter().filter(|(other, _)| other != domain && !below.contains(other)) {
                let used = text.contains(&format!("crate::{other}::")) || text.contains(&format!("super::{other}::"));
                assert!(!used, "{}: {domain} may not use {other}", path.display());
            }
        }
    }
}

#[test]
fn the_server_cannot_query() {
    let manifest = std::fs::read_to_string(crate_folder("wopr-api/Cargo.toml")).unwrap();
    assert!(!manifest.contains("diesel") && !manifest.contains("postgres"), "wopr-api must not see the database");
}

#[test]
fn the_library_reads_no_environment() {
    for (path, text) in sources(&crate_folder("wopr-core/src")) {
        let testing = path.to_string_lossy().contains("/src/testing/");
        assert!(testing || !text.contains("env::var"), "{} reads the environment", path.display());
    }
}

fn crate_folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}
