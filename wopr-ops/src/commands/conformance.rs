use crate::{cli::ConformanceArgs, paths::Paths, ui::Ui};
pub(crate) async fn run(_ui: &Ui, _paths: &Paths, _args: &ConformanceArgs) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
