//! The archive of the database's log, kept by pgBackRest in the object store: the database puts its log there, and what it
//! had at any instant comes back from there.

use jiff::Timestamp;

use super::{
    platform::{BUCKET, DATABASE, MIB, OBJECTS_TLS_PORT, VPS},
    spec::{Mount, Ready, SECRETS, Service},
};
use crate::secrets::Handover;

/// Its configuration among a service's files.
const CONFIG: &str = "pgbackrest.conf";
/// What it calls the database.
pub(crate) const STANZA: &str = "--stanza=platform";
/// How a database has a piece of its log brought. PostgreSQL takes 1 to 125 for the end of the log, and pgBackRest ends with one
/// of these when the store is away or the piece is damaged, too; with more, PostgreSQL gives up instead of serving half.
const RESTORE_COMMAND: &str =
    r#"pgbackrest --stanza=platform archive-get %f "%p"; code=$?; [ $code -lt 2 ] || code=255; exit $code"#;
/// After how many seconds what was written last is put into the archive, however little it is.
pub(crate) const TIMEOUT_SECONDS: u32 = 60;

/// The files of a service that reads the archive or writes to it. `secret` looks one up.
///
/// # Errors
/// Those of `secret`.
pub(super) fn files<'s>(secret: &impl Fn(&str) -> anyhow::Result<&'s str>) -> anyhow::Result<Handover> {
    let (access, key) = (secret("OBJECTS_ACCESS_KEY")?, secret("OBJECTS_SECRET_KEY")?);
    let passphrase = secret("ARCHIVE_PASSPHRASE")?;
    let lines = [
        "[global]".to_owned(),
        "repo1-type=s3".to_owned(),
        "repo1-path=/archive".to_owned(),
        format!("repo1-s3-bucket={BUCKET}"),
        format!("repo1-s3-endpoint={}", VPS.objects),
        "repo1-s3-region=nyc3".to_owned(),
        "repo1-s3-uri-style=path".to_owned(),
        format!("repo1-s3-key={access}"),
        format!("repo1-s3-key-secret={key}"),
        format!("repo1-storage-port={OBJECTS_TLS_PORT}"),
        // The local store's certificate is of its own making.
        "repo1-storage-verify-tls=n".to_owned(),
        "repo1-cipher-type=aes-256-cbc".to_owned(),
        format!("repo1-cipher-pass={passphrase}"),
        "repo1-bundle=y".to_owned(),
        // One full copy a week, and the oldest goes with the newest: any instant of the last four weeks.
        "repo1-retention-full=5".to_owned(),
        "compress-type=zst".to_owned(),
        "start-fast=y".to_owned(),
        "lock-path=/tmp/pgbackrest".to_owned(),
        "log-level-console=off".to_owned(),
        "log-level-file=off".to_owned(),
        "log-level-stderr=warn".to_owned(),
        "[platform]".to_owned(),
        "pg1-path=/var/lib/postgresql/data".to_owned(),
        "pg1-socket-path=/run/postgresql".to_owned(),
        format!("pg1-user={DATABASE}"),
        format!("pg1-database={DATABASE}"),
        format!("recovery-option=restore_command={RESTORE_COMMAND}"),
        String::new(),
    ];
    Ok(Handover::from([(CONFIG.to_owned(), lines.join("\n"))]))
}

/// Gives options of the configuration other values, for a drill.
pub(crate) fn set(files: &mut Handover, options: &[(&str, String)]) {
    let Some(text) = files.get_mut(CONFIG) else { return };
    let is_set = |line: &str| {
        options.iter().any(|(option, _)| line.strip_prefix(option).is_some_and(|rest| rest.starts_with('=')))
    };
    let kept = text.lines().filter(|line| !is_set(line)).map(str::to_owned);
    let set = options.iter().map(|(option, value)| format!("{option}={value}"));
    let all = "[global]".to_owned();
    // The first line says that these are for all; what is said again is said there.
    let lines: Vec<String> = std::iter::once(all.clone()).chain(set).chain(kept.filter(|line| *line != all)).collect();
    *text = lines.join("\n") + "\n";
}

/// A database that can read the archive: one that was restored reads the log from it.
pub(super) fn reading(service: &mut Service) {
    service.set([("PGBACKREST_CONFIG", format!("{SECRETS}/{CONFIG}"))]);
}

/// A database that is its own only once it has read its log, however long that takes.
pub(super) fn replaying(service: &mut Service) {
    reading(service);
    service.ready = Ready::Started;
}

/// A database of the platform's that reads its log. What it writes waits: if it has not read all, nobody is to follow the line
/// of history that it begins.
pub(super) fn holding(service: &mut Service) {
    replaying(service);
    service.command = ["postgres", "-c", "archive_mode=on", "-c", "archive_command=false"].map(str::to_owned).to_vec();
}

/// A database that puts its log into the archive.
pub(super) fn writing(service: &mut Service) {
    reading(service);
    let timeout = format!("archive_timeout={TIMEOUT_SECONDS}");
    let command = format!("archive_command=pgbackrest {STANZA} archive-push %p");
    service.command = ["postgres", "-c", "archive_mode=on", "-c", &timeout, "-c", &command].map(str::to_owned).to_vec();
}

/// How far the log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Target {
    /// To that instant, or to its end.
    pub(crate) to: Option<Timestamp>,
    /// Along that line of history, or the latest. Each database that was restored from the log has begun another.
    pub(crate) timeline: Option<u32>,
}

/// A one-shot that fills a database's volume with its files of before. The database that is started on them then reads the
/// log.
pub(super) fn restore(mut service: Service, volume: &'static str, target: Target) -> Service {
    reading(&mut service);
    service.mounts.push(Mount::Volume { name: volume, target: "/var/lib/postgresql/data" });
    // Half of what is restored is completed.
    // Which copy it takes is told at this level.
    let command = ["pgbackrest", STANZA, "--log-level-stderr=info", "restore", "--delta", "--force"];
    service.command = command.map(str::to_owned).to_vec();
    service.command.extend(arguments(target));
    service.memory_bytes = 384 * MIB;
    service.ready = Ready::Finished;
    service
}

/// How the one-shot is told. The database is its own from then on.
fn arguments(target: Target) -> Vec<String> {
    let timeline = target.timeline.map(|timeline| format!("--target-timeline={timeline}"));
    let instant = target.to.map(|at| {
        let at = at.strftime("%Y-%m-%d %H:%M:%S%.6f+00");
        ["--type=time".to_owned(), format!("--target={at}"), "--target-action=promote".to_owned()]
    });
    instant.into_iter().flatten().chain(timeline).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::plan::{platform::Images, scratch};

    #[test]
    fn an_instant_is_told_in_utc_to_the_microsecond() {
        let to = Some("2026-11-22T11:30:00.25+01:00".parse().unwrap());
        let expected = ["--type=time", "--target=2026-11-22 10:30:00.250000+00", "--target-action=promote"];
        assert_eq!(arguments(Target { to, timeline: None }), expected);
        assert_eq!(arguments(Target { to: None, timeline: Some(2) }), ["--target-timeline=2"]);
        assert!(arguments(Target::default()).is_empty());
    }

    #[test]
    fn options_are_given_other_values_where_they_stand() {
        let mut file = files(&|_: &str| Ok("hidden")).unwrap();
        set(&mut file, &[("repo1-path", "/copy".to_owned()), ("io-timeout", "5".to_owned())]);
        let lines: Vec<&str> = file[CONFIG].lines().collect();
        assert_eq!(lines[..3], ["[global]", "repo1-path=/copy", "io-timeout=5"]);
        assert_eq!(lines.iter().filter(|line| line.starts_with("repo1-path")).count(), 1);
        assert!(lines.contains(&"[platform]") && lines.contains(&"repo1-s3-key=hidden"));
    }

    #[test]
    fn secrets_are_in_the_configuration_alone() {
        let files = files(&|_: &str| Ok("hidden")).unwrap();
        let text = &files[CONFIG];
        for key in ["repo1-s3-key=hidden", "repo1-s3-key-secret=hidden", "repo1-cipher-pass=hidden"] {
            assert!(text.lines().any(|line| line == key), "{key}: {text}");
        }
        let handovers = scratch::handovers(|_: &str| Ok("k1:hidden")).unwrap();
        let stack = scratch::replayed(&Images::new(), Ipv4Addr::LOCALHOST, &handovers, "/run", Target::default());
        let database = stack.services.into_iter().find(|service| service.name == scratch::POSTGRES).unwrap();
        let mut archiving = database.clone();
        writing(&mut archiving);
        for service in [database.clone(), archiving, restore(database, scratch::VOLUME, Target::default())] {
            assert!(!format!("{service:?}").contains("hidden"), "{service:?}");
        }
    }
}
