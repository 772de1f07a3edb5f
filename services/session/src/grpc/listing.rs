//! Pages of lists.

use mar_proto::session::{
    Approval, ApprovalState, DeadNotice as ShownNotice, ListApprovalsRequest, ListDeadNoticesRequest,
    ListEventsRequest, ListRunsRequest, ListSessionsRequest, RunState, SessionState,
};
use mar_runtime::auth::Caller;
use mar_runtime::page::{self, Scope};
use mar_runtime::violations::Violations;
use uuid::Uuid;

use super::convert::{parse_run, parse_session};
use crate::config::tenant::is_hook_name;
use crate::log::stamp;
use crate::sessions::name as session_name;
use crate::store::hook::{DeadNotice, DeadPage};
use crate::store::{ApprovalPage, Page};

/// A page of a list that is ordered by id.
pub struct Listing {
    scope: Scope,
    before: Option<Uuid>,
    state: Option<i16>,
    size: usize,
}

impl Listing {
    fn new(method: &str, tenant: &str, filter: &[&str], size: i32, token: &str, found: &mut Violations) -> Self {
        let scope = Scope::new(tenant, method, filter);
        let size = page::size(size, found);
        let before = if token.is_empty() { None } else { page::decode::<Uuid>(token, &scope, found) };
        Self { scope, before, state: None, size }
    }

    /// What the store is asked for: one more than is shown, to know whether there is more.
    pub fn page(&self) -> Page {
        Page { before: self.before, state: self.state, limit: i64::try_from(self.size).unwrap_or(i64::MAX - 1) + 1 }
    }

    /// The rows of this page, and the token of the next.
    pub fn cut<T>(&self, mut rows: Vec<(Uuid, T)>) -> (Vec<T>, String) {
        let more = rows.len() > self.size;
        rows.truncate(self.size);
        let token = rows.last().filter(|_| more).map(|(id, _)| page::encode(id, &self.scope)).unwrap_or_default();
        (rows.into_iter().map(|(_, row)| row).collect(), token)
    }
}

/// A page of a run's events.
pub struct EventListing {
    scope: Scope,
    /// First event.
    pub from_seq: i64,
    /// At most so many.
    pub size: usize,
    /// Whether stored bytes are shown.
    pub include_leaf: bool,
}

impl EventListing {
    /// The token of a page that begins with this event.
    pub fn token(&self, seq: i64) -> String {
        page::encode(&seq, &self.scope)
    }
}

/// A page of sessions.
pub fn sessions(caller: &Caller, request: &ListSessionsRequest) -> Result<Listing, Violations> {
    let mut found = Violations::new();
    let filter = request.state.to_string();
    let mut listing =
        Listing::new("ListSessions", &caller.tenant, &[&filter], request.page_size, &request.page_token, &mut found);
    found.require(SessionState::try_from(request.state).is_ok(), "state", "must be a session state");
    listing.state = i16::try_from(request.state).ok().filter(|state| *state != 0);
    found.into_result(listing)
}

/// A page of runs: of one session, or of all.
pub fn runs(caller: &Caller, request: &ListRunsRequest) -> Result<(Option<Uuid>, Listing), Violations> {
    let mut found = Violations::new();
    let session = match request.parent.as_str() {
        "sessions/-" => None,
        parent => parse_session("parent", parent, &mut found),
    };
    let state = request.state.to_string();
    let filter = [request.parent.as_str(), &state];
    let mut listing =
        Listing::new("ListRuns", &caller.tenant, &filter, request.page_size, &request.page_token, &mut found);
    found.require(RunState::try_from(request.state).is_ok(), "state", "must be a run state");
    listing.state = i16::try_from(request.state).ok().filter(|state| *state != 0);
    found.into_result((session, listing))
}

/// A page of events.
pub fn events(caller: &Caller, request: &ListEventsRequest) -> Result<(Uuid, Uuid, EventListing), Violations> {
    let mut found = Violations::new();
    let (session, run) = parse_run("parent", &request.parent, &mut found).unwrap_or_default();
    let scope = Scope::new(&caller.tenant, "ListEvents", &[&request.parent]);
    let size = page::size(request.page_size, &mut found);
    let token = &request.page_token;
    let from_seq = if token.is_empty() { None } else { page::decode::<i64>(token, &scope, &mut found) };
    let listing = EventListing { scope, from_seq: from_seq.unwrap_or(0), size, include_leaf: request.include_leaf };
    found.into_result((session, run, listing))
}

/// A page of approvals.
pub struct ApprovalListing {
    scope: Scope,
    page: ApprovalPage,
    size: usize,
}

impl ApprovalListing {
    /// What the store is asked for: one more than is shown, to know whether there is more.
    pub fn page(&self) -> &ApprovalPage {
        &self.page
    }

    /// The approvals of this page, and the token of the next.
    pub fn cut(&self, mut rows: Vec<(Uuid, String, Approval)>) -> (Vec<Approval>, String) {
        let more = rows.len() > self.size;
        rows.truncate(self.size);
        let last = rows.last().filter(|_| more).map(|(run, id, _)| (*run, id.clone()));
        let token = last.map(|last| page::encode(&last, &self.scope)).unwrap_or_default();
        (rows.into_iter().map(|(_, _, approval)| approval).collect(), token)
    }
}

/// A page of approvals: of a run, of a session, or of all sessions.
pub fn approvals(caller: &Caller, request: &ListApprovalsRequest) -> Result<ApprovalListing, Violations> {
    let mut found = Violations::new();
    let (session, run) = match request.parent.as_str() {
        "sessions/-" => (None, None),
        parent if parent.contains("/runs/") => parse_run("parent", parent, &mut found).unzip(),
        parent => (parse_session("parent", parent, &mut found), None),
    };
    let state = request.state.to_string();
    let scope = Scope::new(&caller.tenant, "ListApprovals", &[request.parent.as_str(), &state]);
    let size = page::size(request.page_size, &mut found);
    let token = &request.page_token;
    let before = if token.is_empty() { None } else { page::decode::<(Uuid, String)>(token, &scope, &mut found) };
    found.require(ApprovalState::try_from(request.state).is_ok(), "state", "must be an approval state");
    let state = i16::try_from(request.state).ok().filter(|state| *state != 0);
    let limit = i64::try_from(size).unwrap_or(i64::MAX - 1) + 1;
    found.into_result(ApprovalListing { scope, page: ApprovalPage { session, run, state, before, limit }, size })
}

/// A page of dead notices.
pub struct DeadListing {
    scope: Scope,
    page: DeadPage,
    size: usize,
}

impl DeadListing {
    /// What the store is asked for: one more than is shown, to know whether there is more.
    pub fn page(&self) -> &DeadPage {
        &self.page
    }

    /// The notices of this page, and the token of the next.
    pub fn cut(&self, mut rows: Vec<DeadNotice>) -> (Vec<ShownNotice>, String) {
        let more = rows.len() > self.size;
        rows.truncate(self.size);
        let last = rows.last().filter(|_| more).map(|dead| (dead.hook.clone(), dead.id.clone()));
        let token = last.map(|last| page::encode(&last, &self.scope)).unwrap_or_default();
        (rows.iter().map(shown).collect(), token)
    }
}

fn shown(dead: &DeadNotice) -> ShownNotice {
    ShownNotice {
        name: format!("hooks/{}/notices/{}", dead.hook, dead.id),
        session: session_name(dead.session),
        notice_json: String::from_utf8_lossy(&dead.notice).into_owned(),
        failure: dead.failure.clone(),
        attempts: dead.attempts,
        time: Some(stamp(dead.time)),
    }
}

/// A page of dead notices: of a hook, or of all.
pub fn dead_notices(caller: &Caller, request: &ListDeadNoticesRequest) -> Result<DeadListing, Violations> {
    let mut found = Violations::new();
    let hook = request.parent.strip_prefix("hooks/").filter(|hook| *hook == "-" || is_hook_name(hook));
    found.require(hook.is_some(), "parent", "must be `hooks/{hook}` or `hooks/-`");
    let hook = hook.filter(|hook| *hook != "-").map(str::to_owned);
    let scope = Scope::new(&caller.tenant, "ListDeadNotices", &[&request.parent]);
    let size = page::size(request.page_size, &mut found);
    let token = &request.page_token;
    let after = if token.is_empty() { None } else { page::decode::<(String, String)>(token, &scope, &mut found) };
    let limit = i64::try_from(size).unwrap_or(i64::MAX - 1) + 1;
    found.into_result(DeadListing { scope, page: DeadPage { hook, after, limit }, size })
}
