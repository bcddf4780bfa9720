//! The bot's contract, against the real program.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{Program, TempDir, http};

fn command(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wopr-bot"));
    command
        .env("WOPR_HOME", home)
        .env("WOPR_DAEMON_HOST", "127.0.0.1")
        .env("WOPR_DAEMON_PORT", "0")
        .env("WOPR_SERVICE_KEY_FILE", home.join("service-key"));
    command
}

fn start(home: &Path) -> (Program, String) {
    let program = Program::start(&mut command(home), "listening on");
    let address = program.announced.split("listening on ").nth(1).unwrap().split(',').next().unwrap().to_owned();
    (program, address)
}

async fn ask(address: &str, path: &str, token: &str) -> (u16, Value) {
    let answer = http().get(format!("http://{address}{path}")).bearer_auth(token).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn tell(address: &str, token: &str, body: Value) -> (u16, Value) {
    let answer = http().post(format!("http://{address}/message")).bearer_auth(token).json(&body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

fn signal(program: &Program, name: &str) {
    assert!(Command::new("kill").args([name, &program.id().to_string()]).status().unwrap().success());
}

fn health(port: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wopr-bot")).args(["health", "--port", port]).output().unwrap()
}

#[tokio::test]
async fn messages_survive_a_kill_and_a_stop_is_clean() {
    let home = TempDir::new();
    let (bot, address) = start(home.path());
    let line = &bot.announced;
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(time.parse::<jiff::Timestamp>().is_ok() && rest.starts_with("[INFO] listening on"), "{line}");
    let token_file = home.path().join("daemon-token");
    let token = fs::read_to_string(&token_file).unwrap();
    assert_eq!((token.len(), fs::metadata(&token_file).unwrap().permissions().mode() & 0o777), (64, 0o600));

    for path in ["/", "/health", "/ready", "/healthz"] {
        assert_eq!(ask(&address, path, "").await.0, 200, "{path}");
    }
    assert_eq!(ask(&address, "/health", "").await.1, json!({ "status": "ok" }));
    for path in ["/messages", "/message", "/sessions"] {
        assert_eq!(ask(&address, path, "wrong").await.0, 401, "{path}");
    }
    assert_eq!(ask(&address, "/sessions", &token).await.0, 404);
    let (status, answer) = tell(&address, &token, json!({ "text": "hello" })).await;
    assert_eq!((status, &answer["count"]), (200, &json!(1)));
    assert_eq!(tell(&address, &token, json!({ "text": "" })).await.0, 422);
    assert_eq!(tell(&address, &token, json!({ "txt": "a" })).await.0, 422);
    bot.kill();

    let (bot, address) = start(home.path());
    // The platform's key: read when asked, so that it may come and change later.
    assert_eq!(ask(&address, "/messages", "service-1").await.0, 401);
    fs::write(home.path().join("service-key"), "service-1\n").unwrap();
    let (status, kept) = ask(&address, "/messages", "service-1").await;
    assert_eq!((status, &kept["count"], &kept["messages"][0]["text"]), (200, &json!(1), &json!("hello")));
    assert_eq!(ask(&address, "/messages", &token).await.0, 200, "the token is still the same");

    let port = address.rsplit(':').next().unwrap().to_owned();
    assert_eq!(health(&port).status.code(), Some(0));
    let question = ["--home", home.path().to_str().unwrap(), "ask", "--port", &port, "--model", "any", "what?"];
    let asked = Command::new(env!("CARGO_BIN_EXE_wopr-bot")).args(question).output().unwrap();
    let said = String::from_utf8_lossy(&asked.stdout);
    assert_eq!(asked.status.code(), Some(1), "{said}");
    assert!(said.contains("[ERROR]") && said.contains("503") && said.contains("there is no gateway"), "{said}");
    signal(&bot, "-TERM");
    assert_eq!(bot.ended().await, Some(0));
    let unwell = health(&port);
    assert_eq!(unwell.status.code(), Some(1));
    assert!(String::from_utf8(unwell.stdout).unwrap().contains("[ERROR] unhealthy: "));
}

#[tokio::test]
async fn without_a_volume_it_says_so_and_does_not_start() {
    let directory = TempDir::new();
    let file = directory.path().join("no-directory");
    fs::write(&file, "").unwrap();
    let ended = command(&file).output().unwrap();
    let said = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(said.contains("[ERROR] cannot create") && said.lines().count() == 1, "{said}");
    // A volume that is lost while the bot runs: alive, but not ready.
    let home = directory.path().join("home");
    let (bot, address) = start(&home);
    fs::rename(&home, directory.path().join("elsewhere")).unwrap();
    assert_eq!(ask(&address, "/health", "").await.0, 200);
    assert_eq!(ask(&address, "/ready", "").await.0, 503);
    assert_eq!(ask(&address, "/healthz", "").await.0, 503);
    bot.kill();
}
