//! The gRPC face: parse, one call into the domain, convert.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use mar_proto::session::session_service_server::SessionService;
use mar_proto::session::*;
use mar_runtime::auth::{Caller, Identity};
use tonic::{Request, Response, Status, Streaming};

use crate::audit;
use crate::diff;
use crate::error::Error;
use crate::events;
use crate::hooks::Hooks;
use crate::runs::{Follow, FrameStream, Runs};
use crate::sessions::Sessions;
use crate::verify::Keys;

mod blobs;
pub mod convert;
mod follow;
mod listing;

pub use listing::EventListing;

/// The service.
pub struct Service {
    sessions: Sessions,
    runs: Runs,
    keys: Keys,
    hooks: Hooks,
}

impl Service {
    /// Serves sessions and their runs; signatures by these keys count when a run is verified.
    pub fn new(runs: Runs, keys: Keys, hooks: Hooks) -> Self {
        Self { sessions: Sessions::new(runs.clone()), runs, keys, hooks }
    }
}

/// Scopes of a caller's credential.
mod scope {
    pub const READ: &str = "sessions.read";
    pub const WRITE: &str = "sessions.write";
    pub const ERASE: &str = "sessions.erase";
    pub const HOOKS: &str = "hooks.manage";
    pub const DECIDE: &str = "approvals.decide";
}

fn caller<T>(request: &Request<T>, scope: &str) -> Result<Caller, Status> {
    let caller = &Identity::of(request)?.caller;
    caller.require_scope(scope)?;
    Ok(caller.clone())
}

fn missing<T>(rpc: &'static str) -> Result<T, Status> {
    Err(Error::NotImplemented(rpc).into())
}

type Frames<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SessionService for Service {
    type RunTaskStream = Frames<RunTaskResponse>;
    type WatchRunStream = Frames<WatchRunResponse>;
    type ExportRunStream = Frames<ExportRunResponse>;
    type ReadBlobStream = Frames<ReadBlobResponse>;

    async fn start_session(
        &self,
        request: Request<StartSessionRequest>,
    ) -> Result<Response<StartSessionResponse>, Status> {
        let caller = caller(&request, scope::WRITE)?;
        let (key, wish) = convert::start_session(&caller, request.into_inner())?;
        let session = self.sessions.start(&caller, key, wish).await?;
        Ok(Response::new(StartSessionResponse { session: Some(session) }))
    }

    async fn get_session(&self, request: Request<GetSessionRequest>) -> Result<Response<GetSessionResponse>, Status> {
        let caller = caller(&request, scope::READ)?;
        let id = convert::session_of("name", &request.into_inner().name)?;
        let session = self.sessions.get(&caller.tenant, id).await?;
        Ok(Response::new(GetSessionResponse { session: Some(session) }))
    }

    async fn update_session(
        &self,
        request: Request<UpdateSessionRequest>,
    ) -> Result<Response<UpdateSessionResponse>, Status> {
        let caller = caller(&request, scope::WRITE)?;
        let change = convert::update_session(&caller, request.into_inner())?;
        let session = self.sessions.change(&caller.tenant, change).await?;
        Ok(Response::new(UpdateSessionResponse { session: Some(session) }))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let caller = caller(&request, scope::READ)?;
        let listing = listing::sessions(&caller, request.get_ref())?;
        let sessions = self.sessions.list(&caller.tenant, listing.page()).await?;
        let (sessions, next_page_token) = listing.cut(sessions);
        Ok(Response::new(ListSessionsResponse { sessions, next_page_token }))
    }

    async fn end_session(&self, request: Request<EndSessionRequest>) -> Result<Response<EndSessionResponse>, Status> {
        let caller = caller(&request, scope::WRITE)?;
        let (key, id) = convert::end_session(&caller, request.get_ref())?;
        let session = self.sessions.end(&caller, key.as_ref(), id).await?;
        Ok(Response::new(EndSessionResponse { session: Some(session) }))
    }

    async fn erase_session(
        &self,
        request: Request<EraseSessionRequest>,
    ) -> Result<Response<EraseSessionResponse>, Status> {
        let caller = caller(&request, scope::ERASE)?;
        let (key, id) = convert::erase_session(&caller, request.get_ref())?;
        let session = self.sessions.erase(&caller, key.as_ref(), id).await?;
        Ok(Response::new(EraseSessionResponse { session: Some(session) }))
    }

    async fn start_run(&self, request: Request<StartRunRequest>) -> Result<Response<StartRunResponse>, Status> {
        let caller = caller(&request, scope::WRITE)?;
        let admit = convert::start_run(&caller, request.into_inner(), self.runs.limits())?;
        let run = self.runs.admit(&caller, admit).await?;
        Ok(Response::new(StartRunResponse { run: Some(run) }))
    }

    async fn run_task(&self, request: Request<RunTaskRequest>) -> Result<Response<Self::RunTaskStream>, Status> {
        let caller = caller(&request, scope::WRITE)?;
        let (cancel, deltas) = (request.get_ref().cancel_on_disconnect, !request.get_ref().without_deltas);
        let admit = convert::run_task(&caller, request.into_inner(), self.runs.limits())?;
        let session = admit.session;
        let run = self.runs.admit(&caller, admit).await?;
        let run = convert::run_of("name", &run.name)?.1;
        let target = Follow { tenant: caller.tenant.clone(), session, run, from_seq: 0, after: None, deltas };
        let guard = cancel.then(|| follow::CancelOnDrop::new(self.runs.clone(), caller, session, run));
        let frames = follow::guarded(self.runs.follow(target).await?, guard);
        let wrap = |frame: Result<RunFrame, Error>| match frame {
            Ok(frame) => Ok(RunTaskResponse { frame: Some(frame) }),
            Err(error) => Err(error.into()),
        };
        Ok(Response::new(Box::pin(frames.map(wrap))))
    }

    async fn get_run(&self, request: Request<GetRunRequest>) -> Result<Response<GetRunResponse>, Status> {
        let caller = caller(&request, scope::READ)?;
        let name = request.into_inner().name;
        let (session, run) = convert::run_of("name", &name)?;
        let run = self.runs.get(&caller.tenant, session, run, &name).await?;
        Ok(Response::new(GetRunResponse { run: Some(run) }))
    }

    async fn list_runs(&self, request: Request<ListRunsRequest>) -> Result<Response<ListRunsResponse>, Status> {
        let caller = caller(&request, scope::READ)?;
        let (session, listing) = listing::runs(&caller, request.get_ref())?;
        if let Some(session) = session {
            self.sessions.get(&caller.tenant, session).await?;
        }
        let runs = self.runs.list(&caller.tenant, session, listing.page()).await?;
        let (runs, next_page_token) = listing.cut(runs);
        Ok(Response::new(ListRunsResponse { runs, next_page_token }))
    }

    async fn watch_run(&self, request: Request<WatchRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        let caller = caller(&request, scope::READ)?;
        let target = convert::watch_run(&caller, request.into_inner())?;
        let frames: FrameStream = self.runs.follow(target).await?;
        let wrap = |frame: Result<RunFrame, Error>| match frame {
            Ok(frame) => Ok(WatchRunResponse { frame: Some(frame) }),
            Err(error) => Err(error.into()),
        };
        Ok(Response::new(Box::pin(frames.map(wrap))))
    }

    async fn cancel_run(&self, request: Request<CancelRunRequest>) -> Result<Response<CancelRunResponse>, Status> {
        let caller = caller(&request, scope::WRITE)?;
        let target = convert::cancel_run(&caller, request.get_ref())?;
        let run = self.runs.cancel(&caller, target).await?;
        Ok(Response::new(CancelRunResponse { run: Some(run) }))
    }

    async fn list_events(&self, request: Request<ListEventsRequest>) -> Result<Response<ListEventsResponse>, Status> {
        let caller = caller(&request, scope::READ)?;
        let (session, run, listing) = listing::events(&caller, request.get_ref())?;
        let page = events::page(&self.runs, &caller.tenant, session, run, &listing).await?;
        let next_page_token = page.next.map(|seq| listing.token(seq)).unwrap_or_default();
        Ok(Response::new(ListEventsResponse { events: page.events, next_page_token }))
    }

    async fn pause_run(&self, request: Request<PauseRunRequest>) -> Result<Response<PauseRunResponse>, Status> {
        let caller = caller(&request, scope::WRITE)?;
        let target = convert::pause_run(&caller, request.get_ref())?;
        let run = self.runs.pause(&caller, target).await?;
        Ok(Response::new(PauseRunResponse { run: Some(run) }))
    }

    async fn resume_run(&self, request: Request<ResumeRunRequest>) -> Result<Response<ResumeRunResponse>, Status> {
        let caller = caller(&request, scope::WRITE)?;
        let target = convert::resume_run(&caller, request.get_ref())?;
        let run = self.runs.resume_paused(&caller, target).await?;
        Ok(Response::new(ResumeRunResponse { run: Some(run) }))
    }

    async fn fork_run(&self, request: Request<ForkRunRequest>) -> Result<Response<ForkRunResponse>, Status> {
        let caller = caller(&request, scope::WRITE)?;
        let fork = convert::fork_run(&caller, request.into_inner(), self.runs.limits())?;
        let run = self.runs.fork(&caller, fork).await?;
        Ok(Response::new(ForkRunResponse { run: Some(run) }))
    }

    async fn diff_runs(&self, request: Request<DiffRunsRequest>) -> Result<Response<DiffRunsResponse>, Status> {
        let caller = caller(&request, scope::READ)?;
        let pair = convert::diff_runs(request.get_ref())?;
        Ok(Response::new(diff::diff(&self.runs, &caller.tenant, pair).await?))
    }

    async fn explain_run(&self, _: Request<ExplainRunRequest>) -> Result<Response<ExplainRunResponse>, Status> {
        missing("ExplainRun")
    }

    async fn verify_run(&self, request: Request<VerifyRunRequest>) -> Result<Response<VerifyRunResponse>, Status> {
        let caller = caller(&request, scope::READ)?;
        let (session, run) = convert::run_of("name", &request.into_inner().name)?;
        Ok(Response::new(audit::verify(&self.runs, &self.keys, &caller.tenant, session, run).await?))
    }

    async fn export_run(&self, _: Request<ExportRunRequest>) -> Result<Response<Self::ExportRunStream>, Status> {
        missing("ExportRun")
    }

    async fn list_approvals(
        &self,
        request: Request<ListApprovalsRequest>,
    ) -> Result<Response<ListApprovalsResponse>, Status> {
        let caller = caller(&request, scope::READ)?;
        let listing = listing::approvals(&caller, request.get_ref())?;
        let approvals = self.runs.approvals(&caller.tenant, listing.page()).await?;
        let (approvals, next_page_token) = listing.cut(approvals);
        Ok(Response::new(ListApprovalsResponse { approvals, next_page_token }))
    }

    async fn resolve_approval(
        &self,
        request: Request<ResolveApprovalRequest>,
    ) -> Result<Response<ResolveApprovalResponse>, Status> {
        let caller = caller(&request, scope::DECIDE)?;
        let decide = convert::resolve_approval(&caller, request.into_inner())?;
        let approval = self.runs.decide(&caller, decide).await?;
        Ok(Response::new(ResolveApprovalResponse { approval: Some(approval) }))
    }

    async fn submit_tool_result(
        &self,
        request: Request<SubmitToolResultRequest>,
    ) -> Result<Response<SubmitToolResultResponse>, Status> {
        let caller = caller(&request, scope::WRITE)?;
        let submit = convert::submit_tool_result(&caller, request.into_inner())?;
        let run = self.runs.submit_result(&caller.tenant, submit).await?;
        Ok(Response::new(SubmitToolResultResponse { run: Some(run) }))
    }

    async fn submit_input(
        &self,
        request: Request<SubmitInputRequest>,
    ) -> Result<Response<SubmitInputResponse>, Status> {
        let caller = caller(&request, scope::WRITE)?;
        let submit = convert::submit_input(&caller, request.into_inner())?;
        let run = self.runs.submit_input(&caller.tenant, submit).await?;
        Ok(Response::new(SubmitInputResponse { run: Some(run) }))
    }

    async fn list_dead_notices(
        &self,
        request: Request<ListDeadNoticesRequest>,
    ) -> Result<Response<ListDeadNoticesResponse>, Status> {
        let caller = caller(&request, scope::HOOKS)?;
        let listing = listing::dead_notices(&caller, request.get_ref())?;
        let dead = self.hooks.dead(&caller.tenant, listing.page()).await?;
        let (notices, next_page_token) = listing.cut(dead);
        Ok(Response::new(ListDeadNoticesResponse { notices, next_page_token }))
    }

    async fn retry_dead_notice(
        &self,
        request: Request<RetryDeadNoticeRequest>,
    ) -> Result<Response<RetryDeadNoticeResponse>, Status> {
        let caller = caller(&request, scope::HOOKS)?;
        let (hook, id) = convert::dead_notice(&request.into_inner().name)?;
        self.hooks.retry(&caller.tenant, &hook, &id).await?;
        Ok(Response::new(RetryDeadNoticeResponse {}))
    }

    async fn create_blob(
        &self,
        request: Request<Streaming<CreateBlobRequest>>,
    ) -> Result<Response<CreateBlobResponse>, Status> {
        let caller = caller(&request, scope::WRITE)?;
        let created = blobs::create(&self.runs, &caller, request.into_inner()).await?;
        Ok(Response::new(created))
    }

    async fn read_blob(&self, request: Request<ReadBlobRequest>) -> Result<Response<Self::ReadBlobStream>, Status> {
        let caller = caller(&request, scope::READ)?;
        Ok(Response::new(blobs::read(&self.runs, &caller, request.get_ref()).await?))
    }
}
