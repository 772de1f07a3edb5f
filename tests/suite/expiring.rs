//! Sessions that end by themselves, and payloads that are past retention.

#![expect(clippy::disallowed_methods, reason = "tests wait in real time for real processes")]

use std::time::{Duration, Instant};

use anyhow::Context as _;
use mar_proto::session::{
    ForkRunRequest, GetSessionRequest, Session, SessionEndReason, SessionState, StartSessionRequest,
    UpdateSessionRequest, VerifyRunRequest,
};
use mar_testkit::wait;
use mar_tests::client::request_id;
use mar_tests::{Client, Deployment, Options, Shape, Stores, task};
use prost_types::FieldMask;
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::verifying::rows::Rows;

both_ways! {
    an_idle_session_ends_sealed_with_its_reason
    what_is_used_does_not_expire
    idle_timeouts_are_checked_and_defaulted
    an_end_that_was_cut_off_is_completed
    payloads_past_retention_go_and_the_chain_stays
    legal_hold_keeps_what_is_past_retention
}

const QUESTION: &str = "When is the lighthouse lit?";
const LONG: Duration = Duration::from_secs(60);

async fn start(client: &mut Client, idle: Option<Duration>) -> anyhow::Result<Session> {
    let session = Session { idle_timeout: idle.map(|idle| idle.try_into().unwrap()), ..Session::default() };
    let request = StartSessionRequest { request_id: request_id(), session: Some(session) };
    client.grpc.start_session(request).await?.into_inner().session.context("no session")
}

async fn read(client: &mut Client, name: &str) -> anyhow::Result<Session> {
    let request = GetSessionRequest { name: name.into() };
    client.grpc.get_session(request).await?.into_inner().session.context("no session")
}

fn id(name: &str) -> Uuid {
    name.rsplit('/').next().unwrap().parse().unwrap()
}

/// Waits for a state by the rows: a call would keep the session from being idle.
async fn reaches(rows: &Rows, name: &str, state: SessionState) -> anyhow::Result<()> {
    let reached = || async { rows.session_state(id(name)).await.is_ok_and(|now| now == state as i16) };
    wait::until(LONG, reached).await.with_context(|| format!("never {state:?}"))?;
    Ok(())
}

async fn an_idle_session_ends_sealed_with_its_reason(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options).await?;
    let mut client = system.client().await?;
    let rows = Rows::open(&system.store_url()).await?;
    let idle = start(&mut client, Some(Duration::from_secs(1))).await?;
    let run = client.run_in(&idle.name, task::with_sources(QUESTION)).await?.run;
    reaches(&rows, &idle.name, SessionState::Ended).await?;
    let ended = read(&mut client, &idle.name).await?;
    assert_eq!(ended.end_reason(), SessionEndReason::Idle);
    assert!(ended.seal.is_some() && ended.end_time.is_some(), "{ended:?}");
    let kinds = rows.session_log(id(&idle.name)).await?;
    assert_eq!(kinds, ["started", "run admitted", "run sealed", "expired", "ended"]);
    let found = client.grpc.verify_run(VerifyRunRequest { name: run.name }).await?.into_inner();
    assert!(found.valid && found.sealed, "{found:?}");
    assert!(client.run_in(&idle.name, task::question("Still there?")).await.is_err());
    Ok(())
}

async fn what_is_used_does_not_expire(options: Options) -> anyhow::Result<()> {
    let slow = options.script("[[rule]]\nreply = { agent = true, delay = '6s' }");
    let system = Deployment::start(slow).await?;
    let mut client = system.client().await?;
    let rows = Rows::open(&system.store_url()).await?;
    let (named, running, left) = (
        start(&mut client, Some(Duration::from_secs(2))).await?,
        start(&mut client, Some(Duration::from_secs(2))).await?,
        start(&mut client, Some(Duration::from_secs(2))).await?,
    );
    let run = client.start(&running.name, task::question("How far?")).await?;
    // Long beyond the timeout and the grace, one is named all the time and another has a run; the third ends meanwhile.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(8) || rows.session_state(id(&left.name)).await? < 3 {
        assert_eq!(read(&mut client, &named.name).await?.state(), SessionState::Open);
        assert!(began.elapsed() < LONG, "what nobody names does not end");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(client.watch(&run.name, 0).await?.run.seal.is_some());
    assert_eq!(rows.session_state(id(&running.name)).await?, SessionState::Open as i16);
    reaches(&rows, &running.name, SessionState::Ended).await?;
    reaches(&rows, &named.name, SessionState::Ended).await
}

async fn idle_timeouts_are_checked_and_defaulted(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.extra("[session.tenants.dev]\nidle_timeout = '1h'\n")).await?;
    let mut client = system.client().await?;
    let hour = |hours: i64| Some(prost_types::Duration { seconds: hours * 3_600, nanos: 0 });
    let session = start(&mut client, None).await?;
    assert_eq!(session.idle_timeout, hour(1));
    let own = start(&mut client, Some(Duration::from_secs(7_200))).await?;
    assert_eq!(own.idle_timeout, hour(2));
    for wrong in [
        prost_types::Duration { seconds: 0, nanos: 999_999_999 },
        prost_types::Duration { seconds: -5, nanos: 0 },
        prost_types::Duration { seconds: 30 * 86_400, nanos: 1 },
        prost_types::Duration { seconds: 5, nanos: -1 },
        prost_types::Duration { seconds: i64::MAX, nanos: i32::MAX },
    ] {
        let session = Session { idle_timeout: Some(wrong), ..Session::default() };
        let request = StartSessionRequest { request_id: request_id(), session: Some(session) };
        let refused = client.grpc.start_session(request).await.expect_err("it was let through");
        let fields = refused.get_details_bad_request().context("no details")?.field_violations;
        assert_eq!(fields.iter().map(|one| one.field.as_str()).collect::<Vec<_>>(), ["session.idle_timeout"]);
    }
    // One that is taken back is the tenant's.
    let change = UpdateSessionRequest {
        request_id: request_id(),
        session: Some(Session { name: own.name, ..Session::default() }),
        update_mask: Some(FieldMask { paths: vec!["idle_timeout".into()] }),
    };
    let changed = client.grpc.update_session(change).await?.into_inner().session.context("no session")?;
    assert_eq!(changed.idle_timeout, hour(1));
    Ok(())
}

/// The process dies while a session ends; the one that follows it completes the end.
async fn an_end_that_was_cut_off_is_completed(options: Options) -> anyhow::Result<()> {
    let slow = options.script("[[rule]]\nreply = { agent = true, delay = '20s' }");
    let mut system = Deployment::start(slow).await?;
    let mut client = system.client().await?;
    let rows = Rows::open(&system.store_url()).await?;
    let session = client.session().await?;
    client.start(&session, task::question("How far?")).await?;
    let mut ending = client.clone();
    let name = session.clone();
    let lost = tokio::spawn(async move {
        let request = mar_proto::session::EndSessionRequest { name, ..Default::default() };
        ending.grpc.end_session(request).await
    });
    let begun = || async { rows.session_state(id(&session)).await.is_ok_and(|state| state >= 2) };
    wait::until(LONG, begun).await?;
    system.kill(0).await?;
    drop(lost.await);
    rows.make_timers_due().await?;
    system.restart(0).await?;
    reaches(&rows, &session, SessionState::Ended).await?;
    let mut client = system.client().await?;
    let ended = read(&mut client, &session).await?;
    assert_eq!(ended.end_reason(), SessionEndReason::Caller);
    assert!(ended.seal.is_some());
    Ok(())
}

async fn payloads_past_retention_go_and_the_chain_stays(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.extra("[session.tenants.dev]\nretention = '1s'\n")).await?;
    let mut client = system.client().await?;
    let rows = Rows::open(&system.store_url()).await?;
    let (session, open) = (client.session().await?, client.session().await?);
    let run = client.run_in(&session, task::with_sources(QUESTION)).await?.run;
    let going_on = client.run_in(&open, task::with_sources(QUESTION)).await?.run;
    let request = mar_proto::session::EndSessionRequest { name: session.clone(), ..Default::default() };
    client.grpc.end_session(request).await?;
    let pruned = || async { rows.holds("lighthouse", id(&session)).await.is_ok_and(|holds| !holds) };
    wait::until(LONG, pruned).await?;
    let found = client.grpc.verify_run(VerifyRunRequest { name: run.name.clone() }).await?.into_inner();
    assert_eq!(found.faults, []);
    assert!(found.sealed && found.payloads_erased, "{found:?}");
    assert_eq!(read(&mut client, &session).await?.state(), SessionState::Ended);
    assert_eq!(rows.session_log(id(&session)).await?.last().map(String::as_str), Some("pruned"));
    assert_eq!(client.get(&run.name).await?.seal, run.seal);
    let fork = ForkRunRequest { request_id: request_id(), name: run.name.clone(), ..ForkRunRequest::default() };
    let refused = client.grpc.fork_run(fork).await.err().context("it was forked")?;
    assert_eq!(refused.get_details_error_info().context("no reason")?.reason, "PAYLOADS_GONE");
    // What has not ended keeps everything.
    let found = client.grpc.verify_run(VerifyRunRequest { name: going_on.name }).await?.into_inner();
    assert!(found.valid && found.events_without_payload == 0, "{found:?}");
    Ok(())
}

async fn legal_hold_keeps_what_is_past_retention(options: Options) -> anyhow::Result<()> {
    let held = options.extra("[session.tenants.dev]\nretention = '1s'\nlegal_hold = true\n");
    let system = Deployment::start(held).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let run = client.run_in(&session, task::with_sources(QUESTION)).await?.run;
    let request = mar_proto::session::EndSessionRequest { name: session.clone(), ..Default::default() };
    client.grpc.end_session(request).await?;
    let told = || async { system.log().iter().any(|line| line.contains("under legal hold")) };
    wait::until(LONG, told).await?;
    assert!(read(&mut client, &session).await?.legal_hold);
    let found = client.grpc.verify_run(VerifyRunRequest { name: run.name }).await?.into_inner();
    assert!(found.valid && found.events_without_payload == 0 && !found.payloads_erased, "{found:?}");
    Ok(())
}

/// Of several replicas one ends it, also when the one that was talked to is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_replicas_ends_it() -> anyhow::Result<()> {
    let mut system = Deployment::start(Options::new(Shape::Four, Stores::Servers)).await?;
    let second = system.replica().await?;
    let third = system.replica().await?;
    let mut client = system.client().await?;
    let rows = Rows::open(&system.store_url()).await?;
    let idle = start(&mut client, Some(Duration::from_secs(1))).await?;
    system.kill(0).await?;
    reaches(&rows, &idle.name, SessionState::Ended).await?;
    assert_eq!(rows.session_log(id(&idle.name)).await?, ["started", "expired", "ended"]);
    for replica in [&second, &third] {
        assert_eq!(read(&mut replica.client().await?, &idle.name).await?.end_reason(), SessionEndReason::Idle);
    }
    Ok(())
}
