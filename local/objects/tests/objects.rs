//! The object store as a client sees it, against the real program, with signatures made by hand.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic as the test may")]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{Method, Response};
use sha2::{Digest as _, Sha256};

const ACCESS: &str = "local";
const KEY: &str = "a key for tests";

struct Server {
    child: Child,
    address: String,
    tls_address: String,
    data: PathBuf,
}

impl Server {
    fn start() -> Self {
        let data = std::env::temp_dir().join(format!("wopr-objects-{}", hex::encode(rand::random::<[u8; 8]>())));
        std::fs::create_dir(&data).unwrap();
        let key_file = data.join("key");
        std::fs::write(&key_file, format!("{KEY}\n")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_wopr-objects"))
            .env("HOST", "127.0.0.1")
            .env("PORT", "0")
            .env("OBJECTS_TLS_PORT", "0")
            .env("OBJECTS_DATA_DIR", data.join("volume"))
            .env("OBJECTS_BUCKETS", "backups,exports")
            .env("OBJECTS_ACCESS_KEY", ACCESS)
            .env("OBJECTS_SECRET_KEY_FILE", &key_file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = |scheme: &str| lines.next().unwrap().unwrap().split(scheme).nth(1).unwrap().to_owned();
        let (address, tls_address) = (next("http://"), next("https://"));
        Self { child, address, tls_address, data }
    }

    /// Signs as in <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        key: &str,
        body: &[u8],
        header: Option<(&'static str, &str)>,
    ) -> Response {
        // Already installed when another test was first.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        #[expect(clippy::disallowed_methods, reason = "the server compares with its own clock")]
        let now = jiff::Timestamp::now();
        let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let day = &time[..8];
        let (path_only, query) = path.split_once('?').unwrap_or((path, ""));
        let content = hex::encode(Sha256::digest(body));
        let signed = "host;x-amz-content-sha256;x-amz-date";
        let headers = format!("host:{}\nx-amz-content-sha256:{content}\nx-amz-date:{time}\n", self.address);
        let canonical = format!("{method}\n{path_only}\n{query}\n{headers}\n{signed}\n{content}");
        let scope = format!("{day}/us-east-1/s3/aws4_request");
        let digest = hex::encode(Sha256::digest(canonical));
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}");
        let mac = |key: &[u8], text: &str| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
            mac.update(text.as_bytes());
            mac.finalize().into_bytes().to_vec()
        };
        let first = mac(format!("AWS4{key}").as_bytes(), day);
        let signing = ["us-east-1", "s3", "aws4_request"].iter().fold(first, |key, part| mac(&key, part));
        let signature = hex::encode(mac(&signing, &text));
        let credential = format!("Credential={ACCESS}/{scope}, SignedHeaders={signed}, Signature={signature}");
        let mut request = reqwest::Client::new()
            .request(method, format!("http://{}{path}", self.address))
            .header("x-amz-content-sha256", content)
            .header("x-amz-date", time)
            .header("authorization", format!("AWS4-HMAC-SHA256 {credential}"))
            .body(body.to_vec());
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        request.send().await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended when a test has failed early, and then there is nothing to kill.
        let _killed = self.child.kill();
        let _waited = self.child.wait();
        let _removed = std::fs::remove_dir_all(&self.data);
    }
}

#[tokio::test]
async fn objects_come_back_and_only_to_who_signs() {
    let server = Server::start();
    let path = "/backups/tenant/one.tar";
    let put = server.ask(Method::PUT, path, KEY, b"0123456789", None).await;
    assert_eq!(put.status(), 200, "{}", put.text().await.unwrap());
    let got = server.ask(Method::GET, path, KEY, b"", None).await;
    assert_eq!(got.bytes().await.unwrap().as_ref(), b"0123456789");
    let part = server.ask(Method::GET, path, KEY, b"", Some(("range", "bytes=2-4"))).await;
    assert_eq!((part.status().as_u16(), part.text().await.unwrap()), (206, "234".to_owned()));
    let listed = server.ask(Method::GET, "/backups?list-type=2&prefix=tenant%2F", KEY, b"", None).await;
    assert!(listed.text().await.unwrap().contains("<Key>tenant/one.tar</Key>"));

    for method in [Method::GET, Method::HEAD] {
        let prefix = server.ask(method.clone(), "/backups/tenant", KEY, b"", None).await;
        assert_eq!(prefix.status(), 404, "{method}: what keys begin with is no object");
        let unknown = server.ask(method, "/backups/tenant", "another key", b"", None).await;
        assert_eq!(unknown.status(), 403);
    }

    assert_eq!(server.ask(Method::GET, path, "another key", b"", None).await.status(), 403);
    let unsigned = reqwest::get(format!("http://{}{path}", server.address)).await.unwrap();
    assert_eq!(unsigned.status(), 403);
    assert_eq!(server.ask(Method::GET, "/backups/absent", KEY, b"", None).await.status(), 404);
    // Unlike S3, which would refuse.
    assert_eq!(server.ask(Method::PUT, "/unknown-bucket/one", KEY, b"1", None).await.status(), 200);
    assert_eq!(server.ask(Method::DELETE, path, KEY, b"", None).await.status(), 204);
    assert_eq!(server.ask(Method::GET, path, KEY, b"", None).await.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_create_the_same_object_one_succeeds() {
    let server = Server::start();
    for round in 0..20 {
        let path = format!("/backups/lock-{round}");
        let bodies: Vec<_> = (b'a'..b'i').map(|who| vec![who; 100_000]).collect();
        let create = async |body: &Vec<u8>| {
            let created = server.ask(Method::PUT, &path, KEY, body, Some(("if-none-match", "*"))).await;
            created.status().as_u16()
        };
        let statuses = futures_util::future::join_all(bodies.iter().map(create)).await;
        let created: Vec<_> = std::iter::zip(&bodies, &statuses).filter(|(_, status)| **status == 200).collect();
        let [(body, _)] = created[..] else { panic!("round {round}: {statuses:?}") };
        assert!(statuses.iter().all(|status| [200, 412].contains(status)), "round {round}: {statuses:?}");
        let found = server.ask(Method::GET, &path, KEY, b"", None).await.bytes().await.unwrap();
        assert!(found == *body, "round {round}: what is there is not the winner's");
    }
}

#[tokio::test]
async fn health_needs_no_signature_and_sees_a_lost_volume() {
    let server = Server::start();
    let health = async || reqwest::get(format!("http://{}/-/health", server.address)).await.unwrap().status().as_u16();
    // Already installed when another test was first.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    assert_eq!(health().await, 200);
    std::fs::rename(server.data.join("volume"), server.data.join("elsewhere")).unwrap();
    assert_eq!(health().await, 503);
}

#[tokio::test]
async fn it_speaks_tls_too_with_a_certificate_that_nobody_can_trust() {
    let server = Server::start();
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let health = format!("https://{}/-/health", server.tls_address);
    let refused = reqwest::Client::new().get(&health).send().await.unwrap_err();
    assert!(refused.is_connect(), "{refused:?}");
    let trusting = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
    let answer = trusting.get(&health).send().await.unwrap();
    assert_eq!(
        (answer.status(), answer.text().await.unwrap().as_str()),
        (reqwest::StatusCode::OK, r#"{"status":"ok"}"#)
    );
}
