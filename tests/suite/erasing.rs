//! Sessions that are erased: what they held is gone, what proves them stays.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mar_proto::session::{
    DiffRunsRequest, EndSessionRequest, EraseSessionRequest, ForkRunRequest, GetSessionRequest, ListEventsRequest, Run,
    RunFailure, RunState, RunTaskRequest, Session, SessionState, StartRunRequest, StartSessionRequest, Task,
    VerifyFaultKind as Kind, VerifyPlace as Place, VerifyRunRequest, VerifyRunResponse, event_leaf::Body,
};
use mar_session::crash::Point;
use mar_testkit::wait;
use mar_tests::client::request_id;
use mar_tests::{Client, Deployment, Options, Shape, Stores, task};
use tonic::Status;
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::verifying::rows::Rows;

both_ways! {
    an_erased_session_is_gone_and_verifies
    what_a_failure_quotes_goes
    only_an_ended_session_is_erased
    legal_hold_wins
    an_erasure_that_was_cut_off_is_completed
}

/// A word of the task, which nothing else holds.
const SECRET: &str = "Quetzalcoatlus";

/// A session with a run that tells the secret, ended.
struct Ended {
    session: String,
    run: String,
    /// The id of the run's request.
    request: String,
}

impl Ended {
    async fn new(client: &mut Client) -> anyhow::Result<Self> {
        let start = StartSessionRequest {
            request_id: request_id(),
            session: Some(Session {
                purpose: format!("ask about {SECRET}"),
                labels: [("about".to_owned(), SECRET.to_owned())].into(),
                ..Session::default()
            }),
        };
        let session = client.grpc.start_session(start).await?.into_inner().session.context("no session")?.name;
        // Long enough to be a blob, too.
        let question = format!("When is the lighthouse lit? {}", SECRET.repeat(2_000));
        let request = request_id();
        let asked = RunTaskRequest {
            request_id: request.clone(),
            session: session.clone(),
            task: Some(task::with_sources(&question)),
            ..RunTaskRequest::default()
        };
        let run = client.run_request(asked).await?.run.name;
        client.grpc.end_session(EndSessionRequest { name: session.clone(), ..Default::default() }).await?;
        Ok(Self { session, run, request })
    }

    fn id(&self) -> anyhow::Result<Uuid> {
        Ok(self.session.trim_start_matches("sessions/").parse()?)
    }
}

async fn erase(client: &mut Client, name: &str, request_id: &str) -> Result<Session, Status> {
    let request = EraseSessionRequest { name: name.into(), request_id: request_id.into() };
    Ok(client.grpc.erase_session(request).await?.into_inner().session.unwrap_or_default())
}

async fn verify(client: &mut Client, run: &str) -> anyhow::Result<VerifyRunResponse> {
    Ok(client.grpc.verify_run(VerifyRunRequest { name: run.into() }).await?.into_inner())
}

fn reason<T>(refused: Result<T, Status>) -> anyhow::Result<String> {
    let status = refused.err().context("it was let through")?;
    Ok(status.get_details_error_info().context("a refusal without a reason")?.reason)
}

async fn an_erased_session_is_gone_and_verifies(options: Options) -> anyhow::Result<()> {
    let embedded = options.stores == Stores::Embedded;
    let system = Deployment::start(options).await?;
    let mut client = system.client().await?;
    let rows = Rows::open(&system.store_url()).await?;
    let (ended, other) = (Ended::new(&mut client).await?, Ended::new(&mut client).await?);
    ensure!(rows.holds(SECRET, ended.id()?).await?, "the secret was never stored");
    let whole = verify(&mut client, &ended.run).await?;
    assert!(whole.valid && whole.sealed && !whole.payloads_erased, "{whole:?}");

    let erased = erase(&mut client, &ended.session, "erase-1").await?;
    assert_eq!(erased.state(), SessionState::Erased);
    assert!(erased.purpose.is_empty() && erased.labels.is_empty() && erased.seal.is_some(), "{erased:?}");
    assert!(!rows.holds(SECRET, ended.id()?).await?);
    assert!(rows.holds(SECRET, other.id()?).await?, "another session's payloads stay");

    let found = verify(&mut client, &ended.run).await?;
    assert_eq!(found.faults, []);
    assert!(found.sealed && found.payloads_erased && found.events_without_payload > 0, "{found:?}");
    assert_eq!((found.head, found.events), (whole.head, whole.events));
    let run = client.get(&ended.run).await?;
    assert!(run.seal.is_some() && run.answer.is_none() && run.task.unwrap_or_default().input.is_empty());
    assert!(client.events(&ended.run).await?.iter().all(|event| event.content.is_none()));
    let watched = client.watch(&ended.run, 0).await?;
    assert_eq!(watched.run.seal, run.seal);
    assert!(verify(&mut client, &other.run).await?.valid);

    // To erase it twice is to erase it once.
    assert_eq!(erase(&mut client, &ended.session, "erase-1").await?, erased);
    assert_eq!(erase(&mut client, &ended.session, "").await?, erased);
    assert_eq!(reason(erase(&mut client, &other.session, "erase-1").await)?, "REQUEST_ID_REUSED");
    for task in [None, Some(task::question("Still there?"))] {
        let fork = ForkRunRequest { request_id: request_id(), name: ended.run.clone(), task, ..Default::default() };
        let refused = client.grpc.fork_run(fork).await.err().context("it was forked")?;
        assert_eq!(refused.get_details_error_info().context("no reason")?.reason, "PAYLOADS_GONE");
    }
    let pair = DiffRunsRequest { name: ended.run.clone(), base: ended.run.clone() };
    let refused = client.grpc.diff_runs(pair).await.err().context("it was compared")?;
    assert_eq!(refused.get_details_error_info().context("no reason")?.reason, "PAYLOADS_GONE");
    for used in [None, Some(&ended.request)] {
        let expected = if used.is_some() { "REQUEST_ID_REUSED" } else { "SESSION_ENDED" };
        let late = RunTaskRequest {
            request_id: used.cloned().unwrap_or_else(request_id),
            session: ended.session.clone(),
            task: Some(task::question("Still there?")),
            ..RunTaskRequest::default()
        };
        let started = StartRunRequest {
            request_id: request_id(),
            session: ended.session.clone(),
            task: late.task.clone(),
            ..StartRunRequest::default()
        };
        assert_eq!(reason(client.grpc.run_task(late).await)?, expected);
        assert_eq!(reason(client.grpc.start_run(started).await)?, "SESSION_ENDED");
    }
    if embedded {
        erase(&mut client, &other.session, "").await?;
        // Nor is it in what the file has freed.
        let path = system.store_url().trim_start_matches("sqlite:").to_owned();
        for file in [path.clone(), format!("{path}-wal")] {
            let bytes = std::fs::read(&file).unwrap_or_default();
            ensure!(!bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()), "{file} still has it");
        }
    }
    Ok(())
}

/// A failure says what of the task it is about, in the caller's own words.
async fn what_a_failure_quotes_goes(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options).await?;
    let mut client = system.client().await?;
    let rows = Rows::open(&system.store_url()).await?;
    let session = client.session().await?;
    let asking = Task { tools: task::selectors(&["docs.quetzalcoatlus"]), ..task::question("What is it?") };
    let failed = client.run_in(&session, asking).await?.run;
    let message = |run: &Run| run.failure.clone().unwrap_or_default().message;
    assert!(message(&failed).contains("quetzalcoatlus"), "{failed:?}");
    client.grpc.end_session(EndSessionRequest { name: session.clone(), ..Default::default() }).await?;
    let id = session.trim_start_matches("sessions/").parse()?;
    assert!(rows.holds("quetzalcoatlus", id).await?);
    // As long as it is there it is told with the end, and verified with it.
    let log = || ListEventsRequest { parent: failed.name.clone(), include_leaf: true, ..Default::default() };
    let told = client.grpc.list_events(log()).await?.into_inner().events.pop().context("no events")?;
    let Some(Body::RunEnded(ended)) = told.body.and_then(|leaf| leaf.body) else { anyhow::bail!("no end") };
    assert_eq!(ended.failure, failed.failure);
    assert!(verify(&mut client, &failed.name).await?.valid);

    erase(&mut client, &session, "").await?;
    assert!(!rows.holds("quetzalcoatlus", id).await?);
    let left = client.get(&failed.name).await?;
    let failure = RunFailure { message: String::new(), ..failed.failure.clone().unwrap_or_default() };
    assert_eq!((left.state(), left.failure), (RunState::Failed, Some(failure)));
    let left = client.grpc.list_events(log()).await?.into_inner();
    assert!(!format!("{left:?}").contains("quetzalcoatlus") && !left.events.is_empty(), "{left:?}");
    assert_eq!(verify(&mut client, &failed.name).await?.faults, []);
    Ok(())
}

async fn only_an_ended_session_is_erased(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options).await?;
    let mut client = system.client().await?;
    let open = client.session().await?;
    let run = client.run_in(&open, task::with_sources("When is the lighthouse lit?")).await?.run;
    assert_eq!(reason(erase(&mut client, &open, "early").await)?, "SESSION_OPEN");
    assert!(!verify(&mut client, &run.name).await?.payloads_erased);
    client.grpc.end_session(EndSessionRequest { name: open.clone(), ..Default::default() }).await?;
    // A refusal has not used the id up.
    assert_eq!(erase(&mut client, &open, "early").await?.state(), SessionState::Erased);
    for name in ["sessions/00000000-0000-7000-8000-000000000000", "sessions/nothing"] {
        let reason = reason(erase(&mut client, name, "").await)?;
        assert!(["NOT_FOUND", "INVALID_REQUEST"].contains(&reason.as_str()), "{reason}");
    }

    // What somebody took away behind the runtime's back is told from what was erased.
    let ended = Ended::new(&mut client).await?;
    let rows = Rows::open(&system.store_url()).await?;
    rows.clear_payload(ended.run.rsplit('/').next().context("no id")?.parse()?, 0).await?;
    let found = verify(&mut client, &ended.run).await?;
    let faults: Vec<_> = found.faults.iter().map(|fault| (fault.place(), fault.seq, fault.kind())).collect();
    assert_eq!(faults, [(Place::Event, 0, Kind::Missing)]);
    Ok(())
}

async fn legal_hold_wins(options: Options) -> anyhow::Result<()> {
    let held = options.extra("[session.tenants.dev]\nlegal_hold = true\n");
    let system = Deployment::start(held).await?;
    let mut client = system.client().await?;
    let rows = Rows::open(&system.store_url()).await?;
    let ended = Ended::new(&mut client).await?;
    assert_eq!(reason(erase(&mut client, &ended.session, "").await)?, "LEGAL_HOLD");
    let request = GetSessionRequest { name: ended.session.clone() };
    let session = client.grpc.get_session(request).await?.into_inner().session.context("no session")?;
    assert!(session.legal_hold && session.state() == SessionState::Ended, "{session:?}");
    assert!(rows.holds(SECRET, ended.id()?).await?);
    assert!(verify(&mut client, &ended.run).await?.valid);
    Ok(())
}

/// The process dies at each point of an erasure; the one that follows it completes it without being asked.
async fn an_erasure_that_was_cut_off_is_completed(options: Options) -> anyhow::Result<()> {
    for point in Point::BESIDE.iter().filter(|point| point.name().starts_with("erasure")) {
        // Documents that are long enough to be blobs, so that every point is passed.
        let mut system = Deployment::start(options.clone().env("MAR_CRASH_AT", point.name())).await?;
        let mut client = system.client().await?;
        let ended = Ended::new(&mut client).await?;
        let cut = erase(&mut client, &ended.session, "erase").await;
        ensure!(cut.is_err(), "{point} is not passed: {cut:?}");
        system.wait_for_crash().await?;
        let rows = Rows::open(&system.store_url()).await?;
        // What stands there now is explained by the log, however far it came.
        rows.make_timers_due().await?;
        system.restart(0).await?;
        let mut client = system.client().await?;
        assert!(verify(&mut client, &ended.run).await?.valid, "{point}");
        let get = || async {
            let request = GetSessionRequest { name: ended.session.clone() };
            let answer = client.grpc.clone().get_session(request).await;
            answer.is_ok_and(|answer| answer.into_inner().session.unwrap_or_default().state() == SessionState::Erased)
        };
        wait::until(Duration::from_secs(30), get).await.with_context(|| format!("{point}: never completed"))?;
        assert!(!rows.holds(SECRET, ended.id()?).await?, "{point}");
        let found = verify(&mut client, &ended.run).await?;
        assert!(found.valid && found.payloads_erased, "{point}: {found:?}");
        assert_eq!(erase(&mut client, &ended.session, "erase").await?.state(), SessionState::Erased);
    }
    Ok(())
}

/// Postgres goes away in the middle of an erasure and comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_waits_for_postgres() -> anyhow::Result<()> {
    let options = Options::new(Shape::Four, Stores::Servers).own_servers();
    let system = Deployment::start(options).await?;
    let mut client = system.client().await?;
    let ended = Ended::new(&mut client).await?;
    let postgres = system.postgres.as_ref().context("no Postgres of its own")?;
    tokio::task::block_in_place(|| postgres.stop());
    assert_eq!(reason(erase(&mut client, &ended.session, "erase").await)?, "STORE_UNAVAILABLE");
    tokio::task::block_in_place(|| postgres.resume())?;
    let erased = || async { erase(&mut client.clone(), &ended.session, "erase").await.is_ok() };
    wait::until(Duration::from_secs(30), erased).await?;
    let found = verify(&mut client, &ended.run).await?;
    assert!(found.valid && found.payloads_erased, "{found:?}");
    Ok(())
}
