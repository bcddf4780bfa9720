//! A throw-away database beside the platform's.

use std::{collections::BTreeMap, path::PathBuf};

use bollard::Docker;

use super::stage::Stage;
use crate::{
    commands::up::{FILES, recovering::answer},
    exec::{
        apply::{apply, remove_container},
        observe::observe,
        remove::volume as remove_volume,
        sites::{inside, position},
    },
    images::existing,
    paths::{Paths, remove_directory},
    plan::{machines::VPS, platform::Images, scratch, spec::Stack, steps::plan},
    secrets::{Handover, hand_over},
    ui::Ui,
};

const NANOS_PER_CENT: i64 = 10_000_000;

/// The throw-away database, on the platform's engine.
pub(super) struct Scratch<'a> {
    pub(super) ui: &'a Ui,
    paths: &'a Paths,
    stage: &'a Stage,
    pub(super) vps: Docker,
    pub(super) host: std::net::Ipv4Addr,
    pub(super) images: Images,
}

impl<'a> Scratch<'a> {
    pub(super) async fn new(ui: &'a Ui, paths: &'a Paths, stage: &'a Stage) -> anyhow::Result<Self> {
        let images = existing(paths, &stage.engine, &["postgres", "backup"]).await?;
        let images = images.into_iter().map(|(name, image)| (name, image.reference)).collect();
        let (vps, host) = (inside(paths, VPS).await?, position(&stage.engine, VPS).await?.address);
        Ok(Self { ui, paths, stage, vps, host, images })
    }

    /// The files that its services are handed.
    pub(super) fn handovers(&self) -> anyhow::Result<BTreeMap<&'static str, Handover>> {
        scratch::handovers(|name| self.stage.secrets.get(name))
    }
}

impl Scratch<'_> {
    pub(super) async fn bring(&self, stack: Stack, handovers: &BTreeMap<&'static str, Handover>) -> anyhow::Result<()> {
        for (name, uid) in scratch::USERS {
            if let Some(files) = handovers.get(name) {
                hand_over(&self.files(name), files, uid)?;
            }
        }
        let steps = plan(&stack, &observe(&self.vps, &stack).await?);
        apply(self.ui, &self.vps, &self.stage.http, &stack, &steps).await
    }

    /// Removes the database with its volume, and the files with its secrets.
    pub(super) async fn clear(&self) -> anyhow::Result<()> {
        for (name, _) in scratch::USERS.into_iter().rev() {
            remove_container(&self.vps, name, false).await?;
        }
        for name in scratch::USERS.map(|(name, _)| name).into_iter().chain([scratch::ESCROWED]) {
            remove_directory(&self.files(name))?;
        }
        remove_volume(&self.vps, scratch::VOLUME).await
    }

    /// Where a service's files lie, seen from this machine.
    pub(super) fn files(&self, name: &str) -> PathBuf {
        self.paths.machines().join(VPS).join(FILES).join(name)
    }

    /// Makes sure that the database knows the customer with what was paid, to the nano-dollar; answers with that.
    pub(super) async fn has_paid(&self, email: &str, cents: i64) -> anyhow::Result<String> {
        let query =
            format!("SELECT balance_nanos FROM wopr.users JOIN wopr.wallets ON tenant_id = id WHERE email = '{email}'");
        let has = answer(&self.vps, scratch::POSTGRES, &query).await?;
        let paid = (cents * NANOS_PER_CENT).to_string();
        anyhow::ensure!(
            has == paid,
            "the restored database knows of {has:?} nano-dollars, and {paid} were paid by then"
        );
        Ok(paid)
    }
}
