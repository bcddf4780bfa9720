//! The platform's database, for looking at what operators look at.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::docker::Engine;

/// Where it is.
#[derive(Debug, Clone)]
pub enum Database {
    /// At this URL.
    Url(String),
    /// In a container of this name, which has `psql`.
    Container(Engine, String),
}

impl Database {
    /// Its URL.
    ///
    /// # Errors
    /// When it is only to be had through its container.
    pub fn url(&self) -> Result<&str> {
        match self {
            Self::Url(url) => Ok(url),
            Self::Container(_, name) => bail!("the database in {name} has no URL"),
        }
    }

    /// The rows of a query, each with its columns by name.
    ///
    /// # Errors
    /// What the database says.
    pub async fn rows(&self, query: &str) -> Result<Vec<Value>> {
        let query = format!("SELECT coalesce(json_agg(row), '[]') FROM ({query}) row");
        let text = match self {
            Self::Url(url) => {
                let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
                let connection = tokio::spawn(connection);
                let answer = client.simple_query(&format!("SET search_path TO wopr; {query}")).await?;
                drop(client);
                connection.await??;
                let row = answer.iter().find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => row.get(0),
                    _ => None,
                });
                row.context("no answer")?.to_owned()
            }
            Self::Container(engine, name) => {
                engine.output(name, &["psql", "-h", "/run/postgresql", "-U", "wopr", "-Atc", &query]).await?
            }
        };
        let rows = serde_json::from_str(&text).with_context(|| format!("the database said {text}"))?;
        let Value::Array(rows) = rows else { bail!("no rows: {rows}") };
        ensure!(rows.iter().all(Value::is_object), "no rows: {rows:?}");
        Ok(rows)
    }
}
