//! Policies that must not be taken, and what is said about them.

use std::sync::Arc;

use mar_alignment::{
    Agent, Arguments, Layer, MAX_RULES, MAX_TEXT_BYTES, MAX_VIOLATIONS, Policy, PolicyText, Question, Request, Stack,
    Tool, Violation, default_platform,
};

fn parse(source: &str) -> Result<Policy, Vec<Violation>> {
    Policy::parse(PolicyText { layer: Layer::Platform, name: "test".to_owned(), version: 1, text: source.to_owned() })
}

fn call() -> Request {
    Request::new(Question::CallTool {
        agent: Agent::default(),
        tool: Tool::default(),
        sealed: true,
        arguments: Arguments::new(serde_json::json!({}), "d", 2),
    })
}

fn refused(source: &str) -> Vec<Violation> {
    parse(source).expect_err(source)
}

/// Asserts that there is exactly one violation, at this place and about this.
fn refused_once(source: &str, line: usize, about: &str) {
    let violations = refused(source);
    assert_eq!(violations.len(), 1, "{violations:#?}");
    assert_eq!(violations[0].line, line, "{violations:#?}");
    assert!(violations[0].message.contains(about), "{violations:#?}");
}

#[test]
fn the_default_platform_parses() {
    Policy::parse(default_platform()).unwrap();
}

#[test]
fn syntax_and_schema_faults_come_all_at_once_with_positions() {
    let violations = refused(
        "permit (principal, action, resource);\n\
         forbid (principal, action == Action::\"calTool\", resource);\n\
         permit (principal action, resource); // ; \"\n\
         @mod(\"log_only\") forbid (principal, action == Action::\"callTool\", resource)\n\
         \x20 when { context.tain };\n\
         forbid (principal, action == Action::\"callTool\", resource) when { context.step > };\n\
         permit (principal, action, resource)",
    );
    let lines: Vec<usize> = violations.iter().map(|violation| violation.line).collect();
    for line in 2..=7 {
        assert!(lines.contains(&line), "line {line} is missing: {violations:#?}");
    }
    assert!(!lines.contains(&1), "{violations:#?}");
    let tokens = violations.iter().find(|violation| violation.line == 3).unwrap();
    assert_eq!(tokens.column, 19, "{violations:#?}");
    let attribute = violations.iter().find(|violation| violation.line == 5).unwrap();
    assert!(attribute.message.contains("tain"), "{violations:#?}");
    assert_eq!(attribute.policy, "test");
    assert!(lines.is_sorted());
}

#[test]
fn names_that_the_schema_does_not_have_are_refused() {
    refused_once("\npermit (principal, action == Action::\"callTol\", resource);", 2, "callTol");
    refused_once(
        "permit (principal, action == Action::\"callTool\", resource) when { resource.readonly };",
        1,
        "readonly",
    );
    refused_once("permit (principal is Robot, action, resource);", 1, "Robot");
    refused_once(
        "permit (principal, action == Action::\"listTool\", resource) when { context.argument_bytes < 1 };",
        1,
        "argument_bytes",
    );
}

#[test]
fn types_are_strict() {
    refused_once(
        "permit (principal, action == Action::\"callTool\", resource) when { resource.trust_rank == \"PRODUCTION\" };",
        1,
        "type",
    );
    refused_once(
        "permit (principal, action == Action::\"callTool\", resource) when { principal.end_user == \"ada\" };",
        1,
        "end_user",
    );
    parse(
        "permit (principal, action == Action::\"callTool\", resource)
         when { principal has end_user && principal.end_user == \"ada\" };",
    )
    .unwrap();
}

#[test]
fn attributes_of_entities_that_no_request_carries_are_refused() {
    let violations =
        refused("forbid (principal, action == Action::\"callTool\", resource) when { Tool::\"a.b\".read_only };");
    assert_eq!(violations[0].line, 1);
}

#[test]
fn rules_that_never_apply_are_refused() {
    refused_once("forbid (principal, action, resource) when { false };", 1, "impossible");
    let violations = refused("forbid (principal, action == Action::\"callTool\", resource == Model::\"m\");");
    assert!(!violations.is_empty());
}

#[test]
fn annotations_are_checked() {
    let rule = "permit (principal, action, resource);";
    let forbid = "forbid (principal, action, resource);";
    refused_once(&format!("@idd(\"x\") {rule}"), 1, "unknown annotation @idd");
    refused_once(&format!("@verdict(\"maybe\") {rule}"), 1, "@verdict");
    refused_once(&format!("@verdict(\"require_approval\") {forbid}"), 1, "@verdict");
    refused_once(&format!("@mode(\"log_only\") {rule}"), 1, "belongs to a forbid");
    refused_once(&format!("@mode(\"off\") {forbid}"), 1, "@mode");
    refused_once(&format!("@guidance(\"shrug\") {forbid}"), 1, "@guidance");
    refused_once(&format!("@guidance(\"ask\") {rule}"), 1, "@guidance");
    refused_once(&format!("@id(\"No Spaces\") {rule}"), 1, "@id");
    refused_once(&format!("@message(\"\") {forbid}"), 1, "@message");
    refused_once(&format!("@id(\"x\") {rule}\n@id(\"x\") {forbid}"), 2, "taken");
    refused_once(&format!("{rule}\n@id(\"policy0\") {forbid}"), 2, "taken");
    assert_eq!(refused(&format!("@idd(\"x\") @verdict(\"no\") {rule}")).len(), 2);
}

#[test]
fn terms_of_approval_are_checked() {
    let rule = "permit (principal, action, resource);";
    let ask = "@verdict(\"require_approval\")";
    for count in ["0", "17", "-1", "+2", "02", "two", "", "1.5", "99999999999999999999"] {
        refused_once(&format!("{ask} @approvals(\"{count}\") {rule}"), 1, "@approvals is a whole number from 1 to 16");
    }
    for span in ["59s", "31d", "0m", "30", "m", "", "1w", "-5m", "1h30m", "é", "99999999999999999999d"] {
        refused_once(&format!("{ask} @expires(\"{span}\") {rule}"), 1, "@expires");
    }
    let long = "x".repeat(129);
    for group in ["", " a", "a ", "a\\nb", &long] {
        refused_once(&format!("{ask} @approvers(\"{group}\") {rule}"), 1, "@approvers is one group");
    }
    for note in ["@approvers(\"a\")", "@approvals(\"1\")", "@expires(\"1h\")"] {
        refused_once(&format!("{note} {rule}"), 1, "belong to a permit with @verdict");
        refused_once(&format!("{note} forbid (principal, action, resource);"), 1, "belong to a permit with @verdict");
    }
    assert_eq!(refused(&format!("{ask} @approvals(\"0\") @expires(\"1s\") @approvers(\"\") {rule}")).len(), 3);
}

#[test]
fn only_calls_can_be_approved() {
    for scope in ["action == Action::\"listTool\"", "action in [Action::\"receiveResult\", Action::\"shapePrompt\"]"] {
        refused_once(
            &format!("@verdict(\"require_approval\") permit (principal, {scope}, resource);"),
            1,
            "permit of callTool",
        );
    }
    parse("@verdict(\"require_approval\") permit (principal, action in [Action::\"listTool\", Action::\"callTool\"], resource);")
        .unwrap();
}

#[test]
fn rules_that_nobody_asks_are_refused() {
    let open = "permit (principal, action, resource);";
    for (rule, point) in [
        ("forbid (principal, action == Action::\"giveAnswer\", resource);", "giveAnswer"),
        ("permit (principal, action in [Action::\"callTool\", Action::\"giveAnswer\"], resource);", "giveAnswer"),
        ("forbid (principal, action == Action::\"startSession\", resource);", "startSession"),
        ("@mode(\"log_only\") forbid (principal, action == Action::\"startSession\", resource);", "startSession"),
        ("forbid (principal, action, resource) when { action == Action::\"giveAnswer\" };", "giveAnswer"),
        ("forbid (principal, action, resource) unless { action in [Action::\"startSession\"] };", "startSession"),
        ("forbid (principal is Caller, action, resource);", "startSession"),
        ("forbid (principal == Caller::\"ada\", action, resource);", "startSession"),
        ("forbid (principal, action, resource is Answer);", "giveAnswer"),
        ("forbid (principal, action, resource) when { resource is Answer && resource.bytes > 9 };", "giveAnswer"),
    ] {
        let about = format!("the rule is about {point}, which no service decides yet");
        refused_once(&format!("{open}\n{rule}"), 2, &about);
    }
    for rule in [
        "forbid (principal, action, resource) when { context.taint };",
        "forbid (principal is Agent, action, resource) when { principal.role == \"giveAnswer\" };",
        "forbid (principal, action, resource) when { context.data_classes.contains(\"Answer\") };",
        "forbid (principal, action == Action::\"selectModel\", resource == Model::\"Answer\");",
        "forbid (principal, action == Action::\"callTool\", resource) when {
            context.arguments.contains({path: \"startSession\", text: \"giveAnswer\"}) };",
        "forbid (principal, action == Action::\"shapePrompt\", resource is Session);",
        "forbid (principal, action == Action::\"receiveResult\", resource);",
    ] {
        parse(&format!("{open}\n{rule}")).unwrap();
    }
}

#[test]
fn templates_and_empty_policies_are_refused() {
    let violations = refused("permit (principal == ?principal, action, resource);");
    assert!(violations.iter().any(|violation| violation.message.contains("templates")), "{violations:#?}");
    refused_once("// nothing\n", 1, "no rule");
    refused_once("", 1, "no rule");
}

#[test]
fn name_and_version_are_checked_with_the_text() {
    let violations = Policy::parse(PolicyText {
        layer: Layer::Task,
        name: "Bad\nname".to_owned(),
        version: 0,
        text: "permit (principal, action, resource) when { context.nope };".to_owned(),
    })
    .unwrap_err();
    let messages: Vec<&str> = violations.iter().map(|violation| violation.message.as_str()).collect();
    assert!(messages.iter().any(|message| message.contains("[a-z]")), "{messages:?}");
    assert!(messages.iter().any(|message| message.contains("version")), "{messages:?}");
    assert!(messages.iter().any(|message| message.contains("nope")), "{messages:?}");
}

#[test]
fn size_is_bounded() {
    let rule = "permit(principal,action,resource);\n";
    parse(&rule.repeat(MAX_RULES)).unwrap();
    refused_once(&rule.repeat(MAX_RULES + 1), 1, "500");
    refused_once(&"/".repeat(MAX_TEXT_BYTES + 1), 1, "longer");
}

/// A condition that is as deep as can be written for its length.
fn deep_conditions(levels: usize) -> Vec<String> {
    let nested =
        |open: &str, middle: &str, close: &str| format!("{}{middle}{}", open.repeat(levels), close.repeat(levels));
    vec![
        nested("(", "context.taint", ")"),
        format!("{} == [1]", nested("[", "1", "]")),
        format!("{} == {{a: 1}}", nested("{a: ", "1", "}")),
        format!("1{} == 2", " + 1".repeat(levels)),
        format!("1{} == 2", " * 1".repeat(levels)),
        format!("context.taint{}", " && context.taint".repeat(levels)),
        format!("context.taint{}", " || context.taint".repeat(levels)),
        format!("context{}", ".taint".repeat(levels)),
        nested("if context.taint then ", "true", " else true"),
        format!("{}true", "if context.taint then false else ".repeat(levels)),
        nested("if ", "context.taint", " then true else true"),
        format!("context.taint }} {} when {{ true", "unless { context.taint }".repeat(levels)),
        format!("{}context.taint", "!".repeat(levels)),
    ]
}

fn permit_when(condition: &str) -> String {
    format!("permit (principal, action == Action::\"callTool\", resource) when {{ {condition} }};")
}

#[test]
fn rules_too_deep_for_a_stack_are_refused() {
    for condition in deep_conditions(1_500) {
        let violations = refused(&permit_when(&condition));
        let message = &violations[0].message;
        assert!(message.contains("deep") || message.contains("operators") || message.contains("longer"), "{message}");
    }
}

#[test]
fn rules_within_the_limits_parse_and_evaluate_on_a_small_stack() {
    let small = std::thread::Builder::new().stack_size(512 << 10).spawn(|| {
        for condition in deep_conditions(29).into_iter().chain(deep_conditions(120)) {
            if let Ok(policy) = parse(&permit_when(&condition)) {
                let decision = Stack::new([Arc::new(policy)]).decide(&call());
                assert_eq!(decision.errors, [], "{condition}");
            }
        }
        parse(&permit_when(&deep_conditions(29)[0])).unwrap();
        parse(&permit_when(&deep_conditions(120)[5])).unwrap();
    });
    small.unwrap().join().unwrap();
}

#[test]
fn broken_texts_are_refused_and_break_nothing() {
    for broken in ["permit", "\"", "permit (principal, action, resource) when { \"", ";;;", "\u{0}", "é;"] {
        assert!(!refused(broken).is_empty(), "{broken}");
    }
}

#[test]
fn violations_are_bounded() {
    assert_eq!(refused(&";".repeat(MAX_TEXT_BYTES)).len(), MAX_VIOLATIONS);
    let unknown = "permit(principal,action,resource)when{context.x};\n".repeat(MAX_RULES);
    assert_eq!(refused(&unknown).len(), MAX_VIOLATIONS);
}

#[test]
fn violations_read_well() {
    let violations = refused(
        "permit (principal, action == Action::\"callTol\", resource);\n\
         permit (principal, action == Action::\"callTool\", resource) when { resource.readonly };",
    );
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(lines[0].starts_with("test:1:30: unrecognized action"), "{lines:?}");
    assert!(lines[1].starts_with("test:2:67: attribute `readonly`"), "{lines:?}");
}
