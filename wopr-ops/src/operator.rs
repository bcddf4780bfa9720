//! An operator at the API.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::Context;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::failure::{Exit, Failure};

/// How long a restore may take here.
pub(crate) const LIMIT: Duration = Duration::from_mins(2);
/// How long a set of the database may take.
const SET_LIMIT: Duration = Duration::from_mins(15);
/// How often is asked whether something has ended. Sixty requests a minute are too many.
const PACE: Duration = Duration::from_millis(1500);
/// How often, where it takes minutes.
const SLOW_PACE: Duration = Duration::from_secs(5);
/// The most restores that are listed at once.
const MAX_RESTORES: u32 = 250;
/// The backups of the platform's database.
const PLATFORM: &str = "/api/admin/backups/platform";

/// A set of the database that can be restored.
#[derive(Debug)]
pub(crate) struct DatabaseSet {
    /// Its path among the platform's sets.
    pub(crate) path: String,
    /// What the repository calls it.
    pub(crate) snapshot: String,
    /// Its size, in mebibytes.
    pub(crate) size_mb: Value,
}

/// An operator at the API.
pub(crate) struct Operator<'a> {
    pub(crate) http: &'a reqwest::Client,
    pub(crate) port: u16,
    pub(crate) token: &'a str,
}

impl Operator<'_> {
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let url = format!("http://localhost:{}{path}", self.port);
        let mut request = self.http.request(method.clone(), url).bearer_auth(self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.with_context(|| format!("{method} {path}"))?;
        let status = response.status();
        let text = response.text().await.with_context(|| format!("{path} breaks off"))?;
        let body = serde_json::from_str(&text).with_context(|| format!("{path} answers no JSON: {text}"))?;
        Ok((status, body))
    }

    /// Asks for the newest snapshot to be restored; the answer is its path.
    pub(crate) async fn restore(&self, container: &str) -> anyhow::Result<String> {
        let path = format!("/api/admin/backups/{container}/snapshots");
        let (status, body) = self.ask(Method::GET, &path, None).await?;
        anyhow::ensure!(status == StatusCode::OK, "{path} answers {status}: {body}");
        let newest = body["snapshots"][0]["path"].as_str().context("no snapshot is listed")?.to_owned();
        let path = format!("/api/admin/backups/{container}/restore");
        let input = json!({ "remotePath": newest, "reason": "a drill" });
        let (status, body) = self.ask(Method::POST, &path, Some(&input)).await?;
        anyhow::ensure!(status == StatusCode::ACCEPTED, "{path} answers {status}: {body}");
        Ok(newest)
    }

    /// Waits for the end of the tenant's last restore; the answer is how long the bot was between its data, in milliseconds.
    pub(crate) async fn wait_for(&self, tenant: &str) -> anyhow::Result<i64> {
        let since = Instant::now();
        while since.elapsed() < LIMIT {
            let entries = self.restores(tenant, 1).await?;
            let last = entries.first().context("the restore is not listed")?;
            if ended(last)? {
                return Ok(last["downtimeMs"].as_i64().unwrap_or(0));
            }
            tokio::time::sleep(PACE).await;
        }
        anyhow::bail!("the restore has not ended within {} s", LIMIT.as_secs())
    }

    /// Waits for the end of these restores, by tenant, for as long as another one of them ends in time. Answers with what is
    /// said of those that failed.
    pub(crate) async fn wait_for_all(&self, mut open: BTreeMap<&str, BTreeSet<&str>>) -> anyhow::Result<Vec<String>> {
        let (mut failed, mut since) = (Vec::new(), Instant::now());
        while !open.is_empty() {
            for (tenant, restores) in &mut open {
                for entry in self.restores(tenant, MAX_RESTORES).await? {
                    let Some(id) = entry["id"].as_str().filter(|id| restores.contains(id)) else { continue };
                    match ended(&entry) {
                        Ok(false) => continue,
                        Ok(true) => {}
                        Err(error) => failed.push(error.to_string()),
                    }
                    restores.remove(id);
                    since = Instant::now();
                }
                tokio::time::sleep(PACE).await;
            }
            open.retain(|_, restores| !restores.is_empty());
            if since.elapsed() > LIMIT {
                return Err(Failure::new(Exit::NotReady, "not every restore ends")
                    .why(format!("none has for {} s; of each tenant: {open:?}", LIMIT.as_secs()))
                    .fix("`cargo wopr logs platform-api` tells what holds them up; the same command goes on")
                    .into());
            }
        }
        Ok(failed)
    }

    /// The tenant's last restores, the last one first.
    async fn restores(&self, tenant: &str, limit: u32) -> anyhow::Result<Vec<Value>> {
        let input = json!({ "tenantId": tenant, "limit": limit }).to_string();
        let input = percent_encoding::utf8_percent_encode(&input, percent_encoding::NON_ALPHANUMERIC);
        let path = format!("/trpc/admin.restoreHistory?input={input}");
        let (status, mut body) = self.ask(Method::GET, &path, None).await?;
        anyhow::ensure!(status == StatusCode::OK, "{path} answers {status}: {body}");
        let entries = body["result"]["data"]["entries"].take();
        serde_json::from_value(entries).context("there is no list of restores")
    }

    /// Waits until every bot has a snapshot.
    pub(crate) async fn wait_for_snapshots(&self, limit: Duration) -> anyhow::Result<()> {
        let since = Instant::now();
        loop {
            let without = self.without_snapshot().await?;
            if without.is_empty() {
                return Ok(());
            }
            anyhow::ensure!(since.elapsed() < limit, "{} have no snapshot", without.join(", "));
            tokio::time::sleep(SLOW_PACE).await;
        }
    }

    /// The bots that have no snapshot yet.
    async fn without_snapshot(&self) -> anyhow::Result<Vec<String>> {
        let path = "/api/admin/backups";
        let (status, body) = self.ask(Method::GET, path, None).await?;
        anyhow::ensure!(status == StatusCode::OK, "{path} answers {status}: {body}");
        let all = body["backups"].as_array().context("there is no list of backups")?;
        let without = all.iter().filter(|backup| backup["lastBackupAt"].is_null());
        Ok(without.filter_map(|backup| Some(backup["containerId"].as_str()?.to_owned())).collect())
    }

    /// Asks for a set of the database and waits for it.
    pub(crate) async fn database_set(&self) -> anyhow::Result<DatabaseSet> {
        let status = async || -> anyhow::Result<Value> {
            let (status, body) = self.ask(Method::GET, PLATFORM, None).await?;
            anyhow::ensure!(status == StatusCode::OK, "{PLATFORM} answers {status}: {body}");
            Ok(body)
        };
        let before = status().await?["lastAttemptAt"].clone();
        let sets = format!("{PLATFORM}/snapshots");
        let (answer, body) = self.ask(Method::POST, &sets, None).await?;
        anyhow::ensure!(answer == StatusCode::ACCEPTED, "{sets} answers {answer}: {body}");
        let path = body["path"].clone();
        let since = Instant::now();
        while since.elapsed() < SET_LIMIT {
            let (answer, body) = self.ask(Method::GET, &sets, None).await?;
            anyhow::ensure!(answer == StatusCode::OK, "{sets} answers {answer}: {body}");
            let all = body["snapshots"].as_array().context("there is no list of sets")?;
            if let Some(set) = all.iter().find(|set| set["path"] == path) {
                let text = |field: &str| set[field].as_str().map(str::to_owned).with_context(|| format!("no {field}"));
                return Ok(DatabaseSet {
                    path: text("path")?,
                    snapshot: text("snapshot")?,
                    size_mb: set["sizeMb"].clone(),
                });
            }
            let now = status().await?;
            if now["lastAttemptAt"] != before && !now["lastBackupError"].is_null() {
                anyhow::bail!("the set was not made: {}", now["lastBackupError"]);
            }
            tokio::time::sleep(PACE).await;
        }
        anyhow::bail!("the set was not made within {} s", SET_LIMIT.as_secs())
    }

    /// Waits until there is a copy of the database's files; the answer is its path.
    pub(crate) async fn base_backup(&self) -> anyhow::Result<String> {
        let since = Instant::now();
        loop {
            let (status, body) = self.ask(Method::GET, PLATFORM, None).await?;
            anyhow::ensure!(status == StatusCode::OK, "{PLATFORM} answers {status}: {body}");
            let archive = &body["archive"];
            if let Some(path) = archive["lastBackupPath"].as_str() {
                return Ok(path.to_owned());
            }
            let said = &archive["lastError"];
            anyhow::ensure!(since.elapsed() < SET_LIMIT, "there is none after {} s: {said}", SET_LIMIT.as_secs());
            tokio::time::sleep(PACE).await;
        }
    }

    /// Says that what is at this path was restored into another database, which then had what it has to have.
    pub(crate) async fn note_proof(&self, path: &str) -> anyhow::Result<()> {
        let url = format!("http://localhost:{}{PLATFORM}/proofs", self.port);
        let request = self.http.post(url).bearer_auth(self.token).json(&json!({ "remotePath": path }));
        let response = request.send().await.context("the proof is not taken")?;
        let status = response.status();
        anyhow::ensure!(status == StatusCode::NO_CONTENT, "the proof is answered with {status}");
        Ok(())
    }
}

/// Whether a restore is over.
fn ended(entry: &Value) -> anyhow::Result<bool> {
    match entry["phase"].as_str() {
        Some("failed") => anyhow::bail!("the restore of {} failed: {}", entry["instanceId"], entry["error"]),
        phase => Ok(phase == Some("done")),
    }
}
