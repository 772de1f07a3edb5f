//! Postgres and Redis away, in the middle of runs.

use std::time::{Duration, Instant};

use mar_proto::session::*;
use mar_proto::types::HaltingPolicy;
use mar_testkit::postgres::Postgres;
use mar_testkit::redis::Redis;
use mar_tests::client::request_id;
use mar_tests::{Client, Deployment, Options, Shape, Stores, task};
use tokio::task::block_in_place;
use tonic::Code;

use crate::refused::Refused;
use crate::story::{PATIENCE, bodies, end, is_over, names, until, when};

/// A search at each of six turns, each a while in coming.
const SCRIPT: &str = r#"
[defaults]
delay = "250ms"
[[rule]]
match = { contains = "[long]", turn = 0 }
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "a" } }] }
[[rule]]
match = { contains = "[long]", turn = 1 }
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "b" } }] }
[[rule]]
match = { contains = "[long]", turn = 2 }
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "c" } }] }
[[rule]]
match = { contains = "[long]", turn = 3 }
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "d" } }] }
[[rule]]
match = { contains = "[hurried]", turn = 0 }
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "a" } }], delay = "1500ms" }
[[rule]]
reply = { text = "Fine." }
"#;

/// Every step of the long run once, whatever came between.
const LONG: [&str; 10] = [
    "ToolIntent",
    "ToolReturned",
    "ToolIntent",
    "ToolReturned",
    "ToolIntent",
    "ToolReturned",
    "ToolIntent",
    "ToolReturned",
    "TurnCommitted",
    "RunEnded",
];

async fn system() -> anyhow::Result<Deployment> {
    Deployment::start(Options::new(Shape::Four, Stores::Servers).own_servers().script(SCRIPT)).await
}

fn postgres(system: &Deployment) -> &Postgres {
    system.postgres.as_ref().expect("its own")
}

fn redis(system: &Deployment) -> &Redis {
    system.redis.as_ref().expect("its own")
}

fn long() -> Task {
    Task { tools: task::selectors(&["docs.*"]), ..task::question("[long]") }
}

/// The log holds each step once, in order, numbered and chained without a gap.
async fn nothing_lost_nothing_twice(client: &mut Client, run: &Run) -> anyhow::Result<Vec<Event>> {
    let events = client.events(&run.name).await?;
    let seqs: Vec<_> = events.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (0..run.next_seq).collect::<Vec<_>>());
    assert!(events.windows(2).all(|pair| pair[1].prev_hash == pair[0].hash));
    let story = names(&events);
    let calls: Vec<_> = story.iter().filter(|name| name.starts_with("Tool")).copied().collect();
    assert_eq!(calls, &LONG[..8], "{story:?}");
    assert_eq!(story.iter().filter(|name| **name == "TurnCommitted").count(), 5, "{story:?}");
    assert_eq!(run.totals.unwrap_or_default().steps, 5);
    Ok(events)
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_goes_and_comes_back() -> anyhow::Result<()> {
    let system = system().await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let run = client.start(&session, long()).await?;
    until(&client, &run.name, |run| run.totals.unwrap_or_default().tool_calls >= 1).await?;

    let watch =
        |from_seq| WatchRunRequest { name: run.name.clone(), from_seq, without_deltas: true, ..Default::default() };
    let mut open = client.grpc.watch_run(watch(0)).await?.into_inner();
    block_in_place(|| postgres(&system).stop());
    // Who follows the run is told as well, and knows where to go on.
    let mut seen = 0;
    let broken = loop {
        match open.message().await {
            Ok(Some(frame)) => {
                if let Some(run_frame::Frame::Event(event)) = frame.frame.and_then(|frame| frame.frame) {
                    assert_eq!(event.seq, seen);
                    seen += 1;
                }
            }
            Ok(None) => panic!("the stream ends well"),
            Err(status) => break Refused::by(Err::<(), _>(status)),
        }
    };
    assert_eq!(broken.why(), (Code::Unavailable, "STORE_UNAVAILABLE"), "{broken:?}");
    assert!(broken.retry.is_some(), "{broken:?}");
    // Nothing is acknowledged, and nobody waits for long to hear so.
    let gone = Instant::now();
    while gone.elapsed() < Duration::from_secs(2) {
        let asked = Instant::now();
        let request = StartSessionRequest { request_id: request_id(), session: None };
        let refused = Refused::by(client.grpc.start_session(request).await);
        assert_eq!(refused.why(), (Code::Unavailable, "STORE_UNAVAILABLE"), "{refused:?}");
        assert!(refused.retry.is_some_and(|retry| retry > Duration::ZERO), "{refused:?}");
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    }
    let start = StartRunRequest {
        request_id: request_id(),
        session: session.clone(),
        task: Some(long()),
        concurrency: Concurrency::Parallel.into(),
    };
    assert_eq!(Refused::by(client.grpc.start_run(start).await).why(), (Code::Unavailable, "STORE_UNAVAILABLE"));
    let events = ListEventsRequest { parent: run.name.clone(), ..Default::default() };
    let refused = Refused::by(client.grpc.list_events(events).await);
    assert_eq!(refused.why(), (Code::Unavailable, "STORE_UNAVAILABLE"));
    assert!(refused.retry.is_some(), "{refused:?}");
    let open = client.get(&run.name).await?;
    assert!(!is_over(&open), "it stands still");
    block_in_place(|| postgres(&system).resume())?;

    let run = until(&client, &run.name, |run| is_over(run) && run.seal.is_some()).await?;
    assert_eq!(end(&run), "SUCCEEDED");
    let events = nothing_lost_nothing_twice(&mut client, &run).await?;
    let delays = delays(&events);
    assert!(delays.iter().all(|delay| delay.dependency == "session store" && delay.failures > 0), "{delays:?}");
    assert!(delays.iter().map(length).sum::<Duration>() >= Duration::from_secs(2), "the log tells why: {delays:?}");
    let mut resumed = client.grpc.watch_run(watch(seen)).await?.into_inner();
    while let Some(frame) = resumed.message().await? {
        if let Some(run_frame::Frame::Event(event)) = frame.frame.and_then(|frame| frame.frame) {
            assert_eq!(event.seq, seen, "the stream goes on where it broke");
            seen += 1;
        }
    }
    assert_eq!(seen, run.next_seq);
    client.session().await?;
    let runs = ListRunsRequest { parent: session, ..Default::default() };
    assert_eq!(client.grpc.list_runs(runs).await?.into_inner().runs.len(), 1, "what was refused was not admitted");
    Ok(())
}

/// What the log says of commits that waited.
fn delays(events: &[Event]) -> Vec<CommitDelayed> {
    let delayed = bodies(events).into_iter().filter_map(|body| match body {
        event_leaf::Body::CommitDelayed(delayed) => Some(delayed),
        _ => None,
    });
    delayed.collect()
}

fn length(delay: &CommitDelayed) -> Duration {
    between(delay.since, delay.until)
}

fn between(from: Option<prost_types::Timestamp>, to: Option<prost_types::Timestamp>) -> Duration {
    let nanos = |stamp: prost_types::Timestamp| i128::from(stamp.seconds) * 1_000_000_000 + i128::from(stamp.nanos);
    let nanos = nanos(to.unwrap_or_default()) - nanos(from.unwrap_or_default());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_takes_nothing_of_a_runs_active_time() -> anyhow::Result<()> {
    const ACTIVE: Duration = Duration::from_secs(8);
    let system = system().await?;
    let mut client = system.client().await?;
    let limits = HaltingPolicy {
        max_active_time: Some(prost_types::Duration { seconds: ACTIVE.as_secs().try_into()?, nanos: 0 }),
        ..HaltingPolicy::default()
    };
    let task = Task { tools: task::selectors(&["docs.*"]), ..task::question("[hurried]") };
    let session = client.session().await?;
    let run = client.start(&session, task::limited(task, limits)).await?;
    when(|| async { system.rehearsal.in_flight() == 1 }).await?;
    block_in_place(|| postgres(&system).stop());
    let gone = Instant::now();
    // Its turn is there, and cannot be committed for longer than it may be active.
    when(|| async { system.rehearsal.in_flight() == 0 }).await?;
    tokio::time::sleep(ACTIVE + Duration::from_secs(1)).await;
    assert!(!is_over(&client.get(&run.name).await?), "it stands still");
    block_in_place(|| postgres(&system).resume())?;

    let run = until(&client, &run.name, |run| is_over(run) && run.seal.is_some()).await?;
    let away = gone.elapsed();
    let events = client.events(&run.name).await?;
    assert_eq!(end(&run), "SUCCEEDED", "{:?}", names(&events));
    let delays = delays(&events);
    let lost: Duration = delays.iter().map(length).sum();
    assert!(lost > ACTIVE && lost <= away, "{lost:?} of {away:?}: {delays:?}");
    let active = Duration::from_millis(run.totals.unwrap_or_default().active_time_ms.try_into()?);
    assert!(active < ACTIVE, "{active:?}");
    let sealed = events.iter().find(|event| matches!(body(event), Some(event_leaf::Body::AgentSealed(_))));
    let time = |event: Option<&Event>| event.and_then(|event| event.body.as_ref()?.time);
    let whole = between(time(sealed), time(events.last()));
    let unexplained = whole.abs_diff(active + lost);
    assert!(unexplained < Duration::from_millis(5), "{whole:?} are {active:?} and {lost:?}");
    Ok(())
}

fn body(event: &Event) -> Option<&event_leaf::Body> {
    event.body.as_ref()?.body.as_ref()
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_goes_and_comes_back_empty() -> anyhow::Result<()> {
    let system = system().await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let run = client.start(&session, long()).await?;
    until(&client, &run.name, |run| run.totals.unwrap_or_default().tool_calls >= 1).await?;

    block_in_place(|| redis(&system).stop());
    let waiting = until(&client, &run.name, |run| run.state() == RunState::Waiting).await?;
    assert_eq!(waiting.wait_reason(), WaitReason::Dependency);
    when(|| async { system.rehearsal.in_flight() == 0 }).await?;
    let asked = system.rehearsal.request_count();
    let other = client.session().await?;
    let second = client.start(&other, task::question("plain")).await?;
    until(&client, &second.name, |run| run.state() == RunState::Waiting).await?;
    assert_eq!(system.rehearsal.request_count(), asked, "nothing is called without counters");
    block_in_place(|| redis(&system).resume())?;

    let run = until(&client, &run.name, is_over).await?;
    assert_eq!(end(&run), "SUCCEEDED");
    let events = nothing_lost_nothing_twice(&mut client, &run).await?;
    let story = names(&events);
    let at = |name: &str| story.iter().position(|found| *found == name);
    assert!(at("RunWaiting").is_some() && at("RunWaiting") < at("RunResumed"), "{story:?}");
    assert!(story.contains(&"CountersRebuilt"), "{story:?}");
    let waits = bodies(&events).into_iter().find_map(|body| match body {
        event_leaf::Body::RunWaiting(waiting) => Some((waiting.reason(), waiting.dependency)),
        _ => None,
    });
    assert_eq!(waits, Some((WaitReason::Dependency, "halting counters".to_owned())));
    let waited = events.iter().find_map(|event| match body(event)? {
        event_leaf::Body::RunResumed(resumed) => Some(between(resumed.since, event.body.as_ref()?.time)),
        _ => None,
    });
    assert!(waited.is_some_and(|waited| waited > Duration::ZERO), "the log tells for how long: {waited:?}");
    assert_eq!(end(&until(&client, &second.name, is_over).await?), "SUCCEEDED");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_does_not_come_back_in_time() -> anyhow::Result<()> {
    let system = system().await?;
    let mut client = system.client().await?;
    block_in_place(|| redis(&system).stop());
    let limits = HaltingPolicy {
        expire_after: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
        ..HaltingPolicy::default()
    };
    let session = client.session().await?;
    let run = client.start(&session, task::limited(task::question("plain"), limits)).await?;
    let followed = tokio::time::timeout(PATIENCE, client.watch(&run.name, 0)).await??;
    assert_eq!(end(&followed.run), "HALTED COUNTERS_UNAVAILABLE", "{:?}", followed.story());
    assert!(followed.story().contains(&"RunWaiting"), "{:?}", followed.story());
    assert_eq!(system.rehearsal.request_count(), 0);
    Ok(())
}
