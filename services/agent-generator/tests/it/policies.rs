//! What policies decide while an agent is made: its models, its prompt and its tools.

use mar_proto::session::Task;
use mar_proto::types::{ErrorReason, TrustTier};
use mar_runtime::status::{Reason, metadata, violations};
use tonic::{Code, Status};

use crate::harness::{Harness, request, task, verified};

const OPEN: &str = "permit (principal, action, resource);";

fn under(rules: &str) -> Task {
    Task { alignment_policy: format!("{OPEN}\n{rules}"), ..task(&["docs.search"]) }
}

/// The sealed models and the price of a reservation's output.
async fn admitted(harness: &mut Harness, rules: &str) -> (Vec<String>, i64) {
    let agent = harness.client.generate_agent(request(under(rules))).await.unwrap().into_inner().agent.unwrap();
    let verified = verified(agent.descriptor.as_ref().unwrap());
    let role = &verified.descriptor().model.roles["reason"];
    let models = role.admitted.iter().map(|one| one.model.clone()).collect();
    (models, agent.price.unwrap().output_per_million)
}

async fn denied(harness: &mut Harness, rules: &str) -> Status {
    let status = harness.client.generate_agent(request(under(rules))).await.unwrap_err();
    assert_eq!((status.code(), Reason::of(&status)), (Code::PermissionDenied, Some(ErrorReason::PolicyDenied)));
    status
}

#[tokio::test]
async fn a_denied_model_is_not_sealed() {
    let mut harness = Harness::start().await;
    let (models, price) = admitted(&mut harness, "").await;
    assert_eq!((models, price), (vec!["models/large".to_owned(), "models/small".to_owned()], 10));

    let small = (vec!["models/small".to_owned()], 6);
    for rule in [
        r#"forbid (principal, action == Action::"selectModel", resource == Model::"large");"#,
        r#"forbid (principal, action, resource == Model::"large");"#,
    ] {
        assert_eq!(admitted(&mut harness, rule).await, small, "{rule}");
    }

    harness.router.state().tiers.insert("large", TrustTier::Experimental);
    let ranked = r#"forbid (principal, action == Action::"selectModel", resource)
        when { resource.trust_rank < 2 && resource.provider == "house" && resource.residency.contains("eu") };"#;
    assert_eq!(admitted(&mut harness, ranked).await, small);
}

#[tokio::test]
async fn without_a_model_that_policy_allows_there_is_no_agent() {
    let mut harness = Harness::start().await;
    let status = denied(
        &mut harness,
        r#"@id("no-models") forbid (principal, action == Action::"selectModel", resource) when { resource.provider == "house" };"#,
    )
    .await;
    assert_eq!(metadata(&status)["policies"], "task/no-models");
    assert_eq!(metadata(&status)["models"], "models/large,models/small");
    assert!(status.message().contains("task/no-models"), "{status:?}");

    // A layer that permits no model denies them all.
    let mute = Task {
        alignment_policy:
            r#"permit (principal, action in [Action::"listTool", Action::"callTool", Action::"shapePrompt"], resource);"#
                .into(),
        ..task(&[])
    };
    let status = harness.client.generate_agent(request(mute)).await.unwrap_err();
    assert_eq!(
        (Reason::of(&status), metadata(&status)["policies"].as_str()),
        (Some(ErrorReason::PolicyDenied), "task")
    );
}

#[tokio::test]
async fn a_prompt_is_decided_as_it_is_rendered() {
    let mut harness = Harness::start().await;
    let long = r#"@id("short-only") forbid (principal, action == Action::"shapePrompt", resource) when { context.prompt_bytes > 100 };"#;
    let status = denied(&mut harness, long).await;
    assert_eq!(metadata(&status)["policies"], "task/short-only");
    assert!(harness.router.state().asked.is_empty(), "no model is looked for");
    admitted(&mut harness, &long.replace("> 100", "> 1000000")).await;

    let labelled = r#"@id("no-hr") forbid (principal, action == Action::"shapePrompt", resource)
        when { resource.labels.contains("team=hr") && resource.purpose == "support" };"#;
    admitted(&mut harness, labelled).await;
    let marked = Task { labels: [("team".to_owned(), "hr".to_owned())].into(), ..under(labelled) };
    let status = harness.client.generate_agent(request(marked)).await.unwrap_err();
    assert_eq!(
        (Reason::of(&status), metadata(&status)["policies"].as_str()),
        (Some(ErrorReason::PolicyDenied), "task/no-hr")
    );
}

#[tokio::test]
async fn tools_are_judged_by_the_tier_that_the_gateway_states() {
    let mut harness = Harness::start().await;
    let rule = r#"@id("reviewed") forbid (principal, action == Action::"listTool", resource) when { resource.trust_rank < 2 };"#;
    assert_eq!(metadata(&denied(&mut harness, rule).await)["policies"], "task/reviewed");
    harness.gateway.state().tools.iter_mut().for_each(|tool| tool.trust_tier = TrustTier::Aligned.into());
    admitted(&mut harness, rule).await;
}

#[tokio::test]
async fn a_rule_that_nobody_would_ask_is_refused() {
    let mut harness = Harness::start().await;
    for point in ["startSession", "giveAnswer"] {
        let rule = format!("forbid (principal, action == Action::\"{point}\", resource);");
        let status = harness.client.generate_agent(request(under(&rule))).await.unwrap_err();
        assert_eq!(Reason::of(&status), Some(ErrorReason::InvalidRequest), "{status:?}");
        let found = violations(&status);
        assert_eq!((found.len(), found[0].field.as_str()), (1, "task.alignment_policy"));
        assert!(found[0].description.contains(&format!("{point}, which no service decides yet")), "{found:?}");
    }
}
