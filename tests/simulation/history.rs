//! What runs saw of those before them in their session, held against the logs of these.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use mar_proto::session::{
    Event, EventShared, History, Run, RunState, SummaryCommitted, event_leaf::Body, event_shared,
};
use mar_proto::types::{Message, Part, part::Content};
use prost::Message as _;

use crate::judge::stored;
use crate::peers::TASK;
use crate::story::Story;
use crate::world::World;

/// Tokens of a message's frame.
const FRAME: usize = 16;
/// A summary takes a quarter of the room, and is of so many tokens at least.
const LEAST_SUMMARY: usize = 128;
/// By how much marks that a part carries may change what it takes.
const MARKS: usize = 16;

/// How much was seen.
#[derive(Debug, Default, Clone, Copy)]
pub struct Glances {
    /// Runs that saw earlier turns word by word.
    pub turns: usize,
    /// Runs that saw a summary which an earlier run had made.
    pub summaries: usize,
    /// Prompts that were found to have what the log says.
    pub prompts: usize,
}

impl std::ops::AddAssign for Glances {
    fn add_assign(&mut self, other: Self) {
        self.turns += other.turns;
        self.summaries += other.summaries;
        self.prompts += other.prompts;
    }
}

/// What was asked in a run and what it answered.
struct Turn {
    run: String,
    said: [String; 2],
}

impl Turn {
    /// Of a run that has SUCCEEDED, by its log.
    fn of(run: &Run, events: &[Event]) -> Option<Self> {
        let content = |event: &Event| event.content.clone().unwrap_or_default();
        let asked = texts(&content(events.first()?).task?.input);
        let answered = texts(&content(events.last()?).answer?.parts);
        let turn = Self { run: run.name.clone(), said: [asked, answered] };
        (run.state() == RunState::Succeeded && turn.said.iter().all(|said| !said.is_empty())).then_some(turn)
    }

    /// What it takes, but for marks.
    fn tokens(&self) -> usize {
        let part = |said: &String| Part { content: Some(Content::Text(said.clone())), origin: 1, ..Part::default() };
        self.said.iter().map(|said| FRAME + part(said).encoded_len()).sum()
    }

    /// Whether these two messages are the turn, or of a long text its beginning and its end.
    fn is(&self, messages: &[Message], whole: bool) -> bool {
        let same = |said: &String, message: &Message| {
            let told = texts(&message.parts);
            let cut = || told.split_once("\n[").zip(told.rsplit_once("]\n"));
            let clipped = || cut().is_some_and(|((head, _), (_, tail))| said.starts_with(head) && said.ends_with(tail));
            *said == told || !whole && clipped()
        };
        messages.len() == 2 && self.said.iter().zip(messages).all(|(said, message)| same(said, message))
    }
}

fn texts(parts: &[Part]) -> String {
    let text = |part: &Part| match &part.content {
        Some(Content::Text(text)) => Some(text.clone()),
        _ => None,
    };
    parts.iter().filter_map(text).collect()
}

fn body(event: &Event) -> Option<&Body> {
    event.body.as_ref()?.body.as_ref()
}

/// What its first event says that a run saw: through which run, and what.
fn sealed(events: &[Event]) -> anyhow::Result<(String, Option<History>)> {
    let first = events.first().context("no events")?;
    let Some(Body::RunAdmitted(admitted)) = body(first) else { anyhow::bail!("no admission") };
    Ok((admitted.history_through.clone(), first.content.clone().unwrap_or_default().history))
}

/// Every run of a session saw of the earlier ones what their logs say, and so did the models.
pub fn session(world: &World, stories: &[Story]) -> anyhow::Result<Glances> {
    let mut glances = Glances::default();
    let mut before: Vec<(&Story, Run, Vec<Event>)> = Vec::new();
    for story in stories {
        let events = stored(world, story.run)?;
        let run = story.seen.ended.clone().context("no end")?;
        let (through, history) = sealed(&events)?;
        let what = || format!("{} saw through {through:?} {history:#?}", run.name);
        match &story.branch {
            _ if !story.looks_back() => ensure!(history.is_none() && through.is_empty(), "{}", what()),
            Some(branch) => {
                let (_, _, origin) = before.iter().find(|(story, ..)| story.run == branch.of).context("no origin")?;
                let same = (through.clone(), history.clone()) == sealed(origin)?;
                ensure!(same, "a fork of another past: {}", what());
            }
            None => Past::of(world, &before).holds(&through, history.as_ref()).with_context(what)?,
        }
        glances.turns += usize::from(history.as_ref().is_some_and(|history| !history.messages.is_empty()));
        glances.summaries += usize::from(history.as_ref().is_some_and(|history| history.summary.is_some()));
        glances.prompts += prompts(world, &run, &events).with_context(what)?;
        before.push((story, run, events));
    }
    Ok(glances)
}

/// All that a run may see.
struct Past<'a> {
    before: &'a [(&'a Story, Run, Vec<Event>)],
    turns: Vec<Turn>,
    /// Tokens.
    room: usize,
    /// Tokens of a summary; 0 for none.
    summary: usize,
}

impl<'a> Past<'a> {
    fn of(world: &World, before: &'a [(&'a Story, Run, Vec<Event>)]) -> Self {
        let room = usize::try_from(world.history_tokens).unwrap_or(0);
        let summary = Some(room / 4).filter(|tokens| *tokens >= LEAST_SUMMARY).unwrap_or(0);
        // What was only tried out in a fork was not said.
        let said = before.iter().filter(|(story, ..)| story.branch.is_none());
        let turns = said.filter_map(|(_, run, events)| Turn::of(run, events)).collect();
        Self { before, turns, room, summary }
    }

    fn holds(&self, through: &str, history: Option<&History>) -> anyhow::Result<()> {
        let nothing = History::default();
        let (any, history) = (history.is_some(), history.unwrap_or(&nothing));
        let (seen, older) = (history.messages.len() / 2, history.older.len() / 2);
        let first = self.turns.len().checked_sub(seen + older).context("more turns than there were")?;
        let (unseen, shown) = self.turns.split_at(first);
        let runs: Vec<&str> = shown.iter().map(|turn| turn.run.as_str()).collect();
        ensure!(runs == history.runs, "the newest are {runs:?}");
        let (clipped, whole) = shown.split_at(older);
        for (turn, said) in whole.iter().zip(history.messages.chunks(2)) {
            ensure!(turn.is(said, true), "{} said {:?}", turn.run, turn.said);
        }
        for (turn, said) in clipped.iter().zip(history.older.chunks(2)) {
            ensure!(turn.is(said, false), "{} said {:?}", turn.run, turn.said);
        }
        let reached = self.summary_holds(history)?;
        let skipped = unseen.iter().filter(|turn| turn.run > reached).count();
        ensure!(!any || (skipped > 0) == (history.unseen_turns > 0), "{skipped} turns are in nothing that was seen");
        let taken: usize = history.messages.iter().map(tokens).sum();
        let beside = if history.summary.is_some() { self.room - self.summary } else { self.room };
        ensure!(taken <= beside, "{taken} tokens where there is room for {beside}");
        // One turn more would have been too much.
        let next = clipped.last().or(unseen.last().filter(|turn| turn.run > reached)).map(Turn::tokens);
        let least = if self.summary > 0 { self.room / 2 } else { self.room };
        let more = next.is_none_or(|next| taken + next + MARKS > least);
        ensure!(more, "{taken} tokens of {least}, and the next turn took {next:?}");
        let newest = self.turns.last().filter(|_| seen > 0 || older > 0 || skipped > 0 && self.summary > 0);
        let last = newest.map_or(reached.as_str(), |turn| turn.run.as_str());
        ensure!(through == last, "it saw through {last:?}");
        Ok(())
    }

    /// The summary is one that an earlier run has made, and none reaches further; answers how far it reaches.
    fn summary_holds(&self, history: &History) -> anyhow::Result<String> {
        let made = self.before.iter().filter_map(|(_, run, _)| run.history_summary.as_ref());
        let furthest = made.map(|origin| origin.through.as_str()).max();
        let Some(origin) = &history.summary_origin else {
            ensure!(history.summary.is_none(), "a summary of no origin");
            // It is looked for where not everything fits.
            let all = history.older.is_empty() && history.unseen_turns == 0;
            ensure!(all || self.summary == 0 || furthest.is_none(), "a summary through {furthest:?} was there");
            return Ok(String::new());
        };
        ensure!(Some(origin.through.as_str()) == furthest, "a summary reaches through {furthest:?}");
        let of = self.before.iter().find(|(_, run, _)| run.name == origin.run).context("of no earlier run")?;
        let there = usize::try_from(origin.seq).ok().and_then(|at| of.2.get(at)).context("of no event")?;
        let committed = match body(there) {
            Some(Body::SummaryCommitted(summary)) => Some(summary),
            Some(Body::EventShared(EventShared { body: Some(event_shared::Body::Summary(summary)), .. })) => {
                Some(summary)
            }
            _ => None,
        };
        let committed = committed.filter(|summary| summary.history).context("of another event")?;
        ensure!(committed.history_through == origin.through, "{committed:?} is said to reach {}", origin.through);
        let made = there.content.clone().unwrap_or_default().summary;
        ensure!(made == history.summary, "{made:?} was summed up");
        Ok(origin.through.clone())
    }
}

fn tokens(message: &Message) -> usize {
    FRAME + message.parts.iter().map(prost::Message::encoded_len).sum::<usize>()
}

/// What prompts have of earlier runs, as the log goes on.
#[derive(Debug, Default)]
struct Shown {
    summary: Option<Message>,
    /// Messages that wait for a summary.
    older: usize,
    recent: Vec<Message>,
}

impl Shown {
    fn of(history: Option<History>) -> Self {
        let history = history.unwrap_or_default();
        Self { summary: history.summary, older: history.older.len(), recent: history.messages }
    }

    fn drop_turns(&mut self, messages: usize) {
        let older = messages.min(self.older);
        self.older -= older;
        self.recent.drain(..(messages - older).min(self.recent.len()));
    }

    fn leave_out(&mut self, messages: i64) {
        let messages = usize::try_from(messages).unwrap_or(0);
        if messages > self.older + self.recent.len() {
            self.summary = None;
        }
        self.drop_turns(messages);
    }

    fn sum_up(&mut self, summary: &SummaryCommitted, event: &Event) {
        let nothing = self.summary.is_none() && self.older == 0 && self.recent.is_empty();
        if !summary.history || nothing {
            return;
        }
        let replaces = usize::try_from(summary.replaces).unwrap_or(0);
        self.drop_turns(replaces.saturating_sub(usize::from(self.summary.is_some())));
        self.summary = event.content.clone().unwrap_or_default().summary;
    }

    fn take(&mut self, event: &Event) {
        match body(event) {
            Some(Body::GenerationStarted(started)) => self.leave_out(started.history_left_out),
            Some(Body::SummaryCommitted(summary)) => self.sum_up(summary, event),
            Some(Body::EventShared(shared)) => {
                self.leave_out(shared.history_left_out);
                if let Some(event_shared::Body::Summary(summary)) = &shared.body {
                    self.sum_up(summary, event);
                }
            }
            _ => {}
        }
    }
}

/// Between its agent's words and the task a prompt has what the log says; answers how many have.
fn prompts(world: &World, run: &Run, events: &[Event]) -> anyhow::Result<usize> {
    let mut shown = Shown::of(sealed(events)?.1);
    let id = run.name.rsplit('/').next().unwrap_or_default();
    let mut found = 0;
    for event in events {
        shown.take(event);
        let Some(Body::GenerationStarted(started)) = body(event) else { continue };
        let Some(prompt) = world.prompts.of(&format!("{id}/{}/{}", started.step, started.attempt)) else { continue };
        let told: Vec<&Message> =
            prompt.iter().skip(1).take_while(|message| !is_task(message)).map(Arc::as_ref).collect();
        let said: Vec<&Message> = shown.summary.iter().chain(&shown.recent).collect();
        ensure!(told == said, "step {} was told {told:?}, not {said:?}", started.step);
        found += usize::from(!said.is_empty());
    }
    Ok(found)
}

fn is_task(message: &Message) -> bool {
    texts(&message.parts) == TASK
}
