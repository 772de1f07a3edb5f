//! From the ends of child runs to the result of the call that started them. Pure: the same ends give the same result.

use std::collections::BTreeMap;

use mar_proto::session::{Answer, DelegationMode, RunState, ToolOutcome};
use mar_proto::types::{Part, Passage, ToolResult, part::Content};

use super::delegation::{ChildEnd, Delegated};
use super::event::error_result;

/// Bytes of text that all children together bring back.
const MAX_BYTES: usize = 64 << 10;

/// What a call brings back.
pub(super) struct Gathered {
    pub outcome: ToolOutcome,
    pub reason: &'static str,
    pub result: ToolResult,
}

/// The result of a call whose children have all ended. Without any answer it is an error that tells each end.
pub(super) fn gather(delegated: &Delegated) -> Gathered {
    let ends: Vec<&ChildEnd> = delegated.children.iter().filter_map(|child| child.end.as_deref()).collect();
    let answered: Vec<(usize, &ChildEnd, &Answer)> = ends
        .iter()
        .enumerate()
        .filter_map(|(index, end)| end.answer.as_ref().map(|answer| (index, *end, answer)))
        .collect();
    let mut paper = Paper::new(ends.len());
    if answered.is_empty() {
        let told = ends.iter().enumerate().map(|(index, end)| heading(index, ends.len(), end));
        let result = error_result(&told.collect::<Vec<_>>().join("\n"));
        return Gathered { outcome: ToolOutcome::Error, reason: "CHILDREN_FAILED", result };
    }
    match delegated.mode {
        DelegationMode::BestOf => {
            let (index, end, answer, score) = best(&answered);
            let (count, rated) = (answered.len(), score.map_or("none".to_owned(), |score| score.to_string()));
            paper.note(format!("best of {count} answers, of sub-agent {}, which rates it {rated}", index + 1));
            paper.answer(end, answer);
        }
        DelegationMode::Vote => {
            let (index, end, answer, votes) = elected(&answered);
            paper.note(format!("{votes} of {} answers agree, first that of sub-agent {}", answered.len(), index + 1));
            paper.answer(end, answer);
        }
        DelegationMode::All | DelegationMode::Unspecified => {
            for (index, end) in ends.iter().enumerate() {
                paper.note(heading(index, ends.len(), end));
                if let Some(answer) = &end.answer {
                    paper.answer(end, answer);
                }
            }
        }
    }
    Gathered { outcome: ToolOutcome::Ok, reason: "", result: paper.result }
}

/// The answer with the highest score of its own; of equals the first. One without a score comes last.
fn best<'a>(answered: &[(usize, &'a ChildEnd, &'a Answer)]) -> (usize, &'a ChildEnd, &'a Answer, Option<i64>) {
    let mut best: Option<(usize, &ChildEnd, &Answer, Option<i64>)> = None;
    for (index, end, answer) in answered {
        let score = field(answer, "score").and_then(|score| score.as_i64());
        if best.is_none_or(|(.., before)| score > before) {
            best = Some((*index, end, answer, score));
        }
    }
    best.unwrap_or((answered[0].0, answered[0].1, answered[0].2, None))
}

/// The answer that most give; of equally many the one that was given first.
fn elected<'a>(answered: &[(usize, &'a ChildEnd, &'a Answer)]) -> (usize, &'a ChildEnd, &'a Answer, usize) {
    let mut votes: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (at, (.., answer)) in answered.iter().enumerate() {
        votes.entry(ballot(answer)).or_insert((0, at)).0 += 1;
    }
    let most = votes.values().max_by_key(|(count, first)| (*count, std::cmp::Reverse(*first))).copied();
    let (count, first) = most.unwrap_or((1, 0));
    (answered[first].0, answered[first].1, answered[first].2, count)
}

/// What makes two answers the same: the choice, or the words whatever their case, spaces and final period.
fn ballot(answer: &Answer) -> String {
    let chosen = field(answer, "choice").and_then(|choice| choice.as_str().map(str::to_owned));
    let said = chosen.unwrap_or_else(|| texts(answer).collect::<Vec<_>>().join(" "));
    let words: Vec<String> = said.split_whitespace().map(str::to_lowercase).collect();
    words.join(" ").trim_end_matches('.').to_owned()
}

fn field(answer: &Answer, name: &str) -> Option<serde_json::Value> {
    let mut value: serde_json::Value = serde_json::from_str(&answer.json).ok()?;
    value.get_mut(name).map(serde_json::Value::take)
}

fn texts(answer: &Answer) -> impl Iterator<Item = &str> {
    answer.parts.iter().filter_map(|part| match &part.content {
        Some(Content::Text(text)) => Some(text.as_str()),
        _ => None,
    })
}

/// `sub-agent 2 of 3: HALTED MAX_STEPS`
fn heading(index: usize, count: usize, end: &ChildEnd) -> String {
    let state = end.state.as_str_name().trim_start_matches("RUN_STATE_");
    let why = match (end.state, &end.failure) {
        (RunState::Halted, _) => end.halt_reason.as_str_name().trim_start_matches("HALT_REASON_").to_owned(),
        (_, Some(failure)) => format!("{}: {}", failure.reason, failure.message),
        _ => String::new(),
    };
    format!("sub-agent {} of {count}: {state} {why}", index + 1).trim_end().to_owned()
}

/// A result in the making, with room for each child's answer.
struct Paper {
    result: ToolResult,
    share: usize,
}

impl Paper {
    fn new(children: usize) -> Self {
        Self { result: ToolResult::default(), share: MAX_BYTES / children.max(1) }
    }

    fn note(&mut self, text: String) {
        self.result.content.push(Part { content: Some(Content::Text(text)), ..Part::default() });
    }

    /// An answer's text, and the passages that it rests on, so that this run can cite them too.
    fn answer(&mut self, end: &ChildEnd, answer: &Answer) {
        let mut room = self.share;
        for text in texts(answer) {
            let kept = cut(text, room);
            self.result.truncated |= kept.len() < text.len();
            room -= kept.len();
            let content = Some(Content::Text(kept.to_owned()));
            self.result.content.push(Part { content, tainted: end.tainted, ..Part::default() });
        }
        let cited = answer.citations.iter().filter_map(|citation| citation.passage.as_ref());
        let known = |passage: &Passage, all: &[Passage]| all.iter().any(|one| one.passage_id == passage.passage_id);
        for passage in cited {
            if !known(passage, &self.result.passages) {
                self.result.passages.push(passage.clone());
            }
        }
    }
}

/// The beginning of a text, cut between characters.
fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
