//! A world around one run: effects in flight, inputs on their way, a clock, counters and replicas that fail. What
//! happens next is rolled.

use mar_proto::session::{BudgetScope, WaitReason, event_leaf::Body};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::dice::Dice;
use super::driver::{Driver, Mishap};
use super::fixture::{self, Form, START};
use super::nursery::Nursery;
use super::origin::Origin;
use crate::run::{Command, Delay, Effect, Input, Phase, Timed, ripe, timestamp};

mod beginnings;
mod outcomes;
mod people;

use beginnings::{limits, seen, small};

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
}
