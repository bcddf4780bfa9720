//! `bench backup`: what the engine of backups takes, beside other ways to copy the same files.

use crate::{commands::test::cargo_step, paths::Paths, ui::Ui};

pub(crate) async fn run(ui: &Ui, paths: &Paths) -> anyhow::Result<()> {
    cargo_step(ui, paths, &["bench", "--workspace", "--locked", "--bench", "backup"], &[]).await
}
