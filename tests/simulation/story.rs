//! What callers want, and how they insist.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures::StreamExt as _;
use mar_proto::session::{ApprovalState, Run, RunState, Session, Task};
use mar_proto::types::{HaltReason, HaltingPolicy, OnBudget};
use mar_runtime::auth::Caller;
use mar_runtime::status::Reason;
use mar_session::error::Error;
use mar_session::runs::{Admit, Decide, Follow, Runs, Target};
use mar_session::sessions::Sessions;
use mar_session::store::{ApprovalPage, RequestKey};
use mar_tests::caller::Seen;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::link::Chance;
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
    /// A chain that is cancelled, or paused and resumed, on the way.
    Long,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Medley, Self::Chain, Self::Pairs, Self::Form, Self::Long];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Medley => "medley",
            Self::Chain => "chain",
            Self::Pairs => "pairs",
            Self::Form => "form",
            Self::Long => "long",
        }
    }

    pub fn named(word: &str) -> Self {
        Self::ALL.into_iter().find(|kind| kind.word() == word).unwrap_or(Self::Medley)
    }

    pub fn of_task(task: &Task) -> Self {
        Self::named(&task.r#type)
    }

    fn limits(self) -> HaltingPolicy {
        let (steps, calls) = match self {
            Self::Chain => (3, 9),
            Self::Pairs => (9, 3),
            _ => (6, 8),
        };
        let span = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        HaltingPolicy {
            max_steps: Some(steps),
            max_tool_calls: Some(calls),
            max_active_time: span(100),
            expire_after: span(200),
            max_depth: Some(0),
            max_input_tokens: Some(10_000_000),
            max_output_tokens: Some(1_000_000),
            max_cost_nano_usd: Some(1_000_000_000_000),
            on_budget: OnBudget::Halt.into(),
        }
    }
}

/// A caller, and what it has seen.
pub struct Story {
    pub kind: Kind,
    pub number: u64,
    pub seen: Seen,
    pub session: Uuid,
    pub run: Uuid,
    chance: Chance,
}

/// How long a caller waits for an answer.
const ANSWER: Duration = Duration::from_secs(3);

fn caller() -> Caller {
    Caller { tenant: "t".into(), principal: "ada".into(), ..Caller::dev() }
}

fn key(method: &'static str, id: String) -> RequestKey {
    RequestKey { principal: "ada".into(), method, request_id: id, digest: [0; 32] }
}

/// What a caller makes of a refusal: it comes back after one that says so.
fn comes_back(error: Error) -> anyhow::Result<()> {
    let text = error.to_string();
    let status = Status::from(error);
    if Reason::of(&status).is_some() && status.code() != Code::Unavailable {
        bail!("{text}: {status:?}");
    }
    Ok(())
}

impl Story {
    pub fn new(number: u64, kind: Kind, chance: Chance) -> Self {
        Self { kind, number, chance, seen: Seen::default(), session: Uuid::nil(), run: Uuid::nil() }
    }

    /// From the first request to the end of the run.
    pub async fn tell(&mut self, world: &Arc<World>) -> anyhow::Result<()> {
        self.start_session(world).await?;
        self.admit(world).await?;
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
            let starting = sessions.start(&caller, key, Session::default());
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
                    Err(error) => comes_back(error)?,
                }
            }
            names.dedup();
            ensure!(names.len() < 2, "one request admitted {names:?}");
            if let Some(name) = names.pop() {
                self.run = name.rsplit('/').next().unwrap_or_default().parse()?;
                self.seen.name = name;
                return Ok(());
            }
        }
    }

    async fn ask(&self, runs: &Runs) -> Result<Run, Error> {
        let task = Task { r#type: self.kind.word().to_owned(), ..Task::default() };
        let key = key("/start-run", format!("r{}", self.number));
        let admit = Admit { key, session: self.session, task, limits: self.kind.limits(), parallel: true };
        runs.admit(&caller(), admit).await
    }

    /// Follows on one stream after another: some break, some are dropped.
    async fn follow(&mut self, world: &Arc<World>) -> anyhow::Result<()> {
        while self.seen.ended.is_none() {
            let runs = world.replica(&self.chance).await;
            let from_seq = i64::try_from(self.seen.events.len())?;
            let follow = Follow { tenant: "t".into(), session: self.session, run: self.run, from_seq, deltas: true };
            let span = if self.chance.once_in(3) { self.chance.span(10_000, 1_500_000) } else { ANSWER * 4 };
            let seen = &mut self.seen;
            let following = async {
                let mut frames = match runs.follow(follow).await {
                    Ok(frames) => frames,
                    Err(error) => return comes_back(error),
                };
                let mut replayed = from_seq;
                while let Some(frame) = frames.next().await {
                    match frame {
                        Ok(frame) => seen.take(frame, &mut replayed)?,
                        Err(error) => return comes_back(error),
                    }
                    if seen.ended.is_some() {
                        break;
                    }
                }
                Ok(())
            };
            world.time.within(span, following).await.unwrap_or(Ok(()))?;
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
    let cancels = kind == Kind::Long && chance.once_in(2);
    let pauses = !cancels && (kind == Kind::Long || chance.once_in(8));
    world.time.sleep(chance.span(1_000, 600_000)).await;
    let target = || Target { key: None, session, run };
    let caller = caller();
    let mut wanted = cancels || pauses;
    loop {
        let runs = world.replica(&chance).await;
        let done = async {
            match (wanted, cancels) {
                (true, true) => runs.cancel(&caller, target()).await.map(|_| ()),
                (true, false) => runs.pause(&caller, target()).await.map(|_| ()),
                // One that goes on already, or has ended, refuses.
                _ if pauses => {
                    let _ = runs.resume_paused(&caller, target()).await;
                    Ok(())
                }
                _ if kind == Kind::Medley => decide(&chance, &runs, session, run).await,
                _ => Ok(()),
            }
        };
        match world.time.within(ANSWER, done).await {
            Some(Ok(())) => wanted = false,
            // It may have ended meanwhile.
            Some(Err(Error::RunState { .. })) => wanted = false,
            Some(Err(error)) => comes_back(error)?,
            None => {}
        }
        world.time.sleep(chance.span(200_000, 900_000)).await;
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
