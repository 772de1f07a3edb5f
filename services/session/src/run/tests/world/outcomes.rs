//! What effects in flight come to.

use mar_proto::session::{FinishReason, ToolOutcome, WaitReason};
use mar_proto::tool::ProbeAnswer;
use mar_proto::types::{Part, Usage};
use time::Duration;

use super::World;
use crate::run::tests::fixture::{self, BOOK, DELEGATE, MAX_OUTPUT, PAY, PICK, SEARCH, SEND, WIRE, ask, text};
use crate::run::{Aim, Effect, FinishedTurn, Input, Lack, Retry};

impl World {
    /// What one of the effects in flight comes to.
    pub(super) fn answer(&mut self) -> Option<Input> {
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
