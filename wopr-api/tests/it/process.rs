//! The program itself: it starts, serves, and stops as it is told.

use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use wopr_core::testing::TestDb;

use crate::app::environment;

const PATIENCE: Duration = Duration::from_secs(30);

struct Process {
    child: tokio::process::Child,
    port: u16,
    folder: std::path::PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

impl Process {
    async fn start(db: &TestDb) -> Self {
        let mut environment = environment();
        environment.insert("DATABASE_URL".to_owned(), db.url());
        environment.insert("PORT".to_owned(), "0".to_owned());
        environment.insert("LOG_FORMAT".to_owned(), "json".to_owned());
        let folder = std::env::temp_dir().join(format!("wopr-api-process-{}", uuid::Uuid::new_v4()));
        environment.insert("GATEWAY_JOURNAL_DIR".to_owned(), folder.display().to_string());
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_wopr-api"))
            .env_clear()
            .envs(environment)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let port = tokio::time::timeout(PATIENCE, async {
            loop {
                let line = lines.next_line().await.unwrap().expect("the program ended before it listened");
                let line: serde_json::Value =
                    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                if line["message"].as_str().is_some_and(|message| message.starts_with("listening")) {
                    return u16::try_from(line["port"].as_u64().unwrap()).unwrap();
                }
            }
        })
        .await
        .unwrap();
        // Somebody has to go on reading, or the program would block on a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, port, folder }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    async fn get(&self, path: &str) -> String {
        let mut stream = self.connect().await;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn terminate(&self) {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }

    async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("the program did not stop").unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_finishes_what_it_was_sent_and_then_stops() {
    let db = TestDb::create().await;
    let mut process = Process::start(&db).await;
    assert!(process.get("/health/ready").await.starts_with("HTTP/1.1 200"));

    let mut half = process.connect().await;
    let head = "POST /trpc/no.such HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{";
    half.write_all(head.as_bytes()).await.unwrap();
    // The server has the first half once it answers another request on a connection made later.
    assert!(process.get("/health").await.starts_with("HTTP/1.1 200"));
    process.terminate();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", process.port)).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "it still takes connections");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    half.write_all(b"}").await.unwrap();
    let mut answer = String::new();
    half.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(process.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_needs_no_body_arrives_and_so_does_the_next() {
    let db = TestDb::create().await;
    let process = Process::start(&db).await;
    let table = [
        ("POST /trpc/no.such", "x-none: x", 3, 413),
        ("POST /trpc/no.such", "cookie: a=b", 3, 403),
        ("POST /api/billing/webhook", "x-none: x", 3, 400),
        ("POST /no/such/path", "x-none: x", 3, 404),
        ("PUT /v1/chat/completions", "x-none: x", 3, 405),
        ("POST /v1/chat/completions", "x-none: x", 3, 401),
        ("POST /v1/audio/transcriptions", "authorization: Bearer wopr_no_such_key", 24, 401),
    ];
    for (asked, header, mebibytes, status) in table {
        for _ in 0..5 {
            let mut client = process.connect().await;
            let length = mebibytes << 20;
            let head = format!(
                "{asked} HTTP/1.1\r\nhost: x\r\n{header}\r\n\
                 content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
            );
            client.write_all(head.as_bytes()).await.unwrap();
            client.write_all(&vec![b' '; length]).await.unwrap();
            client.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answers = String::new();
            client.read_to_string(&mut answers).await.unwrap();
            assert!(answers.starts_with(&format!("HTTP/1.1 {status}")), "{asked}: {answers}");
            assert!(answers.contains("HTTP/1.1 200"), "{asked}: {answers}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_before_it_sends_is_refused_before_it_sends() {
    let db = TestDb::create().await;
    let process = Process::start(&db).await;
    for (path, header, status) in [("/trpc/no.such", "cookie: a=b", 403), ("/v1/chat/completions", "x-none: x", 401)] {
        let mut client = process.connect().await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\n{header}\r\nexpect: 100-continue\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: 2\r\n\r\n"
        );
        client.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_and_a_schema_that_is_behind_are_said() {
    let db = TestDb::create().await;
    db.db.revert_all().await.unwrap();
    let mut process = Process::start(&db).await;
    let ready = process.get("/health/ready").await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("SCHEMA_BEHIND"), "{ready}");

    let mut environment = environment();
    environment.insert("DATABASE_URL".to_owned(), db.url());
    environment.insert("PORT".to_owned(), process.port.to_string());
    let folder = process.folder.with_extension("second");
    environment.insert("GATEWAY_JOURNAL_DIR".to_owned(), folder.display().to_string());
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_wopr-api")).args(arguments).env_clear().envs(&environment).output().unwrap()
    };
    let second = run(&["serve"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains(&format!("port {}", process.port)));
    std::fs::remove_dir_all(folder).unwrap();

    assert!(run(&["migrate"]).status.success());
    assert!(process.get("/health/ready").await.starts_with("HTTP/1.1 200"));
    process.terminate();
    assert!(process.ended().await.success());
}
