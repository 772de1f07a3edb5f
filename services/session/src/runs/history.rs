//! What a new run sees of its session's earlier runs. It is read once, at admission, and recorded with the run's first event:
//! a takeover, a replay and an audit see what the agent saw.
//!
//! The newest turns are seen as they are. Those before them are seen by the summary that an earlier run has made, and what it
//! does not reach comes along for the new run to sum up ([`crate::run::History`]).

use mar_proto::session::{History, HistorySummary, Run, RunState};
use mar_proto::types::{Message, Origin, Part, Role, part::Content};
use uuid::Uuid;

use super::{Admit, READ_BYTES, Runs, stored_run};
use crate::error::Error;
use crate::log;
use crate::store::{Page, RunRow, SessionRow};

/// Runs that are looked at, newest first.
const MAX_RUNS: i64 = 50;
/// Tokens of a message's frame.
const FRAME: usize = 16;
/// A summary of fewer tokens would say nothing.
const LEAST_SUMMARY: usize = 128;
/// What is summed up at once, in rooms.
const MOST_OLDER: usize = 4;
/// Bytes of a text that is cut, at the least.
const LEAST_TEXT: usize = 256;

/// What a new run sees of the earlier ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Earlier {
    /// The last run of which it sees the turn; empty for none.
    pub through: String,
    /// The turns.
    pub history: Option<History>,
}

/// What was asked in a run, and what it answered.
#[derive(Debug, Clone)]
struct Turn {
    run: String,
    messages: [Message; 2],
}

impl Turn {
    fn tokens(&self) -> usize {
        self.messages.iter().map(tokens).sum()
    }
}

/// Room for what is seen.
#[derive(Debug, Clone, Copy)]
struct Room {
    /// Tokens of all that is seen.
    tokens: usize,
    /// Tokens of what is to be summed up.
    older: usize,
}

impl Room {
    /// Tokens of a summary; 0 for none.
    fn summary(self) -> usize {
        Some(self.tokens / 4).filter(|tokens| *tokens >= LEAST_SUMMARY).unwrap_or(0)
    }
}

/// A summary that an earlier run has made.
#[derive(Debug)]
struct Found {
    message: Message,
    origin: HistorySummary,
}

impl Runs {
    /// The turns of the session's root runs that have SUCCEEDED, as far as there is room for them.
    pub(super) async fn earlier(&self, session: &SessionRow, admit: &Admit) -> Result<Earlier, Error> {
        let share = admit.limits.max_input_tokens.unwrap_or(0) / 4;
        let room = usize::try_from(self.limits().history_tokens.min(share)).unwrap_or(0);
        if room == 0 || admit.task.without_history {
            return Ok(Earlier::default());
        }
        let page = Page { state: Some(RunState::Succeeded as i16), limit: MAX_RUNS, ..Page::default() };
        let rows = self.store().run_list(&session.tenant, Some(session.id), page).await?;
        let (newest, all_fit) = self.turns(&rows, room, None).await?;
        let all = rows.len() < usize::try_from(MAX_RUNS).unwrap_or(0);
        let room = Room { tokens: room, older: (MOST_OLDER * room).min(usize::try_from(share).unwrap_or(0)) };
        if all_fit && all || room.summary() == 0 {
            return Ok(seen(newest, None, room));
        }
        let summary = self.found_summary(session).await?;
        let reached = summary.as_ref().and_then(|found| run_id(&found.origin.through));
        let (turns, _) = self.turns(&rows, room.older.saturating_add(room.tokens), reached).await?;
        Ok(seen(turns, summary, room))
    }

    /// Turns, newest first, with the first that exceeds the room; whether all fit. None that a summary reaches.
    async fn turns(&self, rows: &[RunRow], room: usize, reached: Option<Uuid>) -> Result<(Vec<Turn>, bool), Error> {
        let (mut turns, mut taken) = (Vec::new(), 0_usize);
        for row in rows.iter().filter(|row| reached.is_none_or(|reached| row.id > reached)) {
            let run = self.whole_run(row).await?;
            let Some(messages) = turn(&run) else { continue };
            let turn = Turn { run: run.name, messages };
            taken = taken.saturating_add(turn.tokens());
            turns.push(turn);
            if taken > room {
                return Ok((turns, false));
            }
        }
        Ok((turns, true))
    }

    /// The summary that reaches furthest of those that runs of the session have; `None` where its payload is gone.
    async fn found_summary(&self, session: &SessionRow) -> Result<Option<Found>, Error> {
        let page = Page { limit: MAX_RUNS, ..Page::default() };
        let mut furthest: Option<(Uuid, HistorySummary)> = None;
        for row in self.store().run_list(&session.tenant, Some(session.id), page).await? {
            let Some(origin) = stored_run(&row)?.history_summary else { continue };
            let through = run_id(&origin.through).filter(|id| furthest.as_ref().is_none_or(|(far, _)| id > far));
            furthest = through.map(|id| (id, origin)).or(furthest);
        }
        let Some((_, origin)) = furthest else { return Ok(None) };
        let Some(run) = run_id(&origin.run) else { return Ok(None) };
        let rows = self.store().event_read(&session.tenant, run, origin.seq, 1, READ_BYTES).await?;
        let Some(row) = rows.first().filter(|row| row.seq == origin.seq) else { return Ok(None) };
        let (_, event) = log::decode(run, row)?;
        Ok(event.content.summary.map(|message| Found { message, origin }))
    }
}

/// What is seen of these turns, newest first, and of a summary of what was before them.
fn seen(mut turns: Vec<Turn>, summary: Option<Found>, room: Room) -> Earlier {
    let summary_tokens = room.summary();
    // A summary needs its part of the room; and once one is made, the newest turns leave room for some more to come.
    let beside = if summary.is_some() { room.tokens - summary_tokens } else { room.tokens };
    let recent = match newest(&turns, beside) {
        all if all == turns.len() => all,
        fitting if summary_tokens == 0 => fitting,
        _ => newest(&turns, room.tokens / 2),
    };
    let through = turns.first().map(|turn| turn.run.clone());
    let through = through.filter(|_| recent > 0 || summary_tokens > 0);
    let through = through.or(summary.as_ref().map(|found| found.origin.through.clone())).unwrap_or_default();
    let older = turns.split_off(recent);
    let (older, unseen) = if summary_tokens == 0 { (Vec::new(), older.len()) } else { clipped(older, room) };
    let runs = older.iter().rev().chain(turns.iter().rev()).map(|turn| turn.run.clone()).collect();
    let messages = |turns: Vec<Turn>| turns.into_iter().rev().flat_map(|turn| turn.messages).collect::<Vec<_>>();
    let (message, origin) = summary.map(|found| (found.message, found.origin)).unzip();
    let history = History {
        messages: messages(turns),
        summary: message,
        summary_origin: origin,
        older: messages(older),
        runs,
        summary_tokens: i64::try_from(summary_tokens).unwrap_or(0),
        unseen_turns: i64::try_from(unseen).unwrap_or(i64::MAX),
    };
    let any = !history.messages.is_empty() || !history.older.is_empty() || history.summary.is_some();
    Earlier { through, history: any.then_some(history) }
}

/// How many of the newest turns fit, none left out in between.
fn newest(turns: &[Turn], room: usize) -> usize {
    let mut left = room;
    let fits = |turn: &&Turn| left.checked_sub(turn.tokens()).map(|rest| left = rest).is_some();
    turns.iter().take_while(fits).count()
}

/// Turns, newest first, as who sums them up reads them, and how many are too many.
fn clipped(mut turns: Vec<Turn>, room: Room) -> (Vec<Turn>, usize) {
    let most = (room.tokens / 2).max(LEAST_TEXT);
    let all = turns.len();
    for turn in &mut turns {
        let run = turn.run.clone();
        for part in turn.messages.iter_mut().flat_map(|message| &mut message.parts) {
            if let Some(Content::Text(text)) = &mut part.content
                && text.len() > most
            {
                *text = without_middle(text, most, &run);
            }
        }
    }
    let fitting = newest(&turns, room.older);
    turns.truncate(fitting);
    (turns, all - fitting)
}

/// The beginning and the end of a text.
fn without_middle(text: &str, most: usize, run: &str) -> String {
    let (first, last) = (text.floor_char_boundary(most / 2), text.ceil_char_boundary(text.len() - most / 2));
    format!("{}\n[{} bytes of {run} are left out here]\n{}", &text[..first], last - first, &text[last..])
}

/// The id in a run's name.
fn run_id(name: &str) -> Option<Uuid> {
    name.rsplit('/').next()?.parse().ok()
}

/// What was asked in a root run, and what it answered; `None` where either has no text, as after an erasure.
fn turn(run: &Run) -> Option<[Message; 2]> {
    if !run.parent.is_empty() {
        return None;
    }
    let asked = texts(&run.task.as_ref()?.input, Origin::Caller);
    let answered = texts(&run.answer.as_ref()?.parts, Origin::Model);
    let message = |role: Role, parts: Vec<Part>| (!parts.is_empty()).then(|| Message { role: role.into(), parts });
    Some([message(Role::User, asked)?, message(Role::Assistant, answered)?])
}

/// The parts of text. What tainted them taints whoever reads them now.
fn texts(parts: &[Part], origin: Origin) -> Vec<Part> {
    let text = |part: &Part| match &part.content {
        Some(Content::Text(text) | Content::Refusal(text)) if !text.trim().is_empty() => Some(Part {
            content: Some(Content::Text(text.clone())),
            origin: origin.into(),
            tainted: part.tainted && origin != Origin::Caller,
        }),
        _ => None,
    };
    parts.iter().filter_map(text).collect()
}

/// An upper bound of what a message costs: no tokenizer makes more tokens than bytes.
fn tokens(message: &Message) -> usize {
    FRAME + message.parts.iter().map(prost::Message::encoded_len).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use mar_proto::session::{Answer, Task};

    use super::*;

    fn text(words: &str) -> Part {
        Part { content: Some(Content::Text(words.into())), ..Part::default() }
    }

    fn run(asked: Vec<Part>, answered: Vec<Part>) -> Run {
        Run {
            task: Some(Task { input: asked, ..Task::default() }),
            answer: Some(Answer { parts: answered, ..Answer::default() }),
            ..Run::default()
        }
    }

    #[test]
    fn a_turn_is_what_was_said() {
        let answer = Part { tainted: true, ..text("Dusk.") };
        let [asked, answered] = turn(&run(vec![text("When?"), Part::default()], vec![answer])).unwrap();
        assert_eq!((asked.role(), asked.parts.len(), asked.parts[0].origin()), (Role::User, 1, Origin::Caller));
        assert_eq!((answered.role(), answered.parts[0].origin()), (Role::Assistant, Origin::Model));
        assert!(answered.parts[0].tainted && !asked.parts[0].tainted);
    }

    #[test]
    fn without_words_there_is_no_turn() {
        assert_eq!(turn(&run(vec![], vec![text("Dusk.")])), None, "the task's payload is gone");
        assert_eq!(turn(&run(vec![text("When?")], vec![])), None);
        assert_eq!(turn(&Run { answer: None, ..run(vec![text("When?")], vec![]) }), None);
        let child = Run { parent: "sessions/s/runs/p".into(), ..run(vec![text("When?")], vec![text("Dusk.")]) };
        assert_eq!(turn(&child), None);
    }
}
