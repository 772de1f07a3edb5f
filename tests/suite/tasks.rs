//! Whole tasks.

use mar_proto::session::{
    CancelRunRequest, ModelConstraints, RunState, RunTaskRequest, StartRunRequest, Task, event_leaf::Body,
};
use mar_proto::types::{ErrorReason, Part, part::Content};
use mar_testkit::ports;
use mar_testkit::postgres::Postgres;
use mar_testkit::process::{Process, built_binary};
use mar_testkit::redis::Redis;
use mar_tests::client::request_id;
use mar_tests::{Client, Deployment, Options, task};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::process::Command;

use crate::reading::{body, contents, descriptor, models, passages, reason, results, selections};

both_ways! {
    answers_with_sources
    a_model_without_tool_calling_answers_with_sources
    an_agent_of_defaults_runs
    calls_at_a_time_are_ordered_by_index
    a_request_id_works_once
}

const WITH_ONE_SEARCH: [&str; 9] = [
    "RunAdmitted",
    "AgentSealed",
    "GenerationStarted",
    "TurnCommitted",
    "ToolIntent",
    "ToolReturned",
    "GenerationStarted",
    "TurnCommitted",
    "RunEnded",
];

async fn answers_with_sources(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options).await?;
    let mut client = system.client().await?;
    let followed = client.run(task::with_sources("When does the harbour of Marel flood?")).await?;
    assert_eq!(followed.run.state(), RunState::Succeeded, "{:#?}\n{}", followed.run, system.log().join("\n"));
    assert_eq!(followed.story(), WITH_ONE_SEARCH);
    assert_cites_what_was_received(&followed);
    assert!(followed.text().contains("spring tide"), "{}", followed.text());
    let totals = followed.run.totals.unwrap_or_default();
    assert_eq!((totals.steps, totals.tool_calls), (2, 1));
    let usage = totals.usage.unwrap_or_default();
    assert!(usage.input_tokens > 0 && usage.output_tokens > 0 && !usage.estimated, "{usage:?}");
    Ok(())
}

/// Every citation is of a passage that the run received and quotes it; the passage is named by document and place.
fn assert_cites_what_was_received(followed: &mar_tests::Followed) {
    let answer = followed.run.answer.clone().unwrap_or_default();
    assert!(!answer.citations.is_empty(), "{answer:#?}");
    let received = passages(followed);
    let texts: Vec<String> = results(followed).iter().flat_map(|result| passage_texts(&result.content)).collect();
    for citation in &answer.citations {
        let cited = citation.passage.clone().unwrap_or_default();
        let found = received.iter().find(|passage| passage.passage_id == cited.passage_id);
        let found = found.unwrap_or_else(|| panic!("{cited:?} is none of {received:?}"));
        assert_eq!((&cited.document, &cited.title), (&found.document, &found.title));
        assert!(!cited.title.is_empty());
        assert!(cited.passage_id.starts_with(&format!("{}#", cited.document)), "{cited:?}");
        let quoted = citation.quote.trim_end_matches('…').trim();
        assert!(!quoted.is_empty() && texts.iter().any(|text| text.contains(quoted)), "{quoted:?} in {texts:?}");
    }
    let tides = answer.citations.iter().filter_map(|citation| citation.passage.as_ref());
    assert!(tides.into_iter().any(|passage| passage.document == "tides.md"), "{:?}", answer.citations);
}

/// The texts of the passages that a search answers with.
fn passage_texts(content: &[Part]) -> Vec<String> {
    let texts = content.iter().filter_map(|part| match &part.content {
        Some(Content::Text(text)) => serde_json::from_str::<Vec<Value>>(text).ok(),
        _ => None,
    });
    texts.flatten().filter_map(|passage| passage["text"].as_str().map(str::to_owned)).collect()
}

async fn a_model_without_tool_calling_answers_with_sources(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options).await?;
    let mut client = system.client().await?;
    let constrained = ModelConstraints { models: vec!["models/rehearsal-constrained".into()], ..Default::default() };
    let task = Task { model: Some(constrained), ..task::with_sources("What does the lighthouse of Marel burn?") };
    let followed = client.run(task).await?;
    assert_eq!(followed.run.state(), RunState::Succeeded, "{:#?}\n{}", followed.run, system.log().join("\n"));
    assert_eq!(followed.story(), WITH_ONE_SEARCH);
    assert_eq!(models(&followed), ["models/rehearsal-constrained"; 2]);
    let calls: Vec<_> =
        contents(&followed).filter_map(|content| content.turn.as_ref()).flat_map(|turn| &turn.parts).collect();
    let Some(Content::ToolCall(call)) = calls.first().and_then(|part| part.content.as_ref()) else {
        panic!("the first turn calls no tool: {calls:?}");
    };
    assert_eq!((call.tool.as_str(), call.provider_call_id.as_str()), ("tools/docs.search", ""));
    let answer = followed.run.answer.clone().unwrap_or_default();
    let cited = answer.citations.first().and_then(|citation| citation.passage.clone()).unwrap_or_default();
    assert_eq!(cited.document, "lamps.md", "{answer:?}");

    // So says the log.
    let offer = "constrained to one of docs_list, docs_search and answer";
    assert!(selections(&followed).iter().all(|why| why.contains(offer)), "{:?}", selections(&followed));
    // The model saw no tools, but a schema that offered each of them beside the answer.
    let asked = system.rehearsal.requests().remove(0).body;
    assert!(asked.get("tools").is_none(), "{asked}");
    let offered = offered_actions(&asked["response_format"]["json_schema"]["schema"]);
    assert_eq!(offered, ["docs_list", "docs_search", "answer"]);
    Ok(())
}

/// The names that the branches of a choice have in common: one constant each.
fn offered_actions(schema: &Value) -> Vec<String> {
    let branches = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()).cloned().unwrap_or_default();
    let constant = |branch: &Value| branch["properties"]["action"]["const"].as_str().map(str::to_owned);
    branches.iter().filter_map(constant).collect()
}

async fn an_agent_of_defaults_runs(options: Options) -> anyhow::Result<()> {
    let system =
        Deployment::start(options.script("[[rule]]\nreply = { json = { answer = 'Good day.', citations = [] } }"))
            .await?;
    let mut client = system.client().await?;
    let bare = Task { r#type: String::new(), ..task::question("Say good day.") };
    let followed = client.run(bare).await?;
    assert_eq!(followed.run.state(), RunState::Succeeded, "{:#?}\n{}", followed.run, system.log().join("\n"));
    assert_eq!(followed.text(), "Good day.");
    let sealed = descriptor(&followed)?;
    assert_eq!(sealed["agent"]["tools"], json!([]));
    let layers = sealed["policy"]["alignment_policy"].as_array().cloned().unwrap_or_default();
    assert_eq!(layers.first().map(|layer| &layer["layer"]), Some(&json!("platform")), "{layers:?}");
    for limit in ["max_steps", "max_tool_calls", "max_active_time_ms", "max_input_tokens", "max_output_tokens"] {
        assert!(sealed["halting"][limit].as_i64().is_some_and(|limit| limit > 0), "{limit}: {}", sealed["halting"]);
    }
    let limits = followed.run.limits.unwrap_or_default();
    assert!(limits.max_steps.is_some() && limits.max_cost_nano_usd.is_some() && limits.expire_after.is_some());
    assert!(followed.run.expire_time.is_some());
    Ok(())
}

const THREE_CALLS: &str = r#"
[[rule]]
match = { turn = 0 }
reply = { tool_calls = [
  { name = "slow_slow", arguments = { ms = 400 }, id = "first" },
  { name = "docs_search", arguments = { query = "whale oil" }, id = "second" },
  { name = "slow_echo", arguments = { text = "third said" }, id = "third" },
] }
[[rule]]
reply = { text = "All three." }
"#;

async fn calls_at_a_time_are_ordered_by_index(options: Options) -> anyhow::Result<()> {
    let scripted = built_binary("examples/scripted_mcp")?;
    let upstream = format!(
        "[tool_gateway.upstreams.slow]\nkind = 'mcp_stdio'\ncommand = '{}'\nargs = ['stdio', '{{folder}}']\n",
        scripted.display()
    );
    let system = Deployment::start(options.script(THREE_CALLS).extra(upstream)).await?;
    crate::mcp::listed(&system, "slow.slow").await?;
    let mut client = system.client().await?;
    let task = Task { tools: task::selectors(&["docs.*", "slow.*"]), ..task::question("Call three tools.") };
    let followed = client.run(task).await?;
    assert_eq!(followed.run.state(), RunState::Succeeded, "{:#?}\n{}", followed.run, system.log().join("\n"));

    // All intents are durable before a result is, and the slow call, which is the first, does not come back first.
    let story = followed.story();
    let intents: Vec<_> = (0..story.len()).filter(|at| story[*at] == "ToolIntent").collect();
    let first_result = story.iter().position(|name| *name == "ToolReturned").unwrap_or_default();
    assert!(intents.len() == 3 && intents.iter().all(|at| *at < first_result), "{story:?}");
    let ids = |wanted: fn(&Body) -> Option<&String>| -> Vec<String> {
        followed.events().into_iter().filter_map(body).filter_map(wanted).map(|id| last(id).to_owned()).collect()
    };
    let intended = ids(|body| if let Body::ToolIntent(intent) = body { Some(&intent.call_id) } else { None });
    assert_eq!(intended, ["0", "1", "2"]);

    // The model gets the results in the order of its calls.
    let asked = system.rehearsal.requests().remove(1).body;
    let messages = asked["messages"].as_array().cloned().unwrap_or_default();
    let answers: Vec<_> = messages.iter().filter(|message| message["role"] == "tool").collect();
    let answered: Vec<_> = answers.iter().filter_map(|message| message["tool_call_id"].as_str()).collect();
    assert_eq!(answered, ["first", "second", "third"]);
    assert!(answers[1]["content"].to_string().contains("whale oil"), "{}", answers[1]);
    assert!(answers[2]["content"].to_string().contains("third said"), "{}", answers[2]);
    Ok(())
}

fn last(call_id: &str) -> &str {
    call_id.rsplit('/').next().unwrap_or_default()
}

async fn a_request_id_works_once(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script("[[rule]]\nreply = { text = 'Once.' }")).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let request = |text: &str, id: &str| RunTaskRequest {
        request_id: id.into(),
        session: session.clone(),
        task: Some(task::question(text)),
        ..RunTaskRequest::default()
    };
    let id = request_id();
    let first = client.run_request(request("Say once.", &id)).await?;
    let second = client.run_request(request("Say once.", &id)).await?;
    assert_eq!(first.run, second.run);
    assert_eq!(first.story(), second.story());
    let again = client.grpc.cancel_run(CancelRunRequest { request_id: request_id(), name: first.run.name.clone() });
    assert_eq!(again.await?.into_inner().run, Some(first.run.clone()), "what has ended is not ended again");
    assert_eq!(system.rehearsal.request_count(), 1);

    let refused = client.grpc.run_task(request("Say twice.", &id)).await.map(|_| ()).unwrap_err();
    assert_eq!(reason(&refused), Some(ErrorReason::RequestIdReused), "{refused:?}");

    let id = request_id();
    let start = StartRunRequest {
        request_id: id.clone(),
        session: session.clone(),
        task: Some(task::question("Say once.")),
        ..StartRunRequest::default()
    };
    let started = client.grpc.start_run(start.clone()).await?.into_inner().run.unwrap_or_default();
    let ended = client.watch(&started.name, 0).await?.run;
    assert_eq!(client.grpc.start_run(start).await?.into_inner().run, Some(ended));
    assert_eq!(system.rehearsal.request_count(), 2);

    // Two at a time are one, too.
    let id = request_id();
    let (mut one, mut two) = (client.clone(), client.clone());
    let (one, two) =
        tokio::join!(one.run_request(request("Say once.", &id)), two.run_request(request("Say once.", &id)));
    assert_eq!(one?.run, two?.run);
    assert_eq!(system.rehearsal.request_count(), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_runs_on_servers() -> anyhow::Result<()> {
    let (postgres, redis) =
        tokio::task::block_in_place(|| anyhow::Ok((Postgres::shared()?.database()?, Redis::shared()?.database()?)))?;
    let folder = tempfile::tempdir()?;
    let address = format!("127.0.0.1:{}", ports::free()?);
    let mut command = Command::new(built_binary("mar")?);
    command.args(["up", "--stores", "postgres,redis", "--rehearse", "--listen", &address]);
    command.args(["--postgres-url", &*postgres, "--redis-url", &redis]).arg("--data").arg(folder.path());
    command.env_remove("MAR_CONFIG").current_dir(folder.path());
    let mut process = Process::spawn("mar", command)?;
    process.wait_for_port(address.parse()?, Duration::from_secs(30)).await?;
    let mut client = Client::connect(format!("http://{address}")).await?;
    let followed = client.run(task::question("Is anybody there?")).await?;
    assert_eq!(followed.run.state(), RunState::Succeeded, "{:#?}\n{}", followed.run, process.log().join("\n"));

    // The run is in Postgres, not in the data folder: another process on the same stores knows it.
    process.kill().await?;
    assert!(!folder.path().join("session.db").exists());
    let mut command = Command::new(built_binary("mar")?);
    command.args(["up", "--stores", "postgres,redis", "--rehearse", "--listen", &address]);
    command.args(["--postgres-url", &*postgres, "--redis-url", &redis]).arg("--data").arg(folder.path());
    command.env_remove("MAR_CONFIG").current_dir(folder.path());
    let mut process = Process::spawn("mar", command)?;
    process.wait_for_port(address.parse()?, Duration::from_secs(30)).await?;
    let mut client = Client::connect(format!("http://{address}")).await?;
    assert_eq!(client.get(&followed.run.name).await?, followed.run);
    process.kill().await
}
