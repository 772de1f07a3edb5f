//! Another tenant's things are as if they were not there.

use std::fmt::Write as _;

use mar_proto::session::session_service_client::SessionServiceClient;
use mar_proto::session::*;
use mar_proto::types::ToolResult;
use mar_runtime::auth::api_key;
use mar_runtime::clock::SystemIds;
use mar_tests::client::request_id;
use mar_tests::{Deployment, Options, Shape, Stores, task};
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::refused::Refused;

type Client = SessionServiceClient<InterceptedService<Channel, Key>>;

/// Sends an API key with every call.
#[derive(Clone)]
struct Key(MetadataValue<tonic::metadata::Ascii>);

impl tonic::service::Interceptor for Key {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

async fn connect(system: &Deployment, key: &str) -> anyhow::Result<Client> {
    let channel = tonic::transport::Endpoint::new(system.endpoint(0))?.connect().await?;
    Ok(SessionServiceClient::with_interceptor(channel, Key(format!("Bearer {key}").parse()?)))
}

async fn session_of(client: &mut Client) -> anyhow::Result<String> {
    let request = StartSessionRequest { request_id: request_id(), session: None };
    Ok(client.start_session(request).await?.into_inner().session.unwrap_or_default().name)
}

fn run_of(session: &str) -> StartRunRequest {
    StartRunRequest {
        request_id: request_id(),
        session: session.into(),
        task: Some(task::question("why?")),
        ..Default::default()
    }
}

/// What every RPC that takes a name says to it; the name itself is blotted out.
async fn answers(client: &mut Client, session: &str, run: &str) -> Vec<(&'static str, Refused)> {
    let update = UpdateSessionRequest {
        request_id: request_id(),
        session: Some(Session { name: session.into(), purpose: "mine".into(), ..Session::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["purpose".into()] }),
    };
    let (session, run) = (session.to_owned(), run.to_owned());
    let start = run_of(&session);
    let follow = RunTaskRequest {
        request_id: request_id(),
        session: session.clone(),
        task: start.task.clone(),
        ..Default::default()
    };
    let start_input = task::question("why?").input;
    let said = vec![
        ("get_session", Refused::by(client.get_session(GetSessionRequest { name: session.clone() }).await)),
        ("update_session", Refused::by(client.update_session(update).await)),
        (
            "end_session",
            Refused::by(client.end_session(EndSessionRequest { name: session.clone(), ..Default::default() }).await),
        ),
        ("start_run", Refused::by(client.start_run(start).await)),
        ("run_task", Refused::by(client.run_task(follow).await)),
        (
            "list_runs",
            Refused::by(client.list_runs(ListRunsRequest { parent: session.clone(), ..Default::default() }).await),
        ),
        ("get_run", Refused::by(client.get_run(GetRunRequest { name: run.clone() }).await)),
        ("watch_run", Refused::by(client.watch_run(WatchRunRequest { name: run.clone(), ..Default::default() }).await)),
        (
            "watch_run beyond",
            Refused::by(
                client.watch_run(WatchRunRequest { name: run.clone(), from_seq: 999, ..Default::default() }).await,
            ),
        ),
        (
            "cancel_run",
            Refused::by(client.cancel_run(CancelRunRequest { name: run.clone(), ..Default::default() }).await),
        ),
        (
            "submit_tool_result",
            Refused::by(
                client
                    .submit_tool_result(SubmitToolResultRequest {
                        request_id: request_id(),
                        run: run.clone(),
                        result: Some(ToolResult { call_id: "x/1/0".into(), ..ToolResult::default() }),
                    })
                    .await,
            ),
        ),
        (
            "submit_input",
            Refused::by(
                client
                    .submit_input(SubmitInputRequest {
                        request_id: request_id(),
                        run: run.clone(),
                        input: start_input.clone(),
                        call_id: String::new(),
                    })
                    .await,
            ),
        ),
        (
            "fork_run",
            Refused::by(
                client
                    .fork_run(ForkRunRequest { request_id: request_id(), name: run.clone(), ..Default::default() })
                    .await,
            ),
        ),
        ("diff_runs", Refused::by(client.diff_runs(DiffRunsRequest { name: run.clone(), base: run.clone() }).await)),
        (
            "list_events",
            Refused::by(client.list_events(ListEventsRequest { parent: run.clone(), ..Default::default() }).await),
        ),
    ];
    let blot = |text: &str| text.replace(&run, "RUN").replace(&session, "SESSION");
    said.into_iter()
        .map(|(rpc, mut refused)| {
            refused.message = blot(&refused.message);
            refused.resource = refused.resource.map(|(kind, name)| (kind, blot(&name)));
            (rpc, refused)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_name_is_an_unknown_name() -> anyhow::Result<()> {
    let mut extra = String::from("[runtime.auth]\nmode = \"api_keys\"\n");
    let mut keys = Vec::new();
    for tenant in ["acme", "umbrella"] {
        let (key, sha256) = api_key::generate(tenant, &SystemIds);
        write!(
            extra,
            "[[runtime.auth.api_keys]]\nid = \"{tenant}\"\nsha256 = \"{sha256}\"\ntenant = \"{tenant}\"\nprincipal = \"ci\"\nscopes = [\"*\"]\nenvironment = \"dev\"\n"
        )?;
        keys.push(key);
    }
    let (key, sha256) = api_key::generate("reader", &SystemIds);
    write!(
        extra,
        "[[runtime.auth.api_keys]]\nid = \"reader\"\nsha256 = \"{sha256}\"\ntenant = \"acme\"\nprincipal = \"eve\"\nscopes = [\"sessions.read\"]\nenvironment = \"dev\"\n"
    )?;
    let script = "[[rule]]\nreply = { hang = true }\n";
    let system = Deployment::start(Options::new(Shape::One, Stores::Embedded).script(script).extra(extra)).await?;
    let mut acme = connect(&system, &keys[0]).await?;
    let mut umbrella = connect(&system, &keys[1]).await?;

    let session = session_of(&mut acme).await?;
    let run = acme.start_run(run_of(&session)).await?.into_inner().run.unwrap_or_default().name;
    let unknown_session = "sessions/00000000-0000-7000-8000-000000000001";
    let unknown_run = format!("{unknown_session}/runs/00000000-0000-7000-8000-000000000002");
    let foreign = answers(&mut umbrella, &session, &run).await;
    let unknown = answers(&mut umbrella, unknown_session, &unknown_run).await;
    for (rpc, refused) in &foreign {
        assert_eq!(refused.why(), (Code::NotFound, "NOT_FOUND"), "{rpc}: {refused:?}");
    }
    assert_eq!(foreign, unknown);

    let all = ListRunsRequest { parent: "sessions/-".into(), ..Default::default() };
    assert!(umbrella.list_runs(all.clone()).await?.into_inner().runs.is_empty());
    assert!(umbrella.list_sessions(ListSessionsRequest::default()).await?.into_inner().sessions.is_empty());
    assert_eq!(acme.list_runs(all).await?.into_inner().runs.len(), 1);
    let run = acme.get_run(GetRunRequest { name: run }).await?.into_inner().run.unwrap_or_default();
    assert!(!crate::story::is_over(&run), "a stranger's cancel did nothing");

    // A page token of one tenant is none of another's.
    session_of(&mut acme).await?;
    let page = ListSessionsRequest { page_size: 1, ..Default::default() };
    let token = acme.list_sessions(page.clone()).await?.into_inner().next_page_token;
    let stolen = ListSessionsRequest { page_token: token, ..page };
    assert_eq!(Refused::by(umbrella.list_sessions(stolen).await).fields, ["page_token"]);

    let mut nobody = SessionServiceClient::connect(system.endpoint(0)).await?;
    let refused = Refused::by(nobody.get_session(GetSessionRequest { name: session.clone() }).await);
    assert_eq!(refused.why(), (Code::Unauthenticated, "UNAUTHENTICATED"));
    let mut reader = connect(&system, &key).await?;
    assert!(reader.get_session(GetSessionRequest { name: session.clone() }).await.is_ok());
    let refused = Refused::by(reader.start_run(run_of(&session)).await);
    assert_eq!(refused.why(), (Code::PermissionDenied, "SCOPE_MISSING"));
    Ok(())
}
