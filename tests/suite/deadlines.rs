//! Deadlines and limits of time, the same over a wire and without one.

use std::time::Duration;

use mar_proto::session::{RunState, WatchRunRequest};
use mar_proto::types::{HaltReason, HaltingPolicy};
use mar_testkit::wait::until;
use mar_tests::{Deployment, Options, task};
use tonic::Code;

both_ways! {
    a_callers_deadline_ends_its_stream_and_not_the_run
    active_time_ends_a_hanging_generation
}

const PATIENCE: Duration = Duration::from_secs(20);

async fn a_callers_deadline_ends_its_stream_and_not_the_run(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script("[[rule]]\nreply = { text = 'At last.', delay = '3s' }")).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let run = client.start(&session, task::question("Wait.")).await?;
    let mut request = tonic::Request::new(WatchRunRequest { name: run.name.clone(), ..Default::default() });
    request.set_timeout(Duration::from_millis(300));
    let mut stream = client.grpc.watch_run(request).await?.into_inner();
    let ended = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            other => break other.map(|_| ()),
        }
    };
    assert_eq!(ended.unwrap_err().code(), Code::DeadlineExceeded);
    let followed = client.watch(&run.name, 0).await?;
    assert_eq!(followed.run.state(), RunState::Succeeded, "{:#?}", followed.run);
    assert_eq!(system.rehearsal.request_count(), 1);
    Ok(())
}

async fn active_time_ends_a_hanging_generation(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script("[[rule]]\nreply = { hang = true }")).await?;
    let some = prost_types::Duration { seconds: 3, nanos: 0 };
    let limits = HaltingPolicy { max_active_time: Some(some), ..HaltingPolicy::default() };
    let followed = system.client().await?.run(task::limited(task::question("Hang."), limits)).await?;
    assert_eq!(followed.run.state(), RunState::Halted, "{:#?}", followed.run);
    assert_eq!(followed.run.halt_reason(), HaltReason::ActiveTime);
    until(PATIENCE, || async { system.rehearsal.in_flight() == 0 }).await?;
    assert_eq!(system.rehearsal.abandoned(), 1, "the provider's call is let go");
    Ok(())
}
