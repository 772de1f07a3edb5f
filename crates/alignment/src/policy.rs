use std::collections::HashMap;
use std::fmt;

use cedar_policy::{PolicyId, PolicySet};
use serde::{Deserialize, Serialize};

use self::rule::Rule;
use crate::decision::{PolicyRef, RuleRef};
use crate::engine::Engine;
use crate::layer::{Layer, PolicyText};
use crate::request::arguments::Reads;
use crate::room;

pub(crate) mod approval;
mod check;
pub(crate) mod rule;
mod source;
mod undecided;

/// The longest policy text, in bytes.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;

/// The most rules that one policy may hold.
pub const MAX_RULES: usize = 500;

/// The most violations that are reported of one policy; the first ones by position.
pub const MAX_VIOLATIONS: usize = 100;

/// How deep brackets may nest in one rule.
pub const MAX_NESTING: usize = 32;

/// How many operators (`&&`, `||`, `!`, `.`, arithmetic, `if`, `when`, `unless`) one rule may hold. Each may make its
/// expression a level deeper; long alternatives are written as sets.
pub const MAX_OPERATORS: usize = 256;

/// One thing that is wrong with a policy, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Violation {
    /// The policy's name.
    pub policy: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, line, column, message } = self;
        write!(formatter, "{policy}:{line}:{column}: {message}")
    }
}

/// A policy that parsed, fits the schema and is ready to evaluate. Cheap to evaluate, not to make: keep it.
#[derive(Debug)]
pub struct Policy {
    text: PolicyText,
    hash: String,
    rules: HashMap<PolicyId, Rule>,
    pub(crate) engine: Engine,
    pub(crate) reads: Reads,
    /// An upper bound of the depth of its rules.
    pub(crate) depth: usize,
}

impl Policy {
    /// Parses and validates a policy.
    ///
    /// # Errors
    /// Everything that is wrong with it at once (up to [`MAX_VIOLATIONS`]), in the order of the text: name and version, size, syntax, templates,
    /// annotations, names and types that the schema does not have, rules that can never apply, rules about a point that
    /// no service decides (see [`Point::is_decided`](crate::Point::is_decided)).
    pub fn parse(text: PolicyText) -> Result<Self, Vec<Violation>> {
        let depth = check::measure(&text)?;
        room::with_room_for(depth, || {
            let (set, rules) = check::check(&text)?;
            Self::compile(text, &set, rules, depth).map_err(|violation| vec![violation])
        })
    }

    /// Takes a set as it is. Only [`check::check`] makes sets that are safe to take.
    pub(crate) fn compile(
        text: PolicyText,
        set: &PolicySet,
        rules: HashMap<PolicyId, Rule>,
        depth: usize,
    ) -> Result<Self, Violation> {
        let engine = Engine::compile(set, &rules).map_err(|message| Violation {
            policy: text.name.clone(),
            line: 1,
            column: 1,
            message,
        })?;
        let reads = set.policies().map(rule::reads).fold(Reads::default(), Reads::union);
        Ok(Self { hash: text.hash(), text, rules, engine, reads, depth })
    }

    /// The text that it was parsed from.
    pub fn text(&self) -> &PolicyText {
        &self.text
    }

    /// Its hash, `sha256:<hex>`; see [`PolicyText::hash`].
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Its layer.
    pub fn layer(&self) -> Layer {
        self.text.layer
    }

    /// How decision records name it.
    pub fn reference(&self) -> PolicyRef {
        PolicyRef {
            layer: self.text.layer,
            policy: self.text.name.clone(),
            version: self.text.version,
            hash: self.hash.clone(),
        }
    }

    pub(crate) fn rule(&self, id: &PolicyId) -> Option<&Rule> {
        self.rules.get(id)
    }

    pub(crate) fn rule_reference(&self, rule: &Rule) -> RuleRef {
        RuleRef {
            layer: self.text.layer,
            policy: self.text.name.clone(),
            version: self.text.version,
            rule: rule.name.clone(),
            effect: rule.effect,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Agent, Arguments, Question, Request, Stack, Tool, Verdict};

    /// As if the schema had let it pass.
    fn unchecked(source: &str) -> Policy {
        let text =
            PolicyText { layer: Layer::Platform, name: "unchecked".to_owned(), version: 1, text: source.to_owned() };
        let set: PolicySet = source.parse().unwrap();
        let rules = set.policies().map(|policy| (policy.id().clone(), Rule::read(policy).unwrap()));
        Policy::compile(text, &set, rules.collect(), 0).unwrap()
    }

    #[test]
    fn a_forbid_on_what_is_not_there_denies_even_if_it_got_past_the_schema() {
        let request = Request::new(Question::CallTool {
            agent: Agent::default(),
            tool: Tool::default(),
            sealed: true,
            arguments: Arguments::new(serde_json::json!({}), "d", 2),
        });
        for condition in [
            "principal.end_user == \"ada\"",
            "context.nothing",
            "Tool::\"elsewhere.tool\".read_only",
            "context.taint < 3",
        ] {
            let source = format!(
                "permit (principal, action, resource); forbid (principal, action, resource) when {{ {condition} }};"
            );
            let decision = Stack::new([Arc::new(unchecked(&source))]).decide(&request);
            assert_eq!(decision.verdict, Verdict::Deny, "{condition}");
            assert_eq!(decision.errors.len(), 1, "{condition}");
            assert_eq!(decision.determining, [], "{condition}");
        }
    }
}
