//! The page that stands where the dashboard will be, against the real program.

use std::process::Command;

use crate::support::{Program, http};

#[tokio::test]
async fn the_page_names_the_api_it_was_given_and_nothing_else_is_there() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wopr-ui"));
    command.env("HOST", "127.0.0.1").env("PORT", "0").env("WOPR_UI_API_URL", "http://api.example:3100/");
    let page = Program::start(command.env("WOPR_UI_STRIPE_URL", "http://stripe.example"), "listens on");
    let address = page.announced.split("listens on ").nth(1).unwrap().to_owned();

    let answer = http().get(format!("{address}/")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let text = answer.text().await.unwrap();
    for link in ["http://api.example:3100/health/ready", "http://stripe.example"] {
        assert!(text.contains(&format!("href=\"{link}\"")), "{text}");
    }
    assert!(!text.contains("mail"), "{text}");
    assert_eq!(http().get(format!("{address}/dashboard")).send().await.unwrap().status(), 404);

    let port = address.rsplit(':').next().unwrap();
    let health = |port: &str| {
        Command::new(env!("CARGO_BIN_EXE_wopr-ui")).args(["health", "--port", port]).output().unwrap().status.code()
    };
    assert_eq!(health(port), Some(0));
    page.kill();
    assert_eq!(health(port), Some(1));
}
