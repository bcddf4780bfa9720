//! `stripe`: playing Stripe towards the stack.

use crate::{
    cli::TriggerArgs,
    failure::{Exit, Failure},
    paths::Paths,
    secrets::Secrets,
    stripe::{CheckoutCompleted, deliver},
    ui::Ui,
};

pub(crate) async fn trigger(ui: &Ui, paths: &Paths, args: &TriggerArgs) -> anyhow::Result<()> {
    let secrets = existing(paths)?;
    let customer = (args.customer != "none").then(|| args.customer.clone());
    let event = CheckoutCompleted::new(&args.client_reference_id, args.amount, customer);
    let http = super::http_client()?;
    let task = ui.start(format!("{} {} for {}", args.event, event.session_id, args.client_reference_id));
    let delivered = deliver(&http, args.api_port, &event, secrets.get("STRIPE_WEBHOOK_SECRET")?).await;
    task.ends(delivered, |answer| format!("the API answered 200 {answer}"))?;
    Ok(())
}

pub(crate) fn secret_path(ui: &Ui, paths: &Paths) -> anyhow::Result<()> {
    ui.line(existing(paths)?.path("STRIPE_WEBHOOK_SECRET").display());
    Ok(())
}

/// The secrets of a stack that was brought up before.
fn existing(paths: &Paths) -> anyhow::Result<Secrets> {
    let directory = paths.data.join("secrets");
    if !directory.join("STRIPE_WEBHOOK_SECRET").is_file() {
        return Err(Failure::new(Exit::Environment, "there is no webhook secret")
            .why(format!("{} holds none", directory.display()))
            .fix("`cargo wopr up` makes one")
            .into());
    }
    Secrets::load_or_create(&directory).map(|(secrets, _)| secrets)
}
