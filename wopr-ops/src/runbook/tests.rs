use super::{
    lint::{looks_secret, problems},
    *,
};

fn runbook() -> Runbook {
    parse(TEXT).unwrap()
}

/// The problems of the runbook after a part of its text was replaced.
fn after(from: &str, to: &str) -> Vec<String> {
    let text = TEXT.replacen(from, to, 1);
    assert_ne!(text, TEXT, "{from}");
    problems(&text, &parse(&text).unwrap()).unwrap()
}

#[test]
fn nothing_is_wrong_with_the_runbook() {
    assert_eq!(problems(TEXT, &runbook()).unwrap(), Vec::<String>::new());
}

#[test]
fn the_page_is_what_the_runbook_renders_to() {
    assert_file("docs/runbook.md", &render::markdown(&runbook()));
}

#[test]
fn an_unknown_key_is_an_error_wherever_it_is() {
    let places = [
        ("schema_version = 1", "schema_version = 1\nunheard = 1"),
        ("id = \"R1\"", "id = \"R1\"\nunheard = 1"),
        ("kind = \"schema\"", "kind = \"schema\"\nunheard = 1"),
        ("kind = \"schema\"", "kind = \"schema\"\nparams = { unheard = 1 }"),
        ("kind = \"schema\"", "kind = \"unheard\""),
        ("params = { port = \"http\", path = \"/\"", "params = { unheard = 1, port = \"http\", path = \"/\""),
        ("schema_version = 1", "schema_version = 2"),
    ];
    for (from, to) in places {
        let text = TEXT.replacen(from, to, 1);
        assert_ne!(text, TEXT, "{from}");
        assert!(parse(&text).is_err(), "{to}");
    }
}

#[test]
fn what_is_missing_or_untrue_is_named() {
    let cases = [
        ("id = \"R12\"", "id = \"R99\"", "gotcha R12 is missing"),
        ("id = \"R12\"", "id = \"R99\"", "there is no hazard R99"),
        ("check = \"schema\"", "check = \"dreamt\"", "names the check dreamt, which there is not"),
        ("id = \"wopr-gpu-whisper\"", "id = \"wopr-gpu-parrot\"", "service wopr-gpu-parrot is not planned"),
        ("id = \"wopr-gpu-whisper\"", "id = \"wopr-gpu-parrot\"", "service wopr-gpu-whisper is planned and not in"),
        ("name = \"PLATFORM_SECRET\"", "name = \"OTHER\"", "secret PLATFORM_SECRET is handed over and not in"),
        ("name = \"PLATFORM_SECRET\"", "name = \"OTHER\"", "secret OTHER is not made by"),
        ("number = 3100", "number = 3101", "port api is 3100, not 3101"),
        ("min_length = 48", "min_length = 49", "less than 49"),
    ];
    for (from, to, expected) in cases {
        let problems = after(from, to);
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{from} → {to}: {problems:?}");
    }
}

#[test]
fn a_value_that_looks_like_a_secret_is_refused_wherever_it_is() {
    let secret = format!("whsec_{}", "0a".repeat(16));
    let problems = after("owner = \"", &format!("owner = \"{secret} "));
    assert_eq!(problems, ["meta.owner looks like a secret"]);
    let cases = [
        ("the whole `whsec_…` value", false),
        ("`STRIPE_CREDIT_PRICE_100`", false),
        ("http://localhost:3100/health/ready", false),
        ("9f86d081884c7d659a2feaa0c55ad015", true),
        ("password=hunter2", true),
        ("password=…", false),
    ];
    for (text, expected) in cases {
        assert_eq!(looks_secret(text), expected, "{text}");
    }
}

#[test]
fn the_schema_is_that_of_the_report() {
    let outcome = |passed| report::Outcome {
        id: "vps-disk".to_owned(),
        kind: "disk".to_owned(),
        severity: Severity::Critical,
        passed,
        detail: "0 MiB of 8.0 GiB are free".to_owned(),
        took_ms: 12,
        gotchas: vec!["R38".to_owned()],
    };
    let not_checked = report::NotChecked {
        id: "R37".to_owned(),
        hazard: "a cookie".to_owned(),
        reason: "needs an account".to_owned(),
    };
    let report =
        report::Report { green: false, checks: vec![outcome(true), outcome(false)], not_checked: vec![not_checked] };
    assert_schema_fits("runbook-verify", &schemars::schema_for!(report::Report), &report);
}
