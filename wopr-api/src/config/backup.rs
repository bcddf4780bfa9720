use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::SecretString;
use wopr_core::backup::retention::Tier;
use wopr_core::db::names_one_database;

use super::BackupSettings;
use super::read::Reader;

/// Keys that encrypt backups have at least this many bytes.
const MIN_BYTES: usize = 32;

impl Reader {
    /// Backups, if there is somewhere to keep them.
    pub(super) fn backup(&mut self, production: bool) -> Option<BackupSettings> {
        let needed = ["S3_BUCKET", "DO_SPACES_ACCESS_KEY", "DO_SPACES_SECRET_KEY", "BACKUP_ENCRYPTION_KEY"];
        let tiers = Tier::ALL.map(|tier| (tier.as_str(), tier));
        let (tier, nightly_hour) = (self.choice("BACKUP_TIER", &tiers), self.number("BACKUP_NIGHTLY_HOUR", 0, 23));
        let region = self.text("DO_SPACES_REGION").unwrap_or_default();
        let keys = self.ring("BACKUP_ENCRYPTION_KEY");
        let database_url = self.backup_database_url();
        let missing: Vec<_> = needed.into_iter().filter(|name| self.text(name).is_none()).collect();
        let database_container = self.text("BACKUP_DATABASE_CONTAINER");
        if missing.len() == needed.len() {
            if database_container.is_some() {
                self.wrong(format!("BACKUP_DATABASE_CONTAINER needs backups: {}", missing.join(", ")));
            }
            return None;
        }
        if !missing.is_empty() {
            self.wrong(format!("backups need {}", missing.join(", ")));
        }
        let endpoint = match self.text("DO_SPACES_ENDPOINT") {
            Some(_) => self.url("DO_SPACES_ENDPOINT", production),
            None => format!("https://{region}.digitaloceanspaces.com"),
        };
        Some(BackupSettings {
            endpoint,
            region,
            bucket: self.text("S3_BUCKET")?,
            access_key: self.text("DO_SPACES_ACCESS_KEY")?,
            secret_key: self.text("DO_SPACES_SECRET_KEY")?.into(),
            keys,
            image: self.text("BACKUP_IMAGE").unwrap_or_default(),
            network: self.text("BACKUP_NETWORK"),
            database_url,
            database_container,
            tier,
            nightly_hour,
        })
    }

    /// What it says is not told: there is a password in it.
    fn backup_database_url(&mut self) -> Option<SecretString> {
        let name = "BACKUP_DATABASE_URL";
        let url: SecretString = self.text(name)?.into();
        if !names_one_database(&url) {
            self.wrong(format!("{name} must be postgres://user:password@host:port/database"));
        }
        Some(url)
    }

    /// Keys with names, `name:secret`, the newest first.
    fn ring(&mut self, name: &str) -> Vec<(String, SecretString)> {
        let mut ring = Vec::new();
        for item in self.list(name) {
            let Some((id, secret)) = item.split_once(':') else {
                self.wrong(format!("{name} must be name:secret, newest first, separated by commas"));
                continue;
            };
            let plain = (1..=32).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
            if !plain {
                self.wrong(format!("{name} has a key whose name is not 1 to 32 letters, digits, - and _"));
            }
            if ring.iter().any(|(other, _)| other == id) {
                self.wrong(format!("{name} has two keys named {id}"));
            }
            let long = BASE64.decode(secret).is_ok_and(|bytes| bytes.len() >= MIN_BYTES);
            if !long {
                self.wrong(format!(
                    "{name} has a key of less than {MIN_BYTES} bytes of base64; make one with `openssl rand -base64 32`"
                ));
            }
            let secrets = self.strong(name, vec![secret.to_owned()]);
            ring.extend(secrets.into_iter().map(|secret| (id.to_owned(), secret)));
        }
        ring
    }
}
