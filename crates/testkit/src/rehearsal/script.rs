//! The script file: an ordered list of rules, each with what it matches and what it replies.

mod check;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mar_runtime::config::{from_toml, toml_fault};
use mar_runtime::violations::{Violation, Violations};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

/// Why a script is refused. Every text names the rule and the key.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// The file cannot be read.
    #[error("cannot read the script {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The text is not TOML.
    #[error("the script is not TOML: {0}")]
    Syntax(String),
    /// Unknown keys, wrong types and values that make no sense, each of them.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Mistake>),
}

/// One thing that is wrong with a script.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct Mistake {
    /// The rule and the key path, as in ``rule 2 `search` (rule[1].match.regex)``.
    pub place: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A checked script. [`Script::default`] plays a plain agent; [`Script::parse`] reads the format of `docs/rehearsal.md`.
#[derive(Debug, Clone)]
pub struct Script {
    pub(super) models: Vec<String>,
    pub(super) api_key: Option<String>,
    pub(super) journal: usize,
    pub(super) rules: Vec<Rule>,
}

impl Script {
    /// Reads a script from TOML.
    ///
    /// # Errors
    /// Unknown and missing keys, wrong types, a reply without or with two contents, a regex or placeholder that does not work:
    /// all that is wrong, each on one line.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        let file: toml::Table = text.parse().map_err(|error| ScriptError::Syntax(toml_fault(text, &error)))?;
        let (rules, head): (toml::Table, toml::Table) = file.into_iter().partition(|(key, _)| key == "rule");
        let mut wrong = Vec::new();
        let head: Option<Head> = read(toml::Value::Table(head), "script", "", &mut wrong);
        let rules = match rules.into_iter().next() {
            None => Vec::new(),
            Some((_, toml::Value::Array(rules))) => rules,
            Some(_) => {
                wrong.push(mistake("script (rule)", "must be a list of tables, as in [[rule]]"));
                return Err(ScriptError::Invalid(wrong));
            }
        };
        if rules.is_empty() {
            wrong.push(mistake("script (rule)", "at least one [[rule]] is needed"));
        }
        let no_pace = Pace::default();
        let pace = head.as_ref().map_or(&no_pace, |head| &head.defaults);
        let read_rule = |(at, rule)| Rule::read(at, rule, pace, &mut wrong);
        let rules: Vec<_> = rules.into_iter().enumerate().filter_map(read_rule).collect();
        let mut names = HashSet::new();
        for rule in &rules {
            if !names.insert(rule.name.as_str()) {
                wrong.push(mistake("script (rule)", format!("two rules are named `{}`", rule.name)));
            }
        }
        match head {
            Some(head) if wrong.is_empty() => {
                Ok(Self { models: head.models, api_key: head.api_key, journal: head.journal, rules })
            }
            _ => Err(ScriptError::Invalid(wrong)),
        }
    }

    /// Reads a script file.
    ///
    /// # Errors
    /// As [`Script::parse`], and when the file cannot be read.
    pub fn load(path: &Path) -> Result<Self, ScriptError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScriptError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Demands `Authorization: Bearer <key>` from clients.
    #[must_use]
    pub fn with_api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// The models that the server lists.
    #[must_use]
    pub fn models(&self) -> Vec<String> {
        if self.models.is_empty() { vec!["rehearsal".to_owned()] } else { self.models.clone() }
    }
}

impl Default for Script {
    fn default() -> Self {
        let reply = Reply { agent: true, ..Reply::default() };
        let rule = Rule {
            name: "agent".into(),
            matches: Match::default(),
            regex: None,
            times: None,
            times_per_conversation: None,
            reply,
        };
        Self { models: Vec::new(), api_key: None, journal: default_journal(), rules: vec![rule] }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    #[serde(default)]
    models: Vec<String>,
    api_key: Option<String>,
    #[serde(default = "default_journal")]
    journal: usize,
    #[serde(default)]
    defaults: Pace,
}

fn default_journal() -> usize {
    1_000
}

/// Pace for rules that do not set their own.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pace {
    #[serde(default, with = "humantime_serde::option")]
    delay: Option<Duration>,
    #[serde(default, with = "humantime_serde::option")]
    chunk_delay: Option<Duration>,
    chunk_size: Option<usize>,
}

/// One rule, checked.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) matches: Match,
    pub(super) regex: Option<Regex>,
    pub(super) times: Option<u64>,
    pub(super) times_per_conversation: Option<u64>,
    pub(super) reply: Reply,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: Option<String>,
    #[serde(default, rename = "match")]
    matches: Match,
    times: Option<u64>,
    times_per_conversation: Option<u64>,
    reply: Reply,
}

/// What a request must have; all that is given must hold.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Match {
    pub(super) contains: Option<String>,
    pub(super) regex: Option<String>,
    pub(super) tool_result_contains: Option<String>,
    pub(super) last_role: Option<Role>,
    pub(super) turn: Option<usize>,
    pub(super) model: Option<String>,
    pub(super) has_schema: Option<bool>,
    pub(super) has_tools: Option<bool>,
    pub(super) stream: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

impl Role {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// What a rule answers, and how.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reply {
    pub(super) text: Option<String>,
    pub(super) json: Option<Value>,
    #[serde(default)]
    pub(super) tool_calls: Vec<ScriptedCall>,
    #[serde(default)]
    pub(super) echo: bool,
    pub(super) from_tool_result: Option<String>,
    #[serde(default)]
    pub(super) from_schema: bool,
    #[serde(default)]
    pub(super) agent: bool,
    pub(super) error: Option<ScriptedError>,
    #[serde(default)]
    pub(super) hang: bool,

    pub(super) garbage: Option<String>,
    pub(super) garbage_hex: Option<String>,
    pub(super) cut_after: Option<usize>,
    pub(super) hang_after: Option<usize>,
    #[serde(default, with = "humantime_serde::option")]
    pub(super) delay: Option<Duration>,
    #[serde(default, with = "humantime_serde::option")]
    pub(super) chunk_delay: Option<Duration>,
    pub(super) chunk_size: Option<usize>,
    pub(super) usage: Option<ScriptedUsage>,
    #[serde(default)]
    pub(super) no_usage: bool,
    pub(super) finish_reason: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScriptedCall {
    pub(super) name: String,
    /// A table, or a string that is sent as it stands, broken JSON included.
    #[serde(default)]
    pub(super) arguments: Value,
    pub(super) id: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScriptedError {
    pub(super) status: u16,
    pub(super) body: Option<Value>,
    #[serde(default, with = "humantime_serde::option")]
    pub(super) retry_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScriptedUsage {
    pub(super) input: Option<u64>,
    pub(super) output: Option<u64>,
}

impl Rule {
    /// The rule, unless it is of another form; what is wrong with it goes into the list.
    fn read(at: usize, rule: toml::Value, pace: &Pace, wrong: &mut Vec<Mistake>) -> Option<Self> {
        let label = match rule.get("name").and_then(toml::Value::as_str) {
            Some(name) => format!("rule {} `{name}`", at + 1),
            None => format!("rule {}", at + 1),
        };
        let path = format!("rule[{at}]");
        let raw: RawRule = read(rule, &label, &path, wrong)?;
        let mut refuse = |key: &str, reason: String| wrong.push(mistake(format!("{label} ({path}.{key})"), reason));
        for (key, reason) in check::reply(&raw.reply) {
            refuse(&format!("reply{key}"), reason);
        }
        for (key, times) in [("times", raw.times), ("times_per_conversation", raw.times_per_conversation)] {
            if times == Some(0) {
                refuse(key, "must be 1 or more; leave it out for a rule without end".into());
            }
        }
        let regex = raw.matches.regex.as_deref().map(check::regex).transpose();
        let regex = regex.unwrap_or_else(|reason| {
            refuse("match.regex", reason);
            None
        });
        let mut reply = raw.reply;
        reply.delay = reply.delay.or(pace.delay);
        reply.chunk_delay = reply.chunk_delay.or(pace.chunk_delay);
        reply.chunk_size = reply.chunk_size.or(pace.chunk_size);
        Some(Self {
            name: raw.name.unwrap_or_else(|| format!("rule {}", at + 1)),
            matches: raw.matches,
            regex,
            times: raw.times,
            times_per_conversation: raw.times_per_conversation,
            reply,
        })
    }
}

impl Reply {
    /// The bytes of `garbage` or `garbage_hex`.
    pub(super) fn garbage(&self) -> Option<Vec<u8>> {
        let hex = self.garbage_hex.as_deref().and_then(check::decode_hex);
        self.garbage.as_ref().map(|text| text.clone().into_bytes()).or(hex)
    }
}

fn read<T: serde::de::DeserializeOwned>(
    value: toml::Value,
    label: &str,
    prefix: &str,
    wrong: &mut Vec<Mistake>,
) -> Option<T> {
    let refuse = |found: Violations| {
        for Violation { field, description } in found.iter() {
            let path = format!("{prefix}.{}", check::indexed(field));
            wrong.push(mistake(format!("{label} ({})", path.trim_matches('.')), description));
        }
    };
    from_toml(&value).map_err(refuse).ok()
}

fn mistake(place: impl Into<String>, reason: impl Into<String>) -> Mistake {
    Mistake { place: place.into(), reason: reason.into() }
}

#[cfg(test)]
mod tests;
