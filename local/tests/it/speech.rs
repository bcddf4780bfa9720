//! The speech server's wire, with a program in the synthesiser's place: what the real one says is for the image to show.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use wopr_local::speech::{Config, STAND_IN_HEADER, Speech};

use crate::support::{TempDir, http};

/// Writes what it was called with and told into its output.
const ECHO: &str = "#!/bin/sh\necho \"$@\"; cat\n";

fn synthesiser(directory: &Path, program: &str) -> PathBuf {
    let path = directory.join("synthesiser");
    fs::write(&path, program).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

async fn start(synthesiser: PathBuf, patience: Duration) -> String {
    let config = Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        synthesiser,
        patience,
        at_once: 1,
        control_key: Some("control".to_owned()),
    };
    let speech = Speech::start(config).await.unwrap();
    let address = format!("http://{}", speech.address());
    tokio::spawn(speech.serve(std::future::pending()));
    address
}

async fn say(address: &str, body: &Value) -> reqwest::Response {
    http().post(format!("{address}/v1/audio/speech")).json(body).send().await.unwrap()
}

async fn control(address: &str, key: &str, body: &Value) -> u16 {
    let request = http().put(format!("{address}/_control")).bearer_auth(key).json(body);
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_text_reaches_the_synthesiser_with_voice_and_speed() {
    let directory = TempDir::new();
    let address = start(synthesiser(directory.path(), ECHO), Duration::from_secs(20)).await;
    let text = "-v is no flag here; $(neither) is this";
    let body = json!({ "input": text, "voice": "fable", "response_format": "wav", "speed": 2.0, "exaggeration": 0.5 });
    let answer = say(&address, &body).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "audio/wav");
    assert_eq!(answer.headers()[STAND_IN_HEADER], "espeak-ng");
    assert_eq!(answer.text().await.unwrap(), format!("--stdout --stdin -b 1 -v en-gb -s 350\n{text}"));

    let refused = [
        json!({ "input": " " }),
        json!({ "input": "a".repeat(3001) }),
        json!({ "input": "a", "voice": "nobody" }),
        json!({ "input": "a", "response_format": "mp3" }),
        json!({ "input": "a", "speed": 9 }),
    ];
    for body in refused {
        let answer = say(&address, &body).await;
        assert_eq!(answer.status(), 400, "{body}");
        let error: Value = answer.json().await.unwrap();
        assert_eq!(error["error"]["type"], "invalid_request_error", "{error}");
    }
    assert_eq!(say(&address, &json!({ "text": "a" })).await.status(), 422);
}

#[tokio::test]
async fn a_synthesiser_that_fails_hangs_or_is_missing_is_told() {
    let directory = TempDir::new();
    let failing = synthesiser(directory.path(), "#!/bin/sh\ncat > /dev/null; echo no voice >&2; exit 3\n");
    let address = start(failing, Duration::from_secs(20)).await;
    let answer = say(&address, &json!({ "input": "a" })).await;
    assert_eq!(answer.status(), 500);
    assert!(answer.text().await.unwrap().contains("no voice"));

    let other = TempDir::new();
    let address = start(synthesiser(other.path(), "#!/bin/sh\nexec sleep 600\n"), Duration::from_millis(200)).await;
    assert_eq!(say(&address, &json!({ "input": "a" })).await.status(), 504);

    let health = |address: &str| http().get(format!("{address}/health")).send();
    assert_eq!(health(&address).await.unwrap().status(), 200);
    fs::remove_file(other.path().join("synthesiser")).unwrap();
    assert_eq!(health(&address).await.unwrap().status(), 503);
}

#[tokio::test]
async fn faults_are_played_until_they_are_taken_back() {
    let directory = TempDir::new();
    let address = start(synthesiser(directory.path(), ECHO), Duration::from_secs(20)).await;
    let health = async || http().get(format!("{address}/health")).send().await.unwrap().status().as_u16();
    assert_eq!(control(&address, "wrong", &json!({ "unhealthy": true })).await, 401);
    assert_eq!(control(&address, "control", &json!({ "status": 200 })).await, 422);
    assert_eq!(control(&address, "control", &json!({ "sick": true })).await, 422);
    assert_eq!(health().await, 200);
    assert_eq!(control(&address, "control", &json!({ "unhealthy": true, "status": 503 })).await, 200);
    assert_eq!(health().await, 503);
    assert_eq!(say(&address, &json!({ "input": "a" })).await.status(), 503);
    assert_eq!(control(&address, "control", &json!({})).await, 200);
    assert_eq!(health().await, 200);
    assert_eq!(say(&address, &json!({ "input": "a" })).await.status(), 200);
}
