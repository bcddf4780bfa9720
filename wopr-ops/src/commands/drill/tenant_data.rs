//! Customers of a drill's own, and what is on their bots' volumes.

use std::{collections::BTreeMap, io::Read, path::PathBuf};

use anyhow::Context;
use bollard::{
    Docker,
    query_parameters::{DownloadFromContainerOptionsBuilder, UploadToContainerOptionsBuilder},
};
use futures_util::StreamExt;
use rand::RngCore;
use sha2::{Digest, Sha256};

use crate::happy_path::Customer;

/// What pays for the bot, in US cents.
pub(super) const FIRST_CENTS: i64 = 3000;
/// What is paid the second time, where somebody pays twice.
pub(super) const SECOND_CENTS: i64 = 700;
/// What a bot's volume is given at a time, in bytes.
pub(super) const BYTES: usize = 1 << 20;
/// Where a bot keeps what is its tenant's.
const DATA: &str = "/data";

/// Paths in a volume, and the hashes of what is there.
pub(super) type Files = BTreeMap<PathBuf, String>;

/// Somebody who signs up, pays, and gets a bot.
pub(super) async fn customer_with_bot(mut customer: Customer<'_>) -> anyhow::Result<Customer<'_>> {
    customer.sign_up().await?;
    customer.first_balance().await?;
    customer.pays(&customer.payment(FIRST_CENTS)).await?;
    customer.balance_reaches(FIRST_CENTS).await?;
    customer.create_bot().await?;
    customer.bot_runs().await?;
    Ok(customer)
}

/// Puts a file of that name on the bot's volume, with bytes that nobody can guess.
pub(super) async fn give_bytes(engine: &Docker, container: &str, name: &str) -> anyhow::Result<()> {
    let mut bytes = vec![0; BYTES];
    rand::rng().fill_bytes(&mut bytes);
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, name, bytes.as_slice())?;
    let body = bollard::body_full(archive.into_inner()?.into());
    let options = UploadToContainerOptionsBuilder::default().path(DATA).build();
    let uploaded = engine.upload_to_container(container, Some(options), body).await;
    uploaded.with_context(|| format!("{container} takes no file"))
}

/// What is on the bot's volume, seen from outside.
pub(super) async fn files(engine: &Docker, container: &str) -> anyhow::Result<Files> {
    let options = DownloadFromContainerOptionsBuilder::default().path(DATA).build();
    let mut chunks = engine.download_from_container(container, Some(options));
    let mut packed = Vec::new();
    while let Some(chunk) = chunks.next().await {
        packed.extend_from_slice(&chunk.with_context(|| format!("{container} does not hand out {DATA}"))?);
    }
    drop(chunks);
    hashes(&packed)
}

fn hashes(packed: &[u8]) -> anyhow::Result<Files> {
    let mut files = Files::new();
    for entry in tar::Archive::new(packed).entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            files.insert(entry.path()?.into_owned(), hex::encode(Sha256::digest(&content)));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_another_volume() {
        let volume = |content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            let mut archive = tar::Builder::new(Vec::new());
            archive.append_data(&mut header, "data/a", content).unwrap();
            hashes(&archive.into_inner().unwrap()).unwrap()
        };
        assert_eq!(volume(b"abc").keys().collect::<Vec<_>>(), [&PathBuf::from("data/a")]);
        assert_eq!(volume(b"abc"), volume(b"abc"));
        assert_ne!(volume(b"abc"), volume(b"abd"));
    }
}
