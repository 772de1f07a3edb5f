//! Puts an answer together from its pieces, however they are cut.

use std::collections::BTreeMap;
use std::sync::Arc;

use mar_proto::types::{Origin, Part, Reasoning, ToolCall, part};
use serde_json::Value;

use super::answer_scan::AnswerScan;
use super::constrained::Choice;
use super::request::Codec;
use super::wire::{CallFragment, Completion, Fragment, Usage};
use crate::price::Tokens;
use crate::prompt::Prompt;
use crate::provider::{Answer, Delta, DeltaKind, Event, Failure, Finish};

/// No turn has more: a million times the largest window. What says so is no usage.
const MOST_TOKENS: i64 = 1_000_000_000_000;

/// More calls in one answer are no answer.
const MAX_CALLS: usize = 128;
/// Name of a call that a model gave none.
const NAMELESS: &str = "nameless";

/// An answer in the making.
#[derive(Debug)]
pub struct Builder {
    prompt: Arc<Prompt>,
    codec: Codec,
    scan: Option<AnswerScan>,
    warnings: Vec<String>,
    drafts: Vec<Draft>,
    /// Drafts of calls by the provider's index.
    calls: BTreeMap<u64, usize>,
    began: bool,
    finish: Option<String>,
    usage: Option<Usage>,
}

#[derive(Debug)]
struct Draft {
    kind: Kind,
    text: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Reasoning,
    Refusal,
    Call { id: String, name: String },
}

impl Builder {
    /// An empty answer; `warnings` are those of the request's translation.
    pub fn new(prompt: Arc<Prompt>, codec: Codec, warnings: Vec<String>) -> Self {
        let scan = match &codec {
            Codec::Constrained(space) if !space.structured() => Some(AnswerScan::new(space.answer())),
            _ => None,
        };
        Self {
            prompt,
            codec,
            scan,
            warnings,
            drafts: Vec::new(),
            calls: BTreeMap::new(),
            began: false,
            finish: None,
            usage: None,
        }
    }

    /// Whether the provider has said why the model stopped.
    pub fn is_finished(&self) -> bool {
        self.finish.is_some()
    }

    /// Takes a chunk, or a whole answer.
    ///
    /// # Errors
    /// The provider reports an error, or breaks its own format.
    pub fn feed(&mut self, completion: Completion) -> Result<Vec<Event>, Failure> {
        if completion.error.is_some_and(|error| !error.is_null()) {
            return Err(Failure::broken("reported an error within its answer"));
        }
        if let Some(usage) = completion.usage {
            self.usage = Some(usage);
        }
        let mut events = Vec::new();
        for choice in completion.choices.unwrap_or_default() {
            if choice.index.unwrap_or(0) != 0 {
                self.warn("further choices were ignored");
                continue;
            }
            if let Some(fragment) = choice.delta.or(choice.message) {
                self.fragment(fragment, &mut events)?;
            }
            if let Some(reason) = choice.finish_reason {
                self.finish = Some(reason);
            }
        }
        Ok(events)
    }

    /// The finished answer.
    ///
    /// # Errors
    /// The provider never said why the model stopped: the answer broke off.
    pub fn finish(mut self) -> Result<Answer, Failure> {
        let Some(reason) = self.finish.take() else {
            return Err(Failure::broken("ended its answer without a finish reason"));
        };
        let drafts = std::mem::take(&mut self.drafts);
        let mut parts: Vec<Part> = drafts.into_iter().map(|draft| self.part(draft)).collect();
        let calls = parts.iter().any(|part| matches!(part.content, Some(part::Content::ToolCall(_))));
        let finish = self.finish_of(&reason, calls);
        if parts.is_empty() {
            parts.push(by_model(part::Content::Text(String::new())));
        }
        let tokens = self.tokens();
        Ok(Answer { parts, finish, tokens, warnings: self.warnings })
    }

    fn warn(&mut self, warning: &str) {
        if !self.warnings.iter().any(|known| known == warning) {
            self.warnings.push(warning.to_owned());
        }
    }

    fn fragment(&mut self, fragment: Fragment, events: &mut Vec<Event>) -> Result<(), Failure> {
        let reasoning = match (fragment.reasoning_content, fragment.reasoning) {
            (Some(text), _) | (None, Some(Value::String(text))) => text,
            _ => String::new(),
        };
        self.text(Kind::Reasoning, &reasoning, events);
        let content = self.content(fragment.content);
        self.text(Kind::Text, &content, events);
        self.text(Kind::Refusal, &fragment.refusal.unwrap_or_default(), events);
        for call in fragment.tool_calls.unwrap_or_default() {
            self.call(call, events)?;
        }
        if fragment.function_call.is_some_and(|call| !call.is_null()) {
            self.warn("a call in the outdated form function_call was ignored");
        }
        if fragment.audio.is_some_and(|audio| !audio.is_null()) {
            self.warn("audio was ignored");
        }
        if fragment.annotations.is_some_and(|notes| !notes.is_empty()) {
            self.warn("annotations were ignored");
        }
        Ok(())
    }

    fn content(&mut self, content: Option<Value>) -> String {
        match content {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text,
            Some(Value::Array(pieces)) => {
                let texts = pieces.iter().filter_map(|piece| piece.get("text")?.as_str());
                texts.collect()
            }
            Some(_) => {
                self.warn("content that is neither text nor a list was ignored");
                String::new()
            }
        }
    }

    fn begin(&mut self, events: &mut Vec<Event>) {
        if !self.began {
            self.began = true;
            events.push(Event::Began);
        }
    }

    fn text(&mut self, kind: Kind, piece: &str, events: &mut Vec<Event>) {
        if piece.is_empty() {
            return;
        }
        self.begin(events);
        let found = self.drafts.iter().position(|draft| draft.kind == kind);
        let at = found.unwrap_or_else(|| {
            self.drafts.push(Draft { kind, text: String::new() });
            self.drafts.len() - 1
        });
        let Some(draft) = self.drafts.get_mut(at) else {
            return;
        };
        let offset = draft.text.len();
        draft.text.push_str(piece);
        let delta = |kind, offset, text| Event::Delta(Delta { part: at, offset, kind, text });
        match (&draft.kind, &self.codec) {
            (Kind::Text, Codec::Constrained(_)) => {
                if let Some(scan) = &mut self.scan {
                    let before = scan.said();
                    let said = scan.more(&draft.text);
                    if !said.is_empty() {
                        events.push(delta(DeltaKind::Text, before, said));
                    }
                }
            }
            (Kind::Reasoning, _) => events.push(delta(DeltaKind::Reasoning, offset, piece.to_owned())),
            _ => events.push(delta(DeltaKind::Text, offset, piece.to_owned())),
        }
    }

    fn call(&mut self, fragment: CallFragment, events: &mut Vec<Event>) -> Result<(), Failure> {
        self.begin(events);
        let at = self.call_draft(&fragment)?;
        let Some(Draft { kind: Kind::Call { id, name }, text }) = self.drafts.get_mut(at) else {
            return Err(Failure::broken("mixed up the pieces of its tool calls"));
        };
        if let Some(new) = fragment.id.filter(|_| id.is_empty()) {
            *id = new;
        }
        let Some(function) = fragment.function else {
            return Ok(());
        };
        // Some servers send the name in pieces, others repeat it.
        if let Some(new) = function.name.filter(|new| new != name) {
            name.push_str(&new);
        }
        let piece = match function.arguments {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
        };
        if !piece.is_empty() {
            let offset = text.len();
            text.push_str(&piece);
            events.push(Event::Delta(Delta { part: at, offset, kind: DeltaKind::ToolArguments, text: piece }));
        }
        Ok(())
    }

    /// The draft that a piece belongs to: by its index; without one, an id opens a new call and no id goes on with the
    /// last.
    fn call_draft(&mut self, fragment: &CallFragment) -> Result<usize, Failure> {
        let next = self.calls.last_key_value().map_or(0, |(last, _)| last.saturating_add(1));
        let by_id = |(_, at): &(&u64, &usize)| {
            let draft = self.drafts.get(**at);
            let id = fragment.id.as_deref().filter(|id| !id.is_empty());
            matches!((draft, id), (Some(Draft { kind: Kind::Call { id, .. }, .. }), Some(new)) if id == new)
        };
        let index = match (fragment.index, fragment.id.as_deref()) {
            (Some(index), _) => index,
            (None, Some(id)) if !id.is_empty() => self.calls.iter().find(by_id).map_or(next, |(index, _)| *index),
            (None, _) => next.saturating_sub(1),
        };
        if let Some(at) = self.calls.get(&index) {
            return Ok(*at);
        }
        if self.calls.len() >= MAX_CALLS {
            return Err(Failure::broken(format!("asked for more than {MAX_CALLS} tool calls at once")));
        }
        self.drafts.push(Draft { kind: Kind::Call { id: String::new(), name: String::new() }, text: String::new() });
        self.calls.insert(index, self.drafts.len() - 1);
        Ok(self.drafts.len() - 1)
    }

    fn part(&mut self, draft: Draft) -> Part {
        let Draft { kind, text } = draft;
        by_model(match kind {
            Kind::Text => return self.text_part(text),
            Kind::Refusal => part::Content::Refusal(text),
            Kind::Reasoning => part::Content::Reasoning(Reasoning { text, ..Reasoning::default() }),
            Kind::Call { id, name } => {
                let arguments = if text.is_empty() { "{}".to_owned() } else { text };
                part::Content::ToolCall(self.tool_call(id, name, arguments))
            }
        })
    }

    fn text_part(&mut self, text: String) -> Part {
        let choice = match &self.codec {
            Codec::Plain => return by_model(part::Content::Text(text)),
            Codec::Constrained(space) => space.decode(&text),
        };
        by_model(match choice {
            Some(Choice::Answer(text)) => part::Content::Text(text),
            Some(Choice::Call { alias, arguments }) => {
                part::Content::ToolCall(self.tool_call(String::new(), alias, arguments))
            }
            None => {
                self.warn(
                    "the answer does not fit the schema that it was constrained to; it is passed on as it stands",
                );
                part::Content::Text(text)
            }
        })
    }

    fn tool_call(&self, provider_call_id: String, alias: String, arguments_json: String) -> ToolCall {
        let tool = self.prompt.tool_by_alias(&alias).map(|tool| tool.name.clone());
        // No provider takes a call back that has no name.
        let tool = tool.unwrap_or(if alias.is_empty() { NAMELESS.to_owned() } else { alias });
        ToolCall { call_id: String::new(), provider_call_id, tool, arguments_json }
    }

    fn finish_of(&mut self, reason: &str, calls: bool) -> Finish {
        match reason {
            "length" => Finish::Length,
            "content_filter" => Finish::ContentFilter,
            "stop" | "tool_calls" | "function_call" | "eos" if calls => Finish::ToolCalls,
            "stop" | "tool_calls" | "function_call" | "eos" => Finish::Stop,
            _ => {
                self.warn("an unknown finish reason was read as the end of the answer");
                if calls { Finish::ToolCalls } else { Finish::Stop }
            }
        }
    }

    /// The reported usage; one that makes no sense counts as none.
    fn tokens(&mut self) -> Option<Tokens> {
        let usage = self.usage?;
        let (input, output) = (usage.prompt_tokens?, usage.completion_tokens?);
        let cached = usage.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0);
        let reasoning = usage.completion_tokens_details.and_then(|details| details.reasoning_tokens).unwrap_or(0);
        if [input, output, cached, reasoning].iter().any(|tokens| !(0..=MOST_TOKENS).contains(tokens)) {
            self.warn("a usage that cannot be was ignored");
            return None;
        }
        let (cached_input, reasoning) = (cached.min(input), reasoning.min(output));
        Some(Tokens { input: input - cached_input, cached_input, output: output - reasoning, reasoning })
    }
}

fn by_model(content: part::Content) -> Part {
    Part { content: Some(content), origin: Origin::Model.into(), tainted: false }
}
