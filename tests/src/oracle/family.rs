//! Child runs: what their parent's log says of them, and what their own logs have to say to that.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use mar_proto::session::{ChildEnded, DelegationIntent, Event, Reservation, Run, event_leaf::Body};
use mar_proto::types::Usage;

use super::{Replay, Scars, check_from, hash, told as shown};

/// The child runs of a call.
#[derive(Debug, Default)]
pub(super) struct Family {
    /// How each ended; `None` while it is open.
    children: BTreeMap<String, Option<ChildEnded>>,
    /// What the parent has to count for them.
    pub taken: Reservation,
    over: bool,
}

/// The sum of each amount.
pub(super) fn sum<'a>(amounts: impl IntoIterator<Item = &'a Reservation>) -> Reservation {
    amounts.into_iter().fold(Reservation::default(), |sum, more| Reservation {
        steps: sum.steps + more.steps,
        tool_calls: sum.tool_calls + more.tool_calls,
        input_tokens: sum.input_tokens + more.input_tokens,
        output_tokens: sum.output_tokens + more.output_tokens,
        cost_nano_usd: sum.cost_nano_usd + more.cost_nano_usd,
    })
}

impl Replay {
    pub(super) fn delegate(&mut self, intent: &DelegationIntent) -> anyhow::Result<()> {
        ensure!(!self.stopping, "child runs after the stop");
        ensure!(self.held.contains(&intent.call_id), "child runs for a call that nobody decided on");
        let children: BTreeMap<_, _> = intent.children.iter().map(|child| (child.run.clone(), None)).collect();
        ensure!(children.len() == intent.children.len(), "two child runs of one name");
        self.scars.children += children.len();
        let taken = intent.reserved.context("nothing is reserved for child runs")?;
        let family = Family { children, taken, over: false };
        ensure!(self.families.insert(intent.call_id.clone(), family).is_none(), "delegated twice");
        Ok(())
    }

    pub(super) fn end_child(&mut self, ended: &ChildEnded) -> anyhow::Result<()> {
        let family = self.families.values_mut().find(|family| family.children.contains_key(&ended.run));
        let family = family.context("a stranger's end")?;
        ensure!(!family.over, "a child ends after its call");
        let end = family.children.get_mut(&ended.run).context("a stranger's end")?;
        ensure!(end.replace(ended.clone()).is_none(), "a child ends twice");
        if let Some(ends) = family.children.values().map(Option::as_ref).collect::<Option<Vec<_>>>() {
            let used: Vec<Reservation> = ends.iter().filter_map(|end| end.used).collect();
            let usages: Vec<Usage> = ends.iter().filter_map(|end| end.usage).collect();
            (family.taken, family.over) = (sum(&used), true);
            usages.into_iter().for_each(|usage| self.add(usage));
        }
        Ok(())
    }

    /// A call that is over while children of it are open counts with everything that was taken for it.
    pub(super) fn abandon(&mut self, call_id: &str) {
        let Some(family) = self.families.get_mut(call_id).filter(|family| !family.over) else { return };
        family.over = true;
        let taken = family.taken;
        self.add(Usage {
            input_tokens: taken.input_tokens,
            output_tokens: taken.output_tokens,
            cost_nano_usd: taken.cost_nano_usd,
            ..Usage::default()
        });
    }
}

/// Checks the child runs of a run that has ended, all of them with their logs: each begins with what its parent meant, ends as
/// its parent was told, and together they have used no more than their parent took for all of them. Answers the scars of
/// the children.
///
/// # Errors
/// What does not hold.
pub fn check_family(parent: &[Event], children: &[(Run, Vec<Event>)]) -> anyhow::Result<Scars> {
    check_family_of(parent, children, |_| true)
}

/// The same for a family of whose children some may have ended otherwise than their parent was told: those that are not
/// `whole`, because their store has lost the end that the parent had read.
///
/// # Errors
/// What does not hold.
pub fn check_family_of(
    parent: &[Event],
    children: &[(Run, Vec<Event>)],
    whole: impl Fn(&Run) -> bool,
) -> anyhow::Result<Scars> {
    let mut scars = Scars::default();
    let bodies = || parent.iter().filter_map(|event| Some((event, event.body.as_ref()?.body.as_ref()?)));
    let mut meant = 0;
    for (event, body) in bodies() {
        let Body::DelegationIntent(intent) = body else { continue };
        let mut used = (0, 0);
        for (index, child) in intent.children.iter().enumerate() {
            meant += 1;
            let of = children.iter().find(|(run, _)| run.name.ends_with(&child.run));
            // One that its session did not admit any more is told of by its parent alone.
            let Some((run, events)) = of else { continue };
            scars += &check_from(run, events, hash(&event.hash)?).context("a child")?;
            begins_as_meant(intent, index, events).with_context(|| run.name.clone())?;
            let told = bodies().find_map(|(_, body)| match body {
                Body::ChildEnded(ended) if ended.run == child.run => Some(ended),
                _ => None,
            });
            if let Some(told) = told.filter(|_| whole(run)) {
                ends_as_told(run, events, told).with_context(|| run.name.clone())?;
            }
            let totals = run.totals.unwrap_or_default();
            used = (used.0 + totals.steps, used.1 + totals.tool_calls);
        }
        // What a child leaves of its allotment others may draw, so that only the whole is bounded.
        let there = intent.reserved.unwrap_or_default();
        let of_all = || children.iter().map(|(run, events)| shown(run, events)).collect::<Vec<_>>().join("\n");
        ensure!(used.0 <= there.steps, "children used {} steps of {}: {}", used.0, there.steps, of_all());
        ensure!(used.1 <= there.tool_calls, "children made {} calls of {}: {}", used.1, there.tool_calls, of_all());
    }
    ensure!(children.len() <= meant, "{} child runs, meant were {meant}", children.len());
    Ok(scars)
}

fn begins_as_meant(intent: &DelegationIntent, index: usize, events: &[Event]) -> anyhow::Result<()> {
    let first = events.first().and_then(|first| first.body.as_ref()?.body.as_ref());
    let Some(Body::RunAdmitted(admitted)) = first else { anyhow::bail!("a child without its admission") };
    let link = admitted.parent.as_ref().context("a child without its parent")?;
    let child = &intent.children[index];
    ensure!(link.call_id == intent.call_id && link.index == i64::try_from(index)?, "another's child: {link:?}");
    ensure!(admitted.limits == child.limits && link.ceiling == child.ceiling, "other limits: {admitted:?}");
    ensure!(link.pool_nonce == intent.pool_nonce, "another pool: {link:?}");
    Ok(())
}

fn ends_as_told(run: &Run, events: &[Event], told: &ChildEnded) -> anyhow::Result<()> {
    let head = events.last().map(|last| last.hash.clone()).unwrap_or_default();
    ensure!(told.head == head, "its parent was told of another end");
    ensure!(told.state() == run.state(), "{:?}, its parent was told {:?}", run.state(), told.state());
    let (totals, used) = (run.totals.unwrap_or_default(), told.used.unwrap_or_default());
    ensure!((totals.steps, totals.tool_calls) == (used.steps, used.tool_calls), "{totals:?}, told {used:?}");
    Ok(())
}

/// The ids of the child runs that a log starts.
#[must_use]
pub fn children(events: &[Event]) -> Vec<String> {
    let bodies = events.iter().filter_map(|event| event.body.as_ref()?.body.as_ref());
    let intents = bodies.filter_map(|body| match body {
        Body::DelegationIntent(intent) => Some(intent),
        _ => None,
    });
    intents.flat_map(|intent| intent.children.iter().map(|child| child.run.clone())).collect()
}
