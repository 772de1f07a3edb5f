//! Every RPC of session, with the emptiest request that there is.

use mar_proto::session::*;
use mar_tests::{Deployment, Options, Shape, Stores};
use tonic::{Code, Status};

use crate::refused::Refused;

macro_rules! refusals {
    ($client:ident; $($rpc:ident($request:ident)),* $(,)?) => {
        [$((stringify!($rpc), $client.grpc.$rpc($request::default()).await.map(|_| ()))),*]
    };
}

fn check(rpc: &str, answer: Result<(), Status>, code: Code, reason: &str) {
    let refused = Refused::by(answer);
    assert_eq!(refused.why(), (code, reason), "{rpc}: {refused:?}");
    assert!(!refused.message.is_empty(), "{rpc}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_a_reason() -> anyhow::Result<()> {
    let system = Deployment::start(Options::new(Shape::One, Stores::Embedded)).await?;
    let mut client = system.client().await?;
    let served = refusals!(client;
        start_session(StartSessionRequest), get_session(GetSessionRequest), update_session(UpdateSessionRequest),
        end_session(EndSessionRequest), start_run(StartRunRequest), run_task(RunTaskRequest), get_run(GetRunRequest),
        list_runs(ListRunsRequest), watch_run(WatchRunRequest), cancel_run(CancelRunRequest),
        list_events(ListEventsRequest), verify_run(VerifyRunRequest), pause_run(PauseRunRequest),
        resume_run(ResumeRunRequest), list_approvals(ListApprovalsRequest), resolve_approval(ResolveApprovalRequest),
        submit_tool_result(SubmitToolResultRequest), submit_input(SubmitInputRequest),
        erase_session(EraseSessionRequest), list_dead_notices(ListDeadNoticesRequest),
        retry_dead_notice(RetryDeadNoticeRequest), read_blob(ReadBlobRequest), fork_run(ForkRunRequest),
        diff_runs(DiffRunsRequest),
    );
    for (rpc, answer) in served {
        check(rpc, answer, Code::InvalidArgument, "INVALID_REQUEST");
    }
    let wrong = ListSessionsRequest { page_size: -1, page_token: "!".into(), state: 99 };
    let refused = Refused::by(client.grpc.list_sessions(wrong).await);
    assert_eq!(refused.why(), (Code::InvalidArgument, "INVALID_REQUEST"));
    assert_eq!(refused.fields, ["page_size", "page_token", "state"]);

    let later = refusals!(client;
        explain_run(ExplainRunRequest),
        export_run(ExportRunRequest),
    );
    for (rpc, answer) in later {
        check(rpc, answer, Code::Unimplemented, "NOT_IMPLEMENTED");
    }
    let upload = client.grpc.create_blob(tokio_stream::iter([CreateBlobRequest::default()])).await;
    check("create_blob", upload.map(|_| ()), Code::InvalidArgument, "INVALID_REQUEST");

    // What is no RPC at all.
    let channel = tonic::transport::Endpoint::new(system.endpoint(0))?.connect().await?;
    for path in ["/agentruntime.session.v1.SessionService/Nothing", "/agentruntime.nothing.v1.NothingService/Get"] {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await?;
        let codec = tonic_prost::ProstCodec::<GetRunRequest, GetRunResponse>::default();
        let answer = grpc.unary(tonic::Request::new(GetRunRequest::default()), path.parse()?, codec).await;
        check(path, answer.map(|_| ()), Code::Unimplemented, "NOT_IMPLEMENTED");
    }

    // A credential that is none is refused before anything is looked at, on each RPC alike.
    let mut stranger = tonic::Request::new(GetRunRequest::default());
    stranger.metadata_mut().insert("authorization", "Bearer mar_nobody_00".parse()?);
    check("get_run", client.grpc.get_run(stranger).await.map(|_| ()), Code::Unauthenticated, "UNAUTHENTICATED");
    Ok(())
}
