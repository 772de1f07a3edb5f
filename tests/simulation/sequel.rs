//! What comes after a run in its session: runs that see it, and forks of it.

use uuid::Uuid;

use crate::link::Chance;
use crate::story::{Kind, Story};

/// Where a fork leaves the run that it is forked from.
#[derive(Debug, Clone, Copy)]
pub struct Branch {
    pub of: Uuid,
    pub through_seq: i64,
    pub allow_effects: bool,
    /// The kind of the task that both have; `None` where the fork has its own.
    pub shares_task: Option<Kind>,
}

impl Branch {
    /// Somewhere in a run that has ended.
    fn of(origin: &Story, chance: &Chance) -> Option<Self> {
        let places = u64::try_from(origin.seen.events.len().checked_sub(1)?).ok()?;
        Some(Self {
            of: origin.run,
            through_seq: i64::try_from(chance.below(places)).ok()?,
            allow_effects: chance.once_in(3),
            shares_task: (!chance.once_in(4)).then_some(origin.kind),
        })
    }
}

impl Story {
    /// What happens next in the session: another run, which sees what was said before, or a fork of one of these. `None` where
    /// its caller has had enough.
    pub fn sequel(before: &[Self]) -> Option<Self> {
        let (first, last) = (before.first()?, before.last()?);
        let chance = first.chance.fork();
        if last.bereft || before.len() > first.sequels {
            return None;
        }
        let number = first.number + 100 * before.len() as u64;
        let fork = chance.once_in(3).then(|| Branch::of(&before[chance.index(before.len())], &chance)).flatten();
        let kinds = [Kind::Talk, Kind::Talk, Kind::Talk, Kind::Medley, Kind::Form, Kind::Chain];
        let own = kinds[chance.index(kinds.len())];
        let kind = fork.as_ref().and_then(|branch| branch.shares_task).unwrap_or(own);
        let without_history = chance.once_in(12);
        let mut story = Self::new(number, kind, chance);
        (story.session, story.branch, story.without_history) = (first.session, fork, without_history);
        Some(story)
    }
}
