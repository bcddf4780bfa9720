//! Waiting for real conditions: the thing itself is asked, and its end is noticed at once.

use std::time::{Duration, Instant};

use anyhow::Context;
use bollard::{
    Docker,
    exec::{CreateExecOptions, StartExecResults},
    query_parameters::LogsOptionsBuilder,
};
use futures_util::StreamExt;
use reqwest::StatusCode;

use super::observe::container;
use crate::{
    failure::{Exit, Failure},
    plan::spec::{Ready, Service, Stack, State},
};

/// How long a part of the stack may take to become ready.
const LIMIT: Duration = Duration::from_secs(90);
/// How long work may take that ends by itself, such as filling a database.
const WORK_LIMIT: Duration = Duration::from_hours(2);
/// How long what computes with a graphics card may take: it may have to read a model of many gigabytes, or to fetch one first.
const CARD_LIMIT: Duration = Duration::from_mins(30);
/// How often it is asked.
const PACE: Duration = Duration::from_millis(50);

/// Waits until the service is ready, has ended, or the time is over.
pub(crate) async fn wait(
    engine: &Docker,
    http: &reqwest::Client,
    stack: &Stack,
    service: &Service,
) -> anyhow::Result<()> {
    let since = Instant::now();
    let limit = match service {
        work if work.is_work() => WORK_LIMIT,
        computing if computing.card && computing.machine.is_none() => CARD_LIMIT,
        _ => LIMIT,
    };
    loop {
        let state = container(engine, service.name).await?.map(|container| container.state);
        match (&service.ready, state) {
            (_, None) => return Err(not_ready(engine, service, "its container has gone").await),
            (Ready::Finished, Some(State::Exited(0))) | (Ready::Started, Some(State::Running)) => return Ok(()),
            (_, Some(State::Exited(code))) => {
                return Err(not_ready(engine, service, &format!("it ended with {code}")).await);
            }
            (Ready::Probe(command), Some(State::Running)) if probe(engine, service.name, command).await? => {
                return Ok(());
            }
            (Ready::Http(pages), Some(State::Running)) if answer(http, stack, service, pages).await => {
                return Ok(());
            }
            (Ready::Engine(socket), Some(State::Running)) if crate::engine::at(socket).await.is_ok() => {
                return Ok(());
            }
            _ => {}
        }
        if since.elapsed() > limit {
            let why = format!("{} after {} s", condition(&service.ready), limit.as_secs());
            return Err(not_ready(engine, service, &why).await);
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Waits until the service answers, whatever it says, or has ended: before that, it tells nothing about what it was made from.
pub(crate) async fn settled(
    engine: &Docker,
    http: &reqwest::Client,
    stack: &Stack,
    service: &Service,
) -> anyhow::Result<()> {
    let since = Instant::now();
    loop {
        let state = container(engine, service.name).await?.map(|container| container.state);
        let answers = match (&service.ready, state) {
            (_, None) => return Err(not_ready(engine, service, "its container has gone").await),
            // One that ends again and again is seen between two lives.
            (_, Some(State::Exited(_) | State::Other)) => true,
            (Ready::Probe(command), _) => probe(engine, service.name, command).await?,
            (Ready::Http(pages), _) => status(http, stack, service, pages.first()).await.is_some(),
            (Ready::Engine(socket), _) => crate::engine::at(socket).await.is_ok(),
            (Ready::Started, state) => state == Some(State::Running),
            (Ready::Finished, _) => false,
        };
        if answers {
            return Ok(());
        }
        if since.elapsed() > LIMIT {
            let why = format!("it neither answered nor ended within {} s", LIMIT.as_secs());
            return Err(not_ready(engine, service, &why).await);
        }
        tokio::time::sleep(PACE).await;
    }
}

fn condition(ready: &Ready) -> String {
    match ready {
        Ready::Probe(command) => format!("`{}` still fails", command.join(" ")),
        Ready::Http(pages) => {
            let pages: Vec<String> = pages.iter().map(|(port, path)| format!("{port}{path}")).collect();
            format!("GET {} still does not answer 200", pages.join(" or "))
        }
        Ready::Engine(socket) => format!("the engine at {} still does not answer", socket.display()),
        Ready::Started => "it does not run".to_owned(),
        Ready::Finished => "it still runs".to_owned(),
    }
}

/// The failure, with what the container said last.
async fn not_ready(engine: &Docker, service: &Service, why: &str) -> anyhow::Error {
    let log = last_lines(engine, service.name, 20).await;
    Failure::new(Exit::NotReady, format!("{} did not become ready", service.name))
        .why(format!("{why}; it said last:\n{log}"))
        .fix(format!("`cargo wopr logs {}` shows more; the same command again goes on from here", service.name))
        .into()
}

/// The last lines a container wrote, indented.
pub(crate) async fn last_lines(engine: &Docker, name: &str, lines: usize) -> String {
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail(&lines.to_string()).build();
    let chunks: Vec<_> = engine.logs(name, Some(options)).collect().await;
    let text: String = chunks.into_iter().flatten().map(|chunk| chunk.to_string()).collect();
    crate::engine::last_lines(&text, lines)
}

async fn probe(engine: &Docker, name: &str, command: &[&str]) -> anyhow::Result<bool> {
    Ok(execute(engine, name, command).await?.is_some_and(|(code, _)| code == 0))
}

/// What a program inside the container writes; an error if it does not end with 0.
pub(crate) async fn output_of(engine: &Docker, name: &str, command: &[&str]) -> anyhow::Result<String> {
    let (code, output) = execute(engine, name, command).await?.with_context(|| format!("{name} does not run"))?;
    anyhow::ensure!(code == 0, "`{}` in {name} ended with {code}: {}", command.join(" "), output.trim());
    Ok(output)
}

/// All that the container has written to its standard output.
pub(crate) async fn logs_of(engine: &Docker, name: &str) -> anyhow::Result<String> {
    let options = LogsOptionsBuilder::default().stdout(true).build();
    let mut chunks = engine.logs(name, Some(options));
    let mut text = String::new();
    while let Some(chunk) = chunks.next().await {
        text.push_str(&chunk.with_context(|| format!("the engine does not hand out what {name} said"))?.to_string());
    }
    Ok(text)
}

/// Runs a program inside the container; answers with its code and output, or `None` if the container does not run.
async fn execute(engine: &Docker, name: &str, command: &[&str]) -> anyhow::Result<Option<(i64, String)>> {
    let options = CreateExecOptions {
        cmd: Some(command.to_vec()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..Default::default()
    };
    let exec = match engine.create_exec(name, options).await {
        Ok(exec) => exec,
        // 409: it ended between being seen and being asked; the next look says how.
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. }) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("nothing can be run in {name}")),
    };
    let mut text = String::new();
    if let StartExecResults::Attached { mut output, .. } = engine.start_exec(&exec.id, None).await? {
        while let Some(chunk) = output.next().await {
            text.push_str(&chunk?.to_string());
        }
    }
    Ok(engine.inspect_exec(&exec.id).await?.exit_code.map(|code| (code, text)))
}

/// Whether every page answers 200 on the port its container port is published as.
async fn answer(http: &reqwest::Client, stack: &Stack, service: &Service, pages: &[(u16, &str)]) -> bool {
    for page in pages {
        if status(http, stack, service, Some(page)).await != Some(StatusCode::OK) {
            return false;
        }
    }
    true
}

/// What a page answers on the port its container port is published as; `None` if it does not.
async fn status(
    http: &reqwest::Client,
    stack: &Stack,
    service: &Service,
    page: Option<&(u16, &str)>,
) -> Option<StatusCode> {
    let (inside, path) = page?;
    let (port, _) = service.ports.iter().find(|(_, published)| published == inside)?;
    let request = http.get(format!("http://{}:{port}{path}", stack.host)).timeout(Duration::from_secs(2));
    request.send().await.ok().map(|response| response.status())
}
