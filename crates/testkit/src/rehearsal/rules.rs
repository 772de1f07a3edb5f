//! Which rule answers a request, and how often it may.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::conversation::Conversation;
use super::script::Rule;

/// Counts the uses of rules that have a limit.
#[derive(Debug, Default)]
pub(super) struct Uses(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    total: HashMap<usize, u64>,
    by_conversation: HashMap<(usize, u64), u64>,
}

impl Uses {
    /// The first rule that matches and is not used up; takes one of its uses.
    pub(super) fn take<'a>(&self, rules: &'a [Rule], conversation: &Conversation) -> Option<&'a Rule> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut candidates = rules.iter().enumerate().filter(|(_, rule)| matches(rule, conversation));
        candidates.find_map(|(at, rule)| counts.take(at, rule, conversation).then_some(rule))
    }
}

impl Counts {
    fn take(&mut self, at: usize, rule: &Rule, conversation: &Conversation) -> bool {
        if rule.times.is_none() && rule.times_per_conversation.is_none() {
            return true;
        }
        let total = self.total.entry(at).or_default();
        let own = self.by_conversation.entry((at, conversation.key())).or_default();
        let left = |limit: Option<u64>, used: u64| limit.is_none_or(|limit| used < limit);
        if !left(rule.times, *total) || !left(rule.times_per_conversation, *own) {
            return false;
        }
        *total += 1;
        *own += 1;
        true
    }
}

fn matches(rule: &Rule, conversation: &Conversation) -> bool {
    let wanted = &rule.matches;
    let holds = [
        wanted.contains.as_ref().is_none_or(|part| conversation.last_user().contains(part)),
        wanted.tool_result_contains.as_ref().is_none_or(|part| conversation.last_tool_result().contains(part)),
        rule.regex.as_ref().is_none_or(|regex| regex.is_match(conversation.last_user())),
        wanted.last_role.is_none_or(|role| role.as_str() == conversation.last_role()),
        wanted.turn.is_none_or(|turn| turn == conversation.turn()),
        wanted.model.as_ref().is_none_or(|model| *model == conversation.model),
        wanted.has_schema.is_none_or(|wanted| wanted == conversation.schema.is_some()),
        wanted.has_tools.is_none_or(|wanted| wanted != conversation.tools.is_empty()),
        wanted.stream.is_none_or(|wanted| wanted == conversation.stream),
    ];
    holds.into_iter().all(|holds| holds)
}
