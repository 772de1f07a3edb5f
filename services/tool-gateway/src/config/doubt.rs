use std::time::Duration;

use mar_runtime::config::Span;
use mar_runtime::violations::Violations;
use serde::{Deserialize, Serialize};

use super::UpstreamConfig;

const MAX_SETTLING: Duration = Duration::from_secs(3600);
const MIN_QUESTION: Duration = Duration::from_secs(60);
const MAX_QUESTION: Duration = Duration::from_secs(30 * 24 * 3600);
const MAX_GROUP: usize = 128;
const MAX_ARGUMENT: usize = 128;

/// `[tool_gateway.upstreams.<name>.tools.<tool>.doubt]`: how a call is resolved that was issued and of which nobody knows
/// whether it took effect. A tool that is idempotent is repeated first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DoubtConfig {
    /// A read-only tool of the same upstream that says whether a call took effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeConfig>,
    /// What happens when nobody can say: `tell_model` by default.
    pub on_unknown: OnUnknown,
    /// `ask_human`: the group that may decide; anybody of the tenant but the run's own principal by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `ask_human`: how long the question stands before the model is told, 1 h by default, 1 minute to 30 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_after: Option<Span>,
}

/// `[tool_gateway.upstreams.<name>.tools.<tool>.doubt.probe]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeConfig {
    /// Its name without the upstream's. It has to be declared `read_only`.
    pub tool: String,
    /// The argument that takes the idempotency key of the call in doubt.
    pub key_argument: String,
    /// How long after its issue a call may still take effect: what has not happened before that may still happen. The
    /// upstream's `timeout` by default, at most 1 h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settles_after: Option<Span>,
}

/// What happens to a call of which nobody can say whether it took effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// The model is told that the outcome is unknown.
    #[default]
    TellModel,
    /// A human decides: approving issues the call again with the same key, denying tells the model.
    AskHuman,
}

impl DoubtConfig {
    /// How long a human's decision is waited for.
    pub fn question(&self) -> Duration {
        self.expires_after.map_or(MAX_SETTLING, |span| span.0)
    }
}

impl UpstreamConfig {
    /// What the operator declares about calls of `tool` whose outcome nobody knows.
    pub fn doubt(&self, tool: &str) -> Option<&DoubtConfig> {
        self.tools.get(tool)?.doubt.as_ref()
    }

    pub(super) fn validate_doubts(&self, violations: &mut Violations) {
        for (tool, doubt) in self.tools.iter().filter_map(|(tool, config)| Some((tool, config.doubt.as_ref()?))) {
            violations.within(&format!("{tool}.doubt"), |found| {
                let asks = doubt.on_unknown == OnUnknown::AskHuman;
                found.require(asks || doubt.group.is_none(), "group", "belongs to on_unknown = \"ask_human\"");
                let named = doubt
                    .group
                    .as_ref()
                    .is_none_or(|group| (1..=MAX_GROUP).contains(&group.len()) && !group.chars().any(char::is_control));
                found.require(named, "group", format!("must be 1 to {MAX_GROUP} bytes without control characters"));
                let key = "expires_after";
                found.require(asks || doubt.expires_after.is_none(), key, "belongs to on_unknown = \"ask_human\"");
                let lasts = (MIN_QUESTION..=MAX_QUESTION).contains(&doubt.question());
                found.require(lasts, key, "must be 1m to 30d");
                if let Some(probe) = &doubt.probe {
                    found.within("probe", |found| self.validate_probe(tool, probe, found));
                }
            });
        }
    }

    fn validate_probe(&self, tool: &str, probe: &ProbeConfig, found: &mut Violations) {
        let other = !probe.tool.is_empty() && probe.tool != tool;
        found.require(other, "tool", "must name another tool of this upstream");
        let harmless = self.is_read_only(&probe.tool);
        found.require(!other || harmless, "tool", "must name a tool that is declared read_only");
        let fits = (1..=MAX_ARGUMENT).contains(&probe.key_argument.len());
        found.require(fits, "key_argument", format!("must be 1 to {MAX_ARGUMENT} bytes"));
        let settles = probe.settles_after.is_none_or(|span| span.0 <= MAX_SETTLING);
        found.require(settles, "settles_after", "must be at most 1h");
    }
}
