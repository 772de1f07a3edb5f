//! A caller who does not give up: asks again after each death, with the same request id or from the cursor.

use std::time::Duration;

use crate::Client;
use crate::client::request_id;
use anyhow::{Context as _, bail, ensure};
use mar_proto::session::run_frame::Frame;
use mar_proto::session::{
    Concurrency, EndSessionRequest, Event, ListRunsRequest, Run, RunFrame, RunState, RunTaskRequest, Session,
    StartRunRequest, Task, WatchRunRequest,
};
use mar_proto::tool::ListToolsRequest;
use mar_proto::tool::tool_gateway_service_client::ToolGatewayServiceClient;
use mar_proto::types::ErrorReason;
use mar_runtime::status::Reason;
use mar_testkit::wait;
use prost::bytes::Bytes;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Status};

use crate::deltas::Deltas;
use crate::oracle::{self, Scars};

/// How long a caller goes on trying.
const PATIENCE: Duration = Duration::from_secs(40);
/// How often a log is read that lags behind what was seen.
const LOOKS: usize = 200;
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// A caller of session, who can also see the gateway's tools.
#[derive(Clone)]
pub struct Caller {
    /// Of session.
    pub client: Client,
    /// Where the gateway is.
    pub gateway: String,
}

/// What a caller has seen of a run, over all of its streams.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// The run's name.
    pub name: String,
    /// Each event once, in order.
    pub events: Vec<Event>,
    /// The run as its end frame has it.
    pub ended: Option<Run>,
    /// Reasons that streams broke off with, where session gave one.
    pub reasons: Vec<ErrorReason>,
    /// Streams that broke off.
    pub broken: usize,
    /// What was shown before it was committed.
    pub deltas: Deltas,
}

/// A request that can be repeated.
pub fn request(session: &str, task: Task) -> RunTaskRequest {
    RunTaskRequest {
        request_id: request_id(),
        session: session.into(),
        task: Some(task),
        concurrency: Concurrency::Parallel.into(),
        ..RunTaskRequest::default()
    }
}

impl Seen {
    /// Takes a frame in. An event that was seen before or comes too early is a failure, and so is a piece of a turn that was
    /// committed otherwise.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn take(&mut self, frame: RunFrame, replayed: &mut i64) -> anyhow::Result<()> {
        match frame.frame.context("an empty frame")? {
            Frame::Snapshot(snapshot) => {
                let run = snapshot.run.context("a snapshot without its run")?;
                ensure!(self.name.is_empty() || self.name == run.name, "{} became {}", self.name, run.name);
                self.name = run.name;
                snapshot.attempt.iter().for_each(|attempt| self.deltas.begin(attempt));
            }
            Frame::Event(event) => {
                self.deltas.settle(&event)?;
                let next = i64::try_from(self.events.len())?;
                ensure!(event.seq == *replayed, "{}: event {} after {}", self.name, event.seq, *replayed - 1);
                *replayed += 1;
                if event.seq == next {
                    self.events.push(event);
                } else {
                    let before = self.events.get(usize::try_from(event.seq)?).context("an event is missing")?;
                    ensure!(*before == event, "{}: event {} has changed", self.name, event.seq);
                }
            }
            Frame::End(end) => self.ended = Some(end.run.context("an end without its run")?),
            Frame::Attempt(attempt) => self.deltas.begin(&attempt),
            Frame::Delta(delta) => self.deltas.take(delta),
        }
        Ok(())
    }

    /// Follows one stream as far as it goes. Frames start at event `from`.
    async fn follow(
        &mut self,
        from: i64,
        mut stream: impl Stream<Item = Result<Option<RunFrame>, Status>> + Unpin,
    ) -> anyhow::Result<()> {
        let mut replayed = from;
        while let Some(frame) = stream.next().await {
            match frame {
                Ok(frame) => self.take(frame.unwrap_or_default(), &mut replayed)?,
                Err(status) => return self.broke(&status),
            }
            if self.ended.is_some() {
                return Ok(());
            }
        }
        self.broken += 1;
        Ok(())
    }

    /// Notes how a stream broke: by a dead connection, or because session said to come back.
    fn broke(&mut self, status: &Status) -> anyhow::Result<()> {
        self.broken += 1;
        if let Some(reason) = Reason::of(status) {
            ensure!(status.code() == Code::Unavailable, "{}: {status:?}", self.name);
            self.reasons.push(reason);
        }
        Ok(())
    }
}

impl Caller {
    /// Starts a session.
    pub async fn session(&mut self) -> anyhow::Result<String> {
        self.client.session().await
    }

    /// Asks once and follows as far as the stream goes.
    pub async fn once(&mut self, request: &RunTaskRequest, seen: &mut Seen) -> anyhow::Result<()> {
        match self.client.grpc.run_task(request.clone()).await {
            Ok(response) => seen.follow(0, response.into_inner().map(|frame| frame.map(|frame| frame.frame))).await,
            Err(status) => seen.broke(&status),
        }
    }

    /// Asks again with the same id until the run has ended.
    pub async fn insist(&mut self, request: &RunTaskRequest, seen: &mut Seen) -> anyhow::Result<()> {
        let insisting = async {
            while seen.ended.is_none() {
                self.once(request, seen).await?;
                tokio::time::sleep(PAUSE).await;
            }
            anyhow::Ok(())
        };
        let result = tokio::time::timeout(PATIENCE, insisting).await;
        result.with_context(|| format!("{} does not end: {:?}", seen.name, names(&seen.events)))?
    }

    /// Follows from the cursor as far as one stream goes.
    pub async fn watch(&mut self, seen: &mut Seen) -> anyhow::Result<()> {
        let from_seq = i64::try_from(seen.events.len())?;
        let request = WatchRunRequest {
            name: seen.name.clone(),
            from_seq,
            without_deltas: false,
            after_hash: seen.events.last().map(|last| last.hash.clone()).unwrap_or_default(),
        };
        match self.client.grpc.watch_run(request).await {
            Ok(response) => {
                seen.follow(from_seq, response.into_inner().map(|frame| frame.map(|frame| frame.frame))).await
            }
            Err(status) => seen.broke(&status),
        }
    }

    /// Follows from the cursor, on new streams after each death, until the run has ended.
    pub async fn pursue(&mut self, seen: &mut Seen) -> anyhow::Result<()> {
        let pursuing = async {
            while seen.ended.is_none() {
                self.watch(seen).await?;
                tokio::time::sleep(PAUSE).await;
            }
            anyhow::Ok(())
        };
        let result = tokio::time::timeout(PATIENCE, pursuing).await;
        result.with_context(|| format!("{} does not end: {:?}", seen.name, names(&seen.events)))?
    }

    /// Starts a run and leaves it.
    pub async fn start(&mut self, request: &RunTaskRequest) -> anyhow::Result<Seen> {
        let request = StartRunRequest {
            request_id: request.request_id.clone(),
            session: request.session.clone(),
            task: request.task.clone(),
            concurrency: request.concurrency,
        };
        let run = self.client.grpc.start_run(request).await?.into_inner().run.context("no run")?;
        Ok(Seen { name: run.name, ..Seen::default() })
    }

    /// The runs of a session.
    pub async fn runs(&mut self, session: &str) -> anyhow::Result<Vec<Run>> {
        let request = ListRunsRequest { parent: session.into(), ..ListRunsRequest::default() };
        Ok(self.client.grpc.list_runs(request).await?.into_inner().runs)
    }

    /// Judges a run that has ended by its stored log, which has to be what its followers saw.
    pub async fn judge(&mut self, seen: &Seen) -> anyhow::Result<Scars> {
        let run = seen.ended.as_ref().context("the run has not ended")?;
        let events = self.stored(run, seen).await?;
        oracle::check(run, &events)
    }

    /// The stored log of a run that has ended, once the replica that is asked knows of its end: one that was taken for dead shows
    /// what it has of a run until it learns that it has lost it.
    async fn stored(&mut self, run: &Run, seen: &Seen) -> anyhow::Result<Vec<Event>> {
        let mut looks = LOOKS;
        loop {
            let events = self.client.events(&run.name).await?;
            let read = self.client.get(&run.name).await?;
            let shown: Vec<Event> = events.iter().map(|event| Event { leaf: Bytes::new(), ..event.clone() }).collect();
            if shown == seen.events && read.seal == run.seal && read.state == run.state {
                return Ok(events);
            }
            let behind = shown.len() < seen.events.len() && seen.events.starts_with(&shown) || read.seal.is_none();
            let told =
                || format!("followers of {} saw {:?}, stored are {:?}", run.name, names(&seen.events), names(&shown));
            ensure!(behind, "{}", told());
            looks -= 1;
            ensure!(looks > 0, "for {LOOKS} looks {}", told());
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Judges a fork that has ended, by its log and that of the run that it was forked from.
    pub async fn judge_fork(&mut self, seen: &Seen, origin: &[Event]) -> anyhow::Result<Scars> {
        let run = seen.ended.as_ref().context("the run has not ended")?;
        let events = self.stored(run, seen).await?;
        oracle::check_fork(run, &events, origin)
    }

    /// Like [`Caller::judge`], of a run that has to have succeeded.
    pub async fn judge_success(&mut self, seen: &Seen) -> anyhow::Result<Scars> {
        let scars = self.judge(seen).await?;
        let run = seen.ended.as_ref().context("the run has not ended")?;
        ensure!(run.state() == RunState::Succeeded, "{} is {:?}: {:?}", run.name, run.state(), run.failure);
        Ok(scars)
    }

    /// Ends a session, asking again until it has ended.
    pub async fn end(&mut self, session: &str) -> anyhow::Result<Session> {
        let ending = async {
            loop {
                let request = EndSessionRequest { request_id: String::new(), name: session.into() };
                match self.client.grpc.end_session(request).await {
                    Ok(response) => return response.into_inner().session.context("no session"),
                    Err(status) if Reason::of(&status).is_some() && status.code() != Code::Unavailable => {
                        bail!("{status:?}")
                    }
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, ending).await.context("the session does not end")?
    }

    /// Waits until the gateway offers every tool.
    pub async fn wait_for_tools(&self) -> anyhow::Result<()> {
        let tools = ToolGatewayServiceClient::connect(self.gateway.clone()).await?;
        wait::until(PATIENCE, || {
            let mut tools = tools.clone();
            async move {
                let Ok(list) = tools.list_tools(ListToolsRequest::default()).await else { return false };
                let list = list.into_inner();
                let up = |name: &str| list.tools.iter().any(|tool| tool.upstream == name && !tool.stale);
                ["docs", "sure", "once"].into_iter().all(up) && list.unavailable.is_empty()
            }
        })
        .await
        .context("the tools do not come up")
    }
}

/// What happened, by name.
pub fn names(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(crate::client::name_of).collect()
}
