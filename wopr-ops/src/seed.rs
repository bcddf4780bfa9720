//! Enrolling the local GPU machine through the same door as any other: the API creates its row, the daemon registers.

use std::time::{Duration, Instant};

use anyhow::Context;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    failure::{Exit, Failure},
    plan::{
        inference::NODE_ID,
        machines::{GPU, NETWORK},
    },
    ui::Ui,
};

/// How long the node may take to be active: the API's poll comes every 30 seconds.
const LIMIT: Duration = Duration::from_secs(75);
/// How often it is asked: within what the API allows one address in a minute.
const PACE: Duration = Duration::from_secs(1);

/// Enrols the GPU machine if it is not, and waits until the API has found all its services well, and where the machine was
/// given a graphics card, that too.
pub(crate) async fn gpu(
    ui: &Ui,
    http: &reqwest::Client,
    api_port: u16,
    token: &str,
    has_card: bool,
) -> anyhow::Result<()> {
    let api = Api { http, api_port, token };
    let task = ui.start(format!("{NODE_ID}: enrolment"));
    let enrolled = async {
        if !api.exists().await? {
            api.create().await?;
        }
        api.active(has_card).await
    };
    let enrolled = enrolled.await.map_err(|error| {
        anyhow::Error::new(
            Failure::new(Exit::NotReady, format!("{NODE_ID} did not become active")).why(format!("{error:#}")).fix(
                "`cargo wopr logs gpu-node` shows what the machine has to say, `cargo wopr logs api` what the API has",
            ),
        )
    });
    task.ends(enrolled, Clone::clone).map(drop)
}

/// What the daemon has found to compute with.
fn computed_by(gpu: &Value) -> String {
    match gpu["mode"].as_str() {
        Some("nvidia") => format!("graphics cards: {}", gpu["gpus"].as_array().map_or(0, Vec::len)),
        Some("unresponsive") => "there is a graphics card, and its driver does not answer".to_owned(),
        Some("cpu") => "no graphics card: the processor computes".to_owned(),
        _ => "it has not said yet what it computes with".to_owned(),
    }
}

/// The admin API of the local stack.
struct Api<'a> {
    http: &'a reqwest::Client,
    api_port: u16,
    token: &'a str,
}

impl Api<'_> {
    async fn call(&self, request: reqwest::RequestBuilder) -> anyhow::Result<(StatusCode, Value)> {
        let response = request.bearer_auth(self.token).send().await.context("the API does not answer")?;
        let status = response.status();
        let text = response.text().await.context("the API's answer breaks off")?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    fn url(&self, path: &str) -> String {
        format!("http://localhost:{}/api/admin/gpu{path}", self.api_port)
    }

    async fn node(&self) -> anyhow::Result<Option<Value>> {
        match self.call(self.http.get(self.url(&format!("/{NODE_ID}")))).await? {
            (StatusCode::OK, mut body) => Ok(Some(body["node"].take())),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) => anyhow::bail!("GET /api/admin/gpu/{NODE_ID} answers {status}: {body}"),
        }
    }

    async fn exists(&self) -> anyhow::Result<bool> {
        Ok(self.node().await?.is_some())
    }

    async fn create(&self) -> anyhow::Result<()> {
        let body = json!({ "name": NODE_ID, "region": "local", "size": "cpu", "host": format!("{GPU}.{NETWORK}") });
        let (status, answer) = self.call(self.http.post(self.url("")).json(&body)).await?;
        anyhow::ensure!(status == StatusCode::CREATED, "POST /api/admin/gpu answers {status}: {}", answer["error"]);
        Ok(())
    }

    /// Waits until the node is active, each of its services is well, and the card is seen that it has; answers with what the API
    /// says of them.
    async fn active(&self, has_card: bool) -> anyhow::Result<String> {
        let since = Instant::now();
        loop {
            let node = self.node().await?.context("the node has gone")?;
            let health = node["serviceHealth"].as_object().cloned().unwrap_or_default();
            let sees_card = !has_card || node["gpu"]["mode"] == "nvidia";
            if sees_card
                && node["status"] == "active"
                && !health.is_empty()
                && health.values().all(|state| state == "ok")
            {
                let services: Vec<&str> = health.keys().map(String::as_str).collect();
                return Ok(format!("active; {} ok; {}", services.join(", "), computed_by(&node["gpu"])));
            }
            anyhow::ensure!(since.elapsed() < LIMIT, "after {} s it is {node}", LIMIT.as_secs());
            tokio::time::sleep(PACE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wopr_core::protocol::gpu::GpuMode;

    #[test]
    fn what_computes_is_said() {
        let said = |mode: GpuMode| computed_by(&serde_json::to_value(mode).unwrap());
        assert_eq!(said(GpuMode::Cpu { reason: "no library".to_owned() }), "no graphics card: the processor computes");
        let none = GpuMode::Nvidia { driver_version: "535".to_owned(), gpus: Vec::new() };
        assert_eq!(said(none), "graphics cards: 0");
        assert!(said(GpuMode::Unresponsive { for_s: 3 }).ends_with("does not answer"));
        assert!(computed_by(&Value::Null).starts_with("it has not said"));
    }
}
