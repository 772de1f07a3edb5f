//! What a new run sees of its session's earlier runs. It is read once, at admission, and recorded with the run's first event:
//! a takeover, a replay and an audit see what the agent saw.

use mar_proto::session::{History, Run, RunState};
use mar_proto::types::{Message, Origin, Part, Role, part::Content};

use super::{Admit, Runs};
use crate::error::Error;
use crate::store::{Page, SessionRow};

/// Runs that are looked at, newest first.
const MAX_RUNS: i64 = 50;
/// Tokens of a message's frame.
const FRAME: usize = 16;

/// What a new run sees of the earlier ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Earlier {
    /// The last run of which it sees the turn; empty for none.
    pub through: String,
    /// The turns.
    pub history: Option<History>,
}

impl Runs {
    /// The newest turns of the session that fit: of root runs that have SUCCEEDED, none left out in between.
    pub(super) async fn earlier(&self, session: &SessionRow, admit: &Admit) -> Result<Earlier, Error> {
        let share = admit.limits.max_input_tokens.unwrap_or(0) / 4;
        let room = usize::try_from(self.limits().history_tokens.min(share)).unwrap_or(0);
        if room == 0 || admit.task.without_history {
            return Ok(Earlier::default());
        }
        let page = Page { state: Some(RunState::Succeeded as i16), limit: MAX_RUNS, ..Page::default() };
        let rows = self.store().run_list(&session.tenant, Some(session.id), page).await?;
        let (mut turns, mut through, mut room) = (Vec::new(), String::new(), room);
        for row in rows {
            let run = self.whole_run(&row).await?;
            let Some(turn) = turn(&run) else { continue };
            let Some(left) = room.checked_sub(turn.iter().map(tokens).sum()) else { break };
            room = left;
            if through.is_empty() {
                through = run.name;
            }
            turns.push(turn);
        }
        let messages: Vec<Message> = turns.into_iter().rev().flatten().collect();
        let history = (!messages.is_empty()).then_some(History { messages });
        Ok(Earlier { through, history })
    }
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
