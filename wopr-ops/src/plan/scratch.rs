//! A throw-away database beside the platform's, and a set of the platform's that is restored into it.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::Context;
use serde_json::json;

use super::{
    archive::{self, Target},
    platform::{self, BUCKET, DATABASE, Images, OBJECTS_PORT, VPS, service},
    spec::{Mount, Ready, Service, Stack},
};
use crate::{
    images::recipes::{POSTGRES_UID, SERVICE_UID},
    secrets::Handover,
};

/// Value of the stack's label.
const STACK: &str = "vps-scratch";
/// The database.
pub(crate) const POSTGRES: &str = "wopr-vps-scratch-postgres";
/// The volume with its files.
pub(crate) const VOLUME: &str = "wopr-scratch-postgres-data";
/// The one-shot that fills it.
pub(crate) const RESTORE: &str = "wopr-vps-scratch-restore";

/// The one-shot that writes what has to be kept elsewhere to read the platform's backups when all else is lost.
pub(crate) const ESCROW: &str = "wopr-vps-scratch-escrow";
/// The one-shot that fills the database's volume from the archive of the platform's log.
pub(crate) const REPLAY: &str = "wopr-vps-scratch-replay";
/// The directory that the escrow is written to, beside the services' files, and the file there.
pub(crate) const ESCROWED: &str = "wopr-vps-scratch-escrowed";
pub(crate) const ESCROW_FILE: &str = "platform.json";
/// What opens a repository: a ring, or an escrow file.
pub(crate) const KEY: &str = "WOPR_BACKUP_KEY";

/// The services, and the users they run as.
pub(crate) const USERS: [(&str, u32); 4] =
    [(POSTGRES, POSTGRES_UID), (REPLAY, POSTGRES_UID), (ESCROW, SERVICE_UID), (RESTORE, SERVICE_UID)];

/// The files of all. `secret` looks one up.
///
/// # Errors
/// Those of `secret`.
pub(crate) fn handovers<'s>(
    secret: impl Fn(&str) -> anyhow::Result<&'s str>,
) -> anyhow::Result<BTreeMap<&'static str, Handover>> {
    let password = secret("POSTGRES_PASSWORD")?.to_owned();
    let restore = restore_files(&secret, POSTGRES)?;
    let replay = archive::files(&secret)?;
    let mut postgres = Handover::from([("POSTGRES_PASSWORD".to_owned(), password)]);
    postgres.extend(replay.clone());
    Ok(BTreeMap::from([(POSTGRES, postgres), (REPLAY, replay), (ESCROW, restore.clone()), (RESTORE, restore)]))
}

/// The files of a one-shot that restores into the database on that host.
pub(super) fn restore_files<'s>(
    secret: &impl Fn(&str) -> anyhow::Result<&'s str>,
    host: &str,
) -> anyhow::Result<Handover> {
    let password = secret("POSTGRES_PASSWORD")?;
    let (id, key) = secret("BACKUP_ENCRYPTION_KEY")?.split_once(':').context("the key of backups has no name")?;
    let files = [
        (KEY, json!({ "ring": [{ "id": id, "secret": key }] }).to_string()),
        ("WOPR_BACKUP_S3_ACCESS_KEY", secret("OBJECTS_ACCESS_KEY")?.to_owned()),
        ("WOPR_BACKUP_S3_SECRET_KEY", secret("OBJECTS_SECRET_KEY")?.to_owned()),
        ("WOPR_BACKUP_DATABASE_URL", format!("postgres://{DATABASE}:{password}@{host}:5432/{DATABASE}")),
    ];
    Ok(files.map(|(name, value)| (name.to_owned(), value)).into())
}

/// A one-shot of the backup engine on the platform's repository.
pub(super) fn restore(mut service: Service) -> Service {
    service.set([
        ("WOPR_BACKUP_REPOSITORY", "platform".to_owned()),
        ("WOPR_BACKUP_S3_BUCKET", BUCKET.to_owned()),
        ("WOPR_BACKUP_S3_REGION", "nyc3".to_owned()),
        ("WOPR_BACKUP_S3_ENDPOINT", format!("http://{}:{OBJECTS_PORT}", VPS.objects)),
        ("WOPR_BACKUP_S3_PATH_STYLE", "true".to_owned()),
        ("WOPR_BACKUP_S3_ALLOW_HTTP", "true".to_owned()),
        // The platform may be at work with its repository.
        ("WOPR_BACKUP_LOCK_WAIT_SECONDS", "180".to_owned()),
    ]);
    service.memory_bytes = 384 * platform::MIB;
    service.ready = Ready::Finished;
    service
}

/// All, on the platform's network; the escrow only if the set is restored with that. Without a group all of it is restored.
pub(crate) fn stack(
    images: &Images,
    host: Ipv4Addr,
    handovers: &BTreeMap<&'static str, Handover>,
    handover_directory: &str,
    snapshot: &str,
    group: Option<&str>,
    is_escrowed: bool,
) -> Stack {
    let make = |name: &'static str, image: &str, uid: u32| {
        let image = images.get(image).cloned().unwrap_or_default();
        service(name, image, handovers.get(name), handover_directory, uid)
    };
    let database = platform::database(make(POSTGRES, "postgres", POSTGRES_UID), VOLUME);
    let mut restore = restore(make(RESTORE, "backup", SERVICE_UID));
    restore.command = ["restore-database", "--snapshot", snapshot].map(str::to_owned).to_vec();
    restore.command.extend(group.iter().flat_map(|group| ["--group".to_owned(), (*group).to_owned()]));
    restore.after = vec![POSTGRES];
    let mut services = vec![database, restore];
    if is_escrowed {
        let mut escrow = self::restore(make(ESCROW, "backup", SERVICE_UID));
        escrow.command = vec!["escrow".to_owned(), "--to".to_owned(), format!("/{ESCROWED}/{ESCROW_FILE}")];
        escrow.mounts.push(Mount::Bind {
            source: format!("{handover_directory}/{ESCROWED}"),
            target: format!("/{ESCROWED}"),
            read_only: false,
        });
        services.push(escrow);
    }
    Stack { name: STACK, network: VPS.network, publish: Ipv4Addr::UNSPECIFIED, host, services }
}

/// A database on the platform's network with what the platform's had, from the archive of its log. It puts nothing there
/// itself.
pub(crate) fn replayed(
    images: &Images,
    host: Ipv4Addr,
    handovers: &BTreeMap<&'static str, Handover>,
    handover_directory: &str,
    target: Target,
) -> Stack {
    let image = images.get("postgres").cloned().unwrap_or_default();
    let make = |name: &'static str| service(name, image.clone(), handovers.get(name), handover_directory, POSTGRES_UID);
    let mut database = platform::database(make(POSTGRES), VOLUME);
    archive::replaying(&mut database);
    database.after = vec![REPLAY];
    let services = vec![database, archive::restore(make(REPLAY), VOLUME, target)];
    Stack { name: STACK, network: VPS.network, publish: Ipv4Addr::UNSPECIFIED, host, services }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_in_files_of_their_settings_names_and_nowhere_else() {
        let secret = |name: &str| Ok(if name == "BACKUP_ENCRYPTION_KEY" { "k1:hidden" } else { "hidden" });
        let files = handovers(secret).unwrap();
        assert_eq!(files[RESTORE]["WOPR_BACKUP_KEY"], r#"{"ring":[{"id":"k1","secret":"hidden"}]}"#);
        let stack = stack(&Images::new(), Ipv4Addr::LOCALHOST, &files, "/run", "abc", Some("core"), true);
        assert_eq!(stack.services[1].command, ["restore-database", "--snapshot", "abc", "--group", "core"]);
        assert_eq!(stack.services[2].command, ["escrow", "--to", "/wopr-vps-scratch-escrowed/platform.json"]);
        let replayed = replayed(&Images::new(), Ipv4Addr::LOCALHOST, &files, "/run", Target::default());
        for service in stack.services.iter().chain(&replayed.services) {
            assert!(!format!("{service:?}").contains("hidden"), "{service:?}");
            assert!(USERS.contains(&(service.name, service.user.split(':').next().unwrap().parse().unwrap())));
        }
        let settings = &stack.services[1].env;
        assert_eq!(settings["WOPR_BACKUP_DATABASE_URL_FILE"], "/run/secrets/WOPR_BACKUP_DATABASE_URL");
    }
}
