//! The program itself: kills, restarts, signals, settings, and what it tells a service manager and Prometheus.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

use tokio::sync::watch;
use wopr_core::protocol::gpu::{GpuService, ServiceState, Stage};

use crate::services::Mood;
use crate::support::{Bench, MASTER, PATIENCE, TempDir, find, http, secret, token};

struct Program {
    child: Child,
    lines: watch::Receiver<Vec<String>>,
}

fn command(bench: &Bench) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wopr-gpu-node"));
    command.env_clear().envs(&bench.environment);
    command
}

impl Program {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = watch::channel(Vec::new());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                sender.send_modify(|lines| lines.push(line));
            }
        });
        Self { child, lines }
    }

    async fn line(&self, part: &str) -> String {
        find(self.lines.clone(), part, |lines| lines.iter().find(|line| line.contains(part)).cloned()).await
    }

    async fn status_address(&self) -> String {
        self.line("status on ").await.split("status on ").nth(1).unwrap().trim().to_owned()
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    async fn ended(mut self) -> (Option<i32>, String) {
        let status = tokio::task::spawn_blocking(move || {
            let status = self.child.wait().unwrap();
            (status.code(), self.lines.borrow().join("\n"))
        });
        tokio::time::timeout(PATIENCE, status).await.unwrap().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[tokio::test]
async fn after_a_kill_it_goes_on_where_it_was() {
    let bench = Bench::new().await;
    bench.service(GpuService::Chatterbox).be(Mood::Loading);
    let program = Program::start(&mut command(&bench));
    bench.platform.until("registering", |seen| seen.stages().last() == Some(&Stage::Registering)).await;
    program.line("the platform knows that this node has done registering").await;
    program.signal("-KILL");
    assert_eq!(program.ended().await.0, None);
    bench.platform.change(|seen| seen.reports.clear());
    bench.service(GpuService::Chatterbox).be(Mood::Well);
    let program = Program::start(&mut command(&bench));
    bench.platform.until("done", |seen| seen.stages().last() == Some(&Stage::Done)).await;
    let first = bench.platform.look(|seen| seen.stages()[0]);
    assert!(first >= Stage::StartingServices, "it went back to {first}");
    bench.platform.until_state(GpuService::Chatterbox, ServiceState::Ready).await;
    program.signal("-TERM");
    let (code, said) = program.ended().await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("stopped") && !said.contains(&secret()) && !said.contains(&token()), "{said}");
}

#[tokio::test]
async fn a_service_manager_hears_of_the_start_of_life_and_of_the_end() {
    let bench = Bench::new().await;
    let folder = TempDir::new();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = command(&bench);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let program = Program::start(&mut command);
    let receive = |socket: &UnixDatagram| {
        let mut buffer = [0; 64];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    };
    let receive_off =
        async |socket: UnixDatagram| tokio::task::spawn_blocking(move || (receive(&socket), socket)).await.unwrap();
    let (first, socket) = receive_off(socket).await;
    assert_eq!(first, "READY=1\nSTATUS=watching");
    // Ready means that its port answers.
    let health = format!("http://{}/health", program.status_address().await);
    assert_eq!(http().get(health).send().await.unwrap().status(), 200);
    let (second, socket) = receive_off(socket).await;
    let (third, mut socket) = receive_off(socket).await;
    assert_eq!([second.as_str(), third.as_str()], ["WATCHDOG=1", "WATCHDOG=1"]);
    program.signal("-INT");
    loop {
        let (said, again) = receive_off(socket).await;
        socket = again;
        if said != "WATCHDOG=1" {
            assert_eq!(said, "STOPPING=1\nSTATUS=draining");
            break;
        }
    }
    assert_eq!(program.ended().await.0, Some(0));
}

#[tokio::test]
async fn metrics_and_health_are_served_and_the_subcommand_asks_them() {
    let mut bench = Bench::new().await;
    bench.set("HEARTBEAT_INTERVAL", "50ms");
    let program = Program::start(&mut command(&bench));
    let address = program.status_address().await;
    bench.platform.until("done", |seen| seen.stages().last() == Some(&Stage::Done)).await;
    let get = async |path: &str| http().get(format!("http://{address}{path}")).send().await.unwrap();
    let health: serde_json::Value = get("/health").await.json().await.unwrap();
    assert_eq!((&health["status"], &health["services"][0]["service"]), (&"ok".into(), &"llama".into()));
    assert_eq!(health["gpu"]["mode"], "cpu", "no driver where tests run: {health}");
    let text = get("/metrics").await.text().await.unwrap();
    for part in [
        "wopr_gpu_node_service_state{service=\"llama\",state=\"ready\"} 1",
        "wopr_gpu_node_service_state{service=\"llama\",state=\"dead\"} 0",
        "wopr_gpu_node_stage_reports_total{outcome=\"taken\"} 6",
        "wopr_gpu_node_heartbeats_total{outcome=\"taken\"}",
        "wopr_gpu_node_proof_seconds_bucket{service=\"qwen\",le=\"60\"}",
        "wopr_gpu_node_service_last_success_age_seconds{service=\"whisper\"}",
        "wopr_gpu_node_gpu_mode{mode=\"cpu\"} 1",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let port = address.rsplit(':').next().unwrap();
    let asked = |port: &str| command(&bench).env("STATUS_PORT", port).arg("health").output().unwrap();
    let well = asked(port);
    assert_eq!(well.status.code(), Some(0), "{}", String::from_utf8_lossy(&well.stderr));
    program.signal("-STOP");
    let stuck = asked(port);
    program.signal("-CONT");
    assert_eq!(stuck.status.code(), Some(1), "a daemon that stands still is not well");
    program.signal("-TERM");
    assert_eq!(program.ended().await.0, Some(0));
    assert_eq!(asked(port).status.code(), Some(1));
}

#[tokio::test]
async fn settings_are_checked_and_secrets_never_shown() {
    let mut bench = Bench::new().await;
    bench.environment.remove("GPU_NODE_SECRET");
    let file = bench.folder.path().join("shared-secret");
    std::fs::write(&file, format!("{MASTER}\n")).unwrap();
    bench.set("GPU_SHARED_SECRET_FILE", file.to_str().unwrap());
    let shown = command(&bench).arg("check-config").output().unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.status.success() && text.contains("GPU_SHARED_SECRET = ***") && !text.contains(MASTER), "{text}");
    // The shared secret is as good as the node's own.
    let program = Program::start(&mut command(&bench));
    bench.platform.until("a heartbeat", |seen| !seen.heartbeats.is_empty()).await;
    program.signal("-TERM");
    assert_eq!(program.ended().await.0, Some(0));

    let config = bench.folder.path().join("node.toml");
    std::fs::write(&config, "heartbeat_intervall = \"1s\"\n").unwrap();
    let refused = command(&bench).arg("--config").arg(&config).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("unknown key heartbeat_intervall; did you mean heartbeat_interval?"), "{said}");
    let taken = bench.platform.url().trim_end_matches('/').rsplit(':').next().unwrap().to_owned();
    let refused = command(&bench).env("STATUS_PORT", taken).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && said.contains("cannot listen on 127.0.0.1:"), "{said}");
}

#[tokio::test]
async fn a_script_can_report_a_stage_or_its_failure() {
    use crate::platform::Fate;
    let bench = Bench::new().await;
    bench.platform.change(|seen| seen.report_fates = [Fate::Refuse(503); 4].into());
    let report = async |args: &[&str]| {
        let mut command = command(&bench);
        command.arg("report").args(args);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = report(&["--stage", "installing_drivers", "--tries", "5"]).await;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = report(&["--stage", "downloading_models", "--failed", "checksum"]).await;
    assert_eq!(code, Some(0), "{said}");
    bench.platform.look(|seen| {
        assert_eq!((seen.reports_tried, seen.stages()), (6, vec![Stage::InstallingDrivers]));
        assert_eq!(seen.reports[1].1.message.as_deref(), Some("checksum"));
    });
    bench.platform.change(|seen| seen.report_fates = [Fate::Refuse(404)].into());
    let (code, said) = report(&["--stage", "done"]).await;
    assert!(code == Some(1) && said.contains("knows no node"), "{said}");
    let (code, said) = report(&["--stage", "creating"]).await;
    assert!(code == Some(2) && said.contains("not one of installing_drivers"), "{said}");
}
