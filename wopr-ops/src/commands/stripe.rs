//! `stripe`: playing Stripe towards the stack.

use crate::{
    cli::TriggerArgs,
    paths::Paths,
    secrets::Secrets,
    stripe::{CheckoutCompleted, deliver},
    ui::Ui,
};

pub(crate) async fn trigger(ui: &Ui, paths: &Paths, args: &TriggerArgs) -> anyhow::Result<()> {
    let secrets = Secrets::existing(&paths.data.join("secrets"))?;
    let customer = (args.customer != "none").then(|| args.customer.clone());
    let event = CheckoutCompleted::new(&args.client_reference_id, args.amount, customer);
    let http = super::http_client()?;
    let task = ui.start(format!("{} {} for {}", args.event, event.session_id, args.client_reference_id));
    let delivered = deliver(&http, args.api_port, &event, secrets.get("STRIPE_WEBHOOK_SECRET")?).await;
    task.ends(delivered, |answer| format!("the API answered 200 {answer}"))?;
    Ok(())
}

pub(crate) fn secret_path(ui: &Ui, paths: &Paths) -> anyhow::Result<()> {
    ui.line(Secrets::existing(&paths.data.join("secrets"))?.path("STRIPE_WEBHOOK_SECRET").display());
    Ok(())
}
