//! Keeping a prompt within the window of the agent's models.
//!
//! When the next prompt no longer fits, large results of earlier steps are elided: a line stands in their place that refers
//! to them. Where that does not suffice the earlier steps are summarised, which is a step of its own in the role
//! `summarise`: its output takes their place in all later prompts. The task and the last exchange always stay as they are.
//!
//! Whether a prompt fits is reckoned from what the last one was counted at; the router, which counts, has the last word.
//!
//! **Invariant:** every summary takes the place of at least one whole exchange that no summary stood for before, so there
//! is no loop: a prompt that is refused with nothing left to take out of it halts the run.

use mar_proto::types::{Message, Origin, Part, Role, ToolResult, part::Content};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::answer::Summariser;
use super::history::LeftOut;
use super::state::{MESSAGE_OVERHEAD, PROMPT_OVERHEAD, State, message_bytes};
use crate::counters::Amounts;

/// Name of the role in descriptors.
pub const SUMMARISE: &str = "summarise";
/// Reason of a generation whose prompt the router found too long.
pub(super) const CONTEXT_EXCEEDED: &str = "CONTEXT_EXCEEDED";
/// Reason of a generation that yielded a summary without words.
pub(super) const SUMMARY_EMPTY: &str = "SUMMARY_EMPTY";
/// Reason of a generation that yielded a summary no shorter than what it would stand for.
pub(super) const SUMMARY_TOO_LONG: &str = "SUMMARY_TOO_LONG";
/// A smaller result, in bytes, is not worth a reference.
const LARGE: i64 = 1_024;
/// Passages that a reference names at most.
const NAMED_PASSAGES: usize = 16;
/// Bytes of a summary's request beyond its texts.
const REQUEST_OVERHEAD: i64 = 256;
/// What stands before a summary.
pub(super) const INTRODUCTION: &str = "Notes on the earlier steps of this task, which are left out here:\n\n";

/// What a generation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Aim {
    /// The agent's next turn.
    #[default]
    Turn,
    /// A summary of earlier steps.
    Summary {
        /// How many messages behind the task it will take the place of.
        replaces: usize,
    },
    /// A summary of the session's earlier runs.
    History {
        /// How many of their messages it will take the place of, an earlier summary included.
        replaces: usize,
    },
}

/// What a prompt was counted at, for reckoning with the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Density {
    /// Tokens; at most `bytes`.
    pub tokens: i64,
    /// Bytes of the prompt; at least 1.
    pub bytes: i64,
}

impl Density {
    /// Of a prompt with this bound that was counted at so many tokens; `None` where nothing was counted.
    pub(super) fn new(tokens: i64, bound: i64) -> Option<Self> {
        let bytes = (bound - PROMPT_OVERHEAD).max(1);
        (tokens > 0).then_some(Self { tokens: tokens.min(bytes), bytes })
    }

    fn tokens_of(self, bytes: i64) -> i64 {
        let scaled =
            (i128::from(bytes) * i128::from(self.tokens) + i128::from(self.bytes) - 1) / i128::from(self.bytes);
        i64::try_from(scaled).unwrap_or(i64::MAX)
    }
}

/// The next generation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Upcoming {
    /// What it is for.
    pub aim: Aim,
    /// Calls whose results are left out of its prompt from now on.
    pub elided: Vec<String>,
    /// Messages of earlier runs that are left out of its prompt from now on.
    pub left_out: LeftOut,
    /// An upper bound of its prompt, in tokens.
    pub input_tokens: i64,
    /// The most that it may write, in tokens.
    pub output_tokens: i64,
}

impl Upcoming {
    /// Whether it makes the prompt shorter.
    pub fn shortens(&self) -> bool {
        self.aim != Aim::Turn || !self.elided.is_empty() || self.left_out.messages > 0
    }
}

impl State {
    /// What the next generation is.
    pub(super) fn upcoming(&self) -> Upcoming {
        if let Some(due) = self.due_history(false) {
            return due;
        }
        let mut sizes = self.sizes();
        let turn = |elided, left_out, sizes: &[i64]| Upcoming {
            aim: Aim::Turn,
            elided,
            left_out,
            input_tokens: self.bound_of(sizes),
            output_tokens: self.max_output_tokens,
        };
        let too_long = |sizes: &[i64]| self.estimate(sizes) > self.room();
        if !too_long(&sizes) {
            let left_out = self.left_out(&mut sizes, |_| false);
            return turn(Vec::new(), left_out, &sizes);
        }
        let whole = sizes.clone();
        let elided = self.elision(&mut sizes);
        if !too_long(&sizes) {
            let left_out = self.left_out(&mut sizes, |_| false);
            return turn(elided, left_out, &sizes);
        }
        if let Some((replaces, input_tokens, summariser)) = self.due_summary(&whole) {
            let output_tokens = summariser.max_output_tokens;
            return Upcoming { aim: Aim::Summary { replaces }, input_tokens, output_tokens, ..Upcoming::default() };
        }
        // Who counts may find that it fits: nothing that was said is taken away before a prompt was counted.
        let counted = self.density.is_some() || self.history.refused;
        if let Some(due) = self.due_history(true).filter(|_| counted) {
            return due;
        }
        let left_out = self.left_out(&mut sizes, |sizes| counted && too_long(sizes));
        turn(elided, left_out, &sizes)
    }

    /// What the next generation may use.
    pub fn generation_reservation(&self, steps: i64) -> Amounts {
        self.reservation_of(&self.upcoming(), steps)
    }

    /// What a generation may use.
    pub(super) fn reservation_of(&self, upcoming: &Upcoming, steps: i64) -> Amounts {
        let Upcoming { input_tokens, output_tokens, .. } = *upcoming;
        let price = self.agent.as_ref().and_then(|agent| agent.price).unwrap_or_default();
        let cost = i128::from(input_tokens) * i128::from(price.input_per_million)
            + i128::from(output_tokens) * i128::from(price.output_per_million);
        let cost_nano_usd = i64::try_from((cost + 999_999) / 1_000_000).unwrap_or(i64::MAX);
        Amounts { steps, tool_calls: 0, input_tokens, output_tokens, cost_nano_usd }
    }

    /// The run after the router has refused the prompt of the open generation as too long: the window is smaller than that.
    pub(super) fn narrowed(&self) -> Self {
        let mut narrowed = self.clone();
        narrowed.narrow();
        narrowed.generation = None;
        narrowed
    }

    pub(super) fn narrow(&mut self) {
        let aim = self.generation.as_ref().map(|open| open.aim).unwrap_or_default();
        if let Aim::History { .. } = aim {
            // That says nothing of the window of those who answer.
            self.history.given_up = true;
            return;
        }
        self.history.refused = true;
        let (input, output) = match (aim, self.summariser.as_deref()) {
            (Aim::Summary { replaces }, Some(summariser)) => {
                let bound = self.summary_bound(summariser, replaces);
                (self.tokens_of(bound), summariser.max_output_tokens)
            }
            _ => (self.estimate(&self.sizes()), self.max_output_tokens),
        };
        self.window = self.window.min(input.saturating_add(output) - 1);
    }

    /// What a prompt may have beside the turn that it leads to.
    fn room(&self) -> i64 {
        self.window.saturating_sub(self.max_output_tokens)
    }

    /// The size of each message of the conversation, as reservations reckon it.
    fn sizes(&self) -> Vec<i64> {
        self.transcript.iter().map(|message| message_bytes(message) + MESSAGE_OVERHEAD).collect()
    }

    /// An upper bound of the tokens of a prompt with messages of these sizes.
    fn bound_of(&self, sizes: &[i64]) -> i64 {
        sum(sizes).saturating_add(self.prompt_frame()).saturating_add(PROMPT_OVERHEAD)
    }

    /// The tokens of a prompt with messages of these sizes, as far as the last one tells; what has come since counts in full.
    fn estimate(&self, sizes: &[i64]) -> i64 {
        let Some(density) = self.density else { return self.bound_of(sizes) };
        let (known, fresh) = sizes.split_at(self.measured.min(sizes.len()));
        density.tokens_of(sum(known).saturating_add(self.prompt_frame())).saturating_add(sum(fresh))
    }

    /// Bytes as tokens, as far as the last prompt tells.
    fn tokens_of(&self, bytes: i64) -> i64 {
        self.density.map_or(bytes, |density| density.tokens_of(bytes))
    }

    /// Where exchanges begin that no summary stands for: a turn, and what follows it until the next one.
    fn exchanges(&self) -> Vec<usize> {
        let first = (self.head + usize::from(self.summarised)).min(self.transcript.len());
        let behind = self.transcript.iter().enumerate().skip(first);
        behind.filter(|(at, message)| *at == first || message.role() == Role::Assistant).map(|(at, _)| at).collect()
    }

    /// Large results of earlier steps, oldest first, until the prompt takes three quarters of its room; their sizes become those
    /// of their references.
    fn elision(&self, sizes: &mut [i64]) -> Vec<String> {
        let goal = self.room() / 4 * 3;
        let last = self.exchanges().last().copied().unwrap_or(0);
        let mut elided = Vec::new();
        for at in self.head..last {
            for result in self.transcript[at].parts.iter().filter_map(large_result) {
                if self.estimate(sizes) <= goal {
                    return elided;
                }
                sizes[at] -= (result_bytes(result) - result_bytes(&reference(result))).max(0);
                elided.push(result.call_id.clone());
            }
        }
        elided
    }

    /// The summary that is due: how many messages it takes the place of, the bound of its prompt, and who writes it. The newest
    /// exchanges stay while they take no more than a quarter of the room, and the last one always.
    fn due_summary(&self, sizes: &[i64]) -> Option<(usize, i64, &Summariser)> {
        let summariser = self.summariser.as_deref()?;
        let starts = self.exchanges();
        let (last, older) = starts.split_last()?;
        let older = older.get(1..)?;
        let fits = |from: usize| self.tokens_of(sum(&sizes[from..])) <= self.room() / 4;
        let kept = older.iter().rev().take_while(|start| fits(**start)).count();
        let ends = older.iter().chain([last]).rev().skip(kept);
        let found = ends.map(|end| {
            let replaces = end - self.head;
            (replaces, self.summary_bound(summariser, replaces))
        });
        let room = self.window.saturating_sub(summariser.max_output_tokens);
        found
            .into_iter()
            .find(|(_, bound)| self.tokens_of(*bound) <= room)
            .map(|(replaces, bound)| (replaces, bound, summariser))
    }

    /// An upper bound of the tokens of a summary's prompt.
    fn summary_bound(&self, summariser: &Summariser, replaces: usize) -> i64 {
        request_bound(summariser, &self.material(replaces))
    }

    /// What is asked of who summarises; empty for a turn.
    pub fn summary_prompt(&self, aim: Aim) -> Vec<Message> {
        let (material, tainted) = match aim {
            Aim::Turn => return Vec::new(),
            Aim::Summary { replaces } => (self.material(replaces), self.tainted),
            Aim::History { replaces } => (self.history.material(replaces), self.history.taints(replaces)),
        };
        let prompt = self.summariser.as_ref().map(|summariser| summariser.prompt.clone()).unwrap_or_default();
        let said = |role: Role, text: String, tainted: bool| {
            let part = Part { content: Some(Content::Text(text)), origin: Origin::Platform.into(), tainted };
            Message { role: role.into(), parts: vec![part] }
        };
        vec![said(Role::System, prompt, false), said(Role::User, material, tainted)]
    }

    /// The task, and the messages behind it that are to be summarised, as text.
    fn material(&self, replaces: usize) -> String {
        let end = self.head.saturating_add(replaces).min(self.transcript.len());
        let mut text = String::from("# The task\n");
        if let Some(message) = self.head.checked_sub(1).and_then(|task| self.transcript.get(task)) {
            write_message(&mut text, message);
        }
        text.push_str("\n# What was done so far\n");
        for message in &self.transcript[self.head.min(end)..end] {
            write_message(&mut text, message);
        }
        text
    }

    /// Size of the messages that a summary takes the place of.
    pub(super) fn replaced_bytes(&self, replaces: usize) -> i64 {
        let sizes = self.sizes();
        let end = self.head.saturating_add(replaces).min(sizes.len());
        sum(&sizes[self.head.min(end)..end])
    }
}

/// An upper bound of the tokens of a request to sum this up.
pub(super) fn request_bound(summariser: &Summariser, material: &str) -> i64 {
    let bytes = summariser.prompt.len() + material.len();
    i64::try_from(bytes).unwrap_or(i64::MAX / 4) + 2 * MESSAGE_OVERHEAD + REQUEST_OVERHEAD
}

pub(super) fn sum(sizes: &[i64]) -> i64 {
    sizes.iter().fold(0, |sum, size| sum.saturating_add(*size))
}

fn result_bytes(result: &ToolResult) -> i64 {
    i64::try_from(result.content.iter().map(prost::Message::encoded_len).sum::<usize>()).unwrap_or(i64::MAX / 4)
}

fn large_result(part: &Part) -> Option<&ToolResult> {
    match &part.content {
        Some(Content::ToolResult(result)) if result_bytes(result) > LARGE => Some(result),
        _ => None,
    }
}

/// A result without its content, and a line that refers to it. The passages that it brought can still be cited.
pub(super) fn reference(result: &ToolResult) -> ToolResult {
    let mut hash = Sha256::new();
    for part in &result.content {
        hash.update(part.encode_length_delimited_to_vec());
    }
    let digest = hex::encode(&hash.finalize()[..8]);
    let (tool, size) = (result.tool.trim_start_matches("tools/"), result_bytes(result));
    let mut text = format!(
        "[left out to save room: the result of call {}, {tool}, {size} bytes, sha256 {digest}; call the tool again if you \
         need it",
        result.call_id
    );
    let named: Vec<&str> =
        result.passages.iter().take(NAMED_PASSAGES).map(|passage| passage.passage_id.as_str()).collect();
    if !named.is_empty() {
        text.push_str("; it brought the passages ");
        text.push_str(&named.join(", "));
    }
    text.push(']');
    let part = Part { content: Some(Content::Text(text)), origin: Origin::Platform.into(), ..Part::default() };
    ToolResult { content: vec![part], ..result.clone() }
}

/// A summary as later prompts have it, behind what introduces it.
pub(super) fn summary_message(introduction: &str, text: &str, tainted: bool) -> Message {
    let part = |text: &str, origin: Origin, tainted: bool| Part {
        content: Some(Content::Text(text.to_owned())),
        origin: origin.into(),
        tainted,
    };
    let parts = vec![part(introduction, Origin::Platform, false), part(text, Origin::Model, tainted)];
    Message { role: Role::User.into(), parts }
}

/// What a model says in a turn, where that is words.
pub(super) fn words(message: &Message) -> String {
    let texts = message.parts.iter().filter_map(|part| match &part.content {
        Some(Content::Text(text)) => Some(text.as_str()),
        _ => None,
    });
    texts.collect::<String>().trim().to_owned()
}

/// A message as who summarises reads it.
pub(super) fn write_message(out: &mut String, message: &Message) {
    let speaker = match message.role() {
        Role::Assistant => "Agent: ",
        _ => "",
    };
    for part in &message.parts {
        match &part.content {
            Some(Content::Text(text) | Content::Refusal(text)) => line(out, speaker, text),
            Some(Content::ToolCall(call)) => {
                let call = format!("{} {}", call.tool.trim_start_matches("tools/"), call.arguments_json);
                line(out, "Calls ", &call);
            }
            Some(Content::ToolResult(result)) => {
                let kind = if result.is_error { "Error of" } else { "Result of" };
                line(out, "", &format!("{kind} {}:", result.tool.trim_start_matches("tools/")));
                for part in &result.content {
                    match &part.content {
                        Some(Content::Text(text)) => line(out, "", text),
                        Some(Content::Media(media)) => line(out, "", &media_line(media)),
                        _ => {}
                    }
                }
            }
            Some(Content::Media(media)) => line(out, speaker, &media_line(media)),
            Some(Content::Reasoning(_) | Content::Citation(_) | Content::ProviderOpaque(_)) | None => {}
        }
    }
}

fn media_line(media: &mar_proto::types::Media) -> String {
    format!("[{}, {} bytes]", media.media_type, media.size_bytes)
}

fn line(out: &mut String, before: &str, text: &str) {
    out.push_str(before);
    out.push_str(text);
    out.push('\n');
}
