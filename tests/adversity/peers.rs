//! A service that is down, or is killed with a run's call in its hands.

use anyhow::Context as _;
use mar_proto::session::{RunState, Task, event_leaf::Body};
use mar_testkit::process::built_binary;
use mar_tests::{Deployment, Options, Shape, Stores, task};

use crate::story::{bodies, end, failures, is_over, names, results, returns, text, until, when};

const ROUTER: usize = 1;
const GENERATOR: usize = 2;
const GATEWAY: usize = 3;

const SCRIPT: &str = r#"
[[rule]]
match = { contains = "[half]" }
times = 1
reply = { text = "I begin and then", chunk_size = 4, hang_after = 3 }
[[rule]]
match = { contains = "[call]", turn = 0 }
reply = { tool_calls = [{ name = "s_slow", arguments = { ms = 60000 } }] }
[[rule]]
match = { contains = "[again]", turn = 0 }
reply = { tool_calls = [{ name = "safe_slow", arguments = { ms = 1500 } }] }
[[rule]]
reply = { text = "Fine." }
"#;

async fn system(extra: &str) -> anyhow::Result<Deployment> {
    Deployment::start(Options::new(Shape::Four, Stores::Servers).script(SCRIPT).extra(extra)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_generator_runs_stay_pending() -> anyhow::Result<()> {
    let mut system = system("").await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    system.kill(GENERATOR).await?;
    let run = client.start(&session, task::question("plain")).await?;
    let look =
        || async { client.clone().events(&run.name).await.is_ok_and(|events| names(&events).contains(&"RunWaiting")) };
    when(look).await?;
    assert_eq!(client.get(&run.name).await?.state(), RunState::Pending);
    system.restart(GENERATOR).await?;
    let run = until(&client, &run.name, is_over).await?;
    assert_eq!(end(&run), "SUCCEEDED");
    let events = client.events(&run.name).await?;
    let waits = bodies(&events).into_iter().find_map(|body| match body {
        Body::RunWaiting(waiting) => Some(waiting.dependency),
        _ => None,
    });
    let waits = waits.context("it waits for nothing")?;
    assert!(waits.starts_with("agent-generator: ") && !waits.contains("router"), "{waits}");

    // Running runs do not need it.
    let run = client.start(&client.clone().session().await?, task::question("[half]")).await?;
    when(|| async { system.rehearsal.in_flight() == 1 }).await?;
    system.kill(GENERATOR).await?;
    system.kill(ROUTER).await?;
    system.restart(ROUTER).await?;
    assert_eq!(end(&until(&client, &run.name, is_over).await?), "SUCCEEDED");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_dies_in_the_middle_of_a_generation() -> anyhow::Result<()> {
    let mut system = system("").await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let run = client.start(&session, task::question("[half]")).await?;
    when(|| async { system.rehearsal.in_flight() == 1 }).await?;
    system.kill(ROUTER).await?;
    let failed = || async {
        client.clone().events(&run.name).await.is_ok_and(|events| names(&events).contains(&"GenerationFailed"))
    };
    when(failed).await?;
    assert!(!is_over(&client.get(&run.name).await?), "it waits for the router");
    system.restart(ROUTER).await?;
    let run = until(&client, &run.name, is_over).await?;
    let events = client.events(&run.name).await?;
    assert_eq!(end(&run), "SUCCEEDED", "{:?}", names(&events));
    let failures = failures(&bodies(&events));
    let known = |reason: &str| matches!(reason, "LOST" | "PEER_UNAVAILABLE");
    assert!(failures.iter().all(|(reason, again)| known(reason) && *again), "{failures:?}");
    let totals = run.totals.unwrap_or_default();
    assert_eq!(totals.steps, 1);
    assert!(totals.usage.unwrap_or_default().estimated, "the lost generation had reached the provider and counts");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_dies_in_the_middle_of_a_call() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let server = built_binary("examples/scripted_mcp")?.display().to_string();
    let upstream = |name: &str, more: &str| {
        let folder = folder.path().display();
        format!(
            "[tool_gateway.upstreams.{name}]\nkind = \"mcp_stdio\"\ncommand = \"{server}\"\nargs = [\"stdio\", \"{folder}\"]\n{more}\n"
        )
    };
    let mut system = system(&(upstream("s", "") + &upstream("safe", "idempotent = true"))).await?;
    system.wait_for_tools(&["s", "safe"]).await?;
    let mut client = system.client().await?;
    let journal = folder.path().join("journal");
    let keys = || {
        let text = std::fs::read_to_string(&journal).unwrap_or_default();
        let calls = text.lines().filter_map(|line| line.strip_prefix("slow ")?.split(' ').next().map(str::to_owned));
        calls.collect::<Vec<_>>()
    };
    let asking = |text: &str| Task { tools: task::selectors(&["s.*", "safe.*"]), ..task::question(text) };

    // Not declared idempotent: nobody knows, and the model is told so.
    let run = client.start(&client.clone().session().await?, asking("[call]")).await?;
    when(|| async { keys().len() == 1 }).await?;
    system.kill(GATEWAY).await?;
    let run = until(&client, &run.name, is_over).await?;
    let events = client.events(&run.name).await?;
    assert_eq!(end(&run), "SUCCEEDED", "{:?}", names(&events));
    let found = returns(&bodies(&events));
    assert_eq!((found[0].0.as_str(), found[0].1.as_str(), found.len()), ("UNKNOWN", "OUTCOME_UNKNOWN", 1));
    assert!(text(&results(&events)[0]).contains("OUTCOME_UNKNOWN"));
    system.restart(GATEWAY).await?;
    system.wait_for_tools(&["safe"]).await?;

    // Declared idempotent: repeated with its key.
    let run = client.start(&client.clone().session().await?, asking("[again]")).await?;
    when(|| async { keys().len() == 2 }).await?;
    system.kill(GATEWAY).await?;
    system.restart(GATEWAY).await?;
    let run = until(&client, &run.name, is_over).await?;
    let events = client.events(&run.name).await?;
    assert_eq!(end(&run), "SUCCEEDED", "{:?}", names(&events));
    let intents = names(&events).iter().filter(|name| **name == "ToolIntent").count();
    assert!(intents >= 2, "the log shows each try: {:?}", names(&events));
    assert_eq!(returns(&bodies(&events))[0].0, "OK", "{:?}", returns(&bodies(&events)));
    let keys = keys();
    assert!(keys.len() >= 3 && keys[1..].iter().all(|key| *key == keys[1]) && keys[0] != keys[1], "{keys:?}");
    assert_eq!(run.totals.unwrap_or_default().tool_calls, 1, "a repetition is the same call");
    Ok(())
}
