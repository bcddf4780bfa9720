use crate::{cli::TestArgs, paths::Paths, ui::Ui};
pub(crate) async fn run(_ui: &Ui, _paths: &Paths, _args: &TestArgs) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
