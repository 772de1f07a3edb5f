//! A world around one run: effects in flight, inputs on their way, a clock, counters and replicas that fail. What
//! happens next is rolled.

use mar_proto::session::{
    ApprovalState, BudgetScope, FinishReason, History, ToolOutcome, WaitReason, event_leaf::Body,
};
use mar_proto::tool::ProbeAnswer;
use mar_proto::types::{HaltingPolicy, OnBudget, Part, Usage};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::dice::Dice;
use super::driver::{Driver, Mishap};
use super::fixture::{self, BOOK, DELEGATE, Form, MAX_OUTPUT, PAY, PICK, SEARCH, SEND, START, WIRE, ask, text};
use super::looking_back;
use super::nursery::Nursery;
use super::origin::Origin;
use crate::counters::Amounts;
use crate::run::{
    Aim, CallState, Command, Delay, Effect, FinishedTurn, Input, Lack, Phase, Resolution, Retry, Timed, ripe, timestamp,
};

/// No history takes more transitions.
const MOST_TRANSITIONS: usize = 2_000;

pub struct World {
    pub driver: Driver,
    /// What the run was forked from.
    origin: Option<Origin>,
    pub dice: Dice,
    form: Form,
    /// Asks the same again and again.
    stubborn: bool,
    /// Searches for a long time, and can read little at once.
    scholar: bool,
    now: OffsetDateTime,
    /// Issued and not answered yet.
    flying: Vec<Effect>,
    /// Child runs that have not ended.
    nursery: Nursery,
    /// Handed over and not taken by a commit.
    inbox: Vec<Timed>,
    /// Every input that was ever handed over.
    past: Vec<Input>,
    mishap: Mishap,
    /// For how long the next commit waits for the store.
    delay: Duration,
    /// What all commits have waited.
    delayed: Duration,
    epoch: i64,
    transitions: usize,
    commands: u128,
}

impl World {
    pub fn new(script: Vec<u8>) -> Self {
        Self::of(Dice::new(script), false)
    }

    /// A world of a long run, most of whose prompts do not fit.
    pub fn of_scholar(script: Vec<u8>) -> Self {
        Self::of(Dice::new(script), true)
    }

    /// A world whose history these dice tell.
    pub fn of(mut dice: Dice, scholar: bool) -> Self {
        let limits = if scholar { fixture::roomy() } else { limits(&mut dice) };
        // What a child has by itself is little, and its parent's pool not much more.
        let child = !scholar && dice.once_in(6);
        let form = dice.of(&[Form::Prose, Form::Schema, Form::Schema]);
        let stubborn = !scholar && dice.once_in(4);
        let both: &[_] = &[BudgetScope::Tenant, BudgetScope::Session];
        let budgets = dice.of(&[&[], &[], both, &both[..1], &both[1..]]);
        let origin = (!child && dice.once_in(5)).then(|| Origin::new(&mut dice, scholar));
        let driver = match &origin {
            None if child => small(limits, &mut dice),
            None => {
                let mut first = fixture::admitted_on(limits, budgets);
                first.content.history = seen(scholar, &mut dice);
                Driver::of(first)
            }
            Some(origin) => {
                let mut driver = Driver::of(origin.fork(fixture::admitted_on(limits, budgets), &mut dice));
                driver.audit.forks(&origin.driver.events);
                driver
            }
        };
        let mut world = Self {
            stubborn,
            scholar,
            driver,
            origin,
            dice,
            form,
            now: START,
            flying: Vec::new(),
            nursery: Nursery::default(),
            inbox: Vec::new(),
            past: Vec::new(),
            mishap: Mishap::None,
            delay: Duration::ZERO,
            delayed: Duration::ZERO,
            epoch: 1,
            transitions: 0,
            commands: 0,
        };
        world.hand(Input::Begin);
        world.run_on();
        world
    }

    /// What the log says that commits have waited.
    fn told_delays(&self) -> Duration {
        let told = self.driver.events.iter().filter_map(|event| match &event.body {
            Body::CommitDelayed(delayed) => {
                let stamps = (delayed.since.as_ref(), delayed.until.as_ref());
                Some(timestamp(stamps.1.unwrap()).unwrap() - timestamp(stamps.0.unwrap()).unwrap())
            }
            _ => None,
        });
        told.sum()
    }

    /// Until the run has ended, and some late inputs more.
    pub fn run_out(&mut self) {
        while !self.driver.state.ended() {
            self.happen();
        }
        for input in self.past.clone().into_iter().rev().take(8) {
            self.hand(input);
            self.run_on();
        }
        assert!(self.told_delays() <= self.delayed, "the log gives back more than was lost");
    }

    fn happen(&mut self) {
        match self.dice.below(50) {
            0..26 => self.progress(),
            26 | 27 => {
                let answered = self.answer();
                self.inbox.extend(answered.map(|input| Timed { at: self.now, input }));
            }
            28 | 29 => self.repeat(),
            30 | 31 => {
                let pause = self.dice.of(&[10, 300, 2_500, 20_000]);
                self.now += Duration::milliseconds(pause);
                self.hand(Input::Timer);
            }
            32 => self.hand(Input::Cancel { reason: "CANCELLED_BY_CALLER", principal: "user:ada".to_owned() }),
            33 | 34 => self.crash(),
            46 => self.drain(),
            47 | 48 => self.delay = Duration::milliseconds(self.dice.of(&[400, 5_000, 90_000])),
            35 => self.driver.counters_up = false,
            36 => self.driver.counters_up = true,
            37 => {
                let lost = self.dice.of(&[None, Some(0), Some(1), Some(2)]);
                self.driver.lose_counters(lost);
            }
            38 => self.mishap = Mishap::Crash,
            39 => self.mishap = Mishap::AnswerLost,
            40 | 41 => self.command(|_| Command::Pause { principal: "user:eve".to_owned() }),
            42 => {
                let command = self.dice.of(&[Command::Resume, Command::Renew]);
                self.command(|_| command);
            }
            43..46 => self.command(Self::wish),
            _ => {
                if !self.flying.is_empty() {
                    let lost = self.dice.below(self.flying.len());
                    self.flying.remove(lost);
                }
            }
        }
        self.run_on();
    }

    /// Answers something in flight, or lets the time come when something is due.
    fn progress(&mut self) {
        if let Some(input) = self.answer() {
            return self.hand(input);
        }
        if let Some(command) = self.nursery.end_one(&mut self.dice) {
            return self.command(|_| command);
        }
        let for_children = self.driver.state.phase == Phase::Waiting(WaitReason::ChildRun);
        if self.driver.state.is_parked()
            && self.driver.state.renews_at.is_none()
            && !for_children
            && !self.dice.once_in(8)
        {
            return self.command(Self::remedy);
        }
        let Some(due) = self.driver.wake_at() else { return };
        if due > self.now {
            self.now = due;
        } else if self.dice.spent() {
            // Nothing will change any more: the counters stay away until the run expires.
            self.now = self.driver.state.expires_at;
        } else {
            self.now += Duration::seconds(1);
        }
        self.hand(Input::Timer);
    }

    fn command(&mut self, of: impl FnOnce(&mut Self) -> Command) {
        self.commands += 1;
        let id = Uuid::from_u128(self.commands);
        let command = of(self);
        self.hand(Input::Commanded { id, command });
    }

    /// What lets a parked run go on.
    fn remedy(&mut self) -> Command {
        match self.driver.state.phase {
            Phase::Waiting(WaitReason::Approval) => self.decision(true),
            Phase::Waiting(WaitReason::ToolResult) => fixture::result_of_caller(&self.handed(WaitReason::ToolResult)),
            Phase::Waiting(WaitReason::Input) => fixture::reply(&self.handed(WaitReason::Input), "the red one"),
            _ => Command::Resume,
        }
    }

    /// A call in the caller's hands.
    fn handed(&self, reason: WaitReason) -> String {
        let handed = self.driver.state.held_calls().find(|call| call.state == CallState::Handed { reason });
        handed.expect("a call in the caller's hands").call_id.clone()
    }

    /// What somebody may want at any time, whether it fits or not.
    fn wish(&mut self) -> Command {
        match self.dice.below(4) {
            0 => self.decision(true),
            1 => self.decision(false),
            2 => fixture::result_of_caller(&fixture::call_id(1, 0)),
            _ => fixture::reply(&fixture::call_id(1, 0), "the blue one"),
        }
    }

    fn decision(&mut self, approved: bool) -> Command {
        let asked = self.driver.state.approvals.values();
        let pending = asked.filter(|approval| approval.state == ApprovalState::Pending);
        let known: Vec<String> = pending.map(|approval| approval.id.clone()).collect();
        let approval = if known.is_empty() { "1-0".to_owned() } else { self.dice.of(&known) };
        let who = self.dice.of(&["bob", "cid", "dan", "ada"]);
        let asked = self.driver.state.approvals.get(&approval).map_or("sha256:d".to_owned(), |one| one.digest.clone());
        let digest = self.dice.of(&[asked.clone(), asked.clone(), asked, "sha256:other".to_owned()]);
        // Without dice left everybody has to come by once.
        let who = if self.dice.spent() { format!("person-{}", self.commands) } else { who.to_owned() };
        Command::Resolve(Resolution {
            approval,
            digest,
            approved,
            principal: format!("user:{who}"),
            comment: String::new(),
        })
    }

    /// An input that came before comes again.
    fn repeat(&mut self) {
        if !self.past.is_empty() {
            let again = self.dice.below(self.past.len());
            let input = self.past[again].clone();
            self.hand(input);
        }
    }

    fn hand(&mut self, input: Input) {
        self.past.push(input.clone());
        self.inbox.push(Timed { at: self.now, input });
    }

    /// The executor's loop, as long as there is something worth a commit.
    fn run_on(&mut self) {
        if !ripe(&self.driver.state, &self.inbox) {
            return;
        }
        self.transitions += 1;
        assert!(self.transitions < MOST_TRANSITIONS, "the run does not end");
        let inputs = std::mem::take(&mut self.inbox);
        let mishap = std::mem::replace(&mut self.mishap, Mishap::None);
        let before = self.driver.events.len();
        match self.driver.transition(&inputs, mishap) {
            None => self.crash(),
            Some(effects) => {
                if self.driver.events.len() > before {
                    self.wait_for_store();
                }
                for effect in effects {
                    match effect {
                        Effect::Stop | Effect::Seal => {}
                        Effect::Delegate { call_id } => {
                            self.nursery.admit(&self.driver.state, &call_id, &mut self.dice);
                            self.inbox.push(Timed { at: self.now, input: Input::Timer });
                        }
                        Effect::StopChildren { call_id } => {
                            self.nursery.admit(&self.driver.state, &call_id, &mut self.dice);
                            self.nursery.stop(&mut self.dice);
                        }
                        // Asked for with every transition, and by the executor once at a time.
                        Effect::Refill(_) if self.flying.contains(&effect) => {}
                        effect => self.flying.push(effect),
                    }
                }
            }
        }
        self.now += Duration::milliseconds(1);
    }

    /// The commit that was just made has taken its time.
    fn wait_for_store(&mut self) {
        let delay = std::mem::take(&mut self.delay);
        if delay.is_zero() {
            return;
        }
        let since = self.now;
        self.now += delay;
        self.delayed += delay;
        self.hand(Input::CommitDelayed(Delay { since, until: self.now, failures: 3 }));
    }

    /// The replica stops in good order, with or without something that has just come back.
    fn drain(&mut self) {
        if self.dice.once_in(2) {
            let answered = self.answer();
            self.inbox.extend(answered.map(|input| Timed { at: self.now, input }));
        }
        let mut inputs = std::mem::take(&mut self.inbox);
        inputs.push(Timed { at: self.now, input: Input::Draining });
        let mishap = std::mem::replace(&mut self.mishap, Mishap::None);
        let effects = self.driver.transition(&inputs, mishap).unwrap_or_default();
        assert!(effects.iter().all(|effect| matches!(effect, Effect::Stop | Effect::Seal)), "{effects:?} at the end");
        self.crash();
    }

    /// The replica dies; another one finds what was committed. What was in flight may still be heard of.
    fn crash(&mut self) {
        let inputs = std::mem::take(&mut self.inbox);
        self.past.extend(inputs.into_iter().map(|timed| timed.input));
        while let Some(ghost) = self.answer() {
            self.past.push(ghost);
        }
        self.driver.state = self.driver.replayed();
        self.epoch += 1;
        // Nobody executes it for a while, and who knows for how long may know wrongly.
        let (pause, known) =
            self.dice.of(&[(0, None), (900, Some(900)), (1, Some(20_000)), (4_000, None), (7_000, Some(9))]);
        self.now += Duration::milliseconds(pause);
        let unattended = known.map(Duration::milliseconds);
        self.hand(Input::Claimed {
            epoch: self.epoch,
            owner: format!("replica-{}", self.epoch),
            unattended_since: unattended.map(|unattended| self.now - unattended),
        });
        self.run_on();
    }

    /// What one of the effects in flight comes to.
    fn answer(&mut self) -> Option<Input> {
        if self.flying.is_empty() {
            return None;
        }
        let at = self.dice.below(self.flying.len());
        Some(match self.flying.remove(at) {
            Effect::Synthesise => self.synthesis(),
            Effect::Generate { step, attempt } => self.generation(step, attempt),
            Effect::Invoke { call_id, attempt } => self.call(&call_id, attempt),
            Effect::Refill(lack) => self.slice(lack),
            Effect::Probe { call_id, attempt } => {
                use ProbeAnswer::{DidNotHappen, Happened, Unknown};
                let answer = self.dice.of(&[Happened, DidNotHappen, Unknown]);
                fixture::probed(&call_id, attempt, answer)
            }
            Effect::Recall => self.recall(),
            Effect::Stop | Effect::Seal | Effect::Delegate { .. } | Effect::StopChildren { .. } => Input::Timer,
        })
    }

    fn recall(&mut self) -> Input {
        let gone = self.dice.once_in(16);
        match &self.origin {
            Some(origin) if !gone => origin.recalled(&self.driver.state),
            _ => Input::SynthesisFailed { reason: "PAYLOADS_GONE".to_owned(), message: "no".to_owned() },
        }
    }

    fn slice(&mut self, lack: Lack) -> Input {
        match self.dice.below(12) {
            0 => {
                let again_at = self.now + Duration::seconds(self.dice.of(&[30, 1, 0, 200]));
                Input::Exhausted { scope: lack.scope, number: lack.number, again_at }
            }
            1 => {
                self.flying.push(Effect::Refill(lack));
                Input::SliceDelayed { dependency: "budget counters".to_owned() }
            }
            2 => fixture::granted(&lack, lack.least),
            _ => fixture::granted(&lack, lack.want),
        }
    }

    fn synthesis(&mut self) -> Input {
        let refused = |reason: &str| Input::SynthesisFailed { reason: reason.to_owned(), message: "no".to_owned() };
        match self.dice.below(32) {
            31 => refused("POLICY_DENIED"),
            30 => refused("NO_MODEL"),
            28 | 29 => {
                self.flying.push(Effect::Synthesise);
                Input::SynthesisDelayed { dependency: "agent-generator".to_owned() }
            }
            _ => {
                let window = if self.scholar { self.dice.of(&[320, 1_200, 2_600, 7_000]) } else { 0 };
                Input::Synthesised(Box::new(fixture::agent_of_window(self.form, window)))
            }
        }
    }

    fn generation(&mut self, step: i64, attempt: i64) -> Input {
        let aim = self.driver.state.generation.as_ref().map(|open| open.aim).unwrap_or_default();
        if aim != Aim::Turn {
            return self.summary(step, attempt);
        }
        if self.scholar && !self.dice.once_in(6) {
            let asked = (0..1 + self.dice.below(2)).map(|i| ask(SEARCH, &format!("p{step}-{i}"))).collect();
            let usage = self.usage();
            return Input::Turn(Box::new(fixture::finished(step, attempt, asked, usage)));
        }
        let parts = match self.dice.below(13) {
            0 | 1 => vec![text(&self.good_answer())],
            2..7 => self.questions(),
            7 | 8 => self.bad_answer(),
            _ => return self.failure(step, attempt),
        };
        let usage = self.usage();
        let turn = fixture::finished(step, attempt, parts, usage);
        use FinishReason::{ContentFilter, Length};
        // One that asks the same again and again is to be stopped for that.
        let cut = (!self.stubborn && self.dice.once_in(8)).then(|| self.dice.of(&[Length, ContentFilter]));
        Input::Turn(Box::new(FinishedTurn { finish_reason: cut.unwrap_or(turn.finish_reason), ..turn }))
    }

    /// What comes of a generation that is to sum up.
    fn summary(&mut self, step: i64, attempt: i64) -> Input {
        let parts = match self.dice.below(12) {
            0 => vec![text(" ")],
            1 => vec![ask(SEARCH, "instead")],
            2 => vec![text(&"and so on ".repeat(900))],
            3 | 4 => return self.failure(step, attempt),
            _ => vec![text("so")],
        };
        let usage = self.usage();
        Input::Turn(Box::new(fixture::finished(step, attempt, parts, usage)))
    }

    /// An answer that fits and cites what was received, where it was.
    fn good_answer(&mut self) -> String {
        let known: Vec<String> = self.driver.state.passages.keys().cloned().collect();
        let cited = if known.is_empty() { Vec::new() } else { vec![self.dice.of(&known)] };
        let quote = self.dice.of(&["found", "q", ""]);
        fixture::quoting_answer(&cited.iter().map(String::as_str).collect::<Vec<_>>(), quote)
    }

    fn bad_answer(&mut self) -> Vec<Part> {
        match self.dice.below(5) {
            0 => Vec::new(),
            1 => vec![text(" \n")],
            2 => vec![text("no JSON")],
            3 => vec![text(r#"{"answer": 42}"#)],
            _ => vec![text(&fixture::cited_answer(&["never#received"]))],
        }
    }

    fn questions(&mut self) -> Vec<Part> {
        let count = 1 + self.dice.below(4);
        // Most ask something new; an agent that does not is stopped.
        if self.stubborn {
            return vec![ask(SEARCH, "again")];
        }
        let step = self.driver.state.step;
        let asked = (0..count).map(|i| {
            if self.dice.once_in(5) {
                let tasks = self.dice.of(&[&["a", "b"][..], &["a"], &["a", "b", "c", "d"], &[]]);
                return fixture::hand_out(&format!("p{step}-{i}"), tasks);
            }
            let tool = self.dice.of(&[SEARCH, SEARCH, SEND, PICK, "frobnicate", BOOK, PAY, WIRE]);
            ask(tool, &format!("p{step}-{i}"))
        });
        let mut parts: Vec<Part> = asked.collect();
        parts.insert(0, text("let me look"));
        parts
    }

    fn usage(&mut self) -> Usage {
        match self.dice.below(5) {
            0 => fixture::usage(50, 10),
            1 => Usage { cached_input_tokens: 30, reasoning_tokens: 5, ..fixture::usage(20, 10) },
            2 => Usage { estimated: true, ..fixture::usage(300, MAX_OUTPUT) },
            3 => Usage { cache_write_tokens: 9_000, ..fixture::usage(7_000, 3 * MAX_OUTPUT) },
            _ => Usage::default(),
        }
    }

    fn failure(&mut self, step: i64, attempt: i64) -> Input {
        let (retry, reason) = self.dice.of(&[
            (Retry::Bounded, "PROVIDER_FAILED"),
            (Retry::WhenBack, "PEER_UNAVAILABLE"),
            (Retry::Never, if self.scholar { "CONTEXT_EXCEEDED" } else { "INVALID_REQUEST" }),
        ]);
        let usage = match self.dice.below(3) {
            0 => None,
            1 => Some(Usage::default()),
            _ => Some(self.usage()),
        };
        let models = match self.dice.below(4) {
            0 => Vec::new(),
            count => (0..count).map(|_| format!("models/{}", self.dice.below(2))).collect(),
        };
        Input::GenerationFailed {
            step,
            attempt,
            reason: reason.to_owned(),
            retry,
            usage,
            message: "no".to_owned(),
            attempts: models.iter().map(|model: &String| format!("{model}: UNAVAILABLE (no)")).collect(),
            models,
        }
    }

    fn call(&mut self, call_id: &str, attempt: i64) -> Input {
        use ToolOutcome::{Denied, Error, NotSent, Ok, Unknown};
        let recorded = self.driver.state.calls.iter().find(|call| call.call_id == call_id);
        if let Some(seq) = recorded.and_then(|call| call.recorded) {
            return match (self.dice.below(9), &self.origin) {
                (0..5, Some(origin)) => origin.replay(call_id, attempt, seq),
                (5, _) => fixture::returned(call_id, attempt, Denied, ""),
                (6, _) => fixture::returned(call_id, attempt, Unknown, ""),
                // The gateway has cut or tainted it.
                (7, _) => fixture::returned(call_id, attempt, Ok, ""),
                _ => fixture::returned(call_id, attempt, NotSent, ""),
            };
        }
        let delegates = self.driver.state.calls.iter().any(|call| call.call_id == call_id && call.tool == DELEGATE);
        if delegates && !self.dice.once_in(6) {
            return fixture::handed(call_id, attempt, WaitReason::ChildRun);
        }
        if self.scholar && !self.dice.once_in(6) {
            let passage = self.dice.of(&["a#1", fixture::LONG, fixture::LONG, ""]);
            return fixture::returned(call_id, attempt, Ok, passage);
        }
        match self.dice.below(9) {
            6 => return fixture::wanted(call_id, attempt),
            7 => return fixture::handed(call_id, attempt, WaitReason::ToolResult),
            8 => return fixture::handed(call_id, attempt, WaitReason::Input),
            _ => {}
        }
        let calls = &self.driver.state.calls;
        if calls.iter().any(|call| call.call_id == call_id && call.is_made_elsewhere()) {
            let outcome = self.dice.of(&[Error, Denied, Unknown]);
            return fixture::returned(call_id, attempt, outcome, "");
        }
        let outcome = self.dice.of(&[Ok, Ok, Ok, Ok, Error, Denied, Unknown, NotSent]);
        let passage = self.dice.of(&["a#1", "b#2", ""]);
        fixture::returned(call_id, attempt, outcome, passage)
    }
}

/// What a run sees of earlier ones: those that read much see much of it.
fn seen(scholar: bool, dice: &mut Dice) -> Option<History> {
    let all = [looking_back::three_turns(), looking_back::with_a_summary(), looking_back::all_shown()];
    (scholar && dice.once_in(3)).then(|| dice.of(&all))
}

/// A child run that will have to draw.
fn small(limits: HaltingPolicy, dice: &mut Dice) -> Driver {
    let few = HaltingPolicy {
        max_steps: Some(dice.of(&[1, 2])),
        max_tool_calls: Some(dice.of(&[0, 1])),
        max_input_tokens: Some(dice.of(&[1, 6_000, 20_000])),
        max_output_tokens: Some(dice.of(&[1, 120])),
        max_cost_nano_usd: Some(dice.of(&[0, 80_000_000])),
        ..limits
    };
    let many = dice.of(&[8, 2, 0]);
    let pool = Amounts {
        steps: many,
        tool_calls: 2 * many,
        input_tokens: 20_000 * many,
        output_tokens: 200 * many,
        cost_nano_usd: 100_000_000 * many,
    };
    Driver::child(few, pool)
}

/// Limits of all sizes; most of them wide, or no history would go far.
fn limits(dice: &mut Dice) -> HaltingPolicy {
    let on_budget = dice.of(&[OnBudget::Halt, OnBudget::Wait]);
    let mut one = |wide: i64, narrow: &[i64]| if dice.once_in(6) { dice.of(narrow) } else { wide };
    HaltingPolicy {
        max_depth: Some(if one(1, &[0]) == 0 { 0 } else { 2 }),
        max_steps: Some(one(16, &[5, 3, 2, 1])),
        max_tool_calls: Some(one(64, &[6, 3, 1, 0])),
        max_active_time: Some(fixture::seconds(one(60, &[10, 1]))),
        expire_after: Some(fixture::seconds(one(600, &[30, 2]))),
        max_input_tokens: Some(one(10_000_000, &[30_000, 6_000, 1_000])),
        max_output_tokens: Some(one(1_000_000, &[500, 150, 50])),
        max_cost_nano_usd: Some(one(1_000_000_000_000, &[80_000_000, 20_000_000, 0])),
        on_budget: on_budget.into(),
    }
}
