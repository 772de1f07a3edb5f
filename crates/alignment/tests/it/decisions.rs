//! Decisions over whole stacks: verdicts, narrowing, errors, log-only rules and what the record says.

use std::collections::BTreeSet;

use mar_alignment::{
    Agent, Arguments, Caller, Decision, Effect, Guidance, Layer, Model, Point, PolicyText, Question, Request,
    ResultFacts, RunFacts, Session, Stack, Tool, TrustTier, Verdict, decide_both, default_platform,
};
use serde_json::{Value, json};

const OPEN: &str = "@id(\"open\") permit (principal, action, resource);";

fn text(layer: Layer, source: &str) -> PolicyText {
    PolicyText { layer, name: format!("{}-test", layer.as_str()), version: 1, text: source.to_owned() }
}

fn stack(sources: &[(Layer, &str)]) -> Stack {
    Stack::parse(sources.iter().map(|(layer, source)| text(*layer, source))).unwrap()
}

fn platform(source: &str) -> Stack {
    stack(&[(Layer::Platform, source)])
}

fn agent(environment: &str) -> Agent {
    Agent {
        id: "sha256:aa".to_owned(),
        role: "researcher".to_owned(),
        purpose: "support".to_owned(),
        task_type: "question".to_owned(),
        caller: Caller {
            tenant: "acme".to_owned(),
            principal: "backend".to_owned(),
            environment: environment.to_owned(),
            groups: BTreeSet::from(["engineering".to_owned()]),
            ..Caller::default()
        },
    }
}

fn tool(name: &str) -> Tool {
    Tool {
        name: name.to_owned(),
        upstream: name.split('.').next().unwrap().to_owned(),
        read_only: true,
        idempotent: true,
        trust_tier: TrustTier::Aligned,
    }
}

fn call_with(tool: Tool, environment: &str, arguments: Value) -> Request {
    Request::new(Question::CallTool {
        agent: agent(environment),
        tool,
        sealed: true,
        arguments: Arguments::new(arguments, "sha256:cafe", 42),
    })
}

fn call(name: &str) -> Request {
    call_with(tool(name), "prod", json!({"query": "cedar"}))
}

fn tainted(request: Request) -> Request {
    request.in_run(RunFacts {
        step: 2,
        tool_calls: 1,
        taint: true,
        data_classes: BTreeSet::from(["internal".to_owned()]),
    })
}

fn rules(decision: &Decision) -> Vec<&str> {
    decision.determining.iter().map(|rule| rule.rule.as_str()).collect()
}

#[test]
fn a_permit_allows_and_is_named() {
    let decision = platform(OPEN).decide(&call("docs.search"));
    assert_eq!(decision.verdict, Verdict::Allow);
    assert!(decision.is_allowed());
    assert_eq!(decision.point, Point::CallTool);
    assert_eq!(decision.guidance, None);
    assert_eq!(rules(&decision), ["open"]);
    assert_eq!(decision.determining[0].effect, Effect::Permit);
    assert_eq!(decision.policies[0].hash, text(Layer::Platform, OPEN).hash());
    assert_eq!(decision.errors, []);
}

#[test]
fn a_missing_policy_denies() {
    let empty = Stack::default();
    let decision = empty.decide(&call("docs.search"));
    assert_eq!(decision.verdict, Verdict::Deny);
    assert_eq!(decision.guidance, Some(Guidance::Refuse));
    assert!(decision.errors[0].message.contains("no platform policy"));

    let lower_only = stack(&[(Layer::Task, OPEN), (Layer::Agent, OPEN)]);
    assert_eq!(lower_only.decide(&call("docs.search")).verdict, Verdict::Deny);

    let whole = platform(OPEN);
    assert_eq!(decide_both(&empty, &whole, &call("docs.search")).verdict, Verdict::Deny);
    assert_eq!(decide_both(&whole, &empty, &call("docs.search")).verdict, Verdict::Deny);
}

#[test]
fn a_layer_that_says_nothing_denies() {
    let both = stack(&[
        (Layer::Task, r#"permit (principal, action == Action::"listTool", resource);"#),
        (Layer::Platform, OPEN),
    ]);
    let decision = both.decide(&call("docs.search"));
    assert_eq!(decision.verdict, Verdict::Deny);
    assert_eq!(decision.unpermitted.len(), 1);
    assert_eq!(decision.unpermitted[0].layer, Layer::Task);
    assert_eq!(rules(&decision), [""; 0]);
}

#[test]
fn a_lower_layer_narrows_and_never_widens() {
    let narrow = r#"@id("docs-only") permit (principal, action, resource in Upstream::"docs");"#;
    let narrowed = stack(&[
        (Layer::Platform, OPEN),
        (Layer::Agent, &format!("{narrow} permit (principal, action in [Action::\"receiveResult\"], resource);")),
    ]);
    assert!(narrowed.decide(&call("docs.search")).is_allowed());
    assert_eq!(narrowed.decide(&call("mail.send")).verdict, Verdict::Deny);

    let forbidding =
        r#"@id("no-mail") forbid (principal, action == Action::"callTool", resource == Tool::"mail.send");"#;
    let widened = stack(&[(Layer::Platform, &format!("{OPEN}{forbidding}")), (Layer::Task, OPEN)]);
    let decision = widened.decide(&call("mail.send"));
    assert_eq!(decision.verdict, Verdict::Deny);
    assert_eq!(rules(&decision), ["no-mail"]);
    assert!(widened.decide(&call("mail.list")).is_allowed());
}

#[test]
fn approval_outranks_allow_and_deny_outranks_approval() {
    let approve = r#"@id("ask-first") @verdict("require_approval") @guidance("ask") @message("A person looks first.")
        permit (principal, action == Action::"callTool", resource == Tool::"mail.send");"#;
    let asking = stack(&[(Layer::Platform, OPEN), (Layer::Organisation, &format!("{OPEN}{approve}"))]);
    let decision = asking.decide(&call("mail.send"));
    assert_eq!(decision.verdict, Verdict::RequireApproval);
    assert!(!decision.is_allowed());
    assert_eq!(rules(&decision), ["ask-first"]);
    assert_eq!(decision.guidance, Some(Guidance::Ask));
    assert_eq!(decision.message.as_deref(), Some("A person looks first."));
    assert!(asking.decide(&call("mail.list")).is_allowed());

    let denying = stack(&[
        (Layer::Platform, &format!("{OPEN}{approve}")),
        (Layer::Task, r#"forbid (principal, action, resource == Tool::"mail.send");"#),
    ]);
    assert_eq!(denying.decide(&call("mail.send")).verdict, Verdict::Deny);
}

/// A permit of every call that asks for approval with these further annotations.
fn asking(id: &str, notes: &str) -> String {
    format!(
        "@id(\"{id}\") @verdict(\"require_approval\") {notes} permit (principal, action == Action::\"callTool\", resource);"
    )
}

fn terms(decision: &Decision) -> (Option<&str>, u32, u64) {
    let approval = decision.approval.as_ref().unwrap();
    (approval.group.as_deref(), approval.needed, approval.expires_after.as_secs())
}

#[test]
fn what_an_approval_takes_is_told() {
    let decision = platform(&asking("plain", "")).decide(&call("mail.send"));
    assert_eq!(terms(&decision), (None, 1, 3_600));
    let full = "@approvers(\"support leads\") @approvals(\"2\") @expires(\"30m\")";
    let decision = platform(&asking("full", full)).decide(&call("mail.send"));
    assert_eq!(terms(&decision), (Some("support leads"), 2, 1_800));
    assert_eq!(decision.approval.as_ref().unwrap().group_rule.as_ref().unwrap().rule, "full");
    for (span, seconds) in [("60s", 60), ("1m", 60), ("24h", 86_400), ("30d", 2_592_000)] {
        let decision = platform(&asking("a", &format!("@expires(\"{span}\")"))).decide(&call("mail.send"));
        assert_eq!(terms(&decision).2, seconds, "{span}");
    }
    assert_eq!(platform(OPEN).decide(&call("mail.send")).approval, None);
    let denied = format!("{} forbid (principal, action, resource);", asking("a", ""));
    assert_eq!(platform(&denied).decide(&call("mail.send")).approval, None);
    let written = serde_json::to_value(&decision).unwrap();
    assert_eq!(written["approval"]["expires_after_s"], 1_800);
    assert_eq!(serde_json::from_value::<Decision>(written).unwrap().approval, decision.approval);
}

#[test]
fn only_calls_wait_for_approval() {
    let any = "@id(\"any\") @verdict(\"require_approval\") permit (principal, action, resource);";
    let list = Request::new(Question::ListTool { agent: agent("prod"), tool: tool("mail.send") });
    assert!(platform(any).decide(&list).is_allowed());
    assert_eq!(platform(any).decide(&call("mail.send")).verdict, Verdict::RequireApproval);
}

#[test]
fn of_several_approvals_the_strictest_counts() {
    let two = [
        asking("b", "@approvers(\"second\") @approvals(\"3\") @expires(\"2h\")"),
        asking("a", "@approvers(\"first\") @expires(\"30m\")"),
        asking("c", "@approvers(\"first\")"),
        asking("d", ""),
    ];
    let decision = platform(&two.concat()).decide(&call("mail.send"));
    assert_eq!(terms(&decision), (Some("first"), 3, 1_800));
    let approval = decision.approval.unwrap();
    assert_eq!(approval.group_rule.unwrap().rule, "a");
    let others: Vec<&str> = approval.other_groups.iter().map(|rule| rule.rule.as_str()).collect();
    assert_eq!(others, ["b"]);
}

#[test]
fn a_lower_layer_puts_no_group_of_its_own_in_the_place_of_an_upper_ones() {
    let upper = asking("z", "@approvers(\"security\") @approvals(\"2\") @expires(\"1h\")");
    let lower = asking("a", "@approvers(\"friends\") @approvals(\"1\") @expires(\"1d\")");
    let both = stack(&[(Layer::Task, &lower), (Layer::Platform, &upper)]);
    assert_eq!(terms(&both.decide(&call("mail.send"))), (Some("security"), 2, 3_600));

    // The group may have been renamed since it was sealed; numbers are the strictest of both.
    let current = platform(&asking("z", "@approvers(\"safety\") @expires(\"2h\")"));
    let decision = decide_both(&both, &current, &call("mail.send"));
    assert_eq!(terms(&decision), (Some("safety"), 2, 3_600));
}

#[test]
fn a_forbid_that_cannot_be_evaluated_denies() {
    let overflow = r#"@id("overflow") forbid (principal, action == Action::"callTool", resource)
        when { context.argument_bytes + 9223372036854775807 < 0 };"#;
    let decision = platform(&format!("{OPEN}{overflow}")).decide(&call("docs.search"));
    assert_eq!(decision.verdict, Verdict::Deny);
    assert_eq!(decision.guidance, Some(Guidance::Refuse));
    assert_eq!(decision.errors.len(), 1);
    assert_eq!(decision.errors[0].rule.as_ref().unwrap().rule, "overflow");
    assert!(decision.errors[0].message.contains("overflow"), "{}", decision.errors[0].message);
    assert_eq!(rules(&decision), [""; 0]);
}

#[test]
fn an_error_in_any_layer_or_in_a_named_rule_denies() {
    let overflow = r#"forbid (principal, action, resource == Tool::"docs.search")
        when { context.step * 9223372036854775807 < 0 };"#;
    let lower = stack(&[(Layer::Platform, OPEN), (Layer::Task, &format!("{OPEN}{overflow}"))]);
    assert_eq!(lower.decide(&tainted(call("docs.search"))).verdict, Verdict::Deny);
    assert!(lower.decide(&tainted(call("docs.fetch"))).is_allowed());
}

#[test]
fn log_only_is_recorded_and_not_enforced() {
    let trial = r#"@id("trial") @mode("log_only") @guidance("refuse") forbid (principal, action == Action::"callTool", resource);
        @id("broken-trial") @mode("log_only") forbid (principal, action == Action::"callTool", resource)
        when { context.argument_bytes + 9223372036854775807 < 0 };"#;
    let decision = platform(&format!("{OPEN}{trial}")).decide(&call("docs.search"));
    assert_eq!(decision.verdict, Verdict::Allow);
    assert_eq!(decision.log_only.len(), 1);
    assert_eq!(decision.log_only[0].rule, "trial");
    assert_eq!(decision.log_only_errors.len(), 1);
    assert_eq!(decision.log_only_errors[0].rule.as_ref().unwrap().rule, "broken-trial");
    assert_eq!(decision.errors, []);

    let enforced = trial.replace("log_only", "enforce");
    assert_eq!(platform(&format!("{OPEN}{enforced}")).decide(&call("docs.search")).verdict, Verdict::Deny);
}

#[test]
fn the_current_platform_tightens_and_never_loosens() {
    let tight =
        r#"@id("revoked") @guidance("continue_without") forbid (principal, action, resource == Tool::"docs.search");"#;
    let open = platform(OPEN);
    let closed = platform(&format!("{OPEN}{tight}"));

    let decision = decide_both(&open, &closed, &call("docs.search"));
    assert_eq!(decision.verdict, Verdict::Deny);
    assert_eq!(rules(&decision), ["revoked"]);
    assert_eq!(decision.guidance, Some(Guidance::ContinueWithout));
    assert_ne!(decision.policies[0].hash, decision.current[0].hash);

    assert_eq!(decide_both(&closed, &open, &call("docs.search")).verdict, Verdict::Deny);

    let same = decide_both(&open, &open, &call("docs.search"));
    assert!(same.is_allowed());
    assert_eq!(same.policies, same.current);
    assert_eq!(rules(&same), ["open"]);
}

#[test]
fn every_determining_rule_is_named_in_layer_and_text_order() {
    let forbids = r#"@id("b") forbid (principal, action, resource == Tool::"mail.send");
        @id("a") forbid (principal, action, resource in Upstream::"mail");
        forbid (principal, action == Action::"callTool", resource) when { resource.name == "mail.send" };"#;
    let decision = stack(&[(Layer::Task, &format!("{OPEN}{forbids}")), (Layer::Platform, &format!("{OPEN}{forbids}"))])
        .decide(&call("mail.send"));
    assert_eq!(rules(&decision), ["b", "a", "policy3", "b", "a", "policy3"]);
    assert_eq!(decision.determining[0].layer, Layer::Platform);
    assert_eq!(decision.determining[3].layer, Layer::Task);
}

#[test]
fn policies_read_arguments() {
    let source = r#"permit (principal, action == Action::"callTool", resource)
          when { context.arguments.contains({path: "repo.name", text: "ours"}) };
        @id("drop") forbid (principal, action == Action::"callTool", resource)
          when { context.argument_text like "*drop table*" };
        @id("force") forbid (principal, action == Action::"callTool", resource)
          when { context.argument_names.contains("options[].force") };"#;
    let stack = platform(source);
    let decide = |arguments| stack.decide(&call_with(tool("git.push"), "prod", arguments));
    assert!(decide(json!({"repo": {"name": "ours"}})).is_allowed());
    assert_eq!(decide(json!({"repo": {"name": "theirs"}})).verdict, Verdict::Deny);
    assert_eq!(decide(json!({"repo.name": "ours"})).verdict, Verdict::Deny);
    assert_eq!(decide(json!({"note": "repo.name\nours"})).verdict, Verdict::Deny);
    let dropped = decide(json!({"repo": {"name": "ours"}, "sql": ["DROP Table x"]}));
    assert_eq!(rules(&dropped), ["drop"]);
    let forced = decide(json!({"repo": {"name": "ours"}, "options": [{"force": true}]}));
    assert_eq!(rules(&forced), ["force"]);
}

#[test]
fn arguments_that_are_too_many_deny_only_where_they_are_read() {
    let values: Vec<usize> = (0..5000).collect();
    let request = call_with(tool("sheet.write"), "dev", json!({"rows": values}));
    assert!(platform(OPEN).decide(&request).is_allowed());
    let reading = r#"forbid (principal, action == Action::"callTool", resource)
        when { context["arguments"].contains({path: "rows[]", text: "x"}) };"#;
    let decision = platform(&format!("{OPEN}{reading}")).decide(&request);
    assert_eq!(decision.verdict, Verdict::Deny);
    assert!(decision.errors[0].message.contains("distinct values"), "{:?}", decision.errors);
}

#[test]
fn a_record_decides_again_and_holds_no_arguments() {
    let before = platform(OPEN).decide(&tainted(call_with(tool("mail.send"), "dev", json!({"to": "s3cr3t"}))));
    let written = serde_json::to_string(&before).unwrap();
    assert!(!written.contains("s3cr3t"));
    assert!(written.contains("sha256:cafe"));
    let read: Decision = serde_json::from_str(&written).unwrap();

    let stricter = platform(&format!(
        "{OPEN}@id(\"later\") forbid (principal, action == Action::\"callTool\", resource)
         when {{ context.taint && context.argument_text like \"*s3cr3t*\" }};"
    ));
    let without = stricter.decide(&read.facts);
    assert_eq!(without.verdict, Verdict::Deny);
    assert!(without.errors[0].message.contains("digest only"));
    let again = stricter.decide(&read.facts.clone().with_arguments(json!({"to": "s3cr3t"})));
    assert_eq!(rules(&again), ["later"]);
    let same = platform(OPEN).decide(&read.facts.with_arguments(json!({"to": "s3cr3t"})));
    assert_eq!(same, before);
}

#[test]
fn the_hash_covers_layer_name_version_and_text() {
    let base = text(Layer::Platform, OPEN);
    let mut hashes = BTreeSet::from([base.hash()]);
    hashes.insert(PolicyText { layer: Layer::Task, ..base.clone() }.hash());
    hashes.insert(PolicyText { name: "other".to_owned(), ..base.clone() }.hash());
    hashes.insert(PolicyText { version: 2, ..base.clone() }.hash());
    hashes.insert(PolicyText { text: format!("{OPEN} "), ..base.clone() }.hash());
    assert_eq!(hashes.len(), 5);
    let fixed = PolicyText { layer: Layer::Platform, name: "p".to_owned(), version: 1, text: "x".to_owned() };
    // printf 'mcp-agent-runtime/policy/v1\nplatform\np\n1\nx' | sha256sum
    assert_eq!(fixed.hash(), "sha256:f440b42800d902ac063412b5d16a83b8b391073a3a9264ac6b809d46192b851f");
}

mod the_default_platform {
    use super::*;

    fn default() -> Stack {
        Stack::parse([default_platform()]).unwrap()
    }

    fn writer() -> Tool {
        Tool { read_only: false, ..tool("mail.send") }
    }

    #[test]
    fn calls_only_what_is_sealed() {
        assert!(default().decide(&call("docs.search")).is_allowed());
        let unsealed = Request::new(Question::CallTool {
            agent: agent("dev"),
            tool: tool("docs.search"),
            sealed: false,
            arguments: Arguments::new(json!({}), "d", 2),
        });
        let decision = default().decide(&unsealed);
        assert_eq!(decision.verdict, Verdict::Deny);
        assert_eq!(decision.unpermitted.len(), 1);
    }

    #[test]
    fn a_tainted_run_only_reads_except_in_development() {
        for (environment, verdict) in [("prod", Verdict::Deny), ("staging", Verdict::Deny), ("dev", Verdict::Allow)] {
            let write = call_with(writer(), environment, json!({}));
            assert!(default().decide(&write).is_allowed());
            let decision = default().decide(&tainted(write));
            assert_eq!(decision.verdict, verdict, "{environment}");
            let read = call_with(tool("docs.search"), environment, json!({}));
            assert!(default().decide(&tainted(read)).is_allowed());
        }
        let decision = default().decide(&tainted(call_with(writer(), "prod", json!({}))));
        assert_eq!(rules(&decision), ["platform.tainted-writes"]);
        assert_eq!(decision.guidance, Some(Guidance::Ask));
        assert!(decision.message.is_some());
    }

    #[test]
    fn production_uses_nothing_unverified() {
        let unverified = Tool { trust_tier: TrustTier::Unverified, ..tool("docs.search") };
        for (environment, verdict) in [("prod", Verdict::Deny), ("dev", Verdict::Allow)] {
            let list = Request::new(Question::ListTool { agent: agent(environment), tool: unverified.clone() });
            assert_eq!(default().decide(&list).verdict, verdict);
            assert_eq!(default().decide(&call_with(unverified.clone(), environment, json!({}))).verdict, verdict);
            let model = Model { name: "m".to_owned(), ..Model::default() };
            let select = Request::new(Question::SelectModel { agent: agent(environment), model });
            assert_eq!(default().decide(&select).verdict, verdict);
        }
    }

    #[test]
    fn the_other_points_that_are_decided_are_open() {
        let session = Session::default();
        let open = [
            Question::ShapePrompt { agent: agent("prod"), session, prompt_bytes: 9 },
            Question::ReceiveResult { agent: agent("prod"), tool: tool("docs.search"), result: ResultFacts::default() },
            Question::ListTool { agent: agent("prod"), tool: tool("docs.search") },
            Question::SelectModel {
                agent: agent("prod"),
                model: Model { trust_tier: TrustTier::Aligned, ..Model::default() },
            },
        ];
        for question in open {
            assert!(Request::new(question.clone()).point().is_decided());
            let decision = default().decide(&Request::new(question));
            assert!(decision.is_allowed(), "{decision:?}");
        }
    }
}
