//! A caller.

use std::time::Duration;

use anyhow::{Context as _, bail};
use mar_proto::session::run_frame::Frame;
use mar_proto::session::session_service_client::SessionServiceClient;
use mar_proto::session::{
    Event, GetRunRequest, ListEventsRequest, PauseRunRequest, ResumeRunRequest, Run, RunFrame, RunTaskRequest, Session,
    StartRunRequest, StartSessionRequest, Task, WatchRunRequest, event_leaf::Body,
};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;
use uuid::Uuid;

/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A caller with a connection to session.
#[derive(Clone)]
pub struct Client {
    /// The generated client.
    pub grpc: SessionServiceClient<Channel>,
}

/// A run that was followed to its end.
#[derive(Debug)]
pub struct Followed {
    /// The run as the last frame has it.
    pub run: Run,
    /// The frames, snapshot and end included.
    pub frames: Vec<RunFrame>,
}

impl Followed {
    /// The committed events.
    pub fn events(&self) -> Vec<&Event> {
        let events = self.frames.iter().filter_map(|frame| match &frame.frame {
            Some(Frame::Event(event)) => Some(event),
            _ => None,
        });
        events.collect()
    }

    /// What happened, by name.
    pub fn story(&self) -> Vec<&'static str> {
        self.events().into_iter().map(name_of).collect()
    }

    /// The answer's text.
    pub fn text(&self) -> String {
        let parts = self.run.answer.as_ref().map_or(&[][..], |answer| &answer.parts);
        let texts = parts.iter().filter_map(|part| match &part.content {
            Some(mar_proto::types::part::Content::Text(text)) => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }
}

/// The name of what happened.
pub fn name_of(event: &Event) -> &'static str {
    match event.body.as_ref().and_then(|leaf| leaf.body.as_ref()) {
        Some(Body::RunAdmitted(_)) => "RunAdmitted",
        Some(Body::RunClaimed(_)) => "RunClaimed",
        Some(Body::AgentSealed(_)) => "AgentSealed",
        Some(Body::GenerationStarted(_)) => "GenerationStarted",
        Some(Body::TurnCommitted(_)) => "TurnCommitted",
        Some(Body::SummaryCommitted(_)) => "SummaryCommitted",
        Some(Body::GenerationFailed(_)) => "GenerationFailed",
        Some(Body::ToolIntent(_)) => "ToolIntent",
        Some(Body::ToolReturned(_)) => "ToolReturned",
        Some(Body::AnswerRejected(_)) => "AnswerRejected",
        Some(Body::CountersRebuilt(_)) => "CountersRebuilt",
        Some(Body::CommitDelayed(_)) => "CommitDelayed",
        Some(Body::RunWaiting(_)) => "RunWaiting",
        Some(Body::RunResumed(_)) => "RunResumed",
        Some(Body::StopRequested(_)) => "StopRequested",
        Some(Body::PauseRequested(_)) => "PauseRequested",
        Some(Body::OriginRecalled(_)) => "OriginRecalled",
        Some(Body::EventShared(_)) => "EventShared",
        Some(Body::CallDoubted(_)) => "CallDoubted",
        Some(Body::CallProbed(_)) => "CallProbed",
        Some(Body::ApprovalRequested(_)) => "ApprovalRequested",
        Some(Body::ApprovalDecided(_)) => "ApprovalDecided",
        Some(Body::CallHandedOver(_)) => "CallHandedOver",
        Some(Body::SliceGranted(_)) => "SliceGranted",
        Some(Body::DelegationIntent(_)) => "DelegationIntent",
        Some(Body::ChildEnded(_)) => "ChildEnded",
        Some(Body::AllotmentRefilled(_)) => "AllotmentRefilled",
        Some(Body::RunEnded(_)) => "RunEnded",
        None => "nothing",
    }
}

/// A fresh request id.
pub fn request_id() -> String {
    use mar_runtime::clock::Ids as _;
    let id: Uuid = mar_runtime::clock::SystemIds.uuid_v7();
    id.to_string()
}

impl Client {
    /// Connects.
    pub async fn connect(endpoint: String) -> anyhow::Result<Self> {
        let grpc = SessionServiceClient::connect(endpoint).await?.max_decoding_message_size(16 << 20);
        Ok(Self { grpc })
    }

    /// Starts a session.
    pub async fn session(&mut self) -> anyhow::Result<String> {
        let session = Session { purpose: "test".into(), ..Session::default() };
        let request = StartSessionRequest { request_id: request_id(), session: Some(session) };
        let session = self.grpc.start_session(request).await?.into_inner().session;
        Ok(session.context("no session")?.name)
    }

    /// Runs a task in a new session to its end.
    pub async fn run(&mut self, task: Task) -> anyhow::Result<Followed> {
        let session = self.session().await?;
        self.run_in(&session, task).await
    }

    /// Runs a task to its end.
    pub async fn run_in(&mut self, session: &str, task: Task) -> anyhow::Result<Followed> {
        let request = RunTaskRequest {
            request_id: request_id(),
            session: session.into(),
            task: Some(task),
            ..Default::default()
        };
        self.run_request(request).await
    }

    /// Makes this request and follows its run to the end.
    pub async fn run_request(&mut self, request: RunTaskRequest) -> anyhow::Result<Followed> {
        let stream = self.grpc.run_task(request).await?.into_inner();
        collect(stream.map(|frame| frame.map(|frame| frame.frame.unwrap_or_default()))).await
    }

    /// Starts a run and leaves it.
    pub async fn start(&mut self, session: &str, task: Task) -> anyhow::Result<Run> {
        let request = StartRunRequest {
            request_id: request_id(),
            session: session.into(),
            task: Some(task),
            ..Default::default()
        };
        self.grpc.start_run(request).await?.into_inner().run.context("no run")
    }

    /// Follows a run from a cursor to its end.
    pub async fn watch(&mut self, name: &str, from_seq: i64) -> anyhow::Result<Followed> {
        let request = WatchRunRequest { name: name.into(), from_seq, ..Default::default() };
        let stream = self.grpc.watch_run(request).await?.into_inner();
        collect(stream.map(|frame| frame.map(|frame| frame.frame.unwrap_or_default()))).await
    }

    /// Reads a run.
    pub async fn get(&mut self, name: &str) -> anyhow::Result<Run> {
        self.grpc.get_run(GetRunRequest { name: name.into() }).await?.into_inner().run.context("no run")
    }

    /// Asks a run to pause.
    pub async fn pause(&mut self, name: &str) -> anyhow::Result<Run> {
        let request = PauseRunRequest { name: name.into(), ..Default::default() };
        self.grpc.pause_run(request).await?.into_inner().run.context("no run")
    }

    /// Lets a paused run go on.
    pub async fn resume(&mut self, name: &str) -> anyhow::Result<Run> {
        let request = ResumeRunRequest { name: name.into(), ..Default::default() };
        self.grpc.resume_run(request).await?.into_inner().run.context("no run")
    }

    /// Reads a run until it is as wanted.
    pub async fn until(&mut self, name: &str, wanted: impl Fn(&Run) -> bool) -> anyhow::Result<Run> {
        let mut last = None;
        for _ in 0..600 {
            let run = self.get(name).await?;
            if wanted(&run) {
                return Ok(run);
            }
            last = Some(run);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the run is never as wanted: {last:?}")
    }

    /// All events of a run, with their stored bytes, page by page.
    pub async fn events(&mut self, name: &str) -> anyhow::Result<Vec<Event>> {
        let mut events = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListEventsRequest { parent: name.into(), page_size: 7, page_token, include_leaf: true };
            let page = self.grpc.list_events(request).await?.into_inner();
            events.extend(page.events);
            if page.next_page_token.is_empty() {
                return Ok(events);
            }
            page_token = page.next_page_token;
        }
    }
}

async fn collect(
    mut stream: impl tokio_stream::Stream<Item = Result<RunFrame, tonic::Status>> + Unpin,
) -> anyhow::Result<Followed> {
    let mut frames = Vec::new();
    let following = async {
        while let Some(frame) = stream.next().await {
            let frame = frame?;
            if let Some(Frame::End(end)) = &frame.frame {
                let run = end.run.clone().context("the end has no run")?;
                frames.push(frame);
                return anyhow::Ok(run);
            }
            frames.push(frame);
        }
        bail!("the stream ended without its end frame")
    };
    let run = tokio::time::timeout(PATIENCE, following).await.context("the run takes too long")??;
    Ok(Followed { run, frames })
}
