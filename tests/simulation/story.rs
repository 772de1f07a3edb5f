//! What callers want, and how they insist.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures::StreamExt as _;
use mar_proto::session::{ApprovalState, HeldCall, Run, RunState, Session, SessionBudget, Task, WaitReason};
use mar_proto::types::{HaltReason, HaltingPolicy, OnBudget, Part, ToolResult, part::Content};
use mar_runtime::auth::Caller;
use mar_runtime::status::Reason;
use mar_session::error::Error;
use mar_session::run::{Reply, Submission};
use mar_session::runs::{Admit, Decide, Follow, Fork, Runs, Submit, Target};
use mar_session::sessions::Sessions;
use mar_session::store::{ApprovalPage, RequestKey};
use mar_tests::caller::Seen;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::link::Chance;
use crate::peers::said;
use crate::sequel::Branch;
use crate::world::World;

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Three tools, of which one asks people first, then an answer.
    Medley,
    /// One idempotent call a step until the limit of steps binds.
    Chain,
    /// Two calls a step until the limit of tool calls binds.
    Pairs,
    /// An answer of a form that it may not have.
    Form,
    /// A chain that is cancelled, or paused and resumed, on the way, and outgrows the window of its agent.
    Long,
    /// Child runs that draw on what is left of limits that are too tight for all of them; some are cancelled on the way.
    Family,
    /// Calls that the caller makes, and questions to it.
    Errand,
    /// A chain in a session whose budget does not suffice; it would outgrow its agent's window, too.
    Thrift,
    /// A word, perhaps after a look, by an agent that can sum up what was said before.
    Talk,
    /// What a child run does; no caller asks for it.
    Leaf,
}

impl Kind {
    /// What callers ask for first.
    pub const ALL: [Self; 8] =
        [Self::Medley, Self::Chain, Self::Pairs, Self::Form, Self::Long, Self::Family, Self::Errand, Self::Thrift];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Medley => "medley",
            Self::Chain => "chain",
            Self::Pairs => "pairs",
            Self::Form => "form",
            Self::Long => "long",
            Self::Family => "family",
            Self::Errand => "errand",
            Self::Thrift => "thrift",
            Self::Talk => "talk",
            Self::Leaf => "leaf",
        }
    }

    pub fn named(word: &str) -> Self {
        let all = Self::ALL.into_iter().chain([Self::Talk, Self::Leaf]);
        all.into_iter().find(|kind| kind.word() == word).unwrap_or(Self::Medley)
    }

    /// A child's task is of the kind of its parent's, and says what it is itself.
    pub fn of_task(task: &Task) -> Self {
        let said = task.input.first().and_then(|part| part.content.as_ref());
        let is_leaf = matches!(said, Some(Content::Text(text)) if text.starts_with(Self::Leaf.word()));
        if is_leaf { Self::Leaf } else { Self::named(&task.r#type) }
    }

    pub fn limits(self, chance: &Chance) -> HaltingPolicy {
        let (steps, calls) = match self {
            Self::Chain => (3, 9),
            Self::Pairs => (9, 3),
            // Five children with an allotment of one step each, and a pool that does not suffice.
            Self::Family => (16, 13),
            Self::Thrift => (30, 30),
            // Steps for summaries, too.
            Self::Long => (10, 8),
            _ => (6, 8),
        };
        let on_budget = if chance.once_in(2) { OnBudget::Wait } else { OnBudget::Halt };
        let span = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        HaltingPolicy {
            max_steps: Some(steps),
            max_tool_calls: Some(calls),
            max_active_time: span(45),
            expire_after: span(60),
            max_depth: Some(i64::from(self == Self::Family)),
            max_input_tokens: Some(10_000_000),
            max_output_tokens: Some(1_000_000),
            max_cost_nano_usd: Some(1_000_000_000_000),
            on_budget: on_budget.into(),
        }
    }
}

impl Kind {
    fn session(self) -> Session {
        let budget = SessionBudget { max_cost_nano_usd: Some(THRIFT), max_runs: None };
        Session { budget: (self == Self::Thrift).then_some(budget), ..Session::default() }
    }
}

/// The budget of a session that does not suffice, in nano-USD.
pub const THRIFT: i64 = 7_000_000;

/// A caller, and what it has seen.
pub struct Story {
    pub kind: Kind,
    pub number: u64,
    pub seen: Seen,
    pub session: Uuid,
    pub run: Uuid,
    /// It was told that what it has seen is gone.
    pub bereft: bool,
    /// It had seen the end before anything was gone.
    pub early: bool,
    /// What the run is forked from, where it is a fork.
    pub branch: Option<Branch>,
    /// Whether it wants to see nothing of the session.
    pub without_history: bool,
    /// How many runs follow the first of its session.
    pub sequels: usize,
    pub chance: Chance,
    limits: HaltingPolicy,
    /// What the task says.
    asked: String,
}

/// How long a caller waits for an answer.
const ANSWER: Duration = Duration::from_secs(3);

pub fn caller() -> Caller {
    Caller { tenant: "t".into(), principal: "ada".into(), ..Caller::dev() }
}

pub fn key(method: &'static str, id: String) -> RequestKey {
    RequestKey { principal: "ada".into(), method, request_id: id, digest: [0; 32] }
}

/// What a caller makes of a refusal: it comes back after one that says so.
fn comes_back(error: Error) -> anyhow::Result<()> {
    let text = mar_runtime::status::chain(&error);
    let status = Status::from(error);
    if Reason::of(&status).is_some() && status.code() != Code::Unavailable {
        bail!("{text}: {status:?}");
    }
    Ok(())
}

/// Whether a refusal says that what a caller knows of is gone.
fn is_loss(error: &Error) -> bool {
    matches!(error, Error::LogTailLost { .. } | Error::NotFound { .. })
}

impl Story {
    pub fn new(number: u64, kind: Kind, chance: Chance) -> Self {
        let limits = kind.limits(&chance);
        let asked = said(&chance, kind.word());
        let sequels = [0, 0, 0, 1, 2, 5][chance.index(6)];
        Self {
            kind,
            number,
            chance,
            limits,
            asked,
            without_history: false,
            sequels,
            branch: None,
            seen: Seen::default(),
            session: Uuid::nil(),
            run: Uuid::nil(),
            bereft: false,
            early: false,
        }
    }

    /// From the first request to the end of the run.
    pub async fn tell(&mut self, world: &Arc<World>) -> anyhow::Result<()> {
        if self.session.is_nil() {
            self.start_session(world).await?;
        }
        self.admit(world).await?;
        if self.bereft {
            return Ok(());
        }
        let (kind, session, run) = (self.kind, self.session, self.run);
        let meddling = meddle(world, self.chance.fork(), kind, session, run);
        tokio::select! {
            biased;
            followed = self.follow(world) => followed,
            meddled = meddling => meddled,
        }
    }

    async fn start_session(&mut self, world: &Arc<World>) -> anyhow::Result<()> {
        loop {
            let runs = world.replica(&self.chance).await;
            let key = key("/start-session", format!("s{}", self.number));
            let sessions = Sessions::new(runs);
            let caller = caller();
            let starting = sessions.start(&caller, key, self.kind.session());
            match world.time.within(ANSWER, starting).await {
                Some(Ok(session)) => {
                    self.session = session.name.trim_start_matches("sessions/").parse()?;
                    return Ok(());
                }
                Some(Err(error)) => comes_back(error)?,
                None => {}
            }
        }
    }

    async fn admit(&mut self, world: &Arc<World>) -> anyhow::Result<()> {
        loop {
            let (first, second) = (world.replica(&self.chance).await, world.replica(&self.chance).await);
            let (one, other) = if self.chance.once_in(4) {
                let both = async { tokio::join!(biased; self.ask(&first), self.ask(&second)) };
                world.time.within(ANSWER, both).await.map_or((None, None), |(one, other)| (Some(one), Some(other)))
            } else {
                (world.time.within(ANSWER, self.ask(&first)).await, None)
            };
            let mut names = Vec::new();
            for answer in [one, other].into_iter().flatten() {
                match answer {
                    Ok(run) => names.push(run.name),
                    Err(error) if world.forgets && (is_loss(&error) || self.has_lost_its_origin(&error)) => {
                        self.bereft = true;
                        return Ok(());
                    }
                    Err(error) => comes_back(error)?,
                }
            }
            names.dedup();
            ensure!(names.len() < 2 || world.forgets, "one request admitted {names:?}");
            if let Some(name) = names.pop() {
                self.run = name.rsplit('/').next().unwrap_or_default().parse()?;
                self.seen.name = name;
                return Ok(());
            }
        }
    }

    /// Whether a fork is refused because the end of its origin is gone.
    fn has_lost_its_origin(&self, error: &Error) -> bool {
        self.branch.is_some() && matches!(error, Error::RunState { .. } | Error::Invalid(_))
    }

    async fn ask(&self, runs: &Runs) -> Result<Run, Error> {
        let asked = Part { content: Some(Content::Text(self.asked.clone())), ..Part::default() };
        let task = Task {
            r#type: self.kind.word().to_owned(),
            input: vec![asked],
            without_history: self.without_history,
            ..Task::default()
        };
        let (session, limits) = (self.session, self.limits);
        let Some(branch) = &self.branch else {
            let key = key("/start-run", format!("r{}", self.number));
            return runs.admit(&caller(), Admit { key, session, task, limits, parallel: true, fork: None }).await;
        };
        let fork = Fork {
            key: key("/fork-run", format!("f{}", self.number)),
            session,
            run: branch.of,
            through_seq: branch.through_seq,
            task: branch.shares_task.is_none().then_some((task, limits)),
            allow_effects: branch.allow_effects,
            parallel: true,
        };
        runs.fork(&caller(), fork).await
    }

    /// Whether its run saw what was said before.
    pub fn looks_back(&self) -> bool {
        !self.without_history || self.branch.as_ref().is_some_and(|branch| branch.shares_task.is_some())
    }

    /// Follows on one stream after another: some break, some are dropped.
    async fn follow(&mut self, world: &Arc<World>) -> anyhow::Result<()> {
        while self.seen.ended.is_none() && !self.bereft {
            let runs = world.replica(&self.chance).await;
            let from_seq = i64::try_from(self.seen.events.len())?;
            let after = self.seen.events.last().and_then(|last| <[u8; 32]>::try_from(&last.hash[..]).ok());
            let (tenant, session, run) = ("t".into(), self.session, self.run);
            let follow = Follow { tenant, session, run, from_seq, after, deltas: true };
            let span = if self.chance.once_in(3) { self.chance.span(10_000, 1_500_000) } else { ANSWER * 4 };
            let (seen, bereft) = (&mut self.seen, &mut self.bereft);
            let mut refused = |error: Error| {
                if world.forgets && is_loss(&error) {
                    *bereft = true;
                    return Ok(());
                }
                comes_back(error)
            };
            let following = async {
                let mut frames = match runs.follow(follow).await {
                    Ok(frames) => frames,
                    Err(error) => return refused(error),
                };
                let mut replayed = from_seq;
                while let Some(frame) = frames.next().await {
                    match frame {
                        Ok(frame) => seen.take(frame, &mut replayed)?,
                        Err(error) => return refused(error),
                    }
                    if seen.ended.is_some() {
                        break;
                    }
                }
                Ok(())
            };
            world.time.within(span, following).await.unwrap_or(Ok(()))?;
            self.early = self.seen.ended.is_some() && !world.has_lost_of(self.run);
            world.time.sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// How the run ended.
    pub fn ending(&self) -> (RunState, HaltReason) {
        self.seen.ended.as_ref().map(|run| (run.state(), run.halt_reason())).unwrap_or_default()
    }
}

/// Cancels, pauses, resumes and approves. Ends only with a failure.
async fn meddle(world: &Arc<World>, chance: Chance, kind: Kind, session: Uuid, run: Uuid) -> anyhow::Result<()> {
    let cancels = matches!(kind, Kind::Long | Kind::Family) && chance.once_in(2) || chance.once_in(12);
    let pauses = !cancels && (kind == Kind::Long || chance.once_in(8));
    world.time.sleep(chance.span(1_000, 600_000)).await;
    let target = || Target { key: None, session, run };
    let caller = caller();
    let mut wanted = cancels || pauses;
    loop {
        let runs = world.replica(&chance).await;
        // In some worlds runs are paused and resumed all the time, whatever they do.
        let whim = if world.is_restless() && !wanted { chance.below(4) } else { 3 };
        let done = async {
            match (wanted, cancels, whim) {
                (true, true, _) => runs.cancel(&caller, target()).await.map(|_| ()),
                (true, false, _) | (_, _, 0) => runs.pause(&caller, target()).await.map(|_| ()),
                // One that goes on already, or has ended, refuses.
                (_, _, 1 | 2) => {
                    let _ = runs.resume_paused(&caller, target()).await;
                    Ok(())
                }
                _ => {
                    if pauses || world.is_restful() {
                        let _ = runs.resume_paused(&caller, target()).await;
                    }
                    match kind {
                        Kind::Medley => decide(&chance, &runs, session, run).await,
                        Kind::Errand => errand(world, &chance, session, run).await,
                        Kind::Thrift if chance.once_in(20) => runs.renew("t", session).await,
                        _ => Ok(()),
                    }
                }
            }
        };
        match world.time.within(ANSWER, done).await {
            Some(Ok(())) => wanted = false,
            // It may have ended meanwhile.
            Some(Err(Error::RunState { .. })) => wanted = false,
            // What was to be meddled with is gone.
            Some(Err(_)) if world.forgets => {}
            Some(Err(error)) => comes_back(error)?,
            None => {}
        }
        let pause = if world.is_restless() { chance.span(20_000, 300_000) } else { chance.span(200_000, 900_000) };
        world.time.sleep(pause).await;
    }
}

/// Brings what calls wait for, sometimes by two replicas at a time.
async fn errand(world: &Arc<World>, chance: &Chance, session: Uuid, run: Uuid) -> Result<(), Error> {
    let (one, other) = (world.replica(chance).await, world.replica(chance).await);
    let name = mar_session::view::run_name(session, run);
    let waiting = one.get("t", session, run, &name).await?;
    for held in waiting.held_calls {
        match chance.below(3) {
            0 => {}
            1 => bring(&one, session, run, &held).await?,
            _ => {
                let both = async {
                    tokio::join!(biased; bring(&one, session, run, &held), bring(&other, session, run, &held))
                };
                let (one, other) = both.await;
                one.and(other)?;
            }
        }
    }
    Ok(())
}

async fn bring(runs: &Runs, session: Uuid, run: Uuid, held: &HeldCall) -> Result<(), Error> {
    let said = Part { content: Some(Content::Text(format!("for {}", held.call_id))), ..Part::default() };
    let call_id = held.call_id.clone();
    let brought = match held.wait_reason() {
        WaitReason::ToolResult => {
            let result = ToolResult { call_id: call_id.clone(), content: vec![said], ..ToolResult::default() };
            let given = Submission {
                result,
                principal: "ada".into(),
                decision_json: String::new(),
                policy_hashes: Vec::new(),
                size_bytes: 0,
            };
            runs.submit_result("t", Submit { key: key("/submit-result", call_id), session, run, given }).await
        }
        WaitReason::Input => {
            let given = Reply { call_id: call_id.clone(), parts: vec![said], principal: "ada".into() };
            runs.submit_input("t", Submit { key: key("/submit-input", call_id), session, run, given }).await
        }
        _ => return Ok(()),
    };
    match brought {
        // It may be over meanwhile.
        Ok(_) | Err(Error::CallState { .. } | Error::RunState { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Decides on what waits for people; some of it is left to lapse.
async fn decide(chance: &Chance, runs: &Runs, session: Uuid, run: Uuid) -> Result<(), Error> {
    let page =
        ApprovalPage { run: Some(run), state: Some(ApprovalState::Pending as i16), limit: 10, ..Default::default() };
    for (_, id, approval) in runs.approvals("t", &page).await? {
        let approved = match chance.below(8) {
            0 | 1 => continue,
            2 => false,
            _ => true,
        };
        let wish = Decide {
            key: key("/decide", format!("{run}{id}{}", chance.below(u64::MAX))),
            session,
            run,
            approval: id,
            digest: approval.call_digest,
            approved,
            comment: String::new(),
        };
        let bob = Caller { principal: "bob".into(), ..caller() };
        match runs.decide(&bob, wish).await {
            Ok(_) | Err(Error::ApprovalState { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What has come of all stories, so that the report can say it.
pub fn named(ending: (RunState, HaltReason)) -> String {
    let (state, reason) = ending;
    let state = state.as_str_name().trim_start_matches("RUN_STATE_");
    match reason {
        HaltReason::Unspecified => state.to_owned(),
        reason => format!("{state} {}", reason.as_str_name().trim_start_matches("HALT_REASON_")),
    }
}

/// The context of a story that failed.
pub fn context<T>(result: anyhow::Result<T>, story: &Story) -> anyhow::Result<T> {
    result.with_context(|| {
        format!("{:?} {}: {:?}", story.kind, story.seen.name, mar_tests::caller::names(&story.seen.events))
    })
}
