use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::*;

const SHA: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn setup() -> Setup {
    Setup {
        platform_url: "https://api.wopr-staging.example/".parse().unwrap(),
        agent_image: format!("ghcr.io/wopr-network/wopr-gpu-node@sha256:{SHA}").parse().unwrap(),
        llama_model: ModelFile::new("https://models.example/llama-3.1-8b-q8_0.gguf", SHA).unwrap(),
        embeddings_model: ModelFile::new("https://models.example/qwen2-0_5b.gguf", SHA).unwrap(),
        whisper_model: "Systran/faster-whisper-small".parse().unwrap(),
        platform_networks: vec!["203.0.113.7/32".parse().unwrap(), "10.0.0.0/8".parse().unwrap()],
        registry: None,
    }
}

fn rendered() -> String {
    render(&setup(), &"gpu-0a1b2c3d".parse().unwrap(), &"token-of-birth".into()).expose_secret().to_owned()
}

#[test]
fn shell_metacharacters_are_refused_in_every_input() {
    for bad in [
        "$(id)", "`id`", "a;b", "a&b", "a|b", "a b", "a'b", "a\"b", "a\nb", "a\\b", "a>b", "a<b", "a*b", "a?b", "a#b",
        "${X}", "a\0b", "ä", "a\r", "a!b", "a(b)", "a{b}", "a[b]", "a~b", "a%b", "a=b", "",
    ] {
        assert!(bad.parse::<GpuNodeId>().is_err(), "node {bad:?}");
        assert!(format!("https://a{bad}").parse::<PlatformUrl>().is_err() || bad.is_empty(), "url {bad:?}");
        assert!(bad.parse::<PlatformUrl>().is_err(), "url {bad:?}");
        assert!(format!("a{bad}@sha256:{SHA}").parse::<AgentImage>().is_err() || bad.is_empty(), "image {bad:?}");
        assert!(format!("a@sha256:{bad}").parse::<AgentImage>().is_err(), "image {bad:?}");
        assert!(format!("a/{bad}").parse::<ModelName>().is_err() && format!("{bad}/a").parse::<ModelName>().is_err());
        assert!(ModelFile::new(&format!("https://a/{bad}b.gguf"), SHA).is_err() || bad.is_empty(), "model {bad:?}");
        assert!(ModelFile::new("https://a/b.gguf", bad).is_err(), "sum {bad:?}");
        assert!(bad.parse::<Network>().is_err(), "network {bad:?}");
        assert!(format!("10.0.0.0/{bad}").parse::<Network>().is_err(), "network {bad:?}");
    }
    for bad in ["ftp://a", "//a", "https://", "https:///x", "https://:80", "a"] {
        assert!(bad.parse::<PlatformUrl>().is_err(), "{bad:?}");
    }
    assert!(ModelFile::new("http://a/b.gguf", SHA).is_err(), "not over plain HTTP");
    assert!(ModelFile::new("https://a/b.gguf/", SHA).is_err() && ModelFile::new("https://a/b.bin", SHA).is_err());
    assert!("10.0.0.0/33".parse::<Network>().is_err() && "::/0".parse::<Network>().is_err());
    assert!("image:latest".parse::<AgentImage>().is_err(), "a tag is not what runs");
}

#[test]
fn a_host_may_have_hyphens_and_a_slash_at_the_end_goes() {
    let url: PlatformUrl = "https://api-eu.wopr.example:8443/base//".parse().unwrap();
    assert_eq!(url.as_str(), "https://api-eu.wopr.example:8443/base");
    assert_eq!("203.0.113.7".parse::<Network>().unwrap().as_str(), "203.0.113.7/32");
}

/// The files that a machine gets, by path, read back from the YAML.
fn files(text: &str) -> Vec<(String, String)> {
    use saphyr::LoadableYamlNode as _;
    let documents = saphyr::Yaml::load_from_str(text).unwrap();
    assert_eq!(documents.len(), 1);
    let document = &documents[0];
    let commands = document["runcmd"].as_sequence().unwrap();
    assert_eq!(commands.len(), 1);
    let entries = document["write_files"].as_sequence().unwrap();
    let text = |value: &saphyr::Yaml<'_>| value.as_str().unwrap().to_owned();
    entries.iter().map(|entry| (text(&entry["path"]), text(&entry["content"]))).collect()
}

#[test]
fn what_is_rendered_is_yaml_and_its_files_come_out_as_they_went_in() {
    let text = rendered();
    assert!(text.starts_with("#cloud-config\n"));
    let files = files(&text);
    let find = |path: &str| files.iter().find(|(name, _)| name == path).map(|(_, content)| content.as_str()).unwrap();
    assert_eq!(find("/opt/wopr-gpu/setup.sh"), SETUP_SCRIPT);
    assert_eq!(find("/opt/wopr-gpu/compose.yml"), COMPOSE_FILE);
    assert_eq!(find("/etc/systemd/system/wopr-gpu-setup.service"), UNIT);
    assert_eq!(find("/etc/wopr-gpu/birth"), "Authorization: Bearer token-of-birth\n");
    insta::assert_snapshot!(find("/etc/wopr-gpu/settings"));
    assert_eq!(files.len(), 5);
    assert_eq!(text.matches("token-of-birth").count(), 1);
    // The provider takes 64 KiB of user data.
    assert!(text.len() < 64 * 1024, "{} bytes", text.len());
}

#[test]
fn all_four_services_are_defined_and_none_but_the_daemon_is_published() {
    use saphyr::LoadableYamlNode as _;
    let documents = saphyr::Yaml::load_from_str(COMPOSE_FILE).unwrap();
    let services = documents[0]["services"].as_mapping().unwrap();
    let mut published = Vec::new();
    for (name, service) in services {
        if let Some(ports) = service.as_mapping_get("ports") {
            published.push((name.as_str().unwrap(), ports.as_sequence().unwrap()[0].as_str().unwrap()));
        }
    }
    assert_eq!(published, [("gpu-node", "8080-8083:8080-8083")]);
    let names: Vec<_> = services.keys().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(names, ["llama-cpp", "qwen-embeddings", "chatterbox", "whisper", "gpu-node"]);
    assert!(!COMPOSE_FILE.contains(":latest") && !COMPOSE_FILE.contains("ggerganov"));
}

/// A machine made of a folder and of commands that only write down what they were asked.
struct Bench {
    root: PathBuf,
}

const COMMANDS: [&str; 11] = [
    "apt-get",
    "curl",
    "docker",
    "gpg",
    "ip6tables",
    "iptables",
    "nvidia-ctk",
    "nvidia-smi",
    "sha256sum",
    "sleep",
    "systemctl",
];

impl Bench {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("wopr-gpu-{name}-{}", std::process::id()));
        let _absent = std::fs::remove_dir_all(&root);
        for (path, content) in files(&rendered()) {
            let path = root.join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let bench = Self { root };
        for command in COMMANDS {
            bench.stub(command, "");
        }
        let born = format!(
            r#"case "$*" in *bootstrap*) echo '{{"success":true,"nodeSecret":"{SHA}"}}';; esac
             while [ $# -gt 0 ]; do [ "$1" = -o ] && echo model >"$2"; shift; done; exit 0"#
        );
        bench.stub("curl", &born);
        bench.stub("docker", r#"case "$*" in *DefaultRuntime*) echo nvidia;; esac"#);
        bench
    }

    /// Puts a command in the place of the real one.
    fn stub(&self, name: &str, then: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.root.join("bin").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let log = self.root.join("log");
        std::fs::write(&path, format!("#!/bin/sh\necho {name} \"$@\" >>{}\n{then}\n", log.display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.root.join("bin").display());
        let script = self.root.join("opt/wopr-gpu/setup.sh");
        let mut command = Command::new("sh");
        command.arg(script).env_clear().env("PATH", path).env("WOPR_GPU_ROOT", &self.root);
        command.output().unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.root.join("log")).unwrap()
    }

    /// What the platform was told: stages, with what went wrong.
    fn told(&self) -> Vec<String> {
        let told = |line: &str| {
            let stage = line.split_once("?stage=")?.1;
            let message = line.split_once("\"message\":\"").map(|(_, rest)| rest.split('"').next().unwrap_or_default());
            Some(message.map_or_else(|| stage.to_owned(), |message| format!("{stage} failed: {message}")))
        };
        self.log().lines().filter_map(told).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.root);
    }
}

fn script_is_sound(path: &Path) {
    let checked = Command::new("sh").arg("-n").arg(path).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn the_script_reports_its_stages_in_order_with_the_secret_of_its_own() {
    let bench = Bench::new("order");
    script_is_sound(&bench.root.join("opt/wopr-gpu/setup.sh"));
    let output = bench.run();
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), bench.log());
    let stages = ["installing_drivers", "installing_docker", "downloading_models", "starting_services"];
    assert_eq!(bench.told(), stages);
    let log = bench.log();
    assert!(log.contains("https://api.wopr-staging.example/internal/gpu/register?stage=installing_drivers"), "{log}");
    assert!(log.contains(r#"{"nodeId":"gpu-0a1b2c3d","ok":true}"#), "{log}");
    // Secrets are never arguments, which everybody on the machine can see.
    assert!(!log.contains(SHA) && !log.contains("token-of-birth"), "{log}");
    let read = |path: &str| std::fs::read_to_string(bench.root.join(path));
    assert_eq!(read("etc/wopr-gpu/authorization").unwrap(), format!("Authorization: Bearer {SHA}\n"));
    assert_eq!(read("etc/wopr-gpu/node-secret").unwrap(), SHA);
    assert!(read("etc/wopr-gpu/birth").is_err(), "the token of birth is thrown away");
    assert!(log.contains("iptables -A WOPR-GPU -s 203.0.113.7/32 -j RETURN"), "{log}");
    let (drop, llama) = (log.find("WOPR-GPU -j DROP").unwrap(), log.find("compose --env-file").unwrap());
    assert!(drop < llama, "the ports are closed before anything listens on them");
}

#[test]
fn the_script_may_run_again_and_then_asks_for_no_second_secret() {
    let bench = Bench::new("again");
    assert!(bench.run().status.success());
    assert!(bench.run().status.success());
    assert_eq!(bench.told().len(), 8);
    assert_eq!(bench.log().matches("internal/gpu/bootstrap").count(), 1);
}

#[test]
fn a_step_that_fails_is_reported_with_its_reason_and_ends_it() {
    let bench = Bench::new("failing");
    bench.stub("sha256sum", "exit 1");
    assert!(!bench.run().status.success());
    let wrong = "downloading_models failed: llama-3.1-8b-q8_0.gguf is not the file that was wanted";
    assert_eq!(bench.told(), ["installing_drivers", "installing_docker", wrong]);
    assert!(!bench.log().contains("up -d"), "{}", bench.log());

    bench.stub("docker", r#"case "$*" in *DefaultRuntime*) echo nvidia;; *run*) exit 1;; esac"#);
    assert!(!bench.run().status.success());
    let last = bench.told().pop().unwrap();
    assert_eq!(last, "installing_docker failed: no container can see the card");

    bench.stub("systemctl", "exit 7");
    assert!(!bench.run().status.success());
    assert_eq!(bench.told().pop().unwrap(), "installing_docker failed: a command failed with status 7");
}

#[test]
fn a_missing_driver_is_installed_once_and_the_machine_restarted() {
    let bench = Bench::new("driver");
    bench.stub("nvidia-smi", "exit 9");
    let output = bench.run();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(bench.log().contains("apt-get install -qy nvidia-driver-535-server"), "{}", bench.log());
    assert!(bench.log().contains("systemctl reboot"));
    assert_eq!(bench.told(), Vec::<String>::new());
    assert!(!bench.run().status.success());
    assert_eq!(bench.told(), ["installing_drivers failed: the driver is installed and finds no card"]);
}

#[test]
fn the_platform_is_told_again_until_it_listens() {
    let bench = Bench::new("deaf");
    let answers = format!(
        r#"case "$*" in
             *bootstrap*) echo '{{"nodeSecret":"{SHA}"}}';;
             *register*) [ -e {root}/listens ] && exit 0; [ -e {root}/heard ] && touch {root}/listens; touch {root}/heard; exit 22;;
           esac
           while [ $# -gt 0 ]; do [ "$1" = -o ] && echo model >"$2"; shift; done; exit 0"#,
        root = bench.root.display()
    );
    bench.stub("curl", &answers);
    assert!(bench.run().status.success());
    let drivers = bench.told().iter().filter(|stage| *stage == "installing_drivers").count();
    assert_eq!((drivers, bench.told().len()), (3, 6));
    assert!(bench.log().contains("sleep 2\n") && bench.log().contains("sleep 4\n"));
}
