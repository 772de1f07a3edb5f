//! What a caller wants, and how it insists: whatever dies, the same caller asks again until its run has ended.

use std::collections::BTreeSet;
use std::future::pending;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use mar_proto::session::{
    CancelRunRequest, PauseRunRequest, ResumeRunRequest, RunState, RunTaskRequest, StartRunRequest, Task,
    event_leaf::Body,
};
use mar_proto::types::{HaltReason, HaltingPolicy};
use mar_runtime::status::Reason;
use mar_tests::caller::{Caller, Seen, names, request};
use mar_tests::client::{Client, request_id};
use mar_tests::task;
use tonic::{Code, Status};

use mar_tests::dice::Dice;

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An input that is streamed in, three tools, then an answer; and a fork of it. Of the bound kinds some have such an input, too.
    Medley,
    /// One idempotent call a step for ever, until the limit of steps binds.
    Chain,
    /// Two calls a step for ever, until the limit of tool calls binds.
    Pairs,
    /// Like a chain, but cancelled on the way.
    Cancelled,
    /// Like a medley, but paused on the way.
    Paused,
    /// Five child runs that chain for ever, and draw on what is left of limits that bind all of them together.
    Family,
    /// The same, cancelled on the way.
    Orphans,
}

impl Kind {
    /// More than every second one has a limit that binds; of sixteen two have child runs.
    pub fn of(number: usize, dice: &mut Dice) -> Self {
        match (number % 16, dice.below(4)) {
            (0, _) => Self::Family,
            (1, _) => Self::Orphans,
            (place, half) if place == 3 || place.is_multiple_of(2) => [Self::Chain, Self::Pairs][usize::from(half < 2)],
            (_, 0) => Self::Cancelled,
            (_, 1) => Self::Paused,
            _ => Self::Medley,
        }
    }

    /// How it ends if no part is away for too long.
    pub fn expected(self) -> (RunState, HaltReason) {
        match self {
            Self::Medley | Self::Paused | Self::Family => (RunState::Succeeded, HaltReason::Unspecified),
            Self::Chain => (RunState::Halted, HaltReason::MaxSteps),
            Self::Pairs => (RunState::Halted, HaltReason::MaxToolCalls),
            Self::Cancelled | Self::Orphans => (RunState::Cancelled, HaltReason::Unspecified),
        }
    }

    /// Whether a part of its input is streamed in: enough of them are for replicas to die at it.
    fn uploads(self, dice: &mut Dice) -> bool {
        match self {
            Self::Medley => true,
            Self::Chain | Self::Pairs => dice.once_in(3),
            _ => false,
        }
    }

    /// Whether what was seen so far keeps the counted limits; one that does not bind would let a run go on for ever.
    fn keeps_limits(self, seen: &Seen) -> anyhow::Result<()> {
        let limits = self.task().halting.unwrap_or_default();
        let (mut steps, mut calls) = (0, BTreeSet::new());
        for body in seen.events.iter().filter_map(|event| event.body.as_ref()?.body.as_ref()) {
            match body {
                Body::GenerationStarted(started) => steps = steps.max(started.step),
                Body::ToolIntent(intent) => drop(calls.insert(intent.call_id.as_str())),
                _ => {}
            }
        }
        let calls = i64::try_from(calls.len())?;
        let within = |most: Option<i64>, used: i64| most.is_none_or(|most| used <= most);
        ensure!(within(limits.max_steps, steps), "{self:?} {}: {steps} steps of {:?}", seen.name, limits.max_steps);
        let most = limits.max_tool_calls;
        ensure!(within(most, calls), "{self:?} {}: {calls} tool calls of {most:?}", seen.name);
        Ok(())
    }

    /// What is asked for.
    pub fn task(self) -> Task {
        let (word, steps, calls) = match self {
            Self::Medley | Self::Paused => ("medley", 2, 3),
            Self::Chain => ("chain", 3, 9),
            Self::Pairs => ("pairs", 9, 3),
            Self::Cancelled => ("chain", 60, 60),
            Self::Family | Self::Orphans => ("family", 16, 13),
        };
        let families = matches!(self, Self::Family | Self::Orphans);
        let limits = HaltingPolicy {
            max_steps: Some(steps),
            max_tool_calls: Some(calls),
            max_depth: Some(i64::from(families)),
            ..HaltingPolicy::default()
        };
        let question = task::question(&format!("Do the {word} for me, please. Mark: {}.", request_id()));
        let tools: &[&str] =
            if families { &["sure.apply", "runtime.delegate"] } else { &["docs.search", "sure.apply", "once.append"] };
        let tools = task::selectors(tools);
        task::limited(Task { tools, ..question }, limits)
    }
}

/// A caller with every replica's address.
#[derive(Debug, Clone)]
pub struct Teller {
    pub endpoints: Vec<String>,
    /// How long a run may take.
    pub patience: Duration,
    pub dice: Dice,
}

/// What was asked, and what was seen of it.
#[derive(Debug, Clone)]
pub struct Told {
    pub kind: Kind,
    pub seen: Seen,
    /// Requests and streams beyond the first.
    pub tries: usize,
    /// Whether its input was streamed in.
    pub uploaded: bool,
    /// What was seen of a fork of it.
    pub fork: Option<Seen>,
}

impl Teller {
    /// A client of some replica that lives.
    pub async fn client(&mut self) -> Client {
        loop {
            let endpoint = self.endpoints[self.dice.index(self.endpoints.len())].clone();
            let connecting = tokio::time::timeout(Duration::from_secs(1), Client::connect(endpoint));
            if let Ok(Ok(client)) = connecting.await {
                return client;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks for a run of this kind and insists until it has ended.
    pub async fn tell(&mut self, kind: Kind) -> anyhow::Result<Told> {
        let mut told = Told { kind, seen: Seen::default(), tries: 0, uploaded: false, fork: None };
        let patience = self.patience;
        let telling = self.insist(&mut told);
        let ended = tokio::time::timeout(patience, telling).await;
        let what = || format!("{kind:?} {}: {:?}", told.seen.name, names(&told.seen.events));
        ended.with_context(what)?.with_context(what)?;
        Ok(told)
    }

    async fn insist(&mut self, told: &mut Told) -> anyhow::Result<()> {
        let session = self.session().await;
        let mut task = told.kind.task();
        if told.kind.uploads(&mut self.dice) {
            task.input.push(self.upload(&session).await?);
            told.uploaded = true;
        }
        let request = request(&session, task);
        // The same id names another request of another method.
        let streamed = self.dice.once_in(2);
        if streamed {
            self.admit_streamed(&request, told).await?;
        } else {
            self.admit(&request, told).await?;
        }
        let (mut meddler, kind, name) = (self.clone(), told.kind, told.seen.name.clone());
        meddler.dice = self.dice.fork();
        tokio::select! {
            followed = self.follow(streamed.then_some(&request), told) => followed,
            meddled = meddler.meddle(kind, &name) => meddled,
        }?;
        let answered = told.seen.ended.as_ref().is_some_and(|run| run.state() == RunState::Succeeded);
        if told.kind == Kind::Medley && answered {
            told.fork = Some(self.fork(&told.seen.name).await?);
        }
        Ok(())
    }

    async fn session(&mut self) -> String {
        loop {
            let mut client = self.client().await;
            let starting = tokio::time::timeout(Duration::from_secs(2), client.session());
            if let Ok(Ok(session)) = starting.await {
                return session;
            }
        }
    }

    /// Asks until somebody has said which run it is: sometimes two at a time, of different replicas.
    async fn admit(&mut self, request: &RunTaskRequest, told: &mut Told) -> anyhow::Result<()> {
        while told.seen.name.is_empty() {
            told.tries += 1;
            let (first, second) = (self.client().await, self.client().await);
            let (one, other) = if self.dice.once_in(3) {
                tokio::join!(start(first, request), start(second, request))
            } else {
                (start(first, request).await, Ok(None))
            };
            let (one, other) = (one?, other?);
            if let (Some(one), Some(other)) = (&one, &other) {
                ensure!(one == other, "one request admitted {one} and {other}");
            }
            told.seen.name = one.or(other).unwrap_or_default();
        }
        Ok(())
    }

    /// Asks on streams, some of which are dropped, until one has said which run it is.
    async fn admit_streamed(&mut self, request: &RunTaskRequest, told: &mut Told) -> anyhow::Result<()> {
        while told.seen.name.is_empty() {
            told.tries += 1;
            let mut caller = Caller { client: self.client().await, gateway: String::new() };
            let span = Duration::from_millis(20 + self.dice.below(1_500));
            if let Ok(followed) = tokio::time::timeout(span, caller.once(request, &mut told.seen)).await {
                followed?;
            }
        }
        Ok(())
    }

    /// Follows on one stream after another, of any replica: some break, some are dropped.
    pub async fn follow(&mut self, request: Option<&RunTaskRequest>, told: &mut Told) -> anyhow::Result<()> {
        while told.seen.ended.is_none() {
            told.tries += 1;
            let mut caller = Caller { client: self.client().await, gateway: String::new() };
            let span = if self.dice.once_in(2) { 50 + self.dice.below(600) } else { 30_000 };
            let again = request.filter(|_| self.dice.once_in(4));
            let seen = &mut told.seen;
            let following = async {
                match again {
                    Some(request) => caller.once(request, seen).await,
                    None => caller.watch(seen).await,
                }
            };
            match tokio::time::timeout(Duration::from_millis(span), following).await {
                Ok(followed) => followed?,
                Err(_) => told.seen.broken += 1,
            }
            told.kind.keeps_limits(&told.seen)?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Cancels or pauses, where that is what the story is about. Ends only with a failure.
    async fn meddle(&mut self, kind: Kind, name: &str) -> anyhow::Result<()> {
        let moment = Duration::from_millis(self.dice.below(500));
        match kind {
            Kind::Cancelled | Kind::Orphans => {
                // Child runs need their time to come.
                tokio::time::sleep(if kind == Kind::Orphans { moment * 3 } else { moment }).await;
                let cancel = CancelRunRequest { name: name.to_owned(), ..CancelRunRequest::default() };
                while let Err(status) = self.client().await.grpc.cancel_run(cancel.clone()).await {
                    comes_back(&status)?;
                }
            }
            Kind::Paused => {
                tokio::time::sleep(moment / 2).await;
                let pause = PauseRunRequest { name: name.to_owned(), ..PauseRunRequest::default() };
                while let Err(status) = self.client().await.grpc.pause_run(pause.clone()).await {
                    // It may have ended meanwhile.
                    if comes_back(&status).is_err() {
                        break;
                    }
                }
                loop {
                    tokio::time::sleep(Duration::from_millis(300 + self.dice.below(300))).await;
                    let resume = ResumeRunRequest { name: name.to_owned(), ..ResumeRunRequest::default() };
                    // One that goes on already, or has ended, refuses.
                    let _ = self.client().await.grpc.resume_run(resume).await;
                }
            }
            _ => {}
        }
        pending().await
    }
}

/// Starts a run; `None` where nobody knows whether it did.
async fn start(mut client: Client, request: &RunTaskRequest) -> anyhow::Result<Option<String>> {
    let request = StartRunRequest {
        request_id: request.request_id.clone(),
        session: request.session.clone(),
        task: request.task.clone(),
        concurrency: request.concurrency,
    };
    let started = tokio::time::timeout(Duration::from_secs(3), client.grpc.start_run(request)).await;
    match started {
        Ok(Ok(response)) => Ok(Some(response.into_inner().run.context("no run")?.name)),
        Ok(Err(status)) => comes_back(&status).map(|()| None),
        Err(_) => Ok(None),
    }
}

/// Whether a refusal is one that a caller tries again after.
pub fn comes_back(status: &Status) -> anyhow::Result<()> {
    if Reason::of(status).is_some() && status.code() != Code::Unavailable {
        bail!("{status:?}");
    }
    Ok(())
}
