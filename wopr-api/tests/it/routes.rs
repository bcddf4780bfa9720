use wopr_api::routes::list;

#[test]
fn every_route_declares_who_may_call_it() {
    let lines: Vec<String> = list().iter().map(ToString::to_string).collect();
    assert!(!lines.iter().any(|line| line.contains("undeclared")), "{lines:#?}");
    insta::assert_snapshot!(lines.join("\n"));
}
