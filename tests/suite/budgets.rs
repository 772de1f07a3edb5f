//! What a tenant and a session may use together, over all their runs.

use mar_proto::session::{
    BudgetScope, Concurrency, GetSessionRequest, Run, RunState, Session, SessionBudget, SliceGranted, StartRunRequest,
    StartSessionRequest, Task, UpdateSessionRequest, WaitReason, event_leaf::Body,
};
use mar_proto::types::{HaltReason, HaltingPolicy, OnBudget};
use mar_tests::catalogue::Model;
use mar_tests::client::request_id;
use mar_tests::{Client, Deployment, Options, Shape, Stores, task};

both_ways! {
    a_session_counts_its_runs
    a_run_that_waits_goes_on_when_the_budget_is_raised
    a_tenant_counts_its_runs
}

const FINE: &str = "[[rule]]\nreply = { text = \"Fine.\" }";

async fn with_budget(client: &mut Client, budget: SessionBudget) -> anyhow::Result<Session> {
    let session = Session { purpose: "a budget".into(), budget: Some(budget), ..Session::default() };
    let request = StartSessionRequest { request_id: request_id(), session: Some(session) };
    Ok(client.grpc.start_session(request).await?.into_inner().session.unwrap_or_default())
}

fn runs(max_runs: i64) -> SessionBudget {
    SessionBudget { max_runs: Some(max_runs), ..SessionBudget::default() }
}

async fn raise(client: &mut Client, session: &str, budget: SessionBudget) -> anyhow::Result<()> {
    let raised = Session { name: session.into(), budget: Some(budget), ..Session::default() };
    let change = UpdateSessionRequest {
        request_id: request_id(),
        session: Some(raised),
        update_mask: Some(prost_types::FieldMask { paths: vec!["budget".into()] }),
    };
    client.grpc.update_session(change).await?;
    Ok(())
}

fn waiting(task: Task) -> Task {
    task::limited(task, HaltingPolicy { on_budget: OnBudget::Wait.into(), ..HaltingPolicy::default() })
}

async fn finished(client: &mut Client, session: &str, task: Task) -> anyhow::Result<Run> {
    let run = client.start(session, task).await?;
    client.until(&run.name, |run| run.seal.is_some()).await
}

fn halted(run: &Run) -> HaltReason {
    assert_eq!(run.state(), RunState::Halted, "{run:?}");
    run.halt_reason()
}

async fn slices(client: &mut Client, run: &Run) -> anyhow::Result<Vec<SliceGranted>> {
    let events = client.events(&run.name).await?;
    let bodies = events.into_iter().filter_map(|event| event.body.and_then(|leaf| leaf.body));
    let slices = bodies.filter_map(|body| match body {
        Body::SliceGranted(granted) => Some(granted),
        _ => None,
    });
    Ok(slices.collect())
}

async fn a_session_counts_its_runs(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script(FINE)).await?;
    let mut client = system.client().await?;
    let session = with_budget(&mut client, runs(2)).await?;
    assert_eq!(session.budget, Some(runs(2)));
    let mut crossed = Vec::new();
    for _ in 0..2 {
        let run = finished(&mut client, &session.name, task::question("Well?")).await?;
        assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
        let slices = slices(&mut client, &run).await?;
        assert_eq!(slices.len(), 1, "the model is free: {slices:?}");
        assert_eq!((slices[0].scope(), slices[0].runs, slices[0].day), (BudgetScope::Session, 1, -1));
        crossed.extend(slices[0].crossed.iter().map(|threshold| threshold.percent));
    }
    assert_eq!(crossed, [50, 80, 100]);
    let run = finished(&mut client, &session.name, task::question("Well?")).await?;
    assert_eq!(halted(&run), HaltReason::SessionBudget);
    assert_eq!(run.totals.unwrap_or_default().steps, 0, "nothing was called");
    // Another session has its own.
    let other = client.session().await?;
    let run = finished(&mut client, &other, task::question("Well?")).await?;
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    Ok(())
}

async fn a_run_that_waits_goes_on_when_the_budget_is_raised(options: Options) -> anyhow::Result<()> {
    let mut system = Deployment::start(options.script(FINE)).await?;
    let mut client = system.client().await?;
    let session = with_budget(&mut client, runs(1)).await?;
    finished(&mut client, &session.name, task::question("Well?")).await?;
    let run = client.start(&session.name, waiting(task::question("Well?"))).await?;
    let waits = |run: &Run| run.wait_reason() == WaitReason::Budget;
    client.until(&run.name, waits).await?;

    // It waits without anybody, and over a restart.
    system.kill(0).await?;
    system.restart(0).await?;
    let mut client = system.client().await?;
    assert!(waits(&client.get(&run.name).await?));
    raise(&mut client, &session.name, runs(2)).await?;
    let run = client.until(&run.name, |run| run.seal.is_some()).await?;
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    let read = client.grpc.get_session(GetSessionRequest { name: session.name }).await?.into_inner();
    assert_eq!(read.session.unwrap_or_default().budget, Some(runs(2)));
    Ok(())
}

/// However many there are: a list shows a hundred at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_runs_that_wait_go_on_when_the_budget_is_raised() -> anyhow::Result<()> {
    const WAITING: usize = 101;
    let system = Deployment::start(Options::new(Shape::One, Stores::Embedded).script(FINE)).await?;
    let mut client = system.client().await?;
    let session = with_budget(&mut client, runs(1)).await?;
    finished(&mut client, &session.name, task::question("Well?")).await?;
    let mut names = Vec::new();
    for _ in 0..WAITING {
        let start = StartRunRequest {
            request_id: request_id(),
            session: session.name.clone(),
            task: Some(waiting(task::question("Well?"))),
            concurrency: Concurrency::Parallel.into(),
        };
        names.push(client.grpc.start_run(start).await?.into_inner().run.unwrap_or_default().name);
    }
    for name in &names {
        client.until(name, |run| run.wait_reason() == WaitReason::Budget).await?;
    }
    raise(&mut client, &session.name, runs(1 + WAITING as i64)).await?;
    for name in &names {
        let run = client.until(name, |run| run.seal.is_some()).await?;
        assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    }
    Ok(())
}

async fn a_tenant_counts_its_runs(options: Options) -> anyhow::Result<()> {
    let mut system =
        Deployment::start(options.script(FINE).extra("[session.tenants.dev.budget]\nmax_runs_per_day = 3\n")).await?;
    let mut client = system.client().await?;
    for _ in 0..2 {
        let session = client.session().await?;
        let run = finished(&mut client, &session, task::question("Well?")).await?;
        assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    }
    // Counters of the process are lost with it; what was granted is not.
    system.kill(0).await?;
    system.restart(0).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let run = finished(&mut client, &session, task::question("Well?")).await?;
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    let run = finished(&mut client, &session, task::question("Well?")).await?;
    // At midnight a new window begins.
    let days = slices(&mut client, &run).await?;
    assert!(days.is_empty() || run.state() == RunState::Succeeded);
    if days.is_empty() {
        assert_eq!(halted(&run), HaltReason::TenantBudget);
    }
    Ok(())
}

/// What runs use in all stays within the session's cost, and what they leave goes to later ones.
async fn a_session_counts_what_it_costs(stores: Stores) -> anyhow::Result<()> {
    let script = "[[rule]]\nreply = { text = \"Fine.\", usage = { input = 2000, output = 500 } }";
    let options = Options::new(Shape::One, stores).script(script);
    let system = Deployment::start(options.catalogue(Model::default().toml())).await?;
    let mut client = system.client().await?;
    let most = 20_000_000;
    let budget = SessionBudget { max_cost_nano_usd: Some(most), ..SessionBudget::default() };
    let session = with_budget(&mut client, budget).await?;
    let (mut used, mut done) = (0, 0);
    loop {
        let run = finished(&mut client, &session.name, task::question("Well?")).await?;
        if run.state() == RunState::Halted {
            assert_eq!(halted(&run), HaltReason::SessionBudget);
            break;
        }
        assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
        let cost = run.totals.unwrap_or_default().usage.unwrap_or_default().cost_nano_usd;
        let granted: i64 = slices(&mut client, &run).await?.iter().map(|slice| slice.cost_nano_usd).sum();
        assert!(cost > 0 && cost <= granted, "{cost} of {granted}");
        (used, done) = (used + cost, done + 1);
        assert!(used <= most && done < 100, "{used} after {done} runs");
    }
    // One reservation is about 6,500,000, and a slice is for several: without what is given back no second run would begin.
    assert!(done >= 4, "{done} runs for {used}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_counts_what_it_costs_on_embedded_stores() -> anyhow::Result<()> {
    a_session_counts_what_it_costs(Stores::Embedded).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_counts_what_it_costs_on_servers() -> anyhow::Result<()> {
    a_session_counts_what_it_costs(Stores::Servers).await
}
