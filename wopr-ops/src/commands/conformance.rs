//! `conformance`: official clients, in their own languages, against our servers.
//!
//! A suite is a directory below `local/conformance` (against the Stripe stand-in) or `features/conformance` (against
//! the API of the stack), or that directory itself. It has a `package.json`, whose script `conformance` is run under
//! Node, or a `requirements.txt`, next to which every `*.py` is run under Python. Suites find what they talk to in the
//! environment: [`API_URL`] and `STRIPE_WEBHOOK_SECRET`, or [`STANDIN_URL`] and `STRIPE_SECRET_KEY`. Those in
//! [`MODELS`] find [`SERVICE_KEY`] besides.

use std::{
    collections::HashMap,
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::process::{Child, Command};

use crate::{
    apt,
    cli::ConformanceArgs,
    clock::unix_seconds,
    engine::find_program,
    failure::{Exit, Failure},
    happy_path::Customer,
    images::{
        binaries::{self, Profile},
        recipes::STRIPE,
    },
    paths::Paths,
    ui::Ui,
};

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &ConformanceArgs) -> anyhow::Result<()> {
    let _lock = super::lock(paths)?;
    let built = binaries::compile(ui, paths, &[STRIPE.source()], Profile::Dev).await?;
    let programs = built.into_iter().map(|(name, built)| (name.to_owned(), built.executable));
    suites(ui, paths, args, &programs.collect()).await
}

/// Where a suite finds the API.
const API_URL: &str = "WOPR_API_URL";
/// The suites that ask models.
const MODELS: &str = "features/conformance/models";
/// A key that asks models, of a customer who has paid [`PAID_CENTS`].
const SERVICE_KEY: &str = "WOPR_SERVICE_KEY";
/// Enough for all of them.
const PAID_CENTS: i64 = 500;
/// Where a suite finds the Stripe stand-in.
const STANDIN_URL: &str = "STRIPE_STANDIN_URL";

/// What a suite talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Against {
    StripeStandin,
    Api,
}

/// The language a suite is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Node,
    Python,
}

#[derive(Debug, PartialEq, Eq)]
struct Suite {
    /// The directory below the checkout.
    name: String,
    directory: PathBuf,
    against: Against,
    language: Language,
}

/// Runs every suite; `programs` are binaries of this workspace by name.
pub(crate) async fn suites(
    ui: &Ui,
    paths: &Paths,
    args: &ConformanceArgs,
    programs: &HashMap<String, PathBuf>,
) -> anyhow::Result<()> {
    let wanted = |suite: &Suite| args.only.is_empty() || args.only.iter().any(|only| suite.name.contains(only));
    let suites: Vec<Suite> = discover(paths.workspace()?).into_iter().filter(wanted).collect();
    if suites.is_empty() {
        return Err(Failure::new(Exit::Check, "there is no conformance suite to run")
            .why("no directory below local/conformance or features/conformance has a package.json or requirements.txt")
            .into());
    }
    tools(ui, &suites).await?;
    // One for all of them: an address makes few accounts in an hour.
    let asks_models = suites.iter().any(|suite| suite.name == MODELS);
    let key = if asks_models { Some(service_key(ui, paths, args).await?) } else { None };
    let mut failed = Vec::new();
    for suite in &suites {
        let task = ui.start(format!("{} ({:?})", suite.name, suite.language));
        let result = one(paths, args, programs, suite, key.as_deref()).await;
        if let Err(error) = task.ends(result, |()| "passed".to_owned()) {
            ui.error(&error);
            failed.push(suite.name.as_str());
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Check, format!("conformance failed: {}", failed.join(", "))).into())
}

fn discover(workspace: &Path) -> Vec<Suite> {
    let roots = [("local/conformance", Against::StripeStandin), ("features/conformance", Against::Api)];
    let mut found = Vec::new();
    for (root, against) in roots {
        let mut candidates = vec![root.to_owned()];
        let entries = fs::read_dir(workspace.join(root)).into_iter().flatten().flatten();
        let mut below: Vec<String> =
            entries.filter_map(|entry| Some(format!("{root}/{}", entry.file_name().to_str()?))).collect();
        below.retain(|name| !name.ends_with("/node_modules"));
        below.sort();
        candidates.extend(below);
        for name in candidates {
            let directory = workspace.join(&name);
            for (file, language) in [("package.json", Language::Node), ("requirements.txt", Language::Python)] {
                if directory.join(file).is_file() {
                    found.push(Suite { name: name.clone(), directory: directory.clone(), against, language });
                }
            }
        }
    }
    found
}

async fn tools(ui: &Ui, suites: &[Suite]) -> anyhow::Result<()> {
    let uses = |language: Language| suites.iter().any(|suite| suite.language == language);
    let mut missing = Vec::new();
    if uses(Language::Node) {
        let needed = [("node", "nodejs"), ("npm", "npm")];
        missing.extend(needed.iter().filter(|(program, _)| find_program(program).is_none()).map(|(_, name)| *name));
    }
    if uses(Language::Python) {
        let status =
            Command::new("python3").args(["-c", "import venv, ensurepip"]).stderr(Stdio::null()).status().await;
        if !status.is_ok_and(|status| status.success()) {
            missing.extend(["python3", "python3-venv"]);
        }
    }
    if missing.is_empty() { Ok(()) } else { apt::install(ui, &missing).await }
}

async fn one(
    paths: &Paths,
    args: &ConformanceArgs,
    programs: &HashMap<String, PathBuf>,
    suite: &Suite,
    key: Option<&str>,
) -> anyhow::Result<()> {
    let (mut env, _standin) = match suite.against {
        Against::StripeStandin => {
            let (env, child) = standin(programs).await?;
            (env, Some(child))
        }
        Against::Api => (api(paths, args)?, None),
    };
    if suite.name == MODELS {
        env.extend(key.map(|key| (SERVICE_KEY, key.to_owned())));
    }
    let commands = match suite.language {
        Language::Node => node(suite).await?,
        Language::Python => python(paths, suite).await?,
    };
    for mut command in commands {
        command.current_dir(&suite.directory).envs(env.clone()).stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.with_context(|| format!("{} could not be run", suite.name))?;
        succeeded(&suite.name, &output)?;
    }
    Ok(())
}

async fn node(suite: &Suite) -> anyhow::Result<Vec<Command>> {
    // npm writes this file when it has installed what was asked for.
    let installed = suite.directory.join("node_modules/.package-lock.json");
    let lock = suite.directory.join("package-lock.json");
    let asked = if lock.is_file() { lock.clone() } else { suite.directory.join("package.json") };
    if !newer(&installed, &asked) {
        // Without a lock file the exact versions of `package.json` are all that is pinned.
        let install: &[&str] = if lock.is_file() { &["ci"] } else { &["install", "--no-package-lock"] };
        let output = Command::new("npm")
            .args(install)
            .args(["--no-audit", "--no-fund", "--ignore-scripts"])
            .current_dir(&suite.directory)
            .kill_on_drop(true)
            .output()
            .await;
        succeeded(&format!("npm {}", install.join(" ")), &output.context("npm could not be run")?)?;
    }
    let mut command = Command::new("npm");
    command.args(["run", "--silent", "conformance"]);
    Ok(vec![command])
}

async fn python(paths: &Paths, suite: &Suite) -> anyhow::Result<Vec<Command>> {
    let venv = paths.target()?.join("conformance").join(suite.name.replace('/', "-"));
    let stamp = venv.join("installed");
    let requirements = suite.directory.join("requirements.txt");
    if !newer(&stamp, &requirements) {
        fs::create_dir_all(&venv)?;
        let output = Command::new("python3").args(["-m", "venv"]).arg(&venv).kill_on_drop(true).output().await;
        succeeded("python3 -m venv", &output.context("python3 could not be run")?)?;
        // Not its program `pip`, which still names the place that the environment was made at if it has been moved.
        let arguments = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        let output =
            Command::new(venv.join("bin/python")).args(arguments).arg(&requirements).kill_on_drop(true).output().await;
        succeeded("pip install", &output.context("pip could not be run")?)?;
        fs::write(&stamp, "")?;
    }
    let mut scripts: Vec<PathBuf> = fs::read_dir(&suite.directory)?.flatten().map(|entry| entry.path()).collect();
    scripts.retain(|file| file.extension().is_some_and(|extension| extension == "py"));
    scripts.sort();
    anyhow::ensure!(!scripts.is_empty(), "{} has no Python program", suite.name);
    let run = |script: &PathBuf| {
        let mut command = Command::new(venv.join("bin/python"));
        command.arg(script);
        command
    };
    Ok(scripts.iter().map(run).collect())
}

/// Whether the first file exists and was written after the second.
fn newer(first: &Path, second: &Path) -> bool {
    let modified = |file: &Path| fs::metadata(file).and_then(|file| file.modified()).ok();
    modified(first).is_some_and(|first| modified(second).is_none_or(|second| first >= second))
}

fn succeeded(what: &str, output: &std::process::Output) -> anyhow::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(40)..].join("\n    ");
    Err(Failure::new(Exit::Check, format!("{what} failed")).why(format!("{}\n    {tail}", output.status)).into())
}

/// A customer signs up, pays and makes a key.
async fn service_key(ui: &Ui, paths: &Paths, args: &ConformanceArgs) -> anyhow::Result<String> {
    let secrets = super::stack_secrets(paths)?;
    let (http, name) = (super::http_client()?, format!("conformance-{}", unix_seconds()));
    let task = ui.start("a customer with credit and a key");
    let made = async {
        let mut customer = Customer::new(&http, args.api_port, secrets.get("STRIPE_WEBHOOK_SECRET")?, &name);
        customer.sign_up().await?;
        customer.first_balance().await?;
        customer.pays(&customer.payment(PAID_CENTS)).await?;
        customer.balance_reaches(PAID_CENTS).await?;
        customer.service_key().await
    };
    task.ends(made.await, |_| format!("{PAID_CENTS} cents"))
}

/// The addresses and secrets of the stack.
fn api(paths: &Paths, args: &ConformanceArgs) -> anyhow::Result<Vec<(&'static str, String)>> {
    let secrets = super::stack_secrets(paths)?;
    Ok(vec![
        (API_URL, format!("http://localhost:{}", args.api_port)),
        ("STRIPE_WEBHOOK_SECRET", secrets.get("STRIPE_WEBHOOK_SECRET")?.to_owned()),
    ])
}

/// A stand-in of its own for a suite, on a free port; it ends with the returned child.
async fn standin(programs: &HashMap<String, PathBuf>) -> anyhow::Result<(Vec<(&'static str, String)>, Child)> {
    let program = programs.get(STRIPE.binary).with_context(|| format!("{} was not built", STRIPE.binary))?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr())?.port();
    let base = format!("http://127.0.0.1:{port}");
    let env = vec![(STANDIN_URL, base.clone()), ("STRIPE_SECRET_KEY", "sk_test_conformance".to_owned())];
    let child = Command::new(program)
        .env("STRIPE_STANDIN_LISTEN", format!("127.0.0.1:{port}"))
        .env("STRIPE_SECRET_KEY", "sk_test_conformance")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{} could not be started", program.display()))?;
    let http = super::http_client()?;
    let since = Instant::now();
    while http.get(format!("{base}/health")).send().await.is_err() {
        anyhow::ensure!(since.elapsed() < Duration::from_secs(20), "the stand-in does not answer at {base}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok((env, child))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_found_by_the_files_their_languages_use() {
        let root = std::env::temp_dir().join(format!("wopr-ops-suites-{}", std::process::id()));
        for file in [
            "local/conformance/node/package.json",
            "local/conformance/python/requirements.txt",
            "local/conformance/notes/README.md",
            "features/conformance/package.json",
            "features/conformance/node_modules/package.json",
        ] {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        let found: Vec<_> =
            discover(&root).into_iter().map(|suite| (suite.name, suite.against, suite.language)).collect();
        fs::remove_dir_all(&root).unwrap();
        let expected = [
            ("local/conformance/node", Against::StripeStandin, Language::Node),
            ("local/conformance/python", Against::StripeStandin, Language::Python),
            ("features/conformance", Against::Api, Language::Node),
        ];
        assert_eq!(found, expected.map(|(name, against, language)| (name.to_owned(), against, language)));
    }
}
