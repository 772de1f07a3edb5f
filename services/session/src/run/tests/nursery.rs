//! Child runs around a run: each ends some time, having used at most what it may.

use std::collections::BTreeMap;

use mar_proto::session::{Answer, RunFailure, RunState};
use mar_proto::types::HaltReason;
use uuid::Uuid;

use super::dice::Dice;
use super::fixture::text;
use crate::counters::Amounts;
use crate::run::{ChildEnd, Command, State};

/// The children that are open.
#[derive(Debug, Default)]
pub struct Nursery(BTreeMap<Uuid, Child>);

#[derive(Debug, Clone)]
struct Child {
    allotment: Amounts,
    stopped: bool,
    /// Does not end, whoever asks.
    stuck: bool,
}

impl Nursery {
    /// The open children of a call, as often as it is said.
    pub fn admit(&mut self, state: &State, call_id: &str, dice: &mut Dice) {
        for (call, delegated) in state.delegations() {
            for child in delegated.open().filter(|_| call.call_id == call_id) {
                let limits = &child.limits;
                let allotment = Amounts {
                    steps: limits.max_steps.unwrap(),
                    tool_calls: limits.max_tool_calls.unwrap(),
                    input_tokens: limits.max_input_tokens.unwrap(),
                    output_tokens: limits.max_output_tokens.unwrap(),
                    cost_nano_usd: limits.max_cost_nano_usd.unwrap(),
                };
                let stuck = dice.once_in(24);
                self.0.entry(child.run).or_insert(Child { allotment, stopped: false, stuck });
            }
        }
    }

    /// All of them are to stop.
    pub fn stop(&mut self, dice: &mut Dice) {
        for child in self.0.values_mut() {
            child.stopped = true;
            child.stuck &= dice.once_in(2);
        }
    }

    /// One of them ends and tells.
    pub fn end_one(&mut self, dice: &mut Dice) -> Option<Command> {
        let able: Vec<Uuid> = self.0.iter().filter(|(_, child)| !child.stuck).map(|(run, _)| *run).collect();
        if able.is_empty() {
            return None;
        }
        let run = dice.of(&able);
        let child = self.0.remove(&run)?;
        Some(Command::ChildEnded { run, end: Box::new(ended(&child, dice)) })
    }
}

fn ended(child: &Child, dice: &mut Dice) -> ChildEnd {
    let share = dice.of(&[2_i64, 1, 4]);
    let part = |amount: i64| amount / share;
    let all = child.allotment;
    let more = dice.of(&[0, 0, 0, 7_000]);
    let used = Amounts {
        steps: part(all.steps),
        tool_calls: part(all.tool_calls),
        // A call may use more than was reserved for it.
        input_tokens: part(all.input_tokens) + more,
        output_tokens: part(all.output_tokens),
        cost_nano_usd: part(all.cost_nano_usd),
    };
    let mut end = ChildEnd {
        state: RunState::Succeeded,
        halt_reason: HaltReason::Unspecified,
        failure: None,
        used,
        usage: used.to_usage(false),
        tainted: dice.once_in(3),
        head: vec![7; 32].into(),
        answer: None,
    };
    match dice.below(4) {
        _ if child.stopped => {
            end.state = RunState::Halted;
            end.halt_reason = HaltReason::ParentHalted;
        }
        3 => {
            end.state = RunState::Failed;
            end.failure = Some(RunFailure { reason: "PROVIDER_BROKEN".to_owned(), message: "no".to_owned() });
        }
        _ => end.answer = Some(Answer { parts: vec![text("so it is")], ..Answer::default() }),
    }
    end
}
