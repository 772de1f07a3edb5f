//! Runs that begin with what another run has recorded.

use anyhow::Context as _;
use mar_proto::session::*;
use mar_testkit::process::built_binary;
use mar_tests::client::{name_of, request_id};
use mar_tests::{Client, Deployment, Options, task};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::verifying::rows::Rows;

both_ways! {
    a_fork_replays_what_was_recorded
    a_recorded_result_passes_the_policies_of_the_fork
    another_agent_is_shown_no_result_before_its_policies
    what_cannot_be_forked_says_why
    a_fork_whose_origin_has_lost_a_payload_fails_and_says_so
}

const SCRIPT: &str = r#"
[[rule]]
match = { contains = "Hang on." }
reply = { hang = true }
[[rule]]
match = { last_role = "tool" }
reply = { text = "So it went." }
[[rule]]
reply = { tool_calls = [{ name = "mail_count", arguments = {} }] }
"#;

async fn open(options: Options) -> anyhow::Result<(Deployment, Client)> {
    let server = built_binary("examples/scripted_mcp")?.display().to_string();
    let toml = format!(
        "[tool_gateway.upstreams.mail]\nkind = 'mcp_stdio'\ncommand = '{server}'\nargs = ['stdio', 'mail']\n\
         trust_tier = 'ALIGNED'\ntrusted = true\n"
    );
    let mut system = Deployment::prepare(options.script(SCRIPT).extra(toml)).await?;
    std::fs::create_dir(system.folder().join("mail"))?;
    system.start_all().await?;
    system.wait_for_tools(&["mail"]).await?;
    let client = system.client().await?;
    Ok((system, client))
}

fn sent(system: &Deployment) -> usize {
    let journal = std::fs::read_to_string(system.folder().join("mail/journal")).unwrap_or_default();
    journal.lines().filter(|line| line.starts_with("count ")).count()
}

fn request(name: &str, through_seq: i64) -> ForkRunRequest {
    ForkRunRequest { request_id: request_id(), name: name.into(), through_seq, ..Default::default() }
}

async fn origin(client: &mut Client) -> anyhow::Result<Run> {
    let session = client.session().await?;
    let task = Task { tools: task::selectors(&["mail.count"]), ..task::question("Send it.") };
    let run = client.start(&session, task).await?;
    client.until(&run.name, |run| run.seal.is_some()).await
}

async fn a_fork_replays_what_was_recorded(options: Options) -> anyhow::Result<()> {
    let (system, mut client) = open(options).await?;
    let first = origin(&mut client).await?;
    assert_eq!((first.state(), sent(&system)), (RunState::Succeeded, 1));
    let events = client.events(&first.name).await?;
    let turn = events.iter().find(|event| name_of(event) == "TurnCommitted").context("no turn")?.seq;
    for through in [0, turn, turn + 2] {
        let answer = client.grpc.fork_run(request(&first.name, through)).await?.into_inner();
        let fork = client.until(&answer.run.context("no fork")?.name, |run| run.seal.is_some()).await?;
        assert_eq!(fork.state(), RunState::Succeeded, "{fork:#?}");
        assert_eq!(sent(&system), 1, "nothing is sent again");
        assert_eq!(
            (fork.parent.as_str(), fork.fork.as_ref().map(|fork| fork.through_seq)),
            (&*first.name, Some(through))
        );
        assert_eq!(fork.totals.unwrap_or_default().tool_calls, 1);
        let found = client.grpc.verify_run(VerifyRunRequest { name: fork.name.clone() }).await?.into_inner();
        assert!(found.valid && found.sealed, "{found:?}");
        mar_tests::oracle::check_fork(&fork, &client.events(&fork.name).await?, &events)?;
        let genesis = client.events(&fork.name).await?.first().context("no event")?.prev_hash.clone();
        assert_eq!(genesis, events[usize::try_from(through)?].hash, "its chain names its origin");
        let pair = DiffRunsRequest { name: fork.name.clone(), base: String::new() };
        let diff = client.grpc.diff_runs(pair).await?.into_inner();
        assert_eq!((diff.base.as_str(), diff.comparisons.len()), (&*first.name, 14));
        for found in diff.comparisons {
            assert!(found.differences.is_empty(), "{found:?}");
        }
    }
    // Another task is another agent, and what it was asked differs.
    let other = Task { tools: task::selectors(&["mail.count"]), ..task::question("Send it once more.") };
    let own = ForkRunRequest { task: Some(other), ..request(&first.name, 0) };
    let fork = client.grpc.fork_run(own).await?.into_inner().run.context("no fork")?;
    let fork = client.until(&fork.name, |run| run.seal.is_some()).await?;
    assert_eq!((fork.state(), sent(&system)), (RunState::Succeeded, 1));
    let pair = DiffRunsRequest { name: fork.name, base: first.name };
    let diff = client.grpc.diff_runs(pair).await?.into_inner().comparisons;
    let differs = |aspect: RunAspect| diff.iter().any(|one| one.aspect() == aspect && !one.differences.is_empty());
    assert!(differs(RunAspect::Task) && differs(RunAspect::Prompt) && !differs(RunAspect::Verdicts), "{diff:?}");
    Ok(())
}

async fn a_recorded_result_passes_the_policies_of_the_fork(options: Options) -> anyhow::Result<()> {
    let (system, mut client) = open(options).await?;
    let asked = |rule: &str| Task {
        tools: task::selectors(&["mail.count"]),
        alignment_policy: format!("permit (principal, action, resource);\n{rule}"),
        ..task::question("Send it.")
    };
    let first = origin(&mut client).await?;
    let there = client.events(&first.name).await?;
    let was = results(&there).pop().context("no result")?;
    let receive = "forbid (principal, action == Action::\"receiveResult\", resource)";
    // A stricter fork does not learn it; what is not forbidden comes through to the bit.
    for (rule, denied) in [
        (format!("@id(\"no\") @message(\"Not for this one.\") {receive};"), true),
        (format!("@id(\"no\") {receive} when {{ context.result_bytes > {} }};", was.0.size_bytes), false),
    ] {
        let own = ForkRunRequest { task: Some(asked(&rule)), ..request(&first.name, 0) };
        let fork = client.grpc.fork_run(own).await?.into_inner().run.context("no fork")?;
        let fork = client.until(&fork.name, |run| run.seal.is_some()).await?;
        assert_eq!((fork.state(), sent(&system)), (RunState::Succeeded, 1), "{fork:#?}");
        let events = client.events(&fork.name).await?;
        mar_tests::oracle::check_fork(&fork, &events, &there)?;
        let (back, content) = results(&events).pop().context("no result")?;
        let told = content.tool_result.clone().unwrap_or_default();
        let of_first = was.1.tool_result.clone().unwrap_or_default();
        if denied {
            assert_eq!(
                (back.outcome(), &*back.reason, back.recorded_seq),
                (ToolOutcome::Denied, "POLICY_DENIED", None)
            );
            assert!(format!("{told:?}").contains("Not for this one.") && told.content != of_first.content, "{told:?}");
            assert!(content.decision_json.contains("\"result_decision\""), "{}", content.decision_json);
        } else {
            assert_eq!((back.outcome(), back.recorded_seq.is_some()), (was.0.outcome(), true));
            assert_eq!((told.content, back.size_bytes), (of_first.content, was.0.size_bytes));
        }
    }
    // Under the policy that withheld it already, the fork is told the very same.
    let session = client.session().await?;
    let shut = client.start(&session, asked(&format!("@id(\"no\") {receive};"))).await?;
    let shut = client.until(&shut.name, |run| run.seal.is_some()).await?;
    assert_eq!((shut.state(), sent(&system)), (RunState::Succeeded, 2));
    let fork = client.grpc.fork_run(request(&shut.name, 0)).await?.into_inner().run.context("no fork")?;
    let fork = client.until(&fork.name, |run| run.seal.is_some()).await?;
    mar_tests::oracle::check_fork(&fork, &client.events(&fork.name).await?, &client.events(&shut.name).await?)?;
    let pair = DiffRunsRequest { name: fork.name, base: String::new() };
    for found in client.grpc.diff_runs(pair).await?.into_inner().comparisons {
        assert!(found.differences.is_empty(), "{found:?}");
    }
    assert_eq!(sent(&system), 2, "nothing is sent again");
    Ok(())
}

async fn another_agent_is_shown_no_result_before_its_policies(options: Options) -> anyhow::Result<()> {
    let (system, mut client) = open(options).await?;
    let first = origin(&mut client).await?;
    let there = client.events(&first.name).await?;
    let was = results(&there).pop().context("no result")?.1.tool_result.unwrap_or_default().content;
    // Up to the last event but the end: what the first run received, and the answer that it made of it.
    let through = first.next_seq - 2;
    for (rule, denied) in [
        ("forbid (principal, action == Action::\"receiveResult\", resource);", true),
        ("forbid (principal, action == Action::\"listTool\", resource == Tool::\"nothing.like.this\");", false),
    ] {
        let stricter = Task {
            tools: task::selectors(&["mail.count"]),
            alignment_policy: format!("permit (principal, action, resource);\n{rule}"),
            ..task::question("Send it.")
        };
        let own = ForkRunRequest { task: Some(stricter), ..request(&first.name, through) };
        let fork = client.grpc.fork_run(own).await?.into_inner().run.context("no fork")?;
        let fork = client.until(&fork.name, |run| run.seal.is_some()).await?;
        assert_eq!((fork.state(), sent(&system)), (RunState::Succeeded, 1), "{fork:#?}");
        let events = client.events(&fork.name).await?;
        mar_tests::oracle::check_fork(&fork, &events, &there)?;
        let names: Vec<_> = events.iter().map(name_of).collect();
        let shared = names.iter().filter(|name| **name == "EventShared").count();
        assert_eq!(shared, 1, "the turn that asks, and nothing that has read a result: {names:?}");
        let (back, content) = results(&events).pop().context("no result")?;
        let told = content.tool_result.unwrap_or_default().content;
        assert_eq!((back.recorded_seq.is_none(), told != was), (denied, denied), "{back:?}: {told:?}");
        assert_eq!(back.outcome(), if denied { ToolOutcome::Denied } else { ToolOutcome::Ok });
        // What the model was sent, not what the log says of it.
        let last = system.rehearsal.requests().pop().context("no request")?.body;
        let read = last["messages"].as_array().and_then(|all| all.last()).context("no message")?.to_string();
        assert_eq!(read.contains("POLICY_DENIED"), denied, "{read}");
    }
    // The same agent goes on from what it was shown.
    let fork = client.grpc.fork_run(request(&first.name, through)).await?.into_inner().run.context("no fork")?;
    let fork = client.until(&fork.name, |run| run.seal.is_some()).await?;
    let events = client.events(&fork.name).await?;
    mar_tests::oracle::check_fork(&fork, &events, &there)?;
    assert!(events.iter().filter(|event| name_of(event) == "EventShared").count() > 1 && results(&events).is_empty());
    Ok(())
}

/// The results in a log, with what the model was told.
fn results(events: &[Event]) -> Vec<(ToolReturned, EventContent)> {
    let results = events.iter().filter_map(|event| match event.body.as_ref()?.body.clone()? {
        event_leaf::Body::ToolReturned(back) => Some((back, event.content.clone().unwrap_or_default())),
        _ => None,
    });
    results.collect()
}

async fn what_cannot_be_forked_says_why(options: Options) -> anyhow::Result<()> {
    let (_system, mut client) = open(options).await?;
    let first = origin(&mut client).await?;
    let end = first.next_seq - 1;
    for through in [-1, end, end + 7] {
        let refused = client.grpc.fork_run(request(&first.name, through)).await.err().context("it was forked")?;
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    let unknown = format!("{}/runs/00000000-0000-7000-8000-000000000000", first.name.split("/runs/").next().unwrap());
    let refused = client.grpc.fork_run(request(&unknown, 0)).await.err().context("it was forked")?;
    assert_eq!(refused.code(), Code::NotFound);
    let refused = client.grpc.diff_runs(DiffRunsRequest { name: first.name.clone(), base: String::new() }).await;
    assert_eq!(refused.err().context("it was compared")?.code(), Code::InvalidArgument, "it is no fork");
    // One that is still open has nothing to be forked from yet, nor to be compared.
    let open = client.session().await?;
    let open = client.start(&open, task::question("Hang on.")).await?;
    let refused = client.grpc.fork_run(request(&open.name, 0)).await.err().context("it was forked")?;
    let why = |status: &Status| status.get_details_error_info().map(|found| found.reason);
    assert_eq!((refused.code(), why(&refused).as_deref()), (Code::FailedPrecondition, Some("RUN_STATE")));
    let pair = DiffRunsRequest { name: open.name.clone(), base: open.name };
    let refused = client.grpc.diff_runs(pair).await.err().context("it was compared")?;
    assert_eq!(why(&refused).as_deref(), Some("RUN_STATE"));
    let asked = request(&first.name, 0);
    let one = client.grpc.fork_run(asked.clone()).await?.into_inner().run.context("no fork")?;
    let again = client.grpc.fork_run(asked).await?.into_inner().run.context("no fork")?;
    assert_eq!(one.name, again.name, "a request forks once");
    Ok(())
}

async fn a_fork_whose_origin_has_lost_a_payload_fails_and_says_so(options: Options) -> anyhow::Result<()> {
    let (system, mut client) = open(options).await?;
    let first = origin(&mut client).await?;
    let events = client.events(&first.name).await?;
    let back = events.iter().find(|event| name_of(event) == "ToolReturned").context("no result")?.seq;
    let rows = Rows::open(&system.store_url()).await?;
    rows.clear_payload(first.name.rsplit('/').next().context("no id")?.parse()?, back).await?;
    let fork = client.grpc.fork_run(request(&first.name, 0)).await?.into_inner().run.context("no fork")?;
    let fork = client.until(&fork.name, |run| run.seal.is_some()).await?;
    let failure = fork.failure.clone().unwrap_or_default();
    assert_eq!((fork.state(), failure.reason.as_str()), (RunState::Failed, "PAYLOADS_GONE"), "{fork:#?}");
    assert_eq!(sent(&system), 1, "what is recorded is not made because its record is gone");
    let pair = DiffRunsRequest { name: fork.name, base: String::new() };
    let refused = client.grpc.diff_runs(pair).await.err().context("it was compared")?;
    assert_eq!(refused.get_details_error_info().context("no reason")?.reason, "PAYLOADS_GONE");
    Ok(())
}
