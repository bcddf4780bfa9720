use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use secrecy::ExposeSecret;
use wopr_api::config::{Config, Environment, Layer, Sources};
use wopr_core::auth::Scope;

use crate::app::environment;

const TENANT: &str = "0190c6a7b5e77c0a9d3c2b1a00112233";

fn with(changes: &[(&str, &str)]) -> Sources {
    let mut environment = environment();
    environment.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Sources { environment, ..Sources::default() }
}

fn production(changes: &[(&str, &str)]) -> Sources {
    let mut sources = with(&[
        ("WOPR_ENVIRONMENT", "production"),
        ("BETTER_AUTH_URL", "https://api.example.com"),
        ("UI_ORIGIN", "https://app.example.com"),
        ("TRUSTED_PROXY_IPS", "none"),
    ]);
    sources.environment.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    sources
}

/// The one thing that is wrong.
fn error(sources: &Sources) -> String {
    let errors = Config::load(sources).unwrap_err().0;
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].clone()
}

#[test]
fn jobs_may_reach_the_database_elsewhere_and_the_url_is_never_shown() {
    let store: Vec<(&str, &str)> = crate::backup::STORE.into();
    let url_of = |url: &'static str| with(&[&store[..], &[("BACKUP_DATABASE_URL", url)]].concat());
    let config = Config::load(&with(&store)).unwrap();
    assert!(config.backup.unwrap().database_url.is_none(), "it is DATABASE_URL");
    let config = Config::load(&url_of("postgres://wopr:hidden@postgres:5432/wopr")).unwrap();
    assert!(config.backup.unwrap().database_url.is_some());
    for wrong in ["postgres:5432", "postgres://hidden", "postgres://wopr:hidden@postgres", "postgres://a:hidden@b,c/d"]
    {
        let error = error(&url_of(wrong));
        assert!(error.contains("BACKUP_DATABASE_URL") && !error.contains("hidden"), "{error}");
    }
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let file = |text: &str| Some((PathBuf::from("wopr.toml"), text.to_owned()));
    let mut sources = with(&[]);
    let port = |sources: &Sources| {
        let config = Config::load(sources).unwrap();
        let setting = config.settings().iter().find(|setting| setting.name == "PORT").unwrap().clone();
        (config.port, setting.layer)
    };
    assert_eq!(port(&sources), (3100, Layer::Default));
    sources.file = file("port = 4000");
    assert_eq!(port(&sources), (4000, Layer::File));
    sources.environment.insert("PORT".to_owned(), String::new());
    assert_eq!(port(&sources), (4000, Layer::File), "empty is unset");
    sources.environment.insert("PORT".to_owned(), "5000".to_owned());
    assert_eq!(port(&sources), (5000, Layer::Environment));
    sources.flags.insert("PORT".to_owned(), "6000".to_owned());
    assert_eq!(port(&sources), (6000, Layer::Flag));
}

#[test]
fn the_file_has_types_lists_and_tokens() {
    let text = format!(
        "ui_origin = [\"http://localhost:1\", \"http://localhost:2\"]\nrequire_verified_email = true\n\
         [fleet_tokens]\n{TENANT} = \"read:a-long-enough-token\"\n"
    );
    let mut sources = with(&[]);
    sources.environment.remove("UI_ORIGIN");
    sources.file = Some((PathBuf::from("wopr.toml"), text));
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.ui_origins, ["http://localhost:1", "http://localhost:2"]);
    assert!(config.require_verified_email);
    assert_eq!(config.trusted_origins, ["http://localhost:1", "http://localhost:2", "http://localhost:3100"]);
    assert_eq!(config.ui_url, "http://localhost:1");
    let token = &config.operator_tokens[0];
    assert_eq!((token.scope, token.tenant_id.unwrap().to_string()), (Scope::Read, TENANT.to_owned()));
}

#[test]
fn a_misspelt_key_is_refused_with_the_nearest_one() {
    let table = [
        ("STRIPE_SECRET_KYE", "STRIPE_SECRET_KEY"),
        ("STRIPE_WEBHOOK_SECRETS", "STRIPE_WEBHOOK_SECRET"),
        ("BETTER_AUTH_URI", "BETTER_AUTH_URL"),
        ("FLEET_API_TOKEN_WRTE", "FLEET_API_TOKEN_WRITE"),
        ("TRUSTED_PROXY_IP", "TRUSTED_PROXY_IPS"),
        ("WOPR_ENVIROMENT", "WOPR_ENVIRONMENT"),
        ("PLATFORM_UI_URI", "PLATFORM_UI_URL"),
        ("REGISTRY_USER", "REGISTRY_USERNAME"),
        ("SMTP_URI", "SMTP_URL"),
    ];
    for (wrong, right) in table {
        let message = error(&with(&[(wrong, "x")]));
        assert!(message.contains(wrong) && message.ends_with(&format!("did you mean {right}?")), "{message}");
    }
    let mut sources = with(&[("WOPR_TEST_DATABASE_URL", "x"), ("HOME", "/root"), ("DOCKER_CERT_PATH", "x")]);
    Config::load(&sources).unwrap();
    sources.file = Some((PathBuf::from("wopr.toml"), "potr = 1".to_owned()));
    assert_eq!(error(&sources), "wopr.toml: unknown key potr; did you mean port?");
}

#[test]
fn malformed_values_are_refused() {
    let table = [
        ("PORT", "-1"),
        ("REQUEST_TIMEOUT_SECONDS", "0"),
        ("SIGN_UPS_PER_HOUR", "0"),
        ("PORT", "80a"),
        ("PORT", "70000"),
        ("LOG_FORMAT", "JSON"),
        ("LOG_LEVEL", "wopr=loud"),
        ("REQUIRE_VERIFIED_EMAIL", "yes"),
        ("REQUIRE_VERIFIED_EMAIL", "TRUE"),
        ("WOPR_ENVIRONMENT", "prod"),
        ("UI_ORIGIN", "localhost:3000"),
        ("UI_ORIGIN", "http://localhost:3000/path"),
        ("UI_ORIGIN", "http://localhost:3000,*"),
        ("UI_ORIGIN", ","),
        ("BETTER_AUTH_URL", "ftp://example.com"),
        ("BETTER_AUTH_URL", "api.example.com"),
        ("COOKIE_DOMAIN", "a b"),
        ("COOKIE_DOMAIN", ".example.com; HttpOnly"),
        ("TRUSTED_PROXY_IPS", "10.0.0.0/33"),
        ("TRUSTED_PROXY_IPS", "proxy"),
        ("DATABASE_MAX_CONNECTIONS", "1"),
        ("MAIL_FROM", "nobody"),
        ("SMTP_URL", "mail.example.com"),
        ("PLATFORM_ADMIN_EMAIL", "@"),
        ("FLEET_API_TOKEN", "short"),
        ("FLEET_TOKEN_0190c6a7b5e77c0a9d3c2b1a00112233", "a-token-without-a-scope"),
        ("FLEET_TOKEN_0190c6a7b5e77c0a9d3c2b1a00112233", "root:a-long-enough-token"),
        ("FLEET_TOKEN_nobody", "read:a-long-enough-token"),
        ("REGISTRY_USERNAME", "someone"),
        ("STRIPE_SECRET_KEY", "sk_test_1"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_1"),
    ];
    for (name, value) in table {
        let message = error(&with(&[(name, value)]));
        assert!(message.contains(name.split("_0190").next().unwrap()), "{name}={value}: {message}");
    }
}

#[test]
fn secrets_are_long_real_and_never_shown() {
    for name in ["PLATFORM_SECRET", "BETTER_AUTH_SECRET"] {
        assert!(error(&with(&[(name, "")])).contains("is missing"));
        assert!(error(&with(&[(name, "too-short")])).contains("at least 32"));
        assert!(error(&with(&[(name, "change-me-please-change-me-please-1234")])).contains("placeholder"));
        assert!(error(&with(&[(name, &"ab".repeat(20))])).contains("placeholder"));
    }
    let (new, old) = ("fedcba9876543210fedcba9876543210-new", "0123456789abcdef0123456789abcdef-old");
    let config = Config::load(&with(&[("BETTER_AUTH_SECRET", &format!("{new}, {old}"))])).unwrap();
    let ring: Vec<&str> = config.auth_secrets.iter().map(ExposeSecret::expose_secret).collect();
    assert_eq!(ring, [new, old], "newest first");
    assert!(error(&with(&[("BETTER_AUTH_SECRET", &format!("{new},short"))])).contains("at least 32"));

    let shown = format!("{:?} {config:?}", config.settings());
    assert!(!shown.contains(new) && !shown.contains(old) && !shown.contains("postgres://"), "{shown}");
}

#[test]
fn a_secret_can_come_from_a_file() {
    let directory = std::env::temp_dir().join(format!("wopr-config-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("secret");
    std::fs::write(&path, "fedcba9876543210fedcba9876543210-file\n").unwrap();
    let path = path.to_str().unwrap();

    let mut sources = with(&[("PLATFORM_SECRET_FILE", path)]);
    assert!(error(&sources).contains("both set"));
    sources.environment.remove("PLATFORM_SECRET");
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.platform_secrets[0].expose_secret(), "fedcba9876543210fedcba9876543210-file");
    let setting = config.settings().iter().find(|setting| setting.name == "PLATFORM_SECRET").unwrap();
    assert_eq!((setting.shown.as_deref(), setting.layer), (Some("***"), Layer::SecretFile));

    sources.environment.insert("PLATFORM_SECRET_FILE".to_owned(), format!("{path}-absent"));
    let errors = Config::load(&sources).unwrap_err().0;
    assert!(errors.iter().any(|error| error.contains("cannot be read")), "{errors:?}");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn production_refuses_what_only_a_workbench_needs() {
    assert_eq!(Config::load(&production(&[])).unwrap().environment, Environment::Production);
    assert!(error(&production(&[("BETTER_AUTH_URL", "http://api.example.com")])).contains("https"));
    assert!(error(&production(&[("UI_ORIGIN", "http://app.example.com")])).contains("https"));
    let mut unsaid = production(&[]);
    unsaid.environment.remove("TRUSTED_PROXY_IPS");
    assert!(error(&unsaid).contains("TRUSTED_PROXY_IPS is missing"));
    assert_eq!(Config::load(&production(&[])).unwrap().trusted_proxies, []);
    let stripe = [("STRIPE_SECRET_KEY", "sk_live_1"), ("STRIPE_WEBHOOK_SECRET", "whsec_1")];
    Config::load(&production(&stripe)).unwrap();
    let mut pointed = stripe.to_vec();
    pointed.push(("STRIPE_API_BASE", "https://stripe.example.com"));
    assert!(error(&production(&pointed)).contains("STRIPE_API_BASE"));
    pointed[2] = ("STRIPE_API_BASE", "https://api.stripe.com.example.com/");
    assert!(error(&production(&pointed)).contains("STRIPE_API_BASE"));
    pointed[2] = ("STRIPE_API_BASE", "http://stripe:12111");
    Config::load(&with(&pointed)).unwrap();
}

#[test]
fn the_cookie_stays_with_the_host_on_localhost() {
    assert_eq!(Config::load(&with(&[])).unwrap().cookie_domain, None);
    assert_eq!(Config::load(&with(&[("COOKIE_DOMAIN", "localhost")])).unwrap().cookie_domain, None);
    let config = Config::load(&with(&[("COOKIE_DOMAIN", ".example.com")])).unwrap();
    assert_eq!(config.cookie_domain.as_deref(), Some(".example.com"));
}

#[test]
fn gpu_nodes_are_optional_and_half_a_configuration_for_machines_is_said() {
    let config = Config::load(&with(&[])).unwrap();
    assert!(config.gpu.masters.is_empty() && config.gpu.cloud.is_none());
    assert!(config.gpu.provisioning.unwrap_err().contains(&"GPU_AGENT_IMAGE"));

    let sum = "0123456789abcdef".repeat(4);
    let image = format!("ghcr.io/wopr-network/wopr-gpu-node@sha256:{sum}");
    let whole = [
        ("GPU_NODE_SECRET", "0123456789abcdef0123456789abcdef-new,0123456789abcdef0123456789abcdef-old"),
        ("GPU_AGENT_IMAGE", &image),
        ("GPU_LLAMA_MODEL_URL", "https://models.example/llama.gguf"),
        ("GPU_LLAMA_MODEL_SHA256", &sum),
        ("GPU_EMBEDDINGS_MODEL_URL", "https://models.example/qwen.gguf"),
        ("GPU_EMBEDDINGS_MODEL_SHA256", &sum),
        ("GPU_PLATFORM_NETWORKS", "203.0.113.7, 10.0.0.0/8"),
        ("PLATFORM_URL", "https://api-eu.example.com/"),
    ];
    let machines = Config::load(&with(&whole)).unwrap().gpu.provisioning.unwrap();
    assert_eq!(machines.setup.platform_url.as_str(), "https://api-eu.example.com");
    assert_eq!((machines.default_region.as_str(), machines.default_size.as_str()), ("nyc1", "gpu-h100x1-80gb"));
    for (name, value) in [
        ("GPU_NODE_SECRET", "short"),
        ("GPU_AGENT_IMAGE", "ghcr.io/wopr-network/wopr-gpu-node:latest"),
        ("GPU_LLAMA_MODEL_URL", "https://models.example/$(id).gguf"),
        ("GPU_EMBEDDINGS_MODEL_SHA256", "0123"),
        ("GPU_EMBEDDINGS_MODEL_SHA256", ""),
        ("GPU_PLATFORM_NETWORKS", "everywhere"),
        ("GPU_WHISPER_MODEL", "whisper"),
        ("PLATFORM_URL", "https://api.example.com/a b"),
        ("PLATFORM_URL", "https://api.example.com/a_b"),
        ("DO_GPU_DEFAULT_REGION", "nyc1;reboot"),
        ("DO_SSH_KEY_ID", "a b"),
        ("GPU_NODE_SECRETS", "0123456789abcdef0123456789abcdef"),
    ] {
        let mut sources = with(&whole);
        sources.environment.insert(name.to_owned(), value.to_owned());
        let said = error(&sources);
        assert!(said.contains(name) && !said.contains("abcdef-new"), "{name}: {said}");
    }
    let elsewhere = [("DO_API_TOKEN", "dop_v1_1"), ("DO_API_BASE", "https://do.example.com")];
    assert!(error(&production(&elsewhere)).contains("DO_API_BASE"));
    assert!(Config::load(&with(&elsewhere)).unwrap().gpu.cloud.is_some());
    // Somebody else's variable that begins alike.
    Config::load(&with(&[("DO_NOT_TRACK", "1")])).unwrap();
}

#[test]
fn the_program_says_everything_that_is_wrong_at_once() {
    let run = |environment: &BTreeMap<String, String>, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wopr-api"));
        let output = command.args(arguments).env_clear().envs(environment).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let good = run(&environment(), &["check-config", "--port", "4711"]);
    assert_eq!(good.0, Some(0), "{}", good.2);
    assert!(good.1.contains("PORT = 4711  # flag") && good.1.contains("PLATFORM_SECRET = ***  # environment"));
    assert!(!good.1.contains("0123456789abcdef"), "{}", good.1);

    let mut wrong = environment();
    wrong.insert("PORT".to_owned(), "x".to_owned());
    wrong.insert("STRIPE_KEY".to_owned(), "sk_live_hunter2".to_owned());
    wrong.remove("DATABASE_URL");
    for arguments in [&["check-config"][..], &[], &["serve"], &["migrate"]] {
        let bad = run(&wrong, arguments);
        assert_eq!(bad.0, Some(2), "{arguments:?}");
        for name in ["PORT", "STRIPE_KEY", "DATABASE_URL is missing"] {
            assert!(bad.2.contains(name), "{}", bad.2);
        }
        assert!(!bad.2.contains("hunter2"));
    }
    assert_eq!(run(&environment(), &["--config", "/no/such/file", "check-config"]).0, Some(2));
    let openapi = run(&BTreeMap::new(), &["openapi"]);
    let openapi: serde_json::Value = serde_json::from_str(&openapi.1).unwrap();
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(run(&BTreeMap::new(), &["routes"]).1.contains("settings.health"));
}

#[test]
fn the_networks_of_tenants_are_private_and_part_of_their_range() {
    let config = Config::load(&with(&[])).unwrap();
    assert_eq!(config.tenant_networks, wopr_core::fleet::NetworkRange::default());
    let config = Config::load(&with(&[("FLEET_NETWORK_RANGE", "172.20.0.0/14"), ("FLEET_NETWORK_PREFIX", "28")]));
    assert_eq!(config.unwrap().tenant_networks.count(), 16_384);
    let table = [
        ("8.8.0.0/16", "26", "private"),
        ("10.1.0.0/8", "26", "host bits"),
        ("10.0.0.0/24", "20", "part of the range"),
        ("10.0.0.0", "26", "FLEET_NETWORK_RANGE"),
    ];
    for (range, prefix, wanted) in table {
        let message = error(&with(&[("FLEET_NETWORK_RANGE", range), ("FLEET_NETWORK_PREFIX", prefix)]));
        assert!(message.contains(wanted), "{range}: {message}");
    }
}

#[test]
fn bots_are_reached_from_outside_below_a_domain_of_their_own() {
    let all = [("BOT_DOMAIN", "bots.example"), ("PROXY_CONTAINER", "caddy")];
    assert_eq!(Config::load(&with(&[])).unwrap().proxy, None);
    let on = Config::load(&with(&all)).unwrap().proxy.unwrap();
    assert_eq!((on.domain.as_str(), on.container.as_str()), ("bots.example", "caddy"));
    for only in all {
        assert!(error(&with(&[only])).contains("go together"), "{only:?}");
    }
    let ours = [("UI_ORIGIN", "https://app.wopr.example"), ("COOKIE_DOMAIN", ".cookies.example")];
    for domain in ["https://x.example", "wopr.example", "x.app.wopr.example", "x.cookies.example", "example"] {
        let changed = [("BOT_DOMAIN", domain), all[1], ours[0], ours[1]];
        assert!(error(&with(&changed)).contains("BOT_DOMAIN"), "{domain}");
    }
    assert!(Config::load(&with(&[("BOT_DOMAIN", "localhost"), all[1]])).is_ok());
}

#[test]
fn backups_are_on_as_a_whole_or_not_at_all() {
    const SECRET: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let key = format!("2026:{SECRET}");
    let all = [
        ("S3_BUCKET", "backups"),
        ("DO_SPACES_ACCESS_KEY", "access"),
        ("DO_SPACES_SECRET_KEY", "a-secret-of-the-object-store"),
        ("BACKUP_ENCRYPTION_KEY", &key),
    ];
    assert!(Config::load(&with(&[])).unwrap().backup.is_none());
    let on = Config::load(&with(&all)).unwrap().backup.unwrap();
    assert_eq!((on.endpoint.as_str(), on.bucket.as_str()), ("https://nyc3.digitaloceanspaces.com", "backups"));
    for (left_out, _) in all {
        let rest: Vec<_> = all.into_iter().filter(|(name, _)| *name != left_out).collect();
        assert!(error(&with(&rest)).contains(left_out), "{left_out}");
    }
    let short = format!("2026:{}", &SECRET[..16]);
    let twice = format!("{key},{key}");
    for (ring, says) in [
        (SECRET, "name:secret"),
        (&short, "less than 32 bytes"),
        (&twice, "two keys named 2026"),
        ("a b:x", "whose name"),
    ] {
        let mut changed = all;
        changed[3].1 = ring;
        let errors = Config::load(&with(&changed)).unwrap_err().0;
        assert!(errors.iter().any(|error| error.contains(says)), "{ring}: {errors:?}");
        assert!(!errors.iter().any(|error| error.contains(SECRET)), "a secret is told: {errors:?}");
    }
}
