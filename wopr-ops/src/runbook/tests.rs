use super::{
    lint::{looks_secret, problems},
    planned::Planned,
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
fn what_breaks_nothing_or_is_not_mended_is_named() {
    let cases = [
        (
            "service = \"wopr-gpu-whisper\" }",
            "service = \"wopr-gpu-parrot\" }",
            "there is no container wopr-gpu-parrot",
        ),
        ("flag = \"--ctx-size\" }", "flag = \"--absent\" }", "there is no flag --absent"),
        ("from = \"whsec_\"", "from = \"sk_\"", "there is no `sk_` in it"),
        ("value = \"http://localhost:1\"", "value = \"http://localhost:3100\"", "would be as it is planned"),
        ("fault = \"kill\"", "fault = \"freeze\"", "R16 is not mended by `cargo wopr start`"),
        ("fault = \"cut\"", "fault = \"mend\"", "R27: `fault mend` breaks nothing"),
        (
            "from = \":8080\", to = \":8081\"",
            "from = \":8080\", to = \":8080\"",
            "R14: caddy.json of wopr-vps-caddy would be as",
        ),
        (
            "from = \":8080\", to = \":8081\"",
            "from = \":1\", to = \":8081\"",
            "R14: caddy.json of wopr-vps-caddy cannot be so",
        ),
        ("service = \"wopr-gpu-llama-cpp\", mib", "service = \"wopr-gpu\", mib", "R25: wopr-gpu is a machine"),
        ("{ \"local/compose.yaml\" =", "{ \"../compose.yaml\" =", "R18: not inside the checkout: ../compose.yaml"),
        ("red = \"SCHEMA_BEHIND\"", "red = \" \"", "R4: whatever the check said would do"),
        ("red = \"SCHEMA_BEHIND\"\n", "", "R4 lacks one of"),
        ("check = \"webhook\"", "manual = \"nobody can say\"", "R6 is brought about, and has no check here"),
        (
            "applies_to = [\"local\", \"production\"]",
            "applies_to = [\"production\"]",
            "R1 is brought about, and has no",
        ),
    ];
    for (from, to, expected) in cases {
        let problems = after(from, to);
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{from} → {to}: {problems:?}");
    }
    let (from, to) =
        (TEXT.find("break = { kind = \"fault\", fault = \"fill\"").unwrap(), TEXT.find("\n\n[[checks]]").unwrap());
    let text = TEXT.replacen(&TEXT[from..to], "applies_to = [\"local\"]", 1);
    let problems = problems(&text, &parse(&text).unwrap()).unwrap();
    assert_eq!(problems, ["gotcha R38 has a check here, and nothing brings it about"]);
}

/// What can be known without an engine: the rule of a plan that is altered says what it has to.
#[test]
fn a_rule_notices_what_breaks_it() {
    let (runbook, ports) = (runbook(), Ports::default());
    let mut seen = 0;
    for gotcha in &runbook.gotchas {
        let check = runbook.checks.iter().find(|check| gotcha.check.as_deref() == Some(&check.id));
        let (Some(breakage), Some(Probe::Plan { params })) = (&gotcha.broken, check.map(|check| &check.probe)) else {
            continue;
        };
        let mut planned = Planned::anywhere(ports).unwrap();
        breakage.alter(&mut planned).unwrap();
        let error = pure::plan_rule(params.rule, ports, &planned).unwrap_err().to_string();
        assert!(error.contains(gotcha.red.as_deref().unwrap()), "{}: {error}", gotcha.id);
        seen += 1;
    }
    assert_eq!(seen, 6);
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
    assert_schema_fits("runbook-check", &schemars::schema_for!(report::Report), &report);
    let shown = report::Shown {
        id: "R4".to_owned(),
        hazard: "The server starts too soon.".to_owned(),
        check: "schema".to_owned(),
        broken: "the API is made with another DATABASE_URL".to_owned(),
        red: Some("503".to_owned()),
        fix: "`cargo wopr start`".to_owned(),
        green: None,
        problem: Some("schema was not green within 60 s".to_owned()),
        took_ms: 60_012,
    };
    let proof = report::Proof {
        proven: false,
        shown: vec![shown],
        not_shown: report.not_checked,
        red_at_the_end: report.checks,
    };
    assert_schema_fits("runbook-verify", &schemars::schema_for!(report::Proof), &proof);
}
