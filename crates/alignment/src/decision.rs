use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::layer::Layer;
use crate::request::{Point, Request};

/// What was decided, from the mildest to the strictest; of several the strictest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Go ahead.
    Allow,
    /// Go ahead only once a human has approved exactly this.
    RequireApproval,
    /// Do not.
    Deny,
}

/// What the agent does next when it may not simply go ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guidance {
    /// Tell the user that this is refused.
    Refuse,
    /// Ask the user how to go on.
    Ask,
    /// Hand the task to a human.
    HandOver,
    /// Go on without this tool, model or step.
    ContinueWithout,
}

/// Whether a rule permits or forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// A `permit`.
    Permit,
    /// A `forbid`.
    Forbid,
}

/// One version of a policy that took part in a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRef {
    /// Its layer.
    pub layer: Layer,
    /// Its name.
    pub policy: String,
    /// Its version.
    pub version: i64,
    /// Its hash, `sha256:<hex>`.
    pub hash: String,
}

/// One rule of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRef {
    /// The policy's layer.
    pub layer: Layer,
    /// The policy's name.
    pub policy: String,
    /// The policy's version.
    pub version: i64,
    /// The rule's `@id`, or `policy<n>` with its position from 0 where it has none.
    pub rule: String,
    /// Whether it permits or forbids.
    pub effect: Effect,
}

/// Why something could not be evaluated. Each one outside `log_only` denies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The rule that failed; absent when the request or the stack itself was at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleRef>,
    /// What went wrong. Holds no argument text.
    pub message: String,
}

/// What it takes to approve. Of several permits that ask for approval the strictest counts in each respect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The group whose members may approve; none where the policy names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The rule that names the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_rule: Option<RuleRef>,
    /// Rules that name another group, which is not asked: approval by several groups is not supported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_groups: Vec<RuleRef>,
    /// How many have to approve, 1 to 16.
    pub needed: u32,
    /// How long the request stands, 1 minute to 30 days.
    #[serde(rename = "expires_after_s", serialize_with = "write_seconds", deserialize_with = "read_seconds")]
    pub expires_after: Duration,
}

fn write_seconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(time.as_secs())
}

fn read_seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    u64::deserialize(from).map(Duration::from_secs)
}

/// The decision record: what was asked, under which policies, what determined the answer, and the answer. Together
/// with the call's arguments it is enough to decide again under other policies (see [`Request::with_arguments`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The decision point.
    pub point: Point,
    /// The answer.
    pub verdict: Verdict,
    /// What the agent does next; always present with a deny, absent with an allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<Guidance>,
    /// The text for the agent that the determining rule carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What it takes to approve; present exactly where approval is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// What was asked. A tool call's arguments appear by digest and size only; the principal and end user by name.
    pub facts: Request,
    /// The policies of the sealed stack, or of the only one, from the platform down.
    pub policies: Vec<PolicyRef>,
    /// The platform's current policies, where they were consulted as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub current: Vec<PolicyRef>,
    /// The rules that led to the verdict: the forbids of a deny, the permits of an allow, those of the latter that ask
    /// for approval. Empty for a deny that comes from `unpermitted` or `errors` alone.
    pub determining: Vec<RuleRef>,
    /// The policies that neither permit nor forbid this, and so deny it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unpermitted: Vec<PolicyRef>,
    /// Forbids in log-only mode that would have denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_only: Vec<RuleRef>,
    /// Log-only forbids whose evaluation failed; they too would have denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_only_errors: Vec<Failure>,
    /// What failed. Not empty means deny.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Failure>,
}

impl Decision {
    /// Whether the action may go ahead without an approval.
    pub fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }
}
