use std::collections::{BTreeSet, HashMap};

use cedar_policy::{PolicyId, PolicySet, ValidationMode, ValidationWarning, Validator};
use miette::Diagnostic;

use super::rule::Rule;
use super::source::{Statement, position, statements};
use super::undecided;
use super::{MAX_NESTING, MAX_OPERATORS, MAX_RULES, MAX_TEXT_BYTES, MAX_VIOLATIONS, Violation};
use crate::layer::PolicyText;
use crate::schema::vocabulary;

/// Attributes of principal, resource and context, and no further: a literal entity has no attributes at decision time.
const MAX_DEREF_LEVEL: u32 = 1;

/// What must hold before the text is parsed: size, nesting and operators. Returns the depth of the deepest rule.
pub(super) fn measure(text: &PolicyText) -> Result<usize, Vec<Violation>> {
    let mut faults = Faults::new(text);
    if text.text.len() > MAX_TEXT_BYTES {
        faults.identity();
        faults.add(0, format!("the text is longer than {MAX_TEXT_BYTES} bytes"));
        return Err(faults.into_violations());
    }
    let statements = statements(&text.text);
    for statement in &statements {
        let start = statement.range.start + leading_space(text, statement);
        if statement.nesting > MAX_NESTING {
            faults.add(start, format!("the rule nests brackets more than {MAX_NESTING} deep"));
        }
        if statement.operators > MAX_OPERATORS {
            faults.add(start, format!("the rule holds more than {MAX_OPERATORS} operators"));
        }
    }
    if faults.found.is_empty() {
        Ok(statements.iter().map(Statement::depth).max().unwrap_or_default())
    } else {
        faults.identity();
        Err(faults.into_violations())
    }
}

fn leading_space(text: &PolicyText, statement: &Statement) -> usize {
    let piece = text.text.get(statement.range.clone()).unwrap_or_default();
    piece.len() - piece.trim_start().len()
}

/// The parsed set and its rules, or everything that is wrong. The text has been measured.
pub(super) fn check(text: &PolicyText) -> Result<(PolicySet, HashMap<PolicyId, Rule>), Vec<Violation>> {
    let mut faults = Faults::new(text);
    faults.identity();
    match text.text.parse::<PolicySet>() {
        Ok(set) => {
            let rules = faults.set(&set, 0);
            faults.whole(&set, &rules);
            if faults.found.is_empty() {
                return Ok((set, rules));
            }
        }
        Err(errors) => {
            faults.pieces();
            if faults.found.is_empty() {
                errors.iter().for_each(|error| faults.diagnostic(0, error));
            }
        }
    }
    Err(faults.into_violations())
}

struct Faults<'a> {
    text: &'a PolicyText,
    found: BTreeSet<(usize, String)>,
}

impl<'a> Faults<'a> {
    fn new(text: &'a PolicyText) -> Self {
        Self { text, found: BTreeSet::new() }
    }

    fn add(&mut self, offset: usize, message: impl Into<String>) {
        self.found.insert((offset, message.into()));
    }

    fn diagnostic(&mut self, start: usize, error: &dyn Diagnostic) {
        let label = error.labels().and_then(|mut labels| labels.next());
        let offset = label.map_or(0, |label| label.offset());
        let message = error.to_string();
        let message = without_generated_id(&message);
        match error.help() {
            Some(help) => self.add(start + offset, format!("{message} ({help})")),
            None => self.add(start + offset, message),
        }
    }

    fn identity(&mut self) {
        let name = self.text.name.as_bytes();
        let fits = (1..=63).contains(&name.len())
            && name[0].is_ascii_lowercase()
            && name.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-');
        if !fits {
            self.add(0, "the name does not match [a-z][a-z0-9-]{0,62}");
        }
        if self.text.version < 1 {
            self.add(0, "the version is not at least 1");
        }
    }

    /// Checks each statement alone, so that a fault in one hides none in the others.
    fn pieces(&mut self) {
        for statement in statements(&self.text.text) {
            if self.found.len() >= MAX_VIOLATIONS {
                return;
            }
            let start = statement.range.start;
            let piece = self.text.text.get(statement.range).unwrap_or_default();
            match piece.parse::<PolicySet>() {
                Ok(set) => {
                    self.set(&set, start);
                }
                Err(errors) => errors.iter().for_each(|error| self.diagnostic(start, error)),
            }
        }
    }

    /// Checks a set whose text begins at `start`.
    fn set(&mut self, set: &PolicySet, start: usize) -> HashMap<PolicyId, Rule> {
        for template in set.templates() {
            let offset = AsRef::as_ref(template).loc().map_or(0, |loc| loc.start());
            self.add(start + offset, "templates are not supported: write the entity instead of a slot");
        }
        let mut rules = HashMap::new();
        for policy in set.policies() {
            if let Some(point) = undecided::point(policy) {
                let (offset, name) = (offset_of(policy), point.as_str());
                self.add(
                    start + offset,
                    format!("the rule is about {name}, which no service decides yet: it would never be asked"),
                );
            }
            match Rule::read(policy) {
                Ok(rule) => {
                    rules.insert(policy.id().clone(), rule);
                }
                Err(messages) => {
                    let offset = offset_of(policy);
                    messages.into_iter().for_each(|message| self.add(start + offset, message));
                }
            }
        }
        self.schema(set, start);
        rules
    }

    fn schema(&mut self, set: &PolicySet, start: usize) {
        let words = match vocabulary() {
            Ok(words) => words,
            Err(message) => return self.add(0, message),
        };
        let result =
            Validator::new(words.schema.clone()).validate_with_level(set, ValidationMode::Strict, MAX_DEREF_LEVEL);
        let mut faulty = BTreeSet::new();
        for error in result.validation_errors() {
            faulty.insert(error.policy_id());
            self.diagnostic(start, error);
        }
        // The other warnings are about letters of several scripts, which names of people and places may well mix.
        for warning in result.validation_warnings() {
            let grave = matches!(
                warning,
                ValidationWarning::ImpossiblePolicy(_)
                    | ValidationWarning::InvalidActionApplication(_)
                    | ValidationWarning::BidiCharsInString(_)
                    | ValidationWarning::BidiCharsInIdentifier(_)
            );
            // A rule with an unknown name is also impossible: one cause is enough.
            if grave && faulty.insert(warning.policy_id()) {
                self.diagnostic(start, warning);
            }
        }
    }

    /// What can only be said about the text as a whole.
    fn whole(&mut self, set: &PolicySet, rules: &HashMap<PolicyId, Rule>) {
        match set.num_of_policies() {
            0 => self.add(0, "the policy holds no rule, which would deny everything: say so with a forbid"),
            1..=MAX_RULES => {}
            more => self.add(0, format!("the policy holds {more} rules, more than {MAX_RULES}")),
        }
        let mut ordered: Vec<_> = rules.iter().collect();
        ordered.sort_by_key(|(_, rule)| rule.position);
        let mut seen = BTreeSet::new();
        for (id, rule) in ordered {
            if !seen.insert(rule.name.as_str()) {
                let offset = set.policy(id).map_or(0, offset_of);
                self.add(offset, format!("the id {} is taken by an earlier rule", rule.name));
            }
        }
    }

    fn into_violations(self) -> Vec<Violation> {
        let Self { text, found } = self;
        found
            .into_iter()
            .take(MAX_VIOLATIONS)
            .map(|(offset, message)| {
                let (line, column) = position(&text.text, offset);
                Violation { policy: text.name.clone(), line, column, message }
            })
            .collect()
    }
}

fn offset_of(policy: &cedar_policy::Policy) -> usize {
    AsRef::as_ref(policy).loc().map_or(0, |loc| loc.start())
}

/// Cedar names a rule by its position in what it was given, which may be one statement; line and column say it better.
fn without_generated_id(message: &str) -> &str {
    message.strip_prefix("for policy `policy").and_then(|rest| rest.split_once("`, ")).map_or(message, |(_, rest)| rest)
}
