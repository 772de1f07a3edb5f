//! The run that another one is forked from: a history of its own, which has ended.

use mar_proto::session::{ForkOrigin, event_leaf::Body, event_shared};
use uuid::Uuid;

use super::dice::Dice;
use super::driver::Driver;
use super::world::World;
use crate::run::{CallReturn, Event, Input, Recollection, State, error_result};

/// Choices that the history of an origin takes at most.
const CHOICES: usize = 40;
const ORIGIN: Uuid = Uuid::from_u128(70);

/// An origin, and where it is left.
pub struct Origin {
    pub driver: Driver,
    through_seq: i64,
    own_task: bool,
}

impl Origin {
    /// A history that has ended, which may be that of a fork.
    pub fn new(dice: &mut Dice, scholar: bool) -> Self {
        let mut world = World::of(dice.part(CHOICES), scholar);
        world.run_out();
        let through = dice.below(world.driver.events.len() - 1);
        Self {
            driver: world.driver,
            through_seq: i64::try_from(through).unwrap(),
            own_task: dice.once_in(if scholar { 12 } else { 4 }),
        }
    }

    /// The first event of its fork.
    pub fn fork(&self, mut first: Event, dice: &mut Dice) -> Event {
        if let Body::RunAdmitted(body) = &mut first.body {
            let (through_seq, own_task) = (self.through_seq, self.own_task);
            let allow_effects = dice.once_in(2);
            body.fork = Some(ForkOrigin { run: ORIGIN.to_string(), through_seq, allow_effects, own_task });
            // A task of its own may want to see nothing of earlier runs.
            let seen = self.driver.events[0].content.history.clone();
            first.content.history = seen.filter(|_| !own_task || !dice.once_in(3));
        }
        first
    }

    /// What its log says, as an executor reads it.
    pub fn recalled(&self, fork: &State) -> Input {
        let fork = fork.fork.as_ref().unwrap();
        assert_eq!((fork.origin, fork.through_seq, fork.own_task), (ORIGIN, self.through_seq, self.own_task));
        let mut recollection = Recollection::new(fork.through_seq, fork.own_task);
        for (seq, event) in (0..).zip(&self.driver.events) {
            recollection.take(seq, event);
        }
        Input::Recalled(Box::new(recollection.finish()))
    }

    /// The result that its log holds at a place, for a call of the fork.
    pub fn replay(&self, call_id: &str, attempt: i64, seq: i64) -> Input {
        let event = &self.driver.events[usize::try_from(seq).unwrap()];
        let back = match &event.body {
            Body::ToolReturned(back) => back,
            Body::EventShared(shared) => match &shared.body {
                Some(event_shared::Body::Result(back)) => back,
                other => panic!("{other:?} is no result"),
            },
            other => panic!("{other:?} is no result"),
        };
        Input::Returned(Box::new(CallReturn {
            call_id: call_id.to_owned(),
            attempt,
            outcome: back.outcome(),
            reason: back.reason.clone(),
            result: event.content.tool_result.clone().unwrap_or_else(|| error_result("nothing")),
            decision_json: r#"{"verdict":"allow"}"#.to_owned(),
            policy_hashes: Vec::new(),
            recorded: true,
            size_bytes: back.size_bytes,
            duration_ms: 0,
        }))
    }
}
